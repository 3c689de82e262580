//! What the fuzz target of the parser started from and what it found, as an ordinary test.

use std::path::Path;

use crate::{claims, invariants};

#[test]
fn the_fuzz_corpus_is_survived() {
    let frames = each_of("frame", |frame| {
        let _ = invariants::check(frame);
    });
    assert!(frames >= 20, "{frames} frames");
}

#[test]
fn the_fuzz_corpus_of_dhcp_is_survived() {
    let messages = each_of("dhcp", |message| {
        claims::check(message);
        (0..message.len()).for_each(|len| claims::check(&message[..len]));
    });
    assert!(messages >= 12, "{messages} messages");
}

/// Calls `check` with every file of a corpus. Returns how many there are.
fn each_of(corpus: &str, check: impl Fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(corpus);
    let entries = std::fs::read_dir(&folder).expect("the corpus is in the repository");
    let paths = entries.map(|entry| entry.expect("the corpus can be read").path());
    paths.map(|path| check(&std::fs::read(&path).expect("the corpus can be read"))).count()
}
