//! The bypasses of all wires, worked at once: none waits for another one's program.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::bypass::{Bypass, of};
use super::bypassed::Bypassed;
use super::relays::{COMMAND_LIMIT, RELAYS_UNTOLD};
use crate::config::Config;
use crate::log::kind;

/// How often a program is looked at that is waited for.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// How often, and how far apart, a bypass is tried that did not come.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// How far a wire's bypass has come.
struct Attempts {
    begun: Option<Instant>,
    made: u32,
    /// When the next one is due.
    next: Instant,
    /// What came of the last of them.
    outcome: Option<Result<(), String>>,
}

impl Attempts {
    fn new() -> Self {
        Self { begun: None, made: 0, next: Instant::now(), outcome: None }
    }

    fn go_on(&mut self, wire: &str, bypass: &mut dyn Bypass) {
        self.begun.get_or_insert_with(Instant::now);
        if self.outcome.is_some() || Instant::now() < self.next {
            return;
        }
        let Some(outcome) = bypass.engage() else { return };
        self.made += 1;
        // A program that hangs once does so again.
        let is_last = self.made == ATTEMPTS
            || self.begun.is_some_and(|begun| begun.elapsed() >= COMMAND_LIMIT);
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

/// A wire that fails open, and what carries it then.
struct Open {
    name: String,
    /// Its ports, inside first.
    ports: [String; 2],
    /// The program that works its relays; empty where the kernel carries it.
    command: Vec<String>,
    bypass: Box<dyn Bypass>,
    /// Whether the kernel's way was begun since a gateway judged last.
    has_begun: bool,
}

impl Open {
    fn has_relays(&self) -> bool {
        !self.command.is_empty()
    }

    /// Whether both may be the same relays: two programs at once would be told the opposite.
    fn may_share(&self, other: &Self) -> bool {
        self.name == other.name
            || self.command.first() == other.command.first()
            || self.ports.iter().any(|port| other.ports.contains(port))
    }

    /// Whether both are the same way. Relays are known by their program and their wire's name.
    fn is_as(&self, other: &Self) -> bool {
        let is_named_alike =
            if self.has_relays() { self.name == other.name } else { self.ports == other.ports };
        self.command == other.command && is_named_alike
    }
}

/// The bypasses of all wires that fail open.
pub struct Bypasses {
    /// Those that the kernel carries come first: it does so at once.
    wires: Vec<Open>,
    /// Those whose relays are to let go for good, as the configuration does not name their program any more.
    dropped: Vec<Open>,
    /// Those of them that have, and that nobody has asked for.
    let_go: Vec<String>,
    /// Whether a gateway is about to open the ports, so that the kernel's way is not to be gone.
    ports_are_taken: bool,
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
                Some(bypass) => wires.push(Open {
                    name: wire.name.clone(),
                    ports: [wire.inside.clone(), wire.outside.clone()],
                    command: wire.failure.command.clone(),
                    bypass,
                    has_begun: false,
                }),
                None => warn!(
                    wire = wire.name,
                    "`fail = \"open\"`, but nothing can bypass this wire: its ports are not both \
                     interfaces that the kernel drives, and there is no `bypass-command`; it fails closed"
                ),
            }
        }
        wires.sort_by_key(Open::has_relays);
        Self {
            wires,
            dropped: Vec::new(),
            let_go: Vec::new(),
            ports_are_taken: false,
            engaging: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Goes by another configuration. Relays that it works alike go on with what they do; those whose program it does
    /// not name any more are let go: see [`Self::let_go`]. What the kernel carries of a wire that is no
    /// longer open is [`clear_closed`](super::bypass::clear_closed)'s.
    pub fn renew(&mut self, config: &Config) {
        let before = std::mem::replace(self, Self::new(config));
        self.let_go = before.let_go;
        for old in before.wires.into_iter().chain(before.dropped) {
            match self.wires.iter_mut().find(|new| new.is_as(&old)) {
                Some(new) if old.has_relays() => new.bypass = old.bypass,
                Some(new) => new.has_begun = old.has_begun,
                None if old.has_relays() => self.dropped.push(old),
                None => {}
            }
        }
    }

    /// Whether a wire fails open, and something can bypass it.
    pub fn has(&self, wire: &str) -> bool {
        self.wires.iter().any(|open| open.name == wire)
    }

    /// The wires that relays can carry.
    pub fn relays(&self) -> Vec<String> {
        let relays = self.wires.iter().filter(|open| open.has_relays());
        relays.map(|open| open.name.clone()).collect()
    }

    /// Those wires whose relays have yet to let go for good.
    pub fn dropped(&self) -> Vec<String> {
        self.dropped.iter().map(|open| open.name.clone()).collect()
    }

    /// Those wires of a bypass that is written down whose relays nothing here tells to let go: their wire fails
    /// closed by now, or its configuration names no program any more.
    pub fn cannot_release(&self, written: Option<&Bypassed>) -> Vec<String> {
        let told = [self.relays(), self.dropped()].concat();
        let relays = written.iter().flat_map(|written| &written.relays);
        relays.filter(|wire| !told.contains(wire)).cloned().collect()
    }

    /// Whether relays are to let go for good.
    pub fn is_dropping(&self) -> bool {
        !self.dropped.is_empty()
    }

    /// Whether one that was told to let go is still at it, or is to let go for good.
    pub fn is_releasing(&self) -> bool {
        !self.released.is_empty() || !self.dropped.is_empty()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.wires.is_empty()
    }

    /// A gateway has died: what can be done at once is, before [`Self::engage`].
    pub fn begin(&mut self) {
        self.wires.iter_mut().for_each(|open| open.has_begun |= open.bypass.begin());
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
        self.ports_are_taken = false;
    }

    /// The same beside a gateway that is about to open the ports: what the kernel has begun to carry it carries until
    /// they rise, and nothing else of its way, which claims them, is gone.
    pub fn start_engaging_relays(&mut self) {
        self.start_engaging();
        self.ports_are_taken = true;
    }

    /// Goes on with that without waiting, and is to be called again: [`None`] while the kernel has yet to carry some,
    /// for which it needs their ports, and with those that are pending while programs run. All run at once, so that
    /// one that hangs holds no other up; but for relays that are let go for good, before those that may be the same ones
    /// by another wire's name or program.
    pub fn try_engage(&mut self) -> Option<Engaged> {
        self.release_dropped();
        self.engaging.resize_with(self.wires.len(), Attempts::new);
        let mut engaged = Engaged::default();
        let mut needs_ports = false;
        for (open, attempts) in self.wires.iter_mut().zip(&mut self.engaging) {
            if self.ports_are_taken && !open.has_relays() {
                let of = if open.has_begun { &mut engaged.wires } else { &mut engaged.failed };
                of.push(open.name.clone());
                continue;
            }
            if open.has_relays() && self.dropped.iter().any(|dropped| dropped.may_share(open)) {
                engaged.pending.push(open.name.clone());
                continue;
            }
            attempts.go_on(&open.name, open.bypass.as_mut());
            let wire = open.name.clone();
            match &attempts.outcome {
                None if open.has_relays() => engaged.pending.push(wire),
                None => needs_ports = true,
                Some(Ok(())) => engaged.wires.push(wire),
                Some(Err(error)) => {
                    engaged
                        .errors
                        .push(format!("wire {wire} is cut although it fails open: {error}"));
                    engaged.failed.push(wire);
                }
            }
        }
        if needs_ports {
            return None;
        }
        Some(engaged)
    }

    /// Relays that failed to carry their wires are told once more. Returns whether there are such.
    pub fn start_again(&mut self) -> bool {
        let mut are_any = false;
        for (open, attempts) in self.wires.iter().zip(&mut self.engaging) {
            if open.has_relays() && matches!(attempts.outcome, Some(Err(_))) {
                *attempts = Attempts::new();
                are_any = true;
            }
        }
        are_any
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
        for (open, released) in self.wires.iter_mut().zip(&mut self.released) {
            if released.is_none() {
                *released = open.bypass.release();
            }
        }
        if self.released.iter().any(Option::is_none) {
            return None;
        }
        let mut left = Vec::new();
        for (open, outcome) in self.wires.iter_mut().zip(self.released.drain(..)) {
            open.has_begun = false;
            if let Some(Err(error)) = outcome {
                error!(target: kind::BYPASS, wire = open.name, "frames may pass unjudged: {error}");
                left.push(open.name.clone());
            }
        }
        Some(left)
    }

    /// Goes on with letting go those for good whose program the configuration does not name any more, without waiting.
    /// Returns the wires whose relays have since this was asked last.
    pub fn let_go(&mut self) -> Vec<String> {
        self.release_dropped();
        std::mem::take(&mut self.let_go)
    }

    fn release_dropped(&mut self) {
        for mut open in std::mem::take(&mut self.dropped) {
            match open.bypass.release() {
                None => self.dropped.push(open),
                Some(Ok(())) => self.let_go.push(open.name),
                // It is told once: one that hangs would keep others from carrying their wires.
                Some(Err(error)) => {
                    error!(target: kind::BYPASS, wire = open.name, "{error}: {RELAYS_UNTOLD}");
                }
            }
        }
    }

    /// A gateway judges. Returns whether relays may carry wires all the same, as nobody told them for a while.
    pub fn feed(&mut self) -> bool {
        let fed = self.wires.iter_mut().map(|open| open.bypass.feed());
        fed.fold(false, |any, was_interrupted| any | was_interrupted)
    }

    /// Whether a program of any of them runs.
    pub fn are_at_work(&mut self) -> bool {
        let at_work = self.wires.iter_mut().map(|open| open.bypass.is_at_work());
        at_work.fold(false, |any, is_at_work| any | is_at_work)
    }
}

/// Which wires are bypassed now.
#[derive(Default)]
pub struct Engaged {
    /// Those that are.
    pub wires: Vec<String>,
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
        assert!(!said.exists(), "nor was one told two things at once");
        assert_eq!(bypasses.release(), ["a", "b", "c"]);
        assert!(begun.elapsed() < 2 * COMMAND_LIMIT, "all at once");
        assert_eq!(bypasses.try_release(), None, "once more");
        let engaged = bypasses.engage();
        assert_eq!(engaged.wires, ["a", "b", "c"]);
        assert!(bypasses.released.is_empty(), "nothing lets go any more");
        let said = fs::read_to_string(&said).unwrap();
        assert_eq!(said, "engage\nengage\nengage\n");
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

