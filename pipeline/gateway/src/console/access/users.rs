//! Local users: a name, a role, and a password's hash by Argon2id (RFC 9106).

use std::path::Path;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Role;
use super::kept::Kept;
use super::secret;
use crate::config::is_user_name;
use crate::console::problem::Problem;

/// The shortest password, in characters (NIST SP 800-63B asks for 8 and for no rules of composition).
pub const MIN_PASSWORD: usize = 10;

/// The longest, in bytes.
pub const MAX_PASSWORD: usize = 1024;

/// Users at most.
const MAX_USERS: usize = 1000;

const FILE: &str = "users.json";

/// Whom the audit log names besides: nobody is to be taken for them.
const NO_NAMES: [&str; 7] =
    ["root", "bulkhead", "bulkhead-console", "gateway", "file", "signal", "supervisor"];

/// KiB of memory for one hash, rounds over it, and lanes: what OWASP recommends for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const ROUNDS: u32 = 2;
const LANES: u32 = 1;

/// A user as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct User {
    /// The name.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// The password's hash with its parameters, as the PHC string format has it.
    password: String,
    /// When the user was made.
    pub created: String,
    /// Counts changes of password and role: sessions from before one are over.
    pub version: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct File {
    users: Vec<User>,
}

/// The users.
#[derive(Debug)]
pub struct Users {
    kept: Kept<File>,
}

impl Users {
    /// Those that are kept in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { kept: Kept::new(folder, FILE) }
    }

    /// All of them, by name.
    ///
    /// # Errors
    ///
    /// That the file cannot be read.
    pub fn all(&self) -> Result<Vec<User>, String> {
        Ok(self.kept.read()?.users.clone())
    }

    /// The user with this name.
    ///
    /// # Errors
    ///
    /// That the file cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<User>, String> {
        Ok(self.kept.read()?.users.iter().find(|user| user.name == name).cloned())
    }

    /// Whether there is no user who could make others.
    ///
    /// # Errors
    ///
    /// That the file cannot be read.
    pub fn lack_an_admin(&self) -> Result<bool, String> {
        Ok(!self.kept.read()?.users.iter().any(|user| user.role == Role::Admin))
    }

    /// The user, if this is the password. It takes as long where there is no such user.
    ///
    /// # Errors
    ///
    /// That the file cannot be read.
    pub fn verify(&self, name: &str, password: &str) -> Result<Option<User>, String> {
        let user = self.find(name)?;
        let hash = user.as_ref().map_or(NOBODY, |user| &user.password);
        let is_right = PasswordHash::new(hash).is_ok_and(|hash| {
            hasher().is_ok_and(|argon2| argon2.verify_password(password.as_bytes(), &hash).is_ok())
        });
        Ok(user.filter(|_| is_right))
    }

    /// Makes a user.
    ///
    /// # Errors
    ///
    /// A name or password that cannot be, a name that is taken, or the file's fault.
    pub fn add(&self, name: &str, role: Role, password: &str) -> Result<User, Problem> {
        check_name(name)?;
        let password = hashed(password)?;
        self.kept.change(|file| {
            if file.users.iter().any(|user| user.name == name) {
                return Err(Problem::conflict(format!("there is a user `{name}` already")));
            }
            if file.users.len() >= MAX_USERS {
                return Err(Problem::conflict(format!("there are {MAX_USERS} users already")));
            }
            let now = Timestamp::now();
            // Of an earlier user with this name no session is left to be taken for one of this one's.
            let version = u64::try_from(now.as_millisecond()).unwrap_or(1);
            let (name, created) = (name.to_owned(), now.to_string());
            let user = User { name, role, password, created, version };
            file.users.push(user.clone());
            file.users.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(user)
        })
    }

    /// Makes a user an administrator with this password, whether there is one with this name or not.
    ///
    /// # Errors
    ///
    /// See [`Self::add`].
    pub fn put_admin(&self, name: &str, password: &str) -> Result<User, Problem> {
        match self.find(name)? {
            None => self.add(name, Role::Admin, password),
            Some(_) => self.set(name, Some(Role::Admin), Some(password)),
        }
    }

    /// Gives a user another role, another password, or both.
    ///
    /// # Errors
    ///
    /// That there is no such user, that nobody would be left who could make others, or the file's fault.
    pub fn set(
        &self,
        name: &str,
        role: Option<Role>,
        password: Option<&str>,
    ) -> Result<User, Problem> {
        let password = password.map(hashed).transpose()?;
        self.kept.change(|file| {
            let user = file.users.iter_mut().find(|user| user.name == name);
            let user = user.ok_or_else(|| unknown(name))?;
            user.role = role.unwrap_or(user.role);
            if let Some(password) = password {
                user.password = password;
            }
            user.version += 1;
            let user = user.clone();
            keeps_an_admin(file)?;
            Ok(user)
        })
    }

    /// Removes a user.
    ///
    /// # Errors
    ///
    /// That there is no such user, that nobody would be left who could make others, or the file's fault.
    pub fn remove(&self, name: &str) -> Result<(), Problem> {
        self.kept.change(|file| {
            let at = file.users.iter().position(|user| user.name == name);
            file.users.remove(at.ok_or_else(|| unknown(name))?);
            keeps_an_admin(file)
        })
    }
}

