//! What people and scripts can ask of an instance: the seam between its servers (REST, gRPC) and its replica.
//!
//! The servers are written against [`Control`]; they know no Raft, no socket of a peer and no table. The replica
//! implements it and forwards to the leader whatever needs the leader, so that a caller never has to find it.

pub mod check;
mod error;
pub mod flows;
mod types;

use std::{future::Future, net::IpAddr};

use bytes::Bytes;
use flow::{
    Epoch, MemberAddress, PoolSpec, Revision, ServerChange, SessionId, Tuning,
    flows::{FlowOutcome, FlowRecord},
};
use tokio::sync::watch;

pub use check::check_pools;
use flows::{FlowBackend, FlowTables};

pub use error::{Blame, ControlError, Retry};
pub use types::{
    Applied, BackupWriter, Consistency, Event, EventKind, Fresh, GroupStatus, KvItem, KvPage, KvQuery, LogEntry,
    LogRange, LogSize, Member, Pin, PinPage, PinState, PoolStatus, PoolsView, Readiness, Role, ServerStatus, Standing,
    Status, TableStatus, Terms, VipBind, VipStatus, Vote,
};

/// Does what takes a while apart from the threads that carry the links to peers.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ControlError::Internal(error.to_string()))
}

/// What every method answers.
pub type Result<T> = std::result::Result<T, ControlError>;

/// What an instance goes by of its own, where the fleet has committed nothing.
pub trait Configured {
    /// The settings of the log by its configuration.
    fn configured_tuning(&self) -> Tuning;
}

