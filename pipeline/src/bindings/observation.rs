//! What a frame claims about addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use bulkhead_rules::headers::{ETHER_IPV4, Mac, VlanTags, WireId};

use super::dhcp::{self, Leases, MAX_ADDRESSES, Message};
use crate::parse::{Kind, Parsed};
use crate::snapshot::WirePolicy;

/// What was observed. One list makes the kinds and their labels.
macro_rules! kinds {
    ($($variant:ident, $label:literal, $help:literal;)*) => {
        /// What kind of claim it is.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum ObservationKind {
            $(#[doc = $help] $variant,)*
        }

        impl ObservationKind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in metrics and logs.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

kinds! {
    Arp, "arp", "A host says in ARP that the address is its own.";
    NeighbourDiscovery, "nd", "A host says in neighbour discovery that the address is its own, or that it is about to take it.";
    DhcpClient, "dhcp_client", "A DHCP client speaks: it says where its MAC address is, and has no address to tell.";
    DhcpAck, "dhcp_ack", "A DHCP server leases the address to the MAC address.";
    DhcpRelease, "dhcp_release", "A DHCP client gives the address back.";
    DhcpDecline, "dhcp_decline", "A DHCP client will not use the address: another host has it.";
}

impl ObservationKind {
    /// Whether it is the word of a DHCP server.
    pub fn is_of_server(self) -> bool {
        self == Self::DhcpAck
    }
}

/// A claim, as it goes from a worker to the control thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Observation {
    /// The wire on which it was seen.
    pub wire: WireId,
    /// The VLAN tags of its frame.
    pub tags: VlanTags,
    /// On which side the MAC address is by this frame: for [`ObservationKind::DhcpAck`] the one that
    /// the frame goes to, else the one that it came from.
    pub inside: bool,
    /// Of whom it speaks.
    pub mac: Mac,
    /// The address; unspecified in [`ObservationKind::DhcpClient`].
    pub address: IpAddr,
    /// What kind of claim it is.
    pub kind: ObservationKind,
    /// For how many seconds the address is leased; zero where it is not.
    pub lease_s: u32,
    /// The transaction of a DHCP message: that of a server's answer is the client's. Zero elsewhere.
    pub xid: u32,
}

/// The claims of one frame.
pub type Observations = ArrayVec<Observation, MAX_ADDRESSES>;

/// What a frame claims that came from the inside or the outside of a wire and was judged to be of
/// [`Kind::Arp`], [`Kind::NeighbourDiscovery`] or [`Kind::Dhcp`]; of every other kind, and of frames
/// within tunnels, nothing.
pub fn observe(
    frame: &[u8],
    parsed: &Parsed,
    wire: &WirePolicy,
    from_inside: bool,
) -> Observations {
    if parsed.tunnel != 0 {
        return Observations::new();
    }
    let context = Context { parsed, from_inside };
    let read = match parsed.kind {
        Kind::Arp => context.arp(frame),
        Kind::NeighbourDiscovery => context.neighbour_discovery(frame),
        Kind::Dhcp => context.dhcp(frame, wire.dhcp_servers.has(from_inside)),
        _ => None,
    };
    read.unwrap_or_default()
}

/// Whether a host can have the address for itself.
pub fn is_possible(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !(a.octets()[0] == 0 || a.is_loopback() || a.octets()[0] >= 224),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_loopback() || a.is_multicast()),
    }
}

struct Context<'a> {
    parsed: &'a Parsed,
    from_inside: bool,
}

