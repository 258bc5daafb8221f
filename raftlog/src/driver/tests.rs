//! Drivers in memory, with wires that lose nothing unless they are cut and disks that are never late.

mod alone;
mod hostile;
mod leaving;
mod liveness;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::{Message, MessageType};

use super::*;
use crate::types::Record;

const GROUP: GroupId = GroupId(0);

/// Replicas 1, 2, ... with what each has applied.
struct Fleet {
    drivers: BTreeMap<NodeId, Driver>,
    applied: BTreeMap<NodeId, Vec<String>>,
    rejected: Vec<(NodeId, u64, Rejection)>,
    proven: Vec<(NodeId, u64, Index)>,
    words: Vec<(NodeId, NodeId, Bytes)>,
    restored: BTreeSet<NodeId>,
    /// Snapshot files: those stored, and those that came in for whom.
    files: BTreeMap<(NodeId, Index, Term), (String, Bytes)>,
    received: BTreeMap<(NodeId, Index), String>,
    /// All that was stored of each log.
    stored: BTreeMap<(NodeId, Index), (Term, Bytes)>,
    /// What each disk knows to be committed.
    committed: BTreeMap<NodeId, Index>,
    /// Who is reached by nobody and reaches nobody.
    cut: BTreeSet<NodeId>,
    now_ms: u64,
}

/// What a replica has applied, as its state.
struct Text(String);

impl State for Text {
    fn write_to(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        out.write_all(self.0.as_bytes())
    }
}

