//! The driver: all Raft groups of a process as one plain state machine. No clock, no socket, no disk, no randomness but
//! its seed.
//!
//! The owner calls, in this order, as often as it likes:
//! 1. [`Driver::set_now`], then any of the `handle_*` methods and verbs;
//! 2. [`Driver::poll`], and carries out the actions in their order: what is applied is visible before anything is sent
//!    that tells others so;
//! 3. [`Driver::handle_persisted`] once a `Persist` round is on disk: acknowledgements leave only after it. A leader's
//!    appends leave before its own sync (Ongaro 2014, section 10.2.1).

mod action;
mod config;
mod detector;
mod entry;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod group;
mod members;
mod memlog;
mod peers;
mod random;
mod sound;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use raft::eraftpb::MessageType;

use self::{
    frame::{FrameBuilder, Heartbeat, Item},
    group::{CORE_ELECTION_TICKS, Group, Outbox, Round, Ticks},
    peers::{Moved, Peers},
    random::Random,
};
use crate::types::{GroupId, Index, NodeId, State, Term};

pub use self::{
    action::{Action, Committed, Content, GroupStatus, Install, Rejection, Role},
    config::{Counters, DriverConfig, GroupStart, SnapshotStart, Tuning},
    detector::DetectorKind,
    frame::FRAME_BYTES_MAX,
    group::Glance,
    members::{MemberChange, Members},
};

/// All groups of one replica.
pub struct Driver {
    config: DriverConfig,
    now_ms: u64,
    groups: Vec<Group>,
    /// The groups that may have something to say; all others are not looked at.
    dirty: BTreeSet<usize>,
    /// The groups whose election is near, by the tick of it.
    elections: BTreeSet<(u64, usize)>,
    /// The groups that wait for a round, by round.
    waiting: VecDeque<(u64, Vec<usize>)>,
    /// Ticks so far.
    tick: u64,
    peers: Peers,
    /// Leaderships that were handed over to spread them: not again at once where that led to nothing.
    moved: BTreeMap<usize, Moved>,
    outbox: Outbox,
    actions: Vec<Action>,
    /// The last round that was given out to be persisted.
    round: u64,
    /// The last round known to be on disk.
    persisted: u64,
    /// Whether this replica may lead: not while its disk is full.
    may_lead: bool,
    /// Whether it takes leaderships that others hand over: not when it is about to end.
    willing: bool,
    /// Something is wrong beyond repair: nothing more is done.
    broken: bool,
    random: Random,
    counters: Counters,
}

