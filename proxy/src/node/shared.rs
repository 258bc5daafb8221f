//! What readers on any thread see of the replica: immutable views behind wait-free pointers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use flow::{ControlTable, GroupView, InstanceId, PinKey, PoolSpec, flows::FlowTable};
use raftlog::{GroupId, net::Refused};
use replica::{GroupRole, birth::RefusedCode, group_of};
use tokio::sync::watch;

use super::events::Events;

/// The views, and a few words on how the replica is.
pub struct Shared {
    control: ArcSwap<ControlTable>,
    /// The pin groups, once it is decided how many there are.
    groups: OnceLock<Vec<ArcSwap<GroupView>>>,
    /// The flow groups with their tables, by shard, once it is decided how many there are.
    flows: OnceLock<Vec<(GroupId, ArcSwap<FlowTable>)>>,
    flows_changed: watch::Sender<()>,
    roles: Mutex<BTreeMap<GroupId, GroupRole>>,
    /// When the lease of group 0 ends.
    pub control_lease_until_ms: AtomicU64,
    /// Removed members that some group here still counts.
    leaving: ArcSwap<BTreeSet<InstanceId>>,
    pub removed: AtomicBool,
    pub disk_full: AtomicBool,
    pub draining: AtomicBool,
    /// An operator has cut this instance off from its peers.
    pub grpc_shut: AtomicBool,
    /// Becomes true when an operator wants this instance to stop.
    pub stop_asked: watch::Sender<bool>,
    /// When, by this instance's clock, each group was last proven to hold all that was committed until then.
    proofs: Mutex<BTreeMap<GroupId, u64>>,
    /// What happened lately.
    pub events: Events,
    /// What the peers said that refuse this instance, by their labels.
    refused: Mutex<BTreeMap<String, Refused>>,
    /// Whether one of them said that this instance does not belong to its fleet.
    outcast: AtomicBool,
    pools: watch::Sender<Arc<Vec<PoolSpec>>>,
    controls: watch::Sender<()>,
}

impl Shared {
    pub fn new() -> Self {
        Self {
            control: ArcSwap::from_pointee(ControlTable::default()),
            groups: OnceLock::new(),
            flows: OnceLock::new(),
            flows_changed: watch::Sender::new(()),
            roles: Mutex::new(BTreeMap::new()),
            control_lease_until_ms: AtomicU64::new(0),
            leaving: ArcSwap::default(),
            removed: AtomicBool::new(false),
            disk_full: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            grpc_shut: AtomicBool::new(false),
            stop_asked: watch::Sender::new(false),
            proofs: Mutex::default(),
            events: Events::default(),
            refused: Mutex::new(BTreeMap::new()),
            outcast: AtomicBool::new(false),
            pools: watch::Sender::new(Arc::new(Vec::new())),
            controls: watch::Sender::new(()),
        }
    }

    /// All that was committed in this group until then is applied here.
    pub fn note_proof(&self, group: GroupId, began_ms: u64) {
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = proofs.entry(group).or_default();
        *proof = began_ms.max(*proof);
    }

