//! A voter that needs nobody's word, or soon will not.

use super::*;

#[test]
fn an_only_voter_tells_learners_nothing_that_its_disk_does_not_know() {
    // Once it led in a term that a crash forgot, led again in the same term, and a learner kept other entries for good.
    let state = raft::eraftpb::ConfState { voters: vec![1], learners: vec![2], ..raft::eraftpb::ConfState::default() };
    let meta = members::encode_meta(&state, 0);
    let snapshot = SnapshotStart { index: Index(1), term: Term(1), meta };
    let mut driver = Driver::new(config(1), vec![GroupStart { snapshot: Some(snapshot), ..joiner() }]).unwrap();
    for _ in 0..SCAN_TICKS {
        driver.handle_tick();
    }
    assert!(driver.leads(GROUP));
    driver.propose(GROUP, 1, Bytes::from_static(b"a"));
    let is_append = |(_, item): &(GroupId, Item)| match item {
        Item::Raft(bytes) => entry::decode_message(bytes).unwrap().msg_type() == MessageType::MsgAppend,
        _ => false,
    };
    let appends = |actions: &[Action]| {
        let frames = actions.iter().filter_map(|action| match action {
            Action::Send { frame, .. } => Some(frame::decode(frame).unwrap()),
            _ => None,
        });
        frames.flatten().filter(is_append).count()
    };
    let before = driver.poll();
    let Some(Action::Persist { round, .. }) = before.iter().find(|action| matches!(action, Action::Persist { .. }))
    else {
        panic!("it has something to store: {before:?}")
    };
    assert_eq!(appends(&before), 0);
    driver.handle_persisted(*round);
    assert!(appends(&driver.poll()) > 0);
}

#[test]
fn who_is_left_of_two_knows_of_it_after_a_crash() {
    // Once the disk did not know that the change was committed, and the one that was left asked for the vote of one that
    // was gone for good.
    let mut fleet = Fleet::new(&[1, 2]);
    let left = fleet.elect();
    let gone = fleet.others(left)[0];
    fleet.run(10);
    assert!(fleet.driver(left).propose_members(GROUP, MemberChange::Remove(gone)));
    fleet.drain();
    assert!(!fleet.drivers[&left].members(GROUP).unwrap().has(gone));
    let status = fleet.drivers[&left].status(GROUP).unwrap();
    assert!(fleet.committed[&left] >= status.applied, "{:?} is on disk", fleet.committed[&left]);
}
