//! A sliding window over a stream: the part of a file that is being looked at.

use std::io::{self, Read};

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// Buffers a stream so that the record at its front can be looked at in one piece.
pub(super) struct Window {
    source: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Place of `start` in the stream.
    offset: u64,
}

impl Window {
    pub(super) fn new(source: Box<dyn Read + Send>) -> Self {
        Self { source, buffer: vec![0; READ_BYTES], start: 0, end: 0, offset: 0 }
    }

    /// The buffered bytes from the current place on.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The current place in the stream.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Buffers `len` bytes from the current place on, or as many as there are before the stream's
    /// end. Returns how many of them are there. The caller bounds `len`, and with it the memory.
    pub(super) fn fill(&mut self, len: usize) -> io::Result<usize> {
        if self.end - self.start < len && self.start + len > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.buffer.len() < len {
                self.buffer.resize(len.next_multiple_of(READ_BYTES), 0);
            }
        }
        while self.end - self.start < len {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len.min(self.end - self.start))
    }

    /// Goes `len` bytes on, which are buffered.
    pub(super) fn advance(&mut self, len: usize) {
        debug_assert!(len <= self.end - self.start);
        self.start += len;
        self.offset += len as u64;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Goes up to `len` bytes on, buffered or not. Returns how many there were.
    pub(super) fn skip(&mut self, len: u64) -> io::Result<u64> {
        let mut left = len;
        while left > 0 {
            let step = self.fill(left.min(READ_BYTES as u64) as usize)?;
            if step == 0 {
                break;
            }
            self.advance(step);
            left -= step as u64;
        }
        Ok(len - left)
    }
}
