//! `bulkhead trace`: single packets through every stage, while somebody watches.
//!
//! One line goes in over the control socket, `{"command":"trace","filter":"tcp 10.20.0.11 <-> any:502",
//! "count":20,"seconds":60}`, and lines come back until the trace is over: `{"trace":{"began":…}}`, a
//! `{"trace":{"packet":…}}` for each packet ([`TracedPacket`]), `{"trace":{"later":…}}` for one that had
//! to wait, and `{"trace":{"ended":…}}`. Whoever closes the connection ends the trace.
//!
//! There is one at a time; packets, time and bytes are bounded, and what the bounded rings have no room
//! for is counted. Without `payload-bytes` nothing beyond the headers leaves a worker. Each trace is
//! entered in the audit log; one with payload does not begin unless it can be.
//!
//! [`words`] reads filters, [`story`] puts names to what workers tell, [`server`] is the gateway's end,
//! [`command`] the other.

use serde::{Deserialize, Serialize};

pub mod capture;
pub mod command;
pub mod server;
pub mod story;
pub mod words;

pub use self::story::{StageTold, TracedPacket};

/// Packets where nothing else is asked for, and at most.
pub const COUNT: u64 = 20;
/// The most packets of one trace.
pub const MAX_COUNT: u64 = 100_000;
/// Seconds where nothing else is asked for.
pub const SECONDS: u32 = 60;
/// The most seconds of one trace.
pub const MAX_SECONDS: u32 = 3_600;
/// The most bytes of lines that one trace sends.
pub const MAX_BYTES: u64 = 64 << 20;
/// The most bytes of a packet that a trace copies.
pub const MAX_PAYLOAD_BYTES: u32 = 65_535;

/// What a trace is asked to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TraceOrder {
    /// Which packets, in words: see [`words`].
    pub filter: String,
    /// How many packets at most, to 100,000.
    #[serde(default = "count")]
    pub count: u64,
    /// For how many seconds at most, to 3,600.
    #[serde(default = "seconds")]
    pub seconds: u32,
    /// How many bytes of each packet are copied; without it, the headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u32>,
    /// Why, for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The console's user who asks; believed of the console alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
}

fn count() -> u64 {
    COUNT
}

fn seconds() -> u32 {
    SECONDS
}

/// A line of a trace.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TraceMessage {
    /// Workers follow packets from now on.
    Began(TraceBegan),
    /// A packet went through a worker.
    Packet(Box<TracedPacket>),
    /// What became of a packet that waited in a transmit queue.
    Later(TracedLater),
    /// Nothing more comes.
    Ended(TraceEnded),
}

/// What is followed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceBegan {
    /// The filter as it was understood.
    pub filter: String,
    /// Packets at most.
    pub count: u64,
    /// Seconds at most.
    pub seconds: u32,
    /// Bytes of each packet that are copied; absent where it is the headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u32>,
    /// Workers that follow.
    pub workers: usize,
}

/// What became of a packet that waited in a transmit queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TracedLater {
    /// The packet's name in this trace.
    pub id: String,
    /// `sent` or `not-sent`.
    pub fate: String,
    /// Why it was not sent: a label of the drop reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a trace ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TraceEnded {
    /// `count`, `seconds`, `bytes`, or `stopping` where the gateway stops.
    pub why: String,
    /// Packets that were told.
    pub packets: u64,
    /// Packets that matched, over all workers, so far as they looked.
    pub matched: u64,
    /// Steps that found a ring full: the workers did not wait for this trace.
    pub lost: u64,
    /// Milliseconds that it took.
    pub took_ms: u64,
}
