//! What [`crate::rfc2544`] and [`crate::rfc9411`] share: a tester around a production worker.
//!
//! [`cable`] plugs the two into each other in memory, [`rig`] runs the worker on a thread of its own
//! (over cables, or over DPDK's `net_memif`, on which frames are copied through shared memory as a
//! NIC's are through its rings), [`disturbance`] tells when the machine took a processor away from
//! either, [`pace`] says when a frame is due, [`frame`] writes the frames.
//!
//! A tester that waits for what it tests hides its latency ("coordinated omission"): each latency
//! here runs from the instant at which the frame, or the connection, was due by the schedule,
//! however late it was sent.

pub(crate) mod cable;
pub(crate) mod disturbance;
pub(crate) mod frame;
pub(crate) mod pace;
pub(crate) mod report;
pub(crate) mod rig;
pub(crate) mod segment;

/// What carries frames between the tester and the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Over {
    /// Rings in memory that hand frames over by their address.
    Memory,
    /// DPDK's `net_memif`: every frame is copied into shared memory and out of it.
    Memif,
}

impl Over {
    /// Its name in figures and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Memif => "memif",
        }
    }
}
