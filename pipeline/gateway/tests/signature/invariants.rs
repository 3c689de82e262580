//! Shared with the fuzz target `signature`.

use bulkhead_gateway::signature::Envelope;
use bulkhead_gateway::signature::keys::TrustedKeys;
use bulkhead_gateway::signature::manifest::Manifest;
use bulkhead_gateway::signature::{Refusal, check_signature};

/// Reads a text as a file of trusted keys, as a manifest, and as a signature of nothing. Returns which of
/// the first two it is.
///
/// # Panics
///
/// When there are two spellings of a manifest, a refusal points at no line, or a signature holds.
pub(crate) fn check(text: &str) -> (bool, bool) {
    let lines = u32::try_from(text.split('\n').count()).unwrap_or(u32::MAX);
    let keys = TrustedKeys::parse(text);
    if let Err((line, what)) = &keys {
        assert!((1..=lines).contains(line) && !what.is_empty(), "keys: line {line} of {lines}");
    }
    let manifest = Manifest::parse(text);
    match &manifest {
        Ok(manifest) => assert_eq!(manifest.to_string(), text, "another spelling"),
        Err((line, what)) => {
            assert!((1..=lines).contains(line) && !what.is_empty(), "manifest: {line} of {lines}");
        }
    }
    let known = TrustedKeys::parse(KEYS).unwrap_or_else(|(_, what)| panic!("{what}"));
    let envelope = Envelope { manifest: "not signed".to_owned(), signature: text.to_owned() };
    let refused: Result<_, Refusal> = check_signature(&known, &envelope);
    assert!(refused.is_err_and(|refusal| !refusal.message.is_empty()), "a signature of nothing");
    (keys.is_ok(), manifest.is_ok())
}

/// Those with which the corpus was signed, but other texts.
const KEYS: &str = include_str!("../../../../tests/fuzz/corpus/signature/keys");
