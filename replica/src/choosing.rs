//! Choices that could not be answered at once: from question to committed pin.
//!
//! ```text
//!   choose --> ready --drive--> answered
//!                ^  |---------> parked    (no lease, moving, nobody live, control behind)   --wake--> ready
//!                |  '---------> proposed  (Assign on its way)                      --applied/lost--> ready
//!                '--- every way back leads through the table: the answer is what is committed there
//! ```

use std::collections::{BTreeMap, BTreeSet};

use flow::{
    Answer, BackendId, Balance, LeastConnections, OnIsolation, Pin, PinCommand, PinKey, RoundRobin, Standing,
    control::{Pool, identity},
    plant::{self, Plant},
};
use raftlog::GroupId;

use crate::{
    output::{Answered, Output, Refusal, Ticket},
    proposals::Asker,
    replica::Replica,
};

/// All open choices.
#[derive(Debug)]
pub struct Choosing {
    questions: BTreeMap<Ticket, Question>,
    ready: Vec<Ticket>,
    /// By group, group 1 first.
    parked: Vec<BTreeSet<Ticket>>,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    key: PinKey,
    group: GroupId,
    avoid: Option<BackendId>,
    deadline_ms: u64,
    /// What to answer if the deadline passes now.
    otherwise: Refusal,
    /// Its Assign was applied here just now: the pin is as fresh as pins of this pool get.
    fresh: bool,
}

impl Choosing {
    pub fn new(pin_groups: usize) -> Self {
        Self { questions: BTreeMap::new(), ready: Vec::new(), parked: vec![BTreeSet::new(); pin_groups] }
    }

    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Something changed in a group that parked choices may wait for.
    pub fn wake(&mut self, group: GroupId) {
        if let Some(parked) = self.parked.get_mut(group.0 as usize - 1) {
            self.ready.extend(std::mem::take(parked));
        }
    }

    pub fn wake_all(&mut self) {
        for parked in &mut self.parked {
            self.ready.extend(std::mem::take(parked));
        }
    }

    /// The Assign of a choice was applied here. Only where it holds now did that refresh the pin.
    pub fn applied(&mut self, ticket: Ticket, holds: bool) {
        if let Some(question) = self.questions.get_mut(&ticket) {
            question.fresh = holds;
            self.ready.push(ticket);
        }
    }

    /// The proposal of a choice came to nothing.
    pub fn retry(&mut self, ticket: Ticket) {
        if self.questions.contains_key(&ticket) {
            self.ready.push(ticket);
        }
    }

    fn park(&mut self, ticket: Ticket, why: Refusal) {
        if let Some(question) = self.questions.get_mut(&ticket) {
            question.otherwise = why;
            // Time goes by before it is looked at again.
            question.fresh = false;
            if let Some(parked) = self.parked.get_mut(question.group.0 as usize - 1) {
                parked.insert(ticket);
            }
        }
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Question> {
        let question = self.questions.remove(&ticket)?;
        if let Some(parked) = self.parked.get_mut(question.group.0 as usize - 1) {
            parked.remove(&ticket);
        }
        Some(question)
    }

    fn overdue(&self, now_ms: u64) -> Vec<Ticket> {
        let late = |(_, question): &(&Ticket, &Question)| question.deadline_ms <= now_ms;
        self.questions.iter().filter(late).map(|(ticket, _)| *ticket).collect()
    }
}

impl Replica {
    /// Asks for the choice of a key; answered by `Output::Chosen`, by the deadline at the latest. With `avoid` the
    /// answer waits until the key's backend is another one.
    pub fn choose(&mut self, ticket: Ticket, key: PinKey, avoid: Option<BackendId>, deadline_ms: u64) {
        if self.choosing.len() >= self.config.choosing_max {
            self.counts.choices_shed += 1;
            self.outputs.push(Output::Chosen(ticket, Err(Refusal::Overloaded)));
            return;
        }
        let question =
            Question { key, group: self.group_of(&key), avoid, deadline_ms, otherwise: Refusal::Timeout, fresh: false };
        self.choosing.questions.insert(ticket, question);
        self.choosing.ready.push(ticket);
        self.drive_choices();
    }

