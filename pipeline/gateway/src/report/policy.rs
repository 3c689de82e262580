//! What a policy's text says: zones, conduits, and that all else is denied.

use std::sync::Arc;

use bulkhead_rules::analyze::{check_assertions, reach};
use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::policy::{Action, Policy};
use bulkhead_rules::syntax::document::{Document, Member, Selector};
use bulkhead_rules::syntax::span::Spanned;
use bulkhead_rules::syntax::{self, Source};

use super::{Assertion, Conduit, DefaultDeny, Zone, ZoneAccess, ZoneReach};
use crate::analysis::action_word;
use crate::candidate::{self, Finding};
use crate::config::Limits;

/// Groups that reach is computed for.
const MAX_ZONES: usize = 200;

/// The name of the questions about groups, where they have mistakes.
const QUESTIONS: &str = "the report's questions";

/// What a policy's text says.
#[derive(Debug, Default)]
pub struct Declared {
    /// Its groups and devices.
    pub zones: Vec<Zone>,
    /// What it permits.
    pub conduits: Vec<Conduit>,
    /// That all else is denied.
    pub default_deny: DefaultDeny,
    /// Groups for which what reaches them was not computed, for there are too many.
    pub zones_left_out: usize,
}

/// Reads texts as the gateway does.
///
/// # Errors
///
/// What is wrong with them.
pub fn declared(
    sources: &[Source],
    wires: &[Arc<str>],
    limits: &Limits,
    now: PolicyTime,
) -> Result<Declared, String> {
    let in_words = |found: Vec<Finding>| {
        let all: Vec<String> = found.into_iter().map(|finding| finding.message).collect();
        all.join("; ")
    };
    let policy = candidate::load(sources, Some(wires), limits).map_err(in_words)?.policy;
    let zones = zones(sources);
    let groups: Vec<&str> =
        zones.iter().filter(|zone| zone.kind == "group").map(|zone| zone.name.as_str()).collect();
    let asked = &groups[..groups.len().min(MAX_ZONES)];
    let reach = zone_reach(sources, asked, wires, limits, now).map_err(in_words)?;
    let assertions = check_assertions(&policy, now)
        .into_iter()
        .map(|result| Assertion { holds: result.holds(), says: result.describe(&policy) });
    let default_deny = DefaultDeny {
        default: action_word(policy.action(bulkhead_rules::policy::RuleId::DEFAULT)).to_owned(),
        hits: None,
        assertions: assertions.collect(),
        reach,
    };
    let zones_left_out = groups.len() - asked.len();
    Ok(Declared { conduits: conduits(&policy), default_deny, zones_left_out, zones })
}

fn documents(sources: &[Source]) -> Vec<Document> {
    let limits = bulkhead_rules::policy::Limits::default();
    sources.iter().filter_map(|source| syntax::parse_document(source, &limits).ok()).collect()
}

fn zones(sources: &[Source]) -> Vec<Zone> {
    let written = |members: Vec<Spanned<Member>>| -> Vec<String> {
        members.into_iter().map(|member| member.value.to_string()).collect()
    };
    let mut zones = Vec::new();
    for document in documents(sources) {
        for group in document.groups {
            let Selector { members, except, .. } = group.members;
            zones.push(Zone {
                name: group.name.value.to_string(),
                kind: "group".to_owned(),
                members: written(members),
                except: written(except),
            });
        }
        for device in document.devices {
            let macs = device.macs.iter().map(|mac| mac.value.to_string());
            let addresses = device.addresses.iter().map(|address| address.value.to_string());
            zones.push(Zone {
                name: device.name.value.to_string(),
                kind: "device".to_owned(),
                members: macs.chain(addresses).collect(),
                except: Vec::new(),
            });
        }
    }
    zones
}

