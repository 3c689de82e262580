//! Scanners and floods of real tools behind a real gateway: they find nothing that the policy does
//! not permit, and nothing else arrives.
//!
//! Everything is open at the host that is scanned, so that only the gateway says no; a witness there
//! judges every frame that arrives by the linear scan.

use std::net::{IpAddr, SocketAddr};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, Outcome, connect, exchange, try_tcp};
use bulkhead_tests::rig::HOST_INTERFACE;
use bulkhead_tests::{Driver, Gateway, Host, Rig, Settings, is_full, skip};

use crate::policies::NOTHING;
use crate::witness::Witness;
use crate::{over_af_xdp, over_both_drivers};

over_both_drivers!(scans_find_what_the_policy_permits_and_no_more);
over_af_xdp!(
    scans_find_nothing_where_everything_is_forbidden,
    floods_neither_pass_nor_end_what_is_established,
    attacks_on_ipv6_implementations_reach_nothing,
    attacks_on_ipv6_implementations_pass_as_far_as_the_policy_permits,
);

/// One service that answers, one that nobody listens to, and ping.
const SOME: &str = r#"
version: 1
default: deny
devices:
  client: {ip: [10.77.2.1, "fd77::2:1"]}
  server: {ip: [10.77.1.1, "fd77::1:1"]}
services:
  ping: [icmp/echo-request, icmpv6/echo-request]
rules:
  - {name: work, from: client, to: server, service: [tcp/502, tcp/505, udp/53, ping], action: allow}
"#;

/// Ports that are open at the server.
const OPEN_TCP: [u16; 4] = [22, 80, 502, 503];
const OPEN_UDP: [u16; 2] = [53, 54];

/// A scan: nmap's options, what it may find where [`SOME`] is enforced over IPv4 and IPv6.
struct Scan {
    name: &'static str,
    options: &'static [&'static str],
    finds: &'static [&'static str],
}

/// What a scan that opens connections finds.
const SERVICES: &[&str] = &["tcp/502 open", "tcp/505 closed"];

const SCANS: &[Scan] = &[
    Scan { name: "SYN", options: &["-sS"], finds: SERVICES },
    Scan { name: "connect", options: &["-sT"], finds: SERVICES },
    Scan { name: "FIN", options: &["-sF"], finds: &[] },
    Scan { name: "NULL", options: &["-sN"], finds: &[] },
    Scan { name: "Xmas", options: &["-sX"], finds: &[] },
    Scan { name: "ACK", options: &["-sA"], finds: &[] },
    Scan { name: "window", options: &["-sW"], finds: &[] },
    Scan { name: "Maimon", options: &["-sM"], finds: &[] },
    Scan { name: "SYN and FIN", options: &["-sS", "--scanflags", "SYNFIN"], finds: &[] },
    Scan { name: "from the port of DNS", options: &["-sS", "-g", "53"], finds: SERVICES },
    Scan { name: "wrong checksums", options: &["-sS", "--badsum"], finds: &[] },
    Scan { name: "UDP", options: &["-sU"], finds: &["udp/53 open"] },
];

/// Scans that there are for IPv4 only.
const SCANS_OF_IPV4: &[Scan] = &[
    Scan {
        name: "decoys",
        options: &["-sS", "-D", "10.77.2.50,10.77.2.51,10.77.1.77,ME"],
        finds: SERVICES,
    },
    Scan { name: "SYN with source route", options: &["-sS", "--ip-options", "L"], finds: &[] },
];

/// Scans in fragments, which nmap has for IPv4 only, and which the kernel joins before DPDK's AF_PACKET
/// driver sees them.
const SCANS_IN_FRAGMENTS: &[Scan] = &[
    // 8 bytes of the header in each: the first is too small to be judged by.
    Scan { name: "SYN in fragments", options: &["-sS", "-f"], finds: &[] },
    Scan { name: "FIN in fragments", options: &["-sF", "-f"], finds: &[] },
    Scan { name: "ACK in fragments", options: &["-sA", "-f"], finds: &[] },
];

/// Ports that are looked at: all that matter, or all that there are.
fn ports(of_udp: bool) -> &'static str {
    match (is_full(), of_udp) {
        (_, true) => "50-60",
        (false, false) => "1-100,500-510",
        (true, false) => "1-65535",
    }
}

/// Scans as they are mounted: with the driver's limits.
fn scans(driver: Driver, v6: bool) -> impl Iterator<Item = &'static Scan> {
    let of_ipv4 = if v6 { &[][..] } else { SCANS_OF_IPV4 };
    let in_fragments = if v6 || driver == Driver::AfPacket { &[][..] } else { SCANS_IN_FRAGMENTS };
    SCANS.iter().chain(of_ipv4).chain(in_fragments)
}

