//! Headers that lie on the edges of a policy's rules, where engines disagree if they do.

use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, PolicyTime, VlanTags, WireId};
use crate::policy::{Endpoint, EndpointId, Policy, ServiceTerm};
use crate::sets::{FiniteSet, RangeSet};

/// An endless, repeatable stream of headers for a policy. Each is taken from the edges of one rule
/// (just outside, first, inside, last and just outside again of its ranges; its MAC addresses, tags
/// and wires, and others), with fields of a second rule mixed in, and now and then with fields that
/// no parser would produce.
#[derive(Clone, Debug)]
pub struct Probes<'a> {
    policy: &'a Policy,
    schedule: Vec<i64>,
    state: u64,
}

impl<'a> Probes<'a> {
    /// The stream that belongs to `seed`.
    pub fn new(policy: &'a Policy, seed: u64) -> Self {
        Self { policy, schedule: policy.schedule(), state: seed }
    }

    /// The next headers.
    pub fn headers(&mut self) -> Headers {
        let mut headers = self.of_some_rule();
        let other = self.of_some_rule();
        match self.below(8) {
            0 => (headers.src, headers.src_mac) = (other.src, other.src_mac),
            1 => (headers.dst, headers.dst_mac) = (other.dst, other.dst_mac),
            2 => {
                headers.protocol = other.protocol;
                (headers.src_port, headers.dst_port) = (other.src_port, other.dst_port);
            }
            3 => (headers.tags, headers.wire) = (other.tags, other.wire),
            4 => headers = headers.reversed(),
            _ => {}
        }
        if self.below(32) > 0 { headers.normalised() } else { headers }
    }

    /// An instant at, just before or just after one at which the policy changes, or any other.
    pub fn instant(&mut self) -> PolicyTime {
        let unix_ms = match self.pick_index(self.schedule.len()) {
            Some(index) if self.below(8) > 0 => self.schedule[index] + self.below(3) as i64 - 1,
            _ => self.next() as i64,
        };
        PolicyTime { unix_ms, synchronised: self.below(4) > 0 }
    }

    fn of_some_rule(&mut self) -> Headers {
        let mut headers = self.anything();
        // What an edit removed had edges too.
        let Some(rule) = self.pick_index(self.policy.rules().len()) else { return headers };
        let rule = &self.policy.rules()[rule];
        let service = self.policy.service(rule.service);
        if let Some(term) = self.pick_index(service.terms.len()) {
            self.service(&service.terms[term], &mut headers);
        }
        (headers.src, headers.src_mac, headers.tags) = self.host(rule.from, &headers);
        let tags;
        (headers.dst, headers.dst_mac, tags) = self.host(rule.to, &headers);
        headers.tags = match self.below(4) {
            0 => tags,
            1 => self.near_set(&rule.vlans, headers.tags),
            _ => headers.tags,
        };
        headers.wire = self.near_set(&rule.wires, headers.wire);
        if rule.between && self.below(2) == 0 {
            (headers.src, headers.dst) = (headers.dst, headers.src);
            (headers.src_mac, headers.dst_mac) = (headers.dst_mac, headers.src_mac);
        }
        headers
    }

    fn service(&mut self, term: &ServiceTerm, headers: &mut Headers) {
        let families = [ETHER_IPV4, ETHER_IPV6, headers.ether_type];
        let family = self.below(3) as usize;
        headers.ether_type = if term.ether_types.is_any() {
            families[family]
        } else {
            self.near_set(&term.ether_types, families[family])
        };
        headers.protocol = self.near_set(&term.protocols, headers.protocol);
        headers.src_port = self.near_range(&term.src_ports, headers.src_port);
        headers.dst_port = self.near_range(&term.dst_ports, headers.dst_port);
    }

    fn host(&mut self, id: EndpointId, headers: &Headers) -> (u128, Mac, VlanTags) {
        let endpoint: &Endpoint = self.policy.endpoint(id);
        let (mut addr, mut mac, mut tags) = (
            u128::from(self.next()) << 64 | u128::from(self.next()),
            headers.dst_mac,
            headers.tags,
        );
        if let Some(index) = self.pick_index(endpoint.boxes.len()) {
            let b = &endpoint.boxes[index];
            addr = match headers.ether_type {
                ETHER_IPV4 => self.near_range32(&b.addrs.v4, addr as u32).into(),
                _ => self.near_range128(&b.addrs.v6, addr),
            };
            mac = self.near_set(&b.macs, mac);
            tags = self.near_set(&b.vlans, tags);
        }
        (addr, mac, tags)
    }

    fn anything(&mut self) -> Headers {
        let (a, b) = (self.next(), self.next());
        let mac = |bits: u64| Mac([2, (bits >> 32) as u8, 0, 0, 0, bits as u8]);
        let protocols = [1, 6, 6, 17, 17, 47, 58, 132, 0, (b >> 40) as u8];
        let tags = [(0, 0), (0, 0), (1, 0), (30, 0), (30, 40), (4094, 4094), (0, 30)];
        let (outer, inner) = tags[self.below(tags.len() as u64) as usize];
        Headers {
            src: u128::from(a) << 64 | u128::from(b),
            dst: u128::from(b) << 64 | u128::from(a),
            src_port: a as u16,
            dst_port: b as u16,
            ether_type: [ETHER_IPV4, ETHER_IPV6, 0x8892, (a >> 48) as u16][self.below(4) as usize],
            protocol: protocols[self.below(protocols.len() as u64) as usize],
            wire: WireId((b >> 60) as u16),
            tags: VlanTags { outer, inner },
            src_mac: mac(a),
            dst_mac: mac(b),
        }
    }

    /// A value that the set names, or mostly in its place `otherwise` where it names none.
    fn near_set<T: Copy + Ord>(&mut self, set: &FiniteSet<T>, otherwise: T) -> T {
        match self.pick_index(set.named().len()) {
            Some(index) if self.below(8) > 0 => set.named()[index],
            _ => otherwise,
        }
    }

    fn next(&mut self) -> u64 {
        split_mix(&mut self.state)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick_index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.below(len as u64) as usize)
    }
}

/// The next number of the SplitMix64 sequence (Steele, Lea and Flood, 2014).
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

macro_rules! near_range {
    ($name:ident, $t:ty) => {
        impl Probes<'_> {
            /// A value on or beside an edge of one of the ranges, or within it, or `otherwise`.
            fn $name(&mut self, set: &RangeSet<$t>, otherwise: $t) -> $t {
                let Some(index) = self.pick_index(set.ranges().len()) else { return otherwise };
                let (low, high) = set.ranges()[index];
                match self.below(8) {
                    0 => low.wrapping_sub(1),
                    1 => high.wrapping_add(1),
                    2 | 3 => low,
                    4 | 5 => high,
                    6 => match (high - low).checked_add(1) {
                        Some(size) => low + otherwise % size,
                        None => otherwise,
                    },
                    _ => otherwise,
                }
            }
        }
    };
}

near_range!(near_range, u16);
near_range!(near_range32, u32);
near_range!(near_range128, u128);
