//! `deploy/quickstart.sh` where network namespaces are not permitted: the same plant, the same
//! questions and the production worker, over ports in memory.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bulkhead_tests::flows::Outcome;
use bulkhead_tests::memory::{Ask, Family, MemoryPlant, Name};
use clap::Parser;

/// A small plant behind a Bulkhead worker, all in memory.
#[derive(Parser)]
#[command(name = "memory-plant")]
struct Cli {
    /// The plant's policy: deploy/examples/plant-line.yaml
    #[arg(long)]
    policy: std::path::PathBuf,
    /// Seconds under load
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

/// The rule by which the engineer's window opens, put before the policy's last one.
const WINDOW: &str = "  - name: engineer-programs-plc-1\n    from: engineer\n    to: plc-1\n    \
                      service: tcp/102\n    action: allow\n\n";
const LAST_RULE: &str = "  - name: engineer-else\n";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let shown = std::fs::read_to_string(&cli.policy)
        .map_err(|e| format!("{}: {e}", cli.policy.display()))
        .and_then(|policy| show(&policy, Duration::from_secs(cli.seconds)));
    match shown {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("error: {failed} expectations were not met");
            ExitCode::from(1)
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(1)
        }
    }
}

fn show(policy: &str, under_load: Duration) -> Result<usize, String> {
    let mut plant = MemoryPlant::start(policy)?;
    let mut table = Table::default();
    println!("\n== Who may talk to whom");
    for (from, to, ask, family, expected) in questions() {
        let outcome = plant.ask(from, to, ask, family);
        let over = if family == Family::V6 { " over IPv6" } else { "" };
        let what = format!("{} -> {}  {}{over}", from.label(), to.label(), words(ask));
        table.row(what, word(expected), word(outcome));
    }
    println!("\n== The policy changes under load");
    let window = policy.replacen(LAST_RULE, &format!("{WINDOW}{LAST_RULE}"), 1);
    if window == policy {
        return Err("the policy has no rule engineer-else: is it plant-line.yaml?".into());
    }
    plant.reload(&window)?;
    let session = plant.open(Name::Engineer, Name::Plc1, Ask::Tcp(102), Family::V4);
    plant.settle();
    let opened = plant.outcome(session).unwrap_or(Outcome::Silent);
    table.row("engineer -> plc-1  tcp/102 in its window".into(), "answered", word(opened));
    plant.reload(policy)?;
    let ended = plant.exchange(Name::Engineer, Name::Plc1, 102, session);
    table.row("the same connection after the window".into(), "refused", word(ended));
    let bad = plant.reload(&policy.replace("to: plcs", "to: plcz")).is_err();
    let got = if bad { "refused" } else { "accepted" };
    table.row("a policy that names an unknown group".into(), "refused", got);
    load(&mut plant, &mut table, [policy, &window], under_load)?;
    let balance = plant.stop();
    println!("  {balance:?}");
    table.row(
        "received + originated = sent + dropped".into(),
        "true",
        &balance.is_exact().to_string(),
    );
    if table.failed == 0 {
        println!(
            "\nAll {} expectations met: nothing permitted was lost, nothing forbidden passed.",
            table.rows
        );
    }
    Ok(table.failed)
}

