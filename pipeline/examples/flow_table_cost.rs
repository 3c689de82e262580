//! What a hit in the flow table costs: key, hash, lookup and counting, in bursts of 32.
//!
//! ```text
//! cargo run --release -p bulkhead-pipeline --example flow_table_cost [PACKETS] [FLOWS…]
//! ```
//!
//! Flows are met in random order, two thirds of the packets from the initiator. The cost of making
//! the packets up is measured apart and subtracted. For instructions run it under
//! `perf stat -e instructions` with one number of flows, or under callgrind with few packets.

use std::hint::black_box;
use std::time::Instant;

use bulkhead_pipeline::conntrack::Connection;
use bulkhead_pipeline::flow_table::{
    Candidate, FlowHash, FlowKey, FlowTable, FlowTableConfig, Judgement, NewFlow,
};
use bulkhead_pipeline::parse::{Kind, Parsed};
use bulkhead_rules::classifier::Footprint;
use bulkhead_rules::headers::{ETHER_IPV4, Headers, protocol};
use bulkhead_rules::policy::RuleId;

const BURST: usize = 32;
/// Packets of one repetition: short, so that the best of many is undisturbed by what else the
/// machine does, which only adds.
const REPETITION: u64 = 6_400;

fn packet(flow: u64, reply: bool) -> Parsed {
    let (client, server) = (0x0a00_0000 + u128::from(flow), 0xc0a8_0001);
    let (src, dst) = if reply { (server, client) } else { (client, server) };
    let ports = if reply { (53, 4000) } else { (4000, 53) };
    let headers = Headers {
        src,
        dst,
        src_port: ports.0,
        dst_port: ports.1,
        ether_type: ETHER_IPV4,
        protocol: protocol::UDP,
        ..Headers::default()
    };
    Parsed { headers, kind: Kind::Other, flow_ports: ports, ..Parsed::default() }
}

fn make_up(dice: &mut u64, flows: u64, burst: &mut [Parsed; BURST]) {
    for place in burst {
        *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let flow = ((u128::from(*dice >> 32) * u128::from(flows)) >> 32) as u64;
        *place = packet(flow, (*dice >> 20) % 3 == 0);
    }
}

fn judge(table: &mut FlowTable, burst: &[Parsed; BURST], now_ns: u64) -> usize {
    let mut keys = [FlowKey::of(&burst[0], 0); BURST];
    let mut hashes = [FlowHash::default(); BURST];
    for ((parsed, key), hash) in burst.iter().zip(&mut keys).zip(&mut hashes) {
        *key = FlowKey::of(parsed, 0);
        *hash = table.hash(&key.0);
        table.prefetch(*hash);
    }
    let mut candidates = [Candidate::NONE; BURST];
    for (candidate, hash) in candidates.iter_mut().zip(hashes) {
        *candidate = table.candidate(hash).unwrap_or(Candidate::NONE);
    }
    for (candidate, hash) in candidates.iter_mut().zip(hashes) {
        if *candidate == Candidate::NONE {
            *candidate = table.other_candidate(hash);
        }
    }
    let mut hits = 0;
    for (((key, sender), hash), candidate) in keys.iter().zip(hashes).zip(candidates) {
        if let Some(index) = table.find_at(candidate, hash, key, now_ns) {
            let entry = table.entry_mut(index);
            let direction = entry.direction(*sender);
            entry.connection_mut().note(direction);
            entry.count(direction, 64, true, now_ns);
            hits += 1;
        }
    }
    hits
}

fn open(table: &mut FlowTable, flow: u64) {
    let parsed = packet(flow, false);
    let (key, initiator) = FlowKey::of(&parsed, 0);
    let connection = Connection::of_first(&parsed, None).expect("UDP opens a flow");
    let judgement = Judgement {
        rule: RuleId(1),
        footprint: Footprint::default(),
        epoch: 1,
        permitted: true,
        mac_sensitive: false,
    };
    let new = NewFlow {
        initiator,
        headers: &parsed.headers,
        judgement,
        connection,
        client_inside: true,
        opening_seen: true,
    };
    table.insert(table.hash(&key), &key, &new, 0).expect("there is room, or it is made");
}

/// What an insertion costs that finds both of its sets full and has to make room: the best of many
/// short counts, from sources that were never seen.
fn flood(table: &mut FlowTable, flows: u64) -> f64 {
    let mut flow = flows;
    while table.counters.evicted.iter().sum::<u64>() < table.capacity() as u64 / 4 {
        open(table, flow);
        flow += 1;
    }
    let mut best = f64::INFINITY;
    for _ in 0..1000 {
        let began = Instant::now();
        for _ in 0..64 {
            open(table, flow);
            flow += 1;
        }
        best = best.min(began.elapsed().as_nanos() as f64 / 64.0);
    }
    best
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<u64>().ok());
    let packets = numbers.next().unwrap_or(20_000_000);
    let mut sizes: Vec<u64> = numbers.collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 100_000, 1_000_000];
    }
    for flows in sizes {
        let config = FlowTableConfig { capacity: flows as usize * 5 / 4, ..Default::default() };
        let mut table = FlowTable::new(&config);
        let mut insertions: Vec<f64> = (0..flows / 64)
            .map(|chunk| {
                let began = Instant::now();
                (chunk * 64..chunk * 64 + 64).for_each(|flow| open(&mut table, flow));
                began.elapsed().as_nanos() as f64 / 64.0
            })
            .collect();
        (flows / 64 * 64..flows).for_each(|flow| open(&mut table, flow));
        insertions.sort_by(f64::total_cmp);
        let insert_ns = insertions.get(insertions.len() / 2).copied().unwrap_or(f64::NAN);
        let bursts = REPETITION / BURST as u64;
        let count = (bursts * BURST as u64) as f64;
        let mut burst = [packet(0, false); BURST];
        let mut dice = 1;
        let mut best = [f64::INFINITY; 2];
        for _ in 0..packets.div_ceil(REPETITION) {
            let began = Instant::now();
            for _ in 0..bursts {
                make_up(&mut dice, flows, &mut burst);
                black_box(&burst);
            }
            best[0] = best[0].min(began.elapsed().as_nanos() as f64 / count);
            let mut hits = 0;
            let began = Instant::now();
            for at in 0..bursts {
                make_up(&mut dice, flows, &mut burst);
                hits += judge(&mut table, black_box(&burst), at);
            }
            best[1] = best[1].min(began.elapsed().as_nanos() as f64 / count);
            assert_eq!(hits as f64, count, "every packet hits");
        }
        let load = table.len() as f64 / table.capacity() as f64;
        let flood_ns = flood(&mut table, flows);
        println!(
            "{flows:>9} flows, {:>6.1} MB, load {load:.2}: {:6.1} ns a hit, {insert_ns:6.1} ns an insertion (median), \
             {flood_ns:6.1} ns one that has to make room (making up: {:.1} ns)",
            table.size_bytes() as f64 / 1e6,
            best[1] - best[0],
            best[0],
        );
    }
}
