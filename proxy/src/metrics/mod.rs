//! What Prometheus sees: one registry, filled when it is asked, served on an instance's `metrics` port.
//!
//! Nothing here is written by the replica: it is asked for its numbers at each scrape. Only choices are recorded as they
//! happen, in counters that belong to the recording thread ([`Decisions`]).

mod decisions;
mod family;
mod node;
mod process;

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::runtime::Handle;

pub use decisions::Decisions;
pub use node::{LogCounters, NodeCounters};

/// The metrics of an instance. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    decisions: Arc<Decisions>,
    runtimes: Arc<Mutex<Vec<(&'static str, Handle)>>>,
}

impl Metrics {
    /// Metrics of the process and of choices, for the instance called `label`.
    ///
    /// # Errors
    /// If two metrics have one name.
    pub fn new(label: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let decisions = Arc::new(Decisions::new());
        let runtimes = Arc::new(Mutex::new(Vec::new()));
        registry.register(Box::new(decisions::DecisionCollector::new(Arc::clone(&decisions))?))?;
        registry.register(Box::new(process::ProcessCollector::new(label, Arc::clone(&runtimes))?))?;
        Ok(Self { registry, decisions, runtimes })
    }

    /// Where others register theirs.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where choices are recorded.
    #[must_use]
    pub fn decisions(&self) -> Arc<Decisions> {
        Arc::clone(&self.decisions)
    }

    /// Shows what `read` says of the replica; it is called at each scrape and must not wait.
    ///
    /// # Errors
    /// If it was called before.
    pub fn watch(&self, read: impl Fn() -> NodeCounters + Send + Sync + 'static) -> prometheus::Result<()> {
        self.registry.register(Box::new(node::NodeCollector::new(Box::new(read))?))
    }

    /// Shows how many tasks of a runtime are alive.
    pub fn watch_runtime(&self, name: &'static str, runtime: Handle) {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).push((name, runtime));
    }

    /// All metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// If a registered metric cannot be written.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// What is served on the metrics port, by [`crate::rest::serve`].
    pub fn router(&self) -> Router {
        Router::new()
            .route("/metrics", get(scrape))
            .fallback(async || (StatusCode::NOT_FOUND, "the metrics are at /metrics\n"))
            .with_state(self.clone())
    }
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    // Gathering waits for the replica: not on a thread that carries the links to peers.
    let gathered = tokio::task::spawn_blocking(move || metrics.text()).await;
    let text = gathered.unwrap_or_else(|error| Err(prometheus::Error::Msg(error.to_string())));
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}