fn text_of(state: &dyn State) -> String {
    let mut bytes = Vec::new();
    state.write_to(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn config(id: u64) -> DriverConfig {
    let tuning = Tuning { spread: false, ..Tuning::default() };
    DriverConfig { compact_entries: 20, tail_entries: 2, tuning, ..DriverConfig::new(NodeId(id), id) }
}

fn founder(founders: &[u64]) -> GroupStart {
    let ids: Vec<NodeId> = founders.iter().map(|id| NodeId(*id)).collect();
    let snapshot = SnapshotStart { index: Index(1), term: Term(1), meta: Members::founders(&ids) };
    GroupStart { snapshot: Some(snapshot), ..joiner() }
}

fn joiner() -> GroupStart {
    GroupStart { group: GROUP, term: Term(0), vote: None, commit: Index(0), snapshot: None, entries: Vec::new() }
}

impl Fleet {
    fn new(founders: &[u64]) -> Self {
        let mut fleet = Self {
            drivers: BTreeMap::new(),
            applied: BTreeMap::new(),
            rejected: Vec::new(),
            proven: Vec::new(),
            words: Vec::new(),
            restored: BTreeSet::new(),
            files: BTreeMap::new(),
            received: BTreeMap::new(),
            stored: BTreeMap::new(),
            committed: BTreeMap::new(),
            cut: BTreeSet::new(),
            now_ms: 0,
        };
        for id in founders {
            fleet.start(*id, founder(founders));
        }
        fleet
    }

    fn start(&mut self, id: u64, start: GroupStart) {
        self.drivers.insert(NodeId(id), Driver::new(config(id), vec![start]).unwrap());
        self.applied.insert(NodeId(id), Vec::new());
    }

    /// So many ticks of 10 ms, with all that follows from each.
    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.now_ms += 10;
            for driver in self.drivers.values_mut() {
                driver.set_now(self.now_ms);
                driver.handle_tick();
            }
            self.drain();
        }
    }

    /// Until nobody has anything to do.
    fn drain(&mut self) {
        loop {
            let ids: Vec<NodeId> = self.drivers.keys().copied().collect();
            let mut quiet = true;
            for id in ids {
                let actions = self.drivers.get_mut(&id).map(Driver::poll).unwrap_or_default();
                quiet &= actions.is_empty();
                for action in actions {
                    self.carry_out(id, action);
                }
                self.drivers[&id].check_invariants();
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, id: NodeId, action: Action) {
        let reaches = |to: &NodeId| !self.cut.contains(&id) && !self.cut.contains(to);
        match action {
            Action::Apply { entries, .. } => {
                let texts = entries.into_iter().filter_map(|entry| match entry.content {
                    Content::Data { data, .. } => Some(String::from_utf8(data.to_vec()).unwrap()),
                    _ => None,
                });
                self.applied.entry(id).or_default().extend(texts);
            }
            Action::Restore { index, .. } => {
                self.restored.insert(id);
                let texts = self.received[&(id, index)].split_whitespace().map(str::to_owned);
                self.applied.insert(id, texts.collect());
            }
            Action::Snapshot { group } => {
                let state = Arc::new(Text(self.applied[&id].join(" ")));
                let applied = self.drivers[&id].status(group).unwrap().applied;
                self.driver(id).snapshot(group, applied, state);
            }
            Action::StoreSnapshot { group, index, term, meta, state } => {
                self.files.insert((id, index, term), (text_of(state.as_ref()), meta));
                self.driver(id).handle_snapshot_stored(group, index, true);
            }
            Action::ReadLog { group, from, to, max_bytes } => {
                let mut bytes = 0;
                let found = self.stored.range((id, from)..(id, to)).take_while(|(_, (_, data))| {
                    let first = bytes == 0;
                    bytes += data.len() as u64;
                    first || bytes <= max_bytes
                });
                let entries: Vec<_> = found.map(|((_, index), (term, data))| (*index, *term, data.clone())).collect();
                self.driver(id).handle_log_read(group, from, &entries);
            }
            Action::Persist { round, records, .. } => {
                for record in records {
                    match record {
                        Record::Entry { index, term, data, .. } => {
                            self.stored.insert((id, index), (term, data));
                        }
                        Record::HardState { commit, .. } => {
                            self.committed.insert(id, commit);
                        }
                        Record::Snapshot { .. } => {}
                    }
                }
                self.driver(id).handle_persisted(round);
            }
            Action::Send { to, frame } if reaches(&to) => {
                if let Some(driver) = self.drivers.get_mut(&to) {
                    driver.handle_frame(id, &frame);
                }
            }
            Action::SendSnapshot { to, group, index, term, message } => {
                let arrives = reaches(&to);
                let Some((text, meta)) = self.files.get(&(id, index, term)).cloned() else {
                    self.driver(id).handle_snapshot_unreadable(group, (index, term));
                    self.driver(id).handle_snapshot_sent(group, to, false);
                    return;
                };
                if let Some(driver) = self.drivers.get_mut(&to).filter(|_| arrives)
                    && driver.handle_snapshot(id, group, &message, (index, term), &meta)
                {
                    self.received.insert((to, index), text);
                }
                self.driver(id).handle_snapshot_sent(group, to, arrives);
            }
            Action::Rejected { token, reason, .. } => self.rejected.push((id, token, reason)),
            Action::ReadReady { context, index, .. } => self.proven.push((id, context, index)),
            Action::Word { from, bytes, .. } => self.words.push((from, id, bytes)),
            Action::Broken { why, .. } => panic!("{id}: {why}"),
            Action::Send { .. } | Action::Role { .. } => {}
        }
    }

    fn driver(&mut self, id: NodeId) -> &mut Driver {
        self.drivers.get_mut(&id).unwrap()
    }

    /// Runs until some replica that is not cut leads.
    fn elect(&mut self) -> NodeId {
        for _ in 0..200 {
            self.run(1);
            let mut leaders = self.drivers.iter().filter(|(id, driver)| driver.leads(GROUP) && !self.cut.contains(id));
            if let Some((id, _)) = leaders.next() {
                return *id;
            }
        }
        panic!("nobody leads after two seconds");
    }

    fn propose(&mut self, at: NodeId, token: u64, text: &str) {
        self.driver(at).propose(GROUP, token, Bytes::copy_from_slice(text.as_bytes()));
        self.drain();
    }

    fn check(&self, ids: &[NodeId], expected: &[&str]) {
        for id in ids {
            assert_eq!(self.applied[id], expected, "what {id} has applied");
        }
    }

    fn others(&self, not: NodeId) -> Vec<NodeId> {
        self.drivers.keys().copied().filter(|id| *id != not).collect()
    }
}

#[test]
fn one_alone_leads_and_commits() {
    let mut fleet = Fleet::new(&[1]);
    let leader = fleet.elect();
    fleet.propose(leader, 1, "a");
    fleet.check(&[leader], &["a"]);
}

#[test]
fn three_elect_one_and_apply_alike_whoever_proposes() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let ids: Vec<NodeId> = fleet.drivers.keys().copied().collect();
    fleet.run(10);
    for (token, id) in (1..).zip(&ids) {
        fleet.propose(*id, token, &format!("from-{id}"));
    }
    fleet.run(10);
    fleet.check(&ids, &["from-1", "from-2", "from-3"]);
    assert_eq!(ids.iter().filter(|id| fleet.drivers[id].leads(GROUP)).collect::<Vec<_>>(), [&leader]);
    assert!(ids.iter().all(|id| fleet.drivers[id].leader(GROUP) == Some(leader)));
}

#[test]
fn the_others_go_on_without_the_leader_and_it_learns_what_it_missed() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let old = fleet.elect();
    fleet.propose(old, 1, "before");
    fleet.cut.insert(old);
    fleet.propose(old, 2, "never");
    let new = fleet.elect();
    assert_ne!(new, old);
    fleet.propose(new, 3, "after");
    fleet.check(&fleet.others(old), &["before", "after"]);
    fleet.run(100);
    assert!(!fleet.drivers[&old].leads(GROUP), "without a majority it steps down");
    fleet.cut.clear();
    fleet.run(100);
    fleet.check(&[old], &["before", "after"]);
}

