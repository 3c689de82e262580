//! From a store to policy text: what `propose`, `explain-rule` and `drift` have in common.
//!
//! The same store, the same hand-written files and the same learned file before give the same bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_learn::confidence::{self, Confidence, Permits};
use bulkhead_learn::explain::{self, Explanation};
use bulkhead_learn::learn::{self, Options, Proposal};
use bulkhead_learn::names::{self, Known};
use bulkhead_learn::observe::{HostKey, Service};
use bulkhead_learn::store::HostId;
use bulkhead_learn::text::{self, Context, PolicyText};
use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, PolicyTime, VlanTags, WireId};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::{Action, Policy};
use bulkhead_rules::syntax::document::{Addresses, Document, Member};
use bulkhead_rules::syntax::span::Spanned;
use bulkhead_rules::syntax::{self, Source};

use super::model::{Model, Place};
use super::report::Refusal;
use super::templates::{self, Templates};
use crate::candidate::{self, unix_now_ms};
use crate::config::{Config, Limits};
use crate::policy_files::{self, PolicyFiles};

/// The name of the learner's file in a policy's folder.
pub const FILE: &str = "80-learned.yaml";

/// How the learner's file begins. A file that begins otherwise is a person's, and never touched.
pub const HEAD: &str = "# Proposed by learning";

/// How a rule's reason says that somebody has to look at it, and that somebody did.
const UNREVIEWED: &str = "; APPROVE OR REMOVE";
const APPROVED: &str = "; approved ";

/// VLANs, or wires, up to which a rule names them.
const NAMED_PLACES: usize = 8;

/// What else the gateway is told, beside the learner's file.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The policy's other files.
    pub sources: Vec<Source>,
    /// Names that they define.
    pub taken: BTreeSet<Arc<str>>,
    /// They alone, where they are a policy.
    pub policy: Option<Arc<Policy>>,
    /// The learner's file as it is.
    pub learned: Option<Document>,
    /// The gateway's wires and, by index, the redundancy group of each; nothing where that is not
    /// known.
    pub wires: Vec<(Arc<str>, usize)>,
    /// What a policy may cost.
    pub limits: Limits,
}

impl Surroundings {
    /// Reads the configuration, where there is one, the policy and the learner's file.
    ///
    /// # Errors
    ///
    /// What cannot be read, or is wrong.
    pub fn read(
        config: Option<&Path>,
        policy: Option<&Path>,
        learned: Option<&Path>,
    ) -> Result<Self, Refusal> {
        let mut around = Self::default();
        let mut path = policy.map(Path::to_path_buf);
        if let Some(config) = config {
            let config = Config::load(config).map_err(|error| Refusal {
                message: error.to_string(),
                code: crate::cli::exit::REFUSED,
            })?;
            for (at, wire) in config.wires.iter().enumerate() {
                around.wires.push((Arc::from(wire.name.as_str()), config.group_of(at)));
            }
            around.limits = config.limits.clone();
            path = path.or_else(|| Some(config.policy.clone()));
        }
        if let Some(path) = path.filter(|path| path.exists()) {
            around.read_policy(&path, learned)?;
        }
        if let Some(learned) = learned.filter(|learned| learned.exists()) {
            around.learned = Some(read_learned(learned, around.limits.policy_bytes)?);
        }
        Ok(around)
    }

    fn read_policy(&mut self, path: &Path, learned: Option<&Path>) -> Result<(), Refusal> {
        let same = |source: &Source| {
            let canonical = |path: &Path| std::fs::canonicalize(path).ok();
            let source = canonical(Path::new(&*source.name));
            source.is_some() && source == learned.and_then(canonical)
        };
        let files = match PolicyFiles::read(path, &self.limits) {
            Ok(files) => files,
            // A folder that nothing but the learner's file will be in.
            Err(_) if path.is_dir() && is_empty(path) => return Ok(()),
            Err(error) => return Err(Refusal::unavailable(error)),
        };
        self.surround(files.sources.into_iter().filter(|source| !same(source)).collect())
    }

    /// The surroundings that these texts make, of which those that learning wrote are apart, on these wires:
    /// each with the number of its redundancy group.
    ///
    /// # Errors
    ///
    /// What is wrong with a text.
    pub fn of_texts(
        sources: Vec<Source>,
        wires: Vec<(Arc<str>, usize)>,
        limits: Limits,
    ) -> Result<Self, Refusal> {
        let mut around = Self { wires, limits, ..Self::default() };
        let (learned, by_hand): (Vec<Source>, Vec<Source>) =
            sources.into_iter().partition(|source| source.text.starts_with(HEAD));
        if let Some(learned) = learned.first() {
            around.learned = Some(document_of(learned)?);
        }
        around.surround(by_hand)?;
        Ok(around)
    }

