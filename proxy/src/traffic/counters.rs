//! What the data path counts: handles resolved once per pool and backend, then nothing but atomic additions.

use std::sync::{Arc, Mutex, PoisonError};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use flow::{BackendId, PoolSpec};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::{choice::Refusal, metric_names as names};

/// Why a client or request got no backend; the label of the refusals metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedFor {
    /// No lease.
    NoLease,
    /// No choice in time.
    Timeout,
    /// No backend takes new clients.
    NoBackend,
    /// The pool is gone.
    NoPool,
    /// A queue of the fleet was full.
    Overloaded,
    /// The backend is up, but was not reached from here.
    UnreachableHere,
    /// The pool's `max_connections`.
    MaxConnections,
    /// This instance ran out of ports, descriptors or memory.
    Exhausted,
    /// The pool is transparent, and the connection could not have the client's address: another IP version than the
    /// server's, or no permission.
    NotTransparent,
}

/// What went wrong on a backend's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The backend refused the connect.
    ConnectRefused,
    /// The connect timed out.
    ConnectTimeout,
    /// The connect failed otherwise, as the network says.
    ConnectFailed,
    /// The choice no longer stood once the connect had succeeded.
    ChoiceLapsed,
    /// The client reset the connection.
    ClientReset,
    /// The backend reset the connection.
    BackendReset,
    /// Nothing moved for the pool's idle timeout.
    IdleTimeout,
    /// The relay to the backend broke.
    RelayBroken,
    /// The backend's answer was no HTTP, or broke off.
    BadAnswer,
    /// The backend did not answer in time.
    AnswerTimeout,
}

/// The metrics of the data path, as registered.
pub struct Metrics {
    connections_open: IntGaugeVec,
    connections_total: IntCounterVec,
    sessions_open: IntGaugeVec,
    sessions_total: IntCounterVec,
    received_bytes: IntCounterVec,
    sent_bytes: IntCounterVec,
    responses_total: IntCounterVec,
    refusals_total: IntCounterVec,
    errors_total: IntCounterVec,
    relays_total: IntCounterVec,
    /// Connections carried for other instances now.
    pub relays_open: IntGauge,
    /// Accepts that failed for want of descriptors or memory.
    pub accept_errors: IntCounter,
}

/// The counters of one pool.
pub struct PoolCounters {
    metrics: Arc<Metrics>,
    pool: String,
    /// Client connections open now.
    pub open: IntGauge,
    /// Client connections accepted.
    pub total: IntCounter,
    refused: Vec<IntCounter>,
    backends: ArcSwap<AHashMap<BackendId, Arc<BackendCounters>>>,
    adding: Mutex<()>,
}

/// The counters of one backend of one pool.
pub struct BackendCounters {
    name: String,
    open: IntGauge,
    total: IntCounter,
    /// Bytes from clients.
    pub received: IntCounter,
    /// Bytes to clients.
    pub sent: IntCounter,
    responses: Vec<IntCounter>,
    faults: Vec<IntCounter>,
}

/// One open session of a backend: counted from here until it is dropped.
pub struct Session(Arc<BackendCounters>);

impl RefusedFor {
    const ALL: [Self; 9] = [
        Self::NoLease,
        Self::Timeout,
        Self::NoBackend,
        Self::NoPool,
        Self::Overloaded,
        Self::UnreachableHere,
        Self::MaxConnections,
        Self::Exhausted,
        Self::NotTransparent,
    ];

    /// The word in the metric, in logs and in HTTP answers.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NoLease => "no_lease",
            Self::Timeout => "timeout",
            Self::NoBackend => "no_backend",
            Self::NoPool => "no_pool",
            Self::Overloaded => "overloaded",
            Self::UnreachableHere => "unreachable_here",
            Self::MaxConnections => "max_connections",
            Self::Exhausted => "exhausted",
            Self::NotTransparent => "not_transparent",
        }
    }
}

impl From<Refusal> for RefusedFor {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoLease => Self::NoLease,
            Refusal::Timeout => Self::Timeout,
            Refusal::NoBackend => Self::NoBackend,
            Refusal::NoPool => Self::NoPool,
            Refusal::Overloaded => Self::Overloaded,
            Refusal::UnreachableHere => Self::UnreachableHere,
        }
    }
}

