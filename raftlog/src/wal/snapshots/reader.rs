//! Reads a snapshot file: its body as a stream of checked chunks, or its bytes as they are.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

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

    fn read_meta(&self, header: &Header) -> Result<Vec<u8>, WalError> {
        // At most META_BYTES_MAX, and the file is longer.
        let mut meta = vec![0; header.meta_bytes as usize];
        self.read_at(HEADER_BYTES as u64, &mut meta)?;
        if crc32c::crc32c(&meta) != header.meta_checksum {
            return Err(self.damaged("its meta part does not check"));
        }
        Ok(meta)
    }

    /// Fills the buffer with the chunk of that number, which is at `offset`, its checksum first, and checks it.
    fn read_chunk(&self, number: u64, offset: u64, chunk: &mut [u8]) -> Result<(), WalError> {
        self.read_at(offset, chunk)?;
        let Some((checksum, body)) = chunk.split_first_chunk() else { return Ok(()) };
        if chunk_checksum(number, body) != u32::from_be_bytes(*checksum) {
            return Err(self.damaged(&format!("chunk {number}, at byte {offset}, does not check")));
        }
        Ok(())
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
        let meta = source.read_meta(&header)?;
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
        if let Err(error) = self.source.read_chunk(self.chunks, self.offset, &mut self.chunk) {
            self.chunk.clear();
            self.failure = Some(error);
            return;
        }
        self.given = CHECKSUM_BYTES;
        self.offset += self.chunk.len() as u64;
        self.left -= bytes as u64;
        self.chunks += 1;
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

/// A stored snapshot as bytes for the wire: header, meta, chunks with their checksums, as they are in the file. What is
/// damaged is not given out: whoever receives it could only refuse it. Holds one chunk in memory.
pub struct RawSnapshot {
    source: Source,
    header: Header,
    /// The header and the meta part, checked.
    head: Vec<u8>,
    /// The chunk that was read last, checked.
    chunk: Mutex<Option<(u64, Vec<u8>)>>,
}

impl RawSnapshot {
    pub(super) fn open(disk: &dyn Disk, place: Place) -> Result<RawSnapshot, WalError> {
        let (source, header) = Source::open(disk, &place.name(), place, Whose::Ours)?;
        let mut head = header.encode().to_vec();
        head.extend_from_slice(&source.read_meta(&header)?);
        Ok(RawSnapshot { source, header, head, chunk: Mutex::default() })
    }

    /// How long the file is, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.header.file_bytes()
    }

    /// Fills the whole buffer from `offset` on.
    ///
    /// # Errors
    /// `CorruptFile` where a chunk does not check; `Io`, also where the file ends before.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), WalError> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.length()) {
            return Err(self.source.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let head = usize::try_from(offset).ok().and_then(|offset| self.head.get(offset..)).unwrap_or_default();
        let (of_head, of_body) = buffer.split_at_mut(head.len().min(buffer.len()));
        of_head.copy_from_slice(&head[..of_head.len()]);
        self.read_chunks(offset + of_head.len() as u64, of_body)
    }

    /// Fills the buffer with what is at `offset`, behind the head.
    fn read_chunks(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), WalError> {
        // What is in there is whole also when a thread that held it panicked.
        let mut held = self.chunk.lock().unwrap_or_else(PoisonError::into_inner);
        while !buffer.is_empty() {
            let within = offset - self.header.body_offset();
            let number = within / STORED_CHUNK_BYTES;
            let chunk = match held.take().filter(|(of, _)| *of == number) {
                Some((_, chunk)) => chunk,
                None => self.read_chunk(number)?,
            };
            let ready = chunk.get((within % STORED_CHUNK_BYTES) as usize..).unwrap_or_default();
            let (filled, rest) = buffer.split_at_mut(ready.len().min(buffer.len()));
            filled.copy_from_slice(&ready[..filled.len()]);
            offset += filled.len() as u64;
            buffer = rest;
            *held = Some((number, chunk));
        }
        Ok(())
    }

    /// A chunk with its checksum, checked.
    fn read_chunk(&self, number: u64) -> Result<Vec<u8>, WalError> {
        let offset = self.header.body_offset() + number * STORED_CHUNK_BYTES;
        let bytes = (self.length() - offset).min(STORED_CHUNK_BYTES) as usize;
        let mut chunk = vec![0; bytes];
        self.source.read_chunk(number, offset, &mut chunk)?;
        Ok(chunk)
    }
}

/// How long a chunk is in the file, but for the last one.
const STORED_CHUNK_BYTES: u64 = (CHECKSUM_BYTES + CHUNK_BYTES) as u64;
