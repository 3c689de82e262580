//! Which worker judges a frame.
//!
//! A flow's state lives with one worker, so every frame that the state concerns has to reach it: both
//! directions, every fragment, and the ICMP errors that quote it. All of these name the same two
//! addresses. The owner of a frame is therefore a hash of its *unordered pair of addresses*, and of
//! nothing else: ports are missing from later fragments, and an address pair keeps its worker when
//! it moves to another wire of a redundant group.
//!
//! | frame | hashed |
//! |---|---|
//! | IP: TCP, UDP, ICMP queries, everything else, first and later fragments | source and destination |
//! | an ICMP or ICMPv6 error | source and destination of the packet that it quotes |
//! | a packet of a tunnel, on a wire that judges inner packets | the inner packet's, as above |
//! | not IP | both MAC addresses |
//! | ARP, neighbour discovery, link-local control, and what does not parse | nothing: it needs no state, so whoever has it judges it |
//!
//! Where a NIC spreads frames over its queues by a hash of the addresses, the rule computes the NIC's
//! own hash, so that nearly every frame arrives where it belongs. Elsewhere it is a keyed hash that
//! nobody can aim at. A frame that reaches another worker than its owner is handed over, see
//! [`crate::handover`]; the rule decides where state is, never whether a frame passes.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use crate::parse::{Kind, Parsed, parse_quoted};

/// The rule that all workers of a gateway share.
#[derive(Clone, Debug)]
pub struct OwnerRule {
    workers: u32,
    hash: PairHash,
}

#[derive(Clone, Debug)]
enum PairHash {
    Keyed(RandomState),
    Nic { rss: SymmetricRss, table_mask: u32 },
}

impl OwnerRule {
    /// By a hash whose keys are random, or `seed` for runs that must repeat exactly.
    pub fn keyed(workers: usize, seed: Option<[u64; 4]>) -> Self {
        let hasher = match seed {
            Some([a, b, c, d]) => RandomState::with_seeds(a, b, c, d),
            None => RandomState::new(),
        };
        Self { workers: at_least_one(workers), hash: PairHash::Keyed(hasher) }
    }

    /// As a NIC does that hashes addresses under `rss` and looks the queue up in a redirection table
    /// of `table_len` entries which name the queues in turn. Queue and worker have the same number.
    pub fn like_nic(workers: usize, rss: SymmetricRss, table_len: u16) -> Self {
        let table_mask = u32::from(table_len.max(1).next_power_of_two()) - 1;
        Self { workers: at_least_one(workers), hash: PairHash::Nic { rss, table_mask } }
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.workers as usize
    }

    /// The worker that a frame, which parsed, belongs to; [`None`] where any may judge it.
    #[inline]
    pub fn of(&self, frame: &[u8], parsed: &Parsed) -> Option<usize> {
        let headers = &parsed.headers;
        match parsed.kind {
            Kind::LinkControl | Kind::Arp | Kind::NeighbourDiscovery => None,
            Kind::IcmpError => self.of_error(frame, parsed),
            Kind::LaterFragment | Kind::Tcp | Kind::IcmpQuery | Kind::Dhcp | Kind::Other => {
                if headers.is_ip() {
                    Some(self.of_pair(headers.src, headers.dst))
                } else {
                    let mac = |mac: [u8; 6]| {
                        let [a, b, c, d, e, f] = mac;
                        u128::from(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
                    };
                    Some(self.of_pair(mac(headers.src_mac.0), mac(headers.dst_mac.0)))
                }
            }
        }
    }

    /// The worker of an error is that of the flow it quotes; an error that quotes none is dropped by
    /// whoever has it.
    #[cold]
    fn of_error(&self, frame: &[u8], parsed: &Parsed) -> Option<usize> {
        let (quoted, _) = parse_quoted(frame, parsed).ok()?;
        Some(self.of_pair(quoted.src, quoted.dst))
    }

    #[inline]
    fn of_pair(&self, a: u128, b: u128) -> usize {
        match &self.hash {
            PairHash::Keyed(hasher) => {
                let mut state = hasher.build_hasher();
                state.write_u128(a.min(b));
                state.write_u128(a.max(b));
                (((state.finish() >> 32) * u64::from(self.workers)) >> 32) as usize
            }
            PairHash::Nic { rss, table_mask } => {
                ((rss.hash(a, b) & table_mask) % self.workers) as usize
            }
        }
    }
}

/// The Toeplitz hash of NICs under a key of which every 16 bits are the same.
///
/// Under such a key it makes no difference which of the two addresses is the source, and the hash
/// becomes a linear map of the exclusive or of all 16-bit words of both: two table lookups. The price
/// is that whoever chooses addresses can make many pairs meet one worker; a NIC offers nothing
/// better that is symmetric.
#[derive(Clone, PartialEq, Eq)]
pub struct SymmetricRss {
    pattern: u16,
    /// The hash of the high byte and of the low byte of the folded addresses.
    tables: Box<[[u16; 256]; 2]>,
}

impl std::fmt::Debug for SymmetricRss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SymmetricRss").field("pattern", &self.pattern).finish_non_exhaustive()
    }
}

