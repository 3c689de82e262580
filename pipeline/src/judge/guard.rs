//! What may come from one side of a wire only: the voices of routers and DHCP servers.
//!
//! Who speaks as a router or as a DHCP server takes over the traffic of the hosts that listen. On a
//! wire these are on known sides; what comes from another side is dropped before any rule is asked.

use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, protocol};

use crate::snapshot::WirePolicy;
use crate::verdict::DropReason;

/// Why a neighbour discovery message may not come from this side, if it may not.
pub(super) fn neighbour_discovery(
    headers: &Headers,
    wire: &WirePolicy,
    from_inside: bool,
) -> Option<DropReason> {
    const ROUTER_ADVERTISEMENT: u16 = 134;
    const REDIRECT: u16 = 137;
    let of_router = matches!(headers.dst_port >> 8, ROUTER_ADVERTISEMENT | REDIRECT);
    (of_router && !wire.routers.has(from_inside)).then_some(DropReason::RouterSide)
}

/// Why a packet may open no flow from this side, if it may not. What a server sends to a client is
/// either asked for by a client of the other side, whose flow it then rides, or opens a flow, as every
/// answer to a broadcast does. It is known by the port of clients: they take an offer that comes
/// from any other.
pub(super) fn opening(
    headers: &Headers,
    wire: &WirePolicy,
    from_inside: bool,
) -> Option<DropReason> {
    if headers.protocol != protocol::UDP || wire.dhcp_servers.has(from_inside) {
        return None;
    }
    match (headers.ether_type, headers.dst_port) {
        (ETHER_IPV4, 68) | (ETHER_IPV6, 546) => Some(DropReason::DhcpServerSide),
        _ => None,
    }
}
