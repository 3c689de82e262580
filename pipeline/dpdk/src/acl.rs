//! `librte_acl` over five-tuples: what benchmarks and tests compare our classifier with.
//!
//! Unsafe: the context is a C object behind a pointer; a build runs under a limit of the process.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::fmt;
use std::io;
use std::marker::{PhantomData, PhantomPinned};
use std::mem::size_of;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::eal::Eal;
use crate::error::{Error, ErrorKind, Result};

/// Which addresses a context is about: `librte_acl` needs one for each family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AclFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One rule: all five conditions hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AclRule {
    /// Source prefix; an IPv4 address is in the low 32 bits.
    pub src: (u128, u8),
    /// Destination prefix.
    pub dst: (u128, u8),
    /// First and last source port.
    pub src_ports: (u16, u16),
    /// First and last destination port.
    pub dst_ports: (u16, u16),
    /// The protocol, or any.
    pub protocol: Option<u8>,
}

/// One packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AclKey {
    /// Source address; an IPv4 address is in the low 32 bits.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// The protocol.
    pub protocol: u8,
}

/// What a build may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AclLimits {
    /// `max_size` of the build's configuration: bytes of the compiled form. 0 is no limit, and
    /// makes the library split the rules into more and smaller tries.
    pub max_size: usize,
    /// Bytes that the build may take on top of what the process has.
    pub build_bytes: u64,
}

/// The implementations of the lookup on x86-64, the best last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AclAlgorithm {
    /// No SIMD.
    Scalar = 1,
    /// SSE 4.1.
    Sse = 2,
    /// AVX2.
    Avx2 = 3,
    /// AVX-512 instructions on 256 bits, 16 packets in flight.
    Avx512x16 = 6,
    /// AVX-512, 32 packets in flight.
    Avx512x32 = 7,
}

impl AclAlgorithm {
    /// Every one of them.
    pub const ALL: [Self; 5] =
        [Self::Scalar, Self::Sse, Self::Avx2, Self::Avx512x16, Self::Avx512x32];
}

impl fmt::Display for AclAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Sse => "SSE",
            Self::Avx2 => "AVX2",
            Self::Avx512x16 => "AVX512x16",
            Self::Avx512x32 => "AVX512x32",
        })
    }
}

/// Packets as `librte_acl` wants them: one pointer each, as into a burst of frames.
pub struct AclKeys {
    family: AclFamily,
    bytes: Vec<u8>,
    pointers: Vec<*const u8>,
}

impl AclKeys {
    /// The same packets.
    pub fn new(family: AclFamily, keys: impl ExactSizeIterator<Item = AclKey>) -> Self {
        let size = family.key_bytes();
        let mut bytes = Vec::with_capacity(keys.len() * size);
        for key in keys {
            bytes.extend([key.protocol, 0, 0, 0]);
            family.address(key.src, &mut bytes);
            family.address(key.dst, &mut bytes);
            bytes.extend(key.src_port.to_be_bytes());
            bytes.extend(key.dst_port.to_be_bytes());
        }
        // The vector does not grow any more, so that the pointers stay good.
        let pointers = bytes.chunks_exact(size).map(<[u8]>::as_ptr).collect();
        Self { family, bytes, pointers }
    }

    /// Room for so many packets, all of zeros at first: a burst that is filled again and again.
    pub fn room(family: AclFamily, packets: usize) -> Self {
        let zeros = AclKey { src: 0, dst: 0, src_port: 0, dst_port: 0, protocol: 0 };
        Self::new(family, std::iter::repeat_n(zeros, packets))
    }

    /// Fills the first places with the packets of `range`.
    ///
    /// # Panics
    ///
    /// Where the other family's are given, or more than there is room for.
    pub fn copy_from(&mut self, from: &Self, range: Range<usize>) {
        assert_eq!(self.family, from.family, "keys of the other family");
        let size = self.family.key_bytes();
        let bytes = &from.bytes[range.start * size..range.end * size];
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.pointers.clear();
        self.pointers.extend(self.bytes.chunks_exact(size).map(<[u8]>::as_ptr));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pointers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pointers.is_empty()
    }
}

