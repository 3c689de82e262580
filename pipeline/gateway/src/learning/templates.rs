//! Rules for what is sent to everybody: broadcasts, multicasts, DHCP. Such traffic says nothing of
//! roles, so it is never clustered; it gets a ready-made rule for each purpose.
//!
//! ARP and neighbour discovery need none: they pass under their guard. A purpose that is not known
//! here gets a rule for exactly those who were seen, if they came back in another period.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bulkhead_learn::observe::{HostKey, PortProtocol, Service};
use bulkhead_rules::policy::Action;
use bulkhead_rules::syntax::document::{Addresses, Member, Rule, Selector, Sides, Term, Terms};
use bulkhead_rules::syntax::span::Spanned;

use super::model::{Model, TemplateKey};

/// Ports from which multicasts are answered directly: SSDP, WS-Discovery, mDNS, LLMNR.
pub const ANSWERS: [u16; 4] = [1900, 3702, 5353, 5355];

/// Senders up to which a rule names them; more are `any`.
const NAMED: usize = 16;

/// Distinct periods that an unknown purpose has to be seen in.
const PERIODS: usize = 2;

/// What is sent to many by design: a name for each service.
const KNOWN: [(Service, &str); 24] = [
    (udp(53), "dns"),
    (udp(123), "ntp"),
    (udp(137), "netbios-names"),
    (udp(138), "netbios-datagrams"),
    (udp(319), "ptp-events"),
    (udp(320), "ptp"),
    (udp(427), "slp"),
    (udp(520), "rip"),
    (udp(1900), "ssdp"),
    (udp(1985), "hsrp"),
    (udp(2222), "ethernet-ip-io"),
    (udp(3702), "ws-discovery"),
    (udp(4840), "opc-ua-discovery"),
    (udp(5353), "mdns"),
    (udp(5355), "llmnr"),
    (udp(44_818), "ethernet-ip"),
    (udp(47_808), "bacnet"),
    (Service::Ip(2), "igmp"),
    (Service::Ip(88), "eigrp"),
    (Service::Ip(89), "ospf"),
    (Service::Ip(112), "vrrp"),
    (Service::Ether(0x8892), "profinet"),
    (Service::Ether(0x88b8), "goose"),
    (Service::Ether(0x88ba), "sampled-values"),
];

const fn udp(port: u16) -> Service {
    Service::Port(PortProtocol::Udp, port)
}

/// Whether it is DHCP, to a server (67, 547) or to a client (68, 546).
pub fn is_dhcp(service: Service) -> bool {
    matches!(service, Service::Port(PortProtocol::Udp, 67 | 68 | 546 | 547))
}

/// A rule, and why.
#[derive(Clone, PartialEq, Debug)]
pub struct Templates {
    /// Rules, in the order of their names.
    pub rules: Vec<Rule>,
    /// Broadcasts and multicasts that make no rule: seen in one period only.
    pub doubtful: usize,
}

/// The rules for what a model saw sent to many. Their names are not in `taken`.
pub fn rules(model: &Model, taken: &BTreeSet<Arc<str>>) -> Templates {
    let mut found: BTreeMap<String, Draft> = BTreeMap::new();
    let mut doubtful = 0;
    for (key, used) in &model.templates {
        let purpose = purpose(key);
        if !purpose.is_known && used.periods.len() < PERIODS {
            doubtful += 1;
            continue;
        }
        let draft = found.entry(purpose.name).or_default();
        draft.anybody |= purpose.anybody;
        draft.to_anybody |= key.to.is_none() && !purpose.to_receivers;
        draft.terms.insert(term(key));
        draft.senders.extend(used.senders.iter().cloned());
        if let Some(to) = &key.to {
            draft.to.insert(receiver(model, to));
        }
        if purpose.to_receivers {
            for host in &used.receivers {
                draft.to.extend(members(model, host));
            }
        }
    }
    let rules = found.into_iter().filter_map(|(name, draft)| draft.rule(&name, model, taken));
    Templates { rules: rules.collect(), doubtful }
}

#[derive(Default)]
struct Draft {
    anybody: bool,
    to_anybody: bool,
    terms: BTreeSet<Term>,
    senders: BTreeSet<HostKey>,
    to: BTreeSet<Member>,
}

