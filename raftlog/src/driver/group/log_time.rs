//! Log time: the milliseconds that a leader stamps into entries.

use super::Group;
use crate::plant::{self, Plant};

/// Log time goes on as monotonic time does, but for the time in which this process did not run: nobody could refresh
/// anything then, so nothing shall expire by it.
#[derive(Clone, Copy)]
pub struct Clock {
    /// Of the leadership in this term.
    term: u64,
    time_ms: u64,
    seen_ms: u64,
}

impl Clock {
    fn at(&self, now_ms: u64) -> u64 {
        self.time_ms + now_ms.saturating_sub(self.seen_ms).min(CLOCK_STEP_MS_MAX)
    }
}

impl Group {
    /// The log time of an entry made now; none unless this replica leads. A leader whose clock did not start yet stands
    /// at the last entry of its log.
    pub fn log_time(&self, now_ms: u64) -> Option<u64> {
        let last_ms = self.node.store().last_time_ms();
        self.leads().then(|| self.running_clock().map_or(last_ms, |clock| clock.at(now_ms).max(last_ms)))
    }

    /// The log time now; starts the clock of a leader that has none.
    pub fn advance_clock(&mut self, now_ms: u64) -> u64 {
        let last_ms = self.node.store().last_time_ms();
        let term = self.node.raft.term;
        // A millisecond that has begun is not counted from its beginning: else each of many leaders would gain one.
        let clock = self.running_clock().unwrap_or(Clock { term, time_ms: last_ms, seen_ms: now_ms + 1 });
        let time_ms = clock.at(now_ms).max(last_ms);
        self.clock = Some(Clock { term, time_ms, seen_ms: clock.seen_ms.max(now_ms) });
        time_ms
    }

    /// The clock, if it is of the present leadership.
    fn running_clock(&self) -> Option<Clock> {
        self.clock.filter(|clock| clock.term == self.node.raft.term || plant::on(Plant::ClockOutlivesLeader))
    }
}

/// The clock of log time is looked at several times in this time; what goes beyond it between two looks does not count.
const CLOCK_STEP_MS_MAX: u64 = 250;
