use bulkhead_rules::headers::{ETHER_IPV4, ETHER_IPV6};

use super::Direction::{FromInitiator, FromResponder};
use super::*;
use crate::parse::FragmentPlace;

const SYN: u8 = flag::SYN;
const ACK: u8 = flag::ACK;
const RST: u8 = flag::RST;
const FIN_ACK: u8 = flag::FIN | flag::ACK;
const SYN_ACK: u8 = flag::SYN | flag::ACK;

/// Initial sequence numbers just before the wrap, so that every test crosses it.
const A: u32 = 0xffff_fff0;
const B: u32 = 0xffff_ff00;
const WINDOW: u16 = 10_000;

fn seg(flags: u8, seq: u32, ack: u32, payload_len: u16) -> TcpSegment {
    TcpSegment { seq, ack, window: WINDOW, flags, window_scale: None, payload_len }
}

fn a(plus: u32) -> u32 {
    A.wrapping_add(plus)
}

fn b(plus: u32) -> u32 {
    B.wrapping_add(plus)
}

fn established() -> Connection {
    let mut state = Connection::open(&seg(SYN, A, 0, 0));
    assert_eq!(state.phase(), Phase::SynSent);
    in_state(&mut state, FromResponder, seg(SYN_ACK, B, a(1), 0));
    assert_eq!(state.phase(), Phase::SynReceived);
    in_state(&mut state, FromInitiator, seg(ACK, a(1), b(1), 0));
    assert_eq!(state.phase(), Phase::Established);
    state
}

#[track_caller]
fn in_state(state: &mut Connection, direction: Direction, segment: TcpSegment) {
    assert_eq!(state.update(direction, &segment), Ok(Outcome::InState), "{segment:?}");
}

/// Forwarded or dropped as expected, and nothing changed.
#[track_caller]
fn unchanged(
    state: &mut Connection,
    direction: Direction,
    segment: TcpSegment,
    expected: Result<Outcome, DropReason>,
) {
    let before = *state;
    assert_eq!(state.update(direction, &segment), expected, "{segment:?}");
    // That a SYN was seen is remembered, until its SYN-ACK.
    let attempt_or_icmp = before.attempt_or_icmp;
    assert_eq!(Connection { attempt_or_icmp, ..*state }, before, "{segment:?}");
}

#[test]
fn a_connection_runs_from_syn_to_time_wait() {
    let mut state = established();
    in_state(&mut state, FromInitiator, seg(ACK, a(1), b(1), 500));
    in_state(&mut state, FromResponder, seg(ACK, b(1), a(501), 700));
    in_state(&mut state, FromInitiator, seg(FIN_ACK, a(501), b(701), 0));
    assert_eq!(state.phase(), Phase::HalfClosed);
    // Half close: the other side sends on.
    in_state(&mut state, FromResponder, seg(ACK, b(701), a(502), 900));
    in_state(&mut state, FromInitiator, seg(ACK, a(502), b(1601), 0));
    assert_eq!(state.phase(), Phase::HalfClosed);
    in_state(&mut state, FromResponder, seg(FIN_ACK, b(1601), a(502), 0));
    assert_eq!(state.phase(), Phase::Closing);
    in_state(&mut state, FromInitiator, seg(ACK, a(502), b(1602), 0));
    assert_eq!(state.phase(), Phase::TimeWait);
    // The last acknowledgement was lost behind the gateway.
    in_state(&mut state, FromResponder, seg(FIN_ACK, b(1601), a(502), 0));
    in_state(&mut state, FromInitiator, seg(ACK, a(502), b(1602), 0));
    assert_eq!(state.phase(), Phase::TimeWait);
}

#[test]
fn both_sides_may_open_at_once() {
    let mut state = Connection::open(&seg(SYN, A, 0, 0));
    in_state(&mut state, FromResponder, seg(SYN, B, 0, 0));
    in_state(&mut state, FromInitiator, seg(SYN_ACK, A, b(1), 0));
    assert_eq!(state.phase(), Phase::SynReceived);
    in_state(&mut state, FromResponder, seg(SYN_ACK, B, a(1), 0));
    assert_eq!(state.phase(), Phase::Established);
}

