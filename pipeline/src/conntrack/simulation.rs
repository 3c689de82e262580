//! Two honest TCP endpoints with the gateway's state machine between them, over a network that
//! loses, reorders, delays and duplicates on both sides of it. The gateway must admit everything.

use std::collections::{BTreeMap, BinaryHeap};

use proptest::prelude::*;

use super::*;

/// xorshift64*: the simulation repeats from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Copy, Debug)]
struct EndpointConfig {
    isn: u32,
    to_send: u64,
    segment: u64,
    buffer: u64,
    scale: Option<u8>,
    /// Data in the SYN (RFC 7413).
    syn_data: u16,
}

/// How the network treats segments, in percent.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: u64,
    duplicates: u64,
    longest_delay: u64,
}

/// A plain endpoint: go-back-n, cumulative acknowledgements, a receive buffer that its application
/// empties in bursts, keep-alives, window probes. Offsets count from the SYN, which is byte 0.
struct Endpoint {
    config: EndpointConfig,
    is_initiator: bool,
    peer_isn: Option<u32>,
    acked: u64,
    next: u64,
    highest: u64,
    right_edge: u64,
    received: u64,
    out_of_order: BTreeMap<u64, u64>,
    unread: u64,
    peer_fin: Option<u64>,
    peer_scale: Option<u8>,
    owes_ack: bool,
    idle: u64,
}

impl Endpoint {
    fn new(config: EndpointConfig, is_initiator: bool) -> Self {
        Self {
            config,
            is_initiator,
            peer_isn: None,
            acked: 0,
            next: 0,
            highest: 0,
            right_edge: 1,
            received: 0,
            out_of_order: BTreeMap::new(),
            unread: 0,
            peer_fin: None,
            peer_scale: None,
            owes_ack: false,
            idle: 0,
        }
    }

    /// One past the FIN.
    fn last(&self) -> u64 {
        self.config.to_send + 2
    }

    fn is_done(&self) -> bool {
        self.acked == self.last() && self.peer_fin == Some(self.received)
    }

    fn scale(&self) -> u8 {
        if self.peer_scale.is_some() { self.config.scale.unwrap_or(0) } else { 0 }
    }

    /// The window field. What the buffer has room for, never taken back.
    fn window(&self, syn: bool) -> u16 {
        let room = self.config.buffer - self.unread.min(self.config.buffer);
        let shift = if syn { 0 } else { self.scale() };
        (room >> shift).min(65_535) as u16
    }

    fn segment(&self, from: u64, to: u64) -> TcpSegment {
        let syn = from == 0;
        let fin = to == self.last() && to > from;
        let mut flags = 0;
        if syn {
            flags |= flag::SYN;
        }
        if fin {
            flags |= flag::FIN;
        }
        if self.peer_isn.is_some() {
            flags |= flag::ACK;
        }
        // A responder offers the option only if the initiator did.
        let offers = self.is_initiator || self.peer_scale.is_some();
        TcpSegment {
            seq: self.config.isn.wrapping_add(from as u32),
            ack: self.peer_isn.map_or(0, |isn| isn.wrapping_add(self.received as u32)),
            window: self.window(syn),
            flags,
            window_scale: if syn && offers { self.config.scale } else { None },
            payload_len: (to - from - u64::from(syn) - u64::from(fin)) as u16,
        }
    }

