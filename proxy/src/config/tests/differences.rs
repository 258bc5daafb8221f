//! What `rocinante apply` shows.

use flow::PoolSpec;

use super::{
    super::{diff, render_pool},
    EVERY_KEY, SHIPPED, SMALL, good,
};

fn pools(text: &str) -> Vec<PoolSpec> {
    good(text).pools
}

/// What changes when the shipped file has `from` replaced by `to`.
fn check(from: &str, to: &str, expected: &[&str]) {
    assert!(SHIPPED.contains(from), "{from:?} is not in the shipped file");
    check_pools(&pools(SHIPPED), &pools(&SHIPPED.replacen(from, to, 1)), expected);
}

fn check_pools(committed: &[PoolSpec], file: &[PoolSpec], expected: &[&str]) {
    let lines: Vec<_> = diff(committed, file).iter().map(ToString::to_string).collect();
    assert_eq!(lines, expected);
}

const S5: &str = "[[pool.server]]\nname = \"s5\"\naddress = \"127.0.0.1\"\nport = 8891\n\n";
const SITE: &str = "# A pool of HTTP servers.\n";

#[test]
fn settings() {
    check("pin_ttl = \"30m\"", "pin_ttl = \"10m\"", &["~ web: pin_ttl 30m -> 10m"]);
    check("pin_ttl = \"30m\"", "pin_ttl = \"1800s\"", &[]);
    check("bind = \":9001\"", "bind = \"127.9.0.1:9001\"", &["~ web: bind :9001 -> 127.9.0.1:9001"]);
    check("\"source-hash\" ", "\"round-robin\" ", &["~ web: balance source-hash -> round-robin"]);
    check("# send_proxy = false", "send_proxy = true", &["~ web: send_proxy false -> true"]);
    check("# transparent = false", "transparent = true", &["~ web: transparent false -> true"]);
    check("rise = 2", "rise = 3", &["~ web: health.rise 2 -> 3"]);
    check(
        "type = \"tcp\"",
        "type = \"http\"",
        &["~ web: health.type tcp -> http", "~ web: health.path (none) -> /", "~ web: health.expect (none) -> 200-399"],
    );
    check(
        "type = \"http\"\npath = \"/\"                         # asked with GET\nexpect = \"200-399\"",
        "type = \"tcp\"",
        &[
            "~ site: health.type http -> tcp",
            "~ site: health.path / -> (none)",
            "~ site: health.expect 200-399 -> (none)",
        ],
    );
}

#[test]
fn servers() {
    check(SITE, &format!("{S5}{SITE}"), &["+ web: server s5 127.0.0.1:8891 weight 100"]);
    check("# state = \"enabled\"", "state = \"draining\"", &["~ web: server s1 state enabled -> draining"]);
    check("weight = 100", "weight = 50", &["~ web: server s1 weight 100 -> 50"]);
    check(
        "port = 8887",
        "port = 9887",
        &["~ web: server s1 127.0.0.1:8887 -> 127.0.0.1:9887: a new identity, clients of the old one move"],
    );
    check(
        "name = \"s1\"",
        "name = \"s0\"",
        &["+ web: server s0 127.0.0.1:8887 weight 100", "- web: server s1 127.0.0.1:8887 weight 100: its clients move"],
    );
}

#[test]
fn whole_pools() {
    check_pools(
        &[],
        &pools(SHIPPED),
        &[
            "+ pool web: tcp at :9001, source-hash, 4 servers (s1, s2, s3, s4)",
            "+ pool site: http at :9002, source-hash, 4 servers (h1, h2, h3, h4)",
        ],
    );
    check_pools(
        &pools(SHIPPED),
        &[],
        &["- pool web with 4 servers and all its pins", "- pool site with 4 servers and all its pins"],
    );
    check(
        "name = \"site\"",
        "name = \"shop\"",
        &[
            "+ pool shop: http at :9002, source-hash, 4 servers (h1, h2, h3, h4)",
            "- pool site with 4 servers and all its pins",
        ],
    );
}

#[test]
fn order_is_no_difference() {
    let mut shuffled = pools(SHIPPED);
    shuffled.reverse();
    shuffled.iter_mut().for_each(|pool| pool.servers.reverse());
    check_pools(&pools(SHIPPED), &shuffled, &[]);
}

#[test]
fn many_at_once() {
    check_pools(
        &pools(SMALL),
        &pools(EVERY_KEY),
        &[
            "~ web: bind :9001 -> [::]:443",
            "~ web: balance source-hash -> least-connections",
            "~ web: pin_ttl 30m -> 1d",
            "~ web: on_isolation refuse -> hash",
            "~ web: decide_timeout 1s -> 250ms",
            "~ web: retry_for 1s -> 2s",
            "~ web: connect_timeout 1s -> 300ms",
            "~ web: idle_timeout 10m -> 2h",
            "~ web: max_connections 100000 -> 7",
            "~ web: send_proxy false -> true",
            "~ web: transparent false -> true",
            "~ web: health.type tcp -> http",
            "~ web: health.path (none) -> /ok?a=\"b\\",
            "~ web: health.expect (none) -> 200-299,304,418",
            "~ web: health.interval 1s -> 2s",
            "~ web: health.timeout 500ms -> 2s",
            "~ web: health.rise 2 -> 1",
            "~ web: health.fall 2 -> 3",
            "~ web: server s1 127.0.0.9:8887 -> 10.0.0.1:8887: a new identity, clients of the old one move",
            "~ web: server s1 weight 100 -> 0",
            "~ web: server s1 state enabled -> draining",
        ],
    );
}

#[test]
fn odd_characters_are_escaped() {
    let mut pool = pools(EVERY_KEY).remove(0);
    pool.name = "a\"\\\n\u{7f}é".to_owned();
    assert!(render_pool(&pool).starts_with("[[pool]]\nname = \"a\\\"\\\\\\u000A\\u007Fé\"\n"));
}
