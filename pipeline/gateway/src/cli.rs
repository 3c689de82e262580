//! The command line, and which module answers each command.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::audit::command::{self as audit, AuditArgs};
use crate::config::Config;
use crate::console::{self, ConsoleArgs};
use crate::devices::{self, DevicesArgs};
use crate::drift::{self, DriftArgs};
use crate::explain_rule::{self, ExplainRuleArgs};
use crate::generate::{self, CompletionShell};
use crate::learning::{self, LearnArgs};
use crate::map::{self, MapArgs};
use crate::propose::{self, ProposeArgs};
use crate::replay::{self, ReplayArgs};
use crate::report::{self, ReportArgs};
use crate::signature::command::{self as sign, SignArgs};
use crate::status::{self, StatusArgs};
use crate::trace::command::{self as trace, TraceArgs};
use crate::workflow::commands::{
    self, GrantArgs, LockdownArgs, ObserveArgs, QuarantineArgs, ReloadArgs, RollbackArgs, StageArgs,
};
use crate::{bindings, broken_pipe, check, diff, exit_codes, explain, failure, reach, run, schema};

/// Where the configuration is unless told otherwise.
pub const CONFIG_PATH: &str = "/etc/bulkhead/gateway.toml";

/// Exit codes of every command, for scripts. The command-line parser itself exits with 2.
pub mod exit {
    /// All is well.
    pub const OK: u8 = 0;
    /// What was asked about is wrong or refused: a policy, a configuration, a reload, an expectation.
    pub const REFUSED: u8 = 1;
    /// `check --deny-warnings` found warnings and nothing worse.
    pub const WARNINGS: u8 = 3;
    /// The answer could not be had: a file that cannot be read, a gateway that does not answer.
    pub const UNAVAILABLE: u8 = 4;
}

#[derive(Parser)]
#[command(
    name = "bulkhead",
    version,
    about = "An inline microsegmentation gateway: frames in, judged by a policy, out again, counted",
    long_about = "An inline microsegmentation gateway. It sits between devices as a bump in the \
                  wire, with no change to addresses, and lets through what a policy permits.\n\n\
                  A first tour:\n  \
                  bulkhead check policy.yaml                  is the policy sound?\n  \
                  bulkhead explain --policy policy.yaml 'tcp 10.20.0.11 -> 10.30.3.11:502'\n  \
                  bulkhead diff old.yaml new.yaml             what do two policies judge differently?\n  \
                  bulkhead reach --policy policy.yaml --to plc  who may open what to it?\n  \
                  bulkhead replay --policy policy.yaml a.pcap what would it have let through?\n  \
                  bulkhead run --config gateway.toml          guard the wires of the configuration\n  \
                  bulkhead status                             what it is doing\n  \
                  bulkhead reload                             take the edited policy into force",
    after_help = "Exit codes: 0 well, 1 refused (policy, configuration, reload, expectation), \
                  2 wrong command line, 3 warnings with --deny-warnings, 4 no answer (a file cannot \
                  be read, no gateway answers). diff has those of diff(1): 0 same, 1 different, 2 no \
                  answer. The help of each command says what they mean there.\n\n\
                  With --json a command prints one JSON document, described by `bulkhead schema \
                  COMMAND`, and nothing where it has no answer."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Guard the wires of the configuration until SIGTERM or SIGINT; SIGHUP reloads the policy
    Run(RunArgs),
    /// Check policies, and a configuration, without a gateway
    Check(CheckArgs),
    /// Say what a policy does with a packet, and which rule decides
    Explain(ExplainArgs),
    /// Say what two policies judge differently: exactly, packet by packet
    Diff(DiffArgs),
    /// Say who may open what to a group, service by service
    Reach(ReachArgs),
    /// Say what a policy would have done to the traffic of captures
    Replay(ReplayArgs),
    /// Keep records of who talks to whom: the learning process, beside the gateway
    Learn(LearnArgs),
    /// Serve the console: look at the network, understand it, lock it down
    Console(ConsoleArgs),
    /// Show who talks to whom, from the communication store
    Map(MapArgs),
    /// List who is there, from the communication store
    Devices(DevicesArgs),
    /// Propose a policy learnt from the communication store
    Propose(ProposeArgs),
    /// Say why a rule is proposed
    ExplainRule(ExplainRuleArgs),
    /// Say what was denied since the wires enforce, and what to make of it
    Drift(DriftArgs),
    /// Put together what auditors ask for: scope, zones, conduits, changes, and what is not known
    Report(ReportArgs),
    /// Say whether this machine is fit to be a gateway, and what to do about it
    #[cfg(feature = "dpdk")]
    Doctor(DoctorArgs),
    /// Show what the running gateway does
    Status(StatusArgs),
    /// Follow matching packets through every stage of the running gateway
    Trace(TraceArgs),
    /// Take the policy files as they are now into force, or learn why not
    Reload(ReloadArgs),
    /// Start the gateway anew, as it is installed and configured now; wires stop while ports change hands
    Restart(SocketArgs),
    /// Let the wires that fail open carry frames unjudged while no gateway runs, or end that
    Bypass(BypassArgs),
    /// Write a policy's manifest and sign it
    Sign(SignArgs),
    /// Show who has which address, as the running gateway knows it
    Bindings(BindingsArgs),
    /// Put a policy beside the one in force, and see what it would change
    Stage(StageArgs),
    /// Put the staged policy in force and let wires enforce it
    Lockdown(LockdownArgs),
    /// Let wires observe: forward everything, and count what would be dropped
    Observe(ObserveArgs),
    /// Put an earlier policy in force, with the modes that wires had then
    Rollback(RollbackArgs),
    /// List the policies that were in force
    History(SocketArgs),
    /// Permit something for a time, or end that
    Grant(GrantArgs),
    /// List grants, and who is in quarantine
    Grants(SocketArgs),
    /// Leave a device nothing but the essentials, at once
    Quarantine(QuarantineArgs),
    /// Show who changed what, or check that this log is whole
    Audit(AuditArgs),
    /// Print the JSON Schema of what a command prints with --json
    Schema(SchemaArgs),
    /// Print a shell's completions
    Completions(CompletionsArgs),
    /// Write man pages
    Manual(ManualArgs),
    /// Print the version, and what this build can do
    Version(VersionArgs),
}

