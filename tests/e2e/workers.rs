//! Several workers on one wire, and wires that are redundant with each other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bulkhead_tests::flows::{Echo, Outcome, ping, try_tcp, try_udp};
use bulkhead_tests::frames::{ethernet, udp4};
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::{Driver, Gateway, Rig, Settings};

/// As `policies::BASIC`, for a server with many addresses.
const MANY: &str = r#"
version: 1
default: deny
devices:
  client: {ip: [10.77.2.1, "fd77::2:1"]}
  servers: {ip: [10.77.1.0/24, "fd77::1:1"]}
services:
  ping: [icmp/echo-request, icmpv6/echo-request]
rules:
  - {name: work, from: client, to: servers, service: [tcp/502, udp/53, udp/56, ping], action: allow}
  - {name: told-no, from: client, to: servers, service: [tcp/504, udp/55], action: reject}
"#;

#[test]
fn two_workers_judge_one_wire_as_one_would_over_af_xdp() {
    let test = "workers::two_workers_judge_one_wire_as_one_would_over_af_xdp";
    if let Some(rig) = Rig::with_queues_or_skip(test, 1, 2) {
        two_workers_judge_one_wire_as_one_would(&rig, Driver::ByName, "AF_XDP");
    }
}

#[test]
fn two_workers_judge_one_wire_as_one_would_over_af_packet() {
    let test = "workers::two_workers_judge_one_wire_as_one_would_over_af_packet";
    if let Some(rig) = Rig::with_queues_or_skip(test, 1, 2) {
        two_workers_judge_one_wire_as_one_would(&rig, Driver::AfPacket, "AF_PACKET");
    }
}

/// What comes to which queue is up to the hosts' kernels: nearly half of it comes to the wrong one.
fn two_workers_judge_one_wire_as_one_would(rig: &Rig, driver: Driver, name: &str) {
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let mut settings = Settings::new(driver, MANY);
    settings.extra = "workers = 2\n".to_owned();
    let gateway = Gateway::start(rig, settings);
    let ports = gateway.metrics().count("bulkhead_port_info", &[("driver", name)]);
    assert_eq!(ports, 2, "{}", gateway.log());
    assert_eq!(gateway.log().matches("queues=2").count(), 2, "{}", gateway.log());
    // Before DPDK's AF_PACKET driver sees them, the kernel joins IPv4 fragments.
    let long = |address: IpAddr| match driver {
        Driver::AfPacket if address.is_ipv4() => 1000,
        _ => 4000,
    };
    let tcp: Vec<Echo> = (502..=504).map(|port| Echo::tcp(inside, port)).collect();
    let udp = Echo::udp(inside, 53);
    let mut addresses = vec![IpAddr::from(inside.v4), inside.v6.into()];
    for last in 101..=120 {
        let address = Ipv4Addr::new(10, 77, 1, last);
        inside.add_address(address);
        addresses.push(address.into());
    }
    for &address in &addresses {
        let at = |port| SocketAddr::new(address, port);
        assert_eq!(try_tcp(outside, at(502)), Outcome::Answered, "tcp/502 {address}");
        assert_eq!(try_tcp(outside, at(504)), Outcome::Refused, "tcp/504 {address}");
        assert_eq!(ping(outside, address, 56), Outcome::Answered, "ping {address}");
        assert_eq!(ping(outside, address, long(address)), Outcome::Answered, "fragments {address}");
    }
    assert_eq!(try_tcp(outside, SocketAddr::new(addresses[2], 503)), Outcome::Silent);
    // A server of datagrams answers from its first address only.
    for &address in &addresses[..2] {
        let to = SocketAddr::new(address, 53);
        assert_eq!(try_udp(outside, to, long(address)), Outcome::Answered, "datagrams {address}");
    }
    // Nobody listens: the host says so by an ICMP error, for a flow that the policy permits. It is
    // limited to a few errors a second.
    for &address in &addresses[..4] {
        let to = SocketAddr::new(address, 56);
        assert_eq!(try_udp(outside, to, 100), Outcome::Refused, "udp/56 {address}");
    }
    assert_eq!(udp.reached(), 2);
    assert_eq!(tcp.iter().map(Echo::reached).collect::<Vec<_>>(), [22, 0, 0]);
    let (code, status) = gateway.bulkhead(&["status", "--config", "gateway.toml"]);
    assert!(code == 0 && status.contains("HANDED OUT"), "{status}");
    let metrics = gateway.stop();
    for worker in ["0", "1"] {
        let of = |name: &str| metrics.count(name, &[("worker", worker)]);
        assert!(of("bulkhead_flow_inserts_total") > 10, "worker {worker}\n{status}");
        assert!(of("bulkhead_handed_out_packets_total") > 10, "worker {worker}\n{status}");
    }
    let handed = |way| metrics.count(&format!("bulkhead_handed_{way}_packets_total"), &[]);
    assert_eq!(handed("in"), handed("out"), "{status}");
    assert!(metrics.drops().keys().all(|reason| reason == "policy"), "{:?}", metrics.drops());
}

#[test]
fn a_reply_may_come_back_by_a_redundant_wire() {
    let test = "workers::a_reply_may_come_back_by_a_redundant_wire";
    let Some(rig) = Rig::or_skip(test, 2) else { return };
    // The one service is permitted by the first wire only.
    let policy = "version: 1\ndefault: deny\nrules:\n  - {name: first, wire: w0, from: any, to: any, \
                  service: udp/53, action: allow}\n";
    let mut settings = Settings::new(Driver::ByName, policy);
    settings.wire_extra = "redundancy-group = \"both\"\n".to_owned();
    let gateway = Gateway::start(&rig, settings);
    let (client, server) = (rig.outside(0), rig.inside(0));
    let query = udp4((client.v4, 40_000), (server.v4, 53), b"query");
    let query = ethernet(server.mac, client.mac, &[], 0x0800, &query);
    let reply = udp4((server.v4, 53), (client.v4, 40_000), b"reply");
    let reply = ethernet(client.mac, server.mac, &[], 0x0800, &reply);
    let inside = [0, 1].map(|wire| RawPort::open(rig.inside(wire)));
    let outside = [0, 1].map(|wire| RawPort::open(rig.outside(wire)));
    let sees = |port: &RawPort, frame: &[u8]| port.sees(frame, Duration::from_secs(1));
    outside[1].send(&query);
    assert!(!sees(&inside[1], &query), "the rule names the other wire");
    outside[0].send(&query);
    assert!(sees(&inside[0], &query));
    inside[1].send(&reply);
    assert!(sees(&outside[1], &reply), "the reply comes by the other wire\n{}", gateway.log());
    // The network has moved: the flow goes on by the other wire.
    outside[1].send(&query);
    assert!(sees(&inside[1], &query));
    let metrics = gateway.stop();
    assert_eq!(metrics.count("bulkhead_flow_inserts_total", &[]), 1);
}
