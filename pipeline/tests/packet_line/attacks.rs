//! Attacks on the flow table, small and without a clock on the wall: what is established passes, and
//! everything that does not is counted. `bulkhead-bench attacks` measures the same at full size.

use std::net::Ipv4Addr;

use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::flow_table::{FlowKey, FlowTable, FlowTableConfig, WAYS};
use bulkhead_pipeline::frames::{DEFAULT_DST_MAC, DEFAULT_SRC_MAC, FrameBuilder};
use bulkhead_pipeline::parse::parse;
use bulkhead_pipeline::snapshot::Mode;
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::WorkerConfig;
use bulkhead_rules::headers::WireId;

use crate::common::{Gateway, content};

const OPEN: &str = "
version: 1
rules:
  - {name: no, from: any, to: any, service: [tcp/22, udp/22], action: deny}
  - {name: all, from: any, to: any, service: [tcp/1-65535, udp/1-65535], action: allow}
";

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
const CAPACITY: usize = 1024;
const KEYS: [u64; 4] = [1, 2, 3, 4];

/// The `number`th host of a network of attackers (11), established clients (12) or newcomers (13).
fn host(network: u8, number: usize) -> Ipv4Addr {
    Ipv4Addr::new(network, (number >> 16) as u8, (number >> 8) as u8, number as u8)
}

fn udp(from: Ipv4Addr, port: u16) -> Vec<u8> {
    FrameBuilder::new().ip(from, SERVER).udp(port, 53).build()
}

fn udp_back(to: Ipv4Addr, port: u16) -> Vec<u8> {
    let builder = FrameBuilder::new().macs(DEFAULT_DST_MAC, DEFAULT_SRC_MAC);
    builder.ip(SERVER, to).udp(53, port).build()
}

fn syn(from: Ipv4Addr, port: u16) -> Vec<u8> {
    FrameBuilder::new().ip(from, SERVER).tcp(port, 443, flag::SYN).build()
}

/// A gateway with a table of [`CAPACITY`] flows, under known keys.
fn gateway() -> Gateway {
    let flows = FlowTableConfig { capacity: CAPACITY, seed: Some(KEYS), ..Default::default() };
    let config = WorkerConfig { flows, ..WorkerConfig::default() };
    Gateway::with(content(OPEN, Mode::Enforce, 0), &config)
}

/// Flows that both sides have used, of a host each.
fn establish(gateway: &mut Gateway) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pairs: Vec<_> =
        (0..64).map(|n| (udp(host(12, n), 4000), udp_back(host(12, n), 4000))).collect();
    assert_unharmed(gateway, &pairs);
    pairs
}

fn assert_unharmed(gateway: &mut Gateway, established: &[(Vec<u8>, Vec<u8>)]) {
    for (there, back) in established {
        assert!(gateway.passes_out(there) && gateway.passes_in(back), "an established flow");
    }
}

/// Sends them in bursts; how many passed.
fn pass(gateway: &mut Gateway, frames: &[Vec<u8>]) -> usize {
    frames.chunks(64).map(|burst| gateway.outward(burst).len()).sum()
}

#[test]
fn flows_that_nobody_answers_make_room_for_all_others() {
    let mut gateway = gateway();
    let established = establish(&mut gateway);
    let flood: Vec<_> = (0..4 * CAPACITY).map(|n| syn(host(11, n), 5000)).collect();
    assert_eq!(pass(&mut gateway, &flood), flood.len(), "each takes the place of another");
    let evicted: u64 = gateway.worker.counters().flow_evicted.iter().map(|(_, n)| n).sum();
    assert!(evicted as usize >= 3 * CAPACITY, "{evicted}");
    let newcomers: Vec<_> = (0..100).map(|n| syn(host(13, n), 6000)).collect();
    assert_eq!(pass(&mut gateway, &newcomers), newcomers.len());
    assert_unharmed(&mut gateway, &established);
    assert_eq!(gateway.worker.counters().flow_capacity.value() as usize, CAPACITY);
}

