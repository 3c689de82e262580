//! Questions about wires that are redundant with each other.

use super::{Config, Mode, Wire};

impl Config {
    /// The number of a wire's redundancy group: the index of its first wire. A wire that is redundant
    /// with no other is a group by itself.
    pub fn group_of(&self, wire: usize) -> usize {
        let Some(group) = self.wires.get(wire).and_then(|wire| wire.redundancy_group.as_ref())
        else {
            return wire;
        };
        let first =
            self.wires.iter().position(|other| other.redundancy_group.as_ref() == Some(group));
        first.unwrap_or(wire)
    }

    /// Each observing wire that is redundant with an enforcing one, and the first such one.
    pub fn mixed_groups(&self) -> impl Iterator<Item = (&Wire, &Wire)> {
        let observing = self.wires.iter().filter(|wire| wire.mode == Mode::Observe);
        observing.filter_map(|wire| {
            let group = wire.redundancy_group.as_ref()?;
            let enforces = |other: &&Wire| {
                other.mode == Mode::Enforce && other.redundancy_group.as_ref() == Some(group)
            };
            Some((wire, self.wires.iter().find(enforces)?))
        })
    }
}
