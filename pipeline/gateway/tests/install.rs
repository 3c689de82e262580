//! `deploy/install.sh` on machines made of files: it never takes the way by which somebody is logged in,
//! overwrites nothing, and writes a configuration that the gateway reads.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bulkhead_gateway::candidate;
use bulkhead_gateway::config::Config;
use bulkhead_gateway::policy_files::PolicyFiles;

struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// Four NICs of two cards on memory node 1, and one, `mgmt`, that carries the default route.
    fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        for (name, address) in [
            ("mgmt", "0000:01:00.0"),
            ("p1", "0000:3b:00.0"),
            ("p2", "0000:3b:00.1"),
            ("p3", "0000:5e:00.0"),
            ("p4", "0000:5e:00.1"),
        ] {
            machine.nic(name, address);
        }
        machine.file("proc/net/route", "Iface Destination Gateway\nmgmt 00000000 0100A8C0\n");
        machine.file("sys/devices/system/cpu/online", "0-7\n");
        machine.file("sys/devices/system/node/node1/cpulist", "4-7\n");
        for tool in ["dpdk-devbind.py", "modprobe", "ss"] {
            machine.tool(tool, "");
        }
        machine.tool_ip(&[]);
        machine
    }

    /// `ip`, as it answers where the SSH client is beyond `p3` and these interfaces have addresses.
    fn tool_ip(&self, addressed: &[&str]) {
        let shown: String =
            addressed.iter().map(|name| format!("echo '7: {name} inet'; ")).collect();
        self.tool(
            "ip",
            &format!(
                "case \"$*\" in\n'route get 10.9.9.9') echo '10.9.9.9 dev p3 src 10.9.9.1';;\n\
                 *global) {shown}:;;\nesac"
            ),
        );
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn nic(&self, name: &str, address: &str) {
        let device = format!("sys/devices/pci0000:00/{address}");
        self.file(&format!("{device}/numa_node"), "1\n");
        self.file(&format!("sys/class/net/{name}/carrier"), "1\n");
        symlink(
            self.root().join(&device),
            self.root().join(format!("sys/class/net/{name}/device")),
        )
        .unwrap();
        symlink("../drivers/ice", self.root().join(device).join("driver")).unwrap();
    }

    /// A program that notes how it was called, and prints what `body` does.
    fn tool(&self, name: &str, body: &str) {
        let log = self.root().join("called");
        let text = format!("#!/bin/sh\necho \"{name} $*\" >>{}\n{body}\n", log.display());
        self.file(&format!("bin/{name}"), &text);
        let path = self.root().join("bin").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn install(&self, arguments: &[&str], ssh: Option<&str>) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/install.sh");
        let path = format!("{}:{}", self.root().join("bin").display(), env!("PATH"));
        let mut command = Command::new("bash");
        command.arg(script).arg("--root").arg(self.root()).args(arguments).env("PATH", path);
        command.env_remove("SSH_CONNECTION");
        if let Some(client) = ssh {
            command.env("SSH_CONNECTION", format!("{client} 50000 10.9.9.1 22"));
        }
        command.output().unwrap()
    }

    /// Installs, with this file as the program.
    fn apply(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["--apply", "--binary", "/bin/true"];
        all.extend(arguments);
        self.install(&all, None)
    }

    fn called(&self) -> String {
        fs::read_to_string(self.root().join("called")).unwrap_or_default()
    }

    fn written(&self) -> Vec<PathBuf> {
        ["etc", "var", "usr"]
            .iter()
            .map(|dir| self.root().join(dir))
            .filter(|p| p.exists())
            .collect()
    }
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

#[test]
fn without_apply_it_proposes_and_changes_nothing() {
    let machine = Machine::new();
    let output = machine.install(&[], None);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("management, or has an address: never touched"), "{said}");
    assert!(
        said.contains("wire wire-1: inside p1, outside p2") && said.contains("Nothing was changed")
    );
    assert!(said.contains("wire wire-2: inside p3, outside p4"), "{said}");
    assert!(said.contains("workers: 2, on the cores 6,7"), "{said}");
    assert_eq!(machine.written(), Vec::<PathBuf>::new());
    assert!(!machine.called().contains("dpdk-devbind"));
}

#[test]
fn what_it_writes_is_a_configuration_that_observes() {
    let machine = Machine::new();
    let output = machine.apply(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let text = machine.read("etc/bulkhead/gateway.toml");
    let config =
        Config::parse("gateway.toml", machine.root(), &text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.workers, config.cores), (2, vec![6, 7]));
    let wires: Vec<_> =
        config.wires.iter().map(|w| (w.inside.as_str(), w.outside.as_str())).collect();
    assert_eq!(wires, [("p1", "p2"), ("p3", "p4")]);
    assert!(text.matches("mode = \"observe\"").count() == 2);
    assert!(machine.read("etc/sysctl.d/60-bulkhead.conf").starts_with("vm.nr_hugepages = "));
    let files = PolicyFiles::read(&machine.root().join("etc/bulkhead/policy"), &config.limits);
    let policy = candidate::make(&files.unwrap(), None, &config.limits);
    assert!(policy.is_ok(), "the gateway starts with it: {:?}", policy.err());
    assert!(machine.root().join("usr/local/bin/bulkhead").exists());
}

