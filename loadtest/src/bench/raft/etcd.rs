//! Three members of etcd, as Debian has it, with its own defaults.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::clients::leads;
use crate::bench::cpu;
use crate::error::{Error, Result};
use crate::fleet::process::Process;
use crate::fleet::site::Site;
use crate::judge::InstanceId;

/// The members, and which of them leads.
pub struct Etcd {
    members: Vec<Process>,
    /// Where the leader serves clients.
    pub leader: SocketAddr,
    _site: Site,
}

impl Etcd {
    /// Starts three members on the disk where our logs are, and waits for a leader.
    pub async fn start(binary: &Path) -> Result<Etcd> {
        let site = Site::new()?;
        let peers: Vec<String> = (1..=3).map(|id| format!("n{id}=http://{}", at(&site, id, PEER_PORT))).collect();
        let mut members = Vec::new();
        for id in 1..=3 {
            let (client, peer) = (at(&site, id, CLIENT_PORT), at(&site, id, PEER_PORT));
            let mut command = Command::new(binary);
            command.args(["--name", &format!("n{id}"), "--log-level", "error"]);
            command.arg("--data-dir").arg(site.directory().join(format!("etcd{id}")));
            command.args(["--listen-client-urls", &format!("http://{client}")]);
            command.args(["--advertise-client-urls", &format!("http://{client}")]);
            command.args(["--listen-peer-urls", &format!("http://{peer}")]);
            command.args(["--initial-advertise-peer-urls", &format!("http://{peer}")]);
            command.args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"]);
            members.push(Process::start(command, &site.directory().join(format!("etcd{id}.log")))?);
        }
        let begun = Instant::now();
        loop {
            for id in 1..=3 {
                let address = at(&site, id, CLIENT_PORT);
                // Before it is up it refuses connections.
                if leads(address).await.is_ok_and(|leads| leads) {
                    return Ok(Etcd { members, leader: address, _site: site });
                }
            }
            if let Some(end) = members.iter_mut().find_map(Process::obituary) {
                return Err(Error::Fleet(format!("etcd ended: {end}")));
            }
            if begun.elapsed() > PATIENCE {
                return Err(Error::Fleet(format!("etcd has no leader within {PATIENCE:?}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The CPU time of all members so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.members.iter().map(|member| cpu::of_group(member.group())).sum()
    }
}

fn at(site: &Site, id: u8, port: u16) -> SocketAddr {
    (site.instance(InstanceId(id)), port).into()
}

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
