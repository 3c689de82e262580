//! What the attacks came to: a line for each, and what it promises.

use std::path::Path;
use std::{fs, io};

use serde::Serialize;

use super::rig::Twins;
use crate::machine::{self, Machine};
use crate::shows::Show;

/// One attack's figures. Cycles are those of the time-stamp counter, medians of the rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Case {
    case: String,
    rules: usize,
    /// The attackers' frames, and those of them that were stopped.
    attack_frames: u64,
    attack_stopped: u64,
    /// What a frame of the attack takes.
    attack_cycles: f64,
    /// What a frame of an established flow takes with the attack and without.
    established_cycles: f64,
    established_cycles_calm: f64,
    established_frames: u64,
    /// The share of the established flows' frames that did not pass.
    established_lost: f64,
    /// The share of others' new flows that was refused meanwhile.
    newcomers_lost: Option<f64>,
    flows: u64,
    flow_capacity: u64,
    /// What the heap grew by during the attack.
    grown_bytes: usize,
    #[serde(serialize_with = "promises")]
    shows: Vec<Show>,
    machine: String,
    commit: String,
}

fn promises<S: serde::Serializer>(shows: &[Show], out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(shows.iter().map(Show::line))
}

impl Case {
    /// The figures of an attack that is over.
    pub(super) fn of(twins: &Twins) -> Self {
        let tally = twins.attacked.tally();
        Self {
            attack_frames: tally.attack,
            attack_stopped: tally.attack_stopped,
            attack_cycles: twins.attack_cycles(),
            established_cycles: twins.attacked_cycles(),
            established_cycles_calm: twins.calm_cycles(),
            established_frames: tally.established,
            established_lost: tally.established_lost as f64 / tally.established.max(1) as f64,
            flows: twins.attacked.flows(),
            flow_capacity: twins.attacked.capacity(),
            grown_bytes: twins.grown_bytes,
            ..Self::default()
        }
    }

    /// With what it promises.
    pub(super) fn shows(self, shows: Vec<Show>) -> Self {
        Self { shows, ..self }
    }

    /// With the number of rules of its policy.
    pub(super) fn rules(self, rules: usize) -> Self {
        Self { rules, ..self }
    }

    /// With what became of others' new flows.
    pub(super) fn newcomers_lost(self, share: f64) -> Self {
        Self { newcomers_lost: Some(share), ..self }
    }

    fn row(&self) -> String {
        let newcomers = self.newcomers_lost.map_or_else(|| "-".into(), percent);
        format!(
            "{:<20} {:>6} {:>10} {:>10} {:>8.1} {:>8.1} {:>6.1} {:>6.2} {:>8} {:>9} {:>7}/{}",
            self.case,
            self.rules,
            self.attack_frames,
            self.attack_stopped,
            self.attack_cycles,
            self.established_cycles_calm,
            self.established_cycles,
            self.established_cycles / self.established_cycles_calm,
            percent(self.established_lost),
            newcomers,
            self.flows,
            self.flow_capacity,
        )
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn head() -> String {
    format!(
        "{:<20} {:>6} {:>10} {:>10} {:>8} {:>8} {:>6} {:>6} {:>8} {:>9} {:>7}",
        "attack",
        "rules",
        "frames",
        "stopped",
        "cycles",
        "without",
        "with",
        "ratio",
        "lost",
        "new lost",
        "flows"
    )
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    rounds: usize,
    cases: Vec<Case>,
    #[serde(skip)]
    json: bool,
}

impl Report {
    /// None yet.
    pub(super) fn new(machine: Machine, rounds: usize, json: bool) -> Self {
        Self { machine, rounds, json, cases: Vec::new() }
    }

    /// Prints what comes before the table.
    pub(super) fn print_head(&self) {
        if !self.json {
            println!("{}\n\n{}", self.conditions(), head());
        }
    }

    fn conditions(&self) -> String {
        let Machine { processor, mhz, kernel, commit, load_before, .. } = &self.machine;
        format!(
            "{processor} at {mhz:.0} MHz; Linux {kernel}, commit {commit}, load {load_before} at the \
             start.\n`cycles` is what a frame of the attack takes, `without` and `with` what one of an \
             established flow does, beside a worker that is not attacked and beside the attack: \
             medians of {} rounds, in turns. `lost` is the share of the established flows' frames \
             that did not pass, `new lost` that of others' new flows.",
            self.rounds
        )
    }

    /// Takes a case's figures, and prints them.
    ///
    /// # Errors
    ///
    /// Where they cannot be written as JSON.
    pub(super) fn add(&mut self, name: &str, mut case: Case) -> io::Result<()> {
        case.case = name.to_owned();
        case.machine = format!("{}, {} MHz", self.machine.processor, self.machine.mhz);
        case.commit = self.machine.commit.clone();
        if self.json {
            println!("{}", serde_json::to_string(&case)?);
        } else {
            println!("{}", case.row());
            case.shows.iter().for_each(|show| println!("  {}", show.line()));
        }
        self.cases.push(case);
        Ok(())
    }

    /// Promises that were missed.
    pub(super) fn missed(&self) -> u64 {
        let shows = self.cases.iter().flat_map(|case| &case.shows);
        shows.filter(|show| show.kept == Some(false)).count() as u64
    }

    /// Writes table and figures to the folder.
    ///
    /// # Errors
    ///
    /// Where they cannot be written.
    pub(super) fn write(&mut self, folder: &Path) -> io::Result<()> {
        self.machine.load_after = machine::load();
        fs::write(folder.join("attacks.json"), serde_json::to_vec_pretty(self)?)?;
        let rows: Vec<String> = self.cases.iter().map(Case::row).collect();
        let promises: Vec<String> = (self.cases.iter())
            .map(|case| {
                let lines: Vec<String> = case.shows.iter().map(Show::line).collect();
                format!("{}\n{}", case.case, lines.join("\n"))
            })
            .collect();
        let conditions = self.conditions();
        let text = format!(
            "# What attacks come to\n\n`cargo run --release -p bulkhead-bench -- attacks`\n\n{conditions} Load {} \
             at the end.\n\n```text\n{}\n{}\n```\n\n## Promises\n\n```text\n{}\n```\n",
            self.machine.load_after,
            head(),
            rows.join("\n"),
            promises.join("\n\n"),
        );
        fs::write(folder.join("attacks.md"), text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_promises_are_counted() {
        let machine = Machine::read(machine::load()).expect("this machine");
        let mut report = Report::new(machine, 1, true);
        let show = |kept| Show { text: "a promise".to_owned(), kept };
        let shows = vec![show(Some(true)), show(Some(false)), show(None)];
        report.add("one", Case { shows, ..Case::default() }).expect("printed");
        assert_eq!(report.missed(), 1);
    }
}