impl fmt::Debug for AclKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AclKeys({:?}, {} in {} bytes)", self.family, self.len(), self.bytes.len())
    }
}

/// A built context.
pub struct Acl {
    raw: NonNull<RteAclContext>,
    family: AclFamily,
    bytes: usize,
}

impl Acl {
    /// Builds a context of rules of which the first that matches decides.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Memory`] where the build takes more than `limits` or than there is, otherwise
    /// what the library said.
    pub fn build(
        _eal: &Eal,
        family: AclFamily,
        rules: &[AclRule],
        limits: AclLimits,
    ) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);

        let name = format!("acl-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).unwrap_or_default();
        let count = u32::try_from(rules.len()).unwrap_or(u32::MAX);
        let before = heap_bytes();
        let mut raw = ptr::null_mut();
        // SAFETY: EAL is up, which `_eal` proves; `name` ends with NUL; `raw` is writable.
        let status = unsafe { bh_acl_create(name.as_ptr(), family.is_v6(), count, &raw mut raw) };
        let Some(raw) = NonNull::new(raw) else { return Err(failed("rte_acl_create", status)) };
        let mut context = Self { raw, family, bytes: 0 };
        let rules: Vec<RawRule> = rules.iter().map(|rule| RawRule::new(family, rule)).collect();
        // SAFETY: the context is of this family and has room for `count` rules, which are readable.
        let status = unsafe { bh_acl_add(raw.as_ptr(), family.is_v6(), rules.as_ptr(), count) };
        if status != 0 {
            return Err(failed("rte_acl_add_rules", status));
        }
        drop(rules);
        let limit = DataLimit::set(limits.build_bytes)?;
        // SAFETY: the context is of this family.
        let status = unsafe { bh_acl_build(raw.as_ptr(), family.is_v6(), limits.max_size) };
        drop(limit);
        if status != 0 {
            return Err(failed("rte_acl_build", status).because(
                ErrorKind::Memory,
                format!("within {} MiB", limits.build_bytes >> 20),
                "",
            ));
        }
        context.bytes = heap_bytes().saturating_sub(before);
        Ok(context)
    }

    /// Bytes of DPDK's heap that the context takes, its copy of the rules included.
    pub fn size_bytes(&self) -> usize {
        self.bytes
    }

    /// Which addresses it is about.
    pub fn family(&self) -> AclFamily {
        self.family
    }

    /// Has lookups made by `algorithm`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the processor or the library does not have it.
    pub fn set_algorithm(&mut self, algorithm: AclAlgorithm) -> Result<()> {
        // SAFETY: nobody looks up meanwhile: the context is borrowed mutably.
        match unsafe { bh_acl_algorithm(self.raw.as_ptr(), algorithm as c_int) } {
            0 => Ok(()),
            status => Err(failed("rte_acl_set_ctx_classify", status)),
        }
    }

    /// Finds for each of the keys of `range` the index of the first rule that matches, plus 1, or 0
    /// where there is none.
    ///
    /// # Panics
    ///
    /// Where the keys are of the other family, `range` is not within them, or `out` is shorter.
    pub fn classify(&self, keys: &AclKeys, range: Range<usize>, out: &mut [u32]) {
        assert_eq!(keys.family, self.family, "keys of the other family");
        let pointers = &keys.pointers[range];
        let out = &mut out[..pointers.len()];
        let count = u32::try_from(out.len()).expect("a batch is short");
        // SAFETY: each pointer is to a whole key of this family, which `keys` owns and nobody
        // writes; `out` has room for all results. librte_acl does not write to the pointers.
        let status = unsafe {
            bh_acl_classify(self.raw.as_ptr(), pointers.as_ptr(), out.as_mut_ptr(), count)
        };
        assert_eq!(status, 0, "rte_acl_classify of {count} keys");
    }
}

impl fmt::Debug for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acl({:?}, {} bytes)", self.family, self.bytes)
    }
}

impl Drop for Acl {
    fn drop(&mut self) {
        // SAFETY: the context is ours alone.
        unsafe { bh_acl_free(self.raw.as_ptr()) }
    }
}

