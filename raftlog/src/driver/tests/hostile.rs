//! Peers that say what no peer says.

use raft::eraftpb::Entry;

use super::*;

/// Each of these ends the process when the core sees it.
#[test]
fn messages_that_the_core_does_not_survive_are_counted_and_dropped() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let victim = fleet.others(leader)[0];
    fleet.propose(leader, 1, "a");
    fleet.run(20);
    let status = fleet.drivers[&victim].status(GROUP).unwrap();
    let (term, last) = (status.term.0, status.last.0);
    let entry = |index| Entry { index, term, ..Entry::default() };
    let from_leader = |kind| Message { term, ..raw(leader, victim, kind) };
    let append = |entries| Message { index: last, log_term: term, entries, ..from_leader(MessageType::MsgAppend) };
    let to_leader = |kind| Message { term, ..raw(victim, leader, kind) };
    let bad = [
        Message { commit: last + 1, ..from_leader(MessageType::MsgHeartbeat) },
        append(vec![entry(last + 2)]),
        append(vec![entry(last + 1), entry(last + 1)]),
        append(vec![Entry { term: term + 1, ..entry(last + 1) }]),
        Message { term: 0, ..append(vec![entry(last + 1)]) },
        Message { term: u64::MAX, ..from_leader(MessageType::MsgRequestVote) },
        Message { term: 0, ..from_leader(MessageType::MsgHup) },
        from_leader(MessageType::MsgSnapshot),
        raw(victim, leader, MessageType::MsgReadIndex),
        raw(victim, leader, MessageType::MsgPropose),
        Message { index: last + 1, ..to_leader(MessageType::MsgAppendResponse) },
        Message { reject: true, request_snapshot: 1, ..to_leader(MessageType::MsgAppendResponse) },
        Message { reject: true, reject_hint: u64::MAX, ..to_leader(MessageType::MsgAppendResponse) },
        append(vec![Entry { entry_type: 9, ..entry(last + 1) }]),
    ];
    for message in bad {
        let (to, from) = (NodeId(message.to), NodeId(message.from));
        let before = fleet.drivers[&to].counters().frames_malformed;
        fleet.driver(to).handle_frame(from, &framed(&message));
        assert_eq!(fleet.drivers[&to].counters().frames_malformed, before + 1, "{message:?}");
        fleet.drain();
    }
    fleet.propose(leader, 2, "b");
    fleet.run(10);
    fleet.check(&fleet.others(NodeId(0)), &["a", "b"]);
}

/// Found by fuzzing: the core looks its numbers up in a list, and ends the process over one that is not in it.
#[test]
fn a_committed_change_of_unknown_kind_is_none() {
    use raft::eraftpb::{ConfChangeSingle, ConfChangeV2};
    let single = |change_type| ConfChangeSingle { change_type, node_id: 2 };
    let change = |transition, kind| ConfChangeV2 { transition, changes: vec![single(kind)], ..ConfChangeV2::default() };
    assert!(super::super::sound::sound_change(&change(0, 1)));
    assert!(!super::super::sound::sound_change(&change(96, 1)));
    assert!(!super::super::sound::sound_change(&change(0, 77)));
}

/// A peer that lies may do harm, but not end the process.
#[test]
fn no_message_ends_the_process() {
    for seed in 0..1000 {
        let mut fleet = Fleet::new(&[1, 2, 3]);
        let leader = fleet.elect();
        fleet.propose(leader, 1, "a");
        fleet.run(20);
        let mut random = Random::new(seed);
        for _ in 0..100 {
            let status = fleet.drivers[&leader].status(GROUP).unwrap();
            let (to, from) = (NodeId(1 + random.up_to(2) as u64), NodeId(1 + random.up_to(3) as u64));
            let mut near = |value: u64| match random.up_to(7) {
                0 => 0,
                1 => u64::MAX - random.up_to(2) as u64,
                _ => (value + random.up_to(4) as u64).saturating_sub(2),
            };
            let (term, last) = (status.term.0, status.last.0);
            let index = near(last);
            let mut message = raw(from, to, MessageType::MsgHup);
            (message.term, message.index, message.log_term) = (near(term), index, near(term));
            (message.commit, message.commit_term, message.reject_hint) = (near(last), near(term), near(last));
            let entries = random.up_to(3) as u64;
            let step = 1 + u64::from(random.up_to(9) == 0);
            message.entries = (1..=entries)
                .map(|place| Entry {
                    index: index.wrapping_add(place * step),
                    term: message.log_term,
                    ..Entry::default()
                })
                .collect();
            message.reject = random.up_to(1) == 0;
            if random.up_to(3) == 0 {
                message.context = 7_u64.to_be_bytes().to_vec();
            }
            message.msg_type = random.up_to(18) as i32;
            let metadata = message.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (last + 1, term);
            metadata.mut_conf_state().voters = (0..=random.up_to(3) as u64).map(|_| random.up_to(3) as u64).collect();
            metadata.mut_conf_state().learners = (0..random.up_to(2) as u64).map(|_| random.up_to(3) as u64).collect();
            if message.msg_type() == MessageType::MsgSnapshot {
                let bytes = Bytes::from(prost011::Message::encode_to_vec(&message));
                let meta = snapshots::meta_of(&bytes);
                fleet.driver(to).handle_snapshot(from, GROUP, &bytes, (Index(last + 1), Term(term)), &meta);
            } else {
                message.snapshot = None;
                fleet.driver(to).handle_frame(from, &framed(&message));
            }
            // Its answers stay where they are: what is told in this way spreads no further.
            drop(fleet.driver(to).poll());
            fleet.driver(to).handle_tick();
            drop(fleet.driver(to).poll());
        }
    }
}

/// A disk that takes nothing for hours, and a leader that goes on.
#[test]
fn answers_that_wait_for_the_disk_are_bounded() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    fleet.run(20);
    let stuck = fleet.others(leader)[0];
    let term = fleet.drivers[&stuck].status(GROUP).unwrap().term.0;
    let last = fleet.drivers[&stuck].status(GROUP).unwrap().last.0;
    let entry = Entry { index: last + 1, term, ..Entry::default() };
    let append = Message {
        term,
        index: last,
        log_term: term,
        entries: vec![entry],
        ..raw(leader, stuck, MessageType::MsgAppend)
    };
    let again = Message { entries: Vec::new(), ..append.clone() };
    // Its rounds are never said to be on disk.
    let driver = fleet.driver(stuck);
    driver.handle_frame(leader, &framed(&append));
    let persists =
        |actions: Vec<Action>| actions.iter().filter(|action| matches!(action, Action::Persist { .. })).count();
    assert_eq!(persists(driver.poll()), 1);
    let before = driver.counters().messages_dropped;
    for _ in 0..20_000 {
        driver.handle_frame(leader, &framed(&again));
        assert_eq!(persists(driver.poll()), 0);
    }
    let dropped = driver.counters().messages_dropped - before;
    assert!((10_000..20_000).contains(&dropped), "{dropped}");
}
