//! A fleet of real processes, driven through its command line, its REST API and its pools.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use super::{
    backend::{Backend, Manner, ask},
    kit::{Directory, Permit, Process, ROCINANTE, Ran, http, rocinante, wait_for, wait_until},
};

/// What a fleet is made of.
pub struct Plan {
    pub size: usize,
    /// More lines of `[fleet]`.
    pub fleet: String,
    /// More lines of the pool.
    pub pool: String,
    pub manner: Manner,
    pub servers: usize,
    pub ipv6: bool,
}

impl Default for Plan {
    fn default() -> Self {
        let (fleet, pool) = (String::new(), String::new());
        Self { size: 3, fleet, pool, manner: Manner::Tcp, servers: 3, ipv6: false }
    }
}

/// An instance: where it is, and its process if it runs.
pub struct Instance {
    pub label: String,
    pub grpc: SocketAddr,
    pub rest: SocketAddr,
    pub metrics: SocketAddr,
    pub pool: SocketAddr,
    pub process: Option<Process>,
}

/// The fleet. The order of the fields is the order of their end.
pub struct Fleet {
    pub instances: Vec<Instance>,
    pub servers: Vec<Backend>,
    pub directory: Directory,
    _permit: Permit,
}

impl Fleet {
    /// A fleet of which no instance runs yet.
    pub fn new(plan: Plan) -> Self {
        let permit = Permit::take();
        let directory = Directory::new();
        let servers: Vec<Backend> =
            (1..=plan.servers).map(|number| Backend::start(&format!("s{number}"), plan.manner)).collect();
        let instances = places(plan.size, plan.ipv6);
        let fleet = Self { instances, servers, directory, _permit: permit };
        fs::write(fleet.config(), fleet.text(&plan)).unwrap();
        fleet
    }

    /// A fleet of which all instances run and are ready, and whose servers are up.
    pub fn started(plan: Plan) -> Self {
        let mut fleet = Self::new(plan);
        fleet.start_all();
        fleet
    }

    pub fn start_all(&mut self) {
        for place in 0..self.instances.len() {
            self.start(place);
        }
        for place in 0..self.instances.len() {
            self.ready(place);
        }
        wait_until("all servers are up", || self.servers_up(0));
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("pool.toml")
    }

    /// Where an instance keeps its replica.
    pub fn data(&self, place: usize) -> PathBuf {
        self.directory.path().join("data").join(&self.instances[place].label)
    }

    fn text(&self, plan: &Plan) -> String {
        let mut text = format!("[fleet]\nname = \"bad-days\"\ndata_dir = \"data\"\ngroups = 4\n{}\n", plan.fleet);
        for instance in &self.instances {
            text += &format!(
                "\n[[fleet.instance]]\nlabel = \"{}\"\naddress = \"{}\"\ngrpc = {}\nrest = {}\nmetrics = {}\n",
                instance.label,
                instance.grpc.ip(),
                instance.grpc.port(),
                instance.rest.port(),
                instance.metrics.port()
            );
        }
        let protocol = if plan.manner == Manner::Http { "http" } else { "tcp" };
        let port = self.instances[0].pool.port();
        text += &format!("\n[[pool]]\nname = \"web\"\nprotocol = \"{protocol}\"\n");
        if !plan.pool.contains("bind = ") {
            text += &format!("bind = \":{port}\"\n");
        }
        text += &format!("{}\n[pool.health]\ninterval = \"200ms\"\n", plan.pool);
        for server in &self.servers {
            let (ip, port) = (server.address.ip(), server.address.port());
            text += &format!("\n[[pool.server]]\nname = \"{}\"\naddress = \"{ip}\"\nport = {port}\n", server.name);
        }
        text
    }

    /// The command that runs an instance.
    pub fn command(&self, place: usize) -> Command {
        let mut command = Command::new(ROCINANTE);
        command.current_dir(self.directory.path());
        command.args(["run", "--config", "pool.toml", "--instance", &self.instances[place].label]);
        command
    }

    pub fn start(&mut self, place: usize) -> &mut Process {
        let command = self.command(place);
        self.start_as(place, command)
    }

    pub fn start_as(&mut self, place: usize, command: Command) -> &mut Process {
        let log = self.directory.path().join(format!("{}.log", self.instances[place].label));
        self.instances[place].process.insert(Process::start(command, &log))
    }

    pub fn process(&mut self, place: usize) -> &mut Process {
        self.instances[place].process.as_mut().unwrap()
    }

    pub fn kill(&mut self, place: usize) {
        self.instances[place].process.take().unwrap().kill();
    }

    /// `/readyz`: whether it is ready, and the reasons why not. `None`: it does not answer.
    pub fn readyz(&self, place: usize) -> Option<(bool, String)> {
        let (status, body) = http(self.instances[place].rest, "GET /readyz", "")?;
        Some((status == 200, body))
    }

    pub fn ready(&self, place: usize) {
        let label = &self.instances[place].label;
        let mut last = String::new();
        let start = std::time::Instant::now();
        while !self.readyz(place).is_some_and(|(ready, reasons)| {
            last = reasons;
            ready
        }) {
            let said = || self.instances[place].process.as_ref().map_or(String::new(), Process::said);
            assert!(start.elapsed() < super::kit::DEADLINE, "{label} is not ready: {last}\n{}", said());
            std::thread::sleep(std::time::Duration::from_millis(10)); // between two looks
        }
    }

