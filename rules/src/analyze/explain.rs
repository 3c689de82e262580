//! Why a packet is decided as it is: what each rule before the deciding one asks for in vain.

use std::fmt;

use crate::headers::{Headers, Mac, PolicyTime};
use crate::oracle;
use crate::policy::{Action, Endpoint, Policy, Rule, RuleId};

/// The deciding rule, and why none before it decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The rule that decides; [`RuleId::DEFAULT`] where none does.
    pub rule: RuleId,
    /// Every rule before it, or every rule where the default decides, in the policy's order.
    pub misses: Vec<Miss>,
}

/// A rule that does not match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Miss {
    /// The rule.
    pub rule: RuleId,
    /// What of it does not hold; never empty.
    pub failed: Vec<Condition>,
}

/// A condition of a rule. It displays as what an operator reads after "but for its …".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Condition {
    /// The source, or for a rule with `between` the one side that the nearer way round misses.
    From,
    /// The source has an address that the rule names, but not the MAC address that goes with it.
    FromMac,
    /// The source has an address that the rule names, but not in the VLAN that goes with it.
    FromVlan,
    /// The destination; the same for `between`.
    To,
    /// The destination has an address that the rule names, but not the MAC address, or the binding to
    /// one, that goes with it.
    ToMac,
    /// The destination has an address that the rule names, but not in the VLAN that goes with it.
    ToVlan,
    /// The service.
    Service,
    /// The VLAN tags.
    Vlan,
    /// The wire.
    Wire,
    /// The rule's `starts` and `expires`, or that a timed allow needs a synchronised clock.
    Time,
}

impl Condition {
    /// The word for it in reports for programs.
    pub fn label(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::FromMac => "from-mac",
            Self::FromVlan => "from-vlan",
            Self::To => "to",
            Self::ToMac => "to-mac",
            Self::ToVlan => "to-vlan",
            Self::Service => "service",
            Self::Vlan => "vlan",
            Self::Wire => "wire",
            Self::Time => "time",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::From => "source",
            Self::FromMac => "source's MAC address",
            Self::FromVlan => "source's VLAN",
            Self::To => "destination",
            Self::ToMac => "destination's MAC address",
            Self::ToVlan => "destination's VLAN",
            Self::Service => "service",
            Self::Vlan => "VLAN",
            Self::Wire => "wire",
            Self::Time => "time",
        })
    }
}

impl Explanation {
    /// The rules that would have decided otherwise, those that fail in the fewest conditions first,
    /// at most `count`.
    pub fn nearest(&self, policy: &Policy, count: usize) -> Vec<&Miss> {
        let allows = |rule| policy.action(rule) == Action::Allow;
        let otherwise = |miss: &&Miss| allows(miss.rule) != allows(self.rule);
        let mut misses: Vec<&Miss> = self.misses.iter().filter(otherwise).collect();
        misses.sort_by_key(|miss| miss.failed.len());
        misses.truncate(count);
        misses
    }
}

/// Explains what `policy` does with `headers` at the instant `at`, by the linear scan.
pub fn explain(policy: &Policy, headers: &Headers, at: PolicyTime) -> Explanation {
    let rule = oracle::classify(policy, headers, at);
    let before = policy.order().take_while(|&id| id != rule);
    let misses = before.filter_map(|id| {
        let rule = policy.rule(id)?;
        Some(Miss { rule: id, failed: failed(policy, rule, headers, at) })
    });
    Explanation { rule, misses: misses.collect() }
}

/// The conditions of `rule` that do not hold, in the order of [`Condition`]: none of a rule that
/// matches.
pub fn failed(policy: &Policy, rule: &Rule, h: &Headers, at: PolicyTime) -> Vec<Condition> {
    let (from, to) = (policy.endpoint(rule.from), policy.endpoint(rule.to));
    let sides =
        |from: &Endpoint, to: &Endpoint| [source_failed(from, h), destination_failed(to, h)];
    let missed = |sides: &[Option<Condition>; 2]| sides.iter().flatten().count();
    let mut sides_failed = sides(from, to);
    if rule.between {
        let reversed = sides(to, from);
        if missed(&reversed) < missed(&sides_failed) {
            sides_failed = reversed;
        }
    }
    let others = [
        (!policy.service(rule.service).matches(h)).then_some(Condition::Service),
        (!rule.vlans.contains(h.tags)).then_some(Condition::Vlan),
        (!rule.wires.contains(h.wire)).then_some(Condition::Wire),
        (!rule.is_active(at)).then_some(Condition::Time),
    ];
    sides_failed.into_iter().chain(others).flatten().collect()
}

fn source_failed(from: &Endpoint, h: &Headers) -> Option<Condition> {
    if from.matches(h.ether_type, h.src, h.src_mac, h.tags) {
        return None;
    }
    let near = nearly(from, h, h.src, h.src_mac);
    Some(match near {
        Near::Mac => Condition::FromMac,
        Near::Vlan => Condition::FromVlan,
        Near::None => Condition::From,
    })
}

fn destination_failed(to: &Endpoint, h: &Headers) -> Option<Condition> {
    if to.receives(h) {
        return None;
    }
    Some(match nearly(to, h, h.dst, h.dst_mac) {
        Near::Mac => Condition::ToMac,
        Near::Vlan => Condition::ToVlan,
        Near::None => Condition::To,
    })
}

/// What of an endpoint a host misses that has one of its addresses.
enum Near {
    Mac,
    Vlan,
    None,
}

/// How near a host that does not match comes to it: a box whose address and VLAN hold lacks the MAC
/// address or the binding to one.
fn nearly(endpoint: &Endpoint, h: &Headers, addr: u128, mac: Mac) -> Near {
    let with_address = || endpoint.boxes.iter().filter(|b| b.addrs.contains(h.ether_type, addr));
    if with_address().any(|b| b.vlans.contains(h.tags)) {
        Near::Mac
    } else if with_address().any(|b| b.macs.contains(mac)) {
        Near::Vlan
    } else {
        Near::None
    }
}
