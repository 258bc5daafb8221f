//! A group's log in memory, as the Raft core reads it. Its durable twin is the write-ahead log.

use std::cell::Cell;

use bytes::Bytes;
use raft::{
    Error, GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};

/// Invariant: `entries` are contiguous and the first has index `base_index + 1`.
pub struct MemLog {
    pub hard_state: HardState,
    pub members: ConfState,
    /// The index at which the members changed last.
    pub members_index: u64,
    /// The last index that is not in `entries`.
    pub base_index: u64,
    pub base_term: u64,
    /// The highest log time of what is behind `base_index`.
    base_time_ms: u64,
    /// The highest log time of all that the log holds; what was cut off its end does not count.
    last_time_ms: u64,
    entries: Vec<Entry>,
    bytes: u64,
    /// The newest snapshot that can be sent, with its body, which travels apart.
    pub sendable: Option<(Snapshot, Bytes)>,
    /// Somebody needs a newer one.
    pub wanted: Cell<bool>,
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
            entries: Vec::new(),
            bytes: 0,
            sendable: None,
            wanted: Cell::new(false),
        }
    }

    pub fn last(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The log time that whoever leads next goes on from.
    pub fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    pub fn get(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.base_index + 1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// Appends entries; one at an index that is held already cuts the log there first.
    pub fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            assert!(entry.index > self.base_index && entry.index <= self.last() + 1, "entries follow on the log");
            let keep = (entry.index - self.base_index - 1) as usize;
            if keep < self.entries.len() {
                for cut in self.entries.drain(keep..) {
                    self.bytes -= size(&cut);
                }
                self.last_time_ms = highest_time(self.base_time_ms, &self.entries);
            }
            self.bytes += size(entry);
            self.last_time_ms = self.last_time_ms.max(entry_time(entry));
            self.entries.push(entry.clone());
        }
    }

    /// Forgets entries up to `index`.
    pub fn cut(&mut self, index: u64) {
        if index <= self.base_index || index > self.last() {
            return;
        }
        let places = (index - self.base_index) as usize;
        self.base_term = self.entries[places - 1].term;
        self.base_index = index;
        self.base_time_ms = highest_time(self.base_time_ms, &self.entries[..places]);
        for cut in self.entries.drain(..places) {
            self.bytes -= size(&cut);
        }
    }

    /// The body of the snapshot up to this index, if it can still be sent.
    pub fn body(&self, index: u64, term: u64) -> Option<&Bytes> {
        let (snapshot, body) = self.sendable.as_ref()?;
        let metadata = snapshot.get_metadata();
        (metadata.index == index && metadata.term == term).then_some(body)
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
        self.sendable = None;
        self.wanted.set(false);
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
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
        _: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.base_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let from = (low - self.base_index - 1) as usize;
        let to = (high - self.base_index - 1) as usize;
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut total = 0;
        let fits = |entry: &&Entry| {
            let first = total == 0;
            total += size(entry);
            first || total <= limit
        };
        Ok(self.entries[from..to].iter().take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.base_index {
            return Ok(self.base_term);
        }
        match self.get(index) {
            Some(entry) => Ok(entry.term),
            None if index < self.base_index => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
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
            Some((snapshot, _))
                if snapshot.get_metadata().index >= request_index
                    && snapshot.get_metadata().index >= self.base_index
                    && snapshot.get_metadata().index >= self.members_index =>
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

fn highest_time(base_ms: u64, entries: &[Entry]) -> u64 {
    entries.iter().map(entry_time).fold(base_ms, u64::max)
}

/// About what an entry costs, in memory and on the wire.
fn size(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + 24
}
