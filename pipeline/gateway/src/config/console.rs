//! `[console]`: where the console listens, who it runs as, and how it is reached.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Checker;
use super::document::{self, Spanned};
use crate::audit::Who;

/// Where the console listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 10443;

const FOLDER: &str = "/var/lib/bulkhead-console";
const USER: &str = "bulkhead-console";

/// The longest name of a console's user, in bytes.
pub const MAX_USER_BYTES: usize = 64;

/// What `bulkhead console` is told, and what the gateway believes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsoleConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it serves its metrics, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// The folder of its users, tokens and certificate.
    pub folder: PathBuf,
    /// The system user that it runs as, by name or number: the only one that the gateway believes when it
    /// names the console's user for whom it asks.
    pub user: String,
    /// How connections are protected.
    pub tls: Tls,
    /// Where browsers reach it, if not where it listens: `https://`, a host and perhaps a port, with no
    /// `/` at its end.
    pub public_url: Option<String>,
    /// Names and addresses in a certificate that it makes itself, beside those that it finds.
    pub names: Vec<String>,
    /// After so long without a request a session is over.
    pub session_idle: Duration,
    /// After so long it is over in any case.
    pub session_limit: Duration,
    /// Bytes that the model of the network may take in memory.
    pub memory_bytes: u64,
}

/// How connections to the console are protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tls {
    /// With a certificate that it makes at its first start.
    Own,
    /// With this certificate chain and key, both PEM.
    Given {
        /// The chain, its own certificate first.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Not at all: on loopback only.
    Off,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)),
            metrics: None,
            folder: PathBuf::from(FOLDER),
            user: USER.to_owned(),
            tls: Tls::Own,
            public_url: None,
            names: Vec::new(),
            session_idle: Duration::from_secs(30 * 60),
            session_limit: Duration::from_secs(12 * 3600),
            memory_bytes: 1 << 30,
        }
    }
}

impl ConsoleConfig {
    /// Who asks, where it is `who` that says for whom. Only the console is believed.
    ///
    /// # Errors
    ///
    /// That it is not the console, or that the name is none.
    pub fn acts_for(&self, who: Who, on_behalf_of: Option<String>) -> Result<Who, String> {
        let Some(user) = on_behalf_of else { return Ok(who) };
        let is_console = match self.user.parse::<u32>() {
            Ok(uid) => who.uid == Some(uid),
            Err(_) => who.uid.is_some() && who.name == self.user,
        };
        if !is_console {
            return Err(format!(
                "only the console (user `{}`, `user` under [console]) may ask for somebody else, and \
                 this is {}",
                self.user, who.name
            ));
        }
        if !is_user_name(&user) {
            return Err("that is no name of a console's user".to_owned());
        }
        Ok(Who { on_behalf_of: Some(user), ..who })
    }
}

/// Whether this can be who asks the console: a user's name (letters, digits and `.`, `_`, `-`, `@`), and
/// for a token of the user `+` and its number; 1 to 64 bytes.
pub fn is_user_name(name: &str) -> bool {
    (1..=MAX_USER_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@+".contains(&byte))
}

impl Checker<'_> {
    pub(super) fn console(&mut self, table: document::Console) -> ConsoleConfig {
        let default = ConsoleConfig::default();
        let tls_span = table.tls.as_ref().map(Spanned::span);
        let tls_off = table
            .tls
            .is_some_and(|tls| self.choice(Some(tls), false, &[("on", false), ("off", true)]));
        let tls = match (table.certificate, table.key) {
            (None, None) if tls_off => Tls::Off,
            (None, None) => Tls::Own,
            (Some(certificate), Some(key)) if !tls_off => Tls::Given {
                certificate: self.path(Some(certificate), ""),
                key: self.path(Some(key), ""),
            },
            (Some(one), _) | (None, Some(one)) => {
                self.mistake(one.span(), "a certificate and its key come together, and with TLS")
                    .help("name both `certificate` and `key`, and leave `tls` on; or neither");
                Tls::Own
            }
        };
        let listen = self.console_address(table.listen).unwrap_or(default.listen);
        if let (Tls::Off, Some(span), false) = (&tls, tls_span, listen.ip().is_loopback()) {
            self.mistake(
                span,
                format!("without TLS the console listens on loopback, not at {listen}"),
            )
            .help("leave `tls` on, or listen at 127.0.0.1 or [::1]");
        }
        let user = table.user.map_or(default.user, Spanned::into_inner);
        ConsoleConfig {
            listen,
            metrics: self.console_address(table.metrics),
            folder: self.path(table.dir, FOLDER),
            user,
            tls,
            public_url: self.public_url(table.public_url),
            names: (table.names.map(Spanned::into_inner).unwrap_or_default().into_iter())
                .map(Spanned::into_inner)
                .collect(),
            session_idle: Duration::from_secs(
                60 * self.number("session-idle-min", table.session_idle_min, 30, 1..=24 * 60),
            ),
            session_limit: Duration::from_secs(
                3600 * self.number("session-hours", table.session_hours, 12, 1..=7 * 24),
            ),
            memory_bytes: self.number::<u64>("memory-mib", table.memory_mib, 1024, 64..=65_536)
                << 20,
        }
    }

    fn public_url(&mut self, written: Option<Spanned<String>>) -> Option<String> {
        let written = written?;
        let url = written.get_ref().trim_end_matches('/');
        // As browsers write it.
        let url = url.strip_suffix(":443").unwrap_or(url);
        let host = url.strip_prefix("https://").unwrap_or_default();
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        if !host.is_empty() && host.len() <= 255 && host.bytes().all(is_host) {
            return Some(url.to_ascii_lowercase());
        }
        let what = format!("`{}` is not where browsers find a console", written.get_ref());
        self.mistake(written.span(), what)
            .help("write https://, its host and, unless it is 443, its port: no path");
        None
    }

    fn console_address(&mut self, written: Option<Spanned<String>>) -> Option<SocketAddr> {
        let written = written.filter(|written| written.get_ref() != "off")?;
        let parsed = written.get_ref().parse::<SocketAddr>().ok();
        if parsed.is_none() {
            self.mistake(written.span(), format!("`{}` is no address and port", written.get_ref()))
                .help(format!("write `127.0.0.1:{DEFAULT_PORT}` or `[::]:{DEFAULT_PORT}`"));
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_console_is_believed_to_act_for_others() {
        let config = ConsoleConfig { user: "4711".to_owned(), ..ConsoleConfig::default() };
        let console = || Who { uid: Some(4711), ..Who::thing("bulkhead-console") };
        let asked = config.acts_for(console(), Some("ada".to_owned()));
        assert_eq!(asked.map(|who| who.on_behalf_of), Ok(Some("ada".to_owned())));
        for wrong in ["", "a b", "ada\n", "ä", &"a".repeat(MAX_USER_BYTES + 1)] {
            assert!(config.acts_for(console(), Some(wrong.to_owned())).is_err(), "{wrong:?}");
        }
        let other = Who { uid: Some(0), ..Who::thing("4711") };
        assert!(config.acts_for(other.clone(), Some("ada".to_owned())).is_err(), "root is not it");
        assert_eq!(config.acts_for(other.clone(), None), Ok(other), "for itself anybody asks");
    }
}
