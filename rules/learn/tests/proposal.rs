//! A small plant from observations to policy text: what is learnt, what is not, and that the rule
//! line reads it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bulkhead_learn::admit::Doubt;
use bulkhead_learn::confidence::{self, Permits};
use bulkhead_learn::drift::{Advice, Triage};
use bulkhead_learn::learn::{self, Options, Proposal};
use bulkhead_learn::observe::{
    HostFacts, HostKey, Observation, Opening, Outcome, PortProtocol, Service,
};
use bulkhead_learn::store::{HostId, Store};
use bulkhead_learn::text::{self, Context};
use bulkhead_learn::{explain, names, update};
use bulkhead_rules::headers::Mac;
use bulkhead_rules::policy::{LoadOptions, Policy};
use bulkhead_rules::syntax::Source;

const HOURS: u32 = 24;

fn address(last: u8) -> HostKey {
    HostKey::Address(IpAddr::V4(Ipv4Addr::new(10, 20, 0, last)))
}

fn flow(client: u8, server: u8, port: u16, hour: u32, outcome: Outcome) -> Observation {
    Observation {
        hour,
        client: address(client),
        server: address(server),
        service: Service::Port(PortProtocol::Tcp, port),
        opening: Opening::Seen,
        outcome,
    }
}

/// Two HMIs (1, 2) on six PLCs (11 to 16), a historian (20) that reads them and reports to a server
/// (30), an intruder (66) that sweeps for shells once, and a port scan of one PLC by it.
fn plant() -> Vec<Observation> {
    let mut seen = Vec::new();
    for hour in 0..HOURS {
        for plc in 11..=16 {
            for hmi in [1, 2] {
                seen.push(flow(hmi, plc, 502, hour, Outcome::BothWays));
            }
            seen.push(flow(20, plc, 102, hour, Outcome::BothWays));
        }
        seen.push(flow(20, 30, 1433, hour, Outcome::BothWays));
        // A port that the server chooses anew each hour.
        seen.push(flow(20, 30, 50_000 + hour as u16 * 7, hour, Outcome::BothWays));
    }
    for target in [1, 2, 11, 12, 13, 14, 15, 16, 20, 30] {
        seen.push(flow(66, target, 22, 5, Outcome::Failed));
        seen.push(flow(66, target, 80, 7, Outcome::BothWays));
    }
    for port in 1_000..1_100 {
        seen.push(flow(66, 11, port, 9, Outcome::BothWays));
    }
    seen
}

fn store(seen: &[Observation]) -> Store {
    let mut store = Store::new();
    seen.iter().for_each(|seen| store.observe(seen));
    store.settle();
    store
}

fn id(store: &Store, key: &HostKey) -> HostId {
    let at = store.hosts().iter().position(|host| host.key == *key).expect("a host of the plant");
    HostId(at as u32)
}

fn written(store: &Store, proposal: &Proposal) -> String {
    let options = Options::default();
    let explanations = explain::explain(store, proposal, &options);
    let names = names::name(store, proposal, &names::Known::new());
    let confidence = confidence::predict(store, &options, confidence::AHEAD);
    let context = Context { names: &names, confidence, ..Context::default() };
    text::write(store, proposal, &explanations, context, |_, _, _| false).to_string()
}

fn check(text: &str) -> Policy {
    match Policy::load(&[Source::new("80-learned.yaml", text)], &LoadOptions::default()) {
        Ok(loaded) => loaded.policy,
        Err(errors) => panic!("{}\n{text}", errors[0]),
    }
}

#[test]
fn a_plant_becomes_a_handful_of_rules_without_the_intruder() {
    let store = store(&plant());
    let proposal = learn::learn(&store, &Options::default());
    let text = written(&store, &proposal);
    let policy = check(&text);
    assert!(policy.rules().into_iter().count() <= 5, "{text}");
    assert!(text.contains("49152-65535"), "dynamic ports are one range: {text}");
    assert!(!text.contains("10.20.0.66"), "{text}");
    let permits = Permits::new(&proposal, store.hosts().len());
    for seen in plant() {
        let (client, server) = (id(&store, &seen.client), id(&store, &seen.server));
        let is_intruder = seen.client == address(66);
        assert_ne!(permits.permits(client, server, seen.service), is_intruder, "{seen:?}");
    }
    let doubts: BTreeSet<Doubt> = proposal.doubtful.iter().map(|edge| edge.doubt).collect();
    assert!(doubts.contains(&Doubt::Unanswered) && doubts.contains(&Doubt::Probe), "{doubts:?}");
}

#[test]
fn the_same_input_gives_the_same_bytes_in_any_order() {
    let mut seen = plant();
    let one = store(&seen);
    let text = written(&one, &learn::learn(&one, &Options::default()));
    // Hours stay in order, as they come; within them everything turns around.
    seen.reverse();
    seen.sort_by_key(|seen| seen.hour);
    let other = store(&seen);
    assert_eq!(text, written(&other, &learn::learn(&other, &Options::default())));
}

