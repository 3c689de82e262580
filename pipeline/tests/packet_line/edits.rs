//! Edits that are published while flows live: what passes is what the policy in force permits.
//!
//! Random sequences of edits, whole publications, steps of time and packets run against a model that
//! asks the oracle about every packet. The edits list exactly the footprints that they touch. That
//! the model would notice a flow judged too late is shown by leaving one of them out.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::common::{Gateway, ZERO_MS, content, received};
use bulkhead_pipeline::conntrack::{Timeouts, flag};
use bulkhead_pipeline::flow_table::FlowTableConfig;
use bulkhead_pipeline::fragment::FragmentTableConfig;
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::parse::parse;
use bulkhead_pipeline::snapshot::{Content, EditedContent, Mode, WirePolicy};
use bulkhead_pipeline::worker::{Clock, WorkerConfig};
use bulkhead_rules::classifier::{Changes, Footprint, Scratch};
use bulkhead_rules::compile::{Compiler, Limits};
use bulkhead_rules::headers::{Headers, Mac, PolicyTime, WireId};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::edit::{Delta, RandomEdits};
use bulkhead_rules::policy::{Action, Policy, RuleId};

/// Hosts; the first half is inside.
const HOSTS: usize = 6;
/// Hosts of which rules name the MAC address, and which others pretend to be.
const DEVICES: [usize; 2] = [1, 4];
/// Longer than a run.
const NEVER_S: u32 = 1_000_000;
const STEPS: usize = 300;

#[test]
fn what_passes_is_what_the_edited_policy_permits() {
    let mut total = Tally::default();
    for seed in 0..24 {
        let tally = Run::new(seed, false).go().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        total.add(&tally);
    }
    println!("{total:?}");
    assert!(total.reaffirmed > 200 && total.reclassified > 500 && total.revoked > 100);
    assert!(total.adopted > 100 && total.passed > 3_000 && total.stopped > 5_000, "{total:?}");
    assert!(total.incremental > 200, "{total:?}");
}

#[test]
fn a_footprint_that_an_edit_leaves_out_is_noticed() {
    let noticed = (0..40).filter(|&seed| Run::new(seed, true).go().is_err()).count();
    assert!(noticed >= 10, "the model noticed {noticed} of 40 runs with a defect");
}

#[test]
fn only_what_an_edit_touches_is_judged_again() {
    for first_epoch in [1, 1 << 32, (1 << 32) - 2] {
        let text = Sketch::new(&mut Random(0)).text().replace("rules:\n", ALLOW_UDP);
        let content = content(&text, Mode::Enforce, 0);
        let config = WorkerConfig::default();
        let mut gateway = Gateway::starting_at(content.clone(), &config, first_epoch);
        let frames: Vec<_> =
            [(0, 3), (0, 4), (1, 3), (1, 4)].map(|(a, b)| probe_frame(a, b)).into_iter().collect();
        assert_eq!(gateway.outward(&frames), frames);
        let judged = |gateway: &Gateway| {
            let counters = gateway.worker.counters();
            (counters.flow_reclassified.value(), counters.flow_reaffirmed.value())
        };
        let edit = |gateway: &mut Gateway, hosts: [Option<usize>; 2]| {
            let place = |a: usize, b: usize| footprint(&content, &headers(&probe_frame(a, b)));
            let facing = |host: usize| (host + HOSTS / 2) % HOSTS;
            let [src, dst] = hosts;
            let changes = Changes::Footprints {
                src: src.iter().map(|&host| place(host, facing(host)).src).collect(),
                dst: dst.iter().map(|&host| place(facing(host), host).dst).collect(),
            };
            gateway.publisher.publish_edit(edited(&content, changes));
        };
        edit(&mut gateway, [Some(0), None]);
        assert_eq!(gateway.outward(&frames), frames);
        assert_eq!(judged(&gateway), (2, 2), "both flows of one source");
        edit(&mut gateway, [None, Some(3)]);
        edit(&mut gateway, [Some(0), None]);
        edit(&mut gateway, [None, None]);
        assert_eq!(gateway.outward(&frames), frames);
        assert_eq!(judged(&gateway), (5, 3), "all but the one from 1 to 4, once each");
        assert_eq!(gateway.outward(&frames), frames);
        assert_eq!(judged(&gateway), (5, 3), "nothing happened");
        gateway.publisher.publish_edit(edited(&content, Changes::Everything));
        assert_eq!(gateway.outward(&frames), frames);
        assert_eq!(judged(&gateway), (9, 3));
        edit(&mut gateway, [Some(1), Some(4)]);
        gateway.publisher.publish(content.clone());
        assert_eq!(gateway.outward(&frames), frames);
        assert_eq!(judged(&gateway), (13, 3), "a whole publication leaves no flow alone");
        assert_eq!(gateway.publisher.edits(), 6);
    }
}

