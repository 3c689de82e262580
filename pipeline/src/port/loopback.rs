//! Ports in memory: what a test or a benchmark sends in on one side, a worker receives on the
//! other, and back.
//!
//! Frames travel by ownership through bounded queues. Their buffers are allocated once, when the
//! pair is made, and return to their pool when the frame is dropped, wherever that happens; so a
//! steady flow allocates nothing, and a pool that runs empty behaves like a NIC's empty mempool.
//!
//! Nothing here blocks. A sender that meets a full queue is told so and decides itself whether to
//! try again (a loss-free test) or to give up (a lossy wire).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use super::{Burst, Frame, Port};

/// How large a loopback pair is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Frames that wait at most in each direction.
    pub queue_frames: usize,
    /// Buffers of the pair. Frames that a worker holds or that wait on another port count, too.
    pub pool_frames: usize,
    /// The longest frame, in bytes without FCS.
    pub max_frame_len: usize,
}

impl Default for Options {
    /// 1,024 frames each way, twice that many buffers and a burst more, untagged or tagged frames
    /// of an MTU of 1,500.
    fn default() -> Self {
        Self {
            queue_frames: 1024,
            pool_frames: 2 * 1024 + 2 * super::MAX_BURST,
            max_frame_len: 1522,
        }
    }
}

/// Makes a port for the gateway and the host that is plugged into it. All memory that the two will
/// use is allocated here.
#[must_use]
pub fn pair(options: Options) -> (LoopbackPort, Host) {
    let wire = Arc::new(Link {
        to_gateway: ArrayQueue::new(options.queue_frames.max(1)),
        to_host: ArrayQueue::new(options.queue_frames.max(1)),
        pool: Pool::new(options.pool_frames.max(1), options.max_frame_len),
        max_frame_len: options.max_frame_len,
        refuse_transmit: AtomicBool::new(false),
        host_gone: AtomicBool::new(false),
        refused_frames: AtomicU64::new(0),
    });
    (LoopbackPort { link: Arc::clone(&wire) }, Host { link: wire })
}

/// The gateway's side of a pair.
#[derive(Debug)]
pub struct LoopbackPort {
    link: Arc<Link>,
}

/// The host's side of a pair: it sends frames to the gateway and receives what the gateway sends.
/// It may live in another thread than the port.
#[derive(Debug)]
pub struct Host {
    link: Arc<Link>,
}

/// Why a host could not send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The queue to the gateway is full, or no buffer is free: the gateway has to catch up.
    Full,
    /// The frame is longer than the link carries.
    TooLong,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the loopback queue to the gateway is full, or no buffer is free",
            Self::TooLong => "the frame is longer than the loopback link carries",
        })
    }
}

impl std::error::Error for SendError {}

/// A frame in a buffer of a pair's pool. Dropping it gives the buffer back.
#[derive(Debug)]
pub struct LoopbackFrame {
    /// Empty only while the frame is being dropped.
    buffer: Box<[u8]>,
    len: usize,
    timestamp_ns: Option<u64>,
    pool: Arc<ArrayQueue<Box<[u8]>>>,
}

impl Host {
    /// Sends a copy of `bytes` to the gateway.
    ///
    /// # Errors
    ///
    /// The frame is too long, or there is no room for it now. It is not sent then.
    pub fn send(&self, bytes: &[u8]) -> Result<(), SendError> {
        self.send_stamped(bytes, None)
    }

    /// Sends a copy of `bytes` to the gateway with the time, in nanoseconds since the Unix epoch,
    /// at which it counts as arrived.
    ///
    /// # Errors
    ///
    /// As for [`Host::send`].
    pub fn send_at(&self, bytes: &[u8], timestamp_ns: u64) -> Result<(), SendError> {
        self.send_stamped(bytes, Some(timestamp_ns))
    }

    /// The next frame that the gateway sent, if there is one.
    #[must_use]
    pub fn receive(&self) -> Option<LoopbackFrame> {
        self.link.to_host.pop()
    }

    /// Makes the gateway's transmissions on this link fail, as on a device whose queue is full,
    /// until called with `false`.
    pub fn refuse_transmit(&self, refuse: bool) {
        self.link.refuse_transmit.store(refuse, Ordering::Relaxed);
    }

