//! The fleet as the data path sees it: choices from this worker's LRU, from the applied table, or from the replica.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use flow::{BackendId, ControlTable, Pin, PinKey, Tuning, View, cache::Cache, control::identity};
use raftlog::net::Transport;
use replica::Answered;
use tokio::sync::oneshot;

use super::{clock::now_ms, disk::DiskUsage, health::Health, input::Input, shared::Shared};
use crate::{
    choice::{Choice, Chooser, Member, Refusal, Source},
    control::{ControlError, VipStatus},
    metrics::Decisions,
};

/// A handle on this instance's replica. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub label: String,
    pub fleet_name: String,
    /// Settings of the log that count while none are committed.
    pub configured: Tuning,
    pub shared: Arc<Shared>,
    pub inputs: SyncSender<Input>,
    pub health: Health,
    pub decisions: Arc<Decisions>,
    pub cache_entries: NonZeroUsize,
    /// Addresses of members that are configured by name.
    pub resolved: ArcSwap<HashMap<String, IpAddr>>,
    /// Look-ups of those that failed.
    pub lookups_failed: AtomicU64,
    pub transport: OnceLock<Transport>,
    pub usage: Arc<DiskUsage>,
    /// Open connections of a pool, as the data path counts them.
    pub connections: OnceLock<Connections>,
    /// How the VIPs stand, where there is somebody who announces them.
    pub vip: OnceLock<VipLook>,
}

/// Tells how the VIPs stand.
pub type VipLook = Box<dyn Fn() -> VipStatus + Send + Sync>;

/// Counts the open connections of the pool of that name.
pub type Connections = Box<dyn Fn(&str) -> u64 + Send + Sync>;

impl Inner {
    /// Each peer's label, and whether the link to it is up.
    pub fn links(&self) -> Vec<(String, bool)> {
        let links = self.transport.get().map_or_else(Vec::new, Transport::links);
        links.into_iter().map(|link| (link.address.label.to_string(), link.up)).collect()
    }

    /// What the transport counts, by name.
    pub fn link_counters(&self) -> Vec<(&'static str, u64)> {
        let transport = self.transport.get().into_iter();
        transport
            .flat_map(|it| it.counters().values().map(|(name, _, count)| (name, count)).collect::<Vec<_>>())
            .collect()
    }

    pub fn connections(&self, pool: &str) -> u64 {
        self.connections.get().map_or(0, |count| count(pool))
    }
}

/// What a cached answer names.
struct Target {
    backend: BackendId,
    name: Arc<str>,
    address: SocketAddr,
}

thread_local! {
    /// This worker's LRU: no lock, no other core.
    static CACHE: RefCell<Option<Cache<Target>>> = const { RefCell::new(None) };
}

impl Chooser for Fleet {
    fn choose_now(&self, key: &PinKey) -> Option<Choice> {
        let started = Instant::now();
        let shared = &self.inner.shared;
        let view = shared.view(key)?;
        let now_ms = now_ms();
        let found = CACHE.with_borrow_mut(|cache| {
            let cache = cache.get_or_insert_with(|| Cache::new(self.inner.cache_entries));
            cache.look_up(key, &view, now_ms, |pin| target(&shared.control(), pin))
        })?;
        if found.touch {
            // Full: it is asked for again with a later use.
            drop(self.inner.inputs.try_send(Input::Touch(*key)));
        }
        let source = if found.cached { Source::Cache } else { Source::Table };
        self.inner.decisions.record(source, started.elapsed());
        Some(choice(&found.target, &found.pin, source))
    }

    async fn choose(&self, key: PinKey, deadline: Instant) -> Result<Choice, Refusal> {
        self.ask(key, None, deadline).await
    }

    fn still_stands(&self, key: &PinKey, choice: &Choice) -> bool {
        if choice.source == Source::Isolated {
            return true;
        }
        self.inner.shared.view(key).is_some_and(|view| view.stands(key, choice.backend, now_ms()))
    }

    fn connect_failed(&self, choice: &Choice) {
        self.inner.health.connect_failed(choice.backend);
        // Full: the data path has more of these to say before long.
        drop(self.inner.inputs.try_send(Input::AskForProbes(choice.backend)));
    }

    async fn choose_again(&self, key: PinKey, failed: &Choice, deadline: Instant) -> Result<Choice, Refusal> {
        self.ask(key, Some(failed.backend), deadline).await
    }

    fn relays(&self, backend: BackendId) -> Vec<SocketAddr> {
        let control = self.inner.shared.control();
        let resolved = self.inner.resolved.load();
        let links = self.inner.links();
        let mut relays = Vec::new();
        for (voter, vote) in control.votes(backend) {
            let Some(member) = control.member(voter) else { continue };
            if vote.view != View::Up || member.address.label == self.inner.label {
                continue;
            }
            let host = &member.address.host;
            if let Some(address) = host.parse().ok().or_else(|| resolved.get(host).copied()) {
                let up = links.iter().any(|(label, up)| *label == member.address.label && *up);
                relays.push((up, SocketAddr::new(address, member.address.grpc)));
            }
        }
        in_order(relays)
    }

    fn member(&self, backend: BackendId) -> Option<Member> {
        let control = self.inner.shared.control();
        let (pool, server) = control.backend(backend)?;
        Some(Member { address: server.socket_address(), transparent: pool.spec.transparent })
    }

