//! VXLAN (RFC 7348) and Geneve (RFC 8926): from the outer packet to the inner frame.
//!
//! On a wire that judges inner packets, everything that a rule tests, VLAN tags included, is of the
//! inner frame, and so are flows, which the network identifier keeps apart. The outer packet is only
//! asked whether it goes from one known end of a tunnel to another, for else any host could reach any
//! other by it, and whether its receiver would find the same inner frame: reserved bits that are set, options
//! that are critical, another payload than Ethernet, and fragments are refused. A tunnel within a
//! tunnel is refused too: what it carries would be judged by nobody.

use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, WireId, protocol};
use bulkhead_rules::sets::AddrSet;

use super::{Kind, Origin, Parsed, parse_into};
use crate::verdict::DropReason;

/// The tunnels whose inner packets a wire judges in place of the outer ones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tunnels {
    /// The UDP port of VXLAN, which by IANA is 4789; [`None`] judges the outer packets.
    pub vxlan: Option<u16>,
    /// The UDP port of Geneve, which by IANA is 6081; [`None`] judges the outer packets.
    pub geneve: Option<u16>,
    /// Between which addresses there are tunnels: no rule judges the outer packets, so nothing else
    /// may send them.
    pub endpoints: AddrSet,
}

impl Tunnels {
    /// Whether the outer packet goes from one end of a tunnel to another.
    fn join(&self, outer: &Headers) -> bool {
        let has = |address| self.endpoints.contains(outer.ether_type, address);
        has(outer.src) && has(outer.dst)
    }

    fn of(&self, parsed: &Parsed) -> Option<Tunnel> {
        let headers = &parsed.headers;
        let is_udp = headers.protocol == protocol::UDP
            && matches!(headers.ether_type, ETHER_IPV4 | ETHER_IPV6)
            && matches!(parsed.kind, Kind::Other | Kind::Dhcp);
        let port = Some(headers.dst_port).filter(|_| is_udp)?;
        if self.vxlan == Some(port) {
            Some(Tunnel::Vxlan)
        } else if self.geneve == Some(port) {
            Some(Tunnel::Geneve)
        } else {
            None
        }
    }
}

#[derive(Clone, Copy)]
enum Tunnel {
    Vxlan,
    Geneve,
}

const UDP_HEADER_LEN: usize = 8;
/// Of VXLAN, and of Geneve without options.
const TUNNEL_HEADER_LEN: usize = 8;

/// Where the frame that parsed into `out` is a packet of one of the `tunnels`: parses the frame within
/// into `out`, whose offsets count from the start of the outer frame.
///
/// # Errors
///
/// [`DropReason::TunnelEndpoint`], [`DropReason::TunnelMalformed`], [`DropReason::TunnelNested`], or what is wrong with the inner
/// frame. `out` then holds the fields of the outer packet, or of the layers of the inner one before
/// that which failed.
pub fn enter(
    frame: &[u8],
    wire: WireId,
    origin: Origin,
    tunnels: &Tunnels,
    out: &mut Parsed,
) -> Result<(), DropReason> {
    let Some(tunnel) = tunnels.of(out) else { return Ok(()) };
    if !tunnels.join(&out.headers) {
        return Err(DropReason::TunnelEndpoint);
    }
    if out.fragment.is_some() {
        return Err(DropReason::TunnelMalformed);
    }
    let udp_at = usize::from(out.upper_offset);
    let datagram = frame.get(udp_at..usize::from(out.packet_end)).unwrap_or_default();
    let (id, inner_at, inner) = read(tunnel, datagram).ok_or(DropReason::TunnelMalformed)?;
    let offset = (udp_at + inner_at) as u16;
    parse_into(inner, wire, origin, out).map_err(of_inner)?;
    if tunnels.of(out).is_some() {
        return Err(DropReason::TunnelNested);
    }
    // Its place in the key of a flow is the network identifier's.
    if out.headers.tags.inner != 0 {
        return Err(DropReason::VlanTooDeep);
    }
    out.tunnel = id + 1;
    // A frame is at most 65,535 bytes long, the inner one less.
    out.network_offset += offset;
    out.upper_offset += offset;
    out.packet_end += offset;
    Ok(())
}

