//! What carries the frames of a wire that fails open while no gateway judges them.

use std::fmt;
#[cfg(feature = "dpdk")]
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tracing::{error, warn};

use super::bypassed::Bypassed;
use crate::config::{Config, Fail, Wire};
use crate::log::kind;

/// What is said of relays that are engaged and have no program any more.
pub const RELAYS_UNTOLD: &str = "frames may pass unjudged by relays that nothing tells to let go: have their wire \
    name its `bypass-command` again (`fail = \"open\"`) until they have, or work them by hand and remove the file \
    `….bypass.json` beside the control socket";

/// How long the program of a hardware bypass may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(2);

/// How long one that is killed is waited for before another one is started.
const KILL_LIMIT: Duration = Duration::from_millis(100);

/// How many of a wire's programs may be there that were killed and do not end, before no more are started.
const MAX_LEFT_BEHIND: usize = 4;
const NEVER_ENDS: &str = "bypass-command: what ran before was killed, but does not end";

/// How often a program is looked at that is waited for.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// How often a hardware bypass is told that the gateway is alive.
const FEED_INTERVAL: Duration = Duration::from_secs(1);

/// How often, and how far apart, a bypass is tried that did not come.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// What can carry a wire's frames unjudged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// The kernel, from one port to the other.
    Kernel,
    /// Hardware, which a program works.
    Command,
    /// Nothing: the wire fails closed, whatever its configuration says.
    None,
}

impl Means {
    /// What there is for a wire that fails open. A program goes before the kernel: whoever names one has
    /// relays, which hold without a kernel, too.
    pub fn of(wire: &Wire) -> Self {
        if !wire.failure.command.is_empty() {
            Self::Command
        } else if interfaces(wire).is_some() {
            Self::Kernel
        } else {
            Self::None
        }
    }

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Command => "command",
            Self::None => "none",
        }
    }
}

/// A way past the gateway, for one wire. It outlives the process that engages it.
pub trait Bypass: Send {
    /// Lets every frame pass unjudged, without waiting: [`None`] while it is under way, and to be called again. The
    /// kernel's way is to be gone only while no gateway has the wire's ports, and takes one call.
    ///
    /// # Errors
    ///
    /// What failed and the remedy: the wire is cut.
    fn engage(&mut self) -> Option<Result<(), String>>;

    /// What of it can be done before all that a dead gateway held is given back: no thread of it is left.
    /// [`Self::engage`] follows, and says what failed.
    fn begin(&mut self) {}

    /// Ends that, without waiting: [`None`] while it is under way, and to be called again. For the kernel's way
    /// this is the gateway's part, between its ports' opening and their start: see [`release_all`].
    ///
    /// # Errors
    ///
    /// What failed and the remedy: frames may pass unjudged.
    fn release(&mut self) -> Option<Result<(), String>>;

    /// A gateway judges still: for hardware with a watchdog of its own, which engages by itself when it
    /// is not told this for a while. May be called as often as one likes.
    fn feed(&mut self) {}
}

/// The bypass of a wire that fails open; [`None`] where it fails closed, or nothing can bypass it.
pub fn of(wire: &Wire, mtu: u16) -> Option<Box<dyn Bypass>> {
    if wire.failure.fail == Fail::Closed {
        return None;
    }
    match Means::of(wire) {
        Means::Kernel => {
            let (inside, outside) = interfaces(wire)?;
            Some(Box::new(KernelBypass { wire: wire.name.clone(), inside, outside, mtu }))
        }
        Means::Command => Some(Box::new(CommandBypass {
            wire: wire.name.clone(),
            command: wire.failure.command.clone(),
            fed: None,
            feeding: None,
            at_work: None,
            killed: Vec::new(),
        })),
        Means::None => None,
    }
}

