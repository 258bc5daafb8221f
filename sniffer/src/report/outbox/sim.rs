//! Outboxes against the fleet's own table of flows, through a network that loses, delays, doubles and turns around: in the end
//! every record is as if nothing had gone wrong.

use std::collections::{BTreeMap, VecDeque};

use flow::{
    flows::{
        Expiry, FlowCommand, FlowId, FlowLimits, FlowOutcome, FlowTable, Reporter, SNIFFERS_MAX, SnifferId, shard_of,
    },
    ids::{LogTime, Revision},
};

use super::{
    super::testing::{Script, command_of, standing_of},
    *,
};

/// What every instance has applied, shard by shard.
struct Fleet {
    tables: Vec<(FlowTable, Expiry)>,
    /// Log time that passed beside one millisecond an entry.
    passed_ms: u64,
}

impl Fleet {
    fn new(shards: u32) -> Self {
        let table = || (FlowTable::new(FlowLimits::default()), Expiry::new());
        Self { tables: (0..shards).map(|_| table()).collect(), passed_ms: 0 }
    }

    fn apply(&mut self, shard: u32, command: &FlowCommand) -> FlowOutcome {
        let (table, expiry) = &mut self.tables[shard as usize];
        let index = table.applied().0 + 1;
        table.apply(Revision(index), LogTime(index + self.passed_ms), command, expiry)
    }

    /// Each flow, and what was counted of it.
    fn records(&self) -> BTreeMap<FlowId, Vec<String>> {
        let all = self.tables.iter().flat_map(|(table, _)| table.newest());
        all.map(|(id, record)| (id, record.observations().iter().map(standing_of).collect())).collect()
    }

    /// What a shard has of the sniffer.
    fn known(&self, shard: u32) -> Option<Reporter> {
        let (table, _) = &self.tables[shard as usize];
        table.sniffer(SnifferId::of(NAME)).cloned()
    }
}

struct Sim {
    chance: u64,
    now_ms: u64,
    fleet: Fleet,
    shards: u32,
    /// Whether anything goes wrong.
    faults: bool,
    connected: bool,
    /// On their way to the instance, and its answers.
    there: VecDeque<Outgoing>,
    back: VecDeque<(u32, u64, u64, Answer)>,
    /// Of connections that are gone, but the batches go on.
    stale: Vec<Outgoing>,
    /// What each number of a life and shard stood for.
    told: BTreeMap<(u64, u32, u64), Vec<u8>>,
    /// The fleet forgot the sniffer: numbers may stand for others then.
    forgotten: bool,
}

