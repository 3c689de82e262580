//! Who talks most: the hosts with the most bytes, and those with the most denied packets, out of flow
//! records and so out of what workers counted. Nothing is done for it on the packet path.
//!
//! Of each flow only what came since its last record counts. The memory is bounded twice. Flows whose
//! last totals are remembered: of one that was forgotten, what came since is not known, and left out.
//! Hosts: a sketch of frequent items (Misra and Gries, 1982) keeps those that matter; of what it says of
//! a host, at most [`Talkers::error`] is missing. Everything is of the last five to ten minutes.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bulkhead_pipeline::record::{Event, FlowRecord};
use bulkhead_rules::headers::{Headers, Mac};
use serde::{Deserialize, Serialize};

/// Hosts that a sketch keeps when it is pruned, and how many more it takes before it is.
const KEPT: usize = 512;
const BEFORE_PRUNING: usize = 4 * KEPT;

/// Flows whose last totals are remembered.
const FLOWS: usize = 1 << 16;

/// How long a window is; the one at hand and the one before are told together.
const WINDOW: Duration = Duration::from_secs(300);

/// The most hosts that are told.
const TOLD: usize = 20;

/// Who talks most.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TalkersStatus {
    /// Seconds that the figures are of: up to ten minutes.
    pub since_s: u64,
    /// Hosts by bytes to and from them, the most first.
    pub by_bytes: Vec<Talker>,
    /// Hosts by packets of theirs that no rule lets pass, the most first.
    pub by_denied: Vec<Talker>,
    /// Bytes, and denied packets, that a host may have more than what is told: the memory is bounded.
    pub error_bytes: u64,
    /// See `error_bytes`.
    pub error_denied: u64,
    /// Records of flows whose earlier totals were forgotten: what they carried since is not counted.
    pub unknown_flows: u64,
}

/// A host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Talker {
    /// Its address; of frames without IP, its MAC address.
    pub host: String,
    /// The outer VLAN; 0 where there is none.
    pub vlan: u16,
    /// Bytes that it sent, in frames without FCS.
    pub sent_bytes: u64,
    /// Bytes that it was sent.
    pub received_bytes: u64,
    /// Packets of its that no rule lets pass, or would.
    pub denied_packets: u64,
}

/// Who a host is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Name {
    Ip(IpAddr),
    Mac(Mac),
}

type Host = (Name, u16);

/// What is counted of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    sent: u64,
    received: u64,
    denied: u64,
}

/// Counts of the hosts that have the most of something.
#[derive(Debug, Default)]
struct Sketch {
    hosts: HashMap<Host, (u64, Counts)>,
    /// What was taken from every host to make room.
    error: u64,
}

/// Which flow: its initiator's headers, without what may change.
type FlowName = (u16, u128, u128, [u16; 6], [Mac; 2]);

/// What is known of the talkers.
#[derive(Debug)]
pub struct Talkers {
    windows: [Window; 2],
    began: Instant,
    first: Instant,
    totals: HashMap<FlowName, [u64; 2]>,
    order: VecDeque<FlowName>,
    unknown: u64,
}

#[derive(Debug, Default)]
struct Window {
    bytes: Sketch,
    denied: Sketch,
}

impl Sketch {
    fn add(&mut self, host: Host, weight: u64, counts: Counts) {
        if weight == 0 {
            return;
        }
        let (total, known) = self.hosts.entry(host).or_default();
        *total += weight;
        known.sent += counts.sent;
        known.received += counts.received;
        known.denied += counts.denied;
        if self.hosts.len() > BEFORE_PRUNING {
            self.prune();
        }
    }

    /// Lets go of all but the greatest, and takes from these what the greatest that went had: so
    /// whoever comes back has missed at most that.
    fn prune(&mut self) {
        let mut totals: Vec<u64> = self.hosts.values().map(|(total, _)| *total).collect();
        let (_, cut, _) = totals.select_nth_unstable_by(KEPT, |a, b| b.cmp(a));
        let cut = *cut;
        self.error += cut;
        self.hosts.retain(|_, (total, _)| {
            *total = total.saturating_sub(cut);
            *total > 0
        });
    }
}

impl Default for Talkers {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            windows: Default::default(),
            began: now,
            first: now,
            totals: HashMap::new(),
            order: VecDeque::new(),
            unknown: 0,
        }
    }
}

