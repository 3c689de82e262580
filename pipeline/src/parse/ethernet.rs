//! The link layer: Ethernet II, 802.3 with LLC and SNAP, VLAN tags, link-local control.

use bulkhead_rules::headers::{Mac, VlanTags};

use super::{Kind, Parsed, be16, field};
use crate::verdict::DropReason;

pub(super) const ETHER_PAUSE: u16 = 0x8808;
const ETHER_SLOW: u16 = 0x8809;
const ETHER_LLDP: u16 = 0x88cc;

/// The smallest EtherType; up to 1,500 the field is an 802.3 length, and between them nothing.
const MIN_ETHER_TYPE: u16 = 0x0600;
const MAX_LLC_LEN: u16 = 1500;

const PVST_GROUP: Mac = Mac([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd]);

/// Bytes of a VLAN tag: its TCI and the EtherType within.
pub(super) const TAG_LEN: usize = 4;
const MAX_VID: u16 = 0x0fff;
const SNAP_LEN: usize = 8;

/// The bytes of an Ethernet header before its EtherType or length is known to be one.
pub(super) const HEADER_LEN: usize = 14;

/// Fills in the addresses. Returns what stands where an EtherType does, and what follows it.
#[inline(always)]
pub(super) fn parse<'a>(frame: &'a [u8], out: &mut Parsed) -> Result<(u16, &'a [u8]), DropReason> {
    let Some((header, packet)) = frame.split_first_chunk::<HEADER_LEN>() else {
        return Err(DropReason::EthernetTooShort);
    };
    out.headers.dst_mac = Mac(field(header, 0));
    out.headers.src_mac = Mac(field(header, 6));
    if header[6] & 1 == 1 {
        return Err(DropReason::EthernetSourceGroup);
    }
    Ok((be16(header, 12), packet))
}

/// Fills in the VLAN identifier of the outer tag, whose TPID precedes `packet`. Returns what stands
/// where an EtherType does, and what follows it.
#[inline(always)]
pub(super) fn strip_outer_tag<'a>(
    packet: &'a [u8],
    out: &mut Parsed,
) -> Result<(u16, &'a [u8]), DropReason> {
    let Some((tag, inner)) = packet.split_first_chunk::<TAG_LEN>() else {
        return Err(DropReason::VlanTruncated);
    };
    out.headers.tags.outer = be16(tag, 0) & MAX_VID;
    if out.headers.tags.outer == MAX_VID {
        return Err(DropReason::VlanReserved);
    }
    Ok((be16(tag, 2), inner))
}

/// Does the same for the inner tag. A priority tag (VID 0) counts as none, so that the inner tag of a
/// frame whose outer one is a priority tag is its only one: that is how hosts read it.
pub(super) fn strip_inner_tag<'a>(
    packet: &'a [u8],
    out: &mut Parsed,
) -> Result<(u16, &'a [u8]), DropReason> {
    let outer = out.headers.tags.outer;
    let (ether_type, inner) = strip_outer_tag(packet, out)?;
    if is_tag(ether_type) {
        return Err(DropReason::VlanTooDeep);
    }
    if outer != 0 {
        out.headers.tags = VlanTags { outer, inner: out.headers.tags.outer };
    }
    Ok((ether_type, inner))
}

/// What follows the link layer.
#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    /// What `packet` is; of 802.2 LLC without SNAP the DSAP, and 0 for spanning tree.
    pub(super) ether_type: u16,
    /// Where in the frame `packet` starts.
    pub(super) offset: usize,
    /// Up to the end of the frame, or of what its 802.3 length covers.
    pub(super) packet: &'a [u8],
}

/// What is not IP in Ethernet II: enters LLC and SNAP, and fills in the kind of link-local control.
pub(super) fn finish_other<'a>(
    mut link: Link<'a>,
    out: &mut Parsed,
) -> Result<Link<'a>, DropReason> {
    let Mac([.., group]) = out.headers.dst_mac;
    let reserved = is_reserved_group(out.headers.dst_mac);
    let untagged = out.headers.tags == VlanTags::UNTAGGED;
    if link.ether_type < MIN_ETHER_TYPE {
        let unknown = if reserved { DropReason::LinkLocalUnknown } else { DropReason::LlcUnknown };
        link.packet = enter_llc(link.ether_type, link.packet)?;
        match *link.packet {
            // Spanning tree of customer and provider bridges: DSAP and SSAP 0x42, unnumbered
            // information (802.1D §9).
            [0x42, 0x42, 0x03, ..] if reserved && untagged && matches!(group, 0x00 | 0x08) => {
                out.kind = Kind::LinkControl;
                return Ok(Link { ether_type: 0, ..link });
            }
            // Cisco's spanning tree per VLAN, in SNAP of its OUI: tagged on trunks.
            [0xaa, 0xaa, 0x03, 0, 0, 0x0c, 0x01, 0x0b, ..] if out.headers.dst_mac == PVST_GROUP => {
                out.kind = Kind::LinkControl;
                return Ok(Link { ether_type: 0, ..link });
            }
            // SNAP of the OUI under which the protocol identifier is an EtherType (RFC 1042).
            [0xaa, 0xaa, 0x03, 0, 0, 0, high, low, ref content @ ..] => {
                link = Link {
                    ether_type: u16::from_be_bytes([high, low]),
                    offset: link.offset + SNAP_LEN,
                    packet: content,
                };
            }
            // What other kinds of SNAP some receivers take for Ethernet, nobody may name as another.
            [0xaa, 0xaa, 0x03, 0, 0, 0xf8, ..] | [0 | 0x42, ..] => return Err(unknown),
            [0xaa, 0xaa, 0x03, 0, 0, 0, ..] => return Err(unknown),
            // A receiver goes by the DSAP; what is meant for a link alone ends there.
            [dsap, _, _, ..] if !reserved => {
                return Ok(Link { ether_type: u16::from(dsap), ..link });
            }
            _ => return Err(unknown),
        }
        // A tag within SNAP has no receiver that reads it as one.
        if link.ether_type < MIN_ETHER_TYPE || is_tag(link.ether_type) {
            return Err(unknown);
        }
    }
    match link.ether_type {
        ETHER_LLDP if reserved && untagged && matches!(group, 0x00 | 0x03 | 0x0e) => {
            out.kind = Kind::LinkControl;
        }
        ETHER_SLOW if reserved => match link.packet.first() {
            // LACP and the marker protocol (802.1AX); OAM and the rest end at their link.
            Some(1 | 2) if untagged && group == 0x02 => out.kind = Kind::LinkControl,
            _ => return Err(DropReason::LinkLocalUnknown),
        },
        // What else has an EtherType (port authentication, PTP, PROFINET's line delay) is for the
        // policy, whose rules can name it.
        _ => {}
    }
    Ok(link)
}

/// The LLC header and all that the 802.3 length covers.
fn enter_llc(len: u16, rest: &[u8]) -> Result<&[u8], DropReason> {
    match rest.get(..usize::from(len)) {
        Some(llc) if (3..=MAX_LLC_LEN).contains(&len) => Ok(llc),
        _ => Err(DropReason::LlcLength),
    }
}

/// C-VLAN (802.1Q), S-VLAN (802.1ad), and the S-VLAN of gear from before it.
#[inline(always)]
pub(super) fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8 | 0x9100)
}

/// 01:80:c2:00:00:00 to 0f, which no bridge forwards (802.1Q §8.6.3).
fn is_reserved_group(mac: Mac) -> bool {
    matches!(mac.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
}
