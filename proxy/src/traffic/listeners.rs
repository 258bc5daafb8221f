//! Listeners follow the committed pools: opened, moved and closed as pools come, change and go.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use ahash::AHashMap;
use flow::{Bind, PoolId, PoolSpec, Protocol};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::{error, info};

use super::{
    accept::{Serving, accept_all},
    limits,
    pool::Pool,
    socket::{self, Hold},
    workers::Phase,
};
use crate::choice::Chooser;

/// What became of a pool's listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// The pool's name.
    pub pool: String,
    /// Where it listens or should listen; the port is the real one once it listens.
    pub address: SocketAddr,
    /// Whether that is a VIP, which need not be an address of this machine.
    pub vip: bool,
    /// Whether it takes connections to that address wherever it is, by packet rules.
    pub transparent: bool,
    /// Why it does not listen; it is tried again.
    pub error: Option<String>,
}

/// The statuses, by pool name.
pub type Listeners = Arc<Vec<ListenerStatus>>;

/// Keeps the listeners of one instance.
pub(super) struct Supervisor<C: Chooser> {
    serving: Arc<Serving<C>>,
    own: IpAddr,
    entries: AHashMap<PoolId, Entry>,
    /// Pools that are gone but still have connections; one that comes back is the same pool again.
    retired: AHashMap<PoolId, Weak<Pool>>,
    status: watch::Sender<Listeners>,
    /// Told when a worker can no longer accept.
    stopped: Arc<Notify>,
}

/// A pool and its listener.
struct Entry {
    pool: Arc<Pool>,
    wanted: Wanted,
    listener: Listener,
}

/// Where and how a pool wants to be served.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wanted {
    address: SocketAddr,
    vip: bool,
    transparent: bool,
    protocol: Protocol,
}

enum Listener {
    Open {
        address: SocketAddr,
        close: watch::Sender<bool>,
        accepting: Vec<JoinHandle<std::io::Result<()>>>,
        /// Why a worker can no longer accept, once one cannot.
        stopped: Arc<OnceLock<String>>,
    },
    Failed {
        error: String,
        next: Instant,
        backoff: Duration,
    },
}

impl<C: Chooser> Supervisor<C> {
    pub(super) fn new(serving: Arc<Serving<C>>, own: IpAddr, status: watch::Sender<Listeners>) -> Self {
        let stopped = Arc::new(Notify::new());
        Self { serving, own, entries: AHashMap::new(), retired: AHashMap::new(), status, stopped }
    }

    /// Follows `pools` until `phase` is no longer [`Phase::Serving`]; then closes all listeners.
    pub(super) async fn run(
        mut self,
        mut pools: watch::Receiver<Arc<Vec<PoolSpec>>>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let mut followed = true;
        pools.mark_changed();
        loop {
            let (retry, mut follow) = (self.next_retry(), false);
            let never = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
                // An error means that nobody will change them any more; what is open stays.
                changed = pools.changed(), if followed => {
                    followed = changed.is_ok();
                    follow = followed;
                }
                () = sleep_until(retry.unwrap_or(never)), if retry.is_some() => {}
                () = self.stopped.notified() => {}
            }
            if follow {
                let specs = Arc::clone(&pools.borrow_and_update());
                self.follow(&specs).await;
            }
            self.close_stopped().await;
            self.open_due();
            self.publish();
        }
        for (_, entry) in self.entries.drain() {
            entry.listener.close().await;
        }
        self.publish();
    }

    /// For tests: listens for `specs`, and a worker cannot accept.
    #[cfg(test)]
    pub(super) async fn stopped(mut self, specs: &[PoolSpec]) -> Self {
        self.follow(specs).await;
        self.open_due();
        for entry in self.entries.values() {
            if let Listener::Open { stopped, .. } = &entry.listener {
                stop(stopped, &self.stopped, &std::io::Error::from_raw_os_error(libc::ENOSPC));
            }
        }
        self
    }

    /// Makes the listeners those of `specs`: closes first, so that pools may exchange their ports.
    async fn follow(&mut self, specs: &[PoolSpec]) {
        let wanted: AHashMap<PoolId, &PoolSpec> = specs.iter().map(|spec| (spec.id(), spec)).collect();
        let gone: Vec<PoolId> = self.entries.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            if let Some(entry) = self.entries.remove(&id) {
                info!(pool = entry.pool.spec().name, address = %entry.wanted.address, "pool removed");
                entry.listener.close().await;
                self.retired.insert(id, Arc::downgrade(&entry.pool));
            }
        }
        self.retired.retain(|_, pool| pool.strong_count() > 0);
        for (id, spec) in wanted {
            let wanted = Wanted::of(spec, self.own);
            match self.entries.get_mut(&id) {
                Some(entry) => {
                    entry.pool.change(spec);
                    if entry.wanted != wanted {
                        entry.wanted = wanted;
                        std::mem::replace(&mut entry.listener, Listener::due()).close().await;
                    }
                }
                None => {
                    let known = self.retired.remove(&id).and_then(|pool| pool.upgrade());
                    let pool =
                        known.unwrap_or_else(|| Arc::new(Pool::new(Arc::clone(&self.serving.shared.metrics), spec)));
                    pool.change(spec);
                    self.entries.insert(id, Entry { pool, wanted, listener: Listener::due() });
                }
            }
        }
    }

    /// Closes the listeners that not every worker accepts from, to open them anew: clients would wait there in vain.
    async fn close_stopped(&mut self) {
        for entry in self.entries.values_mut() {
            let Listener::Open { stopped, .. } = &entry.listener else { continue };
            let Some(error) = stopped.get().cloned() else { continue };
            let (pool, address) = (entry.pool.spec().name.clone(), entry.wanted.address);
            error!(pool, %address, error, "a worker cannot accept, will listen again");
            self.serving.shared.metrics.accept_errors.inc();
            let next = Instant::now() + limits::ACCEPT_RETRY;
            let failed = Listener::Failed { error, next, backoff: Duration::ZERO };
            std::mem::replace(&mut entry.listener, failed).close().await;
        }
    }

    /// Opens the listeners whose time has come.
    fn open_due(&mut self) {
        let now = Instant::now();
        for entry in self.entries.values_mut() {
            let Listener::Failed { next, backoff, ref error } = entry.listener else { continue };
            if next > now {
                continue;
            }
            let first_time = error.is_empty();
            entry.listener = match entry.open(&self.serving, &self.stopped) {
                Ok(listener) => listener,
                Err(reason) => {
                    let (pool, address) = (entry.pool.spec().name.clone(), entry.wanted.address);
                    let reason = explain(&reason, address);
                    if first_time || *error != reason {
                        error!(pool, %address, "cannot listen, will try again: {reason}");
                    }
                    let backoff = (backoff * 2).clamp(limits::BIND_BACKOFF_MIN, limits::BIND_BACKOFF_MAX);
                    Listener::Failed { error: reason, next: now + backoff, backoff }
                }
            };
        }
    }

    fn next_retry(&self) -> Option<Instant> {
        let retry = |entry: &Entry| match entry.listener {
            Listener::Failed { next, .. } => Some(next),
            Listener::Open { .. } => None,
        };
        self.entries.values().filter_map(retry).min()
    }

    fn publish(&self) {
        let mut listeners: Vec<ListenerStatus> = self.entries.values().map(Entry::status).collect();
        listeners.sort_by(|one, other| one.pool.cmp(&other.pool));
        self.status.send_if_modified(|status| {
            let changed = **status != listeners;
            if changed {
                *status = Arc::new(listeners);
            }
            changed
        });
    }
}

