//! Planted bugs of the log, for the simulators: with the `plant` feature one can be switched on to see that it is caught.
//!
//! Without the feature (every build that serves traffic) [`on`] is a constant `false` and nothing of this is there.

/// A bug that a simulator must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// Log time: a leader's clock, of which no entry tells, goes on when it leads again.
    ClockOutlivesLeader = 1,
    /// Durability: answers that wait for the disk leave at once.
    AckBeforeFsync,
    /// Durability: a round that holds only terms and votes is not synced.
    SkippedHardState,
    /// Durability: what a restart finds in the log is taken for durable as it is.
    RecoveredNotSynced,
    /// Application: entries are handed out a second time.
    EntriesAppliedTwice,
    /// Snapshots: one is sent that does not know the newest members.
    StaleSnapshotMembers,
    /// Snapshots: its loss on the way is not reported.
    LostSnapshotUnreported,
    /// Snapshots: its mark is in the log before its file is on disk.
    MarkBeforeFile,
    /// Snapshots: one that could not be stored counts as stored.
    UnstoredCounts,
    /// Reads: answered by the leader's lease, without a quorum's proof.
    LeaseReads,
    /// Reads: proven for the entry before the newest.
    ReadBehind,
    /// Proposals: one that was appended is refused.
    RefusedYetAppended,
    /// Old entries: those read from disk are handed out one place off.
    WrongLogRead,
}

impl Plant {
    /// Those that the log's own simulator catches, with the name by which it knows them and what they break.
    pub const ALL: &'static [(&'static str, Plant, &'static str)] = &[
        ("ack-before-fsync", Self::AckBeforeFsync, "Durability: answers leave before what they answer for is on disk"),
        ("skipped-hard-state", Self::SkippedHardState, "Durability: terms and votes are not synced"),
        ("recovered-not-synced", Self::RecoveredNotSynced, "Durability: what a restart finds is taken for durable"),
        ("entries-applied-twice", Self::EntriesAppliedTwice, "Application: entries are handed out a second time"),
        ("stale-snapshot-members", Self::StaleSnapshotMembers, "Snapshots: sent without the newest members"),
        ("lost-snapshot-unreported", Self::LostSnapshotUnreported, "Snapshots: a loss is not reported"),
        ("mark-before-file", Self::MarkBeforeFile, "Snapshots: marked in the log before the file is on disk"),
        ("unstored-counts", Self::UnstoredCounts, "Snapshots: one that could not be stored counts as stored"),
        ("lease-reads", Self::LeaseReads, "Reads: answered without a quorum's proof"),
        ("read-behind", Self::ReadBehind, "Reads: proven for the entry before the newest"),
        ("refused-yet-appended", Self::RefusedYetAppended, "Proposals: one that was appended is refused"),
        ("wrong-log-read", Self::WrongLogRead, "Old entries: read from disk, and handed out one place off"),
    ];
}

#[cfg(feature = "plant")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

#[cfg(feature = "plant")]
thread_local! {
    static PLANTED_HERE: std::cell::Cell<u8> = const { std::cell::Cell::new(0) };
}

/// Switches one bug on, for the whole process, for good.
#[cfg(feature = "plant")]
pub fn sow(plant: Plant) {
    PLANTED.store(plant as u8, std::sync::atomic::Ordering::Relaxed);
}

/// Switches one bug on for this thread, or none.
#[cfg(feature = "plant")]
pub fn sow_here(plant: Option<Plant>) {
    PLANTED_HERE.set(plant.map_or(0, |plant| plant as u8));
}

/// Whether this bug is switched on.
#[cfg(feature = "plant")]
#[must_use]
pub fn on(plant: Plant) -> bool {
    PLANTED_HERE.get() == plant as u8 || PLANTED.load(std::sync::atomic::Ordering::Relaxed) == plant as u8
}

/// Never: this build has no planted bugs.
#[cfg(not(feature = "plant"))]
#[inline]
#[must_use]
pub const fn on(_: Plant) -> bool {
    false
}
