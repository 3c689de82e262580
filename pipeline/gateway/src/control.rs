//! The control socket, one JSON line each way: questions about the gateway, and changes of it.
//!
//! Whoever may connect may reload, so the socket belongs to the gateway's user and to the group that
//! `control-group` names (mode 0660). Members of `control-read-group` have a socket of their own beside it,
//! on which questions are answered and nothing else: the file system tells the two apart. What comes in is hostile until parsed: a request has a size, a time and a place in a
//! queue, and more than that it does not get.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::audit::{Draft, What, Who};
use crate::bindings::report::BindingsReport;
use crate::failure::restart;
use crate::reload::{ReloadReport, Request, Trigger};
use crate::state::Gateway;
use crate::status::Status;
use crate::trace::{self, TraceMessage, TraceOrder};
use crate::workflow::commands::{Exceptions, HistoryReport};
use crate::workflow::stage::StageReport;
use crate::workflow::{Change, ChangeReport, Order};
use questions::{AuditPage, Note, PolicyShown, RulesReport, Which};

pub mod client;
pub mod questions;

/// The longest request, in bytes, that brings no policy with it.
const MAX_REQUEST_BYTES: u64 = 16 * 1024;

/// Bytes of a request for one of a policy that comes with it, as JSON quotes it.
const BYTES_FOR_ONE: u64 = 2;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 16;

/// How long a client may take to send its request, or to take its answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);

/// How long a client may take to send a policy.
const POLICY_LIMIT: Duration = Duration::from_secs(60);

/// How long a reload may take before whoever asked is told to look at the status instead.
const RELOAD_LIMIT: Duration = Duration::from_secs(120);

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// What does the gateway do?
    Status {},
    /// Take the policy's files into force.
    Reload {
        /// The console's user who asks; believed of the console alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on_behalf_of: Option<String>,
        /// Why, for the audit log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Start the gateway anew.
    Restart {},
    /// Who has which address?
    Bindings {
        /// An address to let go of first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        forget: Option<IpAddr>,
    },
    /// What would the staged policy change?
    Staged {
        /// Flows to list at most.
        limit: usize,
    },
    /// Which versions are kept?
    History {},
    /// Which grants and quarantines are there?
    Exceptions {},
    /// Follow packets. Many lines come back: see [`crate::trace`].
    Trace(TraceOrder),
    /// Make a change.
    Change {
        /// What is to be changed.
        change: Change,
        /// Why, for the audit log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Whether it is to be done although something stands in the way.
        #[serde(default)]
        force: bool,
        /// The console's user who asks; believed of the console alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on_behalf_of: Option<String>,
    },
    /// What are the texts of a policy?
    Policy {
        /// Which one.
        which: Which,
    },
    /// How often did each rule decide?
    Rules {},
    /// Who changed what?
    Audit {
        /// Only entries before the one with this number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        /// Entries at most.
        limit: usize,
    },
    /// Enter a log-in at the console, or a change of who may use it, into the audit log.
    Note(Note),
}

/// What it is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What the gateway does.
    Status(Box<Status>),
    /// What became of the reload.
    Reload(Box<ReloadReport>),
    /// The process that another one takes the place of.
    Restart(u32),
    /// Who has which address.
    Bindings(Box<BindingsReport>),
    /// What the staged policy would change.
    Staged(Box<StageReport>),
    /// The versions that are kept.
    History(Box<HistoryReport>),
    /// Grants and quarantines.
    Exceptions(Box<Exceptions>),
    /// What became of the change.
    Change(Box<ChangeReport>),
    /// The texts of a policy.
    Policy(Box<PolicyShown>),
    /// How often each rule decided.
    Rules(Box<RulesReport>),
    /// Who changed what.
    Audit(Box<AuditPage>),
    /// It is entered.
    Noted {},
    /// A line of a trace.
    Trace(Box<TraceMessage>),
    /// Why there is no answer.
    Error(String),
}

/// Makes the socket. One that a dead gateway left behind is replaced; one that answers is not.
///
/// # Errors
///
/// What stands in the way, and the remedy.
pub fn bind(path: &Path, group: Option<&str>) -> Result<std::os::unix::net::UnixListener, String> {
    let group = group.map(|group| group_id(group, "control-group")).transpose()?;
    bind_socket(path, "control socket", "control-socket", group)
}

