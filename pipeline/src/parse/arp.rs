//! ARP (RFC 826), as far as a bridge should let it pass.

use bulkhead_rules::headers::Mac;

use super::be16;
use crate::verdict::DropReason;

const PACKET_LEN: usize = 28;

/// The guard: Ethernet to IPv4, a request or a reply, from the host that sends the frame. Probes
/// (sender 0.0.0.0) and gratuitous announcements (RFC 5227) pass.
pub(super) fn check(packet: &[u8], src_mac: Mac) -> Result<(), DropReason> {
    let packet = packet.first_chunk::<PACKET_LEN>().ok_or(DropReason::ArpMalformed)?;
    // Hardware type 6 is Ethernet too, under LLC (RFC 1042), and hosts take it for the same.
    let ethernet_to_ipv4 = matches!(packet[..6], [0, 1 | 6, 0x08, 0x00, 6, 4]);
    if !ethernet_to_ipv4 || !matches!(be16(packet, 6), 1 | 2) {
        return Err(DropReason::ArpMalformed);
    }
    // The frame's source is no group address, so equality excludes groups here too.
    if packet[8..14] != src_mac.0 {
        return Err(DropReason::ArpSpoofed);
    }
    let sender = packet[14];
    if sender == 127 || sender >= 224 {
        return Err(DropReason::ArpSpoofed);
    }
    Ok(())
}
