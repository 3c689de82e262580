//! The process that starts gateways: one after the other, so that there is one whenever there can be,
//! and two for as long as one takes the other's place.
//!
//! It waits for three things: what a gateway says, a gateway's end, a signal. While a gateway that is
//! told to be alive says nothing for the configuration's `hang-ms`, it hangs and is killed. Wires that
//! fail open are bypassed as soon as no process of a gateway is left.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use super::bypass::{clear_closed, keep_found};
use super::bypassed::Bypassed;
use super::bypasses::{Bypasses, Engaged, LOOK_INTERVAL};
use super::channel::{self, Said, Told};
use super::relays::RELAYS_UNTOLD;
use super::signals;
use super::supervised::History;
use crate::candidate::unix_now_ms;
use crate::cli::{RunArgs, exit};
use crate::config::{Config, ConfigError};
use crate::control;
use crate::hardening;
use crate::log::kind;
use crate::notice::{self, Watchdog};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(10);

/// How long a gateway may take to end once it has stopped saying anything, or was told to.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How long a new gateway may take to be ready to take over, policy and all.
const PREPARE_LIMIT: Duration = Duration::from_secs(180);

/// How long killed gateways are waited for that are in a bypass's way.
const HANDS_OFF_LIMIT: Duration = Duration::from_secs(2);

/// How long ports may take to change hands.
const HANDOVER_LIMIT: Duration = Duration::from_secs(10);

/// How long what was caught or said may take to the queue of events.
const CAUGHT_MEANWHILE: Duration = Duration::from_millis(5);

/// How long a gateway may take until it says its first word: programs and libraries come from a disk.
const FIRST_WORD_LIMIT: Duration = Duration::from_secs(10);

/// How long the next one waits that is to take over from a gateway which has ended its control side already,
/// after one that could not; and the supervisor before it tries once more to renew itself.
const RENEWAL_PAUSE: Duration = Duration::from_secs(2);

/// How long relays may take to be bypassed by before the next gateway starts, which knows of those that are.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often relays are told to carry that did not.
const ENGAGE_INTERVAL: Duration = Duration::from_secs(2);

/// How often a bypass is told to let go that did not.
const RELEASE_INTERVAL: Duration = Duration::from_secs(1);

/// After an end, how long the next start waits: not at all where it had guarded, and longer each time that
/// a gateway ends before it does.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What follows from a note beside the control socket that could not be changed.
const NOT_WRITTEN: &str = "`bulkhead status` does not say which wires are bypassed";

/// The variable by which a supervisor hands on a configuration, to the gateway that it starts and to itself when it
/// renews itself: both have to go by the same, and somebody may be editing the file. Up to so many bytes.
pub const HANDED_CONFIG: &str = "BULKHEAD_HANDED_CONFIG";
const MAX_HANDED_BYTES: usize = 100 << 10;

/// Supervises a gateway until told to stop. Returns the exit code.
pub fn main(args: &RunArgs, config: Config) -> u8 {
    if config.hardening.confine {
        hardening::confine_supervisor();
    }
    keep_found(&config);
    let refusal = match args.adopt {
        Some(_) => Ok(()),
        // Before anything is bypassed: the wires are another gateway's, which judges.
        None => control::refuse_another(&config.control_socket),
    };
    match refusal.and_then(|()| Supervisor::new(args, config)).and_then(Supervisor::run) {
        Ok(code) => code,
        Err(error) => {
            error!("{error}");
            exit::UNAVAILABLE
        }
    }
}

/// What the supervisor waits for.
enum Event {
    /// A gateway said something.
    Said(Pid, Said),
    /// A gateway's end of the channel is closed.
    Gone(Pid),
    /// A signal came.
    Signal(i32),
}

/// A gateway's process.
struct Process {
    pid: Pid,
    stream: UnixStream,
    /// When it last said that all is well.
    alive: Instant,
    /// Whether it has said anything yet.
    has_spoken: bool,
    /// Since when it guards.
    guards: Option<Instant>,
    /// Until when it has to, where it was given the ports of one that died: some wires are cut meanwhile.
    guards_until: Option<Instant>,
    /// Whether its control side has ended for one that takes over: its workers judge on.
    retired: bool,
    /// Why it was killed, where it was.
    hung: Option<String>,
    /// The text of its configuration, where it was handed that.
    config: Option<String>,
}

impl Process {
    /// One that has said nothing yet.
    fn new(pid: Pid, stream: UnixStream) -> Self {
        Self {
            pid,
            stream,
            alive: Instant::now(),
            has_spoken: false,
            guards: None,
            guards_until: None,
            retired: false,
            hung: None,
            config: None,
        }
    }
}

/// How far a gateway has come that is to take another one's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It makes what can be made beside the other one.
    Prepares,
    /// The other one ends its control side.
    Retires,
    /// It takes over the state.
    TakesOver,
    /// The other one closes its ports.
    Closes,
    /// It opens the ports.
    Opens,
}

/// A gateway that is to take the place of the one that guards.
struct Successor {
    process: Process,
    phase: Phase,
    since: Instant,
    /// When the one that guards was told to close its ports.
    closes: Option<Instant>,
}