#[test]
fn a_process_that_is_gone_is_replaced_without_waiting_for_a_timeout() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let old = fleet.elect();
    fleet.run(10);
    fleet.cut.insert(old);
    for id in fleet.others(old) {
        fleet.driver(id).handle_peer_down(old, true);
    }
    let before = fleet.now_ms;
    assert_ne!(fleet.elect(), old);
    assert!(fleet.now_ms - before <= 100, "it took {} ms", fleet.now_ms - before);
}

#[test]
fn log_time_never_goes_back_and_a_new_leader_goes_on_from_its_log() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let old = fleet.elect();
    fleet.run(50);
    fleet.propose(old, 1, "a");
    let last = fleet.drivers[&old].log_time(GROUP).unwrap();
    assert!(last >= 400);
    // The others' clocks stand elsewhere.
    fleet.cut.insert(old);
    let new = fleet.elect();
    let time = fleet.drivers[&new].log_time(GROUP).unwrap();
    assert!(time >= last && time < last + 100, "{time} follows {last}");
    assert_eq!(fleet.drivers[&fleet.others(new)[0]].log_time(GROUP).is_some(), fleet.others(new)[0] == old);
}

#[test]
fn a_clock_of_which_no_entry_tells_ends_with_the_leadership() {
    // Once it went on when the same replica led again: minutes more than any lease granted in between allowed for.
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let first = fleet.elect();
    let second = fleet.others(first)[0];
    fleet.run(5);
    fleet.propose(first, 1, "a");
    let stamped = fleet.drivers[&first].log_time(GROUP).unwrap();
    fleet.run(60_000);
    assert!(fleet.drivers[&first].log_time(GROUP).unwrap() >= stamped + 599_000, "ten quiet minutes");
    fleet.driver(first).transfer(GROUP, second);
    fleet.run(20);
    let granted = fleet.drivers[&second].log_time(GROUP).unwrap();
    assert!(granted <= stamped + 200, "{granted} goes on from {stamped}, the last that an entry carries");
    fleet.propose(second, 2, "b");
    fleet.driver(second).transfer(GROUP, first);
    fleet.run(20);
    let again = fleet.drivers[&first].log_time(GROUP).unwrap();
    assert!((granted..=granted + 200).contains(&again), "{again} is within 200 ms of {granted}");
}

