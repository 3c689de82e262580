//! Edits of the text that a policy is loaded from.

use super::{Edit, Place};
use crate::syntax::document::{Document, Rule};
use crate::syntax::span::Spanned;

impl Edit {
    /// Makes the edit in the documents that the policy was loaded from, in the order in which they
    /// were. Loading what they print as is then loading the policy that
    /// [`Policy::edited`](super::super::Policy::edited) returns for this edit, but for the ids, the
    /// places of rules in the text, and the numbers of wires that no gateway has numbered.
    ///
    /// Returns the index of the one document that changed. [`None`] where the edit does not fit the
    /// documents, as after it was refused: they are then unchanged.
    ///
    /// A changed document prints without the comments and the layout that a person gave its file. A
    /// tool leaves such a file alone: it keeps the groups and rules that it edits in a file of its
    /// own, or asks first.
    pub fn apply(&self, documents: &mut [Document]) -> Option<usize> {
        match self {
            Self::AddMember { group, member } => {
                let (index, members) = members_of(documents, group)?;
                if members.iter().any(|other| other.value == *member) {
                    return None;
                }
                members.push(Spanned::unplaced(member.clone()));
                Some(index)
            }
            Self::RemoveMember { group, member } => {
                let (index, members) = members_of(documents, group)?;
                let keeps = |other: &Spanned<_>| other.value != *member;
                let kept = members.iter().filter(|other| keeps(other)).count();
                if kept == 0 || kept == members.len() {
                    return None;
                }
                members.retain(keeps);
                Some(index)
            }
            Self::AddRule { rule, place } => {
                if find_rule(documents, &rule.name.value).is_some() {
                    return None;
                }
                let has_rules = |document: &&Document| !document.rules.is_empty();
                let with_rules = || documents.iter().filter(has_rules);
                let (index, at) = match place {
                    Place::Before(name) => find_rule(documents, name)?,
                    Place::After(name) => {
                        let (index, at) = find_rule(documents, name)?;
                        (index, at + 1)
                    }
                    Place::First | Place::Last if with_rules().next().is_none() => {
                        (documents.len().checked_sub(1)?, 0)
                    }
                    Place::First => (documents.iter().position(|d| has_rules(&d))?, 0),
                    Place::Last => {
                        let index = documents.iter().rposition(|d| has_rules(&d))?;
                        (index, documents[index].rules.len())
                    }
                };
                let rule: &Rule = rule;
                documents[index].rules.insert(at, rule.clone());
                Some(index)
            }
            Self::RemoveRule { name } => {
                let (index, at) = find_rule(documents, name)?;
                documents[index].rules.remove(at);
                Some(index)
            }
        }
    }
}

type Members = Vec<Spanned<crate::syntax::document::Member>>;

fn members_of<'d>(documents: &'d mut [Document], group: &str) -> Option<(usize, &'d mut Members)> {
    documents.iter_mut().enumerate().find_map(|(index, document)| {
        let found = document.groups.iter_mut().find(|other| *other.name.value == *group)?;
        Some((index, &mut found.members.members))
    })
}

/// The document and the place in it of a rule.
fn find_rule(documents: &[Document], name: &str) -> Option<(usize, usize)> {
    documents.iter().enumerate().find_map(|(index, document)| {
        let at = document.rules.iter().position(|rule| *rule.name.value == *name)?;
        Some((index, at))
    })
}
