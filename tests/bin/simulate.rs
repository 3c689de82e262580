//! The simulator by hand: worlds from seeds, their figures, and what a seed of a failure replays.

use std::process::ExitCode;
use std::time::Instant;

use bulkhead_tests::simulator::{Defect, Figures, Options, run};
use clap::Parser;

/// Runs worlds from seeds around the worker that runs in production, and checks what it promises.
#[derive(Parser)]
#[command(name = "simulate")]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worlds to run, with this seed and those after it.
    #[arg(long, default_value_t = 1)]
    worlds: u64,
    /// Frames that the gateway judges in each world.
    #[arg(long, default_value_t = 50_000)]
    steps: u64,
    /// Plant this defect; `list` shows them, `all` plants each in turn.
    #[arg(long)]
    defect: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.defect.as_deref() {
        None => simulate(&arguments, None),
        Some("list") => {
            for defect in Defect::ALL {
                println!("{:<22} {}", defect.name(), defect.help());
            }
            ExitCode::SUCCESS
        }
        Some("all") => find_all(&arguments),
        Some(name) => match Defect::ALL.iter().find(|defect| defect.name() == name) {
            Some(defect) => simulate(&arguments, Some(*defect)),
            None => {
                eprintln!("error: no defect is called `{name}`; --defect list shows them");
                ExitCode::from(2)
            }
        },
    }
}

/// Fails at the first violation.
fn simulate(arguments: &Arguments, defect: Option<Defect>) -> ExitCode {
    let (mut sum, begun) = (Figures::default(), Instant::now());
    for seed in seeds(arguments) {
        let report = run(Options { seed, steps: arguments.steps, defect });
        sum.add(&report.figures);
        if let Some(violation) = report.violation {
            println!("{violation}");
            return ExitCode::FAILURE;
        }
    }
    println!("{sum}\nviolations 0, in {:.1} s", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

/// Fails where a planted defect goes unnoticed.
fn find_all(arguments: &Arguments) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    println!("{:<22} {:>6} {:>8}  first shown by", "defect", "worlds", "steps");
    for &defect in Defect::ALL {
        let mut steps = 0;
        let found = seeds(arguments).enumerate().find_map(|(nth, seed)| {
            let report = run(Options { seed, steps: arguments.steps, defect: Some(defect) });
            steps += report.figures.steps;
            report.violation.map(|violation| (nth + 1, violation.what))
        });
        match found {
            Some((worlds, what)) => {
                let what: String = what.chars().take(80).collect();
                println!("{:<22} {worlds:>6} {steps:>8}  {what}", defect.name());
            }
            None => {
                println!("{:<22} {:>6} {steps:>8}  NOT FOUND", defect.name(), "-");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}

fn seeds(arguments: &Arguments) -> impl Iterator<Item = u64> {
    (0..arguments.worlds).map(|nth| arguments.seed.wrapping_add(nth))
}
