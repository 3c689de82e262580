//! What `parse` makes of whole frames. The layers' details are tested here too, because a frame is
//! what shows them.

use std::collections::BTreeSet;

use super::*;
use crate::checksum;
use crate::frames::{DEFAULT_SRC_MAC, FrameBuilder, tcp_flags};

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];
const A6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 1];
const B6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 2];
const WIRE: WireId = WireId(3);

fn parsed(frame: &FrameBuilder) -> Parsed {
    parse(&frame.build(), WIRE).expect("the frame is well formed")
}

fn reason(frame: &FrameBuilder) -> DropReason {
    parse(&frame.build(), WIRE).expect_err("the frame is malformed")
}

/// The frame, with bytes at `at` replaced and the IPv4 header checksum made right again.
fn patched(frame: &FrameBuilder, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.build();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    if frame[12..14] == [0x08, 0x00] && at < 34 {
        let header_end = (14 + usize::from(frame[14] & 0xf) * 4).clamp(34, frame.len());
        frame[24..26].fill(0);
        let sum = checksum::finish(checksum::add(0, &frame[14..header_end]));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn cut(frame: &FrameBuilder, len: usize) -> Vec<u8> {
    let mut frame = frame.build();
    frame.truncate(len);
    frame
}

fn mac(text: &str) -> Mac {
    let mut bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    Mac(std::array::from_fn(|_| bytes.next().unwrap()))
}

/// A frame to this address from the default source.
fn to(dst: &str) -> FrameBuilder {
    FrameBuilder::new().macs(DEFAULT_SRC_MAC, mac(dst))
}

fn v4() -> FrameBuilder {
    FrameBuilder::new().ip(A, B)
}

fn v6() -> FrameBuilder {
    FrameBuilder::new().ip(A6, B6)
}

#[test]
fn a_udp_datagram() {
    let p = parsed(&v4().udp(1000, 53).payload(b"hello"));
    assert_eq!(p.headers.src, u128::from(u32::from_be_bytes(A)));
    assert_eq!(p.headers.dst, u128::from(u32::from_be_bytes(B)));
    assert_eq!((p.headers.src_port, p.headers.dst_port), (1000, 53));
    assert_eq!((p.headers.ether_type, p.headers.protocol), (ETHER_IPV4, protocol::UDP));
    assert_eq!(p.headers.wire, WIRE);
    assert_eq!(p.headers.src_mac, Mac([2, 0, 0, 0, 0, 1]));
    assert_eq!(p.headers.dst_mac, Mac([2, 0, 0, 0, 0, 2]));
    assert_eq!(p.kind, Kind::Other);
    assert_eq!(p.flow_ports, (1000, 53));
    assert_eq!((p.network_offset, p.upper_offset, p.packet_end), (14, 34, 47));
    assert_eq!(p.fragment, None);
}

#[test]
fn a_tcp_segment() {
    let segment = v6()
        .vlan(30)
        .tcp(40000, 502, tcp_flags::SYN)
        .seq(7, 9)
        .window(1024)
        .tcp_options(&[2, 4, 5, 0xb4, 1, 3, 3, 7])
        .payload(b"abc");
    let p = parsed(&segment);
    assert_eq!(p.kind, Kind::Tcp);
    assert_eq!(p.headers.tags, VlanTags::single(30));
    assert_eq!(p.headers.src, 0xfd00_0000_0000_0000_0000_0000_0000_0001);
    let expected = TcpSegment {
        seq: 7,
        ack: 9,
        window: 1024,
        flags: tcp_flags::SYN,
        window_scale: Some(7),
        payload_len: 3,
    };
    assert_eq!(p.tcp, expected);
    assert_eq!((p.network_offset, p.upper_offset, p.packet_end), (18, 58, 89));
}

#[test]
fn what_a_frame_leaves_the_next_one_does_not_see() {
    let fragment = v6().vlan(7).fragment(1, 64, false).udp(1, 2).payload_len(16).build();
    let segment = v6().vlan(7).vlan(8).tcp(1, 2, tcp_flags::SYN).tcp_options(&[3, 3, 7]).build();
    for dirty in [fragment, segment] {
        let dirty = parse(&dirty, WireId(9)).expect("well formed");
        for (_, frame) in malformed() {
            let mut out = dirty;
            let result = parse_into(&frame, WIRE, Origin::Wire, &mut out);
            let mut clean = Parsed::default();
            assert_eq!(result, parse_into(&frame, WIRE, Origin::Wire, &mut clean));
            assert_eq!(out, clean);
        }
    }
}

// Every way to be malformed.

/// Frames that show each reason that the parser gives.
fn malformed() -> Vec<(DropReason, Vec<u8>)> {
    use DropReason as R;
    let udp = || v4().udp(1000, 53).payload(b"hello");
    let udp6 = || v6().udp(1000, 53).payload(b"hello");
    let syn = || v4().tcp(1000, 502, tcp_flags::SYN);
    let v6_from = |src: [u16; 8]| FrameBuilder::new().ip(src, B6).udp(1, 2);
    let v4_between = |src: [u8; 4], dst: [u8; 4]| FrameBuilder::new().ip(src, dst).udp(1, 2);
    let arp = FrameBuilder::new().arp(1, A.into(), B.into());
    let neighbour_solicitation = v6().hop_limit(64).icmp(135, 0, 0).payload(&B6_BYTES);
    let fragment = |offset, more, len| v4().fragment(1, offset, more).udp(1, 2).payload_len(len);
    vec![
        (R::EthernetTooShort, vec![]),
        (R::EthernetTooShort, cut(&udp(), 13)),
        (R::EthernetSourceGroup, udp().macs(mac("03:00:00:00:00:01"), DEFAULT_SRC_MAC).build()),
        (R::EthernetSourceGroup, udp().macs(Mac([0xff; 6]), DEFAULT_SRC_MAC).build()),
        (R::VlanTruncated, cut(&udp().vlan(1), 17)),
        (R::VlanTruncated, cut(&udp().vlan(1).vlan(2), 21)),
        (R::VlanTooDeep, udp().vlan(1).vlan(2).vlan(3).build()),
        (R::VlanTooDeep, udp().vlan(0).tag(0x88a8, 2).tag(0x9100, 0).build()),
        (R::VlanReserved, udp().vlan(4095).build()),
        (R::VlanReserved, udp().vlan(1).tag(0x8100, 0xefff).build()),
        (R::LlcLength, patched(&FrameBuilder::new().llc().payload(&[0xfe; 40]), 12, &[0x05, 0xdc])),
        (R::LlcLength, patched(&FrameBuilder::new().llc().payload(&[0xfe; 40]), 12, &[0x05, 0xdd])),
        (R::LlcLength, FrameBuilder::new().ether_type(0x05ff).payload_len(1600).build()),
        (R::LlcLength, FrameBuilder::new().llc().payload(&[0x42, 0x42]).build()),
        (R::LlcUnknown, FrameBuilder::new().llc().payload(&[0, 0xfe, 3, 0x83]).build()),
        (
            R::LlcUnknown,
            FrameBuilder::new().llc().payload(&[0xaa, 0xaa, 3, 0, 0, 0xf8, 8, 0, 0x45]).build(),
        ),
        (R::LlcUnknown, FrameBuilder::new().llc().payload(&[0x42, 0x42, 3, 0]).build()),
        (R::LlcUnknown, FrameBuilder::new().llc().payload(&[0xaa, 0xaa, 3, 0, 0, 0, 8]).build()),
        (R::LlcUnknown, FrameBuilder::new().snap().ether_type(0x05ff).payload_len(46).build()),
        (R::LlcUnknown, FrameBuilder::new().snap().ether_type(0x8100).payload_len(46).build()),
        (R::Pause, to("01:80:c2:00:00:01").ether_type(0x8808).build()),
        (R::Pause, FrameBuilder::new().ether_type(0x8808).build()),
        (R::Pause, FrameBuilder::new().vlan(3).ether_type(0x8808).build()),
        (R::LinkLocalUnknown, to("01:80:c2:00:00:00").llc().payload(&[0xfe, 0xfe, 3]).build()),
        (
            R::LinkLocalUnknown,
            to("01:80:c2:00:00:00").vlan(3).llc().payload(&[0x42, 0x42, 3]).build(),
        ),
        (R::LinkLocalUnknown, to("01:80:c2:00:00:01").llc().payload(&[0x42, 0x42, 3]).build()),
        (R::LinkLocalUnknown, to("01:80:c2:00:00:02").ether_type(0x8809).payload(&[3]).build()),
        (R::LinkLocalUnknown, to("01:80:c2:00:00:0e").ether_type(0x8809).payload(&[1]).build()),
        (R::LinkLocalUnknown, cut(&to("01:80:c2:00:00:02").ether_type(0x8809), 14)),
        (R::ArpMalformed, cut(&arp, 41)),
        (R::ArpMalformed, patched(&arp, 14, &[0, 2])),
        (R::ArpMalformed, patched(&arp, 16, &[0x86, 0xdd])),
        (R::ArpMalformed, patched(&arp, 18, &[8])),
        (R::ArpMalformed, patched(&arp, 19, &[16])),
        (R::ArpMalformed, FrameBuilder::new().arp(3, A.into(), B.into()).build()),
        (R::ArpSpoofed, patched(&arp, 22, &[2, 0, 0, 0, 0, 9])),
        (R::ArpSpoofed, patched(&arp, 22, &[0xff; 6])),
        (R::ArpSpoofed, FrameBuilder::new().arp(2, [224, 0, 0, 1].into(), B.into()).build()),
        (R::ArpSpoofed, FrameBuilder::new().arp(2, [127, 0, 0, 1].into(), B.into()).build()),
        (R::Ipv4Truncated, cut(&udp(), 33)),
        (R::Ipv4Truncated, cut(&udp(), 46)),
        (R::Ipv4Truncated, cut(&udp().ipv4_options(&[1; 40]), 60)),
        (R::Ipv4Truncated, FrameBuilder::new().ether_type(0x0800).unpadded().build()),
        (R::Ipv4Version, patched(&udp(), 14, &[0x55])),
        (R::Ipv4Version, patched(&udp(), 14, &[0x65])),
        (R::Ipv4HeaderLength, patched(&udp(), 14, &[0x44])),
        (R::Ipv4HeaderLength, patched(&udp(), 16, &[0, 19])),
        (R::Ipv4HeaderLength, patched(&udp(), 16, &[0, 0])),
        (R::Ipv4HeaderLength, patched(&udp().ipv4_options(&[1; 4]), 16, &[0, 23])),
        (R::Ipv4Checksum, {
            let mut frame = udp().build();
            frame[22] ^= 1;
            frame
        }),
        (R::Ipv4Checksum, {
            let mut frame = udp().ipv4_options(&[1; 4]).build();
            frame[24..26].fill(0);
            frame
        }),
        (R::Ipv4Options, udp().ipv4_options(&[131, 7, 4, 10, 0, 0, 3]).build()),
        (R::Ipv4Options, udp().ipv4_options(&[1, 137, 7, 4, 10, 0, 0, 3]).build()),
        (R::Ipv4Options, udp().ipv4_options(&[7, 1, 4]).build()),
        (R::Ipv4Options, udp().ipv4_options(&[7, 5, 4, 0]).build()),
        (R::Ipv4Options, udp().ipv4_options(&[1, 1, 1, 7]).build()),
        (R::Ipv4Address, v4_between([127, 0, 0, 1], B).build()),
        (R::Ipv4Address, v4_between(A, [127, 1, 2, 3]).build()),
        (R::Ipv4Address, v4_between([224, 0, 0, 1], B).build()),
        (R::Ipv4Address, v4_between([239, 255, 0, 1], B).build()),
        (R::Ipv4Address, v4_between([255; 4], B).build()),
        (R::Ipv4Address, v4_between(A, A).build()),
        (R::Ipv6Truncated, cut(&udp6(), 53)),
        (R::Ipv6Truncated, cut(&udp6(), 66)),
        (R::Ipv6Version, patched(&udp6(), 14, &[0x40])),
        (R::Ipv6Jumbogram, patched(&udp6(), 18, &[0, 0])),
        (R::Ipv6Jumbogram, udp6().options_extension(0, &[0xc2, 4, 0, 1, 0, 0]).build()),
        (
            R::Ipv6ExtensionHeader,
            udp6().options_extension(60, &[]).options_extension(0, &[]).build(),
        ),
        (
            R::Ipv6ExtensionHeader,
            udp6().options_extension(0, &[]).options_extension(0, &[]).build(),
        ),
        (R::Ipv6ExtensionHeader, {
            let options = |frame: FrameBuilder| frame.options_extension(60, &[]);
            options(options(options(udp6()))).build()
        }),
        (R::Ipv6ExtensionHeader, udp6().fragment(1, 0, false).extension(44, &[0; 7]).build()),
        (R::Ipv6ExtensionHeader, udp6().options_extension(60, &[5, 9]).build()),
        (R::Ipv6ExtensionHeader, udp6().extension(60, &[0, 0, 0, 0, 0, 0, 5]).build()),
        (R::Ipv6ExtensionHeader, v6().protocol(60).payload(&[6]).build()),
        (R::Ipv6ExtensionHeader, v6().protocol(43).payload(&[6, 1, 0, 0, 0, 0, 0, 0]).build()),
        (R::Ipv6ExtensionHeader, v6().protocol(44).payload(&[6, 0, 0, 0, 0, 0, 0]).build()),
        (R::Ipv6RoutingHeader, udp6().extension(43, &[0, 0, 0, 0, 0, 0, 0]).build()),
        (R::Ipv6RoutingHeader, udp6().extension(43, &[0, 1, 0, 0, 0, 0, 0]).build()),
        (R::Ipv6RoutingHeader, udp6().extension(43, &[0, 2, 1, 0, 0, 0, 0]).build()),
        (R::Ipv6RoutingHeader, udp6().extension(43, &[0, 4, 1, 0, 0, 0, 0]).build()),
        (R::Ipv6Address, v6_from(B6).build()),
        (R::Ipv6Address, v6_from([0, 0, 0, 0, 0, 0, 0, 1]).build()),
        (R::Ipv6Address, v6_from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]).build()),
        (R::Ipv6Address, v6_from([0xff02, 0, 0, 0, 0, 0, 0, 1]).build()),
        (R::Ipv6Address, FrameBuilder::new().ip(A6, [0; 8]).udp(1, 2).build()),
        (R::Ipv6Address, FrameBuilder::new().ip(A6, [0, 0, 0, 0, 0, 0, 0, 1]).udp(1, 2).build()),
        (
            R::Ipv6Address,
            FrameBuilder::new().ip(A6, [0, 0, 0, 0, 0, 0xffff, 0x7f00, 1]).udp(1, 2).build(),
        ),
        (
            R::Ipv6Address,
            FrameBuilder::new().ip(A6, [0xff01, 0, 0, 0, 0, 0, 0, 1]).udp(1, 2).build(),
        ),
        (
            R::Ipv6Address,
            udp6()
                .options_extension(60, &[0xc9, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
                .build(),
        ),
        (R::UpperTruncated, v4().protocol(17).payload(&[0, 1, 0, 2, 0, 8, 0]).build()),
        (R::UpperTruncated, v4().protocol(6).payload(&[1; 19]).build()),
        (R::UpperTruncated, v4().protocol(132).payload(&[1; 11]).build()),
        (R::UpperTruncated, v4().protocol(1).payload(&[8; 7]).build()),
        (R::UpperTruncated, v6().protocol(58).payload(&[128; 7]).build()),
        (R::UpperTruncated, v4().protocol(47).payload(&[0; 3]).build()),
        (R::UpperTruncated, v4().protocol(50).payload(&[0; 7]).build()),
        (R::UpperTruncated, v6().protocol(51).payload(&[0; 11]).build()),
        (R::TcpHeaderLength, patched(&syn(), 46, &[0x40])),
        (R::TcpHeaderLength, patched(&syn(), 46, &[0x60])),
        (R::TcpFlags, v4().tcp(1, 2, 0).build()),
        (R::TcpFlags, v4().tcp(1, 2, tcp_flags::SYN | tcp_flags::FIN).build()),
        (R::TcpFlags, v4().tcp(1, 2, tcp_flags::SYN | tcp_flags::RST).build()),
        (R::TcpFlags, v4().tcp(1, 2, tcp_flags::FIN).build()),
        (R::TcpFlags, v4().tcp(1, 2, tcp_flags::FIN | tcp_flags::RST | tcp_flags::ACK).build()),
        (R::TcpFlags, v4().tcp(1, 2, tcp_flags::FIN | tcp_flags::PSH | tcp_flags::URG).build()),
        (R::TcpFlags, v4().tcp(1, 2, 0xff).build()),
        (R::TcpPort, v4().tcp(0, 2, tcp_flags::SYN).build()),
        (R::TcpPort, v4().tcp(1, 0, tcp_flags::SYN).build()),
        (R::UdpLength, patched(&udp(), 38, &[0, 7])),
        (R::UdpLength, patched(&udp(), 38, &[0, 14])),
        (R::UdpLength, patched(&udp6(), 58, &[0, 0])),
        (R::UdpPort, v4().udp(1, 0).build()),
        (R::FragmentTiny, v4().fragment(1, 0, true).protocol(6).payload(&[1; 16]).build()),
        (R::FragmentTiny, {
            // 24 bytes of a TCP header that is 28 long.
            let first = v4().fragment(1, 0, true).tcp(1, 2, tcp_flags::SYN).tcp_options(&[1; 4]);
            patched(&first, 46, &[0x70])
        }),
        (R::FragmentTiny, v4().fragment(1, 8, false).protocol(6).payload(&[1; 16]).build()),
        (R::FragmentTiny, v6().fragment(1, 16, false).protocol(6).payload(&[1; 16]).build()),
        (R::FragmentTiny, fragment(64, false, 0).build()),
        (
            R::FragmentTiny,
            v6().fragment(1, 0, true).protocol(60).payload(&[17, 1, 1, 4, 0, 0, 0, 0]).build(),
        ),
        (R::FragmentTiny, v6().fragment(1, 0, true).protocol(17).payload(&[]).build()),
        (R::FragmentOverrun, fragment(64, true, 9).build()),
        (R::FragmentOverrun, v6().fragment(1, 64, true).udp(1, 2).payload_len(9).build()),
        (R::FragmentOverrun, fragment(65528, false, 8).build()),
        (R::FragmentOverrun, v6().fragment(1, 65528, false).udp(1, 2).payload_len(8).build()),
        (R::NdMalformed, neighbour_solicitation.build()),
        (R::NdSpoofed, nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES, &OTHER_MAC_OPTION]).build()),
        (R::FrameTooLong, vec![0; 65536]),
    ]
}

