//! The rules of group 0, one story each.

use super::*;
use crate::ids::FleetId;
use crate::pool::{Balance, Bind, Commit, HealthKind, HealthSpec, OnIsolation, Protocol};

pub(crate) fn address(label: &str) -> MemberAddress {
    MemberAddress { label: label.to_owned(), host: "127.0.0.1".to_owned(), grpc: 1, rest: 2, metrics: 3 }
}

pub(crate) fn server(number: u8) -> ServerSpec {
    ServerSpec {
        name: format!("s{number}"),
        address: [127, 0, 0, number].into(),
        port: 80,
        weight: 100,
        state: ServerState::Enabled,
    }
}

pub(crate) fn pool(name: &str, servers: u8) -> PoolSpec {
    PoolSpec {
        name: name.to_owned(),
        bind: Bind::Own(9001),
        protocol: Protocol::Tcp,
        balance: Balance::SourceHash,
        commit: Commit::FirstContact,
        pin_ttl_ms: 1000,
        on_isolation: OnIsolation::Refuse,
        decide_timeout_ms: 1000,
        retry_for_ms: 1000,
        connect_timeout_ms: 1000,
        idle_timeout_ms: 1000,
        max_connections: 10,
        send_proxy: false,
        transparent: false,
        health: HealthSpec { kind: HealthKind::Tcp, interval_ms: 1000, timeout_ms: 500, rise: 2, fall: 2 },
        servers: (1..=servers).map(server).collect(),
    }
}

pub(crate) fn birth() -> Birth {
    Birth {
        fleet: FleetId(7),
        pick_key: [1; 16],
        pin_groups: 2,
        lease_ms: 1000,
        founders: vec![(InstanceId(1), address("a")), (InstanceId(2), address("b"))],
        pools: vec![pool("web", 3)],
    }
}

struct Story(ControlTable);

impl Story {
    fn born() -> Self {
        let mut story = Self(ControlTable::default());
        assert!(story.done(&ControlCommand::Birth(birth())));
        story
    }

    fn check(&mut self, command: &ControlCommand) -> ControlOutcome {
        let index = Revision(self.0.applied.0 + 1);
        self.0.apply(index, LogTime(index.0), command)
    }

    fn done(&mut self, command: &ControlCommand) -> bool {
        matches!(self.check(command), ControlOutcome::Done { .. })
    }

    fn server(&mut self, change: ServerChange) -> ControlOutcome {
        self.check(&ControlCommand::Server { pool: PoolId::of("web"), change })
    }

    /// The text of a refusal.
    fn refused(outcome: ControlOutcome) -> String {
        match outcome {
            ControlOutcome::Conflict(text) => format!("conflict: {text}"),
            ControlOutcome::Invalid(text) => format!("invalid: {text}"),
            ControlOutcome::Refused(refusal) => format!("refused: {refusal}"),
            ControlOutcome::Done { .. } => panic!("it was done"),
        }
    }

    fn standings(&self) -> Vec<Standing> {
        self.0.epoch_copy().backends.into_iter().map(|(_, standing)| standing).collect()
    }

    fn judge(&mut self, number: u8, view: View, revision: u64) -> bool {
        let command = ControlCommand::Verdict { backend: id(number), view, revision: Revision(revision) };
        self.done(&command)
    }
}

fn id(number: u8) -> BackendId {
    pool("web", 0).backend_id(&server(number))
}

#[test]
fn a_fleet_is_born_once() {
    let mut story = Story::born();
    let other = Birth { fleet: FleetId(8), pools: Vec::new(), ..birth() };
    assert!(story.done(&ControlCommand::Birth(other)));
    assert_eq!(story.0.birth().map(|birth| birth.fleet), Some(FleetId(7)));
    assert_eq!((story.0.pools().count(), story.0.epoch(), story.0.next_instance()), (1, Epoch(1), InstanceId(3)));
    assert!(story.0.members().all(|(_, member)| member.voter && member.incarnation.is_none()));
}

#[test]
fn before_the_birth_nothing_else_is_done() {
    let mut story = Story(ControlTable::default());
    assert!(story.done(&ControlCommand::Tick));
    for command in [
        ControlCommand::MemberAdd(address("a")),
        ControlCommand::Apply { pools: vec![pool("web", 1)], expected: Epoch(0) },
    ] {
        assert!(Story::refused(story.check(&command)).contains("not born yet"));
    }
    assert!(story.done(&ControlCommand::Birth(birth())));
    assert_eq!(story.0.members().count(), 2);
}

