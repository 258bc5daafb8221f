//! Instances that are cut off and brought back, stopped from afar, tuned, backed up and restored.

use std::{fs, process::Command};

use super::{
    backend::ask,
    fleet::{Fleet, Plan},
    kit::{ROCINANTE, http, rocinante, wait_until},
};

fn post(fleet: &Fleet, place: usize, path: &str) {
    let (status, body) = http(fleet.instances[place].rest, &format!("POST {path}"), "").unwrap();
    assert_eq!(status, 200, "{path}: {body}");
}

#[test]
fn an_instance_that_is_cut_off_serves_nobody_and_comes_back() {
    let mut fleet = Fleet::started(Plan::default());
    let given = fleet.ask_all(0, 0..50);
    let leader = fleet.leader();
    post(&fleet, leader, "/shutdownGrpc");
    fleet.not_ready(leader, "cut off from its peers by an operator");
    wait_until("it serves nobody", || ask(1, fleet.instances[leader].pool).is_none());
    let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    for place in &others {
        fleet.ready(*place);
        assert_eq!(fleet.ask_all(*place, 0..50), given);
    }
    // The other two have a leader of their own, and the one that is cut off knows that it leads nobody.
    wait_until("there is another leader", || {
        let leader_of = |place: usize| fleet.get(place, "/leader")["leader"].clone();
        let new = leader_of(others[0]);
        !new.is_null() && new != fleet.instances[leader].label.as_str() && leader_of(others[1]) == new
    });
    post(&fleet, leader, "/startGrpc");
    fleet.ready(leader);
    assert_eq!(fleet.ask_all(leader, 0..50), given);
    let events = fleet.done(leader, "member events");
    assert!(events.contains("cut off from its peers") && events.contains("talks to its peers again"), "{events}");
    assert!(fleet.process(leader).ended().is_none());
}

#[test]
fn an_instance_is_stopped_from_another_one() {
    let mut fleet = Fleet::started(Plan::default());
    post(&fleet, 0, "/shutdownNode/c");
    assert_eq!(fleet.process(2).end().code(), Some(0), "{}", fleet.process(2).said());
    post(&fleet, 0, "/shutdownNode/1");
    assert_eq!(fleet.process(0).end().code(), Some(0), "by its id, itself: {}", fleet.process(0).said());
}

#[test]
fn settings_are_committed_and_outlive_a_restart() {
    let slow = "heartbeat = \"60ms\"\nelection_timeout = \"700ms\"\n".to_owned();
    let mut fleet = Fleet::started(Plan { fleet: slow, ..Plan::default() });
    assert!(fleet.done(1, "tune").contains("nothing is committed"));
    // As configured, but for what is named.
    let first = fleet.done(1, "tune --spread false");
    assert!(first.starts_with("heartbeat 60 ms, election 700 ms, detector phi:8, spread false"), "{first}");
    fleet.done(1, "tune --heartbeat 40 --election 400 --detector fixed:500 --spread false");
    let expected = "heartbeat 40 ms, election 400 ms, detector fixed:500, spread false, shuffle never";
    for place in 0..3 {
        wait_until("everybody has the settings", || fleet.done(place, "tune").contains(expected));
    }
    let refused = fleet.cli(0, "tune --election 50");
    assert!(refused.code == 1 && refused.err.contains("election_ms"), "{refused:?}");
    fleet.kill(2);
    fleet.start(2);
    fleet.ready(2);
    assert!(fleet.done(2, "tune").contains(expected));
    fleet.done(0, "tune --reset");
    wait_until("the settings are gone", || fleet.done(2, "tune").contains("nothing is committed"));
}

#[test]
fn a_backup_makes_a_new_fleet_with_everything_the_old_one_had() {
    let mut fleet = Fleet::started(Plan::default());
    let given = fleet.ask_all(0, 0..100);
    fleet.done(0, "kv put color blue");
    let uuid = fleet.get(0, "/status")["fleet"]["uuid"].clone();
    // All that was answered is in the tables of the instance that is asked.
    let pins = fleet.pins(1);
    fleet.done(1, "kv get color --consistency linearizable");
    let saved = fleet.done(1, "snapshot save fleet.backup");
    assert!(saved.contains("read and checked"), "{saved}");
    assert_eq!(fleet.cli(1, "snapshot save fleet.backup").code, 1, "it is not overwritten");
    let directory = fleet.directory.path().to_owned();
    let inspected = rocinante(&directory, &["snapshot", "inspect", "fleet.backup"]);
    assert!(inspected.out.contains("3 members, 1 pools, 1 keys"), "{inspected:?}");

    for place in 0..3 {
        fleet.kill(place);
    }
    let arguments = ["snapshot", "restore", "fleet.backup", "--config", "pool.toml", "--instance", "a"];
    let refused = rocinante(&directory, &arguments);
    assert!(refused.code == 1 && refused.err.contains("not empty"), "{refused:?}");
    for place in 0..3 {
        fs::remove_dir_all(fleet.data(place)).unwrap();
        let mut restore = Command::new(ROCINANTE);
        let label = &fleet.instances[place].label;
        restore.current_dir(&directory).args(["snapshot", "restore", "fleet.backup", "--config", "pool.toml"]);
        let done = restore.args(["--instance", label]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    fleet.start_all();
    assert_eq!(fleet.pins(2), pins);
    assert_eq!(fleet.ask_all(2, 0..100), given);
    assert!(fleet.done(0, "kv get color").contains("blue"));
    let new = fleet.get(0, "/status")["fleet"]["uuid"].clone();
    assert!(!new.is_null() && new != uuid, "{new} is another fleet than {uuid}");
    // A damaged backup is refused.
    let mut bytes = fs::read(directory.join("fleet.backup")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(directory.join("damaged.backup"), bytes).unwrap();
    let damaged = rocinante(&directory, &["snapshot", "inspect", "damaged.backup"]);
    assert!(damaged.code == 1 && damaged.err.contains("damaged.backup"), "{damaged:?}");
}