#[test]
fn every_malformed_frame_has_its_own_reason() {
    for (reason, frame) in malformed() {
        assert_eq!(parse(&frame, WIRE), Err(reason), "{frame:02x?}");
    }
}

#[test]
fn every_reason_of_the_parser_is_shown() {
    let shown: BTreeSet<DropReason> = malformed().into_iter().map(|(reason, _)| reason).collect();
    let of_the_frame = DropReason::EthernetTooShort..=DropReason::UdpPort;
    let expected: BTreeSet<DropReason> = DropReason::ALL
        .iter()
        .copied()
        .filter(|reason| of_the_frame.contains(reason))
        .chain([
            DropReason::FragmentTiny,
            DropReason::FragmentOverrun,
            DropReason::NdMalformed,
            DropReason::NdSpoofed,
            DropReason::FrameTooLong,
        ])
        .collect();
    assert_eq!(shown, expected);
}

// The link layer.

#[test]
fn tags_are_read_outermost_first() {
    let tags = |frame: FrameBuilder| {
        let p = parsed(&frame.ip(A, B).udp(1, 2));
        (p.headers.tags.outer, p.headers.tags.inner, p.network_offset)
    };
    let new = FrameBuilder::new;
    assert_eq!(tags(new().vlan(30)), (30, 0, 18));
    assert_eq!(tags(new().tag(0x88a8, 100).vlan(30)), (100, 30, 22));
    assert_eq!(tags(new().tag(0x9100, 100).vlan(30)), (100, 30, 22));
    assert_eq!(tags(new().tag(0x8100, 0xe01e)), (30, 0, 18), "priority is not part of the VID");
    assert_eq!(tags(new().vlan(0)), (0, 0, 18), "a priority tag is none");
    assert_eq!(tags(new().vlan(0).vlan(30)), (30, 0, 22));
    assert_eq!(tags(new().vlan(30).vlan(0)), (30, 0, 22));
    assert_eq!(tags(new().vlan(4094)), (4094, 0, 18));
}

