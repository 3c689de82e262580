//! The flows that a worker knows.
//!
//! A table of fixed size, allocated at start, owned by one worker. It is set-associative: a flow's
//! keyed hash names two candidate sets of [`WAYS`] entries, and an entry lives in either: in the
//! first as long as that is not nearly full, so that nearly every hit reads the tags of one set
//! only. A set has one cache line of 16-bit tags; a hit reads that and one 128-byte entry. A tag
//! proves nothing: the whole key is compared.
//!
//! A worker asks in stages over a burst, so that the packets hide each other's memory latency:
//! [`FlowTable::hash`] and [`FlowTable::prefetch`] all, then [`FlowTable::candidate`] of all, then
//! [`FlowTable::other_candidate`] of those that had none, then [`FlowTable::find_at`] each.
//!
//! # Key
//!
//! Redundancy group, VLAN tags, EtherType, protocol, addresses and ports, endpoints in a canonical
//! order, so that both directions of a flow have one key. For an ICMP query the ports are the
//! identifier, and the request's type and which end asks: a reply meets only the flow that the
//! matching request opened, and a request by the responder on the same identifier is a flow of its
//! own, which the policy judges. For a frame that is not IP the MAC addresses stand as addresses.
//!
//! # Time
//!
//! Entries keep time in ticks of 2^24 ns (16.8 ms) in 32 bits, compared modulo 2^32: correct as long
//! as no entry is left alone for more than a year, and [`FlowTable::age`] comes by far more often.
//! A flow that is older than 2.28 years reports its age modulo that. A flow never ends before its
//! timeout, and at most two ticks after it. Time that runs backwards counts as standing still.
//!
//! # Room
//!
//! With two sets of 32 to choose from, no insertion is refused up to nine tenths of the capacity (a
//! test asserts it; tables of 16 thousand to 4 million entries first refused at 92 to 96 %). When both sets are full, the insertion takes the place of an expired flow, else of
//! the flow that has been silent longest among those that nobody answered or that are over
//! ([`Phase::is_evictable`]), out of eight that lie side by side; where these have none, out of the
//! next eight. Where both sets hold no such flow, a source that holds over a 64th of the table, and far
//! more than the newcomer's, gives up an answered flow of UDP or ICMP: the one of its that has been
//! silent longest, out of a few. It is far more where it is over four times what the newcomer's source
//! holds, and sixteen for nothing. So a few hosts cannot keep all others out by having enough datagrams
//! answered; who holds less than a 64th loses nothing, however many hosts fill the table together. What
//! is ended so opens again with its initiator's next datagram. An established
//! connection, and an answered flow of any other protocol, never makes room, unless it is forbidden and
//! only observed. Where that leaves nothing, the insertion is
//! refused. No source holds more than a limit, see `SourceCounts`.

mod entry;
mod key;
mod sources;

use std::ops::Range;
use std::time::Instant;

use ahash::RandomState;

pub use self::entry::{FlowEntry, Judgement, NewFlow};
pub use self::key::{End, FlowKey};
use self::sources::SourceCounts;
use crate::conntrack::{Phase, Timeouts};
use crate::intrinsics::{equal_lanes, filled_vec, prefetch};
use crate::record::{Ending, Records};
use crate::verdict::DropReason;

/// Entries of a set.
pub const WAYS: usize = 32;
/// Empty ways of its first candidate set below which a flow goes where there are more. With a
/// quarter left, 97 of 100 flows are in their first set at six tenths of the capacity.
const FEW_WAYS: u32 = WAYS as u32 / 4;
/// Entries that are looked at together when a flow has to make room for another: a flood makes every
/// insertion look, and 64 of them, all that may have to go, cost more than all else together.
const PART: usize = 8;
/// How many times what the source of a new flow holds, and [`FREE_SHARE`] more, a source holds at least
/// whose answered datagram flows make room for it.
const SHARES: u32 = 4;
/// Flows that nobody has to share.
const FREE_SHARE: u32 = 16;
/// The part of the table that no source has to share.
const SAFE_PART: usize = 64;
/// Flows whose sources are asked for how many they hold, at most: each is two cache lines.
const MOST_ASKED: usize = 16;
/// Parts of two candidate sets.
const PARTS: usize = 2 * WAYS / PART;
/// Two sets of 16 bits and 24 bits of set number each make a 64-bit hash.
const MAX_SETS: usize = 1 << 24;

