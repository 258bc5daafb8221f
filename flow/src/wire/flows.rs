//! Commands of flow groups as bytes, and the rows of their tables.

use prost::Message;

use super::{Empty, WireError, pick, port};
use crate::{
    app::{ALPN_BYTES_MAX, App, Confidence, HOST_BYTES_MAX, JA4_BYTES_MAX, Label},
    flows::{
        Counts, EVENTS_PER_BATCH_MAX, End, FlowCommand, FlowId, FlowRecord, LABELS_MAX, NAME_BYTES_MAX, OBSERVERS_MAX,
        Observation, Observed, SnifferId, Standing, Verdict,
    },
    ids::{LogTime, Revision},
    tuple::{Endpoint, FlowKey, IpVersion},
};

impl FlowCommand {
    /// The command's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::Report { sniffer, epoch, sequence, name, events } => FlowKind::Report(ReportMessage {
                sniffer: sniffer.0,
                epoch: *epoch,
                sequence: *sequence,
                name: name.to_string(),
                events: events.iter().map(ObservedMessage::from).collect(),
            }),
            Self::Annotate { flow, revision, labels, verdict } => FlowKind::Annotate(AnnotateMessage {
                flow: flow.0,
                revision: revision.0,
                labels: labels
                    .iter()
                    .map(|(name, value)| PairMessage { name: name.clone(), value: value.clone() })
                    .collect(),
                verdict: verdict.as_ref().map(VerdictMessage::from),
            }),
            Self::Tick => FlowKind::Tick(Empty {}),
        };
        FlowMessage { command: Some(kind) }.encode_to_vec()
    }

    /// The bytes of the command of a report, as [`encode_report`] makes it.
    #[must_use]
    pub fn of_report(report: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(report.len() + 8);
        prost::encoding::encode_key(REPORT_TAG, prost::encoding::WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(report.len() as u64, &mut bytes);
        bytes.extend_from_slice(report);
        bytes
    }

    /// Reads a command.
    ///
    /// # Errors
    /// If the bytes are not a command of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        // An event of two bytes takes some hundred in memory: they are counted before they are read.
        if events_in(bytes)? > EVENTS_PER_BATCH_MAX {
            return Err(WireError::Field("events"));
        }
        Ok(match FlowMessage::decode(bytes)?.command.ok_or(WireError::Field("command"))? {
            FlowKind::Report(report) => {
                if report.name.len() > NAME_BYTES_MAX {
                    return Err(WireError::Field("name"));
                }
                Self::Report {
                    sniffer: SnifferId(report.sniffer),
                    epoch: report.epoch,
                    sequence: report.sequence,
                    name: report.name.into(),
                    events: report.events.into_iter().map(Observed::try_from).collect::<Result<_, _>>()?,
                }
            }
            FlowKind::Annotate(annotate) => Self::Annotate {
                flow: FlowId(annotate.flow),
                revision: Revision(annotate.revision),
                labels: annotate.labels.into_iter().map(|pair| (pair.name, pair.value)).collect(),
                verdict: annotate.verdict.map(Verdict::from),
            },
            FlowKind::Tick(_) => Self::Tick,
        })
    }
}

impl Observed {
    /// Its bytes as one of the events of a report, with tag and length: so many of these as there are events, one after the
    /// other, are the events of [`encode_report`].
    #[must_use]
    pub fn encode_event(&self) -> Vec<u8> {
        let message = ObservedMessage::from(self);
        let mut bytes = Vec::with_capacity(prost::encoding::message::encoded_len(EVENTS_TAG, &message));
        prost::encoding::message::encode(EVENTS_TAG, &message, &mut bytes);
        bytes
    }
}

/// The bytes of a report, without the command around it, whose events are bytes already. What is sent to an instance; it can
/// be numbered anew without making its events into bytes again.
#[must_use]
pub fn encode_report(name: &str, epoch: u64, sequence: u64, events: &[u8]) -> Vec<u8> {
    let sniffer = SnifferId::of(name).0;
    let head = ReportMessage { sniffer, epoch, sequence, events: Vec::new(), name: String::new() };
    let tail = ReportMessage { name: name.to_owned(), ..ReportMessage::default() };
    let mut bytes = Vec::with_capacity(head.encoded_len() + events.len() + tail.encoded_len());
    head.encode_raw(&mut bytes);
    bytes.extend_from_slice(events);
    tail.encode_raw(&mut bytes);
    bytes
}

