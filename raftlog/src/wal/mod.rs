//! The write-ahead log of all groups, and the other files of a data directory; docs/log-format.md has the bytes.
//!
//! ```text
//! append(round) -> room for it? -> one write -> one sync -> acknowledged
//!                  no: next segment, headed by a checkpoint of all groups
//! ```

mod error;
mod format;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod groups;
mod positions;
mod read;
mod recover;
mod small;
mod snapshots;
mod spares;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use format::Rest;
use format::{FRAME_HEADER_BYTES, Item};
use groups::GroupLog;
use positions::{Position, Positions};
use spares::Spare;
use tail::{Failure, Head, Tail, fill_header};

use crate::disk::{Disk, DiskFile, is_full, is_starved};
use crate::types::{GroupId, Index, NodeId, Record};

pub use error::{Damage, WalError};
pub use format::{PAYLOAD_BYTES_MAX, ROUND_BYTES_MAX, VERSION};
pub use groups::HardState;
pub use recover::{Cut, Recovered, RecoveredGroup};
pub use small::{SMALL_BYTES_MAX, load_small, save_small};
#[cfg(test)]
use snapshots::Snapshot;
pub use snapshots::{
    META_BYTES_MAX, RawSnapshot, Received, Receiving, SNAPSHOT_BYTES_MAX, SnapshotReader, SnapshotStore, SnapshotWriter,
};
pub use spares::SPARE_SEGMENTS_MAX;

/// How many groups a log can have.
pub const GROUPS_MAX: usize = 65_536;
/// The bounds of [`WalOptions::segment_bytes`].
pub const SEGMENT_BYTES_RANGE: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 30;

/// The choices of who opens a log. Any of them may change from one start to the next.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// When to start the next segment.
    pub segment_bytes: u64,
    /// How far to fill a segment with zeros ahead of the writes.
    pub prefill_bytes: u64,
    /// Anything that clients cannot guess; keeps payloads from passing for frames.
    pub salt: u64,
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions { segment_bytes: 64 << 20, prefill_bytes: 4 << 20, salt: 0 }
    }
}

/// Whether a disk has anything of a log.
///
/// # Errors
/// If its files cannot be listed.
pub fn log_exists(disk: &dyn Disk) -> Result<bool, WalError> {
    let names = disk.list().map_err(|source| open_error("listing", "the data directory", source))?;
    Ok(names.iter().any(|name| format::segment_sequence(name).is_some()))
}

/// What the log takes on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Segments that are there.
    pub segments: usize,
    /// Released segments that wait to be used again.
    pub spare_segments: usize,
    /// Bytes written in them, without what is only zero-filled.
    pub written_bytes: u64,
    /// About how many of those are payloads that no snapshot covers.
    pub live_bytes: u64,
}

/// The log. One owner, one thread; every call returns when it is done.
///
/// Invariants: `logs` is what replaying the segments gives; frames up to `tail.end` are written, up to `tail.durable`
/// synced; segments before the tail are synced whole; once poisoned, nothing is written.
pub struct Wal {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    logs: BTreeMap<GroupId, GroupLog>,
    /// Where the live entries of `logs` lie.
    positions: BTreeMap<GroupId, Positions>,
    /// Oldest first, the tail last; never empty, sequences without a gap.
    segments: VecDeque<Segment>,
    spares: Vec<Spare>,
    tail: Tail,
    next_round: u64,
    poison: Option<Poison>,
    /// The frame being written; kept for its memory.
    frame: Vec<u8>,
    /// What the round being written does to `positions`; kept for its memory.
    moves: Vec<(GroupId, Move)>,
    /// The segment that was read last, other than the tail.
    reading: Option<(u64, Box<dyn DiskFile>)>,
}

/// What a record does to a group's positions.
enum Move {
    Entry(Index, Position),
    Snapshot(Index, Rest),
}

#[derive(Clone, Copy)]
struct Segment {
    sequence: u64,
    /// Where its frames end.
    written: u64,
    /// How long the file is; of the tail only at the end of its time.
    length: u64,
}

#[derive(Clone)]
struct Poison {
    file: String,
    action: &'static str,
    reason: String,
}

