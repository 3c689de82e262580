//! Who sees every frame that arrives behind the gateway, and asks for each whether the policy permits
//! it: by the linear scan, not by the gateway's own engines.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bulkhead_pipeline::conntrack::flag;
use bulkhead_pipeline::parse::{Kind, Parsed, parse, parse_quoted};
use bulkhead_rules::headers::{Headers, PolicyTime, WireId};
use bulkhead_rules::oracle;
use bulkhead_rules::policy::{Action, Policy};
use bulkhead_tests::Host;
use bulkhead_tests::raw::RawPort;

/// Complaints that are kept: the first ones tell what is wrong.
const MOST_COMPLAINTS: usize = 20;

/// A thread that captures on a host which opens no flow itself.
#[derive(Debug)]
pub(crate) struct Witness {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Testimony>,
}

/// What a witness saw.
#[derive(Debug, Default)]
pub(crate) struct Testimony {
    /// Frames by what permits them: a rule's name, or the guard that passes them.
    pub(crate) seen: BTreeMap<String, u64>,
    /// Frames that nothing permits: each a defect of the gateway.
    pub(crate) forbidden: u64,
    /// The first of them.
    pub(crate) complaints: Vec<String>,
}

impl Witness {
    /// Watches a host's interface from now on.
    pub(crate) fn of(host: &Host, policy: &str) -> Self {
        let port = RawPort::open(host);
        let policy = Policy::parse(policy).unwrap_or_else(|errors| panic!("{errors:?}"));
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut judge = Judge::new(policy);
            loop {
                match port.receive(Duration::from_millis(50)) {
                    Some(frame) => judge.see(&frame),
                    // Only once nothing is left.
                    None if flag.load(Ordering::Relaxed) => return judge.testimony,
                    None => {}
                }
            }
        });
        Self { stop, thread }
    }

    /// What it saw until now.
    ///
    /// # Panics
    ///
    /// Where a frame arrived that nothing permits.
    pub(crate) fn testify(self) -> Testimony {
        self.stop.store(true, Ordering::Relaxed);
        let testimony = self.thread.join().unwrap_or_else(|_| panic!("the witness panicked"));
        println!("arrived: {:?}", testimony.seen);
        let Testimony { forbidden, complaints, .. } = &testimony;
        assert!(
            *forbidden == 0,
            "{forbidden} forbidden frames arrived:\n{}",
            complaints.join("\n")
        );
        testimony
    }
}

impl Testimony {
    /// Frames that a rule permitted: all that no guard passes.
    pub(crate) fn by_rules(&self) -> u64 {
        let by_guard = |what: &&String| what.starts_with("guard ");
        self.seen.iter().filter(|(what, _)| !by_guard(what)).map(|(_, count)| count).sum()
    }
}

/// Addresses and ports, as the initiator has them.
type Flow = (u8, u128, u128, u16, u16);

struct Judge {
    policy: Policy,
    /// Flows whose first packet arrived and was permitted.
    flows: HashSet<Flow>,
    /// Packets whose first fragment did: source, destination, identification.
    fragmented: HashSet<(u128, u128, u32)>,
    testimony: Testimony,
}

impl Judge {
    fn new(policy: Policy) -> Self {
        let (flows, fragmented) = (HashSet::new(), HashSet::new());
        Self { policy, flows, fragmented, testimony: Testimony::default() }
    }

    fn see(&mut self, frame: &[u8]) {
        match self.judge(frame) {
            Ok(permit) => *self.testimony.seen.entry(permit).or_default() += 1,
            Err(complaint) => {
                self.testimony.forbidden += 1;
                if self.testimony.complaints.len() < MOST_COMPLAINTS {
                    let bytes: Vec<String> =
                        frame.iter().take(96).map(|byte| format!("{byte:02x}")).collect();
                    self.testimony.complaints.push(format!("{complaint}: {}", bytes.concat()));
                }
            }
        }
    }

