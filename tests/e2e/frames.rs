//! What no socket sends: tags, link-local control, other protocols, and nonsense.

use std::net::Ipv4Addr;
use std::time::Duration;

use bulkhead_tests::frames::{Mac, PROVIDER_VLAN, VLAN, ethernet, ipv4, udp4, udp6};
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::{Driver, Gateway, Rig, Settings};

use crate::over_both_drivers;

over_both_drivers!(tagged_frames_pass_by_their_tags, link_local_control_crosses_and_pause_does_not);

const SOON: Duration = Duration::from_secs(2);
/// How long a frame must not arrive for it to count as dropped.
const NEVER: Duration = Duration::from_millis(200);

const TAGGED: &str = r#"
version: 1
default: deny
rules:
  - {name: cell, vlan: 30, from: any, to: any, service: udp/2222, action: allow}
  - {name: nested, vlan: [7, 40], from: any, to: any, service: udp/2222, action: allow}
  - {name: plain, vlan: untagged, from: any, to: any, service: udp/3333, action: allow}
  - {name: profinet, from: any, to: any, service: eth/0x8892, action: allow}
"#;

fn tagged_frames_pass_by_their_tags(rig: &Rig, driver: Driver) {
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let gateway = Gateway::start(rig, Settings::new(driver, TAGGED));
    let (from, to) = (RawPort::open(outside), RawPort::open(inside));
    let udp = |port, payload: &[u8]| udp4((outside.v4, 4000), (inside.v4, port), payload);
    let six = udp6((outside.v6, 4000), (inside.v6, 2222), b"six");
    // AF_PACKET hands the kernel's idea of an outer 802.1ad tag on as 802.1Q, so its port refuses it.
    let outer = if driver == Driver::AfPacket { VLAN } else { PROVIDER_VLAN };
    // Tags, EtherType, payload, whether it passes.
    type Case<'a> = (&'a [(u16, u16)], u16, Vec<u8>, bool);
    let cases: &[Case<'_>] = &[
        (&[(VLAN, 30)], 0x0800, udp(2222, b"in cell 30"), true),
        (&[(VLAN, 30)], 0x86dd, six, true),
        (&[(VLAN, 31)], 0x0800, udp(2222, b"in cell 31"), false),
        (&[], 0x0800, udp(2222, b"untagged"), false),
        (&[(outer, 7), (VLAN, 40)], 0x0800, udp(2222, b"nested"), true),
        (&[(outer, 7), (VLAN, 41)], 0x0800, udp(2222, b"nested elsewhere"), false),
        (&[(outer, 30), (VLAN, 40)], 0x0800, udp(2222, b"nested, not cell 30"), false),
        (&[], 0x0800, udp(3333, b"plain"), true),
        (&[(VLAN, 0)], 0x0800, udp(3333, b"priority tag"), true),
        (&[(VLAN, 30)], 0x0800, udp(3333, b"tagged, not plain"), false),
        (&[(VLAN, 30)], 0x8892, b"profinet".to_vec(), true),
        (&[], 0x88b5, b"experimental".to_vec(), false),
        (&[(VLAN, 1), (VLAN, 2), (VLAN, 3)], 0x0800, udp(3333, b"too deep"), false),
    ];
    for (tags, ether_type, payload, passes) in cases {
        let frame = ethernet(inside.mac, outside.mac, tags, *ether_type, payload);
        from.send(&frame);
        let limit = if *passes { SOON } else { NEVER };
        let what = String::from_utf8_lossy(&payload[payload.len().saturating_sub(24)..]);
        assert_eq!(to.sees(&frame, limit), *passes, "{tags:?} {ether_type:#06x} {what:?}");
    }
    gateway.stop();
}

/// 802.3 frames carry a length, others an EtherType.
fn control_frames(src: Mac) -> [(&'static str, Vec<u8>, bool); 4] {
    let to = |last| Mac([0x01, 0x80, 0xc2, 0, 0, last]);
    let spanning_tree = [&[0x42, 0x42, 0x03][..], &[0; 35]].concat();
    let lacp = [&[1, 1, 1, 20][..], &[0; 106]].concat();
    let lldp = [2, 7, 4, 2, 0, 0, 0, 0, 1, 4, 2, 7, b'x', 6, 2, 0, 120, 0, 0];
    [
        ("STP", ethernet(to(0), src, &[], spanning_tree.len() as u16, &spanning_tree), true),
        ("LACP", ethernet(to(2), src, &[], 0x8809, &lacp), true),
        ("LLDP", ethernet(to(14), src, &[], 0x88cc, &lldp), true),
        ("PAUSE", ethernet(to(1), src, &[], 0x8808, &[0, 1, 0xff, 0xff]), false),
    ]
}

fn link_local_control_crosses_and_pause_does_not(rig: &Rig, driver: Driver) {
    for observing in [false, true] {
        let settings = Settings::new(driver, crate::policies::NOTHING);
        let settings = if observing { settings.observing() } else { settings };
        let gateway = Gateway::start(rig, settings);
        for (from, to) in [(rig.outside(0), rig.inside(0)), (rig.inside(0), rig.outside(0))] {
            let (source, sink) = (RawPort::open(from), RawPort::open(to));
            for (name, frame, crosses) in control_frames(from.mac) {
                source.send(&frame);
                let limit = if crosses { SOON } else { NEVER };
                assert_eq!(sink.sees(&frame, limit), crosses, "{name}, observing: {observing}");
            }
        }
        let metrics = gateway.stop();
        assert_eq!(metrics.drops().get("pause"), Some(&2), "{:?}", metrics.drops());
    }
}

#[test]
fn nonsense_is_dropped_for_its_own_reason() {
    let test = "frames::nonsense_is_dropped_for_its_own_reason";
    let Some(rig) = Rig::or_skip(test, 1) else { return };
    let policy = "version: 1\ndefault: deny\nrules:\n  - {name: all, from: any, to: any, service: any, action: allow}\n";
    let gateway = Gateway::start(&rig, Settings::new(Driver::AfXdp, policy));
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let (from, to) = (RawPort::open(outside), RawPort::open(inside));
    let good = ipv4(outside.v4, inside.v4, 17, &[0x10, 0, 0x0d, 5, 0, 8, 0, 0]);
    let spoilt = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    let loopback = ipv4(Ipv4Addr::LOCALHOST, inside.v4, 17, &good[20..]);
    let cases = [
        ("ipv4_version", spoilt(0, 0x65)),
        ("ipv4_header_length", spoilt(0, 0x43)),
        ("ipv4_checksum", spoilt(10, !good[10])),
        ("ipv4_address", loopback),
    ];
    for (reason, packet) in &cases {
        let frame = ethernet(inside.mac, outside.mac, &[], 0x0800, packet);
        from.send(&frame);
        assert!(!to.sees(&frame, NEVER), "{reason} passed");
    }
    let frame = ethernet(inside.mac, outside.mac, &[], 0x0800, &good);
    from.send(&frame);
    assert!(to.sees(&frame, SOON), "the good frame did not pass");
    let drops = gateway.stop().drops();
    for (reason, _) in &cases {
        assert_eq!(drops.get(*reason), Some(&1), "{reason}: {drops:?}");
    }
}
