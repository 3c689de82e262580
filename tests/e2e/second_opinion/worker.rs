//! The production worker, asked frame by frame.

use std::sync::Arc;

use bulkhead_pipeline::counters::WorkerCounters;
use bulkhead_pipeline::flow_table::FlowTableConfig;
use bulkhead_pipeline::fragment::FragmentTableConfig;
use bulkhead_pipeline::observe;
use bulkhead_pipeline::port::Frame;
use bulkhead_pipeline::port::loopback::{self, Host, LoopbackPort, Options};
use bulkhead_pipeline::snapshot::{Content, Mode, Publisher, Sides, WallClock, WirePolicy};
use bulkhead_pipeline::worker::{Clock, VirtualClock, WirePorts, Worker, WorkerConfig};
use bulkhead_rules::classifier::Classifier;
use bulkhead_rules::compile::{Limits, compile};
use bulkhead_rules::headers::WireId;
use bulkhead_rules::policy::Policy;

use super::rules::Rules;

/// What a frame takes of the worker's time.
const FRAME_NS: u64 = 1000;

/// A worker between two hosts in memory.
pub(crate) struct Ours {
    policy: Arc<Policy>,
    classifier: Arc<Classifier>,
    worker: Worker<LoopbackPort, VirtualClock>,
    counters: Arc<WorkerCounters>,
    clock: VirtualClock,
    inside: Host,
    outside: Host,
}

impl Ours {
    /// One that enforces these rules.
    pub(crate) fn new(rules: &Rules) -> Self {
        let policy = Policy::parse(&rules.yaml()).unwrap_or_else(|errors| panic!("{errors:?}"));
        let classifier = compile(&policy, &Limits::default()).expect("few rules compile");
        Self::with(Arc::new(policy), Arc::new(classifier))
    }

    /// Another one, that knows of no flow.
    pub(crate) fn fresh(&self) -> Self {
        Self::with(Arc::clone(&self.policy), Arc::clone(&self.classifier))
    }

    fn with(policy: Arc<Policy>, classifier: Arc<Classifier>) -> Self {
        // Which side routers and DHCP servers are on is no question of rules.
        let (routers, dhcp_servers) = (Sides::BOTH, Sides::BOTH);
        let wire = WirePolicy { routers, dhcp_servers, ..WirePolicy::new(Mode::Enforce, 0) };
        let content = Content {
            policy: Arc::clone(&policy),
            classifier: Arc::clone(&classifier),
            wires: vec![wire],
            clock: WallClock::default(),
        };
        let config = WorkerConfig {
            flows: FlowTableConfig { capacity: 1 << 12, ..FlowTableConfig::default() },
            fragments: FragmentTableConfig { wait_frames: 0, ..FragmentTableConfig::default() },
            new_flows_per_source: u32::MAX,
            ..WorkerConfig::default()
        };
        let small = Options { queue_frames: 4, pool_frames: 16, max_frame_len: 65_535 };
        let ((inside_port, inside), (outside_port, outside)) =
            (loopback::pair(small), loopback::pair(small));
        let ports =
            WirePorts { wire: WireId(0), group: 0, inside: inside_port, outside: outside_port };
        let (_publisher, mut readers) = Publisher::new(content, 1);
        let (recorder, _observer) = observe::channel(1);
        let counters = Arc::new(WorkerCounters::new(1));
        let clock = VirtualClock::default();
        let reader = readers.remove(0);
        let worker =
            Worker::new(&config, vec![ports], reader, counters.clone(), recorder, clock.clone());
        Self { policy, classifier, worker, counters, clock, inside, outside }
    }

    /// What becomes of a frame: `pass`, or the reason for which it is dropped.
    pub(crate) fn judge(&mut self, frame: &[u8], from_inside: bool) -> String {
        let (from, to) =
            if from_inside { (&self.inside, &self.outside) } else { (&self.outside, &self.inside) };
        let before = self.drops();
        from.send(frame).unwrap_or_else(|e| panic!("a frame of {} bytes: {e:?}", frame.len()));
        self.worker.poll();
        self.clock.advance_to(self.clock.now_ns() + FRAME_NS);
        if let Some(passed) = to.receive() {
            assert!(passed.bytes() == frame, "the worker changed a frame");
            return "pass".to_owned();
        }
        let after = self.drops();
        let reason = after.iter().zip(&before).find(|(after, before)| after.1 > before.1);
        reason.map_or_else(|| panic!("a frame is lost uncounted"), |(after, _)| after.0.to_owned())
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let wire = &self.counters.wires[0];
        let all = wire.inside.dropped.iter().chain(wire.outside.dropped.iter());
        all.map(|(reason, volume)| (reason.label(), volume.packets.value())).collect()
    }
}
