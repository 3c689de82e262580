//! Faults beside running packets, each against the promises of the design: nothing forbidden passes, every
//! frame is accounted for, a bad file changes nothing, packets wait for nobody.
//!
//! All the while a host sends what no policy permits; one datagram that arrives is a violation, and so is
//! an account that is not exact. The table is printed and, with `BULKHEAD_RESULTS`, written to `chaos.md` in
//! that folder. What start, stop, crash and hang do to single frames is counted in `failure.rs`.

use std::fmt::{Display, Write as _};
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, Outcome, Place, connect, exchange, try_tcp};
use bulkhead_tests::load::{Kind, Load};
use bulkhead_tests::rig::{HOST_INTERFACE, Host};
use bulkhead_tests::{Driver, Gateway, Rig, Settings, is_full, skip};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::{over_af_xdp, policies};

over_af_xdp!(faults_break_no_promise);

fn faults_break_no_promise(rig: &Rig) {
    let mut table = Table::new(rig);
    // First: afterwards hosts still repeat the last segments of connections whose gateway was ended, and a
    // new one, without grace, rightly drops them.
    policy_churns(rig, &mut table);
    killed(rig, &mut table);
    worker_stands_still(rig, &mut table);
    memory_runs_out(rig, &mut table);
    disk_is_full(rig, &mut table);
    clock_jumps(rig, &mut table);
    port_flaps(rig, &mut table);
    state_is_damaged(rig, &mut table);
    table.finish();
}

/// Time within which what should work again has to.
const SOON: Duration = Duration::from_secs(10);

/// The faults and what came of them.
struct Table<'r> {
    rig: &'r Rig,
    intruder: Intruder,
    rows: String,
    violations: Vec<String>,
}

/// What was promised, and whether it was kept.
struct Promise {
    kept: bool,
    what: String,
}

fn promise(kept: bool, what: impl Display) -> Promise {
    Promise { kept, what: what.to_string() }
}

impl<'r> Table<'r> {
    fn new(rig: &'r Rig) -> Self {
        let intruder = Intruder::start(rig.inside(0), rig.outside(0));
        Self { rig, intruder, rows: String::new(), violations: Vec::new() }
    }

    /// Enters a fault, with what it was to leave alone.
    fn enter(&mut self, fault: &str, begun: Instant, promises: Vec<Promise>) {
        let (sent, arrived) = self.intruder.take();
        let mut all =
            vec![promise(arrived == 0, format!("{arrived} of {sent} forbidden datagrams arrived"))];
        all.extend(promises);
        for Promise { kept, what } in all {
            let _ = writeln!(
                self.rows,
                "| {fault} | {what} | {} |",
                if kept { "kept" } else { "**BROKEN**" }
            );
            if !kept {
                self.violations.push(format!("{fault}: {what}"));
            }
        }
        println!("{fault}: {:.1?}", begun.elapsed());
    }

    /// Whether the permitted service answers soon.
    fn serves(&self) -> Promise {
        let to = SocketAddr::new(self.rig.inside(0).v4.into(), 502);
        let begun = Instant::now();
        let mut answered = false;
        while !answered && begun.elapsed() < SOON {
            answered = try_tcp(self.rig.outside(0), to) == Outcome::Answered;
        }
        promise(
            answered,
            format!("what is permitted is answered again, after {:.1?}", begun.elapsed()),
        )
    }

