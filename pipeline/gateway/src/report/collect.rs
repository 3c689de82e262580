//! Asks the gateway, reads the store, and notes what could not be had.

use std::path::Path;
use std::sync::Arc;

use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::syntax::Source;

use super::observed::instant;
use super::{
    AuditState, Change, Conduit, Exception, FORMAT, PolicyInForce, Report, ReportArgs, Scope,
    Telemetry, Unavailable, WireInScope, observed, policy, standards,
};
use crate::audit::{Entry, Who};
use crate::candidate::unix_now_ms;
use crate::config::{ClockTrust, Config, Limits};
use crate::control::client::{ANOTHER_QUESTION, ask};
use crate::control::questions::{AuditPage, PolicyShown, RulesReport, Which};
use crate::control::{Answer, Ask};
use crate::learning::report::{self as store, Range, Reader, Refusal};
use crate::policy_files::PolicyFiles;
use crate::status::{PortStatus, Status};
use crate::workflow::commands::Exceptions;

/// Pages of the audit log that are asked for at most, and the entries of one.
const MAX_PAGES: usize = 20;
const PAGE: usize = 500;

/// Words of the audit log that are about the gateway's own state, not about its policy.
const EVENTS: [&str; 6] = ["start", "stop", "mode", "lockdown", "log", "failure"];

/// What a report is made from, and of which time it is.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The configuration, or why there is none.
    pub config: Result<&'a Config, String>,
    /// The gateway's control socket; without it, the one that the configuration names.
    pub socket: Option<&'a Path>,
    /// The communication store: its file or its folder; without it, the one that the configuration names.
    pub store: Option<&'a Path>,
    /// The time that is looked at.
    pub range: Range,
}

/// Makes the report that a command line asks for.
///
/// # Errors
///
/// A time that makes no sense, or that neither gateway nor store can be read.
pub fn collect(args: &ReportArgs) -> Result<Report, Refusal> {
    let now_ms = unix_now_ms().unwrap_or_default();
    let time = |text: &Option<String>| match text {
        Some(text) => store::instant(text, now_ms).map(Some).map_err(Refusal::refused),
        None => Ok(None),
    };
    let (since, until) = (time(&args.store.since)?, time(&args.store.until)?);
    let range = Range { since_ms: since.unwrap_or(i64::MIN), until_ms: until.unwrap_or(i64::MAX) };
    let config = Config::load(&args.store.config);
    collect_from(&Inputs {
        config: config.as_ref().map_err(|error| first_line(&error.to_string())),
        socket: args.socket.as_deref(),
        store: args.store.store.as_deref(),
        range,
    })
}

/// Makes a report.
///
/// # Errors
///
/// That neither gateway nor store can be read.
pub fn collect_from(inputs: &Inputs<'_>) -> Result<Report, Refusal> {
    let now_ms = unix_now_ms().unwrap_or_default();
    let range = inputs.range;
    let bound = |ms: i64| (![i64::MIN, i64::MAX].contains(&ms)).then(|| instant(ms)).flatten();
    let mut report = Report {
        format: FORMAT,
        made: instant(now_ms).unwrap_or_default(),
        made_by: format!("bulkhead {}", env!("CARGO_PKG_VERSION")),
        host: Some(rustix::system::uname().nodename().to_string_lossy().into_owned()),
        since: bound(range.since_ms),
        until: bound(range.until_ms),
        not_shown: standards::not_shown(),
        standards: standards::requirements(),
        ..Report::default()
    };
    if let Err(why) = &inputs.config {
        report.lacks("the configuration", why.clone());
    }
    let config = inputs.config.as_ref().ok().copied();
    let socket = inputs.socket.or(config.map(|config| config.control_socket.as_path()));
    let mut made = Made { report, config, now_ms, range, sources: Vec::new() };
    made.of_gateway(socket.ok_or("nothing says where its control socket is"));
    made.of_store(inputs.store.or(config.map(|config| config.learn.folder.as_path())));
    let is_empty = made.report.scope.gateway.is_none() && made.report.observed.is_none();
    if is_empty {
        let whys = made.report.unavailable.iter().map(|u| format!("{}: {}", u.what, u.why));
        return Err(Refusal::unavailable(whys.collect::<Vec<_>>().join("\n  ")));
    }
    Ok(made.report)
}

impl Report {
    /// Notes what could not be had.
    fn lacks(&mut self, what: &str, why: impl Into<String>) {
        self.unavailable.push(Unavailable { what: what.to_owned(), why: why.into() });
    }
}

struct Made<'a> {
    report: Report,
    config: Option<&'a Config>,
    now_ms: i64,
    range: Range,
    /// The texts of the policy in force, or of the files where the gateway does not tell.
    sources: Vec<Source>,
}

