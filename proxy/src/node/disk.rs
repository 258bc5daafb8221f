//! The log thread: stores rounds in order, several in one sync when they wait, and says when they are durable.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use raftlog::{
    GroupId, Index, Record,
    wal::{Received, WalError},
};
use replica::storage::Storage;
use tracing::{error, info, warn};

use super::{input::Input, threads};
use crate::metrics::LogCounters;

/// A round to be stored.
pub struct Round {
    pub round: u64,
    pub records: Vec<Record>,
    /// Snapshots that came in, to be installed before.
    pub received: Vec<Received>,
    pub sync: bool,
}

/// What the thread is given to do, in order.
pub enum Work {
    /// Stores a round.
    Store(Round),
    /// Reads entries back, for a follower that is behind.
    Read(Reading),
}

/// Entries to be read back.
pub struct Reading {
    pub group: GroupId,
    pub from: Index,
    pub to: Index,
    pub max_bytes: u64,
}

/// Why nothing is stored at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// The disk is full.
    Full,
    /// The system has no descriptor or no memory to open a file.
    Starved,
}

/// What the log takes on the disk, for metrics.
#[derive(Default)]
pub struct DiskUsage {
    pub segments: AtomicU64,
    pub written_bytes: AtomicU64,
    pub rounds: AtomicU64,
    pub syncs: AtomicU64,
}

impl DiskUsage {
    /// All of it, for a scrape.
    pub fn counters(&self) -> LogCounters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LogCounters {
            rounds: read(&self.rounds),
            syncs: read(&self.syncs),
            segments: read(&self.segments),
            bytes: read(&self.written_bytes),
        }
    }
}

/// Starts the thread. It ends when the sender of rounds is dropped, having stored them all; or while the disk
/// takes nothing, once `stopping` says that nobody will make room any more.
pub fn start(
    storage: Storage,
    inputs: SyncSender<Input>,
    usage: Arc<DiskUsage>,
    stopping: Arc<AtomicBool>,
) -> std::io::Result<(Sender<Work>, JoinHandle<()>)> {
    // The replica bounds what waits here: `raftlog::driver::ROUNDS_IN_FLIGHT_MAX`.
    let (sender, work) = channel();
    let thread = threads::start("log", move || {
        LogThread {
            storage,
            inputs,
            usage,
            stopping,
            stall: None,
            postponed: Vec::new(),
            postponed_at: Instant::now(),
        }
        .run(&work);
    })?;
    Ok((sender, thread))
}

struct LogThread {
    storage: Storage,
    inputs: SyncSender<Input>,
    usage: Arc<DiskUsage>,
    stopping: Arc<AtomicBool>,
    stall: Option<Stall>,
    /// Readings that found no descriptor, to be tried again.
    postponed: Vec<Reading>,
    /// When one was postponed last.
    postponed_at: Instant,
}

