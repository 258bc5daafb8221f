//! Pools, members and the fleet's first word as bytes.

use std::net::{IpAddr, SocketAddr};

use prost::Message;

use super::{WireError, pick, port};
use crate::{
    command::{Birth, MemberAddress},
    ids::{FleetId, InstanceId},
    pool::{Balance, Bind, Commit, HealthKind, HealthSpec, OnIsolation, PoolSpec, Protocol, ServerSpec, ServerState},
};

#[derive(Clone, PartialEq, Message)]
pub struct BirthMessage {
    #[prost(bytes = "vec", tag = "1")]
    fleet: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pick_key: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pin_groups: u32,
    #[prost(message, repeated, tag = "4")]
    founders: Vec<FounderMessage>,
    #[prost(message, repeated, tag = "5")]
    pools: Vec<PoolMessage>,
    #[prost(uint64, tag = "6")]
    lease_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FounderMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    address: Option<AddressMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AddressMessage {
    #[prost(string, tag = "1")]
    label: String,
    #[prost(string, tag = "2")]
    host: String,
    #[prost(uint32, tag = "3")]
    grpc: u32,
    #[prost(uint32, tag = "4")]
    rest: u32,
    #[prost(uint32, tag = "5")]
    metrics: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct PoolMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "2")]
    bind_vip: Option<String>,
    #[prost(uint32, tag = "3")]
    bind_port: u32,
    #[prost(uint32, tag = "4")]
    protocol: u32,
    #[prost(uint32, tag = "5")]
    balance: u32,
    #[prost(uint32, tag = "6")]
    commit: u32,
    #[prost(uint64, tag = "7")]
    pin_ttl_ms: u64,
    #[prost(uint32, tag = "8")]
    on_isolation: u32,
    #[prost(uint64, tag = "9")]
    decide_timeout_ms: u64,
    #[prost(uint64, tag = "10")]
    retry_for_ms: u64,
    #[prost(uint64, tag = "11")]
    connect_timeout_ms: u64,
    #[prost(uint64, tag = "12")]
    idle_timeout_ms: u64,
    #[prost(uint32, tag = "13")]
    max_connections: u32,
    #[prost(bool, tag = "14")]
    send_proxy: bool,
    #[prost(message, optional, tag = "15")]
    health: Option<HealthMessage>,
    #[prost(message, repeated, tag = "16")]
    servers: Vec<ServerMessage>,
    #[prost(bool, tag = "17")]
    transparent: bool,
}

#[derive(Clone, PartialEq, Message)]
struct HealthMessage {
    #[prost(string, optional, tag = "1")]
    path: Option<String>,
    #[prost(uint32, repeated, tag = "2")]
    expect: Vec<u32>,
    #[prost(uint64, tag = "3")]
    interval_ms: u64,
    #[prost(uint64, tag = "4")]
    timeout_ms: u64,
    #[prost(uint32, tag = "5")]
    rise: u32,
    #[prost(uint32, tag = "6")]
    fall: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct ServerMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(uint32, tag = "3")]
    port: u32,
    #[prost(uint32, tag = "4")]
    weight: u32,
    #[prost(uint32, tag = "5")]
    state: u32,
}

impl From<&Birth> for BirthMessage {
    fn from(birth: &Birth) -> Self {
        Self {
            fleet: birth.fleet.0.to_be_bytes().to_vec(),
            pick_key: birth.pick_key.to_vec(),
            pin_groups: birth.pin_groups,
            founders: birth
                .founders
                .iter()
                .map(|(id, address)| FounderMessage { id: id.0, address: Some(address.into()) })
                .collect(),
            pools: birth.pools.iter().map(Into::into).collect(),
            lease_ms: birth.lease_ms,
        }
    }
}

impl TryFrom<BirthMessage> for Birth {
    type Error = WireError;

