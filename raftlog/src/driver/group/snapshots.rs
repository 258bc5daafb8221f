//! A group's snapshots: taken of the owner's state, stored and sent by the owner, received and installed.

use std::sync::Arc;

use raft::{
    SnapshotStatus, Storage,
    eraftpb::{Message, Snapshot},
};

use super::{Group, Persist, Ticks};
use crate::{
    driver::{
        action::{Action, Install},
        config::{Counters, DriverConfig},
        members::{encode_meta, snapshot_time},
    },
    plant::{self, Plant},
    types::{Index, Record, State, Term},
};

/// A snapshot that the owner is storing.
pub struct Taking {
    snapshot: Snapshot,
    /// The log is to let go of its entries up to there, tail or not.
    lets_go: Option<u64>,
}

impl Group {
    /// The log on disk is to let go of its entries up to `through`. While one is on its way to the disk, another would say
    /// the same: an isolated replica whose log ends with entries that cannot be committed would take one after the other.
    pub fn request_snapshot(&mut self, through: u64) {
        if self.taking.is_none() && self.snapshot_due.is_none() {
            self.snapshot_due = Some(through.min(self.node.raft.raft_log.last_index()));
        }
    }

    /// Whether a snapshot is wanted that the owner could not store before, or that nothing else would bring to mind.
    pub fn wants_snapshot(&self, now_ms: u64) -> bool {
        let failed = self.no_snapshot_before_ms > 0 && now_ms >= self.no_snapshot_before_ms;
        self.taking.is_none() && (failed || self.snapshot_due.is_some())
    }

    /// Asks the owner for its state where the log has grown long, or a follower needs it.
    pub fn ask_for_snapshot(&mut self, actions: &mut Vec<Action>, config: &DriverConfig, now_ms: u64) {
        let log = self.node.store();
        let applied = self.node.raft.raft_log.applied;
        if now_ms >= self.no_snapshot_before_ms {
            self.no_snapshot_before_ms = 0;
        }
        let busy = self.taking.is_some() || self.no_snapshot_before_ms > 0;
        if busy || (applied <= log.base_index && !log.wanted.get()) {
            return;
        }
        let since = applied.saturating_sub(log.base_index);
        let long = since > config.compact_entries + config.tail_entries;
        let large = log.bytes() > config.compact_bytes && since > config.tail_entries;
        // The end of the log may have been replaced by a shorter one since.
        let due = self.snapshot_due.filter(|through| (*through).min(log.last()) <= applied);
        // One that a follower still loads keeps the log long; another would not let go of more.
        let useful = || self.cut_through(applied, due, config) > log.base_index;
        if ((long || large || due.is_some()) && useful()) || log.wanted.get() {
            actions.push(Action::Snapshot { group: self.id });
        }
    }

    /// Takes the state at the applied index: to be stored, to be sent, to cut the log behind it.
    pub fn snapshot(&mut self, index: u64, state: Arc<dyn State>, actions: &mut Vec<Action>) {
        let applied = self.node.raft.raft_log.applied;
        if index != applied {
            let text = format!("the state is the one at index {index}, and the log is applied up to {applied}");
            self.broken.get_or_insert(text);
            return;
        }
        if self.taking.is_some() {
            return;
        }
        let log = self.node.store();
        let Ok(term) = log.term(index) else { return };
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = term;
        *snapshot.mut_metadata().mut_conf_state() = log.members.clone();
        // The state travels apart; the message itself carries its log time.
        snapshot.data = self.applied_time_ms.to_be_bytes().to_vec();
        let meta = encode_meta(&log.members, self.applied_time_ms);
        let lets_go = self.snapshot_due.take_if(|due| *due <= applied || *due > self.node.store().last());
        self.taking = Some(Taking { snapshot, lets_go });
        let (group, index, term) = (self.id, Index(index), Term(term));
        if plant::on(Plant::MarkBeforeFile) {
            self.node.mut_store().cut(index.0);
            self.cut = Some((index, term));
        }
        actions.push(Action::StoreSnapshot { group, index, term, meta, state });
    }

