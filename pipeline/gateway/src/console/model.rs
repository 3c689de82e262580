//! The network as the console shows it: who talks to whom, from the communication store, and what the
//! policies in force and staged say to that.
//!
//! A thread of its own builds it anew when the store or a policy has changed, and puts it in the place of
//! the one before at once; requests only read. [`network`] is what the store says, [`groups`] who belongs
//! together, [`judged`] what a policy decides of every edge, [`matrix`] the sums of groups by groups, and
//! [`blast`] what a device could reach.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use tracing::{debug, warn};

use self::groups::Grouping;
use self::judged::Judged;
use self::matrix::Matrix;
use self::network::Network;
use super::Console;
use super::gateway::Policies;
use super::problem::Problem;
use crate::learning::database::FILE;
use crate::learning::report::{Range, Reader};

pub mod blast;
pub mod groups;
pub mod judged;
pub mod matrix;
pub mod network;

/// How often it is looked whether anything changed.
const LOOK: Duration = Duration::from_millis(500);

/// How long a model stays at least, and how many times as long as its building took: building takes a
/// twentieth of a core at most.
const LEAST: Duration = Duration::from_secs(3);
const SHARE: u32 = 20;

/// The network, and what the policies say to it, at one moment.
#[derive(Debug)]
pub struct Picture {
    /// Who talks to whom.
    pub network: Arc<Network>,
    /// Who belongs together.
    pub groups: Arc<Grouping>,
    /// What the policy in force says; absent where the gateway does not answer.
    pub active: Option<Arc<Judged>>,
    /// What the staged policy says, where there is one.
    pub staged: Option<Arc<Judged>>,
    /// The matrix over all time, with what is new since a day before.
    pub matrix: Arc<Matrix>,
    /// When it was made.
    pub at: Timestamp,
}

/// How large the model is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    /// Devices.
    pub devices: u64,
    /// Edges.
    pub edges: u64,
    /// Bytes, estimated.
    pub bytes: u64,
}

/// The latest picture, or why there is none.
#[derive(Debug, Default)]
pub struct Models {
    latest: RwLock<Latest>,
    /// Held while one is built.
    building: Mutex<()>,
}

#[derive(Debug, Default)]
struct Latest {
    picture: Option<Arc<Picture>>,
    trouble: Option<String>,
}

impl Models {
    /// The latest picture.
    ///
    /// # Errors
    ///
    /// 503, with the reason, where there is none.
    pub fn picture(&self) -> Result<Arc<Picture>, Problem> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        latest.picture.clone().ok_or_else(|| match &latest.trouble {
            Some(trouble) => Problem::unavailable(trouble.clone()).remedy(
                "`bulkhead learn` keeps the store: is it running, and may the console read it?",
            ),
            None => Problem {
                retry_after_s: Some(2),
                ..Problem::unavailable("the store is being read")
            },
        })
    }

    /// Why the latest store could not be read, where it could not; an older picture is shown then.
    pub fn trouble(&self) -> Option<String> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    /// How large it is.
    pub fn size(&self) -> Size {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        latest.picture.as_ref().map_or_else(Size::default, |picture| Size {
            devices: picture.network.hosts.len() as u64,
            edges: picture.network.edges.len() as u64,
            bytes: picture.network.bytes(),
        })
    }

    fn put(&self, made: Result<Picture, String>) {
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(picture) => *latest = Latest { picture: Some(Arc::new(picture)), trouble: None },
            Err(trouble) => latest.trouble = Some(trouble),
        }
    }
}

/// By what it is known that the store is the same: its file and its log.
type Stamp = [Option<(u64, SystemTime)>; 2];

/// Builds pictures for as long as the process lives.
pub fn keep_up(console: &Console) {
    let mut known: Option<(Stamp, Option<Arc<Policies>>)> = None;
    let mut next = Instant::now();
    // Only this thread: requests come first. Where it may not, it goes on as it is.
    let _ = rustix::process::nice(10);
    loop {
        std::thread::sleep(LOOK);
        let now = (stamp(&console.settings.store), console.gateway.policies());
        let is_same = known.as_ref().is_some_and(|known| {
            let same = |a: &Option<Arc<Policies>>, b: &Option<Arc<Policies>>| match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            };
            known.0 == now.0 && same(&known.1, &now.1)
        });
        let policy_changed = known.as_ref().is_some_and(|known| known.0 == now.0) && !is_same;
        if is_same || (Instant::now() < next && !policy_changed) {
            continue;
        }
        let begun = Instant::now();
        refresh(console, now.1.as_deref());
        next = Instant::now() + LEAST.max(begun.elapsed() * SHARE);
        known = Some(now);
    }
}

/// Builds a picture of the store as it is now.
pub fn refresh(console: &Console, policies: Option<&Policies>) {
    let _one = console.model.building.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let made = picture(&console.settings.store, console.settings.console.memory_bytes, policies);
    match &made {
        Ok(picture) => {
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            console.metrics.model_built(ms);
            debug!(ms, edges = picture.network.edges.len(), "the model of the network is built");
        }
        Err(error) => {
            console.metrics.model_error();
            if console.model.trouble().as_ref() != Some(error) {
                warn!("the communication store cannot be shown: {error}");
            }
        }
    }
    console.model.put(made);
}

/// A picture of the store at `path`.
///
/// # Errors
///
/// Why the store cannot be read.
pub fn picture(
    path: &Path,
    memory_bytes: u64,
    policies: Option<&Policies>,
) -> Result<Picture, String> {
    let reader = Reader::open_path(path, Range::ALL).map_err(|error| error.to_string())?;
    let network = Network::read(&reader, memory_bytes).map_err(|error| error.to_string())?;
    drop(reader);
    let network = Arc::new(network);
    let active = policies.and_then(|policies| policies.active.as_ref());
    let staged = policies.and_then(|policies| policies.staged.as_ref());
    let groups = Arc::new(Grouping::of(&network, active.map(|policy| &policy.groups)));
    let judge = |policy: &Arc<super::gateway::Compiled>| {
        Arc::new(Judged::of(&network, &groups, Arc::clone(policy)))
    };
    let (active, staged) = (active.map(judge), staged.map(judge));
    let at = Timestamp::now();
    let policies = (active.as_deref(), staged.as_deref());
    let matrix = Matrix::of(&network, &groups, policies, None, Some(day_before(at)));
    let matrix = Arc::new(matrix);
    Ok(Picture { network, groups, active, staged, matrix, at })
}

/// A day before, in Unix milliseconds: what is seen first since then counts as new.
pub fn day_before(at: Timestamp) -> i64 {
    at.as_millisecond() - 24 * 3_600_000
}

fn stamp(store: &Path) -> Stamp {
    let file = if store.is_dir() { store.join(FILE) } else { store.to_owned() };
    let mut log = file.clone().into_os_string();
    log.push("-wal");
    [file, log.into()].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    })
}