/// How a table is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowTableConfig {
    /// Flows that the table has room for: rounded up to 64 times a power of two, at most 2^29.
    pub capacity: usize,
    /// How long flows may be silent.
    pub timeouts: Timeouts,
    /// The most flows that one source (initiator's address, VLAN tags and group) may hold.
    pub per_source_limit: u32,
    /// The keys of the hash, for runs that must repeat exactly; [`None`] takes random ones.
    pub seed: Option<[u64; 4]>,
}

impl Default for FlowTableConfig {
    fn default() -> Self {
        Self {
            capacity: 1 << 18,
            timeouts: Timeouts::default(),
            per_source_limit: 1 << 15,
            seed: None,
        }
    }
}

/// The keyed hash of a flow: two sets of 24 bits each in which its entry may be, and the tag that it
/// has there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowHash(u64);

impl FlowHash {
    /// Bits that two flows seldom share.
    #[inline]
    pub fn some_bits(self) -> u16 {
        self.tag()
    }

    /// Other bits, for a place in a small table.
    #[inline]
    pub(crate) fn some_other_bits(self) -> u16 {
        self.0 as u16
    }

    #[inline]
    fn tag(self) -> u16 {
        ((self.0 >> 48) as u16).max(1)
    }
}

/// The first entry, of the sets that were looked at, that a flow may have by its tag, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate(u32);

impl Candidate {
    /// There is none. No table has so many entries.
    pub const NONE: Self = Self(u32::MAX);
}

/// Where a flow that was not found has room, as far as was seen, and the hash of its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// A vacant way, if there was one.
    way: Option<u32>,
    source: u64,
}

impl Room {
    /// It was not looked for. `source` is the initiator's [`FlowTable::host_hash`].
    pub fn unknown(source: u64) -> Self {
        Self { way: None, source }
    }

    /// The initiator's [`FlowTable::host_hash`].
    #[inline]
    pub fn source(self) -> u64 {
        self.source
    }
}

/// Where an entry is, until the table next inserts, removes or ages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowIndex(u32);

/// Why a flow got no entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InsertError {
    /// Both candidate sets hold established flows only.
    Full,
    /// The source holds as many flows as it may.
    SourceLimit,
}

impl From<InsertError> for DropReason {
    fn from(error: InsertError) -> Self {
        match error {
            InsertError::Full => Self::FlowTableFull,
            InsertError::SourceLimit => Self::FlowSourceLimit,
        }
    }
}

/// The epochs whose judgements may still hold, by their low 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrustedEpochs {
    /// The first of them.
    pub oldest: u32,
    /// The last: the present one.
    pub newest: u32,
}

impl TrustedEpochs {
    /// Whether `epoch`, which is less than 2^32 epochs old, is one of them.
    fn contains(self, epoch: u32) -> bool {
        self.newest.wrapping_sub(epoch) <= self.newest.wrapping_sub(self.oldest)
    }
}

/// What one call of [`FlowTable::age`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Aged {
    /// Entries looked at.
    pub examined: usize,
    /// Flows ended, by the phase that they were in.
    pub expired: [u32; Phase::COUNT],
}

/// What the table did since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowTableCounters {
    /// Flows that got an entry.
    pub inserted: u64,
    /// Flows that ended by their timeout, by the phase that they were in.
    pub expired: [u64; Phase::COUNT],
    /// Flows that made room for new ones before their timeout, by the phase that they were in.
    pub evicted: [u64; Phase::COUNT],
    /// Flows that the caller ended.
    pub removed: u64,
    /// Insertions refused with [`InsertError::Full`].
    pub refused_full: u64,
    /// Insertions refused with [`InsertError::SourceLimit`].
    pub refused_source: u64,
}

