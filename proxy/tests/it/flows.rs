//! The table of flows over REST: every path, good and bad, and following it.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use flow::flows::{FlowId, Observed, SnifferId, shard_of};
use proxy::{control::ControlError, grpc::flows::WATCHES_MAX};
use serde_json::{Value, json};

use crate::{
    client::Instance,
    memory::flows::{SHARDS, seen, tls},
};

fn check(instance: &Instance, what: &str, body: &str, status: u16, expected: Value) {
    crate::rest::check(instance, what, body, status, expected);
}

/// Asks and expects it refused as `invalid`, with these words.
fn refused(instance: &Instance, what: &str, body: &str, words: &str) {
    let answer = instance.ask(what, body);
    assert_eq!((answer.status, &answer.json()["reason"]), (400, &json!("invalid")), "{what}: {}", answer.body);
    assert!(answer.json()["error"].as_str().unwrap().contains(words), "{what}: {} should say {words:?}", answer.body);
}

/// The source ports of the flows in an answer.
fn ports(instance: &Instance, what: &str) -> Vec<u64> {
    let answer = instance.ask(what, "");
    assert_eq!(answer.status, 200, "{what}: {}", answer.body);
    let flows = answer.json()["flows"].as_array().unwrap().clone();
    flows.iter().map(|flow| flow["sport"].as_u64().unwrap()).collect()
}

fn shard(event: &Observed) -> u32 {
    shard_of(FlowId(event.key.id()), SHARDS)
}

#[test]
fn a_flow_is_shown_with_all_that_is_known_of_it() {
    let instance = Instance::start();
    let mut first = tls(51_000, 5);
    first.vlan = Some(7);
    first.sample = 8;
    first.label.as_mut().unwrap().alpn = Some("h2".into());
    instance.control.report("tap", &[first.clone()]);
    // Another sniffer saw more of it.
    instance.control.report("other", &[tls(51_000, 6)]);
    let id = first.key.id();
    let found = instance.ask(&format!("GET /flows/5/{id}"), "").json();
    let observer = |name: &str, packets: u64| {
        json!({
            "name": name, "sniffer": SnifferId::of(name).0.to_string(), "epoch": "1", "state": "established",
            "first_us": 1_700_000_000_000_000_u64, "last_us": 1_700_000_000_000_000 + packets * 1_000,
            "packets_fwd": packets, "packets_rev": packets * 2, "bytes_fwd": packets * 100, "bytes_rev": packets * 2_000,
            "tcp_flags_fwd": 2, "tcp_flags_rev": 18,
        })
    };
    let mut sampled = observer("tap", 5);
    sampled["sample"] = json!(8);
    let expected = json!({
        "id5": id.to_string(), "community_id": first.key.community_id(), "protocol": 6, "protocol_name": "tcp",
        "src": "10.0.0.1", "sport": 51_000, "dst": "198.51.100.1", "dport": 443, "state": "established",
        "first_us": 1_700_000_000_000_000_u64, "last_us": 1_700_000_000_006_000_u64,
        "packets_fwd": 6, "packets_rev": 12, "bytes_fwd": 600, "bytes_rev": 12_000,
        "app": "TLS", "app_confidence": "payload", "host": "www.example.net", "alpn": "h2", "vlan": 7,
        "observers": [sampled, observer("other", 6)], "labels": {}, "backends": [],
        // Nothing was committed in the other shard.
        "shard": shard(&first), "revision": 2, "expires_in_ms": 180_000, "applied_index": 0,
    });
    assert_eq!(found, expected);
    instance.stop();
}

