//! Commands that go by a session, in fleets whose disks are never late and whose wires can be cut.

use std::collections::BTreeMap;

use flow::flows::{Counts, FlowCommand, FlowLimits, FlowOutcome, Observed, SnifferId, Standing};
use flow::tuple::{Endpoint, FlowKey};
use flow::{Birth, FleetId, Incarnation, MemberAddress, Revision};
use raftlog::{
    Index, NodeId, Term,
    driver::{DriverConfig, GroupStart, Members, SnapshotStart},
};

use super::*;
use crate::{output::Submitted, replica::ReplicaConfig};

struct Fleet {
    replicas: Vec<Replica>,
    now_ms: u64,
    /// Frames from the first to the second are lost.
    cut: BTreeSet<(u64, u64)>,
    answers: BTreeMap<u64, Submitted>,
    reports: BTreeMap<u64, Result<FlowOutcome, SubmitError>>,
}

impl Fleet {
    fn of(count: u64) -> Self {
        let replicas = (1..=count).map(|id| replica(id, count)).collect();
        let mut fleet = Self {
            replicas,
            now_ms: 1_000_000,
            cut: BTreeSet::new(),
            answers: BTreeMap::new(),
            reports: BTreeMap::new(),
        };
        fleet.until(|fleet| fleet.replicas.iter().all(|replica| replica.control().birth().is_some()));
        fleet
    }

    fn tick(&mut self) {
        self.now_ms += 10;
        for place in 0..self.replicas.len() {
            self.replicas[place].set_now(self.now_ms);
            self.replicas[place].handle_tick();
        }
        while (0..self.replicas.len()).any(|place| self.drain(place)) {}
    }

    fn drain(&mut self, place: usize) -> bool {
        let from = place as u64 + 1;
        let outputs = self.replicas[place].poll();
        let more = !outputs.is_empty();
        for output in outputs {
            match output {
                Output::Persist { round, .. } => self.replicas[place].handle_persisted(round),
                Output::Send { to, frame } if !self.cut.contains(&(from, to.0)) => {
                    self.replicas[to.0 as usize - 1].handle_frame(NodeId(from), &frame);
                }
                Output::Submitted(ticket, answer) => {
                    assert!(self.answers.insert(ticket.0, answer).is_none(), "one answer to one question");
                }
                Output::Reported(ticket, answer) => {
                    assert!(self.reports.insert(ticket.0, answer).is_none(), "one answer to one question");
                }
                _ => {}
            }
        }
        more
    }

    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick();
        }
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let mut ticks = 0;
        while !done(self) {
            self.tick();
            ticks += 1;
            assert!(ticks < 2000, "it never came to that");
        }
    }

    fn leader(&self) -> Option<u64> {
        let leads = |replica: &&Replica| replica.driver.leads(GroupId(0));
        self.replicas.iter().find(leads).map(|replica| replica.config.driver.id.0)
    }

    fn isolate(&mut self, id: u64) {
        self.cut.extend((1..=3).flat_map(|other| [(id, other), (other, id)]));
    }

    fn submit(&mut self, at: u64, ticket: u64, command: &ControlCommand, request: Option<Request>) {
        let deadline_ms = self.now_ms + 5000;
        self.replicas[at as usize - 1].submit(Ticket(ticket), command, deadline_ms, false, request);
    }

    /// The revision of the outcome of a command that was carried out.
    fn done(&mut self, ticket: u64) -> Revision {
        self.until(|fleet| fleet.answers.contains_key(&ticket));
        match &self.answers[&ticket] {
            Ok(ControlOutcome::Done { revision, .. }) => *revision,
            other => panic!("it was not done: {other:?}"),
        }
    }

    /// At which revision each running replica has a key.
    fn revisions(&self, key: &str) -> BTreeSet<Option<Revision>> {
        self.replicas.iter().map(|replica| replica.control().kv(key).map(|entry| entry.revision)).collect()
    }
}

