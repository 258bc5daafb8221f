//! A fleet of two: each change of members needs both.

use super::{
    fleet::{Fleet, Plan},
    kit::wait_until,
};

#[test]
fn of_two_either_can_be_removed_and_the_other_goes_on_alone() {
    for leaves in [0, 1] {
        let mut fleet = Fleet::started(Plan { size: 2, ..Plan::default() });
        let stays = 1 - leaves;
        let given = fleet.ask_all(stays, 0..50);
        let label = ["a", "b"][leaves];
        fleet.done(stays, &format!("member remove {label}"));
        fleet.not_ready(leaves, "removed from the fleet");
        fleet.kill(leaves);
        fleet.ready(stays);
        assert_eq!(fleet.ask_all(stays, 0..50), given);
        fleet.ask_all(stays, 1000..1050);
        fleet.done(stays, "server drain web s1");
        // Nor does it need the other one to start again.
        fleet.kill(stays);
        fleet.start(stays);
        fleet.ready(stays);
        wait_until("all servers are up", || fleet.servers_up(stays));
        assert_eq!(fleet.ask_all(stays, 0..50), given);
    }
}
