//! The compiled form as workers read it: copies that are published, read no more, and written again.

use std::sync::Arc;

use crate::classifier::{Classifier, Written};

/// The copies that were handed out, each with what it misses.
#[derive(Debug, Default)]
pub(super) struct Copies {
    all: Vec<(Arc<Classifier>, Written)>,
}

/// Copies that are kept to be written again: one is read, one may be held by a worker that has not
/// looked for a newer one yet, one is written.
const KEPT: usize = 3;

impl Copies {
    /// A copy that is equal to `current`, of which `written` is what has been written since the last
    /// call. It stays as it is for as long as anybody holds it.
    pub(super) fn publish(&mut self, current: &Classifier, written: &Written) -> Arc<Classifier> {
        for (_, misses) in &mut self.all {
            misses.extend(written);
        }
        for (copy, misses) in &mut self.all {
            if let Some(free) = Arc::get_mut(copy) {
                free.catch_up(current, misses);
                *misses = Written::default();
                return copy.clone();
            }
        }
        let copy = Arc::new(current.clone());
        if self.all.len() == KEPT {
            // The oldest is still held somewhere: it goes when that lets go of it.
            self.all.remove(0);
        }
        self.all.push((copy.clone(), Written::default()));
        copy
    }

    /// Writes none of the copies again: they have become too different.
    pub(super) fn forget(&mut self) {
        self.all.clear();
    }
}
