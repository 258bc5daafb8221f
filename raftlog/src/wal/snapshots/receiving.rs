//! A snapshot file as it comes from a peer: collected, read for what it is, then installed or dropped.

use super::format::{HEADER_BYTES, Header, Place, received_name};
use super::reader::{SnapshotReader, Whose};
use super::{SYNC_BYTES, SnapshotStore, io_error, make_error, write_error};
use crate::disk::DiskFile;
use crate::types::{GroupId, Index, Term};
use crate::wal::error::WalError;

/// A file that is being received. Its bytes come in order; after a break the peer goes on at [`Receiving::len`].
/// Dropped, it leaves nothing behind.
pub struct Receiving {
    part: Part,
    length: u64,
    unsynced: u64,
    /// Until it is complete, what is there of the header.
    head: Vec<u8>,
    header: Option<Header>,
    is_broken: bool,
}

/// The file itself, which goes away with this unless it was installed.
struct Part {
    store: SnapshotStore,
    place: Place,
    name: String,
    file: Box<dyn DiskFile>,
    is_installed: bool,
}

impl Receiving {
    pub(super) fn create(store: SnapshotStore, place: Place, number: u64) -> Result<Receiving, WalError> {
        let name = received_name(place.group, number);
        let file = store.disk().create(&name).map_err(|source| make_error(&name, source))?;
        let part = Part { store, place, name, file, is_installed: false };
        Ok(Receiving { part, length: 0, unsynced: 0, head: Vec::new(), header: None, is_broken: false })
    }

    /// How many bytes are there: the offset of the next ones.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing came yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many bytes the file will have, once its header is there.
    #[must_use]
    pub fn expected(&self) -> Option<u64> {
        self.header.as_ref().map(Header::file_bytes)
    }

    /// Takes up the next bytes. Any number at once; those of the header are checked as soon as they are there, so that
    /// no peer can send more than it announced.
    ///
    /// # Errors
    /// `NoSpace`: none of these bytes counts, they can be appended again later. `Unusable`: this is not the snapshot
    /// that was to come. `Io`. After these two the file is good for nothing but dropping.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        if self.is_broken {
            return Err(self.part.unusable("an earlier part of it failed"));
        }
        let appended = self.check(bytes).and_then(|()| self.write(bytes));
        self.is_broken = !matches!(appended, Ok(()) | Err(WalError::NoSpace { .. }));
        appended
    }

    /// Ends the file: all of it is there, and durable. Its chunks were not checked yet: [`Received::reader`] does.
    ///
    /// # Errors
    /// `Unusable` where bytes are missing; `Io`.
    pub fn finish(mut self) -> Result<Received, WalError> {
        if self.is_broken || self.expected() != Some(self.length) {
            return Err(self.part.unusable("not all of it came"));
        }
        self.part.file.sync_data().map_err(|error| io_error("syncing", &self.part.name, error))?;
        Ok(Received { part: self.part, bytes: self.length })
    }

    /// The header, where these bytes complete it, is that of the snapshot to come, and no byte lies beyond its end.
    fn check(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        let end = self.length + bytes.len() as u64;
        if self.header.is_none() {
            // Bytes that were refused for want of space come again.
            self.head.truncate(self.length.min(HEADER_BYTES as u64) as usize);
            let missing = HEADER_BYTES - self.head.len();
            self.head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
            let Ok(head) = self.head.as_slice().try_into() else { return Ok(()) };
            let header = Header::decode(head).map_err(|fault| self.part.unusable(&fault.text()))?;
            if header.place != self.part.place {
                return Err(self.part.unusable("its header names another snapshot"));
            }
            self.header = Some(header);
        }
        match self.expected() {
            Some(expected) if end > expected => Err(self.part.unusable("it is longer than its header says")),
            _ => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        let failed = |error| write_error("writing", &self.part.name, error);
        self.part.file.write_at(self.length, bytes).map_err(failed)?;
        self.length += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        if self.unsynced < SYNC_BYTES {
            return Ok(());
        }
        self.unsynced = 0;
        // Not even a full disk may be tried again here: what a failed sync lost is not known.
        self.part.file.sync_data().map_err(|error| io_error("syncing", &self.part.name, error))
    }
}

/// A file that was received as a whole and is durable, under its temporary name. Dropped without
/// [`Received::install`] it leaves nothing behind.
pub struct Received {
    part: Part,
    bytes: u64,
}

impl Received {
    /// Whose state it is.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.part.place.group
    }

    /// The last index that it covers.
    #[must_use]
    pub fn index(&self) -> Index {
        self.part.place.index
    }

    /// The term of the entry at that index.
    #[must_use]
    pub fn term(&self) -> Term {
        self.part.place.term
    }

    /// How long the file is, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads it: to decode its body, and to check it.
    ///
    /// # Errors
    /// `Unusable` where it is not what it should be; `Io`.
    pub fn reader(&self) -> Result<SnapshotReader, WalError> {
        SnapshotReader::open(self.part.store.disk(), &self.part.name, self.part.place, Whose::Peers)
    }

    /// Gives it its final name, durably, and removes older snapshots of the group. Whoever calls this has read all of
    /// it with success.
    ///
    /// # Errors
    /// `Refused` if a newer snapshot is stored; `Starved`: it is as before, and can be installed later; `NoSpace`, `Io`:
    /// then it may have either name.
    pub fn install(&mut self) -> Result<(), WalError> {
        self.part.store.publish(&self.part.name, &self.part.place)?;
        self.part.is_installed = true;
        Ok(())
    }
}

impl Part {
    fn unusable(&self, what: &str) -> WalError {
        WalError::Unusable { file: self.name.clone(), what: what.to_owned() }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // A file of before a simulated crash is no business of this life.
        if !self.is_installed && self.file.length().is_ok() {
            // Gives the space back early. A leftover is harmless: the next start sweeps it.
            self.store.disk().remove(&self.name).ok();
        }
    }
}
