//! How a change is made: checked, entered into the audit log, published, kept.
//!
//! All runs on the thread that reloads, so that no two changes overlap. What loosens is refused
//! where it cannot be entered into the audit log; what tightens goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_pipeline::snapshot::staged::{StagedPolicy, Staging};
use bulkhead_rules::analyze::check_assertions;
use bulkhead_rules::headers::PolicyTime;
use bulkhead_rules::syntax::Source;
use tracing::{error, info, warn};

use super::history::History;
use super::lockdown::obstacles;
use super::overlay::{Grant, MAX_EXCEPTIONS, NotRead, Overlay, Quarantine, written};
use super::stage::{self, StageReport, StagedState};
use super::standing::{self, Base, Pinned, Standing, modes_of};
use super::{Change, ChangeReport, Order, PolicyTexts, hosts};
use crate::audit::{Draft, What, Who};
use crate::bindings;
use crate::candidate::{self, Candidate, Finding, unix_now_ms};
use crate::config::Mode;
use crate::log::kind;
use crate::policy_files::{PolicyFiles, short_name};
use crate::reload::{Reloader, Trigger, Unkept};
use crate::signature::gate::{self, Age};

/// The longest grant: what is needed for longer belongs in the policy.
pub const LONGEST_GRANT_S: u64 = 30 * 86_400;

/// The longest name that a file system takes, in bytes.
const MAX_FILE_NAME: usize = 255;

/// How often it is tried to keep what could not be kept.
const KEEP_INTERVAL: Duration = Duration::from_secs(60);

type Made = Result<ChangeReport, Refusal>;
type Refusal = Box<ChangeReport>;

/// What is about to be in force.
struct Next {
    candidate: Candidate,
    standing: Standing,
    staging: Staging,
    /// What control keeps of it.
    staged: stage::Next,
}

impl Reloader {
    /// Makes a change, or says why not.
    pub fn change(&mut self, order: &Order) -> ChangeReport {
        let made = match &order.change {
            Change::Stage { policy } => self.stage(order, policy),
            Change::Unstage {} => self.unstage(order),
            Change::Observe { wires } => self.observe(order, wires),
            Change::Lockdown { wires, policy, expect } => {
                self.lockdown(order, wires, policy.as_ref(), expect.as_deref())
            }
            Change::Rollback { version } => self.rollback(order, *version),
            Change::TakeOlder {} => self.take_older(order),
            Change::Grant { from, to, service, for_s } => {
                self.grant(order, [from, to, service], *for_s)
            }
            Change::Revoke { name } => self.revoke(order, name),
            Change::Quarantine { device, allow } => self.quarantine(order, device, allow),
            Change::Release { device } => self.release(order, device),
        };
        let report = made.unwrap_or_else(|refused| *refused);
        let (who, what) = (&order.who.name, &report.what);
        if report.done {
            match &order.change {
                Change::Lockdown { .. } => info!(target: kind::LOCKDOWN, who, "{what}"),
                Change::Observe { .. } | Change::Rollback { .. } => {
                    info!(target: kind::LOOSENED, who, "{what}");
                }
                _ => info!(who, "{what}"),
            }
        } else {
            warn!(who, "a change was refused: {what}");
        }
        report
    }

    /// Tells of grants whose time is over, and puts the policy in force without them. The workers have
    /// ended them already, but would not know it any more if the clock were set back.
    pub fn end_expired_grants(&mut self) {
        let now = unix_now_ms().unwrap_or_default();
        let mut standing = self.gateway.policy().standing.clone();
        let (over, left): (Vec<Grant>, Vec<Grant>) =
            standing.overlay.grants.drain(..).partition(|grant| grant.is_over(now));
        if over.is_empty() {
            return;
        }
        standing.overlay.grants = left;
        let before = self.gateway.policy().current.as_ref().map(|c| c.candidate.clone());
        let base = standing.base.clone();
        let made = base.map(|base| self.made(&base, &mut standing.overlay));
        let after = made.as_ref().and_then(|made| made.as_ref().ok()).or(before.as_ref());
        let policies = (before.as_ref().and_then(effective), after.and_then(effective));
        for grant in over {
            let detail = format!("the time of {} is over", in_words(&grant));
            let draft = Draft::new(Who::gateway(), What::Expired, detail);
            self.gateway.audit.enter_anyway(draft.policies(policies.0.clone(), policies.1.clone()));
        }
        let findings = match made {
            Some(Ok(candidate)) => self.put_exceptions(candidate, standing).findings,
            None => self.put_unused(standing),
            Some(Err(why)) => {
                error!(
                    "without what was granted the policy is not sound: {}; the grant has ended, but a \
                     clock that is set back would open it again until the policy is mended",
                    why.findings.first().map_or(why.what.as_str(), |f| f.message.as_str())
                );
                self.put_unused(standing)
            }
        };
        findings.iter().for_each(|finding| warn!("{}", finding.rendered));
    }

