//! VIPs: announced while their instance serves, withdrawn before it does not, and also when it dies.

use std::{
    fs::{self, File},
    io::Write,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    backend::{ask, connect, name_of},
    bird::{Bird, RealBird, has},
    fleet::{Fleet, Plan},
    kit::{DEADLINE, rocinante, wait_for, wait_until},
};

/// `[vip]` that drives the BIRD of each instance, with these further lines.
fn by_bird(more: &str) -> String {
    format!("[vip]\nannounce = \"bird\"\nbird_socket = \"bird-{{label}}.ctl\"\nhold = \"20s\"\n{more}\n")
}

/// A fleet of which no instance runs yet, with one VIP, and this at the end of its file.
fn fleet(size: usize, vip: &str) -> Fleet {
    let fleet = Fleet::new(Plan { size, servers: 1, vip: true, ..Plan::default() });
    File::options().append(true).open(fleet.config()).unwrap().write_all(format!("\n{vip}").as_bytes()).unwrap();
    fleet
}

/// The BIRD of an instance.
fn bird(fleet: &Fleet, place: usize) -> Bird {
    Bird::start(&fleet.directory.path().join(format!("bird-{}.ctl", fleet.instances[place].label)))
}

/// A fleet of one that announces.
fn announced(more: &str) -> (Fleet, Bird) {
    let mut fleet = fleet(1, &by_bird(more));
    let bird = bird(&fleet, 0);
    fleet.start_all();
    says_announced(&fleet);
    assert!(bird.is_up());
    (fleet, bird)
}

/// Waits until instance a says so itself.
fn says_announced(fleet: &Fleet) {
    wait_until("it says that it announces", || fleet.vip_status(0)["announced"] == true);
}

/// The keeper that instance a last started.
fn keeper(fleet: &mut Fleet) -> Pid {
    let line = fleet.process(0).said().lines().rfind(|line| line.contains("a VIP keeper runs")).unwrap().to_owned();
    let pid = line.split("pid=").nth(1).unwrap().trim();
    Pid::from_raw(pid.parse().unwrap()).unwrap()
}

