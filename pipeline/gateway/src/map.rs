//! `bulkhead map`: who talks to whom, as a table, a matrix or a picture.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_learn::observe::{HostKey, Service};
use bulkhead_rules::headers::Mac;
use bulkhead_rules::syntax;
use bulkhead_rules::syntax::document::{Addresses, Device, Member, Selector};
use bulkhead_rules::syntax::span::Spanned;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::candidate;
use crate::cli::exit;
use crate::config::Limits;
use crate::learning::direction::Directions;
use crate::learning::identity::{Identities, Who};
use crate::learning::ingest::Seen;
use crate::learning::report::{Reader, Refusal, StoreArgs};
use crate::learning::table::Table;
use crate::learning::time_text;
use crate::policy_files::PolicyFiles;

/// What `map` is told.
#[derive(Args, Clone, Debug)]
pub struct MapArgs {
    /// The store and the time that is looked at
    #[command(flatten)]
    pub store: StoreArgs,
    /// What is told apart
    #[arg(long, value_enum, default_value = "device")]
    pub by: By,
    /// The policy whose groups are meant, with --by group
    #[arg(long, short, value_name = "POLICY", required_if_eq("by", "group"))]
    pub policy: Option<PathBuf>,
    /// How it is shown
    #[arg(long, value_enum, default_value = "table", conflicts_with = "json")]
    pub format: MapFormat,
    /// Leave out what nobody answered
    #[arg(long)]
    pub answered: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a map tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum By {
    /// Devices.
    Device,
    /// Groups of a policy; who is in none stands alone.
    Group,
    /// Services: who serves them, whoever uses them.
    Service,
}

/// How a map is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum MapFormat {
    /// A line for each client, server and service.
    Table,
    /// Clients down, servers across.
    Matrix,
    /// A graph for Graphviz.
    Dot,
    /// A matrix as a picture.
    Svg,
}

/// A line of a map.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Line {
    /// Who opened.
    pub client: String,
    /// To whom.
    pub server: String,
    /// What.
    pub service: String,
    /// What it was recognised as.
    pub applications: BTreeSet<String>,
    /// Flows.
    pub flows: u64,
    /// Periods with an answer.
    pub answered: u64,
    /// Flows without one.
    pub failed: u64,
    /// Packets that were denied.
    pub denied: u64,
    /// Packets, both ways.
    pub packets: u64,
    /// Bytes, both ways.
    pub bytes: u64,
    /// When it was seen first, in Unix milliseconds.
    pub first_ms: i64,
    /// And last.
    pub last_ms: i64,
    /// The rule that decided last.
    pub rule: String,
}

/// Shows. Returns the exit code.
pub fn main(args: &MapArgs) -> u8 {
    match lines(args) {
        Ok(lines) => {
            if args.json {
                crate::control::client::print_json(&lines);
            } else {
                print!("{}", shown(&lines, args.format));
            }
            exit::OK
        }
        Err(Refusal { message, code }) => {
            eprintln!("{message}");
            code
        }
    }
}

