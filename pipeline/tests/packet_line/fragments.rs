//! Fragments in any order through the whole packet line. That nothing is lost uncounted, frames that
//! wait included, the harness asserts at the end of each test.

use std::net::Ipv4Addr;

use bulkhead_pipeline::frames::FrameBuilder;
use bulkhead_pipeline::snapshot::Mode;
use bulkhead_pipeline::verdict::DropReason;
use bulkhead_pipeline::worker::WorkerConfig;

use crate::common::{Gateway, content};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const A6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 1];
const B6: [u16; 8] = [0xfd00, 0, 0, 0, 0, 0, 0, 2];

const POLICY: &str = "
version: 1
rules:
  - {name: open, from: any, to: any, service: udp/502, action: allow}
";

fn v4(port: u16) -> FrameBuilder {
    FrameBuilder::new().ip(A, B).udp(1, port).payload_len(3800)
}

/// A packet in three fragments.
fn pieces(packet: &FrameBuilder, id: u32) -> Vec<Vec<u8>> {
    let pieces = packet.build_fragments(id, 1400);
    assert_eq!(pieces.len(), 3);
    pieces
}

fn gateway_with(wait_frames: usize, wait_ms: u32) -> Gateway {
    let mut config = WorkerConfig::default();
    (config.fragments.wait_frames, config.fragments.wait_ms) = (wait_frames, wait_ms);
    Gateway::with(content(POLICY, Mode::Enforce, 0), &config)
}

fn waiting(gateway: &Gateway) -> u64 {
    gateway.inside_counters().waiting.value()
}

#[test]
fn a_packet_passes_in_any_order_of_its_fragments() {
    let v6 = FrameBuilder::new().ip(A6, B6).udp(1, 502).payload_len(3800);
    for packet in [v4(502), v4(502).vlan(7), v6] {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for (id, order) in orders.into_iter().enumerate() {
            let mut gateway = Gateway::new(POLICY, Mode::Enforce);
            let pieces = pieces(&packet, id as u32);
            let sent: Vec<Vec<u8>> = order.iter().map(|&nth| pieces[nth].clone()).collect();
            // All in one burst, or each in its own.
            let mut came = gateway.outward(&sent);
            came.sort();
            let mut expected = pieces.clone();
            expected.sort();
            assert!(came == expected, "{order:?}");
            let mut gateway = Gateway::new(POLICY, Mode::Enforce);
            let mut came = Vec::new();
            for piece in &sent {
                came.extend(gateway.outward(std::slice::from_ref(piece)));
            }
            // First the first one, and then what waited, in the order of its arrival.
            let early = order.iter().position(|&nth| nth == 0).expect("one is the first");
            let mut expected = vec![0];
            expected.extend(&order[..early]);
            expected.extend(&order[early + 1..]);
            let expected = expected.iter().map(|&nth| pieces[nth].clone());
            assert!(came.into_iter().eq(expected));
            let counters = gateway.worker.counters();
            assert_eq!(counters.fragments.waited.value(), early as u64);
            assert_eq!(counters.fragments.completed.value(), 1);
        }
    }
}

#[test]
fn what_waits_for_a_denied_packet_is_dropped_with_it() {
    let mut gateway = Gateway::new(POLICY, Mode::Enforce);
    let pieces = pieces(&v4(503), 1);
    assert!(gateway.outward(&pieces[1..]).is_empty());
    assert_eq!(waiting(&gateway), 2);
    assert!(gateway.outward(&pieces[..1]).is_empty());
    assert_eq!(waiting(&gateway), 0, "nothing waits for what was judged");
    assert_eq!(gateway.dropped(DropReason::FragmentOrphan), 2);
    assert_eq!(gateway.dropped(DropReason::Policy), 1);
}

