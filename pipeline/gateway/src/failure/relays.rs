//! Relays that pass a gateway by, and the program that works them: `bypass-command`.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tracing::error;

use super::bypass::Bypass;
use crate::log::kind;

/// What is said of relays that are engaged and have no program any more.
pub const RELAYS_UNTOLD: &str = "frames may pass unjudged by relays that nothing tells to let go: have their wire \
    name its `bypass-command` again (`fail = \"open\"`) until they have, or work them by hand and remove the file \
    `….bypass.json` beside the control socket";

/// How long the program of a hardware bypass may take.
pub(super) const COMMAND_LIMIT: Duration = Duration::from_secs(2);

/// How long one that is killed is waited for before another one is started.
const KILL_LIMIT: Duration = Duration::from_millis(100);

/// How many of a wire's programs may be there that were killed and do not end, before no more are started.
const MAX_LEFT_BEHIND: usize = 4;
const NEVER_ENDS: &str = "bypass-command: what ran before was killed, but does not end";

/// How often a hardware bypass is told that the gateway is alive.
const FEED_INTERVAL: Duration = Duration::from_secs(1);

/// How far apart feeds may be that went well, before relays may have engaged in between.
const FEED_GAP: Duration = Duration::from_millis(2500);

/// A program works relays: it is called with `engage`, `release` or `feed`, and the wire's name.
pub(super) struct RelayBypass {
    wire: String,
    command: Vec<String>,
    fed: Option<Instant>,
    feeding: Option<Run>,
    /// When that went well last.
    fed_well: Option<Instant>,
    /// Whether it failed since.
    is_starving: bool,
    /// The one that engages or releases.
    at_work: Option<Run>,
    /// Those that were killed and have not ended.
    killed: Vec<Run>,
}

impl RelayBypass {
    /// The relays of a wire, and the program and its first arguments that work them.
    pub(super) fn new(wire: &str, command: &[String]) -> Self {
        Self {
            wire: wire.to_owned(),
            command: command.to_vec(),
            fed: None,
            feeding: None,
            fed_well: None,
            is_starving: false,
            at_work: None,
            killed: Vec::new(),
        }
    }

    /// Hears what came of telling relays that a gateway judges. Returns whether that is so again after a while.
    fn is_fed(&mut self, outcome: Result<(), String>) -> bool {
        let now = Instant::now();
        match outcome {
            Ok(()) => {
                let fed_well = self.fed_well.replace(now);
                let is_late = |before| now.duration_since(before) > FEED_GAP;
                std::mem::take(&mut self.is_starving) || fed_well.is_some_and(is_late)
            }
            Err(error) => {
                if !self.is_starving {
                    error!(
                        target: kind::BYPASS,
                        wire = self.wire,
                        "relays with a watchdog may let everything pass: {error}"
                    );
                }
                self.is_starving = true;
                false
            }
        }
    }

    /// How many that were killed are there still.
    fn left_behind(&mut self) -> usize {
        self.killed.retain_mut(|run| !run.has_ended());
        self.killed.len()
    }

    /// Has the program do this, and nothing beside it: what it was told before it would do afterwards. None is started
    /// beside more than `most` that were killed and do not end.
    fn work(&mut self, what: &'static str, most: usize) -> Option<Result<(), String>> {
        if let Some(mut run) = self.at_work.take_if(|run| run.what != what) {
            run.kill();
            self.killed.push(run);
        }
        if self.at_work.is_none() {
            let left_behind = self.left_behind();
            if self.killed.iter().any(|run| run.since.elapsed() < KILL_LIMIT) {
                return None;
            }
            if left_behind > most {
                return Some(Err(NEVER_ENDS.to_owned()));
            }
            match self.start(what) {
                Ok(run) => self.at_work = Some(run),
                Err(error) => return Some(Err(error)),
            }
        }
        let outcome = self.at_work.as_mut().and_then(Run::outcome)?;
        self.killed.extend(self.at_work.take());
        Some(outcome)
    }