#[test]
fn names_persist_when_a_group_grows() {
    let before = store(&plant());
    let proposal = learn::learn(&before, &Options::default());
    let given = names::name(&before, &proposal, &names::Known::new());
    let mut known = names::remember(&before, &proposal, &given);
    // Somebody called the PLCs by their name.
    let plc = id(&before, &address(11));
    let old = &given[proposal.role_of[plc.0 as usize] as usize];
    let hosts = known.remove(old).expect("the group of the PLCs");
    known.insert(Arc::from("line-3"), hosts);
    let mut seen = plant();
    for hour in 0..HOURS {
        seen.push(flow(1, 17, 502, hour, Outcome::BothWays));
        seen.push(flow(2, 17, 502, hour, Outcome::BothWays));
        seen.push(flow(20, 17, 102, hour, Outcome::BothWays));
    }
    let after = store(&seen);
    let proposal = learn::learn(&after, &Options::default());
    let given = names::name(&after, &proposal, &known);
    let grown = id(&after, &address(17));
    assert_eq!(&*given[proposal.role_of[grown.0 as usize] as usize], "line-3");
}

#[test]
fn hand_written_rules_are_not_repeated() {
    let store = store(&plant());
    let options = Options::default();
    let proposal = learn::learn(&store, &options);
    let explanations = explain::explain(&store, &proposal, &options);
    let modbus = Service::Port(PortProtocol::Tcp, 502);
    let by_hand = |_, _, service| service == modbus;
    let text = text::write(&store, &proposal, &explanations, Context::default(), by_hand);
    assert!(!text.to_string().contains("tcp/502"), "{text}");
    assert_eq!(text.rules.iter().filter(|name| name.is_none()).count(), 1);
    check(&text.to_string());
}

#[test]
fn devices_are_written_by_what_identifies_them() {
    let mut store = store(&plant());
    let hmi = id(&store, &address(1));
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let name = Some(Arc::from("HMI 1"));
    store.describe(hmi, HostFacts { name, mac: Some(mac), ..HostFacts::default() });
    let text = written(&store, &learn::learn(&store, &Options::default()));
    assert!(text.contains("hmi-1: {mac: \"02:00:00:00:00:01\"}"), "{text}");
    check(&text);
}

#[test]
fn denials_are_triaged_and_nothing_is_widened() {
    let mut store = store(&plant());
    let proposal = learn::learn(&store, &Options::default());
    let modbus = Service::Port(PortProtocol::Tcp, 502);
    for hour in [HOURS, HOURS + 1] {
        store.observe(&flow(3, 11, 502, hour, Outcome::BothWays));
        store.observe(&flow(1, 11, 502, hour, Outcome::BothWays));
        store.observe(&flow(1, 30, 3389, hour, Outcome::BothWays));
    }
    let triage = Triage::new(&proposal, proposal.role_of.len());
    let new = id(&store, &address(3));
    let hmi = id(&store, &address(1));
    let advice = triage.judge(&store, new, id(&store, &address(11)), modbus);
    assert_eq!(advice, Advice::PlaceNew { role: Some(proposal.role_of[hmi.0 as usize]) });
    let folded = update::fold_in(&proposal, &store, HOURS);
    assert_eq!(folded.permitted, 1);
    let advice: Vec<Advice> = folded.pending.iter().map(|(_, advice)| *advice).collect();
    assert!(advice.contains(&Advice::Ask) && advice.len() == 2, "{advice:?}");
    assert!(triage.unused_since(&store, HOURS).len() + 1 >= proposal.rules.len());
}

#[test]
fn little_time_makes_no_prediction_and_steady_time_a_good_one() {
    let seen: Vec<Observation> =
        plant().into_iter().filter(|seen| seen.client != address(66)).collect();
    let short: Vec<Observation> = seen.iter().filter(|seen| seen.hour < 3).cloned().collect();
    assert_eq!(confidence::predict(&store(&short), &Options::default(), 24), None);
    let confidence = confidence::predict(&store(&seen), &Options::default(), 24).expect("24 hours");
    assert!(confidence.denied <= 1e-9, "{confidence:?}");
}

/// A site of forty hosts; every other hour another one comes, to stay.
fn growing(hours: std::ops::Range<u32>) -> Vec<Observation> {
    let hosts_of = |hour: u32| 1..41 + hour.div_ceil(2) as u8;
    hours
        .flat_map(|hour| {
            hosts_of(hour).map(move |host| flow(host, 200, 443, hour, Outcome::BothWays))
        })
        .collect()
}

#[test]
fn hosts_that_come_to_stay_are_foreseen_the_further_ahead_the_more() {
    let learnt = store(&growing(0..24));
    let options = Options::default();
    let proposal = learn::learn(&learnt, &options);
    let permits = Permits::new(&proposal, learnt.hosts().len());
    for ahead in [24, 48] {
        let mut all = store(&growing(0..24));
        let tested = growing(24..24 + ahead);
        tested.iter().for_each(|seen| all.observe(seen));
        let is_denied = |seen: &&Observation| {
            !permits.permits(id(&all, &seen.client), id(&all, &seen.server), seen.service)
        };
        let actual = tested.iter().filter(is_denied).count() as f64 / tested.len() as f64;
        let predicted = confidence::predict(&learnt, &options, ahead).expect("a day");
        let ratio = predicted.denied / actual;
        assert!((1.0 / 1.5..=1.5).contains(&ratio), "{ahead}: {actual}, {predicted:?}");
        assert!(predicted.least <= actual && actual <= predicted.most, "{actual}, {predicted:?}");
        assert!(predicted.newcomers > 0.5 * predicted.denied, "{predicted:?}");
    }
}
