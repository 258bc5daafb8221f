//! A group's log as the Raft core reads it: recent entries in memory, older ones only on disk, where they are read when a
//! follower that is behind needs them. Its durable twin is the write-ahead log.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use raft::{
    Error, GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};

use crate::plant::{self, Plant};

/// Invariants: `entries` are contiguous and the first has index `held_from`; those from `base_index + 1` to there are on
/// disk, and their terms in `terms`.
pub struct MemLog {
    pub hard_state: HardState,
    pub members: ConfState,
    /// The index at which the members changed last.
    pub members_index: u64,
    /// The last index that the log does not hold any more.
    pub base_index: u64,
    pub base_term: u64,
    /// The highest log time of what is not in memory.
    base_time_ms: u64,
    /// The highest log time of all that the log holds; what was cut off its end does not count.
    last_time_ms: u64,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// The first index in memory.
    held_from: u64,
    /// The terms of what is only on disk: each with the first index that has it.
    terms: VecDeque<(u64, u64)>,
    /// About how many bytes are only on disk.
    disk_bytes: u64,
    /// The newest snapshot that is stored and can be sent.
    pub sendable: Option<Snapshot>,
    /// Somebody needs a newer one.
    pub wanted: Cell<bool>,
    reads: RefCell<Reads>,
}

/// What is being read back from disk for followers that are behind.
#[derive(Default)]
struct Reads {
    /// By the first index: who is to be told, and whether it was asked for.
    waiting: Vec<Wanted>,
    /// What came last, while those who waited for it look.
    found: Vec<Entry>,
}

struct Wanted {
    low: u64,
    high: u64,
    asked: bool,
    context: GetEntriesContext,
}

impl MemLog {
    /// The log of a replica whose state up to `base`, an index and its term, is at log time `time_ms`.
    pub fn new(hard_state: HardState, members: ConfState, base: (u64, u64), time_ms: u64) -> Self {
        let (base_index, base_term) = base;
        Self {
            hard_state,
            members,
            members_index: base_index,
            base_index,
            base_term,
            base_time_ms: time_ms,
            last_time_ms: time_ms,
            entries: VecDeque::new(),
            bytes: 0,
            held_from: base_index + 1,
            terms: VecDeque::new(),
            disk_bytes: 0,
            sendable: None,
            wanted: Cell::new(false),
            reads: RefCell::default(),
        }
    }

    pub fn last(&self) -> u64 {
        self.held_from + self.entries.len() as u64 - 1
    }