#[test]
fn a_syn_ack_has_to_acknowledge_the_syn() {
    for ack in [a(0), a(2), a(5000), B] {
        let mut state = Connection::open(&seg(SYN, A, 0, 0));
        let bad = seg(SYN_ACK, B, ack, 0);
        unchanged(&mut state, FromResponder, bad, Err(DropReason::TcpWindow));
    }
    // With data in the SYN, any part of it (RFC 7413).
    for ack in [a(1), a(50), a(101)] {
        let mut state = Connection::open(&seg(SYN, A, 0, 100));
        in_state(&mut state, FromResponder, seg(SYN_ACK, B, ack, 0));
    }
    let mut state = Connection::open(&seg(SYN, A, 0, 0));
    unchanged(&mut state, FromInitiator, seg(SYN_ACK, A, b(1), 0), Err(DropReason::TcpState));
}

#[test]
fn a_retransmitted_syn_may_lack_what_the_first_one_had() {
    let first = TcpSegment { window_scale: Some(7), ..seg(SYN, A, 0, 100) };
    let mut state = Connection::open(&first);
    in_state(&mut state, FromInitiator, seg(SYN, A, 0, 0));
    let answer = TcpSegment { window_scale: Some(2), ..seg(SYN_ACK, B, a(101), 0) };
    in_state(&mut state, FromResponder, answer);
    in_state(&mut state, FromInitiator, seg(ACK, a(101), b(1), 0));
    // The first SYN's scale of 7 holds: 10,000 << 7 may be under way.
    in_state(&mut state, FromResponder, seg(ACK, b(1 + 1_200_000), a(101), 100));
}

#[test]
fn another_attempt_with_another_number_starts_again() {
    let mut state = Connection::open(&seg(SYN, A, 0, 0));
    in_state(&mut state, FromInitiator, seg(SYN, 77, 0, 0));
    let late = seg(SYN_ACK, B, a(1), 0);
    unchanged(&mut state, FromResponder, late, Err(DropReason::TcpWindow));
    in_state(&mut state, FromResponder, seg(SYN_ACK, B, 78, 0));
}

#[test]
fn half_open_recovery_gets_through() {
    // RFC 9293 section 3.5.1, figure 9: the server still has the connection, the client crashed.
    let mut state = Connection::open(&seg(SYN, A, 0, 0));
    unchanged(&mut state, FromResponder, seg(ACK, b(300), 100, 0), Ok(Outcome::Tolerated));
    unchanged(&mut state, FromInitiator, seg(RST, 100, 0, 0), Ok(Outcome::Tolerated));
    in_state(&mut state, FromInitiator, seg(SYN, A, 0, 0));
    // Data is another matter.
    let data = seg(ACK, b(300), 100, 10);
    unchanged(&mut state, FromResponder, data, Err(DropReason::TcpState));
    let early = seg(ACK, a(1), b(1), 0);
    unchanged(&mut state, FromInitiator, early, Err(DropReason::TcpState));
}

#[test]
fn a_syn_on_a_live_connection_changes_nothing() {
    let half_closed = |mut state: Connection| {
        in_state(&mut state, FromInitiator, seg(FIN_ACK, a(1), b(1), 0));
        state
    };
    for mut state in [established(), half_closed(established())] {
        for seq in [A, a(1), a(9000), 12345] {
            let syn = seg(SYN, seq, 0, 0);
            unchanged(&mut state, FromInitiator, syn, Ok(Outcome::Tolerated));
            // From the other side it would open a port of the initiator's.
            unchanged(&mut state, FromResponder, syn, Ok(Outcome::OpensBack));
        }
        unchanged(&mut state, FromResponder, seg(SYN_ACK, B, a(1), 0), Ok(Outcome::Tolerated));
        let far = seg(SYN_ACK, b(0x4000_0000), a(1), 0);
        unchanged(&mut state, FromResponder, far, Err(DropReason::TcpWindow));
    }
}

