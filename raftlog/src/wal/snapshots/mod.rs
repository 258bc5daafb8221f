//! One file per group: its newest snapshot, written and read as a stream, checked chunk by chunk.
//!
//! ```text
//! create -> SnapshotWriter --finish-->                  .-> open_newest, open_stored -> SnapshotReader
//!                                      snap-....snap --<
//! receive -> Receiving --finish--> Received --install-> '-> open_raw -> RawSnapshot -> the wire
//! ```
//!
//! Nothing here needs memory for more than a few chunks. A file with a final name was complete and synced before it got
//! it.

mod format;
mod reader;
mod receiving;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
#[cfg(any(test, feature = "fuzz"))]
use std::io::Read;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use format::{PREFIX, Place};
#[cfg(any(test, feature = "fuzz"))]
pub(super) use format::{chunk_checksum, chunk_places, repair_head};

use super::error::WalError;
use super::{io_error, open_error, write_error};
use crate::disk::{Disk, STAGED_SUFFIX, is_full};
use crate::types::{GroupId, Index, Term};

pub use format::{META_BYTES_MAX, SNAPSHOT_BYTES_MAX};
pub use reader::{RawSnapshot, SnapshotReader};
pub use receiving::{Received, Receiving};
pub use writer::SnapshotWriter;

/// A stored snapshot, as a whole: for tests.
#[cfg(any(test, feature = "fuzz"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last index that it covers.
    pub index: Index,
    /// The term of the entry at that index.
    pub term: Term,
    /// What belongs to it beside the state, such as the members at that index.
    pub meta: Vec<u8>,
    /// The state.
    pub body: Vec<u8>,
}

/// The snapshots of all groups on a disk. Clones share one store and may be used by several threads at once: one writes
/// while others read, send and install.
#[derive(Clone)]
pub struct SnapshotStore(Arc<Shared>);

/// Knows nothing of what is stored: the files are the truth.
struct Shared {
    disk: Arc<dyn Disk>,
    /// What is being written now. Also makes the look for a newer snapshot, the naming of one and the removal of the
    /// older ones one act.
    making: Mutex<BTreeSet<Place>>,
    /// Numbers the files that are received.
    received: AtomicU64,
}

