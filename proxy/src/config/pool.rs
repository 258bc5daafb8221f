//! Reads `[[pool]]`: where clients come in, how a server is chosen, which servers there are.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use flow::{
    Balance, Bind, Commit, HealthKind, HealthSpec, MAX_SERVERS_PER_POOL, OnIsolation, PoolSpec, Protocol, ServerSpec,
    ServerState,
};
use toml::de::DeValue;

use super::{
    checked::unique,
    error::{Notes, Wrong},
    raw::{Found, Section},
    rules::{self, CONNECTIONS_MAX, IN_A_ROW_MAX, INTERVAL_MS_MIN},
    values::{self, YEAR_MS},
};

/// Most pools that a file may have.
pub(super) const MAX_POOLS: usize = 1_024;

/// `protocol`.
pub(super) const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("http", Protocol::Http), ("udp", Protocol::Udp)];
/// `balance`.
pub(super) const BALANCES: [(&str, Balance); 3] = [
    ("source-hash", Balance::SourceHash),
    ("round-robin", Balance::RoundRobin),
    ("least-connections", Balance::LeastConnections),
];
/// `commit`.
pub(super) const COMMITS: [(&str, Commit); 1] = [("first-contact", Commit::FirstContact)];
/// `on_isolation`.
pub(super) const ISOLATIONS: [(&str, OnIsolation); 2] = [("refuse", OnIsolation::Refuse), ("hash", OnIsolation::Hash)];
/// `state` of a server.
pub(super) const STATES: [(&str, ServerState); 2] =
    [("enabled", ServerState::Enabled), ("draining", ServerState::Draining)];

/// `[[pool]]` as far as it could be read.
pub(super) struct ReadPool {
    /// `None` if something is missing or wrong.
    pub spec: Option<PoolSpec>,
    pub bind: Option<Found<Bind>>,
    pub pin_ttl_ms: Option<Found<u64>>,
    pub transparent: bool,
    pub servers: Vec<ReadServer>,
}

/// `[[pool.server]]` as far as it could be read.
pub(super) struct ReadServer {
    pub address: Option<Found<SocketAddr>>,
    spec: Option<ServerSpec>,
}

pub(super) fn read_all(top: &mut Section<'_>, notes: &mut Notes<'_>) -> Vec<ReadPool> {
    let Some(sections) = top.tables("pool", "name", notes) else { return Vec::new() };
    if sections.is_empty() {
        notes.add(top.span(), "pool", Wrong::new("missing", "write [[pool]] for each pool"));
    }
    if let Some(one_too_many) = sections.get(MAX_POOLS) {
        let wrong = Wrong::new(format!("{} pools", sections.len()), format!("write at most {MAX_POOLS}"));
        notes.add(one_too_many.span(), "pool", wrong);
    }
    let mut names = HashMap::new();
    sections.into_iter().map(|section| read_pool(section, &mut names, notes)).collect()
}

fn read_pool(mut section: Section<'_>, names: &mut Seen, notes: &mut Notes<'_>) -> ReadPool {
    let name = section.required("name", "\"web\"", values::name, notes);
    if let Some(name) = &name {
        unique(names, name, "give each pool a name of its own", notes);
    }
    let bind = section.required("bind", "\":9001\"", values::bind, notes);
    let protocol = section.or("protocol", Protocol::Tcp, protocol, notes);
    let balance = section.or("balance", Balance::SourceHash, |value| values::word(value, &BALANCES), notes);
    let commit = section.or("commit", Commit::FirstContact, |value| values::word(value, &COMMITS), notes);
    let pin_ttl_ms = section.optional("pin_ttl", Some(30 * 60 * 1_000), timeout, notes);
    let on_isolation = section.or("on_isolation", OnIsolation::Refuse, |value| values::word(value, &ISOLATIONS), notes);
    let decide_timeout_ms = section.or("decide_timeout", 1_000, timeout, notes);
    let retry_for_ms = section.or("retry_for", 1_000, timeout, notes);
    let connect_timeout_ms = section.or("connect_timeout", 1_000, timeout, notes);
    let idle_timeout_ms = section.or("idle_timeout", 10 * 60 * 1_000, timeout, notes);
    let max_connections =
        section.or("max_connections", 100_000, |value| values::integer_u32(value, 1..=CONNECTIONS_MAX), notes);
    let send_proxy = section.optional("send_proxy", Some(false), values::boolean, notes);
    if let (Some(protocol), Some(Found { value, path, span })) = (protocol, &send_proxy)
        && let Err(wrong) = rules::check_send_proxy(protocol, *value)
    {
        notes.add(span, path.clone(), wrong);
    }
    let transparent = section.or("transparent", false, values::boolean, notes);
    let health = read_health(&mut section, notes);
    let servers = read_servers(&mut section, notes);
    section.finish(notes);

    let server_specs: Option<Vec<_>> = servers.iter().map(|server| server.spec.clone()).collect();
    let spec = || {
        Some(PoolSpec {
            name: name?.value,
            bind: bind.as_ref()?.value,
            protocol: protocol?,
            balance: balance?,
            commit: commit?,
            pin_ttl_ms: pin_ttl_ms.as_ref()?.value,
            on_isolation: on_isolation?,
            decide_timeout_ms: decide_timeout_ms?,
            retry_for_ms: retry_for_ms?,
            connect_timeout_ms: connect_timeout_ms?,
            idle_timeout_ms: idle_timeout_ms?,
            max_connections: max_connections?,
            send_proxy: send_proxy?.value,
            transparent: transparent?,
            health: health?,
            servers: server_specs?,
        })
    };
    ReadPool { spec: spec(), bind, pin_ttl_ms, transparent: transparent == Some(true), servers }
}

