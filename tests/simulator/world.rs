//! The world and its loop: time passes, something changes, hosts and attackers send, workers poll,
//! and what they did is judged.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bulkhead_pipeline::conntrack::Timeouts;
use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::handover;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::owner::OwnerRule;
use bulkhead_pipeline::record::{self, Event as Told, RecordConfig, RecordSource};
use bulkhead_pipeline::snapshot::{Mode, Reader};
use bulkhead_pipeline::verdict::{DropReason, Verdict};
use bulkhead_pipeline::worker::{WirePorts, Worker, WorkerConfig};
use bulkhead_rules::headers::WireId;
use bulkhead_rules::policy::Policy;

use super::attackers;
use super::books::Books;
use super::cable::{Cable, Weather};
use super::control::Control;
use super::defects::{Defect, Sabotage};
use super::frame::{InFlight, Origin};
use super::hosts::{Outbox, Talk};
use super::model::{Circumstances, Judged, Model};
use super::port::{
    Arriving, Device, Event, FrameId, Interrupt, Opinion, Place, SharedLedger, SimClock, SimPort,
};
use super::random::Random;
use super::reader::read;
use super::report::{Figures, Report, Violation};

/// Which world, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What determines everything.
    pub seed: u64,
    /// Frames that workers judge until the world ends.
    pub steps: u64,
    /// What goes wrong on purpose.
    pub defect: Option<Defect>,
}

/// Runs a world to its end, or to the first violation.
pub fn run(options: Options) -> Report {
    let mut world = World::new(options);
    let mut violation = None;
    while violation.is_none() && world.figures.steps < options.steps {
        violation = world.turn().and_then(|()| world.compare()).err();
    }
    if violation.is_none() {
        violation = world.end().err();
    }
    let violation = violation.map(|what| {
        let history = world.history_of_last();
        Violation { seed: options.seed, step: world.figures.steps, what, history }
    });
    Report { figures: world.into_figures(), violation }
}

/// Conversations at a time.
const TALKS: usize = 40;
/// Frames that the queue of a port has room for; what comes beyond is lost before the gateway.
const QUEUE_FRAMES: usize = 512;
/// Records of a worker that may wait: few, so that some are lost.
const RECORDS: usize = 256;
/// Judged frames that a violation can look back on.
const REMEMBERED: usize = 6_000;

/// What is special about a world.
#[derive(Clone, Copy, Debug)]
struct Nature {
    wires: u16,
    /// Whether the wires are one redundant group, over which conversations wander.
    is_redundant: bool,
    workers: usize,
    /// Whether tables have room for all that can happen.
    is_roomy: bool,
    /// Whether the inside links carry longer frames than the outside ones.
    is_jumbo: bool,
    weather: Weather,
    /// Whether somebody wants to know of flows: wires that observe then follow forbidden ones, too.
    has_records: bool,
    /// Chances in a thousand for each turn.
    changes: u32,
    attacks: u32,
    stalls: u32,
    full_queues: u32,
}

struct World {
    nature: Nature,
    random: Random,
    ledger: SharedLedger,
    devices: Vec<Vec<Rc<RefCell<Device>>>>,
    workers: Vec<Worker<SimPort, SimClock>>,
    /// What each worker tells of flows, in worlds with records.
    records: Vec<RecordReader>,
    control: Rc<RefCell<Control>>,
    /// What is in force, and what a worker that is at work may judge by, too.
    in_force: Vec<Arc<Policy>>,
    interrupt: Interrupt,
    sabotage: Option<Rc<RefCell<Sabotage>>>,
    defect: Option<Defect>,
    model: Model,
    books: Books,
    inward: Cable,
    outward: Cable,
    /// Frames in the queues of ports, by what is written on them.
    queued: HashMap<u64, InFlight>,
    next_tag: u64,
    talks: Vec<Talk>,
    talks_begun: u64,
    outbox: Outbox,
    /// Turns until a link comes up again, by port.
    links_down: Vec<u32>,
    history: VecDeque<Past>,
    figures: Figures,
}

