//! One machine of a simulated fleet: its disk, its clock, and the process that runs on it, if one does.

use std::{collections::VecDeque, rc::Rc};

use super::{
    random::Random,
    store::{Remains, Store},
    table::Table,
};
use crate::{
    Driver,
    disk::MemDisk,
    driver::{Glance, Install, Members},
    types::{GroupId, Index, NodeId, Record, Term},
    wal::Received,
};

/// A machine; processes come and go on it.
pub struct Machine {
    /// Who the process here is; none: the machine is free.
    pub id: Option<NodeId>,
    /// Whether it is among those that the fleet began with.
    pub founder: bool,
    pub disk: MemDisk,
    pub process: Option<Box<Process>>,
    /// What the last process left.
    pub remains: Option<Remains>,
    /// Counts the processes, so that what was meant for an earlier one is known.
    pub life: u64,
    /// A byte of the disk was changed behind the back of the process.
    pub damaged: bool,
    pub paused_until_us: u64,
    /// How long after a pause what came meanwhile is read.
    pub wakes_us: u64,
    /// Nothing reaches the disk before.
    pub stalled_until_us: u64,
    /// How long a round takes to be written, at least and at most.
    pub write_us: (u64, u64),
    clock: Clock,
}

/// A clock that goes too fast or too slow.
#[derive(Clone, Copy)]
struct Clock {
    /// Thousandths.
    rate: u64,
    local_us: u64,
    seen_us: u64,
}

/// A driver, and what its owner keeps.
pub struct Process {
    pub driver: Driver,
    pub store: Store,
    pub groups: Vec<Hosted>,
    /// What waits for the log thread.
    pub queue: VecDeque<Work>,
    /// The log thread is at it.
    pub working: bool,
    /// The disk has no room.
    pub full: bool,
    /// Reads that are proven and wait for an index to be applied.
    pub reads: Vec<(GroupId, u64, u64)>,
    /// Snapshots that came in and were taken: to be installed.
    pub files: Vec<Arrived>,
    /// Snapshots that are installed: to be the state.
    pub restores: Vec<(GroupId, Index, Table)>,
}

/// A group as its owner has it.
pub struct Hosted {
    pub table: Table,
    /// As of the last step.
    pub seen: Glance,
    /// The members as of what is applied, and as of the step before.
    pub members: Rc<Members>,
    pub members_before: Rc<Members>,
}

/// A snapshot file that came in.
pub struct Arrived {
    pub place: Install,
    pub file: Received,
    pub table: Table,
}

/// What the log thread does, in order.
pub enum Work {
    Round { round: u64, records: Vec<Record>, installs: Vec<Install>, sync: bool },
    Read { group: GroupId, from: Index, to: Index, max_bytes: u64 },
}

/// Rounds that are stored together.
#[derive(Default)]
pub struct Batch {
    pub round: u64,
    pub records: Vec<Record>,
    pub installs: Vec<Install>,
    pub sync: bool,
}

impl Machine {
    pub fn new() -> Self {
        Self {
            id: None,
            founder: false,
            disk: MemDisk::new(),
            process: None,
            remains: None,
            life: 0,
            damaged: false,
            paused_until_us: 0,
            wakes_us: 0,
            stalled_until_us: 0,
            write_us: (50, 1000),
            clock: Clock { rate: 1000, local_us: 0, seen_us: 0 },
        }
    }

    /// Whether a process is there and goes on.
    pub fn awake(&self, now_us: u64) -> bool {
        self.process.is_some() && self.paused_until_us <= now_us
    }

    /// The clock of this machine.
    pub fn now_ms(&mut self, now_us: u64) -> u64 {
        let clock = &mut self.clock;
        clock.local_us += (now_us - clock.seen_us) * clock.rate / 1000;
        clock.seen_us = now_us;
        clock.local_us / 1000
    }

    /// The clock goes at another rate from now on, in thousandths.
    pub fn skew(&mut self, now_us: u64, rate: u64) {
        self.now_ms(now_us);
        self.clock.rate = rate;
    }

    /// When the next tick comes.
    pub fn next_tick_us(&self, now_us: u64) -> u64 {
        now_us + TICK_US * 1000 / self.clock.rate
    }
}

impl Process {
    /// Takes the rounds at the head of the queue that are stored with one write: those with files end it.
    pub fn gather(&mut self, random: &mut Random) -> Option<Batch> {
        let mut batch: Option<Batch> = None;
        let most = random.range(1, 6);
        for _ in 0..most {
            if batch.as_ref().is_some_and(|batch| !batch.installs.is_empty()) {
                break;
            }
            match self.queue.pop_front() {
                Some(Work::Round { round, records, installs, sync }) => {
                    let batch = batch.get_or_insert_default();
                    batch.round = round;
                    batch.records.extend(records);
                    batch.installs = installs;
                    batch.sync |= sync;
                }
                Some(read) => {
                    self.queue.push_front(read);
                    break;
                }
                None => break,
            }
        }
        batch
    }

    /// Takes the files to be installed with a batch; those that are not there are named.
    pub fn take_files(&mut self, installs: &[Install]) -> Result<Vec<Received>, Install> {
        let mut files = Vec::new();
        for install in installs {
            let place = self.files.iter().position(|arrived| arrived.place == *install).ok_or(*install)?;
            let arrived = self.files.swap_remove(place);
            self.restores.push((install.group, install.index, arrived.table));
            files.push(arrived.file);
        }
        Ok(files)
    }

    pub fn applied(&self, group: GroupId) -> u64 {
        self.groups[group.0 as usize].table.index
    }
}

/// What a snapshot is known by on its way.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub group: GroupId,
    pub index: Index,
    pub term: Term,
}

/// A tick of a clock that goes right.
const TICK_US: u64 = crate::driver::TICK_MS * 1000;
