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

const HEADER_LEN: usize = 14;
const TAG_LEN: usize = 4;
const SNAP_LEN: u16 = 8;

/// Fills in the addresses, the tags, the EtherType after all tags and SNAP (0 for 802.2 LLC without
/// SNAP), the network layer's offset, and the kind of link-local control. Returns the network layer,
/// up to the end of the frame or what its 802.3 length covers.
#[inline(always)]
pub(super) fn parse<'a>(frame: &'a [u8], out: &mut Parsed) -> Result<&'a [u8], DropReason> {
    let Some((header, mut rest)) = frame.split_first_chunk::<HEADER_LEN>() else {
        return Err(DropReason::EthernetTooShort);
    };
    out.headers.dst_mac = Mac(field(header, 0));
    out.headers.src_mac = Mac(field(header, 6));
    if header[6] & 1 == 1 {
        return Err(DropReason::EthernetSourceGroup);
    }
    let mut ether_type = be16(header, 12);
    out.network_offset = HEADER_LEN as u16;
    if is_tag(ether_type) {
        (ether_type, rest) = strip_tags(rest, out)?;
    }
    if ether_type < MIN_ETHER_TYPE || is_reserved_group(header) {
        (ether_type, rest) = finish_unusual(ether_type, rest, out)?;
    }
    out.headers.ether_type = ether_type;
    Ok(rest)
}

/// Steps over one or two VLAN tags; `rest` follows the first one's TPID. A priority tag (VID 0)
/// counts as none, so that the inner tag of a frame whose outer one is a priority tag is its only
/// one: that is how hosts read it.
#[inline(always)]
fn strip_tags<'a>(rest: &'a [u8], out: &mut Parsed) -> Result<(u16, &'a [u8]), DropReason> {
    let (vid, ether_type, rest) = strip_tag(rest)?;
    out.headers.tags.outer = vid;
    out.network_offset += TAG_LEN as u16;
    if is_tag(ether_type) { strip_inner_tag(rest, out) } else { Ok((ether_type, rest)) }
}

fn strip_inner_tag<'a>(rest: &'a [u8], out: &mut Parsed) -> Result<(u16, &'a [u8]), DropReason> {
    let (vid, ether_type, rest) = strip_tag(rest)?;
    match out.headers.tags.outer {
        0 => out.headers.tags.outer = vid,
        _ => out.headers.tags.inner = vid,
    }
    out.network_offset += TAG_LEN as u16;
    if is_tag(ether_type) { Err(DropReason::VlanTooDeep) } else { Ok((ether_type, rest)) }
}

#[inline(always)]
fn strip_tag(rest: &[u8]) -> Result<(u16, u16, &[u8]), DropReason> {
    let Some((tag, rest)) = rest.split_first_chunk::<TAG_LEN>() else {
        return Err(DropReason::VlanTruncated);
    };
    match be16(tag, 0) & 0x0fff {
        0x0fff => Err(DropReason::VlanReserved),
        vid => Ok((vid, be16(tag, 2), rest)),
    }
}

/// LLC, SNAP, and frames to a reserved bridge group address.
#[cold]
fn finish_unusual<'a>(
    ether_type: u16,
    rest: &'a [u8],
    out: &mut Parsed,
) -> Result<(u16, &'a [u8]), DropReason> {
    let Mac([.., group]) = out.headers.dst_mac;
    let reserved = is_reserved_group(&out.headers.dst_mac.0);
    let untagged = out.headers.tags == VlanTags::UNTAGGED;
    let (mut ether_type, mut rest) = (ether_type, rest);
    if ether_type < MIN_ETHER_TYPE {
        let unknown = if reserved { DropReason::LinkLocalUnknown } else { DropReason::LlcUnknown };
        rest = enter_llc(ether_type, rest)?;
        match *rest {
            // Spanning tree of customer and provider bridges: DSAP and SSAP 0x42, unnumbered
            // information (802.1D §9).
            [0x42, 0x42, 0x03, ..] if reserved && untagged && matches!(group, 0x00 | 0x08) => {
                out.kind = Kind::LinkControl;
                return Ok((0, rest));
            }
            // Cisco's spanning tree per VLAN, in SNAP of its OUI: tagged on trunks.
            [0xaa, 0xaa, 0x03, 0, 0, 0x0c, 0x01, 0x0b, ..] if out.headers.dst_mac == PVST_GROUP => {
                out.kind = Kind::LinkControl;
                return Ok((0, rest));
            }
            // SNAP of the OUI under which the protocol identifier is an EtherType (RFC 1042).
            [0xaa, 0xaa, 0x03, 0, 0, 0, high, low, ref content @ ..] => {
                (ether_type, rest) = (u16::from_be_bytes([high, low]), content);
                out.network_offset += SNAP_LEN;
            }
            _ => return Err(unknown),
        }
        // A tag within SNAP has no receiver that reads it as one.
        if ether_type < MIN_ETHER_TYPE || is_tag(ether_type) {
            return Err(unknown);
        }
    }
    match ether_type {
        ETHER_LLDP if reserved && untagged && matches!(group, 0x00 | 0x03 | 0x0e) => {
            out.kind = Kind::LinkControl;
        }
        ETHER_SLOW if reserved => match rest.first() {
            // LACP and the marker protocol (802.1AX); OAM and the rest end at their link.
            Some(1 | 2) if untagged && group == 0x02 => out.kind = Kind::LinkControl,
            _ => return Err(DropReason::LinkLocalUnknown),
        },
        // What else has an EtherType (port authentication, PTP, PROFINET's line delay) is for the
        // policy, whose rules can name it.
        _ => {}
    }
    Ok((ether_type, rest))
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
fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8 | 0x9100)
}

/// Whether the address with which the bytes begin is one of 01:80:c2:00:00:00 to 0f, which no bridge
/// forwards (802.1Q §8.6.3).
#[inline(always)]
fn is_reserved_group<const N: usize>(bytes: &[u8; N]) -> bool {
    let [high, low] = [be16(bytes, 0), be16(bytes, 4)];
    high == 0x0180 && be16(bytes, 2) == 0xc200 && low < 0x0010
}
