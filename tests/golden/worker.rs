//! The production worker as an engine: the packet as a frame on its wire, sent twice, so that the
//! second one is judged by the flow that the first one opened.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::parse::{Kind, parse};
use bulkhead_pipeline::port::loopback::{self, Host, Options};
use bulkhead_pipeline::snapshot::{
    Content, Mode, Publisher, RuleTotals, Sides, WallClock, WirePolicy,
};
use bulkhead_pipeline::worker::{VirtualClock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::classifier::Classifier;
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::headers::{ETHER_IPV4, Headers, PolicyTime, WireId, protocol};
use bulkhead_rules::policy::{Action, Policy, RuleId};

use crate::Query;

pub(crate) fn judge(policy: &Policy, queries: &[Query]) -> Vec<Option<RuleId>> {
    let classifier = compile(policy, &Limits::default()).expect("a small policy compiles");
    let (policy, classifier) = (Arc::new(policy.clone()), Arc::new(classifier));
    let judge = |(headers, at): &Query| {
        let frame = frame(headers)?;
        Some(judge_one(&policy, &classifier, headers.wire, &frame, *at))
    };
    queries.iter().map(judge).collect()
}

/// The frame that parses to exactly these headers and that a flow is opened by, if there is one.
fn frame(headers: &Headers) -> Option<Vec<u8>> {
    let h = headers;
    let mut builder = FrameBuilder::new().macs(h.src_mac, h.dst_mac);
    for vid in [h.tags.outer, h.tags.inner].into_iter().filter(|&vid| vid != 0) {
        builder = builder.vlan(vid);
    }
    let address = |bits: u128| match h.ether_type {
        ETHER_IPV4 => IpAddr::from(Ipv4Addr::from(bits as u32)),
        _ => IpAddr::from(Ipv6Addr::from(bits)),
    };
    let builder = if h.is_ip() {
        let builder = builder.ip(address(h.src), address(h.dst));
        let [icmp_type, icmp_code] = h.dst_port.to_be_bytes();
        match h.protocol {
            protocol::TCP => builder.tcp(h.src_port, h.dst_port, flag::SYN),
            protocol::UDP => builder.udp(h.src_port, h.dst_port),
            protocol::SCTP => builder.sctp(h.src_port, h.dst_port),
            protocol::ICMP | protocol::ICMPV6 => builder.icmp(icmp_type, icmp_code, 0x0001_0001),
            other => builder.protocol(other).payload(&[0; 24]),
        }
    } else if let Ok(dsap) = u8::try_from(h.ether_type) {
        builder.llc().payload(&[dsap, dsap, 3, 0])
    } else {
        builder.ether_type(h.ether_type)
    };
    let frame = builder.build();
    let parsed = parse(&frame, h.wire).ok()?;
    let opens = match parsed.kind {
        Kind::Tcp | Kind::Dhcp | Kind::Other => true,
        Kind::IcmpQuery => matches!(h.dst_port >> 8, 8 | 13 | 128),
        _ => false,
    };
    (opens && parsed.headers == *h).then_some(frame)
}

fn judge_one(
    policy: &Arc<Policy>,
    classifier: &Arc<Classifier>,
    wire: WireId,
    frame: &[u8],
    at: PolicyTime,
) -> RuleId {
    // The rules alone decide, whichever side a DHCP server or a router is on.
    let (routers, dhcp_servers) = (Sides::BOTH, Sides::BOTH);
    let of_wire = WirePolicy { routers, dhcp_servers, ..WirePolicy::new(Mode::Enforce, 0) };
    let content = Content {
        policy: policy.clone(),
        classifier: classifier.clone(),
        wires: vec![of_wire; usize::from(wire.0) + 1],
        clock: WallClock { offset_ms: at.unix_ms, synchronised: at.synchronised },
    };
    let mut config = WorkerConfig::default();
    config.flows.capacity = 64;
    let small = Options { queue_frames: 4, pool_frames: 16, ..Options::default() };
    let ((inside, from), (outside, to)) = (loopback::pair(small), loopback::pair(small));
    let ports = vec![WirePorts { wire, group: wire.0, inside, outside }];
    let (publisher, mut readers) = Publisher::new(content, 1);
    let (recorder, _observer) = observe::channel(1);
    let (counters, clock) = (Arc::new(WorkerCounters::new(1)), VirtualClock::default());
    let reader = readers.remove(0);
    let mut worker = Worker::new(&config, ports, reader, counters, recorder, clock);

    let mut passes = |host: &Host| {
        host.send(frame).expect("room");
        worker.poll();
        let passed = to.receive().is_some();
        let totals = publisher.rule_totals();
        let hits: Vec<u64> =
            totals.iter().map(|(_, RuleTotals { enforced, .. })| *enforced).collect();
        (passed, hits)
    };
    let (first, hits) = passes(&from);
    let (second, hits_again) = passes(&from);
    let place = hits.iter().position(|&n| n > 0).expect("a rule or the default decided");
    let rule = if place < policy.rules().len() { RuleId(place as u32) } else { RuleId::DEFAULT };
    let permitted = policy.action(rule) == Action::Allow;
    assert_eq!((first, second), (permitted, permitted), "the verdict is the rule's, twice");
    // A packet that rides a flow is no hit; a packet that is denied is one each time.
    let expected_hits = if permitted { 1 } else { 2 };
    assert_eq!(hits_again.iter().sum::<u64>(), expected_hits, "the flow decided the second one");
    rule
}
