//! The rules of a pin group's table, one story each.

use super::*;

/// A table with its expiry index; entries get the next index each.
struct Story {
    table: PinTable,
    expiry: Expiry,
    now: u64,
}

const TTL: u64 = 1000;

fn pool() -> PoolId {
    PoolId::of("web")
}

fn backend(number: u64) -> BackendId {
    BackendId(number)
}

fn key(client: u8) -> PinKey {
    PinKey::new(pool(), [10, 0, 0, client].into())
}

impl Story {
    /// Backends 1, 2 and 3 are live in epoch 1.
    fn new() -> Self {
        let mut story = Self { table: PinTable::new(), expiry: Expiry::new(), now: 100 };
        story.epoch(1, &[(1, Standing::Live), (2, Standing::Live), (3, Standing::Live)]);
        story
    }

    fn check(&mut self, command: &PinCommand) -> PinOutcome {
        let index = Revision(self.table.applied.0 + 1);
        let outcome = self.table.apply(index, LogTime(self.now), command, &mut self.expiry);
        self.table.check_invariants(&self.expiry);
        outcome
    }

    fn epoch(&mut self, epoch: u64, backends: &[(u64, Standing)]) {
        let backends = backends.iter().map(|(id, standing)| (backend(*id), *standing)).collect();
        self.check(&PinCommand::Epoch(EpochCopy { epoch: Epoch(epoch), pools: vec![(pool(), TTL)], backends }));
    }

    fn assign(&mut self, client: u8, to: u64) -> PinOutcome {
        let epoch = self.table.epoch;
        self.check(&PinCommand::Assign { key: key(client), backend: backend(to), epoch })
    }

    /// Assigns and tells whom the client holds.
    fn holds(&mut self, client: u8, to: u64) -> Pin {
        match self.assign(client, to) {
            PinOutcome::Holds(pin) => pin,
            other => panic!("client {client}: {other:?}"),
        }
    }

    /// The backend that the table answers, 0 for a moving pin, none for a free key.
    fn answer(&self, client: u8) -> Option<u64> {
        match self.table.lookup(&key(client)) {
            Lookup::Held(pin) => Some(pin.backend.0),
            Lookup::Moving => Some(0),
            Lookup::Free => None,
        }
    }

    fn settle(&mut self) {
        let through = self.table.last_move;
        self.check(&PinCommand::Settle(through));
    }
}

#[test]
fn the_first_commit_wins() {
    let mut story = Story::new();
    let first = story.holds(1, 1);
    let second = story.holds(1, 2);
    assert_eq!((first.backend, second.backend), (backend(1), backend(1)));
    assert_eq!(first.revision, second.revision);
    assert_eq!(story.table.backend(backend(1)).map(|state| state.pins), Some(1));
}

#[test]
fn only_a_live_backend_gets_clients() {
    let mut story = Story::new();
    story.epoch(2, &[(1, Standing::Unknown), (2, Standing::Draining), (3, Standing::Dead)]);
    for to in [1, 2, 3, 9] {
        assert_eq!(story.assign(1, to), PinOutcome::NotLive(Epoch(2)), "to {to}");
    }
    let stranger = PinKey::new(PoolId::of("other"), [10, 0, 0, 1].into());
    let command = PinCommand::Assign { key: stranger, backend: backend(1), epoch: Epoch(2) };
    assert_eq!(story.check(&command), PinOutcome::NotLive(Epoch(2)));
}

#[test]
fn a_death_moves_all_its_pins_with_one_entry_and_settles_before_anyone_is_assigned_anew() {
    let mut story = Story::new();
    for (client, to) in [(1, 1), (2, 1), (3, 2)] {
        story.holds(client, to);
    }
    story.epoch(2, &[(1, Standing::Dead), (2, Standing::Live), (3, Standing::Live)]);
    let since = story.table.last_move;
    assert_eq!([story.answer(1), story.answer(2), story.answer(3)], [Some(0), Some(0), Some(2)]);
    assert_eq!(story.assign(1, 2), PinOutcome::Moving(since));
    story.settle();
    assert_eq!([story.answer(1), story.answer(2)], [None, None]);
    assert_eq!(story.holds(1, 2).backend, backend(2));
    // The other one has not come yet: a backend that is back by then keeps it.
    story.epoch(3, &[(1, Standing::Live), (2, Standing::Live), (3, Standing::Live)]);
    assert_eq!([story.answer(1), story.answer(2)], [Some(2), Some(1)]);
}

#[test]
fn a_return_before_it_is_settled_keeps_everybody() {
    let mut story = Story::new();
    story.holds(1, 1);
    story.epoch(2, &[(1, Standing::Dead), (2, Standing::Live), (3, Standing::Live)]);
    story.epoch(3, &[(1, Standing::Live), (2, Standing::Live), (3, Standing::Live)]);
    assert_eq!(story.answer(1), Some(1));
    // And a second death is a move of its own, which the settling of the first does not settle.
    let first = story.table.last_move;
    story.epoch(4, &[(1, Standing::Dead), (2, Standing::Live), (3, Standing::Live)]);
    story.check(&PinCommand::Settle(first));
    assert_eq!(story.answer(1), Some(0));
}

