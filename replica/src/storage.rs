//! A data directory as a replica needs it: identity, known peers, log and snapshots, on any [`Disk`].
//!
//! The files and their bytes are described in docs/log-format.md.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use raftlog::{
    GroupId, Index, NodeId, Record, Term,
    disk::Disk,
    driver::{GroupStart, Members, SnapshotStart},
    types::State,
    wal::{
        Cut, Received, RecoveredGroup, SnapshotStore, Wal, WalError, WalOptions, load_small, log_exists, save_small,
    },
};

use crate::{
    birth::{Identity, Known},
    tables::GroupState,
};

/// The files of one instance. One owner, one thread.
pub struct Storage {
    wal: Wal,
    snapshots: SnapshotStore,
}

/// What was found in a data directory.
#[derive(Debug)]
pub struct Found {
    /// All groups, group 0 first.
    pub starts: Vec<GroupStart>,
    /// The states of those with a snapshot.
    pub states: BTreeMap<GroupId, GroupState>,
    /// A torn end of the log that was cut off: never acknowledged.
    pub cut: Option<Cut>,
}

impl Storage {
    /// Opens the log of an instance whose identity is decided, and reads it back.
    ///
    /// # Errors
    /// If the files are damaged or cannot be read; the text says what to do.
    pub fn open(disk: Arc<dyn Disk>, identity: &Identity, options: WalOptions) -> Result<(Self, Found), WalError> {
        // A directory that lost its log must not vote a second time in a term, nor forget what it acknowledged.
        let begun = load_small(disk.as_ref(), LOG_BEGUN)?.is_some();
        if begun && !log_exists(disk.as_ref())? {
            return Err(WalError::CorruptFile {
                file: "the log".to_owned(),
                what: "it was begun, and not one segment (wal-*.log) is there; votes and acknowledged entries are lost"
                    .to_owned(),
            });
        }
        let (mut wal, mut recovered) = Wal::open(Arc::clone(&disk), options)?;
        let snapshots = SnapshotStore::open(Arc::clone(&disk))?;
        let groups = 1 + identity.pin_groups + identity.flow_groups;
        if recovered.groups.is_empty() && !identity.founders.is_empty() {
            // A founder's log begins behind index 1, of which the founders are the members.
            let first = |group| Record::Snapshot { group: GroupId(group), index: FIRST.0, term: FIRST.1 };
            let records: Vec<Record> = (0..groups).map(first).collect();
            wal.append(&records, true)?;
            for group in 0..groups {
                let start = RecoveredGroup { snapshot: Some(FIRST), ..RecoveredGroup::default() };
                recovered.groups.insert(GroupId(group), start);
            }
        }
        if !begun {
            save_small(disk.as_ref(), LOG_BEGUN, &[])?;
        }
        let mut found = Found { starts: Vec::new(), states: BTreeMap::new(), cut: recovered.cut.take() };
        for group in (0..groups).map(GroupId) {
            let log = recovered.groups.remove(&group).unwrap_or_default();
            let marked = log.snapshot;
            let (start, state) = start(group, identity, &snapshots, log)?;
            // The crash came between a snapshot's file and its record: the record is made up for.
            if let Some(snapshot) = start.snapshot.as_ref().filter(|found| marked != Some((found.index, found.term))) {
                wal.append(&[Record::Snapshot { group, index: snapshot.index, term: snapshot.term }], true)?;
            }
            found.starts.push(start);
            if let Some(state) = state {
                found.states.insert(group, state);
            }
        }
        Ok((Self { wal, snapshots }, found))
    }

