//! The replica: one instance's log, tables, leases and open questions as one plain state machine.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flow::{
    BackendId, Birth, ControlCommand, ControlTable, Epoch, GroupView, Incarnation, InstanceId, Lease, LogTime,
    PinCommand, PinKey, PoolId, Revision, RoundRobin, SlotTable, View,
    flows::FlowLimits,
    plant::{self, Plant},
};
use raftlog::{
    GroupId, Index, NodeId,
    driver::{
        Action, Content, Counters, Driver, DriverConfig, ENTRY_BYTES_MAX, GroupStart, GroupStatus, Rejection, Role,
    },
};

use crate::{
    choosing::Choosing,
    flows::{FlowGroup, PutOff},
    lease::LeaseBook,
    output::{GroupRole, Output, SubmitError, Ticket},
    proposals::Proposal,
    session::OwnSession,
    storage::FIRST,
    tables::{Control, GroupState, PinGroup, Place, RestoreError, StartError, Waiting},
    words::{LeaseGrant, Word},
};

/// Settings of a replica.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Settings of the driver; its id is this instance's.
    pub driver: DriverConfig,
    /// This life of the data directory.
    pub incarnation: Incarnation,
    /// How long a lease lasts by the configuration, in milliseconds. What counts is the fleet's, committed at its birth:
    /// a leader waits out leases that were granted by others.
    pub lease_ms: u64,
    /// Most pins of one group: beyond that this replica proposes no pin for a new client. It never decides what is
    /// applied, which is the same everywhere.
    pub pins_per_group_max: usize,
    /// How many of the groups, the last ones, hold flows.
    pub flow_groups: u32,
    /// How much each of them may hold: the same at all replicas.
    pub flow_limits: FlowLimits,
    /// Most choices that wait for a commit at once.
    pub choosing_max: usize,
    /// The fleet's first word, should this replica be the first to lead; none for one that joins a fleet.
    pub birth: Option<Birth>,
    /// Where tokens start, and what this life of the process is known by in lease asks: drawn at random, so that no two
    /// lives of an instance share one.
    pub token_start: u64,
}

/// One instance's core. See [`crate`].
///
/// Times are milliseconds of the instance's CLOCK_BOOTTIME; [`Replica::set_now`] comes before every other call.
pub struct Replica {
    pub(crate) config: ReplicaConfig,
    pub(crate) now_ms: u64,
    pub(crate) driver: Driver,
    pub(crate) control: Control,
    pub(crate) groups: Vec<PinGroup>,
    /// By shard; their ids follow those of the pin groups.
    pub(crate) flows: Vec<FlowGroup>,
    pub(crate) put_off: PutOff,
    /// Leases granted by this replica, by group; the first is of group 0.
    pub(crate) books: Vec<LeaseBook>,
    /// Lease asks of this replica, by group.
    pub(crate) asks: Vec<AskState>,
    pub(crate) control_lease: Lease,
    pub(crate) proposals: Waiting<Proposal>,
    /// How many of them are for flow groups.
    pub(crate) reports: usize,
    pub(crate) session: OwnSession,
    pub(crate) choosing: Choosing,
    pub(crate) slots: BTreeMap<PoolId, Slots>,
    pub(crate) turns: BTreeMap<PoolId, (Revision, RoundRobin)>,
    pub(crate) touches: Vec<BTreeSet<PinKey>>,
    pub(crate) views: BTreeMap<BackendId, View>,
    pub(crate) seen: BTreeMap<InstanceId, Incarnation>,
    /// What this replica proposed as a duty, and when: not again for a while.
    pub(crate) duties: BTreeMap<Duty, u64>,
    pub(crate) next_token: u64,
    pub(crate) reads: BTreeMap<u64, Read>,
    pub(crate) outputs: Vec<Output>,
    /// States that came in and are about to be installed.
    pub(crate) restoring: BTreeMap<(GroupId, Index), GroupState>,
    pub(crate) removed: bool,
    /// Removed members that some group still counts.
    leaving: BTreeSet<InstanceId>,
    leaving_changed: bool,
    /// The number of members and the next id as of which `leaving` was found; none when a group changed its own since.
    pub(crate) members_seen: Option<(usize, InstanceId)>,
    /// When votes and verdicts are compared again with what should be, unless something changes before.
    pub(crate) votes_due_ms: u64,
    /// It was said that the fleet's lease is not the configured one.
    pub(crate) lease_compared: bool,
    health: Health,
    wall_offset_ms: u64,
    /// How much of that the driver was shown: nothing, but for a planted bug.
    wall_shown_ms: u64,
    pub(crate) counts: ReplicaCounts,
}