struct Supervisor {
    program: PathBuf,
    args: RunArgs,
    config: Config,
    /// The text of `config`, where there is room to hand it on.
    text: Option<String>,
    /// The text by which a gateway guarded last.
    guarded_by: Option<String>,
    bypasses: Bypasses,
    history: History,
    events: Receiver<Event>,
    sender: Sender<Event>,
    current: Option<Process>,
    successor: Option<Successor>,
    /// Processes that ended their part and are left to end.
    leaving: Vec<(Process, Instant)>,
    /// When the next gateway is started, while there is none.
    next_start: Instant,
    failures: u32,
    /// Whether a renewal was asked for while a gateway started.
    renewal_asked: bool,
    /// Whether a reload was.
    reload_asked: bool,
    /// When another gateway is to take over from one that has retired for one that could not.
    next_renewal: Option<Instant>,
    /// When this process renews itself.
    next_renewal_of_itself: Option<Instant>,
    /// Why wires are bypassed, while relays have yet to say whether they carry them.
    engaging: Option<String>,
    /// When relays that failed to are told again to carry, and why.
    next_engage: Option<(Instant, String)>,
    /// Those wires of which it was said that everything passes unjudged.
    said_of: Vec<String>,
    /// When bypasses are told to let go, of a gateway that guards.
    next_release: Option<Instant>,
    has_guarded: bool,
    watchdog: Watchdog,
    looked: Instant,
}

