//! Inner packets of VXLAN and Geneve through the whole packet line.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::parse::Tunnels;
use bulkhead_pipeline::snapshot::Mode;
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::WorkerConfig;
use bulkhead_rules::syntax::parse_addresses;

use crate::common::{Gateway, content, received};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER_VTEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The outer packets are permitted by nothing.
const POLICY: &str = "
version: 1
rules:
  - {name: modbus, from: 10.0.0.1, to: 10.0.0.2, service: [tcp/502, udp/502], action: allow}
  - {name: ssh, from: any, to: 10.0.0.2, service: tcp/22, action: reject}
  - {name: tagged, from: 10.0.0.1, to: 10.0.0.2, service: udp/503, vlan: 30, action: allow}
";

fn gateway(mode: Mode, tunnels: Option<Tunnels>) -> Gateway {
    let mut content = content(POLICY, mode, 0);
    content.wires[0].tunnels = tunnels.map(Arc::new);
    Gateway::with(content, &WorkerConfig::default())
}

fn both_tunnels() -> Option<Tunnels> {
    let endpoints = parse_addresses("192.0.2.1-192.0.2.2").expect("a range");
    Some(Tunnels { vxlan: Some(4789), geneve: Some(6081), endpoints })
}

fn looking_into_both() -> Gateway {
    gateway(Mode::Enforce, both_tunnels())
}

#[derive(Clone, Copy)]
enum Tunnel {
    Vxlan,
    Geneve,
}

const BOTH: [Tunnel; 2] = [Tunnel::Vxlan, Tunnel::Geneve];

/// The frame within a tunnel, from the inside or the outside VTEP.
fn carried(tunnel: Tunnel, id: u32, inner: &FrameBuilder, from_inside: bool) -> Vec<u8> {
    let [_, high, middle, low] = id.to_be_bytes();
    let (port, mut bytes) = match tunnel {
        Tunnel::Vxlan => (4789, vec![8, 0, 0, 0, high, middle, low, 0]),
        Tunnel::Geneve => (6081, vec![0, 0, 0x65, 0x58, high, middle, low, 0]),
    };
    bytes.extend(inner.build());
    let (src, dst) = if from_inside { (VTEP, OTHER_VTEP) } else { (OTHER_VTEP, VTEP) };
    FrameBuilder::new().ip(src, dst).udp(50_000, port).payload(&bytes).build()
}

fn request() -> FrameBuilder {
    FrameBuilder::new().ip(A, B).udp(40_000, 502)
}

fn answer() -> FrameBuilder {
    FrameBuilder::new().ip(B, A).udp(502, 40_000)
}

#[test]
fn the_inner_packet_is_judged_where_the_wire_says_so() {
    for tunnel in BOTH {
        let mut gateway = looking_into_both();
        let denied = FrameBuilder::new().ip(B, A).udp(40_000, 502);
        assert!(!gateway.passes_out(&carried(tunnel, 7, &denied, true)));
        assert!(!gateway.passes_in(&carried(tunnel, 7, &answer(), false)), "nobody asked");
        assert!(gateway.passes_out(&carried(tunnel, 7, &request(), true)));
        assert!(gateway.passes_in(&carried(tunnel, 7, &answer(), false)));
        assert_eq!(gateway.hits("modbus"), 1);
        assert!(gateway.passes_out(&request().build()), "what is in no tunnel, as ever");
    }
    let mut gateway = gateway(Mode::Enforce, None);
    for tunnel in BOTH {
        assert!(!gateway.passes_out(&carried(tunnel, 7, &request(), true)));
    }
    assert_eq!(gateway.dropped(DropReason::Policy), 2, "the outer packets");
}

#[test]
fn networks_are_kept_apart() {
    // Identifiers that differ in each part of a key that holds some of their bits.
    let ids = [0, 1, 0x8000, 0x1_0000, 0x8_0000, 0x10_0000, 0x80_0000, 0xff_ffff];
    for tunnel in BOTH {
        for id in ids {
            let mut gateway = looking_into_both();
            assert!(gateway.passes_out(&carried(tunnel, id, &request(), true)));
            assert!(!gateway.passes_in(&answer().build()), "outside of the tunnel");
            for other in ids {
                let answered = gateway.passes_in(&carried(tunnel, other, &answer(), false));
                assert_eq!(answered, other == id, "{id:x} {other:x}");
            }
            let tagged = answer().vlan(30);
            assert!(!gateway.passes_in(&carried(tunnel, id, &tagged, false)));
        }
    }
}

#[test]
fn rules_test_the_tag_of_the_inner_frame() {
    let mut gateway = looking_into_both();
    let inner = FrameBuilder::new().ip(A, B).udp(40_000, 503);
    assert!(!gateway.passes_out(&carried(Tunnel::Vxlan, 7, &inner, true)));
    assert!(gateway.passes_out(&carried(Tunnel::Vxlan, 7, &inner.vlan(30), true)));
}

