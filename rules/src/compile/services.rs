//! Services to one class per packet, and for each service the classes that it holds.

use std::collections::HashMap;
use std::hash::Hash;

use super::budget::{Budget, Cost, Exceeded, MOST_NUMBERS};
use super::partition::{Classes, Points, intervals, points};
use crate::classifier::services::{Fields, MOST_CELLS, MOST_COLUMNS, NO_COLUMN, Ports, ServiceMap};
use crate::classifier::tables::{ROW, Rows};
use crate::headers::{ETHER_IPV4, ETHER_IPV6};
use crate::policy::{Policy, ServiceTerm};
use crate::sets::{FiniteSet, RangeSet};

/// What the placement of rules needs to know of services.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) map: ServiceMap,
}

/// Builds the service map of the services for which `used` holds.
pub(crate) fn build(
    policy: &Policy,
    used: &[bool],
    budget: &mut Budget,
) -> Result<Services, Exceeded> {
    if used.iter().skip(MOST_NUMBERS).any(|used| *used) {
        return Err(Exceeded::Numbers);
    }
    let terms: Vec<(u32, &ServiceTerm)> = (policy.services().iter().enumerate())
        .filter(|(id, _)| used[*id])
        .flat_map(|(id, service)| service.terms.iter().map(move |term| (id as u32, term)))
        .collect();
    let mut builder = Builder { terms: &terms, columns: vec![0; 2], ..Builder::default() };
    let (ethers, protocols) = builder.cut_layers(budget)?;
    let mut by_protocol = Box::new([protocols.other; 256]);
    for &(value, class) in &protocols.named {
        by_protocol[value as usize] = class;
    }
    let ether = |value: u16| match ethers.named.binary_search_by_key(&value, |&(v, _)| v) {
        Ok(place) => ethers.named[place].1,
        Err(_) => ethers.other,
    };
    // Columns are read by words.
    builder.columns.push(0);
    let rows = rows(&builder.services.members, policy.services().len(), budget)?;
    let mut map = ServiceMap {
        ipv4: ether(ETHER_IPV4),
        ipv6: ether(ETHER_IPV6),
        other: ethers.other,
        ethers: ethers.named,
        protocols: by_protocol,
        protocol_classes: builder.protocol_classes,
        ports: builder.ports,
        layers: builder.layers,
        columns: builder.columns.into(),
        cells: builder.cells.into(),
        fields: Box::new([Fields::default(); 512]),
        rows,
    };
    map.index_fields();
    Ok(Services { map })
}

/// The number of values that each service names: what its cost grows with.
pub(super) fn costs(policy: &Policy) -> Vec<Cost> {
    let size = |term: &ServiceTerm| {
        term.ether_types.named().len()
            + term.src_ports.ranges().len() * term.dst_ports.ranges().len()
    };
    (policy.services().iter())
        .map(|service| Cost {
            what: format!("service `{}`", service.label),
            amount: service.terms.iter().map(size).sum::<usize>() as u64,
            unit: "port ranges and EtherTypes",
        })
        .collect()
}

/// The number of a column, and for each class of ports the terms that hold it.
type Column = (u32, Vec<Box<[u32]>>);

#[derive(Default)]
struct Builder<'a> {
    terms: &'a [(u32, &'a ServiceTerm)],
    protocol_classes: usize,
    layers: Vec<u32>,
    ports: Vec<Ports>,
    columns: Vec<u16>,
    column_ids: HashMap<Vec<(u16, u32)>, u32>,
    cells: Vec<u32>,
    services: Classes,
}

impl<'a> Builder<'a> {
    /// Sorts EtherTypes and protocols into classes, and for each pair of classes the ports.
    fn cut_layers(&mut self, budget: &mut Budget) -> Result<(Points<u16>, Points<u8>), Exceeded> {
        let (ether_sets, ether_of) = distinct(self.terms.iter().map(|(_, t)| &t.ether_types));
        let (protocol_sets, protocol_of) = distinct(self.terms.iter().map(|(_, t)| &t.protocols));
        let (mut ether_classes, mut protocol_classes) = (Classes::default(), Classes::default());
        let ethers = points(ether_sets.into_iter(), &mut ether_classes, budget)?;
        let protocols = points(protocol_sets.into_iter(), &mut protocol_classes, budget)?;
        self.protocol_classes = protocol_classes.members.len();

        let mut layers = HashMap::<Vec<u32>, u32>::new();
        for ether in &ether_classes.members {
            let of_ether: Vec<u32> = (0..self.terms.len() as u32)
                .filter(|&term| ether.binary_search(&ether_of[term as usize]).is_ok())
                .collect();
            for protocol in &protocol_classes.members {
                budget.spend(of_ether.len() + self.terms.len() / 16, size_of::<u32>())?;
                let terms: Vec<u32> = (of_ether.iter().copied())
                    .filter(|&term| protocol.binary_search(&protocol_of[term as usize]).is_ok())
                    .collect();
                let layer = match layers.get(&terms) {
                    Some(&layer) => layer,
                    None => {
                        let ports = self.cut_ports(&terms, budget)?;
                        let layer = self.ports.len() as u32;
                        self.ports.push(ports);
                        layers.insert(terms, layer);
                        layer
                    }
                };
                self.layers.push(layer);
            }
        }
        Ok((ethers, protocols))
    }

