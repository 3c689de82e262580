//! One queue pair of a device, as the worker sees it.
//!
//! Unsafe: bursts cross into C as arrays.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;

use bulkhead_pipeline::port::{Burst, MAX_BURST, Port};

use crate::device::Shared;
use crate::ffi::{self, RawFrame};
use crate::kernel::is_ready_to_send;
use crate::pool::{Mbuf, Mempool};

/// One receive and one transmit queue of a DPDK device. Made by [`crate::Device::take_queue`], used
/// by one thread at a time, which [`crate::register_worker`] should have registered so that it has
/// a buffer cache of its own.
pub struct DpdkPort {
    port: u16,
    queue: u16,
    pool: Mempool,
    /// Of an AF_PACKET port: its driver waits without end for a socket that has no room.
    packet_socket: Option<RawFd>,
    discarded: [u64; 2],
    /// Keeps the device open: it closes when its last holder goes.
    shared: Arc<Shared>,
    /// A queue must not be shared between threads, but may move.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

impl DpdkPort {
    pub(crate) fn new(
        port: u16,
        queue: u16,
        pool: Mempool,
        shared: Arc<Shared>,
        packet_socket: Option<RawFd>,
    ) -> Self {
        let _not_sync = PhantomData;
        Self { port, queue, pool, packet_socket, discarded: [0; 2], shared, _not_sync }
    }

    /// The device's name, as the configuration gives it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }
}

impl Port for DpdkPort {
    type Frame = Mbuf;

    fn receive(&mut self, burst: &mut Burst<Mbuf>) {
        let filled = burst.len();
        let room = MAX_BURST - filled;
        if room == 0 || !self.shared.is_started() {
            return;
        }
        // SAFETY: `burst` has room for `room` frames behind `filled`; `Mbuf` is a transparent
        // `RawFrame`; the shim initialises as many as it returns and gives us their ownership; the
        // device is open, because `shared` is held, and started.
        unsafe {
            let free = burst.as_mut_ptr().add(filled).cast::<RawFrame>();
            let count = ffi::bh_rx_burst(
                self.port,
                self.queue,
                free,
                room as u16,
                self.discarded.as_mut_ptr(),
            );
            burst.set_len(filled + usize::from(count));
        }
    }

    fn transmit(&mut self, burst: &mut Burst<Mbuf>) {
        let count = burst.len();
        if count == 0 || !self.shared.is_started() {
            return;
        }
        // One call for a burst, where the driver makes one to send it anyway. What takes room comes at
        // the burst's end, so that a socket which has some now has some until then.
        if self.packet_socket.is_some_and(|socket| !is_ready_to_send(socket)) {
            return;
        }
        // SAFETY: `burst` holds `count` frames. Those that the device takes, from the front, are no
        // longer ours: the others move to the front and the length is set before anything else can
        // look.
        unsafe {
            let frames = burst.as_mut_ptr();
            let sent = usize::from(ffi::bh_tx_burst(
                self.port,
                self.queue,
                frames.cast::<RawFrame>(),
                count as u16,
            ));
            burst.set_len(0);
            if sent < count {
                ptr::copy(frames.add(sent), frames, count - sent);
                burst.set_len(count - sent);
            }
        }
    }

    fn release(&mut self, burst: &mut Burst<Mbuf>) {
        let count = burst.len();
        if count == 0 {
            return;
        }
        // SAFETY: `burst` holds `count` frames of ours, and forgets them before they are freed.
        unsafe {
            burst.set_len(0);
            ffi::bh_free_bulk(burst.as_ptr().cast::<RawFrame>(), count as u16);
        }
    }

    fn originate(&mut self, length: usize) -> Option<Mbuf> {
        self.pool.allocate(length)
    }

    fn take_discarded(&mut self) -> (u64, u64) {
        let [frames, bytes] = std::mem::take(&mut self.discarded);
        (frames, bytes)
    }

    fn max_frame_len(&self) -> usize {
        self.shared.max_frame_len()
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_pipeline::port::Frame;

    use super::*;
    use crate::eal::{Eal, EalConfig, HugePages};
    use crate::pool::MempoolConfig;

    /// The one test that starts DPDK in this process: the others are in `tests/`.
    #[test]
    fn what_drivers_hand_over_becomes_one_whole_frame() {
        let config = MempoolConfig { buffers: 1_024, max_frame_len: 1_522 };
        let eal = EalConfig {
            huge_pages: HugePages::Never,
            memory_bytes: config.memory_bytes(),
            pci: false,
        };
        let eal = Eal::init(&eal).unwrap();
        let pool = Mempool::new(&eal, config).unwrap();
        let free = pool.available();

        let mut stripped = pattern(&pool, 60);
        let before = stripped.bytes().to_vec();
        // SAFETY: the frame is ours.
        unsafe { ffi::bh_mark_stripped(&raw mut stripped.raw, 0x6064) };
        // SAFETY: as above.
        assert_eq!(unsafe { ffi::bh_settle(&raw mut stripped.raw) }, 0);
        let tagged = [&before[..12], &[0x81, 0x00, 0x60, 0x64], &before[12..]].concat();
        assert_eq!(stripped.bytes(), tagged);

        let (mut head, tail) = (pattern(&pool, 900), pattern(&pool, 700));
        let whole = [head.bytes(), tail.bytes()].concat();
        chain(&mut head, tail);
        // SAFETY: the frame is ours.
        assert_eq!(unsafe { ffi::bh_settle(&raw mut head.raw) }, 0);
        assert_eq!(head.bytes(), whole);

        drop(head);
        let mut head = pattern(&pool, 2_000);
        chain(&mut head, pattern(&pool, 700));
        // SAFETY: the frame is ours.
        assert_eq!(unsafe { ffi::bh_settle(&raw mut head.raw) }, -1, "2,700 bytes do not fit");

        drop((stripped, head));
        drop(pool.allocate(2_048));
        assert!(pool.allocate(70_000).is_none() && pool.allocate(4_000).is_none());
        assert_eq!(pool.available(), free, "every buffer has come back");
    }

    fn pattern(pool: &Mempool, len: usize) -> Mbuf {
        let mut frame = pool.allocate(len).unwrap();
        assert!(frame.bytes().iter().all(|&byte| byte == 0));
        for (at, byte) in frame.bytes_mut().iter_mut().enumerate() {
            *byte = at as u8;
        }
        frame
    }

    fn chain(head: &mut Mbuf, tail: Mbuf) {
        let mut tail = std::mem::ManuallyDrop::new(tail);
        // SAFETY: both frames are ours, and the head owns the tail from now on.
        assert_eq!(unsafe { ffi::bh_chain(&raw mut head.raw, &raw mut tail.raw) }, 0);
    }
}
