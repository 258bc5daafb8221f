//! Every byte flipped, every length cut: what recovery says, and that it is never silently less than it may be.

use std::ops::Range;

use super::format::segment_sequence;
use super::*;

/// A log with its rounds, all synced, and where each one lies.
struct Written {
    disk: MemDisk,
    models: Vec<Model>,
    places: Vec<(String, Range<u64>)>,
}

/// Several segments of rounds with everything that a round can hold; the last one is `last`. With `lives` the last
/// segments are former ones that are used again.
fn written(last: &[Record], lives: bool) -> Written {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let mut rounds = Vec::new();
    if lives {
        // Frames with live-looking bytes all over the segments that are given up.
        rounds.extend((1..=40).map(|index| vec![entry(9, index, 7, &[index as u8; 100]), hard(9, 7, 1, index)]));
        rounds.push(vec![snapshot(9, 40, 7)]);
    }
    let mut places = Vec::new();
    let mut append = |wal: &mut Wal, round: &[Record]| {
        wal.append(round, true).unwrap();
        let length = wal.frame.len() as u64;
        places.push((wal.tail.name.clone(), wal.tail.end - length..wal.tail.end));
    };
    rounds.iter().for_each(|round| append(&mut wal, round));
    assert_eq!(wal.release().unwrap() > 2, lives);
    let main = [main_rounds(if lives { 7 } else { 14 }), vec![last.to_vec()]].concat();
    main.iter().for_each(|round| append(&mut wal, round));
    rounds.extend(main);
    assert!(wal.segments.len() >= 3);
    assert_eq!(header(&disk, wal.tail.sequence).stale_end > wal.tail.end, lives);
    assert_eq!(header(&disk, wal.tail.sequence - 1).stale_end > 0, lives);
    Written { disk, models: models(&rounds), places }
}

fn main_rounds(count: u64) -> Vec<Vec<Record>> {
    let mut rounds = vec![vec![snapshot(1, 5, 1), hard(1, 1, 2, 5)], vec![hard(0, 1, 1, 0)]];
    let mut first_free = 1;
    for number in 0..count {
        let from = if number % 5 == 4 { first_free - 2 } else { first_free };
        let term = 1 + number / 5;
        let mut round = vec![hard(0, term, 1, from - 1)];
        // No two of a round are of one length; a hundred bytes on average.
        let length = |index: u64| [0, 199, 101, 1, 180, 119][index as usize % 6];
        round.extend((from..from + 3).map(|index| entry(0, index, term, &vec![number as u8; length(index)])));
        round.push(entry(1, 6 + number, 1, b"quiet"));
        first_free = from + 3;
        rounds.push(round);
    }
    rounds.push(vec![snapshot(1, 8, 1)]);
    rounds
}

impl Written {
    fn new() -> Written {
        Written::with(&[entry(0, 37, 9, b"the last"), hard(0, 9, 3, 36)])
    }

    fn with(last: &[Record]) -> Written {
        written(last, false)
    }

    /// The same in segments that are used again.
    fn again() -> Written {
        written(&[entry(0, 20, 9, b"the last"), hard(0, 9, 3, 19)], true)
    }

    fn last(&self) -> &(String, Range<u64>) {
        self.places.last().unwrap()
    }

    /// The segments, and the spares, which nobody reads.
    fn files(&self) -> Vec<String> {
        self.disk.list().unwrap()
    }

    fn frames_end(&self, file: &str) -> u64 {
        self.places.iter().filter(|(name, _)| name == file).map(|(_, place)| place.end).max().unwrap_or(0)
    }
}

#[test]
fn a_flip_is_found_unless_it_is_in_the_last_round_which_it_cuts() {
    check_flips(&Written::new());
}

#[test]
fn a_flip_in_a_segment_that_is_used_again_is_found_just_so() {
    check_flips(&Written::again());
}

