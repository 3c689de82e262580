//! What attacks that are aimed at a stateful filter come to.
//!
//! Each case is an attack as its author would mount it: addresses that are crafted to collide in the
//! flow table ([`collisions`]), policies and packets that touch as many masks as possible
//! ([`masks`]), and hosts that fill the table or open flows as fast as they can ([`floods`]). The
//! packets go through production workers between ports in memory. Beside the worker that is
//! attacked there is a twin of it that is not; in turns both judge packets of 10,000 established
//! flows, so that every figure has its "without" from the same run and machine. Time is a
//! clock that moves 100 ns a packet (ten million packets a second), so that rates and timeouts mean the
//! same on every machine; cycles are those of the time-stamp counter.

use std::io;
use std::path::PathBuf;

use bulkhead_rules::compile::{Limits, compile};

use crate::machine::{self, Machine};
use crate::pipeline::rig::BLOCK;
use crate::shows::Show;

mod collisions;
mod floods;
mod masks;
mod report;
mod rig;

use report::{Case, Report};
use rig::Twins;

/// What is attacked, and how often it is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Attacks, by name; all of them where none is named.
    cases: Vec<String>,
    /// Turns of established flows that are measured, with and without the attack.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Seed of addresses, ports and random orders. The keys of the workers' hashes stay random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON for each case.
    #[arg(long)]
    json: bool,
    /// Write table and figures to this folder as well.
    #[arg(long)]
    record: Option<PathBuf>,
}

type Attack = fn(&Options) -> io::Result<Case>;

/// Every attack, by name.
const ATTACKS: [(&str, Attack); 11] = [
    ("collisions", |options| collisions::crafted(options, false)),
    ("collisions-v6", |options| collisions::crafted(options, true)),
    ("low-entropy", collisions::low_entropy),
    ("masks-ovs", masks::open_vswitch),
    ("masks-prefixes", |options| masks::prefixes(options, false)),
    ("masks-prefixes-v6", |options| masks::prefixes(options, true)),
    ("full-answered", floods::answered),
    ("full-half-open", floods::half_open),
    ("full-mixed", floods::mixed),
    ("greedy-host", |options| floods::greedy(options, floods::Greed::Permitted)),
    ("greedy-host-denied", |options| floods::greedy(options, floods::Greed::Denied)),
];

/// Mounts the attacks, prints what they come to, and returns how many promises were missed.
///
/// # Errors
///
/// An attack that there is not, a folder that cannot be made, or a policy that does not compile.
pub fn run(options: &Options) -> io::Result<u64> {
    let named = |(name, _): &&(&str, Attack)| {
        options.cases.is_empty() || options.cases.iter().any(|case| case == name)
    };
    if let Some(unknown) =
        options.cases.iter().find(|case| ATTACKS.iter().all(|(name, _)| name != case))
    {
        let names: Vec<&str> = ATTACKS.iter().map(|(name, _)| *name).collect();
        let text = format!("no attack `{unknown}`; there are {}", names.join(", "));
        return Err(io::Error::other(text));
    }
    crate::report::make_folder(options.record.as_deref())?;
    crate::pipeline::pin(0);
    let load = machine::load();
    let mut report = Report::new(Machine::read(load)?, options.rounds, options.json);
    report.print_head();
    for (name, attack) in ATTACKS.iter().filter(named) {
        let case = attack(options)?;
        report.add(name, case)?;
    }
    if let Some(folder) = &options.record {
        report.write(folder)?;
    }
    Ok(report.missed())
}

/// Compiles the text of a policy, within the default limits.
fn compiled(text: String) -> io::Result<Compiled> {
    let policy = crate::data::load("policy.yaml", text)?;
    let began = std::time::Instant::now();
    let classifier = compile(&policy, &Limits::default()).map_err(io::Error::other)?;
    Ok(Compiled { build_ms: began.elapsed().as_secs_f64() * 1e3, policy, classifier })
}

/// A policy that workers can judge by.
#[derive(Clone, Debug)]
struct Compiled {
    policy: bulkhead_rules::policy::Policy,
    classifier: bulkhead_rules::classifier::Classifier,
    build_ms: f64,
}

/// The promises about the established flows of all attacks, and those that all attacks make.
fn unharmed(twins: &Twins, most_times: f64) -> Vec<Show> {
    let tally = twins.attacked.tally();
    let (calm, attacked) = (twins.calm_cycles(), twins.attacked_cycles());
    let times = attacked / calm;
    vec![
        Show {
            text: format!(
                "established flows lose {} of {} frames ({} of {} without the attack)",
                tally.established_lost,
                tally.established,
                twins.calm.tally().established_lost,
                twins.calm.tally().established
            ),
            kept: Some(tally.established_lost == 0 && tally.established >= 100 * BLOCK as u64),
        },
        Show {
            text: format!(
                "their packets cost {attacked:.1} cycles, {calm:.1} without the attack: {times:.2} \
                 times; at most {most_times}"
            ),
            kept: Some(times <= most_times),
        },
        Show {
            text: format!(
                "memory is fixed: the attack made the heap grow by {} bytes",
                twins.grown_bytes
            ),
            kept: Some(twins.grown_bytes == 0),
        },
        Show {
            text: "every frame is accounted for".to_owned(),
            kept: Some(twins.attacked.is_accounted() && twins.calm.is_accounted()),
        },
    ]
}
