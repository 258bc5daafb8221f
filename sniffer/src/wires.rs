//! Frames made by hand, for tests: each layer wraps what it is given.

use std::net::IpAddr;

/// An Ethernet frame.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[2; 6], &[4; 6][..], &kind.to_be_bytes(), payload].concat()
}

/// What an Ethernet type of that says which IP it is.
pub fn ip_type(packet: &[u8]) -> u16 {
    if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }
}

/// A VLAN tag and what is behind it, for an Ethernet type of 0x8100 or 0x88a8.
pub fn tagged(vlan: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&vlan.to_be_bytes(), &kind.to_be_bytes(), payload].concat()
}

/// An IP packet of the version of its addresses.
pub fn ip(protocol: u8, source: IpAddr, destination: IpAddr, tos: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (20 + payload.len() as u16).to_be_bytes();
            let head = [0x45, tos, total[0], total[1], 0, 1, 0, 0, 64, protocol, 0, 0];
            [&head[..], &source.octets(), &destination.octets(), payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (payload.len() as u16).to_be_bytes();
            let head = [0x60 | tos >> 4, tos << 4, 0, 0, length[0], length[1], protocol, 64];
            [&head[..], &source.octets(), &destination.octets(), payload].concat()
        }
        _ => panic!("one version of IP"),
    }
}

/// A UDP datagram.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    [&source.to_be_bytes(), &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0][..], payload].concat()
}

/// A TCP segment.
pub fn tcp(source: u16, destination: u16, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [&ports, &sequence.to_be_bytes()[..], &[0; 4], &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0], payload].concat()
}

/// An address.
pub fn at(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}
