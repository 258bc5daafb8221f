//! Membership of a simulated fleet: who is to be a member changes, and all groups are led there step by step.

use super::{
    faults::Fault,
    world::{Event, World},
};
use crate::{
    driver::{MemberChange, Members},
    types::{GroupId, NodeId},
};

impl World {
    /// One step towards the members that are wanted, in every group.
    pub fn drive_members(&mut self) {
        let delay_us = self.random.range(30_000, 150_000);
        self.after(delay_us, Event::Members);
        let settled = (0..self.setup.groups).map(GroupId).all(|group| {
            let members = self.judge.members(group);
            members.voters == self.wanted && members.learners.is_empty() && members.outgoing.is_empty()
        });
        let churn = self.weather.churn_per_mille;
        // Nobody lets a fleet shrink while one of its logs is lost, or may be.
        let damaged = self.machines.iter().any(|machine| machine.damaged);
        let whole = self.wanted.iter().all(|id| self.place(*id).is_some()) && !damaged;
        let hasty = whole && self.counts.refused_logs == 0 && self.random.chance(100);
        if !self.is_calm() && whole && (settled || hasty) && self.random.chance(churn) {
            self.want_others();
        }
        self.replace_lost();
        for group in (0..self.setup.groups).map(GroupId) {
            self.drive_group(group);
        }
        self.dismiss();
    }

    /// Somebody is to join, or to leave.
    fn want_others(&mut self) {
        let (least, most) = (if self.setup.founders == 1 { 1 } else { 2 }, self.setup.machines - 1);
        let grow = self.wanted.len() <= least || (self.wanted.len() < most && self.random.chance(600));
        if grow {
            self.hire();
        } else {
            let all: Vec<NodeId> = self.wanted.iter().copied().collect();
            if let Some(id) = self.random.pick(&all) {
                self.say(|_| format!("{id} is to leave"));
                self.wanted.remove(&id);
                // Another takes its place, in one joint change if it has caught up by then.
                if self.random.chance(500) {
                    self.hire();
                }
            }
        }
    }

    /// A free machine becomes a member with a new id, which has to learn everything.
    fn hire(&mut self) {
        let Some(node) = self.machines.iter().position(|machine| machine.id.is_none()) else { return };
        self.last_id += 1;
        let id = NodeId(self.last_id);
        self.say(|_| format!("{id} is to join, on machine {node}"));
        self.wanted.insert(id);
        self.settle_in(node, id);
        self.start(node);
    }

    /// Whoever lost its log is replaced.
    fn replace_lost(&mut self) {
        let lost: Vec<NodeId> = self.wanted.iter().copied().filter(|id| self.place(*id).is_none()).collect();
        for id in lost {
            self.wanted.remove(&id);
            self.hire();
        }
    }

    fn drive_group(&mut self, group: GroupId) {
        let leads = |node: &usize| {
            let machine = &self.machines[*node];
            machine.awake(self.now_us) && machine.process.as_ref().is_some_and(|process| process.driver.leads(group))
        };
        let Some(node) = (0..self.machines.len()).find(leads) else { return };
        let machine = &self.machines[node];
        let (Some(me), Some(process), life) = (machine.id, machine.process.as_ref(), machine.life) else { return };
        let members = process.driver.members(group).unwrap_or_default();
        let Some(step) = self.next_step(group, node, &members) else { return };
        self.counts.member_changes += 1;
        if step == MemberChange::Remove(me) {
            let heirs: Vec<NodeId> = members.voters.iter().copied().filter(|id| *id != me).collect();
            if let Some(heir) = self.random.pick(&heirs) {
                self.say(|_| format!("{me} is to leave group {group}: {heir} is to lead"));
                self.with(node, life, |driver| driver.transfer(group, heir));
                // Now and then nobody waits for that.
                if !self.random.chance(100) {
                    return;
                }
            }
        }
        self.say(|_| format!("{me} proposes {step:?} in group {group}"));
        self.with(node, life, |driver| driver.propose_members(group, step));
    }

