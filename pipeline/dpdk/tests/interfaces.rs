//! Ports on real kernel interfaces: frames in and out, and interfaces left as they were.

mod support;

use bulkhead_dpdk::{Backend, Device, DeviceConfig, Eal, ErrorKind, LinkState, Mempool};
use support::{Host, describe, environment, forward_until, frame, isolated, only_queue, two_wires};

/// Opens a port by a name of the configuration.
fn open(eal: &Eal, pool: &Mempool, name: &str) -> Device {
    let device = Device::open(eal, pool, &DeviceConfig::new(name)).unwrap();
    println!("{name}: {}, {:?}", device.backend(), device.notes());
    device
}

/// Sends every frame from both hosts through two ports and compares what comes out.
fn frames_cross(names: [&str; 2], backend: &Backend, frames: &[Vec<u8>]) {
    let (eal, pool) = environment(1_500);
    let [mut left, mut right] = names.map(|name| open(&eal, &pool, name));
    assert_eq!(left.backend(), backend, "{:?}", left.notes());
    let (mut one, mut two) = (only_queue(&mut left), only_queue(&mut right));
    left.start().unwrap();
    right.start().unwrap();
    let hosts = [Host::on("h1"), Host::on("h2")];
    for (from, to) in [(0, 1), (1, 0)] {
        for sent in frames {
            hosts[from].send(sent);
            let mut got = None;
            forward_until(&mut one, &mut two, || {
                got = hosts[to].receive();
                got.is_some()
            });
            let Some(got) = got else { panic!("a frame of {} bytes was lost", sent.len()) };
            assert_eq!(got, *sent, "a frame of {} bytes was changed", sent.len());
        }
    }
    let counted = left.counters().unwrap();
    assert_eq!((counted.no_buffer, counted.transmit_errors), (0, 0));
}

/// Frames of every length that matters, with and without tags.
fn ordinary_frames() -> Vec<Vec<u8>> {
    let (untagged, one, stacked): (&[_], &[_], &[_]) =
        (&[], &[(0x8100, 0x6064)], &[(0x8100, 0x0064), (0x8100, 0x00c8)]);
    [60, 64, 65, 128, 1_000, 1_513, 1_514]
        .into_iter()
        .map(|length| frame(length, length as u8, untagged))
        .chain([64, 68, 1_514, 1_518].map(|length| frame(length, 7, one)))
        .chain([68, 1_518].map(|length| frame(length, 9, stacked)))
        .collect()
}

#[test]
fn frames_cross_af_xdp_unchanged() {
    isolated("frames_cross_af_xdp_unchanged", || {
        two_wires(1_500);
        let mut frames = ordinary_frames();
        frames.push(frame(200, 3, &[(0x88a8, 0x0064), (0x8100, 0x00c8)]));
        frames_cross(["p1", "p2"], &Backend::AfXdp, &frames);
    });
}

#[test]
fn frames_cross_af_packet_unchanged() {
    isolated("frames_cross_af_packet_unchanged", || {
        two_wires(1_500);
        let names = ["net_af_packet0,iface=p1", "net_af_packet1,iface=p2"];
        frames_cross(names, &Backend::AfPacket, &ordinary_frames());
    });
}
