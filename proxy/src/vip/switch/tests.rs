//! Each rule of the switch, and a great many lives of an instance, a keeper and an announcer.

use super::*;

const HOLD_MS: u64 = 1_000;

fn vips(list: &[&str]) -> Vips {
    list.iter().map(|vip| vip.parse().unwrap()).collect()
}

fn announce(number: u64, list: &[&str]) -> Said {
    Said { number, announce: true, vips: vips(list) }
}

fn withdraw(number: u64) -> Said {
    Said { number, announce: false, vips: Vips::new() }
}

fn bird() -> Switch {
    Switch::new(Settings { hold_ms: HOLD_MS, one_switch: true }, 0)
}

fn hook() -> Switch {
    Switch::new(Settings { hold_ms: HOLD_MS, one_switch: false }, 0)
}

const ALL_UP: Step = Step::Announce(Vips::new());
const ALL_DOWN: Step = Step::Withdraw(Vips::new());

/// The step that comes now, done.
fn does(switch: &mut Switch, now_ms: u64, step: Step, outcome: Outcome) {
    switch.handle_time(now_ms);
    assert_eq!(switch.poll_step(now_ms), Some(step), "at {now_ms}");
    assert_eq!(switch.poll_step(now_ms), None, "one at a time");
    switch.handle_outcome(now_ms, outcome);
}

/// Nothing is done now.
fn rests(switch: &mut Switch, now_ms: u64) {
    switch.handle_time(now_ms);
    assert_eq!(switch.poll_step(now_ms), None, "at {now_ms}");
}

/// A switch that has announced, at 1000 ms.
fn announced() -> Switch {
    let mut switch = bird();
    switch.handle_said(0, withdraw(1));
    does(&mut switch, 0, ALL_DOWN, Outcome::Already);
    switch.handle_said(800, announce(2, &[]));
    does(&mut switch, 1_000, ALL_UP, Outcome::Changed);
    assert_eq!(switch.report().state, State::Announced);
    switch
}

#[test]
fn nothing_is_done_before_the_first_word_and_the_first_word_withdraws_what_an_earlier_life_left() {
    let mut switch = bird();
    rests(&mut switch, 0);
    assert_eq!(switch.report(), Report { heard: 0, state: State::Unknown, changes: 0, errors: 0, error: None });
    switch.handle_said(5, withdraw(1));
    does(&mut switch, 5, ALL_DOWN, Outcome::Changed);
    assert_eq!(switch.report(), Report { heard: 1, state: State::Withdrawn, changes: 1, errors: 0, error: None });
    // No word at all is a silence.
    let mut silent = bird();
    rests(&mut silent, HOLD_MS - 1);
    does(&mut silent, HOLD_MS, ALL_DOWN, Outcome::Already);
    // Nor does an instance that is gone again leave anything.
    let mut gone = bird();
    gone.handle_end(3);
    does(&mut gone, 3, ALL_DOWN, Outcome::Already);
    assert!(gone.is_over(3));
}

#[test]
fn it_announces_once_the_instance_has_said_so_for_a_while_and_not_before_it_is_acknowledged() {
    let mut switch = bird();
    switch.handle_said(0, withdraw(1));
    does(&mut switch, 0, ALL_DOWN, Outcome::Already);
    switch.handle_said(100, announce(2, &[]));
    assert_eq!(switch.poll_wake(101), 250, "the next look");
    rests(&mut switch, 249);
    does(&mut switch, 250, ALL_DOWN, Outcome::Already);
    assert_eq!(switch.poll_wake(250), 100 + RISE_MS);
    rests(&mut switch, 299);
    assert_eq!(switch.poll_step(300), Some(ALL_UP));
    assert_eq!(switch.report().state, State::Unknown, "it was begun");
    switch.handle_outcome(310, Outcome::Changed);
    assert_eq!(switch.report(), Report { heard: 2, state: State::Announced, changes: 1, errors: 0, error: None });
}

#[test]
fn an_instance_that_comes_and_goes_is_not_announced() {
    let mut switch = bird();
    switch.handle_said(0, withdraw(1));
    does(&mut switch, 0, ALL_DOWN, Outcome::Already);
    for turn in 1..20 {
        let now_ms = turn * RISE_MS;
        switch.handle_said(now_ms - RISE_MS + 1, announce(2 * turn, &[]));
        switch.handle_time(now_ms);
        assert!(!matches!(switch.poll_step(now_ms), Some(Step::Announce(_))));
        if switch.doing.is_some() {
            switch.handle_outcome(now_ms, Outcome::Already);
        }
        switch.handle_said(now_ms, withdraw(2 * turn + 1));
    }
    assert_eq!(switch.report().changes, 0);
}