impl Context<'_> {
    /// What the sender of the frame says of itself.
    fn of_sender(&self, address: IpAddr, kind: ObservationKind) -> Observation {
        let headers = &self.parsed.headers;
        Observation {
            wire: headers.wire,
            tags: headers.tags,
            inside: self.from_inside,
            mac: headers.src_mac,
            address,
            kind,
            lease_s: 0,
            xid: 0,
        }
    }

    fn claim(&self, address: IpAddr, kind: ObservationKind) -> Option<Observations> {
        is_possible(address).then(|| [self.of_sender(address, kind)].into_iter().collect())
    }

    /// The parser has found that the sender is the one that sent the frame.
    fn arp(&self, frame: &[u8]) -> Option<Observations> {
        let packet = frame.get(usize::from(self.parsed.network_offset)..)?;
        let sender = packet.get(14..)?.first_chunk::<4>()?;
        self.claim(IpAddr::from(*sender), ObservationKind::Arp)
    }

    fn neighbour_discovery(&self, frame: &[u8]) -> Option<Observations> {
        const ROUTER_SOLICITATION: u8 = 133;
        const ROUTER_ADVERTISEMENT: u8 = 134;
        const NEIGHBOUR_SOLICITATION: u8 = 135;
        const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
        let src = self.parsed.headers.src;
        let message = frame.get(usize::from(self.parsed.upper_offset)..)?;
        let target = || Some(u128::from_be_bytes(*message.get(8..)?.first_chunk::<16>()?));
        let address = match *message.first()? {
            // Without a source it asks whether anybody else has the address that it wants.
            NEIGHBOUR_SOLICITATION if src == 0 => target()?,
            NEIGHBOUR_ADVERTISEMENT => target()?,
            ROUTER_SOLICITATION | ROUTER_ADVERTISEMENT | NEIGHBOUR_SOLICITATION => src,
            _ => return None,
        };
        self.claim(Ipv6Addr::from(address).into(), ObservationKind::NeighbourDiscovery)
    }

    fn dhcp(&self, frame: &[u8], is_server_side: bool) -> Option<Observations> {
        let headers = &self.parsed.headers;
        let datagram = frame
            .get(usize::from(self.parsed.upper_offset)..usize::from(self.parsed.packet_end))?;
        let len = usize::from(u16::from_be_bytes([*datagram.get(4)?, *datagram.get(5)?]));
        let message = datagram.get(8..len)?;
        let to_client = matches!(headers.dst_port, 68 | 546);
        if headers.ether_type == ETHER_IPV4 {
            let (client, xid, said) = dhcp::parse_v4(message)?;
            let is_own = to_client || client == headers.src_mac;
            let said = || self.said((client, xid), said, to_client, is_server_side);
            return is_own.then(said).flatten();
        }
        let client = if to_client { headers.dst_mac } else { headers.src_mac };
        let (xid, said) = dhcp::parse_v6(message)?;
        self.said((client, xid), said, to_client, is_server_side)
    }

    fn said<A: Into<IpAddr> + Copy>(
        &self,
        (client, xid): (Mac, u32),
        said: Message<A>,
        to_client: bool,
        is_server_side: bool,
    ) -> Option<Observations> {
        if client.is_group() {
            return None;
        }
        let each = |leases: Leases<A>, kind: ObservationKind| -> Observations {
            // What a server sends goes to where its client is.
            let inside = self.from_inside != to_client;
            let claim = |(address, lease_s): (A, u32)| {
                let of_sender = self.of_sender(address.into(), kind);
                Observation { mac: client, inside, lease_s, xid, ..of_sender }
            };
            leases.into_iter().map(claim).filter(|claim| is_possible(claim.address)).collect()
        };
        match (said, to_client) {
            (Message::Ack(leases), true) if is_server_side => {
                Some(each(leases, ObservationKind::DhcpAck))
            }
            (Message::Release(leases), false) => Some(each(leases, ObservationKind::DhcpRelease)),
            (Message::Decline(leases), false) => Some(each(leases, ObservationKind::DhcpDecline)),
            (Message::Client, false) => {
                let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                let seen = self.of_sender(unspecified, ObservationKind::DhcpClient);
                Some([Observation { xid, ..seen }].into_iter().collect())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::FrameBuilder;
    use crate::parse::parse;
    use crate::snapshot::Mode;

    const HOST: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 8]);
    const EVERYBODY: Mac = Mac([0xff; 6]);

    fn observed(frame: &[u8], from_inside: bool) -> Observations {
        let parsed = parse(frame, WireId(3)).unwrap_or_else(|reason| panic!("{reason:?}"));
        observe(frame, &parsed, &WirePolicy::new(Mode::Enforce, 0), from_inside)
    }

    fn claimed(frame: &[u8]) -> Option<(Mac, IpAddr, ObservationKind)> {
        let all = observed(frame, true);
        assert!(all.len() <= 1);
        all.first().map(|one| (one.mac, one.address, one.kind))
    }

    fn arp(operation: u8, sender: [u8; 4]) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        let packet = [&head[..], &HOST.0, &sender, &[0; 6], &[10, 0, 0, 1]].concat();
        FrameBuilder::new()
            .macs(HOST, EVERYBODY)
            .vlan(30)
            .ether_type(0x0806)
            .payload(&packet)
            .build()
    }

    #[test]
    fn arp_claims_the_address_of_its_sender() {
        let address = IpAddr::from([10, 0, 0, 7]);
        for operation in [1, 2] {
            let all = observed(&arp(operation, [10, 0, 0, 7]), false);
            assert_eq!(
                all.as_slice(),
                [Observation {
                    wire: WireId(3),
                    tags: VlanTags::single(30),
                    inside: false,
                    mac: HOST,
                    address,
                    kind: ObservationKind::Arp,
                    lease_s: 0,
                    xid: 0,
                }]
            );
        }
        assert_eq!(claimed(&arp(1, [0; 4])), None, "a probe claims nothing");
    }

    const LINK_LOCAL: [u16; 8] = [0xfe80, 0, 0, 0, 0, 0, 0, 7];
    const TARGET: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 9];

    fn nd(kind: u8, src: [u16; 8], dst: [u16; 8]) -> Vec<u8> {
        let target = Ipv6Addr::from(TARGET).octets();
        let message = FrameBuilder::new().macs(HOST, EVERYBODY).ip(src, dst).hop_limit(255);
        message.icmp(kind, 0, 0).payload(&target).build()
    }

    #[test]
    fn neighbour_discovery_claims_what_its_sender_has_or_wants() {
        let nd_kind = ObservationKind::NeighbourDiscovery;
        let all_nodes = [0xff02, 0, 0, 0, 0, 0, 0, 1];
        let solicited = [0xff02, 0, 0, 0, 0, 1, 0xff00, 9];
        let target = IpAddr::from(TARGET);
        let own = IpAddr::from(LINK_LOCAL);
        assert_eq!(claimed(&nd(136, LINK_LOCAL, all_nodes)), Some((HOST, target, nd_kind)));
        assert_eq!(claimed(&nd(135, LINK_LOCAL, solicited)), Some((HOST, own, nd_kind)));
        assert_eq!(claimed(&nd(135, [0; 8], solicited)), Some((HOST, target, nd_kind)));
    }

    fn dhcp(op: u8, client: Mac, options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 240];
        message[..3].copy_from_slice(&[op, 1, 6]);
        message[7] = 5;
        message[12..16].copy_from_slice(&[10, 0, 0, 9]);
        message[16..20].copy_from_slice(&[10, 0, 0, 9]);
        message[28..34].copy_from_slice(&client.0);
        message[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        message.extend(options);
        message
    }

    fn datagram(from: Mac, to: Mac, ports: (u16, u16), message: &[u8]) -> Vec<u8> {
        let builder = FrameBuilder::new().macs(from, to).ip([10, 0, 0, 1], [10, 0, 0, 9]);
        builder.udp(ports.0, ports.1).payload(message).build()
    }

    #[test]
    fn a_server_is_believed_on_its_side_only_and_places_its_client_on_the_other() {
        let ack = dhcp(2, HOST, &[53, 1, 5, 51, 4, 0, 0, 0, 60, 255]);
        for to in [HOST, EVERYBODY] {
            let frame = datagram(OTHER, to, (67, 68), &ack);
            assert!(observed(&frame, true).is_empty(), "servers are outside");
            let all = observed(&frame, false);
            assert_eq!(all.len(), 1);
            assert_eq!((all[0].mac, all[0].inside, all[0].lease_s), (HOST, true, 60));
            assert_eq!((all[0].kind, all[0].xid), (ObservationKind::DhcpAck, 5));
        }
        let relayed = datagram(OTHER, HOST, (67, 67), &ack);
        assert!(observed(&relayed, false).is_empty());
    }

    #[test]
    fn a_client_speaks_for_itself_only() {
        let address = IpAddr::from([10, 0, 0, 9]);
        let release = dhcp(1, HOST, &[53, 1, 7, 255]);
        let of_itself = datagram(HOST, OTHER, (68, 67), &release);
        assert_eq!(claimed(&of_itself), Some((HOST, address, ObservationKind::DhcpRelease)));
        assert_eq!(claimed(&datagram(OTHER, HOST, (68, 67), &release)), None);
        let request = datagram(HOST, EVERYBODY, (68, 67), &dhcp(1, HOST, &[53, 1, 3, 255]));
        let nothing = IpAddr::from([0, 0, 0, 0]);
        assert_eq!(claimed(&request), Some((HOST, nothing, ObservationKind::DhcpClient)));
        assert_eq!(observed(&request, true)[0].xid, 5);
    }

    #[test]
    fn other_frames_claim_nothing() {
        let frame = datagram(HOST, OTHER, (68, 6700), &dhcp(1, HOST, &[53, 1, 7, 255]));
        assert_eq!(claimed(&frame), None);
        // A datagram that ends before its packet does.
        let mut cut = datagram(HOST, OTHER, (68, 67), &dhcp(1, HOST, &[53, 1, 7, 255]));
        cut[14 + 20 + 4..14 + 20 + 6].copy_from_slice(&100u16.to_be_bytes());
        assert_eq!(claimed(&cut), None);
    }
}