/// What is no frame, or ends at its link, is not sent even by a wire that observes: that is said of the
/// outer frame, which may be whole.
fn of_inner(reason: DropReason) -> DropReason {
    match reason {
        DropReason::EthernetTooShort | DropReason::Pause => DropReason::TunnelMalformed,
        other => other,
    }
}

/// The network identifier, where in the UDP datagram the inner frame starts, and that frame; [`None`]
/// where another receiver might read them otherwise.
fn read(tunnel: Tunnel, datagram: &[u8]) -> Option<(u32, usize, &[u8])> {
    let len = datagram.get(4..6).map(|len| u16::from_be_bytes([len[0], len[1]]))?;
    // The parser has found it to be within the packet; what follows is no part of the datagram.
    let payload = datagram.get(UDP_HEADER_LEN..usize::from(len))?;
    let (header, rest) = payload.split_first_chunk::<TUNNEL_HEADER_LEN>()?;
    let options_len = match tunnel {
        // The identifier is valid, and nothing else is said: extensions give other bits a meaning.
        Tunnel::Vxlan => (header[..4] == [0x08, 0, 0, 0]).then_some(0)?,
        Tunnel::Geneve => {
            let options_len = usize::from(header[0] & 0x3f) * 4;
            // Version 0; data, without critical options; Ethernet.
            let known = header[0] >> 6 == 0 && header[1] == 0 && header[2..4] == [0x65, 0x58];
            known.then_some(())?;
            check_options(rest.get(..options_len)?)?;
            options_len
        }
    };
    let id = u32::from_be_bytes([0, header[4], header[5], header[6]]);
    (header[7] == 0).then_some(())?;
    let inner = rest.get(options_len..)?;
    Some((id, UDP_HEADER_LEN + TUNNEL_HEADER_LEN + options_len, inner))
}