impl SnapshotStore {
    /// Opens the store; removes snapshots that were only being made or received. Once per process: clones are for
    /// sharing.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(disk: Arc<dyn Disk>) -> Result<SnapshotStore, WalError> {
        for name in list(disk.as_ref())? {
            // Small files are stored by other threads meanwhile; a leftover of theirs is emptied by its next store.
            let staged = name.starts_with(PREFIX) && name.ends_with(STAGED_SUFFIX);
            if staged || format::is_received(&name) {
                disk.remove(&name).map_err(|source| io_error("removing", &name, source))?;
            }
        }
        Ok(SnapshotStore(Arc::new(Shared { disk, making: Mutex::default(), received: AtomicU64::new(0) })))
    }

    /// Starts a snapshot file; its body is what is written until [`SnapshotWriter::finish`].
    ///
    /// # Errors
    /// `Refused` if a newer one is stored, this one is being written already, or `meta` is longer than
    /// [`META_BYTES_MAX`];
    /// `NoSpace`; `Starved`; `Io`.
    pub fn create(&self, group: GroupId, index: Index, term: Term, meta: &[u8]) -> Result<SnapshotWriter, WalError> {
        SnapshotWriter::create(self.clone(), Place { group, index, term }, meta)
    }

    /// Stores a snapshot durably, then removes older ones of the group; `write` writes its body. Says how many bytes
    /// the file has.
    ///
    /// # Errors As [`SnapshotStore::create`]. After any error nothing is stored, unless the directory could not be
    /// synced: then the file may be there after a crash.
    pub fn save_with(
        &self,
        group: GroupId,
        index: Index,
        term: Term,
        meta: &[u8],
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<u64, WalError> {
        let mut writer = self.create(group, index, term, meta)?;
        match write(&mut writer) {
            Ok(()) => writer.finish(),
            Err(error) => Err(writer.fail(error)),
        }
    }

    /// Stores a snapshot whose body is in memory: [`SnapshotStore::save_with`].
    ///
    /// # Errors
    /// As there.
    #[cfg(any(test, feature = "fuzz"))]
    pub fn save(&self, group: GroupId, index: Index, term: Term, meta: &[u8], body: &[u8]) -> Result<(), WalError> {
        self.save_with(group, index, term, meta, |out| out.write_all(body)).map(drop)
    }

    /// The newest snapshot of a group, as a whole. One that does not check is an error; an older one never takes its
    /// place.
    ///
    /// # Errors
    /// `CorruptFile`, `Foreign`, `UnknownVersion`; `Io`.
    #[cfg(any(test, feature = "fuzz"))]
    pub fn load(&self, group: GroupId) -> Result<Option<Snapshot>, WalError> {
        let Some(mut reader) = self.open_newest(group)? else { return Ok(None) };
        let (index, term, meta) = (reader.index(), reader.term(), reader.meta().to_vec());
        let failed = |source| io_error("reading", &Place { group, index, term }.name(), source);
        let mut body = Vec::new();
        // The file is that long, so this much was stored; more than memory can have is an error.
        let reserved = usize::try_from(reader.body_bytes()).is_ok_and(|bytes| body.try_reserve_exact(bytes).is_ok());
        if !reserved {
            return Err(failed(io::ErrorKind::OutOfMemory.into()));
        }
        let read = reader.read_to_end(&mut body);
        reader.finish()?;
        read.map_err(failed)?;
        Ok(Some(Snapshot { index, term, meta, body }))
    }

    /// Opens the newest snapshot of a group; `None` where there is none. An older one never takes its place.
    ///
    /// # Errors
    /// `CorruptFile`, `Foreign`, `UnknownVersion` for what its head gives away; `Io`.
    pub fn open_newest(&self, group: GroupId) -> Result<Option<SnapshotReader>, WalError> {
        match self.newest(group)? {
            Some(place) => SnapshotReader::open(self.disk(), &place.name(), place, reader::Whose::Ours).map(Some),
            None => Ok(None),
        }
    }

    /// Opens a certain snapshot.
    ///
    /// # Errors
    /// As [`SnapshotStore::open_newest`]; `Io` with `NotFound` where it is not stored (any more).
    pub fn open_stored(&self, group: GroupId, index: Index, term: Term) -> Result<SnapshotReader, WalError> {
        let place = Place { group, index, term };
        SnapshotReader::open(self.disk(), &place.name(), place, reader::Whose::Ours)
    }

    /// Opens a certain snapshot as bytes for the wire: the file as it is. It can be read to its end also when a newer
    /// one takes its place meanwhile.
    ///
    /// # Errors
    /// As [`SnapshotStore::open_stored`].
    pub fn open_raw(&self, group: GroupId, index: Index, term: Term) -> Result<RawSnapshot, WalError> {
        RawSnapshot::open(self.disk(), Place { group, index, term })
    }

    /// Starts a file for the bytes of a snapshot that a peer sends, to be appended in order from 0 on.
    ///
    /// # Errors
    /// `NoSpace`, `Starved`, `Io`.
    pub fn receive(&self, group: GroupId, index: Index, term: Term) -> Result<Receiving, WalError> {
        let number = self.0.received.fetch_add(1, Ordering::Relaxed);
        Receiving::create(self.clone(), Place { group, index, term }, number)
    }

    /// What is stored, unchecked: index and term of each group's newest snapshot.
    ///
    /// # Errors
    /// `Foreign` for a name that no snapshot has; `Io`.
    pub fn newest_of_all(&self) -> Result<BTreeMap<GroupId, (Index, Term)>, WalError> {
        // In order, so that the newest of a group comes last.
        Ok(self.places()?.into_iter().map(|place| (place.group, (place.index, place.term))).collect())
    }

    fn disk(&self) -> &dyn Disk {
        self.0.disk.as_ref()
    }

    fn making(&self) -> MutexGuard<'_, BTreeSet<Place>> {
        // A set of names is whole also when a thread that held it panicked.
        self.0.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self, group: GroupId) -> Result<Option<Place>, WalError> {
        Ok(self.places()?.into_iter().rfind(|place| place.group == group))
    }

    /// Gives a synced file its final name, durably, and removes the older ones of the group.
    fn publish(&self, from: &str, place: &Place) -> Result<(), WalError> {
        let _one_act = self.making();
        // Looked for before: once the file has its name, nothing may fail that passes.
        let places = self.places()?;
        refuse_older(&places, place)?;
        let name = place.name();
        self.disk().rename(from, &name).map_err(|source| write_error("naming", &name, source))?;
        self.disk().sync_dir().map_err(|source| write_error("naming", &name, source))?;
        for old in places.into_iter().filter(|old| old.group == place.group && *old < *place) {
            let name = old.name();
            self.disk().remove(&name).map_err(|source| io_error("removing", &name, source))?;
        }
        Ok(())
    }

    /// All snapshots, by group, index and term.
    fn places(&self) -> Result<Vec<Place>, WalError> {
        let mut places = Vec::new();
        for name in list(self.disk())? {
            if !name.starts_with(PREFIX) || name.ends_with(STAGED_SUFFIX) {
                continue;
            }
            match Place::parse(&name) {
                Some(place) => places.push(place),
                None => return Err(WalError::Foreign { file: name, why: "no snapshot is named like this".into() }),
            }
        }
        places.sort();
        Ok(places)
    }
}

/// Refuses a snapshot when a newer one of its group is among these, which are in order.
fn refuse_older(places: &[Place], place: &Place) -> Result<(), WalError> {
    let newest = places.iter().rfind(|other| other.group == place.group);
    match newest.filter(|newest| newest.index > place.index) {
        None => Ok(()),
        Some(newest) => {
            let Place { group, index, .. } = place;
            let text = format!("group {group}: a snapshot at {index} when one at {} is stored", newest.index);
            Err(WalError::Refused(text))
        }
    }
}

fn list(disk: &dyn Disk) -> Result<Vec<String>, WalError> {
    disk.list().map_err(|source| open_error("listing", "the data directory", source))
}

fn make_error(name: &str, source: io::Error) -> WalError {
    match is_full(&source) {
        true => WalError::NoSpace { file: name.to_owned() },
        false => open_error("making", name, source),
    }
}

/// How much is written before it is synced: a file synced only at its end would hold up the log's syncs for long.
const SYNC_BYTES: u64 = 8 << 20;
