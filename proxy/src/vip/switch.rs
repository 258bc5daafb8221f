//! When VIPs are announced and when they are withdrawn: the keeper's decisions, without sockets, processes and clocks.
//!
//! ```text
//!                      the instance says "announce", without a break for RISE_MS
//!               .--------------------------------------------------------------.
//!               |                                                              v
//!      goal: withdraw                                                   goal: announce
//!               ^                                                              |
//!               '--------------------------------------------------------------'
//!              at once: it says "withdraw", says nothing for `hold`, or is gone
//!
//! what is acknowledged: unknown --step done--> withdrawn or announced --step begun, step failed, BIRD lost--> unknown
//! ```
//!
//! In each turn: `handle_*` what happened, [`Switch::poll_step`] and carry the step out, tell [`Switch::report`], and wait for
//! the next thing or for [`Switch::poll_wake`]. One step at a time; its outcome comes back by [`Switch::handle_outcome`].
//!
//! What holds:
//! 1. "Announced" is reported only after a step that announces was acknowledged, and no other step was begun since.
//! 2. Whatever is wrong, as long as the goal is not what is acknowledged, the next step comes within [`PAUSE_MS_MAX`].
//! 3. What may be announced is remembered until its withdrawal is acknowledged.

use super::words::{Report, Said, State, Vips, in_one_line};

/// What a keeper goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Silence of the instance that withdraws, in milliseconds.
    pub hold_ms: u64,
    /// The announcer has one switch for all VIPs, and forgets it when it starts anew, as BIRD does: it is set again and
    /// again. A hook is called with the VIPs that change, once.
    pub one_switch: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These are to be announced.
    Announce(Vips),
    /// These are not.
    Withdraw(Vips),
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was so before.
    Already,
    /// It is so now.
    Changed,
    /// The announcer does not run, and so announces nothing.
    Absent(String),
    /// Nobody knows, for this reason.
    Failed(String),
}

/// The keeper's state.
#[derive(Debug)]
pub(super) struct Switch {
    settings: Settings,
    /// The newest words, and when they came.
    said: Option<Said>,
    said_at_ms: u64,
    /// From when on "announce" counts, if the newest words are that.
    risen_at_ms: u64,
    /// The instance was silent for `hold_ms` and has not spoken since.
    silent: bool,
    ended_at_ms: Option<u64>,
    acknowledged: Option<Acknowledged>,
    /// What may be announced, whoever acknowledged what; `None`: nothing.
    out: Option<Vips>,
    doing: Option<Step>,
    /// What the last step aimed at.
    aimed_at_announcing: bool,
    /// When to set again what is acknowledged.
    look_at_ms: u64,
    /// When to try again what is not.
    retry_at_ms: u64,
    pause_ms: u64,
    changes: u64,
    errors: u64,
    error: Option<String>,
}

/// What the announcer last acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Acknowledged {
    Withdrawn,
    Announced(Vips),
}

impl Switch {
    pub(super) fn new(settings: Settings, now_ms: u64) -> Self {
        Self {
            settings,
            said: None,
            said_at_ms: now_ms,
            risen_at_ms: 0,
            silent: false,
            ended_at_ms: None,
            acknowledged: None,
            out: None,
            doing: None,
            aimed_at_announcing: false,
            look_at_ms: 0,
            retry_at_ms: 0,
            pause_ms: 0,
            changes: 0,
            errors: 0,
            error: None,
        }
    }

    /// The instance said something.
    pub(super) fn handle_said(&mut self, now_ms: u64, mut said: Said) {
        if self.settings.one_switch {
            said.vips.clear();
        }
        let went_on = !self.silent && self.said.as_ref().is_some_and(|before| before.announce);
        if said.announce && !went_on {
            // Whose first word is "announce" has a keeper anew, and what it announced goes on.
            self.risen_at_ms = if self.said.is_none() { now_ms } else { now_ms + RISE_MS };
        }
        self.silent = false;
        self.said_at_ms = now_ms;
        self.said = Some(said);
    }

    /// The instance is gone.
    pub(super) fn handle_end(&mut self, now_ms: u64) {
        self.ended_at_ms.get_or_insert(now_ms);
    }

    /// Time passed.
    pub(super) fn handle_time(&mut self, now_ms: u64) {
        let due = now_ms >= self.said_at_ms + self.settings.hold_ms;
        if due && !self.silent && self.ended_at_ms.is_none() {
            self.silent = true;
            self.fail(format!("the instance said nothing for {} ms: withdrawn until it speaks", self.settings.hold_ms));
        }
    }

    /// The announcer was lost from sight: it may have started anew.
    pub(super) fn handle_lost(&mut self) {
        self.acknowledged = None;
        self.retry_at_ms = 0;
    }

    /// The step ended so.
    pub(super) fn handle_outcome(&mut self, now_ms: u64, outcome: Outcome) {
        let Some(step) = self.doing.take() else {
            debug_assert!(false, "an outcome without a step");
            return;
        };
        match outcome {
            Outcome::Already | Outcome::Changed => {
                self.changes += u64::from(outcome == Outcome::Changed);
                self.pause_ms = 0;
                self.retry_at_ms = now_ms;
                self.look_at_ms = if self.settings.one_switch { now_ms + LOOK_MS } else { u64::MAX };
                self.acknowledge(step);
            }
            Outcome::Absent(text) => {
                (self.acknowledged, self.out) = (Some(Acknowledged::Withdrawn), None);
                self.retry_later(now_ms, text);
            }
            Outcome::Failed(text) => {
                self.acknowledged = None;
                self.retry_later(now_ms, text);
            }
        }
        self.check_invariants();
    }

