//! Commands of flow groups as bytes, and the rows of their tables.

use prost::Message;

use super::{Empty, WireError, pick, port};
use crate::{
    app::{App, Confidence, HOST_BYTES_MAX, Label},
    flows::{Counts, EVENTS_PER_BATCH_MAX, End, FlowCommand, FlowId, Observed, SnifferId, Standing, Verdict},
    ids::Revision,
    tuple::{Endpoint, FlowKey, IpVersion},
};

impl FlowCommand {
    /// The command's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::Report { sniffer, epoch, sequence, events } => FlowKind::Report(ReportMessage {
                sniffer: sniffer.0,
                epoch: *epoch,
                sequence: *sequence,
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

    /// Reads a command.
    ///
    /// # Errors
    /// If the bytes are not a command of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Ok(match FlowMessage::decode(bytes)?.command.ok_or(WireError::Field("command"))? {
            FlowKind::Report(report) => {
                if report.events.len() > EVENTS_PER_BATCH_MAX {
                    return Err(WireError::Field("events"));
                }
                Self::Report {
                    sniffer: SnifferId(report.sniffer),
                    epoch: report.epoch,
                    sequence: report.sequence,
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
            tcp_flags: u32::from(seen.tcp_flags[0]) | u32::from(seen.tcp_flags[1]) << 8,
            vlan: seen.vlan.map(u32::from),
            sample: if seen.sample == 1 { 0 } else { seen.sample },
            label: seen.label.as_ref().map(LabelMessage::from),
        }
    }
}

impl TryFrom<ObservedMessage> for Observed {
    type Error = WireError;

    fn try_from(message: ObservedMessage) -> Result<Self, WireError> {
        let tos = message.tos.map(|tos| u8::try_from(tos).map_err(|_| WireError::Field("tos"))).transpose()?;
        let [low, high, 0, 0] = message.tcp_flags.to_le_bytes() else { return Err(WireError::Field("tcp flags")) };
        let vlan = message.vlan.map(|vlan| u16::try_from(vlan).map_err(|_| WireError::Field("vlan"))).transpose()?;
        Ok(Self {
            key: message.key.ok_or(WireError::Field("key"))?.try_into()?,
            seventh: tos.map(|tos| (tos, message.ingress)),
            from_low: message.from_low,
            standing: standing(message.standing)?,
            end: end(message.end)?,
            first_us: message.first_us,
            last_us: message.first_us.checked_add(message.lasted_us).ok_or(WireError::Field("time"))?,
            counts: [
                Counts { packets: message.low_packets, bytes: message.low_bytes },
                Counts { packets: message.high_packets, bytes: message.high_bytes },
            ],
            tcp_flags: [low, high],
            vlan,
            sample: message.sample.max(1),
            label: message.label.map(Label::try_from).transpose()?,
        })
    }
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
        let text = |text: String| match text.len() {
            0 => Ok(None),
            1..=HOST_BYTES_MAX => Ok(Some(text.into_boxed_str())),
            _ => Err(WireError::Field("label")),
        };
        Ok(Self {
            app,
            confidence: pick(&Confidence::ALL, message.confidence.wrapping_sub(1), "confidence")?,
            host: text(message.host)?,
            alpn: text(message.alpn)?,
            ja4: text(message.ja4)?,
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
    let all = [Standing::New, Standing::Established, Standing::Closing, Standing::Ended];
    pick(&all, number.wrapping_sub(1), "standing")
}

pub(crate) fn end(number: u32) -> Result<Option<End>, WireError> {
    if number == 0 {
        return Ok(None);
    }
    let all = [End::Idle, End::Closed, End::Evicted, End::Reused, End::Finished];
    pick(&all, number - 1, "end").map(Some)
}

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
            FlowCommand::Report { sniffer: SnifferId(u64::MAX), epoch: 1, sequence: 2, events: vec![observed(), bare] },
            FlowCommand::Report { sniffer: SnifferId(0), epoch: 0, sequence: 0, events: Vec::new() },
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
        let report = |events| FlowCommand::Report { sniffer: SnifferId(1), epoch: 1, sequence: 1, events };
        assert!(FlowCommand::decode(&report(vec![turned]).encode()).is_err());
        let many = vec![observed(); EVENTS_PER_BATCH_MAX + 1];
        assert!(FlowCommand::decode(&report(many).encode()).is_err());
    }

    #[test]
    fn a_batch_of_new_flows_is_as_large_as_its_limit_allows() {
        let most = FlowCommand::Report {
            sniffer: SnifferId(1),
            epoch: u64::MAX,
            sequence: u64::MAX,
            events: vec![observed(); EVENTS_PER_BATCH_MAX],
        };
        assert!(most.encode().len() < 512 << 10, "it fits an entry: {}", most.encode().len());
    }
}
