//! Which endpoints are one device, and by what it stays the same.
//!
//! A frame has the MAC address of whoever sent it last, so behind a router all hosts have the router's.
//! What is told apart, for what was seen in the whole of the store's time:
//!
//! - A **router** says so in LLDP, or comes with many addresses that DHCP did not give it. What is
//!   behind it is known by address alone.
//! - A device that DHCP gave an address is known by its **MAC address**: its rules follow it.
//! - Any other is known by its **address**, which stays while a network card may be replaced. IPv6
//!   addresses belong to the IPv4 address of the same card, where it has just one.
//! - Frames that are not IP have nothing but MAC addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_learn::observe::HostKey;
use bulkhead_rules::headers::Mac;

use super::announce::{NameSource, Subject};
use super::database::StoreError;
use super::ingest::Endpoint;
use super::report::{EndpointRow, NameRow, Reader};

/// Addresses from which a MAC address is a router's. A server may have a few of its own.
const ROUTED: usize = 4;

/// Who an endpoint is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Who {
    /// A host.
    Host(HostKey),
    /// Many at once: a broadcast or multicast address, of a network or (without one) of frames.
    Group(HostKey),
}

/// All endpoints of a store, and who they are.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    rows: Vec<EndpointRow>,
    who: HashMap<i64, Who>,
    routers: BTreeSet<Mac>,
    names: HashMap<Subject, (NameSource, Arc<str>)>,
    addresses: BTreeMap<HostKey, BTreeSet<IpAddr>>,
    routed_broadcasts: BTreeSet<IpAddr>,
}

