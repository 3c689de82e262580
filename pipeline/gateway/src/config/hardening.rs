//! `[hardening]`: what a process of Bulkhead may do besides what it needs; and who may talk to the gateway.

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
    /// The group whose members may do everything over the control socket: its name or its number.
    pub control_group: Option<String>,
    /// The group whose members may ask, over a socket beside it, and change nothing.
    pub control_read_group: Option<String>,
}

impl Checker<'_> {
    pub(super) fn hardening(
        &mut self,
        table: document::Hardening,
        groups: [Option<Spanned<String>>; 2],
    ) -> Hardening {
        let groups = groups.map(|group| group.and_then(|group| self.group(&group)));
        let [control_group, control_read_group] = groups;
        let mut paths = |list: Option<Vec<Spanned<String>>>| -> Vec<PathBuf> {
            list.unwrap_or_default().into_iter().map(|path| self.path(Some(path), "")).collect()
        };
        let (read, write) = (paths(table.read), paths(table.write));
        let confine = table.confine.unwrap_or(true);
        Hardening { confine, read, write, control_group, control_read_group }
    }
}
