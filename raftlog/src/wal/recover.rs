//! Reads the segments back: what the groups hold, where the log ends, and whether what is missing may be missing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::error::{Damage, WalError};
use super::format::{
    FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, HeaderFault, Item, Rest, SEGMENT_HEADER_BYTES, SegmentHeader,
    VERSION, segment_name, segment_sequence,
};
use super::groups::{GroupLog, HardState, NUMBER_MAX};
use super::positions::{Position, Positions};
use super::{GROUPS_MAX, SEGMENT_FILE_BYTES_MAX, io_error};
use crate::disk::{Disk, STAGED_SUFFIX, read_whole};
use crate::types::{GroupId, Index, Term};

/// What the log held when it was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every group that the log knows.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// What was never acknowledged and is gone now.
    pub cut: Option<Cut>,
}

/// One group, as the log holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Term, vote and commit index; the commit index lies between the snapshot and the last entry.
    pub hard_state: HardState,
    /// The newest snapshot marker.
    pub snapshot: Option<(Index, Term)>,
    /// The entries after it, without a gap.
    pub entries: Vec<(Index, Term, Bytes)>,
}

/// A torn end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub file: String,
    /// Where the log ends now.
    pub offset: u64,
    /// How many bytes lay behind that.
    pub bytes: u64,
}

/// Everything that opening the log needs to know.
pub(super) struct Recovery {
    pub recovered: Recovered,
    pub logs: BTreeMap<GroupId, GroupLog>,
    pub positions: BTreeMap<GroupId, Positions>,
    /// Oldest first.
    pub segments: VecDeque<super::Segment>,
    /// `None` where there is no log yet.
    pub tail: Option<FoundTail>,
}

/// The newest segment.
pub(super) struct FoundTail {
    pub header: SegmentHeader,
    pub end: u64,
    pub length: u64,
    pub next_round: u64,
    /// From where on its bytes must be written once more, and those bytes: the last frames, then zeros over what is
    /// cut.
    pub rewrite_at: u64,
    pub rewrite: Vec<u8>,
}

/// Reads all segments of the disk.
pub(super) fn recover(disk: &dyn Disk) -> Result<Recovery, WalError> {
    let sequences = list_segments(disk)?;
    let mut headers = Vec::new();
    for sequence in &sequences {
        headers.push((*sequence, read_header(disk, *sequence)?));
    }
    let mut replay = Replay::default();
    let mut segments = VecDeque::new();
    let mut tail = None;
    let mut cut = None;
    for (position, (sequence, header)) in headers.iter().enumerate() {
        let rest = &headers[position..];
        let file = segment_name(*sequence);
        if let Some((previous, _)) = position.checked_sub(1).and_then(|before| headers.get(before))
            && previous + 1 != *sequence
        {
            let spot = Spot::new(segment_name(previous + 1), 0, "this segment is missing, though later ones are there");
            return Err(replay.damage(disk, spot, rest, 0));
        }
        let Some(header) = header else {
            return Err(replay.damage(disk, Spot::new(file, 0, "the segment header does not check"), rest, 0));
        };
        let limit = headers.get(position + 1).and_then(|(_, next)| next.map(|next| next.previous_end));
        let mut bytes = read_segment(disk, *sequence)?;
        let segment = Segment { bytes: &bytes, header, is_oldest: position == 0, limit };
        let reached = match replay.segment(&segment) {
            Ok(reached) => reached,
            Err((offset, what)) => {
                return Err(replay.damage(disk, Spot::new(file, offset as u64, what), rest, offset));
            }
        };
        let (written, length) = (reached.end as u64, bytes.len() as u64);
        segments.push_back(super::Segment { sequence: *sequence, written, length });
        if position + 1 == headers.len() {
            let used = torn_end(&bytes, header, &reached);
            if used > reached.end {
                cut = Some(Cut { file, offset: reached.end as u64, bytes: (used - reached.end) as u64 });
                bytes[reached.end..used].fill(0);
            }
            tail = Some(FoundTail {
                header: *header,
                end: reached.end as u64,
                length: bytes.len() as u64,
                next_round: reached.next_round,
                rewrite_at: reached.durable as u64,
                rewrite: bytes[reached.durable..used].to_vec(),
            });
        }
    }
    if let Some((group, (first, last))) = replay.gap() {
        let what =
            format!("entries {first} to {last} of group {group} are live, but the segments before this one are gone");
        let oldest = headers.first().map_or(1, |(sequence, _)| *sequence);
        return Err(replay.damage(disk, Spot::new(segment_name(oldest), 0, what), &[], 0));
    }
    let recovered = Recovered { groups: BTreeMap::new(), cut };
    let mut recovery = Recovery { recovered, logs: BTreeMap::new(), positions: BTreeMap::new(), segments, tail };
    replay.finish(&mut recovery);
    Ok(recovery)
}

