//! A packet in words to the verdict of a policy.

pub use bulkhead_rules::packet;
