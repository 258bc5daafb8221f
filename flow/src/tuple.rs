//! The 5-tuple of a flow, the same for both of its directions and everywhere: sniffers, load balancers, other people's tools.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use sha1::{Digest, Sha1};

/// The protocols above IP that have a name here, by their IANA numbers.
pub const PROTOCOLS: [(u8, &str); 5] = [(1, "icmp"), (6, "tcp"), (17, "udp"), (58, "icmpv6"), (132, "sctp")];

/// A protocol's name, or its number where it has none here.
#[must_use]
pub fn protocol_name(number: u8) -> Cow<'static, str> {
    let named = PROTOCOLS.iter().find(|(known, _)| *known == number);
    named.map_or_else(|| number.to_string().into(), |(_, name)| (*name).into())
}

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// Addresses of 4 bytes.
    V4,
    /// Addresses of 16 bytes.
    V6,
}

/// One side of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// In network order; IPv4 in the first four bytes, and zeros behind.
    pub address: [u8; 16],
    /// Of TCP, UDP or SCTP. Of ICMP the type or the code, or the type that answers; else 0.
    pub port: u16,
}

impl Endpoint {
    /// Of an address of either version.
    #[must_use]
    pub fn new(address: IpAddr, port: u16) -> (IpVersion, Self) {
        match address {
            IpAddr::V4(v4) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&v4.octets());
                (IpVersion::V4, Self { address: bytes, port })
            }
            IpAddr::V6(v6) => (IpVersion::V6, Self { address: v6.octets(), port }),
        }
    }

    /// The address as people write it.
    #[must_use]
    pub fn ip(&self, version: IpVersion) -> IpAddr {
        match version {
            IpVersion::V4 => {
                let [a, b, c, d, ..] = self.address;
                Ipv4Addr::new(a, b, c, d).into()
            }
            IpVersion::V6 => Ipv6Addr::from(self.address).into(),
        }
    }
}

/// A flow's 5-tuple with its endpoints in the order of Community ID v1: the lower address first, of equal ones the lower
/// port. ICMP messages that nothing answers keep the order in which they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The lower endpoint.
    pub low: Endpoint,
    /// The other one.
    pub high: Endpoint,
    /// IANA protocol number.
    pub protocol: u8,
    /// Of both endpoints.
    pub version: IpVersion,
}

impl FlowKey {
    /// The key of a packet, and whether the packet goes from `low` to `high`. Ports of ICMP are type and code as sent.
    #[must_use]
    #[inline]
    pub fn of(version: IpVersion, protocol: u8, source: Endpoint, destination: Endpoint) -> (Self, bool) {
        let (mut source, mut destination) = (source, destination);
        let mut one_way = false;
        if matches!(protocol, ICMP | ICMP6) {
            match answer_to(protocol, source.port) {
                Some(answer) => destination.port = answer,
                None => one_way = true,
            }
        }
        let forward = one_way || (source.address, source.port) <= (destination.address, destination.port);
        if !forward {
            std::mem::swap(&mut source, &mut destination);
        }
        (Self { low: source, high: destination, protocol, version }, forward)
    }

    /// Whether the endpoints are in the order in which [`FlowKey::of`] puts them. Of ICMP messages that nothing answers both
    /// orders are.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        let one_way =
            matches!(self.protocol, ICMP | ICMP6) && answer_to(self.protocol, self.low.port) != Some(self.high.port);
        one_way || (self.low.address, self.low.port) <= (self.high.address, self.high.port)
    }

    /// SHA-1 over what Community ID v1 hashes with seed 0 (github.com/corelight/community-id-spec), and `more`.
    fn digest(&self, more: &[u8]) -> [u8; 20] {
        let length = if self.version == IpVersion::V4 { 4 } else { 16 };
        let mut hash = Sha1::new();
        hash.update([0, 0]);
        hash.update(&self.low.address[..length]);
        hash.update(&self.high.address[..length]);
        hash.update([self.protocol, 0]);
        if matches!(self.protocol, TCP | UDP | SCTP | ICMP | ICMP6) {
            hash.update(self.low.port.to_be_bytes());
            hash.update(self.high.port.to_be_bytes());
        }
        hash.update(more);
        hash.finalize().into()
    }

    /// Community ID v1 with seed 0, as Zeek, Suricata and Wireshark write it.
    #[must_use]
    pub fn community_id(&self) -> String {
        format!("1:{}", BASE64_STANDARD.encode(self.digest(&[])))
    }

    /// The flow's id: the first 8 bytes, big-endian, of the hash in its Community ID.
    #[must_use]
    pub fn id(&self) -> u64 {
        first_u64(&self.digest(&[]))
    }

    /// The id of the 7-tuple: with the TOS byte and where the flow came in.
    #[must_use]
    pub fn id_with(&self, tos: u8, ingress: u32) -> u64 {
        let mut more = [tos, 0, 0, 0, 0];
        more[1..].copy_from_slice(&ingress.to_be_bytes());
        first_u64(&self.digest(&more))
    }
}

