//! What holds for every frame whatsoever. The fuzz target of the parser checks the same.

use bulkhead_pipeline::conntrack::evidence::{has_few_hops, is_checksum_right};
use bulkhead_pipeline::parse::{
    Kind, Origin, Parsed, Tunnels, enter_tunnel, parse, parse_into, parse_quoted,
};
use bulkhead_pipeline::reject::Answer;
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_rules::headers::WireId;
use bulkhead_rules::sets::AddrSet;

const WIRE: WireId = WireId(7);

/// Parses the frame and panics where the result contradicts it or itself.
pub(crate) fn check(frame: &[u8]) -> Result<Parsed, DropReason> {
    let result = parse(frame, WIRE);
    check_origin(frame, result);
    let Ok(parsed) = result else { return result };
    assert_eq!(parsed.headers.wire, WIRE);
    check_offsets(frame, &parsed);
    check_padding(frame, &parsed);
    check_quotation(frame, &parsed);
    check_answer(frame, &parsed);
    check_tunnel(frame, &parsed);
    if parsed.kind == Kind::Tcp {
        let _ = (is_checksum_right(frame, &parsed), has_few_hops(frame, &parsed));
    }
    result
}

/// What a wire may carry, a capture may hold, and it reads the same.
fn check_origin(frame: &[u8], result: Result<Parsed, DropReason>) {
    let mut out = Parsed::default();
    match (result, parse_into(frame, WIRE, Origin::Capture, &mut out)) {
        (Ok(parsed), captured) => assert_eq!((captured, out), (Ok(()), parsed)),
        (Err(DropReason::Ipv4Checksum), _) => {}
        (Err(reason), captured) => assert_eq!(captured, Err(reason)),
    }
}

fn check_offsets(frame: &[u8], parsed: &Parsed) {
    let (network, upper, end) = places(parsed);
    assert!(14 <= network && network <= upper && upper <= end && end <= frame.len());
    if parsed.kind == Kind::Tcp {
        assert!(upper + 20 + usize::from(parsed.tcp.payload_len) <= end);
    }
    if let Some(place) = parsed.fragment {
        assert_eq!(place.offset % 8, 0);
        assert_eq!(place.offset == 0, parsed.kind != Kind::LaterFragment);
        assert!(u32::from(place.offset) + u32::from(place.len) <= 65_535);
        assert!(usize::from(place.len) <= end - network);
    }
    if !parsed.headers.is_ip() {
        assert_eq!((parsed.headers.src, parsed.headers.dst), (0, 0));
    }
}

/// Nothing depends on what follows the packet, and nothing less than the packet passes.
fn check_padding(frame: &[u8], parsed: &Parsed) {
    let (network, _, end) = places(parsed);
    let mut other = frame.to_vec();
    other[end..].iter_mut().for_each(|byte| *byte = !*byte);
    assert_eq!(parse(&other, WIRE), Ok(*parsed));
    let is_snap = frame[..network].ends_with(&parsed.headers.ether_type.to_be_bytes())
        && frame[network - 8..].starts_with(&[0xaa, 0xaa, 3, 0, 0, 0]);
    if !parsed.headers.is_ip() || is_snap {
        return;
    }
    other.truncate(end);
    assert_eq!(parse(&other, WIRE), Ok(*parsed));
    other.resize((end + 50).min(65_535), 0xa5);
    assert_eq!(parse(&other, WIRE), Ok(*parsed));
    assert!(parse(&other[..end - 1], WIRE).is_err());
}

fn check_quotation(frame: &[u8], parsed: &Parsed) {
    if parsed.kind != Kind::IcmpError {
        return;
    }
    match parse_quoted(frame, parsed) {
        Ok((quoted, _)) => {
            assert_eq!(quoted.src, parsed.headers.dst);
            assert_eq!(quoted.ether_type, parsed.headers.ether_type);
        }
        Err(reason) => assert_eq!(reason, DropReason::IcmpMalformed),
    }
}

/// An answer is a frame that passes, goes back to the sender, and is itself not answered.
fn check_answer(frame: &[u8], parsed: &Parsed) {
    let Some(answer) = Answer::to(frame, parsed) else { return };
    let mut out = vec![0xa5; answer.len()];
    assert!(answer.write(&mut out));
    let answered = parse(&out, WIRE).expect("an answer is well formed");
    assert_eq!(answered.headers.dst, parsed.headers.src);
    assert_eq!(answered.headers.src, parsed.headers.dst);
    assert_eq!(answered.headers.dst_mac, parsed.headers.src_mac);
    assert_eq!(answered.headers.tags, parsed.headers.tags);
    assert!(Answer::to(&out, &answered).is_none());
    if answered.kind == Kind::IcmpError {
        let (quoted, flow_ports) = parse_quoted(&out, &answered).unwrap_or_else(|reason| {
            panic!("the answer to {parsed:?} quotes no flow: {}", reason.label())
        });
        assert_eq!((quoted.src, quoted.dst), (parsed.headers.src, parsed.headers.dst));
        assert_eq!(flow_ports, parsed.flow_ports);
    }
}

/// The inner packet lies within the outer one, and is what its frame alone would be.
fn check_tunnel(frame: &[u8], outer: &Parsed) {
    let endpoints = AddrSet::any();
    let tunnels = Tunnels { vxlan: Some(4789), geneve: Some(6081), endpoints };
    let mut inner = *outer;
    let entered = enter_tunnel(frame, WIRE, Origin::Wire, &tunnels, &mut inner);
    let (Ok(()), true) = (entered, inner != *outer) else { return };
    assert!((1..=1 << 24).contains(&inner.tunnel));
    assert!(Answer::to(frame, &inner).is_none());
    let (network, upper, end) = places(&inner);
    assert!(places(outer).1 + 16 + 14 <= network && network <= upper && upper <= end);
    assert!(end <= places(outer).2);
    // The inner frame begins where its own parse says so.
    let start = (places(outer).1 + 16..network).find(|&start| {
        let alone = parse(&frame[start..places(outer).2], WIRE);
        let by = start as u16;
        alone.is_ok_and(|alone| {
            let (network, upper) = (alone.network_offset + by, alone.upper_offset + by);
            let packet_end = (alone.packet_end + by).min(inner.packet_end);
            let tunnel = inner.tunnel;
            inner
                == Parsed {
                    network_offset: network,
                    upper_offset: upper,
                    packet_end,
                    tunnel,
                    ..alone
                }
        })
    });
    assert!(start.is_some(), "{inner:?} is no frame of its own");
}

fn places(parsed: &Parsed) -> (usize, usize, usize) {
    (parsed.network_offset.into(), parsed.upper_offset.into(), parsed.packet_end.into())
}
