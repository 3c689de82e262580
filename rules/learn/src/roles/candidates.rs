//! Which roles may be alike enough to be worth comparing.
//!
//! Few roles are all compared that share a token. Many are compared where MinHash finds that they
//! share what is rare: each signature is cut into bands of hashes, and roles meet where they agree
//! in a band.

use std::collections::{HashMap, HashSet};

use super::{Key, Token, WEIGHT};

/// Pairs up to which all that share a token are compared.
const ALL_PAIRS: usize = 400_000;

/// Bands of a signature, and hashes in each of them: pairs that share half of what counts meet
/// with a probability of 0.9, those that share a tenth with 0.1.
const BANDS: usize = 8;
const ROWS: usize = 2;

/// Roles in one bucket that are compared each with each; in larger ones each with its neighbours.
const BUCKET: usize = 12;

/// Pairs of roles, the lower one first, in order.
pub(super) fn pairs(roles: &[&[Token]], weights: &HashMap<Key, u64>) -> Vec<(u32, u32)> {
    let mut pairs = all(roles).unwrap_or_else(|| alike(roles, weights));
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// All pairs that share a token, unless they are too many.
fn all(roles: &[&[Token]]) -> Option<Vec<(u32, u32)>> {
    let mut having: HashMap<Key, Vec<u32>> = HashMap::new();
    for (role, tokens) in roles.iter().enumerate() {
        for &(key, _) in *tokens {
            having.entry(key).or_default().push(role as u32);
        }
    }
    let mut budget = ALL_PAIRS;
    let mut pairs = HashSet::new();
    for roles in having.into_values() {
        budget = budget.checked_sub(roles.len() * (roles.len() - 1) / 2)?;
        for (at, &b) in roles.iter().enumerate() {
            pairs.extend(roles[..at].iter().map(|&a| (a, b)));
        }
    }
    Some(pairs.into_iter().collect())
}

fn alike(roles: &[&[Token]], weights: &HashMap<Key, u64>) -> Vec<(u32, u32)> {
    let mut buckets: Vec<(u64, u32)> = Vec::with_capacity(roles.len() * BANDS);
    for (role, tokens) in roles.iter().enumerate() {
        if tokens.is_empty() {
            continue;
        }
        let smallest = signature(tokens, weights);
        for (band, rows) in smallest.chunks_exact(ROWS).enumerate() {
            let hash = rows.iter().fold(band as u64, |hash, &row| crate::mix(hash ^ row));
            buckets.push((hash, role as u32));
        }
    }
    buckets.sort_unstable();
    let mut pairs = Vec::new();
    for bucket in buckets.chunk_by(|a, b| a.0 == b.0) {
        for (at, &(_, a)) in bucket.iter().enumerate() {
            let reach = if bucket.len() <= BUCKET { BUCKET } else { BUCKET / 4 };
            pairs.extend(bucket[at + 1..].iter().take(reach).map(|&(_, b)| (a.min(b), a.max(b))));
        }
    }
    pairs
}

/// The smallest hash of the tokens in each of `BANDS * ROWS` orders, in which rare tokens tend to
/// come first.
fn signature(tokens: &[Token], weights: &HashMap<Key, u64>) -> [u64; BANDS * ROWS] {
    let mut smallest = [(u64::MAX, u64::MAX); BANDS * ROWS];
    for &(key, _) in tokens {
        let weight = weights.get(&key).copied().unwrap_or(WEIGHT).max(1);
        let mut hash = crate::mix(key.0);
        for smallest in &mut smallest {
            hash = crate::mix(hash);
            // An exponential variate with the weight as its rate: -ln(u) / weight, the smallest of
            // which is the token's with a probability in proportion to its weight.
            let rank = (exponential(hash) / weight, key.0);
            *smallest = rank.min(*smallest);
        }
    }
    smallest.map(|(_, key)| key)
}

/// About `-log2(u) * 2^40` of a uniform word, from integers alone.
fn exponential(uniform: u64) -> u64 {
    let uniform = uniform | 1;
    let whole = u64::from(uniform.leading_zeros());
    let fraction = (uniform << whole) >> 23;
    // The logarithm within an octave is near enough to a straight line.
    ((whole + 1) << 40) - (fraction - (1 << 40))
}
