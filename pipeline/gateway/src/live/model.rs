//! What is known of the gateway: the last status, the rates since the one before, and since when it is
//! gone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::failure::bypassed::Bypassed;
use crate::status::{Counted, Status};

/// Looks that the course of throughput is made of.
const REMEMBERED: usize = 240;

/// What is known of the gateway.
#[derive(Debug, Default)]
pub struct Model {
    /// The last status that it told.
    pub status: Option<Box<Status>>,
    /// What happened in a second, between the last two.
    pub rates: Rates,
    /// Packets a second that came in, the last one last.
    pub course: VecDeque<u64>,
    /// Since when it does not answer, and why.
    pub gone: Option<(Duration, String)>,
    /// Who bypasses wires meanwhile.
    pub bypassed: Option<Bypassed>,
    /// How often it was started anew while this looked.
    pub restarts: u32,
    /// When it told that.
    taken: Option<Duration>,
    /// When it answered last.
    answered: Option<Duration>,
}

/// What happened in a second.
#[derive(Clone, PartialEq, Debug, Default)]
#[allow(
    missing_docs,
    reason = "the fields are those of `TrafficStatus` and `FlowsStatus`, a second"
)]
pub struct Rates {
    pub received: f64,
    pub received_bits: f64,
    pub transmitted: f64,
    pub transmitted_bits: f64,
    pub forwarded: f64,
    pub dropped: f64,
    pub would_drop: f64,
    pub rejected: f64,
    pub opened: f64,
    /// By drop reason.
    pub drops: BTreeMap<String, f64>,
    /// Likewise, on wires that observe.
    pub would_drops: BTreeMap<String, f64>,
    /// By rule.
    pub rules: BTreeMap<String, f64>,
    /// For each wire, inside first: packets and bits that came in, packets and bits that went out.
    pub ports: Vec<[[f64; 4]; 2]>,
}

impl Model {
    /// Takes in what a look at the time `at` came to.
    pub fn take(&mut self, at: Duration, answer: Result<Box<Status>, String>) {
        let now = match answer {
            Ok(now) => now,
            Err(error) => {
                let since = self.gone.as_ref().map_or(at, |(since, _)| *since);
                self.gone = Some((since, error));
                self.rates = Rates::default();
                return;
            }
        };
        let before = self.status.take();
        // A gateway that was started anew counts from zero.
        let is_same = before.as_ref().is_some_and(|before| {
            before.uptime_s <= now.uptime_s
                && before.traffic.received.packets <= now.traffic.received.packets
        });
        if before.is_some() && !is_same {
            self.restarts += 1;
        }
        self.rates = match (before.filter(|_| is_same), self.taken) {
            (Some(before), Some(then)) if at > then => {
                Rates::between(&before, &now, (at - then).as_secs_f64())
            }
            _ => Rates::default(),
        };
        if self.course.len() == REMEMBERED {
            self.course.pop_front();
        }
        self.course.push_back(self.rates.received as u64);
        (self.status, self.taken, self.gone) = (Some(now), Some(at), None);
        self.answered = Some(at);
    }

    /// The same of a view that may be `paused`: what it shows then stays; that the gateway is gone, or is
    /// there again, does not wait.
    pub fn look(&mut self, at: Duration, answer: Result<Box<Status>, String>, paused: bool) {
        if answer.is_ok() {
            self.answered = Some(at);
        }
        if !paused || answer.is_err() || self.gone.is_some() {
            self.take(at, answer);
        }
    }

    /// For how long the gateway has not answered: it is gone, or it hangs.
    pub fn silent_for(&self, at: Duration, interval: Duration) -> Option<Duration> {
        if let Some((since, _)) = &self.gone {
            return Some(at.saturating_sub(*since));
        }
        let silent = at.saturating_sub(self.answered.unwrap_or_default());
        (silent > interval * 2 + Duration::from_secs(2)).then_some(silent)
    }
}

impl Rates {
    fn between(before: &Status, now: &Status, seconds: f64) -> Self {
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let (a, b) = (&before.traffic, &now.traffic);
        let ports = now.wires.iter().map(|wire| {
            let earlier = before.wires.iter().find(|earlier| earlier.name == wire.name);
            let sides = [(|w| &w.inside) as Side, |w| &w.outside];
            sides.map(|side| {
                let Some(earlier) = earlier.map(side) else { return [0.0; 4] };
                let port = side(wire);
                [
                    rate(earlier.received, port.received),
                    rate(earlier.received_bytes, port.received_bytes) * 8.0,
                    rate(earlier.transmitted, port.transmitted),
                    rate(earlier.transmitted_bytes, port.transmitted_bytes) * 8.0,
                ]
            })
        });
        Self {
            received: rate(a.received.packets, b.received.packets),
            received_bits: rate(a.received.bytes, b.received.bytes) * 8.0,
            transmitted: rate(a.transmitted.packets, b.transmitted.packets),
            transmitted_bits: rate(a.transmitted.bytes, b.transmitted.bytes) * 8.0,
            forwarded: rate(a.forwarded.packets, b.forwarded.packets),
            dropped: rate(a.dropped.packets, b.dropped.packets),
            would_drop: rate(a.would_drop.packets, b.would_drop.packets),
            rejected: rate(a.rejected.packets, b.rejected.packets),
            opened: rate(before.flows.opened, now.flows.opened),
            drops: each(&before.drops, &now.drops, seconds),
            would_drops: each(&before.would_drop, &now.would_drop, seconds),
            rules: each(&before.rules, &now.rules, seconds),
            ports: ports.collect(),
        }
    }
}

type Side = fn(&crate::status::WireStatus) -> &crate::status::PortStatus;

/// Rates by name. What the status before did not list, because it was not among the first, has none.
fn each(before: &[Counted], now: &[Counted], seconds: f64) -> BTreeMap<String, f64> {
    let known = |name: &str| before.iter().find(|counted| counted.name == name);
    now.iter()
        .filter_map(|now| {
            let before = known(&now.name)?;
            Some((now.name.clone(), now.count.saturating_sub(before.count) as f64 / seconds))
        })
        .collect()
}
