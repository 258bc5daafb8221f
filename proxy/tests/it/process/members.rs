//! An instance whose data is gone, its replacement, and one that was removed.

use std::fs;

use super::{
    backend::ask,
    fleet::{Fleet, Plan},
    kit::wait_until,
};

#[test]
fn an_emptied_data_directory_is_refused_and_replaced() {
    let mut fleet = Fleet::started(Plan::default());
    let given = fleet.ask_all(0, 0..100);
    let pins = fleet.pins(0);
    fleet.kill(2);
    fs::remove_dir_all(fleet.data(2)).unwrap();

    let process = fleet.start(2);
    let line = process.says(&["a peer refused this instance"]);
    assert!(line.contains("is known by another data directory"), "{line}");
    assert!(line.contains("rocinante member remove c") && line.contains("rocinante member add c"), "{line}");
    fleet.not_ready(2, "known by another data directory");
    assert_eq!(ask(0, fleet.instances[2].pool), None, "it serves nobody");
    fleet.ready(0);
    fleet.ready(1);

    let lost = &fleet.instances[2];
    let (ip, grpc, rest, metrics) = (lost.grpc.ip(), lost.grpc.port(), lost.rest.port(), lost.metrics.port());
    fleet.done(0, "member remove c");
    let add = format!("member add c {ip} --grpc {grpc} --rest {rest} --metrics {metrics}");
    fleet.done(0, &add);
    // It waits under the same label and directory, and may come in now.
    fleet.ready(2);
    let again = fleet.cli(0, &add);
    assert_eq!(again.code, 1, "it is a member already: {again:?}");
    let early = fleet.cli(0, "member transfer c");
    assert!(early.code == 1 && early.err.contains("c is a learner"), "{early:?}");
    fleet.done(0, "member promote c");
    wait_until("c votes", || {
        fleet.done(0, "member list").lines().any(|row| row.starts_with("c ") && row.contains("voter"))
    });
    assert_eq!(fleet.pins(2), pins);
    assert_eq!(fleet.ask_all(2, 0..100), given);

    // Its vote counts: with it, one of the old ones can go.
    fleet.kill(0);
    wait_until("two of three serve", || fleet.readyz(2).unwrap().0 && fleet.readyz(1).unwrap().0);
    assert_eq!(fleet.ask_all(2, 0..100), given);
}

#[test]
fn a_removed_instance_says_so_and_does_not_serve() {
    let mut fleet = Fleet::started(Plan { pool: "on_isolation = \"hash\"\n".into(), ..Plan::default() });
    fleet.ask_all(2, 0..10);
    fleet.done(0, "member remove c");
    fleet.not_ready(2, "removed from the fleet");
    fleet.process(2).says(&["a peer refused this instance", "was removed from the fleet"]);
    // Each group has a lease of its own, and answers while it holds.
    for client in 0..20 {
        wait_until("it serves nobody, not even by the hash", || ask(client, fleet.instances[2].pool).is_none());
    }
    assert_eq!(ask(500, fleet.instances[2].pool), None);
    // Nor after a restart.
    fleet.kill(2);
    fleet.start(2);
    fleet.not_ready(2, "removed from the fleet");
    assert_eq!(ask(1, fleet.instances[2].pool), None);
    assert!(!fleet.done(0, "member list").contains("\nc "));
    for place in [0, 1] {
        fleet.ready(place);
    }
}

#[test]
fn a_data_directory_of_another_fleet_of_that_name_is_refused_and_disturbs_nobody() {
    let mut fleet = Fleet::started(Plan::default());
    let mut other = Fleet::started(Plan::default());
    for place in 0..3 {
        other.kill(place);
    }
    fleet.kill(2);
    fs::remove_dir_all(fleet.data(2)).unwrap();
    fs::rename(other.data(2), fleet.data(2)).unwrap();
    fleet.start(2);
    let line = fleet.process(2).says(&["a peer refused this instance"]);
    assert!(line.contains("uuid") && line.contains("another fleet"), "{line}");
    fleet.not_ready(2, "another fleet");
    assert_eq!(ask(0, fleet.instances[2].pool), None, "it serves nobody");
    // It refuses the others likewise, which is no reason for them.
    fleet.process(0).says(&["a peer refused this instance"]);
    fleet.process(1).says(&["a peer refused this instance"]);
    fleet.ready(0);
    fleet.ready(1);
    fleet.ask_all(0, 0..10);
}

#[test]
fn two_emptied_directories_of_three_do_not_found_another_fleet() {
    let mut fleet = Fleet::started(Plan::default());
    let given = fleet.ask_all(0, 0..50);
    let held: Vec<_> =
        [1, 2].map(|place| (fleet.data(place), fleet.directory.path().join(format!("held-{place}")))).into();
    for place in [1, 2] {
        fleet.kill(place);
    }
    for (data, elsewhere) in &held {
        fs::rename(data, elsewhere).unwrap();
    }
    for place in [1, 2] {
        fleet.start(place);
    }
    for place in [1, 2] {
        fleet.process(place).says(&["a peer refused this instance", "is known by another data directory"]);
        fleet.not_ready(place, "known by another data directory");
        assert_eq!(ask(1, fleet.instances[place].pool), None);
    }
    // Longer than anybody waits for the birth of a fleet.
    let since = std::time::Instant::now();
    wait_until("time has passed", || {
        assert!(!fleet.readyz(1).unwrap().0 && !fleet.readyz(2).unwrap().0);
        since.elapsed() > std::time::Duration::from_secs(5)
    });
    assert!(!fleet.process(1).said().contains("the replica begins"), "{}", fleet.process(1).said());
    // The old directories are brought back, as they were told.
    for place in [1, 2] {
        fleet.kill(place);
    }
    for (data, elsewhere) in &held {
        fs::remove_dir_all(data).unwrap();
        fs::rename(elsewhere, data).unwrap();
    }
    for place in [1, 2] {
        fleet.start(place);
    }
    for place in 0..3 {
        fleet.ready(place);
        assert_eq!(fleet.ask_all(place, 0..50), given);
    }
}
