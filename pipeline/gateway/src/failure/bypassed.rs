//! Which wires pass everything unjudged, by whose word and since when: a file beside the control socket, so that
//! whoever finds no gateway there finds this.
//!
//! It lies in memory where the service manager makes that folder (`/run/bulkhead`), so that it does not outlive
//! the bypass over a boot, and writing it waits for no disk.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::candidate::unix_now_ms;

/// What follows the socket's own name in the file's: gateways may share a folder.
const AFTER: &str = ".bypass.json";

/// The most bytes of the file that are read.
const MAX_BYTES: u64 = 1 << 20;

/// A bypass that is in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Bypassed {
    /// The wires whose frames pass unjudged.
    pub wires: Vec<String>,
    /// The wires whose relays were told to carry them, and have not let go since: only the program that works these
    /// ends that. One that is not among `wires` may be cut: its relays have not said that they carry it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<String>,
    /// Who bypasses them: `the supervisor`, `systemd`, or a user.
    pub by: String,
    /// Why, in words.
    pub why: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// The boot in which it was engaged: no bypass outlives one.
    boot_id: String,
}

impl Bypassed {
    /// From now on.
    pub fn now(wires: &[String], by: &str, why: &str) -> Self {
        let since_unix_ms = unix_now_ms().unwrap_or_default();
        let (wires, by, why) = (wires.to_vec(), by.to_owned(), why.to_owned());
        Self { wires, relays: Vec::new(), by, why, since_unix_ms, boot_id: boot_id() }
    }

    /// What is in force once these wires are bypassed, and these relays told to: whoever engaged it first is who
    /// bypasses, and relays that have not let go carry what they carried.
    pub fn engaged(
        wires: &[String],
        relays: &[String],
        whose: (&str, &str),
        socket: &Path,
    ) -> Self {
        let written = Self::read(socket);
        let told = written.iter().flat_map(|written| &written.relays).chain(relays);
        let told: BTreeSet<String> = told.cloned().collect();
        let carried = |written: &Self| {
            let carried = written.wires.iter().filter(|wire| written.relays.contains(wire));
            carried.filter(|wire| !wires.contains(wire)).cloned().collect()
        };
        let carried: Vec<String> = written.as_ref().map_or_else(Vec::new, carried);
        let is_same = |by: &Self| wires.iter().all(|wire| by.wires.contains(wire));
        let mut bypassed =
            written.filter(is_same).unwrap_or_else(|| Self::now(wires, whose.0, whose.1));
        let others: Vec<String> =
            carried.into_iter().filter(|wire| !bypassed.wires.contains(wire)).collect();
        bypassed.wires.extend(others);
        bypassed.relays = told.into_iter().collect();
        bypassed
    }

    /// All wires whose frames pass unjudged, or may.
    pub fn may_pass(&self) -> Vec<String> {
        self.wires.iter().cloned().chain(self.unheard()).collect()
    }

    /// Wires whose relays were told to carry them, and have not said that they do.
    fn unheard(&self) -> Vec<String> {
        self.relays.iter().filter(|wire| !self.wires.contains(wire)).cloned().collect()
    }

    /// What is left of one, once all but these wires were released: their relays do not let go.
    pub fn left(wires: Vec<String>, written: Option<&Self>) -> Self {
        let is_of_them = |by: &&Self| wires.iter().all(|wire| by.wires.contains(wire));
        let mut left = written.filter(is_of_them).cloned().unwrap_or_else(|| {
            let why = "its bypass does not let go, although a gateway judges";
            Self::now(&wires, "the bypass-command", why)
        });
        (left.wires, left.relays) = (wires.clone(), wires);
        left
    }

    /// Changes what is written down, where anything is; what is left without a wire ends.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn change(control_socket: &Path, change: impl FnOnce(&mut Self)) -> io::Result<()> {
        let Some(written) = Self::read(control_socket) else { return Ok(()) };
        let mut left = written.clone();
        change(&mut left);
        match left.may_pass().is_empty() {
            true => Self::end(control_socket),
            false if left == written => Ok(()),
            false => left.write(control_socket),
        }
    }

    /// Has what is written down beside one control socket lie beside another one.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn move_to(from: &Path, to: &Path) -> io::Result<()> {
        if let Some(written) = Self::read(from).filter(|_| from != to) {
            written.write(to)?;
            Self::end(from)?;
        }
        Ok(())
    }

    /// Writes it down beside the control socket, for everybody to read.
    ///
    /// # Errors
    ///
    /// What the file system says: nobody will know whose bypass it is.
    pub fn write(&self, control_socket: &Path) -> io::Result<()> {
        let place = place(control_socket);
        let unfinished = place.with_extension("json.new");
        // Root writes here, too, in a folder of the gateway's user: never through a link that lies there.
        let _ = fs::remove_file(&unfinished);
        let mut file = fs::File::create_new(&unfinished)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        fs::rename(&unfinished, &place)
    }

    /// What is in force beside this control socket, as far as anybody has written it down.
    pub fn read(control_socket: &Path) -> Option<Self> {
        let mut text = Vec::new();
        fs::File::open(place(control_socket)).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        let read: Self = serde_json::from_slice(&text).ok()?;
        let now = boot_id();
        // A process that sees nothing of the kernel in /proc does not know its boot; the folder outlives none.
        let is_of_now = read.boot_id == now || read.boot_id.is_empty() || now.is_empty();
        is_of_now.then_some(read)
    }

    /// That nothing is bypassed any more. A file that cannot be removed would say otherwise.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn end(control_socket: &Path) -> io::Result<()> {
        match fs::remove_file(place(control_socket)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Which wires, by whom, since when and why: a sentence.
    pub fn describe(&self) -> String {
        let verb = if self.wires.len() == 1 { "passes" } else { "pass" };
        let carried = format!("{} {verb} everything unjudged", self.wires.join(", "));
        let unheard = self.unheard().join(", ");
        let unheard = format!("{unheard} may, by relays that were told to and have not said so");
        let what = match (self.wires.is_empty(), self.unheard().is_empty()) {
            (_, true) => carried,
            (true, false) => unheard.replacen(" may,", " may pass everything unjudged,", 1),
            (false, false) => format!("{carried}; {unheard}"),
        };
        let since = Timestamp::from_millisecond(self.since_unix_ms / 1000 * 1000);
        let since = since.map_or_else(|_| "an unknown time".to_owned(), |since| since.to_string());
        format!("{what}, by {} since {since}: {}", self.by, self.why)
    }
}