    /// The owner has stored that snapshot, or could not.
    pub fn snapshot_stored(
        &mut self,
        index: u64,
        stored: bool,
        now_ms: u64,
        config: &DriverConfig,
        counters: &mut Counters,
    ) {
        let Some(Taking { snapshot, lets_go }) =
            self.taking.take_if(|taking| taking.snapshot.get_metadata().index == index)
        else {
            return;
        };
        if !stored && !plant::on(Plant::UnstoredCounts) {
            self.no_snapshot_before_ms = now_ms + STORE_RETRY_MS;
            return;
        }
        let through = self.cut_through(index, lets_go, config);
        let log = self.node.mut_store();
        let before = log.base_index;
        // One that came in meanwhile may be ahead of it.
        if index < before {
            return;
        }
        log.cut(through);
        log.wanted.set(false);
        log.sendable = Some(snapshot);
        if log.base_index > before {
            self.cut = Some((Index(log.base_index), Term(log.base_term)));
        }
        counters.snapshots_taken += 1;
    }

    /// Up to where the log may be cut behind a snapshot at `index`, at least to `lets_go`: what a follower needs that is
    /// loading an earlier one is kept, within bounds.
    fn cut_through(&self, index: u64, lets_go: Option<u64>, config: &DriverConfig) -> u64 {
        let through = index.saturating_sub(config.tail_entries).max(lets_go.unwrap_or(0).min(index));
        let log = self.node.store();
        let too_long = index.saturating_sub(log.base_index) > config.compact_entries.saturating_mul(KEPT_FOR_LOADING)
            || log.bytes() > config.compact_bytes.saturating_mul(KEPT_FOR_LOADING);
        if too_long || !self.leads() {
            return through;
        }
        let loading = self.node.raft.prs().iter().map(|(_, progress)| progress.pending_snapshot);
        loading.filter(|pending| *pending > 0).fold(through, u64::min)
    }

    /// Lets go of what was cut off the log on disk too. A stored snapshot covers it, so it need not be durable.
    pub fn note_cut(&mut self, persist: &mut Persist) {
        if let Some((index, term)) = self.cut.take() {
            persist.records.push(Record::Snapshot { group: self.id, index, term });
        }
    }

    /// A snapshot came in whole. The core may well ignore it; `true` if it takes it.
    pub fn step_snapshot(&mut self, message: Message, clock: Ticks, counters: &mut Counters) -> bool {
        let before = self.pending_snapshot();
        let metadata = message.get_snapshot().get_metadata();
        let this = Some((metadata.index, metadata.term));
        self.step(message, clock, counters);
        self.pending_snapshot() == this && before != this
    }

    /// The index and term of the snapshot that the core is about to install.
    fn pending_snapshot(&self) -> Option<(u64, u64)> {
        let metadata = self.node.snap()?.get_metadata();
        Some((metadata.index, metadata.term))
    }

    /// How the sending of a snapshot ended.
    pub fn snapshot_sent(&mut self, to: crate::types::NodeId, arrived: bool) {
        if !arrived && plant::on(Plant::LostSnapshotUnreported) {
            return;
        }
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(to.0, status);
    }

    /// The stored file of that snapshot is damaged or gone, and nothing of it will be sent any more: the state in memory is
    /// stored anew.
    pub fn snapshot_unreadable(&mut self, index: u64, term: u64) {
        let log = self.node.mut_store();
        let is_it = |snapshot: &mut Snapshot| {
            let metadata = snapshot.get_metadata();
            (metadata.index, metadata.term) == (index, term)
        };
        if log.sendable.take_if(is_it).is_some() {
            log.wanted.set(true);
        }
    }

    /// Notes a received snapshot in the log and for the disk.
    pub fn take_snapshot(&mut self, snapshot: &Snapshot, persist: &mut Persist) -> (u64, u64) {
        let (index, term) = (snapshot.get_metadata().index, snapshot.get_metadata().term);
        let time_ms = snapshot_time(snapshot);
        self.node.mut_store().restore(snapshot, time_ms);
        // One of its own that is being stored is older.
        self.taking = None;
        self.cut = None;
        persist.installs.push(Install { group: self.id, index: Index(index), term: Term(term) });
        persist.records.push(Record::Snapshot { group: self.id, index: Index(index), term: Term(term) });
        persist.sync = true;
        (index, time_ms)
    }
}

/// A snapshot that could not be stored is asked for again after so long.
const STORE_RETRY_MS: u64 = 1000;

/// While a follower loads a snapshot the log may grow to so many times its usual length.
const KEPT_FOR_LOADING: u64 = 4;
