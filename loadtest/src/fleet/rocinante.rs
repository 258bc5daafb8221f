//! A fleet of `rocinante` processes, driven through nothing but its documented command line and REST API.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;

use super::hosts::{Hosts, label_of};
use super::site::{GRPC_PORT, METRICS_PORT, POOL_PORTS, REST_PORT, Site};
use super::{Change, Fleet, POOLS, Server};
use super::{pki, process};
use crate::anycast::plan::VIP;
use crate::ask::Door;
use crate::error::{Error, Result};
use crate::farm::{Backend, Cut};
use crate::http;
use crate::judge::InstanceId;

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
        std::fs::write(&config, configuration(&Layout::of(&site, size, servers, tls)))
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

    fn is_anycast(&self) -> bool {
        self.hosts.site.net().is_some()
    }

    fn instance_at(&self, source: IpAddr) -> Option<InstanceId> {
        self.hosts.ids().find(|id| self.hosts.site.instance(*id) == source)
    }

    async fn start(&self, instance: InstanceId) -> Result<()> {
        let mut command = Command::new(&self.binary);
        let listen = SocketAddr::from((self.hosts.site.instance(instance), self.hosts.site.peers_port()));
        command.args(["run", "--config", CONFIG_FILE, "--instance", &label_of(instance)]);
        command.args(["--grpc-listen", &listen.to_string()]);
        self.hosts.start(instance, command).await
    }

    async fn obituary(&self, instance: InstanceId) -> Option<String> {
        self.hosts.obituary(instance).await
    }

    async fn is_ready(&self, instance: InstanceId) -> bool {
        let answer = http::get(self.rest(instance), "/readyz", REST_DEADLINE).await;
        answer.is_ok_and(|response| response.status == 200)
    }

    async fn is_announced(&self, instance: InstanceId) -> bool {
        self.hosts.is_announced(instance).await
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
        self.hosts.isolate(instance, true).await
    }

    async fn rejoin(&self, instance: InstanceId) -> Result<()> {
        self.hosts.isolate(instance, false).await
    }

    async fn skew(&self, instance: InstanceId, backend: &Backend, cut: Option<Cut>) -> Result<()> {
        self.hosts.skew(instance, backend, cut).await
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

/// What a fleet's configuration says that differs from place to place.
#[derive(Debug)]
pub struct Layout<'a> {
    /// The fleet's name.
    pub name: &'a str,
    /// Where the instances are.
    pub instances: Vec<IpAddr>,
    /// The VIP of all pools and the section that says how it is announced; without it every instance listens on its own address.
    pub vip: Option<(IpAddr, String)>,
    /// The servers of every pool.
    pub servers: &'a [Server],
    /// The section about certificates, if there are any.
    pub tls: &'a str,
}

impl<'a> Layout<'a> {
    /// That of a fleet of this size at a site.
    pub fn of(site: &Site, size: u8, servers: &'a [Server], tls: &'a str) -> Layout<'a> {
        let instances = (0..size).map(|id| site.instance(InstanceId(id))).collect();
        let vip = site.net().map(|net| (IpAddr::V4(VIP), net.vip_section()));
        Layout { name: NAME, instances, vip, servers, tls }
    }
}

/// The pool.toml of the fleet: only keys that the documentation names.
#[must_use]
pub fn configuration(layout: &Layout) -> String {
    let mut text = format!("[fleet]\nname = \"{}\"\ndata_dir = \"data\"\n{}", layout.name, layout.tls);
    for (id, address) in (0..).map(InstanceId).zip(&layout.instances) {
        text += &format!(
            "\n[[fleet.instance]]\nlabel = \"{}\"\naddress = \"{address}\"\ngrpc = {GRPC_PORT}\nrest = {REST_PORT}\n\
             metrics = {METRICS_PORT}\n",
            label_of(id)
        );
    }
    text += layout.vip.as_ref().map_or("", |(_, section)| section);
    for (pool, port) in POOLS.iter().zip(POOL_PORTS) {
        let bind =
            layout.vip.as_ref().map_or_else(|| format!(":{port}"), |(vip, _)| SocketAddr::new(*vip, port).to_string());
        let (protocol, health) = match pool.door {
            Door::Tcp => ("tcp", "type = \"tcp\""),
            Door::Http => ("http", "type = \"http\"\npath = \"/healthz\""),
        };
        text += &format!(
            "\n[[pool]]\nname = \"{}\"\nbind = \"{bind}\"\nprotocol = \"{protocol}\"\nbalance = \"source-hash\"\n\
             commit = \"first-contact\"\npin_ttl = \"30m\"\n\n[pool.health]\n{health}\ninterval = \"500ms\"\n\
             timeout = \"500ms\"\nrise = 2\nfall = 2\n",
            pool.name
        );
        for server in layout.servers {
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
