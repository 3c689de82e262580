//! Defects planted on purpose, to see that the simulator finds each of them.
//!
//! None of them is in the gateway's code: they are made around it, so that it behaves as if they
//! were. A frame may show the gateway other bytes than it has (so that it "misreads" it); a port may
//! send what it was not given; the control thread may publish something else than the policy.

use std::collections::HashMap;
use std::fmt;

use bulkhead_pipeline::parse::parse;
use bulkhead_rules::headers::{PolicyTime, WireId, protocol};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::{Action, Policy};
use std::sync::Arc;

use super::port::{Place, SimFrame};
use super::reader::{What, read};

macro_rules! defects {
    ($($variant:ident, $name:literal, $help:literal;)*) => {
        /// What goes wrong.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Defect {
            $(#[doc = $help] $variant,)*
        }

        impl Defect {
            /// Every planted defect.
            pub const ALL: &'static [Defect] = &[$(Defect::$variant,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Defect::$variant => $name,)* }
            }

            /// What the gateway then does.
            pub fn help(self) -> &'static str {
                match self { $(Defect::$variant => $help,)* }
            }
        }
    };
}

defects! {
    UnparsedPasses, "unparsed-passes", "What the parser refuses is forwarded.";
    ReplyNeedsNoFlow, "reply-needs-no-flow", "What could be a reply of a permitted flow passes without one.";
    VlanNotInKey, "vlan-not-in-key", "The same addresses and ports in two VLANs are one flow.";
    AnyFragmentFollows, "any-fragment-follows", "A later fragment passes without its first one.";
    AnyErrorPasses, "any-error-passes", "An ICMP error passes whatever it quotes.";
    AnyResetCloses, "any-reset-closes", "A RST closes its connection whatever its sequence number.";
    EditNotNoticed, "edit-not-noticed", "Flows that an edit touches are not judged again.";
    ScheduleIgnored, "schedule-ignored", "Rules neither begin nor end at their times.";
    HalfReload, "half-reload", "A reload replaces the rules and leaves the compiled form.";
    ObserveForever, "observe-forever", "A wire that is to enforce goes on observing.";
    NeverExpires, "never-expires", "Flows are kept for a thousand times their timeouts.";
    EndsTooEarly, "ends-too-early", "Established connections end after a second of silence.";
    DropUncounted, "drop-uncounted", "Now and then a drop is not counted.";
    LostOnTheWay, "lost-on-the-way", "Now and then a frame is counted as sent and is not.";
    Altered, "altered", "Every IPv4 frame loses one hop, as behind a router.";
    WrongSide, "wrong-side", "Now and then a frame leaves by the port that it came in by.";
    Overtaking, "overtaking", "Bursts are sent last frame first.";
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tagged frame up to its IP header: the bytes of its tags.
type Tags = Vec<u8>;

/// A defect at work.
#[derive(Debug)]
pub(super) struct Sabotage {
    defect: Defect,
    /// What the control thread published last, and the time.
    pub(super) policy: Arc<Policy>,
    pub(super) at: PolicyTime,
    /// The tags in which each pair of ends was seen first.
    tags: HashMap<Vec<u8>, Tags>,
    /// The next number of each sender of TCP.
    next_seq: HashMap<Vec<u8>, u32>,
    sent: u64,
}

impl Sabotage {
    pub(super) fn new(defect: Defect, policy: Arc<Policy>, at: PolicyTime) -> Self {
        Self { defect, policy, at, tags: HashMap::new(), next_seq: HashMap::new(), sent: 0 }
    }

    /// What the worker is shown in place of a frame.
    pub(super) fn disguise(&mut self, place: Place, frame: &[u8]) -> Option<Vec<u8>> {
        let parsed = parse(frame, WireId(place.wire));
        let seen = read(frame, place.wire);
        match self.defect {
            Defect::UnparsedPasses if parsed.is_err() => always_forwarded(frame),
            Defect::AnyFragmentFollows if seen?.what == What::LaterFragment => {
                always_forwarded(frame)
            }
            Defect::AnyErrorPasses if matches!(seen?.what, What::Error { .. }) => {
                always_forwarded(frame)
            }
            Defect::ReplyNeedsNoFlow => {
                let seen = seen.filter(|seen| seen.piece.is_none() && !seen.is_bare_syn())?;
                let back = parsed.ok()?.headers.reversed();
                let rule = oracle::classify(&self.policy, &back, self.at);
                let has_ports = matches!(back.protocol, protocol::TCP | protocol::UDP);
                let is_reply =
                    self.policy.action(rule) == Action::Allow && has_ports && seen.headers.is_ip();
                if is_reply { always_forwarded(frame) } else { None }
            }
            Defect::VlanNotInKey => self.first_tags(frame, parsed.ok()?.network_offset.into()),
            Defect::AnyResetCloses => self.exact_reset(frame, place),
            _ => None,
        }
    }

    /// Frames about to be sent.
    pub(super) fn reorder(&self, frames: &mut [SimFrame]) {
        if self.defect == Defect::Overtaking {
            frames.reverse();
        }
    }

    /// What is done to a frame as it is sent; false where it is not sent at all.
    pub(super) fn send(&mut self, place: &mut Place, bytes: &mut [u8]) -> bool {
        self.sent += 1;
        match self.defect {
            Defect::LostOnTheWay => self.sent % 500 != 0,
            Defect::WrongSide => {
                place.inside ^= self.sent % 500 == 0;
                true
            }
            Defect::Altered => {
                if let Some(at) = parse(bytes, WireId(0)).ok().map(|p| p.network_offset.into()) {
                    lose_hop(bytes, at);
                }
                true
            }
            _ => true,
        }
    }

    /// The frame in the tags in which its ends were seen first.
    fn first_tags(&mut self, frame: &[u8], network: usize) -> Option<Vec<u8>> {
        let seen = read(frame, 0)?;
        let h = seen.headers;
        if seen.is_bare_syn() {
            return None;
        }
        let mut ends = [(h.src, h.src_port), (h.dst, h.dst_port)];
        ends.sort_unstable();
        let key = format!("{ends:?}{}", h.protocol).into_bytes();
        let own = frame.get(12..network.checked_sub(2)?)?.to_vec();
        let first = self.tags.entry(key).or_insert_with(|| own.clone());
        // The same length, or the counters of bytes would tell.
        (*first != own && first.len() == own.len()).then(|| {
            let mut shown = frame.to_vec();
            shown[12..12 + first.len()].copy_from_slice(first);
            shown
        })
    }

    /// A RST with the number that its receiver expects.
    fn exact_reset(&mut self, frame: &[u8], place: Place) -> Option<Vec<u8>> {
        let parsed = parse(frame, WireId(place.wire)).ok()?;
        let seen = read(frame, place.wire)?;
        let What::Tcp { flags, seq } = seen.what else { return None };
        let h = seen.headers;
        let sender = format!("{place:?}{:?}{}{}{}{}", h.tags, h.src, h.dst, h.src_port, h.dst_port);
        if flags & 0x04 == 0 {
            let control = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
            let end = seq.wrapping_add(u32::from(parsed.tcp.payload_len)).wrapping_add(control);
            let next = self.next_seq.entry(sender.into_bytes()).or_insert(end);
            // What is far off is no news of the sender's.
            if end.wrapping_sub(*next) < 1 << 20 {
                *next = end;
            }
            return None;
        }
        let next = *self.next_seq.get(sender.as_bytes())?;
        let mut shown = frame.to_vec();
        let at = usize::from(parsed.upper_offset);
        replace(&mut shown, at + 4, at + 16, next.to_be_bytes());
        Some(shown)
    }
}

/// A frame of the same length that crosses every wire: LLDP.
fn always_forwarded(frame: &[u8]) -> Option<Vec<u8>> {
    let mut shown = vec![0; frame.len()];
    shown.get_mut(..6)?.copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 0x0e]);
    shown.get_mut(6..12)?.copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    shown.get_mut(12..14)?.copy_from_slice(&[0x88, 0xcc]);
    Some(shown)
}

fn lose_hop(bytes: &mut [u8], at: usize) {
    if bytes.get(at).is_some_and(|first| first >> 4 == 4) && bytes.len() >= at + 20 {
        let hop = [bytes[at + 8].wrapping_sub(1), bytes[at + 9]];
        replace(bytes, at + 8, at + 10, hop);
    }
}

/// Writes `new` at an even place and brings the checksum up to date (RFC 1624).
fn replace<const N: usize>(bytes: &mut [u8], at: usize, checksum_at: usize, new: [u8; N]) {
    let word = |bytes: &[u8], at: usize| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let mut sum = u32::from(!(word(bytes, checksum_at) as u16));
    for (nth, pair) in new.chunks_exact(2).enumerate() {
        sum += u32::from(!(word(bytes, at + 2 * nth) as u16)) + word(pair, 0);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[at..at + N].copy_from_slice(&new);
    bytes[checksum_at..checksum_at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
