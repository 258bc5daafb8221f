//! Pools in JSON: the words of the configuration file, times in milliseconds; what was read may be sent back.

use std::net::IpAddr;

use flow::{Balance, Commit, HealthKind, HealthSpec, OnIsolation, PoolSpec, Protocol, ServerSpec, ServerState};
use serde::{Deserialize, Serialize};

use super::json::{VotesJson, view_text};
use crate::control::{
    ControlError, PoolStatus,
    check::{bind_text, parse_bind},
};

/// Weight of a server where nothing is said.
pub const WEIGHT_DEFAULT: u32 = 100;

/// A pool. `pins` and `connections` are what is known of it: answered, and ignored where a pool is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolJson {
    /// Its name.
    pub name: String,
    /// `":port"` or `"ip:port"`.
    pub bind: String,
    /// `tcp`, `http` or `udp`.
    pub protocol: String,
    /// `source-hash`, `round-robin` or `least-connections`.
    pub balance: String,
    /// `first-contact`.
    pub commit: String,
    /// How long a pin outlives its last use.
    pub pin_ttl_ms: u64,
    /// `refuse` or `hash`.
    pub on_isolation: String,
    /// How long a new connection waits for a choice.
    pub decide_timeout_ms: u64,
    /// How long a refused connection waits for a settled choice.
    pub retry_for_ms: u64,
    /// How long a connect to a server may take.
    pub connect_timeout_ms: u64,
    /// How long a connection may be silent.
    pub idle_timeout_ms: u64,
    /// Most connections per instance.
    pub max_connections: u32,
    /// Whether servers are sent a PROXY protocol v2 header.
    pub send_proxy: bool,
    /// Whether servers see the client's own address.
    #[serde(default)]
    pub transparent: bool,
    /// How servers are checked.
    pub health: HealthJson,
    /// The servers.
    pub servers: Vec<ServerJson>,
    /// How many clients are pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pins: Option<u64>,
    /// Connections of the asked instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
}

/// How servers are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthJson {
    /// `tcp` or `http`.
    #[serde(rename = "type")]
    pub kind: String,
    /// From check to check.
    pub interval_ms: u64,
    /// How long a check may take.
    pub timeout_ms: u64,
    /// Successes that make it up.
    pub rise: u32,
    /// Failures that make it down.
    pub fall: u32,
    /// What is asked for (`http`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What counts as success (`http`): `"200"` or `"200-399"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<String>,
}

/// A server. `id`, `verdict`, `votes` and `pins` are what is known of it: answered, and ignored where one is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerJson {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share.
    #[serde(default = "weight_default")]
    pub weight: u32,
    /// `enabled` or `draining`.
    #[serde(default = "state_default")]
    pub state: String,
    /// 16 hexadecimal digits: its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `unknown`, `up` or `down`: the fleet's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// What each instance says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub votes: Option<VotesJson>,
    /// How many clients are pinned to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pins: Option<u64>,
}

impl From<&PoolSpec> for PoolJson {
    fn from(spec: &PoolSpec) -> Self {
        Self {
            name: spec.name.clone(),
            bind: bind_text(spec.bind),
            protocol: protocol_text(spec.protocol).into(),
            balance: balance_text(spec.balance).into(),
            commit: commit_text(spec.commit).into(),
            pin_ttl_ms: spec.pin_ttl_ms,
            on_isolation: isolation_text(spec.on_isolation).into(),
            decide_timeout_ms: spec.decide_timeout_ms,
            retry_for_ms: spec.retry_for_ms,
            connect_timeout_ms: spec.connect_timeout_ms,
            idle_timeout_ms: spec.idle_timeout_ms,
            max_connections: spec.max_connections,
            send_proxy: spec.send_proxy,
            transparent: spec.transparent,
            health: (&spec.health).into(),
            servers: spec.servers.iter().map(Into::into).collect(),
            pins: None,
            connections: None,
        }
    }
}

impl From<&HealthSpec> for HealthJson {
    fn from(health: &HealthSpec) -> Self {
        let (kind, path, expect) = match &health.kind {
            HealthKind::Tcp => ("tcp", None, Vec::new()),
            HealthKind::Http { path, expect } => {
                ("http", Some(path.clone()), expect.iter().copied().map(range_text).collect())
            }
        };
        Self {
            kind: kind.into(),
            interval_ms: health.interval_ms,
            timeout_ms: health.timeout_ms,
            rise: health.rise,
            fall: health.fall,
            path,
            expect,
        }
    }
}

impl From<&ServerSpec> for ServerJson {
    fn from(server: &ServerSpec) -> Self {
        Self {
            name: server.name.clone(),
            address: server.address,
            port: server.port,
            weight: server.weight,
            state: state_text(server.state).into(),
            id: None,
            verdict: None,
            votes: None,
            pins: None,
        }
    }
}

