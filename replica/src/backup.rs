//! Backups: the tables of all groups as one stream, and data directories made of them.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `rocibak\n` |
//! | 4 | format version, 1 |
//! | 4 | length of the head, at most 1 MiB |
//! | 4 | CRC-32C of the head |
//! | length | the head: a protobuf message, [`Head`] |
//! | then each group, in order: | |
//! | 4, 4, length | a piece of its snapshot (`flow::snapshot`): length (1 to 262 144), CRC-32C, bytes; again and again |
//! | 4 | 0: the group ends |
//!
//! Numbers are big-endian. Each group is as it was at one moment; the moments of two groups may lie milliseconds apart, as
//! they may on an instance that just starts.

use std::{
    collections::BTreeMap,
    hash::Hasher,
    io::{self, Read, Write},
    sync::Arc,
};

use flow::{
    FleetId, Incarnation, LogTime, Revision,
    flows::{Expiry, FlowLimits, FlowTable},
};
use prost::Message;
use raftlog::{
    GroupId, Index, NodeId, Record, Term,
    disk::Disk,
    driver::Members,
    types::State,
    wal::{SnapshotStore, Wal, WalError, WalOptions, log_exists, save_small},
};

use crate::{
    birth::{Founding, Identity},
    storage::{LOG_BEGUN, load_identity, save_identity, store_snapshot},
    tables::{ControlState, FlowState, GroupState, PinState},
};

/// What a backup says of itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Head {
    /// The fleet's name.
    #[prost(string, tag = "1")]
    pub fleet_name: String,
    /// The fleet's identity, 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub fleet: Vec<u8>,
    /// How many groups follow, group 0 included.
    #[prost(uint32, tag = "3")]
    pub groups: u32,
    /// The instance that it was taken of.
    #[prost(string, tag = "4")]
    pub instance: String,
    /// When, in seconds since 1970 by that instance's clock.
    #[prost(uint64, tag = "5")]
    pub taken_at: u64,
}

/// A backup that was read.
#[derive(Debug)]
pub struct Backup {
    /// What it says of itself.
    pub head: Head,
    /// All groups.
    pub states: BTreeMap<GroupId, GroupState>,
}

/// Why a backup cannot be read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is something else, or damaged.
    #[error("{0}")]
    Unusable(String),
    /// The directory has something already.
    #[error("the data directory is not empty: it holds the data of instance {0}. Restore into an empty one")]
    NotEmpty(String),
    /// The configuration does not fit.
    #[error("{0}")]
    Founding(String),
    /// The directory cannot be written.
    #[error(transparent)]
    Storage(#[from] WalError),
}

impl Head {
    /// The fleet's identity.
    #[must_use]
    pub fn fleet_id(&self) -> Option<FleetId> {
        self.fleet.as_slice().try_into().ok().map(|bytes| FleetId(u128::from_be_bytes(bytes)))
    }
}

/// Writes a backup of `states`, group 0 first.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut dyn Write, head: &Head, states: &[Arc<dyn State>]) -> io::Result<()> {
    let encoded = head.encode_to_vec();
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_be_bytes())?;
    out.write_all(&(encoded.len() as u32).to_be_bytes())?;
    out.write_all(&crc32c::crc32c(&encoded).to_be_bytes())?;
    out.write_all(&encoded)?;
    for state in states {
        let mut pieces = Pieces { out, piece: Vec::with_capacity(PIECE_BYTES) };
        state.write_to(&mut pieces)?;
        pieces.end()?;
    }
    out.flush()
}

