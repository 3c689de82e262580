//! A port of several queues in memory, which spreads frames over them as a NIC does.
//!
//! Receive side scaling, as its makers publish it: the Toeplitz hash of some header fields, whose low
//! bits choose an entry of a table of queues. The host's side has one plug; the gateway's has a
//! [`LoopbackPort`] for each queue.

use super::loopback::{self, Host, LoopbackFrame, LoopbackPort, Options, SendError};

/// The key of the published verification suite, which most drivers take unless told otherwise. It
/// gives the two directions of a flow different hashes.
pub const ASYMMETRIC_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// The key that is symmetric because all its 16-bit words are the same.
pub const SYMMETRIC_KEY: [u8; 40] = {
    let mut key = [0x6d; 40];
    let mut at = 1;
    while at < key.len() {
        key[at] = 0x5a;
        at += 2;
    }
    key
};

/// The header fields that are hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fields {
    /// The two addresses.
    Addresses,
    /// These and the ports of TCP and UDP, where the packet is no fragment.
    AddressesAndPorts,
}

/// How frames are spread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rss {
    /// The key: 40 bytes at least for IPv6 with ports.
    pub key: Vec<u8>,
    /// What is hashed.
    pub fields: Fields,
    /// Entries of the table, a power of two; they name the queues in turn.
    pub table_len: u16,
}

impl Rss {
    /// With a table of 128 entries.
    pub fn new(key: &[u8], fields: Fields) -> Self {
        Self { key: key.to_vec(), fields, table_len: 128 }
    }

    /// The queue that a frame arrives on, of `queues`. What is not IP arrives on the first.
    pub fn queue(&self, frame: &[u8], queues: usize) -> usize {
        let hash = input(frame, self.fields).map_or(0, |input| toeplitz(&self.key, &input));
        let entry = hash as usize & (usize::from(self.table_len.max(1)) - 1);
        entry % queues.max(1)
    }
}

/// The Toeplitz hash: for each set bit of the input, the 32 bits of the key that begin there. Bits
/// beyond the key's end count as unset.
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
    let mut hash = 0;
    for (at, bits) in input.iter().enumerate() {
        let window = (0..5).fold(0, |window, next| window << 8 | byte(at + next));
        for bit in (0..8).filter(|bit| bits >> (7 - bit) & 1 == 1) {
            hash ^= (window >> (8 - bit)) as u32;
        }
    }
    hash
}

/// Makes a port of `queues` queues and the host that is plugged into it.
#[must_use]
pub fn pair(options: Options, rss: Rss, queues: usize) -> (Vec<LoopbackPort>, RssHost) {
    let (ports, queues) = (0..queues.max(1)).map(|_| loopback::pair(options)).unzip();
    (ports, RssHost { rss, queues })
}

/// The host's side of a port with several queues.
#[derive(Debug)]
pub struct RssHost {
    rss: Rss,
    queues: Vec<Host>,
}

impl RssHost {
    /// Sends a copy of `bytes`; it arrives at the queue that the NIC would choose.
    ///
    /// # Errors
    ///
    /// As for [`Host::send`].
    pub fn send(&self, bytes: &[u8]) -> Result<(), SendError> {
        self.queues[self.rss.queue(bytes, self.queues.len())].send(bytes)
    }

    /// The next frame that the gateway sent from any queue, if there is one; those of one queue come
    /// in their order.
    #[must_use]
    pub fn receive(&self) -> Option<LoopbackFrame> {
        self.queues.iter().find_map(Host::receive)
    }

    /// The hosts behind the single queues.
    #[must_use]
    pub fn queues(&self) -> &[Host] {
        &self.queues
    }
}

