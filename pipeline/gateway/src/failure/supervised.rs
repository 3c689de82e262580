//! The gateway's side of its supervision: it says that it is alive, and changes places with another
//! gateway when it is told to.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{error, info};

use super::channel::{self, Said, Told};
use crate::flow_stream::Lost;
use crate::notice;
use crate::state::Gateway;

/// How often the gateway says that it is alive.
pub const BEAT: Duration = Duration::from_millis(20);

/// How long control may take for one turn: its disks may be slow, and no packet waits for them.
const CONTROL_HANGS: Duration = Duration::from_secs(10);

/// What the supervisor knows of the gateways before this one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// How often a gateway ended by itself.
    pub crashes: u64,
    /// How often one was ended because it hung.
    pub hangs: u64,
    /// How often one was renewed.
    pub updates: u64,
    /// How often wires were bypassed.
    pub bypasses: u64,
    /// What gateways that were renewed left unread of what their workers had told.
    pub unread: Lost,
    /// For how long in all, in milliseconds, but for the bypass that is in force.
    pub bypassed_ms: u64,
    /// Since when wires are bypassed, in milliseconds since the Unix epoch.
    pub bypassed_since_unix_ms: Option<i64>,
    /// What became of the gateway before this one, for the audit log.
    pub last: Option<String>,
}

/// A gateway's link to its supervisor.
#[derive(Debug)]
pub struct Supervision {
    stream: UnixStream,
    heard: Mutex<Heard>,
    wake: Condvar,
    /// What was before this gateway's start.
    at_start: History,
    /// Microseconds for which the ports changed hands; zero where they did not.
    pub renewed_us: AtomicU64,
    /// Milliseconds of the bypass that this gateway ended.
    pub ended_bypass_ms: AtomicU64,
}

/// What the supervisor has told.
#[derive(Clone, Default, Debug)]
struct Heard {
    retire: bool,
    take_over: bool,
    close: bool,
    ports: bool,
    gone: bool,
    unread: Lost,
    /// What was before, where the one that this gateway was to follow has ended by itself.
    history: Option<History>,
    /// Whether the audit log has what became of the gateway before.
    is_entered: bool,
}

