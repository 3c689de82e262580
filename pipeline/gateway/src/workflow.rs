//! From observing to enforcing, and what follows: changes that people make by command.
//!
//! Each is a [`Change`], sent over the control socket, applied by the one thread that also reloads
//! ([`apply`]), entered into the [`crate::audit`] log before it is in force, and kept for the next
//! start ([`standing`]). [`stage`] shows a policy's effects before it has any, [`lockdown`] says what
//! stands in the way of enforcing it, [`history`] is what `rollback` goes back to, [`overlay`] holds
//! grants and quarantines. [`commands`] is the other end of the socket.

use serde::{Deserialize, Serialize};

use crate::audit::Who;
use crate::candidate::Finding;
use crate::signature::Envelope;

pub mod apply;
pub mod commands;
pub mod history;
pub mod hosts;
pub mod lockdown;
pub mod overlay;
pub mod stage;
pub mod standing;

/// The texts of a policy, as a client has read them: the gateway may not see the client's files, and
/// must not read for it what the client may not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PolicyTexts {
    /// Where they were read from.
    pub source: String,
    /// Name and text of each file, in the order in which they are read.
    pub files: Vec<(String, String)>,
    /// Their manifest and its signature, where they are signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
}

/// What is to be changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// Put a policy beside the one in force.
    Stage {
        /// The policy.
        policy: PolicyTexts,
    },
    /// Stage nothing any more.
    Unstage {},
    /// Let wires observe.
    Observe {
        /// Their names; all of them where there is none.
        wires: Vec<String>,
    },
    /// Put the staged policy in force and let wires enforce it.
    Lockdown {
        /// Their names; all of them where there is none.
        wires: Vec<String>,
        /// Another policy than the staged one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        policy: Option<PolicyTexts>,
        /// The hash of the policy that was looked at: no other one is put in force, forced or not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect: Option<String>,
    },
    /// Put an earlier version in force, its policy and its modes.
    Rollback {
        /// Its number; the one before where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    /// Take the policy's files into force although one that was issued later was in force.
    TakeOlder {},
    /// Permit something for a time.
    Grant {
        /// The side that opens, as in a rule.
        from: String,
        /// The side that is opened to.
        to: String,
        /// What is opened.
        service: String,
        /// For how long, in seconds.
        for_s: u64,
    },
    /// End a grant before its time.
    Revoke {
        /// Its name.
        name: String,
    },
    /// Leave a device nothing but the essentials.
    Quarantine {
        /// Its name in the policy, an address or a MAC address.
        device: String,
        /// Services that it may still open.
        allow: Vec<String>,
    },
    /// Let a device out of quarantine.
    Release {
        /// As it was put there.
        device: String,
    },
}

/// Who asks for a change, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// What is to be changed.
    pub change: Change,
    /// Who asks.
    pub who: Who,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Whether it is to be done although something stands in the way.
    pub force: bool,
}

/// What became of a change.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ChangeReport {
    /// Whether it was made.
    pub done: bool,
    /// What was done, or not, in a sentence.
    pub what: String,
    /// What stands in the way, where it was refused.
    pub obstacles: Vec<String>,
    /// What is wrong with a policy, and what a person should look at.
    pub findings: Vec<Finding>,
    /// The first epoch of what was published.
    pub epoch: Option<u64>,
    /// Microseconds from publication until the last worker judged by it.
    pub publish_us: Option<u64>,
    /// A worker that did not in time.
    pub stalled_worker: Option<usize>,
    /// The name of a grant that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl ChangeReport {
    /// It was not made, for this reason.
    pub fn refused(what: impl Into<String>) -> Box<Self> {
        Box::new(Self { what: what.into(), ..Self::default() })
    }

    /// It was not made, for these faults of a policy.
    pub fn wrong(what: impl Into<String>, findings: Vec<Finding>) -> Box<Self> {
        Box::new(Self { what: what.into(), findings, ..Self::default() })
    }
}
