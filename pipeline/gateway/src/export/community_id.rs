//! Community ID, version 1: the name of a flow that other tools (Zeek, Suricata, Wireshark) give it,
//! too. Seed 0.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bulkhead_rules::headers::protocol;
use sha1::{Digest, Sha1};

/// The identifier of a flow, or of none where addresses are of two kinds. Ports are those of TCP, UDP
/// and SCTP; for ICMP `server_port` has the type in its upper, the code in its lower byte. Other
/// protocols have none.
pub fn of(
    ip_protocol: u8,
    (client, client_port): (IpAddr, u16),
    (server, server_port): (IpAddr, u16),
) -> Option<String> {
    if client.is_ipv4() != server.is_ipv4() {
        return None;
    }
    let mut is_one_way = false;
    let ports = match ip_protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => Some((client_port, server_port)),
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, code] = server_port.to_be_bytes();
            let counterpart = counterpart(ip_protocol, kind);
            is_one_way = counterpart.is_none();
            Some((u16::from(kind), u16::from(counterpart.unwrap_or(code))))
        }
        _ => None,
    };
    let (low, high) = ports.unwrap_or_default();
    let in_order = is_one_way || (client, low) <= (server, high);
    let ((first, first_port), (second, second_port)) =
        if in_order { ((client, low), (server, high)) } else { ((server, high), (client, low)) };
    let mut hash = Sha1::new();
    hash.update([0, 0]);
    for address in [first, second] {
        match address {
            IpAddr::V4(address) => hash.update(address.octets()),
            IpAddr::V6(address) => hash.update(address.octets()),
        }
    }
    hash.update([ip_protocol, 0]);
    if ports.is_some() {
        hash.update(first_port.to_be_bytes());
        hash.update(second_port.to_be_bytes());
    }
    Some(format!("1:{}", STANDARD.encode(hash.finalize())))
}

/// The ICMP type that answers, or asks for, messages of this one.
fn counterpart(ip_protocol: u8, kind: u8) -> Option<u8> {
    let pairs: &[(u8, u8)] = if ip_protocol == protocol::ICMP {
        &[(8, 0), (13, 14), (15, 16), (10, 9), (17, 18)]
    } else {
        &[(128, 129), (133, 134), (135, 136), (130, 131), (139, 140), (144, 145)]
    };
    pairs.iter().find_map(|&(a, b)| match kind {
        _ if kind == a => Some(b),
        _ if kind == b => Some(a),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ip_protocol: u8, client: (&str, u16), server: (&str, u16)) -> String {
        let end = |(address, port): (&str, u16)| match address.parse() {
            Ok(address) => (address, port),
            Err(error) => panic!("{error}"),
        };
        of(ip_protocol, end(client), end(server)).unwrap_or_default()
    }

    /// Vectors of the specification.
    #[test]
    fn it_is_what_other_tools_say() {
        for (ip_protocol, client, server, expected) in [
            (
                6,
                ("128.232.110.120", 34855),
                ("66.35.250.204", 80),
                "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
            ),
            (17, ("192.168.1.52", 54585), ("8.8.8.8", 53), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
            (132, ("192.168.170.8", 7), ("192.168.170.56", 7), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
            (
                6,
                ("2001:470:e5bf:dead:4957:2174:e82c:4887", 63943),
                ("2607:f8b0:400c:c03::1a", 25),
                "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
            ),
        ] {
            assert_eq!(id(ip_protocol, client, server), expected);
            assert_eq!(id(ip_protocol, server, client), expected, "the other way round");
        }
        let echo = |client, server, kind: u16| id(58, (client, 0), (server, kind << 8));
        let (a, b) = ("3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:501:0:1001::2");
        assert_eq!(echo(a, b, 128), "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=");
        assert_eq!(echo(b, a, 129), "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=");
        let ping = id(1, ("192.168.0.89", 0), ("192.168.0.1", 8 << 8));
        assert_eq!(ping, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=");
    }

    #[test]
    fn addresses_of_two_kinds_are_no_flow() {
        let (one, other) = (IpAddr::from([1, 2, 3, 4]), IpAddr::from([0_u16; 8]));
        assert_eq!(of(6, (one, 1), (other, 2)), None);
    }
}
