//! What goes wrong in a simulated fleet, and how all of it ends.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    random::Random,
    setup::{Setup, tuning},
    world::{Event, World},
};
use crate::{
    disk::{Disk, MemDisk},
    driver::Tuning,
    types::{GroupId, Index, NodeId},
    wal::WalError,
};

/// What the network and the disks are like at present.
pub struct Weather {
    /// From whom to whom nothing comes through.
    cut: BTreeSet<(usize, usize)>,
    loss_per_mille: u64,
    pub double_per_mille: u64,
    /// Whether frames are ever doubled in this fleet.
    pub doubles: bool,
    pub delay_us: (u64, u64),
    pub in_order: bool,
    pub snapshot_lost_per_mille: u64,
    pub store_fails_per_mille: u64,
    spoiled_per_mille: u64,
    pub churn_per_mille: u64,
    /// The time between two faults, about.
    pace_us: u64,
}

/// Something that ends, or follows later.
pub enum Fault {
    Mend,
    Quiet,
    Room {
        node: usize,
    },
    MayLead {
        node: usize,
    },
    NoticeGone(NodeId),
    Tune {
        node: usize,
    },
    /// Nobody is heard there for a while.
    Deafen {
        node: usize,
    },
}

impl Weather {
    pub fn draw(random: &mut Random, setup: &Setup) -> Self {
        let doubles = random.chance(500);
        let delay_us = if setup.is_wide {
            (random.range(1_000, 60_000), 100_000)
        } else {
            random.pick(&[(20, 300), (100, 2_000), (500, 15_000)]).unwrap_or((100, 2_000))
        };
        Self {
            cut: BTreeSet::new(),
            loss_per_mille: random.pick(&[0, 10, 100]).unwrap_or(0),
            double_per_mille: if doubles { 30 } else { 0 },
            doubles,
            delay_us,
            in_order: random.chance(500),
            snapshot_lost_per_mille: random.pick(&[0, 100, 500]).unwrap_or(0),
            store_fails_per_mille: random.pick(&[0, 100]).unwrap_or(0),
            spoiled_per_mille: random.pick(&[0, 100]).unwrap_or(0),
            churn_per_mille: random.pick(&[0, 100, 400]).unwrap_or(0),
            pace_us: random.pick(&[20_000, 60_000, 200_000]).unwrap_or(60_000),
        }
    }

    fn clear(&mut self) {
        self.cut.clear();
        self.loss_per_mille = 0;
        self.double_per_mille = 0;
        self.delay_us = (50, 500);
        self.snapshot_lost_per_mille = 0;
        self.store_fails_per_mille = 0;
        self.spoiled_per_mille = 0;
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        !self.cut.is_empty() && self.cut.contains(&(from, to))
    }

    pub fn loses(&self, random: &mut Random, from: usize, to: usize) -> bool {
        self.is_cut(from, to) || (self.loss_per_mille > 0 && random.chance(self.loss_per_mille))
    }

    /// Now and then a byte of a snapshot changes on the way.
    pub fn spoil(&self, random: &mut Random, bytes: Bytes) -> Bytes {
        if bytes.is_empty() || !random.chance(self.spoiled_per_mille) {
            return bytes;
        }
        let mut spoiled = bytes.to_vec();
        let place = random.below(spoiled.len() as u64) as usize;
        spoiled[place] ^= 1 << random.below(8);
        spoiled.into()
    }
}

impl World {
    /// Something goes wrong.
    pub fn next_fault(&mut self) {
        if self.is_calm() {
            return;
        }
        let delay_us = self.random.range(self.weather.pace_us / 4, self.weather.pace_us * 2);
        self.after(delay_us, Event::Fault);
        let taken: Vec<usize> =
            (0..self.machines.len()).filter(|node| self.machines[*node].process.is_some()).collect();
        let Some(node) = self.random.pick(&taken) else { return };
        match self.random.below(28) {
            0..=2 => self.crash(node),
            3 => self.kill(node),
            4..=5 => self.pause(node),
            6..=8 => self.part(node),
            9 => self.change_network(),
            10 => self.skew(node),
            11..=12 => self.slow_disk(node),
            13 => self.fill_disk(node),
            14 => self.fail_disk(node),
            15 => self.damage(node),
            16..=18 => self.hand_over(node),
            19 => self.change_settings(),
            20 => self.report_link(node),
            21 => self.forbid_leading(node),
            22 => {
                let group = self.any_group();
                let life = self.machines[node].life;
                self.with(node, life, |driver| driver.request_snapshot(group, Index(u64::MAX)));
            }
            23 => self.crash_all(),
            _ => self.depose(),
        }
    }

