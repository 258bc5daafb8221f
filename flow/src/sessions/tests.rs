//! Exactly once: the rules, one story each, and a model that random requests are compared with.

use std::collections::BTreeMap;

use super::*;
use crate::{
    command::ControlCommand,
    control::{ControlTable, tests::birth},
    ids::{Epoch, Revision},
};

struct Story {
    table: ControlTable,
    now: u64,
}

impl Story {
    fn born() -> Self {
        let mut story = Self { table: ControlTable::default(), now: 0 };
        story.check(ControlCommand::Birth(birth()));
        story
    }

    fn check(&mut self, command: ControlCommand) -> ControlOutcome {
        // As it goes through the log.
        let command = ControlCommand::decode(&command.encode()).unwrap();
        let index = Revision(self.table.applied().0 + 1);
        self.table.apply(index, LogTime(self.now), &command)
    }

    fn open(&mut self) -> SessionId {
        session_of(&self.check(ControlCommand::OpenSession(None)))
    }

    fn put(
        &mut self,
        session: SessionId,
        sequence: u64,
        answered_below: u64,
        if_revision: Option<u64>,
    ) -> ControlOutcome {
        self.put_as(None, Request { session, sequence, answered_below }, if_revision)
    }

    fn put_as(&mut self, owner: Option<SessionOwner>, request: Request, if_revision: Option<u64>) -> ControlOutcome {
        let if_revision = if_revision.map(Revision);
        let put = ControlCommand::KvPut { key: "k".to_owned(), value: vec![request.sequence as u8], if_revision };
        self.check(ControlCommand::Once { request, owner, command: Box::new(put) })
    }

    fn revision(&self) -> u64 {
        self.table.kv("k").map_or(0, |entry| entry.revision.0)
    }

    /// Goes on with the table as a snapshot has it.
    fn restart(&mut self) {
        let copy = ControlTable::decode(&self.table.encode().unwrap()).unwrap();
        assert_eq!(copy.digest(), self.table.digest());
        self.table.check_invariants();
        copy.check_invariants();
        assert_eq!(copy.sessions.bytes, self.table.sessions.bytes);
        assert_eq!(copy.sessions.by_use, self.table.sessions.by_use);
        assert_eq!(copy.sessions.by_owner, self.table.sessions.by_owner);
        self.table = copy;
    }
}

fn session_of(outcome: &ControlOutcome) -> SessionId {
    match outcome {
        ControlOutcome::Done { revision, .. } => SessionId(revision.0),
        other => panic!("no session: {other:?}"),
    }
}