/// What `run` is told.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH)]
    pub config: PathBuf,
    /// What is logged; overrides `log-level` of the configuration
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub log_level: Option<Level>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Run the gateway as a child of this process, which starts it anew when it ends or hangs, and renews
    /// it on `bulkhead restart`. So it is anyway where a wire fails open
    #[arg(long)]
    pub supervise: bool,
    /// This is the child; the standard input is its channel
    #[arg(long, hide = true, conflicts_with = "supervise")]
    pub supervised: bool,
    /// This child takes the place of one that runs
    #[arg(long, hide = true, requires = "supervised")]
    pub takeover: bool,
    /// The child that a supervisor which renewed itself goes on with
    #[arg(long, hide = true, requires = "supervise", value_name = "PID")]
    pub adopt: Option<i32>,
    /// What the supervisor knows, as JSON
    #[arg(long, hide = true, value_name = "JSON")]
    pub history: Option<String>,
}

impl RunArgs {
    /// Whether this process supervises a gateway and is none.
    pub fn is_supervisor(&self, config: &Config) -> bool {
        !self.supervised && (self.supervise || config.open_wires().next().is_some())
    }

    /// What is logged.
    pub fn level(&self, config: &Config) -> Level {
        let configured = Level::from_str(config.log_level.label(), true);
        self.log_level.or(configured.ok()).unwrap_or(Level::Info)
    }

    /// The options of the log, for a child's command line.
    pub fn log_args(&self) -> Vec<String> {
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let mut args = vec![format!("--log-format={}", word(self.log_format.to_possible_value()))];
        if let Some(level) = self.log_level {
            args.push(format!("--log-level={}", word(level.to_possible_value())));
        }
        args
    }
}

/// What `bypass` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "While a wire that fails open is bypassed, every frame passes it unjudged. The supervisor \
    of `bulkhead run` bypasses such wires as soon as the gateway is gone, and the next gateway ends that; \
    by hand it is for maintenance. The kernel's bypass is refused while a gateway has the ports; a \
    `bypass-command` is called whoever has them, and its relays carry frames past a gateway that judges."
)]
pub struct BypassArgs {
    /// What to do
    #[arg(value_name = "ACTION", value_enum, default_value = "show")]
    pub action: BypassAction,
    /// The configuration whose wires are meant
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH)]
    pub config: PathBuf,
    /// Print JSON: how each wire fails, and what is bypassed once this is done
    #[arg(long)]
    pub json: bool,
}

/// What `bypass` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BypassAction {
    /// Say how each wire fails, and which are bypassed.
    Show,
    /// Bypass the wires that fail open, and take away what others have left at those that fail closed.
    Engage,
    /// End that: nothing passes until a gateway runs.
    Release,
}

