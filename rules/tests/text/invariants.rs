//! What holds for every text, sense or nonsense. The fuzz target `policy` checks the same.

use bulkhead_rules::policy::{Limits, LoadOptions, Policy};
use bulkhead_rules::syntax::{Diagnostic, Severity, Source, parse_document};

/// Loads the bytes as one file.
///
/// # Panics
///
/// When something does not hold that must.
pub(crate) fn check(bytes: &[u8]) {
    let limits = Limits { values: 100_000, ranges: 100_000, terms: 10_000, ..Limits::default() };
    let options = LoadOptions { limits, now_unix_ms: Some(0), ..LoadOptions::default() };
    let source = match Source::from_bytes("text.yaml", bytes.to_vec()) {
        Ok(source) => source,
        Err(diagnostic) => return check_diagnostic(&diagnostic, bytes.len()),
    };
    let document = parse_document(&source, &limits);
    match Policy::load(std::slice::from_ref(&source), &options) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| check_diagnostic(warning, bytes.len()));
            assert!(loaded.warnings.iter().all(|w| w.severity() == Severity::Warning));
            let document = document.expect("what loads, parses");
            let printed = Source::new("printed.yaml", document.to_string());
            let again = parse_document(&printed, &limits).expect("what is printed, parses");
            assert_eq!(again, document, "{}", printed.text);
            let again = Policy::load(&[printed], &options).expect("what is printed, loads").policy;
            assert_same_meaning(&loaded.policy, &again);
        }
        Err(diagnostics) => {
            assert!(diagnostics.iter().any(|d| d.severity() == Severity::Error));
            diagnostics.iter().for_each(|diagnostic| check_diagnostic(diagnostic, bytes.len()));
        }
    }
}

fn check_diagnostic(diagnostic: &Diagnostic, len: usize) {
    assert!(!diagnostic.message().is_empty());
    assert!(diagnostic.to_string().len() < 10_000, "an endless message");
    let labels = diagnostic.labels().iter().map(|label| &label.place);
    for place in diagnostic.place().into_iter().chain(labels) {
        assert!(place.line >= 1 && place.column >= 1, "{diagnostic}");
        // A text that is not UTF-8 is counted as it is, not as it is shown.
        assert!(place.bytes.start <= len, "{diagnostic}");
    }
}

/// Everything is the same but for the places.
fn assert_same_meaning(one: &Policy, other: &Policy) {
    assert_eq!(one.default_action(), other.default_action());
    assert_eq!(one.endpoints(), other.endpoints());
    assert_eq!(one.services(), other.services());
    assert_eq!(one.wires(), other.wires());
    assert_eq!(one.assertions().len(), other.assertions().len());
    assert_eq!(one.rules().len(), other.rules().len());
    for (rule, again) in one.rules().iter().zip(other.rules()) {
        let location = again.location.clone();
        let mut rule = bulkhead_rules::policy::Rule::clone(rule);
        rule.location = location;
        assert_eq!(&rule, &**again);
    }
}
