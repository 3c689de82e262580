//! Flow records as JSON, one a line, each with its Community ID.

use std::time::Instant;

use serde::Serialize;

use super::files::{FileRing, Files};
use super::{Sink, SinkCounts, community_id};
use crate::flow_stream::{Flow, Lost, Message};

/// See the module's description.
pub(super) struct JsonLines(Files);

/// One line.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Line<'a> {
    Flow {
        #[serde(flatten)]
        flow: &'a Flow,
        #[serde(rename = "community-id", skip_serializing_if = "Option::is_none")]
        community_id: Option<String>,
    },
    Lost(&'a Lost),
}

impl JsonLines {
    /// Lines in files that are called `flows`.
    pub(super) fn new(ring: &FileRing) -> Self {
        Self(Files::new(ring, "flows", "json").compressed())
    }
}

impl Sink for JsonLines {
    fn name(&self) -> String {
        format!("json {}", self.0.folder().display())
    }

    fn write(&mut self, message: &Message) {
        let line = match message {
            Message::Flow(flow) => Line::Flow { flow, community_id: community_id_of(flow) },
            Message::Lost(lost) => Line::Lost(lost),
            Message::Hello(_) | Message::Frame(_) => return,
        };
        let buffer = self.0.buffer();
        // Writing plain data into memory does not fail.
        if serde_json::to_writer(&mut *buffer, &line).is_ok() {
            buffer.push(b'\n');
            self.0.appended();
        }
    }

    fn tend(&mut self, now: Instant) {
        self.0.tend(now);
    }

    fn counts(&self) -> (SinkCounts, Option<String>) {
        self.0.counts()
    }
}

fn community_id_of(flow: &Flow) -> Option<String> {
    let client = (flow.client?, flow.client_port);
    community_id::of(flow.protocol, client, (flow.server?, flow.server_port))
}
