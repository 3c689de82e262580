//! Who made a device, by the first bytes of its MAC address.
//!
//! The list is IEEE's as Debian's package `ieee-data` installs it; without it, vendors stay unknown.
//! An address that somebody chose, rather than a maker, has none.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use bulkhead_rules::headers::Mac;

/// Where the list may be.
const PATHS: [&str; 2] = ["/usr/share/ieee-data/oui.txt", "/var/lib/ieee-data/oui.txt"];

/// The most makers that are read, and the longest name in characters.
const MAX_VENDORS: usize = 100_000;
const MAX_NAME_CHARS: usize = 80;

/// Makers by the first three bytes of their addresses.
#[derive(Clone, Debug, Default)]
pub struct Vendors(HashMap<[u8; 3], String>);

impl Vendors {
    /// The list of this machine; empty where there is none.
    pub fn of_this_machine() -> Self {
        PATHS.iter().find_map(|path| Self::read(Path::new(path)).ok()).unwrap_or_default()
    }

    /// Reads a list in IEEE's format: lines such as `28-6F-B9 (hex) Nokia`.
    ///
    /// # Errors
    ///
    /// What the file system answers.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let mut vendors = HashMap::new();
        let reader = BufReader::new(File::open(path)?);
        for line in reader.split(b'\n').take(MAX_VENDORS * 8) {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            let Some((prefix, name)) = line.split_once("(hex)") else { continue };
            let Some(prefix) = prefix_of(prefix.trim()) else { continue };
            let name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
            if vendors.len() < MAX_VENDORS {
                vendors.insert(prefix, name.chars().take(MAX_NAME_CHARS).collect());
            }
        }
        Ok(Self(vendors))
    }

    /// The maker of a device.
    pub fn of(&self, mac: Mac) -> Option<&str> {
        let [a, b, c, ..] = mac.0;
        let chosen = a & 0b10 != 0;
        self.0.get(&[a, b, c]).filter(|_| !chosen).map(String::as_str)
    }
}

fn prefix_of(text: &str) -> Option<[u8; 3]> {
    let mut parts = text.split('-').map(|part| u8::from_str_radix(part, 16).ok());
    let prefix = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_are_read_from_ieees_format() {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|e| panic!("{e}"));
        let text =
            "OUI/MA-L\n00-1B-1B   (hex)\t\tSiemens AG,\r\n001B1B     (base 16)\t\tSiemens AG,\n";
        std::fs::write(file.path(), text).unwrap_or_else(|e| panic!("{e}"));
        let vendors = Vendors::read(file.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(vendors.of(Mac([0, 0x1b, 0x1b, 1, 2, 3])), Some("Siemens AG,"));
        assert_eq!(vendors.of(Mac([2, 0x1b, 0x1b, 1, 2, 3])), None);
        assert!(Vendors::read(Path::new("/nowhere")).is_err());
    }
}
