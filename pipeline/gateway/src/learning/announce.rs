//! What hosts say of themselves and each other: names, leases, and who routes.
//!
//! DHCP (RFC 2132, options 12 and 61's kin), DNS answers, mDNS (RFC 6762) and LLMNR, NetBIOS names
//! (RFC 1002) and LLDP (IEEE 802.1AB). All of it is hostile: names are bounded, and hold nothing but
//! printable ASCII, so that they can be shown on a terminal and written into a policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_rules::headers::Mac;
use serde::Serialize;

/// The longest name, in bytes (RFC 1035).
pub const MAX_NAME_BYTES: usize = 253;

/// The most facts that are taken from one frame.
pub const MAX_FACTS: usize = 64;

/// Where a name comes from, the most trustworthy first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameSource {
    /// A DHCP client's option 12.
    Dhcp,
    /// LLDP's system name.
    Lldp,
    /// A host's own word in mDNS.
    Mdns,
    /// A host's own word in NetBIOS.
    Netbios,
    /// A host's own word in LLMNR.
    Llmnr,
    /// A DNS server's answer.
    Dns,
}

impl NameSource {
    /// Every source, the most trustworthy first.
    pub const ALL: [Self; 6] =
        [Self::Dhcp, Self::Lldp, Self::Mdns, Self::Netbios, Self::Llmnr, Self::Dns];

    /// Its word in the store.
    pub fn label(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Lldp => "lldp",
            Self::Mdns => "mdns",
            Self::Netbios => "netbios",
            Self::Llmnr => "llmnr",
            Self::Dns => "dns",
        }
    }
}

/// Of whom something is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    /// Who has this MAC address.
    Mac(Mac),
    /// Who has this address.
    Address(IpAddr),
}

/// Something that a frame says of hosts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fact {
    /// A name.
    Name {
        /// Whose.
        of: Subject,
        /// The name.
        name: String,
        /// Who says so.
        source: NameSource,
    },
    /// A DHCP client that is on this network, not behind a relay, was given the address.
    Lease {
        /// The client.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
    },
    /// The device forwards for others.
    Router(Mac),
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its source address.
    pub src: IpAddr,
    /// Its source port.
    pub src_port: u16,
    /// Its destination port.
    pub dst_port: u16,
    /// Its payload, as much as there is.
    pub payload: &'a [u8],
}

/// What a UDP datagram says.
pub fn of_datagram(datagram: &Datagram<'_>) -> Vec<Fact> {
    let payload = datagram.payload;
    match (datagram.src_port, datagram.dst_port) {
        (67 | 68, 67 | 68) => dhcp(payload).unwrap_or_default(),
        (5353, _) => dns(payload, NameSource::Mdns),
        (5355, _) => dns(payload, NameSource::Llmnr),
        (53, _) => dns(payload, NameSource::Dns),
        (137, _) => netbios(payload, datagram.src),
        _ => Vec::new(),
    }
}

/// What an LLDP frame says; `payload` follows the EtherType.
pub fn of_lldp(src: Mac, payload: &[u8]) -> Vec<Fact> {
    const SYSTEM_NAME: u16 = 5;
    const CAPABILITIES: u16 = 7;
    const ROUTER: u8 = 0x10;
    let mut facts = Vec::new();
    let mut rest = payload;
    while let ([high, low, after @ ..], ..MAX_FACTS) = (rest, facts.len()) {
        let header = u16::from_be_bytes([*high, *low]);
        let (kind, length) = (header >> 9, usize::from(header & 0x1ff));
        let Some((value, next)) = after.split_at_checked(length) else { break };
        match (kind, value) {
            (0, _) => break,
            (SYSTEM_NAME, name) => facts.extend(clean(name).map(|name| Fact::Name {
                of: Subject::Mac(src),
                name,
                source: NameSource::Lldp,
            })),
            // What it can do, then which of that it does.
            (CAPABILITIES, [_, _, _, enabled]) if enabled & ROUTER != 0 => {
                facts.push(Fact::Router(src));
            }
            _ => {}
        }
        rest = next;
    }
    facts
}

/// A name as it may be shown: printable ASCII without a final dot; [`None`] where it is none.
pub fn clean(name: &[u8]) -> Option<String> {
    let name = name.strip_suffix(b".").unwrap_or(name).trim_ascii();
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let is_printable = name.iter().all(|byte| (0x20..0x7f).contains(byte));
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !is_printable {
        return None;
    }
    Some(name.iter().map(|&byte| char::from(byte)).collect())
}