    fn surround(&mut self, sources: Vec<Source>) -> Result<(), Refusal> {
        self.sources = sources;
        for source in &self.sources {
            let document = document_of(source)?;
            self.taken.extend(document.devices.iter().map(|device| Arc::clone(&device.name.value)));
            self.taken.extend(document.groups.iter().map(|group| Arc::clone(&group.name.value)));
            self.taken.extend(document.rules.iter().map(|rule| Arc::clone(&rule.name.value)));
        }
        if !self.sources.is_empty() {
            // Files that need the learner's names are no policy alone: then nothing is known of them.
            let files = PolicyFiles { sources: self.sources.clone(), left_out: Vec::new() };
            let wires = self.wire_names();
            let made = candidate::make(&files, wires.as_deref(), &self.limits);
            self.policy = made.ok().map(|candidate| candidate.policy);
        }
        Ok(())
    }

    /// Checks the learner's text together with the other files.
    ///
    /// # Errors
    ///
    /// What `bulkhead check` would say.
    pub fn check(&self, name: &str, text: &str) -> Result<(), Refusal> {
        let mut sources = self.sources.clone();
        sources.push(Source::new(name, text));
        let files = PolicyFiles { sources, left_out: Vec::new() };
        let wires = self.wire_names();
        match candidate::make(&files, wires.as_deref(), &self.limits) {
            Ok(_) => Ok(()),
            Err(found) => {
                let all: Vec<String> = found.into_iter().map(|f| f.rendered).collect();
                let text = all.join("\n\n");
                Err(Refusal {
                    message: format!("{text}\n\nerror: the proposal does not fit the other files"),
                    code: crate::cli::exit::REFUSED,
                })
            }
        }
    }

    fn wire_names(&self) -> Option<Vec<Arc<str>>> {
        let names = self.wires.iter().map(|(name, _)| Arc::clone(name));
        (!self.wires.is_empty()).then(|| names.collect())
    }

    /// All wires that are redundant with this one, itself among them.
    fn group(&self, wire: &str) -> Vec<Arc<str>> {
        let group = self.wires.iter().find(|(name, _)| &**name == wire).map(|(_, group)| group);
        let same = self.wires.iter().filter(|(_, other)| Some(other) == group);
        same.map(|(name, _)| Arc::clone(name)).collect()
    }
}

/// A proposal with everything that is said of it.
#[derive(Debug)]
pub struct Learned {
    /// What it was learnt from.
    pub model: Model,
    /// Roles and rules.
    pub proposal: Proposal,
    /// Why each rule is there.
    pub explanations: Vec<Explanation>,
    /// What will be denied by mistake, where enough was seen to say so.
    pub confidence: Option<Confidence>,
    /// The policy.
    pub text: PolicyText,
    /// Names of rules whose approval somebody gave.
    pub approved: BTreeSet<Arc<str>>,
    /// Broadcasts and multicasts that make no rule.
    pub templates_left_out: usize,
}

/// Learns from a model. `approve` are names of exceptions that somebody approves now.
///
/// # Errors
///
/// A name to approve that is no exception's.
pub fn learn(model: Model, around: &Surroundings, approve: &[String]) -> Result<Learned, Refusal> {
    let options = Options::default();
    let proposal = learn::learn(&model.store, &options);
    let explanations = explain::explain(&model.store, &proposal, &options);
    let confidence = confidence::predict(&model.store, &options, confidence::AHEAD);
    let known = around.learned.as_ref().map(known).unwrap_or_default();
    let names = names::name(&model.store, &proposal, &known);
    let context =
        Context { names: &names, confidence, taken: Some(&around.taken), period_s: model.period_s };
    let is_by_hand = |client, server, service| {
        around
            .policy
            .as_ref()
            .is_some_and(|policy| is_permitted(policy, &model, client, server, service))
    };
    let mut text = text::write(&model.store, &proposal, &explanations, context, is_by_hand);
    narrow(&mut text, &model, &proposal, around);
    let Templates { rules, doubtful } = templates::rules(&model, &around.taken);
    text.document.rules.splice(0..0, rules);
    let approved = approve_rules(&mut text.document, around.learned.as_ref(), approve)?;
    Ok(Learned {
        model,
        proposal,
        explanations,
        confidence,
        text,
        approved,
        templates_left_out: doubtful,
    })
}

