//! Heartbeats, and the parts of the election timeout. A group at rest, one whose leader has nothing to say but that it is
//! there, takes a few bytes of a frame and no work of the core.

use std::collections::BTreeMap;

use raft::{
    INVALID_ID, ProgressState, StateRole,
    eraftpb::{Message, MessageType},
};

use super::{CORE_ELECTION_TICKS, Group, Ticks};
use crate::{
    driver::frame::Heartbeat,
    types::{Index, NodeId, Term},
};

impl Group {
    /// A part of the election timeout has passed: what `RawNode::tick` does, but that heartbeats come from here and
    /// elections are started by the deadline. True if there may be something to say.
    pub fn core_tick(&mut self) -> bool {
        let raft = &mut self.node.raft;
        raft.election_elapsed += 1;
        if raft.state != StateRole::Leader || raft.election_elapsed < CORE_ELECTION_TICKS {
            return false;
        }
        raft.election_elapsed = 0;
        let mut check = Message { from: raft.id, to: INVALID_ID, ..Message::default() };
        check.set_msg_type(MessageType::MsgCheckQuorum);
        // It fails only for messages that name a term.
        drop(raft.step(check));
        // A transfer has one election timeout.
        if raft.state == StateRole::Leader {
            raft.abort_leader_transfer();
        }
        true
    }

    /// A leader tells everybody that it is there.
    pub fn heartbeat(&mut self) {
        if self.leads() {
            self.node.ping();
        }
    }

    /// A leader's heartbeats to all members, if its group is at rest: they have all that it has, and no read waits.
    pub fn rest(&self, heartbeats: &mut BTreeMap<NodeId, Vec<Heartbeat>>) -> bool {
        let raft = &self.node.raft;
        let last = raft.raft_log.last_index();
        let others = || raft.prs().iter().filter(|(id, _)| **id != self.me.0);
        let rests = raft.state == StateRole::Leader
            && raft.raft_log.committed == last
            && raft.lead_transferee.is_none()
            && raft.read_only.pending_read_count() == 0
            && others().all(|(_, progress)| progress.state == ProgressState::Replicate && progress.matched == last);
        if rests {
            let heartbeat = Heartbeat { group: self.id, term: Term(raft.term), commit: Index(last) };
            for (id, _) in others() {
                heartbeats.entry(NodeId(*id)).or_default().push(heartbeat);
            }
        }
        rests
    }

    /// A follower's part: true if it stands exactly as the heartbeat says, and so has nothing to do but to answer.
    pub fn rests_under(&mut self, leader: NodeId, heartbeat: &Heartbeat, clock: Ticks) -> bool {
        let raft = &mut self.node.raft;
        let rests = raft.state == StateRole::Follower
            && raft.leader_id == leader.0
            && raft.term == heartbeat.term.0
            && self.stored_term == heartbeat.term.0
            && raft.raft_log.committed == heartbeat.commit.0;
        if rests {
            raft.election_elapsed = 0;
            self.attempts = 0;
            self.deadline = clock.tick + clock.patience;
        }
        rests
    }

    /// The leader's part of the answer: true if the follower has all that there is, and so needs nothing.
    pub fn rests_over(&mut self, follower: NodeId, answer: &Heartbeat) -> bool {
        let raft = &mut self.node.raft;
        if raft.state != StateRole::Leader || raft.term != answer.term.0 {
            return false;
        }
        let last = raft.raft_log.last_index();
        let progress = raft.mut_prs().get_mut(follower.0);
        let resting =
            progress.filter(|progress| progress.state == ProgressState::Replicate && progress.matched == last);
        resting.map(|progress| progress.recent_active = true).is_some()
    }

    /// The heartbeat, or its answer, as the core knows it.
    pub fn message(&self, kind: MessageType, from: NodeId, heartbeat: &Heartbeat) -> Message {
        let (term, commit) = (heartbeat.term.0, heartbeat.commit.0);
        let mut message = Message { from: from.0, to: self.me.0, term, commit, ..Message::default() };
        message.set_msg_type(kind);
        message
    }
}
