//! A simulated data directory: the log and the snapshots on a disk in memory, and what the log should hold.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::Bytes;

use super::{mirror::Mirror, table::Table};
use crate::{
    disk::{Disk, MemDisk},
    driver::{GroupStart, Members, SnapshotStart},
    types::{GroupId, Index, NodeId, Record, State, Term},
    wal::{Received, RecoveredGroup, SnapshotStore, Wal, WalError, WalOptions},
};

/// The files of one process, and what they should hold.
pub struct Store {
    wal: Wal,
    snapshots: SnapshotStore,
    /// All that was handed in to be stored.
    pub given: Mirror,
    /// All that is known to be durable.
    pub durable: Rc<RefCell<Mirror>>,
    /// What was written and not synced, oldest first.
    unsynced: Vec<Vec<Record>>,
}

/// What one life leaves to the next: what the log may hold now.
pub struct Remains {
    durable: Rc<RefCell<Mirror>>,
    unsynced: Vec<Vec<Record>>,
    /// The process ended and the machine did not: what was written is there.
    all_written: bool,
}

/// What a start finds.
pub struct Found {
    pub store: Store,
    pub starts: Vec<GroupStart>,
    pub tables: Vec<Table>,
}

/// Why a start failed.
pub enum Refusal {
    /// The files are damaged.
    Files(WalError),
    /// They are not, and what was found is not what must be there.
    Wrong(String),
}

impl From<WalError> for Refusal {
    fn from(error: WalError) -> Self {
        Self::Files(error)
    }
}