/// Takes away what an earlier run has left at wires that fail closed: from now on nothing passes that
/// no worker judges.
///
/// # Errors
///
/// Where frames may go on passing: the wire, why, and the remedy.
pub fn clear_closed(config: &Config) -> Result<(), String> {
    give_up(config)?;
    let closed = config.wires.iter().filter(|wire| wire.failure.fail == Fail::Closed);
    for wire in closed {
        if release_kernel(wire)? {
            warn!(
                target: kind::BYPASS,
                wire = wire.name,
                "this wire fails closed now: the kernel's bypass was taken away"
            );
        }
    }
    Ok(())
}

/// Ends the kernel's bypass of all wires, so that the gateway's ports can be raised: those that fail closed by now may
/// have been bypassed by one that knew them otherwise. Returns the wires whose
/// frames passed unjudged until now.
///
/// # Errors
///
/// Where frames may go on passing: the wire, why, and the remedy.
pub fn release_all(config: &Config) -> Result<Vec<String>, String> {
    let mut released = Vec::new();
    for wire in &config.wires {
        if release_kernel(wire)? {
            released.push(wire.name.clone());
        }
    }
    Ok(released)
}

/// The kernel interfaces of a wire, inside first, where both its ports are ones.
fn interfaces(wire: &Wire) -> Option<(String, String)> {
    Some((interface_of(&wire.inside)?, interface_of(&wire.outside)?))
}

#[cfg(feature = "dpdk")]
fn interface_of(port: &str) -> Option<String> {
    bulkhead_dpdk::PortName::parse(port).interface().map(str::to_owned)
}

#[cfg(not(feature = "dpdk"))]
fn interface_of(_port: &str) -> Option<String> {
    None
}

#[cfg(feature = "dpdk")]
fn release_kernel(wire: &Wire) -> Result<bool, String> {
    let mut any = false;
    for interface in [&wire.inside, &wire.outside].into_iter().filter_map(|port| interface_of(port))
    {
        match bulkhead_dpdk::redirect::release(&interface) {
            Ok(was) => any |= was,
            // The port will say so, in its own words.
            Err(error) if error.kind() == bulkhead_dpdk::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(format!(
                    "wire {}: frames may pass unjudged, the kernel's bypass cannot be taken away: \
                     {error}; try `tc qdisc del dev {interface} clsact`",
                    wire.name
                ));
            }
        }
    }
    Ok(any)
}

#[cfg(not(feature = "dpdk"))]
fn release_kernel(_wire: &Wire) -> Result<bool, String> {
    Ok(false)
}

/// Keeps beside the control socket how interfaces were found, for whoever is the last to have them.
#[cfg(feature = "dpdk")]
pub fn keep_found(config: &Config) {
    if let Some(folder) = config.control_socket.parent() {
        // Where that fails whoever writes there says so.
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
    }
    bulkhead_dpdk::keep_found_beside(&config.control_socket);
}

/// No interface is changed without DPDK.
#[cfg(not(feature = "dpdk"))]
pub fn keep_found(_config: &Config) {}

/// Ends the bypass of interfaces that no wire names any more, and puts them back as they were found, as far as that
/// is known: what they receive would still come out of a port that a gateway guards.
#[cfg(feature = "dpdk")]
fn give_up(config: &Config) -> Result<(), String> {
    let ports = config.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
    let own: Vec<String> = ports.filter_map(|port| interface_of(port)).collect();
    for interface in bulkhead_dpdk::redirect::put_back(&own, true) {
        warn!(interface, "no wire has this interface any more: it is as it was found");
    }
    let strays = bulkhead_dpdk::redirect::release_strays(&own).map_err(|error| {
        format!("frames may pass unjudged, a bypass that was left cannot be taken away: {error}")
    })?;
    for interface in strays {
        warn!(
            target: kind::BYPASS,
            interface,
            "what this interface received came out of a port of a wire: that bypass was taken away"
        );
    }
    Ok(())
}

#[cfg(not(feature = "dpdk"))]
fn give_up(_config: &Config) -> Result<(), String> {
    Ok(())
}

