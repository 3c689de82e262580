//! The keys that a policy may be signed with: a file as `ssh-keygen -Y verify` reads it (the
//! `allowed_signers` of OpenSSH), so that people can check by hand what the gateway checks.
//!
//! ```text
//! # who             for what it may sign          key
//! ops@plant.example namespaces="bulkhead-policy" ssh-ed25519 AAAAC3Nza... anna
//! ```
//!
//! What would narrow a key in a way that is not known here (`cert-authority`, `valid-before`) is an
//! error, not ignored: a key whose time is over is taken out of the file.

use ssh_key::public::{EcdsaPublicKey, KeyData};
use ssh_key::{HashAlg, PublicKey};

use super::NAMESPACE;

/// The most bytes of the file.
pub const MAX_KEYS_BYTES: u64 = 1 << 20;

/// Keys that are trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustedKeys(Vec<TrustedKey>);

/// A key, and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustedKey {
    /// Whose it is, as the file says.
    pub signer: String,
    /// The key.
    pub key: PublicKey,
}

impl TrustedKey {
    /// By which the key is known: `SHA256:` and its hash, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }
}

impl TrustedKeys {
    /// Reads the text of the file.
    ///
    /// # Errors
    ///
    /// The line, from 1, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (u32, String)> {
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = parse_line(line).map_err(|what| (number, what))?;
            keys.extend(key);
        }
        if keys.is_empty() {
            return Err((1, format!("it holds no key for `{NAMESPACE}`")));
        }
        Ok(Self(keys))
    }

    /// The key with this public part.
    pub fn find(&self, public: &KeyData) -> Option<&TrustedKey> {
        self.0.iter().find(|trusted| trusted.key.key_data() == public)
    }
}

/// The key of a line; [`None`] where it is for other things than policies.
fn parse_line(line: &str) -> Result<Option<TrustedKey>, String> {
    let (signer, rest) = word(line);
    let signer = signer.trim_matches('"');
    let (first, after) = word(rest);
    let (options, key) = match is_key_type(first) {
        true => ("", rest),
        false => (first, after),
    };
    let wrong =
        || "whose key, its kind and the key are expected: NAME ssh-ed25519 AAAA...".to_owned();
    if signer.is_empty() || is_key_type(signer) || signer.contains(|c: char| c.is_control()) {
        return Err(wrong());
    }
    let is_for_policies = check_options(options)?;
    let (kind, after) = word(key);
    if !is_key_type(kind) {
        return Err(wrong());
    }
    let (encoded, _) = word(after);
    let key = PublicKey::from_openssh(&format!("{kind} {encoded}"))
        .map_err(|error| format!("the key of {signer} cannot be read: {error}"))?;
    if !is_supported(key.key_data()) {
        return Err(format!(
            "the key of {signer} is of a kind that is not supported ({kind}): `ssh-keygen -t ed25519` \
             makes one, or -t ed25519-sk for a security key"
        ));
    }
    Ok(is_for_policies.then(|| TrustedKey { signer: signer.to_owned(), key }))
}

/// The first word of `text`, spaces within double quotes included, and what follows.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let mut is_quoted = false;
    let end = text.find(|c: char| {
        is_quoted ^= c == '"';
        c.is_whitespace() && !is_quoted
    });
    text.split_at(end.unwrap_or(text.len()))
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| word.starts_with(prefix))
}

fn is_supported(key: &KeyData) -> bool {
    matches!(
        key,
        KeyData::Ed25519(_)
            | KeyData::SkEd25519(_)
            | KeyData::SkEcdsaSha2NistP256(_)
            | KeyData::Ecdsa(EcdsaPublicKey::NistP256(_))
    )
}

/// Whether the options leave the key for policies.
fn check_options(options: &str) -> Result<bool, String> {
    if options.is_empty() {
        return Ok(true);
    }
    let spaces = options.strip_prefix("namespaces=\"").and_then(|rest| rest.strip_suffix('"'));
    match spaces {
        Some(spaces) if !spaces.contains(['*', '?', '!', '"']) => {
            Ok(spaces.split(',').any(|space| space.trim() == NAMESPACE))
        }
        Some(_) => Err("`namespaces` takes plain names here, without patterns".to_owned()),
        None => Err(format!(
            "`{options}` is no option that is heeded here: only namespaces=\"{NAMESPACE}\" is; take a \
             key out of this file when it is no longer to be trusted"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn a_key_is_read_as_openssh_writes_it() {
        let text = format!(
            "# operations\n\nops@plant,night {KEY} anna's\nb namespaces=\"file,bulkhead-policy\" {KEY}\n\
             c namespaces=\"git\" {KEY}\n"
        );
        let keys = TrustedKeys::parse(&text).unwrap();
        let signers: Vec<&str> = keys.0.iter().map(|key| key.signer.as_str()).collect();
        assert_eq!(signers, ["ops@plant,night", "b"]);
        let key = PublicKey::from_openssh(KEY).unwrap();
        assert_eq!(keys.find(key.key_data()).unwrap().signer, "ops@plant,night");
        assert!(keys.0[0].fingerprint().starts_with("SHA256:"));
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7";
        for (line, said) in [
            (KEY.to_owned(), "are expected"),
            ("ops".to_owned(), "are expected"),
            (format!("ops cert-authority {KEY}"), "no option that is heeded"),
            (format!("ops valid-before=\"20270101\" {KEY}"), "no option that is heeded"),
            (format!("ops namespaces=\"*\" {KEY}"), "plain names"),
            (format!("ops {}", &KEY[..50]), "cannot be read"),
            (format!("ops {rsa}"), "cannot be read"),
            (format!("c namespaces=\"git\" {KEY}"), "it holds no key"),
            (String::new(), "it holds no key"),
        ] {
            let (number, error) = TrustedKeys::parse(&line).expect_err(&line);
            assert!(number == 1 && error.contains(said), "{line}: {error}");
        }
        let second = format!("a {KEY}\nb {KEY} \nc nonsense {KEY}\n");
        assert_eq!(TrustedKeys::parse(&second).expect_err("nonsense").0, 3);
    }
}
