//! The rule: which answers may be given to one client, in what order, and which may not.
//!
//! Everything here is plain data: asks go in with their start and end times, offences come out. `docs/judging.md` says the
//! same in words. The rule rests on one question, [`Timeline::may_follow`]: could an honest fleet have answered `first` and
//! then `second`? It could if both are the same backend, or if the first one was away (dead, or not a member) at some moment
//! between the earliest time the first answer can have been decided and the latest time the second can have been.

mod tally;
mod timeline;

use std::collections::HashMap;

use crate::moment::Moment;

pub use tally::{Budget, Tally, Verdict, judge_tally};
pub use timeline::{EventId, Outage, Timeline};

/// A backend as the farm knows it: the index of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u16);

/// One proxy instance, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u8);

impl InstanceId {
    /// Whichever instance the network led a client to, where that does not show.
    pub const ANY: InstanceId = InstanceId(u8::MAX);
}

/// One client: a source address that nobody else uses, and one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// What came of one ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A backend said its name.
    Answered(BackendId),
    /// The instance said no at once: connection refused, closed or reset without an answer, HTTP 503.
    Refused,
    /// Nothing came before the deadline.
    Silent,
    /// Something came that no backend of the farm says.
    Garbled,
}

/// One question put to one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who was asked.
    pub instance: InstanceId,
    /// When the client began to connect.
    pub start: Moment,
    /// When the answer, the refusal or the deadline came.
    pub end: Moment,
    /// What came of it.
    pub outcome: Outcome,
}

/// An answer: an ask that a backend answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Through whom it came.
    pub instance: InstanceId,
    /// No earlier than this was it decided.
    pub start: Moment,
    /// No later than this was it decided.
    pub end: Moment,
    /// Who answered.
    pub backend: BackendId,
}

/// What an honest fleet never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Two backends for one client at one moment.
    Split,
    /// Another backend than before, though the first was alive and a member all the time.
    Moved,
    /// A backend that was told long ago to take no such client: removed, or draining and the client new.
    Stray,
    /// No answer.
    Lost,
}

/// One fault with what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offence {
    /// What kind.
    pub fault: Fault,
    /// Whose answers they are.
    pub client: ClientId,
    /// The asks of the visit in which it showed.
    pub asks: Vec<Ask>,
    /// The answers of the client's last visit that had any.
    pub before: Vec<Answer>,
}

/// The judge: the timeline of what was done, the history of every client, and the count of what was seen.
#[derive(Debug, Default)]
pub struct Judge {
    /// What was done to backends and instances, and when.
    pub timeline: Timeline,
    /// What was counted so far.
    pub tally: Tally,
    /// The first offences of each kind, in the order they were seen; later ones are only counted.
    pub offences: Vec<Offence>,
    histories: HashMap<ClientId, History>,
}

/// What a client was told before.
#[derive(Debug)]
struct History {
    /// The pool the client belongs to.
    pool: u8,
    /// When the client asked for the first time.
    born: Moment,
    /// The answers of the last visit that had any.
    last: Vec<Answer>,
    /// The last visit contradicted itself or its past, so `last` is not one story: only a backend outside it is a new fault.
    tainted: bool,
    /// Whether the client was already counted among those split, and among those moved.
    counted_split: bool,
    counted_moved: bool,
}

