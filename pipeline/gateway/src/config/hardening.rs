//! `[hardening]`: what a process of Bulkhead may do besides what it needs.

use std::path::PathBuf;

use super::Checker;
use super::document::{self, Spanned};

/// What [`crate::hardening`] is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hardening {
    /// Whether processes confine themselves at their start.
    pub confine: bool,
    /// Further files and folders to read.
    pub read: Vec<PathBuf>,
    /// Further folders to write below.
    pub write: Vec<PathBuf>,
}

impl Default for Hardening {
    fn default() -> Self {
        Self { confine: false, read: Vec::new(), write: Vec::new() }
    }
}

impl Checker<'_> {
    pub(super) fn hardening(&mut self, table: document::Hardening) -> Hardening {
        let mut paths = |list: Option<Vec<Spanned<String>>>| -> Vec<PathBuf> {
            list.unwrap_or_default().into_iter().map(|path| self.path(Some(path), "")).collect()
        };
        let (read, write) = (paths(table.read), paths(table.write));
        Hardening { confine: table.confine.unwrap_or(false), read, write }
    }
}
