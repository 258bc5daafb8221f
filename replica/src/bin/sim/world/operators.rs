//! Operators, who change pools, move clients, and write and read keys.

use super::*;

impl World {
    pub(super) fn write(&mut self) {
        let node = self.random.below(self.machines.len() as u64) as usize;
        let life = self.machines[node].life;
        let now_ms = self.machines[node].now_ms(self.now_us);
        if self.random.chance(400) {
            self.request(node);
        } else {
            self.written += 1;
            let key = format!("key-{}", self.written);
            // As it is, or by the replica's own session.
            let again = self.random.chance(500);
            let write = self.ticket(node, Asked::Write { key: key.clone() });
            let patience_ms = if self.random.chance(300) { self.random.range(1, 30) } else { 2000 };
            if !again {
                self.judge.counts_once(key.clone());
            }
            if !self.asleep(node) {
                self.with(node, life, |running| {
                    let command = ControlCommand::KvPut { key, value: b"v".to_vec(), if_revision: None };
                    running.replica.submit(write, &command, now_ms + patience_ms, again, None);
                });
            }
        }
        if self.random.chance(50) {
            self.intrude(node);
        }
        let read = self.ticket(node, Asked::Read { acked: self.judge.acked_by_now() });
        if !self.asleep(node) {
            self.with(node, life, |running| running.replica.catch_up(read, GroupId(0), now_ms + 2000));
        }
        let delay = self.random.range(20_000, 200_000);
        self.after(delay, Event::Write);
    }

    /// A new question.
    pub(super) fn ticket(&mut self, node: usize, asked: Asked) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.asked.insert((node, self.machines[node].life, ticket), asked);
        ticket
    }

    pub(super) fn submitted(&mut self, node: usize, ticket: Ticket, answer: Submitted) {
        let life = self.machines[node].life;
        match (self.asked.remove(&(node, life, ticket)), answer) {
            (Some(Asked::Write { key }), Ok(ControlOutcome::Done { revision, .. })) => {
                self.judge.acked(key, revision);
            }
            (Some(Asked::Write { key }), Err(SubmitError::NotDone(_) | SubmitError::NoMember)) => {
                self.judge.not_done(key)
            }
            (Some(Asked::Session { client }), Ok(ControlOutcome::Done { revision, .. })) => {
                self.session_opened(client, SessionId(revision.0));
            }
            (Some(Asked::Request { client, request, key }), Ok(outcome)) => {
                self.request_answered(client, request, key, outcome);
            }
            (Some(Asked::Read { acked }), Ok(_)) => {
                let Some(Process { core: Core::Running(running), .. }) = &self.machines[node].process else { return };
                let table = running.replica.control().clone();
                self.judge.nothing_lost(&table, node, acked);
                self.judge.nothing_twice(&table);
            }
            _ => {}
        }
    }

    /// The operator leaves every pool with servers that take clients.
    fn tidy_up(&mut self) {
        for node in 0..self.machines.len() {
            for pool in POOLS.map(PoolId::of) {
                for number in 1..=2 {
                    let changes = [ServerChange::Add(server(number, 0)), ServerChange::Enable(format!("s{number}"))];
                    for change in changes {
                        self.submit(node, ControlCommand::Server { pool, change });
                    }
                }
            }
        }
    }

    pub(super) fn operate(&mut self) {
        if self.calm {
            self.tidy_up();
            return;
        }
        let node = self.random.below(self.machines.len() as u64) as usize;
        let number = self.random.below(6) + 1;
        let name = format!("s{number}");
        if self.random.chance(60) {
            self.close_a_session(node);
        }
        let change = match self.random.below(11) {
            0..=3 => Some(ServerChange::Add(server(number, if self.random.chance(300) { 100 } else { 0 }))),
            4..=6 => Some(ServerChange::Remove(name)),
            7 => Some(ServerChange::Drain(name)),
            8 | 9 => Some(ServerChange::Enable(name)),
            _ => None,
        };
        let pool = POOLS[self.random.below(POOLS.len() as u64) as usize];
        match change {
            Some(change) => self.change_server(node, pool, change),
            None => self.unpin(node),
        }
        let delay = self.random.range(100_000, 1_500_000);
        self.after(delay, Event::Operate);
    }

    pub(super) fn change_server(&mut self, node: usize, pool: &str, change: ServerChange) {
        // Somebody must be left to choose.
        let left = self.servers_left(node, pool);
        let takes_away = matches!(change, ServerChange::Remove(_) | ServerChange::Drain(_));
        if !(takes_away && left <= 2) {
            self.say(|| format!("operator at {}: {pool} {change:?}", self.machines[node].label));
            self.submit(node, ControlCommand::Server { pool: PoolId::of(pool), change });
        }
    }

    /// The operator deletes some pins; of some of them only an older revision, which must change nothing.
    pub(super) fn unpin(&mut self, node: usize) {
        if self.asleep(node) {
            return;
        }
        let life = self.machines[node].life;
        let now_ms = self.machines[node].now_ms(self.now_us);
        for _ in 0..UNPINS {
            let number = self.random.next();
            let found = if self.random.chance(500) { self.judge.outdated(number) } else { self.judge.pinned(number) };
            let Some((key, revision)) = found else { continue };
            self.judge.unpinned(key, revision);
            self.say(|| format!("operator at {}: unpin {} of {revision}", self.machines[node].label, key.client()));
            self.next_ticket += 1;
            let ticket = Ticket(self.next_ticket);
            self.asked.insert((node, life, ticket), Asked::Other);
            self.with(node, life, |running| running.replica.unpin(ticket, key, revision, now_ms + 1000));
        }
    }

    /// The next step of replacing a member: out with the old one, in with the new one, a vote for it.
    pub(super) fn replace(&mut self, node: usize, old: InstanceId) {
        let count = self.machines.len() as u64;
        let at = (node + 1 + self.random.below(count - 1) as usize) % count as usize;
        let label = self.machines[node].label.clone();
        if let Some(Process { core: Core::Running(running), .. }) = &self.machines[at].process {
            let member = running.control.member_by_label(&label).map(|(id, member)| (id, member.voter));
            let command = match member {
                Some((id, _)) if id == old => ControlCommand::MemberRemove(id),
                Some((_, true)) => {
                    self.replaced.insert(node, self.now_us);
                    return;
                }
                Some((id, false)) => ControlCommand::MemberPromote(id),
                None => ControlCommand::MemberAdd(address(&label)),
            };
            self.say(|| format!("operator at {}: {command:?}", self.machines[at].label));
            self.submit(at, command);
        }
        self.after(300_000, Event::Replace { node, old });
    }

    fn servers_left(&self, node: usize, pool: &str) -> usize {
        let Some(Process { core: Core::Running(running), .. }) = &self.machines[node].process else { return 0 };
        let Some(pool) = running.control.pool(PoolId::of(pool)) else { return 0 };
        let good = |server: &&ServerSpec| {
            server.state == ServerState::Enabled && !self.dead.contains(&server.socket_address())
        };
        pool.spec.servers.iter().filter(good).count()
    }

    pub(super) fn submit(&mut self, node: usize, command: ControlCommand) {
        if self.asleep(node) {
            return;
        }
        let life = self.machines[node].life;
        let now_ms = self.machines[node].now_ms(self.now_us);
        let ticket = self.ticket(node, Asked::Other);
        self.with(node, life, |running| running.replica.submit(ticket, &command, now_ms + 2000, false, None));
    }
}

/// So many pins are deleted at once.
const UNPINS: usize = 6;
