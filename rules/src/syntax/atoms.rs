//! Single values: names, addresses, services, VLANs, instants.
//!
//! Every function takes the text of one scalar and returns its value, or what is wrong with it and
//! what to write instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::diagnostic::{Code, is_directional};
use super::document::{Addresses, Member, PortProtocol, Ports, Term};
use crate::headers::{Mac, VlanTags};

/// Longest name in bytes.
const NAME_BYTES: usize = 63;

/// Highest VLAN identifier that may be used (IEEE 802.1Q).
const VLAN_MAX: u16 = 4094;

/// Why a text is not what it should be.
#[derive(Debug)]
pub(crate) struct Invalid {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Invalid {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

type Parsed<T> = Result<T, Invalid>;

/// A text in backquotes, cut to what fits a message and with control characters made visible.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("`");
    for (count, c) in text.chars().enumerate() {
        if count == 60 {
            out.push('…');
            break;
        }
        let unsafe_to_show = c.is_control() || is_directional(c);
        if unsafe_to_show { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push('`');
    out
}

/// `[a-z][a-z0-9-]*`, at most [`NAME_BYTES`] long, and nothing that could be read as an address.
pub(crate) fn name(text: &str) -> Parsed<Arc<str>> {
    let valid = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.starts_with(|c: char| c.is_ascii_lowercase());
    if !valid {
        let invalid = Invalid::new(Code::InvalidName, format!("{} is not a name", quoted(text)));
        let suggestion = suggest_name(text);
        return Err(invalid.help(match suggestion {
            Some(name) => format!("write `{name}`: lower-case letters, digits and hyphens"),
            None => "a name has lower-case letters, digits and hyphens, and starts with a letter"
                .to_owned(),
        }));
    }
    if text.len() > NAME_BYTES {
        let message = format!("a name of {} characters", text.len());
        let help = format!("names have at most {NAME_BYTES} characters; `reason` holds prose");
        return Err(Invalid::new(Code::InvalidName, message).help(help));
    }
    if matches!(text, "null" | "true" | "false") {
        let message = format!("{} is not a name", quoted(text));
        let help = "other YAML tools would read it as a value that is not text";
        return Err(Invalid::new(Code::ReservedName, message).help(help));
    }
    if mac_digits(text).is_some() {
        let message = format!("the name {} is also a MAC address", quoted(text));
        return Err(Invalid::new(Code::ReservedName, message));
    }
    Ok(Arc::from(text))
}

fn suggest_name(text: &str) -> Option<String> {
    let mapped: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let trimmed = mapped.trim_matches('-');
    let usable = text.is_ascii() && !trimmed.is_empty() && trimmed.len() <= NAME_BYTES;
    (usable && text.starts_with(|c: char| c.is_ascii_alphabetic())).then(|| trimmed.to_owned())
}

/// A member of a selector: MAC address, network addresses or a name, told apart by their form.
pub(crate) fn member(text: &str) -> Parsed<Member> {
    if mac_digits(text).is_some() {
        return Ok(Member::Mac(mac(text)?));
    }
    if looks_like_address(text) {
        return Ok(Member::Addresses(addresses(text)?));
    }
    let service = text.split_once('/').is_some_and(|(head, _)| {
        matches!(head, "tcp" | "udp" | "sctp" | "icmp" | "icmpv6" | "ip" | "eth")
    });
    if service {
        let message = format!("{} is a service, not a host", quoted(text));
        return Err(Invalid::new(Code::InvalidAddress, message).help("write it under `service`"));
    }
    name(text).map(Member::Name)
}

fn looks_like_address(text: &str) -> bool {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    digits
        || text.contains(':')
        || (text.contains(['.', '/'])
            && text.contains(|c: char| c.is_ascii_digit())
            && !text.starts_with(|c: char| c.is_ascii_alphabetic()))
}

/// The twelve digits of a MAC address in one of its usual notations.
fn mac_digits(text: &str) -> Option<[u8; 6]> {
    let b = text.as_bytes();
    let (width, separator) = match b.len() {
        17 if b[2] == b':' || b[2] == b'-' => (2, b[2]),
        14 if b[4] == b'.' => (4, b'.'),
        _ => return None,
    };
    let mut nibbles = [0u8; 12];
    let mut count = 0;
    for (at, &c) in b.iter().enumerate() {
        if at % (width + 1) == width {
            if c != separator {
                return None;
            }
        } else {
            *nibbles.get_mut(count)? = (c as char).to_digit(16)? as u8;
            count += 1;
        }
    }
    let mut mac = [0; 6];
    for (byte, pair) in mac.iter_mut().zip(nibbles.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    (count == 12).then_some(mac)
}

/// `02:1b:1d:00:30:01`, `02-1b-…` or `021b.1d00.3001`.
pub(crate) fn mac(text: &str) -> Parsed<Mac> {
    match mac_digits(text) {
        Some([0, 0, 0, 0, 0, 0]) => {
            Err(Invalid::new(Code::InvalidMac, "the MAC address is all zeros: no host has it"))
        }
        Some(digits) => Ok(Mac(digits)),
        None => {
            let message = format!("{} is not a MAC address", quoted(text));
            let help = "write six pairs of hexadecimal digits, as \"02:1b:1d:00:30:01\"";
            Err(Invalid::new(Code::InvalidMac, message).help(help))
        }
    }
}

/// An address, a prefix or a range.
pub(crate) fn addresses(text: &str) -> Parsed<Addresses> {
    if let Some((base, length)) = text.split_once('/') {
        return prefix(text, base, length);
    }
    if let Some((first, last)) = text.split_once('-').filter(|_| text.contains(['.', ':'])) {
        let (first, last) = (address(first.trim())?, address(last.trim())?);
        if first.is_ipv4() != last.is_ipv4() {
            let message = format!("the range {} mixes IPv4 and IPv6", quoted(text));
            return Err(Invalid::new(Code::InvalidRange, message).help("write two ranges"));
        }
        if first > last {
            let message = format!("the range {} is upside down", quoted(text));
            return Err(
                Invalid::new(Code::InvalidRange, message).help(format!("write {last}-{first}"))
            );
        }
        return Ok(Addresses::Range(first, last));
    }
    address(text).map(Addresses::One)
}

fn prefix(text: &str, base: &str, length: &str) -> Parsed<Addresses> {
    let base = address(base)?;
    let bits = if base.is_ipv4() { 32 } else { 128 };
    if let Ok(mask) = length.parse::<Ipv4Addr>() {
        let mask = u32::from(mask);
        let invalid = Invalid::new(Code::InvalidAddress, format!("{} has a netmask", quoted(text)));
        let contiguous = mask.leading_ones() + mask.trailing_zeros() == 32;
        return Err(if contiguous && bits == 32 {
            invalid.help(format!("write the length: {base}/{}", mask.leading_ones()))
        } else {
            invalid.help("write the length of the prefix, as in 10.0.0.0/8")
        });
    }
    let canonical = !length.is_empty() && (length == "0" || !length.starts_with('0'));
    let digits = canonical && length.bytes().all(|b| b.is_ascii_digit());
    let Some(length) = length.parse::<u8>().ok().filter(|&l| digits && l <= bits) else {
        let message = format!("the prefix length of {} is not 0 to {bits}", quoted(text));
        return Err(Invalid::new(Code::InvalidAddress, message));
    };
    let network = mask(base, length);
    if network != base {
        let message = format!("{} has bits set beyond its length", quoted(text));
        return Err(Invalid::new(Code::HostBits, message).help(format!(
            "write {network}/{length} for the network, or {base} for the one host"
        )));
    }
    Ok(Addresses::Prefix(base, length))
}

/// The address with the bits beyond `length` cleared.
fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from(u32::from(a) & mask).into()
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from(u128::from(a) & mask).into()
        }
    }
}

fn address(text: &str) -> Parsed<IpAddr> {
    let invalid = |message: String| Invalid::new(Code::InvalidAddress, message);
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            let v4 = v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
            let message = format!("{} is an IPv4 address in IPv6 clothes", quoted(text));
            Err(invalid(message).help(format!("no such packet is on the wire: write {v4}")))
        }
        Ok(address) => Ok(address),
        Err(_) => {
            let message = format!("{} is not an IP address", quoted(text));
            let octal = text.split('.').any(|part| part.len() > 1 && part.starts_with('0'));
            Err(if text.contains('%') {
                invalid(message).help("leave the zone out: wires are named with `wire`")
            } else if text.contains('*') {
                invalid(message).help("write a prefix, as in 10.0.0.0/24, or a range")
            } else if text.contains('.') && octal {
                invalid(message).help(LEADING_ZERO)
            } else if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
                invalid(message).help("an IPv4 address is four numbers from 0 to 255")
            } else if text.bytes().filter(|&b| b == b':').count() == 5 {
                invalid(message).help("a MAC address has six pairs of hexadecimal digits")
            } else {
                invalid(message)
            })
        }
    }
}

