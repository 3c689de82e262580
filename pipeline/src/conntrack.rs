//! The state of a connection, as a box in the middle sees it.
//!
//! # TCP
//!
//! RFC 9293, with the checks of RFC 5961 where an outsider could guess. For each direction the
//! gateway remembers how far the sender has sent (`end`), how far its peer has acknowledged (`una`)
//! and the largest window that it announced. A segment from a sender is in window when
//!
//! 1. it starts at or before `una` plus its peer's largest window (a zero-window probe starts there;
//!    an empty segment may also start at `end`, after such a probe),
//! 2. it ends no more than two windows before `end` (retransmissions, keep-alives, late duplicates),
//! 3. it acknowledges nothing that its peer has not sent (RFC 5961 section 5),
//! 4. and nothing older than two of its own windows (at least 66,000 bytes) before its peer's `end`.
//!
//! Every segment that an endpoint could have answered went through the gateway first, so that what
//! the gateway has seen contains what either endpoint knows, and none of the four can fail for an
//! honest pair. What follows from a segment:
//!
//! | segment | in | outcome |
//! |---|---|---|
//! | SYN from the initiator | syn-sent | the attempt starts again: only its sender has a stake in it |
//! | SYN from the initiator | live | forwarded, no change: the peer answers with a challenge ACK, and an initiator that had crashed recovers by the RST that this provokes (RFC 5961 section 4) |
//! | SYN-ACK to that SYN | live | the peer knows nothing of the old connection either (both were switched off and on): the new one takes its place. Whoever would forge this has to reach both sides of the wire |
//! | SYN from the responder | syn-sent | simultaneous open |
//! | SYN from the responder | live | [`Outcome::OpensBack`]: it would open the initiator's port, so the policy is asked; where it permits (`between`), as a SYN from the initiator, else dropped |
//! | SYN-ACK of the initiator to that SYN | live | [`Outcome::Turned`]: the new connection, opened by the other side, takes the place of the old one |
//! | SYN | time-wait, closed | [`Outcome::Reopen`]: judged by the policy as a new flow. Whatever its sequence number: the endpoint decides that (RFC 6191), and the policy is asked again anyway |
//! | any other SYN-ACK | live | forwarded where in window, no change: a retransmission |
//! | RST exactly at `end` or at `una` | any | closed |
//! | RST elsewhere in window | any | forwarded, no change: its receiver answers with a challenge ACK (RFC 5961 section 3), and the RST that follows is exact |
//! | RST out of window | any | dropped |
//! | FIN in window | live | half-closed, then closing, then time-wait when both are acknowledged |
//! | data beyond its sender's own FIN | live | the FIN was not the sender's: it is forgotten |
//! | ACK without data from the responder | syn-sent | forwarded, no change: half-open recovery (RFC 9293 section 3.5.1) |
//! | a nonsense combination of flags | any | dropped |
//!
//! A segment that would change anything has to show that its receiver will get it and take it: see
//! [`evidence`].
//!
//! A closed connection still lets segments in window pass: they were in flight, and if the RST was a
//! forgery that hit, the connection lives on as long as it is not silent for longer than the timeout.
//!
//! A connection that was adopted mid-stream, or that carried a fragmented segment, is judged
//! *liberally*: the window scale is unknown (the largest is assumed), and an acknowledgement may run
//! ahead of what was seen, by one window.
//!
//! # Everything else
//!
//! A flow is unanswered until its responder sends, then answered. An ICMP query is a flow of its
//! request type: see [`crate::flow_table::FlowKey`].
//!
//! # Timeouts
//!
//! [`Timeouts`] has one for each [`Phase`]; its documentation gives the defaults and where they come
//! from.

use bulkhead_rules::headers::{Headers, protocol};

use crate::parse::{Kind, Parsed, TcpSegment};
use crate::verdict::DropReason;

pub mod evidence;

/// TCP flag bits as in [`TcpSegment::flags`].
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// Which side of a flow sent a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// The side that opened the flow, whose direction a rule permitted.
    FromInitiator = 0,
    /// The other side, whose packets pass by state.
    FromResponder = 1,
}

impl Direction {
    /// The other direction.
    pub fn opposite(self) -> Self {
        match self {
            Self::FromInitiator => Self::FromResponder,
            Self::FromResponder => Self::FromInitiator,
        }
    }
}

