//! What a worker tells of a packet, with names in the place of numbers, and in words.

use std::fmt::Write as _;

use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::parse::{Kind, Parsed};
use bulkhead_pipeline::snapshot::Mode;
use bulkhead_pipeline::trace::{Classified, Fate, FlowSeen, Lookup, Story};
use bulkhead_pipeline::verdict::{DropReason, Verdict};
use bulkhead_rules::headers::protocol;
use bulkhead_rules::packet::in_words;
use bulkhead_rules::policy::RuleId;
use serde::{Deserialize, Serialize};

use crate::analysis::action_word;
use crate::config::{Config, mode_label};
use crate::state::PolicyState;

/// A packet's way through a worker.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TracedPacket {
    /// Its name in this trace: the worker's number and its own.
    pub id: String,
    /// When it was judged, in milliseconds since the Unix epoch.
    pub unix_ms: i64,
    /// The worker.
    pub worker: usize,
    /// The wire that it came on.
    pub wire: String,
    /// `observe` or `enforce`.
    pub mode: String,
    /// The port of the wire that it came by: `inside` or `outside`.
    pub side: String,
    /// That port's device.
    pub port: String,
    /// Its length in bytes, without FCS.
    pub len: u32,
    /// Its headers, in words that `bulkhead explain` reads; of what did not parse, as far as known.
    pub packet: String,
    /// The stages, in the order in which it went through them.
    pub stages: Vec<StageTold>,
    /// What an enforcing wire does with it: `forward`, `drop` or `reject`; absent where this worker
    /// judged nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Why it is dropped, or would be: a label of the drop reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule that decided, or that its flow rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// `sent`, `held`, `not-sent`, `dropped`, `handed-over` or `kept-back`.
    pub fate: String,
    /// Its first bytes, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bytes: String,
}

/// What a stage made of a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StageTold {
    /// `received`, `parsed`, `fragment`, `looked-up`, `classified`, `decided`, or what became of it:
    /// `sent`, `held`, `dropped`, `handed-over`, `kept-back`.
    pub stage: String,
    /// What, in a sentence.
    pub says: String,
    /// Where the rule is written, where a rule had a part in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// What names things.
pub struct Names<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The policies.
    pub state: &'a PolicyState,
}

/// A rule's name, where it is written, and what it does, as far as anybody knows still.
struct Named {
    name: String,
    at: Option<String>,
    action: Option<&'static str>,
}

impl Names<'_> {
    fn rule(&self, rule: RuleId, epoch: u64) -> Named {
        let publisher = self.state.publisher.as_ref();
        let Some(name) = publisher.and_then(|p| p.rule_name(rule, epoch)) else {
            let name = format!("rule {} of an earlier policy", rule.0);
            return Named { name, at: None, action: None };
        };
        let policy = publisher.map(|p| &p.current().content.policy);
        let now = policy.and_then(|policy| policy.rule(rule)).filter(|now| &*now.name == name);
        let is_default = rule == RuleId::DEFAULT;
        let action = match (now, policy) {
            (Some(now), _) => Some(action_word(now.action)),
            (None, Some(policy)) if is_default => Some(action_word(policy.action(rule))),
            _ => None,
        };
        let at = now.map(|now| format!("{}:{}", now.location.file, now.location.line));
        Named { name: name.to_owned(), at, action }
    }

    /// The name of a rule in the policy that judged in `epoch`, if anybody knows it still.
    pub fn rule_name(&self, rule: RuleId, epoch: u64) -> Option<String> {
        let publisher = self.state.publisher.as_ref()?;
        publisher.rule_name(rule, epoch).map(str::to_owned)
    }

    /// The name of the rule that decided a packet, or that its flow rests on.
    pub fn deciding(&self, story: &Story) -> Option<String> {
        let of_flow = match story.lookup {
            Lookup::Hit(flow) => Some((flow.rule, flow.judged_in)),
            _ => None,
        };
        let (rule, epoch) = story.decided_by.map(|rule| (rule, story.epoch)).or(of_flow)?;
        Some(self.rule(rule, epoch).name)
    }
}

