//! Who has which address, and rules that follow: the workers' claims to the binding table, and what
//! holds to the policy that they judge by.
//!
//! [`follow`] is a thread of its own. [`report`] is what people see, [`file`] what a restart finds.
//!
//! Locks are taken in one order: [`Gateway::bindings`] before [`Gateway::policy`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_pipeline::bindings::table::Outcome;
use bulkhead_pipeline::bindings::{BindingTable, Observation};
use bulkhead_pipeline::snapshot::EditedContent;
use bulkhead_pipeline::snapshot::staged::Staging;
use bulkhead_rules::classifier::{Changes, Classifier};
use bulkhead_rules::compile::Compiler;
use bulkhead_rules::headers::{Mac, WireId};
use bulkhead_rules::policy::{Bindings, Policy};
use tracing::{error, info, warn};

use crate::candidate::Candidate;
use crate::config::Config;
use crate::state::Gateway;

pub mod file;
pub mod report;
pub mod staged;

/// How often the workers' claims are looked at.
const TICK: Duration = Duration::from_millis(20);

/// How often what has run out is dropped.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often, at most, what has changed is written to the disk.
const KEEP_INTERVAL: Duration = Duration::from_secs(10);

/// The same where nothing has changed but that bindings run out later.
const KEEP_RENEWED_INTERVAL: Duration = Duration::from_secs(60);

/// Claims of one worker that are looked at before others have their turn: in a flood too, the lock is
/// let go.
const CLAIMS_PER_TURN: usize = 1024;

/// After a publication, how many times as long as it took no other one may begin: where bindings change
/// all the time, following them takes a fifth of a core at most.
const REST: u32 = 4;

/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_millis(400);

/// Log lines about conflicts in a second.
const LINES_PER_SECOND: u32 = 2;

/// How often people are told, at most, that rules do not follow.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// The binding table, and what keeps the policy in step with it.
pub struct Followed {
    /// The table.
    pub table: BindingTable,
    /// The policy without bindings, once there is one.
    base: Option<Arc<Policy>>,
    /// What was taken up last: what workers that start judge by.
    taken_up: Option<(Arc<Policy>, Arc<Classifier>)>,
    /// The MAC addresses that it names, ascending.
    named: Vec<Mac>,
    /// Compiles what changes; none where the policy names no MAC address.
    compiler: Option<Compiler>,
    /// The same for the staged policy.
    staged: Option<staged::StagedFollowed>,
    /// How often people are told that rules do not follow.
    not_followed: Seldom,
    /// The same for rules of the staged policy.
    not_followed_staged: Seldom,
    /// [`BindingTable::changes`] when the policy was last brought up to date.
    published: u64,
    /// The same for the file.
    kept: u64,
    /// [`BindingTable::renewals`] when the file was last written.
    kept_renewals: u64,
    wires: Wires,
    guards: bool,
}

/// The wires of each redundancy group, by its number.
struct Wires(Vec<Vec<WireId>>);

impl Wires {
    fn of(config: &Config) -> Self {
        let mut wires = vec![Vec::new(); config.wires.len()];
        for wire in 0..config.wires.len() {
            let id = WireId(u16::try_from(wire).unwrap_or(u16::MAX));
            wires[config.group_of(wire)].push(id);
        }
        Self(wires)
    }

    fn group(&self, group: u16) -> &[WireId] {
        self.0.get(usize::from(group)).map_or(&[], Vec::as_slice)
    }
}

impl Followed {
    /// What nobody has claimed anything from yet.
    pub fn new(config: &Config) -> Self {
        Self {
            table: BindingTable::new(config.bindings.table),
            base: None,
            taken_up: None,
            named: Vec::new(),
            compiler: None,
            staged: None,
            not_followed: Seldom::default(),
            not_followed_staged: Seldom::default(),
            published: 0,
            kept: 0,
            kept_renewals: 0,
            wires: Wires::of(config),
            guards: config.bindings.guard,
        }
    }

    /// The MAC addresses that the policy in force names.
    pub fn named(&self) -> &[Mac] {
        &self.named
    }

