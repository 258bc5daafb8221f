//! The bytes of a log segment, both ways; docs/log-format.md has the tables.

use bytes::{BufMut, Bytes};

use super::groups::HardState;
use crate::types::{GroupId, Index, NodeId, Term};

/// The version of the segment format that this code reads and writes.
pub const VERSION: u32 = 1;
/// The longest payload of an entry.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// The longest body of a round.
pub const ROUND_BYTES_MAX: usize = 256 << 20;

pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"raftwal\n";
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
pub(super) const FRAME_MAGIC: [u8; 4] = *b"RWfr";
pub(super) const FRAME_HEADER_BYTES: usize = 32;

/// The name of a segment's file.
pub(super) fn segment_name(sequence: u64) -> String {
    format!("wal-{sequence:016x}.log")
}

/// The sequence in a segment's name, if it is one.
pub(super) fn segment_sequence(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("wal-")?.strip_suffix(".log")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(sequence) == name && sequence > 0).then_some(sequence)
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub sequence: u64,
    pub salt: u64,
    pub previous_end: u64,
    pub first_round: u64,
    pub checkpoint_end: u64,
    /// Up to where bytes of a former life may stand; 0 in a segment that was made anew.
    pub stale_end: u64,
}

/// Why bytes are no segment header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Magic,
    Version(u32),
    Checksum,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_slice(&SEGMENT_MAGIC);
        rest.put_u32(VERSION);
        rest.put_u32(0);
        rest.put_u64(self.sequence);
        rest.put_u64(self.salt);
        rest.put_u64(self.previous_end);
        rest.put_u64(self.first_round);
        rest.put_u64(self.checkpoint_end);
        rest.put_u64(self.stale_end);
        let checksum = header_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<SegmentHeader, HeaderFault> {
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(HeaderFault::Magic);
        }
        let mut reader = Reader(&bytes[8..]);
        let (Some(version), Some(checksum)) = (reader.u32(), reader.u32()) else { return Err(HeaderFault::Checksum) };
        if checksum != header_checksum(bytes) {
            return Err(HeaderFault::Checksum);
        }
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        SegmentHeader::fields(&mut reader).ok_or(HeaderFault::Checksum)
    }

    fn fields(reader: &mut Reader<'_>) -> Option<SegmentHeader> {
        Some(SegmentHeader {
            sequence: reader.u64()?,
            salt: reader.u64()?,
            previous_end: reader.u64()?,
            first_round: reader.u64()?,
            checkpoint_end: reader.u64()?,
            stale_end: reader.u64()?,
        })
    }
}

/// The checksum of a 64-byte file header that keeps it at 12..16.
pub(super) fn header_checksum(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

/// A frame's header, without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub body_checksum: u32,
    pub body_bytes: u32,
    pub round: u64,
    pub durable: u32,
    pub records: u32,
}

impl FrameHeader {
    /// The header of the frame whose body is `body` and which starts at `offset`.
    pub fn encode(&self, salt: u64, offset: u64) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_slice(&FRAME_MAGIC);
        rest.put_u32(0);
        rest.put_u32(self.body_checksum);
        rest.put_u32(self.body_bytes);
        rest.put_u64(self.round);
        rest.put_u32(self.durable);
        rest.put_u32(self.records);
        let checksum = frame_checksum(salt, offset, &bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// The header that starts at `offset` of the segment, if one does.
    pub fn decode(segment: &[u8], offset: usize, salt: u64) -> Option<FrameHeader> {
        let bytes = segment.get(offset..)?.get(..FRAME_HEADER_BYTES)?;
        if bytes[..4] != FRAME_MAGIC {
            return None;
        }
        let mut reader = Reader(&bytes[4..]);
        let checksum = reader.u32()?;
        if checksum != frame_checksum(salt, offset as u64, &bytes[8..]) {
            return None;
        }
        let body_checksum = reader.u32()?;
        let body_bytes = reader.u32()?;
        Some(FrameHeader {
            body_checksum,
            body_bytes,
            round: reader.u64()?,
            durable: reader.u32()?,
            records: reader.u32()?,
        })
    }

    /// The body of this frame, which starts at `offset`, if all of it is there as written.
    pub fn body<'a>(&self, segment: &'a [u8], offset: usize) -> Option<&'a [u8]> {
        let body = segment.get(offset + FRAME_HEADER_BYTES..)?.get(..self.body_bytes as usize)?;
        (crc32c::crc32c(body) == self.body_checksum).then_some(body)
    }
}