impl Identities {
    /// Reads and resolves the endpoints of a store.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn read(reader: &Reader) -> Result<Self, StoreError> {
        let leases = reader.leases()?;
        let mut found =
            Self::resolve(reader.endpoints()?, &leases, reader.routers()?, reader.names()?);
        found.broadcasts(&reader.silent_broadcasts()?);
        Ok(found)
    }

    /// Takes addresses for those of many that only their use tells.
    fn broadcasts(&mut self, ids: &BTreeSet<i64>) {
        for row in self.rows.iter().filter(|row| ids.contains(&row.id)) {
            let (Some(address), Some(who)) = (row.endpoint.address, self.who.get_mut(&row.id))
            else {
                continue;
            };
            if let Who::Host(host) = who {
                self.addresses.remove(host);
                *who = Who::Group(HostKey::Address(address));
                self.routed_broadcasts.insert(address);
            }
        }
    }

    /// Whether an address is that of a network's broadcasts, in frames to a host's MAC address.
    pub fn is_routed_broadcast(&self, address: IpAddr) -> bool {
        self.routed_broadcasts.contains(&address)
    }

    /// Addresses that several devices have, each in a VLAN of its own: with the VLANs, in order. They
    /// count as one host. A router that carries an address from one VLAN to another is none of them.
    pub fn reused(&self) -> Vec<(IpAddr, BTreeSet<[u16; 2]>)> {
        let mut seen: BTreeMap<IpAddr, BTreeMap<Mac, [u16; 2]>> = BTreeMap::new();
        for row in &self.rows {
            let Endpoint { mac, address: Some(address) } = row.endpoint else { continue };
            if !self.is_router(mac) && !mac.is_group() && mac != Mac::default() {
                seen.entry(address).or_default().insert(mac, row.vlan);
            }
        }
        let vlans = seen
            .into_iter()
            .map(|(address, cards)| (address, cards.into_values().collect::<BTreeSet<[u16; 2]>>()));
        let is_plain = |address: &IpAddr| {
            !address.is_unspecified()
                && !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
        };
        vlans.filter(|(address, vlans)| is_plain(address) && vlans.len() > 1).collect()
    }

    /// Resolves endpoints.
    pub fn resolve(
        rows: Vec<EndpointRow>,
        leases: &[Endpoint],
        routers: Vec<Mac>,
        names: Vec<NameRow>,
    ) -> Self {
        let mut cards: HashMap<Mac, Card> = HashMap::new();
        for lease in leases {
            let card = cards.entry(lease.mac).or_default();
            card.leased.extend(lease.address);
        }
        for row in &rows {
            cards.entry(row.endpoint.mac).or_default().add(row.endpoint.address);
        }
        let mut routers: BTreeSet<Mac> = routers.into_iter().collect();
        let many = cards.iter().filter(|(_, card)| card.is_router()).map(|(&mac, _)| mac);
        routers.extend(many);
        let mut identities = Self { routers, ..Self::default() };
        for row in &rows {
            let who = identities.who_is(row.endpoint, &cards);
            if let (Who::Host(key), Some(address)) = (&who, row.endpoint.address) {
                if !address.is_unspecified() {
                    identities.addresses.entry(key.clone()).or_default().insert(address);
                }
            }
            identities.who.insert(row.id, who);
        }
        identities.rows = rows;
        for NameRow { subject, source, name } in names {
            let known = identities.names.entry(subject);
            // Names come in order: the first of the most trustworthy source stays.
            let known = known.or_insert_with(|| (source, Arc::from(name.as_str())));
            if source < known.0 {
                *known = (source, Arc::from(name.as_str()));
            }
        }
        identities
    }

    /// The endpoints.
    pub fn rows(&self) -> &[EndpointRow] {
        &self.rows
    }

    /// Who the endpoint with this number is.
    pub fn who(&self, id: i64) -> Option<&Who> {
        self.who.get(&id)
    }

    /// Whether a MAC address is a router's.
    pub fn is_router(&self, mac: Mac) -> bool {
        self.routers.contains(&mac)
    }

    /// The addresses of a host, over all time.
    pub fn addresses(&self, key: &HostKey) -> impl Iterator<Item = IpAddr> {
        self.addresses.get(key).into_iter().flatten().copied()
    }

    /// What people call a host.
    pub fn name(&self, key: &HostKey) -> Option<&Arc<str>> {
        let of_mac = match key {
            HostKey::Mac(mac) => self.names.get(&Subject::Mac(*mac)),
            _ => None,
        };
        let of_addresses =
            self.addresses(key).filter_map(|address| self.names.get(&Subject::Address(address)));
        let best = of_mac.into_iter().chain(of_addresses).min_by_key(|(source, _)| *source);
        best.map(|(_, name)| name)
    }

    fn who_is(&self, endpoint: Endpoint, cards: &HashMap<Mac, Card>) -> Who {
        let Endpoint { mac, address } = endpoint;
        let Some(address) = address else {
            let key = HostKey::Mac(mac);
            return if mac.is_group() { Who::Group(key) } else { Who::Host(key) };
        };
        if mac.is_group() || is_group(address) {
            return Who::Group(HostKey::Address(address));
        }
        let unknown = Card::default();
        let card = cards.get(&mac).unwrap_or(&unknown);
        let by_address = Who::Host(HostKey::Address(address));
        if self.is_router(mac) || mac == Mac::default() {
            return by_address;
        }
        let is_leased = card.leased.contains(&address);
        let follows = !card.leased.is_empty() && address.is_ipv6();
        if address.is_unspecified() || is_leased || follows {
            return Who::Host(HostKey::Mac(mac));
        }
        match (address, card.own_v4().as_slice()) {
            (IpAddr::V6(_), [only]) => Who::Host(HostKey::Address(*only)),
            (IpAddr::V6(_), []) => Who::Host(HostKey::Address(card.first_v6().unwrap_or(address))),
            _ => by_address,
        }
    }
}

/// What came with a MAC address.
#[derive(Clone, Debug, Default)]
struct Card {
    leased: BTreeSet<IpAddr>,
    addresses: BTreeSet<IpAddr>,
}

impl Card {
    fn add(&mut self, address: Option<IpAddr>) {
        let is_own = |address: &IpAddr| !address.is_unspecified() && !is_group(*address);
        self.addresses.extend(address.filter(is_own));
    }

    /// IPv4 addresses that nobody gave it.
    fn own_v4(&self) -> Vec<IpAddr> {
        let own = |address: &&IpAddr| address.is_ipv4() && !self.leased.contains(*address);
        self.addresses.iter().filter(own).copied().collect()
    }

