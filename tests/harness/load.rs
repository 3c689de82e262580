//! Traffic that goes on while something else happens, and an exact count of what became of it.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::flows::{Place, connect, open_in};
use crate::frames::checksum;

/// How long after the last request an answer still counts.
const AFTERMATH: Duration = Duration::from_millis(800);

/// What became of a load.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Requests that were sent.
    pub sent: u64,
    /// Of them, those that were answered.
    pub answered: u64,
    /// Segments that TCP had to send again, at the sender: what was lost and repaired.
    pub resent: u64,
}

impl Tally {
    /// Requests without an answer.
    pub fn lost(&self) -> u64 {
        self.sent - self.answered
    }
}

/// What a load sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Datagrams to a server that echoes them, each at its time whether or not the last was answered.
    Udp(SocketAddr),
    /// Requests over one TCP connection to a server that echoes them, each after the last answer.
    Tcp(SocketAddr),
    /// ICMP or ICMPv6 echo requests.
    Ping(IpAddr),
}

/// A load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Tally>>,
}

impl Load {
    /// Starts sending `rate` requests a second of `size` bytes. Returns once the sockets are open.
    ///
    /// # Errors
    ///
    /// What opening them, or connecting, says.
    pub fn start(place: &impl Place, kind: Kind, rate: u32, size: usize) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let pace = Pace::new(rate);
        let size = size.max(8);
        let thread = match kind {
            Kind::Tcp(to) => {
                let stream = connect(place, to)?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                std::thread::spawn(move || requests(stream, pace, size, &flag))
            }
            Kind::Udp(to) => {
                let any: SocketAddr = match to {
                    SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                    SocketAddr::V6(_) => ([0u16; 8], 0).into(),
                };
                let socket = open_in(place, || UdpSocket::bind(any));
                socket.connect(to)?;
                let _ = SockRef::from(&socket).set_recv_buffer_size(16 << 20);
                let wire = Datagrams { socket: socket.into(), kind, identifier: [0; 2] };
                std::thread::spawn(move || wire.run(pace, size, &flag))
            }
            Kind::Ping(to) => {
                let (domain, protocol) = match to {
                    IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
                    IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
                };
                let socket = open_in(place, || Socket::new(domain, Type::RAW, Some(protocol)));
                socket.connect(&SocketAddr::new(to, 0).into())?;
                let _ = socket.set_recv_buffer_size(16 << 20);
                let identifier = (std::process::id() as u16 ^ 0x5a5a).to_be_bytes();
                let wire = Datagrams { socket, kind, identifier };
                std::thread::spawn(move || wire.run(pace, size, &flag))
            }
        };
        Ok(Self { stop, thread })
    }

    /// Whether it still runs; a TCP load ends by itself when its connection does.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Stops sending, waits for the last answers and tells what became of all.
    ///
    /// # Errors
    ///
    /// What broke the load off.
    pub fn stop(self) -> io::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Says when the next request is due.
#[derive(Clone, Copy, Debug)]
struct Pace {
    gap: Duration,
    next: Instant,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { gap: Duration::from_secs(1) / rate.max(1), next: Instant::now() }
    }

    /// Waits until the next request is due; sleeps only where that is long enough to be exact.
    fn wait(&mut self) {
        self.next += self.gap;
        while let Some(left) = self.next.checked_duration_since(Instant::now()) {
            if left > Duration::from_micros(200) {
                std::thread::sleep(left - Duration::from_micros(100));
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// One request after the other over a connection.
fn requests(
    mut stream: TcpStream,
    mut pace: Pace,
    size: usize,
    stop: &AtomicBool,
) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut answer = vec![0; size];
    while !stop.load(Ordering::Relaxed) {
        pace.wait();
        let mut request = vec![0xb5; size];
        request[..8].copy_from_slice(&tally.sent.to_be_bytes());
        stream.write_all(&request)?;
        tally.sent += 1;
        stream.read_exact(&mut answer).map_err(|e| unanswered(&stream, tally.sent, &e))?;
        if answer != request {
            return Err(io::ErrorKind::InvalidData.into());
        }
        tally.answered += 1;
    }
    tally.resent = retransmissions(&stream)?;
    Ok(tally)
}

/// What the kernel knows of a connection whose answer did not come.
fn unanswered(stream: &TcpStream, sent: u64, error: &io::Error) -> io::Error {
    let state = crate::raw::tcp_state(stream).unwrap_or_else(|e| e.to_string());
    io::Error::new(error.kind(), format!("request {sent}: {error}; {state}"))
}

/// Segments that the kernel sent again on this connection.
fn retransmissions(stream: &TcpStream) -> io::Result<u64> {
    crate::raw::tcp_retransmissions(stream).map(u64::from)
}

struct Datagrams {
    socket: Socket,
    kind: Kind,
    identifier: [u8; 2],
}

impl Datagrams {
    fn run(self, mut pace: Pace, size: usize, stop: &AtomicBool) -> io::Result<Tally> {
        let socket = Arc::new(self.socket);
        let done = Arc::new(AtomicBool::new(false));
        let receiver = {
            let (socket, done, kind) = (Arc::clone(&socket), Arc::clone(&done), self.kind);
            let identifier = self.identifier;
            std::thread::spawn(move || receive(&socket, kind, identifier, &done))
        };
        let mut sent: u64 = 0;
        while !stop.load(Ordering::Relaxed) {
            pace.wait();
            let request = request(self.kind, self.identifier, sent, size);
            match (&*socket).write(&request) {
                Ok(_) => sent += 1,
                // An ICMP error for an earlier datagram, reported with this one: not sent, not lost.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(e) => return Err(e),
            }
        }
        std::thread::sleep(AFTERMATH);
        done.store(true, Ordering::Relaxed);
        let answered = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Tally { sent, answered, resent: 0 })
    }
}

fn request(kind: Kind, identifier: [u8; 2], number: u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + size);
    if let Kind::Ping(to) = kind {
        bytes.extend([if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0]);
        bytes.extend(identifier);
        bytes.extend((number as u16).to_be_bytes());
    }
    bytes.extend(number.to_be_bytes());
    bytes.resize(bytes.len() + size - 8, 0xb5);
    if matches!(kind, Kind::Ping(IpAddr::V4(_))) {
        let sum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Counts the distinct requests that are answered until `done`.
fn receive(socket: &Socket, kind: Kind, identifier: [u8; 2], done: &AtomicBool) -> u64 {
    let _ = socket.set_read_timeout(Some(Duration::from_millis(20)));
    let mut seen: Vec<u64> = Vec::new(); // One bit a request.
    let mut answered = 0;
    let mut buffer = vec![0; 65_536];
    while !done.load(Ordering::Relaxed) {
        let Ok(length) = (&*socket).read(&mut buffer) else { continue };
        let Some(number) = answer_number(kind, identifier, &buffer[..length]) else { continue };
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if word >= seen.len() {
            seen.resize(word + 1, 0);
        }
        if seen[word] & bit == 0 {
            seen[word] |= bit;
            answered += 1;
        }
    }
    answered
}

/// The number of the request that this answers, where it answers one of ours.
fn answer_number(kind: Kind, identifier: [u8; 2], bytes: &[u8]) -> Option<u64> {
    let payload = match kind {
        Kind::Ping(to) => {
            let (header, reply) = if to.is_ipv4() { (20, 0) } else { (0, 129) };
            let message = bytes.get(header..)?;
            if message.first() != Some(&reply) || message.get(4..6)? != identifier {
                return None;
            }
            message.get(8..)?
        }
        _ => bytes,
    };
    Some(u64::from_be_bytes(payload.get(..8)?.try_into().ok()?))
}
