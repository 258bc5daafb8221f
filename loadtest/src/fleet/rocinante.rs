//! A fleet of `rocinante` processes, driven through nothing but its documented command line and REST API.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;

use super::hosts::{Hosts, label_of};
use super::site::{GRPC_BEHIND_RELAY_PORT, GRPC_PORT, METRICS_PORT, POOL_PORTS, REST_PORT, Site};
use super::{Change, Fleet, POOLS, Server};
use super::{pki, process};
use crate::ask::Door;
use crate::error::{Error, Result};
use crate::http;
use crate::judge::InstanceId;
use crate::relay::Way;

/// The fleet: one process per instance, a relay before each.
#[derive(Debug)]
pub struct Rocinante {
    binary: PathBuf,
    hosts: Hosts,
}

impl Rocinante {
    /// Writes the configuration and sets up the relays; no instance runs yet.
    /// `tls`: its instances have certificates.
    pub async fn new(binary: PathBuf, site: Arc<Site>, size: u8, servers: &[Server], tls: bool) -> Result<Rocinante> {
        let config = site.directory().join(CONFIG_FILE);
        let labels: Vec<String> = (0..size).map(|id| label_of(InstanceId(id))).collect();
        let tls = if tls { pki::issue(&binary, site.directory(), NAME, &labels).await? } else { "" };
        std::fs::write(&config, configuration(&site, size, servers, tls))
            .map_err(Error::io(format!("writing {}", config.display())))?;
        Ok(Rocinante { binary, hosts: Hosts::new(site, size).await? })
    }

    fn rest(&self, instance: InstanceId) -> SocketAddr {
        (self.hosts.site.instance(instance), REST_PORT).into()
    }
}

#[async_trait]
impl Fleet for Rocinante {
    fn product(&self) -> &'static str {
        "rocinante"
    }

    fn size(&self) -> usize {
        self.hosts.size()
    }

    fn label(&self, instance: InstanceId) -> String {
        label_of(instance)
    }

    fn entrance(&self, instance: InstanceId, pool: usize) -> SocketAddr {
        self.hosts.entrance(instance, pool)
    }

    fn source(&self, instance: InstanceId) -> IpAddr {
        self.hosts.site.instance(instance)
    }

    async fn start(&self, instance: InstanceId) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--config", CONFIG_FILE, "--instance", &label_of(instance), "--grpc-listen"])
            .arg(SocketAddr::from((self.hosts.site.instance(instance), GRPC_BEHIND_RELAY_PORT)).to_string());
        self.hosts.start(instance, command).await
    }

    async fn obituary(&self, instance: InstanceId) -> Option<String> {
        self.hosts.obituary(instance).await
    }

    async fn is_ready(&self, instance: InstanceId) -> bool {
        let answer = http::get(self.rest(instance), "/readyz", REST_DEADLINE).await;
        answer.is_ok_and(|response| response.status == 200)
    }

    async fn kill(&self, instance: InstanceId) -> Result<()> {
        self.hosts.kill(instance).await
    }

    async fn terminate(&self, instance: InstanceId) -> Result<()> {
        match self.hosts.take(instance).await? {
            Some(process) => process.terminate(&label_of(instance), TERMINATE_DEADLINE).await,
            None => Ok(()),
        }
    }

    async fn pause(&self, instance: InstanceId) -> Result<()> {
        self.hosts.signal(instance, Signal::STOP).await
    }

    async fn resume(&self, instance: InstanceId) -> Result<()> {
        self.hosts.signal(instance, Signal::CONT).await
    }

    async fn leader(&self) -> Result<Option<InstanceId>> {
        let mut leaders = Vec::new();
        for id in self.hosts.ids() {
            let Ok(response) = http::get(self.rest(id), "/role", REST_DEADLINE).await else { continue };
            let role: serde_json::Value = serde_json::from_slice(&response.body)
                .map_err(|error| Error::Fleet(format!("/role of {} is not JSON: {error}", label_of(id))))?;
            if role.get("role").and_then(|role| role.as_str()) == Some("leader") {
                leaders.push(id);
            }
        }
        // Two that say so at once are one that has not heard yet: ask again.
        Ok(if leaders.len() == 1 { leaders.pop() } else { None })
    }

    async fn isolate(&self, instance: InstanceId) -> Result<()> {
        self.hosts.set_ways(instance, Way::Stalled);
        Ok(())
    }

    async fn rejoin(&self, instance: InstanceId) -> Result<()> {
        self.hosts.set_ways(instance, Way::Open);
        Ok(())
    }

    async fn change(&self, pool: usize, change: &Change, via: &[InstanceId]) -> Result<()> {
        let pool = POOLS.get(pool).ok_or_else(|| Error::Usage(format!("no pool {pool}")))?.name;
        let mut command = Command::new(&self.binary);
        command.current_dir(self.hosts.site.directory()).arg("server");
        match change {
            Change::Add(server) => {
                command.args(["add", pool, &server.name, &server.address.to_string()]);
                command.args(["--weight", &server.weight.to_string()]);
            }
            Change::Remove(name) => {
                command.args(["remove", pool, name]);
            }
            Change::Drain(name) => {
                command.args(["drain", pool, name]);
            }
            Change::Enable(name) => {
                command.args(["enable", pool, name]);
            }
        }
        for id in via {
            command.args(["--endpoint", &self.rest(*id).to_string()]);
        }
        process::run(command, COMMAND_DEADLINE).await.map(drop)
    }

    fn knows_isolation(&self) -> bool {
        true
    }

    async fn stop(&self) {
        self.hosts.stop().await;
    }

    fn logs(&self) -> Option<PathBuf> {
        Some(self.hosts.site.directory().to_path_buf())
    }
}

/// The pool.toml of the fleet: only keys that the documentation names.
pub(crate) fn configuration(site: &Site, size: u8, servers: &[Server], tls: &str) -> String {
    let mut text = format!("[fleet]\nname = \"{NAME}\"\ndata_dir = \"data\"\n{tls}");
    for id in (0..size).map(InstanceId) {
        text += &format!(
            "\n[[fleet.instance]]\nlabel = \"{}\"\naddress = \"{}\"\ngrpc = {GRPC_PORT}\nrest = {REST_PORT}\n\
             metrics = {METRICS_PORT}\n",
            label_of(id),
            site.instance(id)
        );
    }
    for (pool, port) in POOLS.iter().zip(POOL_PORTS) {
        let (protocol, health) = match pool.door {
            Door::Tcp => ("tcp", "type = \"tcp\""),
            Door::Http => ("http", "type = \"http\"\npath = \"/healthz\""),
        };
        text += &format!(
            "\n[[pool]]\nname = \"{}\"\nbind = \":{port}\"\nprotocol = \"{protocol}\"\nbalance = \"source-hash\"\n\
             commit = \"first-contact\"\npin_ttl = \"30m\"\n\n[pool.health]\n{health}\ninterval = \"500ms\"\n\
             timeout = \"500ms\"\nrise = 2\nfall = 2\n",
            pool.name
        );
        for server in servers {
            text += &format!(
                "\n[[pool.server]]\nname = \"{}\"\naddress = \"{}\"\nport = {}\nweight = {}\n",
                server.name,
                server.address.ip(),
                server.address.port(),
                server.weight
            );
        }
    }
    text
}

/// The product's own limit, `drain_timeout`, plus time to write its log.
pub const TERMINATE_DEADLINE: Duration = Duration::from_secs(40);
const NAME: &str = "judged";
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
const REST_DEADLINE: Duration = Duration::from_secs(1);
const CONFIG_FILE: &str = "pool.toml";
