//! Fuzz targets for what reads the files of a data directory: any bytes are an error or a log, and a log that was
//! opened holds what it says and goes on.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{
    FRAME_HEADER_BYTES, FRAME_MAGIC, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, header_checksum, segment_name,
};
use super::snapshots::{chunk_places, repair_head};
use super::{HardState, Recovered, SnapshotStore, Wal, WalError, WalOptions};
use crate::disk::{Disk, MemDisk};
use crate::types::{GroupId, Index, NodeId, Record, Term};

/// The log: `flags` (1 byte, see below), where the second segment starts in what follows (2 bytes), the bytes of both
/// segments. Checksums are made to fit where the flags say so, or nothing would get past them.
pub fn log(data: &[u8]) {
    opens(data);
}

/// Whether that is a log.
pub fn opens(data: &[u8]) -> bool {
    let Some(([flags, split @ ..], bytes)) = data.split_first_chunk::<3>() else { return false };
    let split = usize::from(u16::from_be_bytes(*split)).min(bytes.len());
    let (first, second) = if flags & TWO_SEGMENTS == 0 { (bytes, &[][..]) } else { bytes.split_at(split) };
    let mut segments = vec![first.to_vec()];
    if flags & TWO_SEGMENTS != 0 {
        segments.push(second.to_vec());
    }
    if flags & REPAIR != 0 {
        let mut previous = (0, 1);
        for (segment, sequence) in segments.iter_mut().zip(1..) {
            previous = repair(segment, sequence, previous, flags & RENUMBER != 0);
        }
    }
    let disk = MemDisk::new();
    for (segment, sequence) in segments.iter().zip(1..) {
        put(&disk, &segment_name(sequence), segment);
    }
    let Ok((mut wal, recovered)) = open(&disk) else { return false };
    check(&mut wal, &recovered);
    go_on(&disk, wal, recovered);
    true
}

/// A snapshot file: `flags` (1 byte), its bytes. It is read as a stored one and as a received one, which must agree.
pub fn snapshot(data: &[u8]) {
    let Some((flags, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & REPAIR != 0 {
        repair_head(&mut bytes, GROUP, INDEX, TERM);
        for (number, place) in chunk_places(&bytes) {
            let Some((checksum, body)) = bytes[place].split_first_chunk_mut() else { break };
            *checksum = super::snapshots::chunk_checksum(number, body).to_be_bytes();
        }
    }
    let disk = MemDisk::new();
    put(&disk, &format!("snap-{:08x}-{:016x}-{:016x}.snap", GROUP.0, INDEX.0, TERM.0), &bytes);
    let Ok(store) = SnapshotStore::open(Arc::new(disk)) else { return };
    let stored = read_stored(&store);
    let received = read_received(&store, &bytes);
    assert_eq!(stored.ok(), received.ok(), "what is stored and what is sent are read alike");
}

/// A small file.
pub fn small(data: &[u8]) {
    let disk = MemDisk::new();
    put(&disk, "small.dat", data);
    if let Ok(Some(value)) = super::load_small(&disk, "small") {
        assert!(data.ends_with(&value));
    }
}

/// Inputs to start from: valid files, each kind of record in them.
pub fn log_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![RENUMBER | REPAIR, 0, 0]];
    for (segment_bytes, flags) in [(1 << 20, 0), (1 << 20, REPAIR), (1024, TWO_SEGMENTS), (1024, 7)] {
        let disk = MemDisk::new();
        let options = WalOptions { segment_bytes, prefill_bytes: 0, salt: 1 };
        let Ok((mut wal, _)) = Wal::open(Arc::new(disk.clone()), options) else { continue };
        for round in seed_rounds() {
            wal.append(&round, true).ok();
        }
        let files: Vec<Vec<u8>> = (1..=2)
            .filter_map(|sequence| crate::disk::read_whole(&disk, &segment_name(sequence), 1 << 20).ok())
            .collect();
        let split = files.first().map_or(0, Vec::len) as u16;
        seeds.push([&[flags][..], &split.to_be_bytes(), &files.concat()].concat());
    }
    seeds
}

/// Inputs to start from: valid files of several lengths.
pub fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (length, flags) in [(0, 0), (5, REPAIR), (1000, REPAIR), ((256 << 10) + 5, REPAIR)] {
        let Ok(store) = SnapshotStore::open(Arc::new(MemDisk::new())) else { continue };
        if store.save(GROUP, INDEX, TERM, b"members", &vec![7; length]).is_ok()
            && let Ok(raw) = store.open_raw(GROUP, INDEX, TERM)
        {
            let mut bytes = vec![0; raw.length() as usize];
            raw.read_at(0, &mut bytes).ok();
            seeds.push([&[flags][..], &bytes].concat());
        }
    }
    seeds
}

/// Inputs to start from.
pub fn small_seeds() -> Vec<Vec<u8>> {
    let disk = MemDisk::new();
    super::save_small(&disk, "small", b"value").ok();
    vec![crate::disk::read_whole(&disk, "small.dat", 1 << 20).unwrap_or_default()]
}

fn seed_rounds() -> Vec<Vec<Record>> {
    let entry = |group, index, term, length| Record::Entry {
        group: GroupId(group),
        index: Index(index),
        term: Term(term),
        data: Bytes::from(vec![index as u8; length]),
    };
    let hard = |group, term, commit| Record::HardState {
        group: GroupId(group),
        term: Term(term),
        vote: Some(NodeId(1)),
        commit: Index(commit),
    };
    let snapshot =
        |group, index, term| Record::Snapshot { group: GroupId(group), index: Index(index), term: Term(term) };
    vec![
        vec![snapshot(1, 5, 1), hard(1, 1, 5)],
        vec![entry(0, 1, 1, 100), entry(1, 6, 1, 0), hard(0, 1, 0)],
        vec![entry(0, 2, 1, 300), entry(0, 3, 1, 7)],
        vec![entry(0, 2, 2, 9), hard(0, 2, 1)],
        vec![snapshot(0, 1, 1), entry(1, 7, 1, 250)],
        vec![entry(0, 3, 2, 200), snapshot(1, 9, 2)],
    ]
}