#[test]
fn the_stamp_of_an_entry_that_was_cut_off_counts_no_more_and_those_that_are_left_do() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let first = fleet.elect();
    fleet.run(30);
    fleet.propose(first, 1, "kept");
    let kept = fleet.drivers[&first].log_time(GROUP).unwrap();
    fleet.run(60_000);
    // Ten minutes later it appends an entry that nobody else gets, and another leads.
    fleet.cut.insert(first);
    fleet.propose(first, 2, "cut off");
    let second = fleet.elect();
    fleet.propose(second, 3, "b");
    fleet.cut.clear();
    fleet.run(50);
    fleet.check(&[first], &["kept", "b"]);
    fleet.driver(second).transfer(GROUP, first);
    fleet.run(20);
    let time = fleet.drivers[&first].log_time(GROUP).unwrap();
    assert!((kept..kept + 5000).contains(&time), "{time} goes on from {kept}");
}

#[test]
fn who_leads_no_more_refuses_what_was_proposed_to_it_and_does_not_pass_it_on() {
    // The core would pass it on, stamped by a clock that nobody else knows of.
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let first = fleet.elect();
    let second = fleet.others(first)[0];
    fleet.run(5);
    let status = fleet.drivers[&first].status(GROUP).unwrap();
    fleet.driver(first).propose(GROUP, 7, Bytes::from_static(b"late"));
    let mut beat = raw(second, first, MessageType::MsgHeartbeat);
    beat.term = status.term.0 + 1;
    fleet.driver(first).handle_frame(second, &framed(&beat));
    let actions = fleet.driver(first).poll();
    assert!(actions.iter().any(|action| matches!(action, Action::Rejected { token: 7, .. })), "{actions:?}");
    for action in actions {
        if let Action::Send { frame, .. } = action {
            for (_, item) in frame::decode(&frame).unwrap() {
                let Item::Raft(bytes) = item else { continue };
                let message = entry::decode_message(&bytes).unwrap();
                assert_ne!(message.msg_type(), MessageType::MsgPropose);
            }
        }
    }
}

/// A message as a peer may make it.
fn raw(from: NodeId, to: NodeId, kind: MessageType) -> Message {
    let mut message = Message { from: from.0, to: to.0, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn framed(message: &Message) -> Bytes {
    let mut builder = FrameBuilder::default();
    builder.add(GROUP, &Item::Raft(prost011::Message::encode_to_vec(message).into()));
    builder.finish().remove(0)
}

#[test]
fn a_leader_knows_the_log_time_before_its_first_tick() {
    // Once it answered 0, and leases granted then made every pin look fresh.
    let mut fleet = Fleet::new(&[1]);
    let leader = fleet.elect();
    fleet.run(50);
    fleet.propose(leader, 1, "a");
    let status = fleet.drivers[&leader].status(GROUP).unwrap();
    let entries: Vec<(Index, Term, Bytes)> = Vec::new();
    let meta = members::encode_meta(
        &raft::eraftpb::ConfState { voters: vec![1], ..raft::eraftpb::ConfState::default() },
        5000,
    );
    let snapshot = SnapshotStart { index: status.applied, term: status.term, meta };
    let start = GroupStart { snapshot: Some(snapshot), entries, ..founder(&[1]) };
    let mut driver = Driver::new(config(1), vec![start]).unwrap();
    assert_eq!(driver.log_time(GROUP), None);
    driver.set_now(77_000);
    for _ in 0..SCAN_TICKS {
        driver.handle_tick();
    }
    assert!(driver.leads(GROUP));
    assert_eq!(driver.log_time(GROUP), Some(5000));
}

#[test]
fn who_comes_late_is_given_a_snapshot() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    for number in 0..60 {
        fleet.propose(leader, number, &format!("entry-{number}"));
    }
    let status = fleet.drivers[&leader].status(GROUP).unwrap();
    assert!(status.first > Index(30), "the log was cut");
    fleet.start(4, joiner());
    assert!(fleet.driver(leader).propose_members(GROUP, MemberChange::AddLearner(NodeId(4))));
    fleet.run(50);
    assert!(fleet.restored.contains(&NodeId(4)));
    assert_eq!(fleet.applied[&NodeId(4)], fleet.applied[&leader]);
    assert!(fleet.driver(leader).propose_members(GROUP, MemberChange::Promote(NodeId(4))));
    fleet.run(10);
    let members = fleet.drivers[&NodeId(4)].status(GROUP).unwrap().members;
    assert_eq!((members.voters.len(), members.learners.len()), (4, 0));
}

#[test]
fn a_follower_that_was_away_is_given_a_snapshot_though_the_first_is_lost() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let late = fleet.others(leader)[0];
    fleet.cut.insert(late);
    for number in 0..60 {
        fleet.propose(leader, number, &format!("entry-{number}"));
    }
    // Snapshots to it are lost for a while.
    fleet.run(100);
    fleet.cut.clear();
    fleet.run(200);
    assert!(fleet.restored.contains(&late));
    assert_eq!(fleet.applied[&late], fleet.applied[&leader]);
}