impl Judge {
    /// Judges one visit: all asks of one client of `pool` that were made at the same moment. Visits of one client come in
    /// the order they were made and never overlap.
    pub fn visit(&mut self, client: ClientId, pool: u8, asks: &[Ask]) {
        let Some(start) = asks.iter().map(|ask| ask.start).min() else { return };
        self.tally.visits += 1;
        let fresh = !self.histories.contains_key(&client);
        if fresh {
            self.tally.clients += 1;
        }
        let mut faults = Vec::new();
        for ask in asks {
            if self.count(ask) {
                faults.push(Fault::Lost);
            }
        }
        let answers: Vec<Answer> = asks.iter().filter_map(answer_of).collect();
        let history = self.histories.entry(client).or_insert_with(|| History {
            pool,
            born: start,
            last: Vec::new(),
            tainted: false,
            counted_split: false,
            counted_moved: false,
        });
        debug_assert_eq!(history.pool, pool, "a client belongs to one pool");
        if answers.iter().any(|answer| self.timeline.strays(pool, answer, history.born)) {
            self.tally.stray += 1;
            faults.push(Fault::Stray);
        }
        let split = contradicts_itself(&self.timeline, pool, &answers);
        let moved = !split && contradicts_past(&self.timeline, pool, history, &answers);
        if split {
            self.tally.split += 1;
            self.tally.clients_split += u64::from(!std::mem::replace(&mut history.counted_split, true));
            faults.push(Fault::Split);
        }
        if moved {
            self.tally.moved += 1;
            self.tally.clients_moved += u64::from(!std::mem::replace(&mut history.counted_moved, true));
            faults.push(Fault::Moved);
        }
        let before = history.last.clone();
        if !answers.is_empty() {
            history.last = answers;
            history.tainted = split;
        }
        faults.dedup();
        for fault in faults {
            if self.offences.iter().filter(|seen| seen.fault == fault).count() < OFFENCES_KEPT_PER_FAULT {
                self.offences.push(Offence { fault, client, asks: asks.to_vec(), before: before.clone() });
            }
        }
    }

    /// The run proper begins: what was asked and lost while the fleet came up does not count, what was wrong does.
    pub fn begin(&mut self) {
        let Tally { split, moved, stray, clients_split, clients_moved, .. } = self.tally;
        self.tally = Tally { split, moved, stray, clients_split, clients_moved, ..Tally::default() };
        self.offences.retain(|offence| offence.fault != Fault::Lost);
    }

    /// Whether this client never asked.
    pub fn is_new(&self, client: ClientId) -> bool {
        !self.histories.contains_key(&client)
    }

    /// Drops the history of a client that will not come again.
    pub fn forget(&mut self, client: ClientId) {
        self.histories.remove(&client);
    }

    /// Counts one ask; true when it was lost.
    fn count(&mut self, ask: &Ask) -> bool {
        self.tally.asks += 1;
        if let Outcome::Answered(backend) = ask.outcome {
            self.tally.answered += 1;
            *self.tally.by_backend.entry(backend).or_default() += 1;
            *self.tally.by_instance.entry(ask.instance).or_default() += 1;
            return false;
        }
        match self.timeline.outage(ask.instance, ask.start, ask.end) {
            Some(Outage::Down) => {
                self.tally.down += 1;
                false
            }
            Some(Outage::CutOff) if ask.outcome == Outcome::Refused => {
                self.tally.refused += 1;
                false
            }
            _ if self.timeline.in_event(ask.start, ask.end) => {
                self.tally.lost_inside += 1;
                true
            }
            _ => {
                self.tally.lost_outside += 1;
                true
            }
        }
    }
}

fn answer_of(ask: &Ask) -> Option<Answer> {
    match ask.outcome {
        Outcome::Answered(backend) => Some(Answer { instance: ask.instance, start: ask.start, end: ask.end, backend }),
        Outcome::Refused | Outcome::Silent | Outcome::Garbled => None,
    }
}

/// Two answers of one visit that no order of decisions explains.
fn contradicts_itself(timeline: &Timeline, pool: u8, answers: &[Answer]) -> bool {
    answers.iter().enumerate().any(|(index, one)| {
        answers
            .iter()
            .skip(index + 1)
            .any(|other| !timeline.may_follow(pool, one, other) && !timeline.may_follow(pool, other, one))
    })
}

/// An answer that cannot have come after what the client was told before.
fn contradicts_past(timeline: &Timeline, pool: u8, history: &History, answers: &[Answer]) -> bool {
    if history.last.is_empty() {
        return false;
    }
    answers.iter().any(|new| {
        let mut old = history.last.iter();
        if history.tainted {
            !old.any(|old| timeline.may_follow(pool, old, new))
        } else {
            !old.all(|old| timeline.may_follow(pool, old, new))
        }
    })
}

/// So many offences of each kind are kept with their evidence.
const OFFENCES_KEPT_PER_FAULT: usize = 5;

#[cfg(test)]
mod tests;
