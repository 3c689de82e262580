//! What nobody can guess: session cookies, tokens, the set-up link. Only their hashes are kept.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Bytes of a secret.
const BYTES: usize = 32;

/// The longest text that is looked at as a secret.
const MAX_TEXT: usize = 200;

/// The hash of a secret. A secret has 256 bits from the kernel, so that one round is enough.
pub type Hash = [u8; 32];

/// A new secret as URL-safe text of 43 letters.
///
/// # Errors
///
/// That the kernel has no random numbers.
pub fn new() -> Result<String, String> {
    let mut bytes = [0; BYTES];
    fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A new number that tells things apart and is no secret: 10 hexadecimal digits.
///
/// # Errors
///
/// That the kernel has no random numbers.
pub fn id() -> Result<String, String> {
    let mut bytes = [0; 5];
    fill(&mut bytes)?;
    Ok(hex(&bytes))
}

/// Fills `bytes` with random ones.
///
/// # Errors
///
/// That the kernel has none.
pub fn fill(bytes: &mut [u8]) -> Result<(), String> {
    getrandom::fill(bytes).map_err(|error| format!("the kernel has no random numbers: {error}"))
}

/// The hash of a secret; [`None`] for what is too long to be one.
pub fn hash(text: &str) -> Option<Hash> {
    (text.len() <= MAX_TEXT).then(|| Sha256::digest(text).into())
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether two texts are the same, in a time that does not tell where they differ.
pub fn same(a: &str, b: &str) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter().zip(b.iter()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
