//! Edits as an operator's tool makes them: what is refused and how it is told, what stays the same,
//! and how small what changes is.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_rules::policy::edit::{Place, RandomEdits};
use bulkhead_rules::policy::{Delta, Edit, Limits, LoadOptions, Policy, RuleId};
use bulkhead_rules::syntax::document::{Document, Member, Rule};
use bulkhead_rules::syntax::{Source, parse_document};

const PLANT: &str = r#"version: 1
devices:
  plc-7: {mac: "02:1b:1d:00:30:01", ip: 10.30.3.7}
  ct-1: {ip: 10.80.1.50}
groups:
  hmi: [10.20.0.11, 10.20.0.12]
  line-3: [10.30.3.0/24, 10.31.0.1-10.31.0.20]
  line-4: [10.30.4.0/24]
  lines: [line-3, line-4]
  plant: [lines, hmi]
  web: {in: [10.80.0.0/30, ct-1], except: [blocked]}
  blocked: [10.80.0.0/31, 10.80.0.2]
services:
  modbus: tcp/502
rules:
  - {name: hmi-to-lines, from: hmi, to: lines, service: modbus, action: allow}
  - {name: web, from: any, to: web, service: [tcp/80, tcp/443], action: allow}
  - {name: rest, from: plant, to: any, action: deny}
"#;

fn load(sources: &[Source]) -> Policy {
    let loaded = Policy::load(sources, &LoadOptions::default());
    loaded.unwrap_or_else(|errors| panic!("{}", errors[0])).policy
}

fn plant() -> Policy {
    load(&[Source::new("plant.yaml", PLANT)])
}