#[test]
fn a_state_of_another_index_is_not_installed_and_not_stored() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let late = fleet.others(leader)[0];
    let message = snapshots::message(&fleet, leader, late, 55);
    let before = fleet.drivers[&late].counters().frames_malformed;
    let term = fleet.drivers[&leader].status(GROUP).unwrap().term;
    assert!(!fleet.driver(late).handle_snapshot(
        leader,
        GROUP,
        &message,
        (Index(54), term),
        &snapshots::meta_of(&message)
    ));
    assert_eq!(fleet.drivers[&late].counters().frames_malformed, before + 1);
    assert!(!fleet.driver(late).poll().iter().any(|action| matches!(action, Action::Persist { .. })));
    // The owner's own state: then this replica is beyond repair, and says and stores nothing more.
    fleet.propose(leader, 1, "a");
    let applied = fleet.drivers[&leader].status(GROUP).unwrap().applied;
    fleet.driver(leader).snapshot(GROUP, Index(applied.0 - 1), Arc::new(Text("old".to_owned())));
    fleet.driver(leader).propose(GROUP, 2, Bytes::from_static(b"b"));
    let actions = fleet.driver(leader).poll();
    assert!(matches!(&actions[..], [Action::Broken { group: GROUP, why }] if why.contains("index")), "{actions:?}");
    assert!(fleet.driver(leader).poll().is_empty());
}

#[test]
fn a_snapshot_that_waits_for_the_disk_leaves_with_its_own_state() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let (late, other) = (fleet.others(leader)[0], fleet.others(leader)[1]);
    fleet.cut.insert(late);
    for number in 0..60 {
        fleet.propose(leader, number, &format!("entry-{number}"));
    }
    fleet.run(20);
    let status = fleet.drivers[&leader].status(GROUP).unwrap();
    let (term, last) = (status.term.0, status.last.0);
    // One who is far behind has a snapshot taken for it, which does not arrive.
    let mut reject = raw(late, leader, MessageType::MsgAppendResponse);
    (reject.term, reject.reject, reject.index, reject.reject_hint) = (term, true, last, 2);
    for _ in 0..3 {
        fleet.driver(leader).handle_frame(late, &framed(&reject));
        fleet.drain();
        fleet.driver(leader).handle_snapshot_sent(GROUP, late, false);
        fleet.run(6);
    }
    // Entries that another has as well, but whose answers are lost.
    fleet.cut.insert(other);
    for number in 60..90 {
        fleet.propose(leader, number, &format!("entry-{number}"));
    }
    let last = fleet.drivers[&leader].status(GROUP).unwrap().last.0;
    fleet.driver(leader).handle_snapshot_sent(GROUP, late, false);
    // In one batch: the snapshot is to be sent again, and the leader learns of a newer one, so that it has to wait.
    let mut answer = raw(late, leader, MessageType::MsgHeartbeatResponse);
    answer.term = term;
    let mut append = raw(other, leader, MessageType::MsgAppend);
    (append.term, append.index, append.log_term, append.commit) = (term + 1, last, term, last);
    fleet.driver(leader).handle_frame(late, &framed(&answer));
    fleet.driver(leader).handle_frame(other, &framed(&append));
    let mut rounds = Vec::new();
    let mut sent = Vec::new();
    let mut sort = |actions: Vec<Action>, rounds: &mut Vec<u64>| {
        for action in actions {
            match action {
                Action::Persist { round, .. } => rounds.push(round),
                Action::SendSnapshot { message, index, term, .. } => sent.push((message, index, term)),
                _ => {}
            }
        }
    };
    sort(fleet.driver(leader).poll(), &mut rounds);
    // Meanwhile the owner takes a snapshot of its own, later state.
    let applied = fleet.drivers[&leader].status(GROUP).unwrap().applied;
    fleet.driver(leader).snapshot(GROUP, applied, Arc::new(Text("LATER".to_owned())));
    fleet.driver(leader).handle_snapshot_stored(GROUP, applied, true);
    sort(fleet.driver(leader).poll(), &mut rounds);
    for round in rounds.clone() {
        fleet.driver(leader).handle_persisted(round);
    }
    sort(fleet.driver(leader).poll(), &mut rounds);
    assert_eq!(sent.len(), 1);
    let message = entry::decode_message(&sent[0].0).unwrap();
    let metadata = message.get_snapshot().get_metadata();
    assert_eq!((metadata.index, metadata.term), (sent[0].1.0, sent[0].2.0));
    // The first of its own is at index 2, the empty entry of its election.
    let state: Vec<String> = (0..metadata.index - 2).map(|number| format!("entry-{number}")).collect();
    assert_eq!(fleet.files[&(leader, sent[0].1, sent[0].2)].0, state.join(" "));
}