    fn kernel(name: &str, gone: &Arc<AtomicU32>) -> Open {
        Open {
            name: name.to_owned(),
            ports: ["eth1".to_owned(), "eth2".to_owned()],
            command: Vec::new(),
            bypass: Box::new(Counted(gone.clone())),
            has_begun: false,
        }
    }

    #[test]
    fn what_a_gateway_may_have_ended_is_engaged_again_beside_relays_that_are_still_at_it() {
        let slow = "fail = \"open\"\nbypass-command = [\"/bin/sh\", \"-c\", \"sleep 600; :\"]\n";
        let mut bypasses = Bypasses::new(&config(("net_ring0", "net_ring1"), slow));
        let gone = Arc::new(AtomicU32::new(0));
        bypasses.wires.insert(0, kernel("k", &gone));
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
    fn beside_a_gateway_that_opens_the_ports_relays_carry_and_the_kernel_only_what_it_has_begun() {
        let open = "fail = \"open\"\nbypass-command = [\"/bin/true\"]\n";
        let mut bypasses = Bypasses::new(&config(("net_ring0", "net_ring1"), open));
        let gone = Arc::new(AtomicU32::new(0));
        bypasses.wires.insert(0, kernel("k", &gone));
        bypasses.wires.insert(0, kernel("j", &gone));
        bypasses.wires[1].has_begun = true;
        bypasses.start_engaging_relays();
        let engaged = loop {
            match bypasses.try_engage().expect("no port is needed") {
                engaged if engaged.pending.is_empty() => break engaged,
                _ => thread::sleep(LOOK_INTERVAL),
            }
        };
        assert_eq!(
            (engaged.to_string().as_str(), gone.load(Relaxed)),
            ("passes unjudged: k, w; cut, though it fails open: j", 0)
        );
        assert_eq!(bypasses.release(), Vec::<String>::new());
        assert!(!bypasses.wires[1].has_begun, "a gateway judges");
    }

    #[test]
    fn relays_that_another_configuration_works_alike_go_on_and_others_let_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let wire = |name: &str, by: &str| {
            let said = said.display();
            format!(
                "[[wire]]\nname = \"{name}\"\ninside = \"net_ring_{name}0\"\noutside = \"net_ring_{name}1\"\n\
                 fail = \"open\"\nbypass-command = [\"/bin/sh\", \"-c\", 'echo {by} $0 $1 >> {said}; \
                 case {by} in slow) sleep 1;; stuck) [ $0 = engage ];; esac']\n"
            )
        };
        let config = |wires: &[String]| {
            let text = format!("policy = \"p\"\n{}", wires.concat());
            let config = Config::parse("g.toml", Path::new(""), &text);
            config.unwrap_or_else(|error| panic!("{error}"))
        };
        let before = [wire("a", "slow"), wire("b", "old"), wire("c", "card"), wire("d", "stuck")];
        let mut bypasses = Bypasses::new(&config(&before));
        let begun = Instant::now();
        while bypasses.try_engage().map(|engaged| engaged.pending) != Some(vec!["a".to_owned()]) {
            assert!(begun.elapsed() < COMMAND_LIMIT, "the others are quick");
            thread::sleep(LOOK_INTERVAL);
        }
        // One has another program, one another name, one another program and sticks.
        let after = [wire("a", "slow"), wire("b", "new"), wire("x", "card"), wire("d", "new")];
        bypasses.renew(&config(&after));
        assert!(bypasses.is_releasing());
        assert_eq!(bypasses.engage().wires, ["a", "b", "x", "d"]);
        assert!(!bypasses.is_releasing());
        let mut let_go = bypasses.let_go();
        let_go.sort();
        assert_eq!(let_go, ["b", "c"]);
        let told = fs::read_to_string(&said).unwrap();
        assert_eq!(told.matches("slow engage a").count(), 1, "it went on: {told}");
        let place = |line: &str| told.find(line).unwrap_or_else(|| panic!("{line}: {told}"));
        assert!(place("old release b") < place("new engage b"), "{told}");
        assert!(place("card release c") < place("card engage x"), "{told}");
        // What is told to let go is not what nothing tells.
        let socket = dir.path().join("control.sock");
        let written =
            Bypassed::engaged(&[], &bypasses.relays(), ("the supervisor", "why"), &socket);
        bypasses.renew(&config(&before));
        assert_eq!(bypasses.cannot_release(Some(&written)), Vec::<String>::new());
        let begun = Instant::now();
        while bypasses.is_dropping() {
            assert!(begun.elapsed() < 2 * COMMAND_LIMIT);
            bypasses.let_go();
        }
        assert_eq!(bypasses.cannot_release(Some(&written)), ["x"]);
    }
}