#[test]
fn snap_is_its_ether_type() {
    let p = parsed(&FrameBuilder::new().vlan(5).snap().ip(A, B).udp(1000, 53).payload(b"x"));
    assert_eq!((p.headers.ether_type, p.headers.dst_port), (ETHER_IPV4, 53));
    assert_eq!((p.network_offset, p.upper_offset, p.packet_end), (26, 46, 55));
    let p = parsed(&FrameBuilder::new().snap().ether_type(0x8892).payload(&[1; 4]));
    assert_eq!((p.headers.ether_type, p.kind), (0x8892, Kind::Other));
    assert_eq!((p.network_offset, p.packet_end), (22, 26), "the length ends the packet");
}

#[test]
fn a_snap_packet_ends_with_its_802_3_length() {
    let mut frame = FrameBuilder::new().snap().ip(A, B).udp(1, 2).payload_len(40).build();
    let length = u16::from_be_bytes([frame[12], frame[13]]) - 1;
    frame[12..14].copy_from_slice(&length.to_be_bytes());
    assert_eq!(parse(&frame, WIRE), Err(DropReason::Ipv4Truncated));
}

#[test]
fn link_local_control_crosses() {
    let bpdu = [0x42, 0x42, 0x03, 0, 0, 0, 0, 0];
    let pvst = [0xaa, 0xaa, 0x03, 0, 0, 0x0c, 0x01, 0x0b, 0, 0];
    let control = [
        (to("01:80:c2:00:00:00").llc().payload(&bpdu), 0),
        (to("01:80:c2:00:00:08").llc().payload(&bpdu), 0),
        (to("01:80:c2:00:00:00").vlan(0).llc().payload(&bpdu), 0),
        (to("01:00:0c:cc:cc:cd").llc().payload(&pvst), 0),
        (to("01:00:0c:cc:cc:cd").vlan(7).llc().payload(&pvst), 0),
        (to("01:80:c2:00:00:02").ether_type(0x8809).payload(&[1, 1]), 0x8809),
        (to("01:80:c2:00:00:02").ether_type(0x8809).payload(&[2, 1]), 0x8809),
        (to("01:80:c2:00:00:0e").ether_type(0x88cc).payload(&[2]), 0x88cc),
        (to("01:80:c2:00:00:03").ether_type(0x88cc).payload(&[2]), 0x88cc),
        (to("01:80:c2:00:00:00").ether_type(0x88cc).payload(&[2]), 0x88cc),
    ];
    for (frame, ether_type) in control {
        let p = parsed(&frame);
        assert_eq!((p.kind, p.headers.ether_type), (Kind::LinkControl, ether_type), "{frame:?}");
    }
}

