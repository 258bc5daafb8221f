//! A replica of three among peers that say anything, with a disk that is late: nothing they say ends the process.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, Message};

use super::super::{
    Action, Driver, DriverConfig, GroupStart, Members, SnapshotStart,
    frame::{FrameBuilder, Item},
    members::{encode_meta, snapshot_time},
};
use crate::types::{GroupId, Index, NodeId, Record, State, Term};

/// Steps, each of a kind (1 byte) and what it takes of the bytes that follow; zeros where they end.
pub fn peer(data: &[u8]) {
    let mut input = Input(data);
    let Some(mut world) = World::new() else { return };
    for _ in 0..STEPS_MAX {
        if input.0.is_empty() || world.is_broken {
            return;
        }
        world.step(&mut input);
        world.carry_out();
    }
}

/// Inputs to start from: an election that is won, entries that are taken, a snapshot.
pub fn peer_seeds() -> Vec<Vec<u8>> {
    let ticks = [0, 255];
    // To `Input::message`: kind, sender, then what is near the replica's own numbers.
    let say = |kind: u8, from: u8| [1, kind, from, 2, 2, 2, 2, 0, 0, 0];
    vec![
        [&ticks[..], &say(18, 0), &say(6, 0), &[3, 4], &say(4, 0), &say(9, 1), &[4, 5, 3]].concat(),
        [&say(3, 0)[..], &say(8, 0), &[4], &say(3, 1), &say(7, 1), &[6], &ticks, &say(17, 1)].concat(),
        [&ticks[..], &say(5, 1), &say(14, 1), &say(15, 0), &say(16, 1), &say(13, 0), &[2, 5, 1, 0, 0, 0, 0, 4]]
            .concat(),
    ]
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number near this one, or at an end of all numbers.
    fn near(&mut self, value: u64) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => 0,
            far @ 240.. => u64::MAX << (far - 240),
            step => value.saturating_add(u64::from(step % 8)).saturating_sub(2),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken.to_vec()
    }

    /// A Raft message whose numbers are near those of a replica.
    fn message(&mut self, term: u64, last: u64) -> Message {
        let kind = i32::from(self.byte() % 20);
        let mut message =
            Message { from: 2 + u64::from(self.byte() % 2), to: ME.0, msg_type: kind, ..Message::default() };
        message.term = self.near(term);
        message.index = self.near(last);
        message.log_term = self.near(term);
        message.commit = self.near(last);
        let flags = self.byte();
        message.reject = flags & 1 != 0;
        if flags & 2 != 0 {
            (message.reject_hint, message.commit_term) = (self.near(last), self.near(term));
        }
        if flags & 4 != 0 {
            message.context = self.bytes();
        }
        let step = if flags & 8 != 0 { u64::from(self.byte()) } else { 1 };
        message.entries = (1..=u64::from(self.byte() % 4))
            .map(|place| Entry {
                index: message.index.wrapping_add(place * step),
                term: message.log_term,
                data: self.bytes(),
                entry_type: i32::from(flags >> 4) % 4,
                ..Entry::default()
            })
            .collect();
        if flags & 16 != 0 {
            let metadata = message.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (self.near(last), self.near(term));
            metadata.mut_conf_state().voters = self.bytes().into_iter().map(|id| u64::from(id % 5)).collect();
            metadata.mut_conf_state().learners = self.bytes().into_iter().map(|id| u64::from(id % 5)).collect();
        }
        message
    }
}

struct World {
    driver: Driver,
    now_ms: u64,
    token: u64,
    /// Rounds that the disk has not confirmed.
    rounds: Vec<u64>,
    stored: BTreeMap<Index, (Term, Bytes)>,
    is_broken: bool,
}

/// No state at all.
struct Nothing;

impl State for Nothing {
    fn write_to(&self, _: &mut dyn std::io::Write) -> std::io::Result<()> {
        Ok(())
    }
}

