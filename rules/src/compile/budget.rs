//! What a compilation may use, and the error that says what used it up.

use std::fmt;
use std::time::{Duration, Instant};

use crate::lanes::Words;

/// What [`super::compile`] may use before it gives up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of the compiled classifier and of the tables that lead to it; at most 4 GiB.
    pub memory_bytes: usize,
    /// Wall-clock time.
    pub time: Duration,
}

impl Default for Limits {
    /// 1 GiB and 30 seconds: several times what 100,000 rules take.
    fn default() -> Self {
        Self { memory_bytes: 1 << 30, time: Duration::from_secs(30) }
    }
}

/// A policy that does not fit the limits. Its text names the endpoints, services or rules that cost
/// most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompileError {
    kind: Kind,
    stage: &'static str,
    costliest: Vec<Cost>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Memory { limit_bytes: usize },
    Time { limit: Duration },
    Numbers,
}

/// Something in a policy, and its share of the work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cost {
    /// For instance `` endpoint `hmi` ``.
    pub(crate) what: String,
    /// Units of [`Self::unit`].
    pub(crate) amount: u64,
    /// What is counted, in plural.
    pub(crate) unit: &'static str,
}

impl CompileError {
    /// Whether it is the limit of memory that was reached.
    pub fn is_for_memory(&self) -> bool {
        matches!(self.kind, Kind::Memory { .. })
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the policy is too costly to compile: {} ", self.stage)?;
        match self.kind {
            Kind::Memory { limit_bytes } => {
                write!(f, "needs more than the limit of {} MiB", limit_bytes >> 20)?;
            }
            Kind::Time { limit } => {
                write!(f, "takes longer than the limit of {} ms", limit.as_millis())?;
            }
            Kind::Numbers => {
                write!(f, "takes more than the {MOST_NUMBERS} numbers that there are")?
            }
        }
        for (index, cost) in self.costliest.iter().enumerate() {
            let lead = if index == 0 { "; what costs most: " } else { ", " };
            write!(f, "{lead}{} ({} {})", cost.what, cost.amount, cost.unit)?;
        }
        Ok(())
    }
}

impl std::error::Error for CompileError {}

/// That a limit was reached; who reports it adds what costs most.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exceeded {
    Memory,
    /// The time, or the work that stands for it.
    Time,
    /// The numbers of services or of wide parts: [`MOST_NUMBERS`].
    Numbers,
}

/// The services of rules, and the wide parts of a side, have numbers of 16 bits in the lists.
pub(crate) const MOST_NUMBERS: usize = 1 << 16;

/// The running account of one compilation.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    started: Instant,
    spent_bytes: usize,
    until_clock: usize,
    work_left: usize,
}

/// Units of work between two looks at the clock: about a millisecond.
const WORK_PER_LOOK: usize = 1 << 16;

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self::with_work(limits, usize::MAX)
    }

    /// One that ends after `work` steps too, which, unlike time, are the same on every machine.
    pub(crate) fn with_work(mut limits: Limits, work: usize) -> Self {
        // Lookups reach so much of each table and no more.
        limits.memory_bytes = limits.memory_bytes.min(Words::MOST_BYTES);
        let started = Instant::now();
        Self { limits, started, spent_bytes: 0, until_clock: 0, work_left: work }
    }

    /// That of an edit, which begins with what is held already.
    pub(crate) fn resume(limits: Limits, spent_bytes: usize) -> Self {
        Self { spent_bytes, ..Self::new(limits) }
    }

    /// The same, but its time began with that of others, which are to end together.
    pub(crate) fn since(self, started: Instant) -> Self {
        Self { started, ..self }
    }

    /// Bytes that are held.
    pub(crate) fn spent_bytes(&self) -> usize {
        self.spent_bytes
    }

    /// Bytes that may still be held.
    pub(crate) fn left_bytes(&self) -> usize {
        self.limits.memory_bytes.saturating_sub(self.spent_bytes)
    }

    /// Whether half of the memory is left at least.
    pub(crate) fn is_ample(&self) -> bool {
        self.left_bytes() >= self.limits.memory_bytes / 2
    }

    /// Looks at the clock now, whatever has been spent.
    pub(crate) fn check_time(&self) -> Result<(), Exceeded> {
        if self.started.elapsed() > self.limits.time { Err(Exceeded::Time) } else { Ok(()) }
    }

    /// Accounts for `units` steps of work and `bytes` of memory that stay allocated.
    pub(crate) fn spend(&mut self, units: usize, bytes: usize) -> Result<(), Exceeded> {
        let spent_bytes = self.spent_bytes.saturating_add(bytes);
        if spent_bytes > self.limits.memory_bytes {
            return Err(Exceeded::Memory);
        }
        self.spent_bytes = spent_bytes;
        let Some(work_left) = self.work_left.checked_sub(units.max(1)) else {
            self.work_left = 0;
            return Err(Exceeded::Time);
        };
        self.work_left = work_left;
        if let Some(left) = self.until_clock.checked_sub(units.max(1)) {
            self.until_clock = left;
            return Ok(());
        }
        self.until_clock = WORK_PER_LOOK;
        self.check_time()
    }

    /// Returns memory that was accounted for and is no longer held.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.spent_bytes = self.spent_bytes.saturating_sub(bytes);
    }

    /// The error for a limit that `stage` reached: the three largest of `costs` are named.
    pub(crate) fn error(
        &self,
        exceeded: Exceeded,
        stage: &'static str,
        mut costs: Vec<Cost>,
    ) -> CompileError {
        costs.retain(|cost| cost.amount > 0);
        costs.sort_by(|a, b| b.amount.cmp(&a.amount).then_with(|| a.what.cmp(&b.what)));
        costs.truncate(3);
        let kind = match exceeded {
            Exceeded::Memory => Kind::Memory { limit_bytes: self.limits.memory_bytes },
            Exceeded::Time => Kind::Time { limit: self.limits.time },
            Exceeded::Numbers => Kind::Numbers,
        };
        CompileError { kind, stage, costliest: costs }
    }
}
