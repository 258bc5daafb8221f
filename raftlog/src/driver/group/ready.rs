//! What the core has to say, carried on: entries and hard states to the disk, messages to peers, commits to the owner.

use bytes::Bytes;
use prost011::Message as _;
use raft::{
    INVALID_ID,
    eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType},
};

use super::{Group, InFlight, Outbox, Persist};
use crate::{
    driver::{
        action::{Action, Committed, Rejection},
        config::{Counters, DriverConfig},
        entry::{asked_by, content, decode_entry},
        frame::Item,
        memlog::entry_time,
        sound::sound_change,
    },
    plant::{self, Plant},
    types::{Index, NodeId, Record, Term},
};

/// What a group may add to while it is drained.
pub struct Round<'a> {
    pub persist: &'a mut Persist,
    pub outbox: &'a mut Outbox,
    pub actions: &'a mut Vec<Action>,
    pub counters: &'a mut Counters,
    pub config: &'a DriverConfig,
    pub now_ms: u64,
    /// About how much of each group's log is in memory.
    pub memory_bytes: u64,
}

impl Group {
    /// Works until the core has nothing more to say. True if something of this group waits for the round at hand.
    pub fn drain(&mut self, round: &mut Round<'_>) -> bool {
        self.propose_all(round);
        self.prove_reads();
        while self.node.has_ready() {
            self.handle_ready(round);
        }
        self.show_role(round.actions);
        self.note_cut(round.persist);
        self.ask_for_snapshot(round.actions, round.config, round.now_ms);
        for (from, to) in self.node.store().take_reads() {
            let (group, from, to) = (self.id, Index(from), Index(to));
            round.actions.push(Action::ReadLog { group, from, to, max_bytes: READ_BYTES_MAX });
        }
        self.in_flight.back().is_some_and(|last| last.round == round.persist.round)
    }

    /// All rounds up to this one are on disk.
    pub fn persisted(&mut self, round: u64, outbox: &mut Outbox, actions: &mut Vec<Action>, counters: &mut Counters) {
        while self.in_flight.front().is_some_and(|ready| ready.round <= round) {
            let Some(ready) = self.in_flight.pop_front() else { return };
            self.node.on_persist_ready(ready.number);
            self.stored_term = ready.term;
            if let Some((index, time_ms)) = ready.restore {
                self.applied_time_ms = time_ms;
                actions.push(Action::Restore { group: self.id, index: Index(index) });
                self.node.advance_apply_to(index);
            }
            for message in ready.messages {
                outbox.add_message(self.id, &message, counters);
            }
        }
    }

    /// Old entries were read from disk, from `from` on: who waits for them goes on.
    pub fn handle_log_read(&mut self, from: Index, stored: &[(Index, Term, Bytes)], counters: &mut Counters) {
        let decoded: Result<Vec<Entry>, _> =
            stored.iter().map(|(index, term, data)| decode_entry(self.id, *index, *term, data)).collect();
        let decoded = if plant::on(Plant::WrongLogRead) { decoded.map(one_place_off) } else { decoded };
        let entries = match decoded {
            Ok(entries) => entries,
            Err(error) => {
                self.broken.get_or_insert(error.to_string());
                return;
            }
        };
        // The log may have been cut since they were asked for.
        if entries.is_empty() && from.0 > self.node.store().base_index {
            let text = format!("the log on disk has no entry {from}, which it should have");
            self.broken.get_or_insert(text);
            return;
        }
        counters.entries_read += entries.len() as u64;
        for context in self.node.store().found(from.0, entries) {
            self.node.on_entries_fetched(context);
        }
        self.node.store().forget_read();
    }

