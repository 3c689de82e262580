//! A gateway of several workers on one wire, whose ports spread each direction by itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;

use bulkhead_gateway::control::client::ask;
use bulkhead_gateway::control::{Answer, Ask};
use bulkhead_gateway::status;
use bulkhead_pipeline::frames::{DEFAULT_DST_MAC, DEFAULT_SRC_MAC, FrameBuilder, tcp_flags};
use bulkhead_pipeline::port::Frame;
use common::{Running, policy, syn, wait};

fn started(more: &str) -> (tempfile::TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.yaml"), policy(502)).unwrap();
    let running = Running::start(dir.path(), "enforce", more);
    running.wait_ready();
    (dir, running)
}

/// The answer to [`syn`].
fn syn_ack(source_port: u16, port: u16) -> Vec<u8> {
    FrameBuilder::new()
        .macs(DEFAULT_DST_MAC, DEFAULT_SRC_MAC)
        .ip([10, 30, 3, 11], [10, 20, 0, 11])
        .tcp(port, source_port, tcp_flags::SYN | tcp_flags::ACK)
        .seq(900, 1)
        .build()
}

#[test]
fn connections_live_on_several_workers_and_every_frame_is_accounted_for() {
    let (_dir, running) = started("workers = 3");
    for source_port in 40_000..40_050 {
        assert!(running.passes(source_port, 502));
        running.with_ends(|[inside, outside]| {
            inside.host.send(&syn_ack(source_port, 502)).unwrap();
            let mut answer = None;
            wait("the answer is there", || {
                answer = outside.host.receive();
                answer.is_some()
            });
            assert_eq!(answer.unwrap().bytes(), syn_ack(source_port, 502));
        });
        assert!(!running.passes(source_port, 503));
    }
    let balance = running.balance();
    assert_eq!((balance.received, balance.transmitted, balance.dropped), (150, 100, 50));
    assert!(balance.handed_out > 0 && balance.handed_in == balance.handed_out, "{balance:?}");
    for worker in running.gateway.workers() {
        let balance = worker.counters.balance();
        assert!(balance.is_exact() && balance.received > 0, "{balance:?}");
    }
    // One pair of addresses: one worker judges all.
    let flows = running.gateway.workers().iter().filter(|w| w.counters.flows.value() > 0).count();
    assert_eq!(flows, 1);
    for direction in ["in", "out"] {
        let sums = (0..3).map(|worker| {
            let sample =
                format!("bulkhead_handed_{direction}_packets_total{{worker=\"{worker}\"}}");
            running.metric(&sample).unwrap()
        });
        assert_eq!(sums.sum::<f64>() as u64, balance.handed_out);
    }
    let Ok(Answer::Status(shown)) = ask(&running.socket(), Ask::Status {}) else {
        panic!("no status")
    };
    assert_eq!(shown.in_flight, 0);
    assert_eq!(shown.workers.iter().map(|w| w.handed_in).sum::<u64>(), balance.handed_in);
    assert!(status::text(&shown).contains("HANDED OUT"));
    let (ended, _) = running.stop();
    ended.unwrap();
}

#[test]
fn what_is_on_its_way_when_the_gateway_stops_is_counted() {
    let (_dir, running) = started("workers = 2");
    let gateway = running.gateway.clone();
    running.with_ends(|[_, outside]| {
        for source_port in 1..1_000 {
            // A full queue is no matter here.
            let _ = outside.host.send(&syn(source_port, 502));
        }
    });
    let (ended, _) = running.stop();
    ended.unwrap();
    let balances: Vec<_> = gateway.workers().iter().map(|w| w.counters.balance()).collect();
    assert!(balances.iter().all(|balance| balance.is_exact()), "{balances:?}");
    assert_eq!(balances[0].handed_out, balances[1].handed_in, "{balances:?}");
    assert_eq!(balances[1].handed_out, balances[0].handed_in, "{balances:?}");
}
