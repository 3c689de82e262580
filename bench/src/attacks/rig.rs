//! A worker that is attacked, and its twin that is not.

use std::sync::Arc;

use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::flow_table::FlowTableConfig;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::snapshot::{Content, Mode, Publisher, WallClock, WirePolicy};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::{Clock, VirtualClock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::headers::WireId;

use super::Compiled;
use crate::classbench::Family;
use crate::heap;
use crate::machine::median;
use crate::pipeline::memory::{MemoryPort, Slot};
use crate::pipeline::rig::{BLOCK, middle};
use crate::pipeline::traffic::{self, Flow, Step};
use crate::random::Random;
use crate::tsc;

/// What a packet takes of the workers' time: ten million a second.
pub(super) const PACKET_NS: u64 = 100;

/// Flows that are established before the attack begins.
pub(super) const ESTABLISHED: usize = 10_000;

/// Blocks of established flows in a turn.
const TURN_BLOCKS: usize = 64;

/// Frames of those who attack nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    /// Frames of established flows.
    pub(super) established: u64,
    /// Those of them that did not pass.
    pub(super) established_lost: u64,
    /// First packets of new flows.
    pub(super) newcomers: u64,
    /// Those of them that did not pass.
    pub(super) newcomers_lost: u64,
    /// The attackers' frames.
    pub(super) attack: u64,
    /// Those of them that did not pass.
    pub(super) attack_stopped: u64,
}

/// Who sends a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sender {
    /// The host of an established flow.
    Established,
    /// A host that opens a flow and attacks nobody.
    Newcomer,
    /// An attacker.
    Attacker,
}

/// A worker between two ports in memory.
pub(super) struct Target {
    family: Family,
    worker: Worker<MemoryPort, VirtualClock>,
    counters: Arc<WorkerCounters>,
    clock: VirtualClock,
    spare: Vec<Slot>,
    random: Random,
    tally: Tally,
    sent: u64,
}

impl Target {
    /// A worker that enforces a policy, with [`ESTABLISHED`] flows of it. The policy must permit
    /// [`traffic::numbered`].
    pub(super) fn new(policy: &Compiled, family: Family, config: &WorkerConfig, seed: u64) -> Self {
        let content = Content {
            policy: Arc::new(policy.policy.clone()),
            classifier: Arc::new(policy.classifier.clone()),
            wires: vec![WirePolicy::new(Mode::Enforce, 0)],
            clock: WallClock::default(),
        };
        let counters = Arc::new(WorkerCounters::new(1));
        let wire = WirePorts {
            wire: WireId(0),
            group: 0,
            inside: MemoryPort::default(),
            outside: MemoryPort::default(),
        };
        let (recorder, _) = observe::channel(1);
        let clock = VirtualClock::default();
        let (_publisher, mut readers) = Publisher::new(content, 1);
        let reader = readers.remove(0);
        let worker =
            Worker::new(config, vec![wire], reader, counters.clone(), recorder, clock.clone());
        let (spare, random) = (Slot::pool(BLOCK), Random::new(seed));
        let tally = Tally::default();
        let mut new = Self { family, worker, counters, clock, spare, random, tally, sent: 0 };
        new.establish();
        new
    }

    fn establish(&mut self) {
        for first in (0..ESTABLISHED).step_by(BLOCK) {
            for step in [Step::Open, Step::Answer, Step::Data] {
                for number in first..ESTABLISHED.min(first + BLOCK) {
                    self.send(&established(number, self.family), step, Sender::Established);
                }
                self.judge();
                // No host opens so many at once that its budget ends.
                self.wait_ns(100_000_000);
            }
        }
    }

    /// Lets a frame of a flow arrive: the initiator's from the inside, the responder's from the
    /// outside. False where a block is full and has to be judged first.
    pub(super) fn send(&mut self, flow: &Flow, step: Step, sender: Sender) -> bool {
        let family = self.family;
        let forward = matches!(step, Step::Open | Step::Data);
        self.send_frame(forward, sender, |out| traffic::write(out, flow, family, step, 0))
    }

