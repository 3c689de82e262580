//! Claims from a worker to a control thread.
//!
//! The worker neither waits nor allocates. What a host repeats within [`REPEAT_NS`] goes no further; a
//! host that claims without end spends its own share, all hosts together theirs, and neither can take
//! the room that is kept for what DHCP servers say. What is lost is counted.

use std::sync::Arc;

use ahash::RandomState;
use rtrb::{Consumer, Producer, RingBuffer};

use super::observation::observe;
use super::{Observation, ObservationKind};
use crate::burst::Columns;
use crate::counters::Counter;
use crate::port::{Burst, Frame};
use crate::snapshot::WirePolicy;
use crate::verdict::{DropReason, Verdict};
use crate::worker::is_sent;

/// For how long the same claim again is no news, in nanoseconds. A binding that somebody else gave
/// back meanwhile is then claimed again after so long.
const REPEAT_NS: u64 = 500_000_000;

/// Claims that are remembered to know them again.
const REMEMBERED: usize = 4096;

/// Hosts, by a hash of their MAC address, that have a share of their own.
const SHARES: usize = 1024;

/// Claims in a second that go through: of one host, of all hosts, and of DHCP servers. Twice as many may
/// come at once.
const PER_HOST: u32 = 50;
const OF_HOSTS: u32 = 5_000;
const OF_SERVERS: u32 = 5_000;

/// Of the ring, one part in so many is kept for DHCP servers.
const KEPT_PART: usize = 4;

/// What became of claims at one worker.
#[derive(Debug, Default)]
pub struct TapCounters {
    observed: [Counter; ObservationKind::ALL.len()],
    /// Claims that were repeated too soon to be news.
    pub repeated: Counter,
    /// Claims beyond what a host, or all of them, may claim in a second: lost.
    pub limited: Counter,
    /// Claims that found the ring full: lost.
    pub ring_full: Counter,
}

impl TapCounters {
    /// Claims of a kind that went through.
    pub fn observed(&self, kind: ObservationKind) -> &Counter {
        &self.observed[kind as usize]
    }
}

/// The worker's end.
#[derive(Debug)]
pub struct Tap {
    ring: Producer<Observation>,
    kept: usize,
    counters: Arc<TapCounters>,
    hash: RandomState,
    /// Hashes of claims, and when each went through last.
    recent: Box<[(u64, u64)]>,
    shares: Box<[Share]>,
    hosts: Share,
    servers: Share,
}

/// The control thread's end.
#[derive(Debug)]
pub struct Source {
    ring: Consumer<Observation>,
    counters: Arc<TapCounters>,
}

/// Both ends; `capacity` is the number of claims that may wait, at least 4.
pub fn channel(capacity: usize) -> (Tap, Source) {
    let capacity = capacity.max(KEPT_PART);
    let (producer, consumer) = RingBuffer::new(capacity);
    let counters = Arc::new(TapCounters::default());
    let tap = Tap {
        ring: producer,
        kept: capacity / KEPT_PART,
        counters: counters.clone(),
        hash: RandomState::new(),
        recent: vec![(0, 0); REMEMBERED].into(),
        shares: vec![Share::full(PER_HOST); SHARES].into(),
        hosts: Share::full(OF_HOSTS),
        servers: Share::full(OF_SERVERS),
    };
    (tap, Source { ring: consumer, counters })
}

impl Tap {
    /// Looks at the frames of a burst that may claim something, a bit of `claims` for each place, once
    /// they are judged. What nobody will receive binds nobody; what contradicts a binding is told.
    #[cold]
    #[inline(never)]
    pub fn watch<F: Frame>(
        &mut self,
        columns: &Columns,
        burst: &Burst<F>,
        claims: u64,
        (wire, from_inside): (&WirePolicy, bool),
        now_ns: u64,
    ) {
        for (place, frame) in burst.iter().enumerate() {
            let verdict = columns.verdict[place];
            let is_told = is_sent(verdict, wire.mode)
                || verdict == Verdict::Drop(DropReason::AddressConflict);
            if claims >> place & 1 != 0 && is_told {
                for claim in observe(frame.bytes(), &columns.parsed[place], wire, from_inside) {
                    self.hand_over(claim, now_ns);
                }
            }
        }
    }

    /// Hands a claim to the control thread, unless it is no news or too much.
    pub fn hand_over(&mut self, observation: Observation, now_ns: u64) {
        if self.is_repeated(&observation, now_ns) {
            self.counters.repeated.add(1);
            return;
        }
        let of_server = observation.kind.is_of_server();
        let granted = if of_server {
            self.servers.take(OF_SERVERS, now_ns)
        } else {
            let share = self.hash.hash_one(observation.mac) as usize % SHARES;
            self.shares[share].take(PER_HOST, now_ns) && self.hosts.take(OF_HOSTS, now_ns)
        };
        if !granted {
            self.counters.limited.add(1);
            return;
        }
        let kept = if of_server { 0 } else { self.kept };
        if self.ring.slots() <= kept || self.ring.push(observation).is_err() {
            self.counters.ring_full.add(1);
            return;
        }
        self.counters.observed(observation.kind).add(1);
        self.remember(&observation, now_ns);
    }

