//! A frame as the host that receives it would read it.
//!
//! Written apart from the gateway's parser, and slower and plainer: what the two make of a frame must
//! agree wherever both can read it. What no host should take for a packet is [`None`]; such a frame
//! must not cross an enforcing wire.

use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, VlanTags, WireId, protocol};

/// What tells one conversation from another, whichever side sent the frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Key {
    /// The wire, or the first of a redundant group.
    wire: u16,
    tags: VlanTags,
    ether_type: u16,
    protocol: u8,
    /// Address and port of both ends, the smaller first.
    ends: [(u128, u16); 2],
    /// For a query the request's type, and whether the end that orders first asks.
    asks: (u8, bool),
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// ARP, neighbour discovery, spanning tree and the like: no policy is asked.
    Control,
    /// A TCP segment.
    Tcp { flags: u8, seq: u32 },
    /// A message that asks or answers, with an identifier.
    Query { is_request: bool },
    /// An ICMP error, and the conversation whose packet it quotes, sent by whom the error goes to.
    Error { quotes: Option<Key> },
    /// A fragment other than the first.
    LaterFragment,
    /// Anything else: any packet opens the conversation.
    Plain,
}

/// A fragment's place in its packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) id: u32,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) is_last: bool,
}

/// A frame, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// What rules test.
    pub(super) headers: Headers,
    pub(super) what: What,
    /// The conversation; of a later fragment without meaning.
    pub(super) key: Key,
    pub(super) piece: Option<Piece>,
}

impl Seen {
    /// The same on a wire of this redundancy group.
    pub(super) fn in_group(mut self, group: u16) -> Self {
        self.key.wire = group;
        if let What::Error { quotes: Some(key) } = &mut self.what {
            key.wire = group;
        }
        self
    }

    /// What the fragments of one packet have in common.
    pub(super) fn packet_id(&self) -> Option<(Key, u32)> {
        let h = &self.headers;
        let protocol = if h.ether_type == ETHER_IPV4 { h.protocol } else { 0 };
        // Source and destination are not interchangeable here.
        let ends = [(h.src, 0), (h.dst, 1)];
        let key = Key { protocol, ends, asks: (0, false), ..self.key };
        self.piece.map(|piece| (key, piece.id))
    }

    /// Whether it is a SYN without ACK.
    pub(super) fn is_bare_syn(&self) -> bool {
        matches!(self.what, What::Tcp { flags, .. } if flags & 0x12 == 0x02)
    }

    /// Whether a packet like this may be the first of its conversation.
    pub(super) fn can_open(&self) -> bool {
        match self.what {
            What::Tcp { .. } => self.is_bare_syn(),
            What::Query { is_request } => is_request,
            What::Plain => true,
            What::Control | What::Error { .. } | What::LaterFragment => false,
        }
    }
}

/// Reads a frame that came on `wire`.
pub(super) fn read(frame: &[u8], wire: u16) -> Option<Seen> {
    let mut headers = Headers {
        dst_mac: mac(frame, 0)?,
        src_mac: mac(frame, 6)?,
        wire: WireId(wire),
        ..Headers::default()
    };
    if headers.src_mac.is_group() {
        return None;
    }
    let (mut at, mut tags) = (12, Vec::new());
    while matches!(be16(frame, at)?, 0x8100 | 0x88a8 | 0x9100) {
        tags.push(be16(frame, at + 2)? & 0xfff);
        at += 4;
    }
    if tags.len() > 2 || tags.contains(&0xfff) {
        return None;
    }
    // A priority tag is none.
    headers.tags = match tags[..] {
        [] | [0] => VlanTags::UNTAGGED,
        [vid] | [0, vid] => VlanTags::single(vid),
        [outer, inner] => VlanTags { outer, inner },
        [_, _, _, ..] => return None,
    };
    let mut ether_type = be16(frame, at)?;
    let mut packet = frame.get(at + 2..)?;
    let reserved = matches!(headers.dst_mac.0, [1, 0x80, 0xc2, 0, 0, ..=0x0f]);
    if ether_type < 0x0600 {
        packet = packet.get(..usize::from(ether_type))?;
        match *packet {
            [0xaa, 0xaa, 3, 0, 0, 0, high, low, ref rest @ ..] => {
                (ether_type, packet) = (u16::from_be_bytes([high, low]), rest);
            }
            _ => return Some(control(headers)),
        }
    }
    headers.ether_type = ether_type;
    match ether_type {
        0x8808 => None,
        ETHER_IPV4 => ipv4(packet, headers),
        ETHER_IPV6 => ipv6(packet, headers),
        0x0806 if packet.get(8..14)? != headers.src_mac.0 => None,
        0x0806 => Some(control(headers)),
        _ if reserved => Some(control(headers)),
        _ => {
            let ends = [bits(headers.src_mac), bits(headers.dst_mac)].map(|mac| (mac, 0));
            Some(Seen { headers, what: What::Plain, key: key(&headers, ends), piece: None })
        }
    }
}

