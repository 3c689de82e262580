//! Start, reload by every way there is, and stop.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::time::Duration;

use bulkhead_tests::flows::{Echo, Outcome, connect, exchange, try_tcp};
use bulkhead_tests::{Driver, Gateway, Rig, Settings};
use nix::sys::signal::Signal;

use crate::{over_af_xdp, over_both_drivers, policies};

over_both_drivers!(
    interfaces_are_left_as_they_were,
    a_killed_gateway_leaves_nothing_that_stops_the_next,
    a_forbidden_connection_ends_at_its_next_packet,
);
over_af_xdp!(
    without_a_policy_the_ports_stay_down,
    a_bad_file_at_boot_falls_back_to_the_last_accepted_policy,
    every_way_to_reload_works,
    the_interface_name_is_enough,
);

const PATIENT: Duration = Duration::from_secs(10);

/// What a gateway may have changed on its interfaces.
fn interfaces(rig: &Rig) -> Vec<String> {
    let shown = rig.gateway().ip(&["-d", "-o", "link", "show"]);
    // What changes by itself: carrier and operational state follow the other end.
    shown.lines().map(|line| line.replace("NO-CARRIER,", "").replace("M-DOWN,", "")).collect()
}

fn interfaces_are_left_as_they_were(rig: &Rig, driver: Driver) {
    let before = interfaces(rig);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut gateway = Gateway::start(rig, Settings::new(driver, policies::BASIC));
        let during = interfaces(rig).join("\n");
        assert!(during.contains("promiscuity 1"), "{during}");
        assert_eq!(driver == Driver::AfXdp, during.contains("xdp"), "{during}");
        let (status, took) = gateway.terminate(signal);
        assert!(status.success(), "{signal}: {status}");
        assert!(took < Duration::from_secs(1), "{signal}: {took:?}");
        assert_eq!(interfaces(rig), before, "after {signal}");
    }
}

fn a_killed_gateway_leaves_nothing_that_stops_the_next(rig: &Rig, driver: Driver) {
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    let before = interfaces(rig);
    let mut killed = Gateway::start(rig, Settings::new(driver, policies::BASIC));
    killed.terminate(Signal::SIGKILL);
    drop(killed);
    let gateway = Gateway::start(rig, Settings::new(driver, policies::BASIC));
    let _server = Echo::tcp(rig.inside(0), 502);
    assert_eq!(try_tcp(rig.outside(0), to), Outcome::Answered);
    gateway.stop();
    assert_eq!(interfaces(rig), before);
}

fn a_forbidden_connection_ends_at_its_next_packet(rig: &Rig, driver: Driver) {
    let gateway = Gateway::start(rig, Settings::new(driver, policies::BASIC));
    let server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v6.into(), 502);
    let mut stream = connect(rig.outside(0), to).expect("a permitted connection");
    exchange(&mut stream).expect("an exchange over it");
    // A policy that still permits it changes nothing for it.
    let wider = policies::BASIC.replace("tcp/502", "tcp/500-510");
    let (code, said) = gateway.reload(&wider);
    assert_eq!(code, 0, "{said}");
    exchange(&mut stream).expect("an exchange under the new policy");
    let (code, said) = gateway.reload(policies::NOTHING);
    assert_eq!(code, 0, "{said}");
    exchange(&mut stream).expect_err("an exchange that nothing permits");
    assert_eq!(server.reached(), 1);
    let metrics = gateway.stop();
    assert!(metrics.drops().contains_key("revoked"), "{:?}", metrics.drops());
    assert!(metrics.count("bulkhead_flow_ends_total", &[("reason", "revoked")]) >= 1);
}

fn without_a_policy_the_ports_stay_down(rig: &Rig) {
    let mut settings = Settings::new(Driver::AfXdp, "version: 1\nrules: [{name: broken}]\n");
    settings.must_be_ready = false;
    let mut gateway = Gateway::start(rig, settings);
    gateway.wait_until("alive", PATIENT, |g| g.get("/healthz").0 == 200);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(gateway.get("/readyz").0, 503, "{}", gateway.log());
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    assert_ne!(try_tcp(rig.outside(0), to), Outcome::Answered);
    // Corrected, it is taken at once.
    gateway.replace_policy(policies::BASIC);
    gateway.wait_until("ready", PATIENT, |g| g.get("/readyz").0 == 200);
    // A host that asked for its peer's address before waits up to a second until it asks again.
    let mut attempts = (0..3).map(|_| try_tcp(rig.outside(0), to));
    assert!(attempts.any(|outcome| outcome == Outcome::Answered), "{}", gateway.log());
    gateway.stop();
}

