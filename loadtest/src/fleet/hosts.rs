//! The processes of a fleet, one per instance, with a relay before the peers' port of each.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::sync::Mutex;

use super::process::Process;
use super::site::{GRPC_BEHIND_RELAY_PORT, GRPC_PORT, POOL_PORTS, Site};
use crate::error::{Error, Result};
use crate::judge::InstanceId;
use crate::relay::{Relays, Way};

/// What fleets of real processes have in common.
#[derive(Debug)]
pub struct Hosts {
    pub site: Arc<Site>,
    slots: Vec<Mutex<Option<Process>>>,
    relays: Relays,
}

impl Hosts {
    /// Sets up the relays; no instance runs yet.
    pub async fn new(site: Arc<Site>, size: u8) -> Result<Hosts> {
        let pairs: Vec<(SocketAddr, SocketAddr)> = (0..size)
            .map(|id| site.instance(InstanceId(id)))
            .map(|address| ((address, GRPC_PORT).into(), (address, GRPC_BEHIND_RELAY_PORT).into()))
            .collect();
        let relays = Relays::start(&pairs).await?;
        Ok(Hosts { site, slots: (0..size).map(|_| Mutex::new(None)).collect(), relays })
    }

    pub fn size(&self) -> usize {
        self.slots.len()
    }

    pub fn ids(&self) -> impl Iterator<Item = InstanceId> + use<> {
        (0..self.slots.len()).map(|index| InstanceId(index as u8))
    }

    fn slot(&self, instance: InstanceId) -> Result<&Mutex<Option<Process>>> {
        self.slots.get(usize::from(instance.0)).ok_or_else(|| Error::Usage(format!("no instance {}", instance.0)))
    }

    /// Where clients of a pool find an instance.
    pub fn entrance(&self, instance: InstanceId, pool: usize) -> SocketAddr {
        (self.site.instance(instance), POOL_PORTS.get(pool).copied().unwrap_or_default()).into()
    }

    /// Starts an instance in the site's directory; what it says goes to its log there.
    pub async fn start(&self, instance: InstanceId, mut command: Command) -> Result<()> {
        let mut slot = self.slot(instance)?.lock().await;
        let log = self.site.directory().join(format!("{}.log", label_of(instance)));
        command.current_dir(self.site.directory());
        *slot = Some(Process::start(command, &log)?);
        Ok(())
    }

    /// What there is to say of one that ended by itself.
    pub async fn obituary(&self, instance: InstanceId) -> Option<String> {
        self.slot(instance).ok()?.lock().await.as_mut()?.obituary()
    }

    pub async fn signal(&self, instance: InstanceId, signal: Signal) -> Result<()> {
        match self.slot(instance)?.lock().await.as_ref() {
            Some(process) => process.signal(signal),
            None => Err(Error::Fleet(format!("instance {} does not run", label_of(instance)))),
        }
    }

    /// The process of an instance, which has none from now on.
    pub async fn take(&self, instance: InstanceId) -> Result<Option<Process>> {
        Ok(self.slot(instance)?.lock().await.take())
    }

    /// kill -9.
    pub async fn kill(&self, instance: InstanceId) -> Result<()> {
        match self.take(instance).await? {
            Some(mut process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// What passes between this instance and the others.
    pub fn set_ways(&self, instance: InstanceId, way: Way) {
        for other in self.ids().filter(|other| *other != instance) {
            self.relays.set_between(self.site.instance(instance), self.site.instance(other), way);
        }
    }

    /// Ends all.
    pub async fn stop(&self) {
        for slot in &self.slots {
            // Dropping a process kills it and waits.
            drop(slot.lock().await.take());
        }
    }
}

/// Instances are named a, b, c and so on.
pub fn label_of(instance: InstanceId) -> String {
    char::from(b'a'.saturating_add(instance.0)).to_string()
}