/// Whether this replica can go on.
#[derive(Debug)]
enum Health {
    Good,
    /// What it holds cannot be, which is yet to be said.
    Broken(Box<Output>),
    /// It was said. Nothing more is done.
    Over,
}

/// A linearizable read that waits for its proof, then for its index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub group: GroupId,
    pub ticket: Ticket,
    pub index: Option<u64>,
    pub issued_ms: Option<u64>,
    pub deadline_ms: u64,
}

/// Something that a leader (or voter) sees to, proposed once in a while until it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Duty {
    Birth,
    Vote(BackendId),
    Verdict(BackendId),
    Seen(InstanceId),
    Epoch(GroupId, Epoch),
    Prove(GroupId),
    Settle(GroupId, u64),
    Tick(GroupId),
    Touch(GroupId),
    Members(GroupId),
    Probe(BackendId),
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AskState {
    pub last_ms: Option<u64>,
    pub told: u64,
}

/// The slot table of a pool, with the members it was built of.
pub(crate) struct Slots {
    pub members: Vec<(BackendId, u32)>,
    pub table: Option<SlotTable>,
}

/// What a replica counts, beside its driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaCounts {
    /// Choices refused because too many waited.
    pub choices_shed: u64,
    /// Touches dropped because too many waited.
    pub touches_shed: u64,
    /// Words that made no sense.
    pub words_malformed: u64,
    /// Leases granted to instances.
    pub leases_granted: u64,
    /// Assign commands proposed.
    pub assigns: u64,
}

