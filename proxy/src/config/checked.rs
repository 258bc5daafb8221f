//! The checked side: what a good file means, and the checks that concern the file as a whole.

use std::{collections::HashMap, fmt, net::IpAddr, ops::Range, path::PathBuf, time::Duration};

use flow::{Bind, OnIsolation, PoolSpec};
use toml::{Spanned, de::DeTable};

use super::{
    error::{Notes, Wrong},
    fleet, pool,
    raw::{Found, Section},
    rules::{Listeners, check_pin_ttl, check_transparent},
    tls::TlsConfig,
    vip::{self, VipConfig},
};

/// A good configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The fleet and its instances.
    pub fleet: FleetConfig,
    /// The pools that seed the log, at least one, with unique names.
    pub pools: Vec<PoolSpec>,
    /// How VIPs are announced; without it nobody is told of them.
    pub vip: Option<VipConfig>,
}

/// `[fleet]`: who belongs together, and what all instances must hold alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetConfig {
    /// The fleet's name.
    pub name: String,
    /// Instance X keeps its replica in `data_dir/X`. A relative path starts at the working directory.
    pub data_dir: PathBuf,
    /// The instances in the file's order, at least one, with unique labels.
    pub instances: Vec<InstanceConfig>,
    /// How many groups share the pins. Chosen at the fleet's birth.
    pub groups: u32,
    /// How many groups share the flows that sniffers report; 0: the fleet takes none. Chosen at the fleet's birth.
    pub flow_groups: u32,
    /// How long an instance may answer after the leader last renewed its lease.
    pub lease: Duration,
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// How long a leader may be silent before an election begins.
    pub election_timeout: Duration,
    /// How long a leaving instance waits for its connections to end.
    pub drain_timeout: Duration,
    /// The most that one instance holds.
    pub limits: Limits,
    /// How instances prove to each other who they are; without it they believe each other.
    pub tls: Option<TlsConfig>,
}

/// `[fleet.limits]`: the most that one instance holds. Full means refuse and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pins of the whole fleet.
    pub max_pins: u64,
    /// Choices that wait for a commit.
    pub max_pending_choices: usize,
    /// Entries of each worker's LRU.
    pub cache_entries: usize,
    /// Connections carried for other instances at once.
    pub max_relays: usize,
    /// Bytes per second of a snapshot that is sent to a peer.
    pub max_snapshot_rate: u64,
    /// Bytes in the head of an HTTP request, request line included.
    pub max_header_bytes: usize,
    /// Fields in the head of an HTTP request.
    pub max_headers: usize,
    /// Requests at once on one HTTP/2 connection.
    pub max_h2_streams: u32,
    /// How long a client may take for a request's head, from its first byte.
    pub header_timeout: Duration,
    /// How long a new HTTP connection may stay silent before its first request.
    pub first_request_timeout: Duration,
    /// How long an HTTP connection may stay silent between two requests.
    pub keepalive_timeout: Duration,
    /// How long an HTTP client may take to take the next part of an answer.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pins: 10_000_000,
            max_pending_choices: 100_000,
            cache_entries: 65_536,
            max_relays: 1_024,
            max_snapshot_rate: 128 << 20,
            max_header_bytes: 32 * 1_024,
            max_headers: 100,
            max_h2_streams: 128,
            header_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
        }
    }
}

/// `[[fleet.instance]]`: one instance and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceConfig {
    /// Its name within the fleet.
    pub label: String,
    /// Where peers and API clients reach it.
    pub address: Host,
    /// Port of peers and of the gRPC API.
    pub grpc: u16,
    /// Port of the REST API and dashboard.
    pub rest: u16,
    /// Port of Prometheus metrics.
    pub metrics: u16,
}

/// An IP address, or a name that is resolved when it is needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, in small letters.
    Name(String),
}

