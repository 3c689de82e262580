//! When things are due, in ticks of the time-stamp counter.

/// A schedule with one event every so many ticks. The first is due at once.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Pace {
    began: u64,
    /// Ticks between two events; zero means that all are due at once.
    step: f64,
}

impl Pace {
    /// `rate` events a second from `began` on, by a counter of `hertz`. An infinite rate is allowed.
    pub(crate) fn new(began: u64, rate: f64, hertz: f64) -> Self {
        Self { began, step: hertz / rate }
    }

    /// How many events are due by `now`, of `total`.
    #[inline]
    pub(crate) fn due(&self, now: u64, total: u64) -> u64 {
        let since = now.saturating_sub(self.began) as f64;
        // A conversion to an integer saturates: without a step all are due.
        ((since / self.step) as u64).saturating_add(1).min(total)
    }

    /// When the `nth` event is due, counted from zero.
    #[inline]
    pub(crate) fn at(&self, nth: u64) -> u64 {
        self.began + (nth as f64 * self.step) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_one_step_after_the_other() {
        let pace = Pace::new(1_000, 100.0, 1e6);
        assert_eq!((pace.at(0), pace.at(3)), (1_000, 31_000));
        assert_eq!((pace.due(1_000, 9), pace.due(10_999, 9), pace.due(11_000, 9)), (1, 1, 2));
        assert_eq!(pace.due(u64::MAX, 9), 9);
        let flood = Pace::new(1_000, f64::INFINITY, 1e6);
        assert_eq!((flood.due(1_001, 9), flood.at(8)), (9, 1_000));
    }
}