fn document(text: &str) -> Document {
    let source = Source::new("edit.yaml", text);
    parse_document(&source, &Limits::default()).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

fn member(text: &str) -> Member {
    let document = document(&format!("version: 1\ngroups: {{x: [{text}]}}\n"));
    document.groups[0].members.members[0].value.clone()
}

fn rule(text: &str) -> Box<Rule> {
    Box::new(document(&format!("version: 1\nrules: [{{{text}}}]\n")).rules[0].clone())
}

fn add(group: &str, text: &str) -> Edit {
    Edit::AddMember { group: group.into(), member: member(text) }
}

fn remove(group: &str, text: &str) -> Edit {
    Edit::RemoveMember { group: group.into(), member: member(text) }
}

fn add_rule(text: &str, place: Place) -> Edit {
    Edit::AddRule { rule: rule(text), place }
}

fn edited(policy: &Policy, edit: &Edit) -> (Policy, Delta) {
    policy.edited(edit).unwrap_or_else(|errors| panic!("{edit:?}: {}", errors[0]))
}

#[test]
fn refused_edits_say_why_and_change_nothing() {
    let policy = plant();
    let before = format!("{policy:?}");
    let named = |name: &str| Edit::RemoveRule { name: name.into() };
    let mut line_break = rule("name: x, from: hmi, to: hmi, action: deny");
    line_break.name.value = Arc::from("x, action: allow}\n  - {name: y");
    let mut nothing = rule("name: x, from: hmi, to: hmi, service: any, action: allow");
    nothing.service = None;
    let refused = [
        add("hmis", "10.20.0.13"),
        add("ct-1", "10.20.0.13"),
        add("hmi", "10.20.0.11"),
        add("hmi", "plc-8"),
        add("hmi", "modbus"),
        add("line-3", "plant"),
        add("lines", "lines"),
        add("blocked", "web"),
        add("blocked", "\"10.80.0.0/16\""),
        add("Hmi", "10.20.0.13"),
        remove("hmi", "10.20.0.13"),
        remove("line-3", "10.30.3.7"),
        remove("line-4", "10.30.4.0/24"),
        named("hmi-to-line"),
        named("default"),
        add_rule("name: web, from: hmi, to: web, action: deny", Place::Last),
        add_rule("name: default, from: hmi, to: web, action: deny", Place::Last),
        add_rule("name: x, from: hmi, to: web, action: deny", Place::Before("wep".into())),
        add_rule("name: x, from: hmj, to: hmj, service: modbos, action: deny", Place::Last),
        add_rule("name: x, from: {in: hmi, except: plant}, action: deny", Place::Last),
        add_rule(
            "name: x, action: deny, starts: 2026-02-01T00:00:00Z, expires: 2026-01-01T00:00:00Z",
            Place::Last,
        ),
        Edit::AddRule { rule: line_break, place: Place::First },
        Edit::AddRule { rule: nothing, place: Place::First },
    ];
    let mut told = String::new();
    for edit in refused {
        match policy.edited(&edit) {
            Ok(_) => writeln!(told, "ACCEPTED {edit:?}\n"),
            Err(errors) => {
                errors.iter().try_for_each(|error| writeln!(told, "{error}")).and_then(|()| {
                    assert!(!errors.is_empty());
                    writeln!(told)
                })
            }
        }
        .expect("text");
    }
    assert_eq!(format!("{policy:?}"), before);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused_edits.txt");
    if std::env::var_os("BULKHEAD_BLESS").is_some() {
        std::fs::write(&path, &told).expect("a writable folder");
    }
    let recorded = std::fs::read_to_string(&path).expect("the recorded text");
    assert_eq!(told, recorded);
}

#[test]
fn limits_hold_for_edits_as_for_loads() {
    let with = |limits: Limits| {
        let options = LoadOptions { limits, ..LoadOptions::default() };
        Policy::load(&[Source::new("plant.yaml", PLANT)], &options).map(|loaded| loaded.policy)
    };
    let told = |policy: Policy, edit: &Edit| match policy.edited(edit) {
        Ok(_) => panic!("{edit:?} is beyond a limit"),
        Err(errors) => errors[0].to_string(),
    };
    let policy = with(Limits { rules: 3, ..Limits::default() }).expect("three rules");
    let one_more = add_rule("name: x, action: deny", Place::Last);
    let error = told(policy, &one_more);
    assert!(error.contains("the policy has 4 rules where 3 are the limit"), "{error}");
    let policy = with(Limits { depth: 3, ..Limits::default() }).expect("three levels");
    let error = told(policy, &add("line-4", "web"));
    assert!(error.contains("are more than 3 levels deep at `lines`"), "{error}");
    // The least number of ranges that loading takes; one more member is then one too many.
    let least = (1..100)
        .find(|&ranges| with(Limits { ranges, ..Limits::default() }).is_ok())
        .expect("a hundred ranges are enough");
    let policy = with(Limits { ranges: least, ..Limits::default() }).expect("just enough");
    let error = told(policy, &add("hmi", "10.20.0.99"));
    assert!(error.contains("the groups stand for more than"), "{error}");
    let policy = with(Limits { ranges: least + 2, ..Limits::default() }).expect("enough");
    edited(&policy, &add("hmi", "10.20.0.13")).0.prepare_edits();
}

#[test]
fn a_member_changes_its_own_addresses_and_nothing_else() {
    let policy = plant();
    let (after, delta) = edited(&policy, &add("line-4", "10.33.0.5"));
    // `line-4` is in `lines`, which is in `plant`: two sides of rules.
    assert_eq!(delta.endpoints.len(), 2);
    for change in &delta.endpoints {
        assert_eq!(change.v4.ranges(), [(0x0a21_0005, 0x0a21_0005)]);
        assert!(change.v6.is_empty() && !change.non_ip && !change.other);
        assert_eq!(policy.endpoint(change.endpoint).label, after.endpoint(change.endpoint).label);
    }
    assert!(delta.rules_added.is_empty() && delta.rules_removed.is_empty() && !delta.respread);
    // What another member holds already changes no rule, but is remembered.
    let (more, delta) = edited(&after, &add("line-4", "10.33.0.0/29"));
    let ranges = delta.endpoints[0].v4.ranges();
    assert_eq!(ranges, [(0x0a21_0000, 0x0a21_0004), (0x0a21_0006, 0x0a21_0007)]);
    let (less, delta) = edited(&more, &remove("line-4", "10.33.0.5"));
    assert_eq!(delta, Delta::default());
    assert!(less.edited(&remove("line-4", "10.33.0.5")).is_err());
    // What `except` takes out comes and goes the other way round.
    let (_, delta) = edited(&policy, &remove("blocked", "10.80.0.2"));
    assert_eq!(delta.endpoints.len(), 1);
    assert_eq!(policy.endpoint(delta.endpoints[0].endpoint).label, "web");
    assert_eq!(delta.endpoints[0].v4.ranges(), [(0x0a50_0002, 0x0a50_0002)]);
    // A device with a MAC address is more than addresses.
    let (_, delta) = edited(&policy, &add("hmi", "plc-7"));
    assert!(delta.endpoints.iter().all(|change| change.other) && delta.endpoints.len() == 2);
}

#[test]
fn rules_keep_their_ids_and_removed_ones_leave_their_place() {
    let names = |policy: &Policy| -> Vec<String> {
        policy.order().map(|id| policy.rule_name(id).to_owned()).collect()
    };
    let policy = plant();
    let text = "name: ssh, from: 10.9.0.1, to: lines, service: tcp/22, action: allow";
    let (one, delta) = edited(&policy, &add_rule(text, Place::Before("rest".into())));
    assert_eq!(names(&one), ["hmi-to-lines", "web", "ssh", "rest"]);
    assert_eq!((&*delta.rules_added, one.rule_name(RuleId(2))), (&[RuleId(3)][..], "rest"));
    assert_eq!((delta.endpoints_added.len(), delta.services_added.len()), (1, 1));
    let (two, delta) = edited(&one, &Edit::RemoveRule { name: "web".into() });
    assert_eq!(names(&two), ["hmi-to-lines", "ssh", "rest"]);
    assert_eq!(delta.rules_removed, [RuleId(1)]);
    // `any` is a side of another rule too.
    assert_eq!((delta.endpoints_removed.len(), delta.services_removed.len()), (1, 1));
    let gone = &two.rules()[1];
    assert!(gone.is_removed() && &*gone.name == "web" && two.rules().len() == 4);
    assert_eq!(two.rule_count(), 3);
    let (three, delta) = edited(&two, &add_rule("name: web, action: reject", Place::First));
    assert_eq!(names(&three), ["web", "hmi-to-lines", "ssh", "rest"]);
    assert_eq!((delta.rules_added, three.rules().len()), (vec![RuleId(1)], 4));
    assert!(delta.endpoints_added.is_empty(), "both sides are `any`");
}

#[test]
fn ranks_are_spread_again_when_there_is_no_room() {
    let (mut policy, mut respread, mut names) = (plant(), 0, vec!["hmi-to-lines".to_owned()]);
    // Each between the two before it: the gap is divided every time.
    for number in 0..200 {
        let after = names[names.len().saturating_sub(2)].clone();
        let place = match number % 2 {
            0 => Place::After(after.into()),
            _ => Place::Before(names[names.len() - 1].clone().into()),
        };
        let name = format!("n{number}");
        let text = format!("name: {name}, from: hmi, to: lines, action: deny");
        let (next, delta) = edited(&policy, &add_rule(&text, place));
        respread += usize::from(delta.respread);
        names.push(name);
        policy = next;
        let ranks: Vec<u32> = policy.order().map(|id| policy.rank(id)).collect();
        assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]));
    }
    assert!((1..20).contains(&respread), "{respread} times");
}

