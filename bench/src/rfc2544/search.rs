//! The four measures of one frame size.

use std::time::{Duration, Instant};

use bulkhead_pipeline::port::Port;

use super::report::{LatencyAt, Line, LossAt};
use super::tester::{Tester, Trial};
use super::{Options, Size};
use crate::rfc::report::Percentiles;

/// Shares of the throughput at which latency is taken, in percent.
const LOADS: [u32; 3] = [10, 50, 90];

/// What a burst has at least.
const SHORTEST_BURST: u64 = 64;

/// A tester with frames of one size loaded.
pub(super) struct Search<'a, P: Port> {
    tester: &'a mut Tester<P>,
    options: &'a Options,
    size: Size,
    began: Instant,
    /// For how long void trials are repeated.
    patience: Duration,
    trials: usize,
    void: usize,
    undecided: usize,
}

/// The highest rate without loss.
struct Throughput {
    rate: f64,
    busy: f64,
    limited_by_tester: bool,
}

impl<'a, P: Port + Send + 'static> Search<'a, P> {
    /// Void trials are repeated for three fifths of `time`: what is left is enough for one of each.
    pub(super) fn new(
        tester: &'a mut Tester<P>,
        options: &'a Options,
        size: Size,
        time: Duration,
    ) -> Self {
        let (began, patience) = (Instant::now(), time * 3 / 5);
        Self { tester, options, size, began, patience, trials: 0, void: 0, undecided: 0 }
    }

    /// Measures everything, and says how far it is.
    pub(super) fn line(mut self) -> Line {
        let highest = self.highest_rate();
        self.tell(&format!("{:.2} million frames a second come through at most", highest / 1.25e6));
        let throughput = self.throughput(highest);
        self.tell(&format!("{:.2} million frames a second without loss", throughput.rate / 1e6));
        let latency = LOADS.map(|percent| self.latency(percent, throughput.rate)).into();
        self.tell("latency is taken");
        let (burst, burst_is_limited) = self.back_to_back(highest);
        self.tell(&format!("{burst} frames back to back"));
        let loss = self.loss(highest);
        self.tell("loss is taken");
        let mean_bits = self.size.mean_bytes() * 8.0;
        Line {
            size: self.size.to_string(),
            frame_bytes: self.size.mean_bytes(),
            over: self.options.over.name(),
            throughput_fps: throughput.rate,
            throughput_mbps: throughput.rate * mean_bits / 1e6,
            worker_busy_percent: throughput.busy * 100.0,
            limited_by_tester: throughput.limited_by_tester,
            highest_fps: highest,
            latency,
            back_to_back_frames: burst,
            back_to_back_limited_by_tester: burst_is_limited,
            loss,
            trials: self.trials,
            void_trials: self.void,
            undecided: self.undecided,
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }

    fn tell(&self, what: &str) {
        let (size, trials, void) = (self.size, self.trials, self.void);
        let seconds = self.began.elapsed().as_secs();
        eprintln!("{size}: {what} ({trials} trials, {void} of them void, {seconds} s)");
    }

    /// The rate that stands for the medium's: a quarter more than comes through when the tester floods.
    fn highest_rate(&mut self) -> f64 {
        /// More than a cable takes; what it refuses costs the tester little.
        const FLOOD: f64 = 5e7;
        /// Where the machine let the worker do nothing.
        const LEAST: f64 = 1e4;
        let frames = self.frames(FLOOD);
        let floods = (0..3).map(|_| self.tester.trial(FLOOD, frames, false).received_rate);
        floods.fold(LEAST, f64::max) * 1.25
    }

    /// The least disturbed of some trials at a rate: the first that is not void, or, where attempts or
    /// time run out, the one that lost least.
    fn trial(&mut self, rate: f64, frames: u64, with_latency: bool) -> Trial {
        let (mut best, mut attempts): (Option<Trial>, _) = (None, 0);
        loop {
            let trial = self.tester.trial(rate, frames, with_latency);
            (self.trials, attempts) = (self.trials + 1, attempts + 1);
            // Latency suffers from what costs no frame, too.
            let is_void = trial.is_disturbed() && (trial.lost() > 0 || with_latency);
            if !is_void {
                return trial;
            }
            self.void += 1;
            let least = match best {
                Some(best) if best.lost() <= trial.lost() => best,
                _ => trial,
            };
            if attempts >= self.options.attempts || self.began.elapsed() > self.patience {
                self.undecided += 1;
                return least;
            }
            best = Some(least);
        }
    }

    fn frames(&self, rate: f64) -> u64 {
        ((rate * self.options.seconds) as u64).max(1)
    }

    fn throughput(&mut self, highest: f64) -> Throughput {
        let mut found = Throughput { rate: 0.0, busy: 0.0, limited_by_tester: false };
        let (mut low, mut high) = (0.0, highest);
        let mut next = highest;
        // Each trial halves what is unknown.
        while high - low > high * self.options.resolution_percent / 100.0 {
            let trial = self.trial(next, self.frames(next), false);
            if trial.lost() == 0 {
                if trial.offered_rate > found.rate {
                    found.rate = trial.offered_rate.min(next);
                    found.busy = trial.busy;
                }
                found.limited_by_tester = next >= highest || trial.offered_rate < 0.95 * next;
                low = next;
            } else {
                high = next;
            }
            next = f64::midpoint(low, high);
        }
        found
    }

    fn latency(&mut self, percent: u32, throughput: f64) -> LatencyAt {
        let rate = throughput * f64::from(percent) / 100.0;
        let trial = self.trial(rate, self.frames(rate), true);
        LatencyAt {
            load_percent: percent,
            offered_fps: trial.offered_rate,
            lost: trial.lost(),
            waited_us: trial.waited_ns as f64 / 1e3,
            latency: trial.latency_ns.as_ref().map(Percentiles::of).unwrap_or_default(),
        }
    }

    /// The longest burst of which nothing is lost, and whether it could be no longer.
    fn back_to_back(&mut self, highest: f64) -> (u64, bool) {
        let longest = self.frames(highest).max(SHORTEST_BURST);
        let (mut low, mut high) = (0, longest);
        let mut next = longest;
        while high - low > (high / 50).max(1) {
            let trial = self.trial(f64::INFINITY, next, false);
            if trial.lost() == 0 && trial.offered < next {
                // The tester took too long to send more.
                return (trial.offered, true);
            }
            if trial.lost() == 0 {
                low = next;
            } else {
                high = next;
            }
            next = low.midpoint(high);
            if next < SHORTEST_BURST {
                break;
            }
        }
        (low, low == longest)
    }

    fn loss(&mut self, highest: f64) -> Vec<LossAt> {
        let mut out: Vec<LossAt> = Vec::new();
        for percent in (10..=100).rev().step_by(10) {
            let rate = highest * f64::from(percent) / 100.0;
            let trial = self.trial(rate, self.frames(rate), false);
            out.push(LossAt {
                rate_percent: percent,
                offered_fps: trial.offered_rate,
                received_fps: trial.received_rate,
                lost_percent: trial.lost() as f64 * 100.0 / trial.offered as f64,
                waited_us: trial.waited_ns as f64 / 1e3,
            });
            if out.iter().rev().take(2).filter(|loss| loss.lost_percent == 0.0).count() == 2 {
                break;
            }
        }
        out
    }
}
