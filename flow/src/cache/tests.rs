//! When a worker's cache may answer, and when it asks for a refresh.

use super::*;
use crate::{
    command::{EpochCopy, PinCommand, Standing},
    ids::{BackendId, Epoch, PoolId, Revision},
    pins::{Expiry, PinTable},
    view::Lease,
};

const TTL: u64 = 80_000;

fn key(client: u8) -> PinKey {
    PinKey::new(PoolId::of("web"), [10, 0, 0, client].into())
}

/// Clients 1 to 3 have pins, made at log time 0.
fn view() -> GroupView {
    let mut table = PinTable::new();
    let mut expiry = Expiry::new();
    let pools = vec![(key(1).pool, TTL)];
    let copy = EpochCopy { epoch: Epoch(1), pools, backends: vec![(BackendId(1), Standing::Live)] };
    table.apply(Revision(1), LogTime(0), &PinCommand::Epoch(copy), &mut expiry);
    for client in 1..=3 {
        let assign = PinCommand::Assign { key: key(client), backend: BackendId(1), epoch: Epoch(1) };
        table.apply(Revision(1 + u64::from(client)), LogTime(0), &assign, &mut expiry);
    }
    GroupView { table, generation: 0, lease: lease(0) }
}

fn lease(log_time: u64) -> Lease {
    Lease { asked_ms: 1000, until_ms: 2000, log_time: LogTime(log_time) }
}

fn cache() -> Cache<u64> {
    Cache::new(NonZeroUsize::new(2).unwrap())
}

/// What became of a look-up: "cached" or "table", with "+touch"; or "none".
fn check(cache: &mut Cache<u64>, client: u8, view: &GroupView, expected: &str) {
    let found = cache.look_up(&key(client), view, 1500, |pin| Some(Arc::new(pin.backend.0)));
    let text = found.map_or("none".to_owned(), |found| {
        let from = if found.cached { "cached" } else { "table" };
        format!("{from}{}", if found.touch { "+touch" } else { "" })
    });
    assert_eq!(text, expected, "client {client}");
}

#[test]
fn it_is_read_through_and_holds_no_more_than_it_may() {
    let (mut cache, view) = (cache(), view());
    check(&mut cache, 1, &view, "table");
    check(&mut cache, 1, &view, "cached");
    check(&mut cache, 2, &view, "table");
    check(&mut cache, 3, &view, "table");
    check(&mut cache, 1, &view, "table");
    check(&mut cache, 9, &view, "none");
}

#[test]
fn a_new_generation_and_a_lost_lease_make_every_hit_worthless() {
    let (mut cache, mut view) = (cache(), view());
    check(&mut cache, 1, &view, "table");
    view.generation += 1;
    check(&mut cache, 1, &view, "table");
    check(&mut cache, 1, &view, "cached");
    view.lease = Lease::default();
    check(&mut cache, 1, &view, "none");
}

#[test]
fn what_cannot_be_resolved_is_not_kept() {
    let (mut cache, view) = (cache(), view());
    assert!(cache.look_up(&key(1), &view, 1500, |_| None).is_none());
    check(&mut cache, 1, &view, "table");
}

#[test]
fn a_hit_asks_for_a_refresh_after_a_quarter_and_again_after_an_eighth() {
    let (mut cache, mut view) = (cache(), view());
    check(&mut cache, 1, &view, "table");
    view.lease = lease(TTL / 4);
    check(&mut cache, 1, &view, "cached+touch");
    check(&mut cache, 1, &view, "cached");
    view.lease = lease(TTL * 3 / 8);
    check(&mut cache, 1, &view, "cached+touch");
    // Not refreshed for half of its idle time: it must be committed first.
    view.lease = lease(TTL / 2);
    check(&mut cache, 1, &view, "none");
}
