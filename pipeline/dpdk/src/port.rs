//! One queue pair of a device, as the worker sees it.
//!
//! Unsafe: bursts cross into C as arrays.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use bulkhead_pipeline::port::{Burst, MAX_BURST, Port};

use crate::device::Shared;
use crate::ffi::{self, RawFrame};
use crate::pool::{Mbuf, Mempool};

/// One receive and one transmit queue of a DPDK device. Made by [`crate::Device::take_queue`], used
/// by one thread at a time, which [`crate::register_worker`] should have registered so that it has
/// a buffer cache of its own.
pub struct DpdkPort {
    port: u16,
    queue: u16,
    pool: Mempool,
    discarded: [u64; 2],
    /// Keeps the device open: it closes when its last holder goes.
    shared: Arc<Shared>,
    /// A queue must not be shared between threads, but may move.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

impl DpdkPort {
    pub(crate) fn new(port: u16, queue: u16, pool: Mempool, shared: Arc<Shared>) -> Self {
        Self { port, queue, pool, discarded: [0; 2], shared, _not_sync: PhantomData }
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
