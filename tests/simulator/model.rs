//! The promises, as a model that a stranger can check by reading.
//!
//! For every frame that a worker has judged the model answers two questions:
//!
//! 1. **May it pass?** It may where the policy in force permits it as the first packet of a
//!    conversation, or where it belongs to a conversation that a permitted packet has opened, that has
//!    not been silent for longer than its timeout, and that the policy in force *still* permits. An
//!    ICMP error may pass where it quotes such a conversation, a later fragment where it follows the
//!    first fragment of one. ARP, neighbour discovery and link control are nobody's to forbid.
//! 2. **Must it pass?** It must where an honest host sent it, nothing has damaged it, and it opens a
//!    permitted conversation or belongs to one that is beyond doubt alive and permitted.
//!
//! Between "may" and "must" lies what depends on details that the model does not repeat: the exact
//! state of a TCP connection, who made room for whom in a full table. There the gateway is free.
//!
//! The model asks [`oracle::classify`], the linear scan over the rules, and no compiled classifier.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use ahash::RandomState;
use bulkhead_pipeline::conntrack::Timeouts;
use bulkhead_pipeline::fragment::FragmentTableConfig;
use bulkhead_pipeline::verdict::{DropReason, Verdict};
use bulkhead_rules::headers::{Headers, Mac, PolicyTime, protocol};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::{Action, Policy, RuleId};

use super::frame::{Origin, Sender};
use super::port::FrameId;
use super::reader::{Key, Piece, Seen, What, read};

/// What the gateway may add to a timeout, in nanoseconds: its clock for flows ticks every 17 ms.
const TIMEOUT_SLACK_NS: u64 = 40_000_000;
/// An identification that was first used this long ago may be used for another packet.
const FRAGMENT_REUSE_NS: u64 = 1_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const FIN: u8 = 0x01;
const ACK: u8 = 0x10;

/// What a frame was judged under.
pub(super) struct Circumstances<'a> {
    /// The policies that were in force while it was on its way: two when a reload fell upon it.
    pub(super) policies: &'a [Arc<Policy>],
    pub(super) at: PolicyTime,
    pub(super) now_ns: u64,
    /// Whether the wire forwards what it would drop.
    pub(super) observes: bool,
    /// Whether the wire follows conversations that the policy forbids: it observes, and somebody wants
    /// to know of them.
    pub(super) follows: bool,
    /// Whether TCP connections may be taken up in their middle.
    pub(super) adopts: bool,
    /// The longest frame that the other port can send.
    pub(super) max_frame_len: usize,
}

/// A frame that was judged.
pub(super) struct Judged<'a> {
    /// Frames are numbered in the order in which they came.
    pub(super) id: FrameId,
    /// The frames after this one came when this one had been judged, or are judged after it.
    pub(super) judged_before: FrameId,
    /// How long it has been in the gateway.
    pub(super) waited_ns: u64,
    pub(super) sender: Sender,
    /// Whether the network has changed a bit of it or cut it.
    pub(super) is_damaged: bool,
    pub(super) bytes: &'a [u8],
    pub(super) wire: u16,
    pub(super) group: u16,
    /// The headers that the gateway's parser has read.
    pub(super) headers: Option<Headers>,
    pub(super) verdict: Verdict,
    pub(super) rule: Option<RuleId>,
}

/// What the model expects of the gateway, see the module's description.
pub(super) struct Model {
    timeouts: Timeouts,
    fragment_timeout_ns: u64,
    fragment_wait_ns: u64,
    /// Whether the tables have room for all that can happen: then a permitted conversation can
    /// always be opened.
    is_roomy: bool,
    flows: HashMap<Key, Flow, RandomState>,
    packets: HashMap<(Key, u32), Fragmented, RandomState>,
    /// The last conversation in each place of which a packet has left the gateway.
    begun: HashMap<usize, u64, RandomState>,
    /// Frames that the gateway had to forward, and did.
    pub(super) owed: u64,
    /// Frames of conversations that were permitted once and are no more, and were stopped.
    pub(super) ended: u64,
    next_purge_ns: u64,
}

