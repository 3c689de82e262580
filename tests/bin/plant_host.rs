//! What a host of the plant does in `deploy/quickstart.sh`: serves, asks, keeps a session, sends
//! load, knocks on closed doors and watches what arrives. Every command prints one line for people
//! and for scripts alike: words, then `key=value` pairs.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_tests::dhcp;
use bulkhead_tests::flows::{Echo, Here, Outcome, connect, exchange, ping, try_tcp, try_udp};
use bulkhead_tests::frames::Mac;
use bulkhead_tests::gateway::http_get;
use bulkhead_tests::load::{Kind, Load};
use bulkhead_tests::raw::RawPort;
use clap::{Parser, Subcommand};

/// One host of the plant: serves, asks, sends load, watches. Runs inside its network namespace.
#[derive(Parser)]
#[command(name = "plant-host")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send back whatever comes to these ports (tcp/502, udp/2222), until SIGTERM
    Serve {
        #[arg(required = true)]
        ports: Vec<String>,
    },
    /// Ask once; exit with 0 when answered, 3 when refused, 4 when nothing came back
    Ask {
        /// tcp, udp or ping
        protocol: String,
        /// Address, and port unless it is a ping
        to: String,
        /// Bytes of data
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// Keep one TCP connection busy until it breaks or SIGTERM, ten exchanges a second
    Session { to: SocketAddr },
    /// Send requests at a rate until SIGTERM, and count the answers
    Load {
        /// tcp, udp or ping
        protocol: String,
        /// Address, and port unless it is a ping
        to: String,
        /// Requests a second
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// Bytes of data
        #[arg(long, default_value_t = 200)]
        size: usize,
    },
    /// Try every one of these (tcp/ADDRESS:PORT, udp/…, ping/ADDRESS) over and over until SIGTERM
    Knock {
        #[arg(required = true)]
        doors: Vec<String>,
    },
    /// Count the packets from these addresses that arrive here until SIGTERM; ARP and neighbour
    /// discovery are not counted
    Watch {
        #[arg(required = true)]
        from: Vec<IpAddr>,
    },
    /// Ask the DHCP servers around for a lease of this address; exit with 0 once one grants it
    Lease { address: Ipv4Addr },
    /// Fetch a path from the gateway's metrics endpoint
    Get {
        /// For example 127.0.0.1:10469
        server: SocketAddr,
        path: String,
    },
}

fn main() -> ExitCode {
    let stop = stop_flag();
    let done = match Cli::parse().command {
        Command::Serve { ports } => serve(&ports, &stop),
        Command::Ask { protocol, to, size } => ask(&protocol, &to, size),
        Command::Session { to } => session(to, &stop),
        Command::Load { protocol, to, rate, size } => load(&protocol, &to, rate, size, &stop),
        Command::Knock { doors } => knock(&doors, &stop),
        Command::Watch { from } => watch(&from, &stop),
        Command::Lease { address } => lease(address),
        Command::Get { server, path } => get(server, &path),
    };
    done.unwrap_or_else(|why| {
        eprintln!("plant-host: {why}");
        ExitCode::from(1)
    })
}

type Done = Result<ExitCode, String>;

fn serve(ports: &[String], stop: &AtomicBool) -> Done {
    let mut servers = Vec::new();
    for name in ports {
        let (protocol, port) = name.split_once('/').ok_or(format!("{name}: write tcp/502"))?;
        let port = port.parse().map_err(|e| format!("{name}: {e}"))?;
        servers.push(match protocol {
            "tcp" => Echo::tcp(&Here, port),
            "udp" => Echo::udp(&Here, port),
            other => return Err(format!("{other}: write tcp or udp")),
        });
    }
    announce();
    wait(stop);
    let reached: Vec<String> = ports
        .iter()
        .zip(&servers)
        .map(|(name, echo)| format!("{name}={}", echo.reached()))
        .collect();
    println!("served {}", reached.join(" "));
    Ok(ExitCode::SUCCESS)
}

fn ask(protocol: &str, to: &str, size: usize) -> Done {
    let begin = Instant::now();
    let outcome = match protocol {
        "ping" => ping(&Here, parse(to)?, size),
        "tcp" => try_tcp(&Here, parse(to)?),
        "udp" => try_udp(&Here, parse(to)?, size),
        other => return Err(format!("{other}: write tcp, udp or ping")),
    };
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    let (word, code) = match outcome {
        Outcome::Answered => ("answered", 0),
        Outcome::Refused => ("refused", 3),
        Outcome::Silent => ("silent", 4),
    };
    println!("{word} ms={ms:.1}");
    Ok(ExitCode::from(code))
}

