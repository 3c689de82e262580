//! What the kernel tells of the machine, as text in `/proc` and `/sys`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The machine whose files lie below a folder: `/`, or a copy of one in tests.
pub(super) struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self::below("/")
    }
}

impl Machine {
    /// The machine whose `proc` and `sys` are in `root`.
    pub(super) fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.join(file.trim_start_matches('/'))
    }

    /// A file's text without the white space around it; [`None`] where there is none to be read.
    pub(super) fn text(&self, file: &str) -> Option<String> {
        Some(fs::read_to_string(self.path(file)).ok()?.trim().to_owned())
    }

    /// A file that holds one number.
    pub(super) fn number(&self, file: &str) -> Option<i64> {
        self.text(file)?.parse().ok()
    }

    pub(super) fn exists(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// The names in a folder, sorted; none where there is no such folder.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The last part of what a symbolic link names: the driver of a device, the bridge of a port.
    pub(super) fn link(&self, file: &str) -> Option<String> {
        let target = fs::read_link(self.path(file)).ok()?;
        Some(Path::new(&target).file_name()?.to_string_lossy().into_owned())
    }

    /// A list of cores such as `2-5,8`; none where there is no such file.
    pub(super) fn cores(&self, file: &str) -> BTreeSet<usize> {
        parse_cores(&self.text(file).unwrap_or_default())
    }

    /// Bytes in huge pages, free and in all.
    pub(super) fn huge_bytes(&self) -> (u64, u64) {
        let folder = "/sys/kernel/mm/hugepages";
        let mut sums = (0, 0);
        for name in self.names(folder) {
            let kib = name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB"));
            let Some(kib) = kib.and_then(|kib| kib.parse::<u64>().ok()) else { continue };
            let pages = |file: &str| {
                let count = self.number(&format!("{folder}/{name}/{file}")).unwrap_or(0);
                u64::try_from(count).unwrap_or(0)
            };
            sums.0 += pages("free_hugepages") * kib * 1024;
            sums.1 += pages("nr_hugepages") * kib * 1024;
        }
        sums
    }

    /// The interfaces over which IPv4 routes lead, and whether one of them is the default route.
    pub(super) fn routes(&self) -> Vec<(String, bool)> {
        let text = self.text("/proc/net/route").unwrap_or_default();
        let rows = text.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.to_owned(), fields.next()? == "00000000"))
        });
        rows.collect()
    }

    /// The IPv6 addresses of an interface that are not link-local.
    pub(super) fn has_ipv6_address(&self, interface: &str) -> bool {
        let text = self.text("/proc/net/if_inet6").unwrap_or_default();
        text.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.len() == 6 && fields[5] == interface && !fields[0].starts_with("fe80")
        })
    }
}

/// `2-5,8` and the like; what is no number is left out.
fn parse_cores(text: &str) -> BTreeSet<usize> {
    let mut cores = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>())
        {
            // More cores than any machine has would be nonsense in the file.
            cores.extend(first..=last.min(first.saturating_add(8191)));
        }
    }
    cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_and_nonsense_is_left_out() {
        let cores: Vec<usize> = parse_cores("2-4,8").into_iter().collect();
        assert_eq!(cores, [2, 3, 4, 8]);
        assert!(parse_cores("").is_empty() && parse_cores("(null)").is_empty());
        assert!(parse_cores("5-2").is_empty());
        assert_eq!(parse_cores("0-18446744073709551615").len(), 8192);
    }

    #[test]
    fn a_machine_without_files_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::below(dir.path());
        assert_eq!(machine.huge_bytes(), (0, 0));
        assert!(machine.routes().is_empty() && machine.names("/sys/class/net").is_empty());
        assert!(machine.link("/sys/class/net/eth0/master").is_none());
    }
}