    fn finish(self) {
        let full = if is_full() { "BULKHEAD_FULL=1 " } else { "" };
        let page = format!(
            "# Faults and promises\n\n`{full}BULKHEAD_RESULTS=bench/results cargo test -p bulkhead-tests --test e2e \
             chaos`\n\n{}.\n\n| fault | promise | result |\n|---|---|---|\n{}\n{} violations.\n",
            crate::soak::machine(),
            self.rows,
            self.violations.len()
        );
        println!("{page}");
        if let Some(folder) =
            std::env::var_os("BULKHEAD_RESULTS").filter(|folder| !folder.is_empty())
        {
            let path = PathBuf::from(folder).join("chaos.md");
            fs::write(&path, &page).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        assert!(self.violations.is_empty(), "{:#?}", self.violations);
    }
}

/// Sends what no policy permits, without a pause, over both families.
struct Intruder {
    servers: [Echo; 2],
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    before: (u64, u64),
}

impl Intruder {
    fn start(inside: &Host, outside: &Host) -> Self {
        let servers = [Echo::udp(inside, 54), Echo::udp(inside, 56)];
        let targets: [(IpAddr, u16); 3] =
            [(inside.v4.into(), 54), (inside.v6.into(), 54), (inside.v4.into(), 56)];
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, flag) = (Arc::clone(&sent), Arc::clone(&stop));
        // A thread stays in the namespace of the one that started it.
        let thread = outside.inside(|| {
            thread::spawn(move || {
                while !flag.load(Relaxed) {
                    for to in targets.map(SocketAddr::from) {
                        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                        let Ok(socket) = UdpSocket::bind(any) else { continue };
                        count
                            .fetch_add(u64::from(socket.send_to(b"intruder", to).is_ok()), Relaxed);
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            })
        });
        Self { servers, sent, stop, thread: Some(thread), before: (0, 0) }
    }

    /// Sent and arrived since the last time.
    fn take(&mut self) -> (u64, u64) {
        let now = (self.sent.load(Relaxed), self.servers.iter().map(Echo::reached).sum::<u64>());
        let since = (now.0 - self.before.0, now.1 - self.before.1);
        self.before = now;
        since
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn start(rig: &Rig) -> Gateway<'_> {
    Gateway::start(rig, Settings::new(Driver::AfXdp, policies::BASIC))
}

/// Ends a gateway; its account has to be exact at some moment at which nothing is under way.
fn account(gateway: Gateway<'_>) -> Promise {
    let deadline = Instant::now() + SOON;
    let mut difference = None;
    // The intruder goes on, so that there is always a frame on its way: single readings may differ.
    while difference != Some(0) && Instant::now() < deadline {
        let metrics = gateway.metrics();
        let dropped: u64 = metrics.drops().values().sum();
        let came = metrics.received() + metrics.count("bulkhead_originated_packets_total", &[]);
        let went = metrics.transmitted() + dropped + metrics.count("bulkhead_held_packets", &[]);
        difference = Some(i128::from(came) - i128::from(went));
    }
    let mut gateway = gateway;
    let (status, took) = gateway.terminate(Signal::SIGTERM);
    let log = gateway.log();
    let last = log.lines().filter(|line| line.contains("final account")).collect::<Vec<_>>();
    let exact = !last.is_empty() && last.iter().all(|line| line.contains("exact=true"));
    let kept = difference == Some(0) && exact && status.success() && took < Duration::from_secs(1);
    promise(kept, format!("every frame is accounted for, and it ends ({status}) in {took:.1?}"))
}

fn killed(rig: &Rig, table: &mut Table<'_>) {
    let begun = Instant::now();
    let rounds = if is_full() { 20 } else { 2 };
    let mut gateway = start(rig);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let _server = Echo::tcp(rig.inside(0), 502);
        gateway.terminate(Signal::SIGKILL);
        // Long enough for the intruder to find what a dead gateway leaves open.
        thread::sleep(Duration::from_millis(100 * (round % 4)));
        let folder = gateway.keep();
        let again = Instant::now();
        gateway = Gateway::start_again(rig, folder, true);
        slowest = slowest.max(again.elapsed());
    }
    let _server = Echo::tcp(rig.inside(0), 502);
    let promises = vec![
        table.serves(),
        promise(
            true,
            format!("it starts after each of {rounds} kills, ready in {slowest:.1?} at most"),
        ),
        account(gateway),
    ];
    table.enter("kill -9 under load", begun, promises);
}

/// The thread of the gateway's first worker.
fn worker(gateway: &Gateway<'_>) -> Pid {
    let folder = format!("/proc/{}/task", gateway.pid());
    let threads = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder}: {e}")).flatten();
    let found = threads.map(|thread| thread.path()).find(|thread| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "worker-0")
    });
    let number = found.and_then(|path| path.file_name()?.to_str()?.parse().ok());
    Pid::from_raw(number.expect("a worker's thread"))
}