pub(super) fn frame_checksum(salt: u64, offset: u64, fields: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&salt.to_be_bytes()), &offset.to_be_bytes());
    crc32c::crc32c_append(place, fields)
}

/// A record as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Entry { group: GroupId, index: Index, term: Term, data: &'a [u8] },
    HardState { group: GroupId, state: HardState },
    Snapshot { group: GroupId, index: Index, term: Term, log: Rest },
    Checkpoint { group: GroupId, state: HardState, snapshot: (Index, Term), last: Index },
}

/// What a snapshot marker does to the entries after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Kept,
    Dead,
}

impl Item<'_> {
    pub fn group(&self) -> GroupId {
        let (Item::Entry { group, .. }
        | Item::HardState { group, .. }
        | Item::Snapshot { group, .. }
        | Item::Checkpoint { group, .. }) = self;
        *group
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Item::Entry { group, index, term, data } => {
                head(out, KIND_ENTRY, *group);
                out.put_u64(index.0);
                out.put_u64(term.0);
                out.put_u32(data.len() as u32);
                out.put_slice(data);
            }
            Item::HardState { group, state } => {
                head(out, KIND_HARD_STATE, *group);
                put_state(out, state);
            }
            Item::Snapshot { group, index, term, log } => {
                head(out, if *log == Rest::Kept { KIND_SNAPSHOT_KEPT } else { KIND_SNAPSHOT_RESET }, *group);
                out.put_u64(index.0);
                out.put_u64(term.0);
            }
            Item::Checkpoint { group, state, snapshot, last } => {
                head(out, KIND_CHECKPOINT, *group);
                put_state(out, state);
                out.put_u64(snapshot.0.0);
                out.put_u64(snapshot.1.0);
                out.put_u64(last.0);
            }
        }
    }

    /// The next record of a body; `None` where it is not one.
    pub fn decode<'a>(body: &mut &'a [u8]) -> Option<Item<'a>> {
        let mut reader = Reader(body);
        let kind = reader.u8()?;
        let group = GroupId(reader.u32()?);
        let item = match kind {
            KIND_ENTRY => {
                let (index, term) = reader.position()?;
                let length = reader.u32()? as usize;
                Item::Entry { group, index, term, data: reader.bytes(length)? }
            }
            KIND_HARD_STATE => Item::HardState { group, state: reader.state()? },
            KIND_SNAPSHOT_KEPT | KIND_SNAPSHOT_RESET => {
                let (index, term) = reader.position()?;
                let log = if kind == KIND_SNAPSHOT_KEPT { Rest::Kept } else { Rest::Dead };
                Item::Snapshot { group, index, term, log }
            }
            KIND_CHECKPOINT => {
                let state = reader.state()?;
                Item::Checkpoint { group, state, snapshot: reader.position()?, last: Index(reader.u64()?) }
            }
            _ => return None,
        };
        *body = reader.0;
        Some(item)
    }
}

/// How many bytes of a body an entry with this payload takes.
pub(super) fn entry_bytes(data: &Bytes) -> usize {
    ENTRY_HEAD_BYTES + data.len()
}

/// What an entry's record has before its payload.
pub(super) const ENTRY_HEAD_BYTES: usize = 25;

pub(super) const HARD_STATE_BYTES: usize = 29;
pub(super) const SNAPSHOT_BYTES: usize = 21;

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_SNAPSHOT_KEPT: u8 = 3;
const KIND_SNAPSHOT_RESET: u8 = 4;
const KIND_CHECKPOINT: u8 = 5;

fn head(out: &mut Vec<u8>, kind: u8, group: GroupId) {
    out.put_u8(kind);
    out.put_u32(group.0);
}

fn put_state(out: &mut Vec<u8>, state: &HardState) {
    out.put_u64(state.term.0);
    out.put_u64(state.vote.map_or(0, |node| node.0));
    out.put_u64(state.commit.0);
}

/// Takes numbers off the front of bytes that nobody has checked.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn position(&mut self) -> Option<(Index, Term)> {
        Some((Index(self.u64()?), Term(self.u64()?)))
    }

    fn state(&mut self) -> Option<HardState> {
        let term = Term(self.u64()?);
        let vote = Some(NodeId(self.u64()?)).filter(|node| node.0 != 0);
        Some(HardState { term, vote, commit: Index(self.u64()?) })
    }
}