/// An instance, as its operators see it. Cheap to clone; every method may be called from any task.
///
/// What a caller may rely on:
/// 1. A method that changes something answers `Ok` only after the change was committed and applied on this instance.
/// 2. [`ControlError::UnknownOutcome`] is the only error after which a change may still take effect.
/// 3. Every method ends by itself: within the implementation's own deadline there is an answer or an error.
pub trait Control: Configured + Clone + Send + Sync + 'static {
    /// Role, term and leader of group 0, from memory: never waits, works while starting.
    fn standing(&self) -> Standing;

    /// Whether the instance serves: it holds a lease and knows its pools. From memory: never waits.
    fn readiness(&self) -> Readiness;

    /// All there is to see of this instance. Local: it answers without a quorum.
    fn status(&self) -> impl Future<Output = Status> + Send;

    /// The value of `key`, `None` where there is none.
    fn kv(&self, key: String, consistency: Consistency) -> impl Future<Output = Result<Fresh<Option<KvItem>>>> + Send;

    /// A page of keys in byte order.
    fn kv_list(&self, query: KvQuery, consistency: Consistency) -> impl Future<Output = Result<Fresh<KvPage>>> + Send;

    /// Sets `key`. With a condition the key's revision must be that one; `Revision(0)` means that it must not exist.
    fn kv_put(&self, key: String, value: Bytes, terms: Terms) -> impl Future<Output = Result<Applied>> + Send;

    /// Removes `key`; [`ControlError::NotFound`] where there is none, unless it is a request of a session: that may have
    /// removed it before.
    fn kv_delete(&self, key: String, terms: Terms) -> impl Future<Output = Result<Applied>> + Send;

    /// Opens a session: its requests count once, however often they are sent. It ends when it was not used for
    /// [`flow::sessions::SESSION_TTL_MS`].
    fn session_open(&self) -> impl Future<Output = Result<SessionId>> + Send;

    /// Closes a session; one that is not there is closed already.
    fn session_close(&self, id: SessionId) -> impl Future<Output = Result<Applied>> + Send;

    /// The committed pools with their servers' verdicts and votes, and the epoch they make.
    fn pools(&self, consistency: Consistency) -> impl Future<Output = Result<Fresh<PoolsView>>> + Send;

    /// Replaces all pools, if the epoch is still `expected`: else [`ControlError::Conflict`]. The pools were checked by
    /// [`check_pools`].
    fn apply(&self, pools: Vec<PoolSpec>, expected: Epoch) -> impl Future<Output = Result<Applied>> + Send;

    /// Changes one server of `pool`.
    fn server_change(&self, pool: String, change: ServerChange) -> impl Future<Output = Result<Applied>> + Send;

    /// Pins of `pool` in the order of the client's address in IPv6 form (IPv4 mapped), the first one after `after`.
    fn pins(
        &self,
        pool: String,
        after: Option<IpAddr>,
        limit: usize,
        consistency: Consistency,
    ) -> impl Future<Output = Result<Fresh<PinPage>>> + Send;

    /// The pin of `client`, `None` where there is none; [`ControlError::NotFound`] where there is no such pool.
    fn pin(
        &self,
        pool: String,
        client: IpAddr,
        consistency: Consistency,
    ) -> impl Future<Output = Result<Fresh<Option<Pin>>>> + Send;

    /// Removes the pin of `client`; [`ControlError::NotFound`] where there is none.
    fn pin_delete(
        &self,
        pool: String,
        client: IpAddr,
        if_revision: Option<Revision>,
    ) -> impl Future<Output = Result<Applied>> + Send;

    /// Adds an instance as a learner; it gets the log and has no vote until [`Control::member_promote`].
    fn member_add(&self, member: MemberAddress) -> impl Future<Output = Result<Applied>> + Send;

    /// Removes an instance for good; its id is never used again.
    fn member_remove(&self, label: String) -> impl Future<Output = Result<Applied>> + Send;

    /// Makes a learner a voter; [`ControlError::Conflict`] while it is behind.
    fn member_promote(&self, label: String) -> impl Future<Output = Result<Applied>> + Send;

    /// What happened after the event of that number, oldest first. From memory: never waits.
    fn events(&self, after: u64, limit: usize) -> Vec<Event>;

    /// The committed settings of the log; `None`: every instance goes by its configuration. From memory.
    fn tuning(&self) -> Option<Tuning>;

    /// Commits settings of the log, or that there are none.
    fn tune(&self, tuning: Option<Tuning>) -> impl Future<Output = Result<Applied>> + Send;

    /// Cuts this instance off from its peers and from gRPC clients (`false`), or brings it back.
    fn set_grpc(&self, open: bool) -> impl Future<Output = Result<()>> + Send;

    /// Has an instance stop, named by its id or label, as a signal would; another instance is told so by word, and may not
    /// hear it.
    fn stop_instance(&self, who: String) -> impl Future<Output = Result<()>> + Send;

    /// All tables as this instance has them now.
    fn backup(&self) -> impl Future<Output = Result<BackupWriter>> + Send;

    /// Hands the leadership of all groups to `label`.
    fn transfer(&self, label: String) -> impl Future<Output = Result<()>> + Send;

    /// The table of flows, as fresh as asked. [`ControlError::Unsupported`] in a fleet that was born without one.
    fn flows(&self, consistency: Consistency) -> impl Future<Output = Result<FlowTables>> + Send;

    /// Tells whenever the table of flows has changed here.
    fn flows_changed(&self) -> watch::Receiver<()>;

    /// Proposes an encoded [`flow::flows::FlowCommand`], which the caller has checked, to a shard.
    fn flow_report(&self, shard: u32, command: Bytes) -> impl Future<Output = Result<FlowOutcome>> + Send;

    /// Which pools' clients the ends of a flow are, and where they are pinned. From memory: never waits.
    fn flow_backends(&self, record: &FlowRecord) -> Vec<FlowBackend>;

    /// How many entries `group`'s log holds here, and where they lie.
    fn log_size(&self, group: u32) -> impl Future<Output = Result<LogSize>> + Send;

    /// Entries of a group's log as they lie here, in order, fewer than asked where the log ends.
    fn log(&self, range: LogRange) -> impl Future<Output = Result<Vec<LogEntry>>> + Send;
}