impl Made<'_> {
    fn of_gateway(&mut self, socket: Result<&Path, &str>) {
        let asked = |question| match socket {
            Ok(socket) => ask(socket, question),
            Err(why) => Err(why.to_owned()),
        };
        self.report.scope.clock_source = self.config.map(|config| match config.clock {
            ClockTrust::Kernel => "kernel".to_owned(),
            ClockTrust::Trusted => "trusted".to_owned(),
        });
        let status = match asked(Ask::Status {}) {
            Ok(Answer::Status(status)) => Ok(status),
            other => Err(why_not(other)),
        };
        match &status {
            Ok(status) => self.status(status),
            Err(why) => {
                let what = "scope, policy in force, counters, exceptions, changes (the gateway)";
                self.report.lacks(what, why.clone());
            }
        }
        let texts = match asked(Ask::Policy { which: Which::InForce }) {
            Ok(Answer::Policy(shown)) => Some(shown),
            _ => None,
        };
        self.policy(texts.map(|shown| *shown));
        if status.is_err() {
            return;
        }
        match asked(Ask::Rules {}) {
            Ok(Answer::Rules(rules)) => self.hits(&rules),
            other => self.report.lacks("how often rules decided", why_not(other)),
        }
        match asked(Ask::Exceptions {}) {
            Ok(Answer::Exceptions(exceptions)) => self.exceptions(*exceptions),
            other => self.report.lacks("grants and quarantines", why_not(other)),
        }
        let mut before = None;
        for nth in 0..MAX_PAGES {
            match asked(Ask::Audit { before, limit: PAGE }) {
                Ok(Answer::Audit(page)) => {
                    before = page.entries.last().map(|entry| entry.sequence);
                    if !self.audit(*page, nth + 1 == MAX_PAGES) {
                        break;
                    }
                }
                other => {
                    self.report.lacks("the audit log", why_not(other));
                    break;
                }
            }
        }
        self.report.events.reverse();
        self.report.changes.reverse();
    }

    fn status(&mut self, status: &Status) {
        let report = &mut self.report;
        let scope = Scope {
            gateway: Some(status.version.clone()),
            uptime_s: Some(status.uptime_s),
            clock_source: report.scope.clock_source.take(),
            clock_synchronised: status.policy.as_ref().map(|policy| policy.clock_synchronised),
            wires: Vec::new(),
        };
        report.scope = scope;
        let configured = self.config.map_or(&[][..], |config| config.wires.as_slice());
        let fail = |name: &str| {
            let wire = configured.iter().find(|wire| wire.name == name)?;
            Some(wire.failure.fail.label().to_owned())
        };
        let port = |port: &PortStatus| [&port.device, &port.driver, &port.link].map(Clone::clone);
        let wires = status.wires.iter().map(|wire| WireInScope {
            name: wire.name.clone(),
            mode: wire.mode.clone(),
            fail: fail(&wire.name),
            inside: port(&wire.inside),
            outside: port(&wire.outside),
            received: wire.inside.received + wire.outside.received,
            dropped: wire.inside.dropped + wire.outside.dropped,
            would_drop: wire.inside.would_drop + wire.outside.would_drop,
        });
        report.scope.wires = wires.collect();
        report.policy = status.policy.as_ref().map(|policy| PolicyInForce {
            source: policy.source.clone(),
            hash: policy.hash.clone(),
            rules: policy.rules,
            age_s: policy.age_s,
            fallback: policy.fallback,
            standing: status.standing.clone(),
        });
        if report.policy.is_none() {
            report.lacks("the policy in force", "there is none: the ports are down");
        }
        report.telemetry = Some(Telemetry {
            in_flight: Some(status.in_flight),
            gateway_lost: Some(status.telemetry_lost),
            ..Telemetry::default()
        });
    }

    /// Zones, conduits and denial, from the texts in force or else from the files.
    fn policy(&mut self, shown: Option<PolicyShown>) {
        let limits = self.config.map_or_else(Limits::default, |config| config.limits.clone());
        let names: Vec<String>;
        match (shown, self.config) {
            (Some(shown), _) => {
                let sources = shown.files.iter();
                self.sources =
                    sources.map(|f| Source::new(f.name.as_str(), f.text.as_str())).collect();
                names = shown.wires;
            }
            (None, Some(config)) => match PolicyFiles::read(&config.policy, &limits) {
                Ok(files) => {
                    let what = "the texts of the policy in force";
                    let why = "the gateway does not tell: zones, conduits and default denial are those \
                               of the files, whether they are in force or not";
                    self.report.lacks(what, why);
                    self.sources = files.sources;
                    names = config.wires.iter().map(|wire| wire.name.clone()).collect();
                }
                Err(error) => {
                    return self.report.lacks("zones, conduits, default denial", error.to_string());
                }
            },
            (None, None) => {
                let why = "neither the gateway nor the configuration can be asked for the policy";
                return self.report.lacks("zones, conduits, default denial", why);
            }
        }
        let wires: Vec<Arc<str>> = names.iter().map(|name| Arc::from(name.as_str())).collect();
        let now = PolicyTime {
            unix_ms: self.now_ms,
            synchronised: self.report.scope.clock_synchronised.unwrap_or(true),
        };
        match policy::declared(&self.sources, &wires, &limits, now) {
            Ok(declared) => {
                if declared.zones_left_out > 0 {
                    let left = declared.zones_left_out;
                    let why = format!("there are {left} groups more than one report analyses");
                    self.report.lacks("what may be opened to every group", why);
                }
                self.report.zones = declared.zones;
                self.report.conduits = declared.conduits;
                self.report.default_deny = Some(declared.default_deny);
            }
            Err(why) => self.report.lacks("zones, conduits, default denial", why),
        }
    }

    fn hits(&mut self, rules: &RulesReport) {
        let hits = |name: &str| {
            let rule = rules.rules.iter().find(|rule| rule.name == name)?;
            Some(rule.enforced + rule.observed)
        };
        for conduit in &mut self.report.conduits {
            conduit.hits = hits(&conduit.rule);
        }
        if let Some(denial) = &mut self.report.default_deny {
            denial.hits = hits("default");
        }
    }

    fn exceptions(&mut self, exceptions: Exceptions) {
        let grants = exceptions.grants.into_iter().map(|grant| Exception {
            kind: "grant".to_owned(),
            what: format!("{}: {} to {}, {}", grant.name, grant.from, grant.to, grant.service),
            who: named(&grant.who),
            reason: Some(grant.reason),
            since: instant(grant.since_unix_ms),
            until: instant(grant.expires_unix_ms),
        });
        self.report.exceptions.extend(grants);
        let quarantines = exceptions.quarantines.into_iter().map(|quarantine| Exception {
            kind: "quarantine".to_owned(),
            what: match quarantine.allow.as_slice() {
                [] => quarantine.device,
                allow => format!("{}, but for {}", quarantine.device, allow.join(", ")),
            },
            who: named(&quarantine.who),
            reason: quarantine.reason,
            since: instant(quarantine.since_unix_ms),
            until: None,
        });
        self.report.exceptions.extend(quarantines);
    }

    /// Takes in a page, the latest entries first. Returns whether an earlier one may matter.
    fn audit(&mut self, page: AuditPage, is_last: bool) -> bool {
        let mut state = self
            .report
            .audit
            .take()
            .unwrap_or(AuditState { verified: true, ..AuditState::default() });
        state.verified &= page.verified;
        state.broken = state.broken.or(page.broken);
        let mut goes_on = page.more && !page.entries.is_empty();
        for entry in page.entries {
            let at = entry.time.parse::<jiff::Timestamp>();
            let at_ms = at.map_or(self.now_ms, |at| at.as_millisecond());
            if at_ms < self.range.since_ms {
                goes_on = false;
                break;
            }
            if at_ms >= self.range.until_ms {
                continue;
            }
            state.entries += 1;
            let is_event = EVENTS.contains(&entry.what.as_str());
            let list = if is_event { &mut self.report.events } else { &mut self.report.changes };
            list.push(change(entry));
        }
        state.more = goes_on && is_last;
        self.report.audit = Some(state);
        goes_on
    }

    fn of_store(&mut self, path: Option<&Path>) {
        let what = "assets, declared against observed, last hits (the communication store)";
        let Some(path) = path else {
            return self.report.lacks(what, "nothing says where it is: --store or --config");
        };
        let reader = match Reader::open_path(path, self.range) {
            Ok(reader) => reader,
            Err(error) => return self.report.lacks(what, first_line(&error.to_string())),
        };
        match observed::assets(&reader, &self.sources) {
            Ok(assets) => self.report.assets = assets,
            Err(error) => self.report.lacks("assets", first_line(&error.to_string())),
        }
        let mut conduits: Vec<Conduit> = std::mem::take(&mut self.report.conduits);
        match observed::observed(&reader, &mut conduits) {
            Ok(observed) => self.report.observed = Some(observed),
            Err(error) => {
                self.report.lacks("declared against observed", first_line(&error.to_string()));
            }
        }
        self.report.conduits = conduits;
        match reader.counters() {
            Ok(counters) => {
                let telemetry = self.report.telemetry.get_or_insert_with(Telemetry::default);
                telemetry.store = counters;
            }
            Err(error) => {
                self.report.lacks("losses of the store", first_line(&error.to_string()));
            }
        }
    }
}

fn why_not(answer: Result<Answer, String>) -> String {
    match answer {
        Ok(Answer::Error(error)) | Err(error) => first_line(&error),
        Ok(_) => ANOTHER_QUESTION.to_owned(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn named(who: &Who) -> String {
    match &who.on_behalf_of {
        Some(user) => format!("{user} (by {})", who.name),
        None => who.name.clone(),
    }
}

fn change(entry: Entry) -> Change {
    let policies = (entry.policy_before != entry.policy_after)
        .then(|| [entry.policy_before, entry.policy_after].map(|hash| hash.unwrap_or_default()));
    Change {
        sequence: entry.sequence,
        who: named(&entry.who),
        time: entry.time,
        about: entry.what,
        detail: entry.detail,
        reason: entry.reason,
        policies,
    }
}
