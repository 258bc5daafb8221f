//! Segments that are used again: what they held before is never taken for anything, whenever the process ends.

use super::*;
use crate::disk::FileDisk;

/// Entries of one filling.
const FILL: u64 = 30;

/// Rounds that fill a few segments with entries of one group, and a marker that gives them all up.
fn fill(from: u64) -> Vec<Vec<Record>> {
    let mut rounds: Vec<Vec<Record>> =
        (from..from + FILL).map(|index| vec![entry(0, index, 1, &[index as u8; 150]), hard(0, 1, 1, index)]).collect();
    rounds.push(vec![snapshot(0, from + FILL - 1, 1)]);
    rounds
}

/// A log with two spares, and the model of what it holds.
fn spared(disk: &MemDisk) -> (Wal, Model) {
    let (mut wal, _) = open(disk).unwrap();
    let rounds = fill(1);
    rounds.iter().for_each(|round| wal.append(round, true).unwrap());
    assert!(wal.release().unwrap() > 2);
    assert_eq!(wal.usage().spare_segments, SPARE_SEGMENTS_MAX);
    (wal, models(&rounds).pop().unwrap())
}

fn names(disk: &MemDisk, prefix: &str) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn released_segments_become_the_next_ones() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = spared(&disk);
    assert_eq!(names(&disk, "spare-").len(), SPARE_SEGMENTS_MAX);
    for round in fill(FILL + 1) {
        wal.append(&round, true).unwrap();
        apply(&mut model, &round);
        let (_, recovered) = open(&disk.copy()).unwrap();
        assert_eq!((recovered.groups, recovered.cut), (model.clone(), None));
    }
    assert_eq!((names(&disk, "spare-").len(), wal.usage().spare_segments), (0, 0));
    let reused = wal.segments.iter().filter(|segment| header(&disk, segment.sequence).stale_end > 0).count();
    assert_eq!(reused, SPARE_SEGMENTS_MAX);
    // And so on: the second life is a former one of the third.
    for life in 2..20 {
        assert!(wal.release().unwrap() > 2);
        for round in fill(1 + life * FILL) {
            wal.append(&round, false).unwrap();
            apply(&mut model, &round);
        }
        disk.crash(life);
        let (again, recovered) = open(&disk).unwrap();
        // Nothing since the release needs to be there, but what is there must be a state that was.
        let last = recovered.groups[&GroupId(0)].hard_state.commit.0;
        assert!((life * FILL..=life * FILL + FILL).contains(&last), "{last} in life {life}");
        wal = again;
        for index in last + 1..=life * FILL + FILL {
            wal.append(&[entry(0, index, 1, b"again"), hard(0, 1, 1, index)], true).unwrap();
        }
        wal.append(&[snapshot(0, life * FILL + FILL, 1)], true).unwrap();
    }
}

/// The same on a real disk, over several processes.
#[test]
fn a_real_disk_takes_its_segments_again_too() {
    let path = std::env::temp_dir().join(format!("raftlog-reuse-{}", std::process::id()));
    let mut model = Model::new();
    for life in 0..6 {
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(&path).unwrap());
        let (mut wal, recovered) = Wal::open(Arc::clone(&disk), options()).unwrap();
        assert_eq!((recovered.groups, recovered.cut), (model.clone(), None), "life {life}");
        let before = wal.tail.sequence;
        for round in fill(1 + life * FILL) {
            wal.append(&round, life % 2 == 0).unwrap();
            apply(&mut model, &round);
            check_read(&mut wal, &model, 400);
        }
        assert!(wal.tail.sequence > before + 2);
        assert!(wal.release().unwrap() > 2);
        assert_eq!(wal.usage().spare_segments, SPARE_SEGMENTS_MAX);
    }
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn spares_outlive_the_process_and_the_useless_ones_go() {
    let disk = MemDisk::new();
    drop(spared(&disk));
    disk.crash(3);
    for name in ["spare-00000000000000f0.log", "spare-00000000000000f1.log"] {
        disk.create(name).unwrap().write_zeros(0, 100).unwrap();
    }
    let (wal, _) = open(&disk).unwrap();
    assert_eq!((wal.usage().spare_segments, names(&disk, "spare-").len()), (2, 2));
    drop(wal);
    // Too long for what a segment is now; and one that is empty.
    disk.create("spare-0000000000000000.log").unwrap();
    let (wal, _) = Wal::open(Arc::new(disk.clone()), WalOptions { segment_bytes: 1024, ..options() }).unwrap();
    assert_eq!((wal.usage().spare_segments, names(&disk, "spare-").len()), (0, 0));
    // A file that is only called alike is none of ours.
    disk.create("spare-me.log").unwrap();
    open(&disk).unwrap();
    assert_eq!(names(&disk, "spare-"), ["spare-me.log"]);
}

