//! `bulkhead stage`, `observe`, `lockdown`, `rollback`, `history`, `grant`, `grants` and `quarantine`:
//! the other end of the control socket.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::{History, Version};
use super::overlay::{Grant, Quarantine};
use super::stage::{FlowShown, StageReport};
use super::{Change, ChangeReport, PolicyTexts};
use crate::audit::Who;
use crate::candidate::unix_now_ms;
use crate::cli::{SocketArgs, exit};
use crate::config::Limits;
use crate::control::client::{self, ANOTHER_QUESTION, ask, print_json, socket};
use crate::control::{Answer, Ask};
use crate::one_line::one_line;
use crate::policy_files::PolicyFiles;
use crate::signature::Envelope;
use crate::state::Gateway;

/// How often `stage --watch` asks.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// What every change is told.
#[derive(Args, Clone, Debug)]
pub struct OrderArgs {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The gateway
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// What `stage` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Every live flow is asked about at its next packet, every new one and every denied \
    packet when it comes. Nothing that passes changes. A staged policy ends with `lockdown`, `--drop` \
    or another one; a restart goes on with it."
)]
pub struct StageArgs {
    /// The policy: a file or a folder of *.yaml files
    #[arg(value_name = "POLICY", required_unless_present_any = ["status", "drop", "watch"])]
    pub policy: Option<PathBuf>,
    /// Show what the staged policy would change
    #[arg(long, conflicts_with_all = ["policy", "drop"])]
    pub status: bool,
    /// The same every two seconds, until interrupted
    #[arg(long, conflicts_with_all = ["policy", "drop"])]
    pub watch: bool,
    /// Stage nothing any more
    #[arg(long, conflicts_with = "policy")]
    pub drop: bool,
    /// The most flows that are listed
    #[arg(long, value_name = "COUNT", default_value_t = 30)]
    pub limit: usize,
    /// Who is asked, and why
    #[command(flatten)]
    pub order: OrderArgs,
}

/// What `observe` is told.
#[derive(Args, Clone, Debug)]
pub struct ObserveArgs {
    /// The wires; all of them without any
    #[arg(value_name = "WIRE")]
    pub wires: Vec<String>,
    /// Who is asked, and why
    #[command(flatten)]
    pub order: OrderArgs,
}

/// What `lockdown` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Refused, with reasons, while the staged policy would cut more of what passes now \
    than `max-denied-ratio` under [lockdown] (what its rules deny by name does not count), while it has \
    been staged for less than `min-staged-s`, and while exceptions that learning found wait for \
    somebody to approve them."
)]
pub struct LockdownArgs {
    /// The wires; all of them without any
    #[arg(value_name = "WIRE")]
    pub wires: Vec<String>,
    /// The policy; without it, the staged one
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<PathBuf>,
    /// Do it although something stands in the way
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// Who is asked, and why
    #[command(flatten)]
    pub order: OrderArgs,
}

/// What `reload` is told.
#[derive(Args, Clone, Debug)]
pub struct ReloadArgs {
    /// Take a signed policy although one that was issued later was in force
    #[arg(long, requires = "reason")]
    pub allow_older: bool,
    /// Why an older one is taken, for the audit log
    #[arg(long, value_name = "TEXT", requires = "allow_older")]
    pub reason: Option<String>,
    /// The gateway
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// What `rollback` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Policy and modes of the version are in force at once. The policy's files stay as \
    they are; their next change, or `bulkhead reload`, takes them into force again."
)]
pub struct RollbackArgs {
    /// The number of the version, as `history` shows it; the one before without it
    #[arg(value_name = "VERSION")]
    pub version: Option<u64>,
    /// Who is asked, and why
    #[command(flatten)]
    pub order: OrderArgs,
}

/// What `grant` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Hosts and services are written as in a rule:\n  \
    bulkhead grant --from 10.50.0.7 --to plc-3 --service tcp/102 --for 2h --reason CHG-1042\n\n\
    The workers end it when its time is over, whatever becomes of the rest of the gateway. What \
    guardrails deny stays denied.")]
pub struct GrantArgs {
    /// The side that opens
    #[arg(long, value_name = "HOSTS", required_unless_present = "revoke", requires = "reason")]
    pub from: Option<String>,
    /// The side that is opened to
    #[arg(long, value_name = "HOSTS", required_unless_present = "revoke")]
    pub to: Option<String>,
    /// What is opened
    #[arg(long, value_name = "SERVICES", required_unless_present = "revoke")]
    pub service: Option<String>,
    /// For how long: 90s, 30m, 4h, 2d
    #[arg(long = "for", value_name = "TIME", value_parser = seconds, required_unless_present = "revoke")]
    pub for_s: Option<u64>,
    /// End this grant now
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from", "to", "service", "for_s", "force"])]
    pub revoke: Option<String>,
    /// Grant it although a rule before it denies some of it
    #[arg(long)]
    pub force: bool,
    /// Who is asked, and why
    #[command(flatten)]
    pub order: OrderArgs,
}