    /// Takes up the exceptions of an earlier run once they can be read, and tries again, now and then, to
    /// put them in force where they could not be.
    pub(crate) fn take_up_unread_exceptions(&mut self) {
        let mut standing = self.gateway.policy().standing.clone();
        if !standing.overlay_is_unread {
            let is_due = self.late_tried.is_some_and(|tried| tried.elapsed() > KEEP_INTERVAL);
            return if is_due {
                self.put_late_exceptions(standing)
            };
        }
        let state_dir = &self.gateway.config.state_dir;
        let kept = match Overlay::read(state_dir) {
            Err(NotRead::Unreadable(_)) => return,
            Err(error @ NotRead::Damaged(_)) => {
                Overlay::set_aside(state_dir);
                let detail = format!("{error}; quarantines and grants of earlier runs are lost");
                error!("{detail}");
                self.gateway.audit.enter_anyway(Draft::new(Who::gateway(), What::Log, detail));
                Overlay::default()
            }
            Ok(kept) => kept,
        };
        standing.overlay_is_unread = false;
        if kept.is_empty() {
            let findings = self.put_unused(standing);
            findings.iter().for_each(|finding| warn!("{}", finding.rendered));
            return;
        }
        standing.overlay.take_in(kept);
        self.put_late_exceptions(standing);
    }

    /// Puts exceptions in force that were read late, and enters what came of it. Where the policy is not
    /// sound with what devices in quarantine may still open, they may open nothing.
    fn put_late_exceptions(&mut self, mut standing: Standing) {
        let is_first = self.late_tried.take().is_none();
        let tried = standing.base.clone().map(|base| {
            let why = match self.made(&base, &mut standing.overlay) {
                Ok(candidate) => return Ok((candidate, None)),
                Err(why) => why.findings.first().map_or(why.what.clone(), |f| f.message.clone()),
            };
            let mut tightened = standing.overlay.clone();
            tightened.quarantines.iter_mut().for_each(|quarantine| quarantine.allow.clear());
            let Ok(candidate) = self.made(&base, &mut tightened) else { return Err(why) };
            standing.overlay = tightened;
            Ok((candidate, Some(why)))
        });
        let quarantines = standing.overlay.quarantines.len();
        let grants = standing.overlay.grants.iter().filter(|grant| !grant.suspended).count();
        let read = format!(
            "with the exceptions of an earlier run, which could be read only now, there are {grants} \
             grants and {quarantines} quarantines"
        );
        let (what, findings) = match tried {
            None => {
                (format!("{read}; they hold from the first policy on"), self.put_unused(standing))
            }
            Some(Ok((candidate, why))) => {
                let findings = self.put_exceptions(candidate, standing).findings;
                let but = why.map_or_else(String::new, |why| {
                    format!(
                        ", but what a device in quarantine might still open was taken from it: {why}; \
                         `bulkhead quarantine` says it anew"
                    )
                });
                (format!("{read}; they hold{but}"), findings)
            }
            Some(Err(why)) => {
                self.late_tried = Some(Instant::now());
                let what = format!(
                    "{read}; NONE of those that were read is in force, as the policy is not sound with \
                     them: {why}; it is tried again every minute, and with every change of the policy"
                );
                error!("{what}");
                (what, self.put_unused(standing))
            }
        };
        findings.iter().for_each(|finding| warn!("{}", finding.rendered));
        // What still fails has been said.
        if is_first || self.late_tried.is_none() {
            warn!("{what}");
            self.gateway.audit.enter_anyway(Draft::new(Who::gateway(), What::Log, what));
        }
    }

    /// Keeps what no policy holds, or none yet.
    fn put_unused(&mut self, standing: Standing) -> Vec<Finding> {
        let findings = self.kept(&standing);
        self.gateway.policy().standing = standing;
        findings
    }

    fn stage(&mut self, order: &Order, texts: &PolicyTexts) -> Made {
        let base = self.signed(order, texts)?;
        let standing = self.gateway.policy().standing.clone();
        let candidate = self.made(&base, &mut standing.overlay.clone())?;
        let active = self.active("there is no policy in force to stage one beside")?;
        let mut warnings = candidate.warnings.clone();
        warnings.extend(self.older(&base).map(|why| Finding::warning("older", why)));
        warnings.extend(gate::staged(&self.gateway, base.seal.as_ref()));
        let rules = candidate.policy.rule_count();
        let what = format!("staged {} with {rules} rules beside the policy in force", base.source);
        let hash = base.hash.to_string();
        let signed = gate::words(base.seal.as_ref());
        let draft = draft(order, What::Stage, format!("{what}; its hash is {hash}{signed}"));
        self.gateway.audit.enter_anyway(draft.policies(effective(&active), effective(&active)));
        let staging = Staging::Put(bindings::staged::prepare(&self.gateway, &candidate));
        let staged =
            stage::Next::Put(Box::new(StagedState::new(candidate, base, texts.envelope.clone())));
        let report = self.put(Next { candidate: active, standing, staging, staged });
        let findings = warnings.into_iter().chain(self.keep_staged()).collect();
        Ok(ChangeReport { done: true, what, findings, ..report })
    }