/// Both sides were switched off and on, and use the same ports again: nobody knows the connection
/// that the gateway remembers.
#[test]
fn a_connection_that_both_sides_have_forgotten_makes_place() {
    let scaled = |segment: TcpSegment| TcpSegment { window_scale: Some(7), ..segment };
    let mut adopted = Connection::adopt(&seg(ACK, a(0), b(0), 0), FromInitiator).unwrap();
    in_state(&mut adopted, FromResponder, seg(ACK, b(0), a(0), 0));
    for mut state in [established(), adopted] {
        state.entry_flags = 5;
        state.entry_packets_high = [1, 2];
        let (isn, other) = (0x5555_5555, 0x7777_7777);
        let answer = scaled(seg(SYN_ACK, other, isn + 1, 0));
        // Not without its SYN.
        let mut blind = state;
        unchanged(&mut blind, FromResponder, answer, Err(DropReason::TcpWindow));
        let syn = scaled(seg(SYN, isn, 0, 0));
        unchanged(&mut state, FromInitiator, syn, Ok(Outcome::Tolerated));
        for ack in [isn, isn + 3, a(1)] {
            let wrong = seg(SYN_ACK, other, ack, 0);
            unchanged(&mut state, FromResponder, wrong, Err(DropReason::TcpWindow));
        }
        in_state(&mut state, FromResponder, answer);
        assert_eq!(state.phase(), Phase::SynReceived);
        in_state(&mut state, FromInitiator, seg(ACK, isn + 1, other + 1, 800));
        assert_eq!(state.phase(), Phase::Established);
        in_state(&mut state, FromResponder, seg(ACK, other + 1, isn + 801, 1400));
        assert_eq!((state.entry_flags, state.entry_packets_high), (5, [1, 2]));
        // The old one is gone.
        let old = seg(ACK, b(1), a(1), 1);
        unchanged(&mut state, FromResponder, old, Err(DropReason::TcpWindow));
    }
}

#[test]
fn a_syn_after_the_end_opens_anew() {
    let mut time_wait = established();
    in_state(&mut time_wait, FromInitiator, seg(FIN_ACK, a(1), b(1), 0));
    in_state(&mut time_wait, FromResponder, seg(FIN_ACK, b(1), a(2), 0));
    in_state(&mut time_wait, FromInitiator, seg(ACK, a(2), b(2), 0));
    let mut closed = established();
    in_state(&mut closed, FromResponder, seg(RST, b(1), 0, 0));
    for mut state in [time_wait, closed] {
        for direction in [FromInitiator, FromResponder] {
            unchanged(&mut state, direction, seg(SYN, 999, 0, 0), Ok(Outcome::Reopen));
        }
    }
}

#[test]
fn only_an_exact_rst_closes() {
    let mut live = established();
    in_state(&mut live, FromInitiator, seg(ACK, a(1), b(1), 1000));
    // Sent up to 1001, acknowledged up to 1: RFC 5961 accepts what the receiver expects next.
    for (offset, closes) in [(1001, true), (1, true), (2, false), (1000, false), (1002, false)] {
        let mut state = live;
        let rst = seg(RST, a(offset), 0, 0);
        if closes {
            in_state(&mut state, FromInitiator, rst);
            assert_eq!(state.phase(), Phase::Closed);
        } else {
            unchanged(&mut state, FromInitiator, rst, Ok(Outcome::Tolerated));
        }
    }
    for offset in [u32::from(WINDOW) + 2, 0x8000_0000, 0x7fff_0000, 0x9000_0000] {
        let mut state = live;
        let rst = seg(RST | ACK, a(offset), b(1), 0);
        unchanged(&mut state, FromInitiator, rst, Err(DropReason::TcpWindow));
    }
}

#[test]
fn a_rst_answers_a_syn_only_if_it_acknowledges_it() {
    for (flags, ack, closes) in [
        (RST | ACK, a(1), true),
        (RST | ACK, a(2), false),
        (RST | ACK, a(0), false),
        (RST, a(1), false),
    ] {
        let mut state = Connection::open(&seg(SYN, A, 0, 0));
        let rst = seg(flags, 0, ack, 0);
        if closes {
            in_state(&mut state, FromResponder, rst);
            assert_eq!(state.phase(), Phase::Closed);
        } else {
            unchanged(&mut state, FromResponder, rst, Err(DropReason::TcpWindow));
        }
    }
    let mut state = Connection::open(&seg(SYN, A, 0, 0));
    in_state(&mut state, FromInitiator, seg(RST, a(1), 0, 0));
    assert_eq!(state.phase(), Phase::Closed);
}

