//! Where bursts of frames come from and go to.
//!
//! A worker is generic over [`Port`], so that the same code runs over DPDK, over memory, over
//! capture files and behind a fault injector. Frames are owned: whoever holds one must pass it on
//! or drop it, and dropping it gives its buffer back.

pub mod capture;
pub mod fault;
pub mod loopback;
pub mod rss;

use arrayvec::ArrayVec;

use bulkhead_rules::policy::RuleId;

use crate::parse::{Origin, Parsed};
use crate::verdict::Verdict;

/// The most frames that a worker takes from a port at once.
pub const MAX_BURST: usize = 64;

/// A burst of frames, in the order of their arrival.
pub type Burst<F> = ArrayVec<F, MAX_BURST>;

/// An owned frame: the bytes from the destination MAC address on, without FCS.
pub trait Frame: Send {
    /// Where frames of this kind come from.
    const ORIGIN: Origin = Origin::Wire;

    /// The frame's bytes.
    fn bytes(&self) -> &[u8];

    /// The frame's bytes, to be changed in place.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Nanoseconds since the Unix epoch at which the frame arrived, where the port knows it (a
    /// capture file does; [`None`] for live ports, whose worker's clock is the time).
    fn timestamp_ns(&self) -> Option<u64> {
        None
    }

    /// Told to a received frame once it is judged and before it is sent or released: what the parser
    /// learnt (where it did not parse, of the layers before the one that failed), the verdict of an
    /// enforcing wire, and the rule that gave it. A port that reports on single frames keeps it; for
    /// all others it is nothing.
    fn judged(&mut self, parsed: &Parsed, verdict: Verdict, rule: Option<RuleId>) {
        let _ = (parsed, verdict, rule);
    }
}

/// What the port's driver and hardware count. All start at zero when the port is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DriverCounters {
    /// Frames that the device received and could not hand over (no buffer, ring full).
    pub missed: u64,
    /// Frames that arrived damaged.
    pub receive_errors: u64,
    /// Frames that could not be sent.
    pub transmit_errors: u64,
    /// Receptions that failed because the mempool was empty.
    pub no_buffer: u64,
}

/// One receive and one transmit queue of a device, owned by one worker.
///
/// Frames received on one port of a wire are sent on the other, so both are of one type.
pub trait Port {
    /// The frames of this port.
    type Frame: Frame;

    /// Appends frames that have arrived to `burst`, at most as many as it has room for. Returns at
    /// once when there are none. Frames that the port itself had to discard (a multi-segment packet
    /// that could not be linearised) are counted through [`Port::take_discarded`].
    fn receive(&mut self, burst: &mut Burst<Self::Frame>);

    /// Sends frames from the front of `burst` and removes them; what the device does not take stays,
    /// in order.
    fn transmit(&mut self, burst: &mut Burst<Self::Frame>);

    /// Gives back the buffers of all frames of `burst` in one call.
    fn release(&mut self, burst: &mut Burst<Self::Frame>) {
        burst.clear();
    }

    /// A new frame of `length` zeroed bytes for a packet that the gateway originates; [`None`] when
    /// there is no buffer.
    fn originate(&mut self, length: usize) -> Option<Self::Frame>;

    /// Frames (and their bytes) received and discarded by the port since the last call, under
    /// [`crate::verdict::DropReason::Multisegment`]. They count as received.
    fn take_discarded(&mut self) -> (u64, u64) {
        (0, 0)
    }

    /// The longest frame that can be sent, in bytes without FCS.
    fn max_frame_len(&self) -> usize;

    /// Whether no frame will ever arrive again: the end of a capture file. Live ports never end.
    fn is_exhausted(&self) -> bool {
        false
    }
}
