//! The kernel's side of a port that is a kernel interface: what DPDK's AF_XDP and AF_PACKET drivers
//! do not look after. It refuses interfaces on which the host itself would answer, clears what a
//! killed predecessor left, sees carrier, and puts everything back at the end.

pub(crate) mod found;
mod netlink;
pub mod redirect;
mod sys;

use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::error::{Error, ErrorKind, Result};
pub(crate) use sys::is_ready_to_send;

use found::{Found, ipv6_switch};
use netlink::{Link, Rtnetlink};
use sys::{Channels, Ethtool, Offload, XdpSocket};

/// An interface that this process has to itself until the value is dropped, which restores it.
pub(crate) struct KernelPort {
    name: String,
    index: u32,
    rtnetlink: Rtnetlink,
    ethtool: Ethtool,
    /// As this process found it.
    before: Link,
    /// As the first one did, and as it is to be at the end.
    found: Found,
    /// Why received frames lose their VLAN tag to the hardware, where they do.
    tags_stripped: Option<String>,
    /// What was put right at the start, for the log.
    notes: Vec<String>,
    /// The driver's AF_XDP sockets.
    xdp_sockets: Vec<XdpSocket>,
    packet_drops: u64,
    /// Whether another gateway takes the interface over, as it is.
    handed_over: bool,
    _promiscuous: OwnedFd,
    _claim: UnixListener,
}

impl KernelPort {
    /// Takes an interface over.
    ///
    /// # Errors
    ///
    /// It does not exist, belongs to a bridge, carries addresses, is in use, or this process may
    /// not configure it.
    pub(crate) fn claim(name: &str) -> Result<Self> {
        require_capabilities()?;
        let mut rtnetlink =
            Rtnetlink::new().map_err(|error| Error::kernel("socket(NETLINK_ROUTE)", &error))?;
        let before = rtnetlink.link_by_name(name).map_err(|error| {
            let refused = Error::kernel("RTM_GETLINK", &error);
            if error.raw_os_error() != Some(libc::ENODEV) {
                return refused;
            }
            refused.because(
                ErrorKind::NotFound,
                "there is no such interface in this network namespace",
                "`ip link` lists the interfaces",
            )
        })?;
        refuse_unfit(&mut rtnetlink, &before)?;
        let claim = claim_index(before.index)?;
        let mut notes = Vec::new();
        let before = clear_leftovers(&mut rtnetlink, before, &mut notes)?;
        let promiscuous = sys::hold_promiscuous(before.index)
            .map_err(|error| Error::kernel("setsockopt(PACKET_ADD_MEMBERSHIP)", &error))?;
        let ethtool = Ethtool::new().map_err(|error| Error::kernel("socket(AF_INET)", &error))?;
        let mut found = Found::of(&before);
        notes.extend(found.note(|_| ()));
        let mut port = Self {
            name: name.to_owned(),
            index: before.index,
            rtnetlink,
            ethtool,
            before,
            found,
            tags_stripped: None,
            notes,
            xdp_sockets: Vec::new(),
            packet_drops: 0,
            handed_over: false,
            _promiscuous: promiscuous,
            _claim: claim,
        };
        port.quiet_offloads();
        port.quiet_ipv6();
        Ok(port)
    }

    /// What was put right at the start, in sentences for the log.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The interface's own MTU, which comes back at the end.
    pub(crate) fn own_mtu(&self) -> u32 {
        self.found.mtu
    }

    /// Sees to an MTU.
    pub(crate) fn set_mtu(&mut self, mtu: u32) -> Result<()> {
        if mtu == self.before.mtu {
            return Ok(());
        }
        let limit = self.before.max_mtu;
        if limit != 0 && mtu > limit {
            return Err(Error::refused(
                ErrorKind::Mtu,
                format!("MTU {mtu} is over the interface's limit of {limit}"),
                "set a smaller `mtu`",
            ));
        }
        self.rtnetlink.set_mtu(self.index, mtu).map_err(|error| {
            Error::kernel("RTM_SETLINK", &error).because(
                ErrorKind::Mtu,
                format!("the kernel refuses MTU {mtu}"),
                "set a smaller `mtu`",
            )
        })
    }

