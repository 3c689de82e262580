//! Which packets, in words: the packets of `bulkhead explain` with holes.
//!
//! `tcp 10.20.0.0/16 -> 10.30.3.11:502 vlan 30 wire line3 drop`. Conditions come in any order and all
//! must hold. With `->` the first host is the source; with `<->`, with one host or with none, either may
//! be.

use std::net::IpAddr;

use bulkhead_pipeline::trace::{End, Filter, Outcome};
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_rules::headers::{ETHER_ARP, ETHER_IPV4, ETHER_IPV6, VlanTags, WireId, protocol};
use bulkhead_rules::packet::{mac, protocol_number};

use crate::diagnostic::did_you_mean;

/// The most characters of a filter.
const MAX_CHARACTERS: usize = 1_000;

/// Reasons that are known too late for a filter, or of frames that workers never see.
const TOO_LATE: [DropReason; 3] =
    [DropReason::TransmitFull, DropReason::Shutdown, DropReason::Multisegment];

/// A filter, read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Words {
    /// What workers compare.
    pub filter: Filter,
    /// The name of the rule that is asked for.
    pub rule: Option<String>,
}

/// Reads a filter. `wires` are the names of the configuration's wires, in their order.
///
/// # Errors
///
/// The word that makes no sense, and what would.
pub fn read(text: &str, wires: &[&str]) -> Result<Words, String> {
    if text.chars().count() > MAX_CHARACTERS {
        return Err(format!("a filter has {MAX_CHARACTERS} characters at most"));
    }
    let spaced = text.replace("<->", " <-> ").replace("<>", " <-> ").replace(['→', '⇒'], " -> ");
    let spaced = match spaced.contains("<->") {
        true => spaced,
        false => spaced.replace("->", " -> ").replace("=>", " -> "),
    };
    let mut draft = Draft { wires, ends: Vec::new(), arrow: None, words: Words::default() };
    let mut words = spaced.split_whitespace();
    while let Some(word) = words.next() {
        draft.word(word, &mut words)?;
    }
    draft.finish()
}

struct Draft<'a> {
    wires: &'a [&'a str],
    ends: Vec<End>,
    /// Whether the arrow points both ways.
    arrow: Option<bool>,
    words: Words,
}

impl Draft<'_> {
    fn word<'w>(
        &mut self,
        word: &str,
        rest: &mut impl Iterator<Item = &'w str>,
    ) -> Result<(), String> {
        let mut after = |what: &str| rest.next().ok_or_else(|| format!("`{word}` needs {what}"));
        let lower = word.to_ascii_lowercase();
        let filter = &mut self.words.filter;
        match lower.as_str() {
            "from" | "and" | "host" => {}
            "->" | "to" => self.arrow = Some(false),
            "<->" => self.arrow = Some(true),
            "wire" | "on" => {
                let name = after("its name")?;
                let index = self.wires.iter().position(|wire| *wire == name);
                let index = index.ok_or_else(|| no_wire(name, self.wires))?;
                filter.wire = Some(WireId(u16::try_from(index).unwrap_or(u16::MAX)));
            }
            "side" => filter.from_inside = Some(side(after("inside or outside")?)?),
            "vlan" => filter.tags = Some(tags(after("its number, or outer.inner")?)?),
            "untagged" => filter.tags = Some(VlanTags::UNTAGGED),
            "rule" => {
                self.words.rule = Some(after("its name, or default")?.to_owned());
                filter.by_rule = true;
            }
            "forward" | "allow" | "pass" => self.outcome(Outcome::Forward)?,
            "drop" | "deny" => self.outcome(Outcome::Drop)?,
            "reject" => self.outcome(Outcome::Reject)?,
            "reason" => {
                let reason = reason(after("a drop reason such as tcp_window")?)?;
                self.outcome(Outcome::Reason(reason))?;
            }
            "port" => {
                let port = number(after("its number")?)?;
                self.words.filter.to.port = Some(port);
            }
            "from-mac" | "src-mac" => filter.from.mac = Some(mac_of(after("a MAC address")?)?),
            "to-mac" | "dst-mac" => filter.to.mac = Some(mac_of(after("a MAC address")?)?),
            _ => return self.host_or_protocol(&lower),
        }
        Ok(())
    }

    fn outcome(&mut self, outcome: Outcome) -> Result<(), String> {
        match self.words.filter.outcome {
            Outcome::Any => {
                self.words.filter.outcome = outcome;
                Ok(())
            }
            _ => Err("say one of forward, drop, reject and reason".to_owned()),
        }
    }

    fn host_or_protocol(&mut self, word: &str) -> Result<(), String> {
        if let Some(end) = end(word)? {
            if self.ends.len() == 2 {
                return Err(format!("a packet has two hosts; `{word}` is a third"));
            }
            self.ends.push(end);
            return Ok(());
        }
        let (name, rest) = match word.split_once('/') {
            Some((name, rest)) => (name, Some(rest)),
            None => (word, None),
        };
        let filter = &mut self.words.filter;
        if filter.protocol.is_some() || filter.ether_type.is_some() {
            return Err(format!("`{word}` makes no sense here: {EXAMPLE}"));
        }
        if let Some(number) = protocol_number(name) {
            filter.protocol = Some(number);
            if let Some(port) = rest {
                if !matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP) {
                    return Err(format!("{name} has no ports: `/{port}` is too much"));
                }
                filter.to.port = Some(self::number(port)?);
            }
            return Ok(());
        }
        match (name, rest) {
            ("ip", Some(rest)) => filter.protocol = Some(number(rest)?),
            ("ip" | "ipv4", None) => filter.ether_type = Some(ETHER_IPV4),
            ("ipv6", None) => filter.ether_type = Some(ETHER_IPV6),
            ("arp", None) => filter.ether_type = Some(ETHER_ARP),
            ("eth" | "llc", Some(rest)) => filter.ether_type = Some(number(rest)?),
            _ => return Err(format!("`{word}` makes no sense here: {EXAMPLE}")),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Words, String> {
        let filter = &mut self.words.filter;
        let mut ends = self.ends.into_iter();
        for (place, end) in [&mut filter.from, &mut filter.to].into_iter().zip(&mut ends) {
            // A port, or a MAC address, may have come by itself.
            place.prefix = end.prefix;
            place.mac = end.mac.or(place.mac);
            place.port = end.port.or(place.port);
        }
        filter.both_ways = self.arrow.unwrap_or(true);
        Ok(self.words)
    }
}

