//! The bytes and names of snapshot files, both ways; docs/log-format.md has the table.

use bytes::BufMut;

use crate::types::{GroupId, Index, Term};
use crate::wal::error::WalError;
use crate::wal::format::{Reader, header_checksum};

/// The longest meta part of a snapshot, in bytes.
pub const META_BYTES_MAX: usize = 1 << 20;
/// The longest body of a snapshot, in bytes.
pub const SNAPSHOT_BYTES_MAX: u64 = 256 << 30;

/// Which snapshot a file is; the newer one of a group is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub group: GroupId,
    pub index: Index,
    pub term: Term,
}

impl Place {
    pub fn name(&self) -> String {
        format!("{PREFIX}{:08x}-{:016x}-{:016x}.snap", self.group.0, self.index.0, self.term.0)
    }

    pub fn parse(name: &str) -> Option<Place> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_suffix(".snap")?.split('-');
        let group = GroupId(u32::from_str_radix(parts.next()?, 16).ok()?);
        let index = Index(u64::from_str_radix(parts.next()?, 16).ok()?);
        let term = Term(u64::from_str_radix(parts.next()?, 16).ok()?);
        Some(Place { group, index, term }).filter(|place| place.name() == name)
    }
}

/// The name of a file that is being received.
pub(super) fn received_name(group: GroupId, number: u64) -> String {
    format!("{RECEIVED_PREFIX}{:08x}-{number:016x}{RECEIVED_SUFFIX}", group.0)
}

pub(super) fn is_received(name: &str) -> bool {
    name.starts_with(RECEIVED_PREFIX) && name.ends_with(RECEIVED_SUFFIX)
}

/// What a snapshot file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub place: Place,
    pub body_bytes: u64,
    pub meta_bytes: u32,
    pub meta_checksum: u32,
}

/// Why bytes are no snapshot header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Magic,
    Version(u32),
    Damaged,
}

impl HeaderFault {
    /// The fault of a file of ours.
    pub fn error(self, name: &str) -> WalError {
        let file = name.to_owned();
        match self {
            HeaderFault::Magic => WalError::Foreign { file, why: "it does not start as a snapshot does".into() },
            HeaderFault::Version(version) => WalError::UnknownVersion { file, version, known: VERSION },
            HeaderFault::Damaged => WalError::CorruptFile { file, what: "its header does not check".into() },
        }
    }

    /// The fault of bytes that a peer sent.
    pub fn text(self) -> String {
        match self {
            HeaderFault::Magic => "it does not start as a snapshot does".to_owned(),
            HeaderFault::Version(version) => {
                format!("it has format version {version}, this program reads version {VERSION}")
            }
            HeaderFault::Damaged => "its header does not check".to_owned(),
        }
    }
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_slice(&MAGIC);
        rest.put_u32(VERSION);
        rest.put_u32(0);
        rest.put_u32(self.place.group.0);
        rest.put_u32(CHUNK_BYTES as u32);
        rest.put_u64(self.place.index.0);
        rest.put_u64(self.place.term.0);
        rest.put_u64(self.body_bytes);
        rest.put_u32(self.meta_bytes);
        rest.put_u32(self.meta_checksum);
        let checksum = header_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, HeaderFault> {
        if bytes[..8] != MAGIC {
            return Err(HeaderFault::Magic);
        }
        let mut reader = Reader(&bytes[8..]);
        let version = reader.u32().ok_or(HeaderFault::Damaged)?;
        if reader.u32() != Some(header_checksum(bytes)) {
            return Err(HeaderFault::Damaged);
        }
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        Header::fields(&mut reader).ok_or(HeaderFault::Damaged)
    }

    fn fields(reader: &mut Reader<'_>) -> Option<Header> {
        let group = GroupId(reader.u32()?);
        let chunk_bytes = reader.u32()?;
        let place = Place { group, index: Index(reader.u64()?), term: Term(reader.u64()?) };
        let header =
            Header { place, body_bytes: reader.u64()?, meta_bytes: reader.u32()?, meta_checksum: reader.u32()? };
        let fits = header.meta_bytes as usize <= META_BYTES_MAX && header.body_bytes <= SNAPSHOT_BYTES_MAX;
        (fits && chunk_bytes as usize == CHUNK_BYTES).then_some(header)
    }

    /// Where the first chunk starts.
    pub fn body_offset(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.meta_bytes)
    }

    /// How long the file must be. Cannot overflow: both parts are limited.
    pub fn file_bytes(&self) -> u64 {
        let checksums = self.body_bytes.div_ceil(CHUNK_BYTES as u64) * CHECKSUM_BYTES as u64;
        self.body_offset() + self.body_bytes + checksums
    }
}

/// Over a chunk's number and its bytes, so that no chunk passes for another one.
pub fn chunk_checksum(number: u64, chunk: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_be_bytes()), chunk)
}

pub(super) const PREFIX: &str = "snap-";
const RECEIVED_PREFIX: &str = "recv-";
const RECEIVED_SUFFIX: &str = ".part";
const MAGIC: [u8; 8] = *b"raftsnp\n";
const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const CHECKSUM_BYTES: usize = 4;
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Makes the head of a snapshot file fit this snapshot and its own checksums, as far as its bytes are there: for
/// fuzzing.
#[cfg(any(test, feature = "fuzz"))]
pub fn repair_head(bytes: &mut [u8], group: GroupId, index: Index, term: Term) {
    let length = bytes.len();
    let Some((head, rest)) = bytes.split_first_chunk_mut::<HEADER_BYTES>() else { return };
    let mut reader = Reader(&head[40..]);
    let (body_bytes, meta_bytes) = (reader.u64().unwrap_or(0), reader.u32().unwrap_or(0));
    let meta = rest.get(..meta_bytes as usize).unwrap_or_default();
    let header =
        Header { place: Place { group, index, term }, body_bytes, meta_bytes, meta_checksum: crc32c::crc32c(meta) };
    let fits = meta_bytes as usize <= META_BYTES_MAX && body_bytes <= length as u64;
    if fits {
        *head = header.encode();
    }
}

/// The number and the place of each chunk that the header promises and the file has, checksums included: for fuzzing.
#[cfg(any(test, feature = "fuzz"))]
pub fn chunk_places(bytes: &[u8]) -> Vec<(u64, std::ops::Range<usize>)> {
    let Some(Ok(header)) = bytes.first_chunk().map(Header::decode) else { return Vec::new() };
    let from = (header.body_offset() as usize).min(bytes.len());
    let mut places = Vec::new();
    let mut offset = from;
    for (number, chunk) in (0..).zip(bytes[from..].chunks(CHECKSUM_BYTES + CHUNK_BYTES)) {
        places.push((number, offset..offset + chunk.len()));
        offset += chunk.len();
    }
    places
}
