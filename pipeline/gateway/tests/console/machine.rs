//! Commands on the machine itself, which root runs in a folder of the console's, and what is told there.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::common::wait;

/// Who owns the console's folder here, where root runs the tests: `nobody`.
const OWNER: u32 = 65_534;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder for the console below a folder that everybody may enter.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let text = "policy = \"policy.yaml\"\ncontrol-socket = \"control.sock\"\nlearn-dir = \"store\"\n\
                [[wire]]\nname = \"line3\"\ninside = \"a\"\noutside = \"b\"\n\
                [console]\ndir = \"own\"\n";
    fs::write(folder.path().join("gateway.toml"), text).unwrap();
    fs::create_dir(folder.path().join("own")).unwrap();
    folder
}

fn command(folder: &Path, what: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.arg("console").args(what).arg("--config").arg(folder.join("gateway.toml"));
    command.stdin(Stdio::null());
    command
}

fn add_user(folder: &Path, name: &str) -> Output {
    let mut command = command(folder, &["user", "add", name, "--role", "admin"]);
    command.stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse battery\n").unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn root_does_nothing_in_the_folder_that_its_owner_could_not() {
    let folder = folder();
    let own = folder.path().join("own");
    if fs::metadata(&own).unwrap().uid() != 0 {
        println!("SKIPPED: only root can give a folder to somebody");
        return;
    }
    fs::write(own.join("left"), "root's").unwrap();
    chown(&own, Some(OWNER), Some(OWNER)).unwrap();
    let added = add_user(folder.path(), "ada");
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let owner = |name: &str| fs::symlink_metadata(own.join(name)).unwrap().uid();
    assert_eq!((owner("users.json"), owner("users.lock")), (OWNER, OWNER));
    assert_eq!(owner("left"), 0, "what lies there beside is not given away");
    // The console was taken over, and lays a link in the way of what root writes.
    fs::remove_file(own.join("users.lock")).unwrap();
    symlink(folder.path().join("made"), own.join("users.lock")).unwrap();
    assert!(!add_user(folder.path(), "eve").status.success());
    assert!(!folder.path().join("made").exists(), "nothing is made where only root may");
    let users = fs::read_to_string(own.join("users.json")).unwrap();
    assert!(users.contains("ada") && !users.contains("eve"), "{users}");
    let mut serving = command(folder.path(), &["--listen", "127.0.0.1:0", "--plain-http"]);
    let refused = serving.output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "nor does it serve as root");
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("systemctl start bulkhead-console"), "{told}");
}

#[test]
fn the_one_time_link_does_not_go_into_the_journal() {
    let folder = folder();
    let path = folder.path().join("journal");
    let journal = File::create(&path).unwrap();
    let known = journal.metadata().unwrap();
    let quiet = ["--listen", "127.0.0.1:0", "--plain-http", "--log-level", "error"];
    let mut console = command(folder.path(), &quiet);
    console.env("JOURNAL_STREAM", format!("{}:{}", known.dev(), known.ino()));
    let _console = Killed(console.stdout(journal).spawn().unwrap());
    let told = || fs::read_to_string(&path).unwrap();
    wait("it says how to set it up", || told().contains("set up the console"));
    assert!(
        told().contains("bulkhead console --setup-link") && !told().contains("#"),
        "{}",
        told()
    );
    let asked = command(folder.path(), &["--setup-link"]).output().unwrap();
    let link = String::from_utf8(asked.stdout).unwrap();
    assert!(link.starts_with("https://127.0.0.1:10443/setup#"), "whoever asks is told: {link}");
}
