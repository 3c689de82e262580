//! Other ways to make a policy of the same edges.

use std::collections::{BTreeMap, HashMap, HashSet};

use bulkhead_learn::observe::Service;

use crate::random::Random;

/// Who opened what to whom; hosts are numbers from 0.
pub type Edges = Vec<(u32, u32, Service)>;

/// The rules of groups: (clients' group, servers' group, service) of every edge.
pub fn group_rules(edges: &Edges, groups: &[u32]) -> Vec<(Vec<u32>, Vec<u32>, Vec<Service>)> {
    let mut members: HashMap<u32, Vec<u32>> = HashMap::new();
    for (host, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(host as u32);
    }
    let mut rules: Vec<(u32, u32, Service)> = edges
        .iter()
        .map(|&(client, server, service)| {
            (groups[client as usize], groups[server as usize], service)
        })
        .collect();
    rules.sort_unstable();
    rules.dedup();
    rules
        .into_iter()
        .map(|(from, to, service)| (members[&from].clone(), members[&to].clone(), vec![service]))
        .collect()
}

/// Groups by average linkage of the Jaccard similarity of (direction, service, peer) tokens; groups
/// are joined for as long as the mean similarity of their hosts is at least `similarity`.
pub fn jaccard(edges: &Edges, hosts: usize, similarity: f64) -> Vec<u32> {
    let mut tokens: Vec<Vec<(bool, Service, u32)>> = vec![Vec::new(); hosts];
    for &(client, server, service) in edges {
        tokens[client as usize].push((false, service, server));
        tokens[server as usize].push((true, service, client));
    }
    for tokens in &mut tokens {
        tokens.sort_unstable();
        tokens.dedup();
    }
    let mut alike = vec![vec![0.0_f64; hosts]; hosts];
    for a in 0..hosts {
        for b in 0..a {
            let mine: HashSet<_> = tokens[a].iter().collect();
            let common = tokens[b].iter().filter(|token| mine.contains(token)).count();
            let all = tokens[a].len() + tokens[b].len() - common;
            let value = common as f64 / all.max(1) as f64;
            alike[a][b] = value;
            alike[b][a] = value;
        }
    }
    let mut groups: Vec<Vec<u32>> = (0..hosts as u32).map(|host| vec![host]).collect();
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for a in 0..hosts {
            for b in (a + 1..hosts).filter(|&b| !groups[a].is_empty() && !groups[b].is_empty()) {
                if best.is_none_or(|(value, ..)| alike[a][b] > value) {
                    best = Some((alike[a][b], a, b));
                }
            }
        }
        let Some((_, a, b)) = best.filter(|&(value, ..)| value >= similarity) else { break };
        let (of_a, of_b) = (groups[a].len() as f64, groups[b].len() as f64);
        for other in (0..hosts).filter(|&other| other != a && other != b) {
            let mean = (alike[a][other] * of_a + alike[b][other] * of_b) / (of_a + of_b);
            alike[a][other] = mean;
            alike[other][a] = mean;
        }
        let gone = std::mem::take(&mut groups[b]);
        groups[a].extend(gone);
    }
    labels(&groups, hosts)
}

/// Communities of the undirected graph of who talks to whom, weighted by services, by the Leiden
/// algorithm with modularity (Traag, Waltman and van Eck, 2019).
pub fn leiden(edges: &Edges, hosts: usize, seed: u64) -> Vec<u32> {
    let mut weights: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for &(client, server, _) in edges.iter().filter(|edge| edge.0 != edge.1) {
        let (a, b) = (client.min(server) as usize, client.max(server) as usize);
        *weights.entry((a, b)).or_default() += 1.0;
    }
    let mut graph = Graph::new(hosts, &weights);
    let mut random = Random::new(seed);
    // Of each host the node of the present graph, and of each node its community.
    let mut node_of: Vec<usize> = (0..hosts).collect();
    let mut community: Vec<usize> = (0..hosts).collect();
    loop {
        graph.move_nodes(&mut community, &mut random);
        let communities: HashSet<usize> = community.iter().copied().collect();
        if communities.len() == graph.near.len() {
            break;
        }
        let refined = graph.refine(&community, &mut random);
        let mut place: HashMap<usize, usize> = HashMap::new();
        let places: Vec<usize> = refined
            .iter()
            .map(|&part| {
                let next = place.len();
                *place.entry(part).or_insert(next)
            })
            .collect();
        if place.len() == graph.near.len() {
            break;
        }
        let mut of_parts = vec![0; place.len()];
        for (node, &part) in places.iter().enumerate() {
            of_parts[part] = community[node];
        }
        // Communities are named by nodes; of the new graph by any of its own.
        let mut name: HashMap<usize, usize> = HashMap::new();
        for (part, of) in of_parts.iter_mut().enumerate() {
            *of = *name.entry(*of).or_insert(part);
        }
        graph = graph.aggregate(&places, place.len());
        node_of.iter_mut().for_each(|node| *node = places[*node]);
        community = of_parts;
    }
    node_of.iter().map(|&node| community[node] as u32).collect()
}

struct Graph {
    near: Vec<Vec<(usize, f64)>>,
    loops: Vec<f64>,
    degree: Vec<f64>,
    total: f64,
}

