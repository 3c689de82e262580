use super::*;
use crate::flow_stream::MacAddress;
use bulkhead_pipeline::frames::FrameBuilder;

const HOUR_MS: i64 = 3_600_000;

fn flow(event: Event, at_ms: i64) -> Flow {
    Flow {
        event,
        first_ms: 10 * HOUR_MS,
        last_ms: at_ms,
        wire: "line3".to_owned(),
        client_side: Side::Outside,
        vlan: [30, 0],
        ether_type: 0x0800,
        protocol: 6,
        client: Some(IpAddr::from([10, 20, 0, 11])),
        server: Some(IpAddr::from([10, 30, 3, 11])),
        client_port: 40_000,
        server_port: 502,
        client_mac: MacAddress(Mac([2, 0, 0, 0, 0, 1])),
        server_mac: MacAddress(Mac([2, 0, 0, 0, 0, 2])),
        opening_seen: true,
        answered: false,
        client_packets: 1,
        server_packets: 0,
        client_bytes: 60,
        server_bytes: 0,
        end: None,
        allowed: true,
        reason: None,
        rule: "r".to_owned(),
        epoch: 1,
        enforced: false,
        staged: None,
    }
}

fn ingest(limits: Limits) -> Ingest {
    Ingest::new(3600, limits, HashMap::new())
}

fn sum(batch: &Batch) -> EdgeSum {
    let mut total: Option<EdgeSum> = None;
    for sum in batch.edges.values() {
        let total =
            total.get_or_insert_with(|| EdgeSum { first_ms: i64::MAX, ..EdgeSum::default() });
        total.flows += sum.flows;
        total.answered += sum.answered;
        total.failed += sum.failed;
        total.denied += sum.denied;
        total.client_packets += sum.client_packets;
        total.server_packets += sum.server_packets;
        total.client_bytes += sum.client_bytes;
    }
    total.unwrap_or_default()
}

#[test]
fn a_long_flow_counts_once_and_in_the_hours_it_lived_in() {
    let mut ingest = ingest(Limits::default());
    ingest.add(&Message::Flow(Box::new(flow(Event::Started, 10 * HOUR_MS))));
    for hour in 1..=3 {
        let packets = 10 * hour as u64;
        let record = Flow {
            answered: true,
            client_packets: packets,
            server_packets: packets,
            client_bytes: 60 * packets,
            ..flow(Event::Continues, (10 + hour) * HOUR_MS)
        };
        ingest.add(&Message::Flow(Box::new(record)));
    }
    assert_eq!(ingest.batch.edges.len(), 4, "an hour each");
    assert_eq!(ingest.open_flows(), 1);
    let before = sum(&ingest.take_batch());
    // What was handed over is not counted again, and its end is told.
    let end = Flow {
        answered: true,
        client_packets: 31,
        server_packets: 30,
        client_bytes: 60 * 31,
        end: Some(End::Closed),
        ..flow(Event::Ended, 13 * HOUR_MS + 5)
    };
    ingest.add(&Message::Flow(Box::new(end)));
    let after = sum(&ingest.batch);
    assert_eq!((before.flows, after.flows), (1, 0));
    assert_eq!((before.client_packets, after.client_packets), (30, 1));
    assert_eq!(before.client_bytes + after.client_bytes, 60 * 31);
    assert_eq!(ingest.open_flows(), 0);
    assert!(ingest.batch.flows.values().all(Option::is_none) && ingest.batch.flows.len() == 1);
}

#[test]
fn a_flow_that_the_store_knows_goes_on_after_a_restart() {
    let mut ingest = ingest(Limits::default());
    let record = Flow { client_packets: 7, ..flow(Event::Continues, 11 * HOUR_MS) };
    ingest.add(&Message::Flow(Box::new(record.clone())));
    let stored = ingest.take_batch();
    let open = stored.flows.into_iter().filter_map(|(key, open)| Some((key, open?))).collect();
    let mut again = Ingest::new(3600, Limits::default(), open);
    let record = Flow { client_packets: 9, ..record };
    again.add(&Message::Flow(Box::new(record)));
    let total = sum(&again.batch);
    assert_eq!((total.flows, total.client_packets), (0, 2));
}

