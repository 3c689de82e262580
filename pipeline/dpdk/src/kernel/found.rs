//! How an interface was before anything of Bulkhead changed it: kept in a file until it is so again, because
//! whoever changed it may not be there any more. A gateway that is renewed hands its interfaces over as they
//! are, one that was killed hands over nothing, and a bypass outlives every process.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::netlink::{Link, Rtnetlink};
use super::sys::{Ethtool, Offload};

/// The file beside which the notes are. Without it whoever changes an interface knows by itself alone.
static BESIDE: OnceLock<PathBuf> = OnceLock::new();

/// Names of the notes: that file's name, and this before and after the interface's own name, which has no `/`.
const BEFORE: &str = ".interface-";
const AFTER: &str = ".found";

/// The most bytes of a file that are read.
const MAX_BYTES: u64 = 4096;

/// Keeps beside a file how interfaces were found, under its name: gateways may share a folder. It belongs where
/// nothing outlives a boot; what is from another boot is not believed. Set once: a process has one gateway.
pub fn keep_found_beside(file: &Path) {
    let _ = BESIDE.set(file.to_path_buf());
}

/// How an interface was found, as far as that was changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Found {
    index: u32,
    name: String,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// Offloads that were on, and were turned off.
    pub(super) offloads: Vec<Offload>,
    /// The veth peer that took tags out of frames.
    pub(super) peer: Option<String>,
    /// Queues: receiving, sending, other, combined.
    pub(super) channels: Option<[u32; 4]>,
    /// Whether the host's own IPv6 was on, and was turned off.
    pub(super) ipv6: bool,
}

impl Found {
    /// How the interface was found first: as is written down, or else as it is now.
    pub(super) fn of(link: &Link) -> Self {
        let known = BESIDE.get().and_then(|beside| Self::read(beside, &link.name));
        known.filter(|known| known.index == link.index).unwrap_or_else(|| Self {
            index: link.index,
            name: link.name.clone(),
            mtu: link.mtu,
            up: link.up,
            ..Self::default()
        })
    }

    /// Notes something before it is changed. Where that cannot be written down, only this process will put it
    /// back: what is returned says so.
    pub(super) fn note(&mut self, what: impl FnOnce(&mut Self)) -> Option<String> {
        let before = self.clone();
        what(self);
        let place = place(BESIDE.get()?, &self.name);
        // What has been noted by a process before this one is there.
        if *self == before && place.exists() {
            return None;
        }
        let error = self.write(&place).err()?;
        Some(format!(
            "how the interface was found cannot be written down in {}: {error}; where this gateway is renewed or \
             killed, nobody puts it back",
            place.display()
        ))
    }

    /// Puts back what was changed. What cannot be put back (the interface may be gone) stays: there is nobody
    /// left to tell.
    pub(super) fn put_back(&self, rtnetlink: &mut Rtnetlink, ethtool: &Ethtool) {
        if let Ok(link) = rtnetlink.link_by_index(self.index) {
            if link.mtu != self.mtu {
                let _ = rtnetlink.set_mtu(self.index, self.mtu);
            }
            if link.up != self.up {
                let _ = rtnetlink.set_up(self.index, self.up);
            }
        }
        if let (Some([rx, tx, other, combined]), Ok(now)) =
            (self.channels, ethtool.channels(&self.name))
        {
            let mut then = now;
            (then.rx, then.tx, then.other, then.combined) = (rx, tx, other, combined);
            if then != now {
                let _ = ethtool.set_channels(&self.name, then);
            }
        }
        for &offload in &self.offloads {
            let _ = ethtool.set_offload(&self.name, offload, true);
        }
        if let Some(peer) = &self.peer {
            let _ = ethtool.set_offload(peer, Offload::TxVlan, true);
        }
        if self.ipv6 {
            let _ = fs::write(ipv6_switch(&self.name), "0");
        }
        self.forget();
    }

    /// Lets the interface be as it is now.
    pub(super) fn forget(&self) {
        if let Some(beside) = BESIDE.get() {
            let _ = fs::remove_file(place(beside, &self.name));
        }
    }

