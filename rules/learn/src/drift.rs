//! What to make of denials after lockdown. Nothing is widened here: every outcome is advice that
//! somebody, or a rule that somebody wrote, has to accept.

use crate::confidence::Permits;
use crate::learn::Proposal;
use crate::observe::Service;
use crate::store::{HostId, Store};

/// The share of a role's other members that have to be permitted something for it to be the role's.
const ROLE_PERCENT: usize = 50;

/// What a denied flow looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// The policy permits it by now.
    Permitted {
        /// By which rule of the proposal.
        rule: u32,
    },
    /// Members of the client's role may do it to members of the server's: propose to let this one.
    AsItsRole {
        /// By which rule.
        rule: u32,
    },
    /// The client was not seen in learning: it is like the hosts of this role, by what it does.
    PlaceNew {
        /// The role that most of its tokens fit; [`None`]: quarantine it with the essentials.
        role: Option<u32>,
    },
    /// The client is known, the service is not used by its role: ask.
    Ask,
}

/// Triage of denials by a proposal.
#[derive(Clone, Debug)]
pub struct Triage<'p> {
    proposal: &'p Proposal,
    permits: Permits,
    learnt: usize,
}

impl<'p> Triage<'p> {
    /// For a proposal that was learnt from the first `learnt` hosts of its store.
    pub fn new(proposal: &'p Proposal, learnt: usize) -> Self {
        Self { proposal, permits: Permits::new(proposal, learnt), learnt }
    }

    /// What to make of one denied flow. `store` holds what was seen since, by the same hosts.
    pub fn judge(&self, store: &Store, client: HostId, server: HostId, service: Service) -> Advice {
        if let Some(rule) = self.permits.rule(client, server, service) {
            return Advice::Permitted { rule };
        }
        if !self.is_known(client) {
            return Advice::PlaceNew { role: self.place(store, client) };
        }
        self.of_role(client, server, service).map_or(Advice::Ask, |rule| Advice::AsItsRole { rule })
    }

    /// The rules that no edge used since `hour`: propose to narrow them.
    pub fn unused_since(&self, store: &Store, hour: u32) -> Vec<u32> {
        let mut used = vec![false; self.proposal.rules.len()];
        for edge in store.edges().iter().filter(|edge| edge.last >= hour) {
            if let Some(rule) = self.permits.rule(edge.client, edge.server, edge.service) {
                used[rule as usize] = true;
            }
        }
        (0..used.len() as u32).filter(|&rule| !used[rule as usize]).collect()
    }

    fn is_known(&self, host: HostId) -> bool {
        (host.0 as usize) < self.learnt
    }

    fn role(&self, host: HostId) -> &[HostId] {
        let role = self.proposal.role_of.get(host.0 as usize);
        role.map_or(&[], |&role| self.proposal.units[role as usize].as_slice())
    }

    /// The rule by which most other members of the client's role reach the server's role.
    fn of_role(&self, client: HostId, server: HostId, service: Service) -> Option<u32> {
        let fellows = self.role(client).iter().filter(|&&fellow| fellow != client);
        let servers = if self.is_known(server) { self.role(server) } else { &[] };
        let (mut rule, mut may, mut all) = (None, 0, 0);
        for &fellow in fellows {
            all += 1;
            let reached = servers.iter().find_map(|&s| self.permits.rule(fellow, s, service));
            may += usize::from(reached.is_some());
            rule = rule.or(reached);
        }
        rule.filter(|_| may * 100 >= all * ROLE_PERCENT)
    }

    /// The role whose members are permitted most of what a new host does, if that is most of it.
    fn place(&self, store: &Store, host: HostId) -> Option<u32> {
        let edges: Vec<_> = store
            .edges()
            .iter()
            .filter(|edge| edge.client == host && self.is_known(edge.server))
            .collect();
        if edges.is_empty() {
            return None;
        }
        let fits = |role: &u32| {
            let Some(&member) = self.proposal.units[*role as usize].first() else { return 0 };
            edges.iter().filter(|e| self.permits.permits(member, e.server, e.service)).count()
        };
        let best = (0..self.proposal.roles as u32).map(|role| (fits(&role), role));
        let (fit, role) = best.max_by_key(|&(fit, role)| (fit, std::cmp::Reverse(role)))?;
        (fit * 2 > edges.len()).then_some(role)
    }
}