/// The sequences of all segments, in order. Removes what was only being made.
fn list_segments(disk: &dyn Disk) -> Result<Vec<u64>, WalError> {
    let mut sequences = Vec::new();
    for name in disk.list().map_err(|source| io_error("listing", "the data directory", source))? {
        if !name.starts_with("wal-") {
            continue;
        }
        if name.ends_with(STAGED_SUFFIX) {
            disk.remove(&name).map_err(|source| io_error("removing", &name, source))?;
        } else if let Some(sequence) = segment_sequence(&name) {
            sequences.push(sequence);
        } else {
            return Err(WalError::Foreign { file: name, why: "no log segment is named like this".into() });
        }
    }
    sequences.sort_unstable();
    Ok(sequences)
}

/// The header of a segment; `None` where it is damaged.
fn read_header(disk: &dyn Disk, sequence: u64) -> Result<Option<SegmentHeader>, WalError> {
    let file = segment_name(sequence);
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let door = disk.open(&file).map_err(|source| io_error("opening", &file, source))?;
    if door.length().map_err(|source| io_error("reading", &file, source))? < SEGMENT_HEADER_BYTES as u64 {
        return Ok(None);
    }
    door.read_at(0, &mut bytes).map_err(|source| io_error("reading", &file, source))?;
    match SegmentHeader::decode(&bytes) {
        Ok(header) if header.sequence == sequence => Ok(Some(header)),
        Ok(header) => {
            let why = format!("its header says it is {}", segment_name(header.sequence));
            Err(WalError::Foreign { file, why })
        }
        Err(HeaderFault::Magic) => {
            Err(WalError::Foreign { file, why: "it does not start as a log segment does".into() })
        }
        Err(HeaderFault::Version(version)) => Err(WalError::UnknownVersion { file, version, known: VERSION }),
        Err(HeaderFault::Checksum) => Ok(None),
    }
}

fn read_segment(disk: &dyn Disk, sequence: u64) -> Result<Vec<u8>, WalError> {
    let file = segment_name(sequence);
    read_whole(disk, &file, SEGMENT_FILE_BYTES_MAX).map_err(|source| io_error("reading", &file, source))
}

/// A segment to replay.
struct Segment<'a> {
    bytes: &'a [u8],
    header: &'a SegmentHeader,
    is_oldest: bool,
    /// Where its frames end, as the next segment says.
    limit: Option<u64>,
}

/// How far a segment was good.
struct Reached {
    end: usize,
    /// Up to where its last frame says it was synced.
    durable: usize,
    next_round: u64,
}

/// A place in the log and what is wrong there.
struct Spot {
    file: String,
    offset: u64,
    what: String,
}

impl Spot {
    fn new(file: String, offset: u64, what: impl Into<String>) -> Spot {
        Spot { file, offset, what: what.into() }
    }
}

#[derive(Default)]
struct Replay {
    groups: BTreeMap<GroupId, Replayed>,
}

#[derive(Default)]
struct Replayed {
    log: GroupLog,
    /// The live entries that lie in a file.
    entries: VecDeque<(Index, Term, Bytes)>,
    positions: Positions,
}

