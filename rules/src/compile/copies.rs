//! The compiled form as workers read it: copies that are published, read no more, and written again.

use std::sync::Arc;

use crate::classifier::{Classifier, Written};

/// The copies that were handed out, each with what it misses.
#[derive(Debug, Default)]
pub(super) struct Copies {
    all: Vec<(Arc<Classifier>, Written)>,
    /// The place of the one that was published last.
    last: usize,
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
        for (place, (copy, misses)) in self.all.iter_mut().enumerate() {
            if let Some(free) = Arc::get_mut(copy) {
                free.catch_up(current, misses);
                *misses = Written::default();
                self.last = place;
                return copy.clone();
            }
        }
        // The first time all of them are made, so that no edit has to.
        while self.all.len() + 1 < KEPT {
            self.all.push((Arc::new(current.clone()), Written::default()));
        }
        let copy = Arc::new(current.clone());
        if self.all.len() == KEPT {
            // The oldest is still held somewhere: it goes when that lets go of it.
            self.all.remove(0);
        }
        self.last = self.all.len();
        self.all.push((copy.clone(), Written::default()));
        copy
    }

    /// What was published last.
    pub(super) fn last(&self) -> Option<Arc<Classifier>> {
        self.all.get(self.last).map(|(copy, _)| copy.clone())
    }
}
