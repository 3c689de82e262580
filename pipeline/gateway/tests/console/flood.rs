//! The console as a process: flooded, its store damaged, killed. Packets do not notice.
//!
//! With BULKHEAD_FULL=1 the flood lasts a minute; BULKHEAD_CONSOLE names another binary to flood, such as
//! one that is optimised.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::site::Site;

/// Connections that flood, and how many requests a second each tries to ask.
const CONNECTIONS: u64 = 8;
const RATE: u64 = 1_500;

/// Requests of a connection that may wait for their answers.
const WAITING: u64 = 256;

/// How often a connection asks: several requests at once then.
const TURN: Duration = Duration::from_millis(4);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends the flood, also where a test fails.
struct Flooding<'a>(&'a AtomicBool);

impl Drop for Flooding<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What was asked of the console, and of the gateway.
#[derive(Default)]
struct Counts {
    answers: AtomicU64,
    /// Of these, refusals because too much was asked.
    refused: AtomicU64,
    packets: AtomicU64,
}

/// How long a part takes.
const PART: Duration = Duration::from_secs(2);

/// How long the flood lasts: a minute with BULKHEAD_FULL=1.
fn length() -> Duration {
    let full = std::env::var("BULKHEAD_FULL").is_ok_and(|full| full == "1");
    if full { Duration::from_secs(60) } else { PART }
}

/// Starts the binary. Returns it with the address that it serves at.
fn start(site: &Site) -> (Killed, SocketAddr) {
    let folder = site.folder.path();
    let other = std::env::var("BULKHEAD_CONSOLE");
    let binary = other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_bulkhead"));
    let mut child = Command::new(binary)
        .args(["console", "--plain-http", "--listen", "127.0.0.1:0", "--log-level", "error"])
        .arg("--config")
        .arg(folder.join("none.toml"))
        .arg("--socket")
        .arg(site.running.socket())
        .arg("--store")
        .arg(folder.join("store"))
        .arg("--dir")
        .arg(folder.join("process"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    let address = address.unwrap_or_else(|| panic!("no one-time link: {line}"));
    (Killed(child), address.parse().unwrap())
}

/// Connects from an address of loopback.
fn connect(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        socket.connect(to).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Asks one thing on a connection that stays. Returns the status.
fn ask(stream: &mut TcpStream, path: &str) -> std::io::Result<u16> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: console\r\n\r\n")?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            continue;
        };
        let field =
            |line: &str| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned);
        let length: usize = head.lines().find_map(field).and_then(|n| n.parse().ok()).unwrap_or(0);
        if body.len() >= length || read == 0 {
            return Ok(head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0));
        }
    }
}

/// Asks as often as it may on one connection, without waiting for answers, until it breaks or is told.
fn flood(
    stream: &mut TcpStream,
    path: &str,
    counts: &Counts,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: console\r\n\r\n");
    let (begun, mut asked, mut answered) = (Instant::now(), 0_u64, 0_u64);
    let (mut unsent, mut buffer, mut seen) = (Vec::new(), vec![0; 1 << 16], Vec::new());
    while !stop.load(Relaxed) {
        let due = begun.elapsed().as_micros() as u64 * RATE / 1_000_000;
        while asked < due && asked - answered < WAITING {
            unsent.extend_from_slice(request.as_bytes());
            asked += 1;
        }
        let written = match stream.write(&unsent) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            written => written?,
        };
        unsent.drain(..written);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => seen.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            let statuses = statuses(&mut seen);
            answered += statuses.len() as u64;
            counts.answers.fetch_add(statuses.len() as u64, Relaxed);
            let refused = statuses.iter().filter(|status| *status == b"429").count();
            counts.refused.fetch_add(refused as u64, Relaxed);
        }
        std::thread::sleep(TURN);
    }
    Ok(())
}