impl LogThread {
    fn run(mut self, work: &Receiver<Work>) {
        let mut next = None;
        loop {
            self.read_postponed();
            let first = match next.take() {
                Some(first) => Ok(first),
                None => work.recv_timeout(IDLE),
            };
            match first {
                Ok(Work::Store(first)) => {
                    let mut batch = first;
                    next = gather(&mut batch, work);
                    if !self.store(&mut batch) {
                        warn!("stopping with a disk that takes nothing: what was not stored was never acknowledged");
                        return;
                    }
                }
                Ok(Work::Read(reading)) => self.read(reading),
                Err(RecvTimeoutError::Timeout) => self.idle(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Err(error) = self.storage.seal() {
            warn!(%error, "the log could not be sealed; the next start reads its last round as torn if it must");
        }
    }

    /// Stores a round, waiting for room; false if the instance stops before there is any.
    fn store(&mut self, batch: &mut Round) -> bool {
        loop {
            match self.storage.persist(&batch.records, &mut batch.received, batch.sync) {
                Ok(()) => break,
                Err(error @ WalError::NoSpace { .. }) => self.stall(Stall::Full, &error),
                Err(error @ WalError::Starved { .. }) => self.stall(Stall::Starved, &error),
                // What is durable is unknown now: nothing may be acknowledged any more, nothing be tried again.
                Err(error) => die(&error),
            }
            if self.stopping.load(Ordering::Relaxed) {
                return false;
            }
            thread::sleep(STALL_RETRY);
        }
        if let Some(stall) = self.stall.take() {
            match stall {
                Stall::Full => info!("the disk has room again"),
                Stall::Starved => info!("the log finds descriptors and memory again"),
            }
            self.tell(Input::Stalled(None));
        }
        self.usage.rounds.fetch_add(1, Ordering::Relaxed);
        self.usage.syncs.fetch_add(u64::from(batch.sync), Ordering::Relaxed);
        let usage = self.storage.usage();
        self.usage.segments.store(usage.segments as u64, Ordering::Relaxed);
        self.usage.written_bytes.store(usage.written_bytes, Ordering::Relaxed);
        self.tell(Input::Persisted { round: batch.round, holding_back: self.storage.holding_back() });
        true
    }

    /// Says why nothing is stored, once until the reason changes.
    fn stall(&mut self, stall: Stall, error: &WalError) {
        if self.stall.replace(stall) == Some(stall) {
            return;
        }
        match stall {
            Stall::Full => error!(
                %error,
                "the disk is full: this instance stores and acknowledges nothing until there is room"
            ),
            Stall::Starved => error!(
                %error,
                "no descriptor or memory is left for the log: this instance stores and acknowledges nothing until there is"
            ),
        }
        self.tell(Input::Stalled(Some(stall)));
    }

    /// Reads entries back; later where there is no descriptor for it.
    fn read(&mut self, reading: Reading) {
        let Reading { group, from, to, max_bytes } = reading;
        match self.storage.read_log(group, from, to, max_bytes) {
            Ok(entries) => self.tell(Input::LogRead { group, from, entries }),
            Err(WalError::Starved { .. }) => {
                self.postponed.push(reading);
                self.postponed_at = Instant::now();
            }
            Err(error) => die(&error),
        }
    }

    /// Tries postponed readings again. What was stored since does not change them: entries that are only on disk are
    /// applied, and where a snapshot took their place the driver knows.
    fn read_postponed(&mut self) {
        if !self.postponed.is_empty() && self.postponed_at.elapsed() >= STALL_RETRY {
            for reading in std::mem::take(&mut self.postponed) {
                self.read(reading);
            }
        }
    }

    fn idle(&mut self) {
        match self.storage.prepare().and_then(|()| self.storage.seal()) {
            Ok(()) | Err(WalError::NoSpace { .. } | WalError::Starved { .. }) => {}
            Err(error) => die(&error),
        }
    }

    fn tell(&self, input: Input) {
        // The replica thread is gone only when the process is about to end.
        drop(self.inputs.send(input));
    }
}

/// Adds all rounds that wait; one with snapshots is stored with those before it, and ends the batch. What is not a round
/// is given back.
fn gather(batch: &mut Round, work: &Receiver<Work>) -> Option<Work> {
    let mut bytes = payload_bytes(&batch.records);
    while batch.received.is_empty() && batch.records.len() < BATCH_RECORDS_MAX && bytes < BATCH_BYTES_MAX {
        match work.try_recv().ok()? {
            Work::Store(next) => {
                bytes += payload_bytes(&next.records);
                batch.round = next.round;
                batch.sync |= next.sync;
                batch.records.extend(next.records);
                batch.received = next.received;
            }
            other @ Work::Read(_) => return Some(other),
        }
    }
    None
}

fn payload_bytes(records: &[Record]) -> usize {
    let payload = |record: &Record| match record {
        Record::Entry { data, .. } => data.len(),
        _ => 0,
    };
    records.iter().map(payload).sum()
}

fn die(error: &WalError) -> ! {
    error!(%error, "the log cannot be trusted any more: stopping at once");
    std::process::abort();
}

/// A batch of this many bytes of payload takes no further round. With one more round
/// ([`super::driver::INPUT_BYTES_PER_ROUND_MAX`]) it is far below what the log takes, `ROUND_BYTES_MAX`.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// Most records that are stored with one sync.
const BATCH_RECORDS_MAX: usize = 65_536;

/// After so long without a round the thread prepares room for later ones.
const IDLE: Duration = Duration::from_millis(200);

/// How often a disk that takes nothing is tried again.
const STALL_RETRY: Duration = Duration::from_millis(250);