fn lines(args: &MapArgs) -> Result<Vec<Line>, Refusal> {
    let reader = Reader::open(&args.store)?;
    let identities = Identities::read(&reader)?;
    let groups = match (&args.policy, args.by) {
        (Some(policy), By::Group) => Some(Groups::read(policy)?),
        _ => None,
    };
    let mut applications: BTreeMap<(i64, Service), BTreeSet<String>> = BTreeMap::new();
    for (server, service, application) in reader.services()? {
        applications.entry((server, service)).or_default().insert(application);
    }
    let name = |id: i64| -> Option<String> {
        let who = identities.who(id)?;
        if let Some(group) = groups.as_ref().and_then(|groups| groups.of(&identities, who)) {
            return Some(group);
        }
        let (Who::Host(key) | Who::Group(key)) = who;
        Some(identities.name(key).map_or_else(|| key.to_string(), |name| format!("{name} ({key})")))
    };
    let mut found: BTreeMap<(String, String, String), Line> = BTreeMap::new();
    let directions = Directions::read(&reader)?;
    reader.edges(|mut edge| {
        directions.settle(&mut edge);
        if args.answered && edge.answered == 0 {
            return;
        }
        let (Some(client), Some(server)) = (name(edge.client), name(edge.server)) else { return };
        let client = if args.by == By::Service { "any".to_owned() } else { client };
        let service = edge.service.to_string();
        let line = found.entry((client.clone(), server.clone(), service.clone()));
        let line = line.or_insert_with(|| Line {
            client,
            server,
            service,
            first_ms: i64::MAX,
            ..Line::default()
        });
        line.flows += edge.flows;
        line.answered += edge.answered;
        line.failed += edge.failed;
        line.denied += edge.denied;
        line.packets = line.packets.saturating_add(edge.packets);
        line.bytes = line.bytes.saturating_add(edge.bytes);
        let Seen { first_ms, last_ms } = edge.seen;
        line.first_ms = line.first_ms.min(first_ms);
        line.last_ms = line.last_ms.max(last_ms);
        line.rule = edge.rule;
        let known = applications.get(&(edge.server, edge.service));
        line.applications.extend(known.into_iter().flatten().cloned());
    })?;
    Ok(found.into_values().collect())
}

/// The groups of a policy as they are written, asked which of them a host is in.
#[derive(Debug, Default)]
pub struct Groups {
    groups: BTreeMap<Arc<str>, Selector>,
    devices: BTreeMap<Arc<str>, Device>,
    /// Groups that learning wrote.
    learned: BTreeSet<Arc<str>>,
}

impl Groups {
    fn read(path: &Path) -> Result<Self, Refusal> {
        let limits = Limits::default();
        let files = PolicyFiles::read(path, &limits).map_err(Refusal::unavailable)?;
        // The whole has to be sound; names are all that is taken from the texts.
        candidate::make(&files, None, &limits).map_err(|found| {
            let all: Vec<String> = found.into_iter().map(|finding| finding.rendered).collect();
            Refusal { message: all.join("\n\n"), code: exit::REFUSED }
        })?;
        Ok(Self::of_texts(&files.sources))
    }

    /// Those of the texts of a sound policy.
    pub fn of_texts(sources: &[syntax::Source]) -> Self {
        let mut found = Self::default();
        for source in sources {
            let document =
                syntax::parse_document(source, &bulkhead_rules::policy::Limits::default());
            let Ok(document) = document else { continue };
            let is_learned = source.text.starts_with(crate::learning::proposal::HEAD);
            for group in document.groups {
                if is_learned {
                    found.learned.insert(Arc::clone(&group.name.value));
                }
                found.groups.insert(group.name.value, group.members);
            }
            let devices = document.devices.into_iter();
            found.devices.extend(devices.map(|d| (Arc::clone(&d.name.value), d)));
        }
        found
    }

    /// Whether learning wrote a group.
    pub fn is_learned(&self, name: &str) -> bool {
        self.learned.contains(name)
    }

