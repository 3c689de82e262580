//! The built gateway between network namespaces, over AF_XDP and AF_PACKET.
//!
//! `tests/run.sh` runs these one at a time, because they measure. Each ends with the same two
//! checks: every frame is accounted for, and SIGTERM ends the gateway within a second.

mod alerts;
mod bad_files;
mod bindings;
mod chaos;
mod confined;
mod failure;
mod frames;
mod learning;
mod lifecycle;
mod link;
mod observe;
mod policies;
mod reload;
mod rig;
mod scans;
mod scrape;
mod second_opinion;
mod soak;
mod trace;
mod traffic;
mod witness;
mod workers;
mod workflow;

/// Makes a test over each driver of functions that take a rig of one wire and a driver.
macro_rules! over_both_drivers {
    ($($name:ident),* $(,)?) => { $(
        mod $name {
            use bulkhead_tests::{Driver, Rig};

            #[test]
            fn over_af_xdp() {
                let name = concat!(module_path!(), "::over_af_xdp");
                if let Some(rig) = Rig::or_skip(name, 1) {
                    super::$name(&rig, Driver::AfXdp);
                }
            }

            #[test]
            fn over_af_packet() {
                let name = concat!(module_path!(), "::over_af_packet");
                if let Some(rig) = Rig::or_skip(name, 1) {
                    super::$name(&rig, Driver::AfPacket);
                }
            }
        }
    )* };
}
use over_both_drivers;

/// Makes a test over AF_XDP alone of functions that take a rig of one wire.
macro_rules! over_af_xdp {
    ($($name:ident),* $(,)?) => { $(
        mod $name {
            #[test]
            fn over_af_xdp() {
                let name = concat!(module_path!(), "::over_af_xdp");
                if let Some(rig) = bulkhead_tests::Rig::or_skip(name, 1) {
                    super::$name(&rig);
                }
            }
        }
    )* };
}
use over_af_xdp;
