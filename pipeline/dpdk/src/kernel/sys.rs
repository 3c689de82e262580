//! System calls about interfaces for which there is no safe wrapper: ethtool, packet sockets, and
//! the name of a BPF program.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Offloads that change frames between the wire and us, by their ethtool commands or flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offload {
    /// Received segments merged into longer ones, in software.
    Gro,
    /// The same, in hardware.
    Lro,
    /// VLAN tags taken out of received frames by hardware.
    RxVlan,
    /// VLAN tags of sent frames left to hardware: on a veth the other end gets them beside the frame.
    TxVlan,
}

const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;
const ETH_FLAG_TXVLAN: u32 = 1 << 7;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`: how many queues an interface has, and may have.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Channels {
    command: u32,
    pub(crate) max_rx: u32,
    pub(crate) max_tx: u32,
    pub(crate) max_other: u32,
    pub(crate) max_combined: u32,
    pub(crate) rx: u32,
    pub(crate) tx: u32,
    pub(crate) other: u32,
    pub(crate) combined: u32,
}

impl Channels {
    /// Queues that frames may arrive on.
    pub(crate) fn receiving(&self) -> u32 {
        self.rx + self.combined
    }

    /// The same with `count` queues that frames may arrive on.
    pub(crate) fn with_receiving(mut self, count: u32) -> Self {
        if self.combined > 0 {
            self.combined = count;
            self.rx = 0;
            self.tx = 0;
        } else {
            self.rx = count;
            self.tx = count;
        }
        self
    }
}

/// A socket for ethtool, in the network namespace of the thread that made it.
pub(crate) struct Ethtool {
    socket: OwnedFd,
}

impl Ethtool {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { socket: socket(libc::AF_INET, libc::SOCK_DGRAM, 0)? })
    }

    /// Whether an offload is on; [`None`] where the interface does not know it.
    pub(crate) fn offload(&self, name: &str, offload: Offload) -> Option<bool> {
        match offload {
            Offload::Gro => self.value(name, ETHTOOL_GGRO, 0).ok().map(|value| value != 0),
            Offload::Lro | Offload::RxVlan | Offload::TxVlan => {
                self.value(name, ETHTOOL_GFLAGS, 0).ok().map(|flags| flags & flag(offload) != 0)
            }
        }
    }

    pub(crate) fn set_offload(&self, name: &str, offload: Offload, on: bool) -> io::Result<()> {
        if offload == Offload::Gro {
            return self.value(name, ETHTOOL_SGRO, u32::from(on)).map(drop);
        }
        let flags = self.value(name, ETHTOOL_GFLAGS, 0)?;
        let wanted = if on { flags | flag(offload) } else { flags & !flag(offload) };
        self.value(name, ETHTOOL_SFLAGS, wanted).map(drop)
    }

    pub(crate) fn channels(&self, name: &str) -> io::Result<Channels> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        self.call(name, (&raw mut channels).cast())?;
        Ok(channels)
    }

    pub(crate) fn set_channels(&self, name: &str, channels: Channels) -> io::Result<()> {
        let mut channels = Channels { command: ETHTOOL_SCHANNELS, ..channels };
        self.call(name, (&raw mut channels).cast())
    }

    fn value(&self, name: &str, command: u32, data: u32) -> io::Result<u32> {
        let mut value = EthtoolValue { command, data };
        self.call(name, (&raw mut value).cast())?;
        Ok(value.data)
    }

    /// `data` points to a structure that begins with its command, of the length it goes with.
    fn call(&self, name: &str, data: *mut libc::c_char) -> io::Result<()> {
        // SAFETY: all zeroes is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = data;
        // SAFETY: the name ends with NUL; `data` points to what the command reads and writes.
        let status =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn flag(offload: Offload) -> u32 {
    match offload {
        Offload::Gro => 0,
        Offload::Lro => ETH_FLAG_LRO,
        Offload::RxVlan => ETH_FLAG_RXVLAN,
        Offload::TxVlan => ETH_FLAG_TXVLAN,
    }
}

/// Makes an interface promiscuous for as long as the returned socket lives: unlike the flag, the
/// kernel takes this back when the process dies, however it dies.
pub(crate) fn hold_promiscuous(index: u32) -> io::Result<OwnedFd> {
    // Protocol 0: the socket receives nothing.
    let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    let membership = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
    Ok(socket)
}

/// Keeps frames away from the packet sockets that DPDK's AF_PACKET driver has opened on an
/// interface: what the host itself sends, which the driver would take for received; 802.1ad tags,
/// which it would turn into 802.1Q; and what is longer than `capacity` bytes (without the outer tag),
/// which it would hand over cut off. Returns how many sockets there were.
pub(crate) fn filter_packet_sockets(index: u32, capacity: u32) -> io::Result<usize> {
    const PACKET_OUTGOING: u32 = 4;
    const ETHERTYPE_8021AD: u32 = 0x88a8;
    const LOAD_LENGTH: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_LEN) as u16;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // Metadata of the frame, at negative offsets.
    const KIND: u32 = (-0x1000_i32 + 4) as u32;
    const VLAN_PRESENT: u32 = (-0x1000_i32 + 48) as u32;
    const VLAN_PROTOCOL: u32 = (-0x1000_i32 + 60) as u32;

    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD_LENGTH, 0, 0, 0),
        step(JUMP_GREATER, 7, 0, capacity),
        step(LOAD_WORD, 0, 0, KIND),
        step(JUMP_EQUAL, 5, 0, PACKET_OUTGOING),
        step(LOAD_WORD, 0, 0, VLAN_PRESENT),
        step(JUMP_EQUAL, 2, 0, 0),
        step(LOAD_WORD, 0, 0, VLAN_PROTOCOL),
        step(JUMP_EQUAL, 1, 0, ETHERTYPE_8021AD),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };

    let sockets = packet_sockets(index)?;
    for &socket in &sockets {
        set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    }
    Ok(sockets.len())
}

/// Makes packet sockets forget that their interface was down: the next burst would be told so, and
/// held back until the one after it.
pub(crate) fn clear_packet_socket_errors(index: u32) -> io::Result<()> {
    for socket in packet_sockets(index)? {
        // Reading it clears it.
        get_option(socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut 0_i32)?;
    }
    Ok(())
}

/// The packet sockets that DPDK's driver has opened on an interface, one for each queue, in the order
/// of the queues: it opens them one after the other, and the kernel gives the lowest number that is
/// free.
pub(crate) fn packet_sockets_by_queue(index: u32) -> io::Result<Vec<RawFd>> {
    let mut sockets = packet_sockets(index)?;
    sockets.sort_unstable();
    Ok(sockets)
}

/// Whether a packet socket has room for frames, or an error to tell, at this moment.
pub(crate) fn is_ready_to_send(socket: RawFd) -> bool {
    let mut asked = libc::pollfd { fd: socket, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry, which is writable; the call does not wait.
    unsafe { libc::poll(&raw mut asked, 1, 0) != 0 }
}

/// Frames that found the rings of an interface's packet sockets full, since the last call: the kernel
/// forgets what it has told.
pub(crate) fn take_packet_drops(index: u32) -> io::Result<u64> {
    let mut drops = 0;
    for socket in packet_sockets(index)? {
        let mut counted = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        get_option(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut counted)?;
        drops += u64::from(counted.tp_drops);
    }
    Ok(drops)
}

/// An AF_XDP socket that DPDK's driver has opened in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct XdpSocket {
    fd: RawFd,
    /// The kernel's number for the socket, which no other ever has: descriptors are used again.
    cookie: u64,
}

impl XdpSocket {
    /// Every one. They do not tell their interface: compare before and after one is opened.
    pub(crate) fn all() -> io::Result<Vec<Self>> {
        Ok(descriptors()?.into_iter().filter_map(Self::at).collect())
    }

    fn at(fd: RawFd) -> Option<Self> {
        let (mut domain, mut cookie) = (0_i32, 0_u64);
        get_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, &mut domain).ok()?;
        get_option(fd, libc::SOL_SOCKET, libc::SO_COOKIE, &mut cookie).ok()?;
        (domain == libc::AF_XDP).then_some(Self { fd, cookie })
    }

    /// Frames that found the receive ring full, since the socket was opened. DPDK 22.11 does not
    /// count these among the missed.
    pub(crate) fn ring_full(self) -> io::Result<u64> {
        const XDP_STATISTICS: i32 = 7;
        // struct xdp_statistics: dropped, invalid (two), and since Linux 5.9 ring full.
        let mut counted = [0_u64; 6];
        get_option(self.fd, libc::SOL_XDP, XDP_STATISTICS, &mut counted)?;
        Ok(counted[3])
    }

    /// Closes the socket where the driver has forgotten to, which keeps its queue from being bound
    /// again (DPDK 22.11.11 does).
    pub(crate) fn close_if_left(self) {
        if Self::at(self.fd) == Some(self) {
            // SAFETY: this is the driver's socket still, and the driver is closed.
            drop(unsafe { OwnedFd::from_raw_fd(self.fd) });
        }
    }
}

/// The name of a BPF program, at most 15 characters.
pub(crate) fn bpf_program_name(id: u32) -> io::Result<String> {
    const BPF_PROG_GET_FD_BY_ID: i32 = 13;
    const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
    /// Where `struct bpf_prog_info` has the name, since Linux 4.15.
    const NAME: std::ops::Range<usize> = 64..80;

    #[repr(C)]
    struct ById {
        id: u32,
        next_id: u32,
        open_flags: u32,
        reserved: u32,
    }
    #[repr(C)]
    struct InfoByFd {
        fd: u32,
        len: u32,
        info: u64,
    }

    let mut by_id = ById { id, next_id: 0, open_flags: 0, reserved: 0 };
    // SAFETY: the attribute is as long as is said, and the command only reads it.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, &raw mut by_id, size_of::<ById>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just given to us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let mut info = [0_u8; 80];
    let mut by_fd = InfoByFd {
        fd: fd.as_raw_fd() as u32,
        len: info.len() as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the attribute is as long as is said; `info` has room for `len` bytes and is all
    // zeroes, so that the kernel writes no further arrays.
    let status = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut by_fd, size_of::<InfoByFd>())
    };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = info[NAME].split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The interface that a descriptor of ours receives from, where it is a packet socket that does.
fn packet_socket_interface(fd: RawFd) -> Option<u32> {
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` has room for `length` bytes; any descriptor may be asked.
    let status = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut length) };
    (status == 0
        && i32::from(address.sll_family) == libc::AF_PACKET
        && address.sll_protocol != 0
        && address.sll_ifindex > 0)
        .then_some(address.sll_ifindex as u32)
}