    fn unstage(&mut self, order: &Order) -> Made {
        let state = self.gateway.policy();
        let source = state.staged.as_ref().map(|staged| staged.base.source.clone());
        let standing = state.standing.clone();
        drop(state);
        let Some(source) = source else { return Err(ChangeReport::refused("nothing is staged")) };
        let active = self.active("there is no policy in force")?;
        let what = format!("{source} is staged no longer");
        self.gateway.audit.enter_anyway(draft(order, What::Stage, &what));
        let (staging, staged) = (Staging::Drop, stage::Next::Drop);
        let report = self.put(Next { candidate: active, standing, staging, staged });
        let findings = self.keep_staged().into_iter().collect();
        Ok(ChangeReport { done: true, what, findings, ..report })
    }

    fn observe(&mut self, order: &Order, wires: &[String]) -> Made {
        let active =
            self.active("there is no policy in force, and so no wire that does anything")?;
        let mut standing = self.gateway.policy().standing.clone();
        let changed = self.switch(&mut standing, wires, Mode::Observe)?;
        if changed.is_empty() {
            return Ok(already("these wires observe already"));
        }
        let what = format!("{} observe: every frame is forwarded there", changed.join(", "));
        self.entered(draft(order, What::Mode, &what), &active, &active)?;
        let findings = self.versioned(&mut standing, &active, &order.who, "observe", None);
        let findings = findings.into_iter().chain(self.mixed(&standing)).collect();
        let staging = self.renewed();
        let staged = stage::Next::Keep;
        let report = self.put(Next { candidate: active, standing, staging, staged });
        Ok(ChangeReport { done: true, what, findings, ..report })
    }

    fn lockdown(
        &mut self,
        order: &Order,
        wires: &[String],
        texts: Option<&PolicyTexts>,
        expect: Option<&str>,
    ) -> Made {
        let active = self.active("there is no policy in force")?;
        let mut standing = self.gateway.policy().standing.clone();
        let changed = self.switch(&mut standing, wires, Mode::Enforce)?;
        let stage = StageReport::of(&self.gateway, 0);
        let mut obstacles = obstacles(&stage, &self.gateway.config.lockdown);
        let staged = self.staged();
        let in_force = standing.base.as_ref().map(|base| base.hash);
        let base = match (texts, staged) {
            (Some(texts), staged) => {
                let base = self.signed(order, texts)?;
                if staged.is_none_or(|staged| staged.hash != base.hash) {
                    obstacles = vec![format!(
                        "{} is not what is staged: nobody has seen what it would cut",
                        base.source
                    )];
                }
                base
            }
            // What is in force was accepted, and stays accepted.
            (None, Some(staged)) if in_force == Some(staged.hash) => staged,
            (None, Some(staged)) => self.signed_still(order, staged)?,
            (None, None) if order.force => {
                standing.base.clone().ok_or_else(|| ChangeReport::refused("there is no policy"))?
            }
            (None, None) => return Err(self.refuse(order, obstacles)),
        };
        if let Some(expected) = expect.filter(|expected| **expected != *base.hash.to_string()) {
            let why = match self.staged() {
                Some(_) => format!("what is staged, {}, is not what was looked at", base.source),
                None => "nothing is staged any more".to_owned(),
            };
            let expected = expected.chars().take(12).collect::<String>();
            return Err(ChangeReport::refused(format!("{why} ({expected}): look again")));
        }
        obstacles.extend(self.older(&base));
        let is_forced = order.force && order.reason.is_some();
        if !obstacles.is_empty() && !is_forced {
            return Err(self.refuse(order, obstacles));
        }
        let mut overlay = standing.overlay.clone();
        let candidate = self.made(&base, &mut overlay)?;
        let is_other = in_force != Some(base.hash);
        (standing.overlay, standing.pinned) = (overlay, self.pin(&base, 0));
        let (source, seal) = (base.source.clone(), base.seal.clone());
        standing.base = Some(base);
        let wires =
            if changed.is_empty() { "no further wire".to_owned() } else { changed.join(", ") };
        let mut what = format!("{wires} enforce, by {source}{}", gate::words(seal.as_ref()));
        if !obstacles.is_empty() {
            what.push_str(&format!("; forced although: {}", obstacles.join("; ")));
        }
        let draft = draft(order, What::Lockdown, &what);
        if is_other && standing.modes.len() > changed.len() {
            // Wires that enforced before get another policy, which may permit more.
            self.entered(draft, &active, &candidate)?;
        } else {
            let draft = draft.policies(effective(&active), effective(&candidate));
            self.gateway.audit.enter_anyway(draft);
        }
        let mut findings = candidate.warnings.clone();
        findings.extend(self.versioned(&mut standing, &candidate, &order.who, "lockdown", None));
        findings.extend(self.mixed(&standing));
        let (staging, staged) = (Staging::Drop, stage::Next::Drop);
        let report = self.put(Next { candidate, standing, staging, staged });
        findings.extend(self.keep_staged());
        findings.extend(gate::in_force(&self.gateway, seal.as_ref()));
        Ok(ChangeReport { done: true, what, findings, obstacles, ..report })
    }

