//! What a package makes of the command line: man pages and shell completions. And the version.

use std::path::Path;
use std::{fs, io};

use clap::Command;
use clap_complete::Shell;
use serde::Serialize;

use crate::cli::{CompletionsArgs, ManualArgs, VersionArgs, exit};
use crate::control::client::print_json;

/// Writes a man page for the program and for each command. Returns the exit code.
pub fn manual(args: &ManualArgs, command: Command) -> u8 {
    match write_pages(&args.out, command) {
        Ok(pages) => {
            println!("{}: {pages} pages", args.out.display());
            exit::OK
        }
        Err(error) => {
            eprintln!("{}: {error}", args.out.display());
            exit::UNAVAILABLE
        }
    }
}

/// Writes `bulkhead.1`, `bulkhead-run.1` and so on to `folder`, and says how many.
fn write_pages(folder: &Path, command: Command) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = vec![(command.get_name().to_owned(), command.clone())];
    for sub in command.get_subcommands() {
        let name = format!("bulkhead-{}", sub.get_name());
        // The name that the page shows is also how `man` finds it; the synopsis keeps the space.
        pages.push((name.clone(), sub.clone().name(name)));
    }
    for (name, command) in &pages {
        let mut text = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut text)?;
        fs::write(folder.join(format!("{name}.1")), text)?;
    }
    Ok(pages.len())
}

/// Prints a shell's completions.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> u8 {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "bulkhead", &mut text);
    match io::Write::write_all(&mut io::stdout(), &text) {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("cannot print: {error}");
            exit::UNAVAILABLE
        }
    }
}

/// The shells that there are completions for.
pub type CompletionShell = Shell;

/// The version, for programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct VersionReport {
    /// Always `bulkhead`.
    pub name: &'static str,
    /// The version.
    pub version: &'static str,
    /// The version of DPDK; null for a build without it.
    pub dpdk: Option<String>,
    /// The commit that a package was built from; null otherwise.
    pub commit: Option<&'static str>,
    /// `debug` or `release`.
    pub profile: &'static str,
    /// The version of the policies that it reads.
    pub policy_version: u32,
    /// The version of the manifests that it reads.
    pub manifest_version: u32,
    /// What signatures are made for.
    pub signature_namespace: &'static str,
    /// The machine that it is built for, such as `x86_64-linux`.
    pub target: String,
}

/// Prints the version, and what this build can do.
pub fn version(args: &VersionArgs) -> u8 {
    let version = env!("CARGO_PKG_VERSION");
    let dpdk = dpdk_version();
    if args.json {
        print_json(&VersionReport {
            name: "bulkhead",
            version,
            dpdk,
            commit: option_env!("BULKHEAD_COMMIT").filter(|commit| !commit.is_empty()),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            policy_version: 1,
            manifest_version: 1,
            signature_namespace: crate::signature::NAMESPACE,
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        });
    } else {
        println!("bulkhead {version}, {}", dpdk.unwrap_or_else(|| "without DPDK".to_owned()));
    }
    exit::OK
}

#[cfg(feature = "dpdk")]
fn dpdk_version() -> Option<String> {
    Some(bulkhead_dpdk::Eal::version())
}

#[cfg(not(feature = "dpdk"))]
fn dpdk_version() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn every_command_has_a_page_that_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let pages = write_pages(dir.path(), cli::command()).unwrap();
        let commands: Vec<String> =
            cli::command().get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        assert_eq!(pages, commands.len() + 1);
        for name in commands {
            let text = fs::read_to_string(dir.path().join(format!("bulkhead-{name}.1"))).unwrap();
            for part in [".TH", ".SH NAME", ".SH SYNOPSIS"] {
                assert!(text.contains(part), "bulkhead-{name}.1: {part}");
            }
        }
        let whole = fs::read_to_string(dir.path().join("bulkhead.1")).unwrap();
        assert!(whole.contains("Exit codes") && whole.contains("lockdown"), "{whole}");
    }

    #[test]
    fn each_shell_has_completions_for_each_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "bulkhead", &mut text);
            let text = String::from_utf8(text).unwrap();
            for sub in cli::command().get_subcommands() {
                assert!(text.contains(sub.get_name()), "{shell}: {}", sub.get_name());
            }
        }
    }
}
