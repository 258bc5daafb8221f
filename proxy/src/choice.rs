//! What the data path asks of the fleet: which backend a client gets, and what to do when that one does not answer.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Instant};

use flow::{BackendId, Epoch, PinKey};

/// A committed (or, isolated under `on_isolation = "hash"`, guessed) choice for a client.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The backend.
    pub backend: BackendId,
    /// Its name within the pool.
    pub name: Arc<str>,
    /// Where to connect.
    pub address: SocketAddr,
    /// The epoch in which the pin was made.
    pub epoch: Epoch,
    /// Where the answer came from.
    pub source: Source,
}

/// A member of a committed pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where to connect.
    pub address: SocketAddr,
    /// Whether it sees its clients' own addresses.
    pub transparent: bool,
}

/// Where an answer came from; the label of the decisions metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The worker's LRU.
    Cache,
    /// The applied table of the local replica.
    Table,
    /// A commit that this choice waited for.
    Commit,
    /// The pick alone, without a lease (`on_isolation = "hash"`).
    Isolated,
}

/// Why a client gets no backend. Each is an answer of its own in logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The instance holds no lease: it cannot know what the others answer.
    NoLease,
    /// Nothing was committed within `decide_timeout`.
    Timeout,
    /// No backend of the pool can take a new client.
    NoBackend,
    /// The pool is not (or no longer) in the committed configuration.
    NoPool,
    /// A named queue was full.
    Overloaded,
    /// The backend is up for the fleet, but neither this instance nor a peer's relay reached it within `retry_for`.
    UnreachableHere,
}

/// The fleet, as the data path sees it. Cheap to clone; every method may be called from any thread.
pub trait Chooser: Clone + Send + Sync + 'static {
    /// The answer if it is known here and now (LRU or applied table, lease checked): no waiting, no lock, no allocation
    /// beyond the choice. `None` means that [`Chooser::choose`] has to be asked.
    fn choose_now(&self, key: &PinKey) -> Option<Choice>;

    /// The answer, waiting for a commit where one is needed, until `deadline` at most.
    fn choose(&self, key: PinKey, deadline: Instant) -> impl Future<Output = Result<Choice, Refusal>> + Send;

    /// Whether the answer still stands: to be asked after the upstream connect and before the first byte is passed, as
    /// the process may have been paused in between. Wait-free.
    fn still_stands(&self, key: &PinKey, choice: &Choice) -> bool;

    /// A connect to the chosen backend was refused or timed out before the first byte: counts as this instance's vote
    /// that it is down (unless it was made from a client's address, which may be why it failed), and asks every instance
    /// to probe at once. Never moves a pin by itself.
    fn connect_failed(&self, choice: &Choice);

    /// After [`Chooser::connect_failed`]: waits until the fleet gives `key` another backend than `failed`
    /// (`Ok`), or `deadline` passes (`Err(Refusal::Timeout)`).
    fn choose_again(
        &self,
        key: PinKey,
        failed: &Choice,
        deadline: Instant,
    ) -> impl Future<Output = Result<Choice, Refusal>> + Send;

    /// The peers whose own health checks reach the backend now, by the address of their gRPC port, best first: who may
    /// relay a connection that cannot be made from here.
    fn relays(&self, backend: BackendId) -> Vec<SocketAddr>;

    /// The backend if it is a member of a committed pool: what a peer that relays for another may connect to.
    fn member(&self, backend: BackendId) -> Option<Member>;

    /// The client is still there (an open connection): refreshes its pin. To be called every quarter of `pin_ttl`.
    fn touch(&self, key: &PinKey);
}