    fn try_from(birth: BirthMessage) -> Result<Self, WireError> {
        if !(1..=u64::from(u32::MAX)).contains(&birth.lease_ms) {
            return Err(WireError::Field("lease_ms"));
        }
        let fleet: [u8; 16] = birth.fleet.try_into().map_err(|_| WireError::Field("fleet"))?;
        Ok(Self {
            fleet: FleetId(u128::from_be_bytes(fleet)),
            pick_key: birth.pick_key.try_into().map_err(|_| WireError::Field("pick_key"))?,
            pin_groups: birth.pin_groups,
            lease_ms: birth.lease_ms,
            founders: birth
                .founders
                .into_iter()
                .map(|founder| {
                    let address = founder.address.ok_or(WireError::Field("founder"))?;
                    Ok((InstanceId(founder.id), address.try_into()?))
                })
                .collect::<Result<_, WireError>>()?,
            pools: birth.pools.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&MemberAddress> for AddressMessage {
    fn from(address: &MemberAddress) -> Self {
        Self {
            label: address.label.clone(),
            host: address.host.clone(),
            grpc: address.grpc.into(),
            rest: address.rest.into(),
            metrics: address.metrics.into(),
        }
    }
}

impl TryFrom<AddressMessage> for MemberAddress {
    type Error = WireError;

    fn try_from(address: AddressMessage) -> Result<Self, WireError> {
        Ok(Self {
            label: address.label,
            host: address.host,
            grpc: port(address.grpc)?,
            rest: port(address.rest)?,
            metrics: port(address.metrics)?,
        })
    }
}

impl From<&PoolSpec> for PoolMessage {
    fn from(spec: &PoolSpec) -> Self {
        let (bind_vip, bind_port) = match spec.bind {
            Bind::Own(port) => (None, port.into()),
            Bind::Vip(address) => (Some(address.to_string()), 0),
        };
        Self {
            name: spec.name.clone(),
            bind_vip,
            bind_port,
            protocol: spec.protocol as u32,
            balance: spec.balance as u32,
            commit: spec.commit as u32,
            pin_ttl_ms: spec.pin_ttl_ms,
            on_isolation: spec.on_isolation as u32,
            decide_timeout_ms: spec.decide_timeout_ms,
            retry_for_ms: spec.retry_for_ms,
            connect_timeout_ms: spec.connect_timeout_ms,
            idle_timeout_ms: spec.idle_timeout_ms,
            max_connections: spec.max_connections,
            send_proxy: spec.send_proxy,
            transparent: spec.transparent,
            health: Some((&spec.health).into()),
            servers: spec.servers.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<PoolMessage> for PoolSpec {
    type Error = WireError;

    fn try_from(pool: PoolMessage) -> Result<Self, WireError> {
        Ok(Self {
            bind: match pool.bind_vip {
                Some(text) => Bind::Vip(text.parse::<SocketAddr>().map_err(|_| WireError::Field("bind"))?),
                None => Bind::Own(port(pool.bind_port)?),
            },
            name: pool.name,
            protocol: pick(&[Protocol::Tcp, Protocol::Http, Protocol::Udp], pool.protocol, "protocol")?,
            balance: pick(
                &[Balance::SourceHash, Balance::RoundRobin, Balance::LeastConnections],
                pool.balance,
                "balance",
            )?,
            commit: pick(&[Commit::FirstContact], pool.commit, "commit")?,
            pin_ttl_ms: pool.pin_ttl_ms,
            on_isolation: pick(&[OnIsolation::Refuse, OnIsolation::Hash], pool.on_isolation, "on_isolation")?,
            decide_timeout_ms: pool.decide_timeout_ms,
            retry_for_ms: pool.retry_for_ms,
            connect_timeout_ms: pool.connect_timeout_ms,
            idle_timeout_ms: pool.idle_timeout_ms,
            max_connections: pool.max_connections,
            send_proxy: pool.send_proxy,
            transparent: pool.transparent,
            health: pool.health.ok_or(WireError::Field("health"))?.try_into()?,
            servers: pool.servers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&HealthSpec> for HealthMessage {
    fn from(health: &HealthSpec) -> Self {
        let (path, expect) = match &health.kind {
            HealthKind::Tcp => (None, Vec::new()),
            HealthKind::Http { path, expect } => (
                Some(path.clone()),
                expect.iter().flat_map(|(low, high)| [u32::from(*low), u32::from(*high)]).collect(),
            ),
        };
        Self {
            path,
            expect,
            interval_ms: health.interval_ms,
            timeout_ms: health.timeout_ms,
            rise: health.rise,
            fall: health.fall,
        }
    }
}

impl TryFrom<HealthMessage> for HealthSpec {
    type Error = WireError;

    fn try_from(health: HealthMessage) -> Result<Self, WireError> {
        let kind = match health.path {
            None => HealthKind::Tcp,
            Some(path) => HealthKind::Http {
                path,
                expect: health
                    .expect
                    .chunks_exact(2)
                    .map(|pair| Ok((port(pair[0])?, port(pair[1])?)))
                    .collect::<Result<_, WireError>>()?,
            },
        };
        Ok(Self {
            kind,
            interval_ms: health.interval_ms,
            timeout_ms: health.timeout_ms,
            rise: health.rise,
            fall: health.fall,
        })
    }
}

impl From<&ServerSpec> for ServerMessage {
    fn from(server: &ServerSpec) -> Self {
        Self {
            name: server.name.clone(),
            address: server.address.to_string(),
            port: server.port.into(),
            weight: server.weight,
            state: server.state as u32,
        }
    }
}

impl TryFrom<ServerMessage> for ServerSpec {
    type Error = WireError;

    fn try_from(server: ServerMessage) -> Result<Self, WireError> {
        Ok(Self {
            name: server.name,
            address: server.address.parse::<IpAddr>().map_err(|_| WireError::Field("address"))?,
            port: port(server.port)?,
            weight: server.weight,
            state: pick(&[ServerState::Enabled, ServerState::Draining], server.state, "state")?,
        })
    }
}