impl Fault {
    const ALL: [Self; 10] = [
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectFailed,
        Self::ChoiceLapsed,
        Self::ClientReset,
        Self::BackendReset,
        Self::IdleTimeout,
        Self::RelayBroken,
        Self::BadAnswer,
        Self::AnswerTimeout,
    ];

    /// The word in the metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::ChoiceLapsed => "choice_lapsed",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::RelayBroken => "relay_broken",
            Self::BadAnswer => "bad_answer",
            Self::AnswerTimeout => "answer_timeout",
        }
    }
}

impl Metrics {
    /// Makes the metrics and registers them on `registry`.
    pub fn register(registry: &Registry) -> prometheus::Result<Arc<Self>> {
        let counters = |name, help, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauges = |name, help, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let relays_open = IntGauge::new(names::RELAYS_OPEN, "Connections carried for other instances now.")?;
        registry.register(Box::new(relays_open.clone()))?;
        let accept_errors =
            IntCounter::new(names::ACCEPT_ERRORS_TOTAL, "Accepts that failed for want of descriptors or memory.")?;
        registry.register(Box::new(accept_errors.clone()))?;
        let by_backend = ["pool", "backend"];
        Ok(Arc::new(Self {
            connections_open: gauges(names::CONNECTIONS_OPEN, "Client connections open now.", &["pool"])?,
            connections_total: counters(names::CONNECTIONS_TOTAL, "Client connections accepted.", &["pool"])?,
            sessions_open: gauges(names::SESSIONS_OPEN, "Connections or requests a backend is serving.", &by_backend)?,
            sessions_total: counters(
                names::SESSIONS_TOTAL,
                "Connections or requests given to a backend.",
                &by_backend,
            )?,
            received_bytes: counters(names::RECEIVED_BYTES, "Bytes from clients to a backend.", &by_backend)?,
            sent_bytes: counters(names::SENT_BYTES, "Bytes from a backend to clients.", &by_backend)?,
            responses_total: counters(
                names::RESPONSES_TOTAL,
                "Answers to HTTP requests by class of status.",
                &["pool", "backend", "class"],
            )?,
            refusals_total: counters(
                names::REFUSALS_TOTAL,
                "Clients or requests that got no backend.",
                &["pool", "reason"],
            )?,
            errors_total: counters(
                names::ERRORS_TOTAL,
                "What went wrong on backends' sessions.",
                &["pool", "backend", "reason"],
            )?,
            relays_total: counters(
                names::RELAYS_TOTAL,
                "Connections that other instances asked to be carried.",
                &["outcome"],
            )?,
            relays_open,
            accept_errors,
        }))
    }

    /// The client connections of a pool that are open now.
    pub fn connections(&self, pool: &str) -> u64 {
        self.connections_open.with_label_values(&[pool]).get().unsigned_abs()
    }

    /// Counts one relay that another instance asked for.
    pub fn relay(&self, outcome: &str) {
        self.relays_total.with_label_values(&[outcome]).inc();
    }
}

