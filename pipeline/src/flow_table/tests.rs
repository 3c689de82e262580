use std::collections::HashMap;
use std::net::IpAddr;

use bulkhead_rules::classifier::Footprint;
use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, VlanTags, WireId, protocol};
use bulkhead_rules::policy::RuleId;
use proptest::prelude::*;

use super::*;
use crate::conntrack::{Connection, Direction, Outcome, flag};
use crate::frames::FrameBuilder;
use crate::parse::{Kind, Parsed, TcpSegment, parse, parse_quoted};

const SECOND: u64 = 1_000_000_000;
const TICK: u64 = 1 << TICK_SHIFT;

fn udp(src: u128, sport: u16, dst: u128, dport: u16) -> Parsed {
    let headers = Headers {
        src,
        dst,
        src_port: sport,
        dst_port: dport,
        ether_type: if src >> 32 == 0 { ETHER_IPV4 } else { ETHER_IPV6 },
        protocol: protocol::UDP,
        wire: WireId(3),
        tags: VlanTags::single(30),
        src_mac: Mac([2, 0, 0, 0, 0, 1]),
        dst_mac: Mac([2, 0, 0, 0, 0, 2]),
    };
    Parsed { headers, kind: Kind::Other, flow_ports: (sport, dport), ..Parsed::default() }
}

fn new_flow(parsed: &Parsed, initiator: End) -> NewFlow<'_> {
    NewFlow {
        initiator,
        headers: &parsed.headers,
        judgement: judgement(RuleId(7), 1),
        connection: Connection::of_first(parsed, None).unwrap(),
        client_inside: true,
        opening_seen: true,
    }
}

fn judgement(rule: RuleId, epoch: u32) -> Judgement {
    let footprint = Footprint { src: 4095, dst: 77 };
    Judgement { rule, footprint, epoch, permitted: true, mac_sensitive: false }
}

fn config(capacity: usize) -> FlowTableConfig {
    FlowTableConfig { capacity, seed: Some([1, 2, 3, 4]), ..Default::default() }
}

fn table(capacity: usize) -> FlowTable {
    FlowTable::new(&config(capacity))
}

fn insert(table: &mut FlowTable, parsed: &Parsed, now: u64) -> Result<FlowIndex, InsertError> {
    let (key, sender) = FlowKey::of(parsed, 0);
    table.insert(table.hash(&key), &key, &new_flow(parsed, sender), now)
}

/// Inserts a flow that both sides have used: it may not be evicted.
fn insert_answered(
    table: &mut FlowTable,
    parsed: &Parsed,
    now: u64,
) -> Result<FlowIndex, InsertError> {
    let index = insert(table, parsed, now)?;
    table.entry_mut(index).connection_mut().note(Direction::FromResponder);
    Ok(index)
}

fn find(table: &mut FlowTable, parsed: &Parsed, now: u64) -> Option<FlowIndex> {
    let (key, _) = FlowKey::of(parsed, 0);
    table.find(table.hash(&key), &key, now)
}

/// The nth of many distinct flows of many distinct sources.
fn nth(n: u64) -> Parsed {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    udp(u128::from(0x0a00_0000 | n as u32), (mixed >> 48) as u16, 0xc0a8_0001, 53)
}

#[test]
fn both_directions_meet_one_entry_that_knows_its_initiator() {
    for (src, dst) in [(0x0a00_0001, 0x0a00_0002), (9_u128 << 100, 5_u128 << 100), (1, 1)] {
        let mut table = table(1024);
        let there = udp(src, 40_000, dst, 53);
        let back = udp(dst, 53, src, 40_000);
        let (key, sender) = FlowKey::of(&there, 0);
        let (back_key, answerer) = FlowKey::of(&back, 0);
        assert_eq!(key, back_key);
        assert_eq!(sender, answerer.opposite());
        assert_eq!(find(&mut table, &there, 0), None);
        let index = insert(&mut table, &there, 0).unwrap();
        assert_eq!(find(&mut table, &back, SECOND), Some(index));
        let entry = table.entry(index);
        assert_eq!(entry.direction(sender), Direction::FromInitiator);
        assert_eq!(entry.direction(answerer), Direction::FromResponder);
        assert_eq!(entry.initiator_headers(), there.headers);
        assert_eq!((entry.rule(), entry.epoch(), entry.is_permitted()), (RuleId(7), 1, true));
        assert_eq!(table.len(), 1);
        table.remove(index, Ending::Replaced);
        table.remove(index, Ending::Replaced);
        assert_eq!((table.len(), table.counters.removed), (0, 1));
        assert_eq!(find(&mut table, &there, 0), None);
    }
}

