//! `bulkhead report`: evidence of what a gateway does, for auditors and for programs.
//!
//! Everything in it was asked of the running gateway over its control socket, read in the communication
//! store, or computed from the policy's text; nothing is guessed. What could not be had is listed under
//! `unavailable`, with the reason, and what no such report can show under `not-shown`. The JSON form is
//! [`Report`]; the console prints the same.
//!
//! [`collect`] asks, [`policy`] and [`observed`] compute, [`page`] puts it into sections, which
//! [`page::text`] and [`html`] print.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cli::exit;
use crate::control::client::print_json;
use crate::learning::report::StoreArgs;

pub mod collect;
pub mod html;
pub mod observed;
pub mod page;
pub mod policy;
pub mod standards;

/// The version of the JSON form: it grows when a reader of the old form would misread the new one.
pub const FORMAT: u32 = 1;

/// What `report` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "It asks the running gateway, reads the communication store, and changes nothing. \
    What it cannot have it lists as unavailable, and goes on. The HTML form needs nothing else to be \
    read or printed."
)]
pub struct ReportArgs {
    /// The store and the time that is looked at
    #[command(flatten)]
    pub store: StoreArgs,
    /// The gateway's control socket; without it, the one that the configuration names
    #[arg(long, short, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How it is written
    #[arg(long, value_enum, default_value = "text", conflicts_with = "json")]
    pub format: ReportFormat,
    /// Print JSON, as with --format json
    #[arg(long)]
    pub json: bool,
}

/// How a report is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ReportFormat {
    /// For a terminal.
    Text,
    /// For programs.
    Json,
    /// For a browser, and for paper.
    Html,
}

/// Evidence of what a gateway does.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The version of this form: [`FORMAT`].
    pub format: u32,
    /// When it was made (RFC 3339, UTC).
    pub made: String,
    /// The version of the program that made it.
    pub made_by: String,
    /// The host that it was made on.
    pub host: Option<String>,
    /// The time that observations and changes are of: its first instant; absent where it is not bounded.
    pub since: Option<String>,
    /// The first instant after it, likewise.
    pub until: Option<String>,
    /// What it is about.
    pub scope: Scope,
    /// The policy in force.
    pub policy: Option<PolicyInForce>,
    /// Who is there, by what was heard of them.
    pub assets: Vec<Asset>,
    /// The groups of the policy.
    pub zones: Vec<Zone>,
    /// What the policy permits between them.
    pub conduits: Vec<Conduit>,
    /// That everything else is denied.
    pub default_deny: Option<DefaultDeny>,
    /// What was seen, against what is declared.
    pub observed: Option<Observed>,
    /// Grants and quarantines.
    pub exceptions: Vec<Exception>,
    /// Starts, stops, and changes of modes and of what happens on failure.
    pub events: Vec<Change>,
    /// Who changed what else.
    pub changes: Vec<Change>,
    /// Whether the audit log is whole.
    pub audit: Option<AuditState>,
    /// What is missing in the records that all of this rests on.
    pub telemetry: Option<Telemetry>,
    /// What could not be had, and why.
    pub unavailable: Vec<Unavailable>,
    /// What it does not show.
    pub not_shown: Vec<String>,
    /// Which requirements of which standards the sections speak to.
    pub standards: Vec<Requirement>,
}

/// What a report is about.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Scope {
    /// The gateway's version.
    pub gateway: Option<String>,
    /// Seconds since it started: counters are of that time.
    pub uptime_s: Option<u64>,
    /// Where its clock's word is taken from: `kernel` (an NTP or PTP daemon has told it) or `trusted`.
    pub clock_source: Option<String>,
    /// Whether it counts as synchronised.
    pub clock_synchronised: Option<bool>,
    /// Its wires.
    pub wires: Vec<WireInScope>,
}

/// A wire.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct WireInScope {
    /// Its name.
    pub name: String,
    /// `observe` or `enforce`.
    pub mode: String,
    /// What becomes of it while no gateway judges it, by the configuration: `closed` or `open`; absent
    /// where that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<String>,
    /// The device of the port towards the protected side, its driver and its link.
    pub inside: [String; 3],
    /// The same of the other port.
    pub outside: [String; 3],
    /// Frames that came in.
    pub received: u64,
    /// Frames that were dropped.
    pub dropped: u64,
    /// Frames that an enforcing wire would have dropped.
    pub would_drop: u64,
}

/// The policy in force.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = PolicyReported)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyInForce {
    /// Where it was read from.
    pub source: String,
    /// The hash of its files (SHA-256 over names and texts).
    pub hash: String,
    /// Its rules.
    pub rules: usize,
    /// Seconds since it was accepted.
    pub age_s: u64,
    /// Whether the last accepted policy stands in for bad files.
    pub fallback: bool,
    /// What commands have added to it or put in its place, in words.
    pub standing: Vec<String>,
}

/// A host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Asset {
    /// What it is called by itself or by DNS: nobody vouches for that.
    pub name: Option<String>,
    /// Its MAC address; absent behind a router.
    pub mac: Option<String>,
    /// Who made it, by its MAC address.
    pub vendor: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// `router`, `server`, `client` or `both`.
    pub role: String,
    /// The wire, and the side of it, where it was seen last.
    pub place: String,
    /// The groups of the policy that it is in.
    pub zones: Vec<String>,
    /// When it was seen first.
    pub first_seen: Option<String>,
    /// And last.
    pub last_seen: Option<String>,
}

