//! Snapshots whose files are not what they should be.

use super::*;

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