fn worker_stands_still(rig: &Rig, table: &mut Table<'_>) {
    let begun = Instant::now();
    let mut gateway = start(rig);
    let server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    let thread = worker(&gateway);
    // What SIGSTOP does to a process, a tracer does to one thread of it.
    let stopped = ptrace::seize(thread, ptrace::Options::empty())
        .and_then(|()| ptrace::interrupt(thread))
        .and_then(|()| waitpid(thread, Some(WaitPidFlag::__WALL)));
    if let Err(error) = stopped {
        skip(
            "chaos: a worker that stands still",
            &format!("no thread can be traced here: {error}"),
        );
        return table.enter("SIGSTOP of a worker", begun, vec![account(gateway)]);
    }
    let reached = server.reached();
    let silent = try_tcp(rig.outside(0), to) != Outcome::Answered && server.reached() == reached;
    gateway.wait_until("seen to hang", SOON, |g| g.get("/healthz").0 == 503);
    let (code, said) = gateway.bulkhead(&["status", "--config", "gateway.toml"]);
    let answers = promise(code == 0, "the control socket answers meanwhile");
    let (_, reloaded) = gateway.reload(&policies::BASIC.replace("tcp/502", "tcp/500-510"));
    let _ = ptrace::detach(thread, None);
    gateway.wait_until("well again", SOON, |g| g.get("/healthz").0 == 200);
    let promises = vec![
        promise(silent, "its wires are cut"),
        promise(true, "it is seen to hang (/healthz, and systemd hears no WATCHDOG=1)"),
        answers,
        promise(
            reloaded.contains("accepted"),
            "a reload meanwhile is whole, and says that the worker does not judge by it yet",
        ),
        table.serves(),
        account(gateway),
    ];
    drop(said);
    table.enter("SIGSTOP of a worker", begun, promises);
}

/// A policy that takes far more memory than is left: every rule between ranges of its own.
fn large_policy(rules: u32) -> String {
    let mut text = policies::BASIC.to_owned();
    for rule in 0..rules {
        let (a, b, c) = (rule >> 16 & 63, rule >> 8 & 255, rule & 255);
        let _ = writeln!(
            text,
            "  - {{name: r{rule}, from: 10.{a}.{b}.{c}, to: [10.{b}.{c}.0/24, 172.16.{a}.0/28], service: \
             tcp/{}, action: allow}}",
            1 + rule % 60_000
        );
    }
    text
}

fn memory_runs_out(rig: &Rig, table: &mut Table<'_>) {
    let begun = Instant::now();
    let gateway = start(rig);
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    let mut session = connect(rig.outside(0), to).expect("a permitted connection");
    exchange(&mut session).expect("an exchange");
    let limit = |bytes: String| {
        let limited = Command::new("prlimit")
            .args([format!("--pid={}", gateway.pid()), format!("--as={bytes}:unlimited")])
            .status();
        assert!(limited.is_ok_and(|status| status.success()), "prlimit is part of every Debian");
    };
    limit(((gateway.process_status("VmSize:") + (96 << 10)) << 10).to_string());
    let (code, said) = gateway.reload(&large_policy(40_000));
    let goes_on = exchange(&mut session).is_ok();
    let alive = Path::new(&format!("/proc/{}/exe", gateway.pid())).exists()
        && gateway.get("/readyz").0 == 200;
    let short = first_line(said.lines().find(|line| line.contains("memory")).unwrap_or(&said));
    let mut promises = vec![
        promise(
            code != 0 && alive,
            format!("the reload is refused and the gateway lives: {short}"),
        ),
        promise(goes_on, "an open connection goes on under the running policy"),
    ];
    if alive {
        limit("unlimited".to_owned());
        let (code, said) = gateway.reload(&policies::BASIC.replace("tcp/502", "tcp/501-502"));
        let taken = code == 0 && said.contains("accepted");
        promises.push(promise(
            taken,
            format!("with memory again a reload is taken: {}", first_line(&said)),
        ));
        promises.push(account(gateway));
    }
    table.enter("out of memory in a reload (RLIMIT_AS)", begun, promises);
}

