//! Full load for long, with reloads every second: memory that stays where it is, counters that are exact
//! at the end, and latency at the end as at the beginning (which only the long one can tell: in seconds it is
//! the machine's).
//!
//! 20 seconds by default, an hour with `--full`, `BULKHEAD_SOAK_S` seconds where that is set;
//! `tests/soak.sh` is the one command for it. With `BULKHEAD_RESULTS` the account is written to `soak.md`
//! in that folder.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, Place, open_in};
use bulkhead_tests::load::{Kind, Load};
use bulkhead_tests::{Driver, Gateway, Host, Metrics, Rig, Settings, is_full};

use crate::over_af_xdp;

over_af_xdp!(memory_is_flat_counters_are_exact_and_latency_stays);

/// Memory may grow this much from a quarter of the time to its end.
const GROWTH_KB: f64 = 2048.0;
/// In less than ten minutes allocators do not settle, and tables that have a limit are still filled: what
/// is found then is a policy, of two megabytes and a half each second, that is not given back.
const SHORT_GROWTH_KB: f64 = 16384.0;
const LONG: Duration = Duration::from_secs(600);

/// Of what was sent over full windows, so much has to be answered: the rest is what a veth or a socket lost.
const ANSWERED: f64 = 0.99;

/// The 99th percentile of latency in the later half of a long soak may be so many times that of the earlier.
const LATENCY_GROWTH: f64 = 2.0;

/// Parts of the time that the account has a line for: five minutes of an hour.
const PARTS: u32 = 12;

/// Rules of the policies beside those that the traffic meets: what a reload has to read and compile.
const OTHER_RULES: u32 = 500;

/// Every so many reloads the file is none, and is refused.
const BROKEN: u64 = 10;

fn memory_is_flat_counters_are_exact_and_latency_stays(rig: &Rig) {
    let time = soak_time();
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let mut settings = Settings::new(Driver::AfXdp, &policy(0));
    // A small table: one of which every page is in use soon.
    settings.extra =
        "[flows]\ncapacity = 32768\n[timeouts]\nudp-unanswered-s = 10\nudp-answered-s = 20\n"
            .to_owned();
    let gateway = Gateway::start(rig, settings);
    let _tcp = Echo::tcp(inside, 502);
    let _udp = [Echo::udp(inside, 53), Echo::udp(inside, 1053)];
    let forbidden = [Echo::udp(inside, 54), Echo::udp(inside, 55)];
    let load_before = load_average();
    let traffic = Traffic::start(inside, outside);

    let mut account = Account::new(time, &gateway);
    let begin = Instant::now();
    let mut round = 0;
    while begin.elapsed() < time {
        let next = begin + Duration::from_secs(1) * u32::try_from(round + 1).unwrap_or(u32::MAX);
        account.reload(&gateway, round);
        account.look(&gateway, begin.elapsed());
        account.look_after(&traffic, &gateway, begin.elapsed());
        round += 1;
        thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_secs(1)));
    }
    let sent = traffic.stop();
    let took = begin.elapsed();
    let log = gateway.log();
    let reached: u64 = forbidden.iter().map(Echo::reached).sum();
    drop(forbidden);
    // Promise 2, and that it ends within a second, are checked here.
    let last = gateway.stop();
    let page = account.page(took, &sent, &last, reached, &load_before);
    println!("{page}");
    if let Some(folder) = std::env::var_os("BULKHEAD_RESULTS").filter(|folder| !folder.is_empty()) {
        let path = PathBuf::from(folder).join("soak.md");
        std::fs::write(&path, &page).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    if !sent.broken.is_empty() {
        println!("The gateway's log:\n{log}");
    }
    assert_eq!(reached, 0, "forbidden datagrams arrived");
    assert!(sent.datagrams > 0 && sent.broken.is_empty(), "{sent:?} {:?}", account.ended);
    assert!(sent.answered as f64 >= ANSWERED * sent.datagrams as f64, "{sent:?}");
    assert!(!log.contains("panicked at"), "{log}");
    account.assert_flat();
    account.assert_latency_stays();
}