macro_rules! phases {
    ($($variant:ident, $label:literal, $field:ident, $default_s:literal, $help:literal;)*) => {
        /// Where a flow is in its life. It decides the timeout, and whether the flow may be evicted.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Phase {
            $(#[doc = $help] $variant,)*
        }

        impl Phase {
            /// Every phase, in the order of their numbers.
            pub const ALL: &'static [Phase] = &[$(Phase::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The phase's name in metrics, logs and the configuration.
            pub fn label(self) -> &'static str {
                match self { $(Phase::$variant => $label,)* }
            }
        }

        /// How long a flow may be silent in each phase before it ends, in seconds.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct Timeouts {
            $(#[doc = $help] pub $field: u32,)*
        }

        impl Default for Timeouts {
            fn default() -> Self {
                Self { $($field: $default_s,)* }
            }
        }

        impl Timeouts {
            /// The timeout of one phase, in seconds.
            pub fn of(&self, phase: Phase) -> u32 {
                match phase { $(Phase::$variant => self.$field,)* }
            }
        }
    };
}

phases! {
    SynSent, "tcp_syn_sent", tcp_syn_sent_s, 30, "TCP: a SYN that nobody answered yet (pf: 30; Linux: 120). 30 s.";
    SynReceived, "tcp_syn_received", tcp_syn_received_s, 30, "TCP: both SYNs seen, not both acknowledged (pf: 30; Linux: 60). 30 s.";
    Adopted, "tcp_adopted", tcp_adopted_s, 300, "TCP: adopted mid-stream, one direction seen so far (Linux: 300). 300 s.";
    Established, "tcp_established", tcp_established_s, 86_400, "TCP: open in both directions (pf: 1 day; RFC 5382: at least 2 h 4 min). 1 day.";
    HalfClosed, "tcp_half_closed", tcp_half_closed_s, 900, "TCP: one side has sent FIN (pf: 900). 900 s.";
    Closing, "tcp_closing", tcp_closing_s, 60, "TCP: both sides have sent FIN, not both acknowledged (pf: 45; Linux: 30 to 60). 60 s.";
    TimeWait, "tcp_time_wait", tcp_time_wait_s, 60, "TCP: both FINs acknowledged (Linux endpoints: 60). 60 s.";
    Closed, "tcp_closed", tcp_closed_s, 10, "TCP: reset (Linux: 10). 10 s.";
    UdpUnanswered, "udp_unanswered", udp_unanswered_s, 30, "UDP: only the initiator has sent (Linux and pf: 30). 30 s.";
    UdpAnswered, "udp_answered", udp_answered_s, 180, "UDP: both sides have sent (RFC 4787: at least 120; Linux: 120). 180 s.";
    IcmpUnanswered, "icmp_unanswered", icmp_unanswered_s, 30, "ICMP and ICMPv6: no reply yet (Linux: 30; pf: 20). 30 s.";
    IcmpAnswered, "icmp_answered", icmp_answered_s, 60, "ICMP and ICMPv6: replied to (RFC 5508: at least 60). 60 s.";
    OtherUnanswered, "other_unanswered", other_unanswered_s, 60, "Every other protocol or EtherType: only the initiator has sent (pf: 60). 60 s.";
    OtherAnswered, "other_answered", other_answered_s, 600, "Every other protocol or EtherType: both sides have sent (Linux: 600). 600 s.";
}

impl Phase {
    /// Whether the flow may make room for a new one: nobody has answered it, or it is over.
    pub fn is_evictable(self) -> bool {
        matches!(
            self,
            Self::SynSent
                | Self::SynReceived
                | Self::Adopted
                | Self::TimeWait
                | Self::Closed
                | Self::UdpUnanswered
                | Self::IcmpUnanswered
                | Self::OtherUnanswered
        )
    }

    /// Whether it is a flow of UDP or ICMP that was answered: its end costs its owner nothing but the
    /// next packet that opens it again.
    pub fn is_answered_datagram(self) -> bool {
        matches!(self, Self::UdpAnswered | Self::IcmpAnswered)
    }

