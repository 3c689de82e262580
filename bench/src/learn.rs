//! Learning judged: allowlists from recorded hours, forward in time, beside other ways to make them.
//!
//! [`data`] reads and writes hours in the format of the g21 set, [`baselines`] are the other ways,
//! [`metrics`] is what all are judged by, [`evaluate`] learns, freezes and tests.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use bulkhead_learn::learn::Options as Tuning;

pub mod baselines;
pub mod data;
pub mod evaluate;
pub mod metrics;

use evaluate::{Line, Method, Setting};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The folder of hours, in g21's format; by default that of the data folder.
    #[arg(long, value_name = "DIR")]
    hours: Option<PathBuf>,
    /// The true groups, one a line.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Hours to learn from; the rest is tested on. Several splits are measured one after the other.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [24])]
    learn: Vec<usize>,
    /// Policies to measure, by name; by default all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Ports are numbers with an order and not anonymised, so that dynamic ones begin at 1024,
    /// 32768 or 49152.
    #[arg(long)]
    ports_are_ordered: bool,
    /// Print JSON, a line for each policy.
    #[arg(long)]
    json: bool,
}

/// Runs everything.
///
/// # Errors
///
/// Where data cannot be read, or there is nothing to test on.
pub fn run(options: &Options) -> io::Result<()> {
    let Some(folder) = options.hours.clone().or_else(g21) else {
        return Err(io::Error::other("no hours: name a folder with --hours, or set BULKHEAD_DATA"));
    };
    let hours = data::read(&folder)?;
    let beside = folder.parent().map(|parent| parent.join("groupings.gt.txt"));
    let truth = match (&options.truth, beside.filter(|_| options.hours.is_none())) {
        (Some(file), _) => data::read_truth(file)?,
        (None, Some(file)) if file.is_file() => data::read_truth(&file)?,
        _ => HashMap::new(),
    };
    if !options.json {
        println!("{}", HEAD);
    }
    for &learn in &options.learn {
        if learn == 0 || learn >= hours.len() {
            let message = format!(
                "--learn {learn}: there are {} hours, and some are for testing",
                hours.len()
            );
            return Err(io::Error::other(message));
        }
        let tuning = Tuning { ports_are_ordered: options.ports_are_ordered, ..Tuning::default() };
        let setting = Setting { hours: &hours, learn, truth: &truth, options: tuning };
        for method in Method::ALL {
            if !options.only.is_empty() && !options.only.iter().any(|name| name == method.label()) {
                continue;
            }
            let Some(line) = evaluate::measure(&setting, method) else { continue };
            if options.json {
                println!("{}", serde_json::to_string(&line).map_err(io::Error::other)?);
            } else {
                println!("{}", row(&line));
            }
        }
    }
    Ok(())
}

const HEAD: &str = "| policy | learn/test h | rules | groups | pairs permitted/used | ports | denied flow-hours % | of seen hosts | of unseen | predicted % | denials per host-day | reach % | ARI | AMI |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

fn row(line: &Line) -> String {
    let percent = |share: f64| format!("{:.4}", share * 100.0);
    let index = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    format!(
        "| {} | {}/{} | {} | {} | {:.3} | {:.2} | {} | {} | {} | {} | {:.3} | {:.1} | {} | {} |",
        line.policy,
        line.learn_hours,
        line.test_hours,
        line.rules,
        line.groups,
        line.overpermission,
        line.overpermission_ports,
        percent(line.denied_flow_hours),
        percent(line.denied_seen),
        percent(line.denied_unseen),
        percent(line.predicted),
        line.denials_per_host_day,
        line.reach * 100.0,
        index(line.ari),
        index(line.ami),
    )
}

fn g21() -> Option<PathBuf> {
    let folder = crate::data::folder()?.join("cisco-g21/hours");
    folder.is_dir().then_some(folder)
}
