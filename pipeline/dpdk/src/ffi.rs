//! The shim's functions, as `shim.h` declares them. Every call is unsafe; [`crate::eal`],
//! [`crate::pool`], [`crate::ethdev`] and [`crate::port`] wrap them.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::marker::{PhantomData, PhantomPinned};
use std::mem::{align_of, size_of};
use std::ptr::NonNull;

/// An `rte_mbuf`, whose layout only C knows.
#[repr(C)]
pub(crate) struct RteMbuf {
    _opaque: [u8; 0],
    _not_send: PhantomData<(*mut u8, PhantomPinned)>,
}

/// An `rte_mempool`, whose layout only C knows.
#[repr(C)]
pub(crate) struct RteMempool {
    _opaque: [u8; 0],
    _not_send: PhantomData<(*mut u8, PhantomPinned)>,
}

/// `struct bh_frame`.
#[repr(C)]
pub(crate) struct RawFrame {
    pub(crate) mbuf: NonNull<RteMbuf>,
    pub(crate) data: NonNull<u8>,
    pub(crate) len: u32,
    pub(crate) reserved: u32,
}

const _: () = assert!(size_of::<RawFrame>() == 24 && align_of::<RawFrame>() == 8);

/// `struct bh_device_info`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawDeviceInfo {
    pub(crate) driver: [c_char; 64],
    pub(crate) max_rx_queues: u16,
    pub(crate) max_tx_queues: u16,
    pub(crate) min_mtu: u16,
    pub(crate) max_mtu: u16,
    pub(crate) mtu: u16,
    pub(crate) rss_key_len: u16,
    pub(crate) socket: i32,
    pub(crate) rss_on_addresses: u8,
    pub(crate) reserved: u8,
    pub(crate) rss_table_len: u16,
}

const _: () = assert!(size_of::<RawDeviceInfo>() == 84);

/// `struct bh_device_config`.
#[repr(C)]
pub(crate) struct RawDeviceConfig {
    pub(crate) pool: *mut RteMempool,
    pub(crate) rss_key: *const u8,
    pub(crate) queues: u16,
    pub(crate) mtu: u16,
    pub(crate) rx_descriptors: u16,
    pub(crate) tx_descriptors: u16,
}

/// `struct bh_counters`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct RawCounters {
    pub(crate) missed: u64,
    pub(crate) receive_errors: u64,
    pub(crate) transmit_errors: u64,
    pub(crate) no_buffer: u64,
}

/// `struct bh_xstat`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawXstat {
    pub(crate) name: [c_char; 64],
    pub(crate) value: u64,
}

/// `bh_log_fn`.
pub(crate) type LogFn = unsafe extern "C" fn(u32, *const c_char, usize);

unsafe extern "C" {
    pub(crate) fn bh_version() -> *const c_char;
    pub(crate) fn bh_log_to(sink: LogFn) -> c_int;
    pub(crate) fn bh_log_hush_libraries();
    pub(crate) fn bh_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
    pub(crate) fn bh_thread_register() -> c_int;
    pub(crate) fn bh_thread_unregister();

    pub(crate) fn bh_pool_create(
        name: *const c_char,
        count: u32,
        cache: u32,
        data_room: u16,
        error: *mut i32,
    ) -> *mut RteMempool;
    pub(crate) fn bh_pool_watch(pool: *mut RteMempool) -> c_int;
    pub(crate) fn bh_pool_unwatch(pool: *mut RteMempool, put_back: c_int);
    pub(crate) fn bh_pool_available(pool: *const RteMempool) -> u32;
    pub(crate) fn bh_pool_chunks(pool: *const RteMempool) -> u32;
    pub(crate) fn bh_pool_element_size(pool: *const RteMempool) -> u32;

    pub(crate) fn bh_device_probe(
        devargs: *const c_char,
        port: *mut u16,
        call: *mut *const c_char,
    ) -> c_int;
    pub(crate) fn bh_device_info(port: u16, info: *mut RawDeviceInfo) -> c_int;
    pub(crate) fn bh_device_configure(
        port: u16,
        config: *const RawDeviceConfig,
        call: *mut *const c_char,
    ) -> c_int;
    pub(crate) fn bh_device_start(port: u16) -> c_int;
    pub(crate) fn bh_device_stop(port: u16) -> c_int;
    pub(crate) fn bh_device_remove(port: u16, call: *mut *const c_char) -> c_int;
    pub(crate) fn bh_device_promiscuous(port: u16, on: c_int) -> c_int;
    pub(crate) fn bh_device_link(port: u16, up: *mut c_int, speed_mbps: *mut u32) -> c_int;
    pub(crate) fn bh_device_set_link(port: u16, up: c_int) -> c_int;
    pub(crate) fn bh_device_counters(port: u16, counters: *mut RawCounters) -> c_int;
    pub(crate) fn bh_device_counters_reset(port: u16) -> c_int;
    pub(crate) fn bh_device_xstats(port: u16, stats: *mut RawXstat, capacity: u32) -> c_int;
    pub(crate) fn bh_device_mac(port: u16, mac: *mut u8) -> c_int;

    pub(crate) fn bh_rx_burst(
        port: u16,
        queue: u16,
        frames: *mut RawFrame,
        count: u16,
        discarded: *mut u64,
    ) -> u16;
    pub(crate) fn bh_tx_burst(port: u16, queue: u16, frames: *const RawFrame, count: u16) -> u16;
    pub(crate) fn bh_free_bulk(frames: *const RawFrame, count: u16);
    pub(crate) fn bh_alloc(pool: *mut RteMempool, len: u32, frame: *mut RawFrame) -> c_int;

    #[cfg(test)]
    pub(crate) fn bh_chain(head: *mut RawFrame, tail: *mut RawFrame) -> c_int;
    #[cfg(test)]
    pub(crate) fn bh_mark_stripped(frame: *mut RawFrame, tci: u16);
    #[cfg(test)]
    pub(crate) fn bh_settle(frame: *mut RawFrame) -> c_int;
}
