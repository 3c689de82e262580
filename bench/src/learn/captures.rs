//! Captures of plants learnt by halves: what the first half gives, and what of the second it denies.
//!
//! Each capture of several hosts is split at its middle packet. The gateway's own commands do the rest:
//! `learn --from-capture` and `propose` make a policy of the first half, `check` accepts it, `devices` is
//! the inventory, and `replay` judges the second half, frame by frame, as a gateway would that was put in
//! between the halves. Captures are read from folders; nothing of them is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bulkhead_pipeline::port::capture::{CaptureReader, CaptureWriter, Format, LinkType};
use serde::Serialize;
use serde_json::Value;

/// Hosts from which a capture is one of several.
const HOSTS: usize = 4;

/// Frames under which a half holds too little to learn from.
const FRAMES: usize = 100;

/// What one capture gave.
#[derive(Clone, Debug, Serialize)]
pub struct Halves {
    /// Its path below the folder.
    pub capture: String,
    /// Frames of both halves.
    pub frames: usize,
    /// Seconds of a period in which the first half was looked at.
    pub period_s: u64,
    /// Devices of the first half, with role and protocols.
    pub devices: Vec<Device>,
    /// Rules that were learnt, ready-made ones for broadcasts among them.
    pub rules: usize,
    /// Edges (client, server, service) that were seen in the second half.
    pub edges: usize,
    /// Edges of the second half that the policy denies.
    pub denied: Vec<Denial>,
}

/// One device.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// Its first address, or its MAC address.
    pub address: String,
    /// What it is, as the inventory says.
    pub role: String,
    /// Protocols that it offers or uses, recognised by their first bytes, or else services.
    pub protocols: Vec<String>,
}

/// One edge that the policy denies.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Denial {
    /// Why it made no rule.
    pub why: String,
    /// What.
    pub service: String,
    /// Who opens.
    pub client: String,
    /// To whom.
    pub server: String,
    /// Packets.
    pub packets: u64,
}

/// Learns all captures of several hosts below a folder.
///
/// # Errors
///
/// A gateway that cannot be run, a policy that it refuses, or files that cannot be written.
pub fn run(folder: &Path, gateway: &Path) -> io::Result<Vec<Halves>> {
    let mut paths = Vec::new();
    collect(folder, &mut paths)?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        found.extend(learn(&path, name, gateway)?);
    }
    Ok(found)
}

/// Prints what was found as a table, then inventory and denials one by one.
pub fn print(found: &[Halves]) {
    println!("| capture | frames | devices | rules | edges of the second half | denied |");
    println!("|---|---|---|---|---|---|");
    for half in found {
        let Halves { capture, frames, devices, rules, edges, denied, .. } = half;
        let (devices, denied) = (devices.len(), denied.len());
        println!("| {capture} | {frames} | {devices} | {rules} | {edges} | {denied} |");
    }
    for half in found {
        println!("\n### {}\n", half.capture);
        let mut alike: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
        for device in &half.devices {
            let protocols = device.protocols.join(", ");
            alike.entry((&device.role, protocols)).or_default().push(&device.address);
        }
        for ((role, protocols), devices) in alike {
            println!("- {role} ({protocols}): {}", listed(&devices));
        }
        let mut denied: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
        for denial in &half.denied {
            let key = (denial.why.as_str(), denial.service.as_str(), denial.client.as_str());
            denied.entry(key).or_default().push(&denial.server);
        }
        for ((why, service, client), servers) in denied {
            println!("- denied, {why}: {client} to {} over {service}", listed(&servers));
        }
    }
}

fn listed(names: &[&str]) -> String {
    format!(
        "{}{}",
        if names.len() > 1 { format!("{}: ", names.len()) } else { String::new() },
        names.join(" ")
    )
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_capture =
            path.extension().is_some_and(|end| end == "pcap" || end == "pcapng" || end == "cap");
        if path.is_dir() {
            collect(&path, into)?;
        } else if is_capture {
            into.push(path);
        }
    }
    Ok(())
}

/// Learns one capture; [`None`] where it has too few hosts or frames, or is no capture of Ethernet.
fn learn(path: &Path, capture: String, gateway: &Path) -> io::Result<Option<Halves>> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    let (first, second) = (at("first.pcapng"), at("second.pcapng"));
    let Some(frames) = split(path, &first, &second)? else { return Ok(None) };
    let gateway = Gateway { path: gateway, folder: scratch.path() };
    let imported = gateway.json(&["learn", "--from-capture", "first.pcapng", "--dir", "first"])?;
    let devices: Vec<Device> =
        array(&gateway.json(&["devices", "--store", "first"])?).iter().map(device).collect();
    if devices.len() < HOSTS {
        return Ok(None);
    }
    std::fs::create_dir(at("policy"))?;
    let proposal =
        gateway.json(&["propose", "--store", "first", "--out", "policy/80-learned.yaml"])?;
    gateway.run(&["check", "policy"])?;
    gateway.json(&["learn", "--from-capture", "second.pcapng", "--dir", "second"])?;
    let edges = gateway.json(&["map", "--store", "second"])?;
    let replayed = gateway.json(&["replay", "--policy", "policy", "second.pcapng"])?;
    let known: HashSet<String> = array(&gateway.json(&["devices", "--store", "first"])?)
        .iter()
        .flat_map(|device| array(&device["addresses"]).iter().map(|a| text(&a["address"])))
        .collect();
    let denied = denials(&gateway, &replayed, &proposal, &known)?;
    let count = |key: &str| array(&proposal[key]).len();
    Ok(Some(Halves {
        capture,
        frames,
        period_s: imported["period-s"].as_u64().unwrap_or(0),
        devices,
        rules: count("rules") + count("templates"),
        edges: array(&edges).len(),
        denied,
    }))
}