    /// The first address, link-local ones last.
    fn first_v6(&self) -> Option<IpAddr> {
        let v6 = self.addresses.iter().filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        v6.min_by_key(|address| (address.is_unicast_link_local(), *address)).map(IpAddr::V6)
    }

    fn is_router(&self) -> bool {
        let networks: BTreeSet<u64> = self
            .addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V6(address) => Some((address.to_bits() >> 64) as u64),
                IpAddr::V4(_) => None,
            })
            .collect();
        self.own_v4().len() >= ROUTED || networks.len() > ROUTED
    }
}

/// Whether an address stands for many hosts. That of a network's broadcasts is known by its frames
/// only.
pub fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::ingest::Seen;

    fn row(id: i64, mac: u8, address: &str) -> EndpointRow {
        EndpointRow {
            id,
            endpoint: Endpoint { mac: Mac([2, 0, 0, 0, 0, mac]), address: address.parse().ok() },
            wire: "line3".to_owned(),
            side: "inside".to_owned(),
            vlan: [0, 0],
            seen: Seen { first_ms: 0, last_ms: 0 },
        }
    }

    fn address(text: &str) -> HostKey {
        HostKey::Address(text.parse().unwrap_or_else(|e| panic!("{text}: {e}")))
    }

    #[test]
    fn routers_leases_and_fixed_addresses_are_told_apart() {
        let rows = vec![
            row(1, 1, "10.0.0.1"),
            row(2, 1, "10.9.0.2"),
            row(3, 1, "10.9.0.3"),
            row(4, 1, "10.9.0.4"),
            row(5, 2, "10.0.0.50"),
            row(6, 2, "10.0.0.51"),
            row(7, 2, "fe80::2"),
            row(8, 2, "0.0.0.0"),
            row(9, 3, "10.0.0.9"),
            row(10, 3, "fd00::9"),
            row(11, 3, ""),
            row(12, 4, "239.1.1.1"),
        ];
        let lease =
            |last: &str| Endpoint { mac: Mac([2, 0, 0, 0, 0, 2]), address: last.parse().ok() };
        let leases = [lease("10.0.0.50"), lease("10.0.0.51")];
        let names = vec![NameRow {
            subject: Subject::Mac(Mac([2, 0, 0, 0, 0, 2])),
            source: NameSource::Dhcp,
            name: "laptop".to_owned(),
        }];
        let found = Identities::resolve(rows, &leases, Vec::new(), names);
        let host = |id| match found.who(id) {
            Some(Who::Host(key)) => key.clone(),
            other => panic!("{id}: {other:?}"),
        };
        let follows = HostKey::Mac(Mac([2, 0, 0, 0, 0, 2]));
        assert!(found.is_router(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!(host(2), address("10.9.0.2"));
        for id in 5..=8 {
            assert_eq!(host(id), follows, "endpoint {id}");
        }
        assert_eq!(host(9), address("10.0.0.9"));
        assert_eq!(host(10), address("10.0.0.9"));
        assert_eq!(host(11), HostKey::Mac(Mac([2, 0, 0, 0, 0, 3])));
        assert!(matches!(found.who(12), Some(Who::Group(_))));
        assert_eq!(found.name(&follows).map(|name| &**name), Some("laptop"));
        assert!(found.reused().is_empty(), "all in one VLAN");
    }

    #[test]
    fn an_address_in_two_vlans_is_told_unless_a_router_carries_it() {
        let in_vlan = |vlan: u16, row: EndpointRow| EndpointRow { vlan: [vlan, 0], ..row };
        let rows = vec![
            in_vlan(10, row(1, 1, "10.0.0.5")),
            in_vlan(20, row(2, 2, "10.0.0.5")),
            in_vlan(10, row(3, 3, "10.0.0.6")),
            in_vlan(20, row(4, 4, "10.0.0.6")),
        ];
        let router = vec![Mac([2, 0, 0, 0, 0, 4])];
        let found = Identities::resolve(rows, &[], router, Vec::new());
        let reused: Vec<_> = found.reused().into_iter().collect();
        let address = "10.0.0.5".parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(reused, [(address, BTreeSet::from([[10, 0], [20, 0]]))]);
    }
}
