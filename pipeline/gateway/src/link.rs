//! Link state crosses the gateway: when one port of a wire loses carrier, the other is taken down,
//! so that the network's own redundancy sees it.
//!
//! A port that we hold down has no carrier because of us, so it never counts as lost: otherwise a
//! wire whose two ports hold each other down, or two gateways in series, would never come up again.
//!
//! A port that was just raised or released takes a while to find carrier: it settles, and counts as
//! lost only after that. Where the time is too short, two slow ports, or two gateways in series, take
//! each other down in turn for ever; so it doubles each time that it ran out, until both ports have
//! had carrier together for longer than any such turn. A port that has found carrier has settled, and its loss crosses at once.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::config::Wire;
use crate::state::{Gateway, PortHandle, WireHandle};

/// To how much the settling time may grow; and for how long both ports must have carrier until it is
/// what is configured again: whatever another gateway in series still waits for has then run out.
const LONGEST_SETTLING: Duration = Duration::from_secs(600);

/// What is known of a port, and done about it.
#[derive(Clone, Copy, Debug)]
struct Side {
    held_down: bool,
    /// Until when missing carrier means nothing; [`None`] once the port has had carrier.
    settles: Option<Instant>,
    /// When to try to release the port again, after the driver refused.
    retry: Option<Instant>,
}

/// The state machine of one wire.
#[derive(Clone, Copy, Debug)]
pub struct WireLink {
    propagates: bool,
    /// The settling time of the configuration.
    configured: Duration,
    /// The settling time of the next release.
    settling: Duration,
    /// Since when both ports have carrier.
    both_since: Option<Instant>,
    inside: Side,
    outside: Side,
}

/// What the ports of a wire should be now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Whether the inside port is to be held down.
    pub hold_inside: bool,
    /// Whether the outside port is to be held down.
    pub hold_outside: bool,
}

impl WireLink {
    /// A wire whose ports were raised at `now`.
    pub fn new(wire: &Wire, now: Instant) -> Self {
        let configured = wire.link_settling;
        let side = Side { held_down: false, settles: now.checked_add(configured), retry: None };
        Self {
            propagates: wire.link_propagation,
            configured,
            settling: configured,
            both_since: None,
            inside: side,
            outside: side,
        }
    }

    /// What to do, given which ports have carrier at `now`. The caller does it before it asks again.
    pub fn step(&mut self, inside_carrier: bool, outside_carrier: bool, now: Instant) -> Wanted {
        self.inside.see(inside_carrier);
        self.outside.see(outside_carrier);
        if inside_carrier && outside_carrier {
            let since = *self.both_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= LONGEST_SETTLING {
                self.settling = self.configured;
            }
        } else {
            self.both_since = None;
        }
        let inside_lost = self.inside.is_lost(inside_carrier, now);
        let outside_lost = self.outside.is_lost(outside_carrier, now);
        // A side that was held down because of the other stays so until the other has carrier; while
        // the other settles, nothing changes.
        let hold = |held: bool, other_lost: bool, other_carrier: bool| {
            if held { !other_carrier } else { other_lost }
        };
        if self.propagates {
            // Both lost: neither is held, or neither could ever be seen to come back.
            let both = inside_lost && outside_lost;
            let hold_inside = hold(self.inside.held_down, outside_lost, outside_carrier) && !both;
            let hold_outside = hold(self.outside.held_down, inside_lost, inside_carrier) && !both;
            let ran_out = |hold: bool, side: &Side, cause: &Side| {
                hold && !side.held_down && cause.settles.is_some()
            };
            if ran_out(hold_inside, &self.inside, &self.outside)
                || ran_out(hold_outside, &self.outside, &self.inside)
            {
                self.settling = (self.settling * 2).min(LONGEST_SETTLING);
            }
            self.inside.set(hold_inside, now, self.settling);
            self.outside.set(hold_outside, now, self.settling);
        }
        Wanted { hold_inside: self.inside.held_down, hold_outside: self.outside.held_down }
    }
}

impl Side {
    fn see(&mut self, carrier: bool) {
        if carrier && !self.held_down {
            self.settles = None;
        }
    }

    fn is_lost(&self, carrier: bool, now: Instant) -> bool {
        !carrier && !self.held_down && self.settles.is_none_or(|settles| now >= settles)
    }

