//! Seeded rounds, crashes and faults against the model: nothing that was synced is ever lost or changed.

use super::*;

const SEEDS: u64 = 4000;
const STEPS: u64 = 60;

/// A log under test beside what it may hold.
struct Run {
    random: SplitMix,
    disk: MemDisk,
    wal: Option<Wal>,
    /// What the log must hold now.
    model: Model,
    /// What it may hold after a crash: the state at the last sync, then after each later round.
    possible: Vec<Model>,
    crashes: u64,
    released: u64,
    reused: u64,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = SplitMix(seed);
        random.next();
        let disk = MemDisk::new();
        let (model, possible) = (Model::new(), vec![Model::new()]);
        let mut run = Run { random, disk, wal: None, model, possible, crashes: 0, released: 0, reused: 0 };
        run.reopen();
        run
    }

    fn step(&mut self) {
        match self.random.below(42) {
            0..26 => self.append(),
            40.. => self.read(),
            26..29 => self.release(),
            29..31 => self.seal(),
            31..33 => self.prefill(),
            33..35 => self.disk.fail_sync_after(self.random.next() % 4),
            35 => self.disk.limit(Some(self.disk.used() + self.random.below(3000))),
            36 => self.disk.fill_at_write_after(self.random.next() % 4),
            37 => {
                // Killed: everything written is still there.
                self.disk.limit(None);
                self.disk.restart();
                self.reopen();
            }
            _ => self.crash(),
        }
    }

    fn append(&mut self) {
        let round: Vec<Record> = self.round();
        let sync = self.random.below(3) > 0;
        let Some(wal) = &mut self.wal else { return };
        let before = wal.tail.sequence;
        let result = wal.append(&round, sync);
        let mut next = self.model.clone();
        apply(&mut next, &round);
        match result {
            Ok(()) => {
                self.reused +=
                    u64::from(wal.tail.sequence > before && header(&self.disk, wal.tail.sequence).stale_end > 0);
                self.model = next;
                if sync {
                    self.possible.clear();
                }
                self.possible.push(self.model.clone());
            }
            Err(WalError::NoSpace { .. }) => self.disk.limit(None),
            Err(WalError::Poisoned { .. }) => {
                // The round may have reached the disk. A poisoned log is good for nothing but a restart.
                self.possible.push(next.clone());
                self.wal = None;
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn round(&mut self) -> Vec<Record> {
        let mut ahead = self.model.clone();
        let mut round = Vec::new();
        for _ in 0..1 + self.random.below(5) {
            let group = self.random.below(3) as u32;
            let known = ahead.get(&GroupId(group)).cloned().unwrap_or_default();
            let low = known.snapshot.map_or(0, |(index, _)| index.0);
            let last = known.entries.last().map_or(low, |(index, _, _)| index.0);
            let term = known.hard_state.term.0.max(1);
            let record = match self.random.below(12) {
                0 => hard(group, term + 1, self.random.below(4), last),
                1 => hard(group, term, 1, low + self.random.below(last - low + 1)),
                2 if last > low => {
                    let (index, term, _) = known.entries[self.random.below(last - low) as usize];
                    snapshot(group, index.0, term.0)
                }
                3 => snapshot(group, last + 1 + self.random.below(5), term),
                4 if last > low => {
                    let index = low + 1 + self.random.below(last - low);
                    self.entry(group, index, term + 1)
                }
                _ => self.entry(group, last + 1, term),
            };
            apply(&mut ahead, std::slice::from_ref(&record));
            round.push(record);
        }
        round
    }

    fn entry(&mut self, group: u32, index: u64, term: u64) -> Record {
        let byte = self.random.next() as u8;
        let length = if self.random.below(10) == 0 { 900 } else { 60 };
        let length = self.random.below(length) as usize;
        entry(group, index, term, &vec![byte; length])
    }

    fn release(&mut self) {
        let Some(wal) = &mut self.wal else { return };
        match wal.release() {
            Ok(segments) => self.released += segments as u64,
            Err(WalError::Poisoned { .. }) => self.wal = None,
            Err(WalError::Io { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn seal(&mut self) {
        let Some(wal) = &mut self.wal else { return };
        match wal.seal() {
            Ok(()) => self.possible = vec![self.model.clone()],
            Err(WalError::Poisoned { .. }) => self.wal = None,
            Err(WalError::NoSpace { .. }) => self.disk.limit(None),
            Err(other) => panic!("{other}"),
        }
    }

    fn prefill(&mut self) {
        let Some(wal) = &mut self.wal else { return };
        match wal.prefill() {
            Ok(()) | Err(WalError::NoSpace { .. }) => {}
            Err(WalError::Poisoned { .. }) => self.wal = None,
            Err(other) => panic!("{other}"),
        }
    }

    fn read(&mut self) {
        let max_bytes = self.random.below(2000);
        if let Some(wal) = &mut self.wal {
            check_read(wal, &self.model, max_bytes);
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.disk.limit(None);
        self.disk.crash(self.random.next());
        self.reopen();
    }

    /// What comes back must be possible, and from then on it is durable.
    fn reopen(&mut self) {
        self.wal = None;
        let (wal, recovered) = loop {
            match open(&self.disk) {
                Ok(opened) => break opened,
                // A sync or write that was told to fail did so at the start; the operator starts it again.
                Err(WalError::Io { .. } | WalError::NoSpace { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        };
        let found = self.possible.iter().rposition(|model| *model == recovered.groups);
        assert!(found.is_some(), "not a state that may come back: {:#?}", recovered.groups);
        self.model = recovered.groups;
        self.possible = vec![self.model.clone()];
        self.wal = Some(wal);
        self.read();
    }
}

#[test]
fn what_was_synced_comes_back_after_any_crash() {
    let only = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = only.map_or(0..SEEDS, |seed| seed..seed + 1);
    let (mut crashes, mut released, mut reused) = (0, 0, 0);
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            (0..STEPS).for_each(|_| run.step());
            run.crash();
            (run.crashes, run.released, run.reused)
        });
        let Ok((crashed, gone, again)) = run else { panic!("replay with SEED={seed}") };
        crashes += crashed;
        released += gone;
        reused += again;
    }
    let enough = crashes > 10_000 && released > 4_000 && reused > 1_500;
    assert!(only.is_some() || enough, "{crashes} crashes, {released} released, {reused} reused");
}
