//! What a trace copied, as a capture file: pcapng, an interface for each side of a wire, and at every
//! packet a comment that says what became of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

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
    /// Makes a file that only its owner reads; one that is there is replaced.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn create(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Self::new(BufWriter::new(file))
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
    /// come, is left out: it is told again there.
    ///
    /// # Errors
    ///
    /// What the writer says; bytes that are no base64.
    pub fn append(&mut self, packet: &TracedPacket) -> io::Result<()> {
        use base64::Engine as _;
        if matches!(packet.fate.as_str(), "handed-over" | "kept-back") {
            return Ok(());
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
        self.out.write_all(buffer)
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
