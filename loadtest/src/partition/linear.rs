//! Whether a key's history is linearizable: some order of its operations, each at a moment between its begin and its end,
//! in which every answer is right.
//!
//! The search is that of Wing and Gong with Lowe's memory of what was tried [<https://doi.org/10.1002/cpe.3928>], for a
//! register with revisions. Three things keep it short. An operation that changes nothing and is right now is taken at once:
//! wherever else it could stand, it can stand here. A write whose outcome nobody was told, but whose value somebody read,
//! has its revision from there, and came before the end of that read. And writes that left no trace are left out at first,
//! as the definition allows. Only where that gives no order are they tried, and only where a refusal waits for a cause: they
//! make nothing else right. One that can come is as good as another, for none has an end.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use super::history::{ABSENT, Deed, Operation};
use crate::moment::Moment;

/// What came of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none. The text says how far one gets, and what stands in the way.
    Not(String),
    /// The search was given up after [`PLACES_MAX`] places.
    Undecided,
}

/// Judges the history of one key, which did not exist at the beginning.
pub fn judge(operations: &[Operation]) -> Verdict {
    let traced = with_traces(operations);
    let told: Vec<Operation> =
        traced.iter().copied().filter(|one| one.until.is_some() || one.deed.made().is_some()).collect();
    let verdict = Search::new(told.clone()).run();
    match verdict {
        Verdict::Not(_) if told.len() < traced.len() => Search::new(traced).run(),
        verdict => verdict,
    }
}

/// The history with what reads tell of writes without an outcome.
fn with_traces(operations: &[Operation]) -> Vec<Operation> {
    let mut read: HashMap<u64, (u64, Option<Moment>)> = HashMap::new();
    for one in operations {
        if let Deed::Read { value, revision } = one.deed {
            let earliest = &mut read.entry(value).or_insert((revision, one.until)).1;
            *earliest = first_of(*earliest, one.until);
        }
    }
    let traced = |one: &Operation| {
        let mut one = *one;
        let seen = one.deed.written().and_then(|value| read.get(&value)).copied();
        if one.until.is_none()
            && let Some((seen, end)) = seen
        {
            // A read that ended before the write began is not explained by it, and is refused for that.
            one.until = end.map(|end| end.max(one.from));
            match &mut one.deed {
                Deed::Write { revision, .. } | Deed::Swap { revision, .. } => *revision = Some(seen),
                Deed::Read { .. } | Deed::Refused { .. } => {}
            }
        }
        one
    };
    operations.iter().map(traced).collect()
}

fn first_of(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The key at some place of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Register {
    value: u64,
    /// Its revision; the last known one before it where `exact` is false.
    revision: u64,
    exact: bool,
}

impl Register {
    /// The key after the operation; `None` where the answer would have been wrong.
    fn after(self, deed: &Deed) -> Option<Register> {
        let met = |expected: u64| self.is(expected);
        match *deed {
            Deed::Read { value, revision } => (self.value == value && met(revision)).then_some(self),
            Deed::Refused { expected } => (!met(expected)).then_some(self),
            Deed::Write { value, revision } => self.written(value, revision),
            Deed::Swap { value, expected, revision } => match (met(expected), revision) {
                (true, revision) => self.written(value, revision),
                // Nobody was told that it was done: it was not.
                (false, None) => Some(self),
                (false, Some(_)) => None,
            },
        }
    }

    /// Whether this is known to be its revision.
    fn is(self, revision: u64) -> bool {
        self.exact && self.revision == revision
    }

    fn written(self, value: u64, revision: Option<u64>) -> Option<Register> {
        match revision {
            Some(revision) => (revision > self.revision).then_some(Register { value, revision, exact: true }),
            None => Some(Register { value, revision: self.revision, exact: false }),
        }
    }
}

/// Which operations have their place already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn has(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }
}

/// A place of the order at which there is a choice.
struct Fork {
    placed: Placed,
    register: Register,
    first: usize,
    count: usize,
    /// What can come next and was not tried, the best last.
    left: Vec<usize>,
}

struct Search {
    /// By their begin.
    operations: Vec<Operation>,
    tried: HashSet<(Placed, Register)>,
    /// The longest order so far: its length, the key after it, and what had to come next but could not.
    longest: (usize, Register, Option<usize>),
}

