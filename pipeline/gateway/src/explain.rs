//! A packet in words to the verdict of a policy.

pub mod packet;