fn replica(id: u64, count: u64) -> Replica {
    let address = |id: u64| {
        let (label, host) = (format!("i{id}"), "127.0.0.1".to_owned());
        (InstanceId(id), MemberAddress { label, host, grpc: 1, rest: 2, metrics: 3 })
    };
    let founders = (1..=count).map(address).collect();
    let birth =
        Birth { fleet: FleetId(7), pick_key: [0; 16], pin_groups: 1, lease_ms: 1000, founders, pools: Vec::new() };
    let config = ReplicaConfig {
        driver: DriverConfig::new(NodeId(id), id),
        incarnation: Incarnation(id),
        lease_ms: 1000,
        pins_per_group_max: 3,
        flow_groups: 1,
        flow_limits: FlowLimits::default(),
        choosing_max: 2,
        birth: Some(birth),
        token_start: id << 40,
    };
    let nodes: Vec<NodeId> = (1..=count).map(NodeId).collect();
    let start = |group| GroupStart {
        group: GroupId(group),
        term: Term(0),
        vote: None,
        commit: Index(0),
        snapshot: Some(SnapshotStart { index: Index(1), term: Term(1), meta: Members::founders(&nodes) }),
        entries: Vec::new(),
    };
    Replica::new(config, vec![start(0), start(1), start(2)], BTreeMap::new()).unwrap()
}

fn put(key: &str) -> ControlCommand {
    ControlCommand::KvPut { key: key.to_owned(), value: b"v".to_vec(), if_revision: None }
}

/// Ends the session that instance 1 has, as what an earlier life of it sent and that comes late would.
fn of_another_life() -> ControlCommand {
    ControlCommand::OpenSession(Some(SessionOwner { instance: InstanceId(1), life: 7 }))
}

#[test]
fn a_client_that_knows_an_instances_session_can_neither_use_nor_end_it() {
    let mut fleet = Fleet::of(1);
    fleet.submit(1, 1, &put("first"), None);
    fleet.done(1);
    let session = fleet.replicas[0].session.id.unwrap();
    let next = fleet.replicas[0].session.next_sequence;
    let no_session = Ok(ControlOutcome::Refused(SessionRefusal::NoSession(session)));
    let requests = [(next, 0), (next + 1, next + 1), (1_000_000, 1_000_000)];
    for (ticket, (sequence, answered_below)) in (2..).zip(requests) {
        fleet.submit(1, ticket, &put("stranger"), Some(Request { session, sequence, answered_below }));
        fleet.until(|fleet| fleet.answers.contains_key(&ticket));
        assert_eq!(fleet.answers[&ticket], no_session);
    }
    fleet.submit(1, 5, &ControlCommand::CloseSession(session), None);
    fleet.until(|fleet| fleet.answers.contains_key(&5));
    assert_eq!(fleet.answers[&5], no_session);
    fleet.submit(1, 6, &put("k"), None);
    let revision = fleet.done(6);
    assert_eq!(fleet.revisions("k"), BTreeSet::from([Some(revision)]), "what was acknowledged is there");
    assert_eq!(fleet.revisions("stranger"), BTreeSet::from([None]));
    assert_eq!(fleet.replicas[0].session.id, Some(session));
}

#[test]
fn a_session_is_opened_when_it_is_needed_and_kept() {
    let mut fleet = Fleet::of(3);
    assert!(fleet.replicas[0].control().sessions().is_empty());
    let at = fleet.leader().map_or(1, |leader| leader % 3 + 1);
    for ticket in 0..5 {
        fleet.submit(at, ticket, &put("k"), None);
        fleet.done(ticket);
    }
    assert_eq!(fleet.replicas[0].control().sessions().len(), 1);
    fleet.submit(at % 3 + 1, 7, &put("k"), None);
    fleet.done(7);
    assert_eq!(fleet.replicas[0].control().sessions().len(), 2, "another instance has its own");
}