#[test]
fn withdrawing_waits_for_nothing() {
    let mut switch = announced();
    switch.handle_said(1_001, withdraw(3));
    does(&mut switch, 1_001, ALL_DOWN, Outcome::Changed);
    assert_eq!(switch.report(), Report { heard: 3, state: State::Withdrawn, changes: 2, errors: 0, error: None });

    let mut switch = announced();
    switch.handle_end(1_001);
    does(&mut switch, 1_001, ALL_DOWN, Outcome::Changed);
    assert!(switch.is_over(1_001));

    // A step that is being done ends first.
    let mut switch = announced();
    assert_eq!(switch.poll_step(1_250), Some(ALL_UP), "a look");
    switch.handle_end(1_251);
    rests(&mut switch, 1_251);
    assert!(!switch.is_over(1_251));
    switch.handle_outcome(1_260, Outcome::Already);
    does(&mut switch, 1_260, ALL_DOWN, Outcome::Changed);
    assert!(switch.is_over(1_260));
}

#[test]
fn silence_withdraws_and_a_word_after_it_rises_anew() {
    let mut switch = announced();
    for now_ms in [1_250, 1_500, 1_750] {
        does(&mut switch, now_ms, ALL_UP, Outcome::Already);
    }
    // It last spoke at 800.
    assert_eq!(switch.poll_wake(1_750), 800 + HOLD_MS);
    rests(&mut switch, 1_799);
    does(&mut switch, 1_800, ALL_DOWN, Outcome::Changed);
    let report = switch.report();
    assert_eq!((report.state, report.errors), (State::Withdrawn, 1));
    assert_eq!(report.error.as_deref(), Some("the instance said nothing for 1000 ms: withdrawn until it speaks"));
    does(&mut switch, 2_050, ALL_DOWN, Outcome::Already);
    assert_eq!(switch.report().errors, 1, "one silence");
    switch.handle_said(2_100, announce(9, &[]));
    rests(&mut switch, 2_299);
    does(&mut switch, 2_300, ALL_UP, Outcome::Changed);
    assert_eq!(switch.report().error, None);
}

#[test]
fn a_new_keeper_of_an_instance_that_announces_interrupts_nothing() {
    let mut switch = bird();
    switch.handle_said(10, announce(77, &[]));
    does(&mut switch, 10, ALL_UP, Outcome::Already);
    assert_eq!(switch.report(), Report { heard: 77, state: State::Announced, changes: 0, errors: 0, error: None });
}

#[test]
fn what_fails_is_tried_again_later_and_later_and_at_once_when_the_aim_changes() {
    let mut switch = bird();
    switch.handle_said(0, announce(1, &[]));
    let mut now_ms = 0;
    for pause_ms in [50, 100, 200, 400, 800, 1_000, 1_000] {
        switch.handle_said(now_ms, announce(1, &[]));
        does(&mut switch, now_ms, ALL_UP, Outcome::Failed("no\nroom".to_owned()));
        assert_eq!(switch.report().state, State::Unknown);
        switch.handle_said(now_ms, announce(1, &[]));
        rests(&mut switch, now_ms + pause_ms - 1);
        now_ms += pause_ms;
    }
    assert_eq!((switch.report().errors, switch.report().error.as_deref()), (7, Some("no room")));
    switch.handle_said(now_ms - 999, withdraw(2));
    does(&mut switch, now_ms - 999, ALL_DOWN, Outcome::Already);
    assert_eq!(switch.report().error, None);
}

#[test]
fn an_announcer_that_starts_anew_is_told_again() {
    let mut switch = announced();
    switch.handle_lost();
    assert_eq!(switch.report().state, State::Unknown);
    does(&mut switch, 1_010, ALL_UP, Outcome::Absent("BIRD does not run".to_owned()));
    assert_eq!(switch.report().state, State::Withdrawn, "who does not run announces nothing");
    does(&mut switch, 1_060, ALL_UP, Outcome::Changed);
    assert_eq!(switch.report().state, State::Announced);
    // One that was only told to read its configuration again is found by a look.
    rests(&mut switch, 1_309);
    does(&mut switch, 1_310, ALL_UP, Outcome::Changed);
    assert_eq!(switch.report().changes, 3);
}

#[test]
fn a_keeper_without_an_instance_tries_for_a_while() {
    let mut switch = announced();
    switch.handle_end(2_000);
    let (mut now_ms, mut tries) = (2_000, 0);
    while !switch.is_over(now_ms) {
        switch.handle_time(now_ms);
        if switch.poll_step(now_ms).is_some() {
            tries += 1;
            switch.handle_outcome(now_ms, Outcome::Failed("no answer".to_owned()));
        }
        now_ms = switch.poll_wake(now_ms);
    }
    assert_eq!(now_ms, 2_000 + END_MS);
    assert!((END_MS / PAUSE_MS_MAX..END_MS / PAUSE_MS_MAX + 8).contains(&tries), "{tries}");
    // Where nobody announces, there is nothing to wait for.
    let mut switch = announced();
    switch.handle_end(2_000);
    does(&mut switch, 2_000, ALL_DOWN, Outcome::Absent("BIRD does not run".to_owned()));
    assert!(switch.is_over(2_000));
}