    /// Answers what can be answered, proposes what has to be.
    pub(crate) fn drive_choices(&mut self) {
        while !self.choosing.ready.is_empty() {
            for ticket in std::mem::take(&mut self.choosing.ready) {
                if let Some(question) = self.choosing.questions.get(&ticket).copied() {
                    self.drive(ticket, question);
                }
            }
        }
    }

    /// The deadline of some choices has passed.
    pub(crate) fn expire_choices(&mut self) {
        for ticket in self.choosing.overdue(self.now_ms) {
            self.give_up(ticket);
        }
    }

    /// Nothing committed by the deadline.
    fn give_up(&mut self, ticket: Ticket) {
        let Some(question) = self.choosing.remove(ticket) else { return };
        // Who holds a lease is not isolated, only late: a guess could differ from what is being committed.
        let isolated = self.view(question.group).is_none_or(|view| !view.lease.holds(self.now_ms));
        let answer = match self.guess(&question) {
            Some(pin) if question.avoid.is_none() && isolated => Ok(Answered { pin, committed: false }),
            _ => Err(question.otherwise),
        };
        self.outputs.push(Output::Chosen(ticket, answer));
    }

    fn finish(&mut self, ticket: Ticket, answer: Result<Answered, Refusal>) {
        if self.choosing.remove(ticket).is_some() {
            self.outputs.push(Output::Chosen(ticket, answer));
        }
    }

    fn drive(&mut self, ticket: Ticket, question: Question) {
        let Some(view) = self.view(question.group) else { return };
        let answer = view.answer(&question.key, self.now_ms);
        let control = &self.control.table;
        let Some(pool) = control.pool(question.key.pool).cloned() else {
            // Before the fleet's first word every pool is unknown; later one that is unknown stays so.
            if control.birth().is_some() {
                self.finish(ticket, Err(Refusal::NoPool));
            } else {
                self.choosing.park(ticket, Refusal::NoLease);
            }
            return;
        };
        match answer {
            Answer::Held(pin) if question.avoid == Some(pin.backend) => {
                self.choosing.park(ticket, Refusal::Timeout);
            }
            // A reader whose control state is older than the pin waits for it.
            Answer::Held(pin) if pin.epoch > control.epoch() || control.backend(pin.backend).is_none() => {
                self.choosing.park(ticket, Refusal::Timeout);
            }
            Answer::Held(pin) => {
                let bound = view.lease.log_time_bound(self.now_ms);
                if bound >= pin.touch_from(pool.spec.pin_ttl_ms) {
                    self.touch(question.key);
                }
                self.finish(ticket, Ok(Answered { pin, committed: true }));
            }
            // The idle time of the pool is so short that no pin is ever fresh: one that stands must do.
            Answer::Expiring(pin)
                if question.fresh
                    && question.avoid != Some(pin.backend)
                    && pin.epoch <= control.epoch()
                    && view.stands(&question.key, pin.backend, self.now_ms) =>
            {
                self.finish(ticket, Ok(Answered { pin, committed: true }));
            }
            Answer::Expiring(pin) => self.assign(ticket, &question, pin.backend),
            Answer::Moving => self.choosing.park(ticket, Refusal::Timeout),
            Answer::NoLease => {
                if pool.spec.on_isolation == OnIsolation::Hash
                    && question.avoid.is_none()
                    && let Some(pin) = self.guess(&question)
                {
                    self.finish(ticket, Ok(Answered { pin, committed: false }));
                } else {
                    self.choosing.park(ticket, Refusal::NoLease);
                }
            }
            // Refused by the one who would propose: what is applied must not depend on an instance's own limit.
            Answer::Free
                if view.table.len() >= self.config.pins_per_group_max && view.table.stored(&question.key).is_none() =>
            {
                self.counts.choices_shed += 1;
                self.finish(ticket, Err(Refusal::Overloaded));
            }
            Answer::Free => match self.pick(&pool, &question) {
                Some(backend) => self.assign(ticket, &question, backend),
                None => self.choosing.park(ticket, Refusal::NoBackend),
            },
        }
    }

