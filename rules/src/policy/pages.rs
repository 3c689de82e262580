//! Sequences whose versions share what they have in common: an edit of a policy copies the pages
//! that it changes and no others.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// Items in a page of [`Pages`]: a power of two, so that an index splits by shifting.
const PAGE: usize = 256;

/// Most items in a page of [`Sorted`].
const SORTED_PAGE: usize = 256;

/// A sequence that reads like a slice and is cheap to clone: versions of it share their pages.
#[derive(Clone, PartialEq, Eq)]
pub struct Pages<T> {
    /// All of them are full but the last, and none is empty.
    pages: Arc<Vec<Arc<Vec<T>>>>,
    len: usize,
}

impl<T> Pages<T> {
    /// The number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The item at `index`.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.pages.get(index / PAGE)?.get(index % PAGE)
    }

    /// The first item.
    pub fn first(&self) -> Option<&T> {
        self.get(0)
    }

    /// The last item.
    pub fn last(&self) -> Option<&T> {
        self.get(self.len.checked_sub(1)?)
    }

    /// The items in their order.
    pub fn iter(&self) -> PagesIter<'_, T> {
        PagesIter { pages: self, front: 0, back: self.len }
    }
}

impl<T: Clone> Pages<T> {
    /// The item at `index`, which there is, to be changed in this version.
    pub(crate) fn get_mut(&mut self, index: usize) -> &mut T {
        let page = &mut Arc::make_mut(&mut self.pages)[index / PAGE];
        &mut Arc::make_mut(page)[index % PAGE]
    }

    /// Appends an item.
    pub(crate) fn push(&mut self, item: T) {
        let pages = Arc::make_mut(&mut self.pages);
        match pages.last_mut().filter(|page| page.len() < PAGE) {
            Some(page) => Arc::make_mut(page).push(item),
            None => pages.push(Arc::new(vec![item])),
        }
        self.len += 1;
    }
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: Arc::default(), len: 0 }
    }
}

impl<T: fmt::Debug> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<T> Index<usize> for Pages<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.pages[index / PAGE][index % PAGE]
    }
}

impl<T> FromIterator<T> for Pages<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items = items.into_iter();
        let (mut pages, mut len) = (Vec::new(), 0);
        loop {
            let page: Vec<T> = items.by_ref().take(PAGE).collect();
            if page.is_empty() {
                return Self { pages: Arc::new(pages), len };
            }
            len += page.len();
            pages.push(Arc::new(page));
        }
    }
}

impl<'p, T> IntoIterator for &'p Pages<T> {
    type Item = &'p T;
    type IntoIter = PagesIter<'p, T>;

    fn into_iter(self) -> PagesIter<'p, T> {
        self.iter()
    }
}

/// See [`Pages::iter`].
#[derive(Debug)]
pub struct PagesIter<'p, T> {
    pages: &'p Pages<T>,
    front: usize,
    back: usize,
}

impl<T> Clone for PagesIter<'_, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'p, T> Iterator for PagesIter<'p, T> {
    type Item = &'p T;

    fn next(&mut self) -> Option<&'p T> {
        if self.front == self.back {
            return None;
        }
        self.front += 1;
        self.pages.get(self.front - 1)
    }

    fn nth(&mut self, skipped: usize) -> Option<&'p T> {
        self.front = self.front.saturating_add(skipped).min(self.back);
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.back - self.front, Some(self.back - self.front))
    }
}

impl<T> DoubleEndedIterator for PagesIter<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front == self.back {
            return None;
        }
        self.back -= 1;
        self.pages.get(self.back)
    }
}

impl<T> ExactSizeIterator for PagesIter<'_, T> {}

/// A sorted set whose versions share their pages.
#[derive(Clone)]
pub(crate) struct Sorted<T> {
    /// None is empty; every item of one is less than every item of the next.
    pages: Arc<Vec<Arc<Vec<T>>>>,
    len: usize,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { pages: Arc::default(), len: 0 }
    }
}

