//! The compiled form as workers read it: copies that are published, read no more, and written again.

use std::sync::Arc;

use crate::classifier::{Classifier, Written};

/// The copies that were handed out, each with what it misses, in the order in which they were last.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<(Arc<Classifier>, Written)>);

/// Copies that are kept to be written again: one is read, one may be held by a worker that has not
/// looked for a newer one yet, one is written.
const KEPT: usize = 3;

impl Copies {
    /// A copy that is equal to `current`, of which `written` is what has been written since the last
    /// call. It stays as it is for as long as anybody holds it.
    pub(super) fn publish(&mut self, current: &Classifier, written: &Written) -> Arc<Classifier> {
        let Self(all) = self;
        for (_, misses) in &mut *all {
            misses.extend(written);
        }
        // Of those that nobody holds the one that misses most, or it would miss ever more.
        for (place, (copy, misses)) in all.iter_mut().enumerate() {
            if let Some(free) = Arc::get_mut(copy) {
                free.catch_up(current, misses);
                *misses = Written::default();
                let copy = copy.clone();
                all[place..].rotate_left(1);
                return copy;
            }
        }
        // The first time all of them are made, so that no edit has to.
        while all.len() + 1 < KEPT {
            all.push((Arc::new(current.clone()), Written::default()));
        }
        let copy = Arc::new(current.clone());
        if all.len() == KEPT {
            // The oldest is still held somewhere: it goes when that lets go of it.
            all.remove(0);
        }
        all.push((copy.clone(), Written::default()));
        copy
    }

    /// What was published last.
    pub(super) fn last(&self) -> Option<Arc<Classifier>> {
        self.0.last().map(|(copy, _)| copy.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Compiler, Limits};
    use crate::policy::Policy;
    use crate::policy::edit::Edit;
    use crate::syntax::document::{Addresses, Member};

    /// A policy that an address comes to and goes from, published each time. Returns the longest text
    /// of what a copy misses, after each of `edits`.
    fn missed(edits: u32, mut published: impl FnMut(Arc<Classifier>)) -> Vec<usize> {
        let text = "version: 1\ngroups:\n  a: [10.0.0.1, 10.2.0.0/16]\n  b: [10.9.0.1]\nrules:\n  \
                    - {name: one, from: a, to: b, service: any, action: allow}\n";
        let mut policy = Policy::parse(text).unwrap();
        let mut compiler = Compiler::new(&policy, &Limits::default()).unwrap();
        published(compiler.publish());
        let edit = |n: u32| {
            let address = std::net::IpAddr::V4((0x0a03_0000 + n / 2 % 8).into());
            let member = Member::Addresses(Addresses::One(address));
            match n % 2 {
                0 => Edit::AddMember { group: "a".into(), member },
                _ => Edit::RemoveMember { group: "a".into(), member },
            }
        };
        let after = |n| {
            let (edited, delta) = policy.edited(&edit(n)).unwrap();
            compiler.edit(&edited, &delta).unwrap();
            policy = edited;
            published(compiler.publish());
            let copies = compiler.copies.0.iter();
            copies.map(|(_, misses)| format!("{misses:?}").len()).max().unwrap()
        };
        (0..edits).map(after).collect()
    }

    #[test]
    fn no_copy_misses_ever_more_while_workers_keep_up() {
        let mut held = None;
        let missed = missed(2_000, |published| held = Some(published));
        let [early, late] = [&missed[..100], &missed[1_900..]].map(|some| some.iter().max());
        assert!(late <= early, "{late:?} after {early:?}");
    }

    #[test]
    fn a_worker_that_hangs_does_not_make_a_log_longer_than_the_tables() {
        let mut held = Vec::new();
        let missed = missed(20_000, |published| {
            held.push(published);
            // The first one is held for good, and the last one as ever.
            held.drain(1..held.len().max(2) - 1);
        });
        let [early, late] = [&missed[..5_000], &missed[15_000..]].map(|some| some.iter().max());
        assert!(late <= early, "{late:?} after {early:?}");
    }
}
