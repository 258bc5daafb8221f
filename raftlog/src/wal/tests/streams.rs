//! Snapshots as streams: written, read, sent and received in pieces, by several threads, with any disk in between.

use std::io::{ErrorKind, Read, Write};

use super::*;
use crate::disk::FileDisk;

const GROUP: GroupId = GroupId(4);
const CHUNK: usize = 256 << 10;

fn store(disk: &MemDisk) -> SnapshotStore {
    SnapshotStore::open(Arc::new(disk.clone())).unwrap()
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position * 31 % 251) as u8).collect()
}

/// A store with one snapshot, and the bytes of its file.
fn stored(length: usize) -> (SnapshotStore, Vec<u8>) {
    let store = store(&MemDisk::new());
    store.save(GROUP, Index(7), Term(2), b"members", &body(length)).unwrap();
    let raw = store.open_raw(GROUP, Index(7), Term(2)).unwrap();
    let mut bytes = vec![0; raw.length() as usize];
    raw.read_at(0, &mut bytes).unwrap();
    (store, bytes)
}

fn received(store: &SnapshotStore, bytes: &[u8], step: usize) -> Result<Received, WalError> {
    let mut receiving = store.receive(GROUP, Index(7), Term(2))?;
    for piece in bytes.chunks(step) {
        receiving.append(piece)?;
    }
    receiving.finish()
}

#[test]
fn a_store_its_writers_and_its_files_move_between_threads() {
    fn movable<T: Send>() {}
    fn shared<T: Send + Sync + Clone>() {}
    shared::<SnapshotStore>();
    movable::<SnapshotWriter>();
    movable::<SnapshotReader>();
    movable::<RawSnapshot>();
    movable::<Receiving>();
    movable::<Received>();
}

#[test]
fn pieces_of_any_length_make_the_same_file() {
    let (_, whole) = stored(2 * CHUNK + 77);
    for piece in [1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
        let disk = MemDisk::new();
        let snapshots = store(&disk);
        let mut writer = snapshots.create(GROUP, Index(7), Term(2), b"members").unwrap();
        for part in body(2 * CHUNK + 77).chunks(piece) {
            writer.write_all(part).unwrap();
        }
        writer.flush().unwrap();
        assert_eq!(writer.finish().unwrap(), whole.len() as u64);
        let name = disk.list().unwrap().remove(0);
        assert_eq!(read_whole(&disk, &name, 1 << 30).unwrap(), whole, "pieces of {piece}");
        let mut reader = snapshots.open_stored(GROUP, Index(7), Term(2)).unwrap();
        assert_eq!((reader.group(), reader.index(), reader.term()), (GROUP, Index(7), Term(2)));
        assert_eq!((reader.meta(), reader.body_bytes()), (&b"members"[..], body(2 * CHUNK + 77).len() as u64));
        let (mut read, mut part) = (Vec::new(), vec![0; piece]);
        loop {
            match reader.read(&mut part).unwrap() {
                0 => break,
                count => read.extend_from_slice(&part[..count]),
            }
        }
        assert_eq!(read, body(2 * CHUNK + 77));
        reader.finish().unwrap();
    }
}

#[test]
fn a_writer_that_is_dropped_or_fails_leaves_nothing() {
    let disk = MemDisk::new();
    let snapshots = store(&disk);
    let mut writer = snapshots.create(GROUP, Index(1), Term(1), b"").unwrap();
    writer.write_all(&body(CHUNK + 1)).unwrap();
    let twice = snapshots.create(GROUP, Index(1), Term(1), b"").map(drop);
    assert!(matches!(twice, Err(WalError::Refused(_))), "one writer at a time");
    drop(writer);
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());

    let failed = snapshots.save_with(GROUP, Index(1), Term(1), b"", |out| {
        out.write_all(b"half")?;
        Err(ErrorKind::BrokenPipe.into())
    });
    assert!(matches!(failed, Err(WalError::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe));
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());

    disk.limit(Some(CHUNK as u64));
    let mut seen = None;
    let full = snapshots.save_with(GROUP, Index(1), Term(1), b"", |out| {
        let result = out.write_all(&body(3 * CHUNK));
        seen = Some(is_full(result.as_ref().unwrap_err()));
        assert!(out.write_all(b"more").is_err(), "a hole must not stay in the middle");
        result
    });
    assert!(matches!(full, Err(WalError::NoSpace { .. })) && seen == Some(true));
    assert_eq!((disk.used(), disk.list().unwrap().len()), (0, 0));
    disk.limit(None);
    snapshots.save(GROUP, Index(1), Term(1), b"", &body(3 * CHUNK)).unwrap();
    let long = vec![0; META_BYTES_MAX + 1];
    assert!(matches!(snapshots.create(GROUP, Index(2), Term(1), &long).map(drop), Err(WalError::Refused(_))));
}

