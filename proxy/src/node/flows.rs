//! The table of flows as this instance has it, and what goes into it.

use std::net::IpAddr;

use bytes::Bytes;
use flow::{
    Bind, PinKey, PoolId, Protocol,
    flows::{FlowOutcome, FlowRecord},
};
use raftlog::driver::Rejection;
use replica::SubmitError;
use tokio::sync::oneshot;

use super::{control::PATIENCE, fleet::Fleet, input::Input};
use crate::control::{
    Consistency, ControlError, Result,
    flows::{FlowBackend, FlowTables},
};

impl Fleet {
    pub(super) async fn flow_tables(&self, consistency: Consistency) -> Result<FlowTables> {
        if self.inner.shared.groups().is_empty() {
            return Err(super::control::starting());
        }
        if self.inner.shared.flows().is_empty() {
            return Err(ControlError::Unsupported(
                "this fleet has no table of flows: fleet.flow_groups was 0, or not there yet, when it was born"
                    .to_owned(),
            ));
        }
        for (group, _) in self.inner.shared.flows() {
            self.fresh(*group, consistency).await?;
        }
        let fleet =
            self.inner.shared.control().birth().map(|birth| birth.fleet).ok_or_else(super::control::starting)?;
        let shards = self.inner.shared.flows().iter().map(|(_, table)| table.load_full()).collect();
        Ok(FlowTables { fleet, shards })
    }

    pub(super) async fn report(&self, shard: u32, command: Bytes) -> Result<FlowOutcome> {
        if self.inner.shared.groups().is_empty() {
            return Err(super::control::starting());
        }
        let (answer, answered) = oneshot::channel();
        self.put(Input::Report { shard, command, patience: PATIENCE, answer }).await?;
        match answered.await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(SubmitError::NotDone(Rejection::Overloaded))) => Err(super::control::overloaded()),
            Ok(Err(SubmitError::NotDone(Rejection::TooLarge))) => {
                Err(ControlError::Invalid("the batch is larger than an entry may be".to_owned()))
            }
            Ok(Err(SubmitError::NotDone(_) | SubmitError::NoMember)) => Err(ControlError::Unavailable(
                "there is no leader, or it does not answer: a majority of the fleet is needed. Nothing was done"
                    .to_owned(),
            )),
            Ok(Err(SubmitError::Unknown)) | Err(_) => Err(ControlError::UnknownOutcome(
                "it was proposed and its outcome is unknown: it may or may not count".to_owned(),
            )),
        }
    }

    /// An end that listens where a pool does has the other end for a client; one that is a server has this fleet, or, where
    /// pools are transparent, a client.
    pub(super) fn backends_of(&self, record: &FlowRecord) -> Vec<FlowBackend> {
        let control = self.inner.shared.control();
        let key = &record.key;
        let ends = [(&key.low, &key.high), (&key.high, &key.low)];
        let ends = ends.map(|(to, from)| ((to.ip(key.version), to.port), from.ip(key.version)));
        let mut found = Vec::new();
        for (id, pool) in control.pools() {
            let transport = if pool.spec.protocol == Protocol::Udp { UDP } else { TCP };
            if key.protocol != transport {
                continue;
            }
            for ((address, port), client) in ends {
                let listens = match pool.spec.bind {
                    Bind::Own(bound) => bound == port && self.is_instance(&control, address),
                    Bind::Vip(vip) => vip.port() == port && vip.ip() == address,
                };
                if listens {
                    found.extend(self.pinned(&control, id, &pool.spec.name, client));
                    continue;
                }
                let server = pool.spec.servers.iter().find(|server| (server.address, server.port) == (address, port));
                if let Some(server) = server {
                    let pinned = self.pinned(&control, id, &pool.spec.name, client);
                    found.push(pinned.unwrap_or_else(|| FlowBackend {
                        pool: pool.spec.name.clone(),
                        client: None,
                        server: server.name.clone(),
                        address: server.socket_address(),
                    }));
                }
            }
        }
        found
    }

    fn is_instance(&self, control: &flow::ControlTable, address: IpAddr) -> bool {
        let resolved = self.inner.resolved.load();
        control.members().any(|(_, member)| {
            let host = &member.address.host;
            host.parse().ok().or_else(|| resolved.get(host).copied()) == Some(address)
        })
    }

    fn pinned(&self, control: &flow::ControlTable, pool: PoolId, name: &str, client: IpAddr) -> Option<FlowBackend> {
        let key = PinKey::new(pool, client);
        let view = self.inner.shared.view(&key)?;
        let pin = view.table.stored(&key)?;
        let (_, server) = control.backend(pin.backend)?;
        Some(FlowBackend {
            pool: name.to_owned(),
            client: Some(client),
            server: server.name.clone(),
            address: server.socket_address(),
        })
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
