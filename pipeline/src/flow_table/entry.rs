//! What the table keeps of a flow.

use ahash::RandomState;
use bulkhead_rules::classifier::{FOOTPRINTS, Footprint};
use bulkhead_rules::headers::{Headers, Mac, WireId, protocol};
use bulkhead_rules::policy::RuleId;

use super::TICK_SHIFT;
use super::key::{End, FlowKey, TAIL_MASK};
use crate::conntrack::{Connection, Direction, Phase};
use crate::intrinsics::prefetch;
use crate::record::WIRES;

/// What a policy said about a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// The rule that decided.
    pub rule: RuleId,
    /// Where in the policy it did: a later edit elsewhere leaves the judgement standing.
    pub footprint: Footprint,
    /// The low 32 bits of the epoch in which it did.
    pub epoch: u32,
    /// Whether the flow is permitted (in observe, forbidden ones have entries too).
    pub permitted: bool,
    /// Whether the deciding rule, or one before it, tests a MAC address, so that other addresses
    /// have to be judged again.
    pub mac_sensitive: bool,
}

/// What a new flow starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewFlow<'a> {
    /// The end that opens the flow, as [`FlowKey::of`] returned it for the initiator's packet.
    pub initiator: End,
    /// The headers of the initiator's packet: MAC addresses, wire, ICMP type and code are kept.
    pub headers: &'a Headers,
    /// What the policy said about these headers.
    pub judgement: Judgement,
    /// The state after the first packet, which is not yet counted: see [`FlowEntry::count`].
    pub connection: Connection,
    /// Whether the initiator is behind the wire's inside port.
    pub client_inside: bool,
    /// Whether the packet that opens such a flow was seen.
    pub opening_seen: bool,
}

/// A flow: 128 bytes, two cache lines that are fetched together.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub struct FlowEntry {
    // The first line has all that lookup, ageing and eviction ask for, and the epoch.
    /// In the upper 16 bits of its tail stand the wire and a flag about how the flow began.
    key: FlowKey,
    last_seen: u32,
    epoch: u32,
    connection: Connection,
    rule: u32,
    /// For each direction its bytes in the upper 52 bits; below them half of the footprint, that of
    /// the source beside the initiator's bytes, that of the destination beside the responder's.
    volume: [u64; 2],
    created: u32,
    /// Packets are counted in 40 bits; the connection has room for the upper eight.
    packets_low: [u32; 2],
    macs: [Mac; 2],
}

const _: () = assert!(size_of::<FlowEntry>() == 128 && align_of::<FlowEntry>() == 128);
const _: () = assert!(std::mem::offset_of!(FlowEntry, connection) + Connection::PHASE_OFFSET < 64);

/// The bits of half a footprint.
const FOOTPRINT_BITS: u32 = FOOTPRINTS.trailing_zeros();
const FOOTPRINT_MASK: u64 = FOOTPRINTS as u64 - 1;
const _: () = assert!(FOOTPRINTS.is_power_of_two() && FOOTPRINT_BITS == 12);

/// Of the tail of an entry's key, above [`TAIL_MASK`].
const WIRE_SHIFT: u32 = 48;
const WIRE_MASK: u64 = WIRES as u64 - 1;
const OPENING_SEEN: u64 = 1 << 63;
const _: () = assert!(WIRES.is_power_of_two() && WIRE_MASK << WIRE_SHIFT < OPENING_SEEN);
const _: () = assert!(TAIL_MASK < 1 << WIRE_SHIFT);

/// What an entry keeps above the tail of its key.
fn begun(new: &NewFlow<'_>) -> u64 {
    (u64::from(new.headers.wire.0) & WIRE_MASK) << WIRE_SHIFT
        | if new.opening_seen { OPENING_SEEN } else { 0 }
}

const INITIATOR_HIGH: u8 = 0x01;
const MAC_SENSITIVE: u8 = 0x02;
const PERMITTED: u8 = 0x04;
const FEW_HOPS: u8 = 0x08;
/// The first payload of a direction is wanted: the initiator's bit, shifted by one for the responder's.
const WATCHED: u8 = 0x10;
/// Every packet that announces something is wanted.
const ANNOUNCES: u8 = 0x40;
/// Whether the initiator's packets, with the MAC addresses that the verdict rests on, come from the
/// inside.
const SIDE: u8 = 0x80;
const BOTH_WATCHED: u8 = WATCHED | WATCHED << 1;
const ALL_WATCHED: u8 = BOTH_WATCHED | ANNOUNCES;
/// Packets of a flow after which no first payload is wanted any more.
const WATCHED_PACKETS: u32 = 8;

