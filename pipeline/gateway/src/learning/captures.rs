//! The communication store from captures instead of a gateway: each goes through a worker that
//! observes, as `bulkhead replay` sends it, and what the worker tells is kept as a gateway's would be.
//!
//! Captures are short. What a gateway sees in hours is looked at in periods of a twenty-fourth of
//! the captures' time, so that an edge still has to come back to be learnt.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_pipeline::port::capture::CaptureReader;
use bulkhead_pipeline::snapshot::Mode;
use bulkhead_rules::compile;
use bulkhead_rules::headers::WireId;
use bulkhead_rules::policy::Policy;
use serde::Serialize;

use super::database::{Database, Retention};
use super::ingest::{Ingest, Limits};
use super::report::Refusal;
use crate::flow_stream::Message;
use crate::records;
use crate::replay::copies::Copies;
use crate::replay::engine::{Engine, Outputs, Stopped};
use crate::replay::inputs;
use crate::replay::sides::Inside;

/// The wire that captures count as taken on.
const WIRE: &str = "capture";

/// Parts that the captures' time is cut into.
const PERIODS: i64 = 24;

/// What captures gave.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Imported {
    /// Captures that were read.
    pub captures: usize,
    /// Frames.
    pub frames: u64,
    /// Records of flows.
    pub flow_records: u64,
    /// Copies of frames that were looked at.
    pub copies: u64,
    /// Seconds of a period in the store.
    pub period_s: u32,
    /// What is wrong with captures that were not read, or not to their end.
    pub errors: Vec<String>,
}

/// Reads captures into a new store in `folder`.
///
/// # Errors
///
/// A folder that has a store already, captures that cannot be read, or a store that cannot be
/// written.
pub fn import(captures: &[PathBuf], inside: &[Inside], folder: &Path) -> Result<Imported, Refusal> {
    let path = folder.join(super::database::FILE);
    if path.exists() {
        return Err(Refusal::refused(format!(
            "{} is there already: captures make a store of their own; name another folder with \
             --dir",
            path.display()
        )));
    }
    let inputs = inputs::collect(captures).map_err(|failed| {
        Refusal::unavailable(format!("cannot read {}: {}", failed.path.display(), failed.error))
    })?;
    let engine = engine(inside)?;
    let mut imported = Imported::default();
    let mut messages = Vec::new();
    for input in &inputs {
        let name = input.path.display().to_string();
        let reader = match CaptureReader::open(&input.path) {
            Ok(reader) => reader,
            Err(error) if error.is_not_a_capture() && !input.named => continue,
            Err(error) => {
                imported.errors.push(error.to_string());
                continue;
            }
        };
        let flows = crate::replay::flows_of(&input.path, reader.is_compressed());
        let copies = Some(Copies::new(WIRE));
        let mut outputs = Outputs { copies, ..Outputs::default() };
        let outcome = engine.replay(&name, reader, flows, &mut outputs, &mut |_| {});
        let outcome = outcome.map_err(|stopped| match stopped {
            Stopped::Output(error) => Refusal::unavailable(error),
            Stopped::Accounting(error) => Refusal::unavailable(format!(
                "{}: this is a defect of Bulkhead; please report it with the capture",
                error.0
            )),
        })?;
        imported.captures += 1;
        imported.frames += outcome.counts.received.frames;
        imported.errors.extend(outcome.error.map(|error| error.to_string()));
        let flows = outcome.records.iter().map(|record| records::flow_of(record, WIRE, "default"));
        messages.extend(flows.map(|flow| Message::Flow(Box::new(flow))));
        let frames = outputs.copies.map(|copies| copies.frames).unwrap_or_default();
        messages.extend(frames.into_iter().map(|frame| Message::Frame(Box::new(frame))));
    }
    imported.period_s = period_s(&messages);
    keep(&messages, folder, &mut imported)?;
    Ok(imported)
}

/// A policy that permits nothing, on a wire that only observes: every flow is followed.
fn engine(inside: &[Inside]) -> Result<Engine, Refusal> {
    let policy = Policy::parse("version: 1\ndefault: deny\n").map_err(|found| {
        Refusal::unavailable(found.first().map_or_else(String::new, |d| d.to_string()))
    })?;
    let policy = Arc::new(policy);
    let classifier =
        compile::compile(&policy, &compile::Limits::default()).map_err(Refusal::unavailable)?;
    Ok(Engine {
        policy,
        classifier: Arc::new(classifier),
        mode: Mode::Observe,
        wire: WireId(0),
        inside: inside.to_vec(),
    })
}

fn period_s(messages: &[Message]) -> u32 {
    let times = messages.iter().filter_map(|message| match message {
        Message::Flow(flow) => Some((flow.first_ms, flow.last_ms)),
        _ => None,
    });
    let ends = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    let span_ms = ends.map_or(0, |(first, last)| last.saturating_sub(first));
    let period_s = (span_ms / 1000 / PERIODS).clamp(1, i64::from(super::service::PERIOD_S));
    u32::try_from(period_s).unwrap_or(1)
}

fn keep(messages: &[Message], folder: &Path, imported: &mut Imported) -> Result<(), Refusal> {
    let retention = Retention { days: u32::MAX, ..Retention::default() };
    let (mut database, _) = Database::open(folder, imported.period_s, retention)?;
    let mut ingest = Ingest::new(imported.period_s, Limits::default(), database.open_flows()?);
    let limit = Limits::default().edges / 2;
    for message in messages {
        ingest.add(message);
        if ingest.batch.edges.len() >= limit {
            database.store(&ingest.take_batch(), &ingest.counters.clone())?;
        }
    }
    database.store(&ingest.take_batch(), &ingest.counters.clone())?;
    imported.flow_records = ingest.counters.flows_read;
    imported.copies = ingest.counters.frames_read;
    Ok(())
}
