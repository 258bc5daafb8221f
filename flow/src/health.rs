//! One instance's own view of a backend: successes and failures in a row, counted to a word that it votes with.
//!
//! ```text
//!             rise successes in a row                fall failures in a row, or fail_now
//!   Unknown ---------------------------> Up  <----------------------------------------------> Down
//!      |                                       rise successes in a row                          ^
//!      +--------------- fall failures in a row, or fail_now ------------------------------------+
//! ```

use std::fmt;

/// What an instance thinks of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// Not enough was seen yet; not a vote.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// Counts checks of one backend. A run that is broken starts again, so flapping changes nothing.
///
/// Invariant: `run` is less than the number that would change the view, and counts only results that speak against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCounter {
    rise: u32,
    fall: u32,
    view: View,
    /// The last result, and how many of it came in a row.
    last: bool,
    run: u32,
}

impl HealthCounter {
    /// A counter that starts unknown. `rise` and `fall` of 0 count as 1.
    #[must_use]
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), view: View::Unknown, last: false, run: 0 }
    }

    /// What the checks so far say.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// A check succeeded (`Up`) or failed; answers the new view if it changes by that.
    pub fn observe(&mut self, ok: bool) -> Option<View> {
        let (needed, proposes) = if ok { (self.rise, View::Up) } else { (self.fall, View::Down) };
        if self.view == proposes {
            self.run = 0;
            return None;
        }
        self.run = if self.last == ok { self.run + 1 } else { 1 };
        self.last = ok;
        if self.run < needed {
            return None;
        }
        self.settle(proposes)
    }

    /// A failure that counts at once: a connect for a client failed, or the check that was asked for because of one.
    pub fn fail_now(&mut self) -> Option<View> {
        if self.view == View::Down {
            self.run = 0;
            return None;
        }
        self.settle(View::Down)
    }

    fn settle(&mut self, view: View) -> Option<View> {
        self.view = view;
        self.run = 0;
        Some(view)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            View::Unknown => "unknown",
            View::Up => "up",
            View::Down => "down",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replays `+` (success), `-` (failure) and `!` (fail now); the answer has the new view's letter where it changed.
    fn check(rise: u32, fall: u32, events: &str, expected: &str) {
        let mut counter = HealthCounter::new(rise, fall);
        let answers: String = events
            .chars()
            .map(|event| {
                let change = match event {
                    '+' => counter.observe(true),
                    '-' => counter.observe(false),
                    _ => counter.fail_now(),
                };
                assert!(change.is_none_or(|view| view == counter.view()));
                match change {
                    None => '.',
                    Some(View::Unknown) => '?',
                    Some(View::Up) => 'U',
                    Some(View::Down) => 'D',
                }
            })
            .collect();
        assert_eq!(answers, expected, "rise {rise} fall {fall} events {events}");
    }

    #[test]
    fn stories() {
        check(2, 3, "++", ".U");
        check(2, 3, "---", "..D");
        check(2, 3, "-+-+-+", "......"); // Unknown for as long as nothing holds.
        check(2, 3, "--+--+++", "......U.");
        check(2, 3, "++--+--+---", ".U........D");
        check(2, 3, "++---+-+-++", ".U..D.....U");
        check(1, 1, "+-+-", "UDUD");
        check(0, 0, "+-", "UD");
        check(3, 3, "!", "D");
        check(3, 3, "!!++-++!+++", "D.........U");
        check(2, 2, "++!++-!", ".UD.U.D");
        check(2, 2, "++-!+-+", ".U.D...");
    }

    #[test]
    fn a_failure_at_once_breaks_a_run_of_successes() {
        check(3, 3, "!++!+", "D....");
        check(3, 3, "!++!+++", "D.....U");
    }

    #[test]
    fn long_runs_do_not_overflow() {
        let mut counter = HealthCounter::new(u32::MAX, u32::MAX);
        for _ in 0..10_000 {
            assert_eq!(counter.observe(true), None);
        }
        assert_eq!(counter.view(), View::Unknown);
    }
}