#[test]
fn what_differs_in_any_field_of_the_key_is_another_flow() {
    let base = udp(1, 2, 3, 4);
    let change = |edit: fn(&mut Parsed)| {
        let mut parsed = base;
        edit(&mut parsed);
        FlowKey::of(&parsed, 0).0
    };
    let keys = [
        FlowKey::of(&base, 0).0,
        FlowKey::of(&base, 1).0,
        change(|p| p.headers.src = 9),
        change(|p| p.headers.dst = 9),
        // The upper halves of addresses count in IPv6; in IPv4 they are zero.
        change(|p| (p.headers.src, p.headers.ether_type) = (1 << 64 | 1, ETHER_IPV6)),
        change(|p| p.flow_ports.0 = 9),
        change(|p| p.flow_ports.1 = 9),
        change(|p| p.headers.tags = VlanTags::single(31)),
        change(|p| p.headers.tags = VlanTags { outer: 30, inner: 30 }),
        change(|p| p.headers.protocol = protocol::TCP),
        change(|p| p.headers.ether_type = ETHER_IPV6),
        // The same addresses with the ports the other way round.
        change(|p| p.flow_ports = (p.flow_ports.1, p.flow_ports.0)),
    ];
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key), "key {at}");
    }
    // What is not of the key: the wire (its group is), MAC addresses.
    assert_eq!(change(|p| p.headers.wire = WireId(9)), keys[0]);
    assert_eq!(change(|p| p.headers.src_mac = Mac([9; 6])), keys[0]);
}

#[test]
fn a_tag_is_no_proof() {
    let mut table = table(64);
    let known = udp(1, 2, 3, 4);
    insert(&mut table, &known, 0).unwrap();
    let (known_key, _) = FlowKey::of(&known, 0);
    let (other_key, _) = FlowKey::of(&udp(1, 2, 3, 5), 0);
    let hash = table.hash(&known_key);
    assert!(table.find(hash, &known_key, 0).is_some());
    assert_eq!(table.find(hash, &other_key, 0), None);
    // Two flows of one hash live side by side.
    table.insert(hash, &other_key, &new_flow(&known, End::Low), 0).unwrap();
    let a = table.find(hash, &known_key, 0).unwrap();
    let b = table.find(hash, &other_key, 0).unwrap();
    assert_ne!(a, b);
}

#[test]
fn frames_that_are_not_ip_have_flows_by_mac_address() {
    let frame = |src: u8, dst: u8| {
        let frame = FrameBuilder::new()
            .macs(Mac([2, 0, 0, 0, 0, src]), Mac([2, 0, 0, 0, 0, dst]))
            .ether_type(0x8892)
            .payload_len(46)
            .build();
        parse(&frame, WireId(1)).unwrap()
    };
    let (there, back) = (frame(1, 2), frame(2, 1));
    let (key, sender) = FlowKey::of(&there, 0);
    assert_eq!(FlowKey::of(&back, 0), (key, sender.opposite()));
    assert_ne!(FlowKey::of(&frame(1, 3), 0).0, key);
    let mut table = table(64);
    let index = insert(&mut table, &there, 0).unwrap();
    assert_eq!(table.entry(index).initiator_headers(), there.headers);
    assert_eq!(table.entry(index).phase(), Phase::OtherUnanswered);
}

fn icmp(src: &str, dst: &str, icmp_type: u8, identifier: u16) -> Parsed {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let rest = u32::from(identifier) << 16 | 1;
    let frame = FrameBuilder::new().ip(src, dst).icmp(icmp_type, 0, rest).payload_len(24).build();
    parse(&frame, WireId(1)).unwrap()
}