impl World {
    fn new() -> Option<World> {
        let meta = Members::founders(&[ME, NodeId(2), NodeId(3)]);
        let snapshot = Some(SnapshotStart { index: Index(1), term: Term(1), meta });
        let start =
            GroupStart { group: GROUP, term: Term(0), vote: None, commit: Index(0), snapshot, entries: Vec::new() };
        let config = DriverConfig { compact_entries: 8, tail_entries: 2, ..DriverConfig::new(ME, 1) };
        let driver = Driver::new(config, vec![start]).ok()?;
        Some(World { driver, now_ms: 0, token: 0, rounds: Vec::new(), stored: BTreeMap::new(), is_broken: false })
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let Some(status) = self.driver.status(GROUP) else { return };
        let (term, last) = (status.term.0, status.last.0);
        match input.byte() % 10 {
            0 => self.tick(input.byte()),
            1 | 8 | 9 => {
                let message = input.message(term, last);
                let mut frame = FrameBuilder::default();
                frame.add(GROUP, &Item::Raft(prost011::Message::encode_to_vec(&message).into()));
                frame.finish().iter().for_each(|frame| self.driver.handle_frame(NodeId(message.from), frame));
            }
            2 => self.driver.handle_frame(NodeId(2), &Bytes::from(input.bytes())),
            3 => {
                self.token += 1;
                self.driver.propose(GROUP, self.token, Bytes::from_static(b"data"));
            }
            4 => {
                let rounds = std::mem::take(&mut self.rounds);
                rounds.into_iter().for_each(|round| self.driver.handle_persisted(round));
            }
            5 => {
                let message = input.message(term, last);
                let metadata = message.get_snapshot().get_metadata();
                let place = (Index(input.near(metadata.index)), Term(metadata.term));
                let bytes = prost011::Message::encode_to_vec(&message);
                // A file that says something else than its message is never taken.
                let snapshot = message.get_snapshot();
                let meta = encode_meta(snapshot.get_metadata().get_conf_state(), snapshot_time(snapshot));
                self.driver.handle_snapshot(NodeId(message.from), GROUP, &bytes, place, &meta);
            }
            6 => {
                self.driver.read_index(GROUP, u64::from(input.byte()));
                self.driver.transfer(GROUP, NodeId(2 + u64::from(input.byte() % 3)));
            }
            _ => self.driver.handle_peer_down(NodeId(2), input.byte() < 128),
        }
    }

    fn tick(&mut self, count: u8) {
        for _ in 0..count {
            self.now_ms += 10;
            self.driver.set_now(self.now_ms);
            self.driver.handle_tick();
        }
    }

    /// Does what the driver asks for, but for the confirmation of rounds.
    fn carry_out(&mut self) {
        for action in self.driver.poll() {
            match action {
                Action::Snapshot { group } => {
                    let applied = self.driver.status(group).map(|status| status.applied).unwrap_or_default();
                    self.driver.snapshot(group, applied, Arc::new(Nothing));
                }
                Action::StoreSnapshot { group, index, .. } => self.driver.handle_snapshot_stored(group, index, true),
                Action::ReadLog { group, from, to, .. } => {
                    let found = self.stored.range(from..to.max(from));
                    let entries: Vec<_> = found.map(|(index, (term, data))| (*index, *term, data.clone())).collect();
                    self.driver.handle_log_read(group, from, &entries);
                }
                Action::Persist { round, records, .. } => {
                    self.rounds.push(round);
                    self.store(records);
                }
                Action::SendSnapshot { to, group, .. } => self.driver.handle_snapshot_sent(group, to, true),
                Action::Broken { .. } => self.is_broken = true,
                _ => {}
            }
        }
    }

    fn store(&mut self, records: Vec<Record>) {
        for record in records {
            if let Record::Entry { index, term, data, .. } = record {
                self.stored.split_off(&index);
                self.stored.insert(index, (term, data));
            }
        }
    }
}

const ME: NodeId = NodeId(1);
const GROUP: GroupId = GroupId(0);

/// The most steps of one input.
const STEPS_MAX: usize = 500;
