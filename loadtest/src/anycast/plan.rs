//! The topology as plain data: which hosts there are, how they are joined, and what `ip`, `nft` and BIRD are told.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::fleet::hosts::label_of;
use crate::judge::InstanceId;

/// How large the farm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Instances of the fleet.
    pub instances: u8,
    /// Hosts for servers.
    pub servers: u8,
}

/// A host of the farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Spreads the VIP over the instances.
    Router,
    /// Joins the instances with each other and with the servers.
    Switch,
    /// Where all clients are, and the judge, who has a leg in the network behind the instances as well.
    Clients,
    /// An instance, by its number.
    Instance(u8),
    /// A server, by its number.
    Server(u8),
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Router => out.write_str("router"),
            Host::Switch => out.write_str("switch"),
            Host::Clients => out.write_str("clients"),
            Host::Instance(number) => out.write_str(&label_of(InstanceId(*number))),
            Host::Server(number) => write!(out, "s{}", u16::from(*number) + 1),
        }
    }
}

impl Plan {
    /// All hosts, the router first.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        let fixed = [Host::Router, Host::Switch, Host::Clients];
        fixed.into_iter().chain(self.instances()).chain((0..self.servers).map(Host::Server)).collect()
    }

    /// The instances.
    pub fn instances(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.instances).map(Host::Instance)
    }

    /// What `ip -batch` is told at the router or the switch, so that all cables are there. `path` is where a host's namespace
    /// is found.
    pub fn cables(&self, at: Host, path: impl Fn(Host) -> String) -> String {
        match at {
            Host::Router => {
                let ends = std::iter::once(Host::Clients).chain(self.instances());
                ends.map(|host| format!("link add name {host} type veth peer name front netns {}\n", path(host)))
                    .collect()
            }
            Host::Switch => {
                let ends =
                    std::iter::once(Host::Clients).chain(self.instances()).chain((0..self.servers).map(Host::Server));
                let plug = |host: Host| {
                    format!(
                        "link add name {host} type veth peer name back netns {}\nlink set dev {host} master bridge up\n",
                        path(host)
                    )
                };
                std::iter::once("link add name bridge type bridge\nlink set bridge up\n".to_owned())
                    .chain(ends.map(plug))
                    .collect()
            }
            Host::Clients | Host::Instance(_) | Host::Server(_) => String::new(),
        }
    }

    /// What `ip -batch` is told at a host once the cables are there.
    #[must_use]
    pub fn addresses(&self, at: Host) -> String {
        match at {
            Host::Router => {
                let legs = std::iter::once((Host::Clients, CLIENTS_LINK))
                    .chain((0..self.instances).map(|number| (Host::Instance(number), link(number))));
                let legs = legs
                    .map(|(host, link)| format!("addr add {}/30 dev {host}\nlink set dev {host} up\n", end(link, 1)));
                legs.collect::<String>() + &format!("route add {CLIENTS} via {}\n", end(CLIENTS_LINK, 2))
            }
            Host::Switch => String::new(),
            Host::Clients => format!(
                "addr add {}/30 dev front\nlink set front up\naddr add {JUDGE}/24 dev back\nlink set back up\n\
                 route add default via {}\nroute add local {CLIENTS} dev lo\n",
                end(CLIENTS_LINK, 2),
                end(CLIENTS_LINK, 1)
            ),
            Host::Instance(number) => format!(
                "addr add {VIP}/32 dev lo\naddr add {}/30 dev front\nlink set front up\naddr add {}/24 dev back\n\
                 link set back up\nroute add default via {}\n",
                end(link(number), 2),
                instance(number),
                end(link(number), 1)
            ),
            Host::Server(number) => format!("addr add {}/24 dev back\nlink set back up\n", server(number)),
        }
    }

    /// The kernel's settings at a host: files below `/proc/sys/net` and what is written to them.
    #[must_use]
    pub fn settings(&self, at: Host) -> Vec<(&'static str, String)> {
        match at {
            // The policy 1 spreads by addresses and ports.
            Host::Router => {
                vec![("ipv4/ip_forward", "1".to_owned()), ("ipv4/fib_multipath_hash_policy", "1".to_owned())]
            }
            // Tens of thousands of short connections a second come from one host.
            Host::Clients => vec![("ipv4/ip_local_port_range", "10000 65000".to_owned())],
            Host::Switch | Host::Instance(_) | Host::Server(_) => Vec::new(),
        }
    }

    /// The configuration of BIRD 2 at the router or an instance.
    #[must_use]
    pub fn bird(&self, at: Host) -> Option<String> {
        match at {
            Host::Router => {
                let sessions: String = (0..self.instances).map(|number| router_session(number)).collect();
                Some(format!(
                    "# The router: every instance that announces the VIP is one of its paths.\n\
                     router id {};\nprotocol device {{}}\n\
                     protocol kernel {{\n  merge paths on;\n  ipv4 {{ import none; export where source = RTS_BGP; }};\n}}\n{sessions}",
                    end(CLIENTS_LINK, 1)
                ))
            }
            Host::Instance(number) => Some(format!(
                "# An instance's host: `rocinante` enables the protocol of that name while it is ready.\n\
                 router id {};\nprotocol device {{}}\n\
                 protocol static {PROTOCOL} {{\n  disabled;\n  ipv4;\n  route {VIP}/32 unreachable;\n}}\n\
                 protocol bgp upstream {{\n  local {} as {INSTANCES_AS};\n  neighbor {} as {ROUTER_AS};\n  connect delay time 1;\n  \
                 hold time 3;\n  ipv4 {{ import none; export where proto = \"{PROTOCOL}\"; }};\n}}\n",
                end(link(number), 2),
                end(link(number), 2),
                end(link(number), 1)
            )),
            Host::Switch | Host::Clients | Host::Server(_) => None,
        }
    }

    /// A script that keeps the router's route to the VIP where there is no BIRD: `LABEL announce|withdraw`. `folder` is where it
    /// notes who announces, `router` where the router's namespace is found.
    #[must_use]
    pub fn route_script(&self, folder: &Path, router: &str) -> String {
        let hops: String = (0..self.instances)
            .map(|number| format!("    {}) echo nexthop via {} ;;\n", Host::Instance(number), end(link(number), 2)))
            .collect();
        format!(
            "#!/bin/sh\n# LABEL announce|withdraw: keeps the router's route to the VIP in place of BGP.\nset -e\ncd '{}'\nexec 9>lock\n\
             flock 9\ncase $2 in\n  announce) : >\"hop.$1\" ;;\n  withdraw) rm -f \"hop.$1\" ;;\nesac\nhop() {{\n  case $1 in\n{hops}  esac\n}}\n\
             hops=\nfor file in hop.*; do\n  [ ! -e \"$file\" ] || hops=\"$hops $(hop \"${{file#hop.}}\")\"\ndone\n\
             if [ -n \"$hops\" ]; then\n  exec nsenter --net='{router}' ip route replace {VIP}/32 $hops\nfi\n\
             nsenter --net='{router}' ip route flush exact {VIP}/32\n",
            folder.display()
        )
    }
}

