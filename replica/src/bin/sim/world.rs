//! The world of one seed: instances, wires, backends, clients, and what befalls them.

mod clients;
mod end;
mod faults;
mod flows;
mod operators;
mod outputs;
mod pools;
mod restored;
mod sessions;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use flow::{
    BackendId, Balance, Bind, Commit, ControlCommand, ControlOutcome, HealthCounter, HealthKind, HealthSpec,
    Incarnation, InstanceId, MemberAddress, OnIsolation, Pin, PinKey, PoolId, PoolSpec, Protocol, Request,
    ServerChange, ServerSpec, ServerState, SessionId, SessionOwner, SessionRefusal, SlotTable, control::Vote,
};
use raftlog::{
    GroupId, Index, NodeId, Term,
    driver::{Install, Role},
    types::State,
    wal::WalError,
};
use replica::{Founding, Hello, Output, SubmitError, Submitted, Ticket, storage::store_snapshot};

use self::{faults::Mood, flows::Sniffer, pools::server, sessions::SessionClient};

pub use self::pools::pools;

use crate::{
    check::Judge,
    node::{Core, LEASE_MS, Machine, Packet, Process, Round},
    random::Random,
};

/// Something that happens at a time.
enum Event {
    Tick {
        node: usize,
        life: u64,
    },
    Arrive {
        from: usize,
        to: usize,
        hello: Box<Hello>,
        packet: Packet,
    },
    SnapshotSent {
        node: usize,
        life: u64,
        group: GroupId,
        to: NodeId,
        arrived: bool,
    },
    Persisted {
        node: usize,
        life: u64,
        round: u64,
    },
    /// A snapshot is written to the disk.
    Store {
        node: usize,
        life: u64,
        place: (GroupId, Index, Term),
        meta: Bytes,
        state: Arc<dyn State>,
    },
    Slots {
        node: usize,
        life: u64,
        pool: PoolId,
        members: Vec<(BackendId, u32)>,
        key: [u8; 16],
    },
    Probe {
        node: usize,
        life: u64,
        backend: BackendId,
        now: bool,
    },
    /// What an instance took in by now is carried out.
    Poll {
        node: usize,
        life: u64,
    },
    /// `prompt`: there is no reason to let this one wait.
    Ask {
        node: usize,
        key: PinKey,
        prompt: bool,
    },
    Visit,
    Write,
    Sniff,
    Fault,
    Operate,
    Restart {
        node: usize,
    },
    Birth {
        node: usize,
        life: u64,
    },
    /// A partition ends.
    Mend,
    /// All groups are led by that machine.
    LeadAll {
        node: usize,
    },
    /// A process ends and is back at once.
    Blink {
        node: usize,
    },
    /// Clients are made to move.
    Move {
        node: usize,
    },
    /// An operator replaces the member `old` on that machine, step by step.
    Replace {
        node: usize,
        old: InstanceId,
    },
    /// The disk of a machine is emptied.
    Wipe {
        node: usize,
    },
    /// Dead backends return.
    Return,
    /// A voter goes for longer than its lease.
    Vanish {
        node: usize,
        pause: bool,
    },
    /// This instance alone cannot reach that backend.
    SkewOne {
        node: usize,
        address: SocketAddr,
    },
    Heal,
}

/// What a ticket was asked for.
enum Asked {
    Choice { key: PinKey, at_us: u64, retried: bool },
    Write { key: String },
    Session { client: usize },
    Request { client: usize, request: Request, key: String },
    Read { acked: usize },
    Report { one: usize, epoch: u64, shard: u32, sequence: u64 },
    Other,
}

