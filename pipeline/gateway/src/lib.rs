//! The gateway's control side: nothing here runs on a worker's core.
//!
//! Read the modules in the order in which a start passes through them:
//!
//! 1. [`config`]: `gateway.toml` to a checked [`config::Config`].
//! 2. [`policy_files`]: a policy file or folder to bounded texts.
//!
//! [`explain`] answers questions without a running gateway. [`diagnostic`] is how a mistake in a
//! file is shown.

pub mod config;
pub mod diagnostic;
pub mod explain;
pub mod policy_files;
