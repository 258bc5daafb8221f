//! The JSON of the table of flows. What may be above 2^53, which JavaScript's numbers do not hold, is decimal text.

use std::{collections::BTreeMap, net::IpAddr};

use flow::{
    flows::{FlowId, FlowTable, Observation},
    tuple::{PROTOCOLS, protocol_name},
};
use serde::{Deserialize, Serialize};

use crate::control::{
    ControlError, Result,
    flows::{FlowBackend, FlowName, FlowTables, FoundFlow},
};

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowJson {
    /// The id of its 5-tuple, in decimal.
    pub id5: String,
    /// That of its 7-tuple, if it was told apart by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id7: Option<String>,
    /// Community ID v1, as Zeek, Suricata and Wireshark write it.
    pub community_id: String,
    /// IANA protocol number.
    pub protocol: u8,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the number.
    pub protocol_name: String,
    /// Who sent the first packet.
    pub src: IpAddr,
    /// Its port; of ICMP the type, or its counterpart.
    pub sport: u16,
    /// The other end.
    pub dst: IpAddr,
    /// Its port.
    pub dport: u16,
    /// `new`, `established`, `closing` or `ended`.
    pub state: String,
    /// Microseconds since 1970 of the first packet.
    pub first_us: u64,
    /// And of the last.
    pub last_us: u64,
    /// From `src`, by the sniffer that counted most.
    pub packets_fwd: u64,
    /// From `dst`.
    pub packets_rev: u64,
    /// Bytes of the frames from `src`.
    pub bytes_fwd: u64,
    /// From `dst`.
    pub bytes_rev: u64,
    /// What it carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// `port`, `partial` or `payload`: what says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_confidence: Option<String>,
    /// The name that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What the client offered first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// The client's fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ja4: Option<String>,
    /// Of QUIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_version: Option<u32>,
    /// The TOS byte of the first packet, of a 7-tuple.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos: Option<u8>,
    /// Where it came in, of a 7-tuple.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<u32>,
    /// The outermost VLAN id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Who saw it.
    pub observers: Vec<ObserverJson>,
    /// Written by others.
    pub labels: BTreeMap<String, String>,
    /// What shall be done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictJson>,
    /// Which pools' clients its ends are, and where they are pinned.
    pub backends: Vec<BackendJson>,
    /// Where it is in the table.
    pub shard: u32,
    /// The index of its last change in the log of its shard.
    pub revision: u64,
    /// When it leaves if nothing is told of it until then.
    pub expires_in_ms: u64,
}

/// What one sniffer counted of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObserverJson {
    /// Its name; empty where it is not known any more.
    pub name: String,
    /// Its number, in decimal.
    pub sniffer: String,
    /// Its life, in decimal.
    pub epoch: String,
    /// Microseconds since 1970 of the first packet.
    pub first_us: u64,
    /// And of the last.
    pub last_us: u64,
    /// From the flow's `src`.
    pub packets_fwd: u64,
    /// From its `dst`.
    pub packets_rev: u64,
    /// Bytes of the frames from `src`.
    pub bytes_fwd: u64,
    /// From `dst`.
    pub bytes_rev: u64,
    /// How far it saw the flow.
    pub state: String,
    /// `idle`, `closed`, `evicted`, `reused` or `finished`: why it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// All TCP flags from `src`, as a number.
    pub tcp_flags_fwd: u8,
    /// From `dst`.
    pub tcp_flags_rev: u8,
    /// One flow in so many is told of; absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
}

/// What shall be done with a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictJson {
    /// In the words of who decides.
    pub action: String,
    /// Who says so.
    pub source: String,
    /// How long ago, by the log's time.
    pub age_ms: u64,
}

/// A pool and server that a flow is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendJson {
    /// The pool.
    pub pool: String,
    /// The client; null: the flow is this fleet's own to the server.
    pub client: Option<IpAddr>,
    /// The server.
    pub server: String,
    /// Its address and port.
    pub address: String,
}

/// `GET /flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsJson {
    /// What changed last in front.
    pub flows: Vec<FlowJson>,
    /// The next page begins there; null: that was all.
    pub next: Option<String>,
    /// Whoever follows the table from there on misses nothing that came after this page.
    pub position: String,
    /// The index up to which this is true, in the shard that is behind the others.
    pub applied_index: u64,
}

/// `GET /flows/{size}/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReadJson {
    /// The flow.
    #[serde(flatten)]
    pub flow: FlowJson,
    /// The index up to which this is true.
    pub applied_index: u64,
}

/// `GET /flows/community/{community_id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsReadJson {
    /// All with that 5-tuple.
    pub flows: Vec<FlowJson>,
    /// The index up to which this is true.
    pub applied_index: u64,
}

/// What `POST /flows/lookup` takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupJson {
    /// By what they are asked for.
    pub flows: Vec<NameJson>,
}

