//! Commands: what the log carries, and what applying one answers.

use crate::{
    health::View,
    ids::{BackendId, Epoch, FleetId, Incarnation, InstanceId, LogTime, PinKey, PoolId, Revision, SessionId},
    plant::{self, Plant},
    pool::{PoolSpec, ServerSpec},
    sessions::SessionRefusal,
    tuning::Tuning,
};

/// A command of group 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlCommand {
    /// The fleet's first word; later ones change nothing.
    Birth(Birth),
    /// Makes an instance a member (a learner first); a new id is drawn.
    MemberAdd(MemberAddress),
    /// Gives a member its vote, once it has caught up.
    MemberPromote(InstanceId),
    /// Takes an instance out for good.
    MemberRemove(InstanceId),
    /// Binds a member's id to the incarnation of its data directory, once.
    MemberSeen(InstanceId, Incarnation),
    /// Replaces all pools, if the epoch is still `expected`.
    Apply {
        /// The pools as they shall be.
        pools: Vec<PoolSpec>,
        /// The epoch from which the change was computed.
        expected: Epoch,
    },
    /// Changes one server of a pool.
    Server {
        /// The pool.
        pool: PoolId,
        /// What happens.
        change: ServerChange,
    },
    /// What one instance sees of a backend.
    Vote {
        /// Who votes.
        voter: InstanceId,
        /// In which life.
        incarnation: Incarnation,
        /// On whom.
        backend: BackendId,
        /// What it saw; `Unknown` takes the vote back.
        view: View,
    },
    /// The fleet's word on a backend, if its verdict is still of `revision`.
    Verdict {
        /// On whom.
        backend: BackendId,
        /// `Up` or `Down`.
        view: View,
        /// The verdict that this one follows.
        revision: Revision,
    },
    /// Stores a value, if the key's revision is `if_revision` (0: absent; none: whatever it is).
    KvPut {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The condition.
        if_revision: Option<Revision>,
    },
    /// Removes a key under the same condition.
    KvDelete {
        /// The key.
        key: String,
        /// The condition.
        if_revision: Option<Revision>,
    },
    /// Opens a client's session; the revision of the outcome is its id.
    OpenSession(Option<SessionOwner>),
    /// Closes a session of a client; one that is not there is closed already.
    CloseSession(SessionId),
    /// Settings of the log; none: every instance goes by its configuration again.
    Tune(Option<Tuning>),
    /// A command that is carried out once, however often its request comes: again, it gets the outcome it got before.
    Once {
        /// Which request of which session.
        request: Request,
        /// Whose the session must be; none: a client's. What a client asks never goes by an instance's session.
        owner: Option<SessionOwner>,
        /// Any command but those of sessions.
        command: Box<ControlCommand>,
    },
    /// Lets log time advance.
    Tick,
}

/// One request of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The session.
    pub session: SessionId,
    /// The request's number, chosen by the client: another for each request, the same for each try of it.
    pub sequence: u64,
    /// The client has the answers to all requests below this one: their outcomes are forgotten, and none of them is
    /// carried out any more.
    pub answered_below: u64,
}

/// An instance whose session it is. It has one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOwner {
    /// The instance.
    pub instance: InstanceId,
    /// The life of its process: the same gets the same session, another one a new session in place of the old.
    pub life: u64,
}

/// A command of a pin group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinCommand {
    /// The copy of an epoch of group 0; an older one changes nothing.
    Epoch(EpochCopy),
    /// Pins the key to the backend unless it has a pin that holds; refreshes one that does.
    Assign {
        /// Who.
        key: PinKey,
        /// Picked for it.
        backend: BackendId,
        /// The epoch of the pick.
        epoch: Epoch,
    },
    /// Refreshes pins that are still of the given revision.
    Touch(Vec<(PinKey, Revision)>),
    /// Starts the move of one pin that is still of the given revision: its client will be picked anew.
    Unpin {
        /// Whose.
        key: PinKey,
        /// The pin's revision.
        revision: Revision,
    },
    /// Every lease-holder has applied the moves up to this revision, or its lease has run out.
    Settle(Revision),
    /// Lets log time advance, so that pins expire.
    Tick,
}

/// The first word of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The identity drawn for the fleet.
    pub fleet: FleetId,
    /// The key of every pick.
    pub pick_key: [u8; 16],
    /// How many pin groups there are.
    pub pin_groups: u32,
    /// How long a lease lasts, in milliseconds; not 0, and no more than 32 bits hold.
    pub lease_ms: u64,
    /// The founders, with the ids they were given.
    pub founders: Vec<(InstanceId, MemberAddress)>,
    /// The pools that the configuration seeds.
    pub pools: Vec<PoolSpec>,
}

/// Where an instance is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAddress {
    /// Unique in the fleet.
    pub label: String,
    /// IP address or host name.
    pub host: String,
    /// Port of peers and the gRPC API.
    pub grpc: u16,
    /// Port of REST.
    pub rest: u16,
    /// Port of metrics.
    pub metrics: u16,
}

/// A change of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerChange {
    /// A new server.
    Add(ServerSpec),
    /// Takes it out; its clients move.
    Remove(String),
    /// No new clients.
    Drain(String),
    /// New clients again.
    Enable(String),
}

/// What a pin group must know of group 0: the copy of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCopy {
    /// Which epoch.
    pub epoch: Epoch,
    /// Every pool and how long its pins last, in milliseconds.
    pub pools: Vec<(PoolId, u64)>,
    /// Every member backend and how it stands. One that is missing was removed.
    pub backends: Vec<(BackendId, Standing)>,
}

/// How a backend stands in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A member that was never seen up: takes nobody.
    Unknown,
    /// Takes new clients.
    Live,
    /// Keeps its clients, takes no new ones.
    Draining,
    /// Down: its pins are moving.
    Dead,
    /// No member any more: its pins are moving.
    Gone,
}

/// What applying a control command answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlOutcome {
    /// Done (or it was so already), at this revision and in this epoch.
    Done {
        /// The index of the change.
        revision: Revision,
        /// The epoch from then on.
        epoch: Epoch,
    },
    /// The condition did not hold.
    Conflict(String),
    /// The command makes no sense in this state.
    Invalid(String),
    /// The session of the request does not allow it; nothing was carried out for this entry.
    Refused(SessionRefusal),
}

/// What applying a pin command answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinOutcome {
    /// The key's pin, which may be another than was proposed: the first commit wins.
    Holds(Pin),
    /// The key's pin is moving since that revision; ask again once it is settled.
    Moving(Revision),
    /// The proposed backend takes nobody here; the table's epoch.
    NotLive(Epoch),
    /// Nothing to answer.
    Done,
}

/// A committed choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Whom the key is given.
    pub backend: BackendId,
    /// The index of the entry that made the choice.
    pub revision: Revision,
    /// The epoch in which it was made.
    pub epoch: Epoch,
    /// When it ends unless it is refreshed.
    pub expires: LogTime,
    /// Since when this one pin is moving, if it is.
    pub moving: Option<Revision>,
}

impl Pin {
    /// The log time from which a use should refresh the pin: a quarter of its idle time after it was refreshed last.
    #[must_use]
    pub fn touch_from(&self, pin_ttl_ms: u64) -> LogTime {
        LogTime(self.expires.0.saturating_sub(pin_ttl_ms - pin_ttl_ms / 4))
    }
}

impl Standing {
    /// Whether a client may be at such a backend.
    #[must_use]
    pub fn serves(self) -> bool {
        self == Self::Live || (self == Self::Draining && !plant::on(Plant::DrainingMoves))
    }
}
