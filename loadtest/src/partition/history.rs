//! What clients did with one key and what they were told: the history that the judge asks an order for.

use crate::moment::Moment;

/// One operation of a client, from the moment before it was sent to the moment its answer was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Before it was sent.
    pub from: Moment,
    /// After it was answered. `None`: its outcome is not known, and it may take effect at any later moment, or never.
    pub until: Option<Moment>,
    /// What was done.
    pub deed: Deed,
}

/// What an operation did. A revision is the index in the log at which a value was written; values are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A linearizable read that found this value of this revision; [`ABSENT`] where there was no key.
    Read {
        /// The value found.
        value: u64,
        /// Its revision.
        revision: u64,
    },
    /// A write, with its revision if an answer said so.
    Write {
        /// The value written.
        value: u64,
        /// Where it lies in the log, if that is known.
        revision: Option<u64>,
    },
    /// A write on condition that the key has the revision `expected`; without an outcome it may have been refused as well.
    Swap {
        /// The value written.
        value: u64,
        /// The revision that it asked for.
        expected: u64,
        /// Where it lies in the log, if that is known.
        revision: Option<u64>,
    },
    /// A conditional write that was refused, because the key had another revision than `expected`.
    Refused {
        /// The revision that it asked for.
        expected: u64,
    },
}

impl Deed {
    /// What it writes, if it writes.
    pub fn written(&self) -> Option<u64> {
        match self {
            Deed::Write { value, .. } | Deed::Swap { value, .. } => Some(*value),
            Deed::Read { .. } | Deed::Refused { .. } => None,
        }
    }

    /// The revision that it is known to have made.
    pub fn made(&self) -> Option<u64> {
        match self {
            Deed::Write { revision, .. } | Deed::Swap { revision, .. } => *revision,
            Deed::Read { .. } | Deed::Refused { .. } => None,
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.deed {
            Deed::Read { value, revision } => write!(out, "read {value:x} of revision {revision}")?,
            Deed::Write { value, revision } => write!(out, "write {value:x}, revision {}", Shown(revision))?,
            Deed::Swap { value, expected, revision } => {
                write!(out, "write {value:x} if revision {expected}, revision {}", Shown(revision))?;
            }
            Deed::Refused { expected } => write!(out, "refused: revision is not {expected}")?,
        }
        match self.until {
            Some(until) => write!(out, ", {} to {until}", self.from),
            None => write!(out, ", {} to nobody knows", self.from),
        }
    }
}

struct Shown(Option<u64>);

impl std::fmt::Display for Shown {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(revision) => write!(out, "{revision}"),
            None => out.write_str("unknown"),
        }
    }
}

/// Value and revision of a key that does not exist.
pub const ABSENT: u64 = 0;
