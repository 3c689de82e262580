use bulkhead_rules::headers::{ETHER_IPV6, VlanTags, protocol};
use proptest::prelude::*;

use super::*;
use crate::parse::{Kind, Parsed};

const SECOND: u64 = 1_000_000_000;

fn headers(src: u128, dst: u128) -> Headers {
    Headers { src, dst, ether_type: ETHER_IPV4, protocol: protocol::UDP, ..Headers::default() }
}

fn owner(port: u16) -> Owner {
    let parsed = Parsed {
        headers: headers(1, 2),
        kind: Kind::Other,
        flow_ports: (port, 53),
        ..Parsed::default()
    };
    let (flow, sender) = FlowKey::of(&parsed, 0);
    Owner { flow, sender }
}

fn key(id: u32) -> FragmentKey {
    FragmentKey::of(&headers(1, 2), id, 0)
}

fn place(offset: u16, len: u16, more: bool) -> FragmentPlace {
    FragmentPlace { id: 0, offset, len, more }
}

fn table(capacity: usize) -> FragmentTable {
    let seed = Some([1, 2, 3, 4]);
    FragmentTable::new(&FragmentTableConfig { capacity, seed, ..FragmentTableConfig::default() })
}

#[test]
fn later_fragments_follow_the_first_until_the_packet_is_complete() {
    let mut table = table(64);
    let mine = owner(1000);
    assert_eq!(table.follow(&key(7), place(1480, 8, false), 0), Err(DropReason::FragmentOrphan));
    table.note_first(&key(7), place(0, 1480, true), mine, 0).unwrap();
    // The last one overtakes the middle.
    assert_eq!(table.follow(&key(7), place(2960, 100, false), 1), Ok(mine));
    assert_eq!(table.len(), 1);
    assert_eq!(table.follow(&key(7), place(1480, 1480, true), 2), Ok(mine));
    assert_eq!((table.len(), table.counters.completed), (0, 1));
    assert_eq!(table.follow(&key(7), place(1480, 8, true), 3), Err(DropReason::FragmentOrphan));
}

#[test]
fn overlap_of_every_shape_poisons_the_packet() {
    let overlapping = [
        place(1472, 1480, true),  // into the first
        place(8, 16, true),       // inside of the first
        place(2952, 16, true),    // into the second from the left
        place(2960, 8, true),     // the second's start, shorter
        place(3968, 48, true),    // out of the second's end
        place(1480, 4000, true),  // around the second
        place(2960, 1024, false), // the second exactly, but now said to be the last
        place(1480, 800, false),  // ends before the second's start
    ];
    for bad in overlapping {
        let mut table = table(64);
        table.note_first(&key(1), place(0, 1480, true), owner(1), 0).unwrap();
        table.follow(&key(1), place(2960, 1024, true), 0).unwrap();
        assert_eq!(table.follow(&key(1), bad, 0), Err(DropReason::FragmentOverlap), "{bad:?}");
        // Nothing of the packet passes any more, not even what would have fitted.
        let good = place(1480, 1480, true);
        assert_eq!(table.follow(&key(1), good, 0), Err(DropReason::FragmentOverlap), "{bad:?}");
        let first = table.note_first(&key(1), place(0, 1480, true), owner(1), 0);
        assert_eq!(first, Err(DropReason::FragmentOverlap), "{bad:?}");
        assert_eq!(table.counters.poisoned, 1);
    }
}

#[test]
fn fragments_beyond_a_known_end_poison_the_packet() {
    for bad in [place(4000, 8, true), place(4000, 8, false), place(3992, 8, true)] {
        let mut table = table(64);
        table.note_first(&key(1), place(0, 1480, true), owner(1), 0).unwrap();
        table.follow(&key(1), place(2960, 1032, false), 0).unwrap();
        assert_eq!(table.follow(&key(1), bad, 0), Err(DropReason::FragmentOverlap), "{bad:?}");
    }
}

#[test]
fn an_exact_duplicate_is_dropped_and_harms_nothing() {
    let mut table = table(64);
    let first = place(0, 1480, true);
    table.note_first(&key(1), first, owner(1), 0).unwrap();
    let again = table.note_first(&key(1), first, owner(1), SECOND - 1);
    assert_eq!(again, Err(DropReason::FragmentDuplicate));
    let last = place(2960, 40, false);
    table.follow(&key(1), last, 0).unwrap();
    assert_eq!(table.follow(&key(1), last, 0), Err(DropReason::FragmentDuplicate));
    assert_eq!(table.follow(&key(1), place(1480, 1480, true), 0), Ok(owner(1)));
    assert_eq!(table.counters.completed, 1);
}

#[test]
fn another_flow_under_a_fresh_identification_poisons_an_old_one_starts_anew() {
    let mut table = table(64);
    let first = place(0, 1480, true);
    table.note_first(&key(1), first, owner(1), 0).unwrap();
    let other = table.note_first(&key(1), first, owner(2), SECOND - 1);
    assert_eq!(other, Err(DropReason::FragmentOverlap));
    table.note_first(&key(1), first, owner(2), SECOND).unwrap();
    assert_eq!(table.follow(&key(1), place(1480, 8, false), SECOND), Ok(owner(2)));
    assert_eq!(table.len(), 0);
}