#[test]
fn a_snapshot_that_would_free_nothing_is_not_taken_again_and_again() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    fleet.propose(leader, 1, "a");
    let others = fleet.others(leader);
    fleet.cut.extend(others);
    // It cannot be committed, and the owner finds that it holds back the log.
    fleet.propose(leader, 2, "b");
    let before = fleet.drivers[&leader].counters().snapshots_taken;
    for _ in 0..20 {
        fleet.driver(leader).request_snapshot(GROUP, Index(u64::MAX));
        fleet.drain();
    }
    assert_eq!(fleet.drivers[&leader].counters().snapshots_taken, before);
    fleet.cut.clear();
    fleet.run(200);
    assert!(fleet.drivers[&leader].counters().snapshots_taken > before, "but once it can be committed");
}

#[test]
fn what_is_not_appended_is_refused() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let alone = fleet.others(leader)[0];
    fleet.driver(leader).propose(GROUP, 7, vec![0; ENTRY_BYTES_MAX + 1].into());
    fleet.drain();
    assert_eq!(fleet.rejected.pop(), Some((leader, 7, Rejection::TooLarge)));
    fleet.cut.insert(leader);
    fleet.driver(alone).handle_peer_down(leader, true);
    fleet.propose(alone, 8, "b");
    assert_eq!(fleet.rejected.pop(), Some((alone, 8, Rejection::NoLeader)));
    fleet.check(&[alone], &[]);
}

#[test]
fn a_proof_of_the_present_needs_a_majority() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    fleet.propose(leader, 1, "a");
    let follower = fleet.others(leader)[0];
    for (context, id) in [(5, leader), (6, follower)] {
        assert!(fleet.driver(id).read_index(GROUP, context));
        fleet.drain();
        let committed = fleet.drivers[&leader].status(GROUP).unwrap().committed;
        assert_eq!(fleet.proven.pop(), Some((id, context, committed)));
    }
    let others = fleet.others(leader);
    fleet.cut.extend(others);
    assert!(fleet.driver(leader).read_index(GROUP, 7));
    fleet.run(20);
    assert!(fleet.proven.is_empty());
}

#[test]
fn leadership_is_handed_over_and_given_up() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let old = fleet.elect();
    let heir = fleet.others(old)[1];
    fleet.run(20);
    fleet.driver(old).transfer(GROUP, heir);
    fleet.run(10);
    assert!(fleet.drivers[&heir].leads(GROUP) && !fleet.drivers[&old].leads(GROUP));
    fleet.driver(heir).set_may_lead(false);
    assert!(!fleet.drivers[&heir].leads(GROUP));
    assert_ne!(fleet.elect(), heir);
}

