//! The data path: listeners, connections and requests of all pools, carried on threads of their own.
//!
//! Pingora is used as a library (its HTTP proxy), not as the server: listeners come and go with the committed pools,
//! and draining ends when the last connection does, both of which its server does not do.

mod accept;
pub mod counters;
mod http;
pub mod limits;
mod listeners;
mod pool;
mod proxy_protocol;
pub mod relay;
pub(crate) mod socket;
mod splice;
mod tcp;
mod tunnel;
mod upstream;
mod workers;

#[cfg(test)]
mod tests;

use std::{io, net::IpAddr, sync::Arc, thread::available_parallelism, time::Duration};

use flow::PoolSpec;
use prometheus::Registry;
use raftlog::net::Connector;
use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use self::{
    accept::Serving,
    counters::Metrics,
    http::Front,
    listeners::Supervisor,
    relay::{Caller, RelayService, proto::relay_server::RelayServer},
    upstream::Shared,
    workers::{Gone, Workers},
};
pub use self::{
    limits::Limits,
    listeners::{ListenerStatus, Listeners},
    workers::{Phase, Pulse},
};
use crate::choice::Chooser;

/// What the data path of an instance needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The instance's own address: where `":port"` pools listen, and the source of connections to backends and peers.
    pub own: IpAddr,
    /// Threads that carry traffic; 0 means one per core.
    pub workers: usize,
    /// What holds for all pools.
    pub limits: Limits,
    /// Opens connections to peers.
    pub peers: Connector,
}

/// The data path of one instance. Dropping it cuts everything.
pub struct Traffic<C: Chooser> {
    config: Config,
    shared: Arc<Shared<C>>,
    workers: Arc<Workers>,
    phase: watch::Sender<Phase>,
    draining: watch::Sender<bool>,
    listeners: watch::Receiver<Listeners>,
    gone: std::sync::Mutex<Vec<Gone>>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had to be cut.
    pub cut: usize,
}

/// Why the data path could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A thread or its runtime could not be made: ours, retry when there is room.
    #[error("cannot start a traffic thread: {0}")]
    Thread(#[from] io::Error),
    /// A metric is registered already: two data paths on one registry.
    #[error("cannot register a metric: {0}")]
    Metric(#[from] prometheus::Error),
}

impl<C: Chooser> Traffic<C> {
    /// Starts to serve `pools`, now and as they change.
    pub fn start(
        config: Config,
        chooser: C,
        pools: watch::Receiver<Arc<Vec<PoolSpec>>>,
        registry: &Registry,
    ) -> Result<Self, Error> {
        let metrics = Metrics::register(registry)?;
        let count = match config.workers {
            0 => available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let (phase, phases) = watch::channel(Phase::Serving);
        let (draining, drains) = watch::channel(false);
        let (workers, gone) = Workers::start(count, &phases)?;
        let shared = Arc::new(Shared { chooser, own: config.own, caller: Caller::new(config.peers.clone()), metrics });
        let fronts = workers.handles().map(|_| Front::new(&shared, config.limits, drains.clone())).collect();
        let serving = Arc::new(Serving { shared: Arc::clone(&shared), workers: Arc::clone(&workers), fronts });
        let (status, listeners) = watch::channel(Listeners::default());
        let supervisor = Supervisor::new(serving, config.own, status);
        if let Some(first) = workers.handles().next() {
            first.spawn(supervisor.run(pools, phases));
        }
        Ok(Self { config, shared, workers, phase, draining, listeners, gone: gone.into() })
    }

    /// Where the pools listen, or why they do not; changes as they do.
    #[must_use]
    pub fn listeners(&self) -> watch::Receiver<Listeners> {
        self.listeners.clone()
    }

    /// Whether the threads that carry traffic run.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        Pulse::new(&self.workers)
    }

    /// Client connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.workers.open()
    }

    /// Counts the client connections of the pool of that name that are open now.
    pub fn connections(&self) -> impl Fn(&str) -> u64 + Send + Sync + 'static {
        let metrics = Arc::clone(&self.shared.metrics);
        move |pool| metrics.connections(pool)
    }

    /// The service that carries connections for other instances; one per instance, as its limit is its own.
    #[must_use]
    pub fn relay_service(&self) -> RelayServer<RelayService<C>> {
        let (chooser, metrics) = (self.shared.chooser.clone(), Arc::clone(&self.shared.metrics));
        relay::server(chooser, self.config.own, self.config.limits.relays, metrics, self.phase.subscribe())
    }

    /// Stops accepting, lets open connections end for `patience` at most, then cuts them. A second call, from another
    /// task while the first waits, cuts at once.
    pub async fn drain(&self, patience: Duration) -> Drained {
        let mut phase = self.phase.subscribe();
        let first = self.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Draining;
            }
            serving
        });
        self.draining.send_replace(true);
        if first {
            info!(open = self.workers.open(), "draining: no new connections");
            let finished = async {
                // The supervisor closes the listeners, and nobody can come after that.
                self.listeners.clone().wait_for(|listeners| listeners.is_empty()).await.ok();
                self.workers.empty().await;
            };
            tokio::select! {
                _ = timeout(patience, finished) => {}
                _ = phase.wait_for(|phase| *phase == Phase::Cut) => {}
            }
        }
        let cut = self.workers.open();
        self.cut().await;
        if cut > 0 {
            warn!(connections = cut, "cut connections that had not ended");
        }
        Drained { cut }
    }

    /// Ends the worker threads, and with them all that is left.
    async fn cut(&self) {
        self.phase.send_replace(Phase::Cut);
        let gone = std::mem::take(&mut *self.gone.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for worker in gone {
            // An error means that the thread ended without saying so, which is an end as well.
            worker.await.ok();
        }
    }
}

impl<C: Chooser> Drop for Traffic<C> {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Cut);
    }
}
