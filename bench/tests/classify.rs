//! `bulkhead-bench classify` on a set of one's own: what the README promises of its JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

/// A small set, some of its rules inside of others.
fn set() -> String {
    let mut out = String::new();
    for rule in 0..60 {
        let (net, len) = (rule % 7, 8 + rule % 25);
        let protocol = ["0x06/0xFF", "0x11/0xFF", "0x01/0xFF", "0x00/0x00"][rule % 4];
        let ports =
            if rule % 4 < 2 { format!("{rule} : {}", rule * 100) } else { "0 : 65535".into() };
        let _ = writeln!(
            out,
            "@10.{net}.0.0/{len}\t192.0.2.{rule}/32\t0 : 65535\t{ports}\t{protocol}\t0x0000/0x0000\t",
        );
    }
    out
}

#[test]
fn a_set_of_ones_own_gives_a_line_of_json_for_each_family() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, gzip) = (folder.path().join("mine"), folder.path().join("packed.gz"));
    std::fs::write(&plain, set()).unwrap();
    let mut encoder = GzEncoder::new(std::fs::File::create(&gzip).unwrap(), Compression::fast());
    encoder.write_all(set().as_bytes()).unwrap();
    encoder.finish().unwrap();
    // Without huge pages: a test leaves the machine as it is.
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead-bench"))
        .args(["classify", "--family", "both", "--headers", "5000", "--rounds", "3", "--json"])
        .args(["--huge-pages-mib", "0", "--rules"])
        .args([&plain, &gzip])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let names: Vec<_> =
        lines.iter().map(|line| (line["set"].as_str(), line["family"].as_str())).collect();
    let named = |set, family| (Some(set), Some(family));
    assert_eq!(
        names,
        [named("mine", "v4"), named("packed", "v4"), named("mine", "v6"), named("packed", "v6")]
    );
    for line in &lines {
        let positive = |key: &str| {
            assert!(line[key].as_f64().is_some_and(|value| value > 0.0), "{key} of {line}");
        };
        for key in ["ns_per_lookup", "librte_acl_ns", "ratio", "tuple_space_ns", "matched"] {
            positive(key);
        }
        for key in ["build_ms", "librte_acl_build_ms", "bytes", "peak_bytes"] {
            positive(key);
        }
        assert_eq!((line["rules"].as_u64(), line["wrong"].as_u64()), (Some(59), Some(0)), "{line}");
        assert_eq!(line["order"], "uniform");
        let text = |key: &str| line[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(text("machine") && text("commit"), "{line}");
    }
}

#[test]
fn the_folder_to_record_in_is_made_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine");
    std::fs::write(&file, set()).unwrap();
    let classify = |record: &Path| {
        Command::new(env!("CARGO_BIN_EXE_bulkhead-bench"))
            .args(["classify", "--without-acl", "--headers", "1000", "--rounds", "1", "--rules"])
            .arg(&file)
            .arg("--record")
            .arg(record)
            .output()
            .unwrap()
    };
    let new = folder.path().join("not/yet");
    let output = classify(&new);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["classify.md", "classify.json", "classify.svg"] {
        assert!(new.join(name).is_file(), "{name}");
    }
    // Nothing is a folder below a file.
    let output = classify(&file.join("below"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("mine/below"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing is measured");
}

#[test]
fn a_file_that_is_no_set_is_named_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken");
    std::fs::write(&file, format!("{}@10.0.0.0/8 nonsense\n", set())).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead-bench"))
        .args(["classify", "--without-acl", "--rules"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("broken: line 61: `@10.0.0.0/8"), "{said}");
}
