//! What the judge can do to a fleet, whichever product it is.

pub mod haproxy;
pub(crate) mod hosts;
pub mod pki;
pub mod place;
pub mod process;
pub mod rocinante;
pub mod site;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use async_trait::async_trait;

use crate::ask::Door;
use crate::error::Result;
use crate::farm::{Backend, Cut};
use crate::judge::InstanceId;

/// A pool that every fleet under test has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: &'static str,
    /// How it is asked.
    pub door: Door,
}

/// The pools, in the order of their numbers.
pub const POOLS: [Pool; 2] = [Pool { name: "web", door: Door::Tcp }, Pool { name: "site", door: Door::Http }];

/// A server of a pool at the start.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name in the pool and at the farm.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its weight.
    pub weight: u32,
}

/// A change of a pool while the fleet runs.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new server.
    Add(Server),
    /// A server leaves at once.
    Remove(String),
    /// A server takes no new clients.
    Drain(String),
    /// A drained server takes new clients again.
    Enable(String),
}

/// A fleet under test. Instances are addressed by number; all methods may be called while clients ask.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// The product, for tables.
    fn product(&self) -> &'static str;

    /// How many instances it has.
    fn size(&self) -> usize;

    /// The name of an instance, for people.
    fn label(&self, instance: InstanceId) -> String;

    /// Where clients of a pool ask an instance.
    fn entrance(&self, instance: InstanceId, pool: usize) -> SocketAddr;

    /// Whether all instances have one entrance, and the network chooses among them.
    fn is_anycast(&self) -> bool;

    /// The instance that reaches the backends from this address.
    fn instance_at(&self, source: IpAddr) -> Option<InstanceId>;

    /// Starts an instance; it need not be ready on return.
    async fn start(&self, instance: InstanceId) -> Result<()>;

    /// How an instance ended that was not asked to, with its last words.
    async fn obituary(&self, instance: InstanceId) -> Option<String>;

    /// Whether an instance says that it serves.
    async fn is_ready(&self, instance: InstanceId) -> bool;

    /// Whether clients can be led to an instance: always on loopback; on a farm, once the router has a path to it.
    async fn is_announced(&self, instance: InstanceId) -> bool;

    /// Kills an instance without warning; it is gone on return.
    async fn kill(&self, instance: InstanceId) -> Result<()>;

    /// Asks an instance to leave and waits until it is gone.
    async fn terminate(&self, instance: InstanceId) -> Result<()>;

    /// Stops an instance in the middle of whatever it does.
    async fn pause(&self, instance: InstanceId) -> Result<()>;

    /// Lets a paused instance go on.
    async fn resume(&self, instance: InstanceId) -> Result<()>;

    /// Who leads, if anybody says so now.
    async fn leader(&self) -> Result<Option<InstanceId>>;

    /// Cuts an instance off from its peers, silently, both ways.
    async fn isolate(&self, instance: InstanceId) -> Result<()>;

    /// Ends the isolation.
    async fn rejoin(&self, instance: InstanceId) -> Result<()>;

    /// Cuts an instance off from a backend, or ends that.
    async fn skew(&self, instance: InstanceId, backend: &Backend, cut: Option<Cut>) -> Result<()>;

    /// Changes a pool by way of the instances `via`; acknowledged on return.
    async fn change(&self, pool: usize, change: &Change, via: &[InstanceId]) -> Result<()>;

    /// Whether an instance that is cut off must say that it is not ready.
    fn knows_isolation(&self) -> bool;

    /// Ends all instances.
    async fn stop(&self);

    /// Where the logs of the instances are.
    fn logs(&self) -> Option<PathBuf>;
}