/// A file system of 1 MiB over the gateway's state, gone when this is.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
        run("mount", &["-t", "tmpfs", "-o", "size=1m,mode=0750", "tmpfs", &at.to_string_lossy()]);
        Self(at)
    }

    /// Takes what room there is left.
    fn fill(&self) {
        let _ = fs::write(self.0.join("ballast"), vec![0; 2 << 20]);
    }

    fn make_room(&self) {
        let _ = fs::remove_file(self.0.join("ballast"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn disk_is_full(rig: &Rig, table: &mut Table<'_>) {
    let begun = Instant::now();
    let folder = std::env::temp_dir().join(rig.gateway().name());
    let disk = SmallDisk::mount(folder.join("state"));
    let mut gateway = start(rig);
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    let mut session = connect(rig.outside(0), to).expect("a permitted connection");
    disk.fill();
    let types = |gateway: &Gateway<'_>, args: &[&str]| {
        gateway.bulkhead(&[args, &["--config", "gateway.toml"]].concat())
    };
    // What is entered still fits the last block of the log for a while.
    let mut said = String::new();
    let refused = (1..200).find(|port| {
        let service = format!("tcp/{}", 600 + port);
        let grant = ["grant", "--from", "10.77.2.1", "--to", "10.77.1.1", "--service", &service];
        let (code, text) =
            types(&gateway, &[&grant[..], &["--for", "1h", "--reason", "chaos"]].concat());
        said = text;
        code != 0
    });
    let (after, why) = (refused.unwrap_or(0), first_line(&said));
    let loosens =
        promise(refused.is_some(), format!("what loosens is refused ({after} tries): {why}"));
    let (code, said) = types(&gateway, &["quarantine", "10.9.9.9", "--reason", "chaos"]);
    let tightens = promise(code == 0, format!("what tightens goes on: {}", first_line(&said)));
    let goes_on = promise(exchange(&mut session).is_ok(), "an open connection goes on");
    let missing = gateway.metrics().count("bulkhead_audit_entries_missing", &[]);
    let told =
        promise(missing > 0, format!("{missing} entries wait for room, and a metric says so"));
    disk.make_room();
    gateway.wait_until("caught up with the audit log", SOON * 2, |g| {
        // Whatever is entered next takes with it what waits.
        let _ = types(g, &["quarantine", "10.9.9.9", "--release", "--reason", "chaos"]);
        g.metrics().count("bulkhead_audit_entries_missing", &[]) == 0
    });
    let (code, said) = types(&gateway, &["audit", "verify"]);
    let whole = promise(code == 0, format!("the audit log is whole: {}", first_line(&said)));
    let promises = vec![loosens, tightens, goes_on, told, whole, table.serves(), account(gateway)];
    drop(disk);
    table.enter("full disk (state of 1 MiB)", begun, promises);
}

/// The first line of what was said, for a table: short, and without the folder of this run.
fn first_line(text: &str) -> String {
    let folder = std::env::temp_dir();
    let text = text.replace(&*folder.to_string_lossy(), "…");
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.chars().take(110).collect::<String>().replace('|', "/")
}

/// Lets a process see another wall clock.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

fn clock_jumps(rig: &Rig, table: &mut Table<'_>) {
    let begun = Instant::now();
    if !Path::new(FAKETIME).exists() {
        return skip("chaos: the clock jumps", "libfaketime is not installed (Debian: faketime)");
    }
    let clock = std::env::temp_dir().join(format!("{}.clock", rig.gateway().name()));
    let set = |offset: &str| fs::write(&clock, offset).expect("a file beside the gateway's");
    set("+0");
    let soon = Command::new("date").args(["-u", "-d", "+1 hour", "+%Y-%m-%dT%H:%M:%SZ"]).output();
    let soon = String::from_utf8_lossy(&soon.expect("date").stdout).trim().to_owned();
    let policy = policies::BASIC.replace("name: work,", &format!("name: work, expires: {soon},"));
    let mut settings = Settings::new(Driver::AfXdp, &policy);
    let folder = clock.parent().unwrap_or(Path::new("/tmp")).display().to_string();
    settings.tables =
        format!("[hardening]\nread = [\"{folder}\", \"/dev/shm\"]\nwrite = [\"/dev/shm\"]\n");
    settings.environment = [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", &clock.to_string_lossy()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut gateway = Gateway::start(rig, settings);
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    let mut seen = Vec::new();
    for (offset, open) in
        [("+0", true), ("+2h", false), ("-2d", true), ("+30d", false), ("+0", true)]
    {
        set(offset);
        let expected = |outcome| (outcome == Outcome::Answered) == open;
        let deadline = Instant::now() + SOON;
        let mut right = false;
        while !right && Instant::now() < deadline {
            right = expected(try_tcp(rig.outside(0), to));
        }
        seen.push(promise(
            right,
            format!(
                "at {offset} a rule that expires in an hour is {}",
                if open { "open" } else { "over" }
            ),
        ));
    }
    gateway.wait_until("ready", SOON, |g| g.get("/readyz").0 == 200);
    let told = gateway.log().contains("the wall clock changed");
    seen.push(promise(told, "each jump is in the log"));
    seen.push(account(gateway));
    let _ = fs::remove_file(&clock);
    table.enter("clock jumps (+2 h, -2 d, +30 d)", begun, seen);
}

fn port_flaps(rig: &Rig, table: &mut Table<'_>) {
    let begun = Instant::now();
    let gateway = start(rig);
    let _server = Echo::tcp(rig.inside(0), 502);
    let flaps = if is_full() { 40 } else { 6 };
    for flap in 0..flaps {
        let host = if flap % 2 == 0 { rig.inside(0) } else { rig.outside(0) };
        host.namespace.ip(&["link", "set", HOST_INTERFACE, "down"]);
        thread::sleep(Duration::from_millis(30 * (flap % 5)));
        host.namespace.ip(&["link", "set", HOST_INTERFACE, "up"]);
        // The address of IPv6 goes with the link.
        let v6 = format!("{}/64", host.v6);
        let add = ["addr", "replace", &v6, "dev", HOST_INTERFACE, "nodad"];
        host.namespace.ip(&add);
        thread::sleep(Duration::from_millis(40));
    }
    let again = Instant::now();
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    let mut answered = false;
    while !answered && again.elapsed() < Duration::from_secs(60) {
        answered = try_tcp(rig.outside(0), to) == Outcome::Answered;
    }
    let promises = vec![
        promise(
            answered,
            format!("what is permitted is answered {:.1?} after {flaps} flaps", again.elapsed()),
        ),
        account(gateway),
    ];
    table.enter("port flap", begun, promises);
}

/// Every regular file and link below a folder.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), found),
            Ok(_) => found.push(entry.path()),
            Err(_) => {}
        }
    }
}