impl Wal {
    /// Opens the log of a disk and reads it back; makes an empty one where there is none.
    pub fn open(disk: Arc<dyn Disk>, options: WalOptions) -> Result<(Wal, Recovered), WalError> {
        if !SEGMENT_BYTES_RANGE.contains(&options.segment_bytes) || options.prefill_bytes > *SEGMENT_BYTES_RANGE.end() {
            let text = format!("segments of {} bytes, filled by {}", options.segment_bytes, options.prefill_bytes);
            return Err(WalError::Refused(text));
        }
        let recover::Recovery { recovered, logs, positions, segments, tail } = recover::recover(disk.as_ref())?;
        let mut segments = segments;
        let (tail, next_round) = match tail {
            Some(found) => {
                let next_round = found.next_round;
                (Tail::reopen(disk.as_ref(), found)?, next_round)
            }
            None => {
                let head = Head { sequence: 1, previous_end: 0, first_round: 1, logs: &logs };
                let tail = Tail::create(disk.as_ref(), &options, &head, 0).map_err(|failure| match failure {
                    Failure::Passing(error) => error,
                    Failure::Broken(file, action, source) => WalError::Io { file, action, source },
                })?;
                segments.push_back(Segment { sequence: 1, written: tail.end, length: tail.prefilled });
                (tail, 2)
            }
        };
        let spares = spares::adopt(disk.as_ref(), options.segment_bytes)?;
        let wal = Wal {
            disk,
            options,
            logs,
            positions,
            segments,
            spares,
            tail,
            next_round,
            poison: None,
            frame: Vec::new(),
            moves: Vec::new(),
            reading: None,
        };
        Ok((wal, recovered))
    }

    /// Appends a round: all of it or, after an error, nothing that may be acknowledged. With `sync` it and all rounds
    /// before it are durable on return; without, they are after the next call that syncs. An empty round only syncs.
    pub fn append(&mut self, round: &[Record], sync: bool) -> Result<(), WalError> {
        self.check_usable()?;
        if !round.is_empty() {
            let body_bytes = check_round(round)?;
            self.make_room_or_more((FRAME_HEADER_BYTES + body_bytes) as u64)?;
            let staged = self.encode(round)?;
            debug_assert_eq!(self.frame.len(), FRAME_HEADER_BYTES + body_bytes);
            self.write_frame_or_more(round.len() as u32)?;
            self.logs.extend(staged);
            self.move_positions();
        }
        if sync { self.sync() } else { Ok(()) }
    }

    /// Proves that all rounds so far were durable, so that later damage to the last one is found too. Costs a small
    /// round; for a clean stop and for idle moments.
    pub fn seal(&mut self) -> Result<(), WalError> {
        self.check_usable()?;
        self.sync()?;
        if self.tail.claimed < self.tail.end {
            self.make_room(FRAME_HEADER_BYTES as u64)?;
            self.frame.clear();
            self.frame.resize(FRAME_HEADER_BYTES, 0);
            self.write_frame(0)?;
            self.sync()?;
            // The seal itself holds nothing that would need a proof.
            self.tail.claimed = self.tail.end;
        }
        Ok(())
    }

    /// Zero-fills the next step while nobody waits, where the last one is half used up.
    pub fn prefill(&mut self) -> Result<(), WalError> {
        self.check_usable()?;
        let ahead = self.tail.prefilled.saturating_sub(self.tail.end);
        if ahead < self.options.prefill_bytes / 2 && self.tail.prefilled < self.options.segment_bytes {
            let target = (self.tail.prefilled + self.options.prefill_bytes).min(self.options.segment_bytes);
            self.fill_to(target)?;
            self.sync_file()?;
        }
        Ok(())
    }