    /// Frames that wait to be received by the gateway.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.link.to_gateway.len()
    }

    /// Buffers that are free. When no frame is under way anywhere, it is the whole pool.
    #[must_use]
    pub fn free_buffers(&self) -> usize {
        self.link.pool.free.len()
    }

    fn send_stamped(&self, bytes: &[u8], timestamp_ns: Option<u64>) -> Result<(), SendError> {
        if bytes.len() > self.link.max_frame_len {
            return Err(SendError::TooLong);
        }
        let mut frame = self.link.pool.take(bytes.len()).ok_or(SendError::Full)?;
        frame.timestamp_ns = timestamp_ns;
        frame.bytes_mut().copy_from_slice(bytes);
        self.link.to_gateway.push(frame).map_err(|_| SendError::Full)
    }
}

impl Drop for Host {
    /// A host that is unplugged sends nothing more, so the gateway's side becomes exhausted once it
    /// is drained.
    fn drop(&mut self) {
        self.link.host_gone.store(true, Ordering::Release);
    }
}

impl LoopbackPort {
    /// Frames that were offered for transmission and not taken, counted once for each attempt.
    #[must_use]
    pub fn refused_frames(&self) -> u64 {
        self.link.refused_frames.load(Ordering::Relaxed)
    }

    /// How many frames from the front of `burst` the queue takes now, as the device sees it.
    fn send_front(&self, burst: &mut Burst<LoopbackFrame>) {
        let mut sent = 0;
        let mut refused = None;
        let mut frames = burst.drain(..);
        for frame in frames.by_ref() {
            match self.link.to_host.push(frame) {
                Ok(()) => sent += 1,
                Err(frame) => {
                    refused = Some(frame);
                    break;
                }
            }
        }
        let Some(first) = refused else { return };
        let mut rest: Burst<LoopbackFrame> = Burst::new();
        rest.push(first);
        rest.extend(frames);
        debug_assert!(sent + rest.len() <= super::MAX_BURST);
        self.link.refused_frames.fetch_add(rest.len() as u64, Ordering::Relaxed);
        *burst = rest;
    }
}

impl Port for LoopbackPort {
    type Frame = LoopbackFrame;

    fn receive(&mut self, burst: &mut Burst<LoopbackFrame>) {
        while burst.remaining_capacity() > 0 {
            match self.link.to_gateway.pop() {
                Some(frame) => burst.push(frame),
                None => break,
            }
        }
    }

    fn transmit(&mut self, burst: &mut Burst<LoopbackFrame>) {
        if burst.is_empty() {
            return;
        }
        if self.link.refuse_transmit.load(Ordering::Relaxed) {
            self.link.refused_frames.fetch_add(burst.len() as u64, Ordering::Relaxed);
            return;
        }
        self.send_front(burst);
    }

    fn originate(&mut self, length: usize) -> Option<LoopbackFrame> {
        if length > self.link.max_frame_len {
            return None;
        }
        let mut frame = self.link.pool.take(length)?;
        frame.bytes_mut().fill(0);
        Some(frame)
    }

    fn max_frame_len(&self) -> usize {
        self.link.max_frame_len
    }

    fn is_exhausted(&self) -> bool {
        // The flag first: a frame that was sent before it was set is then seen in the queue.
        self.link.host_gone.load(Ordering::Acquire) && self.link.to_gateway.is_empty()
    }
}

impl Frame for LoopbackFrame {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }

    fn timestamp_ns(&self) -> Option<u64> {
        self.timestamp_ns
    }
}

impl Drop for LoopbackFrame {
    fn drop(&mut self) {
        // The pool holds as many places as it ever had buffers, so there is always one.
        let returned = self.pool.push(std::mem::take(&mut self.buffer));
        debug_assert!(returned.is_ok(), "a loopback pool got back more buffers than it gave");
    }
}

/// What the two sides of a pair share.
#[derive(Debug)]
struct Link {
    to_gateway: ArrayQueue<LoopbackFrame>,
    to_host: ArrayQueue<LoopbackFrame>,
    pool: Pool,
    max_frame_len: usize,
    refuse_transmit: AtomicBool,
    host_gone: AtomicBool,
    refused_frames: AtomicU64,
}

/// The buffers of a pair that no frame holds.
#[derive(Debug)]
struct Pool {
    free: Arc<ArrayQueue<Box<[u8]>>>,
}

impl Pool {
    fn new(frames: usize, frame_len: usize) -> Self {
        let free = ArrayQueue::new(frames);
        while free.push(vec![0; frame_len].into_boxed_slice()).is_ok() {}
        Self { free: Arc::new(free) }
    }

