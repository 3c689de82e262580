//! What the tests on real interfaces stand on: each runs in a process of its own, because DPDK's
//! environment starts once per process, and in a network namespace of its own, which the kernel
//! takes down with the process however the test ends.
#![allow(unsafe_code, reason = "raw packet sockets, which play the hosts on the wire")]

use std::env;
use std::io::{self, Write};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead_dpdk::{Device, DpdkPort, Eal, EalConfig, HugePages, Mempool, MempoolConfig};
use bulkhead_pipeline::port::{Burst, Port};

/// Set in the process that runs the test itself.
const INSIDE: &str = "BULKHEAD_TEST_INSIDE";

/// Names what a second process of a test does in it.
const ROLE: &str = "BULKHEAD_TEST_ROLE";

/// Runs `test`, the body of the test function called `name`, in a process and a network namespace of
/// its own. Skips, saying so, where namespaces are not permitted.
pub(crate) fn isolated(name: &str, test: fn()) {
    if env::var_os(INSIDE).is_some() {
        return test();
    }
    if let Err(reason) = can_isolate() {
        return skip(name, &reason);
    }
    let output = inside(name).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{name} failed in its namespace ({}):\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    assert!(text(&output.stdout).contains("1 passed"), "no test is called {name}");
    // What the test itself skipped.
    for line in text(&output.stderr).lines().filter(|line| line.starts_with("SKIPPED: ")) {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Says that a test was skipped, and why. Straight to standard error, because the harness swallows
/// what a passing test prints.
pub(crate) fn skip(name: &str, reason: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {name}: {reason}");
}

/// The command that runs the test called `name` in a new namespace, for at most a minute.
fn inside(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "60", "unshare", "--net"])
        .arg(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1");
    command
}

/// A second process in the same namespace, which runs the test called `name` in another [`role`].
pub(crate) fn companion(name: &str, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// What this process plays in its test; nothing in the test's first process.
pub(crate) fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// The same command, run as nobody.
pub(crate) fn without_privileges(command: &mut Command) -> Command {
    let mut outer = Command::new("setpriv");
    outer
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["--inh-caps=-all", "--bounding-set=-all"])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        outer.env(key, value.unwrap_or_default());
    }
    outer
}

fn can_isolate() -> Result<(), String> {
    let status = Command::new("unshare").args(["--net", "true"]).output();
    match status {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            return Err(format!(
                "no network namespaces: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Err(error) => return Err(format!("no `unshare`: {error}")),
    }
    match Command::new("ip").arg("-V").output() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("no `ip`: {error}")),
    }
}

/// Runs `ip` with arguments separated by blanks.
pub(crate) fn ip(arguments: &str) {
    run(&format!("ip {arguments}"));
}

/// Runs a command whose words are separated by blanks.
pub(crate) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

