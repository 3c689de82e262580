//! What the stages know of the frames of one burst, column by column.

use std::num::NonZeroU64;

use bulkhead_rules::headers::{ETHER_IPV6, WireId};
use bulkhead_rules::policy::RuleId;

use crate::observe::{ByFate, Fate};
use crate::parse::{Kind, Parsed, Tunnels, enter_tunnel, parse_plain, parse_unusual};
use crate::port::{Burst, Frame, MAX_BURST};
use crate::verdict::Verdict;

/// One place for each frame of a burst, in the order of arrival. Allocated once for each worker.
#[derive(Debug)]
pub struct Columns {
    /// What the parser learnt; where the verdict is a drop of the parser's, the fields of the layers
    /// before the one that failed.
    pub parsed: [Parsed; MAX_BURST],
    /// The frame's length in bytes.
    pub len: [u32; MAX_BURST],
    /// What becomes of the frame.
    pub verdict: [Verdict; MAX_BURST],
    /// The rule that opened or forbade a flow with this frame; none for a frame that rides a flow.
    pub decided_by: [Option<RuleId>; MAX_BURST],
    /// How many places are in use.
    pub count: usize,
    /// Bits for places: see [`Columns::by_flow`].
    by_flow: u64,
    /// See [`Columns::datagrams`].
    datagrams: u64,
    /// See [`Columns::plain_ipv4`].
    plain_ipv4: u64,
    /// See [`Columns::is_recorded`].
    pub(crate) recorded: u64,
    /// See [`Columns::is_copied`].
    pub(crate) copied: u64,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            parsed: [Parsed::default(); MAX_BURST],
            len: [0; MAX_BURST],
            verdict: [Verdict::UNDECIDED; MAX_BURST],
            decided_by: [None; MAX_BURST],
            count: 0,
            by_flow: 0,
            datagrams: 0,
            plain_ipv4: 0,
            recorded: 0,
            copied: 0,
        }
    }
}

impl Columns {
    /// Parses a burst that came on `wire`, and of packets of `tunnels` what they carry. Afterwards a
    /// verdict is [`Verdict::UNDECIDED`] where the frame parsed, and the parser's drop reason where it
    /// did not.
    #[inline(never)]
    pub fn parse<F: Frame>(&mut self, burst: &Burst<F>, wire: WireId, tunnels: Option<&Tunnels>) {
        self.count = burst.len();
        self.verdict = [Verdict::UNDECIDED; MAX_BURST];
        self.decided_by = [None; MAX_BURST];
        let (mut plain, mut tcp, mut ipv6) = (0_u64, 0, 0);
        let columns = self.parsed.iter_mut().zip(&mut self.len);
        for (place, (frame, (parsed, len))) in burst.iter().zip(columns).enumerate() {
            let bytes = frame.bytes();
            *len = bytes.len() as u32;
            if let Some(kind) = parse_plain(bytes, wire, parsed) {
                plain |= 1 << place;
                tcp |= u64::from(kind == Kind::Tcp) << place;
                ipv6 |= u64::from(parsed.headers.ether_type == ETHER_IPV6) << place;
            }
        }
        (self.by_flow, self.datagrams, self.plain_ipv4) = (plain, plain & !tcp, plain & !ipv6);
        (self.recorded, self.copied) = (0, 0);
        let unusual = self.all() & !plain;
        if unusual != 0 {
            self.parse_others(burst, wire, Places(unusual));
        }
        if let Some(tunnels) = tunnels {
            self.enter_tunnels(burst, wire, tunnels);
        }
    }

    #[inline(never)]
    fn parse_others<F: Frame>(&mut self, burst: &Burst<F>, wire: WireId, places: Places) {
        for place in places {
            let Some(frame) = burst.get(place) else { return };
            let parsed = &mut self.parsed[place];
            if let Err(reason) = parse_unusual(frame.bytes(), wire, F::ORIGIN, parsed) {
                self.verdict[place] = Verdict::Drop(reason);
            }
            self.note_kind(place);
        }
    }

    #[cold]
    fn enter_tunnels<F: Frame>(&mut self, burst: &Burst<F>, wire: WireId, tunnels: &Tunnels) {
        for (place, frame) in burst.iter().enumerate() {
            if self.is_undecided(place) {
                let parsed = &mut self.parsed[place];
                let entered = enter_tunnel(frame.bytes(), wire, F::ORIGIN, tunnels, parsed);
                if let Err(reason) = entered {
                    self.verdict[place] = Verdict::Drop(reason);
                }
                self.note_kind(place);
            }
        }
    }

