//! What a replica asks of the threads around it, and what it answers.

use std::{collections::BTreeSet, fmt, sync::Arc};

use bytes::Bytes;
use flow::{
    BackendId, ControlOutcome, ControlTable, GroupView, InstanceId, Pin, PoolId,
    flows::{FlowOutcome, FlowTable},
};
use raftlog::{
    GroupId, Index, NodeId, Record, Term,
    driver::{Install, Rejection, Role},
    types::State,
};

/// Names a question, so that its answer finds the asker. Never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// One thing to do, in the order given: what is published is visible before anything is sent that tells of it.
#[derive(Clone)]
pub enum Output {
    /// Readers see this from now on.
    PublishControl(ControlTable),
    /// Readers of this pin group see this from now on.
    PublishGroup(GroupId, Box<GroupView>),
    /// Readers of this flow group see this from now on.
    PublishFlows(GroupId, Box<FlowTable>),
    /// The answer to `Replica::choose`.
    Chosen(Ticket, Chosen),
    /// The answer to `Replica::submit` and the like.
    Submitted(Ticket, Submitted),
    /// The answer to `Replica::report`.
    Reported(Ticket, Reported),
    /// Store, then `Replica::handle_persisted`.
    Persist {
        /// Counts up.
        round: u64,
        /// All groups' records.
        records: Vec<Record>,
        /// Received snapshots that they refer to, to be installed first.
        installs: Vec<Install>,
        /// Whether anything acknowledged depends on it.
        sync: bool,
    },
    /// Send a frame; it may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// The bytes.
        frame: Bytes,
    },
    /// Write a snapshot file, keeping neither this replica nor the log waiting; then `Replica::handle_snapshot_stored`.
    StoreSnapshot {
        /// The group.
        group: GroupId,
        /// The last index it covers.
        index: Index,
        /// The term of the entry there.
        term: Term,
        /// What is stored beside the state.
        meta: Bytes,
        /// The state.
        state: Arc<dyn State>,
    },
    /// Send a stored snapshot file, then `Replica::handle_snapshot_sent`; where its file is damaged or gone,
    /// `Replica::handle_snapshot_unreadable` before.
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
    /// Read entries back from the log, then `Replica::handle_log_read`.
    ReadLog {
        /// The group.
        group: GroupId,
        /// The first index wanted.
        from: Index,
        /// The first index not wanted any more.
        to: Index,
        /// About how many bytes at most.
        max_bytes: u64,
    },
    /// Check this backend now, whatever its interval.
    ProbeNow(BackendId),
    /// Build the slot table of a pool, then `Replica::slots_built`.
    BuildSlots {
        /// The pool.
        pool: PoolId,
        /// The fleet's key of picks.
        key: [u8; 16],
        /// Who takes new clients, with weights.
        members: Vec<(BackendId, u32)>,
    },
    /// The role in a group changed.
    Role(GroupRole),
    /// What this replica holds contradicts itself or its peers, beyond repair: say why and stop the process at once. It is
    /// the only output, and the last one.
    Broken {
        /// In which group.
        group: GroupId,
        /// What is wrong.
        why: String,
    },
    /// The lease in this instance's configuration is not the fleet's, which counts. Said once.
    OtherLease {
        /// As configured, in milliseconds.
        configured_ms: u64,
        /// As committed at the fleet's birth, in milliseconds.
        fleet_ms: u64,
    },
    /// An operator wants this instance to stop, as if by a signal.
    Stop,
    /// This instance was removed from the fleet: it serves nothing any more.
    Removed,
    /// The members that were removed and that some group here still counts. The links to them stay, and so does their
    /// admission: where two vote, it takes both to agree that one of them leaves.
    Leaving(BTreeSet<InstanceId>),
}

/// A role, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRole {
    /// The group.
    pub group: GroupId,
    /// What this instance is in it.
    pub role: Role,
    /// In which term.
    pub term: Term,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
}

/// The answer to a choice.
pub type Chosen = Result<Answered, Refusal>;

/// A choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The pin.
    pub pin: Pin,
    /// Whether it is committed; else it is an isolated instance's guess.
    pub committed: bool,
}

/// Why there is no choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No lease by the deadline.
    NoLease,
    /// Nothing committed by the deadline.
    Timeout,
    /// Nobody takes new clients.
    NoBackend,
    /// The pool is unknown.
    NoPool,
    /// Too many choices are waiting, or the table is full.
    Overloaded,
}

/// The answer to a submitted command.
pub type Submitted = Result<ControlOutcome, SubmitError>;

/// The answer to what was proposed to a flow group.
pub type Reported = Result<FlowOutcome, SubmitError>;

/// Why a command has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// It was not appended, for certain.
    NotDone(Rejection),
    /// It was not carried out, for certain: this instance is no member of the fleet, or there is no fleet yet.
    NoMember,
    /// It may have been appended, or may yet be.
    Unknown,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PublishControl(_) => "PublishControl",
            Self::PublishGroup(..) => "PublishGroup",
            Self::PublishFlows(..) => "PublishFlows",
            Self::Chosen(..) => "Chosen",
            Self::Submitted(..) => "Submitted",
            Self::Reported(..) => "Reported",
            Self::Persist { .. } => "Persist",
            Self::Send { .. } => "Send",
            Self::StoreSnapshot { .. } => "StoreSnapshot",
            Self::SendSnapshot { .. } => "SendSnapshot",
            Self::ReadLog { .. } => "ReadLog",
            Self::ProbeNow(_) => "ProbeNow",
            Self::BuildSlots { .. } => "BuildSlots",
            Self::Role(_) => "Role",
            Self::Broken { .. } => "Broken",
            Self::OtherLease { .. } => "OtherLease",
            Self::Stop => "Stop",
            Self::Removed => "Removed",
            Self::Leaving(_) => "Leaving",
        })
    }
}