    /// What is written down of interfaces that exist still.
    pub(super) fn all(rtnetlink: &mut Rtnetlink) -> Vec<Self> {
        let Some(beside) = BESIDE.get() else { return Vec::new() };
        let found =
            interfaces_noted(beside).into_iter().filter_map(|name| Self::read(beside, &name));
        found
            .filter(|found| {
                rtnetlink.link_by_name(&found.name).is_ok_and(|l| l.index == found.index)
            })
            .collect()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn write(&self, place: &Path) -> io::Result<()> {
        let unfinished = place.with_extension("new");
        // Root writes here, too, in a folder of the gateway's user: never through a link that lies there.
        let _ = fs::remove_file(&unfinished);
        fs::File::create_new(&unfinished)?.write_all(self.to_text().as_bytes())?;
        fs::rename(&unfinished, place)
    }

    fn read(beside: &Path, name: &str) -> Option<Self> {
        let path = place(beside, name);
        let is_small = fs::metadata(&path).is_ok_and(|file| file.len() <= MAX_BYTES);
        let text = is_small.then(|| fs::read_to_string(&path).ok()).flatten()?;
        Self::from_text(&text, name)
    }

    fn to_text(&self) -> String {
        let mut text = format!("of {}\nindex {}\nmtu {}\n", of_now(), self.index, self.mtu);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "up {}\nipv6 {}", u8::from(self.up), u8::from(self.ipv6));
        for offload in &self.offloads {
            let _ = writeln!(text, "offload {offload:?}");
        }
        if let Some(peer) = &self.peer {
            let _ = writeln!(text, "peer {peer}");
        }
        if let Some([rx, tx, other, combined]) = self.channels {
            let _ = writeln!(text, "channels {rx} {tx} {other} {combined}");
        }
        text
    }

    /// What a text says; nothing where it is of another boot or namespace, or anything in it makes no sense.
    fn from_text(text: &str, name: &str) -> Option<Self> {
        let mut found = Self { name: name.to_owned(), ..Self::default() };
        let mut is_of_now = false;
        for line in text.lines() {
            let (key, value) = line.split_once(' ')?;
            match key {
                "of" => is_of_now = value == of_now(),
                "index" => found.index = value.parse().ok()?,
                "mtu" => found.mtu = value.parse().ok()?,
                "up" => found.up = value == "1",
                "ipv6" => found.ipv6 = value == "1",
                "offload" => {
                    let all = [Offload::Gro, Offload::Lro, Offload::RxVlan];
                    found.offloads.push(all.into_iter().find(|o| format!("{o:?}") == value)?);
                }
                "peer" => found.peer = Some(value.to_owned()),
                "channels" => {
                    let numbers: Result<Vec<u32>, _> = value.split(' ').map(str::parse).collect();
                    found.channels = Some(numbers.ok()?.try_into().ok()?);
                }
                _ => return None,
            }
        }
        (is_of_now && found.index != 0 && found.mtu != 0).then_some(found)
    }
}

/// The switch of the host's own IPv6 at an interface: `1` is off.
pub(super) fn ipv6_switch(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
}

/// The boot and the network namespace: interfaces of others may have the same names and numbers.
fn of_now() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

/// The interfaces of which there is a note beside a file.
fn interfaces_noted(beside: &Path) -> Vec<String> {
    let before = name_before(beside);
    let entries = beside.parent().and_then(|folder| fs::read_dir(folder).ok());
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_prefix(&before)?.strip_suffix(AFTER)?.to_owned())
    });
    names.collect()
}

fn place(beside: &Path, name: &str) -> PathBuf {
    beside.with_file_name(format!("{}{name}{AFTER}", name_before(beside)))
}

fn name_before(beside: &Path) -> String {
    format!("{}{BEFORE}", beside.file_name().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_and_nothing_else_is_believed() {
        let found = Found {
            index: 7,
            name: "eth1".to_owned(),
            mtu: 1500,
            up: true,
            offloads: vec![Offload::Gro, Offload::RxVlan],
            peer: Some("eth9".to_owned()),
            channels: Some([0, 0, 1, 4]),
            ipv6: true,
        };
        let text = found.to_text();
        assert_eq!(Found::from_text(&text, "eth1"), Some(found));
        let of = text.lines().next().unwrap_or_default();
        for wrong in [
            text.replace(of, "of another boot"),
            text.replace("mtu 1500", "mtu many"),
            text.replace("mtu 1500\n", ""),
            text.replace("offload Gro", "offload Tso"),
            text.replace("channels 0 0", "channels 0"),
            format!("{text}more\n"),
            String::new(),
        ] {
            assert_eq!(Found::from_text(&wrong, "eth1"), None, "{wrong}");
        }
    }

    #[test]
    fn gateways_that_share_a_folder_know_their_own_notes() {
        let dir = std::env::temp_dir().join(format!("bulkhead-found-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let [one, other] = ["one.sock", "other.sock"].map(|name| dir.join(name));
        let found = Found { index: 7, name: "eth1".to_owned(), mtu: 1500, ..Found::default() };
        found.write(&place(&one, "eth1")).unwrap();
        assert_eq!(Found::read(&one, "eth1"), Some(found));
        assert_eq!(Found::read(&other, "eth1"), None);
        assert_eq!(interfaces_noted(&one), ["eth1"]);
        assert_eq!(interfaces_noted(&other), [""; 0]);
        fs::remove_dir_all(&dir).unwrap();
    }
}
