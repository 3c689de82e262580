//! Embeds the console's web application, if it was built: `pipeline/console-app/dist`. Without it the
//! binary builds all the same, and says so in its place.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
        .join("../console-app/dist");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    // A folder that is not there is looked for at its parent, so that a first build is noticed.
    println!("cargo::rerun-if-changed=build.rs");
    let app = folder.parent().unwrap_or(Path::new("."));
    let watched = if folder.is_dir() { folder.as_path() } else { app };
    if watched.is_dir() {
        println!("cargo::rerun-if-changed={}", watched.display());
    }
    let mut files = Vec::new();
    if folder.join("index.html").is_file() {
        list(&folder, &mut files)?;
    }
    files.sort();
    let mut text = String::from("static ASSETS: &[Asset] = &[\n");
    for (number, path) in files.iter().enumerate() {
        let bytes = fs::read(path)?;
        let name = path.strip_prefix(&folder).unwrap_or(path).to_string_lossy().replace('\\', "/");
        let tag: String =
            Sha256::digest(&bytes).iter().take(12).fold(String::new(), |mut tag, b| {
                // Writing to a string cannot fail.
                let _ = write!(tag, "{b:02x}");
                tag
            });
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&bytes)?;
        let compressed = encoder.finish()?;
        let gzip = if compressed.len() < bytes.len() * 9 / 10 {
            let place = out.join(format!("asset-{number}.gz"));
            fs::write(&place, &compressed)?;
            format!("Some(include_bytes!({:?}))", place.display().to_string())
        } else {
            "None".to_owned()
        };
        let kind = kind(&name);
        let path = path.display().to_string();
        let entry = format!(
            "    Asset {{ path: {name:?}, kind: {kind:?}, tag: {:?}, bytes: include_bytes!({path:?}), \
             gzip: {gzip} }},\n",
            format!("\"{tag}\""),
        );
        text.push_str(&entry);
    }
    text.push_str("];\n");
    fs::write(out.join("console_assets.rs"), text)
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_none_or(|end| end != "map") {
            files.push(path);
        }
    }
    Ok(())
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "json" | "webmanifest" => "application/json",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