#[test]
fn a_newer_snapshot_that_comes_while_one_is_written_stays() {
    let disk = MemDisk::new();
    let snapshots = store(&disk);
    let mut writer = snapshots.create(GROUP, Index(5), Term(1), b"").unwrap();
    writer.write_all(b"late").unwrap();
    snapshots.save(GROUP, Index(9), Term(1), b"", b"newer").unwrap();
    assert!(matches!(writer.finish(), Err(WalError::Refused(_))));
    assert_eq!(disk.list().unwrap().len(), 1);
    assert_eq!(snapshots.load(GROUP).unwrap().unwrap().body, b"newer");
}

#[test]
fn a_file_that_is_being_sent_outlives_the_next_snapshot() {
    let (snapshots, whole) = stored(CHUNK * 2);
    let raw = snapshots.open_raw(GROUP, Index(7), Term(2)).unwrap();
    let mut reader = snapshots.open_newest(GROUP).unwrap().unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();
    snapshots.save(GROUP, Index(8), Term(2), b"", b"next").unwrap();
    let mut bytes = vec![0; whole.len()];
    raw.read_at(0, &mut bytes).unwrap();
    assert!(bytes == whole);
    assert!(raw.read_at(1, &mut bytes).is_err(), "beyond the end");
    reader.finish().unwrap();
    let gone = snapshots.open_raw(GROUP, Index(7), Term(2)).map(drop);
    assert!(matches!(gone, Err(WalError::Io { source, .. }) if source.kind() == ErrorKind::NotFound));
    assert!(snapshots.open_newest(GroupId(5)).unwrap().is_none());
}

#[test]
fn nothing_of_a_damaged_chunk_is_sent() {
    let disk = MemDisk::new();
    let snapshots = store(&disk);
    snapshots.save(GROUP, Index(7), Term(2), b"members", &body(3 * CHUNK + 5)).unwrap();
    let name = disk.list().unwrap().remove(0);
    let raw = snapshots.open_raw(GROUP, Index(7), Term(2)).unwrap();
    let second = (64 + 7 + 4 + CHUNK) as u64;
    disk.flip(&name, second + 100, 1).unwrap();
    raw.read_at(0, &mut vec![0; second as usize]).unwrap();
    for offset in [second, second + 101, second + CHUNK as u64] {
        let read = raw.read_at(offset, &mut [0; 4]);
        assert!(matches!(&read, Err(WalError::CorruptFile { what, .. }) if what.contains("chunk 1")), "{read:?}");
    }
    // What follows it is as it was.
    let mut last = [0; 5];
    raw.read_at(raw.length() - 5, &mut last).unwrap();
    assert_eq!(last, body(3 * CHUNK + 5)[3 * CHUNK..]);
    disk.flip(&name, 66, 1).unwrap();
    let opened = snapshots.open_raw(GROUP, Index(7), Term(2)).map(drop);
    assert!(matches!(opened, Err(WalError::CorruptFile { what, .. }) if what.contains("meta")));
}

