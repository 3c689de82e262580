//! Packets that are judged by the flow of another: ICMP errors by the one that they quote, later
//! fragments by that of their first one.

use bulkhead_rules::policy::RuleId;

use super::{Judge, Moment};
use crate::flow_table::FlowKey;
use crate::fragment::{FragmentKey, Owner};
use crate::parse::{Parsed, parse_quoted};
use crate::verdict::{DropReason, Verdict};

impl Judge {
    /// An ICMP error passes when it is addressed to the sender of a packet of a live flow, which it
    /// quotes. Its own sender may be any router. It proves nothing and keeps nothing alive.
    pub(super) fn icmp_error(
        &mut self,
        bytes: &[u8],
        parsed: &Parsed,
        moment: &Moment<'_>,
    ) -> (Verdict, Option<RuleId>) {
        let (quoted, ports) = match parse_quoted(bytes, parsed) {
            Ok(quoted) => quoted,
            Err(reason) => return (Verdict::Drop(reason), None),
        };
        let outer = &parsed.headers;
        if quoted.ether_type != outer.ether_type || quoted.src != outer.dst {
            return (Verdict::Drop(DropReason::IcmpMalformed), None);
        }
        let (key, sender) = FlowKey::of_quoted(&quoted, ports, moment.group, outer.tags);
        let key = key.within(parsed.tunnel);
        let hash = self.flows.hash(&key);
        let Some(index) = self.flows.find(hash, &key, moment.now_ns) else {
            return (Verdict::Drop(DropReason::IcmpNoFlow), None);
        };
        if !self.flows.entry(index).is_permitted() {
            return (Verdict::Drop(DropReason::IcmpNoFlow), None);
        }
        if let Err((verdict, rule)) = self.judge_again(index, None, moment) {
            return (without_answer(verdict), rule);
        }
        let entry = self.flows.entry_mut(index);
        let towards = entry.direction(sender).opposite();
        entry.count(towards, bytes.len(), false, moment.now_ns);
        (Verdict::Forward, None)
    }

    /// A later fragment is a packet of its first one's flow: a newer policy that forbids the flow
    /// ends it here as well.
    pub(super) fn later_fragment(
        &mut self,
        at: usize,
        parsed: &Parsed,
        len: usize,
        moment: &Moment<'_>,
    ) -> (Verdict, Option<RuleId>) {
        let key = FragmentKey::of_parsed(parsed, moment.group);
        let Some((place, key)) = parsed.fragment.zip(key) else {
            return (Verdict::UNDECIDED, None);
        };
        let owner = match self.fragments.follow(&key, place, moment.now_ns) {
            Ok(owner) => owner,
            Err(reason) => {
                self.fragments_seen.early |= u64::from(reason == DropReason::FragmentOrphan) << at;
                return (Verdict::Drop(reason), None);
            }
        };
        let hash = self.flows.hash(&owner.flow);
        let Some(index) = self.flows.find(hash, &owner.flow, moment.now_ns) else {
            return (Verdict::Drop(DropReason::FragmentOrphan), None);
        };
        if !self.flows.entry(index).is_permitted() {
            return (Verdict::Drop(DropReason::FragmentOrphan), None);
        }
        if let Err((verdict, rule)) = self.judge_again(index, None, moment) {
            return (without_answer(verdict), rule);
        }
        let moved = match self.check_macs(index, owner.sender, parsed, moment) {
            Ok(moved) => moved,
            Err((Verdict::Reject, rule)) => return (Verdict::Drop(DropReason::Policy), rule),
            Err(decided) => return decided,
        };
        let entry = self.flows.entry_mut(index);
        let direction = entry.direction(owner.sender);
        if let Some((judgement, macs)) = moved {
            entry.judged(judgement, macs);
            entry.initiator_is(moment.has_initiator_inside(direction));
        }
        entry.count(direction, len, true, moment.now_ns);
        (Verdict::Forward, None)
    }

    /// Remembers the flow of a permitted first fragment; a fragment table that refuses it overrules.
    #[inline]
    pub(super) fn first_fragment(
        &mut self,
        place: usize,
        parsed: &Parsed,
        verdict: Verdict,
        moment: &Moment<'_>,
    ) -> Verdict {
        let Some(fragment) = parsed.fragment.filter(|fragment| fragment.offset == 0) else {
            return verdict;
        };
        self.fragments_seen.first |= 1 << place;
        if verdict != Verdict::Forward || !parsed.kind.is_judged_by_flow() {
            return verdict;
        }
        let Some(key) = FragmentKey::of_parsed(parsed, moment.group) else { return verdict };
        let owner = Owner { flow: self.keys[place], sender: self.senders[place] };
        match self.fragments.note_first(&key, fragment, owner, moment.now_ns) {
            Ok(()) => Verdict::Forward,
            Err(reason) => Verdict::Drop(reason),
        }
    }
}

/// What becomes of a packet that goes the way of a flow that a newer policy forbids, with this verdict.
fn without_answer(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Drop(DropReason::Quarantine) => verdict,
        _ => Verdict::Drop(DropReason::Revoked),
    }
}