    /// Takes the oldest segments out of the log as far as no group has a live entry in them, and the disk has room for
    /// that; says how many. At most [`SPARE_SEGMENTS_MAX`] of them are kept to be used again.
    pub fn release(&mut self) -> Result<usize, WalError> {
        self.check_usable()?;
        let oldest_live = self.logs.values().filter_map(|log| Some(log.oldest()?.0)).min();
        let needed = oldest_live.unwrap_or(self.tail.sequence);
        debug_assert!(needed <= self.tail.sequence);
        let mut released = 0;
        while let Some(oldest) = self.segments.front().copied().filter(|segment| segment.sequence < needed) {
            // What made its entries dead must be durable first.
            self.sync()?;
            self.reading = None;
            let has_use = spares::is_of_use(oldest.length, self.options.segment_bytes);
            let keep = has_use && self.spares.len() < SPARE_SEGMENTS_MAX;
            let retired = match spares::retire(self.disk.as_ref(), oldest.sequence, oldest.length, keep) {
                Ok(retired) => retired,
                // File systems that never overwrite in place need room for this too. It stays, and goes another time.
                Err(WalError::NoSpace { .. }) => break,
                Err(error) => return Err(error),
            };
            self.segments.pop_front();
            // One by one: were two removals to survive in the other order, the log would have a hole.
            if let Err(error) = self.disk.sync_dir() {
                return Err(self.poisoned("the data directory".to_owned(), "syncing", &error));
            }
            self.spares.extend(retired);
            released += 1;
        }
        Ok(released)
    }

    /// The groups that keep the oldest segment, each with the index through which a snapshot would let go of it.
    /// Empty where there is only one segment, or where [`Wal::release`] can remove the oldest.
    pub fn oldest_groups(&self) -> BTreeMap<GroupId, Index> {
        let Some(front) = self.segments.front().filter(|front| front.sequence < self.tail.sequence) else {
            return BTreeMap::new();
        };
        let held = |log: &GroupLog| log.oldest().filter(|(segment, _)| *segment == front.sequence);
        self.logs.iter().filter_map(|(group, log)| Some((*group, held(log)?.1))).collect()
    }

    /// What the log takes on the disk; walks all groups.
    pub fn usage(&self) -> Usage {
        Usage {
            segments: self.segments.len(),
            spare_segments: self.spares.len(),
            written_bytes: self.segments.iter().map(|segment| segment.written).sum(),
            live_bytes: self.logs.values().map(GroupLog::live_bytes).sum(),
        }
    }

    fn sync(&mut self) -> Result<(), WalError> {
        if self.tail.durable < self.tail.end { self.sync_file() } else { Ok(()) }
    }

    fn sync_file(&mut self) -> Result<(), WalError> {
        match self.tail.file.sync_data() {
            Ok(()) => self.tail.durable = self.tail.end,
            Err(error) => return Err(self.poisoned(self.tail.name.clone(), "syncing", &error)),
        }
        Ok(())
    }

    /// The same as `make_room`; on a full disk at the price of the spares.
    fn make_room_or_more(&mut self, frame_bytes: u64) -> Result<(), WalError> {
        match self.make_room(frame_bytes) {
            Err(WalError::NoSpace { .. }) if self.give_up_spares()? => self.make_room(frame_bytes),
            made => made,
        }
    }

    /// The same as `write_frame`; on a full disk at the price of the spares.
    fn write_frame_or_more(&mut self, records: u32) -> Result<(), WalError> {
        match self.write_frame(records) {
            Err(WalError::NoSpace { .. }) if self.give_up_spares()? => self.write_frame(records),
            written => written,
        }
    }

    /// Removes the spares; whether any space came of it.
    fn give_up_spares(&mut self) -> Result<bool, WalError> {
        let removed = self.spares.drain(..).filter(|spare| self.disk.remove(&spare.name).is_ok()).count();
        if removed == 0 {
            return Ok(false);
        }
        // File systems that never overwrite in place give the space back only now.
        match self.disk.sync_dir() {
            Ok(()) => Ok(true),
            // A spare may come back at the next start: nothing rests on its end.
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(self.poisoned("the data directory".to_owned(), "syncing", &error)),
        }
    }

    /// Makes sure that a frame of this length can be written at the tail's end without new space.
    fn make_room(&mut self, frame_bytes: u64) -> Result<(), WalError> {
        let is_empty = self.tail.end == self.tail.checkpoint_end;
        if self.tail.end + frame_bytes > self.options.segment_bytes && !is_empty {
            self.next_segment(frame_bytes)?;
        }
        let needed = self.tail.end + frame_bytes;
        if needed <= self.tail.prefilled {
            return Ok(());
        }
        let step = (self.tail.prefilled + self.options.prefill_bytes).min(self.options.segment_bytes).max(needed);
        match self.fill_to(step) {
            // Less is enough for now.
            Err(WalError::NoSpace { .. }) => self.fill_to(needed),
            other => other,
        }
    }

