//! Writes a snapshot file: the body comes as a stream, the header last.

use std::io::{self, Write};

use super::format::{
    CHECKSUM_BYTES, CHUNK_BYTES, HEADER_BYTES, Header, META_BYTES_MAX, Place, SNAPSHOT_BYTES_MAX, chunk_checksum,
};
use super::{SYNC_BYTES, SnapshotStore, io_error, make_error, refuse_older, write_error};
use crate::disk::{DiskFile, STAGED_SUFFIX, is_full};
use crate::wal::error::WalError;

/// A snapshot file that is being written, under its staged name: what is written to this is its body. Dropped without
/// [`SnapshotWriter::finish`] it leaves nothing behind. Holds one chunk in memory.
pub struct SnapshotWriter {
    store: SnapshotStore,
    place: Place,
    staged: String,
    file: Box<dyn DiskFile>,
    meta_bytes: u32,
    meta_checksum: u32,
    /// Room for the checksum, then the bytes of the chunk so far.
    chunk: Vec<u8>,
    chunks: u64,
    body_bytes: u64,
    /// Where the next chunk goes.
    offset: u64,
    unsynced: u64,
    failure: Option<WalError>,
    is_published: bool,
}

impl SnapshotWriter {
    pub(super) fn create(store: SnapshotStore, place: Place, meta: &[u8]) -> Result<SnapshotWriter, WalError> {
        if meta.len() > META_BYTES_MAX {
            let text = format!("group {}: {} bytes of meta, the limit is {META_BYTES_MAX}", place.group, meta.len());
            return Err(WalError::Refused(text));
        }
        refuse_older(&store.places()?, &place)?;
        if !store.making().insert(place) {
            let text = format!("group {}: its snapshot at {} is being written", place.group, place.index);
            return Err(WalError::Refused(text));
        }
        let staged = format!("{}{STAGED_SUFFIX}", place.name());
        let file = match store.disk().create(&staged) {
            Ok(file) => file,
            Err(error) => {
                store.making().remove(&place);
                return Err(make_error(&staged, error));
            }
        };
        let mut writer = SnapshotWriter {
            store,
            place,
            staged,
            file,
            meta_bytes: meta.len() as u32,
            meta_checksum: crc32c::crc32c(meta),
            chunk: Vec::with_capacity(CHECKSUM_BYTES + CHUNK_BYTES),
            chunks: 0,
            body_bytes: 0,
            offset: (HEADER_BYTES + meta.len()) as u64,
            unsynced: 0,
            failure: None,
            is_published: false,
        };
        writer.chunk.resize(CHECKSUM_BYTES, 0);
        writer.file.write_at(HEADER_BYTES as u64, meta).map_err(|error| writer.write_error(error))?;
        Ok(writer)
    }

    /// Completes the file, syncs it, gives it its name durably, and removes older ones of the group. Says how many
    /// bytes the file has.
    ///
    /// # Errors What an earlier write failed with; `NoSpace`, `Io`; `Refused` if a newer snapshot was stored meanwhile.
    /// Nothing is stored then, unless the directory could not be synced: then the file may be there after a crash.
    pub fn finish(mut self) -> Result<u64, WalError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.chunk.len() > CHECKSUM_BYTES {
            self.write_chunk().map_err(|error| self.write_error(error))?;
        }
        let header = Header {
            place: self.place,
            body_bytes: self.body_bytes,
            meta_bytes: self.meta_bytes,
            meta_checksum: self.meta_checksum,
        };
        debug_assert_eq!(header.file_bytes(), self.offset);
        self.file.write_at(0, &header.encode()).map_err(|error| self.write_error(error))?;
        self.file.sync_data().map_err(|error| io_error("syncing", &self.staged, error))?;
        self.store.publish(&self.staged, &self.place)?;
        self.is_published = true;
        Ok(self.offset)
    }

    /// Gives up: what came first, a failure of the file or this one of whoever makes the body.
    #[must_use]
    pub fn fail(mut self, error: io::Error) -> WalError {
        self.failure.take().unwrap_or_else(|| io_error("making the content of", &self.staged, error))
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        let checksum = chunk_checksum(self.chunks, &self.chunk[CHECKSUM_BYTES..]);
        self.chunk[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_be_bytes());
        self.file.write_at(self.offset, &self.chunk)?;
        self.offset += self.chunk.len() as u64;
        self.unsynced += self.chunk.len() as u64;
        self.chunks += 1;
        self.chunk.truncate(CHECKSUM_BYTES);
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn write_error(&self, error: io::Error) -> WalError {
        write_error("writing", &self.staged, error)
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(failure) = &self.failure {
            return Err(io::Error::other(failure.to_string()));
        }
        let taken = bytes.len().min(CHECKSUM_BYTES + CHUNK_BYTES - self.chunk.len());
        if self.body_bytes + taken as u64 > SNAPSHOT_BYTES_MAX {
            let text = format!("group {}: a snapshot of more than {SNAPSHOT_BYTES_MAX} bytes", self.place.group);
            self.failure = Some(WalError::Refused(text.clone()));
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        self.chunk.extend_from_slice(&bytes[..taken]);
        self.body_bytes += taken as u64;
        if self.chunk.len() == CHECKSUM_BYTES + CHUNK_BYTES
            && let Err(error) = self.write_chunk()
        {
            let kind = if is_full(&error) { error.kind() } else { io::ErrorKind::Other };
            let failure = self.write_error(error);
            let shown = io::Error::new(kind, failure.to_string());
            self.failure = Some(failure);
            return Err(shown);
        }
        Ok(taken)
    }

    /// Does nothing: a chunk is written when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        // A file of before a simulated crash is no business of this life.
        if !self.is_published && self.file.length().is_ok() {
            // Gives the space back early. A leftover is harmless: `create` empties it, the next start sweeps it.
            self.store.disk().remove(&self.staged).ok();
        }
        self.store.making().remove(&self.place);
    }
}
