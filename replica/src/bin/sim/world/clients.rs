//! Backends, the probes that look at them, and clients that come to all instances at once.

use super::*;

impl World {
    pub(super) fn reachable(&self, node: usize, address: SocketAddr) -> bool {
        !self.dead.contains(&address) && !self.skewed.contains(&(node, address))
    }

    pub(super) fn address_of(&self, node: usize, backend: BackendId) -> Option<SocketAddr> {
        let Some(Process { core: Core::Running(running), .. }) = &self.machines[node].process else { return None };
        running.control.backend(backend).map(|(_, server)| server.socket_address())
    }

    pub(super) fn probe_newcomers(&mut self, node: usize, table: &flow::ControlTable) {
        let life = self.machines[node].life;
        let Some(running) = self.machines[node].running() else { return };
        let mut new = Vec::new();
        for (_, pool) in table.pools() {
            for server in &pool.spec.servers {
                let id = flow::control::identity(&pool.spec, server);
                running.health.entry(id).or_insert_with(|| {
                    new.push(id);
                    HealthCounter::new(2, 2)
                });
            }
        }
        for backend in new {
            let delay = self.random.below(50_000);
            self.after(delay, Event::Probe { node, life, backend, now: false });
        }
    }

    pub(super) fn poll_all_probes(&mut self, node: usize) {
        let Some(running) = self.machines[node].running() else { return };
        let table = running.control.clone();
        self.probe_newcomers(node, &table);
    }

    pub(super) fn probe(&mut self, node: usize, life: u64, backend: BackendId, now: bool) {
        if self.machines[node].life != life {
            return;
        }
        if self.asleep(node) {
            let until = self.machines[node].paused_until_us;
            self.at(until + 3, Event::Probe { node, life, backend, now });
            return;
        }
        let Some(address) = self.address_of(node, backend) else {
            if let Some(running) = self.machines[node].running()
                && !now
            {
                running.health.remove(&backend);
            }
            return;
        };
        let ok = self.reachable(node, address);
        self.with(node, life, |running| {
            let Some(counter) = running.health.get_mut(&backend) else { return };
            let change = if now && !ok { counter.fail_now() } else { counter.observe(ok) };
            if let Some(view) = change {
                running.replica.handle_view(backend, view);
            }
        });
        if !now {
            let delay = self.random.range(250_000, 350_000);
            self.after(delay, Event::Probe { node, life, backend, now: false });
        }
    }

    pub(super) fn visit(&mut self) {
        if self.clients < 60 && self.random.chance(300) {
            self.clients += 1;
        }
        let client = self.random.below(self.clients.max(4));
        let pool = PoolId::of(POOLS[self.random.below(POOLS.len() as u64) as usize]);
        let key = PinKey::new(pool, [10, 0, 0, client as u8 + 1].into());
        // In steady times a client that was answered a short while ago is answered without waiting.
        let before = self.visited.insert(key, self.now_us);
        let steady = self.calm && before.is_some_and(|at_us| at_us > self.healed_at_us + SETTLE_US);
        let answered = self.judge.last(&key).is_some_and(|(at_us, _)| before.is_some_and(|before| at_us >= before));
        let pause_us = self.now_us - before.unwrap_or(0);
        let prompt = steady && answered && (300_000..1_200_000).contains(&pause_us);
        for node in 0..self.machines.len() {
            let delay = self.random.below(3_000);
            self.after(delay, Event::Ask { node, key, prompt });
        }
        let delay = self.random.range(2_000, 25_000);
        self.after(delay, Event::Visit);
    }

    /// Whether an ask of that time came after all was healed, and early enough to be answered before the end.
    fn must_be_answered(&self, at_us: u64) -> bool {
        self.calm && at_us > self.healed_at_us + SETTLE_US && at_us + PATIENCE_MS * 1000 <= self.end_us
    }

