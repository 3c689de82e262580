use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);
const CONFIG: TableConfig = TableConfig { capacity: 8, per_mac: 4, age_ms: 1000 };
const NETWORK: Network = Network { group: 0, tags: VlanTags::UNTAGGED };

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn claim(kind: ObservationKind, mac: Mac, last: u8) -> Observation {
    Observation {
        wire: WireId(0),
        tags: VlanTags::UNTAGGED,
        inside: true,
        mac,
        address: ip(last),
        kind,
        lease_s: if kind == ObservationKind::DhcpAck { 10 } else { 0 },
        xid: 0,
    }
}

fn arp(mac: Mac, last: u8) -> Observation {
    claim(ObservationKind::Arp, mac, last)
}

fn asks(mac: Mac) -> Observation {
    claim(ObservationKind::DhcpClient, mac, 0)
}

fn ack(mac: Mac, last: u8) -> Observation {
    claim(ObservationKind::DhcpAck, mac, last)
}

fn from_outside(claim: Observation) -> Observation {
    Observation { inside: false, ..claim }
}

fn table() -> BindingTable {
    BindingTable::new(CONFIG)
}

fn holder(table: &BindingTable, last: u8) -> Option<Mac> {
    table.get(NETWORK, ip(last)).map(|binding| binding.mac)
}

#[test]
fn the_first_claim_holds_until_it_runs_out() {
    let mut table = table();
    assert_eq!(table.observe(&arp(A, 1), 0, 0), Outcome::Bound);
    for now_ms in [1, 900, 1800] {
        assert_eq!(table.observe(&arp(B, 1), 0, now_ms), Outcome::Conflict(ConflictKind::Address));
        assert_eq!(table.observe(&arp(A, 1), 0, now_ms), Outcome::Renewed);
    }
    assert_eq!((table.expire(2799), holder(&table, 1)), (0, Some(A)));
    assert_eq!((table.expire(2800), holder(&table, 1)), (1, None));
    assert_eq!(table.observe(&arp(B, 1), 0, 2800), Outcome::Bound);
    assert_eq!(table.conflict_count(ConflictKind::Address), 3);
    let told: Vec<_> = table.conflicts().map(|c| (c.claim.mac, c.holder, c.count)).collect();
    assert_eq!(told, [(B, Some(A), 3)], "the same claim again counts up");
}

#[test]
fn a_lease_outranks_what_hosts_say_and_the_policy_a_lease() {
    let mut table = table();
    table.observe(&arp(A, 1), 0, 0);
    table.observe(&asks(B), 0, 0);
    assert_eq!(table.observe(&ack(B, 1), 0, 1), Outcome::Bound);
    assert_eq!(holder(&table, 1), Some(B));
    assert_eq!(table.observe(&arp(A, 1), 0, 2), Outcome::Conflict(ConflictKind::Address));
    table.observe(&asks(A), 0, 3);
    assert_eq!(table.observe(&ack(A, 1), 0, 3), Outcome::Conflict(ConflictKind::Address));
    table.fix(HashMap::from([(ip(1), vec![A])]), 4);
    assert_eq!(holder(&table, 1), None, "what contradicts the policy goes");
    assert_eq!(table.observe(&ack(B, 1), 0, 5), Outcome::Conflict(ConflictKind::Policy));
    assert_eq!(table.observe(&arp(B, 1), 0, 5), Outcome::Conflict(ConflictKind::Policy));
    assert_eq!(table.observe(&arp(A, 1), 0, 6), Outcome::Bound);
    assert_eq!((table.expire(u64::MAX), holder(&table, 1)), (0, Some(A)), "it never runs out");
    table.fix(HashMap::new(), 10);
    assert_eq!((table.expire(1010), holder(&table, 1)), (1, None));
}

