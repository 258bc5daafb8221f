//! Reads a snapshot file: its body as a stream of checked chunks, or its bytes as they are.

use std::io::{self, Read};

use super::format::{CHECKSUM_BYTES, CHUNK_BYTES, HEADER_BYTES, Header, HeaderFault, Place, chunk_checksum};
use super::{io_error, open_error};
use crate::disk::{Disk, DiskFile};
use crate::types::{GroupId, Index, Term};
use crate::wal::error::WalError;

/// Where a file came from, which decides what damage to it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    Peers,
}

/// A file and what to say of it.
struct Source {
    name: String,
    whose: Whose,
    file: Box<dyn DiskFile>,
}

impl Source {
    /// Opens the file; its header names this place and fits its length.
    fn open(disk: &dyn Disk, name: &str, place: Place, whose: Whose) -> Result<(Source, Header), WalError> {
        let file = disk.open(name).map_err(|source| open_error("opening", name, source))?;
        let source = Source { name: name.to_owned(), whose, file };
        let length = source.file.length().map_err(|error| source.failed(error))?;
        if length < HEADER_BYTES as u64 {
            return Err(source.damaged("it is shorter than its header"));
        }
        let mut bytes = [0; HEADER_BYTES];
        source.read_at(0, &mut bytes)?;
        let header = Header::decode(&bytes).map_err(|fault| source.fault(fault))?;
        if header.place != place {
            return Err(source.damaged("its header names another snapshot"));
        }
        if header.file_bytes() != length {
            return Err(source.damaged("its length is not what its header says"));
        }
        Ok((source, header))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), WalError> {
        self.file.read_at(offset, buffer).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> WalError {
        io_error("reading", &self.name, source)
    }

    fn fault(&self, fault: HeaderFault) -> WalError {
        match self.whose {
            Whose::Ours => fault.error(&self.name),
            Whose::Peers => self.damaged(&fault.text()),
        }
    }

    fn damaged(&self, what: &str) -> WalError {
        let (file, what) = (self.name.clone(), what.to_owned());
        match self.whose {
            Whose::Ours => WalError::CorruptFile { file, what },
            Whose::Peers => WalError::Unusable { file, what },
        }
    }
}

/// A snapshot that is being read: what is read from this is its body, each chunk checked before any byte of it is given
/// out. Holds one chunk in memory.
pub struct SnapshotReader {
    source: Source,
    header: Header,
    meta: Vec<u8>,
    chunk: Vec<u8>,
    /// How much of the chunk was given out.
    given: usize,
    chunks: u64,
    /// Where the next chunk is.
    offset: u64,
    /// How much of the body lies in chunks that were not read yet.
    left: u64,
    failure: Option<WalError>,
}

impl SnapshotReader {
    pub(super) fn open(disk: &dyn Disk, name: &str, place: Place, whose: Whose) -> Result<SnapshotReader, WalError> {
        let (source, header) = Source::open(disk, name, place, whose)?;
        // At most META_BYTES_MAX, and the file is longer.
        let mut meta = vec![0; header.meta_bytes as usize];
        source.read_at(HEADER_BYTES as u64, &mut meta)?;
        if crc32c::crc32c(&meta) != header.meta_checksum {
            return Err(source.damaged("its meta part does not check"));
        }
        let offset = header.body_offset();
        let left = header.body_bytes;
        Ok(SnapshotReader { source, header, meta, chunk: Vec::new(), given: 0, chunks: 0, offset, left, failure: None })
    }

    /// Whose state it is.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.header.place.group
    }

    /// The last index that it covers.
    #[must_use]
    pub fn index(&self) -> Index {
        self.header.place.index
    }

    /// The term of the entry at that index.
    #[must_use]
    pub fn term(&self) -> Term {
        self.header.place.term
    }

    /// What belongs to it beside the state.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// How long the body is.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.header.body_bytes
    }

    /// Reads and checks what is left, and says what is wrong with the file if anything is: also what an earlier read
    /// failed with.
    ///
    /// # Errors
    /// `CorruptFile` (`Unusable` for a received file), `Io`.
    pub fn finish(mut self) -> Result<(), WalError> {
        loop {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if self.left == 0 {
                return Ok(());
            }
            self.next_chunk();
        }
    }

    /// Reads the next chunk, or remembers why it could not.
    fn next_chunk(&mut self) {
        self.given = 0;
        let bytes = self.left.min(CHUNK_BYTES as u64) as usize;
        self.chunk.resize(CHECKSUM_BYTES + bytes, 0);
        if let Err(error) = self.read_chunk() {
            self.chunk.clear();
            self.failure = Some(error);
            return;
        }
        self.given = CHECKSUM_BYTES;
        self.offset += self.chunk.len() as u64;
        self.left -= bytes as u64;
        self.chunks += 1;
    }

    fn read_chunk(&mut self) -> Result<(), WalError> {
        self.source.read_at(self.offset, &mut self.chunk)?;
        let Some((checksum, body)) = self.chunk.split_first_chunk() else { return Ok(()) };
        if chunk_checksum(self.chunks, body) != u32::from_be_bytes(*checksum) {
            let what = format!("chunk {}, at byte {}, does not check", self.chunks, self.offset);
            return Err(self.source.damaged(&what));
        }
        Ok(())
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.chunk.len() && self.left > 0 && self.failure.is_none() {
            self.next_chunk();
        }
        if let Some(failure) = &self.failure {
            return Err(io::Error::new(io::ErrorKind::InvalidData, failure.to_string()));
        }
        let ready = self.chunk.get(self.given..).unwrap_or_default();
        let taken = ready.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&ready[..taken]);
        self.given += taken;
        Ok(taken)
    }
}

/// A stored snapshot as bytes for the wire: header, meta, checked chunks, as they are in the file. Its chunks are
/// checked by whoever receives them.
pub struct RawSnapshot {
    source: Source,
    bytes: u64,
}

impl RawSnapshot {
    pub(super) fn open(disk: &dyn Disk, place: Place) -> Result<RawSnapshot, WalError> {
        let (source, header) = Source::open(disk, &place.name(), place, Whose::Ours)?;
        Ok(RawSnapshot { source, bytes: header.file_bytes() })
    }

    /// How long the file is, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.bytes
    }

    /// Fills the whole buffer from `offset` on.
    ///
    /// # Errors
    /// `Io`, also where the file ends before.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), WalError> {
        self.source.read_at(offset, buffer)
    }
}
