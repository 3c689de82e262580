//! API tokens: for programs, with what they may do and until when. Only their hashes are kept.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::users::User;
use super::{Role, secret};
use crate::console::problem::Problem;

const FILE: &str = "tokens.json";

/// How a token begins, so that scanners for leaked secrets know it.
pub const PREFIX: &str = "bulkhead_";

/// The longest that a token may be valid.
pub const MAX_DAYS: i64 = 366;

/// The longest name, in characters.
const MAX_NAME: usize = 100;

/// Tokens at most, and of one user.
const MAX_TOKENS: usize = 1000;
const MAX_OF_USER: usize = 50;

/// A token as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Token {
    /// Its number.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do, where its user may.
    pub scope: Role,
    /// Who made it: without this user it is worth nothing.
    pub user: String,
    /// When.
    pub created: String,
    /// When it ends.
    pub expires: String,
    /// The hash of its secret, as hexadecimal digits.
    hash: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct File {
    tokens: Vec<Token>,
}

/// The tokens.
#[derive(Debug)]
pub struct Tokens {
    kept: Kept<File>,
}

impl Tokens {
    /// Those that are kept in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { kept: Kept::new(folder, FILE) }
    }

    /// All of them, the oldest first.
    ///
    /// # Errors
    ///
    /// That the file cannot be read.
    pub fn all(&self) -> Result<Vec<Token>, String> {
        Ok(self.kept.read()?.tokens.clone())
    }

    /// The token with this secret, unless its time is over.
    ///
    /// # Errors
    ///
    /// That the file cannot be read.
    pub fn find(&self, text: &str, now: Timestamp) -> Result<Option<Token>, String> {
        let Some(hash) = text.strip_prefix(PREFIX).and_then(secret::hash) else { return Ok(None) };
        let hash = secret::hex(&hash);
        let file = self.kept.read()?;
        let found = file.tokens.iter().find(|token| token.hash == hash);
        Ok(found.filter(|token| !token.is_over(now)).cloned())
    }

    /// Makes a token for `user`. Returns it with its secret, which is not kept.
    ///
    /// # Errors
    ///
    /// A name or an end that cannot be, or the file's fault.
    pub fn add(
        &self,
        user: &str,
        name: &str,
        scope: Role,
        expires: Timestamp,
    ) -> Result<(Token, String), Problem> {
        let now = Timestamp::now();
        let longest = now.checked_add(SignedDuration::from_hours(24 * MAX_DAYS));
        if expires <= now || longest.is_ok_and(|longest| expires > longest) {
            return Err(Problem::bad_request(format!(
                "a token ends between now and {MAX_DAYS} days from now"
            )));
        }
        let name = name.trim();
        if name.is_empty() || name.chars().count() > MAX_NAME || name.contains(char::is_control) {
            return Err(Problem::bad_request("say in 1 to 100 characters what the token is for"));
        }
        let secret = secret::new()?;
        let hash = secret::hash(&secret).map(|hash| secret::hex(&hash)).unwrap_or_default();
        let token = Token {
            id: secret::id()?,
            name: name.to_owned(),
            scope,
            user: user.to_owned(),
            created: now.to_string(),
            expires: expires.to_string(),
            hash,
        };
        let kept = token.clone();
        self.kept.change(|file| {
            file.tokens.retain(|token| !token.is_over(now));
            if file.tokens.len() >= MAX_TOKENS {
                return Err(Problem::conflict(format!("there are {MAX_TOKENS} tokens already")));
            }
            let of_user = file.tokens.iter().filter(|token| token.user == user).count();
            if of_user >= MAX_OF_USER {
                return Err(Problem::conflict(format!("{user} has {MAX_OF_USER} tokens already"))
                    .remedy("end one that nothing uses any more"));
            }
            file.tokens.push(kept);
            Ok(())
        })?;
        Ok((token, format!("{PREFIX}{secret}")))
    }

    /// Ends all tokens of a user.
    ///
    /// # Errors
    ///
    /// The file's fault.
    pub fn remove_of(&self, user: &str) -> Result<(), Problem> {
        self.kept.change(|file| {
            file.tokens.retain(|token| token.user != user);
            Ok(())
        })
    }

    /// Ends a token; with `user`, only if it is that user's.
    ///
    /// # Errors
    ///
    /// That there is no such token, or the file's fault.
    pub fn remove(&self, id: &str, user: Option<&str>) -> Result<Token, Problem> {
        self.kept.change(|file| {
            let is_it =
                |token: &Token| token.id == id && user.is_none_or(|user| token.user == user);
            let at = file.tokens.iter().position(is_it);
            let at = at.ok_or_else(|| Problem::not_found(format!("there is no token `{id}`")))?;
            Ok(file.tokens.remove(at))
        })
    }
}

impl Token {
    /// Whether this user made it, and not another one who had the name before.
    pub fn is_of(&self, user: &User) -> bool {
        let made = [&self.created, &user.created].map(|text| text.parse::<Timestamp>());
        self.user == user.name && matches!(made, [Ok(token), Ok(user)] if token >= user)
    }

    /// Whether its time is over. What cannot be read is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires.parse::<Timestamp>().map_or(true, |expires| expires <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_until_it_ends_and_its_secret_is_not_kept() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let tokens = Tokens::new(folder.path());
        let now = Timestamp::now();
        let later = |hours: i64| {
            now.checked_add(SignedDuration::from_hours(hours)).unwrap_or_else(|e| panic!("{e}"))
        };
        let made = tokens.add("ada", "export", Role::Viewer, later(1));
        let (token, secret) = made.unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(tokens.find(&secret, now), Ok(Some(token.clone())));
        assert_eq!(tokens.find(&secret, later(1)), Ok(None), "its time is over");
        assert_eq!(tokens.find(&secret[1..], now), Ok(None));
        assert_eq!(tokens.find(&format!("{PREFIX}{}", "x".repeat(43)), now), Ok(None));
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap_or_default();
        assert!(text.contains("export") && !text.contains(&secret[PREFIX.len()..]));
        for (name, expires) in [("x", now), ("x", later(24 * MAX_DAYS + 1)), (" ", later(1))] {
            assert!(tokens.add("ada", name, Role::Viewer, expires).is_err(), "{name} {expires}");
        }
        assert!(tokens.remove(&token.id, Some("bob")).is_err(), "it is not his");
        assert!(tokens.remove(&token.id, Some("ada")).is_ok());
        assert_eq!(tokens.find(&secret, now), Ok(None));
        for at in 0..MAX_OF_USER {
            assert!(tokens.add("bob", "loop", Role::Viewer, later(1)).is_ok(), "{at}");
        }
        assert!(tokens.add("bob", "loop", Role::Viewer, later(1)).is_err(), "so many, no more");
        assert!(tokens.add("ada", "export", Role::Viewer, later(1)).is_ok(), "others have theirs");
        tokens.remove_of("bob").unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(tokens.all().map(|left| left.len()), Ok(1));
    }
}
