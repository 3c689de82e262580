//! TLS: the certificate that is named, or one that the console makes at its first start.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

use super::access::secret;
use super::settings::{Settings, host_name};
use crate::config::Tls;

const CERTIFICATE: &str = "console.pem";
const KEY: &str = "console.key";

/// How long a certificate that it makes is valid: as long as browsers bear with.
const VALID_DAYS: i64 = 397;

/// What protects connections, and the fingerprint (SHA-256) of the certificate.
pub(super) struct Protection {
    /// Takes connections.
    pub(super) acceptor: TlsAcceptor,
    /// By which a person knows the certificate.
    pub(super) fingerprint: String,
}

/// What `settings` ask for; [`None`] for plain HTTP.
///
/// # Errors
///
/// What is wrong with certificate or key, and what to do.
pub(super) fn load(settings: &Settings) -> Result<Option<Protection>, String> {
    let console = &settings.console;
    let (certificate, key) = match &console.tls {
        Tls::Off => return Ok(None),
        Tls::Given { certificate, key } => (certificate.clone(), key.clone()),
        Tls::Own => {
            let paths = (console.folder.join(CERTIFICATE), console.folder.join(KEY));
            if !paths.0.exists() || !paths.1.exists() || is_old(&paths.0) {
                make(&paths.0, &paths.1, &console.names)?;
            }
            paths
        }
    };
    let wrong = |path: &Path, error: &dyn std::fmt::Display| {
        format!("error: {} cannot be used for TLS: {error}", path.display())
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&certificate)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(&certificate, &error))?;
    let first = chain.first().ok_or_else(|| wrong(&certificate, &"it has no certificate"))?;
    let fingerprint = fingerprint(first);
    let key_der = PrivateKeyDer::from_pem_file(&key).map_err(|error| wrong(&key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der));
    let mut config = config.map_err(|error| wrong(&certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Protection { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint }))
}

/// Made so long ago that it is to be made anew: a month before its end.
fn is_old(certificate: &Path) -> bool {
    let made = fs::metadata(certificate).and_then(|metadata| metadata.modified());
    let age = made.ok().and_then(|made| made.elapsed().ok());
    age.is_some_and(|age| age.as_secs() / 86_400 > (VALID_DAYS - 30).unsigned_abs())
}

fn make(certificate: &Path, key: &Path, names: &[String]) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!("error: the console cannot make itself a certificate: {error}")
    };
    let host = host_name();
    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), host];
    all.extend(names.iter().cloned());
    all.sort();
    all.dedup();
    let mut params = CertificateParams::default();
    for name in &all {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|e| failed(&e))?),
        });
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, format!("Bulkhead console at {}", host_name()));
    params.distinguished_name = subject;
    let now = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(86_400);
    params.not_before = (now - day).into();
    params.not_after = (now + day * VALID_DAYS.unsigned_abs() as u32).into();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let pair = KeyPair::generate().map_err(|error| failed(&error))?;
    let made = params.self_signed(&pair).map_err(|error| failed(&error))?;
    // The key first: a certificate without its key would not be made anew.
    for (path, text) in [(key, pair.serialize_pem()), (certificate, made.pem())] {
        let _ = fs::remove_file(path);
        let mut options = fs::OpenOptions::new();
        let written =
            options.write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            });
        written.map_err(|error| failed(&format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

/// As browsers show it: pairs of digits with colons between.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digits = secret::hex(&Sha256::digest(certificate)).to_uppercase();
    let pairs = digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned());
    pairs.collect::<Vec<_>>().join(":")
}