fn soak_time() -> Duration {
    let seconds = std::env::var("BULKHEAD_SOAK_S").ok().filter(|seconds| !seconds.is_empty());
    Duration::from_secs(match seconds {
        Some(seconds) => seconds.parse().expect("BULKHEAD_SOAK_S is a number of seconds"),
        None if is_full() => 3600,
        None => 20,
    })
}

/// The policy of a round. The flows that the load keeps up are permitted by all of them; every second one
/// permits the service `extra` as well, whose flows end with the next.
fn policy(round: u64) -> String {
    let mut text = String::from(
        "version: 1\ndefault: deny\ndevices:\n  client: {ip: [10.77.2.1, \"fd77::2:1\"]}\n  server: {ip: \
         [10.77.1.1, \"fd77::1:1\"]}\nservices:\n  work: [tcp/502, udp/53, icmp/echo-request, \
         icmpv6/echo-request]\n  extra: udp/1053\nrules:\n",
    );
    for rule in 0..OTHER_RULES {
        let (high, low) = (rule / 250, rule % 250);
        let member = (u64::from(rule) + round) % 250;
        let _ = writeln!(
            text,
            "  - {{name: other-{rule}, from: 10.{}.{low}.{member}, to: 10.99.{low}.0/24, service: \
             tcp/{}, action: allow}}",
            100 + high,
            1000 + rule
        );
    }
    text.push_str("  - {name: work, from: client, to: server, service: work, action: allow}\n");
    if round % 2 == 0 {
        text.push_str(
            "  - {name: extra, from: client, to: server, service: extra, action: allow}\n",
        );
    }
    text.push_str(
        "  - {name: told-no, from: client, to: server, service: udp/55, action: reject}\n",
    );
    text
}

/// What crosses the gateway all the while.
struct Traffic {
    windows: Vec<Window>,
    opening: Window,
    loads: Vec<(Kind, Load)>,
    /// A program that only sleeps: what it oversleeps, the machine stood still.
    sleeper: Window,
    silence: Arc<Longest>,
    stillness: Arc<Longest>,
}

/// What became of it.
#[derive(Debug, Default)]
struct Sent {
    datagrams: u64,
    answered: u64,
    opened: u64,
    forbidden: u64,
    connections: u64,
    resent: u64,
    /// Loads that broke off, and why.
    broken: Vec<String>,
    /// The longest time without an answer in one of the windows of datagrams, and when it ended.
    silence: (Duration, Duration),
    /// The longest time that a program waited for a processor, and when it ended.
    stillness: (Duration, Duration),
}

impl Traffic {
    fn start(inside: &Host, outside: &Host) -> Self {
        let (v4, v6) = (inside.v4.into(), inside.v6.into());
        let windows = [SocketAddr::new(v4, 53), SocketAddr::new(v6, 53)];
        let loads = [
            (Kind::Tcp(SocketAddr::new(v4, 502)), 500, 900),
            (Kind::Tcp(SocketAddr::new(v6, 502)), 500, 100),
            (Kind::Udp(SocketAddr::new(v6, 53)), 100, 4000),
            (Kind::Ping(v4), 100, 64),
            (Kind::Ping(v6), 100, 2000),
        ];
        let start = |(kind, rate, size)| {
            (kind, Load::start(outside, kind, rate, size).expect("a permitted load"))
        };
        let (silence, stillness) = (Longest::new(), Longest::new());
        Self {
            loads: loads.into_iter().map(start).collect(),
            windows: windows.into_iter().map(|to| Window::full(outside, to, &silence)).collect(),
            opening: Window::opening(outside, inside),
            sleeper: Window::sleeping(&stillness),
            silence,
            stillness,
        }
    }

