//! What the learner keeps at most. Each limit that is met is counted in [`crate::store::Losses`].

/// Hosts.
pub const HOSTS: usize = 1 << 20;

/// Distinct edges.
pub const EDGES: usize = 1 << 25;

/// Distinct flows whose direction is not known yet.
pub const HELD_BACK: usize = 1 << 16;

/// Distinct (group address, service) pairs of broadcasts and multicasts.
pub const TEMPLATES: usize = 4_096;

/// Addresses of one host.
pub const ADDRESSES_PER_HOST: usize = 64;