    /// A table, because it is asked with every answer.
    const ANSWERED: [Self; Self::COUNT] = {
        let mut answered = [Self::Closed; Self::COUNT];
        let mut nth = 0;
        while nth < Self::COUNT {
            answered[nth] = match Self::ALL[nth] {
                Self::UdpUnanswered => Self::UdpAnswered,
                Self::IcmpUnanswered => Self::IcmpAnswered,
                Self::OtherUnanswered => Self::OtherAnswered,
                other => other,
            };
            nth += 1;
        }
        answered
    };

    #[inline]
    fn answered(self) -> Self {
        Self::ANSWERED[self as usize]
    }
}

/// What to do with a packet whose flow admits it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum Outcome {
    /// Forward it; it belongs to the flow and keeps it alive.
    InState,
    /// Forward it, but let it prove nothing: it neither changed the state nor refreshes the timeout.
    Tolerated,
    /// The old connection is over and this SYN opens another: remove the flow and judge the packet
    /// as the first of a new one, opened by its sender.
    Reopen,
    /// The responder's SYN on a live connection. Nothing has changed yet: if the policy permits its
    /// direction, tell [`Connection::opens_back`] and forward it, else drop it.
    OpensBack,
    /// The initiator's SYN-ACK to such a SYN: both sides take the new connection for the live one.
    /// Remove the flow; if the policy still permits, put [`Connection::answered`] in its place,
    /// opened by the other side.
    Turned,
}

/// The request type of an ICMP or ICMPv6 query, and whether the message is the request itself.
/// A type of no known pair stands for itself, as a request.
pub fn icmp_query(ip_protocol: u8, icmp_type: u8) -> (u8, bool) {
    match (ip_protocol, icmp_type) {
        // Echo, RFC 792; timestamp, information, address mask; extended echo, RFC 8335.
        (protocol::ICMP, 0) => (8, false),
        (protocol::ICMP, 14) => (13, false),
        (protocol::ICMP, 16) => (15, false),
        (protocol::ICMP, 18) => (17, false),
        (protocol::ICMP, 43) => (42, false),
        // Echo, RFC 4443; extended echo, RFC 8335.
        (protocol::ICMPV6, 129) => (128, false),
        (protocol::ICMPV6, 161) => (160, false),
        (_, request) => (request, true),
    }
}

/// Marks of a connection, two for each direction: the initiator's bit, shifted by one for the
/// responder's.
const SYN_ACKED: u8 = 0x01;
const FIN: u8 = 0x04;
/// Both SYNs carried a window scale, or it is assumed.
const SCALED: u8 = 0x10;
/// See the module's description.
const LIBERAL: u8 = 0x20;
/// A segment of the direction was seen.
const SEEN: u8 = 0x40;

/// The window scale nibble of a SYN without the option.
const NO_SCALE: u8 = 0x0f;
/// RFC 7323 section 2.3.
const MAX_SCALE: u8 = 14;
/// The least span of acknowledgements that is tolerated, whatever the window: a full unscaled
/// window and a segment.
const MIN_ACK_SPAN: u32 = 66_000;
/// The largest window that RFC 7323 permits: beyond it sequence numbers would not compare.
const MAX_WINDOW: u32 = 1 << 30;

/// The state of one flow. 28 bytes, so that a flow entry has room for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Connection {
    phase: Phase,
    /// The flow entry's own: here because an entry has no byte to lose on padding.
    pub(crate) entry_flags: u8,
    marks: u8,
    /// Window scale nibbles: the initiator's low.
    scale: u8,
    /// Per direction: one past the highest sequence number sent.
    end: [u32; 2],
    /// Per direction: the highest sequence number that the peer acknowledged.
    una: [u32; 2],
    /// Per direction: the largest window that the sender announced, in units of its scale.
    window: [u16; 2],
    /// In TCP what [`attempt_mark`] made of a SYN that came in a live connection, 0 for none; in ICMP the flow entry keeps the initiator's type and code here.
    pub(crate) attempt_or_icmp: u16,
    /// The flow entry's own, see above.
    pub(crate) entry_packets_high: [u8; 2],
}

const _: () = assert!(size_of::<Connection>() == 28);

