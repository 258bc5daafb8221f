//! The plain things that [`Control`](super::Control) takes and gives; the servers turn them into JSON and protobuf.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use flow::{BackendId, Epoch, FleetId, Incarnation, InstanceId, MemberAddress, PoolSpec, Request, Revision, View};

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// What this instance has applied; never waits.
    #[default]
    Local,
    /// At least everything that was acknowledged anywhere so long before the request came. Needs a quorum at most so often.
    Bounded(Duration),
    /// At least everything that was acknowledged anywhere before the request came; needs a quorum.
    Linearizable,
}

/// Something read, and the log index up to which it is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fresh<T> {
    /// What was read.
    pub value: T,
    /// The last index applied to the table that it came from.
    pub applied_index: u64,
}

/// Something that happened on this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts up from 1 with each start of the instance.
    pub number: u64,
    /// When, in milliseconds since 1970 by this instance's clock.
    pub unix_ms: u64,
    /// What kind of thing.
    pub kind: EventKind,
    /// The instance that it happened to.
    pub subject: String,
    /// What happened, for people.
    pub text: String,
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An instance is a member from now on.
    MemberAdded,
    /// A learner votes from now on.
    MemberPromoted,
    /// An instance is no member any more.
    MemberRemoved,
    /// Another instance leads group 0.
    Leader,
    /// The link to a peer is up.
    LinkUp,
    /// The link to a peer is down.
    LinkDown,
    /// A snapshot of a peer was installed.
    Snapshot,
    /// The log cannot be stored, or is stored again.
    Disk,
    /// An operator cut this instance off, or brought it back.
    Grpc,
}

impl EventKind {
    /// The word for it in the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::MemberAdded => "member_added",
            Self::MemberPromoted => "member_promoted",
            Self::MemberRemoved => "member_removed",
            Self::Leader => "leader",
            Self::LinkUp => "link_up",
            Self::LinkDown => "link_down",
            Self::Snapshot => "snapshot",
            Self::Disk => "disk",
            Self::Grpc => "grpc",
        }
    }
}

/// Writes a backup of an instance's tables; may block.
pub type BackupWriter = Box<dyn FnOnce(&mut dyn std::io::Write) -> std::io::Result<()> + Send>;

/// A change that was committed and applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where in the log it lies; for keys and pins this is their new revision.
    pub index: u64,
    /// The epoch after it.
    pub epoch: Epoch,
}

/// What an instance is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Not in the group yet: recovering, or waiting for a majority of the listed instances.
    Starting,
    /// Has the log and no vote.
    Learner,
    /// Follows the leader.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// Where an instance stands in group 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its role.
    pub role: Role,
    /// The newest term it has seen.
    pub term: u64,
    /// The leader's label, if it knows one.
    pub leader: Option<String>,
}

/// Whether an instance serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Every reason why not, in plain words; ready when there is none.
    pub reasons: Vec<String>,
    /// How its VIPs stand; `None` where it is not told to announce any.
    pub vip: Option<VipStatus>,
}

/// How the VIPs stand on an instance that announces them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipStatus {
    /// Whether they are to be announced.
    pub wanted: bool,
    /// Whether they are, as was acknowledged; `None`: nobody knows.
    pub announced: Option<bool>,
    /// Since when that is so, in milliseconds since 1970 by this instance's clock.
    pub since_unix_ms: u64,
    /// Why they are not to be announced, in plain words.
    pub reasons: Vec<String>,
    /// Why the last try to announce or withdraw failed.
    pub error: Option<String>,
    /// Every VIP, by address.
    pub binds: Vec<VipBind>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipBind {
    /// Where clients come to.
    pub address: SocketAddr,
    /// What keeps it from being served here.
    pub problem: Option<String>,
}

impl Readiness {
    /// Whether it serves.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// All there is to see of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The instance's label.
    pub instance: String,
    /// Its id; `None` before the fleet gave it one.
    pub id: Option<InstanceId>,
    /// Its version.
    pub version: String,
    /// The fleet's name.
    pub fleet: String,
    /// The fleet's identity; `None` before its birth.
    pub fleet_id: Option<FleetId>,
    /// Where it stands in group 0.
    pub standing: Standing,
    /// Whether it serves.
    pub readiness: Readiness,
    /// Every group, group 0 first.
    pub groups: Vec<GroupStatus>,
    /// Every member of the fleet, by label.
    pub members: Vec<Member>,
    /// The committed pools.
    pub pools: PoolsView,
}

