//! Documents to a checked policy.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::edit::Definitions;
use super::endpoints::{Endpoints, duplicate};
use super::services::Services;
use super::{
    Action, Assertion, EndpointId, Limits, LoadOptions, Loaded, Location, Parts, Policy, Rule,
    ServiceId,
};
use crate::headers::WireId;
use crate::sets::{FiniteSet, VlanSet};
use crate::syntax::document::{self, Document, Name, Selector, Sides, Terms};
use crate::syntax::span::{Span, Spanned};
use crate::syntax::{
    Budget, Code, Diagnostic, Findings, Problem, Source, SourceMap, checked_text, nearest, parse,
    quoted,
};

/// See [`Policy::load`].
pub(super) fn load(sources: &[Source], options: &LoadOptions) -> Result<Loaded, Vec<Diagnostic>> {
    let limits = &options.limits;
    let map = checked_text(sources, limits).map_err(|diagnostic| vec![diagnostic])?;
    let mut findings = Findings::new(limits.findings);
    let mut budget = Budget::new(limits.values);
    let mut documents = Vec::with_capacity(sources.len());
    let (mut broken, mut whole) = (HashSet::new(), true);
    for (file, source) in sources.iter().enumerate() {
        let parsed = parse(&source.text, file as u32, &mut budget, &mut findings);
        documents.push(parsed.document);
        whole &= parsed.whole;
        broken.extend(parsed.broken);
        if findings.is_full() {
            return Err(findings.into_diagnostics(&map));
        }
    }
    if sources.is_empty() {
        let problem = Problem::error(Code::EmptyFile, None, "there is no policy file".to_owned());
        findings.push(problem.help("name a file, or a directory with files that end in .yaml"));
    }
    // Names that are defined beyond a place where reading ended would all count as unknown.
    if !whole || !within_limits(&documents, limits, &mut findings) {
        return Err(findings.into_diagnostics(&map));
    }
    let resolved = resolve(&documents, &broken, options, &map, &mut findings);
    match resolved {
        Some((policy, mut definitions)) if !findings.has_errors() => {
            for document in documents {
                definitions.devices.extend(document.devices);
                definitions.groups.extend(document.groups);
            }
            let policy = policy.with_definitions(definitions);
            Ok(Loaded { policy, warnings: findings.into_diagnostics(&map) })
        }
        _ => Err(findings.into_diagnostics(&map)),
    }
}

fn within_limits(documents: &[Document], limits: &Limits, findings: &mut Findings) -> bool {
    let mut within = true;
    let mut check = |what: &str, limit: usize, count: &dyn Fn(&Document) -> usize| {
        let total: usize = documents.iter().map(count).sum();
        if total > limit {
            findings.push(too_many(what, total, limit));
            within = false;
        }
    };
    check("rules", limits.rules, &|d| d.rules.len());
    check("assertions", limits.assertions, &|d| d.assertions.len());
    check("devices", limits.devices, &|d| d.devices.len());
    check("groups", limits.groups, &|d| d.groups.len());
    check("services", limits.services, &|d| d.services.len());
    within
}

/// So many of `what` where fewer are the limit.
pub(super) fn too_many(what: &str, count: usize, limit: usize) -> Problem {
    let message = format!("the policy has {count} {what} where {limit} are the limit");
    Problem::error(Code::LimitExceeded, None, message)
}

