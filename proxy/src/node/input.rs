//! What can be put to the replica thread.

use std::time::Duration;

use bytes::Bytes;
use flow::{BackendId, ControlCommand, Incarnation, InstanceId, PinKey, PoolId, Request, Revision, SlotTable, View};
use raftlog::{GroupId, Index, NodeId, Term, net, wal::Received};
use replica::{Chosen, GroupState, Replica, Reported, Submitted};
use tokio::sync::oneshot;

use super::{disk::Stall, gate::Held};

/// One thing that happened, or that somebody wants.
pub enum Input {
    /// From a peer's link; its bytes count as waiting until it is taken.
    Net(net::Event, Held),
    /// A peer was let in, in this life.
    PeerSeen(InstanceId, Incarnation),
    /// A snapshot came in whole: `content` is what `read_received` found in it.
    Snapshot {
        from: NodeId,
        group: GroupId,
        message: Bytes,
        content: Box<(GroupState, Bytes)>,
        received: Box<Received>,
    },
    /// A snapshot was written to a file, or could not be.
    SnapshotStored { group: GroupId, index: Index, stored: bool },
    /// Entries were read back from the log.
    LogRead { group: GroupId, from: Index, entries: Vec<(Index, Term, Bytes)> },
    /// The stored file of a snapshot that was to be sent is damaged or gone.
    SnapshotUnreadable { group: GroupId, index: Index, term: Term },
    /// The sending of a snapshot ended.
    SnapshotSent { group: GroupId, to: NodeId, arrived: bool },
    /// That round and all before it are on disk.
    Persisted { round: u64, holding_back: Option<(GroupId, Index)> },
    /// The log stores nothing, or stores again.
    Stalled(Option<Stall>),
    /// A choice that needs the replica.
    Choose { key: PinKey, avoid: Option<BackendId>, patience: Duration, answer: oneshot::Sender<Chosen> },
    /// A pin was used when it was time to refresh it.
    Touch(PinKey),
    /// What this instance sees of a backend changed.
    View(BackendId, View),
    /// A connect failed: everybody look.
    AskForProbes(BackendId),
    /// A slot table was built.
    Slots { pool: PoolId, members: Vec<(BackendId, u32)>, table: Box<SlotTable> },
    /// A command for group 0, with a client's request as `Replica::submit` has it.
    Submit {
        command: Box<ControlCommand>,
        patience: Duration,
        again: bool,
        request: Option<Request>,
        answer: oneshot::Sender<Submitted>,
    },
    /// Starts the move of one pin.
    Unpin { key: PinKey, revision: Revision, patience: Duration, answer: oneshot::Sender<Submitted> },
    /// An encoded command for the flow group of a shard.
    Report { shard: u32, command: Bytes, patience: Duration, answer: oneshot::Sender<Reported> },
    /// Waits until everything committed before now is applied here.
    CatchUp { group: GroupId, patience: Duration, answer: oneshot::Sender<Submitted> },
    /// Makes the transport's peers those that there should be.
    FollowPeers,
    /// An operator wants that instance to stop.
    StopInstance(InstanceId),
    /// Hands leaderships over.
    HandOver(Option<InstanceId>),
    /// Looks at the replica.
    Look(Box<dyn FnOnce(&Replica) + Send>),
    /// Ends the thread.
    Stop,
}