    fn rollback(&mut self, order: &Order, number: Option<u64>) -> Made {
        let config = &self.gateway.config;
        let refused = |error: String| ChangeReport::refused(error);
        let history = History::read(&config.state_dir).map_err(refused)?;
        let mut standing = self.gateway.policy().standing.clone();
        let version = match number {
            Some(number) => history.version(number),
            None => history.before(standing.version),
        };
        let Some(version) = version else {
            let missing = match number {
                Some(number) => format!("there is no version {number}"),
                None => "there is no earlier version".to_owned(),
            };
            return Err(refused(format!("{missing}; `bulkhead history` lists them")));
        };
        let files = History::files(&config.state_dir, version, &config.limits).map_err(refused)?;
        let base = Base::seen(&self.gateway, files, version.source.clone());
        let candidate = self.made(&base, &mut standing.overlay)?;
        let pinned = self.pin(&base, version.number);
        (standing.base, standing.pinned) = (Some(base), pinned);
        standing.modes = modes_of(config, &version.modes, &standing.modes);
        let number = version.number;
        let modes = standing::named_modes(config, &standing.modes);
        let modes: Vec<String> =
            modes.iter().map(|(wire, mode)| format!("{wire} {mode}")).collect();
        let what = format!("version {number} is in force again; {}", modes.join(", "));
        let before = self.gateway.policy().current.as_ref().map(|c| c.candidate.clone());
        let before = before.unwrap_or_else(|| candidate.clone());
        self.entered(draft(order, What::Rollback, &what), &before, &candidate)?;
        let mut findings = candidate.warnings.clone();
        let by = format!("rollback to {number}");
        findings.extend(self.versioned(&mut standing, &candidate, &order.who, &by, Some(number)));
        let staging = self.renewed();
        let staged = stage::Next::Keep;
        let report = self.put(Next { candidate, standing, staging, staged });
        Ok(ChangeReport { done: true, what, findings, ..report })
    }

    /// Takes the policy's files into force whatever their age; everything else about them has to hold.
    fn take_older(&mut self, order: &Order) -> Made {
        if order.reason.is_none() {
            return Err(ChangeReport::refused("an older policy needs a reason: `--reason`"));
        }
        let what = "an older signed policy may be taken into force";
        self.gateway
            .audit
            .enter(draft(order, What::Policy, what))
            .map_err(ChangeReport::refused)?;
        let report = self.reload_of(Age::Any, Trigger::Command, &order.who);
        let source = self.gateway.config.policy.display();
        Ok(ChangeReport {
            done: report.outcome.is_success(),
            what: format!("{source}: {}", report.outcome.label()),
            findings: report.findings,
            epoch: report.epoch,
            publish_us: report.publish_us,
            stalled_worker: report.stalled_worker,
            ..ChangeReport::default()
        })
    }

    /// The texts, with whoever has signed them.
    fn signed(&self, order: &Order, texts: &PolicyTexts) -> Result<Base, Refusal> {
        let base = base_of(texts)?;
        let given = (&*base.files, texts.envelope.as_ref());
        let admitted = gate::admit_texts(&self.gateway, &texts.source, given, Age::Any, &order.who);
        let seal = admitted.map_err(|finding| {
            let what = format!("{} is not taken: nothing was changed", texts.source);
            ChangeReport::wrong(what, vec![*finding])
        })?;
        Ok(base.sealed(seal))
    }

    /// What is staged, if its signature holds now as it did then: a key may have been taken from the file of
    /// trusted keys since, or signatures may be required since.
    fn signed_still(&self, order: &Order, staged: Base) -> Result<Base, Refusal> {
        let envelope = self.gateway.policy().staged.as_ref().and_then(|s| s.envelope.clone());
        let given = (&*staged.files, envelope.as_ref());
        let admitted =
            gate::admit_texts(&self.gateway, &staged.source, given, Age::Any, &order.who);
        let seal = admitted.map_err(|finding| {
            let what = format!(
                "{} is not locked down, and stays staged: its signature does not hold any more",
                staged.source
            );
            ChangeReport::wrong(what, vec![*finding])
        })?;
        Ok(staged.sealed(seal))
    }

