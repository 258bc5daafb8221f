//! Full disks, failing syncs, limits, and segments that go when nobody needs them.

use super::*;

fn state(disk: &MemDisk) -> Model {
    open(&disk.copy()).unwrap().1.groups
}

#[test]
fn a_full_disk_appends_nothing_and_takes_the_same_round_later() {
    // At every size of the disk something else is the first that has no room.
    for room in (0..9000).step_by(37) {
        let disk = MemDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        let mut model = Model::new();
        disk.limit(Some(disk.used() + room));
        let mut refused = 0;
        for index in 1..40 {
            let round = [entry(0, index, 1, &[7; 200]), hard(0, 1, 1, index)];
            while let Err(error) = wal.append(&round, true) {
                assert!(matches!(error, WalError::NoSpace { .. }), "{error}");
                assert_eq!(state(&disk), model, "nothing was appended");
                refused += 1;
                disk.limit(Some(disk.used() + 400 * refused));
            }
            apply(&mut model, &round);
        }
        assert!(refused > 0, "there was room for all with {room}");
        disk.crash(room);
        assert_eq!(state(&disk), model);
    }
}

#[test]
fn a_shorter_round_after_a_refused_one_is_not_followed_by_its_leftovers() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    disk.limit(Some(disk.used()));
    let long: Vec<Record> = (1..9).map(|index| entry(0, index, 1, &[7; 150])).collect();
    assert!(matches!(wal.append(&long, true), Err(WalError::NoSpace { .. })));
    wal.append(&long[..1], true).unwrap();
    wal.append(&[hard(0, 2, 1, 1)], true).unwrap();
    let groups = state(&disk);
    assert_eq!((groups[&GroupId(0)].entries.len(), groups[&GroupId(0)].hard_state.term), (1, Term(2)));
}

#[test]
fn a_write_that_finds_the_disk_full_halfway_has_appended_nothing() {
    for skip in 0..12 {
        let disk = MemDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        disk.fill_at_write_after(skip);
        let mut model = Model::new();
        for index in 1..12 {
            let long = [entry(0, index, 1, &[7; 300]), hard(0, index, 1, 0)];
            let short = [entry(0, index, 2, b"instead")];
            match wal.append(&long, true) {
                Ok(()) => apply(&mut model, &long),
                Err(error) => {
                    assert!(matches!(error, WalError::NoSpace { .. }), "{error}");
                    assert_eq!(state(&disk), model, "skip {skip}");
                    wal.append(&short, true).unwrap();
                    apply(&mut model, &short);
                }
            }
            assert_eq!(state(&disk), model, "skip {skip}");
        }
    }
}

#[test]
fn a_new_log_on_a_full_disk_says_so() {
    let disk = MemDisk::new();
    disk.limit(Some(10));
    assert!(matches!(open(&disk).map(drop), Err(WalError::NoSpace { .. })));
    disk.limit(None);
    open(&disk).unwrap();
}

/// The log rolls a segment, reads an old one and installs a snapshot while others hold all descriptors.
#[test]
fn a_log_without_descriptors_goes_on_when_there_are_some() {
    // With and without spares to make the next segment of.
    for spared in [false, true] {
        let disk = MemDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        let mut model = Model::new();
        let mut starved = 0;
        for index in 1..60 {
            let mut round = vec![entry(0, index, 1, &[7; 200]), hard(0, 1, 1, index)];
            if spared && index == 30 {
                round.push(snapshot(0, index, 1));
            }
            disk.starve(true);
            if let Err(error) = wal.append(&round, true) {
                assert!(matches!(error, WalError::Starved { .. }), "{error}");
                starved += 1;
                disk.starve(false);
                assert_eq!(state(&disk), model, "nothing was appended");
                wal.append(&round, true).unwrap();
            }
            disk.starve(false);
            apply(&mut model, &round);
            wal.release().unwrap();
        }
        assert!(starved > 3, "{starved}");
        let first = model[&GroupId(0)].entries[0].0;
        disk.starve(true);
        let read = |wal: &mut Wal| wal.read(GroupId(0), first, Index(60), 1 << 20);
        assert!(matches!(read(&mut wal), Err(WalError::Starved { .. })));
        disk.starve(false);
        assert_eq!(read(&mut wal).unwrap().len(), model[&GroupId(0)].entries.len());
        disk.crash(1);
        assert_eq!(state(&disk), model);
    }
}