/// Decimal digits without leading zeros, which YAML 1.1 would read as octal.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

const LEADING_ZERO: &str = "remove the leading zero: some tools read such numbers as octal";

fn has_leading_zero(text: &str) -> bool {
    text.len() > 1 && text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
}

/// `any`, `502` or `1024-65535`; `any` is the empty list.
pub(crate) fn ports(text: &str) -> Parsed<Ports> {
    if text == "any" {
        return Ok(Vec::new());
    }
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (port(first.trim())?, port(last.trim())?);
        if first > last {
            let message = format!("the port range {} is upside down", quoted(text));
            return Err(
                Invalid::new(Code::InvalidRange, message).help(format!("write {last}-{first}"))
            );
        }
        return Ok(vec![(first, last)]);
    }
    port(text).map(|port| vec![(port, port)])
}

fn port(text: &str) -> Parsed<u16> {
    let message = || format!("{} is not a port", quoted(text));
    match decimal(text) {
        Some(value @ 1..=65535) => Ok(value as u16),
        Some(_) => Err(Invalid::new(Code::InvalidPort, message()).help("ports are 1 to 65535")),
        None if has_leading_zero(text) => {
            Err(Invalid::new(Code::InvalidPort, message()).help(LEADING_ZERO))
        }
        None => Err(Invalid::new(Code::InvalidPort, message()).help(if text.contains(',') {
            "write a list: [tcp/80, tcp/443]"
        } else {
            "write a number from 1 to 65535, a range such as 1024-65535, or `any`"
        })),
    }
}

