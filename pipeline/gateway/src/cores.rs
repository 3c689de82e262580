//! Which processor core each worker has, and which are left for everything else.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tracing::warn;

use crate::config::Poll;

/// Who runs where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cores {
    /// The core of each worker; [`None`] where there are too few to give it one.
    pub workers: Vec<Option<usize>>,
    /// The cores of all control threads.
    pub control: Vec<usize>,
}

impl Cores {
    /// Shares out the cores `allowed` to this process: to `workers` workers those `wanted`, or, where
    /// none are, the last ones, because the kernel's own work gathers on the first.
    ///
    /// # Errors
    ///
    /// A wanted core that this process may not use.
    pub fn share(allowed: &[usize], wanted: &[usize], workers: usize) -> Result<Self, String> {
        if let Some(core) = wanted.iter().find(|core| !allowed.contains(core)) {
            return Err(format!(
                "core {core} of `cores` is not one that this process may use ({allowed:?}): \
                 correct `cores`, or the process's CPU affinity"
            ));
        }
        let taken: Vec<usize> = match wanted {
            [] if workers < allowed.len() => allowed[allowed.len() - workers..].to_vec(),
            wanted => wanted.to_vec(),
        };
        let left: Vec<usize> = allowed.iter().copied().filter(|c| !taken.contains(c)).collect();
        Ok(Self {
            workers: (0..workers).map(|worker| taken.get(worker).copied()).collect(),
            control: if left.is_empty() { allowed.to_vec() } else { left },
        })
    }

    /// Warns where control threads and workers would get into each other's way.
    pub fn warn(&self, poll: Poll) {
        let shared = self.workers.iter().any(|core| match core {
            Some(core) => self.control.contains(core),
            None => true,
        });
        if shared && poll == Poll::Busy {
            warn!(
                "`poll = \"busy\"` without a core of its own for every worker: workers and control \
                 threads take turns, which costs packets; set `poll = \"adaptive\"` or free a core"
            );
        }
    }
}

/// The cores that the calling thread may run on.
///
/// # Errors
///
/// What the kernel says.
pub fn allowed() -> Result<Vec<usize>, String> {
    let set = sched_getaffinity(None)
        .map_err(|error| format!("cannot ask which cores this process may use: {error}"))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// Keeps the calling thread, and those that it starts from now on, on `cores`.
///
/// # Errors
///
/// What the kernel says.
pub fn keep_to(cores: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(None, &set)
        .map_err(|error| format!("cannot keep to the cores {cores:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(allowed: &[usize], wanted: &[usize], workers: usize) -> Cores {
        Cores::share(allowed, wanted, workers).unwrap()
    }

    #[test]
    fn workers_take_the_last_cores_and_control_the_others() {
        let cores = share(&[0, 1, 2, 3], &[], 2);
        assert_eq!(cores.workers, [Some(2), Some(3)]);
        assert_eq!(cores.control, [0, 1]);
    }

    #[test]
    fn wanted_cores_are_given_or_refused() {
        let cores = share(&[0, 1, 2, 3], &[0, 2], 2);
        assert_eq!((cores.workers, cores.control), (vec![Some(0), Some(2)], vec![1, 3]));
        assert!(Cores::share(&[0, 1], &[7], 1).unwrap_err().contains("core 7"));
    }

    #[test]
    fn where_cores_are_few_nobody_is_pinned_and_control_still_runs() {
        let cores = share(&[5], &[], 1);
        assert_eq!((cores.workers, cores.control), (vec![None], vec![5]));
        let cores = share(&[0, 1], &[0, 1], 2);
        assert_eq!((cores.workers, cores.control), (vec![Some(0), Some(1)], vec![0, 1]));
    }

    #[test]
    fn this_process_may_use_some_core() {
        let cores = allowed().unwrap();
        assert!(!cores.is_empty());
        keep_to(&cores).unwrap();
    }
}
