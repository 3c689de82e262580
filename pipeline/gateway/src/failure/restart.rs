//! `bulkhead restart`: another gateway, as it is installed and configured now, takes the place of the one
//! that runs.

use std::thread;
use std::time::{Duration, Instant};

use tracing::info;

use super::channel::Said;
use crate::audit::{Draft, What, Who};
use crate::cli::{SocketArgs, exit};
use crate::control::client::{self, ANOTHER_QUESTION};
use crate::control::{Answer, Ask};
use crate::state::Gateway;

/// How long the new gateway may take: it reads and compiles the policy before it takes over.
const LIMIT: Duration = Duration::from_secs(200);

/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Asks the supervisor for another gateway, on behalf of `who`.
pub fn begin(gateway: &Gateway, who: Who) -> Answer {
    match gateway.supervision.get().filter(|supervision| supervision.is_supervised()) {
        Some(supervision) => {
            let detail = "told to be renewed: another gateway takes over";
            if let Err(error) = gateway.audit.enter(Draft::new(who, What::Stop, detail)) {
                return Answer::Error(error);
            }
            info!("told to be renewed");
            supervision.say(&Said::Restart);
            Answer::Restart(std::process::id())
        }
        None => Answer::Error(
            "this gateway runs without a supervisor, so nobody can start another one beside it: use \
             `systemctl restart bulkhead`, or run it with --supervise"
                .to_owned(),
        ),
    }
}

/// What a restart came to, for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct RestartReport {
    /// Milliseconds until another gateway guarded.
    pub took_ms: u64,
}

/// Asks for a restart and waits until another gateway answers. Returns the exit code.
pub fn main(args: &SocketArgs) -> u8 {
    match restart(args) {
        Ok(took) if args.json => {
            client::print_json(&RestartReport { took_ms: took.as_millis() as u64 });
            exit::OK
        }
        Ok(took) => {
            println!("another gateway guards, after {:.1} s", took.as_secs_f64());
            exit::OK
        }
        Err((code, error)) => {
            eprintln!("error: {error}");
            code
        }
    }
}

fn restart(args: &SocketArgs) -> Result<Duration, (u8, String)> {
    let unavailable = |error: String| (exit::UNAVAILABLE, error);
    let socket = client::socket(args).map_err(unavailable)?;
    let begun = Instant::now();
    let before = match client::ask(&socket, Ask::Restart {}).map_err(unavailable)? {
        Answer::Restart(pid) => pid,
        Answer::Error(error) => return Err((exit::REFUSED, error)),
        _ => return Err(unavailable(ANOTHER_QUESTION.to_owned())),
    };
    loop {
        thread::sleep(LOOK_INTERVAL);
        match client::status(args) {
            Ok(status) if status.ready && status.pid != before => return Ok(begun.elapsed()),
            _ if begun.elapsed() > LIMIT => {
                let why =
                    "no other gateway has taken over: its log says why (`journalctl -u bulkhead`)";
                return Err((exit::REFUSED, why.to_owned()));
            }
            _ => {}
        }
    }
}
