//! The store's edges as the learner wants them: hosts instead of endpoints, broadcasts apart, and
//! what was denied kept out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bulkhead_learn::observe::{
    HostFacts, HostKey, Observation, Opening, Outcome, PortProtocol, Service,
};
use bulkhead_learn::store::{HostId, Store};
use bulkhead_rules::headers::VlanTags;

use super::database::StoreError;
use super::direction::Directions;
use super::identity::{Identities, Who};
use super::report::{EdgeRow, Reader};
use super::templates;

/// Where something was seen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The wire.
    pub wire: Arc<str>,
    /// The VLAN tags.
    pub vlan: VlanTags,
}

/// A broadcast, a multicast, or what else goes by a ready-made rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TemplateKey {
    /// To whom; nothing for what goes to single hosts too (DHCP, answers to multicasts).
    pub to: Option<HostKey>,
    /// What.
    pub service: Service,
    /// The port that it comes from, where it answers a multicast; else 0.
    pub from_port: u16,
}

/// Who uses a template.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TemplateUse {
    /// Who sends.
    pub senders: BTreeSet<HostKey>,
    /// To which single hosts.
    pub receivers: BTreeSet<HostKey>,
    /// In which periods.
    pub periods: BTreeSet<u32>,
}

/// What was denied on an enforcing wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// Who tried.
    pub client: HostKey,
    /// To whom.
    pub server: HostKey,
    /// What.
    pub service: Service,
    /// Packets.
    pub packets: u64,
    /// When it was tried first and last, in Unix milliseconds.
    pub seen: super::ingest::Seen,
    /// The rule that denied.
    pub rule: String,
    /// The reason of the drop.
    pub reason: String,
}

/// What was seen, ready to be learnt from.
#[derive(Debug)]
pub struct Model {
    /// For the learner.
    pub store: Store,
    /// Who is who.
    pub identities: Identities,
    /// Seconds of a period: the learner's hours are these.
    pub period_s: u32,
    /// Where each edge was seen.
    pub places: HashMap<(HostId, HostId, Service), BTreeSet<Place>>,
    /// Every place where anything was seen.
    pub all_places: BTreeSet<Place>,
    /// Broadcasts and their like.
    pub templates: BTreeMap<TemplateKey, TemplateUse>,
    /// What was denied, in the order of client, server and service.
    pub denied: Vec<Denied>,
}

