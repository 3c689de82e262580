//! The flow line's learner: observations to roles to a proposed policy text.
//!
//! It does no I/O; callers feed it. Read the modules in the order in which a flow passes:
//!
//! 1. [`observe`]: what callers tell; [`store`]: what is kept of it, and whose side serves.
//! 2. `view`: the edges of some stretch of time; `dynamic`: ports that servers choose as they go.
//! 3. [`admit`]: which edges may make rules.
//! 4. `mesh`: services among everybody; `roles`: hosts that do alike; `fold`: few, readable rules.

pub mod admit;
mod dynamic;
pub mod fold;
pub mod learn;
pub mod limits;
mod mesh;
pub mod observe;
pub mod roles;
pub mod store;
mod view;

/// SplitMix64's output function: a bijection of 64 bits that hides every pattern of its input.
pub(crate) fn mix(bits: u64) -> u64 {
    let z = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