impl Search {
    fn new(mut operations: Vec<Operation>) -> Search {
        operations.sort_by_key(|one| (one.from, one.until.is_none(), one.until));
        Search { operations, tried: HashSet::new(), longest: (0, NOTHING, None) }
    }

    fn run(mut self) -> Verdict {
        let placed = Placed(vec![0; self.operations.len().div_ceil(64)]);
        let root = Fork { placed, register: NOTHING, first: 0, count: 0, left: Vec::new() };
        let mut forks = match self.advance(root) {
            Some(fork) => vec![fork],
            None => return Verdict::Linearizable,
        };
        while let Some(fork) = forks.last_mut() {
            let Some(index) = fork.left.pop() else {
                forks.pop();
                continue;
            };
            let Some(register) = fork.register.after(&self.operations[index].deed) else { continue };
            let mut placed = fork.placed.clone();
            placed.set(index);
            let next = Fork { placed, register, first: fork.first, count: fork.count + 1, left: Vec::new() };
            if !self.tried.insert((next.placed.clone(), register)) {
                continue;
            }
            if self.tried.len() > PLACES_MAX {
                return Verdict::Undecided;
            }
            match self.advance(next) {
                Some(fork) => forks.push(fork),
                None => return Verdict::Linearizable,
            }
        }
        Verdict::Not(self.complaint())
    }

    /// Takes all that changes nothing and is right, and collects what can come then; `None` when the order is complete.
    fn advance(&mut self, mut fork: Fork) -> Option<Fork> {
        loop {
            while fork.first < self.operations.len() && fork.placed.has(fork.first) {
                fork.first += 1;
            }
            let (mut left, mut due, mut bound) = (Vec::new(), None, None);
            let (mut taken, mut uncaused, mut traceless) = (false, false, None);
            for index in fork.first..self.operations.len() {
                let one = &self.operations[index];
                if fork.placed.has(index) {
                    continue;
                }
                if bound.is_some_and(|bound| one.from > bound) {
                    break;
                }
                let harmless = matches!(one.deed, Deed::Read { .. } | Deed::Refused { .. });
                if harmless && fork.register.after(&one.deed).is_some() {
                    fork.placed.set(index);
                    fork.count += 1;
                    taken = true;
                    continue;
                }
                if one.until.is_some() && first_of(bound, one.until) != bound {
                    (bound, due) = (one.until, Some(index));
                }
                match one.deed {
                    Deed::Read { .. } => {}
                    Deed::Refused { .. } => uncaused = true,
                    deed if deed.made().is_some() => left.push(index),
                    // It can come only now, and is taken before those that can come at any time.
                    Deed::Swap { expected, .. } if fork.register.is(expected) => traceless = Some(index),
                    Deed::Swap { .. } => {}
                    Deed::Write { .. } => traceless = traceless.or(Some(index)),
                }
            }
            // What was taken may have been what held others back.
            if taken {
                continue;
            }
            due?;
            // The lowest revision is popped first, and what left no trace last.
            left.extend(traceless.filter(|_| uncaused));
            left.sort_by_key(|index| std::cmp::Reverse(self.operations[*index].deed.made().unwrap_or(u64::MAX)));
            fork.left = left;
            if fork.count >= self.longest.0 {
                self.longest = (fork.count, fork.register, due);
            }
            return Some(fork);
        }
    }

    fn complaint(&self) -> String {
        let (count, register, due) = &self.longest;
        let due = due.map_or_else(String::new, |index| self.operations[index].to_string());
        let Register { value, revision, exact } = register;
        let revision = if *exact { format!("revision {revision}") } else { format!("a revision above {revision}") };
        let all = self.operations.len();
        format!(
            "no order of more than {count} of {all} operations; then the key has {value:x} of {revision}, against: {due}"
        )
    }
}

/// The key before anything was written.
const NOTHING: Register = Register { value: ABSENT, revision: ABSENT, exact: true };

/// Most places that a search looks at; each takes as many bits as there are operations. An honest history needs about as many
/// places as it has writes.
pub const PLACES_MAX: usize = 300_000;