#[test]
fn a_packet_is_given_up_at_its_timeout_and_not_before() {
    let later = place(1480, 8, true);
    for (wait, kept) in [(30 * SECOND - 1, true), (30 * SECOND, false)] {
        let mut table = table(64);
        table.note_first(&key(1), place(0, 1480, true), owner(1), 5).unwrap();
        assert_eq!(table.follow(&key(1), later, wait + 5).is_ok(), kept);
        let mut table = self::table(64);
        table.note_first(&key(1), place(0, 1480, true), owner(1), 5).unwrap();
        assert_eq!(table.age(wait + 5, 64), usize::from(!kept));
        assert_eq!(table.len(), usize::from(kept));
    }
}

#[test]
fn a_packet_has_64_fragments_at_most() {
    let mut table = table(64);
    table.note_first(&key(1), place(0, 8, true), owner(1), 0).unwrap();
    for index in 1..64 {
        table.follow(&key(1), place(index * 8, 8, true), 0).unwrap();
    }
    let one_more = table.follow(&key(1), place(64 * 8, 8, true), 0);
    assert_eq!(one_more, Err(DropReason::FragmentLimit));
}

#[test]
fn a_flood_evicts_the_oldest_but_nothing_that_just_came() {
    let mut table = table(16);
    assert_eq!(table.capacity(), 16);
    for id in 0..16 {
        table.note_first(&key(id), place(0, 8, true), owner(1), u64::from(id)).unwrap();
    }
    let refused = table.note_first(&key(16), place(0, 8, true), owner(1), PROTECTED_NS - 1);
    assert_eq!(refused, Err(DropReason::FragmentTableFull));
    table.note_first(&key(16), place(0, 8, true), owner(1), PROTECTED_NS).unwrap();
    assert_eq!((table.counters.refused, table.counters.evicted, table.len()), (1, 1, 16));
    let gone = table.follow(&key(0), place(8, 8, true), PROTECTED_NS);
    assert_eq!(gone, Err(DropReason::FragmentOrphan));
}

#[test]
fn keys_tell_apart_what_the_standards_tell_apart() {
    let v4 = headers(1, 2);
    let v6 = Headers { ether_type: ETHER_IPV6, ..v4 };
    let key = |h: &Headers| FragmentKey::of(h, 9, 0);
    let tcp = |h: Headers| Headers { protocol: protocol::TCP, ..h };
    assert_ne!(key(&v4), key(&tcp(v4)));
    assert_eq!(key(&v6), key(&tcp(v6)), "the next header of later fragments means nothing");
    assert_ne!(key(&v4), key(&Headers { src: 2, dst: 1, ..v4 }));
    assert_ne!(key(&v4), key(&Headers { tags: VlanTags::single(9), ..v4 }));
    assert_ne!(FragmentKey::of(&v4, 9, 0), FragmentKey::of(&v4, 9, 1));
    assert_ne!(FragmentKey::of(&v4, 9, 0), FragmentKey::of(&v4, 8, 0));
}

/// The obvious model of one packet: which byte came, where fragments began and ended.
#[derive(Default)]
struct Model {
    seen: Vec<(u32, u32, bool)>,
    poisoned: bool,
}

impl Model {
    fn add(&mut self, place: FragmentPlace) -> Result<bool, DropReason> {
        let (start, end) =
            (u32::from(place.offset), u32::from(place.offset) + u32::from(place.len));
        if self.poisoned {
            return Err(DropReason::FragmentOverlap);
        }
        if self.seen.contains(&(start, end, place.more)) {
            return Err(DropReason::FragmentDuplicate);
        }
        let total = self.seen.iter().find(|fragment| !fragment.2).map(|fragment| fragment.1);
        let overlap = self.seen.iter().any(|&(s, e, _)| s < end && start < e);
        let two_ends = total.is_some() && !place.more;
        let at_end = total.is_some_and(|total| end >= total);
        let cuts = !place.more && self.seen.iter().any(|&(_, e, _)| e > end);
        // A fragment that reaches the end and says that more follow.
        let denies_end = !place.more && self.seen.iter().any(|&(_, e, more)| more && e == end);
        if overlap || two_ends || at_end || cuts || denies_end {
            self.poisoned = true;
            return Err(DropReason::FragmentOverlap);
        }
        self.seen.push((start, end, place.more));
        let bytes: u32 = self.seen.iter().map(|&(s, e, _)| e - s).sum();
        Ok(self.seen.iter().any(|&(_, e, more)| !more && e == bytes))
    }
}

proptest! {
    /// Whatever order and shape fragments come in, the table says what the model says, and what it
    /// lets pass never overlaps.
    #[test]
    fn fragments_are_judged_as_by_the_model(
        fragments in prop::collection::vec((0_u16..12, 1_u16..6, prop::bool::weighted(0.8)), 1..40),
    ) {
        let mut table = table(64);
        let mut model = Model::default();
        let first = place(0, 8, true);
        table.note_first(&key(1), first, owner(1), 0).unwrap();
        model.add(first).unwrap();
        for (offset, len, more) in fragments {
            let fragment = place(offset * 8, len * 8, more);
            let expected = model.add(fragment);
            prop_assert_eq!(
                table.follow(&key(1), fragment, 0).err(), expected.err(), "{:?}", fragment);
            if expected == Ok(true) {
                prop_assert!(table.is_empty());
                return Ok(());
            }
            prop_assert_eq!(table.len(), 1);
        }
    }
}