pub struct World {
    seed: u64,
    random: Random,
    polling: BTreeSet<usize>,
    /// Inputs are taken in batches, as a busy instance does; and who has a batch open.
    batches: bool,
    batched: BTreeSet<usize>,
    /// Machines are configured to other leases when they start again.
    other_leases: bool,
    now_us: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub machines: Vec<Machine>,
    founding: Founding,
    /// Directed pairs that are cut.
    cut: BTreeSet<(usize, usize)>,
    loss_per_mille: u64,
    /// Backends that are down, and one-sided views: (instance, address) that cannot be reached.
    dead: BTreeSet<SocketAddr>,
    skewed: BTreeSet<(usize, SocketAddr)>,
    asked: BTreeMap<(usize, u64, Ticket), Asked>,
    next_ticket: u64,
    session_clients: [SessionClient; sessions::CLIENTS],
    sniffers: [Sniffer; flows::SNIFFERS],
    batches_acked: u64,
    written: u64,
    clients: u64,
    /// When each client came last.
    visited: BTreeMap<PinKey, u64>,
    /// When each instance last heard of each other one, and in which life: (who heard, whom).
    heard: BTreeMap<(usize, NodeId), (u64, Incarnation)>,
    mood: Mood,
    calm: bool,
    /// Answered, refused and late asks since all was healed.
    pub asks_after: u64,
    pub answered_after: u64,
    healed_at_us: u64,
    /// Instances whose disk was emptied, or is to be.
    wiped: BTreeSet<usize>,
    /// Those that are members again, and since when.
    replaced: BTreeMap<usize, u64>,
    pub judge: Judge,
    pub steps: u64,
    pub trace: u64,
    verbose: bool,
    /// When all faults end, and when everything does.
    heal_us: u64,
    end_us: u64,
}

impl World {
    pub fn new(seed: u64, verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let count = match random.below(10) {
            0 => 1,
            1 | 2 => 5,
            3 => 2,
            _ => 3,
        };
        let labels = ["a", "b", "c", "d", "e"];
        let instances = labels[..count].iter().map(|label| address(label)).collect();
        let founding = Founding {
            fleet_name: "sim".to_owned(),
            instances,
            pin_groups: PIN_GROUPS,
            flow_groups: flows::FLOW_GROUPS,
            lease_ms: LEASE_MS,
        };
        let mood = Mood::draw(&mut random);
        // Short logs have snapshots sent that long ones never need.
        let short = random.chance(500);
        let machines = labels[..count]
            .iter()
            .map(|label| Machine {
                label: (*label).to_owned(),
                disk: raftlog::disk::MemDisk::new(),
                // Within what leases allow for, and far beyond what crystals do.
                clock_ppm: random.below(8000) as i64 - 4000,
                clock_base_ms: random.below(1 << 40),
                wall_offset_ms: 0,
                life: 0,
                paused_until_us: 0,
                disk_slow: false,
                stalled_until_us: 0,
                slept_us: 0,
                deaf: false,
                compact_entries: if short { 20 } else { 200 },
                lease_ms: LEASE_MS,
                process: None,
            })
            .collect();
        let mut world = Self {
            seed,
            random,
            polling: BTreeSet::new(),
            batches: false,
            batched: BTreeSet::new(),
            other_leases: false,
            now_us: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            machines,
            founding,
            cut: BTreeSet::new(),
            loss_per_mille: 0,
            dead: BTreeSet::new(),
            skewed: BTreeSet::new(),
            asked: BTreeMap::new(),
            next_ticket: 0,
            session_clients: Default::default(),
            sniffers: Default::default(),
            batches_acked: 0,
            written: 0,
            clients: 0,
            visited: BTreeMap::new(),
            heard: BTreeMap::new(),
            mood,
            calm: false,
            asks_after: 0,
            answered_after: 0,
            healed_at_us: u64::MAX,
            wiped: BTreeSet::new(),
            replaced: BTreeMap::new(),
            judge: Judge::default(),
            steps: 0,
            trace: 0,
            verbose,
            heal_us: 0,
            end_us: 0,
        };
        world.batches = world.random.chance(500);
        world.other_leases = world.random.chance(300);
        world.loss_per_mille = [0, 0, 5, 50][world.random.below(4) as usize];
        for (node, at_us) in world.restore_some().into_iter().enumerate() {
            world.at(at_us, Event::Restart { node });
        }
        world.hasty_births();
        let quiet_us = world.quiet_night();
        world.at(quiet_us + 1_500_000, Event::Visit);
        world.at(quiet_us + 1_500_000, Event::Write);
        world.at(quiet_us + 1_500_000, Event::Sniff);
        world.at(quiet_us + 2_500_000, Event::Fault);
        world.at(quiet_us + 2_000_000, Event::Operate);
        world.heal_us = quiet_us + HEAL_SECONDS * 1_000_000;
        world.end_us = quiet_us + SECONDS * 1_000_000;
        world.at(world.heal_us, Event::Heal);
        world
    }

