//! The file system and TCP, closed by Landlock but for what a profile names.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    path_beneath_rules,
};

use super::Profile;

/// Closes the file system and TCP for the calling thread and what it starts. What is in force of the two,
/// or why not.
pub(super) fn close(profile: &Profile) -> (Result<String, String>, Result<String, String>) {
    // Folders that are made at the start have to be there to be named.
    for folder in profile.write.iter().filter(|path| !path.exists() && !path.starts_with("/dev")) {
        make(folder);
    }
    let restricted = restrict(profile);
    let status = match restricted {
        Ok(status) => status,
        Err(error) => {
            let why = format!("Landlock does not close it: {error}");
            return (Err(why.clone()), Err(why));
        }
    };
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        LandlockStatus::NotEnabled => {
            return both("Landlock is not enabled: boot with lsm=landlock,…");
        }
        _ => return both("this kernel has no Landlock: Linux 5.19 is the first with enough of it"),
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return both("the kernel did not take the rules");
    }
    let files =
        format!("reads below {}; writes below {}", list(&profile.read), list(&profile.write));
    let ports = if abi < ABI::V4 {
        Err("Landlock does not close TCP before Linux 6.7".to_owned())
    } else {
        Ok(format!("listens on TCP {:?}, connects to {:?}", profile.listen, profile.connect))
    };
    (Ok(files), ports)
}

fn both(why: &str) -> (Result<String, String>, Result<String, String>) {
    (Err(why.to_owned()), Err(why.to_owned()))
}

fn restrict(profile: &Profile) -> Result<RestrictionStatus, RulesetError> {
    // The fifth ABI: ioctl on devices is the newest right of files that matters here.
    let all = AccessFs::from_all(ABI::V5);
    let write = all & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    Ruleset::default()
        // Sockets and files are renamed into their places out of folders of their own, which a kernel
        // without this right forbids altogether once it restricts anything.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .create()?
        .add_rules(path_beneath_rules(&profile.read, read))?
        .add_rules(path_beneath_rules(&profile.write, write))?
        .add_rules(ports(&profile.listen, AccessNet::BindTcp))?
        .add_rules(ports(&profile.connect, AccessNet::ConnectTcp))?
        .restrict_self()
}

fn ports(ports: &[u16], access: AccessNet) -> impl Iterator<Item = Result<NetPort, RulesetError>> {
    ports.iter().map(move |&port| Ok(NetPort::new(port, access)))
}

/// Makes a folder as whoever uses it would, if it can; who uses it says what is wrong if not.
fn make(folder: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    let mode = if folder.starts_with("/run") { 0o755 } else { 0o750 };
    let _ = std::fs::DirBuilder::new().recursive(true).mode(mode).create(folder);
}

fn list(paths: &[std::path::PathBuf]) -> String {
    let mut paths: Vec<_> =
        paths.iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
    paths.sort();
    paths.dedup();
    paths.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardening::{Calls, Powers};

    #[test]
    fn a_confined_thread_reads_and_writes_what_was_named_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["read", "write", "other"] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("file"), name).unwrap();
        }
        let profile = Profile {
            name: "a test",
            read: vec![at("read")],
            write: vec![at("write"), at("made")],
            listen: vec![0],
            connect: Vec::new(),
            powers: Powers::None,
            calls: Calls::Service,
        };
        let paths = ["read", "write", "other", "made"].map(|name| at(name).join("file"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = std::thread::spawn(move || {
            let (files, ports) = close(&profile);
            let reads = paths.clone().map(|path| std::fs::read(path).is_ok());
            let writes = paths.map(|path| std::fs::write(path, "new").is_ok());
            let dials = std::net::TcpStream::connect(address).is_ok();
            let listens = std::net::TcpListener::bind("127.0.0.1:0").is_ok();
            (files, ports, reads, writes, dials, listens)
        });
        let (files, ports, reads, writes, dials, listens) = seen.join().unwrap();
        let Ok(detail) = files else {
            println!("SKIPPED: hardening::files: {files:?}");
            return;
        };
        assert!(detail.contains("made"), "{detail}");
        assert_eq!(reads, [true, true, false, false], "{detail}");
        assert_eq!(writes, [false, true, false, true], "{detail}");
        assert!(listens);
        assert_eq!(dials, ports.is_err(), "{ports:?}");
    }
}