/// A conversation that a forwarded packet has opened.
#[derive(Clone, Debug)]
struct Flow {
    /// The headers that may have opened it. More than one where both sides may open.
    openers: Vec<Headers>,
    /// The honest conversation that opened it.
    talk: Option<(usize, u64)>,
    /// When a packet last passed.
    passed_ns: u64,
    /// Whether a packet passed from the other side.
    is_answered: bool,
    /// A TCP connection that was taken up in its middle.
    is_adopted: bool,
    /// The initiator has acknowledged the responder's SYN.
    is_open: bool,
    is_ending: bool,
    /// A SYN came when it was ending, or it goes on where another flow left off.
    is_blurred: bool,
    /// The policy forbade it when it was last judged. A wire that observes follows it nevertheless: once
    /// the policy permits what opened it, it is a conversation like any other there. Where a wire
    /// enforces it is none.
    is_forbidden: bool,
    /// What is beyond doubt: the gateway has this flow, opened by `openers[0]`.
    sure: Option<Sure>,
}

/// See [`Flow::sure`].
#[derive(Clone, Copy, Debug)]
struct Sure {
    /// When a packet last kept it alive.
    kept_ns: u64,
    is_answered: bool,
}

/// A packet of which the first fragment has passed.
struct Fragmented {
    flow: Key,
    first: FrameId,
    began_ns: u64,
    /// What passed, and whether nothing but honest fragments were seen.
    passed: Vec<(usize, usize)>,
    seen: Vec<(usize, usize)>,
    is_sure: bool,
}

impl Model {
    pub(super) fn new(timeouts: Timeouts, fragments: &FragmentTableConfig, is_roomy: bool) -> Self {
        let hasher = || RandomState::with_seeds(1, 2, 3, 4);
        Self {
            timeouts,
            fragment_timeout_ns: u64::from(fragments.timeout_s) * SECOND_NS,
            fragment_wait_ns: u64::from(fragments.wait_ms) * 1_000_000,
            is_roomy,
            flows: HashMap::with_hasher(hasher()),
            packets: HashMap::with_hasher(hasher()),
            begun: HashMap::with_hasher(hasher()),
            owed: 0,
            ended: 0,
            next_purge_ns: 0,
        }
    }

    /// Takes in a verdict.
    ///
    /// # Errors
    ///
    /// Which promise it breaks.
    pub(super) fn judged(
        &mut self,
        frame: &Judged<'_>,
        now: &Circumstances<'_>,
    ) -> Result<(), String> {
        self.purge(now.now_ns);
        let passes = frame.verdict == Verdict::Forward;
        let Some(seen) = read(frame.bytes, frame.wire) else {
            let forwarded = "a frame that no host should read was forwarded";
            return if passes { Err(forwarded.to_owned()) } else { Ok(()) };
        };
        let seen = seen.in_group(frame.group);
        let other = frame.headers.filter(|headers| *headers != seen.headers);
        if let (Some(other), true) = (other, passes && seen.what != What::Control) {
            let own = seen.headers;
            return Err(format!("judged as {other:?}, and its receiver reads {own:?}"));
        }
        let is_owed = self.must_pass(frame, &seen, now);
        if is_owed && !passes {
            return Err(format!("an honest frame that had to pass: {:?}", frame.verdict));
        }
        self.owed += u64::from(is_owed);
        let is_honest = matches!(frame.sender.origin, Origin::Honest) && !frame.is_damaged;
        if let Some(packet) = seen.packet_id().and_then(|id| self.packets.get_mut(&id)) {
            // A fragment that disagrees with the others may cost them their lives.
            packet.is_sure &= is_honest;
        }
        match seen.what {
            What::Control => Ok(()),
            What::Error { quotes } => self.error(frame, quotes, passes, now),
            What::LaterFragment => self.later_fragment(frame, &seen, passes, now),
            _ => {
                let judged = self.packet(frame, &seen, passes, now);
                if let (true, Some((place, number))) = (passes || now.observes, frame.sender.talk) {
                    self.begun.insert(place, number);
                }
                judged
            }
        }
    }