impl Sim {
    fn new(seed: u64, shards: u32) -> Self {
        Self {
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now_ms: 0,
            fleet: Fleet::new(shards),
            shards,
            faults: true,
            connected: false,
            there: VecDeque::new(),
            back: VecDeque::new(),
            stale: Vec::new(),
            told: BTreeMap::new(),
            forgotten: false,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % bound
    }

    /// One in so many, while there are faults.
    fn fault(&mut self, one_in: u64) -> bool {
        self.faults && self.below(one_in) == 0
    }

    fn outbox(&self, epoch: u64, closing: Closing) -> Outbox {
        Outbox::new(Config { name: NAME.to_owned(), epoch, closing, pending_max: 5_000, batch_max: 10 })
    }

    /// Something happens on the way between an outbox and the fleet.
    fn step(&mut self, outbox: &mut Outbox) {
        self.now_ms += self.below(8);
        if !self.connected {
            let hello = Hello { fleet: vec![7], shards: self.shards, in_flight: 4 };
            outbox.handle_hello(hello).unwrap();
            self.connected = true;
        }
        for _ in 0..1 + self.below(3) {
            let Some(outgoing) = outbox.poll_send(self.now_ms) else { break };
            let FlowCommand::Report { epoch, sequence, .. } = command_of(&outgoing.report) else { panic!() };
            let before = self.told.insert((epoch, outgoing.shard, sequence), outgoing.report.clone());
            assert!(
                self.forgotten || before.is_none_or(|before| before == outgoing.report),
                "a number keeps its events"
            );
            self.there.push_back(outgoing);
        }
        if self.fault(80) {
            self.disconnect(outbox);
        }
        if self.below(2) == 0 {
            self.arrive();
        }
        if !self.stale.is_empty() && self.below(10) == 0 {
            let which = self.below(self.stale.len() as u64) as usize;
            let late = self.stale.swap_remove(which);
            self.fleet.apply(late.shard, &command_of(&late.report));
        }
        let turned = usize::from(self.fault(10) && self.back.len() > 1);
        if self.below(2) == 0
            && let Some((shard, epoch, sequence, answer)) = self.back.remove(turned)
        {
            if answer == (Answer::Acked { again: false }) && self.fault(20) {
                self.back.push_back((shard, epoch, sequence, answer.clone()));
            }
            outbox.handle_answer(self.now_ms, shard, epoch, sequence, answer);
        }
        outbox.check_invariants();
        assert_eq!(outbox.fatal(), None);
    }

    /// An instance takes a batch.
    fn arrive(&mut self) {
        let turned = usize::from(self.fault(10) && self.there.len() > 1);
        let Some(outgoing) = self.there.remove(turned) else { return };
        let command = command_of(&outgoing.report);
        let FlowCommand::Report { epoch, sequence, .. } = command else { panic!() };
        let answer = if self.fault(15) {
            // Also where it comes through all the same.
            if self.fault(2) {
                self.stale.push(outgoing.clone());
            }
            Answer::Later("no leader".to_owned())
        } else {
            match self.fleet.apply(outgoing.shard, &command) {
                FlowOutcome::Done(_) => Answer::Acked { again: false },
                FlowOutcome::Again => Answer::Acked { again: true },
                FlowOutcome::Gap(expected) => Answer::Expected(expected),
                FlowOutcome::OldEpoch(other) => Answer::OtherEpoch(other),
                outcome => panic!("{outcome:?}"),
            }
        };
        if self.fault(10) {
            self.stale.push(outgoing.clone());
        }
        self.back.push_back((outgoing.shard, epoch, sequence, answer));
    }

    /// The instance died: some of what it had goes its way, answers do not.
    fn disconnect(&mut self, outbox: &mut Outbox) {
        let lost = std::mem::take(&mut self.there);
        let late: Vec<Outgoing> = lost.into_iter().filter(|_| self.below(2) == 0).collect();
        self.stale.extend(late);
        self.back.clear();
        self.connected = false;
        outbox.handle_disconnected(self.now_ms);
    }

    /// Goes on until all is told.
    fn finish(&mut self, outbox: &mut Outbox) {
        outbox.flush();
        for _ in 0..200_000 {
            if outbox.is_done() {
                return;
            }
            self.step(outbox);
        }
        panic!("it does not come to an end: {:?}", outbox.counters());
    }

    /// A life of a sniffer without its end.
    fn tell(&mut self, outbox: &mut Outbox, events: &[Seen]) {
        let mut events = events.iter();
        while events.len() > 0 {
            for _ in 0..self.below(4) {
                if outbox.room() > 0
                    && let Some(seen) = events.next()
                {
                    outbox.offer(self.now_ms, seen);
                }
            }
            self.step(outbox);
        }
    }
}

/// The fleet as it is if every event comes by itself, once, in order.
fn without_faults(shards: u32, lives: &[&[Seen]]) -> BTreeMap<FlowId, Vec<String>> {
    let mut fleet = Fleet::new(shards);
    for (epoch, life) in (1..).zip(lives) {
        let mut sequences = vec![0; shards as usize];
        for seen in *life {
            let shard = shard_of(FlowId(seen.observed.key.id()), shards);
            sequences[shard as usize] += 1;
            let (sequence, events) = (sequences[shard as usize], vec![seen.observed.clone()]);
            let report =
                FlowCommand::Report { sniffer: SnifferId::of(NAME), epoch, sequence, name: NAME.into(), events };
            assert!(matches!(fleet.apply(shard, &report), FlowOutcome::Done(_)));
        }
    }
    fleet.records()
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..25,
    }
}

/// Killed leaders, doubled batches and restarts leave the counters of a run without them.
#[test]
fn faults_change_no_counter() {
    for seed in seeds() {
        println!("SEED={seed}");
        let shards = 1 + (seed % 5) as u32;
        let mut sim = Sim::new(seed, shards);
        let mut script = Script::new(seed);
        let lives = [script.life(300), script.life(300), script.life(200)];
        // The clock of the last life went back.
        for (life, epoch) in lives.iter().zip([100, 200, 150]) {
            let mut outbox = sim.outbox(epoch, Closing::ByAge);
            sim.tell(&mut outbox, life);
            sim.finish(&mut outbox);
            assert_eq!(outbox.epoch(), if epoch == 150 { 201 } else { epoch });
            assert_eq!(outbox.counters().shed, Shed::default());
            sim.disconnect(&mut outbox);
        }
        for late in std::mem::take(&mut sim.stale) {
            sim.fleet.apply(late.shard, &command_of(&late.report));
        }
        let lives: Vec<&[Seen]> = lives.iter().map(Vec::as_slice).collect();
        assert_eq!(sim.fleet.records(), without_faults(shards, &lives));
    }
}

