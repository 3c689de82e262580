//! What the service manager is told. Without one, nobody is.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::reload::ReloadReport;
use crate::state::Gateway;

/// How often the gateway says that it is alive: far more often than any sensible `WatchdogSec=`.
const ALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// The workers judge, the ports are up.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What the gateway is doing, for `systemctl status`.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// A reload begins. Before the gateway guards its wires there is nothing to tell: it still starts.
pub fn reloading(gateway: &Gateway) {
    if !gateway.is_guarding() {
        return;
    }
    let now = NotifyState::monotonic_usec_now();
    // systemd from 253 on ends a service whose reload comes without its time.
    if let Ok(now) = now {
        send(&[NotifyState::Reloading, now]);
    }
}

/// The reload is over, well or not. A gateway that does not guard its wires yet is not ready for
/// that, and says itself what it waits for.
pub fn reloaded(gateway: &Gateway, report: &ReloadReport) {
    if !gateway.is_guarding() {
        return;
    }
    let status = match &report.hash {
        Some(hash) if report.outcome.is_success() => format!("policy {} in force", &hash[..12]),
        _ => "the policy's files were refused: the policy before them is in force".to_owned(),
    };
    ready(&status);
}

/// The gateway stops. One that has a supervisor does not say so: the service goes on with another gateway, and
/// the service manager, which takes a service at its word, would end that.
pub fn stopping() {
    if !SUPERVISED.load(Relaxed) {
        send(&[NotifyState::Stopping]);
    }
}

/// Leaves the service manager's watchdog to the supervisor of this process.
pub fn supervised() {
    SUPERVISED.store(true, Relaxed);
}

static SUPERVISED: AtomicBool = AtomicBool::new(false);

/// How long ago control last said that the gateway is alive; [`None`] where it never did.
pub fn since_alive() -> Option<Duration> {
    // Held for two instructions by either thread; one that finds it held has its answer.
    ALIVE.try_lock().map_or(Some(Duration::ZERO), |at| at.map(|at| at.elapsed()))
}

static ALIVE: Mutex<Option<Instant>> = Mutex::new(None);

/// Keeps the service manager's watchdog from ending the gateway.
#[derive(Default)]
pub struct Watchdog {
    told: Option<Instant>,
}

impl Watchdog {
    /// The gateway is alive. May be called as often as one likes.
    pub fn alive(&mut self) {
        if self.told.is_none_or(|told| told.elapsed() >= ALIVE_INTERVAL) {
            self.told = Some(Instant::now());
            if let Ok(mut at) = ALIVE.lock() {
                *at = self.told;
            }
            if !SUPERVISED.load(Relaxed) {
                send(&[NotifyState::Watchdog]);
            }
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    // Nothing depends on whether the service manager listens.
    let _ = sd_notify::notify(false, states);
}
