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
/// one: what runs already keeps what it has, and then no part is said to be in force. A process that must be able to do more (that is to outlive
/// this one, say) has to be started before as well: this one starts no program afterwards.
///
/// What the kernel does not offer is logged and left; what is in force is returned.
pub fn confine(profile: &Profile) -> Confinement {
    let capabilities = Part::from(powers::keep(profile.powers));
    let (files, ports) = files::close(profile);
    // Last: the parts before need calls that it refuses.
    let system_calls = Part::from(system_calls::refuse(profile.calls));
    let mut confinement = Confinement {
        capabilities,
        files: Part::from(files),
        ports: Part::from(ports),
        system_calls,
    };
    // They share one memory: what one thread keeps, all can use.
    if let Some(others) = others_of(profile.name, &threads()) {
        confinement = Confinement::none(&others);
    }
    for (what, part) in confinement.parts() {
        if part.in_force {
            info!(part = what, "{} is confined: {}", profile.name, part.detail);
        } else {
            warn!(part = what, "{} is not confined in this: {}", profile.name, part.detail);
        }
    }
    confinement
}

/// Takes from a supervisor what no gateway ever needs: capabilities, and the way to gain any by a program that it
/// starts. It meets no packet, no policy and no socket, only the dozen messages of the gateway that it starts.
///
/// Neither Landlock nor seccomp closes it, because what they close stays closed for every process that it starts,
/// and for itself once it has renewed itself: a gateway that is renewed with another configuration would lack
/// what that one names, each renewal would add to the filters of every system call of the workers, and the
/// sixteenth would fail, since the kernel stacks no more. A `bypass-command` is any program, with any files.
pub fn confine_supervisor() {
    match powers::keep(Powers::Start).and_then(|left| powers::gain_none().map(|()| left)) {
        Ok(left) => info!(part = "capabilities", "the supervisor is confined: {left}"),
        Err(why) => warn!(part = "capabilities", "the supervisor is not confined in this: {why}"),
    }
}

/// Takes from the calling thread, which is a worker that has all that it will ever have, every capability
/// and all system calls but `calls`, those of its loop. Called after [`confine`].
pub fn confine_worker(worker: usize, calls: Calls) {
    let parts = [powers::keep(Powers::None), system_calls::refuse(calls)];
    for why in parts.into_iter().filter_map(Result::err) {
        warn!(worker, "the worker is confined no more than its process is: {why}");
    }
}

/// What the loops of workers call on the ports of this configuration.
pub fn calls_of_workers(config: &Config) -> Calls {
    let mut ports = config.wires.iter().flat_map(|wire| [&wire.inside, &wire.outside]);
    match ports.any(|port| stays_with_its_driver(Path::new("/sys/bus/pci/devices"), port)) {
        true => Calls::WorkerBesideDriver,
        false => Calls::Worker,
    }
}

/// Whether a port is a NIC that DPDK drives beside the kernel's driver, by commands to that.
fn stays_with_its_driver(devices: &Path, port: &str) -> bool {
    let address = port.split(',').next().unwrap_or_default();
    let is_address = address.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
    if !is_address || !address.contains(':') {
        return false;
    }
    let driver = std::fs::read_link(devices.join(address).join("driver")).unwrap_or_default();
    let driver = driver.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    matches!(driver, "mlx4_core" | "mlx5_core" | "mana")
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

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let name = |path: PathBuf| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
    tasks.map(|task| name(task.path()).trim().to_owned()).collect()
}

/// That there are other threads than the one that asks, where there are.
fn others_of(process: &str, threads: &[String]) -> Option<String> {
    let (_, [_, ..]) = threads.split_first()? else { return None };
    Some(format!(
        "{process} ran {} threads before it was confined ({}), and they keep what they had: this is a \
         defect of Bulkhead, please report it",
        threads.len(),
        threads.join(", ")
    ))
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
    fn a_nic_that_stays_with_its_driver_is_known() {
        let folder = tempfile::tempdir().unwrap();
        for (address, driver) in [("0000:3b:00.0", "mlx5_core"), ("0000:5e:00.0", "vfio-pci")] {
            let device = folder.path().join(address);
            std::fs::create_dir_all(&device).unwrap();
            std::os::unix::fs::symlink(format!("../drivers/{driver}"), device.join("driver"))
                .unwrap();
        }
        let stays = |port| stays_with_its_driver(folder.path(), port);
        assert!(stays("0000:3b:00.0") && stays("0000:3b:00.0,mprq_en=1"));
        for port in ["0000:5e:00.0", "0000:01:00.0", "eth1", "net_af_packet0,iface=eth1", ".."] {
            assert!(!stays(port), "{port}");
        }
    }

    #[test]
    fn a_thread_that_ran_before_is_no_secret() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(others_of("the gateway", &names(&["bulkhead"])), None);
        let said = others_of("the gateway", &names(&["bulkhead", "supervised"]));
        assert!(said.is_some_and(|said| said.contains("2 threads") && said.contains("supervised")));
        let stop = std::sync::Arc::new(std::sync::Barrier::new(2));
        let held = stop.clone();
        let thread = std::thread::Builder::new().name("held".to_owned());
        let thread = thread.spawn(move || held.wait()).unwrap();
        // It has its name from its first instruction on, not from its birth.
        let begun = std::time::Instant::now();
        while !threads().contains(&"held".to_owned()) {
            assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", threads());
        }
        stop.wait();
        thread.join().unwrap();
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