    /// What the endpoint sends now.
    fn transmit(&mut self, dice: &mut Dice, out: &mut Vec<TcpSegment>) {
        self.unread -= if dice.chance(30) { dice.below(self.unread + 1) } else { 0 };
        if !self.is_initiator && self.peer_isn.is_none() {
            return;
        }
        self.idle += 1;
        if self.idle > 40 {
            // Retransmission timeout: from the start again.
            self.idle = 0;
            self.next = self.acked;
            if self.acked > 0 && dice.chance(50) {
                // A keep-alive, with or without a byte of garbage.
                let mut probe = self.segment(self.acked, self.acked);
                probe.seq = probe.seq.wrapping_sub(1);
                probe.payload_len = if self.acked > 1 { dice.below(2) as u16 } else { 0 };
                out.push(probe);
            }
            if self.acked > 0 && self.right_edge == self.acked && self.acked < self.last() {
                // A zero-window probe: one byte, or the FIN, beyond the edge.
                self.right_edge += 1;
            }
        }
        let before = out.len();
        for _ in 0..dice.below(5) {
            let handshaken = self.acked > 0;
            let from = self.next;
            let limit = if handshaken { self.right_edge.min(self.last()) } else { 1 };
            if from == 0 {
                let data = if self.is_initiator { u64::from(self.config.syn_data) } else { 0 };
                // The retransmission of a SYN carries no data.
                let data = if self.highest > 0 { 0 } else { data.min(self.config.to_send) };
                self.next = 1;
                self.highest = self.highest.max(1 + data);
                out.push(self.segment(0, 1 + data));
                continue;
            }
            if from >= limit {
                break;
            }
            let to = limit.min(from + 1 + dice.below(self.config.segment));
            self.next = to;
            self.highest = self.highest.max(to);
            out.push(self.segment(from, to));
        }
        if self.owes_ack && out.len() == before && self.peer_isn.is_some() && self.acked > 0 {
            out.push(self.segment(self.next, self.next));
        }
        self.owes_ack &= out.len() == before;
    }

    fn receive(&mut self, segment: &TcpSegment) {
        if segment.flags & flag::SYN != 0 {
            if self.peer_isn.is_none() {
                self.peer_isn = Some(segment.seq);
                self.peer_scale = segment.window_scale.filter(|_| self.config.scale.is_some());
            }
            self.owes_ack = true;
        }
        let Some(isn) = self.peer_isn else { return };
        if segment.flags & flag::SYN != 0 && self.acked > 0 {
            // A SYN in a synchronised state is answered and not looked at (RFC 5961).
            return;
        }
        if segment.flags & flag::ACK != 0 {
            self.receive_ack(segment);
        }
        let advance = segment.seq.wrapping_sub(isn.wrapping_add(self.received as u32)) as i32;
        let start = self.received as i64 + i64::from(advance);
        let len = segment_end(segment).wrapping_sub(segment.seq);
        let end = start + i64::from(len);
        if len == 0 && advance == 0 {
            return;
        }
        self.owes_ack = true;
        let edge = self.received + (self.config.buffer - self.unread.min(self.config.buffer));
        // What is beyond the window is trimmed; the SYN always fits.
        let kept = end.min(edge.max(1) as i64);
        if start < 0 || kept <= start {
            return;
        }
        if segment.flags & flag::FIN != 0 && kept == end {
            self.peer_fin = Some(end as u64);
        }
        let end = kept;
        let longest = self.out_of_order.entry(start as u64).or_default();
        *longest = (*longest).max(end as u64);
        while let Some((&from, &to)) = self.out_of_order.first_key_value() {
            if from > self.received {
                break;
            }
            self.out_of_order.pop_first();
            let new = to.saturating_sub(self.received);
            self.received += new;
            self.unread += new;
        }
    }

    fn receive_ack(&mut self, segment: &TcpSegment) {
        let advance = segment.ack.wrapping_sub(self.config.isn.wrapping_add(self.acked as u32));
        let advance = u64::from(advance);
        if advance > self.highest - self.acked {
            return;
        }
        if advance > 0 {
            self.idle = 0;
        }
        self.acked += advance;
        self.next = self.next.max(self.acked);
        let syn = segment.flags & flag::SYN != 0;
        let shift = match (syn, self.peer_scale, self.config.scale) {
            (false, Some(scale), Some(_)) => scale,
            _ => 0,
        };
        self.right_edge = self.right_edge.max(self.acked + (u64::from(segment.window) << shift));
    }
}

/// A segment under way: due time (negated: the heap is a max heap), a tie-break, and where it is.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay(i64, u64, usize, bool);

struct World {
    ends: [Endpoint; 2],
    weather: Weather,
    dice: Dice,
    heap: BinaryHeap<UnderWay>,
    segments: Vec<(Direction, TcpSegment)>,
    now: i64,
}

impl World {
    fn new(configs: [EndpointConfig; 2], weather: Weather, seed: u64) -> Self {
        let [mut a, mut b] = configs;
        // Small windows and small segments take many round trips.
        a.to_send = a.to_send.min(b.buffer * 200).min(a.segment * 5_000);
        b.to_send = b.to_send.min(a.buffer * 200).min(b.segment * 5_000);
        Self {
            ends: [Endpoint::new(a, true), Endpoint::new(b, false)],
            weather,
            dice: Dice(seed | 1),
            heap: BinaryHeap::new(),
            segments: Vec::new(),
            now: 0,
        }
    }

