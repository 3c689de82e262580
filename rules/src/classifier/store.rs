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
    /// Places that were written since the log was last taken.
    written: Vec<u32>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { items: Vec::new(), written: Vec::new() }
    }
}

impl<T: Copy> Clone for Store<T> {
    /// The log stays behind.
    fn clone(&self) -> Self {
        Self { items: settled(&self.items), written: Vec::new() }
    }
}

impl<T> From<Vec<T>> for Store<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, written: Vec::new() }
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

    /// Writes all elements anew. Those that there were beyond count too: where the table grows again
    /// before a copy catches up, the copy still has them there.
    pub(crate) fn replace(&mut self, items: Vec<T>) {
        self.written.extend(0..items.len().max(self.items.len()) as u32);
        self.items = items;
    }

    /// Takes the log: the places that were written, each once.
    pub(crate) fn take_written(&mut self) -> Log {
        let mut log = Log { places: std::mem::take(&mut self.written), distinct: 0 };
        log.settle();
        log
    }

    /// Forgets the log: nobody has a copy yet.
    pub(crate) fn forget_written(&mut self) {
        self.written = Vec::new();
    }

    /// Moves all elements to memory that is not larger than they need, by much, and in huge pages if
    /// the system has them to give.
    pub(crate) fn settle(&mut self) {
        self.items = settled(&self.items);
    }

    /// Makes this copy equal to `other`, from which it differs at the places of `log` and in length at
    /// most.
    pub(crate) fn catch_up(&mut self, other: &Self, log: &Log) {
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

/// Places of a table that were written. However much is, it is hardly longer than twice the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    places: Vec<u32>,
    /// How many they were when each was there once.
    distinct: usize,
}

/// Places that are not worth looking through for those that are there twice.
const FEW_PLACES: usize = 256;

impl Log {
    /// Adds what was written later.
    pub(crate) fn extend(&mut self, later: &Self) {
        self.places.extend(&later.places);
        if self.places.len() > 2 * self.distinct.max(FEW_PLACES) {
            self.settle();
        }
    }

    /// Leaves each place once.
    fn settle(&mut self) {
        self.places.sort_unstable();
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
