//! A plain TCP endpoint: handshake, data in order, retransmission from the last acknowledgement,
//! half close, reset. What arrives out of order is not kept: its sender sends it again.
//!
//! Positions count from the SYN, which is at 0; the data follow, and the FIN is last.

use bulkhead_pipeline::frames::tcp_flags::{ACK, FIN, PSH, RST, SYN};

use super::random::Random;

/// After so long without progress an endpoint sends again what is not acknowledged.
const RETRANSMIT_NS: u64 = 200_000_000;
/// So many times, then it gives up.
const MOST_TRIES: u32 = 6;
/// The most segments at once.
const FLIGHT: u64 = 4;

/// A segment, as it goes into a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Segment {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    /// The shift of a window scale option.
    pub(super) scale: Option<u8>,
    pub(super) len: u16,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    is_client: bool,
    isn: u32,
    /// Bytes that it will send.
    total: u64,
    mss: u64,
    /// Its receive buffer, which is always empty.
    buffer: u64,
    scale: Option<u8>,
    peer_isn: Option<u32>,
    peer_scale: Option<u8>,
    peer_window: u64,
    acked: u64,
    next: u64,
    highest: u64,
    received: u64,
    peer_fin: bool,
    timer_ns: u64,
    tries: u32,
    /// Whether it sends data only when its application wakes up, and not with every answer.
    is_slow: bool,
    /// The position at which it resets the connection.
    resets_at: Option<u64>,
    is_dead: bool,
}

impl Endpoint {
    pub(super) fn new(is_client: bool, random: &mut Random) -> Self {
        let scale = random.permille(700).then(|| random.below(8) as u8);
        let total = if random.permille(300) { 0 } else { random.between(1, 6000) };
        Self {
            is_client,
            isn: random.next() as u32,
            total,
            mss: random.between(100, 1400),
            buffer: random.between(4096, 1 << 19),
            scale,
            peer_isn: None,
            peer_scale: None,
            peer_window: 1,
            acked: 0,
            next: 0,
            highest: 0,
            received: 0,
            peer_fin: false,
            timer_ns: 0,
            tries: 0,
            is_slow: random.permille(500),
            resets_at: random.permille(80).then(|| random.between(1, total + 1)),
            is_dead: false,
        }
    }

    /// Whether it has nothing more to say or to hear.
    pub(super) fn is_done(&self) -> bool {
        self.is_dead || (self.acked == self.last() && self.peer_fin)
    }

    /// Whether it ended in good order.
    pub(super) fn is_closed(&self) -> bool {
        !self.is_dead && self.acked == self.last() && self.peer_fin
    }

    /// Whether it has said all that it has to say.
    pub(super) fn is_closing(&self) -> bool {
        self.highest == self.last()
    }

    /// The number of the next byte that it will send, for who pretends to be it.
    pub(super) fn next_seq(&self) -> u32 {
        self.isn.wrapping_add(self.next as u32)
    }

    /// What it sends now of its own accord.
    pub(super) fn poke(&mut self, now_ns: u64, out: &mut Vec<Segment>) {
        if self.is_done() || (!self.is_client && self.peer_isn.is_none()) {
            return;
        }
        if self.next > self.acked && now_ns >= self.timer_ns {
            self.tries += 1;
            self.next = self.acked;
            if self.tries > MOST_TRIES {
                self.is_dead = true;
                return;
            }
        }
        self.send(now_ns, out);
    }

    /// Takes a segment of the peer's and sends what follows from it.
    pub(super) fn receive(&mut self, segment: &Segment, now_ns: u64, out: &mut Vec<Segment>) {
        if self.is_dead {
            return;
        }
        let isn = match (self.peer_isn, segment.flags & SYN) {
            (Some(isn), _) => isn,
            (None, 0) => return,
            (None, _) => {
                self.peer_isn = Some(segment.seq);
                self.peer_scale = segment.scale;
                segment.seq
            }
        };
        let ahead = segment.seq.wrapping_sub(isn.wrapping_add(self.received as u32));
        if segment.flags & RST != 0 {
            self.is_dead |= ahead == 0;
            return;
        }
        if segment.flags & SYN == 0 || self.acked == 0 {
            self.take_ack(segment);
        }
        let control = u64::from(segment.flags & SYN != 0) + u64::from(segment.flags & FIN != 0);
        let takes = u64::from(segment.len) + control;
        let fits = ahead == 0 && !self.peer_fin;
        if fits {
            self.received += takes;
            self.peer_fin = segment.flags & FIN != 0;
        }
        let before = out.len();
        if !self.is_slow || self.next == 0 {
            self.send(now_ns, out);
        }
        if takes > 0 && out.len() == before {
            // Until its own SYN is acknowledged, an endpoint repeats it.
            let (from, to) = if self.acked == 0 { (0, 1) } else { (self.next, self.next) };
            out.push(self.segment(from, to));
        }
    }

    fn take_ack(&mut self, segment: &Segment) {
        if segment.flags & ACK == 0 {
            return;
        }
        let advance = u64::from(segment.ack.wrapping_sub(self.isn.wrapping_add(self.acked as u32)));
        if advance <= self.highest - self.acked {
            self.tries = if advance > 0 { 0 } else { self.tries };
            self.acked += advance;
            self.next = self.next.max(self.acked);
        }
        let is_scaled = segment.flags & SYN == 0 && self.scale.is_some();
        let shift = self.peer_scale.filter(|_| is_scaled).unwrap_or(0);
        self.peer_window = u64::from(segment.window) << shift;
    }

    /// Sends what the peer has room for.
    fn send(&mut self, now_ns: u64, out: &mut Vec<Segment>) {
        let room = self.peer_window.min(FLIGHT * self.mss);
        let limit = if self.acked == 0 { 1 } else { self.last().min(self.acked + room) };
        while self.next < limit {
            if self.resets_at.is_some_and(|at| self.next >= at) {
                let seq = self.next_seq();
                out.push(Segment { flags: RST | ACK, seq, ..self.segment(self.next, self.next) });
                self.is_dead = true;
                return;
            }
            let from = self.next;
            let to = if from == 0 { 1 } else { limit.min(from + self.mss) };
            out.push(self.segment(from, to));
            self.next = to;
            self.highest = self.highest.max(to);
            self.timer_ns = now_ns + (RETRANSMIT_NS << self.tries);
        }
    }

    fn last(&self) -> u64 {
        self.total + 2
    }

    fn segment(&self, from: u64, to: u64) -> Segment {
        let is_syn = from == 0 && to > 0;
        let has_fin = to == self.last() && to > from;
        let mut flags = 0;
        flags |= if is_syn { SYN } else { 0 };
        flags |= if has_fin { FIN } else { 0 };
        flags |= if self.peer_isn.is_some() { ACK } else { 0 };
        let len = to - from - u64::from(is_syn) - u64::from(has_fin);
        flags |= if len > 0 { PSH } else { 0 };
        let offers = self.is_client || self.peer_scale.is_some();
        let is_scaled = !is_syn && self.peer_scale.is_some();
        let shift = self.scale.filter(|_| is_scaled).unwrap_or(0);
        Segment {
            flags,
            seq: self.isn.wrapping_add(from as u32),
            ack: self.peer_isn.map_or(0, |isn| isn.wrapping_add(self.received as u32)),
            window: (self.buffer >> shift).min(65_535) as u16,
            scale: self.scale.filter(|_| is_syn && offers),
            len: len as u16,
        }
    }
}