/// Puts back what a bypass that has ended, or a gateway that was killed, has changed of interfaces that nobody
/// has any more.
#[cfg(feature = "dpdk")]
pub(super) fn put_back() {
    bulkhead_dpdk::redirect::put_back(&[], false);
}

#[cfg(not(feature = "dpdk"))]
pub(super) fn put_back() {}

/// Whether the kernel carries a wire's frames now.
#[cfg(feature = "dpdk")]
pub(super) fn is_kernel_engaged(wire: &Wire) -> Result<bool, String> {
    let Some((inside, outside)) = interfaces(wire) else { return Ok(false) };
    let ask = |interface: &str| {
        bulkhead_dpdk::redirect::is_engaged(interface).map_err(|error| error.to_string())
    };
    Ok(ask(&inside)? || ask(&outside)?)
}

#[cfg(not(feature = "dpdk"))]
pub(super) fn is_kernel_engaged(_wire: &Wire) -> Result<bool, String> {
    Ok(false)
}

/// The kernel carries the frames from one port to the other.
struct KernelBypass {
    wire: String,
    inside: String,
    outside: String,
    mtu: u16,
}

impl Bypass for KernelBypass {
    #[cfg(feature = "dpdk")]
    fn begin(&mut self) {
        let _ = bulkhead_dpdk::redirect::begin(&self.inside, &self.outside);
    }

    #[cfg(feature = "dpdk")]
    fn engage(&mut self) -> Option<Result<(), String>> {
        let engaged = bulkhead_dpdk::redirect::engage(&self.inside, &self.outside, self.mtu);
        for note in engaged.iter().flatten() {
            tracing::info!(wire = self.wire, "{note}");
        }
        Some(engaged.map(|_| ()).map_err(|error| error.to_string()))
    }

    #[cfg(not(feature = "dpdk"))]
    fn engage(&mut self) -> Option<Result<(), String>> {
        let Self { wire, inside, outside, mtu } = self;
        Some(Err(format!("{wire}, {inside}, {outside}, MTU {mtu}: built without DPDK")))
    }

    fn release(&mut self) -> Option<Result<(), String>> {
        Some(Ok(()))
    }
}

/// A program works relays: it is called with `engage`, `release` or `feed`, and the wire's name.
struct CommandBypass {
    wire: String,
    command: Vec<String>,
    fed: Option<Instant>,
    feeding: Option<Run>,
    /// The one that engages or releases.
    at_work: Option<Run>,
    /// Those that were killed and have not ended.
    killed: Vec<Run>,
}

impl CommandBypass {
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

impl Bypass for CommandBypass {
    fn engage(&mut self) -> Option<Result<(), String>> {
        // One beside a release that waits for hardware is the only hope; a crowd is none.
        self.work("engage", MAX_LEFT_BEHIND - 1)
    }

    fn release(&mut self) -> Option<Result<(), String>> {
        self.work("release", 0)
    }

    fn feed(&mut self) {
        if self.fed.is_some_and(|fed| fed.elapsed() < FEED_INTERVAL) {
            return;
        }
        // One that takes longer is not helped by a second one beside it; one that hangs is ended: hardware that is not
        // fed any more lets everything pass beside a gateway that judges.
        if self.feeding.as_mut().is_some_and(|run| run.outcome().is_none() || !run.has_ended()) {
            return;
        }
        self.fed = Some(Instant::now());
        match self.start("feed") {
            Ok(run) => self.feeding = Some(run),
            Err(error) => error!(wire = self.wire, "{error}"),
        }
    }
}

/// How far a wire's bypass has come.
struct Attempts {
    begun: Instant,
    made: u32,
    /// When the next one is due.
    next: Instant,
    /// What came of the last of them.
    outcome: Option<Result<(), String>>,
}

impl Attempts {
    fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, made: 0, next: now, outcome: None }
    }

    fn go_on(&mut self, wire: &str, bypass: &mut dyn Bypass) {
        if self.outcome.is_some() || Instant::now() < self.next {
            return;
        }
        let Some(outcome) = bypass.engage() else { return };
        self.made += 1;
        // A program that hangs once does so again.
        let is_last = self.made == ATTEMPTS || self.begun.elapsed() >= COMMAND_LIMIT;
        match &outcome {
            Err(_) if !is_last => {
                self.next = Instant::now() + PAUSE;
                return;
            }
            Err(error) => error!(wire, "the wire is cut although it fails open: {error}"),
            Ok(()) => {}
        }
        self.outcome = Some(outcome);
    }
}