const ALLOW_UDP: &str =
    "rules:\n  - {name: all-udp, from: any, to: any, service: udp, action: allow}\n";

/// What a run did.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    passed: u64,
    stopped: u64,
    reaffirmed: u64,
    reclassified: u64,
    revoked: u64,
    adopted: u64,
    /// Edits that were compiled for what they changed.
    incremental: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.stopped += other.stopped;
        self.reaffirmed += other.reaffirmed;
        self.reclassified += other.reclassified;
        self.revoked += other.revoked;
        self.adopted += other.adopted;
        self.incremental += other.incremental;
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }
}

fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, (host * 2 / HOSTS) as u8, host as u8 + 1)
}

fn mac(host: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, host as u8 + 1])
}

fn is_inside(host: usize) -> bool {
    host < HOSTS / 2
}

/// A policy that can be written down and changed.
#[derive(Clone)]
struct Sketch {
    groups: [BTreeSet<usize>; 3],
    rules: Vec<RuleSketch>,
}

#[derive(Clone)]
struct RuleSketch {
    sides: [Side; 2],
    services: BTreeSet<&'static str>,
    allows: bool,
    starts_s: Option<usize>,
    expires_s: Option<usize>,
}

#[derive(Clone, Copy)]
enum Side {
    Any,
    Group(usize),
    Host(usize),
    /// A device with a MAC and an IP address.
    Device(usize),
    /// A device with a MAC address only.
    Card(usize),
}

const SERVICES: [&str; 5] =
    ["udp/1000", "udp/5000-5999", "tcp/80", "tcp/5000-5999", "icmp/echo-request"];

impl Sketch {
    fn new(random: &mut Random) -> Self {
        let mut groups: [BTreeSet<usize>; 3] = Default::default();
        for group in &mut groups {
            group.insert(random.below(HOSTS));
            group.insert(random.below(HOSTS));
        }
        let rules = (0..8).map(|_| RuleSketch::new(random)).collect();
        Self { groups, rules }
    }

    fn edit(&mut self, random: &mut Random) {
        let rule = random.below(self.rules.len());
        match random.below(10) {
            0..=4 => {
                let group = &mut self.groups[random.below(3)];
                let host = random.below(HOSTS);
                if !group.remove(&host) || group.is_empty() {
                    group.insert(host);
                }
            }
            5 => self.rules[rule].allows ^= true,
            6 => self.rules[rule] = RuleSketch::new(random),
            7 => self.rules.swap(rule, 0),
            8 if self.rules.len() < 12 => self.rules.insert(rule, RuleSketch::new(random)),
            _ if self.rules.len() > 5 => drop(self.rules.remove(rule)),
            _ => {}
        }
    }

