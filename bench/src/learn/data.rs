//! Hours of communication in the format of the g21 set, read and written.
//!
//! A file is an hour; a line of it is `graph client server port`p`protocol-packets,…`, with tabs.
//! The files of a folder are hours in the order of their names.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bulkhead_learn::observe::{HostKey, Outcome, PortProtocol, Service};
use bulkhead_learn::store::Store;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// One edge in one hour.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Flow {
    /// Who opened.
    pub client: u32,
    /// To whom.
    pub server: u32,
    /// What.
    pub service: Service,
    /// Whether nobody answered. The format has no word for it: it is in lines whose graph ends with
    /// [`FAILED`].
    pub failed: bool,
}

/// How the graph's name ends in lines of flows that nobody answered.
pub const FAILED: &str = "-failed";

/// Hours in order, each with its flows.
pub type Hours = Vec<Vec<Flow>>;

/// Reads a folder of hours.
///
/// # Errors
///
/// Where a file cannot be read, or a line is not in the format: file, line and what is wrong.
pub fn read(folder: &Path) -> io::Result<Hours> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    paths.retain(|path| path.is_file());
    paths.sort();
    if paths.is_empty() {
        return Err(io::Error::other(format!("{}: no files of hours", folder.display())));
    }
    paths.iter().map(|path| read_hour(path)).collect()
}

fn read_hour(path: &Path) -> io::Result<Vec<Flow>> {
    let file = File::open(path)?;
    let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> =
        if is_gzip { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    let mut flows = Vec::new();
    for (at, line) in BufReader::new(reader).lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        read_line(&line, &mut flows).ok_or_else(|| {
            let place = format!("{}, line {}", path.display(), at + 1);
            let form = "graph client server port`p`protocol-packets,…";
            io::Error::other(format!("{place}: not a line of the form {form}: {line}"))
        })?;
    }
    flows.sort_unstable();
    flows.dedup_by_key(|flow| (flow.client, flow.server, flow.service));
    Ok(flows)
}

fn read_line(line: &str, flows: &mut Vec<Flow>) -> Option<()> {
    let mut fields = line.split_whitespace();
    let failed = fields.next()?.ends_with(FAILED);
    let client = fields.next()?.parse().ok()?;
    let server = fields.next()?.parse().ok()?;
    for item in fields.next()?.split(',') {
        let (service, packets) = item.split_once('-')?;
        let (port, protocol) = service.split_once('p')?;
        packets.parse::<u64>().ok()?;
        let service = match protocol.parse().ok()? {
            6 => Service::Port(PortProtocol::Tcp, port.parse().ok()?),
            17 => Service::Port(PortProtocol::Udp, port.parse().ok()?),
            132 => Service::Port(PortProtocol::Sctp, port.parse().ok()?),
            other => Service::Ip(other),
        };
        flows.push(Flow { client, server, service, failed });
    }
    fields.next().is_none().then_some(())
}

/// Writes hours into a folder, which is made, and returns how many files there are.
///
/// # Errors
///
/// Where a file cannot be written.
pub fn write(folder: &Path, graph: &str, hours: &Hours) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    for (hour, flows) in hours.iter().enumerate() {
        let path = folder.join(format!("edges_to_ports_{hour:06}.txt.gz"));
        let level = flate2::Compression::fast();
        let mut file = BufWriter::new(GzEncoder::new(File::create(path)?, level));
        let line = |flow: &Flow| (flow.client, flow.server, flow.failed);
        let mut flows = flows.clone();
        flows.sort_unstable_by_key(|flow| (line(flow), flow.service));
        for pair in flows.chunk_by(|a, b| line(a) == line(b)) {
            let suffix = if pair[0].failed { FAILED } else { "" };
            write!(file, "{graph}{suffix}\t{}\t{}\t", pair[0].client, pair[0].server)?;
            for (at, flow) in pair.iter().enumerate() {
                let (port, protocol) = match flow.service {
                    Service::Port(PortProtocol::Tcp, port) => (port, 6),
                    Service::Port(PortProtocol::Udp, port) => (port, 17),
                    Service::Port(PortProtocol::Sctp, port) => (port, 132),
                    Service::Ip(number) => (0, number),
                    other => return Err(io::Error::other(format!("{other} is not in the format"))),
                };
                let comma = if at == 0 { "" } else { "," };
                write!(file, "{comma}{port}p{protocol}-10")?;
            }
            writeln!(file)?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    }
    Ok(hours.len())
}

/// Reads true groups, one a line: the group of each host.
///
/// # Errors
///
/// Where the file cannot be read, or holds something else than numbers.
pub fn read_truth(path: &Path) -> io::Result<HashMap<u32, u32>> {
    let mut groups = HashMap::new();
    for (at, line) in fs::read_to_string(path)?.lines().enumerate() {
        let members = line.split(',').map(str::trim).filter(|text| !text.is_empty());
        for member in members.filter(|_| !line.starts_with('#')) {
            let member = member.parse().map_err(|_| {
                let place = format!("{}, line {}", path.display(), at + 1);
                io::Error::other(format!("{place}: {member} is not a host's number"))
            })?;
            groups.insert(member, at as u32);
        }
    }
    Ok(groups)
}

/// A store of hours.
pub fn store(hours: &[Vec<Flow>]) -> Store {
    let mut store = Store::new();
    for (hour, flows) in hours.iter().enumerate() {
        for flow in flows {
            let ids = (
                store.host(&HostKey::Number(flow.client), hour as u32),
                store.host(&HostKey::Number(flow.server), hour as u32),
            );
            let (Some(client), Some(server)) = ids else { continue };
            let outcome = if flow.failed { Outcome::Failed } else { Outcome::Unknown };
            store.add(client, server, flow.service, hour as u32, outcome);
        }
    }
    store
}