#[test]
fn leases_end_when_they_run_out_are_given_back_or_follow_their_client() {
    let mut table = table();
    table.observe(&asks(A), 0, 0);
    table.observe(&ack(A, 1), 0, 0);
    assert_eq!((table.expire(9_999), table.expire(10_000)), (0, 1));
    table.observe(&asks(A), 0, 10_000);
    table.observe(&ack(A, 1), 0, 10_000);
    let released = claim(ObservationKind::DhcpRelease, A, 1);
    assert_eq!(table.observe(&from_outside(released), 0, 10_001), conflict(ConflictKind::Side));
    let of_another = Observation { mac: B, ..released };
    assert_eq!(table.observe(&of_another, 0, 10_001), conflict(ConflictKind::Address));
    assert_eq!(table.observe(&released, 0, 10_001), Outcome::Released);
    assert_eq!(table.observe(&released, 0, 10_001), Outcome::Unknown);
    table.observe(&ack(A, 1), 0, 10_002);
    assert_eq!(table.observe(&ack(A, 2), 0, 10_003), Outcome::Bound);
    assert_eq!((holder(&table, 1), holder(&table, 2)), (None, Some(A)));
}

fn conflict(kind: ConflictKind) -> Outcome {
    Outcome::Conflict(kind)
}

#[test]
fn a_lease_needs_a_client_whose_place_is_known() {
    let mut table = table();
    assert_eq!(table.observe(&ack(A, 1), 0, 0), Outcome::Waits, "broadcast over every wire");
    assert_eq!(table.observe(&arp(A, 2), 0, 0), Outcome::Bound);
    assert_eq!(table.observe(&ack(A, 1), 0, 0), Outcome::Waits, "it has not asked");
    assert_eq!(table.observe(&asks(A), 0, 0), Outcome::Renewed);
    assert_eq!(holder(&table, 1), Some(A), "another worker heard the request");
    // A wire that the client's broadcast crossed inwards: it is outside there.
    assert_eq!(table.observe(&from_outside(asks(A)), 1, 0), Outcome::Renewed);
    assert_eq!(table.observe(&ack(A, 1), 1, 0), Outcome::Bound);
    let there = Network { group: 1, ..NETWORK };
    assert!(table.get(NETWORK, ip(1)).is_some_and(|b| b.inside));
    assert!(table.get(there, ip(1)).is_some_and(|b| !b.inside));
}

fn transaction(xid: u32, claim: Observation) -> Observation {
    Observation { xid, ..claim }
}

#[test]
fn a_lease_without_a_request_moves_nobody() {
    let mut table = table();
    table.observe(&transaction(7, asks(A)), 0, 0);
    assert_eq!(table.observe(&transaction(7, ack(A, 1)), 0, 1), Outcome::Bound);
    let bound = table.get(NETWORK, ip(1)).copied();
    // Neither in another transaction, nor long after the request, nor for what somebody else has asked
    // from elsewhere.
    assert_eq!(table.observe(&transaction(8, ack(A, 66)), 0, 2), Outcome::Waits);
    let late_ms = 1 + DHCP_PATIENCE_MS;
    assert_eq!(table.observe(&transaction(7, ack(A, 66)), 0, late_ms), Outcome::Waits);
    table.observe(&arp(A, 3), 0, late_ms);
    table.observe(&from_outside(transaction(9, asks(A))), 0, late_ms);
    assert_eq!(table.observe(&transaction(9, ack(A, 66)), 0, late_ms), Outcome::Waits);
    assert_eq!(holder(&table, 66), None);
    // The request after a lease makes it right only if it comes at once.
    table.observe(&transaction(8, asks(A)), 0, late_ms + REQUEST_IS_LATE_MS + 1);
    assert_eq!(holder(&table, 66), None);
    table.expire(late_ms + REQUEST_IS_LATE_MS + 2);
    assert_eq!(table.conflict_count(ConflictKind::Unasked), 3);
    assert_eq!((bound.map(|b| b.mac), table.waiting.len()), (Some(A), 0));
}

#[test]
fn what_others_ask_in_a_hosts_name_does_not_hide_what_it_asks() {
    let mut table = table();
    table.observe(&arp(A, 2), 0, 0);
    table.observe(&transaction(7, asks(A)), 0, 0);
    for xid in 100..200 {
        table.observe(&from_outside(transaction(xid, asks(A))), 0, 1);
    }
    assert_eq!(table.observe(&transaction(7, ack(A, 1)), 0, 2), Outcome::Bound);
}

#[test]
fn leases_that_wait_are_few() {
    let mut table = table();
    for n in 0..3000 {
        table.observe(&transaction(n, ack(A, 1)), 0, 0);
    }
    assert_eq!(table.waiting.len(), WAITING_LEASES);
    assert_eq!(table.conflict_count(ConflictKind::Unasked), 3000 - WAITING_LEASES as u64);
}

