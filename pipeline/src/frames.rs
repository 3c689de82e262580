//! Frames to order, for tests, the simulator and benchmarks: right checksums, honest lengths, and
//! ways to spoil them.

use std::net::{IpAddr, Ipv4Addr};

use bulkhead_rules::headers::{ETHER_ARP, ETHER_IPV4, ETHER_IPV6, Mac, protocol};

use crate::checksum;

/// The flag byte of a TCP header.
pub mod tcp_flags {
    #![allow(missing_docs, reason = "the names are those of RFC 9293")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// The source MAC address of a frame that names none.
pub const DEFAULT_SRC_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
/// The destination MAC address of a frame that names none.
pub const DEFAULT_DST_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x02]);
/// The shortest Ethernet frame without its FCS; shorter ones are padded with zeros.
pub const MIN_FRAME_LEN: usize = 60;

/// Builds one frame, layer by layer:
///
/// ```
/// use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};
///
/// let syn = FrameBuilder::new()
///     .vlan(30)
///     .ip([10, 0, 0, 1], [10, 0, 0, 2])
///     .tcp(40000, 502, tcp_flags::SYN)
///     .build();
/// assert_eq!(syn.len(), 60);
/// ```
///
/// It builds what it is told, wrong frames included, and panics only where it is told to mix
/// address families or to exceed a length field.
#[derive(Clone, Debug)]
pub struct FrameBuilder {
    src_mac: Mac,
    dst_mac: Mac,
    tags: Vec<(u16, u16)>,
    snap: bool,
    network: Network,
    upper: Upper,
    payload: Vec<u8>,
    trailer: Vec<u8>,
    pad: bool,
}

#[derive(Clone, Debug)]
enum Network {
    EtherType(u16),
    Llc,
    Ip(Ip),
}

#[derive(Clone, Debug)]
struct Ip {
    src: IpAddr,
    dst: IpAddr,
    hop_limit: u8,
    /// IPv4 type of service, IPv6 traffic class.
    traffic_class: u8,
    id: u16,
    dont_fragment: bool,
    options: Vec<u8>,
    /// IPv6 extension headers: type and everything after the next-header byte.
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<Fragment>,
}

#[derive(Clone, Copy, Debug)]
struct Fragment {
    id: u32,
    offset: u16,
    more: bool,
}

#[derive(Clone, Debug)]
enum Upper {
    None,
    Raw { protocol: u8 },
    Udp { src: u16, dst: u16 },
    Tcp(Tcp),
    Sctp { src: u16, dst: u16 },
    Icmp { protocol: u8, kind: u8, code: u8, rest: u32 },
}

#[derive(Clone, Debug)]
struct Tcp {
    src: u16,
    dst: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuilder {
    /// An untagged frame between [`DEFAULT_SRC_MAC`] and [`DEFAULT_DST_MAC`].
    pub fn new() -> Self {
        Self {
            src_mac: DEFAULT_SRC_MAC,
            dst_mac: DEFAULT_DST_MAC,
            tags: Vec::new(),
            snap: false,
            network: Network::EtherType(0x88b5),
            upper: Upper::None,
            payload: Vec::new(),
            trailer: Vec::new(),
            pad: true,
        }
    }

    /// Source and destination MAC address.
    pub fn macs(mut self, src: Mac, dst: Mac) -> Self {
        (self.src_mac, self.dst_mac) = (src, dst);
        self
    }

    /// One more 802.1Q tag inside of those so far.
    pub fn vlan(self, vid: u16) -> Self {
        self.tag(0x8100, vid)
    }

    /// One more tag inside of those so far, with its TPID and its whole TCI.
    pub fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push((tpid, tci));
        self
    }

    /// 802.2 LLC with SNAP (RFC 1042) in place of an EtherType.
    pub fn snap(mut self) -> Self {
        self.snap = true;
        self
    }

    /// A frame of another EtherType, with what [`FrameBuilder::payload`] gives as its content.
    pub fn ether_type(mut self, ether_type: u16) -> Self {
        self.network = Network::EtherType(ether_type);
        self
    }

    /// An 802.3 frame with a length field, with the payload (LLC header included) as its content.
    pub fn llc(mut self) -> Self {
        self.network = Network::Llc;
        self
    }

