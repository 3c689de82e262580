//! `[learn]`: what the learning process keeps, and for how long.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Checker;
use super::document::{self, Spanned};
use crate::learning::database::Retention;
use crate::learning::service::PERIOD_S;

/// What `bulkhead learn` is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LearnConfig {
    /// The folder of the communication store.
    pub folder: PathBuf,
    /// Seconds of one period of observation, which learning calls an hour.
    pub period_s: u32,
    /// What the store keeps.
    pub retention: Retention,
    /// Where the process serves its metrics, if anywhere.
    pub listen: Option<SocketAddr>,
}

/// Where the store is unless told otherwise.
const FOLDER: &str = "/var/lib/bulkhead-learn";

impl Default for LearnConfig {
    fn default() -> Self {
        let folder = PathBuf::from(FOLDER);
        Self { folder, period_s: PERIOD_S, retention: Retention::default(), listen: None }
    }
}

impl Checker<'_> {
    pub(super) fn learn(
        &mut self,
        folder: Option<Spanned<String>>,
        table: document::Learn,
    ) -> LearnConfig {
        let default = Retention::default();
        let mib = default.bytes >> 20;
        LearnConfig {
            folder: self.path(folder, FOLDER),
            period_s: self.number("period-s", table.period_s, PERIOD_S, 1..=86_400),
            retention: Retention {
                days: self.number("retention-days", table.retention_days, default.days, 1..=3650),
                rows: self.number("max-rows", table.max_rows, default.rows, 1000..=1_000_000_000),
                facts: default.facts,
                bytes: self.number::<u64>("max-mib", table.max_mib, mib, 16..=1 << 20) << 20,
            },
            listen: self.learn_listen(table.listen),
        }
    }

    /// Where the learning process serves its metrics: nowhere, unless the file says so.
    fn learn_listen(&mut self, listen: Option<Spanned<String>>) -> Option<SocketAddr> {
        let listen = listen.filter(|listen| listen.get_ref() != "off")?;
        let parsed = listen.get_ref().parse::<SocketAddr>().ok();
        if parsed.is_none() {
            self.mistake(listen.span(), format!("`{}` is no address and port", listen.get_ref()))
                .help("write `127.0.0.1:10470`, `[::1]:10470` or `off`");
        }
        parsed
    }
}