    fn set(&mut self, hold: bool, now: Instant, settling: Duration) {
        if self.held_down && !hold {
            self.settles = now.checked_add(settling);
        }
        self.held_down = hold;
    }
}

/// Looks at the carrier of both ports of a wire, does what follows from it, and tells the workers.
pub fn look_after(
    gateway: &Gateway,
    index: usize,
    config: &Wire,
    wire: &WireHandle,
    machine: &mut WireLink,
) {
    let carrier = |port: &PortHandle| port.device(|device| device.has_carrier());
    // Ports that are closed have no links to look after.
    let Some((inside, outside)) = carrier(&wire.inside).zip(carrier(&wire.outside)) else { return };
    let now = Instant::now();
    let wanted = machine.step(inside, outside, now);
    let [retry_inside, retry_outside] =
        [&mut machine.inside, &mut machine.outside].map(|side| &mut side.retry);
    note(config, &config.inside, &wire.inside, (inside, wanted.hold_inside), retry_inside, now);
    note(
        config,
        &config.outside,
        &wire.outside,
        (outside, wanted.hold_outside),
        retry_outside,
        now,
    );
    for worker in gateway.workers() {
        let served = worker.wires.iter().position(|&served| served == index);
        if let Some(counters) = served.and_then(|place| worker.counters.wires.get(place)) {
            counters.inside_link.set(inside && !wanted.hold_inside);
            counters.outside_link.set(outside && !wanted.hold_outside);
        }
    }
}

/// How long after a failed release the next one is tried.
const RELEASE_AGAIN: Duration = Duration::from_secs(5);