    /// The policy in force, as its text has it.
    pub fn base(&self) -> Option<&Arc<Policy>> {
        self.base.as_ref()
    }

    fn told(&self, named: &[Mac]) -> Arc<Bindings> {
        Arc::new(self.table.bindings(named, self.guards, |group| self.wires.group(group)))
    }
}

/// A policy with the bindings of the moment, and what compiles later ones.
pub struct Prepared {
    policy: Arc<Policy>,
    named: Vec<Mac>,
    compiler: Option<Compiler>,
}

/// Compiles what a policy that is about to be in force needs to follow bindings. Takes as long as
/// compiling it did, where it names MAC addresses, and nothing where it does not.
pub fn prepare(gateway: &Gateway, candidate: &Candidate) -> Prepared {
    let (policy, named) = (candidate.policy.clone(), candidate.policy.named_macs());
    if named.is_empty() {
        return Prepared { policy, named, compiler: None };
    }
    let told = gateway.bindings().told(&named);
    let (bound, _) = policy.bound(&told);
    let limits = &gateway.config.limits.compile;
    let compiler = Compiler::new(&bound, limits).or_else(|error| {
        error!("{error}: the addresses of MAC addresses are not followed beyond their links");
        Compiler::new(&policy, limits)
    });
    Prepared { policy, named, compiler: compiler.ok() }
}

impl Followed {
    /// Takes up a policy. Returns what is to be published: the policy with the bindings that hold now.
    pub fn take_up(
        &mut self,
        prepared: Prepared,
        candidate: &Candidate,
        now_ms: u64,
    ) -> (Arc<Policy>, Arc<Classifier>) {
        let Prepared { policy, named, compiler } = prepared;
        self.table.fix(fixed(&policy), now_ms);
        self.table.prefer(&named);
        (self.named, self.compiler) = (named, compiler);
        self.base = Some(policy.clone());
        let in_force = match &mut self.compiler {
            Some(compiler) => (Arc::new(compiler.policy().clone()), compiler.publish()),
            None => (policy, candidate.classifier.clone()),
        };
        let taken_up = match self.bring_up_to_date(&in_force) {
            Some(edited) => (edited.policy, edited.classifier),
            None => in_force,
        };
        self.taken_up = Some(taken_up.clone());
        taken_up
    }

    /// What workers that start judge by, once a policy was taken up.
    pub fn taken_up(&self) -> Option<(Arc<Policy>, Arc<Classifier>)> {
        self.taken_up.clone()
    }

    /// The policy in force with the bindings that hold now; [`None`] where that is no change, or more
    /// than the limits grant.
    fn bring_up_to_date(
        &mut self,
        (policy, classifier): &(Arc<Policy>, Arc<Classifier>),
    ) -> Option<EditedContent> {
        self.published = self.table.changes();
        let mut told = self.told(&self.named);
        if self.compiler.is_none() {
            // The classifier follows no address then, and the policy says what that does.
            told = Arc::new(told.without_addresses());
        }
        if told == *policy.bindings() {
            return None;
        }
        let (policy, delta) = policy.bound(&told);
        let nothing = Changes::Footprints { src: Vec::new(), dst: Vec::new() };
        let (classifier, changes) = match &mut self.compiler {
            Some(compiler) => match compiler.edit(&policy, &delta) {
                Ok(changes) => (compiler.publish(), changes),
                Err(error) => {
                    // While it does not fit it is tried again with every change.
                    if self.not_followed.is_due() {
                        error!("{error}: rules do not follow what has just changed");
                    }
                    return None;
                }
            },
            None => (classifier.clone(), nothing),
        };
        Some(EditedContent {
            policy: Arc::new(policy),
            classifier,
            changes,
            rules_added: Vec::new(),
            rules_removed: Vec::new(),
        })
    }
}