    fn send(&mut self, segment: usize, past_gateway: bool) {
        let Weather { loss, duplicates, longest_delay } = self.weather;
        let copies =
            if self.dice.chance(loss) { 0 } else { 1 + u64::from(self.dice.chance(duplicates)) };
        for _ in 0..copies {
            let due = self.now + 1 + self.dice.below(longest_delay) as i64;
            let tie = self.dice.roll();
            self.heap.push(UnderWay(-due, tie, segment, past_gateway));
        }
    }

    /// Runs until both ends are done; `gateway` sees every segment and says whether it passes.
    fn run(&mut self, mut gateway: impl FnMut(Direction, &TcpSegment) -> bool) -> bool {
        let mut out = Vec::new();
        while self.now < 200_000 {
            self.now += 1;
            for direction in [Direction::FromInitiator, Direction::FromResponder] {
                self.ends[direction as usize].transmit(&mut self.dice, &mut out);
                for segment in out.drain(..) {
                    self.segments.push((direction, segment));
                    self.send(self.segments.len() - 1, false);
                }
            }
            while self.heap.peek().is_some_and(|next| -next.0 <= self.now) {
                let Some(UnderWay(_, _, at, past_gateway)) = self.heap.pop() else { break };
                let (direction, segment) = self.segments[at];
                if past_gateway {
                    self.ends[direction.opposite() as usize].receive(&segment);
                } else if gateway(direction, &segment) {
                    self.send(at, true);
                }
            }
            if self.ends.iter().all(Endpoint::is_done) {
                return true;
            }
        }
        false
    }
}

fn endpoint() -> impl Strategy<Value = EndpointConfig> {
    let isn = prop_oneof![any::<u32>(), (0_u32..200_000).prop_map(|n| 0_u32.wrapping_sub(n))];
    let buffer = prop_oneof![1_u64..200, 1_000_u64..65_536, 65_536_u64..4_000_000];
    let scale = prop_oneof![Just(None), (0_u8..=14).prop_map(Some)];
    (isn, 0_u64..300_000, 1_u64..9_000, buffer, scale, 0_u16..500).prop_map(
        |(isn, to_send, segment, buffer, scale, syn_data)| {
            // A buffer that its scale rounds down to nothing would never receive.
            let buffer = buffer.max(1 << scale.unwrap_or(0));
            let syn_data = if syn_data < 250 { 0 } else { syn_data };
            EndpointConfig { isn, to_send, segment, buffer, scale, syn_data }
        },
    )
}

fn weather() -> impl Strategy<Value = Weather> {
    (0_u64..20, 0_u64..20, 1_u64..12).prop_map(|(loss, duplicates, longest_delay)| Weather {
        loss,
        duplicates,
        longest_delay,
    })
}