/// What a NIC hashes of a frame: source address, destination address and perhaps both ports, in the
/// order in which they stand in the packet.
fn input(frame: &[u8], fields: Fields) -> Option<Vec<u8>> {
    const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
    let mut at = 12;
    while TAGS.iter().any(|tag| frame.get(at..at + 2) == Some(tag)) {
        at += 4;
    }
    let (ether_type, packet) = frame.get(at..)?.split_at_checked(2)?;
    let (addresses, protocol, upper, is_fragment) = match ether_type {
        [0x08, 0x00] => {
            let header_len = usize::from(packet.first()? & 0x0f) * 4;
            let flags = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]);
            let is_fragment = flags & 0x3fff != 0;
            (packet.get(12..20)?, *packet.get(9)?, packet.get(header_len..)?, is_fragment)
        }
        [0x86, 0xdd] => (packet.get(8..40)?, *packet.get(6)?, packet.get(40..)?, false),
        _ => return None,
    };
    let has_ports = matches!(protocol, 6 | 17) && !is_fragment;
    let ports = match fields {
        Fields::AddressesAndPorts if has_ports => upper.get(..4)?,
        _ => &[],
    };
    Some([addresses, ports].concat())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::frames::{FrameBuilder, tcp_flags};

    /// The published verification suite: source, destination, hash of the addresses, hash with ports.
    const SUITE: [(&str, u16, &str, u16, u32, u32); 8] = [
        ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323e_8fc2, 0x51cc_c178),
        ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xd718_262a, 0xc626_b0ea),
        ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xd2d0_a5de, 0x5c2b_394a),
        ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x8298_9176, 0xafc7_327f),
        ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5d18_09c5, 0x10e8_28a2),
        ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2cc1_8cd5, 0x4020_7d3d),
        ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0f0c_461c, 0xdde5_1bbf),
        (
            "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
            44251,
            "fe80::200:f8ff:fe21:67cf",
            38024,
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_published_vectors_hold() {
        for (src, src_port, dst, dst_port, of_addresses, of_ports) in SUITE {
            let frame = FrameBuilder::new()
                .ip(address(src), address(dst))
                .tcp(src_port, dst_port, tcp_flags::SYN)
                .build();
            let hash = |fields| toeplitz(&ASYMMETRIC_KEY, &input(&frame, fields).expect("is IP"));
            assert_eq!(hash(Fields::Addresses), of_addresses, "{src} to {dst}");
            assert_eq!(hash(Fields::AddressesAndPorts), of_ports, "{src} to {dst}");
        }
    }

    #[test]
    fn only_the_symmetric_key_gives_both_directions_one_queue() {
        let queues = |key: &[u8], swap: bool| -> Vec<usize> {
            let rss = Rss::new(key, Fields::AddressesAndPorts);
            let frame = |port: u16| {
                let (a, b) = (address("10.0.0.1"), address("10.9.0.77"));
                let (src, dst) = if swap { (b, a) } else { (a, b) };
                let ports = if swap { (502, port) } else { (port, 502) };
                FrameBuilder::new().ip(src, dst).udp(ports.0, ports.1).build()
            };
            (1000..1100).map(|port| rss.queue(&frame(port), 4)).collect()
        };
        assert_eq!(queues(&SYMMETRIC_KEY, false), queues(&SYMMETRIC_KEY, true));
        assert_ne!(queues(&ASYMMETRIC_KEY, false), queues(&ASYMMETRIC_KEY, true));
    }

    #[test]
    fn fragments_tags_and_other_frames_are_spread_by_what_they_have() {
        let rss = Rss::new(&SYMMETRIC_KEY, Fields::AddressesAndPorts);
        let builder = FrameBuilder::new().ip([10, 0, 0, 1], [10, 0, 0, 2]);
        let plain = builder.clone().udp(5, 6).build();
        let tagged = builder.clone().vlan(7).vlan(8).udp(5, 6).build();
        assert_eq!(input(&plain, rss.fields), input(&tagged, rss.fields));
        let mut fragment = plain;
        fragment[20] = 0x20; // More fragments follow.
        assert_eq!(input(&fragment, rss.fields).map(|input| input.len()), Some(8));
        assert_eq!(rss.queue(&FrameBuilder::new().ether_type(0x88ba).build(), 4), 0);
        assert_eq!(rss.queue(&[1, 2, 3], 4), 0);
    }
}
