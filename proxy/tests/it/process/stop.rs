//! SIGTERM: open connections may end; a second one does not wait.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use rustix::process::Signal;

use super::{
    backend::{connect, name_of},
    fleet::{Fleet, Plan},
    kit::wait_until,
};

fn one(drain_timeout: &str) -> Fleet {
    let fleet = format!("drain_timeout = \"{drain_timeout}\"");
    Fleet::started(Plan { size: 1, servers: 1, fleet, ..Plan::default() })
}

/// A client that has its server.
fn client(fleet: &Fleet) -> TcpStream {
    let mut stream = connect(1, fleet.instances[0].pool).unwrap();
    assert_eq!(name_of(&mut stream).as_deref(), Some("s1"));
    stream
}

/// What comes back of `word`, which is echoed.
fn echoed(stream: &mut TcpStream, word: &str) -> String {
    stream.write_all(word.as_bytes()).unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).unwrap();
    String::from_utf8(back).unwrap()
}

/// Whether the other side has closed or reset the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0]), Ok(count) if count > 0)
}

#[test]
fn sigterm_lets_open_connections_end_and_takes_no_new_ones() {
    let mut fleet = one("1h");
    let mut stream = client(&fleet);
    fleet.process(0).signal(Signal::TERM);
    fleet.not_ready(0, "draining");
    wait_until("new connections are refused", || connect(2, fleet.instances[0].pool).is_err());
    assert_eq!(echoed(&mut stream, "still here"), "still here");
    assert!(fleet.process(0).ended().is_none());
    drop(stream);
    assert_eq!(fleet.process(0).end().code(), Some(0), "{}", fleet.process(0).said());
    fleet.process(0).says(&["stopped", "cut=0"]);
}

#[test]
fn connections_that_stay_are_cut_after_drain_timeout() {
    let mut fleet = one("300ms");
    let mut stream = client(&fleet);
    fleet.process(0).signal(Signal::TERM);
    assert_eq!(fleet.process(0).end().code(), Some(0), "{}", fleet.process(0).said());
    assert!(is_closed(&mut stream));
    fleet.process(0).says(&["stopped", "cut=1"]);
}

#[test]
fn a_second_signal_leaves_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let mut fleet = one("1h");
        let mut stream = client(&fleet);
        fleet.process(0).signal(Signal::TERM);
        fleet.not_ready(0, "draining");
        assert!(fleet.process(0).ended().is_none());
        fleet.process(0).signal(second);
        assert_eq!(fleet.process(0).end().code(), Some(0), "{}", fleet.process(0).said());
        assert!(is_closed(&mut stream));
        fleet.process(0).says(&["stopping at once"]);
        // What was acknowledged is there afterwards.
        fleet.start_all();
        assert_eq!(fleet.pins(0).len(), 1);
    }
}

#[test]
fn an_instance_that_waits_for_its_fleet_can_be_stopped() {
    let mut fleet = Fleet::new(Plan::default());
    fleet.start(0);
    fleet.not_ready(0, "waiting for a majority");
    fleet.process(0).signal(Signal::TERM);
    assert_eq!(fleet.process(0).end().code(), Some(0), "{}", fleet.process(0).said());
}

#[test]
fn a_leader_that_leaves_hands_over() {
    // It stays until its client goes.
    let mut fleet = Fleet::started(Plan { fleet: "drain_timeout = \"1h\"".to_owned(), ..Plan::default() });
    // Nobody has a reason for an election, however slow this machine is, and no group moves by itself.
    fleet.done(0, "tune --election 20000 --detector fixed:20000 --spread false");
    for place in 0..3 {
        wait_until("everybody has the settings", || fleet.done(place, "tune").contains("fixed:20000"));
    }
    let given = fleet.ask_all(0, 0..20);
    let leader = (fleet.leader() + 1) % 3;
    let label = fleet.instances[leader].label.clone();
    wait_until("it leads", || {
        let ran = fleet.cli(0, &format!("member transfer {label}"));
        ran.code == 0 && ran.out == format!("{label} leads\n")
    });
    wait_until("all know that it leads", || fleet.leader() == leader);
    let mut stream = connect(1, fleet.instances[leader].pool).unwrap();
    assert_eq!(name_of(&mut stream).as_ref(), given.get(&1));

    let elections = |fleet: &Fleet| [0, 1, 2].map(|place| fleet.metric(place, "rocinante_elections_total ").unwrap());
    let before = elections(&fleet);
    fleet.process(leader).signal(Signal::TERM);
    wait_until("it leads no group", || {
        let status = fleet.get(leader, "/status");
        status["groups"].as_array().unwrap().iter().all(|group| group["role"] != "leader")
    });
    wait_until("another one leads", || fleet.leader() != leader);
    assert_eq!(elections(&fleet), before, "nobody waited for an election");
    assert!(fleet.process(leader).ended().is_none());
    drop(stream);
    assert_eq!(fleet.process(leader).end().code(), Some(0), "{}", fleet.process(leader).said());
    fleet.instances[leader].process = None;
    let other = (leader + 1) % 3;
    fleet.ready(other);
    assert_eq!(fleet.ask_all(other, 0..20), given);
}
