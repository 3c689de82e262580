//! What may come from one side of a wire only: the voices of routers and DHCP servers, and those of
//! hosts whose addresses are known.
//!
//! Who speaks as a router or as a DHCP server takes over the traffic of the hosts that listen. On a
//! wire these are on known sides; what comes from another side is dropped before any rule is asked.
//! So is what claims an address that is bound to another host, if a rule names that host's MAC address,
//! and what comes from one where the verdict rests on who sent it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, protocol};
use bulkhead_rules::policy::{Holder, Link};

use super::Moment;
use crate::bindings::observation::observe;
use crate::parse::{Kind, Parsed};
use crate::snapshot::WirePolicy;
use crate::verdict::DropReason;

/// Why an ARP or neighbour discovery message may not come from this side, if it may not.
pub(super) fn neighbour(frame: &[u8], parsed: &Parsed, moment: &Moment<'_>) -> Option<DropReason> {
    const ROUTER_ADVERTISEMENT: u16 = 134;
    const REDIRECT: u16 = 137;
    let of_router = parsed.kind == Kind::NeighbourDiscovery
        && matches!(parsed.headers.dst_port >> 8, ROUTER_ADVERTISEMENT | REDIRECT);
    if of_router && !moment.wire.routers.has(moment.from_inside) {
        return Some(DropReason::RouterSide);
    }
    let bindings = moment.snapshot.content.policy.bindings();
    // Without a source a solicitation asks whether anybody has the address, before it is taken: who has
    // it must hear that, to say so.
    let asks = parsed.kind == Kind::NeighbourDiscovery && parsed.headers.src == 0;
    if bindings.holds_nobody() || asks {
        return None;
    }
    let claims = observe(frame, parsed, moment.wire, moment.from_inside);
    let contradicts = claims.iter().any(|claim| {
        let link = Link { wire: claim.wire, tags: claim.tags };
        let host = Holder { mac: claim.mac, inside: claim.inside };
        bindings.is_of_another(link, claim.address, host)
    });
    contradicts.then_some(DropReason::AddressConflict)
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

/// Whether the source in `headers`, with which a flow is opened, or ridden from other MAC addresses, by
/// a host on this side, is bound to another host.
pub(super) fn is_spoofed(
    in_tunnel: bool,
    headers: &Headers,
    inside: bool,
    moment: &Moment<'_>,
) -> bool {
    let bindings = moment.snapshot.content.policy.bindings();
    if bindings.holds_nobody() || in_tunnel {
        return false;
    }
    let address = match headers.ether_type {
        ETHER_IPV4 => IpAddr::V4(Ipv4Addr::from(headers.src as u32)),
        ETHER_IPV6 => IpAddr::V6(Ipv6Addr::from(headers.src)),
        _ => return false,
    };
    let link = Link { wire: headers.wire, tags: headers.tags };
    bindings.is_of_another(link, address, Holder { mac: headers.src_mac, inside })
}
