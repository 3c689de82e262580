//! The flows of a case, and frames for them.

use std::collections::HashSet;
use std::io;

use bulkhead_pipeline::checksum;
use bulkhead_pipeline::frames::{MIN_FRAME_LEN, tcp_flags};
use bulkhead_pipeline::parse::parse;
use bulkhead_rules::classifier::{Classifier, MAX_BATCH, Scratch};
use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6, Headers, PolicyTime, WireId, protocol};
use bulkhead_rules::policy::{Action, Policy, RuleId};

use crate::classbench::Family;
use crate::random::{Random, mix};
use crate::segmentation;

/// A flow, as its initiator sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Flow {
    /// Source address, as in [`Headers`].
    pub(crate) src: u128,
    /// Destination address.
    pub(crate) dst: u128,
    /// Source port.
    pub(crate) src_port: u16,
    /// Destination port.
    pub(crate) dst_port: u16,
    /// Whether it is TCP; else it is UDP.
    pub(crate) is_tcp: bool,
}

/// Which of a flow's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The initiator's first.
    Open,
    /// The responder's first.
    Answer,
    /// Any later one of the initiator's.
    Data,
    /// Any later one of the responder's.
    Reply,
}

/// Lengths of frames, in bytes without FCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sizes {
    /// The shortest there are: 64 bytes with FCS.
    Shortest,
    /// Seven of 64 bytes to four of 594 and one of 1,518.
    Imix,
}

impl Sizes {
    /// The length of the next frame. Headers that are longer make it longer.
    pub(crate) fn draw(self, random: &mut Random) -> usize {
        match self {
            Self::Shortest => MIN_FRAME_LEN,
            Self::Imix => match random.below(12) {
                0..7 => MIN_FRAME_LEN,
                7..11 => 590,
                _ => 1514,
            },
        }
    }
}

/// The `number`th of the flows that the policy of [`PERMISSIVE`] permits: up to 512 of one host. Every
/// other one is TCP if `mixed` is set.
pub(crate) fn numbered(number: usize, family: Family, mixed: bool) -> Flow {
    const FLOWS_OF_A_HOST: usize = 512;
    let (client, server) = match family {
        Family::V4 => (0x0a00_0001, 0x0ac8_0000),
        Family::V6 => (0xfd5e_9a00_0000_0001 << 64, 0xfd5e_9a00_0000_00c8 << 64),
    };
    let host = (number / FLOWS_OF_A_HOST) as u128;
    let is_tcp = mixed && number % 2 == 1;
    Flow {
        src: client + host,
        dst: server + u128::from(mix(number as u64) & 0x3ff) + 1,
        src_port: 1024 + (number % FLOWS_OF_A_HOST) as u16,
        // Not that of a service whose packets are worth copies.
        dst_port: if is_tcp { 443 } else { 514 },
        is_tcp,
    }
}

/// The policy for flows that are there already: what it costs to ask it is not the question.
pub(crate) const PERMISSIVE: &str = "version: 1\nrules:\n  - {name: all, from: any, to: any, service: \
                              [tcp/1-65535, udp/1-65535], action: allow}\n";

/// A connection attempt of a random host to one of the servers that the policy lets everybody reach.
pub(crate) fn flood(family: Family, random: &mut Random) -> Flow {
    let server = numbered(random.below(1 << 20), family, false).dst;
    let src = match family {
        // Public addresses of a host: neither loopback nor multicast.
        Family::V4 => 0x0b00_0000 + random.below(0x6f00_0000) as u128,
        Family::V6 => 0x2001_0db8 << 96 | u128::from(random.bits()),
    };
    let src_port = random.within(1024, u16::MAX);
    Flow { src, dst: server, src_port, dst_port: 443, is_tcp: true }
}

/// The port from which drawn flows come; others are as good.
const DRAWN_PORT: u16 = 1024;

