//! Link state crosses the gateway: when one port of a wire loses carrier, the other is taken down,
//! so that the network's own redundancy sees it.
//!
//! A port that we hold down has no carrier because of us, so it never counts as lost: otherwise a
//! wire whose two ports hold each other down, or two gateways in series, would never come up again.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::config::Wire;
use crate::state::{Gateway, PortHandle, WireHandle};

/// How long a port that was just released may take to find carrier before it counts as lost.
const SETTLING: Duration = Duration::from_secs(5);

/// What is known of a port, and done about it.
#[derive(Clone, Copy, Debug)]
struct Side {
    held_down: bool,
    /// Until when missing carrier means nothing.
    settles: Instant,
}

/// The state machine of one wire.
#[derive(Clone, Copy, Debug)]
pub struct WireLink {
    propagates: bool,
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
    pub fn new(propagates: bool, now: Instant) -> Self {
        let side = Side { held_down: false, settles: now + SETTLING };
        Self { propagates, inside: side, outside: side }
    }

    /// What to do, given which ports have carrier at `now`. The caller does it before it asks again.
    pub fn step(&mut self, inside_carrier: bool, outside_carrier: bool, now: Instant) -> Wanted {
        let lost = |side: &Side, carrier: bool| !carrier && !side.held_down && now >= side.settles;
        let inside_lost = lost(&self.inside, inside_carrier);
        let outside_lost = lost(&self.outside, outside_carrier);
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
            self.inside.set(hold_inside, now);
            self.outside.set(hold_outside, now);
        }
        Wanted { hold_inside: self.inside.held_down, hold_outside: self.outside.held_down }
    }
}

impl Side {
    fn set(&mut self, hold: bool, now: Instant) {
        if self.held_down && !hold {
            self.settles = now + SETTLING;
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
    let wanted = machine.step(inside, outside, Instant::now());
    note(config, &config.inside, &wire.inside, inside, wanted.hold_inside);
    note(config, &config.outside, &wire.outside, outside, wanted.hold_outside);
    for worker in gateway.workers() {
        let served = worker.wires.iter().position(|&served| served == index);
        if let Some(counters) = served.and_then(|place| worker.counters.wires.get(place)) {
            counters.inside_link.set(inside && !wanted.hold_inside);
            counters.outside_link.set(outside && !wanted.hold_outside);
        }
    }
}

/// Notes what became of a port, and holds it or lets it go.
fn note(config: &Wire, port: &str, handle: &PortHandle, carrier: bool, hold: bool) {
    let (wire, port) = (config.name.as_str(), port);
    let held = handle.held_down.load(Relaxed);
    if handle.carrier.swap(carrier, Relaxed) != carrier && !held && !hold {
        match carrier {
            true => info!(wire, port, "carrier is back"),
            false => warn!(wire, port, "carrier is lost"),
        }
    }
    if held == hold {
        return;
    }
    match handle.device(|device| device.hold_down(hold)).unwrap_or(Ok(())) {
        Ok(()) if hold => warn!(wire, port, "taken down: the other port lost its carrier"),
        Ok(()) => info!(wire, port, "released: the other port has carrier again"),
        Err(error) => error!(wire, port, "{error}"),
    }
    // Also after a failure: trying again ten times a second would help nobody.
    handle.held_down.store(hold, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Wanted = Wanted { hold_inside: false, hold_outside: false };

    /// A cable between two ports: carrier needs both ends up and the cable whole.
    #[derive(Clone, Copy)]
    struct Cable {
        whole: bool,
    }

    impl Cable {
        fn carries(self, left_held: bool, right_held: bool) -> bool {
            self.whole && !left_held && !right_held
        }
    }

    fn later(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn lost_carrier_takes_the_other_port_down_and_back() {
        let begun = Instant::now();
        let mut wire = WireLink::new(true, begun);
        assert_eq!(wire.step(false, true, begun), UP, "still settling");
        let wanted = wire.step(false, true, later(begun, 6));
        assert_eq!(wanted, Wanted { hold_inside: false, hold_outside: true });
        // The outside port now has no carrier, because of us.
        assert_eq!(wire.step(false, false, later(begun, 7)), wanted);
        assert_eq!(wire.step(true, false, later(begun, 8)), UP);
        assert_eq!(wire.step(true, false, later(begun, 9)), UP, "it may take a while to rise");
        assert_eq!(wire.step(true, true, later(begun, 10)), UP);
    }

    #[test]
    fn a_port_that_does_not_rise_again_counts_as_lost() {
        let begun = Instant::now();
        let mut wire = WireLink::new(true, begun);
        wire.step(false, true, later(begun, 6));
        wire.step(true, false, later(begun, 7));
        let wanted = wire.step(true, false, later(begun, 20));
        assert_eq!(wanted, Wanted { hold_inside: true, hold_outside: false });
        assert_eq!(wire.step(false, true, later(begun, 21)), UP);
    }

    #[test]
    fn without_propagation_nothing_is_held() {
        let begun = Instant::now();
        let mut wire = WireLink::new(false, begun);
        assert_eq!(wire.step(false, true, later(begun, 60)), UP);
    }

    /// host -c0- [gateway 1] -c1- [gateway 2] -c2- host, each combination of cuts and repairs.
    #[test]
    fn two_gateways_in_series_come_up_again_whatever_was_cut() {
        let begun = Instant::now();
        for order in 0..64_u32 {
            let mut cables = [Cable { whole: true }; 3];
            let mut gateways = [WireLink::new(true, begun), WireLink::new(true, begun)];
            let mut held = [UP; 2];
            let mut now = begun;
            let mut run = |cables: &[Cable; 3], seconds: u64| {
                for _ in 0..seconds * 2 {
                    now += Duration::from_millis(500);
                    let middle = cables[1].carries(held[0].hold_outside, held[1].hold_inside);
                    let left = cables[0].carries(held[0].hold_inside, false);
                    let right = cables[2].carries(held[1].hold_outside, false);
                    held =
                        [gateways[0].step(left, middle, now), gateways[1].step(middle, right, now)];
                }
                held
            };
            run(&cables, 10);
            // Cut one or two cables at two moments, then mend them in either order.
            let (first, second) = (order % 3, order / 3 % 3);
            cables[first as usize].whole = false;
            run(&cables, u64::from(order % 7));
            cables[second as usize].whole = false;
            run(&cables, 20);
            let (mended, last) = if order & 32 == 0 { (first, second) } else { (second, first) };
            cables[mended as usize].whole = true;
            run(&cables, u64::from(order % 11));
            cables[last as usize].whole = true;
            let held = run(&cables, 120);
            assert_eq!(held, [UP, UP], "cut {first} then {second} stays down");
        }
    }
}
