//! Learning judged: allowlists from recorded hours, forward in time, beside other ways to make them.
//!
//! [`data`] reads and writes hours in the format of the g21 set, [`baselines`] are the other ways,
//! [`metrics`] is what all are judged by, [`evaluate`] learns, freezes and tests. [`sites`] makes hours
//! of sites whose roles are known, with attackers in them; [`scale`] is about time and memory;
//! [`captures`] takes captures of plants by halves through the gateway's own commands.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use bulkhead_learn::learn::Options as Tuning;
use bulkhead_learn::observe::Service;

pub mod baselines;
pub mod captures;
pub mod data;
pub mod evaluate;
pub mod metrics;
pub mod scale;
pub mod sites;

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
    /// Measure on generated sites of so many hosts, 72 hours of each, instead of recorded hours.
    #[arg(long, value_name = "HOSTS", value_delimiter = ',')]
    sites: Vec<usize>,
    /// Write the generated sites below this folder too, in g21's format with the truth beside it.
    #[arg(long, value_name = "DIR", requires = "sites")]
    write: Option<PathBuf>,
    /// Seed of generated sites.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure time and memory with so many hosts and a hundred times as many distinct edges.
    #[arg(long, value_name = "HOSTS")]
    scale: Option<usize>,
    /// Learn the first half of each capture of several hosts below this folder, and judge its second.
    #[arg(long, value_name = "DIR")]
    captures: Option<PathBuf>,
    /// The gateway's binary, for `--captures`.
    #[arg(long, value_name = "FILE", default_value = "target/release/bulkhead")]
    gateway: PathBuf,
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
    if let Some(hosts) = options.scale {
        let report = scale::run(hosts, hosts * 100, options.seed)?;
        println!("{}", serde_json::to_string(&report).map_err(io::Error::other)?);
        return Ok(());
    }
    if let Some(folder) = &options.captures {
        let found = captures::run(folder, &options.gateway)?;
        for half in found.iter().filter(|_| options.json) {
            println!("{}", serde_json::to_string(half).map_err(io::Error::other)?);
        }
        if !options.json {
            captures::print(&found);
        }
        return Ok(());
    }
    if !options.json {
        println!("{HEAD}");
    }
    for &hosts in &options.sites {
        let site = sites::generate(hosts, SITE_HOURS, options.seed);
        if let Some(folder) = &options.write {
            write_site(&folder.join(format!("site-{hosts}")), &site)?;
        }
        measure(options, &site.hours, &site.truth, &site.attacks)?;
    }
    if !options.sites.is_empty() {
        return Ok(());
    }
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
    measure(options, &hours, &truth, &HashSet::new())
}

/// Hours of a generated site.
const SITE_HOURS: usize = 72;

fn measure(
    options: &Options,
    hours: &data::Hours,
    truth: &HashMap<u32, u32>,
    attacks: &HashSet<(u32, u32, Service)>,
) -> io::Result<()> {
    for &learn in &options.learn {
        if learn == 0 || learn >= hours.len() {
            return Err(io::Error::other(format!(
                "--learn {learn}: there are {} hours, and some are for testing",
                hours.len()
            )));
        }
        let ports_are_ordered = options.ports_are_ordered || !options.sites.is_empty();
        let tuning = Tuning { ports_are_ordered, ..Tuning::default() };
        let setting = Setting { hours, learn, truth, attacks, options: tuning };
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

fn write_site(folder: &Path, site: &sites::Site) -> io::Result<()> {
    data::write(&folder.join("hours"), "site", &site.hours)?;
    let mut groups: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (&host, &role) in &site.truth {
        groups.entry(role).or_default().insert(host);
    }
    let line = |hosts: &BTreeSet<u32>| {
        hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",") + "\n"
    };
    let text: String = groups.values().map(line).collect();
    fs::write(folder.join("groupings.gt.txt"), text)
}

const HEAD: &str = "| policy | learn/test h | rules | groups | pairs permitted/used | ports | denied flow-hours % | of seen hosts | of unseen | predicted % | between | denials per host-day | reach % | ARI | AMI | attack edges |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

fn row(line: &Line) -> String {
    let percent = |share: f64| format!("{:.4}", share * 100.0);
    let between = line
        .predicted_interval
        .map_or("-".to_owned(), |(least, most)| format!("{} to {}", percent(least), percent(most)));
    let index = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    format!(
        "| {} | {}/{} | {} | {} | {:.3} | {:.2} | {} | {} | {} | {} | {between} | {:.3} | {:.1} | {} | {} | {} |",
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
        line.attack_edges,
    )
}

fn g21() -> Option<PathBuf> {
    let folder = crate::data::folder()?.join("cisco-g21/hours");
    folder.is_dir().then_some(folder)
}