/// Whether a process runs; one that is dead and not buried does not.
fn runs(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn it_announces_when_it_serves_and_says_so_everywhere() {
    let mut fleet = fleet(1, &by_bird(""));
    let bird = bird(&fleet, 0);
    fleet.start_all();
    bird.becomes(true);
    says_announced(&fleet);
    let vip = fleet.vip().to_string();
    let status = fleet.vip_status(0);
    assert_eq!((&status["wanted"], &status["error"]), (&true.into(), &serde_json::Value::Null), "{status}");
    assert_eq!(status["vips"], serde_json::json!([{ "address": vip, "problem": null }]));
    assert_eq!(status["reasons"], serde_json::json!([]));
    assert_eq!(fleet.get(0, "/status")["vip"]["announced"], true);
    assert!(fleet.done(0, "status").contains(&format!("vips      announced: {vip}\n")));
    assert_eq!(fleet.metric(0, "rocinante_vip_announced "), Some(1.0));
    assert_eq!(fleet.metric(0, "rocinante_vip_missing "), Some(0.0));
    assert_eq!(fleet.metric(0, "rocinante_vip_errors_total "), Some(0.0));
    assert_eq!(fleet.metric(0, "rocinante_vip_changes_total "), Some(1.0), "BIRD had it disabled");
    assert_eq!(ask(1, fleet.vip()).as_deref(), Some("s1"));
}

#[test]
fn without_the_table_there_is_no_keeper_and_nothing_to_see() {
    let mut fleet = fleet(1, "");
    fleet.start_all();
    assert!(fleet.get(0, "/readyz").get("vip").is_none());
    assert_eq!(fleet.metric(0, "rocinante_vip_"), None);
    assert!(!fleet.process(0).said().contains("VIP"));
}

#[test]
fn sigterm_withdraws_before_the_listeners_close() {
    // It would go on for a minute.
    let (mut fleet, bird) = announced("settle = \"1m\"");
    fleet.process(0).signal(Signal::TERM);
    bird.becomes(false);
    for client in 0..20 {
        assert_eq!(ask(client, fleet.vip()).as_deref(), Some("s1"), "routers have not turned away yet");
    }
    assert!(fleet.process(0).ended().is_none());
    fleet.not_ready(0, "draining");
    let keeper = keeper(&mut fleet);
    fleet.process(0).signal(Signal::TERM);
    assert_eq!(fleet.process(0).end().code(), Some(0), "{}", fleet.process(0).said());
    wait_until("the keeper is gone", || !runs(keeper));
    assert!(!fleet.process(0).said().contains("the instance is gone"), "it left in order");
}

#[test]
fn after_settling_an_instance_ends_as_ever() {
    let (mut fleet, bird) = announced("settle = \"300ms\"");
    let mut open = connect(1, fleet.vip()).unwrap();
    assert_eq!(name_of(&mut open).as_deref(), Some("s1"));
    fleet.process(0).signal(Signal::TERM);
    wait_until("it does not listen any more", || connect(2, fleet.vip()).is_err());
    assert!(!bird.is_up());
    assert!(fleet.process(0).ended().is_none(), "what is open goes on");
    drop(open);
    assert_eq!(fleet.process(0).end().code(), Some(0), "{}", fleet.process(0).said());
    fleet.process(0).says(&["the VIPs are withdrawn: new connections are still taken"]);
}

#[test]
fn kill_9_withdraws() {
    let (mut fleet, bird) = announced("");
    let keeper = keeper(&mut fleet);
    fleet.kill(0);
    bird.becomes(false);
    wait_until("the keeper is gone", || !runs(keeper));
    let log = fs::read_to_string(fleet.directory.path().join("a.log")).unwrap();
    assert!(log.contains("the VIP keeper: the instance is gone: withdrew its VIPs within"), "{log}");
    // And it comes back.
    fleet.start_all();
    bird.becomes(true);
}

#[test]
fn an_instance_that_is_stopped_is_withdrawn_and_comes_back() {
    let (mut fleet, bird) = {
        let mut fleet = fleet(1, &by_bird("").replace("20s", "500ms"));
        let bird = bird(&fleet, 0);
        fleet.start_all();
        bird.becomes(true);
        (fleet, bird)
    };
    let restarts = fleet.metric(0, "rocinante_vip_keeper_restarts_total ");
    fleet.process(0).signal(Signal::STOP);
    bird.becomes(false);
    fleet.process(0).signal(Signal::CONT);
    bird.becomes(true);
    says_announced(&fleet);
    fleet.process(0).says(&["VIPs: the instance said nothing for 500 ms"]);
    assert_eq!(fleet.metric(0, "rocinante_vip_keeper_restarts_total "), restarts, "the keeper did its work");
}

#[test]
fn a_keeper_that_dies_is_replaced_and_nobody_notices() {
    let (mut fleet, bird) = announced("");
    let first = keeper(&mut fleet);
    // It is deaf to what is meant for all processes of an instance.
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        kill_process(first, signal).unwrap();
    }
    kill_process(first, Signal::KILL).unwrap();
    fleet.process(0).says(&["the VIP keeper", "signal: 9", "another one is started"]);
    wait_until("another one runs", || keeper(&mut fleet) != first);
    says_announced(&fleet);
    assert_eq!(fleet.metric(0, "rocinante_vip_keeper_restarts_total "), Some(1.0));
    assert_eq!(bird.changes(), 1, "it was announced all the while");
    // One that hangs is as good as dead.
    let second = keeper(&mut fleet);
    kill_process(second, Signal::STOP).unwrap();
    fleet.process(0).says(&["the VIP keeper said nothing for 10s"]);
    wait_until("another one runs", || keeper(&mut fleet) != second);
    says_announced(&fleet);
    assert!(!runs(second));
    assert_eq!(bird.changes(), 1, "it was announced all the while");
}

#[test]
fn a_bird_that_starts_anew_or_reads_its_configuration_again_is_told_again() {
    let (fleet, bird) = announced("");
    bird.reload();
    bird.becomes(true);
    drop(bird);
    wait_until("it says that BIRD is gone", || {
        let status = fleet.vip_status(0);
        status["announced"] == false && status["error"].as_str().is_some_and(|error| error.contains("BIRD"))
    });
    assert_eq!(fleet.vip_status(0)["wanted"], true);
    assert_eq!(fleet.metric(0, "rocinante_vip_announced "), Some(0.0));
    let bird = self::bird(&fleet, 0);
    bird.becomes(true);
    says_announced(&fleet);
    assert!(fleet.metric(0, "rocinante_vip_errors_total ").unwrap() >= 1.0);
    assert_eq!(fleet.vip_status(0)["error"], serde_json::Value::Null);
}

#[test]
fn a_keeper_that_cannot_withdraw_goes_on_trying_and_is_in_nobodys_way() {
    let (mut fleet, bird) = announced("");
    let first = keeper(&mut fleet);
    bird.hang(true);
    wait_until("it says that nobody knows", || fleet.vip_status(0)["announced"].is_null());
    fleet.process(0).says(&["VIPs: BIRD at", "did not answer within 1s: does it hang?"]);
    fleet.kill(0);
    assert!(bird.is_up() && runs(first));
    // It holds no port, no lock, nothing of the instance.
    fleet.start(0);
    fleet.ready(0);
    assert!(runs(first));
    bird.hang(false);
    wait_until("the keeper of the first life is gone", || !runs(first));
    says_announced(&fleet);
    bird.becomes(true);
}

