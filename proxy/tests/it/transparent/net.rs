//! Machines of a test's own, each a network namespace: clients, instances between them and the servers, and servers.
//!
//! ```text
//!                     .-- 10.66.10.0/24 -- a --.
//!  clients 10.77.0.x -+                        +-- 10.66.2.0/24, a bridge -- s1, s2
//!                     '-- 10.66.11.0/24 -- b --'
//! ```
//! The same in IPv6. The namespaces have no names and hang on descriptors of this process: when they are closed, or the
//! process ends, the kernel removes them with all interfaces, rules and routes.

use std::{
    fs::File,
    io::{self, Write},
    net::IpAddr,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Command, Stdio},
    thread,
};

/// A network namespace, empty but for its loopback interface.
pub struct Space(File);

impl Space {
    pub fn new() -> io::Result<Self> {
        let make = || {
            // SAFETY: takes no pointers; this thread alone moves, and ends.
            done(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net").map(Self)
        };
        thread::spawn(make).join().unwrap()
    }

    /// A namespace with such rules; none where that cannot be had, which it says past the test's captured output.
    pub fn permitted() -> Option<Self> {
        let made = Self::new().inspect_err(|error| skipped(&format!("no network namespace can be made here: {error}")));
        let space = made.ok()?;
        match space.feed("nft -f -", PROBE) {
            Ok(_) => Some(space),
            Err(why) => {
                skipped(&format!("no rules of transparent mode can be made here: {why}"));
                None
            }
        }
    }

    /// Does it there: sockets stay there.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let there = || {
            // SAFETY: the descriptor is open; what changes concerns what this thread sees, not its memory.
            done(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) }).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(there).join().unwrap())
    }

    /// Has a command run there; this has to be there when it starts.
    pub fn house(&self, command: &mut Command) {
        let descriptor = self.0.as_raw_fd();
        // SAFETY: between fork and exec only one system call is made, which is safe there.
        unsafe {
            command.pre_exec(move || done(libc::setns(descriptor, libc::CLONE_NEWNET)));
        }
    }

    /// Runs a program there with this input; gives what it prints, or what it says is wrong.
    pub fn feed(&self, words: &str, input: &str) -> Result<String, String> {
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.house(&mut command);
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        child.stdin.take().unwrap().write_all(input.as_bytes()).map_err(|error| error.to_string())?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// Runs `ip` there with these lines; those for IPv6 begin with `-6`, and come behind the others.
    pub fn ip(&self, lines: &str) -> Result<(), String> {
        let (six, four): (Vec<&str>, Vec<&str>) = lines.lines().partition(|line| line.starts_with("-6 "));
        self.feed("ip -batch -", &(four.join("\n") + "\n"))?;
        self.feed("ip -6 -batch -", &(six.join("\n").replace("-6 ", "") + "\n")).map(drop)
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// The machines of a test and the bridge, with the way to each instance and none back from the servers.
pub struct Net {
    pub clients: Space,
    pub instances: Vec<Space>,
    pub servers: Vec<Space>,
    hub: Space,
}

impl Net {
    /// Lays it; none where this is not permitted, which it says past the test's captured output.
    pub fn lay(instances: u8, servers: u8) -> Option<Self> {
        let hub = Space::permitted()?;
        let spaces = |count| (0..count).map(|_| Space::new().unwrap()).collect();
        let net = Self { clients: Space::new().unwrap(), instances: spaces(instances), servers: spaces(servers), hub };
        if let Err(why) = net.hub.ip("link add hub type bridge mcast_snooping 0\nlink set hub up\n") {
            skipped(&format!("no bridge can be made here: {why}"));
            return None;
        }
        net.clients.inside(|| std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap());
        let mut lines = "link set lo up\n".to_owned();
        for number in 1..=CLIENTS {
            lines +=
                &format!("addr add {} dev lo\naddr add {} dev lo nodad\n", client(number, false), client(number, true));
        }
        net.clients.ip(&lines).unwrap();
        for (number, space) in (0..).zip(&net.instances) {
            net.plug(space, instance(number, false), instance(number, true), &mac(number));
            net.lead_to(number, space);
        }
        for (number, space) in (0..).zip(&net.servers) {
            net.plug(space, server(number, false), server(number, true), &mac(100 + number));
        }
        Some(net)
    }

    /// Joins a machine to the bridge.
    fn plug(&self, space: &Space, four: IpAddr, six: IpAddr, mac: &str) {
        let port = format!("p{}", &mac[12..].replace(':', ""));
        let lines = format!(
            "link add {port} type veth peer name lan address {mac} netns {}\nlink set {port} master hub up\n",
            space.path()
        );
        self.hub.ip(&lines).unwrap();
        space
            .ip(&format!(
                "link set lo up\naddr add {four}/24 dev lan\naddr add {six}/64 dev lan nodad\nlink set lan up\n"
            ))
            .unwrap();
    }

    /// Lays a cable between the clients and an instance. A client's packets with the mark N + 1 go to instance N.
    fn lead_to(&self, number: u8, space: &Space) {
        let (cable, table, mark) = (format!("to{number}"), 10 + number, number + 1);
        self.clients.ip(&format!("link add {cable} type veth peer name clients netns {}\n", space.path())).unwrap();
        let there = format!(
            "addr add 10.66.{table}.1/24 dev clients\naddr add fd66:{table}::1/64 dev clients nodad\n\
             link set clients up\nroute add 10.77.0.0/24 via 10.66.{table}.2\n-6 route add fd77::/64 via fd66:{table}::2\n"
        );
        space.ip(&there).unwrap();
        let here = format!(
            "addr add 10.66.{table}.2/24 dev {cable}\naddr add fd66:{table}::2/64 dev {cable} nodad\nlink set {cable} up\n\
             rule add fwmark {mark} lookup {table}\nroute add default via 10.66.{table}.1 table {table}\n\
             -6 rule add fwmark {mark} lookup {table}\n-6 route add default via fd66:{table}::1 table {table}\n"
        );
        self.clients.ip(&here).unwrap();
    }
}

/// Says past the test's captured output that it did not run.
fn skipped(why: &str) {
    io::stderr().write_all(format!("SKIPPED, NOT TESTED: {why}\n").as_bytes()).unwrap();
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The address of a client, from 1.
pub fn client(number: u8, six: bool) -> IpAddr {
    of(six, &format!("10.77.0.{number}"), &format!("fd77::{number}"))
}

/// The address of an instance on the bridge.
pub fn instance(number: u8, six: bool) -> IpAddr {
    let number = number + 1;
    of(six, &format!("10.66.2.{number}"), &format!("fd66:2::{number}"))
}

/// The address of a server on the bridge.
pub fn server(number: u8, six: bool) -> IpAddr {
    let number = number + 101;
    of(six, &format!("10.66.2.{number}"), &format!("fd66:2::{number}"))
}

/// What the network card of an instance is called by servers.
pub fn mac(number: u8) -> String {
    format!("02:66:00:00:00:{:02x}", number + 1)
}

fn of(six: bool, four: &str, other: &str) -> IpAddr {
    if six { other } else { four }.parse().unwrap()
}

/// Made and removed again.
const PROBE: &str = "table inet probe {
    chain prerouting {
        type filter hook prerouting priority mangle;
        socket transparent 1 accept
        ip daddr 192.0.2.1 tcp dport 1 tproxy ip to 192.0.2.1:1 accept
    }
}
delete table inet probe
";

/// How many addresses the clients have of each version.
pub const CLIENTS: u8 = 6;
