//! The services of frames, sorted into classes: two frames are in one class when the same service
//! sets hold both. A class is of one family of addresses.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::work::{TooMuchWork, Work};
use super::Family;
use crate::headers::{ETHER_IPV4, ETHER_IPV6, protocol};
use crate::policy::{ServiceSet, ServiceTerm};
use crate::sets::RangeSet;

/// The classes of services.
#[derive(Debug)]
pub(in crate::analyze) struct Frames {
    /// For each service set its classes, by family.
    sets: Vec<[RangeSet<u32>; 3]>,
    cells: Vec<FrameCell>,
    /// The cells of a class are contiguous: where they start, and one past the last.
    starts: Vec<u32>,
    /// The first class of each family, and one past the last of all.
    firsts: [u32; 4],
    /// EtherTypes that some service names, neither IPv4 nor IPv6.
    ether_types: Vec<u16>,
}

/// Frames of one EtherType and protocol, and a rectangle of their ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::analyze) struct FrameCell {
    /// [`None`] for every EtherType that is neither IP nor named by any service.
    pub(in crate::analyze) ether_type: Option<u16>,
    pub(in crate::analyze) protocol: u8,
    pub(in crate::analyze) src_ports: (u16, u16),
    pub(in crate::analyze) dst_ports: (u16, u16),
}

/// EtherTypes of which one stands for all that are not named: those for local experiments
/// (IEEE 802) first.
const UNNAMED: [u16; 2] = [0x88b5, 0x88b6];

impl Frames {
    pub(super) fn new(sets: &[&ServiceSet], work: &mut Work) -> Result<Self, TooMuchWork> {
        let terms: Vec<(u32, &ServiceTerm)> = (sets.iter().enumerate())
            .flat_map(|(set, service)| service.terms.iter().map(move |term| (set as u32, term)))
            .collect();
        let is_ip = |ether: &u16| [ETHER_IPV4, ETHER_IPV6].contains(ether);
        let mut ether_types: Vec<u16> =
            terms.iter().flat_map(|(_, term)| term.ether_types.named()).copied().collect();
        ether_types.retain(|ether| !is_ip(ether));
        ether_types.sort_unstable();
        ether_types.dedup();
        let mut sorter = Sorter { terms: &terms, known: HashMap::new(), found: Vec::new(), work };
        let mut firsts = [0; 4];
        let mut members: Vec<Box<[u32]>> = Vec::new();
        let other = unnamed(&ether_types);
        for family in Family::ALL {
            firsts[family as usize] = members.len() as u32;
            sorter.known.clear();
            match family.ether_type() {
                Some(ether) => {
                    for protocol in 0..=u8::MAX {
                        sorter.protocol(ether, protocol, &mut members)?;
                    }
                }
                None => {
                    for &ether in &ether_types {
                        sorter.ether_type(Some(ether), ether, &mut members)?;
                    }
                    sorter.ether_type(None, other, &mut members)?;
                }
            }
        }
        firsts[3] = members.len() as u32;
        let mut found = sorter.found;
        found.sort_unstable();
        let starts = (0..=members.len() as u32)
            .map(|class| found.partition_point(|&(of, _)| of < class) as u32)
            .collect();
        let mut classes = vec![Vec::new(); sets.len()];
        for (class, holding) in members.iter().enumerate() {
            holding.iter().for_each(|&set| classes[set as usize].push(class as u32));
        }
        let sets = classes.into_iter().map(|classes| {
            Family::ALL.map(|family| {
                let range = firsts[family as usize]..firsts[family as usize + 1];
                let within = classes.iter().filter(|class| range.contains(class));
                RangeSet::<u32>::from_ranges(within.map(|&class| (class, class)))
            })
        });
        let sets = sets.collect();
        let cells = found.into_iter().map(|(_, cell)| cell).collect();
        Ok(Self { sets, cells, starts, firsts, ether_types })
    }

    /// The classes of a service set, by family.
    pub(in crate::analyze) fn classes(&self, set: usize) -> &[RangeSet<u32>; 3] {
        &self.sets[set]
    }

    /// Every class of a family.
    pub(in crate::analyze) fn all(&self, family: Family) -> RangeSet<u32> {
        let (first, end) = (self.firsts[family as usize], self.firsts[family as usize + 1]);
        RangeSet::<u32>::from_ranges([(first, end - 1)])
    }

    /// The family of a class.
    pub(in crate::analyze) fn family(&self, class: u32) -> Family {
        match class {
            _ if class < self.firsts[1] => Family::V4,
            _ if class < self.firsts[2] => Family::V6,
            _ => Family::Other,
        }
    }

    /// What a class consists of.
    pub(in crate::analyze) fn cells(&self, class: u32) -> &[FrameCell] {
        &self.cells[self.starts[class as usize] as usize..self.starts[class as usize + 1] as usize]
    }

    /// EtherTypes that some service names, and those of IP.
    pub(in crate::analyze) fn named_ether_types(&self) -> Arc<[u16]> {
        self.ether_types.iter().copied().chain([ETHER_IPV4, ETHER_IPV6]).collect()
    }

