//! Frames that go through the wire all the time, each with a number of its own, and when they arrived.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bulkhead_tests::Rig;
use bulkhead_tests::frames::{Mac, VLAN, ethernet, udp4};
use bulkhead_tests::raw::RawPort;

use super::supervised::Supervised;

/// How often each kind of probe is sent.
const INTERVAL: Duration = Duration::from_millis(1);

/// An EtherType for experiments, which no rule names.
const EXPERIMENT: u16 = 0x88b5;

/// What marks a probe of ours.
const MARK: &[u8; 4] = b"prob";

/// What each kind of probe is, in the order in which they are sent.
const KINDS: [Kind; 4] = [Kind::Permitted, Kind::Service, Kind::EtherType, Kind::Direction];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// What a rule permits.
    Permitted,
    /// A service that none does.
    Service,
    /// A frame that is no IP.
    EtherType,
    /// A service that is permitted in the other direction only.
    Direction,
}

/// How long a probe may be on its way to a port, on a busy machine.
const ON_ITS_WAY: Duration = Duration::from_millis(20);

/// A probe: when it was sent and when it arrived.
#[derive(Clone, Copy)]
struct Probe {
    kind: Kind,
    sent: Instant,
    arrived: Option<Instant>,
}

#[derive(Default)]
struct Book {
    probes: Vec<Probe>,
    twice: u64,
}

/// Threads that send and receive until they are told to stop.
pub(super) struct Probes {
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What came of all probes.
pub(super) struct Seen {
    pub(super) sent: u64,
    pub(super) permitted: u64,
    pub(super) forbidden: u64,
    pub(super) twice: u64,
}

impl Probes {
    pub(super) fn start(rig: &Rig) -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (inside, outside) = (rig.inside(0), rig.outside(0));
        let mut threads = Vec::new();
        for host in [inside, outside] {
            let port = RawPort::open(host);
            let (book, stop) = (Arc::clone(&book), Arc::clone(&stop));
            threads.push(thread::spawn(move || receive(&port, &book, &stop)));
        }
        let ports = [RawPort::open(outside), RawPort::open(inside)];
        let (addresses, macs) = ([outside.v4, inside.v4], [outside.mac, inside.mac]);
        let frame = move |kind: Kind, number: u64| {
            let payload = [&MARK[..], &number.to_be_bytes()].concat();
            let udp = |from: usize, to: usize, service: u16| {
                let packet = udp4((addresses[from], 20_000), (addresses[to], service), &payload);
                ethernet(macs[to], macs[from], &[], 0x0800, &packet)
            };
            match kind {
                Kind::Permitted => udp(0, 1, 53),
                Kind::Service => udp(0, 1, 54),
                Kind::EtherType => ethernet(macs[1], macs[0], &[], EXPERIMENT, &payload),
                Kind::Direction => udp(1, 0, 57),
            }
        };
        let (in_book, until) = (Arc::clone(&book), Arc::clone(&stop));
        threads.push(thread::spawn(move || {
            while !until.load(Relaxed) {
                for kind in KINDS {
                    let number = {
                        let mut book = lock(&in_book);
                        book.probes.push(Probe { kind, sent: Instant::now(), arrived: None });
                        book.probes.len() as u64 - 1
                    };
                    let port = &ports[usize::from(kind == Kind::Direction)];
                    // While a port is down its other end cannot send either.
                    let _ = port.try_send(&frame(kind, number));
                }
                thread::sleep(INTERVAL);
            }
        }));
        Self { book, stop, threads }
    }