    /// Sorts the port pairs into the service classes that `terms` tell apart.
    fn cut_ports(&mut self, terms: &[u32], budget: &mut Budget) -> Result<Ports, Exceeded> {
        let (src, src_classes) = self.column(terms, |term| &term.src_ports, budget)?;
        let (dst, dst_classes) = self.column(terms, |term| &term.dst_ports, budget)?;
        let ports = Ports {
            src,
            dst,
            shift: dst_classes.len().next_power_of_two().ilog2(),
            cells: self.cells.len() as u32,
        };
        for of_src in &src_classes {
            let row = (self.cells.len() - ports.cells as usize).next_multiple_of(1 << ports.shift);
            self.cells.resize(ports.cells as usize + row, 0);
            for of_dst in &dst_classes {
                let mut services: Vec<u32> = intersection(of_src, of_dst)
                    .map(|place| self.terms[terms[place as usize] as usize].0)
                    .collect();
                services.sort_unstable();
                services.dedup();
                budget.spend(of_src.len() + of_dst.len(), size_of::<u32>())?;
                self.cells.push(self.services.id(&services, budget)?);
            }
        }
        if self.cells.len() > MOST_CELLS { Err(Exceeded::Memory) } else { Ok(ports) }
    }

    /// Sorts the 65,536 values of one port field into classes: the column that does so, and for
    /// each class the places in `terms` of the terms that hold it.
    fn column(
        &mut self,
        terms: &[u32],
        field: impl Fn(&'a ServiceTerm) -> &'a RangeSet<u16>,
        budget: &mut Budget,
    ) -> Result<Column, Exceeded> {
        let ranges = terms.iter().enumerate().flat_map(|(place, &term)| {
            let ranges = field(self.terms[term as usize].1).ranges();
            ranges.iter().map(move |&(low, high)| (low, high, place as u32))
        });
        let mut classes = Classes::default();
        let cut = intervals(ranges, &mut classes, budget)?;
        budget.release(classes.size_bytes());
        if classes.members.len() == 1 {
            return Ok((NO_COLUMN, classes.members));
        }
        let next = (self.columns.len() >> 16) as u32;
        let column = *self.column_ids.entry(cut).or_insert_with_key(|cut| {
            let first = self.columns.len();
            self.columns.resize(first + (1 << 16), 0);
            for (place, &(start, class)) in cut.iter().enumerate() {
                let end = cut.get(place + 1).map_or(1 << 16, |&(next, _)| next as usize);
                self.columns[first..][start as usize..end].fill(class as u16);
            }
            next
        });
        if column as usize >= MOST_COLUMNS {
            return Err(Exceeded::Memory);
        }
        if column == next {
            budget.spend(1 << 16, 2 << 16)?;
        }
        Ok((column, classes.members))
    }
}

/// The distinct values of `all`, and for each of `all` its place among them.
fn distinct<'a, T: Ord + Hash>(
    all: impl Iterator<Item = &'a FiniteSet<T>>,
) -> (Vec<&'a FiniteSet<T>>, Vec<u32>) {
    let (mut ids, mut sets) = (HashMap::new(), Vec::new());
    let places = all.map(|set| {
        *ids.entry(set).or_insert_with(|| {
            sets.push(set);
            sets.len() as u32 - 1
        })
    });
    let places = places.collect();
    (sets, places)
}

/// What two ascending lists share.
fn intersection<'a>(a: &'a [u32], b: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
    let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    few.iter().copied().filter(|value| many.binary_search(value).is_ok())
}

/// One bit per service for each class, and no wide rules yet.
fn rows(classes: &[Box<[u32]>], services: usize, budget: &mut Budget) -> Result<Rows, Exceeded> {
    let stride = services.div_ceil(64).max(1).next_multiple_of(ROW);
    budget.spend(classes.len(), classes.len().saturating_mul(stride * size_of::<u64>()))?;
    let mut words = vec![0u64; classes.len() * stride];
    for (class, of_class) in classes.iter().enumerate() {
        for service in of_class {
            words[class * stride + (service / 64) as usize] |= 1 << (service % 64);
        }
    }
    Ok(Rows { words: words.into(), bits: stride, stride })
}
