//! `bulkhead doctor`: is this machine fit to be a gateway, and what is to be done about it?
//!
//! It changes nothing. [`machine`] reads what the kernel tells of the machine, [`checks`] judges it.

use serde::Serialize;

use crate::cli::{DoctorArgs, exit};
use crate::config::Config;
use crate::control::client::print_json;
use crate::cores;
use crate::learning::table::Table;

mod checks;
mod failure;
mod machine;

use machine::Machine;

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// As it should be.
    Well,
    /// The gateway works; this costs speed, or will surprise somebody.
    Advice,
    /// The gateway will not start, or will not do what it is there for.
    Problem,
}

/// Whether a machine is fit, for programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DoctorReport {
    /// The worst of the findings.
    state: State,
    findings: Vec<Finding>,
}

/// What was looked at, and what came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
struct Finding {
    state: State,
    /// What it is about: `huge-pages`, `clock`, `port line3/inside`.
    about: String,
    found: String,
    /// What to do; empty where all is well.
    remedy: String,
}

impl Finding {
    fn well(about: &str, found: String) -> Self {
        Self { state: State::Well, about: about.to_owned(), found, remedy: String::new() }
    }

    fn advice(about: &str, found: String, remedy: String) -> Self {
        Self { state: State::Advice, about: about.to_owned(), found, remedy }
    }

    fn problem(about: &str, found: String, remedy: String) -> Self {
        Self { state: State::Problem, about: about.to_owned(), found, remedy }
    }
}

/// Checks the machine for the configuration that the command line names. Returns the exit code.
pub fn main(args: &DoctorArgs) -> u8 {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return error.exit_code();
        }
    };
    let findings = checks::all(&Machine::default(), &config, cores::allowed());
    let worst = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Well);
    if args.json {
        print_json(&DoctorReport { state: worst, findings });
    } else {
        print(&findings);
    }
    if worst == State::Problem { exit::REFUSED } else { exit::OK }
}

fn print(findings: &[Finding]) {
    let mut table = Table::new(&["", "WHAT", "FOUND"]);
    for finding in findings {
        let mark = match finding.state {
            State::Well => "ok",
            State::Advice => "advice",
            State::Problem => "PROBLEM",
        };
        table.row([mark.to_owned(), finding.about.clone(), finding.found.clone()]);
        if !finding.remedy.is_empty() {
            table.row([String::new(), String::new(), format!("-> {}", finding.remedy)]);
        }
    }
    print!("{table}");
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let problems = match count(State::Problem) {
        0 => "no problem".to_owned(),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    println!("\n{problems}, {} advice, {} well", count(State::Advice), count(State::Well));
}
