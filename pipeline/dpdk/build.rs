//! Finds DPDK through pkg-config and compiles the shim with DPDK's own flags.

use std::env;
use std::process::{Command, exit};

/// The oldest DPDK whose names the shim uses: the LTS that Debian 12 ships.
const OLDEST: &str = "22.11";

/// What the shim calls. Drivers are no part of it: EAL loads them at run time.
const LIBRARIES: [&str; 5] = ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal"];

fn main() {
    println!("cargo::rerun-if-changed=src/shim.c");
    println!("cargo::rerun-if-changed=src/shim.h");
    println!("cargo::rerun-if-changed=src/acl.c");
    println!("cargo::rerun-if-changed=src/acl.h");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");

    if pkg_config(&["--atleast-version", OLDEST, "libdpdk"]).is_none() {
        fail(&match pkg_config(&["--modversion", "libdpdk"]) {
            Some(found) => {
                format!("DPDK {} is installed; {OLDEST} or later is needed", found.trim())
            }
            None => "DPDK's development files were not found by pkg-config".to_owned(),
        });
    }
    let Some(cflags) = pkg_config(&["--cflags", "libdpdk"]) else {
        fail("`pkg-config --cflags libdpdk` failed: a library that DPDK needs is missing");
    };
    let mut shim = cc::Build::new();
    let acl = env::var_os("CARGO_FEATURE_ACL").is_some();
    if acl {
        shim.file("src/acl.c");
    }
    shim.file("src/shim.c").opt_level(3).std("gnu11").warnings(true).extra_warnings(true);
    for flag in cflags.split_whitespace() {
        // System headers, so that warnings are about the shim and not about DPDK.
        match flag.strip_prefix("-I") {
            Some(folder) => shim.flag("-isystem").flag(folder),
            None => shim.flag(flag),
        };
    }
    shim.flag("-Wno-unused-parameter").compile("bulkhead_dpdk_shim");

    for flag in pkg_config(&["--libs-only-L", "libdpdk"]).unwrap_or_default().split_whitespace() {
        if let Some(folder) = flag.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={folder}");
        }
    }
    for library in acl.then_some("rte_acl").iter().chain(&LIBRARIES) {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
}

/// What pkg-config prints, or nothing where it is missing or fails.
fn pkg_config(arguments: &[&str]) -> Option<String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn fail(problem: &str) -> ! {
    eprintln!(
        "\nbulkhead-dpdk cannot be built: {problem}.\n\
         \n\
         Install DPDK {OLDEST} or later with its development files:\n\
         \x20   Debian, Ubuntu:  apt-get install libdpdk-dev pkg-config build-essential\n\
         \x20   Fedora, RHEL:    dnf install dpdk-devel pkgconf gcc\n\
         \x20   from source:     set PKG_CONFIG_PATH to the folder that holds libdpdk.pc\n\
         or build the gateway without it (in-memory ports, replay and the policy commands remain):\n\
         \x20   cargo build -p bulkhead-gateway --no-default-features\n"
    );
    exit(1);
}
