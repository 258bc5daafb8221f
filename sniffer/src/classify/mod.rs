//! What a flow carries, told by its first packets. Untrusted bytes: nothing here panics, and nothing grows without a bound.

mod dns;
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
    /// Bytes that are remembered of each direction.
    pub bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { packets: 12, bytes: 16 << 10 }
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

/// Looks at a packet with a payload. `forward`: of who sent the flow's first packet.
pub fn examine(pending: &mut Option<Box<Pending>>, packet: &Packet<'_>, forward: bool, limits: &Limits) -> Verdict {
    let ports = (packet.source.port, packet.destination.port);
    let verdict = match packet.protocol {
        TCP => {
            let pending = pending.get_or_insert_default();
            let stream = &mut pending.streams[usize::from(!forward)];
            stream.add(packet.sequence, packet.payload, limits.bytes as usize);
            tcp(stream.bytes(), ports)
        }
        UDP => udp::examine(pending, packet.payload, ports, forward, limits),
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
