//! Linux as a second opinion: the captures of the data folder, frame by frame, through a bridge with
//! nftables and connection tracking in a namespace, and through the gateway's worker, under the same
//! rules. Each kind of difference is listed in `tests/golden/nftables-differences.tsv`, with its count and
//! the reason for it; the test prints the table as it comes out. With `BULKHEAD_SHOW=1` it also says in
//! which capture each frame is that they differ on.
//!
//! Linux: two hosts' interfaces, a bridge between them without learning, `br_netfilter`, so that the
//! `inet` hooks and connection tracking see what is bridged (kernels often lack the bridge's own
//! conntrack), VLAN tags included. Ours: the production worker between ports in memory, which are as
//! quick. Neither knows time: a capture goes through as fast as it can, so that no timeout counts.
//! Of each capture the first frames go through, in the directions that a host's first frame suggests.

mod linux;
mod rules;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bulkhead_pipeline::parse::{Kind, Parsed, parse};
use bulkhead_pipeline::port::capture::{CaptureReader, LinkType};
use bulkhead_rules::headers::{WireId, protocol};
use bulkhead_tests::frames::checksum;
use bulkhead_tests::{Rig, skip};

use self::linux::{Bridge, Fate};
use self::rules::POLICIES;
use self::worker::Ours;

/// Frames of each capture.
const FRAMES: usize = 500;

/// Where the differences are explained.
const LIST: &str = "golden/nftables-differences.tsv";

#[test]
fn nftables_agrees_but_for_what_is_explained() {
    let test = "second_opinion::nftables_agrees_but_for_what_is_explained";
    let Some(folder) = captures(test) else { return };
    let Some(rig) = Rig::or_skip(test, 1) else { return };
    if let Some(reason) = Bridge::why_not(&rig) {
        return skip(test, &reason);
    }
    let mut bridge = Bridge::new(&rig);
    let mut table = Table::default();
    for policy in &POLICIES {
        bridge.load(policy);
        let ours = Ours::new(policy);
        for path in &folder {
            compare(path, &mut bridge, ours.fresh(), policy.name, &mut table);
        }
    }
    print!("{}", table.text());
    table.check();
}

/// What a comparison counts: the policy, what kind of frame it is, our verdict, Linux's.
type Compared = (&'static str, String, String, &'static str);

#[derive(Debug, Default)]
struct Table {
    counts: BTreeMap<Compared, u64>,
    unsendable: u64,
}

impl Table {
    /// Kinds on which both agree: passed by both, dropped by both.
    fn agrees(kind: &Compared) -> bool {
        (kind.2 == "pass") == (kind.3 == "pass")
    }

    fn text(&self) -> String {
        let mut out = String::from("policy\tframes of\tbulkhead\tnftables\tframes\n");
        let mut agreed: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (kind, count) in &self.counts {
            if Self::agrees(kind) {
                *agreed.entry((kind.0, kind.3)).or_default() += count;
            } else {
                let (policy, class, ours, linux) = kind;
                out += &format!("{policy}\t{class}\t{ours}\t{linux}\t{count}\n");
            }
        }
        for ((policy, verdict), count) in agreed {
            out += &format!("{policy}: both {verdict} {count} frames\n");
        }
        out + &format!("{} frames that no interface could send were left out\n", self.unsendable)
    }

    /// Compares with the list: every kind of difference is on it, with its count where the list was
    /// made on a kernel like this one.
    fn check(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(LIST);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let listed = listed(&text);
        let exact = text.contains(&format!("# kernel {}\n", kernel()));
        if !exact {
            println!("the list is of another kernel than {}: counts are not compared", kernel());
        }
        let mut wrong = Vec::new();
        for (kind, count) in self.counts.iter().filter(|(kind, _)| !Self::agrees(kind)) {
            let (policy, class, ours, linux) = kind;
            let key = [policy, class.as_str(), ours.as_str(), linux].map(str::to_owned);
            match listed.get(&key) {
                None => wrong.push(format!("not explained: {} {count}", key.join("\t"))),
                Some(frames) if exact && frames != count => {
                    wrong.push(format!("{}: {count} frames, {frames} listed", key.join("\t")));
                }
                Some(_) => {}
            }
        }
        for key in listed.keys().filter(|_| exact) {
            let found = self.counts.keys().any(|(policy, class, ours, linux)| {
                [policy, class.as_str(), ours.as_str(), linux].iter().zip(key).all(|(a, b)| *a == b)
            });
            if !found {
                wrong.push(format!("listed, and no difference any more: {}", key.join("\t")));
            }
        }
        assert!(
            wrong.is_empty(),
            "these differ from tests/{LIST}; look at the frames before the list is changed:\n{}",
            wrong.join("\n")
        );
        let frames: u64 = self.counts.values().sum();
        assert!(frames > 50_000, "only {frames} frames were compared");
    }
}

/// The list: kinds with their counts. Every line has its reason.
fn listed(text: &str) -> HashMap<[String; 4], u64> {
    let mut list = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [policy, class, ours, linux, frames, why] = fields[..] else {
            panic!("six fields in {line:?}")
        };
        assert!(why.len() > 20, "{line:?} is not explained");
        let frames = frames.parse().unwrap_or_else(|e| panic!("{line:?}: {e}"));
        let key = [policy, class, ours, linux].map(str::to_owned);
        assert!(list.insert(key, frames).is_none(), "{line:?} stands twice");
    }
    list
}

