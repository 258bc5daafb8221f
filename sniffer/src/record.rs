//! A flow, as people and scripts read it.

use std::borrow::Cow;

use flow::tuple::protocol_name;
use serde::Serialize;

use crate::{
    observed::standing,
    track::{Event, Flow, Kind},
};

/// A flow, as people and scripts read it: in the words of the fleet's API.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The id of its 5-tuple, in decimal.
    pub id5: String,
    /// IANA protocol number.
    pub protocol: u8,
    /// The same, under the name by which other tools' records have it.
    pub proto: u8,
    /// Its name, or its number where it has none.
    pub protocol_name: Cow<'static, str>,
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
    /// Bytes of the frames from `src`, on the wire.
    pub bytes_fwd: u64,
    /// Bytes of the frames to `src`.
    pub bytes_rev: u64,
    /// Bytes of all frames.
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
    /// All TCP flags from `src`, as a number.
    pub tcp_flags_fwd: u8,
    /// To `src`.
    pub tcp_flags_rev: u8,
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
            id5: key.id().to_string(),
            protocol: key.protocol,
            proto: key.protocol,
            protocol_name: protocol_name(key.protocol),
            src: source.ip(key.version).to_string(),
            sport: source.port,
            dst: destination.ip(key.version).to_string(),
            dport: destination.port,
            packets_fwd: flow.counts[0].packets,
            packets_rev: flow.counts[1].packets,
            bytes_fwd: flow.counts[0].bytes,
            bytes_rev: flow.counts[1].bytes,
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
            tcp_flags_fwd: flow.tcp_flags[0],
            tcp_flags_rev: flow.tcp_flags[1],
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
    /// How far it is: `new`, `established`, `closing` or `ended`.
    pub state: &'static str,
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
            Kind::End(end) => ("end", Some(end.name())),
            Kind::Short(end) => ("short", Some(end.name())),
        };
        Self { event: name, state: standing(event).name(), end, record: Record::of(&event.flow) }
    }
}