    /// Whether the frame has to pass, see the module's description.
    fn must_pass(&self, frame: &Judged<'_>, seen: &Seen, now: &Circumstances<'_>) -> bool {
        let honest = matches!(frame.sender.origin, Origin::Honest) && !frame.is_damaged;
        if !honest || frame.bytes.len() > now.max_frame_len {
            return false;
        }
        match seen.what {
            What::Control => true,
            What::Error { quotes } => quotes.is_some_and(|key| self.is_sure(&key, None, now)),
            What::LaterFragment => {
                let packet = seen.packet_id().and_then(|id| self.packets.get(&id));
                packet.zip(seen.piece).is_some_and(|(packet, piece)| {
                    // What came before the first one waits for it, if there is room, and not for long.
                    let waits = !now.observes && frame.waited_ns < self.fragment_wait_ns;
                    let is_in_time = frame.id > packet.first || (waits && !is_wait_full(frame));
                    packet.is_sure
                        && is_in_time
                        && now.now_ns - packet.began_ns < self.fragment_timeout_ns / 2
                        && !overlaps(&packet.seen, piece)
                        && self.is_sure(&packet.flow, Some(&seen.headers), now)
                })
            }
            _ if seen.piece.is_some() => false,
            _ => match self.flows.get(&seen.key) {
                // The responder's SYN would be another connection's first packet.
                Some(flow) if seen.is_bare_syn() && !flow.is_opened_by(&seen.headers) => false,
                // Another connection of the same two ports is no business of this one's.
                Some(flow) if flow.talk != frame.sender.talk => false,
                Some(flow) if !flow.is_forbidden || now.observes => {
                    self.is_sure(&seen.key, Some(&seen.headers), now)
                }
                _ => self.is_roomy && seen.can_open() && now.all_permit(&seen.headers),
            },
        }
    }

    /// Whether the conversation is beyond doubt alive and permitted, for a packet with these MAC
    /// addresses.
    fn is_sure(&self, key: &Key, packet: Option<&Headers>, now: &Circumstances<'_>) -> bool {
        let Some(flow) = self.flows.get(key) else { return false };
        let (Some(sure), [opener]) = (flow.sure, &flow.openers[..]) else { return false };
        let least_ns = u64::from(self.least_timeout_s(flow, opener, sure.is_answered)) * SECOND_NS;
        now.now_ns - sure.kept_ns < least_ns
            && now.all_permit(opener)
            && packet.is_none_or(|packet| now.all_permit(&with_macs_of(opener, packet)))
    }

    /// An ICMP error, about a conversation.
    fn error(
        &mut self,
        frame: &Judged<'_>,
        quotes: Option<Key>,
        passes: bool,
        now: &Circumstances<'_>,
    ) -> Result<(), String> {
        let flow = quotes.and_then(|key| self.live(&key, now));
        let permitted = flow.is_some_and(|flow| {
            !flow.is_forbidden && flow.openers.iter().any(|o| now.any_permits(o))
        });
        if !passes {
            self.end_if_revoked(quotes, frame.verdict, now);
        } else if !permitted {
            return Err("an ICMP error about no conversation that is permitted".to_owned());
        }
        Ok(())
    }

