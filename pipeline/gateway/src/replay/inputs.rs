//! Which files a replay reads.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How deep folders are entered.
const MAX_DEPTH: usize = 64;

/// A file to replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was named itself, and not found in a folder: then it has to be a capture.
    pub named: bool,
}

/// A file or folder that could not be looked at.
#[derive(Debug)]
pub struct InputError {
    /// Which one.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// The files of `paths` in the order given, folders replaced by what is in them, in the order of the
/// bytes of the names, whatever order the disk has. Links are followed; a folder that contains itself
/// is entered once. Entries that start with a dot are left out.
///
/// # Errors
///
/// The first path that does not exist or folder that cannot be listed.
pub fn collect(paths: &[PathBuf]) -> Result<Vec<Input>, InputError> {
    let mut inputs = Vec::new();
    for path in paths {
        let mut entered = HashSet::new();
        add(path, true, &mut entered, &mut inputs)
            .map_err(|(path, error)| InputError { path, error })?;
    }
    Ok(inputs)
}

fn add(
    path: &Path,
    named: bool,
    entered: &mut HashSet<PathBuf>,
    inputs: &mut Vec<Input>,
) -> Result<(), (PathBuf, io::Error)> {
    let fail = |error| (path.to_owned(), error);
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        // A dangling link in a folder is nobody's capture.
        Err(error) if !named && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    if !metadata.is_dir() {
        // A named pipe is a capture that still runs; one that is found in a folder would block.
        if named || metadata.is_file() {
            inputs.push(Input { path: path.to_owned(), named });
        }
        return Ok(());
    }
    let real = fs::canonicalize(path).map_err(fail)?;
    if entered.len() >= MAX_DEPTH || !entered.insert(real.clone()) {
        return Ok(());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_unstable();
    for name in names {
        add(&path.join(name), false, entered, inputs)?;
    }
    entered.remove(&real);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn folders_are_read_in_the_order_of_names_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        for name in ["z.pcap", "a.pcap", "b/2.pcap", "b/10.pcap", "b/c/x", ".hidden"] {
            fs::write(root.join(name), "").unwrap();
        }
        symlink(root, root.join("b/loop")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        let last = root.join("a.pcap");
        let inputs = collect(&[root.to_owned(), last.clone()]).unwrap();
        let names: Vec<_> = (inputs.iter())
            .map(|input| input.path.strip_prefix(root).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["a.pcap", "b/10.pcap", "b/2.pcap", "b/c/x", "z.pcap", "a.pcap"]);
        assert!(!inputs[0].named && inputs[5].named);
        assert!(collect(&[root.join("missing")]).is_err());
    }
}
