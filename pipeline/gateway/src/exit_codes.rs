//! What each command's exit codes mean: one table for its help, its man page and the tests.
//!
//! The numbers are those of [`crate::cli::exit`]; 2 is the command-line parser's, for every command, and
//! `diff` has those of diff(1).

use clap::Command;

/// An exit code, and what it means.
pub type Meaning = (u8, &'static str);

const WRONG_COMMAND_LINE: &str = "the command line is wrong";
const NO_GATEWAY: &str = "no gateway answers";
const STORE_UNREADABLE: &str = "the store or a file cannot be read";

/// The commands in the order of the command line, each with its codes, 2 left out where it means what it
/// always means.
pub const ALL: &[(&str, &[Meaning])] = &[
    (
        "run",
        &[
            (0, "told to stop"),
            (1, "the configuration is refused"),
            (4, "it cannot start, or had to end; the log says why"),
        ],
    ),
    (
        "check",
        &[
            (0, "everything is accepted"),
            (1, "a policy or the configuration is refused"),
            (3, "--deny-warnings: there are warnings, and nothing worse"),
            (4, "a file cannot be read"),
        ],
    ),
    (
        "explain",
        &[
            (0, "explained, and as --expect has it"),
            (1, "the verdict is not the expected one; policy, configuration or packet is refused"),
            (4, "a file cannot be read"),
        ],
    ),
    (
        "diff",
        &[
            (0, "no difference"),
            (1, "some difference"),
            (2, "no answer: a policy is refused or cannot be read, or the command line is wrong"),
        ],
    ),
    (
        "reach",
        &[
            (0, "answered, whether anybody may or not"),
            (1, "the policy or the question is wrong"),
            (4, "a file cannot be read"),
        ],
    ),
    (
        "replay",
        &[
            (0, "replayed, whatever was denied"),
            (1, "the policy or the command is refused"),
            (
                4,
                "a file cannot be read or written, or a capture is damaged (what comes before counts)",
            ),
        ],
    ),
    (
        "learn",
        &[
            (0, "told to stop; with --status, --from-capture: done"),
            (1, "the configuration or the command is refused"),
            (4, "the store cannot be used, or (--status) nobody answers"),
        ],
    ),
    ("map", &[(0, "shown"), (1, "refused"), (4, STORE_UNREADABLE)]),
    ("devices", &[(0, "listed"), (1, "refused"), (4, "the store cannot be read")]),
    (
        "propose",
        &[
            (0, "proposed"),
            (1, "refused: a file that a person wrote, a policy that would not fit"),
            (4, STORE_UNREADABLE),
        ],
    ),
    ("explain-rule", &[(0, "explained"), (1, "there is no such rule"), (4, STORE_UNREADABLE)]),
    ("drift", &[(0, "reported"), (1, "refused"), (4, STORE_UNREADABLE)]),
    (
        "doctor",
        &[
            (0, "fit, perhaps with advice"),
            (1, "there are problems, or the configuration is wrong"),
            (4, "the configuration cannot be read"),
        ],
    ),
    ("status", &[(0, "answered, or left by key"), (4, NO_GATEWAY)]),
    (
        "reload",
        &[
            (0, "in force, or unchanged"),
            (1, "refused: what was in force stays in force"),
            (4, NO_GATEWAY),
        ],
    ),
    ("bindings", &[(0, "shown"), (4, NO_GATEWAY)]),
    (
        "stage",
        &[(0, "done"), (1, "the policy is not sound, or nothing is staged"), (4, "no answer")],
    ),
    ("lockdown", &[(0, "the wires enforce"), (1, "refused, with reasons"), (4, NO_GATEWAY)]),
    ("observe", &[(0, "the wires observe"), (1, "refused, with reasons"), (4, NO_GATEWAY)]),
    ("rollback", &[(0, "in force"), (1, "refused, with reasons"), (4, NO_GATEWAY)]),
    ("history", &[(0, "listed"), (4, NO_GATEWAY)]),
    ("grant", &[(0, "permitted, or ended"), (1, "refused, with reasons"), (4, NO_GATEWAY)]),
    ("grants", &[(0, "listed"), (4, NO_GATEWAY)]),
    ("quarantine", &[(0, "done"), (1, "refused, with reasons"), (4, NO_GATEWAY)]),
    (
        "audit",
        &[
            (0, "the log is whole, as far as it was read"),
            (1, "it is broken; the first broken line is named"),
            (4, "it cannot be read"),
        ],
    ),
    ("schema", &[(0, "printed"), (1, "the command has no --json")]),
    ("completions", &[(0, "printed"), (4, "it cannot be printed")]),
    ("manual", &[(0, "written"), (4, "it cannot be written")]),
    ("version", &[(0, "printed")]),
    (
        "trace",
        &[
            (0, "over, whether packets came or not"),
            (1, "the filter makes no sense, or another trace runs"),
            (4, NO_GATEWAY),
        ],
    ),
    (
        "report",
        &[
            (0, "made, whole or in part"),
            (1, "the time asked for makes no sense"),
            (4, "neither gateway nor store could be read"),
        ],
    ),
    (
        "sign",
        &[
            (0, "signed, or, without --key, the command that signs is printed"),
            (1, "a file name cannot be signed, or ssh-keygen did not sign"),
            (4, "a file cannot be read or written"),
        ],
    ),
    ("restart", &[(0, "started anew"), (1, "refused, with reasons"), (4, NO_GATEWAY)]),
    ("bypass", &[(0, "done"), (1, "refused, with reasons"), (4, "no answer")]),
    (
        "console",
        &[
            (0, "told to stop; with an option or a command: done"),
            (1, "the configuration or the command is refused"),
            (4, "it cannot listen, or its folder cannot be used"),
        ],
    ),
];

/// The command line with each command's exit codes at the end of its help and of its man page.
pub fn documented(command: Command) -> Command {
    ALL.iter().fold(command, |command, (name, meanings)| {
        // A build may lack a command.
        if command.find_subcommand(name).is_none() {
            return command;
        }
        command.mut_subcommand(name, |sub| {
            let before = sub.get_after_help().map(|help| format!("{help}\n\n")).unwrap_or_default();
            sub.after_help(format!("{before}{}", in_words(meanings)))
        })
    })
}

fn in_words(meanings: &[Meaning]) -> String {
    let mut all: Vec<Meaning> = meanings.to_vec();
    if all.iter().all(|(code, _)| *code != 2) {
        all.push((2, WRONG_COMMAND_LINE));
    }
    all.sort_unstable();
    let lines: Vec<String> =
        all.iter().map(|(code, meaning)| format!("  {code}  {meaning}")).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn every_command_says_what_its_exit_codes_mean() {
        let command = cli::command();
        for sub in command.get_subcommands() {
            let name = sub.get_name();
            assert!(ALL.iter().any(|(known, _)| *known == name), "exit codes of {name}?");
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert_eq!(help.matches("Exit codes:").count(), 1, "{name}: {help}");
            assert!(help.contains("\n  0  ") && help.contains("\n  2  "), "{name}: {help}");
        }
    }
}
