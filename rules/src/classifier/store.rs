//! Tables that are read where they stand and kept equal in several copies.
//!
//! The compiler writes to a copy of its own, which logs what it writes. A copy that no worker reads
//! any more is brought up to date from that log: an edit costs what it changes, not what there is.

use bytemuck::NoUninit;

use crate::intrinsics::advise_huge_pages;
use crate::lanes::Words;

/// A table.
#[derive(Debug)]
pub(crate) struct Store<T> {
    items: Vec<T>,
    /// Places that were written since the log was last taken, unless all were written anew.
    written: Vec<u32>,
    is_new: bool,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { items: Vec::new(), written: Vec::new(), is_new: false }
    }
}

impl<T: Copy> Clone for Store<T> {
    /// The log stays behind.
    fn clone(&self) -> Self {
        Self { items: settled(&self.items), ..Self::default() }
    }
}

impl<T> From<Vec<T>> for Store<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, ..Self::default() }
    }
}

impl<T: NoUninit> Store<T> {
    /// All elements as the words that they are made of.
    #[inline(always)]
    pub(crate) fn words(&self) -> Words<'_> {
        Words::new(bytemuck::cast_slice(&self.items))
    }
}

impl<T: Copy> Store<T> {
    /// The element at `place`, which is below [`Self::len`].
    #[inline(always)]
    pub(crate) fn get(&self, place: u32) -> &T {
        &self.items[place as usize]
    }

    /// All elements.
    #[inline(always)]
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    /// The element at `place`, to be changed.
    pub(crate) fn get_mut(&mut self, place: u32) -> &mut T {
        self.written.push(place);
        &mut self.items[place as usize]
    }

    /// Elements that there are.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Makes room for `len` elements; new ones are `fill`.
    pub(crate) fn grow(&mut self, len: usize, fill: T) {
        if len > self.items.len() {
            self.items.resize(len, fill);
        }
    }

    /// Writes all elements anew.
    pub(crate) fn replace(&mut self, items: Vec<T>) {
        (self.items, self.is_new) = (items, true);
    }

    /// Takes the log: the places that were written, each once.
    pub(crate) fn take_written(&mut self) -> Log {
        let places = std::mem::take(&mut self.written);
        // To copy a table is less work than to sort and to follow the places of so much of it.
        let is_much = places.len() > self.items.len() / MUCH;
        if std::mem::take(&mut self.is_new) || is_much {
            return Log::ALL;
        }
        let mut log = Log { places, ..Log::default() };
        log.settle();
        log
    }

    /// Forgets the log: nobody has a copy yet.
    pub(crate) fn forget_written(&mut self) {
        (self.written, self.is_new) = (Vec::new(), false);
    }

    /// Moves all elements to memory that is not larger than they need, by much, and in huge pages if
    /// the system has them to give.
    pub(crate) fn settle(&mut self) {
        self.items = settled(&self.items);
    }

    /// Makes this copy equal to `other`, from which it differs at the places of `log` and in length at
    /// most.
    pub(crate) fn catch_up(&mut self, other: &Self, log: &Log) {
        if log.is_all {
            if self.items.capacity() < other.items.len() {
                self.items = settled(&other.items);
            } else {
                self.items.clone_from(&other.items);
            }
            return;
        }
        let len = self.items.len().min(other.items.len());
        self.items.truncate(len);
        self.items.extend_from_slice(&other.items[len..]);
        for &place in log.places.iter().filter(|&&place| (place as usize) < len) {
            self.items[place as usize] = other.items[place as usize];
        }
    }

    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.items.len() * size_of::<T>()
    }
}

/// Places of a table that were written, or all of it. However much is, it is hardly longer than twice
/// the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    places: Vec<u32>,
    /// How many they were when each was there once.
    distinct: usize,
    is_all: bool,
}

/// One in so many elements of a table is much to write.
const MUCH: usize = 4;

/// Places that are not worth looking through for those that are there twice.
const FEW_PLACES: usize = 256;

impl Log {
    /// That all was written.
    const ALL: Self = Self { places: Vec::new(), distinct: 0, is_all: true };

    /// Adds what was written later.
    pub(crate) fn extend(&mut self, later: &Self) {
        if self.is_all || later.is_all {
            *self = Self::ALL;
            return;
        }
        self.places.extend(&later.places);
        if self.places.len() > 2 * self.distinct.max(FEW_PLACES) {
            self.settle();
        }
    }

    /// How many places they are, unless it is all.
    #[cfg(test)]
    pub(crate) fn len(&self) -> Option<usize> {
        (!self.is_all).then_some(self.places.len())
    }

    /// Leaves each place once.
    fn settle(&mut self) {
        // Much of it is in order already, which this sort sees.
        self.places.sort();
        self.places.dedup();
        self.distinct = self.places.len();
    }
}

/// A copy in huge pages, with room for what edits add.
fn settled<T: Copy>(items: &[T]) -> Vec<T> {
    let mut copy = Vec::with_capacity(items.len() + items.len() / 16);
    advise_huge_pages(copy.spare_capacity_mut());
    copy.extend_from_slice(items);
    copy
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What is done to a table.
    #[derive(Clone, Debug)]
    enum Step {
        Write(u32, u8),
        Grow(usize, u8),
        Replace(Vec<u8>),
        /// Brings one of two copies up to date.
        CatchUp(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (any::<u32>(), any::<u8>()).prop_map(|(place, value)| Step::Write(place, value)),
            1 => (1..600_usize, any::<u8>()).prop_map(|(len, fill)| Step::Grow(len, fill)),
            1 => vec(any::<u8>(), 1..600).prop_map(Step::Replace),
            4 => (0..2_usize).prop_map(Step::CatchUp),
        ]
    }

    proptest! {
        #[test]
        fn copies_are_equal_once_they_have_caught_up(steps in vec(step(), 0..60)) {
            let mut store = Store::from(vec![0_u8; 300]);
            let mut copies = [store.clone(), store.clone()];
            let mut missed = [Log::default(), Log::default()];
            for step in steps {
                match step {
                    Step::Write(place, value) => {
                        *store.get_mut(place % store.len() as u32) = value;
                    }
                    Step::Grow(len, fill) => store.grow(len, fill),
                    Step::Replace(items) => store.replace(items),
                    Step::CatchUp(copy) => {
                        let written = store.take_written();
                        missed.iter_mut().for_each(|missed| missed.extend(&written));
                        copies[copy].catch_up(&store, &std::mem::take(&mut missed[copy]));
                        prop_assert_eq!(copies[copy].items(), store.items());
                    }
                }
            }
        }
    }
}
