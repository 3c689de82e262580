//! A packet in words to the headers that rules test, and back.
//!
//! The grammar forgives: conditions come in any order around the two hosts, arrows have several
//! spellings, and what is left out gets a value that is named in [`Packet::assumed`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::headers::{
    ETHER_ARP, ETHER_IPV4, ETHER_IPV6, FrameType, Headers, Mac, VlanTags, WireId, protocol,
};

/// The most characters of a packet in words.
const MAX_CHARACTERS: usize = 1000;

/// The source port where none is given: the first of those that stacks choose for themselves
/// (RFC 6335 section 6).
const ASSUMED_SOURCE_PORT: u16 = 49_152;

/// A packet in words, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// What rules test, but for the wire.
    pub headers: Headers,
    /// The wire's name where one is given.
    pub wire: Option<String>,
    /// The instant in milliseconds since the Unix epoch where one is given.
    pub at_ms: Option<i64>,
    /// What was left out, and what was taken for it.
    pub assumed: Vec<String>,
}

/// Why the words are no packet: what is wrong, at which word, and an example.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacketError {
    /// The words as they were given.
    pub text: String,
    /// Column of the word, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        writeln!(f, "  | {}", self.text)?;
        writeln!(f, "  | {}^", " ".repeat(self.column - 1))?;
        write!(f, "  = help: for example `tcp 10.20.0.11:40000 -> 10.30.3.11:502 vlan 30`")
    }
}

impl std::error::Error for PacketError {}

/// One end of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Host {
    Ip(IpAddr),
    Mac(Mac),
}

/// What is known so far.
#[derive(Default)]
struct Draft {
    ether_type: Option<u16>,
    protocol: Option<u8>,
    icmp: Option<(u8, u8)>,
    hosts: Vec<(Host, Option<u16>)>,
    dst_port: Option<u16>,
    src_mac: Option<Mac>,
    dst_mac: Option<Mac>,
    tags: Option<VlanTags>,
    wire: Option<String>,
    at_ms: Option<i64>,
}

/// The words of the text with the columns that they start at.
struct Words<'a> {
    text: &'a str,
    words: Vec<(usize, &'a str)>,
    next: usize,
}

impl Packet {
    /// Reads a packet in words: `tcp 10.0.0.1:40000 -> 10.0.0.2:502`, `icmp echo-request
    /// fd00::1 -> fd00::2`, `eth/0x8892 02:00:00:00:00:01 -> 02:00:00:00:00:02 vlan 30`.
    ///
    /// # Errors
    ///
    /// The first word that could not be understood.
    pub fn read(text: &str) -> Result<Self, PacketError> {
        let mut words = Words::new(text)?;
        let mut draft = Draft::default();
        while let Some(word) = words.take() {
            draft.word(word, &mut words)?;
        }
        draft.finish(&words)
    }
}

impl Draft {
    fn word(&mut self, word: &str, words: &mut Words<'_>) -> Result<(), PacketError> {
        let lower = word.to_ascii_lowercase();
        match lower.as_str() {
            "->" | "=>" | "→" | "to" | "from" | ">" => Ok(()),
            "untagged" => {
                self.tags = Some(VlanTags::UNTAGGED);
                Ok(())
            }
            "vlan" => self.vlan(words),
            "wire" | "on" => {
                self.wire = Some(words.after("wire", "its name")?.to_owned());
                Ok(())
            }
            "from-mac" | "src-mac" => {
                self.src_mac = Some(words.mac("from-mac")?);
                Ok(())
            }
            "to-mac" | "dst-mac" => {
                self.dst_mac = Some(words.mac("to-mac")?);
                Ok(())
            }
            "at" => {
                let written = words.after("at", "an instant such as 2026-11-24T06:00:00Z")?;
                self.at_ms = Some(instant_ms(written).ok_or_else(|| {
                    words.error(format!(
                        "`{written}` is no instant; write one such as 2026-11-24T06:00:00Z"
                    ))
                })?);
                Ok(())
            }
            "port" => {
                let written = words.after("port", "its number")?;
                self.dst_port = Some(number(written).ok_or_else(|| {
                    words.error(format!("`{written}` is no port: write 0 to 65535"))
                })?);
                Ok(())
            }
            _ => self.protocol_or_host(&lower, words),
        }
    }

