//! What the judge tells of flows, and of what opens none.

use bulkhead_rules::headers::WireId;

use super::Judge;
use crate::burst::Columns;
use crate::record::Records;

impl Judge {
    /// From now on tells `records` what becomes of flows.
    pub fn tell(&mut self, records: Records) {
        self.flows.tell(records);
    }

    /// Tells of the frames that were decided last and open no flow, once it is certain what becomes
    /// of them.
    #[inline]
    pub fn tell_denied(&mut self, columns: &Columns, wire: WireId, from_inside: bool) {
        if let Some(records) = &mut self.flows.records {
            records.note_denied(columns, wire, from_inside);
        }
    }

    /// Tells that the worker stops, and with it every flow.
    pub fn stop(&mut self) {
        self.flows.stopped();
    }
}
