//! Planted bugs of the log, for the simulator of whoever owns it: with the `plant` feature one can be switched on to see
//! that it is caught.
//!
//! Without the feature (every build that serves traffic) [`on`] is a constant `false` and nothing of this is there.

/// A bug that the simulator must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// Log time: a leader's clock, of which no entry tells, goes on when it leads again.
    ClockOutlivesLeader = 1,
}

#[cfg(feature = "plant")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches one bug on, for the whole process, for good.
#[cfg(feature = "plant")]
pub fn sow(plant: Plant) {
    PLANTED.store(plant as u8, std::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is switched on.
#[cfg(feature = "plant")]
#[must_use]
pub fn on(plant: Plant) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == plant as u8
}

/// Never: this build has no planted bugs.
#[cfg(not(feature = "plant"))]
#[inline]
#[must_use]
pub const fn on(_: Plant) -> bool {
    false
}
