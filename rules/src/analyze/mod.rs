//! Questions about a policy.
