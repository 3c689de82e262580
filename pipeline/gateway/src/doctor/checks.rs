//! What makes a machine fit to be a gateway.

use std::fs;
use std::path::Path;

use bulkhead_dpdk::PortName;
use bulkhead_pipeline::worker::MonotonicClock;
use rustix::fs::statvfs;

use super::failure::of_failure;
use super::machine::Machine;
use super::{Finding, State};
use crate::clock;
use crate::config::{ClockTrust, Config, HugePages, Poll, Wire};
use crate::cores::Cores;
use crate::dpdk::packet_memory;

/// The longest IP packet that AF_XDP takes, in bytes: a page less its headroom and the frame's header.
const AF_XDP_MTU: u16 = 3_542;

/// What the folder of the gateway's state should have left, in bytes.
const STATE_ROOM: u64 = 100 << 20;

/// Everything that is checked, in the order in which an operator would put it right.
pub(super) fn all(
    machine: &Machine,
    config: &Config,
    allowed: Result<Vec<usize>, String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let cores = allowed.and_then(|all| Cores::share(&all, &config.cores, config.workers));
    match &cores {
        Ok(cores) => findings.extend(of_cores(machine, config, cores)),
        Err(error) => findings.push(Finding::problem(
            "cores",
            error.clone(),
            "correct `cores` in the configuration".to_owned(),
        )),
    }
    findings.push(of_huge_pages(machine, config));
    findings.push(of_clock_source(machine));
    findings.push(of_clock(config));
    findings.push(of_state(&config.state_dir));
    let workers: Vec<usize> =
        cores.iter().flat_map(|cores| cores.workers.iter().copied().flatten()).collect();
    for wire in &config.wires {
        findings.extend(of_wire(machine, config, wire, &workers));
        findings.push(of_failure(wire));
    }
    findings
}

fn of_cores(machine: &Machine, config: &Config, cores: &Cores) -> Vec<Finding> {
    let about = "cores";
    let mut found = Vec::new();
    let workers: Vec<usize> = cores.workers.iter().copied().flatten().collect();
    let shared =
        workers.len() < config.workers || workers.iter().any(|core| cores.control.contains(core));
    if shared {
        let remedy = "fewer `workers`, or more cores; `poll = \"adaptive\"` lets them take turns";
        let text = format!("{} workers have no core of their own", config.workers);
        let make = if config.poll == Poll::Busy { Finding::problem } else { Finding::advice };
        found.push(make(about, text, remedy.to_owned()));
    } else {
        found.push(Finding::well(about, format!("workers on {workers:?}")));
    }
    for (nth, core) in workers.iter().enumerate() {
        let topology = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        let siblings = machine.cores(&topology);
        if let Some(other) = workers[..nth].iter().find(|other| siblings.contains(other)) {
            found.push(Finding::advice(
                about,
                format!("the workers on {other} and {core} share one physical core"),
                "give each worker a physical core: choose `cores` by `lscpu -e`".to_owned(),
            ));
        }
    }
    let isolated = machine.cores("/sys/devices/system/cpu/isolated");
    let busy: Vec<usize> =
        workers.iter().copied().filter(|core| !isolated.contains(core)).collect();
    if !busy.is_empty() && !shared {
        let list = busy.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        found.push(Finding::advice(
            about,
            format!("the kernel runs other work on the workers' cores {list}"),
            format!(
                "add `isolcpus={list} nohz_full={list} rcu_nocbs={list}` to the kernel's command line \
                 (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub) and restart"
            ),
        ));
    }
    let slow: Vec<String> = workers
        .iter()
        .filter_map(|core| {
            let file = format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
            let governor = machine.text(&file).filter(|governor| governor != "performance")?;
            Some(format!("core {core}: {governor}"))
        })
        .collect();
    if !slow.is_empty() {
        found.push(Finding::advice(
            "governor",
            slow.join(", "),
            "`cpupower frequency-set -g performance` (package linux-cpupower), at every boot"
                .to_owned(),
        ));
    }
    found
}