    /// Makes sure that frames reach an AF_XDP socket with their VLAN tags: the socket gets the bytes
    /// alone, and a tag that the kernel keeps beside them would be lost without a trace. Returns
    /// what the operator has to see to.
    ///
    /// # Errors
    ///
    /// Where the interface takes tags out of received frames and cannot be told otherwise.
    pub(crate) fn keep_tags(&mut self) -> Result<Option<String>> {
        if let Some(reason) = &self.tags_stripped {
            return Err(tags_lost(&self.name, reason));
        }
        if !self.before.veth {
            return Ok(None);
        }
        let peer = self.before.peer.and_then(|peer| self.rtnetlink.link_by_index(peer).ok());
        let Some(peer) = peer else {
            return Ok(Some(peer_out_of_reach(&self.name)));
        };
        match turn_off(
            || self.ethtool.offload(&peer.name, Offload::TxVlan),
            || {
                let note = self.found.note(|found| found.peer = Some(peer.name.clone()));
                self.notes.extend(note);
                self.ethtool.set_offload(&peer.name, Offload::TxVlan, false)
            },
        ) {
            Turned::WasOff | Turned::Off => Ok(None),
            Turned::Stuck(reason) => {
                let reason = format!("the peer {} leaves tags out of frames: {reason}", peer.name);
                Err(tags_lost(&self.name, &reason))
            }
        }
    }

    /// Makes frames arrive on exactly `queues` queues: AF_XDP sees only those that it has bound, and
    /// the host would take the others.
    pub(crate) fn set_queues(&mut self, queues: u32) -> Result<()> {
        // An interface that does not know the question has one queue.
        let Ok(channels) = self.ethtool.channels(&self.name) else {
            return if queues == 1 { Ok(()) } else { Err(self.too_few_queues(1, queues)) };
        };
        if channels.receiving() == queues {
            return Ok(());
        }
        if channels.max_rx.max(channels.max_combined) < queues {
            return Err(self.too_few_queues(channels.max_rx.max(channels.max_combined), queues));
        }
        let wanted = channels.with_receiving(queues);
        let Channels { rx, tx, other, combined, .. } = channels;
        let note = self.found.note(|found| {
            found.channels.get_or_insert([rx, tx, other, combined]);
        });
        self.notes.extend(note);
        self.ethtool.set_channels(&self.name, wanted).map_err(|error| {
            Error::kernel("ioctl(ETHTOOL_SCHANNELS)", &error).because(
                ErrorKind::Queues,
                format!(
                    "frames arrive on {} queues and {queues} must see them all",
                    channels.receiving()
                ),
                format!("set the interface's queues: `ethtool -L {} combined {queues}`", self.name),
            )
        })
    }

    /// Keeps the host's own frames, and those that would be changed or cut off, from an AF_PACKET
    /// port whose buffers hold `capacity` bytes.
    pub(crate) fn filter_packet_sockets(&self, capacity: u32) -> Result<()> {
        let filtered = sys::filter_packet_sockets(self.index, capacity)
            .map_err(|error| Error::kernel("setsockopt(SO_ATTACH_FILTER)", &error))?;
        if filtered == 0 {
            return Err(Error::refused(
                ErrorKind::Refused,
                "the AF_PACKET driver's socket was not found",
                "make /proc readable for the gateway",
            ));
        }
        Ok(())
    }

    /// The sockets of the AF_PACKET driver, by queue.
    pub(crate) fn packet_sockets(&self) -> Result<Vec<RawFd>> {
        sys::packet_sockets_by_queue(self.index)
            .map_err(|error| Error::kernel("read_dir(/proc/self/fd)", &error))
    }

    /// Runs `open`, which opens AF_XDP sockets on this interface, and remembers which.
    pub(crate) fn watch_xdp_sockets<T>(&mut self, open: impl FnOnce() -> Result<T>) -> Result<T> {
        let list =
            || XdpSocket::all().map_err(|error| Error::kernel("read_dir(/proc/self/fd)", &error));
        let before = list()?;
        let opened = open()?;
        self.xdp_sockets.extend(list()?.into_iter().filter(|socket| !before.contains(socket)));
        Ok(opened)
    }