/// A frame that was judged.
struct Past {
    at_ns: u64,
    place: Place,
    frame: FrameId,
    origin: Origin,
    is_damaged: bool,
    bytes: Vec<u8>,
    verdict: Verdict,
}

impl World {
    fn new(options: Options) -> Self {
        let mut random = Random::new(options.seed);
        let nature = Nature::new(&mut random, options.seed);
        let ledger = SharedLedger::default();
        let config = config(&nature, options.seed);
        let mut worker_config = config.clone();
        match options.defect {
            Some(Defect::NeverExpires) => worker_config.flows.timeouts = long_timeouts(),
            Some(Defect::EndsTooEarly) => worker_config.flows.timeouts.tcp_established_s = 1,
            _ => {}
        }
        let (control, readers) =
            Control::new(random.fork(), nature.wires, nature.workers, options.defect);
        let sabotage = options.defect.map(|defect| {
            let policy = control.content.policy.clone();
            Rc::new(RefCell::new(Sabotage::new(defect, policy, control.at(0))))
        });
        let (in_force, interrupt) = (vec![control.content.policy.clone()], Interrupt::default());
        let ports = usize::from(nature.wires) * 2;
        let devices: Vec<Vec<_>> = (0..nature.workers)
            .map(|_| {
                let device = |port| device(&nature, port, sabotage.clone(), interrupt.clone());
                (0..ports).map(device).collect()
            })
            .collect();
        let workers = workers(&nature, &worker_config, &devices, readers, &ledger, options.seed);
        let (workers, records) = with_records(&nature, workers);
        let talks_begun = TALKS as u64;
        let mut talk_random = random.fork();
        let talks = (0..TALKS)
            .map(|place| {
                let id = (place, place as u64);
                Talk::new(&mut talk_random, nature.wires, id, nature.is_jumbo)
            })
            .collect();
        Self {
            model: Model::new(config.flows.timeouts, &config.fragments, nature.is_roomy),
            books: Books::new(ports),
            inward: Cable::new(nature.weather, random.fork()),
            outward: Cable::new(nature.weather, random.fork()),
            queued: HashMap::new(),
            next_tag: 0,
            talks,
            talks_begun,
            outbox: Outbox::new(),
            links_down: vec![0; ports],
            history: VecDeque::new(),
            figures: Figures { runs: 1, ..Figures::default() },
            defect: options.defect,
            nature,
            random,
            ledger,
            devices,
            workers,
            records,
            control: Rc::new(RefCell::new(control)),
            in_force,
            interrupt,
            sabotage,
        }
    }

    fn now_ns(&self) -> u64 {
        self.ledger.lock().now_ns()
    }

    /// One turn of the world.
    fn turn(&mut self) -> Result<(), String> {
        self.pass_time();
        self.change();
        self.speak();
        self.deliver_inward();
        self.set_queues();
        self.poll()?;
        self.read_records();
        self.deliver_outward();
        Ok(())
    }

    fn pass_time(&mut self) {
        let by_ns = match self.random.below(1000) {
            0..3 => self.random.between(1_000, 30_000) * 1_000_000,
            3..20 => self.random.between(50, 900) * 1_000_000,
            20..300 => self.random.between(1, 20) * 1_000_000,
            _ => self.random.between(0, 2_000_000),
        };
        self.ledger.lock().advance_ns(by_ns);
    }

    fn change(&mut self) {
        let now_ns = self.now_ns();
        if self.random.permille(self.nature.changes) {
            if self.random.permille(300) {
                let control = self.control.clone();
                let happens = move || control.borrow_mut().change_policy(now_ns);
                let calls = self.random.below(8) as u32;
                *self.interrupt.borrow_mut() = Some((calls, Box::new(happens)));
            } else {
                self.control.borrow_mut().change(now_ns);
            }
        }
        if let Some(sabotage) = &self.sabotage {
            let mut sabotage = sabotage.borrow_mut();
            let control = self.control.borrow();
            sabotage.policy = control.content.policy.clone();
            sabotage.at = control.at(now_ns);
        }
        for port in 0..self.links_down.len() {
            match self.links_down[port] {
                0 if self.random.permille(1) => {
                    self.links_down[port] = self.random.between(1, 30) as u32;
                    self.figures.links_down += 1;
                }
                0 => continue,
                turns => self.links_down[port] = turns - 1,
            }
            for worker in &self.workers {
                let wire = &worker.counters().wires[port / 2];
                let link = if port % 2 == 0 { &wire.inside_link } else { &wire.outside_link };
                link.set(self.links_down[port] == 0);
            }
        }
    }