fn control(headers: Headers) -> Seen {
    Seen { headers, what: What::Control, key: key(&headers, [(0, 0); 2]), piece: None }
}

fn ipv4(packet: &[u8], mut headers: Headers) -> Option<Seen> {
    let first = *packet.first()?;
    let header_len = usize::from(first & 15) * 4;
    let total_len = usize::from(be16(packet, 2)?);
    let header = packet.get(..header_len)?;
    if first >> 4 != 4 || header_len < 20 || sum(header) != 0xffff {
        return None;
    }
    let payload = packet.get(header_len..total_len)?;
    let (src, dst) = (be32(packet, 12)?, be32(packet, 16)?);
    let is_loopback = |addr: u32| addr >> 24 == 127;
    if src == dst || src >> 28 == 0xe || src == u32::MAX || is_loopback(src) || is_loopback(dst) {
        return None;
    }
    (headers.src, headers.dst) = (src.into(), dst.into());
    headers.protocol = packet[9];
    let place = be16(packet, 6)?;
    let start = usize::from(place & 0x1fff) * 8;
    let piece = (place & 0x3fff != 0).then_some(Piece {
        id: be16(packet, 4)?.into(),
        start,
        end: start + payload.len(),
        is_last: place & 0x2000 == 0,
    });
    upper(payload, headers, piece)
}

fn ipv6(packet: &[u8], mut headers: Headers) -> Option<Seen> {
    let fixed = packet.get(..40)?;
    let mut payload = packet.get(40..40 + usize::from(be16(packet, 4)?))?;
    headers.src = be128(fixed, 8)?;
    headers.dst = be128(fixed, 24)?;
    if fixed[0] >> 4 != 6 || headers.src == headers.dst || headers.src >> 120 == 0xff {
        return None;
    }
    let (mut next, mut piece) = (fixed[6], None);
    let mut previous = next;
    loop {
        let number = next;
        match number {
            0 | 43 | 60 | 135 | 139 | 140 => {
                next = *payload.first()?;
                payload = payload.get((usize::from(*payload.get(1)?) + 1) * 8..)?;
            }
            44 => {
                next = *payload.first()?;
                let (place, id) = (be16(payload, 2)?, be32(payload, 4)?);
                payload = payload.get(8..)?;
                let start = usize::from(place & 0xfff8);
                if place & 0xfff9 != 0 {
                    let end = start + payload.len();
                    piece = Some(Piece { id, start, end, is_last: place & 1 == 0 });
                }
                if start > 0 {
                    break;
                }
            }
            59 if matches!(previous, 135 | 139 | 140) => {
                next = previous;
                break;
            }
            _ => break,
        }
        previous = number;
    }
    headers.protocol = next;
    upper(payload, headers, piece)
}

fn upper(payload: &[u8], mut headers: Headers, piece: Option<Piece>) -> Option<Seen> {
    if piece.is_some_and(|piece| piece.start > 0) {
        let key = key(&headers, [(0, 0); 2]);
        return Some(Seen { headers, what: What::LaterFragment, key, piece });
    }
    let (what, ports, asks) = message(payload, &mut headers, piece.is_none())?;
    let (src, dst) = (headers.src, headers.dst);
    let mut key = key(&headers, [(src, ports.0), (dst, ports.1)]);
    if let What::Query { is_request } = what {
        key.asks = (asks, (src < dst) == is_request);
    }
    let what = match what {
        What::Error { .. } => What::Error { quotes: quoted(payload.get(8..)?, &headers) },
        what => what,
    };
    Some(Seen { headers, what, key, piece })
}

