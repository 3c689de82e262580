//! Edits of a checked policy: a member more or less, a rule more or less.
//!
//! An edit is checked as a load is, and yields the policy that loading the edited text would, but
//! costs what it changes. [`Delta`] says what that is, for those who keep something that was made
//! from the policy. Ids of what stays stay the same.
//!
//! - `cover` counts which addresses the members of a list hold;
//! - `counts` does so for both families at once;
//! - `names` is what the text defines;
//! - `graph` knows which selector names which group and carries changes from one to the next;
//! - `state` is all that is kept for edits besides;
//! - `documents` makes the same edit in the text that the policy was loaded from.

use std::sync::Arc;

mod counts;
mod cover;
mod documents;
mod graph;
mod names;
mod random;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use super::endpoints::sorted;
use super::order::Slot;
use super::resolve::{self, Wires};
use super::services;
use super::{Endpoint, EndpointId, Policy, Rule, RuleId, ServiceId, ServiceSet};
use crate::sets::RangeSet;
use crate::syntax::document::{self, Document, Group, Member, Selector, Sides, Terms};
use crate::syntax::print;
use crate::syntax::span::Spanned;
use crate::syntax::{
    Budget, Code, Diagnostic, Findings, Problem, Source, SourceMap, checked_text, nearest, parse,
    quoted,
};
pub use random::RandomEdits;
pub(super) use state::{Definitions, Editing, State};

/// What diagnostics and locations call the text of an edit.
const SOURCE: &str = "edit";

/// One change of a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Edit {
    /// Adds a member to a group that does not have it.
    AddMember {
        /// The group's name.
        group: Arc<str>,
        /// Anything that may be written in a group.
        member: Member,
    },
    /// Takes out a member that the group has, as it is written there: a prefix is not taken out of
    /// a larger one.
    RemoveMember {
        /// The group's name.
        group: Arc<str>,
        /// What is taken out.
        member: Member,
    },
    /// Adds a rule.
    AddRule {
        /// The rule; places in it are of no matter. Its location is in the edit's own text, until
        /// the policy is loaded from a text that has it.
        rule: Box<document::Rule>,
        /// Where in the deciding order.
        place: Place,
    },
    /// Takes out a rule.
    RemoveRule {
        /// Its name.
        name: Arc<str>,
    },
}

/// Where a new rule stands in the deciding order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// Before all others.
    First,
    /// After all others.
    Last,
    /// Directly before the rule of this name.
    Before(Arc<str>),
    /// Directly after the rule of this name.
    After(Arc<str>),
}

/// What an edit changed. Two successive policies judge alike all headers that match no rule in
/// `rules_added` and `rules_removed` and have no host in a changed region of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    /// Endpoints of both policies that may hold other hosts than before, ascending.
    pub endpoints: Vec<EndpointChange>,
    /// Endpoints that only the new policy has; an id may be that of one that was removed earlier.
    pub endpoints_added: Vec<EndpointId>,
    /// Endpoints that only the old policy has: no rule and no assertion names them any more.
    pub endpoints_removed: Vec<EndpointId>,
    /// Service sets that only the new policy has.
    pub services_added: Vec<ServiceId>,
    /// Service sets that only the old policy has.
    pub services_removed: Vec<ServiceId>,
    /// Rules that only the new policy has; an id may be that of one that was removed earlier.
    pub rules_added: Vec<RuleId>,
    /// Rules that only the old policy has.
    pub rules_removed: Vec<RuleId>,
    /// Whether all rules have new ranks, in the same order.
    pub respread: bool,
}

/// Where an endpoint may hold other hosts than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointChange {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// IPv4 addresses that may have entered or left.
    pub v4: RangeSet<u32>,
    /// IPv6 addresses that may have entered or left.
    pub v6: RangeSet<u128>,
    /// Whether frames that are not IP may have entered or left.
    pub non_ip: bool,
    /// Whether anything may have changed: conditions on MAC addresses or VLANs are or were among
    /// its boxes. The other fields say nothing then. Without it the endpoint was and is one box of
    /// addresses alone.
    pub other: bool,
}

impl EndpointChange {
    pub(super) fn other(endpoint: EndpointId) -> Self {
        let (v4, v6) = (RangeSet::<u32>::default(), RangeSet::<u128>::default());
        Self { endpoint, v4, v6, non_ip: false, other: true }
    }
}