impl Replay {
    /// Takes up the frames of a segment; an error is damage at that offset.
    fn segment(&mut self, segment: &Segment<'_>) -> Result<Reached, (usize, String)> {
        let Segment { bytes, header, limit, .. } = segment;
        // No first frame ends before its own header does, and numbers never come near their end.
        if header.checkpoint_end < (SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES) as u64
            || header.first_round >= NUMBER_MAX
        {
            return Err((0, "the segment header makes no sense under a good checksum".into()));
        }
        let mut round = header.first_round;
        let mut durable = usize::try_from(header.checkpoint_end).unwrap_or(usize::MAX);
        let mut offset = SEGMENT_HEADER_BYTES;
        while limit.is_none_or(|limit| (offset as u64) < limit) {
            let Some(frame) = FrameHeader::decode(bytes, offset, header.salt) else { break };
            let Some(body) = frame.body(bytes, offset) else { break };
            if frame.round != round {
                break;
            }
            self.frame(segment, offset, round, frame.records, body).map_err(|what| (offset, what))?;
            offset += FRAME_HEADER_BYTES + body.len();
            round += 1;
            durable = durable.max(frame.durable as usize);
        }
        if let Some(limit) = limit {
            return if offset as u64 == *limit {
                Ok(Reached { end: offset, durable: offset, next_round: round })
            } else {
                Err((offset, format!("a round does not check, and the next segment says that rounds go on to {limit}")))
            };
        }
        let proven =
            scan(bytes, offset, header.salt, round).map(|(_, frame)| frame.durable as usize).fold(durable, usize::max);
        if proven > offset {
            return Err((offset, format!("a round does not check, though the log was durable up to {proven}")));
        }
        Ok(Reached { end: offset, durable, next_round: round })
    }

    fn frame(
        &mut self,
        segment: &Segment<'_>,
        offset: usize,
        round: u64,
        records: u32,
        mut body: &[u8],
    ) -> Result<(), String> {
        let body_end = offset + FRAME_HEADER_BYTES + body.len();
        let is_checkpoint = round == segment.header.first_round;
        let mut touched = BTreeSet::new();
        for _ in 0..records {
            let place = body_end - body.len();
            let item = Item::decode(&mut body).ok_or("a record is not understood under a good checksum")?;
            match item {
                Item::Checkpoint { group, state, snapshot, last } if is_checkpoint => {
                    self.checkpoint(segment, group, state, snapshot, last)?;
                }
                Item::Checkpoint { .. } => return Err("a checkpoint stands in the middle of a segment".into()),
                _ if is_checkpoint => return Err("a segment does not start with a checkpoint".into()),
                item => {
                    touched.insert(item.group());
                    self.item(segment.header.sequence, place as u64, item)?;
                }
            }
        }
        for group in touched {
            self.groups.entry(group).or_default().log.settle();
        }
        if !body.is_empty() {
            return Err("a round is longer than its records".into());
        }
        if is_checkpoint && records as usize != self.groups.len() {
            return Err("the checkpoint does not name the groups that the log has".into());
        }
        Ok(())
    }

    fn checkpoint(
        &mut self,
        segment: &Segment<'_>,
        group: GroupId,
        state: HardState,
        snapshot: (Index, Term),
        last: Index,
    ) -> Result<(), String> {
        if segment.is_oldest {
            let log = GroupLog::from_checkpoint(state, snapshot, last)?;
            self.groups.insert(group, Replayed { log, ..Replayed::default() });
            return Ok(());
        }
        let known = self.groups.get(&group).map(|known| (known.log.hard, known.log.snapshot, known.log.last()));
        if known != Some((state, snapshot, last)) {
            return Err(format!("the checkpoint of group {group} is not what the segments before it hold"));
        }
        Ok(())
    }

