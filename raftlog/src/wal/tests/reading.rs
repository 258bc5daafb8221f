//! Live entries read back from the segments: all of them, in pieces, and never others than were written.

use super::*;

fn read(wal: &mut Wal, group: u32, from: u64, to: u64, max_bytes: u64) -> Vec<(u64, usize)> {
    let entries = wal.read(GroupId(group), Index(from), Index(to), max_bytes).unwrap();
    entries.into_iter().map(|(index, _, data)| (index.0, data.len())).collect()
}

/// Two groups over several segments, with terms that change and entries that are overwritten.
fn rounds() -> Vec<Vec<Record>> {
    let mut rounds = vec![vec![snapshot(1, 5, 1), hard(1, 1, 2, 5)]];
    let mut next = 1;
    for number in 0..20_u64 {
        let from = if number % 6 == 5 { next - 2 } else { next };
        let term = 1 + number / 6;
        let mut round: Vec<Record> = (from..from + 3)
            .map(|index| entry(0, index, term, &vec![number as u8; (index * 37 % 150) as usize]))
            .collect();
        round.insert(1, entry(1, 6 + number, 1, &vec![9; number as usize]));
        next = from + 3;
        rounds.push(round);
    }
    rounds.push(vec![entry(2, 1, 3, &[7; 5000])]);
    rounds
}

#[test]
fn entries_read_back_are_those_that_are_live_before_and_after_a_restart() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let mut model = Model::new();
    for round in rounds() {
        wal.append(&round, false).unwrap();
        apply(&mut model, &round);
        check_read(&mut wal, &model, 300);
    }
    assert!(wal.usage().segments > 2);
    for max_bytes in [0, 1, 100, 1000, u64::MAX] {
        check_read(&mut wal, &model, max_bytes);
    }
    let (mut wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.groups, model);
    check_read(&mut wal, &model, 500);
    for cut in [vec![snapshot(0, 17, 2)], vec![snapshot(1, 99, 3)], vec![entry(0, 18, 9, b"over")]] {
        wal.append(&cut, true).unwrap();
        apply(&mut model, &cut);
        check_read(&mut wal, &model, 500);
    }
    assert!(wal.release().unwrap() > 0);
    check_read(&mut wal, &model, u64::MAX);
}

#[test]
fn a_read_ends_where_it_is_told_and_gives_at_least_one() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(&(1..9).map(|index| entry(3, index, 1, &[1; 75])).collect::<Vec<_>>(), true).unwrap();
    assert_eq!(read(&mut wal, 3, 2, 5, u64::MAX), [(2, 75), (3, 75), (4, 75)]);
    assert_eq!(read(&mut wal, 3, 2, 99, 299), [(2, 75), (3, 75)]);
    assert_eq!(read(&mut wal, 3, 2, 99, 300).len(), 3);
    assert_eq!(read(&mut wal, 3, 8, 99, 0), [(8, 75)]);
    for (group, from, to) in [(3, 9, 99), (3, 0, 99), (3, 5, 5), (3, 5, 4), (4, 1, 9)] {
        assert_eq!(read(&mut wal, group, from, to, u64::MAX), []);
    }
}

#[test]
fn spans_longer_than_one_reading_come_back_whole() {
    let disk = MemDisk::new();
    let options = WalOptions { segment_bytes: 64 << 20, ..options() };
    let (mut wal, _) = Wal::open(Arc::new(disk), options).unwrap();
    for index in 1..=40_u64 {
        let round = [entry(0, index, 1, &vec![index as u8; 100_000]), entry(1, index, 1, &[7; 30])];
        wal.append(&round, true).unwrap();
    }
    let entries = wal.read(GroupId(0), Index(1), Index(41), u64::MAX).unwrap();
    assert!(entries.iter().zip(1..=40_u8).all(|((_, _, data), byte)| *data == vec![byte; 100_000]));
    assert_eq!(read(&mut wal, 1, 1, 41, u64::MAX).len(), 40);
}

#[test]
fn every_flip_in_an_entry_is_found_when_it_is_read_back() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(&[entry(0, 1, 1, b"before"), entry(0, 2, 1, b"the entry"), entry(0, 3, 1, b"after")], true).unwrap();
    let name = wal.tail.name.clone();
    let position = wal.positions[&GroupId(0)].at(2).unwrap();
    let record = u64::from(position.offset)..u64::from(position.offset) + 25 + 9;
    for offset in record {
        disk.flip(&name, offset, 1 << (offset % 8)).unwrap();
        let error = wal.read(GroupId(0), Index(1), Index(4), u64::MAX).unwrap_err();
        assert!(matches!(&error, WalError::CorruptFile { file, .. } if *file == name), "{error}");
        assert!(error.to_string().contains("entry 2 of group 0"), "{error}");
        assert_eq!(read(&mut wal, 0, 3, 4, 100), [(3, 5)]);
        disk.flip(&name, offset, 1 << (offset % 8)).unwrap();
    }
    disk.truncate(&name, u64::from(position.offset) + 10).unwrap();
    assert!(matches!(wal.read(GroupId(0), Index(2), Index(3), 100), Err(WalError::Io { .. })));
}

#[test]
fn a_poisoned_log_reads_nothing_back() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    disk.fail_sync_after(0);
    assert!(wal.append(&[entry(0, 1, 1, b"x")], true).is_err());
    assert!(matches!(wal.read(GroupId(0), Index(1), Index(2), 100), Err(WalError::Poisoned { .. })));
}

#[test]
fn a_position_takes_at_most_24_bytes_also_when_most_entries_are_gone() {
    let mut places = Positions::default();
    let bound = |places: &Positions| {
        let live = places.range().map_or(0, |(first, last)| last - first + 1) as usize;
        assert!(places.memory_bytes() <= (live * 24).max(64 * 12), "{} for {live}", places.memory_bytes());
    };
    for index in 1..=100_000_u64 {
        places.put(index, Position::new(index, b""));
        bound(&places);
    }
    for index in (1..=100_000).step_by(777) {
        places.drop_through(index);
        bound(&places);
    }
    for index in 100_001..=200_000_u64 {
        places.put(index, Position::new(index, b""));
    }
    places.put(110_000, Position::new(5, b""));
    bound(&places);
    assert_eq!(places.at(110_000), Some(Position::new(5, b"")));
    assert_eq!((places.at(110_001), places.at(1)), (None, None));
    places.clear();
    bound(&places);
    assert_eq!(places.range(), None);
}