    /// That a signed policy is older than one that was in force, where it is.
    fn older(&self, base: &Base) -> Option<String> {
        let refusal = self.gateway.signatures.check_age(base.seal.as_ref()?).err()?;
        Some(format!("{}: {}", base.source, refusal.message))
    }

    fn grant(&mut self, order: &Order, [from, to, service]: [&String; 3], for_s: u64) -> Made {
        let refused = |why: &str| Err(ChangeReport::refused(why));
        let Some(reason) = order.reason.clone() else {
            return refused("a grant needs a reason: `--reason`");
        };
        if for_s == 0 || for_s > LONGEST_GRANT_S {
            return refused(
                "a grant is for a second up to 30 days; what is needed for longer belongs \
                            in the policy",
            );
        }
        let active = self.active("there is no policy in force to grant an exception of")?;
        let mut standing = self.gateway.policy().standing.clone();
        let Some(base) = standing.base.clone() else { return refused("there is no policy") };
        let now = unix_now_ms().unwrap_or_default();
        let grants = &standing.overlay.grants;
        if grants.len() >= MAX_EXCEPTIONS {
            return refused("there are too many grants: `bulkhead grant --revoke NAME` ends one");
        }
        let name = standing.overlay.free_name();
        let for_ms = i64::try_from(for_s).unwrap_or(i64::MAX).saturating_mul(1000);
        let grant = Grant {
            name: name.clone(),
            from: from.clone(),
            to: to.clone(),
            service: service.clone(),
            since_unix_ms: now,
            expires_unix_ms: now.saturating_add(for_ms),
            who: order.who.clone(),
            reason,
            suspended: false,
        };
        let what = format!("granted {}", in_words(&grant));
        standing.overlay.grants.push(grant);
        let candidate = self.whole(&base, &standing.overlay)?;
        if !order.force {
            self.reaches(&base, &standing.overlay, [from, to, service])?;
        }
        self.entered(draft(order, What::Grant, &what), &active, &candidate)?;
        let report = self.put_exceptions(candidate, standing);
        let mut findings = report.findings.clone();
        if !self.gateway.now().synchronised {
            findings.push(Finding::warning(
                "clock",
                "the clock is not synchronised: until it is, the grant permits nothing".to_owned(),
            ));
        }
        Ok(ChangeReport { done: true, what, name: Some(name), findings, ..report })
    }

    fn revoke(&mut self, order: &Order, name: &str) -> Made {
        let mut standing = self.gateway.policy().standing.clone();
        let grants = &mut standing.overlay.grants;
        let Some(place) = grants.iter().position(|grant| grant.name == name) else {
            let why = format!("there is no grant `{name}`: `bulkhead grants` lists them");
            return Err(ChangeReport::refused(why));
        };
        let grant = grants.remove(place);
        let what = format!("revoked {}", in_words(&grant));
        self.tighten(order, What::Revoke, what, standing)
    }

    fn quarantine(&mut self, order: &Order, device: &str, allow: &[String]) -> Made {
        let (policy, mut standing) = {
            let state = self.gateway.policy();
            let policy = state.current.as_ref().map(|current| current.candidate.policy.clone());
            (policy, state.standing.clone())
        };
        let hosts = hosts::of(&self.gateway, policy.as_deref(), device);
        let hosts = hosts.map_err(ChangeReport::refused)?;
        let quarantines = &mut standing.overlay.quarantines;
        // Another call for the same device says anew what it may do.
        quarantines.retain(|other| !hosts::is_same(&other.device, device));
        if quarantines.len() >= MAX_EXCEPTIONS {
            return Err(ChangeReport::refused("too many devices are in quarantine"));
        }
        let shown = hosts.join(", ");
        let beside = match allow {
            [] => String::new(),
            allow => format!(" and {}", allow.join(", ")),
        };
        let what =
            format!("{device} ({shown}) is in quarantine: DHCP{beside} is all that it may open");
        quarantines.push(Quarantine {
            device: device.to_owned(),
            hosts,
            allow: allow.to_vec(),
            since_unix_ms: unix_now_ms().unwrap_or_default(),
            who: order.who.clone(),
            reason: order.reason.clone(),
        });
        self.tighten(order, What::Quarantine, what, standing)
    }

    fn release(&mut self, order: &Order, device: &str) -> Made {
        let active = self.active("there is no policy in force")?;
        let mut standing = self.gateway.policy().standing.clone();
        let quarantines = &mut standing.overlay.quarantines;
        let before = quarantines.len();
        quarantines.retain(|quarantine| !hosts::is_same(&quarantine.device, device));
        if quarantines.len() == before {
            let why = format!("`{device}` is not in quarantine: `bulkhead grants` lists who is");
            return Err(ChangeReport::refused(why));
        }
        let what = format!("{device} is out of quarantine");
        let Some(base) = standing.base.clone() else {
            return Err(ChangeReport::refused("there is no policy"));
        };
        let candidate = self.made(&base, &mut standing.overlay)?;
        self.entered(draft(order, What::Release, &what), &active, &candidate)?;
        let report = self.put_exceptions(candidate, standing);
        Ok(ChangeReport { done: true, what, ..report })
    }

