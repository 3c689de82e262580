//! The stage that finds the flows of a burst.
//!
//! Steps over the whole burst: what the keys hash to, whose tags match, whose do in the other set,
//! which entry has the key. Each step asks for the memory that the next one reads. (Groups of 16 that
//! follow each other through the steps, so that memory is asked for more evenly, were no faster. To
//! leave the second cache line of an entry to the machine's own prefetching costs 7 cycles a packet
//! at ten thousand flows and 15 to 60 at a million.)
//!
//! Most frames are datagrams of flows that the present policy has judged: the last step decides them
//! on the way, so that a burst of nothing else is done here.

use super::inserted::Inserted;
use super::{Judge, Moment};
use crate::burst::{Columns, Places};
use crate::flow_table::{Candidate, End, FlowKey};
use crate::verdict::Verdict;

impl Judge {
    /// Finds the flow of every frame that has one, and decides those that need nothing else.
    #[inline(never)]
    pub fn look_up(&mut self, columns: &mut Columns, moment: &Moment<'_>) {
        let by_flow = columns.by_flow();
        self.hash_all(columns, moment);
        for place in self.match_tags(by_flow) {
            self.candidates[place] = self.flows.other_candidate(self.hashes[place]);
        }
        self.rode = self.ride_all(columns, moment);
        self.find_all(Places(by_flow.0 & !self.rode), moment);
        if self.is_moved {
            (self.is_moved, self.inserted) = (false, Inserted::default());
        }
    }

    /// Makes keys and hashes, and asks for the tags. Ordinary frames by themselves, so that nothing has
    /// to be asked of each.
    #[inline(always)]
    fn hash_all(&mut self, columns: &Columns, moment: &Moment<'_>) {
        let plain = columns.plain_ipv4();
        for place in plain {
            let headers = &columns.parsed[place].headers;
            self.take_key(place, FlowKey::of_plain_ipv4(headers, moment.group));
        }
        for place in Places(columns.by_flow().0 & !plain.0) {
            self.take_key(place, FlowKey::of(&columns.parsed[place], moment.group));
        }
    }

    #[inline(always)]
    fn take_key(&mut self, place: usize, (key, sender): (FlowKey, End)) {
        let hash = self.flows.hash(&key);
        self.flows.prefetch(hash);
        (self.keys[place], self.hashes[place], self.senders[place]) = (key, hash, sender);
    }

    /// Compares tags, and asks for the entries. Returns the places that have none in the first set.
    #[inline(always)]
    fn match_tags(&mut self, places: Places) -> Places {
        let mut elsewhere = 0;
        for place in places {
            self.candidates[place] =
                self.flows.candidate(self.hashes[place]).unwrap_or_else(|| {
                    elsewhere |= 1 << place;
                    Candidate::NONE
                });
        }
        Places(elsewhere)
    }

    /// Compares keys, and decides the datagrams of flows that the present policy has judged: what they
    /// change of a flow concerns no other. What frames before them in the burst do to the flow they do
    /// after them, as if they had come by another wire. Returns the places that are decided.
    #[inline(always)]
    fn ride_all(&mut self, columns: &mut Columns, moment: &Moment<'_>) -> u64 {
        let mut rode = 0;
        for place in columns.datagrams() {
            let (candidate, key) = (self.candidates[place], &self.keys[place]);
            let found = self.flows.entry_at(candidate, key, moment.now_ns);
            let Some(entry) = found.filter(|entry| entry.epoch() == moment.epoch as u32) else {
                continue;
            };
            let headers = &columns.parsed[place].headers;
            let direction = entry.direction(self.senders[place]);
            if entry.rides(direction, [headers.src_mac, headers.dst_mac], moment.from_inside) {
                entry.connection_mut().note(direction);
                entry.count(direction, columns.len[place] as usize, true, moment.now_ns);
                columns.verdict[place] = Verdict::Forward;
                rode |= 1 << place;
            }
        }
        rode
    }

    /// Compares keys, and notes which frames have no flow, or one that an older epoch judged.
    #[inline(always)]
    fn find_all(&mut self, places: Places, moment: &Moment<'_>) {
        (self.missing, self.aged) = (0, 0);
        for place in places {
            let (hash, key) = (self.hashes[place], &self.keys[place]);
            let found = self.flows.find_at(self.candidates[place], hash, key, moment.now_ns);
            self.found[place] = found;
            // Which flows are of an older epoch is what no branch predictor can know after an edit.
            let epoch = found.map(|index| self.flows.entry(index).epoch());
            self.missing |= u64::from(found.is_none()) << place;
            self.aged |= u64::from(epoch.is_some_and(|e| e != moment.epoch as u32)) << place;
        }
    }
}
