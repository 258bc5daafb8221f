//! What the driver asks its owner to do, and what it tells of itself.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::members::Members;
use crate::types::{GroupId, Index, NodeId, Record, State, Term};

/// One thing to do. See [`super::Driver`] for the order.
#[derive(Clone)]
pub enum Action {
    /// Apply these entries, in order, before anything that follows.
    Apply {
        /// The group.
        group: GroupId,
        /// Next after the last applied one, without a gap.
        entries: Vec<Committed>,
    },
    /// Replace the group's state by that of the snapshot which `Driver::handle_snapshot` took at this index.
    Restore {
        /// The group.
        group: GroupId,
        /// The index of the state.
        index: Index,
    },
    /// Hand in the group's state at its applied index (`Driver::snapshot`).
    Snapshot {
        /// The group.
        group: GroupId,
    },
    /// Write a snapshot file, apart from the rounds and without keeping them waiting; then `Driver::handle_snapshot_stored`,
    /// also when it failed.
    StoreSnapshot {
        /// The group.
        group: GroupId,
        /// The last index it covers.
        index: Index,
        /// The term of the entry there.
        term: Term,
        /// Members and log time, to be handed back in `SnapshotStart`.
        meta: Bytes,
        /// The state.
        state: Arc<dyn State>,
    },
    /// Give the received snapshot files their final names, then append the records, with one sync if `sync`; then
    /// `Driver::handle_persisted(round)`. Rounds are stored in their order.
    Persist {
        /// Counts up.
        round: u64,
        /// The records of all groups.
        records: Vec<Record>,
        /// Snapshots that came in and that the records refer to.
        installs: Vec<Install>,
        /// Whether anything acknowledged depends on it.
        sync: bool,
    },
    /// Read entries back from the log, as many of them as fit, then `Driver::handle_log_read(group, from, entries)`.
    ReadLog {
        /// The group.
        group: GroupId,
        /// The first index wanted.
        from: Index,
        /// The first index not wanted any more.
        to: Index,
        /// About how many bytes at most; one entry in any case.
        max_bytes: u64,
    },
    /// Send a frame; it may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// At most [`super::FRAME_BYTES_MAX`] bytes.
        frame: Bytes,
    },
    /// Send the stored snapshot file of that index and term, then `Driver::handle_snapshot_sent`, also when it failed, or
    /// when that file is not there any more.
    SendSnapshot {
        /// To whom.
        to: NodeId,
        /// The group.
        group: GroupId,
        /// The last index it covers.
        index: Index,
        /// The term of the entry there.
        term: Term,
        /// The message that goes with it.
        message: Bytes,
    },
    /// A proposal was not appended, for certain.
    Rejected {
        /// The group.
        group: GroupId,
        /// As given to `propose`.
        token: u64,
        /// Why.
        reason: Rejection,
    },
    /// The proof that `Driver::read_index` asked for.
    ReadReady {
        /// The group.
        group: GroupId,
        /// As given.
        context: u64,
        /// Everything committed before the call is at or below.
        index: Index,
    },
    /// What this replica holds contradicts itself or its peers, beyond repair: stop at once, and store and send nothing
    /// more. It is the only action, and the last one.
    Broken {
        /// The group.
        group: GroupId,
        /// What is wrong.
        why: String,
    },
    /// Bytes of a peer's owner.
    Word {
        /// Who sent them.
        from: NodeId,
        /// The group they are about.
        group: GroupId,
        /// Opaque here.
        bytes: Bytes,
    },
    /// This replica's role in a group, its term or its leader changed.
    Role {
        /// The group.
        group: GroupId,
        /// The role now.
        role: Role,
        /// The term now.
        term: Term,
        /// The leader now, if known.
        leader: Option<NodeId>,
    },
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where in the log.
    pub index: Index,
    /// The term of the leader that made it.
    pub term: Term,
    /// Log time in milliseconds, as that leader stamped it; never less than that of the entry before.
    pub time_ms: u64,
    /// What it is.
    pub content: Content,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A leader's first.
    Empty,
    /// A change of members; these are they.
    Members(Members),
    /// Somebody's proposal.
    Data {
        /// Who proposed it.
        origin: NodeId,
        /// As given to `propose` there.
        token: u64,
        /// The bytes.
        data: Bytes,
    },
}

/// A snapshot that came in whole and is to be the group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Install {
    /// The group.
    pub group: GroupId,
    /// The last index it covers.
    pub index: Index,
    /// The term of the entry there.
    pub term: Term,
}

/// Why a proposal was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Nobody is known to lead the group. Worth a retry.
    NoLeader,
    /// A queue is full. Worth a retry, later.
    Overloaded,
    /// More than `ENTRY_BYTES_MAX`. Not worth one.
    TooLarge,
}

impl Rejection {
    /// After how many milliseconds a retry makes sense; none where it never does.
    #[must_use]
    pub fn retry_after_ms(self) -> Option<u64> {
        match self {
            // About an election.
            Self::NoLeader => Some(100),
            // A few rounds of the disk.
            Self::Overloaded => Some(20),
            Self::TooLarge => None,
        }
    }
}

/// What a replica is in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Takes entries, votes.
    #[default]
    Follower,
    /// Asks whether it could win.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Makes the log.
    Leader,
    /// Takes entries, has no vote.
    Learner,
}

/// How a group stands here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// What this replica is in it.
    pub role: Role,
    /// The newest term seen.
    pub term: Term,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// The highest index known to be committed.
    pub committed: Index,
    /// The highest index applied.
    pub applied: Index,
    /// The first index that the log still holds.
    pub first: Index,
    /// The first index that is in memory: those before it are only on disk.
    pub held: Index,
    /// About how many bytes of the log are in memory.
    pub held_bytes: u64,
    /// The last index in the log.
    pub last: Index,
    /// The members as of the applied index.
    pub members: Members,
    /// For a leader: how far each member's log is known to match.
    pub matched: Vec<(NodeId, Index)>,
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply { group, entries } => write!(f, "Apply({group}, {entries:?})"),
            Self::Restore { group, index } => write!(f, "Restore({group}, {index})"),
            Self::Snapshot { group } => write!(f, "Snapshot({group})"),
            Self::StoreSnapshot { group, index, term, .. } => write!(f, "StoreSnapshot({group}, {index}, {term})"),
            Self::Persist { round, records, installs, sync } => {
                write!(f, "Persist({round}, {records:?}, {installs:?}, {sync})")
            }
            Self::ReadLog { group, from, to, .. } => write!(f, "ReadLog({group}, {from}..{to})"),
            Self::Send { to, frame } => write!(f, "Send({to}, {} bytes)", frame.len()),
            Self::SendSnapshot { to, group, index, .. } => write!(f, "SendSnapshot({to}, {group}, {index})"),
            Self::Rejected { group, token, reason } => write!(f, "Rejected({group}, {token}, {reason:?})"),
            Self::ReadReady { group, context, index } => write!(f, "ReadReady({group}, {context}, {index})"),
            Self::Broken { group, why } => write!(f, "Broken({group}, {why})"),
            Self::Word { from, group, .. } => write!(f, "Word({from}, {group})"),
            Self::Role { group, role, term, leader } => write!(f, "Role({group}, {role:?}, {term}, {leader:?})"),
        }
    }
}