/// What `quarantine` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "At once, above every rule, both ways, on wires that observe too; what it has open \
    ends at its next packet. ARP, neighbour discovery and DHCP stay."
)]
pub struct QuarantineArgs {
    /// A device of the policy, an address (whoever has it by `bulkhead bindings` is meant) or a MAC
    /// address
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// A service that it may still open, such as udp/123; may be repeated
    #[arg(long, value_name = "SERVICE", conflicts_with = "release")]
    pub allow: Vec<String>,
    /// Let it out
    #[arg(long)]
    pub release: bool,
    /// Who is asked, and why
    #[command(flatten)]
    pub order: OrderArgs,
}

/// The versions that are kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryReport {
    /// The number of the one in force; 0 where it was not kept.
    pub in_force: u64,
    /// Whether it stands in the place of the policy's files.
    pub pinned: bool,
    /// The versions, the oldest first.
    pub versions: Vec<Version>,
}

impl HistoryReport {
    /// What `gateway` keeps.
    ///
    /// # Errors
    ///
    /// What is wrong with the list.
    pub fn of(gateway: &Gateway) -> Result<Self, String> {
        let versions = History::read(&gateway.config.state_dir)?.versions;
        let state = gateway.policy();
        let standing = &state.standing;
        Ok(Self { in_force: standing.version, pinned: standing.pinned.is_some(), versions })
    }
}

/// Grants and quarantines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Exceptions {
    /// Grants whose time is not over, the oldest first.
    pub grants: Vec<Grant>,
    /// Devices in quarantine, the oldest first.
    pub quarantines: Vec<Quarantine>,
}

impl Exceptions {
    /// Those of `gateway` now.
    pub fn of(gateway: &Gateway) -> Self {
        let now = unix_now_ms().unwrap_or_default();
        let overlay = gateway.policy().standing.overlay.clone();
        let lives = |grant: &Grant| !grant.is_over(now);
        let grants = overlay.grants.into_iter().filter(lives).collect();
        Self { grants, quarantines: overlay.quarantines }
    }
}

/// Stages a policy, or shows or ends what is staged. Returns the exit code.
pub fn stage(args: &StageArgs) -> u8 {
    if args.drop {
        return change(&args.order, Change::Unstage {}, false);
    }
    if let Some(path) = &args.policy {
        return match texts(path) {
            Ok(policy) => change(&args.order, Change::Stage { policy }, false),
            Err(error) => unavailable(&error),
        };
    }
    loop {
        let code = show_staged(args);
        if !args.watch || code != exit::OK {
            return code;
        }
        thread::sleep(WATCH_INTERVAL);
        println!();
    }
}

/// Lets wires observe. Returns the exit code.
pub fn observe(args: &ObserveArgs) -> u8 {
    let wires = args.wires.clone();
    change(&args.order, Change::Observe { wires }, false)
}

/// Locks down. Returns the exit code.
pub fn lockdown(args: &LockdownArgs) -> u8 {
    let policy = match args.policy.as_deref().map(texts).transpose() {
        Ok(policy) => policy,
        Err(error) => return unavailable(&error),
    };
    let wires = args.wires.clone();
    change(&args.order, Change::Lockdown { wires, policy, expect: None }, args.force)
}

/// Goes back to an earlier version. Returns the exit code.
pub fn rollback(args: &RollbackArgs) -> u8 {
    let version = args.version;
    change(&args.order, Change::Rollback { version }, false)
}

/// Takes the policy's files into force, older ones too where that is said. Returns the exit code.
pub fn reload(args: &ReloadArgs) -> u8 {
    if !args.allow_older {
        return client::reload(&args.socket);
    }
    let order = OrderArgs { reason: args.reason.clone(), socket: args.socket.clone() };
    change(&order, Change::TakeOlder {}, true)
}

/// Makes or ends a grant. Returns the exit code.
pub fn grant(args: &GrantArgs) -> u8 {
    let wanted = match args.clone() {
        GrantArgs { revoke: Some(name), .. } => Change::Revoke { name },
        GrantArgs {
            from: Some(from),
            to: Some(to),
            service: Some(service),
            for_s: Some(for_s),
            ..
        } => Change::Grant { from, to, service, for_s },
        _ => return unavailable("say --from, --to, --service and --for"),
    };
    change(&args.order, wanted, args.force)
}

/// Puts a device in quarantine, or lets it out. Returns the exit code.
pub fn quarantine(args: &QuarantineArgs) -> u8 {
    let (device, allow) = (args.device.clone(), args.allow.clone());
    let wanted = match args.release {
        true => Change::Release { device },
        false => Change::Quarantine { device, allow },
    };
    change(&args.order, wanted, false)
}

