//! `bulkhead replay --flows`: recorded flows, judged by another policy.
//!
//! A record is a line of JSON, as the exports write them ([`crate::flow_stream::Flow`], with further
//! fields or without), plain or in gzip. A flow has several records; it counts once. It is judged at
//! the time of its record by the headers that opened it. Where its beginning was not seen, nobody
//! knows which end is the client: then it is enough that the policy permits one of the two ways, as
//! a gateway would take the connection up.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::Path;

use bulkhead_rules::analyze;
use bulkhead_rules::classifier::{Classifier, Scratch};
use bulkhead_rules::headers::{Headers, PolicyTime, VlanTags, WireId};
use bulkhead_rules::packet::in_words;
use bulkhead_rules::policy::{Action, Policy, RuleId};
use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::{Refusal, ReplayArgs};
use crate::candidate;
use crate::cli::exit;
use crate::config::Limits;
use crate::flow_stream::{Flow, Message};
use crate::policy_files::PolicyFiles;

/// The longest line of a record, in bytes.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// Flows that are told from each other; of more, records may count twice.
const MAX_FLOWS: usize = 20_000_000;

/// Lines of one client, server and service that are kept while reading; the report shows fewer.
const MAX_KINDS: usize = 100_000;

/// The most kinds of flows that a report lists, each way.
const MAX_LISTED: usize = 100;

/// What another policy would have done to recorded flows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowsReport {
    /// The policy.
    pub policy: String,
    /// The files.
    pub files: Vec<String>,
    /// Flows, each once.
    pub flows: u64,
    /// Flows that both policies permit.
    pub permitted: u64,
    /// Flows that neither permits.
    pub denied: u64,
    /// Flows that were permitted and would not be.
    pub newly_denied: u64,
    /// Flows that were not permitted and would be.
    pub newly_permitted: u64,
    /// Lines that are no record, and the first such.
    pub malformed: u64,
    /// Where the first line is that is no record.
    pub first_malformed: Option<String>,
    /// What would be denied, the most first.
    pub newly_denied_flows: Vec<Kind>,
    /// What would be permitted, the most first.
    pub newly_permitted_flows: Vec<Kind>,
    /// Kinds of flows beyond those listed.
    pub unlisted: u64,
}

/// Flows of one client, server and service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Kind {
    /// The packet that opens one, in the words of `bulkhead explain`.
    pub flow: String,
    /// How many.
    pub count: u64,
    /// The rule that decided.
    pub was: String,
    /// The rule that would.
    pub rule: String,
    /// The rule that would decide otherwise but for one condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

/// Judges the flows that the command line names. Returns the exit code.
pub(super) fn main(args: &ReplayArgs) -> u8 {
    match replay(args) {
        Ok(report) => {
            if args.json {
                crate::control::client::print_json(&report);
            } else {
                print!("{}", text(&report));
            }
            if report.flows == 0 && report.malformed > 0 { exit::UNAVAILABLE } else { exit::OK }
        }
        Err(Refusal { message, code }) => {
            eprintln!("{message}");
            code
        }
    }
}

/// Judges the flows of files.
///
/// # Errors
///
/// A policy that is not sound, or a file that cannot be read.
pub fn replay(args: &ReplayArgs) -> Result<FlowsReport, Refusal> {
    let limits = Limits::default();
    let files = PolicyFiles::read(&args.policy, &limits).map_err(Refusal::unavailable)?;
    let candidate = candidate::make(&files, None, &limits).map_err(|found| {
        let all: Vec<String> = found.into_iter().map(|finding| finding.rendered).collect();
        Refusal { message: all.join("\n\n"), code: exit::REFUSED }
    })?;
    let mut judge = Judge::new(&candidate.policy, &candidate.classifier);
    for path in &args.flows {
        judge.read(path).map_err(|error| {
            Refusal::unavailable(format!("cannot read {}: {error}", path.display()))
        })?;
    }
    Ok(judge.report(args))
}