    /// Waits until an instance is not ready for a reason that contains `reason`.
    pub fn not_ready(&self, place: usize, reason: &str) {
        wait_until(&format!("{} is not ready: {reason}", self.instances[place].label), || {
            self.readyz(place).is_some_and(|(ready, reasons)| !ready && reasons.contains(reason))
        });
    }

    /// What `GET path` answers at an instance.
    pub fn get(&self, place: usize, path: &str) -> Value {
        let (status, body) = http(self.instances[place].rest, &format!("GET {path}"), "").unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Whether an instance holds that all servers of all pools are up.
    pub fn servers_up(&self, place: usize) -> bool {
        let pools = self.get(place, "/pools");
        let pools = pools["pools"].as_array().unwrap();
        let up = |pool: &Value| pool["servers"].as_array().unwrap().iter().all(|server| server["verdict"] == "up");
        !pools.is_empty() && pools.iter().all(up)
    }

    /// The place of the leader of group 0, as all that run say with one voice.
    pub fn leader(&self) -> usize {
        wait_for("one leader", || {
            let mut leaders = Vec::new();
            for (place, instance) in self.instances.iter().enumerate().filter(|(_, one)| one.process.is_some()) {
                let (_, body) = http(instance.rest, "GET /role", "")?;
                if body == r#"{"role":"leader"}"# {
                    leaders.push(place);
                }
            }
            (leaders.len() == 1).then(|| leaders[0])
        })
    }

    /// Runs a command of the command line against an instance.
    pub fn cli(&self, place: usize, line: &str) -> Ran {
        let endpoint = self.instances[place].rest.to_string();
        let mut arguments: Vec<&str> = line.split(' ').collect();
        arguments.extend(["--endpoint", &endpoint]);
        rocinante(self.directory.path(), &arguments)
    }

    /// Runs a command that must succeed.
    pub fn done(&self, place: usize, line: &str) -> String {
        let ran = self.cli(place, line);
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
        ran.out
    }

    /// All pins as an instance knows them: client and server.
    pub fn pins(&self, place: usize) -> BTreeMap<String, String> {
        let listed = self.cli(place, "pin list web --limit 100000 --consistency linearizable --json");
        assert_eq!(listed.code, 0, "{listed:?}");
        let listed: Value = serde_json::from_str(&listed.out).unwrap();
        let text = |pin: &Value, key: &str| pin[key].as_str().unwrap().to_owned();
        listed["pins"].as_array().unwrap().iter().map(|pin| (text(pin, "client"), text(pin, "server"))).collect()
    }

    /// The server of each client, asked at an instance; each must be answered.
    pub fn ask_all(&self, place: usize, clients: std::ops::Range<u32>) -> BTreeMap<u32, String> {
        let pool = self.instances[place].pool;
        clients.map(|client| (client, wait_for("an answer", || ask(client, pool)))).collect()
    }

    /// The value of a metric at an instance; all lines that begin so are added up. `None`: there is no such line.
    pub fn metric(&self, place: usize, start: &str) -> Option<f64> {
        let (_, text) = http(self.instances[place].metrics, "GET /metrics", "")?;
        let values = text.lines().filter(|line| line.starts_with(start));
        let values: Vec<f64> = values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

static FLEETS: AtomicU32 = AtomicU32::new(0);

/// Addresses of this fleet's own, with ports that the kernel chose: nobody else binds there, so the ports stay free
/// while an instance is down.
fn places(size: usize, ipv6: bool) -> Vec<Instance> {
    let seed = (std::process::id() << 4).wrapping_add(FLEETS.fetch_add(1, Ordering::Relaxed));
    let octets = [100 + (seed / 250 % 100) as u8, (1 + seed % 250) as u8];
    let addresses = (0..size).map(|place| match ipv6 {
        true => IpAddr::from(Ipv6Addr::LOCALHOST),
        false => IpAddr::from(Ipv4Addr::new(127, octets[0] + 28, octets[1], place as u8 + 1)),
    });
    let addresses: Vec<IpAddr> = addresses.collect();
    let mut held = Vec::new();
    let mut bind = |address: IpAddr, port: u16| {
        let listener = TcpListener::bind((address, port)).ok()?;
        let place = listener.local_addr().unwrap();
        held.push(listener);
        Some(place)
    };
    // The pools' port is the same on all.
    let pools: Vec<SocketAddr> = wait_for("a port that is free on all addresses", || {
        let first = bind(addresses[0], 0)?;
        let others = addresses[1..].iter().map(|address| bind(*address, first.port()));
        std::iter::once(Some(first)).chain(others).collect()
    });
    let instances = addresses.iter().zip(pools).enumerate().map(|(place, (address, pool))| Instance {
        label: char::from(b'a' + place as u8).to_string(),
        grpc: bind(*address, 0).unwrap(),
        rest: bind(*address, 0).unwrap(),
        metrics: bind(*address, 0).unwrap(),
        pool,
        process: None,
    });
    instances.collect()
}