impl Draft {
    fn rule(self, name: &str, model: &Model, taken: &BTreeSet<Arc<str>>) -> Option<Rule> {
        let any = || BTreeSet::from([Member::Name(Arc::from("any"))]);
        let count = self.senders.len();
        let from: BTreeSet<Member> = if self.anybody || count > NAMED {
            any()
        } else {
            self.senders.iter().flat_map(|host| members(model, host)).collect()
        };
        let to = if self.to_anybody { any() } else { self.to };
        if from.is_empty() || to.is_empty() {
            return None;
        }
        let mut wanted = format!("template-{name}");
        while taken.contains(wanted.as_str()) {
            wanted.push_str("-2");
        }
        let plural = if count == 1 { "" } else { "s" };
        let reason = format!("origin learned; sent to many by {count} host{plural}");
        Some(Rule {
            name: Spanned::unplaced(Arc::from(wanted)),
            sides: Sides::Directed { from: Some(selector(from)), to: Some(selector(to)) },
            service: Some(Terms {
                terms: self.terms.into_iter().map(Spanned::unplaced).collect(),
                span: Spanned::unplaced(()),
            }),
            vlans: None,
            wires: Vec::new(),
            action: Spanned::unplaced(Action::Allow),
            log: None,
            starts: None,
            expires: None,
            reason: Some(Spanned::unplaced(Arc::from(reason))),
        })
    }
}

struct Purpose {
    name: String,
    is_known: bool,
    /// Whether everybody has to be able to send it: who is new has no address that a rule could name.
    anybody: bool,
    /// Whether it goes to the single hosts that were seen, beside those who are many.
    to_receivers: bool,
}

fn purpose(key: &TemplateKey) -> Purpose {
    let known = |name: &str| Purpose {
        name: name.to_owned(),
        is_known: true,
        anybody: false,
        to_receivers: false,
    };
    match key.service {
        Service::Port(PortProtocol::Udp, 67 | 547) => {
            Purpose { anybody: true, to_receivers: true, ..known("dhcp") }
        }
        Service::Port(PortProtocol::Udp, 68 | 546) => known("dhcp-answers"),
        _ if key.from_port != 0 => {
            let name = KNOWN.iter().find(|(service, _)| *service == udp(key.from_port));
            known(&format!("{}-answers", name.map_or("multicast", |(_, name)| name)))
        }
        service => match KNOWN.iter().find(|(known, _)| *known == service) {
            Some((_, name)) => known(name),
            None => {
                let name = service.to_string().replace('/', "-");
                Purpose { is_known: false, ..known(&name) }
            }
        },
    }
}

fn term(key: &TemplateKey) -> Term {
    let ports = |protocol, first, last, from: u16| Term::Ports {
        protocol,
        to: vec![(first, last)],
        from: if from == 0 { Vec::new() } else { vec![(from, from)] },
    };
    match key.service {
        Service::Port(protocol, port) => ports(protocol, port.max(1), port.max(1), key.from_port),
        Service::Dynamic(protocol, first) => ports(protocol, first, u16::MAX, key.from_port),
        Service::Icmp { v6, kind } => Term::Icmp { v6, kind, code: None },
        Service::Ip(number) => Term::Ip(number),
        Service::Ether(number) => Term::Ether(number),
    }
}

/// An address of many. A network's own broadcast address needs its frames' to be told from a host's:
/// both are `broadcast`.
fn receiver(model: &Model, key: &HostKey) -> Member {
    match key {
        HostKey::Address(address) if model.identities.is_routed_broadcast(*address) => {
            Member::Addresses(Addresses::One(*address))
        }
        HostKey::Address(IpAddr::V4(address)) if !address.is_multicast() => {
            Member::Name(Arc::from("broadcast"))
        }
        HostKey::Address(address) => Member::Addresses(Addresses::One(*address)),
        HostKey::Mac(mac) if mac.0 == [0xff; 6] => Member::Name(Arc::from("broadcast")),
        HostKey::Mac(mac) => Member::Mac(*mac),
        // Nothing else stands for many.
        HostKey::Name(_) | HostKey::Number(_) => {
            Member::Addresses(Addresses::One(Ipv4Addr::BROADCAST.into()))
        }
    }
}

/// What stands for a host in a rule.
pub fn members(model: &Model, key: &HostKey) -> Vec<Member> {
    match key {
        HostKey::Mac(mac) => vec![Member::Mac(*mac)],
        HostKey::Address(address) => {
            let mut addresses: BTreeSet<IpAddr> = model.identities.addresses(key).collect();
            addresses.insert(*address);
            addresses.into_iter().map(|a| Member::Addresses(Addresses::One(a))).collect()
        }
        HostKey::Name(_) | HostKey::Number(_) => Vec::new(),
    }
}

fn selector(members: BTreeSet<Member>) -> Selector {
    Selector {
        members: members.into_iter().map(Spanned::unplaced).collect(),
        except: Vec::new(),
        span: Spanned::unplaced(()),
    }
}
