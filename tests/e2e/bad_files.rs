//! Files that are no policy change nothing, and cost little.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, Outcome, try_tcp};
use bulkhead_tests::{Driver, Gateway, Rig, Settings};

use crate::{over_af_xdp, policies};

over_af_xdp!(each_is_refused_with_its_place_and_the_old_policy_stays, hostile_files_cost_little);

/// The most that refusing a file may add to the gateway's resident memory.
const MEMORY_KB: u64 = 192 << 10;

fn each_is_refused_with_its_place_and_the_old_policy_stays(rig: &Rig) {
    let gateway = Gateway::start(rig, Settings::new(Driver::AfXdp, policies::BASIC));
    let cases = [
        ("version: 1\nrules:\n  - {name: a\n    from: b}\n", "policy.yaml:"),
        (
            "version: 1\nrules:\n  - {name: a, from: nobody, to: any, service: any, action: allow}\n",
            "policy.yaml:3:",
        ),
        ("version: 1\nrulez: []\n", "policy.yaml:2:"),
        (
            "version: 1\nrules:\n  - {name: a, to: any, service: any, action: allow}\n",
            "policy.yaml:3:",
        ),
    ];
    for (text, expected) in cases {
        let (code, said) = gateway.reload(text);
        assert_ne!(code, 0, "{text}\n{said}");
        assert!(said.contains(expected), "no {expected} in\n{said}");
        assert!(gateway.log().contains(expected), "{}", gateway.log());
        assert_still_guards(rig, &gateway);
    }
    // A rule that does not exist is suggested where a name is nearly right.
    let (_, said) = gateway.reload(&policies::BASIC.replace("to: server", "to: sever"));
    assert!(said.contains("server"), "{said}");
    let (code, said) = gateway.reload(policies::BASIC);
    assert_eq!(code, 0, "{said}");
    assert_eq!(gateway.metrics().sum("bulkhead_policy_last_reload_successful", &[]), 1.0);
    gateway.stop();
}

fn hostile_files_cost_little(rig: &Rig) {
    let gateway = Gateway::start(rig, Settings::new(Driver::AfXdp, policies::BASIC));
    for (what, text) in hostile() {
        refused_cheaply(rig, &gateway, what, || gateway.replace_policy(&text));
    }
    // 1 GB of zeros that take no room on the disk.
    refused_cheaply(rig, &gateway, "1 GB", || {
        let path = gateway.folder().join("large");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(1 << 30).expect("a sparse file");
        std::fs::rename(path, gateway.folder().join("policy.yaml")).expect("a rename");
    });
    gateway.stop();
}

fn hostile() -> Vec<(&'static str, String)> {
    let mut laughs = String::from("version: 1\ngroups:\n  a0: &a0 [10.0.0.1]\n");
    for level in 1..30 {
        let before = format!("*a{}", level - 1);
        let nine = [before.as_str(); 9].join(", ");
        let _ = writeln!(laughs, "  a{level}: &a{level} [{nine}]");
    }
    let nested = format!("version: 1\nrules: {}{}\n", "[".repeat(200_000), "]".repeat(200_000));
    let lines = "# nothing\n".repeat(1_000_000) + "rules: 7\n";
    let keys: String = (0..400_000).fold("version: 1\ngroups:\n".to_owned(), |mut text, n| {
        let _ = writeln!(text, "  g{n}: [h{n}]");
        text
    });
    vec![
        ("alias bomb", laughs),
        ("nesting", nested),
        ("a million lines", lines),
        ("unknown members", keys),
    ]
}

fn refused_cheaply(rig: &Rig, gateway: &Gateway<'_>, what: &str, place: impl FnOnce()) {
    gateway.forget_peak_resident();
    let before = gateway.resident_kb();
    place();
    let begin = Instant::now();
    let (code, said) = gateway.bulkhead(&["reload", "--config", "gateway.toml"]);
    let took = begin.elapsed();
    let added = gateway.peak_resident_kb().saturating_sub(before);
    println!("{what}: refused in {took:?}, at most {} MiB more", added >> 10);
    assert_ne!(code, 0, "{what}: {said}");
    assert!(said.len() < 64 << 10, "{what}: {} bytes of complaints", said.len());
    assert!(took < Duration::from_secs(10), "{what}: {took:?}");
    assert!(added < MEMORY_KB, "{what}: {added} kB");
    assert_still_guards(rig, gateway);
}

/// The old policy is in force and the metric says that something is wrong.
fn assert_still_guards(rig: &Rig, gateway: &Gateway<'_>) {
    let _servers = [Echo::tcp(rig.inside(0), 502), Echo::tcp(rig.inside(0), 503)];
    let at = |port| SocketAddr::new(rig.inside(0).v4.into(), port);
    assert_eq!(try_tcp(rig.outside(0), at(502)), Outcome::Answered);
    assert_eq!(try_tcp(rig.outside(0), at(503)), Outcome::Silent);
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("bulkhead_policy_last_reload_successful", &[]), 0.0);
}
