//! Observe mode: everything passes, and what would not have is counted.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bulkhead_tests::flows::{Echo, Outcome, ping, try_tcp, try_udp};
use bulkhead_tests::frames::ethernet;
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::{Driver, Gateway, Rig, Settings};

use crate::{over_both_drivers, policies};

over_both_drivers!(everything_passes_and_what_would_not_is_counted);

fn everything_passes_and_what_would_not_is_counted(rig: &Rig, driver: Driver) {
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let gateway = Gateway::start(rig, Settings::new(driver, policies::BASIC).observing());
    let _servers = [Echo::tcp(inside, 502), Echo::tcp(inside, 503), Echo::tcp(inside, 504)];
    let _datagrams = Echo::udp(inside, 54);
    for address in [IpAddr::from(inside.v4), inside.v6.into()] {
        for port in 502..=504 {
            let to = SocketAddr::new(address, port);
            assert_eq!(try_tcp(outside, to), Outcome::Answered, "{to}");
        }
        // Over AF_PACKET the kernel joins IPv4 fragments, and the port is too short for the packet.
        let size = if driver == Driver::AfPacket && address.is_ipv4() { 1000 } else { 3000 };
        let to = SocketAddr::new(address, 54);
        assert_eq!(try_udp(outside, to, size), Outcome::Answered, "{to}");
        assert_eq!(ping(outside, address, 56), Outcome::Answered);
    }
    // Even what is no packet: an IPv4 header that claims to be longer than its frame.
    let (from, to) = (RawPort::open(outside), RawPort::open(inside));
    let nonsense = ethernet(inside.mac, outside.mac, &[], 0x0800, &[0x4f, 0, 0xff, 0xff]);
    from.send(&nonsense);
    assert!(to.sees(&nonsense, Duration::from_secs(2)));
    let metrics = gateway.stop();
    assert!(metrics.drops().is_empty(), "{:?}", metrics.drops());
    let would = |reason| metrics.count("bulkhead_would_drop_packets_total", &[("reason", reason)]);
    assert!(would("policy") >= 6, "{}", would("policy"));
    assert!(would("ipv4_truncated") + would("ipv4_header_length") >= 1);
    let observed = [("rule", "told-no"), ("mode", "observe")];
    assert!(metrics.count("bulkhead_rule_hits_total", &observed) >= 2);
    assert_eq!(metrics.count("bulkhead_originated_packets_total", &[]), 0, "nobody is answered");
}
