//! Transparent mode with real packets: in namespaces where no address but the servers' own network is known to them.

mod ends;
mod net;
mod rules;

use std::{collections::BTreeMap, fs, net::SocketAddr, os::unix::process::CommandExt, process::Command};

use self::{
    ends::{Client, Manner, Server},
    net::{CLIENTS, Net, client, instance, mac, server},
};
use crate::process::kit::{Directory, Permit, Process, ROCINANTE, http, wait_until};

/// One pool for each protocol and version, all at a VIP that is on no interface.
const POOLS: [(&str, &str, u16, bool); 4] = [
    ("tcp4", "tcp", 9001, false),
    ("http4", "http", 9002, false),
    ("tcp6", "tcp", 9001, true),
    ("http6", "http", 9002, true),
];

fn vip(port: u16, six: bool) -> SocketAddr {
    SocketAddr::new(if six { "2001:db8::10" } else { "192.0.2.10" }.parse().unwrap(), port)
}

/// A fleet in its network, ready, with its packet rules.
struct Farm {
    // The order of the fields is the order of their end.
    processes: Vec<Process>,
    _servers: Vec<Server>,
    net: Net,
    directory: Directory,
    _permit: Permit,
}

impl Farm {
    /// None where there are no namespaces. What the servers need to answer clients is the test's to lay.
    fn new(instances: u8) -> Option<Self> {
        let permit = Permit::take();
        let net = Net::lay(instances, 2)?;
        let mut servers = Vec::new();
        for (number, name) in [(0, "s1"), (1, "s2")] {
            for (_, protocol, port, six) in POOLS {
                let manner = if protocol == "http" { Manner::Http } else { Manner::Tcp };
                let address = SocketAddr::new(server(number, six), port);
                servers.push(Server::start(&net.servers[usize::from(number)], name, address, manner));
            }
        }
        let directory = Directory::new();
        fs::write(directory.path().join("pool.toml"), configuration(instances)).unwrap();
        Some(Self { processes: Vec::new(), _servers: servers, net, directory, _permit: permit })
    }

    /// Starts all instances and waits until they serve.
    fn start(&mut self) {
        for (number, space) in (0..).zip(&self.net.instances) {
            let mut command = Command::new(ROCINANTE);
            command.current_dir(self.directory.path());
            command.args(["run", "--config", "pool.toml", "--instance", label(number)]);
            space.house(&mut command);
            let log = self.directory.path().join(format!("{}.log", label(number)));
            self.processes.push(Process::start(command, &log));
        }
        for number in 0..self.processes.len() as u8 {
            wait_until("an instance is ready", || self.get(number, "/readyz").is_some_and(|(status, _)| status == 200));
        }
        let up = |(_, pools): (u16, String)| pools.matches("\"verdict\":\"up\"").count() == 2 * POOLS.len();
        wait_until("all servers are up", || self.get(0, "/pools").is_some_and(up));
    }

    fn get(&self, number: u8, path: &str) -> Option<(u16, String)> {
        let rest = SocketAddr::new(instance(number, false), 8001);
        self.net.instances[usize::from(number)].inside(|| http(rest, &format!("GET {path}"), ""))
    }

    /// `rocinante transparent install` on each instance's machine.
    fn install(&self) {
        for space in &self.net.instances {
            let config = self.directory.path().join("pool.toml");
            let ran = rules::transparent(space, &format!("install --config {}", config.display()));
            assert_eq!(ran.code, 0, "{ran:?}");
        }
    }

    /// A connection of a client to a pool by an instance.
    fn connect(&self, number: u8, by: u8, port: u16, six: bool) -> Client {
        Client::connect(&self.net, client(number, six), by, vip(port, six)).unwrap()
    }
}

fn label(number: u8) -> &'static str {
    ["a", "b"][usize::from(number)]
}

