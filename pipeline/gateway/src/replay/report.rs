//! What a replay found, for people and for programs. The same input gives the same bytes.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use bulkhead_rules::headers::{
    ETHER_IPV4, ETHER_IPV6, FrameType, Headers, Mac, VlanTags, protocol,
};
use jiff::Timestamp;
use serde::Serialize;

/// Files that are listed one by one in the text; more are summed up.
const MAX_LISTED_FILES: usize = 40;
/// Blocked flows that the text lists; JSON has all that were kept.
const MAX_LISTED_FLOWS: usize = 40;

/// A whole replay.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Report {
    /// What judged.
    pub policy: PolicySummary,
    /// `enforce` or `observe`.
    pub mode: &'static str,
    /// One entry for each capture, in the order of reading.
    pub files: Vec<FileReport>,
    /// Files found in folders that are no captures.
    pub other_files: u64,
    /// The sums over all captures.
    pub total: Counts,
    /// The rules in their order, the default last.
    pub rules: Vec<RuleReport>,
    /// Flows of which packets were blocked, in the order of files and then of their first such
    /// packet.
    pub blocked_flows: Vec<BlockedFlow>,
    /// Blocked packets of flows beyond the number that is kept.
    pub packets_of_more_flows: u64,
}

/// The policy that judged.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct PolicySummary {
    /// As it was named.
    pub path: String,
    /// SHA-256 of its files.
    pub sha256: String,
    /// Rules, the default not counted.
    pub rules: usize,
}

/// One capture.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct FileReport {
    /// As it was named or found.
    pub path: String,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// Why the capture ended early, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Frames and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct Volume {
    /// Frames.
    pub frames: u64,
    /// Their bytes, from the destination MAC address on, without FCS.
    pub bytes: u64,
}

impl Volume {
    /// Adds one frame.
    pub fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }

    fn merge(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

/// What was counted over one capture or many.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct Counts {
    /// Records that were read: those that arrived and those that were skipped.
    pub records: u64,
    /// Records that are no Ethernet frames, by link type.
    pub skipped: BTreeMap<String, u64>,
    /// Frames of which the capture holds only the beginning.
    pub cut_by_capture: u64,
    /// Of these, frames whose headers are whole: judged at their original length.
    pub restored: u64,
    /// Frames that arrived at the gateway.
    pub received: Volume,
    /// Frames that it sent on.
    pub allowed: Volume,
    /// Frames that it did not send on.
    pub denied: Volume,
    /// `denied` by reason.
    pub drops: BTreeMap<&'static str, Volume>,
    /// In observe mode, frames of `allowed` that enforce would deny, by reason.
    pub would_drop: BTreeMap<&'static str, Volume>,
    /// Answers of reject rules. They are in no output file.
    pub answers: Volume,
}

impl Counts {
    /// Adds another capture's.
    pub fn merge(&mut self, other: &Self) {
        self.records += other.records;
        for (link_type, frames) in &other.skipped {
            *self.skipped.entry(link_type.clone()).or_default() += frames;
        }
        self.cut_by_capture += other.cut_by_capture;
        self.restored += other.restored;
        self.received.merge(other.received);
        self.allowed.merge(other.allowed);
        self.denied.merge(other.denied);
        for (mine, theirs) in
            [(&mut self.drops, &other.drops), (&mut self.would_drop, &other.would_drop)]
        {
            for (reason, volume) in theirs {
                mine.entry(reason).or_default().merge(*volume);
            }
        }
        self.answers.merge(other.answers);
    }

    /// Records that no worker saw.
    pub fn skipped_records(&self) -> u64 {
        self.skipped.values().sum()
    }
}

/// How often a rule decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct RuleReport {
    /// Its name; `default` for the default.
    pub name: String,
    /// `allow`, `deny` or `reject`.
    pub action: &'static str,
    /// `file:line` of its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Flows that it opened and packets that it kept from opening one.
    pub hits: u64,
}

/// Packets of one direction of a flow that were blocked for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct BlockedFlow {
    /// The capture.
    pub file: String,
    /// `tcp`, `udp`, … or an EtherType as `eth/0x8892`.
    pub protocol: String,
    /// The sender: its network address, or its MAC address where there is none.
    pub from: String,
    /// The addressee, likewise.
    pub to: String,
    /// The sender's port, where the protocol has ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_port: Option<u16>,
    /// The addressee's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_port: Option<u16>,
    /// ICMP type and code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// VLAN identifiers, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vlan: Vec<u16>,
    /// Why its packets were blocked.
    pub reason: &'static str,
    /// The rule that decided, where it was a matter of the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Packets blocked.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The time of the first one.
    pub first: String,
    /// The number of the first one in its capture, from 1.
    pub first_frame: u64,
}

/// The name of a protocol as a rule would have it.
pub fn protocol_name(headers: &Headers) -> String {
    if !headers.is_ip() {
        return FrameType(headers.ether_type).to_string();
    }
    let name = match headers.protocol {
        protocol::ICMP => "icmp",
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::ICMPV6 => "icmpv6",
        protocol::SCTP => "sctp",
        other => return format!("ip/{other}"),
    };
    name.to_owned()
}

/// A side of a frame: its network address, or its MAC address where there is none.
pub fn host_name(ether_type: u16, address: u128, mac: Mac) -> String {
    match ether_type {
        ETHER_IPV4 => Ipv4Addr::from_bits(address as u32).to_string(),
        ETHER_IPV6 => Ipv6Addr::from_bits(address).to_string(),
        _ => mac.to_string(),
    }
}