    fn later_fragment(
        &mut self,
        frame: &Judged<'_>,
        seen: &Seen,
        passes: bool,
        now: &Circumstances<'_>,
    ) -> Result<(), String> {
        let Some((id, piece)) = seen.packet_id().zip(seen.piece) else { return Ok(()) };
        let flow = self.packets.get(&id).map(|packet| packet.flow);
        let permitted = flow.and_then(|key| self.live(&key, now)).is_some_and(|flow| {
            !flow.is_forbidden
                && flow.openers.iter().any(|o| now.any_permits(&with_macs_of(o, &seen.headers)))
        });
        if !passes {
            self.end_if_revoked(flow, frame.verdict, now);
        }
        let Some(packet) = self.packets.get_mut(&id) else {
            let orphan = "a later fragment whose first one did not pass";
            return if passes { Err(orphan.to_owned()) } else { Ok(()) };
        };
        let covered = overlaps(&packet.passed, piece);
        packet.seen.push((piece.start, piece.end));
        if !passes {
            return Ok(());
        }
        packet.passed.push((piece.start, piece.end));
        if now.now_ns > packet.began_ns + self.fragment_timeout_ns {
            return Err("a later fragment long after its first one".to_owned());
        }
        if covered {
            return Err("a fragment that overlaps what has passed".to_owned());
        }
        if !permitted {
            return Err("a later fragment of no conversation that is permitted".to_owned());
        }
        let key = packet.flow;
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.passed_ns = now.now_ns;
        }
        Ok(())
    }

    /// A packet that belongs to a conversation or opens one.
    fn packet(
        &mut self,
        frame: &Judged<'_>,
        seen: &Seen,
        passes: bool,
        now: &Circumstances<'_>,
    ) -> Result<(), String> {
        let headers = &seen.headers;
        if self.live(&seen.key, now).is_none() {
            self.flows.remove(&seen.key);
            self.check_rule(frame, seen, now)?;
        }
        let permitted = |o: &Headers| now.any_permits(&with_macs_of(o, headers));
        if now.observes {
            // Whatever becomes of the packet, its flow is judged again, and permitted now.
            let is_permitted = |flow: &&mut Flow| flow.openers.iter().any(permitted);
            if let Some(flow) = self.flows.get_mut(&seen.key).filter(is_permitted) {
                flow.is_forbidden = false;
            }
        }
        let flow = self.flows.get(&seen.key);
        // A SYN of the responder is the first packet of another connection, to its initiator.
        let rides = flow.is_some_and(|flow| {
            let opens_back = seen.is_bare_syn() && flow.is_open && !flow.is_opened_by(headers);
            !flow.is_forbidden && !opens_back && flow.openers.iter().any(permitted)
        });
        let mut opens: Vec<Headers> = Vec::new();
        if seen.can_open() && now.any_permits(headers) {
            opens.push(*headers);
        }
        if let (What::Tcp { flags, .. }, true) = (seen.what, now.adopts) {
            let may_adopt = flags & RST == 0 && flags & ACK != 0;
            let either = [*headers, headers.reversed()];
            opens.extend(either.iter().filter(|h| may_adopt && now.any_permits(h)));
        }
        if !passes {
            // Stopped after its flow had been judged: the flow lives, or has begun.
            let late = is_late(frame.verdict) && (rides || !opens.is_empty());
            if late {
                self.passed(frame, seen, rides, &opens, now);
            }
            self.end_if_revoked(Some(seen.key), frame.verdict, now);
            if now.follows && is_of_policy(frame.verdict) {
                self.follow(frame, seen, now);
            }
            return Ok(());
        }
        if !rides && opens.is_empty() {
            let flow = if flow.is_some() { "a conversation that is not permitted" } else { "none" };
            return Err(format!("nothing permits it: it opens nothing and belongs to {flow}"));
        }
        let is_blind = matches!(frame.sender.origin, Origin::Blind) && !frame.is_damaged;
        let is_open = flow.is_some_and(|flow| flow.is_open);
        if is_blind && is_open && self.is_sure(&seen.key, None, now) {
            return Err("a segment far out of window was forwarded".to_owned());
        }
        self.passed(frame, seen, rides, &opens, now);
        Ok(())
    }

    /// Takes in a packet that the policy forbids, on a wire that observes: it belongs to a conversation
    /// that is followed, or is the first one of it.
    fn follow(&mut self, frame: &Judged<'_>, seen: &Seen, now: &Circumstances<'_>) {
        let is_middle = matches!(seen.what, What::Tcp { .. }) && now.adopts;
        let may_begin = seen.can_open() || is_middle;
        let flow = match self.flows.entry(seen.key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) if may_begin => {
                let first = Flow::new(seen, frame.sender.talk, now.now_ns);
                place.insert(Flow { is_forbidden: true, is_blurred: true, ..first })
            }
            Entry::Vacant(_) => return,
        };
        // The gateway may have forgotten what it followed, for want of room or after a shorter timeout:
        // then this packet is the first one of another.
        if may_begin && !flow.openers.contains(&seen.headers) {
            flow.openers.push(seen.headers);
        }
        let from_opener = flow.openers.iter().all(|opener| is_same_way(opener, &seen.headers));
        flow.is_answered |= !from_opener;
        flow.is_adopted |= is_middle && !seen.can_open();
        flow.passed_ns = now.now_ns;
        if let (What::Tcp { flags, .. }, true) = (seen.what, flow.is_forbidden) {
            flow.take_segment(flags, from_opener, false, false, now.now_ns);
            flow.sure = None;
        }
    }

    /// Takes in a packet that passed, as it may.
    fn passed(
        &mut self,
        frame: &Judged<'_>,
        seen: &Seen,
        rides: bool,
        opens: &[Headers],
        now: &Circumstances<'_>,
    ) {
        let is_honest = matches!(frame.sender.origin, Origin::Honest) && !frame.is_damaged;
        let is_tcp = matches!(seen.what, What::Tcp { .. });
        let was_sure = self.is_sure(&seen.key, None, now);
        let is_roomy = self.is_roomy;
        // On a wire that enforces, what was only followed is gone.
        if !now.observes && self.flows.get(&seen.key).is_some_and(|flow| flow.is_forbidden) {
            self.flows.remove(&seen.key);
        }
        let fresh = !self.flows.contains_key(&seen.key);
        // A handshake that goes on in a second flow, after a timeout or after it was only observed,
        // does not have to succeed.
        let talk = frame.sender.talk;
        let is_first = talk.is_some_and(|(place, nth)| self.begun.get(&place) != Some(&nth));
        let begun = || Flow::new(seen, frame.sender.talk, now.now_ns);
        let flow = self.flows.entry(seen.key).or_insert_with(begun);
        flow.is_forbidden = false;
        // Judged with other MAC addresses and permitted, a flow goes on with these.
        let variants: Vec<Headers> = (flow.openers.iter())
            .map(|opener| with_macs_of(opener, &seen.headers))
            .filter(|variant| rides && now.any_permits(variant))
            .collect();
        // Who beyond doubt rides a flow opens none.
        let opens = if was_sure && !seen.is_bare_syn() { &[] } else { opens };
        for opener in opens.iter().chain(&variants) {
            if !flow.openers.contains(opener) {
                flow.openers.push(*opener);
            }
        }
        flow.is_adopted |= is_tcp && !opens.is_empty() && !seen.can_open();
        let from_opener = flow.openers.iter().all(|opener| is_same_way(opener, &seen.headers));
        let is_single = flow.openers.len() == 1;
        flow.passed_ns = now.now_ns;
        flow.is_answered |= !from_opener;
        let kept = |is_answered| Some(Sure { kept_ns: now.now_ns, is_answered });
        if let What::Tcp { flags, .. } = seen.what {
            flow.is_blurred |= fresh && !is_first;
            flow.take_segment(flags, from_opener, fresh, is_roomy, now.now_ns);
            flow.sure = flow.sure.filter(|_| is_honest && is_single && !flow.is_adopted);
        } else if !is_single {
            flow.sure = None;
        } else if from_opener {
            // It rode its flow or has opened it: in either case there is one now.
            let was_answered = was_sure && flow.sure.is_some_and(|sure| sure.is_answered);
            flow.sure = if is_roomy || was_answered { kept(was_answered) } else { None };
        } else if rides {
            // Nothing but the flow lets it pass; and what is answered does not make room.
            flow.sure = kept(true);
        }
        if frame.verdict != Verdict::Forward {
            flow.sure = flow.sure.filter(|_| !fresh);
        } else if let (Some(piece), Some(id)) = (seen.piece, seen.packet_id()) {
            self.first_fragment(frame.judged_before, id, seen.key, piece, is_honest, now);
        }
    }

    fn first_fragment(
        &mut self,
        first: FrameId,
        id: (Key, u32),
        flow: Key,
        piece: Piece,
        is_honest: bool,
        now: &Circumstances<'_>,
    ) {
        let range = vec![(piece.start, piece.end)];
        let is_new = self.packets.get(&id).is_none_or(|known| {
            now.now_ns - known.began_ns > self.fragment_timeout_ns + FRAGMENT_REUSE_NS
        });
        let packet = Fragmented {
            flow,
            first,
            began_ns: now.now_ns,
            passed: range.clone(),
            seen: range,
            is_sure: is_honest && is_new && self.is_roomy,
        };
        self.packets.insert(id, packet);
    }

    /// A flow whose packet was stopped because its opener is not permitted any more is over.
    fn end_if_revoked(&mut self, key: Option<Key>, verdict: Verdict, now: &Circumstances<'_>) {
        let Some(key) = key else { return };
        let says_so = is_of_policy(verdict);
        let Some(flow) = self.flows.get_mut(&key) else { return };
        if says_so && !flow.openers.iter().all(|opener| now.all_permit(opener)) {
            flow.sure = None;
        }
        if says_so && flow.is_forbidden && !now.observes {
            self.flows.remove(&key);
        } else if says_so && !flow.openers.iter().any(|opener| now.any_permits(opener)) {
            self.ended += u64::from(!flow.is_forbidden);
            if now.follows {
                (flow.is_forbidden, flow.is_blurred) = (true, true);
            } else {
                self.flows.remove(&key);
            }
        } else if verdict == Verdict::Drop(DropReason::TcpNoFlow) {
            self.flows.remove(&key);
        }
    }

    /// Where there is no flow, the rule that is said to have decided has to be the one that does.
    fn check_rule(
        &self,
        frame: &Judged<'_>,
        seen: &Seen,
        now: &Circumstances<'_>,
    ) -> Result<(), String> {
        let Some(rule) = frame.rule.filter(|_| !now.adopts) else { return Ok(()) };
        let decide = |policy: &Arc<Policy>| oracle::classify(policy, &seen.headers, now.at) == rule;
        if now.policies.iter().any(decide) {
            return Ok(());
        }
        Err(format!("{rule:?} is said to have decided, and does not"))
    }

    /// The conversation, unless its timeout is over.
    fn live(&self, key: &Key, now: &Circumstances<'_>) -> Option<&Flow> {
        let flow = self.flows.get(key)?;
        let most_ns = u64::from(self.most_timeout_s(flow)) * SECOND_NS + TIMEOUT_SLACK_NS;
        (now.now_ns - flow.passed_ns <= most_ns).then_some(flow)
    }

    /// How long the flow may be silent at most.
    fn most_timeout_s(&self, flow: &Flow) -> u32 {
        let t = &self.timeouts;
        let is_answered = flow.is_answered || flow.openers.len() != 1;
        match flow.openers.first().filter(|opener| opener.is_ip()).map(|opener| opener.protocol) {
            Some(protocol::TCP) if flow.is_adopted => t.tcp_established_s.max(t.tcp_adopted_s),
            Some(protocol::TCP) if is_answered => t.tcp_established_s,
            Some(protocol::TCP) => t.tcp_syn_sent_s,
            Some(protocol::UDP) if is_answered => t.udp_answered_s,
            Some(protocol::UDP) => t.udp_unanswered_s,
            Some(protocol::ICMP | protocol::ICMPV6) if is_answered => t.icmp_answered_s,
            Some(protocol::ICMP | protocol::ICMPV6) => t.icmp_unanswered_s,
            _ if is_answered => t.other_answered_s,
            _ => t.other_unanswered_s,
        }
    }

    /// How long it may be silent in any case.
    fn least_timeout_s(&self, flow: &Flow, opener: &Headers, is_answered: bool) -> u32 {
        let t = &self.timeouts;
        match (opener.is_ip(), opener.protocol) {
            (true, protocol::TCP) if flow.is_ending => {
                t.tcp_half_closed_s.min(t.tcp_closing_s).min(t.tcp_time_wait_s)
            }
            (true, protocol::TCP) if flow.is_open => t.tcp_established_s,
            (true, protocol::TCP) => t.tcp_syn_sent_s.min(t.tcp_syn_received_s),
            (true, protocol::UDP) if is_answered => t.udp_answered_s,
            (true, protocol::UDP) => t.udp_unanswered_s,
            (true, protocol::ICMP | protocol::ICMPV6) if is_answered => t.icmp_answered_s,
            (true, protocol::ICMP | protocol::ICMPV6) => t.icmp_unanswered_s,
            _ if is_answered => t.other_answered_s,
            _ => t.other_unanswered_s,
        }
    }

    /// Forgets, now and then, what is long over.
    fn purge(&mut self, now_ns: u64) {
        if now_ns < self.next_purge_ns {
            return;
        }
        self.next_purge_ns = now_ns + SECOND_NS;
        let t = &self.timeouts;
        let longest_s = t.tcp_established_s.max(t.tcp_adopted_s).max(t.udp_answered_s);
        let longest_s = longest_s.max(t.icmp_answered_s).max(t.other_answered_s);
        let longest_ns = u64::from(longest_s + 1) * SECOND_NS;
        self.flows.retain(|_, flow| now_ns - flow.passed_ns < longest_ns);
        let fragments_ns = self.fragment_timeout_ns + 2 * FRAGMENT_REUSE_NS;
        self.packets.retain(|_, packet| now_ns - packet.began_ns < fragments_ns);
    }
}

