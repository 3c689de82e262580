//! Finds roles: sets of hosts that do alike, by linear minimum description length.
//!
//! A host's signature holds a token for each (direction, service, peer's role) that it takes part in.
//! A role costs `RULE` bits for each token, since that is a rule, and `UNUSED` bits for each pair of a
//! member and a peer that the rule would permit though nobody used it; both count for less where
//! the token is common, because what everybody does tells nobody apart. Two roles become one where
//! that saves most, until nothing saves. Then roles take the place of peers in the tokens, and all
//! of it is done again.
//!
//! Costs are integers and ties go to the lowest place, so that the same input gives the same roles.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::view::Link;

mod candidates;

/// What is spent where, in bits. The defaults were chosen on generated sites and on g21; see
/// `bench/results/learning.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    /// A rule.
    pub rule: u32,
    /// A pair that a rule permits and nobody used.
    pub unused: u32,
    /// Whether common tokens count for less.
    pub by_rarity: bool,
}

/// Rounds of merging, each with the roles of the one before in the place of peers.
const ROUNDS: usize = 3;

/// Passes over all hosts in which single ones move to another role.
const MOVES: usize = 2;

/// The unit of a token's weight: its rarity is an integer up to this.
const WEIGHT: u64 = 1 << 10;

/// A token and how many edges of the host or role have it.
type Token = (Key, u32);

/// Direction (1 for the server's side), service and peer's role in one word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Key(u64);

impl Key {
    fn new(serves: bool, service: u32, role: u32) -> Self {
        Self(u64::from(serves) << 63 | u64::from(service) << 32 | u64::from(role))
    }

    fn role(self) -> u32 {
        self.0 as u32
    }
}

/// The merge that would have cost least and was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rejected {
    pub(crate) other: u32,
    /// Bits that it would have cost.
    pub(crate) cost: i64,
}

/// Roles of hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Roles {
    /// The role of each host: its place in `members`.
    pub(crate) of_host: Vec<u32>,
    /// Hosts of each role in order; roles in the order of their first hosts.
    pub(crate) members: Vec<Vec<u32>>,
    /// For each role the nearest merge that was rejected.
    pub(crate) rejected: Vec<Option<Rejected>>,
}

/// Roles of `hosts` hosts by their links, which are in order.
pub(crate) fn find(hosts: usize, links: &[Link], costs: Costs) -> Roles {
    let mut roles = exact_classes(hosts, links);
    let mut rejected = HashMap::new();
    for round in 0..ROUNDS {
        let signatures = Signatures::new(hosts, links, &roles, costs);
        let mut merging = Merging::new(&signatures, &roles);
        merging.run();
        let mut merged = merging.roles();
        if round + 1 == ROUNDS {
            let signatures = Signatures::new(hosts, links, &merged, costs);
            let mut merging = Merging::new(&signatures, &merged);
            for _ in 0..MOVES {
                if merging.move_hosts(&signatures) == 0 {
                    break;
                }
            }
            rejected = merging.rejected();
            merged = merging.roles();
        }
        roles = merged;
    }
    finish(roles, &rejected)
}

/// Hosts that have exactly the same peers over the same services, each by its lowest member.
fn exact_classes(hosts: usize, links: &[Link]) -> Vec<u32> {
    // Two sums of independent hashes stand for the set of tokens: 128 bits do not collide.
    let mut sums = vec![(0_u64, 0_u64); hosts];
    for link in links {
        let forth = crate::mix(Key::new(false, link.service, link.server).0);
        let back = crate::mix(Key::new(true, link.service, link.client).0);
        for (host, hash) in [(link.client, forth), (link.server, back)] {
            let sum = &mut sums[host as usize];
            sum.0 = sum.0.wrapping_add(hash);
            sum.1 = sum.1.wrapping_add(crate::mix(hash ^ 0x5bd1_e995));
        }
    }
    let mut first = HashMap::new();
    (0..hosts as u32)
        .map(|host| {
            let sum = sums[host as usize];
            // A host without a trace is like no other: it may do anything yet.
            if sum == (0, 0) { host } else { *first.entry(sum).or_insert(host) }
        })
        .collect()
}