impl Replica {
    /// A replica of what was found on disk: `starts` has group 0 first; `states` those of groups with a snapshot.
    ///
    /// # Errors
    /// If what was found cannot be.
    pub fn new(
        config: ReplicaConfig,
        starts: Vec<GroupStart>,
        mut states: BTreeMap<GroupId, GroupState>,
    ) -> Result<Self, StartError> {
        let (group_count, flow_groups) = (starts.len(), config.flow_groups as usize);
        let pin_groups = group_count.saturating_sub(1 + flow_groups);
        let mut control = Control::default();
        let mut groups: Vec<PinGroup> = (1..=pin_groups).map(|id| PinGroup::new(GroupId(id as u32))).collect();
        let mut flows: Vec<FlowGroup> =
            (pin_groups + 1..group_count).map(|id| FlowGroup::new(GroupId(id as u32), config.flow_limits)).collect();
        for start in &starts {
            let Some(snapshot) = &start.snapshot else { continue };
            let of = Revision(snapshot.index.0);
            let place = Place::of(start.group, pin_groups);
            // Where a founder's log begins there is nothing to apply.
            let restored = match (states.remove(&start.group), place) {
                (None, _) if (snapshot.index, snapshot.term) != FIRST => Err(RestoreError::Missing(of)),
                (Some(state), Place::Control) => control.restore(state, of),
                (Some(state), Place::Pins(place)) => groups[place].restore(state, of),
                (Some(state), Place::Flows(place)) => flows[place].restore(state, of),
                (None, Place::Control) => {
                    control.table.skip(of, LogTime(0));
                    Ok(())
                }
                (None, Place::Pins(place)) => {
                    let group = &mut groups[place];
                    group.view.table.skip(of, LogTime(0), &mut group.expiry);
                    Ok(())
                }
                (None, Place::Flows(place)) => {
                    let group = &mut flows[place];
                    group.table.skip(of, LogTime(0), &mut group.expiry);
                    Ok(())
                }
            };
            restored.map_err(|error| StartError::Snapshot(start.group, error))?;
        }
        let birth = config.birth.clone().map_or(0, |birth| ControlCommand::Birth(birth).encode().len());
        if birth > ENTRY_BYTES_MAX {
            return Err(StartError::BirthTooLarge(birth));
        }
        let driver = Driver::new(config.driver.clone(), starts).map_err(|error| StartError::Log(error.to_string()))?;
        control.changed = true;
        let mut replica = Self {
            now_ms: 0,
            driver,
            control,
            books: (0..group_count).map(|_| LeaseBook::default()).collect(),
            asks: vec![AskState::default(); group_count],
            touches: vec![BTreeSet::new(); pin_groups],
            groups,
            flows,
            control_lease: Lease::default(),
            proposals: Waiting::new(),
            reports: 0,
            put_off: PutOff::default(),
            session: OwnSession::default(),
            choosing: Choosing::new(pin_groups),
            slots: BTreeMap::new(),
            turns: BTreeMap::new(),
            views: BTreeMap::new(),
            seen: BTreeMap::new(),
            duties: BTreeMap::new(),
            next_token: config.token_start,
            reads: BTreeMap::new(),
            outputs: Vec::new(),
            restoring: BTreeMap::new(),
            removed: false,
            leaving: BTreeSet::new(),
            leaving_changed: false,
            members_seen: None,
            votes_due_ms: 0,
            lease_compared: false,
            health: Health::Good,
            wall_offset_ms: 0,
            wall_shown_ms: 0,
            counts: ReplicaCounts::default(),
            config,
        };
        replica.look_for_leaving();
        // A snapshot may hold all there is: no entry need follow that would have the slot tables built.
        replica.control_applied(true);
        Ok(replica)
    }

