//! Arbitrary bytes, and valid frames with a few bytes changed.

use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};
use bulkhead_rules::headers::Mac;
use proptest::prelude::*;

use crate::invariants;

/// One valid frame of each kind that the parser tells apart.
fn samples() -> Vec<Vec<u8>> {
    let new = FrameBuilder::new;
    let v4 = || new().ip([10, 0, 0, 1], [10, 0, 0, 2]);
    let v6 = || new().ip([0xfd00, 0, 0, 0, 0, 0, 0, 1], [0xfd00, 0, 0, 0, 0, 0, 0, 2]);
    let link_local = [0xfe80, 0, 0, 0, 0, 0, 0, 1];
    let all_nodes = [0xff02, 0, 0, 0, 0, 0, 0, 1];
    let to = |last| new().macs(Mac([2, 0, 0, 0, 0, 1]), Mac([1, 0x80, 0xc2, 0, 0, last]));
    let datagram = v4().udp(1000, 53).payload(b"query").unpadded().build();
    let datagram6 = v6().udp(1000, 53).payload(b"query").unpadded().build();
    vec![
        datagram.clone(),
        datagram6.clone(),
        v4().vlan(30)
            .tcp(40000, 502, tcp_flags::SYN)
            .tcp_options(&[2, 4, 5, 0xb4, 3, 3, 7])
            .build(),
        v6().vlan(3).vlan(4).tcp(1, 2, tcp_flags::ACK).payload(b"data").build(),
        v4().ipv4_options(&[7, 7, 4, 0, 0, 0, 0]).sctp(5, 6).payload(&[0; 4]).build(),
        v4().snap().echo_request(1, 2).build(),
        v6().echo_reply(1, 2).build(),
        v4().icmp(3, 1, 0).payload(&datagram[14..]).build(),
        v6().icmp(1, 4, 0).payload(&datagram6[14..]).build(),
        v4().fragment(5, 0, true).udp(1, 2).payload_len(16).build(),
        v4().fragment(5, 24, false).udp(1, 2).payload_len(5).build(),
        v6().fragment(5, 0, true).tcp(1, 2, tcp_flags::ACK).payload_len(4).build(),
        v6().fragment(5, 24, false).udp(1, 2).payload_len(5).build(),
        v6().options_extension(0, &[5, 2, 0, 0]).options_extension(60, &[]).udp(1, 2).build(),
        v6().extension(43, &[0, 4, 0, 0, 0, 0, 0]).extension(135, &[0; 7]).build(),
        new().ip(link_local, all_nodes).hop_limit(255).icmp(134, 0, 0).payload_len(8).build(),
        new().ip(link_local, all_nodes).hop_limit(1).icmp(143, 0, 0).build(),
        new().arp(1, [10, 0, 0, 1].into(), [10, 0, 0, 2].into()).build(),
        to(0x00).llc().payload(&[0x42, 0x42, 3, 0, 0]).build(),
        to(0x02).ether_type(0x8809).payload(&[1, 1]).build(),
        to(0x0e).ether_type(0x88cc).payload(&[2, 7]).build(),
        new().ether_type(0x8892).payload_len(46).build(),
    ]
}

#[test]
fn the_samples_are_valid() {
    for (index, frame) in samples().iter().enumerate() {
        assert!(invariants::check(frame).is_ok(), "sample {index}: {frame:02x?}");
    }
}

/// Every byte of every sample in turn takes values that mean something to some layer.
#[test]
fn one_wrong_byte_is_survived() {
    for sample in samples() {
        let mut frame = sample.clone();
        for at in 0..sample.len() {
            for value in
                [0, 1, 3, 4, 6, 17, 43, 44, 0x3f, 0x40, 0x45, 59, 60, 0x7f, 0x80, 0xaa, 0xff]
            {
                frame[at] = value;
                let _ = invariants::check(&frame);
            }
            frame[at] = sample[at];
        }
    }
}

/// Makes the IPv4 header checksum right, so that what a mutation did is seen past it.
fn with_right_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() >= 34 && frame[12..14] == [0x08, 0x00] {
        let end = (14 + usize::from(frame[14] & 0xf) * 4).clamp(34, frame.len());
        frame[24..26].fill(0);
        let sum = bulkhead_pipeline::checksum::add(0, &frame[14..end]);
        frame[24..26].copy_from_slice(&bulkhead_pipeline::checksum::finish(sum).to_be_bytes());
    }
    frame
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_survived(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = invariants::check(&frame);
    }

    #[test]
    fn arbitrary_packets_are_survived(
        ether_type in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100, 0x0806, 0x0040]),
        first in prop::sample::select(vec![0x45_u8, 0x46, 0x60, 0xaa, 0x42]),
        packet in prop::collection::vec(any::<u8>(), 0..160),
    ) {
        let mut frame = FrameBuilder::new().ether_type(ether_type).payload(&packet).build();
        if let Some(byte) = frame.get_mut(14) {
            *byte = first;
        }
        let _ = invariants::check(&with_right_checksum(frame));
    }

    #[test]
    fn mutated_frames_are_survived(
        frame in prop::sample::select(samples()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        len in prop::option::of(any::<prop::sample::Index>()),
        trailer in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut frame = frame;
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if let Some(len) = len {
            frame.truncate(len.index(frame.len() + 1));
        }
        frame.extend(trailer);
        let _ = invariants::check(&with_right_checksum(frame));
    }
}