#[test]
fn cut_off_from_the_others_it_withdraws_and_comes_back_with_them() {
    let mut fleet = fleet(3, &by_bird(""));
    let birds = [0, 1, 2].map(|place| bird(&fleet, place));
    // All would listen on the one VIP that they share: on one machine only the first one can.
    fleet.start(0);
    wait_until("the first one listens", || fleet.process(0).said().contains("a VIP keeper runs"));
    for place in 1..3 {
        fleet.start(place);
    }
    for place in 0..3 {
        fleet.ready(place);
    }
    let place = wait_for("one that announces", || birds.iter().position(Bird::is_up));
    let others = [(place + 1) % 3, (place + 2) % 3];
    for other in others {
        let status = fleet.vip_status(other);
        assert_eq!(status["wanted"], false, "{status}");
        assert!(status["reasons"][0].as_str().unwrap().contains("taken by another listener"), "{status}");
    }
    // By an operator.
    assert_eq!(super::kit::http(fleet.instances[place].rest, "POST /shutdownGrpc", "").unwrap().0, 200);
    birds[place].becomes(false);
    assert!(fleet.vip_status(place)["reasons"].to_string().contains("the instance is not ready"));
    assert_eq!(super::kit::http(fleet.instances[place].rest, "POST /startGrpc", "").unwrap().0, 200);
    birds[place].becomes(true);
    // By the others' death.
    for other in others {
        fleet.kill(other);
    }
    birds[place].becomes(false);
    fleet.not_ready(place, "no lease");
    fleet.start(others[0]);
    birds[place].becomes(true);
}

