//! `sniffer capture`: counts that are exact, ends by the clock, the rights it needs and those it keeps, and its errors.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::UdpSocket,
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use rustix::net::sockopt::set_ip_tos;
use serde_json::Value;

use crate::{
    net::{CLIENT, Cable, SERVER, WIRE},
    run::{DEADLINE, Done, Running, SNIFFER, in_namespace},
};

/// Sends so many datagrams from each of so many ports and waits until the server has them all; says from which ports.
fn datagrams(cable: &Cable, flows: usize, each: usize) -> Vec<u16> {
    let server = cable.server_udp();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let to = server.local_addr().unwrap();
    let clients: Vec<UdpSocket> = (0..flows).map(|_| cable.client_udp()).collect();
    for _ in 0..each {
        for client in &clients {
            client.send_to(b"0123456789", to).unwrap();
            // One at a time: what the server has was seen by the capture, and no queue of the kernel overflows.
            assert_eq!(server.recv(&mut [0; 64]).unwrap(), 10);
        }
    }
    clients.iter().map(|client| client.local_addr().unwrap().port()).collect()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} in {value}"))
}

/// Packets of each UDP flow by the client's port; a port that comes twice is no flow of its own.
fn udp_flows(done: &Done) -> BTreeMap<u16, (u64, u64, u64)> {
    let mut flows = BTreeMap::new();
    for flow in done.ended().filter(|flow| flow["proto"] == 17) {
        assert_eq!((&flow["src"], &flow["dst"]), (&CLIENT.into(), &SERVER.into()));
        let counts = (number(flow, "packets_fwd"), number(flow, "packets_rev"), number(flow, "bytes_wire"));
        assert_eq!(flows.insert(number(flow, "sport") as u16, counts), None, "told of twice: {flow}");
    }
    flows
}

fn one_line(output: &Output) -> String {
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

#[test]
fn every_packet_is_counted_in_its_flow() {
    let Some(cable) = Cable::lay() else { return };
    let capture = Running::start(&cable.server, &[], &[WIRE]);
    let ports = datagrams(&cable, 20, 25);
    let done = capture.terminate();
    assert!(done.success, "{done:?}");
    // Ethernet, IP, UDP, payload.
    let expected: BTreeMap<_, _> = ports.into_iter().map(|port| (port, (25, 0, 25 * (14 + 20 + 8 + 10)))).collect();
    assert_eq!(udp_flows(&done), expected);
    let summary = done.summary();
    for (name, expected) in [("received", 500), ("kernel_dropped", 0), ("withheld", 0), ("tracked", 500), ("flows", 20)]
    {
        assert_eq!(number(summary, name), expected, "{name} in {summary}");
    }
    assert!(done.stderr.starts_with("received 500 = handled 500 + "), "{}", done.stderr);
}

#[test]
fn a_connection_is_told_of_with_its_name_and_both_directions() {
    let Some(cable) = Cable::lay() else { return };
    let listener = cable.server_tcp();
    let port = listener.local_addr().unwrap().port();
    let capture = Running::start(&cable.server, &[], &[WIRE, "tcp", "port", &port.to_string()]);
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        assert!(length > 0);
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    });
    let mut client = cable.connect(port);
    client.write_all(b"GET / HTTP/1.1\r\nHost: Shop.example\r\n\r\n").unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    drop(client);
    server.join().unwrap();
    // Not of this filter.
    datagrams(&cable, 1, 3);
    assert_eq!(capture.line()["event"], "start");
    let done = capture.terminate();
    let ended: Vec<_> = done.ended().collect();
    let [flow] = ended.as_slice() else { panic!("{done:?}") };
    assert_eq!(
        (&flow["app"], &flow["host"], number(flow, "dport")),
        (&"HTTP".into(), &"shop.example".into(), port.into())
    );
    assert!(number(flow, "packets_fwd") >= 4 && number(flow, "packets_rev") >= 3, "{flow}");
    let summary = done.summary();
    assert_eq!(number(summary, "received"), number(flow, "packets_fwd") + number(flow, "packets_rev"));
}

