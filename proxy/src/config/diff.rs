//! What applying a file would change in the committed pools: what `rocinante apply` shows before it asks.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use flow::{PoolSpec, ServerSpec, ServerState};

use super::{
    checked::count,
    render::{self, Shown},
};

/// One thing that a file would change. Prints as one line: `+` comes, `-` goes, `~` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The file has a pool that is not committed.
    AddPool(PoolSpec),
    /// A committed pool is not in the file: it and all its pins go.
    RemovePool {
        /// Its name.
        pool: String,
        /// How many servers it has.
        servers: usize,
    },
    /// A setting of a pool has another value.
    ChangePool {
        /// The pool's name.
        pool: String,
        /// The key, `health.interval` for one of the health table.
        key: String,
        /// The committed value; `None` if the key did not apply.
        from: Option<String>,
        /// The file's value; `None` if the key does not apply.
        to: Option<String>,
    },
    /// The file has a server that is not committed.
    AddServer {
        /// The pool's name.
        pool: String,
        /// The server.
        server: ServerSpec,
    },
    /// A committed server is not in the file: its clients move.
    RemoveServer {
        /// The pool's name.
        pool: String,
        /// The server.
        server: ServerSpec,
    },
    /// A server has another address or port: another backend, the old one's clients move.
    ReplaceServer {
        /// The pool's name.
        pool: String,
        /// The server's name.
        server: String,
        /// Where it is by the log.
        from: SocketAddr,
        /// Where it is by the file.
        to: SocketAddr,
    },
    /// A setting of a server has another value.
    ChangeServer {
        /// The pool's name.
        pool: String,
        /// The server's name.
        server: String,
        /// The key.
        key: String,
        /// The committed value.
        from: String,
        /// The file's value.
        to: String,
    },
}

/// What has to change for the `committed` pools to be those of the `file`. Empty if they are equal but for order.
/// Pools and servers come in the file's order, then those that go in the committed order.
#[must_use]
pub fn diff(committed: &[PoolSpec], file: &[PoolSpec]) -> Vec<Difference> {
    let before: BTreeMap<&str, &PoolSpec> = committed.iter().map(|pool| (pool.name.as_str(), pool)).collect();
    let mut differences = Vec::new();
    for pool in file {
        match before.get(pool.name.as_str()) {
            None => differences.push(Difference::AddPool(pool.clone())),
            Some(old) => {
                diff_settings(old, pool, &mut differences);
                diff_servers(old, pool, &mut differences);
            }
        }
    }
    for old in committed.iter().filter(|old| !file.iter().any(|pool| pool.name == old.name)) {
        differences.push(Difference::RemovePool { pool: old.name.clone(), servers: old.servers.len() });
    }
    differences
}

fn diff_settings(old: &PoolSpec, new: &PoolSpec, differences: &mut Vec<Difference>) {
    let keys = |pool: &PoolSpec| -> Vec<(String, Shown)> {
        let own = render::settings(pool).into_iter().map(|(key, value)| (key.to_owned(), value));
        let health = render::health_settings(pool).into_iter().map(|(key, value)| (format!("health.{key}"), value));
        own.chain(health).collect()
    };
    let (old_keys, new_keys) = (keys(old), keys(new));
    let value_in = |keys: &[(String, Shown)], key: &str| {
        keys.iter().find(|(other, _)| other == key).map(|(_, value)| value.plain().to_owned())
    };
    let gone = old_keys.iter().filter(|(key, _)| value_in(&new_keys, key).is_none());
    for (key, _) in new_keys.iter().chain(gone) {
        let (from, to) = (value_in(&old_keys, key), value_in(&new_keys, key));
        if from != to {
            differences.push(Difference::ChangePool { pool: new.name.clone(), key: key.clone(), from, to });
        }
    }
}

fn diff_servers(old: &PoolSpec, new: &PoolSpec, differences: &mut Vec<Difference>) {
    let pool = || new.name.clone();
    let before: BTreeMap<&str, &ServerSpec> = old.servers.iter().map(|server| (server.name.as_str(), server)).collect();
    for server in &new.servers {
        let Some(old) = before.get(server.name.as_str()) else {
            differences.push(Difference::AddServer { pool: pool(), server: server.clone() });
            continue;
        };
        let (from, to) = (old.socket_address(), server.socket_address());
        if from != to {
            differences.push(Difference::ReplaceServer { pool: pool(), server: server.name.clone(), from, to });
        }
        let settings = render::server_settings(old).into_iter().zip(render::server_settings(server));
        for ((key, from), (_, to)) in settings.filter(|(from, to)| from != to) {
            differences.push(Difference::ChangeServer {
                pool: pool(),
                server: server.name.clone(),
                key: key.to_owned(),
                from: from.plain().to_owned(),
                to: to.plain().to_owned(),
            });
        }
    }
    for old in old.servers.iter().filter(|old| !new.servers.iter().any(|server| server.name == old.name)) {
        differences.push(Difference::RemoveServer { pool: pool(), server: old.clone() });
    }
}

/// A pool in one line: `web: tcp at :9001, source-hash, 4 servers (s1, s2, s3, s4)`.
pub(super) fn summary(pool: &PoolSpec) -> String {
    let names: Vec<_> = pool.servers.iter().map(|server| server.name.as_str()).collect();
    let names = match names.len() {
        0 => String::new(),
        1..=NAMES_SHOWN_MAX => format!(" ({})", names.join(", ")),
        _ => format!(" ({}, ...)", names[..NAMES_SHOWN_MAX].join(", ")),
    };
    format!(
        "{}: {} at {}, {}, {}{names}",
        pool.name,
        render::word(&super::pool::PROTOCOLS, pool.protocol).plain(),
        render::bind_text(pool.bind),
        render::word(&super::pool::BALANCES, pool.balance).plain(),
        count(pool.servers.len(), "server"),
    )
}

/// Most servers that a summary names.
const NAMES_SHOWN_MAX: usize = 8;

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::AddPool(pool) => write!(f, "+ pool {}", summary(pool)),
            Difference::RemovePool { pool, servers } => {
                write!(f, "- pool {pool} with {} and all its pins", count(*servers, "server"))
            }
            Difference::ChangePool { pool, key, from, to } => {
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
                write!(f, "~ {pool}: {key} {} -> {}", shown(from), shown(to))
            }
            Difference::AddServer { pool, server } => write!(f, "+ {pool}: server {}", ServerLine(server)),
            Difference::RemoveServer { pool, server } => {
                write!(f, "- {pool}: server {}: its clients move", ServerLine(server))
            }
            Difference::ReplaceServer { pool, server, from, to } => {
                write!(f, "~ {pool}: server {server} {from} -> {to}: a new identity, clients of the old one move")
            }
            Difference::ChangeServer { pool, server, key, from, to } => {
                write!(f, "~ {pool}: server {server} {key} {from} -> {to}")
            }
        }
    }
}

/// A server in a line: `s1 127.0.0.1:8887 weight 100`.
struct ServerLine<'s>(&'s ServerSpec);

impl fmt::Display for ServerLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.0;
        write!(f, "{} {} weight {}", server.name, server.socket_address(), server.weight)?;
        if server.state == ServerState::Draining {
            write!(f, " draining")?;
        }
        Ok(())
    }
}
