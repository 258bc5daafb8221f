//! One Raft group: the core of TiKV, its log in memory, and what is on its way to the disk.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use prost011::Message as _;
use raft::{
    Config, INVALID_ID, RawNode, SnapshotStatus, StateRole, Storage,
    eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot},
};

use super::{
    Frames,
    action::{Action, Committed, Content, GroupStatus, Rejection, Role, SnapshotFile},
    config::{Counters, DriverConfig, GroupStart},
    entry::{content, decode_entry},
    frame::Item,
    members::{MemberChange, Members, decode_meta, encode_meta},
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
    /// Readies that wait for the disk, in order.
    in_flight: VecDeque<InFlight>,
    /// Entries to be proposed with the next drain, with their tokens.
    proposals: Vec<Entry>,
    /// Ticks since the leader was heard, and how many of them start an election.
    silence: usize,
    patience: usize,
    /// The clock of the present leadership, which goes on from the log time of the log. What it has come to and no
    /// entry carries is forgotten with it: nobody else can know of it.
    clock: Option<Clock>,
    applied_time_ms: u64,
    /// The state of the snapshot that the core is about to install, with its index and term.
    body: Option<(u64, u64, Bytes)>,
    /// What is wrong beyond repair.
    broken: Option<String>,
    /// A snapshot that was taken and is to be stored.
    file: Option<SnapshotFile>,
    /// The round that stores the last snapshot taken, until it is on disk.
    storing: Option<u64>,
    /// A snapshot was asked for: taken once this index is applied, for it would let go of nothing before.
    snapshot_due: Option<u64>,
    shown: (Role, u64, u64),
}

/// Log time goes on as monotonic time does, but for the time in which this process did not run: nobody could refresh
/// anything then, so nothing shall expire by it.
#[derive(Clone, Copy)]
struct Clock {
    /// Of the leadership in this term.
    term: u64,
    time_ms: u64,
    seen_ms: u64,
}

struct InFlight {
    round: u64,
    number: u64,
    messages: Vec<Outgoing>,
    restore: Option<(u64, u64, Bytes)>,
}

/// A message, with the state that goes with it if it is a snapshot's: bound to each other when the message was made, for
/// it may have to wait for the disk.
struct Outgoing {
    message: Message,
    body: Option<Bytes>,
}

/// What leaves with this round.
#[derive(Default)]
pub struct Outbox {
    pub frames: Frames,
    pub snapshots: Vec<(NodeId, GroupId, Bytes, Bytes)>,
}

/// What this round stores.
pub struct Persist {
    round: u64,
    records: Vec<Record>,
    files: Vec<SnapshotFile>,
    sync: bool,
}

impl Clock {
    fn at(&self, now_ms: u64) -> u64 {
        self.time_ms + now_ms.saturating_sub(self.seen_ms).min(CLOCK_STEP_MS_MAX)
    }
}

impl Outbox {
    pub fn add(&mut self, to: NodeId, group: GroupId, item: Item) {
        self.frames.entry(to).or_default().add(group, &item);
    }

    fn add_message(&mut self, group: GroupId, outgoing: Outgoing, counters: &mut Counters) {
        let Outgoing { message, body } = outgoing;
        let to = NodeId(message.to);
        match message.msg_type() {
            MessageType::MsgAppend => counters.appends_sent += 1,
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => counters.votes_sent += 1,
            _ => {}
        }
        let bytes = message.encode_to_vec().into();
        match body {
            Some(body) => self.snapshots.push((to, group, bytes, body)),
            None => self.add(to, group, Item::Raft(bytes)),
        }
    }
}

impl Persist {
    pub fn new(round: u64) -> Self {
        Self { round, records: Vec::new(), files: Vec::new(), sync: false }
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.files.is_empty()
    }

    pub fn into_action(self) -> Action {
        Action::Persist { round: self.round, records: self.records, files: self.files, sync: self.sync }
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
        let mut log = MemLog::new(hard_state, members, base, time_ms);
        for (index, term, data) in &start.entries {
            let entry = decode_entry(start.group, *index, *term, data)?;
            log.append(std::slice::from_ref(&entry));
        }
        log.hard_state.commit = log.hard_state.commit.min(log.last());
        let raft_config = Config {
            id: config.id.0,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
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
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, log, &logger)?;
        let patience = config.election_ticks + random.up_to(config.jitter_ticks);
        Ok(Self {
            id: start.group,
            me: config.id,
            node,
            in_flight: VecDeque::new(),
            proposals: Vec::new(),
            silence: 0,
            patience,
            clock: None,
            applied_time_ms: time_ms,
            body: None,
            broken: None,
            file: None,
            storing: None,
            snapshot_due: None,
            shown: (Role::Follower, 0, 0),
        })
    }