impl Wanted {
    fn of(spec: &PoolSpec, own: IpAddr) -> Self {
        let (address, vip) = match spec.bind {
            Bind::Own(port) => (SocketAddr::new(own, port), false),
            Bind::Vip(address) => (address, true),
        };
        Self { address, vip, transparent: spec.transparent, protocol: spec.protocol }
    }

    fn hold(self) -> Hold {
        match self {
            Self { transparent: true, .. } => Hold::Transparent,
            Self { vip: true, .. } => Hold::Free,
            Self { .. } => Hold::Own,
        }
    }
}

impl Entry {
    /// Opens the listener, with one accepting task on every worker.
    fn open<C: Chooser>(&self, serving: &Arc<Serving<C>>, news: &Arc<Notify>) -> std::io::Result<Listener> {
        if self.wanted.protocol == Protocol::Udp {
            return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "this version serves no UDP pools"));
        }
        let socket = Arc::new(socket::listen(self.wanted.address, self.wanted.hold())?);
        let address = socket.local_addr()?;
        let (close, closed) = watch::channel(false);
        let stopped = Arc::new(OnceLock::new());
        let accept = |(worker, handle): (usize, &tokio::runtime::Handle)| {
            let (pool, socket) = (Arc::clone(&self.pool), Arc::clone(&socket));
            let (stopped, news) = (Arc::clone(&stopped), Arc::clone(news));
            let accepting = accept_all(Arc::clone(serving), worker, pool, self.wanted.protocol, socket, closed.clone());
            handle.spawn(async move { accepting.await.inspect_err(|error| stop(&stopped, &news, error)) })
        };
        let accepting = serving.workers.handles().enumerate().map(accept).collect();
        info!(pool = self.pool.spec().name, %address, "listening");
        Ok(Listener::Open { address, close, accepting, stopped })
    }

    fn status(&self) -> ListenerStatus {
        let (address, error) = match &self.listener {
            Listener::Open { address, .. } => (*address, None),
            Listener::Failed { error, .. } => (self.wanted.address, Some(error.clone())),
        };
        ListenerStatus {
            pool: self.pool.spec().name.clone(),
            address,
            vip: self.wanted.vip,
            transparent: self.wanted.transparent,
            error,
        }
    }
}

impl Listener {
    /// Not open yet, to be opened now.
    fn due() -> Self {
        Self::Failed { error: String::new(), next: Instant::now(), backoff: Duration::ZERO }
    }

    /// Closes the socket; done when its port is free.
    async fn close(self) {
        let Self::Open { address, close, accepting, .. } = self else { return };
        close.send_replace(true);
        for task in accepting {
            match task.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(%address, %error, "accepting had stopped"),
                // The worker is gone, and the task's hold on the socket with it.
                Err(_cut) => {}
            }
        }
    }
}

/// A worker cannot accept, for this reason.
fn stop(stopped: &OnceLock<String>, news: &Notify, error: &std::io::Error) {
    // The first reason is told.
    stopped.set(format!("a worker cannot accept: {error}")).ok();
    news.notify_one();
}

/// What stands in the way of listening on `address`, in words that say what to do.
fn explain(error: &std::io::Error, address: SocketAddr) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!("{address} is taken by another listener"),
        Some(libc::EADDRNOTAVAIL) => format!("{} is no address of this machine", address.ip()),
        Some(libc::EACCES) => format!("no permission to listen on port {}", address.port()),
        _ => error.to_string(),
    }
}
