//! `bulkhead status | head`: a command whose reader has gone ends quietly, as others do.
//!
//! Unsafe: one system call that the standard library does not offer.
#![allow(unsafe_code)]

/// From now on, writing to a pipe that nobody reads ends this process, without a word. Rust programs
/// begin with that signal ignored, and `println!` then panics. Not for the gateway itself: nobody
/// who reads its output may end it. Writes to sockets go on to report errors.
pub fn ends_this_process() {
    // SAFETY: no handler runs: the signal gets its default action back. It changes nothing in memory.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
