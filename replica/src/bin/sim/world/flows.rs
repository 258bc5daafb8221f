//! Sniffers: batches that are sent to any instance, again and late, by sniffers that begin new lives. What was acknowledged
//! is counted, and nothing is counted twice.

use flow::{
    flows::{Counts, End, FlowCommand, FlowId, FlowOutcome, FlowTable, Observed, SnifferId, Standing, shard_of},
    tuple::{Endpoint, FlowKey},
};
use replica::Reported;

use super::*;

/// One sniffer and what it has to tell.
#[derive(Default)]
pub(super) struct Sniffer {
    epoch: u64,
    /// Packets counted in this life, by the port that names the flow.
    counted: BTreeMap<u16, u64>,
    shards: BTreeMap<u32, Line>,
    /// What earlier lives are known to have counted, and what they may have.
    before: BTreeMap<u16, (u64, u64)>,
}

/// What goes to one shard.
#[derive(Default)]
struct Line {
    last: u64,
    /// Batches without an answer: their bytes, and what they say.
    open: BTreeMap<u64, (Bytes, BTreeMap<u16, u64>)>,
    /// Batches that were answered: sent again once in a while.
    done: Vec<(u64, Bytes)>,
    /// What is to be said of which flow.
    pending: BTreeMap<u16, u64>,
    /// What this life is known to have had counted, and the most that it may have.
    acked: BTreeMap<u16, u64>,
    told: BTreeMap<u16, u64>,
}

impl World {
    /// A sniffer sees packets, and tells of them.
    pub(super) fn sniff(&mut self) {
        let next_us = self.random.range(20_000, 150_000);
        if self.now_us + SETTLE_US < self.end_us {
            self.after(next_us, Event::Sniff);
        }
        let one = self.random.below(SNIFFERS as u64) as usize;
        if self.random.chance(20) && !self.calm {
            self.sniffers[one].begin_again();
            self.say(|| format!("sniffer {one} begins life {}", self.sniffers[one].epoch));
        }
        for _ in 0..self.random.range(1, 6) {
            let port = self.random.range(1, u64::from(FLOWS) + 1) as u16;
            let more = self.random.range(1, 9);
            let sniffer = &mut self.sniffers[one];
            let count = sniffer.counted.entry(port).or_default();
            *count += more;
            let line = sniffer.shards.entry(shard(one, port)).or_default();
            line.pending.insert(port, *count);
        }
        for shard in 0..FLOW_GROUPS {
            self.tell(one, shard);
        }
    }

    fn tell(&mut self, one: usize, shard: u32) {
        let (again, stale) = (self.random.chance(400), self.random.chance(100));
        let sniffer = &mut self.sniffers[one];
        let epoch = sniffer.epoch;
        let line = sniffer.shards.entry(shard).or_default();
        let mut sends = Vec::new();
        if line.open.len() < IN_FLIGHT && !line.pending.is_empty() {
            line.last += 1;
            let says = std::mem::take(&mut line.pending);
            for (port, count) in &says {
                line.told.insert(*port, *count);
            }
            let events = says.iter().map(|(port, count)| observed(one, *port, *count)).collect();
            let (sniffer, sequence) = (SnifferId(one as u64), line.last);
            let name = format!("sniffer-{one}").into();
            let bytes = Bytes::from(FlowCommand::Report { sniffer, epoch, sequence, name, events }.encode());
            line.open.insert(line.last, (bytes.clone(), says));
            sends.push((line.last, bytes));
        } else if let Some((sequence, (bytes, _))) = line.open.first_key_value().filter(|_| again) {
            sends.push((*sequence, bytes.clone()));
        }
        if stale && let Some((sequence, bytes)) = line.done.last() {
            sends.push((*sequence, bytes.clone()));
        }
        for (sequence, bytes) in sends {
            let node = self.random.below(self.machines.len() as u64) as usize;
            let patience_ms = if self.random.chance(300) { self.random.range(1, 50) } else { 2_000 };
            let ticket = self.ticket(node, Asked::Report { one, epoch, shard, sequence });
            let (life, now_ms) = (self.machines[node].life, self.machines[node].now_ms(self.now_us));
            if !self.asleep(node) {
                self.with(node, life, |running| running.replica.report(ticket, shard, bytes, now_ms + patience_ms));
            }
        }
    }