    /// Gives received snapshots their names, then stores the records, with one sync of the log if `sync`. What was
    /// installed is taken out of `received`, also when the records cannot be stored.
    ///
    /// # Errors
    /// `WalError::NoSpace`, `WalError::Starved`: nothing of the records was stored, try again later, with what is left in
    /// `received`. All others are final.
    pub fn persist(&mut self, records: &[Record], received: &mut Vec<Received>, sync: bool) -> Result<(), WalError> {
        while let Some(next) = received.first_mut() {
            // Final also where there is no room: by which name the file is there is not known then.
            next.install().map_err(not_installed)?;
            received.remove(0);
        }
        self.wal.append(records, sync)?;
        if records.iter().any(|record| matches!(record, Record::Snapshot { .. })) {
            self.wal.release()?;
        }
        Ok(())
    }

    /// Writes records without making them durable: what a crash in the middle of `persist` leaves behind.
    ///
    /// # Errors
    /// As `persist`.
    pub fn write_only(&mut self, records: &[Record], received: Vec<Received>) -> Result<(), WalError> {
        for mut received in received {
            received.install()?;
        }
        self.wal.append(records, false)
    }

    /// Reads entries of a group's log back, as `Output::ReadLog` asks.
    ///
    /// # Errors
    /// If the log is damaged or cannot be read.
    pub fn read_log(
        &mut self,
        group: GroupId,
        from: Index,
        to: Index,
        max_bytes: u64,
    ) -> Result<Vec<(Index, Term, Bytes)>, WalError> {
        self.wal.read(group, from, to, max_bytes)
    }

    /// The snapshots, for threads that write, send and receive them.
    #[must_use]
    pub fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    /// Prepares room for later rounds while nobody waits.
    ///
    /// # Errors
    /// As `persist`.
    pub fn prepare(&mut self) -> Result<(), WalError> {
        self.wal.prefill()
    }

    /// Proves that all rounds so far are durable: for a clean stop.
    ///
    /// # Errors
    /// As `persist`.
    pub fn seal(&mut self) -> Result<(), WalError> {
        self.wal.seal()
    }

    /// A group that holds back the oldest segment, and the last index of it there: a snapshot would let go of that.
    #[must_use]
    pub fn holding_back(&self) -> Option<(GroupId, Index)> {
        self.wal.oldest_groups().into_iter().next()
    }

    /// Segments, bytes written and bytes live.
    #[must_use]
    pub fn usage(&self) -> raftlog::wal::Usage {
        self.wal.usage()
    }
}

/// The identity stored on a disk, if there is one.
///
/// # Errors
/// If the file is damaged or cannot be read.
pub fn load_identity(disk: &dyn Disk) -> Result<Option<Identity>, WalError> {
    let Some(bytes) = load_small(disk, IDENTITY)? else { return Ok(None) };
    Identity::decode(&bytes).map(Some).ok_or_else(|| unreadable(IDENTITY))
}

/// Stores the identity.
///
/// # Errors
/// If it cannot be written.
pub fn save_identity(disk: &dyn Disk, identity: &Identity) -> Result<(), WalError> {
    save_small(disk, IDENTITY, &identity.encode())
}

/// The known peers stored on a disk; none if there is no such file yet.
///
/// # Errors
/// If the file is damaged or cannot be read.
pub fn load_known(disk: &dyn Disk) -> Result<Known, WalError> {
    let Some(bytes) = load_small(disk, KNOWN)? else { return Ok(Known::default()) };
    Known::decode(&bytes).ok_or_else(|| unreadable(KNOWN))
}

/// Stores the known peers.
///
/// # Errors
/// If they cannot be written.
pub fn save_known(disk: &dyn Disk, known: &Known) -> Result<(), WalError> {
    save_small(disk, KNOWN, &known.encode())
}

/// Records that refer to a snapshot which may not be there must never be stored, not with another try either.
fn not_installed(error: WalError) -> WalError {
    match error {
        WalError::NoSpace { file } => {
            WalError::Io { file, action: "naming", source: std::io::ErrorKind::StorageFull.into() }
        }
        other => other,
    }
}

fn unreadable(name: &str) -> WalError {
    WalError::Foreign { file: format!("{name}.dat"), why: "it does not read as what its name says".to_owned() }
}

