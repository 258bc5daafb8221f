//! Moments and spans of time as the judge sees them: plain numbers, so that a verdict can be replayed.

use std::time::{Duration, Instant};

/// A point in time, in microseconds since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment moved later by `gap`.
    pub fn plus(self, gap: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(gap.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this moment is; zero when it is not later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{:03} s", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}

/// A stretch of time with both ends included; `until` is `None` while it still lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first moment that belongs to it.
    pub from: Moment,
    /// The last moment that belongs to it, `None` while it still lasts.
    pub until: Option<Moment>,
}

impl Span {
    /// A span that is over.
    pub fn closed(from: Moment, until: Moment) -> Span {
        Span { from, until: Some(until) }
    }

    /// A span that lasts until it is closed.
    pub fn open(from: Moment) -> Span {
        Span { from, until: None }
    }

    /// Whether any moment belongs to both this span and `from..=until`.
    pub fn touches(&self, from: Moment, until: Moment) -> bool {
        self.from <= until && self.until.is_none_or(|end| end >= from)
    }
}

/// The one clock of a run; monotonic, so no change of the wall clock can bend a verdict.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
}

impl Clock {
    /// A clock that reads zero now.
    pub fn start() -> Clock {
        Clock { zero: Instant::now() }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}