#[test]
fn what_was_in_flight_passes_after_a_rst_and_revives_nothing() {
    let mut state = established();
    in_state(&mut state, FromInitiator, seg(RST, a(1), 0, 0));
    in_state(&mut state, FromResponder, seg(ACK, b(1), a(1), 300));
    in_state(&mut state, FromResponder, seg(FIN_ACK, b(301), a(1), 0));
    assert_eq!(state.phase(), Phase::Closed);
    let far = seg(ACK, b(0x2000_0000), a(1), 300);
    unchanged(&mut state, FromResponder, far, Err(DropReason::TcpWindow));
}

#[test]
fn a_fin_counts_only_in_window_and_a_forged_one_is_forgotten() {
    let mut state = established();
    for seq in [a(0x1000_0000), a(0x8000_0000), a(0xf000_0000)] {
        let fin = seg(FIN_ACK, seq, b(1), 0);
        unchanged(&mut state, FromInitiator, fin, Err(DropReason::TcpWindow));
    }
    in_state(&mut state, FromInitiator, seg(FIN_ACK, a(100), b(1), 0));
    assert_eq!(state.phase(), Phase::HalfClosed);
    in_state(&mut state, FromInitiator, seg(ACK, a(1), b(1), 400));
    assert_eq!(state.phase(), Phase::Established, "its sender sends on");
}

#[test]
fn nothing_follows_an_acknowledged_fin() {
    let mut state = established();
    in_state(&mut state, FromInitiator, seg(FIN_ACK, a(1), b(1), 0));
    in_state(&mut state, FromResponder, seg(ACK, b(1), a(2), 0));
    let more = seg(ACK, a(2), b(1), 10);
    unchanged(&mut state, FromInitiator, more, Err(DropReason::TcpState));
    // Retransmissions and keep-alives do.
    in_state(&mut state, FromInitiator, seg(FIN_ACK, a(1), b(1), 0));
    in_state(&mut state, FromInitiator, seg(ACK, a(1), b(1), 1));
    assert_eq!(state.phase(), Phase::HalfClosed);
}

#[test]
fn the_window_has_edges() {
    let window = u32::from(WINDOW);
    let behind = 2 * MIN_ACK_SPAN;
    let mut state = established();
    // Move away from the handshake, so that there is something behind.
    for _ in 0..40 {
        let [next, other] = state.end;
        in_state(&mut state, FromInitiator, seg(ACK, next, other, WINDOW));
        let [acked, _] = state.end;
        in_state(&mut state, FromResponder, seg(ACK, other, acked, WINDOW));
    }
    let (sent, other) = (state.end[0], state.end[1]);
    let cases = [
        (sent.wrapping_add(window), other, true), // a window probe
        (sent.wrapping_add(window + 1), other, false),
        (sent.wrapping_sub(behind + 1), other, true),
        (sent.wrapping_sub(behind + 2), other, false),
        (sent, other.wrapping_add(1), false), // acknowledges what was never sent
        (sent, other.wrapping_sub(behind), true),
        (sent, other.wrapping_sub(behind + 1), false),
    ];
    for (seq, ack, passes) in cases {
        let mut state = state;
        let segment = seg(ACK, seq, ack, 1);
        if passes {
            in_state(&mut state, FromInitiator, segment);
        } else {
            unchanged(&mut state, FromInitiator, segment, Err(DropReason::TcpWindow));
        }
    }
}

#[test]
fn the_far_side_of_the_sequence_space_is_out_of_window() {
    for distance in (0x0001_0000_u32..0xffff_0000).step_by(0x000f_fff1) {
        let in_reach = distance <= u32::from(WINDOW)
            || distance >= 0_u32.wrapping_sub(2 * MIN_ACK_SPAN + 1400);
        for len in [0, 1, 1400] {
            let mut state = established();
            let segment = seg(ACK, a(1).wrapping_add(distance), b(1), len);
            assert_eq!(state.update(FromInitiator, &segment).is_ok(), in_reach, "{distance:#x}");
        }
    }
}

