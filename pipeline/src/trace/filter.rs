//! Which frames a trace follows.

use bulkhead_rules::headers::{ETHER_IPV6, Headers, Mac, VlanTags, WireId};
use bulkhead_rules::policy::RuleId;

use crate::parse::{Kind, Parsed};
use crate::verdict::{DropReason, Verdict};

/// Which frames: every condition that is given must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// The wire.
    pub wire: Option<WireId>,
    /// The port of the wire that they come by: whether it is the inside one.
    pub from_inside: Option<bool>,
    /// The EtherType, as [`Headers::ether_type`] has it.
    pub ether_type: Option<u16>,
    /// The IP protocol.
    pub protocol: Option<u8>,
    /// The VLAN tags.
    pub tags: Option<VlanTags>,
    /// The source.
    pub from: End,
    /// The destination.
    pub to: End,
    /// Whether the ends may be the other way round.
    pub both_ways: bool,
    /// What becomes of them.
    pub outcome: Outcome,
    /// Whether a rule is asked for: the one that decided, or that the frame's flow rests on. Its number
    /// is told separately, because it changes with the policy.
    pub by_rule: bool,
}

/// One end of a packet: every condition that is given must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct End {
    /// The EtherType of the family, address and mask, all as in [`Headers`].
    pub prefix: Option<(u16, u128, u128)>,
    /// The MAC address.
    pub mac: Option<Mac>,
    /// The port, of TCP, UDP and SCTP.
    pub port: Option<u16>,
}

/// What becomes of frames that a trace follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Outcome {
    /// Anything.
    #[default]
    Any,
    /// An enforcing wire forwards them.
    Forward,
    /// An enforcing wire drops them, whatever the reason; or they could not be sent or handed over.
    Drop,
    /// A reject rule denies them.
    Reject,
    /// They are dropped for this reason, or would be.
    Reason(DropReason),
}

impl Filter {
    /// Whether a frame matches by what the parser learnt. Of one that did not parse, the fields of the
    /// layers before the one that failed are there.
    pub fn matches(&self, parsed: &Parsed, from_inside: bool) -> bool {
        let headers = &parsed.headers;
        if self.wire.is_some_and(|wire| wire != headers.wire)
            || self.from_inside.is_some_and(|inside| inside != from_inside)
            || self.ether_type.is_some_and(|wanted| wanted != headers.ether_type)
            || self.tags.is_some_and(|tags| tags != headers.tags)
        {
            return false;
        }
        // A later fragment has no ports, and in IPv6 perhaps another protocol than its packet.
        let later = parsed.kind == Kind::LaterFragment;
        let hides_protocol = later && headers.ether_type == ETHER_IPV6;
        if self.protocol.is_some_and(|protocol| !hides_protocol && protocol != headers.protocol) {
            return false;
        }
        let holds = |from: &End, to: &End| {
            from.matches(headers, headers.src, headers.src_mac, headers.src_port, later)
                && to.matches(headers, headers.dst, headers.dst_mac, headers.dst_port, later)
        };
        holds(&self.from, &self.to) || self.both_ways && holds(&self.to, &self.from)
    }

    /// Whether a frame that matches by its headers matches by what became of it: the drop reason in
    /// the end, or the verdict, and the rule that decided or that its flow rests on.
    pub(super) fn suits(
        &self,
        verdict: Verdict,
        dropped: Option<DropReason>,
        rules: [Option<RuleId>; 2],
        wanted: Option<RuleId>,
    ) -> bool {
        if self.by_rule && (wanted.is_none() || rules.iter().all(|rule| *rule != wanted)) {
            return false;
        }
        let reason = dropped.or(match verdict {
            Verdict::Forward => None,
            Verdict::Reject => Some(DropReason::Policy),
            Verdict::Drop(reason) => Some(reason),
        });
        match self.outcome {
            Outcome::Any => true,
            Outcome::Forward => reason.is_none(),
            Outcome::Drop => reason.is_some(),
            Outcome::Reject => verdict == Verdict::Reject,
            Outcome::Reason(wanted) => reason == Some(wanted),
        }
    }
}

