//! DPDK's device functions, made safe: one value per opened port number.
//!
//! Unsafe: the calls into the shim.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::ptr;

use bulkhead_pipeline::port::{Burst, DriverCounters, MAX_BURST};

use crate::eal::Eal;
use crate::error::{Error, ErrorKind, Result};
use crate::ffi::{self, RawCounters, RawDeviceConfig, RawDeviceInfo, RawFrame, RawXstat};
use crate::pool::{Mbuf, Mempool};

/// What a driver says about its device.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub(crate) driver: String,
    pub(crate) max_queues: u16,
    /// The largest MTU; drivers without a limit say 65,535.
    pub(crate) max_mtu: u16,
    pub(crate) mtu: u16,
    /// Length of the key of the receive hash; zero where the device has none.
    pub(crate) rss_key_len: u16,
    /// Whether it can be of the addresses alone.
    pub(crate) rss_on_addresses: bool,
    /// Entries of the table from hash to queue; zero where the driver does not say.
    pub(crate) rss_table_len: u16,
}

/// How a device's queues are made.
pub(crate) struct Setup<'a> {
    pub(crate) pool: &'a Mempool,
    pub(crate) queues: u16,
    pub(crate) mtu: u16,
    pub(crate) descriptors: u16,
    pub(crate) rss_key: Option<&'a [u8]>,
}

/// An opened DPDK device. Dropping it stops and removes it.
#[derive(Debug)]
pub(crate) struct Ethdev {
    port: u16,
}

impl Ethdev {
    /// Opens the device that `devargs` describes.
    pub(crate) fn probe(_eal: &Eal, devargs: &str) -> Result<Self> {
        let Ok(devargs) = CString::new(devargs) else {
            return Err(Error::refused(ErrorKind::Config, "a device name holds a NUL", ""));
        };
        let (mut port, mut call) = (0, ptr::null());
        // SAFETY: EAL is up, which `_eal` proves; `devargs` ends with NUL; the rest is writable.
        let status =
            unsafe { ffi::bh_device_probe(devargs.as_ptr(), &raw mut port, &raw mut call) };
        match status {
            0 => Ok(Self { port }),
            _ => Err(Error::dpdk(name_of(call), status)),
        }
    }

