//! What supervisor and gateway say to each other: lines of text over a socket pair, which is the
//! gateway's standard input. Its end tells either that the other is gone.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::supervised::History;
use crate::flow_stream::Lost;

/// The longest line, in bytes.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// What the gateway says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// Every worker goes round its ports, and control looks after them.
    Alive,
    /// Something does not: what, for the log.
    Hangs(String),
    /// All is made that can be made beside a gateway that runs.
    Prepared,
    /// Control has ended and its state is written down; the workers judge on.
    Retired,
    /// All is ready but the ports.
    WantsPorts,
    /// What the workers told after control had ended, and nobody has read. Before [`Said::Closed`].
    Unread(Lost),
    /// The ports are closed.
    Closed,
    /// Workers judge and the ports are up.
    Guards,
    /// Somebody wants the gateway renewed.
    Restart,
}

/// What the gateway is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// End control, write down its state, and let the workers judge on.
    Retire,
    /// The state is yours.
    TakeOver,
    /// Close the ports and end.
    Close,
    /// What the gateway before left unread: it is yours to count.
    Unread(Lost),
    /// What became of the gateway before meanwhile, with all that was before it. Before [`Told::Ports`].
    History(History),
    /// The ports are yours.
    Ports,
    /// You guard: the ports changed hands within so many microseconds.
    Renewed(u64),
}

/// Sends a message. One that finds no room within a moment is lost: the other side hangs or is gone, and
/// is told so by other means.
///
/// # Errors
///
/// The other side is gone, or takes nothing.
pub fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Makes the two ends of a channel.
///
/// # Errors
///
/// What the kernel says.
pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    for end in [&ours, &theirs] {
        end.set_write_timeout(Some(Duration::from_millis(20)))?;
    }
    Ok((ours, theirs))
}

/// Hands every message to `take` until the other side is gone. A line that is no message is passed over.
pub fn receive<M: for<'de> Deserialize<'de>>(stream: UnixStream, mut take: impl FnMut(M)) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        if let Ok(message) = serde_json::from_slice(&line) {
            take(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_what_is_none_is_passed_over() {
        let (ours, theirs) = pair().unwrap();
        let said =
            [Said::Alive, Said::Hangs("worker 3 \"stands\"\nstill".to_owned()), Said::WantsPorts];
        for message in &said {
            send(&ours, message).unwrap();
            (&ours).write_all(b"{\"no such\": 1}\n").unwrap();
        }
        drop(ours);
        let mut heard = Vec::new();
        receive(theirs, |message: Said| heard.push(message));
        assert_eq!(heard, said);
    }

    #[test]
    fn a_side_that_takes_nothing_holds_nobody_up_for_long() {
        let (ours, _theirs) = pair().unwrap();
        let begun = std::time::Instant::now();
        let full = (0..1_000_000).find_map(|_| send(&ours, &Said::Alive).err());
        assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
