//! How many flows each source may open in a second, in fixed memory.
//!
//! One host that scans, or floods, must not take the flow table or the classifier from the others. So
//! every source has a bucket of tokens; a flow that it opens takes one, and a packet that the policy
//! forbids takes [`DENIED_PER_TOKEN`]th of one. An empty bucket refuses what would open a flow,
//! before the classifier is asked; packets of known flows take nothing.
//!
//! Buckets are not kept for sources but for their keyed hashes, two cells each, and the fuller one
//! counts: a source never has less than its due, unless others share *both* cells with it. With `n`
//! sources that have emptied theirs an innocent one is refused with probability `(n / width)^2`, and
//! outsiders cannot aim. A source is an address in its VLAN *and* the side of the wire that its packet
//! came from, so that who forges an address of the other side spends nothing of its owner's.
//!
//! A cell holds one number: when the tokens that were taken will have been earned.

use crate::intrinsics::prefetch;

/// Denied packets that cost as much as one new flow: they take nothing but time, and there is
/// harmless traffic, such as a stream that no rule names, of thousands in a second.
pub const DENIED_PER_TOKEN: u64 = 16;

/// How long an empty bucket takes to fill.
const FULL_NS: u64 = 2_000_000_000;

/// The buckets of all sources of one worker.
pub(super) struct NewFlowBudget {
    rows: [Vec<u64>; 2],
    mask: usize,
    interval_ns: u64,
}

impl NewFlowBudget {
    /// Buckets that earn `per_second` tokens (at least 1, and at most 10^9 over 16) and hold as many
    /// as two seconds earn, beside a table of `flows`.
    pub(super) fn new(per_second: u32, flows: usize) -> Self {
        let width = (flows / 8).next_power_of_two().clamp(1 << 12, 1 << 20);
        Self {
            rows: [vec![0; width], vec![0; width]],
            mask: width - 1,
            interval_ns: (1_000_000_000 / u64::from(per_second.max(1))).max(DENIED_PER_TOKEN),
        }
    }

    #[inline]
    pub(super) fn prefetch(&self, source: u64) {
        let [a, b] = self.places(source);
        prefetch(&self.rows[0][a]);
        prefetch(&self.rows[1][b]);
    }

    /// Whether there is a token for the source.
    #[inline]
    pub(super) fn has(&self, source: u64, now_ns: u64) -> bool {
        self.earned_at(source).max(now_ns) + self.interval_ns <= now_ns + FULL_NS
    }

    /// Takes a token for a new flow. False, and nothing taken, where there is none.
    pub(super) fn take(&mut self, source: u64, now_ns: u64) -> bool {
        self.spend(source, now_ns, self.interval_ns)
    }

    /// Takes a share of a token for a packet that is denied.
    pub(super) fn take_share(&mut self, source: u64, now_ns: u64) {
        self.spend(source, now_ns, self.interval_ns / DENIED_PER_TOKEN);
    }

    fn spend(&mut self, source: u64, now_ns: u64, amount_ns: u64) -> bool {
        if !self.has(source, now_ns) {
            return false;
        }
        let earned_at = self.earned_at(source).max(now_ns) + amount_ns;
        let places = self.places(source);
        for (row, place) in self.rows.iter_mut().zip(places) {
            row[place] = row[place].max(earned_at);
        }
        true
    }

    /// The cell that took less.
    #[inline]
    fn earned_at(&self, source: u64) -> u64 {
        let [a, b] = self.places(source);
        self.rows[0][a].min(self.rows[1][b])
    }

    #[inline]
    fn places(&self, source: u64) -> [usize; 2] {
        [source as usize & self.mask, (source >> 32) as usize & self.mask]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const SOURCE: u64 = 0x1234_5678_9abc_def0;

    fn taken(budget: &mut NewFlowBudget, source: u64, now_ns: u64) -> usize {
        (0..1_000_000).take_while(|_| budget.take(source, now_ns)).count()
    }

    #[test]
    fn a_bucket_holds_two_seconds_and_fills_again() {
        for per_second in [1, 3, 500, 5000, 40_000] {
            let mut budget = NewFlowBudget::new(per_second, 1 << 18);
            let full = 2 * per_second as usize;
            // 3 a second earn every 333,333,333 ns, so that six take a little less than two seconds.
            assert_eq!(taken(&mut budget, SOURCE, 0), full, "{per_second}");
            assert!(!budget.has(SOURCE, 0) && !budget.take(SOURCE, 0));
            assert_eq!(taken(&mut budget, SOURCE, SECOND_NS + 5), full / 2);
            assert_eq!(taken(&mut budget, SOURCE, 3600 * SECOND_NS), full, "no more than full");
        }
    }

    #[test]
    fn a_source_spends_its_own() {
        let mut budget = NewFlowBudget::new(10, 1 << 18);
        assert_eq!(taken(&mut budget, SOURCE, 0), 20);
        // One cell in common is none.
        for other in [SOURCE ^ 1, SOURCE ^ (1 << 32), !SOURCE] {
            assert_eq!(taken(&mut budget, other, 0), 20, "{other:x}");
        }
    }

    #[test]
    fn denied_packets_cost_a_sixteenth() {
        let mut budget = NewFlowBudget::new(1000, 1 << 18);
        for _ in 0..DENIED_PER_TOKEN * 500 {
            budget.take_share(SOURCE, 0);
        }
        assert_eq!(taken(&mut budget, SOURCE, 0), 1500);
        for _ in 0..100 {
            budget.take_share(SOURCE, 0);
        }
        assert_eq!(taken(&mut budget, SOURCE, SECOND_NS), 1000, "an empty one owes nothing");
    }

    #[test]
    fn a_rate_beyond_all_hosts_refuses_none() {
        let mut budget = NewFlowBudget::new(u32::MAX, 1 << 18);
        assert!((0..100_000_u64).all(|nth| budget.take(SOURCE, nth * 100)));
    }
}