#[test]
fn inner_connections_have_their_state() {
    let mut gateway = looking_into_both();
    let tcp = |flags, seq, ack| FrameBuilder::new().ip(A, B).tcp(40_000, 502, flags).seq(seq, ack);
    let back = |flags, seq, ack| FrameBuilder::new().ip(B, A).tcp(502, 40_000, flags).seq(seq, ack);
    let out = |inner: &FrameBuilder| carried(Tunnel::Geneve, 9, inner, true);
    let into = |inner: &FrameBuilder| carried(Tunnel::Geneve, 9, inner, false);
    assert!(gateway.passes_out(&out(&tcp(flag::SYN, 100, 0))));
    assert!(gateway.passes_in(&into(&back(flag::SYN | flag::ACK, 900, 101))));
    assert!(gateway.passes_out(&out(&tcp(flag::ACK, 101, 901).payload(b"read"))));
    assert!(!gateway.passes_in(&into(&back(flag::RST, 77_000_000, 0))));
    let mut spoilt = into(&back(flag::RST, 901, 0));
    spoilt[50 + 14 + 20 + 16] ^= 1;
    assert!(!gateway.passes_in(&spoilt));
    let dropped = &gateway.outside_counters().dropped;
    assert_eq!(dropped.of(DropReason::TcpWindow).packets.value(), 1);
    assert_eq!(dropped.of(DropReason::TcpChecksum).packets.value(), 1);
}

#[test]
fn inner_fragments_follow_their_first_one() {
    let mut gateway = looking_into_both();
    let fragment = |offset: u16, more| {
        let at = FrameBuilder::new().ip(A, B).fragment(7, offset, more);
        if offset == 0 {
            at.udp(40_000, 502).payload_len(56)
        } else {
            at.protocol(17).payload_len(8)
        }
    };
    let first = carried(Tunnel::Vxlan, 7, &fragment(0, true), true);
    let later = carried(Tunnel::Vxlan, 7, &fragment(64, false), true);
    let elsewhere = carried(Tunnel::Vxlan, 8, &fragment(64, false), true);
    assert!(gateway.outward(&[elsewhere]).is_empty(), "it waits for a first one of its own");
    assert!(gateway.outward(&[later.clone(), first.clone()]) == [first, later]);
    gateway.wait_ms(200);
    gateway.worker.poll();
    assert_eq!(gateway.dropped(DropReason::FragmentOrphan), 1);
}

#[test]
fn nobody_is_answered_within_a_tunnel() {
    let mut gateway = looking_into_both();
    let ssh = FrameBuilder::new().ip(A, B).tcp(40_000, 22, flag::SYN);
    assert!(!gateway.passes_out(&carried(Tunnel::Vxlan, 7, &ssh, true)));
    assert!(received(&gateway.inside).is_empty());
    assert_eq!(gateway.hits("ssh"), 1);
    gateway.outward(&[ssh.build()]);
    assert_eq!(received(&gateway.inside).len(), 1, "outside of one, as ever");
}

#[test]
fn what_cannot_be_looked_into_does_not_pass() {
    let mut gateway = looking_into_both();
    let good = carried(Tunnel::Vxlan, 7, &request(), true);
    let mut with_reserved_bit = good.clone();
    with_reserved_bit[14 + 20 + 8] |= 0x80;
    assert!(!gateway.passes_out(&with_reserved_bit));
    assert_eq!(gateway.dropped(DropReason::TunnelMalformed), 1);
    let nested = FrameBuilder::new().ip(A, B).udp(40_000, 6081).payload_len(60);
    assert!(!gateway.passes_out(&carried(Tunnel::Vxlan, 7, &nested, true)));
    assert_eq!(gateway.dropped(DropReason::TunnelNested), 1);
    assert!(gateway.passes_out(&good));
}

#[test]
fn who_is_no_end_of_a_tunnel_reaches_nobody_by_one() {
    let mut gateway = looking_into_both();
    let good = carried(Tunnel::Vxlan, 7, &request(), true);
    for address in [26, 30] {
        let mut strange = good.clone();
        // Another last byte of the outer source or destination, and the header checksum it makes.
        strange[address + 3] += 7;
        let checksum = u16::from_be_bytes([strange[24], strange[25]]) - 7;
        strange[24..26].copy_from_slice(&checksum.to_be_bytes());
        assert!(!gateway.passes_out(&strange));
    }
    assert_eq!(gateway.dropped(DropReason::TunnelEndpoint), 2);
    assert!(gateway.passes_out(&good));
}

#[test]
fn an_observing_wire_forwards_whatever_a_tunnel_carries() {
    let mut gateway = gateway(Mode::Observe, both_tunnels());
    let outer = FrameBuilder::new().ip(VTEP, OTHER_VTEP);
    let pause = [&[1, 0x80, 0xc2, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x88, 0x08, 0, 1][..], &[0; 44]];
    for inner in [Vec::new(), vec![0; 13], pause.concat()] {
        let payload = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &inner].concat();
        let frame = outer.clone().udp(50_000, 4789).payload(&payload).build();
        assert!(gateway.passes_out(&frame), "the outer frame is whole: {inner:02x?}");
    }
    let would_drop = &gateway.inside_counters().would_drop;
    assert_eq!(would_drop.of(DropReason::TunnelMalformed).packets.value(), 3);
}