impl Graph {
    fn new(nodes: usize, weights: &BTreeMap<(usize, usize), f64>) -> Self {
        let (mut near, mut loops) = (vec![Vec::new(); nodes], vec![0.0; nodes]);
        for (&(a, b), &weight) in weights {
            if a == b {
                loops[a] += weight;
            } else {
                near[a].push((b, weight));
                near[b].push((a, weight));
            }
        }
        let degree: Vec<f64> = near
            .iter()
            .zip(&loops)
            .map(|(near, own)| near.iter().map(|&(_, weight)| weight).sum::<f64>() + 2.0 * own)
            .collect();
        let total = degree.iter().sum();
        Self { near, loops, degree, total }
    }

    /// Moves nodes to the community that gains most modularity, until none gains.
    fn move_nodes(&self, community: &mut [usize], random: &mut Random) {
        let nodes = self.near.len();
        let mut weight = vec![0.0; nodes];
        for node in 0..nodes {
            weight[community[node]] += self.degree[node];
        }
        let mut order: Vec<usize> = (0..nodes).collect();
        random.shuffle(&mut order);
        let mut queue: std::collections::VecDeque<usize> = order.into();
        let mut is_queued = vec![true; nodes];
        while let Some(node) = queue.pop_front() {
            is_queued[node] = false;
            let old = community[node];
            weight[old] -= self.degree[node];
            let best = self.best(node, community, &weight, old, |_| true);
            weight[best] += self.degree[node];
            community[node] = best;
            if best != old {
                for &(other, _) in &self.near[node] {
                    if community[other] != best && !is_queued[other] {
                        is_queued[other] = true;
                        queue.push_back(other);
                    }
                }
            }
        }
    }

    /// Splits communities into parts that hold together: single nodes join parts of their own
    /// community.
    fn refine(&self, community: &[usize], random: &mut Random) -> Vec<usize> {
        let nodes = self.near.len();
        let mut part: Vec<usize> = (0..nodes).collect();
        let mut weight = self.degree.clone();
        let mut size = vec![1; nodes];
        let mut order: Vec<usize> = (0..nodes).collect();
        random.shuffle(&mut order);
        for node in order {
            if size[part[node]] > 1 {
                continue;
            }
            let old = part[node];
            weight[old] -= self.degree[node];
            let is_own = |other: usize| community[other] == community[node];
            let best = self.best(node, &part, &weight, old, is_own);
            weight[best] += self.degree[node];
            size[old] -= 1;
            size[best] += 1;
            part[node] = best;
        }
        part
    }

    fn best(
        &self,
        node: usize,
        of: &[usize],
        weight: &[f64],
        old: usize,
        may: impl Fn(usize) -> bool,
    ) -> usize {
        let mut links: BTreeMap<usize, f64> = BTreeMap::from([(old, 0.0)]);
        for &(other, weight) in self.near[node].iter().filter(|&&(other, _)| may(other)) {
            *links.entry(of[other]).or_default() += weight;
        }
        let gain = |group: usize, links: f64| {
            links - self.degree[node] * weight[group] / self.total.max(1.0)
        };
        let mut best = (gain(old, links[&old]), old);
        for (&group, &weight) in &links {
            let gain = gain(group, weight);
            if gain > best.0 + 1e-12 {
                best = (gain, group);
            }
        }
        best.1
    }

    fn aggregate(&self, places: &[usize], parts: usize) -> Self {
        let mut weights: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        for (node, near) in self.near.iter().enumerate() {
            let own = places[node];
            if self.loops[node] > 0.0 {
                *weights.entry((own, own)).or_default() += self.loops[node];
            }
            for &(other, weight) in near.iter().filter(|&&(other, _)| other > node) {
                let (a, b) = (own.min(places[other]), own.max(places[other]));
                *weights.entry((a, b)).or_default() += weight;
            }
        }
        Self::new(parts, &weights)
    }
}

fn labels(groups: &[Vec<u32>], hosts: usize) -> Vec<u32> {
    let mut labels = vec![0; hosts];
    for (label, group) in groups.iter().enumerate() {
        for &host in group {
            labels[host as usize] = label as u32;
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_learn::observe::PortProtocol;

    /// Two cliques of five with one edge between them, each host also a client of its own server.
    fn cliques() -> Edges {
        let service = Service::Port(PortProtocol::Tcp, 1);
        let mut edges = vec![(0, 5, service)];
        for base in [0, 5] {
            for a in 0..5 {
                edges.extend((0..5).filter(|&b| b != a).map(|b| (base + a, base + b, service)));
            }
        }
        edges
    }

    #[test]
    fn leiden_finds_cliques() {
        let groups = leiden(&cliques(), 10, 1);
        assert!(groups[..5].iter().all(|&g| g == groups[0]), "{groups:?}");
        assert!(groups[5..].iter().all(|&g| g == groups[5]), "{groups:?}");
        assert_ne!(groups[0], groups[5]);
    }

    #[test]
    fn linkage_joins_hosts_with_the_same_peers() {
        let service = Service::Port(PortProtocol::Tcp, 1);
        let edges: Edges =
            (0..4).flat_map(|client| [(client, 4, service), (client, 5, service)]).collect();
        let groups = jaccard(&edges, 6, 0.2);
        assert!(groups[..4].iter().all(|&group| group == groups[0]));
        assert_eq!(groups[4], groups[5]);
        assert_ne!(groups[0], groups[4]);
        assert_eq!(group_rules(&edges, &groups).len(), 1);
    }
}