impl Model {
    /// Reads the store's range.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn read(reader: &Reader) -> Result<Self, StoreError> {
        let mut model = Self {
            store: Store::new(),
            identities: Identities::read(reader)?,
            period_s: reader.period_s,
            places: HashMap::new(),
            all_places: BTreeSet::new(),
            templates: BTreeMap::new(),
            denied: Vec::new(),
        };
        let mut denied = BTreeMap::new();
        let mut wires: HashMap<String, Arc<str>> = HashMap::new();
        let directions = Directions::read(reader)?;
        reader.edges(|mut row| {
            directions.settle(&mut row);
            let wire = wires.entry(row.wire.clone()).or_insert_with(|| Arc::from(&*row.wire));
            let wire = Arc::clone(wire);
            model.add(&row, wire, &mut denied);
        })?;
        model.denied = denied.into_values().collect();
        model.store.settle();
        model.describe();
        Ok(model)
    }

    /// What people call a host: its name, or what it is known by.
    pub fn label(&self, host: HostId) -> String {
        self.store.hosts().get(host.0 as usize).map_or_else(String::new, |host| {
            let name = host.facts.name.as_ref().map(ToString::to_string);
            name.unwrap_or_else(|| host.key.to_string())
        })
    }

    fn add(
        &mut self,
        row: &EdgeRow,
        wire: Arc<str>,
        denied: &mut BTreeMap<(HostKey, HostKey, Service), Denied>,
    ) {
        let (Some(client), Some(server)) =
            (self.identities.who(row.client), self.identities.who(row.server))
        else {
            return;
        };
        // Nobody sends from an address of many.
        let Who::Host(client) = client.clone() else { return };
        let server = server.clone();
        if row.flows + row.answered + row.failed == 0 {
            if let (Who::Host(server), 1..) = (server, row.denied) {
                add_denied(denied, client, server, row);
            }
            return;
        }
        let Ok(hour) = u32::try_from(row.period.div_euclid(i64::from(self.period_s))) else {
            return;
        };
        let place = Place { wire, vlan: VlanTags { outer: row.vlan[0], inner: row.vlan[1] } };
        self.all_places.insert(place.clone());
        if let Some(key) = template(&server, row) {
            let used = self.templates.entry(key).or_default();
            used.senders.insert(client);
            used.periods.insert(hour);
            if let Who::Host(server) = server {
                used.receivers.insert(server);
            }
            return;
        }
        let Who::Host(server) = server else { return };
        let outcome = match (row.answered, row.failed) {
            (1.., _) => Outcome::BothWays,
            (0, 1..) => Outcome::Failed,
            (0, 0) => Outcome::Unknown,
        };
        let opening = match row.client_port {
            0 => Opening::Seen,
            client_port => Opening::Unknown { client_port },
        };
        let service = row.service;
        self.store.observe(&Observation { hour, client, server, service, opening, outcome });
        self.place(row, hour, place);
    }

    /// Notes where an edge was seen, in both directions where it is not sure which is right.
    fn place(&mut self, row: &EdgeRow, hour: u32, place: Place) {
        let ends = [row.client, row.server].map(|id| match self.identities.who(id) {
            Some(Who::Host(key)) => Some(key.clone()),
            _ => None,
        });
        let [Some(client), Some(server)] = ends else { return };
        let (Some(client), Some(server)) =
            (self.store.host(&client, hour), self.store.host(&server, hour))
        else {
            return;
        };
        if let (1.., Service::Port(protocol, _)) = (row.client_port, row.service) {
            let other = (server, client, Service::Port(protocol, row.client_port));
            self.places.entry(other).or_default().insert(place.clone());
        }
        self.places.entry((client, server, row.service)).or_default().insert(place);
    }

    fn describe(&mut self) {
        let mut facts = Vec::new();
        for host in self.store.hosts() {
            facts.push(HostFacts {
                name: self.identities.name(&host.key).cloned(),
                mac: match host.key {
                    HostKey::Mac(mac) => Some(mac),
                    _ => None,
                },
                addresses: self.identities.addresses(&host.key).collect(),
                vlan: None,
                wire: None,
            });
        }
        for (host, facts) in (0..).zip(facts) {
            self.store.describe(HostId(host), facts);
        }
    }
}

/// The template that an edge goes by, if it goes by one.
fn template(server: &Who, row: &EdgeRow) -> Option<TemplateKey> {
    let service = row.service;
    let answers = |port| {
        matches!(service, Service::Port(PortProtocol::Udp, _)) && templates::ANSWERS.contains(&port)
    };
    match server {
        Who::Host(_) if templates::is_dhcp(service) => {
            Some(TemplateKey { to: None, service, from_port: 0 })
        }
        Who::Host(_) if answers(row.client_port) => {
            let service = Service::Dynamic(PortProtocol::Udp, 1024);
            Some(TemplateKey { to: None, service, from_port: row.client_port })
        }
        Who::Host(_) => None,
        Who::Group(key) => Some(TemplateKey { to: Some(key.clone()), service, from_port: 0 }),
    }
}

fn add_denied(
    denied: &mut BTreeMap<(HostKey, HostKey, Service), Denied>,
    client: HostKey,
    server: HostKey,
    row: &EdgeRow,
) {
    let key = (client.clone(), server.clone(), row.service);
    let entry = denied.entry(key).or_insert_with(|| Denied {
        client,
        server,
        service: row.service,
        packets: 0,
        seen: row.seen,
        rule: String::new(),
        reason: String::new(),
    });
    entry.packets = entry.packets.saturating_add(row.denied);
    entry.seen.widen(row.seen);
    entry.rule.clone_from(&row.rule);
    entry.reason.clone_from(&row.reason);
}