    /// Only what hosts say of themselves is repeated for nothing: each lease and its end counts.
    fn is_repeated(&self, observation: &Observation, now_ns: u64) -> bool {
        let hash = self.hash.hash_one(observation);
        let (last, at_ns) = self.recent[hash as usize % REMEMBERED];
        is_repeatable(observation.kind) && last == hash && now_ns < at_ns
    }

    fn remember(&mut self, observation: &Observation, now_ns: u64) {
        if is_repeatable(observation.kind) {
            let hash = self.hash.hash_one(observation);
            self.recent[hash as usize % REMEMBERED] = (hash, now_ns + REPEAT_NS);
        }
    }
}

fn is_repeatable(kind: ObservationKind) -> bool {
    use ObservationKind::{Arp, DhcpClient, NeighbourDiscovery};
    matches!(kind, Arp | NeighbourDiscovery | DhcpClient)
}

impl Source {
    /// The next claim.
    pub fn take(&mut self) -> Option<Observation> {
        self.ring.pop().ok()
    }

    /// What the worker counts.
    pub fn counters(&self) -> &Arc<TapCounters> {
        &self.counters
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Millionths of a claim.
    left: u64,
    since_ns: u64,
}

impl Share {
    const CLAIM: u64 = 1_000_000;

    fn full(per_second: u32) -> Self {
        Self { left: u64::from(per_second) * 2 * Self::CLAIM, since_ns: 0 }
    }

    fn take(&mut self, per_second: u32, now_ns: u64) -> bool {
        let most = Self::full(per_second).left;
        // Millionths in a second for each claim in a second: one in a microsecond.
        let passed_us = now_ns.saturating_sub(self.since_ns) / 1_000;
        if passed_us > 0 {
            let grown = passed_us.saturating_mul(u64::from(per_second));
            self.left = self.left.saturating_add(grown).min(most);
            self.since_ns += passed_us * 1_000;
        }
        let granted = self.left >= Self::CLAIM;
        if granted {
            self.left -= Self::CLAIM;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use bulkhead_rules::headers::{Mac, VlanTags, WireId};

    use super::*;

    fn claim(host: u32, kind: ObservationKind) -> Observation {
        let [.., a, b, c, d] = host.to_be_bytes();
        Observation {
            wire: WireId(0),
            tags: VlanTags::UNTAGGED,
            inside: true,
            mac: Mac([2, 0, a, b, c, d]),
            address: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + host)),
            kind,
            lease_s: 0,
            xid: 0,
        }
    }

    fn taken(source: &mut Source) -> Vec<Observation> {
        std::iter::from_fn(|| source.take()).collect()
    }

    #[test]
    fn a_claim_goes_through_once_in_a_while() {
        let (mut tap, mut source) = channel(64);
        let arp = claim(1, ObservationKind::Arp);
        for now_ns in [5, 6, REPEAT_NS + 4] {
            tap.hand_over(arp, now_ns);
        }
        assert_eq!(taken(&mut source), [arp]);
        tap.hand_over(arp, REPEAT_NS + 5);
        assert_eq!(taken(&mut source), [arp]);
        let counters = source.counters();
        assert_eq!(counters.observed(ObservationKind::Arp).value(), 2);
        assert_eq!(counters.repeated.value(), 2);
    }

    #[test]
    fn leases_and_their_ends_all_go_through() {
        let (mut tap, mut source) = channel(64);
        let ack = claim(1, ObservationKind::DhcpAck);
        let release = claim(1, ObservationKind::DhcpRelease);
        for one in [ack, release, ack, release] {
            tap.hand_over(one, 7);
        }
        assert_eq!(taken(&mut source), [ack, release, ack, release]);
    }

    #[test]
    fn one_host_cannot_take_the_share_of_others() {
        let (mut tap, mut source) = channel(1 << 14);
        let greedy = claim(1, ObservationKind::Arp);
        for n in 0..10_000 {
            let address = IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + n));
            tap.hand_over(Observation { address, ..greedy }, 0);
        }
        assert_eq!(taken(&mut source).len(), 2 * PER_HOST as usize);
        assert_eq!(source.counters().limited.value(), 10_000 - 2 * u64::from(PER_HOST));
        let others = (2..20).filter(|&n| {
            // One in a thousand shares with the greedy one.
            tap.hand_over(claim(n, ObservationKind::Arp), 0);
            source.take().is_some()
        });
        assert!(others.count() >= 16);
    }

    #[test]
    fn a_flood_leaves_room_and_rate_for_servers() {
        let (mut tap, mut source) = channel(64);
        for host in 0..50_000 {
            tap.hand_over(claim(host, ObservationKind::Arp), 0);
        }
        assert!(source.counters().ring_full.value() > 0);
        let acks: Vec<_> = (0..16).map(|host| claim(host, ObservationKind::DhcpAck)).collect();
        acks.iter().for_each(|&ack| tap.hand_over(ack, 0));
        let arrived = taken(&mut source);
        assert_eq!(arrived.len(), 64);
        assert_eq!(arrived[48..], acks);
    }

    #[test]
    fn a_share_fills_again_with_time() {
        let mut share = Share::full(10);
        assert_eq!((0..100).filter(|_| share.take(10, 1)).count(), 20);
        assert_eq!((0..100).filter(|n| share.take(10, 1 + n * 10_000_000)).count(), 9);
        assert_eq!((0..100).filter(|_| share.take(10, u64::MAX)).count(), 20);
    }
}
