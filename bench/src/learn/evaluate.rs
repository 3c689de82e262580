//! Policies judged forward in time: learnt on the first hours, frozen, tested on the rest.

use std::collections::{HashMap, HashSet};

use bulkhead_learn::confidence;
use bulkhead_learn::learn::{self, Options, Proposal};
use bulkhead_learn::observe::{HostKey, Service};
use bulkhead_learn::store::{HostId, Store};
use serde::Serialize;

use super::baselines::{self, Edges};
use super::data::{self, Flow};
use super::metrics::{self, Allowed};

/// The mean similarity down to which average linkage joins: a distance of 0.2.
const JACCARD: f64 = 0.8;

/// Hosts up to which baselines of quadratic cost are run.
const QUADRATIC_HOSTS: usize = 2_000;

/// A way to make a policy of hours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// One rule per edge.
    Edges,
    /// One rule per edge, dynamic ports as one.
    Dynamic,
    /// Communities of the graph.
    Leiden,
    /// Average linkage of Jaccard similarity.
    Jaccard,
    /// The true groups.
    Truth,
    /// Roles by linear description length over all edges, rules as they come.
    Mdl,
    /// The same with rules folded.
    MdlFolded,
    /// What the gateway proposes, exceptions left out.
    Ours,
    /// The same, exceptions approved.
    OursApproved,
}

impl Method {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 9] = [
        Self::Edges,
        Self::Dynamic,
        Self::Leiden,
        Self::Jaccard,
        Self::Truth,
        Self::Mdl,
        Self::MdlFolded,
        Self::OursApproved,
        Self::Ours,
    ];

    /// As reports call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Edges => "edges",
            Self::Dynamic => "edges-dynamic",
            Self::Leiden => "leiden",
            Self::Jaccard => "jaccard",
            Self::Truth => "truth",
            Self::Mdl => "mdl",
            Self::MdlFolded => "mdl-folded",
            Self::Ours => "ours",
            Self::OursApproved => "ours-approved",
        }
    }
}

/// One policy's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Which policy.
    pub policy: &'static str,
    /// Hours learnt from.
    pub learn_hours: usize,
    /// Hours tested on.
    pub test_hours: usize,
    /// Rules.
    pub rules: usize,
    /// Groups of two hosts or more that rules name.
    pub groups: usize,
    /// The share of the test's flow-hours that is denied.
    pub denied_flow_hours: f64,
    /// Of it what is between hosts that were both seen in learning.
    pub denied_seen: f64,
    /// Of it what involves a host that was not.
    pub denied_unseen: f64,
    /// What was predicted that it would be, from the learning time alone.
    pub predicted: f64,
    /// Between what it was predicted to be, where that was said.
    pub predicted_interval: Option<(f64, f64)>,
    /// Distinct edges denied, per host and day.
    pub denials_per_host_day: f64,
    /// Permitted (client, server, service) over those ever used; dynamic ports count as one.
    pub overpermission: f64,
    /// Permitted (client, server, port) over those ever used: the width of what is open.
    pub overpermission_ports: f64,
    /// The mean share of all hosts that one compromised host reaches in the end.
    pub reach: f64,
    /// Edges of attackers, seen in learning, that the policy permits.
    pub attack_edges: usize,
    /// Adjusted Rand index of the groups against the true ones.
    pub ari: Option<f64>,
    /// Adjusted mutual information likewise.
    pub ami: Option<f64>,
}

/// What is measured on.
#[derive(Debug)]
pub struct Setting<'d> {
    /// All hours.
    pub hours: &'d [Vec<Flow>],
    /// How many of them are learnt from.
    pub learn: usize,
    /// True groups, where they are known.
    pub truth: &'d HashMap<u32, u32>,
    /// Edges that only attackers use, where they are known.
    pub attacks: &'d HashSet<(u32, u32, Service)>,
    /// How to learn.
    pub options: Options,
}