/// What nmap finds: `tcp/502 open`. Ports that it calls filtered, or open or filtered, are those from
/// which it heard nothing.
fn nmap(from: &Host, to: IpAddr, scan: &Scan) -> Vec<String> {
    let ports = ports(scan.options.contains(&"-sU"));
    let target = to.to_string();
    let always =
        ["-n", "-Pn", "--max-retries", "1", "--min-rate", "2000", "--max-rtt-timeout", "300ms"];
    let mut arguments: Vec<&str> = always.to_vec();
    arguments.extend(if to.is_ipv6() { &["-6"][..] } else { &[] });
    arguments.extend(scan.options);
    arguments.extend(["-p", ports, "-oX", "-", &target]);
    let output = run(from, "nmap", &arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("<finished "), "{}: nmap did not finish: {said}\n{text}", scan.name);
    found(&text)
}

/// The ports of nmap's XML that are open, closed or unfiltered: from which something was heard.
fn found(xml: &str) -> Vec<String> {
    let value = |text: &str, key: &str| {
        let begin = text.find(&format!("{key}=\""))? + key.len() + 2;
        Some(text[begin..].split('"').next().unwrap_or_default().to_owned())
    };
    let is_heard = |state: &str| matches!(state, "open" | "closed" | "unfiltered");
    let mut found = Vec::new();
    for port in xml.split("<port ").skip(1) {
        let state = port.split("<state ").nth(1).and_then(|state| value(state, "state"));
        let state = state.unwrap_or_default();
        if is_heard(&state) {
            let protocol = value(port, "protocol").unwrap_or_default();
            let number = value(port, "portid").unwrap_or_default();
            found.push(format!("{protocol}/{number} {state}"));
        }
    }
    for more in xml.split("<extraports ").skip(1) {
        let state = value(more, "state").unwrap_or_default();
        if is_heard(&state) {
            found.push(format!("{} more {state}", value(more, "count").unwrap_or_default()));
        }
    }
    found.sort();
    found
}

