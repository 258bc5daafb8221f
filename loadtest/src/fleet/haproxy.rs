//! Three HAProxy in their strongest configuration for this job: consistent source hash, a stick table, peers.
//!
//! Each is configured alike and changed over its runtime API, one after the other, as operators do.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::hosts::{Hosts, label_of};
use super::site::{GRPC_PORT, POOL_PORTS, REST_PORT, Site};
use super::{Change, Fleet, POOLS, Server};
use crate::anycast::plan::VIP;
use crate::ask::Door;
use crate::error::{Error, Result};
use crate::farm::{Backend, Cut};
use crate::judge::InstanceId;

/// The fleet: one process per instance, a relay before the peers port of each.
#[derive(Debug)]
pub struct HaProxy {
    binary: PathBuf,
    hosts: Hosts,
}

impl HaProxy {
    /// Writes the configurations; no instance runs yet.
    pub async fn new(binary: PathBuf, site: Arc<Site>, size: u8, servers: &[Server]) -> Result<HaProxy> {
        for id in (0..size).map(InstanceId) {
            let config = site.directory().join(format!("{}.cfg", label_of(id)));
            std::fs::write(&config, configuration(&site, id, size, servers))
                .map_err(Error::io(format!("writing {}", config.display())))?;
        }
        Ok(HaProxy { binary, hosts: Hosts::new(site, size).await? })
    }

    /// One command of the runtime API; anything it says that is no confirmation is an error.
    async fn command(&self, instance: InstanceId, command: &str) -> Result<String> {
        let address = SocketAddr::from((self.hosts.site.instance(instance), REST_PORT));
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(format!("{command}\n").as_bytes()).await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            Ok(said)
        };
        let said = tokio::time::timeout(COMMAND_DEADLINE, exchange)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        said.map_err(Error::io(format!("haproxy {}: {command}", label_of(instance))))
    }

    async fn confirmed(&self, instance: InstanceId, command: &str) -> Result<()> {
        let said = self.command(instance, command).await?;
        let said = said.trim();
        if said.is_empty() || CONFIRMATIONS.iter().any(|word| said.contains(word)) {
            Ok(())
        } else {
            Err(Error::Fleet(format!("haproxy {}: {command}: {said}", label_of(instance))))
        }
    }

    async fn change_one(&self, instance: InstanceId, pool: &str, change: &Change) -> Result<()> {
        match change {
            Change::Add(server) => {
                let (name, address, weight) = (&server.name, server.address, server.weight);
                let source = self.hosts.site.instance(instance);
                let add = format!("add server {pool}/{name} {address} weight {weight} source {source} check {CHECK}");
                self.confirmed(instance, &add).await?;
                self.confirmed(instance, &format!("enable health {pool}/{name}")).await?;
                self.confirmed(instance, &format!("enable server {pool}/{name}")).await
            }
            Change::Remove(name) => {
                self.confirmed(instance, &format!("set server {pool}/{name} state maint")).await?;
                self.confirmed(instance, &format!("shutdown sessions server {pool}/{name}")).await?;
                let mut last = Ok(());
                for _ in 0..DELETIONS_MAX {
                    last = self.confirmed(instance, &format!("del server {pool}/{name}")).await;
                    if last.is_ok() {
                        break;
                    }
                    tokio::time::sleep(DELETION_PAUSE).await;
                }
                last
            }
            Change::Drain(name) => self.confirmed(instance, &format!("set server {pool}/{name} state drain")).await,
            Change::Enable(name) => self.confirmed(instance, &format!("set server {pool}/{name} state ready")).await,
        }
    }
}