/// The levels of the log on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[allow(missing_docs, reason = "the levels speak for themselves")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What `check` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Beside mistakes, check reports rules that never decide (impossible, shadowed, \
    contradicted: warnings) or that make no difference (redundant: a note), each with the rules that \
    cause it. What it reports is exact: it holds for every packet at every instant."
)]
pub struct CheckArgs {
    /// Policies, each a file or a folder of *.yaml files; without any, the one that the
    /// configuration names
    #[arg(value_name = "POLICY", required_unless_present = "config")]
    pub policies: Vec<PathBuf>,
    /// A configuration to check too: its wires are then those that rules may name
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Treat warnings as a failure (exit code 3); notes never are
    #[arg(long)]
    pub deny_warnings: bool,
    /// Report rules with different actions that overlap without either matching all that the other
    /// does, too
    #[arg(long)]
    pub correlations: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `explain` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "A packet in words: a protocol, two hosts, and what else matters, for example\n  \
    tcp 10.20.0.11:40000 -> 10.30.3.11:502 vlan 30 wire line3\n  \
    udp [fd00:80::50]:5000 -> [fd00:30:3::1]:161 at 2026-11-24T06:00:00Z\n  \
    icmp echo-request 10.20.0.11 -> 10.30.3.11 from-mac 02:1b:1d:00:30:01\n  \
    eth/0x8892 02:1b:1d:00:30:01 -> 02:1b:1d:00:30:02 vlan 100.30"
)]
pub struct ExplainArgs {
    /// The policy: a file or a folder of *.yaml files
    #[arg(long, short, value_name = "POLICY", required_unless_present = "config")]
    pub policy: Option<PathBuf>,
    /// A configuration whose wires the packet may name, and whose policy is meant without --policy
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say of each rule before the one that decides why it does not match; without it, of the nearest
    #[arg(long, short)]
    pub all: bool,
    /// Exit with 1 unless the verdict is this
    #[arg(long, value_name = "VERDICT", value_enum)]
    pub expect: Option<Expectation>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The packet in words
    #[arg(value_name = "PACKET", required = true, num_args = 1..)]
    pub packet: Vec<String>,
}

/// A verdict that a script expects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Expectation {
    /// The packet may open a flow.
    Allow,
    /// It may not, silently or with an answer.
    Deny,
}

/// What `diff` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "What is compared is verdicts, not texts: every packet that can reach a gateway, at \
    every instant, also while its clock is not synchronised. That a verdict is logged or not makes no \
    difference."
)]
pub struct DiffArgs {
    /// The policy before: a file or a folder of *.yaml files
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The policy after
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// A configuration whose wires rules may name
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The most differences that are printed; the others are counted
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub limit: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `reach` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Hosts and services are written as in a rule: a name, an address, a list, or what is \
    left of one, for example\n  \
    bulkhead reach -p policy.yaml --to plc-line3\n  \
    bulkhead reach -p policy.yaml --to plc-line3 --from '{in: any, except: hmi}' --service tcp/502"
)]
pub struct ReachArgs {
    /// The policy: a file or a folder of *.yaml files
    #[arg(long, short, value_name = "POLICY", required_unless_present = "config")]
    pub policy: Option<PathBuf>,
    /// A configuration whose wires rules may name, and whose policy is meant without --policy
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Who is reached
    #[arg(long, value_name = "HOSTS")]
    pub to: String,
    /// Who reaches
    #[arg(long, value_name = "HOSTS", default_value = "any")]
    pub from: String,
    /// By what
    #[arg(long, value_name = "SERVICES", default_value = "any")]
    pub service: String,
    /// When, such as 2026-11-24T06:00:00Z; now if not given
    #[arg(long, value_name = "INSTANT")]
    pub at: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `doctor` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "It changes nothing.")]
pub struct DoctorArgs {
    /// The configuration whose ports, cores and memory are looked at
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH)]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `schema` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The schemas are JSON Schema 2020-12. A later version may add keys, so readers should ignore \
    those that they do not know; keys that are there keep their names and meanings."
)]
pub struct SchemaArgs {
    /// The command, such as `status` or `audit verify`; all of them without it
    #[arg(value_name = "COMMAND", num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// What `completions` is told.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: CompletionShell,
}

/// What `manual` is told.
#[derive(Args, Clone, Debug)]
pub struct ManualArgs {
    /// The folder that the pages go to
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

/// What `version` is told.
#[derive(Args, Clone, Debug)]
pub struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How `status` and `reload` find the gateway.
#[derive(Args, Clone, Debug)]
pub struct SocketArgs {
    /// The gateway's control socket; without it, the one that the configuration names
    #[arg(long, short, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The gateway's configuration
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH)]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `bindings` is told.
#[derive(Args, Clone, Debug)]
pub struct BindingsArgs {
    /// The gateway
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Let go of this address first, on every network: whoever claims it next has it
    #[arg(long, value_name = "ADDRESS")]
    pub forget: Option<IpAddr>,
}