impl Config {
    /// What an operator should know about a file that is good all the same.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        let count = self.fleet.instances.len();
        if count.is_multiple_of(2) {
            advice.push(format!(
                "{count} instances stand no more deaths ({}) than {} would; an odd number is better",
                (count - 1) / 2,
                count - 1
            ));
        }
        for pool in self.pools.iter().filter(|pool| pool.on_isolation == OnIsolation::Hash) {
            advice.push(format!(
                "pool {} has on_isolation = \"hash\": an instance that is cut off may send a client elsewhere",
                pool.name
            ));
        }
        for pool in &self.pools {
            let takes = |server: &flow::ServerSpec| server.weight > 0 && server.state == flow::ServerState::Enabled;
            if !pool.servers.iter().any(takes) {
                advice.push(format!("pool {} has no server that takes new clients", pool.name));
            }
            if let Some(server) = pool.servers.iter().find(|server| pool.transparent && self.is_own(server.address)) {
                advice.push(format!(
                    "pool {} is transparent, and server {} on an instance's own machine cannot answer clients elsewhere",
                    pool.name, server.name
                ));
            }
        }
        let has_vip = |pool: &PoolSpec| matches!(pool.bind, Bind::Vip(address) if !address.ip().is_unspecified());
        if self.vip.is_some() && !self.pools.iter().any(has_vip) {
            advice.push("[vip] announces nothing: no pool is bound to a VIP, as bind = \"192.0.2.1:80\"".to_owned());
        }
        advice
    }

    /// Whether an instance's machine has that address, as far as the file tells.
    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.fleet.instances.iter().any(|instance| instance.address == Host::Ip(address))
    }
}

impl FleetConfig {
    /// The instance called `label`.
    #[must_use]
    pub fn instance(&self, label: &str) -> Option<&InstanceConfig> {
        self.instances.iter().find(|instance| instance.label == label)
    }
}

