//! A ring of capture files with what was denied, as evidence: pcapng, an interface for each side of a
//! wire, and at every packet a comment with the rule and the reason.

use std::collections::HashMap;
use std::time::Instant;

use super::files::{FileRing, Files};
use super::{Sink, SinkCounts};
use crate::flow_stream::{FrameKind, Message, Side};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINK_ETHERNET: u16 = 1;
/// Options: a comment, and the name of an interface or of the application.
const COMMENT: u16 = 1;
const INTERFACE_NAME: u16 = 2;
const APPLICATION: u16 = 4;

/// See the module's description.
pub(super) struct Evidence {
    files: Files,
    /// The interfaces of the file at hand, by their names.
    interfaces: HashMap<String, u32>,
}

impl Evidence {
    /// Packets in files that are called `denied`.
    pub(super) fn new(ring: &FileRing) -> Self {
        Self { files: Files::new(ring, "denied", "pcapng"), interfaces: HashMap::new() }
    }
}

impl Sink for Evidence {
    fn name(&self) -> String {
        format!("evidence {}", self.files.folder().display())
    }

    fn write(&mut self, message: &Message) {
        let Message::Frame(frame) = message else { return };
        if frame.kind != FrameKind::Denied {
            return;
        }
        if self.files.is_at_start() {
            self.interfaces.clear();
            section_header(self.files.buffer());
        }
        let side = if frame.from == Side::Inside { "inside" } else { "outside" };
        let name = format!("{} {side}", frame.wire);
        let next = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let buffer = self.files.buffer();
        let interface = *self.interfaces.entry(name).or_insert_with_key(|name| {
            interface_description(buffer, name);
            next
        });
        let rule = frame.rule.as_deref().unwrap_or("no rule");
        let reason = frame.reason.as_deref().unwrap_or("policy");
        let comment = format!("rule: {rule}, reason: {reason}");
        let micros = u64::try_from(frame.unix_ms).unwrap_or(0).saturating_mul(1000);
        enhanced_packet(buffer, interface, micros, (&frame.bytes, frame.len), &comment);
        self.files.appended();
    }

    fn tend(&mut self, now: Instant) {
        self.files.tend(now);
    }

    fn counts(&self) -> (SinkCounts, Option<String>) {
        self.files.counts()
    }
}

/// The head of a file.
pub(crate) fn section_header(out: &mut Vec<u8>) {
    block(out, SECTION_HEADER, |out| {
        out.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        // Version 1.0, length not told.
        out.extend([1, 0, 0, 0]);
        out.extend(u64::MAX.to_le_bytes());
        option(out, APPLICATION, concat!("bulkhead ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(out, 0, &[]);
    });
}

/// An interface of Ethernet frames; they are numbered in their order.
pub(crate) fn interface_description(out: &mut Vec<u8>, name: &str) {
    block(out, INTERFACE, |out| {
        out.extend(LINK_ETHERNET.to_le_bytes());
        out.extend([0; 2]);
        // As long as a copy may be.
        out.extend(0_u32.to_le_bytes());
        option(out, INTERFACE_NAME, name.as_bytes());
        option(out, 0, &[]);
    });
}

/// A packet of an interface: its time in microseconds since the Unix epoch, its first bytes and its
/// length.
pub(crate) fn enhanced_packet(
    out: &mut Vec<u8>,
    interface: u32,
    micros: u64,
    (bytes, len): (&[u8], u32),
    comment: &str,
) {
    block(out, ENHANCED_PACKET, |out| {
        out.extend(interface.to_le_bytes());
        out.extend(((micros >> 32) as u32).to_le_bytes());
        out.extend((micros as u32).to_le_bytes());
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(len.to_le_bytes());
        padded(out, bytes);
        option(out, COMMENT, comment.as_bytes());
        option(out, 0, &[]);
    });
}

/// A block with its length before and after it.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let length = ((out.len() - start + 4) as u32).to_le_bytes();
    out.extend(length);
    out[start + 4..start + 8].copy_from_slice(&length);
}

/// An option; text beyond what its length can tell is cut off.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    padded(out, value);
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len() + (4 - bytes.len() % 4) % 4, 0);
}
