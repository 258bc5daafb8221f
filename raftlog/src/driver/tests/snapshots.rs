//! Snapshots that come in, and files that are not what they should be.

use super::*;

/// A snapshot message of the leader to a peer that has nothing yet.
pub fn message(fleet: &Fleet, leader: NodeId, to: NodeId, index: u64) -> Bytes {
    let status = fleet.drivers[&leader].status(GROUP).unwrap();
    let mut message = raw(leader, to, MessageType::MsgSnapshot);
    message.term = status.term.0;
    let mut snapshot = raft::eraftpb::Snapshot::default();
    snapshot.mut_metadata().index = index;
    snapshot.mut_metadata().term = status.term.0;
    snapshot.mut_metadata().mut_conf_state().voters = status.members.voters.iter().map(|id| id.0).collect();
    snapshot.data = 5u64.to_be_bytes().to_vec();
    message.set_snapshot(snapshot);
    prost011::Message::encode_to_vec(&message).into()
}

/// What is stored with the snapshot of a message.
pub fn meta_of(message: &Bytes) -> Bytes {
    let message = entry::decode_message(message).unwrap();
    let snapshot = message.get_snapshot();
    members::encode_meta(snapshot.get_metadata().get_conf_state(), members::snapshot_time(snapshot))
}

#[test]
fn of_two_snapshots_the_one_that_is_taken_is_installed_with_its_own_state() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let late = fleet.others(leader)[0];
    // Whichever comes first, of 55, 50 and 55 again, and a newer one: the core takes what is ahead of what it has.
    for (indexes, installed) in [([55, 50, 55], 55), ([56, 57, 56], 57), ([58, 58, 57], 58)] {
        let mut taken = Vec::new();
        for index in indexes {
            let message = message(&fleet, leader, late, index);
            let term = fleet.drivers[&leader].status(GROUP).unwrap().term;
            if fleet.driver(late).handle_snapshot(leader, GROUP, &message, (Index(index), term), &meta_of(&message)) {
                taken.push(index);
            }
        }
        assert_eq!(taken.last(), Some(&installed), "of {indexes:?}");
        let mut stored = Vec::new();
        for action in fleet.driver(late).poll() {
            if let Action::Persist { round, installs, .. } = action {
                stored.extend(installs.into_iter().map(|install| install.index));
                fleet.driver(late).handle_persisted(round);
            }
        }
        assert_eq!(stored, [Index(installed)], "of {indexes:?}");
        let restored = fleet.driver(late).poll().into_iter().find_map(|action| match action {
            Action::Restore { index, .. } => Some(index),
            _ => None,
        });
        assert_eq!(restored, Some(Index(installed)), "of {indexes:?}");
    }
}

#[test]
fn a_file_with_other_members_or_another_time_than_its_message_is_not_taken() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let late = fleet.others(leader)[0];
    let message = message(&fleet, leader, late, 55);
    let place = (Index(55), fleet.drivers[&leader].status(GROUP).unwrap().term);
    let good = meta_of(&message);
    let (state, time) = members::decode_meta(&good).unwrap();
    let mut fewer = state.clone();
    fewer.voters.pop();
    let before = fleet.drivers[&late].counters().frames_malformed;
    for bad in [members::encode_meta(&fewer, time), members::encode_meta(&state, time + 1), Bytes::new()] {
        assert!(!fleet.driver(late).handle_snapshot(leader, GROUP, &message, place, &bad));
    }
    assert_eq!(fleet.drivers[&late].counters().frames_malformed, before + 3);
    assert!(fleet.driver(late).handle_snapshot(leader, GROUP, &message, place, &good));
}

#[test]
fn a_stored_snapshot_that_is_damaged_is_stored_anew_and_sent() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let late = fleet.others(leader)[0];
    fleet.cut.insert(late);
    for number in 0..60 {
        fleet.propose(leader, number, &format!("entry-{number}"));
    }
    fleet.run(20);
    fleet.files.retain(|(of, ..), _| *of != leader);
    fleet.cut.clear();
    fleet.run(300);
    assert!(fleet.restored.contains(&late), "only a snapshot brings it up to date");
    assert_eq!(fleet.applied[&late], fleet.applied[&leader]);
    assert_eq!(fleet.files.keys().filter(|(of, ..)| *of == leader).count(), 1);
}