/// What an upper-layer packet is, the ports of its conversation and the type of its request.
fn message(
    payload: &[u8],
    headers: &mut Headers,
    is_whole: bool,
) -> Option<(What, (u16, u16), u8)> {
    let ports = |headers: &mut Headers| {
        headers.src_port = be16(payload, 0)?;
        headers.dst_port = be16(payload, 2)?;
        Some((headers.src_port, headers.dst_port))
    };
    match headers.protocol {
        protocol::TCP => {
            let ports = ports(headers)?;
            let header_len = usize::from(payload.get(12)? >> 4) * 4;
            let flags = *payload.get(13)?;
            // Of SYN, FIN and RST at most one, FIN with ACK, and one of all four.
            let sane = matches!(flags & 0x17, 0x02 | 0x12 | 0x04 | 0x14 | 0x11 | 0x10);
            if header_len < 20 || payload.len() < header_len || !sane {
                return None;
            }
            if ports.0 == 0 || ports.1 == 0 {
                return None;
            }
            Some((What::Tcp { flags, seq: be32(payload, 4)? }, ports, 0))
        }
        protocol::UDP => {
            let ports = ports(headers)?;
            let len = usize::from(be16(payload, 4)?);
            payload.get(..8)?;
            let fits = len >= 8 && (len <= payload.len() || !is_whole);
            (fits && ports.1 != 0).then_some((What::Plain, ports, 0))
        }
        protocol::SCTP => {
            payload.get(..12)?;
            Some((What::Plain, ports(headers)?, 0))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            payload.get(..8)?;
            headers.dst_port = be16(payload, 0)?;
            let identifier = be16(payload, 4)?;
            let (kind, v6) = (payload[0], headers.protocol == protocol::ICMPV6);
            let query = |request, is_request| {
                Some((What::Query { is_request }, (identifier, identifier), request))
            };
            match (v6, kind) {
                (true, 130..=137 | 143) => Some((What::Control, (0, 0), 0)),
                (true, 1..=4) | (false, 3 | 4 | 11 | 12) => {
                    Some((What::Error { quotes: None }, (0, 0), 0))
                }
                (true, 128 | 160) | (false, 8 | 13 | 15 | 17 | 42) => query(kind, true),
                (true, 129 | 161) | (false, 14 | 16 | 18 | 43) => query(kind - 1, false),
                (false, 0) => query(8, false),
                _ => Some((What::Plain, (0, headers.dst_port), 0)),
            }
        }
        _ => Some((What::Plain, (0, 0), 0)),
    }
}

/// The conversation of the packet that an error quotes, if whom the error goes to sent it.
fn quoted(packet: &[u8], outer: &Headers) -> Option<Key> {
    let mut headers = Headers { src: 0, dst: 0, src_port: 0, dst_port: 0, ..*outer };
    let payload = if outer.ether_type == ETHER_IPV4 {
        headers.src = be32(packet, 12)?.into();
        headers.dst = be32(packet, 16)?.into();
        headers.protocol = packet[9];
        packet.get(usize::from(packet[0] & 15) * 4..)?
    } else {
        headers.src = be128(packet, 8)?;
        headers.dst = be128(packet, 24)?;
        let (mut next, mut rest) = (packet[6], packet.get(40..)?);
        if next == 44 {
            (next, rest) = (*rest.first()?, rest.get(8..)?);
        }
        headers.protocol = next;
        rest
    };
    if headers.src != outer.dst {
        return None;
    }
    let ports = match headers.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => (be16(payload, 0)?, be16(payload, 2)?),
        protocol::ICMP | protocol::ICMPV6 => {
            let (what, ports, asks) = message(payload, &mut headers, false)?;
            let mut key = key(&headers, [(headers.src, ports.0), (headers.dst, ports.1)]);
            if let What::Query { is_request } = what {
                key.asks = (asks, (headers.src < headers.dst) == is_request);
            }
            return Some(key);
        }
        _ => (0, 0),
    };
    Some(key(&headers, [(headers.src, ports.0), (headers.dst, ports.1)]))
}

fn key(headers: &Headers, mut ends: [(u128, u16); 2]) -> Key {
    ends.sort_unstable();
    Key {
        wire: headers.wire.0,
        tags: headers.tags,
        ether_type: headers.ether_type,
        protocol: headers.protocol,
        ends,
        asks: (0, false),
    }
}

fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    bytes.get(at..at + 6)?.try_into().ok().map(Mac)
}

fn bits(mac: Mac) -> u128 {
    mac.0.iter().fold(0, |bits, &byte| bits << 8 | u128::from(byte))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn be128(bytes: &[u8], at: usize) -> Option<u128> {
    bytes.get(at..at + 16)?.try_into().ok().map(u128::from_be_bytes)
}

/// The one's complement sum: 0xffff over a header with a right checksum.
fn sum(header: &[u8]) -> u32 {
    let words = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
