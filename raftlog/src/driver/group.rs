//! One Raft group: the core of TiKV, its log, and what is on its way to the disk.

mod glance;
mod heartbeats;
mod log_time;
mod ready;
mod snapshots;

pub use self::{glance::Glance, ready::Round};

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use prost011::Message as _;
use raft::{
    Config, INVALID_ID, RawNode, ReadOnlyOption, StateRole,
    eraftpb::{ConfState, Entry, HardState, Message, MessageType},
};

use self::{log_time::Clock, snapshots::Taking};
use super::{
    Frames,
    action::{Action, Committed, GroupStatus, Install, Rejection, Role},
    config::{Counters, DriverConfig, GroupStart},
    entry::{content, decode_entry},
    frame::Item,
    members::{MemberChange, Members, decode_meta},
    memlog::{MemLog, entry_time},
    random::Random,
    sound::{sound, timely},
};
use crate::{
    plant::{self, Plant},
    types::{GroupId, Index, NodeId, Record, Term},
};

pub struct Group {
    id: GroupId,
    me: NodeId,
    node: RawNode<MemLog>,
    /// The newest term known to be on disk.
    stored_term: u64,
    /// Readies that wait for the disk, in order.
    in_flight: VecDeque<InFlight>,
    /// Entries to be proposed with the next drain, with their tokens.
    proposals: Vec<Entry>,
    /// The tick at which this replica starts an election, unless it hears of the leader before.
    deadline: u64,
    /// Elections in a row that led to nothing.
    attempts: u32,
    /// The clock of the present leadership, which goes on from the log time of the log. What it has come to and no
    /// entry carries is forgotten with it: nobody else can know of it.
    clock: Option<Clock>,
    applied_time_ms: u64,
    /// What is wrong beyond repair.
    broken: Option<String>,
    /// The snapshot that is being stored.
    taking: Option<Taking>,
    /// Up to where the log was cut, and the term there: to be noted on disk.
    cut: Option<(Index, Term)>,
    /// A snapshot was asked for: taken once this index is applied, for it would let go of nothing before.
    snapshot_due: Option<u64>,
    /// No snapshot is asked for before this time: the last one could not be stored.
    no_snapshot_before_ms: u64,
    /// Reads to be proven with the next drain, and those on their way. A batch is known by a number that is never used
    /// again: an answer to an earlier question must not pass for one to a later.
    reads: Vec<u64>,
    next_batch: u64,
    batches: VecDeque<(u64, Vec<u64>)>,
    shown: (Role, u64, u64),
}

struct InFlight {
    round: u64,
    number: u64,
    /// The term that is on disk with it.
    term: u64,
    messages: Vec<Message>,
    restore: Option<(u64, u64)>,
}

/// What leaves with this round.
#[derive(Default)]
pub struct Outbox {
    pub frames: Frames,
    pub snapshots: Vec<Action>,
}

/// What this round stores.
pub struct Persist {
    pub round: u64,
    records: Vec<Record>,
    installs: Vec<Install>,
    sync: bool,
}

impl Outbox {
    pub fn add(&mut self, to: NodeId, group: GroupId, item: Item) {
        self.frames.entry(to).or_default().add(group, &item);
    }

    fn add_message(&mut self, group: GroupId, message: &Message, counters: &mut Counters) {
        let to = NodeId(message.to);
        match message.msg_type() {
            MessageType::MsgAppend => counters.appends_sent += 1,
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => counters.votes_sent += 1,
            _ => {}
        }
        let bytes: Bytes = message.encode_to_vec().into();
        if message.msg_type() == MessageType::MsgSnapshot {
            let metadata = message.get_snapshot().get_metadata();
            let (index, term) = (Index(metadata.index), Term(metadata.term));
            self.snapshots.push(Action::SendSnapshot { to, group, index, term, message: bytes });
        } else {
            self.add(to, group, Item::Raft(bytes));
        }
    }
}

impl Persist {
    pub fn new(round: u64) -> Self {
        Self { round, records: Vec::new(), installs: Vec::new(), sync: false }
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.installs.is_empty()
    }

    pub fn into_action(self) -> Action {
        Action::Persist { round: self.round, records: self.records, installs: self.installs, sync: self.sync }
    }
}

