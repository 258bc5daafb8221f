//! What there is to see of a replica: groups, roles, entries of the log.

use flow::{ControlCommand, ControlTable, InstanceId};
use raftlog::{
    GroupId,
    driver::{Committed, Content, Role as RaftRole},
};
use replica::{GroupRole, Replica};

use super::clock::now_ms;
use crate::control::{GroupStatus, LogEntry, Role, Standing, TableStatus};

/// How all groups stand, group 0 first.
pub fn all_groups(replica: &Replica) -> Vec<GroupStatus> {
    let now_ms = now_ms();
    (0..replica.group_count()).filter_map(|group| group_status(replica, GroupId(group), now_ms)).collect()
}

fn group_status(replica: &Replica, group: GroupId, now_ms: u64) -> Option<GroupStatus> {
    let status = replica.status(group)?;
    let control = replica.control();
    let (until_ms, tables) = match replica.view(group) {
        Some(view) => {
            let rows = view.table.len() as u64;
            let table = TableStatus { name: "pins".to_owned(), rows, digest: view.table.digest() };
            (view.lease.until_ms, vec![table])
        }
        None => {
            let rows = control.kv_list("").count() as u64;
            let table = TableStatus { name: "control".to_owned(), rows, digest: control.digest() };
            (replica.control_lease().until_ms, vec![table])
        }
    };
    let role = GroupRole { group, role: status.role, term: status.term, leader: status.leader };
    Some(GroupStatus {
        group: group.0,
        standing: standing(control, Some(role)),
        first_index: status.first.0,
        last_index: status.last.0,
        committed_index: status.committed.0,
        applied_index: status.applied.0,
        lease_ms: until_ms.checked_sub(now_ms).filter(|left| *left > 0),
        tables,
    })
}

/// Whether this instance leads a group.
pub fn leads(replica: &Replica, group: u32) -> bool {
    replica.status(GroupId(group)).is_some_and(|status| status.role == RaftRole::Leader)
}

/// Role, term and leader, in words that people know.
pub fn standing(control: &ControlTable, role: Option<GroupRole>) -> Standing {
    let Some(role) = role else { return Standing { role: Role::Starting, term: 0, leader: None } };
    let leader = role.leader.and_then(|id| control.member(InstanceId(id.0))).map(|member| member.address.label.clone());
    let role_now = match role.role {
        RaftRole::Follower => Role::Follower,
        RaftRole::PreCandidate | RaftRole::Candidate => Role::Candidate,
        RaftRole::Leader => Role::Leader,
        RaftRole::Learner => Role::Learner,
    };
    Standing { role: role_now, term: role.term.0, leader }
}

/// An entry as it is shown.
pub fn log_entry(group: u32, entry: &Committed) -> LogEntry {
    let (kind, text) = match &entry.content {
        Content::Empty => ("empty".to_owned(), "a leader's first entry".to_owned()),
        Content::Members(members) => ("members".to_owned(), format!("{members:?}")),
        Content::Data { origin, data, .. } => {
            let text = if group == 0 {
                ControlCommand::decode(data).map(|command| format!("{command:?}"))
            } else {
                flow::PinCommand::decode(data).map(|command| format!("{command:?}"))
            };
            ("command".to_owned(), format!("from {origin}: {}", text.unwrap_or_else(|error| error.to_string())))
        }
    };
    LogEntry { group, index: entry.index.0, term: entry.term.0, kind, text }
}
