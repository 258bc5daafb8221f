//! Good files, bad files with the exact words about each mistake, and bytes that are no file at all.

mod bad;
mod differences;

use std::time::Duration;

use flow::{Balance, Bind, Commit, HealthKind, OnIsolation, Protocol, ServerState};

use super::*;

const SHIPPED: &str = include_str!("../../../conf/pool.toml");

/// A small good file: lines 1 to 17.
const SMALL: &str = r#"[fleet]
name = "test"

[[fleet.instance]]
label = "a"
address = "127.0.0.1"
grpc = 35001
rest = 8001
metrics = 2112

[[pool]]
name = "web"
bind = ":9001"

[[pool.server]]
name = "s1"
address = "127.0.0.9"
port = 8887
"#;

fn good(text: &str) -> Config {
    parse("f", text.as_bytes()).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn the_shipped_file_is_good() {
    let config = good(SHIPPED);
    assert_eq!(
        config.to_string(),
        "fleet test: 3 instances (a, b, c)\n\
         pool web: tcp at :9001, source-hash, 4 servers (s1, s2, s3, s4)\n\
         pool site: http at :9002, source-hash, 4 servers (h1, h2, h3, h4)"
    );
    let b = config.fleet.instance("b").unwrap();
    assert_eq!((b.endpoint(b.grpc), b.rest, b.metrics), ("127.0.0.2:35001".to_owned(), 8001, 2112));
    assert_eq!(config.pools[0].servers[3].socket_address(), "127.0.0.1:8890".parse().unwrap());
    assert_eq!(config.pools[1].health.kind, HealthKind::Http { path: "/".to_owned(), expect: vec![(200, 399)] });
}

/// The defaults that the shipped file shows as comments are the defaults.
#[test]
fn commented_defaults_are_the_defaults() {
    let uncommented: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with('[') || rest.split(' ').nth(1) == Some("=") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(good(&uncommented), good(SHIPPED));
    assert!(uncommented.contains("\nmax_pins = ") && uncommented.contains("\nstate = "));
}

#[test]
fn defaults() {
    let config = good(SMALL);
    let fleet = &config.fleet;
    assert_eq!((fleet.data_dir.as_path(), fleet.groups, fleet.flow_groups), (Path::new("data"), 16, 4));
    assert_eq!((fleet.lease, fleet.heartbeat), (Duration::from_secs(1), Duration::from_millis(50)));
    assert_eq!((fleet.election_timeout, fleet.drain_timeout), (Duration::from_millis(300), Duration::from_secs(30)));
    assert_eq!(fleet.limits, Limits::default());
    assert_eq!(fleet.tls, None);
    assert_eq!(config.vip, None);
    let pool = &config.pools[0];
    assert_eq!((pool.bind, pool.protocol, pool.balance), (Bind::Own(9001), Protocol::Tcp, Balance::SourceHash));
    assert_eq!((pool.commit, pool.on_isolation), (Commit::FirstContact, OnIsolation::Refuse));
    assert_eq!((pool.pin_ttl_ms, pool.decide_timeout_ms, pool.retry_for_ms), (1_800_000, 1_000, 1_000));
    assert_eq!((pool.connect_timeout_ms, pool.idle_timeout_ms), (1_000, 600_000));
    assert_eq!((pool.max_connections, pool.send_proxy, pool.transparent), (100_000, false, false));
    assert_eq!((&pool.health.kind, pool.health.interval_ms), (&HealthKind::Tcp, 1_000));
    assert_eq!((pool.health.timeout_ms, pool.health.rise, pool.health.fall), (500, 2, 2));
    assert_eq!((pool.servers[0].weight, pool.servers[0].state), (100, ServerState::Enabled));
}

/// Every key with a value that is not its default, and what it means.
#[test]
fn every_key() {
    let config = good(EVERY_KEY);
    let fleet = &config.fleet;
    assert_eq!((fleet.name.as_str(), fleet.data_dir.as_path()), ("f.1", Path::new("/var/lib/r")));
    assert_eq!((fleet.groups, fleet.flow_groups), (1, 0));
    assert_eq!((fleet.lease, fleet.heartbeat), (Duration::from_secs(2), Duration::from_millis(100)));
    assert_eq!((fleet.election_timeout, fleet.drain_timeout), (Duration::from_secs(1), Duration::ZERO));
    let limits = Limits {
        max_pins: 5_000,
        max_pending_choices: 200,
        cache_entries: 300,
        max_relays: 0,
        max_snapshot_rate: 2_000_000,
        max_header_bytes: 8_192,
        max_headers: 20,
        max_h2_streams: 7,
        header_timeout: Duration::from_secs(1),
        first_request_timeout: Duration::from_secs(2),
        keepalive_timeout: Duration::from_secs(3),
        write_timeout: Duration::from_secs(4),
    };
    assert_eq!(fleet.limits, limits);
    let files = fleet.tls.as_ref().unwrap().files(Path::new("conf/pool.toml"), "a");
    let expected = ["conf/ca.pem", "/etc/a.pem", "conf/k/a/a.key"].map(std::path::PathBuf::from);
    assert_eq!([files.ca, files.cert, files.key], expected);
    let vip = config.vip.as_ref().unwrap();
    assert_eq!((vip.settle, vip.hold), (Duration::ZERO, Duration::from_secs(3)));
    let bird = Announcer::Bird { socket: "/run/bird-a.ctl".into(), protocol: "anycast_a*".to_owned() };
    assert_eq!(vip.announcer("a"), bird);
    assert_eq!(fleet.instances[0].address, Host::Name("lb-1.example".to_owned()));
    assert_eq!(fleet.instances[1].endpoint(7), "[2001:db8::1]:7");
    let pool = &config.pools[0];
    assert_eq!((pool.bind, pool.balance), (Bind::Vip("[::]:443".parse().unwrap()), Balance::LeastConnections));
    assert_eq!((pool.on_isolation, pool.pin_ttl_ms), (OnIsolation::Hash, 86_400_000));
    assert_eq!((pool.decide_timeout_ms, pool.retry_for_ms), (250, 2_000));
    assert_eq!((pool.connect_timeout_ms, pool.idle_timeout_ms), (300, 7_200_000));
    assert_eq!((pool.max_connections, pool.send_proxy, pool.transparent), (7, true, true));
    assert_eq!((pool.health.interval_ms, pool.health.timeout_ms), (2_000, 2_000));
    assert_eq!((pool.health.rise, pool.health.fall), (1, 3));
    let expect = vec![(200, 299), (304, 304), (418, 418)];
    assert_eq!(pool.health.kind, HealthKind::Http { path: "/ok?a=\"b\\".to_owned(), expect });
    // An IPv4-mapped address is the IPv4 address.
    assert_eq!(pool.servers[0].address, "10.0.0.1".parse::<std::net::IpAddr>().unwrap());
    assert_eq!((pool.servers[0].weight, pool.servers[0].state), (0, ServerState::Draining));
    assert_eq!(
        config.advice(),
        [
            "2 instances stand no more deaths (0) than 1 would; an odd number is better",
            "pool web has on_isolation = \"hash\": an instance that is cut off may send a client elsewhere",
            "pool web has no server that takes new clients",
            "[vip] announces nothing: no pool is bound to a VIP, as bind = \"192.0.2.1:80\"",
        ]
    );
}

#[test]
fn a_server_that_cannot_answer_transparently_is_worth_a_note() {
    let transparent = SMALL.replace("bind = \":9001\"", "bind = \":9001\"\ntransparent = true");
    let note = "pool web is transparent, and server s1 on an instance's own machine cannot answer clients elsewhere";
    let check = |text: &str, expected: &[&str]| assert_eq!(good(text).advice(), expected);
    check(&transparent, &[note]);
    check(&transparent.replace("127.0.0.1", "10.0.0.1").replace("127.0.0.9", "10.0.0.1"), &[note]);
    check(&transparent.replace("127.0.0.9", "10.0.0.9"), &[]);
    check(SMALL, &[]);
}

#[test]
fn who_announces_vips() {
    let vip = |text: &str| good(&format!("{SMALL}\n[vip]\n{text}")).vip.unwrap();
    let by_bird = vip("announce = \"bird\"");
    let bird = Announcer::Bird { socket: "/run/bird/bird.ctl".into(), protocol: "rocinante".to_owned() };
    assert_eq!(by_bird.announcer("a"), bird);
    assert_eq!((by_bird.settle, by_bird.hold), (Duration::from_millis(500), Duration::from_secs(1)));
    let by_command = vip("announce = \"command\"\ncommand = [\"/etc/vip\", \"--as={label}\", \"\"]");
    let command = ["/etc/vip", "--as=b", ""].map(str::to_owned).to_vec();
    assert_eq!(by_command.announcer("b"), Announcer::Command(command));
    // Advice is only given where no VIP is.
    let with_vip = SMALL.replace("\":9001\"", "\"192.0.2.1:80\"") + "[vip]\nannounce = \"bird\"\n";
    assert_eq!(good(&with_vip).advice(), [""; 0]);
    assert!(DOCS.contains("\n| `command` |"), "the one key that EVERY_KEY cannot have");
}

const EVERY_KEY: &str = r#"
[fleet]
name = "f.1"
data_dir = "/var/lib/r"
groups = 1
flow_groups = 0
lease = "2s"
heartbeat = "100ms"
election_timeout = "1s"
drain_timeout = "0s"
[fleet.limits]
max_pins = 5_000
max_pending_choices = 200
cache_entries = 300
max_relays = 0
max_snapshot_rate = 2_000_000
max_header_bytes = 8192
max_headers = 20
max_h2_streams = 7
header_timeout = "1s"
first_request_timeout = "2s"
keepalive_timeout = "3s"
write_timeout = "4s"
[fleet.tls]
ca = "ca.pem"
cert = "/etc/{label}.pem"
key = "k/{label}/{label}.key"
[vip]
announce = "bird"
bird_socket = "/run/bird-{label}.ctl"
bird_protocol = "anycast_{label}*"
settle = "0s"
hold = "3s"
[[fleet.instance]]
label = "a"
address = "LB-1.example"
grpc = 1
rest = 2
metrics = 3
[[fleet.instance]]
label = "b"
address = "2001:db8::1"
grpc = 1
rest = 2
metrics = 3
[[pool]]
name = "web"
bind = "[::]:443"
protocol = "tcp"
balance = "least-connections"
commit = "first-contact"
pin_ttl = "1d"
on_isolation = "hash"
decide_timeout = "250ms"
retry_for = "2s"
connect_timeout = "300ms"
idle_timeout = "2h"
max_connections = 7
send_proxy = true
transparent = true
[pool.health]
type = "http"
path = '/ok?a="b\'
expect = ["200-299,304", 418]
interval = "2s"
timeout = "2s"
rise = 1
fall = 3
[[pool.server]]
name = "s1"
address = "::ffff:10.0.0.1"
port = 8887
weight = 0
state = "draining"
"#;

#[test]
fn pools_survive_rendering() {
    for text in [SHIPPED, SMALL, EVERY_KEY] {
        let config = good(text);
        let fleet = SMALL.split("[[pool]]").next().unwrap();
        // The small fleet's address is not among the servers', so the pools can move there.
        let rendered: String = config.pools.iter().map(render_pool).collect();
        assert_eq!(good(&format!("{fleet}{rendered}")).pools, config.pools);
    }
    assert!(render_pool(&good(EVERY_KEY).pools[0]).starts_with(
        "[[pool]]\nname = \"web\"\nbind = \"[::]:443\"\nprotocol = \"tcp\"\nbalance = \"least-connections\"\n"
    ));
}

#[test]
fn a_file_is_read_or_its_name_and_reason_are_told() {
    let missing = Path::new("/nonexistent/pool.toml");
    assert_eq!(
        check_report(missing, None).unwrap_err(),
        "/nonexistent/pool.toml: cannot be read: No such file or directory (os error 2); \
         name a readable file with --config\n1 mistake"
    );
    let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/pool.toml"));
    let report = check_report(shipped, None).unwrap();
    assert!(report.contains("pool.toml: good\nfleet test: 3 instances"), "{report}");
    let endless = check_report(Path::new("/dev/zero"), None).unwrap_err();
    assert!(endless.starts_with("/dev/zero: is larger than 1048576 bytes; "), "{endless}");
}

/// Files that were cut, garbled or mixed: an answer, whatever it is, and a place inside the text.
#[test]
fn nothing_panics() {
    // xorshift64*, so that a failure can be replayed.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    };
    let pieces: Vec<&str> = vec![
        "[",
        "]",
        "[[",
        "]]",
        "=",
        "\"",
        "'''",
        "\n",
        "#",
        ".",
        ",",
        "{",
        "}",
        "\u{0}",
        "é",
        "𝄞",
        "1e999",
        "0x",
        "-0",
        "nan",
        "99999999999999999999999",
        "1979-05-27",
        "true",
        "pool",
        "server",
        "fleet",
        "instance",
        "name",
        "[[pool]]\n",
        "[fleet]\n",
        "\u{feff}",
        "::",
        "0.0.0.0:0",
        "\"1s\"",
        "\\uD800",
    ];
    for round in 0..4_000 {
        let source = [SHIPPED, SMALL, EVERY_KEY][round % 3];
        let mut bytes = source.as_bytes().to_vec();
        for _ in 0..=random(6) {
            let at = random(bytes.len() + 1);
            match random(5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, random(256) as u8),
                2 => bytes.splice(at..at, pieces[random(pieces.len())].bytes()).for_each(drop),
                3 => {
                    let end = (at + random(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let start = random(source.len());
                    let end = (start + random(200)).min(source.len());
                    bytes.splice(at..at, source.as_bytes()[start..end].iter().copied()).for_each(drop);
                }
            }
        }
        check_any(&bytes);
    }
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..random(300)).map(|_| random(256) as u8).collect();
        check_any(&bytes);
        let words: String = (0..random(40)).map(|_| pieces[random(pieces.len())]).collect();
        check_any(words.as_bytes());
    }
    check_any("[".repeat(100_000).as_bytes());
    check_any(format!("a = {}", "[".repeat(100_000)).as_bytes());
    check_any(format!("a{} = 1", ".a".repeat(100_000)).as_bytes());
}

fn check_any(bytes: &[u8]) {
    if let Err(mistakes) = parse("f", bytes) {
        let lines = bytes.split(|byte| *byte == b'\n').count();
        for mistake in mistakes.iter() {
            let place = mistake.place.unwrap();
            assert!((1..=lines).contains(&place.line), "{mistake}");
            assert!(!mistake.problem.is_empty() && !mistake.remedy.is_empty());
        }
        assert!(mistakes.iter().count() > 0);
    }
}

const DOCS: &str = include_str!("../../../docs/configuration.md");

/// docs/configuration.md has a heading for each table and a row for each key.
#[test]
fn every_key_is_documented() {
    let docs = DOCS;
    for line in EVERY_KEY.lines() {
        let key = line.split(" = ").next().unwrap_or_default();
        let documented = if key.starts_with('[') {
            docs.contains(&format!("\n## `{key}`\n"))
        } else {
            docs.contains(&format!("\n| `{key}` |"))
        };
        assert!(line.is_empty() || documented, "{key} is not in docs/configuration.md");
    }
}
