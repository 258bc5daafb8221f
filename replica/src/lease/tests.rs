//! The leader's side of leases, one story each. Times are the leader's clock; a lease lasts 1000 ms.

use super::*;

const LEASE: u64 = 1000;
const LIFE: u64 = 4711;
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

/// The longest time that the leader must wait for a lease that it granted just now.
fn booked() -> u64 {
    LEASE + 2 * drift(LEASE)
}

/// An ask that left at `asked_ms`.
fn at(applied: u64, asked_ms: u64) -> LeaseAsk {
    LeaseAsk { life: LIFE, applied, asked_ms }
}

fn leader() -> LeaseBook {
    let mut book = LeaseBook::default();
    book.lead(0);
    book
}

/// `from` asks, having applied up to `applied`, and a proof at `applied` comes in; who is granted a lease at `now_ms`.
fn ask(book: &mut LeaseBook, from: NodeId, applied: u64, now_ms: u64, last_move: u64) -> Vec<NodeId> {
    book.ask(from, at(applied, 77), now_ms);
    assert!(book.wants_proof());
    book.proving(1);
    book.proven(1, 0);
    let grants = book.grants(now_ms, LEASE, 100, last_move);
    assert!(grants.iter().all(|(_, ask)| ask.asked_ms == 77 && ask.life == LIFE));
    grants.into_iter().map(|(to, _)| to).collect()
}

#[test]
fn a_lease_is_granted_only_with_a_proof_that_is_applied() {
    let mut book = leader();
    book.ask(A, at(10, 5), 5);
    assert_eq!(book.grants(10, LEASE, 100, 0), []);
    book.proving(1);
    assert_eq!(book.grants(10, LEASE, 100, 0), []);
    book.ask(B, at(10, 6), 6);
    assert!(!book.wants_proof(), "one proof at a time");
    book.proven(2, 50);
    assert_eq!(book.proof_in_flight(), Some(1), "a proof of something else is none");
    book.proven(1, 50);
    assert_eq!(book.grants(10, LEASE, 49, 0), [], "the leader's own table is not there yet");
    assert_eq!(book.grants(10, LEASE, 50, 0), [(A, at(10, 5))]);
    assert!(book.holds(A, 10) && !book.holds(B, 10), "who asked later needs a later proof");
    assert!(book.wants_proof());
}

#[test]
fn asks_of_a_lost_proof_wait_for_the_next_one() {
    let mut book = leader();
    book.ask(A, at(10, 5), 5);
    book.ask(B, at(10, 5), 5);
    book.proving(1);
    book.ask(A, at(11, 9), 9);
    book.give_up(1);
    book.proving(2);
    book.proven(2, 0);
    let grants = book.grants(10, LEASE, 100, 0);
    assert_eq!(grants, [(A, at(11, 9)), (B, at(10, 5))]);
}

#[test]
fn what_was_asked_before_a_long_pause_is_not_granted() {
    let mut book = leader();
    book.ask(A, at(10, 5), 5);
    book.proving(1);
    book.proven(1, 0);
    assert_eq!(book.grants(5 + LEASE, LEASE, 100, 0), []);
    assert!(!book.holds(A, 5 + LEASE), "nor does it count among the holders");
    assert_eq!(ask(&mut book, A, 20, 5 + LEASE, 0), [A]);
}

#[test]
fn who_lags_behind_a_move_gets_no_lease() {
    let mut book = leader();
    assert_eq!(ask(&mut book, A, 20, 10, 20), [A]);
    assert_eq!(ask(&mut book, B, 19, 10, 20), []);
    assert!(!book.holds(B, 10));
    assert_eq!(ask(&mut book, B, 20, 10, 20), [B]);
}

#[test]
fn a_move_is_settled_when_every_holder_has_applied_it() {
    let mut book = leader();
    let start = booked();
    ask(&mut book, A, 10, start, 0);
    ask(&mut book, B, 10, start, 0);
    assert!(!book.can_settle(start, LEASE, 20));
    ask(&mut book, A, 20, start + 1, 20);
    assert!(!book.can_settle(start + 1, LEASE, 20));
    ask(&mut book, B, 20, start + 2, 20);
    assert!(book.can_settle(start + 2, LEASE, 20));
}

#[test]
fn a_move_is_settled_when_the_lease_of_who_lags_has_run_out() {
    let mut book = leader();
    let start = booked();
    ask(&mut book, A, 20, start, 0);
    ask(&mut book, B, 10, start, 0);
    assert!(!book.can_settle(start + booked() - 1, LEASE, 20));
    assert!(book.can_settle(start + booked(), LEASE, 20));
}

#[test]
fn a_new_leader_waits_out_the_leases_of_the_old_one() {
    let mut book = leader();
    assert!(!book.can_settle(booked() - 1, LEASE, 20));
    assert!(book.can_settle(booked(), LEASE, 20));
    // Leading on is not leading anew; but after a term as a follower it is.
    book.lead(booked());
    assert!(book.can_settle(booked(), LEASE, 20));
    book.follow();
    assert!(!book.can_settle(booked(), LEASE, 20));
    book.lead(booked());
    assert!(!book.can_settle(booked() + 1, LEASE, 20));
}

#[test]
fn a_follower_books_nothing() {
    let mut book = LeaseBook::default();
    book.ask(A, at(10, 5), 5);
    assert!(!book.wants_proof());
}

#[test]
fn holders_are_counted_until_their_leases_end() {
    let mut book = leader();
    ask(&mut book, A, 10, 0, 0);
    ask(&mut book, B, 10, 500, 0);
    let holders = |now_ms| book.holders([A, B, NodeId(3)].into_iter(), now_ms);
    assert_eq!([holders(0), holders(booked()), holders(booked() + 500)], [2, 1, 0]);
    assert_eq!(book.until().collect::<Vec<_>>(), [(A, booked()), (B, 500 + booked())]);
}