impl FlowEntry {
    /// Equals no key.
    pub(super) const VACANT: Self = Self {
        key: FlowKey::NONE,
        last_seen: 0,
        epoch: 0,
        connection: Connection::NONE,
        rule: 0,
        volume: [0; 2],
        created: 0,
        packets_low: [0; 2],
        macs: [Mac([0; 6]); 2],
    };

    /// Makes this vacant entry that of a new flow. Where it stands: a flood makes every other copy felt.
    #[inline]
    pub(super) fn begin(&mut self, key: &FlowKey, new: &NewFlow<'_>, now: u32) {
        self.key = FlowKey { tail: key.tail | begun(new), ..*key };
        (self.last_seen, self.created) = (now, now);
        (self.volume, self.packets_low) = ([0; 2], [0; 2]);
        self.connection = new.connection;
        self.connection.entry_flags = INITIATOR_HIGH * new.initiator as u8;
        self.connection.entry_packets_high = [0; 2];
        self.initiator_is(new.client_inside);
        if matches!(new.headers.protocol, protocol::ICMP | protocol::ICMPV6) {
            self.connection.attempt_or_icmp = new.headers.dst_port;
        }
        self.judged(new.judgement, [new.headers.src_mac, new.headers.dst_mac]);
    }

    /// Ends the flow: the entry is that of none. Of the rest nothing is asked any more.
    pub(super) fn end(&mut self) {
        self.key = FlowKey::NONE;
    }

    #[inline]
    pub(super) fn has_key(&self, key: &FlowKey) -> bool {
        // No call to `memcmp`, which costs as much as the rest of the lookup.
        let mine = &self.key;
        (mine.addresses[0] == key.addresses[0])
            && (mine.addresses[1] == key.addresses[1])
            && mine.ports_and_tags == key.ports_and_tags
            && mine.tail & TAIL_MASK == key.tail
            && (mine.upper[0] ^ key.upper[0]) | (mine.upper[1] ^ key.upper[1]) == 0
    }