    /// Makes a change of the exceptions that goes on even where it cannot be entered.
    fn tighten(&mut self, order: &Order, what: What, said: String, mut standing: Standing) -> Made {
        let Some(base) = standing.base.clone() else {
            // It holds from the first policy on.
            self.gateway.audit.enter_anyway(draft(order, what, &said));
            let findings = self.put_unused(standing);
            return Ok(ChangeReport {
                done: true,
                what: said,
                findings,
                ..ChangeReport::default()
            });
        };
        let active = self.active("there is no policy in force")?;
        let candidate = self.made(&base, &mut standing.overlay)?;
        let draft = draft(order, what, &said);
        let policies = (effective(&active), effective(&candidate));
        self.gateway.audit.enter_anyway(draft.policies(policies.0, policies.1));
        let report = self.put_exceptions(candidate, standing);
        Ok(ChangeReport { done: true, what: said, ..report })
    }

    /// Publishes other exceptions, under the staged policy too.
    fn put_exceptions(&mut self, candidate: Candidate, standing: Standing) -> ChangeReport {
        let mut findings = candidate.warnings.clone();
        findings.extend(self.kept(&standing));
        let (staging, staged) = match self.staged() {
            None => (Staging::Keep, stage::Next::Keep),
            Some(base) => match self.made(&base, &mut standing.overlay.clone()) {
                Ok(candidate) => {
                    // It is the same policy: how long it has been seen to do no harm still counts.
                    let policy = bindings::staged::prepare(&self.gateway, &candidate);
                    (Staging::Put(policy), stage::Next::Adapt(Box::new(candidate)))
                }
                Err(_) => {
                    let why = "what was staged makes no sense with this and is staged no longer";
                    findings.push(Finding::warning("unstaged", why.to_owned()));
                    (Staging::Drop, stage::Next::Drop)
                }
            },
        };
        let is_staged = !matches!(staging, Staging::Keep);
        let report = self.put(Next { candidate, standing, staging, staged });
        if is_staged {
            findings.extend(self.keep_staged());
        }
        ChangeReport { findings, ..report }
    }

    /// Keeps what is staged for the next start, or that nothing is.
    fn keep_staged(&mut self) -> Option<Finding> {
        self.staged_kept = Instant::now();
        let is_staged = self.gateway.policy().staged.is_some();
        let kept = match is_staged {
            true => stage::kept::keep(&self.gateway),
            false => stage::kept::forget(&self.gateway.config.state_dir),
        };
        let error = kept.err()?;
        let message = format!("a restart will not know what is staged: {error}");
        Some(Finding::warning("not-kept", message))
    }

    /// Keeps what was seen of the staged policy by now: of a run that is killed, little is lost.
    pub(crate) fn keep_staged_now_and_then(&mut self) {
        let is_staged = self.gateway.policy().staged.is_some();
        if is_staged && self.staged_kept.elapsed() > KEEP_INTERVAL {
            if let Some(finding) = self.keep_staged() {
                warn!("{}", finding.rendered);
            }
        }
    }

    /// Keeps the exceptions for the next start.
    fn kept(&self, standing: &Standing) -> Vec<Finding> {
        let kept = standing.keep_overlay(&self.gateway.config.state_dir);
        let not_kept = |error| format!("this holds, but a restart will not know it: {error}");
        kept.err().map(|error| Finding::warning("not-kept", not_kept(error))).into_iter().collect()
    }

    fn put(&mut self, next: Next) -> ChangeReport {
        let Next { candidate, standing, staging, staged } = next;
        let (source, fallback) = {
            let state = self.gateway.policy();
            let source = standing.base.as_ref().map(|base| base.source.clone());
            (source.unwrap_or_default(), state.fallback && standing.pinned.is_none())
        };
        self.install(candidate, source, fallback, standing, staging, staged);
        let publication = self.publication();
        ChangeReport {
            epoch: publication.epoch,
            publish_us: publication.publish_us,
            stalled_worker: publication.stalled_worker,
            ..ChangeReport::default()
        }
    }

    /// What becomes of the staged policy, whose tally is about the policy in force, with another one.
    pub(crate) fn renewed(&self) -> Staging {
        if self.gateway.policy().staged.is_some() { Staging::Renew } else { Staging::Keep }
    }

    fn staged(&self) -> Option<Base> {
        self.gateway.policy().staged.as_ref().map(|staged| staged.base.clone())
    }

    fn active(&self, otherwise: &str) -> Result<Candidate, Refusal> {
        let state = self.gateway.policy();
        let current = state.current.as_ref().map(|current| current.candidate.clone());
        current.ok_or_else(|| ChangeReport::refused(otherwise))
    }