/// `count` flows that the policy permits, of uniformly random rules.
///
/// # Errors
///
/// Where it permits too few.
pub(crate) fn permitted(
    policy: &Policy,
    classifier: &Classifier,
    family: Family,
    seed: u64,
    count: usize,
) -> io::Result<Vec<Flow>> {
    let drawn: Vec<Headers> = segmentation::headers(policy, seed, 6 * count)
        .into_iter()
        .filter(|headers| matches!(headers.protocol, protocol::TCP | protocol::UDP))
        .map(|headers| Headers { src_port: DRAWN_PORT, ..headers })
        .filter(|headers| headers.src != headers.dst && headers.dst_port != 0)
        .collect();
    let at = PolicyTime { unix_ms: 0, synchronised: false };
    let mut scratch = Scratch::default();
    let (mut flows, mut known) = (Vec::with_capacity(count), HashSet::new());
    for batch in drawn.chunks(MAX_BATCH) {
        let mut rules = [RuleId::DEFAULT; MAX_BATCH];
        classifier.classify(batch, at, &mut scratch, &mut rules);
        let permits = |rule: &RuleId| classifier.action(*rule) == Action::Allow;
        let allowed = batch.iter().zip(&rules).filter(|(_, rule)| permits(rule));
        let drawn = allowed.map(|(headers, _)| Flow {
            src: headers.src,
            dst: headers.dst,
            src_port: headers.src_port,
            dst_port: headers.dst_port,
            is_tcp: headers.protocol == protocol::TCP,
        });
        flows.extend(drawn.filter(|flow| is_possible(flow, family) && known.insert(*flow)));
    }
    flows.truncate(count);
    if flows.len() == count {
        return Ok(flows);
    }
    Err(io::Error::other(format!("the policy permits {} of {count} flows", flows.len())))
}

/// Whether frames of both directions parse: policies may permit addresses that no host has.
fn is_possible(flow: &Flow, family: Family) -> bool {
    [Step::Open, Step::Answer].into_iter().all(|step| {
        let mut frame = [0; 128];
        let len = write(&mut frame, flow, family, step, 0);
        parse(&frame[..len], WireId(0)).is_ok()
    })
}

/// Writes a frame of `len` bytes, or of as many as its headers take, with right checksums, and
/// returns its length. Bytes after the headers are taken to be zero.
pub(crate) fn write(out: &mut [u8], flow: &Flow, family: Family, step: Step, len: usize) -> usize {
    let forward = matches!(step, Step::Open | Step::Data);
    let (mac_src, mac_dst) = if forward { (1, 2) } else { (2, 1) };
    out[..12].copy_from_slice(&[2, 0, 0, 0, 0, mac_dst, 2, 0, 0, 0, 0, mac_src]);
    let ether_type = if family == Family::V4 { ETHER_IPV4 } else { ETHER_IPV6 };
    out[12..14].copy_from_slice(&ether_type.to_be_bytes());
    let ip_len = if family == Family::V4 { 20 } else { 40 };
    let upper_len = if flow.is_tcp { 20 } else { 8 };
    let len = len.max(14 + ip_len + upper_len);
    let (src, dst) = if forward { (flow.src, flow.dst) } else { (flow.dst, flow.src) };
    let number = if flow.is_tcp { protocol::TCP } else { protocol::UDP };
    let (frame, upper) = out[14..len].split_at_mut(ip_len);
    match family {
        Family::V4 => write_ipv4(frame, src as u32, dst as u32, number, (len - 14) as u16),
        Family::V6 => write_ipv6(frame, src, dst, number, upper.len() as u16),
    }
    let ports =
        if forward { [flow.src_port, flow.dst_port] } else { [flow.dst_port, flow.src_port] };
    upper[..2].copy_from_slice(&ports[0].to_be_bytes());
    upper[2..4].copy_from_slice(&ports[1].to_be_bytes());
    if flow.is_tcp {
        write_tcp(upper, step);
    } else {
        let length = upper.len() as u16;
        upper[4..6].copy_from_slice(&length.to_be_bytes());
        // What a segment may have left of its header.
        upper.iter_mut().take(20).skip(6).for_each(|byte| *byte = 0);
    }
    let at = if flow.is_tcp { 16 } else { 6 };
    let address_bytes = if family == Family::V4 { &frame[12..20] } else { &frame[8..40] };
    let pseudo = checksum::add(u64::from(number) + upper.len() as u64, address_bytes);
    let sum = checksum::finish(checksum::add(pseudo, &upper[..upper_len]));
    // In UDP zero means that there is none (RFC 768).
    let sum = if sum == 0 { u16::MAX } else { sum };
    upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    len
}

