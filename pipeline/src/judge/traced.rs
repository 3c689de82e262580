//! What a trace asks of a judge about single frames: see [`crate::trace`].

use super::{Judge, Moment};
use crate::burst::Columns;
use crate::conntrack::{Direction, Phase};
use crate::flow_table::{FlowIndex, FlowKey};
use crate::trace::{Classified, FlowSeen, Lookup};

impl Judge {
    /// What the lookup of this frame's flow will come to.
    #[cold]
    pub(crate) fn flow_seen(
        &mut self,
        columns: &Columns,
        place: usize,
        moment: &Moment<'_>,
    ) -> Lookup {
        if !columns.by_flow().any(|by_flow| by_flow == place) {
            return Lookup::NotByFlow;
        }
        let (key, sender) = FlowKey::of(&columns.parsed[place], moment.group);
        let Some(index) = self.find_traced(&key, moment) else { return Lookup::Miss };
        let entry = self.flows.entry(index);
        let both = [Direction::FromInitiator, Direction::FromResponder];
        // An entry keeps the low half of its epoch.
        let behind = u64::from((moment.epoch as u32).wrapping_sub(entry.epoch()));
        Lookup::Hit(FlowSeen {
            phase: entry.phase(),
            from_initiator: entry.direction(sender) == Direction::FromInitiator,
            permitted: entry.is_permitted(),
            rule: entry.rule(),
            judged_in: moment.epoch.saturating_sub(behind),
            packets: both.map(|direction| entry.packets(direction)),
            age_ns: entry.age_ns(moment.now_ns),
        })
    }

    /// What the classifier was asked about this frame, ahead of its turn.
    pub(crate) fn asked_about(&self, place: usize) -> Classified {
        let asked = &self.asked;
        if asked.is_refused(place) {
            return Classified::Refused;
        }
        match (asked.about_frame(place), asked.about_initiator(place)) {
            (Some(answer), _) => Classified::Frame(answer.rule),
            (None, Some(answer)) => Classified::Flow(answer.rule),
            (None, None) => Classified::No,
        }
    }

    /// The state of this frame's flow now, if there is one.
    #[cold]
    pub(crate) fn phase_now(
        &mut self,
        columns: &Columns,
        place: usize,
        moment: &Moment<'_>,
    ) -> Option<Phase> {
        if !columns.by_flow().any(|by_flow| by_flow == place) {
            return None;
        }
        let (key, _) = FlowKey::of(&columns.parsed[place], moment.group);
        let index = self.find_traced(&key, moment)?;
        Some(self.flows.entry(index).phase())
    }

    fn find_traced(&mut self, key: &FlowKey, moment: &Moment<'_>) -> Option<FlowIndex> {
        let hash = self.flows.hash(key);
        self.flows.find(hash, key, moment.now_ns)
    }
}