    /// An ARP packet from the frame's source MAC address; a request is broadcast.
    pub fn arp(mut self, operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        let request = operation == 1;
        if request {
            self.dst_mac = Mac([0xff; 6]);
        }
        let target_mac = if request { Mac::default() } else { self.dst_mac };
        let mut body = vec![0, 1, 8, 0, 6, 4];
        body.extend(operation.to_be_bytes());
        body.extend(self.src_mac.0);
        body.extend(sender.octets());
        body.extend(target_mac.0);
        body.extend(target.octets());
        self.ether_type(ETHER_ARP).payload(&body)
    }

    /// An IPv4 or IPv6 packet, by the family of its addresses.
    pub fn ip(mut self, src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> Self {
        let (src, dst) = (src.into(), dst.into());
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "addresses of two families");
        self.network = Network::Ip(Ip {
            src,
            dst,
            hop_limit: 64,
            traffic_class: 0,
            id: 0,
            dont_fragment: false,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
        });
        self
    }

    /// Time to live, or hop limit.
    pub fn hop_limit(self, hop_limit: u8) -> Self {
        self.with_ip(|ip| ip.hop_limit = hop_limit)
    }

    /// Type of service, or traffic class.
    pub fn traffic_class(self, traffic_class: u8) -> Self {
        self.with_ip(|ip| ip.traffic_class = traffic_class)
    }

    /// The IPv4 identification of a packet that is no fragment.
    pub fn ipv4_id(self, id: u16) -> Self {
        self.with_ip(|ip| ip.id = id)
    }

    /// The IPv4 flag "don't fragment".
    pub fn dont_fragment(self) -> Self {
        self.with_ip(|ip| ip.dont_fragment = true)
    }

    /// IPv4 options; padded with end-of-options to a multiple of four bytes.
    pub fn ipv4_options(self, options: &[u8]) -> Self {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        assert!(options.len() <= 40, "IPv4 options take at most 40 bytes");
        self.with_ip(|ip| ip.options = options)
    }

    /// One more IPv6 extension header: its number, and everything after its next-header byte.
    pub fn extension(self, number: u8, body: &[u8]) -> Self {
        self.with_ip(|ip| ip.extensions.push((number, body.to_vec())))
    }

    /// An IPv6 hop-by-hop or destination options header with these options, padded.
    pub fn options_extension(self, number: u8, options: &[u8]) -> Self {
        let mut body = vec![0];
        body.extend(options);
        let padding = (body.len() + 1).next_multiple_of(8) - (body.len() + 1);
        match padding {
            0 => {}
            1 => body.push(0),
            n => {
                body.extend([1, n as u8 - 2]);
                body.resize(body.len() + n - 2, 0);
            }
        }
        body[0] = u8::try_from((body.len() + 1) / 8 - 1).expect("options take at most 2,046 bytes");
        self.extension(number, &body)
    }

    /// Makes the packet a fragment at `offset` bytes. At offset 0 the upper-layer header is written
    /// (with lengths and checksum as if the packet ended here); elsewhere the payload alone.
    pub fn fragment(self, id: u32, offset: u16, more: bool) -> Self {
        assert_eq!(offset % 8, 0, "fragment offsets are multiples of 8");
        self.with_ip(|ip| ip.fragment = Some(Fragment { id, offset, more }))
    }

    /// A UDP datagram.
    pub fn udp(mut self, src: u16, dst: u16) -> Self {
        self.upper = Upper::Udp { src, dst };
        self
    }

    /// A TCP segment with sequence and acknowledgement number 0 and a window of 65,535.
    pub fn tcp(mut self, src: u16, dst: u16, flags: u8) -> Self {
        self.upper =
            Upper::Tcp(Tcp { src, dst, seq: 0, ack: 0, flags, window: 65535, options: Vec::new() });
        self
    }

    /// TCP sequence and acknowledgement number.
    pub fn seq(self, seq: u32, ack: u32) -> Self {
        self.with_tcp(|tcp| (tcp.seq, tcp.ack) = (seq, ack))
    }

    /// TCP window, unscaled.
    pub fn window(self, window: u16) -> Self {
        self.with_tcp(|tcp| tcp.window = window)
    }

