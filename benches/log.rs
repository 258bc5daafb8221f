//! The log without processes, sockets or threads: what agreement costs in CPU, and what the disk adds.

#![allow(clippy::expect_used, reason = "a benchmark that cannot run shall stop")]

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raftlog::{
    Action, Driver, DriverConfig, GroupId, Index, NodeId, Record, Term,
    disk::FileDisk,
    driver::{GroupStart, Members, SnapshotStart, TICK_MS, Tuning},
    wal::{Wal, WalOptions},
};

/// Three drivers in one thread, whose disks and wires take no time.
struct Fleet {
    drivers: BTreeMap<NodeId, Driver>,
    now_ms: u64,
    committed: u64,
    proven: u64,
    token: u64,
}

impl Fleet {
    /// A fleet whose elections are over: the leader of all groups with it.
    fn settled(groups: u32) -> (Self, NodeId) {
        let ids: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let driver = |id: &NodeId| {
            // No snapshots: they would be the owner's work.
            let tuning = Tuning { spread: false, ..Tuning::default() };
            let config =
                DriverConfig { compact_entries: u64::MAX / 2, compact_bytes: u64::MAX, ..DriverConfig::new(*id, id.0) };
            let config = DriverConfig { tuning, memory_bytes: 1 << 20, ..config };
            let start = |group| GroupStart {
                group: GroupId(group),
                term: Term(0),
                vote: None,
                commit: Index(0),
                snapshot: Some(SnapshotStart { index: Index(1), term: Term(1), meta: Members::founders(&ids) }),
                entries: Vec::new(),
            };
            (*id, Driver::new(config, (0..groups).map(start).collect()).expect("founders agree with themselves"))
        };
        let mut fleet =
            Self { drivers: ids.iter().map(driver).collect(), now_ms: 0, committed: 0, proven: 0, token: 0 };
        for _ in 0..500 {
            fleet.tick();
        }
        let leader = fleet.drivers.iter().find(|(_, driver)| driver.leads(GroupId(0))).map(|(id, _)| *id);
        let leader = leader.expect("five seconds suffice for an election");
        for group in 1..groups {
            if let Some(other) = fleet.drivers.values_mut().find(|driver| driver.leads(GroupId(group))) {
                other.transfer(GroupId(group), leader);
            }
            fleet.carry();
        }
        for _ in 0..500 {
            fleet.tick();
        }
        let led = (0..groups).filter(|group| fleet.drivers[&leader].leads(GroupId(*group))).count();
        assert_eq!(led as u32, groups, "one replica leads them all");
        (fleet, leader)
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        for driver in self.drivers.values_mut() {
            driver.set_now(self.now_ms);
            driver.handle_tick();
        }
        self.carry();
    }

    /// Until nobody has anything to do.
    fn carry(&mut self) {
        let mut wires: VecDeque<(NodeId, NodeId, Bytes)> = VecDeque::new();
        loop {
            let mut quiet = true;
            for (id, driver) in &mut self.drivers {
                for action in driver.poll() {
                    quiet = false;
                    match action {
                        Action::Persist { round, .. } => driver.handle_persisted(round),
                        Action::Send { to, frame } => wires.push_back((*id, to, frame)),
                        Action::Apply { entries, .. } if id.0 == 1 => self.committed += entries.len() as u64,
                        Action::ReadReady { .. } => self.proven += 1,
                        Action::Broken { why, .. } => panic!("{id}: {why}"),
                        _ => {}
                    }
                }
            }
            if quiet {
                return;
            }
            for (from, to, frame) in wires.drain(..) {
                if let Some(driver) = self.drivers.get_mut(&to) {
                    driver.handle_frame(from, &frame);
                }
            }
        }
    }

    fn commit(&mut self, leader: NodeId, count: u64, data: &Bytes) {
        let before = self.committed;
        if let Some(driver) = self.drivers.get_mut(&leader) {
            for _ in 0..count {
                self.token += 1;
                driver.propose(GroupId(0), self.token, data.clone());
            }
        }
        self.carry();
        assert_eq!(self.committed - before, count, "each was committed");
    }

    fn read(&mut self, leader: NodeId, count: u64) {
        let before = self.proven;
        if let Some(driver) = self.drivers.get_mut(&leader) {
            assert!((0..count).all(|context| driver.read_index(GroupId(0), context)));
        }
        self.carry();
        assert_eq!(self.proven - before, count, "each was proven");
    }
}

/// CPU of all three replicas for entries of 100 bytes, proposed at the leader so many at once.
fn commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit on 3 replicas, 100 bytes");
    let data = Bytes::from(vec![7; 100]);
    for batch in [1, 64, 1024] {
        let (mut fleet, leader) = Fleet::settled(1);
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
            bencher.iter(|| fleet.commit(leader, batch, &data));
        });
    }
    group.finish();
}

/// CPU of all three replicas for linearizable reads, asked for at the leader so many at once.
fn reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ReadIndex on 3 replicas");
    for batch in [1, 64, 1024] {
        let (mut fleet, leader) = Fleet::settled(1);
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
            bencher.iter(|| fleet.read(leader, batch));
        });
    }
    group.finish();
}

/// CPU of all three replicas for one second in which nothing happens.
fn idle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("an idle second of 3 replicas, by groups");
    for groups in [1, 100, 1000] {
        let (mut fleet, _) = Fleet::settled(groups);
        group.bench_function(BenchmarkId::from_parameter(groups), |bencher| {
            bencher.iter(|| (0..1000 / TICK_MS).for_each(|_| fleet.tick()));
        });
    }
    group.finish();
}

/// One round of the log: one write and one sync, so many entries of 100 bytes in it.
fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a round of the log, 100 bytes an entry");
    for batch in [1, 64, 1024] {
        for (kind, sync) in [("synced", true), ("not synced", false)] {
            let place = Place::new(&format!("{batch}-{sync}"));
            let disk = FileDisk::open(&place.0).expect("the folder was just made");
            let (mut wal, _) =
                Wal::open(Arc::new(disk), WalOptions::default()).expect("an empty folder is an empty log");
            let mut index = 0;
            group.throughput(Throughput::Elements(batch));
            group.bench_function(BenchmarkId::new(kind, batch), |bencher| {
                bencher.iter(|| {
                    let records: Vec<Record> = (0..batch).map(|_| entry(&mut index)).collect();
                    wal.append(&records, sync).expect("the disk has room");
                    // All but the newest entries go, or the disk would fill.
                    if index % (1 << 16) < batch {
                        let through = Record::Snapshot { group: GroupId(0), index: Index(index), term: Term(1) };
                        wal.append(&[through], false).expect("the disk has room");
                        wal.release().expect("old segments can be removed");
                    }
                });
            });
        }
    }
    group.finish();
}

fn entry(index: &mut u64) -> Record {
    *index += 1;
    Record::Entry { group: GroupId(0), index: Index(*index), term: Term(1), data: Bytes::from_static(&[7; 100]) }
}

/// A folder that is removed with it. Under the target folder: a temporary one may be in memory, where a sync is nothing.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("log-{}-{name}", std::process::id()));
        fs::create_dir_all(&place).expect("the target folder can be written to");
        Self(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

criterion_group!(benches, commits, reads, idle, rounds);
criterion_main!(benches);