#[test]
fn a_reply_meets_only_the_flow_of_its_request() {
    for (a, b, request, reply) in [("10.0.0.1", "10.0.0.2", 8, 0), ("fd00::2", "fd00::1", 128, 129)]
    {
        let mut table = table(64);
        let asked = icmp(a, b, request, 77);
        let index = insert(&mut table, &asked, 0).unwrap();
        assert_eq!(find(&mut table, &icmp(b, a, reply, 77), 0), Some(index));
        assert_eq!(find(&mut table, &icmp(a, b, request, 77), 0), Some(index));
        assert_eq!(table.entry(index).initiator_headers(), asked.headers);
        let (_, answerer) = FlowKey::of(&icmp(b, a, reply, 77), 0);
        assert_eq!(table.entry(index).direction(answerer), Direction::FromResponder);
        // The responder's own request, its stray replies, and other identifiers are other flows.
        assert_eq!(find(&mut table, &icmp(b, a, request, 77), 0), None);
        assert_eq!(find(&mut table, &icmp(a, b, reply, 77), 0), None);
        assert_eq!(find(&mut table, &icmp(b, a, reply, 78), 0), None);
    }
    let mut table = table(64);
    insert(&mut table, &icmp("10.0.0.1", "10.0.0.2", 8, 77), 0).unwrap();
    let timestamp_reply = icmp("10.0.0.2", "10.0.0.1", 14, 77);
    assert_eq!(find(&mut table, &timestamp_reply, 0), None);
}

/// What an error quotes has the key of the packet itself, for every protocol and ICMP type.
#[test]
fn a_quoted_packet_has_the_key_of_the_packet() {
    let (a, b, router) = ("10.0.0.1", "10.0.0.2", "10.9.9.9");
    let addr = |text: &str| text.parse::<IpAddr>().unwrap();
    let from_a = || FrameBuilder::new().ip(addr(a), addr(b));
    let mut quotable: Vec<_> = (0..=255_u8).map(|t| from_a().icmp(t, 0, 77 << 16)).collect();
    quotable.push(from_a().udp(1000, 53));
    quotable.push(from_a().tcp(1000, 80, flag::SYN));
    quotable.push(from_a().sctp(1000, 80));
    quotable.push(from_a().protocol(47).payload_len(40));
    let mut quoted_count = 0;
    for builder in quotable {
        let builder = builder.payload_len(24).vlan(30);
        let frame = builder.build();
        let Ok(parsed) = parse(&frame, WireId(1)) else { continue };
        if parsed.kind == Kind::IcmpError {
            continue;
        }
        let start = usize::from(parsed.network_offset);
        let error = FrameBuilder::new()
            .ip(addr(router), addr(a))
            .icmp(3, 4, 1400)
            .payload(&frame[start..usize::from(parsed.packet_end)])
            .vlan(30)
            .build();
        let outer = parse(&error, WireId(1)).unwrap();
        let (quoted, ports) = parse_quoted(&error, &outer).unwrap();
        let of_quoted = FlowKey::of_quoted(&quoted, ports, 5, outer.headers.tags);
        assert_eq!(of_quoted, FlowKey::of(&parsed, 5), "{:?}", parsed.headers);
        quoted_count += 1;
    }
    assert!(quoted_count > 200, "{quoted_count}");
}

#[test]
fn an_entry_counts_and_remembers_what_judged_it() {
    let mut table = table(64);
    let there = udp(1, 2, 3, 4);
    let index = insert(&mut table, &there, 10 * SECOND).unwrap();
    let [a, b, c] = [1, 2, 3].map(|last| Mac([2, 0, 0, 0, 0, last]));
    let entry = table.entry_mut(index);
    assert!(entry.admits(Direction::FromInitiator, [c, c], true), "no rule tests a MAC address");
    assert_eq!(entry.footprint(), Footprint { src: 4095, dst: 77 });
    let again = judgement(RuleId(9), 2);
    entry.judged(Judgement { permitted: false, mac_sensitive: true, ..again }, [a, b]);
    assert_eq!((entry.rule(), entry.epoch(), entry.is_permitted()), (RuleId(9), 2, false));
    assert!(entry.admits(Direction::FromInitiator, [a, b], true));
    assert!(entry.admits(Direction::FromResponder, [b, a], false));
    assert!(!entry.admits(Direction::FromResponder, [a, b], false));
    assert!(!entry.admits(Direction::FromInitiator, [c, b], true));
    assert_eq!(entry.direction(FlowKey::of(&there, 0).1), Direction::FromInitiator);

    entry.count(Direction::FromInitiator, 1500, true, 12 * SECOND);
    entry.count(Direction::FromResponder, 60, true, 13 * SECOND);
    entry.count(Direction::FromResponder, 60, false, 20 * SECOND);
    assert_eq!(entry.packets(Direction::FromInitiator), 1);
    assert_eq!(entry.bytes(Direction::FromInitiator), 1500);
    assert_eq!(entry.packets(Direction::FromResponder), 2);
    assert_eq!(entry.bytes(Direction::FromResponder), 120);
    entry.judged(
        Judgement { footprint: Footprint { src: 0, dst: 4095 }, ..judgement(RuleId(9), 3) },
        [a, b],
    );
    assert_eq!(entry.footprint(), Footprint { src: 0, dst: 4095 }, "and no byte is forgotten");
    assert_eq!(entry.bytes(Direction::FromInitiator), 1500);
    assert_eq!(entry.bytes(Direction::FromResponder), 120);
    let near = |ns: u64, expected: u64| ns.abs_diff(expected) <= TICK;
    assert!(near(entry.silent_ns(20 * SECOND), 7 * SECOND));
    assert!(near(entry.age_ns(20 * SECOND), 10 * SECOND));
    assert_eq!(entry.silent_ns(SECOND), 0, "time that runs backwards stands still");
}