#[test]
fn every_unit_is_installed_with_its_user() {
    let machine = Machine::new();
    let output = machine.apply(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let mut found = [0, 0];
    for entry in fs::read_dir(deploy).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (place, of_kind) = match path.extension().and_then(|extension| extension.to_str()) {
            Some("service") => (format!("etc/systemd/system/{name}.service"), 0),
            Some("sysusers") => (format!("usr/lib/sysusers.d/{name}.conf"), 1),
            _ => continue,
        };
        assert_eq!(machine.read(&place), fs::read_to_string(&path).unwrap(), "{place}");
        found[of_kind] += 1;
    }
    assert_eq!(found, [3, 3], "the gateway, learning and the console");
}

#[test]
fn the_way_by_which_somebody_is_logged_in_is_never_given_away() {
    let machine = Machine::new();
    // By the default route, by the route back to an SSH client, by name, and under a bond.
    let refused = |arguments: &[&str], ssh: Option<&str>| {
        let output = machine.install(arguments, ssh);
        assert!(!output.status.success() && said(&output).contains("how this machine is reached"));
    };
    refused(&["--wire", "w=mgmt,p1"], None);
    refused(&["--wire", "w=p1,p3"], Some("10.9.9.9"));
    refused(&["--wire", "w=p1,p2", "--management", "p2"], None);
    // A bridge over a VLAN over a bond.
    machine.file("proc/net/route", "Iface Destination Gateway\nbr0 00000000 0100A8C0\n");
    machine.file("sys/class/net/br0/lower_bond0.10", "");
    machine.file("sys/class/net/bond0.10/lower_bond0", "");
    machine.file("sys/class/net/bond0/lower_p4", "");
    refused(&["--wire", "w=p3,p4"], None);
    machine.tool_ip(&["p2"]);
    refused(&["--wire", "w=p1,p2"], None);
    machine.tool_ip(&[]);
    let proposed = said(&machine.install(&[], Some("10.9.9.9")));
    assert!(!proposed.contains("inside p3") && !proposed.contains("outside p3"), "{proposed}");
    assert_eq!(machine.written(), Vec::<PathBuf>::new());
}

#[test]
fn a_session_over_a_link_local_address_is_not_cut() {
    let machine = Machine::new();
    let refused = |output: &Output| {
        assert!(!output.status.success() && said(output).contains("how this machine is reached"));
    };
    // Neither a route nor an address of this scope says where the laptop at the only cable is.
    refused(&machine.install(&["--wire", "w=p1,p2"], Some("fe80::2%p1")));
    let proposed = said(&machine.install(&[], Some("fe80::2%p1")));
    assert!(!proposed.contains("inside p1") && !proposed.contains("outside p1"), "{proposed}");
    // Somebody else's session, while this is run at the console of the machine.
    machine.tool("ss", "echo '0 0 [fe80::1]%p4:22 [fe80::2%p4]:50000'");
    refused(&machine.install(&["--wire", "w=p3,p4"], None));
    assert!(machine.called().contains("ss -tnH state established"), "{}", machine.called());
}

