//! Permitted and forbidden flows of real hosts.

use std::net::{IpAddr, SocketAddr};

use bulkhead_tests::flows::{Echo, Outcome, ping, try_tcp, try_udp};
use bulkhead_tests::{Driver, Gateway, Rig, Settings};

use crate::{over_both_drivers, policies};

over_both_drivers!(what_the_policy_permits_passes_and_nothing_else);

fn what_the_policy_permits_passes_and_nothing_else(rig: &Rig, driver: Driver) {
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let gateway = Gateway::start(rig, Settings::new(driver, policies::BASIC));
    // Everything is open at the hosts, so that only the gateway says no.
    let tcp: Vec<Echo> = (502..=504).map(|port| Echo::tcp(inside, port)).collect();
    let udp: Vec<Echo> = (53..=55).map(|port| Echo::udp(inside, port)).collect();
    let back = Echo::tcp(outside, 502);
    for address in [IpAddr::from(inside.v4), inside.v6.into()] {
        let at = |port| SocketAddr::new(address, port);
        assert_eq!(try_tcp(outside, at(502)), Outcome::Answered, "tcp/502 {address}");
        assert_eq!(try_tcp(outside, at(503)), Outcome::Silent, "tcp/503 {address}");
        assert_eq!(try_tcp(outside, at(504)), Outcome::Refused, "tcp/504 {address}");
        assert_eq!(try_udp(outside, at(53), 100), Outcome::Answered, "udp/53 {address}");
        assert_eq!(try_udp(outside, at(54), 100), Outcome::Silent, "udp/54 {address}");
        assert_eq!(try_udp(outside, at(55), 100), Outcome::Refused, "udp/55 {address}");
        assert_eq!(ping(outside, address, 56), Outcome::Answered, "ping {address}");
        // Before DPDK's AF_PACKET driver sees them, the kernel joins IPv4 fragments to a packet that
        // is longer than the port takes. The gateway says so at start.
        if driver == Driver::AfPacket && address.is_ipv4() {
            assert!(gateway.log().contains("IPv4 fragments"), "{}", gateway.log());
            continue;
        }
        assert_eq!(try_udp(outside, at(53), 4000), Outcome::Answered, "fragments {address}");
        assert_eq!(ping(outside, address, 4000), Outcome::Answered, "fragmented ping {address}");
    }
    // A rule permits the side that opens, and only that.
    for address in [IpAddr::from(outside.v4), outside.v6.into()] {
        assert_eq!(try_tcp(inside, SocketAddr::new(address, 502)), Outcome::Silent, "{address}");
        assert_eq!(ping(inside, address, 56), Outcome::Silent, "{address}");
    }
    assert_eq!(back.reached(), 0);
    assert_eq!(tcp.iter().map(Echo::reached).collect::<Vec<_>>(), [2, 0, 0]);
    let datagrams = if driver == Driver::AfPacket { 3 } else { 4 };
    assert_eq!(udp.iter().map(Echo::reached).collect::<Vec<_>>(), [datagrams, 0, 0]);
    let metrics = gateway.stop();
    assert!(metrics.rule_hits("work") >= 8, "{}", metrics.rule_hits("work"));
    assert!(metrics.rule_hits("told-no") >= 4, "{}", metrics.rule_hits("told-no"));
    assert!(metrics.count("bulkhead_originated_packets_total", &[]) >= 4);
    assert!(metrics.drops().keys().all(|reason| reason == "policy"), "{:?}", metrics.drops());
}

#[test]
fn each_wire_guards_its_own_device() {
    let test = "traffic::each_wire_guards_its_own_device";
    let Some(rig) = Rig::or_skip(test, 2) else { return };
    let policy = "version: 1\ndefault: deny\nrules:\n  - {name: first, wire: w0, from: any, to: any, \
                  service: udp/53, action: allow}\n";
    let gateway = Gateway::start(&rig, Settings::new(Driver::ByName, policy));
    for (wire, expected) in [(0, Outcome::Answered), (1, Outcome::Silent)] {
        let _server = Echo::udp(rig.inside(wire), 53);
        let to = SocketAddr::new(rig.inside(wire).v4.into(), 53);
        assert_eq!(try_udp(rig.outside(wire), to, 64), expected, "wire {wire}");
    }
    let metrics = gateway.stop();
    assert!(metrics.count("bulkhead_received_packets_total", &[("wire", "w1")]) > 0);
}
