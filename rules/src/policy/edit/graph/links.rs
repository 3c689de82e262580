//! Which node names which, how deeply they nest, and that none contains itself.

use std::collections::HashMap;

use super::{Graph, Report, Side};
use crate::policy::nesting::{contains_itself, too_deep};
use crate::syntax::Problem;
use crate::syntax::document::Member;
use crate::syntax::span::Span;

impl Graph {
    /// The groups that a node names.
    pub(super) fn children(&self, id: u32) -> Vec<u32> {
        let names = self.nodes[id as usize].names();
        names.filter_map(|name| self.names.group(name)).collect()
    }

    /// Enters the node with the groups that it names, or takes it out.
    pub(super) fn link(&mut self, id: u32, enters: bool) {
        for child in self.children(id) {
            let parents = &mut self.node_mut(child).parents;
            match (parents.binary_search(&id), enters) {
                (Err(place), true) => parents.insert(place, id),
                (Ok(place), false) => {
                    parents.remove(place);
                }
                _ => {}
            }
        }
    }

    /// Enters `parent` with `child`, or takes it out, by whether it still names it.
    pub(super) fn relink(&mut self, child: u32, parent: u32) {
        let node = &self.nodes[parent as usize];
        let name = self.nodes[child as usize].name.clone().map(Member::Name);
        let names = |side: &Side| name.as_ref().is_some_and(|name| side.members.contains(name));
        let enters = names(&node.within) || names(&node.except);
        let parents = &mut self.node_mut(child).parents;
        match (parents.binary_search(&parent), enters) {
            (Err(place), true) => parents.insert(place, parent),
            (Ok(place), false) => {
                parents.remove(place);
            }
            _ => {}
        }
    }

    pub(super) fn levels_of(&self, id: u32) -> usize {
        let levels = self.children(id).into_iter().map(|child| self.nodes[child as usize].levels);
        1 + levels.max().unwrap_or(0)
    }

    /// Brings the levels of a node, and of all that contain it, up to date.
    pub(super) fn relevel(&mut self, first: u32, report: &mut Report<'_>) -> Option<()> {
        let mut waiting = vec![first];
        while let Some(id) = waiting.pop() {
            let levels = self.levels_of(id);
            let node = self.node_mut(id);
            if node.levels == levels {
                continue;
            }
            node.levels = levels;
            waiting.extend(&node.parents);
            let limit = self.limits.depth;
            if let Some(name) = self.nodes[id as usize].name.as_ref().filter(|_| levels > limit) {
                report.findings.push(too_deep("group", name, limit, report.span));
                return None;
            }
        }
        Some(())
    }

    /// `inner`, `outer`, and what is between them: each contains the next, and the last one `inner`.
    /// [`None`] where `outer` does not contain `inner`.
    pub(super) fn cycle_of(&self, inner: u32, outer: u32) -> Option<Vec<u32>> {
        let mut below = HashMap::from([(inner, inner)]);
        let mut waiting = vec![inner];
        while let Some(id) = waiting.pop() {
            if id == outer {
                let mut path = vec![inner];
                let mut next = outer;
                while next != inner {
                    path.push(next);
                    next = *below.get(&next)?;
                }
                return Some(path);
            }
            for &parent in &self.nodes[id as usize].parents {
                below.entry(parent).or_insert_with(|| {
                    waiting.push(parent);
                    id
                });
            }
        }
        None
    }

    pub(super) fn cycle(&self, path: &[u32], span: Span) -> Problem {
        let name = |&id: &u32| self.nodes[id as usize].name.as_deref().unwrap_or("");
        contains_itself("group", &path.iter().map(name).collect::<Vec<_>>(), span)
    }
}
