//! The gateway as its unit starts it: a user of its own, the capabilities of `deploy/kernel-interfaces.conf`
//! and no others, and what it gives up by itself.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{chown, symlink};

use bulkhead_tests::flows::{Echo, Outcome, try_tcp};
use bulkhead_tests::{Driver, Gateway, Rig, Settings, skip};

use crate::{over_both_drivers, policies};

over_both_drivers!(a_user_without_other_powers_guards_the_wires);

/// Nobody.
const USER: u32 = 65_534;

/// What the unit leaves of root; IPC_LOCK stands for its `LimitMEMLOCK=infinity`, which not every root may set.
fn powers(driver: Driver) -> &'static str {
    match driver {
        Driver::AfPacket => "-all,+net_admin,+net_raw,+ipc_lock",
        _ => "-all,+net_admin,+net_raw,+ipc_lock,+bpf,+sys_admin",
    }
}

fn a_user_without_other_powers_guards_the_wires(rig: &Rig, driver: Driver) {
    let powers = powers(driver);
    let mut settings = Settings::new(driver, policies::BASIC);
    settings.supervised = true;
    settings.wrapper = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--no-new-privs",
        &format!("--bounding-set={powers}"),
        &format!("--inh-caps={powers}"),
        &format!("--ambient-caps={powers}"),
    ]
    .map(str::to_owned)
    .into();
    let folder = std::env::temp_dir().join(rig.gateway().name());
    fs::create_dir_all(&folder).expect("a folder");
    chown(&folder, Some(USER), Some(USER)).expect("root gives it away");
    let gateway = Gateway::start(rig, settings);
    let _servers = [Echo::tcp(rig.inside(0), 502), Echo::tcp(rig.inside(0), 503)];
    let at = |port| SocketAddr::new(rig.inside(0).v6.into(), port);
    assert_eq!(try_tcp(rig.outside(0), at(502)), Outcome::Answered, "{}", gateway.log());
    assert_eq!(try_tcp(rig.outside(0), at(503)), Outcome::Silent);

    assert_threads_have_little(&gateway);
    // Its own files are read and written; those of others are not, whoever the user is.
    let (code, said) = gateway.reload(&policies::BASIC.replace("tcp/502", "tcp/502-503"));
    assert_eq!(code, 0, "{said}");
    assert_eq!(try_tcp(rig.outside(0), at(503)), Outcome::Answered);
    let metrics = gateway.metrics();
    if metrics.count("bulkhead_confined", &[("part", "files")]) == 1 {
        let elsewhere = std::env::temp_dir().join(format!("{}.elsewhere", rig.gateway().name()));
        fs::write(&elsewhere, policies::NOTHING).expect("a file");
        let policy = gateway.folder().join("policy.yaml");
        fs::remove_file(&policy).and_then(|()| symlink(&elsewhere, &policy)).expect("a link");
        let (code, said) = gateway.bulkhead(&["reload", "--config", "gateway.toml"]);
        assert!(code != 0 && said.contains("Permission denied"), "{said}");
        assert_eq!(try_tcp(rig.outside(0), at(503)), Outcome::Answered);
        let _ = fs::remove_file(elsewhere);
    } else {
        skip("confined::files", "this kernel has no Landlock");
    }
    let (code, status) = gateway.bulkhead(&["status", "--config", "gateway.toml"]);
    assert!(code == 0 && status.contains("confined"), "{status}");
    gateway.stop();
}

/// The threads that leave ports alone, and a worker.
const POWERLESS: [&str; 7] =
    ["worker-0", "reload", "service", "signals", "records", "supervised", "alive"];

/// No thread is root's or can become so, and a worker has no capability at all.
fn assert_threads_have_little(gateway: &Gateway<'_>) {
    let folder = format!("/proc/{}/task", gateway.supervised_pid());
    let mut seen = Vec::new();
    for thread in fs::read_dir(&folder).expect("a running process").flatten() {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_owned()
        };
        let name = field("Name:");
        assert_eq!(field("Uid:"), USER.to_string(), "{name}");
        assert_eq!(field("NoNewPrivs:"), "1", "{name}");
        assert_eq!(field("Seccomp:"), "2", "{name}");
        let powers = u64::from_str_radix(&field("CapPrm:"), 16).unwrap_or(u64::MAX);
        if POWERLESS.contains(&name.as_str()) {
            assert_eq!(powers, 0, "{name}");
        }
        seen.push(name);
    }
    for name in POWERLESS {
        assert!(seen.iter().any(|seen| seen == name), "no thread {name} among {seen:?}");
    }
}