    /// Runs until the end, or to the first violation.
    pub fn run(&mut self) {
        while let Some(((at_us, _), event)) = self.queue.pop_first() {
            if at_us > self.end_us || !self.judge.violations.is_empty() {
                break;
            }
            self.now_us = at_us;
            self.steps += 1;
            self.mix(at_us);
            self.happen(event);
        }
        if self.judge.violations.is_empty() {
            self.judge_end();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Arrive { from, to, hello, packet } => self.arrive(from, to, &hello, packet),
            Event::Poll { node, life } => self.end_batch(node, life),
            Event::SnapshotSent { node, life, group, to, arrived } => {
                if self.asleep(node) {
                    let until = self.machines[node].paused_until_us;
                    self.at(until + 1, Event::SnapshotSent { node, life, group, to, arrived });
                    return;
                }
                self.with(node, life, |running| running.replica.handle_snapshot_sent(group, to, arrived));
            }
            Event::Persisted { node, life, round } => self.persisted(node, life, round),
            Event::Store { node, life, place, meta, state } => self.store(node, life, place, meta, state),
            Event::Slots { node, life, pool, members, key } => {
                if self.asleep(node) {
                    let until = self.machines[node].paused_until_us;
                    self.at(until + 1, Event::Slots { node, life, pool, members, key });
                    return;
                }
                let table = slots(&key, &members);
                self.with(node, life, |running| running.replica.slots_built(pool, &members, table));
            }
            Event::Probe { node, life, backend, now } => self.probe(node, life, backend, now),
            Event::Ask { node, key, prompt } => self.ask(node, key, prompt),
            Event::Visit => self.visit(),
            Event::Write => self.write(),
            Event::Sniff => self.sniff(),
            Event::Fault => self.fault(),
            Event::Operate => self.operate(),
            Event::Restart { node } => self.restart(node),
            Event::Birth { node, life } => self.birth(node, life),
            Event::Mend => self.cut.clear(),
            Event::LeadAll { node } => self.lead_all(node),
            Event::Blink { node } => self.blink(node),
            Event::Move { node } => self.move_clients(node),
            Event::Replace { node, old } => self.replace(node, old),
            Event::Wipe { node } => self.wipe(node),
            Event::Return => self.dead.clear(),
            Event::Vanish { node, pause } => self.vanish(node, pause),
            Event::SkewOne { node, address } => {
                if !self.calm {
                    self.skewed = BTreeSet::from([(node, address)]);
                }
            }
            Event::Heal => self.heal(),
        }
    }