#[test]
fn a_failed_sync_poisons_until_the_next_start() {
    for skip in 0..12 {
        let disk = MemDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        disk.fail_sync_after(skip);
        let mut rounds = Vec::new();
        let mut acknowledged = 0;
        let error = loop {
            let index = rounds.len() as u64 + 1;
            let round = vec![entry(0, index, 1, &[1; 300]), hard(0, 1, 1, index - 1)];
            rounds.push(round.clone());
            match wal.append(&round, true) {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, WalError::Poisoned { .. }), "{error}");
        for later in [wal.append(&[], true), wal.append(&rounds[0], true), wal.seal(), wal.prefill()] {
            assert!(matches!(later, Err(WalError::Poisoned { .. })));
        }
        assert!(wal.release().is_err());
        // The process ends. The next one sees what the failed sync should have saved and must make it durable itself.
        disk.restart();
        let (_, recovered) = open(&disk).unwrap();
        let models = models(&rounds);
        assert!(models[acknowledged..].contains(&recovered.groups), "skip {skip}");
        disk.crash(skip);
        assert_eq!(open(&disk).unwrap().1.groups, recovered.groups, "what was read was not durable, skip {skip}");
    }
}

#[test]
fn rounds_without_a_sync_are_durable_after_the_next_one_and_survive_a_killed_process() {
    for seed in 0..50 {
        let disk = MemDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        wal.append(&[entry(0, 1, 1, b"a")], false).unwrap();
        wal.append(&[entry(0, 2, 1, b"b")], false).unwrap();
        if seed % 2 == 0 {
            wal.append(&[], true).unwrap();
        } else {
            disk.restart();
            assert_eq!(open(&disk).unwrap().1.groups[&GroupId(0)].entries.len(), 2);
        }
        disk.crash(seed);
        assert_eq!(open(&disk).unwrap().1.groups[&GroupId(0)].entries.len(), 2);
    }
}

#[test]
fn rounds_that_must_not_be_are_refused_whole() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(&[snapshot(0, 5, 2), entry(0, 6, 2, b"x")], true).unwrap();
    let huge = Record::Entry {
        group: GroupId(0),
        index: Index(7),
        term: Term(2),
        data: Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1]),
    };
    let before = state(&disk);
    for bad in [
        entry(0, 8, 2, b"gap"),
        entry(0, 5, 2, b"in the snapshot"),
        entry(1, 2, 2, b"gap"),
        entry(1, 0, 2, b"zero"),
        snapshot(0, 4, 2),
        snapshot(0, 5, 3),
        snapshot(1, 0, 0),
        huge,
        Record::HardState { group: GroupId(0), term: Term(1), vote: Some(NodeId(0)), commit: Index(0) },
    ] {
        let error = wal.append(&[hard(0, 9, 9, 6), bad], true).unwrap_err();
        assert!(matches!(error, WalError::Refused(_)), "{error}");
        assert_eq!(state(&disk), before);
    }
    wal.append(&[entry(0, 7, 2, b"still usable")], true).unwrap();
}

#[test]
fn a_round_longer_than_a_segment_gets_one_of_its_own() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let rounds = [
        vec![entry(0, 1, 1, b"small")],
        vec![entry(0, 2, 1, &[5; 10_000]), entry(1, 1, 1, &[6; 10_000])],
        vec![entry(0, 3, 1, b"small")],
    ];
    for round in &rounds {
        wal.append(round, true).unwrap();
    }
    assert_eq!(wal.usage().segments, 3);
    assert_eq!(state(&disk), *models(&rounds).last().unwrap());
}

