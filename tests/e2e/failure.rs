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
    // What the workers told when control had ended, which nobody has read, is counted.
    let unread = gateway.metrics().sum("bulkhead_renewal_records_unread_total", &[]);
    assert!(unread > 0.0, "{unread}");
    // Somebody edits the configuration while it crashes: the one by which a gateway guarded goes on.
    let (child, config) = (gateway.child(), gateway.config());
    gateway.replace_config("[[wire");
    Event::Crash.happen(&mut gateway);
    gateway.wait_for_another(child, PATIENT);
    let judged = gateway.wait_until_judging(PATIENT);
    probes.wait_for_permitted(judged, PATIENT, &gateway);
    assert!(gateway.log().contains("the one by which a gateway guarded last goes on"));
    gateway.replace_config(&config);
    gateway.terminate();
    let seen = probes.stop();
    println!("{table}\n{seen}");
    assert_eq!(seen.forbidden, 0, "forbidden probes arrived");
    assert_eq!(seen.twice, 0, "probes arrived twice");
    assert!(seen.permitted > 100, "{seen}");
}

fn a_wire_that_fails_open_is_bypassed_and_given_back(rig: &Rig, driver: Driver) {
    let found = unusual_ports(rig);
    let probes = Probes::start(rig);
    let mut gateway = Supervised::start(rig, driver, "open", HANG_MS);
    let mut table = Table::new(&format!("{driver:?}, fail = \"open\""));
    probes.wait_for_permitted(Instant::now(), PATIENT, &gateway);
    let mut judges_since = gateway.wait_until_judging(PATIENT);
    for event in Event::ALL {
        for _ in 0..rounds(2, 50) {
            gateway.wait_until_judging(PATIENT);
            probes.wait_for_permitted(Instant::now(), PATIENT, &gateway);
            let child = gateway.child();
            let begun = event.happen(&mut gateway);
            // All the time since the event before: a bypass that comes late is no bypass of this one.
            let leaked = probes.forbidden_sent_between(judges_since, begun);
            assert_eq!(leaked, 0, "before {event:?}: unjudged\n{}", gateway.log());
            gateway.wait_for_another(child, PATIENT);
            // From here on the new gateway judges: what is sent now and forbidden stays out.
            let judged = gateway.wait_until_judging(PATIENT);
            judges_since = judged;
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
    let leaked = probes.forbidden_sent_between(judges_since, Instant::now());
    assert_eq!(leaked, 0, "before the last stop: unjudged\n{}", gateway.log());
    // A second gateway beside one that guards is refused, and opens nothing.
    let judged = gateway.wait_until_judging(PATIENT);
    let (code, said) = gateway.bulkhead_inside(&["run", "--supervise"]);
    assert!(code != 0 && said.contains("another gateway answers"), "{code}: {said}");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(probes.forbidden_sent_since(judged), 0, "beside one that judges\n{said}");
    // What the next gateway reads in the configuration is how it fails, and how the supervisor has it fail.
    let open = gateway.config();
    for config in [open.replace("fail = \"open\"", "fail = \"closed\""), open] {
        let child = gateway.child();
        gateway.replace_config(&config);
        Event::Crash.happen(&mut gateway);
        gateway.wait_for_another(child, PATIENT);
        let judged = gateway.wait_until_judging(PATIENT);
        if config.contains("closed") {
            let child = gateway.child();
            Event::Crash.happen(&mut gateway);
            gateway.wait_for_another(child, PATIENT);
            gateway.wait_until_judging(PATIENT);
            assert_eq!(probes.forbidden_sent_since(judged), 0, "it fails closed now");
        }
    }
    // A renewal that was to close the wire, and fails when the ports are free, opens nothing.
    let open = gateway.config();
    let closed = open.replace("fail = \"open\"", "fail = \"closed\"");
    gateway.replace_config(&closed.replace("iface=out0", "iface=out0,no-such-option=1"));
    let judged = gateway.wait_until_judging(PATIENT);
    gateway.signal(Signal::SIGUSR2);
    gateway.wait_for_log("no gateway judges: a renewal failed", PATIENT);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(probes.forbidden_sent_since(judged), 0, "bypassed\n{}", gateway.log());
    gateway.replace_config(&open);
    gateway.wait_until_judging(PATIENT);
    // A gateway that was told to stop leaves the bypass behind.
    gateway.terminate();
    let stopped = Instant::now();
    std::thread::sleep(Duration::from_millis(100));
    assert!(probes.forbidden_sent_since(stopped) > 0, "cut after the stop\n{}", gateway.log());
    let (code, shown) = gateway.bulkhead_inside(&["bypass", "show"]);
    assert!(code == 0 && shown.contains("w0: fails open, by the kernel; bypassed now"), "{shown}");
    let said = "w0 passes everything unjudged, by the supervisor since 20";
    assert!(shown.contains(said) && shown.contains("told to stop"), "{shown}");
    let (code, shown) = gateway.bulkhead_inside(&["status"]);
    assert!(code == 4 && shown.contains(said), "{shown}");
    let (code, shown) = gateway.bulkhead_inside(&["bypass", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((code, &shown["wires"][0]["bypassed"]), (0, &true.into()), "{shown}");
    assert_eq!(shown["in_force"]["by"], "the supervisor", "{shown}");
    let (code, said) = gateway.bulkhead_inside(&["bypass", "release"]);
    assert_eq!((code, said.trim()), (0, "cut until a gateway runs: w0"));
    assert_eq!(state_of_ports(rig), found, "after the release");
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
    assert_eq!(state_of_ports(rig), found, "in the end");
}

/// Gives the ports an MTU that is not the gateway's, and the host's IPv6. Returns their state.
fn unusual_ports(rig: &Rig) -> String {
    for port in ["in0", "out0"] {
        rig.gateway().ip(&["link", "set", port, "mtu", "1600"]);
        let switch = format!("net.ipv6.conf.{port}.disable_ipv6=0");
        rig.gateway().exec(&["sysctl", "-q", "-w", &switch]);
    }
    state_of_ports(rig)
}

/// What a gateway and a bypass change of ports, and have to leave as they found it.
fn state_of_ports(rig: &Rig) -> String {
    let mut state = String::new();
    for port in ["in0", "out0"] {
        let link = rig.gateway().exec(&["ip", "-o", "link", "show", port]);
        let switch = format!("net.ipv6.conf.{port}.disable_ipv6");
        let no_ipv6 = rig.gateway().exec(&["sysctl", "-n", &switch]);
        let mut words = link.split_whitespace();
        let mtu = words.by_ref().find(|word| *word == "mtu").and_then(|_| words.next());
        let is_up = link.contains(",UP");
        let promiscuous = link.contains("PROMISC");
        state.push_str(&format!(
            "{port}: mtu {mtu:?}, up {is_up}, promiscuous {promiscuous}, IPv6 off {}\n",
            no_ipv6.trim()
        ));
    }
    state
}

fn connections_outlive_a_renewal(rig: &Rig, driver: Driver) {
    let found = unusual_ports(rig);
    let mut gateway = Supervised::start(rig, driver, "closed", HANG_MS);
    gateway.wait_until_judging(PATIENT);
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    let mut stream = connect(rig.outside(0), to).expect("a permitted connection");
    exchange(&mut stream).expect("an exchange over it");
    gateway.assert_confined();
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
    // A new gateway that does not come up leaves the old one where it is: whether it sees that before the old
    // one's control has ended, or afterwards.
    let (child, config) = (gateway.child(), gateway.config());
    for (wrong, said) in [
        (config.replace("out0", "out7"), "the one that runs goes on"),
        (config.replace("127.0.0.1", "192.0.2.1"), "judge on, without control"),
    ] {
        gateway.replace_config(&wrong);
        gateway.signal(Signal::SIGUSR2);
        gateway.wait_for_log(said, PATIENT);
        exchange(&mut stream).expect("an exchange after a renewal that failed");
    }
    gateway.replace_config(&config);
    gateway.wait_for_another(child, PATIENT);
    gateway.wait_until_judging(PATIENT);
    exchange(&mut stream).expect("an exchange over the gateway that came up in the end");
    let child = gateway.child();
    gateway.replace_config("policy = \"policy.yaml\"\n");
    gateway.signal(Signal::SIGUSR2);
    gateway.wait_for_log("there is no wire to guard", PATIENT);
    gateway.wait_for_one(PATIENT);
    exchange(&mut stream).expect("an exchange after a renewal that failed");
    assert_eq!(gateway.child(), child);
    gateway.terminate();
    assert_eq!(state_of_ports(rig), found, "two renewals later");
}
