//! What a trace copied, as a capture file: pcapng, an interface for each side of a wire, and at every
//! packet a comment that says what became of it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::TracedPacket;
use crate::export::pcapng::{enhanced_packet, interface_description, section_header};

/// A capture file under construction.
#[derive(Debug)]
pub struct CaptureFile<W: Write> {
    out: W,
    interfaces: HashMap<String, u32>,
    buffer: Vec<u8>,
}

impl CaptureFile<BufWriter<File>> {
    /// Makes a file that only its owner reads; one that is there is replaced, not written over: whoever
    /// may read that one, or has it open, sees nothing of this one. A pipe of one's own is written to. A
    /// link is not followed: whoever may write the folder would choose where what hosts said goes.
    ///
    /// # Errors
    ///
    /// What the file system says, or that something is there that is no file.
    pub fn create(path: &Path) -> io::Result<Self> {
        let kind = match path.symlink_metadata() {
            Ok(there) if there.file_type().is_fifo() && there.uid() == geteuid().as_raw() => {
                return Self::new(BufWriter::new(File::options().write(true).open(path)?));
            }
            Ok(there) => Some(there.file_type()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if kind.is_some_and(|kind| !kind.is_file()) {
            let why =
                "there is something that is no file (a link is not followed): name another one";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(format!(".{}", std::process::id()));
        let unfinished = PathBuf::from(unfinished);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let made = fs::rename(&unfinished, path).and_then(|()| Self::new(BufWriter::new(file)));
        if made.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        made
    }
}

impl<W: Write> CaptureFile<W> {
    /// Begins a capture.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut buffer = Vec::new();
        section_header(&mut buffer);
        out.write_all(&buffer)?;
        Ok(Self { out, interfaces: HashMap::new(), buffer })
    }

    /// Appends a packet. One that goes on elsewhere, in another worker or once its first fragment has
    /// come, is left out: it is told again there. Returns whether it was appended.
    ///
    /// # Errors
    ///
    /// What the writer says; bytes that are no base64.
    pub fn append(&mut self, packet: &TracedPacket) -> io::Result<bool> {
        use base64::Engine as _;
        if matches!(packet.fate.as_str(), "handed-over" | "kept-back") {
            return Ok(false);
        }
        let bytes = base64::engine::general_purpose::STANDARD.decode(&packet.bytes);
        let bytes = bytes.map_err(io::Error::other)?;
        self.buffer.clear();
        let name = format!("{} {}", packet.wire, packet.side);
        let next = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let buffer = &mut self.buffer;
        let interface = *self.interfaces.entry(name).or_insert_with_key(|name| {
            interface_description(buffer, name);
            next
        });
        let micros = u64::try_from(packet.unix_ms).unwrap_or(0).saturating_mul(1000);
        enhanced_packet(buffer, interface, micros, (&bytes, packet.len), &comment(packet));
        self.out.write_all(buffer)?;
        Ok(true)
    }

    /// What it is written to.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// The same, with nothing more to be written.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn comment(packet: &TracedPacket) -> String {
    let rule = packet.rule.as_deref().unwrap_or("no rule");
    let verdict = packet.verdict.as_deref().unwrap_or("not judged");
    let reason = packet.reason.as_ref().map_or_else(String::new, |r| format!(", reason: {r}"));
    format!("{}: {verdict}, rule: {rule}{reason}, {}", packet.id, packet.fate)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_capture_is_a_new_file_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let old = at("a.pcapng");
        fs::write(&old, "old").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).unwrap();
        let mut opened = File::open(&old).unwrap();
        CaptureFile::create(&old).unwrap().flush().unwrap();
        let made = fs::metadata(&old).unwrap();
        assert_eq!(made.permissions().mode() & 0o777, 0o600);
        assert!(fs::read(&old).unwrap().starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
        let mut seen = String::new();
        io::Read::read_to_string(&mut opened, &mut seen).unwrap();
        assert_eq!(seen, "old", "who had the file open reads the capture");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // Somebody else's choice of where it goes.
        fs::write(at("elsewhere"), "theirs").unwrap();
        symlink(at("elsewhere"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for name in ["link", "dangling"] {
            let error = CaptureFile::create(&at(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}: {error}");
        }
        assert_eq!(fs::read_to_string(at("elsewhere")).unwrap(), "theirs");
        assert!(!at("nowhere").exists());
    }
}
