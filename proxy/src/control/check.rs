//! What every server checks before it asks the replica: names, ranges and sizes, with the same words everywhere.

use std::{collections::HashSet, net::IpAddr};

use flow::{
    Bind, ControlTable, HealthKind, HealthSpec, MemberAddress, PoolId, PoolSpec, Request, ServerSpec, SessionId,
};

use super::{ControlError, Result};
use crate::config::{
    Host,
    rules::{self, CONNECTIONS_MAX, IN_A_ROW_MAX, INTERVAL_MS_MIN, Listeners, Wrong},
};

/// Longest name of a pool, server or instance, in characters.
pub const NAME_CHARS_MAX: usize = 63;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 256 << 10;
/// Most pools of a fleet.
pub const POOLS_MAX: usize = 1_024;
/// Most servers of a pool.
pub const SERVERS_MAX: usize = flow::MAX_SERVERS_PER_POOL;
/// Most rows of one page of a list.
pub const PAGE_ROWS_MAX: usize = 1_000;
/// Rows of a page where the caller does not say.
pub const PAGE_ROWS_DEFAULT: usize = 100;
/// Highest weight of a server.
pub const WEIGHT_MAX: u32 = 65_535;
/// Longest time of any setting: a year.
pub const MILLIS_MAX: u64 = 366 * 24 * 3_600 * 1_000;

/// Checks a whole set of pools as [`super::Control::apply`] takes it.
pub fn check_pools(pools: &[PoolSpec]) -> Result<()> {
    if pools.len() > POOLS_MAX {
        return invalid(format!("{} pools, at most {POOLS_MAX} are possible", pools.len()));
    }
    let mut names = HashSet::new();
    let mut binds = HashSet::new();
    for pool in pools {
        check_pool(pool)?;
        if !names.insert(pool.name.as_str()) {
            return invalid(format!("two pools are called {:?}", pool.name));
        }
        let udp = pool.protocol == flow::Protocol::Udp;
        if !binds.insert((udp, bind_text(pool.bind))) {
            return invalid(format!("pool {:?}: another pool binds {} too", pool.name, bind_text(pool.bind)));
        }
    }
    Ok(())
}

/// Checks what only the fleet knows of pools: how long its leases are, and where it listens itself.
pub fn check_for_fleet(control: &ControlTable, pools: &[PoolSpec]) -> Result<()> {
    let Some(birth) = control.birth() else {
        return Err(ControlError::Unavailable("this instance is starting".to_owned()));
    };
    for pool in pools {
        hold(&pool.name, "pin_ttl", rules::check_pin_ttl(birth.lease_ms, pool.pin_ttl_ms))?;
    }
    let mut listeners = instances(control);
    for pool in pools {
        let what = || format!("pool[{}].bind", pool.name);
        for host in hosts(control, pool.bind) {
            let port = port(pool.bind);
            if let Some(taken) = listeners.at(&host, port) {
                return invalid(format!(
                    "pool {:?}: bind: port {port} at {host} is taken by {taken}; choose another port",
                    pool.name
                ));
            }
            listeners.add(host, port, what());
        }
    }
    for pool in pools {
        pool.servers.iter().try_for_each(|server| same_version(control, pool, server))?;
    }
    pools.iter().flat_map(|pool| &pool.servers).try_for_each(|server| elsewhere(&listeners, server))
}

/// Checks what only the fleet knows of a server that is to come to `pool`: it is none of the fleet's own listeners, and
/// of the clients' IP version where it is to see their addresses.
pub fn check_newcomer(control: &ControlTable, pool: PoolId, server: &ServerSpec) -> Result<()> {
    if let Some(pool) = control.pool(pool) {
        same_version(control, &pool.spec, server)?;
    }
    let mut listeners = instances(control);
    for (_, pool) in control.pools() {
        for host in hosts(control, pool.spec.bind) {
            listeners.add(host, port(pool.spec.bind), format!("pool[{}].bind", pool.spec.name));
        }
    }
    elsewhere(&listeners, server)
}

/// Checks a server as [`flow::ServerChange::Add`] takes it.
pub fn check_server(server: &ServerSpec) -> Result<()> {
    check_name("server", &server.name)?;
    if server.port == 0 {
        return invalid(format!("server {:?}: port 0 is no port", server.name));
    }
    if server.weight > WEIGHT_MAX {
        return invalid(format!("server {:?}: weight {} is above {WEIGHT_MAX}", server.name, server.weight));
    }
    match rules::usable(server.address) {
        Ok(_) => Ok(()),
        Err(problem) => {
            invalid(format!("server {:?}: {} is no address of a server: {problem}", server.name, server.address))
        }
    }
}

/// Checks a name of a pool, server or instance.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(plain) {
        return invalid(format!("{what} name {name:?}: use 1 to {NAME_CHARS_MAX} characters of a-z A-Z 0-9 - _ ."));
    }
    Ok(())
}