#[test]
fn a_host_is_on_one_side_and_on_the_inside_of_one_wire() {
    let mut table = table();
    table.observe(&arp(A, 1), 0, 0);
    assert_eq!(table.observe(&from_outside(arp(A, 1)), 0, 999), conflict(ConflictKind::Side));
    assert_eq!(table.observe(&arp(A, 2), 1, 999), conflict(ConflictKind::Wire));
    // Another VLAN of its own wire, and the outside of others, are where it may be seen.
    let tagged = Observation { tags: VlanTags::single(7), ..arp(A, 1) };
    assert_eq!(table.observe(&tagged, 0, 1), Outcome::Bound);
    assert_eq!(table.observe(&from_outside(arp(A, 1)), 1, 1), Outcome::Bound);
    // After a silence it may be elsewhere.
    table.expire(3000);
    assert_eq!(table.observe(&arp(A, 1), 2, 3000), Outcome::Bound);
    assert_eq!(table.observe(&arp(A, 1), 0, 3000), conflict(ConflictKind::Wire));
}

#[test]
fn a_server_that_answers_a_host_elsewhere_lets_it_move() {
    let mut table = table();
    table.observe(&arp(A, 1), 0, 0);
    assert_eq!(table.observe(&asks(A), 1, 100), conflict(ConflictKind::Wire));
    assert_eq!(table.observe(&ack(A, 9), 1, 101), Outcome::Bound);
    assert_eq!(holder(&table, 1), None, "it has left");
    let there = Network { group: 1, ..NETWORK };
    assert_eq!(table.get(there, ip(9)).map(|b| (b.mac, b.inside)), Some((A, true)));
    assert_eq!(table.observe(&arp(A, 9), 1, 102), Outcome::Renewed);
}

#[test]
fn the_answer_to_a_host_does_not_move_it_to_who_asked_in_its_name() {
    let mut table = table();
    table.observe(&arp(A, 1), 0, 0);
    table.observe(&asks(A), 0, 100);
    table.observe(&asks(A), 1, 101);
    table.observe(&from_outside(asks(A)), 0, 101);
    // The answer is a broadcast and crosses both wires.
    assert_eq!(table.observe(&ack(A, 1), 1, 102), Outcome::Waits);
    assert_eq!(table.observe(&ack(A, 1), 0, 102), Outcome::Renewed);
    let held = table.get(NETWORK, ip(1)).unwrap();
    assert_eq!((held.mac, held.inside, held.origin), (A, true, Origin::Dhcp));
}

#[test]
fn a_full_table_refuses_hosts_and_makes_room_for_leases() {
    let mut table = table();
    let host = |n: u8| Mac([2, 0, 0, 0, 1, n]);
    for n in 0..8 {
        assert_eq!(table.observe(&arp(host(n), n), 0, n.into()), Outcome::Bound);
    }
    assert_eq!(table.observe(&arp(host(9), 9), 0, 10), Outcome::Full);
    assert_eq!(table.observe(&asks(A), 0, 11), Outcome::Renewed);
    assert_eq!(table.observe(&ack(A, 100), 0, 11), Outcome::Bound);
    assert_eq!((table.len(), holder(&table, 0), table.refused()), (8, None, 1));
}

#[test]
fn one_host_cannot_take_all_addresses() {
    let mut table = table();
    let outcomes = (0..9).map(|last| table.observe(&arp(A, last + 1), 0, 0));
    assert_eq!(outcomes.filter(|outcome| *outcome == Outcome::Bound).count(), 4);
    assert_eq!(table.observe(&arp(B, 50), 0, 0), Outcome::Bound);
}

#[test]
fn what_a_person_forgets_is_anybodys() {
    let mut table = table();
    table.observe(&arp(A, 1), 0, 0);
    assert_eq!((table.forget(ip(1)), table.forget(ip(1))), (1, 0));
    assert_eq!(table.observe(&arp(B, 1), 0, 1), Outcome::Bound);
}

