//! One file per group: its newest snapshot, checked chunk by chunk.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::BufMut;

use super::error::WalError;
use super::format::{Reader, header_checksum};
use super::io_error;
use crate::disk::{Disk, DiskFile, STAGED_SUFFIX, is_full, publish, stage};
use crate::types::{GroupId, Index, Term};

/// The longest meta part of a snapshot.
pub const META_BYTES_MAX: usize = 1 << 20;
/// The longest body of a snapshot.
pub const SNAPSHOT_BYTES_MAX: u64 = 16 << 30;

/// A stored snapshot.
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

/// The snapshots of all groups on a disk. Knows no state of its own: the files are the truth.
pub struct SnapshotStore {
    disk: Arc<dyn Disk>,
}

impl SnapshotStore {
    /// Opens the store; removes snapshots that were only being made.
    pub fn open(disk: Arc<dyn Disk>) -> Result<SnapshotStore, WalError> {
        for name in list(disk.as_ref())? {
            // Small files are stored by other threads meanwhile; a leftover of theirs is emptied by its next store.
            if name.starts_with(PREFIX) && name.ends_with(STAGED_SUFFIX) {
                disk.remove(&name).map_err(|source| io_error("removing", &name, source))?;
            }
        }
        Ok(SnapshotStore { disk })
    }

    /// Stores a snapshot durably, then removes older ones of the group.
    pub fn save(&self, group: GroupId, index: Index, term: Term, meta: &[u8], body: &[u8]) -> Result<(), WalError> {
        if meta.len() > META_BYTES_MAX || body.len() as u64 > SNAPSHOT_BYTES_MAX {
            let text = format!("group {group}: a snapshot of {} and {} bytes", meta.len(), body.len());
            return Err(WalError::Refused(text));
        }
        let place = Place { group, index, term };
        if let Some(newest) = self.newest(group)?.filter(|newest| newest.index > index) {
            let text = format!("group {group}: a snapshot at {index} when one at {} is stored", newest.index);
            return Err(WalError::Refused(text));
        }
        let name = place.name();
        let failed = |action, source: io::Error| match is_full(&source) {
            true => WalError::NoSpace { file: name.clone() },
            false => io_error(action, &name, source),
        };
        stage(self.disk.as_ref(), &name, &mut |file| write(file, &place, meta, body))
            .map_err(|source| failed("writing", source))?;
        publish(self.disk.as_ref(), &name).map_err(|source| failed("naming", source))?;
        for old in self.places()?.into_iter().filter(|old| old.group == group && *old < place) {
            let name = old.name();
            self.disk.remove(&name).map_err(|source| io_error("removing", &name, source))?;
        }
        Ok(())
    }

    /// The newest snapshot of a group. One that does not check is an error; an older one never takes its place.
    pub fn load(&self, group: GroupId) -> Result<Option<Snapshot>, WalError> {
        let Some(place) = self.newest(group)? else { return Ok(None) };
        let name = place.name();
        let failed = |source| io_error("reading", &name, source);
        let file = self.disk.open(&name).map_err(failed)?;
        let length = file.length().map_err(failed)?;
        let corrupt = |what: &str| WalError::CorruptFile { file: name.clone(), what: what.to_owned() };
        if length < HEADER_BYTES as u64 {
            return Err(corrupt("it is shorter than its header"));
        }
        let mut bytes = [0; HEADER_BYTES];
        file.read_at(0, &mut bytes).map_err(failed)?;
        let header = Header::decode(&bytes).map_err(|fault| fault.error(&name))?;
        if header.place != place {
            return Err(corrupt("its header names another snapshot"));
        }
        if header.file_bytes() != Some(length) {
            return Err(corrupt("its length is not what its header says"));
        }
        let mut meta = vec![0; header.meta_bytes as usize];
        file.read_at(HEADER_BYTES as u64, &mut meta).map_err(failed)?;
        if crc32c::crc32c(&meta) != header.meta_checksum {
            return Err(corrupt("its meta part does not check"));
        }
        // The file is that long, so this much was stored; more than an address space is an error, not a panic.
        let body_bytes =
            usize::try_from(header.body_bytes).map_err(|_| corrupt("its body does not fit into memory"))?;
        let mut body = vec![0; body_bytes];
        let mut offset = (HEADER_BYTES + meta.len()) as u64;
        for (number, chunk) in body.chunks_mut(CHUNK_BYTES).enumerate() {
            let mut checksum = [0; 4];
            file.read_at(offset, &mut checksum).map_err(failed)?;
            file.read_at(offset + 4, chunk).map_err(failed)?;
            if chunk_checksum(number as u64, chunk) != u32::from_be_bytes(checksum) {
                return Err(corrupt(&format!("chunk {number}, at byte {offset}, does not check")));
            }
            offset += 4 + chunk.len() as u64;
        }
        Ok(Some(Snapshot { index: place.index, term: place.term, meta, body }))
    }