/// One of: `id5`, `id7`, `community_id`, or `protocol`, `src`, `sport`, `dst` and `dport` together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameJson {
    id5: Option<String>,
    id7: Option<String>,
    community_id: Option<String>,
    protocol: Option<ProtocolJson>,
    src: Option<IpAddr>,
    sport: Option<u16>,
    dst: Option<IpAddr>,
    dport: Option<u16>,
}

/// A protocol's number or name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum ProtocolJson {
    Number(u8),
    Name(String),
}

/// What `POST /flows/lookup` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedUpJson {
    /// Those that there are, in the order in which they were asked for.
    pub flows: Vec<FlowJson>,
    /// The places, from 0 on, of those that there are not.
    pub missing: Vec<usize>,
    /// The index up to which this is true.
    pub applied_index: u64,
}

/// What `PUT /flows/{size}/{id}/labels` takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelsJson {
    /// The revision that the flow must have.
    pub if_revision: u64,
    /// Names and values; an empty value takes the label away.
    pub labels: BTreeMap<String, String>,
}

/// What `PUT /flows/{size}/{id}/verdict` takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVerdictJson {
    /// The revision that the flow must have.
    pub if_revision: u64,
    /// What shall be done.
    pub action: String,
    /// Who says so.
    pub source: String,
}

/// The data of an event `reset`: the position was of another fleet, or of this one before it was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetJson {}

/// The data of an event `left`: a flow left the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftJson {
    /// Its id, of 5 or 7, in decimal.
    pub id: String,
    /// Where it was.
    pub shard: u32,
    /// With which entry of the shard's log.
    pub revision: u64,
}

/// The data of an event `lagged`: flows left of which it is not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaggedJson {
    /// In which shard.
    pub shard: u32,
    /// With entries up to there.
    pub revision: u64,
    /// How many, exactly; null where the position does not say of how many it knew.
    pub missed: Option<u64>,
}

/// `GET /flows/stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsJson {
    /// The parts of the table.
    pub shards: Vec<ShardJson>,
    /// Who reports.
    pub sniffers: Vec<SnifferJson>,
}

/// A part of the table, and what was counted since it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardJson {
    /// Its number.
    pub shard: u32,
    /// How many flows it has.
    pub flows: u64,
    /// Most that it may have.
    pub flows_max: u64,
    /// Flows that began.
    pub begun: u64,
    /// That expired.
    pub expired: u64,
    /// That gave way because there were too many.
    pub evicted: u64,
    /// Batches that came again.
    pub batches_again: u64,
    /// Observations for which a flow had no place any more.
    pub unplaced: u64,
    /// The index of its last entry applied here.
    pub applied_index: u64,
}

/// A sniffer, as far as its reports came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnifferJson {
    /// Its name.
    pub name: String,
    /// Its number, in decimal.
    pub sniffer: String,
    /// Its life, in decimal.
    pub epoch: String,
    /// The last batch of this life, shard by shard.
    pub batches: Vec<u64>,
    /// How long it has said nothing, by the log's time.
    pub silent_ms: u64,
}

impl FlowJson {
    /// A flow that was found, and what [`crate::control::Control::flow_backends`] says of it.
    #[must_use]
    pub fn new(found: &FoundFlow, backends: Vec<FlowBackend>) -> Self {
        let record = &found.record;
        let key = &record.key;
        let ends = [&key.low, &key.high].map(|end| (end.ip(key.version), end.port));
        let [(src, sport), (dst, dport)] = sides(ends, record.from_low);
        let [forward, reverse] = sides(record.counts(), record.from_low);
        let label = record.label.as_ref();
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let observers = record.observations().iter().zip(&found.observers);
        Self {
            id5: key.id().to_string(),
            id7: record.seventh.map(|_| found.id.0.to_string()),
            community_id: key.community_id(),
            protocol: key.protocol,
            protocol_name: protocol_name(key.protocol).into_owned(),
            src,
            sport,
            dst,
            dport,
            state: record.standing().name().to_owned(),
            first_us: record.first_us(),
            last_us: record.last_us(),
            packets_fwd: forward.packets,
            packets_rev: reverse.packets,
            bytes_fwd: forward.bytes,
            bytes_rev: reverse.bytes,
            app: label.map(|label| label.app.name().to_owned()),
            app_confidence: label.map(|label| label.confidence.name().to_owned()),
            host: label.and_then(|label| text(&label.host)),
            alpn: label.and_then(|label| text(&label.alpn)),
            ja4: label.and_then(|label| text(&label.ja4)),
            quic_version: label.and_then(|label| label.quic_version),
            tos: record.seventh.map(|(tos, _)| tos),
            ingress: record.seventh.map(|(_, ingress)| ingress),
            vlan: record.vlan,
            observers: observers.map(|(seen, name)| ObserverJson::new(seen, name, record.from_low)).collect(),
            labels: record.labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            verdict: record.verdict.as_ref().map(|(verdict, at)| VerdictJson {
                action: verdict.action.to_string(),
                source: verdict.source.to_string(),
                age_ms: found.now.0.saturating_sub(at.0),
            }),
            backends: backends.into_iter().map(Into::into).collect(),
            shard: found.shard,
            revision: record.revision.0,
            expires_in_ms: record.expires.0.saturating_sub(found.now.0),
        }
    }
}

