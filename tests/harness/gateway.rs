//! The gateway's process, from its configuration to its exit status.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::flows::Place;
use crate::metrics::Metrics;
use crate::rig::Rig;

/// Where the gateway answers inside its namespace.
const METRICS: &str = "127.0.0.1:10469";

const POLICY_FILE: &str = "policy.yaml";

/// The DPDK driver by which the gateway reaches its ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// `net_af_xdp`.
    AfXdp,
    /// `net_af_packet`.
    AfPacket,
    /// The kernel interface's name: the gateway picks.
    ByName,
}

impl Driver {
    fn port(self, number: usize, interface: &str) -> String {
        match self {
            Self::AfXdp => format!("net_af_xdp{number},iface={interface}"),
            Self::AfPacket => format!("net_af_packet{number},iface={interface}"),
            Self::ByName => interface.to_owned(),
        }
    }
}

/// What every wire of the gateway does with its verdicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Forward everything and count what would have been dropped.
    Observe,
    /// Carry the verdicts out.
    Enforce,
}

/// How a gateway is configured; [`Settings::new`] gives the defaults of the tests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How it reaches its ports.
    pub driver: Driver,
    /// What its wires do.
    pub mode: Mode,
    /// Its first policy, as YAML.
    pub policy: String,
    /// What its configuration calls `policy`: `policy.yaml`, or a folder in which the first policy
    /// is put as `10-first.yaml`.
    pub policy_path: String,
    /// Seconds for which mid-stream TCP is adopted; the tests begin with none.
    pub grace_s: u32,
    /// Further lines for the head of `gateway.toml`.
    pub extra: String,
    /// Further lines for each of its wires.
    pub wire_extra: String,
    /// Further tables for the end of `gateway.toml`.
    pub tables: String,
    /// A program, with its arguments, that starts it: `setpriv`, for one.
    pub wrapper: Vec<String>,
    /// What its environment has besides.
    pub environment: Vec<(String, String)>,
    /// Whether `/readyz` must say yes before [`Gateway::start`] returns.
    pub must_be_ready: bool,
    /// Whether a supervisor starts it, as in its unit; the process is then the supervisor.
    pub supervised: bool,
}

impl Settings {
    /// An enforcing gateway without grace time.
    pub fn new(driver: Driver, policy: &str) -> Self {
        Self {
            driver,
            mode: Mode::Enforce,
            policy: policy.to_owned(),
            policy_path: POLICY_FILE.to_owned(),
            grace_s: 0,
            extra: String::new(),
            wire_extra: String::new(),
            tables: String::new(),
            wrapper: Vec::new(),
            environment: Vec::new(),
            must_be_ready: true,
            supervised: false,
        }
    }

    /// The same in observe mode.
    pub fn observing(mut self) -> Self {
        self.mode = Mode::Observe;
        self
    }

    fn config(&self, rig: &Rig) -> String {
        let mode = match self.mode {
            Mode::Observe => "observe",
            Mode::Enforce => "enforce",
        };
        let mut text = format!(
            "policy = \"{}\"\nstate-dir = \"state\"\ncontrol-socket = \"control.sock\"\n\
             grace-s = {}\nclock = \"trusted\"\n{}\n[metrics]\nlisten = \"{METRICS}\"\n",
            self.policy_path, self.grace_s, self.extra
        );
        // What waits for a reader of records is bounded: by little, so that memory tells of leaks.
        if !self.extra.contains("[records]") {
            text.push_str("[records]\nbacklog-mib = 1\n");
        }
        for wire in 0..rig.wires() {
            let inside = self.driver.port(2 * wire, &format!("in{wire}"));
            let outside = self.driver.port(2 * wire + 1, &format!("out{wire}"));
            let _ = write!(
                text,
                "[[wire]]\nname = \"w{wire}\"\ninside = \"{inside}\"\noutside = \"{outside}\"\n\
                 mode = \"{mode}\"\n{}",
                self.wire_extra
            );
        }
        text.push_str(&self.tables);
        text
    }
}

