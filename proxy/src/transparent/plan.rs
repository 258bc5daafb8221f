//! What has to be there for the transparent pools, as `nft` and `ip` write it, and how what is there differs from it.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use flow::{Bind, PoolSpec, Protocol};

/// What belongs together: the mark of packets that are for this machine, and the routing table that says so of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The mark.
    pub mark: u32,
    /// The routing table.
    pub table: u32,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { mark: 7263, table: 7263 }
    }
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Who has a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The table of packet rules.
    Nft,
    /// The rules of which routing table is asked.
    Rule(Version),
    /// The routing tables.
    Route(Version),
}

/// One line of what is there or has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Whose it is.
    pub owner: Owner,
    /// As `nft list` prints it, without the space before it; or what follows `ip rule add` or `ip route add`.
    pub text: String,
}

/// All lines that have to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The lines, the table of packet rules first and in its order.
    pub lines: Vec<Line>,
    /// The pools it is for.
    pub pools: Vec<String>,
}

/// What the kernel is told of an interface, or of `all` of them, by `net.ipv4.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The interface.
    pub interface: String,
    /// Whether the way back to a packet's sender has to be where it came in (1), to be there (2), or does not matter (0).
    pub rp_filter: u8,
    /// Whether that way is looked for by the packet's mark (1).
    pub src_valid_mark: u8,
}

/// How what is there differs from a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What the plan has and the machine has not.
    pub missing: Vec<Line>,
    /// What the machine has of ours and the plan has not.
    pub surplus: Vec<Line>,
}

impl Plan {
    /// What the transparent ones of `pools` need. Nothing, if none is transparent.
    #[must_use]
    pub fn of(pools: &[PoolSpec], numbers: Numbers) -> Self {
        let pools: Vec<&PoolSpec> = pools.iter().filter(|pool| pool.transparent).collect();
        let names = pools.iter().map(|pool| pool.name.clone()).collect();
        if pools.is_empty() {
            return Self { lines: Vec::new(), pools: names };
        }
        let Numbers { mark, table } = numbers;
        let take = format!("meta mark set {mark:#010x} accept");
        let mut lines: Vec<Line> = HEAD.iter().map(|text| nft(text)).collect();
        // Also ICMP about such a socket's packets, which path MTU discovery needs: so no word of TCP or UDP here.
        lines.push(nft(&format!("socket transparent 1 socket wildcard 0 {take}")));
        for pool in &pools {
            // Where the address is one of this machine's, its packets need no rule.
            let Bind::Vip(vip) = pool.bind else { continue };
            if vip.ip().is_unspecified() {
                continue;
            }
            let protocol = match pool.protocol {
                Protocol::Tcp | Protocol::Http => "tcp",
                Protocol::Udp => "udp",
            };
            let (address, port, ip) = (vip.ip(), vip.port(), family(vip.ip()));
            let name = &pool.name;
            lines.push(nft(&format!(
                "{ip} daddr {address} {protocol} dport {port} tproxy {ip} to {vip} {take} comment \"{name}\""
            )));
        }
        for version in pools.iter().flat_map(|pool| versions(pool)).collect::<BTreeSet<_>>() {
            lines.push(Line {
                owner: Owner::Rule(version),
                text: rule(PRIORITY, &format!("{mark:#x}"), &table.to_string()),
            });
            lines.push(Line { owner: Owner::Route(version), text: route(&table.to_string()) });
        }
        Self { lines, pools: names }
    }

    /// What `nft -f -` is to read: the old table, if there is one, is replaced in one step.
    #[must_use]
    pub fn script(&self) -> String {
        let mut script = format!("add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n\tchain prerouting {{\n");
        for line in self.lines.iter().filter(|line| line.owner == Owner::Nft) {
            script += &format!("\t\t{}\n", line.text);
        }
        script += "\t}\n}\n";
        script
    }