    fn text(&self) -> String {
        let mut text = String::from("version: 1\ndevices:\n");
        for host in DEVICES {
            let mac = mac(host);
            text.push_str(&format!("  device-{host}: {{mac: \"{mac}\", ip: {}}}\n", address(host)));
            text.push_str(&format!("  card-{host}: {{mac: \"{mac}\"}}\n"));
        }
        text.push_str("services:\n");
        for (index, service) in SERVICES.iter().enumerate() {
            text.push_str(&format!("  service-{index}: {service}\n"));
        }
        text.push_str("groups:\n");
        for (index, group) in self.groups.iter().enumerate() {
            let members: Vec<_> = group.iter().map(|&host| address(host).to_string()).collect();
            text.push_str(&format!("  group-{index}: [{}]\n", members.join(", ")));
        }
        text.push_str("rules:\n");
        for (index, rule) in self.rules.iter().enumerate() {
            let side = |side| match side {
                Side::Any => "any".to_owned(),
                Side::Group(group) => format!("group-{group}"),
                Side::Host(host) => address(host).to_string(),
                Side::Device(host) => format!("device-{host}"),
                Side::Card(host) => format!("card-{host}"),
            };
            let [from, to] = rule.sides.map(side);
            let services: Vec<_> = rule.services.iter().copied().collect();
            let (service, action) =
                (services.join(", "), if rule.allows { "allow" } else { "deny" });
            text.push_str(&format!("  - {{name: r{index}, from: {from}, to: {to}, "));
            text.push_str(&format!("service: [{service}], action: {action}"));
            for (key, second) in [("starts", rule.starts_s), ("expires", rule.expires_s)] {
                if let Some(second) = second {
                    text.push_str(&format!(", {key}: 2026-11-24T06:00:{second:02}Z"));
                }
            }
            text.push_str("}\n");
        }
        // Each host in a class of its own, so that edits of groups move no class.
        for host in 0..HOSTS {
            let at = address(host);
            text.push_str(&format!(
                "  - {{name: pin{host}, from: {at}, to: {at}, service: udp/9, action: deny}}\n"
            ));
        }
        text
    }
}

impl RuleSketch {
    fn new(random: &mut Random) -> Self {
        let mut side = || match random.below(12) {
            0 => Side::Any,
            1..=6 => Side::Group(random.below(3)),
            7 | 8 => Side::Host(random.below(HOSTS)),
            9 | 10 => Side::Device(DEVICES[random.below(2)]),
            _ => Side::Card(DEVICES[random.below(2)]),
        };
        let sides = [side(), side()];
        let count = 1 + random.below(5);
        let services = (0..count).map(|_| SERVICES[random.below(SERVICES.len())]).collect();
        let allows = random.percent(70);
        let mut instant = || random.percent(8).then(|| 1 + random.below(28));
        let (starts_s, ends_after) = (instant(), instant());
        let expires_s = ends_after.map(|after| starts_s.unwrap_or(0) + after);
        Self { sides, services, allows, starts_s, expires_s }
    }
}

/// A conversation that may take place: `a` is the one that has the client's port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Talk {
    a: usize,
    b: usize,
    kind: TalkKind,
    port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum TalkKind {
    Udp,
    Tcp,
    Echo,
}

impl Talk {
    /// A packet of `a` or, as a reply, of `b`, who says that its MAC address is `sender_mac`.
    fn builder(&self, reply: bool, sender_mac: Mac) -> FrameBuilder {
        let (from, to) = if reply { (self.b, self.a) } else { (self.a, self.b) };
        let frame = FrameBuilder::new().ip(address(from), address(to)).macs(sender_mac, mac(to));
        match (self.kind, reply) {
            (TalkKind::Udp, false) => frame.udp(self.port, 1000),
            (TalkKind::Udp, true) => frame.udp(1000, self.port),
            (TalkKind::Tcp, false) => frame.tcp(self.port, 80, flag::ACK).seq(1000, 2000),
            (TalkKind::Tcp, true) => frame.tcp(80, self.port, flag::ACK).seq(2000, 1000),
            (TalkKind::Echo, false) => frame.echo_request(self.port, 1),
            (TalkKind::Echo, true) => frame.echo_reply(self.port, 1),
        }
    }