fn dhcp(message: &[u8]) -> Option<Vec<Fact>> {
    const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
    const ACK: u8 = 5;
    let (head, options) = message.split_first_chunk::<240>()?;
    if head[1] != 1 || head[2] != 6 || head[236..] != COOKIE {
        return None;
    }
    let mac = Mac([head[28], head[29], head[30], head[31], head[32], head[33]]);
    let ip = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
    let (given, relay) = (ip(16), ip(24));
    let (mut kind, mut name) = (None, None);
    let mut rest = options;
    while let [code, after @ ..] = rest {
        if *code == 0 {
            rest = after;
            continue;
        }
        let [length, after @ ..] = after else { break };
        let Some((value, next)) = after.split_at_checked(usize::from(*length)) else { break };
        match (*code, value) {
            (255, _) => break,
            (53, [value]) => kind = Some(*value),
            (12, value) => name = clean(value),
            _ => {}
        }
        rest = next;
    }
    let mut facts = Vec::new();
    if head[0] == 1 {
        let of = Subject::Mac(mac);
        facts.extend(name.map(|name| Fact::Name { of, name, source: NameSource::Dhcp }));
    } else if kind == Some(ACK) && relay.is_unspecified() && !given.is_unspecified() {
        facts.push(Fact::Lease { mac, address: given });
    }
    Some(facts)
}

/// The sections of a message in the format of DNS.
struct Message<'a> {
    bytes: &'a [u8],
    flags: u16,
    questions: u16,
    records: u32,
}

impl<'a> Message<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.first_chunk::<12>()?;
        let field = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let records = [6, 8, 10].map(|at| u32::from(field(at)));
        Some(Self { bytes, flags: field(2), questions: field(4), records: records.iter().sum() })
    }

    /// Calls `record` with name, type and data of each record, and returns the first question.
    fn each(&self, mut record: impl FnMut(&[u8], u16, &[u8])) -> Option<Vec<u8>> {
        let mut at = 12;
        let mut question = None;
        for _ in 0..self.questions.min(MAX_FACTS as u16) {
            let (name, after) = read_name(self.bytes, at)?;
            question.get_or_insert(name);
            at = after + 4;
        }
        for _ in 0..self.records.min(MAX_FACTS as u32) {
            let Some((name, after)) = read_name(self.bytes, at) else { break };
            let Some(head) = self.bytes.get(after..after + 10) else { break };
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
            let Some(data) = self.bytes.get(after + 10..after + 10 + length) else { break };
            record(&name, kind, data);
            at = after + 10 + length;
        }
        question
    }
}

fn dns(payload: &[u8], source: NameSource) -> Vec<Fact> {
    const A: u16 = 1;
    const AAAA: u16 = 28;
    const RESPONSE: u16 = 0x8000;
    let mut found = Vec::new();
    let Some(message) = Message::read(payload) else { return Vec::new() };
    if message.flags & RESPONSE == 0 {
        return Vec::new();
    }
    let question = message.each(|name, kind, data| {
        let address = match kind {
            A => <[u8; 4]>::try_from(data).ok().map(|a| IpAddr::V4(a.into())),
            AAAA => <[u8; 16]>::try_from(data).ok().map(|a| IpAddr::V6(Ipv6Addr::from(a))),
            _ => None,
        };
        found.extend(address.map(|address| (name.to_vec(), address)));
    });
    // People know a host by the name that was asked for, not by what it is an alias of.
    let asked = question.filter(|_| source == NameSource::Dns);
    let fact = |(name, address): (Vec<u8>, IpAddr)| {
        let name = clean(asked.as_deref().unwrap_or(&name))?;
        Some(Fact::Name { of: Subject::Address(address), name, source })
    };
    found.into_iter().filter_map(fact).collect()
}

/// RFC 1002, section 4.2: what a host registers, or answers for.
fn netbios(payload: &[u8], src: IpAddr) -> Vec<Fact> {
    const NB: u16 = 0x20;
    const GROUP: u8 = 0x80;
    let Some(message) = Message::read(payload) else { return Vec::new() };
    let mut facts = Vec::new();
    message.each(|name, kind, data| {
        let [flags, _, a, b, c, d, ..] = data else { return };
        let address = IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d));
        // Only what a host says of itself, and of no group.
        if kind == NB && flags & GROUP == 0 && address == src {
            facts.extend(netbios_name(name).map(|name| Fact::Name {
                of: Subject::Address(address),
                name,
                source: NameSource::Netbios,
            }));
        }
    });
    facts
}