    /// Frames that the kernel had no room for and of which DPDK's drivers do not know.
    pub(crate) fn missed(&mut self) -> Result<u64> {
        let counted = || -> io::Result<(u64, u64)> {
            let full: io::Result<u64> =
                self.xdp_sockets.iter().map(|socket| socket.ring_full()).sum();
            Ok((full?, sys::take_packet_drops(self.index)?))
        };
        let (full, drops) = counted().map_err(|error| Error::kernel("getsockopt", &error))?;
        self.packet_drops += drops;
        Ok(full + self.packet_drops)
    }

    /// Whether there is a carrier. An interface that is down has none.
    pub(crate) fn carrier(&mut self) -> Result<bool> {
        self.rtnetlink
            .link_by_index(self.index)
            .map(|link| link.carrier)
            .map_err(|error| Error::kernel("RTM_GETLINK", &error))
    }

    /// Sets the interface administratively up or down: the other end of the cable sees it.
    pub(crate) fn set_up(&mut self, up: bool) -> Result<()> {
        self.rtnetlink.set_up(self.index, up).map_err(|error| {
            let change = if up { "up" } else { "down" };
            let refused = Error::kernel("RTM_SETLINK", &error);
            let kind = refused.kind();
            let remedy = format!("see why `ip link set dev {} {change}` fails", self.name);
            refused.because(kind, format!("the interface cannot be set {change}"), remedy)
        })?;
        // AF_XDP's sockets have no such memory.
        sys::clear_packet_socket_errors(self.index)
            .map_err(|error| Error::kernel("read_dir(/proc/self/fd)", &error))
    }

    /// Leaves the interface as it is for whoever takes it over, who puts it back at the end.
    pub(crate) fn hand_over(&mut self) {
        self.handed_over = true;
    }

    fn too_few_queues(&self, has: u32, wanted: u32) -> Error {
        Error::refused(
            ErrorKind::Queues,
            format!("{} has {has} queues and {wanted} workers need one each", self.name),
            format!("configure {has} workers for this wire"),
        )
    }

    /// Turns off what merges or changes frames before they reach us.
    fn quiet_offloads(&mut self) {
        for offload in [Offload::Gro, Offload::Lro, Offload::RxVlan] {
            match turn_off(
                || self.ethtool.offload(&self.name, offload),
                || {
                    let note = self.found.note(|found| {
                        if !found.offloads.contains(&offload) {
                            found.offloads.push(offload);
                        }
                    });
                    self.notes.extend(note);
                    self.ethtool.set_offload(&self.name, offload, false)
                },
            ) {
                Turned::WasOff | Turned::Off => {}
                // Some drivers have it fixed on. AF_PACKET puts tags back, and AF_XDP is refused;
                // merged segments are longer than the MTU and will be counted as too long.
                Turned::Stuck(reason) => {
                    self.notes.push(format!("{offload:?} cannot be turned off: {reason}"));
                    if offload == Offload::RxVlan {
                        self.tags_stripped =
                            Some(format!("RX VLAN stripping cannot be turned off: {reason}"));
                    }
                }
            }
        }
    }

    /// A port of a bump in the wire does not speak: no link-local address, no router solicitation.
    fn quiet_ipv6(&mut self) {
        self.notes.extend(quiet_ipv6(&mut self.found));
    }
}

/// Turns the host's own IPv6 off at an interface. Returns what cannot be done.
fn quiet_ipv6(found: &mut Found) -> Vec<String> {
    let path = ipv6_switch(found.name());
    if !fs::read_to_string(&path).is_ok_and(|value| value.trim() == "0") {
        return Vec::new();
    }
    let mut notes: Vec<String> = found.note(|found| found.ipv6 = true).into_iter().collect();
    if let Err(error) = fs::write(&path, "1") {
        notes.push(format!("the host's own IPv6 stays on: cannot write {path}: {error}"));
    }
    notes
}

impl Drop for KernelPort {
    /// Puts back what was changed. The driver is closed by now.
    fn drop(&mut self) {
        self.xdp_sockets.iter().for_each(|socket| socket.close_if_left());
        if let Ok(link) = self.rtnetlink.link_by_index(self.index) {
            for &(mode, id) in &link.xdp {
                if sys::bpf_program_name(id).is_ok_and(|name| is_af_xdp_program(&name)) {
                    let _ = self.rtnetlink.detach_xdp(self.index, mode);
                }
            }
        }
        if !self.handed_over {
            self.found.put_back(&mut self.rtnetlink, &self.ethtool);
        }
    }
}

