//! Capture files: reading pcap and pcapng, writing them, and a wire that runs from one.
//!
//! [`CaptureReader`] streams: whatever the file says of itself, it holds one record and a read
//! buffer in memory. Everything in a file is hostile until checked. What cannot be read ends the
//! file with a [`CaptureError`] that names the place, after the frames before it were delivered.
//!
//! The record and block layouts come from `pcap-parser`. Its streaming readers are not used: they
//! lose the operating system's error, take a record that claims to be longer than its block for a
//! file that has not arrived yet, and give up on blocks that nobody asked for. Its time helpers are
//! not used either: they refuse resolutions that are powers of two, and read `if_tsoffset` as
//! little-endian in big-endian sections.

mod reader;
mod window;
mod wire;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use reader::CaptureReader;
pub use wire::{
    Assign, CaptureFrame, CaptureHandler, CapturePort, Judgement, Session, Settled, Side, wire,
};
pub use writer::{CaptureWriter, Format};

/// The longest frame that is read, in bytes: the limit of libpcap and Wireshark.
pub const MAX_FRAME_BYTES: usize = 262_144;

/// The longest pcapng block of a kind that is read whole, in bytes: a frame and its options. Blocks
/// of other kinds may have any length, as they are skipped.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;

/// The most interfaces that one section of a pcapng file may describe.
pub const MAX_INTERFACES: usize = 65_536;

/// What the bytes of a record start with, as a number of the registry that pcap and pcapng share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkType(pub u16);

impl LinkType {
    /// Ethernet, the one that a gateway's wire carries.
    pub const ETHERNET: Self = Self(1);
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "BSD loopback",
            1 => "Ethernet",
            9 => "PPP",
            10 => "FDDI",
            12 | 14 | 101 => "raw IP",
            50 => "PPP in HDLC framing",
            104 => "Cisco HDLC",
            105 => "IEEE 802.11",
            107 => "Frame Relay",
            108 => "OpenBSD loopback",
            113 => "Linux cooked capture",
            117 => "OpenBSD pflog",
            119 | 127 | 163 => "IEEE 802.11 with a radio header",
            187 | 201 => "Bluetooth HCI",
            189 | 220 | 249 => "USB",
            195 | 230 => "IEEE 802.15.4",
            228 => "raw IPv4",
            229 => "raw IPv6",
            239 => "Linux netfilter log",
            252 => "Wireshark upper-layer export",
            276 => "Linux cooked capture, version 2",
            other => return write!(f, "link type {other}"),
        };
        write!(f, "{name} (link type {})", self.0)
    }
}

/// One frame of a capture file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Nanoseconds since the Unix epoch. A pcapng simple packet has no time and takes that of the
    /// record before it; times outside of the years 1970 to 2554 become the nearest of these.
    pub timestamp_ns: u64,
    /// What the bytes start with.
    pub link_type: LinkType,
    /// Number of the interface within its section; 0 in pcap.
    pub interface: u32,
    /// Bytes that the frame had on the wire.
    pub original_len: u32,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
}

impl Record<'_> {
    /// Whether the capture holds only the beginning of the frame.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.bytes.len() < self.original_len as usize
    }
}

/// A capture file that could not be read or written, and where.
#[derive(Debug)]
pub struct CaptureError {
    path: PathBuf,
    offset: u64,
    compressed: bool,
    kind: ErrorKind,
}

#[derive(Debug)]
enum ErrorKind {
    Io(io::Error),
    NotACapture,
    Version(u16, u16),
    EndsWithin { what: &'static str, needed: u64, present: u64 },
    TooLong { what: &'static str, len: u64, limit: usize },
    Malformed(&'static str),
    UnknownInterface(u32),
    TooManyInterfaces,
    TimeOutOfRange(u64),
}

impl CaptureError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where in the file the record or block starts that is at fault, in bytes; in a gzip file,
    /// where it starts in what the file decompresses to.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the file is not a capture at all, by its first bytes.
    #[must_use]
    pub fn is_not_a_capture(&self) -> bool {
        matches!(self.kind, ErrorKind::NotACapture)
    }

    /// An error of the operating system on a file as a whole.
    fn io(path: &Path, offset: u64, error: io::Error) -> Self {
        let kind = ErrorKind::Io(error);
        Self { path: path.to_owned(), offset, compressed: false, kind }
    }
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match &self.kind {
            ErrorKind::Io(error) if self.offset == 0 => return write!(f, "{error}"),
            ErrorKind::NotACapture => {
                return f.write_str(
                    "neither a pcap nor a pcapng file, nor one of these in gzip: \
                     its first bytes are of no format that is read",
                );
            }
            _ => {}
        }
        write!(f, "at byte {}", self.offset)?;
        if self.compressed {
            f.write_str(" of the decompressed file")?;
        }
        f.write_str(": ")?;
        match &self.kind {
            ErrorKind::Io(error) => write!(f, "{error}"),
            ErrorKind::NotACapture => Ok(()),
            ErrorKind::Version(major, minor) => {
                write!(f, "version {major}.{minor} of the format is not known")
            }
            ErrorKind::EndsWithin { what, needed, present } => write!(
                f,
                "the file ends within a {what}: it needs {needed} bytes from here, {present} are left"
            ),
            ErrorKind::TooLong { what, len, limit } => {
                write!(f, "a {what} claims {len} bytes, over the limit of {limit}")
            }
            ErrorKind::Malformed(what) => f.write_str(what),
            ErrorKind::UnknownInterface(number) => {
                write!(f, "a packet names interface {number}, which its section does not describe")
            }
            ErrorKind::TooManyInterfaces => {
                write!(f, "a section describes more than {MAX_INTERFACES} interfaces")
            }
            ErrorKind::TimeOutOfRange(seconds) => write!(
                f,
                "a time of {seconds} s since 1970 does not fit the pcap format, which ends in 2106; \
                 write pcapng instead"
            ),
        }
    }
}

impl std::error::Error for CaptureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ErrorKind::Io(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
