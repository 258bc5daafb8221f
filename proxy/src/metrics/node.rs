//! The replica's numbers, read at each scrape.

use flow::{Epoch, flows::FlowCounters};
use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::family::{Family, descs};
use crate::{
    control::{GroupStatus, Role},
    metric_names as names,
    rest::json::role_text,
};

/// What a replica says of itself at a scrape.
#[derive(Clone, Debug, Default)]
pub struct NodeCounters {
    /// Elections that it started.
    pub elections: u64,
    /// Append messages sent.
    pub appends_sent: u64,
    /// Append messages received.
    pub appends_received: u64,
    /// Vote requests sent.
    pub votes_sent: u64,
    /// Vote requests received.
    pub votes_received: u64,
    /// Entries submitted here.
    pub submitted: u64,
    /// Entries seen committed here.
    pub committed: u64,
    /// Snapshots taken.
    pub snapshots_taken: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Peers that it found silent.
    pub suspicions: u64,
    /// Leaderships that it handed over to spread or shuffle them.
    pub leaders_moved: u64,
    /// Entries read back from disk for followers.
    pub entries_read: u64,
    /// Messages dropped.
    pub messages_dropped: u64,
    /// Health checks that could not be made.
    pub checks_not_made: u64,
    /// Look-ups of members' names that failed.
    pub lookups_failed: u64,
    /// Every group.
    pub groups: Vec<GroupStatus>,
    /// The committed version of pools and verdicts.
    pub epoch: Epoch,
    /// Whether the instance serves.
    pub ready: bool,
    /// Whether the disk has no room for the log.
    pub disk_full: bool,
    /// The log on the disk.
    pub log: LogCounters,
    /// What the links to peers and the port for peers and gRPC count, by name.
    pub links: Vec<(&'static str, u64)>,
    /// What each shard of the table of flows counted.
    pub flows: Vec<FlowCounters>,
    /// Every other member's label, and whether it is heard from.
    pub peers: Vec<(String, bool)>,
}

/// What a log on a disk says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogCounters {
    /// Rounds stored.
    pub rounds: u64,
    /// Rounds that were synced before they were acknowledged.
    pub syncs: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes written in them.
    pub bytes: u64,
}

/// Asks the replica at each scrape.
pub struct NodeCollector {
    read: Box<dyn Fn() -> NodeCounters + Send + Sync>,
    descs: Vec<Desc>,
}

impl NodeCollector {
    /// Asks `read`.
    pub fn new(read: Box<dyn Fn() -> NodeCounters + Send + Sync>) -> prometheus::Result<Self> {
        let counters = COUNTERS.iter().map(|(family, _)| *family);
        let gauges = GROUP_GAUGES.iter().map(|(family, _)| *family);
        let others = [
            GROUP_ROLE,
            TABLE_ROWS,
            TABLE_DIGEST,
            EPOCH,
            READY,
            PEER_REACHABLE,
            DISK_FULL,
            LOG_SEGMENTS,
            LOG_BYTES,
            LINK_EVENTS,
        ];
        let flows = FLOW_COUNTERS.iter().map(|(family, _)| *family);
        let families: Vec<Family> = counters.chain(gauges).chain(flows).chain(others).collect();
        Ok(Self { read, descs: descs(&families)? })
    }
}