/// Notes what became of a port, and holds it or lets it go.
fn note(
    config: &Wire,
    port: &str,
    handle: &PortHandle,
    (carrier, hold): (bool, bool),
    retry: &mut Option<Instant>,
    now: Instant,
) {
    let (wire, port) = (config.name.as_str(), port);
    let held = handle.held_down.load(Relaxed);
    if handle.carrier.swap(carrier, Relaxed) != carrier && !held && !hold {
        match carrier {
            true => info!(wire, port, "carrier is back"),
            false => warn!(wire, port, "carrier is lost"),
        }
    }
    if held == hold {
        *retry = None;
        return;
    }
    if !hold && retry.is_some_and(|at| now < at) {
        return;
    }
    match handle.device(|device| device.hold_down(hold)).unwrap_or(Ok(())) {
        Ok(()) if hold => warn!(wire, port, "taken down: the other port lost its carrier"),
        Ok(()) => info!(wire, port, "released: the other port has carrier again"),
        // A port that cannot be held stays up: trying again ten times a second would help nobody.
        Err(error) if hold => error!(wire, port, "{error}"),
        // One that cannot be released would stay down for ever.
        Err(error) => {
            error!(wire, port, "{error}; trying again in {} s", RELEASE_AGAIN.as_secs());
            *retry = now.checked_add(RELEASE_AGAIN);
            return;
        }
    }
    *retry = None;
    handle.held_down.store(hold, Relaxed);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32};

    use bulkhead_pipeline::port::DriverCounters;

    use super::*;
    use crate::config::Config;
    use crate::state::Device;

    const UP: Wanted = Wanted { hold_inside: false, hold_outside: false };
    const OUTSIDE_HELD: Wanted = Wanted { hold_inside: false, hold_outside: true };

    /// How long a test's links take to come up, in seconds.
    const DELAYS: [u64; 5] = [0, 3, 8, 20, 40];

    /// Time goes by in steps of so many milliseconds.
    const STEP_MS: u64 = 500;

    fn later(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    fn config(propagates: bool) -> Config {
        let text = format!(
            "policy = \"p\"\n[[wire]]\nname = \"w\"\ninside = \"a\"\noutside = \"b\"\n\
             link-propagation = {propagates}\n"
        );
        let config = Config::parse("", std::path::Path::new(""), &text);
        config.unwrap_or_else(|error| panic!("{error}"))
    }

    fn wire(propagates: bool, begun: Instant) -> WireLink {
        WireLink::new(&config(propagates).wires[0], begun)
    }

    /// A device that refuses to be released so many times.
    struct Stubborn {
        refusals: AtomicU32,
        is_down: Arc<AtomicBool>,
    }

    impl Device for Stubborn {
        fn driver(&self) -> String {
            "stubborn".to_owned()
        }

        fn start(&self) -> Result<(), String> {
            Ok(())
        }

        fn has_carrier(&self) -> bool {
            !self.is_down.load(Relaxed)
        }

        fn hold_down(&self, down: bool) -> Result<(), String> {
            let left = self.refusals.load(Relaxed);
            if !down && left > 0 {
                self.refusals.store(left - 1, Relaxed);
                return Err("not now".to_owned());
            }
            self.is_down.store(down, Relaxed);
            Ok(())
        }

        fn driver_counters(&self) -> DriverCounters {
            DriverCounters::default()
        }
    }

    #[test]
    fn a_port_that_cannot_be_released_is_released_again_after_a_while() {
        let is_down = Arc::new(AtomicBool::new(false));
        let device = Stubborn { refusals: AtomicU32::new(2), is_down: Arc::clone(&is_down) };
        let port = PortHandle::new(Box::new(device));
        let (begun, config) = (Instant::now(), config(true));
        let mut retry = None;
        let mut step = |seconds: u64, hold: bool| {
            let now = later(begun, seconds);
            note(&config.wires[0], "a", &port, (true, hold), &mut retry, now);
            (is_down.load(Relaxed), port.held_down.load(Relaxed))
        };
        assert_eq!(step(0, true), (true, true));
        // Refused at once, not asked, refused again, not asked.
        for seconds in [1, 2, 6, 10] {
            assert_eq!(step(seconds, false), (true, true), "after {seconds} s");
        }
        assert_eq!(step(11, false), (false, false));
        assert_eq!(step(12, true), (true, true), "and it can be held again");
    }

    #[test]
    fn lost_carrier_takes_the_other_port_down_and_back() {
        let begun = Instant::now();
        let mut wire = wire(true, begun);
        assert_eq!(wire.step(false, true, begun), UP, "still settling");
        assert_eq!(wire.step(false, true, later(begun, 29)), UP, "still settling");
        assert_eq!(wire.step(false, true, later(begun, 31)), OUTSIDE_HELD);
        // The outside port now has no carrier, because of us.
        assert_eq!(wire.step(false, false, later(begun, 32)), OUTSIDE_HELD);
        assert_eq!(wire.step(true, false, later(begun, 33)), UP);
        assert_eq!(wire.step(true, false, later(begun, 34)), UP, "it may take a while to rise");
        assert_eq!(wire.step(true, true, later(begun, 35)), UP);
        assert_eq!(wire.step(false, true, later(begun, 36)), OUTSIDE_HELD, "it had settled");
    }

    #[test]
    fn a_port_that_does_not_rise_again_counts_as_lost() {
        let begun = Instant::now();
        let mut wire = wire(true, begun);
        wire.step(true, true, begun);
        assert_eq!(wire.step(false, true, later(begun, 1)), OUTSIDE_HELD);
        assert_eq!(wire.step(true, false, later(begun, 2)), UP);
        assert_eq!(wire.step(true, false, later(begun, 31)), UP);
        let wanted = wire.step(true, false, later(begun, 33));
        assert_eq!(wanted, Wanted { hold_inside: true, hold_outside: false });
        assert_eq!(wire.step(false, true, later(begun, 34)), UP);
    }

    #[test]
    fn the_settling_time_doubles_while_it_runs_out_and_is_bounded() {
        let begun = Instant::now();
        let mut wire = wire(true, begun);
        let mut now = later(begun, 3600);
        let mut expected = 30;
        for _ in 0..10 {
            // The inside port never settles; it comes as soon as the outside port is held.
            assert_eq!(wire.step(false, true, now), OUTSIDE_HELD);
            expected = (expected * 2).min(600);
            assert_eq!(wire.settling, Duration::from_secs(expected));
            assert_eq!(wire.step(true, false, now), UP);
            now = later(now, expected);
            let wanted = wire.step(true, false, now);
            assert_eq!(wanted, Wanted { hold_inside: true, hold_outside: false });
            expected = (expected * 2).min(600);
            assert_eq!(wire.step(false, true, now), UP);
            now = later(now, expected);
        }
        wire.step(true, true, now);
        wire.step(true, true, later(now, 599));
        assert_eq!(wire.settling, Duration::from_secs(600));
        wire.step(true, true, later(now, 600));
        assert_eq!(wire.settling, Duration::from_secs(30));
    }

    #[test]
    fn without_propagation_nothing_is_held() {
        let begun = Instant::now();
        let mut wire = wire(false, begun);
        assert_eq!(wire.step(false, true, later(begun, 60)), UP);
    }

    /// A cable: it carries once it was whole, with both its ends raised, for its delay.
    #[derive(Clone, Copy)]
    struct Cable {
        delay: Duration,
        whole: bool,
        raised: Option<Instant>,
    }

    impl Cable {
        fn carries(&mut self, held: bool, now: Instant) -> bool {
            if !self.whole || held {
                self.raised = None;
                return false;
            }
            now.duration_since(*self.raised.get_or_insert(now)) >= self.delay
        }
    }

    /// host -cable- gateway -cable- gateway ... -cable- host
    #[derive(Clone)]
    struct Line {
        now: Instant,
        cables: Vec<Cable>,
        gateways: Vec<WireLink>,
        held: Vec<Wanted>,
        carriers: Vec<bool>,
    }

    impl Line {
        fn new(delays: &[u64]) -> Self {
            let now = Instant::now();
            let cable =
                |&s: &u64| Cable { delay: Duration::from_secs(s), whole: true, raised: None };
            let gateways = delays.len() - 1;
            Self {
                now,
                cables: delays.iter().map(cable).collect(),
                gateways: vec![wire(true, now); gateways],
                held: vec![UP; gateways],
                carriers: vec![false; delays.len()],
            }
        }

        fn step(&mut self) {
            self.now += Duration::from_millis(STEP_MS);
            for (index, cable) in self.cables.iter_mut().enumerate() {
                let left = index.checked_sub(1).is_some_and(|g| self.held[g].hold_outside);
                let right = self.held.get(index).is_some_and(|held| held.hold_inside);
                self.carriers[index] = cable.carries(left || right, self.now);
            }
            for (index, gateway) in self.gateways.iter_mut().enumerate() {
                let (inside, outside) = (self.carriers[index], self.carriers[index + 1]);
                self.held[index] = gateway.step(inside, outside, self.now);
            }
        }

        fn run(&mut self, seconds: u64) {
            (0..seconds * 1000 / STEP_MS).for_each(|_| self.step());
        }

        fn is_up(&self) -> bool {
            self.carriers.iter().all(|&carrier| carrier) && self.held.iter().all(|&held| held == UP)
        }

        /// Every loss of one or two cables, and every order of their mending, ends with all up.
        fn survives_cuts(delays: &[u64]) {
            let count = delays.len();
            let mut up = Self::new(delays);
            up.run(600);
            assert!(up.is_up(), "delays {delays:?}: never comes up");
            for case in 0..count * count * 2 {
                let (first, second) = (case % count, case / count % count);
                let mut line = up.clone();
                line.cables[first].whole = false;
                // One step for each gateway on the way to the farthest end.
                for _ in 0..count {
                    line.step();
                }
                let others = (0..count).filter(|&cable| cable != first);
                for cable in others {
                    assert!(!line.carriers[cable], "delays {delays:?}: {first} not at {cable}");
                }
                line.run(case as u64 % 7);
                line.cables[second].whole = false;
                line.run(100);
                let (mended, last) =
                    if case < count * count { (first, second) } else { (second, first) };
                line.cables[mended].whole = true;
                line.run(case as u64 % 11);
                line.cables[last].whole = true;
                line.run(900);
                assert!(line.is_up(), "delays {delays:?}: cut {first} then {second} stays down");
                let carriers = line.carriers.clone();
                line.run(100);
                assert_eq!(line.carriers, carriers);
            }
        }
    }

    #[test]
    fn one_gateway_comes_up_again_however_slow_its_ports_are() {
        for left in DELAYS {
            for right in DELAYS {
                Line::survives_cuts(&[left, right]);
            }
        }
    }

    #[test]
    fn two_gateways_in_series_come_up_again_however_slow_their_ports_are() {
        for left in DELAYS {
            for middle in DELAYS {
                for right in DELAYS {
                    Line::survives_cuts(&[left, middle, right]);
                }
            }
        }
    }
}
