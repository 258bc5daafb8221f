//! The typed numbers of Raft (Ongaro 2014) and the records a log keeps.

use std::{fmt, io};

use bytes::Bytes;

/// A replica, never zero, never used again once removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// A Raft group; a process hosts many. Group 0 is control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// A Raft term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term(pub u64);

/// A position in a group's log; the first entry has 1, 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Index(pub u64);

/// What a write-ahead log keeps. One round of them, over all groups, is one write and one sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry of a group's log. One at an index that the log already holds cuts the log there first.
    Entry {
        /// The group.
        group: GroupId,
        /// Where in the group's log.
        index: Index,
        /// The term of the leader that made it.
        term: Term,
        /// The encoded entry, opaque here.
        data: Bytes,
    },
    /// A group's vote, term and commit index; the newest counts.
    HardState {
        /// The group.
        group: GroupId,
        /// The newest term seen.
        term: Term,
        /// Who got this replica's vote in that term, if anyone.
        vote: Option<NodeId>,
        /// The highest index known to be committed.
        commit: Index,
    },
    /// The group's log up to `index` is covered by the stored snapshot, which is at `index` or after it; entries up to it are
    /// dead. Where the log does not hold an entry (`index`, `term`) all its entries are dead, also later ones.
    Snapshot {
        /// The group.
        group: GroupId,
        /// The last index that is dead.
        index: Index,
        /// The term of the entry at that index.
        term: Term,
    },
}

/// A group's state at one index, as bytes: an immutable view, of which handing out another is cheap, and which the group
/// does not wait for.
pub trait State: Send + Sync {
    /// Writes all of it, in pieces of any size.
    ///
    /// # Errors
    /// Those of `out`.
    fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()>;
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_number!(NodeId, GroupId, Term, Index);