#[test]
fn a_command_whose_outcome_is_lost_with_the_leader_is_carried_out_once() {
    for seed in 0..6 {
        let mut fleet = Fleet::of(3);
        let leader = fleet.leader().unwrap();
        let at = leader % 3 + 1;
        fleet.submit(at, 1, &put("before"), None);
        fleet.done(1);
        // The leader and the third take it; who asked hears nothing of that.
        fleet.cut.insert((leader, at));
        fleet.submit(at, 2, &put("k"), None);
        fleet.run(seed);
        fleet.isolate(leader);
        fleet.run(50);
        fleet.cut.clear();
        let revision = fleet.done(2);
        fleet.run(500);
        assert_eq!(fleet.revisions("k"), BTreeSet::from([Some(revision)]), "after {seed} ticks");
    }
}

#[test]
fn a_session_that_ended_is_opened_anew_and_nothing_is_lost() {
    let mut fleet = Fleet::of(1);
    fleet.submit(1, 1, &put("first"), None);
    fleet.done(1);
    let first = fleet.replicas[0].session.id.unwrap();
    fleet.submit(1, 2, &of_another_life(), None);
    fleet.submit(1, 3, &put("k"), None);
    fleet.submit(1, 4, &put("l"), None);
    let revision = fleet.done(3);
    fleet.done(4);
    fleet.run(100);
    assert_ne!(fleet.replicas[0].session.id, Some(first));
    assert_eq!(fleet.revisions("k"), BTreeSet::from([Some(revision)]));
}

#[test]
fn what_a_snapshot_may_hide_is_unknown_once_the_session_ended() {
    let mut fleet = Fleet::of(1);
    fleet.submit(1, 1, &put("first"), None);
    fleet.done(1);
    let first = fleet.replicas[0].session.id.unwrap();
    fleet.submit(1, 2, &of_another_life(), None);
    fleet.submit(1, 3, &put("k"), None);
    let request = Request { session: first, sequence: 100, answered_below: 100 };
    fleet.submit(1, 4, &put("k"), Some(request));
    fleet.replicas[0].hide_outcomes(GroupId(0));
    fleet.run(20);
    assert_eq!(fleet.answers[&3], Err(SubmitError::Unknown));
    assert_eq!(fleet.answers[&4], Err(SubmitError::Unknown));
    assert_eq!(fleet.revisions("k"), BTreeSet::from([None]));
    fleet.submit(1, 5, &put("k"), None);
    fleet.done(5);
}

fn observed() -> Observed {
    let (version, low) = Endpoint::new([192, 0, 2, 1].into(), 1);
    let (_, high) = Endpoint::new([192, 0, 2, 2].into(), 2);
    Observed {
        key: FlowKey::of(version, 6, low, high).0,
        seventh: None,
        from_low: true,
        standing: Standing::New,
        end: None,
        first_us: 1,
        last_us: 1,
        counts: [Counts::default(); 2],
        tcp_flags: [2, 0],
        vlan: None,
        sample: 1,
        label: None,
    }
}

