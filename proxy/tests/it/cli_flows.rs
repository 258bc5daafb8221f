//! `rocinante flow` as a person or a script meets it.

use std::{
    io::Write,
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use flow::flows::{End, Observed, Standing};
use proxy::cli;
use serde_json::{Value, json};

use crate::{
    cli::{check, closed_port, refused, run, run_with},
    client::Instance,
    memory::flows::{seen, tls},
};

#[test]
fn flows_are_a_table_for_people() {
    let instance = Instance::start();
    instance.control.report("tap", &[seen(17, ("127.64.0.7", 5_000), ("9.9.9.9", 53), 1)]);
    instance.control.report("tap", &[tls(51_000, 3)]);
    let ran = run(&instance, "flow list");
    let words: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    let heads = "PROTO SRC DST APP HOST BACKEND PACKETS BYTES STATE AGE ID";
    assert_eq!(words[0], heads.split(' ').collect::<Vec<_>>());
    let first = "tcp 10.0.0.1:51000 198.51.100.1:443 TLS www.example.net - 9 6300 established";
    assert_eq!(words[1][..9], first.split(' ').collect::<Vec<_>>());
    let second = "udp 127.64.0.7:5000 9.9.9.9:53 - - web/s1 3 2100 established";
    assert_eq!(words[2][..9], second.split(' ').collect::<Vec<_>>());
    // In between is the age, which has one part or two.
    assert!(words.iter().skip(1).all(|line| (11..=12).contains(&line.len())), "{words:?}");
    assert_eq!(*words[1].last().unwrap(), format!("5/{}", tls(51_000, 3).key.id()));
    assert_eq!((ran.code, ran.err.as_str(), words.len()), (0, "", 3));
    let filtered = "flow list --prefix 10.0.0.0/8 --port 443 --protocol tcp --app tls --host example.net --state established \
        --observer tap --consistency linearizable";
    assert_eq!(run(&instance, filtered).out.lines().count(), 2);
    assert_eq!(instance.control.linearizable_reads(), 1);
    assert_eq!(run(&instance, "flow list --port 1").out.lines().count(), 1);
    refused(&instance, "flow list --app typo", "TLS, QUIC");
    instance.stop();
}

#[test]
fn lists_of_flows_go_over_pages() {
    let instance = Instance::start();
    let events: Vec<Observed> = (1..=1_100).map(|port| tls(port, 1)).collect();
    instance.control.report("tap", &events);
    let ports = |line: &str| {
        let listed = run(&instance, line).json();
        let ports: std::collections::BTreeSet<u64> =
            listed["flows"].as_array().unwrap().iter().map(|flow| flow["sport"].as_u64().unwrap()).collect();
        assert_eq!(ports.len(), listed["flows"].as_array().unwrap().len(), "each is there once");
        (ports.len(), listed["more"] == true)
    };
    assert_eq!(ports("flow list --json"), (1_000, true));
    assert_eq!(ports("flow list --limit 1050 --json"), (1_050, true));
    assert_eq!(ports("flow list --all --json"), (1_100, false));
    assert_eq!(ports("flow list --port 7 --json"), (1, false));
    assert_eq!(ports("flow list --port 9999 --json"), (0, false));
    let ran = run(&instance, "flow list --limit 3");
    assert_eq!((ran.out.lines().count(), ran.err.as_str()), (4, "there are more: use --limit\n"));
    instance.stop();
}

#[test]
fn a_flow_is_shown_by_each_of_its_names() {
    let instance = Instance::start();
    let mut event = tls(51_000, 3);
    event.vlan = Some(9);
    event.standing = Standing::Ended;
    event.end = Some(End::Closed);
    let seventh = Observed { seventh: Some((8, 3)), ..tls(51_001, 3) };
    instance.control.report("tap", &[event.clone(), seventh.clone()]);
    let (id, community) = (event.key.id(), event.key.community_id());
    let expected = format!(
        "flow      5/{id}  {community}
between   tcp 10.0.0.1:51000 > 198.51.100.1:443, ended
app       TLS, by its payload, host www.example.net
seen with vlan 9
sent      3 packets, 300 bytes
returned  6 packets, 6000 bytes
from      2023-11-14T22:13:20.000Z to 2023-11-14T22:13:20.003Z
revision  1 in shard {}, leaves in 1m

SNIFFER  EPOCH  SENT  RETURNED  BYTES-SENT  BYTES-RETURNED  STATE  END     SAMPLE
tap      1         3         6         300            6000  ended  closed       1
",
        id % 2
    );
    for name in [format!("5/{id}"), id.to_string(), community] {
        check(&instance, &format!("flow get {name}"), &expected);
    }
    let read = run(&instance, &format!("flow get 7/{} --json", seventh.id().0)).json();
    assert_eq!((&read["tos"], &read["id7"]), (&json!(8), &json!(seventh.id().0.to_string())));
    refused(&instance, "flow get 5/1", "there is no flow 5/1");
    refused(&instance, "flow get 1:LQU9qZlK+B5F3KDmev6m5PMibrg=", "there is no flow 1:LQU9qZlK");
    refused(&instance, "flow get 1:typo", "is no Community ID");
    instance.stop();
}

#[test]
fn labels_and_verdicts() {
    let instance = Instance::start();
    let event = tls(51_000, 3);
    instance.control.report("tap", std::slice::from_ref(&event));
    let (id, community) = (event.key.id(), event.key.community_id());
    check(&instance, &format!("flow label {id} os=linux owner=a=b"), &format!("wrote labels on 5/{id} (revision 2)\n"));
    check(
        &instance,
        &format!("flow verdict {community} drop --source fw"),
        &format!("wrote verdict on 5/{id} (revision 3)\n"),
    );
    check(
        &instance,
        &format!("flow label {id} os= --if-revision 3"),
        &format!("wrote labels on 5/{id} (revision 4)\n"),
    );
    refused(&instance, &format!("flow label {id} os=bsd --if-revision 3"), "the flow is at revision 4, not 3");
    let read = run(&instance, &format!("flow get {id} --json")).json();
    assert_eq!(read["labels"], json!({ "owner": "a=b" }));
    let shown = run(&instance, &format!("flow get {id}")).out;
    assert!(shown.contains("label     owner=a=b\nverdict   drop, by fw, 0s ago\n"), "{shown}");
    // A flow that changes between the read and the write is read again, unless the caller named the revision.
    instance.control.disturb((4..7).map(|packets| tls(51_000, packets)).collect());
    let done = run(&instance, &format!("flow verdict {id} allow --source fw --json")).json();
    assert!(done["index"].as_u64().unwrap() > 8, "{done}");
    assert_eq!(run(&instance, &format!("flow get {id} --json")).json()["verdict"]["action"], "allow");
    instance.control.disturb((4..100).map(|packets| tls(51_000, packets)).collect());
    refused(&instance, &format!("flow verdict {id} drop --source fw"), "the flow is at revision");
    instance.control.disturb(Vec::new());
    // Several flows have the name.
    instance.control.report("tap", &[Observed { seventh: Some((8, 3)), ..tls(51_000, 3) }]);
    refused(&instance, &format!("flow label {community} os=bsd"), "2 flows have 1:");
    refused(&instance, "flow label 7/1 os=bsd", "there is no flow 7/1");
    instance.control.without_flows();
    refused(&instance, "flow list", "this fleet has no table of flows");
    refused(&instance, "flow watch --count 1", "this fleet has no table of flows");
    instance.stop();
}

#[test]
fn a_watch_prints_a_line_for_each_change() {
    let instance = Instance::start();
    let event = tls(51_000, 3);
    let id = event.key.id();
    instance.control.report("tap", &[event]);
    let changed = format!(
        "CHANGED tcp 10.0.0.1:51000 > 198.51.100.1:443 TLS www.example.net - 9 packets 6300 bytes established 5/{id}\n"
    );
    check(&instance, "flow watch --after start --count 1", &changed);
    let line = run(&instance, "flow watch --after start --count 1 --port 443 --json").json();
    let position = line["position"].as_str().unwrap();
    assert_eq!((&line["event"], &line["data"]["id5"]), (&json!("changed"), &json!(id.to_string())));
    instance.control.pass(180_000);
    check(&instance, &format!("flow watch --after {position} --count 1"), &format!("LEFT {id} (shard {})\n", id % 2));
    refused(&instance, "flow watch --after later", "start, now, or an event's id");
    refused(&instance, "flow watch --state typo", "new, established");
    let closed = run_with(&format!("flow watch --endpoint {}", closed_port()), None, Path::new("none"));
    assert_eq!(closed.code, 1);
    assert!(closed.err.contains("no instance answers"), "{}", closed.err);
    instance.stop();
}

/// Where a command writes what others look at meanwhile.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Waits until so many lines are there.
    fn lines(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            if text.lines().count() >= count {
                return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            assert!(Instant::now() < deadline, "{count} lines are expected: {text}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_watch_goes_on_at_another_instance_where_it_was() {
    let first = Instance::start();
    let second = Instance::of(first.control.clone());
    let control = first.control.clone();
    control.report("tap", &(1..=10).map(|port| tls(port, 1)).collect::<Vec<_>>());
    let out = Shared::default();
    std::thread::scope(|scope| {
        let line =
            format!("flow watch --after start --count 25 --json --endpoint {} --endpoint {}", first.rest, second.rest);
        let mut written = out.clone();
        let watching = scope.spawn(move || {
            let (mut err, mut input) = (Vec::new(), &b""[..]);
            let mut console = cli::Console {
                out: &mut written,
                err: &mut err,
                input: &mut input,
                terminal: false,
                default_config: "none".into(),
            };
            let code = cli::execute(std::iter::once("rocinante").chain(line.split_whitespace()), &mut console);
            (code, String::from_utf8(err).unwrap())
        });
        let before = out.lines(10);
        assert!(before[9]["position"].is_string(), "{}", before[9]);
        first.stop();
        // Nobody told it of these, and it is told of nothing twice.
        control.report("tap", &(8..=22).map(|port| tls(port, 2)).collect::<Vec<_>>());
        let mut after: Vec<u64> =
            out.lines(25)[10..].iter().map(|line| line["data"]["sport"].as_u64().unwrap()).collect();
        after.sort_unstable();
        assert_eq!(after, (8..=22).collect::<Vec<u64>>());
        assert_eq!(watching.join().unwrap(), (0, String::new()));
    });
    second.stop();
}

#[test]
fn a_watch_with_a_filter_tells_of_those_that_left_which_it_showed() {
    let instance = Instance::start();
    let dns = seen(17, ("10.0.0.9", 5_000), ("9.9.9.9", 53), 1);
    let mut events: Vec<Observed> = (1..=20).map(|port| tls(port, 1)).collect();
    events.push(dns.clone());
    instance.control.report("tap", &events);
    let out = Shared::default();
    std::thread::scope(|scope| {
        let line = format!("flow watch --after start --port 53 --count 3 --json --endpoint {}", instance.rest);
        let mut written = out.clone();
        scope.spawn(move || {
            let (mut err, mut input) = (Vec::new(), &b""[..]);
            let mut console = cli::Console {
                out: &mut written,
                err: &mut err,
                input: &mut input,
                terminal: false,
                default_config: "none".into(),
            };
            assert_eq!(cli::execute(std::iter::once("rocinante").chain(line.split_whitespace()), &mut console), 0);
        });
        out.lines(1);
        instance.control.pass(180_000);
        out.lines(2);
        // It left, came again, and is shown again.
        instance.control.report("tap", &events);
        let kinds: Vec<String> = out.lines(3).iter().map(|line| line["event"].to_string()).collect();
        assert_eq!(kinds, [r#""changed""#, r#""left""#, r#""changed""#]);
    });
    let left = &out.lines(3)[1]["data"]["id"];
    assert_eq!(left, &json!(dns.key.id().to_string()));
    instance.stop();
}

#[test]
fn an_instance_that_sends_no_events_is_passed_over() {
    let instance = Instance::start();
    instance.control.report("tap", &[tls(1, 1)]);
    let liar = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = liar.local_addr().unwrap();
    let lying = std::thread::spawn(move || {
        let (mut stream, _) = liar.accept().unwrap();
        let mut request = [0; 1024];
        assert!(std::io::Read::read(&mut stream, &mut request).unwrap() > 0);
        // Longer than any event: it is not kept.
        let line = vec![b'x'; 2 << 20];
        let sent = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\ndata: ").and_then(|()| stream.write_all(&line));
        drop(sent);
    });
    let line = format!("flow watch --after start --count 1 --json --endpoint {address} --endpoint {}", instance.rest);
    assert_eq!(run_with(&line, None, Path::new("none")).json()["data"]["sport"], 1);
    lying.join().unwrap();
    instance.stop();
}
