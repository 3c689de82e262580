//! What came of measuring the classifier: a table, JSON, and a plot.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use serde::Serialize;

use crate::classify::{Built, Case, Options, RivalBuild, checked};
use crate::contest::{OUR_BATCH, Outcome, Rival, Rounds};
use crate::external::Figures;
use crate::instructions::Counts;
use crate::machine::Machine;
use crate::plot::{self, Bar, Group};
use crate::shows::{Show, shows};

/// Makes the folder that a report is to be written to, if one is. Before anything is measured: what
/// cannot be written is not worth an hour.
///
/// # Errors
///
/// Where it cannot be made.
pub fn make_folder(folder: Option<&Path>) -> io::Result<()> {
    let Some(folder) = folder else { return Ok(()) };
    fs::create_dir_all(folder)
        .map_err(|error| io::Error::other(format!("--record {}: {error}", folder.display())))
}

/// One policy's figures. Times of lookups are nanoseconds each, medians of the rounds in uniformly
/// random order where nothing else is said.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the JSON's, and say it")]
pub struct Line {
    pub set: String,
    pub rules: usize,
    pub family: &'static str,
    pub order: &'static str,
    pub ns_per_lookup: f64,
    pub librte_acl_ns: Option<f64>,
    pub ratio: Option<f64>,
    pub fastest_other: Option<String>,
    pub ratio_to_fastest: Option<f64>,
    pub load_ms: f64,
    pub build_ms: f64,
    pub librte_acl_build_ms: Option<f64>,
    pub bytes: usize,
    pub librte_acl_bytes: Option<usize>,
    pub peak_bytes: usize,
    pub librte_acl_peak_bytes: Option<u64>,
    pub wrong: usize,
    pub wrong_checked_against: &'static str,
    pub matched: usize,
    pub librte_acl_error: Option<String>,
    pub librte_acl_batch: Option<usize>,
    pub librte_acl_algorithm: Option<String>,
    pub librte_acl_max_size: Option<usize>,
    pub librte_acl_avx2_ns: Option<f64>,
    pub external: Vec<Figures>,
    pub five_tuples: Option<usize>,
    pub tuple_space_ns: Option<f64>,
    pub pareto_ns: Option<f64>,
    pub pareto_librte_acl_ns: Option<f64>,
    pub pareto_ratio: Option<f64>,
    pub instructions: Option<f64>,
    pub librte_acl_instructions: Option<f64>,
    pub batch: usize,
    pub ns_rounds: Vec<f64>,
    pub librte_acl_rounds: Vec<f64>,
    pub machine: String,
    pub commit: String,
}

