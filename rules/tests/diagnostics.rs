//! Golden diagnostics: every `diagnostics/*.yaml` is loaded and what it prints compared with the
//! `.txt` beside it. A folder is a policy of several files. The files are rewritten, for review in
//! the diff, when `BULKHEAD_BLESS` is set.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_rules::policy::{LoadOptions, Policy};
use bulkhead_rules::syntax::{Code, Diagnostic, Severity, Source};

fn options() -> LoadOptions {
    LoadOptions {
        wires: Some(vec![Arc::from("line-3"), Arc::from("lab")]),
        // 2026-11-22T00:00:00Z
        now_unix_ms: Some(1_795_305_600_000),
        ..LoadOptions::default()
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let entries = fs::read_dir(folder).expect("the folder of golden diagnostics");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    paths.sort();
    assert!(paths.len() > 10, "only {} cases", paths.len());
    paths
}

/// The sources of a case, named without folders so that the output is the same everywhere.
fn sources(case: &Path) -> Vec<Source> {
    let mut files = vec![case.to_path_buf()];
    if case.is_dir() {
        let entries = fs::read_dir(case).expect("a case's folder");
        files = entries.map(|entry| entry.expect("a readable folder").path()).collect();
        files.sort();
    }
    let source = |path: &PathBuf| {
        let name = path.file_name().expect("a file name").to_string_lossy().into_owned();
        Source::new(name, fs::read_to_string(path).expect("a readable case"))
    };
    files.iter().map(source).collect()
}

fn diagnostics(case: &Path) -> Vec<Diagnostic> {
    match Policy::load(&sources(case), &options()) {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => diagnostics,
    }
}

#[test]
fn diagnostics_read_as_they_are_recorded() {
    let bless = std::env::var_os("BULKHEAD_BLESS").is_some();
    for case in cases() {
        let found = diagnostics(&case);
        let printed: String = found.iter().map(|diagnostic| format!("{diagnostic}\n\n")).collect();
        let golden = case.with_extension("txt");
        if bless {
            fs::write(&golden, &printed).expect("a writable folder");
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(printed, expected, "{}", case.display());
    }
}

/// Whatever can be reported is shown by some case, but for what takes a huge or a binary file; those
/// are in `hostile.rs`.
#[test]
fn every_code_has_a_case() {
    let seen: BTreeSet<Code> =
        cases().iter().flat_map(|case| diagnostics(case)).map(|d| d.code()).collect();
    let elsewhere = [Code::TextEncoding, Code::TextTooLarge, Code::TooManyFindings];
    let missing: Vec<&str> = Code::ALL
        .iter()
        .filter(|code| !seen.contains(code) && !elsewhere.contains(code))
        .map(|code| code.label())
        .collect();
    assert!(missing.is_empty(), "no case shows {}", missing.join(", "));
}

#[test]
fn the_language_reference_lists_every_code() {
    let reference = include_str!("../README.md");
    for code in Code::ALL {
        let row = format!("| `{}` | {} |", code.label(), code.help());
        assert!(reference.contains(&row), "README.md lacks the row\n{row}");
    }
}

#[test]
fn diagnostics_serialise_for_programs() {
    let text = "version: 1\ngroups: {a: 10.0.0.1, b: 10.0.0.5/24}\n";
    let errors = Policy::parse(text).expect_err("host bits");
    let json = serde_json::to_value(&errors).expect("serialisable");
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["code"], "host-bits");
    assert_eq!(json[0]["place"]["line"], 2);
    assert_eq!(json[0]["place"]["column"], 26);
    assert_eq!(json[0]["place"]["bytes"]["start"], 36);
    assert!(json[0]["help"].as_str().is_some_and(|help| help.contains("10.0.0.0/24")));
}

#[test]
fn a_policy_without_errors_only_warns() {
    let text = "version: 1\ndefault: allow\n";
    let sources = [Source::new("policy.yaml", text)];
    let loaded = Policy::load(&sources, &options()).expect("a policy");
    assert!(!loaded.warnings.is_empty());
    assert!(loaded.warnings.iter().all(|warning| warning.severity() == Severity::Warning));
}
