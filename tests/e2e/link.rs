//! Carrier that is lost on one port of a wire is lost on the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bulkhead_tests::flows::{Echo, Outcome, try_tcp};
use bulkhead_tests::rig::{HOST_INTERFACE, Host};
use bulkhead_tests::{Driver, Gateway, Rig, Settings};

use crate::{over_both_drivers, policies};

over_both_drivers!(carrier_is_lost_and_found_on_both_sides);

fn carrier_is_lost_and_found_on_both_sides(rig: &Rig, driver: Driver) {
    let gateway = Gateway::start(rig, Settings::new(driver, policies::BASIC));
    let _server = Echo::tcp(rig.inside(0), 502);
    let to = SocketAddr::new(rig.inside(0).v4.into(), 502);
    assert_eq!(try_tcp(rig.outside(0), to), Outcome::Answered);
    // A port that just rose is given time to find its carrier before it counts as lost.
    std::thread::sleep(Duration::from_secs(6));
    for (lost, follows) in [(rig.inside(0), rig.outside(0)), (rig.outside(0), rig.inside(0))] {
        lost.namespace.ip(&["link", "set", HOST_INTERFACE, "down"]);
        await_carrier(follows, false, &gateway);
        lost.namespace.ip(&["link", "set", HOST_INTERFACE, "up"]);
        await_carrier(follows, true, &gateway);
        let deadline = Instant::now() + Duration::from_secs(10);
        while try_tcp(rig.outside(0), to) != Outcome::Answered {
            assert!(Instant::now() < deadline, "no traffic after the link came back");
        }
        std::thread::sleep(Duration::from_secs(6));
    }
    gateway.stop();
}

fn await_carrier(host: &Host, wanted: bool, gateway: &Gateway<'_>) {
    let deadline = Instant::now() + Duration::from_secs(8);
    while host.has_carrier() != wanted {
        let log = gateway.log();
        assert!(Instant::now() < deadline, "{:?} has carrier: {}\n{log}", host.v4, !wanted);
        std::thread::sleep(Duration::from_millis(50));
    }
}