    /// TCP options; padded with end-of-options to a multiple of four bytes.
    pub fn tcp_options(self, options: &[u8]) -> Self {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        assert!(options.len() <= 40, "TCP options take at most 40 bytes");
        self.with_tcp(|tcp| tcp.options = options)
    }

    /// An SCTP packet: verification tag 1, the payload as its chunks, and no right CRC.
    pub fn sctp(mut self, src: u16, dst: u16) -> Self {
        self.upper = Upper::Sctp { src, dst };
        self
    }

    /// An ICMP (in IPv4) or ICMPv6 (in IPv6) message: `rest` is the second half of its header.
    /// Name the addresses first.
    pub fn icmp(mut self, kind: u8, code: u8, rest: u32) -> Self {
        let v6 = matches!(&self.network, Network::Ip(ip) if ip.src.is_ipv6());
        let protocol = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
        self.upper = Upper::Icmp { protocol, kind, code, rest };
        self
    }

    /// An ICMP or ICMPv6 echo request.
    pub fn echo_request(self, identifier: u16, sequence: u16) -> Self {
        let kind = if self.is_ipv6() { 128 } else { 8 };
        self.icmp(kind, 0, u32::from(identifier) << 16 | u32::from(sequence))
    }

    /// An ICMP or ICMPv6 echo reply.
    pub fn echo_reply(self, identifier: u16, sequence: u16) -> Self {
        let kind = if self.is_ipv6() { 129 } else { 0 };
        self.icmp(kind, 0, u32::from(identifier) << 16 | u32::from(sequence))
    }

