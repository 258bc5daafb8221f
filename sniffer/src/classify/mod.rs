//! What a flow carries, told by its first packets. Untrusted bytes: nothing here panics, and nothing grows without a bound.

mod dns;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod forge;
mod http;
mod plain;
mod quic;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod udp;

use flow::app as label;
pub use flow::app::{App, Confidence, Label};

use crate::decode::Packet;
use stream::Stream;

/// What classification of one flow may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets with a payload that are looked at.
    pub packets: u8,
    /// Bytes that are looked at of a packet, and remembered of each direction.
    pub bytes: u32,
    /// Bytes that are remembered of all flows together. Beyond it flows are not looked at further.
    pub bytes_of_all: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { packets: 12, bytes: 16 << 10, bytes_of_all: 256 << 20 }
    }
}

/// What is known after a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that there is to know.
    Known(Label),
    /// What it carries; later packets may tell a name.
    Partly(Label),
    /// Nothing yet.
    More,
}

/// What is remembered of a flow until it is known.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// What who sent the first packet said, and the other side.
    streams: [Stream; 2],
    quic: quic::Handshake,
    rtp: udp::Rtp,
    /// The best guess so far.
    guess: Option<Label>,
}

impl Pending {
    /// How much memory it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let label = self.guess.as_ref().map_or(0, |label| {
            [&label.host, &label.alpn, &label.ja4].iter().map(|text| text.as_ref().map_or(0, |text| text.len())).sum()
        });
        let streams: usize = self.streams.iter().map(Stream::allocated).sum();
        size_of::<Self>() + streams + self.quic.allocated() + label
    }
}

/// What is looked at of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// IANA protocol number.
    pub protocol: u8,
    /// The source port and the destination port.
    pub ports: (u16, u16),
    /// TCP's sequence number of the first byte.
    pub sequence: u32,
    /// What the transport carries.
    pub bytes: &'a [u8],
}

/// What of a packet's payload is worth to be looked at.
#[inline]
#[must_use]
pub fn of_interest<'a>(packet: &Packet<'a>, limits: &Limits) -> &'a [u8] {
    let most = if limits.packets > 0 && matches!(packet.protocol, TCP | UDP) { limits.bytes as usize } else { 0 };
    &packet.payload[..packet.payload.len().min(most)]
}

/// Looks at a payload that is not empty. `forward`: of who sent the flow's first packet.
pub fn examine(pending: &mut Option<Box<Pending>>, payload: &Payload<'_>, forward: bool, limits: &Limits) -> Verdict {
    let verdict = match payload.protocol {
        TCP => {
            // Nothing is remembered of a flow that its first payload tells all about.
            let first = if pending.is_none() { Some(tcp(payload.bytes, payload.ports)) } else { None };
            if let Some(Verdict::Known(_)) = first {
                return first.unwrap_or(Verdict::More);
            }
            let stream = &mut pending.get_or_insert_default().streams[usize::from(!forward)];
            stream.add(payload.sequence, payload.bytes, limits.bytes as usize);
            first.unwrap_or_else(|| tcp(stream.bytes(), payload.ports))
        }
        UDP => udp::examine(pending, payload.bytes, payload.ports, forward, limits),
        _ => return Verdict::More,
    };
    best(pending, verdict)
}

/// A name that only one packet tells is not lost to a guess that comes later.
fn best(pending: &mut Option<Box<Pending>>, verdict: Verdict) -> Verdict {
    let Verdict::Partly(label) = verdict else { return verdict };
    let guess = &mut pending.get_or_insert_default().guess;
    let better = guess
        .as_ref()
        .is_none_or(|guess| (label.confidence, label.host.is_some()) > (guess.confidence, guess.host.is_some()));
    if better {
        *guess = Some(label.clone());
        return Verdict::Partly(label);
    }
    Verdict::More
}

/// What one side of a TCP connection has said so far.
fn tcp(bytes: &[u8], ports: (u16, u16)) -> Verdict {
    if bytes.is_empty() {
        return Verdict::More;
    }
    if let Some(verdict) = tls::examine(bytes) {
        return verdict;
    }
    if let Some(verdict) = http::examine(bytes) {
        return verdict;
    }
    if let Some(verdict) = dns::over_tcp(bytes, ports) {
        return verdict;
    }
    // STUN goes over TCP as well, as it is (RFC 8489, section 6.2.2).
    plain::examine(bytes, ports).or_else(|| udp::stun(bytes)).unwrap_or(Verdict::More)
}

const TCP: u8 = 6;
const UDP: u8 = 17;
