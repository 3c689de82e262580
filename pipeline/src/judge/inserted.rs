//! Which flows the frames of a burst have inserted, about.

use crate::flow_table::FlowHash;

/// Some flows, by nine bits of their hash: a burst of new ones is mostly of flows that differ, and
/// then nothing has to be looked up again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inserted([u64; 8]);

impl Inserted {
    pub(super) fn note(&mut self, hash: FlowHash) {
        let (word, bit) = Self::place(hash);
        self.0[word] |= bit;
    }

    pub(super) fn may_hold(&self, hash: FlowHash) -> bool {
        let (word, bit) = Self::place(hash);
        self.0[word] & bit != 0
    }

    fn place(hash: FlowHash) -> (usize, u64) {
        let bits = hash.some_bits();
        (usize::from(bits >> 6) % 8, 1 << (bits % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_table::{FlowKey, FlowTable, FlowTableConfig};
    use crate::parse::Parsed;

    #[test]
    fn what_was_noted_is_held() {
        let seed = Some([1, 2, 3, 4]);
        let table = FlowTable::new(&FlowTableConfig { seed, ..FlowTableConfig::default() });
        let (mut inserted, mut unlike) = (Inserted::default(), 0);
        for port in 0..64 {
            let parsed = Parsed { flow_ports: (port, 53), ..Parsed::default() };
            let hash = table.hash(&FlowKey::of(&parsed, 0).0);
            unlike += usize::from(!inserted.may_hold(hash));
            inserted.note(hash);
            assert!(inserted.may_hold(hash));
        }
        assert!(unlike > 48, "{unlike} of a burst of new flows need no second lookup");
    }
}
