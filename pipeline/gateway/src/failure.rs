//! What becomes of the wires while no gateway judges: at start, after a crash, while it hangs, when it
//! stops and when it is renewed.
//!
//! A small process, the [`supervisor`], starts the gateway as its child, hears from it on a socket many
//! times a second ([`channel`]), ends it when it hangs, starts it anew, and meanwhile lets the wires that
//! `fail = "open"` carry frames unjudged ([`bypass`]). It opens no port, reads no packet and no policy.
//! [`supervised`] is the child's side of it. `bulkhead restart` renews the gateway without letting the
//! wires go for longer than ports take to change hands: the supervisor starts the new one beside the old
//! one, whose control side ends first and whose workers end last.
//!
//! ```text
//! new: start, read, DPDK ─▸ prepared                         take state, compile ─▸ wants the ports           ─▸ opens, judges
//! old: judges                        ─▸ ends control ─▸ retired       (judges on)          ─▸ closes ─▸ closed
//! ```

pub mod bypass;
pub mod bypassed;
pub mod bypasses;
pub mod channel;
pub mod command;
pub mod relays;
pub mod restart;
pub mod signals;
pub mod supervised;
pub mod supervisor;
