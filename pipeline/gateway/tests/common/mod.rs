//! A whole gateway over in-memory ports: the launch code is the production one.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bulkhead_gateway::config::Config;
use bulkhead_gateway::control::client::ask;
use bulkhead_gateway::control::{Answer, Ask};
use bulkhead_gateway::launch::{Backend, OpenWire};
use bulkhead_gateway::reload::ReloadReport;
use bulkhead_gateway::run::serve;
use bulkhead_gateway::state::{Device, Gateway};
use bulkhead_pipeline::counters::Balance;
use bulkhead_pipeline::frames::{FrameBuilder, tcp_flags};
use bulkhead_pipeline::port::loopback::{LoopbackPort, Options};
use bulkhead_pipeline::port::rss::{self, ASYMMETRIC_KEY, Fields, Rss, RssHost};
use bulkhead_pipeline::port::{DriverCounters, Frame};

/// Long enough for a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a test may do to a device, and see of it.
#[derive(Default)]
pub(crate) struct Cable {
    pub(crate) cut: AtomicBool,
    pub(crate) held: AtomicBool,
    pub(crate) started: AtomicBool,
    pub(crate) closed: AtomicBool,
}

struct LoopbackDevice(Arc<Cable>);

impl Device for LoopbackDevice {
    fn driver(&self) -> String {
        "loopback".to_owned()
    }

    fn start(&self) -> Result<(), String> {
        self.0.started.store(true, SeqCst);
        Ok(())
    }

    fn has_carrier(&self) -> bool {
        !self.0.cut.load(SeqCst) && !self.0.held.load(SeqCst)
    }

    fn hold_down(&self, down: bool) -> Result<(), String> {
        self.0.held.store(down, SeqCst);
        Ok(())
    }

    fn driver_counters(&self) -> DriverCounters {
        DriverCounters::default()
    }
}

impl Drop for LoopbackDevice {
    fn drop(&mut self) {
        self.0.closed.store(true, SeqCst);
    }
}

/// One end of a wire as a test sees it.
pub(crate) struct End {
    pub(crate) host: RssHost,
    pub(crate) cable: Arc<Cable>,
}

/// The way to the wire of tests. What it has opened is in `ends`, inside first.
#[derive(Default)]
pub(crate) struct Loopback {
    ends: Mutex<Vec<[End; 2]>>,
    /// Whether workers are kept from their first round.
    pub(crate) stalls: AtomicBool,
    /// Whether a worker was.
    pub(crate) stalled: AtomicBool,
}

impl Backend for Loopback {
    type Port = LoopbackPort;

    fn open(&self, config: &Config) -> Result<Vec<OpenWire<LoopbackPort>>, String> {
        let mut opened = Vec::new();
        for _ in &config.wires {
            // A queue for every worker, and frames on any of them.
            let rss = Rss::new(&ASYMMETRIC_KEY, Fields::AddressesAndPorts);
            let plug = || rss::pair(Options::default(), rss.clone(), config.workers);
            let ((inside, one), (outside, two)) = (plug(), plug());
            let cables = [Arc::new(Cable::default()), Arc::new(Cable::default())];
            opened.push(OpenWire {
                queues: inside.into_iter().zip(outside).collect(),
                inside: Box::new(LoopbackDevice(cables[0].clone())),
                outside: Box::new(LoopbackDevice(cables[1].clone())),
            });
            let [a, b] = cables;
            let ends = [End { host: one, cable: a }, End { host: two, cable: b }];
            self.ends.lock().unwrap().push(ends);
        }
        Ok(opened)
    }

    fn enter_worker(&self) -> Result<Box<dyn Any>, String> {
        while self.stalls.load(SeqCst) {
            self.stalled.store(true, SeqCst);
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Box::new(()))
    }
}