#[async_trait]
impl Fleet for HaProxy {
    fn product(&self) -> &'static str {
        "haproxy"
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
        let label = label_of(instance);
        let mut command = Command::new(&self.binary);
        command.args(["-db", "-L", &label, "-f", &format!("{label}.cfg")]);
        self.hosts.start(instance, command).await
    }

    async fn obituary(&self, instance: InstanceId) -> Option<String> {
        self.hosts.obituary(instance).await
    }

    async fn is_ready(&self, instance: InstanceId) -> bool {
        self.command(instance, "show info").await.is_ok_and(|said| said.contains("Uptime"))
    }

    async fn is_announced(&self, instance: InstanceId) -> bool {
        // Somebody else has to announce it once it is up.
        self.hosts.announce(instance, true).await.is_ok() && self.hosts.is_announced(instance).await
    }

    async fn kill(&self, instance: InstanceId) -> Result<()> {
        self.hosts.announce(instance, false).await?;
        self.hosts.kill(instance).await
    }

    async fn terminate(&self, instance: InstanceId) -> Result<()> {
        self.hosts.announce(instance, false).await?;
        let Some(mut process) = self.hosts.take(instance).await? else { return Ok(()) };
        process.signal(Signal::USR1)?;
        if process.wait(TERMINATE_DEADLINE).await.is_none() {
            process.kill().await?;
        }
        Ok(())
    }

    async fn pause(&self, instance: InstanceId) -> Result<()> {
        self.hosts.announce(instance, false).await?;
        self.hosts.signal(instance, Signal::STOP).await
    }

    async fn resume(&self, instance: InstanceId) -> Result<()> {
        self.hosts.signal(instance, Signal::CONT).await
    }

    /// There is none; the first one stands in for it.
    async fn leader(&self) -> Result<Option<InstanceId>> {
        Ok(Some(InstanceId(0)))
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

    /// Nobody passes a change on, so every instance has to be told.
    async fn change(&self, pool: usize, change: &Change, _via: &[InstanceId]) -> Result<()> {
        let pool = POOLS.get(pool).ok_or_else(|| Error::Usage(format!("no pool {pool}")))?.name;
        for id in self.hosts.ids() {
            self.change_one(id, pool, change).await?;
        }
        Ok(())
    }

    fn knows_isolation(&self) -> bool {
        false
    }

    async fn stop(&self) {
        self.hosts.stop().await;
    }

    fn logs(&self) -> Option<PathBuf> {
        Some(self.hosts.site.directory().to_path_buf())
    }
}

fn configuration(site: &Site, instance: InstanceId, size: u8, servers: &[Server]) -> String {
    let (address, peers_port) = (site.instance(instance), site.peers_port());
    let mut text = format!(
        "global\n  maxconn 6000\n  hard-stop-after 5s\n  stats socket ipv4@{address}:{REST_PORT} level admin\n\n\
         defaults\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n  timeout check 500ms\n  retries 3\n  \
         option redispatch\n  option splice-auto\n\npeers fleet\n  bind {address}:{peers_port}\n  default-server source {address}\n"
    );
    for id in (0..size).map(InstanceId) {
        // The local peer has its address in the bind line.
        let at = if id == instance { String::new() } else { format!(" {}:{GRPC_PORT}", site.instance(id)) };
        text += &format!("  server {}{at}\n", label_of(id));
    }
    for (pool, port) in POOLS.iter().zip(POOL_PORTS) {
        let name = pool.name;
        let entrance = if site.net().is_some() { IpAddr::V4(VIP) } else { address };
        let (mode, health) = match pool.door {
            Door::Tcp => ("tcp", ""),
            Door::Http => ("http", "  option httpchk GET /healthz\n"),
        };
        text += &format!(
            "\nfrontend {name}\n  mode {mode}\n  bind {entrance}:{port}\n  default_backend {name}\n\nbackend {name}\n  \
             mode {mode}\n{health}  balance source\n  hash-type consistent\n  stick-table type ip size 1m expire 30m peers \
             fleet\n  stick on src\n  default-server source {address} check {CHECK}\n"
        );
        for server in servers {
            text += &format!("  server {} {} weight {}\n", server.name, server.address, server.weight);
        }
    }
    text
}

const CHECK: &str = "inter 500ms rise 2 fall 2";
const CONFIRMATIONS: [&str; 2] = ["New server registered", "Server deleted"];
const COMMAND_DEADLINE: Duration = Duration::from_secs(2);
const TERMINATE_DEADLINE: Duration = Duration::from_secs(10);
const DELETIONS_MAX: usize = 50;
const DELETION_PAUSE: Duration = Duration::from_millis(20);
