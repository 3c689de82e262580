//! Golden cases: what a policy means, packet by packet, in the data files beside this one, each on
//! every engine.
//!
//! A file is a list of `[[policy]]` tables: `name`, the policy's `text`, optionally the gateway's
//! `wires`, the addresses that are `bound` (`MAC ADDRESS` and where the host has it, as packets say
//! it: `wire cell vlan 30`), the instant `now` (else [`NOW`]; a packet can say `at …` itself), `synchronised = false`
//! for an untrusted clock, and `cases`: pairs of a packet in words (as for `bulkhead explain`) and
//! the expected verdict with the name of the rule, such as `"allow hmi-to-plc"` or `"deny default"`.

mod worker;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_rules::classifier::{MAX_BATCH, Scratch};
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::headers::{Headers, Mac, PolicyTime, WireId};
use bulkhead_rules::oracle;
use bulkhead_rules::packet::Packet;
use bulkhead_rules::policy::{Action, Bindings, BoundAddress, Link, LoadOptions, Policy, RuleId};
use bulkhead_rules::syntax::Source;
use serde::Deserialize;

/// When packets are judged that do not say when.
const NOW: &str = "2026-11-22T12:00:00Z";

/// The fewest cases that a run has to find: a lost file must not pass for success.
const FEWEST_CASES: usize = 200;

/// One packet, and when it is judged.
type Query = (Headers, PolicyTime);

/// What judges packets by a policy. [`None`] is for a packet that the engine cannot be shown, such
/// as one that only the parser can make; it is counted.
type Engine = fn(&Policy, &[Query]) -> Vec<Option<RuleId>>;

/// Every engine that has to agree with the files.
const ENGINES: &[(&str, Engine)] = &[
    ("oracle", judge_by_oracle),
    ("classifier", judge_by_classifier),
    ("classifier in batches", judge_by_batches),
    ("worker, with and without a flow", worker::judge),
];

fn judge_by_oracle(policy: &Policy, queries: &[Query]) -> Vec<Option<RuleId>> {
    queries.iter().map(|(headers, at)| Some(oracle::classify(policy, headers, *at))).collect()
}

fn judge_by_classifier(policy: &Policy, queries: &[Query]) -> Vec<Option<RuleId>> {
    let classifier = compile(policy, &Limits::default()).expect("a small policy compiles");
    let mut scratch = Scratch::default();
    let mut judge = |headers: &Headers, at| {
        let mut out = [RuleId(u32::MAX - 1)];
        classifier.classify(&[*headers], at, &mut scratch, &mut out);
        Some(out[0])
    };
    queries.iter().map(|(headers, at)| judge(headers, *at)).collect()
}

/// As the worker does it: what comes at the same instant is judged together.
fn judge_by_batches(policy: &Policy, queries: &[Query]) -> Vec<Option<RuleId>> {
    let classifier = compile(policy, &Limits::default()).expect("a small policy compiles");
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    for batch in queries.chunk_by(|a, b| a.1 == b.1).flat_map(|same| same.chunks(MAX_BATCH)) {
        let headers: Vec<Headers> = batch.iter().map(|(headers, _)| *headers).collect();
        let mut out = [RuleId(u32::MAX - 1); MAX_BATCH];
        classifier.classify(&headers, batch[0].1, &mut scratch, &mut out);
        found.extend(out[..batch.len()].iter().copied().map(Some));
    }
    found
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    policy: Vec<Golden>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    name: String,
    text: String,
    wires: Option<Vec<Arc<str>>>,
    #[serde(default)]
    bound: Vec<String>,
    now: Option<String>,
    #[serde(default = "yes")]
    synchronised: bool,
    cases: Vec<(String, String)>,
}

fn yes() -> bool {
    true
}

impl Golden {
    fn policy(&self) -> Policy {
        let source = Source::new(self.name.as_str(), self.text.as_str());
        let options = LoadOptions { wires: self.wires.clone(), ..LoadOptions::default() };
        match Policy::load(&[source], &options) {
            Ok(loaded) => self.bind(&loaded.policy),
            Err(diagnostics) => {
                let shown: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
                panic!("{}", shown.join("\n"))
            }
        }
    }

    fn bind(&self, policy: &Policy) -> Policy {
        let mut by_mac: BTreeMap<Mac, Vec<BoundAddress>> = BTreeMap::new();
        for words in &self.bound {
            let mut parts = words.splitn(3, ' ');
            let mut part = || parts.next().unwrap_or_default();
            let (mac, address, place) = (part(), part(), part());
            let address: IpAddr = address.parse().unwrap_or_else(|e| panic!("{words}: {e}"));
            let frame = format!("eth/0x8892 {mac} -> {mac} {place}");
            let (headers, _) = self.query(policy, &frame);
            let links = [Link { wire: headers.wire, tags: headers.tags }].into();
            let bound = BoundAddress { address, links, namesakes: Arc::default() };
            by_mac.entry(headers.src_mac).or_default().push(bound);
        }
        policy.bound(&Arc::new(Bindings::new(by_mac, HashMap::new()))).0
    }

    fn query(&self, policy: &Policy, words: &str) -> Query {
        let packet = Packet::read(words).unwrap_or_else(|error| panic!("{error}"));
        let wire = packet.wire.map(|name| {
            let place = policy.wires().iter().position(|wire| **wire == *name);
            WireId(place.unwrap_or_else(|| panic!("no wire {name}: {words}")) as u16)
        });
        let now = bulkhead_rules::packet::instant_ms(self.now.as_deref().unwrap_or(NOW));
        let unix_ms = packet.at_ms.or(now).expect("`now` is an instant");
        let headers = Headers { wire: wire.unwrap_or_default(), ..packet.headers };
        (headers, PolicyTime { unix_ms, synchronised: self.synchronised })
    }
}

/// A verdict as the files write it.
fn in_words(policy: &Policy, rule: RuleId) -> String {
    let action = match policy.action(rule) {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    };
    format!("{action} {}", policy.rule_name(rule))
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let entries = std::fs::read_dir(folder).expect("the folder of golden cases");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

#[test]
fn every_engine_decides_every_case_as_it_is_written() {
    let (mut cases, mut wrong, mut shown) = (0, Vec::new(), vec![0; ENGINES.len()]);
    for path in files() {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let file: File = toml::from_str(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        for golden in &file.policy {
            let policy = golden.policy();
            let queries: Vec<Query> =
                golden.cases.iter().map(|(words, _)| golden.query(&policy, words)).collect();
            cases += queries.len();
            for (&(engine, judge), shown) in ENGINES.iter().zip(&mut shown) {
                let found = judge(&policy, &queries);
                assert_eq!(found.len(), queries.len(), "{engine} answers every query");
                *shown += found.iter().flatten().count();
                for ((words, expected), found) in golden.cases.iter().zip(found) {
                    let Some(found) = found.map(|rule| in_words(&policy, rule)) else { continue };
                    if found != *expected {
                        let file = path.file_name().unwrap_or_default().to_string_lossy();
                        wrong.push(format!(
                            "{file}: {}: {engine}: `{words}`: {found}, not {expected}",
                            golden.name
                        ));
                    }
                }
            }
        }
    }
    for ((engine, _), shown) in ENGINES.iter().zip(&shown) {
        println!("{engine}: {shown} of {cases} cases");
        assert!(shown * 2 > cases, "{engine} can be shown most cases");
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases >= FEWEST_CASES, "only {cases} cases were found");
}
