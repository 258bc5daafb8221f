//! Bad days: what befalls machines, wires, clocks and backends.
//!
//! Chance alone seldom brings about what breaks agreement, so each seed has a mood, and some moods bring it about: an
//! instance falls behind just as a client's backend is taken away, or the votes of those who are gone meet new ones.

use super::*;

/// What a seed has most of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Anything.
    Mixed,
    /// Instances that fall behind while backends are taken away.
    Lagging,
    /// One-sided views of backends, and voters that disappear.
    OneSided,
    /// Nothing at all for longer than pins live; then leaders that change, there and back.
    QuietNight,
}

impl Mood {
    pub(super) fn draw(random: &mut Random) -> Self {
        match random.below(10) {
            0..=3 => Self::Mixed,
            4..=6 => Self::Lagging,
            7 | 8 => Self::OneSided,
            _ => Self::QuietNight,
        }
    }
}

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let node = self.random.below(self.machines.len() as u64) as usize;
        match self.mood {
            Mood::Lagging if self.random.chance(600) => self.lag_and_move(node),
            Mood::OneSided if self.random.chance(600) => self.vote_and_vanish(node),
            Mood::QuietNight if self.random.chance(600) => self.there_and_back(node),
            _ => self.any_fault(node),
        }
        let delay = self.random.range(50_000, 1_200_000);
        self.after(delay, Event::Fault);
    }

    fn any_fault(&mut self, node: usize) {
        match self.random.below(20) {
            0 | 1 => self.crash(node),
            2 => {
                for node in 0..self.machines.len() {
                    self.crash(node);
                }
            }
            3 | 4 => {
                let pause = self.random.range(50_000, 4_000_000);
                self.pause(node, pause);
            }
            5 | 6 => self.partition(),
            7 => self.cut.clear(),
            8 | 9 => self.backend_dies_or_returns(),
            10 => self.skew(node),
            11 => self.machines[node].disk_slow ^= true,
            12 => self.machines[node].wall_offset_ms = self.random.below(20_000),
            13 => self.loss_per_mille = [0, 5, 50, 150][self.random.below(4) as usize],
            14 => self.hand_over(node),
            15 => self.lag_and_move(node),
            16 => self.vote_and_vanish(node),
            17 => self.retire(node),
            _ => self.lose_a_directory(),
        }
    }

    /// No client comes, nothing happens: how long, in microseconds, if this seed has such a night. The same machine leads
    /// all the while, and another one when the clients come.
    pub(super) fn quiet_night(&mut self) -> u64 {
        if self.mood != Mood::QuietNight || self.machines.len() < 3 {
            return 0;
        }
        let night_us = self.random.range(TTL_MS + 1_000, TTL_MS * 2) * 1000;
        let first = self.random.below(self.machines.len() as u64) as usize;
        for at_us in [1_800_000, 2_200_000] {
            self.at(at_us, Event::LeadAll { node: first });
        }
        self.at(night_us + 1_500_000, Event::LeadAll { node: (first + 1) % self.machines.len() });
        let back = self.random.range(2_000_000, 5_000_000);
        self.at(night_us + back, Event::LeadAll { node: first });
        night_us
    }

    /// In some seeds leaders change while the fleet is being born, on slow disks: the next one does not know yet what the
    /// last one has proposed.
    pub(super) fn hasty_births(&mut self) {
        if self.machines.len() < 2 || !self.random.chance(300) {
            return;
        }
        for machine in &mut self.machines {
            machine.disk_slow = true;
        }
        let mut at_us = self.random.range(300_000, 700_000);
        for node in (0..self.machines.len()).cycle().take(12) {
            self.at(at_us, Event::LeadAll { node });
            at_us += self.random.range(10_000, 120_000);
        }
    }

    pub(super) fn lead_all(&mut self, heir: usize) {
        let Some(id) = self.machines[heir].id() else { return };
        self.say(|| format!("{} is to lead", self.machines[heir].label));
        for node in 0..self.machines.len() {
            if !self.asleep(node) {
                let life = self.machines[node].life;
                self.with(node, life, |running| running.replica.hand_over(Some(InstanceId(id.0))));
            }
        }
    }

    /// One leads for a while, then the other, while a third may hear nothing of it.
    fn there_and_back(&mut self, first: usize) {
        let count = self.machines.len();
        let second = (first + 1) % count;
        let mut delay = 0;
        for node in [first, second, first] {
            self.after(delay, Event::LeadAll { node });
            delay += self.random.range(50_000, 1_500_000);
        }
        if self.random.chance(500) {
            let late = (first + 2) % count;
            self.cut = (0..count).filter(|other| *other != late).map(|other| (other, late)).collect();
            self.after(delay, Event::Mend);
        }
    }

    /// A process ends and is back before anybody notices.
    pub(super) fn blink(&mut self, node: usize) {
        if !self.calm {
            let gone = self.random.range(1_000, 10_000);
            self.crash_for(node, gone);
        }
    }

    /// One instance falls behind with its lease still running; the leaders may change; then clients must move.
    fn lag_and_move(&mut self, late: usize) {
        let count = self.machines.len();
        if count == 1 {
            return;
        }
        self.cut.clear();
        self.loss_per_mille = 0;
        let others: Vec<usize> = (0..count).filter(|other| *other != late).collect();
        match self.random.below(5) {
            4 => {
                for _ in 0..4 {
                    let delay = self.random.range(1_000, 1_000_000);
                    self.after(delay, Event::Blink { node: late });
                }
            }
            0 => self.stall(late),
            1 => {
                let pause = self.random.range(100_000, 1_500_000);
                self.pause(late, pause);
            }
            way => {
                for other in &others {
                    self.cut.insert((*other, late));
                    if way == 2 {
                        self.cut.insert((late, *other));
                    }
                }
                self.say(|| format!("{} is cut off: {:?}", self.machines[late].label, self.cut));
                let delay = self.random.range(500_000, 2_500_000);
                self.after(delay, Event::Mend);
            }
        }
        match self.random.below(4) {
            0 | 1 => {
                for node in 0..count {
                    self.hand_over(node);
                }
            }
            2 if count == 5 => {
                let other = others[self.random.below(others.len() as u64) as usize];
                self.crash(other);
            }
            _ => {}
        }
        for _ in 0..3 {
            let delay = self.random.range(1_000, 700_000);
            let node = others[self.random.below(others.len() as u64) as usize];
            self.after(delay, Event::Move { node });
        }
    }

    /// Something that moves clients, asked for at `node`.
    pub(super) fn move_clients(&mut self, node: usize) {
        if self.calm {
            return;
        }
        match self.random.below(4) {
            0 => self.unpin(node),
            1 => {
                self.backend_dies_or_returns();
                let delay = self.random.range(50_000, 800_000);
                self.after(delay, Event::Return);
            }
            _ => {
                let pool = POOLS[self.random.below(POOLS.len() as u64) as usize];
                let number = self.random.below(6) + 1;
                self.change_server(node, pool, ServerChange::Remove(format!("s{number}")));
            }
        }
    }

    /// One instance sees a backend down and votes so, and is gone; a while later another one sees it down.
    fn vote_and_vanish(&mut self, first: usize) {
        let count = self.machines.len();
        if count < 3 {
            return;
        }
        let address = server(self.random.below(4) + 1, 0).socket_address();
        self.skewed = BTreeSet::from([(first, address)]);
        self.say(|| format!("{} alone cannot reach {address}", self.machines[first].label));
        let second = (first + 1 + self.random.below(count as u64 - 1) as usize) % count;
        let gone = self.random.range(1_000_000, 1_500_000);
        let pause = self.random.chance(500);
        self.after(gone, Event::Vanish { node: first, pause });
        self.after(gone + 3_000_000, Event::SkewOne { node: second, address });
    }

    /// For a while nothing reaches this disk.
    fn stall(&mut self, node: usize) {
        let left = self.heal_us.saturating_sub(self.now_us);
        let stall = self.random.range(500_000, 3_500_000).min(left);
        self.say(|| format!("the disk of {} stalls for {stall} us", self.machines[node].label));
        self.machines[node].stalled_until_us = self.now_us + stall;
    }

    fn hand_over(&mut self, node: usize) {
        if !self.asleep(node) {
            self.with(node, self.machines[node].life, |running| running.replica.hand_over(None));
        }
    }

    pub(super) fn crash(&mut self, node: usize) {
        let delay = self.random.range(10_000, 3_000_000);
        self.crash_for(node, delay);
    }

    fn crash_for(&mut self, node: usize, delay_us: u64) {
        if self.machines[node].process.is_none() {
            return;
        }
        self.say(|| format!("{} crashes", self.machines[node].label));
        let seed = self.random.next();
        let id = self.machines[node].id();
        self.machines[node].crash(seed);
        let notice = self.random.chance(700);
        for other in 0..self.machines.len() {
            let life = self.machines[other].life;
            if let Some(id) = id.filter(|_| other != node && notice && !self.asleep(other)) {
                self.with(other, life, |running| running.replica.handle_peer_down(id, true));
            }
        }
        self.after(delay_us, Event::Restart { node });
    }

    /// The voter of `vote_and_vanish` goes, for longer than its lease.
    pub(super) fn vanish(&mut self, node: usize, pause: bool) {
        if self.calm {
            return;
        }
        let gone = self.random.range(4_500_000, 6_000_000);
        if pause { self.pause(node, gone) } else { self.crash_for(node, gone) }
    }

    fn pause(&mut self, node: usize, pause_us: u64) {
        let deaf = self.random.chance(500);
        self.say(|| format!("{} is paused for {pause_us} us, deaf: {deaf}", self.machines[node].label));
        let machine = &mut self.machines[node];
        let until_us = machine.paused_until_us.max((self.now_us + pause_us).min(self.heal_us));
        machine.slept_us += until_us.saturating_sub(machine.paused_until_us.max(self.now_us));
        machine.paused_until_us = until_us;
        machine.deaf = deaf;
    }

    fn partition(&mut self) {
        self.cut.clear();
        let one_way = self.random.chance(300);
        let sides: Vec<bool> = (0..self.machines.len()).map(|_| self.random.chance(500)).collect();
        for a in 0..self.machines.len() {
            for b in 0..self.machines.len() {
                if a != b && sides[a] != sides[b] && (!one_way || sides[a]) {
                    self.cut.insert((a, b));
                }
            }
        }
        self.say(|| format!("partition {:?}", self.cut));
    }

    fn backend_dies_or_returns(&mut self) {
        let address = server(self.random.below(6) + 1, 0).socket_address();
        if !self.dead.remove(&address) && self.dead.len() < 2 {
            self.dead.insert(address);
        }
        self.say(|| format!("dead backends: {:?}", self.dead));
    }

    /// One instance alone cannot reach one backend.
    fn skew(&mut self, node: usize) {
        self.skewed.clear();
        if self.machines.len() >= 3 && self.random.chance(700) {
            self.skewed.insert((node, server(self.random.below(6) + 1, 0).socket_address()));
        }
        self.say(|| format!("skewed views: {:?}", self.skewed));
    }

    /// One instance, once, loses its disk, at a moment at which another was away for a while.
    fn lose_a_directory(&mut self) {
        let count = self.machines.len();
        if count < 3 || !self.wiped.is_empty() || self.now_us < 4_000_000 {
            return;
        }
        let node = self.random.below(count as u64) as usize;
        self.wiped.insert(node);
        self.say(|| format!("{} loses its data directory", self.machines[node].label));
        if let Some(id) = self.machines[node].id() {
            let delay = self.random.range(500_000, 6_000_000);
            self.after(delay, Event::Replace { node, old: InstanceId(id.0) });
        }
        // One was cut off and does not know the latest; all others but the one that lost its disk stop for a moment.
        let late = (node + 1) % count;
        self.crash(node);
        for other in 0..count {
            if other != node && other != late {
                let pause = self.random.range(50_000, 4_000_000);
                self.pause(other, pause);
            }
        }
        self.cut.clear();
        self.machines[node].disk = raftlog::disk::MemDisk::new();
        self.after(1_000, Event::Restart { node });
    }

    /// A member is taken out while it runs, and comes back with an empty directory as a new one.
    fn retire(&mut self, node: usize) {
        let Some(id) = self.machines[node].id().filter(|_| self.machines.len() >= 2 && self.wiped.is_empty()) else {
            return;
        };
        self.wiped.insert(node);
        self.after(0, Event::Replace { node, old: InstanceId(id.0) });
        let delay = self.random.range(200_000, 3_000_000);
        self.after(delay, Event::Wipe { node });
    }

    pub(super) fn wipe(&mut self, node: usize) {
        // Where two vote, both are needed until the groups have let go of the one that leaves.
        let counted = |machine: &Machine| match &machine.process {
            Some(Process { core: Core::Running(running), .. }) => {
                let members = running.control.members().count();
                let gone = members == 1 || (members == 2 && self.replaced.contains_key(&node));
                !gone || !running.replica.leaving().is_empty()
            }
            _ => true,
        };
        if self.machines.len() == 2 && counted(&self.machines[1 - node]) {
            self.after(100_000, Event::Wipe { node });
            return;
        }
        self.say(|| format!("{} is emptied", self.machines[node].label));
        self.crash_for(node, 10_000);
        self.machines[node].disk = raftlog::disk::MemDisk::new();
    }

    pub(super) fn heal(&mut self) {
        self.say(|| "all is healed".to_owned());
        self.calm = true;
        self.healed_at_us = self.now_us;
        self.cut.clear();
        self.loss_per_mille = 0;
        self.dead.clear();
        self.skewed.clear();
        self.after(SETTLE_US / 2, Event::Operate);
        for node in 0..self.machines.len() {
            self.machines[node].disk_slow = false;
            self.after(0, Event::Restart { node });
        }
    }
}
