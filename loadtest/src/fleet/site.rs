//! A place to run a fleet in: loopback addresses that nobody else uses or the hosts of a farm, and a directory that goes away.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::place::Place;
use crate::anycast::net::Net;
use crate::anycast::plan;
use crate::chance::Chance;
use crate::error::{Error, Result};
use crate::judge::InstanceId;

/// The addresses and the directory of one fleet.
#[derive(Debug)]
pub struct Site {
    ground: Ground,
    place: Place,
}

#[derive(Debug)]
enum Ground {
    Loopback {
        octets: [u8; 2],
        /// Keeps other sites off, from before the first instance listens.
        _claim: TcpListener,
    },
    Farm(Arc<Net>),
}

impl Site {
    /// Finds a network of loopback addresses that is free and makes a directory. The network lies outside 127.0.0.0/16, where
    /// other things run, and outside 127.64.0.0/10, where the clients live.
    pub fn new() -> Result<Site> {
        let mut chance = Chance::new(Chance::fresh_seed());
        for _ in 0..ATTEMPTS_MAX {
            let octets = [1 + chance.below(62) as u8, 1 + chance.below(250) as u8];
            let first = Ipv4Addr::new(127, octets[0], octets[1], 1);
            let Ok(claim) = TcpListener::bind((first, CLAIM_PORT)) else { continue };
            if PORTS_PROBED.iter().any(|port| TcpListener::bind((first, *port)).is_err()) {
                continue;
            }
            return Ok(Site { ground: Ground::Loopback { octets, _claim: claim }, place: Place::new()? });
        }
        Err(Error::Usage("found no free loopback addresses in 127.0.0.0/8".to_owned()))
    }

    /// The hosts of a farm, on which nothing runs yet.
    pub fn at(net: Arc<Net>) -> Result<Site> {
        Ok(Site { ground: Ground::Farm(net), place: Place::new()? })
    }

    /// The farm's networks, if it is one.
    pub fn net(&self) -> Option<&Arc<Net>> {
        match &self.ground {
            Ground::Loopback { .. } => None,
            Ground::Farm(net) => Some(net),
        }
    }

    /// The address of an instance.
    pub fn instance(&self, instance: InstanceId) -> IpAddr {
        match &self.ground {
            Ground::Loopback { octets, .. } => host(*octets, instance.0.saturating_add(1)),
            Ground::Farm(_) => plan::instance(instance.0).into(),
        }
    }

    /// The address of the backend with that number.
    pub fn backend(&self, index: usize) -> SocketAddr {
        let number = u8::try_from(index).unwrap_or(u8::MAX);
        let address = match &self.ground {
            Ground::Loopback { octets, .. } => host(*octets, FIRST_BACKEND_HOST.saturating_add(number)),
            Ground::Farm(_) => plan::server(number).into(),
        };
        (address, BACKEND_PORT).into()
    }

    /// Where clients of a pool find an instance: at its own address, or, on a farm, wherever the VIP leads them.
    pub fn entrance(&self, instance: InstanceId, pool: usize) -> SocketAddr {
        let address = match &self.ground {
            Ground::Loopback { .. } => self.instance(instance),
            Ground::Farm(_) => plan::VIP.into(),
        };
        (address, POOL_PORTS.get(pool).copied().unwrap_or_default()).into()
    }

    /// The first address of the clients, each of which has one of its own in a network of ten bits.
    pub fn first_client(&self) -> Ipv4Addr {
        match &self.ground {
            Ground::Loopback { .. } => FIRST_CLIENT,
            Ground::Farm(_) => plan::FIRST_CLIENT,
        }
    }

    /// The port at which an instance itself waits for its peers.
    pub fn peers_port(&self) -> u16 {
        match &self.ground {
            Ground::Loopback { .. } => GRPC_BEHIND_RELAY_PORT,
            Ground::Farm(_) => GRPC_PORT,
        }
    }

    /// Has a command run where an instance is.
    pub fn house(&self, instance: InstanceId, command: &mut Command) -> Result<()> {
        match &self.ground {
            Ground::Loopback { .. } => Ok(()),
            Ground::Farm(net) => net.house(instance, command),
        }
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        self.place.directory()
    }

    /// Leaves the directory behind at the end.
    pub fn keep(&self) -> Result<()> {
        self.place.keep()
    }
}

fn host(octets: [u8; 2], host: u8) -> IpAddr {
    Ipv4Addr::new(127, octets[0], octets[1], host).into()
}

/// All below the range from which the system takes source ports.
pub const GRPC_PORT: u16 = 15001;
/// Where an instance itself listens behind its relay.
pub const GRPC_BEHIND_RELAY_PORT: u16 = 15002;
/// REST and dashboard.
pub const REST_PORT: u16 = 8001;
/// Prometheus.
pub const METRICS_PORT: u16 = 2112;
/// The pools, in the order of their numbers.
pub const POOL_PORTS: [u16; 2] = [9001, 9002];

/// Held for as long as the site is.
const CLAIM_PORT: u16 = 15_000;
const PORTS_PROBED: [u16; 7] =
    [GRPC_PORT, GRPC_BEHIND_RELAY_PORT, REST_PORT, METRICS_PORT, POOL_PORTS[0], POOL_PORTS[1], BACKEND_PORT];
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 0);
const BACKEND_PORT: u16 = 8887;
const FIRST_BACKEND_HOST: u8 = 101;
const ATTEMPTS_MAX: usize = 50;