/// Types of ICMP (RFC 792 and others) and ICMPv6 (RFC 4443) that have names.
const ICMP_TYPES: &[(&str, u8)] = &[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
];

/// See [`ICMP_TYPES`].
const ICMPV6_TYPES: &[(&str, u8)] = &[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbour-solicitation", 135),
    ("neighbour-advertisement", 136),
    ("redirect", 137),
];

/// Protocols that people write by name; the language has them by number.
const IP_PROTOCOLS: &[(&str, u8)] = &[
    ("igmp", 2),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("eigrp", 88),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
];

/// One service: a name, `tcp/502`, `icmp/echo-request`, `ip/47`, `eth/0x8892`.
pub(crate) fn term(text: &str) -> Parsed<Term> {
    let Some((head, rest)) = text.split_once('/') else {
        if decimal(text).is_some() {
            let message = format!("{} has a port but no protocol", quoted(text));
            let help = format!("write tcp/{text} or udp/{text}");
            return Err(Invalid::new(Code::InvalidService, message).help(help));
        }
        return name(text).map(Term::Name);
    };
    if let Some(protocol) = PortProtocol::ALL.into_iter().find(|p| p.label() == head) {
        let to = ports(rest)?;
        return Ok(if to.is_empty() {
            Term::Name(Arc::from(head))
        } else {
            Term::Ports { protocol, to, from: Vec::new() }
        });
    }
    match head {
        "icmp" | "icmpv6" => icmp(head == "icmpv6", rest),
        "ip" => ip_protocol(rest),
        "eth" => ether_type(rest),
        "llc" => llc_dsap(rest),
        _ => {
            let message = format!("{} is not a service", quoted(text));
            let lower = head.to_ascii_lowercase();
            let known = ["tcp", "udp", "sctp", "icmp", "icmpv6", "ip", "eth", "llc"];
            let help = match rest {
                "tcp" | "udp" | "sctp" if decimal(head).is_some() => format!("write {rest}/{head}"),
                _ if known.contains(&lower.as_str()) => format!("write {lower}/{rest}"),
                _ => {
                    "a service starts with tcp, udp, sctp, icmp, icmpv6, ip, eth or llc".to_owned()
                }
            };
            Err(Invalid::new(Code::InvalidService, message).help(help))
        }
    }
}

fn icmp(v6: bool, rest: &str) -> Parsed<Term> {
    let (kind_text, code_text) = match rest.split_once('/') {
        Some((kind, code)) => (kind, Some(code)),
        None => (rest, None),
    };
    let names = if v6 { ICMPV6_TYPES } else { ICMP_TYPES };
    let named = names.iter().find(|(name, _)| *name == kind_text).map(|&(_, kind)| kind);
    let number = |text: &str| decimal(text).and_then(|value| u8::try_from(value).ok());
    let Some(kind) = named.or_else(|| number(kind_text)) else {
        let head = if v6 { "icmpv6" } else { "icmp" };
        let message = format!("{} is not a type of {head}", quoted(kind_text));
        let near = nearest(kind_text, names.iter().map(|(name, _)| *name));
        return Err(Invalid::new(Code::InvalidService, message).help(match near {
            Some(near) => format!("did you mean {head}/{near}?"),
            None => format!("write a number from 0 to 255, or a name as in {head}/echo-request"),
        }));
    };
    let code = match code_text {
        None => None,
        Some(text) => Some(number(text).ok_or_else(|| {
            let message = format!("{} is not an ICMP code", quoted(text));
            Invalid::new(Code::InvalidService, message).help("codes are 0 to 255")
        })?),
    };
    Ok(Term::Icmp { v6, kind, code })
}

