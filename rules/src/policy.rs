//! A checked policy: every name resolved, every limit kept, every set in normal form.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

mod bindings;
mod boxes;
pub mod edit;
mod endpoints;
mod limits;
mod nesting;
mod normal;
mod order;
mod pages;
mod resolve;
mod services;

use crate::headers::{Headers, Mac, PolicyTime, VlanTags, WireId};
use crate::sets::{AddrSet, FiniteSet, MacSet, RangeSet, VlanSet};
use crate::syntax::{Diagnostic, Source};

pub use bindings::{Bindings, BoundAddress, Holder, Link, NamedDevice, is_routed};
pub use limits::Limits;
pub use pages::{Pages, PagesIter};

pub use edit::{Delta, Edit, EndpointChange};

use edit::{Definitions, Editing};
use order::Order;

/// The index of a rule in [`Policy::rules`]. It stays the same for as long as the rule exists, over
/// all edits. Which of two rules decides first is told by [`Policy::rank`], not by their indices;
/// in a policy that was loaded and not edited the two agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule matched: the policy's default decides.
    pub const DEFAULT: Self = Self(u32::MAX);
}

/// What a rule does with the packets that open a flow it matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Permit the flow, replies included.
    Allow,
    /// Drop in silence.
    Deny,
    /// Drop, and answer as the denied host would: TCP RST or ICMP unreachable.
    Reject,
}

/// The index of an endpoint in [`Policy::endpoints`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EndpointId(pub u32);

/// The index of a service set in [`Policy::services`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceId(pub u32);

/// One side of a rule: the union of its boxes. Rules that name the same things share one endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// As an operator would write it: `hmi`, `[hmi, 10.0.0.1]`, `any`.
    pub label: String,
    /// The alternatives; a host matches when one of them holds. All addresses without a MAC or
    /// VLAN condition are in one box, so that a group of addresses is a single box.
    pub boxes: Arc<Vec<EndpointBox>>,
}

/// One alternative of an endpoint; its conditions are ANDed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EndpointBox {
    /// The host's network address.
    pub addrs: AddrSet,
    /// The MAC address on the host's side of the frame.
    pub macs: MacSet,
    /// The frame's VLAN tags.
    pub vlans: VlanSet,
    /// Set where the addresses are bound to a MAC address and stand for it beyond the links of its
    /// host, which are these: then only destinations match, on other links. See [`Bindings`].
    pub beyond: Option<Arc<[Link]>>,
    /// Bound addresses of the MAC addresses that the box leaves out, ascending: no destinations, but
    /// where another host has the address. See [`Bindings`].
    pub except_bound: Arc<[BoundAddress]>,
}

impl EndpointBox {
    /// Whether every frame matches.
    pub fn is_any(&self) -> bool {
        self.addrs.is_any() && self.is_plain()
    }

    /// Whether addresses are all that the box asks for.
    pub fn is_plain(&self) -> bool {
        self.macs.is_any()
            && self.vlans.is_any()
            && self.beyond.is_none()
            && self.except_bound.is_empty()
    }

    /// Whether the source with this address and MAC, in a frame with this EtherType and these tags,
    /// meets every condition.
    pub fn matches(&self, ether_type: u16, addr: u128, mac: Mac, tags: VlanTags) -> bool {
        self.beyond.is_none() && self.holds(ether_type, addr, mac, tags)
    }

    /// Whether a frame's destination meets every condition.
    pub fn receives(&self, h: &Headers) -> bool {
        let link = Link { wire: h.wire, tags: h.tags };
        self.beyond.as_ref().is_none_or(|links| links.binary_search(&link).is_err())
            && self.holds(h.ether_type, h.dst, h.dst_mac, h.tags)
            && (self.except_bound.is_empty() || !self.leaves_out(link, h))
    }