#[test]
fn a_label_that_a_snapshot_may_have_written_already_is_unknown_and_not_refused() {
    let mut fleet = Fleet::of(1);
    fleet.until(|fleet| fleet.replicas[0].driver.leads(GroupId(2)));
    let report = |fleet: &mut Fleet, ticket, command: &FlowCommand| {
        let deadline_ms = fleet.now_ms + 5000;
        fleet.replicas[0].report(Ticket(ticket), 0, command.encode().into(), deadline_ms);
    };
    let (sniffer, events) = (SnifferId(1), vec![observed()]);
    report(&mut fleet, 1, &FlowCommand::Report { sniffer, epoch: 1, sequence: 1, name: "tap".into(), events });
    fleet.run(5);
    let Some(Ok(FlowOutcome::Done(revision))) = fleet.reports.get(&1).cloned() else { panic!("{:?}", fleet.reports) };
    let flow = observed().id();
    let label = |value: &str| FlowCommand::Annotate {
        flow,
        revision,
        labels: vec![("os".to_owned(), value.to_owned())],
        verdict: None,
    };
    report(&mut fleet, 2, &label("linux"));
    report(&mut fleet, 3, &label("bsd"));
    fleet.run(5);
    assert!(matches!(fleet.reports[&2], Ok(FlowOutcome::Done(_))));
    assert!(matches!(fleet.reports[&3], Ok(FlowOutcome::Changed(_))), "nothing hides what became of it");
    report(&mut fleet, 4, &label("bsd"));
    fleet.replicas[0].hide_outcomes(GroupId(1));
    fleet.replicas[0].hide_outcomes(GroupId(0));
    fleet.run(5);
    assert!(
        matches!(fleet.reports[&4], Ok(FlowOutcome::Changed(_))),
        "a snapshot of another group hides nothing of it"
    );
    report(&mut fleet, 5, &label("bsd"));
    fleet.replicas[0].hide_outcomes(GroupId(2));
    fleet.run(5);
    assert_eq!(fleet.reports[&5], Err(SubmitError::Unknown));
}

#[test]
fn a_request_of_a_client_has_one_outcome_at_all_instances() {
    let mut fleet = Fleet::of(3);
    fleet.submit(2, 1, &ControlCommand::OpenSession(None), None);
    let session = SessionId(fleet.done(1).0);
    let request = |sequence| Some(Request { session, sequence, answered_below: 1 });
    for at in 1..=3 {
        fleet.submit(at, 10 + at, &put("k"), request(1));
    }
    let revision = fleet.done(11);
    assert_eq!((fleet.done(12), fleet.done(13)), (revision, revision));
    fleet.submit(3, 20, &put("k"), request(1));
    assert_eq!(fleet.done(20), revision);
    assert_eq!(fleet.revisions("k"), BTreeSet::from([Some(revision)]));
    fleet.submit(3, 21, &put("k"), request(2));
    assert!(fleet.done(21) > revision);
    fleet.submit(1, 22, &put("k"), request(0));
    fleet.until(|fleet| fleet.answers.contains_key(&22));
    let over = SessionRefusal::Answered { sequence: 0, answered_below: 1 };
    assert_eq!(fleet.answers[&22], Ok(ControlOutcome::Refused(over)));
}

#[test]
fn a_request_that_found_no_room_is_unknown_if_another_copy_may_find_some() {
    let mut fleet = Fleet::of(3);
    let leader = fleet.leader().unwrap();
    let at = leader % 3 + 1;
    fleet.submit(leader, 1, &ControlCommand::OpenSession(None), None);
    let session = SessionId(fleet.done(1).0);
    let request = |sequence, answered_below| Some(Request { session, sequence, answered_below });
    let window = SESSION_WINDOW_MAX as u64;
    for sequence in 0..window {
        fleet.submit(leader, 100 + sequence, &put("k"), request(sequence, 0));
    }
    fleet.until(|fleet| fleet.answers.len() as u64 == window + 1);
    fleet.submit(at, 2, &put("l"), request(window, 0));
    fleet.until(|fleet| fleet.answers.contains_key(&2));
    let full = Ok(ControlOutcome::Refused(SessionRefusal::WindowFull(session)));
    assert_eq!(fleet.answers[&2], full, "one copy, so nothing was done and nothing will be");
    // Who asks hears nothing of the first copy's fate, and sends another.
    fleet.cut.insert((leader, at));
    fleet.submit(at, 3, &put("l"), request(window + 1, 0));
    fleet.run(15);
    fleet.cut.clear();
    fleet.until(|fleet| fleet.answers.contains_key(&3));
    assert_eq!(fleet.answers[&3], Err(SubmitError::Unknown));
}

