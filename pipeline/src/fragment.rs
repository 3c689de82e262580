//! Later fragments follow their first one.
//!
//! Only the first fragment of a packet names ports, so it alone is judged; the table remembers the
//! flow that it belongs to, and its later fragments are packets of that flow: counted there, and
//! ended there when a newer policy forbids it. Nothing is reassembled: what matters is that the
//! receiver cannot put together anything but what was judged.
//!
//! | fragment | outcome |
//! |---|---|
//! | later; the first not seen or not permitted, or the packet complete or expired | [`DropReason::FragmentOrphan`]; an enforcing wire keeps it back for a moment, see below |
//! | of a range that was seen, exactly | [`DropReason::FragmentDuplicate`]; the packet lives on: RFC 8200 section 4.5 permits it, networks duplicate, and the copy, which might differ, is not forwarded |
//! | overlapping another, or disagreeing about the packet's end | [`DropReason::FragmentOverlap`], as are all that follow (RFC 5722, for IPv4 too) |
//! | a first one, when the identification was last used more than a second ago | starts anew: IPv4 identifications come back within seconds (RFC 4963) |
//! | more than [`MAX_FRAGMENTS`] | [`DropReason::FragmentLimit`] |
//!
//! A later fragment may overtake its first one. The worker of an enforcing wire keeps up to
//! `wait_frames` of them back, none for longer than `wait_ms`; once the first one has been judged, what
//! waited for it is judged in the order of its arrival.
//!
//! A packet is forgotten when its last gap is filled, or when the timeout has passed since its first
//! fragment. A table that is full gives up the oldest packet of the candidate sets, so that a flood
//! of fragments has to be faster than the fragments of one packet follow each other; only when none
//! is older than 10 ms the new one is refused, with [`DropReason::FragmentTableFull`].

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;
use bulkhead_rules::headers::{ETHER_IPV4, Headers};

use crate::flow_table::{End, FlowKey};
use crate::parse::{FragmentPlace, Parsed};
use crate::verdict::DropReason;

/// The most fragments of one packet that are followed: 65,535 bytes over the least MTU of IPv6
/// take 54.
pub const MAX_FRAGMENTS: usize = 64;

const WAYS: usize = 8;
/// Two set numbers and a tag come from one 64-bit hash.
const MAX_SETS: usize = 1 << 20;
/// A packet whose first fragment came this long ago may lose its place to a new one.
const PROTECTED_NS: u64 = 10_000_000;
/// A first fragment with an identification that was first used this long ago is of another packet.
const REUSE_NS: u64 = 1_000_000_000;

/// How a table is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FragmentTableConfig {
    /// Packets that are followed at once: rounded up to 8 times a power of
    /// two, at least 16 and at most 2^23.
    pub capacity: usize,
    /// How long after its first fragment a packet is given up. RFC 8200: 60; Linux, for IPv4: 30.
    pub timeout_s: u32,
    /// Later fragments that may wait for their first one: at most 4,096; 0 lets none wait.
    pub wait_frames: usize,
    /// How long they wait, in milliseconds.
    pub wait_ms: u32,
    /// The keys of the hash, for runs that must repeat exactly; [`None`] takes random ones.
    pub seed: Option<[u64; 4]>,
}

impl Default for FragmentTableConfig {
    fn default() -> Self {
        Self { capacity: 4096, timeout_s: 30, wait_frames: 128, wait_ms: 100, seed: None }
    }
}

/// What the fragments of one packet have in common: redundancy group, VLAN tags, addresses,
/// identification and, in IPv4 (RFC 791), the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentKey([u64; 6]);

impl FragmentKey {
    /// The key of a fragment that parsed so, on a wire of this redundancy group; [`None`] where the
    /// packet is no fragment.
    pub fn of_parsed(parsed: &Parsed, group: u16) -> Option<Self> {
        let place = parsed.fragment?;
        let Self(mut words) = Self::of(&parsed.headers, place.id, group);
        if let Some(id) = parsed.tunnel.checked_sub(1) {
            // VLAN tags leave four bits, the protocol 24.
            words[4] |= 1 << 63;
            words[5] |= u64::from(id) << 40;
        }
        Some(Self(words))
    }

    /// The key of a fragment with these headers and this identification, on a wire of this
    /// redundancy group, within no tunnel.
    fn of(headers: &Headers, id: u32, group: u16) -> Self {
        // In IPv6 the next header of later fragments means nothing (RFC 8200 section 4.5).
        let protocol = if headers.ether_type == ETHER_IPV4 { headers.protocol } else { 0 };
        Self([
            headers.src as u64,
            (headers.src >> 64) as u64,
            headers.dst as u64,
            (headers.dst >> 64) as u64,
            u64::from(id)
                | u64::from(headers.tags.outer) << 32
                | u64::from(headers.tags.inner) << 48,
            u64::from(group) | u64::from(headers.ether_type) << 16 | u64::from(protocol) << 32,
        ])
    }
}

/// The flow that the fragments of a packet belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The flow of the first fragment.
    pub flow: FlowKey,
    /// The end of the flow that sent it.
    pub sender: End,
}

