//! Where the captures of the data folder are.

use std::path::{Path, PathBuf};

/// The folder of captures. Its absence is a skip of `test` that says so, and in CI a failure.
pub(crate) fn folder(test: &str) -> Option<PathBuf> {
    let data = std::env::var_os("BULKHEAD_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let folder = data.join("captures");
    if folder.is_dir() {
        return Some(folder);
    }
    let absent = format!("no captures at {}; set BULKHEAD_DATA", folder.display());
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{absent}");
    println!("SKIPPED: {test}: {absent}");
    None
}
