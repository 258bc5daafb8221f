//! What a fleet refuses, in words that say what would be right.

use flow::{
    Balance, Birth, Commit, ControlCommand, FleetId, InstanceId, LogTime, OnIsolation, Protocol, Revision, ServerState,
};

use super::*;

fn pool() -> PoolSpec {
    PoolSpec {
        name: "web".to_owned(),
        bind: Bind::Own(9001),
        protocol: Protocol::Tcp,
        balance: Balance::SourceHash,
        commit: Commit::FirstContact,
        pin_ttl_ms: 1_800_000,
        on_isolation: OnIsolation::Refuse,
        decide_timeout_ms: 1_000,
        retry_for_ms: 1_000,
        connect_timeout_ms: 1_000,
        idle_timeout_ms: 60_000,
        max_connections: 1_000,
        send_proxy: false,
        transparent: false,
        health: HealthSpec { kind: HealthKind::Tcp, interval_ms: 1_000, timeout_ms: 500, rise: 2, fall: 2 },
        servers: vec![server("s1", [127, 0, 0, 1], 8887)],
    }
}

fn server(name: &str, address: [u8; 4], port: u16) -> ServerSpec {
    let state = ServerState::Enabled;
    ServerSpec { name: name.to_owned(), address: address.into(), port, weight: 100, state }
}

fn member(label: &str, host: &str) -> MemberAddress {
    MemberAddress { label: label.to_owned(), host: host.to_owned(), grpc: 35_001, rest: 8_001, metrics: 2_112 }
}

/// A fleet of two, with leases of a second and the pool of [`pool`].
fn fleet() -> ControlTable {
    let mut table = ControlTable::default();
    let birth = Birth {
        fleet: FleetId(1),
        pick_key: [0; 16],
        pin_groups: 1,
        lease_ms: 1_000,
        founders: vec![(InstanceId(1), member("a", "127.0.0.1")), (InstanceId(2), member("b", "127.0.0.2"))],
        pools: vec![pool()],
    };
    table.apply(Revision(1), LogTime(0), &ControlCommand::Birth(birth));
    table
}

fn says<T: std::fmt::Debug>(result: Result<T>, words: &str) {
    let error = result.expect_err(words);
    assert_eq!(error.reason(), "invalid", "{error}");
    assert!(error.to_string().contains(words), "{error} should say {words}");
}

#[test]
fn a_pool_that_the_file_would_not_have_is_refused() {
    let refuse = |change: &dyn Fn(&mut PoolSpec), words: &str| {
        let mut changed = pool();
        change(&mut changed);
        says(check_pools(&[changed]), words);
    };
    assert_eq!(check_pools(&[pool()]), Ok(()));
    refuse(&|pool| pool.protocol = Protocol::Udp, "\"udp\" is not built yet; write \"tcp\" or \"http\"");
    refuse(
        &|pool| (pool.protocol, pool.send_proxy) = (Protocol::Http, true),
        "send_proxy: only TCP pools send a PROXY header",
    );
    refuse(&|pool| pool.health.timeout_ms = 2_000, "\"2s\" is longer than the interval of 1s; write \"1s\" or less");
    refuse(&|pool| pool.health.interval_ms = 1, "health.interval of 1 ms; at least 50 ms");
    refuse(&|pool| pool.health.rise = 1_001, "health.rise 1001: at least 1, at most 1000");
    refuse(&|pool| pool.servers.push(server("s2", [127, 0, 0, 1], 8887)), "two servers are at 127.0.0.1:8887");
}

#[test]
fn a_pin_has_to_outlast_the_fleets_leases() {
    let short = PoolSpec { pin_ttl_ms: 3_999, ..pool() };
    says(check_for_fleet(&fleet(), &[short]), "pin_ttl: \"3999ms\" is less than 4 leases of 1s; write \"4s\" or more");
    assert_eq!(check_for_fleet(&fleet(), &[PoolSpec { pin_ttl_ms: 4_000, ..pool() }]), Ok(()));
    let unborn = check_for_fleet(&ControlTable::default(), &[pool()]);
    assert_eq!(unborn.map_err(|error| error.reason()), Err("unavailable"));
}

#[test]
fn no_server_is_the_fleet_itself() {
    let to = |server| PoolSpec { servers: vec![server], ..pool() };
    let ports = [
        (server("s1", [127, 0, 0, 2], 8_001), "127.0.0.2:8001 is the fleet's own fleet.instance[b].rest"),
        (server("s1", [127, 0, 0, 1], 9_001), "127.0.0.1:9001 is the fleet's own pool[web].bind"),
    ];
    for (server, words) in ports {
        says(check_newcomer(&fleet(), pool().id(), &server), words);
        says(check_for_fleet(&fleet(), &[to(server)]), words);
    }
    assert_eq!(check_newcomer(&fleet(), pool().id(), &server("s1", [127, 0, 0, 3], 9_001)), Ok(()));
    let taken = PoolSpec { bind: Bind::Own(8_001), ..pool() };
    says(check_for_fleet(&fleet(), &[taken]), "is taken by fleet.instance[");
}

#[test]
fn servers_of_a_transparent_pool_are_of_its_clients_ip_version() {
    let six = ServerSpec { address: "2001:db8::1".parse().expect("an address"), ..server("s6", [127, 0, 0, 1], 8887) };
    let to_six = |transparent, bind: &str| PoolSpec {
        transparent,
        bind: parse_bind(bind).expect("a bind"),
        servers: vec![six.clone()],
        ..pool()
    };
    let words = "server[s6].address: 2001:db8::1 cannot see clients that come in at 127.0.0";
    says(check_for_fleet(&fleet(), &[to_six(true, ":9001")]), words);
    says(check_for_fleet(&fleet(), &[to_six(true, "127.0.0.9:9001")]), words);
    for (transparent, bind) in [(false, ":9001"), (true, "[2001:db8::9]:9001"), (true, "[::]:9001")] {
        assert_eq!(check_for_fleet(&fleet(), &[to_six(transparent, bind)]), Ok(()), "{transparent} {bind}");
    }
    assert_eq!(check_newcomer(&fleet(), pool().id(), &six), Ok(()));
    let mut transparent = fleet();
    let pools = vec![PoolSpec { transparent: true, ..pool() }];
    let expected = transparent.epoch();
    transparent.apply(Revision(2), LogTime(0), &ControlCommand::Apply { pools, expected });
    says(check_newcomer(&transparent, pool().id(), &six), words);
}

#[test]
fn an_instance_is_an_address_or_a_name_without_a_port() {
    for good in ["10.0.0.3", "::1", "2001:db8::3", "c.example", "localhost"] {
        assert_eq!(check_member(&member("c", good)), Ok(()), "{good}");
    }
    says(
        check_member(&member("c", "10.0.0.3:35001")),
        "address: \"10.0.0.3:35001\" has a port; write the port in a key of its own",
    );
    for bad in ["c.example:35001", "[::1]:35001", "[::1]", ":", "::g", "a b", "", "0.0.0.0", "300.1.1.1"] {
        says(check_member(&member("c", bad)), "instance \"c\": address: ");
    }
}
