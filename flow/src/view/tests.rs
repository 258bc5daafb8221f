//! When a reader may answer.

use super::*;
use crate::{
    command::{EpochCopy, PinCommand, Standing},
    ids::{BackendId, Epoch, Revision},
    pins::Expiry,
};

const TTL: u64 = 60_000;

fn key() -> PinKey {
    PinKey::new(PoolId::of("web"), [10, 0, 0, 1].into())
}

/// One pin, made at log time 0, under a lease of 1000 ms asked at clock 5000 when log time was `log_time`.
fn view(log_time: u64) -> GroupView {
    let mut table = PinTable::new();
    let mut expiry = Expiry::new();
    let pools = vec![(key().pool, TTL)];
    let copy = EpochCopy { epoch: Epoch(1), pools, backends: vec![(BackendId(1), Standing::Live)] };
    table.apply(Revision(1), LogTime(0), &PinCommand::Epoch(copy), &mut expiry);
    let assign = PinCommand::Assign { key: key(), backend: BackendId(1), epoch: Epoch(1) };
    table.apply(Revision(2), LogTime(0), &assign, &mut expiry);
    let lease = Lease { asked_ms: 5000, until_ms: 6000, log_time: LogTime(log_time) };
    GroupView { table, generation: 0, lease }
}

/// The answer's name at a clock of `now_ms`.
fn check(view: &GroupView, now_ms: u64, expected: &str) {
    let answer = match view.answer(&key(), now_ms) {
        Answer::Held(_) => "held",
        Answer::Expiring(_) => "expiring",
        Answer::Moving => "moving",
        Answer::Free => "free",
        Answer::NoLease => "no lease",
    };
    assert_eq!(answer, expected, "at {now_ms}");
}

#[test]
fn without_a_lease_there_is_no_answer() {
    let view = view(0);
    check(&view, 5000, "held");
    check(&view, 5999, "held");
    check(&view, 6000, "no lease");
    check(&view, u64::MAX, "no lease");
    check(&GroupView { lease: Lease::default(), ..view }, 0, "no lease");
}

#[test]
fn a_choice_stands_until_its_pin_may_have_expired_anywhere() {
    let stands = |log_time, now_ms| view(log_time).stands(&key(), BackendId(1), now_ms);
    assert!(stands(0, 5000));
    assert!(!view(0).stands(&key(), BackendId(2), 5000), "another backend");
    assert!(!stands(0, 6000), "no lease");
    assert!(stands(TTL - 200, 5000), "expiring, and nowhere expired yet");
    assert!(!stands(TTL - 200, 5500), "it may have expired at the leader");
    assert!(!stands(TTL, 5000));
}

#[test]
fn a_pin_is_used_without_a_commit_for_half_of_its_idle_time() {
    check(&view(TTL / 2 - 100), 5000, "held");
    check(&view(TTL / 2 - 100), 5050, "held");
    check(&view(TTL / 2 - 100), 5200, "expiring");
    check(&view(TTL / 2), 5000, "expiring");
    check(&view(TTL - 1), 5000, "expiring");
}

#[test]
fn a_short_lived_pin_is_not_used_in_its_last_lease() {
    let mut view = view(0);
    view.lease.until_ms = 5000 + TTL;
    check(&view, 5000, "expiring");
}

#[test]
fn the_bound_of_log_time_outruns_every_clock_within_the_allowed_drift() {
    let lease = Lease { asked_ms: 0, until_ms: 10_000, log_time: LogTime(100) };
    for passed in [0, 1, 99, 1000, 10_000] {
        let fastest = passed + passed * DRIFT_PER_MILLE / 1000;
        assert!(lease.log_time_bound(passed).0 > 100 + fastest, "after {passed}");
    }
    assert_eq!(lease.log_time_bound(0), LogTime(102));
}

#[test]
fn a_moving_pin_waits_and_a_settled_one_is_free() {
    let mut view = view(0);
    let mut expiry = Expiry::new();
    let gone = EpochCopy { epoch: Epoch(2), pools: vec![(key().pool, TTL)], backends: Vec::new() };
    view.table.apply(Revision(3), LogTime(0), &PinCommand::Epoch(gone), &mut expiry);
    check(&view, 5000, "moving");
    view.table.apply(Revision(4), LogTime(0), &PinCommand::Settle(Revision(3)), &mut expiry);
    check(&view, 5000, "free");
}
