//! The captures of the data folder.

use std::path::{Path, PathBuf};

use bulkhead_pipeline::port::capture::{CaptureReader, LinkType};

/// Prints that a test did not run, in the form that `tests/run.sh` counts.
pub(crate) fn skip(test: &str, reason: &str) {
    println!("SKIPPED: {test}: {reason}");
}

/// The folder of captures. Its absence is a skip that says so, and in CI a failure.
pub(crate) fn captures(test: &str) -> Option<PathBuf> {
    let data = std::env::var_os("BULKHEAD_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let folder = data.join("captures");
    if folder.is_dir() {
        return Some(folder);
    }
    let absent = format!("no captures at {}; set BULKHEAD_DATA", folder.display());
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{absent}");
    skip(test, &absent);
    None
}

/// Calls `look` with the file, the bytes, and whether the capture cut them short, for every Ethernet
/// frame of the captures: in the order of the files' names, so that every run is the same.
pub(crate) fn each_frame(folder: &Path, mut look: impl FnMut(&Path, &[u8], bool)) {
    let mut files = Vec::new();
    list_files(folder, &mut files);
    assert!(files.len() > 2000, "{} files in {}", files.len(), folder.display());
    for path in files {
        // What is no capture, or ends damaged, is the reader's matter and tested there.
        let Ok(mut reader) = CaptureReader::open(&path) else { continue };
        while let Ok(Some(record)) = reader.next_record() {
            if record.link_type == LinkType::ETHERNET {
                look(&path, record.bytes, record.is_cut());
            }
        }
    }
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the data folder can be read")
        .map(|entry| entry.expect("the data folder can be read").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            list_files(&path, files);
        } else if path.extension().is_none_or(|extension| extension != "tsv") {
            files.push(path);
        }
    }
}