fn check_flips(written: &Written) {
    let rounds = written.models.len() - 1;
    let (last_file, last_place) = written.last();
    for file in written.files() {
        let length = read_whole(&written.disk, &file, 1 << 20).unwrap().len() as u64;
        let frames_end = written.frames_end(&file);
        for offset in 0..length {
            let disk = written.disk.copy();
            disk.flip(&file, offset, 1 << (offset % 8)).unwrap();
            let result = open(&disk).map(|(mut wal, recovered)| {
                check_read(&mut wal, &recovered.groups, 500);
                recovered
            });
            let at = format!("{file} at {offset}");
            if offset >= frames_end {
                // Nobody reads it.
                assert_eq!(result.unwrap().groups, written.models[rounds], "{at}");
            } else if file == *last_file && last_place.contains(&offset) {
                let recovered = result.unwrap();
                assert_eq!(recovered.groups, written.models[rounds - 1], "{at}");
                // Without its header it looks like the bytes around it, where those are of a former life.
                let is_seen = header(&disk, segment_sequence(&file).unwrap()).stale_end == 0;
                assert!(!is_seen || recovered.cut.is_some(), "{at}");
                assert!(recovered.cut.is_none_or(|cut| cut.offset == last_place.start), "{at}");
            } else {
                let error = result.unwrap_err();
                assert!(matches!(error, WalError::Corrupt(_) | WalError::Foreign { .. }), "{at}: {error}");
                assert!(error.to_string().contains(&file), "{at}: {error}");
            }
        }
    }
}

#[test]
fn a_flip_in_the_last_round_is_found_too_once_it_is_sealed() {
    let written = Written::new();
    let (mut wal, _) = open(&written.disk).unwrap();
    wal.seal().unwrap();
    let end = wal.tail.end;
    wal.seal().unwrap();
    assert_eq!(wal.tail.end, end, "a sealed log needs no other seal");
    let (file, place) = written.last();
    for offset in place.clone() {
        let disk = written.disk.copy();
        disk.flip(file, offset, 0x10).unwrap();
        assert!(matches!(open(&disk).map(drop), Err(WalError::Corrupt(_))), "{offset}");
    }
    for offset in place.end..end {
        let disk = written.disk.copy();
        disk.flip(file, offset, 0x10).unwrap();
        assert_eq!(open(&disk).unwrap().1.groups, *written.models.last().unwrap(), "a seal holds nothing, {offset}");
    }
}

#[test]
fn a_cut_at_any_byte_leaves_a_prefix_of_whole_rounds_or_is_found() {
    check_cuts(&Written::new());
}

#[test]
fn a_cut_of_a_segment_that_is_used_again_is_just_so() {
    check_cuts(&Written::again());
}

fn check_cuts(written: &Written) {
    for file in written.files() {
        let length = read_whole(&written.disk, &file, 1 << 20).unwrap().len() as u64;
        for cut in 0..length {
            let disk = written.disk.copy();
            disk.truncate(&file, cut).unwrap();
            let result = open(&disk).map(|(_, recovered)| recovered.groups);
            let whole = |(name, place): &&(String, Range<u64>)| *name < file || (*name == file && place.end <= cut);
            let left = written.places.iter().filter(whole).count();
            let first = written.places.iter().find(|(name, _)| *name == file).map_or(0, |(_, place)| place.start);
            if cut >= written.frames_end(&file) {
                assert_eq!(result.unwrap(), *written.models.last().unwrap(), "{file} cut at {cut}");
            } else if file == written.last().0 && cut >= first {
                assert_eq!(result.unwrap(), written.models[left], "{file} cut at {cut}");
            } else {
                assert!(matches!(result, Err(WalError::Corrupt(_))), "{file} cut at {cut}");
            }
        }
    }
}

