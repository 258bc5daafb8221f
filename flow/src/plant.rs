//! Planted bugs for the simulator: with the `plant` feature one can be switched on to see that it is caught.
//!
//! Without the feature (every build that serves traffic) [`on`] is a constant `false` and nothing of this is there.

/// A bug that the simulator must catch. Each breaks one rule of the design's section on agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// State machines: a pin group takes an Assign to a backend that is not live there.
    AssignToDead = 1,
    /// A choice: a later commit overwrites the first.
    LastCommitWins,
    /// LRU: a hit is not checked against its group's generation.
    StaleCache,
    /// Hash: each instance picks by a hash of its own.
    OwnHash,
    /// Lease: decisions are made without one.
    NoLease,
    /// Lease: a heartbeat alone renews it, though moves are not applied.
    LeaseWithoutMoves,
    /// Moves: they are settled at once, whoever has applied them.
    SettleAtOnce,
    /// Moves: a new leader does not wait out the leases of the old one.
    HastyLeader,
    /// Verdicts: one vote decides.
    OneVote,
    /// A failed connect is taken for the fleet's verdict.
    ConnectMoves,
    /// Identity: a server's name alone is its identity.
    NameOnly,
    /// Time: log time follows the leader's wall clock with its jumps.
    WallClock,
    /// Time: a reader uses a pin that may have expired elsewhere.
    UseExpired,
    /// Birth: an empty data directory under a known label votes.
    NewbornVotes,
    /// The log: votes and entries are acknowledged before they are on disk.
    AckBeforeSync,
    /// LRU: installing a snapshot leaves the generation as it was.
    SnapshotKeepsGeneration,
    /// Lease: the clock that it is kept on stands still while the process is paused.
    ClockStops,
    /// Moves: the pins of a draining backend move.
    DrainingMoves,
    /// Verdicts: votes count though their voters hold no lease.
    VoteWithoutLease,
    /// Verdicts: a backend that nobody has seen yet is taken for healthy.
    BornHealthy,
    /// Identity: an unpin moves the pin of whatever revision.
    UnpinAny,
    /// Time: refreshes of pins are lost.
    TouchesLost,
    /// Birth: a second word of birth replaces the first.
    SecondBirth,
    /// A choice: a write whose outcome is unknown is answered "not done".
    UnknownIsNo,
    /// Reads: a linearizable read is answered without its proof.
    StaleRead,
    /// Time: a former leader's clock, of which no entry tells, goes on when it leads again.
    ClockOutlivesLeader,
    /// Lease: each instance goes by the length of leases in its own configuration.
    OwnLease,
    /// Exactly once: the sessions are missing in snapshots.
    SessionsNotInSnapshot,
    /// Exactly once: a command is carried out again when its request comes again.
    AppliedTwice,
    /// Exactly once: whoever knows a session's id has requests in it.
    AnyonesSession,
    /// Birth: empty directories found a fleet that was restored.
    FoundsRestored,
    /// Flows: a batch that comes again is taken for a new one.
    BatchAgain,
    /// Flows: what an earlier life of a sniffer says still counts.
    EarlierLife,
    /// Flows: how far each sniffer's reports came is missing in snapshots.
    SniffersNotInSnapshot,
}

impl Plant {
    /// All of them, with the name by which the simulator knows them and what they break.
    pub const ALL: &'static [(&'static str, Plant, &'static str)] = &[
        (
            "assign-to-dead",
            Self::AssignToDead,
            "State machines: a pin group takes an Assign to a backend not live there",
        ),
        ("last-commit-wins", Self::LastCommitWins, "A choice: a later commit overwrites the first"),
        ("stale-cache", Self::StaleCache, "LRU: a hit is not checked against its generation"),
        ("own-hash", Self::OwnHash, "Hash: each instance picks by a hash of its own"),
        ("no-lease", Self::NoLease, "Lease: decisions are made without one"),
        ("lease-without-moves", Self::LeaseWithoutMoves, "Lease: renewed for an instance that lags behind a move"),
        ("settle-at-once", Self::SettleAtOnce, "Moves: settled before every lease-holder has applied them"),
        ("hasty-leader", Self::HastyLeader, "Moves: a new leader does not wait out the old leases"),
        ("one-vote", Self::OneVote, "Verdicts: one vote decides"),
        ("connect-moves", Self::ConnectMoves, "A failed connect is taken for the fleet's verdict"),
        ("name-only", Self::NameOnly, "Identity: a server's name alone is its identity"),
        ("wall-clock", Self::WallClock, "Time: log time follows the leader's wall clock"),
        ("use-expired", Self::UseExpired, "Time: a reader uses a pin that may have expired"),
        ("newborn-votes", Self::NewbornVotes, "Birth: an empty data directory under a known label votes"),
        ("ack-before-sync", Self::AckBeforeSync, "The log: acknowledged before it is on disk"),
        (
            "snapshot-keeps-generation",
            Self::SnapshotKeepsGeneration,
            "LRU: installing a snapshot leaves the generation as it was",
        ),
        ("clock-stops", Self::ClockStops, "Lease: its clock stands still while the process is paused"),
        ("draining-moves", Self::DrainingMoves, "Moves: the pins of a draining backend move"),
        ("vote-without-lease", Self::VoteWithoutLease, "Verdicts: votes count though their voters hold no lease"),
        ("born-healthy", Self::BornHealthy, "Verdicts: a backend nobody has seen yet is taken for healthy"),
        ("unpin-any", Self::UnpinAny, "Identity: an unpin moves the pin of whatever revision"),
        ("touches-lost", Self::TouchesLost, "Time: refreshes of pins are lost"),
        ("second-birth", Self::SecondBirth, "Birth: a second word of birth replaces the first"),
        ("unknown-is-no", Self::UnknownIsNo, "A choice: a write of unknown outcome is answered \"not done\""),
        ("stale-read", Self::StaleRead, "Reads: a linearizable read is answered without its proof"),
        (
            "clock-outlives-leader",
            Self::ClockOutlivesLeader,
            "Time: a former leader's clock goes on when it leads again",
        ),
        ("own-lease", Self::OwnLease, "Lease: each instance goes by the length that it is configured to"),
        (
            "sessions-not-in-snapshot",
            Self::SessionsNotInSnapshot,
            "Exactly once: the sessions are missing in snapshots",
        ),
        ("applied-twice", Self::AppliedTwice, "Exactly once: a request that comes again is carried out again"),
        ("founds-restored", Self::FoundsRestored, "Birth: empty directories found a fleet that was restored"),
        ("batch-again", Self::BatchAgain, "Flows: a batch that comes again is taken for a new one"),
        ("earlier-life", Self::EarlierLife, "Flows: what an earlier life of a sniffer says still counts"),
        (
            "sniffers-not-in-snapshot",
            Self::SniffersNotInSnapshot,
            "Flows: how far each sniffer's reports came is missing in snapshots",
        ),
        ("anyones-session", Self::AnyonesSession, "Exactly once: a client's request goes by an instance's session"),
    ];
}

#[cfg(feature = "plant")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches one bug on, for the whole process, for good.
#[cfg(feature = "plant")]
pub fn sow(plant: Plant) {
    PLANTED.store(plant as u8, std::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is switched on.
#[cfg(feature = "plant")]
#[must_use]
pub fn on(plant: Plant) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == plant as u8
}

/// Never: this build has no planted bugs.
#[cfg(not(feature = "plant"))]
#[inline]
#[must_use]
pub const fn on(_: Plant) -> bool {
    false
}