/// A group or a device of the policy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// `group` or `device`.
    pub kind: String,
    /// What belongs to it, as it is written.
    pub members: Vec<String>,
    /// What does not, although it belongs to one of these.
    pub except: Vec<String>,
}

/// A rule that permits something.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Conduit {
    /// The rule's name.
    pub rule: String,
    /// Where it is written.
    pub at: String,
    /// Who may open.
    pub from: String,
    /// To whom.
    pub to: String,
    /// Whether either side may.
    pub either_way: bool,
    /// What.
    pub service: String,
    /// Why, as its `reason` says.
    pub purpose: Option<String>,
    /// Words of the purpose that look like the numbers of tickets.
    pub tickets: Vec<String>,
    /// Who answers for it. The policy language has no place for that: always absent for now.
    pub owner: Option<String>,
    /// From when on.
    pub starts: Option<String>,
    /// Until when.
    pub expires: Option<String>,
    /// How often it decided since the gateway's start, or since the rule came, on any wire.
    pub hits: Option<u64>,
    /// When it let something through last, by the communication store.
    pub last_hit: Option<String>,
}

/// That everything that is not permitted is denied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DefaultDeny {
    /// What happens where no rule matches: `deny`.
    pub default: String,
    /// How often that happened, on any wire.
    pub hits: Option<u64>,
    /// The policy's assertions, decided for every packet.
    pub assertions: Vec<Assertion>,
    /// All that the policy lets anybody open to each of its groups, by analysis of the whole policy:
    /// what is not listed is denied.
    pub reach: Vec<ZoneReach>,
}

/// An assertion.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Assertion {
    /// Whether it is proved.
    pub holds: bool,
    /// It, and what was found.
    pub says: String,
}

/// All that may be opened to a group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ZoneReach {
    /// The group.
    pub zone: String,
    /// Who may open what, by which rule.
    pub access: Vec<ZoneAccess>,
    /// Whether that is all; otherwise finding the rest takes too much work.
    pub complete: bool,
}

/// What a rule lets somebody open.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ZoneAccess {
    /// Who may open.
    pub from: String,
    /// What.
    pub service: String,
    /// The rule.
    pub rule: String,
}

/// What was seen, against what is declared.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Observed {
    /// Conversations (client, server, service) that were seen.
    pub conversations: u64,
    /// Of these, those that the policy permitted when they were seen.
    pub permitted: u64,
    /// Rules that permit what nobody used in this time.
    pub unused: Vec<String>,
    /// Conversations that no rule permitted: denied, or let through because their wire observed.
    pub not_permitted: Vec<Conversation>,
    /// How many more of them there are.
    pub more: u64,
}

/// Who tried to talk to whom.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Conversation {
    /// Who opened.
    pub client: String,
    /// To whom.
    pub server: String,
    /// What.
    pub service: String,
    /// Packets that were denied.
    pub denied_packets: u64,
    /// Flows that an observing wire let through.
    pub let_through: u64,
    /// The rule that decided last.
    pub rule: String,
    /// When it was seen last.
    pub last_seen: Option<String>,
}

/// A grant or a quarantine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Exception {
    /// `grant` or `quarantine`.
    pub kind: String,
    /// What it permits or forbids, in words.
    pub what: String,
    /// Who made it.
    pub who: String,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<String>,
    /// Until when; absent where it has no end.
    pub until: Option<String>,
}

/// An entry of the audit log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// Its number.
    pub sequence: u64,
    /// When.
    pub time: String,
    /// Who.
    pub who: String,
    /// What it is about, in a word.
    pub about: String,
    /// What happened.
    pub detail: String,
    /// Why.
    pub reason: Option<String>,
    /// The hashes of the policy before and after, where it changed.
    pub policies: Option<[String; 2]>,
}

/// Whether the audit log is whole.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AuditState {
    /// Whether the hash chain holds over the files that the entries of this report are in.
    pub verified: bool,
    /// What is wrong with it.
    pub broken: Option<String>,
    /// Entries that this report has.
    pub entries: u64,
    /// Whether there are earlier ones in the time asked for that it leaves out.
    pub more: bool,
}

/// What is missing in the records that the report rests on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Telemetry {
    /// Frames received and originated, less those that were sent, dropped or are held: those that
    /// workers had in their hands. Nothing is lost uncounted while this is small and comes and goes.
    pub in_flight: Option<i64>,
    /// Flow records, copies and log events that the gateway lost since its start.
    pub gateway_lost: Option<u64>,
    /// What the communication store's keeper counted, since the store was made.
    pub store: std::collections::BTreeMap<String, u64>,
}

/// What could not be had.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Unavailable {
    /// The part of the report that is missing.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A requirement of a standard that the report speaks to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Requirement {
    /// The standard.
    pub standard: String,
    /// The requirement.
    pub requirement: String,
    /// What of this report speaks to it.
    pub evidence: String,
    /// What of it this report does not speak to.
    pub remains: String,
}

/// Makes a report and prints it. Returns the exit code.
pub fn main(args: &ReportArgs) -> u8 {
    let report = match collect::collect(args) {
        Ok(report) => report,
        Err(refusal) => {
            eprintln!("{}", refusal.message);
            return refusal.code;
        }
    };
    match if args.json { ReportFormat::Json } else { args.format } {
        ReportFormat::Json => print_json(&report),
        ReportFormat::Text => print!("{}", page::text(&report)),
        ReportFormat::Html => print!("{}", html::html(&report)),
    }
    exit::OK
}
