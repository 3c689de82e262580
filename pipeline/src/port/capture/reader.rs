//! Reading captures.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use pcap_parser::nom;
use pcap_parser::pcapng::{
    InterfaceDescriptionBlock, OptionCode, parse_enhancedpacketblock_be,
    parse_enhancedpacketblock_le, parse_interfacedescriptionblock_be,
    parse_interfacedescriptionblock_le, parse_sectionheaderblock, parse_simplepacketblock_be,
    parse_simplepacketblock_le,
};
use pcap_parser::{
    LegacyPcapBlock, PcapError, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified,
    parse_pcap_header,
};

use super::window::Window;
use super::{
    CaptureError, ErrorKind, LinkType, MAX_BLOCK_BYTES, MAX_FRAME_BYTES, MAX_INTERFACES, Record,
};

/// Length of a pcap file header.
const PCAP_HEADER_BYTES: usize = 24;
/// What every pcapng block starts with: type and length.
const BLOCK_HEADER_BYTES: usize = 8;
/// Type, both lengths: the shortest pcapng block.
const BLOCK_MIN_BYTES: u32 = 12;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// The section header's byte-order magic as it stands in a little-endian file.
const LITTLE_ENDIAN_MAGIC: [u8; 4] = [0x4d, 0x3c, 0x2b, 0x1a];

/// Reads the frames of a pcap or pcapng file, plain or in gzip, one after the other.
pub struct CaptureReader {
    path: PathBuf,
    compressed: bool,
    window: Window,
    format: Format,
    /// Bytes of the window that the record handed out last stands in.
    lent: usize,
    /// Where the record or block starts that is being read.
    begun: u64,
    finished: bool,
}

/// What of the file's own headers matters for its records.
enum Format {
    Pcap {
        parse: ParsePcapRecord,
        big_endian: bool,
        header_len: usize,
        nanoseconds: bool,
        link_type: LinkType,
    },
    PcapNg {
        big_endian: bool,
        interfaces: Vec<Interface>,
        last_ns: u64,
    },
}

type ParsePcapRecord =
    for<'a> fn(&'a [u8]) -> nom::IResult<&'a [u8], LegacyPcapBlock<'a>, PcapError<&'a [u8]>>;

/// An interface of a pcapng section.
#[derive(Clone, Copy)]
struct Interface {
    link_type: LinkType,
    /// Most bytes captured of a frame; 0 where there is no limit.
    snap_len: u32,
    clock: Clock,
}

/// How an interface writes time.
#[derive(Clone, Copy)]
struct Clock {
    /// Ticks in a second.
    resolution: u128,
    /// Seconds to add.
    offset_s: i64,
}

/// Where a frame's bytes stand in the window, and the rest of its [`Record`].
struct Located {
    start: usize,
    len: usize,
    timestamp_ns: u64,
    link_type: LinkType,
    interface: u32,
    original_len: u32,
}

impl std::fmt::Debug for CaptureReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureReader")
            .field("path", &self.path)
            .field("offset", &self.window.offset())
            .finish_non_exhaustive()
    }
}