impl From<PoolStatus> for PoolJson {
    fn from(status: PoolStatus) -> Self {
        let mut pool = Self::from(&status.spec);
        pool.pins = Some(status.pins);
        pool.connections = Some(status.connections);
        for (server, known) in pool.servers.iter_mut().zip(status.servers) {
            server.id = Some(format!("{:016x}", known.backend.0));
            server.verdict = Some(view_text(known.verdict).into());
            let vote = |vote: crate::control::Vote| (vote.instance, view_text(vote.view).to_owned());
            server.votes = Some(known.votes.into_iter().map(vote).collect());
            server.pins = Some(known.pins);
        }
        pool
    }
}

impl TryFrom<PoolJson> for PoolSpec {
    type Error = ControlError;

    fn try_from(pool: PoolJson) -> Result<Self, ControlError> {
        Ok(Self {
            bind: parse_bind(&pool.bind)?,
            protocol: parse_protocol(&pool.protocol)?,
            balance: parse_balance(&pool.balance)?,
            commit: parse_commit(&pool.commit)?,
            pin_ttl_ms: pool.pin_ttl_ms,
            on_isolation: parse_isolation(&pool.on_isolation)?,
            decide_timeout_ms: pool.decide_timeout_ms,
            retry_for_ms: pool.retry_for_ms,
            connect_timeout_ms: pool.connect_timeout_ms,
            idle_timeout_ms: pool.idle_timeout_ms,
            max_connections: pool.max_connections,
            send_proxy: pool.send_proxy,
            transparent: pool.transparent,
            health: pool.health.try_into()?,
            servers: pool.servers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            name: pool.name,
        })
    }
}

impl TryFrom<HealthJson> for HealthSpec {
    type Error = ControlError;

    fn try_from(health: HealthJson) -> Result<Self, ControlError> {
        let kind = match (health.kind.as_str(), health.path) {
            ("tcp", None) if health.expect.is_empty() => HealthKind::Tcp,
            ("tcp", _) => return Err(ControlError::Invalid("health: type tcp takes no path and no expect".into())),
            ("http", Some(path)) => {
                let expect = health.expect.iter().map(|text| parse_range(text)).collect::<Result<_, _>>()?;
                HealthKind::Http { path, expect }
            }
            ("http", None) => return Err(ControlError::Invalid("health: type http needs a path".into())),
            (other, _) => return Err(unknown_word("health.type", other, &["tcp", "http"])),
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

impl TryFrom<ServerJson> for ServerSpec {
    type Error = ControlError;

    fn try_from(server: ServerJson) -> Result<Self, ControlError> {
        Ok(Self {
            address: server.address.to_canonical(),
            port: server.port,
            weight: server.weight,
            state: parse_state(&server.state)?,
            name: server.name,
        })
    }
}

macro_rules! words {
    ($write:ident, $parse:ident, $type:ty, $key:literal, $($variant:path = $word:literal),+) => {
        fn $write(value: $type) -> &'static str {
            match value { $($variant => $word),+ }
        }

        fn $parse(word: &str) -> Result<$type, ControlError> {
            match word {
                $($word => Ok($variant),)+
                other => Err(unknown_word($key, other, &[$($word),+])),
            }
        }
    };
}

words!(
    protocol_text,
    parse_protocol,
    Protocol,
    "protocol",
    Protocol::Tcp = "tcp",
    Protocol::Http = "http",
    Protocol::Udp = "udp"
);
words!(
    balance_text,
    parse_balance,
    Balance,
    "balance",
    Balance::SourceHash = "source-hash",
    Balance::RoundRobin = "round-robin",
    Balance::LeastConnections = "least-connections"
);
words!(commit_text, parse_commit, Commit, "commit", Commit::FirstContact = "first-contact");
words!(
    isolation_text,
    parse_isolation,
    OnIsolation,
    "on_isolation",
    OnIsolation::Refuse = "refuse",
    OnIsolation::Hash = "hash"
);
words!(
    state_text,
    parse_state,
    ServerState,
    "state",
    ServerState::Enabled = "enabled",
    ServerState::Draining = "draining"
);

fn unknown_word(key: &str, word: &str, possible: &[&str]) -> ControlError {
    ControlError::Invalid(format!("{key} {word:?}: {} is possible", possible.join(", ")))
}

fn range_text((low, high): (u16, u16)) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

fn parse_range(text: &str) -> Result<(u16, u16), ControlError> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (low.parse(), high.parse()) {
        (Ok(low), Ok(high)) => Ok((low, high)),
        _ => Err(ControlError::Invalid(format!("health.expect {text:?}: \"200\" or \"200-399\" is expected"))),
    }
}

fn weight_default() -> u32 {
    WEIGHT_DEFAULT
}

fn state_default() -> String {
    state_text(ServerState::Enabled).into()
}
