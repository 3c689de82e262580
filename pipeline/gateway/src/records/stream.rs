//! The socket's readers, each with a place of its own in the log. Nothing here waits for any of them.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tracing::{debug, info};

use super::RecordStats;
use super::log::{Chunk, Log, Next, Position};
use crate::flow_stream::{self, Hello, Lost, Message};

/// Readers at a time.
pub(super) const MAX_READERS: usize = 4;

/// Bytes that one reader is given in a turn, so that all get theirs.
const BYTES_PER_TURN: usize = 1 << 20;

/// See the module's description.
pub(super) struct Stream {
    listener: Option<UnixListener>,
    /// What each is told first, but for its place.
    hello: Hello,
    readers: Vec<Reader>,
    /// Where the last reader that left was: the next one goes on there. At first the log's beginning.
    left_at: Option<Place>,
}

/// A reader's place in the log: what it is being given, and what comes next.
#[derive(Clone, Default)]
struct Place {
    chunk: Option<Arc<Chunk>>,
    offset: usize,
    position: Position,
}

struct Reader {
    stream: UnixStream,
    /// A message for this reader alone, which goes before the rest of the log.
    own: Arc<Vec<u8>>,
    own_offset: usize,
    place: Place,
}

impl Stream {
    pub(super) fn new(listener: Option<UnixListener>, hello: Hello) -> Self {
        Self { listener, hello, readers: Vec::new(), left_at: Some(Place::default()) }
    }

    /// Lets new readers in, and gives all what they take. Returns whether some have yet to take what
    /// there is.
    pub(super) fn serve(&mut self, log: &mut Log, stats: &RecordStats) -> bool {
        self.accept(log, stats);
        let mut is_behind = false;
        let left_at = &mut self.left_at;
        self.readers.retain_mut(|reader| match reader.serve(log, stats) {
            Ok(()) => {
                is_behind |= !reader.is_done(log);
                true
            }
            Err(error) => {
                info!("a reader of flow records left: {error}");
                *left_at = Some(reader.place.at_message());
                false
            }
        });
        stats.readers.store(self.readers.len() as u64, Relaxed);
        stats.log_bytes.store(log.bytes() as u64, Relaxed);
        is_behind
    }

    fn accept(&mut self, log: &Log, stats: &RecordStats) {
        let Some(listener) = &self.listener else { return };
        // What fails to be accepted is tried again with the next turn.
        while let Ok((stream, _)) = listener.accept() {
            if self.readers.len() >= MAX_READERS {
                stats.readers_refused.fetch_add(1, Relaxed);
                debug!("there are {MAX_READERS} readers of flow records: one more was refused");
                continue;
            }
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let end = || Place { position: log.end(), ..Place::default() };
            let place = self.left_at.take().unwrap_or_else(end);
            info!("a reader of flow records came");
            let mut hello = self.hello.clone();
            hello.at.before = place.told_before();
            let mut own = Vec::new();
            flow_stream::append(&mut own, &Message::Hello(hello));
            self.readers.push(Reader { stream, own: Arc::new(own), own_offset: 0, place });
        }
    }
}

impl Place {
    /// What was told, or lost, before what a reader here is given next.
    fn told_before(&self) -> Lost {
        match &self.chunk {
            Some(chunk) if self.offset < chunk.bytes.len() => chunk.told_before(self.offset),
            _ => self.position.seen,
        }
    }

    /// The place with what was given of a message in part to be given again: nobody can go on in its
    /// middle.
    fn at_message(&self) -> Self {
        let mut start = 0;
        if let Some(chunk) = &self.chunk {
            while let Some(length) = chunk.bytes.get(start..start + 4) {
                let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
                let end = start + 4 + length as usize;
                if end > self.offset {
                    break;
                }
                start = end;
            }
        }
        Self { offset: start, ..self.clone() }
    }
}

impl Reader {
    fn serve(&mut self, log: &Log, stats: &RecordStats) -> io::Result<()> {
        self.check()?;
        let mut left = BYTES_PER_TURN;
        while left > 0 {
            let is_own = self.own_offset < self.own.len();
            let (bytes, offset) = match &self.place.chunk {
                _ if is_own => (&self.own[..], &mut self.own_offset),
                Some(chunk) if self.place.offset < chunk.bytes.len() => {
                    (&chunk.bytes[..], &mut self.place.offset)
                }
                _ => match log.next(&mut self.place.position) {
                    None => return Ok(()),
                    Some(Next::Chunk(chunk)) => {
                        (self.place.chunk, self.place.offset) = (Some(chunk), 0);
                        continue;
                    }
                    Some(Next::Lost(lost)) => {
                        stats.flows_lost.fetch_add(lost.flows, Relaxed);
                        stats.frames_lost.fetch_add(lost.frames, Relaxed);
                        let mut own = Vec::new();
                        flow_stream::append(&mut own, &Message::Lost(lost));
                        (self.own, self.own_offset) = (Arc::new(own), 0);
                        continue;
                    }
                },
            };
            match self.stream.write(&bytes[*offset..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    *offset += written;
                    left = left.saturating_sub(written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the reader is there still. It has nothing to say: one that does is no reader.
    fn check(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0; 16]) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(_) => Err(io::Error::new(ErrorKind::InvalidData, "it wrote where it is to read")),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn is_done(&self, log: &Log) -> bool {
        let chunk_is_done =
            self.place.chunk.as_ref().is_none_or(|chunk| self.place.offset >= chunk.bytes.len());
        self.own_offset >= self.own.len() && chunk_is_done && log.is_at_end(&self.place.position)
    }
}