impl Collector for NodeCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let seen = (self.read)();
        let counters = COUNTERS.iter().map(|(family, value)| family.single(value(&seen) as f64));
        let gauges = GROUP_GAUGES.iter().map(|(family, value)| {
            family.with(seen.groups.iter().map(|group| (vec![group.group.to_string()], value(group))))
        });
        let flows = FLOW_COUNTERS.iter().map(|(family, value)| {
            let shards = seen.flows.iter().enumerate();
            family.with(shards.map(|(shard, counted)| (vec![shard.to_string()], value(counted) as f64)))
        });
        let others = [
            GROUP_ROLE.with(seen.groups.iter().flat_map(roles)),
            TABLE_ROWS.with(tables(&seen, |table| table.rows as f64)),
            TABLE_DIGEST.with(tables(&seen, |table| (table.digest & DIGEST_BITS) as f64)),
            EPOCH.single(seen.epoch.0 as f64),
            READY.single(flag(seen.ready)),
            DISK_FULL.single(flag(seen.disk_full)),
            LOG_SEGMENTS.single(seen.log.segments as f64),
            LOG_BYTES.single(seen.log.bytes as f64),
            LINK_EVENTS.with(seen.links.iter().map(|(event, count)| (vec![(*event).to_owned()], *count as f64))),
            PEER_REACHABLE.with(seen.peers.iter().map(|(label, heard)| (vec![label.clone()], flag(*heard)))),
        ];
        let made = counters.chain(gauges).chain(flows).chain(others);
        // A family without a value (no group yet, no peer, no flows) cannot be written.
        made.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

fn roles(group: &GroupStatus) -> impl Iterator<Item = (Vec<String>, f64)> {
    let number = group.group.to_string();
    let role = group.standing.role;
    ROLES.into_iter().map(move |each| (vec![number.clone(), role_text(each).to_owned()], flag(each == role)))
}