/// What `ip -d link show` says about an interface.
pub(crate) fn describe(interface: &str) -> String {
    let output =
        Command::new("ip").args(["-d", "link", "show", "dev", interface]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether an ethtool feature of an interface is on.
pub(crate) fn feature(interface: &str, feature: &str) -> bool {
    let output = Command::new("ethtool").args(["-k", interface]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with(feature)).unwrap();
    line.contains(": on")
}

/// Queues on which an interface receives.
pub(crate) fn receive_queues(interface: &str) -> u32 {
    let output = Command::new("ethtool").args(["-l", interface]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let current = text.split("Current hardware settings:").nth(1).unwrap();
    let line = current.lines().find(|line| line.starts_with("RX:")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// Two hosts and the ports between them: `h1` - `p1` and `p2` - `h2`. The hosts are silent.
pub(crate) fn two_wires(mtu: u32) {
    for family in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{family}/disable_ipv6");
        if let Err(error) = std::fs::write(&path, "1") {
            println!("{path}: {error}");
        }
    }
    for side in ["1", "2"] {
        ip(&format!("link add h{side} mtu {mtu} type veth peer name p{side} mtu {mtu}"));
        ip(&format!("link set h{side} up"));
        ip(&format!("link set p{side} up"));
    }
}

/// Starts DPDK and makes a pool for two ports.
pub(crate) fn environment(mtu: u16) -> (Eal, Mempool) {
    environment_with(mtu, HugePages::Auto)
}

/// The same over the memory that is asked for.
pub(crate) fn environment_with(mtu: u16, huge_pages: HugePages) -> (Eal, Mempool) {
    let pool = MempoolConfig::for_queues(2, 1_024, mtu);
    let eal = Eal::init(&EalConfig { huge_pages, memory_bytes: pool.memory_bytes(), pci: false })
        .unwrap();
    println!("{}, huge pages: {}", Eal::version(), eal.has_huge_pages());
    let pool = Mempool::new(&eal, pool).unwrap();
    (eal, pool)
}

/// Moves what has arrived at `from` on to `to`. Returns how many frames.
pub(crate) fn forward(from: &mut DpdkPort, to: &mut DpdkPort) -> usize {
    let mut burst = Burst::new();
    from.receive(&mut burst);
    let received = burst.len();
    let give_up = Instant::now() + Duration::from_secs(2);
    while !burst.is_empty() {
        to.transmit(&mut burst);
        assert!(Instant::now() < give_up, "{} frames cannot be sent", burst.len());
    }
    received
}

/// Forwards both ways until `done` says so, for at most five seconds.
pub(crate) fn forward_until(
    one: &mut DpdkPort,
    two: &mut DpdkPort,
    done: impl FnMut() -> bool,
) -> bool {
    forward_for(one, two, Duration::from_secs(5), done)
}

/// Forwards both ways until `done` says so, for at most `time`. Says whether it did.
pub(crate) fn forward_for(
    one: &mut DpdkPort,
    two: &mut DpdkPort,
    time: Duration,
    mut done: impl FnMut() -> bool,
) -> bool {
    let give_up = Instant::now() + time;
    while Instant::now() < give_up {
        let moved = forward(one, two) + forward(two, one);
        if done() {
            return true;
        }
        if moved == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    false
}

/// The only queue of a device.
pub(crate) fn only_queue(device: &mut Device) -> DpdkPort {
    device.take_queue(0).unwrap()
}

/// A host's network card: whole Ethernet frames out and in, tags included.
pub(crate) struct Host {
    socket: OwnedFd,
}

impl Host {
    pub(crate) fn on(interface: &str) -> Self {
        let index: i32 = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))
            .map(|text| text.trim().parse().unwrap())
            .unwrap_or_else(|_| index_of(interface));
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(every))
        };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: just opened.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeroes is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = index;
        // SAFETY: the address is as long as is said.
        let status = unsafe {
            libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
        };
        assert_eq!(status, 0, "{}", io::Error::last_os_error());
        let host = Self { socket };
        host.option(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1);
        const PACKET_IGNORE_OUTGOING: i32 = 23;
        host.option(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
        host.option(libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20);
        host
    }

    fn option(&self, level: i32, name: i32, value: i32) {
        // SAFETY: the value is as long as is said.
        let status = unsafe {
            libc::setsockopt(self.socket.as_raw_fd(), level, name, (&raw const value).cast(), 4)
        };
        assert_eq!(status, 0, "{}", io::Error::last_os_error());
    }

    /// Sends a frame; says whether the kernel took it.
    pub(crate) fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the frame is as long as is said.
        let sent =
            unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        self.try_send(frame).unwrap();
    }

    /// The next frame that has arrived, if any, with its tag where the sender put it.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
        const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
        let mut bytes = vec![0_u8; 70_000];
        let mut control = [0_u64; 16];
        let mut io = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: all zeroes is a valid header.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_iov = &raw mut io;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        // SAFETY: everything that the header points to is writable and as long as it says.
        let length =
            unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
        if length < 0 {
            return None;
        }
        bytes.truncate(length as usize);
        // SAFETY: the kernel has filled the control buffer as the header says.
        let tag = unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            assert!(!message.is_null());
            (*libc::CMSG_DATA(message).cast::<libc::tpacket_auxdata>(), ())
        }
        .0;
        if tag.tp_status & TP_STATUS_VLAN_VALID != 0 {
            let protocol = if tag.tp_status & TP_STATUS_VLAN_TPID_VALID == 0 {
                0x8100
            } else {
                tag.tp_vlan_tpid
            };
            let tag = [protocol.to_be_bytes(), tag.tp_vlan_tci.to_be_bytes()].concat();
            bytes.splice(12..12, tag);
        }
        Some(bytes)
    }
}

fn index_of(interface: &str) -> i32 {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: the name ends with NUL.
    unsafe { libc::if_nametoindex(name.as_ptr()) as i32 }
}

/// A frame from one made-up station to another, filled with a pattern of `seed`.
pub(crate) fn frame(length: usize, seed: u8, tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1];
    for (protocol, tci) in tags {
        bytes.extend(protocol.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    // An EtherType for local experiments: no protocol of the host listens.
    bytes.extend([0x88, 0xb5]);
    let filled = bytes.len();
    bytes.extend((filled..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)));
    bytes
}

/// From now on the kernel gives this process no socket.
pub(crate) fn without_new_descriptors() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a whole `rlimit`.
    let status = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
}

/// Queue 0 of an interface, bound by an AF_XDP socket until this is dropped.
pub(crate) struct TakenQueue {
    _socket: OwnedFd,
}

impl TakenQueue {
    pub(crate) fn of(interface: &str) -> Self {
        const CHUNK: usize = 4_096;
        const RING: u32 = 16;
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: just opened.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let (mode, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, which stays until the process ends.
        let area =
            unsafe { libc::mmap(std::ptr::null_mut(), CHUNK * RING as usize, mode, kind, -1, 0) };
        assert_ne!(area, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        let entries = RING;
        // struct xdp_umem_reg: address, length, chunk size, headroom, flags.
        let memory = [area as u64, (CHUNK * RING as usize) as u64, CHUNK as u64, 0];
        let set = |option: i32, value: *const libc::c_void, length: usize| {
            // SAFETY: the value is as long as is said.
            let status =
                unsafe { libc::setsockopt(fd, libc::SOL_XDP, option, value, length as u32) };
            assert_eq!(status, 0, "{option}: {}", io::Error::last_os_error());
        };
        set(libc::XDP_UMEM_REG, memory.as_ptr().cast(), size_of_val(&memory));
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING] {
            set(ring, (&raw const entries).cast(), size_of::<u32>());
        }
        // SAFETY: all zeroes is a valid address.
        let mut address: libc::sockaddr_xdp = unsafe { zeroed() };
        address.sxdp_family = libc::AF_XDP as u16;
        address.sxdp_flags = libc::XDP_COPY;
        address.sxdp_ifindex = index_of(interface) as u32;
        // SAFETY: the address is as long as is said.
        let status = unsafe {
            libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_xdp>() as u32)
        };
        assert_eq!(status, 0, "{}", io::Error::last_os_error());
        Self { _socket: socket }
    }
}
