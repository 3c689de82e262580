//! Texts that no person would write: the fuzz corpus and policies with random edits.

mod invariants;

use std::path::Path;

use proptest::prelude::*;

#[test]
fn the_fuzz_corpus_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/policy");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("the corpus can be read").path();
        invariants::check(&std::fs::read(&path).expect("the corpus can be read"));
        count += 1;
    }
    assert!(count >= 10, "only {count} files in {}", folder.display());
}

const SEEDS: [&str; 3] = [
    include_str!("../../../deploy/examples/plant-line.yaml"),
    include_str!("../../../deploy/examples/datacentre-three-tier.yaml"),
    include_str!("../../../deploy/examples/hospital-ward.yaml"),
];

/// What is put in: what the language and YAML are made of.
const PIECES: &[&str] = &[
    "\n",
    "  ",
    "\t",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "!t ",
    "|\n",
    ">\n",
    "? ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "~",
    "any",
    "in: ",
    "except: ",
    "between: ",
    "10.0.0.0/8",
    "fd00::",
    "02:00:00:00:00:01",
    "tcp/1",
    "untagged",
    "vlan: ",
    "\u{feff}",
    "é",
    "\u{202e}",
    "\0",
    "0",
    "65536",
    "2026-12-01T00:00:00Z",
    "rules:\n",
    "groups:\n",
    "- name: x\n",
];

fn edited() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..40usize, prop::sample::select(PIECES));
    (prop::sample::select(&SEEDS[..]), prop::collection::vec(edit, 1..6)).prop_map(
        |(seed, edits)| {
            let mut text: Vec<char> = seed.chars().collect();
            for (at, removed, piece) in edits {
                let at = at.index(text.len() + 1);
                let end = (at + removed).min(text.len());
                text.splice(at..end, piece.chars());
            }
            text.into_iter().collect()
        },
    )
}

proptest! {
    #[test]
    fn edited_policies_are_survived(text in edited()) {
        invariants::check(text.as_bytes());
    }

    #[test]
    fn pieces_in_any_order_are_survived(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40),
    ) {
        invariants::check(format!("version: 1\n{}", pieces.concat()).as_bytes());
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        invariants::check(&bytes);
    }
}