#[test]
fn a_flow_on_a_quiet_link_ends_by_the_clock() {
    let Some(cable) = Cable::lay() else { return };
    let capture = Running::start(&cable.server, &[], &[WIRE, "--idle", "1"]);
    datagrams(&cable, 1, 1);
    // Nothing is sent any more, and both come.
    assert_eq!(capture.line()["event"], "start");
    let end = capture.line();
    assert_eq!((&end["event"], &end["end"], number(&end, "packets_fwd")), (&"end".into(), &"idle".into(), 1));
    assert_eq!(number(capture.terminate().summary(), "flows"), 1);
}

#[test]
fn workers_share_packets_by_flows() {
    let Some(cable) = Cable::lay() else { return };
    let capture = Running::start(&cable.server, &[], &[WIRE, "--workers", "2"]);
    let ports = datagrams(&cable, 64, 4);
    let done = capture.terminate();
    // A flow that both had seen would be told of twice.
    let expected: BTreeMap<_, _> = ports.into_iter().map(|port| (port, (4, 0, 4 * (14 + 20 + 8 + 10)))).collect();
    assert_eq!(udp_flows(&done), expected);
    let summary = done.summary();
    let flows: Vec<_> = summary["workers"].as_array().unwrap().iter().map(|worker| number(worker, "flows")).collect();
    assert_eq!((flows.len(), flows.iter().sum::<u64>()), (2, 64));
    // Of 64 flows that all hash to one of two, once in 2^63.
    assert!(flows.iter().all(|flows| *flows > 0), "{flows:?}");
}

#[test]
fn workers_share_packets_by_flows_until_the_last_one() {
    let Some(cable) = Cable::lay() else { return };
    let (server, over) = (cable.server_udp(), AtomicBool::new(false));
    let (to, clients) = (server.local_addr().unwrap(), (0..64).map(|_| cable.client_udp()).collect::<Vec<_>>());
    thread::scope(|scope| {
        // Packets come while workers begin and end: one that ended before the other must not leave it its flows.
        scope.spawn(|| {
            let begun = Instant::now();
            while !over.load(Ordering::Relaxed) && begun.elapsed() < DEADLINE {
                clients.iter().for_each(|client| assert_eq!(client.send_to(b"x", to).unwrap(), 1));
            }
        });
        let done: Vec<_> = (0..8)
            .map(|_| {
                let capture = Running::start(&cable.server, &[], &[WIRE, "--workers", "3"]);
                assert_eq!(capture.line()["event"], "start");
                capture.terminate()
            })
            .collect();
        over.store(true, Ordering::Relaxed);
        for done in done {
            assert_eq!(number(done.summary(), "withheld"), 0);
            assert_eq!((udp_flows(&done).len(), number(done.summary(), "flows")), (64, 64));
        }
    });
}

#[test]
fn the_seven_part_key_tells_classes_of_service_apart() {
    let Some(cable) = Cable::lay() else { return };
    let (server, client) = (cable.server_udp(), cable.client_udp());
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    for (key, flows) in [("5", vec![(0, 2)]), ("7", vec![(0, 1), (0x20, 1)])] {
        let capture = Running::start(&cable.server, &[], &[WIRE, "--key", key]);
        for tos in [0, 0x20] {
            set_ip_tos(&client, tos).unwrap();
            client.send_to(b"x", server.local_addr().unwrap()).unwrap();
            assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1);
        }
        let done = capture.terminate();
        let mut told: Vec<_> = done.ended().map(|flow| (number(flow, "tos"), number(flow, "packets_fwd"))).collect();
        told.sort_unstable();
        assert_eq!(told, flows, "--key {key}");
    }
}

