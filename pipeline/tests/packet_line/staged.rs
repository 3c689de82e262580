//! A staged policy is asked about every flow once, changes no verdict, and a quarantine holds on a
//! wire that observes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::record::{self, RecordConfig};
use bulkhead_pipeline::snapshot::staged::{Difference, StagedPolicy, StagedTotals, Staging, Tally};
use bulkhead_pipeline::snapshot::{Content, Mode, WirePolicy};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::WorkerConfig;
use bulkhead_rules::policy::RuleId;

use crate::common::{Gateway, ZERO_MS, content};

const ACTIVE: &str = "
version: 1
rules:
  - {name: web, from: 10.0.0.0/24, to: any, service: udp/80, action: allow}
  - {name: ntp, from: 10.0.0.0/24, to: any, service: udp/123, action: allow}
";

/// Permits of the active policy's flows those of .1 to port 80, and to port 53 what it does not.
const STAGED: &str = "
version: 1
rules:
  - {name: no-ntp, from: any, to: any, service: udp/123, action: deny}
  - {name: web, from: 10.0.0.1, to: any, service: udp/80, action: allow}
  - {name: dns, from: any, to: any, service: udp/53, action: allow}
";

fn udp(host: u8, source_port: u16, port: u16) -> Vec<u8> {
    let (from, to) = (Ipv4Addr::new(10, 0, 0, host), Ipv4Addr::new(10, 0, 1, 1));
    FrameBuilder::new().ip(from, to).udp(source_port, port).payload(&[7; 18]).build()
}

fn policy(text: &str) -> StagedPolicy {
    let Content { policy, classifier, .. } = content(text, Mode::Enforce, 0);
    StagedPolicy { policy, classifier }
}

fn stage(gateway: &mut Gateway, text: &str) -> Arc<Tally> {
    let snapshot = gateway.publisher.stage(Staging::Put(policy(text)));
    Arc::clone(&snapshot.staged().expect("it was just staged").tally)
}

/// Flows, passing, cut, cut though permitted, opened, denied packets.
fn counts(tally: &Tally) -> [u64; 6] {
    let [mine] = tally.workers() else { panic!("one worker") };
    assert_eq!(mine.lost.value(), 0);
    [&mine.flows, &mine.passing, &mine.cut, &mine.cut_permitted, &mine.opened, &mine.denied_packets]
        .map(|counter| counter.value())
}

fn differences(tally: &Tally) -> Vec<Difference> {
    let all = tally.workers().iter().flat_map(|mine| std::iter::from_fn(|| mine.difference()));
    all.collect()
}

#[test]
fn every_flow_is_asked_about_once_old_and_new_ones() {
    let mut gateway = Gateway::new(ACTIVE, Mode::Enforce);
    let old = [udp(1, 1000, 80), udp(2, 1000, 80), udp(1, 1000, 123)];
    assert_eq!(gateway.outward(&old).len(), 3);
    let tally = stage(&mut gateway, STAGED);
    assert_eq!(counts(&tally), [0; 6]);
    for _ in 0..3 {
        assert_eq!(gateway.outward(&old).len(), 3, "what is staged decides nothing");
    }
    assert_eq!(counts(&tally), [3, 3, 2, 2, 0, 0]);
    let live = differences(&tally);
    let packets: Vec<_> = live.iter().map(|d| d.live.map(|live| live.packets)).collect();
    assert_eq!(packets, [Some(1), Some(1)], "they had a packet each when they were asked about");
    assert!(live.iter().all(|d| d.passes && d.permitted && d.unix_ms >= ZERO_MS));
    // New flows, and packets that are denied: a flow each, however many packets.
    for _ in 0..4 {
        gateway.outward(&[udp(3, 1000, 80), udp(3, 1000, 53), udp(3, 1001, 22)]);
    }
    assert_eq!(counts(&tally), [6, 4, 3, 3, 1, 8]);
    let totals = |rule| tally.totals(rule);
    assert_eq!(totals(RuleId(0)), StagedTotals { cut: 1, opened: 0 });
    assert_eq!(totals(RuleId(2)), StagedTotals { cut: 0, opened: 1 });
    assert_eq!(totals(RuleId::DEFAULT), StagedTotals { cut: 2, opened: 0 });
    let [cut, opened] = &differences(&tally)[..] else { panic!("two new ones") };
    assert!(cut.live.is_none() && cut.passes && cut.staged_rule == RuleId::DEFAULT);
    assert!(!opened.passes && !opened.permitted && opened.staged_rule == RuleId(2));
}

#[test]
fn where_a_wire_observes_what_is_denied_passes_and_would_be_cut() {
    let mut gateway = Gateway::new(ACTIVE, Mode::Observe);
    let tally = stage(&mut gateway, STAGED);
    assert_eq!(gateway.outward(&[udp(3, 1, 22), udp(3, 1, 22), udp(3, 1, 53)]).len(), 3);
    assert_eq!(counts(&tally), [2, 2, 1, 0, 0, 3]);
    let [cut] = &differences(&tally)[..] else { panic!("one") };
    assert!(cut.passes && !cut.permitted);
}

