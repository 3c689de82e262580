//! What passes while the gateway starts, crashes, hangs, stops and is renewed: probes go all the time,
//! permitted and forbidden ones, from both sides.
//!
//! On a wire that fails closed no forbidden probe may ever arrive; on one that fails open, none while a
//! gateway judges; and none twice on either. The table that these tests print is what
//! `bench/results/failure.md` records.

mod probes;
mod supervised;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, connect, exchange};
use bulkhead_tests::{Driver, Rig, is_full};
use nix::sys::signal::Signal;

use crate::over_both_drivers;
use probes::{Probes, Table};
use supervised::Supervised;

over_both_drivers!(
    nothing_passes_a_wire_that_fails_closed,
    a_wire_that_fails_open_is_bypassed_and_given_back,
    connections_outlive_a_renewal,
);

/// What happens to a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// SIGKILL.
    Crash,
    /// One worker stands still, everything else goes on.
    WorkerHangs,
    /// SIGSTOP.
    ProcessHangs,
    /// SIGTERM, and a new start.
    StopAndStart,
    /// Another gateway takes over.
    Renewal,
}

impl Event {
    const ALL: [Self; 5] =
        [Self::Crash, Self::WorkerHangs, Self::ProcessHangs, Self::StopAndStart, Self::Renewal];

    fn label(self) -> &'static str {
        match self {
            Self::Crash => "crash (SIGKILL)",
            Self::WorkerHangs => "hang of a worker",
            Self::ProcessHangs => "hang of the process",
            Self::StopAndStart => "stop and start",
            Self::Renewal => "renewal",
        }
    }

    /// Makes it happen. Returns when it began.
    fn happen(self, gateway: &mut Supervised<'_>) -> Instant {
        let begun = Instant::now();
        match self {
            Self::Crash => gateway.signal_child(Signal::SIGKILL),
            Self::WorkerHangs => gateway.stop_worker(),
            Self::ProcessHangs => gateway.signal_child(Signal::SIGSTOP),
            Self::StopAndStart => gateway.stop_and_start(),
            Self::Renewal => gateway.signal(Signal::SIGUSR2),
        }
        begun
    }
}

/// How long a gateway may take to judge again, on a busy machine.
const PATIENT: Duration = Duration::from_secs(30);

/// Milliseconds after which something hangs, in these tests.
const HANG_MS: u32 = 800;

fn rounds(in_ci: usize, full: usize) -> usize {
    if is_full() { full } else { in_ci }
}

fn nothing_passes_a_wire_that_fails_closed(rig: &Rig, driver: Driver) {
    let probes = Probes::start(rig);
    let mut gateway = Supervised::start(rig, driver, "closed", HANG_MS);
    let mut table = Table::new(&format!("{driver:?}, fail = \"closed\""));
    probes.wait_for_permitted(Instant::now(), PATIENT, &gateway);
    for event in Event::ALL {
        for _ in 0..rounds(2, 50) {
            gateway.wait_until_judging(PATIENT);
            let child = gateway.child();
            let begun = event.happen(&mut gateway);
            gateway.wait_for_another(child, PATIENT);
            let again = probes.wait_for_permitted(Instant::now(), PATIENT, &gateway);
            table.add(event.label(), "traffic stops", probes.longest_gap(begun, again));
        }
    }
    gateway.terminate();
    let seen = probes.stop();
    println!("{table}\n{seen}");
    assert_eq!(seen.forbidden, 0, "forbidden probes arrived");
    assert_eq!(seen.twice, 0, "probes arrived twice");
    assert!(seen.permitted > 100, "{seen}");
}