    /// What is stored, unchecked: index and term of each group's newest snapshot.
    pub fn newest_of_all(&self) -> Result<BTreeMap<GroupId, (Index, Term)>, WalError> {
        // In order, so that the newest of a group comes last.
        Ok(self.places()?.into_iter().map(|place| (place.group, (place.index, place.term))).collect())
    }

    fn newest(&self, group: GroupId) -> Result<Option<Place>, WalError> {
        Ok(self.places()?.into_iter().rfind(|place| place.group == group))
    }

    /// All snapshots, by group, index and term.
    fn places(&self) -> Result<Vec<Place>, WalError> {
        let mut places = Vec::new();
        for name in list(self.disk.as_ref())? {
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

fn list(disk: &dyn Disk) -> Result<Vec<String>, WalError> {
    disk.list().map_err(|source| io_error("listing", "the data directory", source))
}

/// Which snapshot a file is; the newer one of a group is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    group: GroupId,
    index: Index,
    term: Term,
}

impl Place {
    fn name(&self) -> String {
        format!("{PREFIX}{:08x}-{:016x}-{:016x}.snap", self.group.0, self.index.0, self.term.0)
    }

    fn parse(name: &str) -> Option<Place> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_suffix(".snap")?.split('-');
        let group = GroupId(u32::from_str_radix(parts.next()?, 16).ok()?);
        let index = Index(u64::from_str_radix(parts.next()?, 16).ok()?);
        let term = Term(u64::from_str_radix(parts.next()?, 16).ok()?);
        Some(Place { group, index, term }).filter(|place| place.name() == name)
    }
}

struct Header {
    place: Place,
    body_bytes: u64,
    meta_bytes: u32,
    meta_checksum: u32,
}

enum HeaderFault {
    Magic,
    Version(u32),
    Damaged,
}

impl HeaderFault {
    fn error(self, name: &str) -> WalError {
        let file = name.to_owned();
        match self {
            HeaderFault::Magic => WalError::Foreign { file, why: "it does not start as a snapshot does".into() },
            HeaderFault::Version(version) => WalError::UnknownVersion { file, version, known: VERSION },
            HeaderFault::Damaged => WalError::CorruptFile { file, what: "its header does not check".into() },
        }
    }
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
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

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, HeaderFault> {
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

    /// How long the file must be.
    fn file_bytes(&self) -> Option<u64> {
        let checksums = self.body_bytes.div_ceil(CHUNK_BYTES as u64).checked_mul(4)?;
        (HEADER_BYTES as u64 + u64::from(self.meta_bytes)).checked_add(self.body_bytes)?.checked_add(checksums)
    }
}

fn write(file: &mut dyn DiskFile, place: &Place, meta: &[u8], body: &[u8]) -> io::Result<()> {
    let header = Header {
        place: *place,
        body_bytes: body.len() as u64,
        meta_bytes: meta.len() as u32,
        meta_checksum: crc32c::crc32c(meta),
    };
    file.write_at(0, &[header.encode().as_slice(), meta].concat())?;
    let mut offset = (HEADER_BYTES + meta.len()) as u64;
    for (number, chunk) in body.chunks(CHUNK_BYTES).enumerate() {
        file.write_at(offset, &chunk_checksum(number as u64, chunk).to_be_bytes())?;
        file.write_at(offset + 4, chunk)?;
        offset += 4 + chunk.len() as u64;
    }
    Ok(())
}

fn chunk_checksum(number: u64, chunk: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_be_bytes()), chunk)
}

const PREFIX: &str = "snap-";
const MAGIC: [u8; 8] = *b"raftsnp\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const CHUNK_BYTES: usize = 256 << 10;
