//! The one-time link: whoever opens it first makes an administrator.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::secret;
use crate::console::problem::Problem;

const FILE: &str = "setup.json";

/// How long a link is good for.
pub const VALID: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    link: Option<Link>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Link {
    hash: String,
    expires: String,
}

/// The link, if there is one.
#[derive(Debug)]
pub struct Setup {
    kept: Kept<File>,
}

impl Setup {
    /// What is kept in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { kept: Kept::new(folder, FILE) }
    }

    /// Makes a new link in the place of an older one. Returns its secret, which is not kept.
    ///
    /// # Errors
    ///
    /// That the file cannot be written.
    pub fn begin(&self) -> Result<String, String> {
        let secret = secret::new()?;
        let hash = secret::hash(&secret).map(|hash| secret::hex(&hash)).unwrap_or_default();
        let expires = Timestamp::now() + VALID;
        let link = Link { hash, expires: expires.to_string() };
        self.kept.change(|file| {
            file.link = Some(link);
            Ok::<_, String>(())
        })?;
        Ok(secret)
    }

    /// Whether somebody may still open a link.
    pub fn is_open(&self) -> bool {
        let kept = self.kept.read();
        kept.is_ok_and(|file| file.link.as_ref().is_some_and(|link| !link.is_over()))
    }

    /// Does `what` if this is the link's secret; then the link is used up. Nobody else can use it
    /// meanwhile, and where `what` fails it stays.
    ///
    /// # Errors
    ///
    /// That it is not, or no more; or why `what` fails.
    pub fn open<R>(
        &self,
        text: &str,
        what: impl FnOnce() -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        let hash = secret::hash(text).map(|hash| secret::hex(&hash)).unwrap_or_default();
        self.kept.change(|file| {
            let link = file.link.as_ref().filter(|link| !link.is_over() && link.hash == hash);
            if link.is_none() {
                return Err(Problem::forbidden("this link was used already, or its time is over")
                    .remedy("on the gateway, as root: bulkhead console --setup-link"));
            }
            let done = what()?;
            file.link = None;
            Ok(done)
        })
    }
}

impl Link {
    fn is_over(&self) -> bool {
        self.expires.parse::<Timestamp>().map_or(true, |expires| expires <= Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_good_once_and_the_newest_one_only() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let setup = Setup::new(folder.path());
        assert!(!setup.is_open());
        let [old, new] = [(); 2].map(|()| setup.begin().unwrap_or_else(|e| panic!("{e}")));
        assert!(setup.is_open());
        let done = || Ok(());
        assert_eq!(setup.open(&old, done).map_err(|p| p.status), Err(403));
        let fails = setup.open(&new, || Err::<(), _>(Problem::bad_request("no")));
        assert_eq!(fails.map_err(|p| p.status), Err(400));
        assert_eq!(setup.open(&new, done), Ok(()), "what failed did not use it up");
        assert_eq!(setup.open(&new, done).map_err(|p| p.status), Err(403));
        assert!(!setup.is_open());
    }
}