/// Puts names to what a worker told of a packet.
pub fn told(story: &Story, worker: usize, bytes: &[u8], names: &Names<'_>) -> TracedPacket {
    use base64::Engine as _;
    let wire = names.config.wires.get(usize::from(story.wire.0));
    let (name, inside, outside) = wire.map_or(("", "", ""), |wire| {
        (wire.name.as_str(), wire.inside.as_str(), wire.outside.as_str())
    });
    let (port, other) = if story.from_inside { (inside, outside) } else { (outside, inside) };
    let side = if story.from_inside { "inside" } else { "outside" };
    let mut stages = Vec::new();
    let mut say = |stage: &str, says: String, at: Option<String>| {
        stages.push(StageTold { stage: stage.to_owned(), says, at });
    };
    say("received", received(story, worker, (name, side, port)), None);
    say("parsed", parsed(story), None);
    let (judged, reason) = verdict(story);
    if story.malformed.is_none() && !matches!(story.fate, Fate::HandedOver { .. }) {
        if let Some(says) = fragment(&story.parsed) {
            say("fragment", says, None);
        }
        say("looked-up", looked_up(story, names), None);
        if let Some((says, at)) = classified(story, names) {
            say("classified", says, at);
        }
    }
    if let Some(judged) = judged {
        let (says, at) = decided(story, judged, reason, names);
        say("decided", says, at);
    }
    let (fate, stage, says) = ended(story, other);
    say(stage, says, None);
    TracedPacket {
        id: format!("{worker}-{}", story.id),
        unix_ms: story.at.unix_ms,
        worker,
        wire: name.to_owned(),
        mode: mode_label(story.mode).to_owned(),
        side: side.to_owned(),
        port: port.to_owned(),
        len: story.len,
        packet: in_words(&story.parsed.headers, &[]),
        stages,
        verdict: judged.map(str::to_owned),
        reason: reason.map(|reason| reason.label().to_owned()),
        rule: names.deciding(story),
        fate: fate.to_owned(),
        bytes: base64::engine::general_purpose::STANDARD.encode(bytes),
    }
}

/// The story as a person reads it.
pub fn text(packet: &TracedPacket) -> String {
    let when = jiff::Timestamp::from_millisecond(packet.unix_ms);
    let when = when.map_or_else(|_| packet.unix_ms.to_string(), |when| when.to_string());
    let mut out = format!("{} {when}  {}\n", packet.id, packet.packet);
    for stage in &packet.stages {
        let at = stage.at.as_ref().map_or_else(String::new, |at| format!(" ({at})"));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {:<11} {}{at}", stage.stage, stage.says);
    }
    out
}

fn received(story: &Story, worker: usize, (wire, side, port): (&str, &str, &str)) -> String {
    let how = match (story.handed_in, story.resumed) {
        (true, _) => ", handed in by the worker that received it",
        (false, true) => ", and kept back until now for its first fragment",
        (false, false) => "",
    };
    let mode = mode_label(story.mode);
    format!(
        "{} bytes on {port}, the {side} port of wire {wire} ({mode}), by worker {worker}{how}",
        story.len
    )
}

fn parsed(story: &Story) -> String {
    if let Some(reason) = story.malformed {
        return format!("no: {} ({})", lower(reason.help()), reason.label());
    }
    let parsed = &story.parsed;
    let headers = &parsed.headers;
    let network = match headers.ether_type {
        bulkhead_rules::headers::ETHER_IPV4 => "IPv4".to_owned(),
        bulkhead_rules::headers::ETHER_IPV6 => "IPv6".to_owned(),
        other => bulkhead_rules::headers::FrameType(other).to_string(),
    };
    let upper = match parsed.kind {
        Kind::LinkControl => ", link control that crosses untouched".to_owned(),
        Kind::Arp => ", ARP".to_owned(),
        Kind::NeighbourDiscovery => ", neighbour discovery or MLD".to_owned(),
        Kind::IcmpError => ", an ICMP error about another packet".to_owned(),
        Kind::LaterFragment => ", a later fragment".to_owned(),
        Kind::Tcp => format!(
            ", TCP {}, seq {}, ack {}, window {}, {} bytes of data",
            flags(parsed.tcp.flags),
            parsed.tcp.seq,
            parsed.tcp.ack,
            parsed.tcp.window,
            parsed.tcp.payload_len
        ),
        Kind::IcmpQuery => format!(", ICMP query, identifier {}", parsed.flow_ports.0),
        Kind::Dhcp => ", DHCP".to_owned(),
        Kind::Other if !headers.is_ip() => String::new(),
        Kind::Other if headers.protocol == protocol::UDP => ", UDP".to_owned(),
        Kind::Other => format!(", protocol {}", headers.protocol),
    };
    let tunnel = match parsed.tunnel.checked_sub(1) {
        Some(network) => format!(", inside a tunnel of network {network}"),
        None => String::new(),
    };
    format!("{network}{upper}{tunnel}; from {} to {}", headers.src_mac, headers.dst_mac)
}

fn fragment(parsed: &Parsed) -> Option<String> {
    let place = parsed.fragment?;
    let which = if place.offset == 0 { "the first" } else { "a later" };
    let more = if place.more { "more follow" } else { "the last" };
    let (id, from, to) = (place.id, place.offset, u32::from(place.offset) + u32::from(place.len));
    Some(format!("{which} fragment of packet {id}: bytes {from} to {to}, {more}"))
}

fn looked_up(story: &Story, names: &Names<'_>) -> String {
    match (story.lookup, story.parsed.kind) {
        (Lookup::NotByFlow, Kind::IcmpError) => "the flow of the packet that it quotes".to_owned(),
        (Lookup::NotByFlow, Kind::LaterFragment) => "what became of its first fragment".to_owned(),
        (Lookup::NotByFlow, _) => "no flow: frames of this kind have none".to_owned(),
        (Lookup::Miss, _) => "no flow".to_owned(),
        (Lookup::Hit(flow), _) => seen(&flow, names),
    }
}

