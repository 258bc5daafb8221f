//! The JSON of the REST API, as the instance writes it and the command line reads it.

use std::{collections::BTreeMap, net::IpAddr};

use flow::{MemberAddress, View};
use serde::{Deserialize, Serialize};

use crate::control::{
    Applied, Fresh, GroupStatus, KvItem, KvPage, LogEntry, LogSize, Member, Pin, PinPage, PinState, PoolsView, Role,
    Standing, Status, VipBind, VipStatus,
};

use super::pool_json::PoolJson;

/// An error, as every path answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorJson {
    /// What happened.
    pub error: String,
    /// The machine-readable reason.
    pub reason: String,
    /// What to do.
    pub hint: String,
    /// `never`, `after_reading` or `later`.
    pub retry: String,
    /// The paths there are, where the one asked for does not exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

/// `/role`: this and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleJson {
    /// `leader`, `follower`, `candidate`, `learner` or `starting`.
    pub role: String,
}

/// `/leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderJson {
    /// The leader's label.
    pub leader: Option<String>,
    /// The term.
    pub term: u64,
}

/// `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyJson {
    /// Whether the instance serves.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// How the VIPs stand, where the instance announces them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<VipJson>,
}

/// How the VIPs stand on the asked instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipJson {
    /// Whether they are to be announced.
    pub wanted: bool,
    /// Whether they are, as was acknowledged; null where nobody knows.
    pub announced: Option<bool>,
    /// Since when that is so: milliseconds since 1970, by the instance's clock.
    pub since_unix_ms: u64,
    /// Why they are not to be announced.
    pub reasons: Vec<String>,
    /// Why the last try to announce or withdraw failed.
    pub error: Option<String>,
    /// Every VIP.
    pub vips: Vec<VipBindJson>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipBindJson {
    /// Address and port.
    pub address: String,
    /// What keeps it from being served here.
    pub problem: Option<String>,
}

/// `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusJson {
    /// The asked instance.
    pub instance: String,
    /// Its id.
    pub id: Option<u64>,
    /// Its version.
    pub version: String,
    /// The fleet.
    pub fleet: FleetJson,
    /// Its role in group 0.
    pub role: String,
    /// Its term in group 0.
    pub term: u64,
    /// The leader of group 0.
    pub leader: Option<String>,
    /// Whether it serves.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// How the VIPs stand, where the instance announces them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<VipJson>,
    /// The committed version of the pools and verdicts.
    pub epoch: u64,
    /// The last index of group 0 applied here.
    pub applied_index: u64,
    /// Every group.
    pub groups: Vec<GroupJson>,
    /// Every member.
    pub members: Vec<MemberJson>,
    /// Every pool.
    pub pools: Vec<PoolJson>,
}

/// The fleet's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetJson {
    /// Its name in the configuration.
    pub name: String,
    /// 32 hexadecimal digits, agreed once.
    pub uuid: Option<String>,
}

/// A Raft group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupJson {
    /// Its number; 0 is control.
    pub group: u32,
    /// The instance's role in it.
    pub role: String,
    /// Its term.
    pub term: u64,
    /// Its leader.
    pub leader: Option<String>,
    /// First index in the log.
    pub first_index: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// Last index committed.
    pub committed_index: u64,
    /// Last index applied.
    pub applied_index: u64,
    /// How long the lease still holds; null without one.
    pub lease_ms: Option<u64>,
    /// Its tables.
    pub tables: Vec<TableJson>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableJson {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// 16 hexadecimal digits, equal on all instances at equal applied index.
    pub digest: String,
}

/// A member of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberJson {
    /// Its label.
    pub label: String,
    /// Its id.
    pub id: u64,
    /// IP address or host name.
    pub address: String,
    /// Port of peers and the gRPC API.
    pub grpc: u16,
    /// Port of REST.
    pub rest: u16,
    /// Port of the metrics.
    pub metrics: u16,
    /// Whether it votes.
    pub voter: bool,
    /// 16 hexadecimal digits: the life of its data directory.
    pub incarnation: Option<String>,
    /// Whether the asked instance hears from it.
    pub reachable: bool,
}

/// `/members` and `/peer/list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersJson {
    /// Every member.
    pub members: Vec<MemberJson>,
    /// The last index of group 0 applied here.
    pub applied_index: u64,
}

/// What `POST /members` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMemberJson {
    /// Its label.
    pub label: String,
    /// IP address or host name.
    pub address: String,
    /// Port of peers and the gRPC API.
    pub grpc: u16,
    /// Port of REST.
    pub rest: u16,
    /// Port of the metrics.
    pub metrics: u16,
}

/// `GET /pools`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolsJson {
    /// The epoch they make.
    pub epoch: u64,
    /// The index up to which this is true.
    pub applied_index: u64,
    /// Every pool.
    pub pools: Vec<PoolJson>,
}

