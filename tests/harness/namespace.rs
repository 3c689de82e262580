//! One network namespace and the threads that work inside it.

use std::fs::File;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Every namespace of these tests is called `bh-PID-NUMBER-ROLE`.
const PREFIX: &str = "bh-";

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A network namespace. Dropping it ends every process in it and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback interface up.
    ///
    /// # Panics
    ///
    /// When the kernel refuses; ask [`why_not`] first.
    pub fn new(role: &str) -> Self {
        clean_up_on_interrupt();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{serial}-{role}", std::process::id());
        must("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip -n NAME ARGS`. Panics with what `ip` said when it fails.
    pub fn ip(&self, args: &[&str]) -> String {
        must("ip", &[&["-n", &self.name], args].concat())
    }

    /// Runs a program inside and waits for it. Panics with what it said when it fails.
    pub fn exec(&self, args: &[&str]) -> String {
        must("ip", &[&["netns", "exec", &self.name], args].concat())
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `work` on a thread of this namespace and returns what it returns. Sockets opened in it
    /// stay in the namespace and can be used from any thread afterwards.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                self.enter();
                work()
            });
            match entered.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into the namespace for good.
    fn enter(&self) {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        setns(file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("setns {path}: {e}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Why namespaces, veth pairs and packet sockets cannot be used here; [`None`] where they can.
pub fn why_not() -> Option<String> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    ANSWER.get_or_init(probe).clone()
}

/// Removes the namespaces of processes that are gone: those that were killed could not.
pub fn remove_leftovers() {
    for name in listed() {
        let owner = name[PREFIX.len()..].split('-').next().and_then(|pid| pid.parse::<i32>().ok());
        if owner.is_some_and(|pid| kill(Pid::from_raw(pid), None).is_err()) {
            remove(&name);
        }
    }
}

/// Runs a program and returns its standard output. Panics with what it said when it fails.
pub fn must(program: &str, args: &[&str]) -> String {
    try_run(program, args).unwrap_or_else(|why| panic!("{why}"))
}

fn probe() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    for program in ["ip", "ethtool"] {
        if Command::new(program).arg("--version").output().is_err() {
            return Some(format!("the program {program} is not installed"));
        }
    }
    let name = format!("{PREFIX}{}-probe", std::process::id());
    let outcome = try_run("ip", &["netns", "add", &name]).and_then(|_| {
        try_run(
            "ip",
            &["-n", &name, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"],
        )
    });
    remove(&name);
    outcome.err().map(|why| format!("network namespaces are not permitted here: {why}"))
}

fn try_run(program: &str, args: &[&str]) -> Result<String, String> {
    let Output { status, stdout, stderr } =
        Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr);
    Err(format!("{program} {}: {status}: {}", args.join(" "), said.trim()))
}

fn listed() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect()
}

/// Ends every process in a namespace, politely first, and removes it. Failures are not reported:
/// this also runs while a test panics.
fn remove(name: &str) {
    let pids = || -> Vec<Pid> {
        let listed = try_run("ip", &["netns", "pids", name]).unwrap_or_default();
        listed.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
    };
    let own = Pid::this();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut sent = false;
        loop {
            let rest: Vec<Pid> = pids().into_iter().filter(|pid| *pid != own).collect();
            if rest.is_empty() || Instant::now() > deadline {
                break;
            }
            if !sent {
                for pid in rest {
                    let _ = kill(pid, signal);
                }
                sent = true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let _ = try_run("ip", &["netns", "del", name]);
}

/// Ctrl-C and SIGTERM end the process without unwinding: a thread removes what it made first.
fn clean_up_on_interrupt() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
        let Ok(mut signals) = signal_hook::iterator::Signals::new(signals) else { return };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let own = format!("{PREFIX}{}-", std::process::id());
                listed().iter().filter(|name| name.starts_with(&own)).for_each(|name| remove(name));
                std::process::exit(128 + signal);
            }
        });
    });
}