#[test]
fn a_table_of_answered_flows_refuses_until_they_end() {
    let mut gateway = gateway();
    let established = establish(&mut gateway);
    for number in 0..2 * CAPACITY {
        let from = host(11, number);
        // A newcomer of the same burst could not be told from one that came first.
        if gateway.passes_out(&udp(from, 5000)) {
            assert!(gateway.passes_in(&udp_back(from, 5000)));
        }
    }
    let counters = gateway.worker.counters().clone();
    assert_eq!(counters.flows.value() as usize, CAPACITY, "full");
    let refused = gateway.dropped(DropReason::FlowTableFull);
    let newcomers: Vec<_> = (0..100).map(|n| udp(host(13, n), 6000)).collect();
    assert_eq!(pass(&mut gateway, &newcomers), 0);
    assert_eq!(gateway.dropped(DropReason::FlowTableFull), refused + 100, "each is counted");
    assert_unharmed(&mut gateway, &established);
    // 180 seconds later the attackers' flows are over; the established ones were used meanwhile.
    for _ in 0..20 {
        gateway.wait_ms(10_000);
        assert_unharmed(&mut gateway, &established);
    }
    assert_eq!(pass(&mut gateway, &newcomers), newcomers.len());
    assert_unharmed(&mut gateway, &established);
}

#[test]
fn one_greedy_host_takes_its_budget_and_nothing_else() {
    let config = WorkerConfig::default();
    let budget = config.new_flows_per_source as usize;
    let mut gateway = Gateway::with(content(OPEN, Mode::Enforce, 0), &config);
    let established = establish(&mut gateway);
    let greedy = host(11, 1);
    let mut admitted = 0;
    // Half a second of 100,000 a second, with a newcomer now and then.
    for burst in 0..1000_u16 {
        let frames: Vec<_> = (0..50)
            .map(|n| {
                let to = Ipv4Addr::from(u32::from(SERVER) + u32::from(burst));
                FrameBuilder::new().ip(greedy, to).tcp(5000 + n, 443, flag::SYN).build()
            })
            .collect();
        admitted += pass(&mut gateway, &frames);
        assert!(gateway.passes_out(&syn(host(13, burst.into()), 6000)), "newcomer {burst}");
        if burst % 10 == 0 {
            gateway.wait_ms(5);
        }
    }
    assert!(admitted <= 2 * budget + budget / 2 + 1, "{admitted} flows");
    assert!(admitted >= 2 * budget, "{admitted}: its budget is its own");
    let dropped = gateway.dropped(DropReason::NewFlowRate) as usize;
    assert_eq!(admitted + dropped, 50_000, "every other one is counted");
    assert_unharmed(&mut gateway, &established);
}

/// Whoever knew the keys could aim at a few sets. That is not to be possible; where it is, it keeps
/// newcomers out of those sets and harms nobody who is there.
#[test]
fn flows_aimed_at_a_few_sets_by_one_who_knows_the_keys_end_nothing() {
    const AIMED_SETS: u32 = 2;
    let mut gateway = gateway();
    let established = establish(&mut gateway);
    let table = FlowTable::new(&FlowTableConfig {
        capacity: CAPACITY,
        seed: Some(KEYS),
        ..Default::default()
    });
    let sets = |frame: &[u8]| {
        let parsed = parse(frame, WireId(0)).expect("it parses");
        table.sets(table.hash(&FlowKey::of(&parsed, 0).0))
    };
    let aimed = (0..).map(|n| host(11, n)).filter(|from| {
        let frame = udp(*from, 5000);
        sets(&frame).iter().all(|set| *set < AIMED_SETS)
    });
    let aimed: Vec<Ipv4Addr> = aimed.take(4 * WAYS).collect();
    let mut refused = 0;
    for from in &aimed {
        if gateway.passes_out(&udp(*from, 5000)) {
            assert!(gateway.passes_in(&udp_back(*from, 5000)));
        } else {
            refused += 1;
        }
    }
    assert!(refused >= 4 * WAYS - AIMED_SETS as usize * WAYS, "{refused}: two sets hold no more");
    assert_eq!(gateway.dropped(DropReason::FlowTableFull), refused as u64);
    assert_unharmed(&mut gateway, &established);
    let newcomers: Vec<_> = (0..100).map(|n| udp(host(13, n), 6000)).collect();
    let elsewhere: Vec<_> = (newcomers.iter())
        .filter(|frame| sets(frame).iter().any(|set| *set >= AIMED_SETS))
        .cloned()
        .collect();
    assert_eq!(pass(&mut gateway, &elsewhere), elsewhere.len(), "all other sets have room");
}
