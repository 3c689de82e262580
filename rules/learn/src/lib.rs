//! The flow line's learner: observations to roles to a proposed policy text.
//!
//! It does no I/O; callers feed it. Read the modules in the order in which a flow passes:
//!
//! 1. [`observe`]: what callers tell; [`store`]: what is kept of it, and whose side serves.
//! 2. `view`: the edges of some stretch of time; `dynamic`: ports that servers choose as they go.
//! 3. [`admit`]: which edges may make rules.
//! 4. `mesh`: services among everybody; `roles`: hosts that do alike; `fold`: few, readable rules.
//!    [`learn`] does it all.
//! 5. [`confidence`]: what the rules would deny by mistake; [`explain`]: why each is there.
//! 6. [`names`] that persist, [`text`] that the rule line reads.
//! 7. [`drift`]: what to make of denials after lockdown; [`update`]: hours that come later.

pub mod admit;
pub mod confidence;
pub mod drift;
mod dynamic;
pub mod explain;
pub mod fold;
pub mod learn;
pub mod limits;
mod mesh;
pub mod names;
pub mod observe;
pub mod roles;
pub mod store;
pub mod text;
pub mod update;
mod view;

/// SplitMix64's output function: a bijection of 64 bits that hides every pattern of its input.
pub(crate) fn mix(bits: u64) -> u64 {
    let z = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