/// How many events the report in a command has.
fn events_in(command: &[u8]) -> Result<usize, WireError> {
    let mut events = 0;
    let mut reports = command;
    while !reports.is_empty() {
        let (tag, report) = field(&mut reports)?;
        let mut fields = if tag == REPORT_TAG { report } else { &[] };
        while !fields.is_empty() {
            events += usize::from(field(&mut fields)?.0 == EVENTS_TAG);
        }
    }
    Ok(events)
}

/// Takes a field off: its tag, and its bytes if it has a length.
fn field<'a>(bytes: &mut &'a [u8]) -> Result<(u32, &'a [u8]), WireError> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let (tag, kind) = decode_key(bytes)?;
    if kind != WireType::LengthDelimited {
        skip_field(kind, tag, bytes, DecodeContext::default())?;
        return Ok((tag, &[]));
    }
    let length = usize::try_from(decode_varint(bytes)?).unwrap_or(usize::MAX);
    let (inner, rest) = bytes.split_at_checked(length).ok_or(WireError::Field("length"))?;
    *bytes = rest;
    Ok((tag, inner))
}

#[derive(Clone, PartialEq, Message)]
struct FlowMessage {
    #[prost(oneof = "FlowKind", tags = "1, 2, 3")]
    command: Option<FlowKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum FlowKind {
    #[prost(message, tag = "1")]
    Report(ReportMessage),
    #[prost(message, tag = "2")]
    Annotate(AnnotateMessage),
    #[prost(message, tag = "3")]
    Tick(Empty),
}

#[derive(Clone, PartialEq, Message)]
struct ReportMessage {
    #[prost(fixed64, tag = "1")]
    sniffer: u64,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(message, repeated, tag = "4")]
    events: Vec<ObservedMessage>,
    #[prost(string, tag = "5")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct AnnotateMessage {
    #[prost(fixed64, tag = "1")]
    flow: u64,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(message, repeated, tag = "3")]
    labels: Vec<PairMessage>,
    #[prost(message, optional, tag = "4")]
    verdict: Option<VerdictMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PairMessage {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VerdictMessage {
    #[prost(string, tag = "1")]
    pub action: String,
    #[prost(string, tag = "2")]
    pub source: String,
}

/// A key: protocol, addresses of 4 or 16 bytes, ports.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyMessage {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(bytes = "vec", tag = "2")]
    low: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    high: Vec<u8>,
    #[prost(uint32, tag = "4")]
    low_port: u32,
    #[prost(uint32, tag = "5")]
    high_port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelMessage {
    #[prost(uint32, tag = "1")]
    app: u32,
    #[prost(uint32, tag = "2")]
    confidence: u32,
    #[prost(string, tag = "3")]
    host: String,
    #[prost(string, tag = "4")]
    alpn: String,
    #[prost(string, tag = "5")]
    ja4: String,
    #[prost(uint32, optional, tag = "6")]
    quic_version: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct ObservedMessage {
    #[prost(message, optional, tag = "1")]
    key: Option<KeyMessage>,
    #[prost(uint32, optional, tag = "2")]
    tos: Option<u32>,
    #[prost(uint32, tag = "3")]
    ingress: u32,
    #[prost(bool, tag = "4")]
    from_low: bool,
    #[prost(uint32, tag = "5")]
    standing: u32,
    /// 0: it goes on.
    #[prost(uint32, tag = "6")]
    end: u32,
    #[prost(uint64, tag = "7")]
    first_us: u64,
    /// Since the first packet.
    #[prost(uint64, tag = "8")]
    lasted_us: u64,
    #[prost(uint64, tag = "9")]
    low_packets: u64,
    #[prost(uint64, tag = "10")]
    low_bytes: u64,
    #[prost(uint64, tag = "11")]
    high_packets: u64,
    #[prost(uint64, tag = "12")]
    high_bytes: u64,
    /// Of the low endpoint, and of the high one in the next eight bits.
    #[prost(uint32, tag = "13")]
    tcp_flags: u32,
    #[prost(uint32, optional, tag = "14")]
    vlan: Option<u32>,
    /// 0 means 1.
    #[prost(uint32, tag = "15")]
    sample: u32,
    #[prost(message, optional, tag = "16")]
    label: Option<LabelMessage>,
}

impl From<&Observed> for ObservedMessage {
    fn from(seen: &Observed) -> Self {
        Self {
            key: Some((&seen.key).into()),
            tos: seen.seventh.map(|(tos, _)| tos.into()),
            ingress: seen.seventh.map_or(0, |(_, ingress)| ingress),
            from_low: seen.from_low,
            standing: seen.standing as u32,
            end: seen.end.map_or(0, |end| end as u32),
            first_us: seen.first_us,
            lasted_us: seen.last_us.saturating_sub(seen.first_us),
            low_packets: seen.counts[0].packets,
            low_bytes: seen.counts[0].bytes,
            high_packets: seen.counts[1].packets,
            high_bytes: seen.counts[1].bytes,
            tcp_flags: flags(seen.tcp_flags),
            vlan: seen.vlan.map(u32::from),
            sample: if seen.sample == 1 { 0 } else { seen.sample },
            label: seen.label.as_ref().map(LabelMessage::from),
        }
    }
}

impl TryFrom<ObservedMessage> for Observed {
    type Error = WireError;

    fn try_from(message: ObservedMessage) -> Result<Self, WireError> {
        Ok(Self {
            key: message.key.ok_or(WireError::Field("key"))?.try_into()?,
            seventh: seventh(message.tos, message.ingress)?,
            from_low: message.from_low,
            standing: standing(message.standing)?,
            end: end(message.end)?,
            first_us: message.first_us,
            last_us: message.first_us.checked_add(message.lasted_us).ok_or(WireError::Field("time"))?,
            counts: [
                Counts { packets: message.low_packets, bytes: message.low_bytes },
                Counts { packets: message.high_packets, bytes: message.high_bytes },
            ],
            tcp_flags: flags_of(message.tcp_flags)?,
            vlan: vlan(message.vlan)?,
            sample: message.sample.max(1),
            label: message.label.map(Label::try_from).transpose()?,
        })
    }
}

/// A record of the table, as snapshots have it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FlowRowMessage {
    #[prost(message, optional, tag = "1")]
    key: Option<KeyMessage>,
    #[prost(uint32, optional, tag = "2")]
    tos: Option<u32>,
    #[prost(uint32, tag = "3")]
    ingress: u32,
    #[prost(bool, tag = "4")]
    from_low: bool,
    #[prost(uint32, optional, tag = "5")]
    vlan: Option<u32>,
    #[prost(message, optional, tag = "6")]
    label: Option<LabelMessage>,
    #[prost(message, repeated, tag = "7")]
    labels: Vec<PairMessage>,
    #[prost(message, optional, tag = "8")]
    verdict: Option<VerdictMessage>,
    /// Log time in milliseconds.
    #[prost(uint64, tag = "9")]
    verdict_at: u64,
    #[prost(uint64, tag = "10")]
    revision: u64,
    #[prost(uint64, tag = "11")]
    expires: u64,
    #[prost(message, repeated, tag = "12")]
    observations: Vec<ObservationMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ObservationMessage {
    #[prost(fixed64, tag = "1")]
    sniffer: u64,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    first_us: u64,
    #[prost(uint64, tag = "4")]
    last_us: u64,
    /// Packets and bytes from the low endpoint, those from the high one, then the same of what was counted before.
    #[prost(uint64, repeated, tag = "5")]
    counts: Vec<u64>,
    #[prost(uint32, tag = "6")]
    tcp_flags: u32,
    #[prost(uint32, tag = "7")]
    standing: u32,
    #[prost(uint32, tag = "8")]
    end: u32,
    #[prost(uint32, tag = "9")]
    sample: u32,
}

impl From<&FlowRecord> for FlowRowMessage {
    fn from(record: &FlowRecord) -> Self {
        let labels = record.labels.iter();
        Self {
            key: Some((&record.key).into()),
            tos: record.seventh.map(|(tos, _)| tos.into()),
            ingress: record.seventh.map_or(0, |(_, ingress)| ingress),
            from_low: record.from_low,
            vlan: record.vlan.map(u32::from),
            label: record.label.as_ref().map(LabelMessage::from),
            labels: labels
                .map(|(name, value)| PairMessage { name: name.to_string(), value: value.to_string() })
                .collect(),
            verdict: record.verdict.as_ref().map(|(verdict, _)| verdict.into()),
            verdict_at: record.verdict.as_ref().map_or(0, |(_, at)| at.0),
            revision: record.revision.0,
            expires: record.expires.0,
            observations: record.observations.iter().map(ObservationMessage::from).collect(),
        }
    }
}

impl TryFrom<FlowRowMessage> for FlowRecord {
    type Error = WireError;

    fn try_from(row: FlowRowMessage) -> Result<Self, WireError> {
        if row.observations.len() > OBSERVERS_MAX || row.labels.len() > LABELS_MAX {
            return Err(WireError::Field("observations or labels"));
        }
        let observations: Vec<Observation> =
            row.observations.into_iter().map(Observation::try_from).collect::<Result<_, _>>()?;
        let verdict_at = LogTime(row.verdict_at);
        Ok(Self {
            key: row.key.ok_or(WireError::Field("key"))?.try_into()?,
            seventh: seventh(row.tos, row.ingress)?,
            from_low: row.from_low,
            vlan: vlan(row.vlan)?,
            label: row.label.map(Label::try_from).transpose()?,
            labels: row.labels.into_iter().map(|pair| (pair.name.into(), pair.value.into())).collect(),
            verdict: row.verdict.map(|verdict| (verdict.into(), verdict_at)),
            revision: Revision(row.revision),
            expires: LogTime(row.expires),
            observations,
        })
    }
}

impl From<&Observation> for ObservationMessage {
    fn from(seen: &Observation) -> Self {
        Self {
            sniffer: seen.sniffer.0,
            epoch: seen.epoch,
            first_us: seen.first_us,
            last_us: seen.last_us,
            counts: seen.counts.iter().chain(&seen.before).flat_map(|side| [side.packets, side.bytes]).collect(),
            tcp_flags: flags(seen.tcp_flags),
            standing: seen.standing as u32,
            end: seen.end.map_or(0, |end| end as u32),
            sample: seen.sample,
        }
    }
}

impl TryFrom<ObservationMessage> for Observation {
    type Error = WireError;

    fn try_from(message: ObservationMessage) -> Result<Self, WireError> {
        let [a, b, c, d, e, f, g, h] = message.counts[..] else { return Err(WireError::Field("counts")) };
        let side = |packets, bytes| Counts { packets, bytes };
        Ok(Self {
            sniffer: SnifferId(message.sniffer),
            epoch: message.epoch,
            first_us: message.first_us,
            last_us: message.last_us,
            counts: [side(a, b), side(c, d)],
            before: [side(e, f), side(g, h)],
            tcp_flags: flags_of(message.tcp_flags)?,
            standing: standing(message.standing)?,
            end: end(message.end)?,
            sample: message.sample,
        })
    }
}

/// The flags of the low endpoint, and those of the high one in the next eight bits.
fn flags(flags: [u8; 2]) -> u32 {
    u32::from(flags[0]) | u32::from(flags[1]) << 8
}

fn flags_of(number: u32) -> Result<[u8; 2], WireError> {
    let [low, high, 0, 0] = number.to_le_bytes() else { return Err(WireError::Field("tcp flags")) };
    Ok([low, high])
}

fn seventh(tos: Option<u32>, ingress: u32) -> Result<Option<(u8, u32)>, WireError> {
    let tos = tos.map(|tos| u8::try_from(tos).map_err(|_| WireError::Field("tos"))).transpose()?;
    Ok(tos.map(|tos| (tos, ingress)))
}

fn vlan(vlan: Option<u32>) -> Result<Option<u16>, WireError> {
    vlan.map(|vlan| u16::try_from(vlan).map_err(|_| WireError::Field("vlan"))).transpose()
}

impl From<&FlowKey> for KeyMessage {
    fn from(key: &FlowKey) -> Self {
        let length = if key.version == IpVersion::V4 { 4 } else { 16 };
        Self {
            protocol: key.protocol.into(),
            low: key.low.address[..length].to_vec(),
            high: key.high.address[..length].to_vec(),
            low_port: key.low.port.into(),
            high_port: key.high.port.into(),
        }
    }
}

impl TryFrom<KeyMessage> for FlowKey {
    type Error = WireError;

    fn try_from(message: KeyMessage) -> Result<Self, WireError> {
        let version = match (message.low.len(), message.high.len()) {
            (4, 4) => IpVersion::V4,
            (16, 16) => IpVersion::V6,
            _ => return Err(WireError::Field("address")),
        };
        let endpoint = |bytes: &[u8], number| -> Result<Endpoint, WireError> {
            let mut address = [0; 16];
            address[..bytes.len()].copy_from_slice(bytes);
            Ok(Endpoint { address, port: port(number)? })
        };
        let key = Self {
            low: endpoint(&message.low, message.low_port)?,
            high: endpoint(&message.high, message.high_port)?,
            protocol: u8::try_from(message.protocol).map_err(|_| WireError::Field("protocol"))?,
            version,
        };
        // Else one flow would have two records.
        key.is_in_order().then_some(key).ok_or(WireError::Field("order of endpoints"))
    }
}

impl From<&Label> for LabelMessage {
    fn from(label: &Label) -> Self {
        let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
        Self {
            app: label.app.number().into(),
            confidence: label.confidence as u32,
            host: text(&label.host),
            alpn: text(&label.alpn),
            ja4: text(&label.ja4),
            quic_version: label.quic_version,
        }
    }
}

impl TryFrom<LabelMessage> for Label {
    type Error = WireError;

    fn try_from(message: LabelMessage) -> Result<Self, WireError> {
        let app = u16::try_from(message.app).ok().and_then(App::of).ok_or(WireError::Field("app"))?;
        let text = |text: String, most: usize| match text.len() {
            0 => Ok(None),
            length if length <= most => Ok(Some(text.into_boxed_str())),
            _ => Err(WireError::Field("label")),
        };
        Ok(Self {
            app,
            confidence: pick(&Confidence::ALL, message.confidence.wrapping_sub(1), "confidence")?,
            host: text(message.host, HOST_BYTES_MAX)?,
            alpn: text(message.alpn, ALPN_BYTES_MAX)?,
            ja4: text(message.ja4, JA4_BYTES_MAX)?,
            quic_version: message.quic_version,
        })
    }
}

impl From<&Verdict> for VerdictMessage {
    fn from(verdict: &Verdict) -> Self {
        Self { action: verdict.action.to_string(), source: verdict.source.to_string() }
    }
}

impl From<VerdictMessage> for Verdict {
    fn from(message: VerdictMessage) -> Self {
        Self { action: message.action.into(), source: message.source.into() }
    }
}

pub(crate) fn standing(number: u32) -> Result<Standing, WireError> {
    pick(&Standing::ALL, number.wrapping_sub(1), "standing")
}

pub(crate) fn end(number: u32) -> Result<Option<End>, WireError> {
    if number == 0 {
        return Ok(None);
    }
    let all = [End::Idle, End::Closed, End::Evicted, End::Reused, End::Finished];
    pick(&all, number - 1, "end").map(Some)
}

/// The tag of a report's events.
const EVENTS_TAG: u32 = 4;

/// The tag of a report in a command.
const REPORT_TAG: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn observed() -> Observed {
        let (version, source) = Endpoint::new("2001:db8::9".parse().unwrap(), 50_000);
        let (_, destination) = Endpoint::new("2001:db8::1".parse().unwrap(), 443);
        let (key, from_low) = FlowKey::of(version, 17, source, destination);
        let mut label = Label::new(App::Quic, Confidence::Payload).named(b"example.net");
        label.quic_version = Some(1);
        label.alpn = Some("h3".into());
        Observed {
            key,
            seventh: Some((46, 7)),
            from_low,
            standing: Standing::Closing,
            end: Some(End::Reused),
            first_us: 1_700_000_000_000_000,
            last_us: 1_700_000_000_500_000,
            counts: [Counts { packets: 1, bytes: 2 }, Counts { packets: 3, bytes: u64::MAX }],
            tcp_flags: [2, 255],
            vlan: Some(4095),
            sample: 16,
            label: Some(label),
        }
    }

    fn commands() -> Vec<FlowCommand> {
        let mut bare = observed();
        (bare.seventh, bare.end, bare.vlan, bare.label, bare.sample) = (None, None, None, None, 1);
        (bare.key.low.address, bare.key.high.address, bare.key.version) = ([0; 16], [0; 16], IpVersion::V4);
        bare.key.low.port = 1;
        bare.key.high.port = 2;
        let verdict = Verdict { action: "drop".into(), source: "firewall".into() };
        vec![
            FlowCommand::Report {
                sniffer: SnifferId(u64::MAX),
                epoch: 1,
                sequence: 2,
                name: "a:eth0".into(),
                events: vec![observed(), bare],
            },
            FlowCommand::Report { sniffer: SnifferId(0), epoch: 0, sequence: 0, name: "".into(), events: Vec::new() },
            FlowCommand::Annotate {
                flow: FlowId(9),
                revision: Revision(8),
                labels: vec![("a".to_owned(), String::new())],
                verdict: Some(verdict),
            },
            FlowCommand::Tick,
        ]
    }

    #[test]
    fn every_command_comes_back_as_it_went() {
        for command in commands() {
            assert_eq!(FlowCommand::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn a_report_made_of_parts_is_the_one_inside_its_command() {
        for command in commands() {
            let FlowCommand::Report { epoch, sequence, name, events, .. } = command else { continue };
            let parts: Vec<u8> = events.iter().flat_map(Observed::encode_event).collect();
            let report = encode_report(&name, epoch, sequence, &parts);
            let command = FlowCommand::Report { sniffer: SnifferId::of(&name), epoch, sequence, name, events };
            assert_eq!(FlowCommand::of_report(&report), command.encode());
        }
    }

    #[test]
    fn bytes_that_make_no_sense_are_errors_and_never_panics() {
        for command in commands() {
            let whole = command.encode();
            for place in 0..whole.len() {
                drop(FlowCommand::decode(&whole[..place]));
                for bit in 0..8 {
                    let mut bytes = whole.clone();
                    bytes[place] ^= 1 << bit;
                    if let Ok(again) = FlowCommand::decode(&bytes) {
                        assert_eq!(FlowCommand::decode(&again.encode()), Ok(again));
                    }
                }
            }
        }
    }

    #[test]
    fn endpoints_in_the_wrong_order_and_too_many_events_are_refused() {
        let mut turned = observed();
        std::mem::swap(&mut turned.key.low, &mut turned.key.high);
        let report =
            |events| FlowCommand::Report { sniffer: SnifferId(1), epoch: 1, sequence: 1, name: "".into(), events };
        assert!(FlowCommand::decode(&report(vec![turned]).encode()).is_err());
        let many = vec![observed(); EVENTS_PER_BATCH_MAX + 1];
        assert!(FlowCommand::decode(&report(many).encode()).is_err());
        let nothing = [0x22, 0].repeat(EVENTS_PER_BATCH_MAX + 1);
        assert_eq!(FlowCommand::decode(&FlowCommand::of_report(&nothing)), Err(WireError::Field("events")));
    }

    #[test]
    fn a_label_with_a_longer_word_than_there_may_be_is_refused() {
        let labelled = |host: usize, alpn: usize, ja4: usize| {
            let mut event = observed();
            let word = |length| Some("a".repeat(length).into_boxed_str());
            let label = event.label.as_mut().unwrap();
            (label.host, label.alpn, label.ja4) = (word(host), word(alpn), word(ja4));
            let report = FlowCommand::Report {
                sniffer: SnifferId(1),
                epoch: 1,
                sequence: 1,
                name: "".into(),
                events: vec![event],
            };
            FlowCommand::decode(&report.encode())
        };
        assert!(labelled(HOST_BYTES_MAX, ALPN_BYTES_MAX, JA4_BYTES_MAX).is_ok());
        assert_eq!(labelled(HOST_BYTES_MAX + 1, 1, 1), Err(WireError::Field("label")));
        assert_eq!(labelled(1, ALPN_BYTES_MAX + 1, 1), Err(WireError::Field("label")));
        assert_eq!(labelled(1, 1, JA4_BYTES_MAX + 1), Err(WireError::Field("label")));
    }

    #[test]
    fn a_batch_of_new_flows_is_as_large_as_its_limit_allows() {
        let most = FlowCommand::Report {
            sniffer: SnifferId(1),
            epoch: u64::MAX,
            sequence: u64::MAX,
            name: "a".repeat(NAME_BYTES_MAX).into(),
            events: vec![observed(); EVENTS_PER_BATCH_MAX],
        };
        assert!(most.encode().len() < 512 << 10, "it fits an entry: {}", most.encode().len());
    }
}