    fn sender(&self, reply: bool) -> usize {
        if reply { self.b } else { self.a }
    }
}

fn headers(frame: &[u8]) -> Headers {
    parse(frame, WireId(0)).expect("the model's frames are well formed").headers
}

/// One run: the gateway and the model.
struct Run {
    random: Random,
    gateway: Gateway,
    sketch: Sketch,
    /// Edits of the checked policy, in place of those of the sketch.
    typed: Option<(RandomEdits, Compiler)>,
    content: Content,
    mode: Mode,
    /// The headers that opened each live flow, with the MAC addresses that its verdict rests on.
    flows: HashMap<Talk, Headers>,
    /// The client's port of each conversation, where it is not the first one any more.
    ports: HashMap<(usize, usize, TalkKind), u16>,
    fragment_id: u32,
    /// Whether edits leave out one of the footprints that they touch.
    defective: bool,
    tally: Tally,
}

impl Run {
    fn new(seed: u64, defective: bool) -> Self {
        let mut random = Random(seed);
        let sketch = Sketch::new(&mut random);
        let mut content = content(&sketch.text(), Mode::Enforce, u64::MAX);
        // Every second run edits the checked policy, every fourth with MAC addresses in its edits.
        let typed = (seed % 2 == 1).then(|| {
            let edits = RandomEdits::new(&content.policy, seed).with_rule_percent(40);
            let edits = if seed % 4 == 1 { edits.with_addresses_only() } else { edits };
            let compiler = Compiler::new(&content.policy, &Limits::default());
            let mut compiler = compiler.expect("the policy compiles");
            content.classifier = compiler.publish();
            (edits, compiler)
        });
        let config = WorkerConfig {
            flows: FlowTableConfig {
                capacity: 4096,
                timeouts: timeouts(),
                ..FlowTableConfig::default()
            },
            // The oracle stops an early fragment at once.
            fragments: FragmentTableConfig { wait_frames: 0, ..FragmentTableConfig::default() },
            ..WorkerConfig::default()
        };
        // Some runs cross the point where the low 32 bits of the epoch begin again.
        let first_epoch = if seed % 3 == 0 { 1 } else { (1 << 32) - 20 };
        let gateway = Gateway::starting_at(content.clone(), &config, first_epoch);
        Self {
            random,
            gateway,
            sketch,
            typed,
            content,
            mode: Mode::Enforce,
            flows: HashMap::new(),
            ports: HashMap::new(),
            fragment_id: 0,
            defective,
            tally: Tally::default(),
        }
    }

    fn go(mut self) -> Result<Tally, String> {
        for step in 0..STEPS {
            let done = match self.random.below(20) {
                0..=4 => self.edit(),
                5 => self.publish_whole(),
                6 => {
                    self.gateway.wait_ms(self.random.next() % 4000);
                    Ok(())
                }
                7 => self.error(),
                8 => self.fragments(),
                _ => self.burst(),
            };
            done.map_err(|what| {
                format!("step {step}: {what}\n{:#?}", self.content.policy.rules())
            })?;
        }
        self.gateway.publisher.collect();
        let counters = self.gateway.worker.counters();
        self.tally.reaffirmed = counters.flow_reaffirmed.value();
        self.tally.reclassified = counters.flow_reclassified.value();
        self.tally.revoked = counters.flow_revoked.value();
        self.tally.adopted = counters.flow_adopted.value();
        if let Some((_, compiler)) = &self.typed {
            self.tally.incremental = compiler.edits().incremental;
        }
        Ok(self.tally)
    }

    fn now(&self) -> PolicyTime {
        self.content.clock.at(self.gateway.clock.now_ns())
    }

    fn permits(&self, headers: &Headers) -> bool {
        permits(&self.content.policy, headers, self.now())
    }

