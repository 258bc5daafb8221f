//! The PROXY protocol version 2 header, which tells a backend who its client is.

use std::net::{IpAddr, SocketAddr};

/// The header for a TCP connection from `client` to `destination`. Addresses of different families are told as IPv6.
#[must_use]
pub fn header(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SIGNATURE.len() + 4 + 36);
    bytes.extend_from_slice(&SIGNATURE);
    bytes.push(VERSION_2_PROXY);
    match (client.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend_from_slice(&[TCP_OVER_IPV4, 0, 12]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
        }
        (from, to) => {
            bytes.extend_from_slice(&[TCP_OVER_IPV6, 0, 36]);
            bytes.extend_from_slice(&six(from));
            bytes.extend_from_slice(&six(to));
        }
    }
    bytes.extend_from_slice(&client.port().to_be_bytes());
    bytes.extend_from_slice(&destination.port().to_be_bytes());
    bytes
}

fn six(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_bytes_are_those_of_the_specification() {
        let bytes = header("10.1.2.3:4660".parse().unwrap(), "192.168.0.1:80".parse().unwrap());
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x0a\x01\x02\x03\xc0\xa8\x00\x01\x12\x34\x00\x50";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn ipv6_and_mixed_are_told_as_ipv6() {
        let bytes = header("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
        assert_eq!(&bytes[12..16], b"\x21\x21\x00\x24");
        assert_eq!(bytes.len(), 16 + 36);
        assert_eq!(&bytes[48..], [0, 1, 0, 2]);
        let mixed = header("10.1.2.3:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
        assert_eq!(&mixed[16..32], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 1, 2, 3]);
        let mapped = header("[::ffff:10.1.2.3]:1".parse().unwrap(), "10.0.0.1:2".parse().unwrap());
        assert_eq!(mapped.len(), 28);
    }
}
