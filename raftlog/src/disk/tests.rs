//! One suite for every disk, then what only the simulated one can do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A directory that goes away with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("raftlog-disk-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Scratch(std::env::temp_dir().join(name))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Runs a check on every disk; `again` opens the disk as the next process would.
fn check(test: impl Fn(&dyn Fn() -> Arc<dyn Disk>)) {
    let memory = MemDisk::new();
    test(&|| {
        memory.restart();
        Arc::new(memory.clone())
    });
    let scratch = Scratch::new();
    test(&|| Arc::new(FileDisk::open(&scratch.path().join("deep/data")).unwrap()));
}

fn content(disk: &dyn Disk, name: &str) -> Vec<u8> {
    read_whole(disk, name, 1 << 20).unwrap()
}

#[test]
fn a_file_reads_as_it_was_written_also_by_the_next_process() {
    check(|again| {
        let disk = again();
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
        let mut file = disk.create("b.log").unwrap();
        file.write_at(0, b"hello").unwrap();
        file.write_at(8, b"world").unwrap();
        file.write_zeros(4, 2).unwrap();
        file.sync_data().unwrap();
        disk.create("a.log").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(file.length().unwrap(), 13);
        drop((file, disk));
        let disk = again();
        assert_eq!(disk.list().unwrap(), ["a.log", "b.log"]);
        assert_eq!(content(disk.as_ref(), "b.log"), b"hell\0\0\0\0world");
        let file = disk.open("b.log").unwrap();
        let mut middle = [0; 5];
        file.read_at(8, &mut middle).unwrap();
        assert_eq!(&middle, b"world");
        assert_eq!(file.read_at(9, &mut middle).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    });
}

#[test]
fn create_empties_and_rename_replaces() {
    check(|again| {
        let disk = again();
        disk.create("x").unwrap().write_at(0, b"old").unwrap();
        disk.create("y").unwrap().write_at(0, b"new").unwrap();
        disk.rename("y", "x").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["x"]);
        assert_eq!(content(disk.as_ref(), "x"), b"new");
        disk.create("x").unwrap();
        assert_eq!(content(disk.as_ref(), "x"), b"");
        disk.remove("x").unwrap();
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    });
}

