//! A data directory as a replica needs it: identity, known peers, log and snapshots, on any [`Disk`].
//!
//! The files and their bytes are described in docs/log-format.md.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use raftlog::{
    GroupId, Index, NodeId, Record, Term,
    disk::Disk,
    driver::{GroupStart, Members, SnapshotFile, SnapshotStart},
    wal::{Cut, RecoveredGroup, SnapshotStore, Wal, WalError, WalOptions, load_small, log_exists, save_small},
};

use crate::birth::{Identity, Known};

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
    pub bodies: BTreeMap<GroupId, Bytes>,
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
        let groups = identity.pin_groups + 1;
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
        let mut found = Found { starts: Vec::new(), bodies: BTreeMap::new(), cut: recovered.cut.take() };
        for group in (0..groups).map(GroupId) {
            let log = recovered.groups.remove(&group).unwrap_or_default();
            let marked = log.snapshot;
            let (start, body) = start(group, identity, &snapshots, log)?;
            // The crash came between a snapshot's file and its record: the record is made up for.
            if let Some(snapshot) = start.snapshot.as_ref().filter(|found| marked != Some((found.index, found.term))) {
                wal.append(&[Record::Snapshot { group, index: snapshot.index, term: snapshot.term }], true)?;
            }
            found.starts.push(start);
            if let Some(body) = body {
                found.bodies.insert(group, body);
            }
        }
        Ok((Self { wal, snapshots }, found))
    }

    /// Stores the files, then the records, with one sync of the log if `sync`.
    ///
    /// # Errors
    /// `WalError::NoSpace`: nothing of the records was stored, try again later. All others are final.
    pub fn persist(&mut self, records: &[Record], files: &[SnapshotFile], sync: bool) -> Result<(), WalError> {
        self.save_files(files)?;
        self.wal.append(records, sync)?;
        if !files.is_empty() {
            self.wal.release()?;
        }
        Ok(())
    }

    /// Writes records without making them durable: what a crash in the middle of `persist` leaves behind.
    ///
    /// # Errors
    /// As `persist`.
    pub fn write_only(&mut self, records: &[Record], files: &[SnapshotFile]) -> Result<(), WalError> {
        self.save_files(files)?;
        self.wal.append(records, false)
    }

    fn save_files(&self, files: &[SnapshotFile]) -> Result<(), WalError> {
        for file in files {
            self.snapshots.save(file.group, file.index, file.term, &file.meta, &file.body)?;
        }
        Ok(())
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

    /// A quiet group whose few entries hold back the oldest segment, and wants a snapshot for that.
    #[must_use]
    pub fn holding_back(&self) -> Option<GroupId> {
        self.wal.oldest_groups().into_keys().next()
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

fn unreadable(name: &str) -> WalError {
    WalError::Foreign { file: format!("{name}.dat"), why: "it does not read as what its name says".to_owned() }
}

/// A group as its log and its newest snapshot have it.
fn start(
    group: GroupId,
    identity: &Identity,
    snapshots: &SnapshotStore,
    log: RecoveredGroup,
) -> Result<(GroupStart, Option<Bytes>), WalError> {
    let stored = snapshots.load(group)?;
    let marked = log.snapshot;
    let mut entries = log.entries;
    let (snapshot, body) = match stored {
        Some(stored) if marked.is_none_or(|(index, _)| stored.index >= index) => {
            // Newer than its marker: the crash came between the file and the record.
            if marked != Some((stored.index, stored.term)) {
                let held = entries.iter().any(|(index, term, _)| (*index, *term) == (stored.index, stored.term));
                entries.retain(|(index, _, _)| held && *index > stored.index);
            }
            let start = SnapshotStart { index: stored.index, term: stored.term, meta: stored.meta.into() };
            (Some(start), Some(Bytes::from(stored.body)))
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
    Ok((start, body))
}

/// Where a founder's log begins.
pub(crate) const FIRST: (Index, Term) = (Index(1), Term(1));

const IDENTITY: &str = "identity";
const KNOWN: &str = "known-peers";
/// There from the moment the log is.
const LOG_BEGUN: &str = "log-begun";

#[cfg(test)]
mod tests;
