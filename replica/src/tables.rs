//! The tables of all groups, with what goes with applying to them.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use flow::{
    ControlCommand, ControlOutcome, ControlTable, GroupView, Lease, LogTime, PinCommand, PinOutcome, PinTable,
    Revision,
    flows::{self, FlowLimits, FlowOutcome, FlowTable},
    pins::Expiry,
    plant::{self, Plant},
    snapshot::{SnapshotError, Table, table_of},
    wire::WireError,
};
use raftlog::{
    GroupId, NodeId,
    driver::{Committed, Content, ENTRY_BYTES_MAX},
    types::State,
};

/// Group 0.
#[derive(Debug, Default)]
pub struct Control {
    pub table: ControlTable,
    pub changed: bool,
}

/// A pin group.
#[derive(Debug)]
pub struct PinGroup {
    pub id: GroupId,
    pub view: GroupView,
    pub expiry: Expiry,
    /// Readers have to be shown the view.
    pub changed: bool,
}

/// What became of a proposal of this replica.
#[derive(Clone, Debug)]
pub enum Outcome {
    Control(ControlOutcome),
    Pin(PinOutcome),
    Flow(FlowOutcome),
}

/// A snapshot is not the state that it is said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It does not read as one.
    #[error("it does not read as one: {0}")]
    Unreadable(#[from] SnapshotError),
    /// It is the state of another kind of group.
    #[error("it is the state of another kind of group")]
    OtherKind,
    /// There is none.
    #[error("the log follows on one at index {0}, which is not there")]
    Missing(Revision),
    /// It reads as one of another moment.
    #[error("it should be the state at index {wanted}, and is the one at index {found}")]
    OtherIndex {
        /// The index that it was stored or sent under.
        wanted: Revision,
        /// The last index that it contains.
        found: Revision,
    },
}

/// A group's tables as a snapshot has them.
#[derive(Debug)]
pub enum GroupState {
    /// Group 0.
    Control(Box<ControlTable>),
    /// A pin group, with the index by expiry.
    Pins(Box<(PinTable, Expiry)>),
    /// A flow group, with the index by expiry.
    Flows(Box<(FlowTable, flows::Expiry)>),
}

impl GroupState {
    /// Reads the state of a group, of whatever kind.
    ///
    /// # Errors
    /// If it does not read as one.
    pub fn read_from(input: &mut dyn Read) -> Result<Self, SnapshotError> {
        let (table, mut input) = table_of(input)?;
        Ok(match table {
            Table::Control => Self::Control(Box::new(ControlTable::read_from(&mut input)?)),
            Table::Pins => Self::Pins(Box::new(PinTable::read_from(&mut input)?)),
            Table::Flows => Self::Flows(Box::new(FlowTable::read_from(&mut input, FlowLimits::default())?)),
        })
    }

    /// The last index that it contains.
    #[must_use]
    pub fn applied(&self) -> Revision {
        match self {
            Self::Control(table) => table.applied(),
            Self::Pins(state) => state.0.applied(),
            Self::Flows(state) => state.0.applied(),
        }
    }

    pub(crate) fn expect_index(&self, wanted: Revision) -> Result<(), RestoreError> {
        let found = self.applied();
        if found == wanted { Ok(()) } else { Err(RestoreError::OtherIndex { wanted, found }) }
    }
}

/// A pin table as it is now.
pub struct PinState(pub PinTable);

impl State for PinState {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.write_to(out)
    }
}

/// A table of flows as it is now.
pub struct FlowState(pub FlowTable);

impl State for FlowState {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.write_to(out)
    }
}

/// The control table as it is now.
pub struct ControlState(pub ControlTable);

impl State for ControlState {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.write_to(out)
    }
}

impl Control {
    /// Replaces the table by that of a snapshot at index `of`.
    pub fn restore(&mut self, state: GroupState, of: Revision) -> Result<(), RestoreError> {
        state.expect_index(of)?;
        let GroupState::Control(table) = state else { return Err(RestoreError::OtherKind) };
        self.table = *table;
        self.changed = true;
        Ok(())
    }