fn of_huge_pages(machine: &Machine, config: &Config) -> Finding {
    let about = "huge-pages";
    let needed = packet_memory(config);
    let (free, total) = machine.huge_bytes();
    let [needed_mib, free_mib, total_mib] = [needed, free, total].map(|bytes| bytes >> 20);
    let text = format!("packets need {needed_mib} MiB; {free_mib} of {total_mib} MiB are free");
    let pages = needed.div_ceil(2 << 20);
    let remedy = format!(
        "vm.nr_hugepages = {} or more in /etc/sysctl.d/60-bulkhead.conf, then `sysctl --system`; soon \
         after boot, before memory is scattered",
        (pages + pages / 4).next_multiple_of(16),
    );
    match config.dpdk.huge_pages {
        HugePages::Never => Finding::well(about, "not used, as `huge-pages` says".to_owned()),
        _ if free >= needed => Finding::well(about, text),
        // A gateway that runs has taken its own.
        _ if total >= needed => Finding::well(about, format!("{text}: does the gateway run?")),
        HugePages::Require => Finding::problem(about, text, remedy),
        HugePages::Auto => Finding::advice(about, text, remedy),
    }
}

fn of_clock_source(machine: &Machine) -> Finding {
    let about = "clock-source";
    let folder = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match machine.text(folder).as_deref() {
        Some("hpet" | "acpi_pm" | "jiffies") => Finding::advice(
            about,
            format!(
                "{}: each reading costs a microsecond",
                machine.text(folder).unwrap_or_default()
            ),
            "why was the processor's counter refused? `dmesg | grep -i tsc`; `tsc=reliable`"
                .to_owned(),
        ),
        Some(source) => Finding::well(about, source.to_owned()),
        None => Finding::well(about, "the kernel does not say".to_owned()),
    }
}

fn of_clock(config: &Config) -> Finding {
    let about = "clock";
    if config.clock == ClockTrust::Trusted {
        return Finding::well(about, "trusted, as `clock` says".to_owned());
    }
    if clock::read(&MonotonicClock::start(), config.clock).synchronised {
        return Finding::well(about, "synchronised".to_owned());
    }
    Finding::advice(
        about,
        "not synchronised: grants and rules with `starts` or `expires` allow nothing".to_owned(),
        "run chrony or systemd-timesyncd; where the clock is set otherwise: `clock = \"trusted\"`"
            .to_owned(),
    )
}

fn of_state(folder: &Path) -> Finding {
    let (about, shown) = ("state-dir", folder.display());
    // It may be made by the service manager at the first start; what counts then is where it will lie.
    let Some(there) = folder.ancestors().find(|part| fs::metadata(part).is_ok()) else {
        return Finding::problem(about, format!("{shown}: no such place"), "make it".to_owned());
    };
    match statvfs(there) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{shown}: {} MiB free", free >> 20);
            if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
                let remedy = "mount it writable, or set `state-dir`".to_owned();
                Finding::problem(about, format!("{shown}: read-only"), remedy)
            } else if free < STATE_ROOM {
                let remedy = "make room: policies, the audit log and bindings are kept there";
                Finding::advice(about, text, remedy.to_owned())
            } else {
                Finding::well(about, text)
            }
        }
        Err(error) => {
            Finding::problem(about, format!("{shown}: {error}"), "correct `state-dir`".to_owned())
        }
    }
}

fn of_wire(machine: &Machine, config: &Config, wire: &Wire, workers: &[usize]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut mtus = Vec::new();
    for (side, name) in [("inside", &wire.inside), ("outside", &wire.outside)] {
        let about = format!("port {}/{side}", wire.name);
        match PortName::parse(name) {
            PortName::Pci(address) => findings.push(of_pci(machine, &about, &address, workers)),
            port => match port.interface() {
                Some(interface) => {
                    findings.extend(of_interface(machine, config, &about, interface, workers));
                    let mtu = machine.number(&format!("/sys/class/net/{interface}/mtu"));
                    mtus.extend(mtu);
                }
                None => findings.push(Finding::well(&about, format!("{name}, a device of DPDK"))),
            },
        }
    }
    if let [one, other] = mtus[..]
        && one != other
    {
        findings.push(Finding::advice(
            &format!("wire {}", wire.name),
            format!("the interfaces' MTUs differ: {one} inside, {other} outside"),
            format!(
                "the gateway sets both to {}; the devices on both sides should agree",
                config.mtu
            ),
        ));
    }
    findings
}