    /// Whether a frame goes to an address of a host that the box leaves out.
    fn leaves_out(&self, link: Link, h: &Headers) -> bool {
        let Some(address) = h.dst_address() else { return false };
        let first = self.except_bound.partition_point(|bound| bound.address < address);
        let mut same = self.except_bound[first..].iter().take_while(|b| b.address == address);
        same.any(|bound| !bound.is_namesake(link, h.dst_mac))
    }

    fn holds(&self, ether_type: u16, addr: u128, mac: Mac, tags: VlanTags) -> bool {
        self.addrs.contains(ether_type, addr)
            && self.macs.contains(mac)
            && self.vlans.contains(tags)
    }
}

impl Endpoint {
    /// Whether the source with this address and MAC, in a frame with this EtherType and these tags,
    /// belongs to the endpoint.
    pub fn matches(&self, ether_type: u16, addr: u128, mac: Mac, tags: VlanTags) -> bool {
        self.boxes.iter().any(|b| b.matches(ether_type, addr, mac, tags))
    }

    /// Whether a frame's destination belongs to the endpoint.
    pub fn receives(&self, headers: &Headers) -> bool {
        self.boxes.iter().any(|b| b.receives(headers))
    }

    /// Whether some box tests a MAC address.
    pub fn tests_mac(&self) -> bool {
        self.boxes.iter().any(|b| !b.macs.is_any())
    }
}

/// What a service is: the union of its terms. Rules that name the same services share one set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSet {
    /// As an operator would write it: `modbus`, `[dns, tcp/443]`, `any`.
    pub label: String,
    /// The alternatives.
    pub terms: Vec<ServiceTerm>,
}

/// One alternative of a service; its conditions are ANDed and read as in [`Headers`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ServiceTerm {
    /// EtherTypes: `tcp/80` is IPv4 and IPv6, `icmp/…` IPv4, `icmpv6/…` IPv6, `eth/0x8892` itself.
    pub ether_types: FiniteSet<u16>,
    /// IP protocols; any for a term that is not about IP.
    pub protocols: FiniteSet<u8>,
    /// Source ports; full where the protocol has none.
    pub src_ports: RangeSet<u16>,
    /// Destination ports, or ICMP `type << 8 | code`; full where the protocol has none.
    pub dst_ports: RangeSet<u16>,
}

impl ServiceTerm {
    fn matches(&self, headers: &Headers) -> bool {
        self.ether_types.contains(headers.ether_type)
            && self.protocols.contains(headers.protocol)
            && self.src_ports.contains(headers.src_port)
            && self.dst_ports.contains(headers.dst_port)
    }
}

impl ServiceSet {
    /// Whether some term matches.
    pub fn matches(&self, headers: &Headers) -> bool {
        self.terms.iter().any(|term| term.matches(headers))
    }
}

/// A place in a policy's text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One checked rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Unique in the policy; the label in metrics, logs and the console.
    pub name: Arc<str>,
    /// The side that opens.
    pub from: EndpointId,
    /// The side that is opened to.
    pub to: EndpointId,
    /// Whether the rule was written `between`: either side may open.
    pub between: bool,
    /// What is opened.
    pub service: ServiceId,
    /// The frame's VLAN tags.
    pub vlans: VlanSet,
    /// The frame's wire.
    pub wires: FiniteSet<WireId>,
    /// What happens.
    pub action: Action,
    /// Whether the verdicts of this rule are logged.
    pub log: bool,
    /// Milliseconds since the Unix epoch from which on the rule matches.
    pub starts: Option<i64>,
    /// Milliseconds since the Unix epoch from which on the rule matches no more.
    pub expires: Option<i64>,
    /// Why the rule exists, for people.
    pub reason: Option<Arc<str>>,
    /// Where its name is written.
    pub location: Location,
    pub(crate) removed: bool,
}

