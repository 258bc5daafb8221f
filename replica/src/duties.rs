//! What a replica sees to by itself, tick by tick: leases, votes, verdicts, copies of epochs, moves, expiry, members.
//!
//! Each duty compares what is committed with what should be and proposes the difference, again after a while if it
//! was lost. So none of them has to be remembered across a crash or a change of leader.

use std::collections::BTreeSet;

use flow::{
    BackendId, ControlCommand, Detector, InstanceId, LogTime, Lookup, OnIsolation, PinCommand, PinKey, PinTable, View,
    plant::{self, Plant},
    tally::tally,
};
use raftlog::{
    GroupId, Index, NodeId,
    driver::{DetectorKind, MemberChange, Rejection, Role, TICK_MS, Tuning},
};

use crate::{
    choosing::weights,
    output::{Output, SubmitError},
    replica::{Duty, Replica, Slots},
    session::Course,
    tables::Place,
    words::{LeaseAsk, LeaseGrant, Word},
};

impl Replica {
    pub(crate) fn see_to_duties(&mut self) {
        self.ask_for_leases();
        self.prove_all();
        self.settle_and_grant();
        self.be_born();
        self.bind_incarnations();
        if self.now_ms >= self.votes_due_ms {
            self.votes_due_ms = self.now_ms + VOTES_EVERY_MS;
            self.vote();
            self.judge();
        }
        self.copy_epochs();
        self.expire_pins();
        self.expire_flows();
        self.flush_touches();
        self.change_members();
        self.issue_reads();
        self.drive_choices();
    }

    pub(crate) fn expire_questions(&mut self) {
        self.expire_choices();
        let now_ms = self.now_ms;
        let mut again = Vec::new();
        let mut late = Vec::new();
        for (token, proposal) in &self.proposals {
            if proposal.deadline_ms <= now_ms {
                late.push((proposal.course != Course::Held, *token));
            } else if proposal.may_be_sent() && proposal.resend_ms <= now_ms {
                again.push(*token);
            }
        }
        // Those that wait for the session come first: room that one of the others leaves there is not for the late.
        late.sort_unstable();
        for (_, token) in late {
            self.fail(token, Rejection::NoLeader);
        }
        for token in again {
            let group = self.proposals.get(&token).map(|proposal| proposal.group);
            if group.is_some_and(|group| self.driver.leader(group).is_some()) {
                self.send_again(token);
            }
        }
        let late: Vec<u64> =
            self.reads.iter().filter(|(_, read)| read.deadline_ms <= now_ms).map(|(context, _)| *context).collect();
        for context in late {
            if let Some(read) = self.reads.remove(&context) {
                let error = SubmitError::NotDone(Rejection::NoLeader);
                self.outputs.push(Output::Submitted(read.ticket, Err(error)));
            }
        }
    }

    /// The control table was changed by entries or a snapshot.
    pub(crate) fn control_applied(&mut self, new_epoch: bool) {
        let me = InstanceId(self.config.driver.id.0);
        let table = &self.control.table;
        if !self.removed && table.birth().is_some() && me < table.next_instance() && table.member(me).is_none() {
            self.removed = true;
            self.outputs.push(Output::Removed);
        }
        if let Some(birth) = table.birth().filter(|_| !self.lease_compared) {
            self.lease_compared = true;
            if birth.lease_ms != self.config.lease_ms {
                let (configured_ms, fleet_ms) = (self.config.lease_ms, birth.lease_ms);
                self.outputs.push(Output::OtherLease { configured_ms, fleet_ms });
            }
        }
        self.driver.tune(self.tuning());
        self.votes_due_ms = 0;
        if new_epoch {
            // A backend that comes back under the same name and address is looked at anew.
            let table = &self.control.table;
            self.views.retain(|backend, _| table.backend(*backend).is_some());
            self.choosing.wake_all();
            self.rebuild_slots();
        }
    }