/// RFC 8926 §3.5: options that fill their space exactly, none of them critical.
fn check_options(options: &[u8]) -> Option<()> {
    const CRITICAL: u8 = 0x80;
    let mut rest = options;
    while let [_, _, kind, len, ..] = *rest {
        if kind & CRITICAL != 0 {
            return None;
        }
        rest = rest.get(4 + usize::from(len & 0x1f) * 4..)?;
    }
    rest.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_rules::syntax::parse_addresses;

    use crate::frames::{FrameBuilder, tcp_flags};
    use crate::parse::{parse, parse_quoted};

    const VTEP: [u8; 4] = [192, 0, 2, 1];
    const OTHER_VTEP: [u8; 4] = [192, 0, 2, 2];
    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [10, 0, 0, 2];
    const WIRE: WireId = WireId(2);

    fn tunnels() -> Tunnels {
        let endpoints = parse_addresses("192.0.2.1-192.0.2.2").expect("a range");
        Tunnels { vxlan: Some(4789), geneve: Some(6081), endpoints }
    }

    fn outer() -> FrameBuilder {
        FrameBuilder::new().ip(VTEP, OTHER_VTEP)
    }

    fn vxlan(header: [u8; 8], inner: &[u8]) -> FrameBuilder {
        outer().udp(50_000, 4789).payload(&[&header[..], inner].concat())
    }

    fn geneve(header: [u8; 8], options: &[u8], inner: &[u8]) -> FrameBuilder {
        outer().udp(50_000, 6081).payload(&[&header[..], options, inner].concat())
    }

    fn inner() -> FrameBuilder {
        FrameBuilder::new().ip(A, B).tcp(40_000, 502, tcp_flags::SYN).payload(b"abc")
    }

    fn entered(frame: &[u8]) -> Result<Parsed, DropReason> {
        let mut parsed = parse(frame, WIRE)?;
        enter(frame, WIRE, Origin::Wire, &tunnels(), &mut parsed).map(|()| parsed)
    }

    const VXLAN: [u8; 8] = [8, 0, 0, 0, 0x12, 0x34, 0x56, 0];
    const GENEVE: [u8; 8] = [0, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0];
    const GENEVE_WITH_OPTIONS: [u8; 8] = [3, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0];
    const OPTIONS: [u8; 12] = [1, 2, 3, 1, 0, 0, 0, 0, 1, 2, 4, 0];

    #[test]
    fn the_inner_frame_is_what_is_parsed() {
        let alone = parse(&inner().build(), WIRE).expect("well formed");
        let inner = inner().build();
        let carried = [
            (vxlan(VXLAN, &inner), 50),
            (vxlan(VXLAN, &inner).vlan(7), 54),
            (geneve(GENEVE, &[], &inner), 50),
            (geneve(GENEVE_WITH_OPTIONS, &OPTIONS, &inner), 62),
        ];
        for (frame, offset) in carried {
            let frame = frame.build();
            let found = entered(&frame).expect("well formed");
            let expected = Parsed {
                tunnel: 0x12_3457,
                network_offset: alone.network_offset + offset,
                upper_offset: alone.upper_offset + offset,
                packet_end: alone.packet_end + offset,
                ..alone
            };
            assert_eq!(found, expected);
            assert_eq!(&frame[usize::from(found.packet_end) - 3..][..3], b"abc");
        }
        let tagged = inner_with_tags(&[30]);
        let found = entered(&vxlan(VXLAN, &tagged).vlan(7).build()).expect("well formed");
        assert_eq!((found.headers.tags.outer, found.headers.tags.inner), (30, 0));
    }

    fn inner_with_tags(tags: &[u16]) -> Vec<u8> {
        tags.iter().fold(inner(), |frame, &vid| frame.vlan(vid)).build()
    }

    #[test]
    fn other_packets_stay_as_they_are() {
        let syn = FrameBuilder::new().ip(A, B).tcp(1, 4789, tcp_flags::SYN).build();
        let from_port = outer().udp(4789, 53).build();
        let later = outer().fragment(1, 1480, false).udp(50_000, 4789).payload_len(16).build();
        for frame in [syn, from_port, later, FrameBuilder::new().build()] {
            assert_eq!(entered(&frame), parse(&frame, WIRE));
        }
        let frame = vxlan(VXLAN, &inner().build()).build();
        let mut parsed = parse(&frame, WIRE).expect("well formed");
        let none = Tunnels { vxlan: None, geneve: None, ..tunnels() };
        enter(&frame, WIRE, Origin::Wire, &none, &mut parsed).expect("not entered");
        assert_eq!(Ok(parsed), parse(&frame, WIRE));
    }

    #[test]
    fn a_tunnel_has_two_known_ends() {
        let stranger = [192, 0, 2, 3];
        let ends = [(VTEP, stranger), (stranger, OTHER_VTEP), ([192, 0, 2, 0], VTEP)];
        for (src, dst) in ends {
            let frame = vxlan(VXLAN, &inner().build()).ip(src, dst).build();
            assert_eq!(entered(&frame), Err(DropReason::TunnelEndpoint));
        }
        // The same numbers as addresses of the other family.
        let [src, dst] =
            [VTEP, OTHER_VTEP].map(|v4| u128::from(u32::from_be_bytes(v4)).to_be_bytes());
        let other_family = vxlan(VXLAN, &inner().build()).ip(src, dst).build();
        assert_eq!(entered(&other_family), Err(DropReason::TunnelEndpoint));
        // What is in no tunnel is judged by rules, whoever sends it.
        let dns = FrameBuilder::new().ip(stranger, VTEP).udp(50_000, 53).build();
        assert_eq!(entered(&dns), parse(&dns, WIRE));
    }

    #[test]
    fn what_another_receiver_might_read_otherwise_is_refused() {
        let inner = inner().build();
        let mut wrong = vec![
            vxlan([0, 0, 0, 0, 0, 0, 1, 0], &inner),
            vxlan([0x88, 0, 0, 0, 0, 0, 1, 0], &inner),
            vxlan([8, 0, 0, 3, 0, 0, 1, 0], &inner),
            vxlan([8, 0, 0, 0, 0, 0, 1, 1], &inner),
            geneve([0x40, 0, 0x65, 0x58, 0, 0, 1, 0], &[], &inner),
            geneve([0, 0x80, 0x65, 0x58, 0, 0, 1, 0], &[], &inner),
            geneve([0, 0x40, 0x65, 0x58, 0, 0, 1, 0], &[], &inner),
            geneve([0, 0, 0x08, 0x00, 0, 0, 1, 0], &[], &inner),
            geneve([0, 0, 0x65, 0x58, 0, 0, 1, 1], &[], &inner),
            geneve([1, 0, 0x65, 0x58, 0, 0, 1, 0], &[1, 2, 0x83, 0], &inner),
            geneve([1, 0, 0x65, 0x58, 0, 0, 1, 0], &[1, 2, 3, 1], &inner),
            geneve([63, 0, 0x65, 0x58, 0, 0, 1, 0], &[], &[0; 60]),
            outer().udp(1, 4789).payload(&VXLAN[..7]),
            outer().udp(1, 6081),
            outer().fragment(1, 0, true).udp(1, 4789).payload_len(64),
        ];
        wrong.extend([vxlan(VXLAN, &inner), vxlan(VXLAN, &inner)].map(|f| f.fragment(1, 0, true)));
        for frame in wrong {
            let frame = frame.build();
            if parse(&frame, WIRE).is_ok() {
                assert_eq!(entered(&frame), Err(DropReason::TunnelMalformed), "{frame:02x?}");
            }
        }
    }

    #[test]
    fn what_follows_the_datagram_is_no_part_of_the_inner_frame() {
        let inner = inner().unpadded().build();
        let mut frame = vxlan(VXLAN, &inner).build();
        // The datagram ends a byte earlier than the packet, and so does the inner one.
        let len = u16::from_be_bytes([frame[38], frame[39]]) - 1;
        frame[38..40].copy_from_slice(&len.to_be_bytes());
        assert_eq!(entered(&frame), Err(DropReason::Ipv4Truncated));
    }

    #[test]
    fn the_inner_frame_has_its_own_reasons() {
        let nested = vxlan(VXLAN, &inner().build()).build();
        let mut spoilt = inner().build();
        spoilt[14] = 0x55;
        let reasons = [
            (nested.clone(), DropReason::TunnelNested),
            (geneve(GENEVE, &[], &[0; 60]).build(), DropReason::TunnelNested),
            (spoilt, DropReason::Ipv4Version),
            (Vec::new(), DropReason::TunnelMalformed),
            (inner_with_tags(&[1, 2]), DropReason::VlanTooDeep),
            (inner_with_tags(&[1, 2, 3]), DropReason::VlanTooDeep),
        ];
        for (carried, reason) in reasons {
            assert_eq!(entered(&vxlan(VXLAN, &carried).build()), Err(reason));
            assert_eq!(entered(&geneve(GENEVE, &[], &carried).build()), Err(reason));
        }
    }

    #[test]
    fn an_inner_error_quotes_an_inner_packet() {
        let sent = FrameBuilder::new().ip(A, B).udp(1000, 53).payload_len(64).unpadded().build();
        let error = FrameBuilder::new().ip(B, A).icmp(3, 3, 0).payload(&sent[14..]).build();
        let frame = vxlan(VXLAN, &error).build();
        let parsed = entered(&frame).expect("well formed");
        let (quoted, ports) = parse_quoted(&frame, &parsed).expect("it names a flow");
        assert_eq!((quoted.dst_port, ports), (53, (1000, 53)));
    }
}