    pub fn tick(&mut self, now_ms: u64, may_lead: bool, random: &mut Random, counters: &mut Counters) {
        self.node.tick();
        if self.leads() {
            self.advance_clock(now_ms);
            self.silence = 0;
            return;
        }
        self.silence += 1;
        let alone = self.node.raft.prs().is_singleton();
        if !may_lead || (self.silence < self.patience && !alone) || !self.node.raft.promotable() {
            return;
        }
        // The core takes for granted that a candidate's whole log is on disk.
        if self.node.raft.raft_log.persisted != self.node.raft.raft_log.last_index() {
            return;
        }
        self.silence = 0;
        self.patience = self.node.raft.election_timeout() + random.up_to(self.node.raft.election_timeout() * 2 / 3);
        counters.elections += 1;
        // It fails only for what was just checked.
        drop(self.node.campaign());
    }

    pub fn step(&mut self, message: Message, counters: &mut Counters) {
        if !sound(&message, &self.node.raft) {
            return counters.frames_malformed += 1;
        }
        // A disk that takes nothing for hours: answers that wait for it must not pile up.
        let late = self.in_flight.back().is_some_and(|last| last.messages.len() >= ANSWERS_WAITING_MAX);
        if late || !timely(&message, &self.node.raft) {
            return counters.messages_dropped += 1;
        }
        match message.msg_type() {
            MessageType::MsgAppend => counters.appends_received += 1,
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => counters.votes_received += 1,
            _ => {}
        }
        if self.node.step(message).is_err() {
            counters.messages_dropped += 1;
        }
        if self.node.raft.election_elapsed == 0 {
            self.silence = 0;
        }
    }

    /// A snapshot came in whole. The core may well ignore it: only the body of the one that it takes is kept.
    pub fn step_snapshot(&mut self, message: Message, body: Bytes, counters: &mut Counters) {
        let before = self.pending_snapshot();
        let metadata = message.get_snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        self.step(message, counters);
        let taken = self.pending_snapshot() == Some((index, term)) && before != Some((index, term));
        if taken {
            self.body = Some((index, term, body));
        }
    }

    /// The index and term of the snapshot that the core is about to install.
    fn pending_snapshot(&self) -> Option<(u64, u64)> {
        let metadata = self.node.snap()?.get_metadata();
        Some((metadata.index, metadata.term))
    }

    /// What is wrong beyond repair, once.
    pub fn take_broken(&mut self) -> Option<String> {
        self.broken.take()
    }

    pub fn peer_down(&mut self, peer: NodeId, gone: bool, random: &mut Random) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader {
            self.node.report_unreachable(peer.0);
        } else if gone && raft.state == StateRole::Follower && raft.leader_id == peer.0 {
            let term = raft.term;
            raft.become_follower(term, INVALID_ID);
            self.patience = self.silence + 1 + random.up_to(GONE_JITTER_TICKS);
        }
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

    /// The log time of an entry made now; none unless this replica leads. A leader whose clock did not start yet stands
    /// at the last entry of its log.
    pub fn log_time(&self, now_ms: u64) -> Option<u64> {
        let last_ms = self.node.store().last_time_ms();
        self.leads().then(|| self.running_clock().map_or(last_ms, |clock| clock.at(now_ms).max(last_ms)))
    }

    /// The clock, if it is of the present leadership.
    fn running_clock(&self) -> Option<Clock> {
        self.clock.filter(|clock| clock.term == self.node.raft.term || plant::on(Plant::ClockOutlivesLeader))
    }

    pub fn propose(
        &mut self,
        now_ms: u64,
        origin: NodeId,
        token: u64,
        data: &[u8],
        config: &DriverConfig,
    ) -> Result<(), Rejection> {
        debug_assert_eq!(config.id, self.me);
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
        self.proposals.push(Entry {
            data: bytes.to_vec(),
            context: time_ms.to_be_bytes().to_vec(),
            ..Entry::default()
        });
        Ok(())
    }

