//! Voters that are replaced, and leaders that leave.

use super::*;

#[test]
fn a_voter_is_replaced_in_one_joint_change() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let leader = fleet.elect();
    let leaves = fleet.others(leader)[0];
    let votes = NodeId(4);
    fleet.start(4, joiner());
    assert!(fleet.driver(leader).propose_members(GROUP, MemberChange::AddLearner(votes)));
    fleet.run(50);
    assert!(fleet.driver(leader).propose_members(GROUP, MemberChange::Replace { leaves, votes }));
    assert!(!fleet.driver(leader).propose_members(GROUP, MemberChange::Remove(votes)), "one change at a time");
    // Without the newcomer the new voters have a majority, without it and another they have none.
    fleet.run(20);
    let members = fleet.drivers[&leader].status(GROUP).unwrap().members;
    let expected: BTreeSet<NodeId> = [1, 2, 3, 4].map(NodeId).into_iter().filter(|id| *id != leaves).collect();
    assert_eq!((members.voters, members.learners.len(), members.outgoing.len()), (expected, 0, 0));
    fleet.cut.insert(leaves);
    fleet.propose(leader, 1, "a");
    fleet.run(10);
    assert_eq!(fleet.applied[&votes].last().map(String::as_str), Some("a"));
}

#[test]
fn a_leader_that_is_removed_stops_leading() {
    let mut fleet = Fleet::new(&[1, 2, 3]);
    let old = fleet.elect();
    assert!(fleet.driver(old).propose_members(GROUP, MemberChange::Remove(old)));
    fleet.run(10);
    assert!(!fleet.drivers[&old].leads(GROUP));
    fleet.cut.insert(old);
    let new = fleet.elect();
    fleet.propose(new, 1, "a");
    fleet.check(&fleet.others(old), &["a"]);
}