impl Line {
    /// The figures of a policy; `outcomes` are of uniformly random order and, if it was measured, of
    /// Pareto's.
    pub fn new(
        case: &Case,
        built: &Built,
        rival: Option<&Rival>,
        rival_build: &RivalBuild,
        outcomes: &[Outcome],
        counts: Option<Counts>,
    ) -> Self {
        let uniform = &outcomes[0];
        let pareto = outcomes.get(1);
        let acl = uniform.best_acl();
        let others = acl.map(|acl| ("librte_acl".to_owned(), acl.rounds.median())).into_iter();
        let outside = uniform.external.iter();
        let others = others.chain(outside.map(|f| (f.name.clone(), f.rounds.median())));
        let fastest = others.min_by(|a, b| a.1.total_cmp(&b.1));
        let milliseconds = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        Self {
            set: case.set.clone(),
            rules: case.policy.rules().len(),
            family: case.family,
            order: "uniform",
            ns_per_lookup: uniform.ours.median(),
            librte_acl_ns: acl.map(|acl| acl.rounds.median()),
            ratio: uniform.ratio(),
            ratio_to_fastest: fastest.as_ref().map(|(_, ns)| ns / uniform.ours.median()),
            fastest_other: fastest.map(|(name, _)| name),
            load_ms: milliseconds(case.load),
            build_ms: milliseconds(built.build),
            librte_acl_build_ms: rival.map(|_| milliseconds(rival_build.build)),
            bytes: built.classifier.size_bytes(),
            librte_acl_bytes: rival.map(Rival::size_bytes),
            peak_bytes: built.peak_bytes,
            librte_acl_peak_bytes: rival.map(|_| rival_build.peak_bytes),
            wrong: outcomes.iter().map(|outcome| outcome.wrong).sum(),
            wrong_checked_against: checked(uniform),
            matched: uniform.matched,
            librte_acl_error: rival_build.error.clone(),
            librte_acl_batch: acl.map(|acl| acl.batch),
            librte_acl_algorithm: acl.map(|acl| acl.algorithm.to_string()),
            librte_acl_max_size: rival.map(|rival| rival.max_size),
            librte_acl_avx2_ns: uniform.best_avx2().map(|acl| acl.rounds.median()),
            external: uniform.external.clone(),
            five_tuples: case.tuples.as_ref().ok().map(|(_, tuples)| tuples.len()),
            tuple_space_ns: uniform.tuple_space.as_ref().map(Rounds::median),
            pareto_ns: pareto.map(|pareto| pareto.ours.median()),
            pareto_librte_acl_ns: pareto.and_then(|p| Some(p.best_acl()?.rounds.median())),
            pareto_ratio: pareto.and_then(Outcome::ratio),
            instructions: counts.map(|counts| counts.ours),
            librte_acl_instructions: counts.and_then(|counts| counts.acl),
            batch: OUR_BATCH,
            ns_rounds: uniform.ours.0.clone(),
            librte_acl_rounds: acl.map(|acl| acl.rounds.0.clone()).unwrap_or_default(),
            machine: String::new(),
            commit: String::new(),
        }
    }
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What they were measured on.
    pub machine: Machine,
    /// Headers for each policy and order.
    pub headers: usize,
    /// Rounds.
    pub rounds: usize,
    /// The command line.
    pub command: String,
    /// The figures.
    pub lines: Vec<Line>,
}

impl Report {
    /// None yet.
    pub fn new(machine: Machine, options: &Options) -> Self {
        // Where files are on this machine is nobody else's matter.
        let name = |argument: String| match argument.rsplit_once('/') {
            Some((before, name)) => {
                let key =
                    before.split_once('=').map_or(String::new(), |(key, _)| format!("{key}="));
                key + name
            }
            None => argument,
        };
        let arguments: Vec<String> = std::env::args().skip(1).map(name).collect();
        Self {
            machine,
            headers: options.headers,
            rounds: options.rounds,
            command: format!("cargo run --release -p bulkhead-bench -- {}", arguments.join(" ")),
            lines: Vec::new(),
        }
    }

    /// Prints what comes before the table.
    pub fn print_head(&self, json: bool) {
        if !json {
            println!("{}\n\n{}", self.conditions(), HEAD);
        }
    }

    /// Takes a policy's figures, and prints them.
    ///
    /// # Errors
    ///
    /// Where they cannot be written as JSON.
    pub fn add(&mut self, mut line: Line, json: bool) -> io::Result<()> {
        line.machine = format!("{}, {} MHz", self.machine.processor, self.machine.mhz);
        line.commit = self.machine.commit.clone();
        if json {
            println!("{}", serde_json::to_string(&line)?);
        } else {
            println!("{}", row(&line));
            for remark in remarks(&line) {
                println!("  {remark}");
            }
        }
        self.lines.push(line);
        Ok(())
    }

    /// Prints what comes after the table.
    pub fn print_tail(&self, json: bool) {
        if !json {
            println!("\n{}", self.shows().join("\n"));
        }
    }

