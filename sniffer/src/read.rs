//! `sniffer read`: a capture file as flow records.

use std::path::Path;

use serde::Serialize;

use crate::{
    capture::{CaptureError, File},
    decode::{Skip, decode},
    track::{Config, Event, Kind, Tracker},
};

/// A capture file and its flows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// Packets in it. The sum of those of the flows and of all below.
    pub packets: u64,
    /// Frames without IP.
    pub not_ip: u64,
    /// Later fragments, which have no ports.
    pub nonfirst_fragments: u64,
    /// Frames whose headers are cut off or contradict themselves.
    pub malformed: u64,
    /// Frames below whose IP is a layer that is not known.
    pub unknown_link: u64,
    /// Flows that were ended because there were too many at once; their packets are in records of their own.
    pub evicted: u64,
    /// The flows, by their first packet.
    pub flows: Vec<Record>,
}

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

/// Reads a capture. What could be read is in the report also where an error says that it was not all.
#[must_use]
pub fn read(path: &Path, filter: Option<&str>, config: Config) -> (Report, Option<CaptureError>) {
    let mut report = Report { file: path.display().to_string(), ..Report::default() };
    let mut tracker = Tracker::new(config);
    let mut skipped = [0; Skip::ALL.len()];
    let mut records = Vec::new();
    let opened =
        File::open(path).and_then(|mut file| filter.map_or(Ok(()), |filter| file.filter(filter)).map(|()| file));
    let outcome = opened.and_then(|mut file| {
        let link = file.link;
        file.each(|captured| {
            report.packets += 1;
            match link.ok_or(Skip::UnknownLink).and_then(|link| decode(link, captured.bytes)) {
                Ok(packet) => tracker.handle_packet(captured.at_us, captured.wire_bytes, &packet),
                Err(reason) => skipped[reason.place()] += 1,
            }
            records.extend(tracker.poll_events().iter().filter_map(record));
        })
    });
    tracker.finish();
    records.extend(tracker.poll_events().iter().filter_map(record));
    records.sort_by_key(|record: &Record| record.first_us);
    [report.not_ip, report.nonfirst_fragments, report.malformed, report.unknown_link] = skipped;
    report.evicted = tracker.counters().evicted;
    report.flows = records;
    (report, outcome.err())
}

/// The record of a flow that is over.
fn record(event: &Event) -> Option<Record> {
    let flow = &event.flow;
    if !matches!(event.kind, Kind::End(_) | Kind::Short(_)) {
        return None;
    }
    let key = &flow.key;
    let (source, destination) = if flow.from_low { (key.low, key.high) } else { (key.high, key.low) };
    let label = flow.label.as_deref();
    Some(Record {
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
    })
}
