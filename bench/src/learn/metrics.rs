//! What policies are judged by.

use std::collections::{BTreeMap, HashMap, HashSet};

use bulkhead_learn::observe::Service;

use super::data::Flow;

/// A policy as a measurement sees it: who may open what to whom.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    rules: Vec<(Vec<u32>, Vec<u32>, Vec<Service>)>,
    /// For each host the rules that it is a client, or a server, in.
    opens: HashMap<u32, HashSet<u32>>,
    serves: HashMap<u32, Vec<u32>>,
}

impl Allowed {
    /// Adds a rule: each client may open each service on each server.
    pub fn add(&mut self, clients: Vec<u32>, servers: Vec<u32>, services: Vec<Service>) {
        let at = self.rules.len() as u32;
        for &client in &clients {
            self.opens.entry(client).or_default().insert(at);
        }
        for &server in &servers {
            self.serves.entry(server).or_default().push(at);
        }
        self.rules.push((clients, servers, services));
    }

    /// How many rules there are.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Whether a flow passes.
    pub fn permits(&self, client: u32, server: u32, service: Service) -> bool {
        let (Some(opens), Some(serves)) = (self.opens.get(&client), self.serves.get(&server))
        else {
            return false;
        };
        serves.iter().filter(|rule| opens.contains(rule)).any(|&rule| {
            self.rules[rule as usize].2.iter().any(|permitted| permitted.covers(service))
        })
    }

    /// How many (client, server, service) triples pass, and how many (client, server, port) ones.
    /// A host and itself are no pair; dynamic ports of a pair are one service.
    pub fn size(&self) -> (u64, u64) {
        let mut by_service: BTreeMap<Service, Vec<u32>> = BTreeMap::new();
        for (at, (_, _, services)) in self.rules.iter().enumerate() {
            for &service in services {
                by_service.entry(service).or_default().push(at as u32);
            }
        }
        let (mut pairs, mut ports) = (0, 0);
        for (service, rules) in by_service {
            let mut servers_of: HashMap<u32, Vec<u32>> = HashMap::new();
            for &rule in &rules {
                for &client in &self.rules[rule as usize].0 {
                    servers_of.entry(client).or_default().push(rule);
                }
            }
            // Clients with the same rules have the same servers.
            let mut same: HashMap<Vec<u32>, u64> = HashMap::new();
            let mut selves = 0;
            for (client, rules) in servers_of {
                let is_own = |&rule: &u32| self.rules[rule as usize].1.contains(&client);
                selves += u64::from(rules.iter().any(is_own));
                *same.entry(rules).or_default() += 1;
            }
            let count: u64 = same
                .iter()
                .map(|(rules, clients)| {
                    let servers: HashSet<u32> = rules
                        .iter()
                        .flat_map(|&rule| self.rules[rule as usize].1.iter().copied())
                        .collect();
                    clients * servers.len() as u64
                })
                .sum();
            pairs += count - selves;
            ports += (count - selves) * service.width();
        }
        (pairs, ports)
    }

    /// The mean share of other hosts that one compromised host reaches, going on from each that it
    /// reached; of a flat network that is all of them.
    pub fn mean_reach(&self, hosts: &[u32]) -> f64 {
        let mut total = 0;
        for &start in hosts {
            let mut reached = HashSet::from([start]);
            let mut used: HashSet<u32> = HashSet::new();
            let mut left = vec![start];
            while let Some(host) = left.pop() {
                for &rule in self.opens.get(&host).into_iter().flatten() {
                    if used.insert(rule) {
                        let servers = self.rules[rule as usize].1.iter().copied();
                        left.extend(servers.filter(|&server| reached.insert(server)));
                    }
                }
            }
            total += reached.len() - 1;
        }
        let others = hosts.len() * hosts.len().saturating_sub(1);
        total as f64 / others.max(1) as f64
    }
}

/// What a policy denies of hours that it did not learn from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Denials {
    /// Edges in hours, all of them.
    pub flow_hours: u64,
    /// Those that are denied.
    pub denied: u64,
    /// Those denied of hosts that were both seen in learning.
    pub denied_seen: u64,
    /// Distinct edges that are denied.
    pub edges: u64,
    /// Hosts in days.
    pub host_days: f64,
}

impl Denials {
    /// The share of flow-hours that is denied.
    pub fn share(&self) -> f64 {
        self.denied as f64 / self.flow_hours.max(1) as f64
    }
}

/// Judges hours by a policy.
pub fn denials(policy: &Allowed, hours: &[Vec<Flow>], seen: &HashSet<u32>) -> Denials {
    let mut denials = Denials::default();
    let mut verdicts: HashMap<(u32, u32, Service), bool> = HashMap::new();
    let mut hosts = HashSet::new();
    // What nobody answered is not missed.
    for flow in hours.iter().flatten().filter(|flow| !flow.failed) {
        hosts.extend([flow.client, flow.server]);
        denials.flow_hours += 1;
        let key = (flow.client, flow.server, flow.service);
        let permitted = *verdicts.entry(key).or_insert_with(|| {
            let permitted = policy.permits(flow.client, flow.server, flow.service);
            denials.edges += u64::from(!permitted);
            permitted
        });
        if !permitted {
            denials.denied += 1;
            let is_known = seen.contains(&flow.client) && seen.contains(&flow.server);
            denials.denied_seen += u64::from(is_known);
        }
    }
    denials.host_days = hosts.len() as f64 * hours.len() as f64 / 24.0;
    denials
}