fn ip_protocol(rest: &str) -> Parsed<Term> {
    if let Some(number) = decimal(rest).and_then(|value| u8::try_from(value).ok()) {
        return Ok(Term::Ip(number));
    }
    let message = format!("{} is not an IP protocol number", quoted(rest));
    let known = IP_PROTOCOLS.iter().find(|(name, _)| *name == rest);
    Err(Invalid::new(Code::InvalidService, message).help(match (known, rest) {
        (_, "tcp" | "udp" | "sctp" | "icmp" | "icmpv6") => format!("write {rest}"),
        (Some((_, number)), _) => format!("write ip/{number}"),
        (None, _) => "write a number from 0 to 255 (IANA protocol numbers)".to_owned(),
    }))
}

fn ether_type(rest: &str) -> Parsed<Term> {
    let digits = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
    let hex = digits.filter(|d| d.len() <= 4 && d.bytes().all(|b| b.is_ascii_hexdigit()));
    match hex.and_then(|d| u16::from_str_radix(d, 16).ok()) {
        Some(value) if value >= 0x0600 => Ok(Term::Ether(value)),
        Some(_) => {
            let message = format!("{} is a frame length, not an EtherType", quoted(rest));
            let help =
                "EtherTypes are 0x0600 and up; frames with 802.2 LLC have a DSAP, as in llc/0x82";
            Err(Invalid::new(Code::InvalidService, message).help(help))
        }
        None => {
            let message = format!("{} is not an EtherType", quoted(rest));
            let help = "write four hexadecimal digits after 0x, as in eth/0x8892";
            Err(Invalid::new(Code::InvalidService, message).help(help))
        }
    }
}

/// The DSAP of an 802.2 frame. That of SNAP, 0xaa, names what SNAP carries without an EtherType.
fn llc_dsap(rest: &str) -> Parsed<Term> {
    let digits = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
    let hex = digits.filter(|d| d.len() <= 2 && d.bytes().all(|b| b.is_ascii_hexdigit()));
    match hex.and_then(|d| u8::from_str_radix(d, 16).ok()) {
        Some(dsap) if dsap > 0 => Ok(Term::Ether(u16::from(dsap))),
        _ => {
            let message = format!("{} is not an LLC DSAP", quoted(rest));
            let help = "write two hexadecimal digits after 0x, 0x01 to 0xff, as in llc/0x82";
            Err(Invalid::new(Code::InvalidService, message).help(help))
        }
    }
}

/// `210`: one tag.
pub(crate) fn vid(text: &str) -> Parsed<u16> {
    let message = || format!("{} is not a VLAN", quoted(text));
    match decimal(text) {
        Some(value) if (1..=u64::from(VLAN_MAX)).contains(&value) => Ok(value as u16),
        Some(0) => Err(Invalid::new(Code::InvalidVlan, message())
            .help("a priority tag counts as no tag: write `untagged`")),
        Some(_) => Err(Invalid::new(Code::InvalidVlan, message()).help("VLANs are 1 to 4094")),
        None if has_leading_zero(text) => {
            Err(Invalid::new(Code::InvalidVlan, message()).help(LEADING_ZERO))
        }
        None => Err(Invalid::new(Code::InvalidVlan, message())
            .help("write a number from 1 to 4094, `untagged`, or [outer, inner]")),
    }
}

/// `210` or `untagged`.
pub(crate) fn vlan(text: &str) -> Parsed<VlanTags> {
    if text == "untagged" { Ok(VlanTags::UNTAGGED) } else { vid(text).map(VlanTags::single) }
}

/// An RFC 3339 instant, in milliseconds since the Unix epoch.
pub(crate) fn instant(text: &str) -> Parsed<i64> {
    let invalid = Invalid::new(Code::InvalidTime, format!("{} is not an instant", quoted(text)));
    let date_only = text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok();
    if date_only {
        return Err(invalid.help(format!(
            "a date alone does not say when: write {text}T00:00:00Z, or an offset such as +02:00"
        )));
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(instant) => Ok(instant.as_millisecond()),
        Err(_) if text.parse::<jiff::civil::DateTime>().is_ok() => {
            let text = quoted(text);
            let text = text.trim_matches('`');
            Err(invalid.help(format!("add the offset: {text}Z, or {text}+02:00")))
        }
        Err(_) => Err(invalid.help("write date, time and offset, as 2026-12-01T06:00:00Z")),
    }
}

/// The candidate that `text` was probably meant to be.
pub(crate) fn nearest<'c>(
    text: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    if text.len() > NAME_BYTES {
        return None;
    }
    let allowed = (text.chars().count() / 3).clamp(1, 3);
    let scored = candidates.into_iter().filter(|c| c.len().abs_diff(text.len()) <= allowed);
    scored
        .map(|c| (strsim::osa_distance(&text.to_ascii_lowercase(), c), c))
        .filter(|&(distance, _)| distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}