/// The hash of a password that nobody has, so that an unknown name takes as long as a known one.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRmb3Jub2JvZHk$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn unknown(name: &str) -> Problem {
    Problem::not_found(format!("there is no user `{name}`"))
}

fn keeps_an_admin(file: &File) -> Result<(), Problem> {
    if file.users.iter().any(|user| user.role == Role::Admin) {
        return Ok(());
    }
    let problem = Problem::conflict("nobody would be left who may say who uses the console");
    Err(problem.remedy("make another user an admin first"))
}

fn check_name(name: &str) -> Result<(), Problem> {
    if is_user_name(name)
        && !name.contains('+')
        && !NO_NAMES.iter().any(|thing| thing.eq_ignore_ascii_case(name))
    {
        return Ok(());
    }
    Err(Problem::bad_request("this cannot be a user's name").remedy(
        "use 1 to 64 letters, digits and `.`, `_`, `-`, `@`; not root or a part of the gateway",
    ))
}

fn hashed(password: &str) -> Result<String, Problem> {
    if password.chars().count() < MIN_PASSWORD || password.len() > MAX_PASSWORD {
        return Err(Problem::bad_request(format!(
            "a password has at least {MIN_PASSWORD} characters, and at most {MAX_PASSWORD} bytes"
        ))
        .remedy("a few unrelated words are easy to remember and hard to guess"));
    }
    let mut salt = [0; 16];
    secret::fill(&mut salt)?;
    let made = SaltString::encode_b64(&salt)
        .and_then(|salt| Ok(hasher()?.hash_password(password.as_bytes(), &salt)?.to_string()));
    made.map_err(|error| Problem::internal(format!("the password cannot be hashed: {error}")))
}

fn hasher() -> argon2::password_hash::Result<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, ROUNDS, LANES, None)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

impl From<String> for Problem {
    fn from(detail: String) -> Self {
        Self::internal(detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_opens_its_own_user_and_is_not_kept() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let users = Users::new(folder.path());
        assert_eq!(users.lack_an_admin(), Ok(true));
        let ada =
            users.add("ada", Role::Admin, "correct horse").unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(users.lack_an_admin(), Ok(false));
        assert!(users.verify("ada", "correct horse").is_ok_and(|user| user == Some(ada)));
        for (name, password) in [("ada", "correct horsf"), ("bob", "correct horse"), ("ada", "")] {
            assert_eq!(users.verify(name, password), Ok(None), "{name} {password}");
        }
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap_or_default();
        assert!(text.contains("$argon2id$v=19$m=19456,t=2,p=1$") && !text.contains("horse"));
    }

    #[test]
    fn what_nobody_has_is_a_hash_like_any_other() {
        let hash = PasswordHash::new(NOBODY).unwrap_or_else(|e| panic!("{e}"));
        let params = Params::try_from(&hash).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (params.m_cost(), params.t_cost(), params.p_cost()),
            (MEMORY_KIB, ROUNDS, LANES)
        );
    }

    #[test]
    fn the_last_admin_stays_and_bad_names_and_passwords_are_refused() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let users = Users::new(folder.path());
        let made = users.put_admin("ada", "correct horse");
        let first = made.unwrap_or_else(|e| panic!("{e:?}")).version;
        assert_eq!(users.remove("ada").map_err(|p| p.status), Err(409));
        let demoted = users.set("ada", Some(Role::Viewer), None);
        assert_eq!(demoted.map_err(|p| p.status), Err(409));
        for (name, password) in
            [("", "long enough"), ("a+b", "long enough"), ("root", "long enough"), ("bob", "short")]
        {
            let added = users.add(name, Role::Viewer, password);
            assert_eq!(added.map_err(|p| p.status), Err(400), "{name} {password}");
        }
        assert!(
            users.set("ada", None, Some("another one")).is_ok_and(|ada| ada.version == first + 1)
        );
        assert_eq!(users.set("bob", None, None).map_err(|p| p.status), Err(404));
    }
}