/// A table has room for so many sniffers only; one that was silent for long and made room goes on with other numbers.
#[test]
fn a_forgotten_sniffer_goes_on() {
    for seed in seeds() {
        println!("SEED={seed}");
        let shards = 1 + (seed % 3) as u32;
        let mut sim = Sim::new(seed, shards);
        let life = Script::new(seed).life(400);
        let mut outbox = sim.outbox(100, Closing::ByAge);
        sim.tell(&mut outbox, &life[..200]);
        sim.finish(&mut outbox);
        sim.disconnect(&mut outbox);
        sim.stale.clear();
        // What it told of has left, so nothing can count twice.
        sim.fleet.passed_ms += FlowLimits::default().ttl_ms;
        for (shard, other) in (0..shards).flat_map(|shard| (0..SNIFFERS_MAX).map(move |other| (shard, other))) {
            let name: Box<str> = format!("other {other}").into();
            let (sniffer, events) = (SnifferId::of(&name), Vec::new());
            sim.fleet.apply(shard, &FlowCommand::Report { sniffer, epoch: 1, sequence: 1, name, events });
        }
        assert!((0..shards).all(|shard| sim.fleet.known(shard).is_none()));
        sim.fleet.passed_ms += FlowLimits::default().ttl_ms;
        (sim.faults, sim.forgotten) = (false, true);
        sim.tell(&mut outbox, &life[200..]);
        sim.finish(&mut outbox);
        assert_eq!(sim.fleet.records(), without_faults(shards, &[&life[200..]]));
        assert!((0..shards).all(|shard| sim.fleet.known(shard).is_some_and(|known| known.epoch == 100)));
    }
}

/// A capture file whose reading was killed and begun again counts once.
#[test]
fn a_file_read_again_counts_once() {
    for seed in seeds() {
        println!("SEED={seed}");
        let shards = 1 + (seed % 3) as u32;
        let mut sim = Sim::new(seed, shards);
        let life = Script::new(seed).life(700);
        for killed in [true, true, false, false] {
            let mut outbox = sim.outbox(1, Closing::BySize);
            if killed {
                let until = sim.below(life.len() as u64) as usize;
                sim.tell(&mut outbox, &life[..until]);
            } else {
                sim.tell(&mut outbox, &life);
                sim.finish(&mut outbox);
            }
            sim.disconnect(&mut outbox);
        }
        assert_eq!(sim.fleet.records(), without_faults(shards, &[&life]));
    }
}

/// Of a life that was killed counts what came through, whole batches of it, and nothing that was acknowledged is lost.
#[test]
fn a_killed_life_leaves_whole_batches() {
    for seed in seeds() {
        println!("SEED={seed}");
        let shards = 1 + (seed % 3) as u32;
        let mut sim = Sim::new(seed, shards);
        let mut script = Script::new(seed);
        let lives = [script.life(400), script.life(200)];
        let mut killed = sim.outbox(1, Closing::ByAge);
        sim.tell(&mut killed, &lives[0]);
        let acked = killed.counters().batches_acked;
        sim.disconnect(&mut killed);
        // What was on its way may still come, until the next life is known.
        let mut outbox = sim.outbox(2, Closing::ByAge);
        let sequence = |known: Option<Reporter>| known.map_or(0, |known| known.sequence);
        let mut applied: Vec<u64> = (0..shards).map(|shard| sequence(sim.fleet.known(shard))).collect();
        let mut going = true;
        while going {
            sim.step(&mut outbox);
            going = false;
            for shard in 0..shards {
                let known = sim.fleet.known(shard);
                if known.as_ref().is_none_or(|known| known.epoch == 1) {
                    applied[shard as usize] = sequence(known);
                    going = true;
                }
            }
        }
        assert!(applied.iter().sum::<u64>() >= acked);
        sim.tell(&mut outbox, &lives[1]);
        sim.finish(&mut outbox);
        let mut fleet = Fleet::new(shards);
        for ((epoch, shard, sequence), report) in &sim.told {
            if *epoch == 2 || *sequence <= applied[*shard as usize] {
                assert!(matches!(fleet.apply(*shard, &command_of(report)), FlowOutcome::Done(_)));
            }
        }
        assert_eq!(sim.fleet.records(), fleet.records());
    }
}

const NAME: &str = "test";
