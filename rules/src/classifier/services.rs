//! Service classes: one small number that answers every rule's "does my service match".

use crate::headers::{ETHER_IPV4, ETHER_IPV6, Headers};

/// [`Ports::src`] or [`Ports::dst`] where the port decides nothing.
pub(crate) const NO_COLUMN: u32 = u32::MAX;

/// EtherType, protocol and ports to a service class, and for each service its classes.
#[derive(Debug)]
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
    /// Port to port class, 65,536 each; equal columns are shared.
    pub(crate) columns: Vec<Box<[u16]>>,
    /// Source port class × destination port class to service class.
    pub(crate) cells: Vec<u32>,
    /// The number of service classes.
    pub(crate) classes: usize,
    /// For each service of the policy its classes, as bits of `words`.
    pub(crate) rows: Vec<Row>,
    pub(crate) words: Vec<u64>,
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

/// The bits of one service: those below and above its words are zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    pub(crate) first_word: u32,
    pub(crate) words: u32,
    pub(crate) start: u32,
}

impl ServiceMap {
    /// The service class of a frame.
    pub(crate) fn class(&self, headers: &Headers) -> u32 {
        let ports = self.ports_of(headers);
        let src = self.port_class(ports.src, headers.src_port);
        let dst = self.port_class(ports.dst, headers.dst_port);
        self.cells[(ports.cells + src * ports.dst_classes + dst) as usize]
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

    /// One port of each class of a column, looked for from `first` on; zero alone where the
    /// protocol has no such port.
    pub(crate) fn column_representatives(&self, column: u32, first: Option<u16>) -> Vec<u16> {
        let Some(first) = first else { return vec![0] };
        if column == NO_COLUMN {
            return vec![first];
        }
        let classes = &self.columns[column as usize];
        let mut seen = vec![false; classes.iter().max().map_or(0, |&last| last as usize + 1)];
        let ports = (first..=u16::MAX).chain((0..first).rev());
        ports
            .filter(|&port| !std::mem::replace(&mut seen[classes[port as usize] as usize], true))
            .collect()
    }

    fn port_class(&self, column: u32, port: u16) -> u32 {
        if column == NO_COLUMN { 0 } else { self.columns[column as usize][port as usize].into() }
    }

    /// Whether `service` holds `class`.
    pub(crate) fn holds(&self, service: u32, class: u32) -> bool {
        let row = self.rows[service as usize];
        let word = (class / 64).wrapping_sub(row.first_word);
        word < row.words && self.words[(row.start + word) as usize] >> (class % 64) & 1 == 1
    }

    /// Heap bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of_val(&*self.protocols)
            + size_of_val(&*self.ethers)
            + size_of_val(&*self.layers)
            + size_of_val(&*self.ports)
            + self.columns.iter().map(|column| size_of_val(&**column)).sum::<usize>()
            + size_of_val(&*self.cells)
            + size_of_val(&*self.rows)
            + size_of_val(&*self.words)
    }
}