    fn assign(&mut self, ticket: Ticket, question: &Question, backend: BackendId) {
        // Else a rejection and the next try would follow on each other for ever, as time stands still in a poll.
        if question.deadline_ms <= self.now_ms {
            self.give_up(ticket);
            return;
        }
        if let Some(question) = self.choosing.questions.get_mut(&ticket) {
            question.fresh = false;
        }
        let epoch = self.control.table.epoch();
        let command = PinCommand::Assign { key: question.key, backend, epoch };
        self.counts.assigns += 1;
        self.propose(question.group, command.encode().into(), Asker::Choice(ticket), question.deadline_ms, true);
    }

    /// Who a key without a pin is given, by the committed pool and what the key's group knows to be live.
    fn pick(&mut self, pool: &Pool, question: &Question) -> Option<BackendId> {
        let place = question.group.0 as usize - 1;
        let table = &self.groups.get(place)?.view.table;
        let live = |backend| {
            table.backend(backend).is_some_and(|state| state.standing == Standing::Live)
                || (plant::on(Plant::AssignToDead)
                    && table.backend(backend).is_some_and(|state| state.standing.serves()))
        };
        let id = pool.spec.id();
        match pool.spec.balance {
            Balance::SourceHash => {
                let slots = self.slots.get(&id)?;
                if plant::on(Plant::OwnHash) {
                    let shift = self.config.driver.id.0 as usize;
                    let all: Vec<_> = slots.members.iter().filter(|(id, _)| live(*id)).collect();
                    return all.get(shift % all.len().max(1)).map(|(id, _)| *id);
                }
                slots.table.as_ref()?.pick(&question.key, live)
            }
            Balance::RoundRobin => {
                let members = weights(pool);
                let turn = self
                    .turns
                    .entry(id)
                    .and_modify(|(revision, turn)| {
                        if *revision != pool.revision {
                            *turn = RoundRobin::new(&members);
                            *revision = pool.revision;
                        }
                    })
                    .or_insert_with(|| (pool.revision, RoundRobin::new(&members)));
                turn.1.pick(live)
            }
            Balance::LeastConnections => {
                let pins = |backend| {
                    let counts = self.groups.iter().filter_map(|group| group.view.table.backend(backend));
                    counts.map(|state| state.pins).sum()
                };
                LeastConnections::new(&weights(pool)).pick(live, pins)
            }
        }
    }

    /// Whom the key would be given if it had no pin. For the simulator, which compares instances.
    #[must_use]
    pub fn pick_of(&mut self, key: &PinKey) -> Option<BackendId> {
        let pool = self.control.table.pool(key.pool)?.clone();
        let group = self.group_of(key);
        let question =
            Question { key: *key, group, avoid: None, deadline_ms: 0, otherwise: Refusal::Timeout, fresh: false };
        self.pick(&pool, &question)
    }

    /// The pick of an isolated instance: what its table says, old as it may be, else the hash.
    fn guess(&self, question: &Question) -> Option<Pin> {
        let pool = self.control.table.pool(question.key.pool)?;
        if pool.spec.on_isolation != OnIsolation::Hash {
            return None;
        }
        let table = &self.view(question.group)?.table;
        if let flow::Lookup::Held(pin) = table.lookup(&question.key) {
            return Some(pin);
        }
        let live = |backend| table.backend(backend).is_some_and(|state| state.standing == Standing::Live);
        let backend = self.slots.get(&question.key.pool)?.table.as_ref()?.pick(&question.key, live)?;
        Some(Pin {
            backend,
            revision: flow::Revision(0),
            epoch: self.control.table.epoch(),
            expires: table.time(),
            moving: None,
        })
    }
}

/// The servers of a pool that take new clients, with their weights.
pub fn weights(pool: &Pool) -> Vec<(BackendId, u32)> {
    pool.spec
        .servers
        .iter()
        .filter(|server| server.state == flow::ServerState::Enabled || plant::on(Plant::AssignToDead))
        .filter(|server| server.weight > 0)
        .map(|server| (identity(&pool.spec, server), server.weight))
        .collect()
}

#[cfg(test)]
mod tests;
