//! The replica's part in flows: groups of their own, in which sniffers' batches are committed. Nothing here needs a lease:
//! what a sniffer saw is no promise to anybody.

use std::collections::VecDeque;

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

/// Committed entries of flow groups that are still to be applied, in order: a batch takes milliseconds, and clients that wait
/// for a choice do not wait for all batches there are.
#[derive(Debug, Default)]
pub struct PutOff {
    entries: VecDeque<(GroupId, Committed)>,
    bytes: usize,
}

impl PutOff {
    fn add(&mut self, group: GroupId, entries: Vec<Committed>) {
        self.bytes += entries.iter().map(bytes_of).sum::<usize>();
        self.entries.extend(entries.into_iter().map(|entry| (group, entry)));
    }

    fn next(&mut self) -> Option<(GroupId, Committed)> {
        let (group, entry) = self.entries.pop_front()?;
        self.bytes -= bytes_of(&entry);
        Some((group, entry))
    }

    /// All of one group.
    fn of(&mut self, group: GroupId) -> Vec<Committed> {
        let (of, others): (VecDeque<_>, _) = self.entries.drain(..).partition(|(other, _)| *other == group);
        self.entries = others;
        let entries: Vec<Committed> = of.into_iter().map(|(_, entry)| entry).collect();
        self.bytes -= entries.iter().map(bytes_of).sum::<usize>();
        entries
    }
}

fn bytes_of(entry: &Committed) -> usize {
    match &entry.content {
        Content::Data { data, .. } => data.len(),
        Content::Empty | Content::Members(_) => 0,
    }
}

impl Replica {
    /// Keeps what was committed in a flow group for [`Replica::apply_put_off`].
    pub(crate) fn put_off(&mut self, group: GroupId, entries: Vec<Committed>) {
        self.put_off.add(group, entries);
    }

    /// Applies one entry of a flow group; more only where more than [`PUT_OFF_BYTES_MAX`] wait.
    pub(crate) fn apply_put_off(&mut self) {
        while let Some((group, entry)) = self.put_off.next() {
            self.apply(group, &[entry]);
            if self.put_off.bytes <= PUT_OFF_BYTES_MAX {
                break;
            }
        }
    }

    /// Applies all that waits in a flow group: its table is to be the one that the log says.
    pub(crate) fn apply_all_put_off(&mut self, group: GroupId) {
        let entries = self.put_off.of(group);
        if !entries.is_empty() {
            self.apply(group, &entries);
        }
    }

    /// A snapshot takes the place of all that waits in a flow group.
    pub(crate) fn forget_put_off(&mut self, group: GroupId) {
        self.put_off.of(group);
    }

    /// Whether entries of flow groups wait for another [`Replica::poll`]: what else came in may be handled before.
    #[must_use]
    pub fn has_put_off(&self) -> bool {
        !self.put_off.entries.is_empty()
    }

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

/// Beyond so many bytes of entries that wait, others wait for them: an instance that does not keep up does not fill its memory.
const PUT_OFF_BYTES_MAX: usize = 16 << 20;