fn a_bad_file_at_boot_falls_back_to_the_last_accepted_policy(rig: &Rig) {
    let mut first = Gateway::start(rig, Settings::new(Driver::AfXdp, policies::BASIC));
    first.replace_policy("version: 1\nrules: [{name: broken}]\n");
    // The running gateway refuses it; then it is started again.
    let refused = [("result", "refused")];
    first.wait_until("told of the bad file", PATIENT, |g| {
        g.metrics().count("bulkhead_policy_reload_total", &refused) >= 1
    });
    first.terminate(Signal::SIGTERM);
    let folder = first.keep();
    let again = Gateway::start_again(rig, folder, true);
    assert_eq!(again.metrics().sum("bulkhead_policy_fallback", &[]), 1.0, "{}", again.log());
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    assert_eq!(try_tcp(rig.outside(0), to), Outcome::Answered);
    let (code, said) = again.reload(policies::NOTHING);
    assert_eq!(code, 0, "{said}");
    assert_eq!(again.metrics().sum("bulkhead_policy_fallback", &[]), 0.0);
    again.stop();
}

fn every_way_to_reload_works(rig: &Rig) {
    let mut settings = Settings::new(Driver::AfXdp, policies::NOTHING);
    settings.policy_path = "current/policies".to_owned();
    let mut gateway = Gateway::start(rig, settings);
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    let folder = gateway.folder().to_owned();
    let expect = |gateway: &mut Gateway<'_>, what: &str, outcome: Outcome| {
        gateway.wait_until(what, PATIENT, |_| try_tcp(rig.outside(0), to) == outcome);
    };
    let write = |path: &str, text: &str| std::fs::write(folder.join(path), text).expect(path);
    expect(&mut gateway, "closed", Outcome::Silent);

    // A file comes into the folder, as people and tools put it there.
    write("current/policies/20-work.yaml", policies::BASIC);
    expect(&mut gateway, "open by a new file", Outcome::Answered);
    // An editor writes another file and renames it over the old one.
    write("current/policies/.20-work.yaml.swp", policies::NOTHING);
    let swap = (
        folder.join("current/policies/.20-work.yaml.swp"),
        folder.join("current/policies/20-work.yaml"),
    );
    std::fs::rename(&swap.0, &swap.1).expect("a rename");
    expect(&mut gateway, "closed by a rename", Outcome::Silent);
    // A mounted ConfigMap: the whole folder is a link, which is replaced in one step.
    std::fs::create_dir_all(folder.join("next/policies")).expect("a folder");
    write("next/policies/10-all.yaml", policies::BASIC);
    std::fs::rename(folder.join("current"), folder.join("before")).expect("a rename");
    symlink("next", folder.join("current")).expect("a link");
    expect(&mut gateway, "open by a link", Outcome::Answered);
    std::fs::create_dir_all(folder.join("third/policies")).expect("a folder");
    write("third/policies/10-all.yaml", policies::NOTHING);
    symlink("third", folder.join("link")).expect("a link");
    std::fs::rename(folder.join("link"), folder.join("current")).expect("a swap");
    expect(&mut gateway, "closed by a swapped link", Outcome::Silent);
    // SIGHUP, and the command.
    write("third/policies/10-all.yaml", policies::BASIC);
    gateway.signal(Signal::SIGHUP);
    expect(&mut gateway, "open by SIGHUP", Outcome::Answered);
    write("third/policies/10-all.yaml", policies::NOTHING);
    let (code, said) = gateway.bulkhead(&["reload", "--config", "gateway.toml"]);
    assert!(code == 0 && said.contains("accepted"), "{said}");
    assert_eq!(try_tcp(rig.outside(0), to), Outcome::Silent);
    gateway.stop();
}

fn the_interface_name_is_enough(rig: &Rig) {
    let gateway = Gateway::start(rig, Settings::new(Driver::ByName, policies::BASIC));
    let (code, status) = gateway.bulkhead(&["status", "--config", "gateway.toml"]);
    assert_eq!(code, 0, "{status}");
    let metrics = gateway.metrics();
    let drivers = ["AF_XDP", "AF_PACKET"];
    let ports = |driver| metrics.count("bulkhead_port_info", &[("driver", driver)]);
    assert_eq!(drivers.map(ports).iter().sum::<u64>(), 2, "{status}");
    gateway.stop();
}
