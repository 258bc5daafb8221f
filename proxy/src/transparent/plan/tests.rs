//! The rules as text, and how they are told from others.

use super::*;
use crate::config;

/// The pools of a file with `bind`, `protocol` and a server's address for each.
fn pools(settings: &[(&str, &str, &str, bool)]) -> Vec<PoolSpec> {
    let mut text = String::from(
        "[fleet]\nname = \"test\"\n[[fleet.instance]]\nlabel = \"a\"\naddress = \"lb\"\ngrpc = 1\nrest = 2\nmetrics = 3\n",
    );
    for (number, (bind, protocol, server, transparent)) in settings.iter().enumerate() {
        text += &format!(
            "[[pool]]\nname = \"p{number}\"\nbind = \"{bind}\"\nprotocol = \"{protocol}\"\ntransparent = {transparent}\n\
             [[pool.server]]\nname = \"s\"\naddress = \"{server}\"\nport = 80\n"
        );
    }
    config::parse("f", text.as_bytes()).unwrap_or_else(|mistakes| panic!("{mistakes}")).pools
}

fn ip_lines(plan: &Plan) -> Vec<String> {
    plan.lines.iter().filter(|line| line.owner != Owner::Nft).map(ToString::to_string).collect()
}

#[test]
fn a_vip_of_each_version() {
    let pools = pools(&[
        ("192.0.2.10:80", "tcp", "10.0.0.1", true),
        ("[2001:db8::10]:443", "http", "2001:db8:1::1", true),
        ("192.0.2.11:80", "tcp", "10.0.0.1", false),
    ]);
    let plan = Plan::of(&pools, Numbers::default());
    let expected = "add table inet rocinante
delete table inet rocinante
table inet rocinante {
\tchain prerouting {
\t\ttype filter hook prerouting priority mangle; policy accept;
\t\tsocket transparent 1 socket wildcard 0 meta mark set 0x00001c5f accept
\t\tip daddr 192.0.2.10 tcp dport 80 tproxy ip to 192.0.2.10:80 meta mark set 0x00001c5f accept comment \"p0\"
\t\tip6 daddr 2001:db8::10 tcp dport 443 tproxy ip6 to [2001:db8::10]:443 meta mark set 0x00001c5f accept comment \"p1\"
\t}
}
";
    assert_eq!(plan.script(), expected);
    let lines = [
        "ip -4 rule: priority 100 fwmark 0x1c5f lookup 7263",
        "ip -4 route: local default dev lo table 7263",
        "ip -6 rule: priority 100 fwmark 0x1c5f lookup 7263",
        "ip -6 route: local default dev lo table 7263",
    ];
    assert_eq!(ip_lines(&plan), lines);
    assert_eq!(plan.pools, ["p0", "p1"]);
}

/// Packets to the machine's own address reach its listener by themselves; servers' answers to clients do not.
#[test]
fn a_pool_on_the_instances_own_address_needs_the_way_back_alone() {
    for bind in [":9001", "0.0.0.0:9001"] {
        let plan = Plan::of(&pools(&[(bind, "tcp", "10.0.0.1", true)]), Numbers { mark: 0x10, table: 99 });
        let rules: Vec<_> = plan.lines.iter().filter(|line| line.owner == Owner::Nft).map(|line| &line.text).collect();
        assert_eq!(rules, [HEAD[0], "socket transparent 1 socket wildcard 0 meta mark set 0x00000010 accept"]);
        let lines = ["ip -4 rule: priority 100 fwmark 0x10 lookup 99", "ip -4 route: local default dev lo table 99"];
        assert_eq!(ip_lines(&plan), lines);
    }
}

#[test]
fn without_transparent_pools_there_is_nothing() {
    let plan = Plan::of(&pools(&[("192.0.2.10:80", "tcp", "10.0.0.1", false)]), Numbers::default());
    assert_eq!((plan.lines, plan.pools), (vec![], Vec::<String>::new()));
}

#[test]
fn what_nft_lists_of_a_script_is_the_plan_again() {
    let plan = Plan::of(&pools(&[("192.0.2.10:80", "tcp", "10.0.0.1", true)]), Numbers::default());
    let listed = plan.script().lines().skip(2).collect::<Vec<_>>().join("\n");
    let mut found = nft_lines(&listed);
    found.extend(plan.lines.iter().filter(|line| line.owner != Owner::Nft).cloned());
    assert_eq!(plan.compare(&found), Difference::default());
}

#[test]
fn differences_are_told_line_by_line() {
    let old = Plan::of(&pools(&[("192.0.2.10:80", "tcp", "10.0.0.1", true)]), Numbers { mark: 1, table: 2 });
    let new = Plan::of(&pools(&[("192.0.2.10:80", "tcp", "10.0.0.1", true)]), Numbers { mark: 1, table: 3 });
    let difference = new.compare(&old.lines);
    let shown = |lines: &[Line]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
    let of = |table| {
        [
            format!("ip -4 rule: priority 100 fwmark 0x1 lookup {table}"),
            format!("ip -4 route: local default dev lo table {table}"),
        ]
    };
    assert_eq!(shown(&difference.missing), of(3));
    assert_eq!(shown(&difference.surplus), of(2));
    assert!(!difference.has_nft() && !difference.is_empty());
    // The same line twice is one too many.
    let twice = [old.lines.clone(), vec![old.lines[1].clone()]].concat();
    assert_eq!(old.compare(&twice), Difference { missing: vec![], surplus: vec![old.lines[1].clone()] });
    assert!(old.compare(&twice).has_nft());
}

#[test]
fn settings_that_drop_packets_are_told() {
    let setting = |interface: &str, rp_filter, src_valid_mark| Setting {
        interface: interface.to_owned(),
        rp_filter,
        src_valid_mark,
    };
    let check = |settings: &[Setting], expected: &[&str]| {
        let advice = advice(settings);
        let begin = |text: &String, start: &&str| text.starts_with(start);
        assert!(advice.len() == expected.len() && advice.iter().zip(expected).all(|(a, e)| begin(a, e)), "{advice:?}");
    };
    check(&[setting("all", 0, 0), setting("default", 1, 1), setting("eth0", 0, 0), setting("lo", 1, 0)], &[]);
    check(&[setting("all", 2, 0), setting("eth0", 1, 0)], &[]);
    check(&[setting("all", 1, 0), setting("eth0", 2, 0)], &[]);
    check(&[setting("all", 1, 0), setting("eth0", 0, 0)], &["rp_filter of eth0 is strict"]);
    check(
        &[setting("all", 0, 1), setting("eth0", 1, 0), setting("wg0", 0, 1)],
        &[
            "net.ipv4.conf.all.src_valid_mark = 1",
            "net.ipv4.conf.wg0.src_valid_mark = 1",
            "rp_filter of eth0 is strict",
        ],
    );
}