/// One Raft group, as one instance sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group's number.
    pub group: u32,
    /// Role, term and leader in this group.
    pub standing: Standing,
    /// The first index the log still holds.
    pub first_index: u64,
    /// The last index in the log.
    pub last_index: u64,
    /// The last index known to be committed.
    pub committed_index: u64,
    /// The last index applied.
    pub applied_index: u64,
    /// How long the lease of this group still holds, in milliseconds; `None` without one.
    pub lease_ms: Option<u64>,
    /// The tables made by this group.
    pub tables: Vec<TableStatus>,
}

/// One table of a group's state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStatus {
    /// Its name: `pins`, `kv`, `pools`, ...
    pub name: String,
    /// How many rows it has.
    pub rows: u64,
    /// Its digest: equal on all instances at equal applied index.
    pub digest: u64,
}

/// A member of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: InstanceId,
    /// Its label, and where peers, API clients and Prometheus reach it.
    pub address: MemberAddress,
    /// Whether it votes; else it is a learner.
    pub voter: bool,
    /// The life of its data directory that the fleet knows.
    pub incarnation: Option<Incarnation>,
    /// Whether the asked instance hears from it now; always true of itself.
    pub reachable: bool,
}

/// The committed pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolsView {
    /// Their epoch.
    pub epoch: Epoch,
    /// The pools by name.
    pub pools: Vec<PoolStatus>,
}

/// A pool and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// The pool as committed.
    pub spec: PoolSpec,
    /// How many clients are pinned.
    pub pins: u64,
    /// Connections or streams that the asked instance carries for it now.
    pub connections: u64,
    /// What is known of each server, in the order of `spec.servers`.
    pub servers: Vec<ServerStatus>,
}

/// What the fleet knows of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Its identity.
    pub backend: BackendId,
    /// The fleet's word on its health.
    pub verdict: View,
    /// What each instance last said of it, by label.
    pub votes: Vec<Vote>,
    /// How many clients are pinned to it.
    pub pins: u64,
}

/// What one instance says of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The instance's label.
    pub instance: String,
    /// What it says.
    pub view: View,
}

/// A client's pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The client.
    pub client: IpAddr,
    /// Its backend.
    pub backend: BackendId,
    /// The backend's name in its pool.
    pub server: String,
    /// The backend's address.
    pub address: SocketAddr,
    /// Whether it stands.
    pub state: PinState,
    /// The epoch in which it was made.
    pub epoch: Epoch,
    /// The index of its last change.
    pub revision: Revision,
    /// Log time that is left until it expires, in milliseconds.
    pub expires_in_ms: u64,
}

/// Whether a pin stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinState {
    /// Every instance answers it.
    Settled,
    /// Its backend died or was removed: the client is assigned anew when it next comes.
    Moving,
}

/// Some pins of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinPage {
    /// The pins, by client.
    pub pins: Vec<Pin>,
    /// The `after` of the next page; `None` at the end.
    pub next: Option<IpAddr>,
}

/// What goes with a change of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The revision that the key must have; 0 means that it must not exist.
    pub if_revision: Option<Revision>,
    /// The request of a session that it is: so it is done once, however often it is sent.
    pub request: Option<Request>,
}

/// Which keys to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvQuery {
    /// Only keys that begin so.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<String>,
    /// At most so many; the servers have bounded it.
    pub limit: usize,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvItem {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The index of its last change.
    pub revision: Revision,
}

/// Some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvPage {
    /// In byte order.
    pub items: Vec<KvItem>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// Where a group's log lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSize {
    /// The first index it still holds.
    pub first_index: u64,
    /// The last index; one less than `first_index` when it holds none.
    pub last_index: u64,
    /// The last index known to be committed.
    pub committed_index: u64,
}

impl LogSize {
    /// How many entries it holds.
    #[must_use]
    pub fn entries(&self) -> u64 {
        (self.last_index + 1).saturating_sub(self.first_index)
    }
}

/// Which entries of a log to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// The group.
    pub group: u32,
    /// The first index; earlier than the log's first means the log's first.
    pub from: u64,
    /// At most so many; the servers have bounded it.
    pub limit: usize,
}

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its group.
    pub group: u32,
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What it is in one word: `assign`, `put`, `members`, `noop`, ...
    pub kind: String,
    /// What it says, for people.
    pub text: String,
}