#[test]
fn a_packet_with_the_right_macs_comes_from_the_side_of_its_sender() {
    let parsed = udp(1, 2, 3, 4);
    let (key, initiator) = FlowKey::of(&parsed, 0);
    let (client, server) = (parsed.headers.src_mac, parsed.headers.dst_mac);
    for (inside, from_inside, sensitive) in
        (0..8).map(|bits| (bits & 1 == 0, bits & 2 == 0, bits & 4 == 0))
    {
        let judgement = Judgement { mac_sensitive: sensitive, ..judgement(RuleId(7), 1) };
        let new = NewFlow { client_inside: inside, judgement, ..new_flow(&parsed, initiator) };
        let mut entry = FlowEntry::VACANT;
        entry.begin(&key, &new, 0);
        let is_right = !sensitive || from_inside == inside;
        assert_eq!(entry.admits(Direction::FromInitiator, [client, server], from_inside), is_right);
        let is_right = !sensitive || from_inside != inside;
        assert_eq!(entry.admits(Direction::FromResponder, [server, client], from_inside), is_right);
        entry.judged(judgement, [client, server]);
        entry.initiator_is(!inside);
        assert_eq!(entry.admits(Direction::FromInitiator, [client, server], from_inside), is_right);
    }
}

#[test]
fn packets_are_counted_beyond_32_bits() {
    let mut table = table(64);
    let index = insert(&mut table, &udp(1, 2, 3, 4), 0).unwrap();
    let entry = table.entry_mut(index);
    entry.set_packets(Direction::FromInitiator, u64::from(u32::MAX));
    entry.count(Direction::FromInitiator, 1, true, 0);
    assert_eq!(entry.packets(Direction::FromInitiator), 1 << 32);
    assert_eq!(entry.packets(Direction::FromResponder), 0);
}

/// A flow in each phase, by way of what its packets do.
fn flow_in(phase: Phase) -> (Parsed, Connection) {
    let segment =
        |flags, seq, ack| TcpSegment { flags, seq, ack, window: 999, ..Default::default() };
    let syn = segment(flag::SYN, 10, 0);
    let syn_ack = segment(flag::SYN | flag::ACK, 20, 11);
    let ack = segment(flag::ACK, 11, 21);
    let fin = segment(flag::FIN | flag::ACK, 11, 21);
    let fin_back = segment(flag::FIN | flag::ACK, 21, 12);
    let last_ack = segment(flag::ACK, 12, 22);
    let rst = segment(flag::RST, 11, 0);
    let (i, r) = (Direction::FromInitiator, Direction::FromResponder);
    let script: &[(Direction, TcpSegment)] = match phase {
        Phase::SynReceived => &[(r, syn_ack)],
        Phase::Established => &[(r, syn_ack), (i, ack)],
        Phase::HalfClosed => &[(r, syn_ack), (i, ack), (i, fin)],
        Phase::Closing => &[(r, syn_ack), (i, ack), (i, fin), (r, fin_back)],
        Phase::TimeWait => &[(r, syn_ack), (i, ack), (i, fin), (r, fin_back), (i, last_ack)],
        Phase::Closed => &[(r, syn_ack), (i, ack), (i, rst)],
        _ => &[],
    };
    let mut parsed = udp(1, 2, 3, 4);
    let mut connection = Connection::open(&syn);
    for (direction, segment) in script {
        assert_ne!(connection.update(*direction, segment), Ok(Outcome::Reopen));
    }
    match phase {
        Phase::Adopted => {
            parsed.headers.protocol = protocol::TCP;
            connection = Connection::adopt(&ack, i).unwrap();
        }
        Phase::UdpUnanswered | Phase::UdpAnswered => {}
        Phase::IcmpUnanswered | Phase::IcmpAnswered => parsed.headers.protocol = protocol::ICMP,
        Phase::OtherUnanswered | Phase::OtherAnswered => parsed.headers.protocol = 47,
        _ => parsed.headers.protocol = protocol::TCP,
    }
    if parsed.headers.protocol != protocol::TCP {
        connection = Connection::of_first(&parsed, None).unwrap();
    }
    if matches!(phase, Phase::UdpAnswered | Phase::IcmpAnswered | Phase::OtherAnswered) {
        connection.note(r);
    }
    assert_eq!(connection.phase(), phase);
    (parsed, connection)
}

