//! Tables of what numbers make up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table whose keys are numbers, or lists of them.
pub(super) type ByNumbers<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;

/// A hash of numbers that nobody chooses to collide: a policy is its operator's own, and the work is
/// limited.
#[derive(Default)]
pub(super) struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        let number = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        };
        words.by_ref().for_each(|word| self.write_u64(number(word)));
        if !words.remainder().is_empty() {
            self.write_u64(number(words.remainder()));
        }
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value ^ 0xa076_1d64_78bd_642f);
    }
}