#[test]
fn other_ether_types_are_for_the_policy() {
    let ordinary = [
        FrameBuilder::new().ether_type(0x8892),
        FrameBuilder::new().ether_type(0x88cc),
        FrameBuilder::new().ether_type(0x8809).payload(&[1]),
        FrameBuilder::new().ether_type(0x0600),
        to("01:80:c2:00:00:03").ether_type(0x888e),
        to("01:80:c2:00:00:0e").ether_type(0x88f7),
        to("01:80:c2:00:00:0e").ether_type(0x8892),
        to("01:80:c2:00:00:0e").vlan(4).ether_type(0x88cc),
        to("01:80:c2:00:00:10").ether_type(0x88cc),
    ];
    for frame in ordinary {
        let p = parsed(&frame);
        assert_eq!(p.kind, Kind::Other, "{frame:?}");
        assert_eq!(usize::from(p.packet_end), frame.build().len());
    }
}

#[test]
fn a_rule_names_llc_by_its_dsap() {
    let cases: [(&[u8], u16); 5] = [
        (&[0x82, 0x82, 3, 1, 0], 0x82),
        // A response; its DSAP is the one that asked.
        (&[0x82, 0x83, 3, 1, 0], 0x82),
        (&[0xfe, 0xfe, 3, 0x83], 0xfe),
        // Raw IPX, whose checksum field is all ones.
        (&[0xff, 0xff, 0, 34], 0xff),
        // UDLD and its like: SNAP of another organisation.
        (&[0xaa, 0xaa, 3, 0, 0, 0x0c, 1, 0x11, 0], 0xaa),
    ];
    for (llc, dsap) in cases {
        for frame in [FrameBuilder::new().llc(), FrameBuilder::new().vlan(7).llc()] {
            let p = parsed(&frame.payload(llc));
            assert_eq!((p.kind, p.headers.ether_type), (Kind::Other, dsap));
            assert_eq!(usize::from(p.packet_end - p.network_offset), llc.len(), "no padding");
        }
    }
}