    /// Writes table, figures and plot to the folder.
    ///
    /// # Errors
    ///
    /// Where they cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join("classify.json"), serde_json::to_vec_pretty(self)?)?;
        fs::write(folder.join("classify.md"), self.markdown())?;
        fs::write(folder.join("classify.svg"), plot::svg(&self.title(), &self.groups()))
    }

    fn conditions(&self) -> String {
        let Machine { processor, mhz, kernel, dpdk, commit, load_before, .. } = &self.machine;
        format!(
            "{processor} at {mhz:.0} MHz, one core; Linux {kernel}, {dpdk}, commit {commit}, load \
             {load_before} at the start.\n{} headers in uniformly random order, ours in batches of \
             {OUR_BATCH}, librte_acl at its best; medians of {} rounds in turns, nanoseconds a \
             lookup.",
            self.headers, self.rounds
        )
    }

    fn shows(&self) -> Vec<String> {
        shows(&self.lines).iter().map(Show::line).collect()
    }

    fn title(&self) -> String {
        let Machine { processor, mhz, commit, .. } = &self.machine;
        format!("Nanoseconds a lookup, uniformly random order, {processor} {mhz:.0} MHz, {commit}")
    }

    fn markdown(&self) -> String {
        let mut out = String::from("# The classifier beside librte_acl\n\n");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "`{}`\n\n{}\n", self.command, self.conditions());
        let _ = writeln!(out, "![Lookups](classify.svg)\n\n{MARKDOWN_HEAD}");
        for line in &self.lines {
            let _ = writeln!(out, "| {} |", cells(line).join(" | "));
        }
        out.push_str(
            "\nTime is taken block by block of 256 lookups; before each, its headers are copied into the first \
             cache, where a worker has them too. Spread is the fastest and the slowest round. Pareto is the same with headers repeated as \
             in ClassBench's traces. The peak of our compile is live heap; librte_acl's is resident \
             memory without huge pages, and its size includes its copy of the rules. Tuple space is \
             this crate's own tuple space search with merged tuples, one packet at a time. `wrong` \
             counts headers on which another engine found another rule.\n",
        );
        let remarks: Vec<String> = self
            .lines
            .iter()
            .flat_map(|line| remarks(line).map(|remark| format!("- {}: {remark}", name(line))))
            .collect();
        if !remarks.is_empty() {
            let _ = writeln!(out, "\n{}", remarks.join("\n"));
        }
        let _ = writeln!(out, "\n## Promises\n\n```text\n{}\n```", self.shows().join("\n"));
        out
    }

    fn groups(&self) -> Vec<Group> {
        let group = |line: &Line| {
            let bars = [
                ("ours", Some(line.ns_per_lookup), &line.ns_rounds),
                ("librte_acl", line.librte_acl_ns, &line.librte_acl_rounds),
                ("tuple space search", line.tuple_space_ns, &Vec::new()),
            ];
            let bars = bars.into_iter().map(|(engine, value, rounds)| Bar {
                engine: engine.to_owned(),
                value,
                spread: Rounds(rounds.clone()).spread(),
            });
            let external = line.external.iter().map(|figures| Bar {
                engine: figures.name.clone(),
                value: Some(figures.rounds.median()),
                spread: figures.rounds.spread(),
            });
            Group { name: name(line), bars: bars.chain(external).collect() }
        };
        self.lines.iter().map(group).collect()
    }
}

fn name(line: &Line) -> String {
    format!("{} {}", line.set, line.family)
}

const HEAD: &str = "\
set                          fam    rules |    ours (spread) | librte_acl (spread) ratio   AVX2 | tuple sp. | pareto ratio |  build ms  acl |   MiB   acl | peak   acl | wrong";

const MARKDOWN_HEAD: &str = "\
| set | rules | ours ns | spread | librte_acl ns | spread | batch, SIMD | ratio | with AVX2 ns | ratio to the fastest | tuple space ns | Pareto ours, librte_acl ns | load ms | build ms | librte_acl | size MiB | librte_acl | peak MiB | librte_acl | instructions | librte_acl | wrong |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

