//! Where `bulkhead learn --status` asks: a socket in the store's folder, which a full disk does not
//! silence. Whoever connects is told the status as JSON, and nothing is read.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use tracing::warn;

use super::service::{ExportStatus, Shared, Status};
use super::time_text;
use crate::cli::exit;

/// How long an asker may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Where the socket is.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("learn.sock")
}

/// Answers from now on, for as long as the process lives. Without a socket the service still runs.
pub(super) fn serve(folder: &Path, status: &Shared) {
    let path = path(folder);
    let listener = match bind(folder, &path) {
        Ok(listener) => listener,
        Err(error) => {
            let path = path.display();
            warn!("no socket {path}: {error}; `bulkhead learn --status` will not work");
            return;
        }
    };
    let status = Shared::clone(status);
    thread::spawn(move || {
        // One after the other: each is short, and may not take long.
        for stream in listener.incoming().flatten() {
            let text = {
                let status = status.lock().unwrap_or_else(PoisonError::into_inner);
                serde_json::to_vec(&*status)
            };
            let Ok(text) = text else { continue };
            let mut stream = stream;
            // Who went away does not want to know.
            let _ = stream.set_write_timeout(Some(LIMIT)).and_then(|()| stream.write_all(&text));
        }
    });
}

fn bind(folder: &Path, path: &Path) -> std::io::Result<UnixListener> {
    fs::create_dir_all(folder)?;
    if UnixStream::connect(path).is_ok() {
        return Err(std::io::Error::other("another process answers there"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Asks, and prints what is answered. Returns the exit code.
pub(super) fn show(folder: &Path, json: bool) -> u8 {
    let path = path(folder);
    match ask(&path) {
        Ok(status) if json => {
            crate::control::client::print_json(&status);
            exit::OK
        }
        Ok(status) => {
            print!("{}", text(&status));
            exit::OK
        }
        Err(error) => {
            eprintln!(
                "error: no answer at {}: {error}\n  = help: is `bulkhead learn` running?",
                path.display()
            );
            exit::UNAVAILABLE
        }
    }
}

fn ask(path: &Path) -> std::io::Result<Status> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut text = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(std::io::Error::other)
}

fn text(status: &Status) -> String {
    let counters = &status.counters;
    let gateway = match (status.connected, status.gateway.as_str()) {
        (true, version) => format!("connected, version {version}"),
        (false, "") => "not there yet".to_owned(),
        (false, version) => format!("gone (was version {version})"),
    };
    let stored = match status.stored_ms {
        0 => "never".to_owned(),
        ms => time_text(ms),
    };
    let trouble = status.trouble.as_deref().unwrap_or("none");
    let mut text = format!(
        "gateway    {gateway}\n\
         read       {} flow records, {} copies of frames; {} flows open\n\
         lost       {} flow records and {} frames in the gateway; {} records and {} facts here; {} records with an earlier process\n\
         store      {}\n\
         stored     {} sums of edges in {} batches, last {stored}; {} wait; {} rows forgotten\n\
         trouble    {trouble}\n",
        counters.flows_read,
        counters.frames_read,
        status.open_flows,
        counters.flows_lost,
        counters.frames_lost,
        counters.flows_dropped,
        counters.facts_dropped,
        counters.flows_unstored,
        status.store,
        status.edges_stored,
        status.batches,
        status.edges_waiting,
        status.edges_pruned,
    );
    for export in &status.exports {
        let ExportStatus { name, written, lost } = export;
        text.push_str(&format!("export     {name}: {written} records, {lost} lost\n"));
    }
    for aside in &status.set_aside {
        text.push_str(&format!("set aside  {aside} (was damaged)\n"));
    }
    text
}