/// The bypasses of all wires that fail open.
pub struct Bypasses {
    /// Those that the kernel carries come first: it does so at once.
    wires: Vec<(String, Box<dyn Bypass>)>,
    /// Those of them whose relays a program works.
    relays: Vec<String>,
    /// What came of those that were told to carry frames, while others have yet to.
    engaging: Vec<Attempts>,
    /// What came of those that were told to let go, while others have yet to end.
    released: Vec<Option<Result<(), String>>>,
}

impl Bypasses {
    /// Those of a configuration. Wires that fail open and that nothing can bypass are warned of.
    pub fn new(config: &Config) -> Self {
        let mut wires = Vec::new();
        for wire in config.open_wires() {
            match of(wire, config.mtu) {
                Some(bypass) => wires.push((wire.name.clone(), bypass)),
                None => warn!(
                    wire = wire.name,
                    "`fail = \"open\"`, but nothing can bypass this wire: its ports are not both \
                     interfaces that the kernel drives, and there is no `bypass-command`; it fails closed"
                ),
            }
        }
        let relays = config.open_wires().filter(|wire| Means::of(wire) == Means::Command);
        let relays: Vec<String> = relays.map(|wire| wire.name.clone()).collect();
        wires.sort_by_key(|(wire, _)| relays.contains(wire));
        Self { wires, relays, engaging: Vec::new(), released: Vec::new() }
    }

    /// Those wires of a bypass that is written down whose relays nothing here tells to let go: their wire fails
    /// closed by now, or its configuration names no program any more.
    pub fn cannot_release(&self, written: Option<&Bypassed>) -> Vec<String> {
        let relays = written.iter().flat_map(|written| &written.relays);
        relays.filter(|wire| !self.relays.contains(wire)).cloned().collect()
    }

    /// Whether one that was told to let go is still at it.
    pub fn is_releasing(&self) -> bool {
        !self.released.is_empty()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.wires.is_empty()
    }

    /// A gateway has died: what can be done at once is, before [`Self::engage`].
    pub fn begin(&mut self) {
        self.wires.iter_mut().for_each(|(_, bypass)| bypass.begin());
    }

    /// Lets all of them carry frames, and waits until they do or do not. Returns what is to be said of it.
    pub fn engage(&mut self) -> Engaged {
        self.start_engaging();
        loop {
            match self.try_engage() {
                Some(engaged) if engaged.pending.is_empty() => return engaged,
                _ => thread::sleep(LOOK_INTERVAL),
            }
        }
    }

    /// All are to carry frames, those too that did before: a gateway may have had their ports since.
    pub fn start_engaging(&mut self) {
        self.engaging.clear();
        self.released.clear();
    }