/// Runs a program on a host, without input, and waits for it.
fn run(host: &Host, program: &str, arguments: &[&str]) -> Output {
    let mut command = host.namespace.command(program);
    command.args(arguments).stdin(Stdio::null());
    command.output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Whether the program is there; else the test is skipped, which is said.
fn has(test: &str, rig: &Rig, program: &str) -> bool {
    // `command -v` is the shell's.
    let looked = run(rig.outside(0), "sh", &["-c", &format!("command -v {program}")]);
    if !looked.status.success() {
        skip(test, &format!("the program {program} is not installed"));
    }
    looked.status.success()
}

fn servers(host: &Host) -> Vec<Echo> {
    let tcp = OPEN_TCP.into_iter().map(|port| Echo::tcp(host, port));
    tcp.chain(OPEN_UDP.into_iter().map(|port| Echo::udp(host, port))).collect()
}

/// How often the servers on ports that nothing permits were reached.
fn wrongly_reached(servers: &[Echo]) -> u64 {
    let permitted = [502, 53];
    let ports = OPEN_TCP.into_iter().chain(OPEN_UDP);
    let forbidden = ports.zip(servers).filter(|(port, _)| !permitted.contains(port));
    forbidden.map(|(_, server)| server.reached()).sum()
}

fn scans_find_what_the_policy_permits_and_no_more(rig: &Rig, driver: Driver) {
    let test = "scans::scans_find_what_the_policy_permits_and_no_more";
    if !has(test, rig, "nmap") {
        return;
    }
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let gateway = Gateway::start(rig, Settings::new(driver, SOME));
    let servers = servers(inside);
    let witness = Witness::of(inside, SOME);
    for address in [IpAddr::from(inside.v4), inside.v6.into()] {
        for scan in scans(driver, address.is_ipv6()) {
            let begin = Instant::now();
            let found = nmap(outside, address, scan);
            println!("{} {address}: {found:?} in {:?}", scan.name, begin.elapsed());
            assert_eq!(found, scan.finds, "{} {address}", scan.name);
        }
    }
    assert_eq!(wrongly_reached(&servers), 0);
    let testimony = witness.testify();
    assert!(testimony.seen.contains_key("work"), "{:?}", testimony.seen);
    let metrics = gateway.stop();
    assert!(metrics.drops().contains_key("policy"), "{:?}", metrics.drops());
}

fn scans_find_nothing_where_everything_is_forbidden(rig: &Rig) {
    let driver = Driver::AfXdp;
    let test = "scans::scans_find_nothing_where_everything_is_forbidden";
    if !has(test, rig, "nmap") {
        return;
    }
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let gateway = Gateway::start(rig, Settings::new(driver, NOTHING));
    let servers = servers(inside);
    let witness = Witness::of(inside, NOTHING);
    for address in [IpAddr::from(inside.v4), inside.v6.into()] {
        for scan in scans(driver, address.is_ipv6()) {
            let found = nmap(outside, address, scan);
            assert!(found.is_empty(), "{} {address}: {found:?}", scan.name);
        }
    }
    // Hosts answer ARP, which passes under guard; to everything else that asks who is there they do not.
    let discovery =
        ["-n", "-sn", "--disable-arp-ping", "-PE", "-PP", "-PM", "-PS22,80,502", "-PA80,502"];
    let output = run(outside, "nmap", &[&discovery[..], &["-PU53", "-PY", "10.77.1.1"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("(0 hosts up)"), "{text}");
    assert_eq!(servers.iter().map(Echo::reached).sum::<u64>(), 0);
    assert_eq!(witness.testify().by_rules(), 0);
    let drops = gateway.stop().drops();
    assert!(drops.get("policy").is_some_and(|count| *count > 1000), "{drops:?}");
}

/// What hping3 sends, for as long as it is let: name and options.
const FLOODS: [(&str, &[&str]); 9] = [
    ("SYN from anywhere", &["-S", "-p", "502", "--rand-source"]),
    ("SYN to what is forbidden", &["-S", "-p", "503"]),
    ("SYN from itself (land)", &["-S", "-p", "502", "-s", "502", "-k", "-a", "10.77.1.1"]),
    ("UDP from anywhere", &["-2", "-p", "53", "--rand-source"]),
    ("ICMP from anywhere", &["-1", "--rand-source"]),
    ("ACK", &["-A", "-p", "502"]),
    ("FIN, PUSH and URG", &["-F", "-P", "-U", "-p", "502"]),
    ("RST to a connection's port", &["-R", "-p", "502", "--rand-source"]),
    ("UDP in fragments", &["-2", "-p", "54", "-d", "4000", "-f"]),
];

fn floods_neither_pass_nor_end_what_is_established(rig: &Rig) {
    let test = "scans::floods_neither_pass_nor_end_what_is_established";
    if !has(test, rig, "hping3") {
        return;
    }
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let gateway = Gateway::start(rig, Settings::new(Driver::AfXdp, SOME));
    let servers = servers(inside);
    let witness = Witness::of(inside, SOME);
    let seconds = if is_full() { 10 } else { 1 };
    let resident = gateway.resident_kb();
    // hping3 speaks IPv4 only; the connection of IPv6 goes through the same floods.
    let mut streams = [IpAddr::from(inside.v4), inside.v6.into()].map(|address| {
        let to = SocketAddr::new(address, 502);
        let stream = connect(outside, to).expect("a permitted connection");
        // What a flood delays, TCP sends again.
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        stream
    });
    for (name, options) in FLOODS {
        let limit = seconds.to_string();
        let target = inside.v4.to_string();
        let mut arguments = vec![limit.as_str(), "hping3", "--flood", "-q", "-n"];
        arguments.extend(options);
        arguments.push(&target);
        let mut command = outside.namespace.command("timeout");
        command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let before = gateway.metrics().received();
        let mut flood = command.spawn().unwrap_or_else(|e| panic!("hping3: {e}"));
        let (mut exchanges, mut longest) = (0, Duration::ZERO);
        while flood.try_wait().expect("it is ours").is_none() {
            for stream in &mut streams {
                let begin = Instant::now();
                exchange(stream).unwrap_or_else(|e| panic!("{name}: {e}, {}", gateway.log()));
                longest = longest.max(begin.elapsed());
                exchanges += 1;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let frames = gateway.quiescent_metrics().received() - before;
        println!("{name}: {frames} frames; {exchanges} exchanges, the longest took {longest:?}");
        assert!(frames > 500 && exchanges > 0, "{name}: {frames} frames, {exchanges} exchanges");
    }
    for stream in &mut streams {
        exchange(stream).expect("the connection lives on");
    }
    assert_eq!(wrongly_reached(&servers), 0);
    // Who flooded has spent his own budget of new flows; it is earned again within two seconds.
    let at = SocketAddr::new(inside.v4.into(), 502);
    let deadline = Instant::now() + Duration::from_secs(10);
    while try_tcp(outside, at) != Outcome::Answered {
        assert!(Instant::now() < deadline, "no new connection after the floods: {}", gateway.log());
    }
    let grown = gateway.resident_kb().saturating_sub(resident);
    assert!(grown < 16 << 10, "the floods made the gateway grow by {grown} kB");
    witness.testify();
    gateway.stop();
}

/// Test cases of `atk6-fragmentation6` and `atk6-implementation6`: thc-ipv6 3.8 has 39 and 57.
const THC: [(&str, u32); 2] = [("atk6-fragmentation6", 39), ("atk6-implementation6", 57)];

/// How many of them run at once: each mostly waits.
const AT_ONCE: usize = 16;

/// Lets both tools run all of their cases against a host; what they print.
fn attack_ipv6(from: &Host, to: &Host) -> String {
    let mut said = String::new();
    for (tool, cases) in THC {
        let numbers: Vec<String> = (1..=cases).map(|case| case.to_string()).collect();
        for some in numbers.chunks(AT_ONCE) {
            let start = |case: &String| {
                let mut command = from.namespace.command("timeout");
                let target = to.v6.to_string();
                // -p: without asking first whether the host is alive.
                command.args(["30", tool, "-p", HOST_INTERFACE, &target, case]);
                let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
                let started = command.stderr(Stdio::piped()).spawn();
                started.unwrap_or_else(|e| panic!("{tool}: {e}"))
            };
            let running: Vec<_> = some.iter().map(start).collect();
            for process in running {
                let output = process.wait_with_output().expect("it is ours");
                said += &String::from_utf8_lossy(&output.stdout);
                said += &String::from_utf8_lossy(&output.stderr);
            }
        }
    }
    said
}

fn has_thc(test: &str, rig: &Rig) -> bool {
    THC.iter().all(|(tool, _)| has(test, rig, tool))
}

fn attacks_on_ipv6_implementations_reach_nothing(rig: &Rig) {
    if !has_thc("scans::attacks_on_ipv6_implementations_reach_nothing", rig) {
        return;
    }
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let gateway = Gateway::start(rig, Settings::new(Driver::AfXdp, NOTHING));
    let witness = Witness::of(inside, NOTHING);
    let said = attack_ipv6(outside, inside);
    // Solicitations pass under guard and are answered. (The one with a hop limit below 255 is not: it
    // takes the other's answer for its own, as they are sent at the same time.)
    let is_solicitation = |line: &&str| line.contains("direct neighbor solicitation");
    let passed: Vec<&str> = said.lines().filter(|line| line.contains("PASSED")).collect();
    assert!(passed.iter().all(is_solicitation), "something answered:\n{}", passed.join("\n"));
    let failed = said.matches("FAILED - no reply").count();
    assert!(failed >= 50, "only {failed} tests were sent:\n{said}");
    assert_eq!(witness.testify().by_rules(), 0);
    let drops = gateway.stop().drops();
    println!("dropped: {drops:?}");
    assert!(drops.len() >= 5, "few kinds of attack arrived at the gateway: {drops:?}");
}

fn attacks_on_ipv6_implementations_pass_as_far_as_the_policy_permits(rig: &Rig) {
    let test = "scans::attacks_on_ipv6_implementations_pass_as_far_as_the_policy_permits";
    if !has_thc(test, rig) {
        return;
    }
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let gateway = Gateway::start(rig, Settings::new(Driver::AfXdp, SOME));
    let witness = Witness::of(inside, SOME);
    let said = attack_ipv6(outside, inside);
    // Ping is permitted, so some of them are pings like any other.
    let passed: Vec<&str> = said.lines().filter(|line| line.contains("PASSED")).collect();
    println!("passed:\n{}", passed.join("\n"));
    assert!(!passed.is_empty(), "no ping passed:\n{said}");
    let testimony = witness.testify();
    assert!(testimony.by_rules() > 0, "{:?}", testimony.seen);
    println!("dropped: {:?}", gateway.stop().drops());
}

#[test]
fn what_nmap_says_is_understood() {
    let xml = r#"<ports><extraports state="open|filtered" count="98"></extraports>
        <port protocol="tcp" portid="22"><state state="filtered" reason="no-response"/></port>
        <port protocol="tcp" portid="502"><state state="open" reason="syn-ack"/></port></ports>"#;
    assert_eq!(found(xml), ["tcp/502 open"]);
    assert_eq!(found(r#"<extraports state="closed" count="7">"#), ["7 more closed"]);
}