    /// The driver's settings: the committed ones, or those of the configuration.
    fn tuning(&self) -> Tuning {
        let configured = &self.config.driver.tuning;
        let Some(tuning) = self.control.table.tuning() else { return configured.clone() };
        let ticks = |ms: u32| (u64::from(ms) / TICK_MS).max(1) as usize;
        let election_ticks = ticks(tuning.election_ms);
        Tuning {
            heartbeat_ticks: ticks(tuning.heartbeat_ms),
            election_ticks,
            jitter_ticks: election_ticks * 2 / 3,
            detector: match tuning.detector {
                Detector::Phi(threshold_tenths) => DetectorKind::Phi { threshold_tenths },
                Detector::Fixed(ms) => DetectorKind::Fixed { timeout_ms: u64::from(ms) },
            },
            spread: tuning.spread,
            shuffle_ticks: u64::from(tuning.shuffle_ms) / TICK_MS,
        }
    }

    /// Proposes for a duty, unless that was done a short while ago.
    pub(crate) fn propose_duty(&mut self, group: GroupId, duty: Duty, command: &[u8]) {
        if self.duty_is_due(duty) {
            let token = self.draw_token();
            self.driver.propose(group, token, command.to_vec().into());
        }
    }

    pub(crate) fn duty_is_due(&mut self, duty: Duty) -> bool {
        match self.duties.get(&duty) {
            Some(at) if self.now_ms < at + DUTY_EVERY_MS => false,
            _ => {
                if self.duties.len() >= DUTIES_MAX {
                    let now_ms = self.now_ms;
                    self.duties.retain(|_, at| now_ms < *at + DUTY_EVERY_MS);
                }
                self.duties.insert(duty, self.now_ms);
                true
            }
        }
    }

    /// The last index that this instance's readers see applied.
    fn applied(&self, group: GroupId) -> u64 {
        match self.place(group) {
            Place::Control => self.control.table.applied().0,
            Place::Pins(place) => self.groups.get(place).map_or(0, |group| group.view.table.applied().0),
            Place::Flows(place) => self.flows.get(place).map_or(0, |group| group.table.applied().0),
        }
    }

    fn last_move(&self, group: GroupId) -> u64 {
        match self.place(group) {
            Place::Pins(place) => self.groups.get(place).map_or(0, |group| group.view.table.last_move().0),
            Place::Control | Place::Flows(_) => 0,
        }
    }

    fn ask_for_leases(&mut self) {
        let Some(lease_ms) = self.lease_ms().filter(|_| !self.removed) else { return };
        let me = self.config.driver.id;
        // Nobody answers from a flow group as if it could not be otherwise.
        for id in 0..=self.groups.len() as u32 {
            let group = GroupId(id);
            let Some(leader) = self.driver.leader(group) else { continue };
            let (applied, last_move) = (self.applied(group), self.last_move(group));
            let state = &mut self.asks[id as usize];
            let due = state.last_ms.is_none_or(|last| self.now_ms >= last + lease_ms / 4);
            // News of an applied move are not kept waiting: somebody's connection hangs on it.
            let news = last_move > state.told && applied >= last_move;
            if !due && !news {
                continue;
            }
            state.last_ms = Some(self.now_ms);
            state.told = applied;
            let ask = LeaseAsk { life: self.config.token_start, applied, asked_ms: self.now_ms };
            if leader == me {
                self.books[id as usize].ask(me, ask, self.now_ms);
            } else {
                self.driver.send_word(leader, group, Word::LeaseAsk(ask).encode());
            }
        }
    }

    fn prove_all(&mut self) {
        for id in 0..self.driver.groups() {
            self.prove(GroupId(id));
        }
    }

    /// Issues a ReadIndex for the lease asks that came in, if none is on its way.
    pub(crate) fn prove(&mut self, group: GroupId) {
        if !self.driver.leads(group) {
            return;
        }
        let place = group.0 as usize;
        if let Some(context) = self.books[place].proof_in_flight() {
            let at = self.duties.get(&Duty::Prove(group)).copied();
            if at.is_some_and(|at| self.now_ms >= at + LEASE_PROOF_TIMEOUT_MS) {
                self.books[place].give_up(context);
            }
        }
        if self.books[place].wants_proof() {
            let context = self.draw_token();
            if self.driver.read_index(group, context) {
                self.books[place].proving(context);
                self.duties.insert(Duty::Prove(group), self.now_ms);
            }
        }
    }

