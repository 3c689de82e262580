//! What becomes of a packet, and every reason for a drop.

/// One list makes the reason enum, its label and its metric, so that they cannot drift apart.
macro_rules! drop_reasons {
    ($($variant:ident, $label:literal, $help:literal;)*) => {
        /// Why a frame was not forwarded. Each is decided, and counted, in one place.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $help] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The reason's name in metrics, logs and reports.
            pub fn label(self) -> &'static str {
                match self { $(DropReason::$variant => $label,)* }
            }

            /// One sentence for people: what was wrong with the frame.
            pub fn help(self) -> &'static str {
                match self { $(DropReason::$variant => $help,)* }
            }
        }
    };
}

drop_reasons! {
    Undecided, "undecided", "No stage decided the frame: a defect of the gateway, which failed closed.";
    // The policy.
    Policy, "policy", "A deny or reject rule, or the policy's default, forbids the flow.";
    Quarantine, "quarantine", "A device in quarantine: on wires that observe, too.";
    Revoked, "revoked", "The flow was permitted until a newer policy, or a rule's time, forbade it.";
    // The frame.
    EthernetTooShort, "ethernet_too_short", "The frame ends within its Ethernet header.";
    EthernetSourceGroup, "ethernet_source_group", "The source MAC address is a group address.";
    VlanTruncated, "vlan_truncated", "The frame ends within a VLAN tag.";
    VlanTooDeep, "vlan_too_deep", "The frame carries more than two VLAN tags.";
    VlanReserved, "vlan_reserved", "A VLAN tag carries the reserved identifier 4095.";
    LlcLength, "llc_length", "The 802.3 length field is below 3, above 1,500 or beyond the end of the frame.";
    LlcUnknown, "llc_unknown", "An 802.2 LLC frame whose DSAP no rule can name: none, spanning tree beside its addresses, or SNAP that is cut short or that receivers read differently.";
    Pause, "pause", "A PAUSE frame (802.3x): flow control belongs to one link and never crosses.";
    LinkLocalUnknown, "link_local_unknown", "A reserved bridge group address of no protocol that may cross.";
    ArpMalformed, "arp_malformed", "An ARP packet that is truncated, not Ethernet to IPv4, or neither request nor reply.";
    ArpSpoofed, "arp_spoofed", "An ARP packet whose sender is not the host that sent the frame, or no possible host.";
    Ipv4Truncated, "ipv4_truncated", "The frame ends within the IPv4 header or before its total length.";
    Ipv4Version, "ipv4_version", "The version field of an IPv4 packet is not 4.";
    Ipv4HeaderLength, "ipv4_header_length", "The IPv4 header length is below 20 bytes or above the total length.";
    Ipv4Checksum, "ipv4_checksum", "The IPv4 header checksum is wrong.";
    Ipv4Options, "ipv4_options", "Malformed IPv4 options, or source routing.";
    Ipv4Address, "ipv4_address", "The IPv4 source is a broadcast or multicast address, either address is loopback, or they are equal.";
    Ipv6Truncated, "ipv6_truncated", "The frame ends within an IPv6 header or before its payload length.";
    Ipv6Version, "ipv6_version", "The version field of an IPv6 packet is not 6.";
    Ipv6Jumbogram, "ipv6_jumbogram", "An IPv6 jumbogram, or a payload length of zero before a next header.";
    Ipv6ExtensionHeader, "ipv6_extension_header", "An IPv6 extension header or option is truncated, repeated or out of place.";
    Ipv6RoutingHeader, "ipv6_routing_header", "An IPv6 routing header of a deprecated type, or one with segments left: it steers around the policy.";
    Ipv6Address, "ipv6_address", "An IPv6 address that no packet on a wire may carry, a home address option, or source equals destination.";
    UpperTruncated, "upper_truncated", "The packet ends within its TCP, UDP, SCTP, ICMP, GRE, ESP or AH header.";
    TcpHeaderLength, "tcp_header_length", "The TCP data offset is below 20 bytes or above the segment.";
    TcpFlags, "tcp_flags", "A combination of TCP flags that no stack sends: two of SYN, FIN and RST, FIN without ACK, or none of all four.";
    TcpPort, "tcp_port", "A TCP segment from or to port 0.";
    UdpLength, "udp_length", "The UDP length is below 8 or beyond the end of the IP packet.";
    UdpPort, "udp_port", "A UDP datagram to port 0.";
    TunnelEndpoint, "tunnel_endpoint", "A VXLAN or Geneve packet, on a wire that judges inner packets, from or to an address that is not among the wire's tunnel-endpoints.";
    TunnelMalformed, "tunnel_malformed", "A VXLAN or Geneve packet, on a wire that judges inner packets, whose header or options could be read in several ways, or that is a fragment.";
    TunnelNested, "tunnel_nested", "A tunnel within a tunnel, on a wire that judges inner packets.";
    // Fragments.
    FragmentTiny, "fragment_tiny", "A first fragment without its whole chain of headers, a later one that starts within the TCP header, or one without data.";
    FragmentOverlap, "fragment_overlap", "A fragment that overlaps another, or disagrees about where the packet ends.";
    FragmentDuplicate, "fragment_duplicate", "A fragment of a range that was forwarded already: its receiver needs one.";
    FragmentOrphan, "fragment_orphan", "A later fragment whose first fragment was not seen or not permitted.";
    FragmentWaitFull, "fragment_wait_full", "A later fragment that came before its first one, when as many as may waited already.";
    FragmentOverrun, "fragment_overrun", "A fragment of a packet beyond 65,535 bytes, or one not the last whose length is no multiple of 8.";
    FragmentLimit, "fragment_limit", "A packet in more than 64 fragments.";
    FragmentTableFull, "fragment_table_full", "The fragment table is full.";
    // State.
    TcpNoFlow, "tcp_no_flow", "A TCP segment in the middle of a connection that the gateway does not know.";
    TcpWindow, "tcp_window", "A TCP segment outside of the window that its receiver announced.";
    TcpState, "tcp_state", "A TCP segment that the state of its connection does not admit.";
    TcpChecksum, "tcp_checksum", "A TCP segment with a wrong checksum: its receiver would not take it, so it may not change what is known of its connection.";
    IcmpNoFlow, "icmp_no_flow", "An ICMP error or reply that belongs to no live flow.";
    IcmpMalformed, "icmp_malformed", "An ICMP error whose quoted packet does not parse, or was not sent by the host that the error goes to.";
    NdMalformed, "nd_malformed", "A neighbour discovery or MLD message that is malformed, fragmented, from beyond the link, or of an impossible address.";
    NdSpoofed, "nd_spoofed", "A neighbour discovery message that names another link-layer address as its sender's than that of its frame.";
    RouterSide, "router_side", "A router advertisement or ICMPv6 redirect from a side of the wire on which, by `routers`, there is no router.";
    DhcpServerSide, "dhcp_server_side", "An answer of a DHCP server from a side of the wire on which, by `dhcp-servers`, there is none.";
    AddressConflict, "address_conflict", "An ARP, neighbour discovery or DHCP message in which a host claims an address that is bound to another one, or to the other side of the wire.";
    AddressSpoofed, "address_spoofed", "A packet that would open a flow where rules name MAC addresses, or move one to others, from an address that is bound to another host, or to the other side of the wire.";
    FlowSide, "flow_side", "A packet of a flow whose verdict rests on MAC addresses, with these, from the other side of the wire than its sender is on.";
    FlowTableFull, "flow_table_full", "A permitted flow that the flow table had no room for.";
    FlowSourceLimit, "flow_source_limit", "A source that holds as many flows as one source may.";
    NewFlowRate, "new_flow_rate", "A packet that would open a flow, from a source that opens more in a second, or floods with what is denied, than `new-flows-per-source` lets it.";
    // The machine.
    Multisegment, "multisegment", "A frame spread over several buffers that did not fit one.";
    FrameTooLong, "frame_too_long", "A frame longer than the other port can send, or than 65,535 bytes.";
    TransmitFull, "transmit_full", "The other port's transmit queue stayed full.";
    HandoverFull, "handover_full", "The ring to the worker that judges the frame's flow was full.";
    LinkDown, "link_down", "The other port has no carrier.";
    Shutdown, "shutdown", "Held for transmission when the gateway stopped.";
}

/// What a worker does with a frame. A burst's verdicts start as [`Verdict::UNDECIDED`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Drop and count under the reason.
    Drop(DropReason),
    /// Drop under [`DropReason::Policy`] and answer as the denied host would.
    Reject,
    /// Send out of the wire's other port.
    Forward,
}

impl Verdict {
    /// Where every frame starts: a forgotten branch fails closed.
    pub const UNDECIDED: Self = Self::Drop(DropReason::Undecided);
}