/// What is cut at one instance's host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Packets of and to these are dropped: peers.
    pub peers: BTreeSet<Ipv4Addr>,
    /// Packets to these are dropped: servers.
    pub servers: BTreeSet<Ipv4Addr>,
}

impl Cuts {
    /// What `nft -f -` is told, whatever was cut before.
    #[must_use]
    pub fn rules(&self) -> String {
        let set =
            |addresses: &BTreeSet<Ipv4Addr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let drop = |field: &str, addresses: &BTreeSet<Ipv4Addr>| match addresses.is_empty() {
            true => String::new(),
            false => format!("    ip {field} {{ {} }} drop\n", set(addresses)),
        };
        format!(
            "table inet judge\ndelete table inet judge\ntable inet judge {{\n  chain from {{\n    type filter hook input priority 0;\n{}  }}\n  \
             chain to {{\n    type filter hook output priority 0;\n{}{}  }}\n}}\n",
            drop("saddr", &self.peers),
            drop("daddr", &self.peers),
            drop("daddr", &self.servers)
        )
    }
}

/// Where an instance's peers, operators and servers see it.
#[must_use]
pub fn instance(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 0, number.saturating_add(11))
}

/// Where a server is.
#[must_use]
pub fn server(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 0, number.saturating_add(101))
}