impl Rule {
    /// Whether an edit has taken the rule out of the policy. What is left in its place never matches
    /// and is never in force; a later edit may put another rule there.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Whether the rule is in force at `at`. While the clock is not synchronised a timed allow is
    /// not and a timed deny or reject is, whatever their times say: a clock that nobody trusts must
    /// neither open a door nor lift a denial.
    pub fn is_active(&self, at: PolicyTime) -> bool {
        if self.removed {
            return false;
        }
        if self.starts.is_none() && self.expires.is_none() {
            return true;
        }
        if !at.synchronised {
            return self.action != Action::Allow;
        }
        self.starts.is_none_or(|starts| starts <= at.unix_ms)
            && self.expires.is_none_or(|expires| at.unix_ms < expires)
    }

    /// Whether the rule matches, its times left aside.
    pub fn matches(&self, policy: &Policy, headers: &Headers) -> bool {
        let h = headers;
        let (from, to) = (policy.endpoint(self.from), policy.endpoint(self.to));
        let opens = |from: &Endpoint, to: &Endpoint| {
            from.matches(h.ether_type, h.src, h.src_mac, h.tags) && to.receives(h)
        };
        !self.removed
            && self.wires.contains(h.wire)
            && self.vlans.contains(h.tags)
            && policy.service(self.service).matches(h)
            && (opens(from, to) || (self.between && opens(to, from)))
    }
}

/// What an assertion demands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Must {
    /// Every packet of the product is allowed.
    Reach,
    /// No packet of the product is allowed.
    NotReach,
}

/// A promise that the policy makes about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assertion {
    /// The side that opens.
    pub from: EndpointId,
    /// The side that is opened to.
    pub to: EndpointId,
    /// What is opened.
    pub service: ServiceId,
    /// What is demanded.
    pub must: Must,
    /// Where it is written.
    pub location: Location,
}

/// A checked policy. The only way to one is through a document, see [`crate::syntax`]. It is cheap to
/// clone: the copies share everything but what edits make different.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    default: Action,
    rules: Pages<Arc<Rule>>,
    order: Order,
    endpoints: Pages<Arc<Endpoint>>,
    services: Pages<Arc<ServiceSet>>,
    assertions: Arc<Vec<Assertion>>,
    wires: Arc<Vec<Arc<str>>>,
    wires_known: bool,
    bindings: Arc<Bindings>,
    editing: Editing,
}

/// What a policy is made of, checked, with the rules in the order in which they decide.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) default: Action,
    pub(crate) rules: Vec<Rule>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) services: Vec<ServiceSet>,
    pub(crate) assertions: Vec<Assertion>,
    pub(crate) wires: Vec<Arc<str>>,
    pub(crate) wires_known: bool,
}

/// What a load is told besides the text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadOptions {
    /// The gateway's wires in the order of their [`WireId`]; a rule on any other is then an error.
    /// [`None`] where there is no gateway, as for `bulkhead check` without a configuration.
    pub wires: Option<Vec<Arc<str>>>,
    /// What time it is, in milliseconds since the Unix epoch, to warn of rules that expired.
    pub now_unix_ms: Option<i64>,
    /// How large the policy may be.
    pub limits: Limits,
}

/// A policy and what a person should look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// Findings that do not refuse it.
    pub warnings: Vec<Diagnostic>,
}

impl Policy {
    /// Reads, resolves and checks the sources, one namespace, in their order.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, errors before warnings, in the order of the text, up to
    /// [`Limits::findings`].
    pub fn load(sources: &[Source], options: &LoadOptions) -> Result<Loaded, Vec<Diagnostic>> {
        resolve::load(sources, options)
    }