    /// Hosts and attackers send.
    fn speak(&mut self) {
        let now_ns = self.now_ns();
        for _ in 0..self.random.between(1, 8) {
            let place = self.random.below(self.talks.len());
            self.talks[place].poke(now_ns, &mut self.random, &mut self.outbox);
            if self.talks[place].is_over {
                self.replace(place);
            }
        }
        if self.random.permille(self.nature.attacks) {
            let (wires, frames) = (self.nature.wires, &mut self.outbox.frames);
            attackers::attack(&mut self.random, wires, &self.talks, frames);
        }
        self.post(now_ns);
    }

    /// Another conversation in the place of one that is over.
    fn replace(&mut self, place: usize) {
        self.figures.closed_connections += u64::from(self.talks[place].is_closed());
        let id = (place, self.talks_begun);
        self.talks_begun += 1;
        let again =
            self.random.permille(150).then(|| self.talks[place].again(&mut self.random, id));
        self.talks[place] = again.flatten().unwrap_or_else(|| {
            Talk::new(&mut self.random, self.nature.wires, id, self.nature.is_jumbo)
        });
    }

    fn post(&mut self, now_ns: u64) {
        let wanders = self.nature.is_redundant && self.nature.wires > 1;
        for mut frame in self.outbox.frames.drain(..) {
            if wanders && self.random.permille(300) {
                frame.place.wire = 1 - frame.place.wire;
            }
            self.inward.send(frame, now_ns);
        }
    }

    /// What has come over the cables goes into the queues of the ports.
    fn deliver_inward(&mut self) {
        let now_ns = self.now_ns();
        while let Some(frame) = self.inward.arrived(now_ns) {
            let queue = spread(&frame, self.workers.len());
            let mut device = self.devices[queue][frame.place.index()].borrow_mut();
            if device.arriving.len() >= QUEUE_FRAMES {
                continue;
            }
            self.next_tag += 1;
            let multisegment = self.nature.is_jumbo && self.random.permille(2);
            let (tag, bytes) = (self.next_tag, frame.bytes.clone());
            device.arriving.push_back(Arriving { tag, bytes, multisegment });
            if !multisegment {
                self.queued.insert(tag, frame);
            }
        }
    }

    /// How much each transmit queue takes this time.
    fn set_queues(&mut self) {
        for device in self.devices.iter().flatten() {
            let mut device = device.borrow_mut();
            let is_full = self.random.permille(self.nature.full_queues);
            self.figures.full_queues += u64::from(is_full);
            device.room = if is_full { self.random.below(20) } else { usize::MAX };
            device.buffers = if self.random.permille(20) { 0 } else { 64 };
        }
    }

    fn poll(&mut self) -> Result<(), String> {
        for worker in 0..self.workers.len() {
            if self.random.permille(self.nature.stalls) {
                self.figures.stalls += 1;
                if self.random.permille(500) {
                    continue;
                }
                let by_ns = self.random.between(1, 40) * 1_000_000;
                let readings = self.random.below(6) as u32;
                self.ledger.lock().stall(readings, by_ns);
            }
            self.in_force.clear();
            self.in_force.push(self.control.borrow().content.policy.clone());
            self.workers[worker].poll();
            let policy = self.control.borrow().content.policy.clone();
            if !Arc::ptr_eq(&policy, &self.in_force[0]) {
                self.figures.published_at_work += 1;
                self.in_force.push(policy);
            }
            self.settle()?;
        }
        Ok(())
    }