#[test]
fn answers_of_what_observing_wires_let_through_are_no_flows_of_their_own() {
    let mut gateway = Gateway::new("version: 1\ndefault: deny\n", Mode::Observe);
    let tally = stage(&mut gateway, STAGED);
    let reply = |port: u16| {
        let (from, to) = (Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(10, 0, 0, 1));
        FrameBuilder::new().ip(from, to).udp(port, 1000).payload(&[7; 18]).build()
    };
    // The request is seen first, then, of another flow, the answer.
    assert!(gateway.passes_out(&udp(1, 1000, 80)) && gateway.passes_in(&reply(80)));
    assert!(gateway.passes_in(&reply(53)) && gateway.passes_out(&udp(1, 1000, 53)));
    assert_eq!(counts(&tally), [2, 2, 0, 0, 0, 4]);
    // What neither way is permitted is told as it came.
    assert!(gateway.passes_in(&reply(123)));
    assert_eq!(counts(&tally), [3, 3, 1, 0, 0, 5]);
    assert_eq!(differences(&tally)[0].headers.src_port, 123);
}

#[test]
fn a_forbidden_flow_that_is_followed_is_asked_about_once() {
    let nothing = content("version: 1\ndefault: deny\n", Mode::Observe, 0);
    let (records, _source) = record::channel(&RecordConfig::default());
    let mut gateway = Gateway::with_records(nothing, &WorkerConfig::default(), records);
    let reply = |port: u16| {
        let (from, to) = (Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(10, 0, 0, 1));
        FrameBuilder::new().ip(from, to).udp(port, 1000).payload(&[7; 18]).build()
    };
    // One session is known from its beginning, one from its answer, and one nobody will permit.
    assert!(gateway.passes_out(&udp(1, 1000, 80)) && gateway.passes_in(&reply(80)));
    assert!(gateway.passes_in(&reply(53)) && gateway.passes_out(&udp(1, 1000, 53)));
    assert!(gateway.passes_out(&udp(1, 1000, 22)));
    let tally = stage(&mut gateway, STAGED);
    for _ in 0..3 {
        assert!(gateway.passes_in(&reply(80)) && gateway.passes_in(&reply(53)));
        assert!(gateway.passes_out(&udp(1, 1000, 22)));
    }
    let [flows, passing, cut, cut_permitted, opened, _] = counts(&tally);
    assert_eq!([flows, passing, cut, cut_permitted, opened], [3, 3, 1, 0, 0]);
    let [cut] = &differences(&tally)[..] else { panic!("one") };
    assert_eq!((cut.headers.dst_port, cut.live.map(|live| live.packets)), (22, Some(1)));
    // New ones, too, and once.
    for _ in 0..3 {
        assert!(gateway.passes_out(&udp(2, 1000, 80)) && gateway.passes_out(&udp(2, 1000, 53)));
    }
    let [flows, passing, cut, ..] = counts(&tally);
    assert_eq!([flows, passing, cut], [5, 5, 2]);
}

#[test]
fn a_reload_begins_the_tally_anew_and_a_staged_schedule_is_heeded() {
    let mut gateway = Gateway::new(ACTIVE, Mode::Enforce);
    let until = "
version: 1
rules:
  - {name: web, from: any, to: any, service: udp/80, action: allow, expires: 2026-11-24T06:00:10Z}
";
    let tally = stage(&mut gateway, until);
    gateway.outward(&[udp(1, 1, 80)]);
    assert_eq!(counts(&tally), [1, 1, 0, 0, 0, 0]);
    gateway.wait_ms(11_000);
    gateway.outward(&[udp(1, 1, 80)]);
    assert_eq!(counts(&tally), [2, 2, 1, 1, 0, 0], "its time is over: asked about again");
    gateway.publisher.publish_with(content(ACTIVE, Mode::Enforce, 0), Staging::Renew);
    let renewed = gateway.publisher.current().staged().map(|staged| staged.tally.clone());
    let renewed = renewed.expect("it is staged still");
    gateway.outward(&[udp(1, 1, 80)]);
    assert_eq!((counts(&renewed), counts(&tally)), ([1, 1, 1, 1, 0, 0], [2, 2, 1, 1, 0, 0]));
    // The clock is set: what is staged stays so, and its tally goes on.
    let same = gateway.publisher.current().content.clone();
    gateway.publisher.publish(same);
    gateway.outward(&[udp(1, 1, 80)]);
    assert_eq!(counts(&renewed), [2, 2, 2, 2, 0, 0]);
    gateway.publisher.stage(Staging::Drop);
    gateway.outward(&[udp(1, 1, 80), udp(1, 2, 80)]);
    assert_eq!(counts(&renewed), [2, 2, 2, 2, 0, 0]);
    assert!(gateway.publisher.current().staged().is_none());
}

#[test]
fn a_quarantine_holds_where_the_wire_observes() {
    let text = ACTIVE.replace(
        "rules:",
        "rules:\n  - {name: sick, from: 10.0.0.66, to: any, service: any, action: deny}",
    );
    let plain = content(ACTIVE, Mode::Observe, 0);
    let mut gateway = Gateway::with(plain, &WorkerConfig::default());
    assert!(gateway.passes_out(&udp(66, 1, 80)) && gateway.passes_out(&udp(66, 1, 22)));
    let wire = WirePolicy { quarantine_rules: 1, ..WirePolicy::new(Mode::Observe, 0) };
    let wires = vec![wire];
    gateway.publisher.publish(Content { wires, ..content(&text, Mode::Observe, 0) });
    assert!(!gateway.passes_out(&udp(66, 1, 80)), "an established flow ends at its next packet");
    assert!(!gateway.passes_out(&udp(66, 2, 22)));
    assert!(gateway.passes_out(&udp(1, 1, 22)), "what is not in quarantine is observed as before");
    assert_eq!(gateway.dropped(DropReason::Quarantine), 2);
    gateway.publisher.publish(content(ACTIVE, Mode::Observe, 0));
    assert!(gateway.passes_out(&udp(66, 1, 80)));
}
