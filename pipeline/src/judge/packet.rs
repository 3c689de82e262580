//! A packet that is judged by flow, and what its segment does to a connection.

use bulkhead_rules::headers::protocol;

use crate::conntrack::evidence::{has_few_hops, is_checksum_right};
use crate::conntrack::{Direction, Outcome, flag};
use crate::flow_table::FlowEntry;
use crate::parse::{Origin, Parsed};
use crate::record::is_announcement;
use crate::verdict::DropReason;

/// A packet that is judged by flow.
#[derive(Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) place: usize,
    pub(super) bytes: &'a [u8],
    pub(super) parsed: &'a Parsed,
    pub(super) origin: Origin,
}

impl Packet<'_> {
    /// Judges a TCP segment of a known flow. It moves the state on only if its receiver will get it,
    /// and take it: see [`crate::conntrack::evidence`].
    pub(super) fn move_on(
        &self,
        entry: &mut FlowEntry,
        direction: Direction,
    ) -> Result<Outcome, DropReason> {
        let before = *entry.connection();
        let mut after = before;
        if self.parsed.fragment.is_some() {
            after.set_liberal();
        }
        let outcome = after.update(direction, &self.parsed.tcp)?;
        let is_in_flow = matches!(outcome, Outcome::InState | Outcome::Tolerated);
        if is_in_flow && after == before {
            return Ok(outcome);
        }
        if !self.is_taken() {
            return Err(DropReason::TcpChecksum);
        }
        let few_hops = !entry.expects_few_hops() && has_few_hops(self.bytes, self.parsed);
        // Who acknowledges the number of a SYN has seen it, and is just so near.
        let is_near = before.is_half_open() && self.parsed.tcp.flags & flag::ACK != 0;
        match outcome {
            // The policy judges it.
            _ if !few_hops || is_near || outcome == Outcome::Reopen => {}
            Outcome::OpensBack | Outcome::Turned => return Err(DropReason::TcpState),
            _ => return Ok(Outcome::Tolerated),
        }
        *entry.connection_mut() = after;
        if few_hops {
            entry.expect_few_hops();
        }
        Ok(outcome)
    }

    /// Whether it is worth a copy, as a packet of the watched flow of `entry`.
    pub(super) fn is_wanted_of(&self, entry: &mut FlowEntry, direction: Direction) -> bool {
        entry.is_wanted(direction, self.has_payload(), || is_announcement(&self.parsed.headers))
    }

    /// Whether it carries anything for an application.
    fn has_payload(&self) -> bool {
        const UDP_HEADER_LEN: u16 = 8;
        let Parsed { headers, upper_offset, packet_end, tcp, .. } = self.parsed;
        match headers.protocol {
            _ if !headers.is_ip() => true,
            protocol::TCP => tcp.payload_len > 0,
            protocol::UDP => *packet_end > upper_offset.saturating_add(UDP_HEADER_LEN),
            _ => packet_end > upper_offset,
        }
    }

    /// Whether the receiver of a TCP segment will take it. A fragment does not show its checksum, and
    /// no stack sends SYN or RST in one.
    pub(super) fn is_taken(&self) -> bool {
        match self.parsed.fragment {
            Some(_) => self.parsed.tcp.flags & (flag::SYN | flag::RST) == 0,
            // A capture may have been taken before the sender's NIC filled the checksum in.
            None => self.origin == Origin::Capture || is_checksum_right(self.bytes, self.parsed),
        }
    }
}
