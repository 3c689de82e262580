//! Copies of frames: evidence of what was denied, the first payload of each direction of a flow, and
//! what hosts announce about themselves.
//!
//! Each kind has a share of its own in a second, so that a flood of one leaves room for the others.
//! What is beyond it is counted, and so is what finds its ring full.

use std::sync::Arc;

use bulkhead_rules::headers::{Headers, WireId, protocol};
use bulkhead_rules::policy::RuleId;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::counters::Counter;
use crate::verdict::Verdict;

/// Bytes that are kept of a denied frame, and of one with a first payload.
pub const SHORT_BYTES: usize = 256;
/// Bytes that are kept of an announcement: all of a frame of an ordinary MTU.
pub const LONG_BYTES: usize = 1514;

/// Copies that may wait for the control thread, in all 0.8 MB.
const SHORT_RING: usize = 1024;
const LONG_RING: usize = 256;

/// EtherType of LLDP.
const ETHER_LLDP: u16 = 0x88cc;

/// Why a frame was copied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum CopyKind {
    /// It was denied, and the first of its tuple for a while.
    Denied,
    /// It has the first payload of its direction of a flow.
    FirstPayload,
    /// It tells names or roles of hosts.
    Announcement,
}

impl CopyKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Denied, Self::FirstPayload, Self::Announcement];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::FirstPayload => "first_payload",
            Self::Announcement => "announcement",
        }
    }
}

/// A copy of a frame's first bytes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FrameCopy<const BYTES: usize> {
    /// What was decided, and when.
    pub about: Decided,
    /// Why it was copied.
    pub kind: CopyKind,
    /// Its length on the wire, without FCS.
    pub len: u32,
    kept: u16,
    bytes: [u8; BYTES],
}

impl<const BYTES: usize> FrameCopy<BYTES> {
    fn new(kind: CopyKind, about: Decided, frame: &[u8]) -> Self {
        let kept = frame.len().min(BYTES);
        let mut bytes = [0; BYTES];
        bytes[..kept].copy_from_slice(&frame[..kept]);
        Self { about, kind, len: frame.len() as u32, kept: kept as u16, bytes }
    }

    /// The frame's first bytes, from the Ethernet header on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.kept)]
    }
}

/// What was decided of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decided {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: i64,
    /// The wire on which it came.
    pub wire: WireId,
    /// Whether it came in by the wire's inside port.
    pub from_inside: bool,
    /// The verdict of an enforcing wire.
    pub verdict: Verdict,
    /// The rule that decided, where one did for this frame.
    pub rule: Option<RuleId>,
    /// The epoch of the decision.
    pub epoch: u64,
}

/// What a worker counts of its copies.
#[derive(Debug, Default)]
pub struct CopyCounters {
    told: [Counter; CopyKind::ALL.len()],
    limited: [Counter; CopyKind::ALL.len()],
    /// Copies that found their ring full: lost.
    pub lost: Counter,
}

impl CopyCounters {
    /// Copies of a kind that were handed over.
    pub fn told(&self, kind: CopyKind) -> &Counter {
        &self.told[kind as usize]
    }

    /// Frames of a kind that were not copied because there were too many in a second.
    pub fn limited(&self, kind: CopyKind) -> &Counter {
        &self.limited[kind as usize]
    }
}

/// The worker's end.
pub(super) struct Copies {
    short: Producer<FrameCopy<SHORT_BYTES>>,
    long: Producer<FrameCopy<LONG_BYTES>>,
    shares: [Share; CopyKind::ALL.len()],
    counters: Arc<CopyCounters>,
}

/// The control thread's end.
#[derive(Debug)]
pub(super) struct CopySource {
    pub(super) short: Consumer<FrameCopy<SHORT_BYTES>>,
    pub(super) long: Consumer<FrameCopy<LONG_BYTES>>,
    pub(super) counters: Arc<CopyCounters>,
}