fn of_pci(machine: &Machine, about: &str, address: &str, workers: &[usize]) -> Finding {
    let folder = format!("/sys/bus/pci/devices/{address}");
    if !machine.exists(&folder) {
        return Finding::problem(
            about,
            format!("{address}: no such device"),
            "`dpdk-devbind.py --status-dev net` lists the NICs".to_owned(),
        );
    }
    let driver = machine.link(&format!("{folder}/driver"));
    match driver.as_deref() {
        Some("mlx5_core") => {}
        Some("vfio-pci") => {
            let has_iommu = !machine.names("/sys/kernel/iommu_groups").is_empty();
            let unsafe_mode = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
            if !has_iommu && machine.text(unsafe_mode).as_deref() != Some("Y") {
                return Finding::problem(
                    about,
                    format!("{address}: vfio-pci needs the IOMMU, which is off"),
                    "turn on VT-d or AMD-Vi in the firmware and add `intel_iommu=on iommu=pt`; in a \
                     virtual machine: write 1 to /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
                        .to_owned(),
                );
            }
        }
        other => {
            let driver = other.unwrap_or("none");
            return Finding::problem(
                about,
                format!("{address}: its driver is {driver}, which DPDK cannot use"),
                format!(
                    "`modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci {address}`, unless you are \
                     logged in over it"
                ),
            );
        }
    }
    let driver = driver.unwrap_or_default();
    near(machine, about, &folder, &format!("{address}, {driver}"), workers)
}

fn of_interface(
    machine: &Machine,
    config: &Config,
    about: &str,
    name: &str,
    workers: &[usize],
) -> Vec<Finding> {
    let folder = format!("/sys/class/net/{name}");
    if !machine.exists(&folder) {
        let remedy = "`ip link` lists the interfaces of this network namespace".to_owned();
        return vec![Finding::problem(about, format!("{name}: no such interface"), remedy)];
    }
    let mut found = Vec::new();
    let routes = machine.routes();
    let carries = |default: bool| routes.iter().any(|route| route == &(name.to_owned(), default));
    if carries(true) {
        found.push(Finding::problem(
            about,
            format!("{name} carries the default route: it is how this machine is reached"),
            "never give the management port to the gateway: name another interface".to_owned(),
        ));
    } else if carries(false) || machine.has_ipv6_address(name) {
        found.push(Finding::problem(
            about,
            format!("{name} has addresses: the host would answer beside the gateway"),
            format!("`ip addr flush dev {name}; sysctl -w net.ipv6.conf.{name}.disable_ipv6=1`"),
        ));
    }
    if let Some(bridge) = machine.link(&format!("{folder}/master")) {
        found.push(Finding::problem(
            about,
            format!("{name} belongs to {bridge}"),
            format!("`ip link set {name} nomaster`"),
        ));
    }
    let flags = machine.text(&format!("{folder}/flags")).unwrap_or_default();
    let is_up = i64::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|f| f & 1 != 0);
    if !is_up {
        let remedy = format!("`ip link set {name} up`");
        found.push(Finding::problem(about, format!("{name} is down"), remedy));
    } else if machine.number(&format!("{folder}/carrier")) == Some(0) {
        let remedy = "look at the cable and at the device behind it".to_owned();
        found.push(Finding::advice(about, format!("{name} has no carrier"), remedy));
    }
    if config.mtu > AF_XDP_MTU {
        found.push(Finding::advice(
            about,
            format!(
                "MTU {} is over AF_XDP's limit of {AF_XDP_MTU}: AF_PACKET is slower",
                config.mtu
            ),
            "bind the NIC to vfio-pci, or set a smaller `mtu`".to_owned(),
        ));
    }
    let queues = machine.names(&format!("{folder}/queues"));
    let receives = queues.iter().filter(|queue| queue.starts_with("rx-")).count();
    if receives > 0 && receives < config.workers && config.wires.len() < config.workers {
        found.push(Finding::advice(
            about,
            format!("{name} has {receives} receive queues for {} workers", config.workers),
            format!(
                "`ethtool -l {name}` says how many it can have; the gateway asks for them itself"
            ),
        ));
    }
    let device = format!("{folder}/device");
    let driver = machine.link(&format!("{device}/driver")).unwrap_or_else(|| "virtual".to_owned());
    let placed = near(machine, about, &device, &format!("{name}, {driver}"), workers);
    if found.is_empty() || placed.state != State::Well {
        found.push(placed);
    }
    found
}