#[test]
fn every_tear_of_the_last_round_cuts_it_and_the_log_goes_on() {
    let last: Vec<Record> = (37..43).map(|index| entry(0, index, 9, &[index as u8; 300])).collect();
    let written = Written::with(&last);
    let rounds = written.models.len() - 1;
    let (file, place) = written.last();
    let sectors: Vec<Range<u64>> = (place.start / 512..=(place.end - 1) / 512)
        .map(|sector| (sector * 512).max(place.start)..((sector + 1) * 512).min(place.end))
        .collect();
    assert!(sectors.len() >= 4);
    for subset in 0..1u32 << sectors.len() {
        let disk = written.disk.copy();
        let mut door = disk.open(file).unwrap();
        for (number, sector) in sectors.iter().enumerate().filter(|(number, _)| subset & 1 << number == 0) {
            door.write_zeros(sector.start, sector.end - sector.start).unwrap_or_else(|_| panic!("{number}"));
        }
        door.sync_data().unwrap();
        let (mut wal, recovered) = open(&disk).unwrap();
        let all = subset + 1 == 1 << sectors.len();
        let expected = &written.models[if all { rounds } else { rounds - 1 }];
        assert_eq!(recovered.groups, *expected, "{subset:b}");
        assert_eq!(recovered.cut.is_some(), !all && subset != 0, "{subset:b}");
        // Shorter than what was cut, so that leftovers would follow it.
        wal.append(&[entry(0, 37, 10, b"other")], true).unwrap();
        let mut model = expected.clone();
        apply(&mut model, &[entry(0, 37, 10, b"other")]);
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!((recovered.groups, recovered.cut), (model.clone(), None), "{subset:b}");
    }
}

#[test]
fn torn_rounds_that_were_never_synced_are_no_damage() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(&[entry(0, 1, 1, b"synced")], true).unwrap();
    wal.append(&[entry(0, 2, 1, b"first")], false).unwrap();
    let torn = wal.tail.end - 1;
    wal.append(&[entry(0, 3, 1, b"second")], false).unwrap();
    disk.flip(&wal.tail.name, torn, 0xff).unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.groups[&GroupId(0)].entries.len(), 1);
    assert!(recovered.cut.unwrap().bytes > 60);
}

#[test]
fn the_account_of_damage_says_what_and_where_and_what_to_do() {
    let written = Written::new();
    let (file, place) = &written.places[3];
    written.disk.flip(file, place.start + 50, 1).unwrap();
    let Err(WalError::Corrupt(damage)) = open(&written.disk).map(drop) else { panic!("not found") };
    assert_eq!((&damage.file, damage.offset), (file, place.start));
    assert_eq!(damage.intact, [(GroupId(0), Index(3)), (GroupId(1), Index(6))].into());
    assert_eq!(damage.after[&GroupId(1)], (Index(8), Index(19)));
    assert_eq!(damage.after[&GroupId(0)].1, Index(38));
    let text = damage.to_string();
    for part in [
        "wal-0000000000000001.log at byte ",
        "Group 1: intact through index 6, 8 to 19 seen after the damage.",
        "`rocinante member remove LABEL`, remove the data directory, `rocinante member add LABEL ADDRESS`",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let written = Written::new();
    let files = written.files();
    for file in &files[..files.len() - 1] {
        let disk = written.disk.copy();
        disk.remove(file).unwrap();
        let error = open(&disk).map(drop).unwrap_err();
        assert!(matches!(error, WalError::Corrupt(_)), "{error}");
    }
}

#[test]
fn a_payload_cannot_pass_for_a_frame() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(&[entry(0, 1, 1, b"real")], true).unwrap();
    // The very bytes that would prove damage here, made with another salt.
    let offset = wal.tail.end;
    let header = FrameHeader { body_checksum: 0, body_bytes: 0, round: 9, durable: 2000, records: 0 };
    let mut data = Vec::new();
    for place in 0..20 {
        data.extend(header.encode(wal.tail.salt ^ 1, offset + 57 + place * FRAME_HEADER_BYTES as u64));
    }
    wal.append(&[entry(0, 2, 1, &data)], false).unwrap();
    disk.flip(&wal.tail.name, offset + 33, 1).unwrap();
    assert_eq!(open(&disk).unwrap().1.groups[&GroupId(0)].entries.len(), 1);
}
