//! `[signatures]`: whose policies are taken.

use std::path::PathBuf;

use super::{Checker, document};
use crate::signature::manifest::is_policy;

/// Whose policies are taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Signatures {
    /// The file of trusted keys; without it no signature is looked at.
    pub trusted_keys: Option<PathBuf>,
    /// Whether a policy that is not signed is refused.
    pub required: bool,
    /// The name that a signed policy must have.
    pub name: Option<String>,
}

impl Checker<'_> {
    pub(super) fn signatures(&mut self, table: document::Signatures) -> Signatures {
        let trusted_keys = table.trusted_keys.map(|path| self.path(Some(path), ""));
        let required = table.required.as_ref().map_or(trusted_keys.is_some(), |key| *key.get_ref());
        let of_no_use = match (&table.required, &table.name) {
            (Some(required), _) if *required.get_ref() => Some((required.span(), "required")),
            (_, Some(name)) => Some((name.span(), "name")),
            _ => None,
        };
        if let (None, Some((span, key))) = (&trusted_keys, of_no_use) {
            self.mistake(span, format!("`{key}` without `trusted-keys`")).help(
                "name the file of the keys that may sign, as `trusted-keys = \"/etc/bulkhead/trusted-keys\"`",
            );
        }
        let name = table.name.map(|name| {
            if !is_policy(name.get_ref()) {
                let message = format!("`{}` cannot be the name of a policy", name.get_ref());
                self.mistake(name.span(), message)
                    .help("letters, digits, `-`, `_` and `.`, at most 63, as `bulkhead sign --name` takes it");
            }
            name.into_inner()
        });
        Signatures { trusted_keys, required, name }
    }
}