/// The MAC addresses that may have an address, by the devices of the policy that have both.
fn fixed(policy: &Policy) -> HashMap<IpAddr, Vec<Mac>> {
    let mut fixed: HashMap<IpAddr, Vec<Mac>> = HashMap::new();
    for device in policy.devices().filter(|device| !device.macs.is_empty()) {
        let addresses = &device.addresses;
        let v4 = addresses.v4.ranges().iter().filter(|(low, high)| low == high);
        let v6 = addresses.v6.ranges().iter().filter(|(low, high)| low == high);
        let single = v4.map(|&(a, _)| IpAddr::V4(a.into()));
        for address in single.chain(v6.map(|&(a, _)| IpAddr::V6(a.into()))) {
            fixed.entry(address).or_default().extend(&device.macs);
        }
    }
    fixed
}

/// Follows the workers' claims until the gateway stops.
pub fn follow(gateway: &Gateway) {
    let mut follower = Follower::new();
    while !gateway.is_stopping() {
        follower.turn(gateway);
        thread::sleep(TICK);
    }
    follower.keep(gateway, true);
}

/// What the thread knows from one turn to the next.
struct Follower {
    expired: Instant,
    kept: Instant,
    rests_until: Instant,
    /// Of the second that began then, the lines that may still be logged.
    lines: (Instant, u32),
    suppressed: u64,
}

impl Follower {
    fn new() -> Self {
        let now = Instant::now();
        let lines = (now, LINES_PER_SECOND);
        Self { expired: now, kept: now, rests_until: now, lines, suppressed: 0 }
    }

    fn turn(&mut self, gateway: &Gateway) {
        let now = Instant::now();
        let now_ms = gateway.uptime_ms();
        let mut followed = gateway.bindings();
        for worker in gateway.workers() {
            let mut source = worker.claims();
            for claim in std::iter::from_fn(|| source.take()).take(CLAIMS_PER_TURN) {
                let group = gateway.config.group_of(usize::from(claim.wire.0));
                let group = u16::try_from(group).unwrap_or(u16::MAX);
                let outcome = followed.table.observe(&claim, group, now_ms);
                self.tell(gateway, &claim, outcome);
            }
        }
        if now.duration_since(self.expired) >= EXPIRY_INTERVAL {
            self.expired = now;
            followed.table.expire(now_ms);
        }
        if followed.published != followed.table.changes() && now >= self.rests_until {
            publish(gateway, &mut followed);
            self.rests_until = Instant::now() + (now.elapsed() * REST).min(LONGEST_REST);
        }
        drop(followed);
        let since_kept = now.duration_since(self.kept);
        if since_kept >= KEEP_INTERVAL {
            self.keep(gateway, since_kept >= KEEP_RENEWED_INTERVAL);
        }
    }

    /// Writes down what has changed, and where `renewed` is true, what only runs out later.
    fn keep(&mut self, gateway: &Gateway, renewed: bool) {
        let mut followed = gateway.bindings();
        let is_renewed = renewed && followed.kept_renewals != followed.table.renewals();
        if followed.kept == followed.table.changes() && !is_renewed {
            return;
        }
        self.kept = Instant::now();
        followed.kept = followed.table.changes();
        followed.kept_renewals = followed.table.renewals();
        let file = file::File::of(gateway, &followed.table);
        drop(followed);
        if let Err(error) = file.write(&gateway.config.state_dir) {
            warn!("the bindings could not be kept for a restart: {error}");
        }
    }

    fn tell(&mut self, gateway: &Gateway, claim: &Observation, outcome: Outcome) {
        let Outcome::Conflict(kind) = outcome else { return };
        if self.lines.0.elapsed() >= Duration::from_secs(1) {
            self.lines = (Instant::now(), LINES_PER_SECOND);
        }
        if self.lines.1 == 0 {
            self.suppressed += 1;
            return;
        }
        self.lines.1 -= 1;
        let wires = &gateway.config.wires;
        let wire = wires.get(usize::from(claim.wire.0)).map_or("", |wire| wire.name.as_str());
        warn!(
            conflict = kind.label(),
            by = claim.kind.label(),
            mac = %claim.mac,
            address = %claim.address,
            wire,
            side = if claim.inside { "inside" } else { "outside" },
            not_logged_before = std::mem::take(&mut self.suppressed),
            "a claim contradicts what is known and is ignored: `bulkhead bindings` shows both; if it \
             is right, `bulkhead bindings --forget ADDRESS`"
        );
    }
}