    /// A frame of `len` bytes that still hold what the buffer's last user wrote.
    fn take(&self, len: usize) -> Option<LoopbackFrame> {
        let buffer = self.free.pop()?;
        Some(LoopbackFrame { buffer, len, timestamp_ns: None, pool: Arc::clone(&self.free) })
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn small() -> Options {
        Options { queue_frames: 4, pool_frames: 16, max_frame_len: 100 }
    }

    #[test]
    fn frames_cross_in_order_in_both_directions() {
        let (mut port, host) = pair(small());
        for n in 0..3u8 {
            host.send_at(&[n; 60], u64::from(n)).unwrap();
        }
        let mut burst = Burst::new();
        port.receive(&mut burst);
        let seen: Vec<_> = burst.iter().map(|f| (f.bytes()[0], f.timestamp_ns())).collect();
        assert_eq!(seen, [(0, Some(0)), (1, Some(1)), (2, Some(2))]);
        port.transmit(&mut burst);
        assert!(burst.is_empty());
        for n in 0..3u8 {
            assert_eq!(host.receive().unwrap().bytes(), [n; 60]);
        }
        assert!(host.receive().is_none());
        assert_eq!(host.free_buffers(), 16);
    }

    #[test]
    fn what_a_full_queue_does_not_take_stays_in_order() {
        let (mut port, host) = pair(small());
        let mut burst = Burst::new();
        for n in 0..6u8 {
            let mut frame = port.originate(60).unwrap();
            frame.bytes_mut()[0] = n;
            burst.push(frame);
        }
        port.transmit(&mut burst);
        assert_eq!(burst.iter().map(|f| f.bytes()[0]).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(port.refused_frames(), 2);
        assert_eq!(host.receive().unwrap().bytes()[0], 0);
        port.transmit(&mut burst);
        assert_eq!(burst.len(), 1);
        host.refuse_transmit(true);
        while host.receive().is_some() {}
        port.transmit(&mut burst);
        assert_eq!(burst.len(), 1, "the link refuses although its queue is empty");
        host.refuse_transmit(false);
        port.transmit(&mut burst);
        assert!(burst.is_empty());
        assert_eq!(host.receive().unwrap().bytes()[0], 5);
    }

    #[test]
    fn limits_are_told_and_cost_no_buffer() {
        let (mut port, host) = pair(small());
        assert_eq!(host.send(&[0; 101]), Err(SendError::TooLong));
        assert!(port.originate(101).is_none());
        for _ in 0..4 {
            host.send(&[0; 100]).unwrap();
        }
        assert_eq!(host.send(&[0; 100]), Err(SendError::Full));
        assert_eq!(host.free_buffers(), 12);
        let held: Vec<_> = std::iter::from_fn(|| port.originate(1)).collect();
        assert_eq!(held.len(), 12);
        assert_eq!(host.send(&[0; 1]), Err(SendError::Full));
        drop(held);
        assert_eq!(host.free_buffers(), 12);
    }

    #[test]
    fn an_originated_frame_is_zeroed_although_its_buffer_was_used() {
        let (mut port, host) = pair(Options { pool_frames: 1, ..small() });
        host.send(&[0xff; 100]).unwrap();
        let mut burst = Burst::new();
        port.receive(&mut burst);
        port.release(&mut burst);
        assert_eq!(port.originate(100).unwrap().bytes(), [0; 100]);
    }

    #[test]
    fn the_port_is_exhausted_when_the_host_is_gone_and_all_is_read() {
        let (mut port, host) = pair(small());
        host.send(&[1; 60]).unwrap();
        assert!(!port.is_exhausted());
        drop(host);
        assert!(!port.is_exhausted());
        let mut burst = Burst::new();
        port.receive(&mut burst);
        assert_eq!(burst.len(), 1);
        assert!(port.is_exhausted());
    }

    #[test]
    fn nothing_is_lost_or_reordered_between_threads() {
        const FRAMES: u64 = 200_000;
        let (mut port, host) = pair(Options { max_frame_len: 64, ..Options::default() });
        let gateway = thread::spawn(move || {
            let mut burst = Burst::new();
            while !(port.is_exhausted() && burst.is_empty()) {
                port.receive(&mut burst);
                port.transmit(&mut burst);
                thread::yield_now();
            }
        });
        let (mut sent, mut received) = (0u64, 0u64);
        while received < FRAMES {
            while sent < FRAMES && host.send(&sent.to_be_bytes()).is_ok() {
                sent += 1;
            }
            while let Some(frame) = host.receive() {
                assert_eq!(frame.bytes(), received.to_be_bytes());
                received += 1;
            }
            thread::yield_now();
        }
        assert_eq!(host.free_buffers(), Options::default().pool_frames);
        drop(host);
        gateway.join().unwrap();
    }
}
