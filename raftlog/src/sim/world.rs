//! A simulated fleet: its time, its network, its machines, and what their drivers ask for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    clients::Clients,
    faults::{Fault, Weather},
    judge::{Judge, Look},
    node::{Arrived, Hosted, Machine, Place, Process, Work},
    random::{Random, hash, mix},
    setup::Setup,
    store::{Refusal, Store},
};
use crate::{
    Driver,
    disk::MemDisk,
    driver::{Action, Content, Install, Members},
    types::{GroupId, Index, NodeId, State},
    wal::WalError,
};

/// A fleet and all that happens to it.
pub struct World {
    pub setup: Setup,
    pub random: Random,
    pub now_us: u64,
    pub steps: u64,
    /// A hash of all that happened.
    pub trace: u64,
    pub machines: Vec<Machine>,
    pub judge: Judge,
    pub clients: Clients,
    pub weather: Weather,
    /// Who is to be a member.
    pub wanted: BTreeSet<NodeId>,
    pub last_id: u64,
    /// No more faults: since when.
    pub calm_since_us: Option<u64>,
    pub is_over: bool,
    pub counts: Counts,
    /// What happened, if somebody wants to know.
    pub story: Option<Vec<String>>,
    places: BTreeMap<NodeId, usize>,
    events: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    /// When the last frame from one machine to another arrives, where frames keep their order.
    arrivals: Vec<u64>,
}

/// What happened how often.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub crashes: u64,
    pub refused_logs: u64,
    pub member_changes: u64,
    pub answers: u64,
    pub reads: u64,
    pub snapshots: u64,
    pub restores: u64,
    pub log_reads: u64,
    pub elections: u64,
}

struct Timed {
    at_us: u64,
    sequence: u64,
    event: Event,
}

/// One thing that happens.
pub enum Event {
    Tick {
        node: usize,
        life: u64,
    },
    Frame {
        from: NodeId,
        to: NodeId,
        frame: Bytes,
    },
    /// The log thread has a batch on disk, or read.
    Log {
        node: usize,
        life: u64,
    },
    Store(Box<Storing>),
    Snapshot(Box<Travel>),
    /// The sender of a snapshot learns what became of it.
    Sent {
        node: usize,
        life: u64,
        group: GroupId,
        to: NodeId,
        arrived: bool,
    },
    LinkDown {
        node: usize,
        life: u64,
        peer: NodeId,
        gone: bool,
    },
    Ask {
        client: usize,
    },
    Late {
        client: usize,
        token: u64,
    },
    Fault,
    Then(Fault),
    Members,
    Start {
        node: usize,
    },
    /// Whether all is well again.
    Look,
}

/// A snapshot that is being stored.
pub struct Storing {
    node: usize,
    life: u64,
    place: Place,
    meta: Bytes,
    state: Arc<dyn State>,
    works: bool,
}

/// A snapshot on its way.
pub struct Travel {
    node: usize,
    life: u64,
    from: NodeId,
    to: NodeId,
    place: Place,
    message: Bytes,
    bytes: Bytes,
}

impl World {
    pub fn new(seed: u64, verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let setup = Setup::draw(&mut random);
        let founders: Vec<NodeId> = (1..=setup.founders).map(NodeId).collect();
        let members = Members { voters: founders.iter().copied().collect(), ..Members::default() };
        let mut weather = Weather::draw(&mut random, &setup);
        if setup.founders == 1 {
            weather.double_per_mille = 0;
        }
        let machines: Vec<Machine> = (0..setup.machines).map(|_| Machine::new()).collect();
        let mut world = Self {
            judge: Judge::new(setup.groups, &Rc::new(members), weather.doubles),
            clients: Clients::new(&mut random),
            weather,
            wanted: founders.iter().copied().collect(),
            last_id: setup.founders,
            arrivals: vec![0; machines.len() * machines.len()],
            machines,
            setup,
            random,
            now_us: 0,
            steps: 0,
            trace: 0,
            calm_since_us: None,
            is_over: false,
            counts: Counts::default(),
            story: verbose.then(Vec::new),
            places: BTreeMap::new(),
            events: BinaryHeap::new(),
            sequence: 0,
        };
        for (node, id) in founders.iter().enumerate() {
            world.machines[node].founder = true;
            world.settle_in(node, *id);
            world.start(node);
        }
        world.begin_clients();
        world.after(0, Event::Fault);
        world.after(200_000, Event::Members);
        world
    }