impl Policy {
    /// The policy after `edit`, checked as a load would check it, and what changed. The policy
    /// itself stays as it is. Its assertions are not checked, as they are not by a load, and what a
    /// load only warns of is not told.
    ///
    /// Takes time for what changes, and a copy of the ranges of each endpoint that changes: of those
    /// that contain the group, at any depth. Limits on work are counted as a load counts them, but
    /// an `except` counts as if it took something out.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the edit, or with what it would make of the policy. Places are
    /// those of the edit's own text, which is called `edit`.
    pub fn edited(&self, edit: &Edit) -> Result<(Self, Delta), Vec<Diagnostic>> {
        let limits = *self.editing.limits();
        let sources =
            [Source::new(SOURCE, edit.document().map_or(String::new(), |d| d.to_string()))];
        let map = checked_text(&sources, &limits).map_err(|diagnostic| vec![diagnostic])?;
        let mut findings = Findings::new(limits.findings);
        let mut editor = Editor {
            policy: self.clone(),
            state: self.editing.state(self).clone(),
            delta: Delta::default(),
            findings: &mut findings,
        };
        let done = editor.edit(edit, &sources[0], &map);
        let Editor { mut policy, state, delta, .. } = editor;
        if done.is_none() || findings.has_errors() {
            return Err(findings.into_diagnostics(&map));
        }
        policy.editing = self.editing.followed_by(state);
        Ok((policy, delta))
    }

    /// Builds what edits need and a load does not, so that not the first edit has to: about 16 bytes
    /// for each IPv4 range of each group, and 64 for each IPv6 one, those of the groups within it
    /// included. Further calls, and calls on copies, cost nothing.
    pub fn prepare_edits(&self) {
        self.editing.state(self);
    }
}

impl Edit {
    /// What the edit adds, as a document of its own.
    fn document(&self) -> Option<Document> {
        let version = Some(Spanned::unplaced(1));
        match self {
            Self::AddMember { group, member } | Self::RemoveMember { group, member } => {
                let members = vec![Spanned::unplaced(member.clone())];
                let span = Spanned::unplaced(());
                let members = Selector { members, except: Vec::new(), span };
                let groups = vec![Group { name: Spanned::unplaced(Arc::clone(group)), members }];
                Some(Document { version, groups, ..Document::default() })
            }
            Self::AddRule { rule, .. } => {
                Some(Document { version, rules: vec![(**rule).clone()], ..Document::default() })
            }
            Self::RemoveRule { .. } => None,
        }
    }
}

/// A policy on its way from one version to the next.
struct Editor<'f> {
    policy: Policy,
    state: State,
    delta: Delta,
    findings: &'f mut Findings,
}

