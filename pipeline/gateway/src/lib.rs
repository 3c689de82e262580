//! The gateway's control side, and the commands of the binary `bulkhead`: nothing here runs on a
//! worker's core.
//!
//! Read the modules in the order in which a start passes through them:
//!
//! 1. [`cli`]: the command line, and which module answers each command.
//! 2. [`config`]: `gateway.toml` to a checked [`config::Config`].
//! 3. [`policy_files`]: a policy file or folder to bounded texts.
//! 4. [`candidate`]: texts to a policy that may be published.
//!
//! [`check`], [`explain`] and [`replay`] answer questions without a running gateway. [`diagnostic`] is
//! how a mistake in a file is shown.

pub mod candidate;
pub mod check;
pub mod cli;
pub mod config;
pub mod diagnostic;
pub mod explain;
pub mod policy_files;
pub mod replay;