    fn touch(&self, key: &PinKey) {
        drop(self.inner.inputs.try_send(Input::Touch(*key)));
    }
}

impl Fleet {
    async fn ask(&self, key: PinKey, avoid: Option<BackendId>, deadline: Instant) -> Result<Choice, Refusal> {
        let started = Instant::now();
        let (answer, answered) = oneshot::channel();
        let patience = deadline.saturating_duration_since(started);
        let question = Input::Choose { key, avoid, patience, answer };
        if self.inner.inputs.try_send(question).is_err() {
            return Err(Refusal::Overloaded);
        }
        let answered = match answered.await {
            Ok(Ok(answered)) => answered,
            Ok(Err(refusal)) => return Err(refusal_of(refusal)),
            Err(_) => return Err(Refusal::NoLease),
        };
        let Answered { pin, committed } = answered;
        let shared = &self.inner.shared;
        if !committed && (shared.is_outcast() || shared.removed.load(Ordering::Relaxed)) {
            // Not even by the hash: the fleet goes on without this instance.
            return Err(Refusal::NoLease);
        }
        let source = if committed { Source::Commit } else { Source::Isolated };
        let target = target(&shared.control(), &pin).ok_or(Refusal::Timeout)?;
        self.inner.decisions.record(source, started.elapsed());
        Ok(choice(&target, &pin, source))
    }

    /// Whether this instance may answer: its replica holds the lease of group 0 and nothing speaks against it.
    pub(super) fn reasons_not_ready(&self) -> Vec<String> {
        let shared = &self.inner.shared;
        let mut reasons = Vec::new();
        let now_ms = now_ms();
        if shared.groups().is_empty() {
            reasons.push("starting: waiting for a majority of the fleet's instances".to_owned());
        } else if shared.control().birth().is_none() {
            reasons.push("starting: the fleet's first word is not committed yet".to_owned());
        }
        let missing = shared.groups().iter().filter(|group| !group.load().lease.holds(now_ms)).count();
        if !shared.holds_control_lease(now_ms) || missing > 0 {
            reasons.push("no lease: cut off from the leader or from a majority".to_owned());
        }
        if !reasons.is_empty() {
            // What a single peer says is no reason by itself: it may be the one that is wrong.
            reasons.extend(shared.refusals());
        }
        for (flag, reason) in [
            (&shared.removed, "removed from the fleet"),
            (&shared.disk_full, "the disk is full"),
            (&shared.draining, "draining"),
            (&shared.grpc_shut, "cut off from its peers by an operator"),
        ] {
            if flag.load(Ordering::Relaxed) {
                reasons.push(reason.to_owned());
            }
        }
        reasons
    }

    /// Notes the addresses of members that are configured by name.
    pub(super) fn set_resolved(&self, resolved: HashMap<String, IpAddr>) {
        self.inner.resolved.store(Arc::new(resolved));
    }

    /// Puts something to the replica, waiting for room for a moment.
    pub(super) async fn put(&self, input: Input) -> Result<(), ControlError> {
        use std::sync::mpsc::TrySendError;
        let mut input = input;
        for _ in 0..PUT_TRIES {
            match self.inner.inputs.try_send(input) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back)) => input = back,
                Err(TrySendError::Disconnected(_)) => {
                    return Err(ControlError::Unavailable("this instance is stopping. Nothing was done".to_owned()));
                }
            }
            tokio::time::sleep(PUT_PAUSE).await;
        }
        Err(ControlError::Overloaded("the replica has more to do than it can take".to_owned()))
    }
}

/// Those whose link is up come first: a vote may be older than the silence of the one that cast it.
fn in_order(mut relays: Vec<(bool, SocketAddr)>) -> Vec<SocketAddr> {
    relays.sort_by_key(|(up, _)| !*up);
    relays.into_iter().map(|(_, address)| address).collect()
}

/// What a pin names, if the control table here is new enough to know.
fn target(control: &ControlTable, pin: &Pin) -> Option<Arc<Target>> {
    if pin.epoch > control.epoch() {
        return None;
    }
    let (pool, server) = control.backend(pin.backend)?;
    debug_assert_eq!(identity(&pool.spec, server), pin.backend);
    let (name, address) = (server.name.as_str().into(), server.socket_address());
    Some(Arc::new(Target { backend: pin.backend, name, address }))
}

fn choice(target: &Target, pin: &Pin, source: Source) -> Choice {
    Choice {
        backend: target.backend,
        name: Arc::clone(&target.name),
        address: target.address,
        epoch: pin.epoch,
        source,
    }
}

fn refusal_of(refusal: replica::Refusal) -> Refusal {
    match refusal {
        replica::Refusal::NoLease => Refusal::NoLease,
        replica::Refusal::Timeout => Refusal::Timeout,
        replica::Refusal::NoBackend => Refusal::NoBackend,
        replica::Refusal::NoPool => Refusal::NoPool,
        replica::Refusal::Overloaded => Refusal::Overloaded,
    }
}

const PUT_TRIES: usize = 50;
const PUT_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_whose_link_is_up_are_asked_first() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let relays = vec![(false, address(1)), (true, address(2)), (false, address(3)), (true, address(4))];
        assert_eq!(in_order(relays), [2, 4, 1, 3].map(address));
    }
}
