//! How a group stands, in a few numbers: for whoever looks often.

use super::Group;
use crate::{
    driver::Driver,
    types::{GroupId, Index, Term},
};

/// How a group stands here: what `GroupStatus` says, without its lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// Whether this replica leads.
    pub leads: bool,
    /// The newest term seen.
    pub term: Term,
    /// The highest index known to be committed.
    pub committed: Index,
    /// The highest index applied.
    pub applied: Index,
    /// The last index in the log.
    pub last: Index,
}

impl Driver {
    /// How a group stands, at the cost of a few loads.
    #[must_use]
    pub fn glance(&self, group: GroupId) -> Option<Glance> {
        self.groups.get(group.0 as usize).map(Group::glance)
    }
}

impl Group {
    fn glance(&self) -> Glance {
        let raft = &self.node.raft;
        Glance {
            leads: self.leads(),
            term: Term(raft.term),
            committed: Index(raft.raft_log.committed),
            applied: Index(raft.raft_log.applied),
            last: Index(raft.raft_log.last_index()),
        }
    }
}