    fn fill_to(&mut self, target: u64) -> Result<(), WalError> {
        let tail = &mut self.tail;
        match tail.file.write_zeros(tail.prefilled, target.saturating_sub(tail.prefilled)) {
            Ok(()) => tail.prefilled = target,
            Err(error) if is_full(&error) => return Err(WalError::NoSpace { file: tail.name.clone() }),
            Err(error) => return Err(self.poisoned(self.tail.name.clone(), "filling", &error)),
        }
        Ok(())
    }

    fn next_segment(&mut self, frame_bytes: u64) -> Result<(), WalError> {
        // The next header says where this segment ends, so that must be durable before.
        self.sync()?;
        let head = Head {
            sequence: self.tail.sequence + 1,
            previous_end: self.tail.end,
            first_round: self.next_round,
            logs: &self.logs,
        };
        let (disk, options) = (self.disk.as_ref(), &self.options);
        let made = match self.spares.last() {
            Some(spare) => match Tail::reuse(disk, options, &head, frame_bytes, spare) {
                // Whoever needs the space may remove a spare.
                Err(failure) if failure.is_missing() => Tail::create(disk, options, &head, frame_bytes),
                made => made,
            },
            None => Tail::create(disk, options, &head, frame_bytes),
        };
        match made {
            Ok(tail) => {
                self.spares.pop();
                if let Some(done) = self.segments.back_mut() {
                    done.length = self.tail.prefilled;
                }
                let length = tail.prefilled;
                self.segments.push_back(Segment { sequence: tail.sequence, written: tail.end, length });
                self.tail = tail;
                self.next_round += 1;
                Ok(())
            }
            Err(Failure::Passing(error)) => Err(error),
            Err(Failure::Broken(file, action, error)) => Err(self.poisoned(file, action, &error)),
        }
    }

    /// Puts the round into `frame`; returns the groups as they are after it.
    fn encode(&mut self, round: &[Record]) -> Result<BTreeMap<GroupId, GroupLog>, WalError> {
        self.frame.clear();
        self.frame.resize(FRAME_HEADER_BYTES, 0);
        self.moves.clear();
        let mut staged: BTreeMap<GroupId, GroupLog> = BTreeMap::new();
        for record in round {
            let (Record::Entry { group, .. } | Record::HardState { group, .. } | Record::Snapshot { group, .. }) =
                record;
            let group = *group;
            let log = staged.entry(group).or_insert_with(|| self.logs.get(&group).cloned().unwrap_or_default());
            let refused = |what| WalError::Refused(format!("group {group}: {what}"));
            match record {
                Record::Entry { index, term, data, .. } => {
                    log.entry(*index, *term, data.len() as u64, self.tail.sequence).map_err(refused)?;
                    let position = Position::new(self.tail.end + self.frame.len() as u64, data);
                    self.moves.push((group, Move::Entry(*index, position)));
                    Item::Entry { group, index: *index, term: *term, data }.encode(&mut self.frame);
                }
                Record::HardState { term, vote, commit, .. } => {
                    log.hard = HardState { term: *term, vote: *vote, commit: *commit };
                    Item::HardState { group, state: log.hard }.encode(&mut self.frame);
                }
                Record::Snapshot { index, term, .. } => {
                    let rest = log.judge_snapshot(*index, *term).map_err(refused)?;
                    log.snapshot(*index, *term, rest).map_err(refused)?;
                    self.moves.push((group, Move::Snapshot(*index, rest)));
                    Item::Snapshot { group, index: *index, term: *term, log: rest }.encode(&mut self.frame);
                }
            }
        }
        let added = staged.keys().filter(|group| !self.logs.contains_key(group)).count();
        if self.logs.len() + added > GROUPS_MAX {
            return Err(WalError::Refused(format!("more than {GROUPS_MAX} groups")));
        }
        staged.values_mut().for_each(GroupLog::settle);
        Ok(staged)
    }