#[test]
fn a_flow_of_any_phase_lives_for_its_timeout_and_no_longer() {
    let timeouts = Timeouts::default();
    for &phase in Phase::ALL {
        let (parsed, connection) = flow_in(phase);
        let (key, sender) = FlowKey::of(&parsed, 0);
        let timeout = u64::from(timeouts.of(phase)) * SECOND;
        for began in [0, 1, TICK - 1, 123_456_789_012_345, u64::from(u32::MAX) << TICK_SHIFT] {
            for (wait, lives) in
                [(0, true), (timeout, true), (timeout + 2 * TICK, false), (3 * timeout, false)]
            {
                let mut table = table(64);
                let hash = table.hash(&key);
                let new = NewFlow {
                    initiator: sender,
                    headers: &parsed.headers,
                    judgement: judgement(RuleId(0), 0),
                    connection,
                    client_inside: false,
                    opening_seen: false,
                };
                table.insert(hash, &key, &new, began).unwrap();
                if wait % 2 == 0 {
                    table.age(began + wait, 64);
                    assert_eq!(table.len(), usize::from(lives), "{phase:?} aged after {wait}");
                }
                let found = table.find(hash, &key, began + wait);
                assert_eq!(found.is_some(), lives, "{phase:?} after {wait}");
                assert_eq!(table.len(), usize::from(lives));
                assert_eq!(table.counters.expired[phase as usize], u64::from(!lives));
            }
        }
    }
}

#[test]
fn the_clock_hand_passes_every_entry_with_constant_work() {
    let mut table = table(4096);
    for n in 0..1000 {
        insert(&mut table, &nth(n), 0).unwrap();
    }
    let mut examined = 0;
    for _ in 0..4096 / 64 {
        let aged = table.age(20 * SECOND, 64);
        examined += aged.examined;
        assert!(aged.examined <= 64);
    }
    assert_eq!((examined, table.len()), (1000, 1000));
    let mut expired = 0;
    for _ in 0..4096 / 64 {
        expired += table.age(40 * SECOND, 64).expired[Phase::UdpUnanswered as usize];
    }
    assert_eq!((expired, table.len()), (1000, 0));
}

/// Fills a table with flows that may not be evicted until the first refusal.
fn load_at_first_refusal(capacity: usize, seed: u64) -> f64 {
    let mut table = FlowTable::new(&FlowTableConfig {
        seed: Some([seed, seed + 1, seed + 2, seed + 3]),
        ..config(capacity)
    });
    for n in 0.. {
        if insert_answered(&mut table, &nth(n), 0).is_err() {
            assert_eq!(table.counters.refused_full, 1);
            break;
        }
    }
    table.len() as f64 / table.capacity() as f64
}

#[test]
fn nothing_is_refused_up_to_nine_tenths_of_the_capacity() {
    for capacity in [1 << 10, 1 << 14, 1 << 17] {
        for seed in 1..=5 {
            let load = load_at_first_refusal(capacity, 1000 * seed);
            assert!(load > 0.90, "{capacity} with seed {seed}: refused at {load}");
        }
    }
}

#[test]
fn nothing_is_refused_while_flows_come_and_go_at_eight_tenths() {
    let capacity: u64 = 1 << 14;
    for seed in 1..=3 {
        let seed = Some([seed; 4]);
        let mut table = FlowTable::new(&FlowTableConfig { seed, ..config(capacity as usize) });
        let load = capacity * 8 / 10;
        for n in 0..load {
            insert_answered(&mut table, &nth(n), 0).unwrap();
        }
        // A random one ends, a new one begins, ten times over.
        let mut live: Vec<u64> = (0..load).collect();
        let mut dice = 1_u64;
        for n in load..load + 10 * capacity {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (dice >> 33) as usize % live.len();
            let index = find(&mut table, &nth(live[at]), 0).unwrap();
            table.remove(index, Ending::Replaced);
            live[at] = n;
            insert_answered(&mut table, &nth(n), 0).unwrap();
        }
        assert_eq!(table.len(), load as usize);
        assert_eq!(table.counters.refused_full, 0);
    }
}