    /// Asks for both of its cache lines.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(&self.key);
        prefetch(&self.macs);
    }

    /// Asks for the cache line that tells the phase and when the flow was last seen.
    #[inline]
    pub(super) fn prefetch_age(&self) {
        prefetch(&self.key);
    }

    /// The flow's key.
    pub fn key(&self) -> FlowKey {
        FlowKey { tail: self.key.tail & TAIL_MASK, ..self.key }
    }

    /// Whether the packet that opens such a flow was seen: not so of a connection that was taken up in
    /// its middle.
    pub fn is_opening_seen(&self) -> bool {
        self.key.tail & OPENING_SEEN != 0
    }

    /// The end that opened the flow.
    pub fn initiator(&self) -> End {
        if self.connection.entry_flags & INITIATOR_HIGH != 0 { End::High } else { End::Low }
    }

    /// The direction of a packet that `sender` sent.
    #[inline]
    pub fn direction(&self, sender: End) -> Direction {
        if (self.connection.entry_flags & INITIATOR_HIGH != 0) == (sender == End::High) {
            Direction::FromInitiator
        } else {
            Direction::FromResponder
        }
    }

    /// Notes on which side the initiator is.
    pub fn initiator_is(&mut self, inside: bool) {
        let flags = &mut self.connection.entry_flags;
        *flags = *flags & !SIDE | if inside { SIDE } else { 0 };
    }

    /// Whether the initiator is behind the wire's inside port: where its first packet came from, or, of a
    /// verdict that rests on MAC addresses and moved to others since, the packet that moved it.
    pub fn has_initiator_inside(&self) -> bool {
        self.connection.entry_flags & SIDE != 0
    }

    /// Whether a packet of `direction` comes from the side on which its sender is.
    pub fn is_from_its_side(&self, direction: Direction, from_inside: bool) -> bool {
        (direction == Direction::FromInitiator) == (from_inside == self.has_initiator_inside())
    }

    /// Whether a packet of `direction` carries the MAC addresses that the flow was judged with.
    pub fn has_macs(&self, direction: Direction, src: Mac, dst: Mac) -> bool {
        match direction {
            Direction::FromInitiator => self.macs == [src, dst],
            Direction::FromResponder => self.macs == [dst, src],
        }
    }

    /// The headers with which the flow was opened: what a newer policy has to judge.
    pub fn initiator_headers(&self) -> Headers {
        let [src_mac, dst_mac] = self.macs;
        let wire = WireId((self.key.tail >> WIRE_SHIFT & WIRE_MASK) as u16);
        let headers = self.key().headers(self.initiator(), self.connection.attempt_or_icmp);
        Headers { wire, src_mac, dst_mac, ..headers }
    }

    /// Whether a packet of `direction` carries the MAC addresses that the verdict rests on. Always
    /// true where the verdict rests on none.
    #[inline]
    pub fn admits_macs(&self, direction: Direction, src: Mac, dst: Mac) -> bool {
        self.connection.entry_flags & MAC_SENSITIVE == 0 || self.has_macs(direction, src, dst)
    }

    /// Whether a packet of `direction` carries the MAC addresses that the verdict rests on, and comes
    /// from the side on which its sender is. Always true where the verdict rests on none.
    #[inline]
    pub fn admits(&self, direction: Direction, [src, dst]: [Mac; 2], from_inside: bool) -> bool {
        self.connection.entry_flags & MAC_SENSITIVE == 0
            || (self.has_macs(direction, src, dst) && self.is_from_its_side(direction, from_inside))
    }

    /// Whether a packet of `direction` needs nothing but to be counted: the flow is permitted, none of
    /// its packets are wanted, and [`Self::admits`].
    #[inline]
    pub(crate) fn rides(&self, direction: Direction, macs: [Mac; 2], from_inside: bool) -> bool {
        let flags = self.connection.entry_flags & (PERMITTED | MAC_SENSITIVE | ALL_WATCHED);
        flags == PERMITTED
            || (flags == PERMITTED | MAC_SENSITIVE && self.admits(direction, macs, from_inside))
    }

    /// From now on packets of the flow are wanted: the first with a payload of each direction, and
    /// where some of the flow `announce` something, these.
    pub(crate) fn watch(&mut self, announce: bool) {
        self.connection.entry_flags |= if announce { ALL_WATCHED } else { BOTH_WATCHED };
    }

    /// Whether packets of the flow may be wanted.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.connection.entry_flags & ALL_WATCHED != 0
    }

    /// Whether this packet of a watched flow, which is counted already, is wanted.
    pub(crate) fn is_wanted(
        &mut self,
        direction: Direction,
        has_payload: bool,
        announces: impl FnOnce() -> bool,
    ) -> bool {
        let flags = &mut self.connection.entry_flags;
        let bit = WATCHED << direction as u8;
        let is_first = has_payload && *flags & bit != 0;
        let is_wanted = is_first || (*flags & ANNOUNCES != 0 && announces());
        if is_first {
            *flags &= !bit;
        }
        if self.packets_low[0].saturating_add(self.packets_low[1]) >= WATCHED_PACKETS {
            *flags &= !BOTH_WATCHED;
        }
        is_wanted
    }

    /// Records what a policy said about the flow, and the MAC addresses (initiator's, responder's)
    /// that it saw.
    pub fn judged(&mut self, judgement: Judgement, macs: [Mac; 2]) {
        let Judgement { rule, footprint, epoch, permitted, mac_sensitive } = judgement;
        (self.rule, self.epoch, self.macs) = (rule.0, epoch, macs);
        for (word, half) in self.volume.iter_mut().zip([footprint.src, footprint.dst]) {
            *word = (*word & !FOOTPRINT_MASK) | (u64::from(half) & FOOTPRINT_MASK);
        }
        let flags = &mut self.connection.entry_flags;
        *flags &= INITIATOR_HIGH | FEW_HOPS | ALL_WATCHED | SIDE;
        *flags |= if mac_sensitive { MAC_SENSITIVE } else { 0 };
        *flags |= if permitted { PERMITTED } else { 0 };
    }

    /// Moves the judgement to another epoch: a later one in which it still holds, or one so early
    /// that no policy trusts it.
    #[inline]
    pub fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// Where in the policy the flow was judged last.
    #[inline]
    pub fn footprint(&self) -> Footprint {
        let [src, dst] = self.volume.map(|word| (word & FOOTPRINT_MASK) as u16);
        Footprint { src, dst }
    }

    /// The low bits of the epoch in which the flow was judged last.
    #[inline]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The rule that decided.
    #[inline]
    pub fn rule(&self) -> RuleId {
        RuleId(self.rule)
    }

    /// Whether the policy that judged last permits the flow.
    #[inline]
    pub fn is_permitted(&self) -> bool {
        self.connection.entry_flags & PERMITTED != 0
    }

    /// Whether an end of the flow sends with few hops left, so that this says nothing against its
    /// packets.
    pub fn expects_few_hops(&self) -> bool {
        self.connection.entry_flags & FEW_HOPS != 0
    }

    /// Takes note that an end of the flow sends with few hops left.
    pub fn expect_few_hops(&mut self) {
        self.connection.entry_flags |= FEW_HOPS;
    }

    /// Where the flow is in its life.
    #[inline]
    pub fn phase(&self) -> Phase {
        self.connection.phase()
    }

    /// The state of the flow.
    #[inline]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The state of the flow, to be moved on.
    #[inline]
    pub fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Counts a packet of `len` bytes. It keeps the flow alive if `refresh` is set; a packet that
    /// was merely tolerated does not.
    #[inline]
    pub fn count(&mut self, direction: Direction, len: usize, refresh: bool, now_ns: u64) {
        let at = direction as usize;
        self.volume[at] = self.volume[at].wrapping_add((len as u64) << FOOTPRINT_BITS);
        let (low, carry) = self.packets_low[at].overflowing_add(1);
        self.packets_low[at] = low;
        let high = &mut self.connection.entry_packets_high[at];
        *high = high.wrapping_add(u8::from(carry));
        if refresh {
            self.last_seen = super::tick(now_ns);
        }
    }

    /// Packets of one direction, modulo 2^40: at a million a second that is twelve days.
    pub fn packets(&self, direction: Direction) -> u64 {
        let at = direction as usize;
        let high = self.connection.entry_packets_high[at];
        u64::from(self.packets_low[at]) | u64::from(high) << 32
    }

    #[cfg(test)]
    pub(super) fn set_packets(&mut self, direction: Direction, packets: u64) {
        let at = direction as usize;
        self.packets_low[at] = packets as u32;
        self.connection.entry_packets_high[at] = (packets >> 32) as u8;
    }

    /// Bytes of the frames of one direction, without FCS, modulo 2^52: at 100 Gbit/s that is four
    /// days.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.volume[direction as usize] >> FOOTPRINT_BITS
    }

    /// Nanoseconds since the flow was opened, to a tick, modulo 2.28 years.
    pub fn age_ns(&self, now_ns: u64) -> u64 {
        u64::from(self.age_ticks(super::tick(now_ns))) << TICK_SHIFT
    }

    #[inline]
    pub(super) fn age_ticks(&self, now: u32) -> u32 {
        now.wrapping_sub(self.created)
    }

    /// Nanoseconds since a packet last kept the flow alive, to a tick.
    pub fn silent_ns(&self, now_ns: u64) -> u64 {
        u64::from(self.silent_ticks(super::tick(now_ns))) << TICK_SHIFT
    }

    #[inline]
    pub(super) fn silent_ticks(&self, now: u32) -> u32 {
        self.silence(now).max(0) as u32
    }

    /// Ticks since a packet last kept the flow alive. A packet may carry a time before that of its
    /// predecessor: that is no year of silence, but less than none.
    #[inline]
    pub(super) fn silence(&self, now: u32) -> i32 {
        now.wrapping_sub(self.last_seen) as i32
    }

    /// The hash of the host that opened the flow: its address in its VLAN.
    pub(super) fn source_hash(&self, hasher: &RandomState) -> u64 {
        self.key().host_hash(self.initiator(), hasher)
    }
}
