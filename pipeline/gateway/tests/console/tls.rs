//! How connections to the console are protected.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

struct Running {
    process: Child,
    address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command without a gateway and a store: what it serves is of no matter here.
fn command(folder: &Path, console: &str) -> Command {
    let config = folder.join("gateway.toml");
    let text = format!(
        "policy = \"policy.yaml\"\ncontrol-socket = \"control.sock\"\nlearn-dir = \"store\"\n\
         [[wire]]\nname = \"line3\"\ninside = \"a\"\noutside = \"b\"\n\
         [console]\ndir = \"console\"\n{console}"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.args(["console", "--log-level", "error", "--config"]).arg(config);
    command.stdin(Stdio::null());
    command
}

fn start(folder: &Path, console: &str) -> Running {
    let mut command = command(folder, console);
    let mut process =
        command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split("https://").nth(1).and_then(|rest| rest.split('/').next());
    let address = address.unwrap_or_else(|| panic!("no link: {line}")).parse().unwrap();
    Running { process, address }
}

/// What it answers to who trusts this certificate and no other.
fn ask(at: SocketAddr, trusted: &Path, name: &str) -> Result<String, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, TcpStream::connect(at)?);
    stream
        .write_all(b"GET /api/v1/health HTTP/1.1\r\nhost: console\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    // It may close the connection without TLS' own farewell.
    match stream.read_to_string(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

#[test]
fn the_first_start_makes_a_certificate_and_later_ones_keep_it() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("console/console.pem");
    let text = {
        let console = start(folder.path(), "names = [\"gateway.plant.example\"]\n");
        for name in ["127.0.0.1", "localhost", "gateway.plant.example"] {
            let answer = ask(console.address, &certificate, name).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
            assert!(
                !answer.contains("strict-transport-security"),
                "nothing to insist on: {answer}"
            );
        }
        assert!(ask(console.address, &certificate, "elsewhere.example").is_err());
        // Whoever speaks HTTP without TLS is not answered.
        let mut plain = TcpStream::connect(console.address).unwrap();
        plain.write_all(b"GET /api/v1/health HTTP/1.1\r\nhost: console\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
        std::fs::read_to_string(&certificate).unwrap()
    };
    for name in ["console.pem", "console.key"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.path().join("console").join(name)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{name}");
    }
    let console = start(folder.path(), "");
    assert!(ask(console.address, &certificate, "localhost").is_ok());
    assert_eq!(std::fs::read_to_string(&certificate).unwrap(), text);
}

/// Makes a certificate and its key, as an authority would.
fn given(folder: &Path, name: &str) -> [PathBuf; 2] {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let paths = ["given.pem", "given.key"].map(|file| folder.join(file));
    std::fs::write(&paths[0], certificate.pem()).unwrap();
    std::fs::write(&paths[1], key.serialize_pem()).unwrap();
    paths
}

#[test]
fn a_certificate_that_is_given_is_served_and_browsers_may_insist_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, _] = given(folder.path(), "console.plant.example");
    let both = "certificate = \"given.pem\"\nkey = \"given.key\"\n";
    let console = start(folder.path(), both);
    let answer = ask(console.address, &certificate, "console.plant.example").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age="), "{answer}");
    assert!(!folder.path().join("console/console.pem").exists(), "none of its own is made");
    drop(console);
    // A key that is not the certificate's.
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(folder.path().join("given.key"), other).unwrap();
    let refused = command(folder.path(), both).output().unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("given.pem"), "it says which: {said}");
}

#[test]
fn plain_http_is_for_loopback_only() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |console: &str, more: &[&str]| -> Output {
        command(folder.path(), console).args(more).output().unwrap()
    };
    for (console, more) in [
        ("", &["--plain-http", "--listen", "0.0.0.0:0"][..]),
        ("", &["--plain-http", "--listen", "[::]:0"]),
        ("tls = \"off\"\n", &["--listen", "192.0.2.1:0"]),
        ("tls = \"off\"\nlisten = \"0.0.0.0:10443\"\n", &[]),
    ] {
        let output = refused(console, more);
        assert_eq!(output.status.code(), Some(1), "{console} {more:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("without TLS the console listens on loopback"), "{said}");
    }
    assert!(!folder.path().join("console").exists(), "nothing was begun");
}