    /// Goes on with that without waiting, and is to be called again: [`None`] while the kernel has yet to carry some,
    /// for which it needs their ports, and with those that are pending while programs run. All run at once, so that
    /// one that hangs holds no other up.
    pub fn try_engage(&mut self) -> Option<Engaged> {
        self.engaging.resize_with(self.wires.len(), Attempts::new);
        let mut engaged = Engaged::default();
        let mut needs_ports = false;
        for ((wire, bypass), attempts) in self.wires.iter_mut().zip(&mut self.engaging) {
            attempts.go_on(wire, bypass.as_mut());
            let is_relay = self.relays.contains(wire);
            match &attempts.outcome {
                None if is_relay => engaged.pending.push(wire.clone()),
                None => needs_ports = true,
                Some(Ok(())) => {
                    if is_relay {
                        engaged.relays.push(wire.clone());
                    }
                    engaged.wires.push(wire.clone());
                }
                Some(Err(error)) => {
                    engaged.failed.push(wire.clone());
                    engaged
                        .errors
                        .push(format!("wire {wire} is cut although it fails open: {error}"));
                }
            }
        }
        if needs_ports {
            return None;
        }
        if engaged.pending.is_empty() {
            self.engaging.clear();
        }
        Some(engaged)
    }

    /// Ends those that are not the gateway's to end. Returns the wires where that failed: their frames may pass
    /// unjudged beside a gateway that guards.
    pub fn release(&mut self) -> Vec<String> {
        loop {
            if let Some(left) = self.try_release() {
                return left;
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// The same without waiting for programs: [`None`] while one runs, and to be called again. All run at once, so
    /// that one that hangs holds no other up.
    pub fn try_release(&mut self) -> Option<Vec<String>> {
        self.engaging.clear();
        self.released.resize_with(self.wires.len(), || None);
        for ((_, bypass), released) in self.wires.iter_mut().zip(&mut self.released) {
            if released.is_none() {
                *released = bypass.release();
            }
        }
        if self.released.iter().any(Option::is_none) {
            return None;
        }
        let mut left = Vec::new();
        for ((wire, _), outcome) in self.wires.iter().zip(self.released.drain(..)) {
            if let Some(Err(error)) = outcome {
                error!(target: kind::BYPASS, wire, "frames may pass unjudged: {error}");
                left.push(wire.clone());
            }
        }
        Some(left)
    }

    /// A gateway judges.
    pub fn feed(&mut self) {
        self.wires.iter_mut().for_each(|(_, bypass)| bypass.feed());
    }
}

/// Which wires are bypassed now.
#[derive(Default)]
pub struct Engaged {
    /// Those that are.
    pub wires: Vec<String>,
    /// Those of them whose relays carry them.
    pub relays: Vec<String>,
    /// Those whose relays have yet to say whether they carry them.
    pub pending: Vec<String>,
    /// Those that should be and are cut.
    pub failed: Vec<String>,
    /// Why, for each of these.
    pub errors: Vec<String>,
}

impl fmt::Display for Engaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("passes unjudged", &self.wires),
            ("relays told, that have yet to answer", &self.pending),
            ("cut, though it fails open", &self.failed),
        ];
        let parts = parts.iter().filter(|(_, wires)| !wires.is_empty());
        let parts: Vec<_> =
            parts.map(|(what, wires)| format!("{what}: {}", wires.join(", "))).collect();
        match parts.is_empty() {
            true => f.write_str("nothing passes"),
            false => f.write_str(&parts.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    fn config(ports: (&str, &str), lines: &str) -> Config {
        let text = format!(
            "policy = \"p\"\n[[wire]]\nname = \"w\"\ninside = \"{}\"\noutside = \"{}\"\n{lines}",
            ports.0, ports.1
        );
        Config::parse("g.toml", Path::new(""), &text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    #[cfg(feature = "dpdk")]
    fn only_what_the_kernel_drives_on_both_sides_is_bypassed_by_it() {
        let of =
            |inside, outside| Means::of(&config((inside, outside), "fail = \"open\"\n").wires[0]);
        assert_eq!(of("eth1", "eth2"), Means::Kernel);
        assert_eq!(of("net_af_packet0,iface=eth1", "net_af_xdp0,iface=eth2"), Means::Kernel);
        assert_eq!(of("0000:3b:00.0", "eth2"), Means::None);
        assert_eq!(of("net_ring0", "net_ring1"), Means::None);
        let open = "fail = \"open\"\nbypass-command = [\"/bin/true\"]\n";
        let config = config(("0000:3b:00.0", "0000:3b:00.1"), open);
        assert_eq!(Means::of(&config.wires[0]), Means::Command);
    }

    #[test]
    fn a_program_is_told_what_to_do_and_for_which_wire() {
        let dir = tempfile::tempdir().unwrap();
        let (program, said) = (dir.path().join("bypass"), dir.path().join("said"));
        fs::write(&program, format!("echo \"$@\" >> {}\n", said.display())).unwrap();
        let lines = |argument: &str| {
            let program = program.display();
            format!(
                "fail = \"open\"\nbypass-command = [\"/bin/sh\", \"{program}\", \"{argument}\"]\n"
            )
        };
        let ports = ("0000:3b:00.0", "0000:3b:00.1");
        let mut bypasses = Bypasses::new(&config(ports, &lines("1")));
        assert_eq!(bypasses.engage().to_string(), "passes unjudged: w");
        bypasses.release();
        assert_eq!(fs::read_to_string(&said).unwrap(), "1 engage w\n1 release w\n");
        let mut broken =
            of(&config(ports, "fail = \"open\"\nbypass-command = [\"/no/such\"]\n").wires[0], 1500)
                .unwrap();
        assert!(broken.engage().expect("at once").unwrap_err().contains("/no/such"));
    }

    #[test]
    fn relays_that_hang_hold_nobody_up_and_do_not_let_go_after_the_next_engage() {
        let dir = tempfile::tempdir().unwrap();
        let (program, said) = (dir.path().join("bypass"), dir.path().join("said"));
        // What hangs is a child of the program, as that of a script is.
        let script = "case $1 in release) (sleep 3; echo late >> ";
        let said_by = said.display();
        fs::write(
            &program,
            format!("{script}{said_by}); :;; *) echo \"$1\" >> {said_by};; esac\n"),
        )
        .unwrap();
        let wire = |name: &str| {
            format!(
                "[[wire]]\nname = \"{name}\"\ninside = \"net_ring_{name}0\"\noutside = \"net_ring_{name}1\"\n\
                 fail = \"open\"\nbypass-command = [\"/bin/sh\", \"{}\"]\n",
                program.display()
            )
        };
        let wires: String = ["a", "b", "c"].into_iter().map(wire).collect();
        let text = format!("policy = \"p\"\n{wires}");
        let config = Config::parse("g.toml", Path::new(""), &text);
        let mut bypasses = Bypasses::new(&config.unwrap_or_else(|error| panic!("{error}")));
        let begun = Instant::now();
        assert_eq!(bypasses.try_release(), None, "it is under way");
        bypasses.feed();
        assert!(begun.elapsed() < COMMAND_LIMIT, "nobody waited");
        assert_eq!(bypasses.release(), ["a", "b", "c"]);
        assert!(begun.elapsed() < 2 * COMMAND_LIMIT, "all at once");
        assert_eq!(bypasses.try_release(), None, "once more");
        let engaged = bypasses.engage();
        assert_eq!(engaged.wires, ["a", "b", "c"]);
        assert!(bypasses.released.is_empty(), "nothing lets go any more");
        let said = fs::read_to_string(&said).unwrap();
        assert!(said.contains("feed") && said.ends_with("engage\nengage\nengage\n"), "{said}");
        thread::sleep(Duration::from_millis(3500));
        let later = fs::read_to_string(dir.path().join("said")).unwrap();
        assert_eq!(later, said, "what the program had started has ended with it");
    }

    #[test]
    #[cfg(feature = "dpdk")]
    fn relays_that_hang_are_told_at_once_and_the_kernel_before_them() {
        let wire = |name: &str, ports: &str, more: &str| {
            format!(
                "[[wire]]\nname = \"{name}\"\ninside = \"{ports}0\"\noutside = \"{ports}1\"\n\
                 fail = \"open\"\n{more}"
            )
        };
        let hangs = "bypass-command = [\"/bin/sh\", \"-c\", \"sleep 600; :\"]\n";
        let mut text = "policy = \"p\"\n".to_owned();
        text += &wire("a", "net_ring_a", hangs);
        text += &wire("k", "no-such", "");
        text += &wire("b", "net_ring_b", hangs);
        let config = Config::parse("g.toml", Path::new(""), &text);
        let mut bypasses = Bypasses::new(&config.unwrap_or_else(|error| panic!("{error}")));
        let begun = Instant::now();
        let engaged = bypasses.engage();
        assert_eq!(engaged.failed, ["k", "a", "b"]);
        assert!(begun.elapsed() < 2 * COMMAND_LIMIT, "all at once: {:?}", begun.elapsed());
    }

    /// A kernel's way that counts how often it was gone.
    struct Counted(Arc<AtomicU32>);

    impl Bypass for Counted {
        fn engage(&mut self) -> Option<Result<(), String>> {
            self.0.fetch_add(1, Relaxed);
            Some(Ok(()))
        }

        fn release(&mut self) -> Option<Result<(), String>> {
            Some(Ok(()))
        }
    }

    #[test]
    fn what_a_gateway_may_have_ended_is_engaged_again_beside_relays_that_are_still_at_it() {
        let slow = "fail = \"open\"\nbypass-command = [\"/bin/sh\", \"-c\", \"sleep 600; :\"]\n";
        let mut bypasses = Bypasses::new(&config(("net_ring0", "net_ring1"), slow));
        let gone = Arc::new(AtomicU32::new(0));
        bypasses.wires.insert(0, ("k".to_owned(), Box::new(Counted(gone.clone()))));
        for times in 1..3 {
            bypasses.start_engaging();
            for _ in 0..3 {
                let engaged = bypasses.try_engage().expect("the kernel's way is done");
                assert_eq!(
                    engaged.to_string(),
                    "passes unjudged: k; relays told, that have yet to answer: w"
                );
            }
            assert_eq!(gone.load(Relaxed), times);
        }
        assert_eq!(bypasses.engage().failed, ["w"], "the program is ended in the end");
    }

    #[test]
    fn a_feed_that_hangs_once_is_followed_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let script =
            format!("echo fed >> {0}; [ $(wc -l < {0}) = 1 ] && sleep 600; :", said.display());
        let lines =
            format!("fail = \"open\"\nbypass-command = [\"/bin/sh\", \"-c\", '{script}']\n");
        let mut bypasses = Bypasses::new(&config(("net_ring0", "net_ring1"), &lines));
        let begun = Instant::now();
        while !fs::read_to_string(&said).is_ok_and(|said| said.lines().count() > 1) {
            assert!(
                begun.elapsed() < 4 * COMMAND_LIMIT,
                "the relays would bypass a gateway that judges"
            );
            bypasses.feed();
            thread::sleep(LOOK_INTERVAL);
        }
    }

    #[test]
    fn a_program_that_was_killed_and_does_not_end_is_not_waited_for() {
        let hangs = || {
            let child = Command::new("/bin/sleep").arg("600").process_group(0).spawn().unwrap();
            Run { what: "release", child, since: Instant::now() }
        };
        let mut bypass = CommandBypass {
            wire: "w".to_owned(),
            command: vec!["/bin/true".to_owned()],
            fed: None,
            feeding: None,
            at_work: None,
            killed: vec![hangs()],
        };
        assert_eq!(bypass.release(), None, "it may end within a moment");
        thread::sleep(KILL_LIMIT);
        let refused = bypass.release().expect("at once").unwrap_err();
        assert!(refused.contains("does not end"), "no second one beside it: {refused}");
        let engage = |bypass: &mut CommandBypass| loop {
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