fn session(to: SocketAddr, stop: &AtomicBool) -> Done {
    let mut stream = connect(&Here, to).map_err(|e| format!("{to}: {e}"))?;
    announce();
    let mut exchanges = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Err(e) = exchange(&mut stream) {
            println!("ended exchanges={exchanges} because={:?}", e.kind());
            return Ok(ExitCode::SUCCESS);
        }
        exchanges += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("alive exchanges={exchanges}");
    Ok(ExitCode::SUCCESS)
}

fn load(protocol: &str, to: &str, rate: u32, size: usize, stop: &AtomicBool) -> Done {
    let kind = match protocol {
        "ping" => Kind::Ping(parse(to)?),
        "tcp" => Kind::Tcp(parse(to)?),
        "udp" => Kind::Udp(parse(to)?),
        other => return Err(format!("{other}: write tcp, udp or ping")),
    };
    let load = Load::start(&Here, kind, rate, size).map_err(|e| format!("{to}: {e}"))?;
    announce();
    while load.is_running() && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let tally = load.stop().map_err(|e| format!("{to}: {e}"))?;
    println!(
        "load sent={} answered={} lost={} resent={}",
        tally.sent,
        tally.answered,
        tally.lost(),
        tally.resent
    );
    Ok(ExitCode::SUCCESS)
}

fn knock(doors: &[String], stop: &AtomicBool) -> Done {
    let (mut attempts, mut answered) = (0, 0);
    announce();
    while !stop.load(Ordering::Relaxed) {
        // All doors at once: waiting for silence one by one would make few attempts.
        let outcomes: Result<Vec<Outcome>, String> = std::thread::scope(|scope| {
            let tries: Vec<_> = doors.iter().map(|door| scope.spawn(|| try_door(door))).collect();
            let joined =
                tries.into_iter().map(|t| t.join().map_err(|_| "a thread died".to_owned()));
            joined.map(|outcome| outcome?).collect()
        });
        let outcomes = outcomes?;
        attempts += outcomes.len();
        answered += outcomes.iter().filter(|outcome| **outcome == Outcome::Answered).count();
    }
    println!("knocked attempts={attempts} answered={answered}");
    Ok(ExitCode::SUCCESS)
}

fn try_door(door: &str) -> Result<Outcome, String> {
    let (protocol, to) = door.split_once('/').ok_or(format!("{door}: write tcp/10.0.0.1:22"))?;
    match protocol {
        "ping" => Ok(ping(&Here, parse(to)?, 56)),
        "tcp" => Ok(try_tcp(&Here, parse(to)?)),
        "udp" => Ok(try_udp(&Here, parse(to)?, 64)),
        other => Err(format!("{other}: write tcp, udp or ping")),
    }
}

fn watch(from: &[IpAddr], stop: &AtomicBool) -> Done {
    let port = RawPort::open_interface(&Here, "eth0");
    announce();
    let (mut frames, mut counted) = (0_u64, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let Some(frame) = port.receive(Duration::from_millis(50)) else { continue };
        frames += 1;
        if source(&frame).is_some_and(|source| from.contains(&source)) {
            counted += 1;
        }
    }
    println!("watched frames={frames} counted={counted}");
    Ok(ExitCode::SUCCESS)
}

/// The source of an untagged IP packet that is not neighbour discovery.
fn source(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let octets: [u8; 4] = frame.get(26..30)?.try_into().ok()?;
            Some(octets.into())
        }
        [0x86, 0xdd] => {
            if frame.get(20) == Some(&58) && matches!(frame.get(54), Some(133..=137)) {
                return None;
            }
            let octets: [u8; 16] = frame.get(22..38)?.try_into().ok()?;
            Some(octets.into())
        }
        _ => None,
    }
}

fn get(server: SocketAddr, path: &str) -> Done {
    let (status, body) =
        http_get(&Here, server, path).map_err(|e| format!("http://{server}{path}: {e}"))?;
    // Written, not printed: whoever reads may have seen enough (`| head`).
    let _ = std::io::stdout().write_all(body.as_bytes());
    Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn lease(address: Ipv4Addr) -> Done {
    let mac = std::fs::read_to_string("/sys/class/net/eth0/address");
    let mac = mac.map_err(|e| format!("the MAC address of eth0: {e}"))?;
    let mut bytes = [0; 6];
    for (byte, part) in bytes.iter_mut().zip(mac.trim().split(':')) {
        *byte = u8::from_str_radix(part, 16).map_err(|e| format!("{mac}: {e}"))?;
    }
    if !dhcp::lease(&RawPort::open_interface(&Here, "eth0"), Mac(bytes), address) {
        return Err(format!("no server leases {address}"));
    }
    println!("leased address={address}");
    Ok(ExitCode::SUCCESS)
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{text}: {e}"))
}

/// Tells a script that everything is open and the work begins.
fn announce() {
    println!("ready");
}

fn wait(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Set by SIGTERM and SIGINT.
fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // It fails for signals that cannot be caught; these two can.
        let _ = signal_hook::flag::register(signal, Arc::clone(&stop));
    }
    stop
}