impl Connection {
    /// The state that the first packet of a flow opens.
    ///
    /// `adopt` says in which direction a TCP segment from the middle of a connection may be taken
    /// up: the one that the policy permits, during the grace time; [`None`] outside of it.
    ///
    /// # Errors
    ///
    /// [`DropReason::TcpNoFlow`] for a TCP segment that opens nothing and may not be adopted,
    /// [`DropReason::IcmpNoFlow`] for an ICMP reply.
    pub fn of_first(parsed: &Parsed, adopt: Option<Direction>) -> Result<Self, DropReason> {
        let headers = &parsed.headers;
        match parsed.kind {
            Kind::Tcp => {
                let segment = &parsed.tcp;
                check_flags(segment)?;
                let state = match (is_bare_syn(segment), adopt) {
                    (true, _) => Ok(Self::open(segment)),
                    (false, Some(direction)) => Self::adopt(segment, direction),
                    (false, None) => Err(DropReason::TcpNoFlow),
                };
                state.map(|state| if parsed.fragment.is_some() { state.liberal() } else { state })
            }
            Kind::IcmpQuery => {
                let icmp_type = (headers.dst_port >> 8) as u8;
                match icmp_query(headers.protocol, icmp_type) {
                    (_, true) => Ok(Self::pseudo(Phase::IcmpUnanswered)),
                    (_, false) => Err(DropReason::IcmpNoFlow),
                }
            }
            _ => Ok(Self::pseudo(unanswered(headers))),
        }
    }

    /// Whether [`Self::of_first`] opens a flow outside of the grace time: cheaper to ask.
    #[inline]
    pub fn opens(parsed: &Parsed) -> bool {
        match parsed.kind {
            Kind::Tcp => is_bare_syn(&parsed.tcp) && check_flags(&parsed.tcp).is_ok(),
            Kind::IcmpQuery => {
                let icmp_type = (parsed.headers.dst_port >> 8) as u8;
                icmp_query(parsed.headers.protocol, icmp_type).1
            }
            _ => true,
        }
    }

    /// The state after the SYN that opens a connection, data in it included (RFC 7413).
    pub fn open(syn: &TcpSegment) -> Self {
        Self {
            end: [segment_end(syn), 0],
            una: [syn.seq, 0],
            window: [syn.window, 0],
            scale: scale_nibble(syn) | NO_SCALE << 4,
            marks: SEEN,
            ..Self::pseudo(Phase::SynSent)
        }
    }

    /// The state of a connection taken up in its middle, at a segment that the side of `direction`
    /// sent.
    ///
    /// # Errors
    ///
    /// [`DropReason::TcpNoFlow`] for a segment that says nothing about a live connection: a RST, or
    /// one without ACK.
    pub fn adopt(segment: &TcpSegment, direction: Direction) -> Result<Self, DropReason> {
        if segment.flags & flag::RST != 0 || segment.flags & flag::ACK == 0 {
            return Err(DropReason::TcpNoFlow);
        }
        let (from, to) = (direction as usize, direction.opposite() as usize);
        let mut state = Self::pseudo(Phase::Adopted);
        state.end[from] = segment_end(segment);
        state.una[from] = segment.seq;
        state.end[to] = segment.ack;
        state.una[to] = segment.ack;
        state.window = [u16::MAX; 2];
        state.scale = MAX_SCALE | MAX_SCALE << 4;
        state.marks = SCALED | LIBERAL | SYN_ACKED | SYN_ACKED << 1 | SEEN << from;
        if segment.flags & flag::FIN != 0 {
            state.marks |= FIN << from;
        }
        Ok(state)
    }

    /// Where the phase is in memory: what ageing asks for shares a cache line.
    pub(crate) const PHASE_OFFSET: usize = std::mem::offset_of!(Self, phase);

    /// The state of no flow, for places that hold none.
    pub(crate) const NONE: Self = Self::pseudo(Phase::Closed);

    /// Where the flow is in its life.
    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the handshake of a TCP connection is not complete.
    pub fn is_half_open(&self) -> bool {
        matches!(self.phase, Phase::SynSent | Phase::SynReceived)
    }

    /// Whether the responder has answered, by more than a refusal.
    pub fn is_answered(&self) -> bool {
        use Phase::{IcmpAnswered, OtherAnswered, UdpAnswered};
        use Phase::{IcmpUnanswered, OtherUnanswered, UdpUnanswered};
        match self.phase {
            UdpAnswered | IcmpAnswered | OtherAnswered => true,
            UdpUnanswered | IcmpUnanswered | OtherUnanswered => false,
            _ => self.marks & (SEEN << 1) != 0,
        }
    }

