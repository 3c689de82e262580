//! One side of a frame to its class: the rules of one class cannot be told apart by that side.

use std::collections::HashMap;

use crate::headers::{ETHER_IPV4, ETHER_IPV6, Mac};

/// A key that no rule is listed under.
pub(crate) const NO_KEY: u32 = u32::MAX;

/// The keys under which the rules for a host are listed: those that name addresses and those that
/// name MAC addresses. Both count in one space.
#[derive(Debug)]
pub(crate) struct HostMap {
    pub(crate) v4: V4Map,
    pub(crate) v6: Intervals<u128>,
    /// The class of frames without an address.
    pub(crate) non_ip: u32,
    /// MAC addresses that rules are listed under; every other one has [`NO_KEY`].
    pub(crate) macs: HashMap<Mac, u32>,
    /// The number of keys.
    pub(crate) keys: usize,
}

impl HostMap {
    /// The class of an address.
    pub(crate) fn address_key(&self, ether_type: u16, addr: u128) -> u32 {
        match ether_type {
            ETHER_IPV4 => self.v4.class(addr as u32),
            ETHER_IPV6 => self.v6.class(addr),
            _ => self.non_ip,
        }
    }

    /// The class of a MAC address, or [`NO_KEY`].
    pub(crate) fn mac_key(&self, mac: Mac) -> u32 {
        if self.macs.is_empty() { NO_KEY } else { self.macs.get(&mac).copied().unwrap_or(NO_KEY) }
    }

    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.v4.intervals.size_bytes()
            + size_of_val(&*self.v4.first)
            + self.v6.size_bytes()
            + self.macs.capacity() * (size_of::<(Mac, u32)>() + 1)
    }
}

/// Intervals that cover every value of `T`, each with its class.
#[derive(Debug)]
pub(crate) struct Intervals<T> {
    /// Ascending; the first is zero.
    starts: Vec<T>,
    classes: Vec<u32>,
}

impl<T: Ord + Copy> Intervals<T> {
    /// `cut` is ascending and begins with zero.
    pub(crate) fn new(cut: Vec<(T, u32)>) -> Self {
        let (starts, classes) = cut.into_iter().unzip();
        Self { starts, classes }
    }

    fn class(&self, value: T) -> u32 {
        self.classes[self.starts.partition_point(|&start| start <= value) - 1]
    }

    fn size_bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.classes)
    }
}

/// Intervals of IPv4 addresses, with a table over the leading bits that leaves few to search.
#[derive(Debug)]
pub(crate) struct V4Map {
    intervals: Intervals<u32>,
    /// For each value of the leading bits the interval that holds its first address; one more entry
    /// holds the last interval.
    first: Vec<u32>,
    /// How far an address is shifted to leave its leading bits.
    shift: u32,
}

impl V4Map {
    /// `cut` is ascending and begins with zero.
    pub(crate) fn new(cut: Vec<(u32, u32)>) -> Self {
        let intervals = Intervals::new(cut);
        // About four table entries an interval, from 16 entries to 65,536.
        let bits = (usize::BITS - intervals.starts.len().leading_zeros() + 2).clamp(4, 16);
        let shift = 32 - bits;
        let at = |address: u32| intervals.starts.partition_point(|&start| start <= address) - 1;
        let first = (0..1u32 << bits)
            .map(|top| at(top << shift) as u32)
            .chain([intervals.starts.len() as u32 - 1])
            .collect();
        Self { intervals, first, shift }
    }

    fn class(&self, address: u32) -> u32 {
        let top = (address >> self.shift) as usize;
        let (low, high) = (self.first[top] as usize, self.first[top + 1] as usize);
        let starts = &self.intervals.starts[low + 1..=high];
        self.intervals.classes[low + starts.partition_point(|&start| start <= address)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_search_agree() {
        let starts = [0, 1, 2, 0x0fff_ffff, 0x1000_0000, 0x1000_0001, 0xffff_fffe, u32::MAX];
        let cut: Vec<_> = starts.iter().enumerate().map(|(i, &start)| (start, i as u32)).collect();
        let (table, search) = (V4Map::new(cut.clone()), Intervals::new(cut));
        for start in starts {
            for address in [start.wrapping_sub(1), start, start.wrapping_add(1)] {
                assert_eq!(table.class(address), search.class(address), "{address:#x}");
            }
        }
    }
}