impl Editor<'_> {
    /// [`None`] where there was an error, which is reported.
    fn edit(&mut self, edit: &Edit, source: &Source, map: &SourceMap<'_>) -> Option<()> {
        let document = match edit.document() {
            Some(document) => Some(self.read(&document, source)?),
            None => None,
        };
        let group = document.as_ref().and_then(|document| document.groups.first());
        let rule = document.as_ref().and_then(|document| document.rules.first());
        match edit {
            Edit::AddMember { .. } => self.edit_member(group?, true),
            Edit::RemoveMember { .. } => self.edit_member(group?, false),
            Edit::AddRule { place, .. } => self.add_rule(rule?, place, map),
            Edit::RemoveRule { name } => self.remove_rule(name),
        }
    }

    /// Reads the edit's text: every check that a file's text goes through holds for it too.
    fn read(&mut self, document: &Document, source: &Source) -> Option<Document> {
        let mut budget = Budget::new(self.policy.editing.limits().values);
        let parsed = parse(&source.text, 0, &mut budget, self.findings);
        if self.findings.has_errors() {
            return None;
        }
        if parsed.document != *document {
            // A name with a line break in it, say, or an empty list.
            let message = "the edit does not read back as it was given".to_owned();
            let problem = Problem::error(Code::InvalidValue, None, message);
            self.findings.push(problem.help("names and texts must be as the language has them"));
            return None;
        }
        Some(parsed.document)
    }

    fn edit_member(&mut self, edited: &Group, adds: bool) -> Option<()> {
        let (name, member) = (&edited.name, edited.members.members.first()?);
        let graph = &mut self.state.graph;
        let Some(group) = graph.names().group(name) else {
            let near = nearest(name, graph.group_names());
            let message = format!("no group is named {}", quoted(name));
            let problem = Problem::error(Code::UnknownName, name.span, message);
            self.findings.push(problem.help(match near {
                _ if graph.names().is_host(name) => {
                    "it is a device: only groups have members".to_owned()
                }
                Some(near) => format!("did you mean `{near}`?"),
                None => "define it under `groups`".to_owned(),
            }));
            return None;
        };
        let (has, count) =
            (graph.members(group).contains(&member.value), graph.members(group).len());
        let problem = |code, message: String| Some(Problem::error(code, member.span, message));
        let wrong = if adds && has {
            let message = format!("{} is in the group {} already", member.value, quoted(name));
            problem(Code::DuplicateName, message)
        } else if !adds && !has {
            let message = format!("the group {} does not name {}", quoted(name), member.value);
            let help = "members are removed as they are written; see the group's definition";
            problem(Code::UnknownName, message).map(|problem| problem.help(help))
        } else if !adds && count == 1 {
            let message = format!("the group {} would have no member left", quoted(name));
            let help = "remove the rules that use it, or add another member first";
            problem(Code::EmptyList, message).map(|problem| problem.help(help))
        } else {
            None
        };
        if let Some(problem) = wrong {
            self.findings.push(problem);
            return None;
        }
        let mut report = graph.report(self.findings, member.span);
        let mut changed = graph.edit_member(group, member, adds, &mut report)?;
        changed.sort_unstable_by_key(|changed| changed.endpoint);
        for changed in changed {
            let place = changed.endpoint.0 as usize;
            let before = &self.policy.endpoints[place];
            let (boxes, change) = self.state.graph.after(&changed, &before.boxes);
            let boxes = self.policy.bindings.extend(boxes);
            let endpoint = Endpoint { label: before.label.clone(), boxes };
            *self.policy.endpoints.get_mut(place) = Arc::new(endpoint);
            self.delta.endpoints.push(change);
        }
        Some(())
    }

    fn add_rule(
        &mut self,
        rule: &document::Rule,
        place: &Place,
        map: &SourceMap<'_>,
    ) -> Option<()> {
        let (count, limit) = (self.policy.rule_count() + 1, self.policy.editing.limits().rules);
        if count > limit {
            self.findings.push(resolve::too_many("rules", count, limit));
            return None;
        }
        if let Some(problem) = resolve::reserved_rule_name(&rule.name) {
            self.findings.push(problem);
        }
        if self.state.rule_named(&self.policy, &rule.name).is_some() {
            let message = format!("there is a rule {} already", quoted(&rule.name));
            let problem = Problem::error(Code::DuplicateName, rule.name.span, message);
            self.findings.push(problem.help("choose another name, or remove that rule first"));
        }
        let slot = self.slot(place);
        resolve::check_times(rule, None, self.findings);
        let (from, to, between) = match &rule.sides {
            Sides::Directed { from, to } => {
                (self.side(from.as_ref()), self.side(to.as_ref()), false)
            }
            Sides::Between(one, other) => (self.side(Some(one)), self.side(Some(other)), true),
        };
        let service = self.service(rule.service.as_ref());
        let wires = self.wires(&rule.wires);
        let sides = (from?, to?, between);
        let location = map.location(rule.name.span);
        let rule = resolve::assemble(rule, sides, service?, wires?, location);
        let (slot, rule) = (slot?, Arc::new(rule));
        let first_free = self.state.free_rules.iter().next().copied();
        let id = match first_free {
            Some(id) => {
                self.state.free_rules.remove(&id);
                *self.policy.rules.get_mut(id as usize) = Arc::clone(&rule);
                id
            }
            None => {
                self.policy.rules.push(Arc::clone(&rule));
                self.policy.rules.len() as u32 - 1
            }
        };
        self.state.rules.insert((state::hash_of(&*rule.name), id));
        self.delta.respread = self.policy.order.insert(RuleId(id), &rule, slot);
        self.delta.rules_added.push(RuleId(id));
        Some(())
    }

    fn remove_rule(&mut self, name: &str) -> Option<()> {
        let id = self.rule_named(name)?;
        let place = self.policy.rules.get_mut(id.0 as usize);
        let rule = Arc::clone(place);
        *place = Arc::new(Rule { removed: true, ..(*rule).clone() });
        self.policy.order.remove(id, &rule);
        self.state.rules.remove(&(state::hash_of(name), id.0));
        self.state.free_rules.insert(id.0);
        self.delta.rules_removed.push(id);
        for side in [rule.from, rule.to] {
            if self.state.endpoints.leave(side.0) {
                self.state.graph.remove_selector(self.state.endpoint_nodes[side.0 as usize]);
                let nothing = Endpoint { label: String::new(), boxes: Arc::default() };
                *self.policy.endpoints.get_mut(side.0 as usize) = Arc::new(nothing);
                self.delta.endpoints_removed.push(side);
            }
        }
        if self.state.services.leave(rule.service.0) {
            let place = rule.service.0 as usize;
            let nothing = ServiceSet { label: String::new(), terms: Vec::new() };
            *self.policy.services.get_mut(place) = Arc::new(nothing);
            self.state.terms_spent -= self.state.terms[place].1.min(self.state.terms_spent);
            self.delta.services_removed.push(rule.service);
        }
        Some(())
    }

    fn slot(&mut self, place: &Place) -> Option<Slot> {
        Some(match place {
            Place::First => Slot::First,
            Place::Last => Slot::Last,
            Place::Before(name) => Slot::Before(self.rule_named(name)?),
            Place::After(name) => Slot::After(self.rule_named(name)?),
        })
    }

    fn rule_named(&mut self, name: &str) -> Option<RuleId> {
        let found = self.state.rule_named(&self.policy, name).map(RuleId);
        if found.is_none() {
            let names = self.policy.order().filter_map(|id| self.policy.rule(id));
            let near = nearest(name, names.map(|rule| &*rule.name));
            let message = format!("no rule is named {}", quoted(name));
            let problem = Problem::error(Code::UnknownName, None, message);
            let help = near.map(|near| format!("did you mean `{near}`?"));
            self.findings.push(problem.maybe_help(help));
        }
        found
    }

    /// The endpoint of a new rule's side: one that there is, or a new one.
    fn side(&mut self, selector: Option<&Selector>) -> Option<EndpointId> {
        let any = super::endpoints::any_selector();
        let selector = selector.unwrap_or(&any);
        let key = (sorted(&selector.members), sorted(&selector.except));
        let (hash, state) = (state::hash_of(&key), &mut self.state);
        let is = |id: u32| state.graph.is_selector(state.endpoint_nodes[id as usize], &key);
        if let Some(known) = state.endpoints.find(hash, is) {
            state.endpoints.enter(known);
            return Some(EndpointId(known));
        }
        let id = state.endpoints.place(hash);
        state.endpoints.enter(id);
        let added = state.graph.add_selector(selector, key, EndpointId(id), self.findings);
        // One with errors has its place too, so that the rule's other errors are found.
        let boxes = added.map(|node| state.graph.boxes(node)).unwrap_or_default();
        let boxes = self.policy.bindings.extend(boxes);
        let (label, node) = (print::selector_label(selector), added.unwrap_or(u32::MAX));
        let endpoint = Arc::new(Endpoint { label, boxes });
        if id as usize == self.policy.endpoints.len() {
            self.policy.endpoints.push(endpoint);
            state.endpoint_nodes.push(node);
        } else {
            *self.policy.endpoints.get_mut(id as usize) = endpoint;
            *state.endpoint_nodes.get_mut(id as usize) = node;
        }
        if added.is_none() {
            state.endpoints.leave(id);
            return None;
        }
        self.delta.endpoints_added.push(EndpointId(id));
        Some(EndpointId(id))
    }

    /// The service set of a new rule: one that there is, or a new one.
    fn service(&mut self, terms: Option<&Terms>) -> Option<ServiceId> {
        let any = services::any_terms();
        let terms = terms.unwrap_or(&any);
        let mut key: Vec<document::Term> = terms.terms.iter().map(|t| t.value.clone()).collect();
        key.sort_unstable();
        key.dedup();
        let (hash, state) = (state::hash_of(&key), &mut self.state);
        if let Some(known) = state.services.find(hash, |id| state.terms[id as usize].0 == key) {
            state.services.enter(known);
            return Some(ServiceId(known));
        }
        let limit = self.policy.editing.limits().terms;
        let left = limit.saturating_sub(state.terms_spent);
        let names = Arc::clone(state.graph.names());
        let is_host = |name: &str| names.is_host(name);
        let resolved =
            services::resolve(terms, names.services(), is_host, (left, limit), self.findings);
        let (resolved, spent) = resolved?;
        state.terms_spent += spent;
        let id = state.services.place(hash);
        state.services.enter(id);
        let set = ServiceSet { label: print::terms_label(terms), terms: resolved };
        let (set, key) = (Arc::new(set), Arc::new((key, spent)));
        if id as usize == self.policy.services.len() {
            self.policy.services.push(set);
            state.terms.push(key);
        } else {
            *self.policy.services.get_mut(id as usize) = set;
            *state.terms.get_mut(id as usize) = key;
        }
        self.delta.services_added.push(ServiceId(id));
        Some(ServiceId(id))
    }

    fn wires(
        &mut self,
        names: &[document::Name],
    ) -> Option<crate::sets::FiniteSet<crate::headers::WireId>> {
        let mut wires = Wires::of(&self.policy.wires, self.policy.wires_known);
        let resolved = wires.resolve(names, self.findings);
        if wires.names().len() > self.policy.wires.len() {
            self.policy.wires = Arc::new(wires.names().to_vec());
        }
        resolved
    }
}
