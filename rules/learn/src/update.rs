//! Folds new hours into what was learnt, without learning all of it again.
//!
//! Only what the new hours touch is looked at. Edges that the rules permit are more evidence; the rest
//! waits, with what [`crate::drift`] makes of it, for the next whole learning: roles are merged there
//! and nowhere else, so that a proposal never depends on how often it was brought up to date.

use crate::drift::{Advice, Triage};
use crate::learn::Proposal;
use crate::store::{Edge, Store};

/// What new hours brought.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Edges of the new hours that a rule permits.
    pub permitted: usize,
    /// The others, with advice.
    pub pending: Vec<(Edge, Advice)>,
}

/// Looks at the edges that were seen in `since` or later.
pub fn fold_in(proposal: &Proposal, store: &Store, since: u32) -> Update {
    let triage = Triage::new(proposal, proposal.role_of.len());
    let mut update = Update::default();
    for edge in store.edges().iter().filter(|edge| edge.last >= since) {
        match triage.judge(store, edge.client, edge.server, edge.service) {
            Advice::Permitted { .. } => update.permitted += 1,
            advice => update.pending.push((*edge, advice)),
        }
    }
    update
}
