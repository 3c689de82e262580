//! Names of groups that persist: a group is called as the old group that it overlaps most.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::learn::Proposal;
use crate::observe::{HostKey, Service};
use crate::store::Store;
use crate::text::slug;

/// Groups of an earlier proposal: their hosts by name.
pub type Known = BTreeMap<Arc<str>, BTreeSet<HostKey>>;

/// A name for each unit of a proposal. Each old name is given once, to the unit with which its hosts
/// overlap most (Jaccard, at least a third); the others are called for what they serve, or use.
pub fn name(store: &Store, proposal: &Proposal, known: &Known) -> Vec<Arc<str>> {
    let mut overlaps = Vec::new();
    let mut groups_of: HashMap<&HostKey, Vec<usize>> = HashMap::new();
    let old: Vec<(&Arc<str>, &BTreeSet<HostKey>)> = known.iter().collect();
    for (at, (_, hosts)) in old.iter().enumerate() {
        for host in *hosts {
            groups_of.entry(host).or_default().push(at);
        }
    }
    for (unit, hosts) in proposal.units.iter().enumerate() {
        let mut common: BTreeMap<usize, usize> = BTreeMap::new();
        for host in hosts {
            for &at in groups_of.get(&store.hosts()[host.0 as usize].key).into_iter().flatten() {
                *common.entry(at).or_default() += 1;
            }
        }
        for (at, common) in common {
            let all = hosts.len() + old[at].1.len() - common;
            if common * 3 >= all {
                // In millionths, so that the order is exact.
                overlaps.push((std::cmp::Reverse(common * 1_000_000 / all), unit, at));
            }
        }
    }
    overlaps.sort_unstable();
    let mut names: Vec<Option<Arc<str>>> = vec![None; proposal.units.len()];
    let mut given: BTreeSet<Arc<str>> = BTreeSet::new();
    for (_, unit, at) in overlaps {
        if names[unit].is_none() && given.insert(Arc::clone(old[at].0)) {
            names[unit] = Some(Arc::clone(old[at].0));
        }
    }
    // A new group does not take the name of an old one that is gone: people would mistake it.
    given.extend(known.keys().cloned());
    let fallbacks = fallbacks(proposal);
    names
        .into_iter()
        .zip(fallbacks)
        .map(|(name, fallback)| name.unwrap_or_else(|| fresh(&fallback, &mut given)))
        .collect()
}

/// The groups of a proposal under their names, to be kept for the next one.
pub fn remember(store: &Store, proposal: &Proposal, names: &[Arc<str>]) -> Known {
    let key = |host: &crate::store::HostId| store.hosts()[host.0 as usize].key.clone();
    let groups = names.iter().zip(&proposal.units);
    groups.map(|(name, unit)| (Arc::clone(name), unit.iter().map(key).collect())).collect()
}

/// What each unit would be called by itself: for the service that it serves to most hosts, or else
/// uses.
fn fallbacks(proposal: &Proposal) -> Vec<String> {
    let mut best: Vec<Option<(bool, usize, Service)>> = vec![None; proposal.units.len()];
    for rule in &proposal.rules {
        let Some(&service) = rule.services.first() else { continue };
        let (clients, servers) = (proposal.hosts(&rule.clients), proposal.hosts(&rule.servers));
        let sides = [(false, &rule.clients, servers.len()), (true, &rule.servers, clients.len())];
        for (serves, units, peers) in sides {
            for &unit in units {
                let better = (serves, peers, service);
                let best = &mut best[unit as usize];
                if best.is_none_or(|best| (best.0, best.1) < (serves, peers)) {
                    *best = Some(better);
                }
            }
        }
    }
    let label = |(best, unit): (&Option<(bool, usize, Service)>, &Vec<_>)| match best {
        Some((serves, _, service)) => side(*service, *serves, unit.len()),
        None => "idle".to_owned(),
    };
    best.iter().zip(&proposal.units).map(label).collect()
}

/// What hosts are called that serve something, or use it.
pub(crate) fn side(service: Service, serves: bool, hosts: usize) -> String {
    let plural = if hosts == 1 { "" } else { "s" };
    let side = if serves { "server" } else { "client" };
    slug(&format!("{}-{side}{plural}", word(service)))
}

/// What people call a service: its usual word, or its number.
fn word(service: Service) -> String {
    let known = match service {
        Service::Port(_, port) => WORDS.iter().find(|(known, _)| *known == port),
        _ => None,
    };
    known.map_or_else(|| service.to_string(), |(_, word)| (*word).to_owned())
}

/// Ports that stand for one service wherever they are met.
const WORDS: [(u16, &str); 45] = [
    (20, "ftp-data"),
    (21, "ftp"),
    (22, "ssh"),
    (23, "telnet"),
    (25, "smtp"),
    (53, "dns"),
    (80, "http"),
    (88, "kerberos"),
    (102, "s7"),
    (104, "dicom"),
    (123, "ntp"),
    (135, "rpc"),
    (139, "netbios"),
    (161, "snmp"),
    (162, "snmp-trap"),
    (389, "ldap"),
    (443, "https"),
    (445, "smb"),
    (502, "modbus"),
    (514, "syslog"),
    (554, "rtsp"),
    (631, "ipp"),
    (636, "ldaps"),
    (993, "imaps"),
    (1433, "sql"),
    (1521, "oracle"),
    (1883, "mqtt"),
    (2222, "enip-io"),
    (2404, "iec104"),
    (2575, "hl7"),
    (3128, "proxy"),
    (3306, "mysql"),
    (3389, "rdp"),
    (4840, "opcua"),
    (5060, "sip"),
    (5061, "sips"),
    (5432, "postgres"),
    (6379, "redis"),
    (8080, "http-alt"),
    (8443, "https-alt"),
    (9100, "print"),
    (11112, "dicom"),
    (20000, "dnp3"),
    (44818, "enip"),
    (47808, "bacnet"),
];

fn fresh(wanted: &str, given: &mut BTreeSet<Arc<str>>) -> Arc<str> {
    let mut name: Arc<str> = Arc::from(wanted);
    let mut next = 2;
    while !given.insert(Arc::clone(&name)) {
        name = Arc::from(format!("{wanted}-{next}"));
        next += 1;
    }
    name
}