/// What came of an attempt to turn an offload off.
#[derive(PartialEq, Eq, Debug)]
enum Turned {
    WasOff,
    Off,
    /// It is on still, and why.
    Stuck(String),
}

/// Turns an offload off, and believes only what the interface says afterwards.
fn turn_off(is_on: impl Fn() -> Option<bool>, set_off: impl FnOnce() -> io::Result<()>) -> Turned {
    if is_on() != Some(true) {
        return Turned::WasOff;
    }
    let asked = set_off();
    match (is_on(), asked) {
        (Some(false), _) => Turned::Off,
        (_, Err(error)) => Turned::Stuck(error.to_string()),
        (_, Ok(())) => Turned::Stuck("the driver took the order and left it on".to_owned()),
    }
}

fn tags_lost(name: &str, reason: &str) -> Error {
    Error::refused(
        ErrorKind::Unsupported,
        format!("AF_XDP would receive frames without their VLAN tags: {reason}"),
        format!(
            "configure the port as `{name}`, with one worker, and AF_PACKET takes over, or bind a \
             PCI device to vfio-pci"
        ),
    )
}

fn peer_out_of_reach(name: &str) -> String {
    format!(
        "{name} is a veth whose other end is in another network namespace: a frame whose VLAN tag \
         the other end keeps beside it (a bridge and VLAN interfaces do) arrives untagged over \
         AF_XDP; run `ethtool -K INTERFACE txvlan off` on the other end where frames carry tags"
    )
}

/// Whether an interface could be a port with this MTU, as far as can be seen while somebody else may have it.
///
/// # Errors
///
/// It does not exist, belongs to a bridge, carries addresses, or its frames are too short.
pub fn check_interface(name: &str, mtu: u16) -> Result<()> {
    let mut rtnetlink =
        Rtnetlink::new().map_err(|error| Error::kernel("socket(NETLINK_ROUTE)", &error))?;
    let link = redirect::link_of(&mut rtnetlink, name)?;
    refuse_unfit(&mut rtnetlink, &link).map_err(|error| error.on(name))?;
    if link.max_mtu != 0 && u32::from(mtu) > link.max_mtu {
        let limit = link.max_mtu;
        return Err(Error::refused(
            ErrorKind::Mtu,
            format!("MTU {mtu} is over the interface's limit of {limit}"),
            "set a smaller `mtu`",
        )
        .on(name));
    }
    Ok(())
}

/// Refuses interfaces that cannot be a port of a bump in the wire.
fn refuse_unfit(rtnetlink: &mut Rtnetlink, link: &Link) -> Result<()> {
    if link.loopback {
        return Err(Error::refused(
            ErrorKind::Config,
            "the loopback interface cannot be a port",
            "name an Ethernet interface",
        ));
    }
    if let Some(index) = link.controller {
        let of = rtnetlink.link_by_index(index).map_or(format!("#{index}"), |link| link.name);
        return Err(Error::refused(
            ErrorKind::Enslaved,
            format!("the interface belongs to {of}, which would forward past the gateway"),
            format!("take it out: `ip link set dev {} nomaster`", link.name),
        ));
    }
    let addresses =
        rtnetlink.addresses(link.index).map_err(|error| Error::kernel("RTM_GETADDR", &error))?;
    if !addresses.is_empty() {
        return Err(Error::refused(
            ErrorKind::HasAddresses,
            format!(
                "the interface carries {}: the host itself would answer on the wire",
                addresses.join(", ")
            ),
            format!("remove them: `ip addr flush dev {}`", link.name),
        ));
    }
    Ok(())
}

/// That this process may have sockets of AF_XDP: what the driver says of those is one error for every cause.
pub(crate) fn check_xdp_sockets() -> Result<()> {
    sys::try_xdp_socket().map_err(|error| {
        Error::kernel("socket(AF_XDP)", &error).because(
            ErrorKind::Unsupported,
            "this process may have no sockets of AF_XDP",
            "the kernel needs CONFIG_XDP_SOCKETS, and the unit AF_XDP among its address families",
        )
    })
}