    fn protocol_or_host(&mut self, word: &str, words: &mut Words<'_>) -> Result<(), PacketError> {
        if self.icmp.is_none() && self.is_icmp() {
            let v6 = self.protocol == Some(protocol::ICMPV6);
            if let Some(icmp) = icmp_type(word, v6) {
                self.icmp = Some(icmp);
                return Ok(());
            }
        }
        if let Some(host) = host(word) {
            if self.hosts.len() == 2 {
                return Err(words.error("a packet has two hosts; this is a third".to_owned()));
            }
            self.hosts.push(host);
            return Ok(());
        }
        let (name, rest) = match word.split_once('/') {
            Some((name, rest)) => (name, Some(rest)),
            None => (word, None),
        };
        self.protocol(name, rest).map_err(|message| words.error(message))
    }

    fn protocol(&mut self, name: &str, rest: Option<&str>) -> Result<(), String> {
        if self.protocol.is_some() || self.ether_type.is_some() {
            return Err(format!(
                "`{name}` is neither an address nor one of vlan, wire, from-mac, to-mac, at \
                 (names of devices and groups have no meaning here)"
            ));
        }
        if let Some(number) = protocol_number(name) {
            self.protocol = Some(number);
            return match rest {
                None => Ok(()),
                Some(rest) if self.is_icmp() => {
                    let v6 = number == protocol::ICMPV6;
                    let icmp = icmp_type(rest, v6);
                    self.icmp = Some(icmp.ok_or_else(|| format!("`{rest}` is no {name} type"))?);
                    Ok(())
                }
                Some(rest) if has_ports(number) => {
                    let port = number_of(rest).ok_or_else(|| format!("`{rest}` is no port"))?;
                    self.dst_port = Some(port);
                    Ok(())
                }
                Some(rest) => Err(format!("{name} has no ports or types: `/{rest}` is too much")),
            };
        }
        match (name, rest) {
            ("ip" | "proto", Some(rest)) => {
                let number = number_of::<u8>(rest);
                self.protocol = Some(number.ok_or_else(|| {
                    format!("`{rest}` is no IP protocol: write 0 to 255, such as ip/47")
                })?);
                Ok(())
            }
            ("eth", Some(rest)) => {
                let number = number_of::<u16>(rest).filter(|&number| number >= 0x0600);
                self.ether_type = Some(number.ok_or_else(|| {
                    format!("`{rest}` is no EtherType: write 0x0600 to 0xffff, such as eth/0x8892")
                })?);
                Ok(())
            }
            ("llc", Some(rest)) => {
                let number = number_of::<u8>(rest).filter(|&number| number > 0).map(u16::from);
                self.ether_type = Some(number.ok_or_else(|| {
                    format!("`{rest}` is no DSAP: write 0x01 to 0xff, such as llc/0x82")
                })?);
                Ok(())
            }
            ("arp", None) => {
                self.ether_type = Some(ETHER_ARP);
                Ok(())
            }
            _ => Err(format!(
                "`{name}` is neither a protocol (tcp, udp, sctp, icmp, icmpv6, gre, esp, ah, ip/47, \
                 eth/0x8892) nor an address (names of devices and groups have no meaning here)"
            )),
        }
    }

    fn vlan(&mut self, words: &mut Words<'_>) -> Result<(), PacketError> {
        let written = words.after("vlan", "its number, or outer.inner")?;
        let trimmed = written.trim_matches(['[', ']']);
        let vid = |text: &str| number::<u16>(text.trim()).filter(|vid| (1..=4094).contains(vid));
        let tags = match trimmed.split_once(['.', ',']) {
            None => vid(trimmed).map(VlanTags::single),
            Some((outer, inner)) => {
                vid(outer).zip(vid(inner)).map(|(outer, inner)| VlanTags { outer, inner })
            }
        };
        let untagged = (trimmed == "untagged").then_some(VlanTags::UNTAGGED);
        self.tags = Some(tags.or(untagged).ok_or_else(|| {
            words.error(format!("`{written}` is no VLAN: write 1 to 4094, 100.30 for two tags"))
        })?);
        Ok(())
    }

    fn is_icmp(&self) -> bool {
        matches!(self.protocol, Some(protocol::ICMP | protocol::ICMPV6))
    }

