//! Choices of a fleet of one, whose disk and wires are never late.

use std::collections::BTreeMap;

use flow::flows::FlowLimits;
use flow::{
    Bind, Birth, Commit, ControlCommand, FleetId, HealthKind, HealthSpec, Incarnation, InstanceId, MemberAddress,
    PoolId, PoolSpec, Protocol, ServerChange, ServerSpec, ServerState, View,
};
use raftlog::{
    Index, NodeId, Term,
    driver::{DriverConfig, GroupStart, Members, SnapshotStart},
};

use super::*;
use crate::{replica::ReplicaConfig, words::LeaseGrant};

struct One {
    replica: Replica,
    now_ms: u64,
    chosen: BTreeMap<u64, Result<Answered, Refusal>>,
}

fn server(number: u8) -> ServerSpec {
    let (name, address) = (format!("s{number}"), [127, 0, 0, number].into());
    ServerSpec { name, address, port: 80, weight: 100, state: ServerState::Enabled }
}

fn pool() -> PoolSpec {
    PoolSpec {
        name: "web".to_owned(),
        bind: Bind::Own(9001),
        protocol: Protocol::Tcp,
        balance: Balance::RoundRobin,
        commit: Commit::FirstContact,
        pin_ttl_ms: 60_000,
        on_isolation: OnIsolation::Refuse,
        decide_timeout_ms: 1000,
        retry_for_ms: 1000,
        connect_timeout_ms: 1000,
        idle_timeout_ms: 1000,
        max_connections: 10,
        send_proxy: false,
        transparent: false,
        health: HealthSpec { kind: HealthKind::Tcp, interval_ms: 1000, timeout_ms: 500, rise: 2, fall: 2 },
        servers: vec![server(1), server(2)],
    }
}

fn backend(number: u8) -> BackendId {
    pool().backend_id(&server(number))
}

fn key(client: u8) -> PinKey {
    PinKey::new(PoolId::of("web"), [10, 0, 0, client].into())
}

impl One {
    /// It leads, holds its leases, and sees both servers up.
    fn serving() -> Self {
        Self::of(pool())
    }

    fn of(pool: PoolSpec) -> Self {
        let address =
            MemberAddress { label: "a".to_owned(), host: "127.0.0.1".to_owned(), grpc: 1, rest: 2, metrics: 3 };
        let founders = vec![(InstanceId(1), address)];
        let birth =
            Birth { fleet: FleetId(7), pick_key: [0; 16], pin_groups: 1, lease_ms: 1000, founders, pools: vec![pool] };
        let config = ReplicaConfig {
            driver: DriverConfig::new(NodeId(1), 1),
            incarnation: Incarnation(1),
            lease_ms: 1000,
            pins_per_group_max: 3,
            flow_groups: 0,
            flow_limits: FlowLimits::default(),
            choosing_max: 2,
            birth: Some(birth),
            token_start: 0,
        };
        let start = |group| GroupStart {
            group: GroupId(group),
            term: Term(0),
            vote: None,
            commit: Index(0),
            snapshot: Some(SnapshotStart { index: Index(1), term: Term(1), meta: Members::founders(&[NodeId(1)]) }),
            entries: Vec::new(),
        };
        let replica = Replica::new(config, vec![start(0), start(1)], BTreeMap::new()).unwrap();
        let mut one = Self { replica, now_ms: 1_000_000, chosen: BTreeMap::new() };
        one.run(20);
        for number in [1, 2] {
            one.replica.handle_view(backend(number), View::Up);
        }
        one.run(20);
        one
    }

    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.now_ms += 10;
            self.replica.set_now(self.now_ms);
            self.replica.handle_tick();
            self.drain();
        }
    }

    fn drain(&mut self) {
        loop {
            let outputs = self.replica.poll();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                match output {
                    Output::Persist { round, .. } => self.replica.handle_persisted(round),
                    Output::BuildSlots { pool, key, members } => {
                        let table = flow::SlotTable::build(&key, &members);
                        self.replica.slots_built(pool, &members, table);
                    }
                    Output::Chosen(ticket, answer) => {
                        assert!(self.chosen.insert(ticket.0, answer).is_none(), "one answer to one question");
                    }
                    _ => {}
                }
            }
        }
        self.replica.check_invariants();
    }

    fn choose(&mut self, ticket: u64, client: u8, avoid: Option<BackendId>, patience_ms: u64) {
        self.replica.choose(Ticket(ticket), key(client), avoid, self.now_ms + patience_ms);
        self.drain();
    }

    /// Whom a client is given.
    fn given(&mut self, ticket: u64, client: u8) -> BackendId {
        self.choose(ticket, client, None, 1000);
        self.chosen[&ticket].unwrap().pin.backend
    }
}

#[test]
fn clients_are_picked_for_in_turn_and_keep_what_they_got() {
    let mut one = One::serving();
    let (first, second) = (one.given(1, 1), one.given(2, 2));
    assert_ne!(first, second);
    assert_eq!((one.given(3, 1), one.given(4, 2)), (first, second));
}

#[test]
fn an_answer_that_is_to_be_avoided_waits_for_the_move() {
    let mut one = One::serving();
    let first = one.given(1, 1);
    one.choose(2, 1, Some(first), 5000);
    assert!(!one.chosen.contains_key(&2));
    one.replica.handle_view(first, View::Down);
    one.run(200);
    assert_ne!(one.chosen[&2].unwrap().pin.backend, first);
    one.choose(3, 1, Some(backend(1)), 10);
    one.choose(4, 1, Some(backend(2)), 10);
    one.run(2);
    let answers = [one.chosen[&3], one.chosen[&4]];
    assert_eq!(answers.iter().filter(|answer| **answer == Err(Refusal::Timeout)).count(), 1);
}