/// A gateway that runs in this process until it is dropped.
pub(crate) struct Running {
    pub(crate) folder: PathBuf,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) backend: Arc<Loopback>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Running {
    /// Starts a gateway in `folder`, whose `policy.yaml` may or may not be there; `more` are further
    /// lines for the head of its configuration.
    pub(crate) fn start(folder: &Path, mode: &str, more: &str) -> Self {
        Self::start_over(Arc::default(), folder, mode, more)
    }

    /// The same over a way to the wire that was made before.
    pub(crate) fn start_over(
        backend: Arc<Loopback>,
        folder: &Path,
        mode: &str,
        more: &str,
    ) -> Self {
        let text = format!(
            "policy = \"policy.yaml\"\nstate-dir = \"state\"\ncontrol-socket = \"control.sock\"\n\
             clock = \"trusted\"\ngrace-s = 0\n{more}\n\
             [[wire]]\nname = \"line3\"\ninside = \"a\"\noutside = \"b\"\nmode = \"{mode}\"\n\
             link-settling-s = 3\n"
        );
        let text = if text.contains("[metrics]") {
            text
        } else {
            format!("{text}[metrics]\nlisten = \"off\"\n")
        };
        let config = Config::parse("gateway.toml", folder, &text).unwrap_or_else(|e| panic!("{e}"));
        let gateway = Arc::new(Gateway::new(config));
        let thread = {
            let (gateway, backend) = (gateway.clone(), backend.clone());
            thread::spawn(move || serve(&gateway, &backend))
        };
        Self { folder: folder.to_path_buf(), gateway, backend, thread: Some(thread) }
    }

    pub(crate) fn wait_ready(&self) {
        wait("the gateway is ready", || self.gateway.is_ready());
        let ends = self.backend.ends.lock().unwrap();
        assert!(ends.iter().flatten().all(|end| end.cable.started.load(SeqCst)));
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    pub(crate) fn write_policy(&self, text: &str) {
        let beside = self.folder.join("policy.yaml.new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.folder.join("policy.yaml")).unwrap();
    }

    /// `bulkhead reload`.
    pub(crate) fn reload(&self) -> ReloadReport {
        match ask(&self.socket(), Ask::Reload { on_behalf_of: None, reason: None }) {
            Ok(Answer::Reload(report)) => *report,
            other => panic!("no report: {other:?}"),
        }
    }

    /// The value of a metric's sample, such as `bulkhead_ready` or `x_total{a="b"}`.
    pub(crate) fn metric(&self, sample: &str) -> Option<f64> {
        let text = bulkhead_gateway::telemetry::render(&self.gateway).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// Calls `act` with the ends of the only wire, inside first.
    pub(crate) fn with_ends<T>(&self, act: impl FnOnce(&[End; 2]) -> T) -> T {
        act(&self.backend.ends.lock().unwrap()[0])
    }

    /// Whether a SYN from outside to the inside's `port` comes through.
    pub(crate) fn passes(&self, source_port: u16, port: u16) -> bool {
        let frame = syn(source_port, port);
        self.with_ends(|[inside, outside]| {
            while inside.host.receive().is_some() {}
            let dropped = self.total_dropped();
            outside.host.send(&frame).unwrap();
            let begun = Instant::now();
            loop {
                if let Some(received) = inside.host.receive() {
                    assert_eq!(received.bytes(), frame);
                    return true;
                }
                if self.total_dropped() > dropped {
                    return false;
                }
                assert!(begun.elapsed() < PATIENCE, "neither forwarded nor dropped");
                thread::yield_now();
            }
        })
    }

    /// What all workers did together.
    pub(crate) fn balance(&self) -> Balance {
        let each = self.gateway.workers().iter().map(|worker| worker.counters.balance());
        each.fold(Balance::default(), |sum, balance| sum + balance)
    }

    pub(crate) fn total_dropped(&self) -> u64 {
        self.balance().dropped
    }

    /// Stops the gateway; how it ended and how long that took.
    pub(crate) fn stop(mut self) -> (Result<(), String>, Duration) {
        let begun = Instant::now();
        self.gateway.stop();
        let ended = self.thread.take().map(|thread| thread.join().unwrap());
        (ended.unwrap_or(Ok(())), begun.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gateway.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection attempt from 10.20.0.11.
pub(crate) fn syn(source_port: u16, port: u16) -> Vec<u8> {
    FrameBuilder::new()
        .ip([10, 20, 0, 11], [10, 30, 3, 11])
        .tcp(source_port, port, tcp_flags::SYN)
        .build()
}

/// A policy that permits 10.20.0.11 one port of 10.30.3.0/24.
pub(crate) fn policy(port: u16) -> String {
    format!(
        "version: 1\ngroups:\n  hmi: [10.20.0.11]\n  plc: [10.30.3.0/24]\nrules:\n  \
         - {{name: only, from: hmi, to: plc, service: tcp/{port}, action: allow}}\n"
    )
}

pub(crate) fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