    fn stop(self) -> Sent {
        let mut sent = Sent::default();
        for window in self.windows {
            let (datagrams, answered) = window.stop();
            sent.datagrams += datagrams;
            sent.answered += answered;
        }
        (sent.opened, sent.forbidden) = self.opening.stop();
        self.sleeper.stop();
        (sent.silence, sent.stillness) = (self.silence.get(), self.stillness.get());
        for (kind, load) in self.loads {
            match load.stop() {
                Ok(tally) if tally.answered == 0 => {
                    sent.broken.push(format!("{kind:?}: {tally:?}"))
                }
                Ok(tally) if matches!(kind, Kind::Tcp(_)) => {
                    sent.connections += 1;
                    sent.resent += tally.resent;
                }
                Ok(_) => {}
                Err(error) => sent.broken.push(format!("{kind:?}: {error}")),
            }
        }
        sent
    }
}

/// The longest of many times, and when it ended, counted from when this was made.
#[derive(Debug)]
struct Longest {
    begin: Instant,
    most: Mutex<(Duration, Duration)>,
}

impl Longest {
    fn new() -> Arc<Self> {
        Arc::new(Self { begin: Instant::now(), most: Mutex::default() })
    }

    fn note(&self, time: Duration) {
        let mut most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        if time > most.0 {
            *most = (time, self.begin.elapsed());
        }
    }

    fn get(&self) -> (Duration, Duration) {
        *self.most.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that sends until it is told to stop, and two things that it counts.
struct Window {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<(u64, u64)>>,
}

/// Flows of one window, and datagrams that it has under way at once: a part of what a veth queues.
const FLOWS: usize = 16;
const UNDER_WAY: usize = 32;

/// How long an answer is waited for before it counts as lost.
const ANSWER: Duration = Duration::from_millis(100);

impl Window {
    /// Datagrams and answers, as fast as they come back: full load that does not run over.
    fn full(place: &Host, to: SocketAddr, silence: &Arc<Longest>) -> Self {
        let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let sockets = open_in(place, || {
            let open = |_| -> io::Result<UdpSocket> {
                let socket = UdpSocket::bind(any)?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(ANSWER))?;
                Ok(socket)
            };
            (0..FLOWS).map(open).collect::<io::Result<Vec<_>>>()
        });
        let silence = Arc::clone(silence);
        Self::run(move |stop, counted| {
            let mut buffer = [0; 2048];
            let mut turn: usize = 0;
            let mut answered = Instant::now();
            while !stop.load(Relaxed) {
                let socket = &sockets[turn % FLOWS];
                turn += 1;
                // Frames of 64 to 1,500 bytes, most of them small.
                let size = [18, 18, 400, 18, 18, 18, 1400][turn % 7];
                let mut owed = 0;
                for _ in 0..UNDER_WAY {
                    owed += u64::from(socket.send(&buffer[..size]).is_ok());
                }
                counted[0].fetch_add(owed, Relaxed);
                while owed > 0 && socket.recv(&mut buffer).is_ok() {
                    counted[1].fetch_add(1, Relaxed);
                    owed -= 1;
                }
                if owed < UNDER_WAY as u64 {
                    silence.note(answered.elapsed());
                    answered = Instant::now();
                }
            }
            Ok(())
        })
    }

    fn sleeping(stillness: &Arc<Longest>) -> Self {
        const NAP: Duration = Duration::from_millis(10);
        let stillness = Arc::clone(stillness);
        Self::run(move |stop, _| {
            while !stop.load(Relaxed) {
                let begin = Instant::now();
                thread::sleep(NAP);
                stillness.note(begin.elapsed().saturating_sub(NAP));
            }
            Ok(())
        })
    }

    /// New flows, some that every policy permits, some that every second one does, and as many that none
    /// does; each from a port of its own.
    fn opening(place: &Host, server: &Host) -> Self {
        let (v4, v6): (IpAddr, IpAddr) = (server.v4.into(), server.v6.into());
        let permitted = [(v4, 53), (v6, 53), (v4, 1053)];
        let forbidden = [(v4, 54), (v6, 54), (v4, 55)];
        let open = |to: SocketAddr| match to {
            SocketAddr::V4(_) => UdpSocket::bind("0.0.0.0:0"),
            SocketAddr::V6(_) => UdpSocket::bind("[::]:0"),
        };
        // A thread stays in the namespace of the one that started it.
        place.inside(|| {
            Self::run(move |stop, counted| {
                while !stop.load(Relaxed) {
                    for (count, targets) in counted.iter().zip([permitted, forbidden]) {
                        for to in targets.map(SocketAddr::from) {
                            open(to)?.send_to(b"opening", to)?;
                            count.fetch_add(1, Relaxed);
                        }
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                Ok(())
            })
        })
    }

    fn run(
        work: impl FnOnce(&AtomicBool, &[AtomicU64; 2]) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let counted = [AtomicU64::new(0), AtomicU64::new(0)];
            work(&flag, &counted)?;
            Ok(counted.map(AtomicU64::into_inner).into())
        });
        Self { stop, thread }
    }

    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Relaxed);
        let done = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.unwrap_or_else(|e| panic!("a sender broke off: {e}"))
    }
}

