//! On which side of the wire a captured frame arrived. A capture does not say.
//!
//! With `--inside`, a frame whose source is one of the named hosts came from inside, every other one
//! from outside; a frame without a network address (LLDP, PROFINET) goes by what the source MAC
//! address was seen to send before, and is from outside while that is nothing.
//!
//! Without it, a host (a MAC address) belongs to the side on which it is first seen, and stays there:
//! the first sender is inside; a host that was sent to from inside is outside and the other way
//! round; a sender of which nothing is known when it sends a broadcast is inside. A frame between two
//! hosts of one side, which a real wire may carry too (a flooded frame), is judged like any other: it
//! arrives on the side of its sender.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

use bulkhead_pipeline::parse::{self, Origin, Parsed};
use bulkhead_pipeline::port::capture::Side;
use bulkhead_rules::headers::{ETHER_ARP, ETHER_IPV4, ETHER_IPV6, Mac, WireId};

/// Hosts that are remembered for one capture. Beyond it, a new host is not, and counts as new
/// each time.
const MAX_HOSTS: usize = 1 << 20;

/// A host, or a network of hosts, that is inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inside {
    /// A network; addresses as in [`bulkhead_rules::headers::Headers`].
    Prefix {
        /// [`ETHER_IPV4`] or [`ETHER_IPV6`].
        ether_type: u16,
        /// The first address.
        network: u128,
        /// One bits where addresses of the network agree.
        mask: u128,
    },
    /// A network interface.
    Mac(Mac),
}

impl FromStr for Inside {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(mac) = parse_mac(text) {
            return Ok(Self::Mac(mac));
        }
        let malformed = || {
            format!(
                "{text:?} is neither an address (10.0.0.1), nor a network (10.0.0.0/8, fd00::/8), \
                 nor a MAC address (02:00:00:00:00:01)"
            )
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let (ether_type, bits, value) = match address {
            IpAddr::V4(v4) => (ETHER_IPV4, 32, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (ETHER_IPV6, 128, v6.to_bits()),
        };
        let length = match length {
            Some(length) => {
                length.parse().ok().filter(|&n: &u32| n <= bits).ok_or_else(malformed)?
            }
            None => bits,
        };
        let host_bits = bits - length;
        let mask = if host_bits == 128 { 0 } else { u128::MAX << host_bits };
        let network = value & mask;
        if network != value {
            let hint = match ether_type {
                ETHER_IPV4 => std::net::Ipv4Addr::from_bits(network as u32).to_string(),
                _ => std::net::Ipv6Addr::from_bits(network).to_string(),
            };
            return Err(format!("{text:?} has host bits: write {hint}/{length}"));
        }
        Ok(Self::Prefix { ether_type, network, mask })
    }
}

fn parse_mac(text: &str) -> Option<Mac> {
    let mut octets = [0; 6];
    let mut parts = text.split([':', '-']);
    for octet in &mut octets {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(octets))
}

/// The sides of the hosts of one capture.
#[derive(Debug, Default)]
pub struct Sides {
    inside: Vec<Inside>,
    hosts: HashMap<Mac, Side>,
}

impl Sides {
    /// Sides by `inside`, or by where hosts are first seen where it is empty.
    pub fn new(inside: &[Inside]) -> Self {
        Self { inside: inside.to_vec(), hosts: HashMap::new() }
    }

    /// The side on which `frame` arrives.
    pub fn of(&mut self, frame: &[u8]) -> Side {
        // The worker drops a frame without a whole header wherever it arrives.
        let Some((dst, rest)) = frame.split_first_chunk::<6>() else { return Side::Inside };
        let Some((src, _)) = rest.split_first_chunk::<6>() else { return Side::Inside };
        let (src, dst) = (Mac(*src), Mac(*dst));
        if self.inside.is_empty() { self.first_seen(src, dst) } else { self.named(src, frame) }
    }

    fn first_seen(&mut self, src: Mac, dst: Mac) -> Side {
        let side = match (self.hosts.get(&src), self.hosts.get(&dst)) {
            (Some(&side), _) => side,
            (None, Some(&side)) => side.opposite(),
            (None, None) => Side::Inside,
        };
        self.remember(src, side);
        if !dst.is_group() {
            self.remember(dst, side.opposite());
        }
        side
    }

    /// The first side that is remembered stays.
    fn remember(&mut self, host: Mac, side: Side) {
        if self.hosts.len() < MAX_HOSTS {
            self.hosts.entry(host).or_insert(side);
        }
    }

