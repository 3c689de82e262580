//! A port in memory that costs next to nothing: frames are handed over by their address, and every
//! buffer comes round again.

use bulkhead_pipeline::port::{Burst, Frame, Port};

/// Bytes of a buffer: an mbuf's, and an odd number of cache lines, so that the beginnings of frames
/// do not all fall into the same sets of the caches.
const BUFFER_BYTES: usize = 37 * 64;

/// A frame: where its buffer is, and how much of it is used.
#[derive(Debug)]
pub(super) struct Slot {
    buffer: &'static mut [u8; BUFFER_BYTES],
    len: u32,
    /// Whether the frame belongs to traffic that a flood must not harm.
    pub(super) is_cherished: bool,
}

impl Slot {
    /// So many empty ones. Their memory is never given back, as a NIC's memory pool is not.
    pub(super) fn pool(count: usize) -> Vec<Self> {
        let memory = vec![[0; BUFFER_BYTES]; count].leak();
        memory.iter_mut().map(|buffer| Self { buffer, len: 0, is_cherished: false }).collect()
    }

    /// Lets `write` fill the buffer; it returns the frame's length.
    pub(super) fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        self.len = write(self.buffer).min(BUFFER_BYTES) as u32;
    }
}

impl Frame for Slot {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len as usize]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len as usize]
    }
}

/// The port.
#[derive(Debug, Default)]
pub(super) struct MemoryPort {
    /// Frames that will be received, the last one first.
    pub(super) arriving: Vec<Slot>,
    /// Frames that were transmitted.
    pub(super) sent: Vec<Slot>,
    /// Frames that were received and given back.
    pub(super) released: Vec<Slot>,
}

impl Port for MemoryPort {
    type Frame = Slot;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<Slot>) {
        let count = burst.remaining_capacity().min(self.arriving.len());
        burst.extend(self.arriving.drain(self.arriving.len() - count..));
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<Slot>) {
        self.sent.extend(burst.drain(..));
    }

    #[inline]
    fn release(&mut self, burst: &mut Burst<Slot>) {
        self.released.extend(burst.drain(..));
    }

    fn originate(&mut self, _length: usize) -> Option<Slot> {
        None
    }

    fn max_frame_len(&self) -> usize {
        BUFFER_BYTES
    }
}