    /// Waits until a permitted probe that was sent after `since` has arrived. Returns when it did.
    pub(super) fn wait_for_permitted(
        &self,
        since: Instant,
        limit: Duration,
        gateway: &Supervised<'_>,
    ) -> Instant {
        let begun = Instant::now();
        loop {
            let found = lock(&self.book).since(since).find_map(|probe| {
                (probe.kind == Kind::Permitted).then_some(probe.arrived).flatten()
            });
            if let Some(at) = found {
                return at;
            }
            assert!(
                begun.elapsed() < limit,
                "no permitted probe arrives within {limit:?}:\n{}",
                gateway.log()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The longest time between two arrivals of permitted probes one after the other, the last of them
    /// not before `begun` and not after `end`.
    pub(super) fn longest_gap(&self, begun: Instant, end: Instant) -> Duration {
        let book = lock(&self.book);
        let earlier = begun.checked_sub(Duration::from_millis(200)).unwrap_or(begun);
        let mut arrivals: Vec<Instant> = (book.since(earlier))
            .filter(|probe| probe.kind == Kind::Permitted)
            .filter_map(|probe| probe.arrived)
            .filter(|arrived| *arrived <= end)
            .collect();
        arrivals.sort();
        let gaps = arrivals.windows(2).filter(|pair| pair[1] >= begun);
        gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// When the first forbidden probe that was sent after `since` arrived.
    pub(super) fn first_forbidden(&self, since: Instant) -> Option<Instant> {
        let book = lock(&self.book);
        let forbidden = book.since(since).filter(|probe| probe.kind != Kind::Permitted);
        forbidden.filter_map(|probe| probe.arrived).min()
    }

    /// Forbidden probes that were sent after `since` and arrived.
    pub(super) fn forbidden_sent_since(&self, since: Instant) -> usize {
        let book = lock(&self.book);
        let forbidden = book.since(since).filter(|probe| probe.kind != Kind::Permitted);
        forbidden.filter(|probe| probe.arrived.is_some()).count()
    }

    /// Those of them that were sent before `until`, but for what may have been on its way still.
    pub(super) fn forbidden_sent_between(&self, since: Instant, until: Instant) -> usize {
        let book = lock(&self.book);
        let sent = book.since(since).take_while(|probe| probe.sent + ON_ITS_WAY < until);
        sent.filter(|probe| probe.kind != Kind::Permitted && probe.arrived.is_some()).count()
    }

    /// Ends the probes.
    pub(super) fn stop(self) -> Seen {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("a thread of the probes");
        }
        let book = lock(&self.book);
        let arrived = |permitted: bool| {
            let of = book.probes.iter().filter(|p| (p.kind == Kind::Permitted) == permitted);
            of.filter(|probe| probe.arrived.is_some()).count() as u64
        };
        Seen {
            sent: book.probes.len() as u64,
            permitted: arrived(true),
            forbidden: arrived(false),
            twice: book.twice,
        }
    }
}

impl Book {
    /// The probes that were sent after an instant.
    fn since(&self, since: Instant) -> impl Iterator<Item = &Probe> {
        let first = self.probes.partition_point(|probe| probe.sent < since);
        self.probes[first..].iter()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} probes: {} permitted and {} forbidden ones arrived, {} twice",
            self.sent, self.permitted, self.forbidden, self.twice
        )
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().expect("no thread of the probes panics")
}

fn receive(port: &RawPort, book: &Mutex<Book>, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let Some(frame) = port.receive(Duration::from_millis(20)) else { continue };
        let arrived = Instant::now();
        let Some(number) = number_of(&frame) else { continue };
        let mut book = lock(book);
        let Some(probe) = book.probes.get_mut(number) else { continue };
        if probe.arrived.replace(arrived).is_some() {
            book.twice += 1;
        }
    }
}

/// The number of a probe, which follows its mark where its payload begins; padding may follow. An ICMP
/// error that quotes a probe is none.
fn number_of(frame: &[u8]) -> Option<usize> {
    let begin = match frame.get(12..14)? {
        [0x08, 0x00] if frame.get(23) == Some(&17) => 42,
        ether_type if ether_type == EXPERIMENT.to_be_bytes() => 14,
        _ => return None,
    };
    let number = frame.get(begin..begin + 12)?.strip_prefix(MARK)?.try_into().ok()?;
    usize::try_from(u64::from_be_bytes(number)).ok()
}

/// Asserts that frames of every kind cross the wire as they were sent.
pub(super) fn assert_transparent(rig: &Rig) {
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let (from, to) = (RawPort::open(outside), RawPort::open(inside));
    let control = |last: u8| Mac([0x01, 0x80, 0xc2, 0, 0, last]);
    let frames = [
        ethernet(inside.mac, outside.mac, &[(VLAN, 30)], EXPERIMENT, b"a tag"),
        ethernet(control(0x00), outside.mac, &[], 0x0026, &[0x42; 38]),
        ethernet(control(0x02), outside.mac, &[], 0x8809, b"slow protocols"),
        ethernet(control(0x0e), outside.mac, &[], 0x88cc, b"who is there"),
        ethernet(Mac([0xff; 6]), outside.mac, &[], 0x0806, &[1; 28]),
        ethernet(Mac([0x33, 0x33, 0, 0, 0, 1]), outside.mac, &[], 0x86dd, &[0x60; 40]),
        ethernet(inside.mac, outside.mac, &[], EXPERIMENT, &[0x5a; 1500]),
    ];
    for frame in frames {
        from.send(&frame);
        assert!(to.sees(&frame, Duration::from_secs(1)), "{:02x?}", &frame[..20]);
    }
}

/// Durations by what happened and what was measured.
pub(super) struct Table {
    title: String,
    rows: BTreeMap<(&'static str, &'static str), Vec<Duration>>,
}

impl Table {
    pub(super) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, event: &'static str, what: &'static str, took: Duration) {
        self.rows.entry((event, what)).or_default().push(took);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, in ms", self.title)?;
        writeln!(f, "| event | | rounds | p50 | p99 | longest |\n|---|---|---|---|---|---|")?;
        for ((event, what), took) in &self.rows {
            let mut sorted = took.clone();
            sorted.sort();
            let at = |percent: usize| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)];
            let ms = |took: Duration| took.as_secs_f64() * 1e3;
            writeln!(
                f,
                "| {event} | {what} | {} | {:.1} | {:.1} | {:.1} |",
                sorted.len(),
                ms(at(50)),
                ms(at(99)),
                ms(at(100))
            )?;
        }
        Ok(())
    }
}