    /// Until something is wrong, or all was well in the end.
    pub fn run(&mut self) {
        while self.judge.violations.is_empty() && !self.is_over {
            let Some(Reverse(Timed { at_us, event, .. })) = self.events.pop() else { break };
            self.now_us = at_us;
            self.steps += 1;
            self.trace = mix(self.trace, at_us);
            self.happen(event);
            if self.calm_since_us.is_none() && self.steps >= self.setup.fault_steps {
                self.heal();
            }
            if self.steps > STEPS_MAX {
                self.judge.blame("it does not end".to_owned());
            }
        }
    }

    /// Says what happens, if anybody listens.
    pub fn say(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.story.is_none() {
            return;
        }
        let line = format!("{:>7} {:>9} us  {}", self.steps, self.now_us, text(self));
        if let Some(story) = &mut self.story {
            story.push(line);
        }
    }

    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.sequence += 1;
        let timed = Timed { at_us: self.now_us + delay_us, sequence: self.sequence, event };
        self.events.push(Reverse(timed));
    }

    pub fn is_calm(&self) -> bool {
        self.calm_since_us.is_some()
    }

    fn happen(&mut self, event: Event) {
        let place = match &event {
            Event::Frame { to, .. } => self.places.get(to).copied(),
            Event::Tick { node, .. } | Event::Log { node, .. } | Event::Sent { node, .. } => Some(*node),
            Event::LinkDown { node, .. } => Some(*node),
            Event::Store(storing) => Some(storing.node),
            _ => None,
        };
        // What a stopped process is to see waits for it.
        if let Some(until) = place.map(|node| self.machines[node].paused_until_us).filter(|until| *until > self.now_us)
        {
            let lag_us = match (&event, place) {
                (Event::Frame { .. }, Some(node)) => self.machines[node].wakes_us,
                _ => 0,
            };
            return self.after(until - self.now_us + lag_us, event);
        }
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Frame { from, to, frame } => self.frame(from, to, &frame),
            Event::Log { node, life } => self.log(node, life),
            Event::Store(storing) => self.store(*storing),
            Event::Snapshot(travel) => self.snapshot_arrives(*travel),
            Event::Sent { node, life, group, to, arrived } => {
                self.with(node, life, |driver| driver.handle_snapshot_sent(group, to, arrived));
            }
            Event::LinkDown { node, life, peer, gone } => {
                self.with(node, life, |driver| driver.handle_peer_down(peer, gone));
            }
            Event::Ask { client } => self.ask(client),
            Event::Late { client, token } => self.late(client, token),
            Event::Fault => self.next_fault(),
            Event::Then(fault) => self.fault(fault),
            Event::Members => self.drive_members(),
            Event::Start { node } => self.start(node),
            Event::Look => self.look_around(),
        }
    }

    /// A machine is somebody from now on.
    pub fn settle_in(&mut self, node: usize, id: NodeId) {
        self.places.insert(id, node);
        self.machines[node].id = Some(id);
        self.machines[node].disk = MemDisk::new();
        self.machines[node].remains = None;
    }

    /// A machine is nobody any more.
    pub fn move_out(&mut self, node: usize) {
        if let Some(id) = self.machines[node].id.take() {
            self.places.remove(&id);
        }
        self.machines[node].process = None;
        self.machines[node].remains = None;
        self.machines[node].founder = false;
    }

    pub fn place(&self, id: NodeId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// A process starts where none is.
    pub fn start(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let Some(id) = machine.id.filter(|_| machine.process.is_none()) else { return };
        machine.disk.limit(None);
        machine.disk.fail_sync_after(u64::MAX);
        let all: Vec<NodeId> = (1..=self.setup.founders).map(NodeId).collect();
        let founders = if machine.founder { all.as_slice() } else { &[] };
        let options = self.setup.wal_options(id);
        let found = Store::open(&machine.disk, options, self.setup.groups, founders, &mut machine.remains);
        let damaged = std::mem::take(&mut machine.damaged);
        let found = match found {
            Ok(found) => found,
            // Somebody makes room, and it is started again.
            Err(Refusal::Files(WalError::NoSpace { .. })) => {
                machine.damaged = damaged;
                return self.after(FULL_RETRY_US, Event::Start { node });
            }
            Err(Refusal::Files(error)) if damaged => return self.lose(node, &error),
            Err(Refusal::Files(error)) => return self.judge.blame(format!("{id} does not start: {error}")),
            Err(Refusal::Wrong(text)) => return self.judge.blame(format!("{id} does not start: {text}")),
        };
        machine.remains = None;
        machine.life += 1;
        machine.paused_until_us = 0;
        let life = machine.life;
        let config = self.setup.driver_config(id, life);
        let driver = match Driver::new(config, found.starts) {
            Ok(driver) => driver,
            Err(error) => return self.judge.blame(format!("{id} does not start: {error}")),
        };
        self.judge.disks.insert(id, Rc::clone(&found.store.durable));
        let mut groups = Vec::new();
        for (group, table) in (0..).map(GroupId).zip(found.tables) {
            let members = Rc::new(driver.members(group).unwrap_or_default());
            if table.index > 0 {
                self.judge.restored(id, group, table.index, table.digest(), &members);
            }
            let seen = driver.glance(group).unwrap_or_default();
            let members_before = Rc::clone(&members);
            groups.push(Hosted { table, seen, members, members_before });
        }
        self.say(|_| format!("{id} starts"));
        self.machines[node].process = Some(Box::new(Process {
            driver,
            store: found.store,
            groups,
            queue: Default::default(),
            working: false,
            full: false,
            reads: Vec::new(),
            files: Vec::new(),
            restores: Vec::new(),
        }));
        let first = self.random.below(10_000);
        self.after(first, Event::Tick { node, life });
        self.with(node, life, |_| {});
    }

    fn tick(&mut self, node: usize, life: u64) {
        if self.machines[node].life != life || self.machines[node].process.is_none() {
            return;
        }
        let next_us = self.machines[node].next_tick_us(self.now_us);
        self.after(next_us - self.now_us, Event::Tick { node, life });
        self.with(node, life, Driver::handle_tick);
    }

    fn frame(&mut self, from: NodeId, to: NodeId, frame: &Bytes) {
        self.trace = mix(self.trace, hash(frame));
        let Some(node) = self.place(to) else { return };
        let life = self.machines[node].life;
        self.with(node, life, |driver| driver.handle_frame(from, frame));
    }

    /// Something happens to a driver; then all is done that it asks for.
    pub fn with<R>(&mut self, node: usize, life: u64, act: impl FnOnce(&mut Driver) -> R) -> Option<R> {
        if self.machines[node].life != life {
            return None;
        }
        let mut process = self.machines[node].process.take()?;
        process.driver.set_now(self.machines[node].now_ms(self.now_us));
        let result = act(&mut process.driver);
        self.finish(node, process);
        Some(result)
    }

    /// Does what a driver asks for, looks at what became of it, and puts the process back.
    fn finish(&mut self, node: usize, mut process: Box<Process>) {
        loop {
            let actions = process.driver.poll();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.carry_out(node, &mut process, action);
            }
            self.look(node, &mut process);
        }
        if !process.reads.is_empty() {
            self.answer_reads(&mut process);
        }
        process.driver.check_invariants();
        self.machines[node].process = Some(process);
        self.work(node);
    }

    fn look(&mut self, node: usize, process: &mut Process) {
        let Some(id) = self.machines[node].id else { return };
        for (group, hosted) in (0..).map(GroupId).zip(&mut process.groups) {
            let now = process.driver.glance(group).unwrap_or_default();
            if now != hosted.seen {
                self.counts.elections += u64::from(now.leads && !hosted.seen.leads);
                let members = [&hosted.members, &hosted.members_before];
                let look = Look { id, given: &process.store.given, members };
                self.judge.look(group, &look, &hosted.seen, &now);
                hosted.seen = now;
            }
            if !Rc::ptr_eq(&hosted.members, &hosted.members_before) {
                hosted.members_before = Rc::clone(&hosted.members);
            }
        }
    }

    fn carry_out(&mut self, node: usize, process: &mut Process, action: Action) {
        let Some(id) = self.machines[node].id else { return };
        self.say(|_| format!("{id}: {action:?}"));
        match action {
            Action::Apply { group, entries } => {
                for entry in entries {
                    self.apply(id, process, group, &entry);
                }
            }
            Action::Restore { group, index } => self.restore(id, process, group, index),
            Action::Snapshot { group } => {
                let state = Arc::new(process.groups[group.0 as usize].table.clone());
                process.driver.snapshot(group, Index(state.index), state);
            }
            Action::StoreSnapshot { group, index, term, meta, state } => {
                let delay_us = self.random.range(100, 30_000);
                let works = !self.random.chance(self.weather.store_fails_per_mille);
                let (life, place) = (self.machines[node].life, Place { group, index, term });
                self.after(delay_us, Event::Store(Box::new(Storing { node, life, place, meta, state, works })));
            }
            Action::Persist { round, records, installs, sync } => {
                self.judge.handed_to_log(id, &records);
                process.store.given.append(&records);
                process.queue.push_back(Work::Round { round, records, installs, sync });
            }
            Action::ReadLog { group, from, to, max_bytes } => {
                process.queue.push_back(Work::Read { group, from, to, max_bytes });
            }
            Action::Send { to, frame } => self.send(node, id, to, frame),
            Action::SendSnapshot { to, group, index, term, message } => {
                let place = Place { group, index, term };
                let bytes = process.store.raw(group, index, term);
                self.send_snapshot(node, to, place, message, bytes);
            }
            Action::Rejected { group, token, reason } => {
                self.judge.refused(group, token);
                self.rejected(token, reason);
            }
            Action::ReadReady { group, context, index } => {
                self.read_proven(process, group, context, index.0);
            }
            Action::Broken { why, .. } => self.judge.blame(format!("{id} gives up: {why}")),
            Action::Word { .. } | Action::Role { .. } => {}
        }
    }

    fn apply(&mut self, id: NodeId, process: &mut Process, group: GroupId, entry: &crate::driver::Committed) {
        let hosted = &mut process.groups[group.0 as usize];
        if entry.index.0 != hosted.table.index + 1 {
            let last = hosted.table.index;
            return self.judge.blame(format!("{id} applies entry {} of group {group} after {last}", entry.index));
        }
        let data = match &entry.content {
            Content::Data { data, .. } => Some(data.as_ref()),
            Content::Members(members) => {
                hosted.members = Rc::new(members.clone());
                None
            }
            Content::Empty => None,
        };
        let answer = hosted.table.apply(entry.index.0, data);
        let digest = hosted.table.digest();
        self.judge.applied(id, group, entry, answer.as_ref().map(|(_, answer)| answer), digest);
        if let (Content::Data { origin, token, .. }, Some((_, answer))) = (&entry.content, answer)
            && *origin == id
        {
            self.answered(*token, &answer);
        }
    }

    fn restore(&mut self, id: NodeId, process: &mut Process, group: GroupId, index: Index) {
        let known = process.restores.iter().position(|(of, at, _)| (*of, *at) == (group, index));
        let Some(place) = known else {
            return self.judge.blame(format!("{id} restores group {group} to {index}, which it was not given"));
        };
        let (_, _, table) = process.restores.swap_remove(place);
        let hosted = &mut process.groups[group.0 as usize];
        if table.index <= hosted.table.index {
            let last = hosted.table.index;
            return self.judge.blame(format!("{id} restores group {group} to {index}, after {last}"));
        }
        // The driver may be ahead: of a newer one that came in, or of entries that are to be applied next.
        let newer = process.restores.iter().any(|(of, at, _)| *of == group && *at > index)
            || process.files.iter().any(|arrived| arrived.place.group == group && arrived.place.index > index);
        let ahead = process.driver.glance(group).is_none_or(|glance| glance.applied > index);
        hosted.members = match process.driver.members(group) {
            Some(members) if !newer && !ahead => Rc::new(members),
            _ => Rc::clone(self.judge.members_at(group, index.0)),
        };
        self.judge.restored(id, group, index.0, table.digest(), &hosted.members);
        hosted.table = table;
        self.counts.restores += 1;
    }

    fn send(&mut self, node: usize, from: NodeId, to: NodeId, frame: Bytes) {
        let Some(place) = self.place(to) else { return };
        if self.weather.loses(&mut self.random, node, place) {
            return;
        }
        let copies = 1 + u64::from(self.random.chance(self.weather.double_per_mille));
        for _ in 0..copies {
            let (least, most) = self.weather.delay_us;
            let mut delay_us = self.random.range(least, most);
            if self.weather.in_order {
                let last = &mut self.arrivals[node * self.machines.len() + place];
                *last = (self.now_us + delay_us).max(*last);
                delay_us = *last - self.now_us;
            }
            self.after(delay_us, Event::Frame { from, to, frame: frame.clone() });
        }
    }

    fn send_snapshot(&mut self, node: usize, to: NodeId, place: Place, message: Bytes, bytes: Option<Bytes>) {
        let (Some(from), life) = (self.machines[node].id, self.machines[node].life) else { return };
        let delay_us = self.random.range(500, 50_000) + self.random.range(0, self.weather.delay_us.1);
        let lost = self.random.chance(self.weather.snapshot_lost_per_mille);
        match bytes.filter(|_| !lost) {
            Some(bytes) => {
                let travel = Travel { node, life, from, to, place, message, bytes };
                self.after(delay_us, Event::Snapshot(Box::new(travel)));
            }
            None => self.after(delay_us, Event::Sent { node, life, group: place.group, to, arrived: false }),
        }
    }

    fn snapshot_arrives(&mut self, travel: Travel) {
        let Travel { node, life, from, to, place, message, bytes } = travel;
        let target = self
            .place(to)
            .filter(|target| self.machines[*target].awake(self.now_us) && !self.weather.is_cut(node, *target));
        let arrived = target.is_some_and(|target| self.take_snapshot(target, from, place, &message, bytes));
        // Also the word of its arrival can be lost.
        let known = arrived && !self.random.chance(self.weather.snapshot_lost_per_mille / 4);
        let delay_us = self.random.range(self.weather.delay_us.0, self.weather.delay_us.1);
        self.after(delay_us, Event::Sent { node, life, group: place.group, to, arrived: known });
    }

    /// Whether the snapshot is on disk there, whatever became of it then.
    fn take_snapshot(&mut self, node: usize, from: NodeId, place: Place, message: &[u8], bytes: Bytes) -> bool {
        let Some(mut process) = self.machines[node].process.take() else { return false };
        process.driver.set_now(self.machines[node].now_ms(self.now_us));
        let Place { group, index, term } = place;
        let bytes = self.weather.spoil(&mut self.random, bytes);
        let received = process.store.receive(group, index, term, &bytes);
        let arrived = received.is_ok();
        if let Ok((file, meta, table)) = received
            && process.driver.handle_snapshot(from, group, message, (index, term), &meta)
        {
            // One that was to be installed and was not is void.
            process.files.retain(|arrived| {
                arrived.place.group != group
                    || process
                        .queue
                        .iter()
                        .any(|work| matches!(work, Work::Round { installs, .. } if installs.contains(&arrived.place)))
            });
            process.files.push(Arrived { place: Install { group, index, term }, file, table });
        }
        self.finish(node, process);
        arrived
    }

    fn store(&mut self, storing: Storing) {
        let Storing { node, life, place: Place { group, index, term }, meta, state, works } = storing;
        let Some(process) = self.machines[node].process.as_ref().filter(|_| self.machines[node].life == life) else {
            return;
        };
        let stored = works && process.store.save(group, index, term, &meta, state.as_ref());
        self.counts.snapshots += u64::from(stored);
        self.say(|_| format!("snapshot of {group} at {index} stored on machine {node}: {stored}"));
        self.with(node, life, |driver| driver.handle_snapshot_stored(group, index, stored));
    }

    /// Has the log thread begin what waits for it.
    fn work(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let Some(process) = machine.process.as_mut() else { return };
        if process.working || process.queue.is_empty() {
            return;
        }
        process.working = true;
        let (least, most) = machine.write_us;
        let stalled = machine.stalled_until_us.saturating_sub(self.now_us);
        let full = if process.full { FULL_RETRY_US } else { 0 };
        let (delay_us, life) = (self.random.range(least, most) + stalled + full, machine.life);
        self.after(delay_us, Event::Log { node, life });
    }

    fn log(&mut self, node: usize, life: u64) {
        if self.machines[node].life != life {
            return;
        }
        let Some(mut process) = self.machines[node].process.take() else { return };
        process.driver.set_now(self.machines[node].now_ms(self.now_us));
        process.working = false;
        let outcome = self.log_step(&mut process);
        self.finish(node, process);
        match outcome {
            Ok(()) => {}
            // What is durable is unknown now: the process ends at once.
            Err(error) => self.disk_failed(node, &error),
        }
    }

    fn log_step(&mut self, process: &mut Process) -> Result<(), WalError> {
        if let Some(Work::Read { group, from, to, max_bytes }) =
            process.queue.pop_front_if(|work| matches!(work, Work::Read { .. }))
        {
            let entries = process.store.read(group, from, to, max_bytes)?;
            self.counts.log_reads += 1;
            for (index, term, data) in &entries {
                // What is not there any more was cut off, or covered, since it was asked for.
                let known = process.store.given.entry(group, index.0).and_then(|(held, hash)| Some((held, hash?)));
                if known.is_some_and(|known| known != (*term, hash(data))) {
                    self.judge.blame(format!("entry {index} of group {group} is not read as it was written"));
                }
            }
            process.driver.handle_log_read(group, from, &entries);
            return Ok(());
        }
        let Some(batch) = process.gather(&mut self.random) else { return Ok(()) };
        let files = match process.take_files(&batch.installs) {
            Ok(files) => files,
            Err(install) => {
                self.judge.blame(format!("{install:?} is to be installed, and did not come in"));
                return Ok(());
            }
        };
        match process.store.persist(files, &batch.records, batch.sync) {
            Ok(()) => {
                if std::mem::take(&mut process.full) {
                    process.driver.set_may_lead(true);
                }
                process.driver.handle_persisted(batch.round);
                if let Some((group, through)) = process.store.holding_back() {
                    process.driver.request_snapshot(group, through);
                }
                Ok(())
            }
            Err(WalError::NoSpace { .. }) => {
                // Files have their names by now, if there were any.
                let (round, records, sync) = (batch.round, batch.records, batch.sync);
                process.queue.push_front(Work::Round { round, records, installs: Vec::new(), sync });
                if !std::mem::replace(&mut process.full, true) {
                    process.driver.set_may_lead(false);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.sequence).cmp(&(other.at_us, other.sequence))
    }
}

/// How often a full disk is tried again.
const FULL_RETRY_US: u64 = 20_000;

/// A seed takes a few thousand steps; after so many it does not end.
const STEPS_MAX: u64 = 400_000;
