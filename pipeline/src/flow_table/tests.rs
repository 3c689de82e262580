use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, Mac, VlanTags, WireId, protocol};
use bulkhead_rules::policy::RuleId;

use super::*;
use crate::conntrack::{Connection, Direction};
use crate::parse::{Kind, Parsed};

const SECOND: u64 = 1_000_000_000;

fn udp(src: u128, sport: u16, dst: u128, dport: u16) -> Parsed {
    let headers = Headers {
        src,
        dst,
        src_port: sport,
        dst_port: dport,
        ether_type: if src >> 32 == 0 { ETHER_IPV4 } else { ETHER_IPV6 },
        protocol: protocol::UDP,
        wire: WireId(3),
        tags: VlanTags::single(30),
        src_mac: Mac([2, 0, 0, 0, 0, 1]),
        dst_mac: Mac([2, 0, 0, 0, 0, 2]),
    };
    Parsed { headers, kind: Kind::Other, flow_ports: (sport, dport), ..Parsed::default() }
}

fn new_flow(parsed: &Parsed, initiator: End) -> NewFlow {
    NewFlow {
        initiator,
        headers: parsed.headers,
        rule: RuleId(7),
        epoch: 1,
        permitted: true,
        mac_sensitive: false,
        connection: Connection::of_first(parsed, None).unwrap(),
    }
}

fn table(capacity: usize) -> FlowTable {
    let config = FlowTableConfig { capacity, seed: Some([1, 2, 3, 4]), ..Default::default() };
    FlowTable::new(&config)
}

#[test]
fn both_directions_meet_one_entry_that_knows_its_initiator() {
    for (src, dst) in [(0x0a00_0001, 0x0a00_0002), (9_u128 << 100, 5_u128 << 100)] {
        let mut table = table(1024);
        let there = udp(src, 40_000, dst, 53);
        let back = udp(dst, 53, src, 40_000);
        let (key, sender) = FlowKey::of(&there, 0);
        let (back_key, answerer) = FlowKey::of(&back, 0);
        assert_eq!(key, back_key);
        assert_eq!(sender, answerer.opposite());
        let hash = table.hash(&key);
        assert_eq!(table.find(hash, &key, 0), None);
        let index = table.insert(hash, &key, new_flow(&there, sender), 0).unwrap();
        assert_eq!(table.find(hash, &back_key, SECOND), Some(index));
        let entry = table.entry(index);
        assert_eq!(entry.direction(sender), Direction::FromInitiator);
        assert_eq!(entry.direction(answerer), Direction::FromResponder);
        assert_eq!(entry.initiator_headers(), there.headers);
        assert_eq!(table.len(), 1);
        table.remove(index);
        assert_eq!(table.find(hash, &key, 0), None);
    }
}
