//! All FFI of Bulkhead: a burst-level C shim over DPDK, and the port that uses it.
//!
//! Read in this order: [`eal`](Eal) starts DPDK once per process; [`pool`](Mempool) holds the
//! buffers; [`device`](Device) opens a port by its [`name`](PortName) and hands out queues;
//! [`port`](DpdkPort) is one queue pair, as the worker sees it. `kernel` looks after interfaces that
//! the kernel drives ([`redirect`] has the kernel carry their frames alone), `pci` after devices that it does not. `ffi` mirrors `shim.h`, and only it,
//! `ethdev`, `eal`, `pool`, `port`, `log`, `kernel::sys` and `acl` hold unsafe code.
//!
//! [`acl`](Acl), with the feature of that name, is the competitor that benchmarks measure beside us.

#[cfg(feature = "acl")]
mod acl;
mod device;
mod eal;
mod error;
mod ethdev;
mod ffi;
mod kernel;
mod log;
mod name;
mod pci;
mod pool;
mod port;

#[cfg(feature = "acl")]
pub use acl::{Acl, AclAlgorithm, AclFamily, AclKey, AclKeys, AclLimits, AclRule};
pub use device::{Backend, Device, DeviceConfig, LinkState};
pub use eal::{Eal, EalConfig, HugePages, RegisteredWorker, register_worker};
pub use error::{Error, ErrorKind, Result};
pub use kernel::found::keep_found_beside;
pub use kernel::{check_interface, redirect};
pub use log::{LogLevel, LogSink, set_log_sink};
pub use name::PortName;
pub use pool::{Mbuf, Mempool, MempoolConfig};
pub use port::DpdkPort;