#[test]
fn arp_probes_announcements_and_replies_pass() {
    let new = FrameBuilder::new;
    let passing = [
        new().arp(1, A.into(), B.into()),
        new().arp(2, A.into(), B.into()),
        new().arp(1, [0; 4].into(), B.into()),
        new().arp(1, A.into(), A.into()),
        new().vlan(9).arp(1, A.into(), B.into()),
        new().snap().arp(1, A.into(), B.into()),
    ];
    for frame in passing {
        let p = parsed(&frame);
        assert_eq!((p.kind, p.headers.ether_type), (Kind::Arp, ETHER_ARP), "{frame:?}");
        assert!(!p.headers.is_ip() && p.headers.src == 0 && p.headers.dst == 0);
    }
    let under_llc = patched(&new().arp(1, A.into(), B.into()), 14, &[0, 6]);
    assert_eq!(parse(&under_llc, WIRE).map(|p| p.kind), Ok(Kind::Arp));
}

// IPv4.

#[test]
fn padding_and_trailing_bytes_are_not_looked_at() {
    let bare = v4().udp(1, 2).payload(b"x").unpadded();
    let padded = parsed(&v4().udp(1, 2).payload(b"x"));
    assert_eq!(parsed(&bare), padded);
    assert_eq!(parsed(&bare.trailer(&[0xff; 900])), padded);
    assert_eq!(padded.packet_end, 14 + 20 + 8 + 1);
}

#[test]
fn harmless_options_pass() {
    for options in [&[1, 1, 1, 0][..], &[7, 7, 4, 0, 0, 0, 0], &[148, 4, 0, 0], &[0, 131, 200]] {
        let p = parsed(&v4().ipv4_options(options).udp(1, 2));
        assert_eq!(usize::from(p.upper_offset), 14 + 20 + options.len().next_multiple_of(4));
        assert_eq!(p.headers.dst_port, 2);
    }
}

#[test]
fn unusual_addresses_that_wires_carry_pass() {
    let pairs = [
        ([0; 4], [255; 4]),
        (A, [224, 0, 0, 251]),
        ([240, 0, 0, 1], B),
        ([169, 254, 0, 1], B),
        ([126, 0, 0, 1], [128, 0, 0, 1]),
    ];
    for (src, dst) in pairs {
        parsed(&FrameBuilder::new().ip(src, dst).udp(68, 67));
    }
    let pairs = [
        ([0; 8], [0xff02, 0, 0, 0, 0, 0, 0, 1]),
        ([0xfe80, 0, 0, 0, 0, 0, 0, 1], [0xff05, 0, 0, 0, 0, 0, 1, 3]),
        ([0x0064, 0xff9b, 0, 0, 0, 0, 0x0a00, 1], B6),
    ];
    for (src, dst) in pairs {
        parsed(&FrameBuilder::new().ip(src, dst).udp(546, 547));
    }
}

#[test]
fn only_captures_may_lack_a_checksum() {
    for frame in [v4().udp(1, 2), v4().ipv4_options(&[1; 4]).udp(1, 2)] {
        let mut unfinished = frame.build();
        unfinished[24..26].fill(0);
        let mut out = Parsed::default();
        let mut parse_as = |frame: &[u8], origin| parse_into(frame, WIRE, origin, &mut out);
        assert_eq!(parse_as(&unfinished, Origin::Wire), Err(DropReason::Ipv4Checksum));
        assert_eq!(parse_as(&unfinished, Origin::Capture), Ok(()));
        unfinished[24] ^= 1;
        assert_eq!(parse_as(&unfinished, Origin::Capture), Err(DropReason::Ipv4Checksum));
    }
}

#[test]
fn the_checksum_is_compared_bit_by_bit() {
    for word in 0..=u16::MAX {
        // The identification makes the sum take every value, those that carry included.
        let frame = v4().ipv4_id(word).udp(1, 2).build();
        assert!(parse(&frame, WIRE).is_ok(), "{word:04x}");
    }
    let right = v4().udp(1, 2).build();
    for bit in 0..16 {
        let mut wrong = right.clone();
        wrong[24 + bit / 8] ^= 1 << (bit % 8);
        assert_eq!(parse(&wrong, WIRE), Err(DropReason::Ipv4Checksum));
    }
}

// IPv6.

