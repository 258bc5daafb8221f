//! What must hold of a configuration's values, whoever brings them: the file, REST, gRPC or the command line.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use flow::Protocol;

pub(crate) use super::error::Wrong;
use super::{
    checked::Host,
    raw::shown_text,
    values::{duration_text, is_host_name},
};

/// An instance's IP address or host name.
pub(crate) fn parse_host(text: &str) -> Result<Host, Wrong> {
    let right = "write an IP address or host name that the other instances reach, as \"10.0.0.1\"";
    match text.parse::<IpAddr>() {
        Ok(address) => usable(address).map(Host::Ip).map_err(|problem| Wrong::new(problem, right)),
        Err(_) if is_host_name(text) => Ok(Host::Name(text.to_ascii_lowercase())),
        Err(_) => Err(not_an_address(text, right)),
    }
}

/// `address` in its plain form, if something can be reached there.
pub(crate) fn usable(address: IpAddr) -> Result<IpAddr, String> {
    let address = address.to_canonical();
    if address.is_unspecified() {
        Err(format!("{address} stands for every address of a host"))
    } else if address.is_multicast() {
        Err(format!("{address} is a multicast address"))
    } else if address == IpAddr::from([255; 4]) {
        Err(format!("{address} is the broadcast address"))
    } else {
        Ok(address)
    }
}

pub(super) fn not_an_address(text: &str, right: &str) -> Wrong {
    if text.parse::<SocketAddr>().is_ok()
        || text.rsplit_once(':').is_some_and(|(host, port)| is_host_name(host) && port.parse::<u16>().is_ok())
    {
        return Wrong::new(format!("{} has a port", shown_text(text)), "write the port in a key of its own");
    }
    Wrong::new(format!("{} is not an address", shown_text(text)), right)
}

/// Only what is built can be served.
pub(crate) fn check_protocol(protocol: Protocol) -> Result<(), Wrong> {
    match protocol {
        Protocol::Tcp | Protocol::Http => Ok(()),
        Protocol::Udp => Err(Wrong::new("\"udp\" is not built yet", "write \"tcp\" or \"http\"")),
    }
}

/// A PROXY header goes before the first byte of a connection, which requests of several clients share.
pub(crate) fn check_send_proxy(protocol: Protocol, send_proxy: bool) -> Result<(), Wrong> {
    if protocol == Protocol::Http && send_proxy {
        return Err(Wrong::new("only TCP pools send a PROXY header", "leave it out; HTTP servers get X-Forwarded-For"));
    }
    Ok(())
}

/// A server of a transparent pool sees its clients' own addresses, which have to be of its IP version. `entrance` is where
/// clients come in; by `[::]` those of both versions do.
pub(crate) fn check_transparent(entrance: &Host, server: IpAddr) -> Result<(), Wrong> {
    let server = server.to_canonical();
    match entrance {
        Host::Ip(address) if address.is_ipv4() != server.is_ipv4() && *address != Ipv6Addr::UNSPECIFIED => {
            Err(Wrong::new(
                format!(
                    "{server} cannot see clients that come in at {address} by their own addresses (transparent = true)"
                ),
                "write a server of the same IP version, or leave transparent out",
            ))
        }
        Host::Ip(_) | Host::Name(_) => Ok(()),
    }
}

/// A check ends before the next one begins.
pub(crate) fn check_timeout(interval_ms: u64, timeout_ms: u64) -> Result<(), Wrong> {
    if timeout_ms <= interval_ms {
        return Ok(());
    }
    let (written, interval) = (duration_text(timeout_ms), duration_text(interval_ms));
    Err(Wrong::new(
        format!("\"{written}\" is longer than the interval of {interval}"),
        format!("write \"{interval}\" or less"),
    ))
}

/// A reader stops using a pin one lease before it expires and commits a touch first; open connections refresh theirs
/// after a quarter of its time. With less, a new pin would be too old to be used at once.
pub(crate) fn check_pin_ttl(lease_ms: u64, pin_ttl_ms: u64) -> Result<(), Wrong> {
    let least = lease_ms.saturating_mul(PIN_TTL_LEASES_MIN);
    if pin_ttl_ms >= least {
        return Ok(());
    }
    let (written, lease) = (duration_text(pin_ttl_ms), duration_text(lease_ms));
    Err(Wrong::new(
        format!("\"{written}\" is less than {PIN_TTL_LEASES_MIN} leases of {lease}"),
        format!("write \"{}\" or more", duration_text(least)),
    ))
}

/// What listens where: each port of an address has one listener, and no server is one of them, as its connections would
/// go round. `T` says what it is that listens.
pub(crate) struct Listeners<T> {
    by_port: HashMap<u16, Vec<(Host, T)>>,
}

impl<T> Listeners<T> {
    pub(crate) fn new() -> Self {
        Self { by_port: HashMap::new() }
    }

    /// What would be in the way of a listener there.
    pub(crate) fn at(&self, host: &Host, port: u16) -> Option<&T> {
        let unspecified = |host: &Host| matches!(host, Host::Ip(address) if address.is_unspecified());
        let clashes = |other: &&(Host, T)| other.0 == *host || unspecified(&other.0) || unspecified(host);
        self.by_port.get(&port)?.iter().find(clashes).map(|(_, what)| what)
    }

    /// That listens there.
    pub(crate) fn add(&mut self, host: Host, port: u16, what: T) {
        self.by_port.entry(port).or_default().push((host, what));
    }
}

/// A pin must outlive this many leases.
const PIN_TTL_LEASES_MIN: u64 = 4;

/// From one check to the next at least, in milliseconds.
pub(crate) const INTERVAL_MS_MIN: u64 = 50;

/// Most checks in a row that a change of view may need.
pub(crate) const IN_A_ROW_MAX: u32 = 1_000;

/// Most connections that a pool may be allowed.
pub(crate) const CONNECTIONS_MAX: u32 = 10_000_000;