/// What the gateway held and did over the time.
struct Account {
    time: Duration,
    /// Seconds and kilobytes, each second.
    resident: Vec<(f64, f64)>,
    /// At the beginning, and at the end of each part.
    marks: Vec<Mark>,
    accepted: u64,
    refused: u64,
    /// The slowest reload with its command, and when it ended.
    slowest: Arc<Longest>,
    /// Loads that had ended before they were told to, when, and what the gateway had dropped by then.
    ended: Vec<(usize, String)>,
}

/// The gateway at one moment.
struct Mark {
    at: Duration,
    resident_kb: u64,
    locked_kb: u64,
    huge_kb: u64,
    accepted: u64,
    metrics: Metrics,
}

impl Account {
    fn new(time: Duration, gateway: &Gateway<'_>) -> Self {
        let mut new = Self {
            time,
            resident: Vec::new(),
            marks: Vec::new(),
            accepted: 0,
            refused: 0,
            slowest: Longest::new(),
            ended: Vec::new(),
        };
        new.mark(gateway, Duration::ZERO);
        new
    }

    /// One reload: of another policy, or of what is none.
    fn reload(&mut self, gateway: &Gateway<'_>, round: u64) {
        let begin = Instant::now();
        if round % BROKEN == BROKEN - 1 {
            let (code, said) = gateway.reload("version: 1\nrules: [{name: broken}]\n");
            assert_ne!(code, 0, "{said}");
            self.refused += 1;
        } else {
            let (code, said) = gateway.reload(&policy(round));
            assert_eq!(code, 0, "{said}");
            self.accepted += 1;
        }
        self.slowest.note(begin.elapsed());
    }

    fn look(&mut self, gateway: &Gateway<'_>, at: Duration) {
        self.resident.push((at.as_secs_f64(), gateway.resident_kb() as f64));
        let due = self.time * u32::try_from(self.marks.len()).unwrap_or(u32::MAX) / PARTS;
        if at >= due {
            self.mark(gateway, at);
        }
    }

    /// A load that ends by itself tells of a loss or of a machine that stood still; drops tell which.
    fn look_after(&mut self, traffic: &Traffic, gateway: &Gateway<'_>, at: Duration) {
        for (index, (kind, load)) in traffic.loads.iter().enumerate() {
            if !load.is_running() && self.ended.iter().all(|(known, _)| *known != index) {
                let drops = gateway.metrics().drops();
                let said = format!("{kind:?} broke off after {at:.0?}; dropped by then: {drops:?}");
                println!("{said}");
                self.ended.push((index, said));
            }
        }
    }

    fn mark(&mut self, gateway: &Gateway<'_>, at: Duration) {
        let mark = Mark {
            at,
            resident_kb: gateway.resident_kb(),
            locked_kb: gateway.process_status("VmLck:"),
            huge_kb: gateway.process_status("HugetlbPages:"),
            accepted: self.accepted,
            metrics: gateway.metrics(),
        };
        println!(
            "after {:.0?}: resident {} kB, {} frames received, {} policies taken",
            mark.at,
            mark.resident_kb,
            mark.metrics.received(),
            mark.accepted
        );
        self.marks.push(mark);
    }

