//! IPv6 (RFC 8200) and its extension headers.

use bulkhead_rules::headers::protocol;

use super::{FragmentPlace, be16, be32, field};
use crate::verdict::DropReason;

pub(super) const HEADER_LEN: usize = 40;

/// The numbers of extension headers (IANA ipv6-parameters). AH and ESP are left out: both are
/// upper layers to the policy, in IPv4 and IPv6 alike, and what AH covers is judged as AH.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const NO_NEXT_HEADER: u8 = 59;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HIP: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// A header that passed all checks, and what it covers.
pub(super) struct Ipv6<'a> {
    fixed: &'a [u8; HEADER_LEN],
    /// What follows the header, up to the payload length.
    pub(super) payload: &'a [u8],
}

impl<'a> Ipv6<'a> {
    /// `bytes` start with the header and may run on after the packet.
    #[inline(always)]
    pub(super) fn new_checked(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let Some((fixed, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(DropReason::Ipv6Truncated);
        };
        if fixed[0] >> 4 != 6 {
            return Err(DropReason::Ipv6Version);
        }
        let payload_len = usize::from(be16(fixed, 4));
        if payload_len == 0 && fixed[6] != extension::NO_NEXT_HEADER {
            return Err(DropReason::Ipv6Jumbogram);
        }
        let Some(payload) = rest.get(..payload_len) else {
            return Err(DropReason::Ipv6Truncated);
        };
        let header = Self { fixed, payload };
        header.check_addresses()?;
        Ok(header)
    }

    #[inline(always)]
    pub(super) fn src(&self) -> u128 {
        address(self.fixed, 8)
    }

    #[inline(always)]
    pub(super) fn dst(&self) -> u128 {
        address(self.fixed, 24)
    }

    #[inline(always)]
    pub(super) fn next_header(&self) -> u8 {
        self.fixed[6]
    }

    #[inline(always)]
    pub(super) fn hop_limit(&self) -> u8 {
        self.fixed[7]
    }

    #[inline(always)]
    fn check_addresses(&self) -> Result<(), DropReason> {
        let (src, dst) = (self.src(), self.dst());
        let unusual = is_unusual(src) || is_unusual(dst);
        if src == dst || (unusual && !are_unusual_addresses_fit(src, dst)) {
            return Err(DropReason::Ipv6Address);
        }
        Ok(())
    }
}

/// Multicast; and loopback, unspecified and IPv4-mapped addresses, which begin with 64 zero bits.
#[inline(always)]
pub(super) fn is_unusual(addr: u128) -> bool {
    addr >> 64 == 0 || addr >> 120 == 0xff
}

/// The checks that the addresses of ordinary unicast packets cannot fail (RFC 4291 §2.5, §2.7).
/// A dual-stack host may take an IPv4-mapped address for IPv4, loopback included.
#[cold]
fn are_unusual_addresses_fit(src: u128, dst: u128) -> bool {
    let loopback = |addr: u128| addr == 1;
    let ipv4_mapped = |addr: u128| addr >> 32 == 0xffff;
    let is_group = |addr: u128| addr >> 120 == 0xff;
    // Scope 0 is reserved, 1 is within one interface.
    let unsendable_group = |addr: u128| is_group(addr) && (addr >> 112) & 0xf < 2;
    !(is_group(src) || loopback(src) || ipv4_mapped(src))
        && !(dst == 0 || loopback(dst) || ipv4_mapped(dst) || unsendable_group(dst))
}

#[inline(always)]
pub(super) fn address(fixed: &[u8; HEADER_LEN], at: usize) -> u128 {
    u128::from_be_bytes(field(fixed, at))
}

/// The end of a chain of extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chain {
    /// The upper-layer protocol; in a later fragment the Next Header of its fragment header.
    pub(super) protocol: u8,
    /// Bytes of the chain: the upper layer, or the fragment's data, starts there.
    pub(super) len: usize,
    /// Set where the packet is a fragment, but not an atomic one.
    pub(super) fragment: Option<FragmentPlace>,
    /// Whether there is a fragment header, of an atomic fragment too.
    pub(super) has_fragment_header: bool,
}

impl Chain {
    /// Follows the chain that begins with header `first` at the start of `payload`.
    ///
    /// The order that RFC 8200 §4.1 recommends is not enforced beyond this: hop-by-hop options come
    /// first, no header comes twice, destination options at most twice. A chain that ends with
    /// "no next header" right after a mobility, HIP or shim6 header is of that header's protocol:
    /// so a rule can name it.
    pub(super) fn follow(first: u8, payload: &[u8]) -> Result<Self, DropReason> {
        Self::follow_to(first, payload, false)
    }