impl Learned {
    /// The place in the proposal of the rule with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.text.rules.iter().position(|rule| rule.as_deref() == Some(name))
    }

    /// Approves exceptions now. Those that were approved before stay so.
    ///
    /// # Errors
    ///
    /// A name that is no waiting exception's; nothing is approved then.
    pub fn approve(&mut self, names: &[String]) -> Result<(), Refusal> {
        let mut document = self.text.document.clone();
        let approved = approve_rules(&mut document, None, names)?;
        self.text.document = document;
        self.approved.extend(approved);
        Ok(())
    }

    /// Names of the exceptions that nobody has looked at.
    pub fn unreviewed(&self) -> impl Iterator<Item = &Arc<str>> {
        let rules = self.text.document.rules.iter();
        rules
            .filter(|rule| rule.reason.as_ref().is_some_and(|r| r.value.contains(UNREVIEWED)))
            .map(|rule| &rule.name.value)
    }
}

/// Whether a file is the learner's, or not there: what may be written.
///
/// # Errors
///
/// A file that a person wrote, or that cannot be read.
pub fn may_write(path: &Path) -> Result<(), Refusal> {
    let shown = path.display();
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Refusal::unavailable(format!("cannot read {shown}: {error}"))),
        Ok(bytes) if bytes.is_empty() || bytes.starts_with(HEAD.as_bytes()) => Ok(()),
        Ok(_) => Err(Refusal::refused(format!(
            "{shown} does not begin with `{HEAD}`: a person wrote it, and it stays as it is\n  \
             = help: name another file, such as {FILE} in the policy's folder"
        ))),
    }
}

fn read_learned(path: &Path, limit: u64) -> Result<Document, Refusal> {
    let text = policy_files::read_text(path, limit).map_err(Refusal::unavailable)?;
    document_of(&Source::new(path.display().to_string(), text))
}

fn document_of(source: &Source) -> Result<Document, Refusal> {
    syntax::parse_document(source, &bulkhead_rules::policy::Limits::default())
        .map_err(|found| Refusal::refused(join(&found)))
}

fn is_empty(folder: &Path) -> bool {
    let is_policy =
        |path: PathBuf| path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    std::fs::read_dir(folder)
        .is_ok_and(|entries| !entries.flatten().any(|entry| is_policy(entry.path())))
}

