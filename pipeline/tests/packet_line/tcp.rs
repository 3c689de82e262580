//! What moves the state of a TCP connection in the whole packet line, and what does not.

use std::net::Ipv4Addr;

use bulkhead_pipeline::conntrack::{Phase, flag};
use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::snapshot::Mode;
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::WorkerConfig;

use crate::common::{Gateway, content};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PORT: u16 = 4712;

/// Either side may open, and in the second policy only A.
const BETWEEN: &str = "
version: 1
rules:
  - {name: both, between: [10.0.0.1, 10.0.0.2], service: tcp/4712, action: allow}
";
const ONE_WAY: &str = "
version: 1
rules:
  - {name: one, from: 10.0.0.1, to: 10.0.0.2, service: tcp/4712, action: allow}
";

const SYN: u8 = flag::SYN;
const ACK: u8 = flag::ACK;
const SYN_ACK: u8 = flag::SYN | flag::ACK;
const RST: u8 = flag::RST;
const FIN_ACK: u8 = flag::FIN | flag::ACK;

fn from_a(flags: u8, seq: u32, ack: u32) -> FrameBuilder {
    FrameBuilder::new().ip(A, B).tcp(PORT, PORT, flags).seq(seq, ack)
}

fn from_b(flags: u8, seq: u32, ack: u32) -> FrameBuilder {
    FrameBuilder::new().ip(B, A).tcp(PORT, PORT, flags).seq(seq, ack)
}

/// The frame with another checksum in its TCP header, which is not the right one.
fn spoilt(frame: &FrameBuilder) -> Vec<u8> {
    let mut frame = frame.build();
    frame[14 + 20 + 16] ^= 0x40;
    frame
}

/// A on the inside has opened from 100, B answered from 900.
fn established(policy: &str, hops: u8) -> Gateway {
    // Of a small table each loop ages a large part.
    let mut config = WorkerConfig::default();
    config.flows.capacity = 64;
    let mut gateway = Gateway::with(content(policy, Mode::Enforce, 0), &config);
    assert!(gateway.passes_out(&from_a(SYN, 100, 0).hop_limit(hops).build()));
    assert!(gateway.passes_in(&from_b(SYN_ACK, 900, 101).hop_limit(hops).build()));
    assert!(gateway.passes_out(&from_a(ACK, 101, 901).hop_limit(hops).build()));
    gateway
}

/// The phase in which the only flow is, shown by the timeout at which it ends.
fn phase(gateway: &mut Gateway) -> Phase {
    let counters = gateway.worker.counters().clone();
    while counters.flows.value() > 0 {
        gateway.wait_ms(5000);
        gateway.worker.poll();
    }
    let expired: Vec<_> = counters.flow_expired.iter().filter(|(_, count)| *count > 0).collect();
    let [(phase, 1)] = expired[..] else { panic!("one flow ended: {expired:?}") };
    phase
}

#[test]
fn a_wrong_checksum_opens_nothing() {
    let mut gateway = Gateway::new(BETWEEN, Mode::Enforce);
    assert!(!gateway.passes_out(&spoilt(&from_a(SYN, 100, 0))));
    assert_eq!(gateway.dropped(DropReason::TcpChecksum), 1);
    assert_eq!(gateway.worker.counters().flows.value(), 0);
}

#[test]
fn a_wrong_checksum_closes_nothing_and_moves_no_window() {
    for (flags, seq, payload) in [(RST, 901, 0), (FIN_ACK, 901, 0), (ACK, 901, 600)] {
        let mut gateway = established(ONE_WAY, 64);
        let segment = from_b(flags, seq, 101).payload_len(payload);
        assert!(!gateway.passes_in(&spoilt(&segment)));
        let dropped = gateway.outside_counters().dropped.of(DropReason::TcpChecksum);
        assert_eq!(dropped.packets.value(), 1);
        // What it claimed to have sent was not: A cannot acknowledge it.
        assert!(!gateway.passes_out(&from_a(ACK, 101, 901 + 600).build()));
        assert!(gateway.passes_in(&segment.build()), "as it should be, it passes");
        let expected = match flags {
            RST => Phase::Closed,
            FIN_ACK => Phase::HalfClosed,
            _ => continue,
        };
        assert_eq!(phase(&mut gateway), expected);
    }
}

#[test]
fn a_wrong_checksum_answers_no_syn() {
    let mut gateway = Gateway::new(ONE_WAY, Mode::Enforce);
    assert!(gateway.passes_out(&from_a(SYN, 100, 0).build()));
    assert!(!gateway.passes_in(&spoilt(&from_b(SYN_ACK, 900, 101))));
    assert!(!gateway.passes_in(&spoilt(&from_b(RST | ACK, 0, 101))));
    assert!(gateway.passes_in(&from_b(SYN_ACK, 900, 101).build()));
    assert!(gateway.passes_out(&from_a(ACK, 101, 901).build()));
}

