//! ICMP (RFC 792), ICMPv6 (RFC 4443), and the guard of neighbour discovery and MLD.

use bulkhead_rules::headers::{Mac, protocol};

use super::ipv6::Ipv6;
use super::{Kind, be16};
use crate::verdict::DropReason;

/// Bytes of the ICMP header before what an error quotes.
pub(super) const HEADER_LEN: usize = 8;

/// What kind of message it is, and the ports of its flow key. The classifier sees type and code as
/// the destination port; the flow key of a query has its identifier.
pub(super) fn parse(protocol: u8, header: &[u8; HEADER_LEN]) -> (Kind, (u16, u16)) {
    match (protocol, header[0]) {
        // Unreachable, source quench, time exceeded, parameter problem. A redirect quotes a packet,
        // too, but asks for another route to somewhere: it needs a rule of its own.
        (protocol::ICMP, 3 | 4 | 11 | 12) | (protocol::ICMPV6, 1..=4) => {
            (Kind::IcmpError, (0, type_and_code(header)))
        }
        // Echo, timestamp, information, address mask (RFC 792, RFC 950), extended echo (RFC 8335).
        (protocol::ICMP, 0 | 8 | 13..=18 | 42 | 43) | (protocol::ICMPV6, 128 | 129 | 160 | 161) => {
            (Kind::IcmpQuery, (be16(header, 4), be16(header, 4)))
        }
        _ => (Kind::Other, (0, type_and_code(header))),
    }
}

/// The destination port as the classifier reads it.
pub(super) fn type_and_code(header: &[u8; HEADER_LEN]) -> u16 {
    be16(header, 0)
}

/// The kind of an ICMPv6 message once its guard is asked: neighbour discovery and MLD cross when
/// they are what a host on the link may send, and every other message is of `kind`.
///
/// `message` is the whole message, `src_mac` the sender of its frame, and `fragmented` says that it
/// came with a fragment header, even that of an atomic fragment (RFC 6980).
pub(super) fn guard(
    ip: &Ipv6<'_>,
    message: &[u8],
    src_mac: Mac,
    fragmented: bool,
    kind: Kind,
) -> Result<Kind, DropReason> {
    let fits = match message.first() {
        Some(130..=132 | 143) => !fragmented && is_mld_fit(ip, message),
        Some(133..=137) => !fragmented && check_neighbour_discovery(ip, message, src_mac)?,
        _ => return Ok(kind),
    };
    if fits { Ok(Kind::NeighbourDiscovery) } else { Err(DropReason::NdMalformed) }
}

/// RFC 2710 §3, RFC 3810 §5, and RFC 3590 for reports from a host without an address yet.
fn is_mld_fit(ip: &Ipv6<'_>, message: &[u8]) -> bool {
    const QUERY: u8 = 130;
    const VERSION_2_REPORT: u8 = 143;
    let kind = message[0];
    let min_len = if kind == VERSION_2_REPORT { 8 } else { 24 };
    let from_link = is_link_local(ip.src()) || (ip.src() == 0 && kind != QUERY);
    ip.hop_limit() == 1 && from_link && is_group(ip.dst()) && message.len() >= min_len
}

/// The validation rules of RFC 4861 §6.1, §7.1 and §8.1 that do not need the host's own state: whether
/// the message keeps them. Who tells its own link-layer address tells that of the frame, or is an
/// error: what a receiver would remember is where the frame came from.
fn check_neighbour_discovery(
    ip: &Ipv6<'_>,
    message: &[u8],
    src_mac: Mac,
) -> Result<bool, DropReason> {
    const ROUTER_SOLICITATION: u8 = 133;
    const ROUTER_ADVERTISEMENT: u8 = 134;
    const NEIGHBOUR_SOLICITATION: u8 = 135;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    let (kind, code) = (message[0], message[1]);
    let options_at = match kind {
        ROUTER_SOLICITATION => 8,
        ROUTER_ADVERTISEMENT => 16,
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => 24,
        _ => 40,
    };
    let Some(options) = message.get(options_at..) else { return Ok(false) };
    let Some(options) = Options::read(options, src_mac) else { return Ok(false) };
    let has_source_mac = options.has_source_mac;
    if ip.hop_limit() != 255 || code != 0 {
        return Ok(false);
    }
    let (src, dst) = (ip.src(), ip.dst());
    let address = |at: usize| {
        let bytes = message.get(at..).and_then(|rest| rest.first_chunk::<16>());
        bytes.map_or(u128::MAX, |bytes| u128::from_be_bytes(*bytes))
    };
    let fits = match kind {
        ROUTER_SOLICITATION => src != 0 || !has_source_mac,
        ROUTER_ADVERTISEMENT => is_link_local(src),
        NEIGHBOUR_SOLICITATION => {
            let probe_fits = is_solicited_node(dst) && !has_source_mac;
            is_possible_target(address(8)) && (src != 0 || probe_fits)
        }
        NEIGHBOUR_ADVERTISEMENT => {
            const SOLICITED: u8 = 0x40;
            let solicited = message[4] & SOLICITED != 0;
            src != 0 && is_possible_target(address(8)) && !(is_group(dst) && solicited)
        }
        _ => {
            let (target, destination) = (address(8), address(24));
            is_link_local(src)
                && !is_group(destination)
                && (is_link_local(target) || target == destination)
        }
    };
    // In a redirect the target is another host: the better next hop.
    let spoofed =
        options.source_differs || (kind == NEIGHBOUR_ADVERTISEMENT && options.target_differs);
    if fits && spoofed { Err(DropReason::NdSpoofed) } else { Ok(fits) }
}

/// What the options of a message say about link-layer addresses.
struct Options {
    has_source_mac: bool,
    /// A source link-layer address that is not the frame's sender.
    source_differs: bool,
    /// A target link-layer address that is not the frame's sender.
    target_differs: bool,
}

impl Options {
    /// [`None`] where they do not parse.
    fn read(options: &[u8], src_mac: Mac) -> Option<Self> {
        const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
        const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
        let mut found =
            Self { has_source_mac: false, source_differs: false, target_differs: false };
        let mut rest = options;
        while let [kind, len, ..] = *rest {
            let (option, others) = rest.split_at_checked(usize::from(len) * 8)?;
            // An option of no length would never end.
            let value = option.get(2..)?;
            let differs = *value != src_mac.0;
            match kind {
                SOURCE_LINK_LAYER_ADDRESS => {
                    found.has_source_mac = true;
                    found.source_differs |= differs;
                }
                TARGET_LINK_LAYER_ADDRESS => found.target_differs |= differs,
                _ => {}
            }
            rest = others;
        }
        rest.is_empty().then_some(found)
    }
}

fn is_group(addr: u128) -> bool {
    addr >> 120 == 0xff
}

fn is_link_local(addr: u128) -> bool {
    addr >> 118 == 0xfe80 >> 6
}

/// ff02::1:ff00:0/104.
fn is_solicited_node(addr: u128) -> bool {
    addr >> 24 == 0xff02_0000_0000_0000_0000_0001_ff00_0000 >> 24
}

/// A target is a unicast address of an interface.
fn is_possible_target(addr: u128) -> bool {
    !is_group(addr) && addr > 1
}
