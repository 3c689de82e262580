//! The built gateway between network namespaces, over AF_XDP and AF_PACKET.
//!
//! `tests/run.sh` runs these one at a time, because they measure. Each ends with the same two
//! checks: every frame is accounted for, and SIGTERM ends the gateway within a second.

mod rig;