/// Tokens of every host, and what each token weighs.
struct Signatures {
    costs: Costs,
    /// Hosts of each role that is a peer.
    sizes: HashMap<u32, u64>,
    of_host: Vec<Vec<Token>>,
    weights: HashMap<Key, u64>,
}

impl Signatures {
    fn new(hosts: usize, links: &[Link], roles: &[u32], costs: Costs) -> Self {
        let mut of_host: Vec<Vec<Token>> = vec![Vec::new(); hosts];
        for link in links {
            let forth = Key::new(false, link.service, roles[link.server as usize]);
            let back = Key::new(true, link.service, roles[link.client as usize]);
            push(&mut of_host[link.client as usize], (forth, 1));
            push(&mut of_host[link.server as usize], (back, 1));
        }
        let mut seen: HashMap<Key, u32> = HashMap::new();
        for tokens in &mut of_host {
            sum_up(tokens);
            tokens.shrink_to_fit();
            for &(key, _) in tokens.iter() {
                *seen.entry(key).or_default() += 1;
            }
        }
        let mut sizes = HashMap::new();
        for &role in roles {
            *sizes.entry(role).or_default() += 1;
        }
        let live = of_host.iter().filter(|tokens| !tokens.is_empty()).count().max(2);
        let weight = |hosts: u32| if costs.by_rarity { rarity(hosts, live) } else { WEIGHT };
        let weights = seen.into_iter().map(|(key, hosts)| (key, weight(hosts))).collect();
        Self { costs, sizes, of_host, weights }
    }

    /// What a role of so many hosts pays for a token that so many of its edges have.
    fn cost(&self, hosts: u64, (key, edges): Token) -> i64 {
        let peers = self.sizes.get(&key.role()).copied().unwrap_or(1);
        let unused = (hosts * peers).saturating_sub(u64::from(edges));
        let weight = self.weights.get(&key).copied().unwrap_or(WEIGHT);
        let bits = u64::from(self.costs.rule) + u64::from(self.costs.unused) * unused;
        (weight * bits) as i64
    }

    fn total(&self, hosts: u64, tokens: &[Token]) -> i64 {
        tokens.iter().map(|&token| self.cost(hosts, token)).sum()
    }
}

/// `log(all / hosts) / log(all)` in units of [`WEIGHT`]; from integers, so that it is the same on
/// every machine.
fn rarity(hosts: u32, all: usize) -> u64 {
    let log = |n: u64| u64::from(n.ilog2()) * 256 + (n << 8 >> n.ilog2()) - 256;
    let whole = log(all as u64).max(1);
    whole.saturating_sub(log(u64::from(hosts.max(1)))) * WEIGHT / whole
}

/// Adds a token. A list that is about to grow is summed up first, so that millions of links to few
/// roles never stand there one by one.
fn push(tokens: &mut Vec<Token>, token: Token) {
    if tokens.len() == tokens.capacity() && !tokens.is_empty() {
        sum_up(tokens);
        if tokens.len() * 2 > tokens.capacity() {
            tokens.reserve_exact(tokens.capacity());
        }
    }
    tokens.push(token);
}

/// Puts tokens in order and makes one of equal ones.
fn sum_up(tokens: &mut Vec<Token>) {
    tokens.sort_unstable();
    tokens.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
}

/// Both lists in one, equal tokens summed.
fn union(a: &[Token], b: &[Token], mut each: impl FnMut(Token)) {
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        match a[i].0.cmp(&b[j].0) {
            std::cmp::Ordering::Less => {
                each(a[i]);
                i += 1;
            }
            std::cmp::Ordering::Greater => {
                each(b[j]);
                j += 1;
            }
            std::cmp::Ordering::Equal => {
                each((a[i].0, a[i].1 + b[j].1));
                i += 1;
                j += 1;
            }
        }
    }
    a[i..].iter().chain(&b[j..]).for_each(|&token| each(token));
}

/// A role while roles are merged.
#[derive(Clone, Debug, Default)]
struct Role {
    members: Vec<u32>,
    tokens: Vec<Token>,
    cost: i64,
    /// Roles that it may merge with.
    near: HashSet<u32>,
    version: u32,
}