    fn edit(&mut self) -> Result<(), String> {
        let (next, mut changes, delta) = self.next_content();
        if self.random.percent(5) {
            changes = Changes::Everything;
        }
        if let (true, Changes::Footprints { src, dst }) = (self.defective, &mut changes) {
            if self.random.percent(50) {
                src.pop()
            } else {
                dst.pop()
            };
        }
        self.gateway.publisher.publish_edit(EditedContent {
            policy: next.policy.clone(),
            classifier: next.classifier.clone(),
            changes,
            rules_added: delta.rules_added,
            rules_removed: delta.rules_removed,
        });
        self.content = next;
        Ok(())
    }

    /// What an edit makes of the policy in force: of its text, compiled as a whole, or of the checked
    /// policy, compiled for what it changes.
    fn next_content(&mut self) -> (Content, Changes, Delta) {
        let Some((edits, compiler)) = &mut self.typed else {
            self.sketch.edit(&mut self.random);
            let next = content(&self.sketch.text(), self.mode, u64::MAX);
            let changes = self.changes(&next);
            return (next, changes, Delta::default());
        };
        let before = &self.content.policy;
        let (policy, delta) = before.edited(&edits.next(before)).expect("the edit is valid");
        let changes = compiler.edit(&policy, &delta).expect("the policy compiles");
        let (policy, classifier) = (Arc::new(policy), compiler.publish());
        (Content { policy, classifier, ..self.content.clone() }, changes, delta)
    }

    fn publish_whole(&mut self) -> Result<(), String> {
        self.mode = if self.random.percent(30) { Mode::Observe } else { Mode::Enforce };
        self.content = self.next_content().0;
        self.content.wires = vec![WirePolicy::new(self.mode, u64::MAX)];
        self.gateway.publisher.publish(self.content.clone());
        if self.random.percent(50) {
            self.gateway.publisher.collect();
        }
        Ok(())
    }

    /// The footprints that the step from the policy in force to `next` touches: of pairs that are
    /// judged differently, at any time and with whatever MAC addresses, one side or both; and of
    /// hosts that get another footprint.
    fn changes(&mut self, next: &Content) -> Changes {
        let (mut src, mut dst) = (BTreeSet::new(), BTreeSet::new());
        let times = instants(&self.content.policy, &next.policy, self.now());
        for (a, b) in pairs() {
            let probe = probes(a, b)[0];
            let (before, after) = (footprint(&self.content, &probe), footprint(next, &probe));
            if before.src != after.src {
                src.insert(before.src);
            }
            if before.dst != after.dst {
                dst.insert(before.dst);
            }
            let differs = probes(a, b).iter().any(|headers| {
                times.iter().any(|&at| {
                    permits(&self.content.policy, headers, at) != permits(&next.policy, headers, at)
                })
            });
            if differs {
                let which = self.random.below(3);
                if which != 0 {
                    src.insert(before.src);
                }
                if which != 1 {
                    dst.insert(before.dst);
                }
            }
        }
        Changes::Footprints { src: src.into_iter().collect(), dst: dst.into_iter().collect() }
    }

    fn talk(&mut self, from_inside: bool) -> (Talk, bool) {
        let (reply, a) = (self.random.percent(40), self.random.below(HOSTS / 2));
        let b = HOSTS / 2 + self.random.below(HOSTS / 2);
        let kind = [TalkKind::Udp, TalkKind::Tcp, TalkKind::Echo][self.random.below(3)];
        let (a, b) = if from_inside != reply { (a, b) } else { (b, a) };
        let port = self.ports.get(&(a, b, kind)).copied().unwrap_or(5000);
        let talk = Talk { a, b, kind, port };
        (talk, reply)
    }

