//! What the log holds of each group, by index and segment; no bytes.

use std::collections::VecDeque;

use super::format::Rest;
use crate::types::{Index, NodeId, Term};

/// A group's vote, term and commit index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// Who got this replica's vote in that term.
    pub vote: Option<NodeId>,
    /// The highest index known to be committed.
    pub commit: Index,
}

/// Which entries of one group are live, and where.
///
/// Invariants: the runs are contiguous, the first starts right after the snapshot, none is empty, a run lies in one
/// segment and has one term, segments never go down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupLog {
    pub hard: HardState,
    /// Index 0: none.
    pub snapshot: (Index, Term),
    runs: VecDeque<Run>,
}

/// Neighbouring entries of one term in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    term: Term,
    segment: u64,
    bytes: u64,
}

/// The segment of entries that a checkpoint mentions and no file holds any more.
const NOWHERE: u64 = 0;

/// Indexes and numbers of rounds lie below this: at a million a second that many take 290 000 years.
pub(super) const NUMBER_MAX: u64 = 1 << 63;

impl GroupLog {
    /// The state that a checkpoint at the head of the oldest segment describes.
    pub fn from_checkpoint(hard: HardState, snapshot: (Index, Term), last: Index) -> Result<GroupLog, String> {
        if snapshot.0.0.max(last.0) >= NUMBER_MAX {
            return Err(format!("a checkpoint of a log from {} to {last}", snapshot.0));
        }
        let mut log = GroupLog { hard, snapshot, runs: VecDeque::new() };
        if last > snapshot.0 {
            log.runs.push_back(Run {
                first: snapshot.0.0 + 1,
                last: last.0,
                term: Term(0),
                segment: NOWHERE,
                bytes: 0,
            });
        }
        Ok(log)
    }

    /// The last index, that of the snapshot where there is no entry.
    pub fn last(&self) -> Index {
        self.runs.back().map_or(self.snapshot.0, |run| Index(run.last))
    }

    /// Takes up an entry; cuts the log there first.
    pub fn entry(&mut self, index: Index, term: Term, bytes: u64, segment: u64) -> Result<(), String> {
        if index.0 >= NUMBER_MAX {
            return Err(format!("entry {index} lies beyond any log"));
        }
        if index <= self.snapshot.0 {
            return Err(format!("entry {index} lies within the snapshot at {}", self.snapshot.0));
        }
        if index.0 - 1 > self.last().0 {
            return Err(format!("entry {index} does not follow {}", self.last()));
        }
        self.cut_from(index.0);
        match self.runs.back_mut() {
            Some(run) if run.term == term && run.segment == segment => {
                run.last = index.0;
                run.bytes += bytes;
            }
            _ => self.runs.push_back(Run { first: index.0, last: index.0, term, segment, bytes }),
        }
        debug_assert_eq!(self.last(), index);
        Ok(())
    }

    /// What a snapshot marker means for the entries here. Says nothing about entries in no file.
    pub fn judge_snapshot(&self, index: Index, term: Term) -> Result<Rest, String> {
        let (old_index, old_term) = self.snapshot;
        if index < old_index || (index == old_index && term != old_term) || index.0 == 0 {
            let old = format!("({old_index}, term {old_term})");
            return Err(format!("a snapshot at ({index}, term {term}) cannot follow one at {old}"));
        }
        let same = index == old_index;
        let held = self.runs.iter().any(|run| run.first <= index.0 && index.0 <= run.last && run.term == term);
        Ok(if same || held { Rest::Kept } else { Rest::Dead })
    }

    /// Takes up a snapshot marker.
    pub fn snapshot(&mut self, index: Index, term: Term, rest: Rest) -> Result<(), String> {
        if index.0 >= NUMBER_MAX {
            return Err(format!("a snapshot at {index} lies beyond any log"));
        }
        match rest {
            Rest::Dead => self.runs.clear(),
            Rest::Kept if index > self.last() || index < self.snapshot.0 => {
                return Err(format!("a snapshot at {index} cannot keep a log that ends at {}", self.last()));
            }
            Rest::Kept => self.drop_through(index.0),
        }
        self.snapshot = (index, term);
        Ok(())
    }

    /// Ends a round: the commit index lies between the snapshot and the last entry. Were one beyond the end to stay, it
    /// would later count for entries that nobody committed.
    pub fn settle(&mut self) {
        self.hard.commit = self.hard.commit.max(self.snapshot.0).min(self.last());
    }

    /// The last index of the run that this entry is in, its term and segment; `None` where the entry is not live.
    pub fn run_of(&self, index: Index) -> Option<(u64, Term, u64)> {
        let run = self.runs.get(self.runs.partition_point(|run| run.last < index.0))?;
        (run.first <= index.0).then_some((run.last, run.term, run.segment))
    }

    /// The oldest segment that holds a live entry, and the last index that lies in it.
    pub fn oldest(&self) -> Option<(u64, Index)> {
        let segment = self.runs.front()?.segment;
        self.runs.iter().take_while(|run| run.segment == segment).last().map(|run| (segment, Index(run.last)))
    }

    /// The first and last index that are live but in no file.
    pub fn gap(&self) -> Option<(Index, Index)> {
        self.runs.front().filter(|run| run.segment == NOWHERE).map(|run| (Index(run.first), Index(run.last)))
    }

    /// About how many bytes the live entries have; a cut run counts in proportion.
    pub fn live_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }

    fn cut_from(&mut self, index: u64) {
        while self.runs.pop_back_if(|run| run.first >= index).is_some() {}
        if let Some(run) = self.runs.back_mut().filter(|run| run.last >= index) {
            run.keep(index - run.first);
            run.last = index - 1;
        }
    }

    fn drop_through(&mut self, index: u64) {
        while self.runs.pop_front_if(|run| run.last <= index).is_some() {}
        if let Some(run) = self.runs.front_mut().filter(|run| run.first <= index) {
            run.keep(run.last - index);
            run.first = index + 1;
        }
    }
}

impl Run {
    /// Accounts for `entries` of this run being left; call before its bounds change.
    fn keep(&mut self, entries: u64) {
        let all = self.last - self.first + 1;
        debug_assert!(entries < all && entries > 0);
        self.bytes = (u128::from(self.bytes) * u128::from(entries) / u128::from(all)) as u64;
    }
}
