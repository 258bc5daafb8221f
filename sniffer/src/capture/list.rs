//! The interfaces that can be captured from.

use std::net::IpAddr;

use pcap::Device;
use serde::Serialize;

use super::{socket, words};

/// An interface, as people and scripts read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it has a carrier.
    pub running: bool,
    /// Whether it leads back to this machine.
    pub loopback: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What libpcap says of it.
    pub description: Option<String>,
}

/// All of them, in libpcap's order, without what it lists and is no interface (netfilter's log, D-Bus). Needs no privilege.
///
/// # Errors
/// In libpcap's words.
pub fn list() -> Result<Vec<Listed>, String> {
    let devices = Device::list().map_err(|error| words(&error))?;
    let interfaces = devices.into_iter().filter(|one| one.name == ANY || socket::interface_index(&one.name).is_some());
    let listed = interfaces.map(|device| Listed {
        up: device.flags.is_up(),
        running: device.flags.is_running(),
        loopback: device.flags.is_loopback(),
        addresses: device.addresses.iter().map(|address| address.addr).collect(),
        description: device.desc,
        name: device.name,
    });
    Ok(listed.collect())
}

/// The name under which all interfaces are one.
pub(super) const ANY: &str = "any";