    /// Several packets from one side at once.
    fn burst(&mut self) -> Result<(), String> {
        let from_inside = self.random.percent(50);
        let (mut frames, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.random.below(12) {
            let (talk, reply) = self.talk(from_inside);
            let sender = talk.sender(reply);
            let pretends = self.random.percent(10);
            let says = if pretends { DEVICES[self.random.below(2)] } else { sender };
            let frame = talk.builder(reply, mac(says)).build();
            expected.push(self.expect(talk, reply, &frame));
            frames.push(frame);
        }
        self.check(from_inside, &frames, &expected)
    }

    /// A datagram in two fragments, between which something may happen.
    fn fragments(&mut self) -> Result<(), String> {
        let from_inside = self.random.percent(50);
        let (talk, reply) = self.talk(from_inside);
        if talk.kind != TalkKind::Udp {
            return Ok(());
        }
        let sender = talk.sender(reply);
        self.fragment_id += 1;
        let datagram = talk.builder(reply, mac(sender)).payload_len(2000);
        let fragments = datagram.build_fragments(self.fragment_id, 1480);
        let first = self.expect(talk, reply, &fragments[0]);
        self.check(is_inside(sender), &fragments[..1], &[first])?;
        if first && !self.flows.contains_key(&talk) {
            return Ok(());
        }
        if self.random.percent(60) {
            self.edit()?;
        }
        let later = first && self.live(talk).is_some();
        self.check(is_inside(sender), &fragments[1..], &[later])
    }

    /// An ICMP error about a flow, or about none.
    fn error(&mut self) -> Result<(), String> {
        let from_inside = self.random.percent(50);
        let (talk, _) = self.talk(from_inside);
        let opened = self.live(talk);
        let there = headers(&talk.builder(false, mac(talk.a)).build());
        let by_reply = opened.is_some_and(|opened| opened.src != there.src);
        let quoted = talk.builder(by_reply, mac(talk.sender(by_reply))).build();
        let (to, from) = (talk.sender(by_reply), talk.sender(!by_reply));
        let error = FrameBuilder::new()
            .ip(address(from), address(to))
            .macs(mac(from), mac(to))
            .icmp(3, 1, 0)
            .payload(&quoted[14..42])
            .build();
        self.check(is_inside(from), &[error], &[opened.is_some()])
    }

    /// The headers that opened a flow, if the policy still permits it; else it ends here.
    fn live(&mut self, talk: Talk) -> Option<Headers> {
        let opened = *self.flows.get(&talk)?;
        if self.permits(&opened) {
            return Some(opened);
        }
        self.flows.remove(&talk);
        None
    }

    /// What is to become of a packet.
    fn expect(&mut self, talk: Talk, reply: bool, frame: &[u8]) -> bool {
        let headers = headers(frame);
        let knew = self.flows.contains_key(&talk);
        let Some(opened) = self.live(talk) else {
            return !knew && self.expect_opening(talk, reply, headers);
        };
        let [src_mac, dst_mac] = if headers.src == opened.src {
            [headers.src_mac, headers.dst_mac]
        } else {
            [headers.dst_mac, headers.src_mac]
        };
        let passes = self.permits(&Headers { src_mac, dst_mac, ..opened });
        if passes && [src_mac, dst_mac] != [opened.src_mac, opened.dst_mac] {
            // The gateway may keep either pair: the conversation goes on from another port.
            self.flows.remove(&talk);
            self.ports.insert((talk.a, talk.b, talk.kind), talk.port + 1);
        }
        passes
    }

    fn expect_opening(&mut self, talk: Talk, reply: bool, headers: Headers) -> bool {
        if talk.kind == TalkKind::Echo && reply {
            return false;
        }
        let backward = headers.reversed();
        let opened = if self.permits(&headers) {
            headers
        } else if talk.kind == TalkKind::Tcp && self.permits(&backward) {
            backward
        } else {
            return false;
        };
        self.flows.insert(talk, opened);
        true
    }

    fn check(
        &mut self,
        from_inside: bool,
        frames: &[Vec<u8>],
        expected: &[bool],
    ) -> Result<(), String> {
        let stopped = |gateway: &Gateway| {
            let wire = &gateway.worker.counters().wires[0];
            [&wire.inside, &wire.outside]
                .map(|port| port.dropped.packets() + port.would_drop.packets())
                .iter()
                .sum::<u64>()
        };
        let before = stopped(&self.gateway);
        let out =
            if from_inside { self.gateway.outward(frames) } else { self.gateway.inward(frames) };
        let were_stopped = stopped(&self.gateway) - before;
        // Answers to what was rejected.
        received(if from_inside { &self.gateway.inside } else { &self.gateway.outside });
        let to_pass = expected.iter().filter(|&&passes| passes).count() as u64;
        let to_stop = expected.len() as u64 - to_pass;
        self.tally.passed += to_pass;
        self.tally.stopped += to_stop;
        let mut due = frames.iter().zip(expected).filter(|(_, passes)| **passes);
        let right = match self.mode {
            Mode::Enforce => out.iter().eq(due.by_ref().map(|(frame, _)| frame)),
            Mode::Observe => out.iter().eq(frames),
        };
        if right && were_stopped == to_stop {
            return Ok(());
        }
        Err(format!("{were_stopped} packets were stopped where the oracle stops {to_stop}"))
    }
}

fn edited(next: &Content, changes: Changes) -> EditedContent {
    let (policy, classifier) = (next.policy.clone(), next.classifier.clone());
    EditedContent {
        policy,
        classifier,
        changes,
        rules_added: Vec::new(),
        rules_removed: Vec::new(),
    }
}

fn probe_frame(a: usize, b: usize) -> Vec<u8> {
    Talk { a, b, kind: TalkKind::Udp, port: 5000 }.builder(false, mac(a)).build()
}

fn timeouts() -> Timeouts {
    Timeouts {
        tcp_adopted_s: NEVER_S,
        udp_unanswered_s: NEVER_S,
        udp_answered_s: NEVER_S,
        icmp_unanswered_s: NEVER_S,
        icmp_answered_s: NEVER_S,
        ..Timeouts::default()
    }
}

fn permits(policy: &Policy, headers: &Headers, at: PolicyTime) -> bool {
    policy.action(oracle::classify(policy, headers, at)) == Action::Allow
}

fn footprint(content: &Content, headers: &Headers) -> Footprint {
    let (mut scratch, mut rule) = (Scratch::default(), [RuleId::DEFAULT]);
    let at = PolicyTime { unix_ms: ZERO_MS, synchronised: true };
    content.classifier.classify(&[*headers], at, &mut scratch, &mut rule);
    scratch.footprint(0)
}

/// Every pair of hosts on different sides.
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..HOSTS)
        .flat_map(|a| (0..HOSTS).map(move |b| (a, b)))
        .filter(|&(a, b)| is_inside(a) != is_inside(b))
}