#[test]
fn a_spare_that_is_gone_is_no_harm() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = spared(&disk);
    names(&disk, "spare-").iter().for_each(|name| disk.remove(name).unwrap());
    for round in fill(FILL + 1) {
        wal.append(&round, true).unwrap();
        apply(&mut model, &round);
    }
    assert_eq!(open(&disk).unwrap().1.groups, model);
}

#[test]
fn a_full_disk_gives_the_spares_up() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = spared(&disk);
    disk.limit(Some(disk.used()));
    // Longer than any spare and than the rest of the tail.
    let round = [entry(0, FILL + 1, 1, &[1; 3500])];
    wal.append(&round, true).unwrap();
    apply(&mut model, &round);
    assert_eq!((wal.usage().spare_segments, names(&disk, "spare-").len()), (0, 0));
    assert_eq!(open(&disk).unwrap().1.groups, model);
}

/// Blocks that are there do not help where nothing is overwritten in place.
#[test]
fn a_write_that_finds_the_disk_full_gives_the_spares_up() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = spared(&disk);
    disk.fill_at_write_after(0);
    let round = [entry(0, FILL + 1, 1, b"fits")];
    wal.append(&round, true).unwrap();
    apply(&mut model, &round);
    assert_eq!((wal.usage().spare_segments, names(&disk, "spare-").len()), (0, 0));
    disk.crash(5);
    assert_eq!((open(&disk).unwrap().1.groups, names(&disk, "spare-").len()), (model, 0));
}

#[test]
fn a_disk_without_room_to_release_a_segment_keeps_it_until_there_is() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let rounds = fill(1);
    rounds.iter().for_each(|round| wal.append(round, true).unwrap());
    disk.fill_directory(true);
    assert_eq!(wal.release().unwrap(), 0);
    wal.append(&[hard(0, 2, 1, FILL)], true).unwrap();
    disk.fill_directory(false);
    assert!(wal.release().unwrap() > 2);
}

#[test]
fn a_segment_longer_than_its_nominal_size_is_not_kept() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(&[entry(0, 1, 1, &[1; 9000])], true).unwrap();
    wal.append(&[entry(0, 2, 1, b"x"), snapshot(0, 2, 1)], true).unwrap();
    assert_eq!(wal.release().unwrap(), 1);
    assert_eq!((wal.usage().spare_segments, names(&disk, "spare-").len()), (0, 0));
}

/// The worst that a former life can leave: frames that check here, at every place, and claim all to be durable.
#[test]
fn frames_of_a_former_life_do_not_count_even_with_the_same_salt() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = spared(&disk);
    let next = wal.tail.sequence + 1;
    let salt = SplitMix(options().salt ^ next.rotate_left(32)).next();
    for name in names(&disk, "spare-") {
        let mut file = disk.open(&name).unwrap();
        let body_checksum = crc32c::crc32c(b"");
        for offset in (0..2048).step_by(32) {
            let round = wal.next_round - 1 - offset % 3;
            let frame = FrameHeader { body_checksum, body_bytes: 0, round, durable: 2048, records: 0 };
            file.write_at(offset, &frame.encode(salt, offset)).unwrap();
        }
        file.sync_data().unwrap();
    }
    while wal.tail.sequence <= next {
        let index = FILL + 1 + model[&GroupId(0)].entries.len() as u64;
        // One length after the other, so that the end lies at any distance from an old frame.
        let round = [entry(0, index, 1, &vec![7; (index * 13 % 70) as usize])];
        wal.append(&round, true).unwrap();
        apply(&mut model, &round);
        assert!(wal.tail.sequence > next || header(&disk, wal.tail.sequence).salt == salt || wal.tail.sequence < next);
        let (_, recovered) = open(&disk.copy()).unwrap();
        assert_eq!((recovered.groups, recovered.cut), (model.clone(), None));
    }
    // Damage before the end is found as ever, and old frames are no part of the account.
    let copy = disk.copy();
    copy.flip(&segment_name(next), header(&disk, next).checkpoint_end + 40, 1).unwrap();
    let Err(WalError::Corrupt(damage)) = open(&copy).map(drop) else { panic!("not found") };
    assert!(damage.rounds_after < 40, "{damage}");
}