/// What `POST /pools` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyJson {
    /// The epoch that the caller saw; another one is a conflict.
    pub epoch: u64,
    /// All pools as they shall be.
    pub pools: Vec<PoolJson>,
}

/// What a change answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedJson {
    /// Where in the log it lies: the new revision of a key.
    pub index: u64,
    /// The epoch after it.
    pub epoch: u64,
}

/// What `POST /submit/{key}/{value}` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitJson {
    /// The key.
    pub key: String,
    /// Its new value.
    pub value: String,
    /// Where in the log it lies.
    pub index: u64,
}

/// What `POST /sessions` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionJson {
    /// The session's id.
    pub session: u64,
}

/// What handing over the leadership answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferJson {
    /// Who leads now.
    pub leader: String,
}

/// A pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinJson {
    /// The client.
    pub client: IpAddr,
    /// Its server's name.
    pub server: String,
    /// The server's address and port.
    pub address: String,
    /// 16 hexadecimal digits: the backend's identity.
    pub backend: String,
    /// `settled` or `moving`.
    pub state: String,
    /// The epoch in which it was made.
    pub epoch: u64,
    /// The index of its last change.
    pub revision: u64,
    /// Log time until it expires.
    pub expires_in_ms: u64,
}

/// `/pins/{pool}/{client}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReadJson {
    /// The pin.
    #[serde(flatten)]
    pub pin: PinJson,
    /// The index up to which this is true.
    pub applied_index: u64,
}

/// `/pins/{pool}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinsJson {
    /// The pool.
    pub pool: String,
    /// Pins by client.
    pub pins: Vec<PinJson>,
    /// The `after` of the next page; null at the end.
    pub next: Option<IpAddr>,
    /// The index up to which this is true.
    pub applied_index: u64,
}

/// A key and its value; a value that is not UTF-8 comes in hexadecimal under another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvJson {
    /// The key.
    pub key: String,
    /// The value, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_hex: Option<String>,
    /// The index of its last change.
    pub revision: u64,
}

/// `/kv/{key}` and `/get/{key}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvReadJson {
    /// Key and value.
    #[serde(flatten)]
    pub item: KvJson,
    /// The index up to which this is true.
    pub applied_index: u64,
}

/// `/kv`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvListJson {
    /// In byte order.
    pub items: Vec<KvJson>,
    /// Whether there are more.
    pub more: bool,
    /// The index up to which this is true.
    pub applied_index: u64,
}

/// `/size`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeJson {
    /// The group.
    pub group: u32,
    /// Entries in the log.
    pub size: u64,
    /// The first one.
    pub first_index: u64,
    /// The last one.
    pub last_index: u64,
}

/// `/committed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedJson {
    /// The group.
    pub group: u32,
    /// The last index committed.
    pub committed: u64,
}

/// `/log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogJson {
    /// The group.
    pub group: u32,
    /// The first index in the log.
    pub first_index: u64,
    /// The last index in the log.
    pub last_index: u64,
    /// The last index committed.
    pub committed_index: u64,
    /// Some of its entries, in order.
    pub entries: Vec<LogEntryJson>,
    /// The `from` of the next page; none at the end.
    #[serde(default)]
    pub next: Option<u64>,
}

/// `/log/{n}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntryJson {
    /// The group.
    pub group: u32,
    /// The index.
    pub index: u64,
    /// The term.
    pub term: u64,
    /// What it is, in one word.
    pub kind: String,
    /// What it says.
    pub text: String,
    /// Whether it is committed.
    pub committed: bool,
}

impl From<VipStatus> for VipJson {
    fn from(status: VipStatus) -> Self {
        let VipStatus { wanted, announced, since_unix_ms, reasons, error, binds } = status;
        let vip = |VipBind { address, problem }: VipBind| VipBindJson { address: address.to_string(), problem };
        Self { wanted, announced, since_unix_ms, reasons, error, vips: binds.into_iter().map(vip).collect() }
    }
}

impl From<Standing> for LeaderJson {
    fn from(standing: Standing) -> Self {
        Self { leader: standing.leader, term: standing.term }
    }
}

