//! The whole way from watching to enforcing, by the commands that an operator types: observe, stage,
//! tally, lockdown refused and accepted, a grant that ends, a quarantine, a rollback, and an audit log
//! in which a forgery is found.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, Outcome, connect, exchange, try_tcp};
use bulkhead_tests::frames::{ethernet, udp4};
use bulkhead_tests::raw::RawPort;
use bulkhead_tests::{Driver, Gateway, Rig, Settings};

use crate::over_both_drivers;

over_both_drivers!(an_operator_watches_stages_locks_down_and_goes_back);

/// What a plant begins with: nobody has written a rule yet.
const NOTHING: &str = "version: 1\ndefault: deny\n";

/// An address of nobody, from which the intruder sends.
const INTRUDER: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 66);

fn permits(port: u16) -> String {
    format!(
        "version: 1\ndevices:\n  plc: {{ip: [10.77.1.1]}}\ngroups:\n  hmi: [10.77.2.1]\nrules:\n  - \
         {{name: work, from: hmi, to: plc, service: tcp/{port}, action: allow}}\n"
    )
}

/// The gateway, and the operator's shell in its folder.
struct Operator<'a>(Gateway<'a>);

impl Operator<'_> {
    /// A command that does what it is told.
    fn does(&self, args: &[&str]) -> String {
        let (code, said) = self.types(args);
        assert_eq!(code, 0, "bulkhead {args:?}: {said}");
        said
    }

    /// A command that is refused.
    fn is_refused(&self, args: &[&str]) -> String {
        let (code, said) = self.types(args);
        assert_eq!(code, 1, "bulkhead {args:?}: {said}");
        said
    }

    fn types(&self, args: &[&str]) -> (i32, String) {
        self.0.bulkhead(&[args, &["--config", "gateway.toml"]].concat())
    }

    fn writes(&self, file: &str, text: &str) {
        let path = self.0.folder().join(file);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Waits until the status of what is staged says so, while the plant works on.
    fn sees_staged(&self, session: &mut TcpStream, says: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            exchange(session).expect("the session goes on");
            let (_, said) = self.types(&["stage", "--status"]);
            if said.contains(says) {
                return said;
            }
            assert!(Instant::now() < deadline, "never said `{says}`: {said}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Whether a datagram of the intruder reaches the PLC.
fn intrudes(rig: &Rig, number: u16) -> bool {
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let (from, to) = (RawPort::open(outside), RawPort::open(inside));
    let packet = udp4((INTRUDER, 40_000 + number), (inside.v4, 161), b"who are you?");
    let frame = ethernet(inside.mac, outside.mac, &[], 0x0800, &packet);
    from.send(&frame);
    to.sees(&frame, Duration::from_millis(500))
}

fn an_operator_watches_stages_locks_down_and_goes_back(rig: &Rig, driver: Driver) {
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let to = |port| SocketAddr::new(inside.v4.into(), port);
    let _servers = [502, 503, 22].map(|port| Echo::tcp(inside, port));
    let mut settings = Settings::new(driver, NOTHING).observing();
    settings.extra = "[lockdown]\nmin-staged-s = 1\n".to_owned();
    settings.grace_s = 60;
    let plant = Operator(Gateway::start(rig, settings));

    // The plant runs, and so does the intruder: the wire observes.
    let mut session = connect(outside, to(502)).expect("the wire observes");
    exchange(&mut session).expect("the wire observes");
    assert!(intrudes(rig, 1));

    // A policy that would cut the session shows it, with the nearest rule, and is refused.
    plant.writes("wrong.yaml", &permits(503));
    plant.does(&["stage", "wrong.yaml"]);
    let said = plant.sees_staged(&mut session, "would    cut 1 ");
    assert!(
        said.contains("tcp 10.77.2.1:") && said.contains("work, but for its service"),
        "{said}"
    );
    let said = plant.is_refused(&["lockdown"]);
    assert!(said.contains("max-denied-ratio"), "{said}");
    assert_eq!(try_tcp(outside, to(22)), Outcome::Answered, "a refusal changes nothing");

    // The right one is put in force; the session, which nobody saw open, goes on.
    plant.writes("right.yaml", &permits(502));
    plant.does(&["stage", "right.yaml"]);
    plant.sees_staged(&mut session, "nothing stands in the way");
    plant.does(&["lockdown", "--reason", "CHG-1042"]);
    exchange(&mut session).expect("a lockdown cuts nothing that it permits");
    assert_eq!(try_tcp(outside, to(502)), Outcome::Answered);
    assert_eq!(try_tcp(outside, to(22)), Outcome::Silent);
    assert!(!intrudes(rig, 2), "the intruder reaches nothing");

    // An engineer gets a moment, and no more.
    let granted = ["grant", "--from", "hmi", "--to", "plc", "--service", "tcp/22", "--for", "3s"];
    plant.does(&[&granted[..], &["--reason", "CHG-1043"]].concat());
    let begun = Instant::now();
    let mut shell = connect(outside, to(22)).expect("it is granted");
    exchange(&mut shell).expect("it is granted");
    assert!(plant.does(&["grants"]).contains("CHG-1043"));
    thread::sleep(Duration::from_millis(3200).saturating_sub(begun.elapsed()));
    assert!(exchange(&mut shell).is_err(), "what was open ends with the grant");
    assert_eq!(try_tcp(outside, to(22)), Outcome::Silent);

    // The HMI falls ill, and recovers.
    plant.does(&["quarantine", "10.77.2.1", "--reason", "beacons"]);
    assert!(exchange(&mut session).is_err(), "quarantine ends what is established");
    assert_eq!(try_tcp(outside, to(502)), Outcome::Silent);
    plant.does(&["quarantine", "10.77.2.1", "--release"]);
    assert_eq!(try_tcp(outside, to(502)), Outcome::Answered);

    // Back to where it began: the wire observes again.
    assert!(plant.does(&["history"]).contains("lockdown"));
    plant.does(&["rollback", "1", "--reason", "drill"]);
    assert!(intrudes(rig, 3));
    assert!(plant.does(&["status"]).contains("observe"));

    // A restart stays there. What happened is on record, and nobody can change the record.
    assert_eq!(plant.does(&["audit", "verify"]).matches("whole").count(), 1);
    let log = plant.does(&["audit"]);
    for said in
        ["start", "stage", "refused", "lockdown", "CHG-1042", "grant", "quarantine", "release"]
    {
        assert!(log.contains(said), "{said}: {log}");
    }
    let path = plant.0.folder().join("state/audit.jsonl");
    let whole = fs::read_to_string(&path).expect("the log is there");
    fs::write(&path, whole.replacen("beacons", "bacon!!", 1)).expect("it can be forged");
    let line = whole.lines().position(|line| line.contains("beacons")).expect("it is there") + 1;
    let said = plant.is_refused(&["audit", "verify"]);
    assert!(said.contains(&format!("BROKEN at line {line}:")), "{said}");
    fs::write(&path, &whole).expect("it can be restored");
    plant.does(&["audit", "verify"]);
    plant.0.stop();
}