/// A running gateway. Dropping it kills it and, when the test is failing, shows its log.
#[derive(Debug)]
pub struct Gateway<'a> {
    rig: &'a Rig,
    process: Child,
    folder: PathBuf,
    keeps_folder: bool,
}

impl<'a> Gateway<'a> {
    /// Writes the configuration and the policy, starts the gateway and waits until it judges.
    ///
    /// # Panics
    ///
    /// When it ends or is not ready within 30 seconds: with its log.
    pub fn start(rig: &'a Rig, settings: Settings) -> Self {
        let folder = std::env::temp_dir().join(rig.gateway().name());
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        write(&folder.join("gateway.toml"), &settings.config(rig));
        if settings.policy_path == POLICY_FILE {
            write(&folder.join(POLICY_FILE), &settings.policy);
        } else {
            let policies = folder.join(&settings.policy_path);
            fs::create_dir_all(&policies).unwrap_or_else(|e| panic!("{}: {e}", policies.display()));
            write(&policies.join("10-first.yaml"), &settings.policy);
        }
        Self::start_in(rig, folder, &settings)
    }

    /// Starts the gateway again in the folder of an earlier one, whose files are as they were left.
    pub fn start_again(rig: &'a Rig, folder: PathBuf, must_be_ready: bool) -> Self {
        // The files are there: of the settings only how it is started counts.
        let settings = Settings { must_be_ready, ..Settings::new(Driver::AfXdp, "") };
        Self::start_in(rig, folder, &settings)
    }

    fn start_in(rig: &'a Rig, folder: PathBuf, settings: &Settings) -> Self {
        let open = || {
            let path = folder.join("log");
            let file = File::options().create(true).append(true).open(&path);
            file.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let binary = binary();
        let program = binary.to_string_lossy();
        let mut words = settings.wrapper.iter().map(String::as_str).chain([&*program]);
        let process = (rig.gateway().command(words.next().unwrap_or_default()))
            .args(words)
            .arg("run")
            .args(settings.supervised.then_some("--supervise"))
            .arg("--config")
            .arg(folder.join("gateway.toml"))
            .envs(settings.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        let mut gateway = Self { rig, process, folder, keeps_folder: false };
        if settings.must_be_ready {
            let limit = Duration::from_secs(30);
            gateway.wait_until("ready", limit, |g| g.get("/readyz").0 == 200);
            gateway.wait_until("connected", limit, |g| g.rig.is_connected());
        }
        gateway
    }

    /// Its folder: `gateway.toml`, `policy.yaml`, `log`, `state`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it, if it still runs, and leaves its folder for [`Gateway::start_again`].
    pub fn keep(mut self) -> PathBuf {
        self.keeps_folder = true;
        self.folder.clone()
    }

    /// Its process; that of its supervisor where there is one.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The process that its supervisor has started.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn supervised_pid(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let children = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let child = children.split_whitespace().next().and_then(|child| child.parse().ok());
        child.unwrap_or_else(|| panic!("the supervisor has no gateway:\n{}", self.log()))
    }

    /// What it has written to standard output and error.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// One HTTP request to the metrics endpoint: status (0 where it does not answer) and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let server = METRICS.parse().expect("a constant address");
        http_get(self.rig.gateway(), server, path).unwrap_or_default()
    }