    /// Grants the leases that are proven, settles the moves that everybody has seen.
    pub(crate) fn settle_and_grant(&mut self) {
        self.ask_for_leases();
        let me = self.config.driver.id;
        // Who does not know how long leases last can neither grant one nor wait for one to end.
        let Some(lease_ms) = self.lease_ms() else { return };
        for id in 0..self.driver.groups() {
            let group = GroupId(id);
            if !self.driver.leads(group) {
                continue;
            }
            let (applied, last_move) = (self.applied(group), self.last_move(group));
            let grants = self.books[id as usize].grants(self.now_ms, lease_ms, applied, last_move);
            let log_time = LogTime(self.driver.log_time(group).unwrap_or(0));
            for (to, ask) in grants {
                self.counts.leases_granted += 1;
                let grant = LeaseGrant { life: ask.life, asked_ms: ask.asked_ms, lease_ms, log_time };
                if to == me {
                    self.take_lease(group, grant);
                } else {
                    self.driver.send_word(to, group, Word::LeaseGrant(grant).encode());
                }
            }
            self.settle(group, lease_ms, last_move);
        }
    }

    fn settle(&mut self, group: GroupId, lease_ms: u64, last_move: u64) {
        let Some(found) = (group.0 as usize).checked_sub(1).and_then(|place| self.groups.get(place)) else { return };
        if found.view.table.settled().0 >= last_move {
            return;
        }
        if self.books[group.0 as usize].can_settle(self.now_ms, lease_ms, last_move) {
            let command = PinCommand::Settle(flow::Revision(last_move));
            self.propose_duty(group, Duty::Settle(group, last_move), &command.encode());
        }
    }

    fn be_born(&mut self) {
        if self.driver.leads(GroupId(0))
            && self.control.table.birth().is_none()
            && let Some(birth) = self.config.birth.clone()
        {
            self.propose_duty(GroupId(0), Duty::Birth, &ControlCommand::Birth(birth).encode());
        }
    }

    fn bind_incarnations(&mut self) {
        if !self.driver.leads(GroupId(0)) || self.control.table.birth().is_none() {
            return;
        }
        let me = InstanceId(self.config.driver.id.0);
        self.seen.insert(me, self.config.incarnation);
        let unbound: Vec<InstanceId> =
            self.control.table.members().filter(|(_, member)| member.incarnation.is_none()).map(|(id, _)| id).collect();
        for id in unbound {
            if let Some(incarnation) = self.seen.get(&id).copied() {
                let command = ControlCommand::MemberSeen(id, incarnation);
                self.propose_duty(GroupId(0), Duty::Seen(id), &command.encode());
            }
        }
    }

    /// All members' backends.
    fn backends(&self) -> Vec<BackendId> {
        self.control.table.backends().collect()
    }

    /// Proposes this instance's votes where they differ from what it sees.
    pub(crate) fn vote(&mut self) {
        let me = InstanceId(self.config.driver.id.0);
        if self.control.table.member(me).is_none() || self.driver.leader(GroupId(0)).is_none() {
            return;
        }
        for backend in self.backends() {
            let view = self.views.get(&backend).copied().unwrap_or_default();
            let vote = self.control.table.votes(backend).find(|(voter, _)| *voter == me).map(|(_, vote)| vote);
            let said = match vote {
                Some(vote) if vote.incarnation == self.config.incarnation => vote.view,
                // A vote of an earlier life is taken back.
                Some(_) if view == View::Unknown => View::Up,
                _ => View::Unknown,
            };
            if said != view {
                let incarnation = self.config.incarnation;
                let command = ControlCommand::Vote { voter: me, incarnation, backend, view };
                self.propose_duty(GroupId(0), Duty::Vote(backend), &command.encode());
            }
        }
    }

    /// The leader counts the votes.
    fn judge(&mut self) {
        if !self.driver.leads(GroupId(0)) {
            return;
        }
        let Some(status) = self.driver.status(GroupId(0)) else { return };
        let voters = &status.members.voters;
        let blind = plant::on(Plant::VoteWithoutLease);
        let holders = match blind {
            false => self.books[0].holders(voters.iter().copied(), self.now_ms),
            true => voters.len(),
        };
        for backend in self.backends() {
            let table = &self.control.table;
            let old = table.verdict(backend);
            let counted = table.votes(backend).filter(|(voter, vote)| {
                let node = NodeId(voter.0);
                voters.contains(&node)
                    && (self.books[0].holds(node, self.now_ms) || blind)
                    && table.member(*voter).is_some_and(|member| member.incarnation == Some(vote.incarnation))
            });
            let verdict = tally(old.view, counted.map(|(_, vote)| vote.view), voters.len(), holders);
            if let Some(view) = verdict {
                let command = ControlCommand::Verdict { backend, view, revision: old.revision };
                self.propose_duty(GroupId(0), Duty::Verdict(backend), &command.encode());
            }
        }
    }