/// Change of cost, the two roles, and their versions when it was reckoned.
type Merge = (i64, u32, u32, u32, u32);

struct Merging<'s> {
    signatures: &'s Signatures,
    roles: Vec<Role>,
    /// Cheapest first.
    queue: BinaryHeap<Reverse<Merge>>,
    /// The best merge of each role that does not pay.
    rejected: HashMap<u32, Rejected>,
}

impl<'s> Merging<'s> {
    fn new(signatures: &'s Signatures, labels: &[u32]) -> Self {
        let mut place = HashMap::new();
        let mut roles: Vec<Role> = Vec::new();
        for (host, &label) in labels.iter().enumerate() {
            let at = *place.entry(label).or_insert_with(|| {
                roles.push(Role::default());
                roles.len() - 1
            });
            roles[at].members.push(host as u32);
            roles[at].tokens.extend_from_slice(&signatures.of_host[host]);
        }
        for role in &mut roles {
            sum_up(&mut role.tokens);
            role.cost = signatures.total(role.members.len() as u64, &role.tokens);
        }
        let mut merging =
            Self { signatures, roles, queue: BinaryHeap::new(), rejected: HashMap::new() };
        let tokens: Vec<&[Token]> = merging.roles.iter().map(|r| r.tokens.as_slice()).collect();
        for (a, b) in candidates::pairs(&tokens, &signatures.weights) {
            merging.consider(a, b);
        }
        merging
    }

    /// Merges for as long as that saves.
    fn run(&mut self) {
        while let Some(Reverse((change, a, b, a_version, b_version))) = self.queue.pop() {
            let is_live = |role: u32, version| self.roles[role as usize].version == version;
            if change >= 0 {
                break;
            }
            if is_live(a, a_version) && is_live(b, b_version) {
                self.merge(a, b);
            }
        }
    }

    fn merge(&mut self, a: u32, b: u32) {
        let gone = std::mem::take(&mut self.roles[b as usize]);
        self.roles[b as usize].version = gone.version + 1;
        let kept = &mut self.roles[a as usize];
        let mut tokens = Vec::with_capacity(kept.tokens.len().max(gone.tokens.len()));
        union(&kept.tokens, &gone.tokens, |token| tokens.push(token));
        kept.tokens = tokens;
        kept.members.extend(gone.members);
        kept.members.sort_unstable();
        kept.cost = self.signatures.total(kept.members.len() as u64, &kept.tokens);
        kept.version += 1;
        let mut near = std::mem::take(&mut kept.near);
        near.extend(gone.near);
        let mut near: Vec<u32> = near.into_iter().filter(|&role| role != a && role != b).collect();
        near.sort_unstable();
        for other in near {
            self.roles[other as usize].near.remove(&b);
            if !self.roles[other as usize].members.is_empty() {
                self.consider(a.min(other), a.max(other));
            }
        }
    }

    /// Reckons what merging two roles changes.
    fn consider(&mut self, a: u32, b: u32) {
        let (one, other) = (&self.roles[a as usize], &self.roles[b as usize]);
        let hosts = (one.members.len() + other.members.len()) as u64;
        let mut cost = 0;
        union(&one.tokens, &other.tokens, |token| cost += self.signatures.cost(hosts, token));
        let change = cost - one.cost - other.cost;
        let entry = Reverse((change, a, b, one.version, other.version));
        self.roles[a as usize].near.insert(b);
        self.roles[b as usize].near.insert(a);
        self.queue.push(entry);
    }

