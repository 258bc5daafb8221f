//! What the core takes for granted of a message, checked before it sees one: it ends the process where it is not so.

use std::collections::BTreeSet;

use raft::{
    Raft, StateRole, Storage,
    eraftpb::{ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType},
};

/// Whether a peer may have sent this message to a replica in this state. Not whether it is true.
pub fn sound<S: Storage>(message: &Message, raft: &Raft<S>) -> bool {
    use MessageType as Kind;
    let last = raft.raft_log.last_index();
    // A message without a term is one of the core to itself; but questions carry none.
    if (message.term == 0) != (message.msg_type() == Kind::MsgReadIndex)
        || message.term > raft.term.saturating_add(TERM_LEAP_MAX)
        || message.request_snapshot != 0
        || message.index.max(message.commit).max(message.reject_hint) >= INDEX_MAX
    {
        return false;
    }
    match message.msg_type() {
        Kind::MsgAppend => follow(message.index, message.log_term, message.term, &message.entries),
        // One of an older term is not looked at: this replica may have cut its log since.
        Kind::MsgHeartbeat => message.commit <= last || message.term < raft.term,
        // A leader that crashed before its own sync may have lost what is acknowledged here; it leads no more.
        Kind::MsgAppendResponse => {
            message.reject || message.index <= last || raft.state != StateRole::Leader || message.term != raft.term
        }
        Kind::MsgReadIndex | Kind::MsgReadIndexResp => message.entries.len() == 1,
        Kind::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            let past = metadata.index > 0 && metadata.term > 0 && metadata.term <= message.term;
            past && metadata.index < INDEX_MAX && plausible(metadata.get_conf_state())
        }
        Kind::MsgRequestVote
        | Kind::MsgRequestVoteResponse
        | Kind::MsgRequestPreVote
        | Kind::MsgRequestPreVoteResponse
        | Kind::MsgHeartbeatResponse
        | Kind::MsgTimeoutNow
        | Kind::MsgTransferLeader => true,
        // Of the core to itself, or never sent: proposals travel as items of their own.
        Kind::MsgHup
        | Kind::MsgBeat
        | Kind::MsgPropose
        | Kind::MsgUnreachable
        | Kind::MsgSnapStatus
        | Kind::MsgCheckQuorum => false,
    }
}

/// Whether the core can take a sound message in its present state: what comes too late, or too early, is not wrong.
pub fn timely<S: Storage>(message: &Message, raft: &Raft<S>) -> bool {
    match message.msg_type() {
        // What was passed on to one that leads no more goes no further: the core cannot pass it on twice.
        MessageType::MsgTransferLeader | MessageType::MsgReadIndex => raft.state == StateRole::Leader,
        // The core takes for granted that a candidate's whole log is on disk.
        MessageType::MsgTimeoutNow => raft.raft_log.persisted == raft.raft_log.last_index(),
        _ => true,
    }
}

/// Entries one after the other behind `index`, in terms that never fall and never pass the sender's.
fn follow(index: u64, log_term: u64, term: u64, entries: &[Entry]) -> bool {
    // The core's term of an index that it does not have is 0.
    if (index == 0) != (log_term == 0) {
        return false;
    }
    let (mut at, mut least) = (index, log_term);
    for entry in entries {
        if EntryType::from_i32(entry.entry_type).is_none() {
            return false;
        }
        if at >= INDEX_MAX || entry.index != at + 1 || entry.term < least || entry.term > term {
            return false;
        }
        (at, least) = (entry.index, entry.term);
    }
    true
}

/// Whether the core can take over a change of members that was committed: it ends the process over numbers it does not
/// know. The answer is the same on every replica.
pub fn sound_change(change: &ConfChangeV2) -> bool {
    let known = |kind| ConfChangeType::from_i32(kind).is_some();
    ConfChangeTransition::from_i32(change.transition).is_some()
        && change.changes.len() <= MEMBERS_MAX
        && change.changes.iter().all(|single| known(single.change_type))
}

/// Members that the core can take over: each once, in one role, and old voters only in a joint change.
fn plausible(members: &ConfState) -> bool {
    let set = |ids: &[u64]| {
        let set: BTreeSet<u64> = ids.iter().copied().collect();
        (set.len() == ids.len() && ids.len() <= MEMBERS_MAX && !set.contains(&0)).then_some(set)
    };
    let (Some(voters), Some(outgoing)) = (set(&members.voters), set(&members.voters_outgoing)) else { return false };
    let (Some(learners), Some(next)) = (set(&members.learners), set(&members.learners_next)) else { return false };
    let joint = !outgoing.is_empty();
    !voters.is_empty()
        && learners.is_disjoint(&voters)
        && learners.is_disjoint(&outgoing)
        && next.is_subset(&outgoing)
        && next.is_disjoint(&voters)
        && (joint || !members.auto_leave)
}

/// The term of a message may be that far ahead of the replica's: no fleet has that many elections while one is away.
const TERM_LEAP_MAX: u64 = 1 << 32;

/// Higher indexes do not occur: at a million entries a second that many take half a million years.
const INDEX_MAX: u64 = 1 << 63;

/// Most members in one role.
const MEMBERS_MAX: usize = 1024;
