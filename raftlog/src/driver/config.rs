//! What a driver is made of: settings, recovered groups, counters.

use bytes::Bytes;

use super::detector::DetectorKind;
use crate::types::{GroupId, Index, NodeId, Term};

/// Settings of a driver.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// This replica.
    pub id: NodeId,
    /// What may change while it runs.
    pub tuning: Tuning,
    /// A group's log is cut by a snapshot when it has so many applied entries ...
    pub compact_entries: u64,
    /// ... or so many bytes.
    pub compact_bytes: u64,
    /// So many entries are kept behind a snapshot for followers that are a little late.
    pub tail_entries: u64,
    /// About so many bytes of entries are in memory, over all groups; older ones are only on disk. What is not applied yet
    /// is in memory whatever its size.
    pub memory_bytes: u64,
    /// Seed of all jitter.
    pub seed: u64,
}

/// The settings that may change while a driver runs: [`super::Driver::tune`]. A tick is [`super::TICK_MS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// A leader's heartbeats, and every replica's beats, come every so many ticks.
    pub heartbeat_ticks: usize,
    /// Silence of the leader for so many ticks, plus jitter, starts an election. A leader that no majority answers for
    /// as long steps down.
    pub election_ticks: usize,
    /// The most ticks of jitter.
    pub jitter_ticks: usize,
    /// How silence of a whole peer is told from chance, before the election timeout of each group it leads.
    pub detector: DetectorKind,
    /// Whether leaderships of all groups but group 0 are spread evenly over the voters.
    pub spread: bool,
    /// Chaos: every so many ticks each leader hands its groups to a voter drawn at random; 0: never.
    pub shuffle_ticks: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat_ticks: 5,
            election_ticks: 30,
            jitter_ticks: 20,
            detector: DetectorKind::default(),
            spread: true,
            shuffle_ticks: 0,
        }
    }
}

impl DriverConfig {
    /// Defaults for a replica.
    #[must_use]
    pub fn new(id: NodeId, seed: u64) -> Self {
        Self {
            id,
            tuning: Tuning::default(),
            compact_entries: 50_000,
            compact_bytes: 64 << 20,
            tail_entries: 5_000,
            memory_bytes: 64 << 20,
            seed,
        }
    }
}

/// A group as it was found on disk.
#[derive(Clone, Debug)]
pub struct GroupStart {
    /// The group.
    pub group: GroupId,
    /// The newest term seen.
    pub term: Term,
    /// The vote in that term.
    pub vote: Option<NodeId>,
    /// The highest index known to be committed.
    pub commit: Index,
    /// The state that the log follows on; none: this replica waits to be taught.
    pub snapshot: Option<SnapshotStart>,
    /// The log after the snapshot.
    pub entries: Vec<(Index, Term, Bytes)>,
}

/// The state that a log follows on.
#[derive(Clone, Debug)]
pub struct SnapshotStart {
    /// The last index it covers.
    pub index: Index,
    /// The term of the entry there.
    pub term: Term,
    /// As in `Action::StoreSnapshot`, or of `Members::founders`.
    pub meta: Bytes,
}

/// What a driver counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Elections that this replica started.
    pub elections: u64,
    /// Peers that fell silent by the detector's judgement.
    pub suspicions: u64,
    /// Leaderships handed over to spread them, or to shuffle them.
    pub leaders_moved: u64,
    /// Append messages sent.
    pub appends_sent: u64,
    /// Append messages received.
    pub appends_received: u64,
    /// Vote and pre-vote requests sent.
    pub votes_sent: u64,
    /// Vote and pre-vote requests received.
    pub votes_received: u64,
    /// Proposals of this replica.
    pub proposed: u64,
    /// Entries committed and handed out to be applied.
    pub committed: u64,
    /// Snapshots taken.
    pub snapshots_taken: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Entries read back from disk for followers that were behind.
    pub entries_read: u64,
    /// Frames or messages that made no sense.
    pub frames_malformed: u64,
    /// Items too large for a frame.
    pub frames_oversized: u64,
    /// Messages dropped while the disk was behind, or of the wrong sender.
    pub messages_dropped: u64,
}
