//! Instances without a quorum, and instances that read different files.

use std::fs;

use super::{
    backend::ask,
    fleet::{Fleet, Plan},
    kit::wait_until,
};

#[test]
fn without_a_quorum_refuse_refuses_and_counts() {
    let mut fleet = Fleet::started(Plan::default());
    fleet.ask_all(0, 0..20);
    fleet.kill(2);
    fleet.kill(1);
    fleet.not_ready(0, "no lease");
    // Each group has a lease of its own, and answers while it holds.
    for client in 0..20 {
        wait_until("old clients are refused", || ask(client, fleet.instances[0].pool).is_none());
    }
    let refused = "rocinante_refusals_total{pool=\"web\",reason=\"no_lease\"}";
    let before = fleet.metric(0, refused).unwrap();
    for client in 0..10 {
        assert_eq!(ask(client, fleet.instances[0].pool), None);
    }
    assert_eq!(fleet.metric(0, refused).unwrap(), before + 10.0);
}

#[test]
fn without_a_quorum_hash_gives_one_answer_from_every_instance_and_counts() {
    let mut fleet = Fleet::started(Plan { size: 5, pool: "on_isolation = \"hash\"\n".into(), ..Plan::default() });
    let pinned = fleet.ask_all(0, 0..20);
    for place in 2..5 {
        fleet.kill(place);
    }
    for place in 0..2 {
        fleet.not_ready(place, "no lease");
        assert_eq!(fleet.ask_all(place, 0..20), pinned, "who had a server keeps it");
    }
    let new = fleet.ask_all(0, 1000..1030);
    assert_eq!(fleet.ask_all(1, 1000..1030), new, "the hash is the same everywhere");
    assert!(fleet.metric(0, "rocinante_decisions_total{source=\"isolated\"}").unwrap() >= 30.0);
}

#[test]
fn files_that_list_different_instances_make_no_fleet_and_say_so() {
    let mut fleet = Fleet::new(Plan::default());
    let text = fs::read_to_string(fleet.config()).unwrap();
    fs::write(fleet.directory.path().join("other.toml"), text.replacen("groups = 4", "groups = 5", 1)).unwrap();
    let mut other = std::process::Command::new(super::kit::ROCINANTE);
    other.current_dir(fleet.directory.path()).args(["run", "--config", "other.toml", "--instance", "a"]);
    fleet.start_as(0, other);
    fleet.start(1);
    fleet.process(0).says(&[
        "refused this instance",
        "read different lists of instances (or another fleet.groups, fleet.flow_groups or fleet.lease)",
    ]);
    fleet.not_ready(0, "different lists");
    assert_eq!(ask(1, fleet.instances[0].pool), None);
    // The two that agree are a majority.
    fleet.start(2);
    fleet.ready(1);
    fleet.ready(2);
    wait_until("all servers are up", || fleet.servers_up(1));
    fleet.ask_all(1, 0..5);
}

#[test]
fn a_file_whose_pools_differ_is_told_with_the_difference_and_the_command() {
    let mut fleet = Fleet::started(Plan { size: 1, ..Plan::default() });
    fleet.kill(0);
    let text = fs::read_to_string(fleet.config()).unwrap();
    fs::write(fleet.config(), text.replacen("name = \"s3\"", "name = \"s3\"\nweight = 7", 1)).unwrap();
    let process = fleet.start(0);
    process.says(&["pool.toml differs from the committed pools, which are the truth"]);
    process.says(&["~ web: server s3", "weight 100 -> 7"]);
    process.says(&["to make the file the truth: rocinante apply --config pool.toml"]);
    fleet.ready(0);
    let applied = fleet.done(0, "apply --config pool.toml --yes");
    assert!(applied.contains("weight 100 -> 7"), "{applied}");
    assert_eq!(fleet.get(0, "/pools")["pools"][0]["servers"][2]["weight"], 7);
}