#[test]
fn who_was_removed_is_remembered_for_a_while() {
    let mut story = Story::born();
    assert!(story.done(&ControlCommand::MemberRemove(InstanceId(1))));
    let departed = |story: &Story| story.0.departed().map(|(id, _)| id.0).collect::<Vec<_>>();
    assert_eq!(departed(&story), [1]);
    for id in 3..3 + DEPARTED_MAX as u64 {
        assert!(story.done(&ControlCommand::MemberAdd(address("c"))));
        assert!(story.done(&ControlCommand::MemberRemove(InstanceId(id))));
    }
    let left = departed(&story);
    assert_eq!((left.len(), left[0]), (DEPARTED_MAX, 3), "the oldest is forgotten");
    let again = ControlTable::decode(&story.0.encode().unwrap()).unwrap();
    assert_eq!(again.encode().unwrap(), story.0.encode().unwrap());
    assert_eq!(again.departed().count(), DEPARTED_MAX);
}

#[test]
fn all_pools_have_so_many_servers_and_no_more() {
    let mut story = Story::born();
    let many = |name: &str, count: usize| {
        let servers = (0..count).map(|number| ServerSpec {
            name: format!("s{number}"),
            address: [127, 1, (number >> 8) as u8, number as u8].into(),
            ..server(1)
        });
        PoolSpec { servers: servers.collect(), ..pool(name, 0) }
    };
    let expected = story.0.epoch();
    let apply = |pools| ControlCommand::Apply { pools, expected };
    let outcome = story.check(&apply(vec![many("web", 1), many("large", SERVERS_TOTAL_MAX)]));
    assert!(Story::refused(outcome).contains("servers together"));
    assert!(story.done(&apply(vec![many("web", 1), many("large", SERVERS_TOTAL_MAX - 1)])));
    let outcome = story.server(ServerChange::Add(server(9)));
    assert!(Story::refused(outcome).contains("servers together"));
    // An entry of the log holds half a megabyte.
    assert!(crate::PinCommand::Epoch(story.0.epoch_copy()).encode().len() < 400_000);
}

#[test]
fn the_store_has_so_many_bytes_and_no_more() {
    let mut story = Story::born();
    let put = |key: String, bytes: usize| ControlCommand::KvPut { key, value: vec![0; bytes], if_revision: None };
    let value = 256 * 1024 - 8;
    for number in 0..1024 {
        assert!(story.done(&put(format!("{number:08}"), value)));
    }
    assert_eq!(story.0.kv_bytes, KV_BYTES_MAX);
    assert!(Story::refused(story.check(&put("one more".to_owned(), 1))).contains("bytes of keys and values"));
    assert!(story.done(&put("00000007".to_owned(), 10)), "a smaller one in its place");
    assert!(story.done(&put("one more".to_owned(), 1)));
    assert!(story.done(&ControlCommand::KvDelete { key: "one more".to_owned(), if_revision: None }));
    assert_eq!(story.0.kv_bytes, KV_BYTES_MAX - value + 10);
}

#[test]
fn a_new_member_listens_first_and_its_id_is_never_used_again() {
    let mut story = Story::born();
    assert!(story.done(&ControlCommand::MemberAdd(address("c"))));
    assert!(story.done(&ControlCommand::MemberAdd(address("c"))), "the same again is done already");
    assert_eq!(story.0.member_by_label("c").map(|(id, member)| (id, member.voter)), Some((InstanceId(3), false)));
    assert!(story.done(&ControlCommand::MemberPromote(InstanceId(3))));
    assert!(story.done(&ControlCommand::MemberRemove(InstanceId(3))));
    assert!(story.done(&ControlCommand::MemberAdd(address("c"))));
    assert_eq!(story.0.member_by_label("c").map(|(id, _)| id), Some(InstanceId(4)));
    let outcome = story.check(&ControlCommand::MemberAdd(MemberAddress { grpc: 9, ..address("c") }));
    assert_eq!(Story::refused(outcome), "conflict: instance c is a member already: remove it first");
    let outcome = story.check(&ControlCommand::MemberPromote(InstanceId(3)));
    assert_eq!(Story::refused(outcome), "invalid: no member has id 3");
}

#[test]
fn the_last_voter_stays() {
    let mut story = Story::born();
    assert!(story.done(&ControlCommand::MemberAdd(address("c"))));
    assert!(story.done(&ControlCommand::MemberRemove(InstanceId(1))));
    let outcome = story.check(&ControlCommand::MemberRemove(InstanceId(2)));
    assert_eq!(Story::refused(outcome), "invalid: the last voter cannot be removed");
    assert!(story.done(&ControlCommand::MemberRemove(InstanceId(9))), "one that is not there is gone already");
}

