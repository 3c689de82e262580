//! Faults are injected, and a real Prometheus with `deploy/alerts.yml` says so within its time.
//!
//! It scrapes and evaluates every second. What an alert waits `for` is as it is deployed up to 15 s, and
//! a tenth of it beyond, so that the test ends.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, Outcome, try_tcp};
use bulkhead_tests::frames::{Mac, checksum, ethernet};
use bulkhead_tests::gateway::http_get;
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::rig::HOST_INTERFACE;
use bulkhead_tests::{Driver, Gateway, Rig, Settings, skip};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::{over_af_xdp, policies};

over_af_xdp!(alerts_fire_when_their_faults_are_injected_and_end_with_them);

const PROMETHEUS: &str = "127.0.0.1:9090";

/// What is waited for at most `for` as it is deployed; longer ones are divided by ten.
const UNSCALED_S: u64 = 15;

/// What scrape, evaluation and a machine that does much else may add.
const SLACK: Duration = Duration::from_secs(25);

fn alerts_fire_when_their_faults_are_injected_and_end_with_them(rig: &Rig) {
    if Command::new("prometheus").arg("--version").output().is_err() {
        return skip(
            "alerts::alerts_fire_when_their_faults_are_injected_and_end_with_them",
            "prometheus is not installed",
        );
    }
    let mut gateway = Gateway::start(rig, Settings::new(Driver::AfXdp, policies::BASIC));
    let watcher = Watcher::start(rig, &gateway);
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = (rig.inside(0).v4, 502).into();
    assert_eq!(try_tcp(rig.outside(0), to), Outcome::Answered);
    // Every figure has been scraped before its fault, and a port that rose may lose its carrier.
    watcher.until("the gateway is scraped", "min_over_time(up[5s]) == 1", SLACK);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(watcher.firing(), [""; 0], "nothing is wrong yet");

    // Four faults at once; the first three take effect at their next scrape.
    let forger = Mac([0x02, 0x66, 0, 0, 0, 1]);
    let inside = RawPort::open(rig.inside(0));
    let mut faults = vec![
        watcher.injected("BulkheadQuarantine", || {
            does(&gateway, &["quarantine", "client", "--reason", "test"]);
        }),
        watcher.injected("BulkheadRogueServer", || inside.send(&router_advertisement(forger))),
        watcher.injected("BulkheadAddressClaimed", || {
            inside.send(&announcement(forger, rig.outside(0).v4.octets()));
        }),
        watcher.injected("BulkheadReloadRefused", || {
            let (code, said) = gateway.reload("version: 1\nrulez: []\n");
            assert_eq!(code, 1, "{said}");
        }),
    ];
    watcher.expect(&mut faults);
    does(&gateway, &["quarantine", "client", "--release", "--reason", "test"]);
    watcher.until_over("BulkheadQuarantine");

    let mut faults = vec![
        watcher.injected("BulkheadModeChanged", || {
            does(&gateway, &["observe", "w0", "--reason", "test"]);
        }),
        watcher.injected("BulkheadLinkDown", || {
            rig.outside(0).namespace.ip(&["link", "set", HOST_INTERFACE, "down"]);
        }),
    ];
    let worker = worker_of(&gateway);
    let mut held = None;
    faults.push(watcher.injected("BulkheadWorkerHangs", || held = Some(Held::hold(worker))));
    watcher.expect(&mut faults);
    drop(held);
    rig.outside(0).namespace.ip(&["link", "set", HOST_INTERFACE, "up"]);
    watcher.until_over("BulkheadWorkerHangs");
    watcher.until_over("BulkheadLinkDown");

    let mut faults = vec![watcher.injected("BulkheadUnreachable", || {
        gateway.terminate(Signal::SIGKILL);
    })];
    watcher.expect(&mut faults);
    // The refused file still lies there.
    let folder = gateway.keep();
    let mut started = None;
    let mut faults = vec![watcher.injected("BulkheadPolicyFallback", || {
        started = Some(Gateway::start_again(rig, folder, true));
    })];
    watcher.expect(&mut faults);
    watcher.until_over("BulkheadUnreachable");
    let gateway = started.expect("it runs again");
    let (code, said) = gateway.reload(policies::BASIC);
    assert_eq!(code, 0, "{said}");
    watcher.until_over("BulkheadPolicyFallback");
    watcher.until_over("BulkheadReloadRefused");
    drop(watcher);
    gateway.stop();
}

fn does(gateway: &Gateway<'_>, command: &[&str]) {
    let (code, said) = gateway.bulkhead(&[command, &["--config", "gateway.toml"]].concat());
    assert_eq!(code, 0, "{command:?}: {said}");
}

/// A Prometheus that watches a gateway by the alert rules of `deploy`.
struct Watcher<'a> {
    rig: &'a Rig,
    process: Child,
    /// The alerts, and how long each waits.
    waits: Vec<(String, Duration)>,
}

/// A fault that was injected, and the alert that should tell of it.
struct Fault {
    alert: &'static str,
    at: Instant,
}