/// Adjusted Rand index and adjusted mutual information (with the arithmetic mean of the entropies)
/// of groups against true ones, over the hosts that have both. Hubert and Arabie, 1985; Vinh, Epps
/// and Bailey, 2010.
pub fn agreement(groups: &HashMap<u32, u32>, truth: &HashMap<u32, u32>) -> (f64, f64) {
    let both: Vec<(u32, u32)> = {
        let mut hosts: Vec<_> = truth.iter().collect();
        hosts.sort_unstable();
        hosts.iter().filter_map(|&(host, &group)| Some((*groups.get(host)?, group))).collect()
    };
    if both.len() < 2 {
        return (f64::NAN, f64::NAN);
    }
    let mut cells: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    let mut rows: BTreeMap<u32, usize> = BTreeMap::new();
    let mut columns: BTreeMap<u32, usize> = BTreeMap::new();
    for &(row, column) in &both {
        *cells.entry((row, column)).or_default() += 1;
        *rows.entry(row).or_default() += 1;
        *columns.entry(column).or_default() += 1;
    }
    (
        rand_index(&cells, &rows, &columns, both.len()),
        information(&cells, &rows, &columns, both.len()),
    )
}

type Cells = BTreeMap<(u32, u32), usize>;
type Sums = BTreeMap<u32, usize>;

fn rand_index(cells: &Cells, rows: &Sums, columns: &Sums, all: usize) -> f64 {
    let pairs = |n: usize| n as f64 * (n as f64 - 1.0) / 2.0;
    let together: f64 = cells.values().map(|&n| pairs(n)).sum();
    let in_rows: f64 = rows.values().map(|&n| pairs(n)).sum();
    let in_columns: f64 = columns.values().map(|&n| pairs(n)).sum();
    let expected = in_rows * in_columns / pairs(all);
    let most = (in_rows + in_columns) / 2.0;
    if most == expected { 1.0 } else { (together - expected) / (most - expected) }
}

fn information(cells: &Cells, rows: &Sums, columns: &Sums, all: usize) -> f64 {
    let n = all as f64;
    // Logarithms of factorials, from sums: exact enough for any number of hosts.
    let mut factorials = vec![0.0; all + 1];
    for i in 1..=all {
        factorials[i] = factorials[i - 1] + (i as f64).ln();
    }
    let entropy =
        |sums: &Sums| -> f64 { sums.values().map(|&s| s as f64 / n).map(|p| -p * p.ln()).sum() };
    let mutual: f64 = cells
        .iter()
        .map(|(&(row, column), &count)| {
            let count = count as f64;
            count / n * (n * count / (rows[&row] as f64 * columns[&column] as f64)).ln()
        })
        .sum();
    // Groups of one size behave alike.
    let sizes = |sums: &Sums| {
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        for &size in sums.values() {
            *sizes.entry(size).or_default() += 1;
        }
        sizes
    };
    let f = |i: usize| factorials[i];
    let mut expected = 0.0;
    for (a, a_times) in sizes(rows) {
        for (b, b_times) in sizes(columns) {
            let fixed = f(a) + f(b) + f(all - a) + f(all - b) - f(all);
            let sum: f64 = ((a + b).saturating_sub(all).max(1)..=a.min(b))
                .map(|k| {
                    let ways = fixed - f(k) - f(a - k) - f(b - k) - f(all + k - a - b);
                    k as f64 / n * (n * k as f64 / (a as f64 * b as f64)).ln() * ways.exp()
                })
                .sum();
            expected += sum * (a_times * b_times) as f64;
        }
    }
    let most = (entropy(rows) + entropy(columns)) / 2.0;
    if (most - expected).abs() < 1e-12 { 1.0 } else { (mutual - expected) / (most - expected) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_learn::observe::PortProtocol;

    fn groups(of: &[u32]) -> HashMap<u32, u32> {
        (0..).zip(of.iter().copied()).collect()
    }

    #[test]
    fn agreement_is_one_for_the_same_groups_under_other_numbers() {
        let (ari, ami) = agreement(&groups(&[7, 7, 5, 5, 1]), &groups(&[0, 0, 1, 1, 2]));
        assert!((ari - 1.0).abs() < 1e-9 && (ami - 1.0).abs() < 1e-9, "{ari} {ami}");
    }

    #[test]
    fn agreement_is_that_of_the_books() {
        // Hubert and Arabie's index by hand: 2 of 15 pairs together in both, 4 and 3 in each.
        let (ari, ami) = agreement(&groups(&[0, 0, 1, 1, 2, 2]), &groups(&[0, 0, 0, 1, 1, 1]));
        assert!((ari - (2.0 - 18.0 / 15.0) / (4.5 - 18.0 / 15.0)).abs() < 1e-9, "{ari}");
        // With the expectation taken over all 720 orders of the second, one by one.
        assert!((ami - 0.298_792_458_170_889_3).abs() < 1e-9, "{ami}");
    }

    #[test]
    fn permitted_triples_are_counted_once() {
        let service = Service::Port(PortProtocol::Tcp, 80);
        let mut policy = Allowed::default();
        policy.add(vec![1, 2], vec![2, 3], vec![service]);
        policy.add(vec![1], vec![3, 4], vec![service]);
        // 1 to 2, 3 and 4; 2 to 3, not to itself.
        assert_eq!(policy.size(), (4, 4));
        assert!(policy.permits(1, 4, service) && !policy.permits(2, 4, service));
        assert!((policy.mean_reach(&[1, 2, 3, 4]) - 4.0 / 12.0).abs() < 1e-9);
    }
}