    /// What to do now; `None` while something is done, or nothing is to be done.
    pub(super) fn poll_step(&mut self, now_ms: u64) -> Option<Step> {
        let spoken = self.said.is_some() || self.silent || self.ended_at_ms.is_some();
        if !spoken || self.doing.is_some() {
            return None;
        }
        let goal = self.goal(now_ms).cloned();
        if goal.is_some() != self.aimed_at_announcing {
            // What it waited for was another aim.
            (self.retry_at_ms, self.pause_ms) = (0, 0);
        }
        if now_ms < self.due_at_ms(goal.as_ref()) {
            return None;
        }
        let settled = self.is_settled(goal.as_ref());
        self.aimed_at_announcing = goal.is_some();
        let step = match (goal, &self.out) {
            (None, out) => {
                let said = self.said.iter().flat_map(|said| &said.vips);
                Step::Withdraw(out.iter().flatten().chain(said).copied().collect())
            }
            (Some(goal), Some(out)) if !out.is_subset(&goal) => Step::Withdraw(out - &goal),
            (Some(goal), _) => {
                self.out.get_or_insert_default().extend(&goal);
                Step::Announce(goal)
            }
        };
        if !settled {
            self.acknowledged = None;
        }
        self.doing = Some(step.clone());
        self.check_invariants();
        Some(step)
    }

    /// When to come back though nothing happened.
    pub(super) fn poll_wake(&self, now_ms: u64) -> u64 {
        let mut wake_ms = now_ms + LOOK_MS;
        match self.ended_at_ms {
            Some(ended_at_ms) => wake_ms = wake_ms.min(ended_at_ms + END_MS),
            None if self.silent => {}
            None => wake_ms = wake_ms.min(self.said_at_ms + self.settings.hold_ms),
        }
        if self.risen_at_ms > now_ms {
            wake_ms = wake_ms.min(self.risen_at_ms);
        }
        if self.doing.is_none() {
            wake_ms = wake_ms.min(self.due_at_ms(self.goal(now_ms)));
        }
        wake_ms.max(now_ms + 1)
    }

    /// Whether the instance is gone and all is withdrawn, or long enough was tried.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        let withdrawn = self.acknowledged == Some(Acknowledged::Withdrawn);
        self.doing.is_none() && self.ended_at_ms.is_some_and(|ended_at_ms| withdrawn || now_ms >= ended_at_ms + END_MS)
    }

    /// How all stands.
    pub(super) fn report(&self) -> Report {
        Report {
            heard: self.said.as_ref().map_or(0, |said| said.number),
            state: match &self.acknowledged {
                None => State::Unknown,
                Some(Acknowledged::Withdrawn) => State::Withdrawn,
                Some(Acknowledged::Announced(_)) => State::Announced,
            },
            changes: self.changes,
            errors: self.errors,
            error: self.error.clone(),
        }
    }

    /// The VIPs that should be announced; `None`: withdraw.
    fn goal(&self, now_ms: u64) -> Option<&Vips> {
        let said = self.said.as_ref().filter(|said| said.announce)?;
        (!self.silent && self.ended_at_ms.is_none() && now_ms >= self.risen_at_ms).then_some(&said.vips)
    }

    fn is_settled(&self, goal: Option<&Vips>) -> bool {
        match (goal, &self.acknowledged) {
            (None, Some(Acknowledged::Withdrawn)) => true,
            (Some(goal), Some(Acknowledged::Announced(vips))) => goal == vips,
            _ => false,
        }
    }

    fn due_at_ms(&self, goal: Option<&Vips>) -> u64 {
        if self.is_settled(goal) { self.look_at_ms } else { self.retry_at_ms }
    }

    fn acknowledge(&mut self, step: Step) {
        match step {
            Step::Announce(vips) => {
                self.acknowledged = Some(Acknowledged::Announced(vips));
                self.error = None;
            }
            Step::Withdraw(gone) => {
                self.out = self.out.take().map(|out| &out - &gone).filter(|left| !left.is_empty());
                // What is left may have been announced or not: it is announced next.
                self.acknowledged = self.out.is_none().then_some(Acknowledged::Withdrawn);
                if !self.silent {
                    self.error = None;
                }
            }
        }
    }

    fn retry_later(&mut self, now_ms: u64, text: String) {
        self.pause_ms = (self.pause_ms * 2).clamp(PAUSE_MS_MIN, PAUSE_MS_MAX);
        self.retry_at_ms = now_ms + self.pause_ms;
        self.look_at_ms = self.retry_at_ms;
        self.fail(text);
    }

    fn fail(&mut self, text: String) {
        self.errors += 1;
        self.error = Some(in_one_line(&text));
    }

    fn check_invariants(&self) {
        if let Some(Acknowledged::Announced(vips)) = &self.acknowledged {
            debug_assert!(
                self.out.as_ref().is_some_and(|out| vips.is_subset(out)),
                "what is announced may be announced"
            );
        }
    }
}

/// How long an instance says "announce" before it counts: one that comes and goes does not drag routes along.
const RISE_MS: u64 = 200;
/// How often an announcer with one switch is set again.
const LOOK_MS: u64 = 250;
/// First wait after a step that failed; doubles.
const PAUSE_MS_MIN: u64 = 50;
/// Longest wait after a step that failed.
const PAUSE_MS_MAX: u64 = 1_000;
/// How long a keeper whose instance is gone tries to withdraw.
const END_MS: u64 = 60_000;

#[cfg(test)]
mod tests;
