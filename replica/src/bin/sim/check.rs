//! The judge: what must hold of the answers given, at every step.
//!
//! P1 and P2 are one rule here. Answers are put in the order of simulated time, whoever gave them; a client's next
//! answer may name another backend only if, since its last answer, the old backend was down or out by a committed epoch
//! of the pin's group, or its pin was deleted by an operator, or the client was away long enough for it to expire. An
//! instance that answers the old backend once more after another has answered the new one breaks the rule by that.

use std::collections::{BTreeMap, BTreeSet};

use flow::{
    BackendId, ControlTable, Epoch, FleetId, GroupView, InstanceId, Pin, PinKey, Revision, Standing, View,
    control::{Verdict, Vote, identity},
};
use raftlog::{GroupId, NodeId, Term};

/// What is known of all answers and tables so far.
#[derive(Default)]
pub struct Judge {
    last: BTreeMap<PinKey, Answer>,
    /// Pins that were answered before the last one.
    past: Vec<(PinKey, Revision)>,
    /// Pins that operators asked to delete.
    unpinned: BTreeSet<(PinKey, Revision)>,
    /// By group: each epoch seen applied anywhere.
    epochs: BTreeMap<GroupId, BTreeMap<Epoch, Stood>>,
    names: BTreeMap<BackendId, (String, String)>,
    digests: BTreeMap<(GroupId, Revision), u64>,
    /// By instance: up to where its control table was judged.
    judged: BTreeMap<usize, Revision>,
    leaders: BTreeMap<(GroupId, Term), NodeId>,
    fleet: Option<FleetId>,
    verdicts: Verdicts,
    /// Acknowledged key-value writes, in the order of their acknowledgements.
    acked: Vec<(String, Revision)>,
    /// Writes that count once, and the revision at which each was first seen or acknowledged.
    once: BTreeMap<String, Option<Revision>>,
    /// Writes that were answered "not done, for certain".
    not_done: BTreeSet<String>,
    pub answers: u64,
    pub moves: u64,
    pub violations: Vec<String>,
}

#[derive(Clone, Copy)]
struct Answer {
    backend: BackendId,
    revision: Revision,
    at_us: u64,
    by: usize,
}

/// Who stood how in an epoch.
struct Stood {
    /// When it was first seen.
    from_us: u64,
    serving: BTreeSet<BackendId>,
    live: BTreeSet<BackendId>,
}

/// The newest verdicts seen anywhere, and what the votes have allowed.
#[derive(Default)]
struct Verdicts {
    applied: Revision,
    /// With the time at which each was first seen.
    newest: BTreeMap<BackendId, (Verdict, u64)>,
    /// When the votes of those who may vote last had a majority for this view.
    allowed: BTreeMap<(BackendId, View), u64>,
    /// Backends that were up at some time.
    ever_up: BTreeSet<BackendId>,
}

impl Judge {
    /// An instance sends a client to the backend of `pin`.
    pub fn answer(&mut self, key: PinKey, group: GroupId, pin: &Pin, by: usize, now_us: u64, ttl_us: u64) {
        self.answers += 1;
        self.fit_to_be_picked(key, group, pin);
        let new = Answer { backend: pin.backend, revision: pin.revision, at_us: now_us, by };
        let Some(old) = self.last.insert(key, new) else { return };
        if old.revision != new.revision {
            self.past.push((key, old.revision));
        }
        if old.backend == new.backend {
            return;
        }
        let (client, from, to) = (key.client(), old.backend, new.backend);
        let answered = format!("{from:?} (answered by {} at {} us) to {to:?} (by {by})", old.by, old.at_us);
        if new.revision <= old.revision {
            self.blame(format!("client {client} went from {answered}, by a pin that is not newer"));
            return;
        }
        self.moves += 1;
        // A pin that was used has half of its idle time left, by clocks that may differ by a hundredth.
        let away = now_us - old.at_us >= ttl_us / 2 - ttl_us / 50;
        let unpinned = self.unpinned.contains(&(key, old.revision));
        if !away && !unpinned && !self.was_out(group, from, old.at_us, now_us) {
            self.blame(format!("client {client} went from {answered}, though the first served all the while"));
        }
    }