#[test]
fn the_window_scale_needs_both_sides() {
    let with = |scale, segment: TcpSegment| TcpSegment { window_scale: scale, ..segment };
    for (first, second, reach) in [
        (Some(7), Some(3), u32::from(WINDOW) << 7),
        (Some(7), None, u32::from(WINDOW)),
        (None, Some(7), u32::from(WINDOW)),
        (Some(200), Some(0), u32::from(WINDOW) << 14),
    ] {
        let mut state = Connection::open(&with(first, seg(SYN, A, 0, 0)));
        in_state(&mut state, FromResponder, with(second, seg(SYN_ACK, B, a(1), 0)));
        in_state(&mut state, FromInitiator, seg(ACK, a(1), b(1), 0));
        in_state(&mut state, FromResponder, seg(ACK, b(1 + reach), a(1), 1));
        let mut state = Connection { end: [a(1), b(1)], ..state };
        let beyond = seg(ACK, b(2 + reach), a(1), 1);
        unchanged(&mut state, FromResponder, beyond, Err(DropReason::TcpWindow));
    }
}

#[test]
fn nonsense_flags_never_pass() {
    for state in [Connection::open(&seg(SYN, A, 0, 0)), established()] {
        for flags in 0..64_u8 {
            let has = |bit: u8| flags & bit != 0;
            let nonsense = flags & (SYN | RST | ACK) == 0
                || (has(SYN) && (has(RST) || has(flag::FIN)))
                || (has(flag::FIN) && (has(RST) || !has(ACK)));
            for direction in [FromInitiator, FromResponder] {
                let mut state = state;
                let segment = seg(flags, a(1), b(1), 0);
                let judged = state.update(direction, &segment);
                assert_eq!(judged == Err(DropReason::TcpFlags), nonsense, "{flags:#x}");
            }
        }
    }
}

#[test]
fn a_connection_is_adopted_from_its_middle_in_either_direction() {
    for direction in [FromInitiator, FromResponder] {
        let mut state = Connection::adopt(&seg(ACK, 5_000, 9_000, 100), direction).unwrap();
        assert_eq!(state.phase(), Phase::Adopted);
        in_state(&mut state, direction, seg(ACK, 5_100, 9_000, 100));
        assert_eq!(state.phase(), Phase::Adopted);
        // What was under way before the gateway came may be acknowledged.
        in_state(&mut state, direction, seg(ACK, 5_200, 60_000, 100));
        in_state(&mut state, direction.opposite(), seg(ACK, 60_000, 5_300, 0));
        assert_eq!(state.phase(), Phase::Established);
        let far = seg(ACK, 0x7000_0000, 5_300, 0);
        unchanged(&mut state, direction.opposite(), far, Err(DropReason::TcpWindow));
    }
    for flags in [RST, RST | ACK, SYN, 0] {
        let judged = Connection::adopt(&seg(flags, 1, 1, 0), FromInitiator);
        assert_eq!(judged, Err(DropReason::TcpNoFlow));
    }
}

#[test]
fn fragmented_segments_are_acknowledged_beyond_what_was_seen() {
    let mut state = established();
    // The first fragment carries 1,400 of 8,000 bytes.
    let mut strict = state;
    in_state(&mut strict, FromInitiator, seg(ACK, a(1), b(1), 1_400));
    let ack = seg(ACK, b(1), a(8_001), 0);
    unchanged(&mut strict, FromResponder, ack, Err(DropReason::TcpWindow));
    state.set_liberal();
    in_state(&mut state, FromInitiator, seg(ACK, a(1), b(1), 1_400));
    in_state(&mut state, FromResponder, ack);
    in_state(&mut state, FromInitiator, seg(ACK, a(8_001), b(1), 1_400));
}

fn packet(kind: Kind, ether_type: u16, ip_protocol: u8, dst_port: u16) -> Parsed {
    let headers = Headers { ether_type, protocol: ip_protocol, dst_port, ..Headers::default() };
    Parsed { headers, kind, ..Parsed::default() }
}

