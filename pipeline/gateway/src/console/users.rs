//! `bulkhead console user`: for who is locked out, on the machine itself, without the console running.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, chown};

use clap::{Args, Subcommand};

use super::access::Role;
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
    let users = Users::new(&settings.console.folder);
    let done = run(&args.command, &users);
    give_files_away(settings);
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

fn run(command: &UserCommand, users: &Users) -> Result<String, Problem> {
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

/// What root writes into the console's folder belongs to whom the folder belongs: the console has to read it.
pub fn give_files_away(settings: &Settings) {
    let folder = &settings.console.folder;
    let Ok(owner) = std::fs::metadata(folder) else { return };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let differs = entry.metadata().is_ok_and(|own| own.is_file() && own.uid() != owner.uid());
        if differs {
            // Only root can, and only root needs to.
            let _ = chown(entry.path(), Some(owner.uid()), Some(owner.gid()));
        }
    }
}
