//! SIGINT and SIGTERM end a capture; another one, a while later, ends the process at once.

use std::{
    io, mem, ptr,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
};

/// Set once the process shall end.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// Has signals set [`STOP`].
pub fn listen() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: zeroes are a valid action, with no flags and an empty mask; the handler does only what is safe in one.
        let outcome = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = stop as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigaction(signal, &raw const action, ptr::null_mut())
        };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn stop(signal: libc::c_int) {
    let now = seconds();
    if STOP.swap(true, Ordering::Relaxed) {
        // `timeout` and some shells send the same signal twice at once, and mean one.
        if now > FIRST.load(Ordering::Relaxed).saturating_add(PATIENCE_SECONDS) {
            // SAFETY: ends the process, without anything that is not safe in a signal handler.
            unsafe { libc::_exit(128 + signal) }
        }
    } else {
        FIRST.store(now, Ordering::Relaxed);
    }
}

/// Seconds of a clock that only goes forward; it may be asked in a signal handler.
fn seconds() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into `time`, which is whole whether or not it does.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec
}

/// When the first signal came; later than any, until it has.
static FIRST: AtomicI64 = AtomicI64::new(i64::MAX);

/// A signal so long after the first is another one.
const PATIENCE_SECONDS: i64 = 1;