    fn send_frame(
        &mut self,
        from_inside: bool,
        sender: Sender,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        let Some(mut slot) = self.spare.pop() else { return false };
        slot.fill(write);
        slot.is_cherished = sender == Sender::Established;
        slot.is_newcomer = sender == Sender::Newcomer;
        let count = match sender {
            Sender::Established => &mut self.tally.established,
            Sender::Newcomer => &mut self.tally.newcomers,
            Sender::Attacker => &mut self.tally.attack,
        };
        *count += 1;
        self.sent += 1;
        if let Some((inside, outside)) = self.worker.ports_mut(0) {
            let port = if from_inside { inside } else { outside };
            port.deliver(slot);
        }
        true
    }

    /// Judges what has arrived, and moves the clock by as much as that many packets take. Returns
    /// the ticks that it took.
    pub(super) fn judge(&mut self) -> u64 {
        let Some((inside, outside)) = self.worker.ports_mut(0) else { return 0 };
        let bursts = inside.bursts().max(outside.bursts());
        let arrived = (BLOCK - self.spare.len()) as u64;
        let began = tsc::now();
        for _ in 0..bursts {
            self.worker.poll();
        }
        let took = tsc::now() - began;
        self.wait_ns(arrived * PACKET_NS);
        self.collect();
        took
    }

    fn collect(&mut self) {
        let Some((inside, outside)) = self.worker.ports_mut(0) else { return };
        for port in [inside, outside] {
            let (released, sent) = port.drain();
            for slot in released {
                let lost = if slot.is_cherished {
                    &mut self.tally.established_lost
                } else if slot.is_newcomer {
                    &mut self.tally.newcomers_lost
                } else {
                    &mut self.tally.attack_stopped
                };
                *lost += 1;
                self.spare.push(slot);
            }
            self.spare.extend(sent);
        }
    }

    /// Lets time pass.
    pub(super) fn wait_ns(&mut self, ns: u64) {
        self.clock.advance_to(self.clock.now_ns() + ns);
    }

    /// Lets time pass and polls meanwhile, often enough for the whole table to be aged.
    pub(super) fn age_for_ns(&mut self, ns: u64) {
        let polls = self.capacity();
        for _ in 0..polls {
            self.wait_ns(ns / polls + 1);
            self.worker.poll();
        }
    }

    /// Lets whole blocks come from each side, pass and be dropped, so that the lists of the ports are
    /// as long as they will ever be, and nothing that grows later is theirs.
    fn warm_up(&mut self) {
        for (from_inside, step) in [(true, Step::Data), (false, Step::Reply)] {
            let flow = established(0, self.family);
            while self.send(&flow, step, Sender::Established) {}
            self.judge();
            // No frame: shorter than its Ethernet header.
            while self.send_frame(from_inside, Sender::Attacker, |_| 10) {}
            self.judge();
        }
        self.turn();
        self.tally = Tally::default();
    }

    /// Packets of established flows, in random order and from both sides: ticks a packet.
    fn turn(&mut self) -> f64 {
        let blocks = (0..TURN_BLOCKS).map(|_| {
            self.fill_established(BLOCK);
            self.judge()
        });
        middle(blocks.collect())
    }

    /// Lets `count` packets of established flows arrive.
    pub(super) fn fill_established(&mut self, count: usize) {
        for place in 0..count {
            let number = self.random.below(ESTABLISHED);
            let step = if place % 2 == 0 { Step::Data } else { Step::Reply };
            self.send(&established(number, self.family), step, Sender::Established);
        }
    }

    /// What was sent, and what of it did not pass.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// Flows in the table.
    pub(super) fn flows(&self) -> u64 {
        self.counters.flows.value()
    }

    /// Flows that the table has room for.
    pub(super) fn capacity(&self) -> u64 {
        self.counters.flow_capacity.value()
    }

    /// Flows that made room for others.
    pub(super) fn evicted(&self) -> u64 {
        self.counters.flow_evicted.iter().map(|(_, count)| count).sum()
    }

    /// Frames dropped for a reason, from both sides.
    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        let wire = &self.counters.wires[0];
        let of = |port: &bulkhead_pipeline::counters::PortCounters| {
            port.dropped.of(reason).packets.value()
        };
        of(&wire.inside) + of(&wire.outside)
    }

    /// Whether all frames that were sent are accounted for, as the workers' counters say it.
    pub(super) fn is_accounted(&self) -> bool {
        let wire = &self.counters.wires[0];
        let received = wire.inside.received.packets.value() + wire.outside.received.packets.value();
        self.counters.balance().is_exact() && received == self.sent
    }

    /// A number for whoever needs one.
    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