    fn made(&self, base: &Base, overlay: &mut Overlay) -> Result<Candidate, Refusal> {
        standing::make(&self.gateway, &base.files, overlay).map_err(|found| {
            ChangeReport::wrong(format!("{} is not sound: nothing was changed", base.source), found)
        })
    }

    /// The policy with every exception: one that makes no sense is an error.
    fn whole(&self, base: &Base, overlay: &Overlay) -> Result<Candidate, Refusal> {
        let gateway = &self.gateway;
        let files = overlay.over(&base.files, unix_now_ms().unwrap_or_default());
        let made = candidate::make(&files, Some(&gateway.wire_names()), &gateway.config.limits);
        made.map_err(|found| ChangeReport::wrong("this cannot be granted", found))
    }

    /// Refuses a grant of which a rule before it would keep something out. A quarantine does not count:
    /// a packet of whoever is in it is no packet of those that something is granted to, unless all are.
    fn reaches(
        &self,
        base: &Base,
        overlay: &Overlay,
        granted: [&String; 3],
    ) -> Result<(), Refusal> {
        let free = Overlay { quarantines: Vec::new(), ..overlay.clone() };
        if let Some(broken) = self.broken(base, &free, granted, "reach")? {
            return Err(ChangeReport::refused(format!(
                "something of it would be denied all the same, by a rule before it; narrow it, or \
                 --force to grant what is left: {broken}"
            )));
        }
        if !overlay.quarantines.is_empty()
            && self.broken(base, overlay, granted, "not-reach")?.is_none()
        {
            return Err(ChangeReport::refused(
                "nothing of it would pass: one side is in quarantine; `bulkhead quarantine --release` \
                 ends that",
            ));
        }
        Ok(())
    }

    /// How the assertion that these do, or do not, reach those fails; [`None`] where it holds.
    fn broken(
        &self,
        base: &Base,
        overlay: &Overlay,
        [from, to, service]: [&String; 3],
        must: &str,
    ) -> Result<Option<String>, Refusal> {
        let question = format!(
            "version: 1\nassert:\n  - from: {}\n    to: {}\n    service: {}\n    must: {must}\n",
            written(from),
            written(to),
            written(service)
        );
        let gateway = &self.gateway;
        let now = unix_now_ms().unwrap_or_default();
        let mut sources = overlay.over(&base.files, now).sources;
        sources.push(Source::new("what is to be granted", question));
        let loaded = candidate::load(&sources, Some(&gateway.wire_names()), &gateway.config.limits);
        let loaded =
            loaded.map_err(|found| ChangeReport::wrong("this cannot be granted", found))?;
        let policy = loaded.policy;
        let last = policy.assertions().len().saturating_sub(1);
        let now = PolicyTime { unix_ms: now, synchronised: true };
        let results = check_assertions(&policy, now);
        let result = results.iter().find(|result| result.assertion == last);
        let failure = result.filter(|r| r.failure.as_ref().is_some_and(|f| f.at == now));
        Ok(failure.map(|result| result.describe(&policy).to_string()))
    }

    fn entered(&self, draft: Draft, before: &Candidate, after: &Candidate) -> Result<(), Refusal> {
        let draft = draft.policies(effective(before), effective(after));
        self.gateway.audit.enter(draft).map_err(ChangeReport::refused)
    }

    fn refuse(&self, order: &Order, obstacles: Vec<String>) -> Refusal {
        let mut why = obstacles.join("; ");
        if order.force && order.reason.is_none() {
            why.push_str("; --force needs --reason");
        }
        let detail = format!("a lockdown was refused: {why}");
        self.gateway.audit.enter_anyway(draft(order, What::Refused, detail));
        let what = match order.force {
            true => "not locked down: --force needs --reason, for the audit log",
            false => "not locked down; --force with --reason does it all the same",
        };
        Box::new(ChangeReport { what: what.to_owned(), obstacles, ..ChangeReport::default() })
    }

    /// Sets the mode of wires, all where none is named. Returns those that had another.
    fn switch(
        &self,
        standing: &mut Standing,
        wires: &[String],
        mode: Mode,
    ) -> Result<Vec<String>, Refusal> {
        let all = &self.gateway.config.wires;
        if let Some(unknown) = wires.iter().find(|name| all.iter().all(|w| w.name != **name)) {
            let known: Vec<&str> = all.iter().map(|wire| wire.name.as_str()).collect();
            let why = format!("there is no wire `{unknown}`: there are {}", known.join(", "));
            return Err(ChangeReport::refused(why));
        }
        let mut changed = Vec::new();
        for (wire, now) in all.iter().zip(&mut standing.modes) {
            if (wires.is_empty() || wires.contains(&wire.name)) && *now != mode {
                *now = mode;
                changed.push(wire.name.clone());
            }
        }
        Ok(changed)
    }