const EXAMPLE: &str = "write for example `tcp 10.20.0.0/16 -> 10.30.3.11:502 wire line3 drop`; hosts are \
                       addresses, prefixes, MAC addresses or any (names of devices and groups have no \
                       meaning here)";

/// An end: `any`, an address or a prefix, with or without a port, or a MAC address.
fn end(word: &str) -> Result<Option<End>, String> {
    if let Some(mac) = mac(word) {
        return Ok(Some(End { mac: Some(mac), ..End::default() }));
    }
    let (host, port) = match word.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or("a `]` is missing")?;
            (host, rest.strip_prefix(':'))
        }
        None if word.matches(':').count() > 1 => (word, None),
        None => match word.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (word, None),
        },
    };
    let prefix = match host {
        "any" | "*" | "" => None,
        _ => match prefix(host)? {
            Some(prefix) => Some(prefix),
            None => return Ok(None),
        },
    };
    let port = match port {
        Some("any" | "*") | None => None,
        Some(port) => Some(number(port)?),
    };
    Ok(Some(End { prefix, mac: None, port }))
}

/// The family, the address and the mask of an address or a prefix; nothing where it is none.
fn prefix(text: &str) -> Result<Option<(u16, u128, u128)>, String> {
    let (addr, len) = match text.split_once('/') {
        Some((addr, len)) => (addr, Some(len)),
        None => (text, None),
    };
    let Ok(addr) = addr.parse::<IpAddr>() else { return Ok(None) };
    let (family, bits, width) = match addr {
        IpAddr::V4(addr) => (ETHER_IPV4, u128::from(addr.to_bits()), 32_u32),
        IpAddr::V6(addr) => (ETHER_IPV6, addr.to_bits(), 128),
    };
    let len = len.map_or(Ok(width), number::<u32>)?;
    if len > width {
        return Err(format!("`{text}`: a prefix of that family has {width} bits at most"));
    }
    let ones = u128::MAX.checked_shr(128 - width).unwrap_or(0);
    let mask = ones & !ones.checked_shr(len).unwrap_or(0);
    if bits & !mask != 0 {
        return Err(format!("`{text}` has bits beyond its length: is it an address?"));
    }
    Ok(Some((family, bits, mask)))
}

fn number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let number = parsed.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("`{text}` is no number that may stand here"))
}

fn mac_of(text: &str) -> Result<bulkhead_rules::headers::Mac, String> {
    let example = "write one such as 02:1b:1d:00:30:01";
    mac(&text.to_ascii_lowercase()).ok_or_else(|| format!("`{text}` is no MAC address; {example}"))
}