#[test]
fn what_was_received_is_installed_as_it_was_sent() {
    let (_, whole) = stored(3 * CHUNK + 5);
    for (seed, step) in [7, 64, 65, CHUNK + 4, 10 * CHUNK].into_iter().enumerate() {
        let disk = MemDisk::new();
        let snapshots = store(&disk);
        snapshots.save(GROUP, Index(3), Term(1), b"", b"older").unwrap();
        let mut part = received(&snapshots, &whole, step).unwrap();
        assert_eq!((part.group(), part.index(), part.term()), (GROUP, Index(7), Term(2)));
        assert_eq!(part.bytes(), whole.len() as u64);
        part.reader().unwrap().finish().unwrap();
        assert_eq!(snapshots.load(GROUP).unwrap().unwrap().body, b"older", "not before it is installed");
        disk.starve(true);
        assert!(matches!(part.install(), Err(WalError::Starved { .. })));
        disk.starve(false);
        part.install().unwrap();
        assert_eq!(disk.list().unwrap().len(), 1);
        disk.crash(seed as u64);
        assert!(store(&disk).load(GROUP).unwrap().unwrap().body == body(3 * CHUNK + 5));
    }
}

#[test]
fn a_transfer_goes_on_where_it_broke_off_also_for_want_of_space() {
    let (_, whole) = stored(CHUNK + 5);
    let disk = MemDisk::new();
    let snapshots = store(&disk);
    let mut receiving = snapshots.receive(GROUP, Index(7), Term(2)).unwrap();
    assert!(receiving.is_empty() && receiving.expected().is_none());
    let mut room = 10;
    while receiving.len() < whole.len() as u64 {
        disk.limit(Some(room));
        let from = receiving.len() as usize;
        match receiving.append(&whole[from..whole.len().min(from + 50_000)]) {
            Ok(()) => assert_eq!(receiving.expected(), Some(whole.len() as u64)),
            Err(WalError::NoSpace { .. }) => assert_eq!(receiving.len(), from as u64),
            Err(other) => panic!("{other}"),
        }
        room += 30_000;
    }
    let mut part = receiving.finish().unwrap();
    part.reader().unwrap().finish().unwrap();
    part.install().unwrap();
    assert!(snapshots.load(GROUP).unwrap().unwrap().body == body(CHUNK + 5));
}

#[test]
fn what_a_peer_sends_wrong_is_found_and_leaves_nothing() {
    let (_, whole) = stored(300);
    let disk = MemDisk::new();
    let snapshots = store(&disk);
    for offset in 0..whole.len() {
        let mut bad = whole.clone();
        bad[offset] ^= 1 << (offset % 8);
        let result = received(&snapshots, &bad, 50).and_then(|part| part.reader()?.finish());
        let error = result.unwrap_err();
        assert!(matches!(error, WalError::Unusable { .. }), "{offset}: {error}");
        let short = received(&snapshots, &whole[..offset], 50).map(drop);
        assert!(matches!(short, Err(WalError::Unusable { .. })), "cut at {offset}");
    }
    let long = [whole.as_slice(), b"x"].concat();
    assert!(matches!(received(&snapshots, &long, 100).map(drop), Err(WalError::Unusable { .. })));
    let mut other = snapshots.receive(GROUP, Index(8), Term(2)).unwrap();
    assert!(matches!(other.append(&whole), Err(WalError::Unusable { .. })), "another snapshot than announced");
    assert!(matches!(other.append(b""), Err(WalError::Unusable { .. })), "and it stays so");
    drop(other);
    let mut stranger = snapshots.receive(GROUP, Index(7), Term(2)).unwrap();
    assert!(stranger.append(&[b'x'; 64]).is_err());
    drop(stranger);
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
}

#[test]
fn an_older_one_is_not_installed_over_a_newer_one() {
    let (_, whole) = stored(10);
    let disk = MemDisk::new();
    let snapshots = store(&disk);
    let mut part = received(&snapshots, &whole, 100).unwrap();
    snapshots.save(GROUP, Index(9), Term(2), b"", b"newer").unwrap();
    assert!(matches!(part.install(), Err(WalError::Refused(_))));
    drop(part);
    assert_eq!(disk.list().unwrap().len(), 1);
}