    /// The leader of a pin group copies the newest epoch there.
    fn copy_epochs(&mut self) {
        let epoch = self.control.table.epoch();
        let behind: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|group| group.view.table.epoch() < epoch && self.driver.leads(group.id))
            .map(|group| group.id)
            .collect();
        if behind.is_empty() {
            return;
        }
        let command = PinCommand::Epoch(self.control.table.epoch_copy()).encode();
        for group in behind {
            self.propose_duty(group, Duty::Epoch(group, epoch), &command);
        }
    }

    /// The leader of a pin group lets log time advance when pins are due to expire.
    fn expire_pins(&mut self) {
        for place in 0..self.groups.len() {
            let group = self.groups[place].id;
            let Some(next) = PinTable::next_expiry(&self.groups[place].expiry) else { continue };
            if self.driver.leads(group) && self.driver.log_time(group).is_some_and(|now| next.0 <= now) {
                self.propose_duty(group, Duty::Tick(group), &PinCommand::Tick.encode());
            }
        }
    }

    fn flush_touches(&mut self) {
        for place in 0..self.groups.len() {
            if self.touches[place].is_empty() || plant::on(Plant::TouchesLost) {
                continue;
            }
            let group = self.groups[place].id;
            if !self.duty_is_due(Duty::Touch(group)) {
                continue;
            }
            let table = &self.groups[place].view.table;
            let log_time = self.groups[place].view.lease.log_time_bound(self.now_ms);
            // A key stays until its pin was refreshed: what is lost on the way is sent again.
            let due = |key: &PinKey| match (table.lookup(key), table.pin_ttl_ms(key.pool)) {
                (Lookup::Held(pin), Some(ttl)) if pin.touch_from(ttl) <= log_time => Some((*key, pin.revision)),
                _ => None,
            };
            let looked_at: Vec<_> =
                self.touches[place].iter().take(TOUCHES_PER_ENTRY).map(|key| (*key, due(key))).collect();
            for (key, _) in looked_at.iter().filter(|(_, due)| due.is_none()) {
                self.touches[place].remove(key);
            }
            let pins: Vec<_> = looked_at.into_iter().filter_map(|(_, due)| due).collect();
            if !pins.is_empty() {
                let token = self.draw_token();
                self.driver.propose(group, token, PinCommand::Touch(pins).encode().into());
            }
        }
    }

    /// The leader of a group makes its members those of the control table, one by one.
    fn change_members(&mut self) {
        let table = &self.control.table;
        if table.birth().is_none() {
            return;
        }
        let wanted: BTreeSet<NodeId> = table.members().map(|(id, _)| NodeId(id.0)).collect();
        for id in 0..self.driver.groups() {
            let group = GroupId(id);
            if !self.driver.leads(group) || !self.duty_is_due(Duty::Members(group)) {
                continue;
            }
            let Some(status) = self.driver.status(group) else { continue };
            if status.role != Role::Leader {
                continue;
            }
            if let Some(change) = self.member_change(&wanted, &status) {
                if change == MemberChange::Remove(self.config.driver.id) {
                    self.hand_over(None);
                } else {
                    self.driver.propose_members(group, change);
                }
            }
        }
    }

    fn member_change(&self, wanted: &BTreeSet<NodeId>, status: &raftlog::driver::GroupStatus) -> Option<MemberChange> {
        let table = &self.control.table;
        let members = &status.members;
        let present = |id: &NodeId| members.voters.contains(id) || members.learners.contains(id);
        if let Some(new) = wanted.iter().find(|id| !present(id)) {
            return Some(MemberChange::AddLearner(*new));
        }
        // One that never answered is not near the end of a short log.
        let caught_up = |id: &NodeId| {
            let near = |index: Index| index.0 > 0 && index.0 + PROMOTE_WITHIN >= status.committed.0;
            status.matched.iter().any(|(other, index)| other == id && near(*index))
        };
        let votes = |id: &NodeId| table.member(InstanceId(id.0)).is_some_and(|member| member.voter);
        // An id that this control table has not heard of yet is newer than the table, not a stranger.
        let known = |id: &NodeId| InstanceId(id.0) < table.next_instance();
        let is_gone = |id: &&NodeId| !wanted.contains(id) && known(id);
        if let Some(learner) = members.learners.iter().find(|id| votes(id) && caught_up(id)) {
            // With one that takes its place a voter leaves in the same breath.
            let leaves = members.voters.iter().filter(is_gone).find(|id| **id != self.config.driver.id);
            return Some(match leaves {
                Some(leaves) => MemberChange::Replace { leaves: *leaves, votes: *learner },
                None => MemberChange::Promote(*learner),
            });
        }
        let mut gone = members.learners.iter().chain(&members.voters).filter(is_gone);
        gone.next().map(|id| MemberChange::Remove(*id))
    }

    /// Has the slot tables built of pools whose takers changed.
    fn rebuild_slots(&mut self) {
        let table = &self.control.table;
        let Some(key) = table.birth().map(|birth| birth.pick_key) else { return };
        let pools: Vec<_> = table
            .pools()
            .filter(|(_, pool)| {
                pool.spec.balance == flow::Balance::SourceHash || pool.spec.on_isolation == OnIsolation::Hash
            })
            .map(|(id, pool)| (id, weights(pool)))
            .collect();
        self.slots.retain(|id, _| pools.iter().any(|(pool, _)| pool == id));
        for (pool, members) in pools {
            let slots = self.slots.entry(pool).or_insert(Slots { members: Vec::new(), table: None });
            if slots.members != members || (slots.table.is_none() && !members.is_empty()) {
                slots.members.clone_from(&members);
                self.outputs.push(Output::BuildSlots { pool, key, members });
            }
        }
    }

    /// Issues the proofs that linearizable reads wait for.
    pub(crate) fn issue_reads(&mut self) {
        let mut issued = Vec::new();
        for (context, read) in &self.reads {
            let lost = read.issued_ms.is_some_and(|at| self.now_ms >= at + PROOF_TIMEOUT_MS);
            if read.index.is_none() && (read.issued_ms.is_none() || lost) {
                issued.push((*context, read.group));
            }
        }
        for (context, group) in issued {
            if self.driver.read_index(group, context)
                && let Some(read) = self.reads.get_mut(&context)
            {
                read.issued_ms = Some(self.now_ms);
            }
        }
    }

    /// Answers linearizable reads whose index is applied.
    pub(crate) fn answer_reads(&mut self, group: GroupId) {
        let applied = self.applied(group);
        let ready: Vec<u64> = self
            .reads
            .iter()
            .filter(|(_, read)| read.group == group && read.index.is_some_and(|index| index <= applied))
            .map(|(context, _)| *context)
            .collect();
        for context in ready {
            if let Some(read) = self.reads.remove(&context) {
                let revision = flow::Revision(applied);
                let epoch = self.control.table.epoch();
                self.outputs.push(Output::Submitted(read.ticket, Ok(flow::ControlOutcome::Done { revision, epoch })));
            }
        }
    }
}

/// A duty is proposed again after so long.
const DUTY_EVERY_MS: u64 = 100;

/// Votes and verdicts are looked through after so long, though nothing changed: leases come and go.
const VOTES_EVERY_MS: u64 = 100;

/// A leader's own proof, which it asks its followers for with every heartbeat, is given up after so long: several of the
/// longest round trips.
const LEASE_PROOF_TIMEOUT_MS: u64 = 600;

/// A proof without an answer is asked for again after so long.
const PROOF_TIMEOUT_MS: u64 = 150;

/// Most pins refreshed with one entry.
const TOUCHES_PER_ENTRY: usize = 1000;

/// A learner that is so few entries behind gets its vote.
const PROMOTE_WITHIN: u64 = 100;

/// Most duties that are remembered.
const DUTIES_MAX: usize = 10_000;