/// Measures one method; [`None`] where the data are too many for it, or lack what it needs.
pub fn measure(setting: &Setting<'_>, method: Method) -> Option<Line> {
    let (learnt, tested) = setting.hours.split_at(setting.learn);
    let made = make(setting, learnt, method)?;
    let seen: HashSet<u32> = learnt.iter().flatten().flat_map(|f| [f.client, f.server]).collect();
    let denials = metrics::denials(&made.policy, tested, &seen);
    let ever = Numbered::new(data::store(setting.hours));
    let is_dynamic = method != Method::Edges;
    let used = if is_dynamic { ever.collapsed(&setting.options) } else { ever.plain() };
    let used = used.iter().filter(|(client, server, _)| client != server).count().max(1);
    let used_ports = ever.plain().iter().filter(|(c, s, _)| c != s).count().max(1);
    let (pairs, ports) = made.policy.size();
    let attacked: HashSet<_> = learnt
        .iter()
        .flatten()
        .map(|flow| (flow.client, flow.server, flow.service))
        .filter(|edge| {
            setting.attacks.contains(edge) && made.policy.permits(edge.0, edge.1, edge.2)
        })
        .collect();
    let hosts: Vec<u32> = ever.numbers.clone();
    let (ari, ami) = metrics::agreement(&made.groups, setting.truth);
    let share = |denied: u64| denied as f64 / denials.flow_hours.max(1) as f64;
    let predicted = predict(setting, learnt, method);
    Some(Line {
        policy: method.label(),
        learn_hours: learnt.len(),
        test_hours: tested.len(),
        rules: made.policy.rules(),
        groups: made.named,
        denied_flow_hours: denials.share(),
        denied_seen: share(denials.denied_seen),
        denied_unseen: share(denials.denied - denials.denied_seen),
        predicted: predicted.denied,
        predicted_interval: predicted.interval,
        denials_per_host_day: denials.edges as f64 / denials.host_days.max(f64::MIN_POSITIVE),
        overpermission: pairs as f64 / used as f64,
        overpermission_ports: ports as f64 / used_ports as f64,
        reach: made.policy.mean_reach(&hosts),
        attack_edges: attacked.len(),
        ari: ari.is_finite().then_some(ari),
        ami: ami.is_finite().then_some(ami),
    })
}

/// What the policy of all learning time is predicted to deny in the time that is tested. Ours says so
/// itself; for the others their policies are made again without stretches of the learning time, and the
/// curve is followed on to all of it.
fn predict(setting: &Setting<'_>, learnt: &[Vec<Flow>], method: Method) -> Prediction {
    if matches!(method, Method::Ours | Method::OursApproved) {
        let ahead = (setting.hours.len() - learnt.len()) as u32;
        let predicted = confidence::predict(&data::store(learnt), &setting.options, ahead);
        return predicted.map_or_else(Prediction::default, |predicted| Prediction {
            denied: predicted.denied,
            interval: Some((predicted.least, predicted.most)),
        });
    }
    let one = held_out(setting, learnt, method, learnt.len() / 4);
    let two = held_out(setting, learnt, method, learnt.len() / 2);
    Prediction { denied: confidence::extrapolate(one, two), interval: None }
}

#[derive(Default)]
struct Prediction {
    denied: f64,
    interval: Option<(f64, f64)>,
}

/// The mean share of flow-hours denied in stretches of so many hours of the learning time, each time
/// by a policy that was made of the others. Stretches overlap by half, as the learner's.
fn held_out(setting: &Setting<'_>, learnt: &[Vec<Flow>], method: Method, length: usize) -> f64 {
    let length = length.max(1);
    let (mut sum, mut stretches) = (0.0, 0.0);
    for start in (0..=learnt.len() - length).step_by((length / 2).max(1)) {
        let out = start..start + length;
        let part = |is_out: bool| -> Vec<Vec<Flow>> {
            let hour =
                |at| if out.contains(&at) == is_out { learnt[at].clone() } else { Vec::new() };
            (0..learnt.len()).map(hour).collect()
        };
        let Some(made) = make(setting, &part(false), method) else { continue };
        sum += metrics::denials(&made.policy, &part(true), &HashSet::new()).share();
        stretches += 1.0;
    }
    sum / f64::max(stretches, 1.0)
}

struct Made {
    policy: Allowed,
    /// The group of each host.
    groups: HashMap<u32, u32>,
    /// Groups of two hosts or more that the rules name.
    named: usize,
}

