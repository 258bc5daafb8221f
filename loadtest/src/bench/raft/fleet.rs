//! Nodes as processes that take orders, and fleets of them.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdin, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::fleet::process::{self, Process};
use crate::fleet::site::Site;
use crate::judge::InstanceId;

/// What fleet to start.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Whether peers prove who they are.
    pub tls: bool,
    /// Raft groups.
    pub groups: u32,
    /// After how many entries the log is cut; the default where absent.
    pub compact_entries: Option<u64>,
    /// Bytes per second of a snapshot on its way out.
    pub snapshot_rate: Option<u64>,
}

/// A node and the way to talk to it.
pub struct Node {
    process: Process,
    orders: ChildStdin,
    replies: mpsc::Receiver<String>,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Some nodes; the first leads all groups.
pub struct Fleet {
    /// In the order of their ids, from 1 on.
    pub nodes: Vec<Node>,
    binary: std::path::PathBuf,
    /// As it was started.
    pub shape: Shape,
    site: Site,
}

impl Node {
    /// Starts one, and waits until it says where it listens.
    async fn start(binary: &Path, shape: Shape, id: u8, founders: &str, site: &Site) -> Result<Node> {
        let directory = site.directory();
        let mut command = Command::new(binary);
        command.args(["run", "--id", &id.to_string(), "--groups", &shape.groups.to_string()]);
        command.arg("--host").arg(site.instance(InstanceId(id)).to_string());
        command.arg("--dir").arg(directory.join(format!("n{id}")));
        if !founders.is_empty() {
            command.args(["--founders", founders]);
        }
        if shape.tls {
            command.arg("--tls").arg(directory.join(CERTIFICATES));
        }
        for (name, value) in [("--compact-entries", shape.compact_entries), ("--snapshot-rate", shape.snapshot_rate)] {
            if let Some(value) = value {
                command.args([name, &value.to_string()]);
            }
        }
        let (mut process, orders, out) = Process::start_talking(command, &directory.join(format!("n{id}.log")))?;
        // One reply for each order, and one order at a time.
        let (sender, mut replies) = mpsc::channel(4);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(std::io::Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let said = reply(&mut process, &mut replies, "the start").await?;
        let address = said["listens"].as_str().and_then(|text| text.parse().ok());
        let address = address.ok_or_else(|| Error::Fleet(format!("a node says {said}, not where it listens")))?;
        Ok(Node { process, orders, replies, address })
    }

    /// Gives an order; the reply.
    pub async fn order(&mut self, order: &str) -> Result<Value> {
        let failed = |error| Error::Io(format!("ordering a node: {order}"), error);
        self.orders.write_all(format!("{order}\n").as_bytes()).map_err(failed)?;
        reply(&mut self.process, &mut self.replies, order).await
    }

    /// Asks until `wanted` says yes; the reply it said yes to.
    pub async fn until(&mut self, what: &str, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let seen = self.order("look").await?;
            if wanted(&seen) {
                return Ok(seen);
            }
            if begun.elapsed() > patience {
                return Err(Error::Fleet(format!("{what} did not come about within {patience:?}: {seen}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Memory in use by itself, files that are mapped left out, in bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        self.status("RssAnon:")
    }

    fn status(&self, name: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.group());
        let text = std::fs::read_to_string(&path).map_err(Error::io(format!("reading {path}")))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| Error::Fleet(format!("{path} has no {name}")))
    }
}

async fn reply(process: &mut Process, replies: &mut mpsc::Receiver<String>, order: &str) -> Result<Value> {
    match tokio::time::timeout(PATIENCE, replies.recv()).await {
        Ok(Some(line)) => {
            let reply: Value = serde_json::from_str(&line)
                .map_err(|error| Error::Fleet(format!("a node answers {order} with {line}: {error}")))?;
            match reply["error"].as_str() {
                Some(error) => Err(Error::Fleet(format!("a node refuses {order}: {error}"))),
                None => Ok(reply),
            }
        }
        Ok(None) => {
            let end = process.obituary().unwrap_or_else(|| "it says nothing more".to_owned());
            Err(Error::Fleet(format!("a node ended at {order}: {end}")))
        }
        Err(_) => Err(Error::Fleet(format!("a node did not answer {order} within {PATIENCE:?}"))),
    }
}

impl Fleet {
    /// Starts three nodes and has the first lead.
    pub async fn start(binary: &Path, shape: Shape) -> Result<Fleet> {
        let site = Site::new()?;
        if shape.tls {
            let mut command = Command::new(binary);
            command.arg("certificates").arg("--dir").arg(site.directory().join(CERTIFICATES));
            command.args(["n1", "n2", "n3", "n4"]);
            process::run(command, PATIENCE).await?;
        }
        let mut fleet = Fleet { nodes: Vec::new(), binary: binary.to_path_buf(), shape, site };
        for id in 1..=3 {
            fleet.nodes.push(Node::start(binary, shape, id, "1,2,3", &fleet.site).await?);
        }
        fleet.introduce().await?;
        fleet.nodes[0].order("lead").await?;
        fleet.lead().await?;
        Ok(fleet)
    }

    /// Waits until the first node leads all groups.
    pub async fn lead(&mut self) -> Result<()> {
        let groups = u64::from(self.shape.groups);
        self.nodes[0].until("leading", START_PATIENCE, |seen| seen["leads"].as_u64() == Some(groups)).await?;
        Ok(())
    }

    /// Has the load end, and waits for what is under way.
    pub async fn rest(&mut self) -> Result<()> {
        self.nodes[0].order("rest").await?;
        self.nodes[0].until("the end of the load", PATIENCE, |seen| seen["under_way"].as_u64() == Some(0)).await?;
        Ok(())
    }

    /// Waits until all nodes have applied the same entries of all groups, and the same came of it.
    pub async fn agree(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut states = Vec::new();
            for node in &mut self.nodes {
                let seen = node.order("look").await?;
                states.push((number(&seen, "applied")?, number(&seen, "digest")?));
            }
            if states.iter().all(|state| *state == states[0]) {
                return Ok(());
            }
            if begun.elapsed() > AGREE_PATIENCE {
                let text = format!("entries applied and their digests differ after {AGREE_PATIENCE:?}: {states:?}");
                return Err(Error::Fleet(text));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts a fourth node, which has nothing, and adds it as a learner.
    pub async fn add_learner(&mut self) -> Result<()> {
        let node = Node::start(&self.binary, self.shape, 4, "", &self.site).await?;
        self.nodes.push(node);
        self.introduce().await?;
        self.nodes[0].order("learner 4").await?;
        Ok(())
    }

    /// Tells all nodes of each other and waits for the links.
    async fn introduce(&mut self) -> Result<()> {
        let address = |(place, node): (usize, &Node)| format!("n{}={}", place + 1, node.address);
        let addresses: Vec<String> = self.nodes.iter().enumerate().map(address).collect();
        let others = self.nodes.len() as u64 - 1;
        for (place, node) in self.nodes.iter_mut().enumerate() {
            let mut peers = addresses.clone();
            peers.remove(place);
            node.order(&format!("peers {}", peers.join(" "))).await?;
        }
        for node in &mut self.nodes {
            node.until("links to all peers", START_PATIENCE, |seen| seen["links"].as_u64() == Some(others)).await?;
        }
        Ok(())
    }

    /// How all nodes stand; the figures of the load begin anew.
    pub async fn mark(&mut self) -> Result<Vec<Value>> {
        let mut marks = Vec::new();
        for node in &mut self.nodes {
            marks.push(node.order("mark").await?);
        }
        Ok(marks)
    }
}

/// A number in a reply.
pub fn number(reply: &Value, name: &str) -> Result<f64> {
    reply[name].as_f64().ok_or_else(|| Error::Fleet(format!("a node says nothing of {name}: {reply}")))
}

const CERTIFICATES: &str = "certificates";
const PATIENCE: Duration = Duration::from_secs(10);
const AGREE_PATIENCE: Duration = Duration::from_secs(60);
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