    pub(super) fn reported(&mut self, node: usize, ticket: Ticket, answer: Reported) {
        let life = self.machines[node].life;
        let Some(Asked::Report { one, epoch, shard, sequence }) = self.asked.remove(&(node, life, ticket)) else {
            return;
        };
        let sniffer = &mut self.sniffers[one];
        let old = sniffer.epoch != epoch;
        match answer {
            Ok(FlowOutcome::Done(_) | FlowOutcome::Again) => {
                self.batches_acked += 1;
                if old {
                    return;
                }
                let line = sniffer.shards.entry(shard).or_default();
                if let Some((bytes, says)) = line.open.remove(&sequence) {
                    line.acked.extend(says);
                    line.done.push((sequence, bytes));
                }
            }
            // It comes again, after the one that is missing.
            Ok(FlowOutcome::Gap(expected)) if old || expected < sequence => {}
            Ok(FlowOutcome::OldEpoch(_)) if old => {}
            Ok(outcome) => self.judge.blame(format!("batch {sequence} of sniffer {one} was answered {outcome:?}")),
            Err(SubmitError::NotDone(_) | SubmitError::NoMember | SubmitError::Unknown) => {}
        }
    }

    /// What was acknowledged is in the tables, and nothing is there twice.
    pub(super) fn judge_flows(&mut self) {
        let Some(node) = (0..self.machines.len()).find(|node| self.machines[*node].leads(FLOW_GROUP)) else { return };
        let Some(running) = self.machines[node].running() else { return };
        let tables: Vec<FlowTable> =
            (0..FLOW_GROUPS).filter_map(|shard| running.flows.get(&GroupId(FLOW_GROUP.0 + shard)).cloned()).collect();
        let mut wrong = Vec::new();
        for (one, sniffer) in self.sniffers.iter().enumerate() {
            for port in 1..=FLOWS {
                let shard = shard(one, port);
                let Some(table) = tables.get(shard as usize) else { continue };
                let (mut least, mut most) = sniffer.before.get(&port).copied().unwrap_or_default();
                if let Some(line) = sniffer.shards.get(&shard) {
                    least += line.acked.get(&port).copied().unwrap_or(0);
                    most += line.told.get(&port).copied().unwrap_or(0);
                }
                let record = table.get(FlowId(key(one, port).id()));
                let found = record.map_or(0, |record| record.counts().iter().map(|side| side.packets).sum::<u64>());
                // What ended has left, if its time is over.
                let gone = record.is_none() && port % 4 == 0;
                if (found < least && !gone) || found > most {
                    wrong.push(format!("flow {port} of sniffer {one} counts {found}, and should {least} to {most}"));
                }
            }
        }
        for table in &tables {
            let late = table.newest().find(|(_, record)| record.expires.0 + EXPIRE_WITHIN_MS < table.time().0);
            wrong.extend(late.map(|(flow, _)| format!("{flow:?} should have left the table")));
        }
        wrong.into_iter().for_each(|text| self.judge.blame(text));
        if self.batches_acked == 0 {
            self.judge.blame("no batch of a sniffer was acknowledged".to_owned());
        }
    }
}

impl Sniffer {
    /// It crashed, and counts from zero: what was not acknowledged may count or not.
    fn begin_again(&mut self) {
        for line in std::mem::take(&mut self.shards).into_values() {
            for (port, told) in line.told {
                let (least, most) = self.before.entry(port).or_default();
                *least += line.acked.get(&port).copied().unwrap_or(0);
                *most += told;
            }
        }
        self.counted.clear();
        self.epoch += 1;
    }
}

fn key(one: usize, port: u16) -> FlowKey {
    let (version, source) = Endpoint::new([10, 0, 0, one as u8].into(), port);
    let (_, destination) = Endpoint::new([10, 1, 0, 1].into(), 443);
    FlowKey::of(version, 6, source, destination).0
}

fn shard(one: usize, port: u16) -> u32 {
    shard_of(FlowId(key(one, port).id()), FLOW_GROUPS)
}

fn observed(one: usize, port: u16, packets: u64) -> Observed {
    let over = port.is_multiple_of(4);
    Observed {
        key: key(one, port),
        seventh: None,
        from_low: true,
        standing: if over { Standing::Ended } else { Standing::Established },
        end: over.then_some(End::Closed),
        first_us: 1,
        last_us: packets,
        counts: [Counts { packets, bytes: packets }, Counts::default()],
        tcp_flags: [0; 2],
        vlan: None,
        sample: 1,
        label: None,
    }
}

pub(super) const SNIFFERS: usize = 2;

/// How many flow groups there are.
pub(super) const FLOW_GROUPS: u32 = 2;

/// The first of them.
const FLOW_GROUP: GroupId = GroupId(PIN_GROUPS + 1);

/// So many flows a sniffer sees; every fourth ends at once.
const FLOWS: u16 = 12;

/// Most batches of a shard without an answer.
const IN_FLIGHT: usize = 2;

/// A leader that runs lets log time advance; a record that is due is gone soon after.
const EXPIRE_WITHIN_MS: u64 = 3_000;