impl CaptureReader {
    /// Opens a capture file and reads its header.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or is no capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path).map_err(|error| CaptureError::io(path, 0, error))?;
        Self::new(path, Box::new(file))
    }

    /// Reads a capture from any stream. `path` is what errors call it.
    ///
    /// # Errors
    ///
    /// The stream cannot be read or is no capture.
    pub fn new(path: &Path, source: Box<dyn Read + Send>) -> Result<Self, CaptureError> {
        let mut source = BufReader::with_capacity(64 * 1024, source);
        let start = source.fill_buf().map_err(|error| CaptureError::io(path, 0, error))?;
        let compressed = start.starts_with(&[0x1f, 0x8b]);
        let source: Box<dyn Read + Send> =
            if compressed { Box::new(MultiGzDecoder::new(source)) } else { Box::new(source) };
        let mut reader = Self {
            path: path.to_owned(),
            compressed,
            window: Window::new(source),
            format: Format::PcapNg { big_endian: false, interfaces: Vec::new(), last_ns: 0 },
            lent: 0,
            begun: 0,
            finished: false,
        };
        reader.read_file_header().map_err(|kind| reader.error(kind))?;
        Ok(reader)
    }

    /// The next frame, or [`None`] at the end of the file.
    ///
    /// # Errors
    ///
    /// The file is damaged or ends within a record. Afterwards the file counts as read to its end.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        if self.finished {
            return Ok(None);
        }
        self.window.advance(self.lent);
        self.lent = 0;
        let located = match &self.format {
            Format::Pcap { .. } => self.next_pcap(),
            Format::PcapNg { .. } => self.next_pcapng(),
        };
        match located {
            Ok(Some(at)) => Ok(Some(Record {
                timestamp_ns: at.timestamp_ns,
                link_type: at.link_type,
                interface: at.interface,
                original_len: at.original_len,
                bytes: &self.window.bytes()[at.start..at.start + at.len],
            })),
            Ok(None) => {
                self.finished = true;
                Ok(None)
            }
            Err(kind) => {
                self.finished = true;
                Err(self.error(kind))
            }
        }
    }

    /// The name under which errors speak of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is in gzip.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    fn error(&self, kind: ErrorKind) -> CaptureError {
        let offset = self.begun;
        CaptureError { path: self.path.clone(), offset, compressed: self.compressed, kind }
    }

    /// Recognises the format. A pcapng file's section header is left to be read as a block.
    fn read_file_header(&mut self) -> Result<(), ErrorKind> {
        let present = self.window.fill(PCAP_HEADER_BYTES)?;
        if self.window.bytes().starts_with(&SECTION_HEADER.to_le_bytes()) {
            return Ok(());
        }
        let header = match parse_pcap_header(&self.window.bytes()[..present]) {
            Ok((_, header)) => header,
            Err(nom::Err::Incomplete(_)) if present >= 4 => {
                return Err(ends_within("pcap file header", PCAP_HEADER_BYTES, present));
            }
            Err(_) => return Err(ErrorKind::NotACapture),
        };
        if header.version_major != 2 {
            return Err(ErrorKind::Version(header.version_major, header.version_minor));
        }
        let big_endian = header.is_bigendian();
        let (parse, header_len): (ParsePcapRecord, usize) = if header.is_modified_format() {
            (parse_pcap_frame_modified, 24)
        } else if big_endian {
            (parse_pcap_frame_be, 16)
        } else {
            (parse_pcap_frame, 16)
        };
        self.window.advance(PCAP_HEADER_BYTES);
        self.format = Format::Pcap {
            parse,
            big_endian,
            header_len,
            nanoseconds: header.is_nanosecond_precision(),
            // The upper half says whether frames end with an FCS, which stays in their bytes.
            link_type: LinkType((header.network.0 & 0xffff) as u16),
        };
        Ok(())
    }

    fn next_pcap(&mut self) -> Result<Option<Located>, ErrorKind> {
        let Format::Pcap { parse, big_endian, header_len, nanoseconds, link_type } = self.format
        else {
            return Ok(None);
        };
        self.begun = self.window.offset();
        let present = self.window.fill(header_len)?;
        if present == 0 {
            return Ok(None);
        }
        if present < header_len {
            return Err(ends_within("pcap record header", header_len, present));
        }
        let captured = read_u32(self.window.bytes(), 8, big_endian) as usize;
        if captured > MAX_FRAME_BYTES {
            return Err(too_long("pcap record", captured, MAX_FRAME_BYTES));
        }
        let needed = header_len + captured;
        let present = self.window.fill(needed)?;
        if present < needed {
            return Err(ends_within("pcap record", needed, present));
        }
        let (_, record) = parse(&self.window.bytes()[..needed])
            .map_err(|_| ErrorKind::Malformed("a pcap record does not parse"))?;
        self.lent = needed;
        let fraction_ns = u64::from(record.ts_usec) * if nanoseconds { 1 } else { 1000 };
        Ok(Some(Located {
            start: header_len,
            len: captured,
            timestamp_ns: u64::from(record.ts_sec) * 1_000_000_000 + fraction_ns,
            link_type,
            interface: 0,
            original_len: record.origlen,
        }))
    }

    /// Reads blocks up to the next one with a packet.
    fn next_pcapng(&mut self) -> Result<Option<Located>, ErrorKind> {
        loop {
            self.begun = self.window.offset();
            let present = self.window.fill(BLOCK_HEADER_BYTES)?;
            if present == 0 {
                return Ok(None);
            }
            if present < BLOCK_HEADER_BYTES {
                return Err(ends_within("pcapng block header", BLOCK_HEADER_BYTES, present));
            }
            // A section header's type reads the same in both byte orders.
            if self.window.bytes().starts_with(&SECTION_HEADER.to_le_bytes()) {
                self.begin_section()?;
                continue;
            }
            let Format::PcapNg { big_endian, .. } = self.format else { return Ok(None) };
            let block_type = read_u32(self.window.bytes(), 0, big_endian);
            let len = read_u32(self.window.bytes(), 4, big_endian);
            if len < BLOCK_MIN_BYTES || len % 4 != 0 {
                return Err(ErrorKind::Malformed(
                    "a pcapng block's length is below 12 or no multiple of 4",
                ));
            }
            match block_type {
                INTERFACE_DESCRIPTION => {
                    self.fill_block("pcapng interface description", len)?;
                    self.add_interface(len as usize)?;
                }
                ENHANCED_PACKET | SIMPLE_PACKET | OBSOLETE_PACKET => {
                    self.fill_block("pcapng packet block", len)?;
                    let located = self.locate_packet(block_type, len as usize)?;
                    self.lent = len as usize;
                    return Ok(Some(located));
                }
                _ => self.skip_block(len)?,
            }
        }
    }

    /// Reads a section header: the byte order may change, and the interfaces start anew.
    fn begin_section(&mut self) -> Result<(), ErrorKind> {
        const WHAT: &str = "pcapng section header";
        let present = self.window.fill(12)?;
        if present < 12 {
            return Err(ends_within(WHAT, 12, present));
        }
        let swapped = self.window.bytes()[8..12] != LITTLE_ENDIAN_MAGIC;
        let len = read_u32(self.window.bytes(), 4, swapped);
        self.fill_block(WHAT, len)?;
        let bytes = &self.window.bytes()[..len as usize];
        let (_, header) = parse_sectionheaderblock(bytes)
            .map_err(|_| ErrorKind::Malformed("a pcapng section header does not parse"))?;
        if header.major_version != 1 {
            return Err(ErrorKind::Version(header.major_version, header.minor_version));
        }
        self.window.advance(len as usize);
        if let Format::PcapNg { big_endian, interfaces, .. } = &mut self.format {
            *big_endian = swapped;
            interfaces.clear();
        }
        Ok(())
    }

    fn add_interface(&mut self, len: usize) -> Result<(), ErrorKind> {
        let Format::PcapNg { big_endian, interfaces, .. } = &mut self.format else {
            return Ok(());
        };
        if interfaces.len() == MAX_INTERFACES {
            return Err(ErrorKind::TooManyInterfaces);
        }
        let parse = if *big_endian {
            parse_interfacedescriptionblock_be
        } else {
            parse_interfacedescriptionblock_le
        };
        let (_, block) = parse(&self.window.bytes()[..len])
            .map_err(|_| ErrorKind::Malformed("a pcapng interface description does not parse"))?;
        interfaces.push(Interface {
            link_type: LinkType(block.linktype.0 as u16),
            snap_len: block.snaplen,
            clock: Clock::of(&block, *big_endian),
        });
        self.window.advance(len);
        Ok(())
    }

    /// Finds the packet in the block of `len` buffered bytes.
    fn locate_packet(&mut self, block_type: u32, len: usize) -> Result<Located, ErrorKind> {
        const MALFORMED: ErrorKind =
            ErrorKind::Malformed("a pcapng packet does not fit into its block");
        let Format::PcapNg { big_endian, interfaces, last_ns } = &mut self.format else {
            return Err(MALFORMED);
        };
        let bytes = &self.window.bytes()[..len];
        let at = |offset| read_u32(bytes, offset, *big_endian);
        let (start, captured, original_len, interface, ticks);
        match block_type {
            SIMPLE_PACKET => {
                let parse = if *big_endian {
                    parse_simplepacketblock_be
                } else {
                    parse_simplepacketblock_le
                };
                let (_, block) = parse(bytes).map_err(|_| MALFORMED)?;
                let snap_len = match interfaces.first().map(|interface| interface.snap_len) {
                    None => return Err(ErrorKind::UnknownInterface(0)),
                    Some(0) => u32::MAX,
                    Some(limit) => limit,
                };
                original_len = block.origlen;
                let claimed = original_len.min(snap_len) as usize;
                (start, captured, interface, ticks) = (12, claimed.min(block.data.len()), 0, None);
            }
            ENHANCED_PACKET => {
                let parse = if *big_endian {
                    parse_enhancedpacketblock_be
                } else {
                    parse_enhancedpacketblock_le
                };
                let (_, block) = parse(bytes).map_err(|_| MALFORMED)?;
                (start, captured, original_len) = (28, block.caplen as usize, block.origlen);
                interface = block.if_id;
                ticks = Some((u64::from(block.ts_high) << 32) | u64::from(block.ts_low));
            }
            _ => {
                // The packet block of old files: 16 bits each of interface and drop count, then as
                // in an enhanced one.
                if len < 32 {
                    return Err(MALFORMED);
                }
                let number = [bytes[8], bytes[9]];
                interface = u32::from(if *big_endian {
                    u16::from_be_bytes(number)
                } else {
                    u16::from_le_bytes(number)
                });
                ticks = Some((u64::from(at(12)) << 32) | u64::from(at(16)));
                (start, captured, original_len) = (28, at(20) as usize, at(24));
            }
        }
        // The block's second length follows the packet.
        if captured > len - start - 4 {
            return Err(MALFORMED);
        }
        if captured > MAX_FRAME_BYTES {
            return Err(too_long("pcapng packet", captured, MAX_FRAME_BYTES));
        }
        let described =
            interfaces.get(interface as usize).ok_or(ErrorKind::UnknownInterface(interface))?;
        if let Some(ticks) = ticks {
            *last_ns = described.clock.nanoseconds(ticks);
        }
        Ok(Located {
            start,
            len: captured,
            timestamp_ns: *last_ns,
            link_type: described.link_type,
            interface,
            original_len,
        })
    }

    /// Buffers the whole block at the window's front.
    fn fill_block(&mut self, what: &'static str, len: u32) -> Result<(), ErrorKind> {
        let len = len as usize;
        if len > MAX_BLOCK_BYTES {
            return Err(too_long(what, len, MAX_BLOCK_BYTES));
        }
        let present = self.window.fill(len)?;
        if present < len { Err(ends_within(what, len, present)) } else { Ok(()) }
    }

    /// Goes past a block without looking into it.
    fn skip_block(&mut self, len: u32) -> Result<(), ErrorKind> {
        let present = self.window.skip(u64::from(len))?;
        if present < u64::from(len) {
            return Err(ErrorKind::EndsWithin {
                what: "pcapng block that would be skipped",
                needed: u64::from(len),
                present,
            });
        }
        Ok(())
    }
}