    /// A backend that takes no new clients is given none; nor one that was never seen up.
    fn fit_to_be_picked(&mut self, key: PinKey, group: GroupId, pin: &Pin) {
        let client = key.client();
        let stood = self.epochs.get(&group).and_then(|epochs| epochs.get(&pin.epoch));
        if stood.is_some_and(|stood| !stood.live.contains(&pin.backend)) {
            self.blame(format!("client {client} got {:?} in epoch {}, where it took nobody", pin.backend, pin.epoch));
        }
        if !self.verdicts.ever_up.contains(&pin.backend) {
            self.blame(format!("client {client} got {:?}, which was never found healthy", pin.backend));
        }
    }

    /// Whether some epoch that was in force in that time had the backend down or out.
    fn was_out(&self, group: GroupId, backend: BackendId, from_us: u64, to_us: u64) -> bool {
        let Some(epochs) = self.epochs.get(&group) else { return false };
        let ends = epochs.values().skip(1).map(|stood| stood.from_us).chain([u64::MAX]);
        epochs
            .values()
            .zip(ends)
            .any(|(stood, end)| stood.from_us <= to_us && end >= from_us && !stood.serving.contains(&backend))
    }

    /// The last answer to a client: when, and of which pin.
    pub fn last(&self, key: &PinKey) -> Option<(u64, Revision)> {
        self.last.get(key).map(|answer| (answer.at_us, answer.revision))
    }

    /// The `number`th client with a pin, modulo their number.
    pub fn pinned(&self, number: u64) -> Option<(PinKey, Revision)> {
        let place = number.checked_rem(self.last.len() as u64)?;
        self.last.iter().nth(place as usize).map(|(key, answer)| (*key, answer.revision))
    }

    /// The `number`th pin that is history.
    pub fn outdated(&self, number: u64) -> Option<(PinKey, Revision)> {
        let place = number.checked_rem(self.past.len() as u64)?;
        self.past.get(place as usize).copied()
    }

    /// An operator asks to delete a pin.
    pub fn unpinned(&mut self, key: PinKey, revision: Revision) {
        self.unpinned.insert((key, revision));
    }

    /// An instance shows its readers a pin group.
    pub fn group(&mut self, group: GroupId, view: &GroupView, now_us: u64) {
        self.digest(group, view.table.applied(), view.table.digest());
        let epochs = self.epochs.entry(group).or_default();
        epochs.entry(view.table.epoch()).or_insert_with(|| {
            let of = |standings: &[Standing]| {
                let found = view.table.backends().filter(|(_, state)| standings.contains(&state.standing));
                found.map(|(id, _)| *id).collect()
            };
            let (serving, live) = (of(&[Standing::Live, Standing::Draining]), of(&[Standing::Live]));
            Stood { from_us: now_us, serving, live }
        });
    }

    /// An instance shows its readers the control table.
    pub fn control(&mut self, by: usize, table: &ControlTable, now_us: u64) {
        // A lease that was renewed publishes the same table again.
        if self.judged.insert(by, table.applied()) == Some(table.applied()) {
            return;
        }
        self.digest(GroupId(0), table.applied(), table.digest());
        if let Some(birth) = table.birth()
            && *self.fleet.get_or_insert(birth.fleet) != birth.fleet
        {
            self.blame(format!("the fleet {:?} has become {}", self.fleet, birth.fleet));
        }
        for (_, pool) in table.pools() {
            for server in &pool.spec.servers {
                let id = identity(&pool.spec, server);
                let name = (server.name.clone(), server.socket_address().to_string());
                let known = self.names.entry(id).or_insert_with(|| name.clone()).clone();
                if known != name {
                    self.blame(format!("one identity for {known:?} and {name:?}"));
                }
            }
        }
        let lost = self.not_done.iter().find(|key| table.kv(key).is_some());
        if let Some(text) = lost.map(|key| format!("{key} is stored, and was answered to be not done")) {
            self.blame(text);
        }
        if table.applied() > self.verdicts.applied {
            self.verdicts(table, now_us);
        }
    }

