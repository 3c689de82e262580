//! Who may use the console, and as what.
//!
//! [`users`] and [`tokens`] are files in the console's folder, [`sessions`] live in memory, [`setup`] is
//! the one-time link by which the first administrator comes to be. [`throttle`] slows down whoever
//! guesses, and [`pace`] whoever fills the audit log. [`guard`] is what every request passes; [`secret`] makes what nobody can guess, and [`kept`]
//! is how the files are read and written.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::pace::Pace;
use self::sessions::Sessions;
use self::setup::Setup;
use self::throttle::Throttle;
use self::tokens::Tokens;
use self::users::Users;

pub mod guard;
pub mod kept;
pub mod pace;
pub mod secret;
pub mod sessions;
pub mod setup;
pub mod throttle;
pub mod tokens;
pub mod users;

/// What somebody may do. Each includes those before it.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look at everything, change nothing.
    Viewer,
    /// Change policy, modes, grants and quarantines.
    Operator,
    /// Say who may use the console.
    Admin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The word in the API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The user; for a token, the one who made it.
    pub user: String,
    /// What the caller may do.
    pub role: Role,
    /// How it is known.
    pub by: By,
}

/// How a caller is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum By {
    /// By a session's cookie.
    Session(Arc<sessions::Shown>),
    /// By an API token with this number.
    Token(String),
}

impl Caller {
    /// The name in the gateway's audit log: a token's number follows its user's name.
    pub fn audit_name(&self) -> String {
        match &self.by {
            By::Session(_) => self.user.clone(),
            By::Token(id) => {
                let room = crate::config::MAX_USER_BYTES.saturating_sub(id.len() + 1);
                let user: String = self.user.chars().take(room).collect();
                format!("{user}+{id}")
            }
        }
    }
}

/// Everything that says who may do what.
#[derive(Debug)]
pub struct Access {
    /// Local users.
    pub users: Users,
    /// API tokens.
    pub tokens: Tokens,
    /// Who is logged in.
    pub sessions: Sessions,
    /// The one-time link.
    pub setup: Setup,
    /// Who has to wait.
    pub throttle: Throttle,
    /// Who changes what is their own too often.
    pub pace: Pace,
}

impl Access {
    /// What is kept in `folder`; sessions end after `idle` without a request, and after `limit`.
    pub fn new(folder: &Path, idle: Duration, limit: Duration) -> Self {
        Self {
            users: Users::new(folder),
            tokens: Tokens::new(folder),
            sessions: Sessions::new(idle, limit),
            setup: Setup::new(folder),
            throttle: Throttle::default(),
            pace: Pace::default(),
        }
    }
}
