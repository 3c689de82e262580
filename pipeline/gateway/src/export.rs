//! What the gateway tells about flows, for other programs: JSON lines, IPFIX, and a ring of capture
//! files with what was denied.
//!
//! All of it runs in the process that keeps the records, never in the one that owns the ports. A sink
//! that cannot write (a full disk, a collector that is away) loses what it was given, counts it, says
//! so once a minute, and goes on; the others notice nothing.

use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::warn;

use crate::config::Export as ExportConfig;
use crate::flow_stream::Message;

pub mod community_id;
mod files;
mod ipfix;
mod json;
pub(crate) mod pcapng;

pub use files::FileRing;
pub use ipfix::{Collector, Transport};
use json::JsonLines;
use pcapng::Evidence;

/// How often at most a sink says that it loses.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// A sink of messages.
trait Sink {
    /// What it is, for people.
    fn name(&self) -> String;

    /// Takes a message in, or leaves it out where it is none of the sink's.
    fn write(&mut self, message: &Message);

    /// Lets go of what waits, where it is time. Called at least once a second.
    fn tend(&mut self, now: Instant);

    /// What became of messages so far, and why the last one was lost.
    fn counts(&self) -> (SinkCounts, Option<String>);
}

/// What became of the messages of a sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SinkCounts {
    /// Records that were written or sent.
    pub written: u64,
    /// Records that were not.
    pub lost: u64,
}

/// Every sink of a configuration.
#[derive(Default)]
pub struct Exports {
    sinks: Vec<Told>,
}

/// A sink, and what was said of it last.
struct Told {
    sink: Box<dyn Sink>,
    lost: u64,
    at: Option<Instant>,
}

impl Exports {
    /// The sinks of a configuration. Nothing is opened or connected before there is something to write.
    pub fn new(config: &ExportConfig) -> Self {
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(json) = &config.json {
            sinks.push(Box::new(JsonLines::new(json)));
        }
        for collector in &config.ipfix {
            sinks.push(Box::new(ipfix::Exporter::new(*collector, config.ipfix_domain)));
        }
        if let Some(evidence) = &config.evidence {
            sinks.push(Box::new(Evidence::new(evidence)));
        }
        let told = |sink| Told { sink, lost: 0, at: None };
        Self { sinks: sinks.into_iter().map(told).collect() }
    }

    /// Hands a message to every sink. Waits for nobody.
    pub fn write(&mut self, message: &Message) {
        self.sinks.iter_mut().for_each(|told| told.sink.write(message));
    }

    /// Writes and sends what waits. To be called about once a second, and at the end.
    pub fn tend(&mut self, now: Instant) {
        for told in &mut self.sinks {
            told.sink.tend(now);
            let (counts, why) = told.sink.counts();
            let is_time = told.at.is_none_or(|at| now.duration_since(at) >= TELL_INTERVAL);
            if counts.lost > told.lost && is_time {
                let lost = counts.lost - told.lost;
                warn!(
                    sink = told.sink.name(),
                    "{lost} records were lost: {}",
                    why.as_deref().unwrap_or("no reason is known")
                );
                (told.lost, told.at) = (counts.lost, Some(now));
            }
        }
    }

    /// What became of the messages of every sink, by its name.
    pub fn counts(&self) -> Vec<(String, SinkCounts)> {
        self.sinks.iter().map(|told| (told.sink.name(), told.sink.counts().0)).collect()
    }
}

#[cfg(test)]
mod tests;
