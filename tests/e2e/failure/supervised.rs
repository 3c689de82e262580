//! A supervisor and its gateway.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_tests::gateway::{binary, http_get};
use bulkhead_tests::{Driver, Metrics, Rig};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::policies;

const METRICS: &str = "127.0.0.1:10469";

/// A supervised gateway between the hosts of a rig. Dropping it ends both.
pub(super) struct Supervised<'a> {
    rig: &'a Rig,
    process: Child,
    folder: PathBuf,
}

impl<'a> Supervised<'a> {
    /// Starts one and waits until it judges.
    pub(super) fn start(rig: &'a Rig, driver: Driver, fail: &str, hang_ms: u32) -> Self {
        let folder = std::env::temp_dir().join(rig.gateway().name());
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let port = |number: u32, interface: &str| match driver {
            Driver::AfXdp => format!("net_af_xdp{number},iface={interface}"),
            Driver::AfPacket => format!("net_af_packet{number},iface={interface}"),
            Driver::ByName => interface.to_owned(),
        };
        let config = format!(
            "policy = \"policy.yaml\"\nstate-dir = \"state\"\ncontrol-socket = \"control.sock\"\n\
             clock = \"trusted\"\n[failure]\nhang-ms = {hang_ms}\n[metrics]\nlisten = \"{METRICS}\"\n\
             [[wire]]\nname = \"w0\"\ninside = \"{}\"\noutside = \"{}\"\nmode = \"enforce\"\n\
             fail = \"{fail}\"\n",
            port(0, "in0"),
            port(1, "out0"),
        );
        for (name, text) in [("gateway.toml", config.as_str()), ("policy.yaml", policies::BASIC)] {
            let path = folder.join(name);
            fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        let process = run(rig, &folder);
        let gateway = Self { rig, process, folder };
        gateway.wait_until_judging(Duration::from_secs(30));
        gateway
    }

    /// The gateway's process; the younger one while there are two.
    pub(super) fn child(&self) -> u32 {
        self.children().into_iter().max().unwrap_or(0)
    }

    /// Waits until the gateway `before` is gone and another one is there.
    pub(super) fn wait_for_another(&self, before: u32, limit: Duration) {
        self.wait(limit, "another gateway", |gateway| {
            let children = gateway.children();
            !children.is_empty() && !children.contains(&before)
        });
    }

    /// Waits until there is one gateway only.
    pub(super) fn wait_for_one(&self, limit: Duration) {
        self.wait(limit, "one gateway", |gateway| gateway.children().len() == 1);
    }

    /// Waits until a gateway judges, and says when it was first seen to.
    pub(super) fn wait_until_judging(&self, limit: Duration) -> Instant {
        self.wait(limit, "judging", |gateway| gateway.get("/readyz").0 == 200);
        Instant::now()
    }

    /// Waits until the log has some words.
    pub(super) fn wait_for_log(&self, words: &str, limit: Duration) {
        self.wait(limit, words, |gateway| gateway.log().contains(words));
    }

    pub(super) fn signal(&self, signal: Signal) {
        send(self.process.id(), signal);
    }

    pub(super) fn signal_child(&self, signal: Signal) {
        send(self.child(), signal);
    }

    /// Stops one thread of the gateway, as a debugger does; everything else goes on.
    pub(super) fn stop_worker(&self) {
        let child = self.child();
        let tasks = fs::read_dir(format!("/proc/{child}/task")).expect("the gateway's threads");
        let worker = tasks.flatten().find(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "worker-0")
        });
        let name = worker.expect("a worker").file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok()).expect("a thread's number");
        let (sender, stopped) = std::sync::mpsc::channel();
        // Whoever traces a thread has to wait for its end, or its process never ends.
        thread::spawn(move || {
            let worker = Pid::from_raw(thread);
            let seized = ptrace::seize(worker, ptrace::Options::empty());
            let outcome = seized.and_then(|()| ptrace::interrupt(worker));
            let _ = sender.send(outcome);
            while waitpid(worker, Some(WaitPidFlag::__WALL)).is_ok_and(|status| {
                !matches!(
                    status,
                    nix::sys::wait::WaitStatus::Exited(..)
                        | nix::sys::wait::WaitStatus::Signaled(..)
                )
            }) {}
        });
        stopped.recv().expect("the tracer").unwrap_or_else(|e| panic!("ptrace: {e}"));
    }

    /// Ends both by SIGTERM, within a second, and starts them again.
    pub(super) fn stop_and_start(&mut self) {
        self.terminate();
        self.process = run(self.rig, &self.folder);
    }

    /// Ends both by SIGTERM.
    pub(super) fn terminate(&mut self) {
        let begun = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = loop {
            match self.process.try_wait() {
                Ok(Some(status)) => break status,
                _ => assert!(begun.elapsed() < Duration::from_secs(10), "no end: {}", self.log()),
            }
            thread::sleep(Duration::from_millis(1));
        };
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Runs `bulkhead ARGS --config gateway.toml` beside it, in its namespace.
    pub(super) fn bulkhead_inside(&self, args: &[&str]) -> (i32, String) {
        let mut command = self.rig.gateway().command(&binary().to_string_lossy());
        command.args(args).arg("--config").arg(self.folder.join("gateway.toml"));
        let output = command.stdin(Stdio::null()).output().expect("bulkhead runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    pub(super) fn replace_config(&self, text: &str) {
        fs::write(self.folder.join("gateway.toml"), text).expect("the configuration is written");
    }

    pub(super) fn config(&self) -> String {
        fs::read_to_string(self.folder.join("gateway.toml")).expect("the configuration is read")
    }

    /// That no thread of the gateway can start a program, or gain any power.
    pub(super) fn assert_confined(&self) {
        let mut threads = 0;
        for thread in
            fs::read_dir(format!("/proc/{}/task", self.child())).expect("it runs").flatten()
        {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            for line in ["Seccomp:\t2", "NoNewPrivs:\t1"] {
                assert!(status.contains(line), "{line}: {status}");
            }
            threads += 1;
        }
        assert!(threads > 3, "{threads} threads");
    }

    pub(super) fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").1)
    }

    pub(super) fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let server = METRICS.parse().expect("a constant address");
        http_get(self.rig.gateway(), server, path).unwrap_or_default()
    }

    fn wait(&self, limit: Duration, what: &str, is_it: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_it(self) {
            assert!(begun.elapsed() < limit, "not {what} within {limit:?}:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The supervisor's children that live.
    fn children(&self) -> Vec<u32> {
        let parent = self.process.id().to_string();
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
                let (state, ppid) = (fields.next(), fields.next());
                ppid == Some(parent.as_str()) && state != Some("Z")
            })
            .collect()
    }
}

impl Drop for Supervised<'_> {
    fn drop(&mut self) {
        // Rather the supervisor than its child, for which it would start another one.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            println!("{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn run(rig: &Rig, folder: &std::path::Path) -> Child {
    let open = || {
        let log = File::options().create(true).append(true).open(folder.join("log"));
        log.unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
    };
    (rig.gateway().command(&binary().to_string_lossy()))
        .args(["run", "--supervise", "--config"])
        .arg(folder.join("gateway.toml"))
        .stdin(Stdio::null())
        .stdout(open())
        .stderr(open())
        .spawn()
        .unwrap_or_else(|e| panic!("bulkhead: {e}"))
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid is an i32"));
    kill(pid, signal).unwrap_or_else(|e| panic!("{signal} to {pid}: {e}"));
}