fn tags(text: &str) -> Result<VlanTags, String> {
    let vid = |text: &str| number::<u16>(text).ok().filter(|vid| (1..=4094).contains(vid));
    let tags = match text.split_once('.') {
        _ if text == "untagged" => Some(VlanTags::UNTAGGED),
        None => vid(text).map(VlanTags::single),
        Some((outer, inner)) => {
            vid(outer).zip(vid(inner)).map(|(outer, inner)| VlanTags { outer, inner })
        }
    };
    tags.ok_or_else(|| format!("`{text}` is no VLAN: write 1 to 4094, 100.30 for two tags"))
}

fn side(text: &str) -> Result<bool, String> {
    match text {
        "inside" => Ok(true),
        "outside" => Ok(false),
        _ => Err(format!("`{text}` is no side of a wire: write inside or outside")),
    }
}

fn reason(text: &str) -> Result<DropReason, String> {
    let label = text.to_ascii_lowercase().replace('-', "_");
    let found = DropReason::ALL.iter().copied().find(|reason| reason.label() == label);
    let Some(reason) = found else {
        let known = DropReason::ALL.iter().map(|reason| reason.label());
        let near = did_you_mean(&label, known);
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        return Err(format!("`{text}` is no drop reason{near}"));
    };
    if TOO_LATE.contains(&reason) {
        return Err(format!(
            "`{label}` comes after a packet is judged: trace without it and look at what became of \
             each"
        ));
    }
    Ok(reason)
}

fn no_wire(name: &str, wires: &[&str]) -> String {
    match did_you_mean(name, wires.iter().copied()) {
        Some(near) => format!("there is no wire `{name}`; did you mean `{near}`?"),
        None => format!("there is no wire `{name}`: there are {}", wires.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        read(text, &["line2", "line3"]).unwrap_or_else(|error| panic!("{text}: {error}")).filter
    }

    #[test]
    fn hosts_and_arrows() {
        let f = filter("tcp 10.20.0.11:40000 -> 10.30.0.0/16:502");
        assert_eq!(f.protocol, Some(protocol::TCP));
        assert_eq!((f.from.port, f.to.port, f.both_ways), (Some(40_000), Some(502), false));
        assert_eq!(f.to.prefix, Some((ETHER_IPV4, 0x0a1e_0000, 0xffff_0000)));
        assert_eq!(f.from.prefix, Some((ETHER_IPV4, 0x0a14_000b, 0xffff_ffff)));
        assert!(filter("tcp 10.0.0.1<->any:502").both_ways);
        assert!(filter("10.0.0.1").both_ways && filter("tcp/502").both_ways);
        assert_eq!(filter("tcp/502").to.port, Some(502));
        let f = filter("udp [fd00::1]:53 -> fd00:30::/32");
        assert_eq!((f.from.port, f.to.port), (Some(53), None));
        assert_eq!(f.to.prefix.map(|(_, _, mask)| mask.leading_ones()), Some(32));
        let f = filter("eth/0x8892 02:00:00:00:00:01 -> any");
        assert!(f.from.mac.is_some() && f.to == End::default());
        assert_eq!(filter(""), Filter { both_ways: true, ..Filter::default() });
        assert_eq!(filter("::/0").from.prefix, Some((ETHER_IPV6, 0, 0)));
    }

    #[test]
    fn everything_else() {
        let f = filter("wire line3 side inside vlan 100.30 reason tcp-window");
        assert_eq!((f.wire, f.from_inside), (Some(WireId(1)), Some(true)));
        assert_eq!(f.tags, Some(VlanTags { outer: 100, inner: 30 }));
        assert_eq!(f.outcome, Outcome::Reason(DropReason::TcpWindow));
        let words = read("arp rule hmi-to-plc", &[]).unwrap();
        assert_eq!((words.rule.as_deref(), words.filter.by_rule), (Some("hmi-to-plc"), true));
        assert_eq!(words.filter.ether_type, Some(ETHER_ARP));
    }

    #[test]
    fn mistakes_say_what_would_do() {
        for (text, message) in [
            ("tcp plc-7", "names of devices"),
            ("wire line4", "did you mean `line3`?"),
            ("reason tcp_windw", "did you mean `tcp_window`?"),
            ("reason transmit_full", "after a packet is judged"),
            ("10.0.0.1 10.0.0.2 10.0.0.3", "a third"),
            ("10.0.0.1/8", "bits beyond"),
            ("10.0.0.0/33", "32 bits at most"),
            ("icmp/8", "no ports"),
            ("vlan 4095", "no VLAN"),
            ("tcp udp", "no sense"),
            ("port", "`port` needs"),
            ("drop reject", "say one of"),
            ("any:70000", "no number"),
        ] {
            let error = read(text, &["lab", "line3"]).expect_err(text);
            assert!(error.contains(message), "{text}: {error}");
        }
        assert!(read(&"x ".repeat(600), &[]).is_err());
    }
}
