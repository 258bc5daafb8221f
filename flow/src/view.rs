//! What a reader sees of one pin group: the table as applied, its generation, and the lease under which it may be used.
//!
//! Times here are milliseconds of the instance's own CLOCK_BOOTTIME: a process that was paused or suspended finds its
//! lease run out. Clocks may differ in rate by [`DRIFT_PER_MILLE`] at most.

use crate::{
    command::Pin,
    ids::{BackendId, LogTime, PinKey, PoolId},
    pins::{Lookup, PinTable},
    plant::{self, Plant},
};

/// A group at one moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GroupView {
    /// As applied here.
    pub table: PinTable,
    /// Counts up whenever an answer given before may no longer be given: a move, an unpinned key, a snapshot installed.
    pub generation: u64,
    /// The right to answer.
    pub lease: Lease,
}

/// The right to answer from a table, for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// When the request left that this lease answers.
    pub asked_ms: u64,
    /// When it ends.
    pub until_ms: u64,
    /// The leader's log time when it granted the lease.
    pub log_time: LogTime,
}

/// What a reader may do for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send it to the pin's backend.
    Held(Pin),
    /// Its pin was not refreshed for long, and may have expired elsewhere: commit an `Assign` first, best to the same backend.
    Expiring(Pin),
    /// Its pin is moving: wait until that is settled.
    Moving,
    /// It has none: pick and commit.
    Free,
    /// Nothing: there is no lease.
    NoLease,
}

impl Lease {
    /// Whether it still runs.
    #[must_use]
    pub fn holds(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms || plant::on(Plant::NoLease)
    }

    /// The highest log time that any replica can have reached by now.
    #[must_use]
    pub fn log_time_bound(&self, now_ms: u64) -> LogTime {
        let passed = now_ms.saturating_sub(self.asked_ms);
        self.log_time.plus(passed + drift(passed) + 1)
    }
}

impl GroupView {
    /// What may be done for `key`, by the table.
    #[must_use]
    pub fn answer(&self, key: &PinKey, now_ms: u64) -> Answer {
        if !self.lease.holds(now_ms) {
            return Answer::NoLease;
        }
        match self.table.lookup(key) {
            Lookup::Free => Answer::Free,
            Lookup::Moving => Answer::Moving,
            Lookup::Held(pin) if self.usable(key.pool, pin.expires, now_ms) => Answer::Held(pin),
            Lookup::Held(pin) => Answer::Expiring(pin),
        }
    }

    /// Whether a choice of `backend` that was made for `key` a while ago still holds: no replica can have expired the pin
    /// or moved it meanwhile.
    #[must_use]
    pub fn stands(&self, key: &PinKey, backend: BackendId, now_ms: u64) -> bool {
        match self.answer(key, now_ms) {
            Answer::Held(pin) => pin.backend == backend,
            Answer::Expiring(pin) => pin.backend == backend && self.lease.log_time_bound(now_ms) < pin.expires,
            Answer::Moving | Answer::Free | Answer::NoLease => false,
        }
    }

    /// Whether a pin of `pool` that expires at `expires` may be used without a commit.
    ///
    /// Not in its last lease: it may have expired elsewhere. Nor when more than half of its idle time has passed: the
    /// refresh that goes with its use may be lost in a crash, and a client that was just here keeps its backend for half
    /// of the idle time at least.
    #[must_use]
    pub fn usable(&self, pool: PoolId, expires: LogTime, now_ms: u64) -> bool {
        let lease_ms = self.lease.until_ms.saturating_sub(self.lease.asked_ms);
        let half_ms = self.table.pin_ttl_ms(pool).unwrap_or(0) / 2;
        self.lease.log_time_bound(now_ms).plus(lease_ms.max(half_ms)) < expires || plant::on(Plant::UseExpired)
    }
}

/// How much two clocks may differ after `millis`, in milliseconds.
#[must_use]
pub fn drift(millis: u64) -> u64 {
    millis.saturating_mul(DRIFT_PER_MILLE) / 1000 + 1
}

/// The most by which two instances' clocks may differ in rate. Crystal oscillators are within 0.1 per mille, NTP slews
/// by 0.5 per mille at most (RFC 5905 section 11.3): 10 leaves a wide margin.
pub const DRIFT_PER_MILLE: u64 = 10;

#[cfg(test)]
mod tests;
