//! What a TCP segment has to show before it moves the state of its connection: that its receiver will
//! get it, and take it.
//!
//! Whoever can send a segment that the gateway believes and the receiver never sees can make the two
//! disagree about a connection. So a segment with a wrong checksum is dropped where it would change
//! anything, and one that comes with too few hops left for a receiver behind a router is forwarded
//! and proves nothing.

use bulkhead_rules::headers::ETHER_IPV4;

use crate::checksum;
use crate::parse::Parsed;

/// A segment with fewer hops left than this may end at a router between the gateway and its receiver.
/// Hosts start at 64, 128 or 255, and are rarely more than 30 hops away.
pub const FEW_HOPS: u8 = 5;

/// Whether the checksum of a whole TCP segment is right. `frame` is the one that parsed as `parsed`.
pub fn is_checksum_right(frame: &[u8], parsed: &Parsed) -> bool {
    let (network, upper) = (usize::from(parsed.network_offset), usize::from(parsed.upper_offset));
    let addresses = match parsed.headers.ether_type {
        ETHER_IPV4 => frame.get(network + 12..network + 20),
        _ => frame.get(network + 8..network + 40),
    };
    let segment = frame.get(upper..usize::from(parsed.packet_end));
    let (Some(addresses), Some(segment)) = (addresses, segment) else { return false };
    let pseudo = checksum::add(u64::from(parsed.headers.protocol), addresses);
    checksum::finish(checksum::add(pseudo + segment.len() as u64, segment)) == 0
}

/// Whether a packet has so few hops left that it may not reach its receiver.
pub fn has_few_hops(frame: &[u8], parsed: &Parsed) -> bool {
    let at = if parsed.headers.ether_type == ETHER_IPV4 { 8 } else { 7 };
    let hops = frame.get(usize::from(parsed.network_offset) + at);
    hops.is_none_or(|&hops| hops < FEW_HOPS)
}

#[cfg(test)]
mod tests {
    use bulkhead_rules::headers::WireId;

    use super::*;
    use crate::frames::{FrameBuilder, tcp_flags};
    use crate::parse::parse;

    const A6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 1];
    const B6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 2];

    fn segments() -> Vec<Vec<u8>> {
        let v4 = FrameBuilder::new().ip([10, 0, 0, 1], [10, 0, 0, 2]);
        let v6 = FrameBuilder::new().ip(A6, B6);
        let mut frames = Vec::new();
        for (nth, builder) in [
            v4.clone(),
            v4.clone().ipv4_options(&[1; 8]),
            v4.clone().vlan(7).vlan(8),
            v4.snap(),
            v6.clone(),
            v6.options_extension(60, &[]),
        ]
        .into_iter()
        .enumerate()
        {
            for payload in [0, 1, 2, 3, 7, 1000] {
                let payload = vec![0xa7 + nth as u8; payload];
                let segment = builder.clone().tcp(1, 2, tcp_flags::SYN).payload(&payload);
                frames.push(segment.trailer(&[0x55; 3]).build());
            }
        }
        frames
    }

    #[test]
    fn every_wrong_bit_of_a_segment_shows() {
        for right in segments() {
            let parsed = parse(&right, WireId(0)).expect("well formed");
            assert!(is_checksum_right(&right, &parsed), "{right:02x?}");
            for at in usize::from(parsed.upper_offset)..usize::from(parsed.packet_end) {
                let mut wrong = right.clone();
                wrong[at] ^= 0x10;
                assert!(!is_checksum_right(&wrong, &parsed), "byte {at}");
            }
            let cut = &right[..usize::from(parsed.packet_end) - 1];
            assert!(!is_checksum_right(cut, &parsed), "cut");
        }
    }

    #[test]
    fn the_addresses_are_covered() {
        for right in segments() {
            let parsed = parse(&right, WireId(0)).expect("well formed");
            let v4 = parsed.headers.ether_type == ETHER_IPV4;
            let mut wrong = right.clone();
            wrong[usize::from(parsed.network_offset) + if v4 { 19 } else { 39 }] ^= 1;
            assert!(!is_checksum_right(&wrong, &parsed));
        }
    }

    #[test]
    fn few_hops_are_fewer_than_five() {
        for builder in [
            FrameBuilder::new().ip([10, 0, 0, 1], [10, 0, 0, 2]),
            FrameBuilder::new().vlan(3).ip(A6, B6),
        ] {
            for (hops, few) in [(0, true), (1, true), (4, true), (5, false), (64, false)] {
                let frame = builder.clone().hop_limit(hops).tcp(1, 2, tcp_flags::RST).build();
                let parsed = parse(&frame, WireId(0)).expect("well formed");
                assert_eq!(has_few_hops(&frame, &parsed), few, "{hops}");
            }
        }
    }
}