    /// About how many bytes the log has behind its base, in memory or not.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.disk_bytes
    }

    /// The first index in memory.
    pub fn held_from(&self) -> u64 {
        self.held_from
    }

    /// About how many bytes are in memory.
    pub fn held_bytes(&self) -> u64 {
        self.bytes
    }

    /// The log time that whoever leads next goes on from.
    pub fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// An entry that is in memory.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.held_from)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// Appends entries; one at an index that is held already cuts the log there first.
    pub fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            assert!(entry.index >= self.held_from && entry.index <= self.last() + 1, "entries follow on the log");
            let keep = (entry.index - self.held_from) as usize;
            if keep < self.entries.len() {
                for cut in self.entries.drain(keep..) {
                    self.bytes -= size(&cut);
                }
                self.last_time_ms = highest_time(self.base_time_ms, &self.entries);
            }
            self.bytes += size(&entry);
            self.last_time_ms = self.last_time_ms.max(entry_time(&entry));
            self.entries.push_back(entry);
        }
    }

    /// Lets go of entries in memory up to `through`, all of them on disk and applied, until no more than `budget` bytes
    /// are left.
    pub fn evict(&mut self, through: u64, budget: u64) {
        while self.bytes > budget
            && let Some(entry) = self.entries.front().filter(|entry| entry.index <= through)
        {
            if self.terms.back().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push_back((entry.index, entry.term));
            }
            self.base_time_ms = self.base_time_ms.max(entry_time(entry));
            self.bytes -= size(entry);
            self.disk_bytes += size(entry);
            self.held_from += 1;
            self.entries.pop_front();
        }
    }

    /// Forgets entries up to `index`.
    pub fn cut(&mut self, index: u64) {
        if index <= self.base_index || index > self.last() {
            return;
        }
        let Ok(term) = self.term(index) else { return };
        let on_disk = self.held_from - 1 - self.base_index;
        let gone = index.min(self.held_from - 1) - self.base_index;
        // Nobody remembers the size of each; what is left is taken to be of average size.
        self.disk_bytes -= if gone == on_disk { self.disk_bytes } else { self.disk_bytes / on_disk.max(1) * gone };
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            let Some(cut) = self.entries.pop_front() else { break };
            self.base_time_ms = self.base_time_ms.max(entry_time(&cut));
            self.bytes -= size(&cut);
        }
        self.base_term = term;
        self.base_index = index;
        self.held_from = self.held_from.max(index + 1);
        while self.terms.get(1).is_some_and(|(first, _)| *first <= index + 1) {
            self.terms.pop_front();
        }
        if self.held_from == index + 1 {
            self.terms.clear();
        }
    }

    /// What is to be read from disk, from where to (excluded), each once.
    pub fn take_reads(&self) -> Vec<(u64, u64)> {
        let mut reads = self.reads.borrow_mut();
        let new = reads.waiting.iter_mut().filter(|wanted| !wanted.asked);
        new.map(|wanted| {
            wanted.asked = true;
            (wanted.low, wanted.high)
        })
        .collect()
    }

    /// Entries were read from disk: they are there for those who waited for them, whom the caller tells, until
    /// [`MemLog::forget_read`].
    pub fn found(&self, low: u64, entries: Vec<Entry>) -> Vec<GetEntriesContext> {
        let mut reads = self.reads.borrow_mut();
        reads.found = entries;
        let (told, left) =
            std::mem::take(&mut reads.waiting).into_iter().partition(|wanted| wanted.low == low && wanted.asked);
        reads.waiting = left;
        let told: Vec<Wanted> = told;
        told.into_iter().map(|wanted| wanted.context).collect()
    }

    pub fn forget_read(&self) {
        self.reads.borrow_mut().found = Vec::new();
    }

    /// Starts anew behind a snapshot that was received, of a state at log time `time_ms`.
    pub fn restore(&mut self, snapshot: &Snapshot, time_ms: u64) {
        let metadata = snapshot.get_metadata();
        self.members = metadata.get_conf_state().clone();
        self.members_index = metadata.index;
        self.base_index = metadata.index;
        self.base_term = metadata.term;
        self.base_time_ms = time_ms;
        self.last_time_ms = time_ms;
        self.entries.clear();
        self.bytes = 0;
        self.held_from = metadata.index + 1;
        self.terms.clear();
        self.disk_bytes = 0;
        self.sendable = None;
        self.wanted.set(false);
        *self.reads.borrow_mut() = Reads::default();
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
    }

    /// What is on disk only: served from what was read last, or to be read.
    fn entries_on_disk(&self, low: u64, high: u64, limit: u64, context: GetEntriesContext) -> Result<Vec<Entry>> {
        let mut reads = self.reads.borrow_mut();
        if let Some(place) = reads.found.iter().position(|entry| entry.index == low) {
            let found = reads.found[place..].iter().take_while(|entry| entry.index < high);
            return Ok(up_to(limit, found));
        }
        if !context.can_async() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        if reads.waiting.len() < READS_MAX && reads.waiting.iter().all(|wanted| wanted.low != low) {
            reads.waiting.push(Wanted { low, high: high.min(self.held_from), asked: false, context });
        }
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }
}

impl Storage for MemLog {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.members.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        if low < self.held_from {
            return self.entries_on_disk(low, high, limit, context);
        }
        let from = (low - self.held_from) as usize;
        let to = (high - self.held_from) as usize;
        Ok(up_to(limit, self.entries.range(from..to)))
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.base_index {
            return Ok(self.base_term);
        }
        if index < self.base_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index < self.held_from {
            let run = self.terms.partition_point(|(first, _)| *first <= index);
            let found = run.checked_sub(1).and_then(|run| self.terms.get(run));
            return found.map(|(_, term)| *term).ok_or(Error::Store(StorageError::Unavailable));
        }
        self.get(index).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// Only a snapshot that the log follows on, and that knows the newest members, may be sent: a follower that were
    /// given an older one could never catch up.
    fn snapshot(&self, request_index: u64, _: u64) -> Result<Snapshot> {
        match &self.sendable {
            Some(snapshot)
                if snapshot.get_metadata().index >= request_index
                    && snapshot.get_metadata().index >= self.base_index
                    && (snapshot.get_metadata().index >= self.members_index
                        || plant::on(Plant::StaleSnapshotMembers)) =>
            {
                Ok(snapshot.clone())
            }
            _ => {
                self.wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

/// Log time as stamped by the leader that made the entry; 0 if it carries none.
pub fn entry_time(entry: &Entry) -> u64 {
    <[u8; 8]>::try_from(entry.context.as_slice()).map_or(0, u64::from_be_bytes)
}

/// The first of `entries`, and as many more as `limit` bytes allow.
fn up_to<'a>(limit: u64, entries: impl Iterator<Item = &'a Entry>) -> Vec<Entry> {
    let mut total = 0;
    let fits = |entry: &&Entry| {
        let first = total == 0;
        total += size(entry);
        first || total <= limit
    };
    entries.take_while(fits).cloned().collect()
}

fn highest_time(base_ms: u64, entries: &VecDeque<Entry>) -> u64 {
    entries.iter().map(entry_time).fold(base_ms, u64::max)
}

/// About what an entry costs, in memory and on the wire.
fn size(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

/// What an entry costs beside its bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 24;

/// Most reads of old entries that a group waits for at once.
const READS_MAX: usize = 8;
