//! The link layer: Ethernet II, 802.3 with LLC and SNAP, VLAN tags, link-local control.

use bulkhead_rules::headers::{Mac, VlanTags};

use super::be16;
use crate::verdict::DropReason;

pub(super) const ETHER_PAUSE: u16 = 0x8808;
const ETHER_SLOW: u16 = 0x8809;
const ETHER_LLDP: u16 = 0x88cc;

/// The smallest EtherType; up to 1,500 the field is an 802.3 length, and between them nothing.
const MIN_ETHER_TYPE: u16 = 0x0600;
const MAX_LLC_LEN: u16 = 1500;

const PVST_GROUP: Mac = Mac([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd]);

const ADDRESSES_LEN: usize = 12;
const TAG_LEN: usize = 4;

/// What the link layer says of a frame.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) src_mac: Mac,
    pub(super) dst_mac: Mac,
    pub(super) tags: VlanTags,
    /// After all tags and SNAP; 0 for 802.2 LLC without SNAP.
    pub(super) ether_type: u16,
    /// Where the network layer starts and where it ends at the latest.
    pub(super) network: usize,
    pub(super) end: usize,
    /// STP, LACP or LLDP to the group address of its own: crosses untouched.
    pub(super) control: bool,
}

impl Link {
    #[inline(always)]
    pub(super) fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let Some(header) = frame.first_chunk::<14>() else {
            return Err(DropReason::EthernetTooShort);
        };
        let dst_mac = Mac([header[0], header[1], header[2], header[3], header[4], header[5]]);
        let src_mac = Mac([header[6], header[7], header[8], header[9], header[10], header[11]]);
        if src_mac.is_group() {
            return Err(DropReason::EthernetSourceGroup);
        }
        let mut link = Self {
            src_mac,
            dst_mac,
            tags: VlanTags::UNTAGGED,
            ether_type: be16(header, 12),
            network: header.len(),
            end: frame.len(),
            control: false,
        };
        if is_tag(link.ether_type) {
            link.strip_tags(frame)?;
        }
        if link.ether_type < MIN_ETHER_TYPE || is_reserved_group(dst_mac) {
            return link.finish_unusual(frame);
        }
        Ok(link)
    }

    /// Steps over one or two VLAN tags. A priority tag (VID 0) counts as none, so that the inner tag
    /// of a frame whose outer one is a priority tag is its only one: that is how hosts read it.
    #[inline]
    fn strip_tags(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let mut at = ADDRESSES_LEN;
        for _ in 0..2 {
            let Some(tag) = frame.get(at..).and_then(|rest| rest.first_chunk::<6>()) else {
                return Err(DropReason::VlanTruncated);
            };
            match be16(tag, 2) & 0x0fff {
                0 => {}
                0x0fff => return Err(DropReason::VlanReserved),
                vid if self.tags.outer == 0 => self.tags.outer = vid,
                vid => self.tags.inner = vid,
            }
            at += TAG_LEN;
            self.ether_type = be16(tag, 4);
            self.network = at + 2;
            if !is_tag(self.ether_type) {
                return Ok(());
            }
        }
        Err(DropReason::VlanTooDeep)
    }

    /// LLC, SNAP, and frames to a reserved bridge group address.
    #[cold]
    fn finish_unusual(mut self, frame: &[u8]) -> Result<Self, DropReason> {
        let reserved = is_reserved_group(self.dst_mac);
        let unknown = if reserved { DropReason::LinkLocalUnknown } else { DropReason::LlcUnknown };
        if self.ether_type < MIN_ETHER_TYPE {
            match *self.enter_llc(frame)? {
                // Spanning tree: DSAP and SSAP 0x42, unnumbered information (802.1D §9).
                [0x42, 0x42, 0x03, ..] if self.is_spanning_tree_group() => {
                    return Ok(self.into_control());
                }
                // Cisco's spanning tree per VLAN, in SNAP of its OUI: tagged on trunks.
                [0xaa, 0xaa, 0x03, 0, 0, 0x0c, 0x01, 0x0b, ..] if self.dst_mac == PVST_GROUP => {
                    return Ok(self.into_control());
                }
                // SNAP of the OUI under which the protocol identifier is an EtherType (RFC 1042).
                [0xaa, 0xaa, 0x03, 0, 0, 0, high, low, ..] => {
                    self.ether_type = u16::from_be_bytes([high, low]);
                    self.network += 8;
                }
                _ => return Err(unknown),
            }
            // A tag within SNAP has no receiver that reads it as one.
            if self.ether_type < MIN_ETHER_TYPE || is_tag(self.ether_type) {
                return Err(unknown);
            }
        }
        if !reserved {
            return Ok(self);
        }
        let untagged = self.tags == VlanTags::UNTAGGED;
        match (self.ether_type, self.dst_mac.0[5]) {
            (ETHER_LLDP, 0x00 | 0x03 | 0x0e) if untagged => Ok(self.into_control()),
            // LACP (1) and the marker protocol (2) of 802.1AX; OAM and the rest end at their link.
            (ETHER_SLOW, group) => match frame.get(self.network) {
                Some(1 | 2) if untagged && group == 0x02 => Ok(self.into_control()),
                _ => Err(DropReason::LinkLocalUnknown),
            },
            // What else has an EtherType (port authentication, PTP, PROFINET's line delay) is for
            // the policy, whose rules can name it.
            _ => Ok(self),
        }
    }

    fn into_control(self) -> Self {
        let ether_type = if self.ether_type < MIN_ETHER_TYPE { 0 } else { self.ether_type };
        Self { control: true, ether_type, ..self }
    }

    /// Customer bridges' and provider bridges' group, where the frame has no tag.
    fn is_spanning_tree_group(&self) -> bool {
        let number = self.dst_mac.0[5];
        is_reserved_group(self.dst_mac)
            && matches!(number, 0x00 | 0x08)
            && self.tags == VlanTags::UNTAGGED
    }

    /// The LLC header and all that its 802.3 length covers; narrows the frame to it.
    fn enter_llc<'a>(&mut self, frame: &'a [u8]) -> Result<&'a [u8], DropReason> {
        let len = self.ether_type;
        let end = self.network + usize::from(len);
        match frame.get(self.network..end) {
            Some(llc) if (3..=MAX_LLC_LEN).contains(&len) => {
                self.end = end;
                Ok(llc)
            }
            _ => Err(DropReason::LlcLength),
        }
    }
}

/// C-VLAN (802.1Q), S-VLAN (802.1ad), and the S-VLAN of gear from before it.
#[inline(always)]
fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8 | 0x9100)
}

/// 01:80:c2:00:00:00 to 0f, which no bridge forwards (802.1Q §8.6.3).
#[inline(always)]
fn is_reserved_group(mac: Mac) -> bool {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f]) >> 4 == 0x0180_c200_0000 >> 4
}
