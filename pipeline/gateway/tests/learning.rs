//! `bulkhead learn` beside a gateway that only pretends, and the commands that read its store: from
//! the stream to a policy that `bulkhead check` accepts; a kill, a full disk and a damaged store.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use bulkhead_gateway::flow_stream::{
    self, End, Event, Flow, Hello, Lost, MacAddress, Message, Reached, Side, VERSION,
};
use bulkhead_rules::headers::Mac;
use serde_json::Value;

const HOUR_MS: i64 = 3_600_000;
/// Hours of the Unix epoch at which the plant's day begins: not so long ago that it is forgotten.
static BEGIN: LazyLock<i64> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    now.as_millis() as i64 / HOUR_MS - 40
});
const PATIENCE: Duration = Duration::from_secs(30);

fn flow(client: [u8; 4], server: [u8; 4], port: u16, hour: i64) -> Flow {
    let at_ms = (*BEGIN + hour) * HOUR_MS + 1000;
    Flow {
        event: Event::Ended,
        first_ms: at_ms,
        last_ms: at_ms + 500,
        wire: "line3".to_owned(),
        client_side: Side::Outside,
        vlan: [0, 0],
        ether_type: 0x0800,
        protocol: 6,
        client: Some(IpAddr::from(client)),
        server: Some(IpAddr::from(server)),
        client_port: 40_000 + hour as u16,
        server_port: port,
        client_mac: MacAddress(Mac([2, 0, client[0], client[1], client[2], client[3]])),
        server_mac: MacAddress(Mac([2, 0, server[0], server[1], server[2], server[3]])),
        opening_seen: true,
        answered: true,
        client_packets: 6,
        server_packets: 5,
        client_bytes: 600,
        server_bytes: 500,
        end: Some(End::Closed),
        allowed: false,
        reason: Some("policy".to_owned()),
        rule: "default".to_owned(),
        epoch: 1,
        enforced: false,
        staged: None,
    }
}

/// Two HMIs read six PLCs, a historian reads them too; an intruder tries shells once.
fn plant(hours: i64) -> Vec<Message> {
    let mut messages = vec![hello()];
    let mut add = |flow: Flow| messages.push(Message::Flow(Box::new(flow)));
    for hour in 0..hours {
        for plc in 11..=16 {
            for hmi in [1, 2] {
                add(flow([10, 20, 0, hmi], [10, 30, 3, plc], 502, hour));
            }
            add(flow([10, 20, 0, 9], [10, 30, 3, plc], 102, hour));
        }
        // Somebody announces itself to all.
        let multicast = Flow { protocol: 17, ..flow([10, 20, 0, 9], [224, 0, 0, 251], 5353, hour) };
        add(Flow { client_port: 5353, answered: false, end: Some(End::Idle), ..multicast });
    }
    for plc in 11..=16 {
        let shell = flow([10, 66, 0, 66], [10, 30, 3, plc], 22, 5);
        add(Flow { answered: false, end: Some(End::Idle), ..shell });
    }
    messages.push(Message::Lost(Lost { flows: 7, frames: 2 }));
    messages
}

/// The first message of a run that there was not before.
fn hello() -> Message {
    static RUNS: AtomicU64 = AtomicU64::new(1_000);
    hello_at(RUNS.fetch_add(1, Relaxed), Lost::default())
}

/// The first message of a gateway's run to a reader before whom so much was told.
fn hello_at(run: u64, before: Lost) -> Message {
    let wires = vec!["line3".to_owned()];
    let at = Reached { run, before };
    Message::Hello(Hello { version: VERSION, software: "0.1.0".to_owned(), wires, at })
}

