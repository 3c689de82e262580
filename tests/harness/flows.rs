//! TCP, UDP and ICMP as ordinary programs speak them.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::frames::checksum;
use crate::namespace::Namespace;
use crate::rig::Host;

/// Where a program runs: in a host of a rig, or wherever this process was started.
pub trait Place {
    /// Runs `work` there. Sockets that it opens stay there.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T;
}

impl Place for Host {
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.inside(work)
    }
}

impl Place for Namespace {
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Namespace::inside(self, work)
    }
}

/// Where this process was started.
#[derive(Clone, Copy, Debug)]
pub struct Here;

impl Place for Here {
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        work()
    }
}

/// How long a refusal or an answer may take before silence is what it is.
pub const PATIENCE: Duration = Duration::from_millis(700);

/// What came of an attempt, as the program that made it sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// Somebody said no: TCP RST, or an ICMP error.
    Refused,
    /// Nothing came back.
    Silent,
}

/// A server in a host that sends back what it gets, until it is dropped.
#[derive(Debug)]
pub struct Echo {
    /// Connections or datagrams that reached it.
    pub reached: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Serves TCP on a port of both families.
    pub fn tcp(place: &impl Place, port: u16) -> Self {
        let listener = open_in(place, || TcpListener::bind(("::", port)));
        must(listener.set_nonblocking(true), "non-blocking");
        Self::serve(move |reached, stop| {
            let mut open: Vec<TcpStream> = Vec::new();
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    reached.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.set_nonblocking(true);
                    open.push(stream);
                }
                open.retain_mut(|stream| match stream.read(&mut buffer) {
                    Ok(0) => false,
                    Ok(length) => stream.write_all(&buffer[..length]).is_ok(),
                    Err(e) => e.kind() == io::ErrorKind::WouldBlock,
                });
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    }

    /// Serves UDP on a port of both families.
    pub fn udp(place: &impl Place, port: u16) -> Self {
        let socket = open_in(place, || UdpSocket::bind(("::", port)));
        must(socket.set_read_timeout(Some(Duration::from_millis(50))), "timeout");
        Self::serve(move |reached, stop| {
            let mut buffer = [0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    reached.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        })
    }

    /// How many connections or datagrams reached the server.
    pub fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }

    fn serve(work: impl FnOnce(&AtomicU64, &AtomicBool) + Send + 'static) -> Self {
        let (reached, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, flag) = (Arc::clone(&reached), Arc::clone(&stop));
        let thread = Some(std::thread::spawn(move || work(&counter, &flag)));
        Self { reached, stop, thread }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens a connection from a host, or says why not.
///
/// # Errors
///
/// What `connect` says after at most [`PATIENCE`].
pub fn connect(place: &impl Place, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = place.inside(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a connection and expects an echo over it.
pub fn try_tcp(place: &impl Place, to: SocketAddr) -> Outcome {
    match connect(place, to).and_then(|mut stream| exchange(&mut stream)) {
        Ok(()) => Outcome::Answered,
        Err(e) => outcome_of(&e),
    }
}

/// Sends a few bytes over an open connection and expects them back.
///
/// # Errors
///
/// What the socket says; a timeout when nothing came back.
pub fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"bulkhead")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    if &answer == b"bulkhead" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Sends a datagram of `length` bytes and expects it back.
pub fn try_udp(place: &impl Place, to: SocketAddr, length: usize) -> Outcome {
    let any: SocketAddr =
        if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
    let socket = open_in(place, || UdpSocket::bind(any));
    try_udp_from(&socket, to, length)
}

/// The same from a socket that stays open, so that the flow's source port stays the same.
pub fn try_udp_from(socket: &UdpSocket, to: SocketAddr, length: usize) -> Outcome {
    let payload = vec![0xb5; length];
    let mut answer = vec![0; length + 1];
    let mut exchange = || {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        socket.send(&payload)?;
        socket.recv(&mut answer)
    };
    match exchange() {
        Ok(received) if received == length && answer[..length] == payload => Outcome::Answered,
        Ok(_) => panic!("another datagram came back than was sent"),
        Err(e) => outcome_of(&e),
    }
}

/// One echo request of ICMP or ICMPv6 with `length` bytes of data.
pub fn ping(place: &impl Place, to: IpAddr, length: usize) -> Outcome {
    static IDENTIFIER: AtomicU16 = AtomicU16::new(1);
    let identifier = IDENTIFIER.fetch_add(1, Ordering::Relaxed) ^ (std::process::id() as u16);
    let (domain, protocol, request, reply, ip_header) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0, 20),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129, 0),
    };
    let socket = open_in(place, || Socket::new(domain, Type::RAW, Some(protocol)));
    let mut message = vec![request, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend([0, 1]);
    message.resize(8 + length, 0xb5);
    if to.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    if let Err(e) = socket.send_to(&message, &SocketAddr::new(to, 0).into()) {
        return outcome_of(&e);
    }
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 65_536];
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        let _ = socket.set_read_timeout(Some(left.max(Duration::from_millis(1))));
        let Ok(received) = (&socket).read(&mut buffer) else { continue };
        let Some(answer) = buffer.get(ip_header..received) else { continue };
        if answer.first() == Some(&reply)
            && answer.get(4..6) == Some(&identifier.to_be_bytes()[..])
            && answer.len() == message.len()
        {
            return Outcome::Answered;
        }
    }
    Outcome::Silent
}

/// Opens a socket there.
///
/// # Panics
///
/// When the kernel refuses.
pub fn open_in<T: Send>(place: &impl Place, open: impl FnOnce() -> io::Result<T> + Send) -> T {
    must(place.inside(open), "a socket")
}

fn outcome_of(error: &io::Error) -> Outcome {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, PermissionDenied,
    };
    match error.kind() {
        ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable
        | PermissionDenied => Outcome::Refused,
        _ => Outcome::Silent,
    }
}

fn must<T>(result: io::Result<T>, what: &str) -> T {
    result.unwrap_or_else(|e| panic!("{what}: {e}"))
}