/// Brings what the workers judge by up to date.
fn publish(gateway: &Gateway, followed: &mut Followed) {
    let in_force = {
        let state = gateway.policy();
        let Some(publisher) = &state.publisher else { return };
        let content = &publisher.current().content;
        (content.policy.clone(), content.classifier.clone())
    };
    // Nobody else publishes another policy meanwhile: who does holds the bindings.
    let edited = followed.bring_up_to_date(&in_force);
    let staged = followed.bring_staged_up_to_date();
    let mut state = gateway.policy();
    let Some(publisher) = &mut state.publisher else { return };
    if let Some(edited) = edited {
        publisher.publish_edit(edited);
        // The workers run by another one now, and it would keep its memory.
        followed.taken_up = None;
    }
    if let Some(staged) = staged {
        publisher.stage(Staging::Follow(staged));
    }
    publisher.collect();
}

/// Takes up what an earlier run has kept.
pub fn restore(gateway: &Gateway) {
    match file::File::read(&gateway.config.state_dir) {
        Ok(None) => {}
        Ok(Some(file)) => {
            let mut followed = gateway.bindings();
            let count = file.restore(gateway, &mut followed.table);
            info!(bindings = count, "bindings of the run before hold on");
        }
        Err(error) => warn!("{error}"),
    }
}

/// When people were last told of what may happen many times a second.
#[derive(Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    /// Whether they are to be told again, which they then were.
    fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|at| at.elapsed() >= TOLD_AGAIN);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::Path;

    use bulkhead_pipeline::bindings::ObservationKind;
    use bulkhead_rules::compile::{Limits, compile};
    use bulkhead_rules::headers::VlanTags;

    use super::*;

    const PLC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 30, 0, 7));

    #[test]
    fn where_the_classifier_follows_no_address_the_policy_says_so() {
        let text = "policy = \"p\"\n[[wire]]\nname = \"w\"\ninside = \"a\"\noutside = \"b\"\n";
        let config = Config::parse("", Path::new(""), text).expect("it is one");
        let mut followed = Followed::new(&config);
        followed.named = vec![PLC];
        followed.table.prefer(&[PLC]);
        let (wire, tags, kind) = (WireId(0), VlanTags::UNTAGGED, ObservationKind::Arp);
        let (mac, address, inside) = (PLC, HOME, true);
        let claim = Observation { wire, tags, inside, mac, address, kind, lease_s: 0, xid: 0 };
        assert_eq!(followed.table.observe(&claim, 0, 0), Outcome::Bound);
        let text = "version: 1\ndevices: {plc: {mac: '02:00:00:00:00:07'}}\nrules:\n  \
                    - {name: log, from: plc, to: any, service: udp/514, action: allow}\n";
        let policy = Policy::parse(text).expect("it is one");
        let classifier = compile(&policy, &Limits::default()).expect("it compiles");
        let in_force = (Arc::new(policy), Arc::new(classifier));
        let edited = followed.bring_up_to_date(&in_force).expect("it has changed");
        let bindings = edited.policy.bindings();
        assert!(bindings.of(PLC).is_empty());
        let link = bulkhead_rules::policy::Link { wire, tags };
        assert_eq!(bindings.holder(link, HOME).map(|holder| holder.mac), Some(PLC));
        let in_force = (edited.policy, edited.classifier);
        assert!(followed.bring_up_to_date(&in_force).is_none(), "that was all");
    }

    #[test]
    fn what_happens_often_is_told_seldom() {
        let mut seldom = Seldom::default();
        assert!(seldom.is_due() && !seldom.is_due());
        seldom.0 = Instant::now().checked_sub(TOLD_AGAIN);
        assert!(seldom.0.is_none() || seldom.is_due());
    }
}
