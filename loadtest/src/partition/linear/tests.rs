//! Histories that have an order, and histories that have none.

use super::*;
use crate::chance::Chance;

fn told(from: u64, until: u64, deed: Deed) -> Operation {
    Operation { from: Moment(from), until: Some(Moment(until)), deed }
}

fn open(from: u64, deed: Deed) -> Operation {
    Operation { from: Moment(from), until: None, deed }
}

fn read(value: u64, revision: u64) -> Deed {
    Deed::Read { value, revision }
}

fn write(value: u64, revision: u64) -> Deed {
    Deed::Write { value, revision: Some(revision) }
}

fn swap(value: u64, expected: u64, revision: u64) -> Deed {
    Deed::Swap { value, expected, revision: Some(revision) }
}

#[track_caller]
fn good(operations: &[Operation]) {
    assert_eq!(judge(operations), Verdict::Linearizable);
}

#[track_caller]
fn bad(operations: &[Operation], because: &str) {
    match judge(operations) {
        Verdict::Not(text) => assert!(text.contains(because), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn operations_one_after_the_other() {
    good(&[]);
    good(&[told(0, 1, read(0, 0)), told(2, 3, write(7, 5)), told(4, 5, read(7, 5)), told(6, 7, swap(8, 5, 9))]);
    good(&[told(0, 1, Deed::Refused { expected: 3 }), told(2, 3, swap(1, 0, 4))]);
}

#[test]
fn operations_at_once_may_have_any_order() {
    // Sent first, and yet later in the log.
    good(&[told(0, 10, write(1, 6)), told(1, 10, write(2, 5)), told(2, 4, read(2, 5)), told(11, 12, read(1, 6))]);
    good(&[told(0, 10, write(1, 5)), told(1, 2, read(0, 0)), told(3, 4, read(1, 5))]);
}

#[test]
fn a_stale_read() {
    let stale = [told(0, 1, write(1, 5)), told(2, 3, write(2, 6)), told(4, 5, read(1, 5))];
    bad(&stale, "against: read 1 of revision 5");
    bad(&[told(0, 1, write(1, 5)), told(2, 3, read(0, 0))], "against: read 0");
}

#[test]
fn a_read_that_goes_back() {
    let write = told(0, 10, write(1, 5));
    bad(&[write, told(1, 2, read(1, 5)), told(3, 4, read(0, 0))], "against: read 0");
}

#[test]
fn an_acknowledged_write_that_is_lost() {
    bad(&[told(0, 1, write(1, 5)), told(2, 3, write(2, 6)), told(9, 10, read(1, 5))], "against: read 1");
}

#[test]
fn a_write_that_is_carried_out_twice() {
    let twice = [told(0, 1, write(1, 5)), told(2, 3, write(2, 6)), told(4, 5, read(1, 7))];
    bad(&twice, "against: read 1 of revision 7");
}

#[test]
fn a_value_that_nobody_wrote() {
    // What is refused as not done has no operation at all.
    bad(&[told(0, 1, write(1, 5)), told(2, 3, read(9, 6))], "against: read 9");
}

#[test]
fn two_winners_of_one_race() {
    let both = [told(0, 1, write(1, 5)), told(2, 9, swap(2, 5, 6)), told(2, 9, swap(3, 5, 7))];
    bad(&both, "if revision 5");
}

#[test]
fn a_refusal_without_a_cause() {
    bad(&[told(0, 1, write(1, 5)), told(2, 3, Deed::Refused { expected: 5 })], "against: refused");
}

#[test]
fn the_log_runs_against_time() {
    bad(&[told(0, 1, write(1, 6)), told(2, 3, write(2, 5))], "against: write 2");
}

#[test]
fn a_write_without_an_outcome_takes_effect_later_or_never() {
    let unknown = open(0, Deed::Write { value: 1, revision: None });
    good(&[unknown, told(1, 2, read(0, 0))]);
    good(&[unknown, told(1, 2, read(0, 0)), told(50, 60, read(1, 8))]);
    good(&[unknown, told(1, 2, write(2, 5)), told(3, 4, read(2, 5)), told(5, 6, read(1, 8)), told(7, 8, read(1, 8))]);
    // But once it was seen it stays, and it comes once.
    bad(&[unknown, told(5, 6, read(1, 8)), told(7, 8, read(0, 0))], "against: read 0");
    bad(&[unknown, told(5, 6, read(1, 8)), told(7, 8, write(2, 9)), told(10, 11, read(1, 10))], "against: read 1");
    // Nor before it was sent.
    bad(&[open(9, Deed::Write { value: 1, revision: None }), told(5, 6, read(1, 8))], "against: read 1");
}

#[test]
fn a_conditional_write_without_an_outcome() {
    let unknown = |from, expected| open(from, Deed::Swap { value: 2, expected, revision: None });
    good(&[told(0, 1, write(1, 5)), unknown(2, 5), told(3, 4, read(2, 6))]);
    good(&[told(0, 1, write(1, 5)), unknown(2, 5), told(3, 4, write(3, 6)), told(5, 6, read(3, 6))]);
    bad(&[told(0, 1, write(1, 5)), unknown(2, 4), told(3, 4, read(2, 6))], "against: ");
}

#[test]
fn what_left_no_trace_can_be_why_another_was_refused() {
    let unknown = open(2, Deed::Write { value: 9, revision: None });
    let refused = told(5, 6, Deed::Refused { expected: 5 });
    good(&[told(0, 1, write(1, 5)), unknown, refused, told(7, 8, write(3, 8)), told(9, 10, read(3, 8))]);
    // Not where the old value was read afterwards.
    bad(&[told(0, 1, write(1, 5)), unknown, refused, told(7, 8, read(1, 5))], "against: read 1");
}

/// A history as clients of a true register would have it; the chance says where each operation stands in its time.
fn honest(chance: &mut Chance, length: u64) -> Vec<Operation> {
    let (mut value, mut revision, mut told_last) = (ABSENT, ABSENT, ABSENT);
    let mut operations = Vec::new();
    for step in 1..=length {
        let now = step * 10;
        let from = Moment(now - u64::from(chance.below(40)).min(now));
        let answer = Some(Moment(now + u64::from(chance.below(40))));
        let lost = chance.percent(10);
        let made = Some(now).filter(|_| !lost);
        let deed = match chance.below(4) {
            0 => Deed::Write { value: step, revision: made },
            1 if told_last == revision => Deed::Swap { value: step, expected: revision, revision: made },
            1 => Deed::Refused { expected: told_last },
            2 => Deed::Refused { expected: revision + 1 },
            _ => Deed::Read { value, revision },
        };
        let wrote = deed.written().is_some();
        if wrote {
            (value, revision) = (step, now);
        }
        // Reads are always answered; a refusal does not say which revision there is.
        if !lost && wrote || matches!(deed, Deed::Read { .. }) {
            told_last = revision;
        }
        operations.push(Operation { from, until: answer.filter(|_| !lost || !wrote), deed });
        if chance.percent(3) {
            // It was sent and never arrived.
            operations.push(open(now, Deed::Write { value: length + step, revision: None }));
        }
    }
    operations
}

#[test]
fn honest_histories_are_accepted_and_a_lie_in_them_is_not() {
    for seed in 0..200 {
        let mut chance = Chance::new(seed);
        let mut operations = honest(&mut chance, 300);
        assert_eq!(judge(&operations), Verdict::Linearizable, "seed {seed}");
        // The first value, read once more at the very end.
        let (first, last) = (operations.iter().find_map(|one| Some((one.deed.written()?, one.deed.made()?))), 99_999);
        let Some((value, revision)) = first else { continue };
        operations.push(told(last, last + 1, read(value, revision)));
        assert!(matches!(judge(&operations), Verdict::Not(_)), "seed {seed}: {:?}", judge(&operations));
    }
}