    pub fn read_index(&mut self, context: u64) -> bool {
        let raft = &self.node.raft;
        let can =
            if raft.state == StateRole::Leader { raft.commit_to_current_term() } else { raft.leader_id != INVALID_ID };
        if can {
            self.node.read_index(context.to_be_bytes().to_vec());
        }
        can
    }

    pub fn propose_members(&mut self, now_ms: u64, change: MemberChange) -> bool {
        if !self.leads() || self.node.raft.has_pending_conf() {
            return false;
        }
        let time = self.advance_clock(now_ms).to_be_bytes().to_vec();
        self.node.propose_conf_change(time, change.message()).is_ok()
    }

    pub fn transfer(&mut self, to: NodeId) {
        self.node.transfer_leader(to.0);
    }

    pub fn snapshot_sent(&mut self, to: NodeId, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(to.0, status);
    }

    /// While one is on its way to the disk, another would say the same: an isolated replica whose log ends with entries
    /// that cannot be committed would take one after the other.
    pub fn request_snapshot(&mut self) {
        if self.file.is_none() && self.storing.is_none() && self.snapshot_due.is_none() {
            self.snapshot_due = Some(self.node.raft.raft_log.last_index());
        }
    }

    /// Takes the state at the applied index: to be stored, to be sent, to cut the log behind it.
    pub fn snapshot(&mut self, index: u64, body: Bytes, config: &DriverConfig) {
        let applied = self.node.raft.raft_log.applied;
        if index != applied {
            let text = format!("the state is the one at index {index}, and the log is applied up to {applied}");
            self.broken.get_or_insert(text);
            return;
        }
        let time_ms = self.applied_time_ms;
        let log = self.node.mut_store();
        let Ok(term) = log.term(index) else { return };
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = term;
        *snapshot.mut_metadata().mut_conf_state() = log.members.clone();
        // The body travels apart; the message itself carries the log time of the state.
        snapshot.data = time_ms.to_be_bytes().to_vec();
        let meta = encode_meta(&log.members, time_ms);
        let wanted = log.wanted.replace(false);
        log.cut(index.saturating_sub(config.tail_entries));
        if wanted {
            log.sendable = Some((snapshot, body.clone()));
        } else if log.sendable.as_ref().is_some_and(|(old, _)| old.get_metadata().index < log.base_index) {
            log.sendable = None;
        }
        self.file = Some(SnapshotFile { group: self.id, index: Index(index), term: Term(term), meta, body });
    }

    pub fn persisted(&mut self, round: u64, outbox: &mut Outbox, actions: &mut Vec<Action>) {
        let mut counters = Counters::default();
        self.storing = self.storing.filter(|storing| *storing > round);
        while self.in_flight.front().is_some_and(|ready| ready.round <= round) {
            let Some(ready) = self.in_flight.pop_front() else { return };
            self.node.on_persist_ready(ready.number);
            if let Some((index, time_ms, body)) = ready.restore {
                self.applied_time_ms = time_ms;
                actions.push(Action::Restore { group: self.id, index: Index(index), body });
                self.node.advance_apply_to(index);
            }
            for outgoing in ready.messages {
                outbox.add_message(self.id, outgoing, &mut counters);
            }
        }
    }

    /// Works until the core has nothing more to say.
    pub fn drain(
        &mut self,
        persist: &mut Persist,
        outbox: &mut Outbox,
        actions: &mut Vec<Action>,
        counters: &mut Counters,
        config: &DriverConfig,
    ) {
        self.propose_all(actions, outbox);
        while self.node.has_ready() {
            self.handle_ready(persist, outbox, actions, counters);
        }
        self.show_role(actions);
        if let Some(file) = self.file.take() {
            persist.records.push(Record::Snapshot { group: self.id, index: file.index, term: file.term });
            persist.files.push(file);
            persist.sync = true;
            self.storing = Some(persist.round);
            counters.snapshots_taken += 1;
        }
        self.ask_for_snapshot(actions, config);
    }

