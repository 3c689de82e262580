//! A device is followed to a new address, and by nobody else's word.
//!
//! ```text
//! hmi 10.88.0.10 ─ wire 1 ─ router 10.88.0.1 │ 10.99.0.1 router, DHCP server ─ wire 0 ─ plc
//! ```
//!
//! The rule names the PLC by its MAC address. On wire 1 frames to it show the router's.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::dhcp;
use bulkhead_tests::flows::{Echo, Outcome, try_tcp};
use bulkhead_tests::frames::{Mac, ethernet};
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::rig::{HOST_INTERFACE, Host};
use bulkhead_tests::{Driver, Gateway, Rig, Settings, skip};

const HMI: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 10);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 50);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 60);
const EVERYBODY: Mac = Mac([0xff; 6]);

fn policy(plc: Mac) -> String {
    format!(
        "version: 1\ndevices:\n  plc: {{mac: '{plc}'}}\nrules:\n  \
         - {{name: work, from: {HMI}, to: plc, service: tcp/502, action: allow}}\n  \
         - {{name: dhcp, from: any, to: any, service: [udp/67, udp/68], action: allow}}\n"
    )
}

#[test]
fn a_device_is_followed_to_a_new_lease_and_a_forged_announcement_moves_nothing() {
    let name = "a_device_is_followed_to_a_new_lease_and_a_forged_announcement_moves_nothing";
    if Command::new("dnsmasq").arg("--version").output().is_err() {
        return skip(name, "the program dnsmasq is not installed");
    }
    let Some(rig) = Rig::or_skip(name, 2) else { return };
    let (plc, hmi) = (rig.inside(0), rig.inside(1));
    connect_by_routers(&rig);
    let mut gateway = Gateway::start(&rig, Settings::new(Driver::AfXdp, &policy(plc.mac)));
    let _server = Echo::tcp(plc, 502);
    let reaches = |address: Ipv4Addr| try_tcp(hmi, SocketAddr::new(address.into(), 502));
    assert_ne!(reaches(FIRST), Outcome::Answered, "nobody has the address");

    let dhcp = serve_lease(&rig, FIRST);
    lease(plc, FIRST);
    soon("the first lease", || reaches(FIRST) == Outcome::Answered);
    // What the device would not know: its packets show who has the address.
    assert!(bindings(&gateway).contains(&format!("{FIRST} {}", plc.mac)));

    // A forger on the PLC's own network, at the router's place.
    let forger = Mac([0x02, 0x66, 0, 0, 0, 1]);
    let port = RawPort::open(rig.outside(0));
    for _ in 0..20 {
        port.send(&announcement(forger, FIRST));
        port.send(&announcement(plc.mac, SECOND));
        std::thread::sleep(Duration::from_millis(20));
    }
    gateway.wait_until("told of conflicts", Duration::from_secs(2), |g| {
        let count = |kind| g.metrics().count("bulkhead_binding_conflicts_total", &[("kind", kind)]);
        count("address") > 0 && count("side") > 0
    });
    assert_eq!(reaches(FIRST), Outcome::Answered, "the forger moves nothing");
    assert_ne!(reaches(SECOND), Outcome::Answered);
    let drops = gateway.metrics().drops();
    assert!(drops.get("address_conflict").is_some_and(|&dropped| dropped >= 20), "{drops:?}");
    let (code, status) = gateway.bulkhead(&["status", "--config", "gateway.toml"]);
    assert!(code == 0 && status.contains("ALERT: "), "{status}");

    end(dhcp);
    let dhcp = serve_lease(&rig, SECOND);
    lease(plc, SECOND);
    soon("the second lease", || reaches(SECOND) == Outcome::Answered);
    assert_ne!(reaches(FIRST), Outcome::Answered, "it has left its old address");
    // A reload and a restart take what is known along.
    let (code, said) = gateway.reload(&format!("{}# another\n", policy(plc.mac)));
    assert_eq!(code, 0, "{said}");
    assert_eq!(reaches(SECOND), Outcome::Answered);
    end(dhcp);
    let _ = gateway.terminate(nix::sys::signal::Signal::SIGTERM);
    let gateway = Gateway::start_again(&rig, gateway.keep(), true);
    soon("known after a restart", || reaches(SECOND) == Outcome::Answered);
    gateway.stop();
}

fn bindings(gateway: &Gateway<'_>) -> String {
    let (code, said) = gateway.bulkhead(&["bindings", "--config", "gateway.toml"]);
    assert_eq!(code, 0, "{said}");
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Makes the outside hosts of both wires routers between the networks of the inside ones.
fn connect_by_routers(rig: &Rig) {
    let (cell, office) = (&rig.outside(0).namespace, &rig.outside(1).namespace);
    let (plc, hmi) = (&rig.inside(0).namespace, &rig.inside(1).namespace);
    for namespace in [cell, office, plc, hmi] {
        namespace.ip(&["-4", "addr", "flush", "dev", HOST_INTERFACE]);
    }
    let peer = ["peer", "name", "up0", "netns", office.name()];
    cell.ip(&[&["link", "add", "up0", "type", "veth"], &peer[..]].concat());
    let sides = [(cell, "10.99.0.1/24", "10.66.0.1/30"), (office, "10.88.0.1/24", "10.66.0.2/30")];
    for (router, own, up) in sides {
        router.ip(&["addr", "add", own, "dev", HOST_INTERFACE]);
        router.ip(&["addr", "add", up, "dev", "up0"]);
        router.ip(&["link", "set", "up0", "up"]);
        let forwards = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
        router.inside(forwards).expect("the namespace's own setting");
    }
    cell.ip(&["route", "add", "10.88.0.0/24", "via", "10.66.0.2"]);
    office.ip(&["route", "add", "10.99.0.0/24", "via", "10.66.0.1"]);
    hmi.ip(&["addr", "add", &format!("{HMI}/24"), "dev", HOST_INTERFACE]);
    hmi.ip(&["route", "add", "default", "via", "10.88.0.1"]);
}

/// A server that has this one address to lease.
fn serve_lease(rig: &Rig, address: Ipv4Addr) -> Child {
    let mut command = rig.outside(0).namespace.command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"]);
    command.args(["--interface", HOST_INTERFACE, "--dhcp-authoritative", "--no-ping"]);
    command.args(["--leasefile-ro", "--pid-file="]);
    command.arg(format!("--dhcp-range={address},{address},1h"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    child.expect("dnsmasq was there a moment ago")
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Has the host ask for a lease of the address, as a client that knows what it wants, until a server
/// grants it, and takes it.
fn lease(host: &Host, address: Ipv4Addr) {
    assert!(dhcp::lease(&RawPort::open(host), host.mac, address), "no server leases {address}");
    let namespace = &host.namespace;
    namespace.ip(&["-4", "addr", "flush", "dev", HOST_INTERFACE]);
    namespace.ip(&["addr", "add", &format!("{address}/24"), "dev", HOST_INTERFACE]);
    namespace.ip(&["route", "add", "default", "via", "10.99.0.1"]);
}

/// A gratuitous ARP request (RFC 5227 §3).
fn announcement(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let own = address.octets();
    ethernet(EVERYBODY, mac, &[], 0x0806, &[&head[..], &mac.0, &own, &[0; 6], &own].concat())
}

/// Bindings take effect within a second; a SYN that came too early is sent again after another.
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "not yet: {what}");
    }
}
