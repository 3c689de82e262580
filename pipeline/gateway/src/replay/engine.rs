//! One capture through a worker.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_pipeline::conntrack::Timeouts;
use bulkhead_pipeline::counters::{PortCounters, WireCounters, WorkerCounters};
use bulkhead_pipeline::flow_table::FlowTableConfig;
use bulkhead_pipeline::fragment::FragmentTableConfig;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::parse::{self, Kind, Origin, Parsed};
use bulkhead_pipeline::port::capture::{
    Assign, CaptureError, CaptureHandler, CaptureReader, CaptureWriter, LinkType, MAX_FRAME_BYTES,
    Record, Session, Settled, Side, wire,
};
use bulkhead_pipeline::record::{self, FlowRecord, RecordConfig, RecordSource};
use bulkhead_pipeline::snapshot::{self, Content, Mode, Publisher, WallClock, WirePolicy};
use bulkhead_pipeline::verdict::{DropReason, Verdict};
use bulkhead_pipeline::worker::{Clock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::classifier::Classifier;
use bulkhead_rules::headers::{Headers, Mac, WireId};
use bulkhead_rules::policy::{Policy, RuleId};

use super::copies::Copies;
use super::report::{self, BlockedFlow, Counts, Volume};
use super::sides::{Inside, Sides};

/// Blocked flows that are kept apart over all captures.
pub const MAX_BLOCKED_FLOWS: usize = 100_000;

/// What the worker's clock reads at a capture's first frame.
const START_NS: u64 = 1_000_000_000;
/// How far a capture's clock can run: 146 years. A damaged time stamp must not overflow a deadline.
const MAX_RUN_NS: u64 = 1 << 62;
/// The keys of the flow table's hash: the same in every run, so that a replay repeats exactly.
const HASH_SEED: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];
/// Answers of reject rules a second.
const ANSWERS_PER_SECOND: u32 = 1000;
/// Seconds between two records of a flow that goes on: few, because captures are short.
const RECORD_INTERVAL_S: u32 = 1;
/// Records that one poll may give beside one for each flow, which end with the capture.
const MAX_RECORDS_OF_POLL: usize = 4096;
/// Polls without a frame after which a capture that has not ended counts as stuck.
const MAX_IDLE_POLLS: u32 = 16;

/// What judges a capture.
#[derive(Clone, Debug)]
pub struct Engine {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its compiled form.
    pub classifier: Arc<Classifier>,
    /// Enforce or observe.
    pub mode: Mode,
    /// The wire on which the captures were taken, as the policy counts wires.
    pub wire: WireId,
    /// Who is inside; empty for whoever is seen there first.
    pub inside: Vec<Inside>,
}

/// Where frames are written, and what is carried from one capture to the next.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Takes the frames that were sent on.
    pub allowed: Option<CaptureWriter>,
    /// Takes the frames that were not.
    pub denied: Option<CaptureWriter>,
    /// Blocked flows that may still be kept.
    pub flows_left: usize,
    /// Takes copies of frames as a gateway's records have them, where the worker is to make records.
    pub copies: Option<Copies>,
}

/// What a capture gave.
#[derive(Debug)]
pub struct Outcome {
    /// What was counted.
    pub counts: Counts,
    /// Hits of each rule, the default last.
    pub hits: Vec<u64>,
    /// In the order of their first blocked packets.
    pub blocked: Vec<BlockedFlow>,
    /// Blocked packets of flows that were too many to keep.
    pub packets_of_more_flows: u64,
    /// The worker's records of flows, where they were asked for.
    pub records: Vec<FlowRecord>,
    /// Why the capture ended early.
    pub error: Option<CaptureError>,
}

/// A defect of the gateway that a replay found: frames that are not accounted for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountingError(pub String);

/// Why a replay had to stop.
#[derive(Debug)]
pub enum Stopped {
    /// An output file could not be written.
    Output(CaptureError),
    /// See [`AccountingError`].
    Accounting(AccountingError),
}