impl ObserverJson {
    fn new(seen: &Observation, name: &str, from_low: bool) -> Self {
        let [forward, reverse] = sides(seen.total(), from_low);
        let [flags_forward, flags_reverse] = sides(seen.tcp_flags, from_low);
        Self {
            name: name.to_owned(),
            sniffer: seen.sniffer.0.to_string(),
            epoch: seen.epoch.to_string(),
            first_us: seen.first_us,
            last_us: seen.last_us,
            packets_fwd: forward.packets,
            packets_rev: reverse.packets,
            bytes_fwd: forward.bytes,
            bytes_rev: reverse.bytes,
            state: seen.standing.name().to_owned(),
            end: seen.end.map(|end| end.name().to_owned()),
            tcp_flags_fwd: flags_forward,
            tcp_flags_rev: flags_reverse,
            sample: (seen.sample > 1).then_some(seen.sample),
        }
    }
}

impl From<FlowBackend> for BackendJson {
    fn from(backend: FlowBackend) -> Self {
        let FlowBackend { pool, client, server, address } = backend;
        Self { pool, client, server, address: address.to_string() }
    }
}

impl NameJson {
    /// What is asked for.
    ///
    /// # Errors
    /// If it is none of the ways to name a flow, or several.
    pub fn read(self) -> Result<FlowName> {
        let Self { id5, id7, community_id, protocol, src, sport, dst, dport } = self;
        match (id5, id7, community_id, (protocol, src, sport, dst, dport)) {
            (Some(id), None, None, (None, None, None, None, None)) => Ok(FlowName::Five(parse_id(&id)?)),
            (None, Some(id), None, (None, None, None, None, None)) => Ok(FlowName::Seven(parse_id(&id)?)),
            (None, None, Some(text), (None, None, None, None, None)) => FlowName::community(&text),
            (None, None, None, (Some(protocol), Some(src), Some(sport), Some(dst), Some(dport))) => {
                let protocol = match protocol {
                    ProtocolJson::Number(number) => number,
                    ProtocolJson::Name(name) => parse_protocol(&name)?,
                };
                FlowName::key(protocol, [(src, sport), (dst, dport)])
            }
            _ => Err(ControlError::Invalid(
                "a flow is named by id5, by id7, by community_id, or by protocol, src, sport, dst and dport".to_owned(),
            )),
        }
    }
}

impl StatsJson {
    /// What there is to see of the table as a whole.
    #[must_use]
    pub fn new(tables: &FlowTables) -> Self {
        let shard = |(shard, table): (u32, &std::sync::Arc<FlowTable>)| {
            let counted = table.counters();
            ShardJson {
                shard,
                flows: table.len() as u64,
                flows_max: table.limits().flows,
                begun: counted.begun,
                expired: counted.expired,
                evicted: counted.evicted,
                batches_again: counted.again,
                unplaced: counted.unplaced,
                applied_index: table.applied().0,
            }
        };
        let sniffers = tables.sniffer_reports().into_iter().map(|report| SnifferJson {
            name: report.name.to_string(),
            sniffer: report.id.0.to_string(),
            epoch: report.epoch.to_string(),
            batches: report.sequences,
            silent_ms: report.silent_ms,
        });
        Self { shards: (0..).zip(&tables.shards).map(shard).collect(), sniffers: sniffers.collect() }
    }
}

/// What goes from the first packet's sender and back, of what is by the key's low and high endpoint.
fn sides<T>([low, high]: [T; 2], from_low: bool) -> [T; 2] {
    if from_low { [low, high] } else { [high, low] }
}

/// A flow's id in decimal.
///
/// # Errors
/// If it is none.
pub fn parse_id(text: &str) -> Result<FlowId> {
    let id = text
        .parse()
        .map_err(|_| ControlError::Invalid(format!("{text:?} is no id of a flow: a number is expected")))?;
    Ok(FlowId(id))
}

/// A protocol by its number or name.
///
/// # Errors
/// If it is neither.
pub fn parse_protocol(text: &str) -> Result<u8> {
    let named = PROTOCOLS.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(number, _)| *number);
    named.or_else(|| text.parse().ok()).ok_or_else(|| {
        let names = PROTOCOLS.map(|(_, name)| name).join(", ");
        ControlError::Invalid(format!("protocol {text:?}: {names}, or a number from 0 to 255"))
    })
}