/// The tags of one set; 0 is an empty way.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tags([u16; WAYS]);

const _: () = assert!(size_of::<Tags>() == 64);

/// See the module's description.
pub struct FlowTable {
    tags: Vec<Tags>,
    entries: Vec<FlowEntry>,
    sources: SourceCounts,
    hasher: RandomState,
    timeout_ticks: [i32; Phase::COUNT],
    set_mask: u32,
    per_source_limit: u32,
    len: usize,
    /// The clock hand: the set that [`FlowTable::age`] looks at next.
    hand: usize,
    passes: u64,
    trusted: TrustedEpochs,
    /// Told of every flow that ends, where somebody wants to know.
    pub(crate) records: Option<Box<Records>>,
    /// When [`FlowTable::age`] last looked at each set, in ticks; empty where there are no records.
    looked_at: Vec<u32>,
    /// What the table did since it was made.
    pub counters: FlowTableCounters,
}

impl FlowTable {
    /// Allocates an empty table, in huge pages where the system has them. Touches all of its memory,
    /// so that the packet path meets no page fault.
    pub fn new(config: &FlowTableConfig) -> Self {
        let sets = config.capacity.div_ceil(WAYS).clamp(2, MAX_SETS).next_power_of_two();
        let hasher = match config.seed {
            Some([a, b, c, d]) => RandomState::with_seeds(a, b, c, d),
            None => RandomState::new(),
        };
        Self {
            tags: filled_vec(Tags([0; WAYS]), sets),
            entries: filled_vec(FlowEntry::VACANT, sets * WAYS),
            sources: SourceCounts::new(sets * WAYS),
            hasher,
            timeout_ticks: timeout_ticks(&config.timeouts),
            set_mask: (sets - 1) as u32,
            per_source_limit: config.per_source_limit.max(1),
            len: 0,
            hand: 0,
            passes: 0,
            trusted: TrustedEpochs { oldest: 0, newest: u32::MAX },
            records: None,
            looked_at: Vec::new(),
            counters: FlowTableCounters::default(),
        }
    }

    /// From now on tells `records` what becomes of flows. Allocates.
    pub(crate) fn tell(&mut self, records: Records) {
        self.looked_at = vec![0; self.tags.len()];
        self.records = Some(Box::new(records));
    }

    /// Flows in the table, expired ones that were not yet met included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Flows that the table has room for.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory that the table takes; they never change.
    pub fn size_bytes(&self) -> usize {
        size_of_val(self.tags.as_slice())
            + size_of_val(self.entries.as_slice())
            + self.sources.size_bytes()
            + size_of::<Self>()
    }