impl InstanceConfig {
    /// `address:port`, as a client writes it.
    #[must_use]
    pub fn endpoint(&self, port: u16) -> String {
        match &self.address {
            Host::Ip(address) => std::net::SocketAddr::new(*address, port).to_string(),
            Host::Name(name) => format!("{name}:{port}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(address) => address.fmt(f),
            Host::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<_> = self.fleet.instances.iter().map(|instance| instance.label.as_str()).collect();
        write!(f, "fleet {}: {} ({})", self.fleet.name, count(labels.len(), "instance"), labels.join(", "))?;
        for pool in &self.pools {
            write!(f, "\npool {}", super::diff::summary(pool))?;
        }
        for advice in self.advice() {
            write!(f, "\nnote: {advice}")?;
        }
        Ok(())
    }
}

/// `1 server`, `2 servers`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Reads a whole document. `None` if anything was wrong enough to leave no value; `notes` has all that was.
pub(super) fn read<'d>(document: &'d Spanned<DeTable<'d>>, notes: &mut Notes<'_>) -> Option<Config> {
    let mut top = Section::top(document);
    let fleet = fleet::read(&mut top, notes);
    let pools = pool::read_all(&mut top, notes);
    let vip = vip::read(&mut top, notes);
    check_ports(&fleet.instances, &pools, notes);
    check_versions(&fleet.instances, &pools, notes);
    if let Some(lease) = &fleet.lease_ms {
        check_pin_ttls(*lease, &pools, notes);
    }
    top.finish(notes);
    let pools = pools.into_iter().map(|pool| pool.spec).collect::<Option<_>>()?;
    Some(Config { fleet: fleet.config?, pools, vip: vip? })
}

/// Every address and port may have one listener, and no server may be one of them: its connections would go round.
fn check_ports(instances: &[fleet::ReadInstance], pools: &[pool::ReadPool], notes: &mut Notes<'_>) {
    let mut listeners = Listeners::new();
    for instance in instances {
        let Some(host) = &instance.host else { continue };
        for port in &instance.ports {
            claim(&mut listeners, host, port.value, &port.path, &port.span, notes);
        }
    }
    for bind in pools.iter().filter_map(|pool| pool.bind.as_ref()) {
        match bind.value {
            Bind::Vip(address) => {
                claim(&mut listeners, &Host::Ip(address.ip()), address.port(), &bind.path, &bind.span, notes);
            }
            Bind::Own(port) => {
                let hosts = instances.iter().filter_map(|instance| instance.host.as_ref());
                for host in hosts {
                    if !claim(&mut listeners, host, port, &bind.path, &bind.span, notes) {
                        break;
                    }
                }
            }
        }
    }
    for server in pools.iter().flat_map(|pool| &pool.servers) {
        let Some(address) = &server.address else { continue };
        if let Some(taken) = listeners.at(&Host::Ip(address.value.ip()), address.value.port()) {
            let line = notes.place(&taken.span).line;
            let wrong = Wrong::new(
                format!("{} is the fleet's own {} (line {line})", address.value, taken.path),
                "write the server's address and port",
            );
            notes.add(&address.span, address.path.clone(), wrong);
        }
    }
}

/// Clients and servers of a transparent pool are of one IP version.
fn check_versions(instances: &[fleet::ReadInstance], pools: &[pool::ReadPool], notes: &mut Notes<'_>) {
    for pool in pools.iter().filter(|pool| pool.transparent) {
        let entrances: Vec<Host> = match pool.bind.as_ref().map(|bind| bind.value) {
            Some(Bind::Vip(address)) => vec![Host::Ip(address.ip())],
            Some(Bind::Own(_)) => instances.iter().filter_map(|instance| instance.host.clone()).collect(),
            None => Vec::new(),
        };
        for address in pool.servers.iter().filter_map(|server| server.address.as_ref()) {
            let checks = entrances.iter().map(|entrance| check_transparent(entrance, address.value.ip()));
            if let Err(wrong) = checks.collect::<Result<(), _>>() {
                notes.add(&address.span, address.path.clone(), wrong);
            }
        }
    }
}

/// What listens: its key, and where that is written.
struct Listener {
    path: String,
    span: Range<usize>,
}

/// Whether `path` may listen there; that it may not is noted.
fn claim(
    listeners: &mut Listeners<Listener>,
    host: &Host,
    port: u16,
    path: &str,
    span: &Range<usize>,
    notes: &mut Notes<'_>,
) -> bool {
    if let Some(taken) = listeners.at(host, port) {
        let wrong = if taken.path == path {
            Wrong::new(
                format!("port {port} would be bound twice at {host}, which two instances have as address"),
                "give each instance an address of its own",
            )
        } else {
            let line = notes.place(&taken.span).line;
            Wrong::new(format!("port {port} at {host} is taken by {} (line {line})", taken.path), "choose another port")
        };
        notes.add(span, path, wrong);
        return false;
    }
    listeners.add(host.clone(), port, Listener { path: path.to_owned(), span: span.clone() });
    true
}

fn check_pin_ttls(lease_ms: u64, pools: &[pool::ReadPool], notes: &mut Notes<'_>) {
    for pin_ttl in pools.iter().filter_map(|pool| pool.pin_ttl_ms.as_ref()) {
        if let Err(wrong) = check_pin_ttl(lease_ms, pin_ttl.value) {
            notes.add(&pin_ttl.span, pin_ttl.path.clone(), wrong);
        }
    }
}

/// Notes `found` if `seen` has its value already, with the place of the first.
pub(super) fn unique<T: Eq + std::hash::Hash + Clone + fmt::Display>(
    seen: &mut HashMap<T, (String, Range<usize>)>,
    found: &Found<T>,
    remedy: &str,
    notes: &mut Notes<'_>,
) {
    if let Some((path, span)) = seen.get(&found.value) {
        let line = notes.place(span).line;
        let problem = if *path == found.path {
            format!("{} is given in line {line} too", found.value)
        } else {
            format!("{} is given by {path} (line {line}) too", found.value)
        };
        notes.add(&found.span, found.path.clone(), Wrong::new(problem, remedy));
        return;
    }
    seen.insert(found.value.clone(), (found.path.clone(), found.span.clone()));
}