    fn next_step(&mut self, group: GroupId, node: usize, members: &Members) -> Option<MemberChange> {
        if let Some(id) = self.wanted.iter().find(|id| !members.has(**id)) {
            return Some(MemberChange::AddLearner(*id));
        }
        let status = self.machines[node].process.as_ref()?.driver.status(group)?;
        let near = |id: &NodeId| {
            let matched = status.matched.iter().find(|(of, _)| of == id).map_or(0, |(_, index)| index.0);
            matched > 0 && matched + CAUGHT_UP_WITHIN >= status.committed.0
        };
        let wanted = &self.wanted;
        if let Some(id) = members.learners.iter().find(|id| wanted.contains(*id) && near(id)) {
            let leaves = members.voters.iter().find(|id| !wanted.contains(*id) && self.machines[node].id != Some(**id));
            return Some(match leaves {
                Some(leaves) if self.random.chance(700) => MemberChange::Replace { leaves: *leaves, votes: *id },
                _ => MemberChange::Promote(*id),
            });
        }
        let extra = |id: &&NodeId| !wanted.contains(*id);
        let stays = members.voters.iter().any(|id| wanted.contains(id));
        // Those first that are lost: without them in it a quorum is easier to have.
        let lost = members.voters.iter().filter(extra).find(|id| self.place(**id).is_none());
        let leaving =
            lost.or_else(|| members.learners.iter().find(extra)).or_else(|| members.voters.iter().find(extra));
        leaving.filter(|id| stays || members.learners.contains(*id)).map(|id| MemberChange::Remove(*id))
    }

    /// Whoever is no member of any group any more ends.
    fn dismiss(&mut self) {
        for node in 0..self.machines.len() {
            let Some(id) = self.machines[node].id.filter(|id| !self.wanted.contains(id)) else { continue };
            let gone = (0..self.setup.groups).map(GroupId).all(|group| self.has_let_go(group, id));
            if gone {
                self.say(|_| format!("{id} is gone from all groups"));
                self.move_out(node);
            }
        }
    }

    /// Whether a group does without a replica, and all that are left know that for good: else one of them might ask it
    /// for its vote after a crash.
    fn has_let_go(&self, group: GroupId, id: NodeId) -> bool {
        let members = self.judge.members(group);
        let since = self.judge.members_since(group);
        let knows = |of: &NodeId| self.is_noted(group, *of, since);
        !members.has(id) && members.voters.iter().all(knows)
    }

    /// Whether each group has three voters or more, all of which have their logs, and know of each other for good: so
    /// one can be lost.
    pub fn is_whole(&self) -> bool {
        (0..self.setup.groups).map(GroupId).all(|group| {
            let (members, since) = (self.judge.members(group), self.judge.members_since(group));
            let knows = |id: &NodeId| self.place(*id).is_some() && self.is_noted(group, *id, since);
            let settled = members.learners.is_empty() && members.outgoing.is_empty();
            settled && members.voters.len() >= 3 && members.voters == self.wanted && members.voters.iter().all(knows)
        })
    }

    /// Whether a replica has on disk that this index is committed.
    pub fn is_noted(&self, group: GroupId, id: NodeId, index: u64) -> bool {
        self.judge.disks.get(&id).is_some_and(|disk| disk.borrow().hard_state(group).commit.0 >= index)
    }

    /// A damaged log was refused: its replica is no more.
    pub fn lose(&mut self, node: usize, error: &crate::wal::WalError) {
        let Some(id) = self.machines[node].id else { return };
        self.say(|_| format!("{id} is lost: {error}"));
        self.counts.refused_logs += 1;
        self.move_out(node);
        if self.random.chance(500) {
            self.after(0, Event::Then(Fault::NoticeGone(id)));
        }
    }
}

/// A learner that is so few entries behind gets its vote.
const CAUGHT_UP_WITHIN: u64 = 20;
