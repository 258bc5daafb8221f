//! Two network namespaces with a cable between them, gone when the test is.

use std::{
    fs,
    io::{self, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Two machines with a cable between them. Nothing goes over it but what a test sends.
pub struct Cable {
    pub client: String,
    pub server: String,
}

impl Cable {
    /// Lays it; none where this is not permitted, which it says past the test's captured output.
    pub fn lay() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sniffer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cable = Self { client: format!("{name}c"), server: format!("{name}s") };
        if let Err(why) = ip(&["netns", "add", &cable.client]) {
            let line = format!("SKIPPED, NOT TESTED: no network namespace can be made here: {why}\n");
            io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        ip(&["netns", "add", &cable.server]).unwrap();
        ip(&[
            "link",
            "add",
            WIRE,
            "netns",
            &cable.client,
            "type",
            "veth",
            "peer",
            "name",
            WIRE,
            "netns",
            &cable.server,
        ])
        .unwrap();
        for (own, address, mac, other, other_mac) in [
            (&cable.client, CLIENT, CLIENT_MAC, SERVER, SERVER_MAC),
            (&cable.server, SERVER, SERVER_MAC, CLIENT, CLIENT_MAC),
        ] {
            // Neither neighbour discovery nor ARP: what is counted is what was sent.
            inside(own, || fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap());
            ip(&["-n", own, "link", "set", WIRE, "address", mac]).unwrap();
            ip(&["-n", own, "address", "add", &format!("{address}/24"), "dev", WIRE]).unwrap();
            ip(&["-n", own, "link", "set", WIRE, "up"]).unwrap();
            ip(&["-n", own, "neighbour", "replace", other, "lladdr", other_mac, "dev", WIRE]).unwrap();
        }
        Some(cable)
    }

    /// A datagram socket of the client, of some port.
    pub fn client_udp(&self) -> UdpSocket {
        inside(&self.client, || UdpSocket::bind((CLIENT, 0)).unwrap())
    }

    /// A datagram socket of the server, of some port.
    pub fn server_udp(&self) -> UdpSocket {
        inside(&self.server, || UdpSocket::bind((SERVER, 0)).unwrap())
    }

    /// A listener of the server, of some port.
    pub fn server_tcp(&self) -> TcpListener {
        inside(&self.server, || TcpListener::bind((SERVER, 0)).unwrap())
    }

    /// A connection of the client.
    pub fn connect(&self, port: u16) -> TcpStream {
        inside(&self.client, || TcpStream::connect((SERVER, port)).unwrap())
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The cable goes with its ends.
        for name in [&self.client, &self.server] {
            if let Err(why) = ip(&["netns", "delete", name]) {
                eprintln!("{name} stays behind: {why}");
            }
        }
    }
}

/// Does it in that namespace: sockets stay there.
fn inside<T: Send>(name: &str, act: impl FnOnce() -> T + Send) -> T {
    let space = fs::File::open(format!("/run/netns/{name}")).unwrap();
    let there = || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&space), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    };
    thread::scope(|scope| scope.spawn(there).join().unwrap())
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// Both ends have this name.
pub const WIRE: &str = "wire";

pub const CLIENT: &str = "192.0.2.1";
pub const SERVER: &str = "192.0.2.2";
const CLIENT_MAC: &str = "02:00:00:00:00:01";
const SERVER_MAC: &str = "02:00:00:00:00:02";
