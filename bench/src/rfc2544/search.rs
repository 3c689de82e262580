//! The four measures of one frame size.

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
    trials: usize,
    void: usize,
}

/// The highest rate without loss.
struct Throughput {
    rate: f64,
    busy: f64,
    limited_by_tester: bool,
}

impl<'a, P: Port + Send + 'static> Search<'a, P> {
    pub(super) fn new(tester: &'a mut Tester<P>, options: &'a Options, size: Size) -> Self {
        Self { tester, options, size, trials: 0, void: 0 }
    }

    /// Measures everything.
    pub(super) fn line(mut self) -> Line {
        let highest = self.highest_rate();
        let throughput = self.throughput(highest);
        let latency = LOADS.map(|percent| self.latency(percent, throughput.rate)).into();
        let (burst, burst_is_limited) = self.back_to_back(highest);
        let loss = self.loss(highest);
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
        }
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

    /// The least disturbed of some trials at a rate: the first that is not void.
    fn trial(&mut self, rate: f64, frames: u64, with_latency: bool) -> Trial {
        let mut best: Option<Trial> = None;
        for _ in 0..self.options.attempts {
            let trial = self.tester.trial(rate, frames, with_latency);
            self.trials += 1;
            // Latency suffers from what costs no frame, too.
            let is_void = trial.is_disturbed() && (trial.lost() > 0 || with_latency);
            self.void += usize::from(is_void);
            if !is_void {
                return trial;
            }
            if best.as_ref().is_none_or(|best| trial.lost() < best.lost()) {
                best = Some(trial);
            }
        }
        match best {
            Some(trial) => trial,
            None => self.tester.trial(rate, frames, with_latency),
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
            if self.trial(f64::INFINITY, next, false).lost() == 0 {
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