impl Group {
    pub fn new(config: &DriverConfig, start: GroupStart, random: &mut Random) -> Result<Self, raft::Error> {
        let (members, time_ms, base) = match &start.snapshot {
            None => (ConfState::default(), 0, (0, 0)),
            Some(snapshot) => {
                let (members, time_ms) = decode_meta(&snapshot.meta)
                    .map_err(|error| raft::Error::ConfigInvalid(format!("group {}: {error}", start.group)))?;
                (members, time_ms, (snapshot.index.0, snapshot.term.0))
            }
        };
        let hard_state = HardState {
            term: start.term.0.max(base.1),
            vote: start.vote.map_or(INVALID_ID, |id| id.0),
            commit: start.commit.0.max(base.0),
        };
        let stored_term = hard_state.term;
        let mut log = MemLog::new(hard_state, members, base, time_ms);
        for (index, term, data) in &start.entries {
            let entry = decode_entry(start.group, *index, *term, data)?;
            log.append([entry]);
        }
        log.hard_state.commit = log.hard_state.commit.min(log.last());
        let raft_config = Config {
            id: config.id.0,
            // The core's own clock is not used: see `Group::core_tick`.
            election_tick: CORE_ELECTION_TICKS,
            heartbeat_tick: CORE_ELECTION_TICKS - 1,
            // Elections are started from here, with seeded jitter; never by the core's own random timeout.
            min_election_tick: 1 << 40,
            max_election_tick: (1 << 40) + 1,
            applied: base.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: APPLY_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: if plant::on(Plant::LeaseReads) {
                ReadOnlyOption::LeaseBased
            } else {
                ReadOnlyOption::Safe
            },
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, log, &logger)?;
        let patience = config.tuning.election_ticks + random.up_to(config.tuning.jitter_ticks);
        Ok(Self {
            id: start.group,
            me: config.id,
            node,
            stored_term,
            in_flight: VecDeque::new(),
            proposals: Vec::new(),
            deadline: patience as u64,
            attempts: 0,
            clock: None,
            applied_time_ms: time_ms,
            broken: None,
            taking: None,
            cut: None,
            snapshot_due: None,
            no_snapshot_before_ms: 0,
            reads: Vec::new(),
            next_batch: random.next(),
            batches: VecDeque::new(),
            shown: (Role::Follower, 0, 0),
        })
    }

    /// The tick at which an election is due, unless the leader is heard of before. None for who leads or may not.
    pub fn election_due(&self) -> Option<u64> {
        let raft = &self.node.raft;
        if raft.state == StateRole::Leader || !raft.promotable() {
            return None;
        }
        Some(if raft.prs().is_singleton() { 0 } else { self.deadline })
    }

    /// Starts an election that is due. `false`: it cannot be started yet.
    pub fn campaign(&mut self, tick: u64, random: &mut Random, counters: &mut Counters) -> bool {
        // The core takes for granted that a candidate's whole log is on disk.
        if self.node.raft.raft_log.persisted != self.node.raft.raft_log.last_index() {
            return false;
        }
        // Whoever loses asks again soon, then later and later: two rounds of votes must fit in between, however far the
        // others are.
        let wait = RETRY_TICKS << self.attempts.min(RETRIES_DOUBLED);
        self.attempts = self.attempts.saturating_add(1);
        let turn = self.turn_after(NodeId(INVALID_ID)) * wait;
        self.deadline = tick + (wait + turn + random.up_to(wait / 2)) as u64;
        counters.elections += 1;
        // It fails only for what was checked by the caller.
        drop(self.node.campaign());
        true
    }

    pub fn step(&mut self, message: Message, clock: Ticks, counters: &mut Counters) {
        if !sound(&message, &self.node.raft) {
            return counters.frames_malformed += 1;
        }
        // A disk that takes nothing for hours: answers that wait for it must not pile up.
        let late = self.in_flight.back().is_some_and(|last| last.messages.len() >= ANSWERS_WAITING_MAX);
        if late || !timely(&message, &self.node.raft) {
            return counters.messages_dropped += 1;
        }
        let (kind, from) = (message.msg_type(), message.from);
        match kind {
            MessageType::MsgAppend => counters.appends_received += 1,
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => counters.votes_received += 1,
            _ => {}
        }
        if self.node.step(message).is_err() {
            counters.messages_dropped += 1;
        }
        let raft = &self.node.raft;
        // The core sets it to zero when it hears of its leader, when it votes, and when it loses an election.
        if raft.election_elapsed == 0 && raft.state == StateRole::Follower {
            if raft.leader_id != INVALID_ID {
                self.attempts = 0;
                self.deadline = clock.tick + clock.patience;
            } else if kind == MessageType::MsgRequestVote && raft.vote == from {
                self.deadline = clock.tick + clock.patience;
            }
        }
    }

