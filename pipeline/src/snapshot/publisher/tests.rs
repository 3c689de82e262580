use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bulkhead_rules::classifier::{Changes, Classifier, Footprint};
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::policy::edit::RandomEdits;
use bulkhead_rules::policy::{Policy, Rule, RuleId};

use super::Publisher;
use crate::snapshot::{Content, EditedContent, Reader, Snapshot, WallClock};

/// A policy of these rules, in this order; some are logged, some are timed.
fn policy(names: &[String]) -> Arc<Policy> {
    let mut text = String::from("version: 1\nrules:\n");
    for (n, name) in names.iter().enumerate() {
        let rule = format!("name: {name}, from: any, to: 10.0.0.{}, service: any", n % 256);
        let log = if is_logged(name) { ", log: true" } else { "" };
        let starts = instant(name)
            .map_or_else(String::new, |second| format!(", starts: 2026-11-24T06:00:{second:02}Z"));
        text.push_str(&format!("  - {{{rule}, action: allow{log}{starts}}}\n"));
    }
    Arc::new(Policy::parse(&text).expect("the test's policy is one"))
}

fn is_logged(name: &str) -> bool {
    name.ends_with(['0', '2', '4', '6', '8'])
}

/// The second of the start of a timed rule.
fn instant(name: &str) -> Option<usize> {
    let number: usize = name.trim_start_matches("rule-").parse().expect("a number");
    (number % 7 == 0).then_some(number % 60)
}

struct Model {
    publisher: Publisher,
    readers: Vec<Reader>,
    /// The snapshot that each worker judges by.
    seen: Vec<Arc<Snapshot>>,
    classifier: Arc<Classifier>,
    names: Vec<String>,
    /// What was counted under each name, forgotten ones left out.
    counted: BTreeMap<String, u64>,
    /// The names of every snapshot that is not freed.
    live: Vec<HashSet<String>>,
    next_name: usize,
    /// Names that went, the latest last.
    gone: Vec<String>,
    state: u64,
}

impl Model {
    fn new(rules: usize, workers: usize, seed: u64) -> Self {
        let names: Vec<String> = (0..rules).map(|n| format!("rule-{n}")).collect();
        let small = policy(&names[..1]);
        let classifier = Arc::new(compile(&small, &Limits::default()).expect("it compiles"));
        let content = Content {
            policy: policy(&names),
            classifier: classifier.clone(),
            wires: Vec::new(),
            clock: WallClock::default(),
        };
        let (publisher, readers) = Publisher::new(content, workers);
        Self {
            seen: vec![publisher.current().clone(); workers],
            publisher,
            readers,
            classifier,
            live: vec![names.iter().cloned().collect()],
            names,
            counted: BTreeMap::new(),
            next_name: rules,
            gone: Vec::new(),
            state: seed,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.state >> 33) as usize % below
    }

    fn count(&mut self) {
        let worker = self.random(self.readers.len());
        let snapshot = self.seen[worker].clone();
        let rules = snapshot.content.policy.rules().len();
        let rule = match self.random(10) {
            0 => RuleId::DEFAULT,
            _ => RuleId(self.place(rules) as u32),
        };
        if snapshot.content.policy.rule(rule).is_some_and(Rule::is_removed) {
            return;
        }
        snapshot.hits(worker, rule).enforced.add(1);
        let name = snapshot.content.policy.rule_name(rule).to_owned();
        *self.counted.entry(name).or_default() += 1;
    }

    /// Replaces some rules in their places, under new names or under names that were there before,
    /// and adds some at the end.
    fn edit(&mut self) {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for _ in 0..self.random(4) {
            let place = self.place(self.names.len());
            let name = self.new_name();
            let gone = std::mem::replace(&mut self.names[place], name);
            self.gone.push(gone);
            removed.push(RuleId(place as u32));
            added.push(RuleId(place as u32));
        }
        for _ in 0..self.random(12).saturating_sub(9) {
            added.push(RuleId(self.names.len() as u32));
            let name = self.new_name();
            self.names.push(name);
        }
        self.publish_edit(policy(&self.names), added, removed);
    }

