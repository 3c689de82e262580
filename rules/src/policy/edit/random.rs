//! Edits for tests and measurements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{Edit, Place};
use crate::headers::Mac;
use crate::policy::{Action, Policy, RuleId};
use crate::syntax::document::{
    Addresses, Member, PortProtocol, Rule, Selector, Sides, Term, Terms,
};
use crate::syntax::span::Spanned;

/// Attempts at one edit before a harmless one is taken instead.
const ATTEMPTS: usize = 64;

/// An endless, repeatable stream of edits, each valid for the policy that it is asked for: mostly
/// members of groups, near those that there are, and some rules at any place between groups and
/// services of the policy.
#[derive(Clone, Debug)]
pub struct RandomEdits {
    state: u64,
    groups: Vec<Arc<str>>,
    hosts: Vec<Arc<str>>,
    services: Vec<Term>,
    rules: u64,
    rule_percent: u64,
    only_addresses: bool,
}

impl RandomEdits {
    /// The stream that belongs to `seed`.
    pub fn new(policy: &Policy, seed: u64) -> Self {
        let graph = &policy.editing.state(policy).graph;
        let mut groups: Vec<Arc<str>> = graph.group_names().map(Arc::from).collect();
        let mut hosts: Vec<Arc<str>> = graph.names().host_names().cloned().collect();
        let mut services: Vec<Term> =
            graph.names().services().keys().map(|name| Term::Name(Arc::clone(name))).collect();
        groups.sort_unstable();
        hosts.sort_unstable();
        services.sort_unstable();
        let state = seed;
        Self { state, groups, hosts, services, rules: 0, rule_percent: 20, only_addresses: false }
    }

    /// How many of a hundred edits are of rules; 20 unless this says otherwise.
    pub fn with_rule_percent(self, percent: u32) -> Self {
        Self { rule_percent: percent.min(100).into(), ..self }
    }

    /// Members are addresses only: no devices, no groups, no MAC addresses.
    pub fn with_addresses_only(self) -> Self {
        Self { only_addresses: true, ..self }
    }

    /// The next edit, for `policy`, which may be any version of the policy that the stream was made
    /// for.
    pub fn next(&mut self, policy: &Policy) -> Edit {
        for _ in 0..ATTEMPTS {
            let edit = if self.groups.is_empty() || self.below(100) < self.rule_percent {
                self.rule_edit(policy)
            } else {
                self.member_edit(policy)
            };
            if let Some(edit) = edit.filter(|edit| policy.edited(edit).is_ok()) {
                return edit;
            }
        }
        let any = || selector(vec![Member::Name(Arc::from("any"))]);
        self.add_rule(any(), any(), Place::Last)
    }

    fn member_edit(&mut self, policy: &Policy) -> Option<Edit> {
        let group = self.pick(self.groups.len())?;
        let group = Arc::clone(&self.groups[group]);
        let graph = &policy.editing.state(policy).graph;
        let members = graph.members(graph.names().group(&group)?);
        let place = self.pick(members.len())?;
        let near = members.iter().nth(place)?.clone();
        // Groups keep their size, about.
        let removes = members.len() > 1 && self.below(2) == 0;
        if removes {
            let is_address = matches!(near, Member::Addresses(_));
            let allowed = is_address || !self.only_addresses;
            return allowed.then_some(Edit::RemoveMember { group, member: near });
        }
        let member = if !self.only_addresses && self.below(8) == 0 {
            self.other_member()?
        } else {
            self.address_near(&near)
        };
        Some(Edit::AddMember { group, member })
    }

    fn other_member(&mut self) -> Option<Member> {
        if self.below(8) == 0 {
            return Some(Member::Mac(Mac([2, 0, 0, 0, 0, self.below(4) as u8])));
        }
        let host = self.pick(self.hosts.len())?;
        Some(Member::Name(Arc::clone(&self.hosts[host])))
    }

