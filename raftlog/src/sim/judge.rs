//! The judge of a simulated fleet: what was agreed so far, and every rule that an agreement must keep.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use ahash::AHashMap;

use super::{
    mirror::Mirror,
    random::mix,
    table::{Answer, KEYS},
};
use crate::{
    driver::{Committed, Content, Glance, Members},
    types::{GroupId, NodeId, Record, Term},
};

/// Knows what was agreed, and what went wrong.
pub struct Judge {
    groups: Vec<Truth>,
    /// What is durable of each replica's log, also while it is down.
    pub disks: BTreeMap<NodeId, Rc<RefCell<Mirror>>>,
    /// Whether the network delivers a frame twice: then what was refused may have been appended before.
    doubled: bool,
    /// What is wrong, in the order of its finding.
    pub violations: Vec<String>,
}

/// What is known of a group.
struct Truth {
    /// Committed entries, from index 2 on.
    log: Vec<Agreed>,
    /// The hash of every entry that any log ever held, by index and term.
    entries: AHashMap<(u64, u64), u64>,
    /// Who led in which term.
    leaders: BTreeMap<Term, NodeId>,
    /// What was applied, from index 2 on.
    applied: Vec<Applied>,
    /// The values that each key had, by version.
    values: [Vec<u64>; KEYS],
    /// By key: the highest version that anybody was told.
    told: [u64; KEYS],
    /// The members from which index on.
    members: Vec<(u64, Rc<Members>)>,
    /// Proposals that were refused, and those that were applied.
    refused: BTreeSet<u64>,
    done: BTreeSet<u64>,
}

/// A committed entry.
struct Agreed {
    term: Term,
    hash: u64,
    /// The term of the leader that committed it.
    by: Term,
}

/// What an entry is to those who apply it, and the state behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Applied {
    term: Term,
    time_ms: u64,
    content: u64,
    digest: u64,
}

/// A replica's log and what was seen of the replica last.
pub struct Look<'a> {
    pub id: NodeId,
    /// All that it handed to its log.
    pub given: &'a Mirror,
    /// The members as of what is applied, and as of just before.
    pub members: [&'a Rc<Members>; 2],
}

impl Judge {
    pub fn new(groups: u32, founders: &Rc<Members>, doubled: bool) -> Self {
        let truth = || Truth {
            log: Vec::new(),
            entries: AHashMap::new(),
            leaders: BTreeMap::new(),
            applied: Vec::new(),
            values: [const { Vec::new() }; KEYS].map(|_: Vec<u64>| vec![0]),
            told: [0; KEYS],
            members: vec![(FIRST, Rc::clone(founders))],
            refused: BTreeSet::new(),
            done: BTreeSet::new(),
        };
        let groups = (0..groups).map(|_| truth()).collect();
        Self { groups, disks: BTreeMap::new(), doubled, violations: Vec::new() }
    }

