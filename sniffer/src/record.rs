//! A flow, as people and scripts read it.

use serde::Serialize;

use crate::track::{End, Event, Flow, Kind};

/// A flow, as people and scripts read it.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// IANA protocol number.
    pub proto: u8,
    /// Who sent the first packet.
    pub src: String,
    /// Its port; of ICMP the type.
    pub sport: u16,
    /// To whom.
    pub dst: String,
    /// Its port; of ICMP the code, or the type that answers.
    pub dport: u16,
    /// Packets from `src`.
    pub packets_fwd: u64,
    /// Packets to `src`.
    pub packets_rev: u64,
    /// Bytes of all frames on the wire.
    pub bytes_wire: u64,
    /// Community ID v1, seed 0.
    pub community_id: String,
    /// The application protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<&'static str>,
    /// How sure that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_confidence: Option<&'static str>,
    /// The name that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The first protocol that the client offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// The client's fingerprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ja4: Option<String>,
    /// QUIC's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic_version: Option<u32>,
    /// Microseconds since 1970 of the first packet.
    pub first_us: u64,
    /// And of the last.
    pub last_us: u64,
    /// TCP flags of both sides.
    pub tcp_flags: u8,
    /// The TOS byte of the first packet.
    pub tos: u8,
    /// The outermost VLAN of the first packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

impl Record {
    /// How a flow stands.
    #[must_use]
    pub fn of(flow: &Flow) -> Self {
        let key = &flow.key;
        let (source, destination) = if flow.from_low { (key.low, key.high) } else { (key.high, key.low) };
        let label = flow.label.as_deref();
        Self {
            proto: key.protocol,
            src: source.ip(key.version).to_string(),
            sport: source.port,
            dst: destination.ip(key.version).to_string(),
            dport: destination.port,
            packets_fwd: flow.counts[0].packets,
            packets_rev: flow.counts[1].packets,
            bytes_wire: flow.counts[0].bytes + flow.counts[1].bytes,
            community_id: key.community_id(),
            app: label.map(|label| label.app.name()),
            app_confidence: label.map(|label| label.confidence.name()),
            host: label.and_then(|label| label.host.as_deref().map(str::to_owned)),
            alpn: label.and_then(|label| label.alpn.as_deref().map(str::to_owned)),
            ja4: label.and_then(|label| label.ja4.as_deref().map(str::to_owned)),
            quic_version: label.and_then(|label| label.quic_version),
            first_us: flow.first_us,
            last_us: flow.last_us,
            tcp_flags: flow.tcp_flags[0] | flow.tcp_flags[1],
            tos: flow.tos,
            vlan: flow.vlan,
        }
    }
}

/// What happened to a flow, and how it stands: a line of a live capture.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// `start`, `update`, `end` or `short`.
    pub event: &'static str,
    /// Why it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<&'static str>,
    /// How it stands.
    #[serde(flatten)]
    pub record: Record,
}

impl Told {
    /// An event in words.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let (name, end) = match event.kind {
            Kind::Start => ("start", None),
            Kind::Update => ("update", None),
            Kind::End(end) => ("end", Some(why(end))),
            Kind::Short(end) => ("short", Some(why(end))),
        };
        Self { event: name, end, record: Record::of(&event.flow) }
    }
}

fn why(end: End) -> &'static str {
    match end {
        End::Idle => "idle",
        End::Closed => "closed",
        End::Evicted => "evicted",
        End::Reused => "reused",
        End::Finished => "finished",
    }
}
