//! What became of the gateways before this one, and of the wires meanwhile.

use std::sync::atomic::Ordering::Relaxed;

use super::families::Families;
use crate::config::Fail;
use crate::failure::bypass::Means;
use crate::failure::supervised::History;
use crate::flow_stream::Lost;
use crate::state::Gateway;

pub(super) fn render(gateway: &Gateway, families: &mut Families) {
    let mut fails = families.gauge(
        "wire_fail",
        "What becomes of each wire while no gateway judges: 1 for what is configured.",
    );
    for wire in &gateway.config.wires {
        for fail in [Fail::Closed, Fail::Open] {
            let labels = [("wire", wire.name.as_str()), ("fail", fail.label())];
            fails.add(&labels, f64::from(u8::from(wire.failure.fail == fail)));
        }
    }
    let mut means = families.gauge(
        "wire_bypass",
        "What can bypass each wire that fails open: 1 for what does. `none` fails closed.",
    );
    for wire in gateway.config.open_wires() {
        means.add(&[("wire", wire.name.as_str()), ("by", Means::of(wire).label())], 1.0);
    }
    let supervision = gateway.supervision.get();
    families
        .gauge("supervised", "Whether a supervisor starts the gateway anew when it ends or hangs.")
        .add(&[], f64::from(u8::from(supervision.is_some_and(|s| s.is_supervised()))));
    // Zeros where nobody counts: a counter that appears with its first count has no increase.
    let history = supervision.map_or_else(History::default, |supervision| supervision.history());
    let renewed_us = supervision.map_or(0, |supervision| supervision.renewed_us.load(Relaxed));
    let ended_bypass_ms = supervision.map_or(0, |s| s.ended_bypass_ms.load(Relaxed));
    let mut restarts = families
        .counter("restarts_total", "Starts of a gateway after one, by what became of that.");
    // What the supervisor counts once this gateway guards is not in what it was told at its start.
    let updates = history.updates + u64::from(renewed_us > 0);
    for (reason, count) in
        [("crash", history.crashes), ("hang", history.hangs), ("update", updates)]
    {
        restarts.add(&[("reason", reason)], count as f64);
    }
    let unread = supervision.map_or_else(Lost::default, |supervision| supervision.unread());
    let help = "What workers told while their gateway gave way to this one or to one before it, and nobody read.";
    let mut unread_total = families.counter("renewal_records_unread_total", help);
    for (message, count) in [("flow", unread.flows), ("frame", unread.frames)] {
        unread_total.add(&[("message", message)], count as f64);
    }
    families
        .counter("bypasses_total", "How often wires that fail open were bypassed.")
        .add(&[], history.bypasses as f64);
    let bypassed_ms = history.bypassed_ms + ended_bypass_ms;
    families
        .counter("bypassed_seconds_total", "For how long they were: everything passed unjudged.")
        .add(&[], bypassed_ms as f64 / 1e3);
    if renewed_us > 0 {
        families
            .gauge(
                "update_gap_seconds",
                "For how long ports changed hands when this gateway took over.",
            )
            .add(&[], renewed_us as f64 / 1e6);
    }
}