impl Engine {
    /// Sends every frame of `reader`, called `name`, through a fresh worker. `flows` is the number of
    /// flows that its table has room for. `progress` is told now and then how many records were read.
    ///
    /// # Errors
    ///
    /// An output that cannot be written, or accounts that do not balance. A capture that ends early
    /// is no error here: its frames count, and the outcome says why.
    pub fn replay(
        &self,
        name: &str,
        reader: CaptureReader,
        flows: usize,
        outputs: &mut Outputs,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Outcome, Stopped> {
        let with_records = outputs.copies.is_some();
        let collector = Collector::new(self, std::mem::take(outputs));
        let (inside, outside, session) = wire(reader, collector);
        let base_ms = session.next_arrival_ns().unwrap_or(0) / 1_000_000;
        let (publisher, mut readers) = Publisher::new(self.content(base_ms), 1);
        let counters = Arc::new(WorkerCounters::new(1));
        let clock = VirtualClock::default();
        // One reader was asked for.
        let Some(policy_reader) = readers.pop() else { return Err(unbalanced("no policy reader")) };
        let mut worker = Worker::new(
            &worker_config(flows),
            vec![WirePorts { wire: self.wire, group: self.wire.0, inside, outside }],
            policy_reader,
            Arc::clone(&counters),
            observe::channel(1).0,
            clock.clone(),
        );
        let mut source = None;
        if with_records {
            let ring = flows + MAX_RECORDS_OF_POLL;
            let interval_s = RECORD_INTERVAL_S;
            let config =
                RecordConfig { ring, interval_s, copies: false, ..RecordConfig::default() };
            let (records, end) = record::channel(&config);
            worker = worker.with_records(records);
            source = Some(end);
        }
        let mut records = Vec::new();
        let mut take = |source: &mut Option<RecordSource>| {
            let source = source.as_mut().into_iter();
            records.extend(source.flat_map(|end| std::iter::from_fn(|| end.flow())));
        };
        let mut idle_polls = 0;
        while let Some(arrival_ns) = session.next_arrival_ns() {
            session.advance(arrival_ns);
            clock.advance(arrival_ns.saturating_sub(base_ms * 1_000_000));
            idle_polls = if worker.poll() > 0 { 0 } else { idle_polls + 1 };
            take(&mut source);
            if idle_polls == MAX_IDLE_POLLS {
                return Err(unbalanced("the worker takes no frames although some are waiting"));
            }
            if counters.loops.value() % 4096 == 0 {
                progress(session.records());
            }
        }
        // The answers to the last burst leave with the next one.
        worker.poll();
        take(&mut source);
        // What is open ends here: there is room in the ring for all of it.
        worker.shut_down();
        take(&mut source);
        drop(worker);
        let hits = publisher.rule_totals();
        let hits = hits.iter().map(|(_, total)| total.enforced + total.observed).collect();
        let outcome = self.finish(name, &session, &counters.wires[0], hits, outputs)?;
        Ok(Outcome { records, ..outcome })
    }

    fn finish(
        &self,
        name: &str,
        session: &Session<Collector>,
        counters: &WireCounters,
        hits: Vec<u64>,
        outputs: &mut Outputs,
    ) -> Result<Outcome, Stopped> {
        let (collector, error) = session.finish();
        let Some(mut collector) = collector else { return Err(unbalanced("finished twice")) };
        *outputs = std::mem::take(&mut collector.outputs);
        if collector.output_failed {
            if let Some(error) = error {
                return Err(Stopped::Output(error));
            }
        }
        let ports = [&counters.inside, &counters.outside];
        collector.counts.drops = by_reason(ports, |port| &port.dropped);
        collector.counts.would_drop = by_reason(ports, |port| &port.would_drop);
        check_accounts(&collector.counts, ports)
            .map_err(|error| Stopped::Accounting(AccountingError(format!("{name}: {error}"))))?;
        let blocked = self.blocked_flows(name, &collector.blocked);
        outputs.flows_left = outputs.flows_left.saturating_sub(blocked.len());
        Ok(Outcome {
            counts: collector.counts,
            hits,
            blocked,
            packets_of_more_flows: collector.packets_of_more_flows,
            records: Vec::new(),
            error,
        })
    }

    fn content(&self, base_ms: u64) -> Content {
        let wires = self.policy.wires().len().max(usize::from(self.wire.0) + 1);
        // Nothing was adopted before the capture began, and nothing is later: no grace.
        // On which side routers and DHCP servers were is for the configuration to say, not the policy.
        let (routers, dhcp_servers) = (snapshot::Sides::BOTH, snapshot::Sides::BOTH);
        let wire = WirePolicy { routers, dhcp_servers, ..WirePolicy::new(self.mode, 0) };
        Content {
            policy: Arc::clone(&self.policy),
            classifier: Arc::clone(&self.classifier),
            wires: vec![wire; wires],
            clock: WallClock {
                offset_ms: base_ms as i64 - (START_NS / 1_000_000) as i64,
                synchronised: true,
            },
        }
    }

    fn blocked_flows(
        &self,
        name: &str,
        blocked: &HashMap<BlockedKey, Blocked>,
    ) -> Vec<BlockedFlow> {
        let mut flows: Vec<_> = blocked.iter().collect();
        flows.sort_unstable_by_key(|(_, seen)| seen.first_frame);
        let flow = |(key, seen): (&BlockedKey, &Blocked)| {
            let h = &key.headers;
            let icmp = matches!(h.protocol, 1 | 58) && h.is_ip();
            // Both are 0 where a frame did not parse so far, and in later fragments.
            let ports = matches!(h.protocol, 6 | 17 | 132)
                && h.is_ip()
                && (h.src_port, h.dst_port) != (0, 0);
            BlockedFlow {
                file: name.to_owned(),
                protocol: report::protocol_name(h),
                from: report::host_name(h.ether_type, h.src, h.src_mac),
                to: report::host_name(h.ether_type, h.dst, h.dst_mac),
                from_port: ports.then_some(h.src_port),
                to_port: ports.then_some(h.dst_port),
                icmp: icmp.then_some(((h.dst_port >> 8) as u8, h.dst_port as u8)),
                vlan: report::vlan_ids(h.tags),
                reason: key.reason.label(),
                rule: key.rule.map(|rule| self.policy.rule_name(rule).to_owned()),
                packets: seen.volume.frames,
                bytes: seen.volume.bytes,
                first: report::time_text(seen.first_ns),
                first_frame: seen.first_frame,
            }
        };
        flows.into_iter().map(flow).collect()
    }
}

fn worker_config(flows: usize) -> WorkerConfig {
    WorkerConfig {
        flows: FlowTableConfig {
            capacity: flows,
            timeouts: Timeouts::default(),
            per_source_limit: u32::MAX,
            seed: Some(HASH_SEED),
        },
        new_flows_per_source: u32::MAX,
        // What becomes of a record is told in the order of the capture, so none may wait.
        fragments: FragmentTableConfig {
            seed: Some(HASH_SEED),
            wait_frames: 0,
            ..FragmentTableConfig::default()
        },
        rejects_per_second: ANSWERS_PER_SECOND,
        transmit_patience_ns: 0,
    }
}

fn unbalanced(what: &str) -> Stopped {
    Stopped::Accounting(AccountingError(what.to_owned()))
}

/// A clock that stands still until it is moved.
#[derive(Clone, Debug)]
struct VirtualClock(Arc<AtomicU64>);

impl Default for VirtualClock {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(START_NS)))
    }
}