/// Texts that must be unique, with the path and place of the first.
type Seen = HashMap<String, (String, Range<usize>)>;

fn timeout(value: &DeValue<'_>) -> Result<u64, Wrong> {
    values::duration(value, 1..=YEAR_MS)
}

fn protocol(value: &DeValue<'_>) -> Result<Protocol, Wrong> {
    let built = |(_, protocol): &(&str, Protocol)| *protocol != Protocol::Udp;
    match value.as_str() {
        Some("udp") => rules::check_protocol(Protocol::Udp).map(|()| Protocol::Udp),
        _ => values::word(value, &PROTOCOLS.into_iter().filter(built).collect::<Vec<_>>()),
    }
}

fn read_health(pool: &mut Section<'_>, notes: &mut Notes<'_>) -> Option<HealthSpec> {
    let given = pool.has("health");
    let Some(mut section) = pool.table("health", notes) else {
        let kind = HealthKind::Tcp;
        return (!given).then_some(HealthSpec { kind, interval_ms: 1_000, timeout_ms: 500, rise: 2, fall: 2 });
    };
    let is_http = section.or("type", false, |value| values::word(value, &[("tcp", false), ("http", true)]), notes);
    let interval_ms = section.or("interval", 1_000, |value| values::duration(value, INTERVAL_MS_MIN..=YEAR_MS), notes);
    // Without a timeout of its own a check may take half a second, or the whole of a shorter interval.
    let default_timeout = interval_ms.map_or(500, |interval| interval.min(500));
    let timeout_ms = section.optional("timeout", Some(default_timeout), timeout, notes);
    if let (Some(interval), Some(timeout)) = (interval_ms, &timeout_ms)
        && let Err(wrong) = rules::check_timeout(interval, timeout.value)
    {
        notes.add(&timeout.span, timeout.path.clone(), wrong);
    }
    let rise = section.or("rise", 2, |value| values::integer_u32(value, 1..=IN_A_ROW_MAX), notes);
    let fall = section.or("fall", 2, |value| values::integer_u32(value, 1..=IN_A_ROW_MAX), notes);
    let path = section.optional("path", None, values::http_path, notes);
    let expect = section.optional("expect", None, values::statuses, notes);
    let path_given = section.has("path");
    let expect_given = section.has("expect");
    if is_http == Some(false) {
        let places = [path.as_ref().map(place), expect.as_ref().map(place)];
        for (path, span) in places.into_iter().flatten() {
            let wrong = Wrong::new("only for checks of type \"http\"", "write type = \"http\", or leave it out");
            notes.add(&span, path, wrong);
        }
    }
    section.finish(notes);
    let kind = || {
        Some(match is_http? {
            false => HealthKind::Tcp,
            true => HealthKind::Http {
                path: if path_given { path?.value } else { "/".to_owned() },
                expect: if expect_given { expect?.value } else { vec![(200, 399)] },
            },
        })
    };
    Some(HealthSpec {
        kind: kind()?,
        interval_ms: interval_ms?,
        timeout_ms: timeout_ms?.value,
        rise: rise?,
        fall: fall?,
    })
}

fn place<T>(found: &Found<T>) -> (String, Range<usize>) {
    (found.path.clone(), found.span.clone())
}

fn read_servers(pool: &mut Section<'_>, notes: &mut Notes<'_>) -> Vec<ReadServer> {
    let Some(sections) = pool.tables("server", "name", notes) else { return Vec::new() };
    if let Some(one_too_many) = sections.get(MAX_SERVERS_PER_POOL) {
        let wrong = Wrong::new(format!("{} servers", sections.len()), format!("write at most {MAX_SERVERS_PER_POOL}"));
        notes.add(one_too_many.span(), pool.path_of("server"), wrong);
    }
    let (mut names, mut addresses) = (HashMap::new(), HashMap::new());
    sections.into_iter().map(|section| read_server(section, &mut names, &mut addresses, notes)).collect()
}

fn read_server(
    mut section: Section<'_>,
    names: &mut Seen,
    addresses: &mut HashMap<SocketAddr, (String, Range<usize>)>,
    notes: &mut Notes<'_>,
) -> ReadServer {
    let name = section.required("name", "\"s1\"", values::name, notes);
    if let Some(name) = &name {
        unique(names, name, "give each server of a pool a name of its own", notes);
    }
    let address: Option<Found<IpAddr>> = section.required("address", "\"127.0.0.1\"", values::server_address, notes);
    let port = section.required("port", "8887", values::port, notes);
    let weight = section.or("weight", 100, |value| values::integer_u32(value, 0..=65_535), notes);
    let state = section.or("state", ServerState::Enabled, |value| values::word(value, &STATES), notes);
    section.finish(notes);
    let socket_address = match (&address, &port) {
        (Some(address), Some(port)) => {
            let value = SocketAddr::new(address.value, port.value);
            let found = Found { value, path: address.path.clone(), span: address.span.clone() };
            unique(addresses, &found, "list each server once", notes);
            Some(found)
        }
        _ => None,
    };
    let spec = || {
        Some(ServerSpec {
            name: name?.value,
            address: address?.value,
            port: port?.value,
            weight: weight?,
            state: state?,
        })
    };
    ReadServer { address: socket_address, spec: spec() }
}