/// The same worker twice.
pub(super) struct Twins {
    /// The one that is not attacked.
    pub(super) calm: Target,
    /// The one that is.
    pub(super) attacked: Target,
    /// What the heap grew by at most while the attack went on.
    pub(super) grown_bytes: usize,
    calm_ticks: Vec<f64>,
    attacked_ticks: Vec<f64>,
    attack_ticks: Vec<f64>,
}

impl Twins {
    /// Both, with their established flows.
    pub(super) fn new(policy: &Compiled, family: Family, config: &WorkerConfig, seed: u64) -> Self {
        let mut calm = Target::new(policy, family, config, seed);
        let mut attacked = Target::new(policy, family, config, seed);
        for target in [&mut calm, &mut attacked] {
            target.warm_up();
        }
        Self {
            calm,
            attacked,
            grown_bytes: 0,
            calm_ticks: Vec::new(),
            attacked_ticks: Vec::new(),
            attack_ticks: Vec::new(),
        }
    }

    /// The attack: `write` lets packets arrive until it is over, which it says by false; they are
    /// judged by the block, with the clock running.
    pub(super) fn attack(&mut self, mut write: impl FnMut(&mut Target) -> bool) {
        loop {
            let before = self.attacked.tally().attack;
            let goes_on = write(&mut self.attacked);
            self.judge_attack(before);
            if !goes_on {
                return;
            }
        }
    }

    /// Turns of established flows, of both in turns; between those of the one that is attacked
    /// `write` may go on with the attack.
    pub(super) fn measure(&mut self, rounds: usize, mut write: impl FnMut(&mut Target)) {
        for _ in 0..rounds {
            self.calm_ticks.push(self.calm.turn());
            for _ in 0..4 {
                let before = self.attacked.tally().attack;
                write(&mut self.attacked);
                self.judge_attack(before);
            }
            self.attacked_ticks.push(self.attacked.turn());
        }
    }

    /// Judges a block of the attack, before which `before` of its frames were sent.
    fn judge_attack(&mut self, before: u64) {
        let attacked = &mut self.attacked;
        let written = attacked.tally().attack - before;
        let (ticks, grown) = heap::peak_during(|| attacked.judge());
        self.grown_bytes = self.grown_bytes.max(grown);
        // A few frames say more of the loop around them than of themselves.
        if written >= BLOCK as u64 / 4 {
            self.attack_ticks.push(ticks as f64 / written as f64);
        }
    }

    /// What an established flow's packet takes without the attack.
    pub(super) fn calm_cycles(&self) -> f64 {
        median(self.calm_ticks.clone())
    }

    /// What it takes under attack.
    pub(super) fn attacked_cycles(&self) -> f64 {
        median(self.attacked_ticks.clone())
    }

    /// What a packet of the attack takes.
    pub(super) fn attack_cycles(&self) -> f64 {
        median(self.attack_ticks.clone())
    }
}

/// The `number`th established flow: both TCP and UDP.
pub(super) fn established(number: usize, family: Family) -> Flow {
    traffic::numbered(number, family, true)
}

/// A worker as it is by default.
pub(super) fn default_config() -> WorkerConfig {
    WorkerConfig { flows: FlowTableConfig::default(), ..WorkerConfig::default() }
}

/// Whether a frame of this flow is one that workers take: attackers are not served by frames that
/// do not parse.
pub(super) fn is_possible(flow: &Flow, family: Family) -> bool {
    let mut slot = [0_u8; 128];
    let len = traffic::write(&mut slot, flow, family, Step::Open, 0);
    bulkhead_pipeline::parse::parse(&slot[..len], WireId(0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacks::compiled;

    #[test]
    fn established_flows_pass_and_are_counted() {
        let policy = compiled(traffic::PERMISSIVE.to_owned()).expect("a policy");
        for family in [Family::V4, Family::V6] {
            let mut target = Target::new(&policy, family, &default_config(), 1);
            assert_eq!(target.flows(), ESTABLISHED as u64);
            assert_eq!(target.tally().established_lost, 0);
            target.turn();
            assert_eq!(target.tally().established_lost, 0);
            assert!(target.is_accounted());
        }
    }
}