#[test]
fn a_flood_pushes_out_the_longest_silent_and_never_what_was_answered() {
    let mut table = table(64);
    let answered: Vec<_> = (0..10).map(nth).collect();
    for parsed in &answered {
        insert_answered(&mut table, parsed, 0).unwrap();
    }
    // Which of the others is where.
    let mut at = [None; 64];
    for n in 10..64 {
        let index = insert(&mut table, &nth(n), n * 20_000_000).unwrap();
        at[index.0 as usize] = Some(n);
    }
    assert_eq!(table.len(), 64);
    for n in 64..1000 {
        let place = insert(&mut table, &nth(n), n * 20_000_000).unwrap().0 as usize;
        let oldest = at[place / PART * PART..][..PART].iter().flatten().min();
        assert_eq!(at[place].as_ref(), oldest, "the longest silent of eight made room");
        at[place] = Some(n);
    }
    assert_eq!(table.counters.evicted[Phase::UdpUnanswered as usize], 936);
    for parsed in &answered {
        assert!(find(&mut table, parsed, SECOND).is_some());
    }
    // An expired flow goes before any other does.
    insert(&mut table, &nth(1000), 200 * SECOND).unwrap();
    assert_eq!(table.counters.evicted[Phase::UdpUnanswered as usize], 936);
    assert!(table.counters.expired.iter().sum::<u64>() > 0);
}

#[test]
fn the_only_flow_that_may_go_is_found_wherever_it_is() {
    for last in 0..64 {
        let mut table = table(64);
        let indices: Vec<_> =
            (0..64).map(|n| insert_answered(&mut table, &nth(n), 0).unwrap()).collect();
        table.remove(indices[last], Ending::Replaced);
        for n in 64..74 {
            assert_eq!(insert(&mut table, &nth(n), n * 20_000_000), Ok(indices[last]));
        }
    }
}

#[test]
fn a_table_full_of_answered_flows_refuses() {
    let mut table = table(64);
    for n in 0..64 {
        insert_answered(&mut table, &nth(n), 0).unwrap();
    }
    assert_eq!(insert(&mut table, &nth(64), 0), Err(InsertError::Full));
    assert_eq!(DropReason::from(InsertError::Full), DropReason::FlowTableFull);
    assert_eq!((table.counters.refused_full, table.len()), (1, 64));
}

#[test]
fn a_few_hosts_cannot_keep_all_others_out_with_answered_datagrams() {
    let mut table = table(4096);
    // Connections of honest hosts; then eight hosts fill what is left.
    let established = |n: u64| {
        let mut parsed = nth(n);
        parsed.headers.protocol = protocol::TCP;
        parsed
    };
    let (_, connection) = flow_in(Phase::Established);
    for n in 0..400 {
        let parsed = established(n);
        let (key, initiator) = FlowKey::of(&parsed, 0);
        let new = NewFlow { connection, ..new_flow(&parsed, initiator) };
        table.insert(table.hash(&key), &key, &new, 0).unwrap();
    }
    let greedy = |n: u32| udp((n % 8).into(), (n / 8) as u16, 0x0900_0000, 53);
    let mut taken = 0;
    for n in 0..16_000 {
        taken += usize::from(insert_answered(&mut table, &greedy(n), u64::from(n)).is_ok());
    }
    assert!(table.len() > 4_050 && taken == table.len() - 400, "{taken} of {}", table.len());
    assert_eq!(table.counters.evicted, [0; Phase::COUNT], "among equals nobody is displaced");
    // Hosts of few flows each find room all the same, and never at the cost of each other or of TCP.
    let newcomer = |n: u32| udp((1000 + n % 40).into(), (n / 40) as u16, 0x0900_0000, 53);
    for n in 0..800 {
        insert_answered(&mut table, &newcomer(n), 20 * SECOND).expect("there is room for few");
    }
    assert!(table.counters.evicted[Phase::UdpAnswered as usize] > 700);
    assert!((0..800).all(|n| find(&mut table, &newcomer(n), 20 * SECOND).is_some()));
    assert!((0..400).all(|n| find(&mut table, &established(n), 20 * SECOND).is_some()));
    // The greedy have nothing to gain by it.
    let before = table.counters.evicted;
    let refused =
        (16_000..16_800).filter(|&n| insert(&mut table, &greedy(n), 20 * SECOND).is_err());
    assert!(refused.count() > 700);
    assert_eq!(table.counters.evicted, before);
}