    /// Each new verdict must be one that the votes have allowed since the one before.
    fn verdicts(&mut self, table: &ControlTable, now_us: u64) {
        self.verdicts.applied = table.applied();
        let members = backends(table);
        self.verdicts.newest.retain(|backend, _| members.contains(backend));
        for backend in members {
            let new = table.verdict(backend);
            let old = self.verdicts.newest.get(&backend).copied();
            if old.is_some_and(|(old, _)| old.revision == new.revision) || new.view == View::Unknown {
                continue;
            }
            let since_us = old.map_or(0, |(_, at_us)| at_us);
            let allowed_us = self.verdicts.allowed.get(&(backend, new.view)).copied();
            if allowed_us.is_none_or(|at_us| at_us < since_us) {
                self.blame(format!("{backend:?} was judged {} without the votes for that: allowed at {allowed_us:?}, the one before at {since_us}", new.view));
            }
            if new.view == View::Up {
                self.verdicts.ever_up.insert(backend);
            }
            self.verdicts.newest.insert(backend, (new, now_us));
        }
    }

    /// A leader is about to count the votes: what they allow, counting only those of voters that `may_vote`.
    pub fn count_votes(
        &mut self,
        table: &ControlTable,
        voters: &BTreeSet<NodeId>,
        may_vote: impl Fn(InstanceId, Vote) -> bool,
        now_us: u64,
    ) {
        let quorum = voters.len() / 2 + 1;
        for backend in backends(table) {
            let old = table.verdict(backend).view;
            for view in [View::Up, View::Down].into_iter().filter(|view| *view != old) {
                let says = |(voter, vote): &(InstanceId, Vote)| {
                    vote.view == view && voters.contains(&NodeId(voter.0)) && may_vote(*voter, *vote)
                };
                // The lease-holders are a quorum at the least, so a majority of them is more than half of one.
                if table.votes(backend).filter(says).count() * 2 > quorum {
                    self.verdicts.allowed.insert((backend, view), now_us);
                }
            }
        }
    }

    pub fn digest(&mut self, group: GroupId, applied: Revision, digest: u64) {
        let known = *self.digests.entry((group, applied)).or_insert(digest);
        if known != digest {
            self.blame(format!("group {group}: tables differ at index {applied}"));
        }
    }

    /// An instance leads a group.
    pub fn leader(&mut self, group: GroupId, term: Term, node: NodeId) {
        let known = *self.leaders.entry((group, term)).or_insert(node);
        if known != node {
            self.blame(format!("group {group}: {known} and {node} both lead in term {term}"));
        }
    }

    /// A write was acknowledged.
    pub fn acked(&mut self, key: String, revision: Revision) {
        self.seen_at(&key, revision);
        self.acked.push((key, revision));
    }

    /// The write of this key, of which there is one, is to be carried out once, however often it is asked for.
    pub fn counts_once(&mut self, key: String) {
        self.once.entry(key).or_default();
    }

    /// A write that was carried out twice has left another revision.
    fn seen_at(&mut self, key: &str, revision: Revision) {
        let Some(known) = self.once.get_mut(key) else { return };
        let known = *known.get_or_insert(revision);
        if known != revision {
            self.violations.push(format!("{key} was to count once, and did at {known} and at {revision}"));
        }
    }

    /// What was to count once did in this table.
    pub fn nothing_twice(&mut self, table: &ControlTable) {
        let keys = self.once.keys().filter_map(|key| Some((key.clone(), table.kv(key)?.revision)));
        for (key, revision) in keys.collect::<Vec<_>>() {
            self.seen_at(&key, revision);
        }
    }

    /// A write was answered "not done, for certain".
    pub fn not_done(&mut self, key: String) {
        self.not_done.insert(key);
    }

    /// How many writes were acknowledged by now: a read that begins now must see them.
    pub fn acked_by_now(&self) -> usize {
        self.acked.len()
    }

    /// What was acknowledged before a read began must be in the table that was proven to be current for it.
    pub fn nothing_lost(&mut self, table: &ControlTable, by: usize, before: usize) {
        for (key, revision) in self.acked.iter().take(before) {
            if table.applied() >= *revision && table.kv(key).is_none() {
                self.violations.push(format!("{key}, acknowledged at {revision}, is not in the table of {by}"));
                return;
            }
            if table.applied() < *revision {
                self.violations.push(format!("{key} was acknowledged at {revision}; a current table ends before"));
                return;
            }
        }
    }

    /// Something else is wrong.
    pub fn blame(&mut self, text: String) {
        self.violations.push(text);
    }
}

fn backends(table: &ControlTable) -> BTreeSet<BackendId> {
    table.pools().flat_map(|(_, pool)| pool.spec.servers.iter().map(|server| identity(&pool.spec, server))).collect()
}
