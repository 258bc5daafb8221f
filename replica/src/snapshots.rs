//! The replica's part in snapshots: its tables as states, and states that come in.

use std::sync::Arc;

use bytes::Bytes;
use flow::Revision;
use raftlog::{GroupId, Index, NodeId, Term, types::State};

use crate::{
    replica::Replica,
    tables::{ControlState, FlowState, GroupState, PinState, Place, RestoreError},
};

impl Replica {
    /// A snapshot came in whole: this is its state, with what its file has beside it, and `term` that of the entry at its
    /// index. `true`: it will be installed, and its file is needed until then; `false`: it is not wanted.
    pub fn handle_snapshot(
        &mut self,
        from: NodeId,
        group: GroupId,
        message: &[u8],
        term: Term,
        (state, meta): (GroupState, Bytes),
    ) -> bool {
        let index = Index(state.applied().0);
        let taken = self.driver.handle_snapshot(from, group, message, (index, term), &meta);
        if taken {
            self.restoring.insert((group, index), state);
        }
        taken
    }

    /// The snapshot of `Output::StoreSnapshot` is stored, or could not be.
    pub fn handle_snapshot_stored(&mut self, group: GroupId, index: Index, stored: bool) {
        self.driver.handle_snapshot_stored(group, index, stored);
    }

    /// What `Output::ReadLog` asked for.
    pub fn handle_log_read(&mut self, group: GroupId, from: Index, entries: &[(Index, Term, Bytes)]) {
        self.driver.handle_log_read(group, from, entries);
    }

    /// The stored file of a snapshot that was to be sent is damaged or gone: another is stored.
    pub fn handle_snapshot_unreadable(&mut self, group: GroupId, place: (Index, Term)) {
        self.driver.handle_snapshot_unreadable(group, place);
    }

    /// How the sending of a snapshot ended.
    pub fn handle_snapshot_sent(&mut self, group: GroupId, to: NodeId, arrived: bool) {
        self.driver.handle_snapshot_sent(group, to, arrived);
    }

    /// Hands the driver the state of a group as it is now, which costs a few pointers.
    pub(crate) fn hand_in(&mut self, group: GroupId) {
        let (applied, state): (_, Arc<dyn State>) = match self.place(group) {
            Place::Control => {
                let table = &self.control.table;
                (table.applied(), Arc::new(ControlState(table.clone())))
            }
            Place::Pins(place) => {
                let table = &self.groups[place].view.table;
                (table.applied(), Arc::new(PinState(table.clone())))
            }
            Place::Flows(place) => {
                let table = &self.flows[place].table;
                (table.applied(), Arc::new(FlowState(table.clone())))
            }
        };
        self.driver.snapshot(group, Index(applied.0), state);
    }

    /// Installs a snapshot that came in.
    pub(crate) fn restore(&mut self, group: GroupId, index: Index) {
        let of = Revision(index.0);
        let state = self.restoring.remove(&(group, index));
        // Those that came before it are not wanted any more.
        self.restoring.retain(|(other, at), _| *other != group || *at > index);
        let place = self.place(group);
        let restored = match (state, place) {
            (None, _) => Err(RestoreError::Missing(of)),
            (Some(state), Place::Control) => self.control.restore(state, of),
            (Some(state), Place::Pins(place)) => self.groups[place].restore(state, of),
            (Some(state), Place::Flows(place)) => self.flows[place].restore(state, of),
        };
        match restored {
            Ok(()) => {
                self.hide_outcomes(group);
                match place {
                    Place::Control => self.control_applied(true),
                    Place::Pins(_) => self.choosing.wake(group),
                    Place::Flows(_) => {}
                }
            }
            Err(error) => return self.break_down(group, format!("the snapshot at index {index}: {error}")),
        }
        self.members_seen = None;
        self.look_for_leaving();
        self.answer_reads(group);
    }
}
