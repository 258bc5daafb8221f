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
    /// Whether the pool is bound to an address that is no instance's own.
    pub vip: bool,
}

impl Default for Plan {
    fn default() -> Self {
        let (fleet, pool) = (String::new(), String::new());
        Self { size: 3, fleet, pool, manner: Manner::Tcp, servers: 3, ipv6: false, vip: false }
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
    network: Network,
    _permit: Permit,
}

impl Fleet {
    /// A fleet of which no instance runs yet.
    pub fn new(plan: Plan) -> Self {
        let permit = Permit::take();
        let directory = Directory::new();
        let servers: Vec<Backend> =
            (1..=plan.servers).map(|number| Backend::start(&format!("s{number}"), plan.manner)).collect();
        let network = Network::claim(&plan);
        let instances = (0..plan.size).map(|place| network.instance(place)).collect();
        let fleet = Self { instances, servers, directory, network, _permit: permit };
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
        let bind = if plan.vip { self.vip().to_string() } else { format!(":{}", self.instances[0].pool.port()) };
        text += &format!("\n[[pool]]\nname = \"web\"\nprotocol = \"{protocol}\"\nbind = \"{bind}\"\n");
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

    /// The pool's address where the plan wants one that is no instance's own.
    pub fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.network.address(VIP_PLACE), self.instances[0].pool.port())
    }

    /// The `vip` of `/readyz`.
    pub fn vip_status(&self, place: usize) -> Value {
        let (_, body) = self.readyz(place).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        body["vip"].clone()
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

/// Addresses and ports of one fleet's own. Nobody else binds there, and none of the ports is one that the kernel gives
/// out, so they stay free while an instance is down.
struct Network {
    ipv6: bool,
    octets: [u8; 2],
    /// The first port of so many in a row.
    first_port: u16,
    /// Keeps other fleets off, also those of other processes.
    _claim: TcpListener,
}

static NETWORKS: AtomicU32 = AtomicU32::new(0);

impl Network {
    fn claim(plan: &Plan) -> Self {
        wait_for("addresses that are free", || {
            let number = std::process::id().wrapping_mul(61).wrapping_add(NETWORKS.fetch_add(1, Ordering::Relaxed));
            // Whoever looks at these addresses looks at these ports.
            let number = u16::try_from(number % (NETWORKS_HIGH * NETWORKS_LOW)).ok()?;
            let octets = [128 + (number / NETWORKS_LOW as u16) as u8, 1 + (number % NETWORKS_LOW as u16) as u8];
            let first_port = PORTS_FROM + number % BLOCKS * PORTS_PER_NETWORK;
            let claimed = Self::address_in(plan.ipv6, octets, 0);
            let claim = TcpListener::bind((claimed, first_port + CLAIM)).ok()?;
            let network = Self { ipv6: plan.ipv6, octets, first_port, _claim: claim };
            let is_free = |address: SocketAddr| TcpListener::bind(address).is_ok();
            let all_free = (0..plan.size).map(|place| network.instance(place)).all(|it| {
                let addresses = [it.grpc, it.rest, it.metrics, it.pool];
                addresses.into_iter().all(is_free)
            });
            all_free.then_some(network)
        })
    }

    fn address(&self, place: usize) -> IpAddr {
        Self::address_in(self.ipv6, self.octets, place)
    }

    /// There is but one loopback address of IPv6: there the ports alone keep fleets apart.
    fn address_in(ipv6: bool, octets: [u8; 2], place: usize) -> IpAddr {
        match ipv6 {
            true => Ipv6Addr::LOCALHOST.into(),
            false => Ipv4Addr::new(127, octets[0], octets[1], place as u8 + 1).into(),
        }
    }

    fn instance(&self, place: usize) -> Instance {
        let at = |offset| SocketAddr::new(self.address(place), self.first_port + offset);
        let label = char::from(b'a' + place as u8).to_string();
        Instance { label, grpc: at(0), rest: at(1), metrics: at(2), pool: at(3), process: None }
    }
}

/// In 127.128.0.0 to 127.227.255.255; the clients are below.
const NETWORKS_HIGH: u32 = 100;
const NETWORKS_LOW: u32 = 250;
/// All below the range from which the kernel takes source ports.
const PORTS_FROM: u16 = 12_000;
const PORTS_PER_NETWORK: u16 = 5;
const BLOCKS: u16 = 3_000;
/// The port that is held, behind those of the instances.
const CLAIM: u16 = 4;
/// Behind the instances' addresses.
const VIP_PLACE: usize = 200;
