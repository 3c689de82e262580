//! Hosts that fill the flow table, or open flows as fast as they can.

use std::io;

use bulkhead_pipeline::verdict::DropReason;

use super::report::Case;
use super::rig::{self, ESTABLISHED, Sender, Target, Twins};
use super::{Options, compiled, unharmed};
use crate::classbench::Family;
use crate::pipeline::rig::BLOCK;
use crate::pipeline::traffic::{self, Flow, Step};
use crate::shows::Show;

/// Hosts that fill the table together: a botnet of those that the policy lets in.
const ATTACKERS: usize = 1024;

/// One in a hundred of the packets of a flood opens a flow of somebody else.
const NEWCOMER_PERCENT: u32 = 1;

/// Hosts of newcomers: each opens few flows.
const NEWCOMER_HOSTS: usize = 4096;

/// What the greedy host asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Greed {
    /// Flows that the policy permits.
    Permitted,
    /// Flows that it denies.
    Denied,
}

/// As [`traffic::PERMISSIVE`], but for one port.
const NOT_SSH: &str = "version: 1\nrules:\n  - {name: no, from: any, to: any, service: [tcp/22, udp/22], \
                       action: deny}\n  - {name: all, from: any, to: any, service: [tcp/1-65535, \
                       udp/1-65535], action: allow}\n";

/// Answered datagrams until the table is full: none of these flows makes room for another before
/// its timeout.
///
/// # Errors
///
/// None that the options could cause: the policy compiles.
pub(super) fn answered(options: &Options) -> io::Result<Case> {
    full(options, Fill::Answered)
}

/// SYNs that nobody answers: the first to make room.
///
/// # Errors
///
/// As [`answered`].
pub(super) fn half_open(options: &Options) -> io::Result<Case> {
    full(options, Fill::HalfOpen)
}