    pub fn members(&self) -> Members {
        Members::of(&self.node.store().members)
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
            content: content(entry, &self.node.store().members),
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

    /// The log time now; starts the clock of a leader that has none.
    fn advance_clock(&mut self, now_ms: u64) -> u64 {
        let last_ms = self.node.store().last_time_ms();
        let term = self.node.raft.term;
        // A millisecond that has begun is not counted from its beginning: else each of many leaders would gain one.
        let clock = self.running_clock().unwrap_or(Clock { term, time_ms: last_ms, seen_ms: now_ms + 1 });
        let time_ms = clock.at(now_ms).max(last_ms);
        self.clock = Some(Clock { term, time_ms, seen_ms: clock.seen_ms.max(now_ms) });
        time_ms
    }

    fn propose_all(&mut self, actions: &mut Vec<Action>, outbox: &mut Outbox) {
        if self.proposals.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut self.proposals);
        // A replica that leads no more must not have the core pass them on: their stamps are of its own clock.
        if self.leads() && self.append(&entries) {
            return;
        }
        for entry in entries {
            let Content::Data { origin, token, .. } = content(&entry, &ConfState::default()) else { continue };
            let reason = if self.leads() { Rejection::Overloaded } else { Rejection::NoLeader };
            if origin == self.me {
                actions.push(Action::Rejected { group: self.id, token, reason });
            } else {
                outbox.add(origin, self.id, Item::Refuse { token, reason });
            }
        }
    }

    fn append(&mut self, entries: &[Entry]) -> bool {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.me.0;
        message.entries = entries.to_vec();
        self.node.raft.step(message).is_ok()
    }