/// Writes both halves of a capture, and returns how many frames there are.
fn split(path: &Path, first: &Path, second: &Path) -> io::Result<Option<usize>> {
    let Ok(mut reader) = CaptureReader::open(path) else { return Ok(None) };
    let mut frames = 0;
    // What is damaged at its end is learnt up to there.
    while let Ok(Some(record)) = reader.next_record() {
        frames += usize::from(record.link_type == LinkType::ETHERNET);
    }
    if frames < FRAMES {
        return Ok(None);
    }
    let Ok(mut reader) = CaptureReader::open(path) else { return Ok(None) };
    let create = |path| CaptureWriter::create(path, Format::for_path(path)).map_err(other);
    let (mut early, mut late) = (create(first)?, create(second)?);
    let mut at = 0;
    while let Ok(Some(record)) = reader.next_record() {
        if record.link_type != LinkType::ETHERNET {
            continue;
        }
        let writer = if at < frames / 2 { &mut early } else { &mut late };
        writer.write(record.timestamp_ns, record.original_len, record.bytes).map_err(other)?;
        at += 1;
    }
    early.finish().map_err(other)?;
    late.finish().map_err(other)?;
    Ok(Some(frames))
}

/// The edges that were denied, each once: an answer to what was denied is no edge of its own, and a
/// connection from before the middle is taken up where the policy permits one of its directions.
fn denials(
    gateway: &Gateway<'_>,
    replayed: &Value,
    proposal: &Value,
    known: &HashSet<String>,
) -> io::Result<Vec<Denial>> {
    let doubts: HashMap<(String, String, String), String> = array(&proposal["makes-no-rule"])
        .iter()
        .map(|edge| {
            let key = (text(&edge["client"]), text(&edge["server"]), text(&edge["service"]));
            (key, text(&edge["why"]))
        })
        .collect();
    let mut found: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    let mut answers: HashSet<[String; 4]> = HashSet::new();
    for flow in array(&replayed["blocked_flows"]) {
        let (from, to) = (text(&flow["from"]), text(&flow["to"]));
        let port = |key: &str| flow[key].as_u64().map_or_else(String::new, |port| port.to_string());
        let (from_port, to_port) = (port("from_port"), port("to_port"));
        let ends = [from.clone(), from_port.clone(), to.clone(), to_port.clone()];
        if answers.contains(&ends) {
            continue;
        }
        let protocol = text(&flow["protocol"]);
        answers.insert([to.clone(), to_port.clone(), from.clone(), from_port.clone()]);
        if flow["reason"] == "tcp_no_flow" {
            let ways = [
                format!("tcp {from}:{from_port} -> {to}:{to_port}"),
                format!("tcp {to}:{to_port} -> {from}:{from_port}"),
            ];
            if ways.iter().any(|way| gateway.permits(way)) {
                continue;
            }
        }
        let service = match (to_port.as_str(), flow["icmp"][0].as_u64()) {
            (_, Some(kind)) => format!("{protocol}/{kind}"),
            ("", None) => protocol,
            (port, None) => format!("{protocol}/{port}"),
        };
        *found.entry((from, to, service)).or_default() += flow["packets"].as_u64().unwrap_or(0);
    }
    let why = |edge: &(String, String, String)| match doubts.get(edge) {
        Some(doubt) => format!("{doubt} of the first half"),
        None if !known.contains(&edge.0) => "new client".to_owned(),
        None if !known.contains(&edge.1) => "new server".to_owned(),
        None => "new service between known devices".to_owned(),
    };
    let denials = found.into_iter().map(|(edge, packets)| {
        let why = why(&edge);
        let (client, server, service) = edge;
        Denial { why, service, client, server, packets }
    });
    let sorted: BTreeSet<Denial> = denials.collect();
    Ok(sorted.into_iter().collect())
}

fn device(device: &Value) -> Device {
    let services = |side: &str| -> Vec<String> {
        let name = |service: &Value| match array(&service["applications"]).first() {
            Some(application) => text(application),
            None => text(&service["service"]),
        };
        array(&device[side]).iter().map(name).collect()
    };
    let mut protocols: Vec<String> = services("offers");
    protocols.extend(services("uses"));
    protocols.sort();
    protocols.dedup();
    let first = &device["addresses"][0]["address"];
    let address = [first, &device["mac"]].into_iter().find(|name| name.is_string());
    Device {
        address: address.map_or_else(String::new, text),
        role: text(&device["role"]),
        protocols,
    }
}

struct Gateway<'g> {
    path: &'g Path,
    folder: &'g Path,
}

impl Gateway<'_> {
    fn output(&self, arguments: &[&str]) -> io::Result<Output> {
        let path = std::path::absolute(self.path)?;
        Command::new(&path).args(arguments).current_dir(self.folder).output().map_err(|error| {
            io::Error::other(format!("cannot run {}: {error}; build it first", path.display()))
        })
    }

    fn run(&self, arguments: &[&str]) -> io::Result<Vec<u8>> {
        let output = self.output(arguments)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("bulkhead {}: {said}", arguments.join(" "))))
    }

    fn json(&self, arguments: &[&str]) -> io::Result<Value> {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        serde_json::from_slice(&self.run(&arguments)?).map_err(io::Error::other)
    }

    fn permits(&self, packet: &str) -> bool {
        let asked = self.output(&["explain", "--policy", "policy", "--expect", "allow", packet]);
        asked.is_ok_and(|output| output.status.success())
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}