#[test]
fn the_policy_hears_of_the_hosts_that_it_names_and_of_every_link_of_theirs() {
    const WIRES: [&[WireId]; 2] = [&[WireId(0), WireId(2)], &[WireId(1)]];
    let mut table = table();
    table.observe(&arp(A, 1), 0, 0);
    table.observe(&arp(B, 2), 0, 0);
    table.observe(&arp(Mac([2, 0, 0, 0, 0, 0xc]), 1), 1, 0);
    let told = table.bindings(&[A], true, |group| WIRES[usize::from(group)]);
    let link = |wire| Link { wire: WireId(wire), tags: VlanTags::UNTAGGED };
    let links = [link(0), link(1), link(2)];
    let namesakes = [(link(1), Mac([2, 0, 0, 0, 0, 0xc]))];
    let bound = BoundAddress { address: ip(1), links: links.into(), namesakes: namesakes.into() };
    assert_eq!(told.of(A), [bound]);
    assert!(told.of(B).is_empty());
    let held = |wire, last| told.holder(link(wire), ip(last)).map(|holder| holder.mac);
    assert_eq!((held(0, 1), held(2, 1), held(0, 2), held(1, 1)), (Some(A), Some(A), None, None));
    assert!(table.bindings(&[A], false, |_| &[]).holds_nobody());
}

#[test]
fn a_router_that_answers_for_an_address_does_not_have_it() {
    let mut table = table();
    table.observe(&arp(A, 1), 0, 0);
    // Whoever says so in its name is none either, once the router's own address is known.
    table.observe(&arp(B, 1), 1, 0);
    let namesakes = |table: &BindingTable| {
        let told = table.bindings(&[A], false, |_| &[WireId(1)]);
        told.of(A).iter().map(|bound| bound.namesakes.len()).sum::<usize>()
    };
    assert_eq!(namesakes(&table), 1);
    table.observe(&arp(B, 9), 1, 0);
    assert_eq!(namesakes(&table), 0);
}

#[test]
fn hosts_that_rules_name_find_room_in_a_full_table() {
    let mut table = table();
    table.prefer(&[A]);
    let host = |n: u8| Mac([2, 0, 0, 0, 1, n]);
    for n in 0..16 {
        table.observe(&arp(host(n), n), 0, n.into());
    }
    assert_eq!((table.len(), table.places.len()), (8, 16), "both are full");
    assert_eq!(table.observe(&arp(B, 50), 0, 20), Outcome::Full);
    assert_eq!(table.observe(&arp(A, 100), 0, 20), Outcome::Bound);
    assert_eq!((table.len(), holder(&table, 0), holder(&table, 100)), (8, None, Some(A)));
    // It does not push out more than it may have, nor itself.
    for last in 101..110 {
        table.observe(&arp(A, last), 0, 21);
    }
    assert_eq!((table.len(), holder(&table, 103), holder(&table, 104)), (8, Some(A), None));
    assert_eq!(holder(&table, 4), Some(host(4)));
}

#[test]
fn a_host_of_many_networks_finds_no_endless_room() {
    let mut table = table();
    table.prefer(&[A]);
    for vlan in 1..200 {
        let tags = VlanTags::single(vlan);
        table.observe(&Observation { tags, ..arp(A, 1) }, 0, 0);
    }
    assert!(table.len() <= 8 && table.places.len() <= 24);
}

#[test]
fn only_hosts_that_rules_name_are_held_to_addresses() {
    let mut table = table();
    table.observe(&arp(A, 1), 0, 0);
    table.observe(&arp(B, 2), 0, 0);
    const WIRES: &[WireId] = &[WireId(0)];
    let link = Link { wire: WireId(0), tags: VlanTags::UNTAGGED };
    let contradicts = |table: &BindingTable, named: &[Mac], last, mac, inside| {
        let told = table.bindings(named, true, |_| WIRES);
        told.is_of_another(link, ip(last), Holder { mac, inside })
    };
    let other = Mac([2, 0, 0, 0, 0, 0xc]);
    assert!(!contradicts(&table, &[A], 2, other, true), "an address moves in a cluster");
    assert!(!contradicts(&table, &[A], 2, B, false), "a host moves to the other side");
    assert!(contradicts(&table, &[A], 1, other, true) && !contradicts(&table, &[A], 2, A, true));
    assert!(contradicts(&table, &[A], 1, A, false) && !contradicts(&table, &[A], 1, A, true));
    assert!(table.bindings(&[], true, |_| WIRES).holds_nobody());
}