/// The kernel's name for this boot; none where it tells none.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn place(control_socket: &Path) -> PathBuf {
    let mut name = control_socket.file_name().unwrap_or_default().to_owned();
    name.push(AFTER);
    control_socket.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bypassed_is_found_beside_the_socket_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        assert_eq!(Bypassed::read(&socket), None);
        let wires = ["plc-1".to_owned(), "plc-2".to_owned()];
        let mut bypassed = Bypassed::now(&wires, "the supervisor", "worker 0 stood still");
        bypassed.write(&socket).unwrap();
        assert_eq!(Bypassed::read(&socket), Some(bypassed.clone()));
        let engaged = |wires, relays| Bypassed::engaged(wires, relays, ("anna", "why"), &socket);
        assert_eq!(engaged(&wires[1..], &[]), bypassed, "whoever engaged it first");
        let other = ["other".to_owned()];
        assert_eq!(
            (engaged(&other, &[]).wires, engaged(&other, &[]).by),
            (other.to_vec(), "anna".to_owned())
        );
        let ahead = engaged(&[], &other);
        assert_eq!((&ahead.wires, &ahead.relays), (&bypassed.wires, &other.to_vec()));
        assert_eq!(ahead.may_pass(), ["plc-1", "plc-2", "other"]);
        assert!(
            ahead.describe().starts_with(
                "plc-1, plc-2 pass everything unjudged; other may, by relays that were told to and have not said so, by "
            ),
            "{}",
            ahead.describe()
        );
        let by_relays = engaged(&wires, &wires[..1]);
        assert_eq!(by_relays.relays, wires[..1]);
        by_relays.write(&socket).unwrap();
        let both = engaged(&other, &[]);
        assert_eq!(both.wires, ["other", "plc-1"], "its relays carry it still");
        assert_eq!(both.relays, wires[..1]);
        bypassed.since_unix_ms = 1_795_415_400_123;
        assert_eq!(
            bypassed.describe(),
            "plc-1, plc-2 pass everything unjudged, by the supervisor since 2026-11-23T06:30:00Z: worker 0 \
             stood still"
        );
        bypassed.boot_id = "another".to_owned();
        bypassed.write(&socket).unwrap();
        assert_eq!(Bypassed::read(&socket), None, "of an earlier boot");
        bypassed.boot_id.clear();
        bypassed.write(&socket).unwrap();
        assert!(Bypassed::read(&socket).is_some(), "of a boot that its writer could not see");
        let unfinished = dir.path().join("control.sock.bypass.json.new");
        let target = dir.path().join("target");
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &unfinished).unwrap();
        bypassed.write(&socket).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept", "never through a link");
        fs::write(place(&socket), "{").unwrap();
        assert_eq!(Bypassed::read(&socket), None, "damaged");
        Bypassed::end(&socket).unwrap();
        Bypassed::end(&socket).unwrap();
    }

    #[test]
    fn relays_that_have_not_said_that_they_carry_are_written_down_until_they_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let relays = ["w".to_owned(), "x".to_owned()];
        let whose = ("the supervisor", "it crashed");
        Bypassed::engaged(&[], &relays, whose, &socket).write(&socket).unwrap();
        let told = Bypassed::read(&socket).unwrap();
        assert!(told.describe().starts_with("w, x may pass everything unjudged, by relays"));
        Bypassed::engaged(&relays[..1], &relays, whose, &socket).write(&socket).unwrap();
        // Another bypass, whose programs fail, does not make it unknown that these carry.
        let again = Bypassed::engaged(&[], &[], whose, &socket);
        assert_eq!((again.wires, again.relays), (vec!["w".to_owned()], relays.to_vec()));
        let change = |change: fn(&mut Bypassed)| Bypassed::change(&socket, change).unwrap();
        change(|by| by.relays.retain(|wire| wire == "x"));
        assert_eq!(Bypassed::read(&socket).map(|by| by.may_pass()), Some(relays.to_vec()));
        change(|by| by.wires.clear());
        assert_eq!(Bypassed::read(&socket).map(|by| by.may_pass()), Some(relays[1..].to_vec()));
        change(|by| by.relays.clear());
        assert_eq!(Bypassed::read(&socket), None);
    }

    #[test]
    fn gateways_that_share_a_folder_do_not_end_each_others_bypass() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one.sock", "other.sock"].map(|name| dir.path().join(name));
        let bypassed = Bypassed::now(&["w".to_owned()], "the supervisor", "it crashed");
        bypassed.write(&one).unwrap();
        Bypassed::end(&other).unwrap();
        assert_eq!(Bypassed::read(&other), None);
        assert_eq!(Bypassed::read(&one), Some(bypassed.clone()));
        Bypassed::move_to(&one, &one).unwrap();
        assert_eq!(Bypassed::read(&one), Some(bypassed.clone()));
        Bypassed::move_to(&one, &other).unwrap();
        assert_eq!((Bypassed::read(&one), Bypassed::read(&other)), (None, Some(bypassed)));
    }
}