impl From<Status> for StatusJson {
    fn from(status: Status) -> Self {
        let PoolsView { epoch, pools } = status.pools;
        Self {
            instance: status.instance,
            id: status.id.map(|id| id.0),
            version: status.version,
            fleet: FleetJson { name: status.fleet, uuid: status.fleet_id.map(|id| id.to_string()) },
            role: role_text(status.standing.role).into(),
            term: status.standing.term,
            leader: status.standing.leader,
            ready: status.readiness.ready(),
            reasons: status.readiness.reasons,
            vip: status.readiness.vip.map(Into::into),
            epoch: epoch.0,
            applied_index: status.groups.first().map_or(0, |group| group.applied_index),
            groups: status.groups.into_iter().map(Into::into).collect(),
            members: status.members.into_iter().map(Into::into).collect(),
            pools: pools.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<GroupStatus> for GroupJson {
    fn from(group: GroupStatus) -> Self {
        let table = |table: crate::control::TableStatus| TableJson {
            name: table.name,
            rows: table.rows,
            digest: format!("{:016x}", table.digest),
        };
        Self {
            group: group.group,
            role: role_text(group.standing.role).into(),
            term: group.standing.term,
            leader: group.standing.leader,
            first_index: group.first_index,
            last_index: group.last_index,
            committed_index: group.committed_index,
            applied_index: group.applied_index,
            lease_ms: group.lease_ms,
            tables: group.tables.into_iter().map(table).collect(),
        }
    }
}

impl From<Member> for MemberJson {
    fn from(member: Member) -> Self {
        Self {
            label: member.address.label,
            id: member.id.0,
            address: member.address.host,
            grpc: member.address.grpc,
            rest: member.address.rest,
            metrics: member.address.metrics,
            voter: member.voter,
            incarnation: member.incarnation.map(|incarnation| format!("{:016x}", incarnation.0)),
            reachable: member.reachable,
        }
    }
}

impl From<NewMemberJson> for MemberAddress {
    fn from(member: NewMemberJson) -> Self {
        let NewMemberJson { label, address, grpc, rest, metrics } = member;
        Self { label, host: address, grpc, rest, metrics }
    }
}

impl From<Fresh<PoolsView>> for PoolsJson {
    fn from(read: Fresh<PoolsView>) -> Self {
        Self {
            epoch: read.value.epoch.0,
            applied_index: read.applied_index,
            pools: read.value.pools.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Applied> for AppliedJson {
    fn from(applied: Applied) -> Self {
        Self { index: applied.index, epoch: applied.epoch.0 }
    }
}

impl From<Pin> for PinJson {
    fn from(pin: Pin) -> Self {
        Self {
            client: pin.client,
            server: pin.server,
            address: pin.address.to_string(),
            backend: format!("{:016x}", pin.backend.0),
            state: match pin.state {
                PinState::Settled => "settled".into(),
                PinState::Moving => "moving".into(),
            },
            epoch: pin.epoch.0,
            revision: pin.revision.0,
            expires_in_ms: pin.expires_in_ms,
        }
    }
}

impl PinsJson {
    /// A page of `pool`'s pins.
    #[must_use]
    pub fn new(pool: String, read: Fresh<PinPage>) -> Self {
        Self {
            pool,
            pins: read.value.pins.into_iter().map(Into::into).collect(),
            next: read.value.next,
            applied_index: read.applied_index,
        }
    }
}

impl From<KvItem> for KvJson {
    fn from(item: KvItem) -> Self {
        let (value, value_hex) = text_or_hex(&item.value);
        Self { key: item.key, value, value_hex, revision: item.revision.0 }
    }
}

impl From<Fresh<KvPage>> for KvListJson {
    fn from(read: Fresh<KvPage>) -> Self {
        Self {
            items: read.value.items.into_iter().map(Into::into).collect(),
            more: read.value.more,
            applied_index: read.applied_index,
        }
    }
}

impl LogEntryJson {
    /// An entry of a log that is committed up to `committed_index`.
    #[must_use]
    pub fn new(entry: LogEntry, committed_index: u64) -> Self {
        Self {
            group: entry.group,
            index: entry.index,
            term: entry.term,
            kind: entry.kind,
            text: entry.text,
            committed: entry.index <= committed_index,
        }
    }
}

impl LogJson {
    /// Entries of a group's log of that size.
    #[must_use]
    pub fn new(group: u32, size: LogSize, entries: Vec<LogEntry>) -> Self {
        let next = entries.last().map(|entry| entry.index + 1).filter(|next| *next <= size.last_index);
        Self {
            group,
            first_index: size.first_index,
            last_index: size.last_index,
            committed_index: size.committed_index,
            next,
            entries: entries.into_iter().map(|entry| LogEntryJson::new(entry, size.committed_index)).collect(),
        }
    }
}

/// The word for a role.
#[must_use]
pub fn role_text(role: Role) -> &'static str {
    match role {
        Role::Starting => "starting",
        Role::Learner => "learner",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

/// The word for a vote or verdict.
#[must_use]
pub fn view_text(view: View) -> &'static str {
    match view {
        View::Unknown => "unknown",
        View::Up => "up",
        View::Down => "down",
    }
}

/// What each instance said, by label.
pub type VotesJson = BTreeMap<String, String>;

fn text_or_hex(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())),
    }
}