impl Driver {
    /// A driver of `groups`, which must be numbered 0, 1, 2, ... in order.
    ///
    /// # Errors
    /// If a group's recovered state contradicts itself.
    pub fn new(config: DriverConfig, groups: Vec<GroupStart>) -> Result<Self, raft::Error> {
        let mut random = Random::new(config.seed);
        let groups =
            groups.into_iter().map(|start| Group::new(&config, start, &mut random)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            now_ms: 0,
            dirty: (0..groups.len()).collect(),
            groups,
            elections: BTreeSet::new(),
            waiting: VecDeque::new(),
            tick: 0,
            peers: Peers::default(),
            moved: BTreeMap::new(),
            outbox: Outbox::default(),
            actions: Vec::new(),
            round: 0,
            persisted: 0,
            may_lead: true,
            willing: true,
            broken: false,
            random,
            counters: Counters::default(),
            config,
        })
    }

    /// This replica's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// How many groups there are.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.groups.len() as u32
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sets the monotonic time that log time is made of, in milliseconds.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// The settings that may change.
    #[must_use]
    pub fn tuning(&self) -> &Tuning {
        &self.config.tuning
    }

    /// Goes by other settings from now on.
    pub fn tune(&mut self, tuning: Tuning) {
        if tuning != self.config.tuning {
            self.config.tuning = tuning;
            self.peers.forget();
        }
    }

    /// One tick of [`TICK_MS`] has passed.
    pub fn handle_tick(&mut self) {
        self.tick += 1;
        self.peers.run(self.now_ms);
        let heartbeat = (self.config.tuning.heartbeat_ticks as u64).max(1);
        if self.tick.is_multiple_of(SCAN_TICKS) {
            self.scan();
        }
        let core = (self.config.tuning.election_ticks as u64).div_ceil(CORE_ELECTION_TICKS as u64).max(1);
        if self.tick.is_multiple_of(core) {
            for (place, group) in self.groups.iter_mut().enumerate() {
                if group.core_tick() {
                    self.dirty.insert(place);
                }
            }
        }
        if self.tick.is_multiple_of(heartbeat) {
            self.beat();
        }
        self.suspect();
        self.hold_elections();
        self.move_leaders();
    }

    /// A frame of a peer came in. Bytes that make no sense are counted and dropped.
    ///
    /// Items of the frame that are not the driver's are handed back in `Action::Word`.
    pub fn handle_frame(&mut self, from: NodeId, bytes: &Bytes) {
        let Ok(items) = frame::decode(bytes) else {
            self.counters.frames_malformed += 1;
            return;
        };
        let ticks = self.ticks();
        let mut beat = None;
        for (group, item) in items {
            match item {
                Item::Raft(message) => self.step(from, group, &message, ticks),
                Item::Propose { origin, token, data } => self.take_forwarded(from, group, origin, token, data),
                Item::Refuse { token, reason } => {
                    self.actions.push(Action::Rejected { group, token, reason });
                }
                Item::Word(bytes) => self.actions.push(Action::Word { from, group, bytes }),
                Item::Beat { may_lead } => beat = Some(may_lead),
                // What is meant for another: an id that was here before this one.
                Item::Heartbeats(to, _) | Item::HeartbeatAnswers(to, _) if to != self.config.id => {
                    self.counters.messages_dropped += 1;
                }
                Item::Heartbeats(_, heartbeats) => self.take_heartbeats(from, heartbeats, ticks),
                Item::HeartbeatAnswers(_, answers) => self.take_heartbeat_answers(from, &answers, ticks),
            }
        }
        self.peers.heard(from, beat);
    }

    /// All records and files of that round, and of all before it, are on disk.
    pub fn handle_persisted(&mut self, round: u64) {
        self.persisted = self.persisted.max(round);
        while self.waiting.front().is_some_and(|(waits_for, _)| *waits_for <= round) {
            let Some((_, places)) = self.waiting.pop_front() else { return };
            for place in places {
                self.groups[place].persisted(round, &mut self.outbox, &mut self.actions, &mut self.counters);
                self.dirty.insert(place);
            }
        }
    }

    /// The link to a peer broke. `gone`: nothing listens there any more, so groups it led need not wait for a timeout.
    pub fn handle_peer_down(&mut self, peer: NodeId, gone: bool) {
        for (place, group) in self.groups.iter_mut().enumerate() {
            if group.unreachable(peer) {
                self.dirty.insert(place);
            }
        }
        if gone {
            self.lose_leader(peer);
        }
    }

    /// A snapshot came in whole and was found to be the state at this index and term; `meta` is what its file has beside
    /// the state, and `message` the Raft message that announced it: both say the same, or what a restart would read were
    /// not what was taken. `true`: it is taken. It is then named in `Persist::installs`, and after that in `Restore`.
    /// `false`: it is not wanted.
    pub fn handle_snapshot(
        &mut self,
        from: NodeId,
        group: GroupId,
        message: &[u8],
        (index, term): (Index, Term),
        meta: &[u8],
    ) -> bool {
        let ticks = self.ticks();
        let Some(found) = self.groups.get_mut(group.0 as usize) else {
            self.counters.frames_malformed += 1;
            return false;
        };
        let decoded = entry::decode_message(&Bytes::copy_from_slice(message)).ok();
        if decoded.as_ref().is_some_and(|message| message.from != from.0 || message.to != self.config.id.0) {
            self.counters.messages_dropped += 1;
            return false;
        }
        if let Some(message) = decoded
            && message.msg_type() == MessageType::MsgSnapshot
            && message.get_snapshot().get_metadata().index == index.0
            && message.get_snapshot().get_metadata().term == term.0
            && members::is_meta_of(meta, message.get_snapshot())
        {
            self.dirty.insert(group.0 as usize);
            return found.step_snapshot(message, ticks, &mut self.counters);
        }
        self.counters.frames_malformed += 1;
        false
    }

    /// The snapshot of `Action::StoreSnapshot` is stored, or could not be.
    pub fn handle_snapshot_stored(&mut self, group: GroupId, index: Index, stored: bool) {
        let (now_ms, config) = (self.now_ms, &self.config);
        if let Some(found) = self.groups.get_mut(group.0 as usize) {
            found.snapshot_stored(index.0, stored, now_ms, config, &mut self.counters);
            self.dirty.insert(group.0 as usize);
        }
    }

    /// How the sending of a snapshot ended.
    pub fn handle_snapshot_sent(&mut self, group: GroupId, to: NodeId, arrived: bool) {
        if let Some(found) = self.groups.get_mut(group.0 as usize) {
            found.snapshot_sent(to, arrived);
            self.dirty.insert(group.0 as usize);
        }
    }

    /// The stored file of a snapshot that was to be sent is damaged or gone. Another is asked for, by `Action::Snapshot`;
    /// how the sending ended is told as ever.
    pub fn handle_snapshot_unreadable(&mut self, group: GroupId, (index, term): (Index, Term)) {
        if let Some(found) = self.groups.get_mut(group.0 as usize) {
            found.snapshot_unreadable(index.0, term.0);
            self.dirty.insert(group.0 as usize);
        }
    }

    /// What `Action::ReadLog` asked for: the encoded entries from `from` on, without a gap.
    pub fn handle_log_read(&mut self, group: GroupId, from: Index, entries: &[(Index, Term, Bytes)]) {
        if let Some(found) = self.groups.get_mut(group.0 as usize) {
            found.handle_log_read(from, entries, &mut self.counters);
            self.dirty.insert(group.0 as usize);
        }
    }

    /// Proposes an entry: appended if this replica leads the group, else forwarded to the leader. The answer is the
    /// entry itself among the committed ones, with this replica as origin and this token; or `Action::Rejected`, after
    /// which it was certainly not appended; or nothing, if it was lost on the way: the owner keeps its own deadline.
    pub fn propose(&mut self, group: GroupId, token: u64, data: Bytes) {
        let origin = self.config.id;
        let overloaded = self.overloaded();
        let Some(found) = self.groups.get_mut(group.0 as usize) else { return };
        let rejection = if data.len() > ENTRY_BYTES_MAX {
            Some(Rejection::TooLarge)
        } else if overloaded {
            Some(Rejection::Overloaded)
        } else if found.leads() {
            self.dirty.insert(group.0 as usize);
            found.propose(self.now_ms, origin, token, &data).err()
        } else if let Some(leader) = found.leader() {
            self.outbox.add(leader, group, Item::Propose { origin, token, data });
            None
        } else {
            Some(Rejection::NoLeader)
        };
        self.counters.proposed += 1;
        if let Some(reason) = rejection {
            self.actions.push(Action::Rejected { group, token, reason });
        }
    }

    /// Sends bytes that are not the driver's to the owner of a peer, with the frames of this round.
    pub fn send_word(&mut self, to: NodeId, group: GroupId, bytes: Bytes) {
        self.outbox.add(to, group, Item::Word(bytes));
    }

    /// Asks for proof of the present: `Action::ReadReady` with this context says that everything committed before this
    /// call is at or below its index. `false`: not to be had now, ask again later.
    pub fn read_index(&mut self, group: GroupId, context: u64) -> bool {
        let taken = self.groups.get_mut(group.0 as usize).is_some_and(|group| group.read_index(context));
        if taken {
            self.dirty.insert(group.0 as usize);
        }
        taken
    }

    /// Proposes a change of members to a group that this replica leads; `false` if it cannot be taken now.
    pub fn propose_members(&mut self, group: GroupId, change: MemberChange) -> bool {
        let now_ms = self.now_ms;
        self.dirty.insert(group.0 as usize);
        self.groups.get_mut(group.0 as usize).is_some_and(|group| group.propose_members(now_ms, change))
    }

    /// Has the leadership of a group handed to a voter; a follower passes that on to the leader.
    pub fn transfer(&mut self, group: GroupId, to: NodeId) {
        if let Some(found) = self.groups.get_mut(group.0 as usize) {
            found.transfer(to);
            self.dirty.insert(group.0 as usize);
        }
    }

    /// Whether this replica takes leaderships that others hand over. It can still be elected.
    pub fn set_willing(&mut self, willing: bool) {
        self.willing = willing;
    }

    /// Whether this replica may lead. Taking it away resigns at once.
    pub fn set_may_lead(&mut self, may_lead: bool) {
        self.may_lead = may_lead;
        if !may_lead {
            for (place, group) in self.groups.iter_mut().enumerate() {
                group.resign();
                self.dirty.insert(place);
            }
        }
    }

    /// The owner's state of a group, as `Action::Snapshot` asked: it will be stored, the log cut, and sent to followers
    /// that need it. `index` is that of the last entry the state contains, which must be the last one handed out.
    pub fn snapshot(&mut self, group: GroupId, index: Index, state: Arc<dyn State>) {
        if let Some(found) = self.groups.get_mut(group.0 as usize) {
            found.snapshot(index.0, state, &mut self.actions);
            self.dirty.insert(group.0 as usize);
        }
    }

    /// Asks for a snapshot of a group whose entries up to `through` hold back the oldest segment of the log.
    pub fn request_snapshot(&mut self, group: GroupId, through: Index) {
        if let Some(found) = self.groups.get_mut(group.0 as usize) {
            found.request_snapshot(through.0);
            self.dirty.insert(group.0 as usize);
        }
    }

    /// How a group stands.
    #[must_use]
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        self.groups.get(group.0 as usize).map(Group::status)
    }

    /// The members of a group, as applied here.
    #[must_use]
    pub fn members(&self, group: GroupId) -> Option<Members> {
        self.groups.get(group.0 as usize).map(Group::members)
    }

    /// Whether this replica leads the group. It may not have committed anything in its term yet.
    #[must_use]
    pub fn leads(&self, group: GroupId) -> bool {
        self.groups.get(group.0 as usize).is_some_and(Group::leads)
    }

    /// Who leads the group, as far as is known here.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.groups.get(group.0 as usize).and_then(Group::leader)
    }

    /// The log time that an entry proposed now would get, if this replica leads the group.
    #[must_use]
    pub fn log_time(&self, group: GroupId) -> Option<u64> {
        self.groups.get(group.0 as usize).and_then(|group| group.log_time(self.now_ms))
    }

    /// An entry that is still in memory.
    #[must_use]
    pub fn entry(&self, group: GroupId, index: Index) -> Option<Committed> {
        self.groups.get(group.0 as usize).and_then(|group| group.entry(index))
    }

    /// What is to be done now; see the type's doc for the order.
    #[must_use]
    pub fn poll(&mut self) -> Vec<Action> {
        if self.broken {
            return Vec::new();
        }
        let memory_bytes = (self.config.memory_bytes / self.groups.len().max(1) as u64).max(GROUP_MEMORY_BYTES_MIN);
        let mut persist = group::Persist::new(self.round + 1);
        let mut waiting = Vec::new();
        let mut broken = None;
        let dirty = std::mem::take(&mut self.dirty);
        for place in &dirty {
            let Some(group) = self.groups.get_mut(*place) else { continue };
            let mut round = Round {
                persist: &mut persist,
                outbox: &mut self.outbox,
                actions: &mut self.actions,
                counters: &mut self.counters,
                config: &self.config,
                now_ms: self.now_ms,
                memory_bytes,
            };
            if group.drain(&mut round) {
                waiting.push(*place);
            }
            broken = broken.or(group.take_broken().map(|why| (GroupId(*place as u32), why)));
        }
        if let Some((group, why)) = broken {
            self.broken = true;
            return vec![Action::Broken { group, why }];
        }
        if !persist.is_empty() {
            self.round += 1;
            self.actions.push(persist.into_action());
        }
        if !waiting.is_empty() {
            self.waiting.push_back((self.round, waiting));
        }
        for (to, builder) in std::mem::take(&mut self.outbox.frames) {
            self.counters.frames_oversized += builder.oversized();
            for frame in builder.finish() {
                self.actions.push(Action::Send { to, frame });
            }
        }
        self.actions.append(&mut self.outbox.snapshots);
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        std::mem::take(&mut self.actions)
    }

    /// Panics where the state contradicts itself. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn check_invariants(&self) {
        assert!(self.persisted <= self.round, "nothing is persisted that was not given out");
        for group in &self.groups {
            group.check_invariants(self.persisted);
        }
    }

    fn step(&mut self, from: NodeId, group: GroupId, message: &Bytes, ticks: Ticks) {
        let overloaded = self.overloaded();
        let heir = self.may_lead && self.willing;
        let Some(found) = self.groups.get_mut(group.0 as usize) else {
            self.counters.frames_malformed += 1;
            return;
        };
        match entry::decode_message(message) {
            // What would have to be stored is dropped while the disk does not keep up: the leader sends it again.
            // And what is meant for another: an id that was here before this one. A follower passes on the wish for a
            // transfer in the name of the heir.
            Ok(message)
                if (message.from == from.0 || message.msg_type() == MessageType::MsgTransferLeader)
                    && message.to == self.config.id.0
                    && (!overloaded || message.entries.is_empty()) =>
            {
                match message.msg_type() {
                    // A snapshot comes another way, with its state.
                    MessageType::MsgSnapshot => self.counters.frames_malformed += 1,
                    // Whoever hands over finds another heir when its time is up.
                    MessageType::MsgTimeoutNow if !heir => self.counters.messages_dropped += 1,
                    _ => {
                        self.dirty.insert(group.0 as usize);
                        found.step(message, ticks, &mut self.counters);
                    }
                }
            }
            Ok(_) => self.counters.messages_dropped += 1,
            Err(_) => self.counters.frames_malformed += 1,
        }
    }

    /// Those of groups that stand as the leader says are answered at once, all others are messages like any other.
    fn take_heartbeats(&mut self, from: NodeId, mut heartbeats: Vec<Heartbeat>, ticks: Ticks) {
        heartbeats.retain(|heartbeat| {
            let Some(group) = self.groups.get_mut(heartbeat.group.0 as usize) else {
                self.counters.frames_malformed += 1;
                return false;
            };
            let rests = group.rests_under(from, heartbeat, ticks);
            if !rests {
                self.dirty.insert(heartbeat.group.0 as usize);
                let message = group.message(MessageType::MsgHeartbeat, from, heartbeat);
                group.step(message, ticks, &mut self.counters);
            }
            rests
        });
        if !heartbeats.is_empty() {
            self.outbox.add(from, GroupId(0), Item::HeartbeatAnswers(from, heartbeats));
        }
    }

    fn take_heartbeat_answers(&mut self, from: NodeId, answers: &[Heartbeat], ticks: Ticks) {
        for answer in answers {
            let Some(group) = self.groups.get_mut(answer.group.0 as usize) else {
                self.counters.frames_malformed += 1;
                continue;
            };
            if !group.rests_over(from, answer) {
                self.dirty.insert(answer.group.0 as usize);
                let message = group.message(MessageType::MsgHeartbeatResponse, from, answer);
                group.step(message, ticks, &mut self.counters);
            }
        }
    }

    fn take_forwarded(&mut self, from: NodeId, group: GroupId, origin: NodeId, token: u64, data: Bytes) {
        let overloaded = self.overloaded();
        let Some(found) = self.groups.get_mut(group.0 as usize) else {
            self.counters.frames_malformed += 1;
            return;
        };
        let answer = if data.len() > ENTRY_BYTES_MAX {
            Err(Rejection::TooLarge)
        } else if overloaded {
            Err(Rejection::Overloaded)
        } else if found.leads() {
            self.dirty.insert(group.0 as usize);
            found.propose(self.now_ms, origin, token, &data)
        } else {
            Err(Rejection::NoLeader)
        };
        if let Err(reason) = answer {
            self.outbox.add(from, group, Item::Refuse { token, reason });
        }
    }

    /// Whether the disk is so far behind that nothing more may be taken in.
    fn overloaded(&self) -> bool {
        self.round - self.persisted > ROUNDS_IN_FLIGHT_MAX
    }
}

/// A tick is so many milliseconds.
pub const TICK_MS: u64 = 10;

/// Groups are looked through for elections that come near, and leaders' clocks advance, every so many ticks.
const SCAN_TICKS: u64 = 4;

/// So many bytes of each group's newest entries are always in memory.
const GROUP_MEMORY_BYTES_MIN: u64 = 16 << 10;

/// The messages of one round to each peer.
type Frames = BTreeMap<NodeId, FrameBuilder>;

/// Most bytes of one entry's data; so it fits a frame with room to spare.
pub const ENTRY_BYTES_MAX: usize = 512 * 1024;

/// Most rounds that wait for the disk at once.
pub const ROUNDS_IN_FLIGHT_MAX: u64 = 1024;

#[cfg(test)]
mod tests;
