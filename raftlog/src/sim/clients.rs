//! Clients of a simulated fleet: each asks for one thing at a time, and asks again until it gets an answer or gives up.

use ahash::AHashMap;

use super::{
    node::Process,
    random::Random,
    table::{Answer, Change, KEYS, Request},
    world::{Event, World},
};
use crate::{
    driver::Rejection,
    types::{GroupId, NodeId},
};

/// All clients.
pub struct Clients {
    all: Vec<Client>,
    last_token: u64,
    /// Every attempt that may still be answered, by token.
    attempts: AHashMap<u64, Attempt>,
    think_us: u64,
}

struct Client {
    /// What it wants now.
    wish: Option<Wish>,
    number: u64,
    /// After the faults it asks for one thing more.
    is_done: bool,
}

struct Wish {
    group: GroupId,
    key: u8,
    /// None: a read.
    request: Option<Request>,
    /// The least version that the answer may tell of.
    floor: u64,
    tries: u32,
    /// The attempt under way.
    token: u64,
}

/// One attempt at what a client wants.
struct Attempt {
    client: usize,
    number: u64,
    /// What was known to be committed when it was made, and told to anybody.
    committed: u64,
    floor: u64,
}

impl Clients {
    pub fn new(random: &mut Random) -> Self {
        let client = || Client { wish: None, number: 0, is_done: false };
        let think_us = random.pick(&[1_000, 5_000, 20_000]).unwrap_or(5_000);
        let all = (0..random.range(2, 7)).map(|_| client()).collect();
        Self { all, last_token: 0, attempts: AHashMap::new(), think_us }
    }

    /// Whether nobody waits for anything, nor will.
    pub fn are_done(&self) -> bool {
        self.all.iter().all(|client| client.is_done && client.wish.is_none())
    }

    /// What those who wait wait for.
    pub fn waiting(&self) -> Vec<String> {
        let waiting = self.all.iter().enumerate().filter(|(_, client)| client.wish.is_some() || !client.is_done);
        waiting
            .map(|(number, client)| format!("client {number}: {:?}", client.wish.as_ref().map(|w| w.group)))
            .collect()
    }
}

impl World {
    pub fn begin_clients(&mut self) {
        for client in 0..self.clients.all.len() {
            let delay_us = self.random.below(500_000);
            self.after(delay_us, Event::Ask { client });
        }
    }

    /// A client wants something new.
    pub fn ask(&mut self, client: usize) {
        let calm = self.is_calm();
        let known = &mut self.clients.all[client];
        if known.wish.is_some() || known.is_done {
            return;
        }
        known.is_done = calm;
        known.number += 1;
        let number = known.number;
        let random = &mut self.random;
        let group = GroupId(random.below(u64::from(self.setup.groups)) as u32);
        let key = random.below(KEYS as u64) as u8;
        let floor = self.judge.floor(group, key);
        let value = random.next();
        let change = match random.below(4) {
            _ if calm => Some(Change::Put(value)),
            0 => Some(Change::Put(value)),
            1 => Some(Change::Append(value)),
            2 => Some(Change::Swap { version: floor, value }),
            _ => None,
        };
        let padding = random.below(u64::from(self.setup.padding)) as u16;
        let request = change.map(|change| Request { client: client as u32, number, key, change, padding });
        self.clients.all[client].wish = Some(Wish { group, key, request, floor, tries: 0, token: 0 });
        self.attempt(client);
    }

    fn attempt(&mut self, client: usize) {
        self.attempt_at(client, None);
    }

    /// Asks at some machine, or at this one.
    fn attempt_at(&mut self, client: usize, at: Option<usize>) {
        self.clients.last_token += 1;
        let token = self.clients.last_token;
        let now_us = self.now_us;
        let awake: Vec<usize> = (0..self.machines.len()).filter(|node| self.machines[*node].awake(now_us)).collect();
        let chosen = at.filter(|node| awake.contains(node)).or_else(|| self.random.pick(&awake));
        let timeout_us = if self.setup.is_wide { 1_500_000 } else { self.random.range(100_000, 600_000) };
        let Some(wish) = &mut self.clients.all[client].wish else { return };
        wish.token = token;
        wish.tries += 1;
        let (group, key, tries) = (wish.group, wish.key, wish.tries);
        let request = wish.request.map(|request| request.encode());
        let number = self.clients.all[client].number;
        let attempt =
            Attempt { client, number, committed: self.judge.committed(group), floor: self.judge.floor(group, key) };
        self.clients.attempts.insert(token, attempt);
        self.after(timeout_us, Event::Late { client, token });
        let Some(mut node) = chosen else { return };
        if at.is_none()
            && tries.is_multiple_of(2)
            && let Some(leader) = self.leader_known_at(node, group)
            && self.machines[leader].awake(now_us)
        {
            node = leader;
        }
        let life = self.machines[node].life;
        self.say(|_| format!("client {client} asks machine {node}, group {group}, key {key}, token {token}"));
        match request {
            Some(data) => {
                self.with(node, life, |driver| driver.propose(group, token, data));
            }
            None => {
                if self.with(node, life, |driver| driver.read_index(group, token)) == Some(false) {
                    self.after(20_000, Event::Late { client, token });
                }
            }
        }
    }