#[test]
fn a_hook_is_called_with_the_vips_that_change_and_not_again() {
    let (one, two) = ("192.0.2.1", "192.0.2.2");
    let mut switch = hook();
    switch.handle_said(0, Said { vips: vips(&[one]), ..withdraw(1) });
    does(&mut switch, 0, Step::Withdraw(vips(&[one])), Outcome::Changed);
    for now_ms in (0..2_000).step_by(100) {
        switch.handle_said(now_ms, announce(2, &[one]));
        if now_ms == RISE_MS {
            does(&mut switch, now_ms, Step::Announce(vips(&[one])), Outcome::Changed);
        }
        rests(&mut switch, now_ms);
    }
    switch.handle_said(2_000, announce(3, &[one, two]));
    does(&mut switch, 2_000, Step::Announce(vips(&[one, two])), Outcome::Changed);
    switch.handle_said(2_100, announce(4, &[two]));
    does(&mut switch, 2_100, Step::Withdraw(vips(&[one])), Outcome::Changed);
    assert_eq!(switch.report().state, State::Unknown);
    does(&mut switch, 2_100, Step::Announce(vips(&[two])), Outcome::Changed);
    rests(&mut switch, 2_200);
    // What was tried and failed may be out as well.
    switch.handle_said(2_300, announce(5, &[one, two]));
    does(&mut switch, 2_300, Step::Announce(vips(&[one, two])), Outcome::Failed("status 1".to_owned()));
    switch.handle_end(2_310);
    does(&mut switch, 2_310, Step::Withdraw(vips(&[one, two])), Outcome::Changed);
    assert!(switch.is_over(2_310));
}

/// xorshift64*, so that a failure can be replayed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// BIRD, as far as it matters here: its switch, and whether it answers.
struct World {
    up: bool,
    /// Answers that get lost, of 16.
    lossy: u64,
    random: Random,
}

impl World {
    /// Carries a step out, or not; what the keeper hears of that.
    fn carry_out(&mut self, step: &Step) -> Outcome {
        let wanted = matches!(step, Step::Announce(_));
        if self.random.below(16) < self.lossy {
            // Done or not, nobody tells.
            if self.random.below(2) == 0 {
                self.up = wanted;
            }
            return Outcome::Failed("no answer".to_owned());
        }
        let before = std::mem::replace(&mut self.up, wanted);
        if before == wanted { Outcome::Already } else { Outcome::Changed }
    }
}

/// Whatever an instance says, however BIRD fails: what is reported is so, and in the end all is withdrawn.
#[test]
fn a_thousand_lives() {
    let mut announcements = 0;
    for seed in 1..=1_000 {
        let random = Random(seed * 0x9e37_79b9_7f4a_7c15);
        let mut world = World { up: seed % 2 == 0, lossy: seed % 7, random };
        let mut switch = bird();
        let (mut now_ms, mut number, mut said_at_ms, mut wants) = (0, 0, 0, false);
        let ends_at_ms = 5_000 + world.random.below(5_000);
        while !switch.is_over(now_ms) {
            assert!(now_ms <= ends_at_ms + END_MS + 5_000, "seed {seed}: it does not end");
            let ended = now_ms >= ends_at_ms;
            match world.random.below(24) {
                0..12 if !ended => {
                    number += 1;
                    // It mostly goes on as it did.
                    wants ^= world.random.below(12) == 0;
                    said_at_ms = now_ms;
                    switch.handle_said(now_ms, if wants { announce(number, &[]) } else { withdraw(number) });
                }
                12 if !ended => {
                    // It is stopped for a while.
                    now_ms += world.random.below(2 * HOLD_MS);
                }
                13 => {
                    // BIRD starts anew, and its connection is lost.
                    world.up = false;
                    switch.handle_lost();
                }
                _ => {}
            }
            if ended {
                switch.handle_end(now_ms);
                world.lossy = world.lossy.min(4);
            }
            switch.handle_time(now_ms);
            if let Some(step) = switch.poll_step(now_ms) {
                let silent = now_ms >= said_at_ms + HOLD_MS;
                if matches!(step, Step::Announce(_)) {
                    assert!(wants && !ended && !silent, "seed {seed}, {now_ms} ms: announced unasked");
                    announcements += 1;
                }
                let outcome = world.carry_out(&step);
                now_ms += world.random.below(30);
                switch.handle_outcome(now_ms, outcome);
            }
            let report = switch.report();
            match report.state {
                State::Announced => assert!(world.up, "seed {seed}, {now_ms} ms: {report:?}"),
                State::Withdrawn => assert!(!world.up, "seed {seed}, {now_ms} ms: {report:?}"),
                State::Unknown => {}
            }
            let wake_ms = switch.poll_wake(now_ms);
            assert!(wake_ms > now_ms, "seed {seed}");
            now_ms = wake_ms.min(now_ms + 1 + world.random.below(60));
        }
        assert!(!world.up, "seed {seed}: left announced");
    }
    assert!(announcements > 1_000, "{announcements}");
}
