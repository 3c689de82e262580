//! What `parse` makes of whole frames. The layers' details are tested here too, because a frame is
//! what shows them.

use bulkhead_rules::headers::{Mac, VlanTags};

use super::*;
use crate::frames::{FrameBuilder, tcp_flags};

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];
const A6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 1];
const B6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 2];
const WIRE: WireId = WireId(3);

fn parsed(frame: &FrameBuilder) -> Parsed {
    parse(&frame.build(), WIRE).expect("the frame is well formed")
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
