//! Pools as operators mean them: the checked form of `[[pool]]`, which the log commits.

use std::net::{IpAddr, SocketAddr};

use crate::ids::{BackendId, PoolId};

/// A pool: where it listens, how it chooses, whom it can choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Unique in the fleet, 1 to 63 characters of `a-z A-Z 0-9 - _ .`.
    pub name: String,
    /// Where every instance listens for clients.
    pub bind: Bind,
    /// How bytes are carried.
    pub protocol: Protocol,
    /// Who is picked for a client that has no pin.
    pub balance: Balance,
    /// When a choice is committed.
    pub commit: Commit,
    /// How long a pin outlives its last use, in milliseconds of log time.
    pub pin_ttl_ms: u64,
    /// What an instance without a lease does with new connections.
    pub on_isolation: OnIsolation,
    /// How long a new connection waits for a choice, in milliseconds.
    pub decide_timeout_ms: u64,
    /// How long a connection whose backend refused waits for a settled choice, in milliseconds.
    pub retry_for_ms: u64,
    /// How long a connect to a backend may take, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long a connection may carry nothing in either direction, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Most connections an instance serves for this pool at once; more are refused and counted.
    pub max_connections: u32,
    /// Whether backends are told the client's address by a PROXY protocol v2 header (TCP pools).
    pub send_proxy: bool,
    /// Whether backends see the client's own address as the source of its connections.
    pub transparent: bool,
    /// How backends are checked.
    pub health: HealthSpec,
    /// The servers, in no meaningful order.
    pub servers: Vec<ServerSpec>,
}

/// Where a pool listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// `":port"`: on the instance's own address.
    Own(u16),
    /// `"ip:port"`: the VIP, equal on all instances.
    Vip(SocketAddr),
}

/// How bytes are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A byte stream between client and backend.
    Tcp,
    /// HTTP/1.1 and h2c, request by request.
    Http,
    /// Datagrams.
    Udp,
}

/// Who is picked for a client that has no pin. The pick is committed in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// By a hash of the client's address.
    SourceHash,
    /// In turn, by weight.
    RoundRobin,
    /// The one with the fewest pins per weight.
    LeastConnections,
}

/// When a choice is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Before the first answer.
    FirstContact,
}

/// What an instance without a lease does with new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnIsolation {
    /// Refuse them: no answer is better than another answer.
    Refuse,
    /// Go on by the pick: answers, and gives up the promise of one answer.
    Hash,
}

/// How the servers of a pool are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// What a check does.
    pub kind: HealthKind,
    /// From one check to the next, in milliseconds.
    pub interval_ms: u64,
    /// How long a check may take, in milliseconds.
    pub timeout_ms: u64,
    /// Successes in a row that make a server up.
    pub rise: u32,
    /// Failures in a row that make a server down.
    pub fall: u32,
}

/// What a health check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthKind {
    /// Connect, then close.
    Tcp,
    /// `GET path`, expecting a status.
    Http {
        /// The path asked for, with its leading slash.
        path: String,
        /// The statuses that count as success, inclusive ranges.
        expect: Vec<(u16, u16)>,
    },
}

/// A server of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Unique in the pool; with the address it is the backend's identity.
    pub name: String,
    /// Where it listens.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share of new clients against the others', 0 to 65535; 0 takes none.
    pub weight: u32,
    /// Whether it takes new clients.
    pub state: ServerState,
}

/// Whether a member takes new clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Takes new clients.
    Enabled,
    /// Keeps pinned clients until they leave, takes no new ones.
    Draining,
}

impl PoolSpec {
    /// The pool's identity.
    #[must_use]
    pub fn id(&self) -> PoolId {
        PoolId::of(&self.name)
    }

    /// The identity of `server` in this pool.
    #[must_use]
    pub fn backend_id(&self, server: &ServerSpec) -> BackendId {
        BackendId::of(self.id(), &server.name, server.socket_address())
    }
}

impl ServerSpec {
    /// Address and port.
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}