    fn start(&self, what: &'static str) -> Result<Run, String> {
        let (program, args) = self.command.split_first().ok_or("there is no bypass-command")?;
        let child = (Command::new(program).args(args).args([what, &self.wire]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // What a script starts is ended with it.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("bypass-command {program}: {error}"))?;
        Ok(Run { what, child, since: Instant::now() })
    }
}

/// A run of that program.
struct Run {
    what: &'static str,
    child: Child,
    /// When it was started, or killed.
    since: Instant,
}

impl Run {
    /// What came of it; [`None`] while it may go on. One that takes too long is ended.
    fn outcome(&mut self) -> Option<Result<(), String>> {
        let what = self.what;
        let outcome = match self.child.try_wait() {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(format!("bypass-command {what}: {status}")),
            Ok(None) if self.since.elapsed() < COMMAND_LIMIT => return None,
            Ok(None) => {
                self.kill();
                Err(format!("bypass-command {what}: no end within {COMMAND_LIMIT:?}"))
            }
            Err(error) => Err(format!("bypass-command {what}: {error}")),
        };
        Some(outcome)
    }

    /// Kills it and all that it has started. One that waits for hardware ends when that answers, or never, and does
    /// nothing more of its own: nobody waits for it here.
    fn kill(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.since = Instant::now();
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Bypass for RelayBypass {
    fn engage(&mut self) -> Option<Result<(), String>> {
        // One beside a release that waits for hardware is the only hope; a crowd is none.
        self.work("engage", MAX_LEFT_BEHIND - 1)
    }

    fn release(&mut self) -> Option<Result<(), String>> {
        self.work("release", 0)
    }

    fn feed(&mut self) -> bool {
        if self.at_work.is_some() {
            return false;
        }
        // One that takes longer is not helped by a second one beside it; one that hangs is ended: hardware that is not
        // fed any more lets everything pass beside a gateway that judges.
        let mut was_interrupted = false;
        if let Some(run) = &mut self.feeding {
            let Some(outcome) = run.outcome() else { return false };
            if !run.has_ended() {
                return false;
            }
            self.feeding = None;
            was_interrupted = self.is_fed(outcome);
        }
        if self.fed.is_some_and(|fed| fed.elapsed() < FEED_INTERVAL) {
            return was_interrupted;
        }
        self.fed = Some(Instant::now());
        match self.start("feed") {
            Ok(run) => self.feeding = Some(run),
            Err(error) => was_interrupted |= self.is_fed(Err(error)),
        }
        was_interrupted
    }

    fn is_at_work(&mut self) -> bool {
        let is_feeding = self.feeding.as_mut().is_some_and(|run| !run.has_ended());
        self.left_behind() > 0 || self.at_work.is_some() || is_feeding
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;
    use crate::failure::bypasses::LOOK_INTERVAL;

    #[test]
    fn a_feed_that_hangs_once_is_followed_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let script =
            format!("echo fed >> {0}; [ $(wc -l < {0}) = 1 ] && sleep 600; :", said.display());
        let mut bypass = RelayBypass::new("w", &["/bin/sh", "-c", &script].map(str::to_owned));
        let begun = Instant::now();
        while !bypass.feed() {
            assert!(
                begun.elapsed() < 4 * COMMAND_LIMIT,
                "the relays would bypass a gateway that judges"
            );
            thread::sleep(LOOK_INTERVAL);
        }
        let said = fs::read_to_string(&said).unwrap();
        assert!(said.lines().count() > 1, "they were told again, and may have engaged");
        while bypass.is_at_work() {
            thread::sleep(LOOK_INTERVAL);
        }
        assert!(!bypass.feed(), "nothing came between");
    }

    #[test]
    fn a_program_that_was_killed_and_does_not_end_is_not_waited_for() {
        let hangs = || {
            let child = Command::new("/bin/sleep").arg("600").process_group(0).spawn().unwrap();
            Run { what: "release", child, since: Instant::now() }
        };
        let mut bypass = RelayBypass::new("w", &["/bin/true".to_owned()]);
        bypass.killed.push(hangs());
        assert_eq!(bypass.release(), None, "it may end within a moment");
        thread::sleep(KILL_LIMIT);
        let refused = bypass.release().expect("at once").unwrap_err();
        assert!(refused.contains("does not end"), "no second one beside it: {refused}");
        let engage = |bypass: &mut RelayBypass| loop {
            match bypass.engage() {
                Some(outcome) => return outcome,
                None => thread::sleep(LOOK_INTERVAL),
            }
        };
        assert_eq!(engage(&mut bypass), Ok(()), "the wire would be cut");
        bypass.killed.extend((0..MAX_LEFT_BEHIND).map(|_| hangs()));
        let begun = Instant::now();
        assert!(engage(&mut bypass).is_err(), "they do not pile up");
        assert!(begun.elapsed() < COMMAND_LIMIT, "nobody waited");
        bypass.killed.iter_mut().for_each(Run::kill);
        while bypass.left_behind() > 0 {
            thread::sleep(LOOK_INTERVAL);
        }
        assert_eq!(engage(&mut bypass), Ok(()));
    }
}