/// Both in turns.
///
/// # Errors
///
/// As [`answered`].
pub(super) fn mixed(options: &Options) -> io::Result<Case> {
    full(options, Fill::Mixed)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fill {
    Answered,
    HalfOpen,
    Mixed,
}

impl Fill {
    /// Whether the `number`th flow is answered.
    fn is_answered(self, number: usize) -> bool {
        match self {
            Self::Answered => true,
            Self::HalfOpen => false,
            Self::Mixed => number % 2 == 0,
        }
    }
}

fn full(options: &Options, kind: Fill) -> io::Result<Case> {
    let policy = compiled(traffic::PERMISSIVE.to_owned())?;
    let config = rig::default_config();
    let mut twins = Twins::new(&policy, Family::V4, &config, options.seed);
    let capacity = twins.attacked.capacity() as usize;
    // Half more than there is room for, so that no set is left out.
    let mut number = 0;
    twins.attack(|target| {
        for _ in 0..BLOCK / 2 {
            let flow = attacker(number % ATTACKERS, number / ATTACKERS, kind.is_answered(number));
            target.send(&flow, Step::Open, Sender::Attacker);
            if kind.is_answered(number) {
                target.send(&flow, Step::Answer, Sender::Attacker);
            }
            number += 1;
        }
        number < capacity * 3 / 2
    });
    let flows = twins.attacked.flows();
    twins.measure(options.rounds, |_| ());
    let share = newcomers(&mut twins.attacked, 64 * BLOCK);
    let evicted = twins.attacked.evicted();
    let mut shows = vec![Show {
        text: format!(
            "{number} flows of {ATTACKERS} hosts fill {flows} of {capacity} entries; {evicted} \
             unanswered ones made room"
        ),
        kept: Some(flows * 100 >= capacity as u64 * 98),
    }];
    match kind {
        Fill::Answered => shows.push(Show {
            text: format!(
                "{:.1} % of others' new flows find no room meanwhile: answered flows of many hosts make none \
                 (each is counted as {})",
                share * 100.0,
                DropReason::FlowTableFull.label()
            ),
            kept: Some(
                twins.attacked.dropped(DropReason::FlowTableFull)
                    == twins.attacked.tally().newcomers_lost
                        + twins.attacked.tally().attack_stopped,
            ),
        }),
        Fill::HalfOpen => shows.push(Show {
            text: format!("{:.3} % of others' new flows find no room meanwhile; none", share * 100.0),
            kept: Some(share == 0.0),
        }),
        // Both sets of a flow may be full of answered ones: four fifths of the table are.
        Fill::Mixed => shows.push(Show {
            text: format!(
                "{:.3} % of others' new flows find no room meanwhile; under 0.1",
                share * 100.0
            ),
            kept: Some(share < 0.001),
        }),
    }
    shows.extend(unharmed(&twins, 1.5));
    let case = Case::of(&twins).rules(policy.policy.rule_count()).newcomers_lost(share);
    let held_until_s = held_for_s(&mut twins.attacked);
    shows.push(Show {
        text: format!("when the attackers stop, every new flow finds room after {held_until_s} s"),
        kept: Some(held_until_s <= u64::from(config.flows.timeouts.udp_answered_s) + 10),
    });
    Ok(case.shows(shows))
}

/// Seconds until no newcomer is refused any more, in steps of ten. The established flows are kept
/// alive meanwhile.
fn held_for_s(target: &mut Target) -> u64 {
    const STEP_S: u64 = 10;
    for step in 0..100 {
        if newcomers(target, 16 * BLOCK) == 0.0 {
            return step * STEP_S;
        }
        target.age_for_ns(STEP_S * 1_000_000_000);
        for number in 0..ESTABLISHED {
            if !target.send(&rig::established(number, Family::V4), Step::Data, Sender::Established)
            {
                target.judge();
            }
        }
        target.judge();
    }
    u64::MAX
}

/// One host that opens flows as fast as the wire lets it, among others that do so now and then.
///
/// # Errors
///
/// None that the options could cause: the policy compiles.
pub(super) fn greedy(options: &Options, greed: Greed) -> io::Result<Case> {
    let policy = compiled(NOT_SSH.to_owned())?;
    let config = rig::default_config();
    let mut twins = Twins::new(&policy, Family::V4, &config, options.seed);
    let calm_share = newcomers(&mut twins.calm, 64 * BLOCK);
    let mut number = 0;
    let mut wave = |target: &mut Target| {
        for _ in 0..BLOCK {
            if target.random().percent(NEWCOMER_PERCENT) {
                send_newcomer(target);
                continue;
            }
            let (port, dst) = (number % 60_000, number / 60_000);
            number += 1;
            let dst_port = if greed == Greed::Denied { 22 } else { 443 };
            let flow = Flow {
                src: 0x0b00_0001,
                dst: 0x0ac8_0001 + dst as u128,
                src_port: 1024 + port as u16,
                dst_port,
                is_tcp: number % 2 == 0,
            };
            target.send(&flow, Step::Open, Sender::Attacker);
        }
    };
    // Two seconds' budget at once, then at the rate that it earns; ten seconds in all.
    let waves = 10_000_000_000 / rig::PACKET_NS / BLOCK as u64 / 10;
    let mut left = waves;
    twins.attack(|target| {
        wave(target);
        left -= 1;
        left > 0
    });
    twins.measure(options.rounds, wave);
    let tally = twins.attacked.tally();
    let share = tally.newcomers_lost as f64 / tally.newcomers.max(1) as f64;
    let admitted = tally.attack - tally.attack_stopped;
    let seconds = tally.attack as f64 * rig::PACKET_NS as f64 / 1e9;
    let most = f64::from(config.new_flows_per_source) * (seconds + 3.0);
    let mut shows = vec![
        Show {
            text: format!(
                "of {} flows that it asks for in {seconds:.1} s, {admitted} are opened; its budget is \
                 {} a second and twice that at once",
                tally.attack, config.new_flows_per_source
            ),
            kept: Some(admitted as f64 <= most && (greed == Greed::Permitted) == (admitted > 0)),
        },
        Show {
            text: format!(
                "{} of {} new flows of others are refused meanwhile ({:.2} % without it)",
                tally.newcomers_lost,
                tally.newcomers,
                calm_share * 100.0
            ),
            kept: Some(tally.newcomers_lost == 0 && tally.newcomers > 1000),
        },
    ];
    let refused = twins.attacked.dropped(DropReason::NewFlowRate);
    shows.push(Show {
        text: format!("{refused} frames are counted as {}", DropReason::NewFlowRate.label()),
        kept: Some(refused > 0),
    });
    shows.extend(unharmed(&twins, 1.5));
    Ok(Case::of(&twins).shows(shows).rules(policy.policy.rule_count()).newcomers_lost(share))
}

/// Opens flows of hosts that attack nobody; the share that is refused.
fn newcomers(target: &mut Target, count: usize) -> f64 {
    let before = target.tally();
    for _ in 0..count / BLOCK {
        for _ in 0..BLOCK {
            send_newcomer(target);
        }
        target.judge();
        target.wait_ns(20_000_000);
    }
    let after = target.tally();
    let sent = (after.newcomers - before.newcomers).max(1);
    (after.newcomers_lost - before.newcomers_lost) as f64 / sent as f64
}

fn send_newcomer(target: &mut Target) {
    let random = target.random();
    let flow = Flow {
        src: 0x0a40_0000 + random.below(NEWCOMER_HOSTS) as u128,
        dst: 0x0ac8_0001 + random.below(1000) as u128,
        src_port: random.within(1024, u16::MAX),
        dst_port: 443,
        is_tcp: random.percent(50),
    };
    target.send(&flow, Step::Open, Sender::Newcomer);
}

fn attacker(host: usize, number: usize, answered: bool) -> Flow {
    Flow {
        src: 0x0b00_0001 + host as u128,
        dst: 0x0ac8_0001 + (number % 251) as u128,
        src_port: 1024 + number as u16,
        dst_port: if answered { 53 } else { 443 },
        is_tcp: !answered,
    }
}