    /// What is wrong beyond repair, once.
    pub fn take_broken(&mut self) -> Option<String> {
        self.broken.take()
    }

    /// The link to a peer broke; a leader sends it nothing at length until it answers.
    pub fn unreachable(&mut self, peer: NodeId) -> bool {
        let leads = self.leads();
        if leads {
            self.node.report_unreachable(peer.0);
        }
        leads
    }

    /// The peer is gone, or so it seems: if it led, this replica soon asks for votes. Whoever still hears of the leader
    /// gives none. True if it led.
    pub fn lose_leader(&mut self, peer: NodeId, deadline: u64) -> bool {
        let raft = &mut self.node.raft;
        if raft.state != StateRole::Follower || raft.leader_id != peer.0 {
            return false;
        }
        let term = raft.term;
        raft.become_follower(term, INVALID_ID);
        self.attempts = 0;
        self.deadline = deadline;
        true
    }

    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub fn leader(&self) -> Option<NodeId> {
        let id = self.node.raft.leader_id;
        (id != INVALID_ID).then_some(NodeId(id))
    }

    pub fn resign(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state != StateRole::Follower {
            let term = raft.term;
            raft.become_follower(term, INVALID_ID);
        }
    }

    pub fn propose(&mut self, now_ms: u64, origin: NodeId, token: u64, data: &[u8]) -> Result<(), Rejection> {
        if self.proposals.len() >= PROPOSALS_PER_ROUND_MAX
            || self.node.raft.uncommitted_size() as u64 > UNCOMMITTED_BYTES_MAX / 2
            || self.node.raft.lead_transferee.is_some()
        {
            return Err(Rejection::Overloaded);
        }
        let time_ms = self.advance_clock(now_ms);
        let mut bytes = BytesMut::with_capacity(16 + data.len());
        bytes.put_u64(origin.0);
        bytes.put_u64(token);
        bytes.put_slice(data);
        self.proposals.push(Entry { data: bytes.into(), context: time_ms.to_be_bytes().to_vec(), ..Entry::default() });
        Ok(())
    }

    /// Takes a read to be proven, together with all others of this round; `false` if that cannot be now.
    pub fn read_index(&mut self, context: u64) -> bool {
        let raft = &self.node.raft;
        let can =
            if raft.state == StateRole::Leader { raft.commit_to_current_term() } else { raft.leader_id != INVALID_ID };
        if !can || self.reads.len() >= READS_PER_ROUND_MAX {
            return false;
        }
        self.reads.push(context);
        true
    }

    pub fn propose_members(&mut self, now_ms: u64, change: MemberChange) -> bool {
        let joint = !self.node.store().members.voters_outgoing.is_empty();
        if !self.leads() || joint || self.node.raft.has_pending_conf() {
            return false;
        }
        let time = self.advance_clock(now_ms).to_be_bytes().to_vec();
        self.node.propose_conf_change(time, change.message()).is_ok()
    }

    pub fn transfer(&mut self, to: NodeId) {
        self.node.transfer_leader(to.0);
    }

    /// Who should lead this group where leaderships are spread: the same everywhere.
    pub fn home(&self) -> Option<NodeId> {
        let mut voters = self.node.store().members.voters.clone();
        voters.sort_unstable();
        let place = (self.id.0 as usize).checked_rem(voters.len())?;
        voters.get(place).map(|id| NodeId(*id))
    }

    /// How many voters come before this one in following `gone`: another order in each group, and the same everywhere.
    pub fn turn_after(&self, gone: NodeId) -> usize {
        let mut others = self.node.store().members.voters.clone();
        others.retain(|id| *id != gone.0);
        others.sort_unstable();
        let first = (self.id.0 as usize).checked_rem(others.len()).unwrap_or_default();
        others.rotate_left(first);
        others.iter().position(|id| *id == self.me.0).unwrap_or_default().min(TURNS_MAX)
    }