/// The server's host with this address.
#[must_use]
pub fn server_at(address: SocketAddr) -> Option<Host> {
    let SocketAddr::V4(address) = address else { return None };
    let number = address.ip().octets()[3].checked_sub(101)?;
    (*address.ip() == server(number)).then_some(Host::Server(number))
}

fn router_session(number: u8) -> String {
    format!(
        "protocol bgp instance_{} {{\n  local {} as {ROUTER_AS};\n  neighbor {} as {INSTANCES_AS};\n  connect delay time 1;\n  hold time 3;\n  \
         ipv4 {{ import where net = {VIP}/32; export none; }};\n}}\n",
        Host::Instance(number),
        end(link(number), 1),
        end(link(number), 2)
    )
}

/// The network between the router and an instance.
fn link(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 80, number.saturating_add(1), 0)
}

/// An end of such a network.
fn end(link: Ipv4Addr, end: u8) -> Ipv4Addr {
    let [one, two, three, _] = link.octets();
    Ipv4Addr::new(one, two, three, end)
}

/// The address that clients know. It is one of those set aside for documentation (RFC 5737).
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The first address of the clients' network, 100.64.0.0/10 (RFC 6598); every client has one of its own.
pub const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// The protocol in BIRD's configuration that instances enable and disable.
pub const PROTOCOL: &str = "rocinante";
const CLIENTS: &str = "100.64.0.0/10";
const CLIENTS_LINK: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 0);
/// Where the judge meets instances as an operator does.
const JUDGE: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 200);
/// Numbers for private use (RFC 6996).
const ROUTER_AS: u32 = 64_512;
const INSTANCES_AS: u32 = 64_513;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cable_has_two_ends_with_addresses() {
        let plan = Plan { instances: 3, servers: 4 };
        let path = |host: Host| format!("/path/{host}");
        for host in [Host::Clients, Host::Instance(0), Host::Instance(2)] {
            assert!(
                plan.cables(Host::Router, path)
                    .contains(&format!("link add name {host} type veth peer name front netns /path/{host}\n"))
            );
            assert!(plan.addresses(host).contains("dev front\nlink set front up"));
            assert!(plan.addresses(Host::Router).contains(&format!("dev {host}\nlink set dev {host} up")));
        }
        for host in plan.hosts().into_iter().filter(|host| !matches!(host, Host::Router | Host::Switch)) {
            assert!(
                plan.cables(Host::Switch, path)
                    .contains(&format!("name back netns /path/{host}\nlink set dev {host} master bridge up\n"))
            );
            assert!(plan.addresses(host).contains("dev back\nlink set back up"));
        }
        assert_eq!(server_at((server(3), 80).into()), Some(Host::Server(3)));
        assert_eq!(server_at((instance(0), 80).into()), None);
    }

    #[test]
    fn cuts_drop_what_they_name_and_nothing_else() {
        let none = Cuts::default().rules();
        assert!(!none.contains("drop"), "{none}");
        let cuts = Cuts { peers: [instance(1), instance(2)].into(), servers: [server(0)].into() };
        let rules = cuts.rules();
        for rule in [
            "ip saddr { 10.90.0.12, 10.90.0.13 } drop",
            "ip daddr { 10.90.0.12, 10.90.0.13 } drop",
            "ip daddr { 10.90.0.101 } drop",
        ] {
            assert_eq!(rules.matches(rule).count(), 1, "{rules}");
        }
    }
}