/// Makes the socket for questions, likewise.
///
/// # Errors
///
/// What stands in the way, and the remedy.
pub fn bind_questions(
    path: &Path,
    group: &str,
) -> Result<std::os::unix::net::UnixListener, String> {
    let group = group_id(group, "control-read-group")?;
    bind_socket(path, "socket for questions", "control-socket", Some(group))
}

/// Where questions are answered to those who may change nothing: beside the control socket.
pub fn questions_beside(control: &Path) -> PathBuf {
    let stem = control.file_stem().unwrap_or_default().to_string_lossy();
    control.with_file_name(format!("{stem}-read.sock"))
}

/// What those who may use a socket may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Everything.
    Change,
    /// Ask.
    Question,
}

impl Ask {
    /// Whether the answer is all that it brings about. What is not known to be so, is not.
    pub fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Status {}
                | Self::Bindings { forget: None }
                | Self::Staged { .. }
                | Self::History {}
                | Self::Exceptions {}
                | Self::Policy { .. }
                | Self::Rules {}
                | Self::Audit { .. }
        )
    }
}

/// Makes the socket of flow records, likewise. Members of `group`, by its name or number, may read it.
///
/// # Errors
///
/// What stands in the way, and the remedy.
pub fn bind_records(
    path: &Path,
    group: Option<&str>,
) -> Result<std::os::unix::net::UnixListener, String> {
    let group = group.map(|group| group_id(group, "records-group")).transpose()?;
    bind_socket(path, "socket of flow records", "records-socket", group)
}

/// The number of a group: it is one, or has one on this machine.
fn group_id(group: &str, key: &str) -> Result<u32, String> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups = fs::read_to_string(GROUPS)
        .map_err(|error| format!("cannot look up `{key}`: {GROUPS}: {error}"))?;
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    groups.lines().find_map(of_line).ok_or_else(|| {
        format!(
            "there is no group `{group}` in {GROUPS}: correct `{key}`, or make it with \
             `groupadd --system {group}`"
        )
    })
}

/// Where this machine's groups are.
const GROUPS: &str = "/etc/group";

/// Refuses to be a second gateway with this control socket.
///
/// # Errors
///
/// That another one answers there, and what to do.
pub fn refuse_another(path: &Path) -> Result<(), String> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(another(path, "control-socket")),
        Err(_) => Ok(()),
    }
}

fn another(path: &Path, key: &str) -> String {
    let shown = path.display();
    format!("another gateway answers at {shown}: stop it, or give this one another `{key}`")
}

fn bind_socket(
    path: &Path,
    what: &str,
    key: &str,
    group: Option<u32>,
) -> Result<std::os::unix::net::UnixListener, String> {
    let shown = path.display();
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(|error| format!("cannot make the folder of the {what} {shown}: {error}"))?;
    }
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(format!("{shown} is there and is no socket: correct `{key}`"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(another(path, key));
        }
        fs::remove_file(path)
            .map_err(|error| format!("cannot replace the abandoned socket {shown}: {error}"))?;
    }
    let bound = bind_hidden(path, group);
    bound.map_err(|error| match (group, error.kind()) {
        (Some(group), io::ErrorKind::PermissionDenied) => format!(
            "cannot make the {what} {shown} and give it to group {group}: {error}; the gateway has to \
             be root with CAP_CHOWN, or a member of the group (`usermod -aG`, or SupplementaryGroups= in its unit)"
        ),
        _ => format!("cannot make the {what} {shown}: {error}"),
    })
}