    /// Any typed edit.
    fn edit_typed(&mut self, edits: &mut RandomEdits) {
        let policy = &self.publisher.current().content.policy;
        let edit = edits.next(policy);
        let (policy, delta) = policy.edited(&edit).expect("the edit is valid");
        self.names = policy.order().map(|rule| policy.rule_name(rule).to_owned()).collect();
        self.publish_edit(Arc::new(policy), delta.rules_added, delta.rules_removed);
    }

    fn publish_edit(&mut self, policy: Arc<Policy>, added: Vec<RuleId>, removed: Vec<RuleId>) {
        self.publisher.publish_edit(EditedContent {
            policy,
            classifier: self.classifier.clone(),
            changes: Changes::Footprints { src: vec![1], dst: Vec::new() },
            rules_added: added,
            rules_removed: removed,
        });
        self.live.push(self.names.iter().cloned().collect());
    }

    /// A place of a rule, of few ones most of the time.
    fn place(&mut self, rules: usize) -> usize {
        match self.random(8) {
            0 => self.random(rules),
            hot => [0, 1, 2, 254, 255, 256, rules - 1][hot - 1].min(rules - 1),
        }
    }

    fn new_name(&mut self) -> String {
        let recent = self.gone.len().min(4);
        if recent > 0 && self.random(2) == 0 {
            let age = self.random(recent);
            let back = self.gone[self.gone.len() - 1 - age].clone();
            if !self.names.contains(&back) {
                return back;
            }
        }
        self.next_name += 1;
        format!("rule-{}", self.next_name - 1)
    }

    fn publish(&mut self) {
        let place = self.random(self.names.len());
        self.names.swap(place, 0);
        for place in 3..8 {
            self.names[place] = self.new_name();
        }
        self.names.truncate(self.names.len() - self.names.len() / 50);
        self.publisher.publish(Content {
            policy: policy(&self.names),
            classifier: self.classifier.clone(),
            wires: Vec::new(),
            clock: WallClock::default(),
        });
        self.live.push(self.names.iter().cloned().collect());
    }

    fn collect(&mut self) {
        let freed = self.publisher.collect();
        self.live.drain(..freed);
        self.counted.retain(|name, _| {
            name == "default" || self.live.iter().any(|names| names.contains(name))
        });
    }

    fn check(&self) {
        let totals = self.publisher.rule_totals();
        assert_eq!(totals.len(), self.names.len() + 1);
        for ((name, total), expected) in
            totals.iter().zip(self.names.iter().map(String::as_str).chain(["default"]))
        {
            assert_eq!(&**name, expected);
            let counted = self.counted.get(expected).copied().unwrap_or(0);
            assert_eq!(total.enforced, counted, "{expected}");
            assert_eq!(total.observed, 0);
        }
        let current = self.publisher.current();
        let policy = &current.content.policy;
        for (rule, name) in policy.order().zip(&self.names) {
            assert_eq!(policy.rule_name(rule), name);
            let logs = policy.rule(rule).is_some_and(|rule| rule.log);
            assert_eq!(current.is_logged(rule), logs, "{name}");
        }
        assert!(!current.is_logged(RuleId::DEFAULT));
        assert_eq!(*current.schedule, policy.schedule());
    }
}

#[test]
fn decisions_stay_with_the_names_of_their_rules() {
    for seed in 0..4 {
        // Places in two chunks; additions reach a third.
        let mut model = Model::new(508, 3, seed);
        for step in 0..200 {
            match model.random(12) {
                0 | 1 => model.edit(),
                2 if step % 8 == 0 => model.publish(),
                3..=5 => {
                    let worker = model.random(3);
                    model.seen[worker] = model.readers[worker].refresh().clone();
                }
                6 => model.collect(),
                _ => (0..20).for_each(|_| model.count()),
            }
            if step % 10 == 9 {
                model.check();
            }
        }
        for worker in 0..3 {
            model.seen[worker] = model.readers[worker].refresh().clone();
        }
        model.collect();
        assert_eq!(model.publisher.live.len(), 1);
        model.check();
        let names = model.publisher.settled.len() + model.publisher.departed.len();
        assert!(names <= model.names.len() + 1, "nothing is kept of names that are gone");
    }
}

