//! From the bytes of a frame to the addresses, ports and payload of its outermost IP header. Nothing is copied or allocated;
//! any bytes are survived.

mod ip;
mod link;
#[cfg(test)]
mod tests;

pub use link::Link;

use flow::tuple::{Endpoint, FlowKey, IpVersion};

/// What a frame says of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Who sent it. Ports are those of TCP, UDP and SCTP, the type and code of ICMP, else 0.
    pub source: Endpoint,
    /// To whom.
    pub destination: Endpoint,
    /// 4 or 6.
    pub version: IpVersion,
    /// The protocol behind the IP header and its extensions (IANA protocol numbers).
    pub protocol: u8,
    /// The TOS byte of IPv4, the traffic class of IPv6.
    pub tos: u8,
    /// The outermost VLAN id.
    pub vlan: Option<u16>,
    /// The flags of TCP (RFC 9293: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128); else 0.
    pub tcp_flags: u8,
    /// TCP's sequence number of the first payload byte; else 0.
    pub sequence: u32,
    /// What the transport carries, as far as it was captured and is no padding.
    pub payload: &'a [u8],
}

impl Packet<'_> {
    /// The bidirectional key, and whether this packet goes from its first endpoint to its second.
    #[must_use]
    pub fn key(&self) -> (FlowKey, bool) {
        FlowKey::of(self.version, self.protocol, self.source, self.destination)
    }
}

/// Why a frame belongs to no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Skip {
    /// No IP in it: ARP, spanning tree, ...
    NotIp,
    /// A later fragment of a packet: without ports.
    Fragment,
    /// Headers that contradict themselves, or that are cut off.
    Malformed,
    /// A link type, or a layer below IP, that is not known.
    UnknownLink,
}

impl Skip {
    /// All of them, in the order of [`Skip::place`].
    pub const ALL: [Self; 4] = [Self::NotIp, Self::Fragment, Self::Malformed, Self::UnknownLink];

    /// Its name in metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Fragment => "fragment",
            Self::Malformed => "malformed",
            Self::UnknownLink => "unknown_link",
        }
    }

    /// Its place in [`Skip::ALL`].
    #[must_use]
    pub fn place(self) -> usize {
        self as usize
    }
}

/// Reads a frame of that link type. Look at what it returns where it is (`match &decode(..)`): to move it costs a third of all
/// that a packet costs.
///
/// # Errors
/// Why it belongs to no flow.
#[inline]
pub fn decode(link: Link, frame: &[u8]) -> Result<Packet<'_>, Skip> {
    let (vlan, bytes) = link::network(link, frame)?;
    ip::packet(vlan, bytes)
}

/// The first `N` bytes, and the rest.
fn take<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), Skip> {
    bytes.split_first_chunk().ok_or(Skip::Malformed)
}

fn u16_at(bytes: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(place..)?.first_chunk()?))
}