impl Talkers {
    /// Takes in what a worker told of a flow.
    pub fn take(&mut self, record: &FlowRecord, now: Instant) {
        if now.duration_since(self.began) >= WINDOW {
            let [at_hand, before] = &mut self.windows;
            *before = std::mem::take(at_hand);
            if now.duration_since(self.began) >= 2 * WINDOW {
                *before = Window::default();
            }
            self.began = now;
            self.unknown = 0;
        }
        let [client, server] = hosts(&record.headers);
        if record.event == Event::Denied {
            // Their counters are what came since the last record.
            let (denied, bytes) = (record.packets[0], record.bytes[0]);
            let counts = Counts { sent: bytes, received: 0, denied };
            self.windows[0].denied.add(client, denied, counts);
            return;
        }
        let Some([there, back]) = self.since_last(record) else {
            self.unknown += 1;
            return;
        };
        let bytes = &mut self.windows[0].bytes;
        let (sent, received) = (there, back);
        bytes.add(client, there + back, Counts { sent, received, denied: 0 });
        if !is_group(&record.headers) {
            let (sent, received) = (back, there);
            bytes.add(server, there + back, Counts { sent, received, denied: 0 });
        }
    }

    /// The bytes each way since the last record of the flow; [`None`] where that was forgotten.
    fn since_last(&mut self, record: &FlowRecord) -> Option<[u64; 2]> {
        let name = flow_name(record);
        let known = match record.event {
            Event::Started => {
                self.remember(name);
                Some([0; 2])
            }
            _ => self.totals.get(&name).copied(),
        };
        if record.event == Event::Ended {
            self.totals.remove(&name);
        } else {
            if known.is_none() {
                self.remember(name);
            }
            if let Some(totals) = self.totals.get_mut(&name) {
                *totals = record.bytes;
            }
        }
        let [there, back] = known?;
        Some([record.bytes[0].saturating_sub(there), record.bytes[1].saturating_sub(back)])
    }

    fn remember(&mut self, name: FlowName) {
        if self.totals.insert(name, [0; 2]).is_none() {
            self.order.push_back(name);
        }
        // Names of flows that ended are in the order still: they go the same way.
        while self.order.len() > FLOWS {
            if let Some(oldest) = self.order.pop_front() {
                self.totals.remove(&oldest);
            }
        }
    }

    /// Who talks most now.
    pub fn status(&self, now: Instant) -> TalkersStatus {
        let (by_bytes, error_bytes) = self.greatest(|window| &window.bytes);
        let (by_denied, error_denied) = self.greatest(|window| &window.denied);
        let both = now.duration_since(self.began) + WINDOW;
        TalkersStatus {
            since_s: now.duration_since(self.first).min(both).as_secs(),
            by_bytes,
            by_denied,
            error_bytes,
            error_denied,
            unknown_flows: self.unknown,
        }
    }

    fn greatest(&self, of: impl Fn(&Window) -> &Sketch) -> (Vec<Talker>, u64) {
        let mut sums: HashMap<Host, (u64, Counts)> = HashMap::new();
        for sketch in self.windows.iter().map(&of) {
            for (host, (total, counts)) in &sketch.hosts {
                let (sum, known) = sums.entry(*host).or_default();
                *sum += total;
                known.sent += counts.sent;
                known.received += counts.received;
                known.denied += counts.denied;
            }
        }
        let mut all: Vec<(Host, (u64, Counts))> = sums.into_iter().collect();
        all.sort_by(|a, b| b.1.0.cmp(&a.1.0).then_with(|| a.0.cmp(&b.0)));
        all.truncate(TOLD);
        let told = all.into_iter().map(|((name, vlan), (_, counts))| Talker {
            host: match name {
                Name::Ip(addr) => addr.to_string(),
                Name::Mac(mac) => mac.to_string(),
            },
            vlan,
            sent_bytes: counts.sent,
            received_bytes: counts.received,
            denied_packets: counts.denied,
        });
        (told.collect(), self.windows.iter().map(|window| of(window).error).sum())
    }
}

fn hosts(headers: &Headers) -> [Host; 2] {
    let vlan = headers.tags.outer;
    match (headers.reversed().dst_address(), headers.dst_address()) {
        (Some(src), Some(dst)) => [(Name::Ip(src), vlan), (Name::Ip(dst), vlan)],
        _ => [(Name::Mac(headers.src_mac), vlan), (Name::Mac(headers.dst_mac), vlan)],
    }
}

/// Whether the flow goes to a group, which is no host.
fn is_group(headers: &Headers) -> bool {
    headers.dst_mac.is_group()
}

fn flow_name(record: &FlowRecord) -> FlowName {
    let h = &record.headers;
    let more =
        [h.src_port, h.dst_port, h.ether_type, u16::from(h.protocol), h.tags.outer, h.tags.inner];
    // The MAC addresses of IP hosts may change while a flow goes on.
    let macs = if h.is_ip() { [Mac::default(); 2] } else { [h.src_mac, h.dst_mac] };
    (h.wire.0, h.src, h.dst, more, macs)
}

