//! Who belongs to a group: voters and learners.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use prost011::Message;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Snapshot};

use crate::types::NodeId;

/// The members of a group at some index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who only listens.
    pub learners: BTreeSet<NodeId>,
    /// In the middle of a joint change: the voters that are to leave.
    pub outgoing: BTreeSet<NodeId>,
}

/// A change of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new member that listens; or a voter that listens only from now on.
    AddLearner(NodeId),
    /// A learner gets its vote.
    Promote(NodeId),
    /// A member leaves.
    Remove(NodeId),
    /// A learner gets the vote of a voter that leaves, both at once: while it goes on, majorities of the old voters and of
    /// the new ones are needed (joint consensus, Ongaro & Ousterhout 2014), so no fleet of an even size lies in between.
    Replace {
        /// The voter that leaves.
        leaves: NodeId,
        /// The learner that votes from then on.
        votes: NodeId,
    },
}

impl Members {
    /// The meta of a group's first state: these voters, at log time 0.
    #[must_use]
    pub fn founders(voters: &[NodeId]) -> Bytes {
        Self::founders_at(voters, 0)
    }

    /// The meta of a state that a group begins with, at log time `time_ms`: these voters.
    #[must_use]
    pub fn founders_at(voters: &[NodeId], time_ms: u64) -> Bytes {
        let voters = voters.iter().map(|id| id.0).collect();
        encode_meta(&ConfState { voters, ..ConfState::default() }, time_ms)
    }

    /// Whether `id` is counted in any way.
    #[must_use]
    pub fn has(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id) || self.outgoing.contains(&id)
    }

    pub(super) fn of(state: &ConfState) -> Self {
        let ids = |list: &[u64]| list.iter().map(|id| NodeId(*id)).collect();
        Self { voters: ids(&state.voters), learners: ids(&state.learners), outgoing: ids(&state.voters_outgoing) }
    }
}

impl MemberChange {
    pub(super) fn message(self) -> ConfChangeV2 {
        let single = |kind, id: NodeId| {
            let mut single = ConfChangeSingle { node_id: id.0, ..ConfChangeSingle::default() };
            single.set_change_type(kind);
            single
        };
        let changes = match self {
            Self::AddLearner(id) => vec![single(ConfChangeType::AddLearnerNode, id)],
            Self::Promote(id) => vec![single(ConfChangeType::AddNode, id)],
            Self::Remove(id) => vec![single(ConfChangeType::RemoveNode, id)],
            Self::Replace { leaves, votes } => {
                vec![single(ConfChangeType::AddNode, votes), single(ConfChangeType::RemoveNode, leaves)]
            }
        };
        // More than one change is a joint one, and the core's leader ends that by itself.
        ConfChangeV2 { changes, ..ConfChangeV2::default() }
    }
}

/// Log time (8 bytes, big-endian) and members, as stored with a snapshot.
pub(super) fn encode_meta(state: &ConfState, time_ms: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + state.encoded_len());
    bytes.put_u64(time_ms);
    bytes.put_slice(&state.encode_to_vec());
    bytes.freeze()
}

pub(super) fn decode_meta(bytes: &[u8]) -> Result<(ConfState, u64), prost011::DecodeError> {
    let (time, state) =
        bytes.split_first_chunk::<8>().ok_or_else(|| prost011::DecodeError::new("snapshot meta is too short"))?;
    Ok((ConfState::decode(state)?, u64::from_be_bytes(*time)))
}

/// Whether that is what is stored with the snapshot of a message: the same members, at the same log time.
pub(super) fn is_meta_of(bytes: &[u8], snapshot: &Snapshot) -> bool {
    let told = (snapshot.get_metadata().get_conf_state(), snapshot_time(snapshot));
    decode_meta(bytes).is_ok_and(|(state, time)| (&state, time) == told)
}

/// The log time that the message with a snapshot carries.
pub(super) fn snapshot_time(snapshot: &Snapshot) -> u64 {
    snapshot.data.first_chunk::<8>().map_or(0, |time| u64::from_be_bytes(*time))
}