impl Store {
    /// Opens the files of a disk. `founders`: who a group's first members are, where this is one of them.
    pub fn open(
        disk: &MemDisk,
        options: WalOptions,
        groups: u32,
        founders: &[NodeId],
        remains: &mut Option<Remains>,
    ) -> Result<Found, Refusal> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let (wal, mut recovered) = Wal::open(Arc::clone(&disk), options)?;
        let snapshots = SnapshotStore::open(disk)?;
        let durable = Mirror::of(&recovered.groups);
        if let Some(remains) = remains {
            remains.check(&durable).map_err(Refusal::Wrong)?;
            // If the start fails after all, the next one finds what this one found: of the rounds that might have been
            // there the others never come back.
            *remains =
                Remains { durable: Rc::new(RefCell::new(durable.clone())), unsynced: Vec::new(), all_written: false };
        }
        let durable = Rc::new(RefCell::new(durable));
        let mut store = Self { wal, snapshots, given: Mirror::default(), durable, unsynced: Vec::new() };
        if recovered.groups.is_empty() && !founders.is_empty() {
            let first = |group| Record::Snapshot { group: GroupId(group), index: FIRST.0, term: FIRST.1 };
            let records: Vec<Record> = (0..groups).map(first).collect();
            store.append(&records, true)?;
            for group in 0..groups {
                let first = RecoveredGroup { snapshot: Some(FIRST), ..RecoveredGroup::default() };
                recovered.groups.insert(GroupId(group), first);
            }
        }
        let (mut starts, mut tables) = (Vec::new(), Vec::new());
        for group in (0..groups).map(GroupId) {
            let log = recovered.groups.remove(&group).unwrap_or_default();
            let (start, table) = store.start(group, founders, log, remains)?;
            starts.push(start);
            tables.push(table);
        }
        store.given = store.durable.borrow().clone();
        Ok(Found { store, starts, tables })
    }

    /// A group as its log and its newest snapshot have it.
    fn start(
        &mut self,
        group: GroupId,
        founders: &[NodeId],
        log: RecoveredGroup,
        remains: &mut Option<Remains>,
    ) -> Result<(GroupStart, Table), Refusal> {
        let marked = log.snapshot;
        let mut entries = log.entries;
        let mut table = Table::new(marked.map_or(0, |(index, _)| index.0));
        let stored = self.snapshots.open_newest(group)?;
        let snapshot = match stored {
            Some(mut stored) if marked.is_none_or(|(index, _)| stored.index() >= index) => {
                let place = (stored.index(), stored.term());
                let meta = Bytes::copy_from_slice(stored.meta());
                let read = Table::read_from(&mut stored);
                stored.finish()?;
                table = read.map_err(|error| Refusal::Wrong(format!("a stored table does not read: {error}")))?;
                if marked != Some(place) {
                    // The crash came between the file and its mark.
                    let held = entries.iter().any(|(index, term, _)| (*index, *term) == place);
                    entries.retain(|(index, _, _)| held && *index > place.0);
                    let mark = Record::Snapshot { group, index: place.0, term: place.1 };
                    self.append(std::slice::from_ref(&mark), true)?;
                    // If the start fails after all, the next one finds it.
                    if let Some(remains) = remains {
                        remains.unsynced.push(vec![mark]);
                    }
                }
                Some(SnapshotStart { index: place.0, term: place.1, meta })
            }
            _ if marked == Some(FIRST) => {
                Some(SnapshotStart { index: FIRST.0, term: FIRST.1, meta: Members::founders(founders) })
            }
            _ if marked.is_none() => None,
            _ => {
                let text = format!("group {group}: the log follows on a snapshot at {marked:?} that is not there");
                return Err(Refusal::Wrong(text));
            }
        };
        let base = snapshot.as_ref().map_or(Index(0), |snapshot| snapshot.index);
        let last = entries.last().map_or(base, |(index, _, _)| *index);
        if table.index != base.0 {
            return Err(Refusal::Wrong(format!("group {group}: the table at {} is that of {base}", table.index)));
        }
        let hard = log.hard_state;
        let commit = hard.commit.max(base).min(last);
        Ok((GroupStart { group, term: hard.term, vote: hard.vote, commit, snapshot, entries }, table))
    }

    /// Stores a round: files that came in get their names, then the records are written, and synced if `sync`.
    pub fn persist(&mut self, files: Vec<Received>, records: &[Record], sync: bool) -> Result<(), WalError> {
        for mut file in files {
            file.install()?;
        }
        self.append(records, sync)?;
        self.wal.release()?;
        Ok(())
    }

    /// What a crash in the middle of `persist` leaves behind.
    pub fn write_only(&mut self, files: Vec<Received>, records: &[Record]) -> Result<(), WalError> {
        for mut file in files {
            file.install()?;
        }
        self.append(records, false)
    }

    fn append(&mut self, records: &[Record], sync: bool) -> Result<(), WalError> {
        // What fails at its sync was written, and may well be there later.
        self.unsynced.push(records.to_vec());
        match self.wal.append(records, sync) {
            Err(error @ WalError::NoSpace { .. }) => {
                self.unsynced.pop();
                return Err(error);
            }
            other => other?,
        }
        if sync {
            for round in self.unsynced.drain(..) {
                self.durable.borrow_mut().append(&round);
            }
        }
        Ok(())
    }

    /// Entries of the log from the disk, without a gap, as many as fit and one in any case.
    pub fn read(
        &mut self,
        group: GroupId,
        from: Index,
        to: Index,
        max_bytes: u64,
    ) -> Result<Vec<(Index, Term, Bytes)>, WalError> {
        self.wal.read(group, from, to, max_bytes)
    }

    /// Stores a snapshot; whether that worked.
    pub fn save(&self, group: GroupId, index: Index, term: Term, meta: &[u8], state: &dyn State) -> bool {
        self.snapshots.save_with(group, index, term, meta, |out| state.write_to(out)).is_ok()
    }

    /// The bytes of a stored snapshot, as they travel; none where it is not there any more.
    pub fn raw(&self, group: GroupId, index: Index, term: Term) -> Option<Bytes> {
        let raw = self.snapshots.open_raw(group, index, term).ok()?;
        let mut bytes = vec![0; raw.length() as usize];
        raw.read_at(0, &mut bytes).ok()?;
        Some(bytes.into())
    }

    /// Takes up a snapshot that a peer sent: its file, its meta part, and what it says.
    pub fn receive(
        &self,
        group: GroupId,
        index: Index,
        term: Term,
        bytes: &[u8],
    ) -> Result<(Received, Bytes, Table), WalError> {
        let mut receiving = self.snapshots.receive(group, index, term)?;
        let (first, second) = bytes.split_at(bytes.len() / 3);
        receiving.append(first)?;
        receiving.append(second)?;
        let received = receiving.finish()?;
        let mut reader = received.reader()?;
        let meta = Bytes::copy_from_slice(reader.meta());
        let table = Table::read_from(&mut reader);
        reader.finish()?;
        let unusable = |what: String| WalError::Unusable { file: "a received snapshot".to_owned(), what };
        let table = table.map_err(|error| unusable(error.to_string()))?;
        if table.index != index.0 {
            return Err(unusable(format!("it is the state at {}, not at {index}", table.index)));
        }
        Ok((received, meta, table))
    }

    /// A group whose few live entries hold back the oldest segment.
    pub fn holding_back(&self) -> Option<(GroupId, Index)> {
        self.wal.oldest_groups().into_iter().next()
    }

    /// Proves that all is durable: for a clean stop.
    pub fn seal(&mut self) -> Result<(), WalError> {
        self.wal.seal()?;
        for round in self.unsynced.drain(..) {
            self.durable.borrow_mut().append(&round);
        }
        Ok(())
    }

    /// The process ends; `all_written`: the machine goes on.
    pub fn end(self, all_written: bool) -> Remains {
        Remains { durable: self.durable, unsynced: self.unsynced, all_written }
    }
}

impl Remains {
    /// The log holds what was durable and some of the rounds behind it, whole and in order.
    fn check(&self, found: &Mirror) -> Result<(), String> {
        let mut may = self.durable.borrow().clone();
        let mut matches = (!self.all_written || self.unsynced.is_empty()) && may == *found;
        for (number, round) in self.unsynced.iter().enumerate() {
            may.append(round);
            let allowed = !self.all_written || number + 1 == self.unsynced.len();
            matches |= allowed && may == *found;
        }
        if matches {
            return Ok(());
        }
        let behind = self.unsynced.len();
        Err(format!("the log is not what was stored, with {behind} rounds not synced: {}", found.difference(&may)))
    }
}

/// Where a founder's log begins.
pub const FIRST: (Index, Term) = (Index(1), Term(1));