fn make(setting: &Setting<'_>, hours: &[Vec<Flow>], method: Method) -> Option<Made> {
    let store = Numbered::new(data::store(hours));
    let hosts = store.numbers.len();
    let options = &setting.options;
    let collapsed = || store.collapsed(options);
    let made = |edges: &Edges, groups: Vec<u32>| store.group_policy(edges, &groups);
    let own: Vec<u32> = (0..hosts as u32).collect();
    let is_large = hosts > QUADRATIC_HOSTS;
    Some(match method {
        Method::Edges => made(&store.plain(), own),
        Method::Dynamic => made(&collapsed(), own),
        Method::Leiden => made(&collapsed(), baselines::leiden(&collapsed(), hosts, 1)),
        Method::Jaccard if is_large => return None,
        Method::Jaccard => made(&collapsed(), baselines::jaccard(&collapsed(), hosts, JACCARD)),
        Method::Truth if setting.truth.is_empty() => return None,
        Method::Truth => {
            // Who belongs to no group is one of its own.
            let own = |(at, number): (usize, &u32)| {
                setting.truth.get(number).map_or(1 << 24 | at as u32, |&group| group)
            };
            made(&collapsed(), store.numbers.iter().enumerate().map(own).collect())
        }
        Method::Mdl => {
            let (roles, edges) = (learn::plain_roles(&store.store, options), collapsed());
            made(&edges, roles)
        }
        Method::MdlFolded => store.proposed(&learn::plain_fold(&store.store, options), |_| true),
        Method::Ours => {
            let is_reviewed = |rule: &learn::Rule| rule.kind != learn::Kind::Exception;
            store.proposed(&learn::learn(&store.store, options), is_reviewed)
        }
        Method::OursApproved => store.proposed(&learn::learn(&store.store, options), |_| true),
    })
}

/// A store of hosts that have numbers.
struct Numbered {
    store: Store,
    numbers: Vec<u32>,
}

impl Numbered {
    fn new(store: Store) -> Self {
        let number = |key: &HostKey| match key {
            HostKey::Number(number) => *number,
            _ => u32::MAX,
        };
        let numbers = store.hosts().iter().map(|host| number(&host.key)).collect();
        Self { store, numbers }
    }

    fn plain(&self) -> Edges {
        learn::plain(&self.store).into_iter().map(|(c, s, service)| (c.0, s.0, service)).collect()
    }

    fn collapsed(&self, options: &Options) -> Edges {
        let edges = learn::collapsed(&self.store, options);
        edges.into_iter().map(|(c, s, service)| (c.0, s.0, service)).collect()
    }

    fn named(&self, hosts: &[u32]) -> Vec<u32> {
        hosts.iter().map(|&host| self.numbers[host as usize]).collect()
    }

    fn group_policy(&self, edges: &Edges, groups: &[u32]) -> Made {
        let mut policy = Allowed::default();
        for (clients, servers, services) in baselines::group_rules(edges, groups) {
            policy.add(self.named(&clients), self.named(&servers), services);
        }
        let mut sizes: HashMap<u32, usize> = HashMap::new();
        groups.iter().for_each(|&group| *sizes.entry(group).or_default() += 1);
        let groups = self.numbers.iter().copied().zip(groups.iter().copied()).collect();
        Made { policy, groups, named: sizes.values().filter(|&&size| size > 1).count() }
    }

    fn proposed(&self, proposal: &Proposal, is_kept: impl Fn(&learn::Rule) -> bool) -> Made {
        let mut policy = Allowed::default();
        let mut named: HashSet<u32> = HashSet::new();
        let ids = |hosts: Vec<HostId>| hosts.into_iter().map(|host| host.0).collect::<Vec<_>>();
        for rule in proposal.rules.iter().filter(|rule| is_kept(rule)) {
            let clients = self.named(&ids(proposal.hosts(&rule.clients)));
            let servers = self.named(&ids(proposal.hosts(&rule.servers)));
            policy.add(clients, servers, rule.services.clone());
            let units = rule.clients.iter().chain(&rule.servers);
            named.extend(units.filter(|&&unit| proposal.units[unit as usize].len() > 1));
        }
        let groups = self.numbers.iter().copied().zip(proposal.role_of.iter().copied()).collect();
        Made { policy, groups, named: named.len() }
    }
}