#[test]
fn extension_headers_lead_to_the_upper_layer() {
    let chained = v6()
        .options_extension(0, &[5, 2, 0, 0])
        .options_extension(60, &[1, 3, 0, 0, 0])
        .extension(43, &[0, 4, 0, 0, 0, 0, 0])
        .extension(135, &[0, 0, 0, 0, 0, 0, 0])
        .extension(139, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .extension(140, &[0, 0, 0, 0, 0, 0, 0])
        .options_extension(60, &[])
        .udp(1000, 53);
    let p = parsed(&chained);
    assert_eq!((p.headers.protocol, p.headers.dst_port), (protocol::UDP, 53));
    assert_eq!(p.upper_offset, 14 + 40 + 8 * 8);
    assert_eq!(p.packet_end, p.upper_offset + 8);
}

#[test]
fn a_chain_that_ends_is_of_the_protocol_that_a_rule_can_name() {
    let protocol_of = |frame: FrameBuilder| parsed(&frame).headers.protocol;
    assert_eq!(protocol_of(v6()), 59);
    assert_eq!(protocol_of(v6().extension(135, &[0; 7])), 135);
    assert_eq!(protocol_of(v6().extension(139, &[0; 7])), 139);
    assert_eq!(protocol_of(v6().options_extension(60, &[])), 59);
    assert_eq!(protocol_of(v6().protocol(51).payload(&[6; 12])), protocol::AH);
    assert_eq!(protocol_of(v6().protocol(50).payload(&[6; 8])), protocol::ESP);
    assert_eq!(protocol_of(v4().protocol(51).payload(&[6; 12])), protocol::AH);
    assert_eq!(protocol_of(v6().protocol(253).payload(&[0])), 253);
    // The one packet that may have no payload.
    let p = parse(&patched(&v6(), 18, &[0, 0]), WIRE).expect("well formed");
    assert_eq!((p.headers.protocol, p.upper_offset, p.packet_end), (59, 54, 54));
}

#[test]
fn an_atomic_fragment_is_none() {
    let p = parsed(&v6().fragment(9, 0, false).udp(1000, 53).payload(b"x"));
    assert_eq!((p.kind, p.fragment, p.headers.dst_port), (Kind::Other, None, 53));
}

// Fragments.

#[test]
fn fragments_say_where_they_stand() {
    for (frame, header_len) in [(v4(), 20), (v6(), 48)] {
        let pieces = frame.udp(1000, 53).payload_len(100).build_fragments(0x1234, 48);
        let p: Vec<Parsed> =
            pieces.iter().map(|piece| parse(piece, WIRE).expect("well formed")).collect();
        let place = |offset, len, more| Some(FragmentPlace { id: 0x1234, offset, len, more });
        assert_eq!(p[0].fragment, place(0, 48, true));
        assert_eq!((p[0].kind, p[0].headers.dst_port), (Kind::Other, 53));
        assert_eq!(p[1].fragment, place(48, 48, true));
        assert_eq!(p[2].fragment, place(96, 12, false));
        for later in &p[1..] {
            assert_eq!((later.kind, later.flow_ports), (Kind::LaterFragment, (0, 0)));
            assert_eq!((later.headers.src_port, later.headers.dst_port), (0, 0));
            assert_eq!(later.headers.protocol, protocol::UDP);
            assert_eq!(later.upper_offset, 14 + header_len);
        }
        assert_eq!(p[2].packet_end, 14 + header_len + 12);
    }
}

#[test]
fn honest_fragments_pass() {
    let whole_header = v4().fragment(1, 0, true).tcp(1, 2, tcp_flags::SYN).payload_len(4);
    assert_eq!(parsed(&whole_header).kind, Kind::Tcp);
    // Routers cut fragments again: a middle one may be short.
    parsed(&v4().fragment(1, 1472, true).udp(1, 2).payload_len(8));
    parsed(&v4().fragment(1, 24, false).tcp(1, 2, 0).payload_len(1));
    parsed(&v4().dont_fragment().fragment(1, 8, true).udp(1, 2).payload_len(8));
    // The last byte that a packet can have.
    parsed(&v4().fragment(1, 65512, false).udp(1, 2).payload_len(3));
    parsed(&v6().fragment(1, 65528, false).udp(1, 2).payload_len(7));
    let chain = v6()
        .fragment(1, 0, true)
        .protocol(60)
        .payload(&[17, 0, 1, 4, 0, 0, 0, 0, 0, 1, 0, 2, 0, 99, 0, 0]);
    assert_eq!(parsed(&chain).headers.dst_port, 2);
}

// Upper layers.

#[test]
fn every_sane_combination_of_tcp_flags_passes() {
    use tcp_flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};
    for flags in [
        SYN,
        SYN | ECE | CWR,
        SYN | ACK,
        ACK,
        ACK | PSH | URG,
        FIN | ACK,
        FIN | PSH | ACK,
        RST,
        RST | ACK,
    ] {
        assert_eq!(parsed(&v4().tcp(1, 2, flags)).tcp.flags, flags);
    }
}

#[test]
fn the_window_scale_is_read_as_hosts_read_it() {
    let scale = |flags, options: &[u8]| {
        parsed(&v4().tcp(1, 2, flags).tcp_options(options)).tcp.window_scale
    };
    let syn = tcp_flags::SYN;
    assert_eq!(scale(syn, &[]), None);
    assert_eq!(scale(syn, &[3, 3, 0]), Some(0));
    assert_eq!(
        scale(syn, &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 9]),
        Some(9)
    );
    assert_eq!(scale(syn | tcp_flags::ACK, &[3, 3, 7]), Some(7));
    assert_eq!(scale(syn, &[3, 3, 15]), Some(14));
    assert_eq!(scale(syn, &[3, 3, 2, 3, 3, 5]), Some(5));
    assert_eq!(scale(syn, &[0, 3, 3, 7]), None, "nothing follows the end of options");
    assert_eq!(scale(syn, &[3, 4, 7, 0]), None);
    assert_eq!(scale(syn, &[2, 0, 3, 3, 7]), None, "an option of no length ends the search");
    assert_eq!(scale(syn, &[2, 41, 3, 3]), None);
    assert_eq!(scale(syn, &[1, 1, 1, 3]), None);
    assert_eq!(scale(tcp_flags::ACK, &[3, 3, 7]), None, "only a SYN has one");
}

#[test]
fn udp_may_end_before_the_packet_does() {
    let mut frame = v4().udp(1000, 53).payload(b"options").build();
    frame[38..40].copy_from_slice(&10_u16.to_be_bytes());
    let p = parse(&frame, WIRE).expect("well formed");
    assert_eq!((p.headers.dst_port, p.packet_end), (53, 49));
}

#[test]
fn protocols_with_and_without_ports() {
    let p = parsed(&v4().sctp(5, 6));
    assert_eq!((p.kind, p.headers.src_port, p.headers.dst_port), (Kind::Other, 5, 6));
    for frame in [v4().protocol(47).payload(&[0; 4]), v4().protocol(2).payload(&[0x16; 8])] {
        let p = parsed(&frame);
        assert_eq!((p.kind, p.headers.src_port, p.headers.dst_port), (Kind::Other, 0, 0));
        assert_eq!(p.flow_ports, (0, 0));
    }
}

// ICMP.

