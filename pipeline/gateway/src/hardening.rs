//! What a process of Bulkhead gives up once it has started: powers, files, ports, and system calls.
//!
//! Whoever finds a defect in a parser has, at worst, the process that parses. So each process says in a
//! [`Profile`] what it needs, and [`confine`] takes the rest away, for good and for every thread that
//! starts later: capabilities are dropped ([`powers`]), Landlock closes the file system but for the paths
//! named and TCP but for the ports named ([`files`]), and seccomp refuses what no part of the process calls
//! ([`system_calls`]). Workers, which meet the packets, keep no capability and two dozen system calls.
//!
//! It is a second line, so it never stops a gateway: on a kernel that lacks one part the others hold, the
//! log says what does not, and `bulkhead status` and the metric `bulkhead_confined` show it. The unit files
//! in `deploy` confine the process from outside as well, where systemd starts it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::config::Config;
use crate::export::Transport;

mod files;
pub mod powers;
mod system_calls;

pub use powers::Powers;
pub use system_calls::Calls;

/// What a process needs, and all that it keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// The process, for people.
    pub name: &'static str,
    /// Files and folders that it reads, with all that lies below. What does not exist at the start is
    /// left out; what replaces a folder of these later is found again below its parent only.
    pub read: Vec<PathBuf>,
    /// Folders that it writes below, likewise.
    pub write: Vec<PathBuf>,
    /// TCP ports that it listens on.
    pub listen: Vec<u16>,
    /// TCP ports, of any host, that it connects to.
    pub connect: Vec<u16>,
    /// Capabilities that it keeps, of those that it has.
    pub powers: Powers,
    /// The system calls that it keeps.
    pub calls: Calls,
}

/// What is in force of a [`Profile`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct Confinement {
    /// Capabilities that are left.
    pub capabilities: Part,
    /// The file system but for the paths named.
    pub files: Part,
    /// TCP but for the ports named.
    pub ports: Part,
    /// System calls.
    pub system_calls: Part,
}

/// A part of a confinement.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct Part {
    /// Whether it is in force.
    pub in_force: bool,
    /// What is left to the process, or why all is.
    pub detail: String,
}

impl Part {
    fn from(result: Result<String, String>) -> Self {
        let in_force = result.is_ok();
        Self { in_force, detail: result.unwrap_or_else(|why| why) }
    }
}

/// Where every process looks: libraries, names of users, what the kernel tells.
const SYSTEM: [&str; 6] = ["/usr", "/lib", "/lib64", "/etc", "/proc", "/sys"];

/// The devices that every process may open.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

impl Profile {
    /// `bulkhead run`: it drives interfaces, reads policies, writes its state, and answers on its sockets.
    pub fn gateway(config: &Config, file: &Path) -> Self {
        let mut profile = Self::empty("the gateway", Powers::Start, Calls::Gateway);
        profile.read.extend(with_its_folder(file));
        profile.read.extend(with_its_folder(&config.policy));
        let trusted_keys = config.signatures.trusted_keys.as_deref();
        profile.read.extend(trusted_keys.into_iter().flat_map(with_its_folder));
        profile.write.push(config.state_dir.clone());
        profile.write.extend(folder_of(&config.control_socket));
        profile.write.extend(config.records.socket.as_deref().and_then(folder_of));
        // DPDK's way to NICs and memory, libxdp's to its programs and locks, and the switch of the host's own IPv6 on a kernel port.
        let devices = [
            "/dev/vfio",
            "/dev/hugepages",
            "/dev/infiniband",
            "/dev/net",
            "/sys/fs/bpf",
            "/run/xdp",
        ];
        profile.write.extend(devices.iter().map(PathBuf::from));
        // … and the names of its threads.
        profile.write.extend(["/proc/sys/net/ipv6/conf", "/proc/self/task"].map(PathBuf::from));
        let ports = config.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
        profile.write.extend(ports.flat_map(|port| paths_of_device(port)));
        profile.listen.extend(config.metrics.listen.as_ref().map(SocketAddr::port));
        profile.extend(config);
        profile
    }

    /// `bulkhead learn`: it reads a socket, writes a store, and hands records on.
    pub fn learn(config: &Config, file: &Path, store: &Path) -> Self {
        let mut profile = Self::empty("the learning process", Powers::None, Calls::Service);
        profile.read.extend(with_its_folder(file));
        profile.write.push(store.to_path_buf());
        let rings = [&config.export.json, &config.export.evidence];
        profile.write.extend(rings.into_iter().flatten().map(|ring| ring.folder.clone()));
        // SQLite sorts large results there.
        profile.write.extend(["/tmp", "/var/tmp"].map(PathBuf::from));
        profile.listen.extend(config.learn.listen.as_ref().map(SocketAddr::port));
        let collectors = config.export.ipfix.iter().filter(|to| to.transport == Transport::Tcp);
        profile.connect.extend(collectors.map(|collector| collector.address.port()));
        profile.extend(config);
        profile
    }