/// Claims an interface for this process. The kernel forgets the claim when the process ends, and
/// abstract socket names belong to one network namespace, as interface numbers do.
fn claim_index(index: u32) -> Result<UnixListener> {
    SocketAddr::from_abstract_name(format!("bulkhead/interface/{index}"))
        .and_then(|name| UnixListener::bind_addr(&name))
        .map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Error::refused(
                ErrorKind::InUse,
                "another port of this gateway, or another gateway, uses the interface",
                format!(
                    "name each interface once, and stop the other gateway (`systemctl stop bulkhead`); `ss -xlp \
                     | grep bulkhead/interface/{index}` names the process, which may be none"
                ),
            ),
            _ => Error::kernel("bind(AF_UNIX)", &error),
        })
}

/// Takes off the XDP program and the promiscuous flag that a killed predecessor left.
fn clear_leftovers(rtnetlink: &mut Rtnetlink, link: Link, notes: &mut Vec<String>) -> Result<Link> {
    if link.xdp.is_empty() {
        return Ok(link);
    }
    for &(mode, id) in &link.xdp {
        let name = sys::bpf_program_name(id).unwrap_or_default();
        if !is_af_xdp_program(&name) {
            return Err(Error::refused(
                ErrorKind::InUse,
                format!("the interface has an XDP program, `{name}` (number {id})"),
                format!("detach it: `ip link set dev {} xdp off`", link.name),
            ));
        }
        if let Some(process) = holder_of_program(id) {
            return Err(Error::refused(
                ErrorKind::InUse,
                format!("process {process} receives from the interface over AF_XDP"),
                "stop it first",
            ));
        }
        rtnetlink
            .detach_xdp(link.index, mode)
            .map_err(|error| Error::kernel("RTM_SETLINK(IFLA_XDP)", &error))?;
        notes.push(format!("detached the XDP program `{name}` of a process that has died"));
    }
    if link.promiscuity > 0 && rtnetlink.set_promiscuous_flag(link.index, false).is_ok() {
        notes.push("cleared the promiscuous flag that it left".to_owned());
    }
    rtnetlink.link_by_index(link.index).map_err(|error| Error::kernel("RTM_GETLINK", &error))
}

/// Whether a program is one that AF_XDP libraries load for themselves.
fn is_af_xdp_program(name: &str) -> bool {
    name.starts_with("xsk_def_") || name == "xdp_dispatcher"
}

/// A live process that holds a BPF program, as its number and name. AF_XDP applications hold theirs.
fn holder_of_program(id: u32) -> Option<String> {
    let line = format!("prog_id:\t{id}");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fdinfo")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(info) = fs::read_to_string(descriptor.path()) else { continue };
            if info.lines().any(|each| each == line) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{pid} ({})", name.trim()));
            }
        }
    }
    None
}

/// Refuses early, with the names of what is missing.
fn require_capabilities() -> Result<()> {
    const NEEDED: [(u32, &str); 2] = [(12, "NET_ADMIN"), (13, "NET_RAW")];

    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        // Where /proc is hidden, the system calls will tell.
        .unwrap_or(u64::MAX);
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|&(_, name)| name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::refused(
        ErrorKind::Privilege,
        format!("this process lacks the capability {}", missing.join(" and ")),
        "run as root, or with the capabilities NET_ADMIN, NET_RAW, BPF and IPC_LOCK",
    ))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn an_offload_that_stays_on_is_never_taken_for_off() {
        let fixed = || Err(io::Error::from_raw_os_error(libc::EINVAL));
        assert_eq!(turn_off(|| None, fixed), Turned::WasOff);
        assert_eq!(turn_off(|| Some(false), fixed), Turned::WasOff);
        assert!(matches!(turn_off(|| Some(true), fixed), Turned::Stuck(_)));
        assert!(matches!(turn_off(|| Some(true), || Ok(())), Turned::Stuck(_)));
        let on = Cell::new(true);
        let set = || {
            on.set(false);
            Ok(())
        };
        assert_eq!(turn_off(|| Some(on.get()), set), Turned::Off);
    }
}
