//! A cable in memory between the tester and the gateway. Each end is a port; a frame is handed over by
//! its address, through a ring with one writer and one reader that is as long as a NIC's.

use bulkhead_pipeline::port::{Burst, Frame, Port};
use rtrb::{Consumer, Producer, RingBuffer};

/// Frames that wait at most in one direction.
pub(crate) const RING_FRAMES: usize = 1024;

/// Bytes of a buffer: an odd number of cache lines, so that the beginnings of frames do not all fall
/// into the same sets of the caches.
const BUFFER_BYTES: usize = 25 * 64;

/// A frame: a buffer, and how much of it is used.
#[derive(Debug)]
pub(crate) struct Slot {
    buffer: Box<[u8; BUFFER_BYTES]>,
    len: u32,
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

/// One end of a cable.
#[derive(Debug)]
pub(crate) struct Plug {
    incoming: Consumer<Slot>,
    outgoing: Producer<Slot>,
    buffers: Buffers,
}

/// Buffers are the tester's. The gateway gives back what it drops, and originates nothing.
#[derive(Debug)]
enum Buffers {
    Tester { spare: Vec<Slot>, dropped: Consumer<Slot> },
    Gateway { dropped: Producer<Slot> },
}

/// A cable with so many buffers: the tester's end, the gateway's end.
pub(crate) fn plugs(buffers: usize) -> (Plug, Plug) {
    let (to_gateway, from_tester) = RingBuffer::new(RING_FRAMES);
    let (to_tester, from_gateway) = RingBuffer::new(RING_FRAMES);
    let (give_back, dropped) = RingBuffer::new(buffers);
    let spare =
        (0..buffers).map(|_| Slot { buffer: Box::new([0; BUFFER_BYTES]), len: 0 }).collect();
    (
        Plug {
            incoming: from_gateway,
            outgoing: to_gateway,
            buffers: Buffers::Tester { spare, dropped },
        },
        Plug {
            incoming: from_tester,
            outgoing: to_tester,
            buffers: Buffers::Gateway { dropped: give_back },
        },
    )
}

impl Port for Plug {
    type Frame = Slot;

    fn receive(&mut self, burst: &mut Burst<Slot>) {
        let count = self.incoming.slots().min(burst.remaining_capacity());
        if count > 0 {
            if let Ok(arrived) = self.incoming.read_chunk(count) {
                burst.extend(arrived);
            }
        }
    }

    fn transmit(&mut self, burst: &mut Burst<Slot>) {
        let count = self.outgoing.slots().min(burst.len());
        if count > 0 {
            if let Ok(free) = self.outgoing.write_chunk_uninit(count) {
                free.fill_from_iter(burst.drain(..count));
            }
        }
    }

    fn release(&mut self, burst: &mut Burst<Slot>) {
        match &mut self.buffers {
            Buffers::Tester { spare, .. } => spare.extend(burst.drain(..)),
            Buffers::Gateway { dropped } => {
                let count = dropped.slots().min(burst.len());
                if let Ok(free) = dropped.write_chunk_uninit(count) {
                    free.fill_from_iter(burst.drain(..count));
                }
                // Buffers of the other cable may be more than there is room for: they are freed.
                burst.clear();
            }
        }
    }

    fn originate(&mut self, length: usize) -> Option<Slot> {
        let Buffers::Tester { spare, dropped } = &mut self.buffers else { return None };
        let mut slot = if length > BUFFER_BYTES { None } else { spare.pop() };
        if slot.is_none() && length <= BUFFER_BYTES {
            slot = dropped.pop().ok();
        }
        let mut slot = slot?;
        slot.len = length as u32;
        slot.bytes_mut().fill(0);
        Some(slot)
    }

    fn max_frame_len(&self) -> usize {
        BUFFER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cable_takes_the_front_and_what_is_dropped_comes_back() {
        let (mut tester, mut gateway) = plugs(RING_FRAMES + 8);
        let (mut burst, mut sent) = (Burst::new(), 0_u64);
        while burst.is_empty() {
            while burst.len() < 8 {
                let mut frame = tester.originate(60).expect("there are more than the ring takes");
                let number = sent + burst.len() as u64;
                frame.bytes_mut()[..8].copy_from_slice(&number.to_le_bytes());
                burst.push(frame);
            }
            let before = burst.len();
            tester.transmit(&mut burst);
            sent += (before - burst.len()) as u64;
        }
        assert_eq!(sent as usize, RING_FRAMES);
        tester.release(&mut burst);
        let mut got = Burst::new();
        for first in (0..RING_FRAMES as u64).step_by(64) {
            gateway.receive(&mut got);
            let numbers: Vec<u64> = (got.iter())
                .map(|frame| frame.bytes().first_chunk().copied().map_or(0, u64::from_le_bytes))
                .collect();
            assert_eq!(numbers, (first..first + 64).collect::<Vec<_>>());
            gateway.release(&mut got);
        }
        let all: Vec<_> = std::iter::from_fn(|| tester.originate(1514)).collect();
        assert_eq!(all.len(), RING_FRAMES + 8, "every buffer has come back");
        assert!(all.iter().all(|frame| frame.bytes() == [0; 1514]));
    }
}