    fn named(&mut self, src: Mac, frame: &[u8]) -> Side {
        let side = if self.inside.contains(&Inside::Mac(src)) {
            Side::Inside
        } else {
            match source_address(frame) {
                Some((ether_type, address)) => self.of_address(ether_type, address),
                None => return self.hosts.get(&src).copied().unwrap_or(Side::Outside),
            }
        };
        if self.hosts.len() < MAX_HOSTS || self.hosts.contains_key(&src) {
            self.hosts.insert(src, side);
        }
        side
    }

    fn of_address(&self, sought: u16, address: u128) -> Side {
        let inside = self.inside.iter().any(|inside| match *inside {
            Inside::Prefix { ether_type, network, mask } => {
                ether_type == sought && address & mask == network
            }
            Inside::Mac(_) => false,
        });
        if inside { Side::Inside } else { Side::Outside }
    }
}

/// The EtherType and the address that a frame's sender claims. The unspecified address, of which a
/// host speaks that has none yet, is none.
fn source_address(frame: &[u8]) -> Option<(u16, u128)> {
    let mut parsed = Parsed::default();
    parse::parse_into(frame, WireId(0), Origin::Capture, &mut parsed).ok()?;
    let (ether_type, address) = match parsed.headers.ether_type {
        // RFC 826: the sender's protocol address follows the fixed part and its hardware address.
        ETHER_ARP => {
            let start = usize::from(parsed.network_offset) + 14;
            let octets = frame.get(start..start + 4)?;
            (ETHER_IPV4, octets.iter().fold(0, |value, &octet| (value << 8) | u128::from(octet)))
        }
        _ if parsed.headers.is_ip() => (parsed.headers.ether_type, parsed.headers.src),
        _ => return None,
    };
    (address != 0).then_some((ether_type, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(src: u8, dst: u8) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0x92];
        if dst == 0xff {
            bytes[..6].fill(0xff);
        }
        bytes.resize(60, 0);
        bytes
    }

    #[test]
    fn hosts_stay_where_they_are_first_seen() {
        let mut sides = Sides::new(&[]);
        let expected = [
            ((1, 2), Side::Inside),
            ((2, 1), Side::Outside),
            ((3, 2), Side::Inside),
            ((4, 1), Side::Outside),
            ((5, 0xff), Side::Inside),
            ((1, 3), Side::Inside),  // Both inside: judged all the same.
            ((2, 4), Side::Outside), // Both outside.
            ((1, 2), Side::Inside),
        ];
        for ((src, dst), side) in expected {
            assert_eq!(sides.of(&frame(src, dst)), side, "{src} to {dst}");
        }
        assert_eq!(sides.of(&[1, 2, 3]), Side::Inside);
    }

    #[test]
    fn named_hosts_are_inside_and_all_others_outside() {
        let arp = |last: u8, sender: [u8; 4]| {
            let mut bytes = vec![0xff; 6];
            bytes.extend([2, 0, 0, 0, 0, last, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            bytes.extend([2, 0, 0, 0, 0, last]);
            bytes.extend(sender);
            bytes.extend([0; 6]);
            bytes.extend([10, 0, 0, 9]);
            bytes
        };
        let inside = ["10.1.0.0/16".parse().unwrap(), "02:00:00:00:00:07".parse().unwrap()];
        let mut sides = Sides::new(&inside);
        assert_eq!(sides.of(&frame(1, 2)), Side::Outside, "nothing is known of it yet");
        assert_eq!(sides.of(&arp(1, [10, 1, 255, 1])), Side::Inside);
        assert_eq!(sides.of(&frame(1, 2)), Side::Inside, "it sent from an inside address");
        assert_eq!(sides.of(&arp(2, [10, 2, 0, 1])), Side::Outside);
        assert_eq!(sides.of(&arp(1, [0, 0, 0, 0])), Side::Inside, "a probe has no address");
        assert_eq!(sides.of(&frame(7, 1)), Side::Inside);
        assert_eq!(sides.of(&arp(7, [10, 2, 0, 1])), Side::Inside);
    }

    #[test]
    fn names_of_hosts_parse_or_say_what_is_wrong() {
        let all = Inside::Prefix { ether_type: ETHER_IPV6, network: 0, mask: 0 };
        assert_eq!("::/0".parse(), Ok(all));
        assert_eq!("02-00-00-00-00-0A".parse(), Ok(Inside::Mac(Mac([2, 0, 0, 0, 0, 10]))));
        let host = |text: &str| text.parse::<Inside>().unwrap();
        assert_eq!(host("10.0.0.1"), host("10.0.0.1/32"));
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "02:00:00:00:00", "fd00::/x", "plc-7"] {
            let error = wrong.parse::<Inside>().unwrap_err();
            assert!(error.contains("is neither an address"), "{error}");
        }
        assert_eq!(
            "10.1.2.3/16".parse::<Inside>().unwrap_err(),
            "\"10.1.2.3/16\" has host bits: write 10.1.0.0/16"
        );
    }
}
