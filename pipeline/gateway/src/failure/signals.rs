//! Signals that wait while the supervisor renews itself: until the renewed program catches them, their
//! default is to end it.
//!
//! Unsafe: the calls to the C library that block signals.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};

/// The signals that the supervisor catches.
pub const CAUGHT: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGUSR2];

/// Lets the signals of [`CAUGHT`] wait, for the calling thread and the program that it becomes.
pub fn hold() {
    change(libc::SIG_BLOCK);
}

/// Lets them come again, those that waited at once.
pub fn let_go() {
    change(libc::SIG_UNBLOCK);
}

/// Sends a signal to this process. One that is held waits.
pub fn send_to_self(signal: i32) {
    // SAFETY: no pointers; what cannot be sent is an error, which leaves nothing to do.
    unsafe {
        libc::kill(libc::getpid(), signal);
    }
}

fn change(how: i32) {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is writable, and initialised by the first call before the others read it; the numbers
    // are signals; the old mask is not asked for. None of the calls fails for such arguments.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in CAUGHT {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_that_this_one_starts_meanwhile_is_not_ended() {
        let survives = || {
            let script = "kill -USR2 $$; kill -HUP $$; kill -TERM $$; exit 7";
            let status = Command::new("/bin/sh").args(["-c", script]).status();
            status.unwrap_or_else(|error| panic!("{error}")).code()
        };
        // The mask is this thread's own, so that no other test notices.
        hold();
        let held = survives();
        let_go();
        assert_eq!((held, survives()), (Some(7), None));
    }
}