#[test]
fn typed_edits_keep_the_count_too() {
    let mut model = Model::new(300, 2, 9);
    let policy = model.publisher.current().content.policy.clone();
    let mut edits = RandomEdits::new(&policy, 9).with_rule_percent(80);
    for step in 0..600 {
        match model.random(8) {
            0 | 1 => model.edit_typed(&mut edits),
            2 => {
                let worker = model.random(2);
                model.seen[worker] = model.readers[worker].refresh().clone();
            }
            3 => model.collect(),
            _ => (0..20).for_each(|_| model.count()),
        }
        if step % 10 == 9 {
            model.check();
        }
    }
    let policy = &model.publisher.current().content.policy;
    assert!(policy.rules().len() > policy.rule_count(), "places were emptied");
    let taken = policy.order().map(|rule| rule.0).collect::<Vec<_>>();
    assert!(!taken.is_sorted(), "places were taken again");
}

#[test]
fn an_edit_shares_what_it_leaves_alone() {
    let mut model = Model::new(1000, 2, 1);
    let before = model.publisher.current().clone();
    model.publisher.publish_edit(EditedContent {
        policy: before.content.policy.clone(),
        classifier: before.content.classifier.clone(),
        changes: Changes::Footprints { src: Vec::new(), dst: vec![4095] },
        rules_added: Vec::new(),
        rules_removed: Vec::new(),
    });
    let after = model.publisher.current().clone();
    assert!(
        Arc::ptr_eq(&before.logs, &after.logs) && Arc::ptr_eq(&before.schedule, &after.schedule)
    );
    let [one, other] = [&before, &after].map(|s| std::ptr::from_ref(s.hits(1, RuleId(999))));
    assert_eq!(one, other, "one counter serves both");
    let touched = Footprint { src: 0, dst: 4095 };
    assert!(after.has_changed_since(touched, before.first_epoch()));
    assert!(!after.has_changed_since(touched, after.first_epoch()));
    assert!(!after.has_changed_since(Footprint { src: 4095, dst: 0 }, 0));
    assert!(after.is_edited_from(1) && model.publisher.edits() == 1);
}

#[test]
fn a_rule_keeps_its_name_for_whoever_reads_of_it_late() {
    let mut model = Model::new(10, 1, 1);
    let epoch = |model: &Model| model.publisher.current().first_epoch();
    let first = epoch(&model);
    let replace = |model: &mut Model, name: &str| {
        model.names[3] = name.to_owned();
        model.publisher.publish_edit(EditedContent {
            policy: policy(&model.names),
            classifier: model.classifier.clone(),
            changes: Changes::Everything,
            rules_added: vec![RuleId(3)],
            rules_removed: vec![RuleId(3)],
        });
    };
    replace(&mut model, "rule-100");
    let second = epoch(&model);
    replace(&mut model, "rule-200");
    let third = epoch(&model);
    let name = |model: &Model, rule, epoch| {
        model.publisher.rule_name(RuleId(rule), epoch).map(str::to_owned)
    };
    for (epoch, expected) in [(first, "rule-3"), (second, "rule-100"), (third, "rule-200")] {
        assert_eq!(name(&model, 3, epoch).as_deref(), Some(expected));
        assert_eq!(name(&model, u32::MAX, epoch).as_deref(), Some("default"));
    }
    model.readers[0].refresh();
    assert_eq!(model.publisher.collect(), 2);
    assert_eq!(name(&model, 3, first), None);
    assert_eq!(name(&model, 3, second), None);
    assert_eq!(name(&model, 3, third).as_deref(), Some("rule-200"));
    assert_eq!(name(&model, 4, first).as_deref(), Some("rule-4"), "no edit touched it");
    model.publish();
    assert_eq!(name(&model, 4, third).as_deref(), Some("rule-4"), "the one before still lives");
    model.readers[0].refresh();
    model.publisher.collect();
    assert_eq!(name(&model, 4, third), None);
}