    /// Takes in what a worker has done.
    fn settle(&mut self) -> Result<(), String> {
        let events = std::mem::take(&mut self.ledger.lock().events);
        for event in events {
            let mut mode = Mode::Enforce;
            match &event {
                Event::Received { frame, tag, place, now_ns } => {
                    if let Some(queued) = self.queued.remove(tag) {
                        self.books.received(*frame, queued, *place, *now_ns);
                    }
                }
                Event::Judged(opinion) => mode = self.judged(opinion)?,
                Event::Originated { .. } => self.figures.answers += 1,
                _ => {}
            }
            let now_ns = self.now_ns();
            if let Some(sent) = self.books.note(event, mode)? {
                self.outward.send(sent, now_ns);
            }
        }
        Ok(())
    }

    /// Asks the model about a verdict. Returns the mode of the frame's wire.
    fn judged(&mut self, opinion: &Opinion) -> Result<Mode, String> {
        let Opinion { frame: id, verdict, now_ns, .. } = *opinion;
        self.figures.steps += 1;
        self.figures.forwarded += u64::from(verdict == Verdict::Forward);
        let word = id ^ now_ns.rotate_left(20) ^ verdict_number(verdict).rotate_left(50);
        self.figures.digest = (self.figures.digest ^ word).wrapping_mul(0x0100_0000_01b3);
        let Some(inside) = self.books.inside(id) else {
            return Err("a verdict on a frame that is not in the gateway".to_owned());
        };
        let Some(frame) = &inside.frame else {
            return Err("a verdict on the gateway's own answer".to_owned());
        };
        let place = inside.place();
        match frame.sender.origin {
            Origin::Honest => self.figures.honest += 1,
            Origin::Blind | Origin::Hostile => self.figures.hostile += 1,
        }
        if self.history.len() == REMEMBERED {
            self.history.pop_front();
        }
        self.history.push_back(Past {
            at_ns: now_ns,
            place,
            frame: id,
            origin: frame.sender.origin,
            is_damaged: frame.is_damaged,
            bytes: frame.bytes.clone(),
            verdict,
        });
        let control = self.control.borrow();
        let wire = &control.content.wires[usize::from(place.wire)];
        let circumstances = Circumstances {
            policies: &self.in_force,
            at: control.at(now_ns),
            now_ns,
            observes: wire.mode == Mode::Observe,
            follows: wire.mode == Mode::Observe && self.nature.has_records,
            adopts: wire.adopts(now_ns),
            max_frame_len: max_frame_len(&self.nature, place.opposite().index()),
        };
        let judged = Judged {
            id,
            // One worker judges in the order of arrival; several hand frames over in between.
            judged_before: if self.workers.len() == 1 { id } else { opinion.last },
            waited_ns: now_ns - inside.since_ns(),
            sender: frame.sender,
            is_damaged: frame.is_damaged,
            bytes: &frame.bytes,
            wire: place.wire,
            group: self.nature.group(place.wire),
            headers: opinion.headers,
            verdict,
            rule: opinion.rule,
        };
        // Who stops gives up what waits, and judges nothing.
        if verdict != Verdict::Drop(DropReason::Shutdown) {
            self.model.judged(&judged, &circumstances)?;
        }
        Ok(wire.mode)
    }

    /// Somebody reads what is told of flows, now and then, and not always all of it.
    fn read_records(&mut self) {
        for reader in &mut self.records {
            if self.random.permille(200) {
                let some = self.random.below(2 * RECORDS);
                reader.read(some);
            }
        }
    }

    /// What has left the gateway reaches hosts, who answer.
    fn deliver_outward(&mut self) {
        let now_ns = self.now_ns();
        while let Some(frame) = self.outward.arrived(now_ns) {
            // A host checks the checksum before it looks at a frame.
            let Some((place, _)) = frame.sender.talk.filter(|_| !frame.is_damaged) else {
                continue;
            };
            let talk = &mut self.talks[place];
            if talk.owns(&frame.sender) {
                talk.hear(&frame, now_ns, &mut self.random, &mut self.outbox);
            }
        }
        self.post(now_ns);
    }