/// Whether the device in `folder` is on the memory node of the workers' cores.
fn near(machine: &Machine, about: &str, folder: &str, what: &str, workers: &[usize]) -> Finding {
    let node = machine.number(&format!("{folder}/numa_node")).filter(|node| *node >= 0);
    let Some(node) = node else { return Finding::well(about, what.to_owned()) };
    let local = machine.cores(&format!("/sys/devices/system/node/node{node}/cpulist"));
    let far: Vec<usize> = workers.iter().copied().filter(|core| !local.contains(core)).collect();
    if local.is_empty() || far.is_empty() {
        return Finding::well(about, format!("{what}, memory node {node}"));
    }
    Finding::advice(
        about,
        format!("{what} is on memory node {node}, the workers' cores {far:?} are not"),
        format!("choose `cores` from {:?}", local.iter().take(16).collect::<Vec<_>>()),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A machine made of files, and a configuration for it.
    struct Made(tempfile::TempDir);

    impl Made {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, path: &str, text: &str) -> &Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn link(&self, path: &str, target: &str) -> &Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
            self
        }

        fn interface(&self, name: &str) -> &Self {
            self.file(&format!("sys/class/net/{name}/flags"), "0x1003\n")
                .file(&format!("sys/class/net/{name}/mtu"), "1500\n")
                .file(&format!("sys/class/net/{name}/carrier"), "1\n")
        }

        fn findings(&self, more: &str, ports: [&str; 2]) -> Vec<Finding> {
            let [inside, outside] = ports;
            let text = format!(
                "policy = \"p.yaml\"\nstate-dir = \"state\"\nclock = \"trusted\"\n{more}\n\
                 [[wire]]\nname = \"w\"\ninside = \"{inside}\"\noutside = \"{outside}\"\n"
            );
            let config = Config::parse("gateway.toml", self.0.path(), &text).unwrap();
            all(&Machine::below(self.0.path()), &config, Ok(vec![0, 1, 2, 3]))
        }

        /// The findings that are not well, as text.
        fn wrong(&self, more: &str, ports: [&str; 2]) -> Vec<String> {
            let findings = self.findings(more, ports);
            let wrong = findings.into_iter().filter(|finding| finding.state != State::Well);
            wrong
                .map(|f| format!("{:?} {}: {} -> {}", f.state, f.about, f.found, f.remedy))
                .collect()
        }
    }

    fn sound() -> Made {
        let made = Made::new();
        made.interface("a").interface("b");
        made.file("sys/devices/system/cpu/isolated", "3\n");
        made.file("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "256\n");
        made.file("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "256\n");
        made
    }

    fn assert_one(wrong: &[String], state: &str, parts: &[&str]) {
        let found =
            |line: &&String| line.starts_with(state) && parts.iter().all(|p| line.contains(p));
        assert_eq!(wrong.iter().filter(found).count(), 1, "{state} {parts:?}: {wrong:#?}");
    }

    #[test]
    fn a_sound_machine_has_nothing_wrong() {
        assert_eq!(sound().wrong("", ["a", "b"]), Vec::<String>::new());
        assert_eq!(sound().wrong("", ["net_null0", "net_null1"]), Vec::<String>::new());
    }

    #[test]
    fn the_way_to_the_machine_is_never_a_port() {
        let made = sound();
        let route = "Iface Destination\na\t00000000\t0100A8C0\nb\t0000A8C0\t00000000\n";
        made.file("proc/net/route", route);
        let wrong = made.wrong("", ["a", "b"]);
        assert_one(&wrong, "Problem port w/inside", &["default route", "management"]);
        assert_one(&wrong, "Problem port w/outside", &["has addresses", "ip addr flush dev b"]);
    }

    #[test]
    fn interfaces_that_are_missing_down_or_taken_are_named() {
        let made = sound();
        made.file("sys/class/net/a/flags", "0x1002\n").link("sys/class/net/b/master", "../br0");
        let wrong = made.wrong("", ["a", "b"]);
        assert_one(&wrong, "Problem port w/inside", &["a is down", "ip link set a up"]);
        assert_one(&wrong, "Problem port w/outside", &["belongs to br0", "nomaster"]);
        let wrong = made.wrong("", ["c", "net_af_packet0,iface=d"]);
        assert_one(&wrong, "Problem port w/inside", &["c: no such interface"]);
        assert_one(&wrong, "Problem port w/outside", &["d: no such interface"]);
    }

    #[test]
    fn a_global_ipv6_address_counts_and_a_link_local_one_does_not() {
        let made = sound();
        let line = |address: &str| format!("{address} 02 40 20 80 a\n");
        made.file("proc/net/if_inet6", &line("fe800000000000000000000000000001"));
        assert_eq!(made.wrong("", ["a", "b"]), Vec::<String>::new());
        made.file("proc/net/if_inet6", &line("fd000000000000000000000000000001"));
        assert_one(&made.wrong("", ["a", "b"]), "Problem port w/inside", &["has addresses"]);
    }

    #[test]
    fn a_nic_needs_a_driver_that_dpdk_uses_and_the_iommu() {
        let made = sound();
        let (one, two) = ("0000:3b:00.0", "0000:3b:00.1");
        made.link(&format!("sys/bus/pci/devices/{one}/driver"), "../drivers/i40e");
        made.link(&format!("sys/bus/pci/devices/{two}/driver"), "../drivers/vfio-pci");
        let wrong = made.wrong("", [one, two]);
        assert_one(&wrong, "Problem port w/inside", &["i40e", "--bind=vfio-pci 0000:3b:00.0"]);
        assert_one(&wrong, "Problem port w/outside", &["IOMMU"]);
        made.file("sys/kernel/iommu_groups/0/type", "DMA");
        let wrong = made.wrong("", [two, "3b:00.2"]);
        assert_one(&wrong, "Problem port w/outside", &["0000:3b:00.2: no such device"]);
        assert_eq!(wrong.len(), 1, "{wrong:#?}");
    }

    #[test]
    fn a_port_far_from_the_workers_is_told_with_the_cores_that_are_near() {
        let made = sound();
        made.file("sys/class/net/a/device/numa_node", "1\n");
        made.file("sys/devices/system/node/node1/cpulist", "0-1\n");
        assert_one(
            &made.wrong("", ["a", "b"]),
            "Advice port w/inside",
            &["memory node 1", "[0, 1]"],
        );
        assert_eq!(made.wrong("cores = [1]", ["a", "b"]).len(), 1, "only that it is not isolated");
    }

    #[test]
    fn cores_that_others_use_share_or_throttle_are_told() {
        let made = sound();
        made.file("sys/devices/system/cpu/isolated", "\n");
        made.file("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2-3\n");
        made.file("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "2-3\n");
        made.file("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave\n");
        let wrong = made.wrong("workers = 2", ["a", "b"]);
        assert_one(&wrong, "Advice cores", &["isolcpus=2,3 nohz_full=2,3"]);
        assert_one(&wrong, "Advice cores", &["2 and 3 share one physical core"]);
        assert_one(&wrong, "Advice governor", &["core 3: powersave"]);
        let wrong = made.wrong("workers = 4\npoll = \"busy\"", ["a", "b"]);
        assert_one(&wrong, "Problem cores", &["no core of their own"]);
        assert_one(&made.wrong("cores = [7]", ["a", "b"]), "Problem cores", &["core 7"]);
    }

    #[test]
    fn too_few_huge_pages_are_a_problem_only_where_they_are_required() {
        let made = sound();
        for file in ["free_hugepages", "nr_hugepages"] {
            made.file(&format!("sys/kernel/mm/hugepages/hugepages-2048kB/{file}"), "1\n");
        }
        let wrong = made.wrong("", ["a", "b"]);
        assert_one(&wrong, "Advice huge-pages", &["vm.nr_hugepages = "]);
        let wrong = made.wrong("[dpdk]\nhuge-pages = \"require\"", ["a", "b"]);
        assert_one(&wrong, "Problem huge-pages", &["2 MiB are free"]);
        assert_eq!(made.wrong("[dpdk]\nhuge-pages = \"never\"", ["a", "b"]), Vec::<String>::new());
        made.file("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "256\n");
        assert_eq!(made.wrong("", ["a", "b"]), Vec::<String>::new(), "the gateway has them");
    }

    #[test]
    fn a_slow_clock_and_unequal_mtus_are_told() {
        let made = sound();
        made.file("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
        made.file("sys/class/net/b/mtu", "9000\n");
        let wrong = made.wrong("", ["a", "b"]);
        assert_one(&wrong, "Advice clock-source", &["hpet"]);
        assert_one(&wrong, "Advice wire w", &["1500 inside, 9000 outside"]);
    }
}