/// The policy, and what edits need of it besides what the documents define.
fn resolve(
    documents: &[Document],
    broken: &HashSet<Arc<str>>,
    options: &LoadOptions,
    map: &SourceMap<'_>,
    findings: &mut Findings,
) -> Option<(Policy, Definitions)> {
    let devices = documents.iter().flat_map(|d| &d.devices).collect();
    let groups = documents.iter().flat_map(|d| &d.groups).collect();
    let services = documents.iter().flat_map(|d| &d.services).collect();
    let (hosts, service_names) = names_by_kind(documents);
    let default = default_action(documents, findings);
    let mut resolver = Resolver {
        endpoints: Endpoints::new(devices, groups, options.limits, findings)
            .with_known(broken, service_names),
        services: Services::new(services, &options.limits, findings).with_known(broken, hosts),
        wires: Wires::of(options.wires.as_deref().unwrap_or_default(), options.wires.is_some()),
        now_unix_ms: options.now_unix_ms,
        map,
        findings,
    };
    let mut names: HashMap<&str, Span> = HashMap::new();
    let mut rules = Vec::new();
    let mut complete = true;
    for rule in documents.iter().flat_map(|d| &d.rules) {
        resolver.check_rule_name(&rule.name, &mut names);
        let resolved = resolver.rule(rule);
        complete &= resolved.is_some();
        rules.extend(resolved);
        if resolver.findings.is_full() {
            return None;
        }
    }
    let mut assertions = Vec::new();
    for assertion in documents.iter().flat_map(|d| &d.assertions) {
        let resolved = resolver.assertion(assertion);
        complete &= resolved.is_some();
        assertions.extend(resolved);
    }
    resolver.services.check_unreferenced(resolver.findings);
    resolver.endpoints.check_unreferenced(resolver.findings);
    if rules.is_empty() && !resolver.findings.has_errors() {
        let message = "the policy has no rule: its default decides everything".to_owned();
        resolver.findings.push(Problem::warning(Code::NoRules, None, message));
    }
    if !complete {
        return None;
    }
    let (endpoints, selectors) = resolver.endpoints.into_endpoints();
    let (services, terms, named, terms_spent) = resolver.services.into_sets();
    let policy = Policy::new(Parts {
        default,
        rules,
        endpoints,
        services,
        assertions,
        wires: resolver.wires.names,
        wires_known: options.wires.is_some(),
    });
    let (limits, services) = (options.limits, named);
    let definitions =
        Definitions { services, selectors, terms, terms_spent, limits, ..Definitions::default() };
    Some((policy, definitions))
}

/// The names of hosts and of services, for telling that one was used as the other.
fn names_by_kind(documents: &[Document]) -> (HashSet<&str>, HashSet<&str>) {
    let devices = documents.iter().flat_map(|d| &d.devices).map(|device| &device.name);
    let groups = documents.iter().flat_map(|d| &d.groups).map(|group| &group.name);
    let services = documents.iter().flat_map(|d| &d.services).map(|service| &service.name);
    (devices.chain(groups).map(|name| &***name).collect(), services.map(|name| &***name).collect())
}

/// The one default that the documents state; deny where none does.
fn default_action(documents: &[Document], findings: &mut Findings) -> Action {
    let mut stated = documents.iter().filter_map(|d| d.default);
    let Some(first) = stated.next() else { return Action::Deny };
    for other in stated.filter(|other| other.value != first.value) {
        let message = "another file states another default".to_owned();
        let problem = Problem::error(Code::ConflictingDefault, other.span, message)
            .label(first.span, "first stated here");
        findings.push(problem.help("state `default` in one file only"));
    }
    if first.value == Action::Allow {
        let message = "default: allow lets through whatever no rule denies".to_owned();
        let problem = Problem::warning(Code::DefaultAllow, first.span, message);
        findings.push(problem.help("an unknown device can then reach everything: use deny"));
    }
    first.value
}

struct Resolver<'d, 'f> {
    endpoints: Endpoints<'d>,
    services: Services<'d>,
    wires: Wires,
    now_unix_ms: Option<i64>,
    map: &'f SourceMap<'f>,
    findings: &'f mut Findings,
}

impl<'d> Resolver<'d, '_> {
    fn check_rule_name(&mut self, name: &'d Name, names: &mut HashMap<&'d str, Span>) {
        if let Some(problem) = reserved_rule_name(name) {
            self.findings.push(problem);
        }
        if let Some(&first) = names.get(&***name) {
            self.findings.push(duplicate("the rule", name, first));
            return;
        }
        names.insert(name, name.span);
    }

    fn rule(&mut self, rule: &document::Rule) -> Option<Rule> {
        let (from, to, between) = match &rule.sides {
            Sides::Directed { from, to } => {
                (self.side(from.as_ref()), self.side(to.as_ref()), false)
            }
            Sides::Between(one, other) => (self.side(Some(one)), self.side(Some(other)), true),
        };
        let service = self.service(rule.service.as_ref());
        let wires = self.wires.resolve(&rule.wires, self.findings);
        check_times(rule, self.now_unix_ms, self.findings);
        let location = self.map.location(rule.name.span);
        Some(assemble(rule, (from?, to?, between), service?, wires?, location))
    }

    fn assertion(&mut self, assertion: &document::Assertion) -> Option<Assertion> {
        let from = self.side(Some(&assertion.from));
        let to = self.side(Some(&assertion.to));
        let service = self.service(Some(&assertion.service));
        let location: Location = self.map.location(assertion.span.span);
        let must = assertion.must.value;
        Some(Assertion { from: from?, to: to?, service: service?, must, location })
    }

    fn side(&mut self, selector: Option<&Selector>) -> Option<EndpointId> {
        match selector {
            Some(selector) => self.endpoints.endpoint(selector, self.findings),
            None => self.endpoints.any(self.findings),
        }
    }

    fn service(&mut self, terms: Option<&Terms>) -> Option<ServiceId> {
        match terms {
            Some(terms) => self.services.service(terms, self.findings),
            None => self.services.any(self.findings),
        }
    }
}