    /// The books against the counters.
    fn compare(&mut self) -> Result<(), String> {
        let counters: Vec<&WorkerCounters> = self.workers.iter().map(|w| &**w.counters()).collect();
        if self.defect == Some(Defect::DropUncounted) && self.random.permille(5) {
            let dropped = counters[0].wires[0]
                .inside
                .dropped
                .of(bulkhead_pipeline::verdict::DropReason::Policy);
            dropped.packets.set(dropped.packets.value().saturating_sub(1));
        }
        if self.random.permille(5) {
            self.books.forget_order();
        }
        self.books.compare(&counters)
    }

    /// Stops the workers: what they still hold is sent or counted.
    fn end(&mut self) -> Result<(), String> {
        // Each learns of the others' leaving in the round after.
        for _ in 0..2 {
            for worker in &mut self.workers {
                worker.leave();
            }
        }
        for worker in &mut self.workers {
            worker.shut_down();
        }
        self.settle()?;
        for reader in &mut self.records {
            reader.end()?;
            self.figures.with_records = 1;
        }
        let counters: Vec<&WorkerCounters> = self.workers.iter().map(|w| &**w.counters()).collect();
        self.books.compare_last(&counters)
    }

    /// What is known of the last frame's conversation.
    fn history_of_last(&self) -> Vec<String> {
        let Some(last) = self.history.back() else { return Vec::new() };
        let between = last.hosts();
        let of_same = self.history.iter().rev().filter(|past| {
            std::ptr::eq(*past, last) || (between.is_some() && past.hosts() == between)
        });
        let mut lines: Vec<String> = of_same.take(24).map(Past::line).collect();
        lines.reverse();
        let hex: String = last.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push(format!("bytes: {hex}"));
        lines.push(format!("{:?}", self.nature));
        let control = self.control.borrow();
        let (content, at) = (&control.content, control.at(last.at_ns));
        lines.push(format!("{at:?}, {:?}", content.wires));
        for id in content.policy.order() {
            if let Some(rule) = content.policy.rule(id) {
                let side = |id| content.policy.endpoint(id).label.clone();
                let service = &content.policy.service(rule.service).label;
                lines.push(format!(
                    "{id:?} {}: {} -> {} between {} {service} {:?} vlan {:?} wire {:?} {:?}..{:?}",
                    rule.name,
                    side(rule.from),
                    side(rule.to),
                    rule.between,
                    rule.action,
                    rule.vlans,
                    rule.wires,
                    rule.starts,
                    rule.expires
                ));
            }
        }
        lines
    }

    fn into_figures(self) -> Figures {
        let mut figures = self.figures;
        let add = |sum: &mut super::cable::NetworkFaults, more: super::cable::NetworkFaults| {
            sum.lost += more.lost;
            sum.duplicated += more.duplicated;
            sum.corrupted += more.corrupted;
            sum.truncated += more.truncated;
            sum.delayed += more.delayed;
        };
        add(&mut figures.network, self.inward.faults);
        add(&mut figures.network, self.outward.faults);
        figures.published = self.control.borrow().publications;
        figures.owed = self.model.owed;
        figures.revoked = self.model.ended;
        figures.dropped = self.books.dropped;
        figures.would_drop = self.books.would_drop;
        figures.conversations = self.talks_begun;
        figures.virtual_ms = self.ledger.lock().now_ns() / 1_000_000;
        for worker in &self.workers {
            let counters = worker.counters();
            figures.flows += counters.flow_inserts.value();
            figures.expired += counters.flow_expired.total();
            figures.evicted += counters.flow_evicted.total();
            figures.refused += counters.flow_refused.value();
            figures.handed_over += counters.balance().handed_out;
        }
        figures
    }
}

/// Who reads what a worker tells of flows.
struct RecordReader {
    source: RecordSource,
    read: u64,
}

impl RecordReader {
    fn read(&mut self, most: usize) {
        self.read += std::iter::from_fn(|| self.source.flow()).take(most).count() as u64;
    }

