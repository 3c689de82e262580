//! All FFI: a burst-level C shim over DPDK, and the port that uses it.
