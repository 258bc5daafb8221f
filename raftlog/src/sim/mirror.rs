//! What a log should hold: its rounds, replayed by the book (docs/log-format.md), with hashes for payloads.

use std::collections::{BTreeMap, VecDeque};

use super::random::hash;
use crate::{
    types::{GroupId, Index, Record, Term},
    wal::{HardState, RecoveredGroup},
};

/// The log of all groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    groups: BTreeMap<GroupId, Group>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    hard: HardState,
    /// Where the log begins: what the newest snapshot covers, index 0 for none, and the term there.
    base: (u64, u64),
    /// Terms and hashes of the entries behind it.
    entries: VecDeque<(u64, u64)>,
}

impl Mirror {
    /// What was recovered.
    pub fn of(recovered: &BTreeMap<GroupId, RecoveredGroup>) -> Self {
        let group = |log: &RecoveredGroup| Group {
            hard: log.hard_state,
            base: log.snapshot.map_or((0, 0), |(index, term)| (index.0, term.0)),
            entries: log.entries.iter().map(|(_, term, data)| (term.0, hash(data))).collect(),
        };
        Self { groups: recovered.iter().map(|(id, log)| (*id, group(log))).collect() }
    }

    /// Takes up a round as a whole.
    pub fn append(&mut self, round: &[Record]) {
        for record in round {
            let (Record::Entry { group, .. } | Record::HardState { group, .. } | Record::Snapshot { group, .. }) =
                record;
            let group = self.groups.entry(*group).or_default();
            match record {
                Record::Entry { index, term, data, .. } => {
                    let keep = (index.0 - 1).saturating_sub(group.base.0) as usize;
                    group.entries.truncate(keep);
                    group.entries.push_back((term.0, hash(data)));
                }
                Record::HardState { term, vote, commit, .. } => {
                    group.hard = HardState { term: *term, vote: *vote, commit: *commit };
                }
                Record::Snapshot { index, term, .. } => group.snapshot(index.0, term.0),
            }
        }
        for group in self.groups.values_mut() {
            group.hard.commit = Index(group.hard.commit.0.max(group.base.0).min(group.last()));
        }
    }

    /// Where two logs differ, for people.
    pub fn difference(&self, other: &Self) -> String {
        let of = |log: &Self, group: GroupId| {
            let found = log.groups.get(&group).cloned().unwrap_or_default();
            format!("{:?}, base {:?}, last {}", found.hard, found.base, found.last())
        };
        let groups = self.groups.keys().chain(other.groups.keys());
        let differ = groups.copied().find(|group| self.groups.get(group) != other.groups.get(group));
        differ.map_or_else(String::new, |group| {
            format!("group {group} has {}, and not {}", of(self, group), of(other, group))
        })
    }

    /// Vote, term and commit index.
    pub fn hard_state(&self, group: GroupId) -> HardState {
        self.groups.get(&group).map(|found| found.hard).unwrap_or_default()
    }

    /// The last index, and where the log begins.
    pub fn bounds(&self, group: GroupId) -> (u64, u64) {
        self.groups.get(&group).map_or((0, 0), |found| (found.base.0, found.last()))
    }

    /// Term and hash of an entry; no hash where only a snapshot tells of it. None: it is not there, or covered.
    pub fn entry(&self, group: GroupId, index: u64) -> Option<(Term, Option<u64>)> {
        let found = self.groups.get(&group)?;
        if index == found.base.0 {
            return Some((Term(found.base.1), None));
        }
        let place = index.checked_sub(found.base.0 + 1)?;
        found.entries.get(place as usize).map(|(term, hash)| (Term(*term), Some(*hash)))
    }

    /// Whether the state up to there is held: by a snapshot, or by an entry of this term.
    pub fn holds(&self, group: GroupId, index: u64, term: Term) -> bool {
        self.groups.get(&group).is_some_and(|found| index < found.base.0)
            || self.entry(group, index).is_some_and(|(held, _)| held == term)
    }
}

impl Group {
    fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    fn snapshot(&mut self, index: u64, term: u64) {
        let place = index.checked_sub(self.base.0 + 1);
        let held = place.and_then(|place| self.entries.get(place as usize)).is_some_and(|entry| entry.0 == term);
        if held {
            self.entries.drain(..(index - self.base.0) as usize);
        } else if index != self.base.0 {
            self.entries.clear();
        }
        self.base = (index, term);
    }
}
