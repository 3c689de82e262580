//! What holds for every DHCP message whatsoever. The fuzz target of DHCP checks the same.

use bulkhead_pipeline::bindings::dhcp::{MAX_ADDRESSES, Message, parse_v4, parse_v6};
use bulkhead_pipeline::bindings::observation::{is_possible, observe};
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::parse::parse;
use bulkhead_pipeline::snapshot::{Mode, Sides, WirePolicy};
use bulkhead_rules::headers::{Mac, WireId};

const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 7]);
const SERVER: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// Reads a message by itself and as what a client and a server send, and panics where the readings
/// contradict each other or the message.
pub(crate) fn check(message: &[u8]) {
    if message.len() > 1400 {
        return;
    }
    if let Some((client, _, said)) = parse_v4(message) {
        assert_eq!(message[28..34], client.0);
        assert!(matches!(said, Message::Client) || count(&said) == 1);
    }
    let said = parse_v6(message);
    assert!(said.as_ref().is_none_or(|(_, said)| count(said) <= MAX_ADDRESSES));
    let (v4, v6) = (
        ([10, 0, 0, 7], [10, 0, 0, 1]),
        ([0xfe80, 0, 0, 0, 0, 0, 0, 7], [0xfe80, 0, 0, 0, 0, 0, 0, 1]),
    );
    let of_client = FrameBuilder::new().macs(CLIENT, SERVER);
    let of_server = FrameBuilder::new().macs(SERVER, CLIENT);
    let frames = [
        (of_client.clone().ip(v4.0, v4.1).udp(68, 67), false),
        (of_server.clone().ip(v4.1, v4.0).udp(67, 68), true),
        (of_client.ip(v6.0, v6.1).udp(546, 547), false),
        (of_server.ip(v6.1, v6.0).udp(547, 546), true),
    ];
    let wire = WirePolicy { dhcp_servers: Sides::OUTSIDE, ..WirePolicy::new(Mode::Enforce, 0) };
    for (frame, is_of_server) in frames {
        let frame = frame.payload(message).build();
        let Ok(parsed) = parse(&frame, WireId(0)) else { panic!("a sound frame does not parse") };
        for from_inside in [true, false] {
            for claim in observe(&frame, &parsed, &wire, from_inside) {
                assert!(!claim.mac.is_group());
                assert_eq!(claim.kind.is_of_server(), is_of_server);
                if is_of_server {
                    assert!(!from_inside && claim.inside, "servers are outside, clients inside");
                    assert!(is_possible(claim.address));
                } else {
                    assert_eq!((claim.mac, claim.inside), (CLIENT, from_inside));
                }
            }
        }
    }
}

fn count<A>(said: &Message<A>) -> usize {
    match said {
        Message::Client => 0,
        Message::Ack(leases) | Message::Release(leases) | Message::Decline(leases) => leases.len(),
    }
}
