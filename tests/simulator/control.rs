//! The control thread: publishes policies, edits, modes and the wall clock while packets flow.

use std::sync::Arc;

use bulkhead_pipeline::snapshot::{
    Content, EditedContent, Mode, Publisher, Reader, TcpPickup, WallClock, WirePolicy,
};
use bulkhead_rules::classifier::Changes;
use bulkhead_rules::compile::{Compiler, Limits};
use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::policy::Policy;
use bulkhead_rules::policy::edit::RandomEdits;

use super::defects::Defect;
use super::policies::{self, ZERO_MS};
use super::random::Random;

/// What the control thread did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Publications {
    /// Whole policies.
    pub reloads: u64,
    /// Edits of the policy in force.
    pub edits: u64,
    /// Those of them that were compiled for what they changed.
    pub incremental: u64,
    /// Wires that went from observe to enforce, or back.
    pub mode_changes: u64,
    /// Steps of the wall clock, and losses of its synchronisation.
    pub clock_changes: u64,
}

/// The control thread.
pub(super) struct Control {
    random: Random,
    publisher: Publisher,
    compiler: Compiler,
    edits: RandomEdits,
    /// What is in force by what the world was told; a planted defect may publish something else.
    pub(super) content: Content,
    defect: Option<Defect>,
    pub(super) publications: Publications,
}

impl Control {
    /// The first policy, and a reader of it for each worker.
    pub(super) fn new(
        mut random: Random,
        wires: u16,
        workers: usize,
        defect: Option<Defect>,
    ) -> (Self, Vec<Reader>) {
        let wire = WirePolicy::new(Mode::Enforce, 0);
        let clock = WallClock { offset_ms: ZERO_MS, synchronised: true };
        let (policy, compiler, edits) = compiled(&mut random, wires, 0);
        let mut control_compiler = compiler;
        let content = Content {
            policy: Arc::new(policy),
            classifier: control_compiler.publish(),
            wires: vec![wire; usize::from(wires)],
            clock,
        };
        // Some worlds come to the point where the low 32 bits of the epoch begin again.
        let first_epoch = if random.permille(300) { (1 << 32) - 40 } else { 1 };
        let (publisher, readers) = Publisher::starting_at(content.clone(), workers, first_epoch);
        let publications = Publications::default();
        let control = Self {
            random,
            publisher,
            compiler: control_compiler,
            edits,
            content,
            defect,
            publications,
        };
        (control, readers)
    }

    /// What time it is to the policy.
    pub(super) fn at(&self, now_ns: u64) -> PolicyTime {
        self.content.clock.at(now_ns)
    }

    /// Something changes: mostly a member of a group or a rule, sometimes everything.
    pub(super) fn change(&mut self, now_ns: u64) {
        match self.random.below(10) {
            0..6 if self.random.permille(900) => self.edit(),
            6 => self.change_modes(now_ns),
            7 => self.change_clock(),
            _ => self.reload(now_ns),
        }
        if self.random.permille(600) {
            self.publisher.collect();
        }
    }

    /// Another policy, in the middle of a worker's loop.
    pub(super) fn change_policy(&mut self, now_ns: u64) {
        if self.random.permille(500) { self.edit() } else { self.reload(now_ns) }
    }

    fn edit(&mut self) {
        let before = &self.content.policy;
        let Ok((policy, delta)) = before.edited(&self.edits.next(before)) else { return };
        let Ok(mut changes) = self.compiler.edit(&policy, &delta) else { return };
        if self.defect == Some(Defect::EditNotNoticed) {
            changes = Changes::Footprints { src: Vec::new(), dst: Vec::new() };
        }
        self.content.policy = Arc::new(policy);
        self.content.classifier = self.compiler.publish();
        self.publications.edits += 1;
        self.publisher.publish_edit(EditedContent {
            policy: self.content.policy.clone(),
            classifier: self.content.classifier.clone(),
            changes,
            rules_added: delta.rules_added,
            rules_removed: delta.rules_removed,
        });
    }

    fn reload(&mut self, now_ns: u64) {
        let now_ms = self.at(now_ns).unix_ms - ZERO_MS;
        let now_s = u64::try_from(now_ms / 1000).unwrap_or(0);
        let wires = self.content.wires.len() as u16;
        let (policy, mut compiler, edits) = compiled(&mut self.random, wires, now_s);
        let old = self.content.classifier.clone();
        self.publications.incremental += self.compiler.edits().incremental;
        self.content.policy = Arc::new(policy);
        self.content.classifier = compiler.publish();
        (self.compiler, self.edits) = (compiler, edits);
        self.publications.reloads += 1;
        self.publish(Some(old));
    }

    fn change_modes(&mut self, now_ns: u64) {
        for wire in &mut self.content.wires {
            let mode = if self.random.permille(250) { Mode::Observe } else { Mode::Enforce };
            self.publications.mode_changes += u64::from(wire.mode != mode);
            let locks_down = wire.mode == Mode::Observe && mode == Mode::Enforce;
            wire.mode = mode;
            wire.tcp = if self.random.permille(300) { TcpPickup::Strict } else { TcpPickup::Loose };
            if locks_down {
                let grace_ms = self.random.pick(&[0, 0, 100, 3_000]);
                wire.grace_until_ns = now_ns + grace_ms * 1_000_000;
            }
        }
        self.publish(None);
    }

    fn change_clock(&mut self) {
        let clock = &mut self.content.clock;
        clock.synchronised = self.random.permille(800);
        clock.offset_ms += self.random.between(0, 8_000) as i64 - 4_000;
        self.publications.clock_changes += 1;
        self.publish(None);
    }

    /// Publishes the content; `old` is the compiled form before a reload.
    fn publish(&mut self, old: Option<Arc<bulkhead_rules::classifier::Classifier>>) {
        let mut content = self.content.clone();
        match (self.defect, old) {
            (Some(Defect::HalfReload), Some(old)) => content.classifier = old,
            (Some(Defect::ObserveForever), _) => {
                content.wires.iter_mut().for_each(|wire| wire.mode = Mode::Observe);
            }
            (Some(Defect::ScheduleIgnored), _) => content.clock.offset_ms = ZERO_MS - 86_400_000,
            _ => {}
        }
        self.publisher.publish(content);
    }
}

/// A policy, its compiler and a stream of edits of it.
fn compiled(random: &mut Random, wires: u16, now_s: u64) -> (Policy, Compiler, RandomEdits) {
    let policy = policies::policy(random, wires, now_s);
    let edits = RandomEdits::new(&policy, random.next()).with_rule_percent(40);
    let edits = if random.permille(500) { edits.with_addresses_only() } else { edits };
    match Compiler::new(&policy, &Limits::default()) {
        Ok(compiler) => (policy, compiler, edits),
        Err(error) => unreachable!("a dozen rules fit every limit: {error}"),
    }
}