/// Binds a socket where nobody else can reach it, and puts it in its place once it has its group and
/// mode: whatever the umask, there is no moment at which others could connect.
fn bind_hidden(path: &Path, group: Option<u32>) -> io::Result<std::os::unix::net::UnixListener> {
    let mut folder = path.as_os_str().to_owned();
    folder.push(".new");
    let folder = Path::new(&folder);
    let hidden = folder.join("s");
    // What a gateway that died just then left behind.
    match fs::remove_file(&hidden).and_then(|()| fs::remove_dir(folder)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let _ = fs::remove_dir(folder);
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    let bound = std::os::unix::net::UnixListener::bind(&hidden).and_then(|listener| {
        std::os::unix::fs::chown(&hidden, None, group)?;
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        fs::rename(&hidden, path)?;
        Ok(listener)
    });
    if bound.is_err() {
        let _ = fs::remove_file(&hidden);
    }
    fs::remove_dir(folder)?;
    bound
}

/// Serves clients, who have these rights, until its runtime ends.
pub async fn serve(
    listener: UnixListener,
    rights: Rights,
    gateway: Arc<Gateway>,
    requests: Sender<Request>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Policies take memory: one is received at a time.
    let policies = Arc::new(Semaphore::new(1));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (gateway, requests) = (gateway.clone(), requests.clone());
                let policies = policies.clone();
                tokio::spawn(async move {
                    if let Err(error) =
                        converse(stream, rights, &gateway, &requests, &policies).await
                    {
                        debug!("a client of the control socket was left: {error}");
                    }
                    drop(place);
                });
            }
            // Out of descriptors, commonly: others will close theirs.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// What is said to those who may only ask.
const ONLY_QUESTIONS: &str =
    "you may ask here, and change nothing: be root, or a member of `control-group`";

async fn converse(
    mut stream: UnixStream,
    rights: Rights,
    gateway: &Arc<Gateway>,
    requests: &Sender<Request>,
    policies: &Semaphore,
) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let who = Who::peer(peer.uid(), peer.pid());
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    let mut limited = BufReader::new(reader.take(MAX_REQUEST_BYTES));
    timeout(CLIENT_LIMIT, limited.read_until(b'\n', &mut line)).await??;
    if !line.ends_with(b"\n") && line.len() as u64 >= MAX_REQUEST_BYTES {
        let place = timeout(POLICY_LIMIT, policies.acquire()).await?;
        let longest = gateway.config.limits.policy_bytes.saturating_mul(BYTES_FOR_ONE);
        limited.get_mut().set_limit(longest.saturating_add(MAX_REQUEST_BYTES));
        timeout(POLICY_LIMIT, limited.read_until(b'\n', &mut line)).await??;
        drop(place);
    }
    let answer = match serde_json::from_slice::<Ask>(&line) {
        Ok(ask) if rights == Rights::Question && !ask.is_question() => {
            info!(who = who.name, uid = who.uid, "refused: who may only ask wanted a change");
            Answer::Error(ONLY_QUESTIONS.to_owned())
        }
        Ok(Ask::Status {}) => Answer::Status(Box::new(Status::of(gateway))),
        Ok(Ask::Reload { on_behalf_of, reason }) => {
            match reloads(gateway, who, on_behalf_of, reason) {
                Ok(who) => reload(requests, who).await,
                Err(error) => Answer::Error(error),
            }
        }
        Ok(Ask::Restart {}) => restart::begin(gateway, who),
        Ok(Ask::Bindings { forget }) => {
            let entered = forget.map_or(Ok(()), |address| {
                info!(%address, "told to let go of an address");
                let detail = format!("let go of the binding of {address}, on every network");
                gateway.audit.enter(Draft::new(who, What::Forget, detail))
            });
            match entered {
                Ok(()) => Answer::Bindings(Box::new(BindingsReport::of(gateway, forget))),
                Err(error) => Answer::Error(error),
            }
        }
        Ok(Ask::Staged { limit }) => {
            let gateway = gateway.clone();
            let report = tokio::task::spawn_blocking(move || StageReport::of(&gateway, limit));
            match report.await {
                Ok(report) => Answer::Staged(Box::new(report)),
                Err(error) => Answer::Error(format!("the report could not be made: {error}")),
            }
        }
        Ok(Ask::History {}) => match HistoryReport::of(gateway) {
            Ok(report) => Answer::History(Box::new(report)),
            Err(error) => Answer::Error(error),
        },
        Ok(Ask::Exceptions {}) => Answer::Exceptions(Box::new(Exceptions::of(gateway))),
        Ok(Ask::Trace(order)) => {
            limited.get_mut().set_limit(MAX_REQUEST_BYTES);
            return trace::server::serve(gateway, who, order, (&mut limited, &mut writer)).await;
        }
        Ok(Ask::Change { change, reason, force, on_behalf_of }) => {
            match gateway.config.console.acts_for(who, on_behalf_of) {
                Ok(who) => apply(requests, Order { change, who, reason, force }).await,
                Err(error) => Answer::Error(error),
            }
        }
        Ok(ask @ (Ask::Policy { .. } | Ask::Rules {} | Ask::Audit { .. } | Ask::Note(_))) => {
            questions::answer(gateway.clone(), who, ask).await
        }
        Err(error) => Answer::Error(format!(
            "not a request: {error}; one line such as {{\"command\":\"status\"}} is expected"
        )),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    timeout(CLIENT_LIMIT, writer.write_all(&bytes)).await??;
    timeout(CLIENT_LIMIT, writer.shutdown()).await?
}

/// Who asks for a reload; the reason, where there is one, is entered.
fn reloads(
    gateway: &Gateway,
    who: Who,
    on_behalf_of: Option<String>,
    reason: Option<String>,
) -> Result<Who, String> {
    let who = gateway.config.console.acts_for(who, on_behalf_of)?;
    if reason.is_some() {
        let detail = "asked to take the policy's files into force";
        let draft = Draft::new(who.clone(), What::Policy, detail).because(reason.as_deref());
        gateway.audit.enter(draft)?;
    }
    Ok(who)
}

async fn reload(requests: &Sender<Request>, who: Who) -> Answer {
    let (reply, report) = bounded(1);
    let request = Request::Reload { trigger: Trigger::Command, who, reply: Some(reply) };
    if requests.try_send(request).is_err() {
        return Answer::Error("too many reloads wait already: try again".to_owned());
    }
    let waited = tokio::task::spawn_blocking(move || report.recv_timeout(RELOAD_LIMIT)).await;
    match waited {
        Ok(Ok(report)) => Answer::Reload(Box::new(report)),
        _ => Answer::Error(
            "the reload takes long: `bulkhead status` will show its outcome".to_owned(),
        ),
    }
}

async fn apply(requests: &Sender<Request>, order: Order) -> Answer {
    let (reply, report) = bounded(1);
    let request = Request::Change { order: Box::new(order), reply };
    if requests.try_send(request).is_err() {
        return Answer::Error("too many changes wait already: try again".to_owned());
    }
    let waited = tokio::task::spawn_blocking(move || report.recv_timeout(RELOAD_LIMIT)).await;
    match waited {
        Ok(Ok(report)) => Answer::Change(Box::new(report)),
        _ => Answer::Error(
            "the change takes long: `bulkhead status` and `bulkhead audit` will show it".to_owned(),
        ),
    }
}

/// Removes the socket when the gateway ends.
pub struct SocketFile(pub PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// A group that this process may give files to, and its number.
    fn some_group(folder: &Path) -> u32 {
        let own = fs::metadata(folder).map_or(0, |metadata| metadata.gid());
        // Root may give them to anybody, so that the test can see that it was given.
        if own == 0 { 4242 } else { own }
    }

    #[test]
    fn the_socket_of_records_is_its_groups_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join("records.sock");
        let group = some_group(folder.path());
        let made = bind_records(&path, Some(&group.to_string()));
        let listener = made.unwrap_or_else(|error| panic!("{error}"));
        let metadata = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o660, group));
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok(), "it answers in its place");
        let left: Vec<_> = fs::read_dir(folder.path()).into_iter().flatten().flatten().collect();
        assert_eq!(left.len(), 1, "nothing stays beside it: {left:?}");
        assert!(bind_records(&path, None).is_err(), "one that answers is not replaced");
        drop(listener);
        // A gateway died between making the folder and removing it.
        let hidden = folder.path().join("records.sock.new");
        fs::create_dir(&hidden).unwrap_or_else(|e| panic!("{e}"));
        fs::write(hidden.join("s"), "").unwrap_or_else(|e| panic!("{e}"));
        assert!(bind_records(&path, None).is_ok(), "one that is abandoned is");
        let error = bind_records(&path, Some("no-such-group-here")).err().unwrap_or_default();
        assert!(error.contains("groupadd --system no-such-group-here"), "{error}");
    }
}