/// A line of a record: the flow itself, the message in which it came, or a word about something else.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Flow(Box<Flow>),
    Message(Message),
    Typed {
        #[serde(rename = "type")]
        kind: String,
    },
}

struct Judge<'p> {
    policy: &'p Policy,
    classifier: &'p Classifier,
    scratch: Scratch,
    hasher: RandomState,
    seen: HashSet<u64>,
    kinds: HashMap<(Headers, bool), Kept>,
    report: FlowsReport,
}

struct Kept {
    count: u64,
    headers: Headers,
    at: PolicyTime,
    was: String,
    rule: RuleId,
}

impl<'p> Judge<'p> {
    fn new(policy: &'p Policy, classifier: &'p Classifier) -> Self {
        Self {
            policy,
            classifier,
            scratch: Scratch::default(),
            hasher: RandomState::new(),
            seen: HashSet::new(),
            kinds: HashMap::new(),
            report: FlowsReport::default(),
        }
    }

    fn read(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = open(path)?;
        self.report.files.push(path.display().to_string());
        let (mut line, mut number) = (Vec::new(), 0_u64);
        loop {
            line.clear();
            number += 1;
            if reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
                skip_line(&mut reader)?;
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match serde_json::from_slice::<Line>(&line) {
                Ok(Line::Flow(flow) | Line::Message(Message::Flow(flow))) => self.judge(&flow),
                Ok(Line::Message(_)) => {}
                Ok(Line::Typed { kind }) if kind != "flow" => {}
                Ok(Line::Typed { .. }) => {
                    self.is_malformed(path, number, "a flow without its fields")
                }
                Err(error) => self.is_malformed(path, number, error),
            }
        }
    }

    fn is_malformed(&mut self, path: &Path, line: u64, why: impl std::fmt::Display) {
        self.report.malformed += 1;
        let place = || format!("{}:{line}: {why}", path.display());
        self.report.first_malformed.get_or_insert_with(place);
    }

    fn judge(&mut self, flow: &Flow) {
        let headers = self.headers(flow);
        if self.seen.len() < MAX_FLOWS
            && !self.seen.insert(self.hasher.hash_one((headers, flow.first_ms)))
        {
            return;
        }
        let at = PolicyTime { unix_ms: flow.last_ms, synchronised: true };
        let mut rule = self.ask(&headers, at);
        if !flow.opening_seen && !self.permits(rule) {
            let other = self.ask(&headers.reversed(), at);
            if self.permits(other) {
                rule = other;
            }
        }
        self.report.flows += 1;
        let counter = match (flow.allowed, self.permits(rule)) {
            (true, true) => &mut self.report.permitted,
            (false, false) => &mut self.report.denied,
            (true, false) => &mut self.report.newly_denied,
            (false, true) => &mut self.report.newly_permitted,
        };
        *counter += 1;
        if flow.allowed == self.permits(rule) {
            return;
        }
        let alike = (Headers { src_port: 0, ..headers }, flow.allowed);
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&alike) {
            self.report.unlisted += 1;
            return;
        }
        let was = || flow.reason.clone().unwrap_or_default();
        let was = if flow.rule.is_empty() { was() } else { flow.rule.clone() };
        let kept = Kept { count: 0, headers, at, was, rule };
        self.kinds.entry(alike).or_insert(kept).count += 1;
    }

    /// What opened the flow. A wire that no rule names is as good as any other.
    fn headers(&self, flow: &Flow) -> Headers {
        let wire = self.policy.wires().iter().position(|wire| **wire == *flow.wire);
        let wire = wire.unwrap_or(self.policy.wires().len());
        let address = |address: Option<IpAddr>| match address {
            Some(IpAddr::V4(address)) => u128::from(u32::from(address)),
            Some(IpAddr::V6(address)) => u128::from(address),
            None => 0,
        };
        let [outer, inner] = flow.vlan;
        Headers {
            src: address(flow.client),
            dst: address(flow.server),
            src_port: flow.client_port,
            dst_port: flow.server_port,
            ether_type: flow.ether_type,
            protocol: flow.protocol,
            src_mac: flow.client_mac.0,
            dst_mac: flow.server_mac.0,
            wire: WireId(u16::try_from(wire).unwrap_or(u16::MAX)),
            tags: VlanTags { outer, inner },
        }
    }

    fn ask(&mut self, headers: &Headers, at: PolicyTime) -> RuleId {
        let mut rule = [RuleId::DEFAULT];
        let headers = std::slice::from_ref(headers);
        self.classifier.classify(headers, at, &mut self.scratch, &mut rule);
        rule[0]
    }

    fn permits(&self, rule: RuleId) -> bool {
        self.classifier.action(rule) == Action::Allow
    }

    fn report(mut self, args: &ReplayArgs) -> FlowsReport {
        self.report.policy = args.policy.display().to_string();
        let mut kinds: Vec<((Headers, bool), Kept)> = self.kinds.drain().collect();
        kinds.sort_by_key(|((alike, _), kept)| {
            let h = *alike;
            (std::cmp::Reverse(kept.count), h.src, h.dst, h.protocol, h.dst_port)
        });
        for ((_, was_allowed), kept) in kinds {
            let list = match was_allowed {
                true => &mut self.report.newly_denied_flows,
                false => &mut self.report.newly_permitted_flows,
            };
            if list.len() >= MAX_LISTED {
                self.report.unlisted += 1;
                continue;
            }
            list.push(Kind {
                flow: in_words(&kept.headers, self.policy.wires()),
                count: kept.count,
                was: kept.was,
                rule: self.policy.rule_name(kept.rule).to_owned(),
                nearest: if was_allowed {
                    nearest(self.policy, &kept.headers, kept.at)
                } else {
                    None
                },
            });
        }
        self.report
    }
}

