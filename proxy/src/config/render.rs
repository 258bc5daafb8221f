//! Pools as text: the settings of a pool by key, and the TOML that reads back as the same pool.

use flow::{Bind, HealthKind, PoolSpec, ServerSpec};

use super::{pool, values};

/// A setting's value as a person reads it and as TOML writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// A text; TOML has it in quotes.
    Text(String),
    /// A number or truth value.
    Bare(String),
}

impl Shown {
    pub(super) fn plain(&self) -> &str {
        match self {
            Shown::Text(text) | Shown::Bare(text) => text,
        }
    }

    fn toml(&self) -> String {
        match self {
            Shown::Text(text) => quoted(text),
            Shown::Bare(text) => text.clone(),
        }
    }
}

/// `pool` as `[[pool]]` of a pool.toml, every key written out.
#[must_use]
pub fn render_pool(pool: &PoolSpec) -> String {
    let mut out = String::from("[[pool]]\n");
    write_keys(&mut out, [("name", Shown::Text(pool.name.clone()))].into_iter().chain(settings(pool)));
    out.push_str("\n[pool.health]\n");
    write_keys(&mut out, health_settings(pool));
    for server in &pool.servers {
        out.push_str("\n[[pool.server]]\n");
        let address = [
            ("name", Shown::Text(server.name.clone())),
            ("address", Shown::Text(server.address.to_string())),
            ("port", Shown::Bare(server.port.to_string())),
        ];
        write_keys(&mut out, address.into_iter().chain(server_settings(server)));
    }
    out
}

/// The keys of a pool but its name and tables.
pub(super) fn settings(pool: &PoolSpec) -> Vec<(&'static str, Shown)> {
    vec![
        ("bind", Shown::Text(bind_text(pool.bind))),
        ("protocol", word(&pool::PROTOCOLS, pool.protocol)),
        ("balance", word(&pool::BALANCES, pool.balance)),
        ("commit", word(&pool::COMMITS, pool.commit)),
        ("pin_ttl", duration(pool.pin_ttl_ms)),
        ("on_isolation", word(&pool::ISOLATIONS, pool.on_isolation)),
        ("decide_timeout", duration(pool.decide_timeout_ms)),
        ("retry_for", duration(pool.retry_for_ms)),
        ("connect_timeout", duration(pool.connect_timeout_ms)),
        ("idle_timeout", duration(pool.idle_timeout_ms)),
        ("max_connections", Shown::Bare(pool.max_connections.to_string())),
        ("send_proxy", Shown::Bare(pool.send_proxy.to_string())),
        ("transparent", Shown::Bare(pool.transparent.to_string())),
    ]
}

/// The keys of a pool's health table. `path` and `expect` are there for HTTP checks only.
pub(super) fn health_settings(pool: &PoolSpec) -> Vec<(&'static str, Shown)> {
    let health = &pool.health;
    let mut settings = match &health.kind {
        HealthKind::Tcp => vec![("type", Shown::Text("tcp".to_owned()))],
        HealthKind::Http { path, expect } => vec![
            ("type", Shown::Text("http".to_owned())),
            ("path", Shown::Text(path.clone())),
            ("expect", Shown::Text(values::statuses_text(expect))),
        ],
    };
    settings.extend([
        ("interval", duration(health.interval_ms)),
        ("timeout", duration(health.timeout_ms)),
        ("rise", Shown::Bare(health.rise.to_string())),
        ("fall", Shown::Bare(health.fall.to_string())),
    ]);
    settings
}

/// The keys of a server but those of its identity.
pub(super) fn server_settings(server: &ServerSpec) -> Vec<(&'static str, Shown)> {
    vec![("weight", Shown::Bare(server.weight.to_string())), ("state", word(&pool::STATES, server.state))]
}

/// A bind as the configuration writes it.
pub(super) fn bind_text(bind: Bind) -> String {
    match bind {
        Bind::Own(port) => format!(":{port}"),
        Bind::Vip(address) => address.to_string(),
    }
}

/// The word for `value`; each value of these types has one.
pub(super) fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> Shown {
    let word = words.iter().find(|(_, meaning)| *meaning == value).map_or("", |(word, _)| word);
    debug_assert!(!word.is_empty(), "every value has a word");
    Shown::Text(word.to_owned())
}

fn duration(millis: u64) -> Shown {
    Shown::Text(values::duration_text(millis))
}

fn write_keys(out: &mut String, keys: impl IntoIterator<Item = (&'static str, Shown)>) {
    for (key, value) in keys {
        out.push_str(key);
        out.push_str(" = ");
        out.push_str(&value.toml());
        out.push('\n');
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