proptest! {
    /// Nothing that an honest pair sends is dropped, whatever the network does to it, and the
    /// connection is seen to end.
    #[test]
    fn honest_connections_lose_nothing(
        ends in [endpoint(), endpoint()], weather in weather(), seed in any::<u64>(),
    ) {
        let mut world = World::new(ends, weather, seed);
        let mut state: Option<Connection> = None;
        let mut trouble = None;
        let done = world.run(|direction, segment| {
            let before = state;
            let judged = match &mut state {
                None => {
                    state = Some(Connection::open(segment));
                    Ok(Outcome::InState)
                }
                Some(state) => state.update(direction, segment),
            };
            if !matches!(judged, Ok(Outcome::InState | Outcome::Tolerated)) {
                trouble.get_or_insert((judged, direction, *segment, before));
            }
            true
        });
        prop_assert_eq!(trouble, None);
        prop_assert!(done, "the simulation itself came to an end");
        prop_assert_eq!(state.map(|state| state.phase()), Some(Phase::TimeWait));
    }

    /// A gateway that starts in the middle of a connection and adopts it loses nothing either.
    #[test]
    fn adopted_connections_lose_nothing(
        ends in [endpoint(), endpoint()], weather in weather(), seed in any::<u64>(),
        started_after in 3_usize..200,
    ) {
        let mut world = World::new(ends, weather, seed);
        let mut state: Option<Connection> = None;
        let mut trouble = None;
        let mut count = 0;
        world.run(|direction, segment| {
            count += 1;
            if count < started_after {
                return true;
            }
            let judged = match &mut state {
                Some(state) => state.update(direction, segment),
                None if is_bare_syn(segment) => Ok(Outcome::InState),
                None => Connection::adopt(segment, direction).map(|adopted| {
                    state = Some(adopted);
                    Outcome::InState
                }),
            };
            // Only a connection that has ended may look like none.
            if !matches!(judged, Ok(Outcome::InState | Outcome::Tolerated)) {
                trouble.get_or_insert((judged, direction, *segment, state));
            }
            true
        });
        prop_assert_eq!(trouble, None);
    }

    /// An outsider who knows addresses and ports, but not the sequence numbers, changes nothing:
    /// neither state nor timeout, and the connection goes on undisturbed.
    #[test]
    fn blind_injections_change_nothing(
        ends in [endpoint(), endpoint()], weather in weather(), seed in any::<u64>(),
    ) {
        let mut world = World::new(ends, weather, seed);
        let mut attacker = Dice(seed.rotate_left(7) | 1);
        let mut state: Option<Connection> = None;
        let mut trouble = None;
        let mut injected = 0_u32;
        world.run(|direction, segment| {
            let judged = match &mut state {
                None => {
                    state = Some(Connection::open(segment));
                    Ok(Outcome::InState)
                }
                Some(state) => state.update(direction, segment),
            };
            if judged.is_err() {
                let honest = ("honest", judged, direction, *segment);
                trouble.get_or_insert((honest, state.unwrap(), state.unwrap()));
            }
            let Some(live) = &mut state else { return true };
            // The four-tuple of an attempt that nobody has answered is anybody's: left out.
            if live.phase() == Phase::SynSent {
                return true;
            }
            for forged_direction in [Direction::FromInitiator, Direction::FromResponder] {
                let forged = forge(&mut attacker, live, forged_direction);
                let before = *live;
                let judged = live.update(forged_direction, &forged);
                injected += 1;
                let passed = matches!(judged, Ok(Outcome::InState));
                // That a SYN was seen is remembered, until its SYN-ACK; it changes nothing else.
                let attempt_or_icmp = before.attempt_or_icmp;
                if (Connection { attempt_or_icmp, ..*live }) != before || passed {
                    let forged = ("forged", judged, forged_direction, forged);
                    trouble.get_or_insert((forged, before, *live));
                    *live = before;
                }
            }
            true
        });
        prop_assert_eq!(trouble, None);
        prop_assert!(injected > 0);
    }
}

/// A segment out of window in sequence, or in acknowledgement, or with nonsense flags, or a SYN.
fn forge(dice: &mut Dice, state: &Connection, direction: Direction) -> TcpSegment {
    let (from, to) = (direction as usize, direction.opposite() as usize);
    let far = |dice: &mut Dice, window: u32| {
        let margin = (2 * window.max(MIN_ACK_SPAN)).min(MAX_WINDOW) + 20_000;
        margin + dice.below(u64::from(u32::MAX - 2 * margin)) as u32
    };
    let mut segment = TcpSegment {
        seq: state.end[from].wrapping_sub(dice.below(1000) as u32),
        ack: state.end[to],
        window: dice.roll() as u16,
        flags: [0x10, 0x11, 0x18, 0x04, 0x14][dice.below(5) as usize],
        window_scale: None,
        payload_len: dice.below(1400) as u16,
    };
    match dice.below(4) {
        0 => {
            segment.flags = [0x00, 0x03, 0x06, 0x29, 0x01, 0x20, 0x08, 0x3f][dice.below(8) as usize]
        }
        1 if segment.flags & flag::RST == 0 => {
            segment.ack = state.end[to].wrapping_add(far(dice, state.window_bytes(from)));
        }
        2 => {
            segment.flags = flag::SYN;
            // A connection that is over may be opened again, by the policy's leave.
            if matches!(state.phase(), Phase::TimeWait | Phase::Closed) {
                segment.flags = 0;
            }
        }
        _ => segment.seq = state.end[from].wrapping_add(far(dice, state.window_bytes(to))),
    }
    segment
}
