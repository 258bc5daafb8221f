//! Between the messages of `rocinante.v1` and the plain things of the control: the one place for it.

use api::v1;
use flow::{
    Balance, Commit, HealthKind, HealthSpec, MemberAddress, OnIsolation, PoolSpec, Protocol, ServerSpec, ServerState,
    View,
};

use crate::control::{
    self, Applied, Consistency, ControlError, Result, Role,
    check::{bind_text, page_rows, parse_bind},
};

/// How fresh a read has to be.
pub fn consistency(number: i32) -> Result<Consistency> {
    match v1::Consistency::try_from(number) {
        Ok(v1::Consistency::Local) => Ok(Consistency::Local),
        Ok(v1::Consistency::Linearizable) => Ok(Consistency::Linearizable),
        Err(_) => Err(unknown("consistency", number)),
    }
}

/// How many rows; 0 is the default.
pub fn rows(limit: u32) -> Result<usize> {
    page_rows((limit != 0).then_some(limit.into()))
}

/// A pool as a message says it.
pub fn pool_spec(pool: v1::PoolSpec) -> Result<PoolSpec> {
    let missing = || ControlError::Invalid(format!("pool {:?}: health is missing", pool.name));
    Ok(PoolSpec {
        bind: parse_bind(&pool.bind)?,
        protocol: match pool.protocol() {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Http => Protocol::Http,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Unspecified => return Err(unknown("protocol", pool.protocol)),
        },
        balance: match pool.balance() {
            v1::Balance::SourceHash => Balance::SourceHash,
            v1::Balance::RoundRobin => Balance::RoundRobin,
            v1::Balance::LeastConnections => Balance::LeastConnections,
            v1::Balance::Unspecified => return Err(unknown("balance", pool.balance)),
        },
        commit: match pool.commit() {
            v1::Commit::FirstContact => Commit::FirstContact,
            v1::Commit::Unspecified => return Err(unknown("commit", pool.commit)),
        },
        on_isolation: match pool.on_isolation() {
            v1::OnIsolation::Refuse => OnIsolation::Refuse,
            v1::OnIsolation::Hash => OnIsolation::Hash,
            v1::OnIsolation::Unspecified => return Err(unknown("on_isolation", pool.on_isolation)),
        },
        pin_ttl_ms: pool.pin_ttl_ms,
        decide_timeout_ms: pool.decide_timeout_ms,
        retry_for_ms: pool.retry_for_ms,
        connect_timeout_ms: pool.connect_timeout_ms,
        idle_timeout_ms: pool.idle_timeout_ms,
        max_connections: pool.max_connections,
        send_proxy: pool.send_proxy,
        transparent: pool.transparent,
        health: health_spec(pool.health.ok_or_else(missing)?)?,
        servers: pool.servers.into_iter().map(server_spec).collect::<Result<_>>()?,
        name: pool.name,
    })
}

/// A server as a message says it.
pub fn server_spec(server: v1::ServerSpec) -> Result<ServerSpec> {
    let name = &server.name;
    let address = match server.address.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_canonical(),
        Err(_) => return Err(ControlError::Invalid(format!("server {name:?}: {:?} is no address", server.address))),
    };
    Ok(ServerSpec {
        address,
        port: port("port", server.port)?,
        weight: server.weight,
        state: match server.state() {
            v1::ServerState::Enabled => ServerState::Enabled,
            v1::ServerState::Draining => ServerState::Draining,
            v1::ServerState::Unspecified => return Err(unknown("state", server.state)),
        },
        name: server.name,
    })
}

/// An instance's address as a message says it.
pub fn member_address(address: v1::MemberAddress) -> Result<MemberAddress> {
    Ok(MemberAddress {
        label: address.label,
        host: address.host,
        grpc: port("grpc", address.grpc)?,
        rest: port("rest", address.rest)?,
        metrics: port("metrics", address.metrics)?,
    })
}