#[test]
fn one_source_holds_no_more_than_its_limit() {
    let mut table = FlowTable::new(&FlowTableConfig { per_source_limit: 100, ..config(4096) });
    let greedy = |port: u16| udp(1, port, 2, 53);
    let mut indices = Vec::new();
    for port in 0..100 {
        indices.push(insert_answered(&mut table, &greedy(port), 0).unwrap());
    }
    assert_eq!(insert(&mut table, &greedy(100), 0), Err(InsertError::SourceLimit));
    assert_eq!(DropReason::from(InsertError::SourceLimit), DropReason::FlowSourceLimit);
    // Others open what they like, towards it too, and so does the same address in another VLAN.
    for n in 0..1000 {
        insert(&mut table, &nth(n), 0).unwrap();
    }
    insert(&mut table, &udp(2, 53, 1, 9000), 0).unwrap();
    let mut elsewhere = greedy(100);
    elsewhere.headers.tags = VlanTags::single(31);
    insert(&mut table, &elsewhere, 0).unwrap();
    // What ends counts no more, however it ends.
    table.remove(indices[0], Ending::Replaced);
    insert(&mut table, &greedy(100), 0).unwrap();
    assert_eq!(insert(&mut table, &greedy(101), 0), Err(InsertError::SourceLimit));
    table.age(181 * SECOND, 4096);
    for port in 200..300 {
        insert(&mut table, &greedy(port), 181 * SECOND).unwrap();
    }
    let one_more = insert(&mut table, &greedy(300), 181 * SECOND);
    assert_eq!(one_more, Err(InsertError::SourceLimit));
    assert_eq!(table.counters.refused_source, 3);
}

#[test]
fn sizes_are_as_configured() {
    for (capacity, entries) in [(0, 64), (64, 64), (65, 128), (10_000, 16_384)] {
        let table = table(capacity);
        assert_eq!((table.capacity(), table.len(), table.is_empty()), (entries, 0, true));
        let least = entries * (128 + 2);
        assert!(table.size_bytes() >= least && table.size_bytes() < least + (1 << 17));
    }
    // Random keys differ from table to table.
    let key = FlowKey::of(&nth(1), 0).0;
    let hash = || FlowTable::new(&FlowTableConfig { seed: None, ..config(1 << 16) }).hash(&key);
    assert_ne!((hash(), hash()), (hash(), hash()));
}

/// What happens to a table, for the comparison with a model.
#[derive(Clone, Debug)]
enum Step {
    Packet { flow: u64, answered: bool },
    Remove { flow: u64 },
    Wait { ms: u64 },
    Age { budget: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..90, any::<bool>()).prop_map(|(flow, answered)| Step::Packet { flow, answered }),
        1 => (0_u64..90).prop_map(|flow| Step::Remove { flow }),
        2 => prop_oneof![0_u64..2_000, 0_u64..60_000].prop_map(|ms| Step::Wait { ms }),
        1 => (1_usize..200).prop_map(|budget| Step::Age { budget }),
    ]
}

/// The model's flow: when it was last seen, and whether it was answered.
#[derive(Clone, Copy)]
struct Modelled {
    seen: u64,
    answered: bool,
}

impl Modelled {
    /// Whether the flow must be there (true), must not (false), or may be either.
    fn lives(&self, now: u64) -> Option<bool> {
        let timeouts = Timeouts::default();
        let timeout_s =
            if self.answered { timeouts.udp_answered_s } else { timeouts.udp_unanswered_s };
        let (silent, timeout) = (now - self.seen, u64::from(timeout_s) * SECOND);
        match silent {
            _ if silent <= timeout => Some(true),
            _ if silent >= timeout + 2 * TICK => Some(false),
            _ => None,
        }
    }
}

