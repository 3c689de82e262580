//! Mixed load for long: nothing lost that TCP would notice, and memory that stays where it is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, try_tcp, try_udp};
use bulkhead_tests::load::{Kind, Load};
use bulkhead_tests::{Driver, Gateway, Rig, Settings, is_full};

use crate::{over_af_xdp, policies};

over_af_xdp!(memory_is_flat_under_mixed_load);

/// Memory may grow this much after the first quarter of the time: allocators settle.
const GROWTH_KB: u64 = 2048;

fn memory_is_flat_under_mixed_load(rig: &Rig) {
    let time = Duration::from_secs(if is_full() { 600 } else { 12 });
    let (inside, outside) = (rig.inside(0), rig.outside(0));
    let gateway = Gateway::start(rig, Settings::new(Driver::AfXdp, policies::BASIC));
    let _tcp = [Echo::tcp(inside, 502), Echo::tcp(inside, 503)];
    let _udp = Echo::udp(inside, 53);
    let (v4, v6) = (inside.v4.into(), inside.v6.into());
    let loads = [
        (Kind::Tcp(SocketAddr::new(v4, 502)), 1000, 900),
        (Kind::Tcp(SocketAddr::new(v6, 502)), 500, 100),
        (Kind::Udp(SocketAddr::new(v4, 53)), 2000, 300),
        (Kind::Udp(SocketAddr::new(v6, 53)), 200, 4000),
        (Kind::Ping(v4), 100, 64),
        (Kind::Ping(v6), 100, 2000),
    ];
    let running: Vec<_> = (loads.iter())
        .map(|(kind, rate, size)| {
            (*kind, Load::start(outside, *kind, *rate, *size).expect("a permitted load"))
        })
        .collect();
    let begin = Instant::now();
    let mut settled = None;
    let mut rounds: u64 = 0;
    while begin.elapsed() < time {
        // New flows all the while, permitted and not, reloads, and scrapes.
        try_udp(outside, SocketAddr::new(v4, 53), 64);
        try_udp(outside, SocketAddr::new(v4, 55), 64);
        try_tcp(outside, SocketAddr::new(v6, 504));
        rounds += 1;
        let policy = policies::BASIC.replace("name: work", &format!("name: work-{}", rounds % 2));
        let (code, said) = gateway.reload(&policy);
        assert_eq!(code, 0, "{said}");
        gateway.metrics();
        if settled.is_none() && begin.elapsed() > time / 4 {
            settled = Some(gateway.resident_kb());
        }
    }
    let (settled, end) = (settled.unwrap_or(0), gateway.resident_kb());
    println!(
        "{rounds} rounds in {time:?}: resident {settled} kB after a quarter, {end} kB at the end"
    );
    for (kind, load) in running {
        let tally = load.stop().unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        assert!(tally.answered > 0, "{kind:?}: {tally:?}");
        println!("{kind:?}: {tally:?}");
    }
    assert!(end <= settled + GROWTH_KB, "memory grew from {settled} kB to {end} kB");
    gateway.stop();
}
