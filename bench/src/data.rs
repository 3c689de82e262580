//! The data folder: rule sets that are for measuring and never part of the repository.

use std::path::{Path, PathBuf};
use std::{env, io};

use bulkhead_rules::policy::{LoadOptions, Policy};
use bulkhead_rules::syntax::Source;

use crate::classbench::{self, Family};

/// The families of ClassBench sets in the folder.
pub const CLASSBENCH_KINDS: [&str; 3] = ["acl1", "fw1", "ipc1"];

/// The data folder that `BULKHEAD_DATA` names, by default `shared` beside the repository; [`None`]
/// where there is none.
pub fn folder() -> Option<PathBuf> {
    let default = || repository().join("../shared");
    let folder = env::var_os("BULKHEAD_DATA").map_or_else(default, PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// The example policies of the repository, by name.
///
/// # Errors
///
/// Where the folder of examples cannot be read, or one of them is no policy.
pub fn examples() -> io::Result<Vec<(String, Policy)>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(repository().join("deploy/examples"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, load(&path.to_string_lossy(), std::fs::read_to_string(&path)?)?))
        })
        .collect()
}

/// The ClassBench set of a kind with about so many rules, as a policy of one address family.
///
/// # Errors
///
/// Where the file cannot be read or is no rule set.
pub fn classbench(folder: &Path, kind: &str, rules: u32, family: Family) -> io::Result<Policy> {
    let path = folder.join(format!("classbench/{kind}_{rules}.gz"));
    let text =
        classbench::policy_text(&classbench::read(&path)?, family).map_err(io::Error::other)?;
    load(&path.to_string_lossy(), text)
}

/// The ClassBench sets of the folder, the small ones first.
///
/// # Errors
///
/// Where there is no data folder.
pub fn classbench_files() -> io::Result<Vec<PathBuf>> {
    let folder = folder().ok_or_else(|| {
        io::Error::other("no data folder: BULKHEAD_DATA names it; or name rule sets with --rules")
    })?;
    let sizes = [1_000, 10_000, 100_000].into_iter();
    let sets = sizes.flat_map(|rules| CLASSBENCH_KINDS.map(|kind| format!("{kind}_{rules}.gz")));
    Ok(sets.map(|set| folder.join("classbench").join(set)).collect())
}

/// A policy of generated text.
///
/// # Errors
///
/// Where it is no policy.
pub fn load(name: &str, text: String) -> io::Result<Policy> {
    match Policy::load(&[Source::new(name, text)], &LoadOptions::default()) {
        Ok(loaded) => Ok(loaded.policy),
        Err(diagnostics) => {
            let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
            Err(io::Error::other(first))
        }
    }
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
