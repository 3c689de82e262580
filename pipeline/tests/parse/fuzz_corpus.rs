//! What the fuzz target of the parser started from and what it found, as an ordinary test.

use std::path::Path;

use crate::invariants;

#[test]
fn the_fuzz_corpus_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/frame");
    let mut frames = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("the corpus can be read").path();
        let frame = std::fs::read(&path).expect("the corpus can be read");
        let _ = invariants::check(&frame);
        frames += 1;
    }
    assert!(frames >= 20, "{frames} frames in {}", folder.display());
}