    fn at(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at_us.max(self.now_us), self.sequence), event);
    }

    fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10} us  {}", self.now_us, text());
        }
    }

    fn mix(&mut self, number: u64) {
        self.trace = (self.trace ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
    }

    /// Does something to a running instance of that life, then what it asks for. A paused one does it when it wakes up.
    fn with(&mut self, node: usize, life: u64, act: impl FnOnce(&mut crate::node::Running)) {
        let machine = &mut self.machines[node];
        if machine.life != life {
            return;
        }
        let now_ms = machine.now_ms(self.now_us);
        let wall = machine.wall_offset_ms;
        let Some(running) = machine.running() else { return };
        running.replica.set_wall_offset(wall);
        running.replica.set_now(now_ms);
        act(running);
        if self.steps.is_multiple_of(INVARIANTS_EVERY) {
            running.replica.check_invariants();
        }
        if !self.batches || self.random.chance(300) {
            self.poll(node);
        } else if self.batched.insert(node) {
            let delay = self.random.range(1, 3_000);
            self.after(delay, Event::Poll { node, life });
        }
    }

    fn end_batch(&mut self, node: usize, life: u64) {
        if self.asleep(node) {
            let until = self.machines[node].paused_until_us;
            self.at(until + 1, Event::Poll { node, life });
            return;
        }
        self.batched.remove(&node);
        if self.machines[node].life == life {
            let now_ms = self.machines[node].now_ms(self.now_us);
            if let Some(running) = self.machines[node].running() {
                running.replica.set_now(now_ms);
            }
            self.poll(node);
        }
    }

    /// Carries out what an instance asks for. What carrying out leads to is polled after it, never in between.
    fn poll(&mut self, node: usize) {
        if !self.polling.insert(node) {
            return;
        }
        while let Some(running) = self.machines[node].running() {
            let outputs = running.replica.poll();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                self.carry_out(node, output);
            }
        }
        self.polling.remove(&node);
    }

    fn tick(&mut self, node: usize, life: u64) {
        let machine = &self.machines[node];
        if machine.life != life || machine.process.is_none() {
            return;
        }
        if machine.paused_until_us > self.now_us {
            let until = machine.paused_until_us;
            self.at(until + 1, Event::Tick { node, life });
            return;
        }
        self.count_votes(node);
        let mut malformed = 0;
        self.with(node, life, |running| {
            running.replica.handle_tick();
            malformed = running.replica.counters().frames_malformed + running.replica.counts().words_malformed;
        });
        if malformed > 0 {
            let text = format!("{} was sent what makes no sense", self.machines[node].label);
            self.judge.blame(text);
        }
        self.after(TICK_US, Event::Tick { node, life });
    }

    /// A leader counts the votes with every tick: what may come of it, by those whom it heard while they could hold a
    /// lease.
    fn count_votes(&mut self, node: usize) {
        let Some(process) = &self.machines[node].process else { return };
        let Core::Running(running) = &process.core else { return };
        let Some(status) = running.replica.status(GroupId(0)).filter(|status| status.role == Role::Leader) else {
            return;
        };
        // One that has crashed or lost its directory since still counts, as long as its lease may run.
        let me = process.identity.incarnation;
        let fresh = |id: NodeId| match self.heard.get(&(node, id)) {
            _ if self.machines[node].id() == Some(id) => Some(me),
            Some((at_us, life)) if at_us + VOTE_US >= self.now_us => Some(*life),
            _ => None,
        };
        let may_vote = |voter: InstanceId, vote: Vote| fresh(NodeId(voter.0)) == Some(vote.incarnation);
        self.judge.count_votes(running.replica.control(), &status.members.voters, may_vote, self.now_us);
    }

    fn asleep(&self, node: usize) -> bool {
        self.machines[node].paused_until_us > self.now_us
    }

    fn node_of(&self, from: usize, id: NodeId) -> Option<usize> {
        let process = self.machines[from].process.as_ref()?;
        let Core::Running(running) = &process.core else { return None };
        // Who said that it is that one; who has said nothing yet is where the table or the configuration has it.
        let label = match process.admitted.iter().find(|(_, known)| **known == id) {
            Some((label, _)) => label.clone(),
            None => match running.replica.control().member(InstanceId(id.0)) {
                Some(member) => member.address.label.clone(),
                None => self.founding.founders().into_iter().find(|(founder, _)| founder.0 == id.0)?.1.label,
            },
        };
        self.machines.iter().position(|machine| machine.label == label)
    }

    fn send(&mut self, from: usize, to: NodeId, packet: Packet) {
        let Some(to) = self.node_of(from, to) else { return };
        if self.cut.contains(&(from, to)) || self.random.chance(self.loss_per_mille) {
            return;
        }
        let Some(process) = &self.machines[from].process else { return };
        let hello = Box::new(process.hello(&self.founding));
        let copies = if self.random.chance(self.loss_per_mille / 2) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.random.range(50, 1_500);
            self.after(delay, Event::Arrive { from, to, hello: hello.clone(), packet: packet.clone() });
        }
    }

    /// What was sent to an earlier life of a process reaches a later one, if it was on its way for long enough.
    fn arrive(&mut self, from: usize, to: usize, hello: &Hello, packet: Packet) {
        if self.asleep(to) {
            if self.machines[to].deaf {
                return;
            }
            let until = self.machines[to].paused_until_us;
            self.at(until + 2, Event::Arrive { from, to, hello: Box::new(hello.clone()), packet });
            return;
        }
        let machine = &mut self.machines[to];
        let life = machine.life;
        let disk = machine.disk.clone();
        let Some(process) = &mut machine.process else {
            if self.random.chance(900) {
                let delay = self.random.range(500, 4_000);
                self.after(delay, Event::Arrive { from, to, hello: Box::new(hello.clone()), packet });
            }
            return;
        };
        if process.admit(hello, &self.founding, &disk).is_err() {
            return;
        }
        let Some(id) = process.admitted.get(&hello.identity.label).copied() else { return };
        self.heard.insert((to, id), (self.now_us, hello.identity.incarnation));
        let mut failed = None;
        self.with(to, life, |running| match packet {
            Packet::Frame(frame) => running.replica.handle_frame(id, &frame),
            Packet::Snapshot { group, index, term, message, file } => {
                failed = running.take_snapshot(id, (group, index, term), &message, &file).err();
            }
        });
        if let Some(error) = failed {
            self.judge.blame(format!("{} cannot take a snapshot: {error}", self.machines[to].label));
        }
    }

    fn restart(&mut self, node: usize) {
        if self.machines[node].process.is_some() {
            return;
        }
        let seed = self.random.next();
        if self.other_leases && !self.calm && self.machines[node].is_of_a_fleet() {
            self.machines[node].lease_ms = [LEASE_MS / 4, LEASE_MS, LEASE_MS * 3][self.random.below(3) as usize];
        }
        if let Err(error) = self.machines[node].start(&self.founding, seed) {
            self.judge.blame(format!("{} does not start: {error}", self.machines[node].label));
            return;
        }
        self.say(|| format!("{} starts", self.machines[node].label));
        let life = self.machines[node].life;
        self.after(1, Event::Birth { node, life });
        self.after(self.random.clone().below(TICK_US), Event::Tick { node, life });
        self.poll_all_probes(node);
    }

    /// A newborn says hello to everybody.
    fn birth(&mut self, node: usize, life: u64) {
        if self.machines[node].life != life {
            return;
        }
        let Some(Process { core: Core::Newborn(birthing), .. }) = &self.machines[node].process else { return };
        let hello = birthing.hello();
        for other in 0..self.machines.len() {
            if other == node
                || self.cut.contains(&(node, other))
                || self.cut.contains(&(other, node))
                || self.asleep(other)
            {
                continue;
            }
            let disk = self.machines[other].disk.clone();
            let Some(process) = &mut self.machines[other].process else { continue };
            if let Ok(reply) = process.admit(&hello, &self.founding, &disk)
                && let Some(Process { core: Core::Newborn(birthing), .. }) = &mut self.machines[node].process
            {
                birthing.handle_reply(reply);
            }
        }
        let seed = self.random.next();
        match self.machines[node].become_decided(&self.founding, seed) {
            Ok(true) => self.say(|| {
                let identity = self.machines[node].process.as_ref().map(|process| &process.identity);
                format!("{} has become {identity:?}", self.machines[node].label)
            }),
            Ok(false) => self.after(50_000, Event::Birth { node, life }),
            Err(error) => self.judge.blame(format!("{} cannot begin: {error}", self.machines[node].label)),
        }
    }

    fn save_birth(&mut self, node: usize, table: &flow::ControlTable) {
        let machine = &mut self.machines[node];
        let disk = machine.disk.clone();
        if let (Some(birth), Some(process)) = (table.birth(), &mut machine.process)
            && process.identity.fleet.is_none()
        {
            process.identity.fleet = Some(birth.fleet);
            if let Err(error) = replica::storage::save_identity(&disk, &process.identity) {
                self.judge.blame(error.to_string());
            }
        }
    }

    pub fn summary(&self) -> String {
        format!(
            "seed {}: {} instances, {} answers, {} moves, {} steps, trace {:016x}",
            self.seed,
            self.machines.len(),
            self.judge.answers,
            self.judge.moves,
            self.steps,
            self.trace
        )
    }

    pub fn now_us(&self) -> u64 {
        self.now_us
    }
}

fn address(label: &str) -> MemberAddress {
    MemberAddress { label: label.to_owned(), host: format!("host-{label}"), grpc: 1, rest: 2, metrics: 3 }
}

type Members = Vec<(BackendId, u32)>;

/// Slot tables take milliseconds to build and are pure: all seeds share them.
fn slots(key: &[u8; 16], members: &[(BackendId, u32)]) -> SlotTable {
    static BUILT: Mutex<BTreeMap<Members, SlotTable>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    built.entry(members.to_vec()).or_insert_with(|| SlotTable::build(key, members)).clone()
}

/// The tables are looked through at every so many steps: that takes longer than all the rest.
const INVARIANTS_EVERY: u64 = 64;

const POOLS: [&str; 3] = ["web", "turns", "least"];
const PIN_GROUPS: u32 = 2;
const TTL_MS: u64 = 8_000;
const SECONDS: u64 = 24;
const HEAL_SECONDS: u64 = 16;

/// An instance that was not heard for so long holds no lease, whatever its clock.
const VOTE_US: u64 = 2_500_000;

/// How long an ask may wait for its answer.
const PATIENCE_MS: u64 = 1_000;

const SETTLE_US: u64 = 4_000_000;
const TICK_US: u64 = 10_000;
