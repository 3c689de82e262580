//! The messages that readers have yet to be told: encoded once, bounded in bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::flow_stream::{self, Lost, Message};

/// Bytes at which a chunk is closed.
const CHUNK_BYTES: usize = 32 * 1024;

/// What a chunk costs besides its messages.
const CHUNK_OVERHEAD: usize = 128;

/// Messages that follow each other.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    /// What was told, or lost on the way here, before the first message and up to the last.
    before: Lost,
    after: Lost,
}

/// The messages in their order, the oldest of which make room for new ones.
#[derive(Debug)]
pub(super) struct Log {
    chunks: VecDeque<Arc<Chunk>>,
    /// The number of the first of them.
    first: u64,
    bytes: usize,
    most_bytes: usize,
    open: Chunk,
}

/// Where a reader is in the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Position {
    /// The number of the chunk that comes next.
    next: u64,
    /// What was told up to there.
    pub(super) seen: Lost,
}

/// What comes next for a reader.
pub(super) enum Next {
    /// So much was lost before it.
    Lost(Lost),
    Chunk(Arc<Chunk>),
}

impl Chunk {
    /// What had been told, or lost, before the message that begins at `offset`.
    pub(super) fn told_before(&self, offset: usize) -> Lost {
        let mut told = self.before;
        let mut rest = self.bytes.get(..offset).unwrap_or(&self.bytes);
        let mut scratch = Vec::new();
        // These are messages that were encoded here.
        while let Ok(Some(message)) = flow_stream::read(&mut rest, &mut scratch) {
            told = sum(told, weight(&message));
        }
        told
    }
}

impl Log {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            first: 0,
            bytes: 0,
            most_bytes: most_bytes.max(2 * CHUNK_BYTES),
            open: Chunk::default(),
        }
    }

    /// Adds a message. Nobody sees it before its chunk is closed.
    pub(super) fn append(&mut self, message: &Message) {
        let told = flow_stream::append(&mut self.open.bytes, message);
        self.open.after = sum(self.open.after, weight(message));
        // What is too long to be told counts as told: its length is bounded long before.
        debug_assert!(told);
        if self.open.bytes.len() >= CHUNK_BYTES {
            self.close_chunk();
        }
    }

    /// Shows readers what was added.
    pub(super) fn close_chunk(&mut self) {
        if self.open.bytes.is_empty() {
            return;
        }
        let after = self.open.after;
        let fresh = Chunk { bytes: Vec::new(), before: after, after };
        let closed = std::mem::replace(&mut self.open, fresh);
        self.bytes += closed.bytes.len() + CHUNK_OVERHEAD;
        self.chunks.push_back(Arc::new(closed));
        while self.bytes > self.most_bytes {
            let Some(oldest) = self.chunks.pop_front() else { break };
            self.bytes -= oldest.bytes.len() + CHUNK_OVERHEAD;
            self.first += 1;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The position of a reader to whom nothing before counts.
    pub(super) fn end(&self) -> Position {
        Position { next: self.first + self.chunks.len() as u64, seen: self.open.before }
    }

    /// Whether a reader has been given all there is.
    pub(super) fn is_at_end(&self, position: &Position) -> bool {
        position.next >= self.first + self.chunks.len() as u64
    }

    /// What comes next for a reader, who is moved on.
    pub(super) fn next(&self, position: &mut Position) -> Option<Next> {
        let place = position.next.saturating_sub(self.first);
        let chunk = self.chunks.get(usize::try_from(place).ok()?)?;
        let lost = difference(chunk.before, position.seen);
        if lost != Lost::default() {
            position.seen = chunk.before;
            return Some(Next::Lost(lost));
        }
        *position = Position { next: self.first + place + 1, seen: chunk.after };
        Some(Next::Chunk(chunk.clone()))
    }
}

/// What a message tells of, in flow records and copies of frames.
fn weight(message: &Message) -> Lost {
    match message {
        Message::Lost(lost) => *lost,
        Message::Flow(_) => Lost { flows: 1, frames: 0 },
        Message::Frame(_) => Lost { flows: 0, frames: 1 },
        Message::Hello(_) => Lost::default(),
    }
}

fn sum(a: Lost, b: Lost) -> Lost {
    Lost { flows: a.flows + b.flows, frames: a.frames + b.frames }
}

fn difference(a: Lost, b: Lost) -> Lost {
    Lost { flows: a.flows.saturating_sub(b.flows), frames: a.frames.saturating_sub(b.frames) }
}