fn row(line: &Line) -> String {
    let spread = |rounds: &[f64]| {
        if rounds.is_empty() {
            return String::new();
        }
        let (low, high) = Rounds(rounds.to_vec()).spread();
        format!("({low:.0}-{high:.0})")
    };
    format!(
        "{:<28} {:<5} {:>6} | {:>6.1} {:>9} | {:>8} {:>11} {:>5} {:>6} | {:>9} | {:>6} {:>5} | {:>9.1} {:>6} | {:>5.1} {:>6} | {:>4.0} {:>5} | {:>5}",
        line.set,
        line.family,
        line.rules,
        line.ns_per_lookup,
        spread(&line.ns_rounds),
        number(line.librte_acl_ns, 1),
        spread(&line.librte_acl_rounds),
        number(line.ratio, 2),
        number(line.librte_acl_avx2_ns, 0),
        number(line.tuple_space_ns, 0),
        number(line.pareto_ns, 1),
        number(line.pareto_ratio, 2),
        line.build_ms,
        number(line.librte_acl_build_ms, 0),
        mebibytes(line.bytes as f64),
        number(line.librte_acl_bytes.map(|bytes| mebibytes(bytes as f64)), 0),
        mebibytes(line.peak_bytes as f64),
        number(line.librte_acl_peak_bytes.map(|bytes| mebibytes(bytes as f64)), 0),
        line.wrong,
    )
}

fn cells(line: &Line) -> Vec<String> {
    let spread = |rounds: &[f64]| {
        if rounds.is_empty() {
            return "-".to_owned();
        }
        let (low, high) = Rounds(rounds.to_vec()).spread();
        format!("{low:.1} to {high:.1}")
    };
    let batch = match (line.librte_acl_batch, &line.librte_acl_algorithm) {
        (Some(batch), Some(algorithm)) => format!("{batch}, {algorithm}"),
        _ => "-".to_owned(),
    };
    vec![
        name(line),
        line.rules.to_string(),
        format!("**{:.1}**", line.ns_per_lookup),
        spread(&line.ns_rounds),
        number(line.librte_acl_ns, 1),
        spread(&line.librte_acl_rounds),
        batch,
        number(line.ratio, 2),
        number(line.librte_acl_avx2_ns, 1),
        match (&line.fastest_other, line.ratio_to_fastest) {
            (Some(name), Some(ratio)) => format!("**{ratio:.2}** ({name})"),
            _ => "-".to_owned(),
        },
        number(line.tuple_space_ns, 0),
        format!("{}, {}", number(line.pareto_ns, 1), number(line.pareto_librte_acl_ns, 1)),
        format!("{:.0}", line.load_ms),
        format!("{:.1}", line.build_ms),
        number(line.librte_acl_build_ms, 0),
        format!("{:.2}", mebibytes(line.bytes as f64)),
        number(line.librte_acl_bytes.map(|bytes| mebibytes(bytes as f64)), 1),
        format!("{:.1}", mebibytes(line.peak_bytes as f64)),
        number(line.librte_acl_peak_bytes.map(|bytes| mebibytes(bytes as f64)), 0),
        number(line.instructions, 0),
        number(line.librte_acl_instructions, 0),
        line.wrong.to_string(),
    ]
}

fn remarks(line: &Line) -> impl Iterator<Item = String> + '_ {
    let error = line.librte_acl_error.as_ref().map(|error| format!("librte_acl: {error}"));
    let counts = line.instructions.map(|ours| match line.librte_acl_instructions {
        Some(acl) => format!("instructions a lookup: {ours:.0}, librte_acl {acl:.0}"),
        None => format!("instructions a lookup: {ours:.0}"),
    });
    let load = format!(
        "read and checked in {:.0} ms; answers compared with {}",
        line.load_ms, line.wrong_checked_against
    );
    let load = line.set.starts_with("segmentation").then_some(load);
    let external = line.external.iter().map(|figures| {
        let Figures { name, rounds, build_ms, bytes, wrong } = figures;
        let (low, high) = rounds.spread();
        format!(
            "{name}: {:.1} ns ({low:.0}-{high:.0}), ratio {:.2}; build {} ms, {} MiB, wrong {}",
            rounds.median(),
            rounds.median() / line.ns_per_lookup,
            number(*build_ms, 0),
            number(bytes.map(mebibytes), 1),
            number(*wrong, 0),
        )
    });
    [error, counts, load].into_iter().flatten().chain(external)
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
