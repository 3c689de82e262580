//! The other end of the control socket: `bulkhead status` and `bulkhead reload`.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::{Answer, Ask};
use crate::bindings::report::BindingsReport;
use crate::cli::{SocketArgs, exit};
use crate::config::Config;
use crate::reload::{ReloadOutcome, ReloadReport};
use crate::status::Status;

/// The longest answer that is read, in bytes.
///
/// A policy of as much text as may be ([`crate::config::Limits`]), quoted as JSON.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// How long an answer may take: longer than a reload may.
const ANSWER_LIMIT: Duration = Duration::from_secs(130);

pub(crate) const ANOTHER_QUESTION: &str = "the gateway answered another question";

/// What the gateway does.
///
/// # Errors
///
/// Why it does not answer, and the remedy.
pub fn status(args: &SocketArgs) -> Result<Status, String> {
    status_at(&socket(args)?)
}

/// The same of the gateway at `socket`.
///
/// # Errors
///
/// Likewise.
pub fn status_at(socket: &Path) -> Result<Status, String> {
    match ask(socket, Ask::Status {})? {
        Answer::Status(status) => Ok(*status),
        Answer::Error(error) => Err(error),
        _ => Err(ANOTHER_QUESTION.to_owned()),
    }
}

/// Who has which address; `forget` is let go of first.
///
/// # Errors
///
/// Why the gateway does not answer, and the remedy.
pub fn bindings(args: &SocketArgs, forget: Option<IpAddr>) -> Result<BindingsReport, String> {
    match ask(&socket(args)?, Ask::Bindings { forget })? {
        Answer::Bindings(report) => Ok(*report),
        Answer::Error(error) => Err(error),
        _ => Err(ANOTHER_QUESTION.to_owned()),
    }
}

/// Asks for a reload and prints what became of it. Returns the exit code.
pub fn reload(args: &SocketArgs) -> u8 {
    let answer = socket(args)
        .and_then(|socket| ask(&socket, Ask::Reload { on_behalf_of: None, reason: None }));
    match answer {
        Ok(Answer::Reload(report)) => {
            if args.json {
                print_json(&report);
            } else {
                print_report(&report);
            }
            if report.outcome.is_success() { exit::OK } else { exit::REFUSED }
        }
        Ok(Answer::Error(error)) | Err(error) => {
            eprintln!("error: {error}");
            exit::UNAVAILABLE
        }
        Ok(_) => {
            eprintln!("error: {ANOTHER_QUESTION}");
            exit::UNAVAILABLE
        }
    }
}

/// Asks the gateway at `socket`.
///
/// # Errors
///
/// Why it does not answer, and the remedy.
pub fn ask(socket: &Path, ask: Ask) -> Result<Answer, String> {
    let shown = socket.display();
    let stream = send(socket, &ask)?;
    let answer = stream.set_read_timeout(Some(ANSWER_LIMIT)).and_then(|()| {
        let mut bytes = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = answer.map_err(|error| unreachable(socket, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        format!("the answer of the gateway at {shown} makes no sense here: {error}; is it of another version?")
    })
}

/// Sends a question; the answer, or several of them where the question asks for that, comes back line
/// by line.
///
/// # Errors
///
/// Why nobody takes it, and the remedy.
pub fn send(socket: &Path, ask: &Ask) -> Result<UnixStream, String> {
    let mut line = serde_json::to_vec(ask).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let connected = UnixStream::connect(socket).or_else(|error| {
        // Who may only ask has a socket for that.
        let may_not = error.kind() == std::io::ErrorKind::PermissionDenied;
        match may_not && ask.is_question() {
            true => UnixStream::connect(super::questions_beside(socket)).map_err(|_| error),
            false => Err(error),
        }
    });
    let sent = connected.and_then(|mut stream| {
        stream.write_all(&line)?;
        Ok(stream)
    });
    sent.map_err(|error| unreachable(socket, &error))
}

fn unreachable(socket: &Path, error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "you may not: be root or in its group",
        _ => "is it running? --socket or --config says where",
    };
    format!("no gateway answers at {}: {error}; {remedy}", socket.display())
}

/// Prints a value as JSON for programs.
pub fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("error: {error}"),
    }
}

/// Where the gateway answers.
///
/// # Errors
///
/// That the configuration does not tell.
pub fn socket(args: &SocketArgs) -> Result<PathBuf, String> {
    if let Some(socket) = &args.socket {
        return Ok(socket.clone());
    }
    match Config::load(&args.config) {
        Ok(config) => Ok(config.control_socket),
        Err(error) => {
            Err(format!("--socket is not given, and the configuration is of no help:\n{error}"))
        }
    }
}

fn print_report(report: &ReloadReport) {
    for finding in &report.findings {
        println!("{}\n", finding.rendered);
    }
    let hash = report.hash.as_deref().and_then(|hash| hash.get(..12)).unwrap_or("");
    match report.outcome {
        ReloadOutcome::Accepted => {
            let cost = report.cost.unwrap_or_default();
            let published = match (report.publish_us, report.stalled_worker) {
                (Some(us), _) => format!("every worker judges by it after {us} us"),
                (None, Some(worker)) => {
                    format!("but worker {worker} hangs and does not judge by it")
                }
                (None, None) => "the workers will start with it".to_owned(),
            };
            println!(
                "accepted: policy {hash} with {} rules is in force; loaded in {} us, compiled in {} \
                 us; {published}",
                report.rules.unwrap_or(0),
                cost.load_us,
                cost.compile_us,
            );
        }
        ReloadOutcome::Unchanged => println!("unchanged: policy {hash} is in force already"),
        ReloadOutcome::Refused => println!("refused: the policy before stays in force"),
        ReloadOutcome::Unreadable => {
            println!("not readable: the policy before stays in force");
        }
    }
}