#[test]
fn a_member_is_bound_to_one_life() {
    let mut story = Story::born();
    assert!(story.done(&ControlCommand::MemberSeen(InstanceId(1), Incarnation(5))));
    assert!(story.done(&ControlCommand::MemberSeen(InstanceId(1), Incarnation(5))));
    let outcome = story.check(&ControlCommand::MemberSeen(InstanceId(1), Incarnation(6)));
    assert_eq!(Story::refused(outcome), "conflict: instance a is known by another data directory");
    assert_eq!(story.0.member(InstanceId(1)).and_then(|member| member.incarnation), Some(Incarnation(5)));
}

#[test]
fn pools_are_replaced_only_from_the_epoch_that_was_looked_at() {
    let mut story = Story::born();
    assert!(story.judge(1, View::Up, 0));
    assert!(story.judge(3, View::Up, 0));
    let pools = vec![pool("web", 2), pool("api", 1)];
    let stale = ControlCommand::Apply { pools: pools.clone(), expected: Epoch(1) };
    assert_eq!(
        Story::refused(story.check(&stale)),
        "conflict: the pools changed meanwhile: the difference was computed from epoch 1, now it is 3"
    );
    assert!(story.done(&ControlCommand::Apply { pools, expected: Epoch(3) }));
    assert_eq!((story.0.epoch(), story.0.pools().count()), (Epoch(4), 2));
    assert_eq!(story.0.verdict(id(1)).view, View::Up, "who stays keeps its verdict");
    assert_eq!(story.0.verdict(id(3)), Verdict::default(), "who leaves loses it");
    let known = story.0.epoch_copy().pools;
    assert_eq!(known.len(), 2);
}

#[test]
fn servers_come_and_go_by_name() {
    let mut story = Story::born();
    let done = |outcome| matches!(outcome, ControlOutcome::Done { .. });
    assert!(done(story.server(ServerChange::Add(server(4)))));
    let epoch = story.0.epoch();
    assert!(done(story.server(ServerChange::Add(server(4)))), "the same again is done already");
    assert!(done(story.server(ServerChange::Enable("s4".to_owned()))));
    assert_eq!(story.0.epoch(), epoch, "what changes nothing makes no epoch");
    assert_eq!(
        Story::refused(story.server(ServerChange::Add(ServerSpec { port: 81, ..server(4) }))),
        "conflict: pool web has a server s4 at 127.0.0.4:80 already: remove it first, or choose another name"
    );
    assert_eq!(
        Story::refused(story.server(ServerChange::Add(ServerSpec { name: "s5".to_owned(), ..server(4) }))),
        "conflict: 127.0.0.4:80 is server s4 of pool web already"
    );
    assert!(done(story.server(ServerChange::Remove("s4".to_owned()))));
    assert_eq!(
        Story::refused(story.server(ServerChange::Remove("s4".to_owned()))),
        "invalid: pool web has no server s4; it has s1, s2, s3"
    );
    let other = ControlCommand::Server { pool: PoolId::of("none"), change: ServerChange::Drain("s1".to_owned()) };
    assert_eq!(Story::refused(story.check(&other)), "invalid: there is no such pool");
}

#[test]
fn a_server_starts_unknown_and_stands_by_verdict_and_state() {
    let mut story = Story::born();
    assert_eq!(story.standings(), [Standing::Unknown; 3]);
    for number in [1, 2, 3] {
        assert!(story.judge(number, View::Up, 0));
    }
    story.server(ServerChange::Drain("s2".to_owned()));
    let revision = story.0.verdict(id(3)).revision.0;
    assert!(story.judge(3, View::Down, revision));
    assert_eq!(story.standings(), [Standing::Live, Standing::Draining, Standing::Dead]);
    story.server(ServerChange::Enable("s2".to_owned()));
    assert_eq!(story.standings()[1], Standing::Live);
}

#[test]
fn a_server_that_moved_house_is_a_new_one() {
    let mut story = Story::born();
    assert!(story.judge(1, View::Up, 0));
    story.server(ServerChange::Remove("s1".to_owned()));
    story.server(ServerChange::Add(ServerSpec { port: 81, ..server(1) }));
    let ids: Vec<BackendId> = story.0.epoch_copy().backends.into_iter().map(|(id, _)| id).collect();
    assert!(!ids.contains(&id(1)));
    assert!(story.standings().contains(&Standing::Unknown));
}

