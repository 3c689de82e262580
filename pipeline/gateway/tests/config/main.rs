//! What every configuration file must do, held against the fuzz corpus and files made from it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;

mod invariants;

/// `tests/fuzz` grows the corpus; here it is replayed, with every prefix and every lost line.
#[test]
fn the_fuzz_corpus_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/config");
    let (mut files, mut accepted) = (0, 0);
    for entry in fs::read_dir(&folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        files += 1;
        accepted += usize::from(invariants::check(&text));
        for (end, _) in text.char_indices() {
            invariants::check(&text[..end]);
        }
        let lines: Vec<&str> = text.lines().collect();
        for lost in 0..lines.len() {
            let kept: Vec<&str> = [&lines[..lost], &lines[lost + 1..]].concat();
            invariants::check(&kept.join("\n"));
        }
    }
    assert!(files >= 5 && accepted >= 2, "{files} files, {accepted} accepted");
}