    /// Sets the time. It never goes back.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.driver.set_now(self.now_ms + self.wall_shown_ms);
    }

    /// What the wall clock shows beyond the monotonic one. Nothing follows it; the simulator has it jump to prove that.
    pub fn set_wall_offset(&mut self, offset_ms: u64) {
        self.wall_offset_ms = offset_ms;
    }

    /// One tick of the driver has passed.
    pub fn handle_tick(&mut self) {
        if plant::on(Plant::WallClock) {
            // In steps, or the driver would take the jump for a pause of the process.
            self.wall_shown_ms += self.wall_offset_ms.saturating_sub(self.wall_shown_ms).min(200);
            self.driver.set_now(self.now_ms + self.wall_shown_ms);
        }
        self.driver.handle_tick();
        self.expire_questions();
        self.see_to_duties();
    }

    /// A frame of a peer came in.
    pub fn handle_frame(&mut self, from: NodeId, frame: &Bytes) {
        self.driver.handle_frame(from, frame);
    }

    /// That round, and all before it, are on disk.
    pub fn handle_persisted(&mut self, round: u64) {
        self.driver.handle_persisted(round);
    }

    /// The link to a peer broke; `gone`: nothing listens there any more.
    pub fn handle_peer_down(&mut self, peer: NodeId, gone: bool) {
        self.driver.handle_peer_down(peer, gone);
    }

    /// A peer was admitted in this life of its data directory.
    pub fn handle_peer_seen(&mut self, peer: InstanceId, incarnation: Incarnation) {
        self.seen.insert(peer, incarnation);
    }

    /// This instance's own view of a backend changed: its vote.
    pub fn handle_view(&mut self, backend: BackendId, view: View) {
        if self.control.table.backend(backend).is_none() {
            return;
        }
        self.views.insert(backend, view);
        self.duties.remove(&Duty::Vote(backend));
        if plant::on(Plant::ConnectMoves) && view == View::Down {
            let revision = self.control.table.verdict(backend).revision;
            let command = ControlCommand::Verdict { backend, view, revision };
            self.propose_duty(GroupId(0), Duty::Verdict(backend), &command.encode());
        }
        self.vote();
    }

    /// A connect to a backend failed: everybody looks at once.
    pub fn ask_for_probes(&mut self, backend: BackendId) {
        if self.control.table.backend(backend).is_none() || !self.duty_is_due(Duty::Probe(backend)) {
            return;
        }
        let me = self.config.driver.id;
        let peers: Vec<NodeId> =
            self.control.table.members().map(|(id, _)| NodeId(id.0)).filter(|id| *id != me).collect();
        for peer in peers {
            self.driver.send_word(peer, GroupId(0), Word::ProbeNow(backend).encode());
        }
    }

    /// An operator wants that instance to stop: this one is told so at once, another by word, which may be lost. `false`:
    /// it is no member.
    pub fn ask_to_stop(&mut self, instance: InstanceId) -> bool {
        let (me, to) = (self.config.driver.id, NodeId(instance.0));
        if to == me {
            self.outputs.push(Output::Stop);
        } else if self.control.table.member(instance).is_some() {
            self.driver.send_word(to, GroupId(0), Word::Stop.encode());
        } else {
            return false;
        }
        true
    }

    /// The slot table that `Output::BuildSlots` asked for.
    pub fn slots_built(&mut self, pool: PoolId, members: &[(BackendId, u32)], table: SlotTable) {
        if let Some(slots) = self.slots.get_mut(&pool)
            && slots.members == members
        {
            slots.table = Some(table);
            self.choosing.wake_all();
        }
    }

    /// Starts the move of one pin; answered by a conflict if it is of another revision.
    pub fn unpin(&mut self, ticket: Ticket, key: PinKey, revision: Revision, deadline_ms: u64) {
        let command = PinCommand::Unpin { key, revision };
        self.submit_bytes(ticket, self.group_of(&key), command.encode().into(), deadline_ms, true);
    }

    /// Waits until everything committed before now is applied here; answered by `Output::Submitted` with
    /// `ControlOutcome::Done` of the index reached.
    pub fn catch_up(&mut self, ticket: Ticket, group: GroupId, deadline_ms: u64) {
        if self.reads.len() >= READS_MAX {
            let error = SubmitError::NotDone(Rejection::Overloaded);
            self.outputs.push(Output::Submitted(ticket, Err(error)));
            return;
        }
        let context = self.draw_token();
        let index = plant::on(Plant::StaleRead).then_some(0);
        self.reads.insert(context, Read { group, ticket, index, issued_ms: None, deadline_ms });
        self.issue_reads();
        self.answer_reads(group);
    }

    /// The client of `key` is still there: its pin is refreshed, batched with others.
    pub fn touch(&mut self, key: PinKey) {
        let place = self.group_of(&key).0 as usize - 1;
        let Some(touches) = self.touches.get_mut(place) else { return };
        if touches.len() < TOUCHES_MAX {
            touches.insert(key);
        } else {
            self.counts.touches_shed += 1;
        }
    }

    /// Hands leaderships over: with `to` those of all groups, whoever has them, to that member; else those of this
    /// replica to whoever runs, is willing, and has most of the log.
    pub fn hand_over(&mut self, to: Option<InstanceId>) {
        for id in 0..self.driver.groups() {
            let group = GroupId(id);
            if let Some(to) = to {
                self.driver.transfer(group, NodeId(to.0));
                continue;
            }
            if let Some(heir) = self.driver.heir(group).filter(|_| self.driver.leads(group)) {
                self.driver.transfer(group, heir);
            }
        }
    }

    /// Whether this replica takes leaderships that others hand over: not when it is about to end.
    pub fn set_willing(&mut self, willing: bool) {
        self.driver.set_willing(willing);
    }

    /// Whether this replica may lead: not while its disk is full.
    pub fn set_may_lead(&mut self, may_lead: bool) {
        self.driver.set_may_lead(may_lead);
    }

    /// Asks for a snapshot of a group whose entries up to `through` hold back the log.
    pub fn request_snapshot(&mut self, group: GroupId, through: Index) {
        self.driver.request_snapshot(group, through);
    }

    /// The pin group of a key.
    #[must_use]
    pub fn group_of(&self, key: &PinKey) -> GroupId {
        group_of(key, self.groups.len() as u32)
    }

    /// The table of group 0.
    #[must_use]
    pub fn control(&self) -> &ControlTable {
        &self.control.table
    }

    /// A pin group as readers see it.
    #[must_use]
    pub fn view(&self, group: GroupId) -> Option<&GroupView> {
        self.groups.get((group.0 as usize).checked_sub(1)?).map(|group| &group.view)
    }

    /// The lease of group 0, which readiness depends on.
    #[must_use]
    pub fn control_lease(&self) -> Lease {
        self.control_lease
    }

    /// While this replica leads a group: until when each instance's lease may run, by this instance's clock.
    #[must_use]
    pub fn leases_granted(&self, group: GroupId) -> Vec<(InstanceId, u64)> {
        let book = self.books.get(group.0 as usize);
        book.into_iter().flat_map(LeaseBook::until).map(|(id, until_ms)| (InstanceId(id.0), until_ms)).collect()
    }

    /// How a group stands.
    #[must_use]
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        self.driver.status(group)
    }

    /// An entry that is still in memory.
    #[must_use]
    pub fn entry(&self, group: GroupId, index: Index) -> Option<raftlog::driver::Committed> {
        self.driver.entry(group, index)
    }

    /// How many groups there are, group 0 included.
    #[must_use]
    pub fn group_count(&self) -> u32 {
        self.driver.groups()
    }

    /// What the driver has counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        self.driver.counters()
    }

    /// What the replica has counted.
    #[must_use]
    pub fn counts(&self) -> &ReplicaCounts {
        &self.counts
    }

    /// How many choices wait.
    #[must_use]
    pub fn choices_waiting(&self) -> usize {
        self.choosing.len()
    }

    /// Panics where the state contradicts itself. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn check_invariants(&self) {
        self.driver.check_invariants();
        self.control.table.check_invariants();
        for group in &self.groups {
            group.view.table.check_invariants(&group.expiry);
        }
        for group in &self.flows {
            group.table.check_invariants(&group.expiry);
        }
    }

    /// What is to be done now, in that order.
    pub fn poll(&mut self) -> Vec<Output> {
        let mut io = Vec::new();
        while matches!(self.health, Health::Good) {
            let actions = self.driver.poll();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.carry_out(action, &mut io);
            }
            self.settle_and_grant();
            self.drive_choices();
        }
        if matches!(self.health, Health::Good) {
            self.apply_put_off();
        }
        match std::mem::replace(&mut self.health, Health::Over) {
            Health::Good => self.health = Health::Good,
            // Nothing of this poll is shown, stored or sent.
            Health::Broken(output) => return vec![*output],
            Health::Over => return Vec::new(),
        }
        let mut outputs = Vec::new();
        if std::mem::take(&mut self.leaving_changed) {
            outputs.push(Output::Leaving(self.leaving.clone()));
        }
        if std::mem::take(&mut self.control.changed) {
            outputs.push(Output::PublishControl(self.control.table.clone()));
        }
        for group in &mut self.groups {
            if std::mem::take(&mut group.changed) {
                outputs.push(Output::PublishGroup(group.id, Box::new(group.view.clone())));
            }
        }
        for group in &mut self.flows {
            if std::mem::take(&mut group.changed) {
                outputs.push(Output::PublishFlows(group.id, Box::new(group.table.clone())));
            }
        }
        outputs.append(&mut self.outputs);
        outputs.append(&mut io);
        outputs
    }

    fn carry_out(&mut self, action: Action, io: &mut Vec<Output>) {
        match action {
            Action::Apply { group, entries } => match self.place(group) {
                Place::Flows(_) => self.put_off(group, entries),
                Place::Control | Place::Pins(_) => self.apply(group, &entries),
            },
            Action::Restore { group, index } => {
                self.forget_put_off(group);
                self.restore(group, index);
            }
            Action::Snapshot { group } => {
                self.apply_all_put_off(group);
                self.hand_in(group);
            }
            Action::StoreSnapshot { group, index, term, meta, state } => {
                io.push(Output::StoreSnapshot { group, index, term, meta, state });
            }
            Action::Persist { round, records, installs, sync } => {
                io.push(Output::Persist { round, records, installs, sync });
            }
            Action::ReadLog { group, from, to, max_bytes } => {
                io.push(Output::ReadLog { group, from, to, max_bytes });
            }
            Action::Send { to, frame } => io.push(Output::Send { to, frame }),
            Action::SendSnapshot { to, group, index, term, message } => {
                io.push(Output::SendSnapshot { to, group, index, term, message });
            }
            Action::Broken { group, why } => self.break_down(group, why),
            Action::Rejected { token, reason, .. } => self.rejected(token, reason),
            Action::ReadReady { group, context, index } => self.read_ready(group, context, index),
            Action::Word { from, group, bytes } => self.hear(from, group, &bytes),
            Action::Role { group, role, term, leader } => {
                let book = &mut self.books[group.0 as usize];
                if role == Role::Leader {
                    book.lead(self.now_ms);
                } else {
                    book.follow();
                }
                if leader.is_some() {
                    // Somebody to ask for a lease, and to send again what was lost on the way to the last one.
                    self.asks[group.0 as usize].last_ms = None;
                    self.resend(group);
                }
                self.outputs.push(Output::Role(GroupRole { group, role, term, leader }));
            }
        }
    }

    pub(crate) fn apply(&mut self, group: GroupId, entries: &[raftlog::driver::Committed]) {
        let me = self.config.driver.id;
        if entries.iter().any(|entry| matches!(entry.content, Content::Members(_))) {
            self.members_seen = None;
        }
        let outcomes = match self.place(group) {
            Place::Control => {
                let epoch = self.control.table.epoch();
                let outcomes = self.control.apply(me, entries);
                self.control_applied(epoch != self.control.table.epoch());
                outcomes
            }
            Place::Flows(place) => self.flows[place].apply(me, entries),
            Place::Pins(place) => {
                let found = &mut self.groups[place];
                let before = (found.view.generation, found.view.table.epoch(), found.view.table.settled());
                let outcomes = found.apply(me, entries);
                let after = (found.view.generation, found.view.table.epoch(), found.view.table.settled());
                if before != after {
                    self.choosing.wake(group);
                }
                outcomes
            }
        };
        for (token, outcome) in outcomes {
            self.answer(token, outcome);
        }
        self.look_for_leaving();
        self.answer_reads(group);
    }

    /// Finds the removed members that some group still counts, if any member came or went.
    pub(crate) fn look_for_leaving(&mut self) {
        let table = &self.control.table;
        let seen = Some((table.members().count(), table.next_instance()));
        if seen == self.members_seen {
            return;
        }
        self.members_seen = seen;
        let members: Vec<_> = (0..self.driver.groups()).filter_map(|id| self.driver.members(GroupId(id))).collect();
        let counted = |id: &InstanceId| members.iter().any(|members| members.has(NodeId(id.0)));
        let leaving = table.departed().map(|(id, _)| id).filter(counted).collect();
        self.leaving_changed |= leaving != self.leaving;
        self.leaving = leaving;
    }

    /// The members that were removed and that some group here still counts.
    #[must_use]
    pub fn leaving(&self) -> &BTreeSet<InstanceId> {
        &self.leaving
    }

    pub(crate) fn break_down(&mut self, group: GroupId, why: String) {
        if matches!(self.health, Health::Good) {
            self.health = Health::Broken(Box::new(Output::Broken { group, why }));
        }
    }

    pub(crate) fn place(&self, group: GroupId) -> Place {
        Place::of(group, self.groups.len())
    }

    fn hear(&mut self, from: NodeId, group: GroupId, bytes: &[u8]) {
        let place = group.0 as usize;
        match Word::decode(bytes) {
            Some(Word::LeaseAsk(ask)) if place < self.books.len() => {
                if self.is_member(from) {
                    self.books[place].ask(from, ask, self.now_ms);
                    self.prove(group);
                }
            }
            Some(Word::LeaseGrant(grant)) if place < self.books.len() => self.take_lease(group, grant),
            Some(Word::ProbeNow(backend)) => {
                if self.control.table.backend(backend).is_some() {
                    self.outputs.push(Output::ProbeNow(backend));
                }
            }
            Some(Word::Stop) => {
                if self.is_member(from) {
                    self.outputs.push(Output::Stop);
                }
            }
            _ => self.counts.words_malformed += 1,
        }
    }

    /// Before the fleet's birth every founder is a member.
    fn is_member(&self, id: NodeId) -> bool {
        self.control.table.birth().is_none() || self.control.table.member(InstanceId(id.0)).is_some()
    }

    /// How long a lease lasts in this fleet; none before its birth is known here.
    pub(crate) fn lease_ms(&self) -> Option<u64> {
        match self.control.table.birth() {
            Some(_) if plant::on(Plant::OwnLease) => Some(self.config.lease_ms),
            Some(birth) => Some(birth.lease_ms),
            None => None,
        }
    }

    pub(crate) fn take_lease(&mut self, group: GroupId, grant: LeaseGrant) {
        let LeaseGrant { life, asked_ms, lease_ms, log_time } = grant;
        // What an earlier life of this process asked for was granted for what that one had applied.
        if life != self.config.token_start {
            return;
        }
        // A grant that claims to be from the future, or for longer than leases last, is none.
        if asked_ms > self.now_ms || self.lease_ms().is_none_or(|longest| lease_ms > longest) {
            return;
        }
        let lease = Lease { asked_ms, until_ms: asked_ms + lease_ms, log_time };
        match self.place(group) {
            Place::Control => {
                if lease.until_ms > self.control_lease.until_ms {
                    self.control_lease = lease;
                    self.control.changed = true;
                }
            }
            Place::Flows(_) => self.counts.words_malformed += 1,
            Place::Pins(place) => {
                if let Some(found) = self.groups.get_mut(place)
                    && lease.until_ms > found.view.lease.until_ms
                {
                    let held = found.view.lease.holds(self.now_ms);
                    found.view.lease = lease;
                    found.changed = true;
                    if !held {
                        self.choosing.wake(group);
                    }
                }
            }
        }
    }

    fn read_ready(&mut self, group: GroupId, context: u64, index: Index) {
        let book = &mut self.books[group.0 as usize];
        if book.proof_in_flight() == Some(context) {
            book.proven(context, index.0);
        } else if let Some(read) = self.reads.get_mut(&context) {
            read.index = Some(index.0);
            self.answer_reads(group);
        }
    }
}

/// The pin group of a key among `pin_groups`: SipHash-2-4 of the key under a published key, modulo their number.
#[must_use]
pub fn group_of(key: &PinKey, pin_groups: u32) -> GroupId {
    GroupId((key.shard_hash() % u64::from(pin_groups.max(1))) as u32 + 1)
}

/// Most linearizable reads that wait at once.
const READS_MAX: usize = 1024;

/// Most pins of one group that wait to be refreshed.
const TOUCHES_MAX: usize = 100_000;