    fn propose_all(&mut self, round: &mut Round<'_>) {
        if self.proposals.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut self.proposals);
        // A replica that leads no more must not have the core pass them on: their stamps are of its own clock.
        if self.leads() {
            let tokens: Vec<(NodeId, u64)> = entries.iter().filter_map(asked_by).collect();
            if !self.append(entries) || plant::on(Plant::RefusedYetAppended) {
                self.refuse(tokens, Rejection::Overloaded, round);
            }
        } else {
            let tokens = entries.iter().filter_map(asked_by).collect();
            self.refuse(tokens, Rejection::NoLeader, round);
        }
    }

    fn refuse(&self, tokens: Vec<(NodeId, u64)>, reason: Rejection, round: &mut Round<'_>) {
        for (origin, token) in tokens {
            if origin == self.me {
                round.actions.push(Action::Rejected { group: self.id, token, reason });
            } else {
                round.outbox.add(origin, self.id, Item::Refuse { token, reason });
            }
        }
    }

    fn append(&mut self, entries: Vec<Entry>) -> bool {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.me.0;
        message.entries = entries;
        self.node.raft.step(message).is_ok()
    }

    /// All reads of this round are proven by one question.
    fn prove_reads(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.reads);
        let number = self.next_batch;
        self.next_batch = number.wrapping_add(1);
        if self.batches.len() >= READ_BATCHES_MAX {
            // Lost on the way; whoever asked asks again.
            self.batches.pop_front();
        }
        self.batches.push_back((number, batch));
        self.node.read_index(number.to_be_bytes().to_vec());
    }

    fn reads_proven(&mut self, number: u64, index: u64, actions: &mut Vec<Action>) {
        let Some(place) = self.batches.iter().position(|(known, _)| *known == number) else { return };
        let Some((_, batch)) = self.batches.remove(place) else { return };
        let index = index - u64::from(plant::on(Plant::ReadBehind));
        let ready = |context| Action::ReadReady { group: self.id, context, index: Index(index) };
        actions.extend(batch.into_iter().map(ready));
    }

    fn handle_ready(&mut self, round: &mut Round<'_>) {
        let mut ready = self.node.ready();
        let mut now = ready.take_messages();
        let mut after = ready.take_persisted_messages();
        // An only voter leads without anybody's word: before its own disk knows of the term, a crash lets it lead in
        // the same term again, with other entries than those that learners were sent.
        if self.node.raft.prs().is_singleton() {
            after.splice(..0, now.drain(..));
        }
        let mut store = false;
        let mut restore = None;
        if !ready.snapshot().is_empty() {
            restore = Some(self.take_snapshot(ready.snapshot(), round.persist));
            round.counters.snapshots_installed += 1;
            store = true;
        }
        let entries = ready.take_entries();
        let appends = !entries.is_empty();
        if appends {
            self.take_entries(entries, round.persist);
            store = true;
        }
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().hard_state = hard_state.clone();
            store |= ready.must_sync();
        }
        if store {
            round.persist.records.push(self.hard_state(0));
            round.persist.sync |= appends || restore.is_some() || !plant::on(Plant::SkippedHardState);
        }
        for read in ready.take_read_states() {
            if let Ok(context) = <[u8; 8]>::try_from(read.request_ctx.as_slice()) {
                self.reads_proven(u64::from_be_bytes(context), read.index, round.actions);
            }
        }
        let committed = ready.take_committed_entries();
        let number = ready.number();
        self.node.advance_append_async(ready);
        // An answer to a heartbeat says that its term is known, and nothing of entries: it need not wait for those. Else a
        // disk that stalls would look like a majority that is gone.
        let term = self.stored_term;
        now.extend(after.extract_if(.., |message| is_heartbeat_answer(message) && message.term == term));
        for message in &now {
            round.outbox.add_message(self.id, message, round.counters);
        }
        if plant::on(Plant::AckBeforeFsync) {
            for message in after.drain(..) {
                round.outbox.add_message(self.id, &message, round.counters);
            }
        }
        if store {
            let messages = after;
            let term = self.node.store().hard_state.term;
            self.in_flight.push_back(InFlight { round: round.persist.round, number, term, messages, restore });
        } else if let Some(last) = self.in_flight.back_mut() {
            // What needs nothing stored still waits for what is on its way to the disk before it.
            last.number = number;
            last.messages.extend(after);
        } else {
            self.node.on_persist_ready(number);
            for message in &after {
                round.outbox.add_message(self.id, message, round.counters);
            }
        }
        self.apply(committed, round);
    }

    /// Term, vote, and what is known to be committed: at least up to `index`.
    fn hard_state(&self, index: u64) -> Record {
        let known = &self.node.store().hard_state;
        Record::HardState {
            group: self.id,
            term: Term(known.term),
            vote: (known.vote != INVALID_ID).then_some(NodeId(known.vote)),
            commit: Index(known.commit.max(index)),
        }
    }

    /// One buffer holds them all: a round of many entries takes one allocation, not one for each.
    fn take_entries(&mut self, entries: Vec<Entry>, persist: &mut Persist) {
        let mut buffer = Vec::with_capacity(entries.iter().map(Entry::encoded_len).sum());
        let mut ends = Vec::with_capacity(entries.len());
        for entry in &entries {
            entry.encode_raw(&mut buffer);
            ends.push(buffer.len());
        }
        let mut rest = Bytes::from(buffer);
        let mut begin = 0;
        for (entry, end) in entries.iter().zip(ends) {
            persist.records.push(Record::Entry {
                group: self.id,
                index: Index(entry.index),
                term: Term(entry.term),
                data: rest.split_to(end - begin),
            });
            begin = end;
        }
        self.node.mut_store().append(entries);
    }

    fn apply(&mut self, entries: Vec<Entry>, round: &mut Round<'_>) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        let mut applied = Vec::with_capacity(entries.len());
        for entry in entries {
            self.applied_time_ms = self.applied_time_ms.max(entry_time(&entry));
            if entry.entry_type() != EntryType::EntryNormal {
                self.apply_members(&entry);
                // Else a crash might forget that the change is committed, and who stayed would need the vote of who left.
                round.persist.records.push(self.hard_state(entry.index));
                round.persist.sync = true;
            }
            applied.push(Committed {
                index: Index(entry.index),
                term: Term(entry.term),
                time_ms: self.applied_time_ms,
                content: content(entry, &self.node.store().members),
            });
        }
        round.counters.committed += applied.len() as u64;
        if plant::on(Plant::EntriesAppliedTwice) && applied.len() > 2 {
            round.actions.push(Action::Apply { group: self.id, entries: applied.clone() });
        }
        round.actions.push(Action::Apply { group: self.id, entries: applied });
        self.node.advance_apply_to(last);
        self.node.mut_store().evict(last, round.memory_bytes);
    }

    fn apply_members(&mut self, entry: &Entry) {
        let Some(change) = ConfChangeV2::decode(entry.data.as_slice()).ok().filter(sound_change) else { return };
        // A change that the core refuses changes nothing, here as on every other replica.
        if let Ok(members) = self.node.apply_conf_change(&change) {
            let log = self.node.mut_store();
            log.members = members;
            log.members_index = entry.index;
        }
        // A leader that applied its own removal must not go on as one: the core would panic.
        if self.leads() && !self.node.raft.promotable() {
            self.resign();
        }
    }

    fn show_role(&mut self, actions: &mut Vec<Action>) {
        let now = (self.role(), self.node.raft.term, self.node.raft.leader_id);
        if now != self.shown {
            self.shown = now;
            let (role, term, leader) = (now.0, Term(now.1), self.leader());
            actions.push(Action::Role { group: self.id, role, term, leader });
        }
    }
}

fn is_heartbeat_answer(message: &Message) -> bool {
    message.msg_type() == MessageType::MsgHeartbeatResponse
}

/// A planted bug: each entry but the first is what the one before it should be.
fn one_place_off(mut entries: Vec<Entry>) -> Vec<Entry> {
    for place in 1..entries.len() {
        let data = std::mem::take(&mut entries[place].data);
        entries[place - 1].data = data;
    }
    entries
}

/// Most batches of reads that wait for a proof at once.
const READ_BATCHES_MAX: usize = 256;

/// Most bytes read from disk for a follower at once.
const READ_BYTES_MAX: u64 = 1 << 20;