/// A name that no rule may have, and why.
pub(super) fn reserved_rule_name(name: &Name) -> Option<Problem> {
    let message = match &***name {
        "default" => "`default` names what happens where no rule matches",
        "other" => "`other` names what metrics sum up",
        _ => return None,
    };
    let problem = Problem::error(Code::ReservedName, name.span, message.to_owned());
    Some(problem.help("choose another name for the rule"))
}

/// Looks at `starts` and `expires`; warns of a rule that has expired at `now_unix_ms`.
pub(super) fn check_times(
    rule: &document::Rule,
    now_unix_ms: Option<i64>,
    findings: &mut Findings,
) {
    if let (Some(starts), Some(expires)) = (rule.starts, rule.expires) {
        if starts.value >= expires.value {
            let message = "the rule expires before it starts".to_owned();
            let problem = Problem::error(Code::TimeOrder, expires.span, message)
                .label(starts.span, "starts here");
            findings.push(problem.help("`expires` must be later than `starts`"));
        }
    }
    if let (Some(now), Some(expires)) = (now_unix_ms, rule.expires) {
        if expires.value <= now {
            let message = format!("the rule {} has expired", quoted(&rule.name));
            let problem = Problem::warning(Code::Expired, expires.span, message);
            findings.push(problem.help("remove it, or give it a later `expires`"));
        }
    }
}

/// The rule, with what its names stand for. `sides` are `from`, `to`, and whether either may open.
pub(super) fn assemble(
    rule: &document::Rule,
    (from, to, between): (EndpointId, EndpointId, bool),
    service: ServiceId,
    wires: FiniteSet<WireId>,
    location: Location,
) -> Rule {
    let tags = rule.vlans.as_ref().map(|tags| FiniteSet::only(tags.value.iter().copied()));
    Rule {
        name: Arc::clone(&rule.name.value),
        from,
        to,
        between,
        service,
        vlans: tags.unwrap_or(VlanSet::any()),
        wires,
        action: rule.action.value,
        log: rule.log.unwrap_or(false),
        starts: rule.starts.map(|at| at.value),
        expires: rule.expires.map(|at| at.value),
        reason: rule.reason.as_ref().map(|reason| Arc::clone(&reason.value)),
        location,
        removed: false,
    }
}

/// The wires that rules may name.
pub(super) struct Wires {
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, WireId>,
    /// Whether `names` is all there is, rather than what the policy mentioned so far.
    closed: bool,
}

impl Wires {
    /// These names; they are all that there are where the list is `closed`.
    pub(super) fn of(names: &[Arc<str>], closed: bool) -> Self {
        let ids = names.iter().enumerate().map(|(i, name)| (Arc::clone(name), WireId(i as u16)));
        Self { ids: ids.collect(), names: names.to_vec(), closed }
    }

    /// The names so far.
    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    pub(super) fn resolve(
        &mut self,
        wires: &[Name],
        findings: &mut Findings,
    ) -> Option<FiniteSet<WireId>> {
        if wires.is_empty() {
            return Some(FiniteSet::any());
        }
        let mut ids = Vec::with_capacity(wires.len());
        for wire in wires {
            match self.id(wire) {
                Ok(id) => ids.push(id),
                Err(problem) => findings.push(*problem),
            }
        }
        (ids.len() == wires.len()).then(|| FiniteSet::only(ids))
    }

    fn id(&mut self, wire: &Spanned<Arc<str>>) -> Result<WireId, Box<Problem>> {
        if let Some(&id) = self.ids.get(&wire.value) {
            return Ok(id);
        }
        if self.closed {
            let message = format!("the gateway has no wire {}", quoted(wire));
            let near = nearest(wire, self.names.iter().map(|name| &**name));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "wires are the [[wire]] entries of the gateway's configuration".to_owned(),
            };
            let problem = Problem::error(Code::UnknownWire, wire.span, message);
            return Err(Box::new(problem.help(help)));
        }
        let Ok(id) = u16::try_from(self.names.len()) else {
            let message = "more than 65536 wires are named".to_owned();
            return Err(Box::new(Problem::error(Code::LimitExceeded, wire.span, message)));
        };
        self.names.push(Arc::clone(&wire.value));
        self.ids.insert(Arc::clone(&wire.value), WireId(id));
        Ok(WireId(id))
    }
}
