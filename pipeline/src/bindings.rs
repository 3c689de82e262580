//! Who has which address: what hosts and DHCP servers say on the wire, and what of it is believed.
//!
//! 1. [`observation`] reads claims out of ARP, neighbour discovery and DHCP ([`dhcp`]).
//! 2. [`tap`] carries them from a worker to a control thread: bounded, without a lock, and thinned out
//!    so that a flood costs the worker little and does not drown what matters.
//! 3. [`table`] decides which of them hold. It has no clock and no I/O of its own.
//!
//! What the table holds reaches the workers again as part of the policy: see
//! [`bulkhead_rules::policy::Bindings`].

pub mod dhcp;
pub mod observation;
pub mod table;
pub mod tap;

pub use observation::{Observation, ObservationKind};
pub use table::{BindingTable, TableConfig};
pub use tap::{Source, Tap, TapCounters, channel};