/// Lists the versions that are kept. Returns the exit code.
pub fn history(args: &SocketArgs) -> u8 {
    let answer = socket(args).and_then(|socket| ask(&socket, Ask::History {}));
    match answer {
        Ok(Answer::History(report)) => {
            if args.json {
                print_json(&report)
            } else {
                print!("{}", history_text(&report))
            }
            exit::OK
        }
        Ok(Answer::Error(error)) | Err(error) => unavailable(&error),
        Ok(_) => unavailable(ANOTHER_QUESTION),
    }
}

/// Lists grants and quarantines. Returns the exit code.
pub fn grants(args: &SocketArgs) -> u8 {
    let answer = socket(args).and_then(|socket| ask(&socket, Ask::Exceptions {}));
    match answer {
        Ok(Answer::Exceptions(all)) => {
            if args.json {
                print_json(&all)
            } else {
                print!("{}", exceptions_text(&all))
            }
            exit::OK
        }
        Ok(Answer::Error(error)) | Err(error) => unavailable(&error),
        Ok(_) => unavailable(ANOTHER_QUESTION),
    }
}

fn change(args: &OrderArgs, change: Change, force: bool) -> u8 {
    let order = Ask::Change { change, reason: args.reason.clone(), force, on_behalf_of: None };
    let args = &args.socket;
    match socket(args).and_then(|socket| ask(&socket, order)) {
        Ok(Answer::Change(report)) => {
            if args.json {
                print_json(&report)
            } else {
                print!("{}", change_text(&report))
            }
            if report.done { exit::OK } else { exit::REFUSED }
        }
        Ok(Answer::Error(error)) | Err(error) => unavailable(&error),
        Ok(_) => unavailable(ANOTHER_QUESTION),
    }
}

fn show_staged(args: &StageArgs) -> u8 {
    let answer = socket(&args.order.socket)
        .and_then(|socket| ask(&socket, Ask::Staged { limit: args.limit }));
    match answer {
        Ok(Answer::Staged(report)) => {
            if args.order.socket.json {
                print_json(&report)
            } else {
                print!("{}", stage_text(&report))
            }
            if report.staged.is_some() { exit::OK } else { exit::REFUSED }
        }
        Ok(Answer::Error(error)) | Err(error) => unavailable(&error),
        Ok(_) => unavailable(ANOTHER_QUESTION),
    }
}

fn unavailable(error: &str) -> u8 {
    eprintln!("error: {error}");
    exit::UNAVAILABLE
}

fn texts(path: &Path) -> Result<PolicyTexts, String> {
    let files = PolicyFiles::read(path, &Limits::default()).map_err(|error| error.to_string())?;
    let source = path.canonicalize().unwrap_or_else(|_| path.to_path_buf()).display().to_string();
    let text = |source: bulkhead_rules::syntax::Source| (source.name.to_string(), source.text);
    // Half a signature is none: a gateway that requires one refuses it.
    let envelope = Envelope::read(path).unwrap_or_else(|refusal| {
        eprintln!("warning: {}; the policy is sent as one that is not signed", refusal.message);
        None
    });
    Ok(PolicyTexts { source, files: files.sources.into_iter().map(text).collect(), envelope })
}

fn seconds(written: &str) -> Result<u64, String> {
    let wrong = || format!("`{written}` is no time: write 90s, 30m, 4h or 2d");
    let (number, unit) = written.split_at(written.trim_end_matches(char::is_alphabetic).len());
    let unit = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|&seconds| seconds > 0).ok_or_else(wrong)
}

fn change_text(report: &ChangeReport) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let _ = writeln!(out, "{}\n", finding.rendered);
    }
    let verdict = if report.done { "done" } else { "refused" };
    let _ = writeln!(out, "{verdict}: {}", report.what);
    if !report.done {
        for obstacle in &report.obstacles {
            let _ = writeln!(out, "  - {obstacle}");
        }
    }
    match (report.publish_us, report.stalled_worker) {
        (Some(us), _) => {
            let _ = writeln!(out, "every worker judges by it after {us} us");
        }
        (None, Some(worker)) => {
            let _ = writeln!(out, "but worker {worker} hangs and does not judge by it");
        }
        (None, None) => {}
    }
    out
}

fn stage_text(report: &StageReport) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_stage(&mut out, report);
    out
}

