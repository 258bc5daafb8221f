//! Every path of the REST API, good and bad.

use std::io::Write;

use proxy::{control::ControlError, rest::paths::PATHS};
use serde_json::{Value, json};

use crate::client::{Instance, read_answer};

/// `METHOD /path`, the body sent, the status, and JSON that the answer must contain.
pub fn check(instance: &Instance, what: &str, body: &str, status: u16, expected: Value) {
    let answer = instance.ask(what, body);
    assert_eq!(answer.status, status, "{what}: {}", answer.body);
    assert_contains(what, &answer.json(), &expected);
}

fn assert_contains(what: &str, found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (name, value) in expected {
                let inner = found.get(name).unwrap_or_else(|| panic!("{what}: no {name} in {found:?}"));
                assert_contains(what, inner, value);
            }
        }
        _ => assert_eq!(found, expected, "{what}"),
    }
}

#[test]
fn role_answers_exactly_this() {
    let instance = Instance::start();
    let answer = instance.ask("GET /role", "");
    assert_eq!(answer.body, r#"{"role":"leader"}"#);
    assert!(answer.head.to_lowercase().contains("content-type: application/json"), "{}", answer.head);
    instance.stop();
}

#[test]
fn everything_there_is_can_be_read() {
    let instance = Instance::start();
    let see = |path: &str, expected| check(&instance, &format!("GET {path}"), "", 200, expected);
    see("/leader", json!({ "leader": "a", "term": 3 }));
    see("/healthz", json!({ "healthy": true }));
    see("/readyz", json!({ "ready": true, "reasons": [] }));
    see("/size", json!({ "group": 0, "size": 1, "first_index": 1, "last_index": 1 }));
    see("/committed?group=0", json!({ "committed": 1 }));
    let entry = json!({ "group": 0, "index": 1, "term": 3, "kind": "members", "text": "a b", "committed": true });
    see("/log/1", entry.clone());
    see("/log?from=1&limit=5", json!({ "entries": [entry] }));
    see("/status", json!({ "instance": "a", "id": 1, "role": "leader", "term": 3, "leader": "a", "epoch": 1 }));
    see("/status", json!({ "fleet": { "name": "test", "uuid": "00000000000000000000000000000abc" } }));
    see("/status", json!({ "ready": true, "reasons": [], "applied_index": 1 }));
    see("/pools/web", json!({ "epoch": 1, "applied_index": 1 }));
    see("/pins/web/127.64.0.7", json!({ "server": "s1", "state": "settled", "address": "127.0.0.1:8887" }));
    see("/pins/web/::ffff:127.64.0.7", json!({ "client": "127.64.0.7" }));

    let status = instance.ask("GET /status", "").json();
    let group = json!({ "lease_ms": 2500, "tables": [{ "name": "kv", "rows": 0, "digest": "000000000000feed" }] });
    assert_contains("groups", &status["groups"][0], &group);
    let member = json!({ "label": "b", "address": "127.0.0.2", "grpc": 35001, "voter": true, "reachable": true });
    assert_contains("members", &status["members"][1], &member);
    let server = &status["pools"][0]["servers"][0];
    assert_contains("server", server, &json!({ "name": "s1", "verdict": "up", "votes": { "a": "up", "b": "down" } }));
    assert_eq!(instance.ask("GET /peer/list", "").json()["members"], status["members"]);
    instance.stop();
}

#[test]
fn a_request_of_a_session_counts_once() {
    let instance = Instance::start();
    let ask = |what: &str, body: &str, status, expected| check(&instance, what, body, status, expected);
    ask("POST /sessions", "", 200, json!({ "session": 2 }));
    for _ in 0..2 {
        ask("PUT /kv/color?session=2&sequence=1", "blue", 200, json!({ "index": 3 }));
        ask(
            "PUT /kv/color?if_revision=9&session=2&sequence=2&answered_below=1",
            "red",
            409,
            json!({ "reason": "conflict" }),
        );
        ask("DELETE /kv/color?session=2&sequence=3", "", 200, json!({ "index": 4 }));
    }
    for half in ["session=2", "sequence=2", "answered_below=2"] {
        ask(&format!("PUT /kv/color?{half}"), "red", 400, json!({ "reason": "invalid" }));
    }
    ask("PUT /kv/color?session=2&sequence=4&answered_below=5", "red", 400, json!({ "reason": "invalid" }));
    ask("DELETE /pins/web/127.64.0.9?session=2&sequence=4", "", 400, json!({ "reason": "invalid" }));
    ask("DELETE /sessions/2", "", 200, json!({ "index": 5 }));
    let gone = json!({ "reason": "no_session", "retry": "after_reading" });
    ask("PUT /kv/color?session=2&sequence=4", "red", 410, gone);
    ask("DELETE /sessions/two", "", 400, json!({ "reason": "invalid" }));
    instance.stop();
}

#[test]
fn keys_are_set_read_listed_and_removed() {
    let instance = Instance::start();
    let ask = |what: &str, body: &str, status, expected| check(&instance, what, body, status, expected);
    ask("POST /submit/color/blue", "", 200, json!({ "key": "color", "value": "blue", "index": 2 }));
    ask("GET /get/color", "", 200, json!({ "key": "color", "value": "blue", "revision": 2, "applied_index": 2 }));
    ask("PUT /kv/color?if_revision=2", "green", 200, json!({ "index": 3 }));
    ask("PUT /kv/color?if_revision=2", "red", 409, json!({ "reason": "conflict", "retry": "after_reading" }));
    ask("POST /kv/a/path/with%20space", "1", 200, json!({ "index": 4 }));
    ask("GET /kv/a/path/with%20space", "", 200, json!({ "key": "a/path/with space" }));
    ask("GET /kv?limit=1", "", 200, json!({ "more": true }));
    ask("GET /kv?prefix=col", "", 200, json!({ "items": [{ "key": "color", "value": "green", "revision": 3 }] }));
    ask("DELETE /kv/color?if_revision=1", "", 409, json!({ "reason": "conflict" }));
    ask("DELETE /kv/color", "", 200, json!({ "index": 5 }));
    ask("DELETE /kv/color", "", 404, json!({ "reason": "not_found", "retry": "never" }));
    ask("GET /get/color", "", 404, json!({ "reason": "not_found" }));
    let mut request = format!("PUT /kv/raw HTTP/1.1\r\nHost: {}\r\nContent-Length: 2\r\n", instance.rest).into_bytes();
    request.extend_from_slice(b"Connection: close\r\n\r\n\xff\x00");
    assert_eq!(instance.send(&request).status, 200);
    ask("GET /kv/raw", "", 200, json!({ "value_hex": "ff00" }));
    instance.stop();
}

#[test]
fn reads_ask_for_a_quorum_only_when_told() {
    let instance = Instance::start();
    instance.ask("GET /pools", "");
    instance.ask("GET /pools?consistency=local", "");
    assert_eq!(instance.control.linearizable_reads(), 0);
    for path in ["/pools", "/pools/web", "/pins/web", "/pins/web/127.64.0.1", "/kv", "/tuning"] {
        assert_eq!(instance.ask(&format!("GET {path}?consistency=linearizable"), "").status, 200, "{path}");
    }
    assert_eq!(instance.control.linearizable_reads(), 6);
    check(&instance, "GET /pools?consistency=strong", "", 400, json!({ "reason": "invalid" }));
    instance.stop();
}

#[test]
fn pins_come_in_pages_and_can_be_removed() {
    let instance = Instance::start();
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = instance.ask(&format!("GET /pins/web?limit=100{after}"), "").json();
        seen.extend(page["pins"].as_array().unwrap().iter().map(|pin| pin["client"].clone()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let unique: std::collections::HashSet<String> = seen.iter().map(Value::to_string).collect();
    assert_eq!((seen.len(), unique.len()), (250, 250));
    check(&instance, "DELETE /pins/web/127.64.0.9?if_revision=4", "", 409, json!({ "reason": "conflict" }));
    check(&instance, "DELETE /pins/web/127.64.0.9", "", 200, json!({ "index": 2 }));
    check(&instance, "GET /pins/web/127.64.0.9", "", 404, json!({ "reason": "not_found" }));
    check(&instance, "GET /pins/nothing", "", 404, json!({ "reason": "not_found" }));
    check(&instance, "GET /pins/web?prefix=1", "", 400, json!({ "reason": "invalid" }));
    check(&instance, "GET /pins/web/somebody", "", 400, json!({ "reason": "invalid" }));
    instance.stop();
}

#[test]
fn what_was_read_of_pools_can_be_sent_back() {
    let instance = Instance::start();
    let before = instance.control.specs();
    let read = instance.ask("GET /pools", "").json();
    let body = json!({ "epoch": read["epoch"], "pools": read["pools"] }).to_string();
    check(&instance, "POST /pools", &body, 200, json!({ "index": 2, "epoch": 2 }));
    assert_eq!(instance.control.specs(), before);
    check(&instance, "POST /pools", &body, 409, json!({ "error": "the epoch is 2, not 1" }));
    instance.stop();
}

#[test]
fn impossible_pools_are_refused_in_words() {
    let instance = Instance::start();
    let pool = instance.ask("GET /pools", "").json()["pools"][0].clone();
    let refuse = |change: &dyn Fn(&mut Value), words: &str| {
        let mut pool = pool.clone();
        change(&mut pool);
        let answer = instance.ask("POST /pools", &json!({ "epoch": 1, "pools": [pool] }).to_string());
        assert_eq!(answer.status, 400, "{}", answer.body);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{error:?} should say {words:?}");
    };
    refuse(&|pool| pool["bind"] = json!("9001"), "\":port\" or \"ip:port\"");
    refuse(&|pool| pool["bind"] = json!(":0"), "port 0");
    refuse(&|pool| pool["balance"] = json!("random"), "source-hash, round-robin, least-connections");
    refuse(&|pool| pool["name"] = json!("no spaces"), "a-z A-Z 0-9");
    refuse(&|pool| pool["pin_ttl_ms"] = json!(0), "pin_ttl");
    refuse(&|pool| pool["pin_ttl_ms"] = json!(-1), "integer");
    refuse(&|pool| pool["health"]["type"] = json!("http"), "needs a path");
    refuse(&|pool| pool["health"]["rise"] = json!(0), "at least 1");
    refuse(&|pool| pool["servers"][1]["name"] = json!("s1"), "two servers are called \"s1\"");
    refuse(&|pool| pool["servers"][0]["weight"] = json!(65_536), "65535");
    refuse(&|pool| pool["servers"][0]["address"] = json!("0.0.0.0"), "no address of a server");
    refuse(&|pool| pool["typo"] = json!(1), "typo");
    assert_eq!(instance.ask("POST /pools", "{\"epoch\": 1, \"pools\": [").status, 400);
    assert_eq!(instance.ask("POST /pools", "").status, 400);
    let twice = json!({ "epoch": 1, "pools": [pool, pool] }).to_string();
    check(&instance, "POST /pools", &twice, 400, json!({ "error": "two pools are called \"web\"" }));
    instance.stop();
}

#[test]
fn servers_come_drain_return_and_go() {
    let instance = Instance::start();
    let ask = |what: &str, body: &str, status, expected| check(&instance, what, body, status, expected);
    let server = r#"{"name": "s3", "address": "127.0.0.1", "port": 8889}"#;
    ask("POST /pools/web/servers", server, 200, json!({ "epoch": 2 }));
    ask("POST /pools/web/servers", server, 409, json!({ "reason": "conflict" }));
    ask("POST /pools/none/servers", server, 404, json!({ "reason": "not_found" }));
    ask("POST /pools/web/servers", r#"{"name": "s4"}"#, 400, json!({ "reason": "invalid" }));
    ask("POST /pools/web/servers/s3/drain", "", 200, json!({ "epoch": 3 }));
    let state = || instance.ask("GET /pools/web", "").json()["pools"][0]["servers"][2]["state"].clone();
    assert_eq!(state(), "draining");
    ask("POST /pools/web/servers/s3/enable", "", 200, json!({ "epoch": 4 }));
    assert_eq!(state(), "enabled");
    ask("DELETE /pools/web/servers/s3", "", 200, json!({ "epoch": 5 }));
    ask("DELETE /pools/web/servers/s3", "", 404, json!({ "reason": "not_found" }));
    instance.stop();
}

#[test]
fn members_come_vote_lead_and_go() {
    let instance = Instance::start();
    let ask = |what: &str, body: &str, status, expected| check(&instance, what, body, status, expected);
    let member = r#"{"label": "c", "address": "127.0.0.3", "grpc": 35001, "rest": 8001, "metrics": 2112}"#;
    ask("POST /members", member, 200, json!({ "index": 2 }));
    ask("POST /members", member, 409, json!({ "reason": "conflict" }));
    ask("POST /members", &member.replace("35001", "0"), 400, json!({ "reason": "invalid" }));
    ask("POST /members/c/promote", "", 200, json!({ "index": 3 }));
    ask("POST /members/b/transfer", "", 200, json!({ "leader": "b" }));
    ask("GET /role", "", 200, json!({ "role": "follower" }));
    ask("DELETE /members/c", "", 200, json!({ "index": 4 }));
    ask("DELETE /members/c", "", 404, json!({ "reason": "not_found" }));
    ask("POST /members/no%20name/promote", "", 400, json!({ "reason": "invalid" }));
    instance.stop();
}

#[test]
fn an_instance_is_cut_off_tuned_stopped_and_backed_up() {
    let instance = Instance::start();
    let ask = |what: &str, body: &str, status, expected| check(&instance, what, body, status, expected);
    ask("POST /shutdownGrpc", "", 200, json!({ "grpc": "shut" }));
    ask("POST /startGrpc", "", 200, json!({ "grpc": "open" }));
    ask("GET /startGrpc", "", 405, json!({ "reason": "wrong_method" }));
    ask(
        "GET /events?after=1",
        "",
        200,
        json!({ "events": [{ "number": 2, "kind": "grpc", "text": "open", "subject": "a", "unix_ms": 1000 }] }),
    );
    ask("GET /events?after=x", "", 400, json!({ "reason": "invalid" }));
    ask("GET /tuning", "", 200, json!({ "tuning": null, "effective": { "heartbeat_ms": 500, "election_ms": 5000 } }));
    let tuning = json!({ "heartbeat_ms": 100, "election_ms": 600, "detector": { "phi": 8.5 }, "spread": false, "shuffle_ms": 0 });
    ask("POST /tuning", &tuning.to_string(), 200, json!({ "index": 2 }));
    ask("GET /tuning", "", 200, json!({ "tuning": tuning, "effective": tuning }));
    let wrong = tuning.to_string().replace("600", "200");
    ask("POST /tuning", &wrong, 400, json!({ "reason": "invalid" }));
    ask("POST /tuning", "{}", 400, json!({ "reason": "invalid" }));
    ask("DELETE /tuning", "", 200, json!({ "index": 3 }));
    ask("POST /shutdownNode/b", "", 200, json!({ "stopping": "b" }));
    ask("POST /shutdownNode/z", "", 404, json!({ "reason": "not_found" }));
    instance.stop();
}

#[test]
fn reads_are_as_fresh_as_asked() {
    let instance = Instance::start();
    let ask = |what: &str, status, expected| check(&instance, what, "", status, expected);
    ask("GET /pools?consistency=bounded", 200, json!({}));
    ask("GET /pools?consistency=bounded&max_staleness_ms=20", 200, json!({}));
    ask("GET /pools?max_staleness_ms=20", 400, json!({ "reason": "invalid" }));
    ask("GET /pools?consistency=newest", 400, json!({ "reason": "invalid" }));
    instance.stop();
}

#[test]
fn each_error_has_a_status_a_reason_and_a_hint() {
    let instance = Instance::start();
    type Make = fn(String) -> ControlError;
    let table: [(Make, u16, &str, &str); 7] = [
        (ControlError::Unavailable, 503, "unavailable", "later"),
        (ControlError::UnknownOutcome, 504, "unknown_outcome", "after_reading"),
        (ControlError::Overloaded, 429, "overloaded", "later"),
        (ControlError::DiskFull, 507, "disk_full", "later"),
        (ControlError::Unsupported, 501, "unsupported", "never"),
        (ControlError::Internal, 500, "internal", "never"),
        (ControlError::Invalid, 400, "invalid", "never"),
    ];
    for (make, status, reason, retry) in table {
        instance.control.fail(Some(make("why".into())));
        let expected = json!({ "error": "why", "reason": reason, "retry": retry });
        check(&instance, "POST /submit/k/v", "", status, expected);
    }
    check(&instance, "GET /status", "", 200, json!({ "instance": "a" }));
    instance.stop();
}

#[test]
fn changing_by_get_is_refused_with_a_hint() {
    let instance = Instance::start();
    for path in ["/submit/k/v", "/shutdownGrpc", "/startGrpc", "/shutdownNode/2", "/pools/web/servers"] {
        let answer = instance.ask(&format!("GET {path}"), "");
        assert_eq!(answer.status, 405, "{path}: {}", answer.body);
        assert!(answer.head.to_lowercase().contains("\r\nallow: post"), "{}", answer.head);
        assert!(answer.json()["hint"].as_str().unwrap().contains("curl -X POST"), "{}", answer.body);
    }
    instance.stop();
}

#[test]
fn unknown_paths_are_told_which_there_are() {
    let instance = Instance::start();
    for path in ["/nothing", "/pools/web/typo", "/kv/", "/log/1/2", "//", "/status/"] {
        let answer = instance.ask(&format!("GET {path}"), "");
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
        assert!(answer.json()["paths"].as_array().unwrap().contains(&json!("/role")), "{path}");
    }
    for path in ["/log/one", "/log?limit=0", "/log?limit=100000", "/log?typo=1", "/kv/%ff", "/size?group=-1"] {
        check(&instance, &format!("GET {path}"), "", 400, json!({ "reason": "invalid" }));
    }
    check(&instance, "GET /log/99", "", 404, json!({ "reason": "not_found" }));
    check(&instance, "GET /size?group=9", "", 404, json!({ "reason": "not_found" }));
    instance.stop();
}

#[test]
fn the_table_of_paths_is_what_is_served() {
    let instance = Instance::start();
    for entry in PATHS {
        let path: Vec<&str> =
            entry.path.split('/').map(|part| if part.starts_with('{') { "1" } else { part }).collect();
        // It would be followed to its end.
        let query = if entry.path == "/flows/watch" { "?after=nowhere" } else { "" };
        let answer = instance.ask(&format!("{} {}{query}", entry.method, path.join("/")), "");
        let reason = answer.json_or_null()["reason"].clone();
        assert!(answer.status != 405 && reason != "no_such_path", "{} {}: {}", entry.method, entry.path, answer.body);
    }
    let openapi = instance.ask("GET /openapi.json", "").json();
    assert_eq!(openapi["openapi"], "3.0.3");
    let operations = openapi["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len());
    assert_eq!(operations.sum::<usize>(), PATHS.len());
    instance.stop();
}

#[test]
fn an_instance_that_announces_vips_says_how_they_stand() {
    let instance = Instance::start();
    assert!(instance.ask("GET /status", "").json().get("vip").is_none());
    instance.control.announces(true, Some(true), None);
    let vip = json!({
        "wanted": true,
        "announced": true,
        "since_unix_ms": 1_700_000_000_000_u64,
        "reasons": [],
        "error": null,
        "vips": [
            { "address": "192.0.2.1:80", "problem": null },
            { "address": "[2001:db8::1]:80", "problem": "it is on no interface" },
        ],
    });
    check(&instance, "GET /readyz", "", 200, json!({ "ready": true, "reasons": [], "vip": vip }));
    assert_eq!(instance.ask("GET /status", "").json()["vip"], vip);
    instance.control.announces(false, None, Some("BIRD does not answer"));
    let vip = &instance.ask("GET /readyz", "").json()["vip"];
    assert_eq!((&vip["announced"], &vip["error"]), (&json!(null), &json!("BIRD does not answer")));
    assert_eq!(vip["reasons"], json!(["the instance is not ready"]));
    instance.stop();
}

#[test]
fn an_instance_that_does_not_serve_says_why() {
    let instance = Instance::start();
    instance.control.not_ready(&["no lease for group 1"]);
    check(&instance, "GET /readyz", "", 503, json!({ "ready": false, "reasons": ["no lease for group 1"] }));
    check(&instance, "GET /healthz", "", 200, json!({ "healthy": true }));
    instance.stop();
}

#[test]
fn a_page_of_another_origin_changes_nothing() {
    let instance = Instance::start();
    let foreign = instance.ask_with("POST /submit/k/v", "Origin: http://evil.example\r\n", "");
    assert_eq!((foreign.status, &foreign.json()["reason"]), (403, &json!("foreign_origin")));
    let own = format!("Origin: http://{}\r\n", instance.rest);
    assert_eq!(instance.ask_with("POST /submit/k/v", &own, "").status, 200);
    assert_eq!(instance.ask_with("GET /status", "Origin: http://evil.example\r\n", "").status, 200);
    instance.stop();
}

#[test]
fn the_dashboard_needs_nothing_from_elsewhere() {
    let instance = Instance::start();
    let answer = instance.ask("GET /", "");
    assert_eq!(answer.status, 200);
    assert!(answer.head.to_lowercase().contains("content-security-policy: default-src 'none'"), "{}", answer.head);
    assert!(answer.body.contains("fetch(\"/status\"") && answer.body.contains("fetch(\"/flows?\""));
    assert!(!answer.body.contains("http://") && !answer.body.contains("https://"));
    instance.stop();
}

#[test]
fn large_and_malformed_requests_are_refused() {
    let instance = Instance::start();
    let value = "x".repeat(600 << 10);
    check(&instance, "PUT /kv/k", &value, 400, json!({ "reason": "invalid" }));
    let body = format!("Host: {}\r\nContent-Length: 5000000\r\nConnection: close\r\n\r\n", instance.rest);
    let answer = instance.send(format!("PUT /kv/k HTTP/1.1\r\n{body}").as_bytes());
    assert_eq!(answer.status, 413, "{}", answer.body);
    let header = format!("X-Large: {}\r\n", "y".repeat(40 << 10));
    assert_eq!(instance.ask_with("GET /role", &header, "").status, 431);
    let many = "X-Many: 1\r\n".repeat(100);
    assert_eq!(instance.ask_with("GET /role", &many, "").status, 431);
    let key = "k".repeat(5_000);
    check(&instance, &format!("GET /kv/{key}"), "", 400, json!({ "reason": "invalid" }));
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0\0\0\0\r\n\r\n"]
    {
        let answer = instance.send(garbage);
        assert!(matches!(answer.status, 0 | 400), "{garbage:?}: {}", answer.head);
    }
    check(&instance, "GET /role", "", 200, json!({ "role": "leader" }));
    instance.stop();
}

#[test]
fn a_client_that_never_finishes_its_headers_is_let_go() {
    let instance = Instance::start();
    let mut slow = instance.connect();
    slow.write_all(b"GET /role HTTP/1.1\r\nHost: a\r\nX-").unwrap();
    let answer = read_answer(&mut slow);
    assert!(matches!(answer.status, 0 | 408), "{}", answer.head);
    instance.stop();
}

#[test]
fn what_is_never_answered_ends_by_itself_and_says_what_is_known() {
    let instance = Instance::start();
    instance.control.silence(true);
    std::thread::scope(|scope| {
        let change = scope.spawn(|| instance.ask("POST /submit/k/v", "").json());
        let read = scope.spawn(|| instance.ask("GET /kv/k", "").json());
        assert_eq!(change.join().unwrap()["reason"], "unknown_outcome");
        assert_eq!(read.join().unwrap()["reason"], "unavailable");
    });
    instance.stop();
}

#[test]
fn at_its_limit_it_still_says_how_it_is() {
    let instance = Instance::start();
    instance.control.silence(true);
    let request = format!("GET /kv/k HTTP/1.1\r\nHost: {}\r\n\r\n", instance.rest);
    let held: Vec<_> = (0..proxy::rest::REQUESTS_MAX)
        .map(|_| {
            let mut stream = instance.connect();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    // Nothing else is asked until all of them are held, or it could take the place of one.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while instance.control.unanswered() < proxy::rest::REQUESTS_MAX {
        assert!(std::time::Instant::now() < deadline, "{} requests are held", instance.control.unanswered());
        std::thread::yield_now();
    }
    let answer = instance.ask("GET /openapi.json", "");
    assert_eq!((answer.status, &answer.json()["reason"]), (429, &json!("overloaded")));
    check(&instance, "GET /role", "", 200, json!({ "role": "leader" }));
    check(&instance, "GET /readyz", "", 200, json!({ "ready": true }));
    drop(held);
    instance.stop();
}

#[test]
fn the_documentation_has_every_path() {
    let document = include_str!("../../../docs/api.md");
    for entry in PATHS {
        let row = format!("| {} | `{}` | {} |", entry.method, entry.path, entry.summary);
        assert!(document.contains(&row), "docs/api.md lacks {row}");
    }
}