    /// Moves hosts to roles that suit them better, and returns how many.
    fn move_hosts(&mut self, signatures: &Signatures) -> usize {
        let mut moved = 0;
        for host in 0..signatures.of_host.len() as u32 {
            let Some(from) = self.role_of(host) else { continue };
            if self.roles[from].members.len() < 2 {
                continue;
            }
            let mine = &signatures.of_host[host as usize];
            let without = subtract(&self.roles[from].tokens, mine);
            let size = self.roles[from].members.len() as u64 - 1;
            let leaving = signatures.total(size, &without) - self.roles[from].cost;
            let mut best: Option<(i64, u32)> = None;
            let mut near: Vec<u32> = self.roles[from].near.iter().copied().collect();
            near.sort_unstable();
            for other in near {
                let role = &self.roles[other as usize];
                if role.members.is_empty() {
                    continue;
                }
                let mut cost = 0;
                let size = role.members.len() as u64 + 1;
                union(&role.tokens, mine, |token| cost += signatures.cost(size, token));
                let change = leaving + cost - role.cost;
                if change < 0 && best.is_none_or(|best| (change, other) < best) {
                    best = Some((change, other));
                }
            }
            let Some((_, to)) = best else { continue };
            moved += 1;
            let role = &mut self.roles[from];
            role.members.retain(|&member| member != host);
            role.tokens = without;
            role.cost = signatures.total(size, &role.tokens);
            let role = &mut self.roles[to as usize];
            let mut tokens = Vec::with_capacity(role.tokens.len());
            union(&role.tokens, mine, |token| tokens.push(token));
            role.tokens = tokens;
            role.members.push(host);
            role.members.sort_unstable();
            role.cost = signatures.total(role.members.len() as u64, &role.tokens);
        }
        moved
    }

    fn role_of(&self, host: u32) -> Option<usize> {
        self.roles.iter().position(|role| role.members.binary_search(&host).is_ok())
    }

    /// The cheapest merges that were not made, by the lowest hosts of the roles.
    fn rejected(&mut self) -> HashMap<u32, Rejected> {
        let live: Vec<u32> = (0..self.roles.len() as u32)
            .filter(|&role| !self.roles[role as usize].members.is_empty())
            .collect();
        for role in live {
            let one = &self.roles[role as usize];
            let mut best: Option<Rejected> = None;
            for &other in &one.near {
                let two = &self.roles[other as usize];
                let Some(&first) = two.members.first() else { continue };
                let hosts = (one.members.len() + two.members.len()) as u64;
                let mut cost = 0;
                union(&one.tokens, &two.tokens, |t| cost += self.signatures.cost(hosts, t));
                let cost = cost - one.cost - two.cost;
                if best.is_none_or(|best| (cost, first) < (best.cost, best.other)) {
                    best = Some(Rejected { other: first, cost });
                }
            }
            if let (Some(best), Some(&first)) = (best, one.members.first()) {
                self.rejected.insert(first, best);
            }
        }
        std::mem::take(&mut self.rejected)
    }

    /// The role of each host by its lowest member.
    fn roles(&self) -> Vec<u32> {
        let mut of_host = vec![0; self.signatures.of_host.len()];
        for role in &self.roles {
            for &member in &role.members {
                of_host[member as usize] = role.members[0];
            }
        }
        of_host
    }
}

/// The tokens of a role without those of one of its members.
fn subtract(role: &[Token], member: &[Token]) -> Vec<Token> {
    let mut left = Vec::with_capacity(role.len());
    let mut gone = member.iter().peekable();
    for &(key, edges) in role {
        let less = gone.next_if(|token| token.0 == key).map_or(0, |token| token.1);
        if edges > less {
            left.push((key, edges - less));
        }
    }
    left
}

/// Numbers roles by their first hosts.
fn finish(labels: Vec<u32>, rejected: &HashMap<u32, Rejected>) -> Roles {
    let mut place = HashMap::new();
    let mut members: Vec<Vec<u32>> = Vec::new();
    let mut of_host = Vec::with_capacity(labels.len());
    for (host, label) in labels.into_iter().enumerate() {
        let role = *place.entry(label).or_insert_with(|| {
            members.push(Vec::new());
            members.len() - 1
        });
        members[role].push(host as u32);
        of_host.push(role as u32);
    }
    let numbered = |rejected: &Rejected| {
        let role = of_host.get(rejected.other as usize).copied().unwrap_or(0);
        // In bits.
        Rejected { other: role, cost: rejected.cost / WEIGHT as i64 }
    };
    let rejected = members.iter().map(|hosts| rejected.get(&hosts[0]).map(numbered)).collect();
    Roles { of_host, members, rejected }
}
