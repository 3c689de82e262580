//! The units of systemd: how exposed systemd itself finds each of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The highest exposure that a unit may have, of 10.
const LIMIT: f64 = 2.0;

/// The same for the gateway's unit with what kernel interfaces take besides; deploy/README.md explains it.
const LIMIT_OF_KERNEL_INTERFACES: f64 = 2.8;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// What `systemd-analyze security` says of a unit's file; [`None`] where there is no such program.
fn exposure(unit: &Path) -> Option<f64> {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager"])
        .arg(unit)
        .env("LC_ALL", "C.UTF-8")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: units: systemd-analyze: {error}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.contains("Overall exposure level"));
    let Some(line) = line else { panic!("{}: {text}{complaints}", unit.display()) };
    let figure = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next());
    let figure = figure.and_then(|figure| figure.parse().ok());
    println!("{line}");
    // What it does not understand, it leaves out: then the figure is of another unit.
    assert!(!complaints.contains("ignoring"), "{complaints}");
    Some(figure.unwrap_or_else(|| panic!("{line}")))
}

#[test]
fn every_unit_is_exposed_little() {
    let mut units = 0;
    for entry in fs::read_dir(deploy()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "service") {
            let Some(exposure) = exposure(&path) else { return };
            assert!(exposure <= LIMIT, "{}: {exposure}", path.display());
            units += 1;
        }
    }
    assert!(units >= 2, "{units} units");
}

/// The gateway may give its sockets to the groups of those who use them: it has no power to give them to
/// a group that it is not in.
#[test]
fn the_gateway_is_in_the_groups_that_its_sockets_are_given_to() {
    let users = fs::read_to_string(deploy().join("bulkhead.sysusers")).unwrap();
    for unit in ["bulkhead-learn", "bulkhead-console"] {
        let text = fs::read_to_string(deploy().join(format!("{unit}.service"))).unwrap();
        assert!(text.contains(&format!("\nGroup={unit}\n")), "{unit}.service");
        for line in [format!("g {unit} -"), format!("m bulkhead {unit}")] {
            assert!(users.lines().any(|written| written == line), "{line} in {users}");
        }
    }
}

#[test]
fn kernel_interfaces_expose_the_gateway_no_more_than_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("bulkhead.service");
    let [text, more] = ["bulkhead.service", "kernel-interfaces.conf"]
        .map(|name| fs::read_to_string(deploy().join(name)).unwrap());
    // As a drop-in: its lines come after those of the unit.
    let (service, install) = text.split_once("[Install]").unwrap();
    fs::write(&unit, format!("{service}\n{more}\n[Install]{install}")).unwrap();
    let Some(exposure) = exposure(&unit) else { return };
    assert!(exposure <= LIMIT_OF_KERNEL_INTERFACES, "{exposure}");
}