    /// All who wait ask again, some of them there.
    pub fn poke_clients(&mut self, node: usize) {
        for client in 0..self.clients.all.len() {
            if self.clients.all[client].wish.is_some() {
                let at = self.random.chance(700).then_some(node);
                self.attempt_at(client, at);
            }
        }
    }

    fn leader_known_at(&self, node: usize, group: GroupId) -> Option<usize> {
        let process = self.machines[node].process.as_ref()?;
        process.driver.leader(group).and_then(|id: NodeId| self.place(id))
    }

    /// No answer came to an attempt.
    pub fn late(&mut self, client: usize, token: u64) {
        let calm = self.is_calm();
        let Some(wish) = self.clients.all[client].wish.as_ref().filter(|wish| wish.token == token) else { return };
        if wish.tries > TRIES_MAX && !calm {
            // Nobody knows what becomes of it: it may be done later.
            self.clients.all[client].wish = None;
            return self.after(0, Event::Ask { client });
        }
        self.attempt(client);
    }

    /// An attempt was refused for certain.
    pub fn rejected(&mut self, token: u64, reason: Rejection) {
        let Some(attempt) = self.clients.attempts.get(&token) else { return };
        let client = attempt.client;
        let delay_us = reason.retry_after_ms().unwrap_or(1) * 1000;
        self.after(delay_us, Event::Late { client, token });
    }

    /// The entry that an attempt proposed was applied where it was proposed.
    pub fn answered(&mut self, token: u64, answer: &Answer) {
        let Some(attempt) = self.clients.attempts.get(&token) else { return };
        let (client, number) = (attempt.client, attempt.number);
        let known = &mut self.clients.all[client];
        if known.number != number || answer.number != number {
            return;
        }
        let Some(wish) = known.wish.take() else { return };
        let floor = wish.floor + u64::from(answer.changed);
        self.judge.told(wish.group, wish.key, floor, answer.version, answer.value);
        self.counts.answers += 1;
        self.next_wish(client);
    }

    /// A read was proven: it is answered once the table has come so far.
    pub fn read_proven(&mut self, process: &mut Process, group: GroupId, token: u64, index: u64) {
        let Some(attempt) = self.clients.attempts.get(&token) else { return };
        if index < attempt.committed {
            let text =
                format!("a read of group {group} is proven at {index}, when {} was committed", attempt.committed);
            self.judge.blame(text);
        }
        process.reads.push((group, index, token));
    }

    /// Answers the reads whose index is applied.
    pub fn answer_reads(&mut self, process: &mut Process) {
        let mut place = 0;
        while let Some((group, index, token)) = process.reads.get(place).copied() {
            if process.applied(group) < index {
                place += 1;
                continue;
            }
            process.reads.swap_remove(place);
            self.answer_read(process, group, token);
        }
    }

    fn answer_read(&mut self, process: &Process, group: GroupId, token: u64) {
        let Some(attempt) = self.clients.attempts.get(&token) else { return };
        let (client, floor, number) = (attempt.client, attempt.floor, attempt.number);
        let known = &mut self.clients.all[client];
        if known.number != number {
            return;
        }
        let Some(wish) = known.wish.take() else { return };
        let (version, value) = process.groups[group.0 as usize].table.read(wish.key);
        self.judge.told(group, wish.key, floor, version, value);
        self.counts.answers += 1;
        self.counts.reads += 1;
        self.next_wish(client);
    }

    fn next_wish(&mut self, client: usize) {
        let think_us = self.clients.think_us;
        let delay_us = self.random.below(think_us);
        self.after(delay_us, Event::Ask { client });
    }
}

/// A client gives up after so many attempts.
const TRIES_MAX: u32 = 6;