#[test]
fn icmp_shows_type_and_code_to_rules_and_identifiers_to_flows() {
    for (frame, dst_port) in [
        (v4().echo_request(77, 1), 8 << 8),
        (v4().echo_reply(77, 1), 0),
        (v4().icmp(13, 0, 77 << 16), 13 << 8),
        (v6().echo_request(77, 1), 128 << 8),
        (v6().echo_reply(77, 1), 129 << 8),
    ] {
        let p = parsed(&frame);
        assert_eq!((p.kind, p.flow_ports), (Kind::IcmpQuery, (77, 77)));
        assert_eq!((p.headers.src_port, p.headers.dst_port), (0, dst_port));
    }
    let p = parsed(&v4().icmp(9, 0, 77 << 16));
    assert_eq!((p.kind, p.flow_ports), (Kind::Other, (0, 9 << 8)));
    // ICMP of the other family: for the rules, and not for the machinery.
    let p = parsed(&v6().protocol(1).payload(&[3, 1, 0, 0, 0, 0, 0, 0]));
    assert_eq!((p.headers.dst_port, p.flow_ports), (3 << 8 | 1, (0, 3 << 8 | 1)));
}

fn quote(frame: &[u8]) -> Result<(Headers, (u16, u16)), DropReason> {
    let parsed = parse(frame, WIRE).expect("the outer packet is well formed");
    assert_eq!(parsed.kind, Kind::IcmpError);
    parse_quoted(frame, &parsed)
}

/// An error from a router to A (or A6) that quotes `len` bytes of what A had sent.
fn error_quoting(sent: &FrameBuilder, len: usize) -> Vec<u8> {
    const ROUTER: [u8; 4] = [10, 0, 0, 254];
    const ROUTER6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 0xfe];
    let sent = sent.clone().unpadded().build();
    let quotation = &sent[14..(14 + len).min(sent.len())];
    let error = if sent[12..14] == [0x08, 0x00] {
        FrameBuilder::new().ip(ROUTER, A).icmp(11, 0, 0)
    } else {
        FrameBuilder::new().ip(ROUTER6, A6).icmp(3, 0, 0)
    };
    error.payload(quotation).build()
}

#[test]
fn a_quotation_names_its_flow() {
    let eight = |frame: &FrameBuilder| error_quoting(frame, 28);
    let udp = v4().udp(1000, 53).payload_len(100);
    let (headers, flow_ports) = quote(&eight(&udp)).expect("the quotation suffices");
    let sent = parsed(&udp).headers;
    let expected = Headers { src_mac: Mac::default(), dst_mac: Mac::default(), ..sent };
    assert_eq!((headers, flow_ports), (expected, (1000, 53)));

    let (headers, _) = quote(&eight(&v4().tcp(7, 9, tcp_flags::SYN))).expect("it suffices");
    assert_eq!((headers.src_port, headers.dst_port), (7, 9));
    let (headers, flow_ports) = quote(&eight(&v4().echo_request(77, 1))).expect("it suffices");
    assert_eq!((headers.dst_port, flow_ports), (8 << 8, (77, 77)));
    let with_options = v4().ipv4_options(&[1; 8]).udp(1000, 53);
    let (headers, _) = quote(&error_quoting(&with_options, 36)).expect("it suffices");
    assert_eq!(headers.dst_port, 53);
    let first = v4().fragment(1, 0, true).udp(1000, 53).payload_len(64);
    assert_eq!(quote(&eight(&first)).expect("it suffices").0.dst_port, 53);

    let chained = v6().options_extension(60, &[]).udp(1000, 53).payload_len(64);
    let (headers, _) = quote(&error_quoting(&chained, 56)).expect("it suffices");
    assert_eq!((headers.protocol, headers.dst_port), (protocol::UDP, 53));
    let first = v6().fragment(1, 0, true).udp(1000, 53).payload_len(64);
    assert_eq!(quote(&error_quoting(&first, 61)).expect("it suffices").0.dst_port, 53);
}

#[test]
fn a_quotation_that_names_no_flow_is_malformed() {
    let udp = v4().udp(1000, 53).payload_len(100);
    let udp6 = v6().udp(1000, 53).payload_len(100);
    let mut wrong = vec![
        error_quoting(&udp, 0),
        error_quoting(&udp, 27),
        error_quoting(&udp6, 47),
        error_quoting(&v6().options_extension(60, &[]).udp(1, 2), 55),
        error_quoting(&v4().fragment(1, 64, false).udp(1, 2).payload_len(64), 64),
        error_quoting(&v6().fragment(1, 64, false).udp(1, 2).payload_len(64), 64),
        // An error is not quoted.
        error_quoting(&v4().icmp(3, 1, 0).payload_len(28), 56),
        error_quoting(&v6().icmp(1, 0, 0).payload_len(48), 96),
        // Somebody else sent it.
        error_quoting(&FrameBuilder::new().ip(B, A).udp(1, 2), 28),
        error_quoting(&FrameBuilder::new().ip(B6, A6).udp(1, 2), 48),
    ];
    let mut wrong_version = error_quoting(&udp, 28);
    wrong_version[42] = 0x65;
    wrong.push(wrong_version);
    let mut wrong_header_length = error_quoting(&udp, 28);
    wrong_header_length[42] = 0x44;
    wrong.push(wrong_header_length);
    for frame in wrong {
        assert_eq!(quote(&frame), Err(DropReason::IcmpMalformed), "{frame:02x?}");
    }
}

// Neighbour discovery and MLD.

const LINK_LOCAL: [u16; 8] = [0xfe80, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES: [u16; 8] = [0xff02, 0, 0, 0, 0, 0, 0, 1];
const SOLICITED_NODE: [u16; 8] = [0xff02, 0, 0, 0, 0, 1, 0xff00, 2];
const B6_BYTES: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const SOURCE_MAC_OPTION: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 1];
const OTHER_MAC_OPTION: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 7];
const SOLICITED: u32 = 0x4000_0000;

/// A message between link neighbours; `parts` make up its body.
fn nd(src: [u16; 8], dst: [u16; 8], kind: u8, rest: u32, parts: &[&[u8]]) -> FrameBuilder {
    FrameBuilder::new().ip(src, dst).hop_limit(255).icmp(kind, 0, rest).payload(&parts.concat())
}