impl Clock {
    fn of(block: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Self {
        let exponent = u32::from(block.if_tsresol & 0x7f);
        let base: u128 = if block.if_tsresol & 0x80 == 0 { 10 } else { 2 };
        // A tick so short that its second does not fit counts as no time at all.
        let resolution = base.checked_pow(exponent).unwrap_or(u128::MAX);
        let mut offset_s = 0;
        for option in &block.options {
            if option.code != OptionCode::IfTsoffset {
                continue;
            }
            if let Ok(value) = <[u8; 8]>::try_from(option.value()) {
                offset_s =
                    if big_endian { i64::from_be_bytes(value) } else { i64::from_le_bytes(value) };
            }
        }
        Self { resolution, offset_s }
    }

    /// Nanoseconds since the Unix epoch, or the nearest that can be expressed.
    fn nanoseconds(self, ticks: u64) -> u64 {
        const PER_SECOND: u128 = 1_000_000_000;
        let elapsed_ns = u128::from(ticks) * PER_SECOND / self.resolution;
        let offset_ns = u128::from(self.offset_s.unsigned_abs()) * PER_SECOND;
        let total = if self.offset_s < 0 {
            elapsed_ns.saturating_sub(offset_ns)
        } else {
            elapsed_ns + offset_ns
        };
        u64::try_from(total).unwrap_or(u64::MAX)
    }
}

impl From<std::io::Error> for ErrorKind {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn ends_within(what: &'static str, needed: usize, present: usize) -> ErrorKind {
    ErrorKind::EndsWithin { what, needed: needed as u64, present: present as u64 }
}

fn too_long(what: &'static str, len: usize, limit: usize) -> ErrorKind {
    ErrorKind::TooLong { what, len: len as u64, limit }
}

/// The 32-bit field at `offset`, which the caller has buffered.
fn read_u32(bytes: &[u8], offset: usize, big_endian: bool) -> u32 {
    let field = [bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]];
    if big_endian { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) }
}
