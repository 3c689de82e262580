//! What an analysis may take before it says that it did not finish.

/// Steps left. Unlike time they are the same on every machine and in every run, so that an answer
/// does not depend on the load; a step takes a few nanoseconds.
#[derive(Debug)]
pub(super) struct Work {
    left: usize,
}

/// The steps are used up: what was asked is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooMuchWork;

impl Work {
    pub(super) fn new(steps: usize) -> Self {
        Self { left: steps }
    }

    /// Takes `steps`.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), TooMuchWork> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(TooMuchWork)
            }
        }
    }

    /// Does `task` with at most `steps` of what is left; what it leaves of them stays.
    pub(super) fn share<T>(&mut self, steps: usize, task: impl FnOnce(&mut Self) -> T) -> T {
        let mut part = Self { left: steps.min(self.left) };
        let before = part.left;
        let result = task(&mut part);
        self.left -= before - part.left;
        result
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }
}