fn seen(flow: &FlowSeen, names: &Names<'_>) -> String {
    let rule = names.rule(flow.rule, flow.judged_in).name;
    let way = if flow.from_initiator { "from its initiator" } else { "to its initiator" };
    let permitted = if flow.permitted { "permitted" } else { "forbidden, and followed" };
    format!(
        "a flow, {way}: {}, {:.1} s old, {} packets there and {} back, {permitted} by rule {rule} since \
         epoch {}",
        flow.phase.label(),
        flow.age_ns as f64 / 1e9,
        flow.packets[0],
        flow.packets[1],
        flow.judged_in
    )
}

fn classified(story: &Story, names: &Names<'_>) -> Option<(String, Option<String>)> {
    let (rule, about) = match story.classified {
        Classified::No => return None,
        Classified::Refused => {
            let says = "not asked: the sender has spent its budget for new flows";
            return Some((says.to_owned(), None));
        }
        Classified::Frame(rule) => (rule, ""),
        Classified::Flow(rule) => (rule, "again, for an older policy judged the flow: "),
    };
    let named = names.rule(rule, story.epoch);
    let action = named.action.map_or_else(String::new, |action| format!(": {action}"));
    Some((format!("{about}rule {}{action}, epoch {}", named.name, story.epoch), named.at))
}

/// The verdict's word and the reason; no word where this worker judged nothing.
fn verdict(story: &Story) -> (Option<&'static str>, Option<DropReason>) {
    if matches!(story.fate, Fate::HandedOver { .. } | Fate::KeptBack) {
        return (None, None);
    }
    if story.fate == Fate::Dropped(DropReason::HandoverFull) {
        return (Some("drop"), Some(DropReason::HandoverFull));
    }
    match story.verdict {
        Verdict::Forward => (Some("forward"), None),
        Verdict::Reject => (Some("reject"), Some(DropReason::Policy)),
        Verdict::Drop(reason) => (Some("drop"), Some(reason)),
    }
}

fn decided(
    story: &Story,
    judged: &str,
    reason: Option<DropReason>,
    names: &Names<'_>,
) -> (String, Option<String>) {
    let rule = story.decided_by.map(|rule| names.rule(rule, story.epoch));
    let mut says = judged.to_owned();
    match (reason, &rule) {
        (Some(reason), _) => {
            let _ = write!(says, ", {}: {}", reason.label(), lower(reason.help()));
        }
        (None, Some(_)) => says.push_str(": it opens a flow"),
        (None, None) => match (story.lookup, story.parsed.kind) {
            (Lookup::NotByFlow, Kind::IcmpError | Kind::LaterFragment) => {
                says.push_str(": it belongs to what passes");
            }
            (Lookup::NotByFlow, _) => says.push_str(": the guards of its kind let it cross"),
            (Lookup::Miss, _) => says.push_str(": it rides a flow that a frame before it opened"),
            (Lookup::Hit(_), _) => says.push_str(": it rides the flow"),
        },
    }
    if let Some(rule) = &rule {
        let _ = write!(says, "; by rule {}", rule.name);
    }
    if let Some(after) = story.phase_after {
        let _ = write!(says, "; the flow is {} now", after.label());
    }
    if story.mode == Mode::Observe && reason.is_some() {
        says.push_str("; the wire observes, so this is what it would do");
    }
    (says, rule.and_then(|rule| rule.at))
}

/// The fate's word, the stage's, and what there is to say.
fn ended(story: &Story, other: &str) -> (&'static str, &'static str, String) {
    match story.fate {
        Fate::Sent => ("sent", "sent", format!("by {other}")),
        Fate::Held => ("held", "held", format!("{other} takes no more for now")),
        Fate::NotSent(reason) => {
            ("not-sent", "dropped", format!("{}: {}", reason.label(), lower(reason.help())))
        }
        Fate::Dropped(reason) => {
            ("dropped", "dropped", format!("and counted as {}", reason.label()))
        }
        Fate::HandedOver { to } => {
            ("handed-over", "handed-over", format!("to worker {to}, which judges its flow"))
        }
        Fate::KeptBack => {
            ("kept-back", "kept-back", "until its first fragment has come, for a moment".to_owned())
        }
    }
}

fn flags(bits: u8) -> String {
    let names = [
        (flag::SYN, "SYN"),
        (flag::FIN, "FIN"),
        (flag::RST, "RST"),
        (0x08, "PSH"),
        (flag::ACK, "ACK"),
        (0x20, "URG"),
    ];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, n)| *n).collect();
    if set.is_empty() { "without flags".to_owned() } else { set.join(" ") }
}

/// A sentence within another one.
fn lower(sentence: &str) -> String {
    let sentence = sentence.trim_end_matches('.');
    let mut characters = sentence.chars();
    let second_is_upper = sentence.chars().nth(1).is_some_and(char::is_uppercase);
    match characters.next() {
        // Not of an abbreviation.
        Some(first) if !second_is_upper => first.to_lowercase().chain(characters).collect(),
        _ => sentence.to_owned(),
    }
}
