//! Copies of a capture's frames as a gateway's records have them: the first payload of each direction
//! of a flow, and what hosts announce.

use std::collections::HashSet;

use bulkhead_pipeline::parse::{Kind, Parsed};
use bulkhead_pipeline::port::capture::{self, Settled};
use bulkhead_rules::headers::Headers;

use crate::flow_stream::{Frame, FrameKind, Side};

/// Directions of flows whose first payload was seen, and frames, that are kept for one capture.
const MAX_DIRECTIONS: usize = 1 << 20;
const MAX_FRAMES: usize = 1 << 20;

/// Bytes that are kept of a first payload's frame, and of an announcement.
const PAYLOAD_BYTES: usize = 256;
const ANNOUNCEMENT_BYTES: usize = 1514;

/// Ports at which hosts announce: DNS answers, DHCP, NetBIOS names, mDNS, LLMNR.
const ANNOUNCING: [u16; 6] = [53, 67, 68, 137, 5353, 5355];

const ETHER_LLDP: u16 = 0x88cc;

/// What was copied.
#[derive(Debug, Default)]
pub struct Copies {
    /// In the order of the capture.
    pub frames: Vec<Frame>,
    /// Frames that there was no room for.
    pub left_out: u64,
    wire: String,
    seen: HashSet<Headers>,
}

impl Copies {
    /// For a capture that counts as taken on this wire.
    pub fn new(wire: &str) -> Self {
        Self { wire: wire.to_owned(), ..Self::default() }
    }

    /// Looks at a frame.
    pub(super) fn note(&mut self, frame: &Settled<'_>, parsed: &Parsed) {
        let headers = &parsed.headers;
        let is_udp = headers.is_ip() && headers.protocol == 17;
        let announces =
            headers.ether_type == ETHER_LLDP || (is_udp && ANNOUNCING.contains(&headers.src_port));
        if announces {
            self.copy(frame, FrameKind::Announcement, ANNOUNCEMENT_BYTES);
        }
        if !self.has_payload(parsed, is_udp) || self.seen.len() >= MAX_DIRECTIONS {
            return;
        }
        let tuple =
            Headers { src_mac: Default::default(), dst_mac: Default::default(), ..*headers };
        if self.seen.insert(tuple) {
            self.copy(frame, FrameKind::FirstPayload, PAYLOAD_BYTES);
        }
    }

    fn has_payload(&self, parsed: &Parsed, is_udp: bool) -> bool {
        match parsed.kind {
            Kind::Tcp => parsed.tcp.payload_len > 0,
            Kind::LaterFragment => false,
            _ => is_udp && parsed.packet_end > parsed.upper_offset.saturating_add(8),
        }
    }

    fn copy(&mut self, frame: &Settled<'_>, kind: FrameKind, bytes: usize) {
        if self.frames.len() >= MAX_FRAMES {
            self.left_out += 1;
            return;
        }
        self.frames.push(Frame {
            kind,
            unix_ms: i64::try_from(frame.timestamp_ns / 1_000_000).unwrap_or(i64::MAX),
            wire: self.wire.clone(),
            from: match frame.side {
                capture::Side::Inside => Side::Inside,
                capture::Side::Outside => Side::Outside,
            },
            rule: None,
            reason: None,
            len: frame.original_len,
            bytes: frame.bytes[..frame.bytes.len().min(bytes)].to_vec(),
        });
    }
}