#[test]
fn a_session_is_opened_once_for_one_question() {
    for seed in 0..6 {
        let mut fleet = Fleet::of(3);
        let leader = fleet.leader().unwrap();
        let at = leader % 3 + 1;
        fleet.cut.insert((leader, at));
        fleet.submit(at, 1, &ControlCommand::OpenSession(None), None);
        fleet.run(12 + seed);
        fleet.cut.clear();
        fleet.until(|fleet| fleet.answers.contains_key(&1));
        fleet.run(200);
        assert!(fleet.replicas[0].control().sessions().len() <= 1, "after {seed} ticks");
    }
}

#[test]
fn without_a_leader_nothing_is_done_and_what_was_sent_in_vain_is_unknown() {
    let mut fleet = Fleet::of(3);
    let leader = fleet.leader().unwrap();
    let at = leader % 3 + 1;
    fleet.submit(at, 1, &put("first"), None);
    fleet.done(1);
    fleet.isolate(at);
    fleet.submit(at, 2, &put("k"), None);
    fleet.until(|fleet| fleet.replicas[at as usize - 1].driver.leader(GroupId(0)).is_none());
    fleet.submit(at, 3, &put("l"), None);
    fleet.run(600);
    assert_eq!(fleet.answers[&2], Err(SubmitError::Unknown));
    assert!(matches!(fleet.answers[&3], Err(SubmitError::NotDone(_))));
    fleet.cut.clear();
    fleet.run(200);
    assert_eq!(fleet.revisions("l"), BTreeSet::from([None]));
    fleet.submit(at, 4, &put("m"), None);
    fleet.done(4);
}

#[test]
fn what_is_late_while_the_session_is_full_is_not_proposed_and_not_done() {
    let mut fleet = Fleet::of(1);
    fleet.submit(1, 0, &put("first"), None);
    fleet.done(0);
    // One more than the session keeps, all of one deadline, and the time it takes passes at once.
    let count = SESSION_WINDOW_MAX as u64 + 1;
    for ticket in 1..=count {
        fleet.submit(1, ticket, &put(&format!("k{ticket}")), None);
    }
    assert_eq!(fleet.replicas[0].session.waiting.len(), 1);
    fleet.now_ms += 5000;
    fleet.run(20);
    let table = fleet.replicas[0].control();
    for ticket in 1..=count {
        let done = table.kv(&format!("k{ticket}")).is_some();
        let sent = ticket < count;
        let answer = &fleet.answers[&ticket];
        assert_eq!(matches!(answer, Err(SubmitError::Unknown)), sent, "{ticket}: {answer:?}");
        assert_eq!(done, sent, "{ticket}: {answer:?}");
    }
}

#[test]
fn a_removed_instance_says_that_nothing_was_done() {
    let mut fleet = Fleet::of(3);
    let leader = fleet.leader().unwrap();
    let gone = leader % 3 + 1;
    fleet.submit(leader, 1, &ControlCommand::MemberRemove(InstanceId(gone)), None);
    fleet.done(1);
    fleet.submit(gone, 2, &put("k"), None);
    fleet.until(|fleet| fleet.answers.contains_key(&2));
    assert_eq!(fleet.answers[&2], Err(SubmitError::NoMember));
}

#[test]
fn more_commands_than_the_session_keeps_wait_for_their_turn() {
    let mut fleet = Fleet::of(1);
    let count = 3 * SESSION_WINDOW_MAX as u64;
    for ticket in 0..count {
        fleet.submit(1, ticket, &put(&format!("k{ticket}")), None);
    }
    fleet.until(|fleet| fleet.answers.len() as u64 == count);
    let revisions: BTreeSet<Revision> = (0..count).map(|ticket| fleet.done(ticket)).collect();
    assert_eq!(revisions.len() as u64, count);
    let kept: BTreeSet<Revision> = fleet.replicas[0].control().kv_list("k").map(|(_, entry)| entry.revision).collect();
    assert_eq!(kept, revisions);
    assert!(fleet.replicas[0].session.open.is_empty() && fleet.replicas[0].session.waiting.is_empty());
}
