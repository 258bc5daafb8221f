//! The clock: CLOCK_BOOTTIME, which goes on while the process is stopped or the machine suspended.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the machine was booted.
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64) * 1000 + (now.tv_nsec as u64) / 1_000_000
}