fn tables(
    seen: &NodeCounters,
    value: impl Fn(&crate::control::TableStatus) -> f64,
) -> impl Iterator<Item = (Vec<String>, f64)> {
    seen.groups.iter().flat_map(move |group| {
        let row =
            |table: &crate::control::TableStatus| (vec![group.group.to_string(), table.name.clone()], value(table));
        group.tables.iter().map(row).collect::<Vec<_>>()
    })
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// What a value of Prometheus, a 64-bit float, holds without loss.
const DIGEST_BITS: u64 = (1 << 52) - 1;

const ROLES: [Role; 5] = [Role::Starting, Role::Learner, Role::Follower, Role::Candidate, Role::Leader];

type CounterOf = (Family, fn(&NodeCounters) -> u64);

const COUNTERS: &[CounterOf] = &[
    (Family::counter(names::ELECTIONS_TOTAL, "Elections that this instance started.", &[]), |seen| seen.elections),
    (Family::counter(names::APPENDS_SENT_TOTAL, "Append messages sent.", &[]), |seen| seen.appends_sent),
    (Family::counter(names::APPENDS_RECEIVED_TOTAL, "Append messages received.", &[]), |seen| seen.appends_received),
    (Family::counter(names::VOTES_SENT_TOTAL, "Vote requests sent.", &[]), |seen| seen.votes_sent),
    (Family::counter(names::VOTES_RECEIVED_TOTAL, "Vote requests received.", &[]), |seen| seen.votes_received),
    (Family::counter(names::ENTRIES_SUBMITTED_TOTAL, "Entries submitted here.", &[]), |seen| seen.submitted),
    (Family::counter(names::ENTRIES_COMMITTED_TOTAL, "Entries seen committed here.", &[]), |seen| seen.committed),
    (Family::counter(names::SNAPSHOTS_TAKEN_TOTAL, "Snapshots taken.", &[]), |seen| seen.snapshots_taken),
    (Family::counter(names::SNAPSHOTS_INSTALLED_TOTAL, "Snapshots installed.", &[]), |seen| seen.snapshots_installed),
    (Family::counter(names::SUSPICIONS_TOTAL, "Peers that fell silent.", &[]), |seen| seen.suspicions),
    (Family::counter(names::LEADERS_MOVED_TOTAL, "Leaderships handed over to spread them.", &[]), |seen| {
        seen.leaders_moved
    }),
    (Family::counter(names::LOG_ENTRIES_READ_TOTAL, "Entries read back from disk.", &[]), |seen| seen.entries_read),
    (Family::counter(names::MESSAGES_DROPPED_TOTAL, "Messages of peers dropped.", &[]), |seen| seen.messages_dropped),
    (Family::counter(names::LOG_ROUNDS_TOTAL, "Rounds stored in the log.", &[]), |seen| seen.log.rounds),
    (Family::counter(names::LOG_SYNCS_TOTAL, "Rounds synced before they were acknowledged.", &[]), |seen| {
        seen.log.syncs
    }),
    (Family::counter(names::CHECKS_NOT_MADE_TOTAL, "Health checks this instance could not make.", &[]), |seen| {
        seen.checks_not_made
    }),
    (Family::counter(names::NAME_LOOKUPS_FAILED_TOTAL, "Look-ups of members' names that failed.", &[]), |seen| {
        seen.lookups_failed
    }),
];

type GaugeOf = (Family, fn(&GroupStatus) -> f64);

const GROUP_GAUGES: &[GaugeOf] = &[
    (Family::gauge(names::GROUP_TERM, "The term.", &["group"]), |group| group.standing.term as f64),
    (Family::gauge(names::LAST_INDEX, "The last index in the log.", &["group"]), |group| group.last_index as f64),
    (Family::gauge(names::COMMITTED_INDEX, "The last index committed.", &["group"]), |group| {
        group.committed_index as f64
    }),
    (Family::gauge(names::APPLIED_INDEX, "The last index applied.", &["group"]), |group| group.applied_index as f64),
    (Family::gauge(names::LEASE_SECONDS, "How long the lease still holds; 0 without one.", &["group"]), |group| {
        group.lease_ms.unwrap_or(0) as f64 / 1_000.0
    }),
];

type FlowCounterOf = (Family, fn(&FlowCounters) -> u64);

const FLOW_COUNTERS: &[FlowCounterOf] = &[
    (Family::counter(names::FLOWS_BEGUN_TOTAL, "Flows that began.", &["shard"]), |counted| counted.begun),
    (Family::counter(names::FLOWS_EXPIRED_TOTAL, "Flows that expired.", &["shard"]), |counted| counted.expired),
    (Family::counter(names::FLOWS_EVICTED_TOTAL, "Flows that gave way in a full shard.", &["shard"]), |counted| {
        counted.evicted
    }),
    (Family::counter(names::FLOW_BATCHES_AGAIN_TOTAL, "Batches that had come before.", &["shard"]), |counted| {
        counted.again
    }),
    (
        Family::counter(names::FLOW_OBSERVATIONS_UNPLACED_TOTAL, "Observations without a place.", &["shard"]),
        |counted| counted.unplaced,
    ),
];

const GROUP_ROLE: Family = Family::gauge(names::GROUP_ROLE, "1 for the role it has.", &["group", "role"]);
const TABLE_ROWS: Family = Family::gauge(names::TABLE_ROWS, "Rows of a table.", &["group", "table"]);
const TABLE_DIGEST: Family =
    Family::gauge(names::TABLE_DIGEST, "Low 52 bits of a table's digest.", &["group", "table"]);
const EPOCH: Family = Family::gauge(names::EPOCH, "The committed version of pools and verdicts.", &[]);
const READY: Family = Family::gauge(names::READY, "1 while the instance serves.", &[]);
const DISK_FULL: Family = Family::gauge(names::DISK_FULL, "1 while the disk has no room for the log.", &[]);
const LOG_SEGMENTS: Family = Family::gauge(names::LOG_SEGMENTS, "Segment files of the log.", &[]);
const LOG_BYTES: Family = Family::gauge(names::LOG_BYTES, "Bytes written in the segments that are left.", &[]);
const LINK_EVENTS: Family =
    Family::counter(names::LINK_EVENTS_TOTAL, "What links and the port for peers and gRPC count.", &["event"]);
const PEER_REACHABLE: Family = Family::gauge(names::PEER_REACHABLE, "1 while the peer is heard from.", &["peer"]);
