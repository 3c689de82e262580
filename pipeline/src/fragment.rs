//! Later fragments follow their first one. Until the table lands every later fragment is an orphan.

use crate::parse::{FragmentPlace, Parsed};
use crate::verdict::DropReason;

/// What tells the fragments of one packet from those of another.
#[derive(Clone, Copy, Debug)]
pub struct FragmentKey;

impl FragmentKey {
    /// The key of a fragment.
    pub fn of(_parsed: &Parsed, _group: u16) -> Self {
        Self
    }
}

/// What became of the first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// It was forwarded.
    Permitted,
    /// It was dropped.
    Denied,
}

/// How a table is made.
#[derive(Clone, Debug, Default)]
pub struct FragmentTableConfig;

/// The packets whose fragments are under way.
#[derive(Debug)]
pub struct FragmentTable;

impl FragmentTable {
    /// An empty table.
    pub fn new(_config: &FragmentTableConfig) -> Self {
        Self
    }

    /// Remembers what became of a first fragment.
    ///
    /// # Errors
    ///
    /// Why the fragment has to be dropped.
    pub fn note_first(
        &mut self,
        _key: &FragmentKey,
        _place: &FragmentPlace,
        _disposition: Disposition,
        _now_ns: u64,
    ) -> Result<(), DropReason> {
        Ok(())
    }

    /// What became of the first fragment of a later one.
    ///
    /// # Errors
    ///
    /// Why the fragment has to be dropped.
    pub fn follow(
        &mut self,
        _key: &FragmentKey,
        _place: &FragmentPlace,
        _now_ns: u64,
    ) -> Result<Disposition, DropReason> {
        Err(DropReason::FragmentOrphan)
    }
}