impl AclFamily {
    fn is_v6(self) -> c_int {
        c_int::from(self == Self::V6)
    }

    fn key_bytes(self) -> usize {
        match self {
            Self::V4 => 16,
            Self::V6 => 40,
        }
    }

    fn address(self, address: u128, out: &mut Vec<u8>) {
        match self {
            Self::V4 => out.extend((address as u32).to_be_bytes()),
            Self::V6 => out.extend(address.to_be_bytes()),
        }
    }
}

/// An `rte_acl_ctx`, whose layout only C knows.
#[repr(C)]
struct RteAclContext {
    _opaque: [u8; 0],
    _not_send: PhantomData<(*mut u8, PhantomPinned)>,
}

/// `struct bh_acl_rule`.
#[repr(C)]
struct RawRule {
    src: [u8; 16],
    dst: [u8; 16],
    src_len: u8,
    dst_len: u8,
    protocol: u8,
    protocol_mask: u8,
    src_ports: [u16; 2],
    dst_ports: [u16; 2],
}

const _: () = assert!(size_of::<RawRule>() == 44);

impl RawRule {
    fn new(family: AclFamily, rule: &AclRule) -> Self {
        let address = |address: u128| match family {
            AclFamily::V4 => (address << 96).to_be_bytes(),
            AclFamily::V6 => address.to_be_bytes(),
        };
        Self {
            src: address(rule.src.0),
            dst: address(rule.dst.0),
            src_len: rule.src.1,
            dst_len: rule.dst.1,
            protocol: rule.protocol.unwrap_or(0),
            protocol_mask: if rule.protocol.is_some() { 0xff } else { 0 },
            src_ports: rule.src_ports.into(),
            dst_ports: rule.dst_ports.into(),
        }
    }
}

unsafe extern "C" {
    fn bh_acl_create(
        name: *const c_char,
        v6: c_int,
        rules: u32,
        context: *mut *mut RteAclContext,
    ) -> c_int;
    fn bh_acl_add(
        context: *mut RteAclContext,
        v6: c_int,
        rules: *const RawRule,
        count: u32,
    ) -> c_int;
    fn bh_acl_build(context: *mut RteAclContext, v6: c_int, max_size: usize) -> c_int;
    fn bh_acl_algorithm(context: *mut RteAclContext, algorithm: c_int) -> c_int;
    fn bh_acl_classify(
        context: *const RteAclContext,
        keys: *const *const u8,
        results: *mut u32,
        count: u32,
    ) -> c_int;
    fn bh_acl_free(context: *mut RteAclContext);
    fn bh_heap_bytes() -> usize;
}

fn heap_bytes() -> usize {
    // SAFETY: no arguments; called after EAL is up.
    unsafe { bh_heap_bytes() }
}

fn failed(call: &'static str, status: c_int) -> Error {
    Error::dpdk(call, status)
}

/// Makes the C library's allocations fail that would take the process further than a limit:
/// librte_acl takes that for an error, where a machine that runs out of memory kills the process.
struct DataLimit(libc::rlimit);

impl DataLimit {
    fn set(bytes: u64) -> Result<Self> {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `before` is writable.
        if unsafe { libc::getrlimit(libc::RLIMIT_DATA, &raw mut before) } != 0 {
            return Err(Error::kernel("getrlimit", &io::Error::last_os_error()));
        }
        let wanted = data_bytes()?.saturating_add(bytes).min(before.rlim_cur);
        let limit = libc::rlimit { rlim_cur: wanted, ..before };
        // SAFETY: `limit` is readable.
        match unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) } {
            0 => Ok(Self(before)),
            _ => Err(Error::kernel("setrlimit", &io::Error::last_os_error())),
        }
    }
}

impl Drop for DataLimit {
    fn drop(&mut self) {
        // SAFETY: the limit is readable. Back to a limit that held before: it cannot fail.
        unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const self.0) };
    }
}

/// What counts against RLIMIT_DATA now.
fn data_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| Error::kernel("read /proc/self/status", &error))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix(" kB")?.parse().ok());
    Ok(kib.unwrap_or(0_u64) << 10)
}