/// Reads a backup to its end and checks all of it.
///
/// # Errors
/// If it is none, of another version, or damaged; says where.
pub fn read(input: &mut dyn Read) -> Result<Backup, BackupError> {
    let mut start = [0; 20];
    input.read_exact(&mut start).map_err(|error| unusable(&format!("it is no backup: {error}")))?;
    let number = |at: usize| start[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    if start[..8] != *MAGIC {
        return Err(unusable("it is no backup of a fleet"));
    }
    if number(8) != VERSION {
        return Err(unusable(&format!("it is a backup of format {}, and this version reads {VERSION}", number(8))));
    }
    let length = number(12) as usize;
    if length > HEAD_BYTES_MAX {
        return Err(unusable("its head is too long"));
    }
    let mut encoded = vec![0; length];
    input.read_exact(&mut encoded)?;
    if crc32c::crc32c(&encoded) != number(16) {
        return Err(unusable("its head is damaged"));
    }
    let head = Head::decode(encoded.as_slice()).map_err(|error| unusable(&format!("its head: {error}")))?;
    if head.groups == 0 || head.groups > GROUPS_MAX {
        return Err(unusable(&format!("it says that it has {} groups", head.groups)));
    }
    let mut states = BTreeMap::new();
    for group in (0..head.groups).map(GroupId) {
        let mut pieces = PieceReader { input, piece: Vec::new(), given: 0, ended: false };
        let state = GroupState::read_from(&mut pieces);
        let state = state.map_err(|error| unusable(&format!("group {group}: {error}")))?;
        io::copy(&mut pieces, &mut io::sink()).map_err(|error| unusable(&format!("group {group}: {error}")))?;
        if matches!(state, GroupState::Control(_)) != (group.0 == 0) || matches!(state, GroupState::Flows(_)) {
            return Err(unusable(&format!("group {group}: it is the state of another kind of group")));
        }
        states.insert(group, state);
    }
    let newest = states.values().filter_map(|state| match state {
        GroupState::Pins(state) => Some(state.0.epoch()),
        GroupState::Control(_) | GroupState::Flows(_) => None,
    });
    if let Some(GroupState::Control(table)) = states.get(&GroupId(0))
        && newest.max().is_some_and(|epoch| epoch > table.epoch())
    {
        return Err(unusable("a group of pins in it is ahead of group 0"));
    }
    if input.read(&mut [0])? != 0 {
        return Err(unusable("it goes on after its last group"));
    }
    Ok(Backup { head, states })
}

/// Makes an empty directory that of instance `label` of a new fleet, which begins with all that the backup has. All
/// instances of the configuration are restored from the same backup; they are a fleet of their own, with an identity of
/// its own, so that none of the old one's can mix with it.
///
/// # Errors
/// If the directory is not empty, the configuration does not fit, or something cannot be written.
pub fn restore(
    disk: &Arc<dyn Disk>,
    founding: &Founding,
    label: &str,
    incarnation: Incarnation,
    backup: Backup,
) -> Result<Identity, BackupError> {
    if let Some(old) = load_identity(disk.as_ref())? {
        return Err(BackupError::NotEmpty(old.label));
    }
    if log_exists(disk.as_ref())? {
        return Err(BackupError::NotEmpty("nobody knows whose".to_owned()));
    }
    let snapshots = SnapshotStore::open(Arc::clone(disk))?;
    if !snapshots.newest_of_all()?.is_empty() {
        return Err(BackupError::NotEmpty("nobody knows whose".to_owned()));
    }
    let Some(id) = founding.id_of(label) else {
        return Err(BackupError::Founding(format!("the configuration has no instance {label}")));
    };
    let pin_groups = backup.head.groups - 1;
    // What sniffers saw then is over: those groups begin with nothing.
    let mut states = backup.states;
    for group in 0..founding.flow_groups {
        let nothing = (FlowTable::new(FlowLimits::default()), Expiry::new());
        states.insert(GroupId(1 + pin_groups + group), GroupState::Flows(Box::new(nothing)));
    }
    // Flow groups begin where group 0 does: they may have been as far in a fleet that was restored itself.
    let control = states.get(&GroupId(0)).map_or(Revision(0), GroupState::applied);
    let begin = |(group, state): (&GroupId, &GroupState)| match state {
        GroupState::Flows(_) => ahead(*group, control),
        GroupState::Control(_) | GroupState::Pins(_) => ahead(*group, state.applied()),
    };
    let begins: Vec<Revision> = states.iter().map(begin).collect::<Result<_, _>>()?;
    let founders = founding.founders();
    let fleet = successor(&backup.head, founding);
    let voters: Vec<NodeId> = founders.iter().map(|(id, _)| NodeId(id.0)).collect();
    let mut records = Vec::new();
    for ((group, mut state), begin) in states.into_iter().zip(begins) {
        if let GroupState::Control(table) = &mut state {
            table.become_fleet(fleet, &founders);
        }
        state.skip_to(begin);
        let (index, term) = (Index(begin.0), RESTORED_TERM);
        let meta = Members::founders_at(&voters, state.time().0);
        store_snapshot(&snapshots, (group, index, term), &meta, state.view().as_ref())?;
        records.push(Record::Snapshot { group, index, term });
    }
    let (mut wal, _) = Wal::open(Arc::clone(disk), WalOptions::default())?;
    wal.append(&records, true)?;
    wal.seal()?;
    save_small(disk.as_ref(), LOG_BEGUN, &[])?;
    let identity = Identity {
        fleet_name: founding.fleet_name.clone(),
        label: label.to_owned(),
        incarnation,
        id: Some(id),
        fleet: Some(fleet),
        pin_groups,
        flow_groups: founding.flow_groups,
        // Its log does not begin where a founder's does.
        founders: Vec::new(),
        restored: true,
    };
    // Last: a directory without it is not begun with.
    save_identity(disk.as_ref(), &identity)?;
    Ok(identity)
}

/// Where the log of a restored group begins: revisions and sessions' ids are indexes, and the old fleet may have used
/// many more of them after the backup was taken. None may come to mean something else.
fn ahead(group: GroupId, applied: Revision) -> Result<Revision, BackupError> {
    let index = applied.0.checked_add(RESTORED_AHEAD).filter(|index| *index <= RESTORED_INDEX_MAX);
    index.map(Revision).ok_or_else(|| {
        let text = "and an index of the log is below 2^63: it cannot be restored once more";
        unusable(&format!("group {group} in it is at index {applied}, {text}"))
    })
}

/// The identity of the fleet that a backup is restored to: the same for all its instances.
fn successor(head: &Head, founding: &Founding) -> FleetId {
    let half = |salt: u8| {
        let mut hasher = siphasher::sip::SipHasher24::new_with_key(b"rocinante-restor");
        hasher.write_u8(salt);
        hasher.write(&head.encode_to_vec());
        hasher.write_u64(founding.hash());
        u128::from(hasher.finish())
    };
    FleetId(half(0) << 64 | half(1))
}

impl GroupState {
    /// Log time as of its last entry.
    #[must_use]
    pub fn time(&self) -> LogTime {
        match self {
            Self::Control(table) => table.time(),
            Self::Pins(state) => state.0.time(),
            Self::Flows(state) => state.0.time(),
        }
    }

    /// As if entries without a command had come up to that index.
    fn skip_to(&mut self, index: Revision) {
        let time = self.time();
        match self {
            Self::Control(table) => table.skip(index, time),
            Self::Pins(state) => {
                let (pins, expiry) = state.as_mut();
                pins.skip(index, time, expiry);
            }
            Self::Flows(state) => {
                let (flows, expiry) = state.as_mut();
                flows.skip(index, time, expiry);
            }
        }
    }

    fn view(self) -> Box<dyn State> {
        match self {
            Self::Control(table) => Box::new(ControlState(*table)),
            Self::Pins(state) => Box::new(PinState(state.0)),
            Self::Flows(state) => Box::new(FlowState(state.0)),
        }
    }
}

/// Cuts a group's bytes into checked pieces.
struct Pieces<'a> {
    out: &'a mut dyn Write,
    piece: Vec<u8>,
}