    fn finish(mut self, words: &Words<'_>) -> Result<Packet, PacketError> {
        let end = |message: &str| words.error_at_end(message.to_owned());
        let mut assumed = Vec::new();
        let [(src, src_port), (dst, dst_port)] = self.hosts[..] else {
            return Err(end("a packet goes from one host to another: two addresses are needed"));
        };
        let mut headers = Headers {
            wire: WireId::default(),
            tags: self.tags.unwrap_or_default(),
            src_mac: self.src_mac.unwrap_or_default(),
            dst_mac: self.dst_mac.unwrap_or_default(),
            ..Headers::default()
        };
        match (src, dst) {
            (Host::Ip(src), Host::Ip(dst)) => {
                if self.ether_type.is_some() {
                    return Err(end("a frame of that EtherType has no IP addresses: write MACs"));
                }
                (headers.ether_type, headers.src, headers.dst) = addresses(src, dst)
                    .ok_or_else(|| end("one host has an IPv4 address, the other an IPv6 one"))?;
                self.upper_layer(&mut headers, src_port, dst_port, &mut assumed)
                    .map_err(|message| end(&message))?;
                if self.src_mac.is_none() || self.dst_mac.is_none() {
                    assumed.push(
                        "MAC addresses that were not given are 00:00:00:00:00:00: rules on a MAC do \
                         not match"
                            .to_owned(),
                    );
                }
            }
            (Host::Mac(src), Host::Mac(dst)) => {
                let Some(ether_type) = self.ether_type else {
                    return Err(end("between MAC addresses say the EtherType: eth/0x8892"));
                };
                if matches!(ether_type, ETHER_IPV4 | ETHER_IPV6) {
                    return Err(end("a frame of that EtherType needs IP addresses; MACs go with \
                                    from-mac and to-mac"));
                }
                (headers.ether_type, headers.src_mac, headers.dst_mac) = (ether_type, src, dst);
            }
            _ => return Err(end("one host is a MAC address, the other an IP address")),
        }
        if self.tags.is_none() {
            assumed.push("no VLAN tag".to_owned());
        }
        Ok(Packet { headers, wire: self.wire, at_ms: self.at_ms, assumed })
    }

    fn upper_layer(
        &mut self,
        headers: &mut Headers,
        src_port: Option<u16>,
        dst_port: Option<u16>,
        assumed: &mut Vec<String>,
    ) -> Result<(), String> {
        let v6 = headers.ether_type == ETHER_IPV6;
        let mut number = self.protocol.ok_or("say the protocol: tcp, udp, icmp, ip/47…")?;
        if number == protocol::ICMP && v6 {
            number = protocol::ICMPV6;
            if let Some((8 | 0, code)) = self.icmp {
                let echo = if self.icmp.is_some_and(|(kind, _)| kind == 8) { 128 } else { 129 };
                self.icmp = Some((echo, code));
            }
        } else if number == protocol::ICMPV6 && !v6 {
            return Err("ICMPv6 does not run over IPv4".to_owned());
        }
        headers.protocol = number;
        let dst_port = dst_port.or(self.dst_port);
        if has_ports(number) {
            headers.dst_port = dst_port.ok_or("say the port: 10.30.3.11:502, or tcp/502")?;
            headers.src_port = src_port.unwrap_or_else(|| {
                assumed.push(format!("source port {ASSUMED_SOURCE_PORT}"));
                ASSUMED_SOURCE_PORT
            });
        } else if src_port.or(dst_port).is_some() {
            return Err("that protocol has no ports".to_owned());
        } else if matches!(number, protocol::ICMP | protocol::ICMPV6) {
            let (kind, code) = self.icmp.unwrap_or_else(|| {
                assumed.push("ICMP type echo-request".to_owned());
                (if v6 { 128 } else { 8 }, 0)
            });
            headers.dst_port = u16::from_be_bytes([kind, code]);
        }
        Ok(())
    }
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Result<Self, PacketError> {
        if text.chars().count() > MAX_CHARACTERS {
            let text = text.chars().take(40).chain("…".chars()).collect();
            let message = format!("more than {MAX_CHARACTERS} characters");
            return Err(PacketError { text, column: 1, message });
        }
        let mut words = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
            let word = &rest[start..];
            let word = &word[..word.find(char::is_whitespace).unwrap_or(word.len())];
            let offset = text.len() - rest.len() + start;
            let column = text[..offset].chars().count() + 1;
            words.extend(split_arrow(word, column));
            rest = &rest[start + word.len()..];
        }
        Ok(Self { text, words, next: 0 })
    }

    fn take(&mut self) -> Option<&'a str> {
        let (_, word) = self.words.get(self.next)?;
        self.next += 1;
        Some(word)
    }

    fn after(&mut self, key: &str, what: &str) -> Result<&'a str, PacketError> {
        self.take().ok_or_else(|| self.error_at_end(format!("`{key}` needs {what}")))
    }

    fn mac(&mut self, key: &str) -> Result<Mac, PacketError> {
        let written = self.after(key, "a MAC address such as 02:1b:1d:00:30:01")?;
        mac(written).ok_or_else(|| {
            self.error(format!(
                "`{written}` is no MAC address; write one such as 02:1b:1d:00:30:01"
            ))
        })
    }

    /// An error at the word that was taken last.
    fn error(&self, message: String) -> PacketError {
        let column = self.words.get(self.next.wrapping_sub(1)).map_or(1, |(column, _)| *column);
        PacketError { text: self.text.to_owned(), column, message }
    }

    fn error_at_end(&self, message: String) -> PacketError {
        let column = self.text.trim_end().chars().count() + 1;
        PacketError { text: self.text.to_owned(), column, message }
    }
}

