//! What edits need to know of a policy besides what lookups and people do.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use super::graph::Graph;
use super::names::Names;
use crate::policy::endpoints::Key;
use crate::policy::pages::{Pages, Sorted};
use crate::policy::services::Named;
use crate::policy::{Limits, Policy};
use crate::syntax::document::{Device, Group, Term};

/// What a load leaves for edits to come.
#[derive(Debug, Default)]
pub(in crate::policy) struct Definitions {
    pub(in crate::policy) devices: Vec<Device>,
    pub(in crate::policy) groups: Vec<Group>,
    pub(in crate::policy) services: Named,
    /// Of each endpoint.
    pub(in crate::policy) selectors: Vec<Key>,
    /// Of each service set.
    pub(in crate::policy) terms: Vec<Vec<Term>>,
    /// What resolving the services took of [`Limits::terms`].
    pub(in crate::policy) terms_spent: usize,
    pub(in crate::policy) limits: Limits,
}

/// The state of edits. That of a policy that was loaded is built when it is first asked for; copies
/// of the policy share it.
#[derive(Clone, Default)]
pub(in crate::policy) struct Editing {
    definitions: Arc<Definitions>,
    loaded: Arc<OnceLock<State>>,
    edited: Option<Arc<State>>,
}

impl Editing {
    pub(in crate::policy) fn of(definitions: Definitions) -> Self {
        Self { definitions: Arc::new(definitions), ..Self::default() }
    }

    /// What follows an edit.
    pub(super) fn followed_by(&self, state: State) -> Self {
        Self { edited: Some(Arc::new(state)), ..self.clone() }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.definitions.limits
    }

    pub(in crate::policy) fn devices(&self) -> &[Device] {
        &self.definitions.devices
    }

    pub(in crate::policy) fn state(&self, policy: &Policy) -> &State {
        match &self.edited {
            Some(state) => state,
            None => self.loaded.get_or_init(|| State::of(policy, &self.definitions)),
        }
    }
}

/// Policies are equal when they decide alike, whether they have been edited or not.
impl PartialEq for Editing {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Editing {}

impl fmt::Debug for Editing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Editing").finish_non_exhaustive()
    }
}

/// Versions of it share what they have in common.
#[derive(Clone, Debug)]
pub(in crate::policy) struct State {
    pub(super) graph: Graph,
    /// The node of each endpoint.
    pub(super) endpoint_nodes: Pages<u32>,
    pub(super) endpoints: Shared,
    /// What each service set was made of, and how many terms resolving it took.
    pub(super) terms: Pages<Arc<(Vec<Term>, usize)>>,
    pub(super) services: Shared,
    /// What resolving the services takes of [`Limits::terms`].
    pub(super) terms_spent: usize,
    /// Rules that are not removed by the hash of their name.
    pub(super) rules: Sorted<(u64, u32)>,
    /// Places of removed rules.
    pub(super) free_rules: Sorted<u32>,
}

impl State {
    fn of(policy: &Policy, definitions: &Definitions) -> Self {
        let Definitions { devices, groups, services, limits, .. } = definitions;
        let names = Arc::new(Names::new(devices, groups, services));
        let mut selectors = definitions.selectors.clone();
        selectors.resize(policy.endpoints.len(), Key::default());
        let (graph, endpoint_nodes) = Graph::of(names, groups, &selectors, *limits);
        let mut terms = definitions.terms.clone();
        terms.resize(policy.services.len(), Vec::new());
        let mut endpoints = Shared::of(selectors.iter().map(hash_of));
        let mut services = Shared::of(terms.iter().map(hash_of));
        let assertions = policy.assertions.iter().map(|a| (a.from, a.to, a.service));
        let rules = policy.rules.iter().map(|rule| (rule.from, rule.to, rule.service));
        for (from, to, service) in assertions.chain(rules) {
            endpoints.enter(from.0);
            endpoints.enter(to.0);
            services.enter(service.0);
        }
        let names = policy.rules.iter().map(|rule| hash_of(&rule.name)).zip(0..);
        let mut rules: Vec<(u64, u32)> = names.collect();
        rules.sort_unstable();
        Self {
            graph,
            endpoint_nodes,
            endpoints,
            terms: terms.into_iter().map(|terms| Arc::new((terms, 0))).collect(),
            services,
            terms_spent: definitions.terms_spent,
            rules: Sorted::from_ascending(rules),
            free_rules: Sorted::default(),
        }
    }

    /// The rule of this name, unless it is removed.
    pub(super) fn rule_named(&self, policy: &Policy, name: &str) -> Option<u32> {
        let hash = hash_of(&name);
        with_hash(&self.rules, hash).find(|&id| &*policy.rules[id as usize].name == name)
    }
}

/// Things that rules share: who uses each, and which places are free.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    by_hash: Sorted<(u64, u32)>,
    /// How often each is used, and its hash.
    users: Pages<(u32, u64)>,
    free: Sorted<u32>,
}

impl Shared {
    fn of(hashes: impl Iterator<Item = u64>) -> Self {
        let users: Pages<(u32, u64)> = hashes.map(|hash| (0, hash)).collect();
        let mut by_hash: Vec<(u64, u32)> = users.iter().map(|user| user.1).zip(0..).collect();
        by_hash.sort_unstable();
        Self { by_hash: Sorted::from_ascending(by_hash), users, free: Sorted::default() }
    }

    /// How many are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// The one with this hash for which `is` is true.
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        with_hash(&self.by_hash, hash).find(|&id| is(id))
    }

    /// A place for a new one, that nothing uses yet: a free one, or the next.
    pub(super) fn place(&mut self, hash: u64) -> u32 {
        let first_free = self.free.iter().next().copied();
        let id = match first_free {
            Some(id) => {
                self.free.remove(&id);
                *self.users.get_mut(id as usize) = (0, hash);
                id
            }
            None => {
                self.users.push((0, hash));
                self.users.len() as u32 - 1
            }
        };
        self.by_hash.insert((hash, id));
        id
    }

    pub(super) fn enter(&mut self, id: u32) {
        self.users.get_mut(id as usize).0 += 1;
    }

    /// One user less; true when it was the last one, and the place is free then.
    pub(super) fn leave(&mut self, id: u32) -> bool {
        let (users, hash) = self.users.get_mut(id as usize);
        *users = users.saturating_sub(1);
        if *users > 0 {
            return false;
        }
        self.by_hash.remove(&(*hash, id));
        self.free.insert(id);
        true
    }
}

fn with_hash(by_hash: &Sorted<(u64, u32)>, hash: u64) -> impl Iterator<Item = u32> {
    let from = by_hash.from(move |entry| entry.0 < hash);
    from.take_while(move |entry| entry.0 == hash).map(|entry| entry.1)
}

pub(super) fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