impl Pieces<'_> {
    fn send(&mut self) -> io::Result<()> {
        if !self.piece.is_empty() {
            self.out.write_all(&(self.piece.len() as u32).to_be_bytes())?;
            self.out.write_all(&crc32c::crc32c(&self.piece).to_be_bytes())?;
            self.out.write_all(&self.piece)?;
            self.piece.clear();
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        self.send()?;
        self.out.write_all(&[0; 4])
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the pieces of one group.
struct PieceReader<'a> {
    input: &'a mut dyn Read,
    piece: Vec<u8>,
    given: usize,
    ended: bool,
}

impl PieceReader<'_> {
    fn next(&mut self) -> io::Result<()> {
        let mut number = [0; 4];
        self.input.read_exact(&mut number)?;
        let length = u32::from_be_bytes(number) as usize;
        self.given = 0;
        self.piece.clear();
        if length == 0 {
            self.ended = true;
            return Ok(());
        }
        if length > PIECE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a piece of {length} bytes")));
        }
        self.input.read_exact(&mut number)?;
        self.piece.resize(length, 0);
        self.input.read_exact(&mut self.piece)?;
        if crc32c::crc32c(&self.piece) != u32::from_be_bytes(number) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged piece"));
        }
        Ok(())
    }
}

impl Read for PieceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.piece.len() && !self.ended {
            self.next()?;
        }
        let ready = &self.piece[self.given..];
        let taken = ready.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&ready[..taken]);
        self.given += taken;
        Ok(taken)
    }
}

fn unusable(text: &str) -> BackupError {
    BackupError::Unusable(text.to_owned())
}

const MAGIC: &[u8; 8] = b"rocibak\n";
const VERSION: u32 = 1;

/// The term of a restored fleet's first state.
const RESTORED_TERM: Term = Term(1);

/// So many indexes lie between a backup and the first one of the fleet that is restored from it: more than the old fleet
/// can have used since, and so few that a fleet can be restored from a restored one millions of times.
const RESTORED_AHEAD: u64 = 1 << 40;

/// The highest index that a restored fleet begins at: half of those there are.
const RESTORED_INDEX_MAX: u64 = 1 << 62;

/// Most bytes of a piece.
const PIECE_BYTES: usize = 256 << 10;

/// Most bytes of the head.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Most groups of a backup.
const GROUPS_MAX: u32 = 65_536;

#[cfg(test)]
mod tests;
