//! Instructions of a lookup, counted by callgrind: a second opinion that no other load disturbs. It
//! knows nothing of caches, so it says what a lookup does and not what it waits for.

use std::io;
use std::process::Command;

use bulkhead_dpdk::AclLimits;
use bulkhead_rules::classifier::Scratch;
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::policy::RuleId;

use crate::classify::{Case, Options, Origin, for_each_case};
use crate::contest::{Rival, our_batches};
use crate::huge_pages::Environment;
use crate::trace::Order;

/// Whose instructions are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Engine {
    /// The classifier's.
    Ours,
    /// `librte_acl`'s.
    Acl,
}

/// Instructions a lookup.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Counts {
    /// The classifier's.
    pub ours: f64,
    /// `librte_acl`'s, with the best implementation that callgrind's processor has (AVX2).
    pub acl: Option<f64>,
}

/// Headers that are looked up.
const HEADERS: usize = 4_096;

/// Memory for its tries.
const ACL_BYTES: u64 = 512 << 20;

/// Packets that `librte_acl` is given at once.
const ACL_BATCH: usize = 256;

/// Rules up to which `librte_acl` is counted: its build under callgrind takes minutes beyond.
const MOST_RULES: usize = 20_000;

/// Runs this program again under callgrind, which is slow: about a minute for 100,000 rules.
///
/// # Errors
///
/// Where `valgrind` is not installed or fails.
pub fn count(case: &Case, options: &Options, acl: bool) -> io::Result<Counts> {
    let acl = acl && case.policy.rules().len() <= MOST_RULES;
    Ok(Counts {
        ours: count_of(case, options, Engine::Ours)?,
        acl: acl.then(|| count_of(case, options, Engine::Acl)).transpose()?,
    })
}

fn count_of(case: &Case, options: &Options, engine: Engine) -> io::Result<f64> {
    // The names of the functions in `contest`, whatever the compiler makes of their paths.
    let (pass, name) = match engine {
        Engine::Ours => ("*our_batches*", "ours"),
        Engine::Acl => ("*acl_batches*", "acl"),
    };
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={pass}"))
        .arg(std::env::current_exe()?)
        .args(["classify", "--count-only", name])
        .args(["--seed", &options.seed.to_string(), "--headers", &HEADERS.to_string()]);
    match &case.origin {
        Origin::File(path) => command.arg("--rules").arg(path).args(["--family", case.family]),
        Origin::Segmentation(number) => {
            let rules: Vec<String> = options.expanded.iter().map(usize::to_string).collect();
            command
                .args(["--segmentation", "--only", &number.to_string(), "--expanded"])
                .args(rules)
        }
    };
    let output = command.output().map_err(|error| {
        io::Error::other(format!("valgrind: {error}; `apt-get install valgrind` brings it"))
    })?;
    Ok(said_collected(&String::from_utf8_lossy(&output.stderr))? / HEADERS as f64)
}

/// The instructions that callgrind says it has collected.
///
/// # Errors
///
/// Where it says nothing, or none.
pub fn said_collected(said: &str) -> io::Result<f64> {
    let collected: Option<f64> =
        said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match collected {
        Some(instructions) if instructions > 0.0 => Ok(instructions),
        _ => Err(io::Error::other(format!("callgrind counted nothing:\n{said}"))),
    }
}

/// What runs under callgrind: one pass over the headers of each policy that the options name.
///
/// # Errors
///
/// Where a policy cannot be read or compiled, or DPDK does not start.
pub fn count_only(options: &Options, engine: Engine) -> io::Result<()> {
    for_each_case(options, |case| {
        let headers = case.headers(Order::Uniform, options.seed, options.headers);
        match (engine, &case.tuples) {
            (Engine::Ours, _) => {
                let classifier =
                    compile(&case.policy, &Limits::default()).map_err(io::Error::other)?;
                let mut out = vec![RuleId::DEFAULT; headers.len()];
                our_batches(&classifier, &headers, &mut Scratch::default(), &mut out);
            }
            (Engine::Acl, Ok((family, tuples))) => {
                let environment = Environment::start_without(ACL_BYTES)?;
                let limits = AclLimits { max_size: 0, build_bytes: options.acl_build_mib << 20 };
                let rival = Rival::build(&environment.eal, *family, tuples, limits)
                    .map_err(io::Error::other)?;
                let keys = rival.keys(&headers);
                rival.look_up(&keys, ACL_BATCH, &mut vec![0; headers.len()]);
            }
            (Engine::Acl, Err(reason)) => return Err(io::Error::other(reason.clone())),
        }
        Ok(())
    })
}
