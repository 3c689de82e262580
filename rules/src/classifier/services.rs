//! Service classes: one small number that answers every rule's "does my service match".

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::tables::Rows;
use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers};
use crate::lanes::{self, Halves, LANES, Lanes, Words};

/// [`Ports::src`] or [`Ports::dst`] where the port decides nothing.
pub(crate) const NO_COLUMN: u32 = u32::MAX;

/// EtherType, protocol and ports to a service class, and for each service its classes.
#[derive(Clone, Debug)]
pub(crate) struct ServiceMap {
    /// The EtherType classes of IPv4, of IPv6, of the named others (ascending), and of the rest.
    pub(crate) ipv4: u32,
    pub(crate) ipv6: u32,
    pub(crate) ethers: Vec<(u16, u32)>,
    pub(crate) other: u32,
    /// IP protocol to its class.
    pub(crate) protocols: Box<[u32; 256]>,
    pub(crate) protocol_classes: usize,
    /// EtherType class × protocol class to the place in `ports`.
    pub(crate) layers: Vec<u32>,
    pub(crate) ports: Vec<Ports>,
    /// Port to port class, 65,536 each, behind two zeros and before one; equal columns are shared.
    /// Versions whose rows differ share these.
    pub(crate) columns: Arc<[u16]>,
    /// Source port class × destination port class to the service class.
    pub(crate) cells: Arc<[u32]>,
    /// How to read the ports of IPv4 and then of IPv6, by protocol: what `layers` and `ports` say, in
    /// one step.
    pub(crate) fields: Box<[Fields; 512]>,
    /// For each service class a bit for each service of the policy that holds it.
    pub(crate) rows: Rows,
}

/// How the ports of one EtherType and protocol are judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Column of the source port, or [`NO_COLUMN`].
    pub(crate) src: u32,
    /// Column of the destination port, or [`NO_COLUMN`].
    pub(crate) dst: u32,
    /// The width of a row of cells, as a power of two: at least the classes of destination ports.
    pub(crate) shift: u32,
    /// The first cell, below [`MOST_CELLS`].
    pub(crate) cells: u32,
}

/// Cells that there may be.
pub(crate) const MOST_CELLS: usize = 1 << 27;
/// Columns that there may be.
pub(crate) const MOST_COLUMNS: usize = (1 << 16) - 1;

/// [`Ports`] without a branch.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Fields {
    /// The column of the source port below and that of the destination port above, counted from one;
    /// zero where the port decides nothing.
    columns: u32,
    /// The shift of rows in the lowest five bits, the first cell above.
    cells: u32,
}

impl From<Ports> for Fields {
    fn from(ports: Ports) -> Self {
        // The number of no column is the greatest one.
        let from_one = |column: u32| column.wrapping_add(1) & 0xffff;
        Self {
            columns: from_one(ports.src) | from_one(ports.dst) << 16,
            cells: ports.cells << 5 | ports.shift,
        }
    }
}

/// Where the column begins that is the first, counted from one, shifted left by 16 bits: what is less.
const FIRST_COLUMN: u32 = (1 << 16) - 2;

/// The service classes of frames, where they are IP.
#[inline(always)]
pub(super) fn classes<L: Lanes>(lanes: L, map: &ServiceMap, frames: &lanes::Fields<L::W>) -> L::W {
    classes_in(lanes, map, cells(lanes, map, frames))
}

/// The second of two steps to them.
#[inline(always)]
pub(super) fn classes_in<L: Lanes>(lanes: L, map: &ServiceMap, cells: L::W) -> L::W {
    lanes.gather(Words::new(&map.cells), cells)
}