#[test]
fn who_sent_first_is_the_source_whichever_address_is_lower() {
    let instance = Instance::start();
    let there = seen(17, ("10.0.0.1", 9), ("10.0.0.2", 53), 1);
    let back = seen(17, ("10.0.0.4", 9), ("10.0.0.3", 53), 1);
    instance.control.report("tap", &[there.clone(), back.clone()]);
    for (event, source, destination) in [(there, "10.0.0.1", "10.0.0.2"), (back, "10.0.0.4", "10.0.0.3")] {
        let expected = json!({
            "src": source, "sport": 9, "dst": destination, "dport": 53, "packets_fwd": 1, "packets_rev": 2,
            "protocol_name": "udp",
        });
        check(&instance, &format!("GET /flows/5/{}", event.key.id()), "", 200, expected);
    }
    let client = seen(132, ("127.64.0.7", 1), ("127.0.0.1", 9001), 1);
    instance.control.report("tap", std::slice::from_ref(&client));
    let flow = instance.ask(&format!("GET /flows/5/{}", client.key.id()), "").json();
    let backend = json!({ "pool": "web", "client": "127.64.0.7", "server": "s1", "address": "127.0.0.1:8887" });
    assert_eq!((&flow["backends"], &flow["protocol_name"]), (&json!([backend]), &json!("sctp")));
    assert!(flow.get("app").is_none() && flow.get("verdict").is_none() && flow.get("id7").is_none(), "{flow}");
    instance.stop();
}

#[test]
fn flows_are_found_by_each_of_their_names() {
    let instance = Instance::start();
    let plain = tls(1, 1);
    let sevens = [8, 16].map(|tos| Observed { seventh: Some((tos, 3)), ..tls(1, 1) });
    instance.control.report("tap", &[plain.clone(), sevens[0].clone(), sevens[1].clone(), tls(2, 1)]);
    let (id5, id7) = (plain.key.id(), sevens[0].id().0);
    let (id5_text, id7_text) = (id5.to_string(), id7.to_string());
    check(&instance, &format!("GET /flows/5/{id5}"), "", 200, json!({ "id5": id5_text }));
    let seventh = json!({ "id5": id5_text, "id7": id7_text, "tos": 8, "ingress": 3 });
    check(&instance, &format!("GET /flows/7/{id7}?consistency=linearizable"), "", 200, seventh);
    assert_eq!(instance.control.linearizable_reads(), 1);
    for missing in [format!("/flows/7/{id5}"), format!("/flows/5/{id7}"), "/flows/5/1".into(), "/flows/7/1".into()] {
        check(&instance, &format!("GET {missing}"), "", 404, json!({ "reason": "not_found" }));
    }
    let community = plain.key.community_id();
    let encoded = community.replace(':', "%3A").replace('/', "%2F").replace('+', "%2B").replace('=', "%3D");
    for text in [&community, &encoded] {
        assert_eq!(ports(&instance, &format!("GET /flows/community/{text}")), [1, 1, 1], "{text}");
    }
    let lookup = json!({ "flows": [
        { "id7": id7_text }, { "id5": "9" }, { "community_id": community }, { "id5": tls(2, 1).key.id().to_string() },
        { "protocol": "TCP", "src": "198.51.100.1", "sport": 443, "dst": "10.0.0.1", "dport": 2 },
        { "protocol": 17, "src": "10.0.0.1", "sport": 2, "dst": "198.51.100.1", "dport": 443 },
    ] });
    let found = instance.ask("POST /flows/lookup", &lookup.to_string()).json();
    let sports: Vec<&Value> = found["flows"].as_array().unwrap().iter().map(|flow| &flow["sport"]).collect();
    assert_eq!(
        (sports, &found["missing"]),
        (vec![&json!(1), &json!(1), &json!(1), &json!(1), &json!(2), &json!(2)], &json!([1, 5]))
    );
    assert_eq!(found["flows"][0]["id7"], id7_text);
    instance.stop();
}

/// Base64 has characters that mean something in a path.
#[test]
fn community_ids_with_slashes_and_signs_are_whole() {
    let instance = Instance::start();
    let find = |part: &str| (1..60_000).map(|port| tls(port, 1)).find(|event| event.key.community_id().contains(part));
    for part in ["/", "+", "//"] {
        let event = find(part).unwrap();
        instance.control.report("tap", std::slice::from_ref(&event));
        let id = event.key.community_id();
        assert_eq!(ports(&instance, &format!("GET /flows/community/{id}")), [u64::from(event.key.low.port)], "{id}");
    }
    instance.stop();
}