impl SymmetricRss {
    /// With a random key.
    pub fn random() -> Self {
        let random = RandomState::new();
        // With as many set bits as unset ones, more or less, and an odd number of them, see `new`.
        let pattern = (0_u32..1000)
            .map(|attempt| random.hash_one(attempt) as u16)
            .find(|pattern| matches!(pattern.count_ones(), 5 | 7 | 9 | 11));
        Self::new(pattern.unwrap_or(Self::WELL_KNOWN))
    }

    /// The pattern that the literature uses.
    pub const WELL_KNOWN: u16 = 0x6d5a;

    /// With the key that repeats `pattern`. The hash keeps all 16 bits of the folded addresses if and
    /// only if an odd number of its bits is set (its polynomial must be prime to
    /// x^16 + 1 = (x + 1)^16).
    pub fn new(pattern: u16) -> Self {
        let mut tables = Box::new([[0; 256]; 2]);
        for (half, table) in tables.iter_mut().enumerate() {
            for (byte, hash) in table.iter_mut().enumerate() {
                for bit in (0..8).filter(|bit| byte >> (7 - bit) & 1 == 1) {
                    *hash ^= pattern.rotate_left((8 * half + bit) as u32);
                }
            }
        }
        Self { pattern, tables }
    }

    /// The key as a NIC takes it, `len` bytes long.
    pub fn key(&self, len: usize) -> Vec<u8> {
        self.pattern.to_be_bytes().into_iter().cycle().take(len).collect()
    }

    /// What the NIC computes for a packet between these addresses, in either direction. IPv4
    /// addresses are the low 32 bits of their numbers.
    #[inline]
    pub fn hash(&self, a: u128, b: u128) -> u32 {
        let folded = a ^ b;
        let folded = folded as u64 ^ (folded >> 64) as u64;
        let folded = folded as u32 ^ (folded >> 32) as u32;
        let folded = folded as u16 ^ (folded >> 16) as u16;
        let [high, low] = folded.to_be_bytes();
        let half = self.tables[0][usize::from(high)] ^ self.tables[1][usize::from(low)];
        u32::from(half) << 16 | u32::from(half)
    }
}

