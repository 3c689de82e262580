//! DHCP as far as it binds addresses: RFC 2131 and 2132 for IPv4, RFC 8415 for IPv6.
//!
//! What a relay and a server say to each other is not read: clients hear from the relay what counts.

use std::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use bulkhead_rules::headers::Mac;

/// The most addresses of one DHCPv6 message that are heeded. Clients have one, rarely two.
pub const MAX_ADDRESSES: usize = 4;

/// A lease that never ends, in seconds.
pub const INFINITE_S: u32 = u32::MAX;

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message<A> {
    /// A client speaks, whatever it wants.
    Client,
    /// A client gives its addresses back.
    Release(Leases<A>),
    /// A client will not use these addresses: another host does.
    Decline(Leases<A>),
    /// A server lets a client use addresses.
    Ack(Leases<A>),
}

/// Addresses, and for how many seconds each is leased.
pub type Leases<A> = ArrayVec<(A, u32), MAX_ADDRESSES>;

/// A DHCPv4 message with its transaction identifier and the hardware address of the client that it is
/// from or to; [`None`] where it is none of Ethernet, is malformed, or says nothing about addresses.
pub fn parse_v4(message: &[u8]) -> Option<(Mac, u32, Message<Ipv4Addr>)> {
    const REQUEST: u8 = 1;
    const REPLY: u8 = 2;
    const DECLINE: u8 = 4;
    const ACK: u8 = 5;
    const RELEASE: u8 = 7;
    let (head, options) = message.split_first_chunk::<V4_HEAD_LEN>()?;
    let is_ethernet = head[1] == 1 && head[2] == 6;
    if !is_ethernet || head[236..] != [0x63, 0x82, 0x53, 0x63] {
        return None;
    }
    let address = |at: usize| {
        let bytes: [u8; 4] = head[at..at + 4].try_into().unwrap_or_default();
        Ipv4Addr::from(bytes)
    };
    let xid = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let client = Mac([head[28], head[29], head[30], head[31], head[32], head[33]]);
    let found = V4Options::read(options)?;
    let one = |address: Ipv4Addr, lease_s| {
        let mut leases = Leases::new();
        leases.push((address, lease_s));
        leases
    };
    let said = match (head[0], found.message_type?) {
        (REPLY, ACK) => Message::Ack(one(address(16), found.lease_s?)),
        (REQUEST, RELEASE) => Message::Release(one(address(12), 0)),
        (REQUEST, DECLINE) => Message::Decline(one(found.requested?, 0)),
        (REQUEST, _) => Message::Client,
        _ => return None,
    };
    Some((client, xid, said))
}

/// A DHCPv6 message with its transaction identifier of 24 bits; [`None`] where it is malformed, a
/// relay's, or says nothing about addresses.
pub fn parse_v6(message: &[u8]) -> Option<(u32, Message<Ipv6Addr>)> {
    const SOLICIT: u8 = 1;
    const REQUEST: u8 = 3;
    const REBIND: u8 = 6;
    const REPLY: u8 = 7;
    const RELEASE: u8 = 8;
    const DECLINE: u8 = 9;
    const INFORMATION_REQUEST: u8 = 11;
    let (head, options) = message.split_first_chunk::<4>()?;
    let xid = u32::from_be_bytes([0, head[1], head[2], head[3]]);
    let mut leases = Leases::new();
    let said = match head[0] {
        REPLY => {
            v6_addresses(options, &mut leases)?;
            (!leases.is_empty()).then_some(Message::Ack(leases))?
        }
        RELEASE => {
            v6_addresses(options, &mut leases)?;
            Message::Release(leases)
        }
        DECLINE => {
            v6_addresses(options, &mut leases)?;
            Message::Decline(leases)
        }
        SOLICIT | REQUEST..=REBIND | INFORMATION_REQUEST => Message::Client,
        _ => return None,
    };
    Some((xid, said))
}

/// The fixed fields, and the magic cookie before the options.
const V4_HEAD_LEN: usize = 240;

/// What is heeded of a message's options.
#[derive(Default)]
struct V4Options {
    message_type: Option<u8>,
    requested: Option<Ipv4Addr>,
    lease_s: Option<u32>,
}