#[test]
fn flows_come_in_pages_and_by_what_they_are() {
    let instance = Instance::start();
    let all: Vec<Observed> = (1..=230).map(|port| tls(port, port.into())).collect();
    instance.control.report("tap", &all);
    let mut over = seen(17, ("10.9.0.1", 5_000), ("2.2.2.2", 53), 1);
    over.standing = flow::flows::Standing::Ended;
    over.end = Some(flow::flows::End::Idle);
    let v6 = seen(58, ("2001:db8::1", 128), ("2001:db8::2", 0), 1);
    instance.control.report("other", &[over, v6]);
    let (mut shown, mut pages, mut next) = (Vec::new(), 0, String::new());
    loop {
        let page = instance.ask(&format!("GET /flows?limit=50{next}"), "").json();
        shown.extend(page["flows"].as_array().unwrap().iter().map(|flow| flow["id5"].to_string()));
        pages += 1;
        match page["next"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    let unique: std::collections::BTreeSet<&String> = shown.iter().collect();
    assert_eq!((shown.len(), unique.len(), pages), (232, 232, 5));
    instance.control.report("tap", &[tls(7, 500)]);
    assert_eq!(ports(&instance, "GET /flows?limit=3")[0], 7, "what changed last is in front");
    assert_eq!(ports(&instance, "GET /flows").len(), 100);
    for (filter, expected) in [
        ("port=7", vec![7]),
        ("port=5000", vec![5_000]),
        ("prefix=10.9.0.0/16", vec![5_000]),
        ("prefix=2.2.2.2", vec![5_000]),
        ("prefix=2001:db8::/32", vec![128]),
        ("protocol=udp", vec![5_000]),
        ("protocol=17", vec![5_000]),
        ("protocol=ICMPv6", vec![128]),
        ("protocol=1", vec![]),
        ("app=tls&port=9", vec![9]),
        ("app=quic", vec![]),
        ("host=example.net&port=9", vec![9]),
        ("host=ample.net", vec![]),
        ("state=ended", vec![5_000]),
        ("observer=other&state=established", vec![128]),
    ] {
        assert_eq!(ports(&instance, &format!("GET /flows?{filter}")), expected, "{filter}");
    }
    let number = SnifferId::of("other").0;
    assert_eq!(ports(&instance, &format!("GET /flows?observer={number}")).len(), 2);
    assert_eq!(ports(&instance, "GET /flows?limit=1000&host=www.example.net&consistency=bounded").len(), 230);
    instance.stop();
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let instance = Instance::start();
    for (path, words) in [
        ("/flows?prefix=10.0.0.0/33", "is no prefix"),
        ("/flows?port=70000", "port=70000: a number from 0 to 65535 is expected"),
        ("/flows?app=tls&limit=many", "limit=many: a number from 0 to"),
        ("/flows?port=1&port=2", "port is given twice"),
        ("/flows?protocol=tcpp", "icmp, tcp, udp, icmpv6, sctp, or a number"),
        ("/flows?protocol=256", "a number from 0 to 255"),
        ("/flows?app=typo", "TLS, QUIC"),
        ("/flows?state=open", "new, established, closing, ended"),
        ("/flows?limit=0", "1 to 1000"),
        ("/flows?cursor=typo", "is no cursor"),
        ("/flows?cursor=00000000-1.1", "is of another fleet"),
        ("/flows?cursor=0000abcd-0.1-0.1", "is of another fleet"),
        ("/flows?after=now", "/flows/watch"),
        ("/flows?typo=1", "there is no parameter typo: prefix, port,"),
        ("/flows?max_staleness_ms=5", "consistency=bounded"),
        ("/flows/6/1", "5 or 7"),
        ("/flows/5/one", "no id of a flow"),
        ("/flows/5/-1", "no id of a flow"),
        ("/flows/5/1?limit=3", "there is no parameter limit: consistency, max_staleness_ms are possible"),
        ("/flows/community/1:abc", "is no Community ID"),
        ("/flows/community/a/b/c", "is no Community ID"),
        ("/flows/watch?after=later", "start, now, or an event's id"),
        ("/flows/watch?after=1.1", "start, now, or an event's id"),
        ("/flows/watch?after=00000000-0.1", "shards that this fleet does not have"),
        ("/flows/watch?limit=5", "no limit"),
        ("/flows/watch?state=open", "new, established"),
    ] {
        refused(&instance, &format!("GET {path}"), "", words);
    }
    for (body, words) in [
        ("", "not the JSON"),
        (r#"{"flows": [{}]}"#, "is named by"),
        (r#"{"flows": [{"id5": "1", "id7": "1"}]}"#, "is named by"),
        (r#"{"flows": [{"protocol": 6, "src": "1.2.3.4"}]}"#, "is named by"),
        (r#"{"flows": [{"id5": 1}]}"#, "not the JSON"),
        (r#"{"flows": [{"id5": "x"}]}"#, "no id of a flow"),
        (r#"{"flows": [{"community_id": "1:x"}]}"#, "no Community ID"),
        (r#"{"flows": [{"typo": "x"}]}"#, "typo"),
        (r#"{"flows": [{"protocol": 6, "src": "1.2.3.4", "sport": 1, "dst": "::1", "dport": 1}]}"#, "IPv4"),
        (r#"{"flows": [{"protocol": "x", "src": "1.2.3.4", "sport": 1, "dst": "1.1.1.1", "dport": 1}]}"#, "protocol"),
    ] {
        refused(&instance, "POST /flows/lookup", body, words);
    }
    let many = json!({ "flows": vec![json!({ "id5": "1" }); 1_001] }).to_string();
    refused(&instance, "POST /flows/lookup", &many, "at most 1000");
    check(&instance, "DELETE /flows/5/1", "", 405, json!({ "reason": "wrong_method" }));
    check(&instance, "GET /flows/5/1/labels", "", 405, json!({ "reason": "wrong_method" }));
    let lost = instance.ask("GET /flows/5", "");
    assert_eq!((lost.status, &lost.json()["reason"]), (404, &json!("no_such_path")));
    let near = lost.json()["hint"].as_str().unwrap().to_owned();
    assert!(
        near.contains("there are /flows, ") && near.contains(", /flows/{size}/{id}, ") && !near.contains("/pools"),
        "{near}"
    );
    let wrong = instance.ask("DELETE /flows/5/1/verdict", "").json();
    let hint = wrong["hint"].as_str().unwrap();
    assert!(hint.contains("it stays until another takes its place") && hint.contains("-X PUT -d '{"), "{hint}");
    instance.stop();
}

#[test]
fn a_lookup_that_finds_too_much_is_refused() {
    let instance = Instance::start();
    let event = tls(1, 1);
    let sevens: Vec<Observed> = (0..20).map(|tos| Observed { seventh: Some((tos, 3)), ..tls(1, 1) }).collect();
    instance.control.report("tap", &sevens);
    let lookup =
        |times: usize| json!({ "flows": vec![json!({ "community_id": event.key.community_id() }); times] }).to_string();
    let fits = instance.ask("POST /flows/lookup", &lookup(500)).json();
    assert_eq!(fits["flows"].as_array().unwrap().len(), 10_000);
    refused(&instance, "POST /flows/lookup", &lookup(501), "at most 10000 are shown");
    instance.stop();
}

#[test]
fn labels_and_verdicts_are_written_if_the_revision_is_the_one_given() {
    let instance = Instance::start();
    let event = tls(1, 1);
    instance.control.report("tap", std::slice::from_ref(&event));
    let path = format!("/flows/5/{}", event.key.id());
    let put = |what: &str, body: Value, status, expected| {
        check(&instance, &format!("PUT {path}/{what}"), &body.to_string(), status, expected);
    };
    put("labels", json!({ "if_revision": 1, "labels": { "os": "linux", "owner": "lab" } }), 200, json!({ "index": 2 }));
    let stale = json!({ "error": "the flow is at revision 2, not 1", "reason": "conflict", "retry": "after_reading" });
    put("labels", json!({ "if_revision": 1, "labels": { "os": "bsd" } }), 409, stale.clone());
    put("verdict", json!({ "if_revision": 1, "action": "drop", "source": "fw" }), 409, stale);
    put("verdict", json!({ "if_revision": 2, "action": "drop", "source": "fw" }), 200, json!({ "index": 5 }));
    put("labels", json!({ "if_revision": 5, "labels": { "os": "" } }), 200, json!({ "index": 6 }));
    instance.control.pass(70);
    let flow = instance.ask(&format!("GET {path}"), "").json();
    assert_eq!(flow["labels"], json!({ "owner": "lab" }));
    assert_eq!(flow["verdict"], json!({ "action": "drop", "source": "fw", "age_ms": 70 }));
    assert_eq!((&flow["revision"], &flow["expires_in_ms"]), (&json!(6), &json!(179_930)));
    let long = "x".repeat(300);
    put("labels", json!({ "if_revision": 6, "labels": { "os": long } }), 400, json!({ "reason": "invalid" }));
    put("labels", json!({ "labels": { "os": "bsd" } }), 400, json!({ "reason": "invalid" }));
    put("verdict", json!({ "if_revision": 6, "action": "drop" }), 400, json!({ "reason": "invalid" }));
    let body = json!({ "if_revision": 1, "labels": {} }).to_string();
    check(&instance, "PUT /flows/7/1/labels", &body, 404, json!({ "reason": "not_found" }));
    check(&instance, "PUT /flows/5/x/labels", &body, 400, json!({ "reason": "invalid" }));
    let foreign = instance.ask_with(&format!("PUT {path}/labels"), "Origin: http://evil.example\r\n", &body);
    assert_eq!(foreign.status, 403);
    instance.stop();
}

#[test]
fn the_table_as_a_whole_is_shown() {
    let instance = Instance::start();
    let events: Vec<Observed> = (1..=40).map(|port| tls(port, 1)).collect();
    instance.control.report("tap", &events);
    instance.control.pass(500);
    instance.control.report("late", &events[..1]);
    let stats = instance.ask("GET /flows/stats", "").json();
    let sum = |name: &str| stats["shards"].as_array().unwrap().iter().map(|shard| shard[name].as_u64().unwrap()).sum();
    assert_eq!((sum("flows"), sum("begun"), sum("expired"), sum("evicted")), (40_u64, 40_u64, 0_u64, 0_u64));
    assert_eq!((sum("batches_again"), sum("unplaced"), sum("flows_max")), (0_u64, 0_u64, 200_000_u64));
    assert_eq!(stats["shards"][1]["shard"], 1);
    let sniffers = stats["sniffers"].as_array().unwrap();
    let of = |name: &str| sniffers.iter().find(|sniffer| sniffer["name"] == name).unwrap();
    let number = SnifferId::of("tap").0.to_string();
    let tap = json!({ "name": "tap", "sniffer": number, "epoch": "1", "batches": [1, 1], "silent_ms": 500 });
    assert_eq!(of("tap"), &tap);
    let mut batches = [0, 0];
    batches[shard(&events[0]) as usize] = 1;
    assert_eq!((&of("late")["batches"], &of("late")["silent_ms"]), (&json!(batches), &json!(0)));
    instance.stop();
}

#[test]
fn a_fleet_without_a_table_of_flows_says_so() {
    let instance = Instance::start();
    instance.control.without_flows();
    let expected = json!({ "reason": "unsupported", "error": "this fleet has no table of flows" });
    for path in
        ["/flows", "/flows/5/1", "/flows/stats", "/flows/watch", "/flows/community/1:LQU9qZlK+B5F3KDmev6m5PMibrg="]
    {
        check(&instance, &format!("GET {path}"), "", 501, expected.clone());
    }
    check(&instance, "POST /flows/lookup", r#"{"flows": []}"#, 501, expected.clone());
    let body = r#"{"if_revision": 1, "action": "drop", "source": "fw"}"#;
    check(&instance, "PUT /flows/5/1/verdict", body, 501, expected);
    instance.control.fail(Some(ControlError::Unavailable("starting".into())));
    check(&instance, "GET /flows", "", 503, json!({ "reason": "unavailable" }));
    instance.stop();
}

/// Follows the table; the connection ends with it.
struct Watch {
    lines: BufReader<TcpStream>,
    /// The last position told.
    position: String,
}

/// What came, with the position from which to go on if there was one.
#[derive(Debug, PartialEq)]
struct Event {
    kind: String,
    data: Value,
    position: Option<String>,
}

impl Watch {
    /// Begins to, in HTTP/1.0, whose answers come as they are.
    fn start(instance: &Instance, query: &str, headers: &str) -> Self {
        let mut stream = instance.connect();
        let head = format!("GET /flows/watch{query} HTTP/1.0\r\nHost: {}\r\n{headers}\r\n", instance.rest);
        stream.write_all(head.as_bytes()).unwrap();
        let mut watch = Self { lines: BufReader::new(stream), position: String::new() };
        assert!(watch.line().starts_with("HTTP/1.0 200 "));
        let mut head = Vec::new();
        loop {
            match watch.line() {
                line if line.is_empty() => break,
                line => head.push(line.to_lowercase()),
            }
        }
        assert!(head.contains(&"content-type: text/event-stream".to_owned()), "{head:?}");
        assert_eq!(watch.block(), None, "first it says where it begins");
        assert!(!watch.position.is_empty());
        watch
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the watch broke off");
        line.trim_end().to_owned()
    }

    /// The next lines up to an empty one: an event, or a sign of life.
    fn block(&mut self) -> Option<Event> {
        let (mut kind, mut data, mut position) = (String::new(), Value::Null, None);
        loop {
            let line = self.line();
            match line.split_once(": ") {
                None if line.is_empty() => break,
                Some(("event", name)) => name.clone_into(&mut kind),
                Some(("data", json)) => data = serde_json::from_str(json).unwrap(),
                Some(("id", id)) => position = Some(id.to_owned()),
                Some(("retry" | "", _)) => {}
                _ => panic!("{line:?} is no line of an event"),
            }
        }
        if let Some(position) = &position {
            self.position.clone_from(position);
        }
        (!kind.is_empty()).then_some(Event { kind, data, position })
    }

    /// The next event.
    fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.block() {
                return event;
            }
        }
    }

    /// So many events, as kind and source port or id.
    fn events(&mut self, count: usize) -> Vec<(String, String)> {
        let told = |event: Event| {
            let what = if event.kind == "left" { &event.data["id"] } else { &event.data["sport"] };
            (event.kind, what.to_string().replace('"', ""))
        };
        let mut events: Vec<_> = (0..count).map(|_| told(self.event())).collect();
        events.sort();
        events
    }
}

fn changed(ports: std::ops::RangeInclusive<u16>) -> Vec<(String, String)> {
    let mut expected: Vec<_> = ports.map(|port| ("changed".to_owned(), port.to_string())).collect();
    expected.sort();
    expected
}

fn flows(ports: std::ops::RangeInclusive<u16>, packets: u64) -> Vec<Observed> {
    ports.map(|port| tls(port, packets)).collect()
}

#[test]
fn who_follows_is_told_what_changes_and_what_leaves() {
    let instance = Instance::start();
    instance.control.report("tap", &flows(1..=20, 1));
    let mut now = Watch::start(&instance, "", "");
    let mut all = Watch::start(&instance, "?after=start", "");
    assert_eq!(all.events(20), changed(1..=20));
    instance.control.report("tap", &flows(15..=25, 2));
    assert_eq!(all.events(11), changed(15..=25));
    assert_eq!(now.events(11), changed(15..=25));
    instance.control.pass(180_000);
    let mut left: Vec<(String, String)> =
        (1..=25).map(|port| ("left".to_owned(), tls(port, 1).key.id().to_string())).collect();
    left.sort();
    assert_eq!(all.events(25), left);
    assert_eq!(now.events(25), left);
    drop((now, all));
    instance.stop();
}

#[test]
fn a_batch_ends_with_the_position_from_which_another_watch_goes_on() {
    let instance = Instance::start();
    let list = instance.ask("GET /flows", "").json();
    let mut before = Watch::start(&instance, "", "");
    let began = before.position.clone();
    instance.control.report("tap", &flows(1..=20, 1));
    let events: Vec<Event> = (0..20).map(|_| before.event()).collect();
    assert!(events.last().unwrap().position.is_some(), "the last event of a batch has a position");
    let reached = before.position.clone();
    drop(before);
    instance.control.report("tap", &flows(18..=22, 2));
    let mut by_query = Watch::start(&instance, &format!("?after={reached}"), "");
    assert_eq!(by_query.events(5), changed(18..=22));
    // What a browser says that was cut off counts more than where it began once.
    let mut by_header = Watch::start(&instance, "?after=start", &format!("Last-Event-ID: {reached}\r\n"));
    assert_eq!(by_header.events(5), changed(18..=22));
    // Cut off before the first event, and after a page.
    for position in [began.as_str(), list["position"].as_str().unwrap()] {
        let mut all = Watch::start(&instance, &format!("?after={position}"), "");
        assert_eq!(all.events(22), changed(1..=22));
    }
    drop((by_query, by_header));
    instance.stop();
}

#[test]
fn a_filter_lets_through_what_matches_and_what_left() {
    let instance = Instance::start();
    let mut watch = Watch::start(&instance, "?after=now&port=5&protocol=tcp&app=tls", "");
    instance.control.report("tap", &flows(1..=20, 1));
    assert_eq!(watch.events(1), changed(5..=5));
    instance.control.report("tap", &flows(6..=20, 2));
    instance.control.report("tap", &flows(5..=5, 2));
    assert_eq!(watch.events(1), changed(5..=5));
    instance.control.pass(180_000);
    assert_eq!(watch.events(20).len(), 20, "of what left only the id is known");
    drop(watch);
    instance.stop();
}

#[test]
fn who_was_away_too_long_is_told_how_much_it_missed() {
    let instance = Instance::start();
    instance.control.report("tap", &flows(1..=10, 1));
    let mut before = Watch::start(&instance, "?after=start", "");
    assert_eq!(before.events(10).len(), 10);
    let reached = before.position.clone();
    drop(before);
    // More leave than are remembered.
    let most = flow::flows::DEPARTURES_MAX as u64;
    let rounds = 2 * most.div_ceil(1_500) + 2;
    let event = |round: u64, n: u64| {
        let address = format!("10.{}.{}.{}", 1 + round % 250, n / 250, 1 + n % 250);
        seen(17, (&address, 1 + (round / 250) as u16), ("198.51.100.1", 53), 1)
    };
    for round in 0..rounds {
        let events: Vec<Observed> = (0..1_500).map(|n| event(round, n)).collect();
        instance.control.report("tap", &events);
        instance.control.pass(180_000);
    }
    let mut again = Watch::start(&instance, &format!("?after={reached}"), "");
    let (mut left, mut missed, mut lagged) = (0, 0, 0);
    while left + missed < 10 + rounds * 1_500 {
        let event = again.event();
        match event.kind.as_str() {
            "left" => left += 1,
            "lagged" => {
                lagged += 1;
                missed += event.data["missed"].as_u64().unwrap();
            }
            kind => panic!("{kind}: nothing is there any more"),
        }
    }
    assert_eq!((left + missed, lagged), (10 + rounds * 1_500, 2), "each shard says it, and exactly");
    drop(again);
    instance.stop();
}

/// Positions come from outside.
#[test]
fn a_position_that_never_was_harms_nobody() {
    let instance = Instance::start();
    instance.control.report("tap", &flows(1..=20, 1));
    let most = u64::MAX;
    for position in [format!("00000000-0.{most}-0.{most}"), format!("00000000-1.{most}-1.{most}")] {
        let mut watch = Watch::start(&instance, &format!("?after={position}"), "");
        instance.control.report("tap", &flows(1..=20, 2));
        instance.control.pass(180_000);
        while watch.event().kind != "left" {}
        drop(watch);
        instance.control.report("tap", &flows(1..=20, 1));
    }
    instance.stop();
}

#[test]
fn what_another_instance_told_that_was_ahead_is_waited_for_and_what_nobody_did_is_refused() {
    let instance = Instance::start();
    instance.control.report("tap", &flows(1..=20, 1));
    let position = instance.ask("GET /flows", "").json()["position"].as_str().unwrap().to_owned();
    // The next entry of each shard: it comes while somebody waits for it.
    let ahead = position.replace("-1.", "-2.");
    assert_ne!(ahead, position);
    let mut watch = std::thread::scope(|scope| {
        let waits = scope.spawn(|| Watch::start(&instance, &format!("?after={ahead}"), ""));
        instance.control.report("tap", &flows(1..=20, 2));
        waits.join().unwrap()
    });
    instance.control.report("tap", &flows(1..=20, 3));
    assert_eq!(watch.events(20), changed(1..=20));
    let most = u64::MAX;
    let told = json!({ "reason": "unavailable", "retry": "later" });
    let never = format!("00000000-{most}.{most}-{most}.{most}");
    check(&instance, &format!("GET /flows/watch?after={never}"), "", 503, told.clone());
    check(&instance, "GET /flows?cursor=00000000-7777.1-0.1", "", 503, told);
    drop(watch);
    instance.stop();
}

#[test]
fn a_position_of_another_fleet_is_answered_with_a_reset_and_all_there_is() {
    let instance = Instance::start();
    instance.control.report("tap", &flows(1..=20, 1));
    let elsewhere = "1234abcd-5000.7-6000.8-7000.9";
    let mut watch = Watch::start(&instance, &format!("?after={elsewhere}"), "");
    assert_eq!(watch.position, elsewhere, "who is cut off now has not heard it");
    assert_eq!(watch.event().kind, "reset");
    assert_eq!(watch.events(20), changed(1..=20));
    assert!(watch.position.starts_with("00000000-"), "{}", watch.position);
    drop(watch);
    instance.stop();
}

#[test]
fn so_many_follow_at_once_and_no_more() {
    let instance = Instance::start();
    let mut held: Vec<Watch> = (0..WATCHES_MAX).map(|_| Watch::start(&instance, "", "")).collect();
    check(&instance, "GET /flows/watch", "", 429, json!({ "reason": "overloaded", "retry": "later" }));
    // They take no place of other requests, and the one that goes makes room.
    check(&instance, "GET /flows", "", 200, json!({ "flows": [] }));
    drop(held.pop());
    let deadline = Instant::now() + Duration::from_secs(30);
    let request = format!("GET /flows/watch HTTP/1.0\r\nHost: {}\r\n\r\n", instance.rest);
    loop {
        let mut stream = instance.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        if line.starts_with("HTTP/1.0 200") {
            break;
        }
        assert!(Instant::now() < deadline, "{line}");
    }
    drop(held);
    instance.stop();
}

#[test]
fn one_that_reads_nothing_holds_nobody_up() {
    let instance = Instance::start();
    let slow = Watch::start(&instance, "?after=start", "");
    // Far more than the system keeps for a client that does not read.
    for packets in 1..=40 {
        instance.control.report("tap", &flows(1..=1_000, packets));
    }
    let mut other = Watch::start(&instance, "?after=start", "");
    assert_eq!(other.events(1_000), changed(1..=1_000));
    drop(other);
    // Changes coalesced meanwhile: reading on, it sees the last of each flow.
    let mut slow = slow;
    let (mut told, mut last) = (0, std::collections::BTreeMap::new());
    while last.len() < 1_000 || last.values().any(|packets| *packets != 40) {
        let event = slow.event();
        told += 1;
        last.insert(event.data["sport"].as_u64().unwrap(), event.data["packets_fwd"].as_u64().unwrap());
    }
    assert!(told < 30_000, "{told} of 40 000 changes were told");
    drop(slow);
    instance.stop();
}
