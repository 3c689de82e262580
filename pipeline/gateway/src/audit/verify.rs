//! Whether an audit log is whole, found out without a gateway.

use std::fmt;
use std::io::{self, BufRead, Read};

use super::files::Start;
use super::{Entry, Head, MAX_LINE_BYTES, What, unsealed};

/// A log whose chain is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Whole {
    /// Its last entry.
    pub head: Head,
    /// Whether the head that was expected is one of its entries; true where none was expected.
    pub has_expected: bool,
}

/// Where a log is broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The line, from 1, of the file that was read last.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Why there is no [`Whole`].
#[derive(Debug)]
pub enum Failure {
    /// The log could not be read.
    Io(io::Error),
    /// The log is broken.
    Broken(Broken),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// Goes through a log line by line.
#[derive(Debug)]
pub struct Verifier {
    head: Head,
    /// The entries of which one may be the one before the first that is read.
    starts: Vec<Head>,
    /// The last entry that was removed, until an entry says that it was.
    unproven: Option<Head>,
    first: u64,
    line: u64,
    expected: Option<String>,
    has_expected: bool,
}

impl Verifier {
    /// A verifier that has seen nothing. `expected` is the hash of an entry that must be there.
    pub fn new(expected: Option<String>) -> Self {
        let has_expected = expected.is_none();
        Self {
            head: Head::none(),
            starts: Vec::new(),
            unproven: None,
            first: 1,
            line: 0,
            expected,
            has_expected,
        }
    }

    /// The same for a log that may begin where `start` says, because what came before was removed. One
    /// of its entries must say that it was.
    #[must_use]
    pub fn starting_after(self, start: Option<Start>) -> Self {
        let starts = start.into_iter().flat_map(|start| [Some(start.last), start.before]);
        Self { starts: starts.flatten().collect(), ..self }
    }

    /// The number of the first entry.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Reads one file, which goes on where the one before ended. `each` is called with every entry
    /// and its hash.
    ///
    /// # Errors
    ///
    /// The first line that is wrong, or what the file system says.
    pub fn read(
        &mut self,
        mut reader: impl BufRead,
        mut each: impl FnMut(&Entry, &str),
    ) -> Result<(), Failure> {
        let mut line = Vec::new();
        self.line = 0;
        loop {
            line.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let read = reader.by_ref().take(limit).read_until(b'\n', &mut line);
            if read.map_err(Failure::Io)? == 0 {
                return Ok(());
            }
            self.line += 1;
            let (entry, hash) = self
                .check(&line)
                .map_err(|why| Failure::Broken(Broken { line: self.line, why }))?;
            self.has_expected |= self.expected.as_ref() == Some(&hash);
            each(&entry, &hash);
            self.head = Head { sequence: entry.sequence, hash };
        }
    }

    /// What the files were, all of them read. `head` is what the file beside the log knows.
    ///
    /// # Errors
    ///
    /// What is missing at the end.
    pub fn finish(self, head: Option<&Head>) -> Result<Whole, Broken> {
        let line = self.line + 1;
        if let Some(unproven) = self.unproven {
            let why = format!(
                "the log begins with entry {}, and no entry says that those up to entry {} with hash {} \
                 were removed for want of room: somebody took them away",
                self.first, unproven.sequence, unproven.hash
            );
            return Err(Broken { line, why });
        }
        match head {
            Some(head) if head.sequence > self.head.sequence => Err(Broken {
                line,
                why: format!(
                    "the log ends with entry {} and its head is entry {}: {} entries were removed at \
                     the end",
                    self.head.sequence,
                    head.sequence,
                    head.sequence - self.head.sequence
                ),
            }),
            Some(head) if head.sequence == self.head.sequence && head.hash != self.head.hash => {
                let why = "the last entry is not the one that the head names".to_owned();
                Err(Broken { line: self.line, why })
            }
            _ => Ok(Whole { head: self.head, has_expected: self.has_expected }),
        }
    }

    fn check(&mut self, line: &[u8]) -> Result<(Entry, String), String> {
        let Some(line) = line.strip_suffix(b"\n") else {
            let why = if line.len() > MAX_LINE_BYTES { "longer than any entry" } else { "cut off" };
            return Err(why.to_owned());
        };
        let Some((entry, stated, is)) = unsealed(line) else {
            return Err("no entry of an audit log".to_owned());
        };
        if stated != is {
            return Err("changed after it was written: its hash is another".to_owned());
        }
        let follows = |start: &Head| {
            start.sequence.checked_add(1) == Some(entry.sequence) && start.hash == entry.previous
        };
        if let Some(start) = std::mem::take(&mut self.starts).into_iter().find(follows) {
            (self.first, self.head) = (entry.sequence, start.clone());
            self.unproven = Some(start).filter(|start| start.sequence > 0);
        }
        if entry.sequence != self.head.sequence + 1 {
            let (is, expected) = (entry.sequence, self.head.sequence + 1);
            return Err(format!(
                "entry {is} stands where entry {expected} belongs: entries were removed, inserted or \
                 moved before it"
            ));
        }
        if entry.previous != self.head.hash {
            return Err("it does not follow the line before, which was replaced".to_owned());
        }
        if entry.what == What::Log.label() && entry.removed.is_some() {
            self.unproven.take_if(|unproven| entry.removed.as_ref() == Some(unproven));
        }
        Ok((entry, is))
    }
}
