//! A snapshot as a stream of rows: each row a length and a protobuf message, the last one says how many there were.
//!
//! ```text
//! format: 1 byte | table: 1 byte | row: length 4 bytes little-endian, message | row | ... | last row: the number of rows
//! ```
//! So neither side ever holds more than the table, one row and [`CHUNK_BYTES`].

use std::io::{self, BufRead, BufReader, Read, Write};

use prost::Message;

use crate::wire::WireError;

/// The bytes are no snapshot of that table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// A snapshot without a format, or of one that this version does not read.
    #[error("a snapshot of format {known} was expected, and this one is {}", format_text(*found))]
    Format {
        /// As the bytes say; none: there are no bytes.
        found: Option<u8>,
        /// What this version reads.
        known: u8,
    },
    /// The snapshot of another kind of table.
    #[error("it is the snapshot of another kind of table")]
    OtherTable,
    /// It ends before its last row.
    #[error("it is cut off: the stream ends after {0} whole rows, and none of them is the last one")]
    CutOff(u64),
    /// A row without bytes, or with more than [`ROW_BYTES_MAX`].
    #[error("a row of {0} bytes; rows have 1 to {ROW_BYTES_MAX}")]
    RowLength(u32),
    /// A row that makes no sense.
    #[error("row {0}: {1}")]
    Row(u64, WireError),
    /// Rows that cannot stand there: twice the same, or not in order.
    #[error("row {0}: {1} twice or out of order")]
    Order(u64, &'static str),
    /// More rows than such a table holds.
    #[error("more {0} than a table holds")]
    TooMany(&'static str),
    /// The last row counts otherwise.
    #[error("it should have {told} rows before the last, and has {found}")]
    Rows {
        /// As the last row says.
        told: u64,
        /// As were read.
        found: u64,
    },
    /// The rows contradict each other.
    #[error("its rows contradict each other: {0}")]
    Contradiction(&'static str),
    /// Something follows the last row.
    #[error("something follows its last row")]
    After,
    /// It cannot be read.
    #[error("it cannot be read: {text}")]
    Io {
        /// The kind of the error.
        kind: io::ErrorKind,
        /// The error.
        text: String,
    },
}

/// Writes rows.
pub(super) struct RowWriter<'a> {
    out: &'a mut dyn Write,
    /// Rows that were not written yet.
    chunk: Vec<u8>,
    rows: u64,
}

/// Reads rows.
pub(super) struct RowReader<'a> {
    input: BufReader<&'a mut dyn Read>,
    row: Vec<u8>,
    rows: u64,
}

impl<'a> RowWriter<'a> {
    pub(super) fn begin(out: &'a mut dyn Write, table: u8) -> Self {
        Self { out, chunk: vec![FORMAT, table], rows: 0 }
    }

    pub(super) fn put(&mut self, row: &impl Message) -> io::Result<()> {
        let length = row.encoded_len();
        let Some(head) = u32::try_from(length).ok().filter(|length| (1..=ROW_BYTES_MAX).contains(length)) else {
            // What could not be read back is not written.
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a row of {length} bytes")));
        };
        self.chunk.extend_from_slice(&head.to_le_bytes());
        row.encode(&mut self.chunk).map_err(io::Error::other)?;
        self.rows += 1;
        if self.chunk.len() >= CHUNK_BYTES {
            self.out.write_all(&self.chunk)?;
            self.chunk.clear();
            self.chunk.shrink_to(2 * CHUNK_BYTES);
        }
        Ok(())
    }

    /// How many rows there are by now.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The last row.
    pub(super) fn end(mut self, row: &impl Message) -> io::Result<()> {
        self.put(row)?;
        self.out.write_all(&self.chunk)
    }
}

impl<'a> RowReader<'a> {
    pub(super) fn begin(input: &'a mut dyn Read, table: u8) -> Result<Self, SnapshotError> {
        let mut input = BufReader::with_capacity(CHUNK_BYTES, input);
        match byte(&mut input)? {
            Some(FORMAT) => {}
            found => return Err(SnapshotError::Format { found, known: FORMAT }),
        }
        match byte(&mut input)? {
            Some(found) if found == table => Ok(Self { input, row: Vec::new(), rows: 0 }),
            Some(_) => Err(SnapshotError::OtherTable),
            None => Err(SnapshotError::CutOff(0)),
        }
    }

    /// The next row.
    pub(super) fn next<M: Message + Default>(&mut self) -> Result<M, SnapshotError> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(|error| self.failed(&error))?;
        let length = u32::from_le_bytes(length);
        if !(1..=ROW_BYTES_MAX).contains(&length) {
            return Err(SnapshotError::RowLength(length));
        }
        self.row.clear();
        self.row.shrink_to(CHUNK_BYTES);
        // This grows with what comes, not with what the length claims.
        let read = (&mut self.input).take(length.into()).read_to_end(&mut self.row);
        if read.map_err(|error| self.failed(&error))? < length as usize {
            return Err(SnapshotError::CutOff(self.rows));
        }
        let row = M::decode(self.row.as_slice()).map_err(|error| self.bad(error.into()))?;
        self.rows += 1;
        Ok(row)
    }

    /// The last row was read, and says how many came before it.
    pub(super) fn end(mut self, told: u64) -> Result<(), SnapshotError> {
        let found = self.rows - 1;
        if told != found {
            return Err(SnapshotError::Rows { told, found });
        }
        byte(&mut self.input)?.map_or(Ok(()), |_| Err(SnapshotError::After))
    }

    /// The row that was read last makes no sense.
    pub(super) fn bad(&self, error: WireError) -> SnapshotError {
        SnapshotError::Row(self.rows, error)
    }

    /// The row that was read last is not the next of its kind unless `in_order`.
    pub(super) fn ordered(&self, in_order: bool, what: &'static str) -> Result<(), SnapshotError> {
        if in_order { Ok(()) } else { Err(SnapshotError::Order(self.rows, what)) }
    }

    fn failed(&self, error: &io::Error) -> SnapshotError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => SnapshotError::CutOff(self.rows),
            _ => unreadable(error),
        }
    }
}

fn byte(input: &mut impl BufRead) -> Result<Option<u8>, SnapshotError> {
    loop {
        match input.fill_buf() {
            Ok(bytes) => {
                let first = bytes.first().copied();
                input.consume(first.is_some().into());
                return Ok(first);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(&error)),
        }
    }
}

/// Reads until `bytes` are full or the input ends: how many there were.
pub(super) fn fill(input: &mut dyn Read, bytes: &mut [u8]) -> Result<usize, SnapshotError> {
    let mut length = 0;
    while length < bytes.len() {
        match input.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(&error)),
        }
    }
    Ok(length)
}

fn unreadable(error: &io::Error) -> SnapshotError {
    SnapshotError::Io { kind: error.kind(), text: error.to_string() }
}

fn format_text(found: Option<u8>) -> String {
    found.map_or("empty".to_owned(), |found| format!("of format {found}"))
}

/// The format of snapshots that this version writes and reads.
pub const FORMAT: u8 = 2;

/// Most bytes of a row. Rows are made of entries of the log, each far smaller; a pool's row grows with its servers.
pub const ROW_BYTES_MAX: u32 = 16 << 20;

/// Rows are written and read in pieces of about so many bytes.
pub const CHUNK_BYTES: usize = 32 << 10;
