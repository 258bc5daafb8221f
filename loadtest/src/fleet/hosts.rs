//! The processes of a fleet, one per instance, and the ways between them: through relays on loopback, by the farm's networks
//! otherwise.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::sync::Mutex;

use super::process::Process;
use super::site::{GRPC_BEHIND_RELAY_PORT, GRPC_PORT, Site};
use crate::anycast::plan::Cuts;
use crate::error::{Error, Result};
use crate::farm::{Backend, Cut};
use crate::judge::InstanceId;
use crate::relay::{Relays, Way};

/// What fleets of real processes have in common.
#[derive(Debug)]
pub struct Hosts {
    pub site: Arc<Site>,
    slots: Vec<Mutex<Option<Process>>>,
    /// None on a farm, whose networks are cut instead.
    relays: Option<Relays>,
}

impl Hosts {
    /// Sets up the relays; no instance runs yet.
    pub async fn new(site: Arc<Site>, size: u8) -> Result<Hosts> {
        let pairs: Vec<(SocketAddr, SocketAddr)> = (0..size)
            .map(|id| site.instance(InstanceId(id)))
            .map(|address| ((address, GRPC_PORT).into(), (address, GRPC_BEHIND_RELAY_PORT).into()))
            .collect();
        let relays = if site.net().is_none() { Some(Relays::start(&pairs).await?) } else { None };
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
        self.site.entrance(instance, pool)
    }

    /// Starts an instance in the site's directory; what it says goes to its log there.
    pub async fn start(&self, instance: InstanceId, mut command: Command) -> Result<()> {
        let mut slot = self.slot(instance)?.lock().await;
        let log = self.site.directory().join(format!("{}.log", label_of(instance)));
        command.current_dir(self.site.directory());
        self.site.house(instance, &mut command)?;
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

    /// Cuts an instance off from all others, both ways, or ends that.
    pub async fn isolate(&self, instance: InstanceId, isolated: bool) -> Result<()> {
        if let Some(relays) = &self.relays {
            let way = if isolated { Way::Stalled } else { Way::Open };
            for other in self.ids().filter(|other| *other != instance) {
                relays.set_between(self.site.instance(instance), self.site.instance(other), way);
            }
        }
        match self.site.net() {
            Some(net) => {
                let peers = net.peers(instance).filter(|_| isolated).collect();
                net.cut(instance, |cuts: &mut Cuts| cuts.peers = peers).await
            }
            None => Ok(()),
        }
    }

    /// Whether the router of a farm has a path to an instance; true where there is none.
    pub async fn is_announced(&self, instance: InstanceId) -> bool {
        match self.site.net() {
            Some(net) => net.paths().await.is_ok_and(|paths| paths.contains(&instance)),
            None => true,
        }
    }

    /// Announces the VIP for an instance whose product does not do so by itself, or withdraws it; nothing but on a farm.
    pub async fn announce(&self, instance: InstanceId, wanted: bool) -> Result<()> {
        match self.site.net() {
            Some(net) => net.announce(instance, wanted).await,
            None => Ok(()),
        }
    }

    /// Cuts an instance off from a backend, or ends that.
    pub async fn skew(&self, instance: InstanceId, backend: &Backend, cut: Option<Cut>) -> Result<()> {
        match (self.site.net(), backend.address.ip(), cut) {
            (Some(net), IpAddr::V4(address), Some(Cut::Drop)) => {
                net.cut(instance, |cuts| cuts.servers.extend([address])).await
            }
            (Some(net), IpAddr::V4(address), None) => {
                net.cut(instance, |cuts| cuts.servers.retain(|other| *other != address)).await
            }
            (_, _, Some(cut)) => backend.cut(self.site.instance(instance), cut).await,
            (_, _, None) => backend.heal().await,
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
    if instance == InstanceId::ANY {
        return "the VIP".to_owned();
    }
    char::from(b'a'.saturating_add(instance.0)).to_string()
}