fn a_wire_that_fails_open_is_bypassed_and_given_back(rig: &Rig, driver: Driver) {
    let probes = Probes::start(rig);
    let mut gateway = Supervised::start(rig, driver, "open", HANG_MS);
    let mut table = Table::new(&format!("{driver:?}, fail = \"open\""));
    probes.wait_for_permitted(Instant::now(), PATIENT, &gateway);
    for event in Event::ALL {
        for _ in 0..rounds(2, 50) {
            gateway.wait_until_judging(PATIENT);
            probes.wait_for_permitted(Instant::now(), PATIENT, &gateway);
            let child = gateway.child();
            let begun = event.happen(&mut gateway);
            gateway.wait_for_another(child, PATIENT);
            // From here on the new gateway judges: what is sent now and forbidden stays out.
            let judged = gateway.wait_until_judging(PATIENT);
            let again = probes.wait_for_permitted(judged, PATIENT, &gateway);
            std::thread::sleep(Duration::from_millis(20));
            let leaked = probes.forbidden_sent_since(judged);
            assert_eq!(
                leaked,
                0,
                "{event:?}: unjudged by a gateway that judges\n{}",
                gateway.log()
            );
            match (event, probes.first_forbidden(begun)) {
                (Event::Renewal, None) => {
                    table.add(event.label(), "traffic stops", probes.longest_gap(begun, again));
                }
                (Event::Renewal, Some(_)) => panic!("unjudged during a renewal\n{}", gateway.log()),
                (_, Some(first)) => {
                    table.add(event.label(), "to the bypass", first.duration_since(begun));
                    table.add(event.label(), "traffic stops", probes.longest_gap(begun, again));
                }
                (_, None) => panic!("{event:?}: never bypassed\n{}", gateway.log()),
            }
        }
    }
    // A gateway that was told to stop leaves the bypass behind.
    gateway.terminate();
    let stopped = Instant::now();
    std::thread::sleep(Duration::from_millis(100));
    assert!(probes.forbidden_sent_since(stopped) > 0, "cut after the stop\n{}", gateway.log());
    let (code, shown) = gateway.bulkhead_inside(&["bypass", "show"]);
    assert!(code == 0 && shown.contains("w0: fails open, by the kernel; bypassed now"), "{shown}");
    let (code, said) = gateway.bulkhead_inside(&["bypass", "release"]);
    assert_eq!((code, said.trim()), (0, "cut until a gateway runs: w0"));
    let released = Instant::now();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(probes.forbidden_sent_since(released), 0, "not cut after the release");
    // What bridges and switches keep to themselves crosses the bypass too, tags and all.
    let (code, said) = gateway.bulkhead_inside(&["bypass", "engage"]);
    assert_eq!((code, said.trim()), (0, "passes unjudged: w0"));
    probes::assert_transparent(rig);
    let (code, said) = gateway.bulkhead_inside(&["bypass", "release"]);
    assert_eq!(code, 0, "{said}");
    let seen = probes.stop();
    println!("{table}\n{seen}");
    assert_eq!(seen.twice, 0, "probes arrived twice");
    let hooks = rig.gateway().exec(&["tc", "qdisc", "show"]);
    assert!(!hooks.contains("clsact"), "{hooks}");
}

fn connections_outlive_a_renewal(rig: &Rig, driver: Driver) {
    let mut gateway = Supervised::start(rig, driver, "closed", HANG_MS);
    gateway.wait_until_judging(PATIENT);
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    let mut stream = connect(rig.outside(0), to).expect("a permitted connection");
    exchange(&mut stream).expect("an exchange over it");
    for _ in 0..2 {
        let child = gateway.child();
        let (code, said) = gateway.bulkhead_inside(&["restart"]);
        assert_eq!(code, 0, "{said}\n{}", gateway.log());
        assert_ne!(gateway.child(), child, "{said}");
        exchange(&mut stream).expect("an exchange over the new gateway");
    }
    let metrics = gateway.metrics();
    assert_eq!(metrics.count("bulkhead_restarts_total", &[("reason", "update")]), 2);
    assert!(metrics.sum("bulkhead_update_gap_seconds", &[]) > 0.0);
    // A new gateway that does not come up leaves the old one where it is.
    let child = gateway.child();
    gateway.replace_config("policy = \"policy.yaml\"\n");
    gateway.signal(Signal::SIGUSR2);
    gateway.wait_for_log("the new gateway was given up, the one that runs goes on", PATIENT);
    exchange(&mut stream).expect("an exchange after a renewal that failed");
    assert_eq!(gateway.child(), child);
    gateway.terminate();
}