/// Checks the address of an instance that is to be a member.
pub fn check_member(member: &MemberAddress) -> Result<()> {
    check_name("instance", &member.label)?;
    if let Err(wrong) = rules::parse_host(&member.host) {
        return invalid(format!("instance {:?}: address: {wrong}", member.label));
    }
    for (name, port) in [("grpc", member.grpc), ("rest", member.rest), ("metrics", member.metrics)] {
        if port == 0 {
            return invalid(format!("instance {:?}: {name} port 0 cannot be reached", member.label));
        }
    }
    Ok(())
}

/// Checks a key.
pub fn check_key(key: &str) -> Result<()> {
    match key.len() {
        0 => invalid("the key is empty".into()),
        1..=KEY_BYTES_MAX => Ok(()),
        length => invalid(format!("the key has {length} bytes, at most {KEY_BYTES_MAX} are possible")),
    }
}

/// Checks a value.
pub fn check_value(value: &[u8]) -> Result<()> {
    match value.len() {
        0..=VALUE_BYTES_MAX => Ok(()),
        length => invalid(format!("the value has {length} bytes, at most {VALUE_BYTES_MAX} are possible")),
    }
}

/// The address of a client as a path or message gives it.
pub fn parse_client(text: &str) -> Result<IpAddr> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => invalid(format!("{text:?} is not an IP address of a client")),
    }
}

/// How many rows a caller gets who asks for `limit`.
pub fn page_rows(limit: Option<u64>) -> Result<usize> {
    match limit.map(usize::try_from) {
        None => Ok(PAGE_ROWS_DEFAULT),
        Some(Ok(0)) | Some(Err(_)) => invalid(format!("limit: 1 to {PAGE_ROWS_MAX}")),
        Some(Ok(rows)) if rows > PAGE_ROWS_MAX => invalid(format!("limit {rows}: 1 to {PAGE_ROWS_MAX}")),
        Some(Ok(rows)) => Ok(rows),
    }
}

/// A bind as the configuration writes it: `":port"` or `"ip:port"`.
#[must_use]
pub fn bind_text(bind: Bind) -> String {
    match bind {
        Bind::Own(port) => format!(":{port}"),
        Bind::Vip(address) => address.to_string(),
    }
}

/// Reads a prefix of addresses, `10.0.0.0/8`; an address alone is all of it.
///
/// # Errors
/// If it is none.
pub fn parse_prefix(text: &str) -> Result<(IpAddr, u8)> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let prefix = address.parse::<IpAddr>().ok().and_then(|address| {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Some(whole), |length| length.parse().ok().filter(|length| *length <= whole))?;
        Some((address, length))
    });
    prefix.map_or_else(|| invalid(format!("{text:?} is no prefix: they read 10.0.0.0/8 or 2001:db8::/32")), Ok)
}

/// Reads what [`bind_text`] writes.
pub fn parse_bind(text: &str) -> Result<Bind> {
    let bind = match text.strip_prefix(':') {
        Some(port) => port.parse().ok().map(Bind::Own),
        None => text.parse().ok().map(Bind::Vip),
    };
    match bind {
        Some(bind) => Ok(bind),
        None => invalid(format!("bind {text:?}: \":port\" or \"ip:port\" is expected")),
    }
}

fn check_pool(pool: &PoolSpec) -> Result<()> {
    check_name("pool", &pool.name)?;
    let name = &pool.name;
    if port(pool.bind) == 0 {
        return invalid(format!("pool {name:?}: port 0 cannot be bound on every instance"));
    }
    hold(name, "protocol", rules::check_protocol(pool.protocol))?;
    hold(name, "send_proxy", rules::check_send_proxy(pool.protocol, pool.send_proxy))?;
    if !(1..=CONNECTIONS_MAX).contains(&pool.max_connections) {
        return invalid(format!("pool {name:?}: max_connections {}: 1 to {CONNECTIONS_MAX}", pool.max_connections));
    }
    for (key, value) in [
        ("pin_ttl", pool.pin_ttl_ms),
        ("decide_timeout", pool.decide_timeout_ms),
        ("retry_for", pool.retry_for_ms),
        ("connect_timeout", pool.connect_timeout_ms),
        ("idle_timeout", pool.idle_timeout_ms),
    ] {
        check_millis(name, key, value)?;
    }
    check_health(name, &pool.health)?;
    if pool.servers.len() > SERVERS_MAX {
        return invalid(format!("pool {name:?}: {} servers, at most {SERVERS_MAX}", pool.servers.len()));
    }
    let (mut servers, mut addresses) = (HashSet::new(), HashSet::new());
    for server in &pool.servers {
        check_server(server)?;
        if !servers.insert(server.name.as_str()) {
            return invalid(format!("pool {name:?}: two servers are called {:?}", server.name));
        }
        if !addresses.insert(server.socket_address()) {
            return invalid(format!("pool {name:?}: two servers are at {}", server.socket_address()));
        }
    }
    Ok(())
}

