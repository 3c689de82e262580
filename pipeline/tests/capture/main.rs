//! The reader of captures on the corpus of its fuzz target, and on that corpus damaged.

mod invariants;

use std::path::Path;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/capture");
    let mut files: Vec<_> = (std::fs::read_dir(&folder).expect("the corpus is in the repository"))
        .map(|entry| entry.expect("the corpus can be read").path())
        .map(|path| {
            let bytes = std::fs::read(&path).expect("the corpus can be read");
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    files.sort();
    assert!(files.len() >= 7, "{} files in the corpus", files.len());
    files
}

#[test]
fn the_fuzz_corpus_holds_the_frames_that_it_should() {
    for (name, file) in corpus() {
        assert!(invariants::check(&file) > 0 || name.starts_with("bad-"), "{name}");
    }
}

#[test]
fn every_single_byte_of_it_may_be_wrong_or_missing() {
    for (_, file) in corpus() {
        for place in 0..file.len() {
            invariants::check(&file[..place]);
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut damaged = file.clone();
                damaged[place] = value;
                invariants::check(&damaged);
            }
        }
    }
}
