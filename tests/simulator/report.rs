//! What a run shows: its figures, and the violation that ended it, if there was one.

use std::fmt;

use bulkhead_pipeline::verdict::DropReason;

use super::cable::NetworkFaults;
use super::control::Publications;

/// What happened in a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Runs that were added up.
    pub runs: u64,
    /// Frames that workers judged: a run's steps.
    pub steps: u64,
    /// Of them, those of honest hosts.
    pub honest: u64,
    /// Of them, those of attackers.
    pub hostile: u64,
    /// Forwarded.
    pub forwarded: u64,
    /// Forwarded because an honest frame of a permitted conversation has to be.
    pub owed: u64,
    /// Conversations that lost their permission, and ended.
    pub revoked: u64,
    /// Dropped by reason, in the order of [`DropReason::ALL`].
    pub dropped: Vec<u64>,
    /// Forwarded by an observing wire that would have dropped them.
    pub would_drop: u64,
    /// Answers of the gateway's own.
    pub answers: u64,
    /// TCP connections that were opened, used and closed in good order.
    pub closed_connections: u64,
    /// Conversations that were begun.
    pub conversations: u64,
    /// What the network did to frames.
    pub network: NetworkFaults,
    /// Loops in which a transmit queue took less than it was given.
    pub full_queues: u64,
    /// Loops that a worker left out, or in which its core was taken away.
    pub stalls: u64,
    /// Links that went down.
    pub links_down: u64,
    /// What the control thread did.
    pub published: Publications,
    /// Policies that were published while a worker was in the middle of its loop.
    pub published_at_work: u64,
    /// Flows that workers opened.
    pub flows: u64,
    /// Flows that ended by a timeout.
    pub expired: u64,
    /// Flows that made room for others.
    pub evicted: u64,
    /// Flows for which there was no room.
    pub refused: u64,
    /// Frames that one worker handed to another.
    pub handed_over: u64,
    /// Runs in which flow records came. How many is not for a seed to say: the table of denied flows
    /// has a hash of its own.
    pub with_records: u64,
    /// Milliseconds of the world's time.
    pub virtual_ms: u64,
    /// What tells one run from another: all verdicts in their order.
    pub digest: u64,
}

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The seed that replays it.
    pub seed: u64,
    /// How many frames had been judged.
    pub step: u64,
    /// What is wrong.
    pub what: String,
    /// The frame at which it showed, and what came before it in its conversation.
    pub history: Vec<String>,
}

/// The outcome of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// What happened.
    pub figures: Figures,
    /// What went wrong; the run ends with it.
    pub violation: Option<Violation>,
}

impl Figures {
    /// Adds the figures of another run.
    pub fn add(&mut self, other: &Self) {
        let Self { dropped, network, published, digest, .. } = other;
        for (sum, more) in [
            (&mut self.runs, other.runs),
            (&mut self.steps, other.steps),
            (&mut self.honest, other.honest),
            (&mut self.hostile, other.hostile),
            (&mut self.forwarded, other.forwarded),
            (&mut self.owed, other.owed),
            (&mut self.revoked, other.revoked),
            (&mut self.would_drop, other.would_drop),
            (&mut self.answers, other.answers),
            (&mut self.closed_connections, other.closed_connections),
            (&mut self.conversations, other.conversations),
            (&mut self.network.lost, network.lost),
            (&mut self.network.duplicated, network.duplicated),
            (&mut self.network.corrupted, network.corrupted),
            (&mut self.network.truncated, network.truncated),
            (&mut self.network.delayed, network.delayed),
            (&mut self.full_queues, other.full_queues),
            (&mut self.stalls, other.stalls),
            (&mut self.links_down, other.links_down),
            (&mut self.published.reloads, published.reloads),
            (&mut self.published.edits, published.edits),
            (&mut self.published.incremental, published.incremental),
            (&mut self.published.mode_changes, published.mode_changes),
            (&mut self.published.clock_changes, published.clock_changes),
            (&mut self.published_at_work, other.published_at_work),
            (&mut self.flows, other.flows),
            (&mut self.expired, other.expired),
            (&mut self.evicted, other.evicted),
            (&mut self.refused, other.refused),
            (&mut self.handed_over, other.handed_over),
            (&mut self.with_records, other.with_records),
            (&mut self.virtual_ms, other.virtual_ms),
        ] {
            *sum += more;
        }
        self.dropped.resize(DropReason::ALL.len(), 0);
        for (sum, more) in self.dropped.iter_mut().zip(dropped) {
            *sum += more;
        }
        self.digest ^= digest.rotate_left(self.runs as u32 % 64);
    }

    /// Frames dropped for a reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }

    fn rows(&self) -> Vec<(&'static str, u64)> {
        let (network, published) = (&self.network, &self.published);
        vec![
            ("worlds", self.runs),
            ("  with flow records", self.with_records),
            ("steps (frames judged)", self.steps),
            ("  of honest hosts", self.honest),
            ("  of attackers", self.hostile),
            ("forwarded", self.forwarded),
            ("  because they had to be", self.owed),
            ("would have been dropped (observe)", self.would_drop),
            ("answers of the gateway", self.answers),
            ("conversations", self.conversations),
            ("  TCP, closed in good order", self.closed_connections),
            ("  ended by a newer policy", self.revoked),
            ("flows opened", self.flows),
            ("  expired", self.expired),
            ("  made room", self.evicted),
            ("  refused, no room", self.refused),
            ("handed from worker to worker", self.handed_over),
            ("frames lost by the network", network.lost),
            ("  doubled", network.duplicated),
            ("  with a bit flipped", network.corrupted),
            ("  cut short", network.truncated),
            ("  late", network.delayed),
            ("transmit queues full", self.full_queues),
            ("worker stalls", self.stalls),
            ("links down", self.links_down),
            ("reloads", published.reloads),
            ("edits", published.edits),
            ("  compiled for what they changed", published.incremental),
            ("policies published in mid-loop", self.published_at_work),
            ("changes of mode", published.mode_changes),
            ("changes of the wall clock", published.clock_changes),
            ("virtual seconds", self.virtual_ms / 1000),
        ]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.rows() {
            writeln!(f, "{name:<36}{count:>12}")?;
        }
        for (&reason, count) in DropReason::ALL.iter().zip(&self.dropped) {
            if *count > 0 {
                writeln!(f, "dropped: {:<27}{count:>12}", reason.label())?;
            }
        }
        write!(f, "digest {:016x}", self.digest)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "violation in the world of seed {}, at step {}: {}",
            self.seed, self.step, self.what
        )?;
        for line in &self.history {
            writeln!(f, "  {line}")?;
        }
        write!(f, "replay: cargo run -p bulkhead-tests --bin simulate -- --seed {}", self.seed)
    }
}