    /// Applies entries; gives back the outcomes of those that `me` proposed, by token.
    pub fn apply(&mut self, me: NodeId, entries: &[Committed]) -> Vec<(u64, Outcome)> {
        let mut outcomes = Vec::new();
        for entry in entries {
            let (index, time) = (Revision(entry.index.0), LogTime(entry.time_ms));
            let Content::Data { origin, token, data } = &entry.content else {
                self.table.skip(index, time);
                continue;
            };
            let outcome = match ControlCommand::decode(data) {
                Ok(command) => self.table.apply(index, time, &command),
                Err(error) => {
                    self.table.skip(index, time);
                    unknown_command(&error)
                }
            };
            if *origin == me {
                outcomes.push((*token, Outcome::Control(outcome)));
            }
        }
        self.changed |= !entries.is_empty();
        outcomes
    }
}

impl PinGroup {
    pub fn new(id: GroupId) -> Self {
        let view = GroupView { table: PinTable::new(), generation: 0, lease: Lease::default() };
        Self { id, view, expiry: Expiry::new(), changed: false }
    }

    /// Applies entries; gives back the outcomes of those that `me` proposed, by token.
    pub fn apply(&mut self, me: NodeId, entries: &[Committed]) -> Vec<(u64, Outcome)> {
        let mut outcomes = Vec::new();
        let moved = self.view.table.last_move();
        for entry in entries {
            let (index, time) = (Revision(entry.index.0), LogTime(entry.time_ms));
            let Content::Data { origin, token, data } = &entry.content else {
                self.view.table.skip(index, time, &mut self.expiry);
                continue;
            };
            let outcome = match PinCommand::decode(data) {
                Ok(command) => self.view.table.apply(index, time, &command, &mut self.expiry),
                // A command of a later version: every replica of this version skips it alike.
                Err(_) => {
                    self.view.table.skip(index, time, &mut self.expiry);
                    PinOutcome::Done
                }
            };
            if *origin == me {
                outcomes.push((*token, Outcome::Pin(outcome)));
            }
        }
        if self.view.table.last_move() != moved {
            self.view.generation += 1;
        }
        self.changed |= !entries.is_empty();
        outcomes
    }

    /// Replaces the table by that of a snapshot at index `of`.
    pub fn restore(&mut self, state: GroupState, of: Revision) -> Result<(), RestoreError> {
        state.expect_index(of)?;
        let GroupState::Pins(state) = state else { return Err(RestoreError::OtherKind) };
        (self.view.table, self.expiry) = *state;
        if !plant::on(Plant::SnapshotKeepsGeneration) {
            self.view.generation += 1;
        }
        self.changed = true;
        Ok(())
    }
}

/// Where the table of a group is: ids are those of group 0, of the pin groups, then of the flow groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Control,
    /// In `Replica::groups`.
    Pins(usize),
    /// In `Replica::flows`.
    Flows(usize),
}

impl Place {
    pub(crate) fn of(group: GroupId, pin_groups: usize) -> Self {
        match (group.0 as usize).checked_sub(1) {
            None => Self::Control,
            Some(place) if place < pin_groups => Self::Pins(place),
            Some(place) => Self::Flows(place - pin_groups),
        }
    }
}

/// What was found on disk cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A stored snapshot is not what its place says.
    #[error("the stored snapshot of group {0}: {1}")]
    Snapshot(GroupId, RestoreError),
    /// The pools of the configuration do not fit into one entry of the log.
    #[error(
        "the pools to begin with come to {0} bytes, and the fleet's first entry holds {ENTRY_BYTES_MAX}: begin with fewer servers, and add the others later"
    )]
    BirthTooLarge(usize),
    /// The log contradicts itself.
    #[error("the log contradicts itself: {0}")]
    Log(String),
}

/// Which entries of which group wait for an outcome here.
pub type Waiting<T> = BTreeMap<u64, T>;

fn unknown_command(error: &WireError) -> ControlOutcome {
    ControlOutcome::Invalid(format!("this version does not know the command: {error}"))
}