#[test]
fn a_command_is_called_with_the_vips_and_its_failures_are_told() {
    let script = "#!/bin/sh\necho \"$@\" >> calls\n[ ! -e broken ]\n";
    let mut fleet = fleet(
        1,
        "[vip]\nannounce = \"command\"\ncommand = [\"./vip\", \"{label}\"]\nhold = \"20s\"\nsettle = \"0s\"\n",
    );
    let here = fleet.directory.path().to_owned();
    fs::write(here.join("vip"), script).unwrap();
    fs::set_permissions(here.join("vip"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ip = fleet.vip().ip();
    let calls = || fs::read_to_string(here.join("calls")).unwrap_or_default();
    let ends_with = |line: &str| wait_until(line, || calls().lines().last() == Some(line));
    File::create(here.join("broken")).unwrap();
    fleet.start_all();
    fleet.process(0).says(&["VIPs: ./vip", "ended with exit status: 1"]);
    assert_ne!(fleet.vip_status(0)["announced"], true);
    fs::remove_file(here.join("broken")).unwrap();
    says_announced(&fleet);
    ends_with(&format!("a announce {ip}"));
    let (before, keeper) = (calls(), keeper(&mut fleet));
    fleet.process(0).signal(Signal::TERM);
    assert_eq!(fleet.process(0).end().code(), Some(0));
    wait_until("the keeper is gone", || !runs(keeper));
    assert_eq!(calls(), format!("{before}a withdraw {ip}\n"), "once");
    fleet.start_all();
    ends_with(&format!("a announce {ip}"));
    fleet.kill(0);
    ends_with(&format!("a withdraw {ip}"));
}

/// Runs `test` in a network of its own, in which addresses can be added; where that is not permitted, says so.
fn in_a_network_of_its_own(test: impl FnOnce() + Send) {
    let inside = || {
        // SAFETY: takes no pointers; this thread alone moves, and ends.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        if !moved || !has("ip") {
            let why = if moved {
                "there is no ip (iproute2)".to_owned()
            } else {
                std::io::Error::last_os_error().to_string()
            };
            let line = format!("SKIPPED, NOT TESTED: no network namespace can be used here: {why}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return;
        }
        ip("link set lo up");
        test();
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap());
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
}

#[test]
fn a_vip_that_is_nowhere_is_told_and_one_that_comes_goes_and_comes_back_is_followed() {
    for (vip, more) in [("192.0.2.7", "/32 dev lo"), ("2001:db8::7", "/128 dev lo")] {
        in_a_network_of_its_own(|| {
            let mut fleet = fleet(1, &by_bird(""));
            let bird = bird(&fleet, 0);
            let (text, old) = (fs::read_to_string(fleet.config()).unwrap(), fleet.vip());
            let vip = std::net::SocketAddr::new(vip.parse().unwrap(), old.port());
            fs::write(fleet.config(), text.replace(&old.to_string(), &vip.to_string())).unwrap();
            fleet.start_all();
            wait_until("it knows its VIP", || fleet.vip_status(0)["vips"][0]["address"] == vip.to_string());
            let status = fleet.vip_status(0);
            assert_eq!((&status["wanted"], &status["announced"]), (&false.into(), &false.into()), "{status}");
            let problem = format!("it is on no interface of this machine: ip address add {}/", vip.ip());
            assert!(status["reasons"][0].as_str().unwrap().contains(&problem), "{status}");
            assert!(status["vips"][0]["problem"].as_str().unwrap().contains(&problem), "{status}");
            assert_eq!(fleet.metric(0, "rocinante_vip_missing "), Some(1.0));
            fleet.process(0).says(&[&vip.to_string(), &problem]);
            assert!(fleet.readyz(0).unwrap().0, "its other pools would be served");
            for _ in 0..2 {
                ip(&format!("address add {}{more}", vip.ip()));
                bird.becomes(true);
                assert_eq!(ask(1, vip).as_deref(), Some("s1"));
                ip(&format!("address del {}{more}", vip.ip()));
                bird.becomes(false);
            }
            let told = fleet.process(0).said().matches("VIPs that cannot be served here").count();
            assert_eq!(told, 3, "once each time");
        });
    }
}

/// How long it takes from an end of each kind until BIRD has no route any more, once; `ROCINANTE_VIP_ROUNDS=30` measures.
#[test]
fn a_real_bird_announces_and_withdraws() {
    let rounds = std::env::var("ROCINANTE_VIP_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let mut fleet = fleet(1, "[vip]\nannounce = \"bird\"\nbird_socket = \"bird.ctl\"\nsettle = \"0s\"\n");
    let Some(mut bird) = RealBird::start(fleet.directory.path()) else { return };
    let shown = |bird: &RealBird, up: bool| {
        let began = Instant::now();
        // Not a step longer than it takes: this measures.
        while bird.announces() != up {
            assert!(began.elapsed() < DEADLINE, "BIRD: announced {up}; it says {:?}", bird.ask("show protocols"));
        }
        Instant::now()
    };
    for (name, signal) in [("SIGTERM", Signal::TERM), ("kill -9", Signal::KILL), ("SIGSTOP", Signal::STOP)] {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..rounds {
            fleet.start(0);
            fleet.ready(0);
            shown(&bird, true);
            let began = Instant::now();
            fleet.process(0).signal(signal);
            times.push(shown(&bird, false) - began);
            if signal == Signal::STOP {
                fleet.process(0).signal(Signal::CONT);
                shown(&bird, true);
                fleet.kill(0);
            } else {
                fleet.process(0).end();
            }
            shown(&bird, false);
        }
        times.sort();
        let (least, most) = (times[0], times[times.len() - 1]);
        println!("{name}: the route is gone after {:?} (median of {rounds}; {least:?} to {most:?})", times[rounds / 2]);
    }
    fleet.start(0);
    shown(&bird, true);
    let memory = |pid: Pid, key: &str| {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero())).unwrap();
        smaps.lines().find_map(|line| line.strip_prefix(key).map(|rest| rest.trim().to_owned())).unwrap()
    };
    let keeper = keeper(&mut fleet);
    println!("the keeper: {} resident, {} of its own", memory(keeper, "Rss:"), memory(keeper, "Private_Dirty:"));
    // An operator has BIRD read its configuration again, in which the protocol is disabled.
    let disabled = |bird: &RealBird| bird.process.said().matches("Disabling protocol rocinante").count();
    let before = disabled(&bird);
    bird.ask("configure").unwrap();
    wait_until("BIRD was told again", || disabled(&bird) > before && bird.announces());
    says_announced(&fleet);
    // A name that BIRD does not have.
    fleet.kill(0);
    let text = fs::read_to_string(fleet.config()).unwrap();
    fs::write(fleet.config(), text.replace("bird_socket", "bird_protocol = \"anycast\"\nbird_socket")).unwrap();
    fleet.start(0).says(&["VIPs: BIRD has no protocol anycast", "vip.bird_protocol"]);
    assert_eq!(fleet.vip_status(0)["announced"], serde_json::Value::Null);
    bird.process.kill();
    fleet.process(0).says(&["VIPs:", "nobody listens on bird.ctl"]);
}

#[test]
fn a_keeper_that_no_instance_starts_says_so() {
    let fleet = fleet(1, "");
    let ran = rocinante(fleet.directory.path(), &["vip-keeper", "--hold-ms", "100", "--", "./vip"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("only an instance with [vip] in its configuration starts it"), "{ran:?}");
    assert!(!rocinante(fleet.directory.path(), &["--help"]).out.contains("vip-keeper"));
}
