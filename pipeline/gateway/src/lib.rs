//! The gateway's control side, and the commands of the binary `bulkhead`: nothing here runs on a
//! worker's core but [`launch`]'s few lines that start one.
//!
//! Read the modules in the order in which a start passes through them:
//!
//! 1. [`cli`]: the command line, and which module answers each command.
//! 2. [`config`]: `gateway.toml` to a checked [`config::Config`].
//! 3. [`run`]: the order in which everything starts, is looked after, and stops.
//! 4. [`policy_files`], [`candidate`], [`reload`]: files to texts, to a policy that may be published,
//!    to the policy in force; [`watch`] says when, [`accepted`] keeps the last one, [`signature`] says
//!    whose policies are taken.
//! 5. [`launch`]: ports and workers; `dpdk` is the way to the wire, [`cores`] who runs where.
//! 6. [`state`]: what control threads share; [`link`], [`clock`] and [`verdicts`] are such threads,
//!    and [`bindings`] is the one that knows who has which address.
//! 7. [`workflow`]: staging, lockdown, rollback, grants and quarantines; [`audit`]: who changed what.
//! 8. [`hardening`]: what the process gives up before any of that.
//! 9. [`failure`]: what becomes of the wires while no gateway judges, and who starts the next one.
//! 10. [`service`]: what listens: [`telemetry`] for metrics, [`control`] for commands, [`status`];
//!     [`live`] is the view that stays open.
//!
//! [`records`] is the thread that tells about flows, in the messages of [`flow_stream`], to those that
//! keep records of them; [`talkers`] is what the gateway itself makes of them.
//! [`learning`] is a process of its own, `bulkhead learn`, and what reads its store; [`map`],
//! [`devices`], [`propose`], [`explain_rule`] and [`drift`] are the commands that do.
//!
//! [`report`] puts together what all of that is evidence of.
//!
//! [`trace`] follows single packets through the workers while somebody asks.
//! [`console`] is a process of its own too: what people open in a browser.
//!
//! [`export`] is what becomes of them in other programs: JSON, IPFIX, captures.
//!
//! [`check`] (with [`analysis`]), [`explain`], [`diff`], [`reach`] and [`replay`] answer questions
//! without a running gateway.
//! [`schema`] says what commands print as JSON, and [`exit_codes`] how they end.
//! [`diagnostic`] is how a mistake in a file is shown; [`log`] and [`notice`] tell the operator and the service manager.

pub mod accepted;
pub mod analysis;
pub mod audit;
pub mod bindings;
pub mod broken_pipe;
pub mod candidate;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod control;
pub mod cores;
pub mod devices;
pub mod diagnostic;
pub mod diff;
#[cfg(feature = "dpdk")]
pub mod doctor;
#[cfg(feature = "dpdk")]
mod dpdk;
pub mod drift;
pub mod exit_codes;
pub mod explain;
pub mod explain_rule;
pub mod export;
pub mod failure;
pub mod flow_stream;
pub mod generate;
pub mod hardening;
pub mod headroom;
pub mod launch;
pub mod learning;
pub mod link;
pub mod live;
pub mod log;
pub mod map;
pub mod notice;
mod one_line;
pub mod policy_files;
pub mod propose;
pub mod reach;
pub mod records;
pub mod reload;
pub mod replay;
pub mod report;
pub mod run;
pub mod schema;
pub mod service;
pub mod signature;
pub mod state;
pub mod status;
pub mod talkers;
pub mod telemetry;
pub mod trace;
pub mod verdicts;
pub mod watch;
pub mod workflow;