fn write_ipv4(out: &mut [u8], src: u32, dst: u32, number: u8, total_len: u16) {
    out[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, number, 0, 0]);
    out[2..4].copy_from_slice(&total_len.to_be_bytes());
    out[12..16].copy_from_slice(&src.to_be_bytes());
    out[16..20].copy_from_slice(&dst.to_be_bytes());
    let sum = checksum::finish(checksum::add(0, out));
    out[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn write_ipv6(out: &mut [u8], src: u128, dst: u128, number: u8, payload_len: u16) {
    out[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, number, 64]);
    out[4..6].copy_from_slice(&payload_len.to_be_bytes());
    out[8..24].copy_from_slice(&src.to_be_bytes());
    out[24..40].copy_from_slice(&dst.to_be_bytes());
}

/// Whatever a segment carries, it carries the first bytes of the stream: a retransmission to all who
/// have seen them.
fn write_tcp(out: &mut [u8], step: Step) {
    const INITIATOR: u32 = 0x1000_0000;
    const RESPONDER: u32 = 0x5000_0000;
    let (seq, ack, flags) = match step {
        Step::Open => (INITIATOR - 1, 0, tcp_flags::SYN),
        Step::Answer => (RESPONDER - 1, INITIATOR, tcp_flags::SYN | tcp_flags::ACK),
        Step::Data => (INITIATOR, RESPONDER, tcp_flags::ACK),
        Step::Reply => (RESPONDER, INITIATOR, tcp_flags::ACK),
    };
    out[4..8].copy_from_slice(&seq.to_be_bytes());
    out[8..12].copy_from_slice(&ack.to_be_bytes());
    out[12..20].copy_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use bulkhead_pipeline::frames::FrameBuilder;
    use bulkhead_pipeline::parse::Kind;

    use super::*;

    #[test]
    fn frames_are_those_that_the_builder_makes() {
        for family in [Family::V4, Family::V6] {
            for (number, step) in
                [(0, Step::Data), (77, Step::Open), (513, Step::Answer), (4095, Step::Reply)]
            {
                let flow = numbered(number, family, true);
                let mut out = [0; 2048];
                let len = write(&mut out, &flow, family, step, MIN_FRAME_LEN);
                let frame = &out[..len];
                let parsed = parse(frame, WireId(0)).expect("it parses");
                assert_eq!(parsed.kind == Kind::Tcp, flow.is_tcp);
                let address = |bits: u128| match family {
                    Family::V4 => IpAddr::V4(Ipv4Addr::from(bits as u32)),
                    Family::V6 => IpAddr::V6(Ipv6Addr::from(bits)),
                };
                let headers = parsed.headers;
                let builder = FrameBuilder::new()
                    .macs(headers.src_mac, headers.dst_mac)
                    .ip(address(headers.src), address(headers.dst));
                let payload = usize::from(parsed.packet_end - parsed.upper_offset);
                let built = if flow.is_tcp {
                    let tcp = parsed.tcp;
                    builder
                        .tcp(headers.src_port, headers.dst_port, tcp.flags)
                        .seq(tcp.seq, tcp.ack)
                        .window(tcp.window)
                        .payload_len(payload - 20)
                        .build()
                } else {
                    let udp = builder.udp(headers.src_port, headers.dst_port);
                    udp.payload_len(payload - 8).build()
                };
                assert_eq!(frame, built, "{family:?} {step:?}");
            }
        }
    }

    #[test]
    fn numbered_flows_differ() {
        let mut seen = HashSet::new();
        for number in 0..100_000 {
            assert!(seen.insert(numbered(number, Family::V4, true)));
        }
    }
}
