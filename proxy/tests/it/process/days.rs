//! Fleets as they start, die as a whole, and come back.

use super::{
    backend::ask,
    fleet::{Fleet, Plan},
    kit::{wait_for, wait_until},
};

#[test]
fn one_file_makes_fleets_of_one_three_and_five_in_any_order_of_starting() {
    for size in [1, 3, 5] {
        let mut fleet = Fleet::new(Plan { size, ..Plan::default() });
        let last = size - 1;
        fleet.start(last);
        if size > 1 {
            // A minority waits, says for what, and serves nobody.
            for place in 1..size / 2 {
                fleet.start(place);
            }
            fleet.not_ready(last, "waiting for a majority");
            assert_eq!(ask(1, fleet.instances[last].pool), None, "an instance alone does not serve");
            fleet.process(last).says(&["waiting for a majority of the instances listed"]);
        }
        for place in 0..size {
            if fleet.instances[place].process.is_none() {
                fleet.start(place);
            }
        }
        for place in 0..size {
            fleet.ready(place);
        }
        wait_until("all servers are up", || fleet.servers_up(0));
        let first = fleet.ask_all(0, 0..20);
        for place in 1..size {
            assert_eq!(fleet.ask_all(place, 0..20), first, "{size} instances, one answer");
        }
    }
}

#[test]
fn one_of_three_that_is_left_alone_does_not_serve() {
    let mut fleet = Fleet::started(Plan::default());
    let before = fleet.ask_all(0, 0..20);
    fleet.kill(1);
    fleet.kill(2);
    fleet.not_ready(0, "no lease");
    // Each group has a lease of its own, and answers while it holds.
    for client in 0..20 {
        wait_until("old clients are refused", || ask(client, fleet.instances[0].pool).is_none());
    }
    assert_eq!(ask(1000, fleet.instances[0].pool), None);
    let refused = "rocinante_refusals_total{pool=\"web\",reason=\"no_lease\"}";
    assert!(fleet.metric(0, refused).unwrap() >= 3.0);
    assert_eq!(fleet.metric(0, "rocinante_ready "), Some(0.0));
    let ran = fleet.cli(0, "kv put color blue");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("unavailable") || ran.err.contains("unknown_outcome"), "{}", ran.err);
    // A second one is a majority.
    fleet.start(1);
    fleet.ready(0);
    assert_eq!(fleet.ask_all(0, 0..20), before);
}

#[test]
fn kill_9_of_all_three_loses_no_acknowledged_pin_and_no_key() {
    let mut fleet = Fleet::started(Plan::default());
    let mut given = std::collections::BTreeMap::new();
    for client in 0..200_u32 {
        let pool = fleet.instances[client as usize % 3].pool;
        given.insert(client, wait_for("an answer", || ask(client, pool)));
        if client % 20 == 0 {
            fleet.done(client as usize % 3, &format!("kv put key-{client} value-{client}"));
        }
    }
    let pins = fleet.pins(0);
    assert_eq!(pins.len(), 200);
    // All at once, in the middle of their work.
    for instance in &fleet.instances {
        instance.process.as_ref().unwrap().signal(rustix::process::Signal::KILL);
    }
    for place in 0..3 {
        fleet.process(place).end();
    }
    fleet.start_all();
    for place in 0..3 {
        assert_eq!(fleet.pins(place), pins, "the pins as they were");
    }
    assert_eq!(fleet.ask_all(1, 0..200), given);
    for client in (0..200).step_by(20) {
        let key = fleet.done(2, &format!("kv get key-{client} --consistency linearizable"));
        assert_eq!(key, format!("value-{client}\n"));
    }
}