#[test]
fn a_flow_is_answered_once_its_responder_sends() {
    for (kind, ether_type, ip_protocol, before, after) in [
        (Kind::Other, ETHER_IPV4, 17, Phase::UdpUnanswered, Phase::UdpAnswered),
        (Kind::IcmpQuery, ETHER_IPV4, 1, Phase::IcmpUnanswered, Phase::IcmpAnswered),
        (Kind::Other, ETHER_IPV6, 58, Phase::IcmpUnanswered, Phase::IcmpAnswered),
        (Kind::Other, ETHER_IPV6, 132, Phase::OtherUnanswered, Phase::OtherAnswered),
        (Kind::Other, 0x8892, 0, Phase::OtherUnanswered, Phase::OtherAnswered),
    ] {
        let parsed = packet(kind, ether_type, ip_protocol, 0x0800);
        let mut state = Connection::of_first(&parsed, None).unwrap();
        assert_eq!(state.phase(), before);
        assert!(before.is_evictable() && !after.is_evictable());
        state.note(FromInitiator);
        assert_eq!(state.phase(), before);
        state.note(FromResponder);
        state.note(FromInitiator);
        assert_eq!(state.phase(), after);
    }
}

#[test]
fn what_opens_nothing_is_refused() {
    let first = |parsed: &Parsed| Connection::of_first(parsed, None).map(|state| state.phase());
    let v4 = [(1, 8, 0), (1, 13, 14), (1, 15, 16), (1, 17, 18), (1, 42, 43)];
    let v6 = [(58, 128, 129), (58, 160, 161)];
    for (ip_protocol, request, reply) in v4.into_iter().chain(v6) {
        let ether_type = if ip_protocol == 1 { ETHER_IPV4 } else { ETHER_IPV6 };
        let query =
            |icmp_type: u16| packet(Kind::IcmpQuery, ether_type, ip_protocol, icmp_type << 8);
        assert_eq!(first(&query(request)), Ok(Phase::IcmpUnanswered));
        assert_eq!(first(&query(reply)), Err(DropReason::IcmpNoFlow));
    }
    let tcp = |segment| Parsed { tcp: segment, ..packet(Kind::Tcp, ETHER_IPV4, 6, 80) };
    assert_eq!(first(&tcp(seg(SYN, A, 0, 0))), Ok(Phase::SynSent));
    let middle = tcp(seg(ACK, A, B, 10));
    assert_eq!(first(&middle), Err(DropReason::TcpNoFlow));
    assert_eq!(first(&tcp(seg(SYN_ACK, A, B, 0))), Err(DropReason::TcpNoFlow));
    assert_eq!(first(&tcp(seg(SYN | flag::FIN, A, 0, 0))), Err(DropReason::TcpFlags));
    let adopted = Connection::of_first(&middle, Some(FromResponder)).unwrap();
    assert_eq!((adopted.phase(), adopted.end[1]), (Phase::Adopted, a(10)));
    let fragment = Some(FragmentPlace { id: 1, offset: 0, len: 1400, more: true });
    let fragmented = Parsed { fragment, ..tcp(seg(SYN, A, 0, 0)) };
    assert!(Connection::of_first(&fragmented, None).unwrap().marks & LIBERAL != 0);
}

#[test]
fn every_phase_has_a_timeout_and_a_label_of_its_own() {
    let timeouts = Timeouts { udp_answered_s: 77, ..Timeouts::default() };
    assert_eq!(timeouts.of(Phase::UdpAnswered), 77);
    assert_eq!(timeouts.of(Phase::Established), 86_400);
    assert!(Phase::ALL.iter().all(|&phase| timeouts.of(phase) > 0));
    let labels: std::collections::BTreeSet<_> = Phase::ALL.iter().map(|p| p.label()).collect();
    assert_eq!(labels.len(), Phase::COUNT);
    // A connection that was open never makes room.
    for phase in [Phase::Established, Phase::HalfClosed, Phase::Closing] {
        assert!(!phase.is_evictable());
    }
}