/// The command line as it is declared, for the parser, pages and completions.
pub(crate) fn command() -> clap::Command {
    exit_codes::documented(Cli::command())
}

/// The words of a command line, of which `->` is no option: the space before it, which whoever reads packets
/// passes over, says so to the parser. Options may so come before and after a packet's words.
fn words(line: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    line.into_iter().map(|word| match word.to_str() {
        Some(arrow) if arrow.starts_with("->") => format!(" {arrow}").into(),
        _ => word,
    })
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let parsed = Cli::from_arg_matches(&command().get_matches_from(words(std::env::args_os())));
    let Cli { command: told } = parsed.unwrap_or_else(|error| error.exit());
    let serves = match &told {
        Command::Run(_) => true,
        Command::Learn(args) => !args.status,
        Command::Console(args) => !args.openapi && !args.setup_link,
        _ => false,
    };
    if !serves {
        broken_pipe::ends_this_process();
    }
    let code = match told {
        Command::Run(args) => run::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Explain(args) => explain::main(&args),
        Command::Diff(args) => diff::main(&args),
        Command::Reach(args) => reach::main(&args),
        Command::Replay(args) => replay::main(&args),
        Command::Learn(args) => learning::main(&args),
        Command::Console(args) => console::main(&args),
        Command::Map(args) => map::main(&args),
        Command::Devices(args) => devices::main(&args),
        Command::Propose(args) => propose::main(&args),
        Command::ExplainRule(args) => explain_rule::main(&args),
        Command::Drift(args) => drift::main(&args),
        Command::Report(args) => report::main(&args),
        #[cfg(feature = "dpdk")]
        Command::Doctor(args) => crate::doctor::main(&args),
        Command::Status(args) => status::main(&args),
        Command::Trace(args) => trace::main(&args),
        Command::Reload(args) => commands::reload(&args),
        Command::Restart(args) => failure::restart::main(&args),
        Command::Bypass(args) => failure::command::main(&args),
        Command::Sign(args) => sign::main(&args),
        Command::Bindings(args) => bindings::report::main(&args),
        Command::Stage(args) => commands::stage(&args),
        Command::Lockdown(args) => commands::lockdown(&args),
        Command::Observe(args) => commands::observe(&args),
        Command::Rollback(args) => commands::rollback(&args),
        Command::History(args) => commands::history(&args),
        Command::Grant(args) => commands::grant(&args),
        Command::Grants(args) => commands::grants(&args),
        Command::Quarantine(args) => commands::quarantine(&args),
        Command::Audit(args) => audit::main(&args),
        Command::Schema(args) => schema::main(&args),
        Command::Completions(args) => generate::completions(&args, command()),
        Command::Manual(args) => generate::manual(&args, command()),
        Command::Version(args) => generate::version(&args),
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_packet_may_come_as_one_word_or_many() {
        for line in [
            "bulkhead explain --policy p tcp 10.0.0.1 -> 10.0.0.2:80",
            "bulkhead explain --policy=p --json 10.0.0.1->10.0.0.2:80 tcp",
            "bulkhead explain tcp 10.0.0.1 ->10.0.0.2:80 --policy p --json",
        ] {
            let Command::Explain(args) = parse(line).unwrap().command else { panic!("{line}") };
            let packet = args.packet.join(" ");
            let read = bulkhead_rules::packet::Packet::read(&packet).unwrap();
            assert_eq!(read.headers.dst_port, 80, "{line}");
            assert!(args.policy.is_some(), "{line}");
        }
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(words(line.split(' ').map(OsString::from)))
    }

    #[test]
    fn options_may_come_after_the_words_of_a_filter() {
        for line in [
            "bulkhead trace --config g.toml --count 5 tcp 10.0.0.1 -> 10.0.0.2",
            "bulkhead trace tcp 10.0.0.1 -> 10.0.0.2 --config g.toml --count 5",
            "bulkhead trace tcp 10.0.0.1 --count 5 -> 10.0.0.2 --config=g.toml",
        ] {
            let Command::Trace(args) = parse(line).unwrap().command else { panic!("{line}") };
            assert_eq!(args.filter.join(" "), "tcp 10.0.0.1  -> 10.0.0.2", "{line}");
            assert_eq!((args.count, args.socket.config), (5, PathBuf::from("g.toml")), "{line}");
        }
        assert!(parse("bulkhead trace 10.0.0.1 --confg g.toml").is_err(), "a word that is none");
    }

    #[test]
    fn check_needs_something_to_check() {
        assert!(Cli::try_parse_from(["bulkhead", "check"]).is_err());
        assert!(Cli::try_parse_from(["bulkhead", "check", "--config", "g.toml"]).is_ok());
    }
}
