//! The leader's side of leases: who may answer from a group's table, and how long that binds the leader.
//!
//! ```text
//!   instance                         leader
//!      | ask(life, applied, asked_ms) -> | noted
//!      |                                 | ReadIndex: a quorum confirms the term *after* the ask was sent
//!      |                                 | applied >= newest move?  then booked until now + lease + drift
//!      | <- grant(life, asked_ms, lease) |
//!   holds until asked_ms + lease (its own clock), if that life of it still lives
//! ```
//!
//! Why this is safe: a grant rests on a proof that no newer leader existed when the ask was sent. So each lease of an
//! older leader has run out one lease (plus drift) after a newer one was elected, which is how long that one waits
//! before it settles anything. Its own leases it has in this book. The length of a lease is the fleet's, committed at its
//! birth: how long to wait for leases that others granted must not hang on anybody's configuration.

use std::collections::BTreeMap;

use flow::{
    plant::{self, Plant},
    view::drift,
};
use raftlog::NodeId;

use crate::words::LeaseAsk;

/// The leases of one group that this replica leads.
#[derive(Debug, Default)]
pub struct LeaseBook {
    /// When this replica became leader, by its own clock; none while it does not lead.
    leader_since_ms: Option<u64>,
    entries: BTreeMap<NodeId, Entry>,
    /// Asks that came in since the last ReadIndex was issued.
    asked: Vec<Ask>,
    /// Asks that wait for the ReadIndex of this context.
    proving: Option<(u64, Vec<Ask>)>,
    /// Asks that are proven, once this index is applied.
    proven: Option<(u64, Vec<Ask>)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The lease ends at the latest then, by the leader's clock.
    until_ms: u64,
    /// The highest index that the instance said it has applied.
    applied: u64,
}

/// Who asks, what, and when that was heard.
#[derive(Clone, Copy, Debug)]
struct Ask {
    from: NodeId,
    ask: LeaseAsk,
    heard_ms: u64,
}

impl LeaseBook {
    /// This replica leads the group from now on.
    pub fn lead(&mut self, now_ms: u64) {
        if self.leader_since_ms.is_none() {
            *self = Self { leader_since_ms: Some(now_ms), ..Self::default() };
        }
    }

    /// It does not.
    pub fn follow(&mut self) {
        *self = Self::default();
    }

    pub fn ask(&mut self, from: NodeId, ask: LeaseAsk, now_ms: u64) {
        if self.leader_since_ms.is_none() {
            return;
        }
        let entry = self.entries.entry(from).or_default();
        entry.applied = entry.applied.max(ask.applied);
        self.asked.retain(|other| other.from != from);
        self.asked.push(Ask { from, ask, heard_ms: now_ms });
    }

    /// Whether a ReadIndex should be issued now, of this context.
    pub fn wants_proof(&self) -> bool {
        !self.asked.is_empty() && self.proving.is_none() && self.proven.is_none()
    }

    /// A ReadIndex of that context was issued: it proves all asks so far.
    pub fn proving(&mut self, context: u64) {
        self.proving = Some((context, std::mem::take(&mut self.asked)));
    }

    /// A proof takes too long (its messages were lost): its asks wait for the next one.
    pub fn give_up(&mut self, context: u64) {
        if let Some((issued, asks)) = self.proving.take() {
            if issued == context {
                let late: Vec<Ask> =
                    asks.into_iter().filter(|old| self.asked.iter().all(|new| new.from != old.from)).collect();
                self.asked.extend(late);
            } else {
                self.proving = Some((issued, asks));
            }
        }
    }

    pub fn proof_in_flight(&self) -> Option<u64> {
        self.proving.as_ref().map(|(context, _)| *context)
    }

    pub fn proven(&mut self, context: u64, index: u64) {
        if let Some((issued, asks)) = self.proving.take() {
            if issued == context {
                self.proven = Some((index, asks));
            } else {
                self.proving = Some((issued, asks));
            }
        }
    }

    /// The asks that can be granted now. `applied` and `last_move` are of the leader's own table.
    ///
    /// What was asked a whole lease ago, before a pause, is not granted: it would have run out, and who asked would be
    /// counted among those who hold one.
    pub fn grants(&mut self, now_ms: u64, lease_ms: u64, applied: u64, last_move: u64) -> Vec<(NodeId, LeaseAsk)> {
        match &self.proven {
            Some((index, _)) if *index <= applied => {}
            _ => return Vec::new(),
        }
        let Some((_, asks)) = self.proven.take() else { return Vec::new() };
        let mut grants = Vec::new();
        for Ask { from, ask, heard_ms } in asks {
            if heard_ms + lease_ms <= now_ms {
                continue;
            }
            if ask.applied < last_move && plant::on(Plant::LeaseWithoutMoves) {
                grants.push((from, ask));
            } else if ask.applied >= last_move {
                let entry = self.entries.entry(from).or_default();
                entry.until_ms = entry.until_ms.max(now_ms + lease_ms + 2 * drift(lease_ms));
                grants.push((from, ask));
            }
        }
        grants
    }

    /// Whether moves up to `last_move` can be settled: everybody who may hold a lease has applied them.
    pub fn can_settle(&self, now_ms: u64, lease_ms: u64, last_move: u64) -> bool {
        let Some(since_ms) = self.leader_since_ms else { return false };
        if plant::on(Plant::SettleAtOnce) {
            return true;
        }
        if now_ms < since_ms + lease_ms + 2 * drift(lease_ms) && !plant::on(Plant::HastyLeader) {
            return false;
        }
        self.entries.values().all(|entry| entry.applied >= last_move || entry.until_ms <= now_ms)
    }

    /// Whether `instance` may hold a lease now.
    pub fn holds(&self, instance: NodeId, now_ms: u64) -> bool {
        self.entries.get(&instance).is_some_and(|entry| now_ms < entry.until_ms)
    }

    /// How many of `instances` may hold a lease now.
    pub fn holders(&self, instances: impl Iterator<Item = NodeId>, now_ms: u64) -> usize {
        instances.filter(|id| self.holds(*id, now_ms)).count()
    }

    /// Until when each instance's lease may run, for people.
    pub fn until(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.entries.iter().map(|(id, entry)| (*id, entry.until_ms))
    }
}

#[cfg(test)]
mod tests;
