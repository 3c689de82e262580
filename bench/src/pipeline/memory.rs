//! A port in memory that costs next to nothing: frames are handed over by their address, and every
//! buffer comes round again.

use bulkhead_pipeline::port::{Burst, Frame, Port};

/// Bytes of a buffer: an mbuf's, and an odd number of cache lines, so that the beginnings of frames
/// do not all fall into the same sets of the caches.
const BUFFER_BYTES: usize = 37 * 64;

/// A frame: where its buffer is, and how much of it is used.
#[derive(Debug)]
pub(crate) struct Slot {
    buffer: &'static mut [u8; BUFFER_BYTES],
    len: u32,
    /// Whether the frame belongs to traffic that a flood must not harm.
    pub(crate) is_cherished: bool,
    /// Whether the frame belongs to a new flow of a host that attacks nobody.
    pub(crate) is_newcomer: bool,
}

impl Slot {
    /// So many empty ones. Their memory is never given back, as a NIC's memory pool is not.
    pub(crate) fn pool(count: usize) -> Vec<Self> {
        let memory = vec![[0; BUFFER_BYTES]; count].leak();
        let empty = |buffer| Self { buffer, len: 0, is_cherished: false, is_newcomer: false };
        memory.iter_mut().map(empty).collect()
    }

    /// Lets `write` fill the buffer; it returns the frame's length.
    pub(crate) fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
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

/// The port. Bursts come and go as a whole: a NIC's descriptors are written by the burst, too.
#[derive(Debug, Default)]
pub(crate) struct MemoryPort {
    /// Bursts that will be received, the last one first.
    arriving: Vec<Burst<Slot>>,
    /// Bursts that were transmitted.
    sent: Vec<Burst<Slot>>,
    /// Frames that were received and given back.
    released: Vec<Slot>,
}

impl MemoryPort {
    /// Lets a frame arrive.
    pub(crate) fn deliver(&mut self, slot: Slot) {
        match self.arriving.last_mut() {
            Some(burst) if !burst.is_full() => burst.push(slot),
            _ => self.arriving.push(Burst::from_iter([slot])),
        }
    }

    /// How many bursts are yet to be received.
    pub(crate) fn bursts(&self) -> usize {
        self.arriving.len()
    }

    /// Gives the frames back that were released, then those that were sent.
    pub(crate) fn drain(&mut self) -> (impl Iterator<Item = Slot>, impl Iterator<Item = Slot>) {
        (self.released.drain(..), self.sent.drain(..).flatten())
    }
}

impl Port for MemoryPort {
    type Frame = Slot;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<Slot>) {
        // A worker that is alone on its wire asks with nothing in its hands.
        if burst.is_empty() {
            if let Some(next) = self.arriving.pop() {
                *burst = next;
            }
        }
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<Slot>) {
        self.sent.push(std::mem::take(burst));
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