    fn handle_ready(
        &mut self,
        persist: &mut Persist,
        outbox: &mut Outbox,
        actions: &mut Vec<Action>,
        counters: &mut Counters,
    ) {
        let mut ready = self.node.ready();
        let now = self.bind(ready.take_messages());
        let after = self.bind(ready.take_persisted_messages());
        let mut store = false;
        let mut restore = None;
        if !ready.snapshot().is_empty() {
            restore = self.take_snapshot(ready.snapshot(), persist);
            counters.snapshots_installed += 1;
            store = true;
        }
        if !ready.entries().is_empty() {
            self.take_entries(ready.entries(), persist);
            store = true;
        }
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().hard_state = hard_state.clone();
            store |= ready.must_sync();
        }
        if store {
            let hard_state = &self.node.store().hard_state;
            persist.records.push(Record::HardState {
                group: self.id,
                term: Term(hard_state.term),
                vote: (hard_state.vote != INVALID_ID).then_some(NodeId(hard_state.vote)),
                commit: Index(hard_state.commit),
            });
            persist.sync = true;
        }
        for read in ready.take_read_states() {
            if let Ok(context) = <[u8; 8]>::try_from(read.request_ctx.as_slice()) {
                let context = u64::from_be_bytes(context);
                actions.push(Action::ReadReady { group: self.id, context, index: Index(read.index) });
            }
        }
        let committed = ready.take_committed_entries();
        let number = ready.number();
        self.node.advance_append_async(ready);
        for outgoing in now {
            outbox.add_message(self.id, outgoing, counters);
        }
        if store {
            self.in_flight.push_back(InFlight { round: persist.round, number, messages: after, restore });
        } else if let Some(last) = self.in_flight.back_mut() {
            // What needs nothing stored still waits for what is on its way to the disk before it.
            last.number = number;
            last.messages.extend(after);
        } else {
            self.node.on_persist_ready(number);
            for outgoing in after {
                outbox.add_message(self.id, outgoing, counters);
            }
        }
        self.apply(&committed, actions, counters);
    }

    /// Gives each snapshot message the body of that very snapshot. One whose body is gone is not sent: the core tries
    /// again with a newer one.
    fn bind(&mut self, messages: Vec<Message>) -> Vec<Outgoing> {
        let mut bound = Vec::with_capacity(messages.len());
        for message in messages {
            if message.msg_type() != MessageType::MsgSnapshot {
                bound.push(Outgoing { message, body: None });
                continue;
            }
            let metadata = message.get_snapshot().get_metadata();
            match self.node.store().body(metadata.index, metadata.term).cloned() {
                Some(body) => bound.push(Outgoing { message, body: Some(body) }),
                None => self.node.report_snapshot(message.to, SnapshotStatus::Failure),
            }
        }
        bound
    }

    /// Notes a received snapshot in the log and for the disk; its body was kept when the core took it.
    fn take_snapshot(&mut self, snapshot: &Snapshot, persist: &mut Persist) -> Option<(u64, u64, Bytes)> {
        let index = snapshot.get_metadata().index;
        let term = snapshot.get_metadata().term;
        let kept = self.body.take();
        let of_it = |of: &(u64, u64, Bytes)| (of.0, of.1) == (index, term);
        let Some((_, _, body)) = kept.filter(of_it) else {
            let text = format!("the core installs a snapshot at index {index} of term {term}, whose state is not here");
            self.broken.get_or_insert(text);
            return None;
        };
        let time_ms = snapshot.data.first_chunk::<8>().map_or(0, |time| u64::from_be_bytes(*time));
        let meta = encode_meta(snapshot.get_metadata().get_conf_state(), time_ms);
        self.node.mut_store().restore(snapshot, time_ms);
        persist.files.push(SnapshotFile {
            group: self.id,
            index: Index(index),
            term: Term(term),
            meta,
            body: body.clone(),
        });
        persist.records.push(Record::Snapshot { group: self.id, index: Index(index), term: Term(term) });
        persist.sync = true;
        Some((index, time_ms, body))
    }

    fn take_entries(&mut self, entries: &[Entry], persist: &mut Persist) {
        self.node.mut_store().append(entries);
        for entry in entries {
            persist.records.push(Record::Entry {
                group: self.id,
                index: Index(entry.index),
                term: Term(entry.term),
                data: entry.encode_to_vec().into(),
            });
        }
    }

    fn apply(&mut self, entries: &[Entry], actions: &mut Vec<Action>, counters: &mut Counters) {
        let Some(last) = entries.last() else { return };
        let mut applied = Vec::with_capacity(entries.len());
        for entry in entries {
            self.applied_time_ms = self.applied_time_ms.max(entry_time(entry));
            if entry.entry_type() != EntryType::EntryNormal {
                self.apply_members(entry);
            }
            applied.push(Committed {
                index: Index(entry.index),
                term: Term(entry.term),
                time_ms: self.applied_time_ms,
                content: content(entry, &self.node.store().members),
            });
        }
        counters.committed += applied.len() as u64;
        actions.push(Action::Apply { group: self.id, entries: applied });
        self.node.advance_apply_to(last.index);
    }

    fn apply_members(&mut self, entry: &Entry) {
        let Ok(change) = ConfChangeV2::decode(entry.data.as_slice()) else { return };
        // A change that the core refuses changes nothing, here as on every other replica.
        if let Ok(members) = self.node.apply_conf_change(&change) {
            let log = self.node.mut_store();
            log.members = members;
            log.members_index = entry.index;
        }
        // A leader that applied its own removal must not go on as one: the core would panic.
        if self.leads() && !self.node.raft.promotable() {
            self.resign();
        }
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

    fn show_role(&mut self, actions: &mut Vec<Action>) {
        let now = (self.role(), self.node.raft.term, self.node.raft.leader_id);
        if now != self.shown {
            self.shown = now;
            let (role, term, leader) = (now.0, Term(now.1), self.leader());
            actions.push(Action::Role { group: self.id, role, term, leader });
        }
    }

    fn ask_for_snapshot(&mut self, actions: &mut Vec<Action>, config: &DriverConfig) {
        let log = self.node.store();
        let applied = self.node.raft.raft_log.applied;
        if applied <= log.base_index && !log.wanted.get() {
            return;
        }
        let long = applied.saturating_sub(log.base_index) > config.compact_entries + config.tail_entries;
        let large = log.bytes() > config.compact_bytes && applied - log.base_index > config.tail_entries;
        // The end of the log may have been replaced by a shorter one since.
        let due = self.snapshot_due.is_some_and(|index| index.min(log.last()) <= applied);
        if long || large || due || log.wanted.get() {
            self.snapshot_due = None;
            actions.push(Action::Snapshot { group: self.id });
        }
    }
}

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

/// The clock of log time is looked at with every tick; what goes beyond this between two looks does not count.
const CLOCK_STEP_MS_MAX: u64 = 250;

/// Jitter before the election that follows a leader whose process is gone.
const GONE_JITTER_TICKS: usize = 3;