#[test]
fn a_follower_passes_the_wish_for_a_transfer_on() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let old = fleet.elect();
    let [asked, heir] = fleet.others(old)[..] else { panic!("three") };
    fleet.run(20);
    fleet.driver(asked).transfer(GROUP, heir);
    fleet.run(10);
    assert!(fleet.drivers[&heir].leads(GROUP));
}

#[test]
fn words_come_through_untouched() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    fleet.driver(NodeId(2)).send_word(NodeId(3), GROUP, Bytes::from_static(b"hello"));
    fleet.drain();
    assert_eq!(fleet.words, [(NodeId(2), NodeId(3), Bytes::from_static(b"hello"))]);
}

#[test]
fn frames_that_make_no_sense_are_counted_and_change_nothing() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let victim = fleet.others(leader)[0];
    let mut random = Random::new(9);
    for length in 0..2000 {
        let bytes: Vec<u8> = (0..length % 90).map(|_| random.up_to(255) as u8).collect();
        fleet.driver(victim).handle_frame(leader, &bytes.into());
    }
    // A good frame of a group that is not there, and one that speaks for somebody else.
    let message = Message { from: leader.0, to: victim.0, ..Message::default() };
    let bytes = Bytes::from(prost011::Message::encode_to_vec(&message));
    for (group, from) in [(GroupId(9), leader), (GROUP, NodeId(77))] {
        let mut frame = FrameBuilder::default();
        frame.add(group, &Item::Raft(bytes.clone()));
        fleet.driver(victim).handle_frame(from, &frame.finish()[0]);
    }
    fleet.driver(victim).handle_snapshot(leader, GROUP, b"no message", (Index(5), Term(1)), b"");
    let counters = fleet.drivers[&victim].counters();
    assert!(counters.frames_malformed >= 1900, "{counters:?}");
    assert_eq!(counters.messages_dropped, 1);
    fleet.propose(leader, 1, "a");
    fleet.run(10);
    fleet.check(&fleet.others(NodeId(0)), &["a"]);
}

#[test]
fn a_restart_goes_on_from_what_was_stored() {
    let mut fleet = Fleet::new(&[1]);
    let leader = fleet.elect();
    // Everything that a single replica stores, by hand.
    let mut stored: BTreeMap<Index, (Term, Bytes)> = BTreeMap::new();
    let mut start = founder(&[1]);
    for number in 0..5 {
        let data = Bytes::from(format!("entry-{number}"));
        fleet.driver(leader).propose(GROUP, number, data);
        for action in fleet.driver(leader).poll() {
            if let Action::Persist { round, records, .. } = &action {
                for record in records {
                    match record {
                        Record::Entry { index, term, data, .. } => {
                            stored.insert(*index, (*term, data.clone()));
                        }
                        Record::HardState { term, vote, commit, .. } => {
                            (start.term, start.vote, start.commit) = (*term, *vote, *commit);
                        }
                        Record::Snapshot { .. } => panic!("too early"),
                    }
                }
                assert!(*round > 0);
            }
            fleet.carry_out(leader, action);
        }
        fleet.drain();
    }
    start.entries = stored.into_iter().map(|(index, (term, data))| (index, term, data)).collect();
    // The leader's first entry was stored while it was elected.
    let first = start.entries.first().map(|(index, ..)| *index).unwrap();
    assert_eq!(first, Index(3));
    let empty = raft::eraftpb::Entry { index: 2, term: start.term.0, ..raft::eraftpb::Entry::default() };
    let bytes = Bytes::from(prost011::Message::encode_to_vec(&empty));
    start.entries.insert(0, (Index(2), start.term, bytes));

    let mut again = Fleet::new(&[]);
    again.start(1, start.clone());
    again.elect();
    again.check(&[NodeId(1)], &["entry-0", "entry-1", "entry-2", "entry-3", "entry-4"]);

    start.entries[2].2 = Bytes::from_static(b"damaged");
    assert!(Driver::new(config(1), vec![start]).is_err());
}