fn write_stage(out: &mut String, report: &StageReport) -> std::fmt::Result {
    let Some(staged) = &report.staged else {
        return writeln!(
            out,
            "nothing is staged: `bulkhead stage POLICY` puts a policy beside the one in force"
        );
    };
    let hash = staged.hash.get(..12).unwrap_or(&staged.hash);
    writeln!(
        out,
        "staged   {} (hash {hash}), {} rules, for {} s",
        staged.source, staged.rules, staged.age_s
    )?;
    match staged.restarts {
        0 => {}
        1 => writeln!(out, "         over a restart of the gateway; what was seen before counts")?,
        n => {
            writeln!(out, "         over {n} restarts of the gateway; what was seen before counts")?
        }
    }
    writeln!(
        out,
        "asked    about {} flows, {} of which pass now; {} denied packets",
        report.flows, report.passing, report.denied_packets
    )?;
    writeln!(
        out,
        "would    cut {} ({} by no rule's name: {:.3} %; {} are permitted now), open {}",
        report.cut,
        report.cut_by_default,
        report.denied_ratio * 100.0,
        report.cut_permitted,
        report.opened
    )?;
    if !report.rules.is_empty() {
        writeln!(out, "\n       CUT     OPENED  STAGED RULE")?;
        for rule in &report.rules {
            writeln!(out, "{:>10} {:>10}  {}", rule.cut, rule.opened, rule.name)?;
        }
    }
    if !report.differing.is_empty() {
        writeln!(out, "\nFLOWS, the latest first")?;
        report.differing.iter().try_for_each(|flow| write_flow(out, flow))?;
    }
    if report.unlisted > 0 {
        writeln!(out, "{} more were counted and not listed", report.unlisted)?;
    }
    match &report.obstacles[..] {
        [] => writeln!(out, "\nnothing stands in the way of `bulkhead lockdown`"),
        obstacles => {
            writeln!(out, "\n`bulkhead lockdown` would be refused:")?;
            obstacles.iter().try_for_each(|obstacle| writeln!(out, "  - {obstacle}"))
        }
    }
}

fn write_flow(out: &mut String, flow: &FlowShown) -> std::fmt::Result {
    let would = if flow.passes { "cut " } else { "open" };
    writeln!(
        out,
        "  {would} {}  ({} times, last {})",
        flow.flow,
        flow.count,
        instant(flow.last_unix_ms)
    )?;
    write!(out, "       now {}, staged {}", flow.rule, flow.staged_rule)?;
    if let (Some(open_s), Some(packets)) = (flow.open_s, flow.packets) {
        write!(out, "; open for {open_s} s, {packets} packets")?;
    }
    if let Some(nearest) = &flow.nearest {
        write!(out, "; nearest: {nearest}")?;
    }
    writeln!(out)
}

fn history_text(report: &HistoryReport) -> String {
    let mut out = String::from("VERSION  SINCE                     POLICY        RULES  BY\n");
    for version in &report.versions {
        let mark = if version.number == report.in_force { "*" } else { " " };
        let modes: Vec<String> =
            version.modes.iter().map(|(wire, mode)| format!("{wire} {mode}")).collect();
        let _ = writeln!(
            out,
            "{mark}{:>6}  {:<25} {:<12} {:>6}  {}, {}; {}; {}",
            version.number,
            instant(version.at_unix_ms),
            version.hash.get(..12).unwrap_or(&version.hash),
            version.rules,
            version.by,
            name(&version.who),
            version.source,
            modes.join(", ")
        );
    }
    if report.pinned {
        out.push_str(
            "the version in force stands in the place of the policy's files, until these change or \
             `bulkhead reload`\n",
        );
    }
    out
}

fn exceptions_text(all: &Exceptions) -> String {
    let mut out = String::new();
    for grant in &all.grants {
        let suspended =
            if grant.suspended { " SUSPENDED: the policy does not admit it" } else { "" };
        let _ = writeln!(
            out,
            "{}: {} to {}, {}, until {}{suspended}\n  by {}: {}",
            grant.name,
            grant.from,
            grant.to,
            grant.service,
            instant(grant.expires_unix_ms),
            name(&grant.who),
            one_line(&grant.reason)
        );
    }
    for quarantine in &all.quarantines {
        let _ = writeln!(
            out,
            "in quarantine: {} ({}) since {}\n  by {}: {}",
            quarantine.device,
            quarantine.hosts.join(", "),
            instant(quarantine.since_unix_ms),
            name(&quarantine.who),
            one_line(quarantine.reason.as_deref().unwrap_or("no reason was given"))
        );
    }
    if out.is_empty() {
        out.push_str("no grants, and nothing in quarantine\n");
    }
    out
}

fn name(who: &Who) -> &str {
    &who.name
}

/// An instant to the second.
fn instant(unix_ms: i64) -> String {
    let instant = Timestamp::from_second(unix_ms.div_euclid(1000));
    instant.map_or_else(|_| unix_ms.to_string(), |instant| instant.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_nonsense_is_not() {
        for (written, is) in [("90s", 90), ("30m", 1800), ("4h", 14_400), ("2d", 172_800)] {
            assert_eq!(seconds(written), Ok(is));
        }
        for wrong in ["", "4", "h", "-1h", "0s", "4 h", "99999999999999999999d", "1w", "1.5h"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
