//! What one source of connections may take, so that the others still have theirs: connections and
//! requests at a time, and requests a second.
//!
//! Requests are paid from a bucket that fills by [`RATE`] a second up to [`BURST`]. A page takes some
//! thirty at its start and a few a minute then, so there is room for many people behind one address. What
//! goes beyond is refused before anything is looked up.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Connections at a time; and of loopback, where many come through one tunnel or proxy.
const MAX_CONNECTIONS: usize = 64;
const MAX_OVER_LOOPBACK: usize = 256;

/// Requests that are worked on at a time.
const MAX_ASKING: usize = 32;

/// Requests a second, and at once after a pause.
const RATE: f64 = 200.0;
const BURST: f64 = 2000.0;

/// What a new connection costs, in requests: TLS has keys to agree on.
const CONNECTION: f64 = 4.0;

/// Sources that are told apart; beyond them all others share one bucket until one is forgotten.
const MAX_SOURCES: usize = 4096;

/// Where a host may come from: it has a whole network of IPv6 addresses.
pub fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(source) => source.into(),
        IpAddr::V6(source) => Ipv6Addr::from_bits(source.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// All sources that take something.
#[derive(Debug, Default)]
pub struct Sources(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<IpAddr, Source>,
    others: Option<Source>,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    connections: usize,
    asking: usize,
    tokens: f64,
    at: Instant,
}

/// A request that is worked on, for as long as this lives.
#[derive(Debug)]
pub struct Asking<'c>(&'c Connection);

/// A connection, for as long as this lives.
#[derive(Debug)]
pub struct Connection {
    sources: Arc<Sources>,
    source: IpAddr,
    /// Whether its source is told apart.
    is_known: bool,
}

impl Sources {
    /// One more connection from `address`, unless it has as many as one may, or asks too often.
    pub fn connect(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Connection> {
        let source = network(address);
        let mut state = self.state();
        let is_known = state.has_room_for(source, now);
        let taken = state.of(source, is_known, now);
        let most = if source.is_loopback() { MAX_OVER_LOOPBACK } else { MAX_CONNECTIONS };
        if taken.connections >= most || !taken.pay(CONNECTION, now) {
            return None;
        }
        taken.connections += 1;
        Some(Connection { sources: Arc::clone(self), source, is_known })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Whether one more request may be looked at: whether its source does not ask too often.
    pub fn may_ask(&self, now: Instant) -> bool {
        let mut state = self.sources.state();
        state.of(self.source, self.is_known, now).pay(1.0, now)
    }

    /// One more request that is worked on, unless its source has as many as one may.
    pub fn ask(&self) -> Option<Asking<'_>> {
        let mut state = self.sources.state();
        let taken = state.of(self.source, self.is_known, Instant::now());
        if taken.asking >= MAX_ASKING {
            return None;
        }
        taken.asking += 1;
        Some(Asking(self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.sources.state();
        let now = Instant::now();
        let taken = state.of(self.source, self.is_known, now);
        taken.connections = taken.connections.saturating_sub(1);
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let Connection { sources, source, is_known } = self.0;
        let mut state = sources.state();
        let taken = state.of(*source, *is_known, Instant::now());
        taken.asking = taken.asking.saturating_sub(1);
    }
}

impl State {
    /// Whether `source` is told apart, or can be from now on.
    fn has_room_for(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.known.len() < MAX_SOURCES || self.known.contains_key(&source) {
            return true;
        }
        // Who has nothing open and a full bucket is as good as new.
        self.known.retain(|_, source| source.connections > 0 || source.filled(now) < BURST);
        self.known.len() < MAX_SOURCES
    }

    fn of(&mut self, source: IpAddr, is_known: bool, now: Instant) -> &mut Source {
        let new = Source { connections: 0, asking: 0, tokens: BURST, at: now };
        match is_known {
            true => self.known.entry(source).or_insert(new),
            false => self.others.get_or_insert(new),
        }
    }
}

impl Source {
    fn filled(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + passed * RATE).min(BURST)
    }

    fn pay(&mut self, cost: f64, now: Instant) -> bool {
        self.tokens = self.filled(now);
        self.at = now;
        let is_enough = self.tokens >= cost;
        if is_enough {
            self.tokens -= cost;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn one_source_has_so_many_connections() {
        let (sources, now) = (Arc::new(Sources::default()), Instant::now());
        let mut all: Vec<_> =
            (0..MAX_CONNECTIONS).map(|_| sources.connect(address(1), now)).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(sources.connect(address(1), now).is_none());
        assert!(sources.connect(address(2), now).is_some(), "another has its own");
        all.pop();
        assert!(sources.connect(address(1), now).is_some());
        let tunnel = IpAddr::from([127, 0, 0, 1]);
        let many: Vec<_> = (0..500).map_while(|_| sources.connect(tunnel, now)).collect();
        assert_eq!(many.len(), MAX_OVER_LOOPBACK, "many people, who come one way");
    }

    #[test]
    fn who_asks_too_often_waits_and_nobody_else_does() {
        let (sources, mut now) = (Arc::new(Sources::default()), Instant::now());
        let host = |text: &str| text.parse().unwrap_or_else(|error| panic!("{error}"));
        let connect = |text| sources.connect(host(text), now);
        let flooder = connect("2001:db8::1").unwrap_or_else(|| panic!("the first"));
        let asked = (0..10 * BURST as u32).filter(|_| flooder.may_ask(now)).count();
        assert_eq!(asked, (BURST - CONNECTION) as usize);
        assert!(connect("2001:db8::2").is_none(), "another address of the same network");
        let other = connect("2001:db8:0:1::1").unwrap_or_else(|| panic!("another network"));
        assert!(other.may_ask(now));
        now += Duration::from_secs(1);
        assert_eq!((0..10_000).filter(|_| flooder.may_ask(now)).count(), RATE as usize);
        let many: Vec<_> = (0..100).map_while(|_| other.ask()).collect();
        assert_eq!(many.len(), MAX_ASKING, "at a time");
        drop(many);
        assert!(other.ask().is_some());
    }

    #[test]
    fn there_is_room_for_so_many_sources_and_those_that_rest_are_forgotten() {
        let (sources, mut now) = (Arc::new(Sources::default()), Instant::now());
        let room = MAX_SOURCES as u32;
        for number in 0..room {
            assert!(sources.connect(address(number), now).is_some());
        }
        let beyond: Vec<_> = (room..).map_while(|at| sources.connect(address(at), now)).collect();
        assert_eq!(beyond.len(), MAX_CONNECTIONS, "all others are as one");
        assert_eq!(sources.state().known.len(), MAX_SOURCES);
        now += Duration::from_secs(1);
        let open = sources.connect(address(3), now);
        assert!(sources.connect(address(room), now).is_some(), "the others have filled up");
        assert_eq!(sources.state().known.len(), 2, "who has something open is not forgotten");
        drop((open, beyond));
        let state = sources.state();
        assert!(state.known.values().chain(&state.others).all(|source| source.connections == 0));
    }
}