/// A folder with a gateway's socket, and a place for the store.
struct Site {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("records.sock")).unwrap();
        Self { folder, listener }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("learn")
    }

    /// Starts the learning process, and takes its connection.
    fn learn(&self) -> (Learner, UnixStream) {
        let child = command(&["learn", "--config", "none.toml", "--socket", "records.sock"])
            .args(["--dir".as_ref(), self.store().as_os_str()])
            .current_dir(self.folder.path())
            .stderr(fs::File::create(self.folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let learner = Learner(child);
        (learner, self.accept())
    }

    fn accept(&self) -> UnixStream {
        self.listener.accept().unwrap().0
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn status(&self) -> Option<Value> {
        let store = self.store();
        let store = store.to_str().unwrap();
        let arguments = [
            "learn",
            "--config",
            "none.toml",
            "--socket",
            "x",
            "--dir",
            store,
            "--status",
            "--json",
        ];
        let output = command(&arguments).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until the status says so.
    fn wait_for(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if let Some(status) = status.as_ref().filter(|status| is_so(status)) {
                return status.clone();
            }
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "not {what}: {status:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn edges(&self) -> i64 {
        let lines = self.json(&["map"]);
        lines.as_array().unwrap().iter().map(|line| line["flows"].as_i64().unwrap()).sum()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let store = self.store();
        let output = command(arguments)
            .args(["--json", "--config", "none.toml", "--store", store.to_str().unwrap()])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {err}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A running process, ended with the test.
struct Learner(Child);

impl Drop for Learner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn tell(stream: &mut UnixStream, messages: &[Message]) {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| assert!(flow_stream::append(&mut bytes, message)));
    stream.write_all(&bytes).unwrap();
}

fn flows(messages: &[Message]) -> u64 {
    messages.iter().filter(|message| matches!(message, Message::Flow(_))).count() as u64
}

fn is_stored(status: &Value, read: u64) -> bool {
    status["counters"]["flows-read"] == read
        && status["edges-waiting"] == 0
        && status["batches"].as_u64() > Some(0)
        && status["trouble"].is_null()
}

#[test]
fn from_the_stream_to_a_policy_that_check_accepts() {
    let site = Site::new();
    let (_learner, mut stream) = site.learn();
    let messages = plant(24);
    tell(&mut stream, &messages);
    let read = flows(&messages);
    let status = site.wait_for("stored", |status| is_stored(status, read));
    assert_eq!(status["counters"]["flows-lost"], 7);

    let map = site.json(&["map"]);
    let first = map.as_array().unwrap().iter().find(|line| line["service"] == "tcp/502").unwrap();
    assert_eq!(first["flows"], 24);
    let devices = site.json(&["devices"]);
    assert_eq!(devices.as_array().unwrap().len(), 2 + 1 + 6 + 1);
    for format in ["table", "matrix", "dot", "svg"] {
        let store = site.store();
        let arguments = ["map", "--format", format, "--store", store.to_str().unwrap()];
        let output = command(&arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("10.30.3.11") && text.contains("tcp/502"), "{format}: {text}");
    }

    // Into the policy's folder, beside what a person wrote.
    let policy = site.folder.path().join("policy");
    fs::create_dir(&policy).unwrap();
    let by_hand = "version: 1\ngroups:\n  plcs: [10.30.3.0/24]\nrules:\n  - {name: no-shells, \
                   from: any, to: plcs, service: tcp/22, action: deny}\n";
    fs::write(policy.join("00-guardrails.yaml"), by_hand).unwrap();
    let report = site.json(&["propose", "--policy", "policy", "--out", "policy/80-learned.yaml"]);
    let rules = report["rules"].as_array().unwrap();
    assert!((1..=4).contains(&rules.len()), "{report:#}");
    assert_eq!(report["templates"], serde_json::json!(["template-mdns"]), "{report:#}");
    assert!(!report["policy"].as_str().unwrap().contains("10.66.0.66"), "{report:#}");
    assert!(report["expected-denials"]["share"].as_f64().unwrap() < 0.001, "{report:#}");
    assert!(report["makes-no-rule"].as_array().unwrap().len() == 6, "{report:#}");
    let check = command(&["check", "policy"]).current_dir(site.folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(0), "{text}");
    for (packet, verdict) in [
        ("tcp 10.20.0.1:5 -> 10.30.3.14:502", "allow"),
        ("tcp 10.66.0.66:5 -> 10.30.3.14:502", "deny"),
        ("udp 10.20.0.9:5353 -> 224.0.0.251:5353", "allow"),
    ] {
        let asked = command(&["explain", "--policy", "policy", "--expect", verdict, packet])
            .current_dir(site.folder.path())
            .output()
            .unwrap();
        assert_eq!(asked.status.code(), Some(0), "{}", String::from_utf8_lossy(&asked.stdout));
    }
    // The same again gives the same bytes; names stay.
    let text = fs::read_to_string(policy.join("80-learned.yaml")).unwrap();
    site.json(&["propose", "--policy", "policy", "--out", "policy/80-learned.yaml"]);
    assert_eq!(fs::read_to_string(policy.join("80-learned.yaml")).unwrap(), text);

    let rule = rules[0]["name"].as_str().unwrap();
    let why = site.json(&["explain-rule", "--policy", "policy", rule]);
    assert!(why["witnesses"]["count"].as_u64().unwrap() >= 6, "{why:#}");

    let refused = command(&["propose", "--out", "policy/00-guardrails.yaml", "--store"])
        .arg(site.store())
        .current_dir(site.folder.path())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1), "a person's file");
    assert_eq!(fs::read_to_string(policy.join("00-guardrails.yaml")).unwrap(), by_hand);
}

#[test]
fn denials_after_lockdown_are_triaged() {
    let site = Site::new();
    let (_learner, mut stream) = site.learn();
    let mut messages = plant(24);
    let locked = |flow: Flow| {
        let event = Event::Denied;
        Message::Flow(Box::new(Flow { event, enforced: true, answered: false, end: None, ..flow }))
    };
    // What runs goes on; a known device tries something new, and a new one comes.
    let runs = flow([10, 20, 0, 1], [10, 30, 3, 11], 502, 30);
    messages.push(Message::Flow(Box::new(Flow { enforced: true, allowed: true, ..runs })));
    messages.push(locked(flow([10, 20, 0, 1], [10, 30, 3, 11], 3389, 30)));
    messages.push(locked(flow([10, 20, 0, 77], [10, 30, 3, 11], 502, 31)));
    messages.push(locked(flow([10, 20, 0, 78], [10, 30, 3, 11], 4444, 31)));
    tell(&mut stream, &messages);
    site.wait_for("stored", |status| is_stored(status, flows(&messages)));
    let drift = site.json(&["drift"]);
    let advice = |client: &str| {
        let denials = drift["denials"].as_array().unwrap();
        let found = denials.iter().find(|denial| denial["client"] == client);
        found.map(|denial| denial["advice"].as_str().unwrap().to_owned())
    };
    assert_eq!(advice("10.20.0.1").as_deref(), Some("ask"), "{drift:#}");
    assert_eq!(advice("10.20.0.77").as_deref(), Some("place"), "{drift:#}");
    assert_eq!(advice("10.20.0.78").as_deref(), Some("quarantine"), "{drift:#}");
    assert!(!drift["unused-rules"].as_array().unwrap().is_empty(), "nobody read by tcp/102");
}

#[test]
fn a_kill_loses_no_more_than_what_was_not_stored() {
    let site = Site::new();
    let (mut learner, mut stream) = site.learn();
    let messages = plant(24);
    tell(&mut stream, &messages);
    let read = flows(&messages);
    site.wait_for("stored", |status| is_stored(status, read));
    let before = site.edges();
    learner.0.kill().unwrap();
    learner.0.wait().unwrap();
    assert_eq!(site.edges(), before, "what was stored is there");
    // The next one goes on with the same store.
    let (_again, mut stream) = site.learn();
    tell(&mut stream, &plant(1));
    let more = flows(&plant(1));
    site.wait_for("stored", |status| is_stored(status, more));
    assert_eq!(site.edges(), before + more as i64);
    let log = site.log();
    assert!(!log.contains("damaged"), "{log}");
}

#[test]
fn what_a_killed_process_had_read_and_not_stored_is_counted_and_nothing_counts_twice() {
    let site = Site::new();
    let (mut learner, mut stream) = site.learn();
    let messages = plant(24);
    let (read, lost) = (flows(&messages), Lost { flows: 7, frames: 2 });
    let frames = messages.iter().filter(|m| matches!(m, Message::Frame(_))).count() as u64;
    tell(&mut stream, &[hello_at(7, Lost::default())]);
    tell(&mut stream, &messages[1..]);
    site.wait_for("stored", |status| is_stored(status, read));
    let edges = site.edges();
    learner.0.kill().unwrap();
    learner.0.wait().unwrap();

    // The gateway had told the killed one five records and a copy more.
    let before = |flows: u64, copies: u64| Lost {
        flows: read + lost.flows + flows,
        frames: frames + lost.frames + copies,
    };
    let (_again, mut stream) = site.learn();
    tell(&mut stream, &[hello_at(7, before(5, 1))]);
    let status = site.wait_for("counted", |status| status["counters"]["flows-unstored"] == 5);
    assert_eq!(status["counters"]["frames-unstored"], 1, "{status}");
    drop(stream);

    // What comes again because another reader had left there is not counted again.
    let mut stream = site.accept();
    tell(&mut stream, &[hello_at(7, before(3, 1))]);
    let more: Vec<Message> =
        plant(1).into_iter().filter(|m| matches!(m, Message::Flow(_))).collect();
    tell(&mut stream, &more);
    let new = more.len() as u64 - 2;
    let status = site.wait_for("stored", |status| is_stored(status, new));
    assert_eq!(status["counters"]["flows-unstored"], 5, "{status}");
    assert_eq!(status["counters"]["flows-read"], new);
    assert!(site.edges() > edges);

    // Another run begins at its own beginning.
    drop(stream);
    let mut stream = site.accept();
    tell(&mut stream, &[hello_at(8, Lost { flows: 1_000_000, frames: 0 })]);
    let status = site.wait_for("connected", |status| status["connections"] == 3);
    assert_eq!(status["counters"]["flows-unstored"], 5, "{status}");
}

#[test]
fn a_gateway_that_goes_away_is_asked_again() {
    let site = Site::new();
    let (_learner, mut stream) = site.learn();
    tell(&mut stream, &[hello()]);
    site.wait_for("connected", |status| status["connected"] == true);
    drop(stream);
    let mut stream = site.accept();
    let messages = plant(2);
    tell(&mut stream, &messages);
    let status = site.wait_for("stored", |status| is_stored(status, flows(&messages)));
    assert_eq!(status["connections"], 2);
    // One that speaks nonsense is left, and asked again.
    stream.write_all(&[0xff; 64]).unwrap();
    let mut stream = site.accept();
    tell(&mut stream, &[hello()]);
    site.wait_for("connected", |status| status["connections"] == 3);
}

#[test]
fn a_damaged_store_is_set_aside_with_a_message() {
    let site = Site::new();
    fs::create_dir(site.store()).unwrap();
    fs::write(site.store().join("communication.db"), [0x5a; 8192]).unwrap();
    let (_learner, mut stream) = site.learn();
    let messages = plant(2);
    tell(&mut stream, &messages);
    let status = site.wait_for("stored", |status| is_stored(status, flows(&messages)));
    let aside = status["set-aside"][0].as_str().unwrap();
    assert!(aside.contains("communication.db.corrupt-"), "{aside}");
    assert_eq!(fs::read(aside).unwrap(), [0x5a; 8192]);
    assert!(site.log().contains("set aside"), "{}", site.log());
}

/// On a file system of 3 MiB. It needs the right to mount; where that is not there, it says so.
#[test]
fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let site = Site::new();
    let store = site.store();
    fs::create_dir(&store).unwrap();
    let Some(_mount) = Mount::new(&store) else {
        assert!(std::env::var_os("CI").is_none(), "a file system can be mounted in CI");
        println!("skipped: no file system can be mounted here");
        return;
    };
    let filler = store.join("filler");
    let (_learner, mut stream) = site.learn();
    let messages = plant(2);
    tell(&mut stream, &messages);
    let mut read = flows(&messages);
    site.wait_for("stored", |status| is_stored(status, read));
    fill(&filler);
    let more = many(4_000);
    tell(&mut stream, &more);
    read += flows(&more);
    let full = site.wait_for("in trouble", |status| {
        status["counters"]["flows-read"] == read && !status["trouble"].is_null()
    });
    let trouble = full["trouble"].as_str().unwrap();
    assert!(trouble.contains("make room on its disk"), "{trouble}");
    assert_eq!(full["counters"]["flows-dropped"], 0);
    fs::remove_file(&filler).unwrap();
    site.wait_for("stored", |status| is_stored(status, read));
    assert_eq!(site.edges(), read as i64, "nothing is lost");
    assert!(site.log().contains("can be written again"), "{}", site.log());
}

/// Flows of so many clients.
fn many(clients: u16) -> Vec<Message> {
    let client = |at: u16| {
        let [high, low] = at.to_be_bytes();
        Message::Flow(Box::new(flow([10, 40, high, low], [10, 30, 3, 11], 502, 3)))
    };
    (0..clients).map(client).collect()
}

/// Takes all the room that there is.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [65_536, 4096, 512, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// A small file system in memory, for as long as a test needs it.
struct Mount(PathBuf);

impl Mount {
    fn new(path: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "bulkhead-test"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The learner may still hold it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What is at a path of the process's endpoint.
fn scrape(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// The value of a metric.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.split(' ').next() == Some(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn the_process_tells_prometheus_what_it_reads_loses_and_stores() {
    let site = Site::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "policy = \"policy\"\nrecords-socket = \"records.sock\"\nlearn-dir = \"learn\"\n\
         [[wire]]\nname = \"line3\"\ninside = \"in0\"\noutside = \"out0\"\n\
         [learn]\nlisten = \"127.0.0.1:{port}\"\n"
    );
    fs::write(site.folder.path().join("gateway.toml"), config).unwrap();
    let child = command(&["learn", "--config", "gateway.toml"])
        .current_dir(site.folder.path())
        .stderr(fs::File::create(site.folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let _learner = Learner(child);
    let mut stream = site.accept();
    let messages = plant(24);
    tell(&mut stream, &messages);
    let read = flows(&messages);
    site.wait_for("stored", |status| is_stored(status, read));
    let metrics = scrape(port, "/metrics").unwrap_or_else(|| panic!("{}", site.log()));
    for (name, expected) in [
        ("bulkhead_learn_flow_records_read_total", read as f64),
        ("bulkhead_learn_flow_records_lost_total{where=\"gateway\"}", 7.0),
        ("bulkhead_learn_frame_copies_lost_total", 2.0),
        ("bulkhead_learn_connected", 1.0),
        ("bulkhead_learn_store_writable", 1.0),
    ] {
        assert_eq!(value(&metrics, name), Some(expected), "{name}\n{metrics}");
    }
    assert!(value(&metrics, "bulkhead_learn_store_size_bytes") > Some(4096.0), "{metrics}");
    assert!(scrape(port, "/readyz").is_some() && scrape(port, "/nothing").is_none());

    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match promtool {
        Ok(mut promtool) => {
            promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
            let said = promtool.wait_with_output().unwrap();
            let complaints = [said.stdout, said.stderr].concat();
            let complaints = String::from_utf8_lossy(&complaints).into_owned();
            assert!(said.status.success() && complaints.is_empty(), "{complaints}\n{metrics}");
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "promtool: {error}");
            println!("SKIPPED: promtool's opinion of the metrics: {error}");
        }
    }
}
