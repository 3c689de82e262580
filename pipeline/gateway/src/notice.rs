//! What the service manager is told. Without one, nobody is.

use sd_notify::NotifyState;

use crate::reload::ReloadReport;

/// The workers judge, the ports are up.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What the gateway is doing, for `systemctl status`.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// A reload begins.
pub fn reloading() {
    let now = NotifyState::monotonic_usec_now();
    // systemd from 253 on ends a service whose reload comes without its time.
    if let Ok(now) = now {
        send(&[NotifyState::Reloading, now]);
    }
}

/// The reload is over, well or not.
pub fn reloaded(report: &ReloadReport) {
    let status = match &report.hash {
        Some(hash) if report.outcome.is_success() => format!("policy {} in force", &hash[..12]),
        _ => "the policy's files were refused: the policy before them is in force".to_owned(),
    };
    ready(&status);
}

/// The gateway stops.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The gateway is alive.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState<'_>]) {
    // Nothing depends on whether the service manager listens.
    let _ = sd_notify::notify(false, states);
}