fn refusal(outcome: ControlOutcome) -> SessionRefusal {
    match outcome {
        ControlOutcome::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_request_that_comes_again_gets_its_outcome_and_changes_nothing() {
    let mut story = Story::born();
    let session = story.open();
    let first = story.put(session, 1, 1, None);
    let revision = story.revision();
    assert_eq!(first, ControlOutcome::Done { revision: Revision(revision), epoch: Epoch(1) });
    assert_eq!(story.put(session, 1, 1, None), first);
    assert_eq!(story.put(session, 2, 1, Some(999)), story.put(session, 2, 1, Some(revision)), "a refusal too is kept");
    assert_eq!(story.revision(), revision);
}

#[test]
fn a_snapshot_between_two_tries_changes_nothing() {
    let mut story = Story::born();
    let session = story.open();
    let (done, conflict) = (story.put(session, 5, 3, None), story.put(session, 6, 3, Some(0)));
    assert!(matches!(conflict, ControlOutcome::Conflict(_)));
    let revision = story.revision();
    story.restart();
    assert_eq!((story.put(session, 5, 3, None), story.put(session, 6, 3, Some(0))), (done, conflict));
    assert_eq!(story.revision(), revision);
    assert_eq!(refusal(story.put(session, 2, 0, None)), SessionRefusal::Answered { sequence: 2, answered_below: 3 });
}

#[test]
fn what_was_answered_is_over() {
    let mut story = Story::born();
    let session = story.open();
    story.put(session, 1, 0, None);
    story.put(session, 7, 5, None);
    let revision = story.revision();
    for sequence in [0, 1, 4] {
        let over = SessionRefusal::Answered { sequence, answered_below: 5 };
        assert_eq!(refusal(story.put(session, sequence, 0, None)), over);
    }
    let over = SessionRefusal::Answered { sequence: 8, answered_below: 9 };
    assert_eq!(refusal(story.put(session, 8, 9, None)), over, "one that is answered is not asked");
    assert_eq!(story.revision(), revision);
    assert!(matches!(story.put(session, 5, 0, None), ControlOutcome::Done { .. }));
}

#[test]
fn a_session_ends_when_it_is_closed_or_was_not_used_for_a_while() {
    let mut story = Story::born();
    let (kept, closed, left) = (story.open(), story.open(), story.open());
    assert_eq!(refusal(story.put(SessionId(900), 1, 0, None)), SessionRefusal::NoSession(SessionId(900)));
    for _ in 0..2 {
        assert!(matches!(story.check(ControlCommand::CloseSession(closed)), ControlOutcome::Done { .. }));
        assert_eq!(refusal(story.put(closed, 1, 0, None)), SessionRefusal::NoSession(closed));
    }
    story.now = SESSION_TTL_MS - 1;
    assert!(matches!(story.put(kept, 1, 0, None), ControlOutcome::Done { .. }));
    story.restart();
    assert!(story.table.sessions().is_open(left, LogTime(story.now)));
    story.now += 1;
    assert_eq!(refusal(story.put(left, 1, 0, None)), SessionRefusal::NoSession(left));
    assert!(matches!(story.put(kept, 1, 0, None), ControlOutcome::Done { .. }));
    assert_eq!(story.table.sessions().len(), 1);
    story.now += SESSION_TTL_MS;
    story.check(ControlCommand::Tick);
    assert!(story.table.sessions().is_empty());
    assert_eq!(story.table.sessions().bytes(), 0);
}

#[test]
fn many_sessions_that_end_at_once_end_with_some_entries() {
    let mut story = Story::born();
    let sessions: Vec<SessionId> = (0..3 * EXPIRE_PER_ENTRY).map(|_| story.open()).collect();
    story.now = SESSION_TTL_MS;
    story.check(ControlCommand::Tick);
    assert_eq!(story.table.sessions().len(), 2 * EXPIRE_PER_ENTRY);
    story.restart();
    let last = sessions[sessions.len() - 1];
    assert_eq!(refusal(story.put(last, 1, 0, None)), SessionRefusal::NoSession(last), "swept or not");
    story.check(ControlCommand::Tick);
    assert!(story.table.sessions().is_empty());
}

#[test]
fn a_session_keeps_so_many_outcomes_and_no_more() {
    let mut story = Story::born();
    let session = story.open();
    for sequence in 0..SESSION_WINDOW_MAX as u64 {
        assert!(matches!(story.put(session, sequence, 0, None), ControlOutcome::Done { .. }));
    }
    let revision = story.revision();
    assert_eq!(refusal(story.put(session, 5000, 0, None)), SessionRefusal::WindowFull(session));
    assert!(matches!(story.put(session, 7, 0, None), ControlOutcome::Done { .. }), "what is kept is told");
    assert_eq!(story.revision(), revision);
    story.restart();
    assert!(matches!(story.put(session, 5000, 10, None), ControlOutcome::Done { .. }));
    assert_eq!(story.table.sessions().bytes(), SESSION_BYTES + (SESSION_WINDOW_MAX - 9) * OUTCOME_BYTES);
}

#[test]
fn there_are_so_many_sessions_and_no_more_but_an_instance_always_has_its_own() {
    let mut story = Story::born();
    let owner = |life| Some(SessionOwner { instance: InstanceId(1), life });
    let open = |story: &mut Story, life| session_of(&story.check(ControlCommand::OpenSession(owner(life))));
    let sessions: Vec<SessionId> = (0..SESSIONS_MAX).map(|_| story.open()).collect();
    assert_eq!(refusal(story.check(ControlCommand::OpenSession(None))), SessionRefusal::TooMany);
    let own = open(&mut story, 1);
    assert_eq!(open(&mut story, 1), own, "the same life gets the same session");
    story.restart();
    assert_eq!(open(&mut story, 1), own);
    let second = open(&mut story, 2);
    let request = |session| Request { session, sequence: 1, answered_below: 0 };
    let ended = story.put_as(owner(1), request(own), None);
    assert_eq!(refusal(ended), SessionRefusal::NoSession(own), "another life ends it");
    assert!(matches!(story.put_as(owner(2), request(second), None), ControlOutcome::Done { .. }));
    assert_eq!(story.table.sessions().len(), SESSIONS_MAX + 1);
    let stranger = Some(SessionOwner { instance: InstanceId(9), life: 1 });
    assert!(matches!(story.check(ControlCommand::OpenSession(stranger)), ControlOutcome::Invalid(_)));
    story.check(ControlCommand::MemberRemove(InstanceId(1)));
    assert_eq!(story.table.sessions().len(), SESSIONS_MAX, "who is removed has none");
    story.check(ControlCommand::CloseSession(sessions[0]));
    story.open();
    assert_eq!(story.table.sessions().bytes(), SESSIONS_MAX * SESSION_BYTES);
}

#[test]
fn a_session_is_used_and_ended_only_by_whom_it_is_of() {
    let mut story = Story::born();
    let owner = |instance, life| Some(SessionOwner { instance: InstanceId(instance), life });
    let own = session_of(&story.check(ControlCommand::OpenSession(owner(1, 5))));
    let of_client = story.open();
    let refused = |outcome, session| assert_eq!(refusal(outcome), SessionRefusal::NoSession(session));
    for _ in 0..2 {
        for stranger in [None, owner(1, 6), owner(2, 5)] {
            let request = Request { session: own, sequence: 4, answered_below: 0 };
            refused(story.put_as(stranger, request, None), own);
            let request = Request { session: own, sequence: 1_000_000, answered_below: 1_000_000 };
            refused(story.put_as(stranger, request, None), own);
        }
        let request = Request { session: of_client, sequence: 4, answered_below: 0 };
        refused(story.put_as(owner(1, 5), request, None), of_client);
        refused(story.check(ControlCommand::CloseSession(own)), own);
        assert_eq!(story.revision(), 0, "nothing of that was carried out");
        story.restart();
    }
    let request = Request { session: own, sequence: 4, answered_below: 4 };
    let first = story.put_as(owner(1, 5), request, None);
    assert!(matches!(first, ControlOutcome::Done { .. }), "{first:?}");
    assert_eq!(story.put_as(owner(1, 5), request, None), first);
}

#[test]
fn all_outcomes_together_have_so_many_bytes_and_no_more() {
    let mut sessions = Sessions::default();
    let now = LogTime(1);
    let id = sessions.open(SessionId(1), now, None).unwrap();
    let own = SessionOwner { instance: InstanceId(1), life: 1 };
    let owned = sessions.open(SessionId(2), now, Some(own)).unwrap();
    let request = |session, sequence| Request { session, sequence, answered_below: 0 };
    assert_eq!(sessions.begin(now, &request(id, 1), None), Ok(None));
    sessions.keep(&request(id, 1), ControlOutcome::Invalid("long".repeat(1000)));
    assert_eq!(sessions.bytes, SESSION_BYTES + OUTCOME_BYTES + OUTCOME_TEXT_MAX, "the text was cut");
    sessions.bytes = SESSIONS_BYTES_MAX - OUTCOME_BYTES;
    assert_eq!(sessions.begin(now, &request(id, 2), None), Err(SessionRefusal::OutOfBytes));
    assert_eq!(sessions.open(SessionId(3), now, None), Err(SessionRefusal::OutOfBytes));
    assert_eq!(sessions.begin(now, &request(owned, 2), Some(own)), Ok(None), "an instance's session is served");
}

#[test]
fn a_long_refusal_is_cut_alike_in_the_first_answer_and_the_next() {
    let key = "\u{e4}".repeat(OUTCOME_TEXT_MAX);
    let mut story = Story::born();
    let session = story.open();
    let request = Request { session, sequence: 1, answered_below: 0 };
    let put = ControlCommand::KvPut { key, value: Vec::new(), if_revision: Some(Revision(7)) };
    let once = ControlCommand::Once { request, owner: None, command: Box::new(put) };
    let first = story.check(once.clone());
    let ControlOutcome::Conflict(text) = &first else { panic!("{first:?}") };
    assert!(text.ends_with(CUT) && text.len() <= OUTCOME_TEXT_MAX, "{}", text.len());
    story.restart();
    assert_eq!(story.check(once), first);
}

/// A session as it should be, told in the simplest way.
struct Modelled {
    used: u64,
    answered_below: u64,
    outcomes: BTreeMap<u64, ControlOutcome>,
}

#[test]
fn random_requests_fare_as_in_the_model() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut story = Story::born();
        let mut model = BTreeMap::<u64, Modelled>::new();
        // Which requests were carried out, and how often.
        let mut carried_out = BTreeMap::<(u64, u64), u32>::new();
        let mut next = 0;
        for _ in 0..1500 {
            story.now += random.below(SESSION_TTL_MS / 50);
            let now = story.now;
            model.retain(|_, session| session.used + SESSION_TTL_MS > now);
            match random.below(30) {
                0 => drop(
                    model.insert(story.open().0, Modelled { used: now, answered_below: 0, outcomes: BTreeMap::new() }),
                ),
                1 => {
                    let id = random.below(story.table.applied().0);
                    story.check(ControlCommand::CloseSession(SessionId(id)));
                    model.remove(&id);
                }
                2 => story.restart(),
                _ => {
                    // Mostly sessions that are there; requests around those that were sent lately.
                    let place = random.below(model.len() as u64 + 1) as usize;
                    let id = model.keys().nth(place).copied().unwrap_or(random.below(2000));
                    next += random.below(2);
                    let sequence = (next + random.below(6)).saturating_sub(8);
                    let below = (next + random.below(4)).saturating_sub(15);
                    let before = story.revision();
                    let outcome = story.put(SessionId(id), sequence, below, None);
                    let applied = story.revision() != before;
                    *carried_out.entry((id, sequence)).or_default() += u32::from(applied);
                    let expected = match model.get_mut(&id) {
                        None => Some(ControlOutcome::Refused(SessionRefusal::NoSession(SessionId(id)))),
                        Some(session) if sequence < session.answered_below.max(below) => {
                            let answered_below = session.answered_below.max(below);
                            Some(ControlOutcome::Refused(SessionRefusal::Answered { sequence, answered_below }))
                        }
                        Some(session) => {
                            session.used = now;
                            session.answered_below = session.answered_below.max(below);
                            let known = session.outcomes.get(&sequence).cloned();
                            session.outcomes.entry(sequence).or_insert_with(|| outcome.clone());
                            known
                        }
                    };
                    assert_eq!(applied, expected.is_none(), "seed {seed}");
                    if let Some(expected) = expected {
                        assert_eq!(outcome, expected, "seed {seed}");
                    }
                }
            }
        }
        assert!(carried_out.values().all(|times| *times <= 1));
        assert!(carried_out.values().sum::<u32>() > 100, "the story is about something");
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % end.max(1)
    }
}