impl End {
    fn matches(&self, headers: &Headers, addr: u128, mac: Mac, port: u16, later: bool) -> bool {
        let address = self.prefix.is_none_or(|(family, prefix, mask)| {
            headers.ether_type == family && addr & mask == prefix
        });
        let has_ports = has_ports(headers) && !later;
        address
            && self.mac.is_none_or(|wanted| wanted == mac)
            && self.port.is_none_or(|wanted| later || has_ports && wanted == port)
    }
}

/// Whether the ports of the headers are ports.
fn has_ports(headers: &Headers) -> bool {
    use bulkhead_rules::headers::protocol::{SCTP, TCP, UDP};
    headers.is_ip() && matches!(headers.protocol, TCP | UDP | SCTP)
}

#[cfg(test)]
mod tests {
    use bulkhead_rules::headers::{ETHER_IPV4, protocol};

    use super::*;

    fn frame(src: u32, sport: u16, dst: u32, dport: u16) -> Parsed {
        let mut parsed = Parsed { kind: Kind::Tcp, ..Parsed::default() };
        parsed.headers = Headers {
            src: u128::from(src),
            dst: u128::from(dst),
            src_port: sport,
            dst_port: dport,
            ether_type: ETHER_IPV4,
            protocol: protocol::TCP,
            ..Headers::default()
        };
        parsed
    }

    fn host(addr: u32, port: Option<u16>) -> End {
        End { prefix: Some((ETHER_IPV4, addr.into(), u32::MAX.into())), mac: None, port }
    }

    #[test]
    fn ends_match_one_way_or_both() {
        let mut filter =
            Filter { from: host(1, None), to: host(2, Some(502)), ..Filter::default() };
        let there = frame(1, 40_000, 2, 502);
        let back = frame(2, 502, 1, 40_000);
        assert!(filter.matches(&there, true) && !filter.matches(&back, true));
        filter.both_ways = true;
        assert!(filter.matches(&back, false));
        assert!(!filter.matches(&frame(2, 503, 1, 40_000), false));
        filter.from_inside = Some(true);
        assert!(!filter.matches(&back, false));
    }

    #[test]
    fn later_fragments_match_by_what_they_have() {
        let filter =
            Filter { protocol: Some(protocol::TCP), to: host(2, Some(502)), ..Filter::default() };
        let later = Parsed { kind: Kind::LaterFragment, ..frame(1, 0, 2, 0) };
        assert!(filter.matches(&later, true));
        let elsewhere = Parsed { kind: Kind::LaterFragment, ..frame(1, 0, 3, 0) };
        assert!(!filter.matches(&elsewhere, true));
    }

    #[test]
    fn a_port_is_none_of_an_icmp_type() {
        let filter =
            Filter { to: End { port: Some(8 << 8), ..End::default() }, ..Filter::default() };
        let mut ping = frame(1, 0, 2, 8 << 8);
        ping.headers.protocol = protocol::ICMP;
        assert!(!filter.matches(&ping, true));
    }

    #[test]
    fn outcomes_and_rules() {
        let rule = Some(RuleId(3));
        let by_rule = Filter { by_rule: true, ..Filter::default() };
        assert!(by_rule.suits(Verdict::Forward, None, [None, rule], rule));
        assert!(!by_rule.suits(Verdict::Forward, None, [None, None], None));
        let of = |outcome| Filter { outcome, ..Filter::default() };
        let reject = |outcome| of(outcome).suits(Verdict::Reject, None, [None; 2], None);
        assert!(reject(Outcome::Reject) && reject(Outcome::Drop));
        assert!(reject(Outcome::Reason(DropReason::Policy)) && !reject(Outcome::Forward));
        let full = Some(DropReason::TransmitFull);
        assert!(of(Outcome::Drop).suits(Verdict::Forward, full, [None; 2], None));
        assert!(!of(Outcome::Forward).suits(Verdict::Forward, full, [None; 2], None));
    }
}
