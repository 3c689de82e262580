//! Finds meshes: services that the members of one large set of hosts use among themselves, such as
//! the gossip of a cluster or the agents of a directory. A mesh says nothing of what its members are
//! for, and drowns what does: it becomes one rule, and its edges leave the signatures.

use crate::view::Link;

/// The share of a mesh's other side that each of its hosts has to use.
const DENSITY: f64 = 0.4;

/// Hosts on either side at least.
const HOSTS: usize = 8;

/// The share of the larger side that both sides have in common, in percent.
const COMMON_PERCENT: usize = 80;

/// Passes after which a search ends.
const PASSES: usize = 64;

/// One service among one set of hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mesh {
    pub(crate) service: u32,
    /// In order.
    pub(crate) clients: Vec<u32>,
    /// In order.
    pub(crate) servers: Vec<u32>,
}

/// The meshes among links that are in order, and the links that belong to none.
pub(crate) fn find(links: &[Link], hosts: usize) -> (Vec<Mesh>, Vec<Link>) {
    let mut meshes = Vec::new();
    let mut rest = Vec::with_capacity(links.len());
    let mut peel = Peel { clients: vec![0; hosts], servers: vec![0; hosts] };
    for same in links.chunk_by(|a, b| a.service == b.service) {
        match peel.core(same) {
            Some(mesh) => {
                rest.extend(same.iter().filter(|link| {
                    mesh.clients.binary_search(&link.client).is_err()
                        || mesh.servers.binary_search(&link.server).is_err()
                }));
                meshes.push(mesh);
            }
            None => rest.extend(same),
        }
    }
    (meshes, rest)
}

/// Degrees of hosts within what is left; 0 is out.
struct Peel {
    clients: Vec<u32>,
    servers: Vec<u32>,
}

impl Peel {
    /// Takes the hosts with the fewest peers away until all that are left have enough.
    fn core(&mut self, links: &[Link]) -> Option<Mesh> {
        if links.len() < HOSTS * HOSTS / 2 {
            return None;
        }
        let mut left: Vec<Link> = links.to_vec();
        for _ in 0..PASSES {
            let (clients, servers) = self.count(&left);
            if clients.len() < HOSTS || servers.len() < HOSTS {
                self.clear(&left);
                return None;
            }
            let of_client = |c: u32| f64::from(self.clients[c as usize]) / servers.len() as f64;
            let of_server = |s: u32| f64::from(self.servers[s as usize]) / clients.len() as f64;
            let worst = clients.iter().map(|&c| of_client(c));
            let worst = worst.chain(servers.iter().map(|&s| of_server(s))).fold(1.0, f64::min);
            if worst >= DENSITY {
                self.clear(&left);
                return are_alike(&clients, &servers).then(|| Mesh {
                    service: links[0].service,
                    clients,
                    servers,
                });
            }
            // The worst go first, since the others look better without them.
            let bar = worst + (DENSITY - worst) / 4.0;
            let keep = |link: &Link| of_client(link.client) > bar && of_server(link.server) > bar;
            let kept: Vec<Link> = left.iter().copied().filter(keep).collect();
            self.clear(&left);
            left = kept;
        }
        None
    }

    fn count(&mut self, links: &[Link]) -> (Vec<u32>, Vec<u32>) {
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for link in links {
            let seen = &mut self.clients[link.client as usize];
            if *seen == 0 {
                clients.push(link.client);
            }
            *seen += 1;
            let seen = &mut self.servers[link.server as usize];
            if *seen == 0 {
                servers.push(link.server);
            }
            *seen += 1;
        }
        clients.sort_unstable();
        servers.sort_unstable();
        (clients, servers)
    }

    fn clear(&mut self, links: &[Link]) {
        for link in links {
            self.clients[link.client as usize] = 0;
            self.servers[link.server as usize] = 0;
        }
    }
}

fn are_alike(clients: &[u32], servers: &[u32]) -> bool {
    let common = clients.iter().filter(|host| servers.binary_search(host).is_ok()).count();
    common * 100 >= clients.len().max(servers.len()) * COMMON_PERCENT
}