fn health_spec(health: v1::HealthSpec) -> Result<HealthSpec> {
    let kind = match health.kind {
        Some(v1::health_spec::Kind::Tcp(v1::TcpCheck {})) => HealthKind::Tcp,
        Some(v1::health_spec::Kind::Http(http)) => {
            let expect = http.expect.iter().map(|range| Ok((status(range.low)?, status(range.high)?)));
            HealthKind::Http { expect: expect.collect::<Result<_>>()?, path: http.path }
        }
        None => return Err(ControlError::Invalid("health: kind is missing".into())),
    };
    Ok(HealthSpec {
        kind,
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        rise: health.rise,
        fall: health.fall,
    })
}

fn status(number: u32) -> Result<u16> {
    u16::try_from(number).map_err(|_| ControlError::Invalid(format!("health.expect: {number} is no HTTP status")))
}

fn port(name: &str, number: u32) -> Result<u16> {
    u16::try_from(number).map_err(|_| ControlError::Invalid(format!("{name} {number}: 1 to 65535")))
}

fn unknown(name: &str, number: i32) -> ControlError {
    ControlError::Invalid(format!("{name}: this version has no value {number}"))
}

impl From<Applied> for v1::Applied {
    fn from(applied: Applied) -> Self {
        Self { index: applied.index, epoch: applied.epoch.0 }
    }
}

impl From<control::KvItem> for v1::KvItem {
    fn from(item: control::KvItem) -> Self {
        Self { key: item.key, value: item.value, revision: item.revision.0 }
    }
}

fn pool_message(spec: &PoolSpec) -> v1::PoolSpec {
    let protocol = match spec.protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Http => v1::Protocol::Http,
        Protocol::Udp => v1::Protocol::Udp,
    };
    let balance = match spec.balance {
        Balance::SourceHash => v1::Balance::SourceHash,
        Balance::RoundRobin => v1::Balance::RoundRobin,
        Balance::LeastConnections => v1::Balance::LeastConnections,
    };
    let commit = match spec.commit {
        Commit::FirstContact => v1::Commit::FirstContact,
    };
    let on_isolation = match spec.on_isolation {
        OnIsolation::Refuse => v1::OnIsolation::Refuse,
        OnIsolation::Hash => v1::OnIsolation::Hash,
    };
    v1::PoolSpec {
        name: spec.name.clone(),
        bind: bind_text(spec.bind),
        protocol: protocol.into(),
        balance: balance.into(),
        commit: commit.into(),
        pin_ttl_ms: spec.pin_ttl_ms,
        on_isolation: on_isolation.into(),
        decide_timeout_ms: spec.decide_timeout_ms,
        retry_for_ms: spec.retry_for_ms,
        connect_timeout_ms: spec.connect_timeout_ms,
        idle_timeout_ms: spec.idle_timeout_ms,
        max_connections: spec.max_connections,
        send_proxy: spec.send_proxy,
        transparent: spec.transparent,
        health: Some(health_message(&spec.health)),
        servers: spec.servers.iter().map(server_message).collect(),
    }
}

fn health_message(health: &HealthSpec) -> v1::HealthSpec {
    let kind = match &health.kind {
        HealthKind::Tcp => v1::health_spec::Kind::Tcp(v1::TcpCheck {}),
        HealthKind::Http { path, expect } => {
            let range = |(low, high): &(u16, u16)| v1::StatusRange { low: (*low).into(), high: (*high).into() };
            let expect = expect.iter().map(range).collect();
            v1::health_spec::Kind::Http(v1::HttpCheck { path: path.clone(), expect })
        }
    };
    v1::HealthSpec {
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        rise: health.rise,
        fall: health.fall,
        kind: Some(kind),
    }
}