/// Both ends, for `denied_per_second` denied frames.
pub(super) fn channel(denied_per_second: u32) -> (Copies, CopySource) {
    let counters = Arc::new(CopyCounters::default());
    let (short, short_source) = RingBuffer::new(SHORT_RING);
    let (long, long_source) = RingBuffer::new(LONG_RING);
    let shares = [denied_per_second, 2000, 500].map(Share::new);
    let copies = Copies { short, long, shares, counters: counters.clone() };
    (copies, CopySource { short: short_source, long: long_source, counters })
}

impl Copies {
    /// Copies a frame, if its kind has any of its share of the second left.
    pub(super) fn copy(&mut self, kind: CopyKind, about: Decided, frame: &[u8], now_ns: u64) {
        if !self.shares[kind as usize].take(now_ns) {
            self.counters.limited(kind).add(1);
            return;
        }
        let is_told = if kind == CopyKind::Announcement {
            self.long.slots() > 0 && self.long.push(FrameCopy::new(kind, about, frame)).is_ok()
        } else {
            self.short.slots() > 0 && self.short.push(FrameCopy::new(kind, about, frame)).is_ok()
        };
        if is_told { self.counters.told(kind).add(1) } else { self.counters.lost.add(1) }
    }
}

/// Whether frames with these headers tell names or roles of hosts: DNS answers, DHCP, NetBIOS, mDNS,
/// LLMNR, LLDP.
pub(crate) fn is_announcement(headers: &Headers) -> bool {
    let is_told = |port: u16| matches!(port, 67 | 68 | 137 | 138 | 546 | 547 | 5353 | 5355);
    match headers.protocol {
        _ if !headers.is_ip() => headers.ether_type == ETHER_LLDP,
        protocol::UDP => {
            headers.src_port == 53 || is_told(headers.src_port) || is_told(headers.dst_port)
        }
        _ => false,
    }
}

/// A token bucket of a second.
struct Share {
    per_second: u32,
    left: u32,
    since_ns: u64,
}

impl Share {
    fn new(per_second: u32) -> Self {
        Self { per_second, left: per_second, since_ns: 0 }
    }

    fn take(&mut self, now_ns: u64) -> bool {
        const SECOND_NS: u64 = 1_000_000_000;
        if now_ns.saturating_sub(self.since_ns) >= SECOND_NS {
            (self.left, self.since_ns) = (self.per_second, now_ns);
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: Decided = Decided {
        unix_ms: 1,
        wire: WireId(0),
        from_inside: true,
        verdict: Verdict::Forward,
        rule: None,
        epoch: 1,
    };

    #[test]
    fn each_kind_has_a_share_of_its_own_and_all_that_is_not_told_is_counted() {
        let (mut copies, mut source) = channel(3);
        for _ in 0..5 {
            copies.copy(CopyKind::Denied, ABOUT, &[7; 2000], 10);
        }
        copies.copy(CopyKind::Announcement, ABOUT, &[8; 2000], 10);
        copies.copy(CopyKind::FirstPayload, ABOUT, &[9; 60], 10);
        let counters = source.counters.clone();
        let counts = |kind| (counters.told(kind).value(), counters.limited(kind).value());
        assert_eq!(CopyKind::ALL.map(counts), [(3, 2), (1, 0), (1, 0)]);
        copies.copy(CopyKind::Denied, ABOUT, &[7; 20], 1_000_000_010);
        assert_eq!(counts(CopyKind::Denied), (4, 2), "another second, another share");
        let short: Vec<_> = std::iter::from_fn(|| source.short.pop().ok()).collect();
        assert_eq!(
            short.iter().map(|copy| copy.bytes().len()).collect::<Vec<_>>(),
            [256, 256, 256, 60, 20]
        );
        let long = source.long.pop().expect("it was told");
        assert_eq!((long.bytes(), long.len), (&[8; 1514][..], 2000));
        for nth in 0..LONG_RING as u64 + 3 {
            copies.copy(CopyKind::Announcement, ABOUT, &[0; 60], 2_000_000_010 + nth);
        }
        assert_eq!(counters.lost.value(), 3);
    }
}