#[test]
fn draining_moves_nobody_and_removal_everybody() {
    let mut story = Story::new();
    story.holds(1, 1);
    let before = story.table.last_move;
    story.epoch(2, &[(1, Standing::Draining), (2, Standing::Live), (3, Standing::Live)]);
    assert_eq!((story.answer(1), story.table.last_move), (Some(1), before));
    story.epoch(3, &[(2, Standing::Live), (3, Standing::Live)]);
    assert_eq!(story.answer(1), Some(0));
    story.settle();
    story.holds(1, 3);
    assert_eq!(story.table.backend(backend(1)), None, "nothing is kept of a backend that is gone and has no pins");
}

#[test]
fn an_older_epoch_changes_nothing() {
    let mut story = Story::new();
    story.epoch(5, &[(1, Standing::Live)]);
    story.epoch(4, &[(1, Standing::Dead)]);
    assert_eq!(story.table.epoch, Epoch(5));
    assert_eq!(story.holds(1, 1).epoch, Epoch(5));
}

#[test]
fn an_unpin_moves_one_pin_of_one_revision() {
    let mut story = Story::new();
    let pin = story.holds(1, 1);
    story.holds(2, 1);
    let older = Revision(pin.revision.0 - 1);
    assert_eq!(story.check(&PinCommand::Unpin { key: key(1), revision: older }), PinOutcome::Holds(pin));
    assert_eq!(story.answer(1), Some(1));
    assert_eq!(story.check(&PinCommand::Unpin { key: key(1), revision: pin.revision }), PinOutcome::Done);
    assert_eq!([story.answer(1), story.answer(2)], [Some(0), Some(1)]);
    assert_eq!(story.assign(1, 2), PinOutcome::Moving(story.table.last_move));
    story.settle();
    assert_eq!(story.holds(1, 2).backend, backend(2));
    assert_eq!(story.check(&PinCommand::Unpin { key: key(9), revision: pin.revision }), PinOutcome::Done);
}

#[test]
fn a_settle_reaches_no_further_than_the_moves_and_never_back() {
    let mut story = Story::new();
    story.holds(1, 1);
    story.check(&PinCommand::Settle(Revision(1000)));
    assert_eq!(story.table.settled, story.table.last_move);
    story.epoch(2, &[(2, Standing::Live)]);
    story.settle();
    let settled = story.table.settled;
    story.check(&PinCommand::Settle(Revision(1)));
    assert_eq!(story.table.settled, settled);
}

#[test]
fn a_pin_lasts_its_idle_time_and_is_swept() {
    let mut story = Story::new();
    let pin = story.holds(1, 1);
    assert_eq!(pin.expires, LogTime(100 + TTL));
    story.now = 100 + TTL - 1;
    story.check(&PinCommand::Tick);
    assert_eq!(story.answer(1), Some(1));
    story.now = 100 + TTL;
    story.check(&PinCommand::Tick);
    assert_eq!((story.answer(1), story.table.len()), (None, 0));
    assert_eq!(story.holds(1, 2).backend, backend(2));
}

#[test]
fn log_time_never_goes_back() {
    let mut story = Story::new();
    story.now = 5000;
    story.check(&PinCommand::Tick);
    story.now = 10;
    story.check(&PinCommand::Tick);
    assert_eq!(story.table.time, LogTime(5000));
}

#[test]
fn a_touch_refreshes_a_pin_of_its_revision_only_and_keeps_the_revision() {
    let mut story = Story::new();
    let (first, second) = (story.holds(1, 1), story.holds(2, 1));
    story.now = 600;
    story.check(&PinCommand::Touch(vec![(key(1), first.revision), (key(2), Revision(1)), (key(9), Revision(1))]));
    let expires = |client| match story.table.lookup(&key(client)) {
        Lookup::Held(pin) => (pin.revision, pin.expires.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(expires(1), (first.revision, 600 + TTL));
    assert_eq!(expires(2), (second.revision, 100 + TTL));
}

#[test]
fn a_moving_pin_is_not_refreshed() {
    let mut story = Story::new();
    let pin = story.holds(1, 1);
    story.epoch(2, &[(2, Standing::Live)]);
    story.now = 600;
    story.check(&PinCommand::Touch(vec![(key(1), pin.revision)]));
    story.now = 100 + TTL;
    story.check(&PinCommand::Tick);
    assert!(story.table.is_empty());
}

#[test]
fn one_entry_sweeps_so_many_pins_at_most() {
    let mut table = PinTable::new();
    let mut expiry = Expiry::new();
    let copy = EpochCopy { epoch: Epoch(1), pools: vec![(pool(), TTL)], backends: vec![(backend(1), Standing::Live)] };
    table.apply(Revision(1), LogTime(0), &PinCommand::Epoch(copy), &mut expiry);
    for number in 0..600u16 {
        let [high, low] = number.to_be_bytes();
        let key = PinKey::new(pool(), [10, 1, high, low].into());
        let command = PinCommand::Assign { key, backend: backend(1), epoch: Epoch(1) };
        table.apply(Revision(2 + u64::from(number)), LogTime(0), &command, &mut expiry);
    }
    let mut lengths = Vec::new();
    for index in 700..704 {
        table.apply(Revision(index), LogTime(TTL), &PinCommand::Tick, &mut expiry);
        lengths.push(table.len());
    }
    assert_eq!(lengths, [600 - EXPIRE_PER_ENTRY, 600 - 2 * EXPIRE_PER_ENTRY, 0, 0]);
}

#[test]
fn equal_logs_make_equal_digests_and_every_difference_shows() {
    let run = |to: u64| {
        let mut story = Story::new();
        story.holds(1, to);
        story.table.digest()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