    /// What of [`Self::resident`] counts: the first quarter is for allocators to settle.
    fn settled(&self) -> &[(f64, f64)] {
        &self.resident[self.resident.len() / 4..]
    }

    /// Kilobytes that memory grew by from the first quarter on, along the line that fits best.
    fn growth_kb(&self) -> f64 {
        let settled = self.settled();
        let span = settled.last().map_or(0.0, |last| last.0) - settled.first().map_or(0.0, |s| s.0);
        slope(settled) * span
    }

    fn allowed_kb(&self) -> f64 {
        if self.time >= LONG { GROWTH_KB } else { SHORT_GROWTH_KB }
    }

    fn assert_flat(&self) {
        let growth = self.growth_kb();
        assert!(
            growth <= self.allowed_kb(),
            "memory grew by {growth:.0} kB after the first quarter"
        );
        let ends = [self.marks.first(), self.marks.last()].map(|mark| mark.map(|m| m.locked_kb));
        assert_eq!(ends[0], ends[1], "locked memory");
    }

    /// Of a long soak: of the parts of each half the one in the middle counts, so that a moment in which the
    /// machine did something else accuses nobody. The first part is for caches and tables to fill.
    fn assert_latency_stays(&self) {
        if self.time < LONG {
            return;
        }
        let parts = self.marks.windows(2).skip(1);
        let mut p99: Vec<f64> =
            parts.filter_map(|pair| latency_us(&pair[0], &pair[1], 0.99)).collect();
        assert!(p99.len() >= PARTS as usize / 2, "latency was seen in {} parts", p99.len());
        let half = p99.len() / 2;
        let (earlier, later) = p99.split_at_mut(half);
        let [earlier, later] = [earlier, later].map(|half| {
            half.sort_by(f64::total_cmp);
            half[half.len() / 2]
        });
        assert!(
            later <= LATENCY_GROWTH * earlier,
            "the 99th percentile of latency grew from {earlier:.0} to {later:.0} us"
        );
    }