#[test]
fn no_answer_and_a_refusal_are_failures() {
    for (end, answered, server_packets, is_failed) in [
        (End::Idle, false, 0, true),
        (End::Reset, true, 1, true),
        (End::Reset, true, 9, false),
        (End::Closed, true, 5, false),
    ] {
        let mut ingest = ingest(Limits::default());
        let record = Flow {
            answered,
            server_packets,
            end: Some(end),
            ..flow(Event::Ended, 10 * HOUR_MS + 1)
        };
        ingest.add(&Message::Flow(Box::new(record)));
        let total = sum(&ingest.batch);
        assert_eq!(total.failed == 1, is_failed, "{end:?}");
        assert_eq!(total.answered == 1, !is_failed, "{end:?}");
        assert!(ingest.batch.flows.is_empty(), "the store never knew it");
    }
}

#[test]
fn what_an_observing_wire_lets_pass_is_a_flow_unless_it_lies() {
    for (enforced, reason, expected) in [
        (true, "policy", (0, 3, 0)),
        (false, "policy", (1, 0, 1)),
        (false, "tcp_no_flow", (1, 0, 1)),
        (false, "address_spoofed", (0, 0, 1)),
    ] {
        let mut ingest = ingest(Limits::default());
        let reason = Some(reason.to_owned());
        let record =
            Flow { enforced, reason, client_packets: 3, ..flow(Event::Denied, 10 * HOUR_MS) };
        ingest.add(&Message::Flow(Box::new(record)));
        let sums: Vec<&EdgeSum> = ingest.batch.edges.values().collect();
        assert_eq!((sums[0].flows, sums[0].denied, sums[0].would_deny), expected);
    }
}

#[test]
fn what_has_no_room_is_counted() {
    let limits = Limits { edges: 1, facts: 1, open_flows: 1 };
    let mut ingest = ingest(limits);
    for port in 0..3 {
        let record =
            Flow { server_port: 500 + port, enforced: true, ..flow(Event::Denied, 10 * HOUR_MS) };
        ingest.add(&Message::Flow(Box::new(record)));
    }
    assert_eq!(ingest.counters.flows_dropped, 2);
    assert_eq!(ingest.batch.edges.len(), 1);
    assert_eq!(ingest.counters.facts_dropped, 1, "the second endpoint");
    ingest.add(&Message::Lost(Lost { flows: 3, frames: 4 }));
    assert_eq!((ingest.counters.flows_lost, ingest.counters.frames_lost), (3, 4));
}

#[test]
fn an_answer_that_is_seen_first_is_held_back() {
    let mut ingest = ingest(Limits::default());
    let record =
        Flow { protocol: 17, client_port: 53, server_port: 50_000, ..flow(Event::Started, 0) };
    ingest.add(&Message::Flow(Box::new(record)));
    assert!(ingest.batch.edges.keys().all(|key| key.client_port == 53));
}

#[test]
fn copies_of_frames_tell_applications_though_they_are_cut() {
    let whole = FrameBuilder::new()
        .macs(Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]))
        .ip([10, 0, 0, 1].into_ip(), [10, 0, 0, 2].into_ip())
        .tcp(40_000, 8_443, 0x18)
        .payload(&[[22, 3, 1, 0, 200, 1, 0, 0, 196].as_slice(), &[0; 400]].concat())
        .build();
    let frame = Frame {
        kind: FrameKind::FirstPayload,
        unix_ms: 5,
        wire: "line3".to_owned(),
        from: Side::Inside,
        rule: None,
        reason: None,
        len: whole.len() as u32,
        bytes: whole[..128].to_vec(),
    };
    let mut ingest = ingest(Limits::default());
    ingest.add(&Message::Frame(Box::new(frame)));
    let known: Vec<_> = ingest.batch.services.keys().collect();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].application, Application::Tls);
    assert_eq!(known[0].service, Service::Port(PortProtocol::Tcp, 8_443));
    assert_eq!(known[0].server.address, Some(IpAddr::from([10, 0, 0, 2])));
}

trait IntoIp {
    fn into_ip(self) -> IpAddr;
}

impl IntoIp for [u8; 4] {
    fn into_ip(self) -> IpAddr {
        IpAddr::from(self)
    }
}