/// A name in its first-level encoding: two letters for each of 15 bytes and for what it names, which
/// has to be a workstation or a file server.
fn netbios_name(encoded: &[u8]) -> Option<String> {
    let label = encoded.split(|&byte| byte == b'.').next()?.first_chunk::<32>()?;
    let nibble = |letter: u8| letter.checked_sub(b'A').filter(|&nibble| nibble < 16);
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(label.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    let is_host = matches!(bytes[15], 0x00 | 0x20);
    clean(&bytes[..15]).filter(|name| is_host && !name.starts_with(['*', '\u{1}']))
}

/// The name at `at`, with dots, and where it ends. Pointers lead back only.
fn read_name(message: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let (mut at, mut before, mut end) = (at, at, None);
    loop {
        match *message.get(at)? {
            0 => return Some((name, end.unwrap_or(at + 1))),
            length @ 1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                if !name.is_empty() {
                    name.push(b'.');
                }
                name.extend_from_slice(label);
                if name.len() > MAX_NAME_BYTES {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            high @ 0xc0..=0xff => {
                let to = usize::from(high & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                end = end.or(Some(at + 2));
                if to >= before {
                    return None;
                }
                (at, before) = (to, to);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRC: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

    fn name(facts: &[Fact]) -> Vec<&str> {
        let names = facts.iter().filter_map(|fact| match fact {
            Fact::Name { name, .. } => Some(name.as_str()),
            _ => None,
        });
        names.collect()
    }

    fn dhcp_message(op: u8, options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 240];
        message[0] = op;
        message[1] = 1;
        message[2] = 6;
        message[16..20].copy_from_slice(&[10, 0, 0, 9]);
        message[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        message[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        message.extend_from_slice(options);
        message
    }

    #[test]
    fn dhcp_tells_names_and_leases() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let request = dhcp_message(1, b"\x35\x01\x03\x0c\x05plc-7\xff");
        let at = |payload| Datagram { src: SRC, src_port: 68, dst_port: 67, payload };
        assert_eq!(name(&of_datagram(&at(&request))), ["plc-7"]);
        let ack = dhcp_message(2, b"\x35\x01\x05\x0c\x05other\xff");
        let facts = of_datagram(&at(&ack));
        assert_eq!(facts, [Fact::Lease { mac, address: Ipv4Addr::new(10, 0, 0, 9) }]);
        // Behind a relay, frames have the relay's address.
        let mut relayed = ack.clone();
        relayed[24] = 10;
        assert_eq!(of_datagram(&at(&relayed)), []);
        let hostile = dhcp_message(1, b"\x0c\x06a\x1b[31m\xff");
        assert_eq!(of_datagram(&at(&hostile)), [], "control characters are no name");
    }

    #[test]
    fn answers_tell_the_name_that_was_asked_for() {
        let mut message =
            b"\0\x01\x81\x80\0\x01\0\x02\0\0\0\0\x03www\x04site\0\0\x01\0\x01".to_vec();
        message.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x07\x04edge\xc0\x10");
        message.extend_from_slice(b"\xc0\x26\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x05");
        let at = |src_port| Datagram { src: SRC, src_port, dst_port: 40_000, payload: &message };
        assert_eq!(name(&of_datagram(&at(53))), ["www.site"]);
        assert_eq!(name(&of_datagram(&at(5353))), ["edge.site"]);
        for end in 0..message.len() {
            let payload = &message[..end];
            of_datagram(&Datagram { src: SRC, src_port: 53, dst_port: 9, payload });
        }
    }

    #[test]
    fn pointers_cannot_go_round() {
        let message = b"\0\x01\x81\x80\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01";
        assert_eq!(read_name(message, 12), None);
    }

    #[test]
    fn netbios_tells_a_workstations_own_name() {
        let mut message = b"\0\x01\x28\x10\0\0\0\0\0\0\0\x01 ".to_vec();
        for byte in *b"HMI-1          \0" {
            message.extend([b'A' + (byte >> 4), b'A' + (byte & 0xf)]);
        }
        message.extend_from_slice(b"\0\0\x20\0\x01\0\0\0\0\0\x06\0\0\x0a\0\0\x07");
        let at = |src| Datagram { src, src_port: 137, dst_port: 137, payload: &message };
        assert_eq!(name(&of_datagram(&at(SRC))), ["HMI-1"]);
        let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 8));
        assert_eq!(of_datagram(&at(other)), [], "nobody speaks for others");
    }

    #[test]
    fn lldp_tells_a_switchs_name_and_that_it_routes() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let frame = b"\x02\x07\x04\x02\0\0\0\0\x09\x0a\x04core\x0e\x04\0\x14\0\x10\0\0";
        let facts = of_lldp(mac, frame);
        assert_eq!(name(&facts), ["core"]);
        assert!(facts.contains(&Fact::Router(mac)), "{facts:?}");
    }
}