impl V4Options {
    /// [`None`] where they are cut short.
    fn read(mut rest: &[u8]) -> Option<Self> {
        const PAD: u8 = 0;
        const REQUESTED_ADDRESS: u8 = 50;
        const LEASE_TIME: u8 = 51;
        const MESSAGE_TYPE: u8 = 53;
        const END: u8 = 255;
        let mut found = Self::default();
        while let [code, after @ ..] = rest {
            match *code {
                PAD => {
                    rest = after;
                    continue;
                }
                END => break,
                _ => {}
            }
            let (len, after) = after.split_first()?;
            let (value, after) = after.split_at_checked(usize::from(*len))?;
            rest = after;
            let four = || <[u8; 4]>::try_from(value).ok();
            match *code {
                REQUESTED_ADDRESS => found.requested = Some(Ipv4Addr::from(four()?)),
                LEASE_TIME => found.lease_s = Some(u32::from_be_bytes(four()?)),
                MESSAGE_TYPE => {
                    let [kind] = *value else { return None };
                    found.message_type = Some(kind);
                }
                _ => {}
            }
        }
        Some(found)
    }
}

/// The addresses of all associations, temporary ones too.
fn v6_addresses(options: &[u8], out: &mut Leases<Ipv6Addr>) -> Option<()> {
    const IA_NA: u16 = 3;
    const IA_TA: u16 = 4;
    const IA_ADDRESS: u16 = 5;
    each_v6_option(options, |code, value| {
        // Before its options an association has an identifier and, not if temporary, two times.
        let head_len = match code {
            IA_NA => 12,
            IA_TA => 4,
            _ => return Some(()),
        };
        each_v6_option(value.get(head_len..)?, |code, value| {
            if code != IA_ADDRESS {
                return Some(());
            }
            let address = Ipv6Addr::from(*value.first_chunk::<16>()?);
            let valid_s = u32::from_be_bytes(*value.get(20..)?.first_chunk::<4>()?);
            let _ = out.try_push((address, valid_s));
            Some(())
        })
    })
}