/// The first one: the cells in which they stand.
#[inline(always)]
pub(super) fn cells<L: Lanes>(lanes: L, map: &ServiceMap, frames: &lanes::Fields<L::W>) -> L::W {
    let fields = Words::new(bytemuck::cast_slice(&*map.fields));
    let columns = Halves::new(&map.columns);
    let low = lanes.splat(0xffff);
    let ether_type = lanes.and(frames.kind, low);
    let is_v6 = lanes.equal(ether_type, lanes.splat(ETHER_IPV6.into()));
    let protocol = lanes.and(lanes.shr::<16>(frames.kind), lanes.splat(0xff));
    let field = lanes.or(protocol, lanes.and(is_v6, lanes.splat(256)));
    let [both, rows] = lanes.gather_two(fields, field);
    let (src_port, dst_port) = (lanes.and(frames.ports, low), lanes.shr::<16>(frames.ports));
    let src = port_classes(lanes, columns, lanes.shl::<16>(both), src_port);
    let dst = port_classes(lanes, columns, lanes.without(both, low), dst_port);
    let row = lanes.shl_by(src, lanes.and(rows, lanes.splat(31)));
    lanes.add(lanes.shr::<5>(rows), lanes.add(row, dst))
}

/// Which frames are not IPv4: a bit for each.
#[inline(always)]
pub(super) fn other_frames<L: Lanes>(lanes: L, kind: L::W) -> u64 {
    let ether_type = lanes.and(kind, lanes.splat(0xffff));
    let is_v4 = lanes.equal(ether_type, lanes.splat(ETHER_IPV4.into()));
    u64::from(lanes.bits(lanes.without(lanes.splat(u32::MAX), is_v4)))
}

/// The classes of ports. The numbers of columns, counted from one, are in the upper halves.
#[inline(always)]
fn port_classes<L: Lanes>(lanes: L, table: Halves<'_>, columns: L::W, ports: L::W) -> L::W {
    let decides_nothing = lanes.equal(columns, lanes.splat(0));
    if lanes.bits(decides_nothing) == (1 << LANES) - 1 {
        // No port decides anything here: the class of all is 0.
        return columns;
    }
    let place = lanes.sub(lanes.or(columns, ports), lanes.splat(FIRST_COLUMN));
    lanes.gather_halves(table, lanes.without(place, decides_nothing))
}

impl ServiceMap {
    /// The service class of any frame.
    pub(crate) fn class_of(&self, headers: &Headers) -> u32 {
        let Ports { src, dst, shift, cells } = self.ports_of(headers);
        let class = |column: u32, port: u16| match column {
            NO_COLUMN => 0,
            column => u32::from(self.columns[2 + (column as usize) * (1 << 16) + port as usize]),
        };
        let (src, dst) = (class(src, headers.src_port), class(dst, headers.dst_port));
        self.cells[(cells + (src << shift) + dst) as usize]
    }

    /// How the ports of such a frame are judged.
    pub(crate) fn ports_of(&self, headers: &Headers) -> Ports {
        let ether = match headers.ether_type {
            ETHER_IPV4 => self.ipv4,
            ETHER_IPV6 => self.ipv6,
            value => match self.ethers.binary_search_by_key(&value, |&(named, _)| named) {
                Ok(place) => self.ethers[place].1,
                Err(_) => self.other,
            },
        };
        let protocol = self.protocols[headers.protocol as usize];
        let layer = self.layers[ether as usize * self.protocol_classes + protocol as usize];
        self.ports[layer as usize]
    }

    /// Fills in [`Self::fields`].
    pub(crate) fn index_fields(&mut self) {
        for (family, ether_type) in [ETHER_IPV4, ETHER_IPV6].into_iter().enumerate() {
            for protocol in 0..=u8::MAX {
                let headers = Headers { ether_type, protocol, ..Headers::default() };
                self.fields[family * 256 + usize::from(protocol)] = self.ports_of(&headers).into();
            }
        }
    }

    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of_val(&*self.protocols)
            + size_of_val(&*self.ethers)
            + size_of_val(&*self.layers)
            + size_of_val(&*self.ports)
            + size_of_val(&*self.columns)
            + size_of_val(&*self.cells)
            + size_of_val(&*self.fields)
            + self.rows.size_bytes()
    }
}