/// Two rounds without a sync, the first one torn; the next round is as long as the torn one, so that the second would
/// follow.
#[test]
fn rounds_behind_a_torn_one_do_not_come_back() {
    for torn_at in [0, 3, 31, 32, 60] {
        let disk = MemDisk::new();
        let (mut wal, mut model) = spared(&disk);
        let tail = wal.tail.sequence;
        let mut index = FILL + 1;
        while wal.tail.sequence == tail {
            let round = [entry(0, index, 1, &[1; 60])];
            wal.append(&round, true).unwrap();
            apply(&mut model, &round);
            index += 1;
        }
        assert!(header(&disk, wal.tail.sequence).stale_end > 0);
        let torn = wal.tail.end;
        wal.append(&[entry(0, index, 1, &[2; 40])], false).unwrap();
        wal.append(&[entry(0, index + 1, 1, &[3; 40])], false).unwrap();
        disk.flip(&wal.tail.name, torn + torn_at, 0xff).unwrap();
        let (mut wal, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.groups, model, "{torn_at}");
        assert_eq!(recovered.cut.map(|cut| cut.offset), Some(torn), "{torn_at}");
        let round = [entry(0, index, 2, &[4; 40])];
        wal.append(&round, true).unwrap();
        apply(&mut model, &round);
        assert_eq!(open(&disk).unwrap().1.groups, model, "{torn_at}");
    }
}

/// The process, or the machine, ends after every single change to the disk while segments go round.
#[test]
fn an_end_at_any_step_of_a_reuse_loses_nothing() {
    let mut ends = 0;
    for steps in 0.. {
        let mut is_done = false;
        for seed in 0..12 {
            let disk = MemDisk::new();
            let (mut wal, start) = spared(&disk);
            let mut possible = vec![start];
            disk.stop_after(steps);
            let result = go_round(&mut wal, &mut possible);
            is_done = result.is_ok();
            ends += u64::from(result.is_err());
            if seed == 0 {
                disk.restart();
            } else {
                disk.crash(seed + steps * 100);
            }
            let (mut wal, recovered) = open(&disk).unwrap();
            assert!(possible.contains(&recovered.groups), "stopped after {steps}, seed {seed}");
            check_read(&mut wal, &recovered.groups, 400);
            let mut model = recovered.groups;
            let next = model[&GroupId(0)].hard_state.commit.0 + 1;
            for round in fill(next) {
                wal.append(&round, true).unwrap();
                apply(&mut model, &round);
            }
            wal.release().unwrap();
            disk.crash(seed);
            assert_eq!(open(&disk).unwrap().1.groups, model, "stopped after {steps}, seed {seed}");
        }
        if is_done {
            break;
        }
    }
    assert!(ends > 1000, "{ends}");
}

/// Rounds over segments that are used again and released once more; `possible` is what may be there.
fn go_round(wal: &mut Wal, possible: &mut Vec<Model>) -> Result<(), WalError> {
    for round in fill(FILL + 1) {
        let mut next = possible.last().cloned().unwrap_or_default();
        apply(&mut next, &round);
        possible.push(next);
        wal.append(&round, true)?;
        possible.drain(..possible.len() - 1);
    }
    wal.release()?;
    wal.prefill()?;
    wal.append(&[], true)?;
    wal.seal()
}
