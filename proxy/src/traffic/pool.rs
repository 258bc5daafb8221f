//! A pool while it is served: its current settings, its counters, and who is let in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use flow::{PoolId, PoolSpec};

use super::{
    counters::{Metrics, PoolCounters, RefusedFor},
    tunnel::Rhythm,
};

/// A pool that is served here.
pub struct Pool {
    /// Its identity.
    pub id: PoolId,
    /// Its counters.
    pub counters: PoolCounters,
    spec: ArcSwap<PoolSpec>,
    open: AtomicU32,
}

/// A client connection that was let in: counted until it is dropped.
pub struct Admitted(Arc<Pool>);

impl Pool {
    /// Serves `spec`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, spec: &PoolSpec) -> Self {
        Self {
            id: spec.id(),
            counters: PoolCounters::new(metrics, &spec.name),
            spec: ArcSwap::from_pointee(spec.clone()),
            open: AtomicU32::new(0),
        }
    }

    /// The settings as they are now.
    #[must_use]
    pub fn spec(&self) -> Arc<PoolSpec> {
        self.spec.load_full()
    }

    /// Takes changed settings; open connections keep those they began with.
    pub fn change(&self, spec: &PoolSpec) {
        if **self.spec.load() != *spec {
            self.spec.store(Arc::new(spec.clone()));
        }
        self.counters.prune(spec);
    }

    /// Lets a connection in, unless `max_connections` are open.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<Admitted> {
        self.counters.total.inc();
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        if open >= self.spec.load().max_connections {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.counters.refuse(RefusedFor::MaxConnections);
            return None;
        }
        self.counters.open.inc();
        Some(Admitted(Arc::clone(self)))
    }
}

impl Admitted {
    /// The pool that let it in.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.0
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.counters.open.dec();
    }
}

/// The pace of a connection of a pool with these settings.
#[must_use]
pub fn rhythm(spec: &PoolSpec) -> Rhythm {
    Rhythm { idle: millis(spec.idle_timeout_ms), touch: millis(spec.pin_ttl_ms / 4) }
}

/// A duration of `count` milliseconds, at least one and at most so many that adding it to any clock is safe.
#[must_use]
pub fn millis(count: u64) -> Duration {
    Duration::from_millis(count.clamp(1, MILLIS_MAX))
}

/// A hundred years.
const MILLIS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;
