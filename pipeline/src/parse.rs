//! Bytes to the fields that the later stages need.

use bulkhead_rules::headers::{Headers, WireId};

use crate::verdict::DropReason;

/// What kind of frame it is: which stages judge it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// Link-local control that crosses untouched: STP, LACP, LLDP. Not classified.
    LinkControl,
    /// ARP that passed its guard. Not classified.
    Arp,
    /// ICMPv6 neighbour discovery (types 133 to 137) and MLD that passed its guard. Not classified.
    NeighbourDiscovery,
    /// An ICMP or ICMPv6 error: judged by the flow that it quotes, see [`parse_quoted`].
    IcmpError,
    /// A non-first fragment: judged by its first one. `headers` has no ports.
    LaterFragment,
    /// TCP: judged by flow, with connection state.
    Tcp,
    /// ICMP echo request or reply and the other query pairs: judged by flow, by identifier.
    IcmpQuery,
    /// Every other packet or frame: judged by flow.
    #[default]
    Other,
}

/// The fields of a TCP segment that connection tracking needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpSegment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window as it stands in the header, unscaled.
    pub window: u16,
    /// The flag byte: CWR ECE URG ACK PSH RST SYN FIN from high to low.
    pub flags: u8,
    /// Window scale option of a SYN: the shift, at most 14; [`None`] where it is absent.
    pub window_scale: Option<u8>,
    /// Payload bytes (of this fragment, where it is one).
    pub payload_len: u16,
}

/// Where a fragment stands in its packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentPlace {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// First byte of the packet's fragmentable part that the fragment carries.
    pub offset: u16,
    /// Bytes of the fragmentable part that the fragment carries.
    pub len: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

/// What the parser learnt of one frame. Offsets count from the start of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parsed {
    /// The classifier's key.
    pub headers: Headers,
    /// Which stages judge the frame.
    pub kind: Kind,
    /// Source and destination port of the flow key: those of `headers`, but for ICMP queries the
    /// identifier in both.
    pub flow_ports: (u16, u16),
    /// Start of the network header.
    pub network_offset: u16,
    /// Start of the upper-layer header, or of the fragment's data in a later fragment.
    pub upper_offset: u16,
    /// End of the IP packet by its own length field: padding follows.
    pub packet_end: u16,
    /// TCP fields where `kind` is [`Kind::Tcp`].
    pub tcp: TcpSegment,
    /// Set where the packet is a fragment, first or later. An IPv6 atomic fragment (RFC 6946) is none.
    pub fragment: Option<FragmentPlace>,
}

/// Parses one frame that came on `wire`. Every length is checked here; what is returned can be used
/// without checking again.
///
/// # Errors
///
/// The reason for which an enforcing wire drops the frame.
pub fn parse(frame: &[u8], wire: WireId) -> Result<Parsed, DropReason> {
    let _ = (frame, wire);
    Err(DropReason::Undecided)
}

/// The packet that an ICMP or ICMPv6 error quotes, for a frame that parsed as [`Kind::IcmpError`]:
/// its headers as its sender wrote them (`src` is the host that the error must be addressed to; MAC
/// addresses are zero) and its flow ports.
///
/// # Errors
///
/// [`DropReason::IcmpMalformed`] where the quotation is too short to name a flow.
pub fn parse_quoted(frame: &[u8], parsed: &Parsed) -> Result<(Headers, (u16, u16)), DropReason> {
    let _ = (frame, parsed);
    Err(DropReason::IcmpMalformed)
}