#[test]
fn a_fragment_waits_no_longer_than_it_may() {
    let mut gateway = gateway_with(128, 100);
    let pieces = pieces(&v4(502), 1);
    assert!(gateway.outward(&pieces[1..2]).is_empty());
    gateway.wait_ms(60);
    assert!(gateway.outward(&pieces[2..]).is_empty());
    gateway.wait_ms(40);
    gateway.worker.poll();
    assert_eq!((waiting(&gateway), gateway.dropped(DropReason::FragmentOrphan)), (1, 1));
    assert!(gateway.outward(&pieces[..1]) == [pieces[0].clone(), pieces[2].clone()]);
}

#[test]
fn no_more_fragments_wait_than_may() {
    let mut gateway = gateway_with(3, 100);
    for id in 0..5 {
        assert!(gateway.outward(&pieces(&v4(502), id)[1..2]).is_empty());
    }
    assert_eq!(waiting(&gateway), 3);
    assert_eq!(gateway.dropped(DropReason::FragmentWaitFull), 2);
    // One packet does not take all of the room.
    let mut gateway = gateway_with(128, 100);
    let many = v4(502).payload_len(60_000).build_fragments(9, 1000);
    assert!(gateway.outward(&many[1..]).is_empty());
    assert_eq!(waiting(&gateway), 48);
    assert_eq!(gateway.dropped(DropReason::FragmentWaitFull), many.len() as u64 - 1 - 48);
}

#[test]
fn without_room_to_wait_early_fragments_are_orphans() {
    let mut gateway = gateway_with(0, 100);
    assert!(gateway.outward(&pieces(&v4(502), 1)[1..]).is_empty());
    assert_eq!(gateway.dropped(DropReason::FragmentOrphan), 2);
    assert_eq!(gateway.dropped(DropReason::FragmentWaitFull), 0);
}

#[test]
fn an_early_fragment_that_overlaps_does_not_pass() {
    let mut gateway = Gateway::new(POLICY, Mode::Enforce);
    let fragment = |offset, more, len| {
        let at = FrameBuilder::new().ip(A, B).fragment(7, offset, more);
        if offset == 0 {
            at.udp(1, 502).payload_len(len - 8).build()
        } else {
            at.protocol(17).payload_len(len).build()
        }
    };
    assert!(gateway.outward(&[fragment(48, false, 64)]).is_empty());
    let first = fragment(0, true, 64);
    assert!(gateway.outward(std::slice::from_ref(&first)) == [first], "the first one alone");
    assert_eq!(gateway.dropped(DropReason::FragmentOverlap), 1);
}

#[test]
fn an_observing_wire_keeps_nothing_back() {
    let mut gateway = Gateway::new(POLICY, Mode::Observe);
    let pieces = pieces(&v4(502), 1);
    assert!(gateway.outward(&pieces[1..]) == pieces[1..]);
    let would_drop = gateway.inside_counters().would_drop.of(DropReason::FragmentOrphan);
    assert_eq!((waiting(&gateway), would_drop.packets.value()), (0, 2));
}

#[test]
fn a_worker_that_stops_counts_what_waits() {
    let mut gateway = Gateway::new(POLICY, Mode::Enforce);
    assert!(gateway.outward(&pieces(&v4(502), 1)[1..]).is_empty());
    gateway.worker.shut_down();
    assert_eq!((waiting(&gateway), gateway.dropped(DropReason::Shutdown)), (0, 2));
}

#[test]
fn what_waits_when_a_wire_begins_to_observe_follows_its_first_fragment() {
    let mut gateway = Gateway::new(POLICY, Mode::Enforce);
    for (id, port) in [(1, 502), (2, 503)] {
        let pieces = pieces(&v4(port), id);
        assert!(gateway.outward(&pieces[1..]).is_empty());
        gateway.publisher.publish(content(POLICY, Mode::Observe, 0));
        let came = gateway.outward(&pieces[..1]);
        assert_eq!((came.len(), waiting(&gateway)), (3, 0), "an observing wire drops nothing");
        gateway.publisher.publish(content(POLICY, Mode::Enforce, 0));
    }
}