    fn of(&self, identities: &Identities, who: &Who) -> Option<String> {
        let Who::Host(key) = who else { return None };
        let mac = match key {
            HostKey::Mac(mac) => Some(*mac),
            _ => None,
        };
        let names = self.names_of(mac, &identities.addresses(key).collect::<Vec<_>>());
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The names of the groups that a host is in.
    pub fn names_of(&self, mac: Option<Mac>, addresses: &[IpAddr]) -> Vec<Arc<str>> {
        let host = (mac, addresses.to_vec());
        let groups = self.groups.iter().filter(|(_, members)| self.has(members, &host));
        groups.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// The name of the policy's device that a host is.
    pub fn device_of(&self, mac: Option<Mac>, addresses: &[IpAddr]) -> Option<&Arc<str>> {
        let host = (mac, addresses.to_vec());
        let is = |name: &&Arc<str>| self.is(&Member::Name(Arc::clone(name)), &host);
        self.devices.keys().find(is)
    }

    /// A sound policy's groups do not contain themselves, so this ends.
    fn has(&self, selector: &Selector, host: &(Option<Mac>, Vec<IpAddr>)) -> bool {
        let any =
            |members: &[Spanned<Member>]| members.iter().any(|member| self.is(&member.value, host));
        any(&selector.members) && !any(&selector.except)
    }

    fn is(&self, member: &Member, host: &(Option<Mac>, Vec<IpAddr>)) -> bool {
        let (mac, addresses) = host;
        match member {
            Member::Mac(one) => *mac == Some(*one),
            Member::Addresses(range) => has_any(*range, addresses),
            Member::Name(name) => match (self.groups.get(name), self.devices.get(name)) {
                (Some(group), _) => self.has(group, host),
                (None, Some(device)) => {
                    let by_mac = device.macs.iter().any(|one| *mac == Some(one.value));
                    let by_address = device.addresses.iter().any(|a| has_any(a.value, addresses));
                    by_mac || by_address
                }
                (None, None) => false,
            },
        }
    }
}

fn has_any(range: Addresses, addresses: &[IpAddr]) -> bool {
    let (first, last) = range.ends();
    addresses
        .iter()
        .any(|address| address.is_ipv4() == first.is_ipv4() && (first..=last).contains(address))
}

fn shown(lines: &[Line], format: MapFormat) -> String {
    match format {
        MapFormat::Table => table(lines),
        MapFormat::Matrix => matrix(lines),
        MapFormat::Dot => dot(lines),
        MapFormat::Svg => svg(lines),
    }
}

fn table(lines: &[Line]) -> String {
    let head =
        ["client", "server", "service", "flows", "failed", "denied", "bytes", "last seen", "rule"];
    let mut table = Table::new(&head);
    for line in lines {
        let applications: Vec<&str> = line.applications.iter().map(String::as_str).collect();
        let service = match applications.as_slice() {
            [] => line.service.clone(),
            known => format!("{} ({})", line.service, known.join(", ")),
        };
        table.row([
            line.client.clone(),
            line.server.clone(),
            service,
            line.flows.to_string(),
            line.failed.to_string(),
            line.denied.to_string(),
            line.bytes.to_string(),
            time_text(line.last_ms),
            line.rule.clone(),
        ]);
    }
    table.to_string()
}

/// The lines of each pair, by row and column.
type Cells<'l> = BTreeMap<(usize, usize), Vec<&'l Line>>;

/// Clients down, servers across, and the lines of each pair.
fn cells(lines: &[Line]) -> (Vec<&str>, Vec<&str>, Cells<'_>) {
    let clients: BTreeSet<&str> = lines.iter().map(|line| line.client.as_str()).collect();
    let servers: BTreeSet<&str> = lines.iter().map(|line| line.server.as_str()).collect();
    let (clients, servers): (Vec<&str>, Vec<&str>) =
        (clients.into_iter().collect(), servers.into_iter().collect());
    let mut cells = Cells::new();
    for line in lines {
        // Both are among them.
        let row = clients.binary_search(&line.client.as_str()).unwrap_or(0);
        let column = servers.binary_search(&line.server.as_str()).unwrap_or(0);
        cells.entry((row, column)).or_default().push(line);
    }
    (clients, servers, cells)
}

fn matrix(lines: &[Line]) -> String {
    let (clients, servers, cells) = cells(lines);
    let numbers: Vec<String> = (1..=servers.len()).map(|at| at.to_string()).collect();
    let mut head = vec!["opens to"];
    head.extend(numbers.iter().map(String::as_str));
    let mut table = Table::new(&head);
    for (row, client) in clients.iter().enumerate() {
        let mut texts = vec![(*client).to_owned()];
        for column in 0..servers.len() {
            let services = cells.get(&(row, column));
            texts.push(services.map_or_else(
                || ".".to_owned(),
                |lines| lines.iter().map(|l| l.service.as_str()).collect::<Vec<_>>().join(","),
            ));
        }
        table.row(texts);
    }
    let mut text = table.to_string();
    for (number, server) in numbers.iter().zip(&servers) {
        let _ = writeln!(text, "{number:>4}  {server}");
    }
    text
}

fn dot(lines: &[Line]) -> String {
    let mut text = String::from("digraph communication {\n  rankdir=LR;\n  node [shape=box];\n");
    let mut pairs: BTreeMap<(&str, &str), (Vec<&str>, bool)> = BTreeMap::new();
    for line in lines {
        let pair = pairs.entry((&line.client, &line.server)).or_insert((Vec::new(), true));
        pair.0.push(&line.service);
        pair.1 &= line.answered == 0;
    }
    for ((client, server), (services, unanswered)) in pairs {
        let style = if unanswered { ", style=dashed" } else { "" };
        let _ = writeln!(
            text,
            "  {} -> {} [label={}{style}];",
            quoted(client),
            quoted(server),
            quoted(&services.join("\n"))
        );
    }
    text.push_str("}\n");
    text
}

/// A text as Graphviz reads it.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{text}\"")
}

/// Pixels of a cell, and of a letter.
const CELL: usize = 14;
const LETTER: usize = 7;

fn svg(lines: &[Line]) -> String {
    let (clients, servers, cells) = cells(lines);
    let longest = |names: &[&str]| names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let left = longest(&clients) * LETTER + 10;
    let top = longest(&servers) * LETTER + 10;
    let (width, height) = (left + servers.len() * CELL + 10, top + clients.len() * CELL + 10);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">\n<title>Who talks to whom: clients down, \
         servers across</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (row, client) in clients.iter().enumerate() {
        let y = top + row * CELL + CELL - 3;
        let x = left - 4;
        let client = escaped(client);
        let _ = writeln!(text, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{client}</text>");
    }
    for (column, server) in servers.iter().enumerate() {
        let x = left + column * CELL + CELL - 3;
        let y = top - 4;
        let server = escaped(server);
        let _ =
            writeln!(text, "<text transform=\"translate({x},{y}) rotate(-90)\">{server}</text>");
    }
    for ((row, column), lines) in cells {
        let (x, y) = (left + column * CELL, top + row * CELL);
        let denied = lines.iter().any(|line| line.denied > 0);
        let answered = lines.iter().any(|line| line.answered > 0);
        let colour = match (denied, answered) {
            (true, _) => "#c0392b",
            (false, true) => "#1f6f43",
            (false, false) => "#b0b0b0",
        };
        let services: Vec<&str> = lines.iter().map(|line| line.service.as_str()).collect();
        let told = format!("{} -> {}: {}", clients[row], servers[column], services.join(", "));
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{colour}\">\
             <title>{told}</title></rect>",
            side = CELL - 1,
            told = escaped(&told),
        );
    }
    text.push_str("</svg>\n");
    text
}

/// A text within XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(client: &str, server: &str, service: &str) -> Line {
        Line {
            client: client.to_owned(),
            server: server.to_owned(),
            service: service.to_owned(),
            answered: 1,
            ..Line::default()
        }
    }

    #[test]
    fn hostile_names_stay_within_their_quotes() {
        let lines = [line("a\"]; x -> \"b", "<script>&", "tcp/80")];
        let graph = dot(&lines);
        assert!(graph.contains(r#""a\"]; x -> \"b" -> "<script>&""#), "{graph}");
        let picture = svg(&lines);
        assert!(!picture.contains("<script>"), "{picture}");
        assert!(picture.contains("&lt;script&gt;&amp;"), "{picture}");
    }

    #[test]
    fn a_matrix_has_a_cell_for_each_pair() {
        let lines = [line("a", "x", "tcp/1"), line("a", "x", "tcp/2"), line("b", "y", "udp/3")];
        let text = matrix(&lines);
        assert!(text.contains("a         tcp/1,tcp/2  .\n"), "{text}");
        assert!(text.contains("b         .            udp/3\n"), "{text}");
    }
}