/// Calls `each` with every option; [`None`] where one is cut short or `each` says so.
fn each_v6_option(mut rest: &[u8], mut each: impl FnMut(u16, &[u8]) -> Option<()>) -> Option<()> {
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let code = u16::from_be_bytes([head[0], head[1]]);
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, after) = after.split_at_checked(len)?;
        each(code, value)?;
        rest = after;
    }
    rest.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const XID: u32 = 0x0102_0304;

    fn v4(op: u8, ciaddr: [u8; 4], yiaddr: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; V4_HEAD_LEN];
        message[..3].copy_from_slice(&[op, 1, 6]);
        message[4..8].copy_from_slice(&XID.to_be_bytes());
        message[12..16].copy_from_slice(&ciaddr);
        message[16..20].copy_from_slice(&yiaddr);
        message[28..34].copy_from_slice(&CLIENT.0);
        message[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        message.extend(options);
        message
    }

    fn lease<A>(address: A, lease_s: u32) -> Leases<A> {
        [(address, lease_s)].into_iter().collect()
    }

    #[test]
    fn version_4_acknowledgements_releases_and_declines_are_read() {
        let ack = v4(2, [0; 4], [10, 0, 0, 9], &[0, 53, 1, 5, 51, 4, 0, 0, 14, 16, 255, 99]);
        let address = Ipv4Addr::new(10, 0, 0, 9);
        assert_eq!(parse_v4(&ack), Some((CLIENT, XID, Message::Ack(lease(address, 3600)))));
        let release = v4(1, [10, 0, 0, 9], [0; 4], &[53, 1, 7]);
        assert_eq!(parse_v4(&release), Some((CLIENT, XID, Message::Release(lease(address, 0)))));
        let decline = v4(1, [0; 4], [0; 4], &[53, 1, 4, 50, 4, 10, 0, 0, 9, 255]);
        assert_eq!(parse_v4(&decline), Some((CLIENT, XID, Message::Decline(lease(address, 0)))));
        let discover = v4(1, [0; 4], [0; 4], &[53, 1, 1, 255]);
        assert_eq!(parse_v4(&discover), Some((CLIENT, XID, Message::Client)));
    }

    #[test]
    fn version_4_messages_that_bind_nothing_are_none() {
        // An acknowledgement of DHCPINFORM has no lease, an offer is not taken yet.
        assert_eq!(parse_v4(&v4(2, [0; 4], [0; 4], &[53, 1, 5, 255])), None);
        let lease_s = [51, 4, 0, 0, 0, 60, 255];
        assert_eq!(parse_v4(&v4(2, [0; 4], [1; 4], &[&[53, 1, 2][..], &lease_s].concat())), None);
        assert_eq!(parse_v4(&v4(2, [0; 4], [1; 4], &lease_s)), None, "BOOTP");
        // A client that poses as a server, and the other way round.
        assert_eq!(parse_v4(&v4(2, [0; 4], [1; 4], &[53, 1, 7, 255])), None);
        let mut other = v4(2, [0; 4], [1; 4], &[53, 1, 5, 51, 4, 0, 0, 0, 60, 255]);
        assert!(parse_v4(&other).is_some());
        other[2] = 16;
        assert_eq!(parse_v4(&other), None, "no Ethernet address");
    }

    #[test]
    fn whatever_is_cut_short_is_none() {
        let whole = v4(2, [0; 4], [10, 0, 0, 9], &[53, 1, 5, 51, 4, 0, 0, 14, 16]);
        for len in 0..whole.len() {
            assert_eq!(parse_v4(&whole[..len]), None, "{len} bytes");
        }
        let whole = v6(7, &[association(3, 12, &[(9, 60)])]);
        for len in 1..whole.len() {
            assert_eq!(parse_v6(&whole[..len]), None, "{len} bytes");
        }
    }

    fn v6(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
        [&[kind, 1, 2, 3][..], &options.concat()].concat()
    }

    fn option(code: u16, value: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
    }

    fn association(code: u16, head_len: usize, addresses: &[(u8, u32)]) -> Vec<u8> {
        let mut value = vec![0; head_len];
        for &(last, valid_s) in addresses {
            let mut address = vec![0; 24];
            (address[0], address[1], address[15]) = (0xfd, 0, last);
            address[20..].copy_from_slice(&valid_s.to_be_bytes());
            value.extend(option(5, &address));
        }
        option(code, &value)
    }

    fn address(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
    }

    #[test]
    fn version_6_addresses_of_every_association_are_read() {
        let options = [
            option(1, &[0, 3, 0, 1]),
            association(3, 12, &[(1, 60), (2, INFINITE_S)]),
            association(4, 4, &[(3, 90)]),
        ];
        let all: Leases<_> =
            [(address(1), 60), (address(2), INFINITE_S), (address(3), 90)].into_iter().collect();
        assert_eq!(parse_v6(&v6(7, &options)), Some((0x01_0203, Message::Ack(all.clone()))));
        assert_eq!(parse_v6(&v6(8, &options)), Some((0x01_0203, Message::Release(all.clone()))));
        assert_eq!(parse_v6(&v6(9, &options)), Some((0x01_0203, Message::Decline(all))));
        assert_eq!(parse_v6(&v6(1, &options)), Some((0x01_0203, Message::Client)));
    }

    #[test]
    fn version_6_messages_that_bind_nothing_are_none() {
        assert_eq!(parse_v6(&v6(7, &[option(13, &[0, 0])])), None, "an answer to a release");
        assert_eq!(parse_v6(&v6(2, &[association(3, 12, &[(1, 60)])])), None, "an offer");
        for relayed in [12, 13] {
            assert_eq!(parse_v6(&v6(relayed, &[])), None);
        }
    }

    #[test]
    fn more_addresses_than_are_heeded_do_no_harm() {
        let many: Vec<(u8, u32)> = (0..20).map(|last| (last, 60)).collect();
        let Some((_, Message::Ack(leases))) = parse_v6(&v6(7, &[association(3, 12, &many)])) else {
            panic!("an acknowledgement")
        };
        assert_eq!(leases.len(), MAX_ADDRESSES);
    }
}
