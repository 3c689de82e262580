//! `bulkhead trace`: the other end of the control socket.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use clap::Args;

use super::capture::CaptureFile;
use super::story::text;
use super::{COUNT, MAX_BYTES, SECONDS, TraceMessage, TraceOrder};
use crate::cli::{SocketArgs, exit};
use crate::control::client::{ANOTHER_QUESTION, send, socket};
use crate::control::{Answer, Ask};

/// What `trace` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Packets are written as for explain, with holes; every condition must hold:\n  \
    bulkhead trace 10.20.0.11\n  \
    bulkhead trace 'tcp 10.20.0.0/16 <-> 10.30.3.11:502' --count 50\n  \
    bulkhead trace wire line3 side outside reason tcp_window --seconds 300\n  \
    bulkhead trace rule hmi-to-plc forward --pcap hmi.pcapng\n\n\
    -> one way, <-> both ways (as with one host); vlan, wire, side, rule, and one of forward, drop, reject \
    and reason narrow it. Only headers leave the gateway unless --payload says more; every trace is in \
    the audit log. One trace runs at a time; interrupting it ends it."
)]
pub struct TraceArgs {
    /// Which packets; without it, all
    #[arg(value_name = "FILTER", num_args = 0..)]
    pub filter: Vec<String>,
    /// The most packets
    #[arg(long, value_name = "COUNT", default_value_t = COUNT)]
    pub count: u64,
    /// The most seconds
    #[arg(long, value_name = "SECONDS", default_value_t = SECONDS)]
    pub seconds: u32,
    /// Write the packets into a capture file, too (pcapng)
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Copy so many bytes of each packet, with what applications said; 65535 without a number
    #[arg(long, value_name = "BYTES", num_args = 0..=1, default_missing_value = "65535",
          require_equals = true)]
    pub payload: Option<u32>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The gateway
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Follows packets until the trace is over. Returns the exit code.
pub fn main(args: &TraceArgs) -> u8 {
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            exit::UNAVAILABLE
        }
    }
}

fn run(args: &TraceArgs) -> Result<u8, String> {
    let order = TraceOrder {
        filter: args.filter.join(" "),
        count: args.count,
        seconds: args.seconds,
        payload_bytes: args.payload,
        reason: args.reason.clone(),
        on_behalf_of: None,
    };
    let stream = send(&socket(&args.socket)?, &Ask::Trace(order))?;
    let mut lines = BufReader::new(stream.take(2 * MAX_BYTES));
    let mut capture = None;
    let mut line = String::new();
    loop {
        line.clear();
        let read = lines.read_line(&mut line);
        if read.map_err(|error| format!("the gateway went silent: {error}"))? == 0 {
            return Err("the gateway ended the trace without a word: does it still run?".to_owned());
        }
        match serde_json::from_str(&line) {
            Ok(Answer::Trace(message)) => {
                if args.socket.json {
                    print!("{line}");
                } else {
                    show(&message);
                }
                match *message {
                    TraceMessage::Began(_) => capture = open(args)?,
                    TraceMessage::Packet(packet) => {
                        if let Some(capture) = &mut capture {
                            let written = capture.append(&packet).and_then(|_| capture.flush());
                            written.map_err(|error| format!("the capture: {error}"))?;
                        }
                    }
                    TraceMessage::Later(_) => {}
                    TraceMessage::Ended(_) => return Ok(exit::OK),
                }
            }
            Ok(Answer::Error(error)) => {
                eprintln!("error: {error}");
                return Ok(exit::REFUSED);
            }
            Ok(_) => return Err(ANOTHER_QUESTION.to_owned()),
            Err(error) => return Err(format!("the answer makes no sense here: {error}")),
        }
    }
}

type Capture = CaptureFile<std::io::BufWriter<std::fs::File>>;

fn open(args: &TraceArgs) -> Result<Option<Capture>, String> {
    let Some(path) = &args.pcap else { return Ok(None) };
    let made = CaptureFile::create(path);
    made.map(Some).map_err(|error| format!("cannot make {}: {error}", path.display()))
}

fn show(message: &TraceMessage) {
    match message {
        TraceMessage::Began(began) => eprintln!(
            "following {}: at most {} packets, {} s, {}",
            began.filter,
            began.count,
            began.seconds,
            match began.payload_bytes {
                Some(bytes) => format!("{bytes} bytes of each"),
                None => "headers only".to_owned(),
            }
        ),
        TraceMessage::Packet(packet) => println!("{}", text(packet)),
        TraceMessage::Later(later) => {
            let reason = later.reason.as_ref().map_or_else(String::new, |r| format!(": {r}"));
            println!("{} meanwhile {}{reason}\n", later.id, later.fate.replace('-', " "));
        }
        TraceMessage::Ended(ended) => {
            let why = match ended.why.as_str() {
                "count" => "as many packets as were asked for".to_owned(),
                "seconds" => "the time is over".to_owned(),
                "bytes" => format!("{MAX_BYTES} bytes are as much as one trace tells"),
                why => why.to_owned(),
            };
            let lost = match ended.lost {
                0 => String::new(),
                lost => format!(", {lost} steps lost: they came faster than they could be told"),
            };
            eprintln!(
                "{} packets told of {} that matched{lost}; {why}, after {:.1} s",
                ended.packets,
                ended.matched,
                ended.took_ms as f64 / 1000.0
            );
        }
    }
}
