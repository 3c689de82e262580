//! Service classes: one small number that answers every rule's "does my service match".

use super::tables::Rows;
use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers};

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
    /// Port to port class, 65,536 each, behind one zero; equal columns are shared.
    pub(crate) columns: Vec<u16>,
    /// Source port class × destination port class to where the row of the service class begins.
    pub(crate) cells: Vec<u32>,
    /// How to read the ports of IPv4 and IPv6, by protocol: what `layers` and `ports` say, in one
    /// step.
    pub(crate) fields: Box<[[Fields; 256]; 2]>,
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

/// [`Ports`] without a branch: where a port decides nothing its mask is zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields {
    src_start: u32,
    dst_start: u32,
    src_mask: u16,
    dst_mask: u16,
    dst_classes: u32,
    cells: u32,
}

impl From<Ports> for Fields {
    fn from(ports: Ports) -> Self {
        // The columns begin behind one element, which is zero.
        let start = |column: u32| if column == NO_COLUMN { 0 } else { 1 + (column << 16) };
        let mask = |column: u32| if column == NO_COLUMN { 0 } else { u16::MAX };
        Self {
            src_start: start(ports.src),
            dst_start: start(ports.dst),
            src_mask: mask(ports.src),
            dst_mask: mask(ports.dst),
            dst_classes: ports.dst_classes,
            cells: ports.cells,
        }
    }
}

impl ServiceMap {
    /// Where the rows of the service classes of frames begin.
    #[inline(never)]
    pub(crate) fn rows_of(&self, headers: &[Headers], rows: &mut [u32]) {
        for (row, headers) in rows.iter_mut().zip(headers) {
            *row = self.row(headers);
        }
    }

    #[inline(always)]
    fn row(&self, headers: &Headers) -> u32 {
        let fields = match headers.ether_type {
            ETHER_IPV4 => self.fields[0][usize::from(headers.protocol)],
            ETHER_IPV6 => self.fields[1][usize::from(headers.protocol)],
            _ => self.ports_of(headers).into(),
        };
        let src = fields.src_start + u32::from(headers.src_port & fields.src_mask);
        let dst = fields.dst_start + u32::from(headers.dst_port & fields.dst_mask);
        let src = u32::from(self.columns[src as usize]);
        let dst = u32::from(self.columns[dst as usize]);
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
                self.fields[family][usize::from(protocol)] = self.ports_of(&headers).into();
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