    /// An EtherType that no service names.
    pub(in crate::analyze) fn unnamed_ether_type(&self) -> u16 {
        unnamed(&self.ether_types)
    }
}

/// An EtherType for all that are not named. A policy cannot name them all: each takes a term.
fn unnamed(named: &[u16]) -> u16 {
    let free = |ether: &u16| {
        ![ETHER_IPV4, ETHER_IPV6].contains(ether) && named.binary_search(ether).is_err()
    };
    UNNAMED.into_iter().chain((0x0600..=u16::MAX).rev()).find(free).unwrap_or(UNNAMED[0])
}

struct Sorter<'a, 'w> {
    terms: &'a [(u32, &'a ServiceTerm)],
    /// The classes of the present family, by the sets that hold them.
    known: HashMap<Box<[u32]>, u32>,
    found: Vec<(u32, FrameCell)>,
    work: &'w mut Work,
}

const ALL_PORTS: (u16, u16) = (0, u16::MAX);

impl Sorter<'_, '_> {
    fn protocol(
        &mut self,
        ether: u16,
        number: u8,
        members: &mut Vec<Box<[u32]>>,
    ) -> Result<(), TooMuchWork> {
        self.work.spend(self.terms.len())?;
        let terms: Vec<(u32, &ServiceTerm)> = (self.terms.iter().copied())
            .filter(|(_, t)| t.ether_types.contains(ether) && t.protocols.contains(number))
            .collect();
        let (src_ports, dst_ports) = match number {
            protocol::TCP | protocol::UDP | protocol::SCTP => (ALL_PORTS, ALL_PORTS),
            protocol::ICMP | protocol::ICMPV6 => ((0, 0), ALL_PORTS),
            _ => ((0, 0), (0, 0)),
        };
        let cell = FrameCell { ether_type: Some(ether), protocol: number, src_ports, dst_ports };
        self.rectangles(cell, &terms, members)
    }

    /// A frame that is not IP has neither a protocol nor ports: they read as zero.
    fn ether_type(
        &mut self,
        shown: Option<u16>,
        ether: u16,
        members: &mut Vec<Box<[u32]>>,
    ) -> Result<(), TooMuchWork> {
        self.work.spend(self.terms.len())?;
        let terms: Vec<(u32, &ServiceTerm)> = (self.terms.iter().copied())
            .filter(|(_, t)| t.ether_types.contains(ether) && t.protocols.contains(0))
            .collect();
        let none = (0, 0);
        let cell = FrameCell { ether_type: shown, protocol: 0, src_ports: none, dst_ports: none };
        self.rectangles(cell, &terms, members)
    }

    /// Cuts the ports of `whole` where any of `terms`, which are all that matter, begins or ends.
    fn rectangles(
        &mut self,
        whole: FrameCell,
        terms: &[(u32, &ServiceTerm)],
        members: &mut Vec<Box<[u32]>>,
    ) -> Result<(), TooMuchWork> {
        let columns = cuts(whole.src_ports, terms.iter().map(|(_, term)| &term.src_ports));
        let mut before: Option<(Vec<usize>, usize)> = None;
        for src_ports in columns {
            self.work.spend(terms.len())?;
            let holding: Vec<usize> =
                (0..terms.len()).filter(|&t| terms[t].1.src_ports.contains(src_ports.0)).collect();
            // Neighbouring columns that the same terms hold are one.
            if let Some((known, first)) = &before {
                if *known == holding {
                    self.found[*first..].iter_mut().for_each(|(_, c)| c.src_ports.1 = src_ports.1);
                    continue;
                }
            }
            let first = self.found.len();
            let held = || holding.iter().map(|&t| &terms[t].1.dst_ports);
            for dst_ports in cuts(whole.dst_ports, held()) {
                self.work.spend(1 + holding.len())?;
                let holds = |&&t: &&usize| terms[t].1.dst_ports.contains(dst_ports.0);
                let mut sets: Vec<u32> =
                    holding.iter().filter(holds).map(|&t| terms[t].0).collect();
                sets.dedup();
                let next = members.len() as u32;
                let class = *self.known.entry(sets.into_boxed_slice()).or_insert_with_key(|sets| {
                    members.push(sets.clone());
                    next
                });
                self.found.push((class, FrameCell { src_ports, dst_ports, ..whole }));
            }
            before = Some((holding, first));
        }
        Ok(())
    }
}

/// Cuts `low..=high` where any of `sets` begins or ends: ascending ranges.
fn cuts<'a>(
    (low, high): (u16, u16),
    sets: impl Iterator<Item = &'a RangeSet<u16>>,
) -> Vec<(u16, u16)> {
    let mut starts: Vec<u16> = sets
        .flat_map(|set| set.ranges())
        .flat_map(|&(begin, end)| [Some(begin), end.checked_add(1)])
        .flatten()
        .filter(|at| (low + 1..=high).contains(at))
        .collect();
    starts.push(low);
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([high]);
    starts.iter().copied().zip(ends).collect()
}