#[test]
fn loopback_shows_each_packet_once_and_any_says_what_libpcap_withholds() {
    let Some(cable) = Cable::lay() else { return };
    let up = Command::new("ip").args(["-n", &cable.server, "link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success());
    for (words, withheld) in [(&["lo"][..], 0), (&["lo", "--workers", "2"], 0), (&["any"], 5)] {
        let capture = Running::start(&cable.server, &[], words);
        let (from, to) = (cable.server_udp(), cable.server_udp());
        to.set_read_timeout(Some(DEADLINE)).unwrap();
        for _ in 0..5 {
            from.send_to(b"x", to.local_addr().unwrap()).unwrap();
            assert_eq!(to.recv(&mut [0; 8]).unwrap(), 1);
        }
        let done = capture.terminate();
        let summary = done.summary();
        assert_eq!((number(summary, "handled"), number(summary, "withheld")), (5, withheld), "{words:?}: {summary}");
        assert_eq!(done.ended().count(), 1, "{words:?}");
    }
}

#[test]
fn the_savefile_holds_what_was_captured() {
    let Some(cable) = Cable::lay() else { return };
    let path = std::env::temp_dir().join(format!("sniffer-it-{}.pcap", std::process::id()));
    let file = path.to_str().unwrap();
    let capture = Running::start(&cable.server, &[], &[WIRE, "--write", file, "--workers", "2"]);
    let ports = datagrams(&cable, 8, 5);
    let done = capture.terminate();
    let read = Command::new(SNIFFER).args(["read", "--json", file]).output().unwrap();
    fs::remove_file(&path).unwrap();
    let report: Value = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!((number(&report, "packets"), number(done.summary(), "handled")), (40, 40), "{read:?}");
    let facts = |flow: &Value| {
        let names = ["sport", "packets_fwd", "bytes_wire", "first_us", "last_us"];
        names.map(|name| number(flow, name))
    };
    let mut saved: Vec<_> = report["flows"].as_array().unwrap().iter().map(facts).collect();
    let mut live: Vec<_> = done.ended().map(facts).collect();
    saved.sort_unstable();
    live.sort_unstable();
    assert_eq!(saved, live);
    assert_eq!(saved.len(), ports.len());
}

#[test]
fn a_full_disk_ends_the_capture_with_its_reason() {
    let Some(cable) = Cable::lay() else { return };
    let output = in_namespace(&cable.server, &["capture", WIRE, "--write", "/dev/full"]);
    assert_eq!(one_line(&output), "sniffer: /dev/full: No space left on device (os error 28)");
    // One that takes the beginning, and not all.
    let limit = ["prlimit", "--fsize=4096"];
    let path = std::env::temp_dir().join(format!("sniffer-it-full-{}.pcap", std::process::id()));
    let ignore_xfsz = ["env", "--ignore-signal=XFSZ"];
    let before = [&ignore_xfsz[..], &limit].concat();
    let capture = Running::start(&cable.server, &before, &[WIRE, "--write", path.to_str().unwrap()]);
    datagrams(&cable, 1, 100);
    let done = capture.wait();
    fs::remove_file(&path).unwrap();
    assert!(!done.success);
    assert!(done.stderr.contains(&format!("sniffer: {}: File too large", path.display())), "{}", done.stderr);
    assert_eq!(done.ended().count(), 1, "its flow is told of nevertheless");
    done.summary();
}

#[test]
fn count_and_seconds_end_a_capture_and_sampling_leaves_flows_out() {
    let Some(cable) = Cable::lay() else { return };
    let capture = Running::start(&cable.server, &[], &[WIRE, "--count", "7"]);
    datagrams(&cable, 1, 10);
    let done = capture.wait();
    assert!(done.success);
    assert_eq!(number(done.summary(), "tracked"), 7);
    let capture = Running::start(&cable.server, &[], &[WIRE, "--seconds", "2", "--sample", "4"]);
    datagrams(&cable, 32, 1);
    let done = capture.wait();
    let (tracked, unsampled) = (number(done.summary(), "tracked"), number(done.summary(), "unsampled"));
    assert_eq!((tracked + unsampled, done.ended().count() as u64), (32, tracked));
    assert!(unsampled > 0, "32 flows of which each is taken with one in four");
}

#[test]
fn an_interface_that_goes_away_ends_the_capture_with_its_reason() {
    let Some(cable) = Cable::lay() else { return };
    let capture = Running::start(&cable.server, &[], &[WIRE]);
    datagrams(&cable, 2, 3);
    let gone = Command::new("ip").args(["-n", &cable.client, "link", "delete", WIRE]).status().unwrap();
    assert!(gone.success());
    let done = capture.wait();
    assert!(!done.success);
    assert!(done.stderr.contains("sniffer: wire: "), "{}", done.stderr);
    assert_eq!(udp_flows(&done).len(), 2);
    assert_eq!(number(done.summary(), "tracked"), 6);
}

#[test]
fn errors_are_one_line_that_says_what_to_do() {
    let Some(cable) = Cable::lay() else { return };
    let says = |words: &[&str]| one_line(&in_namespace(&cable.server, &[&["capture"], words].concat()));
    let filter = says(&[WIRE, "udp", "porrt", "53"]);
    assert!(filter.starts_with("sniffer: filter `udp porrt 53`: ") && filter.contains("syntax error"), "{filter}");
    let lines = says(&[WIRE, "udp\nport\nfoo("]);
    assert!(lines.starts_with("sniffer: filter `udp port foo(`: "), "{lines}");
    let unknown = says(&["eth77"]);
    let known = unknown.strip_prefix("sniffer: no interface `eth77`; there are: ").expect(&unknown);
    assert!(known.split(", ").any(|name| name == WIRE) && known.split(", ").any(|name| name == "lo"), "{unknown}");
    assert_eq!(says(&[WIRE, "--user", "no-such-user"]), "sniffer: no user `no-such-user`; another one: --user NAME");
}

#[test]
fn without_the_capability_one_line_says_how_to_get_it() {
    let Some(cable) = Cable::lay() else { return };
    let without =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];
    let output = Command::new("ip")
        .args(["netns", "exec", &cable.server])
        .args(without)
        .args([SNIFFER, "capture", WIRE])
        .output()
        .unwrap();
    let expected =
        format!("sniffer: capturing needs CAP_NET_RAW: run as root, or once: sudo setcap cap_net_raw+ep {SNIFFER}");
    assert_eq!(one_line(&output), expected);
}

#[test]
fn the_capability_alone_is_enough_and_none_is_kept() {
    let Some(cable) = Cable::lay() else { return };
    let only = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all,+net_raw",
        "--inh-caps=-all,+net_raw",
        "--ambient-caps=-all,+net_raw",
    ];
    for before in [&only[..], &[]] {
        let capture = Running::start(&cable.server, before, &[WIRE, "--workers", "2"]);
        let ids = fs::read_dir(format!("/proc/{}/task", capture.id())).unwrap();
        let mut threads = 0;
        for id in ids {
            let status = fs::read_to_string(id.unwrap().path().join("status")).unwrap();
            let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            assert_eq!(of("Uid:").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
            assert_eq!(of("Gid:").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
            assert_eq!(of("Groups:"), "");
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                assert_eq!(u64::from_str_radix(&of(set), 16).unwrap(), 0, "{set}");
            }
            assert_eq!(of("NoNewPrivs:"), "1");
            threads += 1;
        }
        assert!(threads >= 1);
        let ports = datagrams(&cable, 3, 2);
        assert_eq!(udp_flows(&capture.terminate()).len(), ports.len(), "without any privilege it goes on to capture");
    }
}

#[test]
fn interfaces_are_listed_for_people_and_for_scripts() {
    let Some(cable) = Cable::lay() else { return };
    // The kernel says that a link runs a moment after it does.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let json = in_namespace(&cable.server, &["capture", "--list", "--json"]);
        let list: Value = serde_json::from_slice(&json.stdout).unwrap();
        let wire = list.as_array().unwrap().iter().find(|one| one["name"] == WIRE).unwrap();
        assert_eq!((&wire["up"], &wire["addresses"][0]), (&true.into(), &SERVER.into()));
        if wire["running"] == true {
            break;
        }
        assert!(Instant::now() < deadline, "{wire}");
    }
    let table = String::from_utf8(in_namespace(&cable.server, &["capture", "--list"]).stdout).unwrap();
    let row = table.lines().find(|line| line.starts_with(WIRE)).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), [WIRE, "running", SERVER]);
}