    /// Warns of a wire that observes beside an enforcing one that is redundant with it: what the one
    /// drops may take the other.
    fn mixed(&self, standing: &Standing) -> Option<Finding> {
        let config = &self.gateway.config;
        let of = |wanted: Mode| {
            let all = standing.modes.iter().enumerate();
            all.filter(move |(_, mode)| **mode == wanted).map(|(wire, _)| wire)
        };
        let pairs = of(Mode::Observe).flat_map(|one| of(Mode::Enforce).map(move |two| (one, two)));
        let mut mixed = pairs.filter(|&(one, two)| config.group_of(one) == config.group_of(two));
        let (one, two) = mixed.next()?;
        let (one, two) = (config.wires.get(one)?, config.wires.get(two)?);
        let message = format!(
            "{} observes and {}, which is redundant with it, enforces: what the one drops may take the \
             other",
            one.name, two.name
        );
        Some(Finding::warning("mixed-modes", message))
    }

    /// Where another policy than the files' is about to stand: until they change.
    fn pin(&self, base: &Base, version: u64) -> Option<Pinned> {
        let config = &self.gateway.config;
        let files = PolicyFiles::read(&config.policy, &config.limits).ok().map(|f| f.hash());
        (files != Some(base.hash))
            .then(|| Pinned { version, files: files.map(|hash| hash.to_string()) })
    }

    /// Adds what is about to be in force to the history.
    pub(crate) fn versioned(
        &mut self,
        standing: &mut Standing,
        candidate: &Candidate,
        who: &Who,
        by: &str,
        brought_back: Option<u64>,
    ) -> Option<Finding> {
        let rules = candidate.policy.rule_count();
        let added = standing::add_version(&self.gateway, standing, rules, who, by, brought_back);
        let (who, by, tried) = (who.clone(), by.to_owned(), Instant::now());
        let unkept = Unkept { who, by, brought_back, tried };
        self.unkept = added.is_err().then_some(unkept);
        added.err().map(|error| Finding::warning("not-kept", error))
    }

    /// Tries again, now and then, to keep what is in force and could not be kept.
    pub(crate) fn keep_again(&mut self) {
        let Some(unkept) = self.unkept.take_if(|unkept| unkept.tried.elapsed() > KEEP_INTERVAL)
        else {
            return;
        };
        let (mut standing, current) = {
            let state = self.gateway.policy();
            let current = state.current.as_ref().map(|current| current.candidate.clone());
            (state.standing.clone(), current)
        };
        let Some(candidate) = current else { return };
        let Unkept { who, by, brought_back, .. } = unkept;
        if self.versioned(&mut standing, &candidate, &who, &by, brought_back).is_none() {
            info!(version = standing.version, "what is in force is kept now");
        }
        self.gateway.policy().standing = standing;
    }
}

fn draft(order: &Order, what: What, detail: impl Into<String>) -> Draft {
    Draft::new(order.who.clone(), what, detail).because(order.reason.as_deref())
}

fn effective(candidate: &Candidate) -> Option<String> {
    Some(candidate.hash.to_string())
}

/// The texts in the order of their names, in which they are read again after a restart.
fn base_of(texts: &PolicyTexts) -> Result<Base, Refusal> {
    let sources = texts.files.iter().map(|(name, text)| Source::new(name.as_str(), text.as_str()));
    let mut sources: Vec<Source> = sources.collect();
    sources.sort_by_cached_key(short_name);
    let names: Vec<String> = sources.iter().map(short_name).collect();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let why =
            format!("two files of the policy are called {}: they could not be kept", twice[0]);
        return Err(ChangeReport::refused(why));
    }
    if let Some(name) = names.iter().find(|name| name.len() > MAX_FILE_NAME) {
        let why = format!("a file has a name of {MAX_FILE_NAME} bytes at most, and this is {name}");
        return Err(ChangeReport::refused(why));
    }
    let files = PolicyFiles { sources, left_out: Vec::new() };
    Ok(Base::new(files, texts.source.clone()))
}

fn already(what: &str) -> ChangeReport {
    ChangeReport { done: true, what: what.to_owned(), ..ChangeReport::default() }
}

fn in_words(grant: &Grant) -> String {
    let until = jiff::Timestamp::from_millisecond(grant.expires_unix_ms);
    let until = until.map_or_else(|_| "for ever".to_owned(), |until| format!("until {until}"));
    let Grant { name, from, to, service, .. } = grant;
    format!("{name}: {from} to {to}, {service}, {until}")
}

/// A staged policy as workers take it.
pub(crate) fn staged_policy(candidate: &Candidate) -> StagedPolicy {
    StagedPolicy {
        policy: Arc::clone(&candidate.policy),
        classifier: Arc::clone(&candidate.classifier),
    }
}
