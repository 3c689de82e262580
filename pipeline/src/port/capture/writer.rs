//! Writing captures.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{CaptureError, ErrorKind, LinkType, MAX_FRAME_BYTES};

/// The format of a capture file to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// pcap with times in microseconds, which every tool reads. Times lose what is finer.
    PcapMicro,
    /// pcap with times in nanoseconds.
    PcapNano,
    /// pcapng: one section and one Ethernet interface with times in nanoseconds.
    PcapNg,
}

impl Format {
    /// The format for a file's name: pcapng for `.pcapng` and `.ntar`, else pcap in nanoseconds, so
    /// that the times of whatever was read come out unchanged.
    #[must_use]
    pub fn for_path(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(extension)
                if extension.eq_ignore_ascii_case("pcapng")
                    || extension.eq_ignore_ascii_case("ntar") =>
            {
                Self::PcapNg
            }
            _ => Self::PcapNano,
        }
    }
}

/// Writes Ethernet frames to a capture file.
pub struct CaptureWriter {
    path: PathBuf,
    format: Format,
    sink: BufWriter<Box<dyn Write + Send>>,
    written_bytes: u64,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for CaptureWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureWriter")
            .field("path", &self.path)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl CaptureWriter {
    /// Creates the file, or empties the one that is there, and writes its header.
    ///
    /// # Errors
    ///
    /// The file cannot be created or written.
    pub fn create(path: &Path, format: Format) -> Result<Self, CaptureError> {
        let file = File::create(path).map_err(|error| CaptureError::io(path, 0, error))?;
        Self::new(path, format, Box::new(file))
    }

    /// Writes to any sink. `path` is what errors call it.
    ///
    /// # Errors
    ///
    /// The header cannot be written.
    pub fn new(
        path: &Path,
        format: Format,
        sink: Box<dyn Write + Send>,
    ) -> Result<Self, CaptureError> {
        let mut writer = Self {
            path: path.to_owned(),
            format,
            sink: BufWriter::with_capacity(64 * 1024, sink),
            written_bytes: 0,
            scratch: Vec::with_capacity(2048),
        };
        writer.scratch_header();
        writer.flush_scratch(&[])?;
        Ok(writer)
    }

    /// Appends a frame: the captured `bytes` of one that had `original_len` on the wire.
    ///
    /// # Errors
    ///
    /// The file cannot be written, the frame is longer than [`MAX_FRAME_BYTES`], or the time does
    /// not fit the format.
    pub fn write(
        &mut self,
        timestamp_ns: u64,
        original_len: u32,
        bytes: &[u8],
    ) -> Result<(), CaptureError> {
        if bytes.len() > MAX_FRAME_BYTES {
            let len = bytes.len() as u64;
            return Err(self.error(ErrorKind::TooLong {
                what: "frame to write",
                len,
                limit: MAX_FRAME_BYTES,
            }));
        }
        let captured = bytes.len() as u32;
        self.scratch.clear();
        match self.format {
            Format::PcapMicro | Format::PcapNano => {
                let seconds = timestamp_ns / 1_000_000_000;
                let Ok(short_seconds) = u32::try_from(seconds) else {
                    return Err(self.error(ErrorKind::TimeOutOfRange(seconds)));
                };
                let fraction_ns = (timestamp_ns % 1_000_000_000) as u32;
                let divisor = if self.format == Format::PcapMicro { 1000 } else { 1 };
                self.put(&[short_seconds, fraction_ns / divisor, captured, original_len]);
                self.flush_scratch(bytes)
            }
            Format::PcapNg => {
                let padding = bytes.len().next_multiple_of(4) - bytes.len();
                let block_len = 32 + captured + padding as u32;
                let (high, low) = ((timestamp_ns >> 32) as u32, timestamp_ns as u32);
                self.put(&[6, block_len, 0, high, low, captured, original_len]);
                self.flush_scratch(bytes)?;
                self.scratch.clear();
                self.scratch.extend_from_slice(&[0; 3][..padding]);
                self.put(&[block_len]);
                self.flush_scratch(&[])
            }
        }
    }

    /// Writes out what is buffered. A writer that is only dropped does so, too, but tells nobody
    /// when it fails.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn finish(mut self) -> Result<(), CaptureError> {
        self.sink.flush().map_err(|error| self.error(ErrorKind::Io(error)))
    }

    /// The file's header. All is little-endian.
    fn scratch_header(&mut self) {
        let link_type = u32::from(LinkType::ETHERNET.0);
        let version_2_4 = 2 | (4 << 16);
        let snap_len = MAX_FRAME_BYTES as u32;
        match self.format {
            Format::PcapMicro => self.put(&[0xa1b2_c3d4, version_2_4, 0, 0, snap_len, link_type]),
            Format::PcapNano => self.put(&[0xa1b2_3c4d, version_2_4, 0, 0, snap_len, link_type]),
            Format::PcapNg => {
                // Section header: version 1.0, length unknown, no options.
                self.put(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28]);
                // Interface description with one option, if_tsresol (9) of 1 byte: 10^-9 s.
                self.put(&[1, 32, link_type, snap_len, 9 | (1 << 16), 9, 0, 32]);
            }
        }
    }

    fn put(&mut self, fields: &[u32]) {
        for field in fields {
            self.scratch.extend_from_slice(&field.to_le_bytes());
        }
    }

    fn flush_scratch(&mut self, then: &[u8]) -> Result<(), CaptureError> {
        let result = self.sink.write_all(&self.scratch).and_then(|()| self.sink.write_all(then));
        result.map_err(|error| self.error(ErrorKind::Io(error)))?;
        self.written_bytes += (self.scratch.len() + then.len()) as u64;
        Ok(())
    }

    fn error(&self, kind: ErrorKind) -> CaptureError {
        let path = self.path.clone();
        CaptureError { path, offset: self.written_bytes, compressed: false, kind }
    }
}