    /// The metrics now.
    ///
    /// # Panics
    ///
    /// When the endpoint does not answer with metrics.
    pub fn metrics(&self) -> Metrics {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "/metrics: {body}\n{}", self.log());
        Metrics::parse(&body)
    }

    /// Resident memory in kilobytes.
    pub fn resident_kb(&self) -> u64 {
        self.process_status("VmRSS:")
    }

    /// Lets [`Gateway::peak_resident_kb`] begin anew.
    pub fn forget_peak_resident(&self) {
        let path = format!("/proc/{}/clear_refs", self.pid());
        fs::write(&path, "5").unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// The most resident memory since the start, or since [`Gateway::forget_peak_resident`], in
    /// kilobytes.
    pub fn peak_resident_kb(&self) -> u64 {
        self.process_status("VmHWM:")
    }

    /// A figure of `/proc/PID/status`, in its units: `VmLck:` in kilobytes, for one. 0 where there is none.
    pub fn process_status(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
    }

    /// Runs `bulkhead ARGS` beside it, in its folder. Exit code and output, errors included.
    pub fn bulkhead(&self, args: &[&str]) -> (i32, String) {
        let output = (Command::new(binary()).args(args).current_dir(&self.folder))
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("bulkhead {args:?}: {e}"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// Puts another policy in place as an editor does (a new file, renamed over the old one), runs
    /// `bulkhead reload` and returns its exit code and output.
    pub fn reload(&self, policy: &str) -> (i32, String) {
        self.replace_policy(policy);
        self.bulkhead(&["reload", "--config", "gateway.toml"])
    }

    /// Puts another policy in place and tells nobody.
    pub fn replace_policy(&self, policy: &str) {
        let new = self.folder.join(".policy.yaml.new");
        write(&new, policy);
        let old = self.folder.join(POLICY_FILE);
        fs::rename(&new, &old).unwrap_or_else(|e| panic!("{}: {e}", old.display()));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid is an i32"));
        kill(pid, signal).unwrap_or_else(|e| panic!("{signal} to the gateway: {e}"));
    }

    /// Waits until `done`; panics with the log when the gateway ends first or time runs out.
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + limit;
        while !done(self) {
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("the gateway ended ({status}) before it was {what}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not {what} within {limit:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Checks promise 2 at a quiescent point, then stops the gateway with SIGTERM and checks that it
    /// ends well, within a second. Returns the last metrics.
    pub fn stop(mut self) -> Metrics {
        let metrics = self.quiescent_metrics();
        metrics.assert_accounted();
        let (status, took) = self.terminate(Signal::SIGTERM);
        assert!(status.success(), "the gateway ended with {status}:\n{}", self.log());
        assert!(took < Duration::from_secs(1), "it took {took:?} to stop:\n{}", self.log());
        metrics
    }

    /// Sends a signal and waits for the end: how it ended, and after how long.
    pub fn terminate(&mut self, signal: Signal) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        self.signal(signal);
        let mut ended = None;
        while ended.is_none() && begin.elapsed() < Duration::from_secs(10) {
            ended = self.process.try_wait().unwrap_or_default();
            std::thread::sleep(Duration::from_millis(2));
        }
        let Some(status) = ended else {
            panic!("{signal} did not end the gateway:\n{}", self.log())
        };
        (status, begin.elapsed())
    }

    /// The metrics once two readings in a row agree about what was received.
    pub fn quiescent_metrics(&self) -> Metrics {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut last = self.metrics();
        loop {
            std::thread::sleep(Duration::from_millis(150));
            let now = self.metrics();
            if now.received() == last.received() && now.transmitted() == last.transmitted() {
                return now;
            }
            assert!(Instant::now() < deadline, "the traffic does not stop");
            last = now;
        }
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            println!("--- the gateway's log ends with:\n{}", tail.join("\n"));
        }
        if !self.keeps_folder {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The binary under test: `BULKHEAD_BIN`, or the one built beside this test.
///
/// # Panics
///
/// When there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("BULKHEAD_BIN").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let test = std::env::current_exe().unwrap_or_default();
    let found = test.ancestors().map(|folder| folder.join("bulkhead")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "there is no bulkhead binary beside {}: type cargo build --workspace",
            test.display()
        )
    })
}

/// One HTTP request from a place: status and body.
///
/// # Errors
///
/// What the socket says.
pub fn http_get(
    place: &impl Place,
    server: SocketAddr,
    path: &str,
) -> std::io::Result<(u16, String)> {
    let limit = Duration::from_secs(5);
    let mut stream = place.inside(|| TcpStream::connect_timeout(&server, limit))?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