#[test]
fn nothing_that_is_there_is_written_over() {
    let machine = Machine::new();
    machine.file("etc/bulkhead/gateway.toml", "mine");
    machine.file("etc/bulkhead/policy/50-mine.yaml", "mine");
    let output = machine.apply(&["--wire", "line=p1,p2"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(machine.read("etc/bulkhead/gateway.toml"), "mine");
    assert!(machine.read("etc/bulkhead/gateway.toml.new").contains("name = \"line\""));
    assert!(!machine.root().join("etc/bulkhead/policy/10-site.yaml").exists());

    machine.file("etc/systemd/system/bulkhead.service", "mine");
    machine.file("proc/sys/vm/nr_hugepages", "4096\n");
    fs::remove_file(machine.root().join("etc/sysctl.d/60-bulkhead.conf")).unwrap();
    let output = machine.apply(&["--wire", "other=p1,p2"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(machine.read("etc/bulkhead/gateway.toml.new").contains("name = \"line\""));
    assert!(machine.read("etc/bulkhead/gateway.toml.new2").contains("name = \"other\""));
    assert_eq!(machine.read("etc/systemd/system/bulkhead.service"), "mine");
    assert!(machine.root().join("etc/systemd/system/bulkhead.service.new").exists());
    assert!(!machine.root().join("etc/sysctl.d/60-bulkhead.conf").exists(), "more are reserved");
}

#[test]
fn nics_are_bound_and_given_back() {
    let machine = Machine::new();
    let output = machine.apply(&["--vfio", "--wire", "line=p1,p2"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = machine.read("etc/bulkhead/gateway.toml");
    assert!(
        text.contains("inside = \"0000:3b:00.0\"") && text.contains("outside = \"0000:3b:00.1\"")
    );
    assert!(machine.called().contains("dpdk-devbind.py --bind=vfio-pci 0000:3b:00.0"));
    assert!(!machine.called().contains("0000:01:00.0"), "{}", machine.called());
    let noted = "0000:3b:00.0 ice p1\n0000:3b:00.1 ice p2\n";
    assert_eq!(machine.read("var/lib/bulkhead-install/bound-nics"), noted);
    let output = machine.install(&["--undo"], None);
    assert!(output.status.success(), "{}", said(&output));
    for address in ["0000:3b:00.0", "0000:3b:00.1"] {
        assert!(machine.called().contains(&format!("dpdk-devbind.py --bind=ice {address}")));
    }
    assert!(!machine.root().join("var/lib/bulkhead-install/bound-nics").exists());
    assert!(!machine.install(&["--undo"], None).status.success(), "there is nothing left");
}

#[test]
fn the_note_of_bound_nics_is_root_s_and_is_not_taken_at_its_word() {
    let machine = Machine::new();
    // Where the gateway's user can write there is no note.
    machine.file("var/lib/bulkhead/bound-nics", "0000:01:00.0 ice mgmt\n");
    let output = machine.install(&["--undo"], None);
    assert!(!output.status.success(), "{}", said(&output));
    for line in [
        "0000:01:00.0 ../../x mgmt",
        "mgmt ice mgmt",
        "0000:01:00.0 ice",
        "0000:01:00.0 ice mgmt; reboot",
        "0000:01:00.0 --force mgmt /",
    ] {
        let note = format!("0000:3b:00.0 ice p1\n{line}\n");
        machine.file("var/lib/bulkhead-install/bound-nics", &note);
        let output = machine.install(&["--undo"], None);
        assert!(!output.status.success() && said(&output).contains("is damaged"), "{line}");
    }
    assert!(!machine.called().contains("dpdk-devbind"), "{}", machine.called());
}

#[test]
fn huge_pages_are_noted_where_only_root_writes() {
    let folder = tempfile::tempdir().unwrap();
    let shell = |script: &str| {
        let common = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/common.sh");
        let script = format!(". {}\n{script}", common.display());
        let output =
            Command::new("bash").args(["-c", &script]).current_dir(&folder).output().unwrap();
        said(&output)
    };
    let default = shell("echo \"$HUGE_FOLDER\"");
    assert!(default.starts_with("/run/") && !default.starts_with("/run/lock"), "{default}");
    let here = "HUGE_PAGES=pages HUGE_FOLDER=noted\n";
    fs::write(folder.path().join("pages"), "256\n").unwrap();
    let said = shell(&format!(
        "{here} reserve_huge_pages 0 && stat -c %a noted && cat noted/before && echo 300 >pages && \
         release_huge_pages && cat pages && ls noted"
    ));
    assert_eq!(said, "700\n256\n256\nlock\n");
    // What is no number is not put into force, and a folder behind a link is none of ours.
    let said = shell(&format!(
        "{here} echo '9 x' >noted/before; reserve_huge_pages 0; cat noted/before; release_huge_pages"
    ));
    assert_eq!(said, "256\n");
    let said = shell(&format!(
        "{here} mv noted other; ln -s other noted; reserve_huge_pages 0 || echo no"
    ));
    assert!(said.contains("belongs to somebody else") && said.starts_with("no\n"), "{said}");
}

#[test]
fn nonsense_is_refused_before_anything_is_done() {
    let machine = Machine::new();
    symlink("../br7", machine.root().join("sys/class/net/p4/master")).unwrap();
    for (arguments, why) in [
        (&["--wire", "w=p1,p1"][..], "named twice"),
        (&["--wire", "w=p1,p9"], "no interface p9"),
        (&["--wire", "w=p1,p4"], "belongs to br7"),
        (&["--wire", "W=p1,p2"], "the name in a-z"),
        (&["--wire", "w=p1"], "NAME=INSIDE,OUTSIDE"),
        (&["--workers", "many"], "a number"),
        (&["--frobnicate"], "unknown argument"),
        (&["--wire"], "needs a value"),
        (&["--apply", "--binary", "/nowhere"], "cargo build"),
    ] {
        let output = machine.install(arguments, None);
        let said = said(&output);
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
    }
    assert_eq!(machine.written(), Vec::<PathBuf>::new());
}