impl Flow {
    fn new(first: &Seen, talk: Option<(usize, u64)>, now_ns: u64) -> Self {
        Self {
            openers: Vec::new(),
            talk,
            passed_ns: now_ns,
            is_answered: false,
            is_adopted: !first.can_open(),
            is_open: false,
            is_ending: false,
            is_blurred: false,
            is_forbidden: false,
            sure: None,
        }
    }

    fn is_opened_by(&self, headers: &Headers) -> bool {
        self.openers.iter().any(|opener| is_same_way(opener, headers))
    }

    /// Follows a TCP connection as far as the model cares. `fresh` says that there was none.
    fn take_segment(
        &mut self,
        flags: u8,
        from_opener: bool,
        fresh: bool,
        is_roomy: bool,
        now_ns: u64,
    ) {
        let sure = Some(Sure { kept_ns: now_ns, is_answered: true });
        let is_plain = flags & (SYN | RST) == 0;
        if flags & (SYN | ACK) == SYN {
            if fresh && is_roomy {
                self.sure = sure;
            } else if self.is_ending {
                // It may be a late copy, or open another connection; nothing is known from now on.
                (self.is_open, self.is_blurred) = (false, true);
            }
        } else if is_plain && from_opener && self.is_answered && !self.is_open {
            // This acknowledges the SYN-ACK: established, and from now on safe from pressure.
            self.is_open = true;
            self.sure = sure;
        }
        self.is_ending |= flags & (FIN | RST) != 0;
        if flags & RST != 0 || self.is_blurred || (self.is_ending && !is_roomy) {
            self.sure = None;
        }
        if let (Some(sure), true) = (&mut self.sure, is_plain && self.is_open) {
            sure.kept_ns = now_ns;
        }
    }
}