/// Makes header and frames of a segment fit their checksums, and the first frame a checkpoint of what it holds.
/// `previous` is where the segment before ends and its next round; returns the same of this one.
fn repair(segment: &mut Vec<u8>, sequence: u64, previous: (u64, u64), renumber: bool) -> (u64, u64) {
    segment.resize(segment.len().max(SEGMENT_HEADER_BYTES), 0);
    segment[..8].copy_from_slice(&SEGMENT_MAGIC);
    put_u32(segment, 8, super::VERSION);
    put_u64(segment, 16, sequence);
    if renumber {
        put_u64(segment, 32, previous.0);
        put_u64(segment, 40, previous.1);
    }
    let (salt, mut round) = (get_u64(segment, 24), get_u64(segment, 40));
    let mut offset = SEGMENT_HEADER_BYTES;
    while let Some(head) = segment.get(offset..offset + FRAME_HEADER_BYTES) {
        let body_bytes = get_u32(head, 12) as usize;
        let body_from = offset + FRAME_HEADER_BYTES;
        let Some(body) = segment.get(body_from..body_from.saturating_add(body_bytes)) else { break };
        let checksum = crc32c::crc32c(body);
        segment[offset..offset + 4].copy_from_slice(&FRAME_MAGIC);
        put_u32(segment, offset + 8, checksum);
        if renumber {
            put_u64(segment, offset + 16, round);
        }
        let checksum = super::format::frame_checksum(salt, offset as u64, &segment[offset + 8..body_from]);
        put_u32(segment, offset + 4, checksum);
        offset = body_from + body_bytes;
        round = round.wrapping_add(1);
        if sequence == 1 && offset >= segment.len() {
            break;
        }
    }
    if let Some(head) = segment.first_chunk_mut::<SEGMENT_HEADER_BYTES>() {
        let checksum = header_checksum(head);
        head[12..16].copy_from_slice(&checksum.to_be_bytes());
    }
    (offset as u64, round)
}

fn options() -> WalOptions {
    WalOptions { segment_bytes: 1024, prefill_bytes: 512, salt: 5 }
}

fn open(disk: &MemDisk) -> Result<(Wal, Recovered), WalError> {
    Wal::open(Arc::new(disk.clone()), options())
}

/// What was recovered hangs together, and can be read back.
fn check(wal: &mut Wal, recovered: &Recovered) {
    for (group, known) in &recovered.groups {
        let first = known.snapshot.map_or(Index(0), |(index, _)| index).0 + 1;
        assert!(known.entries.iter().zip(first..).all(|((index, _, _), due)| index.0 == due), "no gap");
        let end = first + known.entries.len() as u64;
        let HardState { commit, .. } = known.hard_state;
        assert!(commit.0 >= first - 1 && commit.0 < end, "a commit index of entries that are there");
        match wal.read(*group, Index(first), Index(end), u64::MAX) {
            Ok(read) => assert_eq!(read, known.entries),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The log takes a round, and gives it back after a restart.
fn go_on(disk: &MemDisk, mut wal: Wal, recovered: Recovered) {
    let Some(free) = (0..u32::MAX).map(GroupId).find(|group| !recovered.groups.contains_key(group)) else { return };
    let data = Bytes::from_static(b"goes on");
    let round = [Record::Entry { group: free, index: Index(1), term: Term(1), data: data.clone() }];
    if let Err(error) = wal.append(&round, true) {
        panic!("{error}");
    }
    drop(wal);
    disk.restart();
    match open(disk) {
        Ok((_, mut again)) => {
            let added = again.groups.remove(&free).unwrap_or_default();
            assert_eq!(added.entries, [(Index(1), Term(1), data)]);
            assert_eq!((again.groups, again.cut), (recovered.groups, None));
        }
        Err(error) => panic!("{error}"),
    }
}

fn read_stored(store: &SnapshotStore) -> Result<(Vec<u8>, Vec<u8>), WalError> {
    let reader = store.open_stored(GROUP, INDEX, TERM)?;
    read_to_end(reader)
}

fn read_received(store: &SnapshotStore, bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), WalError> {
    let mut receiving = store.receive(GROUP, INDEX, TERM)?;
    for piece in bytes.chunks(50_000) {
        receiving.append(piece)?;
    }
    let mut received = receiving.finish()?;
    let content = read_to_end(received.reader()?)?;
    received.install()?;
    Ok(content)
}

fn read_to_end(mut reader: super::SnapshotReader) -> Result<(Vec<u8>, Vec<u8>), WalError> {
    let meta = reader.meta().to_vec();
    let mut body = Vec::new();
    let read = reader.read_to_end(&mut body);
    let finished = reader.finish();
    assert_eq!(read.is_ok(), finished.is_ok());
    finished.map(|()| (meta, body))
}

fn put(disk: &MemDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(name);
    if let Ok(mut file) = file {
        file.write_at(0, bytes).ok();
    }
}

fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_be_bytes());
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map_or(0, u32::from_be_bytes)
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// Checksums, magic numbers and names are made to fit.
const REPAIR: u8 = 1;
/// Numbers of rounds and the ends of segments are made to fit as well.
const RENUMBER: u8 = 2;
/// There is a second segment.
const TWO_SEGMENTS: u8 = 4;

const GROUP: GroupId = GroupId(4);
const INDEX: Index = Index(7);
const TERM: Term = Term(2);