/// Permitted and forbidden traffic while the policy alternates.
fn load(
    plant: &mut MemoryPlant,
    table: &mut Table,
    policies: [&str; 2],
    under_load: Duration,
) -> Result<(), String> {
    let begin = Instant::now();
    let (mut sent, mut answered, mut attempts, mut reloads) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut slowest = Duration::ZERO;
    let wired = [Name::Plc1, Name::Plc2, Name::Historian];
    let before: u64 = wired.iter().map(|to| plant.arrived(Name::Intruder, *to)).sum();
    while begin.elapsed() < under_load {
        let open: Vec<u16> = (0..64)
            .map(|_| plant.open(Name::Plc1, Name::Plc2, Ask::Udp(2222), Family::V4))
            .collect();
        for to in wired {
            plant.open(Name::Intruder, to, Ask::Tcp(502), Family::V4);
            plant.open(Name::Intruder, to, Ask::Udp(2222), Family::V6);
            attempts += 2;
        }
        // In the middle of all that, while frames wait on both sides of the worker.
        reloads += 1;
        slowest = slowest.max(plant.reload(policies[(reloads % 2) as usize])?);
        plant.settle();
        sent += open.len() as u64;
        let back = open.iter().filter(|port| plant.outcome(**port) == Some(Outcome::Answered));
        answered += back.count() as u64;
    }
    let after: u64 = wired.iter().map(|to| plant.arrived(Name::Intruder, *to)).sum();
    println!(
        "  {reloads} reloads, {sent} permitted requests, {attempts} attempts of the intruder; the \
         slowest publication took {slowest:?}"
    );
    table.row("permitted requests lost".into(), "0", &(sent - answered).to_string());
    table.row("packets of the intruder that arrived".into(), "0", &(after - before).to_string());
    Ok(())
}

fn questions() -> Vec<(Name, Name, Ask, Family, Outcome)> {
    use Ask::{Ping, Tcp, Udp};
    use Family::{V4, V6};
    use Name::{Engineer, Historian, Hmi, Intruder, Plc1, Plc2};
    use Outcome::{Answered, Refused, Silent};
    vec![
        (Hmi, Plc1, Tcp(502), V4, Answered),
        (Hmi, Plc2, Tcp(502), V6, Answered),
        (Hmi, Plc1, Ping, V4, Answered),
        (Hmi, Plc2, Ping, V6, Answered),
        (Hmi, Historian, Tcp(443), V4, Answered),
        (Plc1, Plc2, Udp(2222), V4, Answered),
        (Plc2, Historian, Udp(123), V6, Answered),
        (Historian, Plc1, Tcp(4840), V4, Answered),
        (Engineer, Plc1, Tcp(443), V4, Answered),
        (Hmi, Plc1, Tcp(22), V4, Silent),
        (Engineer, Plc1, Tcp(502), V4, Refused),
        (Engineer, Historian, Udp(2222), V4, Refused),
        (Intruder, Plc1, Tcp(502), V4, Silent),
        (Intruder, Plc1, Tcp(502), V6, Silent),
        (Intruder, Plc2, Udp(2222), V4, Silent),
        (Intruder, Plc1, Ping, V4, Silent),
        (Intruder, Historian, Ping, V6, Silent),
        (Plc1, Plc2, Tcp(502), V4, Silent),
        (Plc1, Historian, Tcp(22), V4, Silent),
        (Historian, Plc2, Udp(2222), V4, Silent),
    ]
}

#[derive(Default)]
struct Table {
    rows: usize,
    failed: usize,
}

impl Table {
    fn row(&mut self, what: String, expected: &str, got: &str) {
        let mark = if expected == got { "ok" } else { "WRONG" };
        self.rows += 1;
        self.failed += usize::from(expected != got);
        println!("  {what:<48} expected {expected:<9} got {got:<9} {mark}");
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Refused => "refused",
        Outcome::Silent => "silent",
    }
}

fn words(ask: Ask) -> String {
    match ask {
        Ask::Tcp(port) => format!("tcp/{port}"),
        Ask::Udp(port) => format!("udp/{port}"),
        Ask::Ping => "ping".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_policy_does_what_the_quickstart_shows() {
        let policy = include_str!("../../deploy/examples/plant-line.yaml");
        assert_eq!(show(policy, Duration::from_millis(300)), Ok(0));
    }

    #[test]
    fn a_policy_that_lets_too_much_pass_is_found_out() {
        let policy = include_str!("../../deploy/examples/plant-line.yaml");
        let open =
            policy.replacen("action: deny", "action: allow", 1).replace("\nassert:", "\n# assert:");
        let open: String =
            open.lines().filter(|l| !l.starts_with("  - {")).map(|l| format!("{l}\n")).collect();
        assert!(show(&open, Duration::from_millis(100)).is_ok_and(|failed| failed > 0));
    }
}