fn nearest(policy: &Policy, headers: &Headers, at: PolicyTime) -> Option<String> {
    let explanation = analyze::explain(policy, headers, at);
    let nearest = explanation.nearest(policy, 1);
    let miss = nearest.first().filter(|miss| miss.failed.len() == 1)?;
    Some(format!("{}, but for its {}", policy.rule_name(miss.rule), miss.failed.first()?))
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut reader = BufReader::new(File::open(path)?);
    let is_gzip = reader.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(match is_gzip {
        true => Box::new(BufReader::new(MultiGzDecoder::new(reader))),
        false => Box::new(reader),
    })
}

fn skip_line(reader: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let bytes = reader.fill_buf()?;
        let (len, end) = (bytes.len(), bytes.iter().position(|&byte| byte == b'\n'));
        reader.consume(end.map_or(len, |end| end + 1));
        if end.is_some() || len == 0 {
            return Ok(());
        }
    }
}

fn text(report: &FlowsReport) -> String {
    let mut out = format!(
        "{} flows by {}: {} permitted before and by it, {} denied by both\n",
        report.flows, report.policy, report.permitted, report.denied
    );
    for (title, count, kinds) in [
        ("WOULD BE DENIED", report.newly_denied, &report.newly_denied_flows),
        ("WOULD BE PERMITTED", report.newly_permitted, &report.newly_permitted_flows),
    ] {
        out.push_str(&format!("\n{title}: {count}\n"));
        for kind in kinds {
            let near =
                kind.nearest.as_ref().map_or_else(String::new, |n| format!("; nearest: {n}"));
            out.push_str(&format!(
                "{:>10}  {}\n            was {}, now {}{near}\n",
                kind.count, kind.flow, kind.was, kind.rule
            ));
        }
    }
    if report.unlisted > 0 {
        out.push_str(&format!("{} more are counted and not listed\n", report.unlisted));
    }
    if let Some(first) = &report.first_malformed {
        out.push_str(&format!(
            "{} lines are no flow records; the first: {first}\n",
            report.malformed
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::io::Write as _;

    use clap::Parser;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ReplayArgs,
    }

    const POLICY: &str = "version: 1\nrules:\n  - {name: work, from: 10.20.0.11, to: 10.30.3.11, service: \
                          tcp/502, action: allow}\n";

    /// A record as the exports write it.
    fn record(client: &str, server: &str, ports: (u16, u16), seen: bool, allowed: bool) -> String {
        serde_json::json!({
            "event": "started", "first-ms": 1000, "last-ms": 1000, "wire": "line3",
            "client-side": "outside", "vlan": [30, 0], "ether-type": 0x0800, "protocol": 6,
            "client": client, "server": server, "client-port": ports.0, "server-port": ports.1,
            "client-mac": "02:00:00:00:00:01", "server-mac": "02:00:00:00:00:02",
            "opening-seen": seen, "answered": true, "client-packets": 1, "server-packets": 1,
            "client-bytes": 60, "server-bytes": 60, "end": null, "allowed": allowed,
            "reason": null, "rule": "old", "epoch": 1, "enforced": true, "staged": null,
            "community-id": "1:x",
        })
        .to_string()
    }

    fn replayed(lines: &[u8]) -> FlowsReport {
        let dir = tempfile::tempdir().unwrap();
        let (policy, flows) = (dir.path().join("p.yaml"), dir.path().join("flows.jsonl"));
        std::fs::write(&policy, POLICY).unwrap();
        std::fs::write(&flows, lines).unwrap();
        let (policy, flows) = (policy.display().to_string(), flows.display().to_string());
        let line = ["replay", "--policy", &policy, "--flows", &flows];
        let line = Line::try_parse_from(line).unwrap_or_else(|e| panic!("{e}"));
        replay(&line.args).unwrap_or_else(|refusal| panic!("{}", refusal.message))
    }

    #[test]
    fn each_flow_counts_once_and_differences_name_the_nearest_rule() {
        let (hmi, plc) = ("10.20.0.11", "10.30.3.11");
        let message = format!("{{\"flow\":{}}}", record(hmi, plc, (3, 502), true, false));
        let lines = [
            record(hmi, plc, (1, 502), true, true),
            record(hmi, plc, (1, 502), true, true).replace("started", "ended"),
            record(hmi, plc, (2, 503), true, true),
            record(hmi, plc, (4, 503), true, true),
            record(plc, hmi, (502, 5), false, true),
            record(plc, hmi, (502, 6), true, false),
            message,
            "{\"lost\":{\"flows\":1,\"frames\":0}}".to_owned(),
            "{\"type\":\"lost\",\"flows\":1,\"frames\":0}".to_owned(),
            "{\"type\":\"flow\",\"event\":\"started\"}".to_owned(),
            "nonsense".to_owned(),
            String::new(),
        ];
        let report = replayed(lines.join("\n").as_bytes());
        assert_eq!((report.flows, report.permitted, report.denied), (6, 2, 1), "{report:?}");
        assert_eq!((report.newly_denied, report.newly_permitted, report.malformed), (2, 1, 2));
        let [kind] = &report.newly_denied_flows[..] else { panic!("{report:?}") };
        assert_eq!((kind.count, kind.was.as_str(), kind.rule.as_str()), (2, "old", "default"));
        assert_eq!(kind.nearest.as_deref(), Some("work, but for its service"));
        assert!(report.first_malformed.is_some_and(|first| first.contains(":10: ")));
    }

    #[test]
    fn gzip_is_read_and_an_endless_line_is_one_mistake() {
        let record = record("10.20.0.11", "10.30.3.11", (1, 502), true, true);
        let text = format!("{}\n{record}\n", "x".repeat(3 * MAX_LINE_BYTES as usize));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        for bytes in [text.clone().into_bytes(), encoder.finish().unwrap()] {
            let report = replayed(&bytes);
            assert_eq!((report.flows, report.permitted, report.malformed), (1, 1, 1));
        }
    }
}
