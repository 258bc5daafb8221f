//! The orders that whoever runs the bench gives, one a line: `peers LABEL=HOST:PORT...`, `lead`,
//! `load IN_FLIGHT BYTES`, `rest`, `fill BYTES`, `learner ID`, `look`, `mark`. Each is answered by one line of JSON. The
//! end of the input ends the node.

use std::{
    io::BufRead,
    sync::{
        atomic::Ordering,
        mpsc::{SyncSender, sync_channel},
    },
};

use raftlog::{
    GroupId, NodeId,
    net::{PeerAddress, Transport},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::{
    Result,
    node::{Input, Node},
    table::Table,
};

/// An answer.
pub type Reply = serde_json::Value;

/// What the node itself is told.
pub enum Order {
    /// Lead all groups, by asking for it until it is so.
    Lead,
    /// Propose entries of so many bytes, so many at a time, until `Rest`.
    Load { in_flight: usize, bytes: usize },
    /// Propose no more.
    Rest,
    /// Add some ballast to the state of group 0, until it has so many bytes.
    Fill { bytes: u64 },
    /// Add a learner to group 0.
    Learner(NodeId),
    /// Say how things stand.
    Look,
    /// Say so, with the figures of the load since the last mark.
    Mark,
}

/// Reads orders until there are no more.
pub fn read(inputs: &SyncSender<Input>, transport: &Transport) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let words: Vec<&str> = line.split_whitespace().collect();
        let reply = match words.split_first() {
            Some((&"peers", peers)) => set_peers(transport, peers),
            _ => parse(&words).and_then(|order| ask(inputs, order)),
        };
        println!("{}", reply.unwrap_or_else(|error| json!({ "error": error.to_string() })));
    }
    // The node is gone only when the process is about to end.
    drop(inputs.send(Input::Stop));
}

fn ask(inputs: &SyncSender<Input>, order: Order) -> Result<Reply> {
    let (answer, reply) = sync_channel(1);
    inputs.send(Input::Order(order, answer)).map_err(|_| "the node is stopping")?;
    Ok(reply.recv()?)
}

fn set_peers(transport: &Transport, peers: &[&str]) -> Result<Reply> {
    let peer = |text: &&str| {
        let (label, address) = text.split_once('=')?;
        let (host, port) = address.rsplit_once(':')?;
        Some(PeerAddress::new(label, host, port.parse().ok()?))
    };
    let peers: Option<Vec<PeerAddress>> = peers.iter().map(peer).collect();
    transport.set_peers(peers.ok_or("a peer is LABEL=HOST:PORT")?)?;
    Ok(json!({}))
}

fn parse(words: &[&str]) -> Result<Order> {
    Ok(match words {
        ["lead"] => Order::Lead,
        ["load", in_flight, bytes] => Order::Load { in_flight: in_flight.parse()?, bytes: bytes.parse()? },
        ["rest"] => Order::Rest,
        ["fill", bytes] => Order::Fill { bytes: bytes.parse()? },
        ["learner", id] => Order::Learner(NodeId(id.parse()?)),
        ["look"] => Order::Look,
        ["mark"] => Order::Mark,
        _ => return Err("no such order".into()),
    })
}

impl Node {
    /// How things stand.
    pub fn look(&self) -> Reply {
        let leads = (0..self.driver.groups()).filter(|group| self.driver.leads(GroupId(*group))).count();
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        json!({
            "leads": leads,
            "role_changes": self.role_changes,
            "links": self.doors.transport.links().iter().filter(|link| link.up).count(),
            "applied": self.tables.iter().map(|table| table.applied).sum::<u64>(),
            "digest": self.tables.iter().fold(0, Table::add_to_digest),
            "ballast_bytes": self.tables[0].ballast_bytes(),
            "held_bytes": self.driver.status(GroupId(0)).map_or(0, |status| status.held_bytes),
            "under_way": self.askers.len(),
            "snapshots_taken": self.driver.counters().snapshots_taken,
            "snapshots_sent": self.snapshots_sent,
            "snapshots_failed": self.snapshots_failed,
            "syncs": self.log.syncs.load(Ordering::Relaxed),
            "cpu_seconds": cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        })
    }

    /// How things stand, with the figures of the load since the last mark.
    pub fn mark(&mut self) -> Reply {
        let mut reply = self.look();
        if let Some(load) = &mut self.load {
            reply["load"] = load.mark();
        }
        reply
    }
}
