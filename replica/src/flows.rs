//! The replica's part in flows: groups of their own, in which sniffers' batches are committed. Nothing here needs a lease:
//! what a sniffer saw is no promise to anybody.

use bytes::Bytes;
use flow::{
    LogTime, Revision,
    flows::{Expiry, FlowCommand, FlowLimits, FlowOutcome, FlowTable},
};
use raftlog::{
    GroupId, NodeId,
    driver::{Committed, Content, Rejection},
};

use crate::{
    output::{Output, SubmitError, Ticket},
    proposals::Asker,
    replica::{Duty, Replica},
    tables::{GroupState, Outcome, RestoreError},
};

/// A flow group.
#[derive(Debug)]
pub struct FlowGroup {
    pub id: GroupId,
    pub table: FlowTable,
    pub expiry: Expiry,
    /// Readers have to be shown the table.
    pub changed: bool,
}

impl FlowGroup {
    pub fn new(id: GroupId, limits: FlowLimits) -> Self {
        Self { id, table: FlowTable::new(limits), expiry: Expiry::new(), changed: false }
    }

    /// Applies entries; gives back the outcomes of those that `me` proposed, by token.
    pub fn apply(&mut self, me: NodeId, entries: &[Committed]) -> Vec<(u64, Outcome)> {
        let mut outcomes = Vec::new();
        for entry in entries {
            let (index, time) = (Revision(entry.index.0), LogTime(entry.time_ms));
            let Content::Data { origin, token, data } = &entry.content else {
                self.table.skip(index, time, &mut self.expiry);
                continue;
            };
            let outcome = match FlowCommand::decode(data) {
                Ok(command) => self.table.apply(index, time, &command, &mut self.expiry),
                // A command of a later version: every replica of this version skips it alike.
                Err(_) => {
                    self.table.skip(index, time, &mut self.expiry);
                    FlowOutcome::Unreadable
                }
            };
            if *origin == me {
                outcomes.push((*token, Outcome::Flow(outcome)));
            }
        }
        self.changed |= !entries.is_empty();
        outcomes
    }

    /// Replaces the table by that of a snapshot at index `of`.
    pub fn restore(&mut self, state: GroupState, of: Revision) -> Result<(), RestoreError> {
        state.expect_index(of)?;
        let GroupState::Flows(state) = state else { return Err(RestoreError::OtherKind) };
        let limits = self.table.limits();
        (self.table, self.expiry) = *state;
        self.table.set_limits(limits);
        self.changed = true;
        Ok(())
    }
}

impl Replica {
    /// Proposes an encoded [`FlowCommand`] to the group of a shard; answered by `Output::Reported`.
    pub fn report(&mut self, ticket: Ticket, shard: u32, command: Bytes, deadline_ms: u64) {
        let group = self.flows.get(shard as usize).map(|group| group.id);
        match group {
            Some(group) if self.reports < REPORTS_MAX => {
                self.reports += 1;
                // Batches carry numbers and annotations revisions: a second copy changes nothing.
                self.propose(group, command, Asker::Flow(ticket), deadline_ms, true);
            }
            _ => self.outputs.push(Output::Reported(ticket, Err(SubmitError::NotDone(Rejection::Overloaded)))),
        }
    }

    /// How many parts the table of flows has; 0: this fleet has none.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.flows.len() as u32
    }

    /// The group of a shard.
    #[must_use]
    pub fn group_of_shard(&self, shard: u32) -> Option<GroupId> {
        self.flows.get(shard as usize).map(|group| group.id)
    }

    /// The table of a flow group.
    #[must_use]
    pub fn flow_table(&self, group: GroupId) -> Option<&FlowTable> {
        self.flows.iter().find(|found| found.id == group).map(|group| &group.table)
    }

    /// The leader of a flow group lets log time advance when records are due to expire.
    pub(crate) fn expire_flows(&mut self) {
        for place in 0..self.flows.len() {
            let group = self.flows[place].id;
            let Some(next) = FlowTable::next_expiry(&self.flows[place].expiry) else { continue };
            if self.driver.leads(group) && self.driver.log_time(group).is_some_and(|now| next.0 <= now) {
                self.propose_duty(group, Duty::Tick(group), &FlowCommand::Tick.encode());
            }
        }
    }
}

/// Most batches and annotations of this replica that wait for their outcome. With what an entry holds at most, 256 MiB.
pub const REPORTS_MAX: usize = 512;