    /// An address, a prefix or a range within a few addresses of a member's.
    fn address_near(&mut self, near: &Member) -> Member {
        let base = match near {
            Member::Addresses(
                Addresses::One(base) | Addresses::Prefix(base, _) | Addresses::Range(_, base),
            ) => *base,
            _ => IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.below(16) as u8)),
        };
        let (offset, length) = (self.below(32) as u32, self.below(4) as u32);
        let kind = self.below(8);
        Member::Addresses(match base {
            IpAddr::V4(base) => {
                let at = u32::from(base).wrapping_add(offset).wrapping_sub(16);
                let ip = |bits: u32| IpAddr::V4(Ipv4Addr::from(bits));
                match kind {
                    0 => Addresses::Prefix(ip(at >> length << length), 32 - length as u8),
                    1 => Addresses::Range(ip(at), ip(at.saturating_add(length))),
                    _ => Addresses::One(ip(at)),
                }
            }
            IpAddr::V6(base) => {
                let at = u128::from(base).wrapping_add(offset.into()).wrapping_sub(16);
                let ip = |bits: u128| IpAddr::V6(Ipv6Addr::from(bits));
                match kind {
                    0 => Addresses::Prefix(ip(at >> length << length), 128 - length as u8),
                    1 => Addresses::Range(ip(at), ip(at.saturating_add(length.into()))),
                    _ => Addresses::One(ip(at)),
                }
            }
        })
    }

    fn rule_edit(&mut self, policy: &Policy) -> Option<Edit> {
        if policy.rule_count() > 0 && self.below(2) == 0 {
            let name = self.some_rule(policy)?;
            return Some(Edit::RemoveRule { name });
        }
        let (from, to) = (self.side(policy), self.side(policy));
        let place = match self.below(8) {
            0 => Place::First,
            1 => Place::Last,
            2..5 => Place::Before(self.some_rule(policy)?),
            _ => Place::After(self.some_rule(policy)?),
        };
        Some(self.add_rule(from, to, place))
    }

    fn add_rule(&mut self, from: Selector, to: Selector, place: Place) -> Edit {
        self.rules += 1;
        // Two streams for one policy do not give the same names, or rarely.
        let name = format!("edit-{:x}-{}", self.next_number() >> 40, self.rules);
        let action = [Action::Allow, Action::Allow, Action::Deny, Action::Reject];
        let action = action[self.below(4) as usize];
        let sides = if self.below(8) == 0 {
            Sides::Between(from, to)
        } else {
            Sides::Directed { from: Some(from), to: Some(to) }
        };
        let starts = (self.below(8) == 0).then(|| self.below(1 << 40) as i64);
        let expires = (self.below(8) == 0).then(|| (1 << 40) + self.below(1 << 40) as i64);
        let rule = Rule {
            name: Spanned::unplaced(Arc::from(name)),
            sides,
            service: Some(self.service()),
            vlans: None,
            wires: Vec::new(),
            action: Spanned::unplaced(action),
            log: None,
            starts: starts.map(Spanned::unplaced),
            expires: expires.map(Spanned::unplaced),
            reason: None,
        };
        Edit::AddRule { rule: Box::new(rule), place }
    }

    /// Mostly one group or device; sometimes two, an address, or all but one. Where there is neither group
    /// nor device, addresses near those of a rule.
    fn side(&mut self, policy: &Policy) -> Selector {
        let one = |this: &mut Self| match this.pick(this.hosts.len()) {
            Some(host) if this.below(8) > 0 => Member::Name(Arc::clone(&this.hosts[host])),
            Some(_) => this.address_near(&Member::Mac(Mac::default())),
            None => {
                let near = this.address_of_rule(policy);
                this.address_near(&near.map_or(Member::Mac(Mac::default()), |near| {
                    Member::Addresses(Addresses::One(near))
                }))
            }
        };
        let first = one(self);
        match self.below(16) {
            0 => selector(vec![first, one(self)]),
            1 => Selector {
                except: vec![Spanned::unplaced(first)],
                ..selector(vec![Member::Name(Arc::from("any"))])
            },
            _ => selector(vec![first]),
        }
    }

    /// The first or the last address of a side of some rule.
    fn address_of_rule(&mut self, policy: &Policy) -> Option<IpAddr> {
        let rule = policy.rule(RuleId(self.pick(policy.rules().len())? as u32))?;
        let side = if self.below(2) == 0 { rule.from } else { rule.to };
        let addrs = &policy.endpoint(side).boxes.first()?.addrs;
        let is_last = self.below(2) == 0;
        let either = |first, last| if is_last { last } else { first };
        let v4 = addrs.v4.ranges().first();
        let v4 = v4.map(|&(first, last)| IpAddr::V4(Ipv4Addr::from(either(first, last))));
        let of_v6 = |&(first, last): &(u128, u128)| {
            IpAddr::V6(Ipv6Addr::from(if is_last { last } else { first }))
        };
        v4.or_else(|| addrs.v6.ranges().first().map(of_v6))
    }

    fn service(&mut self) -> Terms {
        let term = match self.pick(self.services.len()) {
            Some(service) if self.below(4) > 0 => self.services[service].clone(),
            _ => {
                let port = 1 + self.below(1024) as u16;
                let protocol = PortProtocol::ALL[self.below(3) as usize];
                Term::Ports { protocol, to: vec![(port, port)], from: Vec::new() }
            }
        };
        Terms { terms: vec![Spanned::unplaced(term)], span: Spanned::unplaced(()) }
    }

    fn some_rule(&mut self, policy: &Policy) -> Option<Arc<str>> {
        let id = RuleId(self.pick(policy.rules().len())? as u32);
        policy.rule(id).filter(|rule| !rule.is_removed()).map(|rule| Arc::clone(&rule.name))
    }

    fn pick(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.below(len as u64) as usize)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next_number() % bound
    }

    fn next_number(&mut self) -> u64 {
        crate::analyze::split_mix(&mut self.state)
    }
}

fn selector(members: Vec<Member>) -> Selector {
    let members = members.into_iter().map(Spanned::unplaced).collect();
    Selector { members, except: Vec::new(), span: Spanned::unplaced(()) }
}