    /// Judges a packet that is not TCP and belongs to the flow.
    #[inline]
    pub fn note(&mut self, direction: Direction) {
        if direction == Direction::FromResponder {
            self.phase = self.phase.answered();
        }
    }

    /// A connection in place of one that neither side knows any more, from the SYN-ACK that answers
    /// its SYN. What that said of windows was not kept: the widest are assumed.
    pub fn answered(syn_ack: &TcpSegment) -> Self {
        let mut new = Self::pseudo(Phase::SynReceived);
        new.end = [syn_ack.ack, segment_end(syn_ack)];
        new.una = [syn_ack.ack, syn_ack.seq];
        new.window = [u16::MAX, syn_ack.window];
        new.scale = MAX_SCALE | scale_nibble(syn_ack) << 4;
        new.marks = SYN_ACKED | SEEN | SEEN << 1;
        // A responder offers a scale only to an initiator that did.
        if syn_ack.window_scale.is_some() {
            new.marks |= SCALED;
            new.window[1] = to_units(syn_ack.window, scale_nibble(syn_ack));
        }
        new
    }

    /// Takes note of a SYN of the responder that the policy permits, so that its answer is known.
    pub fn opens_back(&mut self, syn: &TcpSegment) {
        let (direction, end) = (Direction::FromResponder, segment_end(syn));
        if self.check_sequence(direction, syn.seq, end).is_err() {
            self.attempt_or_icmp = attempt_mark(syn.seq, direction);
        }
    }

    /// From now on judge liberally (see the module's description): for a segment that is a first
    /// fragment, whose length is unknown.
    #[inline]
    pub fn set_liberal(&mut self) {
        *self = self.liberal();
    }