impl<'a> Watcher<'a> {
    fn start(rig: &'a Rig, gateway: &Gateway<'_>) -> Self {
        let folder = gateway.folder().join("prometheus");
        fs::create_dir_all(&folder).expect("a folder");
        let deployed = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/alerts.yml");
        let (rules, waits) = scaled(&fs::read_to_string(deployed).expect("the alert rules"));
        let config = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n\
                      rule_files: [alerts.yml]\n\
                      scrape_configs:\n  - job_name: bulkhead\n    static_configs:\n      \
                      - targets: [\"127.0.0.1:10469\"]\n";
        fs::write(folder.join("alerts.yml"), rules).expect("the rules");
        fs::write(folder.join("prometheus.yml"), config).expect("its configuration");
        let process = (rig.gateway().command("prometheus"))
            .arg("--config.file")
            .arg(folder.join("prometheus.yml"))
            .args(["--web.listen-address", PROMETHEUS, "--storage.tsdb.path"])
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("log")).expect("a log"))
            .spawn()
            .expect("prometheus starts");
        Self { rig, process, waits }
    }

    fn injected(&self, alert: &'static str, inject: impl FnOnce()) -> Fault {
        assert!(!self.fires(alert), "{alert} fires before its fault");
        let at = Instant::now();
        inject();
        Fault { alert, at }
    }

    /// Waits until the alert of each fault fires: not before it has waited, and soon after.
    fn expect(&self, faults: &mut Vec<Fault>) {
        while !faults.is_empty() {
            std::thread::sleep(Duration::from_millis(200));
            faults.retain(|fault| {
                let is_it = |(name, _): &&(String, Duration)| name == fault.alert;
                let (_, wait) = self.waits.iter().find(is_it).expect("a rule of deploy/alerts.yml");
                let fires = self.fires(fault.alert);
                let took = fault.at.elapsed();
                if fires {
                    assert!(took >= *wait, "{} fires after {took:?}, too early", fault.alert);
                    println!(
                        "{}: fires {:.1} s after its fault, of which it waits {} s",
                        fault.alert,
                        took.as_secs_f64(),
                        wait.as_secs()
                    );
                }
                assert!(took < *wait + SLACK, "{} does not fire: {:?}", fault.alert, self.firing());
                !fires
            });
        }
    }

    fn until_over(&self, alert: &str) {
        let query = format!("absent(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}})");
        self.until(&format!("{alert} is over"), &query, SLACK);
    }

    fn until(&self, what: &str, query: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.has(query) {
            assert!(Instant::now() < deadline, "waited in vain until {what}: {:?}", self.firing());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn fires(&self, alert: &str) -> bool {
        self.has(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}"))
    }

    /// The names of the alerts that fire.
    fn firing(&self) -> Vec<String> {
        let answer = self.ask("ALERTS{alertstate=\"firing\"}");
        let names = answer.split("\"alertname\":\"").skip(1);
        names.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
    }

    fn has(&self, query: &str) -> bool {
        self.ask(query).contains("\"value\":[")
    }

    /// The answer to an instant query; nothing while there is none.
    fn ask(&self, query: &str) -> String {
        let escaped: String = query
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        let server = PROMETHEUS.parse().expect("a constant address");
        let path = format!("/api/v1/query?query={escaped}");
        http_get(self.rig.gateway(), server, &path).map_or(String::new(), |(_, body)| body)
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The rules with long waits cut to a tenth, and each alert with its wait.
fn scaled(deployed: &str) -> (String, Vec<(String, Duration)>) {
    let (mut rules, mut waits) = (String::new(), Vec::<(String, Duration)>::new());
    for line in deployed.lines() {
        let mut line = line.to_owned();
        if let Some((_, name)) = line.split_once("- alert: ") {
            waits.push((name.to_owned(), Duration::ZERO));
        } else if let Some(wait) = line.trim().strip_prefix("for: ") {
            let (number, unit) = wait.split_at(wait.len() - 1);
            let number: u64 = number.parse().expect("a duration");
            let deployed_s = number * if unit == "m" { 60 } else { 1 };
            let s = if deployed_s > UNSCALED_S { deployed_s / 10 } else { deployed_s };
            line = format!("        for: {s}s");
            waits.last_mut().expect("an alert before it").1 = Duration::from_secs(s);
        }
        rules += &line;
        rules.push('\n');
    }
    (rules, waits)
}

/// A thread that stands still until this is dropped.
struct Held(Pid);

impl Held {
    fn hold(thread: Pid) -> Self {
        ptrace::seize(thread, ptrace::Options::empty()).expect("the worker can be traced");
        ptrace::interrupt(thread).expect("the worker can be stopped");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("the worker stops");
        Self(thread)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A process that is gone holds nobody up.
        let _ = ptrace::detach(self.0, None);
    }
}

/// The thread of the gateway's first worker.
fn worker_of(gateway: &Gateway<'_>) -> Pid {
    let tasks = format!("/proc/{}/task", gateway.pid());
    let threads = fs::read_dir(&tasks).expect("the gateway has threads").flatten();
    let worker = threads.into_iter().find(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        name.starts_with("worker")
    });
    let id = worker.expect("a worker").file_name();
    Pid::from_raw(id.to_string_lossy().parse().expect("a thread has a number"))
}

/// An ARP announcement: `mac` says that it has `address`.
fn announcement(mac: Mac, address: [u8; 4]) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(mac.0);
    arp.extend(address);
    arp.extend([0; 6]);
    arp.extend(address);
    ethernet(Mac([0xff; 6]), mac, &[], 0x0806, &arp)
}

/// An IPv6 router advertisement, as only a router sends it (RFC 4861, section 4.2).
fn router_advertisement(mac: Mac) -> Vec<u8> {
    let source = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x66];
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut icmp = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut pseudo = [source, all_nodes].concat();
    pseudo.extend([0, 0, 0, icmp.len() as u8, 0, 0, 0, 58]);
    pseudo.extend(&icmp);
    icmp[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0, 0, icmp.len() as u8, 58, 255];
    packet.extend(source);
    packet.extend(all_nodes);
    packet.extend(icmp);
    ethernet(Mac([0x33, 0x33, 0, 0, 0, 1]), mac, &[], 0x86dd, &packet)
}