fn at_least_one(workers: usize) -> u32 {
    u32::try_from(workers.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{IpAddr, Ipv6Addr};

    use bulkhead_rules::headers::{Mac, WireId};
    use proptest::prelude::*;

    use super::*;
    use crate::frames::{FrameBuilder, tcp_flags};
    use crate::parse::parse;
    use crate::port::rss::{Fields, Rss, toeplitz};

    fn rules(workers: usize) -> [OwnerRule; 2] {
        let keyed = OwnerRule::keyed(workers, Some([1, 2, 3, 4]));
        let rss = SymmetricRss::new(SymmetricRss::WELL_KNOWN);
        [keyed, OwnerRule::like_nic(workers, rss, 128)]
    }

    fn owner(rule: &OwnerRule, frame: &[u8]) -> Option<usize> {
        rule.of(frame, &parse(frame, WireId(0)).expect("a good frame"))
    }

    fn udp(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, ports: (u16, u16)) -> FrameBuilder {
        FrameBuilder::new().ip(src, dst).udp(ports.0, ports.1).payload(&[0; 40])
    }

    fn unreachable(src: [u8; 4], dst: [u8; 4], quoted: &[u8]) -> Vec<u8> {
        FrameBuilder::new().ip(src, dst).icmp(3, 1, 0).payload(quoted).build()
    }

    #[test]
    fn every_frame_of_a_conversation_has_one_owner() {
        for rule in rules(3) {
            for host in 0..200 {
                let (a, b) = ([10, 0, 0, host], [10, 7, host, 1]);
                let there = udp(a, b, (40_000, 502)).build();
                let expected = owner(&rule, &there);
                assert!(expected.is_some_and(|owner| owner < 3));
                let same = [
                    udp(b, a, (502, 40_000)).build(),
                    udp(a, b, (1, 2)).build(),
                    udp(a, b, (40_000, 502)).vlan(30).build(),
                    FrameBuilder::new().ip(a, b).tcp(1, 2, tcp_flags::SYN).build(),
                    FrameBuilder::new().ip(b, a).tcp(2, 1, tcp_flags::ACK).build(),
                    // A router on the way tells the sender, and the server itself does.
                    unreachable([192, 0, 2, 1], a, &there[14..]),
                    unreachable(b, a, &there[14..]),
                ];
                for frame in &same {
                    assert_eq!(owner(&rule, frame), expected);
                }
                let long = udp(a, b, (40_000, 502)).payload(&[0; 3000]);
                for fragment in long.build_fragments(7, 1480) {
                    assert_eq!(owner(&rule, &fragment), expected);
                }
            }
        }
    }

    #[test]
    fn what_needs_no_state_has_no_owner_and_other_frames_go_by_their_macs() {
        let (a, b) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        for rule in rules(5) {
            let there = FrameBuilder::new().macs(a, b).ether_type(0x88ba).payload(b"goose").build();
            let back = FrameBuilder::new().macs(b, a).ether_type(0x88ba).payload(b"goose").build();
            assert!(owner(&rule, &there).is_some());
            assert_eq!(owner(&rule, &there), owner(&rule, &back));
            let lldp = Mac([1, 0x80, 0xc2, 0, 0, 14]);
            let lldp = FrameBuilder::new().macs(a, lldp).ether_type(0x88cc).payload(&[2]).build();
            assert_eq!(owner(&rule, &lldp), None);
        }
    }

    #[test]
    fn pairs_are_spread_evenly() {
        for rule in rules(4) {
            let mut counts = [0; 4];
            for pair in 0..4096_u32 {
                let (a, b) = ([10, 1, (pair >> 6) as u8, 1], [10, 2, 0, pair as u8 & 63]);
                let owner = owner(&rule, &udp(a, b, (1, 2)).build());
                counts[owner.expect("IP has an owner")] += 1;
            }
            assert!(counts.iter().all(|count| (900..=1150).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn the_hash_keeps_all_that_the_addresses_fold_to() {
        let rss = SymmetricRss::random();
        let hashes: HashSet<u32> = (0..1 << 16).map(|folded| rss.hash(folded, 0)).collect();
        assert_eq!(hashes.len(), 1 << 16);
    }

    proptest! {
        #[test]
        fn the_short_form_is_the_hash_of_nics(pattern: u16, a: u128, b: u128, v4: bool) {
            let rss = SymmetricRss::new(pattern);
            let key = rss.key(40);
            let input = |a: u128, b: u128| match v4 {
                true => [(a as u32).to_be_bytes(), (b as u32).to_be_bytes()].concat(),
                false => [a.to_be_bytes(), b.to_be_bytes()].concat(),
            };
            let [a, b] = if v4 { [a as u32, b as u32].map(u128::from) } else { [a, b] };
            prop_assert_eq!(rss.hash(a, b), toeplitz(&key, &input(a, b)));
            prop_assert_eq!(rss.hash(b, a), toeplitz(&key, &input(a, b)));
        }

        #[test]
        fn a_frame_arrives_at_its_owner_where_the_nic_hashes_addresses(
            pattern: u16, a: u128, b: u128, workers in 1_usize..9, size in 5_u16..10,
        ) {
            let rss = SymmetricRss::new(pattern);
            let rule = OwnerRule::like_nic(workers, rss.clone(), 1 << size);
            let nic = Rss { table_len: 1 << size, ..Rss::new(&rss.key(40), Fields::Addresses) };
            let [a, b] = [a, b].map(|bits| Ipv6Addr::from(bits >> 8 | 0xfd << 120));
            prop_assume!(a != b);
            let frame = udp(a, b, (1, 2)).build();
            prop_assert_eq!(owner(&rule, &frame), Some(nic.queue(&frame, workers)));
        }
    }
}