    /// Replaces the timeouts; they hold for every flow from now on.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) {
        self.timeout_ticks = timeout_ticks(timeouts);
    }

    /// Replaces the epochs that are trusted. Ageing moves every entry of an older epoch up to the one
    /// just below them, so that the wrap-around of epochs never makes it trusted.
    pub fn trust(&mut self, epochs: TrustedEpochs) {
        self.trusted = epochs;
    }

    /// Moves every entry to just below the trusted epochs, at once: for a caller that let so many
    /// epochs go by that ageing could not keep up.
    pub fn distrust_all(&mut self) {
        let epoch = self.trusted.oldest.wrapping_sub(1);
        self.entries.iter_mut().for_each(|entry| entry.set_epoch(epoch));
    }

    /// How often [`Self::age`] has passed the whole table.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// Where a flow with this key would be.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        FlowHash(key.hash_with(&self.hasher))
    }

    /// The numbers of the two candidate sets, for those who look at how keys are spread.
    pub fn sets(&self, hash: FlowHash) -> [u32; 2] {
        [self.first_set(hash), self.second_set(hash)].map(|set| set as u32)
    }

    #[inline]
    fn first_set(&self, hash: FlowHash) -> usize {
        (hash.0 as u32 & self.set_mask) as usize
    }

    #[inline]
    fn second_set(&self, hash: FlowHash) -> usize {
        let (first, second) =
            (self.first_set(hash), ((hash.0 >> 24) as u32 & self.set_mask) as usize);
        if first == second { first ^ 1 } else { second }
    }

    /// The keyed hash of the host at an end of a flow: its address in its VLAN.
    #[inline]
    pub fn host_hash(&self, key: &FlowKey, end: End) -> u64 {
        key.host_hash(end, &self.hasher)
    }

    /// Asks for the tags of the first candidate set.
    #[inline]
    pub fn prefetch(&self, hash: FlowHash) {
        prefetch(&self.tags[self.first_set(hash)]);
    }

    /// The first entry of the first candidate set whose tag matches, and asks for it, or where there is
    /// none for the tags of the second set. Reads the tags: call [`Self::prefetch`] some packets before.
    #[inline(always)]
    pub fn candidate(&self, hash: FlowHash) -> Option<Candidate> {
        let candidate = self.candidate_in(self.first_set(hash), hash);
        if candidate.is_none() {
            prefetch(&self.tags[self.second_set(hash)]);
        }
        candidate
    }

    /// The same of the second candidate set, for a flow that has no candidate in the first.
    #[inline]
    pub fn other_candidate(&self, hash: FlowHash) -> Candidate {
        self.candidate_in(self.second_set(hash), hash).unwrap_or(Candidate::NONE)
    }

    #[inline(always)]
    fn candidate_in(&self, set: usize, hash: FlowHash) -> Option<Candidate> {
        let ways = equal_lanes(&self.tags[set].0, hash.tag());
        if ways == 0 {
            return None;
        }
        let index = set * WAYS + ways.trailing_zeros() as usize;
        self.entries[index].prefetch();
        Some(Candidate(index as u32))
    }

    /// The entry of the live flow with this key, where it is at `candidate`; else [`Self::find_at`] may
    /// know more.
    #[inline(always)]
    pub fn entry_at(
        &mut self,
        candidate: Candidate,
        key: &FlowKey,
        now_ns: u64,
    ) -> Option<&mut FlowEntry> {
        let timeouts = &self.timeout_ticks;
        let entry = self.entries.get_mut(candidate.0 as usize)?;
        (entry.has_key(key) && !is_expired(entry, timeouts, tick(now_ns))).then_some(entry)
    }

    /// The live flow with this key: `candidate` is the one of the first set or, where that has none, of
    /// the second. A flow that was inserted since may be missed. An expired one is removed on the way
    /// and counts as expired.
    #[inline(always)]
    pub fn find_at(
        &mut self,
        candidate: Candidate,
        hash: FlowHash,
        key: &FlowKey,
        now_ns: u64,
    ) -> Option<FlowIndex> {
        // Nearly always the candidate is the flow, or there is none.
        let entry = self.entries.get(candidate.0 as usize)?;
        if entry.has_key(key) && !self.is_expired(entry, tick(now_ns)) {
            return Some(FlowIndex(candidate.0));
        }
        self.find(hash, key, now_ns)
    }

    /// The live flow with this key, as [`Self::find_at`] finds it.
    #[inline(never)]
    pub fn find(&mut self, hash: FlowHash, key: &FlowKey, now_ns: u64) -> Option<FlowIndex> {
        for set in [self.first_set(hash), self.second_set(hash)] {
            let mut ways = equal_lanes(&self.tags[set].0, hash.tag());
            while ways != 0 {
                let index = set * WAYS + ways.trailing_zeros() as usize;
                ways &= ways - 1;
                let entry = &self.entries[index];
                if entry.has_key(key) {
                    if self.is_expired(entry, tick(now_ns)) {
                        self.expire(index);
                        return None;
                    }
                    return Some(FlowIndex(index as u32));
                }
            }
        }
        None
    }

    /// Looks for room for a flow that was not found. `source` is its initiator's [`Self::host_hash`].
    /// Ask for it by [`Self::prefetch_room`] some packets before [`Self::insert_in`].
    #[inline]
    pub fn seek_room(&self, hash: FlowHash, source: u64) -> Room {
        Room { way: self.vacant_way(hash).map(|index| index as u32), source }
    }

    /// Asks for what [`Self::insert_in`] will write, and read of the source.
    #[inline]
    pub fn prefetch_room(&self, room: Room, hash: FlowHash) {
        match room.way {
            Some(index) => self.entries[index as usize].prefetch(),
            None => self.entries[self.part(hash, 0)].iter().for_each(FlowEntry::prefetch_age),
        }
        self.sources.prefetch(room.source);
    }

    /// Whether the flow with this key is still where it was found.
    #[inline]
    pub fn is_at(&self, index: FlowIndex, key: &FlowKey) -> bool {
        self.entry(index).has_key(key)
    }

    /// The entry of a flow.
    #[inline]
    pub fn entry(&self, index: FlowIndex) -> &FlowEntry {
        &self.entries[index.0 as usize]
    }

    /// The entry of a flow, to be changed.
    #[inline]
    pub fn entry_mut(&mut self, index: FlowIndex) -> &mut FlowEntry {
        &mut self.entries[index.0 as usize]
    }

    /// Gives a new flow an entry. The caller has just made sure by [`Self::find`] that there is none
    /// with this key (an earlier packet of the same burst may have inserted it).
    ///
    /// # Errors
    ///
    /// [`InsertError`] where the table or the source has no room; both are counted.
    pub fn insert(
        &mut self,
        hash: FlowHash,
        key: &FlowKey,
        new: &NewFlow<'_>,
        now_ns: u64,
    ) -> Result<FlowIndex, InsertError> {
        let room = Room::unknown(self.host_hash(key, new.initiator));
        self.insert_in(room, hash, key, new, now_ns)
    }

    /// The same in the room that [`Self::seek_room`] has found for this flow, unless another one has
    /// taken it since.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    #[inline]
    pub fn insert_in(
        &mut self,
        room: Room,
        hash: FlowHash,
        key: &FlowKey,
        new: &NewFlow<'_>,
        now_ns: u64,
    ) -> Result<FlowIndex, InsertError> {
        debug_assert_eq!(room.source, self.host_hash(key, new.initiator));
        let now = tick(now_ns);
        if self.sources.count(room.source) >= self.per_source_limit {
            self.counters.refused_source += 1;
            return Err(InsertError::SourceLimit);
        }
        let is_vacant = |index: &usize| self.tags[index / WAYS].0[index % WAYS] == 0;
        let seen = room.way.map(|way| way as usize).filter(is_vacant);
        let vacant = seen.or_else(|| self.vacant_way(hash));
        let Some(index) = vacant.or_else(|| self.make_room(hash, room.source, now)) else {
            self.counters.refused_full += 1;
            return Err(InsertError::Full);
        };
        self.tags[index / WAYS].0[index % WAYS] = hash.tag();
        self.entries[index].begin(key, new, now);
        self.sources.increment(room.source);
        self.len += 1;
        self.counters.inserted += 1;
        Ok(FlowIndex(index as u32))
    }

    /// Ends a flow for the reason that it is given. Ending a flow that has ended already does nothing.
    pub fn remove(&mut self, index: FlowIndex, ending: Ending) {
        if self.vacate(index.0 as usize, ending) {
            self.counters.removed += 1;
        }
    }

    /// Tells the records that the flow has begun, once its first packet is counted.
    #[inline]
    pub(crate) fn begun(&mut self, index: FlowIndex) {
        if let Some(records) = &mut self.records {
            records.started(&self.entries[index.0 as usize]);
        }
    }

    /// Tells the records of every flow that the worker stops. The flows stay.
    pub(crate) fn stopped(&mut self) {
        let Some(records) = &mut self.records else { return };
        let begun = Instant::now();
        for (set, tags) in self.tags.iter().enumerate() {
            let ways = (0..WAYS).filter(|&way| tags.0[way] != 0);
            ways.for_each(|way| records.stopped(&self.entries[set * WAYS + way], begun));
        }
        records.finish(begun);
    }

    /// Ends the expired flows of the next sets, and sees to the epochs of the others, as many sets as hold `budget` entries (at least
    /// one), where the last call left off. Call it regularly, such that the whole table is passed in
    /// less than the shortest timeout that matters.
    pub fn age(&mut self, now_ns: u64, budget: usize) -> Aged {
        let now = tick(now_ns);
        let mut aged = Aged::default();
        for _ in 0..budget.div_ceil(WAYS).clamp(1, self.tags.len()) {
            let set = self.hand;
            self.hand = (set + 1) & self.set_mask as usize;
            self.passes += u64::from(self.hand == 0);
            for index in self.hand * WAYS..(self.hand + 1) * WAYS {
                self.entries[index].prefetch_age();
            }
            let is_told = self.is_time_to_tell(set, now);
            let mut used = !equal_lanes(&self.tags[set].0, 0);
            while used != 0 {
                let index = set * WAYS + used.trailing_zeros() as usize;
                used &= used - 1;
                aged.examined += 1;
                if self.is_expired(&self.entries[index], now) {
                    aged.expired[self.entries[index].connection().phase() as usize] += 1;
                    self.expire(index);
                } else if !self.trusted.contains(self.entries[index].epoch()) {
                    self.entries[index].set_epoch(self.trusted.oldest.wrapping_sub(1));
                }
                if let (Some(since), true) = (is_told, self.tags[set].0[index % WAYS] != 0) {
                    self.tell_if_alive(index, now, since);
                }
            }
        }
        aged
    }

    /// Where the flows of a set that go on are to be told of, the ticks for which one may have been
    /// silent meanwhile.
    #[inline]
    fn is_time_to_tell(&mut self, set: usize, now: u32) -> Option<u32> {
        let records = self.records.as_ref()?;
        let looked_at = std::mem::replace(self.looked_at.get_mut(set)?, now);
        let interval = ((records.interval_ns() >> TICK_SHIFT) as u32).max(1);
        // Each set has times of its own, so that not all flows are told of at once.
        let turn = (set as u32).wrapping_mul(0x9e37_79b9) % interval;
        let nth = |tick: u32| (u64::from(tick) + u64::from(turn)) / u64::from(interval);
        (nth(now) != nth(looked_at)).then(|| interval + now.wrapping_sub(looked_at))
    }

    /// Tells of a flow that had packets since it was last told of, unless it is young.
    fn tell_if_alive(&mut self, index: usize, now: u32, since: u32) {
        let entry = &self.entries[index];
        let is_young = u64::from(entry.age_ticks(now)) * 2 < u64::from(since);
        if let (Some(records), false) = (&mut self.records, is_young) {
            if entry.silent_ticks(now) <= since {
                records.continues(entry);
            }
        }
    }

    #[inline]
    fn is_expired(&self, entry: &FlowEntry, now: u32) -> bool {
        is_expired(entry, &self.timeout_ticks, now)
    }

    fn expire(&mut self, index: usize) {
        self.counters.expired[self.entries[index].connection().phase() as usize] += 1;
        self.vacate(index, Ending::Idle);
    }

    /// Empties a way; false where it was empty.
    fn vacate(&mut self, index: usize, ending: Ending) -> bool {
        let tag = &mut self.tags[index / WAYS].0[index % WAYS];
        if *tag == 0 {
            return false;
        }
        *tag = 0;
        if let Some(records) = &mut self.records {
            records.ended(&self.entries[index], ending);
        }
        let source = self.entries[index].source_hash(&self.hasher);
        self.sources.decrement(source);
        self.entries[index].end();
        self.len -= 1;
        true
    }

    /// An empty way of the first candidate set while it has a few, else of the emptier one.
    fn vacant_way(&self, hash: FlowHash) -> Option<usize> {
        let (first, second) = (self.first_set(hash), self.second_set(hash));
        let vacant = |set: usize| equal_lanes(&self.tags[set].0, 0);
        let (low, high) = (vacant(first), vacant(second));
        let first_is_full = low.count_ones() < FEW_WAYS && high.count_ones() > low.count_ones();
        let (set, ways) = if first_is_full { (second, high) } else { (first, low) };
        (ways != 0).then(|| set * WAYS + ways.trailing_zeros() as usize)
    }

    /// Makes room in candidate sets that are full, in the first of their parts that has any, for a flow
    /// of this source.
    fn make_room(&mut self, hash: FlowHash, source: u64, now: u32) -> Option<usize> {
        let evictable = (0..PARTS).find_map(|nth| self.make_room_in(self.part(hash, nth), now));
        evictable.or_else(|| self.make_room_of_greedy(hash, source, now))
    }

    /// The same where no flow is evictable: a source that holds far more than this one gives one up.
    #[cold]
    fn make_room_of_greedy(&mut self, hash: FlowHash, source: u64, now: u32) -> Option<usize> {
        let far_more = self.sources.count(source).saturating_add(FREE_SHARE).saturating_mul(SHARES);
        let due = far_more.max((self.capacity() / SAFE_PART) as u32);
        let mut asked = 0;
        for nth in 0..PARTS {
            let mut victim: Option<(u32, usize)> = None;
            for index in self.part(hash, nth) {
                let entry = &self.entries[index];
                if !entry.phase().is_answered_datagram() || asked == MOST_ASKED {
                    continue;
                }
                asked += 1;
                let silent = entry.silent_ticks(now);
                if victim.is_none_or(|(longest, _)| silent > longest)
                    && self.sources.count(entry.source_hash(&self.hasher)) > due
                {
                    victim = Some((silent, index));
                }
            }
            if let Some((_, index)) = victim {
                return Some(self.evict(index));
            }
        }
        None
    }

    fn evict(&mut self, index: usize) -> usize {
        self.counters.evicted[self.entries[index].phase() as usize] += 1;
        self.vacate(index, Ending::Evicted);
        index
    }

    /// The `nth` part of the candidate sets that [`Self::make_room`] looks at: which is the first is a
    /// matter of the hash, so that all of them come to be it.
    fn part(&self, hash: FlowHash, nth: usize) -> Range<usize> {
        let at = (hash.some_bits() as usize + nth) % PARTS * PART;
        let set = if at < WAYS { self.first_set(hash) } else { self.second_set(hash) };
        let start = set * WAYS + at % WAYS;
        start..start + PART
    }

    fn make_room_in(&mut self, part: Range<usize>, now: u32) -> Option<usize> {
        let mut victim: Option<(u32, usize)> = None;
        for index in part {
            let entry = &self.entries[index];
            if self.is_expired(entry, now) {
                self.expire(index);
                return Some(index);
            }
            let silent = entry.silent_ticks(now);
            if (entry.connection().phase().is_evictable() || !entry.is_permitted())
                && victim.is_none_or(|(longest, _)| silent > longest)
            {
                victim = Some((silent, index));
            }
        }
        let (_, index) = victim?;
        Some(self.evict(index))
    }
}

/// Nanoseconds in a tick, as a shift.
const TICK_SHIFT: u32 = 24;

#[inline]
fn tick(now_ns: u64) -> u32 {
    (now_ns >> TICK_SHIFT) as u32
}

#[inline(always)]
fn is_expired(entry: &FlowEntry, timeouts: &[i32; Phase::COUNT], now: u32) -> bool {
    entry.silence(now) >= timeouts[entry.connection().phase() as usize]
}

/// Timeouts in ticks, rounded up, plus the part of a tick by which a flow may be younger than its
/// timestamp says.
fn timeout_ticks(timeouts: &Timeouts) -> [i32; Phase::COUNT] {
    let mut ticks = [0; Phase::COUNT];
    for &phase in Phase::ALL {
        let ns = u64::from(timeouts.of(phase)) * 1_000_000_000;
        // Compared as signed distances: half of the range is the most.
        let whole = ns.div_ceil(1 << TICK_SHIFT) + 1;
        ticks[phase as usize] = i32::try_from(whole).unwrap_or(i32::MAX);
    }
    ticks
}

#[cfg(test)]
mod tests;
