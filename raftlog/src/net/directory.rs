//! The peers of this instance, by name and by id.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ahash::AHashMap;
use tokio::sync::{Notify, Semaphore, watch};

use super::gate::PeerAddress;
use super::outbox::Outbox;
use crate::NodeId;

/// What is known of one peer. Replaced, not changed, when its address changes.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: PeerAddress,
    /// Who it said it is; 0 while it has never answered.
    id: AtomicU64,
    /// The queue of the link, while there is one.
    outbox: Mutex<Option<Arc<Outbox>>>,
    /// Ends the dialler's pause.
    pub(super) redial: Notify,
    /// One permit: a snapshot at a time.
    pub(super) snapshots: Arc<Semaphore>,
    closing: watch::Sender<bool>,
}

impl Peer {
    fn new(address: PeerAddress) -> Peer {
        Peer {
            address,
            id: AtomicU64::new(0),
            outbox: Mutex::new(None),
            redial: Notify::new(),
            snapshots: Arc::new(Semaphore::new(1)),
            closing: watch::Sender::new(false),
        }
    }

    pub(super) fn id(&self) -> Option<NodeId> {
        Some(NodeId(self.id.load(Ordering::Acquire))).filter(|id| id.0 != 0)
    }

    pub(super) fn outbox(&self) -> Option<Arc<Outbox>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_up(&self) -> bool {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn attach(&self, outbox: Arc<Outbox>) {
        *self.outbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(outbox);
    }

    pub(super) fn detach(&self) {
        *self.outbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends everything that goes to this peer.
    fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Returns once the owner does not want this peer any more.
    pub(super) async fn closed(&self) {
        wait_until_set(self.closing.subscribe()).await;
    }
}

/// Returns once the flag is set or can no longer be.
pub(super) async fn wait_until_set(mut flag: watch::Receiver<bool>) {
    // An error says that the sender is gone, which ends the wait as well.
    let (Ok(_) | Err(_)) = flag.wait_for(|set| *set).await;
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Directory {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_label: HashMap<Arc<str>, Arc<Peer>>,
    /// The peers that have answered once.
    by_id: AHashMap<NodeId, Arc<Peer>>,
    /// How often peers left.
    changes: u64,
}

/// What [`Directory::replace`] did.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// New peers, which need a dialler.
    pub(super) added: Vec<Arc<Peer>>,
    /// The labels of those who are no peers any more, or are at another address now.
    pub(super) removed: HashSet<Arc<str>>,
}

impl Directory {
    /// Makes `addresses` the peers: those with the same label and address stay, others are closed. Labels are unique.
    pub(super) fn replace(&self, addresses: Vec<PeerAddress>) -> Changes {
        let mut guard = self.write();
        let tables = &mut *guard;
        let mut old = std::mem::take(&mut tables.by_label);
        let mut changes = Changes::default();
        for address in addresses {
            let label = address.label.clone();
            let peer = match old.remove(&label) {
                Some(peer) if peer.address == address => peer,
                replaced => {
                    if let Some(peer) = replaced {
                        changes.removed.insert(label.clone());
                        tables.forget(&peer);
                    }
                    let peer = Arc::new(Peer::new(address));
                    changes.added.push(peer.clone());
                    peer
                }
            };
            tables.by_label.insert(label, peer);
        }
        for (label, peer) in old {
            tables.forget(&peer);
            changes.removed.insert(label);
        }
        tables.changes += u64::from(!changes.removed.is_empty());
        changes
    }

    /// Remembers who `peer` is; returns whether it had been up before.
    pub(super) fn identify(&self, peer: &Arc<Peer>, id: NodeId) -> bool {
        let mut tables = self.write();
        let before = peer.id.swap(id.0, Ordering::AcqRel);
        let is_current = tables.by_label.get(&peer.address.label).is_some_and(|current| Arc::ptr_eq(current, peer));
        if is_current {
            tables.by_id.retain(|_, other| !Arc::ptr_eq(other, peer));
            tables.by_id.insert(id, peer.clone());
        }
        before != 0
    }

    /// A number that is another one once peers have left.
    pub(super) fn changes(&self) -> u64 {
        self.read().changes
    }

    pub(super) fn by_id(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.read().by_id.get(&id).cloned()
    }

    pub(super) fn by_label(&self, label: &str) -> Option<Arc<Peer>> {
        self.read().by_label.get(label).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Peer>> {
        self.read().by_label.values().cloned().collect()
    }

    /// `id` is there, since it came to us: whoever may be it and is not linked is dialled now.
    pub(super) fn redial(&self, id: NodeId) {
        for peer in self.read().by_label.values() {
            if peer.id().is_none_or(|known| known == id) && !peer.is_up() {
                peer.redial.notify_one();
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn forget(&mut self, peer: &Arc<Peer>) {
        peer.close();
        self.by_id.retain(|_, other| !Arc::ptr_eq(other, peer));
    }
}