fn check_health(pool: &str, health: &HealthSpec) -> Result<()> {
    check_millis(pool, "health.interval", health.interval_ms)?;
    check_millis(pool, "health.timeout", health.timeout_ms)?;
    if health.interval_ms < INTERVAL_MS_MIN {
        return invalid(format!(
            "pool {pool:?}: health.interval of {} ms; at least {INTERVAL_MS_MIN} ms",
            health.interval_ms
        ));
    }
    hold(pool, "health.timeout", rules::check_timeout(health.interval_ms, health.timeout_ms))?;
    for (key, count) in [("rise", health.rise), ("fall", health.fall)] {
        if !(1..=IN_A_ROW_MAX).contains(&count) {
            return invalid(format!("pool {pool:?}: health.{key} {count}: at least 1, at most {IN_A_ROW_MAX}"));
        }
    }
    if let HealthKind::Http { path, expect } = &health.kind {
        let printable = path.bytes().all(|b| b.is_ascii_graphic());
        if !path.starts_with('/') || !printable {
            return invalid(format!("pool {pool:?}: health.path {path:?} must begin with / and hold no space"));
        }
        if expect.is_empty() || expect.iter().any(|(low, high)| *low < 100 || high > &599 || low > high) {
            return invalid(format!("pool {pool:?}: health.expect needs statuses from 100 to 599"));
        }
    }
    Ok(())
}

fn check_millis(pool: &str, key: &str, millis: u64) -> Result<()> {
    if (1..=MILLIS_MAX).contains(&millis) {
        return Ok(());
    }
    invalid(format!("pool {pool:?}: {key} of {millis} ms; 1 ms to a year is possible"))
}

/// A rule that the file follows too.
fn hold(pool: &str, key: &str, rule: std::result::Result<(), Wrong>) -> Result<()> {
    rule.or_else(|wrong| invalid(format!("pool {pool:?}: {key}: {wrong}")))
}

/// The ports of the fleet's instances.
fn instances(control: &ControlTable) -> Listeners<String> {
    let mut listeners = Listeners::new();
    for (_, member) in control.members() {
        let MemberAddress { label, host, grpc, rest, metrics } = &member.address;
        for (key, port) in [("grpc", grpc), ("rest", rest), ("metrics", metrics)] {
            listeners.add(host_of(host), *port, format!("fleet.instance[{label}].{key}"));
        }
    }
    listeners
}

/// Where a pool that binds so listens, each address once.
fn hosts(control: &ControlTable, bind: Bind) -> HashSet<Host> {
    match bind {
        Bind::Own(_) => control.members().map(|(_, member)| host_of(&member.address.host)).collect(),
        Bind::Vip(address) => HashSet::from([Host::Ip(address.ip())]),
    }
}

/// A server of a transparent pool is of the IP version of every address where the pool listens.
fn same_version(control: &ControlTable, pool: &PoolSpec, server: &ServerSpec) -> Result<()> {
    if !pool.transparent {
        return Ok(());
    }
    let key = format!("server[{}].address", server.name);
    hosts(control, pool.bind)
        .iter()
        .try_for_each(|entrance| hold(&pool.name, &key, rules::check_transparent(entrance, server.address)))
}

fn host_of(text: &str) -> Host {
    rules::parse_host(text).unwrap_or_else(|_| Host::Name(text.to_owned()))
}

fn port(bind: Bind) -> u16 {
    match bind {
        Bind::Own(port) => port,
        Bind::Vip(address) => address.port(),
    }
}

fn elsewhere(listeners: &Listeners<String>, server: &ServerSpec) -> Result<()> {
    match listeners.at(&Host::Ip(server.address), server.port) {
        None => Ok(()),
        Some(taken) => invalid(format!(
            "server {:?}: {} is the fleet's own {taken}; write the server's address and port",
            server.name,
            server.socket_address()
        )),
    }
}

/// The request of a session that a change is, if it is one.
///
/// # Errors
/// If only a part of it is given, or it says that it was answered.
pub fn check_request(
    session: Option<u64>,
    sequence: Option<u64>,
    answered_below: Option<u64>,
) -> Result<Option<Request>> {
    let (session, sequence) = match (session, sequence) {
        (Some(session), Some(sequence)) => (SessionId(session), sequence),
        (None, None) if answered_below.is_none() => return Ok(None),
        _ => return invalid("a request of a session has both a session and a sequence".to_owned()),
    };
    let answered_below = answered_below.unwrap_or(0);
    if answered_below > sequence {
        return invalid(format!(
            "answered_below is {answered_below}, and the request is {sequence}: it was answered then"
        ));
    }
    Ok(Some(Request { session, sequence, answered_below }))
}

fn invalid<T>(text: String) -> Result<T> {
    Err(ControlError::Invalid(text))
}

#[cfg(test)]
mod tests;
