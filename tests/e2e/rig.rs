//! The rig itself: what the other tests trust must be true without a gateway.

use bulkhead_tests::flows::{Echo, Outcome, ping, try_tcp, try_udp};
use bulkhead_tests::frames::{PROVIDER_VLAN, VLAN, ethernet};
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::{Namespace, Rig, rig};

use std::net::SocketAddr;
use std::time::Duration;

/// A bridge in the place of the gateway: forwards everything.
fn bridged(test: &str) -> Option<Rig> {
    let rig = Rig::or_skip(test, 1)?;
    let gateway = rig.gateway();
    gateway.ip(&["link", "add", "br0", "type", "bridge"]);
    for port in ["in0", "out0"] {
        gateway.ip(&["link", "set", port, "master", "br0"]);
    }
    gateway.ip(&["link", "set", "br0", "up"]);
    Some(rig)
}

#[test]
fn hosts_reach_each_other_where_everything_is_forwarded() {
    let Some(rig) = bridged("hosts_reach_each_other_where_everything_is_forwarded") else { return };
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let (tcp, udp) = (Echo::tcp(inside, 502), Echo::udp(inside, 53));
    for address in [inside.v4.into(), inside.v6.into()] {
        assert_eq!(ping(outside, address, 56), Outcome::Answered, "ping {address}");
        assert_eq!(ping(outside, address, 4000), Outcome::Answered, "fragments {address}");
        assert_eq!(try_tcp(outside, SocketAddr::new(address, 502)), Outcome::Answered);
        assert_eq!(try_tcp(outside, SocketAddr::new(address, 503)), Outcome::Refused);
        assert_eq!(try_udp(outside, SocketAddr::new(address, 53), 100), Outcome::Answered);
        assert_eq!(try_udp(outside, SocketAddr::new(address, 54), 100), Outcome::Refused);
    }
    assert_eq!((tcp.reached(), udp.reached()), (2, 2));
    let nobody = "10.77.9.9".parse().expect("an address");
    assert_ne!(ping(outside, nobody, 56), Outcome::Answered);
}

#[test]
fn frames_arrive_as_they_were_sent() {
    let Some(rig) = bridged("frames_arrive_as_they_were_sent") else { return };
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let (from, to) = (RawPort::open(outside), RawPort::open(inside));
    for tags in [&[][..], &[(VLAN, 30)], &[(PROVIDER_VLAN, 7), (VLAN, 30)]] {
        let frame = ethernet(inside.mac, outside.mac, tags, 0x88b5, b"as it is");
        from.send(&frame);
        assert!(to.sees(&frame, Duration::from_secs(1)), "{tags:?}");
    }
}

#[test]
fn a_port_without_its_peer_has_no_carrier() {
    let Some(rig) = bridged("a_port_without_its_peer_has_no_carrier") else { return };
    assert!(rig.inside(0).has_carrier());
    rig.gateway().ip(&["link", "set", "in0", "down"]);
    assert!(!rig.inside(0).has_carrier());
    assert!(rig::carrier(&rig.outside(0).namespace, rig::HOST_INTERFACE));
}

#[test]
fn a_namespace_is_gone_when_its_test_ends() {
    let Some(rig) = Rig::or_skip("a_namespace_is_gone_when_its_test_ends", 1) else { return };
    let namespace = Namespace::new("gone");
    let path = format!("/run/netns/{}", namespace.name());
    let sleeper = namespace.command("sleep").arg("600").spawn();
    let mut sleeper = sleeper.expect("sleep is everywhere");
    assert!(std::fs::exists(&path).expect("a look at /run/netns"));
    drop(namespace);
    assert!(!std::fs::exists(&path).expect("a look at /run/netns"));
    assert!(!sleeper.wait().expect("it was ours").success(), "what ran inside was ended");
    drop(rig);
}
