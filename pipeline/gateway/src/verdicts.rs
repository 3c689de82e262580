//! The verdicts of rules that say `log: true`, from the workers' rings to the log.

use std::thread;
use std::time::Duration;

use bulkhead_pipeline::observe::VerdictEvent;
use bulkhead_pipeline::verdict::Verdict;
use bulkhead_rules::packet::in_words;
use tracing::info;

use crate::state::Gateway;

/// How often the rings are emptied.
const INTERVAL: Duration = Duration::from_millis(50);

/// Writes events until the ports close: workers judge on for a while when the gateway stops for another one.
pub fn write(gateway: &Gateway) {
    while gateway.has_ports() {
        write_rest(gateway);
        thread::sleep(INTERVAL);
    }
}

/// Writes what waits in the rings: the last, where no worker runs any more.
pub fn write_rest(gateway: &Gateway) {
    for worker in 0..gateway.workers().len() {
        write_ring(gateway, worker);
    }
}

fn write_ring(gateway: &Gateway, worker: usize) {
    let Some(handle) = gateway.workers().get(worker) else { return };
    // One at a time: whoever scrapes waits for one event at most.
    while let Some(event) = { handle.observer().event() } {
        write_event(gateway, &event);
    }
}

fn write_event(gateway: &Gateway, event: &VerdictEvent) {
    let headers = &event.headers;
    let wires = &gateway.config.wires;
    let wire = wires.get(usize::from(headers.wire.0)).map_or("", |wire| wire.name.as_str());
    let rule = rule_name(gateway, event);
    info!(
        rule,
        verdict = verdict(event.verdict),
        enforced = event.enforced,
        wire,
        from = if event.from_inside { "inside" } else { "outside" },
        packet = in_words(headers, &[]),
        bytes = event.frame_len,
        unix_ms = event.unix_ms,
        "verdict"
    );
}

/// The rule's name in the policy that judged.
fn rule_name(gateway: &Gateway, event: &VerdictEvent) -> String {
    let state = gateway.policy();
    let name = state.publisher.as_ref().and_then(|p| p.rule_name(event.rule, event.epoch));
    match name {
        Some(name) => name.to_owned(),
        None => format!("rule {} of an earlier policy", event.rule.0),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Forward => "allow",
        Verdict::Reject => "reject",
        Verdict::Drop(reason) => reason.label(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::config::Config;

    #[test]
    fn verdicts_are_written_as_long_as_workers_judge() {
        let text = "policy = \"p\"\n[[wire]]\nname = \"w\"\ninside = \"a\"\noutside = \"b\"\n";
        let config = Config::parse("gateway.toml", Path::new(""), text);
        let gateway = Arc::new(Gateway::new(config.unwrap_or_else(|e| panic!("{e}"))));
        gateway.guarding.store(true, SeqCst);
        let writer = {
            let gateway = gateway.clone();
            thread::spawn(move || write(&gateway))
        };
        gateway.stop();
        thread::sleep(3 * INTERVAL);
        assert!(!writer.is_finished(), "another gateway has yet to want the ports");
        gateway.close_ports();
        writer.join().expect("it ends");
    }
}
