//! The log thread: stores rounds in order, several in one sync when they wait, as an instance does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel},
    },
    thread,
    time::Duration,
};

use raftlog::{
    GroupId, Index, Record, Term,
    disk::FileDisk,
    wal::{Received, SnapshotStore, Wal, WalError, WalOptions, log_exists},
};

use crate::{Result, arguments::Setup, node::Input};

/// What the thread is given to do, in order.
pub enum Work {
    /// Stores a round.
    Store(Round),
    /// Reads entries back, for a follower that is behind.
    Read { group: GroupId, from: Index, to: Index, max_bytes: u64 },
}

/// A round to be stored.
pub struct Round {
    pub round: u64,
    pub records: Vec<Record>,
    pub received: Vec<Received>,
    pub sync: bool,
}

/// The thread, and how many syncs it made.
pub struct Log {
    pub work: Sender<Work>,
    pub syncs: Arc<AtomicU64>,
    pub thread: thread::JoinHandle<()>,
}

/// Makes an empty log and starts the thread; it ends when the sender of its work is dropped.
///
/// # Errors
/// If there is a log already, or the disk fails.
pub fn start(setup: &Setup, inputs: SyncSender<Input>) -> Result<(Log, SnapshotStore)> {
    let disk = Arc::new(FileDisk::open(&setup.directory)?);
    if log_exists(disk.as_ref())? {
        return Err("the data directory has a log already; the bench begins with none".into());
    }
    let (mut wal, _) = Wal::open(disk.clone(), WalOptions { salt: setup.id.0, ..WalOptions::default() })?;
    if !setup.founders.is_empty() {
        let first = |group| Record::Snapshot { group: GroupId(group), index: FIRST.0, term: FIRST.1 };
        wal.append(&(0..setup.groups).map(first).collect::<Vec<_>>(), true)?;
    }
    let store = SnapshotStore::open(disk)?;
    // The driver bounds what waits here: `raftlog::driver::ROUNDS_IN_FLIGHT_MAX`.
    let (work, queue) = channel();
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = syncs.clone();
    let thread =
        thread::Builder::new().name("log".to_owned()).spawn(move || run(&mut wal, &queue, &inputs, &counted))?;
    Ok((Log { work, syncs, thread }, store))
}

fn run(wal: &mut Wal, work: &Receiver<Work>, inputs: &SyncSender<Input>, syncs: &AtomicU64) {
    let mut next = None;
    loop {
        let first = next.take().map_or_else(|| work.recv_timeout(IDLE), Ok);
        let done = match first {
            Ok(Work::Store(mut batch)) => {
                next = gather(&mut batch, work);
                store(wal, &mut batch, syncs).map(|()| {
                    let holding_back = wal.oldest_groups().into_iter().next();
                    Some(Input::Persisted { round: batch.round, holding_back })
                })
            }
            Ok(Work::Read { group, from, to, max_bytes }) => {
                wal.read(group, from, to, max_bytes).map(|entries| Some(Input::LogRead { group, from, entries }))
            }
            Err(RecvTimeoutError::Timeout) => wal.prefill().and_then(|()| wal.seal()).map(|()| None),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        match done {
            // The node is gone only when the process is about to end.
            Ok(input) => drop(input.map(|input| inputs.send(input))),
            Err(error) => {
                eprintln!("raft_node: the log failed: {error}");
                std::process::abort();
            }
        }
    }
}

fn store(wal: &mut Wal, batch: &mut Round, syncs: &AtomicU64) -> std::result::Result<(), WalError> {
    for mut received in batch.received.drain(..) {
        received.install()?;
    }
    wal.append(&batch.records, batch.sync)?;
    if batch.records.iter().any(|record| matches!(record, Record::Snapshot { .. })) {
        wal.release()?;
    }
    syncs.fetch_add(u64::from(batch.sync), Ordering::Relaxed);
    Ok(())
}

/// Adds all rounds that wait; one with snapshots ends the batch. What is not a round is given back.
fn gather(batch: &mut Round, work: &Receiver<Work>) -> Option<Work> {
    while batch.received.is_empty() && batch.records.len() < BATCH_RECORDS_MAX {
        match work.try_recv().ok()? {
            Work::Store(next) => {
                batch.round = next.round;
                batch.sync |= next.sync;
                batch.records.extend(next.records);
                batch.received = next.received;
            }
            other @ Work::Read { .. } => return Some(other),
        }
    }
    None
}

/// Where a founder's log begins.
pub const FIRST: (Index, Term) = (Index(1), Term(1));

/// Most records that are stored with one sync.
const BATCH_RECORDS_MAX: usize = 65_536;

/// After so long without a round the thread prepares room for later ones.
const IDLE: Duration = Duration::from_millis(200);