/// The packet sockets of this process that receive from an interface: those of DPDK's driver.
fn packet_sockets(index: u32) -> io::Result<Vec<RawFd>> {
    Ok(descriptors()?
        .into_iter()
        .filter(|&fd| packet_socket_interface(fd) == Some(index))
        .collect())
}

fn descriptors() -> io::Result<Vec<RawFd>> {
    Ok(fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// Whether this process may have sockets of AF_XDP at all.
pub(super) fn try_xdp_socket() -> io::Result<()> {
    socket(libc::AF_XDP, libc::SOCK_RAW, 0).map(drop)
}

fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just given to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_option<T>(fd: RawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable and as long as is said; what it points to lives in the caller.
    let status = unsafe {
        libc::setsockopt(
            fd,
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `value` is a plain number, or an array or structure of them, for which any bytes will do.
fn get_option<T>(fd: RawFd, level: i32, option: i32, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has room for `length` bytes; any descriptor may be asked.
    let status =
        unsafe { libc::getsockopt(fd, level, option, (&raw mut *value).cast(), &raw mut length) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_does_not_exist_has_no_offloads_and_no_channels() {
        let ethtool = Ethtool::new().unwrap();
        assert_eq!(ethtool.offload("no-such-if", Offload::Gro), None);
        let error = ethtool.channels("no-such-if").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        let error = ethtool.channels("a-name-that-is-too-long").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn a_wish_for_queues_keeps_to_the_kind_that_the_interface_has() {
        let combined = Channels { max_combined: 8, combined: 8, ..Channels::default() };
        assert_eq!(combined.with_receiving(1).combined, 1);
        let split = Channels { max_rx: 4, max_tx: 4, rx: 4, tx: 4, ..Channels::default() };
        assert_eq!((split.with_receiving(2).rx, split.with_receiving(2).receiving()), (2, 2));
    }
}