    /// A voter other than this replica that has nearly the whole log, drawn by `number`.
    pub fn any_heir(&self, number: u64) -> Option<NodeId> {
        let mut voters = self.node.store().members.voters.clone();
        voters.retain(|id| *id != self.me.0);
        voters.sort_unstable();
        let place = number.checked_rem(voters.len() as u64)?;
        voters.get(place as usize).map(|id| NodeId(*id)).filter(|id| self.may_inherit(*id))
    }

    /// Whether leadership can be handed to this peer at once: it votes, answers, and has nearly the whole log.
    pub fn may_inherit(&self, peer: NodeId) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader
            && raft.lead_transferee.is_none()
            && !raft.has_pending_conf()
            && self.node.store().members.voters.contains(&peer.0)
            && raft.prs().get(peer.0).is_some_and(|progress| {
                progress.recent_active && progress.matched + HEIR_WITHIN >= raft.raft_log.last_index()
            })
    }

    pub fn members(&self) -> Members {
        Members::of(&self.node.store().members)
    }

    /// All that are members in any way, for links to be watched.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        let members = &self.node.store().members;
        let all = members.voters.iter().chain(&members.learners).chain(&members.voters_outgoing);
        all.chain(&members.learners_next).map(|id| NodeId(*id)).filter(|id| *id != self.me)
    }

    pub fn status(&self) -> GroupStatus {
        let raft = &self.node.raft;
        GroupStatus {
            role: self.role(),
            term: Term(raft.term),
            leader: self.leader(),
            committed: Index(raft.raft_log.committed),
            applied: Index(raft.raft_log.applied),
            first: Index(self.node.store().base_index + 1),
            held: Index(self.node.store().held_from()),
            held_bytes: self.node.store().held_bytes(),
            last: Index(raft.raft_log.last_index()),
            members: self.members(),
            matched: if self.leads() {
                raft.prs().iter().map(|(id, progress)| (NodeId(*id), Index(progress.matched))).collect()
            } else {
                Vec::new()
            },
        }
    }

    pub fn entry(&self, index: Index) -> Option<Committed> {
        let entry = self.node.store().get(index.0)?;
        Some(Committed {
            index,
            term: Term(entry.term),
            time_ms: entry_time(entry),
            content: content(entry.clone(), &self.node.store().members),
        })
    }

    pub fn check_invariants(&self, persisted: u64) {
        let log = &self.node.raft.raft_log;
        assert!(log.applied <= log.committed, "only committed entries are applied");
        assert!(log.applied <= log.persisted.max(self.node.store().base_index), "only stored entries are applied");
        assert!(self.in_flight.iter().all(|ready| ready.round > persisted), "what is stored is not in flight");
        assert!(
            self.in_flight.iter().zip(self.in_flight.iter().skip(1)).all(|(a, b)| a.round <= b.round),
            "rounds are in order"
        );
    }

    fn role(&self) -> Role {
        let raft = &self.node.raft;
        match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate => Role::Candidate,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Follower if raft.promotable() => Role::Follower,
            StateRole::Follower => Role::Learner,
        }
    }
}

/// Where ticks stand, and how long a leader may be silent.
#[derive(Clone, Copy)]
pub struct Ticks {
    pub tick: u64,
    pub patience: u64,
}

/// So many ticks of the core are an election timeout.
pub const CORE_ELECTION_TICKS: usize = 8;

/// Most bytes of entries in one append message.
const MESSAGE_BYTES_MAX: u64 = 256 * 1024;

/// Most append messages on their way to one follower.
const MESSAGES_IN_FLIGHT_MAX: usize = 256;

/// Most bytes of entries that are proposed and not committed.
const UNCOMMITTED_BYTES_MAX: u64 = 16 << 20;

/// Most bytes of entries that are applied in one go.
const APPLY_BYTES_MAX: u64 = 4 << 20;

/// Most messages of a group that wait for one round to be on disk.
const ANSWERS_WAITING_MAX: usize = 4096;

/// Most proposals taken in one round.
const PROPOSALS_PER_ROUND_MAX: usize = 16_384;

/// Most reads proven in one round.
const READS_PER_ROUND_MAX: usize = 16_384;

/// Who lost an election asks again after so many ticks and up to as many of jitter, at first.
const RETRY_TICKS: usize = 10;

/// Nobody waits for more than so many others.
const TURNS_MAX: usize = 4;

/// That wait doubles so many times.
const RETRIES_DOUBLED: u32 = 3;

/// A leader hands over by itself only to one whose log is known to be so few entries behind.
const HEIR_WITHIN: u64 = 1000;