fn join(found: &[syntax::diagnostic::Diagnostic]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The groups of a learned file, so that names stay.
fn known(document: &Document) -> Known {
    let mut devices: HashMap<&str, BTreeSet<HostKey>> = HashMap::new();
    for device in &document.devices {
        let macs = device.macs.iter().map(|mac| HostKey::Mac(mac.value));
        let addresses = device.addresses.iter().filter_map(|a| one(a.value));
        devices.insert(&device.name.value, macs.chain(addresses).collect());
    }
    let groups = document.groups.iter().map(|group| {
        let hosts = group.members.members.iter().flat_map(|member| match &member.value {
            Member::Name(name) => devices.get(&**name).cloned().unwrap_or_default(),
            Member::Addresses(addresses) => one(*addresses).into_iter().collect(),
            Member::Mac(mac) => BTreeSet::from([HostKey::Mac(*mac)]),
        });
        (Arc::clone(&group.name.value), hosts.collect())
    });
    groups.collect()
}

fn one(addresses: Addresses) -> Option<HostKey> {
    match addresses {
        Addresses::One(address) => Some(HostKey::Address(address)),
        _ => None,
    }
}

/// Whether a policy permits an edge wherever it was seen.
pub fn is_permitted(
    policy: &Policy,
    model: &Model,
    client: HostId,
    server: HostId,
    service: Service,
) -> bool {
    let unseen = BTreeSet::new();
    let places = model.places.get(&(client, server, service)).unwrap_or(&unseen);
    let at = PolicyTime { unix_ms: unix_now_ms().unwrap_or(0), synchronised: true };
    let Some(headers) = headers(model, client, server, service) else { return false };
    !places.is_empty()
        && places.iter().all(|place| {
            let wire = policy.wires().iter().position(|wire| **wire == *place.wire);
            let wire = wire.unwrap_or(policy.wires().len());
            let wire = WireId(u16::try_from(wire).unwrap_or(u16::MAX));
            let headers = Headers { wire, tags: place.vlan, ..headers };
            let rule = oracle::classify(policy, &headers, at);
            policy.action(rule) == Action::Allow
        })
}

/// A packet that opens an edge; [`None`] where the hosts have no addresses of one family.
fn headers(model: &Model, client: HostId, server: HostId, service: Service) -> Option<Headers> {
    let key = |host: HostId| &model.store.hosts()[host.0 as usize].key;
    let mac = |host: HostId| match key(host) {
        HostKey::Mac(mac) => *mac,
        _ => bulkhead_rules::headers::Mac::default(),
    };
    let mut headers = Headers { src_mac: mac(client), dst_mac: mac(server), ..Headers::default() };
    if let Service::Ether(ether_type) = service {
        headers.ether_type = ether_type;
        return Some(headers);
    }
    let addresses = |host| model.identities.addresses(key(host));
    let pair = addresses(client)
        .flat_map(|src| addresses(server).map(move |dst| (src, dst)))
        .find(|(src, dst)| src.is_ipv4() == dst.is_ipv4())?;
    let bits = |address| match address {
        std::net::IpAddr::V4(a) => u128::from(u32::from(a)),
        std::net::IpAddr::V6(a) => u128::from(a),
    };
    headers.ether_type = if pair.0.is_ipv4() { ETHER_IPV4 } else { ETHER_IPV6 };
    (headers.src, headers.dst) = (bits(pair.0), bits(pair.1));
    let protocol = |protocol| match protocol {
        bulkhead_learn::observe::PortProtocol::Tcp => 6,
        bulkhead_learn::observe::PortProtocol::Udp => 17,
        bulkhead_learn::observe::PortProtocol::Sctp => 132,
    };
    match service {
        Service::Port(over, port) | Service::Dynamic(over, port) => {
            headers.protocol = protocol(over);
            (headers.src_port, headers.dst_port) = (50_000, port);
        }
        Service::Icmp { v6, kind } => {
            headers.protocol = if v6 { 58 } else { 1 };
            headers.dst_port = u16::from(kind) << 8;
        }
        Service::Ip(number) => headers.protocol = number,
        Service::Ether(_) => {}
    }
    Some(headers)
}

/// Writes VLANs and wires into the rules whose witnesses were all seen in few of several.
fn narrow(text: &mut PolicyText, model: &Model, proposal: &Proposal, around: &Surroundings) {
    let vlans: BTreeSet<VlanTags> = model.all_places.iter().map(|place| place.vlan).collect();
    let wires: BTreeSet<&str> = match around.wires.as_slice() {
        [] => model.all_places.iter().map(|place| &*place.wire).collect(),
        known => known.iter().map(|(name, _)| &**name).collect(),
    };
    let permits = Permits::new(proposal, model.store.hosts().len());
    let mut places: HashMap<u32, BTreeSet<&Place>> = HashMap::new();
    for (&(client, server, service), seen) in &model.places {
        if let Some(rule) = permits.rule(client, server, service) {
            places.entry(rule).or_default().extend(seen);
        }
    }
    let by_name: BTreeMap<Arc<str>, u32> =
        (text.rules.iter().zip(0..)).filter_map(|(name, at)| Some((name.clone()?, at))).collect();
    for rule in &mut text.document.rules {
        let Some(places) = by_name.get(&rule.name.value).and_then(|at| places.get(at)) else {
            continue;
        };
        let seen: BTreeSet<VlanTags> = places.iter().map(|place| place.vlan).collect();
        if seen.len() < vlans.len() && seen.len() <= NAMED_PLACES {
            rule.vlans = Some(Spanned::unplaced(seen.into_iter().collect()));
        }
        let seen: BTreeSet<Arc<str>> = places
            .iter()
            .flat_map(|place| match around.group(&place.wire) {
                group if group.is_empty() => vec![Arc::clone(&place.wire)],
                group => group,
            })
            .collect();
        let exist = seen.iter().all(|wire| wires.contains(&**wire));
        if exist && seen.len() < wires.len() && seen.len() <= NAMED_PLACES {
            rule.wires = seen.into_iter().map(Spanned::unplaced).collect();
        }
    }
}

/// Marks the exceptions that somebody approves, or approved in the file before and that are still
/// the same.
fn approve_rules(
    document: &mut Document,
    before: Option<&Document>,
    approve: &[String],
) -> Result<BTreeSet<Arc<str>>, Refusal> {
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let mut approved = BTreeSet::new();
    for rule in &mut document.rules {
        let Some(reason) = rule.reason.as_ref().map(|reason| Arc::clone(&reason.value)) else {
            continue;
        };
        let Some((evidence, _)) = reason.split_once(UNREVIEWED) else { continue };
        let old = before.into_iter().flat_map(|before| &before.rules);
        let earlier = old
            .filter(|old| {
                old.name.value == rule.name.value
                    && old.sides == rule.sides
                    && old.service == rule.service
            })
            .find_map(|old| {
                let (_, when) = old.reason.as_ref()?.value.split_once(APPROVED)?;
                Some(when.to_owned())
            });
        let now = approve.iter().any(|name| **name == *rule.name.value).then(|| today.clone());
        if let Some(when) = earlier.or(now) {
            let text = format!("{evidence}{APPROVED}{when}");
            rule.reason = Some(Spanned::unplaced(Arc::from(text)));
            approved.insert(Arc::clone(&rule.name.value));
        }
    }
    match approve.iter().find(|name| !approved.contains(name.as_str())) {
        None => Ok(approved),
        Some(name) => Err(Refusal::refused(format!(
            "no exception is called `{name}`\n  = help: the exceptions are at the end of the proposal"
        ))),
    }
}