/// The statuses of the answers in what was read; what may be the beginning of another one is kept.
fn statuses(seen: &mut Vec<u8>) -> Vec<[u8; 3]> {
    const BEGIN: &[u8] = b"HTTP/1.1 ";
    let whole = BEGIN.len() + 3;
    let mut found = Vec::new();
    let mut at = 0;
    while at + whole <= seen.len() {
        if seen[at..].starts_with(BEGIN) {
            found.push([seen[at + 9], seen[at + 10], seen[at + 11]]);
            at += whole;
        } else {
            at += 1;
        }
    }
    seen.drain(..at);
    found
}

/// Seconds of a processor, and MiB of memory at most, that a process has taken.
fn taken(process: &Killed) -> (f64, u64) {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{}/{file}", process.0.id())).unwrap_or_default()
    };
    let stat = read("stat");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let status = read("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    (ticks as f64 / 100.0, kib / 1024)
}

/// Lets packets through for a while, each of which has to pass. Says how long they took.
fn watch(site: &Site, counts: &Counts, what: &str, length: Duration) {
    let (begun, answers) = (Instant::now(), counts.answers.load(Relaxed));
    let mut times_us = Vec::new();
    while begun.elapsed() < length {
        let port = 20_000 + (counts.packets.fetch_add(1, Relaxed) % 40_000) as u16;
        let sent = Instant::now();
        assert!(site.running.passes(port, 502), "{what}: a packet was lost");
        times_us.push(sent.elapsed().as_micros() as u64);
    }
    let rate = (counts.answers.load(Relaxed) - answers) as f64 / begun.elapsed().as_secs_f64();
    times_us.sort_unstable();
    let share = |share: f64| times_us[(times_us.len() as f64 * share) as usize];
    println!(
        "{what}: {rate:.0} answers a second; {} packets passed, half of them within {} us, 99 % within \
         {} us, all within {} us",
        times_us.len(),
        share(0.5),
        share(0.99),
        times_us[times_us.len() - 1]
    );
}

#[test]
fn packets_do_not_notice_a_console_that_is_flooded_damaged_and_killed() {
    let site = Site::new();
    let (mut process, address) = start(&site);
    let mut probe = TcpStream::connect(address).unwrap();
    assert_eq!(ask(&mut probe, "/api/v1/health").unwrap(), 200);
    assert_eq!(ask(&mut probe, "/api/v1/overview").unwrap(), 401, "nothing without log-in");
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    watch(&site, &counts, "undisturbed", PART);
    std::thread::scope(|scope| {
        let _flooding = Flooding(&stop);
        for at in 0..CONNECTIONS {
            let (counts, stop) = (&counts, &stop);
            scope.spawn(move || {
                let path = ["/api/v1/health", "/api/v1/map/matrix", "/"][at as usize % 3];
                while !stop.load(Relaxed) {
                    let ended = TcpStream::connect(address)
                        .and_then(|mut stream| flood(&mut stream, path, counts, stop));
                    if ended.is_err() {
                        // It was killed.
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            });
        }
        let before = taken(&process);
        watch(&site, &counts, "flooded", length());
        let after = taken(&process);
        println!(
            "the console took {:.1} s of a processor for that, and {} MiB at most",
            after.0 - before.0,
            after.1
        );
        // Who asks too much is refused, and nobody else.
        crate::common::wait("the flood is refused", || counts.refused.load(Relaxed) > 0);
        let mut other = connect([127, 0, 0, 2], address).unwrap();
        let asked = Instant::now();
        assert_eq!(ask(&mut other, "/api/v1/health").unwrap(), 200);
        println!("somebody else has an answer within {} us", asked.elapsed().as_micros());
        std::fs::write(site.folder.path().join("store/communication.db"), vec![7; 8192]).unwrap();
        watch(&site, &counts, "flooded, its store damaged", PART);
        process.0.kill().unwrap();
        watch(&site, &counts, "killed", PART);
    });
    let answers = counts.answers.load(Relaxed);
    println!("{answers} answers, of which {} refuse", counts.refused.load(Relaxed));
    assert!(answers > 1_000, "that was no flood: {answers}");
    crate::common::wait("all is accounted for", || site.running.balance().is_exact());
}