#[test]
fn a_renewal_is_told_to_who_keeps_bindings() {
    let mut table = table();
    table.observe(&arp(A, 1), 0, 0);
    let (changes, renewals) = (table.changes(), table.renewals());
    table.observe(&arp(A, 1), 0, 500);
    assert_eq!((table.changes(), table.renewals()), (changes, renewals + 1));
    assert_eq!(table.get(NETWORK, ip(1)).unwrap().expires_ms, Some(1500));
}

/// What attackers may do: anything but speak as the device from its place. Those who speak for DHCP
/// servers do not know in which transactions these were asked.
fn attack() -> impl Strategy<Value = (Observation, u16)> {
    let kinds = prop_oneof![
        4 => Just(ObservationKind::Arp),
        2 => Just(ObservationKind::NeighbourDiscovery),
        2 => Just(ObservationKind::DhcpClient),
        1 => Just(ObservationKind::DhcpRelease),
        1 => Just(ObservationKind::DhcpDecline),
        2 => Just(ObservationKind::DhcpAck),
    ];
    let macs = prop_oneof![Just(A), Just(B), (0..3u8).prop_map(|n| Mac([2, 0, 0, 0, 2, n]))];
    (kinds, macs, 1..4u8, any::<bool>(), 0..3u16).prop_filter_map(
        "the device itself",
        |(kind, mac, last, inside, group)| {
            let of_server = kind.is_of_server();
            let xid = if of_server { 67 } else { 66 };
            let claim = Observation { inside, xid, ..claim(kind, mac, last) };
            (mac != A || !inside || group != 0 || of_server).then_some((claim, group))
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Attack(Observation, u16),
    /// The device speaks up, in time.
    Device,
    /// It has its lease renewed; the answer is a broadcast.
    Renewal,
    Passes(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => attack().prop_map(|(claim, group)| Step::Attack(claim, group)),
        1 => Just(Step::Device),
        1 => Just(Step::Renewal),
        1 => (0..900u64).prop_map(Step::Passes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// A device that speaks up in time, whose lease is renewed in time, keeps address and place,
    /// whatever others claim; and its rules follow it alone.
    #[test]
    fn no_claim_of_an_attacker_moves_a_device(leased in any::<bool>(), steps in vec(step(), 0..200)) {
        let mut table = BindingTable::new(TableConfig { capacity: 64, ..CONFIG });
        let (mut now_ms, mut spoken_ms) = (5_000, 5_000);
        table.observe(&asks(A), 0, now_ms);
        let first = if leased { ack(A, 1) } else { arp(A, 1) };
        prop_assert_eq!(table.observe(&first, 0, now_ms), Outcome::Bound);
        for step in steps {
            match step {
                Step::Attack(claim, group) => {
                    table.observe(&claim, group, now_ms);
                }
                Step::Device => {
                    table.observe(&arp(A, 1), 0, now_ms);
                    spoken_ms = now_ms;
                }
                Step::Renewal if leased => {
                    table.observe(&asks(A), 0, now_ms);
                    for group in 0..3 {
                        table.observe(&ack(A, 1), group, now_ms);
                    }
                    spoken_ms = now_ms;
                }
                Step::Renewal => {}
                Step::Passes(ms) => {
                    now_ms += ms;
                    if now_ms >= spoken_ms + CONFIG.age_ms {
                        now_ms = spoken_ms + CONFIG.age_ms - 1;
                        table.observe(&arp(A, 1), 0, now_ms);
                        table.observe(&asks(A), 0, now_ms);
                        if leased {
                            table.observe(&ack(A, 1), 0, now_ms);
                        }
                        spoken_ms = now_ms;
                    }
                    table.expire(now_ms);
                }
            }
            let held = table.get(NETWORK, ip(1)).copied();
            prop_assert_eq!(held.map(|held| (held.mac, held.inside)), Some((A, true)));
            const WIRES: [WireId; 3] = [WireId(0), WireId(1), WireId(2)];
            let wires = |group: u16| std::slice::from_ref(&WIRES[usize::from(group)]);
            let told = table.bindings(&[A], true, wires);
            let own = Link { wire: WireId(0), tags: VlanTags::UNTAGGED };
            let is_own = |bound: &BoundAddress| bound.address == ip(1) && bound.links.contains(&own);
            prop_assert!(told.of(A).iter().any(is_own));
            prop_assert!(table.len() <= 64 && table.places.len() <= 128);
            let sum: usize = table.counts.values().sum();
            prop_assert_eq!(sum, table.len());
        }
    }
}