impl Circumstances<'_> {
    fn any_permits(&self, headers: &Headers) -> bool {
        self.policies.iter().any(|policy| permits(policy, headers, self.at))
    }

    fn all_permit(&self, headers: &Headers) -> bool {
        self.policies.iter().all(|policy| permits(policy, headers, self.at))
    }
}

fn permits(policy: &Policy, headers: &Headers, at: PolicyTime) -> bool {
    policy.action(oracle::classify(policy, headers, at)) == Action::Allow
}

fn is_wait_full(frame: &Judged<'_>) -> bool {
    frame.verdict == Verdict::Drop(DropReason::FragmentWaitFull)
}

/// Whether it is the policy that stops a frame.
fn is_of_policy(verdict: Verdict) -> bool {
    use DropReason::{Policy, Revoked};
    matches!(verdict, Verdict::Reject | Verdict::Drop(Revoked | Policy))
}

/// Whether a frame is stopped for a reason that comes up after its flow was judged.
fn is_late(verdict: Verdict) -> bool {
    use DropReason::{
        FragmentDuplicate, FragmentLimit, FragmentOverlap, FragmentTableFull, FragmentTiny,
        FrameTooLong,
    };
    let Verdict::Drop(reason) = verdict else { return false };
    matches!(
        reason,
        FragmentDuplicate
            | FragmentLimit
            | FragmentOverlap
            | FragmentTableFull
            | FragmentTiny
            | FrameTooLong
    )
}

/// Whether a packet goes the way of the one that opened its conversation.
fn is_same_way(opener: &Headers, packet: &Headers) -> bool {
    if opener.is_ip() { opener.src == packet.src } else { opener.src_mac == packet.src_mac }
}

/// The opening packet as it would be had it the MAC addresses of this one: a rule on a device holds
/// for its frames alone.
fn with_macs_of(opener: &Headers, packet: &Headers) -> Headers {
    let [src_mac, dst_mac]: [Mac; 2] = if is_same_way(opener, packet) {
        [packet.src_mac, packet.dst_mac]
    } else {
        [packet.dst_mac, packet.src_mac]
    };
    Headers { src_mac, dst_mac, ..*opener }
}

fn overlaps(ranges: &[(usize, usize)], piece: Piece) -> bool {
    ranges.iter().any(|&(start, end)| start < piece.end && piece.start < end)
}