    /// What permits a frame, or what is wrong with it.
    fn judge(&mut self, frame: &[u8]) -> Result<String, String> {
        let parsed =
            parse(frame, WireId(0)).map_err(|reason| format!("a frame with {reason:?}"))?;
        match parsed.kind {
            Kind::Arp => Ok("guard arp".to_owned()),
            Kind::NeighbourDiscovery => Ok("guard neighbour discovery".to_owned()),
            Kind::LinkControl => Ok("guard link control".to_owned()),
            Kind::IcmpError => self.judge_error(frame, &parsed),
            Kind::LaterFragment => {
                let id = fragment_id(&parsed).ok_or("a later fragment of nothing")?;
                if self.fragmented.contains(&id) {
                    Ok("later fragments".to_owned())
                } else {
                    Err("a later fragment before its first one".to_owned())
                }
            }
            _ => self.judge_packet(&parsed),
        }
    }

    fn judge_packet(&mut self, parsed: &Parsed) -> Result<String, String> {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let at = PolicyTime { unix_ms: unix_ms as i64, synchronised: true };
        let rule = oracle::classify(&self.policy, &parsed.headers, at);
        let name = self.policy.rule_name(rule);
        if self.policy.action(rule) != Action::Allow {
            return Err(format!("a packet that `{name}` forbids"));
        }
        let is_new = self.flows.insert(flow(&parsed.headers, parsed.flow_ports));
        let opens = parsed.tcp.flags & (flag::SYN | flag::ACK | flag::FIN | flag::RST) == flag::SYN;
        if parsed.kind == Kind::Tcp && is_new && !opens {
            return Err("a segment that is its connection's first and no SYN".to_owned());
        }
        self.fragmented.extend(fragment_id(parsed));
        Ok(name.to_owned())
    }

    /// An error speaks of what this side has sent: of an answer within a permitted flow.
    fn judge_error(&self, frame: &[u8], parsed: &Parsed) -> Result<String, String> {
        let (quoted, ports) =
            parse_quoted(frame, parsed).map_err(|e| format!("an error: {e:?}"))?;
        let (protocol, src, dst, src_port, dst_port) = flow(&quoted, ports);
        if self.flows.contains(&(protocol, dst, src, dst_port, src_port)) {
            Ok("errors of flows".to_owned())
        } else {
            Err("an ICMP error about no permitted flow".to_owned())
        }
    }
}

fn flow(headers: &Headers, ports: (u16, u16)) -> Flow {
    (headers.protocol, headers.src, headers.dst, ports.0, ports.1)
}

fn fragment_id(parsed: &Parsed) -> Option<(u128, u128, u32)> {
    let place = parsed.fragment?;
    Some((parsed.headers.src, parsed.headers.dst, place.id))
}

/// The witness itself: what it must complain about.
#[test]
fn a_witness_complains_about_what_nothing_permits() {
    use bulkhead_pipeline::frames::FrameBuilder;
    let policy = Policy::parse(crate::policies::BASIC).expect("a policy");
    let builder = || FrameBuilder::new().ip([10, 77, 2, 1], [10, 77, 1, 1]);
    let cases = [
        (builder().tcp(4000, 502, flag::SYN).build(), true),
        (builder().tcp(4000, 502, flag::ACK).build(), true),
        (builder().tcp(4001, 502, flag::ACK).build(), false),
        (builder().tcp(4002, 502, flag::SYN | flag::ACK).build(), false),
        (builder().tcp(4000, 503, flag::SYN).build(), false),
        (builder().udp(4000, 53).build(), true),
        (builder().udp(4000, 55).build(), false),
        (FrameBuilder::new().ip([10, 77, 2, 2], [10, 77, 1, 1]).udp(1, 53).build(), false),
        (FrameBuilder::new().ether_type(0x88b5).build(), false),
        (vec![0; 10], false),
    ];
    for (frame, permitted) in cases {
        let mut judge = Judge::new(policy.clone());
        judge.see(&builder().tcp(4000, 502, flag::SYN).build());
        judge.see(&frame);
        assert_eq!(judge.testimony.forbidden == 0, permitted, "{:?}", judge.testimony);
    }
}