#[test]
fn without_a_backend_or_a_pool_or_room_it_is_refused() {
    let mut one = One::serving();
    let stranger = PinKey::new(PoolId::of("other"), [10, 0, 0, 1].into());
    one.replica.choose(Ticket(1), stranger, None, one.now_ms + 1000);
    one.drain();
    assert_eq!(one.chosen[&1], Err(Refusal::NoPool));
    for client in 1..=3 {
        one.given(u64::from(client) + 10, client);
    }
    one.choose(2, 4, None, 1000);
    assert_eq!(one.chosen[&2], Err(Refusal::Overloaded), "the table is full");
    for number in [1, 2] {
        one.replica.handle_view(backend(number), View::Down);
    }
    one.run(200);
    for ticket in [3, 4, 5] {
        one.choose(ticket, 1, None, 50);
    }
    assert_eq!(one.chosen[&5], Err(Refusal::Overloaded), "two wait at most");
    one.run(10);
    assert_eq!((one.chosen[&3], one.chosen[&4]), (Err(Refusal::NoBackend), Err(Refusal::NoBackend)));
}

#[test]
fn a_choice_past_its_deadline_is_given_up_and_not_tried_for_ever() {
    let mut one = One::serving();
    one.replica.set_may_lead(false);
    one.choose(1, 1, None, 0);
    assert_eq!(one.chosen[&1], Err(Refusal::Timeout));
    // And one whose deadline passes between two ticks.
    one.choose(2, 1, None, 5);
    one.now_ms += 5;
    one.replica.set_now(one.now_ms);
    one.replica.hand_over(None);
    one.drain();
    one.run(1);
    assert_eq!(one.chosen[&2], Err(Refusal::Timeout));
}

#[test]
fn a_paused_process_wakes_up_without_a_lease() {
    let mut one = One::serving();
    let first = one.given(1, 1);
    one.now_ms += 1500;
    one.replica.set_now(one.now_ms);
    one.choose(2, 1, None, 1000);
    assert!(!one.chosen.contains_key(&2), "it has to be granted a new one first");
    one.run(5);
    assert_eq!(one.chosen[&2].unwrap().pin.backend, first);
}

#[test]
fn who_holds_a_lease_is_late_and_does_not_guess() {
    let mut one = One::of(PoolSpec { on_isolation: OnIsolation::Hash, ..pool() });
    let given = one.given(1, 1);
    one.replica.set_may_lead(false);
    one.choose(3, 2, None, 20);
    one.run(5);
    assert_eq!(one.chosen[&3], Err(Refusal::Timeout), "its lease still holds");
    one.run(150);
    one.choose(4, 1, None, 20);
    let guess = one.chosen[&4].unwrap();
    assert!(!guess.committed && guess.pin.backend == given, "without a lease it is isolated");
}

#[test]
fn a_pin_whose_idle_time_is_shorter_than_leases_allow_is_answered_and_not_committed_for_ever() {
    let mut one = One::of(PoolSpec { pin_ttl_ms: 900, ..pool() });
    let before = one.replica.counts().assigns;
    let first = one.given(1, 1);
    assert_eq!(one.given(2, 1), first);
    assert_eq!(one.replica.counts().assigns - before, 2, "a commit for each question");
}

#[test]
fn a_server_that_comes_back_is_looked_at_anew() {
    let mut one = One::serving();
    let change = |change| ControlCommand::Server { pool: PoolId::of("web"), change };
    for (ticket, change) in
        [(1, change(ServerChange::Remove("s1".to_owned()))), (2, change(ServerChange::Add(server(1))))]
    {
        one.replica.submit(Ticket(ticket), &change, one.now_ms + 1000, false, None);
        one.run(20);
    }
    assert_eq!(one.replica.control().verdict(backend(1)).view, View::Unknown);
    assert_eq!(one.replica.control().verdict(backend(2)).view, View::Up);
    one.replica.handle_view(backend(1), View::Up);
    one.run(20);
    assert_eq!(one.replica.control().verdict(backend(1)).view, View::Up);
}

#[test]
fn a_grant_for_an_earlier_life_is_none() {
    let mut one = One::serving();
    one.now_ms += 1;
    one.replica.set_now(one.now_ms);
    let before = one.replica.control_lease();
    let log_time = before.log_time;
    let grant = |life| LeaseGrant { life, asked_ms: one.now_ms, lease_ms: 1000, log_time };
    let (own, other) = (grant(0), grant(1));
    one.replica.take_lease(GroupId(0), other);
    assert_eq!(one.replica.control_lease(), before);
    one.replica.take_lease(GroupId(0), own);
    assert_eq!(one.replica.control_lease().asked_ms, one.now_ms);
}

#[test]
fn a_choice_that_waited_is_not_answered_by_an_assign_of_before() {
    // Once its server died just before the Assign and returned later: the client was sent there by a pin that nothing had
    // refreshed, and that expired under it.
    let mut choosing = Choosing::new(1);
    let (ticket, otherwise) = (Ticket(1), Refusal::Timeout);
    let question = Question { key: key(1), group: GroupId(1), avoid: None, deadline_ms: 1000, otherwise, fresh: false };
    choosing.questions.insert(ticket, question);
    let fresh = |choosing: &Choosing| choosing.questions[&ticket].fresh;
    choosing.applied(ticket, false);
    assert!(!fresh(&choosing), "an Assign that found the pin moving refreshed nothing");
    choosing.applied(ticket, true);
    assert!(fresh(&choosing));
    choosing.park(ticket, Refusal::Timeout);
    choosing.wake(GroupId(1));
    assert!(!fresh(&choosing), "what was fresh before it waited is not any more");
}