/// Stores a group's state as its newest snapshot.
///
/// # Errors
/// `WalError::NoSpace`: try again later. `WalError::Refused`: a newer one is stored. Others: the disk failed.
pub fn store_snapshot(
    snapshots: &SnapshotStore,
    place: (GroupId, Index, Term),
    meta: &[u8],
    state: &dyn State,
) -> Result<u64, WalError> {
    let (group, index, term) = place;
    snapshots.save_with(group, index, term, meta, |out| state.write_to(out))
}

/// Reads and checks a snapshot that was received: its state, and what its file has beside it.
///
/// # Errors
/// If it is not a snapshot of that group, index and term, says why.
pub fn read_received(received: &Received) -> Result<(GroupState, Bytes), WalError> {
    let mut reader = received.reader()?;
    let meta = Bytes::copy_from_slice(reader.meta());
    let read = GroupState::read_from(&mut reader);
    // A damaged file is told of before what follows from it.
    reader.finish()?;
    let unusable = |what| WalError::Unusable { file: format!("the snapshot of group {}", received.group()), what };
    let state = read.map_err(|error| unusable(error.to_string()))?;
    let (found, wanted) = (state.applied().0, received.index().0);
    if found == wanted {
        return Ok((state, meta));
    }
    Err(unusable(format!("it is the state at index {found}, and should be that at {wanted}")))
}

/// A group as its log and its newest snapshot have it.
fn start(
    group: GroupId,
    identity: &Identity,
    snapshots: &SnapshotStore,
    log: RecoveredGroup,
) -> Result<(GroupStart, Option<GroupState>), WalError> {
    let stored = snapshots.open_newest(group)?;
    let marked = log.snapshot;
    let mut entries = log.entries;
    let (snapshot, state) = match stored {
        Some(mut stored) if marked.is_none_or(|(index, _)| stored.index() >= index) => {
            let (index, term) = (stored.index(), stored.term());
            // Newer than its marker: the crash came between the file and the record.
            if marked != Some((index, term)) {
                let held = entries.iter().any(|(at, of, _)| (*at, *of) == (index, term));
                entries.retain(|(at, _, _)| held && *at > index);
            }
            let meta = Bytes::copy_from_slice(stored.meta());
            let state = GroupState::read_from(&mut stored);
            stored.finish()?;
            let state = state.map_err(|error| WalError::Foreign {
                file: format!("the snapshot of group {group}"),
                why: error.to_string(),
            })?;
            (Some(SnapshotStart { index, term, meta }), Some(state))
        }
        _ if marked == Some(FIRST) => {
            let founders: Vec<NodeId> = identity.founders.iter().map(|id| NodeId(id.0)).collect();
            (Some(SnapshotStart { index: FIRST.0, term: FIRST.1, meta: Members::founders(&founders) }), None)
        }
        _ => match marked {
            None => (None, None),
            Some((index, _)) => {
                return Err(WalError::CorruptFile {
                    file: format!("the snapshot of group {group}"),
                    what: format!("the log follows on one at index {index}, which is not there"),
                });
            }
        },
    };
    let base = snapshot.as_ref().map_or(Index(0), |snapshot| snapshot.index);
    let last = entries.last().map_or(base, |(index, _, _)| *index);
    let start = GroupStart {
        group,
        term: log.hard_state.term,
        vote: log.hard_state.vote,
        commit: log.hard_state.commit.max(base).min(last),
        snapshot,
        entries,
    };
    Ok((start, state))
}

/// Where a founder's log begins.
pub(crate) const FIRST: (Index, Term) = (Index(1), Term(1));

const IDENTITY: &str = "identity";
const KNOWN: &str = "known-peers";
/// There from the moment the log is.
pub(crate) const LOG_BEGUN: &str = "log-begun";

#[cfg(test)]
mod tests;