/// The id of a flow, of the text of its Community ID; none: it is no such text.
#[must_use]
pub fn id_of_community(text: &str) -> Option<u64> {
    let bytes = BASE64_STANDARD.decode(text.strip_prefix("1:")?).ok()?;
    (bytes.len() == 20).then(|| bytes.first_chunk().map(|first| u64::from_be_bytes(*first)))?
}

fn first_u64(digest: &[u8; 20]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The type of the ICMP message that answers, or is answered by, one of this type; none: there is no such.
fn answer_to(protocol: u8, kind: u16) -> Option<u16> {
    let pairs: &[(u16, u16)] = if protocol == ICMP {
        // Echo, router, timestamp, information, address mask.
        &[(0, 8), (9, 10), (13, 14), (15, 16), (17, 18)]
    } else {
        // Echo, listener, router, neighbour, node information, home agent.
        &[(128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)]
    };
    pairs.iter().find_map(|(a, b)| match kind {
        kind if kind == *a => Some(*b),
        kind if kind == *b => Some(*a),
        _ => None,
    })
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(protocol: u8, source: &str, source_port: u16, destination: &str, destination_port: u16) -> (FlowKey, bool) {
        let (version, source) = Endpoint::new(source.parse().unwrap(), source_port);
        let (_, destination) = Endpoint::new(destination.parse().unwrap(), destination_port);
        FlowKey::of(version, protocol, source, destination)
    }

    /// From baseline_deflt.json of the specification.
    #[test]
    fn community_ids_are_those_of_the_specification() {
        let cases = [
            (6, "128.232.110.120", 34855, "66.35.250.204", 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
            (17, "192.168.1.52", 54585, "8.8.8.8", 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
            (1, "192.168.0.89", 8, "192.168.0.1", 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
        ];
        for (protocol, source, source_port, destination, destination_port, expected) in cases {
            let (there, forward) = key(protocol, source, source_port, destination, destination_port);
            assert_eq!(there.community_id(), expected);
            assert_eq!(id_of_community(expected), Some(there.id()));
            if protocol != ICMP {
                let (back, backward) = key(protocol, destination, destination_port, source, source_port);
                assert_eq!((back, backward), (there, !forward));
            }
        }
    }

    #[test]
    fn what_nothing_answers_keeps_its_direction() {
        let (there, _) = key(ICMP, "10.0.0.9", 3, "10.0.0.1", 1);
        let (back, _) = key(ICMP, "10.0.0.1", 3, "10.0.0.9", 1);
        assert_ne!(there, back);
        let (echo, forward) = key(ICMP, "10.0.0.9", 8, "10.0.0.1", 0);
        let (reply, backward) = key(ICMP, "10.0.0.1", 0, "10.0.0.9", 0);
        assert_eq!((echo, forward), (reply, !backward));
    }

    #[test]
    fn a_seventh_part_makes_another_id_and_other_text_is_no_id() {
        let (key, _) = key(6, "10.0.0.1", 1, "10.0.0.2", 2);
        let ids = [key.id(), key.id_with(0, 0), key.id_with(4, 0), key.id_with(0, 4)];
        assert!(ids.iter().enumerate().all(|(place, id)| !ids[..place].contains(id)));
        for text in ["", "1:", "2:LQU9qZlK+B5F3KDmev6m5PMibrg=", "1:LQU9", "1:?"] {
            assert_eq!(id_of_community(text), None, "{text}");
        }
    }
}