#[test]
fn neighbour_discovery_that_hosts_accept_passes() {
    let link_local_bytes = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let passing = [
        nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES, &SOURCE_MAC_OPTION]),
        nd(A6, B6, 135, 0, &[&B6_BYTES]),
        nd([0; 8], SOLICITED_NODE, 135, 0, &[&B6_BYTES]),
        nd(A6, B6, 136, SOLICITED, &[&B6_BYTES]),
        nd(A6, ALL_NODES, 136, 0, &[&B6_BYTES, &[2, 1, 2, 0, 0, 0, 0, 1]]),
        nd(LINK_LOCAL, ALL_NODES, 133, 0, &[&SOURCE_MAC_OPTION]),
        nd([0; 8], ALL_NODES, 133, 0, &[]),
        nd(LINK_LOCAL, ALL_NODES, 134, 0, &[&[0; 8], &SOURCE_MAC_OPTION]),
        nd(LINK_LOCAL, A6, 137, 0, &[&link_local_bytes, &B6_BYTES]),
        nd(LINK_LOCAL, A6, 137, 0, &[&B6_BYTES, &B6_BYTES]),
        // The better next hop is somebody else.
        nd(LINK_LOCAL, A6, 137, 0, &[&B6_BYTES, &B6_BYTES, &[2, 1, 2, 0, 0, 0, 0, 7]]),
        // An option that none of these has a use for.
        nd(A6, B6, 136, SOLICITED, &[&B6_BYTES, &[14, 1, 2, 0, 0, 0, 0, 7]]),
    ];
    for frame in passing {
        let p = parsed(&frame);
        assert_eq!((p.kind, p.headers.protocol), (Kind::NeighbourDiscovery, protocol::ICMPV6));
    }
}

#[test]
fn neighbour_discovery_that_hosts_refuse_does_not() {
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let good = || nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES]);
    let refused = [
        good().hop_limit(254),
        good().fragment(1, 0, false),
        FrameBuilder::new()
            .ip(A6, SOLICITED_NODE)
            .hop_limit(255)
            .icmp(135, 1, 0)
            .payload(&B6_BYTES),
        nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES[..15]]),
        nd(A6, SOLICITED_NODE, 135, 0, &[&group]),
        nd(A6, SOLICITED_NODE, 135, 0, &[&[0; 16]]),
        nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES, &[1, 0, 0, 0, 0, 0, 0, 0]]),
        nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES, &[1, 2, 0, 0, 0, 0, 0, 0]]),
        nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES, &[1]]),
        nd([0; 8], B6, 135, 0, &[&B6_BYTES]),
        nd([0; 8], SOLICITED_NODE, 135, 0, &[&B6_BYTES, &SOURCE_MAC_OPTION]),
        nd(A6, ALL_NODES, 136, SOLICITED, &[&B6_BYTES]),
        nd([0; 8], ALL_NODES, 136, 0, &[&B6_BYTES]),
        nd(A6, B6, 136, 0, &[&group]),
        nd([0; 8], ALL_NODES, 133, 0, &[&SOURCE_MAC_OPTION]),
        nd(A6, ALL_NODES, 134, 0, &[&[0; 8]]),
        nd(LINK_LOCAL, ALL_NODES, 134, 0, &[&[0; 7]]),
        nd(A6, B6, 137, 0, &[&B6_BYTES, &B6_BYTES]),
        nd(LINK_LOCAL, B6, 137, 0, &[&B6_BYTES, &group]),
        nd(LINK_LOCAL, B6, 137, 0, &[&B6_BYTES, &[0xfd; 16]]),
        nd(LINK_LOCAL, B6, 137, 0, &[&B6_BYTES]),
    ];
    for frame in refused {
        assert_eq!(reason(&frame), DropReason::NdMalformed, "{frame:?}");
    }
}

#[test]
fn who_tells_a_link_layer_address_tells_its_own() {
    let target = [2, 1, 2, 0, 0, 0, 0, 7];
    let spoofed = [
        nd(LINK_LOCAL, ALL_NODES, 133, 0, &[&OTHER_MAC_OPTION]),
        nd(LINK_LOCAL, ALL_NODES, 134, 0, &[&[0; 8], &OTHER_MAC_OPTION]),
        nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES, &OTHER_MAC_OPTION]),
        // One of them for the gateway, another for the host.
        nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES, &SOURCE_MAC_OPTION, &OTHER_MAC_OPTION]),
        nd(A6, SOLICITED_NODE, 135, 0, &[&B6_BYTES, &OTHER_MAC_OPTION, &SOURCE_MAC_OPTION]),
        nd(A6, ALL_NODES, 136, 0, &[&B6_BYTES, &target]),
        // Longer than an Ethernet address, whatever it begins with.
        nd(A6, ALL_NODES, 136, 0, &[&B6_BYTES, &[2, 2, 2, 0, 0, 0, 0, 1], &[0; 8]]),
        nd(LINK_LOCAL, A6, 137, 0, &[&B6_BYTES, &B6_BYTES, &OTHER_MAC_OPTION]),
    ];
    for frame in spoofed {
        assert_eq!(reason(&frame), DropReason::NdSpoofed, "{frame:?}");
    }
}

#[test]
fn mld_stays_on_its_link() {
    let mld = |src: [u16; 8], kind, len: usize| {
        FrameBuilder::new().ip(src, ALL_NODES).hop_limit(1).icmp(kind, 0, 0).payload_len(len)
    };
    let alerted = mld(LINK_LOCAL, 143, 0).options_extension(0, &[5, 2, 0, 0]);
    for frame in [mld(LINK_LOCAL, 130, 16), mld(LINK_LOCAL, 131, 16), mld([0; 8], 143, 0), alerted]
    {
        assert_eq!(parsed(&frame).kind, Kind::NeighbourDiscovery);
    }
    let refused = [
        mld(LINK_LOCAL, 130, 16).hop_limit(255),
        mld(LINK_LOCAL, 130, 15),
        mld([0; 8], 130, 16),
        mld(A6, 131, 16),
        mld(LINK_LOCAL, 132, 16).fragment(1, 0, false),
        FrameBuilder::new().ip(LINK_LOCAL, B6).hop_limit(1).icmp(131, 0, 0).payload_len(16),
    ];
    for frame in refused {
        assert_eq!(reason(&frame), DropReason::NdMalformed, "{frame:?}");
    }
}