impl Supervision {
    /// The link over this process's standard input. Nobody listens to it before [`Supervision::listen`]:
    /// a thread that ran before the process is confined would never be.
    ///
    /// # Errors
    ///
    /// Where that is no socket.
    pub fn from_stdin(history: History) -> io::Result<Arc<Self>> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.local_addr()?;
        Ok(Arc::new(Self::over(stream, history)))
    }

    fn over(stream: UnixStream, at_start: History) -> Self {
        Self {
            stream,
            heard: Mutex::default(),
            wake: Condvar::new(),
            at_start,
            renewed_us: AtomicU64::new(0),
            ended_bypass_ms: AtomicU64::new(0),
        }
    }

    /// Takes in what the supervisor tells until it is gone. For a thread of its own: what was told before
    /// waits in the socket.
    ///
    /// # Errors
    ///
    /// What the socket says: nothing is heard then.
    pub fn listen(&self) -> io::Result<()> {
        channel::receive(self.stream.try_clone()?, |told| self.hear(told));
        self.heard().gone = true;
        self.wake.notify_all();
        error!(
            "the supervisor is gone: this gateway judges on, and nobody starts it anew or bypasses its \
             wires when it ends"
        );
        Ok(())
    }

    /// Tells the supervisor. One that is gone is not told.
    pub fn say(&self, said: &Said) {
        let _ = channel::send(&self.stream, said);
    }

    /// Whether the supervisor is there.
    pub fn is_supervised(&self) -> bool {
        !self.heard().gone
    }

    /// Whether control is to end, because another gateway takes over.
    pub fn is_to_retire(&self) -> bool {
        self.heard().retire
    }

    /// Waits until the state is this gateway's. False where that will not be, or it is to end.
    pub fn wait_for_state(&self, gateway: &Gateway) -> bool {
        self.wait(gateway, |heard| heard.take_over)
    }

    /// Waits until the ports are this gateway's. False where that will not be, or it is to end.
    pub fn wait_for_ports(&self, gateway: &Gateway) -> bool {
        self.wait(gateway, |heard| heard.ports)
    }

    /// What was before.
    pub fn history(&self) -> History {
        self.heard().history.as_ref().unwrap_or(&self.at_start).clone()
    }

    /// What became of the gateway before this one, for the audit log, once.
    pub fn to_enter(&self) -> Option<String> {
        let mut heard = self.heard();
        if std::mem::replace(&mut heard.is_entered, true) {
            return None;
        }
        heard.history.as_ref().unwrap_or(&self.at_start).last.clone()
    }

    /// What all gateways before this one left unread.
    pub fn unread(&self) -> Lost {
        let heard = self.heard();
        if let Some(history) = &heard.history {
            return history.unread;
        }
        let (before, last) = (self.at_start.unread, heard.unread);
        Lost { flows: before.flows + last.flows, frames: before.frames + last.frames }
    }

    /// Waits until the other gateway wants the ports, or nobody is left to say so.
    pub fn wait_for_close(&self) {
        let mut heard = self.heard();
        while !heard.close && !heard.gone {
            heard = self.wake.wait(heard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait(&self, gateway: &Gateway, is_it: impl Fn(&Heard) -> bool) -> bool {
        let mut heard = self.heard();
        while !is_it(&heard) {
            if heard.gone || gateway.is_stopping() {
                return false;
            }
            let waited = self.wake.wait_timeout(heard, Duration::from_millis(50));
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn hear(&self, told: Told) {
        let mut heard = self.heard();
        match told {
            Told::Retire => heard.retire = true,
            Told::TakeOver => heard.take_over = true,
            Told::Close => heard.close = true,
            Told::Unread(unread) => heard.unread = unread,
            Told::History(history) => {
                (heard.history, heard.is_entered) = (Some(history), false);
            }
            Told::Ports => heard.ports = true,
            Told::Renewed(us) => {
                self.renewed_us.store(us, Relaxed);
                info!(stopped_us = us, "this gateway has taken the place of the one before it");
            }
        }
        drop(heard);
        self.wake.notify_all();
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the gateway is alive, as long as it is. Runs on a thread of its own, which takes no lock
/// and touches no disk: whatever control waits for does not look like a worker that stands still.
pub fn beat(gateway: &Gateway, supervision: &Supervision) {
    gateway.lower_powers();
    let mut rounds = Rounds::default();
    loop {
        let counts = gateway.workers().iter().map(|worker| worker.counters.loops.value());
        let still = rounds.look(counts, gateway.config.hang);
        let control = gateway.is_guarding().then(notice::since_alive).flatten();
        let said = match (still, control) {
            (Some(worker), _) => Said::Hangs(format!(
                "worker {worker} has stood still for {} ms",
                gateway.config.hang.as_millis()
            )),
            (None, Some(since)) if since > CONTROL_HANGS => {
                Said::Hangs(format!("control has stood still for {} s", since.as_secs()))
            }
            _ => Said::Alive,
        };
        supervision.say(&said);
        thread::sleep(BEAT);
    }
}

/// How often each worker was seen to have made no round, turn by turn: a turn that came late counts once,
/// so that a machine that stood still as a whole accuses nobody.
#[derive(Default)]
struct Rounds {
    seen: Vec<(u64, u32)>,
}

impl Rounds {
    /// The first worker that has made no round for `limit`.
    fn look(&mut self, counts: impl Iterator<Item = u64>, limit: Duration) -> Option<usize> {
        let turns = u32::try_from(limit.as_millis() / BEAT.as_millis()).unwrap_or(u32::MAX);
        let mut found = None;
        for (index, count) in counts.enumerate() {
            let Some((before, still)) = self.seen.get_mut(index) else {
                self.seen.push((count, 0));
                continue;
            };
            *still = if *before == count { still.saturating_add(1) } else { 0 };
            *before = count;
            // Before its first round it builds its tables.
            if count > 0 && *still >= turns && found.is_none() {
                found = Some(index);
            }
        }
        found
    }
}

/// Ends the control side and waits for the ports to be wanted; the workers judge meanwhile.
pub fn retire(supervision: &Supervision, begun: Instant) {
    info!(
        took_ms = begun.elapsed().as_millis() as u64,
        "control has ended for the gateway that takes over; the workers judge until it wants the ports"
    );
    supervision.say(&Said::Retired);
    supervision.wait_for_close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_hangs_after_its_time_and_not_before_its_first_round() {
        let limit = Duration::from_millis(100);
        let mut rounds = Rounds::default();
        for _ in 0..100 {
            assert_eq!(rounds.look([0, 0].into_iter(), limit), None, "they build their tables");
        }
        let mut rounds = Rounds::default();
        for turn in 0..5 {
            assert_eq!(rounds.look([turn + 1, 7].into_iter(), limit), None, "turn {turn}");
        }
        assert_eq!(rounds.look([7, 7].into_iter(), limit), Some(1));
        assert_eq!(rounds.look([8, 8].into_iter(), limit), None, "it goes on");
    }

    #[test]
    fn a_gateway_whose_predecessor_dies_meanwhile_counts_and_enters_that_once() {
        let history = |crashes, last: Option<&str>| History {
            crashes,
            last: last.map(str::to_owned),
            unread: Lost { flows: crashes, frames: 0 },
            ..History::default()
        };
        let (stream, _theirs) = UnixStream::pair().unwrap();
        let supervision = Supervision::over(stream, history(1, None));
        assert_eq!(supervision.to_enter(), None);
        supervision.hear(Told::Unread(Lost { flows: 1, frames: 0 }));
        assert_eq!((supervision.history().crashes, supervision.unread().flows), (1, 2));
        supervision.hear(Told::History(history(2, Some("it crashed"))));
        assert_eq!((supervision.history().crashes, supervision.unread().flows), (2, 2));
        assert_eq!(supervision.to_enter().as_deref(), Some("it crashed"));
        assert_eq!(supervision.to_enter(), None, "it has been");
    }

    #[test]
    fn what_a_supervisor_of_another_version_does_not_tell_is_none() {
        let history: History = serde_json::from_str("{\"crashes\": 2, \"new\": 1}").unwrap();
        assert_eq!(history, History { crashes: 2, ..History::default() });
    }
}