    /// `bulkhead console`: it reads and writes what it is told of, talks to the other two processes over
    /// their sockets, and listens on these ports.
    pub fn console(read: Vec<PathBuf>, write: Vec<PathBuf>, listen: Vec<u16>) -> Self {
        let mut profile = Self::empty("the console", Powers::None, Calls::Service);
        profile.read.extend(read);
        profile.write.extend(write);
        profile.listen = listen;
        profile
    }

    fn empty(name: &'static str, powers: Powers, calls: Calls) -> Self {
        let read = SYSTEM.iter().map(PathBuf::from).collect();
        let write = DEVICES.iter().map(PathBuf::from).collect();
        Self { name, read, write, listen: Vec::new(), connect: Vec::new(), powers, calls }
    }

    /// What `[hardening]` adds.
    fn extend(&mut self, config: &Config) {
        self.read.extend(config.hardening.read.iter().cloned());
        self.write.extend(config.hardening.write.iter().cloned());
    }
}

/// Confines the calling thread and all that it starts from now on. To be called before there is another
/// one: what runs already keeps what it has. A process that must be able to do more (that is to outlive
/// this one, say) has to be started before as well: this one starts no program afterwards.
///
/// What the kernel does not offer is logged and left; what is in force is returned.
pub fn confine(profile: &Profile) -> Confinement {
    let capabilities = Part::from(powers::keep(profile.powers));
    let (files, ports) = files::close(profile);
    // Last: the parts before need calls that it refuses.
    let system_calls = Part::from(system_calls::refuse(profile.calls));
    let confinement = Confinement {
        capabilities,
        files: Part::from(files),
        ports: Part::from(ports),
        system_calls,
    };
    for (what, part) in confinement.parts() {
        if part.in_force {
            info!(part = what, "{} is confined: {}", profile.name, part.detail);
        } else {
            warn!(part = what, "{} is not confined in this: {}", profile.name, part.detail);
        }
    }
    confinement
}

/// Takes from the calling thread, which is a worker that has all that it will ever have, every capability
/// and all system calls but those of its loop. Called after [`confine`].
pub fn confine_worker(worker: usize) {
    let parts = [powers::keep(Powers::None), system_calls::refuse(Calls::Worker)];
    for why in parts.into_iter().filter_map(Result::err) {
        warn!(worker, "the worker is confined no more than its process is: {why}");
    }
}

impl Confinement {
    /// Its parts, with their names.
    pub fn parts(&self) -> [(&'static str, &Part); 4] {
        [
            ("capabilities", &self.capabilities),
            ("files", &self.files),
            ("ports", &self.ports),
            ("system-calls", &self.system_calls),
        ]
    }

    /// What is not in force, with the reasons; nothing where all is.
    pub fn gaps(&self) -> Vec<String> {
        let gaps = self.parts().into_iter().filter(|(_, part)| !part.in_force);
        gaps.map(|(what, part)| format!("{what}: {}", part.detail)).collect()
    }

    /// Of a process that was not confined, and why.
    pub fn none(why: &str) -> Self {
        let part = Part { in_force: false, detail: why.to_owned() };
        Self {
            capabilities: part.clone(),
            files: part.clone(),
            ports: part.clone(),
            system_calls: part,
        }
    }
}

fn folder_of(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    Some(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_path_buf() })
}

/// A path, the folder that it is in, and the folder that it really is in where it is a link: whoever
/// replaces it does so there.
fn with_its_folder(path: &Path) -> Vec<PathBuf> {
    let mut paths = vec![path.to_path_buf()];
    paths.extend(folder_of(path));
    if let Some(folder) = folder_of(path).and_then(|folder| folder.parent().map(Path::to_path_buf))
    {
        // The folder itself may be what is replaced, as a mounted ConfigMap is.
        if folder_of(path).is_some_and(|folder| folder.is_symlink()) {
            paths.push(folder);
        }
    }
    if let Ok(real) = path.canonicalize() {
        paths.extend(real.parent().map(Path::to_path_buf));
    }
    paths
}

/// The folders of files that a DPDK device names: sockets of `net_memif`, captures of `net_pcap`.
fn paths_of_device(device: &str) -> Vec<PathBuf> {
    let values = device.split(',').filter_map(|argument| Some(argument.split_once('=')?.1));
    values
        .filter(|value| value.starts_with('/'))
        .filter_map(|path| folder_of(Path::new(path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_of_what_a_device_names_are_known() {
        let folders = paths_of_device("net_memif0,role=client,socket=/run/vm/1.sock,id=0");
        assert_eq!(folders, [PathBuf::from("/run/vm")]);
        assert!(paths_of_device("net_af_packet0,iface=eth1").is_empty());
        assert!(paths_of_device("eth1").is_empty());
    }

    #[test]
    fn a_file_is_read_where_it_is_and_where_it_really_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("releases/1")).unwrap();
        std::os::unix::fs::symlink("releases/1", at("current")).unwrap();
        let paths = with_its_folder(&at("current"));
        let real = at("releases").canonicalize().unwrap();
        assert!(paths.contains(&folder.path().to_path_buf()), "{paths:?}");
        assert!(paths.contains(&real), "{paths:?}");
        assert_eq!(folder_of(Path::new("gateway.toml")), Some(PathBuf::from(".")));
    }
}