    fn item(&mut self, segment: u64, place: u64, item: Item<'_>) -> Result<(), String> {
        let group = item.group();
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&group) {
            return Err(format!("there are more than {GROUPS_MAX} groups"));
        }
        let of = |what: String| format!("group {group}: {what}");
        let known = self.groups.entry(group).or_default();
        match item {
            Item::Entry { index, term, data, .. } => {
                known.log.entry(index, term, data.len() as u64, segment).map_err(of)?;
                known.cut_from(index);
                known.entries.push_back((index, term, Bytes::copy_from_slice(data)));
                known.positions.put(index.0, Position::new(place, data));
            }
            Item::HardState { state, .. } => known.log.hard = state,
            Item::Snapshot { index, term, log: rest, .. } => {
                // Entries in no file have no known term, so only what wrote the marker could tell.
                if known.log.gap().is_none() && known.log.judge_snapshot(index, term).map_err(of)? != rest {
                    return Err(of(format!("the snapshot marker at {index} does not fit the log")));
                }
                known.log.snapshot(index, term, rest).map_err(of)?;
                match rest {
                    Rest::Dead => known.clear(),
                    Rest::Kept => known.drop_through(index),
                }
            }
            Item::Checkpoint { .. } => return Err("a checkpoint stands in the middle of a segment".into()),
        }
        Ok(())
    }

    /// A group with live entries that are in no file, and which.
    fn gap(&self) -> Option<(GroupId, (Index, Index))> {
        self.groups.iter().find_map(|(group, known)| Some((*group, known.log.gap()?)))
    }

    /// Says what is lost. `rest` are the segments from the damaged one on; its frames before `from` are intact.
    fn damage(&self, disk: &dyn Disk, spot: Spot, rest: &[(u64, Option<SegmentHeader>)], from: usize) -> WalError {
        let intact = self.groups.iter().map(|(group, known)| (*group, known.log.last())).collect();
        let Spot { file, offset, what } = spot;
        let mut damage = Damage { file, offset, what, intact, rounds_after: 0, after: BTreeMap::new() };
        for (position, (sequence, header)) in rest.iter().enumerate() {
            let Some(header) = header else { continue };
            let from = if position == 0 { from } else { SEGMENT_HEADER_BYTES };
            // A segment that cannot be read adds nothing to the account; the damage itself is reported.
            let Ok(bytes) = read_segment(disk, *sequence) else { continue };
            for (offset, frame) in scan(&bytes, from, header.salt, header.first_round) {
                if let Some(body) = frame.body(&bytes, offset) {
                    damage.rounds_after += 1;
                    account(&mut damage.after, frame.records, body);
                }
            }
        }
        WalError::Corrupt(Box::new(damage))
    }

    fn finish(self, recovery: &mut Recovery) {
        for (group, Replayed { log, entries, positions }) in self.groups {
            let hard_state = log.hard;
            let snapshot = Some(log.snapshot).filter(|(index, _)| index.0 > 0);
            let found = RecoveredGroup { hard_state, snapshot, entries: entries.into() };
            recovery.recovered.groups.insert(group, found);
            recovery.logs.insert(group, log);
            recovery.positions.insert(group, positions);
        }
    }
}

impl Replayed {
    fn cut_from(&mut self, index: Index) {
        let first = self.entries.front().map_or(index, |(first, _, _)| *first);
        self.entries.truncate(index.0.saturating_sub(first.0) as usize);
    }

    fn drop_through(&mut self, index: Index) {
        while self.entries.pop_front_if(|(first, _, _)| *first <= index).is_some() {}
        self.positions.drop_through(index.0);
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.positions.clear();
    }
}

/// Where what was never acknowledged ends, behind the end of what counts.
///
/// Bytes of a former life end nowhere: where they may stand, only frames of this life say how far it came. All that
/// could later pass for the next frame has such a header.
fn torn_end(bytes: &[u8], header: &SegmentHeader, reached: &Reached) -> usize {
    let stale_end = usize::try_from(header.stale_end).unwrap_or(usize::MAX).clamp(reached.end, bytes.len());
    if let Some(last) = bytes[stale_end..].iter().rposition(|byte| *byte != 0) {
        return stale_end + last + 1;
    }
    let ends = scan(bytes, reached.end, header.salt, reached.next_round)
        .map(|(offset, frame)| offset + FRAME_HEADER_BYTES + frame.body_bytes as usize);
    ends.fold(reached.end, usize::max).min(bytes.len())
}

/// All places from `from` on where a frame header of this segment checks, of this round or a later one: what a former
/// life left has lower numbers.
fn scan(bytes: &[u8], from: usize, salt: u64, round: u64) -> impl Iterator<Item = (usize, FrameHeader)> + '_ {
    let mut next = from;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(next..)?;
            let offset = next + rest.windows(FRAME_MAGIC.len()).position(|four| four == FRAME_MAGIC)?;
            next = offset + 1;
            if let Some(frame) = FrameHeader::decode(bytes, offset, salt).filter(|frame| frame.round >= round) {
                return Some((offset, frame));
            }
        }
    })
}

/// Widens the ranges by the entries of an intact round.
fn account(after: &mut BTreeMap<GroupId, (Index, Index)>, records: u32, mut body: &[u8]) {
    for _ in 0..records {
        let Some(item) = Item::decode(&mut body) else { return };
        let (group, first, last) = match item {
            Item::Entry { group, index, .. } => (group, index, index),
            _ => continue,
        };
        let range = after.entry(group).or_insert((first, last));
        *range = (range.0.min(first), range.1.max(last));
    }
}
