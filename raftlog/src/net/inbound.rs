//! The links and snapshots that others have open to us: one each per sender.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::NodeId;

/// Who is linked to us. A sender's new link replaces its old one, which may be half dead.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    links: Mutex<Links>,
    snapshots: Arc<Mutex<HashSet<NodeId>>>,
}

#[derive(Debug, Default)]
struct Links {
    by_sender: HashMap<NodeId, Entry>,
    opened: u64,
}

/// A link that is open.
#[derive(Debug)]
struct Entry {
    /// Tells it from the one that replaced it.
    number: u64,
    /// The name under which the sender came in.
    label: Arc<str>,
    /// Dropped, it closes the link.
    _keeper: oneshot::Sender<()>,
}

/// A link's side of its entry.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    /// Resolves when the link has to close.
    pub(super) closed: oneshot::Receiver<()>,
}

/// The right to send a snapshot to us, given back by dropping it.
#[derive(Debug)]
pub(super) struct SnapshotTurn {
    from: NodeId,
    turns: Arc<Mutex<HashSet<NodeId>>>,
}

impl Inbound {
    /// Enters a link of `from`, which is called `label`; nothing when there are `max` others.
    pub(super) fn open(&self, from: NodeId, label: Arc<str>, max: usize) -> Option<Ticket> {
        let mut links = self.links();
        if links.by_sender.len() >= max && !links.by_sender.contains_key(&from) {
            return None;
        }
        links.opened += 1;
        let number = links.opened;
        let (keeper, closed) = oneshot::channel();
        links.by_sender.insert(from, Entry { number, label, _keeper: keeper });
        Some(Ticket { number, closed })
    }

    /// The link is over; its entry goes unless another link has taken its place.
    pub(super) fn ended(&self, from: NodeId, ticket: &Ticket) {
        let mut links = self.links();
        if links.by_sender.get(&from).is_some_and(|entry| entry.number == ticket.number) {
            links.by_sender.remove(&from);
        }
    }

    /// Closes the links of all who came in under one of these labels, whatever their ids.
    pub(super) fn close(&self, labels: &HashSet<Arc<str>>) {
        self.links().by_sender.retain(|_, entry| !labels.contains(&entry.label));
    }

    /// Closes all links.
    pub(super) fn close_all(&self) {
        self.links().by_sender.clear();
    }

    /// The turn of `from` to send a snapshot; nothing while it sends another.
    pub(super) fn snapshot_turn(&self, from: NodeId) -> Option<SnapshotTurn> {
        let is_first = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).insert(from);
        is_first.then(|| SnapshotTurn { from, turns: self.snapshots.clone() })
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SnapshotTurn {
    fn drop(&mut self) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.from);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn a_new_link_replaces_the_senders_old_one() {
        let inbound = Inbound::default();
        let mut old = inbound.open(NodeId(1), "a".into(), 1).unwrap();
        assert!(inbound.open(NodeId(2), "b".into(), 1).is_none());
        let mut new = inbound.open(NodeId(1), "a".into(), 1).unwrap();
        assert_eq!(old.closed.try_recv(), Err(TryRecvError::Closed));
        inbound.ended(NodeId(1), &old);
        assert_eq!(new.closed.try_recv(), Err(TryRecvError::Empty));
        inbound.ended(NodeId(1), &new);
        assert!(inbound.open(NodeId(2), "b".into(), 1).is_some());
    }

    #[test]
    fn a_sender_has_one_snapshot_at_a_time() {
        let inbound = Inbound::default();
        let turn = inbound.snapshot_turn(NodeId(1)).unwrap();
        assert!(inbound.snapshot_turn(NodeId(1)).is_none());
        assert!(inbound.snapshot_turn(NodeId(2)).is_some());
        drop(turn);
        assert!(inbound.snapshot_turn(NodeId(1)).is_some());
    }
}
