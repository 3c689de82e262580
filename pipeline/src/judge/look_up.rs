//! The stage that finds the flows of a burst.
//!
//! Steps over the whole burst: what the keys hash to, whose tags match, whose do in the other set,
//! which entry has the key. Each step asks for the memory that the next one reads. (Groups of 16 that
//! follow each other through the steps, so that memory is asked for more evenly, were no faster: at
//! ten thousand flows 46 cycles for either, at ten million 120.)

use super::inserted::Inserted;
use super::{Judge, Moment, rides_flows};
use crate::burst::Columns;
use crate::flow_table::FlowKey;
use crate::port::MAX_BURST;

/// The places of a burst that a mask has bits for, in order.
pub(super) struct Places(pub(super) u64);

impl Iterator for Places {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        const _: () = assert!(MAX_BURST == u64::BITS as usize, "a bit for each place of a burst");
        // The mask says to the compiler what the bit's number says to us.
        let place = self.0.trailing_zeros() as usize % MAX_BURST;
        let left = self.0 != 0;
        self.0 &= self.0.wrapping_sub(1);
        left.then_some(place)
    }
}

impl Judge {
    /// Finds the flow of every frame that has one.
    #[inline(never)]
    pub fn look_up(&mut self, columns: &Columns, moment: &Moment<'_>) {
        let rides = self.hash_all(columns, moment);
        for place in Places(self.match_tags(rides)) {
            self.candidates[place] = self.flows.other_candidates(self.hashes[place]);
        }
        self.find_all(rides, moment);
        self.aged &= !self.missing;
        if self.is_moved {
            (self.is_moved, self.inserted) = (false, Inserted::default());
        }
    }

    /// Makes keys and hashes, and asks for the tags. Returns the places that have them.
    #[inline(always)]
    fn hash_all(&mut self, columns: &Columns, moment: &Moment<'_>) -> u64 {
        let mut rides = 0;
        for place in 0..columns.count {
            if !rides_flows(columns, place) {
                continue;
            }
            rides |= 1 << place;
            let (key, sender) = FlowKey::of(&columns.parsed[place], moment.group);
            let hash = self.flows.hash(&key);
            self.flows.prefetch(hash);
            (self.keys[place], self.hashes[place], self.senders[place]) = (key, hash, sender);
        }
        rides
    }

    /// Compares tags, and asks for the entries. Returns the places that have none in the first set.
    #[inline(always)]
    fn match_tags(&mut self, places: u64) -> u64 {
        let mut elsewhere = 0;
        for place in Places(places) {
            let candidates = self.flows.candidates(self.hashes[place]);
            elsewhere |= u64::from(candidates.is_empty()) << place;
            self.candidates[place] = candidates;
        }
        elsewhere
    }

    /// Compares keys, and notes which frames have no flow, or one that an older epoch judged.
    #[inline(always)]
    fn find_all(&mut self, places: u64, moment: &Moment<'_>) {
        (self.missing, self.aged) = (0, 0);
        for place in Places(places) {
            let (hash, key) = (self.hashes[place], &self.keys[place]);
            let candidates = self.candidates[place];
            let found = self.flows.find_among(candidates, hash, key, moment.now_ns);
            self.found[place] = found;
            // Which flows are of an older epoch is what no branch predictor can know after an edit.
            let epoch = found.map(|index| self.flows.entry(index).epoch());
            self.missing |= u64::from(found.is_none()) << place;
            self.aged |= u64::from(epoch != Some(moment.epoch as u32)) << place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_bits() {
        assert!(Places(0b1011).eq([0, 1, 3]) && Places(1 << 63).eq([63]) && Places(0).eq([]));
        assert!(Places(u64::MAX).eq(0..MAX_BURST));
    }
}