/// What the table did since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentTableCounters {
    /// Packets whose first fragment was noted.
    pub started: u64,
    /// Packets of which every fragment came.
    pub completed: u64,
    /// Packets given up by the timeout.
    pub expired: u64,
    /// Packets given up to make room.
    pub evicted: u64,
    /// Packets given up because fragments overlapped or disagreed.
    pub poisoned: u64,
    /// First fragments for which there was no room.
    pub refused: u64,
}

/// The packets of which fragments are awaited. Owned by one worker; fixed in size.
pub struct FragmentTable {
    /// For each place some bits of its packet's hash, so that most places are passed over without
    /// touching them; 0 where it is vacant.
    tags: Vec<u32>,
    packets: Vec<Packet>,
    hasher: RandomState,
    set_mask: usize,
    timeout_ns: u64,
    hand: usize,
    len: usize,
    /// What the table did since it was made.
    pub counters: FragmentTableCounters,
}

impl FragmentTable {
    /// Allocates an empty table.
    pub fn new(config: &FragmentTableConfig) -> Self {
        let sets = config.capacity.div_ceil(WAYS).clamp(2, MAX_SETS).next_power_of_two();
        let hasher = match config.seed {
            Some([a, b, c, d]) => RandomState::with_seeds(a, b, c, d),
            None => RandomState::new(),
        };
        Self {
            tags: vec![0; sets * WAYS],
            packets: vec![Packet::VACANT; sets * WAYS],
            hasher,
            set_mask: sets - 1,
            timeout_ns: u64::from(config.timeout_s) * 1_000_000_000,
            hand: 0,
            len: 0,
            counters: FragmentTableCounters::default(),
        }
    }

    /// Packets that are being followed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no packet is being followed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Packets that the table has room for.
    pub fn capacity(&self) -> usize {
        self.packets.len()
    }

    /// Bytes of memory that the table takes; they never change.
    pub fn size_bytes(&self) -> usize {
        size_of_val(self.tags.as_slice()) + size_of_val(self.packets.as_slice()) + size_of::<Self>()
    }

    /// Notes a first fragment that may pass, and the flow that it belongs to. Its later fragments are
    /// packets of that flow, to be judged as such.
    ///
    /// # Errors
    ///
    /// Why the fragment has to be dropped all the same, see the module's description.
    pub fn note_first(
        &mut self,
        key: &FragmentKey,
        place: FragmentPlace,
        owner: Owner,
        now_ns: u64,
    ) -> Result<(), DropReason> {
        let hash = self.hash(key);
        let known = self.find(hash, key, now_ns);
        if let Some(at) = known.filter(|&at| self.packets[at].age_ns(now_ns) < REUSE_NS) {
            if self.packets[at].owner != owner {
                self.poison(at);
                return Err(DropReason::FragmentOverlap);
            }
            return self.take(at, place);
        }
        if let Some(at) = known {
            self.vacate(at);
            self.counters.expired += 1;
        }
        let at = self.room_for(hash, now_ns)?;
        self.tags[at] = hash.tag;
        self.packets[at].start(key, owner, now_ns);
        self.len += 1;
        self.counters.started += 1;
        self.take(at, place)
    }

    /// The flow that a later fragment belongs to.
    ///
    /// # Errors
    ///
    /// Why the fragment has to be dropped, see the module's description.
    pub fn follow(
        &mut self,
        key: &FragmentKey,
        place: FragmentPlace,
        now_ns: u64,
    ) -> Result<Owner, DropReason> {
        let at = self.find(self.hash(key), key, now_ns).ok_or(DropReason::FragmentOrphan)?;
        let owner = self.packets[at].owner;
        self.take(at, place).map(|()| owner)
    }

    /// Gives up expired packets among the next `budget` places, where the last call left off;
    /// returns how many.
    pub fn age(&mut self, now_ns: u64, budget: usize) -> usize {
        let before = self.counters.expired;
        for _ in 0..budget.min(self.packets.len()) {
            let at = self.hand;
            self.hand = (at + 1) % self.packets.len();
            self.expire(at, now_ns);
        }
        (self.counters.expired - before) as usize
    }

    /// Takes in one fragment of a known packet.
    fn take(&mut self, at: usize, place: FragmentPlace) -> Result<(), DropReason> {
        match self.packets[at].add(place) {
            Ok(Progress::Gaps) => Ok(()),
            Ok(Progress::Complete) => {
                self.vacate(at);
                self.counters.completed += 1;
                Ok(())
            }
            Err(DropReason::FragmentOverlap) => {
                self.poison(at);
                Err(DropReason::FragmentOverlap)
            }
            Err(reason) => Err(reason),
        }
    }

    fn poison(&mut self, at: usize) {
        self.counters.poisoned += u64::from(!self.packets[at].poisoned);
        self.packets[at].poisoned = true;
    }

    /// The packet with this key, unless it is expired.
    fn find(&mut self, hash: Hash, key: &FragmentKey, now_ns: u64) -> Option<usize> {
        let at = self.position(hash, key)?;
        if self.expire(at, now_ns) { None } else { Some(at) }
    }