#[test]
fn edits_are_made_in_the_file_that_has_what_they_name() {
    let texts = [
        "version: 1\nrules:\n  - {name: guard, from: any, to: a, service: tcp/23, action: deny}\n",
        "version: 1\ngroups:\n  a: [10.0.0.1]\n",
        "version: 1\ngroups:\n  b: [10.0.0.2, 10.0.0.3]\nrules:\n  - {name: a-b, from: a, to: b, service: any, action: allow}\n",
    ];
    let mut documents: Vec<Document> = texts.iter().map(|text| document(text)).collect();
    let first = "name: first, from: a, to: b, action: deny";
    let edits = [
        (add("a", "10.0.0.9"), Some(1)),
        (add("a", "10.0.0.9"), None),
        (remove("b", "10.0.0.2"), Some(2)),
        (remove("b", "10.0.0.3"), None),
        (add_rule(first, Place::First), Some(0)),
        (add_rule(first, Place::Last), None),
        (add_rule("name: last, from: a, to: b, action: deny", Place::Last), Some(2)),
        (add_rule("name: x, action: deny", Place::After("guard".into())), Some(0)),
        (Edit::RemoveRule { name: "a-b".into() }, Some(2)),
        (Edit::RemoveRule { name: "a-b".into() }, None),
    ];
    for (edit, changed) in edits {
        let before = documents.clone();
        assert_eq!(edit.apply(&mut documents), changed, "{edit:?}");
        let differing = (0..3).filter(|&index| documents[index] != before[index]);
        assert_eq!(differing.collect::<Vec<_>>(), Vec::from_iter(changed));
    }
    let sources: Vec<Source> =
        documents.iter().map(|d| Source::new("part.yaml", d.to_string())).collect();
    let policy = load(&sources);
    let names: Vec<&str> = policy.order().map(|id| policy.rule_name(id)).collect();
    assert_eq!(names, ["first", "guard", "x", "last"]);
    let mut bare = vec![document("version: 1\n")];
    assert_eq!(add_rule("name: x, action: deny", Place::First).apply(&mut bare), Some(0));
    assert_eq!(bare[0].rules.len(), 1);
}