/// VLAN identifiers, outermost first.
pub fn vlan_ids(tags: VlanTags) -> Vec<u16> {
    [tags.outer, tags.inner].into_iter().filter(|&vid| vid != 0).collect()
}

/// A time of a capture in RFC 3339 to the nanosecond; a time that cannot be written so in seconds.
pub fn time_text(timestamp_ns: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(timestamp_ns)) {
        Ok(timestamp) => format!("{timestamp:.9}"),
        Err(_) => format!("{} s", timestamp_ns / 1_000_000_000),
    }
}

impl fmt::Display for BlockedFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |f: &mut fmt::Formatter<'_>, host: &str, port: Option<u16>| match port {
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(host),
        };
        write!(f, "{} ", self.protocol)?;
        side(f, &self.from, self.from_port)?;
        f.write_str(" -> ")?;
        side(f, &self.to, self.to_port)?;
        if let Some((icmp_type, code)) = self.icmp {
            write!(f, " type {icmp_type} code {code}")?;
        }
        if let [outer, inner @ ..] = self.vlan.as_slice() {
            write!(f, " vlan {outer}")?;
            inner.iter().try_for_each(|vid| write!(f, ".{vid}"))?;
        }
        Ok(())
    }
}

impl Report {
    /// The report for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        let rules = self.policy.rules;
        writeln!(out, "policy {} ({}), {}", self.policy.path, plural(rules, "rule"), self.mode)?;
        self.write_files(out)?;
        let total = &self.total;
        for (link_type, frames) in &total.skipped {
            writeln!(out, "skipped: {} of {link_type}", plural_u64(*frames, "record"))?;
        }
        if self.other_files > 0 {
            writeln!(
                out,
                "passed over: {} that are no captures",
                plural_u64(self.other_files, "file")
            )?;
        }
        if total.cut_by_capture > 0 {
            writeln!(
                out,
                "cut short by the capture: {}, of which {} have whole headers and were judged at \
                 their original length",
                plural_u64(total.cut_by_capture, "frame"),
                total.restored
            )?;
        }
        if total.answers.frames > 0 {
            let answers = plural_u64(total.answers.frames, "answer");
            writeln!(out, "reject rules: {answers} would have gone back to senders")?;
        }
        write_drops(out, "denied", &total.drops)?;
        write_drops(out, "allowed here, denied by enforce", &total.would_drop)?;
        self.write_rules(out)?;
        self.write_flows(out)
    }

    fn write_files(&self, out: &mut String) -> fmt::Result {
        let mut rows: Vec<(&str, &Counts)> = Vec::new();
        if self.files.len() <= MAX_LISTED_FILES {
            rows.extend(self.files.iter().map(|file| (file.path.as_str(), &file.counts)));
        }
        let sum = format!("{} in all", plural(self.files.len(), "capture"));
        if self.files.len() != 1 {
            rows.push((&sum, &self.total));
        }
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        writeln!(
            out,
            "\n{:width$}  {:>10}  {:>10}  {:>10}  {:>10}",
            "", "records", "allowed", "denied", "skipped"
        )?;
        for (name, counts) in rows {
            writeln!(
                out,
                "{name:width$}  {:>10}  {:>10}  {:>10}  {:>10}",
                counts.records,
                counts.allowed.frames,
                counts.denied.frames,
                counts.skipped_records()
            )?;
        }
        for file in &self.files {
            if let Some(error) = &file.error {
                writeln!(out, "ended early: {error}")?;
            }
        }
        Ok(())
    }

    fn write_rules(&self, out: &mut String) -> fmt::Result {
        let width = self.rules.iter().map(|rule| rule.name.chars().count()).max().unwrap_or(0);
        writeln!(out, "\nrules: flows opened, or packets kept from opening one")?;
        for rule in &self.rules {
            let location = rule.location.as_deref().unwrap_or("");
            let line =
                format!("  {:width$}  {:6}  {:>10}  {location}", rule.name, rule.action, rule.hits);
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn write_flows(&self, out: &mut String) -> fmt::Result {
        if self.blocked_flows.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nblocked flows, from their first blocked packet on")?;
        for flow in self.blocked_flows.iter().take(MAX_LISTED_FLOWS) {
            write!(out, "  {}  {flow}: {} ", flow.first, plural_u64(flow.packets, "packet"))?;
            match &flow.rule {
                Some(rule) => writeln!(out, "by {rule}")?,
                None => writeln!(out, "for {}", flow.reason)?,
            }
        }
        let more = self.blocked_flows.len().saturating_sub(MAX_LISTED_FLOWS);
        if more > 0 {
            writeln!(out, "  and {}, which --json lists", plural(more, "other"))?;
        }
        if self.packets_of_more_flows > 0 {
            let packets = plural_u64(self.packets_of_more_flows, "packet");
            writeln!(out, "  and {packets} of flows that are too many to keep apart")?;
        }
        Ok(())
    }
}

fn write_drops(
    out: &mut String,
    title: &str,
    drops: &BTreeMap<&'static str, Volume>,
) -> fmt::Result {
    if drops.is_empty() {
        return Ok(());
    }
    let width = drops.keys().map(|reason| reason.len()).max().unwrap_or(0);
    writeln!(out, "\n{title}, by reason")?;
    for (reason, volume) in drops {
        writeln!(
            out,
            "  {reason:width$}  {:>10} frames  {:>12} bytes",
            volume.frames, volume.bytes
        )?;
    }
    Ok(())
}

fn plural(count: usize, noun: &str) -> String {
    plural_u64(count as u64, noun)
}

fn plural_u64(count: u64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}