#[test]
fn what_was_half_made_or_half_received_is_swept_at_the_next_start() {
    let (_, whole) = stored(1000);
    for seed in 0..40 {
        let disk = MemDisk::new();
        let snapshots = store(&disk);
        let mut writer = snapshots.create(GROUP, Index(9), Term(1), b"").unwrap();
        writer.write_all(b"half").unwrap();
        let mut half = snapshots.receive(GROUP, Index(7), Term(2)).unwrap();
        half.append(&whole[..100]).unwrap();
        let complete = received(&snapshots, &whole, 100).unwrap();
        disk.sync_dir().unwrap();
        if seed == 0 {
            disk.restart();
        } else {
            disk.crash(seed);
        }
        let again = store(&disk);
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
        let fresh = again.receive(GROUP, Index(7), Term(2)).unwrap();
        let name = disk.list().unwrap();
        // Objects of the life before the crash do not touch the files of this one.
        drop((writer, half, complete));
        assert_eq!(disk.list().unwrap(), name);
        assert!(fresh.is_empty());
    }
}

#[test]
fn a_crash_at_any_sync_of_a_received_snapshot_leaves_the_old_or_the_new_one() {
    let (_, whole) = stored(700);
    let (mut old, mut new) = (0, 0);
    for seed in 0..300 {
        let disk = MemDisk::new();
        store(&disk).save(GROUP, Index(1), Term(1), b"", b"old").unwrap();
        disk.fail_sync_after(seed % 3);
        let installed = received(&store(&disk), &whole, 100).and_then(|mut part| part.install()).is_ok();
        disk.crash(seed);
        let loaded = store(&disk).load(GROUP).unwrap().unwrap();
        assert!(loaded.index == Index(7) || !installed);
        if loaded.index == Index(7) {
            assert!(loaded.body == body(700));
            new += 1;
        } else {
            assert_eq!(loaded.body, b"old");
            old += 1;
        }
    }
    assert!(old > 50 && new > 50, "old {old} new {new}");
}

/// The largest body's numbers fit the header and come back.
#[test]
fn a_snapshot_of_64_gib_can_be_represented() {
    const { assert!(SNAPSHOT_BYTES_MAX >= 64 << 30) };
    let (_, whole) = stored(10);
    let mut head = whole[..64].to_vec();
    head[40..48].copy_from_slice(&(64_u64 << 30).to_be_bytes());
    let checksum = format::header_checksum(head.as_slice().try_into().unwrap());
    head[12..16].copy_from_slice(&checksum.to_be_bytes());
    let snapshots = store(&MemDisk::new());
    let mut receiving = snapshots.receive(GROUP, Index(7), Term(2)).unwrap();
    receiving.append(&head).unwrap();
    assert_eq!(receiving.expected(), Some(64 + 7 + (64 << 30) + 4 * (64 << 30) / CHUNK as u64));
}

#[test]
fn a_real_disk_streams_as_well() {
    let path = std::env::temp_dir().join(format!("raftlog-streams-{}", std::process::id()));
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(&path).unwrap());
    let snapshots = SnapshotStore::open(Arc::clone(&disk)).unwrap();
    let part = body(1 << 20);
    // Beyond the step after which a file is synced on the way.
    snapshots
        .save_with(GROUP, Index(7), Term(2), b"members", |out| (0..20).try_for_each(|_| out.write_all(&part)))
        .unwrap();
    let raw = snapshots.open_raw(GROUP, Index(7), Term(2)).unwrap();
    let mut receiving = snapshots.receive(GROUP, Index(7), Term(2)).unwrap();
    let mut buffer = vec![0; 300_000];
    while receiving.len() < raw.length() {
        let step = (raw.length() - receiving.len()).min(buffer.len() as u64) as usize;
        raw.read_at(receiving.len(), &mut buffer[..step]).unwrap();
        receiving.append(&buffer[..step]).unwrap();
    }
    let mut part = receiving.finish().unwrap();
    part.reader().unwrap().finish().unwrap();
    part.install().unwrap();
    let mut reader = snapshots.open_newest(GROUP).unwrap().unwrap();
    let mut read = 0;
    std::io::copy(&mut reader, &mut Counting(&mut read)).unwrap();
    reader.finish().unwrap();
    assert_eq!((read, disk.list().unwrap().len()), (20 << 20, 1));
    drop((snapshots, disk));
    std::fs::remove_dir_all(&path).unwrap();
}

struct Counting<'a>(&'a mut u64);

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        *self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