impl<T: Ord + Clone> Sorted<T> {
    /// The set of what an ascending sequence without repetitions yields.
    pub(crate) fn from_ascending(items: impl IntoIterator<Item = T>) -> Self {
        // Half full, so that the first edits do not split pages.
        let (mut pages, mut page, mut len) = (Vec::new(), Vec::new(), 0);
        for item in items {
            if page.len() == SORTED_PAGE / 2 {
                pages.push(Arc::new(std::mem::take(&mut page)));
            }
            page.push(item);
            len += 1;
        }
        if !page.is_empty() {
            pages.push(Arc::new(page));
        }
        Self { pages: Arc::new(pages), len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The items in ascending order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.pages.iter().flat_map(|page| page.iter())
    }

    /// The items from the first one on for which `below` is false; `below` is true of some first
    /// items and of no later one.
    pub(crate) fn from(&self, below: impl Fn(&T) -> bool) -> impl Iterator<Item = &T> {
        let (page, place) = self.place(below);
        let first = self.pages.get(page).map_or(&[][..], |page| &page[place..]);
        let rest = self.pages.get(page + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flat_map(|page| page.iter()))
    }

    /// Changes the items from the first one on for which `below` is false for as long as `within` is
    /// true of them. Their order must stay as it is.
    pub(crate) fn update(
        &mut self,
        below: impl Fn(&T) -> bool,
        within: impl Fn(&T) -> bool,
        mut change: impl FnMut(&mut T),
    ) {
        let (first, mut place) = self.place(below);
        for page in Arc::make_mut(&mut self.pages).iter_mut().skip(first) {
            let end = page.partition_point(&within);
            if end <= place {
                return;
            }
            Arc::make_mut(page)[place..end].iter_mut().for_each(&mut change);
            place = 0;
        }
    }

    /// The last item for which `below` is true; see [`Self::from`].
    pub(crate) fn last_below(&self, below: impl Fn(&T) -> bool) -> Option<&T> {
        let (page, place) = self.place(below);
        match place.checked_sub(1) {
            Some(place) => self.pages.get(page)?.get(place),
            None => self.pages.get(page.checked_sub(1)?)?.last(),
        }
    }

    pub(crate) fn contains(&self, item: &T) -> bool {
        let (page, place) = self.place(|other| other < item);
        self.pages.get(page).and_then(|page| page.get(place)) == Some(item)
    }

    /// Adds an item; false where it was there.
    pub(crate) fn insert(&mut self, item: T) -> bool {
        let (page, place) = self.place(|other| *other < item);
        let found = self.pages.get(page).and_then(|page| page.get(place));
        if found == Some(&item) {
            return false;
        }
        let pages = Arc::make_mut(&mut self.pages);
        self.len += 1;
        // What belongs before a page or after the last goes to the end of the page before.
        let (page, place) = match (place, page.checked_sub(1)) {
            (0, Some(before)) => (before, pages[before].len()),
            _ => (page, place),
        };
        let Some(target) = pages.get_mut(page) else {
            pages.push(Arc::new(vec![item]));
            return true;
        };
        let target = Arc::make_mut(target);
        target.insert(place, item);
        if target.len() > SORTED_PAGE {
            let upper = target.split_off(SORTED_PAGE / 2);
            pages.insert(page + 1, Arc::new(upper));
        }
        true
    }

    /// Takes an item out; false where it was not there.
    pub(crate) fn remove(&mut self, item: &T) -> bool {
        let (page, place) = self.place(|other| other < item);
        if self.pages.get(page).and_then(|page| page.get(place)) != Some(item) {
            return false;
        }
        let pages = Arc::make_mut(&mut self.pages);
        Arc::make_mut(&mut pages[page]).remove(place);
        self.len -= 1;
        if pages[page].is_empty() {
            pages.remove(page);
        }
        // Two neighbours are never small both, so that there are not many more pages than needed.
        for left in [page, page.saturating_sub(1)] {
            let [Some(one), Some(next)] = [pages.get(left), pages.get(left + 1)] else { continue };
            if one.len() + next.len() <= SORTED_PAGE / 2 {
                let next = pages.remove(left + 1);
                Arc::make_mut(&mut pages[left]).extend(next.iter().cloned());
            }
        }
        true
    }

    /// The page and the place in it of the first item for which `below` is false; one past the last
    /// page where there is none.
    fn place(&self, below: impl Fn(&T) -> bool) -> (usize, usize) {
        let page = self.pages.partition_point(|page| page.last().is_some_and(&below));
        let place = self.pages.get(page).map_or(0, |page| page.partition_point(below));
        (page, place)
    }
}

impl<T: PartialEq> PartialEq for Sorted<T> {
    fn eq(&self, other: &Self) -> bool {
        let others = other.pages.iter().flat_map(|page| page.iter());
        self.len == other.len && self.pages.iter().flat_map(|page| page.iter()).eq(others)
    }
}

impl<T: Eq> Eq for Sorted<T> {}

impl<T: fmt::Debug> fmt::Debug for Sorted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pages.iter().flat_map(|page| page.iter())).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn pages_read_like_a_vector(
            start in vec(any::<u16>(), 0..600),
            pushed in vec(any::<u16>(), 0..300),
            sets in vec((any::<prop::sample::Index>(), any::<u16>()), 0..20),
        ) {
            let mut model = start.clone();
            let mut pages: Pages<u16> = start.iter().copied().collect();
            let before = pages.clone();
            for item in pushed {
                model.push(item);
                pages.push(item);
            }
            for (index, item) in sets {
                if model.is_empty() {
                    break;
                }
                let index = index.index(model.len());
                model[index] = item;
                *pages.get_mut(index) = item;
            }
            prop_assert!(before.iter().eq(&start));
            prop_assert!(pages.iter().eq(&model) && pages.iter().rev().eq(model.iter().rev()));
            prop_assert_eq!((pages.len(), pages.iter().len()), (model.len(), model.len()));
            prop_assert_eq!((pages.first(), pages.last()), (model.first(), model.last()));
            for index in 0..=model.len() {
                prop_assert_eq!(pages.get(index), model.get(index));
            }
        }

        #[test]
        fn sorted_pages_hold_what_a_set_holds(
            start in prop::collection::btree_set(0..2000u16, 0..800),
            edits in vec((any::<bool>(), 0..2000u16), 0..1500),
        ) {
            let mut sorted = Sorted::from_ascending(start.iter().copied());
            let before = sorted.clone();
            let mut model = start.clone();
            for (adds, item) in edits {
                if adds {
                    prop_assert_eq!(sorted.insert(item), model.insert(item));
                } else {
                    prop_assert_eq!(sorted.remove(&item), model.remove(&item));
                }
            }
            prop_assert!(before.iter().eq(&start));
            prop_assert!(sorted.iter().eq(&model));
            prop_assert_eq!(sorted.len(), model.len());
            for item in (0..2000).step_by(37) {
                let from: Vec<_> = sorted.from(|&other| other < item).take(3).collect();
                let expected: Vec<_> = model.range(item..).take(3).collect();
                prop_assert_eq!(from, expected);
                prop_assert_eq!(sorted.last_below(|&other| other < item), model.range(..item).last());
            }
        }
    }

    #[test]
    fn removing_everything_leaves_no_page() {
        let all: BTreeSet<u32> = (0..5000).collect();
        let mut sorted = Sorted::from_ascending(all.iter().copied());
        assert!(all.iter().all(|item| sorted.remove(item)));
        assert_eq!((sorted.len(), sorted.pages.len()), (0, 0));
        assert!(sorted.insert(7) && !sorted.insert(7) && !sorted.remove(&8));
    }
}