#[test]
fn places_of_what_is_removed_are_taken_again() {
    let mut policy = plant();
    let mut edits = RandomEdits::new(&policy, 5).with_rule_percent(70);
    let mut most_rules = policy.rules().len();
    let mut most_endpoints = policy.endpoints().len();
    let mut most_services = policy.services().len();
    for _ in 0..2000 {
        policy = edited(&policy, &edits.next(&policy)).0;
        let endpoints = policy.endpoints().iter().filter(|e| !e.boxes.is_empty());
        let services = policy.services().iter().filter(|s| !s.terms.is_empty());
        most_rules = most_rules.max(policy.rule_count());
        most_endpoints = most_endpoints.max(endpoints.count());
        most_services = most_services.max(services.count());
        assert_eq!(policy.rules().len(), most_rules);
        assert_eq!(policy.endpoints().len(), most_endpoints);
        assert_eq!(policy.services().len(), most_services);
    }
    assert!(most_rules > 10, "{most_rules} rules at most");
}

/// What this thread has had of a processor: the time on the wall would be that of the neighbours.
fn processor_time() -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let on_cpu = schedule.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok());
    Duration::from_nanos(on_cpu.expect("nanoseconds on a processor"))
}

#[test]
fn an_edit_costs_what_it_changes_not_what_there_is() {
    // 2,000 groups of 20 addresses, most of them in one group, and 20,000 rules between them.
    let mut text = String::from("version: 1\ngroups:\n");
    for group in 0..2000u32 {
        let host = |n| format!("10.{}.{}.{n}", group >> 8, group & 0xff);
        let hosts: Vec<String> = (0..20).map(|n| host(n * 3)).collect();
        let _ = writeln!(text, "  g{group}: [{}]", hosts.join(", "));
    }
    let all: Vec<String> = (0..1900).map(|group| format!("g{group}")).collect();
    let _ = writeln!(text, "  all: [{}]\n  most: {{in: all, except: g7}}\nrules:", all.join(", "));
    for rule in 0..20_000 {
        let (from, to) = (rule % 1999, rule * 7 % 1997);
        let _ = writeln!(
            text,
            "  - {{name: r{rule}, from: g{from}, to: g{to}, service: tcp/{}, action: allow}}",
            1 + rule % 100
        );
    }
    text.push_str("  - {name: rest, from: most, to: all, action: deny}\n");
    let policy = load(&[Source::new("large.yaml", text)]);
    policy.prepare_edits();
    for (rule_percent, most) in [(0, Duration::from_millis(2)), (100, Duration::from_millis(5))] {
        let mut policy = policy.clone();
        let edits = RandomEdits::new(&policy, 3).with_addresses_only();
        let mut edits = edits.with_rule_percent(rule_percent);
        let (mut took, count) = (Duration::ZERO, 100);
        for _ in 0..count {
            let edit = edits.next(&policy);
            let start = processor_time();
            policy = edited(&policy, &edit).0;
            took += processor_time() - start;
        }
        let each = took / count;
        println!("{rule_percent} % rules: {each:?} an edit");
        // Without optimisation; loading takes a thousand times as long.
        assert!(each < most, "{each:?} an edit, {rule_percent} % of them of rules");
    }
}