#[test]
fn a_verdict_follows_the_one_it_was_computed_from() {
    let mut story = Story::born();
    assert!(story.judge(1, View::Up, 0));
    let verdict = story.0.verdict(id(1));
    let outcome = story.check(&ControlCommand::Verdict { backend: id(1), view: View::Down, revision: Revision(0) });
    assert_eq!(Story::refused(outcome), "conflict: the verdict changed meanwhile");
    let epoch = story.0.epoch();
    assert!(story.judge(1, View::Up, verdict.revision.0), "the same word again");
    assert_eq!((story.0.verdict(id(1)), story.0.epoch()), (verdict, epoch), "changes nothing");
    assert!(!story.judge(9, View::Up, 0), "nobody judges strangers");
}

#[test]
fn votes_are_of_members_on_servers_and_can_be_taken_back() {
    let mut story = Story::born();
    let vote = |voter: u64, number: u8, view| ControlCommand::Vote {
        voter: InstanceId(voter),
        incarnation: Incarnation(1),
        backend: id(number),
        view,
    };
    assert!(story.done(&vote(1, 1, View::Up)));
    assert!(story.done(&vote(2, 1, View::Down)));
    assert!(story.done(&vote(2, 1, View::Up)));
    assert_eq!(
        story.0.votes(id(1)).map(|(voter, vote)| (voter.0, vote.view)).collect::<Vec<_>>(),
        [(1, View::Up), (2, View::Up)]
    );
    assert!(!story.done(&vote(9, 1, View::Up)));
    assert!(!story.done(&vote(1, 9, View::Up)));
    assert!(story.done(&vote(2, 1, View::Unknown)));
    assert_eq!(story.0.votes(id(1)).count(), 1);
    assert!(story.done(&ControlCommand::MemberRemove(InstanceId(1))));
    assert_eq!(story.0.votes(id(1)).count(), 0, "who leaves takes its votes along");
}

#[test]
fn keys_are_compared_and_set_by_revision() {
    let mut story = Story::born();
    let put = |value: &str, if_revision: Option<u64>| ControlCommand::KvPut {
        key: "k".to_owned(),
        value: value.as_bytes().to_vec(),
        if_revision: if_revision.map(Revision),
    };
    assert!(story.done(&put("1", Some(0))));
    assert_eq!(Story::refused(story.check(&put("2", Some(0)))), "conflict: k is at revision 2, not 0");
    assert!(story.done(&put("2", Some(2))));
    assert!(story.done(&put("3", None)));
    assert_eq!(story.0.kv("k").map(|entry| entry.value.to_vec()), Some(b"3".to_vec()));
    let delete = |if_revision| ControlCommand::KvDelete { key: "k".to_owned(), if_revision };
    assert!(!story.done(&delete(Some(Revision(2)))));
    assert!(story.done(&delete(None)));
    assert!(story.done(&delete(Some(Revision(0)))), "absent is revision 0");
    assert_eq!(story.0.kv_list("").count(), 0);
    for key in ["a/1", "a/2", "b/1"] {
        let command = ControlCommand::KvPut { key: key.to_owned(), value: Vec::new(), if_revision: None };
        assert!(story.done(&command));
    }
    assert_eq!(story.0.kv_list("a/").map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a/1", "a/2"]);
}

#[test]
fn a_backend_is_found_as_long_as_it_is_in_a_pool() {
    let mut story = Story::born();
    let found = |table: &ControlTable| -> Vec<Option<String>> {
        (1..=4).map(|number| table.backend(id(number)).map(|(_, server)| server.name.clone())).collect()
    };
    let names = |names: [Option<&str>; 4]| names.map(|name| name.map(str::to_owned)).to_vec();
    assert_eq!(found(&story.0), names([Some("s1"), Some("s2"), Some("s3"), None]));
    story.server(ServerChange::Remove("s1".to_owned()));
    story.server(ServerChange::Add(server(4)));
    let expected = names([None, Some("s2"), Some("s3"), Some("s4")]);
    assert_eq!(found(&story.0), expected);
    assert_eq!(found(&ControlTable::decode(&story.0.encode().unwrap()).unwrap()), expected, "after a snapshot too");
    let epoch = story.0.epoch();
    assert!(story.done(&ControlCommand::Apply { pools: Vec::new(), expected: epoch }));
    assert_eq!(found(&story.0), names([None, None, None, None]));
}
