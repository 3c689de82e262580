//! The normal form of a union: alternatives that differ in one condition only are one alternative.

use std::collections::HashMap;
use std::hash::Hash;

/// Splits every alternative into a key (the conditions that must agree) and a part (the one that may
/// differ), and builds one alternative of all parts with the same key, in the order in which the keys
/// first came.
pub(super) fn join<A, K: Eq + Hash + Clone, P>(
    alternatives: Vec<A>,
    split: impl Fn(A) -> (K, P),
    build: impl Fn(K, Vec<P>) -> A,
) -> Vec<A> {
    let mut places: HashMap<K, usize> = HashMap::with_capacity(alternatives.len());
    let mut parts: Vec<(K, Vec<P>)> = Vec::with_capacity(alternatives.len());
    for (key, part) in alternatives.into_iter().map(split) {
        let place = *places.entry(key.clone()).or_insert(parts.len());
        match parts.get_mut(place) {
            Some((_, list)) => list.push(part),
            None => parts.push((key, vec![part])),
        }
    }
    parts.into_iter().map(|(key, list)| build(key, list)).collect()
}