fn state_is_damaged(rig: &Rig, table: &mut Table<'_>) {
    let begun = Instant::now();
    let gateway = start(rig);
    // State of every kind: a staged policy, a grant, a quarantine, history.
    let types = |args: &[&str]| gateway.bulkhead(&[args, &["--config", "gateway.toml"]].concat());
    fs::write(gateway.folder().join("next.yaml"), policies::NOTHING).expect("a file");
    let (code, said) = gateway.reload(&policies::BASIC.replace("tcp/502", "tcp/501-502"));
    assert_eq!(code, 0, "{said}");
    for command in [
        &["quarantine", "10.9.9.9", "--reason", "chaos"][..],
        &[
            "grant",
            "--from",
            "10.77.2.1",
            "--to",
            "10.77.1.1",
            "--service",
            "tcp/599",
            "--for",
            "1h",
            "--reason",
            "chaos",
        ],
        &["stage", "next.yaml"],
    ] {
        let (code, said) = types(command);
        assert_eq!(code, 0, "{command:?}: {said}");
    }
    let mut gateway = gateway;
    gateway.terminate(Signal::SIGTERM);
    let folder = gateway.keep();
    let (state, sound) = (folder.join("state"), folder.join("sound"));
    run("cp", &["-a", &state.to_string_lossy(), &sound.to_string_lossy()]);
    let mut files = Vec::new();
    files_below(&sound, &mut files);
    files.sort();
    let _server = Echo::tcp(rig.inside(0), 502);
    let mut promises = Vec::new();
    let (mut starts, mut turn) = (0, 0);
    let mut bad = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&sound).unwrap_or(file);
        let kinds = ["truncated", "garbage", "a folder", "gone"];
        // All of them with --full; otherwise each file in one way, in turns.
        let kinds = if is_full() { &kinds[..] } else { &kinds[turn % 4..=turn % 4] };
        turn += 1;
        for kind in kinds {
            let _ = fs::remove_dir_all(&state);
            run("cp", &["-a", &sound.to_string_lossy(), &state.to_string_lossy()]);
            damage(&state.join(name), kind);
            let mut gateway = Gateway::start_again(rig, folder.clone(), true);
            starts += 1;
            let served = table.serves();
            let (status, _) = gateway.terminate(Signal::SIGTERM);
            let panicked = gateway.log().contains("panicked at");
            if !served.kept || !status.success() || panicked {
                bad.push(format!("{} {kind}: {}, {status}", name.display(), served.what));
            }
            drop(gateway.keep());
        }
    }
    promises.push(promise(
        bad.is_empty() && starts >= 6,
        format!("it starts, guards and ends {starts} times over {} files, one damaged each time {bad:?}", files.len()),
    ));
    let _ = fs::remove_dir_all(&folder);
    table.enter("damaged state files", begun, promises);
}

