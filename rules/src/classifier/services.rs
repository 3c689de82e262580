//! Service classes: one small number that answers every rule's "does my service match".

use bytemuck::{Pod, Zeroable};

use super::tables::Rows;
use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers};
use crate::lanes::{self, Eight, Kernel, Lanes, Words};

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
    /// Port to port class, 65,536 each, behind two zeros; equal columns are shared.
    pub(crate) columns: Vec<u16>,
    /// Source port class × destination port class to where the row of the service class begins.
    pub(crate) cells: Vec<u32>,
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
    /// Destination port classes: the width of a row of cells.
    pub(crate) dst_classes: u32,
    /// The first cell.
    pub(crate) cells: u32,
}

/// [`Ports`] without a branch.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Fields {
    /// Where the column of the source port begins, or 0 where the port decides nothing.
    src_start: u32,
    /// The same of the destination port.
    dst_start: u32,
    dst_classes: u32,
    cells: u32,
}

impl From<Ports> for Fields {
    fn from(ports: Ports) -> Self {
        // The columns begin behind two elements, which are zero.
        let start = |column: u32| if column == NO_COLUMN { 0 } else { 2 + (column << 16) };
        Self {
            src_start: start(ports.src),
            dst_start: start(ports.dst),
            dst_classes: ports.dst_classes,
            cells: ports.cells,
        }
    }
}

/// What the service classes of a batch are found by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Places in [`ServiceMap::fields`]: the protocol, from 256 on for IPv6.
    pub(crate) fields: &'a [Eight],
    /// Source ports.
    pub(crate) src_ports: &'a [Eight],
    /// Destination ports.
    pub(crate) dst_ports: &'a [Eight],
}

/// Takes every lane to where the row of its service class begins.
struct Find<'a> {
    map: &'a ServiceMap,
    asked: Asked<'a>,
    rows: &'a mut [Eight],
}

impl Kernel for Find<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { map, asked, rows } = self;
        let fields = Words::new(bytemuck::cast_slice(&*map.fields));
        let (columns, cells) =
            (Words::new(bytemuck::cast_slice(&map.columns)), Words::new(&map.cells));
        let ports = asked.src_ports.iter().zip(asked.dst_ports);
        for ((field, (src, dst)), rows) in asked.fields.iter().zip(ports).zip(rows) {
            let first = lanes.shl::<2>(lanes.load(field));
            let src_start = lanes.gather(fields, first);
            let dst_start = lanes.gather(fields, lanes.add(first, lanes.splat(1)));
            let dst_classes = lanes.gather(fields, lanes.add(first, lanes.splat(2)));
            let cells_start = lanes.gather(fields, lanes.add(first, lanes.splat(3)));
            let src = port_classes(lanes, columns, src_start, lanes.load(src));
            let dst = port_classes(lanes, columns, dst_start, lanes.load(dst));
            let cell = lanes.add(lanes.add(cells_start, lanes.mul(src, dst_classes)), dst);
            lanes.store(lanes.gather(cells, cell), rows);
        }
    }
}

/// The classes of ports in columns that begin at `starts`.
#[inline(always)]
fn port_classes<L: Lanes>(lanes: L, columns: Words<'_>, starts: L::W, ports: L::W) -> L::W {
    let decides_nothing = lanes.equal(starts, lanes.splat(0));
    let place = lanes.add(starts, lanes.without(ports, decides_nothing));
    let two = lanes.gather(columns, lanes.shr::<1>(place));
    let is_upper = lanes.and(place, lanes.splat(1));
    lanes.and(lanes.shr_by(two, lanes.shl::<4>(is_upper)), lanes.splat(0xffff))
}

impl ServiceMap {
    /// Where the rows of the service classes of IP packets begin.
    pub(crate) fn find(&self, asked: Asked<'_>, rows: &mut [Eight]) {
        lanes::run(Find { map: self, asked, rows });
    }

    /// Where the row of the service class of any frame begins.
    pub(crate) fn row_of(&self, headers: &Headers) -> u32 {
        let fields = Fields::from(self.ports_of(headers));
        let class = |start: u32, port: u16| {
            let place = if start == 0 { 0 } else { start + u32::from(port) };
            u32::from(self.columns[place as usize])
        };
        let src = class(fields.src_start, headers.src_port);
        let dst = class(fields.dst_start, headers.dst_port);
        self.cells[(fields.cells + src * fields.dst_classes + dst) as usize]
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
