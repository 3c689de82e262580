//! What the judge tells of flows, and of what opens none.

use bulkhead_rules::headers::WireId;
use bulkhead_rules::policy::RuleId;

use super::packet::Packet;
use super::{Answer, FROM_INITIATOR, Judge, Moment, Opening};
use crate::burst::Columns;
use crate::conntrack::{Connection, Direction, Outcome, Phase, is_bare_syn};
use crate::flow_table::{FlowIndex, Judgement};
use crate::parse::Kind;
use crate::port::{Burst, Frame};
use crate::record::{Ending, Records, is_announcement};
use crate::snapshot::Mode;
use crate::verdict::{DropReason, Verdict};
use crate::worker::is_sent;

impl Judge {
    /// From now on tells `records` what becomes of flows.
    pub fn tell(&mut self, records: Records) {
        self.flows.tell(records);
    }

    /// Tells of the frames that were decided last and open no flow, and copies some, once it is
    /// certain what becomes of them.
    #[inline]
    pub fn tell_frames<F: Frame>(
        &mut self,
        columns: &Columns,
        frames: &Burst<F>,
        wire: WireId,
        from_inside: bool,
    ) {
        if let Some(records) = &mut self.flows.records {
            records.note(columns, frames, wire, from_inside);
        }
    }

    /// Tells that the worker stops, and with it every flow.
    pub fn stop(&mut self) {
        self.flows.stopped();
    }

    /// Whether a flow that is judged so is followed although it is forbidden: its wire observes, and
    /// somebody wants to know what would be cut.
    fn follows_forbidden(&self, verdict: Verdict, moment: &Moment<'_>) -> bool {
        self.flows.records.is_some()
            && moment.wire.mode == Mode::Observe
            && is_sent(verdict, Mode::Observe)
    }

    /// Gives a flow that `verdict` forbids an entry, where it is to be followed. One that finds no room
    /// is told packet by packet.
    pub(super) fn follow_forbidden(
        &mut self,
        packet: Packet<'_>,
        opening: &Opening<'_>,
        verdict: Verdict,
        moment: &Moment<'_>,
    ) {
        let Packet { place, parsed, bytes, .. } = packet;
        if !self.follows_forbidden(verdict, moment)
            || (parsed.kind == Kind::Tcp && !packet.is_taken())
        {
            return;
        }
        let judgement = Judgement { permitted: false, ..moment.judgement(opening.answer) };
        let direction = opening.direction;
        if let Ok(index) = self.give_entry(place, opening, judgement, moment) {
            self.flows.entry_mut(index).count(direction, bytes.len(), true, moment.now_ns);
            self.begun(index, packet, direction);
            self.recorded |= 1 << place;
        }
    }

    /// A connection that nobody may open, seen in its middle: its sender passes for the client.
    pub(super) fn follow_forbidden_middle(
        &mut self,
        packet: Packet<'_>,
        answer: Answer,
        verdict: Verdict,
        moment: &Moment<'_>,
    ) {
        let Ok(connection) = Connection::of_first(packet.parsed, Some(FROM_INITIATOR)) else {
            return;
        };
        let headers = &packet.parsed.headers;
        let initiator = self.senders[packet.place];
        let (direction, opening_seen) = (FROM_INITIATOR, false);
        let opening = Opening { answer, headers, initiator, connection, direction, opening_seen };
        self.follow_forbidden(packet, &opening, verdict, moment);
    }

    /// Keeps the flow at `index`, which the policy has come to forbid, where it is to be followed.
    pub(super) fn keep_forbidden(
        &mut self,
        index: FlowIndex,
        answer: Answer,
        verdict: Verdict,
        moment: &Moment<'_>,
    ) -> bool {
        let keeps = self.follows_forbidden(verdict, moment);
        if keeps {
            let entry = self.flows.entry_mut(index);
            let headers = entry.initiator_headers();
            let judgement = Judgement { permitted: false, ..moment.judgement(answer) };
            entry.judged(judgement, [headers.src_mac, headers.dst_mac]);
        }
        keeps
    }

    /// A packet of a flow that is forbidden and followed. What passes is the wire's decision, not the
    /// flow's: the verdict is the policy's. The rule decided once, about the packet that opened it.
    #[cold]
    pub(super) fn ride_forbidden(
        &mut self,
        index: FlowIndex,
        packet: Packet<'_>,
        moment: &Moment<'_>,
    ) -> (Verdict, Option<RuleId>) {
        let Packet { place, parsed, bytes, .. } = packet;
        let sender = self.senders[place];
        let direction = self.flows.entry(index).direction(sender);
        if self.may_open_another(index, direction, packet, moment) {
            self.flows.remove(index, Ending::Replaced);
            self.is_moved = true;
            return self.open(packet, moment);
        }
        let entry = self.flows.entry_mut(index);
        let rule = entry.rule();
        let proves = if parsed.kind == Kind::Tcp {
            packet.move_on(entry, direction) == Ok(Outcome::InState)
        } else {
            entry.connection_mut().note(direction);
            true
        };
        entry.count(direction, bytes.len(), proves, moment.now_ns);
        self.recorded |= 1 << place;
        self.look_at(index, direction, packet);
        (moment.forbidden(rule, DropReason::Policy), None)
    }

    /// Whether a packet of a forbidden flow stands for another one, which the policy may permit: with
    /// other MAC addresses where these matter, after the connection's end, or opened by the other side.
    fn may_open_another(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        packet: Packet<'_>,
        moment: &Moment<'_>,
    ) -> bool {
        let (parsed, headers) = (packet.parsed, packet.parsed.headers);
        let entry = self.flows.entry(index);
        if !entry.admits_macs(direction, headers.src_mac, headers.dst_mac) {
            return true;
        }
        let phase = entry.phase();
        let is_first_back = match parsed.kind {
            Kind::Tcp if is_bare_syn(&parsed.tcp) => {
                if matches!(phase, Phase::TimeWait | Phase::Closed) {
                    return true;
                }
                direction != FROM_INITIATOR && phase != Phase::SynSent
            }
            Kind::Other | Kind::Dhcp => {
                direction != FROM_INITIATOR
                    && matches!(phase, Phase::UdpUnanswered | Phase::OtherUnanswered)
            }
            _ => false,
        };
        is_first_back && {
            let answer = self.classify_one(&headers, moment);
            moment.permits(answer.rule)
        }
    }

    /// A flow has begun with this packet, which is counted.
    #[inline]
    pub(super) fn begun(&mut self, index: FlowIndex, packet: Packet<'_>, direction: Direction) {
        let Some(records) = &mut self.flows.records else { return };
        let copies = records.copies_frames();
        self.flows.begun(index);
        if copies {
            let headers = &packet.parsed.headers;
            let reply = headers.reversed();
            let announces = is_announcement(headers) || is_announcement(&reply);
            self.flows.entry_mut(index).watch(announces);
            self.look_at(index, direction, packet);
        }
    }

    /// Marks the frame to be copied if its flow is watched and it has what is wanted.
    #[inline]
    pub(super) fn look_at(&mut self, index: FlowIndex, direction: Direction, packet: Packet<'_>) {
        let entry = self.flows.entry_mut(index);
        if entry.is_watched() && packet.is_wanted_of(entry, direction) {
            self.copied |= 1 << packet.place;
        }
    }
}