    /// Sets the bits of a place to what was learnt of its frame.
    fn note_kind(&mut self, place: usize) {
        let Parsed { kind, fragment, .. } = self.parsed[place];
        let by_flow = self.is_undecided(place) && kind.is_judged_by_flow();
        let datagram = matches!(kind, Kind::IcmpQuery | Kind::Other) && fragment.is_none();
        self.by_flow = with_bit(self.by_flow, place, by_flow);
        self.datagrams = with_bit(self.datagrams, place, by_flow && datagram);
        self.plain_ipv4 = with_bit(self.plain_ipv4, place, false);
    }

    /// A bit for each place in use.
    #[inline]
    pub(crate) fn all(&self) -> u64 {
        u64::MAX.checked_shr((MAX_BURST - self.count.min(MAX_BURST)) as u32).unwrap_or(0)
    }

    /// The places of frames that parsed and are judged by flow.
    #[inline]
    pub(crate) fn by_flow(&self) -> Places {
        Places(self.by_flow & self.all())
    }

    /// Of these, the places of whole packets of a protocol without connections: what is known of their
    /// flow decides about them, and they change little of it.
    #[inline]
    pub(crate) fn datagrams(&self) -> Places {
        Places(self.datagrams & self.all())
    }

    /// Of [`Self::by_flow`], the places of ordinary frames of IPv4: untagged, in no tunnel, TCP or UDP.
    #[inline]
    pub(crate) fn plain_ipv4(&self) -> Places {
        Places(self.plain_ipv4 & self.all())
    }

    /// Moves what is known of the frame in place `from` to the place `to`.
    pub(crate) fn shift(&mut self, from: usize, to: usize) {
        if from != to {
            self.parsed[to] = self.parsed[from];
            self.len[to] = self.len[from];
            self.verdict[to] = self.verdict[from];
            self.decided_by[to] = self.decided_by[from];
            for bits in [
                &mut self.by_flow,
                &mut self.datagrams,
                &mut self.plain_ipv4,
                &mut self.recorded,
                &mut self.copied,
            ] {
                *bits = with_bit(*bits, to, *bits >> from & 1 == 1);
            }
        }
    }

    /// Whether the frame is counted in a flow, whatever its verdict.
    pub(crate) fn is_recorded(&self, place: usize) -> bool {
        self.recorded >> place & 1 != 0
    }

    /// Whether the frame is one that is worth a copy.
    pub(crate) fn is_copied(&self, place: usize) -> bool {
        self.copied >> place & 1 != 0
    }

    /// Whether every frame passes by the flow that it belongs to, and none by a rule: so it is with
    /// nearly every burst.
    pub(crate) fn is_smooth(&self) -> bool {
        // Without a branch for each place, so that places are compared many at a time.
        let places = ..self.count;
        let passes = |all, verdict: &Verdict| all & (*verdict == Verdict::Forward);
        let rides = |all, rule: &Option<RuleId>| all & rule.is_none();
        self.verdict[places].iter().fold(true, passes)
            & self.decided_by[places].iter().fold(true, rides)
    }

    /// How many frames there are of each fate. `is_smooth` is [`Self::is_smooth`].
    pub(crate) fn by_fate(&self, is_smooth: bool) -> ByFate {
        let mut out = ByFate::default();
        if is_smooth {
            out[Fate::Forward as usize] = self.count as u64;
            return out;
        }
        for &verdict in &self.verdict[..self.count] {
            out[Fate::from(verdict) as usize] += 1;
        }
        out
    }

    /// Bytes of all frames together.
    pub(crate) fn bytes(&self) -> u64 {
        self.len[..self.count].iter().map(|&len| u64::from(len)).sum()
    }

    /// Whether the frame in this place parsed and waits for a verdict.
    pub fn is_undecided(&self, place: usize) -> bool {
        self.verdict[place] == Verdict::UNDECIDED
    }
}

/// The places of a burst that a mask has bits for, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Places(pub(crate) u64);

impl Iterator for Places {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        const _: () = assert!(MAX_BURST == u64::BITS as usize, "a bit for each place of a burst");
        // The type says to the compiler that the bit's number is less than 64.
        let bits = NonZeroU64::new(self.0)?;
        self.0 &= self.0 - 1;
        Some(bits.trailing_zeros() as usize)
    }
}

#[inline]
fn with_bit(bits: u64, place: usize, value: bool) -> u64 {
    (bits & !(1 << place)) | u64::from(value) << place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_bits() {
        assert!(Places(0b1011).eq([0, 1, 3]) && Places(1 << 63).eq([63]) && Places(0).eq([]));
        assert!(Places(u64::MAX).eq(0..MAX_BURST));
    }
}
