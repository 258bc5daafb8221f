//! Snapshot files and small files: as a whole or an error.

use super::*;

const GROUP: GroupId = GroupId(4);

fn store(disk: &MemDisk) -> SnapshotStore {
    SnapshotStore::open(Arc::new(disk.clone())).unwrap()
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position * 31 % 251) as u8).collect()
}

#[test]
fn a_snapshot_comes_back_as_it_was_saved_at_any_length() {
    let chunk = 256 << 10;
    for (index, length) in [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk + 17].into_iter().enumerate() {
        let disk = MemDisk::new();
        let index = Index(index as u64 + 1);
        store(&disk).save(GROUP, index, Term(2), b"members", &body(length)).unwrap();
        disk.crash(length as u64);
        let expected = Snapshot { index, term: Term(2), meta: b"members".to_vec(), body: body(length) };
        assert_eq!(store(&disk).load(GROUP).unwrap(), Some(expected));
        assert_eq!(store(&disk).load(GroupId(5)).unwrap(), None);
        assert_eq!(store(&disk).newest_of_all().unwrap(), [(GROUP, (index, Term(2)))].into());
    }
}

#[test]
fn the_bytes_of_a_snapshot_stay_as_they_are() {
    let disk = MemDisk::new();
    store(&disk).save(GROUP, Index(10), Term(2), b"m", b"body").unwrap();
    let bytes = read_whole(&disk, "snap-00000004-000000000000000a-0000000000000002.snap", 1 << 20).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "72616674736e700a000000015223bdf80000000400040000000000000000000a00000000000000020000000000000004000000018c938ce000000000000000006d453837ca626f6479"
    );
    save_small(&disk, "who", b"me").unwrap();
    let bytes = read_whole(&disk, "who.dat", 1 << 20).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "726166746461740a000000018b3d3da4000000026d65");
}

#[test]
fn a_newer_snapshot_removes_the_older_one_and_never_the_other_way() {
    let disk = MemDisk::new();
    let snapshots = store(&disk);
    snapshots.save(GroupId(9), Index(1), Term(1), b"", b"other group").unwrap();
    for index in [3, 7, 7, 12] {
        snapshots.save(GROUP, Index(index), Term(2), b"", &index.to_be_bytes()).unwrap();
    }
    let refused = snapshots.save(GROUP, Index(11), Term(2), b"", b"");
    assert!(matches!(refused, Err(WalError::Refused(_))));
    assert_eq!(disk.list().unwrap().len(), 2);
    assert_eq!(snapshots.load(GROUP).unwrap().unwrap().body, 12u64.to_be_bytes());
}

#[test]
fn a_crash_at_any_sync_of_a_save_leaves_the_old_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..300 {
        let disk = MemDisk::new();
        store(&disk).save(GROUP, Index(1), Term(1), b"", b"old").unwrap();
        disk.fail_sync_after(seed % 3);
        let saved = store(&disk).save(GROUP, Index(2), Term(1), b"", b"new").is_ok();
        disk.crash(seed);
        let body = store(&disk).load(GROUP).unwrap().unwrap().body;
        assert!(body == b"new" || (body == b"old" && !saved));
        if body == b"old" {
            old += 1
        } else {
            new += 1
        }
        assert!(disk.list().unwrap().iter().all(|name| name.ends_with(".snap")), "leftovers are swept");
    }
    assert!(old > 50 && new > 50, "old {old} new {new}");
}

#[test]
fn every_flip_and_every_cut_of_a_snapshot_is_an_error_that_names_the_file() {
    let disk = MemDisk::new();
    store(&disk).save(GROUP, Index(1), Term(1), b"old", b"the one before").unwrap();
    let older = disk.copy();
    store(&disk).save(GROUP, Index(2), Term(1), b"meta", &body(500)).unwrap();
    // As after a crash between the new name and the removal of the old file.
    let old_name = older.list().unwrap().remove(0);
    let old_bytes = read_whole(&older, &old_name, 1 << 20).unwrap();
    let name = disk.list().unwrap().remove(0);
    disk.create(&old_name).unwrap().write_at(0, &old_bytes).unwrap();
    let length = read_whole(&disk, &name, 1 << 20).unwrap().len() as u64;
    for offset in 0..length {
        for cut in [false, true] {
            let disk = disk.copy();
            if cut {
                disk.truncate(&name, offset).unwrap();
            } else {
                disk.flip(&name, offset, 4).unwrap();
            }
            let error = store(&disk).load(GROUP).unwrap_err();
            assert!(matches!(error, WalError::CorruptFile { .. } | WalError::Foreign { .. }), "{offset} {error}");
            assert!(error.to_string().contains(&name), "{error}");
        }
    }
}

#[test]
fn a_full_disk_keeps_the_old_snapshot() {
    let disk = MemDisk::new();
    let snapshots = store(&disk);
    snapshots.save(GROUP, Index(1), Term(1), b"", b"old").unwrap();
    let used = disk.used();
    disk.limit(Some(used + 50));
    let full = snapshots.save(GROUP, Index(2), Term(1), b"", b"new");
    assert!(matches!(full, Err(WalError::NoSpace { .. })));
    assert_eq!(disk.used(), used, "what was half written gives its room back");
    assert_eq!(snapshots.load(GROUP).unwrap().unwrap().body, b"old");
}

#[test]
fn a_small_file_is_replaced_as_a_whole_and_checked() {
    for seed in 0..100 {
        let disk = MemDisk::new();
        assert_eq!(load_small(&disk, "identity").unwrap(), None);
        save_small(&disk, "identity", b"one").unwrap();
        disk.fail_sync_after(seed % 3);
        let saved = save_small(&disk, "identity", b"two").is_ok();
        disk.crash(seed);
        let value = load_small(&disk, "identity").unwrap().unwrap();
        assert!(value == b"two" || (value == b"one" && !saved));
        for offset in 0..23 {
            let damaged = disk.copy();
            damaged.flip("identity.dat", offset, 1).unwrap();
            let error = load_small(&damaged, "identity").unwrap_err();
            assert!(error.to_string().contains("identity.dat"), "{error}");
            disk.copy().truncate("identity.dat", offset).unwrap();
        }
        disk.rename("identity.dat", "peers.dat").unwrap();
        assert!(matches!(load_small(&disk, "peers"), Err(WalError::CorruptFile { .. })), "the name is checked too");
    }
    let disk = MemDisk::new();
    for name in ["", "Big", "a.b", "a/b"] {
        assert!(matches!(save_small(&disk, name, b""), Err(WalError::Refused(_))));
    }
    assert!(matches!(save_small(&disk, "x", &vec![0; SMALL_BYTES_MAX + 1]), Err(WalError::Refused(_))));
}