    /// DPDK's number of the port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn info(&self) -> Result<Info> {
        let mut raw = MaybeUninit::<RawDeviceInfo>::uninit();
        // SAFETY: `raw` is writable.
        let status = unsafe { ffi::bh_device_info(self.port, raw.as_mut_ptr()) };
        check("rte_eth_dev_info_get", status)?;
        // SAFETY: on success the shim has filled it.
        let raw = unsafe { raw.assume_init() };
        Ok(Info {
            driver: text(&raw.driver),
            max_queues: raw.max_rx_queues.min(raw.max_tx_queues),
            max_mtu: raw.max_mtu,
            mtu: raw.mtu,
            rss_key_len: raw.rss_key_len,
            rss_on_addresses: raw.rss_on_addresses != 0,
            rss_table_len: raw.rss_table_len,
        })
    }

    /// Makes the queues. Where that fails the device is removed, and the pool has all buffers that it had: the AF_XDP
    /// driver (of 22.11) loses those that it took for a queue which it could not make, 2,048 each time.
    pub(crate) fn configure(self, setup: &Setup<'_>) -> Result<Self> {
        let pool = setup.pool.as_ptr();
        // SAFETY: the pool is never freed. Until `bh_pool_unwatch` nothing but DPDK runs on this thread.
        check("calloc", unsafe { ffi::bh_pool_watch(pool) })?;
        let configured = self.make_queues(setup);
        let outcome = configured.map(|()| self);
        // SAFETY: as above. Where it failed `map` has dropped the device, so nobody has its buffers.
        unsafe { ffi::bh_pool_unwatch(pool, i32::from(outcome.is_err())) };
        outcome
    }

    fn make_queues(&self, setup: &Setup<'_>) -> Result<()> {
        let config = RawDeviceConfig {
            pool: setup.pool.as_ptr(),
            rss_key: setup.rss_key.map_or(ptr::null(), <[u8]>::as_ptr),
            queues: setup.queues,
            mtu: setup.mtu,
            rx_descriptors: setup.descriptors,
            tx_descriptors: setup.descriptors,
        };
        let mut call = ptr::null();
        // SAFETY: the pool is never freed; the key is as long as [`Info::rss_key_len`] said, which
        // the caller made it for.
        let status =
            unsafe { ffi::bh_device_configure(self.port, &raw const config, &raw mut call) };
        check(name_of(call), status)
    }

    pub(crate) fn start(&self) -> Result<()> {
        // SAFETY: a call by port number.
        check("rte_eth_dev_start", unsafe { ffi::bh_device_start(self.port) })
    }

    /// Gives back what waits at a receive queue of a started device that nobody polls yet.
    pub(crate) fn discard_waiting(&self, queue: u16) {
        /// More than any ring holds.
        const BURSTS: usize = 4_096;

        let mut frames: Burst<Mbuf> = Burst::new();
        let mut discarded = [0; 2];
        for _ in 0..BURSTS {
            // SAFETY: `frames` is empty and has room for a whole burst of frames, of which the shim
            // initialises as many as it returns and gives us their ownership.
            unsafe {
                let count = ffi::bh_rx_burst(
                    self.port,
                    queue,
                    frames.as_mut_ptr().cast::<RawFrame>(),
                    MAX_BURST as u16,
                    discarded.as_mut_ptr(),
                );
                frames.set_len(usize::from(count));
            }
            if frames.is_empty() {
                return;
            }
            frames.clear();
        }
    }

    pub(crate) fn set_promiscuous(&self, on: bool) -> Result<()> {
        // SAFETY: a call by port number.
        let status = unsafe { ffi::bh_device_promiscuous(self.port, i32::from(on)) };
        check("rte_eth_promiscuous_enable", status)
    }

    /// Whether the link is up, and its speed in Mbit/s.
    pub(crate) fn link(&self) -> Result<(bool, u32)> {
        let (mut up, mut speed) = (0, 0);
        // SAFETY: both are writable.
        let status = unsafe { ffi::bh_device_link(self.port, &raw mut up, &raw mut speed) };
        check("rte_eth_link_get_nowait", status).map(|()| (up != 0, speed))
    }

    pub(crate) fn set_link(&self, up: bool) -> Result<()> {
        // SAFETY: a call by port number.
        let status = unsafe { ffi::bh_device_set_link(self.port, i32::from(up)) };
        check(if up { "rte_eth_dev_set_link_up" } else { "rte_eth_dev_set_link_down" }, status)
    }

    pub(crate) fn counters(&self) -> Result<DriverCounters> {
        let mut raw = RawCounters::default();
        // SAFETY: `raw` is writable.
        let status = unsafe { ffi::bh_device_counters(self.port, &raw mut raw) };
        check("rte_eth_stats_get", status)?;
        Ok(DriverCounters {
            missed: raw.missed,
            receive_errors: raw.receive_errors,
            transmit_errors: raw.transmit_errors,
            no_buffer: raw.no_buffer,
        })
    }

    pub(crate) fn reset_counters(&self) -> Result<()> {
        // SAFETY: a call by port number.
        match unsafe { ffi::bh_device_counters_reset(self.port) } {
            // Drivers that cannot reset start at zero.
            status if status == -libc::ENOTSUP => Ok(()),
            status => check("rte_eth_stats_reset", status),
        }
    }

    /// The driver's own statistics, by name.
    pub(crate) fn xstats(&self) -> Result<Vec<(String, u64)>> {
        // SAFETY: nothing is written for a capacity of zero.
        let count = unsafe { ffi::bh_device_xstats(self.port, ptr::null_mut(), 0) };
        let Ok(capacity) = u32::try_from(count) else {
            return Err(Error::dpdk("rte_eth_xstats_get", count));
        };
        let mut raw = vec![RawXstat { name: [0; 64], value: 0 }; capacity as usize];
        // SAFETY: `raw` has room for `capacity`.
        let count = unsafe { ffi::bh_device_xstats(self.port, raw.as_mut_ptr(), capacity) };
        let Ok(count) = usize::try_from(count) else {
            return Err(Error::dpdk("rte_eth_xstats_get", count));
        };
        Ok(raw.iter().take(count).map(|stat| (text(&stat.name), stat.value)).collect())
    }

    pub(crate) fn mac(&self) -> Result<[u8; 6]> {
        let mut mac = [0; 6];
        // SAFETY: six bytes are writable.
        check("rte_eth_macaddr_get", unsafe { ffi::bh_device_mac(self.port, mac.as_mut_ptr()) })?;
        Ok(mac)
    }
}

impl Drop for Ethdev {
    fn drop(&mut self) {
        let mut call = ptr::null();
        // SAFETY: calls by port number; no queue is in use, because whoever has one holds the device.
        unsafe {
            // A device that was not started says so; it must be stopped before it can be closed.
            ffi::bh_device_stop(self.port);
            ffi::bh_device_remove(self.port, &raw mut call);
        }
    }
}

fn check(call: &'static str, status: i32) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::dpdk(call, status)) }
}

/// The name of the DPDK function that a shim function left off at.
fn name_of(call: *const c_char) -> &'static str {
    if call.is_null() {
        return "DPDK";
    }
    // SAFETY: the shim sets it to string literals only.
    unsafe { CStr::from_ptr(call) }.to_str().unwrap_or("DPDK")
}

/// A C string in an array, which may fill it whole.
fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().take_while(|&&byte| byte != 0).map(|&b| b as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