impl Supervisor {
    fn new(args: &RunArgs, config: Config) -> Result<Self, String> {
        let program = std::env::current_exe()
            .map_err(|error| format!("the supervisor does not know its own program: {error}"))?;
        let (sender, events) = unbounded();
        let mut caught = Signals::new(signals::CAUGHT)
            .map_err(|error| format!("cannot catch signals: {error}"))?;
        // No thread but this one takes them, so that they wait when it holds them.
        signals::hold();
        let to = sender.clone();
        let listener = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in caught.forever() {
                if to.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        });
        listener.map_err(|error| format!("cannot start a thread: {error}"))?;
        // Those that came while this process renewed itself have waited until now.
        signals::let_go();
        let mut supervisor = Self::of(program, args.clone(), config, (sender, events));
        if let Some(pid) = args.adopt.filter(|&pid| pid > 0).and_then(Pid::from_raw) {
            supervisor.adopt(pid)?;
        } else if !supervisor.bypasses.is_empty() {
            supervisor.bypass("no gateway runs yet", PATIENCE);
        }
        Ok(supervisor)
    }

    /// One that has no gateway yet.
    fn of(
        program: PathBuf,
        args: RunArgs,
        config: Config,
        (sender, events): (Sender<Event>, Receiver<Event>),
    ) -> Self {
        Self {
            program,
            history: history_of(&args),
            args,
            bypasses: Bypasses::new(&config),
            config,
            text: None,
            guarded_by: None,
            events,
            sender,
            current: None,
            successor: None,
            leaving: Vec::new(),
            next_start: Instant::now(),
            failures: 0,
            renewal_asked: false,
            reload_asked: false,
            next_renewal: None,
            next_renewal_of_itself: None,
            engaging: None,
            next_engage: None,
            said_of: Vec::new(),
            next_release: None,
            has_guarded: false,
            watchdog: Watchdog::default(),
            looked: Instant::now(),
        }
    }

    fn run(mut self) -> Result<u8, String> {
        loop {
            self.watchdog.alive();
            match self.events.recv_timeout(TICK) {
                Ok(Event::Signal(SIGTERM | SIGINT)) => return Ok(self.stop()),
                Ok(Event::Signal(SIGHUP)) => self.reload(),
                Ok(Event::Signal(_)) => self.renew(),
                Ok(Event::Said(pid, said)) => self.hear(pid, said),
                Ok(Event::Gone(pid)) => {
                    if let Some(code) = self.gone(pid) {
                        return Ok(code);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("no events any more".to_owned()),
            }
            self.look_after();
            let is_none = self.current.is_none() && self.successor.is_none();
            if is_none && Instant::now() >= self.next_start {
                let last = self.history.last.clone();
                if self.take_config() {
                    let last = last.unwrap_or_else(|| "no gateway runs".to_owned());
                    let why = format!("{last}; the configuration was changed since");
                    self.bypass(&why, PATIENCE);
                }
                match self.spawn(false) {
                    Ok(process) => self.current = Some(process),
                    Err(error) => {
                        error!("{error}");
                        self.wait_before_start();
                    }
                }
            }
        }
    }

    /// Has the gateway read its policy anew. One that does not guard yet may have read it already, and does not take
    /// signals yet; one that has retired does not any more.
    fn reload(&mut self) {
        let is_followed = self.successor.as_ref().is_some_and(|s| s.phase != Phase::Prepares);
        match &self.current {
            Some(process) if process.guards.is_some() && !process.retired && !is_followed => {
                let _ = kill_process(process.pid, Signal::HUP);
            }
            _ => self.reload_asked = true,
        }
    }

    /// The same, where it was asked for before this one guarded.
    fn reload_as_asked(&mut self) {
        if std::mem::take(&mut self.reload_asked) {
            self.reload();
        }
    }

    /// Takes up the configuration as it is now, for the gateway that starts next: what fails open, and which ports it
    /// has, has to be the same for both. Where it makes no sense, the one by which a gateway guarded last goes on.
    /// Returns whether anything is different: what is new has yet to be bypassed then.
    fn take_config(&mut self) -> bool {
        self.take_config_of(None)
    }

    /// The same, but as a gateway has it that was handed one: that takes over, whatever the file says by now.
    fn take_config_of(&mut self, handed: Option<&str>) -> bool {
        let handed = handed.and_then(|text| {
            Some((Config::of_text(&self.args.config, text).ok()?, text.to_owned()))
        });
        let (config, text) = match handed.map_or_else(|| self.read_config(), Ok) {
            Ok(read) => read,
            Err(error) => {
                let handed = self
                    .guarded_by
                    .clone()
                    .and_then(|text| Some((Config::of_text(&self.args.config, &text).ok()?, text)));
                let Some(handed) = handed else { return false };
                error!(
                    "the configuration makes no sense, and the one by which a gateway guarded last goes on:\n{error}"
                );
                handed
            }
        };
        self.text = to_hand_on(text);
        if config == self.config {
            return false;
        }
        self.go_by(config);
        match clear_closed(&self.config) {
            Ok(()) => self.change_written(|written| {
                let relays = &written.relays;
                written.wires.retain(|wire| self.bypasses.has(wire) || relays.contains(wire));
            }),
            Err(error) => error!("{error}"),
        }
        if self.bypasses.is_empty() {
            self.account_for_bypass();
        }
        true
    }

    /// Changes what is written down of a bypass, where anything is.
    fn change_written(&self, change: impl FnOnce(&mut Bypassed)) {
        if let Err(error) = Bypassed::change(&self.config.control_socket, change) {
            warn!("{NOT_WRITTEN}: {error}");
        }
    }

    /// Goes by another configuration. Relays that it does not name any more are told to let go meanwhile.
    fn go_by(&mut self, config: Config) {
        self.bypasses.renew(&config);
        let [from, to] = [&self.config, &config].map(|config| &config.control_socket);
        if let Err(error) = Bypassed::move_to(from, to) {
            warn!("{NOT_WRITTEN}: {error}");
        }
        self.config = config;
    }

    /// Goes by the configuration by which a gateway guards already.
    fn bypass_as_told(&mut self, handed: Option<&str>) {
        let handed = handed.and_then(|text| Config::of_text(&self.args.config, text).ok());
        if let Some(config) = handed.filter(|config| *config != self.config) {
            self.go_by(config);
        }
    }

    fn read_config(&self) -> Result<(Config, String), ConfigError> {
        let text = Config::text(&self.args.config)?;
        Ok((Config::of_text(&self.args.config, &text)?, text))
    }

    /// Starts a gateway's process.
    fn spawn(&self, takes_over: bool) -> Result<Process, String> {
        let cannot =
            |error: std::io::Error| format!("cannot start {}: {error}", self.program.display());
        let (ours, theirs) = channel::pair().map_err(cannot)?;
        let mut command = self.command();
        command.arg("--supervised").arg("--history").arg(self.told_history());
        if takes_over {
            command.arg("--takeover");
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        // Its watchdog is this process, which in turn feeds the service manager's.
        command.env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        // Another program may read one that makes no sense to this one, and refuses what it does not read.
        let text = match takes_over {
            true => Config::text(&self.args.config).ok().and_then(to_hand_on),
            false => self.text.clone(),
        };
        hand_on(&mut command, text.as_deref());
        let child = command.spawn().map_err(cannot)?;
        let pid = Pid::from_child(&child);
        info!(pid = pid.as_raw_nonzero(), takes_over, "a gateway starts");
        match self.process(pid, ours) {
            Ok(process) => Ok(Process { config: text, ..process }),
            Err(error) => {
                // It would guard, and nobody would hear of it.
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
                Err(error)
            }
        }
    }

    /// The command line of this very gateway.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--config").arg(&self.args.config);
        command.args(self.args.log_args());
        command
    }

    fn told_history(&self) -> String {
        serde_json::to_string(&self.history).unwrap_or_else(|_| "{}".to_owned())
    }

    /// A process that is there, with what it says as events.
    fn process(&self, pid: Pid, stream: UnixStream) -> Result<Process, String> {
        let reader = stream.try_clone().map_err(|error| format!("cannot listen: {error}"))?;
        let to = self.sender.clone();
        signals::hold();
        let listener = thread::Builder::new().name("gateway".to_owned()).spawn(move || {
            channel::receive(reader, |said| {
                let _ = to.send(Event::Said(pid, said));
            });
            let _ = to.send(Event::Gone(pid));
        });
        signals::let_go();
        listener.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Process::new(pid, stream))
    }

    /// Goes on with a gateway that this process started before it was renewed itself: its channel is the
    /// standard input.
    fn adopt(&mut self, pid: Pid) -> Result<(), String> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned();
        let stream = stdin.map_err(|error| format!("the gateway's channel is lost: {error}"))?;
        let mut process = self.process(pid, UnixStream::from(stream))?;
        process.guards = Some(Instant::now());
        process.config = std::env::var(HANDED_CONFIG).ok();
        self.guarded_by.clone_from(&process.config);
        self.current = Some(process);
        self.has_guarded = true;
        // The process that this one was may have left something that does not let go, and relays of a wire that came
        // with this configuration carry it until they are told.
        self.next_release = Some(Instant::now());
        info!(pid = pid.as_raw_nonzero(), "the renewed supervisor goes on with the gateway");
        Ok(())
    }

    fn hear(&mut self, pid: Pid, said: Said) {
        if let Some(successor) = self.successor.as_mut().filter(|s| s.process.pid == pid) {
            (successor.process.alive, successor.process.has_spoken) = (Instant::now(), true);
            let is_free = self.current.as_ref().is_some_and(|process| process.retired);
            match said {
                Said::Prepared if is_free => {
                    self.advance(Phase::Prepares, Phase::TakesOver, Told::TakeOver);
                }
                Said::Prepared => {
                    self.advance(Phase::Prepares, Phase::Retires, Told::Retire);
                }
                Said::WantsPorts => {
                    self.advance(Phase::TakesOver, Phase::Closes, Told::Close);
                }
                Said::Guards => self.change_places(),
                Said::Hangs(what) => self.give_up_successor(&what),
                Said::Alive | Said::Retired | Said::Unread(_) | Said::Closed | Said::Restart => {}
            }
            return;
        }
        let Some(process) = self.current.as_mut().filter(|process| process.pid == pid) else {
            return;
        };
        process.has_spoken = true;
        match said {
            Said::Alive => process.alive = Instant::now(),
            Said::Hangs(what) => self.hang(what),
            Said::Guards => {
                process.guards = Some(Instant::now());
                self.guarded_by.clone_from(&process.config);
                self.has_guarded = true;
                self.start_release();
                self.reload_as_asked();
                if std::mem::take(&mut self.renewal_asked) {
                    self.renew();
                }
            }
            Said::Retired => {
                process.retired = true;
                if self.successor.is_none() {
                    // The one that it has retired for was given up meanwhile.
                    self.next_renewal.get_or_insert(Instant::now() + RENEWAL_PAUSE);
                }
                self.advance(Phase::Retires, Phase::TakesOver, Told::TakeOver);
            }
            Said::Unread(unread) => {
                self.history.unread.flows += unread.flows;
                self.history.unread.frames += unread.frames;
                if let Some(successor) = &self.successor {
                    tell(&successor.process, Told::Unread(unread));
                }
            }
            Said::Closed => {
                // Its part is over: it ends by itself. Where its successor was given up meanwhile, it was killed.
                if self.advance(Phase::Closes, Phase::Opens, Told::Ports) {
                    self.leaving.extend(self.current.take().map(|old| (old, Instant::now())));
                }
            }
            Said::Restart => self.renew(),
            Said::Prepared | Said::WantsPorts => {}
        }
    }

    /// Starts a gateway that is to take the place of the one that guards.
    fn renew(&mut self) {
        let guards = self.current.as_ref().is_some_and(|process| process.guards.is_some());
        if self.successor.is_some() {
            warn!("a restart is asked for while another gateway takes over: that one will do");
            return;
        }
        if !guards {
            self.renewal_asked = true;
            return;
        }
        self.next_renewal = None;
        match self.spawn(true) {
            Ok(process) => {
                let since = Instant::now();
                let phase = Phase::Prepares;
                self.successor = Some(Successor { process, phase, since, closes: None });
            }
            Err(error) => {
                let has_retired = self.current.as_ref().is_some_and(|process| process.retired);
                self.next_renewal = has_retired.then(|| Instant::now() + RENEWAL_PAUSE);
                error!("{error}; the gateway that runs goes on");
            }
        }
    }

    /// Goes from one step of a renewal to the next. Returns whether it stood at the first of them.
    fn advance(&mut self, from: Phase, to: Phase, told: Told) -> bool {
        let Some(successor) = self.successor.as_mut().filter(|s| s.phase == from) else {
            return false;
        };
        let now = Instant::now();
        (successor.phase, successor.since) = (to, now);
        if to == Phase::Closes {
            successor.closes = Some(now);
        }
        let to_old = matches!(told, Told::Retire | Told::Close);
        match (&self.current, to_old) {
            (Some(process), true) => tell(process, told),
            (None, true) => {}
            (_, false) => tell(&successor.process, told),
        }
        true
    }

    /// The successor guards: it is the gateway from now on.
    fn change_places(&mut self) {
        let Some(Successor { mut process, closes, .. }) = self.successor.take() else { return };
        let stopped = closes.map_or(Duration::ZERO, |since| since.elapsed());
        process.guards = Some(Instant::now());
        self.guarded_by.clone_from(&process.config);
        self.history.updates += 1;
        info!(
            pid = process.pid.as_raw_nonzero(),
            stopped_us = stopped.as_micros() as u64,
            "the gateway is renewed"
        );
        tell(&process, Told::Renewed(u64::try_from(stopped.as_micros()).unwrap_or(u64::MAX)));
        // Should this one not be renewed: what it closed is not opened when it dies.
        self.bypass_as_told(process.config.as_deref());
        self.current = Some(process);
        self.start_release();
        self.reload_as_asked();
        self.next_renewal_of_itself = Some(Instant::now());
    }

    /// Whether nothing is under way that a renewed program would not know of.
    fn can_renew_itself(&mut self) -> bool {
        let guards = |process: &Process| {
            process.guards.is_some() && process.hung.is_none() && !process.retired
        };
        self.current.as_ref().is_some_and(guards)
            && self.successor.is_none()
            && self.next_renewal.is_none()
            && self.leaving.is_empty()
            && !self.bypasses.is_releasing()
            && !self.bypasses.are_at_work()
    }

    /// Runs the program that is installed now in the place of this one: same process, same child.
    fn renew_itself(&mut self) {
        let Some(process) = &self.current else { return };
        let Ok(stream) = process.stream.try_clone() else { return };
        let text = process.config.clone();
        let loaded = match &text {
            // What a gateway of the installed program guards by makes sense to it, if not to this one.
            Some(_) => Ok(()),
            None => Config::load(&self.args.config).map(|_| ()),
        };
        if let Err(error) = loaded {
            // The program would end at once, and with it, where systemd is told so, the gateway.
            if self.next_renewal_of_itself.is_none() {
                error!(
                    "the supervisor is not renewed until the configuration makes sense:\n{error}"
                );
            }
            self.next_renewal_of_itself = Some(Instant::now() + RENEWAL_PAUSE);
            return;
        }
        self.next_renewal_of_itself = None;
        let mut command = self.command();
        command.arg("--supervise").arg("--history").arg(self.told_history());
        command.arg("--adopt").arg(process.pid.as_raw_nonzero().to_string());
        hand_on(&mut command, text.as_deref());
        command.stdin(Stdio::from(OwnedFd::from(stream)));
        // Until the program catches signals again they wait: their default is to end it.
        signals::hold();
        match self.take_queued() {
            Ok(caught) => {
                caught.iter().for_each(|&signal| signals::send_to_self(signal));
                let error = command.exec();
                error!("the supervisor goes on as it is: {}: {error}", self.program.display());
            }
            // It is seen to first.
            Err(events) => {
                self.next_renewal_of_itself = Some(Instant::now());
                for event in events {
                    let _ = self.sender.send(event);
                }
            }
        }
        signals::let_go();
    }

    /// Empties the queue of events for a renewed program. Returns the signals in it, which are to be sent again: held,
    /// they wait.
    ///
    /// # Errors
    ///
    /// All of it, where a gateway said something, or has ended: the renewed program would not hear of that.
    fn take_queued(&self) -> Result<Vec<i32>, Vec<Event>> {
        thread::sleep(CAUGHT_MEANWHILE);
        let events: Vec<Event> = self.events.try_iter().collect();
        let mut signals = Vec::new();
        for event in &events {
            match event {
                Event::Signal(signal) => signals.push(*signal),
                Event::Said(_, Said::Alive) => {}
                Event::Said(..) | Event::Gone(_) => return Err(events),
            }
        }
        Ok(signals)
    }

    /// Kills the gateway, which hangs. What it held, a worker that goes on again included, ends with it. That may take a
    /// while, or for ever where it waits for hardware: relays, which need none of its ports, carry from now on.
    fn hang(&mut self, what: String) {
        let Some(process) = self.current.as_mut().filter(|process| process.hung.is_none()) else {
            return;
        };
        error!(pid = process.pid.as_raw_nonzero(), "the gateway hangs and is killed: {what}");
        let why = format!("{what}, so it was killed");
        process.hung = Some(what);
        let _ = kill_process(process.pid, Signal::KILL);
        if process.guards.is_none() {
            // Wires are bypassed already.
            return;
        }
        // The next gateway goes by it: what it closes is not opened.
        let handed = self.successor.as_ref().and_then(|s| s.process.config.clone());
        self.take_config_of(handed.as_deref());
        if !self.bypasses.relays().is_empty() {
            self.bypass_by_relays(&why);
        }
    }

    /// Ends a successor that does not come up. The gateway that guards goes on where it still can.
    fn give_up_successor(&mut self, why: &str) {
        let Some(successor) = self.successor.take() else { return };
        let pid = successor.process.pid;
        let _ = kill_process(pid, Signal::KILL);
        self.leaving.push((successor.process, Instant::now()));
        let has_retired = self.current.as_ref().is_some_and(|process| process.retired);
        match (successor.phase, has_retired) {
            (Phase::Prepares, false) => {
                error!("the new gateway was given up, the one that runs goes on: {why}");
                return;
            }
            // No port has changed hands: nothing is cut, and nothing bypassed.
            (Phase::Prepares | Phase::Retires | Phase::TakesOver, _) if self.current.is_some() => {
                self.next_renewal = Some(Instant::now() + RENEWAL_PAUSE);
                error!(
                    "the new gateway was given up; the workers of the one that runs judge on, without control, \
                     until another takes over: {why}"
                );
                notice::status("judging on without control: the new gateway does not come up");
                return;
            }
            _ => {}
        }
        self.history.crashes += 1;
        error!(
            "the new gateway was given up after it had taken over the state: {why}; starting anew"
        );
        if self.current.is_some() {
            self.hang(format!("a renewal failed: {why}"));
            return;
        }
        // Whatever they have of the ports still is in the way of the kernel's bypass.
        self.end_leaving(HANDS_OFF_LIMIT);
        // The next gateway goes by it: what it closes is not opened once more.
        self.take_config();
        self.bypass(&format!("a renewal failed: {why}"), PATIENCE);
        self.wait_before_start();
    }

    /// Looks at every deadline.
    fn look_after(&mut self) {
        let (now, before) = (Instant::now(), self.looked);
        self.looked = now;
        // Whoever did not look for a while (the machine stood still) accuses nobody of it.
        let late = now.duration_since(before).saturating_sub(5 * TICK);
        let limit = self.config.hang;
        let said_nothing = || format!("it has said nothing for {} ms", limit.as_millis());
        for process in
            self.current.iter_mut().chain(self.successor.iter_mut().map(|s| &mut s.process))
        {
            process.alive = (process.alive + late).min(now);
            process.guards_until = process.guards_until.map(|until| until + late);
        }
        // Whoever has said nothing yet is not there yet.
        let is_silent = |process: &Process| {
            let limit = if process.has_spoken { limit } else { limit.max(FIRST_WORD_LIMIT) };
            process.alive.elapsed() > limit
        };
        if let Some(process) = &self.current {
            let is_late =
                process.guards.is_none() && process.guards_until.is_some_and(|at| now >= at);
            if is_silent(process) {
                self.hang(said_nothing());
            } else if is_late {
                self.hang(format!("it did not open its ports within {HANDOVER_LIMIT:?}"));
            }
        }
        if let Some(successor) = &self.successor {
            let may_take = match successor.phase {
                // The workers of the one that guards judge on meanwhile.
                Phase::Prepares | Phase::Retires | Phase::TakesOver => PREPARE_LIMIT,
                Phase::Closes | Phase::Opens => HANDOVER_LIMIT,
            };
            if is_silent(&successor.process) {
                self.give_up_successor(&said_nothing());
            } else if successor.since.elapsed() > may_take {
                let why = format!("{:?} took longer than {may_take:?}", successor.phase);
                self.give_up_successor(&why);
            }
        }
        self.go_on_with_bypass();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if is_due(self.next_renewal) && self.successor.is_none() {
            self.renew();
        }
        let judges = |process: &Process| process.guards.is_some() && process.hung.is_none();
        let judges = self.current.as_ref().is_some_and(judges);
        if is_due(self.next_release) && judges {
            if let Some(left) = self.bypasses.try_release() {
                self.released(&left);
            }
        }
        if judges && self.bypasses.feed() {
            warn!(target: kind::BYPASS, "relays were not told for a while that a gateway judges; they are told to let go");
            self.next_release = Some(now);
        }
        if self.next_engage.take_if(|(at, _)| now >= *at && !judges).is_some_and(|(_, why)| {
            let are_any = self.bypasses.start_again();
            self.engaging = are_any.then_some(why);
            are_any
        }) {
            info!("relays that failed are told to carry once more");
        }
        self.go_on_with_dropped();
        if is_due(self.next_renewal_of_itself) && self.can_renew_itself() {
            self.renew_itself();
        }
        self.leaving.retain(|(process, since)| {
            if since.elapsed() > END_LIMIT {
                let _ = kill_process(process.pid, Signal::KILL);
            }
            ended(process.pid).is_none()
        });
    }

    /// Kills those that ended their part, and waits for `limit` at most until they have ended.
    fn end_leaving(&mut self, limit: Duration) {
        for (process, _) in &self.leaving {
            let _ = kill_process(process.pid, Signal::KILL);
        }
        let begun = Instant::now();
        while !self.leaving.is_empty() && begun.elapsed() < limit {
            self.watchdog.alive();
            self.leaving.retain(|(process, _)| ended(process.pid).is_none());
            thread::sleep(LOOK_INTERVAL);
        }
    }

    fn wait_for_leaving(&mut self) {
        for (process, _) in self.leaving.drain(..) {
            let _ = wait_for_end(process.pid, END_LIMIT, &mut self.watchdog);
        }
    }

    /// A gateway has closed its end: it is dead, or dies. Returns the exit code where that is the end.
    fn gone(&mut self, pid: Pid) -> Option<u8> {
        if self.successor.as_ref().is_some_and(|s| s.process.pid == pid) {
            self.give_up_successor("it ended; its last lines in the log say why");
            return None;
        }
        let process = self.current.take_if(|process| process.pid == pid)?;
        let begun = Instant::now();
        self.next_renewal = None;
        // The kernel closes a process's files once its last thread has ended. One that has closed this one
        // only does not go on either.
        let _ = kill_process(pid, Signal::KILL);
        if process.guards.is_some() {
            // One that never guarded had no ports: another gateway may.
            self.bypasses.begin();
        }
        let status = wait_for_end(pid, END_LIMIT, &mut self.watchdog);
        let code = match status {
            End::Exited(code) => Some(code),
            End::Signalled(_) | End::Unknown => None,
        };
        if process.guards.is_none() && !self.has_guarded {
            // It would not start, and said why: whoever started this one knows better what to do.
            self.bypass("the gateway does not start", Duration::MAX);
            return Some(
                code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::UNAVAILABLE),
            );
        }
        let why = match &process.hung {
            Some(what) => format!("{what}, so it was killed"),
            None => format!("it ended by itself, by {status}"),
        };
        match &process.hung {
            Some(_) => self.history.hangs += 1,
            None => self.history.crashes += 1,
        }
        if process.guards.is_some() {
            self.failures = 0;
        }
        // The next gateway goes by it: what it closes stays open no longer than the dead one's ends take.
        let handed = self.successor.as_ref().and_then(|s| s.process.config.clone());
        self.take_config_of(handed.as_deref());
        if let Some(mut successor) = self.successor.take() {
            warn!("{why}: the gateway that was to take over does so at once");
            // One that waits for nothing but the ports opens them within a moment: the kernel's bypass, which claims
            // them to the end, would be in its way. Should it take longer, it is the next one that hangs.
            let opens_at_once = successor.phase == Phase::Closes;
            if opens_at_once {
                self.bypass_by_relays(&why);
                successor.process.guards_until = Some(Instant::now() + HANDOVER_LIMIT);
            } else {
                self.bypass(&why, PATIENCE);
            }
            // Whatever it waited for is its own now.
            tell(&successor.process, Told::History(self.history.clone()));
            tell(&successor.process, Told::TakeOver);
            tell(&successor.process, Told::Ports);
            successor.process.alive = Instant::now();
            self.current = Some(successor.process);
            return None;
        }
        self.bypass(&why, PATIENCE);
        info!(took_us = begun.elapsed().as_micros() as u64, "it is bypassed where it fails open");
        self.wait_before_start();
        None
    }

    /// When the next gateway starts.
    fn wait_before_start(&mut self) {
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => (FIRST_PAUSE * 2_u32.pow(failures.min(10) - 1)).min(LONGEST_PAUSE),
        };
        self.failures = self.failures.saturating_add(1);
        self.next_start = Instant::now() + pause;
    }

    /// No gateway is left: wires that fail open carry everything from now on. Relays that have not said so after
    /// `patience` are asked again with all that is looked after.
    fn bypass(&mut self, why: &str, patience: Duration) {
        self.bypasses.start_engaging();
        self.engage(why, patience);
    }

    /// The same beside a gateway that is about to open the ports, without waiting for anything.
    fn bypass_by_relays(&mut self, why: &str) {
        self.bypasses.start_engaging_relays();
        self.engage(why, Duration::ZERO);
    }

    fn engage(&mut self, why: &str, patience: Duration) {
        let begun = Instant::now();
        self.next_release = None;
        if !self.bypasses.relays().is_empty() {
            // Ahead of their programs: one that says nothing may have switched them all the same.
            self.write_bypassed(&[], why);
        }
        let engaged = loop {
            self.watchdog.alive();
            let engaged = self.bypasses.try_engage();
            let is_patient = begun.elapsed() < patience;
            match engaged.filter(|engaged| engaged.pending.is_empty() || !is_patient) {
                Some(engaged) if !self.bypasses.is_dropping() || !is_patient => break engaged,
                _ => thread::sleep(LOOK_INTERVAL),
            }
        };
        self.go_on_with_dropped();
        self.bypassed(why, &engaged);
        self.engaging = (!engaged.pending.is_empty()).then(|| why.to_owned());
        self.next_engage = Some((Instant::now() + ENGAGE_INTERVAL, why.to_owned()));
    }

    /// Writes down that these wires pass unjudged, and that relays were told to. Returns since when, in milliseconds
    /// since the Unix epoch.
    fn write_bypassed(&self, wires: &[String], why: &str) -> i64 {
        let socket = &self.config.control_socket;
        let whose = ("the supervisor", why);
        let bypassed = Bypassed::engaged(wires, &self.bypasses.relays(), whose, socket);
        if let Err(error) = bypassed.write(socket) {
            warn!("{NOT_WRITTEN}: {error}");
        }
        bypassed.since_unix_ms
    }

    /// Hears whether relays carry their wires by now.
    fn go_on_with_bypass(&mut self) {
        let Some(why) = self.engaging.take() else { return };
        match self.bypasses.try_engage().filter(|engaged| engaged.pending.is_empty()) {
            Some(engaged) => {
                self.go_on_with_dropped();
                self.bypassed(&why, &engaged);
                self.next_engage = Some((Instant::now() + ENGAGE_INTERVAL, why));
            }
            None => self.engaging = Some(why),
        }
    }

    /// Says what is bypassed now.
    fn bypassed(&mut self, why: &str, engaged: &Engaged) {
        // Relays may carry a wire as soon as they are told to.
        let now = unix_now_ms().unwrap_or_default();
        let written_since = match engaged.wires.is_empty() {
            true => now,
            false => self.write_bypassed(&engaged.wires, why),
        };
        // What a gateway has ended counts no longer, whoever had begun it.
        let since = if self.has_guarded { now } else { written_since };
        let are_any = !engaged.wires.is_empty() || !engaged.pending.is_empty();
        if are_any && self.history.bypassed_since_unix_ms.is_none() {
            self.history.bypasses += 1;
            self.history.bypassed_since_unix_ms = Some(since);
        }
        self.said_of.retain(|wire| !engaged.failed.contains(wire));
        for wire in engaged.wires.iter().chain(&engaged.pending) {
            if !self.said_of.contains(wire) {
                warn!(target: kind::BYPASS, wire, "everything passes unjudged: {why}");
                self.said_of.push(wire.clone());
            }
        }
        let line = format!("{why}; {engaged}");
        warn!("no gateway judges: {line}");
        notice::status(&format!("no gateway judges: {engaged}"));
        self.history.last = Some(line);
    }

    /// A gateway guards: it has ended the kernel's bypasses itself, before its ports rose. Relays are told with all
    /// that is looked after, so that nobody waits for their programs.
    fn start_release(&mut self) {
        self.history.last = None;
        (self.engaging, self.next_engage) = (None, None);
        self.account_for_bypass();
        self.next_release = Some(Instant::now());
    }

    /// All bypasses were told to let go, and those of the wires in `left` do not.
    fn released(&mut self, left: &[String]) {
        self.next_release = (!left.is_empty()).then(|| Instant::now() + RELEASE_INTERVAL);
        let socket = &self.config.control_socket;
        // The gateway may have ended it already, after a bypass by hand too.
        let written = Bypassed::read(socket);
        let untold = self.bypasses.cannot_release(written.as_ref());
        for wire in &untold {
            error!(target: kind::BYPASS, wire, "{RELAYS_UNTOLD}");
        }
        let mut still = [left, &untold].concat();
        let is_written =
            |wire: &String| written.as_ref().is_some_and(|written| written.relays.contains(wire));
        still.extend(self.bypasses.dropped().into_iter().filter(is_written));
        still.sort();
        still.dedup();
        let outcome = match still.is_empty() {
            true => Bypassed::end(socket),
            false => Bypassed::left(still.clone(), written.as_ref()).write(socket),
        };
        if let Err(error) = outcome {
            warn!("{NOT_WRITTEN}: {error}");
        }
        for wire in written.iter().flat_map(|written| &written.wires) {
            if !still.contains(wire) {
                info!(target: kind::BYPASS, wire, "nothing passes unjudged any more");
            }
        }
    }

    /// Adds up how long wires were bypassed, where they were until now.
    fn account_for_bypass(&mut self) {
        self.said_of.clear();
        if let Some(since) = self.history.bypassed_since_unix_ms.take() {
            let took = unix_now_ms().map_or(0, |now| now.saturating_sub(since));
            self.history.bypassed_ms += u64::try_from(took).unwrap_or(0);
        }
    }

    /// Goes on with letting relays go for good. By now the kernel may carry their wires, or other relays, which say so
    /// later.
    fn go_on_with_dropped(&mut self) {
        let gone = self.bypasses.let_go();
        if gone.is_empty() {
            return;
        }
        let guards = self.current.as_ref().is_some_and(|process| process.guards.is_some());
        let relays = self.bypasses.relays();
        self.change_written(|written| {
            written.relays.retain(|wire| !gone.contains(wire) || relays.contains(wire));
            let by_kernel =
                |wire: &String| !guards && self.bypasses.has(wire) && !relays.contains(wire);
            written.wires.retain(|wire| !gone.contains(wire) || by_kernel(wire));
        });
        for wire in &gone {
            info!(target: kind::BYPASS, wire, "its relays have let go: no configuration names their program");
        }
        if guards {
            // Where another program works such a wire, that one may have let go before.
            self.next_release = Some(Instant::now());
        }
    }

    /// Ends the gateway, and bypasses what fails open. Returns the exit code.
    fn stop(&mut self) -> u8 {
        info!("the supervisor is told to stop");
        notice::stopping();
        if let Some(successor) = self.successor.take() {
            let _ = kill_process(successor.process.pid, Signal::KILL);
            let _ = wait_for_end(successor.process.pid, END_LIMIT, &mut self.watchdog);
        }
        let mut code = exit::OK;
        if let Some(process) = self.current.take() {
            // Where another one was to take its place, it waits for nothing but this.
            tell(&process, Told::Close);
            let _ = kill_process(process.pid, Signal::TERM);
            if let End::Exited(its) = wait_for_end(process.pid, END_LIMIT, &mut self.watchdog) {
                code = u8::try_from(its).unwrap_or(exit::UNAVAILABLE);
            }
        }
        self.wait_for_leaving();
        self.bypass("the gateway was told to stop", Duration::MAX);
        code
    }
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Exited(i32),
    Signalled(i32),
    Unknown,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("nobody knows what"),
        }
    }
}