    pub(super) fn ask(&mut self, node: usize, key: PinKey, prompt: bool) {
        if self.asleep(node) {
            return;
        }
        let life = self.machines[node].life;
        let now_ms = self.machines[node].now_ms(self.now_us);
        let counted = self.must_be_answered(self.now_us);
        let serving = !self.wiped.contains(&node);
        if counted && serving {
            self.asks_after += 1;
        }
        let Some(running) = self.machines[node].running() else { return };
        if let Some(found) = running.look_up(&key, now_ms) {
            if found.touch {
                running.replica.touch(key);
            }
            let pin = Pin { backend: found.target.backend, ..found.pin };
            self.answered(node, key, pin, self.now_us, false);
            return;
        }
        let group = running.replica.group_of(&key);
        let view = &running.views[group.0 as usize - 1];
        let (answer, bound, time) = (view.answer(&key, now_ms), view.lease.log_time_bound(now_ms), view.table.time());
        self.say(|| {
            format!("{} must ask for {}: {answer:?} at {time}, bound {bound}", self.machines[node].label, key.client())
        });
        if prompt && serving {
            self.judge.blame(format!("a steady client, {}, has to wait at {node}: {answer:?}", key.client()));
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.asked.insert((node, life, ticket), Asked::Choice { key, at_us: self.now_us, retried: false });
        self.with(node, life, |running| running.replica.choose(ticket, key, None, now_ms + PATIENCE_MS));
    }

    pub(super) fn chosen(&mut self, node: usize, ticket: Ticket, answer: replica::Chosen) {
        let life = self.machines[node].life;
        let Some(Asked::Choice { key, at_us, retried }) = self.asked.remove(&(node, life, ticket)) else { return };
        match answer {
            Ok(answer) => self.answered(node, key, answer.pin, at_us, retried),
            Err(refusal) => {
                if self.calm && at_us > self.healed_at_us + SETTLE_US {
                    self.say(|| format!("{} refuses {}: {refusal:?}", self.machines[node].label, key.client()));
                    self.say(|| self.tell_pool(node, key));
                }
            }
        }
    }

    /// What an instance knows of the servers of a key's pool.
    fn tell_pool(&self, node: usize, key: PinKey) -> String {
        let mut text = String::new();
        let Some(Process { core: Core::Running(running), .. }) = &self.machines[node].process else { return text };
        let Some(pool) = running.control.pool(key.pool) else { return text };
        let group = running.replica.group_of(&key);
        let view = &running.views[group.0 as usize - 1];
        let (epoch, copied) = (running.control.epoch(), view.table.epoch());
        text += &format!("  {} in epoch {epoch}, in group {group} {copied}", pool.spec.name);
        for server in &pool.spec.servers {
            let id = flow::control::identity(&pool.spec, server);
            let votes: Vec<_> = running.control.votes(id).map(|(voter, vote)| (voter.0, vote.view)).collect();
            text += &format!(
                "\n    {} {} {:?} verdict {} in group {:?} votes {votes:?} sees {:?}",
                server.name,
                server.socket_address(),
                server.state,
                running.control.verdict(id).view,
                view.table.backend(id).map(|state| state.standing),
                running.health.get(&id).map(HealthCounter::view)
            );
        }
        text
    }

    /// The instance has a backend for the client, and connects.
    fn answered(&mut self, node: usize, key: PinKey, pin: Pin, at_us: u64, retried: bool) {
        let life = self.machines[node].life;
        let backend = pin.backend;
        let Some(address) = self.address_of(node, backend) else { return };
        if !self.reachable(node, address) {
            if retried {
                return;
            }
            // Refused: a vote, probes everywhere, and the connection waits for another choice.
            let now_ms = self.machines[node].now_ms(self.now_us);
            self.next_ticket += 1;
            let ticket = Ticket(self.next_ticket);
            self.asked.insert((node, life, ticket), Asked::Choice { key, at_us, retried: true });
            self.with(node, life, |running| {
                if let Some(view) = running.health.get_mut(&backend).and_then(HealthCounter::fail_now) {
                    running.replica.handle_view(backend, view);
                }
                running.replica.ask_for_probes(backend);
                running.replica.choose(ticket, key, Some(backend), now_ms + PATIENCE_MS);
            });
            return;
        }
        let Some(running) = self.machines[node].running() else { return };
        let group = running.replica.group_of(&key);
        if self.must_be_answered(at_us) {
            self.answered_after += 1;
        }
        self.mix(backend.0);
        self.say(|| format!("{} sends {} to {backend:?} {address}", self.machines[node].label, key.client()));
        self.judge.answer(key, group, &pin, node, self.now_us, TTL_MS * 1000);
    }
}
