//! The rule line: policy text in, batched verdicts out.
//!
//! Read the modules in the order in which a rule passes through them:
//!
//! 1. [`syntax`]: text to a document with spans, and back to text.
//! 2. [`policy`]: document to a checked [`policy::Policy`]; the only constructor of one. An edit of a
//!    checked policy ([`policy::edit`]) joins the line here.
//! 3. [`compile`]: policy to a [`classifier::Classifier`].
//! 4. [`classifier`]: the immutable compiled form and its batched lookup.
//!
//! [`headers`] is what a rule can see of a frame, [`sets`] are the value sets that rules test,
//! [`packet`] is a frame's headers in words, [`oracle`] is the slow, obviously right linear scan
//! that everything is compared with, and [`analyze`] answers questions about a policy (its
//! assertions, for now).

pub mod analyze;
pub mod classifier;
pub mod compile;
pub mod headers;
pub mod intrinsics;
mod lanes;
pub mod oracle;
pub mod packet;
pub mod policy;
pub mod sets;
pub mod syntax;