#[test]
fn a_snapshot_that_the_log_does_not_lead_up_to_kills_all_entries() {
    let kept = [vec![entry(0, 1, 1, b"a"), entry(0, 2, 1, b"b")], vec![snapshot(0, 1, 1)]];
    let other_term = [vec![entry(0, 1, 1, b"a"), entry(0, 2, 1, b"b")], vec![snapshot(0, 1, 2)]];
    let beyond = [vec![entry(0, 1, 1, b"a"), entry(0, 2, 1, b"b")], vec![snapshot(0, 9, 2)]];
    for (rounds, left) in [(kept, 1), (other_term, 0), (beyond, 0)] {
        let disk = MemDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        for round in &rounds {
            wal.append(round, true).unwrap();
        }
        let groups = state(&disk);
        assert_eq!(groups, *models(&rounds).last().unwrap());
        assert_eq!(groups[&GroupId(0)].entries.len(), left);
        let known = &groups[&GroupId(0)];
        assert!(known.hard_state.commit >= known.snapshot.unwrap().0);
    }
}

#[test]
fn segments_go_when_no_group_needs_them_and_a_quiet_group_is_named() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let mut rounds = vec![vec![hard(3, 4, 2, 0), entry(3, 1, 4, b"quiet"), entry(3, 2, 4, b"quiet")]];
    for index in 1..60 {
        rounds.push(vec![entry(0, index, 1, &[1; 200]), hard(0, 1, 1, index)]);
    }
    rounds.push(vec![snapshot(0, 50, 1)]);
    for round in &rounds {
        wal.append(round, true).unwrap();
    }
    let before = wal.usage();
    assert!(before.segments > 6);
    assert_eq!(wal.release().unwrap(), 0, "group 3 has entries in the first one");
    assert_eq!(wal.oldest_groups(), [(GroupId(3), Index(2))].into());
    rounds.push(vec![snapshot(3, 2, 4)]);
    wal.append(rounds.last().unwrap(), false).unwrap();
    assert_eq!(wal.oldest_groups(), [].into());
    assert!(wal.release().unwrap() > 4);
    let after = wal.usage();
    assert!(
        after.segments < 4 && after.live_bytes == 9 * 200 && after.written_bytes < before.written_bytes,
        "{after:?}"
    );
    disk.crash(1);
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.groups, *models(&rounds).last().unwrap());
    assert_eq!(wal.usage().live_bytes, after.live_bytes);
}

#[test]
fn markers_that_refer_to_released_entries_are_read_as_they_were_meant() {
    // The second marker lies between entries that are in no file any more; what it kept must stay.
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let mut rounds: Vec<Vec<Record>> = (1..8).map(|index| vec![entry(0, index, 1, &[1; 250])]).collect();
    rounds.push((8..16).map(|index| entry(0, index, 1, &[2; 40])).collect());
    rounds.push(vec![snapshot(0, 4, 1)]);
    rounds.push(vec![snapshot(0, 10, 1)]);
    for round in &rounds {
        wal.append(round, true).unwrap();
    }
    assert!(wal.release().unwrap() > 0);
    assert_eq!(state(&disk), *models(&rounds).last().unwrap());
}

#[test]
fn zeros_are_written_ahead_while_nobody_waits() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(&[entry(0, 1, 1, &[1; 700])], true).unwrap();
    assert_eq!(disk.used(), 1024);
    wal.prefill().unwrap();
    wal.prefill().unwrap();
    assert_eq!(disk.used(), 2048);
    wal.append(&[entry(0, 2, 1, &[1; 700])], true).unwrap();
    assert_eq!(state(&disk)[&GroupId(0)].entries.len(), 2);
}

#[test]
fn options_beyond_reason_are_refused() {
    for (segment_bytes, prefill_bytes) in [(0, 0), (2 << 30, 0), (4096, 2 << 30)] {
        let options = WalOptions { segment_bytes, prefill_bytes, salt: 0 };
        let result = Wal::open(Arc::new(MemDisk::new()), options);
        assert!(matches!(result.map(drop), Err(WalError::Refused(_))));
    }
}