    /// Reads the rest: nothing is lost that was not counted as lost.
    fn end(&mut self) -> Result<(), String> {
        self.read(RECORDS);
        let counters = self.source.counters();
        let told: u64 = Told::ALL.iter().map(|&event| counters.told(event).value()).sum();
        match told {
            0 => Err("nobody was told of a flow".to_owned()),
            told if told == self.read => Ok(()),
            told => Err(format!("{told} records were told and {} came", self.read)),
        }
    }
}

impl Past {
    /// Between whom the frame goes, and where.
    fn hosts(&self) -> Option<(u16, [u128; 2])> {
        let headers = read(&self.bytes, self.place.wire)?.headers;
        let mut ends = [headers.src, headers.dst];
        ends.sort_unstable();
        Some((self.place.wire, ends))
    }

    fn line(&self) -> String {
        let Self { at_ns, place, frame, origin, is_damaged, bytes, verdict } = self;
        let side = if place.inside { "inside" } else { "outside" };
        let damaged = if *is_damaged { ", damaged" } else { "" };
        let what = match read(bytes, place.wire) {
            Some(seen) => {
                let h = &seen.headers;
                format!(
                    "{:?} vlan {}.{} protocol {} {:x}:{} -> {:x}:{} {} -> {} {:?}",
                    seen.what,
                    h.tags.outer,
                    h.tags.inner,
                    h.protocol,
                    h.src,
                    h.src_port,
                    h.dst,
                    h.dst_port,
                    h.src_mac,
                    h.dst_mac,
                    seen.piece
                )
            }
            None => "unreadable".to_owned(),
        };
        let at_ms = *at_ns as f64 / 1e6;
        format!(
            "{at_ms:.3} ms, w{} {side}, #{frame} {origin:?}{damaged}: {what}: {verdict:?}",
            place.wire
        )
    }
}

impl Nature {
    fn new(random: &mut Random, seed: u64) -> Self {
        let is_calm = random.permille(250);
        let weather = if is_calm {
            Weather::default()
        } else {
            Weather {
                loss: random.pick(&[0, 5, 30]),
                duplicates: random.pick(&[0, 10, 40]),
                corruption: random.pick(&[0, 5, 30]),
                truncation: random.pick(&[0, 5, 20]),
                delay: random.pick(&[0, 50, 200]),
                longest_delay_ns: random.pick(&[1, 10, 60]) * 1_000_000,
            }
        };
        Self {
            wires: random.between(1, 2) as u16,
            is_redundant: random.permille(300),
            workers: random.pick(&[1, 1, 1, 2, 3]),
            is_roomy: random.permille(600),
            is_jumbo: random.permille(200),
            weather,
            has_records: seed % 2 == 0,
            changes: random.pick(&[2, 10, 25]),
            attacks: random.pick(&[0, 50, 250, 600]),
            stalls: if is_calm { 0 } else { random.pick(&[0, 10, 60]) },
            full_queues: if is_calm { 0 } else { random.pick(&[0, 20, 200]) },
        }
    }
}

impl Nature {
    /// The redundancy group of a wire.
    fn group(&self, wire: u16) -> u16 {
        if self.is_redundant { 0 } else { wire }
    }
}

fn config(nature: &Nature, seed: u64) -> WorkerConfig {
    let mut config = WorkerConfig {
        rejects_per_second: 200,
        transmit_patience_ns: 4_000_000,
        ..WorkerConfig::default()
    };
    config.flows.seed = Some([seed, 1, 2, 3]);
    config.flows.timeouts = timeouts();
    config.fragments.seed = Some([seed, 4, 5, 6]);
    config.fragments.timeout_s = 3;
    if nature.is_roomy {
        (config.flows.capacity, config.flows.per_source_limit) = (1 << 16, u32::MAX);
        config.new_flows_per_source = 1_000_000;
    } else {
        (config.flows.capacity, config.flows.per_source_limit) = (64, 24);
        config.new_flows_per_source = 20;
        (config.fragments.capacity, config.fragments.wait_frames) = (16, 12);
    }
    config
}

