//! Tests of the log: what they share. A model says what a log must hold after each round.

mod damage;
mod faults;
mod files;
mod golden;
mod model;
mod reading;
mod reuse;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{FrameHeader, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use super::*;
use crate::disk::{MemDisk, SplitMix, read_whole};
use crate::types::{NodeId, Term};

/// Small segments, so that a few rounds cross them.
fn options() -> WalOptions {
    WalOptions { segment_bytes: 2048, prefill_bytes: 1024, salt: 42 }
}

fn open(disk: &MemDisk) -> Result<(Wal, Recovered), WalError> {
    Wal::open(Arc::new(disk.clone()), options())
}

/// What the header of a segment says.
fn header(disk: &MemDisk, sequence: u64) -> SegmentHeader {
    let bytes = read_whole(disk, &segment_name(sequence), 1 << 20).unwrap();
    SegmentHeader::decode(bytes[..SEGMENT_HEADER_BYTES].try_into().unwrap()).unwrap()
}

fn entry(group: u32, index: u64, term: u64, data: &[u8]) -> Record {
    Record::Entry { group: GroupId(group), index: Index(index), term: Term(term), data: Bytes::copy_from_slice(data) }
}

fn hard(group: u32, term: u64, vote: u64, commit: u64) -> Record {
    let vote = Some(NodeId(vote)).filter(|node| node.0 > 0);
    Record::HardState { group: GroupId(group), term: Term(term), vote, commit: Index(commit) }
}

fn snapshot(group: u32, index: u64, term: u64) -> Record {
    Record::Snapshot { group: GroupId(group), index: Index(index), term: Term(term) }
}

/// What a log must hold, the slow and obvious way.
type Model = BTreeMap<GroupId, RecoveredGroup>;

fn apply(model: &mut Model, round: &[Record]) {
    for record in round {
        match record {
            Record::Entry { group, index, term, data } => {
                let entries = &mut model.entry(*group).or_default().entries;
                entries.retain(|(other, _, _)| other < index);
                entries.push((*index, *term, data.clone()));
            }
            Record::HardState { group, term, vote, commit } => {
                model.entry(*group).or_default().hard_state = HardState { term: *term, vote: *vote, commit: *commit };
            }
            Record::Snapshot { group, index, term } => {
                let known = model.entry(*group).or_default();
                let held = known.entries.iter().any(|(i, t, _)| (i, t) == (index, term));
                let same = known.snapshot == Some((*index, *term));
                known.entries.retain(|(other, _, _)| (held || same) && other > index);
                known.snapshot = Some((*index, *term));
            }
        }
    }
    // The commit index lies between snapshot and last entry.
    for known in model.values_mut() {
        let low = known.snapshot.map_or(Index(0), |(index, _)| index);
        let high = known.entries.last().map_or(low, |(index, _, _)| *index);
        known.hard_state.commit = known.hard_state.commit.max(low).min(high);
    }
}

/// What the log can read back is what the model holds, of every group and in pieces of at most so many bytes.
fn check_read(wal: &mut Wal, model: &Model, max_bytes: u64) {
    for (group, known) in model {
        let first = known.snapshot.map_or(1, |(index, _)| index.0 + 1);
        let end = first + known.entries.len() as u64;
        let (mut read, mut next) = (Vec::new(), first);
        while next < end {
            let piece = wal.read(*group, Index(next), Index(end), max_bytes).unwrap();
            assert!(!piece.is_empty(), "entry {next} of group {group} is live");
            let bytes: u64 = piece.iter().map(|(_, _, data)| 25 + data.len() as u64).sum();
            assert!(bytes <= max_bytes || piece.len() == 1);
            next += piece.len() as u64;
            read.extend(piece);
        }
        assert_eq!(read, known.entries, "group {group}");
        for dead in [first - 1, end] {
            assert_eq!(wal.read(*group, Index(dead), Index(u64::MAX), u64::MAX).unwrap(), []);
        }
        let range = wal.positions.get(group).and_then(Positions::range);
        assert_eq!(range, (first < end).then(|| (first, end - 1)), "group {group}: as many positions as live entries");
    }
}

/// The models after no round, after the first, and so on.
fn models(rounds: &[Vec<Record>]) -> Vec<Model> {
    let mut model = Model::new();
    let mut all = vec![Model::new()];
    for round in rounds {
        apply(&mut model, round);
        all.push(model.clone());
    }
    all
}