#[test]
fn zeros_overwrite_what_was_there_over_any_length() {
    check(|again| {
        let disk = again();
        let mut file = disk.create("z").unwrap();
        file.write_at(0, &[7; 600_000]).unwrap();
        file.write_zeros(1, 599_998).unwrap();
        let bytes = content(disk.as_ref(), "z");
        assert_eq!((bytes[0], bytes[599_999]), (7, 7));
        assert!(bytes[1..599_999].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn what_is_not_there_or_has_no_proper_name_is_an_error() {
    check(|again| {
        let disk = again();
        for result in [disk.open("no").map(drop), disk.remove("no"), disk.rename("no", "yes")] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
        }
        for name in ["", ".", "..", "a/b", "/etc", "a\0", ".hidden", &"x".repeat(200)] {
            assert_eq!(disk.create(name).map(drop).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        disk.create("big").unwrap().write_zeros(0, 11).unwrap();
        assert_eq!(read_whole(disk.as_ref(), "big", 10).unwrap_err().kind(), ErrorKind::FileTooLarge);
    });
}

#[test]
fn a_staged_file_appears_complete_or_not_at_all() {
    check(|again| {
        let disk = again();
        let error = stage(disk.as_ref(), "s", &mut |file| {
            file.write_at(0, b"half")?;
            Err(ErrorKind::StorageFull.into())
        });
        assert!(is_full(&error.map(drop).unwrap_err()));
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
        stage(disk.as_ref(), "s", &mut |file| file.write_at(0, b"whole")).unwrap();
        assert_eq!(disk.list().unwrap(), ["s.new"]);
        publish(disk.as_ref(), "s").unwrap();
        assert_eq!(disk.list().unwrap(), ["s"]);
    });
}

#[test]
fn a_directory_has_one_owner() {
    let scratch = Scratch::new();
    let first = FileDisk::open(scratch.path()).unwrap();
    let second = FileDisk::open(scratch.path()).map(drop).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::ResourceBusy);
    assert!(second.to_string().contains("another process"), "{second}");
    drop(first);
    FileDisk::open(scratch.path()).unwrap();
}

#[test]
fn a_crash_keeps_what_was_synced_and_tears_the_rest_by_sectors() {
    let (mut lost, mut whole, mut torn) = (0, 0, 0);
    for seed in 0..400 {
        let disk = MemDisk::new();
        let mut file = disk.create("f").unwrap();
        file.write_at(0, &[1; 3000]).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir().unwrap();
        file.write_at(100, &[2; 2000]).unwrap();
        disk.crash(seed);
        assert!(file.length().is_err(), "an old file must not be used");
        let bytes = content(&disk, "f");
        assert_eq!(bytes.len(), 3000);
        assert!(bytes[..100].iter().chain(&bytes[2100..]).all(|byte| *byte == 1));
        for sector in bytes[..2100].chunks(SECTOR_BYTES) {
            let body = if sector[0] == 1 && sector.len() == SECTOR_BYTES { &sector[100..] } else { sector };
            assert!(body.iter().all(|byte| *byte == body[0]), "a sector is whole");
        }
        match bytes[100..2100].iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            2000 => whole += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 50 && whole > 50 && torn > 50, "lost {lost} whole {whole} torn {torn}");
}

#[test]
fn a_crash_may_undo_names_that_were_not_synced() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let disk = MemDisk::new();
        disk.create("old").unwrap();
        disk.sync_dir().unwrap();
        disk.rename("old", "new").unwrap();
        disk.create("fresh").unwrap();
        disk.crash(seed);
        seen.insert(disk.list().unwrap());
    }
    let all = [vec!["fresh", "new"], vec!["fresh", "old"], vec!["new"], vec!["old"]];
    assert_eq!(seen, all.map(|names| names.into_iter().map(String::from).collect::<Vec<_>>()).into());
}

#[test]
fn a_full_disk_takes_what_fits_and_overwrites_freely() {
    let disk = MemDisk::new();
    disk.limit(Some(10));
    let mut file = disk.create("f").unwrap();
    assert!(is_full(&file.write_at(0, &[1; 12]).unwrap_err()));
    assert_eq!(content(&disk, "f"), [1; 10]);
    file.write_at(0, &[2; 10]).unwrap();
    disk.limit(Some(12));
    file.write_at(4, &[3; 8]).unwrap();
    assert_eq!(disk.used(), 12);
    disk.remove("f").unwrap();
    assert_eq!(disk.used(), 0);
}

#[test]
fn what_a_failed_sync_should_have_saved_is_lost_unless_written_again() {
    for again in [false, true] {
        let disk = MemDisk::new();
        let mut file = disk.create("f").unwrap();
        disk.sync_dir().unwrap();
        disk.fail_sync_after(0);
        file.write_at(0, b"data").unwrap();
        file.sync_data().unwrap_err();
        assert_eq!(content(&disk, "f"), b"data", "readers still see it");
        if again {
            file.write_at(0, b"data").unwrap();
        }
        file.sync_data().unwrap();
        disk.crash(1);
        assert_eq!(content(&disk, "f"), if again { b"data".as_slice() } else { b"" });
    }
}

#[test]
fn the_same_seed_crashes_alike() {
    let run = |seed| {
        let disk = MemDisk::new();
        for name in ["a", "b", "c"] {
            disk.create(name).unwrap().write_at(0, &[9; 5000]).unwrap();
        }
        disk.crash(seed);
        let names = disk.list().unwrap();
        names.into_iter().map(|name| (content(&disk, &name), name)).collect::<Vec<_>>()
    };
    assert!((0..32).all(|seed| run(seed) == run(seed)));
}
