//! The Debian package, made of the program that these tests were built with: what is in it, what its scripts
//! do in a root of their own, and that the SBOM names what is linked.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_gateway::candidate;
use bulkhead_gateway::config::{Config, ConfigError, Limits};
use bulkhead_gateway::policy_files::PolicyFiles;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The standard output of a command that must succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    let out = String::from_utf8_lossy(out).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out
}

fn is_there(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|output| output.status.success())
        || repository().join("target/tools/bin").join(program).is_file()
}

/// What is needed to pack and is not there: then the tests here are skipped, and say so.
fn is_missing(test: &str, programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|program| !is_there(program)).collect();
    if !missing.is_empty() {
        println!(
            "SKIPPED: {test}: not installed: {missing:?}; deploy/package.sh builds cargo-deb once"
        );
    }
    !missing.is_empty()
}

/// Name, mode and owner of each file of an archive; folders end with a slash.
fn listing(deb: &Path) -> BTreeMap<String, (String, String)> {
    let listed = run(Command::new("dpkg-deb").arg("--contents").arg(deb));
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let path = fields[5].trim_start_matches('.').to_owned();
        (path, (fields[0].to_owned(), fields[1].to_owned()))
    };
    listed.lines().map(entry).collect()
}

fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                left.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

/// `package.sh`, for the program that these tests were built with.
fn package_sh() -> Command {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let target = Path::new(env!("CARGO_BIN_EXE_bulkhead")).parent().unwrap().parent().unwrap();
    let mut command = Command::new(repository().join("deploy/package.sh"));
    command.args(["--no-build", "--profile", profile]).env("CARGO_TARGET_DIR", target);
    command
}

/// Packs that program. The package, and what `package.sh` said.
fn pack(folder: &Path) -> (PathBuf, String) {
    let said = run(package_sh().arg("--out").arg(folder));
    let made = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let mut debs: Vec<PathBuf> =
        made.filter(|path| path.extension().is_some_and(|e| e == "deb")).collect();
    assert_eq!(debs.len(), 1, "no package, or several: {said}");
    (debs.remove(0), said)
}

/// What packing takes, and what laying out takes of it.
const TOOLS: &[&str] = &["cargo-deb", "dpkg-deb", "dpkg-shlibdeps", "jq"];

/// What an operator needs, with its mode; the program and what is below `share` are more.
const CONTENTS: &[(&str, u32)] = &[
    ("/usr/bin/bulkhead", 0o755),
    ("/usr/lib/systemd/system/bulkhead.service", 0o644),
    ("/usr/lib/systemd/system/bulkhead-learn.service", 0o644),
    ("/usr/lib/systemd/system/bulkhead-console.service", 0o644),
    ("/usr/lib/sysusers.d/bulkhead.conf", 0o644),
    ("/usr/lib/sysusers.d/bulkhead-learn.conf", 0o644),
    ("/etc/bulkhead/gateway.toml", 0o644),
    ("/etc/bulkhead/policy/10-site.yaml", 0o644),
    ("/usr/share/man/man1/bulkhead.1.gz", 0o644),
    ("/usr/share/man/man1/bulkhead-sign.1.gz", 0o644),
    ("/usr/share/bash-completion/completions/bulkhead", 0o644),
    ("/usr/share/zsh/vendor-completions/_bulkhead", 0o644),
    ("/usr/share/fish/vendor_completions.d/bulkhead.fish", 0o644),
    ("/usr/share/bulkhead/install.sh", 0o755),
    ("/usr/share/bulkhead/kernel-interfaces.conf", 0o644),
    ("/usr/share/bulkhead/60-bulkhead-vfio.rules", 0o644),
    ("/usr/share/bulkhead/alerts.yml", 0o644),
    ("/usr/share/bulkhead/dashboards/bulkhead.json", 0o644),
    ("/usr/share/bulkhead/examples/plant-line.yaml", 0o644),
    ("/usr/share/doc/bulkhead/README.md", 0o644),
    ("/usr/share/doc/bulkhead/copyright", 0o644),
    ("/usr/share/doc/bulkhead/changelog.gz", 0o644),
    ("/usr/share/doc/bulkhead/bulkhead.cdx.json", 0o644),
];