    /// Judges a TCP segment that belongs to the flow and moves the state on.
    ///
    /// For a fragmented segment call [`Self::set_liberal`] first.
    ///
    /// # Errors
    ///
    /// Why the segment has to be dropped; the state is then as it was.
    #[inline]
    pub fn update(
        &mut self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Result<Outcome, DropReason> {
        const CONTROL: u8 = flag::SYN | flag::RST | flag::FIN | flag::ACK;
        if segment.flags & CONTROL == flag::ACK && self.phase == Phase::Established {
            self.check_window(direction, segment)?;
            self.advance(direction, segment);
            return Ok(Outcome::InState);
        }
        self.update_control(direction, segment)
    }

    /// Everything but a plain segment of an established connection.
    fn update_control(
        &mut self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Result<Outcome, DropReason> {
        check_flags(segment)?;
        if segment.flags & flag::RST != 0 {
            return self.reset(direction, segment);
        }
        if segment.flags & flag::SYN != 0 {
            return if segment.flags & flag::ACK != 0 {
                self.syn_ack(direction, segment)
            } else {
                self.syn(direction, segment)
            };
        }
        if segment.flags & flag::ACK == 0 {
            return Err(DropReason::TcpState);
        }
        if self.phase == Phase::SynSent {
            let recovers = direction == Direction::FromResponder && segment.payload_len == 0;
            return if recovers { Ok(Outcome::Tolerated) } else { Err(DropReason::TcpState) };
        }
        self.check_window(direction, segment)?;
        let from = direction as usize;
        if self.is_fin_acked(from) && after(segment_end(segment), self.end[from]) {
            return Err(DropReason::TcpState);
        }
        self.advance(direction, segment);
        self.settle();
        Ok(Outcome::InState)
    }

    /// A segment with SYN and without ACK.
    fn syn(&mut self, direction: Direction, segment: &TcpSegment) -> Result<Outcome, DropReason> {
        match (self.phase, direction) {
            (Phase::TimeWait | Phase::Closed, _) => Ok(Outcome::Reopen),
            (Phase::SynSent, Direction::FromInitiator) => {
                self.try_again(segment);
                Ok(Outcome::InState)
            }
            // Simultaneous open: both have sent SYN, neither has an acknowledgement.
            (Phase::SynSent, Direction::FromResponder) => {
                self.join(segment);
                Ok(Outcome::InState)
            }
            (Phase::SynReceived, Direction::FromResponder) if segment.seq == self.una[1] => {
                Ok(Outcome::Tolerated)
            }
            (_, Direction::FromInitiator) => {
                // One in window is the late copy of the SYN that opened this connection.
                let (seq, end) = (segment.seq, segment_end(segment));
                if self.check_sequence(direction, seq, end).is_err() {
                    self.attempt_or_icmp = attempt_mark(seq, direction);
                }
                Ok(Outcome::Tolerated)
            }
            (_, Direction::FromResponder) => Ok(Outcome::OpensBack),
        }
    }

    /// A segment with SYN and ACK.
    fn syn_ack(
        &mut self,
        direction: Direction,
        segment: &TcpSegment,
    ) -> Result<Outcome, DropReason> {
        let (from, to) = (direction as usize, direction.opposite() as usize);
        let half_open = matches!(self.phase, Phase::SynSent | Phase::SynReceived);
        if half_open && direction == Direction::FromResponder {
            return self.answer(segment);
        }
        if self.phase == Phase::SynSent {
            return Err(DropReason::TcpState);
        }
        if let Err(reason) = self.check_window(direction, segment) {
            let is_live = !matches!(self.phase, Phase::TimeWait | Phase::Closed);
            let attempt = attempt_mark(segment.ack.wrapping_sub(1), direction.opposite());
            if !is_live || self.attempt_or_icmp != attempt {
                return Err(reason);
            }
            if direction == Direction::FromInitiator {
                return Ok(Outcome::Turned);
            }
            *self = Self::answered(segment).with_entry_of(self);
            return Ok(Outcome::InState);
        }
        if self.phase == Phase::SynReceived {
            // The initiator's half of a simultaneous open.
            if segment.seq != self.una[from] && segment.seq.wrapping_add(1) != self.una[from] {
                return Err(DropReason::TcpWindow);
            }
            if after(segment.ack, self.una[to]) {
                self.acknowledge(direction, segment);
                self.settle();
                return Ok(Outcome::InState);
            }
        }
        Ok(Outcome::Tolerated)
    }

    /// A SYN-ACK of the responder in a connection that is half open.
    fn answer(&mut self, segment: &TcpSegment) -> Result<Outcome, DropReason> {
        // RFC 9293 section 3.10.7.3: ISS < SEG.ACK =< SND.NXT.
        let acked_before = self.marks & SYN_ACKED != 0 && segment.ack == self.una[0];
        let acks_syn = after(segment.ack, self.una[0]) || acked_before;
        if !acks_syn || (after(segment.ack, self.end[0]) && self.marks & LIBERAL == 0) {
            return Err(DropReason::TcpWindow);
        }
        let known = self.phase == Phase::SynReceived
            && (segment.seq == self.una[1] || segment.seq.wrapping_add(1) == self.una[1]);
        if !known {
            // A first answer, or a different one before the initiator has acknowledged the first.
            if self.marks & (SYN_ACKED << 1) != 0 {
                return Err(DropReason::TcpWindow);
            }
            self.join(segment);
        }
        let scale = if self.marks & SCALED != 0 { self.scale >> 4 } else { 0 };
        self.window[1] = self.window[1].max(to_units(segment.window, scale));
        self.acknowledge(Direction::FromResponder, segment);
        self.settle();
        Ok(Outcome::InState)
    }

    /// A segment with RST. What it acknowledges is not looked at: stacks differ.
    fn reset(&mut self, direction: Direction, segment: &TcpSegment) -> Result<Outcome, DropReason> {
        let from = direction as usize;
        if self.phase == Phase::SynSent {
            return match direction {
                // RFC 9293 section 3.10.7.3: a RST is acceptable if it acknowledges the SYN.
                Direction::FromResponder => {
                    let acks = segment.flags & flag::ACK != 0
                        && after(segment.ack, self.una[0])
                        && !after(segment.ack, self.end[0]);
                    if !acks {
                        return Err(DropReason::TcpWindow);
                    }
                    self.phase = Phase::Closed;
                    Ok(Outcome::InState)
                }
                Direction::FromInitiator if segment.seq == self.end[0] => {
                    self.phase = Phase::Closed;
                    Ok(Outcome::InState)
                }
                // Half-open recovery: the RST takes its number from the peer's stray ACK.
                Direction::FromInitiator => Ok(Outcome::Tolerated),
            };
        }
        if segment.seq == self.end[from] || segment.seq == self.una[from] {
            self.phase = Phase::Closed;
            return Ok(Outcome::InState);
        }
        self.check_sequence(direction, segment.seq, segment.seq)?;
        Ok(Outcome::Tolerated)
    }

    /// The initiator's SYN again, or the SYN of another attempt.
    fn try_again(&mut self, segment: &TcpSegment) {
        let mut again = Self::open(segment).with_entry_of(self);
        again.marks |= self.marks & LIBERAL;
        if segment.seq == self.una[0] {
            // Stacks retransmit without the data or the options of the first SYN: the answer may be
            // to either.
            if after(self.end[0], again.end[0]) {
                again.end[0] = self.end[0];
            }
            if segment.window_scale.is_none() {
                again.scale = self.scale;
            }
            again.window[0] = again.window[0].max(self.window[0]);
        }
        *self = again;
    }

    /// Takes the responder's SYN, with or without ACK, into a connection that had only the
    /// initiator's. The window scale holds if both sides offered one (RFC 7323 section 2.2).
    fn join(&mut self, segment: &TcpSegment) {
        self.end[1] = segment_end(segment);
        self.una[1] = segment.seq;
        self.window[1] = segment.window;
        self.marks &= !(SYN_ACKED << 1);
        self.marks |= SEEN << 1;
        self.phase = Phase::SynReceived;
        let offered = self.scale & 0x0f;
        let answered = scale_nibble(segment);
        self.scale = offered | answered << 4;
        let scaled = offered != NO_SCALE && answered != NO_SCALE;
        let was_scaled = self.marks & SCALED != 0;
        if scaled {
            // The window of a SYN is never scaled: round it up to the unit of those that follow.
            if !was_scaled {
                self.window[0] = to_units(self.window[0], offered);
            }
            self.window[1] = to_units(segment.window, answered);
            self.marks |= SCALED;
        } else if was_scaled {
            self.window[0] = u16::MAX;
            self.marks &= !SCALED;
        }
    }

    /// The largest window that the sender of `side` has announced, in bytes.
    #[inline]
    fn window_bytes(&self, side: usize) -> u32 {
        let shift = (self.scale >> (4 * side)) & 0x0f;
        let shift = if self.marks & SCALED != 0 { shift } else { 0 };
        (u32::from(self.window[side]) << shift).min(MAX_WINDOW)
    }

    #[inline]
    fn check_window(&self, direction: Direction, segment: &TcpSegment) -> Result<(), DropReason> {
        self.check_sequence(direction, segment.seq, segment_end(segment))?;
        let (from, to) = (direction as usize, direction.opposite() as usize);
        let own_window = self.window_bytes(from);
        let ahead = if self.marks & LIBERAL != 0 { own_window.max(MIN_ACK_SPAN) } else { 0 };
        let behind = (2 * own_window.max(MIN_ACK_SPAN)).min(MAX_WINDOW);
        let distance = distance(self.end[to], segment.ack);
        if distance > ahead as i32 || distance < -(behind as i32) {
            return Err(DropReason::TcpWindow);
        }
        Ok(())
    }

    /// Conditions 1 and 2 of the module's description.
    #[inline]
    fn check_sequence(&self, direction: Direction, seq: u32, end: u32) -> Result<(), DropReason> {
        let (from, to) = (direction as usize, direction.opposite() as usize);
        let window = self.window_bytes(to);
        let behind = (2 * window.max(MIN_ACK_SPAN)).min(MAX_WINDOW) as i32;
        // Both bounds are measured from one point, so that nothing on the far side of the sequence
        // space is before the one and after the other.
        let offset = distance(self.end[from], seq);
        let unacknowledged = distance(self.una[from], self.end[from]);
        // An empty segment may follow what a window probe has sent beyond the edge.
        let beyond = offset > window as i32 - unacknowledged && (seq != end || offset > 0);
        if beyond || offset < -behind - distance(seq, end) {
            return Err(DropReason::TcpWindow);
        }
        Ok(())
    }

    /// Takes in what a segment in window says.
    #[inline]
    fn advance(&mut self, direction: Direction, segment: &TcpSegment) {
        let from = direction as usize;
        let end = segment_end(segment);
        if segment.flags & flag::FIN != 0 {
            if !after(self.end[from], end) {
                self.marks |= FIN << from;
            }
        } else if after(end, self.end[from]) {
            self.marks &= !(FIN << from);
        }
        if after(end, self.end[from]) {
            self.end[from] = end;
        }
        self.window[from] = self.window[from].max(segment.window);
        self.marks |= SEEN << from;
        self.acknowledge(direction, segment);
    }

    #[inline]
    fn acknowledge(&mut self, direction: Direction, segment: &TcpSegment) {
        let to = direction.opposite() as usize;
        if after(segment.ack, self.una[to]) {
            self.una[to] = segment.ack;
            self.marks |= SYN_ACKED << to;
            // Only a liberal connection gets here with an acknowledgement beyond what was seen.
            if after(segment.ack, self.end[to]) {
                self.end[to] = segment.ack;
            }
        }
    }

    /// Whether the side has sent FIN and its peer has acknowledged it.
    fn is_fin_acked(&self, side: usize) -> bool {
        self.marks & (FIN << side) != 0 && self.una[side] == self.end[side]
    }

    /// Moves the phase to where the marks are.
    fn settle(&mut self) {
        let both = |mark: u8| self.marks & (mark | mark << 1) == (mark | mark << 1);
        if self.phase == Phase::Closed || !both(SYN_ACKED) || !both(SEEN) {
            return;
        }
        self.phase = if self.is_fin_acked(0) && self.is_fin_acked(1) {
            Phase::TimeWait
        } else if both(FIN) {
            Phase::Closing
        } else if self.marks & (FIN | FIN << 1) != 0 {
            Phase::HalfClosed
        } else {
            Phase::Established
        };
    }

    const fn pseudo(phase: Phase) -> Self {
        Self {
            end: [0; 2],
            una: [0; 2],
            window: [0; 2],
            scale: NO_SCALE | NO_SCALE << 4,
            marks: 0,
            phase,
            attempt_or_icmp: 0,
            entry_flags: 0,
            entry_packets_high: [0; 2],
        }
    }

    fn with_entry_of(mut self, other: &Self) -> Self {
        self.entry_flags = other.entry_flags;
        self.entry_packets_high = other.entry_packets_high;
        self
    }

    fn liberal(mut self) -> Self {
        self.marks |= LIBERAL;
        self
    }
}

/// Enough of the initial sequence number of a SYN to tell its SYN-ACK by, and who sent it; never 0.
fn attempt_mark(isn: u32, direction: Direction) -> u16 {
    (isn as u16 & 0x7fff).max(1) | (direction as u16) << 15
}

/// The phase in which a flow without connection starts.
fn unanswered(headers: &Headers) -> Phase {
    match headers.protocol {
        protocol::UDP if headers.is_ip() => Phase::UdpUnanswered,
        protocol::ICMP | protocol::ICMPV6 if headers.is_ip() => Phase::IcmpUnanswered,
        _ => Phase::OtherUnanswered,
    }
}

/// Whether a segment asks for a new connection.
pub(crate) fn is_bare_syn(segment: &TcpSegment) -> bool {
    segment.flags & (flag::SYN | flag::ACK) == flag::SYN
}

/// The parser drops these already; the state machine does not rely on it.
fn check_flags(segment: &TcpSegment) -> Result<(), DropReason> {
    let has = |bit: u8| segment.flags & bit != 0;
    let nonsense = (has(flag::SYN) && (has(flag::FIN) || has(flag::RST)))
        || (has(flag::FIN) && (has(flag::RST) || !has(flag::ACK)))
        || !(has(flag::SYN) || has(flag::RST) || has(flag::ACK));
    if nonsense { Err(DropReason::TcpFlags) } else { Ok(()) }
}

/// One past the last sequence number that the segment takes: SYN and FIN count one each.
#[inline]
fn segment_end(segment: &TcpSegment) -> u32 {
    let control = u32::from((segment.flags >> 1) & 1) + u32::from(segment.flags & 1);
    segment.seq.wrapping_add(u32::from(segment.payload_len)).wrapping_add(control)
}

/// How far `to` is after `from` in sequence space; negative when it is before.
#[inline]
fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

#[inline]
fn after(a: u32, b: u32) -> bool {
    distance(b, a) > 0
}

fn scale_nibble(syn: &TcpSegment) -> u8 {
    // RFC 7323 section 2.3: a larger shift is taken as 14.
    syn.window_scale.map_or(NO_SCALE, |shift| shift.min(MAX_SCALE))
}

fn to_units(bytes: u16, scale: u8) -> u16 {
    bytes.div_ceil(1 << scale)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
