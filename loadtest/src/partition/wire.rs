//! The network under test: a host for each instance and one for the clients, each in a namespace of its own, joined by a
//! bridge that drops what it is told to.
//!
//! ```text
//!   a 10.77.0.1 --.                        .-- clients, servers and judge: 10.77.0.100, and 10.78.0.0/16
//!   b 10.77.0.2 --+-- bridge, with nft ----+
//!   c 10.77.0.3 --'   in a namespace too
//! ```
//! The namespaces have no names and hang on descriptors of this process: when it ends, in whatever way, the kernel removes
//! them with all interfaces and rules. The machine's own network is not touched.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fleet::process;
use crate::lab::{self, Namespace, feed, is_lacking};

/// The network. Hosts of instances have the numbers from 0.
#[derive(Debug)]
pub struct Wire {
    hub: Namespace,
    hosts: Vec<Namespace>,
    nft: PathBuf,
}

/// What became of the wish for a network.
#[derive(Debug)]
pub enum Laid {
    /// It is there, and the calling thread is at the clients' host.
    Here(Wire),
    /// It is not to be had here, for this reason.
    Not(String),
}

impl Wire {
    /// Makes the network and moves the calling thread, and what it starts from now on, to the clients' host. To be called
    /// before other threads are started.
    pub fn lay(instances: u8) -> Result<Laid> {
        let not = |program, package| Ok(Laid::Not(format!("{program} is not installed: apt-get install {package}")));
        let Some(ip) = process::in_path("ip") else { return not("ip", "iproute2") };
        let Some(nft) = process::in_path("nft") else { return not("nft", "nftables") };
        if !lab::enter_to_build().map_err(Error::io("entering a network namespace"))? {
            return Ok(Laid::Not("this user gets no network namespaces here".to_owned()));
        }
        let failed = || Error::io("making a network namespace");
        let hub = Namespace::current().map_err(failed())?;
        let hosts =
            (0..instances).map(|_| Namespace::create()).collect::<std::io::Result<Vec<_>>>().map_err(failed())?;
        let clients = Namespace::create().map_err(failed())?;
        let wire = Wire { hub, hosts, nft };
        match wire.join(&ip, &clients).and_then(|()| feed(&wire.hub, &wire.nft, &["-f", "-"], RULES)) {
            Err(Error::Fleet(reason)) if is_lacking(&reason) => return Ok(Laid::Not(reason)),
            joined => joined?,
        }
        wire.address(&ip, &clients)?;
        clients.go().map_err(Error::io("moving to the clients' network"))?;
        Ok(Laid::Here(wire))
    }

    /// Makes the bridge and plugs all hosts in.
    fn join(&self, ip: &Path, clients: &Namespace) -> Result<()> {
        let all = self.hosts.iter().chain(std::iter::once(clients));
        let mut lines = "link add hub type bridge\nlink set hub up\n".to_owned();
        for (number, host) in all.enumerate() {
            lines += &format!("link add port{number} type veth peer name eth0 netns {}\n", host.path());
            lines += &format!("link set port{number} master hub up\n");
        }
        feed(&self.hub, ip, &["-batch", "-"], &lines)
    }

    /// Gives all hosts their addresses.
    fn address(&self, ip: &Path, clients: &Namespace) -> Result<()> {
        for (number, host) in (0..).zip(&self.hosts) {
            let lines = format!(
                "addr add {}/24 dev eth0\nlink set eth0 up\nroute add {VISITORS} via {CLIENTS}\n",
                instance(number)
            );
            feed(host, ip, &["-batch", "-"], &lines)?;
        }
        let lines = format!("addr add {CLIENTS}/24 dev eth0\nlink set eth0 up\nroute add local {VISITORS} dev lo\n");
        feed(clients, ip, &["-batch", "-"], &lines)
    }

    /// Has a command run at the host of an instance.
    pub fn house(&self, instance: u8, command: &mut Command) -> Result<()> {
        let host = self.hosts.get(usize::from(instance));
        host.ok_or_else(|| Error::Usage(format!("no host {instance}")))?.house(command);
        Ok(())
    }

    /// From now on exactly these ways, each from one instance to another, carry nothing.
    pub async fn cut(&self, ways: &[(u8, u8)]) -> Result<()> {
        let mut script = format!("flush set bridge {TABLE} lost");
        if !ways.is_empty() {
            let pairs: Vec<String> =
                ways.iter().map(|(from, to)| format!("{} . {}", instance(*from), instance(*to))).collect();
            script += &format!("; add element bridge {TABLE} lost {{ {} }}", pairs.join(", "));
        }
        self.command_filter(&script).await.map(drop)
    }

    /// How many packets were dropped since the beginning.
    pub async fn dropped(&self) -> Result<u64> {
        let said = self.command_filter(&format!("list chain bridge {TABLE} forward")).await?;
        let count = said.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        count.ok_or_else(|| Error::Fleet(format!("nft does not say how many packets it dropped: {said}")))
    }

    async fn command_filter(&self, script: &str) -> Result<String> {
        let mut command = Command::new(&self.nft);
        command.arg(script);
        self.hub.house(&mut command);
        process::run(command, COMMAND_DEADLINE).await
    }
}

/// The address of an instance.
pub fn instance(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number.saturating_add(1))
}

/// The source address of a client that was never there, by its number.
pub fn visitor(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 78, high, low)
}

/// Where clients, servers and judge are.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

/// The addresses of clients that come once.
const VISITORS: &str = "10.78.0.0/16";
const TABLE: &str = "wire";
const RULES: &str = "table bridge wire {
    set lost { type ipv4_addr . ipv4_addr; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip saddr . ip daddr @lost counter drop
    }
}
";
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