    /// How `found` differs from this.
    #[must_use]
    pub fn compare(&self, found: &[Line]) -> Difference {
        let mut surplus = found.to_vec();
        let mut missing = self.lines.clone();
        missing.retain(|line| match surplus.iter().position(|other| other == line) {
            Some(place) => {
                surplus.remove(place);
                false
            }
            None => true,
        });
        Difference { missing, surplus }
    }
}

impl Difference {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.surplus.is_empty()
    }

    /// Whether the table of packet rules is not as it should be.
    #[must_use]
    pub fn has_nft(&self) -> bool {
        self.missing.iter().chain(&self.surplus).any(|line| line.owner == Owner::Nft)
    }
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The option of `ip`.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

/// The lines of our table, from what `nft list table` prints.
#[must_use]
pub fn nft_lines(listed: &str) -> Vec<Line> {
    let inside = |text: &&str| !text.is_empty() && *text != "}" && !text.ends_with('{');
    listed.lines().map(str::trim).filter(inside).map(nft).collect()
}

/// The text of a routing rule.
#[must_use]
pub fn rule(priority: u64, mark: &str, table: &str) -> String {
    format!("priority {priority} fwmark {mark} lookup {table}")
}

/// The text of a route by which whatever asks `table` is for this machine.
#[must_use]
pub fn route(table: &str) -> String {
    format!("local default dev lo table {table}")
}

/// Which settings drop packets of transparent connections, or may.
#[must_use]
pub fn advice(settings: &[Setting]) -> Vec<String> {
    let mut advice = Vec::new();
    // For `src_valid_mark` one of the two is enough, for `rp_filter` the higher one counts.
    for Setting { interface, .. } in settings.iter().filter(|it| it.src_valid_mark == 1 && it.interface != "default") {
        advice.push(format!(
            "net.ipv4.conf.{interface}.src_valid_mark = 1 drops what servers answer to clients: set it to 0 (WireGuard's \
             wg-quick sets it)"
        ));
    }
    let all = settings.iter().find(|it| it.interface == "all").map_or(0, |it| it.rp_filter);
    let strict =
        |it: &&Setting| !["all", "default", "lo"].contains(&it.interface.as_str()) && it.rp_filter.max(all) == 1;
    for Setting { interface, .. } in settings.iter().filter(strict) {
        advice.push(format!(
            "rp_filter of {interface} is strict: what comes in by {interface} from where the way back is another one is \
             dropped; with such ways set net.ipv4.conf.{interface}.rp_filter = 2"
        ));
    }
    advice
}

fn nft(text: &str) -> Line {
    Line { owner: Owner::Nft, text: text.to_owned() }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// The versions of which a pool's packets are: those of its VIP and of its servers.
fn versions(pool: &PoolSpec) -> impl Iterator<Item = Version> {
    let vip = match pool.bind {
        Bind::Vip(vip) => Some(vip),
        Bind::Own(_) => None,
    };
    let addresses = vip.into_iter().chain(pool.servers.iter().map(flow::ServerSpec::socket_address));
    addresses.map(|address: SocketAddr| if address.is_ipv4() { Version::V4 } else { Version::V6 })
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner {
            Owner::Nft => write!(f, "nft {TABLE}: {}", self.text),
            Owner::Rule(version) => write!(f, "ip {} rule: {}", version.option(), self.text),
            Owner::Route(version) => write!(f, "ip {} route: {}", version.option(), self.text),
        }
    }
}

/// The table of packet rules, which is ours alone.
pub const TABLE: &str = "inet rocinante";
/// What marks routing rules and routes as ours, whatever their numbers: "protocol" in the words of `ip`.
pub const PROTOCOL: &str = "114";
/// The place of our routing rules: behind the table of this machine's own addresses, before all others.
const PRIORITY: u64 = 100;
/// How the chain begins.
const HEAD: [&str; 1] = ["type filter hook prerouting priority mangle; policy accept;"];

#[cfg(test)]
mod tests;