fn configuration(instances: u8) -> String {
    let mut text = "[fleet]\nname = \"transparent\"\ndata_dir = \"data\"\ngroups = 2\n".to_owned();
    for number in 0..instances {
        let (label, address) = (label(number), instance(number, false));
        text += &format!("[[fleet.instance]]\nlabel = \"{label}\"\naddress = \"{address}\"\n");
        text += "grpc = 35001\nrest = 8001\nmetrics = 2112\n";
    }
    for (name, protocol, port, six) in POOLS {
        let bind = vip(port, six);
        text +=
            &format!("[[pool]]\nname = \"{name}\"\nbind = \"{bind}\"\nprotocol = \"{protocol}\"\ntransparent = true\n");
        text += "[pool.health]\ninterval = \"200ms\"\n";
        for number in [0, 1] {
            let (place, address) = (number + 1, server(number, six));
            text += &format!("[[pool.server]]\nname = \"s{place}\"\naddress = \"{address}\"\nport = {port}\n");
        }
    }
    text
}

#[test]
fn servers_see_every_clients_own_address() {
    let Some(mut farm) = Farm::new(1) else { return };
    for space in &farm.net.servers {
        let (four, six) = (instance(0, false), instance(0, true));
        space.ip(&format!("route add default via {four}\n-6 route add default via {six}\n")).unwrap();
    }
    farm.install();
    farm.start();
    for six in [false, true] {
        for number in 1..=CLIENTS {
            let mut connection = farm.connect(number, 0, 9001, six);
            assert_eq!(connection.seen().unwrap().client, connection.own, "address and port");
            connection.send("there and back\n").unwrap();
            assert_eq!(connection.line().unwrap(), "there and back");
        }
    }
    for six in [false, true] {
        take_turns(&farm, six);
    }
    let rules = rules::transparent(&farm.net.instances[0], "remove");
    assert_eq!(rules.code, 0, "{rules:?}");
}

/// Clients in turn, over and over, on connections that are kept on both sides: more clients than servers, so that some share
/// a server, and a kept connection of one client is there when another asks.
fn take_turns(farm: &Farm, six: bool) {
    let mut connections: Vec<Client> = (1..=CLIENTS).map(|number| farm.connect(number, 0, 9002, six)).collect();
    let mut used: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for round in 0..4 {
        for (number, connection) in connections.iter_mut().enumerate() {
            let seen = connection.ask();
            assert_eq!(seen.client.ip(), connection.own.ip(), "round {round}: another client's address");
            assert_eq!(*used.entry(seen.client).or_insert(number), number);
        }
    }
    // Kept: every client needed one connection to its server, not one for each request.
    assert_eq!(used.len(), connections.len(), "{used:?}");
    // They outlive their clients' connections, and serve the same client's next one.
    drop(connections);
    for number in 1..=CLIENTS {
        let seen = farm.connect(number, 0, 9002, six).ask();
        assert_eq!(seen.client.ip(), client(number, six));
    }
}

/// As docs/operations.md has it: servers remember by which network card a connection came, and answer there.
#[test]
fn with_several_instances_answers_go_back_to_the_one_that_asks() {
    let Some(mut farm) = Farm::new(2) else { return };
    for space in &farm.net.servers {
        let rules = format!(
            "table inet way_back {{
                chain remember {{
                    type filter hook prerouting priority mangle;
                    ether saddr {} ct mark set 1
                    ether saddr {} ct mark set 2
                }}
                chain answer {{
                    type route hook output priority mangle;
                    ct mark != 0 meta mark set ct mark
                }}
            }}\n",
            mac(0),
            mac(1)
        );
        space.feed("nft -f -", &rules).unwrap();
        // Answers get their mark on the way out, for which there has to be one.
        let (four, six) = (instance(0, false), instance(0, true));
        space.ip(&format!("route add default via {four}\n-6 route add default via {six}\n")).unwrap();
        for number in [0, 1] {
            let (mark, table) = (number + 1, 101 + number);
            let (four, six) = (instance(number, false), instance(number, true));
            let lines = format!(
                "rule add fwmark {mark} lookup {table}\nroute add default via {four} table {table}\n\
                 -6 rule add fwmark {mark} lookup {table}\n-6 route add default via {six} table {table}\n"
            );
            space.ip(&lines).unwrap();
        }
    }
    farm.install();
    farm.start();
    for six in [false, true] {
        for number in 1..=CLIENTS {
            let mut both = [0, 1].map(|by| farm.connect(number, by, 9001, six));
            let seen = both.each_mut().map(|connection| connection.seen().unwrap());
            assert_eq!(seen[0].server, seen[1].server, "one client, one server");
            for (connection, seen) in both.iter_mut().zip(&seen) {
                assert_eq!(seen.client, connection.own);
                connection.send("there and back\n").unwrap();
                assert_eq!(connection.line().unwrap(), "there and back");
            }
            let mut both = [0, 1].map(|by| farm.connect(number, by, 9002, six));
            for connection in &mut both {
                assert_eq!(connection.ask().client.ip(), client(number, six));
            }
        }
    }
}

