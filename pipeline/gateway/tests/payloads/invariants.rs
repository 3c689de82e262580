//! What holds for every payload whatsoever. The fuzz target of payloads checks the same.

use std::net::{IpAddr, Ipv4Addr};

use bulkhead_gateway::learning::announce::{self, Datagram, Fact, MAX_FACTS, MAX_NAME_BYTES};
use bulkhead_gateway::learning::application::{Payload, Transport, recognise};
use bulkhead_rules::headers::Mac;

/// Ports that somebody speaks at, and one that nobody does.
const PORTS: [u16; 12] = [53, 67, 68, 102, 123, 137, 502, 5353, 5355, 44_818, 47_808, 40_000];

/// Reads a payload as everything that it could be, and panics where a name could not be shown or
/// there are more of them than there may be.
pub(crate) fn check(bytes: &[u8]) {
    for port in PORTS {
        for transport in [Transport::Tcp, Transport::Udp] {
            // As it is, and as a copy of something longer.
            for len in [bytes.len(), bytes.len() + 1000] {
                let (to, from) = ((40_001, port), (port, 40_001));
                for (src_port, dst_port) in [to, from] {
                    recognise(&Payload { transport, src_port, dst_port, bytes, len });
                }
            }
        }
        let src = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));
        let (payload, dst_port) = (bytes, 68);
        check_facts(&announce::of_datagram(&Datagram { src, src_port: port, dst_port, payload }));
    }
    check_facts(&announce::of_lldp(Mac([2, 0, 0, 0, 0, 1]), bytes));
}

fn check_facts(facts: &[Fact]) {
    assert!(facts.len() <= MAX_FACTS, "{} facts", facts.len());
    for fact in facts {
        if let Fact::Name { name, .. } = fact {
            let printable = name.bytes().all(|byte| (0x20..0x7f).contains(&byte));
            assert!(printable && (1..=MAX_NAME_BYTES).contains(&name.len()), "{name:?}");
        }
    }
}