    pub fn blame(&mut self, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text);
        }
    }

    fn check(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.blame(text());
        }
    }

    /// The highest index that anybody knows to be committed.
    pub fn committed(&self, group: GroupId) -> u64 {
        FIRST + self.groups[group.0 as usize].log.len() as u64
    }

    /// The newest members that anybody applied.
    pub fn members(&self, group: GroupId) -> &Rc<Members> {
        let members = &self.groups[group.0 as usize].members;
        &members[members.len() - 1].1
    }

    /// The members as of an index.
    pub fn members_at(&self, group: GroupId, index: u64) -> &Rc<Members> {
        let members = &self.groups[group.0 as usize].members;
        let place = members.partition_point(|(from, _)| *from <= index).saturating_sub(1);
        &members[place].1
    }

    /// The index of the newest change of members.
    pub fn members_since(&self, group: GroupId) -> u64 {
        self.groups[group.0 as usize].members.last().map_or(FIRST, |(from, _)| *from)
    }

    /// Log matching: at one index, entries of one term are the same everywhere.
    pub fn handed_to_log(&mut self, id: NodeId, records: &[Record]) {
        for record in records {
            let Record::Entry { group, index, term, data } = record else { continue };
            let hash = super::random::hash(data);
            let known = *self.groups[group.0 as usize].entries.entry((index.0, term.0)).or_insert(hash);
            self.check(known == hash, || {
                format!("log matching: {id} has another entry {index} of term {term} in group {group}")
            });
        }
    }

    /// The only voter of a group crashed: what it did not have on disk nobody else ever saw, and the same places of the
    /// same term may hold something else next.
    pub fn forget_unsaid(&mut self, group: GroupId, given: &Mirror, durable: &Mirror) {
        let (_, last) = given.bounds(group);
        let (_, on_disk) = durable.bounds(group);
        for index in on_disk + 1..=last {
            if let Some((term, _)) = given.entry(group, index) {
                self.groups[group.0 as usize].entries.remove(&(index, term.0));
            }
        }
    }

    /// Looks at a group of a replica after each step.
    pub fn look(&mut self, group: GroupId, look: &Look<'_>, before: &Glance, now: &Glance) {
        let id = look.id;
        self.check(now.term >= before.term && now.committed >= before.committed, || {
            format!("{id} went back in group {group}: from {before:?} to {now:?}")
        });
        if now.committed > before.committed {
            self.commits(group, look, before.committed.0, now);
        }
        if now.leads && (!before.leads || now.term != before.term) {
            self.leads(group, look, now);
        }
    }

    /// A commit index went up: the same entries as everywhere, and stored by a quorum.
    fn commits(&mut self, group: GroupId, look: &Look<'_>, from: u64, now: &Glance) {
        let id = look.id;
        let (base, _) = look.given.bounds(group);
        for index in (from + 1).max(base)..=now.committed.0 {
            let Some((term, hash)) = look.given.entry(group, index) else {
                return self.blame(format!("{id} commits entry {index} of group {group}, which it does not have"));
            };
            let known = self.groups[group.0 as usize].log.len() as u64 + FIRST;
            if index > known {
                let Some(hash) = hash.filter(|_| index == known + 1) else {
                    return self.blame(format!("{id} has a snapshot of group {group} at {index}, not yet committed"));
                };
                let quorum = look.members.iter().any(|members| self.stored(group, index, term, members));
                self.check(quorum, || {
                    format!("{id} commits entry {index} of group {group}, which no quorum has on disk")
                });
                self.groups[group.0 as usize].log.push(Agreed { term, hash, by: now.term });
            } else if index > FIRST {
                let agreed = &self.groups[group.0 as usize].log[(index - FIRST - 1) as usize];
                let same = agreed.term == term && hash.is_none_or(|hash| hash == agreed.hash);
                self.check(same, || format!("{id} commits another entry {index} in group {group}: of term {term}"));
            }
        }
    }

    /// Election safety and leader completeness.
    fn leads(&mut self, group: GroupId, look: &Look<'_>, now: &Glance) {
        let id = look.id;
        let truth = &mut self.groups[group.0 as usize];
        let known = *truth.leaders.entry(now.term).or_insert(id);
        let lacking = (0..truth.log.len()).rev().find(|place| {
            let agreed = &truth.log[*place];
            agreed.by < now.term && !look.given.holds(group, *place as u64 + FIRST + 1, agreed.term)
        });
        self.check(known == id, || format!("{known} and {id} both lead group {group} in term {}", now.term));
        if let Some(place) = lacking {
            let index = place as u64 + FIRST + 1;
            self.blame(format!("{id} leads group {group} in term {} without the committed entry {index}", now.term));
        }
        let alone = look.members[0].voters.len() == 1;
        let on_disk = |disk: &Rc<RefCell<Mirror>>| disk.borrow().hard_state(group).term >= now.term;
        let known = self.disks.get(&id).is_some_and(on_disk);
        self.check(alone || known, || {
            format!("{id} leads group {group} in term {}, of which its disk does not know", now.term)
        });
    }

    /// The durable logs by which [`Judge::commits`] judges.
    fn stored(&self, group: GroupId, index: u64, term: Term, members: &Members) -> bool {
        let has = |id: &NodeId| self.disks.get(id).is_some_and(|disk| disk.borrow().holds(group, index, term));
        let majority =
            |ids: &BTreeSet<NodeId>| ids.is_empty() || 2 * ids.iter().filter(|id| has(id)).count() > ids.len();
        majority(&members.voters) && majority(&members.outgoing)
    }

    /// An entry was applied: next after the one before, the same as everywhere, with the same state behind it.
    pub fn applied(&mut self, id: NodeId, group: GroupId, entry: &Committed, answer: Option<&Answer>, digest: u64) {
        let index = entry.index.0;
        let content = self.content(group, entry);
        let this = Applied { term: entry.term, time_ms: entry.time_ms, content, digest };
        let truth = &mut self.groups[group.0 as usize];
        let place = (index - FIRST - 1) as usize;
        match truth.applied.get(place) {
            Some(known) => {
                let same = *known == this;
                self.check(same, || format!("{id} applies another entry {index} in group {group}, or to another end"));
            }
            None => {
                let last_ms = truth.applied.last().map_or(0, |last| last.time_ms);
                let follows = truth.applied.len() == place;
                truth.applied.push(this);
                self.check(follows, || {
                    format!("{id} is the first to apply entry {index} of group {group}, out of order")
                });
                self.check(last_ms <= entry.time_ms, || format!("log time falls at entry {index} of group {group}"));
            }
        }
        if let Some(answer) = answer {
            self.written(group, answer);
        }
    }

    /// A number for what the entry is; notes members and proposals.
    fn content(&mut self, group: GroupId, entry: &Committed) -> u64 {
        let truth = &mut self.groups[group.0 as usize];
        match &entry.content {
            Content::Empty => 1,
            Content::Members(members) => {
                if truth.members.last().is_none_or(|(from, _)| *from < entry.index.0) {
                    truth.members.push((entry.index.0, Rc::new(members.clone())));
                }
                let ids = |hash, ids: &BTreeSet<NodeId>| ids.iter().fold(mix(hash, 3), |hash, id| mix(hash, id.0));
                ids(ids(ids(2, &members.voters), &members.learners), &members.outgoing)
            }
            Content::Data { origin, token, data } => {
                truth.done.insert(*token);
                let refused = truth.refused.contains(token) && !self.doubled;
                self.check(!refused, || format!("proposal {token} was refused, and is entry {}", entry.index));
                mix(mix(origin.0, *token), super::random::hash(data))
            }
        }
    }

    /// A proposal was refused for certain.
    pub fn refused(&mut self, group: GroupId, token: u64) {
        let truth = &mut self.groups[group.0 as usize];
        truth.refused.insert(token);
        let done = truth.done.contains(&token) && !self.doubled;
        self.check(!done, || format!("proposal {token} is refused, and was applied before in group {group}"));
    }

    /// What a key is at some version.
    fn written(&mut self, group: GroupId, answer: &Answer) {
        let values = &mut self.groups[group.0 as usize].values[usize::from(answer.key)];
        if values.len() as u64 == answer.version {
            values.push(answer.value);
        }
        let same = values.get(answer.version as usize) == Some(&answer.value);
        self.check(same, || format!("key {} of group {group} has two values: {answer:?}", answer.key));
    }

    /// A snapshot became the state of a replica.
    pub fn restored(&mut self, id: NodeId, group: GroupId, index: u64, digest: u64, members: &Members) {
        let truth = &self.groups[group.0 as usize];
        let place = index.checked_sub(FIRST + 1);
        let known = place.map(|place| truth.applied.get(place as usize).map(|applied| applied.digest));
        let same = known.is_none_or(|known| known == Some(digest));
        let stale = **self.members_at(group, index) != *members;
        self.check(same, || format!("{id} takes up another state at {index} of group {group}"));
        self.check(!stale, || format!("{id} takes up a snapshot of group {group} at {index} with other members"));
    }

    /// The least version that a request made now may see.
    pub fn floor(&self, group: GroupId, key: u8) -> u64 {
        self.groups[group.0 as usize].told[usize::from(key)]
    }

    /// A client is told of a version: not before what any client knew when this one asked, and with the value it has.
    pub fn told(&mut self, group: GroupId, key: u8, floor: u64, version: u64, value: u64) {
        let truth = &mut self.groups[group.0 as usize];
        let told = &mut truth.told[usize::from(key)];
        *told = version.max(*told);
        let known = truth.values[usize::from(key)].get(version as usize).copied();
        self.check(version >= floor, || {
            format!("not linearizable: key {key} of group {group} is at {version}, after {floor} was seen")
        });
        self.check(known == Some(value), || {
            format!("key {key} of group {group} is said to be {value} at version {version}, and is {known:?}")
        });
    }
}

/// The index that a group begins with.
const FIRST: u64 = super::store::FIRST.0.0;

/// A seed with so many violations needs no more of them.
const VIOLATIONS_MAX: usize = 20;