fn damage(file: &Path, kind: &str) {
    let bytes = fs::read(file).unwrap_or_default();
    let _ = fs::remove_file(file);
    let done = match kind {
        "truncated" => fs::write(file, &bytes[..bytes.len() / 2]),
        "garbage" => fs::write(file, b"\xff\x00{[\"}garbage\n\xfe".repeat(40)),
        "a folder" => fs::create_dir(file),
        _ => Ok(()),
    };
    done.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

fn policy_churns(rig: &Rig, table: &mut Table<'_>) {
    let begun = Instant::now();
    let time = Duration::from_secs(if is_full() { 180 } else { 6 });
    let gateway = start(rig);
    let _server = Echo::udp(rig.inside(0), 53);
    let _tcp = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 53);
    let load = Load::start(rig.outside(0), Kind::Udp(to), 2000, 200).expect("a permitted load");
    let (mut taken, mut refused, mut wrong) = (0, 0, Vec::new());
    while begun.elapsed() < time {
        let round = taken + refused;
        let text = match round % 4 {
            0 => policies::BASIC.replace("name: work", &format!("name: work-{round}")),
            1 => policies::BASIC.replace("tcp/502", "tcp/500-510"),
            2 => "version: 1\nrules: [{name: broken}]\n".to_owned(),
            _ => policies::BASIC.to_owned(),
        };
        let (code, said) = gateway.reload(&text);
        match (round % 4 == 2, code == 0) {
            (true, false) => refused += 1,
            (false, true) => taken += 1,
            _ => {
                wrong.push(said);
                taken += 1;
            }
        }
    }
    let tally = load.stop().expect("a load that goes on");
    let mut others = gateway.metrics().drops();
    others.retain(|reason, _| reason != "policy");
    let promises = vec![
        promise(
            wrong.is_empty(),
            format!("{taken} policies were taken and {refused} bad files refused {wrong:?}"),
        ),
        // What a busy machine does to the sender is not the gateway's: its own drops tell.
        promise(
            others.is_empty() && tally.answered > 0,
            format!(
                "nothing permitted is dropped {others:?}; of {} datagrams {} were answered",
                tally.sent, tally.answered
            ),
        ),
        table.serves(),
        account(gateway),
    ];
    table.enter("policy churn under load", begun, promises);
}