/// Short enough for conversations that pause to outlive some.
fn timeouts() -> Timeouts {
    Timeouts {
        tcp_syn_sent_s: 5,
        tcp_syn_received_s: 5,
        tcp_adopted_s: 20,
        tcp_established_s: 40,
        tcp_half_closed_s: 15,
        tcp_closing_s: 6,
        tcp_time_wait_s: 6,
        tcp_closed_s: 3,
        udp_unanswered_s: 4,
        udp_answered_s: 12,
        icmp_unanswered_s: 4,
        icmp_answered_s: 8,
        other_unanswered_s: 5,
        other_answered_s: 15,
    }
}

fn long_timeouts() -> Timeouts {
    let Timeouts { udp_unanswered_s, udp_answered_s, .. } = timeouts();
    Timeouts {
        udp_unanswered_s: udp_unanswered_s * 1000,
        udp_answered_s: udp_answered_s * 1000,
        ..timeouts()
    }
}

fn max_frame_len(nature: &Nature, port: usize) -> usize {
    if nature.is_jumbo && port % 2 == 0 { 9_018 } else { 1_522 }
}

fn device(
    nature: &Nature,
    port: usize,
    sabotage: Option<Rc<RefCell<Sabotage>>>,
    interrupt: Interrupt,
) -> Rc<RefCell<Device>> {
    Rc::new(RefCell::new(Device {
        arriving: VecDeque::new(),
        room: usize::MAX,
        buffers: 64,
        max_frame_len: max_frame_len(nature, port),
        interrupt,
        sabotage,
    }))
}

fn workers(
    nature: &Nature,
    config: &WorkerConfig,
    devices: &[Vec<Rc<RefCell<Device>>>],
    readers: Vec<Reader>,
    ledger: &SharedLedger,
    seed: u64,
) -> Vec<Worker<SimPort, SimClock>> {
    let ids: Vec<WireId> = (0..nature.wires).map(WireId).collect();
    let rule = OwnerRule::keyed(nature.workers, Some([seed, 7, 8, 9]));
    let peers = handover::connect(&rule, &ids, 128);
    (devices.iter().zip(readers).zip(peers))
        .map(|((devices, reader), peers)| {
            let port = |wire: u16, inside: bool| {
                let place = Place { wire, inside };
                SimPort::new(place, devices[place.index()].clone(), ledger.clone())
            };
            let wires = (0..nature.wires)
                .map(|wire| WirePorts {
                    wire: WireId(wire),
                    group: nature.group(wire),
                    inside: port(wire, true),
                    outside: port(wire, false),
                })
                .collect();
            let counters = Arc::new(WorkerCounters::new(nature.wires.into()));
            let recorder = observe::channel(1).0;
            let clock = SimClock(ledger.clone());
            let worker = Worker::new(config, wires, reader, counters, recorder, clock);
            if nature.workers > 1 { worker.with_peers(peers) } else { worker }
        })
        .collect()
}

/// Lets workers tell of flows, in worlds in which somebody wants to know.
fn with_records(
    nature: &Nature,
    workers: Vec<Worker<SimPort, SimClock>>,
) -> (Vec<Worker<SimPort, SimClock>>, Vec<RecordReader>) {
    if !nature.has_records {
        return (workers, Vec::new());
    }
    let config = RecordConfig { ring: RECORDS, interval_s: 2, ..RecordConfig::default() };
    let tells = |worker: Worker<SimPort, SimClock>| {
        let (records, source) = record::channel(&config);
        (worker.with_records(records), RecordReader { source, read: 0 })
    };
    workers.into_iter().map(tells).unzip()
}

/// The queue of a frame: by its addresses and ports as they stand there, so that the two directions
/// of a conversation, its fragments and the errors about it mostly meet different workers.
fn spread(frame: &InFlight, queues: usize) -> usize {
    let Some(seen) = read(&frame.bytes, frame.place.wire) else { return 0 };
    let h = seen.headers;
    let words = [h.src as u64, h.dst as u64, h.src_port.into(), h.dst_port.into()];
    let hash = words.iter().fold(7_u64, |hash, word| {
        (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    (hash >> 32) as usize % queues
}

fn verdict_number(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Forward => 1,
        Verdict::Reject => 2,
        Verdict::Drop(reason) => 3 + reason as u64,
    }
}
