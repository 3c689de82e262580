//! Frames straight to and from an interface: AF_PACKET sockets, on which the kernel's own stack
//! neither adds nor takes anything.

// Packet sockets have no safe interface in the standard library or in `socket2`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use crate::flows::Place;
use crate::rig::{HOST_INTERFACE, Host};

/// The longest frame that is captured.
const MAX_FRAME: usize = 65_536;

/// A socket that sends and captures whole frames on a host's interface.
#[derive(Debug)]
pub struct RawPort {
    socket: Socket,
}

impl RawPort {
    /// Opens the host's interface. Frames that arrive from now on are kept until they are taken.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn open(host: &Host) -> Self {
        Self::open_interface(host, HOST_INTERFACE)
    }

    /// The same for any interface of any place.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn open_interface(place: &impl Place, interface: &str) -> Self {
        let opened = place.inside(|| Self::try_open(interface));
        opened.unwrap_or_else(|e| panic!("packet socket of {interface}: {e}"))
    }

    fn try_open(interface: &str) -> io::Result<Self> {
        let every = (libc::ETH_P_ALL as u16).to_be();
        // Bound before it receives anything, so that no frame of another interface slips in.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        let settings = [
            (libc::SOL_PACKET, libc::PACKET_AUXDATA, 1),
            (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
            // Beyond the system's limit: a test that counts must not lose frames itself.
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 256 << 20),
        ];
        for (level, option, value) in settings {
            set_option(&socket, level, option, value)?;
        }
        let index = nix::net::if_::if_nametoindex(interface)?;
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: `sockaddr_ll` is one of the socket address types that fit the storage.
        let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = index as i32;
        // SAFETY: the storage holds a whole `sockaddr_ll`.
        let address =
            unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
        socket.bind(&address)?;
        Ok(Self { socket })
    }

    /// Sends one frame as it is.
    ///
    /// # Panics
    ///
    /// When the interface does not take it.
    pub fn send(&self, frame: &[u8]) {
        self.try_send(frame).unwrap_or_else(|e| panic!("a frame of {} bytes: {e}", frame.len()));
    }

    /// Sends one frame as it is, unless the interface cannot take it.
    ///
    /// # Errors
    ///
    /// What the kernel says: no buffer, no carrier.
    pub fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// The next frame that arrives within `limit`, VLAN tags where they were on the cable.
    pub fn receive(&self, limit: Duration) -> Option<Vec<u8>> {
        let limit = limit.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(limit)).ok()?;
        let mut frame = vec![0u8; MAX_FRAME];
        let mut control = [0u64; 16];
        let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        // SAFETY: `msghdr` is plain data, for which zero bytes are a valid value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: the descriptor is open; the message's pointers are to `frame` and `control`,
        // which live longer than the call, with their true lengths.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        frame.truncate(usize::try_from(length).ok()?);
        if let Some((tpid, tci)) = stripped_tag(&message) {
            let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
            frame.splice(12..12, tag);
        }
        Some(frame)
    }

    /// The first frame within `limit` that `wanted` accepts; the others are forgotten.
    pub fn receive_where(
        &self,
        limit: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            if let Some(frame) = self.receive(left).filter(|frame| wanted(frame)) {
                return Some(frame);
            }
        }
    }

    /// Whether exactly this frame arrives within `limit`.
    pub fn sees(&self, frame: &[u8], limit: Duration) -> bool {
        self.receive_where(limit, |seen| seen == frame).is_some()
    }
}

fn set_option(socket: &Socket, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads the `size_of_val` bytes of `value`.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The outermost tag, which the kernel takes off a frame before a packet socket sees it.
fn stripped_tag(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the kernel filled `message` in; its control pointer and length are those of a live
    // buffer, and CMSG_FIRSTHDR returns null where it holds no whole header.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if header.cmsg_level != libc::SOL_PACKET || header.cmsg_type != libc::PACKET_AUXDATA {
        return None;
    }
    // SAFETY: a control message of this type carries a `tpacket_auxdata`; it may be unaligned.
    let data: libc::tpacket_auxdata =
        unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
    if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid_known = data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    Some((if tpid_known { data.tp_vlan_tpid } else { 0x8100 }, data.tp_vlan_tci))
}

/// Segments that the kernel had to send again on a connection, since it was opened.
///
/// # Errors
///
/// What `getsockopt` says.
pub fn tcp_retransmissions(stream: &std::net::TcpStream) -> io::Result<u32> {
    Ok(tcp_info(stream)?.tcpi_total_retrans)
}

/// What the kernel knows of a connection that does not get on.
///
/// # Errors
///
/// What `getsockopt` says.
pub fn tcp_state(stream: &std::net::TcpStream) -> io::Result<String> {
    let info = tcp_info(stream)?;
    Ok(format!(
        "state {}, {} segments sent again, {} not acknowledged, sent again {} times in a row, backoff {}, timeout \
         {} us, last sent {} ms, received {} ms, acknowledged {} ms ago",
        info.tcpi_state,
        info.tcpi_total_retrans,
        info.tcpi_unacked,
        info.tcpi_retransmits,
        info.tcpi_backoff,
        info.tcpi_rto,
        info.tcpi_last_data_sent,
        info.tcpi_last_data_recv,
        info.tcpi_last_ack_recv,
    ))
}

fn tcp_info(stream: &std::net::TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: `tcp_info` is plain data, for which zero bytes are a valid value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open; the kernel writes at most `length` bytes to `info`.
    let outcome = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if outcome == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}
