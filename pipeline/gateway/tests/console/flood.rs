//! The console as a process: flooded, its store damaged, killed. Packets do not notice.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::site::Site;

/// Connections that flood.
const CONNECTIONS: usize = 8;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long each part takes: a minute with BULKHEAD_FULL=1.
fn length() -> Duration {
    let full = std::env::var("BULKHEAD_FULL").is_ok_and(|full| full == "1");
    Duration::from_secs(if full { 60 } else { 2 })
}

/// Starts the binary. Returns it with the address that it serves at.
fn start(site: &Site) -> (Killed, String) {
    let folder = site.folder.path();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
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
    (Killed(child), address.unwrap_or_else(|| panic!("no one-time link: {line}")).to_owned())
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
                return Err(std::io::ErrorKind::UnexpectedEof.into());
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

#[test]
fn packets_do_not_notice_a_console_that_is_flooded_damaged_and_killed() {
    let site = Site::new();
    let (mut process, address) = start(&site);
    let mut probe = TcpStream::connect(&address).unwrap();
    assert_eq!(ask(&mut probe, "/api/v1/health").unwrap(), 200);
    assert_eq!(ask(&mut probe, "/api/v1/overview").unwrap(), 401, "nothing without log-in");
    let stop = AtomicBool::new(false);
    let (asked, passed, slowest_us) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for at in 0..CONNECTIONS {
            let (stop, asked, address) = (&stop, &asked, &address);
            scope.spawn(move || {
                let path = ["/api/v1/health", "/api/v1/map/matrix", "/"][at % 3];
                while !stop.load(Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(address) else {
                        // It was killed.
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    while !stop.load(Relaxed) && ask(&mut stream, path).is_ok() {
                        asked.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        let watch = |what: &str| {
            let begun = Instant::now();
            let before = asked.load(Relaxed);
            while begun.elapsed() < length() {
                let port = 20_000 + (passed.fetch_add(1, Relaxed) % 40_000) as u16;
                let sent = Instant::now();
                assert!(site.running.passes(port, 502), "{what}: a packet was lost");
                slowest_us.fetch_max(sent.elapsed().as_micros() as u64, Relaxed);
            }
            let rate = (asked.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
            println!("{what}: {rate:.0} requests a second");
        };
        watch("flooded");
        std::fs::write(site.folder.path().join("store/communication.db"), vec![7; 8192]).unwrap();
        watch("its store damaged");
        process.0.kill().unwrap();
        watch("killed");
        stop.store(true, Relaxed);
    });
    let (asked, passed) = (asked.load(Relaxed), passed.load(Relaxed));
    println!(
        "{asked} requests; {passed} of {passed} packets passed, the slowest after {} us",
        slowest_us.load(Relaxed)
    );
    assert!(asked > 100, "that was no flood: {asked}");
    crate::common::wait("all is accounted for", || site.running.balance().is_exact());
}