/// Without cargo-deb too: what it packs, laid out as it would be by what its configuration says.
#[test]
fn what_is_packed_is_whole_and_its_scripts_start_nothing() {
    if is_missing("what is packed", &TOOLS[1..]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let laid_out = lay_out(dir.path());
    for (path, mode) in CONTENTS {
        let found = fs::metadata(laid_out.join(&path[1..]));
        let found = found.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(found.permissions().mode() & 0o777, *mode, "{path}");
    }
    check_scripts(&laid_out);
    check_units(&laid_out);
    check_configuration(&laid_out);
    check_sbom(&laid_out.join("usr/share/doc/bulkhead/bulkhead.cdx.json"));
    run_scripts(&laid_out);
}

/// What `package.metadata.deb` names, where that has it go.
fn lay_out(folder: &Path) -> PathBuf {
    let (stage, root) = (folder.join("stage"), folder.join("laid-out"));
    run(package_sh().arg("--stage").arg(&stage));
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: toml::Table = toml::from_str(&fs::read_to_string(manifest).unwrap()).unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    for asset in deb["assets"].as_array().unwrap() {
        let field = |index: usize| asset[index].as_str().unwrap();
        for source in sources(field(0), &stage) {
            let mut target = root.join(field(1));
            if field(1).ends_with('/') {
                target.push(source.file_name().unwrap());
            }
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(&source, &target).unwrap();
            let mode = u32::from_str_radix(field(2), 8).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    for script in fs::read_dir(stage.join("scripts")).unwrap().flatten() {
        let target = root.join("DEBIAN").join(script.file_name());
        fs::copy(script.path(), &target).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).unwrap();
    }
    root
}

/// The files that an asset's source names: at most one `*` in the last part of its path.
fn sources(asset: &str, stage: &Path) -> Vec<PathBuf> {
    let path = match asset.strip_prefix("../../target/package/") {
        Some(staged) => stage.join(staged),
        None if asset == "target/release/bulkhead" => env!("CARGO_BIN_EXE_bulkhead").into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(asset),
    };
    let name = path.file_name().unwrap().to_str().unwrap();
    let Some((before, after)) = name.split_once('*') else { return vec![path] };
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(before) && name.ends_with(after) && path.is_file()
    };
    let entries = fs::read_dir(path.parent().unwrap()).unwrap().flatten();
    let found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(named).collect();
    assert!(!found.is_empty(), "{asset} names nothing");
    found
}

#[test]
fn the_package_holds_what_an_operator_needs() {
    if is_missing("the Debian package", TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (deb, said) = pack(dir.path());
    if is_there("lintian") {
        assert!(said.contains("no errors, no warnings"), "{said}");
    } else {
        println!("SKIPPED: lintian: not installed");
    }
    check_contents(&deb);
    let unpacked = dir.path().join("unpacked");
    run(Command::new("dpkg-deb").arg("-R").arg(&deb).arg(&unpacked));
    check_control(&unpacked, env!("CARGO_PKG_VERSION"));
    check_scripts(&unpacked);
}

fn check_contents(deb: &Path) {
    let listed = listing(deb);
    for (path, mode) in CONTENTS {
        let mode = if *mode == 0o755 { "-rwxr-xr-x" } else { "-rw-r--r--" };
        let found = listed.get(*path).unwrap_or_else(|| panic!("{path} is missing: {listed:?}"));
        let owner = found.1.as_str();
        assert!(found.0 == mode && ["root/root", "0/0"].contains(&owner), "{path}: {found:?}");
    }
    let elsewhere =
        listed.keys().find(|path| path.starts_with("/usr/local") || path.contains("..."));
    assert_eq!(elsewhere, None);
    let written = listed.iter().find(|(_, (mode, _))| mode.as_bytes()[8] == b'w');
    assert_eq!(written, None, "nobody else may write it");
}

fn check_control(unpacked: &Path, version: &str) {
    let control = fs::read_to_string(unpacked.join("DEBIAN/control")).unwrap();
    let field = |name: &str| {
        let line = control.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name}: {control}")).to_owned()
    };
    assert_eq!((field("Package"), field("Version")), ("bulkhead".to_owned(), version.to_owned()));
    let depends = field("Depends");
    for needed in ["libc6", "librte-net-af-xdp23", "librte-net-af-packet23", "librte-bus-vdev23"] {
        assert!(depends.contains(needed), "{needed}: {depends}");
    }
    let conffiles = fs::read_to_string(unpacked.join("DEBIAN/conffiles")).unwrap();
    let kept = ["/etc/bulkhead/gateway.toml", "/etc/bulkhead/policy/10-site.yaml"];
    assert_eq!(conffiles.lines().collect::<Vec<_>>(), kept);
}

/// What dpkg runs is whole, and starts nothing.
fn check_scripts(unpacked: &Path) {
    for script in ["postinst", "prerm", "postrm"] {
        let path = unpacked.join("DEBIAN").join(script);
        let text = fs::read_to_string(&path).unwrap();
        let is_place =
            |part: &str| part.len() > 1 && part.bytes().all(|byte| byte.is_ascii_uppercase());
        assert!(!text.split('@').any(is_place), "{script}: a place that was not filled in: {text}");
        for forbidden in
            ["systemctl start", "systemctl restart \"", "systemctl enable \"", "--now \""]
        {
            assert!(!text.contains(forbidden), "{script}: {forbidden}");
        }
        run(Command::new("sh").arg("-n").arg(&path));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
    }
}

/// Every unit runs the program where the package has it, and each user that one names is made.
fn check_units(unpacked: &Path) {
    let sysusers: String = files_below(&unpacked.join("usr/lib/sysusers.d"))
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let units = files_below(&unpacked.join("usr/lib/systemd/system"));
    assert!(units.len() >= 2);
    for unit in units {
        let text = fs::read_to_string(&unit).unwrap();
        assert!(!text.contains("/usr/local"), "{}", unit.display());
        assert!(text.contains("ExecStart=/usr/bin/bulkhead "), "{}", unit.display());
        for user in text.lines().filter_map(|line| line.strip_prefix("User=")) {
            assert!(sysusers.contains(&format!("u {user} ")), "{}: {user}", unit.display());
        }
    }
}

/// The configuration as installed names no interface of anybody's, and says what is missing; with a wire it
/// is whole, and the policy beside it is one.
fn check_configuration(unpacked: &Path) {
    let path = unpacked.join("etc/bulkhead/gateway.toml");
    let Err(ConfigError::Invalid(mistakes)) = Config::load(&path) else {
        panic!("the packaged configuration guards something");
    };
    let found: Vec<&str> = mistakes.0.iter().map(|mistake| mistake.message.as_str()).collect();
    assert_eq!(found, ["there is no wire to guard"]);
    let text = fs::read_to_string(&path).unwrap();
    let wire = "[[wire]]\nname = \"line3\"\ninside = \"eth1\"\noutside = \"eth2\"\n";
    let config =
        Config::parse("gateway.toml", Path::new("/etc/bulkhead"), &format!("{text}\n{wire}"));
    assert_eq!(config.unwrap().policy, Path::new("/etc/bulkhead/policy"));
    let policy =
        PolicyFiles::read(&unpacked.join("etc/bulkhead/policy"), &Limits::default()).unwrap();
    assert!(candidate::make(&policy, None, &Limits::default()).is_ok());
}

/// Every crate that the program was made of, by the program's own word, is in the SBOM, with a version, a
/// licence and a name for scanners; so is DPDK, and each thing that something depends on.
fn check_sbom(path: &Path) {
    let sbom: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(
        (sbom["bomFormat"].as_str(), sbom["specVersion"].as_str()),
        (Some("CycloneDX"), Some("1.5"))
    );
    assert_eq!(sbom["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    let components = sbom["components"].as_array().unwrap();
    let mut known = BTreeSet::new();
    let mut crates = BTreeSet::new();
    for component in components {
        let text = |key: &str| component[key].as_str().unwrap_or_default();
        let (name, version, purl) = (text("name"), text("version"), text("purl"));
        assert!(
            !name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit()),
            "{component}"
        );
        assert!(purl.starts_with("pkg:") && purl.contains('@'), "{component}");
        assert!(known.insert(text("bom-ref").to_owned()), "twice: {component}");
        if purl.starts_with("pkg:cargo/") {
            let licences = component["licenses"].as_array().unwrap();
            assert!(!licences.is_empty(), "{name} has no licence");
            let is_ours = name.starts_with("bulkhead-");
            assert!(
                is_ours || component["hashes"][0]["content"].as_str().unwrap().len() == 64,
                "{name}"
            );
            crates.insert(format!("{name}-{version}"));
        }
    }
    let names: BTreeSet<&str> = components.iter().filter_map(|c| c["name"].as_str()).collect();
    for needed in ["librte-eal23", "librte-ethdev23", "libc6", "sqlite", "bulkhead-dpdk", "ssh-key"]
    {
        assert!(names.contains(needed), "{needed}: {names:?}");
    }
    known.insert(sbom["metadata"]["component"]["bom-ref"].as_str().unwrap().to_owned());
    for dependency in sbom["dependencies"].as_array().unwrap() {
        let on = dependency["dependsOn"].as_array().unwrap();
        for reference in on.iter().chain([&dependency["ref"]]) {
            assert!(known.contains(reference.as_str().unwrap()), "{reference} is no component");
        }
    }
    // Places in the sources of crates that the compiler has left in the program, for panics.
    let program = fs::read(env!("CARGO_BIN_EXE_bulkhead")).unwrap();
    let linked = crates_in(&program);
    assert!(linked.len() > 20, "{linked:?}");
    let unlisted: Vec<_> = linked.difference(&crates).collect();
    assert!(unlisted.is_empty(), "linked, and not in the SBOM: {unlisted:?}");
}

/// Names and versions in `…/registry/src/INDEX/NAME-VERSION/…`.
fn crates_in(program: &[u8]) -> BTreeSet<String> {
    const MARK: &[u8] = b"/registry/src/";
    let mut found = BTreeSet::new();
    for place in 0..program.len().saturating_sub(300) {
        if !program[place..].starts_with(MARK) {
            continue;
        }
        let rest = &program[place + MARK.len()..place + 300];
        let mut parts = rest.split(|&byte| byte == b'/').skip(1);
        let Some(Ok(name)) = parts.next().map(std::str::from_utf8) else { continue };
        // With debug information there are names of folders, too, which end at a NUL.
        if !name.contains('\0') {
            found.insert(name.to_owned());
        }
    }
    found
}

/// Installs, upgrades, removes and purges in a root of its own, by dpkg itself: the scripts run there, with
/// what they call replaced by notes of how they were called.
fn run_scripts(unpacked: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let bin = dir.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let log = dir.path().join("called");
    let tools = [
        "systemd-sysusers",
        "deb-systemd-helper",
        "deb-systemd-invoke",
        "systemctl",
        "userdel",
        "groupdel",
        "getent",
    ];
    for tool in tools {
        let path = bin.join(tool);
        fs::write(&path, format!("#!/bin/sh\necho \"{tool} $*\" >>{}\n", log.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // What is written below /etc, /var and /run would be this machine's: the scripts' paths go below the root.
    let script = |name: &str, arguments: &[&str]| {
        let text = fs::read_to_string(unpacked.join("DEBIAN").join(name)).unwrap();
        let rooted = ["/etc/", "/var/lib/", "/run/bulkhead"].iter().fold(text, |text, path| {
            text.replace(&format!(" {path}"), &format!(" {}{path}", root.display()))
        });
        let outside =
            [" /etc/", " /var/lib/", " /run/bulkhead"].iter().find(|path| rooted.contains(**path));
        assert_eq!(outside, None, "{name} would touch this machine");
        let place = dir.path().join(name);
        fs::write(&place, rooted).unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
        fs::write(&log, "").unwrap();
        let root = root.display().to_string();
        let said = run(Command::new("sh")
            .arg(&place)
            .args(arguments)
            .env("PATH", path)
            .env("DPKG_ROOT", root));
        (said, fs::read_to_string(&log).unwrap())
    };
    let write = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x\n").unwrap();
    };
    fs::create_dir_all(root.join("etc/sysctl.d")).unwrap();
    fs::create_dir_all(root.join("etc/udev/rules.d")).unwrap();
    fs::create_dir_all(root.join("etc/systemd/system")).unwrap();
    fs::create_dir_all(root.join("var/lib")).unwrap();
    let before = files_below(&root);

    let (said, called) = script("postinst", &["configure", ""]);
    assert!(said.contains("nothing is started"), "{said}");
    for users in ["bulkhead-console.conf", "bulkhead-learn.conf", "bulkhead.conf"] {
        let makes = |line: &str| line.starts_with("systemd-sysusers ") && line.contains(users);
        assert!(called.lines().any(makes), "{users}: {called}");
    }
    assert!(!called.contains("invoke") && !called.contains(" start"), "{called}");
    let (said, called) = script("postinst", &["configure", "0.0.9"]);
    assert!(!said.contains("nothing is started") && !called.contains("start "), "{said}{called}");
    let (_, called) = script("prerm", &["upgrade", "0.2.0"]);
    assert_eq!(called, "", "an upgrade stops nothing");

    write("etc/bulkhead/gateway.toml");
    write("etc/bulkhead/trusted-keys");
    write("etc/sysctl.d/60-bulkhead.conf");
    write("etc/udev/rules.d/60-bulkhead-vfio.rules");
    write("etc/systemd/system/bulkhead.service.d/kernel-interfaces.conf");
    write("var/lib/bulkhead/audit.jsonl");
    write("var/lib/bulkhead-learn/communication.db");
    // What root reads is root's note; what the service has written may be a link to anything.
    write("var/lib/bulkhead-install/bound-nics");
    let note = "0000:3b:00.0 ice p1\n0000:3b:00.1 ice p2; reboot\n";
    fs::write(root.join("var/lib/bulkhead-install/bound-nics"), note).unwrap();
    fs::write(dir.path().join("secret"), "of root's\n").unwrap();
    symlink(dir.path().join("secret"), root.join("var/lib/bulkhead/audit.head")).unwrap();
    let (said, _) = script("prerm", &["remove"]);
    assert!(said.contains("  dpdk-devbind.py --bind=ice 0000:3b:00.0   # p1\n"), "{said}");
    assert!(!said.contains("reboot"), "{said}");
    let kept = files_below(&root);
    script("postrm", &["remove"]);
    assert_eq!(files_below(&root), kept, "a removal keeps what is the operator's");
    let (said, called) = script("postrm", &["purge"]);
    assert_eq!(files_below(&root), before, "a purge leaves nothing");
    assert!(said.contains("the audit log goes") && !said.contains("of root"), "{said}");
    assert!(
        called.contains("userdel bulkhead-learn") && called.contains("groupdel bulkhead-learn"),
        "{called}"
    );
    assert!(called.contains("deb-systemd-helper purge bulkhead.service"), "{called}");
}

/// What a package's life leaves behind that is dpkg's or the system's, and no program's.
const NOISE: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/root",
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/log",
    "/var/cache",
    // Copies that the tools which make users keep of the files before.
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/etc/.pwd.lock",
];

/// Each file below `root` with its text, where it is in `/etc`; what is noise is left out.
fn tree(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let named = files_below(root).into_iter().map(|path| {
        let name = Path::new("/").join(path.strip_prefix(root).unwrap());
        let text = name.starts_with("/etc").then(|| fs::read(&path).ok()).flatten();
        (name, text)
    });
    named.filter(|(name, _)| !NOISE.iter().any(|noise| name.starts_with(noise))).collect()
}

/// A command in the other Debian: whether it went well, and what it said.
fn inside(root: &Path, command: &str) -> (bool, String) {
    let mut chroot = Command::new("chroot");
    chroot.arg(root).args(["/bin/sh", "-c", command]).env("DEBIAN_FRONTEND", "noninteractive");
    chroot.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    chroot.env("LC_ALL", "C.UTF-8");
    let output = chroot.stdin(std::process::Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn done(root: &Path, command: &str) -> String {
    let (well, said) = inside(root, command);
    assert!(well, "{command}: {said}");
    said
}

/// `dpkg -i`, an upgrade, a removal and a purge in a Debian 12 that was made for it. With `BULKHEAD_DEBIAN`
/// the Debian is taken that is in that folder, made by `debootstrap --variant=minbase bookworm`.
#[test]
fn a_clean_debian_gets_it_and_loses_it_without_a_trace() {
    let test = "the package in a clean Debian";
    if std::env::var_os("BULKHEAD_FULL").is_none_or(|full| full != "1") {
        println!("SKIPPED: {test}: only with --full");
        return;
    }
    if is_missing(test, TOOLS) || is_missing(test, &["debootstrap", "chroot"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let given = std::env::var_os("BULKHEAD_DEBIAN").map(PathBuf::from);
    let root = given.clone().unwrap_or_else(|| dir.path().join("debian"));
    if given.is_none() {
        run(Command::new("debootstrap").args(["--variant=minbase", "bookworm"]).arg(&root));
    }
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    let policy_rc = root.join("usr/sbin/policy-rc.d");
    fs::write(&policy_rc, "#!/bin/sh\nexit 101\n").unwrap();
    fs::set_permissions(&policy_rc, fs::Permissions::from_mode(0o755)).unwrap();
    let (deb, _) = pack(dir.path());
    fs::copy(&deb, root.join("root/bulkhead.deb")).unwrap();
    let depends = run(Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Depends"));
    let needed: Vec<&str> =
        depends.split(',').filter_map(|one| one.split_whitespace().next()).collect();
    let needed = needed.join(" ");
    done(
        &root,
        &format!("apt-get -q update && apt-get -q -y install --no-install-recommends {needed}"),
    );

    let before = tree(&root);
    let said = done(&root, "dpkg -i /root/bulkhead.deb");
    assert!(said.contains("nothing is started"), "{said}");
    assert!(done(&root, "bulkhead version --json").contains("\"dpdk\": \"DPDK"));
    let (well, said) = inside(&root, "bulkhead check --config /etc/bulkhead/gateway.toml");
    assert!(!well && said.contains("there is no wire to guard"), "{said}");
    let (_, said) = inside(&root, "systemctl is-enabled bulkhead bulkhead-learn");
    assert!(!said.contains("enabled\n") || said.contains("disabled"), "{said}");
    done(&root, "getent passwd bulkhead && getent passwd bulkhead-learn");
    let wire = "[[wire]]\nname = \"line3\"\ninside = \"eth1\"\noutside = \"eth2\"\n";
    let config = root.join("etc/bulkhead/gateway.toml");
    let edited = fs::read_to_string(&config).unwrap() + wire;
    fs::write(&config, &edited).unwrap();
    let said = done(&root, "bulkhead check --config /etc/bulkhead/gateway.toml");
    assert!(said.contains("wires: line3"), "{said}");
    // The machine is another one than the one that was meant: problems are found, and told.
    let (_, said) = inside(&root, "bulkhead doctor --config /etc/bulkhead/gateway.toml");
    assert!(said.contains("eth1"), "{said}");
    done(&root, "systemctl enable bulkhead");

    let said = done(&root, "dpkg -i /root/bulkhead.deb");
    assert!(!said.contains("nothing is started"), "an upgrade: {said}");
    assert_eq!(fs::read_to_string(&config).unwrap(), edited, "the operator's file is kept");
    fs::create_dir_all(root.join("var/lib/bulkhead")).unwrap();
    fs::write(root.join("var/lib/bulkhead/audit.jsonl"), "{}\n").unwrap();
    done(&root, "dpkg --remove bulkhead");
    assert!(config.is_file() && root.join("var/lib/bulkhead/audit.jsonl").is_file());
    assert!(!root.join("usr/bin/bulkhead").exists());
    done(&root, "dpkg --purge bulkhead");
    let after = tree(&root);
    let left: Vec<_> =
        after.iter().filter(|(name, text)| before.get(*name) != Some(*text)).collect();
    let gone: Vec<_> = before.keys().filter(|name| !after.contains_key(*name)).collect();
    assert!(left.is_empty() && gone.is_empty(), "left: {left:?}; gone: {gone:?}");
    println!("{} files before, as many after the purge", before.len());
}