/// `a->b` written without spaces is three words.
fn split_arrow(word: &str, column: usize) -> Vec<(usize, &str)> {
    for arrow in ["->", "=>", "→"] {
        if let Some((before, after)) = word.split_once(arrow) {
            let at = column + before.chars().count();
            let parts = [(column, before), (at, arrow), (at + arrow.chars().count(), after)];
            return parts.into_iter().filter(|(_, part)| !part.is_empty()).collect();
        }
    }
    vec![(column, word)]
}

/// An address with or without a port, or a MAC address.
fn host(word: &str) -> Option<(Host, Option<u16>)> {
    if let Some(mac) = mac(word) {
        return Some((Host::Mac(mac), None));
    }
    if let Ok(addr) = word.parse::<IpAddr>() {
        return Some((Host::Ip(addr), None));
    }
    if let Some(bracketed) = word.strip_prefix('[') {
        let (addr, port) = bracketed.split_once(']')?;
        let addr = IpAddr::V6(addr.parse().ok()?);
        return match port.strip_prefix(':') {
            Some(port) => Some((Host::Ip(addr), Some(number(port)?))),
            None => port.is_empty().then_some((Host::Ip(addr), None)),
        };
    }
    let (addr, port) = word.rsplit_once(':')?;
    Some((Host::Ip(IpAddr::V4(addr.parse().ok()?)), Some(number(port)?)))
}

/// The number of an IP protocol that packets are written with by name, such as `tcp`.
pub fn protocol_number(name: &str) -> Option<u8> {
    Some(match name {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "sctp" => protocol::SCTP,
        "icmp" => protocol::ICMP,
        "icmpv6" | "icmp6" => protocol::ICMPV6,
        "gre" => protocol::GRE,
        "esp" => protocol::ESP,
        "ah" => protocol::AH,
        _ => return None,
    })
}

/// A MAC address: six bytes in hexadecimal, between colons or dashes.
pub fn mac(word: &str) -> Option<Mac> {
    let separator = if word.contains('-') { '-' } else { ':' };
    let mut bytes = [0; 6];
    let mut parts = word.split(separator);
    for byte in &mut bytes {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}

fn addresses(src: IpAddr, dst: IpAddr) -> Option<(u16, u128, u128)> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Some((ETHER_IPV4, u128::from(src.to_bits()), u128::from(dst.to_bits())))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => Some((ETHER_IPV6, src.to_bits(), dst.to_bits())),
        _ => None,
    }
}

fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// An ICMP type by name or number, with an optional code: `echo-request`, `8`, `3/1`.
fn icmp_type(word: &str, v6: bool) -> Option<(u8, u8)> {
    // The names that RFC 792 and RFC 4443 give, as the policy language spells them.
    let names: &[(&str, u8)] = if v6 {
        &[
            ("destination-unreachable", 1),
            ("packet-too-big", 2),
            ("time-exceeded", 3),
            ("parameter-problem", 4),
            ("echo-request", 128),
            ("echo-reply", 129),
        ]
    } else {
        &[
            ("echo-reply", 0),
            ("destination-unreachable", 3),
            ("redirect", 5),
            ("echo-request", 8),
            ("time-exceeded", 11),
            ("parameter-problem", 12),
            ("timestamp-request", 13),
            ("timestamp-reply", 14),
        ]
    };
    let (kind, code) = match word.split_once('/') {
        Some((kind, code)) => (kind, number(code)?),
        None => (word, 0),
    };
    let named = names.iter().find(|(name, _)| *name == kind).map(|(_, number)| *number);
    Some((named.or_else(|| number(kind))?, code))
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A number, decimal or hexadecimal after `0x`.
fn number_of<T: std::str::FromStr + TryFrom<u64>>(text: &str) -> Option<T> {
    match text.strip_prefix("0x") {
        Some(digits) => T::try_from(u64::from_str_radix(digits, 16).ok()?).ok(),
        None => number(text),
    }
}

/// An RFC 3339 instant in milliseconds since the Unix epoch.
pub fn instant_ms(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// Headers in words that [`Packet::read`] reads as the same headers. `wires` are the names behind
/// their wire, see [`crate::policy::Policy::wires`]; a wire without a name is left out.
pub fn in_words(headers: &Headers, wires: &[Arc<str>]) -> String {
    let h = headers;
    let host = |addr: u128, port: Option<u16>| {
        let addr = match h.ether_type {
            ETHER_IPV4 => IpAddr::V4(Ipv4Addr::from_bits(addr as u32)),
            _ => IpAddr::V6(Ipv6Addr::from_bits(addr)),
        };
        match (addr, port) {
            (IpAddr::V6(addr), Some(port)) => format!("[{addr}]:{port}"),
            (addr, Some(port)) => format!("{addr}:{port}"),
            (addr, None) => addr.to_string(),
        }
    };
    let mut words = if h.is_ip() {
        let [kind, code] = h.dst_port.to_be_bytes();
        let (protocol, ports) = match h.protocol {
            protocol::TCP => ("tcp".to_owned(), true),
            protocol::UDP => ("udp".to_owned(), true),
            protocol::SCTP => ("sctp".to_owned(), true),
            protocol::ICMP if h.ether_type == ETHER_IPV4 => (format!("icmp/{kind}/{code}"), false),
            protocol::ICMPV6 if h.ether_type == ETHER_IPV6 => {
                (format!("icmpv6/{kind}/{code}"), false)
            }
            number => (format!("ip/{number}"), false),
        };
        let (src, dst) = (ports.then_some(h.src_port), ports.then_some(h.dst_port));
        format!("{protocol} {} -> {}", host(h.src, src), host(h.dst, dst))
    } else {
        format!("{} {} -> {}", FrameType(h.ether_type), h.src_mac, h.dst_mac)
    };
    match h.tags {
        VlanTags::UNTAGGED => {}
        VlanTags { outer, inner: 0 } => words += &format!(" vlan {outer}"),
        VlanTags { outer, inner } => words += &format!(" vlan {outer}.{inner}"),
    }
    if let Some(wire) = wires.get(usize::from(h.wire.0)) {
        words += &format!(" wire {wire}");
    }
    for (key, mac) in [("from-mac", h.src_mac), ("to-mac", h.dst_mac)] {
        if h.is_ip() && mac != Mac::default() {
            words += &format!(" {key} {mac}");
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Headers {
        Packet::read(text).unwrap_or_else(|error| panic!("{error}")).headers
    }

    fn refused(text: &str) -> PacketError {
        Packet::read(text).expect_err(text)
    }

    #[test]
    fn the_usual_packets() {
        let headers = read("tcp 10.20.0.11:40000 -> 10.30.3.11:502 vlan 30");
        assert_eq!((headers.src_port, headers.dst_port), (40_000, 502));
        assert_eq!((headers.src, headers.dst), (0x0a14_000b, 0x0a1e_030b));
        assert_eq!(headers.tags, VlanTags::single(30));
        assert_eq!((headers.ether_type, headers.protocol), (ETHER_IPV4, protocol::TCP));
        assert_eq!(read("udp [fd00::1]:5000->[fd00::2]:53").dst_port, 53);
        assert_eq!(read("TCP/443 fd00::1 -> fd00::2").dst_port, 443);
        assert_eq!(read("tcp from 10.0.0.1 to 10.0.0.2 port 22").dst_port, 22);
        assert_eq!(read("10.0.0.1 -> 10.0.0.2 ip/47").protocol, 47);
        assert_eq!(read("vlan 100.30 gre 10.0.0.1 → 10.0.0.2").tags.inner, 30);
    }

    #[test]
    fn icmp_by_name_and_number_in_both_families() {
        assert_eq!(read("icmp echo-request 10.0.0.1 -> 10.0.0.2").dst_port, 8 << 8);
        assert_eq!(read("icmp/3/1 10.0.0.1 -> 10.0.0.2").dst_port, (3 << 8) | 1);
        assert_eq!(read("icmp 10.0.0.1 -> 10.0.0.2").dst_port, 8 << 8);
        assert_eq!(read("icmp echo-reply fd00::1 -> fd00::2").dst_port, 129 << 8);
        assert_eq!(read("icmpv6 echo-request fd00::1 -> fd00::2").dst_port, 128 << 8);
    }

    #[test]
    fn frames_without_ip_and_addresses_of_the_link() {
        let headers = read("eth/0x8892 02:00:00:00:00:01 -> 02:00:00:00:00:02 untagged");
        assert_eq!(headers.ether_type, 0x8892);
        assert_eq!(headers.dst_mac, Mac([2, 0, 0, 0, 0, 2]));
        let headers = read("udp 10.0.0.1 -> 10.0.0.2:161 from-mac 02-1B-1d-00-30-01");
        assert_eq!(headers.src_mac, Mac([2, 0x1b, 0x1d, 0, 0x30, 1]));
    }

    #[test]
    fn words_read_back_as_the_same_headers() {
        for text in [
            "tcp 10.20.0.11:40000 -> 10.30.3.11:502 vlan 30",
            "udp [fd00::1]:5000 -> [fd00::2]:53 vlan 100.30",
            "sctp 10.0.0.1:1 -> 10.0.0.2:2 from-mac 02:00:00:00:00:01",
            "icmp/3/1 10.0.0.1 -> 10.0.0.2",
            "icmpv6/128/0 fd00::1 -> fd00::2 to-mac 02:00:00:00:00:01",
            "ip/47 10.0.0.1 -> 10.0.0.2",
            "eth/0x8892 02:00:00:00:00:01 -> 02:00:00:00:00:02 vlan 30",
            "llc/0x82 02:00:00:00:00:01 -> 02:00:00:00:00:02",
        ] {
            assert_eq!(in_words(&read(text), &[]), text);
        }
        let on = Headers { wire: WireId(1), ..read("ip/47 10.0.0.1 -> 10.0.0.2") };
        let wires = ["line2".into(), "line3".into()];
        assert_eq!(in_words(&on, &wires), "ip/47 10.0.0.1 -> 10.0.0.2 wire line3");
    }

    #[test]
    fn what_is_left_out_is_named() {
        let packet = Packet::read("tcp 10.0.0.1 -> 10.0.0.2:80 wire line3 at 2026-11-24T06:00:00Z");
        let packet = packet.unwrap();
        assert_eq!(packet.wire.as_deref(), Some("line3"));
        assert_eq!(packet.at_ms, Some(1_795_500_000_000));
        assert!(packet.assumed.iter().any(|a| a.contains("source port 49152")));
    }

    #[test]
    fn mistakes_are_shown_at_their_word() {
        let error = refused("tcp 10.0.0.1 -> plc-7:502");
        assert_eq!(error.column, 17);
        assert!(error.to_string().contains("names of devices and groups have no meaning here"));
        for (text, message) in [
            ("tcp 10.0.0.1 -> 10.0.0.2", "say the port"),
            ("tcp 10.0.0.1:70000 -> 10.0.0.2:1", "neither an address"),
            ("10.0.0.1 -> 10.0.0.2", "say the protocol"),
            ("tcp 10.0.0.1", "two addresses are needed"),
            ("tcp 10.0.0.1 -> fd00::1 port 1", "the other an IPv6 one"),
            ("tcp 10.0.0.1 -> 10.0.0.2:1 vlan 4095", "no VLAN"),
            ("tcp 10.0.0.1 -> 10.0.0.2:1 vlan", "`vlan` needs"),
            ("tcp 10.0.0.1 -> 10.0.0.2:1 at noon", "no instant"),
            ("gre 10.0.0.1 -> 10.0.0.2:1", "no ports"),
            ("eth/0x0800 02:00:00:00:00:01 -> 02:00:00:00:00:02", "needs IP addresses"),
            ("eth/0x8892 10.0.0.1 -> 10.0.0.2", "no IP addresses"),
            ("tcp 1.2.3.4 1.2.3.5 1.2.3.6", "a third"),
            ("", "two addresses are needed"),
        ] {
            let error = refused(text);
            assert!(error.message.contains(message), "{text}: {}", error.message);
        }
        assert!(refused(&"x".repeat(5000)).to_string().len() < 400);
    }
}
