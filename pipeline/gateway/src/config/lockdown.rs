//! The table `[lockdown]`.

use super::{Checker, document};
use crate::workflow::lockdown::Bounds;

impl Checker<'_> {
    pub(super) fn lockdown(&mut self, table: document::Lockdown) -> Bounds {
        let default = Bounds::default();
        let min_staged_s = default.min_staged.as_secs();
        let mut bounds = Bounds {
            min_staged: self.seconds(
                "min-staged-s",
                table.min_staged_s,
                min_staged_s,
                0..=90 * 86_400,
            ),
            ..default
        };
        if let Some(ratio) = table.max_denied_ratio {
            if (0.0..=1.0).contains(ratio.get_ref()) {
                bounds.max_denied_ratio = *ratio.get_ref();
            } else {
                let message = format!("`max-denied-ratio` cannot be {}", ratio.get_ref());
                self.mistake(ratio.span(), message)
                    .help("write a share of all flows, such as 0.001 for one in a thousand");
            }
        }
        bounds
    }
}