/// How a child ended; [`None`] while it has not.
fn ended(pid: Pid) -> Option<End> {
    match waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(None) => None,
        Ok(Some((_, status))) => Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Exited(code),
            (None, Some(signal)) => End::Signalled(signal),
            (None, None) => return None,
        }),
        Err(_) => Some(End::Unknown),
    }
}

/// Waits for a child's end, and kills it when that takes longer than `limit`. Whatever it had open is
/// closed then. The service manager hears that all is well for no longer than that.
fn wait_for_end(pid: Pid, limit: Duration, watchdog: &mut Watchdog) -> End {
    let begun = Instant::now();
    let mut killed = false;
    loop {
        if let Some(end) = ended(pid) {
            return end;
        }
        if begun.elapsed() <= limit {
            watchdog.alive();
        } else if !killed {
            killed = true;
            let _ = kill_process(pid, Signal::KILL);
        }
        // A process that cannot die (it waits for hardware) is waited for: its ports are its own.
        thread::sleep(Duration::from_micros(500));
    }
}

fn tell(process: &Process, told: Told) {
    if let Err(error) = channel::send(&process.stream, &told) {
        warn!(pid = process.pid.as_raw_nonzero(), "the gateway cannot be told {told:?}: {error}");
    }
}

/// A text that a variable can hold.
fn to_hand_on(text: String) -> Option<String> {
    Some(text).filter(|text| text.len() <= MAX_HANDED_BYTES && !text.contains('\0'))
}

/// Hands a configuration on, or has the program read the file.
fn hand_on(command: &mut Command, text: Option<&str>) {
    match text {
        Some(text) => command.env(HANDED_CONFIG, text),
        None => command.env_remove(HANDED_CONFIG),
    };
}

fn history_of(args: &RunArgs) -> History {
    let text = args.history.as_deref().unwrap_or("{}");
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests;