proptest! {
    /// A table under all that can happen to it, compared with a map that has room for everything:
    /// what the map says is there is there, unless the table was full and it was not answered.
    #[test]
    fn the_table_behaves_like_a_map(
        steps in prop::collection::vec(step(), 1..400), capacity in prop_oneof![Just(64), Just(1024)],
        start in prop_oneof![Just(0_u64), Just(u64::from(u32::MAX) << TICK_SHIFT), any::<u32>().prop_map(u64::from)],
    ) {
        let mut table = table(capacity);
        let mut model: HashMap<u64, Modelled> = HashMap::new();
        let mut now = start;
        for step in steps {
            match step {
                Step::Wait { ms } => now += ms * 1_000_000,
                Step::Age { budget } => {
                    let before = table.len();
                    let aged = table.age(now, budget);
                    let expired: u32 = aged.expired.iter().sum();
                    prop_assert_eq!(before - table.len(), expired as usize);
                }
                Step::Remove { flow } => {
                    if let Some(index) = find(&mut table, &nth(flow), now) {
                        table.remove(index, Ending::Replaced);
                    }
                    model.remove(&flow);
                }
                Step::Packet { flow, answered } => {
                    let parsed = nth(flow);
                    let found = find(&mut table, &parsed, now);
                    let expected = model.get(&flow).map_or(Some(false), |flow| flow.lives(now));
                    let evictable = capacity == 64 && model.get(&flow).is_some_and(|f| !f.answered);
                    match expected {
                        Some(true) if evictable => {}
                        Some(lives) => prop_assert_eq!(found.is_some(), lives),
                        None => {}
                    }
                    let index = match found {
                        Some(index) => index,
                        None => {
                            model.remove(&flow);
                            match insert(&mut table, &parsed, now) {
                                Ok(index) => index,
                                Err(error) => {
                                    prop_assert_eq!(error, InsertError::Full);
                                    let firm = model.values().filter(|f| f.answered).count();
                                    prop_assert!(capacity == 64 && firm >= 64);
                                    continue;
                                }
                            }
                        }
                    };
                    let entry = table.entry_mut(index);
                    prop_assert_eq!(entry.initiator_headers(), parsed.headers);
                    if answered {
                        entry.connection_mut().note(Direction::FromResponder);
                    }
                    entry.count(Direction::FromInitiator, 64, true, now);
                    let was_answered = model.get(&flow).is_some_and(|flow| flow.answered);
                    let answered = answered || was_answered;
                    model.insert(flow, Modelled { seen: now, answered });
                }
            }
            let counters = &table.counters;
            let ended = counters.removed
                + counters.expired.iter().sum::<u64>()
                + counters.evicted.iter().sum::<u64>();
            prop_assert_eq!(table.len() as u64, counters.inserted - ended);
        }
        // What is left is gone after the longest timeout.
        now += 200 * SECOND;
        let capacity = table.capacity();
        table.age(now, capacity);
        prop_assert!(table.is_empty());
    }
}

#[test]
fn ageing_keeps_old_epochs_from_coming_round_again() {
    let mut table = table(256);
    let old = insert(&mut table, &udp(1, 2, 3, 4), 0).unwrap();
    let kept = insert(&mut table, &udp(5, 6, 7, 8), 0).unwrap();
    let mut now = 1_u64 << 32;
    table.entry_mut(old).set_epoch((now as u32).wrapping_sub(3));
    // Four billion epochs go by; the one flow is judged again now and then, the other never.
    for _ in 0..40 {
        now += 1 << 28;
        table.entry_mut(kept).set_epoch(now as u32);
        table.trust(TrustedEpochs { oldest: (now as u32).wrapping_sub(2), newest: now as u32 });
        let capacity = table.capacity();
        table.age(0, capacity);
        assert_eq!(table.entry(kept).epoch(), now as u32);
        let below = (now as u32).wrapping_sub(3);
        assert_eq!(table.entry(old).epoch(), below, "just below the oldest trusted one");
    }
    assert_eq!(table.passes(), 40);
    table.distrust_all();
    assert_eq!(table.entry(kept).epoch(), (now as u32).wrapping_sub(3));
}

#[test]
fn nobody_can_choose_flows_in_tunnels_that_share_a_hash() {
    // One address pair; ports, VLAN and network are the sender's to choose, and can make up for any
    // difference in the rest of the key where that is mixed in without a secret.
    let (key, _) = FlowKey::of(&udp(1, 0, 2, 0), 0);
    let table = table(1 << 12);
    let spread = 0x9e37_79b9_7f4a_7c15_u64;
    let hashes = (0..16_u32).map(|high| {
        let mut key = FlowKey { ports_and_tags: 0, ..key }.within(1 + (high << 20));
        key.ports_and_tags = key.tail.wrapping_mul(spread) ^ 0x1234_5678_9abc_def0;
        table.hash(&key)
    });
    let different: std::collections::HashSet<_> = hashes.map(|hash| hash.0).collect();
    assert_eq!(different.len(), 16);
}