/// Major and minor version: what decides how frames are judged.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// Sends a capture's frames through both, and counts how they agree.
fn compare(
    path: &Path,
    bridge: &mut Bridge<'_>,
    mut ours: Ours,
    policy: &'static str,
    table: &mut Table,
) {
    // What is no capture, or ends early, is compared as far as it goes.
    let Ok(mut reader) = CaptureReader::open(path) else { return };
    let mut sides = Sides::default();
    let mut has_fragments = false;
    let is_verbose = std::env::var_os("BULKHEAD_SHOW").is_some();
    let (mut frames, mut number) = (0, 0);
    while let Ok(Some(record)) = reader.next_record() {
        number += 1;
        if record.link_type != LinkType::ETHERNET || record.is_cut() {
            continue;
        }
        frames += 1;
        if frames > FRAMES {
            break;
        }
        let frame = record.bytes;
        let from_inside = sides.is_inside(frame);
        let Some(fate) = bridge.judge(frame, from_inside) else {
            table.unsendable += 1;
            continue;
        };
        let class = class(frame);
        has_fragments |= class.contains("fragment");
        let verdict = ours.judge(frame, from_inside);
        let fate = match fate {
            Fate::Passed => "pass",
            Fate::Changed => "changed",
            Fate::Dropped => "drop",
        };
        let differs = (verdict == "pass") != (fate == "pass");
        if differs && is_verbose {
            println!("{policy}\t{class}\t{verdict}\t{fate}: {} frame {number}", path.display());
        }
        *table.counts.entry((policy, class, verdict, fate)).or_default() += 1;
    }
    bridge.forget(has_fragments);
}

/// What kind of frame it is, as far as that explains a difference.
fn class(frame: &[u8]) -> String {
    let Ok(parsed) = parse(frame, WireId(0)) else { return "malformed".to_owned() };
    let headers = &parsed.headers;
    let what = match headers.protocol {
        _ if parsed.kind == Kind::Arp => "arp",
        _ if !headers.is_ip() => "not ip",
        _ if parsed.fragment.is_some() => "fragment",
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmpv6",
        _ => "other protocol",
    };
    let tagged = if headers.tags.outer == 0 { "" } else { "vlan " };
    let wrong = if has_wrong_checksum(frame, &parsed) { ", wrong checksum" } else { "" };
    let nobody = if headers.src_mac.0 == [0; 6] { " of no MAC address" } else { "" };
    format!("{tagged}{what}{wrong}{nobody}")
}

/// Whether the checksum of TCP, UDP or ICMP is there and wrong.
fn has_wrong_checksum(frame: &[u8], parsed: &Parsed) -> bool {
    let headers = &parsed.headers;
    let upper = usize::from(parsed.upper_offset)..usize::from(parsed.packet_end);
    let Some(upper) = frame.get(upper).filter(|_| headers.is_ip()) else { return false };
    if parsed.fragment.is_some() || (headers.protocol == protocol::UDP && upper[6..8] == [0, 0]) {
        return false;
    }
    let pseudo = match headers.protocol {
        protocol::ICMP => Vec::new(),
        protocol::TCP | protocol::UDP | protocol::ICMPV6 => {
            let addresses = [headers.src.to_be_bytes(), headers.dst.to_be_bytes()].concat();
            let length = (upper.len() as u32).to_be_bytes();
            [&addresses[..], &length, &[0, 0, 0, headers.protocol]].concat()
        }
        _ => return false,
    };
    checksum(&[&pseudo, upper].concat()) != 0
}

/// Which MAC address is on which side: who speaks first is outside, whom he speaks to inside.
#[derive(Debug, Default)]
struct Sides(HashMap<[u8; 6], bool>);

impl Sides {
    fn is_inside(&mut self, frame: &[u8]) -> bool {
        let mac = |at: usize| frame.get(at..at + 6).and_then(|bytes| bytes.try_into().ok());
        let (Some(dst), Some(src)): (Option<[u8; 6]>, Option<[u8; 6]>) = (mac(0), mac(6)) else {
            return false;
        };
        let of_src = self.0.get(&src).copied();
        let of_dst = self.0.get(&dst).copied();
        let inside = of_src.or(of_dst.map(|inside| !inside)).unwrap_or(false);
        self.0.insert(src, inside);
        if dst[0] & 1 == 0 {
            self.0.entry(dst).or_insert(!inside);
        }
        inside
    }
}

/// The captures of the data folder, in order; [`None`] is a skip that says so, and a failure in CI.
fn captures(test: &str) -> Option<Vec<PathBuf>> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let data = std::env::var_os("BULKHEAD_DATA").map_or_else(default, PathBuf::from);
    let folder = data.join("captures");
    if !folder.is_dir() {
        let absent = format!("no captures at {} (set BULKHEAD_DATA)", folder.display());
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{absent}");
        skip(test, &absent);
        return None;
    }
    let (mut folders, mut files) = (vec![folder], Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Some(files)
}