impl PoolCounters {
    /// The counters of the pool called `pool`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, pool: &str) -> Self {
        Self {
            open: metrics.connections_open.with_label_values(&[pool]),
            total: metrics.connections_total.with_label_values(&[pool]),
            refused: RefusedFor::ALL
                .iter()
                .map(|reason| metrics.refusals_total.with_label_values(&[pool, reason.label()]))
                .collect(),
            backends: ArcSwap::default(),
            adding: Mutex::new(()),
            pool: pool.to_owned(),
            metrics,
        }
    }

    /// Counts one refusal.
    pub fn refuse(&self, reason: RefusedFor) {
        if let Some(counter) = self.refused.get(reason as usize) {
            counter.inc();
        }
    }

    /// The counters of a backend: a lock only when it is met for the first time.
    #[must_use]
    pub fn backend(&self, backend: BackendId, name: &str) -> Arc<BackendCounters> {
        if let Some(known) = self.backends.load().get(&backend) {
            return Arc::clone(known);
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut backends = AHashMap::clone(&self.backends.load());
        let counters = Arc::clone(backends.entry(backend).or_insert_with(|| Arc::new(self.resolve(name))));
        self.backends.store(Arc::new(backends));
        counters
    }

    /// Forgets backends that are no longer in `spec` and have no session open.
    pub fn prune(&self, spec: &PoolSpec) {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, gone): (AHashMap<_, _>, AHashMap<_, _>) =
            self.backends.load().iter().map(|(backend, counters)| (*backend, Arc::clone(counters))).partition(
                |(backend, counters)| {
                    counters.open.get() > 0 || spec.servers.iter().any(|server| spec.backend_id(server) == *backend)
                },
            );
        let names: Vec<String> = kept.values().map(|counters| counters.name.clone()).collect();
        self.backends.store(Arc::new(kept));
        for counters in gone.values().filter(|counters| !names.contains(&counters.name)) {
            self.forget(&counters.name);
        }
    }

    fn resolve(&self, name: &str) -> BackendCounters {
        let (metrics, labels) = (&self.metrics, [self.pool.as_str(), name]);
        BackendCounters {
            name: name.to_owned(),
            open: metrics.sessions_open.with_label_values(&labels),
            total: metrics.sessions_total.with_label_values(&labels),
            received: metrics.received_bytes.with_label_values(&labels),
            sent: metrics.sent_bytes.with_label_values(&labels),
            responses: CLASSES
                .iter()
                .map(|class| metrics.responses_total.with_label_values(&[labels[0], name, class]))
                .collect(),
            faults: Fault::ALL
                .iter()
                .map(|fault| metrics.errors_total.with_label_values(&[labels[0], name, fault.label()]))
                .collect(),
        }
    }

    /// Removes a backend's rows. A row that was never made is no error here.
    fn forget(&self, name: &str) {
        let (metrics, labels) = (&self.metrics, [self.pool.as_str(), name]);
        metrics.sessions_open.remove_label_values(&labels).ok();
        metrics.sessions_total.remove_label_values(&labels).ok();
        metrics.received_bytes.remove_label_values(&labels).ok();
        metrics.sent_bytes.remove_label_values(&labels).ok();
        for class in CLASSES {
            metrics.responses_total.remove_label_values(&[labels[0], name, class]).ok();
        }
        for fault in Fault::ALL {
            metrics.errors_total.remove_label_values(&[labels[0], name, fault.label()]).ok();
        }
    }
}

impl Drop for PoolCounters {
    /// The pool is gone and its last connection closed: its rows go too.
    fn drop(&mut self) {
        let backends = self.backends.load_full();
        for counters in backends.values() {
            self.forget(&counters.name);
        }
        let (metrics, pool) = (&self.metrics, self.pool.as_str());
        metrics.connections_open.remove_label_values(&[pool]).ok();
        metrics.connections_total.remove_label_values(&[pool]).ok();
        for reason in RefusedFor::ALL {
            metrics.refusals_total.remove_label_values(&[pool, reason.label()]).ok();
        }
    }
}

impl BackendCounters {
    /// Counts a session, until the answer is dropped.
    #[must_use]
    pub fn session(self: &Arc<Self>) -> Session {
        self.total.inc();
        self.open.inc();
        Session(Arc::clone(self))
    }

    /// Counts something that went wrong.
    pub fn fault(&self, fault: Fault) {
        if let Some(counter) = self.faults.get(fault as usize) {
            counter.inc();
        }
    }

    /// Counts an answer by the class of its status.
    pub fn response(&self, status: u16) {
        let class = usize::from(status / 100).checked_sub(1).and_then(|class| self.responses.get(class));
        if let Some(counter) = class {
            counter.inc();
        }
    }
}

impl Session {
    /// The backend's counters.
    #[must_use]
    pub fn counters(&self) -> &BackendCounters {
        &self.0
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.open.dec();
    }
}

/// The classes of HTTP statuses.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_declaration() {
        for (index, reason) in RefusedFor::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        for (index, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, index);
        }
    }

    #[test]
    fn a_pool_that_goes_takes_its_rows_along() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let counters = PoolCounters::new(metrics, "web");
        counters.refuse(RefusedFor::NoLease);
        let backend = counters.backend(BackendId(1), "s1");
        let session = backend.session();
        backend.fault(Fault::IdleTimeout);
        backend.response(204);
        backend.response(999);
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text().contains(r#"rocinante_responses_total{backend="s1",class="2xx",pool="web"} 1"#), "{}", text());
        assert!(text().contains(r#"rocinante_sessions_open{backend="s1",pool="web"} 1"#));
        drop((session, backend));
        assert!(text().contains(r#"rocinante_sessions_open{backend="s1",pool="web"} 0"#));
        drop(counters);
        assert!(!text().contains("web"), "{}", text());
    }
}
