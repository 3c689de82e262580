//! What a worker is built with.

use crate::flow_table::FlowTableConfig;
use crate::fragment::FragmentTableConfig;

/// What a worker is built with. All memory is allocated from these numbers at start.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The flow table.
    pub flows: FlowTableConfig,
    /// Flows that one source may open in a second; twice as many at once. Packets that are denied
    /// count a sixteenth. At least 1.
    pub new_flows_per_source: u32,
    /// The fragment table.
    pub fragments: FragmentTableConfig,
    /// Answers of reject rules, in packets a second; the same number may go out as one burst.
    pub rejects_per_second: u32,
    /// How long frames wait for a transmit queue that takes nothing before they are dropped, in nanoseconds.
    /// Meanwhile the worker takes nothing from the other port of the wire.
    pub transmit_patience_ns: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            flows: FlowTableConfig::default(),
            new_flows_per_source: 5000,
            fragments: FragmentTableConfig::default(),
            rejects_per_second: 1000,
            transmit_patience_ns: 2_000_000,
        }
    }
}