fn server_message(server: &ServerSpec) -> v1::ServerSpec {
    let state = match server.state {
        ServerState::Enabled => v1::ServerState::Enabled,
        ServerState::Draining => v1::ServerState::Draining,
    };
    v1::ServerSpec {
        name: server.name.clone(),
        address: server.address.to_string(),
        port: server.port.into(),
        weight: server.weight,
        state: state.into(),
    }
}

impl From<control::PoolStatus> for v1::PoolStatus {
    fn from(pool: control::PoolStatus) -> Self {
        Self {
            spec: Some(pool_message(&pool.spec)),
            pins: pool.pins,
            connections: pool.connections,
            servers: pool.servers.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<control::ServerStatus> for v1::ServerStatus {
    fn from(server: control::ServerStatus) -> Self {
        let vote = |vote: control::Vote| v1::Vote { instance: vote.instance, view: view(vote.view).into() };
        Self {
            backend: server.backend.0,
            verdict: view(server.verdict).into(),
            votes: server.votes.into_iter().map(vote).collect(),
            pins: server.pins,
        }
    }
}

impl From<control::Pin> for v1::Pin {
    fn from(pin: control::Pin) -> Self {
        let state = match pin.state {
            control::PinState::Settled => v1::PinState::Settled,
            control::PinState::Moving => v1::PinState::Moving,
        };
        Self {
            client: pin.client.to_string(),
            server: pin.server,
            address: pin.address.to_string(),
            backend: pin.backend.0,
            state: state.into(),
            epoch: pin.epoch.0,
            revision: pin.revision.0,
            expires_in_ms: pin.expires_in_ms,
        }
    }
}

impl From<control::Status> for v1::StatusGetResponse {
    fn from(status: control::Status) -> Self {
        Self {
            instance: status.instance,
            id: status.id.map_or(0, |id| id.0),
            version: status.version,
            fleet: status.fleet,
            fleet_id: status.fleet_id.map(|id| id.0.to_be_bytes().to_vec().into()).unwrap_or_default(),
            standing: Some(status.standing.into()),
            not_ready: status.readiness.reasons,
            groups: status.groups.into_iter().map(Into::into).collect(),
            members: status.members.into_iter().map(Into::into).collect(),
            epoch: status.pools.epoch.0,
            pools: status.pools.pools.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<control::Standing> for v1::Standing {
    fn from(standing: control::Standing) -> Self {
        let role = match standing.role {
            Role::Starting => v1::Role::Starting,
            Role::Learner => v1::Role::Learner,
            Role::Follower => v1::Role::Follower,
            Role::Candidate => v1::Role::Candidate,
            Role::Leader => v1::Role::Leader,
        };
        Self { role: role.into(), term: standing.term, leader: standing.leader.unwrap_or_default() }
    }
}

impl From<control::GroupStatus> for v1::GroupStatus {
    fn from(group: control::GroupStatus) -> Self {
        let table =
            |table: control::TableStatus| v1::TableStatus { name: table.name, rows: table.rows, digest: table.digest };
        Self {
            group: group.group,
            standing: Some(group.standing.into()),
            first_index: group.first_index,
            last_index: group.last_index,
            committed_index: group.committed_index,
            applied_index: group.applied_index,
            lease_ms: group.lease_ms,
            tables: group.tables.into_iter().map(table).collect(),
        }
    }
}

impl From<control::Member> for v1::Member {
    fn from(member: control::Member) -> Self {
        let MemberAddress { label, host, grpc, rest, metrics } = member.address;
        let (grpc, rest, metrics) = (grpc.into(), rest.into(), metrics.into());
        Self {
            id: member.id.0,
            address: Some(v1::MemberAddress { label, host, grpc, rest, metrics }),
            voter: member.voter,
            incarnation: member.incarnation.map(|incarnation| incarnation.0),
            reachable: member.reachable,
        }
    }
}

fn view(view: View) -> v1::View {
    match view {
        View::Unknown => v1::View::Unknown,
        View::Up => v1::View::Up,
        View::Down => v1::View::Down,
    }
}
