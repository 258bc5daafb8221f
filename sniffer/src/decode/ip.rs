//! IPv4 (RFC 791), IPv6 and its extension headers (RFC 8200), and the ports behind them.

use flow::tuple::{Endpoint, IpVersion};

use super::{Packet, Skip, take, u16_at};

// IANA protocol numbers.
const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMP6: u8 = 58;
const DESTINATION: u8 = 60;
const SCTP: u8 = 132;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Reads the IP packet at the front of these bytes; what follows it is padding.
#[inline]
pub fn packet(vlan: Option<u16>, bytes: &[u8]) -> Result<Packet<'_>, Skip> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => v4(vlan, bytes),
        Some(6) => v6(vlan, bytes),
        _ => Err(Skip::Malformed),
    }
}

#[inline]
fn v4(vlan: Option<u16>, bytes: &[u8]) -> Result<Packet<'_>, Skip> {
    let (header, _) = take::<20>(bytes)?;
    let header_bytes = usize::from(header[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // A card that segments by itself is handed packets that do not say their length.
    let end = if total == 0 { bytes.len() } else { total.min(bytes.len()) };
    if header_bytes < 20 || (total != 0 && total < header_bytes) {
        return Err(Skip::Malformed);
    }
    let body = bytes.get(header_bytes..end).ok_or(Skip::Malformed)?;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if fragment != 0 {
        return Err(Skip::Fragment);
    }
    // In registers: bytes that are written one by one and read back at once would wait for each other.
    let address = |at: usize| {
        let four = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        (u128::from(u32::from_be_bytes(four)) << 96).to_be_bytes()
    };
    let (protocol, body) =
        if header[9] == AUTHENTICATION { extensions(AUTHENTICATION, body)? } else { (header[9], body) };
    transport(IpVersion::V4, vlan, header[1], (address(12), address(16)), protocol, body)
}

#[inline]
fn v6(vlan: Option<u16>, bytes: &[u8]) -> Result<Packet<'_>, Skip> {
    let (header, rest) = take::<40>(bytes)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // A jumbogram (RFC 2675) says its length in an option.
    let body = if length == 0 { rest } else { &rest[..length.min(rest.len())] };
    let tos = (header[0] << 4) | (header[1] >> 4);
    let mut addresses = ([0; 16], [0; 16]);
    addresses.0.copy_from_slice(&header[8..24]);
    addresses.1.copy_from_slice(&header[24..40]);
    let (protocol, body) = extensions(header[6], body)?;
    transport(IpVersion::V6, vlan, tos, addresses, protocol, body)
}

/// What is behind the extension headers. Each has eight bytes or more, so the bytes bound their number.
fn extensions(mut next: u8, mut bytes: &[u8]) -> Result<(u8, &[u8]), Skip> {
    loop {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 => {
                8 + 8 * usize::from(*bytes.get(1).ok_or(Skip::Malformed)?)
            }
            FRAGMENT => 8,
            // In words of four bytes, without the first two of them (RFC 4302).
            AUTHENTICATION => 8 + 4 * usize::from(*bytes.get(1).ok_or(Skip::Malformed)?),
            _ => return Ok((next, bytes)),
        };
        let header = bytes.get(..length).ok_or(Skip::Malformed)?;
        if next == FRAGMENT && u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
            return Err(Skip::Fragment);
        }
        next = header[0];
        bytes = &bytes[length..];
    }
}

// Always: a packet that is handed through several functions is copied in pieces that are then waited for.
#[inline(always)]
fn transport(
    version: IpVersion,
    vlan: Option<u16>,
    tos: u8,
    addresses: ([u8; 16], [u8; 16]),
    protocol: u8,
    body: &[u8],
) -> Result<Packet<'_>, Skip> {
    let mut tcp_flags = 0;
    let mut sequence = 0;
    let (ports, payload) = match protocol {
        TCP => {
            let (ports, _) = take::<4>(body)?;
            tcp_flags = body.get(13).copied().unwrap_or_default();
            sequence =
                body.get(4..8).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes));
            let header_bytes = body.get(12).map_or(usize::MAX, |offset| usize::from(offset >> 4) * 4);
            let whole = header_bytes >= 20;
            (pair(ports), body.get(header_bytes..).filter(|_| whole).unwrap_or_default())
        }
        UDP => {
            let (ports, _) = take::<4>(body)?;
            // What stands behind the length is no payload. A length of 0 is that of a jumbogram.
            let length = u16_at(body, 4).map_or(usize::MAX, usize::from);
            let end = if length < 8 { body.len() } else { length.min(body.len()) };
            (pair(ports), body.get(8..end).unwrap_or_default())
        }
        SCTP => {
            let (ports, _) = take::<4>(body)?;
            (pair(ports), body.get(12..).unwrap_or_default())
        }
        ICMP | ICMP6 => {
            let (kind, _) = take::<2>(body)?;
            ((u16::from(kind[0]), u16::from(kind[1])), body.get(8..).unwrap_or_default())
        }
        _ => ((0, 0), body),
    };
    let source = Endpoint { address: addresses.0, port: ports.0 };
    let destination = Endpoint { address: addresses.1, port: ports.1 };
    Ok(Packet { source, destination, version, protocol, tos, vlan, tcp_flags, sequence, payload })
}

fn pair(ports: &[u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]))
}