    fn position(&self, hash: Hash, key: &FragmentKey) -> Option<usize> {
        hash.places().find(|&at| self.tags[at] == hash.tag && self.packets[at].key == *key)
    }

    /// A place for a packet that is not in the table.
    fn room_for(&mut self, hash: Hash, now_ns: u64) -> Result<usize, DropReason> {
        let mut oldest: Option<(u64, usize)> = None;
        for at in hash.places() {
            self.expire(at, now_ns);
            if self.tags[at] == 0 {
                return Ok(at);
            }
            let age_ns = self.packets[at].age_ns(now_ns);
            if oldest.is_none_or(|(age, _)| age_ns > age) {
                oldest = Some((age_ns, at));
            }
        }
        match oldest {
            Some((age_ns, at)) if age_ns >= PROTECTED_NS => {
                self.vacate(at);
                self.counters.evicted += 1;
                Ok(at)
            }
            _ => {
                self.counters.refused += 1;
                Err(DropReason::FragmentTableFull)
            }
        }
    }

    fn hash(&self, key: &FragmentKey) -> Hash {
        let mut state = self.hasher.build_hasher();
        for word in key.0 {
            state.write_u64(word);
        }
        let hash = state.finish();
        let first = hash as usize & self.set_mask;
        let second = (hash >> 20) as usize & self.set_mask;
        let second = if first == second { first ^ 1 } else { second };
        Hash { sets: [first, second], tag: ((hash >> 40) as u32).max(1) }
    }

    /// Gives up the packet at a place if its time has passed; whether it did.
    fn expire(&mut self, at: usize, now_ns: u64) -> bool {
        let expired = self.tags[at] != 0 && self.packets[at].age_ns(now_ns) >= self.timeout_ns;
        if expired {
            self.vacate(at);
            self.counters.expired += 1;
        }
        expired
    }

    fn vacate(&mut self, at: usize) {
        self.tags[at] = 0;
        self.len -= 1;
    }
}

/// Where a packet may be: two sets and the tag that it has there.
#[derive(Clone, Copy)]
struct Hash {
    sets: [usize; 2],
    tag: u32,
}

impl Hash {
    fn places(self) -> impl Iterator<Item = usize> {
        self.sets.into_iter().flat_map(|set| set * WAYS..(set + 1) * WAYS)
    }
}

enum Progress {
    Gaps,
    Complete,
}

/// A packet of which at least the first fragment came.
#[derive(Clone, Copy)]
struct Packet {
    key: FragmentKey,
    owner: Owner,
    started_ns: u64,
    /// Length of the fragmentable part, once the last fragment has told it.
    total: Option<u32>,
    /// Bytes seen.
    seen: u32,
    poisoned: bool,
    count: u8,
    /// First and one past the last byte of each fragment seen, ascending.
    ranges: [(u32, u32); MAX_FRAGMENTS],
}

impl Packet {
    const VACANT: Self = Self {
        key: FragmentKey([0; 6]),
        owner: Owner { flow: FlowKey::NONE, sender: End::Low },
        started_ns: 0,
        total: None,
        seen: 0,
        poisoned: false,
        count: 0,
        ranges: [(0, 0); MAX_FRAGMENTS],
    };

    /// Begins with a packet of which nothing was seen.
    fn start(&mut self, key: &FragmentKey, owner: Owner, now_ns: u64) {
        (self.key, self.owner, self.started_ns) = (*key, owner, now_ns);
        (self.total, self.seen, self.poisoned, self.count) = (None, 0, false, 0);
    }

    fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.started_ns)
    }

    fn add(&mut self, place: FragmentPlace) -> Result<Progress, DropReason> {
        if self.poisoned {
            return Err(DropReason::FragmentOverlap);
        }
        if place.len == 0 {
            return Err(DropReason::FragmentTiny);
        }
        let (start, end) =
            (u32::from(place.offset), u32::from(place.offset) + u32::from(place.len));
        let seen = &self.ranges[..usize::from(self.count)];
        let at = seen.partition_point(|&(other, _)| other < start);
        let next = seen.get(at);
        let last_end = seen.last().map_or(0, |&(_, end)| end);
        if next == Some(&(start, end)) && place.more == (self.total != Some(end)) {
            return Err(DropReason::FragmentDuplicate);
        }
        let overlaps = next.is_some_and(|&(other, _)| other < end)
            || at.checked_sub(1).is_some_and(|before| seen[before].1 > start);
        let disagrees = match (self.total, place.more) {
            (Some(total), true) => end >= total,
            (Some(_), false) => true,
            (None, false) => last_end > end,
            (None, true) => false,
        };
        if overlaps || disagrees {
            return Err(DropReason::FragmentOverlap);
        }
        if seen.len() == MAX_FRAGMENTS {
            return Err(DropReason::FragmentLimit);
        }
        let count = seen.len();
        self.ranges.copy_within(at..count, at + 1);
        self.ranges[at] = (start, end);
        self.count += 1;
        self.seen += end - start;
        if !place.more {
            self.total = Some(end);
        }
        Ok(if self.total == Some(self.seen) { Progress::Complete } else { Progress::Gaps })
    }
}

#[cfg(test)]
mod tests;