/// Without a way back a client is refused, and the server is not blamed for it: others are served.
#[test]
fn a_client_that_servers_cannot_answer_is_no_word_about_the_servers() {
    let Some(mut farm) = Farm::new(1) else { return };
    for space in &farm.net.servers {
        let good = client(1, false);
        let via = instance(0, false);
        // The others are unreachable from here: the servers have no default route.
        space.ip(&format!("route add {good} via {via}\n")).unwrap();
    }
    farm.install();
    farm.start();
    let refused = farm.connect(2, 0, 9001, false).seen().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
    let metrics = SocketAddr::new(instance(0, false), 2112);
    let (_, text) = farm.net.instances[0].inside(|| http(metrics, "GET /metrics", "")).unwrap();
    assert!(text.contains("rocinante_refusals_total{pool=\"tcp4\",reason=\"unreachable_here\"} 1\n"), "{text}");
    assert_eq!(farm.get(0, "/pools").unwrap().1.matches("\"verdict\":\"up\"").count(), 2 * POOLS.len());
    let mut served = farm.connect(1, 0, 9001, false);
    assert_eq!(served.seen().unwrap().client, served.own);
}

/// An instance that may not have foreign addresses says so and goes on with its other pools.
#[test]
fn without_permission_a_transparent_pool_does_not_listen_and_the_log_says_what_to_do() {
    let _permit = Permit::take();
    let Some(space) = net::Space::permitted() else { return };
    space.ip("link set lo up\naddr add 10.66.2.1 dev lo\n").unwrap();
    let directory = Directory::new();
    let plain = "[[pool]]\nname = \"plain\"\nbind = \":9009\"\n";
    fs::write(directory.path().join("pool.toml"), configuration(1) + plain).unwrap();
    let mut command = Command::new(ROCINANTE);
    command.current_dir(directory.path()).args(["run", "--config", "pool.toml", "--instance", "a"]);
    space.house(&mut command);
    without_network_rights(&mut command);
    let process = Process::start(command, &directory.path().join("a.log"));
    let line = process.says(&["cannot listen, will try again", "pool=\"tcp4\""]);
    let words = "no permission for transparent mode (IP_TRANSPARENT): it needs CAP_NET_RAW or CAP_NET_ADMIN, which it gets by \
                 `setcap cap_net_raw+ep`";
    assert!(line.contains(words), "{line}");
    process.says(&["listening", "plain"]);
    let ready = || space.inside(|| http("10.66.2.1:8001".parse().unwrap(), "GET /healthz", ""));
    wait_until("it answers", || ready().is_some_and(|(status, _)| status == 200));
}

/// Has a command run as root without the rights of root over the network.
fn without_network_rights(command: &mut Command) {
    const CAP_NET_ADMIN: libc::c_ulong = 12;
    const CAP_NET_RAW: libc::c_ulong = 13;
    let drop_rights = || {
        for right in [CAP_NET_ADMIN, CAP_NET_RAW] {
            // SAFETY: takes no pointers, and concerns this process alone, which is about to become the command.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, right, 0, 0, 0) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made that are safe there.
    unsafe {
        command.pre_exec(drop_rights);
    }
}