    /// Something that was begun ends.
    pub fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Mend => self.weather.cut.clear(),
            Fault::Quiet => self.weather.loss_per_mille = 0,
            Fault::Room { node } => self.machines[node].disk.limit(None),
            Fault::MayLead { node } => {
                let life = self.machines[node].life;
                let full = self.machines[node].process.as_ref().is_some_and(|process| process.full);
                if !full {
                    self.with(node, life, |driver| driver.set_may_lead(true));
                }
            }
            Fault::NoticeGone(id) => self.notice(id, true),
            Fault::Deafen { node } if !self.is_calm() => self.deafen(node),
            Fault::Deafen { .. } => {}
            Fault::Tune { node } => {
                let tuning = Tuning { shuffle_ticks: 0, ..self.setup.tuning.clone() };
                let life = self.machines[node].life;
                self.with(node, life, |driver| driver.tune(tuning));
            }
        }
    }

    /// All faults end, for good.
    pub fn heal(&mut self) {
        self.say(|_| "all faults end".to_owned());
        self.calm_since_us = Some(self.now_us);
        self.weather.clear();
        for node in 0..self.machines.len() {
            let now_us = self.now_us;
            let machine = &mut self.machines[node];
            machine.skew(now_us, 1000);
            machine.disk.limit(None);
            machine.disk.fail_sync_after(u64::MAX);
            machine.paused_until_us = 0;
            machine.stalled_until_us = 0;
            machine.write_us = (50, 500);
            self.after(0, Event::Start { node });
            self.after(1, Event::Then(Fault::MayLead { node }));
            self.after(1, Event::Then(Fault::Tune { node }));
        }
        self.begin_clients();
        self.after(LOOK_US, Event::Look);
    }

    /// Whether all is well: a leader in each group, everybody answered, all alike.
    pub fn look_around(&mut self) {
        let wrong = self.what_is_wrong();
        let since_us = self.now_us - self.calm_since_us.unwrap_or(self.now_us);
        match wrong {
            None => self.is_over = true,
            Some(wrong) if since_us > WELL_AFTER_US => {
                self.judge.blame(format!("{} ms after the last fault {wrong}", since_us / 1000));
            }
            Some(_) => self.after(LOOK_US, Event::Look),
        }
    }

    fn what_is_wrong(&self) -> Option<String> {
        for group in (0..self.setup.groups).map(GroupId) {
            let on = |id: &NodeId| self.place(*id).and_then(|node| self.machines[node].process.as_ref());
            let leads = |id: &&NodeId| on(id).is_some_and(|process| process.driver.leads(group));
            let Some(leader) = self.wanted.iter().find(leads) else {
                return Some(format!("nobody leads group {group}"));
            };
            let Some(process) = on(leader) else { continue };
            let members = process.driver.members(group).unwrap_or_default();
            if members.voters != self.wanted || !members.learners.is_empty() || !members.outgoing.is_empty() {
                return Some(format!("group {group} has {members:?}, and not {:?}", self.wanted));
            }
            let head = process.driver.glance(group).unwrap_or_default();
            for id in &self.wanted {
                let Some(process) = on(id) else { return Some(format!("{id} does not run")) };
                let here = process.driver.glance(group).unwrap_or_default();
                let applied = process.applied(group);
                if !self.is_noted(group, *id, self.judge.members_since(group)) {
                    return Some(format!("the disk of {id} does not know the newest members of group {group}"));
                }
                if applied != head.last.0 || here.committed != head.last || here.term != head.term {
                    return Some(format!("{id} stands at {here:?} in group {group}, {leader} at {head:?}"));
                }
            }
        }
        let waiting = self.clients.waiting();
        (!self.clients.are_done()).then(|| format!("there are clients without an answer: {waiting:?}"))
    }

    fn any_group(&mut self) -> GroupId {
        GroupId(self.random.below(u64::from(self.setup.groups)) as u32)
    }

    /// Power fails: what was not synced may be lost, or torn.
    fn crash(&mut self, node: usize) {
        let Some(mut process) = self.machines[node].process.take() else { return };
        self.say(|_| format!("machine {node} crashes"));
        self.counts.crashes += 1;
        if process.working && self.random.chance(600) {
            self.write_half(&mut process);
        }
        let seed = self.random.next();
        self.forget(&process);
        let machine = &mut self.machines[node];
        machine.remains = Some(process.store.end(false));
        machine.disk.crash(seed);
        self.ended(node);
    }

    /// What the log thread is at is written, and not synced; whether it certainly was.
    fn write_half(&mut self, process: &mut super::node::Process) -> bool {
        let Some(batch) = process.gather(&mut self.random) else { return true };
        let Ok(files) = process.take_files(&batch.installs) else { return true };
        let written = process.store.write_only(files, &batch.records);
        if let Err(error @ (WalError::Refused(_) | WalError::CorruptFile { .. })) = &written {
            self.judge.blame(format!("a round is not taken: {error}"));
        }
        matches!(written, Ok(()) | Err(WalError::NoSpace { .. }))
    }

    /// The process ends, the machine goes on.
    fn kill(&mut self, node: usize) {
        let Some(mut process) = self.machines[node].process.take() else { return };
        self.say(|_| format!("the process on machine {node} is killed"));
        self.counts.crashes += 1;
        let certain = !process.working || self.random.chance(400) || self.write_half(&mut process);
        self.forget(&process);
        let machine = &mut self.machines[node];
        machine.remains = Some(process.store.end(certain));
        machine.disk.restart();
        self.ended(node);
    }

    /// A write or a sync failed: the process stops at once.
    pub fn disk_failed(&mut self, node: usize, error: &WalError) {
        self.say(|_| format!("machine {node}: {error}"));
        if matches!(error, WalError::Refused(_) | WalError::CorruptFile { .. } | WalError::Corrupt(_)) {
            return self.judge.blame(format!("machine {node}: {error}"));
        }
        let Some(process) = self.machines[node].process.take() else { return };
        let power = self.random.chance(500);
        let seed = self.random.next();
        self.forget(&process);
        let machine = &mut self.machines[node];
        machine.remains = Some(process.store.end(false));
        if power {
            machine.disk.crash(seed)
        } else {
            machine.disk.restart()
        }
        self.ended(node);
    }

    /// Before a process ends.
    fn forget(&mut self, process: &super::node::Process) {
        for (group, hosted) in (0..).map(GroupId).zip(&process.groups) {
            if hosted.members.voters.len() == 1 {
                self.judge.forget_unsaid(group, &process.store.given, &process.store.durable.borrow());
            }
        }
    }

    fn ended(&mut self, node: usize) {
        let most_us = self.random.pick(&[20_000, 200_000, 1_500_000]).unwrap_or(20_000);
        let delay_us = self.random.range(5_000, most_us);
        self.after(delay_us, Event::Start { node });
        if let Some(id) = self.machines[node].id
            && self.random.chance(600)
        {
            let gone = self.random.chance(700);
            self.notice(id, gone);
        }
    }

    /// The links to a replica break.
    fn notice(&mut self, peer: NodeId, gone: bool) {
        for node in 0..self.machines.len() {
            if self.machines[node].id != Some(peer) && self.random.chance(800) {
                let life = self.machines[node].life;
                let delay_us = self.random.below(20_000);
                self.after(delay_us, Event::LinkDown { node, life, peer, gone });
            }
        }
    }

    fn crash_all(&mut self) {
        if self.random.chance(600) {
            return;
        }
        for node in 0..self.machines.len() {
            self.crash(node);
        }
    }

    fn pause(&mut self, node: usize) {
        let most_us = self.random.pick(&[50_000, 400_000, 1_500_000]).unwrap_or(50_000);
        let pause_us = self.random.range(10_000, most_us);
        self.say(|_| format!("machine {node} stops for {pause_us} us"));
        self.machines[node].paused_until_us = self.now_us + pause_us;
        let lag_us = self.random.below(5_000);
        self.machines[node].wakes_us = lag_us;
    }

    /// The network falls apart, in one of several ways.
    fn part(&mut self, node: usize) {
        let count = self.machines.len();
        let others = (0..count).filter(|other| *other != node);
        let way = self.random.below(5);
        self.weather.cut = match way {
            0 => others.flat_map(|other| [(node, other), (other, node)]).collect(),
            // It hears nothing, or is not heard.
            1 => others.map(|other| (other, node)).collect(),
            2 => others.map(|other| (node, other)).collect(),
            // A bridge: only one reaches both halves.
            3 => {
                let half = |of: usize| (of + count - node) % count % 2;
                let apart = move |a: usize, b: usize| a != node && b != node && half(a) != half(b);
                (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| apart(*a, *b)).collect()
            }
            _ => {
                let split = self.random.range(1, count as u64) as usize;
                let side = |of: usize| (of + count - node) % count < split;
                (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| side(*a) != side(*b)).collect()
            }
        };
        self.say(|world| format!("cut: {:?}", world.weather.cut));
        let most_us = self.random.pick(&[200_000, 1_000_000]).unwrap_or(200_000);
        let delay_us = self.random.range(50_000, most_us);
        self.after(delay_us, Event::Then(Fault::Mend));
        if self.random.chance(300)
            && let Some(id) = self.machines[node].id
        {
            let gone = self.random.chance(300);
            self.notice(id, gone);
        }
    }

    fn change_network(&mut self) {
        self.weather.loss_per_mille = self.random.pick(&[0, 50, 300]).unwrap_or(0);
        if self.weather.doubles {
            self.weather.double_per_mille = self.random.pick(&[0, 50, 300]).unwrap_or(0);
        }
        self.weather.in_order = self.random.chance(500);
        let delay_us = self.random.range(100_000, 600_000);
        self.after(delay_us, Event::Then(Fault::Quiet));
    }

    fn skew(&mut self, node: usize) {
        let rate = self.random.range(600, 1600);
        let now_us = self.now_us;
        self.machines[node].skew(now_us, rate);
    }

    fn slow_disk(&mut self, node: usize) {
        let (now_us, stall_us) = (self.now_us, self.random.range(20_000, 800_000));
        let slow = self.random.pick(&[(50, 1000), (500, 8_000), (5_000, 60_000)]).unwrap_or((50, 1000));
        let machine = &mut self.machines[node];
        machine.write_us = slow;
        if self.random.chance(500) {
            machine.stalled_until_us = now_us + stall_us;
        }
    }

    fn fill_disk(&mut self, node: usize) {
        let disk = &self.machines[node].disk;
        if self.random.chance(300) {
            let skip = self.random.below(10);
            return disk.fill_at_write_after(skip);
        }
        disk.limit(Some(disk.used() + self.random.below(2000)));
        self.say(|_| format!("the disk of machine {node} is full"));
        let delay_us = self.random.range(20_000, 600_000);
        self.after(delay_us, Event::Then(Fault::Room { node }));
    }

    fn fail_disk(&mut self, node: usize) {
        let skip = self.random.below(20);
        self.machines[node].disk.fail_sync_after(skip);
    }

    /// A byte of a log changes while nobody looks, where recovery is sure to see it: behind a clean stop.
    fn damage(&mut self, node: usize) {
        if !self.is_whole() || !self.is_member(node) || self.machines.iter().any(|machine| machine.damaged) {
            return;
        }
        let Some(mut process) = self.machines[node].process.take() else { return };
        let sealed = process.store.seal();
        let machine = &mut self.machines[node];
        machine.remains = Some(process.store.end(false));
        machine.disk.restart();
        if sealed.is_ok() {
            machine.damaged = flip(&machine.disk, &mut self.random);
            self.say(|_| format!("a byte changes on the disk of machine {node}"));
        }
        self.ended(node);
    }

    /// Whether the replica there is a member that stays.
    fn is_member(&self, node: usize) -> bool {
        self.machines[node].id.is_some_and(|id| self.wanted.contains(&id))
    }

    fn hand_over(&mut self, node: usize) {
        let group = self.any_group();
        let all: Vec<NodeId> = self.wanted.iter().copied().collect();
        let Some(heir) = self.random.pick(&all) else { return };
        let life = self.machines[node].life;
        if self.machines[node].awake(self.now_us) {
            self.say(|_| format!("machine {node} is told that {heir} is to lead group {group}"));
            self.with(node, life, |driver| driver.transfer(group, heir));
        }
    }

    /// A leader hands over, and hears nothing more as soon as it did.
    fn depose(&mut self) {
        let group = self.any_group();
        let leads =
            |node: &usize| self.machines[*node].process.as_ref().is_some_and(|process| process.driver.leads(group));
        let Some(node) = (0..self.machines.len()).find(leads) else { return };
        let others: Vec<NodeId> =
            self.wanted.iter().copied().filter(|id| Some(*id) != self.machines[node].id).collect();
        let (Some(heir), life) = (self.random.pick(&others), self.machines[node].life) else { return };
        if self.machines[node].awake(self.now_us) {
            self.say(|_| format!("machine {node} is deposed by {heir}"));
            self.with(node, life, |driver| driver.transfer(group, heir));
            let delay_us = self.weather.delay_us.1 + self.random.below(self.weather.delay_us.1);
            self.after(delay_us, Event::Then(Fault::Deafen { node }));
        }
    }

    fn deafen(&mut self, node: usize) {
        self.weather.cut = (0..self.machines.len()).filter(|other| *other != node).map(|other| (other, node)).collect();
        let delay_us = self.random.range(20_000, 300_000);
        self.after(delay_us, Event::Then(Fault::Mend));
        self.poke_clients(node);
    }

    fn change_settings(&mut self) {
        let shuffle_ticks = self.random.pick(&[0, 20, 60]).unwrap_or(0);
        let tuning = Tuning { shuffle_ticks, ..tuning(&mut self.random, self.setup.is_wide) };
        for node in 0..self.machines.len() {
            let life = self.machines[node].life;
            if self.machines[node].awake(self.now_us) && self.random.chance(900) {
                let tuning = tuning.clone();
                self.with(node, life, |driver| driver.tune(tuning));
            }
        }
    }

    /// A link breaks, or is said to, though its end is well.
    fn report_link(&mut self, node: usize) {
        let gone = self.random.chance(500);
        if let Some(id) = self.machines[node].id {
            self.notice(id, gone);
        }
    }

    fn forbid_leading(&mut self, node: usize) {
        let life = self.machines[node].life;
        if self.machines[node].awake(self.now_us) {
            self.with(node, life, |driver| driver.set_may_lead(false));
            let delay_us = self.random.range(50_000, 800_000);
            self.after(delay_us, Event::Then(Fault::MayLead { node }));
        }
    }
}

/// Changes a bit of some file of a data directory; whether there was one.
fn flip(disk: &MemDisk, random: &mut Random) -> bool {
    let Ok(names) = disk.list() else { return false };
    let place = random.below(names.len() as u64) as usize;
    let Some(name) = names.get(place) else { return false };
    let Ok(length) = disk.open(name).and_then(|file| file.length()) else { return false };
    disk.flip(name, random.below(length), 1 << random.below(8)).is_ok()
}

/// How often it is looked whether all is well again.
const LOOK_US: u64 = 30_000;

/// All is well so long after the last fault.
const WELL_AFTER_US: u64 = 40_000_000;
