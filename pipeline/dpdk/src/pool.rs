//! The buffers that all frames live in.
//!
//! Unsafe: the pool and its buffers are C objects behind pointers.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use bulkhead_pipeline::port::Frame;

use crate::eal::Eal;
use crate::error::{Error, ErrorKind, Result};
use crate::ffi::{self, RawFrame, RteMempool};

/// Space that DPDK keeps in front of a received frame: a stripped tag fits in again.
const HEADROOM: usize = 128;

/// Space that the kernel keeps in front of a frame in an AF_XDP buffer, after [`HEADROOM`].
const XDP_HEADROOM: usize = 256;

/// Bytes that a buffer always holds, so that drivers which ask for 2 KiB are content.
const LEAST_ROOM: usize = 2_048;

/// Longest frame that the pool may be made for: MTU 9,000 with two VLAN tags.
pub(crate) const MAX_FRAME_LEN: usize = 9_000 + 22;

/// Buffers that each worker keeps for itself.
const CACHE: u32 = 256;

/// How many buffers a pool has, and how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MempoolConfig {
    /// Buffers. All receive rings, transmit rings and bursts in flight must fit: a pool that runs
    /// dry drops frames at reception. See [`MempoolConfig::for_queues`].
    pub buffers: u32,
    /// Longest frame that one buffer must hold, in bytes without FCS.
    pub max_frame_len: usize,
}

impl MempoolConfig {
    /// What `queues` queue pairs need (ports × workers), each with rings of `descriptors`, for
    /// frames up to `mtu` bytes of payload.
    ///
    /// AF_XDP takes two rings' worth of buffers for its fill ring and one for each other ring; a
    /// quarter is added for bursts in flight and the workers' caches.
    #[must_use]
    pub fn for_queues(queues: u32, descriptors: u16, mtu: u16) -> Self {
        let rings = u64::from(queues.max(1)) * u64::from(descriptors.max(2_048)) * 4;
        let buffers = u32::try_from(rings + rings / 4).unwrap_or(u32::MAX);
        Self { buffers, max_frame_len: usize::from(mtu) + 22 }
    }

    /// Memory that the pool will take, in bytes, near enough to reserve it.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        // mbuf, mempool object header and rounding.
        u64::from(self.buffers) * (self.data_room() as u64 + 128 + 64 + 64)
    }

    fn data_room(&self) -> usize {
        HEADROOM + (self.max_frame_len + XDP_HEADROOM).next_multiple_of(64).max(LEAST_ROOM)
    }
}

/// A pool of buffers. It lives as long as the process, because a frame may outlive everything else.
#[derive(Clone, Copy)]
pub struct Mempool {
    raw: NonNull<RteMempool>,
    config: MempoolConfig,
}

// SAFETY: DPDK's mempools are multi-producer and multi-consumer.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] where frames would be longer than 9,022 bytes or the pool would have
    /// no buffers, [`ErrorKind::Memory`] where there is no room for it.
    pub fn new(_eal: &Eal, config: MempoolConfig) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);

        if config.max_frame_len > MAX_FRAME_LEN {
            return Err(Error::refused(
                ErrorKind::Config,
                format!("frames of {} bytes asked for", config.max_frame_len),
                format!("the longest is {MAX_FRAME_LEN} bytes: an MTU of 9,000"),
            ));
        }
        if config.buffers < CACHE * 2 {
            return Err(Error::refused(
                ErrorKind::Config,
                format!("a mempool of {} buffers asked for", config.buffers),
                format!("it needs at least {}", CACHE * 2),
            ));
        }
        // At most 9,406, see MAX_FRAME_LEN.
        let data_room = u16::try_from(config.data_room()).unwrap_or(u16::MAX);
        let name = format!("bulkhead-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).unwrap_or_default();
        let mut status = 0;
        // SAFETY: EAL is up, which `_eal` proves; `name` ends with NUL; `status` is writable.
        let raw = unsafe {
            ffi::bh_pool_create(name.as_ptr(), config.buffers, CACHE, data_room, &raw mut status)
        };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw, config }),
            None => Err(Error::dpdk("rte_pktmbuf_pool_create", status).because(
                ErrorKind::Memory,
                format!(
                    "no memory for {} buffers, {} MiB",
                    config.buffers,
                    config.memory_bytes() >> 20
                ),
                "reserve more huge pages (`sysctl -w vm.nr_hugepages=1024`) or configure fewer \
                 buffers",
            )),
        }
    }

    /// How the pool was made.
    #[must_use]
    pub fn config(&self) -> MempoolConfig {
        self.config
    }

    /// Buffers that are free now, those in workers' caches included. Takes a while: for reports.
    #[must_use]
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is never freed.
        unsafe { ffi::bh_pool_available(self.raw.as_ptr()) }
    }

    /// Whether the pool is one piece of memory, which AF_XDP needs.
    pub(crate) fn is_contiguous(&self) -> bool {
        // SAFETY: the pool is never freed.
        unsafe { ffi::bh_pool_chunks(self.raw.as_ptr()) == 1 }
    }

    /// Bytes from one buffer to the next.
    pub(crate) fn stride(&self) -> u32 {
        // SAFETY: the pool is never freed.
        unsafe { ffi::bh_pool_element_size(self.raw.as_ptr()) }
    }

    pub(crate) fn as_ptr(&self) -> *mut RteMempool {
        self.raw.as_ptr()
    }

    /// A frame of `len` zeroed bytes; [`None`] when the pool is empty or `len` does not fit.
    #[must_use]
    pub fn allocate(&self, len: usize) -> Option<Mbuf> {
        let len = u32::try_from(len).ok()?;
        let mut raw = MaybeUninit::<RawFrame>::uninit();
        // SAFETY: the pool is never freed; `raw` is writable.
        let status = unsafe { ffi::bh_alloc(self.raw.as_ptr(), len, raw.as_mut_ptr()) };
        // SAFETY: on success the shim has filled every field, and the buffer is ours alone.
        (status == 0).then(|| Mbuf { raw: unsafe { raw.assume_init() } })
    }
}

impl fmt::Debug for Mempool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mempool").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A frame in a DPDK buffer. Dropping it gives the buffer back.
#[repr(transparent)]
pub struct Mbuf {
    pub(crate) raw: RawFrame,
}

// SAFETY: a frame is owned by one holder, and giving its buffer back from any thread is allowed.
unsafe impl Send for Mbuf {}

impl Frame for Mbuf {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the shim set `data` and `len` to one contiguous segment that we own.
        unsafe { slice::from_raw_parts(self.raw.data.as_ptr(), self.raw.len as usize) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.raw.data.as_ptr(), self.raw.len as usize) }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: the frame is ours and is not used again.
        unsafe { ffi::bh_free_bulk(&raw const self.raw, 1) }
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mbuf").field(&self.bytes()).finish()
    }
}
