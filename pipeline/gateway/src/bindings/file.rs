//! The bindings over a restart: a small file in the state directory, replaced in one step.

use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bulkhead_pipeline::bindings::BindingTable;
use bulkhead_pipeline::bindings::observation::is_possible;
use bulkhead_pipeline::bindings::table::{Binding, Network, Origin};
use bulkhead_rules::headers::{Mac, VlanTags, WireId};
use serde::{Deserialize, Serialize};

use crate::candidate::unix_now_ms;
use crate::state::Gateway;

/// The file's name in the state directory.
pub const NAME: &str = "bindings.json";

/// The longest file that is read, in bytes: more than the largest table takes.
const MAX_BYTES: u64 = 256 << 20;

const VERSION: u32 = 1;

/// What the file holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    version: u32,
    written_unix_ms: Option<i64>,
    bindings: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    wire: String,
    vlan: [u16; 2],
    address: IpAddr,
    mac: [u8; 6],
    inside: bool,
    by_dhcp: bool,
    /// Milliseconds that were left when the file was written; absent for ever.
    left_ms: Option<u64>,
}

impl File {
    /// What is to be kept of a table.
    pub fn of(gateway: &Gateway, table: &BindingTable) -> Self {
        let now_ms = gateway.uptime_ms();
        let entry = |(network, address, binding): (Network, IpAddr, &Binding)| {
            let wire = gateway.config.wires.get(usize::from(binding.wire.0))?;
            Some(Entry {
                wire: wire.name.clone(),
                vlan: [network.tags.outer, network.tags.inner],
                address,
                mac: binding.mac.0,
                inside: binding.inside,
                by_dhcp: binding.origin == Origin::Dhcp,
                left_ms: binding.expires_ms.map(|at_ms| at_ms.saturating_sub(now_ms)),
            })
        };
        let bindings = table.iter().filter_map(entry).collect();
        Self { version: VERSION, written_unix_ms: unix_now_ms(), bindings }
    }

    /// Replaces what was kept before.
    ///
    /// # Errors
    ///
    /// What the file system says; what was kept before is then kept on.
    pub fn write(&self, state_dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(state_dir)?;
        let unfinished = state_dir.join(format!("{NAME}.new"));
        let options =
            fs::File::options().write(true).create(true).truncate(true).mode(0o640).clone();
        let mut file = options.open(&unfinished)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, path(state_dir))?;
        fs::File::open(state_dir)?.sync_all()
    }

    /// What was kept; [`None`] where nothing was. A damaged file is set aside.
    ///
    /// # Errors
    ///
    /// A sentence: what is wrong with the file and where it is now.
    pub fn read(state_dir: &Path) -> Result<Option<Self>, String> {
        let path = path(state_dir);
        let mut bytes = Vec::new();
        let read =
            fs::File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(format!(
                    "cannot read {}: {error}; bindings are learnt anew",
                    path.display()
                ));
            }
            Ok(_) => {}
        }
        let why = match serde_json::from_slice::<Self>(&bytes) {
            _ if bytes.len() as u64 > MAX_BYTES => "it is too long".to_owned(),
            Ok(file) if file.version == VERSION => return Ok(Some(file)),
            Ok(file) => format!("it is of version {}", file.version),
            Err(error) => error.to_string(),
        };
        let aside = state_dir.join(format!("{NAME}.damaged"));
        let now = match fs::rename(&path, &aside) {
            Ok(()) => format!("it is now {}", aside.display()),
            Err(error) => format!("it could not be set aside: {error}"),
        };
        Err(format!("{} is of no use: {why}; {now}, and bindings are learnt anew", path.display()))
    }

    /// Puts what still holds into the table. Returns how many bindings that are.
    pub fn restore(&self, gateway: &Gateway, table: &mut BindingTable) -> usize {
        let now_ms = gateway.uptime_ms();
        let away_ms = match (self.written_unix_ms, unix_now_ms()) {
            (Some(then), Some(now)) => u64::try_from(now.saturating_sub(then)).unwrap_or(0),
            _ => 0,
        };
        let config = &gateway.config;
        let mut restored = 0;
        for entry in &self.bindings {
            let wire = config.wires.iter().position(|wire| wire.name == entry.wire);
            let left_ms = entry.left_ms.map(|left| left.saturating_sub(away_ms));
            let mac = Mac(entry.mac);
            let is_sound = left_ms != Some(0) && !mac.is_group() && is_possible(entry.address);
            let Some(wire) = wire.filter(|_| is_sound) else {
                continue;
            };
            let number = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
            let [outer, inner] = entry.vlan;
            let tags = VlanTags { outer, inner };
            let network = Network { group: number(config.group_of(wire)), tags };
            let binding = Binding {
                mac,
                inside: entry.inside,
                wire: WireId(number(wire)),
                origin: if entry.by_dhcp { Origin::Dhcp } else { Origin::Announced },
                since_ms: now_ms,
                // What the policy gave for ever is its word no more, until it says so again.
                expires_ms: match (left_ms, entry.by_dhcp) {
                    (None, false) => Some(now_ms.saturating_add(config.bindings.table.age_ms)),
                    (left_ms, _) => left_ms.map(|left| now_ms.saturating_add(left)),
                },
            };
            restored += usize::from(table.restore((network, entry.address), binding, now_ms));
        }
        restored
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        let entry = Entry {
            wire: "line".to_owned(),
            vlan: [30, 0],
            address: IpAddr::from([10, 0, 0, 1]),
            mac: [2, 0, 0, 0, 0, 7],
            inside: true,
            by_dhcp: true,
            left_ms: Some(1000),
        };
        File { version: VERSION, written_unix_ms: Some(5), bindings: vec![entry] }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert_eq!(File::read(&state), Ok(None));
        file().write(&state).unwrap();
        file().write(&state).unwrap();
        assert_eq!(File::read(&state), Ok(Some(file())));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let newer = serde_json::to_string(&File { version: 2, ..file() }).unwrap();
        for text in ["{\"version\":1,", "", &newer] {
            fs::write(dir.path().join(NAME), text).unwrap();
            let error = File::read(dir.path()).unwrap_err();
            assert!(error.contains("bindings.json.damaged"), "{error}");
            assert_eq!(File::read(dir.path()), Ok(None));
        }
    }
}