    /// The account, as `bench/results/soak.md` has it.
    fn page(
        &self,
        took: Duration,
        sent: &Sent,
        last: &Metrics,
        reached: u64,
        load: &str,
    ) -> String {
        let mut page = format!(
            "# A soak\n\n`BULKHEAD_RESULTS=bench/results tests/soak.sh {}`\n\n{}; load {load} at the start, \
             {} at the end.\n\nOne wire over AF_XDP between two namespaces, one worker. Datagrams from 32 flows \
             over IPv4 and IPv6 go back and forth as fast as they are answered, beside TCP, pings, fragments, \
             600 new flows a second, and as many datagrams that no policy permits. Each second there is another \
             policy of {} rules; every tenth file is none. Latency is the gateway's own, from the \
             receive call to the end of the transmit call.\n\n",
            self.time.as_secs(),
            machine(),
            load_average(),
            OTHER_RULES + 3,
        );
        page.push_str(
            "| until | resident kB | locked kB | huge kB | frames | frames/s | policies | p50 µs | p99 µs | \
             p99.9 µs |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for pair in self.marks.windows(2) {
            let [from, to] = pair else { continue };
            let frames = to.metrics.received() - from.metrics.received();
            let seconds = (to.at - from.at).as_secs_f64();
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| match latency_us(from, to, q) {
                Some(us) if us.is_finite() => format!("{us:.0}"),
                Some(_) => "beyond the last bucket".to_owned(),
                None => "-".to_owned(),
            });
            let _ = writeln!(
                page,
                "| {:.0} s | {} | {} | {} | {frames} | {:.0} | {} | {p50} | {p99} | {p999} |",
                to.at.as_secs_f64(),
                to.resident_kb,
                to.locked_kb,
                to.huge_kb,
                frames as f64 / seconds,
                to.accepted - from.accepted,
            );
        }
        let settled = self.settled();
        let [low, high] = [f64::min, f64::max].map(|pick: fn(f64, f64) -> f64| {
            settled.iter().map(|sample| sample.1).reduce(pick).unwrap_or_default()
        });
        let originated = last.count("bulkhead_originated_packets_total", &[]);
        let held = last.count("bulkhead_held_packets", &[]);
        let drops = last.drops();
        let dropped: u64 = drops.values().sum();
        let _ = write!(
            page,
            "\n- Memory: {:+.0} kB over the last three quarters along the line that fits best; between {low:.0} \
             and {high:.0} kB. At most {:+.0} kB is allowed.\n\
             - Reloads: {} taken, {} refused as they should be, the slowest {} with the command.\n\
             - Counters, after the last frame: {} received + {originated} originated = {} transmitted + {dropped} \
             dropped + {held} held, a difference of {}. Dropped: {drops:?}.\n\
             - The load: {} datagrams, {} answered ({} not: a veth or a socket ran over), {} new flows, \
             {} forbidden datagrams of which {reached} arrived; {} of 2 TCP connections lasted {:.0} s, every request \
             answered, {} segments sent again.\n\
             - Longest without an answer to datagrams: {}. Longest that a sleeping program waited for a processor: {}.\n",
            self.growth_kb(),
            self.allowed_kb(),
            self.accepted,
            self.refused,
            longest(self.slowest.get()),
            last.received(),
            last.transmitted(),
            i128::from(last.received() + originated)
                - i128::from(last.transmitted() + dropped + held),
            sent.datagrams,
            sent.answered,
            sent.datagrams - sent.answered,
            sent.opened,
            sent.forbidden,
            sent.connections,
            took.as_secs_f64(),
            sent.resent,
            longest(sent.silence),
            longest(sent.stillness),
        );
        page
    }
}

fn longest((time, ended): (Duration, Duration)) -> String {
    format!("{:.0} ms, {:.0} s after the start", time.as_secs_f64() * 1e3, ended.as_secs_f64())
}

/// By how much the second grows with the first, by least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count.max(1.0);
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let over: f64 = samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum();
    let under: f64 = samples.iter().map(|sample| (sample.0 - x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

/// The latency that a share `quantile` of the frames between two moments had at most, in microseconds:
/// within the bucket, as Prometheus' `histogram_quantile` has it. Infinite beyond the last bucket, none where no
/// frame came.
fn latency_us(from: &Mark, to: &Mark, quantile: f64) -> Option<f64> {
    let buckets = |mark: &Mark| mark.metrics.buckets("bulkhead_packet_latency_seconds");
    let before = buckets(from);
    let counts: Vec<(f64, u64)> = (buckets(to).into_iter())
        .map(|(bound, count)| {
            let earlier = before.iter().find(|(b, _)| *b == bound).map_or(0, |(_, count)| *count);
            (bound, count - earlier)
        })
        .collect();
    let wanted = quantile * counts.last().map_or(0, |(_, count)| *count) as f64;
    let mut below = (0.0, 0);
    for &(bound, count) in &counts {
        if count as f64 >= wanted && count > below.1 {
            if bound.is_infinite() {
                return Some(f64::INFINITY);
            }
            let within = (wanted - below.1 as f64) / (count - below.1) as f64;
            return Some((below.0 + (bound - below.0) * within) * 1e6);
        }
        below = (bound, count);
    }
    None
}

fn load_average() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Processor, kernel and commit, for an account of what was measured.
pub(crate) fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let commit =
        Command::new("git").args(["-C", folder, "describe", "--always", "--exclude=*"]).output();
    let commit = commit.map(|output| output.stdout).unwrap_or_default();
    format!(
        "{}, {cores} processors; Linux {}, commit {}",
        model.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease").trim(),
        String::from_utf8_lossy(&commit).trim(),
    )
}