impl VirtualClock {
    /// Moves the clock to `elapsed_ns` after the start, unless it is further already.
    fn advance(&self, elapsed_ns: u64) {
        self.0.fetch_max(START_NS + elapsed_ns.min(MAX_RUN_NS), Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What tells blocked packets apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct BlockedKey {
    headers: Headers,
    reason: DropReason,
    rule: Option<RuleId>,
}

struct Blocked {
    volume: Volume,
    first_ns: u64,
    first_frame: u64,
}

/// Hears what becomes of a capture's frames.
struct Collector {
    sides: Sides,
    outputs: Outputs,
    output_failed: bool,
    counts: Counts,
    blocked: HashMap<BlockedKey, Blocked>,
    packets_of_more_flows: u64,
    scratch: Vec<u8>,
}

impl Collector {
    fn new(engine: &Engine, outputs: Outputs) -> Self {
        Self {
            sides: Sides::new(&engine.inside),
            outputs,
            output_failed: false,
            counts: Counts::default(),
            blocked: HashMap::new(),
            packets_of_more_flows: 0,
            scratch: Vec::new(),
        }
    }

    /// Whether the capture holds all headers of a frame that it cut, so that the rest, which no
    /// stage looks at, can be made up.
    fn headers_are_whole(&mut self, record: &Record<'_>) -> bool {
        self.scratch.clear();
        self.scratch.extend_from_slice(record.bytes);
        self.scratch.resize((record.original_len as usize).min(MAX_FRAME_BYTES), 0);
        let mut parsed = Parsed::default();
        let parse = parse::parse_into(&self.scratch, WireId(0), Origin::Capture, &mut parsed);
        parse.is_ok() && headers_len(&parsed, &self.scratch) <= record.bytes.len()
    }

    fn note_blocked(
        &mut self,
        frame: &Settled<'_>,
        parsed: &Parsed,
        reason: DropReason,
        rule: Option<RuleId>,
    ) {
        // A frame that did not parse may name its hosts; one that does not belongs to no flow.
        let h = &parsed.headers;
        if h.ether_type == 0 || (h.is_ip() && (h.src, h.dst) == (0, 0)) {
            return;
        }
        let mut headers = Headers { wire: WireId(0), ..parsed.headers };
        if headers.is_ip() {
            (headers.src_mac, headers.dst_mac) = (Mac::default(), Mac::default());
        }
        let key = BlockedKey { headers, reason, rule };
        if self.blocked.len() >= self.outputs.flows_left && !self.blocked.contains_key(&key) {
            self.packets_of_more_flows += 1;
            return;
        }
        let seen = self.blocked.entry(key).or_insert(Blocked {
            volume: Volume::default(),
            first_ns: frame.timestamp_ns,
            first_frame: frame.number,
        });
        seen.volume.add(frame.arrived_len);
    }
}

/// How much of a frame the stages look at.
fn headers_len(parsed: &Parsed, frame: &[u8]) -> usize {
    let upper = usize::from(parsed.upper_offset);
    match parsed.kind {
        Kind::LaterFragment => upper,
        Kind::Tcp => {
            upper + frame.get(upper + 12).map_or(20, |offset| usize::from(offset >> 4) * 4)
        }
        // The header, the quoted IPv6 header and the eight bytes that name the flow.
        Kind::IcmpError => upper + 8 + 40 + 8,
        Kind::Other | Kind::IcmpQuery => upper + 8,
        // Judged as a whole.
        Kind::Arp | Kind::NeighbourDiscovery | Kind::Dhcp | Kind::LinkControl => {
            usize::from(parsed.packet_end)
        }
    }
}

impl CaptureHandler for Collector {
    fn assign(&mut self, record: &Record<'_>) -> Assign {
        self.counts.records += 1;
        if record.link_type != LinkType::ETHERNET {
            *self.counts.skipped.entry(record.link_type.to_string()).or_default() += 1;
            return Assign::Skip;
        }
        let side = self.sides.of(record.bytes);
        if !record.is_cut() {
            return Assign::Arrive(side);
        }
        self.counts.cut_by_capture += 1;
        if !self.headers_are_whole(record) {
            return Assign::Arrive(side);
        }
        self.counts.restored += 1;
        Assign::ArriveRestored(side)
    }

    fn settled(&mut self, frame: &Settled<'_>) -> Result<(), CaptureError> {
        self.counts.received.add(frame.arrived_len);
        let (volume, output) = if frame.transmitted {
            (&mut self.counts.allowed, &mut self.outputs.allowed)
        } else {
            (&mut self.counts.denied, &mut self.outputs.denied)
        };
        volume.add(frame.arrived_len);
        if let Some(writer) = output {
            if let Err(error) = writer.write(frame.timestamp_ns, frame.original_len, frame.bytes) {
                self.output_failed = true;
                return Err(error);
            }
        }
        if let (Some(copies), Some(judgement)) = (&mut self.outputs.copies, &frame.judgement) {
            copies.note(frame, &judgement.parsed);
        }
        if let Some(judgement) = &frame.judgement {
            let reason = match judgement.verdict {
                Verdict::Forward => return Ok(()),
                Verdict::Drop(reason) => reason,
                Verdict::Reject => DropReason::Policy,
            };
            self.note_blocked(frame, &judgement.parsed, reason, judgement.rule);
        }
        Ok(())
    }

    fn originated(&mut self, _side: Side, bytes: &[u8]) {
        self.counts.answers.add(bytes.len());
    }
}

fn by_reason(
    ports: [&PortCounters; 2],
    column: impl Fn(&PortCounters) -> &bulkhead_pipeline::counters::VolumeByReason,
) -> BTreeMap<&'static str, Volume> {
    let mut drops = BTreeMap::new();
    for port in ports {
        for (reason, volume) in column(port).iter() {
            if volume.packets.value() > 0 {
                let sum: &mut Volume = drops.entry(reason.label()).or_default();
                sum.frames += volume.packets.value();
                sum.bytes += volume.bytes.value();
            }
        }
    }
    drops
}

/// Compares what the ports saw with what the worker counted, frame by frame and byte by byte.
fn check_accounts(counts: &Counts, ports: [&PortCounters; 2]) -> Result<(), String> {
    let sum = |column: fn(&PortCounters) -> &bulkhead_pipeline::counters::Volume| {
        let mut total = Volume::default();
        for port in ports {
            total.frames += column(port).packets.value();
            total.bytes += column(port).bytes.value();
        }
        total
    };
    let held: u64 = ports.iter().map(|port| port.held.value()).sum();
    let (received, transmitted) = (sum(|p| &p.received), sum(|p| &p.transmitted));
    let originated = sum(|p| &p.originated);
    let dropped = counts.drops.values().fold(Volume::default(), |total, drop| Volume {
        frames: total.frames + drop.frames,
        bytes: total.bytes + drop.bytes,
    });
    let checks = [
        ("held", held, 0),
        ("records", counts.records, counts.skipped_records() + counts.received.frames),
        ("received", received.frames, counts.received.frames),
        ("received bytes", received.bytes, counts.received.bytes),
        ("transmitted", transmitted.frames, counts.allowed.frames + counts.answers.frames),
        ("transmitted bytes", transmitted.bytes, counts.allowed.bytes + counts.answers.bytes),
        ("dropped", dropped.frames, counts.denied.frames),
        ("dropped bytes", dropped.bytes, counts.denied.bytes),
        (
            "received and originated",
            received.frames + originated.frames,
            transmitted.frames + dropped.frames,
        ),
        ("their bytes", received.bytes + originated.bytes, transmitted.bytes + dropped.bytes),
    ];
    match checks.into_iter().find(|(_, counted, seen)| counted != seen) {
        None => Ok(()),
        Some((what, counted, seen)) => {
            Err(format!("the accounts do not balance: {what} {counted}, seen at the ports {seen}"))
        }
    }
}