    /// The time up to which this group is known to hold all that was committed.
    pub fn proven_ms(&self, group: GroupId) -> Option<u64> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).get(&group).copied()
    }

    /// The pin groups are known from now on.
    pub fn set_groups(&self, views: Vec<GroupView>) {
        drop(self.groups.set(views.into_iter().map(ArcSwap::from_pointee).collect()));
    }

    /// The flow groups are known from now on.
    pub fn set_flows(&self, tables: Vec<(GroupId, FlowTable)>) {
        let shards = tables.into_iter().map(|(group, table)| (group, ArcSwap::from_pointee(table)));
        drop(self.flows.set(shards.collect()));
    }

    pub fn publish_flows(&self, group: GroupId, table: FlowTable) {
        if let Some((_, place)) = self.flows().iter().find(|(id, _)| *id == group) {
            place.store(Arc::new(table));
            self.flows_changed.send_replace(());
        }
    }

    /// The flow groups with their tables, by shard; none while it is not decided how many there are.
    pub fn flows(&self) -> &[(GroupId, ArcSwap<FlowTable>)] {
        self.flows.get().map_or(&[], Vec::as_slice)
    }

    /// Tells whenever a table of flows was published.
    pub fn flows_changed(&self) -> watch::Receiver<()> {
        self.flows_changed.subscribe()
    }

    pub fn set_leaving(&self, leaving: BTreeSet<InstanceId>) {
        self.leaving.store(Arc::new(leaving));
    }

    /// The removed members that some group here still counts.
    pub fn leaving(&self) -> Arc<BTreeSet<InstanceId>> {
        self.leaving.load_full()
    }

    pub fn publish_control(&self, table: ControlTable) {
        let old = self.control.load();
        let changed = old.epoch() != table.epoch() || old.applied().0 == 0;
        if changed {
            let pools: Vec<PoolSpec> = table.pools().map(|(_, pool)| pool.spec.clone()).collect();
            self.control.store(Arc::new(table));
            // Verdicts make epochs too; listeners only want to hear of pools.
            self.pools.send_if_modified(|seen| {
                let news = **seen != pools;
                if news {
                    *seen = Arc::new(pools);
                }
                news
            });
        } else {
            self.control.store(Arc::new(table));
        }
        self.controls.send_replace(());
    }

    pub fn publish_group(&self, group: GroupId, view: GroupView) {
        if let Some(place) = self.group(group) {
            place.store(Arc::new(view));
        }
    }

    pub fn publish_role(&self, role: GroupRole) {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).insert(role.group, role);
    }

    pub fn control(&self) -> arc_swap::Guard<Arc<ControlTable>> {
        self.control.load()
    }

    pub fn role(&self, group: GroupId) -> Option<GroupRole> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).get(&group).copied()
    }

    /// The pin groups; none while it is not decided how many there are.
    pub fn groups(&self) -> &[ArcSwap<GroupView>] {
        self.groups.get().map_or(&[], Vec::as_slice)
    }

    pub fn group(&self, group: GroupId) -> Option<&ArcSwap<GroupView>> {
        self.groups().get((group.0 as usize).checked_sub(1)?)
    }

    /// The view that a key is answered from.
    pub fn view(&self, key: &PinKey) -> Option<arc_swap::Guard<Arc<GroupView>>> {
        let groups = self.groups();
        Some(self.group(group_of(key, groups.len() as u32))?.load())
    }

    /// The pools as they change.
    pub fn pools(&self) -> watch::Receiver<Arc<Vec<PoolSpec>>> {
        self.pools.subscribe()
    }

    /// Tells whenever the control table was published.
    pub fn controls(&self) -> watch::Receiver<()> {
        self.controls.subscribe()
    }

    /// A peer refused this instance.
    pub fn refused_by(&self, label: &str, refused: &Refused) {
        self.change_refusals(|refusals| drop(refusals.insert(label.to_owned(), refused.clone())));
    }

    /// A peer let this instance in.
    pub fn let_in_by(&self, label: &str) {
        self.change_refusals(|refusals| drop(refusals.remove(label)));
    }

    /// What others than those peers said counts no more.
    pub fn keep_refusals(&self, is_peer: impl Fn(&str) -> bool) {
        self.change_refusals(|refusals| refusals.retain(|label, _| is_peer(label)));
    }

    /// Who refuses this instance, and why.
    pub fn refusals(&self) -> Vec<String> {
        let refusals = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.iter().map(|(label, refused)| format!("refused by {label}: {}", refused.text)).collect()
    }

    /// Whether a peer says that this instance, or its data directory, does not belong to its fleet.
    pub fn is_outcast(&self) -> bool {
        self.outcast.load(Ordering::Relaxed)
    }

    fn change_refusals(&self, change: impl FnOnce(&mut BTreeMap<String, Refused>)) {
        let mut refusals = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut refusals);
        let outcast = refusals.values().any(|refused| OUTCAST.iter().any(|code| *code as u32 == refused.code));
        self.outcast.store(outcast, Ordering::Relaxed);
    }

    pub fn holds_control_lease(&self, now_ms: u64) -> bool {
        now_ms < self.control_lease_until_ms.load(Ordering::Relaxed)
    }
}

/// What is said to one that does not belong to the fleet.
const OUTCAST: [RefusedCode; 4] =
    [RefusedCode::OtherFleet, RefusedCode::NotAMember, RefusedCode::Removed, RefusedCode::Replaced];