    /// [`Self::load`] of one text without a name, without its warnings.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn parse(text: &str) -> Result<Self, Vec<Diagnostic>> {
        let source = Source::new("policy.yaml", text);
        Self::load(&[source], &LoadOptions::default()).map(|loaded| loaded.policy)
    }

    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            default: parts.default,
            order: Order::of(&parts.rules),
            rules: parts.rules.into_iter().map(Arc::new).collect(),
            endpoints: parts.endpoints.into_iter().map(Arc::new).collect(),
            services: parts.services.into_iter().map(Arc::new).collect(),
            assertions: Arc::new(parts.assertions),
            wires: Arc::new(parts.wires),
            wires_known: parts.wires_known,
            bindings: Arc::default(),
            editing: Editing::default(),
        }
    }

    fn with_definitions(self, definitions: Definitions) -> Self {
        Self { editing: Editing::of(definitions), ..self }
    }

    #[cfg(test)]
    pub(crate) fn with_assertions(self, assertions: Vec<Assertion>) -> Self {
        Self { assertions: Arc::new(assertions), ..self }
    }

    /// What happens where no rule matches: [`Action::Deny`] or [`Action::Reject`] or, with a
    /// warning, [`Action::Allow`].
    pub fn default_action(&self) -> Action {
        self.default
    }

    /// The rules by their [`RuleId`]. In a policy that was edited some may be removed
    /// ([`Rule::is_removed`]), and [`Self::order`] is the order in which they decide.
    pub fn rules(&self) -> &Pages<Arc<Rule>> {
        &self.rules
    }

    /// One of [`Self::rules`]; [`None`] for [`RuleId::DEFAULT`].
    pub fn rule(&self, rule: RuleId) -> Option<&Rule> {
        self.rules.get(rule.0 as usize).map(|rule| &**rule)
    }

    /// How many rules there are, removed ones left out.
    pub fn rule_count(&self) -> usize {
        self.order.len()
    }

    /// The rules that are not removed, in the order in which they decide.
    pub fn order(&self) -> impl DoubleEndedIterator<Item = RuleId> + Clone {
        self.order.iter()
    }

    /// Where the rule stands in the deciding order: of two rules the one with the lower rank
    /// decides. Ranks have gaps for rules to come. The default has the highest of all; that of a
    /// removed rule means nothing.
    pub fn rank(&self, rule: RuleId) -> u32 {
        self.order.rank(rule)
    }

    /// The action of a rule, or of the default.
    pub fn action(&self, rule: RuleId) -> Action {
        self.rule(rule).map_or(self.default, |rule| rule.action)
    }

    /// The name of a rule; `default` for the default.
    pub fn rule_name(&self, rule: RuleId) -> &str {
        self.rule(rule).map_or("default", |rule| &rule.name)
    }

    /// The distinct sides of rules and assertions by their [`EndpointId`]. One that no rule and no
    /// assertion names any more, after edits, has no boxes.
    pub fn endpoints(&self) -> &Pages<Arc<Endpoint>> {
        &self.endpoints
    }

    /// One of [`Self::endpoints`].
    pub fn endpoint(&self, id: EndpointId) -> &Endpoint {
        &self.endpoints[id.0 as usize]
    }

    /// The distinct service sets of rules and assertions by their [`ServiceId`]. One that no rule
    /// and no assertion names any more, after edits, has no terms.
    pub fn services(&self) -> &Pages<Arc<ServiceSet>> {
        &self.services
    }

    /// One of [`Self::services`].
    pub fn service(&self, id: ServiceId) -> &ServiceSet {
        &self.services[id.0 as usize]
    }

    /// What the policy promises about itself.
    pub fn assertions(&self) -> &[Assertion] {
        &self.assertions
    }

    /// The names behind [`WireId`]: the gateway's wires where they were known when the policy was
    /// checked, else the names in the order in which the policy mentions them.
    pub fn wires(&self) -> &[Arc<str>] {
        &self.wires
    }

    /// Whether [`Self::wires`] are all the wires that there are.
    pub fn knows_all_wires(&self) -> bool {
        self.wires_known
    }

    /// The instants at which some rule comes into force or ceases to be, ascending, distinct, in
    /// milliseconds since the Unix epoch. Between two of them every verdict is constant.
    pub fn schedule(&self) -> Vec<i64> {
        self.order.schedule()
    }
}