/// All headers with which `a` may open a flow to `b`.
fn probes(a: usize, b: usize) -> Vec<Headers> {
    let kinds = [TalkKind::Udp, TalkKind::Tcp, TalkKind::Echo];
    let there = kinds.map(|kind| (Talk { a, b, kind, port: 5000 }, false));
    let back =
        [TalkKind::Udp, TalkKind::Tcp].map(|kind| (Talk { a: b, b: a, kind, port: 5000 }, true));
    let own = there
        .into_iter()
        .chain(back)
        .map(|(talk, reply)| headers(&talk.builder(reply, mac(a)).build()));
    let pretended = |own: Headers| {
        let as_src = DEVICES.map(|device| Headers { src_mac: mac(device), ..own });
        let as_dst = DEVICES.map(|device| Headers { dst_mac: mac(device), ..own });
        [own].into_iter().chain(as_src).chain(as_dst)
    };
    own.flat_map(pretended).collect()
}

/// An instant of each time in which neither policy changes by itself.
fn instants(one: &Policy, other: &Policy, now: PolicyTime) -> Vec<PolicyTime> {
    let instants = one.schedule().into_iter().chain(other.schedule());
    let times: BTreeSet<i64> =
        instants.flat_map(|instant| [instant - 1, instant]).chain([now.unix_ms]).collect();
    times.into_iter().map(|unix_ms| PolicyTime { unix_ms, ..now }).collect()
}
