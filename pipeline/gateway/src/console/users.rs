//! `bulkhead console user`: for who is locked out, on the machine itself, without the console running.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;

use clap::{Args, Subcommand};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use super::access::Role;
use super::access::tokens::Tokens;
use super::access::users::{MAX_PASSWORD, Users};
use super::problem::Problem;
use super::settings::Settings;
use crate::cli::exit;

/// What `console user` is told.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "A password is read from standard input, one line. Exit codes: 0 done, 1 refused."
)]
pub struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum UserCommand {
    /// List the users
    List,
    /// Make a user
    Add {
        /// The name
        name: String,
        /// What the user may do
        #[arg(long, value_enum, default_value = "viewer")]
        role: Role,
    },
    /// Give a user another password
    Password {
        /// The name
        name: String,
    },
    /// Give a user another role
    Role {
        /// The name
        name: String,
        /// What the user may do
        #[arg(value_enum)]
        role: Role,
    },
    /// Remove a user
    Remove {
        /// The name
        name: String,
    },
}

/// Does what the command line says. Returns the exit code.
pub fn main(args: &UserArgs, settings: &Settings) -> u8 {
    let folder = &settings.console.folder;
    let done = become_its_user(settings)
        .map_err(Problem::internal)
        .and_then(|()| run(&args.command, &Users::new(folder), &Tokens::new(folder)));
    match done {
        Ok(told) => {
            println!("{told}");
            exit::OK
        }
        Err(problem) => {
            let help =
                problem.remedy.map_or_else(String::new, |help| format!("\n  = help: {help}"));
            eprintln!("error: {}{help}", problem.detail);
            exit::REFUSED
        }
    }
}

fn run(command: &UserCommand, users: &Users, tokens: &Tokens) -> Result<String, Problem> {
    Ok(match command {
        UserCommand::List => {
            let all = users.all()?;
            let line = |user: super::access::users::User| {
                format!("{:<30} {:<10} since {}", user.name, user.role.label(), user.created)
            };
            all.into_iter().map(line).collect::<Vec<_>>().join("\n")
        }
        UserCommand::Add { name, role } => {
            let user = users.add(name, *role, &password()?)?;
            format!("{} is a user now, {}", user.name, user.role.label())
        }
        UserCommand::Password { name } => {
            users.set(name, None, Some(&password()?))?;
            format!("{name} has another password; open sessions are over")
        }
        UserCommand::Role { name, role } => {
            users.set(name, Some(*role), None)?;
            format!("{name} is {} now; open sessions are over", role.label())
        }
        UserCommand::Remove { name } => {
            users.remove(name)?;
            tokens.remove_of(name)?;
            format!("{name} is no user any more")
        }
    })
}

/// A line of standard input.
fn password() -> Result<String, Problem> {
    let input = std::io::stdin();
    if input.is_terminal() {
        // What is typed is seen: nobody else should look.
        print!("password (it will be seen here): ");
        let _ = std::io::stdout().flush();
    }
    let mut line = String::new();
    let read = input.lock().take(MAX_PASSWORD as u64 + 2).read_line(&mut line);
    read.map_err(|error| Problem::bad_request(format!("the password cannot be read: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Where root runs a command: goes on as the user whose folder it is. So the console can read what is
/// written, and nothing that it puts into its folder, such as links, can be turned against root.
///
/// # Errors
///
/// That the folder, or its owner, cannot be had.
pub fn become_its_user(settings: &Settings) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let folder = &settings.console.folder;
    let failed = |error: &dyn std::fmt::Display| {
        format!("cannot go on as the owner of {}: {error}", folder.display())
    };
    let owner = std::fs::metadata(folder).map_err(|error| failed(&error))?;
    if owner.uid() == 0 {
        return Ok(());
    }
    // An identity is a thread's: this has to be the only one yet.
    let threads = std::fs::read_dir("/proc/self/task").map_err(|error| failed(&error))?;
    if threads.count() != 1 {
        return Err(failed(&"other threads run already"));
    }
    set_thread_groups(&[])
        .and_then(|()| set_thread_gid(Gid::from_raw(owner.gid())))
        .and_then(|()| set_thread_uid(Uid::from_raw(owner.uid())))
        .map_err(|error| failed(&error))
}

/// Refuses to serve as root in a folder of somebody else, for the same reason. A command goes on as the
/// folder's owner; what serves needs the owner's groups as well, which are the service manager's to give.
///
/// # Errors
///
/// That root asks for it, and how it is started instead.
pub fn check_who_serves(settings: &Settings) -> Result<(), String> {
    let folder = &settings.console.folder;
    let owner = std::fs::metadata(folder).map(|metadata| metadata.uid());
    match (geteuid().is_root(), owner) {
        (true, Ok(owner)) if owner != 0 => Err(format!(
            "error: {} belongs to user {owner}, and root would serve\n  = help: systemctl start \
             bulkhead-console; or, as root, name a folder of root's in --dir",
            folder.display()
        )),
        _ => Ok(()),
    }
}
