//! What a quarantine keeps out where the wire observes.
//!
//! Such a wire forwards what it would drop, and much is dropped before any rule is asked: for its
//! form, its side of the wire, the state of its connection or the rate of its sender. None of that
//! may be a way out of a quarantine.

use bulkhead_rules::policy::RuleId;

use super::{Judge, Moment};
use crate::burst::{Columns, Places};
use crate::parse::Kind;
use crate::snapshot::Mode;
use crate::verdict::{DropReason, Verdict};
use crate::worker::is_sent;

impl Moment<'_> {
    /// Whether rules of a quarantine hold although the wire observes.
    #[inline]
    pub(super) fn has_quarantine(&self) -> bool {
        self.wire.quarantine_rules > 0 && self.wire.mode == Mode::Observe
    }

    fn is_quarantine(&self, rule: RuleId) -> bool {
        rule.0 < self.wire.quarantine_rules
    }
}

impl Judge {
    /// Asks about the headers alone of every frame that would be sent though it is to be dropped, and
    /// keeps those that a quarantine forbids. Of what the parser has dropped these are the layers that
    /// it has read: an address that it has not come to is in no quarantine, the MAC address before it is.
    #[cold]
    pub(super) fn hold_quarantined(&mut self, columns: &mut Columns, moment: &Moment<'_>) {
        for place in Places(columns.all()) {
            let verdict = columns.verdict[place];
            if verdict == Verdict::Forward || !is_sent(verdict, Mode::Observe) {
                continue;
            }
            let parsed = &columns.parsed[place];
            let rule = match self.asked.about_frame(place) {
                Some(answer) => answer.rule,
                None => self.classify_one(&parsed.headers, moment).rule,
            };
            if !moment.is_quarantine(rule) || moment.permits(rule) {
                continue;
            }
            // A segment of a connection that the quarantine leaves to its device may be an answer.
            if parsed.kind == Kind::Tcp {
                let back = self.classify_one(&parsed.headers.reversed(), moment).rule;
                if moment.is_quarantine(back) && moment.permits(back) {
                    continue;
                }
            }
            columns.verdict[place] = Verdict::Drop(DropReason::Quarantine);
            columns.decided_by[place] = Some(rule);
        }
    }
}
