//! What may come from one side of a wire only.

use std::net::Ipv4Addr;

use bulkhead_pipeline::frames::{DEFAULT_DST_MAC, DEFAULT_SRC_MAC, FrameBuilder};
use bulkhead_pipeline::snapshot::{Mode, Sides};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::WorkerConfig;
use bulkhead_rules::headers::Mac;

use crate::common::{Gateway, content};

const EVERYTHING: &str = "
version: 1
rules:
  - {name: all, from: any, to: any, service: any, action: allow}
";

const ROUTER: [u16; 8] = [0xfe80, 0, 0, 0, 0, 0, 0, 1];
const HOST: [u16; 8] = [0xfe80, 0, 0, 0, 0, 0, 0, 2];
const ALL_NODES: [u16; 8] = [0xff02, 0, 0, 0, 0, 0, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);

fn advertisement() -> Vec<u8> {
    let message = FrameBuilder::new().ip(ROUTER, ALL_NODES).hop_limit(255).icmp(134, 0, 0);
    message.payload_len(8).build()
}

fn redirect() -> Vec<u8> {
    let mut targets = [0; 32];
    targets[..2].copy_from_slice(&[0xfe, 0x80]);
    targets[15] = 9;
    targets[16] = 0xfd;
    FrameBuilder::new().ip(ROUTER, HOST).hop_limit(255).icmp(137, 0, 0).payload(&targets).build()
}

fn solicitation() -> Vec<u8> {
    FrameBuilder::new().ip(HOST, ALL_NODES).hop_limit(255).icmp(133, 0, 0).build()
}

/// What DHCP servers send to clients: to one that has no address yet, to one that has, and in IPv6.
fn of_dhcp_server() -> [Vec<u8>; 3] {
    let broadcast = FrameBuilder::new().macs(DEFAULT_SRC_MAC, Mac([0xff; 6]));
    [
        broadcast.ip(SERVER, Ipv4Addr::BROADCAST).udp(67, 68).payload_len(240).build(),
        FrameBuilder::new().ip(SERVER, CLIENT).udp(67, 68).payload_len(240).build(),
        FrameBuilder::new().ip(ROUTER, HOST).udp(547, 546).payload_len(40).build(),
    ]
}

fn gateway(mode: Mode, sides: Sides) -> Gateway {
    let mut content = content(EVERYTHING, mode, 0);
    (content.wires[0].routers, content.wires[0].dhcp_servers) = (sides, sides);
    Gateway::with(content, &WorkerConfig::default())
}

#[test]
fn routers_speak_from_their_side_only() {
    for sides in [Sides::NONE, Sides::INSIDE, Sides::OUTSIDE, Sides::BOTH] {
        let mut gateway = gateway(Mode::Enforce, sides);
        for frame in [advertisement(), redirect()] {
            assert_eq!(gateway.passes_out(&frame), sides.inside, "{sides:?}");
            assert_eq!(gateway.passes_in(&frame), sides.outside, "{sides:?}");
        }
        assert_eq!(gateway.dropped(DropReason::RouterSide), if sides.inside { 0 } else { 2 });
        // Hosts ask everywhere.
        assert!(gateway.passes_out(&solicitation()) && gateway.passes_in(&solicitation()));
    }
}

#[test]
fn dhcp_servers_answer_from_their_side_only() {
    for sides in [Sides::NONE, Sides::INSIDE, Sides::OUTSIDE, Sides::BOTH] {
        for frame in of_dhcp_server() {
            let mut gateway = gateway(Mode::Enforce, sides);
            assert_eq!(gateway.passes_out(&frame), sides.inside, "{sides:?}");
            let dropped = gateway.dropped(DropReason::DhcpServerSide);
            assert_eq!(dropped, u64::from(!sides.inside));
        }
        for frame in of_dhcp_server() {
            assert_eq!(gateway(Mode::Enforce, sides).passes_in(&frame), sides.outside);
        }
    }
}

#[test]
fn a_dhcp_server_is_known_by_whom_it_speaks_to() {
    // Clients go by the destination port: they take an offer from whatever port it comes.
    let broadcast = FrameBuilder::new().macs(DEFAULT_SRC_MAC, Mac([0xff; 6]));
    for port in [1, 68, 4011, 50_000] {
        let offers = [
            broadcast.clone().ip(SERVER, Ipv4Addr::BROADCAST).udp(port, 68).payload_len(240),
            FrameBuilder::new().ip(ROUTER, HOST).udp(port, 546).payload_len(40),
        ];
        for offer in offers {
            let mut gateway = gateway(Mode::Enforce, Sides::OUTSIDE);
            assert!(!gateway.passes_out(&offer.build()), "from port {port}");
            assert_eq!(gateway.dropped(DropReason::DhcpServerSide), 1);
        }
    }
}

#[test]
fn clients_and_relays_are_for_the_policy() {
    let mut gateway = gateway(Mode::Enforce, Sides::NONE);
    let unspecified = Ipv4Addr::UNSPECIFIED;
    let frames = [
        FrameBuilder::new().ip(unspecified, Ipv4Addr::BROADCAST).udp(68, 67).build(),
        FrameBuilder::new().ip(SERVER, CLIENT).udp(67, 67).build(),
        FrameBuilder::new().ip(HOST, [0xff02, 0, 0, 0, 0, 0, 1, 2]).udp(546, 547).build(),
    ];
    for frame in frames {
        assert!(gateway.passes_out(&frame));
    }
    // A client that renews its lease asks its server, which answers it.
    let renewal = FrameBuilder::new().ip(CLIENT, SERVER).udp(68, 67).build();
    let answer = FrameBuilder::new().macs(DEFAULT_DST_MAC, DEFAULT_SRC_MAC);
    let answer = answer.ip(SERVER, CLIENT).udp(67, 68).build();
    assert!(gateway.passes_out(&renewal) && gateway.passes_in(&answer));
}

#[test]
fn an_observing_wire_says_what_it_would_drop() {
    let mut gateway = gateway(Mode::Observe, Sides::OUTSIDE);
    assert!(gateway.passes_out(&advertisement()));
    assert!(gateway.passes_out(&of_dhcp_server()[0]));
    let would_drop = &gateway.inside_counters().would_drop;
    assert_eq!(would_drop.of(DropReason::RouterSide).packets.value(), 1);
    assert_eq!(would_drop.of(DropReason::DhcpServerSide).packets.value(), 1);
}

#[test]
fn a_neighbour_tells_its_own_address_only() {
    let mut gateway = gateway(Mode::Enforce, Sides::BOTH);
    let target = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let tells = |mac: [u8; 6]| {
        let option = [&[2, 1][..], &mac].concat();
        let message = FrameBuilder::new().ip(HOST, ALL_NODES).hop_limit(255).icmp(136, 0, 0);
        message.payload(&[&target[..], &option].concat()).build()
    };
    assert!(gateway.passes_out(&tells(DEFAULT_SRC_MAC.0)));
    assert!(!gateway.passes_out(&tells([2, 0, 0, 0, 0, 0x66])));
    assert_eq!(gateway.dropped(DropReason::NdSpoofed), 1);
}