fn conduits(policy: &Policy) -> Vec<Conduit> {
    let rules = policy.order().filter_map(|id| policy.rule(id));
    let permitting = rules.filter(|rule| rule.action == Action::Allow);
    permitting
        .map(|rule| {
            let purpose = rule.reason.as_deref().map(str::to_owned);
            Conduit {
                rule: rule.name.to_string(),
                at: format!("{}:{}", rule.location.file, rule.location.line),
                from: policy.endpoint(rule.from).label.to_string(),
                to: policy.endpoint(rule.to).label.to_string(),
                either_way: rule.between,
                service: policy.service(rule.service).label.to_string(),
                tickets: purpose.as_deref().map(tickets).unwrap_or_default(),
                purpose,
                owner: None,
                starts: rule.starts.and_then(super::observed::instant),
                expires: rule.expires.and_then(super::observed::instant),
                hits: None,
                last_hit: None,
            }
        })
        .collect()
}

/// Words that look like the number of a ticket: capital letters, a dash, digits.
fn tickets(purpose: &str) -> Vec<String> {
    let is_ticket = |word: &&str| {
        word.split_once('-').is_some_and(|(name, number)| {
            name.len() >= 2
                && name.bytes().all(|b| b.is_ascii_uppercase())
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        })
    };
    let words = purpose.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(is_ticket).map(str::to_owned).collect()
}

/// Who may open what to each of these groups.
fn zone_reach(
    sources: &[Source],
    groups: &[&str],
    wires: &[Arc<str>],
    limits: &Limits,
    now: PolicyTime,
) -> Result<Vec<ZoneReach>, Vec<Finding>> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let mut questions = "version: 1\nassert:\n".to_owned();
    for group in groups {
        questions += &format!("  - {{from: any, to: {group}, service: any, must: not-reach}}\n");
    }
    let mut all = sources.to_vec();
    all.push(Source::new(QUESTIONS, questions));
    let policy = candidate::load(&all, Some(wires), limits)?.policy;
    let first = policy.assertions().len().saturating_sub(groups.len());
    let reached = groups.iter().enumerate().map(|(nth, group)| {
        let found = reach(&policy, first + nth, now);
        let access = found.services.iter().flat_map(|service| {
            service.access.iter().map(|access| ZoneAccess {
                from: access.packets.from.to_string(),
                service: service.service.to_string(),
                rule: policy.rule_name(access.rule).to_owned(),
            })
        });
        ZoneReach {
            zone: (*group).to_owned(),
            access: access.collect(),
            complete: !found.is_incomplete,
        }
    });
    Ok(reached.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
version: 1
groups:
  hmi: [10.20.0.11, 10.20.0.12]
  plc: {in: [10.30.3.0/24], except: [10.30.3.99]}
rules:
  - {name: work, from: hmi, to: plc, service: tcp/502, action: allow, reason: 'CHG-1042, for line 3'}
  - {name: never, from: any, to: plc, service: tcp/22, action: deny}
assert:
  - {from: any, to: plc, service: tcp/22, must: not-reach}
";

    #[test]
    fn the_text_is_read_whole() {
        let sources = [Source::new("p.yaml", POLICY)];
        let now = PolicyTime { unix_ms: 1, synchronised: true };
        let declared =
            declared(&sources, &[], &Limits::default(), now).unwrap_or_else(|e| panic!("{e}"));
        let plc = &declared.zones[1];
        assert_eq!(
            (plc.name.as_str(), plc.except.as_slice()),
            ("plc", &["10.30.3.99".to_owned()][..])
        );
        let [work] = &declared.conduits[..] else { panic!("{:?}", declared.conduits) };
        assert_eq!((work.rule.as_str(), work.at.as_str()), ("work", "p.yaml:6"));
        assert_eq!(work.tickets, ["CHG-1042"]);
        let denial = &declared.default_deny;
        assert_eq!((denial.default.as_str(), denial.assertions.len()), ("deny", 1));
        assert!(denial.assertions[0].holds);
        let plc = denial.reach.iter().find(|reach| reach.zone == "plc").expect("it was asked");
        assert!(plc.complete);
        let [access] = &plc.access[..] else { panic!("{plc:?}") };
        assert_eq!((access.service.as_str(), access.rule.as_str()), ("tcp/502", "work"));
        assert!(denial.reach.iter().any(|reach| reach.zone == "hmi" && reach.access.is_empty()));
    }

    #[test]
    fn tickets_are_words_of_the_purpose() {
        assert_eq!(
            tickets("see OPS-7 and (INC-0042); not x-1, A-1, TLS-a or 10-20"),
            ["OPS-7", "INC-0042"]
        );
    }
}