    /// Takes the round that was written over into the positions.
    fn move_positions(&mut self) {
        for (group, act) in self.moves.drain(..) {
            let places = self.positions.entry(group).or_default();
            match act {
                Move::Entry(index, position) => places.put(index.0, position),
                Move::Snapshot(index, Rest::Kept) => places.drop_through(index.0),
                Move::Snapshot(_, Rest::Dead) => places.clear(),
            }
        }
        self.moves.shrink_to(MOVES_KEPT);
    }

    /// Writes `frame` at the end, its header filled in.
    fn write_frame(&mut self, records: u32) -> Result<(), WalError> {
        let tail = &mut self.tail;
        fill_header(&mut self.frame, tail.salt, tail.end, self.next_round, tail.durable, records);
        match tail.file.write_at(tail.end, &self.frame) {
            Ok(()) => {}
            // File systems that never overwrite in place can still run out; what was written is overwritten or cut.
            Err(error) if is_full(&error) => return Err(WalError::NoSpace { file: tail.name.clone() }),
            Err(error) => return Err(self.poisoned(self.tail.name.clone(), "writing", &error)),
        }
        tail.end += self.frame.len() as u64;
        tail.claimed = tail.durable;
        self.next_round += 1;
        if let Some(segment) = self.segments.back_mut() {
            segment.written = tail.end;
        }
        if self.frame.capacity() > FRAME_BYTES_KEPT {
            self.frame = Vec::new();
        }
        Ok(())
    }

    fn poisoned(&mut self, file: String, action: &'static str, error: &io::Error) -> WalError {
        self.poison.get_or_insert(Poison { file, action, reason: error.to_string() }).error()
    }

    fn check_usable(&self) -> Result<(), WalError> {
        self.poison.as_ref().map_or(Ok(()), |poison| Err(poison.error()))
    }
}

impl Poison {
    fn error(&self) -> WalError {
        WalError::Poisoned { file: self.file.clone(), action: self.action, reason: self.reason.clone() }
    }
}

/// Refuses a round beyond the limits; the length of its body otherwise.
fn check_round(round: &[Record]) -> Result<usize, WalError> {
    let mut bytes = 0;
    for record in round {
        bytes += match record {
            Record::Entry { group, index, data, .. } if data.len() > PAYLOAD_BYTES_MAX => {
                let text =
                    format!("group {group}: entry {index} has {} bytes, the limit is {PAYLOAD_BYTES_MAX}", data.len());
                return Err(WalError::Refused(text));
            }
            Record::Entry { data, .. } => format::entry_bytes(data),
            Record::HardState { group, vote: Some(NodeId(0)), .. } => {
                return Err(WalError::Refused(format!("group {group}: a vote for node 0")));
            }
            Record::HardState { .. } => format::HARD_STATE_BYTES,
            Record::Snapshot { .. } => format::SNAPSHOT_BYTES,
        };
    }
    if bytes > ROUND_BYTES_MAX {
        return Err(WalError::Refused(format!("a round of {bytes} bytes, the limit is {ROUND_BYTES_MAX}")));
    }
    Ok(bytes)
}

fn io_error(action: &'static str, file: &str, source: io::Error) -> WalError {
    WalError::Io { file: file.to_owned(), action, source }
}

fn write_error(action: &'static str, file: &str, source: io::Error) -> WalError {
    match is_full(&source) {
        true => WalError::NoSpace { file: file.to_owned() },
        false => io_error(action, file, source),
    }
}

/// Why files could not be opened, made or listed.
fn open_error(action: &'static str, file: &str, source: io::Error) -> WalError {
    match is_starved(&source) {
        true => WalError::Starved { file: file.to_owned(), action, source },
        false => io_error(action, file, source),
    }
}

/// The longest segment file: the largest nominal size, a checkpoint of all groups, and a round that alone is longer.
const SEGMENT_FILE_BYTES_MAX: u64 = *SEGMENT_BYTES_RANGE.end() + ROUND_BYTES_MAX as u64 + (8 << 20);

/// How much memory for frames stays allocated.
const FRAME_BYTES_KEPT: usize = 8 << 20;

/// Room for how many records' moves stays allocated.
const MOVES_KEPT: usize = 16 << 10;
