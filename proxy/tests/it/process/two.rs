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
        let removed = fleet.cli(stays, &format!("member remove {label}"));
        assert!(removed.code == 0 || removed.err.contains("still count it"), "{removed:?}");
        fleet.not_ready(leaves, "removed from the fleet");
        // A new one of that label is taken once the groups have let go of the old one.
        wait_until("the groups have let go", || {
            let add = format!("member add {label} 127.0.0.1 --grpc 9 --rest 8 --metrics 7");
            fleet.cli(stays, &add).code == 0
        });
        fleet.done(stays, &format!("member remove {label}"));
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