    /// `quoted` says that the payload ends where the quotation does, not where the packet did.
    fn follow_to(first: u8, payload: &[u8], quoted: bool) -> Result<Self, DropReason> {
        use extension::{
            DESTINATION_OPTIONS, FRAGMENT, HIP, HOP_BY_HOP, MOBILITY, NO_NEXT_HEADER, ROUTING,
            SHIM6,
        };
        let mut chain =
            Self { protocol: first, len: 0, fragment: None, has_fragment_header: false };
        let mut seen = Seen::default();
        let mut previous = first;
        loop {
            let number = chain.protocol;
            // A first fragment must hold the whole chain (RFC 7112).
            let short = match chain.fragment {
                Some(_) => DropReason::FragmentTiny,
                None => DropReason::Ipv6ExtensionHeader,
            };
            let rest = payload.get(chain.len..).unwrap_or_default();
            match number {
                HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING | MOBILITY | HIP | SHIM6 => {
                    if number == HOP_BY_HOP && chain.len > 0 {
                        return Err(DropReason::Ipv6ExtensionHeader);
                    }
                    seen.note(number)?;
                    let [next, len, ..] = *rest else { return Err(short) };
                    let len = (usize::from(len) + 1) * 8;
                    let header = rest.get(..len).ok_or(short)?;
                    match number {
                        HOP_BY_HOP | DESTINATION_OPTIONS => check_options(number, &header[2..])?,
                        ROUTING => check_routing(header[2], header[3])?,
                        _ => {}
                    }
                    chain.protocol = next;
                    chain.len += len;
                }
                FRAGMENT => {
                    seen.note(number)?;
                    let Some((header, data)) = rest.split_first_chunk::<8>() else {
                        return Err(short);
                    };
                    chain.has_fragment_header = true;
                    chain.protocol = header[0];
                    let field = be16(header, 2);
                    let place = FragmentPlace {
                        id: be32(header, 4),
                        offset: field & 0xfff8,
                        len: data.len() as u16,
                        more: field & 1 == 1,
                    };
                    if place.offset > 0 || place.more {
                        if !quoted {
                            place.check(chain.len, header[0] == protocol::TCP)?;
                        }
                        chain.fragment = Some(place);
                    }
                    chain.len += header.len();
                    if place.offset > 0 {
                        return Ok(chain);
                    }
                }
                NO_NEXT_HEADER if matches!(previous, MOBILITY | HIP | SHIM6) => {
                    chain.protocol = previous;
                    return Ok(chain);
                }
                _ => return Ok(chain),
            }
            previous = number;
        }
    }
}

/// Source, destination, protocol and upper layer of a quoted packet.
pub(super) fn parse_quoted(bytes: &[u8]) -> Result<(u128, u128, u8, &[u8]), DropReason> {
    let quotation = || {
        let (fixed, payload) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let chain = Chain::follow_to(fixed[6], payload, true).ok()?;
        let first = chain.fragment.is_none_or(|place| place.offset == 0);
        let upper = payload.get(chain.len..)?;
        (fixed[0] >> 4 == 6 && first)
            .then(|| (address(fixed, 8), address(fixed, 24), chain.protocol, upper))
    };
    quotation().ok_or(DropReason::IcmpMalformed)
}

/// Which extension headers a chain has shown; bounds its length, too.
#[derive(Default)]
struct Seen {
    once: u8,
    destination_options: u8,
}

impl Seen {
    fn note(&mut self, number: u8) -> Result<(), DropReason> {
        let bit = match number {
            extension::HOP_BY_HOP => 1,
            extension::ROUTING => 2,
            extension::FRAGMENT => 4,
            extension::MOBILITY => 8,
            extension::HIP => 16,
            extension::SHIM6 => 32,
            _ => {
                self.destination_options += 1;
                return match self.destination_options {
                    1 | 2 => Ok(()),
                    _ => Err(DropReason::Ipv6ExtensionHeader),
                };
            }
        };
        if self.once & bit != 0 {
            return Err(DropReason::Ipv6ExtensionHeader);
        }
        self.once |= bit;
        Ok(())
    }
}

/// The options' lengths, no jumbo payload, and no home address: with it a mobile node's peer takes
/// the packet to come from another address than the one that was judged (RFC 6275 §6.3).
fn check_options(number: u8, options: &[u8]) -> Result<(), DropReason> {
    const PAD_1: u8 = 0;
    const JUMBO_PAYLOAD: u8 = 0xc2;
    const HOME_ADDRESS: u8 = 0xc9;
    let mut rest = options;
    loop {
        match *rest {
            [] => return Ok(()),
            [PAD_1, ..] => rest = &rest[1..],
            [JUMBO_PAYLOAD, ..] if number == extension::HOP_BY_HOP => {
                return Err(DropReason::Ipv6Jumbogram);
            }
            [HOME_ADDRESS, ..] => return Err(DropReason::Ipv6Address),
            [_, len, ..] => {
                rest = rest.get(2 + usize::from(len)..).ok_or(DropReason::Ipv6ExtensionHeader)?;
            }
            [_] => return Err(DropReason::Ipv6ExtensionHeader),
        }
    }
}

/// Types 0 and 1 are deprecated (RFC 5095, RFC 8200). The others pass once no segment is left:
/// before that the packet goes on to hosts that its destination address does not name.
fn check_routing(routing_type: u8, segments_left: u8) -> Result<(), DropReason> {
    match (routing_type, segments_left) {
        (2.., 0) => Ok(()),
        _ => Err(DropReason::Ipv6RoutingHeader),
    }
}