#[cfg(test)]
mod tests {
    use bulkhead_pipeline::verdict::Verdict;
    use bulkhead_rules::headers::ETHER_IPV4;

    use super::*;

    fn record(event: Event, src: u32, port: u16, bytes: [u64; 2]) -> FlowRecord {
        let headers = Headers {
            src: src.into(),
            dst: 9,
            src_port: port,
            ether_type: ETHER_IPV4,
            ..Headers::default()
        };
        FlowRecord {
            event,
            ending: None,
            headers,
            client_inside: true,
            opening_seen: true,
            answered: true,
            first_ms: 0,
            last_ms: 0,
            packets: [bytes[0] / 100, 0],
            bytes,
            verdict: Verdict::Forward,
            rule: None,
            epoch: 1,
            enforced: true,
            staged: None,
        }
    }

    #[test]
    fn of_each_flow_only_what_is_new_counts() {
        let (mut talkers, now) = (Talkers::default(), Instant::now());
        for (event, bytes) in [
            (Event::Started, [100, 0]),
            (Event::Continues, [1_000, 50]),
            (Event::Ended, [1_500, 70]),
        ] {
            talkers.take(&record(event, 1, 7, bytes), now);
        }
        let status = talkers.status(now);
        let [client, server] = &status.by_bytes[..] else { panic!("{status:?}") };
        assert_eq!(
            (client.host.as_str(), client.sent_bytes, client.received_bytes),
            ("0.0.0.1", 1_500, 70)
        );
        assert_eq!(
            (server.host.as_str(), server.sent_bytes, server.received_bytes),
            ("0.0.0.9", 70, 1_500)
        );
        // A flow that began before anybody counted.
        talkers.take(&record(Event::Continues, 2, 7, [5_000_000, 0]), now);
        talkers.take(&record(Event::Continues, 2, 7, [5_000_300, 0]), now);
        let status = talkers.status(now);
        assert_eq!(status.unknown_flows, 1);
        let second = status.by_bytes.iter().find(|talker| talker.host == "0.0.0.2");
        assert_eq!(second.map(|talker| talker.sent_bytes), Some(300));
    }

    #[test]
    fn denied_packets_are_their_senders() {
        let (mut talkers, now) = (Talkers::default(), Instant::now());
        for _ in 0..3 {
            talkers.take(&record(Event::Denied, 1, 7, [500, 0]), now);
        }
        let status = talkers.status(now);
        assert!(status.by_bytes.is_empty());
        assert_eq!((status.by_denied[0].denied_packets, status.by_denied.len()), (15, 1));
    }

    #[test]
    fn a_flood_of_hosts_pushes_no_real_talker_out_and_memory_is_bounded() {
        let (mut talkers, now) = (Talkers::default(), Instant::now());
        let mut heavy = 0;
        for host in 0..200_000_u32 {
            talkers.take(&record(Event::Denied, 1_000 + host, 7, [100, 0]), now);
            if host % 100 == 0 {
                talkers.take(&record(Event::Denied, 1, 7, [1_000, 0]), now);
                heavy += 10;
            }
        }
        let status = talkers.status(now);
        assert_eq!(status.by_denied[0].host, "0.0.0.1");
        let told = status.by_denied[0].denied_packets;
        assert!(told <= heavy && told + status.error_denied >= heavy, "{status:?}");
        assert!(status.error_denied < heavy / 10, "{status:?}");
        assert!(talkers.windows[0].denied.hosts.len() <= BEFORE_PRUNING);
        for port in 0..u16::MAX {
            for host in 0..2 {
                talkers.take(&record(Event::Started, host, port, [100, 0]), now);
            }
        }
        assert!(talkers.totals.len() <= FLOWS && talkers.order.len() <= FLOWS);
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let (mut talkers, begun) = (Talkers::default(), Instant::now());
        talkers.take(&record(Event::Denied, 1, 7, [500, 0]), begun);
        talkers.take(&record(Event::Denied, 2, 7, [500, 0]), begun + WINDOW);
        assert_eq!(talkers.status(begun + WINDOW).by_denied.len(), 2);
        talkers.take(&record(Event::Denied, 3, 7, [500, 0]), begun + 2 * WINDOW);
        let hosts = talkers.status(begun + 2 * WINDOW).by_denied;
        assert!(hosts.iter().all(|talker| talker.host != "0.0.0.1"), "{hosts:?}");
        talkers.take(&record(Event::Denied, 4, 7, [500, 0]), begun + 9 * WINDOW);
        assert_eq!(talkers.status(begun + 9 * WINDOW).by_denied.len(), 1);
    }
}