#[test]
fn a_packet_that_ends_on_its_way_changes_nothing() {
    // Forwarded, as a traceroute needs it.
    let mut gateway = established(ONE_WAY, 64);
    assert!(gateway.passes_in(&from_b(RST, 901, 0).hop_limit(2).build()));
    assert!(gateway.passes_in(&from_b(FIN_ACK, 901, 101).hop_limit(4).build()));
    assert!(gateway.passes_in(&from_b(ACK, 901, 101).payload_len(600).hop_limit(1).build()));
    assert!(!gateway.passes_out(&from_a(ACK, 101, 901 + 600).build()), "never sent");
    gateway.wait_ms(3_600_000);
    assert!(gateway.passes_out(&from_a(ACK, 101, 901).build()), "the connection lives");
    assert!(gateway.passes_in(&from_b(RST, 901, 0).hop_limit(5).build()));
    assert_eq!(phase(&mut gateway), Phase::Closed);
}

#[test]
fn hosts_that_always_send_with_few_hops_are_heard() {
    // BGP between neighbours, for one.
    let mut gateway = established(ONE_WAY, 1);
    assert!(gateway.passes_in(&from_b(RST, 901, 0).hop_limit(1).build()));
    assert_eq!(phase(&mut gateway), Phase::Closed);
}

#[test]
fn nonsense_flags_change_nothing() {
    let mut gateway = established(ONE_WAY, 64);
    let nonsense = [0, SYN | RST, SYN | flag::FIN, flag::FIN, RST | flag::FIN, 0x3f, 0x29];
    for flags in nonsense {
        assert!(!gateway.passes_in(&from_b(flags, 901, 101).build()), "{flags:02x}");
    }
    let dropped = gateway.outside_counters().dropped.of(DropReason::TcpFlags);
    assert_eq!(dropped.packets.value(), nonsense.len() as u64);
    gateway.wait_ms(3_600_000);
    assert!(gateway.passes_in(&from_b(ACK, 901, 101).build()));
}

#[test]
fn a_rebooted_responder_may_open_where_the_policy_lets_it() {
    let mut gateway = established(BETWEEN, 64);
    // It knows nothing of the connection; the initiator does, and says so (RFC 5961 section 4).
    assert!(gateway.passes_in(&from_b(SYN, 77_000_000, 0).build()));
    assert!(gateway.passes_out(&from_a(ACK, 101, 901).build()), "the challenge");
    assert!(gateway.passes_in(&from_b(RST, 901, 0).build()), "which the responder answers");
    assert!(gateway.passes_in(&from_b(SYN, 77_000_000, 0).build()), "it tries again");
    assert!(gateway.passes_out(&from_a(SYN_ACK, 500, 77_000_001).build()));
    assert!(gateway.passes_in(&from_b(ACK, 77_000_001, 501).payload_len(10).build()));
    assert_eq!(gateway.hits("both"), 2, "two flows were opened");
    assert_eq!(phase(&mut gateway), Phase::Established);
}

#[test]
fn the_other_side_may_open_where_both_have_forgotten() {
    let mut gateway = established(BETWEEN, 64);
    let isn = 77_000_000;
    let stray = from_a(SYN_ACK, 500, isn + 1).build();
    assert!(!gateway.passes_out(&stray), "nobody has asked");
    assert!(gateway.passes_in(&from_b(SYN, isn, 0).build()));
    assert!(!gateway.passes_out(&from_a(SYN_ACK, 500, isn + 2).build()), "not the answer to it");
    assert!(gateway.passes_out(&stray), "the initiator has rebooted too");
    assert!(gateway.passes_in(&from_b(ACK, isn + 1, 501).payload_len(10).build()));
    assert!(gateway.passes_out(&from_a(ACK, 501, isn + 11).build()));
    assert!(!gateway.passes_out(&from_a(ACK, 101, 901).payload_len(1).build()), "the old one");
    assert_eq!(gateway.worker.counters().flows.value(), 1);
    assert_eq!(phase(&mut gateway), Phase::Established);
}

#[test]
fn where_it_does_not_a_responder_opens_nothing() {
    let mut gateway = established(ONE_WAY, 64);
    assert!(!gateway.passes_in(&from_b(SYN, 77_000_000, 0).build()));
    let dropped = gateway.outside_counters().dropped.of(DropReason::TcpState);
    assert_eq!(dropped.packets.value(), 1);
    assert!(!gateway.passes_out(&from_a(SYN_ACK, 500, 77_000_001).build()));
    assert!(gateway.passes_out(&from_a(ACK, 101, 901).payload_len(1).build()), "unharmed");
}