    /// Any other upper-layer protocol, with the payload as its whole content.
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.upper = Upper::Raw { protocol };
        self
    }

    /// What the innermost layer carries.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// A payload of `len` zeros.
    pub fn payload_len(mut self, len: usize) -> Self {
        self.payload = vec![0; len];
        self
    }

    /// Bytes after the packet that its own length does not cover.
    pub fn trailer(mut self, trailer: &[u8]) -> Self {
        self.trailer = trailer.to_vec();
        self
    }

    /// Leaves a frame below [`MIN_FRAME_LEN`] as short as it is.
    pub fn unpadded(mut self) -> Self {
        self.pad = false;
        self
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut content = match &self.network {
            Network::EtherType(_) | Network::Llc => self.payload.clone(),
            Network::Ip(ip) => self.ip_packet(ip, &self.upper_packet(ip)),
        };
        let mut frame = self.link_header(content.len());
        frame.append(&mut content);
        frame.extend(&self.trailer);
        if self.pad && frame.len() < MIN_FRAME_LEN {
            frame.resize(MIN_FRAME_LEN, 0);
        }
        frame
    }

    /// The packet cut into fragments of `data_len` bytes (a multiple of 8) of its upper layer each.
    pub fn build_fragments(&self, id: u32, data_len: usize) -> Vec<Vec<u8>> {
        assert!(data_len > 0 && data_len % 8 == 0, "fragments carry multiples of 8 bytes");
        let Network::Ip(ip) = &self.network else { panic!("only IP packets are fragmented") };
        let upper = self.upper_packet(ip);
        let protocol = self.upper_protocol();
        let pieces: Vec<&[u8]> = upper.chunks(data_len).collect();
        let fragment = |(index, piece): (usize, &&[u8])| {
            let offset = u16::try_from(index * data_len).expect("a packet has at most 64 KiB");
            let piece_builder =
                Self { upper: Upper::Raw { protocol }, payload: piece.to_vec(), ..self.clone() };
            piece_builder.fragment(id, offset, index + 1 < pieces.len()).build()
        };
        pieces.iter().enumerate().map(fragment).collect()
    }

    fn is_ipv6(&self) -> bool {
        matches!(&self.network, Network::Ip(ip) if ip.src.is_ipv6())
    }

    fn with_ip(mut self, change: impl FnOnce(&mut Ip)) -> Self {
        match &mut self.network {
            Network::Ip(ip) => change(ip),
            _ => panic!("name the addresses before the details of the IP packet"),
        }
        self
    }

    fn with_tcp(mut self, change: impl FnOnce(&mut Tcp)) -> Self {
        match &mut self.upper {
            Upper::Tcp(tcp) => change(tcp),
            _ => panic!("name the ports before the details of the TCP segment"),
        }
        self
    }

    fn link_header(&self, content_len: usize) -> Vec<u8> {
        let mut header = Vec::with_capacity(MIN_FRAME_LEN);
        header.extend(self.dst_mac.0);
        header.extend(self.src_mac.0);
        for (tpid, tci) in &self.tags {
            header.extend(tpid.to_be_bytes());
            header.extend(tci.to_be_bytes());
        }
        let ether_type = match &self.network {
            Network::EtherType(ether_type) => *ether_type,
            Network::Llc => {
                header.extend(length_u16(content_len).to_be_bytes());
                return header;
            }
            Network::Ip(ip) if ip.src.is_ipv4() => ETHER_IPV4,
            Network::Ip(_) => ETHER_IPV6,
        };
        if self.snap {
            header.extend(length_u16(content_len + 8).to_be_bytes());
            header.extend([0xaa, 0xaa, 0x03, 0, 0, 0]);
        }
        header.extend(ether_type.to_be_bytes());
        header
    }

    fn upper_protocol(&self) -> u8 {
        match &self.upper {
            Upper::None => 59,
            Upper::Raw { protocol } | Upper::Icmp { protocol, .. } => *protocol,
            Upper::Udp { .. } => protocol::UDP,
            Upper::Tcp(_) => protocol::TCP,
            Upper::Sctp { .. } => protocol::SCTP,
        }
    }

    fn upper_packet(&self, ip: &Ip) -> Vec<u8> {
        if ip.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return self.payload.clone();
        }
        let mut packet = Vec::with_capacity(20 + self.payload.len());
        let checksum_at = match &self.upper {
            Upper::None | Upper::Raw { .. } => None,
            Upper::Udp { src, dst } => {
                packet.extend(src.to_be_bytes());
                packet.extend(dst.to_be_bytes());
                packet.extend(length_u16(8 + self.payload.len()).to_be_bytes());
                packet.extend([0, 0]);
                Some(6)
            }
            Upper::Tcp(tcp) => {
                write_tcp_header(tcp, &mut packet);
                Some(16)
            }
            Upper::Sctp { src, dst } => {
                packet.extend(src.to_be_bytes());
                packet.extend(dst.to_be_bytes());
                packet.extend([0, 0, 0, 1, 0, 0, 0, 0]);
                None
            }
            Upper::Icmp { kind, code, rest, .. } => {
                packet.extend([*kind, *code, 0, 0]);
                packet.extend(rest.to_be_bytes());
                Some(2)
            }
        };
        packet.extend(&self.payload);
        if let Some(at) = checksum_at {
            let protocol = self.upper_protocol();
            let pseudo = match protocol {
                protocol::ICMP => 0,
                _ => checksum::pseudo_header(ip.src, ip.dst, protocol, packet.len() as u32),
            };
            let sum = match (checksum::finish(checksum::add(pseudo, &packet)), protocol) {
                // Zero would say that there is no checksum (RFC 768).
                (0, protocol::UDP) => 0xffff,
                (sum, _) => sum,
            };
            packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    fn ip_packet(&self, ip: &Ip, upper: &[u8]) -> Vec<u8> {
        match (ip.src, ip.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut packet = self.ipv4_header(ip, src, dst, upper.len());
                packet.extend(upper);
                packet
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (first, mut chain) = self.ipv6_chain(ip);
                chain.extend(upper);
                let mut packet = vec![0x60 | ip.traffic_class >> 4, ip.traffic_class << 4, 0, 0];
                packet.extend(length_u16(chain.len()).to_be_bytes());
                packet.extend([first, ip.hop_limit]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
                packet.append(&mut chain);
                packet
            }
            _ => unreachable!("`ip` asserts one family"),
        }
    }

    fn ipv4_header(&self, ip: &Ip, src: Ipv4Addr, dst: Ipv4Addr, upper_len: usize) -> Vec<u8> {
        let header_len = 20 + ip.options.len();
        let flags = if ip.dont_fragment { 0x4000 } else { 0 };
        let (id, place) = match ip.fragment {
            None => (ip.id, flags),
            Some(f) => (f.id as u16, flags | (f.offset / 8) | if f.more { 0x2000 } else { 0 }),
        };
        let mut header = vec![0x40 | (header_len / 4) as u8, ip.traffic_class];
        header.extend(length_u16(header_len + upper_len).to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend(place.to_be_bytes());
        header.extend([ip.hop_limit, self.upper_protocol(), 0, 0]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header.extend(&ip.options);
        let sum = checksum::finish(checksum::add(0, &header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    /// The number of the first header, and the extension headers. A fragment header comes last.
    fn ipv6_chain(&self, ip: &Ip) -> (u8, Vec<u8>) {
        const FRAGMENT: u8 = 44;
        let mut headers = ip.extensions.clone();
        if let Some(f) = ip.fragment {
            let mut body = vec![0];
            body.extend((f.offset | u16::from(f.more)).to_be_bytes());
            body.extend(f.id.to_be_bytes());
            headers.push((FRAGMENT, body));
        }
        let mut next = self.upper_protocol();
        let mut chain = Vec::new();
        for (number, body) in headers.iter().rev() {
            let mut header = vec![next];
            header.extend(body);
            header.append(&mut chain);
            chain = header;
            next = *number;
        }
        (next, chain)
    }
}

fn write_tcp_header(tcp: &Tcp, packet: &mut Vec<u8>) {
    packet.extend(tcp.src.to_be_bytes());
    packet.extend(tcp.dst.to_be_bytes());
    packet.extend(tcp.seq.to_be_bytes());
    packet.extend(tcp.ack.to_be_bytes());
    packet.push(((20 + tcp.options.len()) << 2) as u8);
    packet.push(tcp.flags);
    packet.extend(tcp.window.to_be_bytes());
    packet.extend([0, 0, 0, 0]);
    packet.extend(&tcp.options);
}

fn length_u16(len: usize) -> u16 {
    u16::try_from(len).unwrap_or_else(|_| panic!("{len} bytes exceed a 16-bit length field"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_udp_datagram_is_byte_for_byte_right() {
        let frame = FrameBuilder::new()
            .ip([10, 0, 0, 1], [10, 0, 0, 2])
            .udp(1000, 53)
            .payload(b"hi")
            .build();
        assert_eq!(frame.len(), MIN_FRAME_LEN);
        assert_eq!(frame[12..14], [0x08, 0x00]);
        assert_eq!(frame[16..18], [0, 30]);
        assert_eq!(checksum::finish(checksum::add(0, &frame[14..34])), 0);
        assert_eq!(frame[34..42], [0x03, 0xe8, 0, 53, 0, 10, frame[40], frame[41]]);
        let pseudo = checksum::pseudo_header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 10);
        assert_eq!(checksum::finish(checksum::add(pseudo, &frame[34..44])), 0);
    }

    #[test]
    fn fragments_join_to_the_packet() {
        let builder =
            FrameBuilder::new().ip([10, 0, 0, 1], [10, 0, 0, 2]).udp(1, 2).payload_len(100);
        let whole = builder.build();
        let fragments = builder.build_fragments(7, 48);
        assert_eq!(fragments.len(), 3);
        let joined: Vec<u8> = fragments
            .iter()
            .flat_map(|f| {
                let total_len = usize::from(u16::from_be_bytes([f[16], f[17]]));
                f[34..14 + total_len].to_vec()
            })
            .collect();
        assert_eq!(joined, whole[34..]);
    }

    #[test]
    fn extension_headers_are_chained_in_order() {
        let frame = FrameBuilder::new()
            .ip([0xfd00, 0, 0, 0, 0, 0, 0, 1], [0xfd00, 0, 0, 0, 0, 0, 0, 2])
            .options_extension(0, &[5, 2, 0, 0])
            .options_extension(60, &[])
            .fragment(9, 0, true)
            .udp(1, 2)
            .payload_len(16)
            .build();
        assert_eq!(frame[20], 0);
        assert_eq!(frame[54..62], [60, 0, 5, 2, 0, 0, 1, 0]);
        assert_eq!(frame[62..70], [44, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(frame[70..78], [17, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!(frame.len(), 78 + 8 + 16);
    }
}
