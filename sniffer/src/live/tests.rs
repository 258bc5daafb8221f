//! The queue's bound and what it sheds first, and that every packet is in one part of each sum.

use super::{
    Tally,
    queue::{EVENTS_QUEUED_MAX, Queue, Taken, queue},
};
use crate::{
    decode::{Link, decode},
    track::{Config, Event, Kind, Tracker},
    wires::{at, ip, udp},
};

/// So many events of one flow, of that kind.
fn events(kind: Kind, count: usize) -> Vec<Event> {
    let frame = ip(17, at("192.0.2.1"), at("198.51.100.1"), 0, &udp(1, 2, b"x"));
    let mut tracker = Tracker::new(Config::default());
    tracker.handle_packet(1, 60, &decode(Link::Raw, &frame).unwrap());
    tracker.finish();
    let event = tracker.poll_events().remove(0);
    vec![Event { kind, ..event }; count]
}

fn lengths(queue: Queue, end: &super::queue::Events) -> Vec<usize> {
    drop(queue);
    let next = || match end.take(super::TURN) {
        Taken::Events(events) => Some(events.len()),
        Taken::Nothing | Taken::Over => None,
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn a_full_queue_sheds_and_counts_and_does_not_wait() {
    let (queue, end) = queue();
    assert_eq!(queue.offer(events(Kind::Start, EVENTS_QUEUED_MAX - 10)), 0);
    assert_eq!(queue.offer(events(Kind::Start, 25)), 15, "ten fit");
    assert_eq!(queue.offer(events(Kind::Start, 7)), 7);
    assert_eq!(queue.put(events(Kind::Start, 3)), 3, "the end of a capture is never shed");
    assert_eq!(lengths(queue, &end), [EVENTS_QUEUED_MAX - 10, 10, 3]);
}

#[test]
fn updates_are_shed_first() {
    let (queue, end) = queue();
    assert_eq!(queue.offer(events(Kind::Update, EVENTS_QUEUED_MAX / 2)), 0);
    let mixed = [events(Kind::Update, 4), events(Kind::Start, 2)].concat();
    assert_eq!(queue.offer(mixed), 4);
    assert_eq!(lengths(queue, &end), [EVENTS_QUEUED_MAX / 2, 2]);
}

#[test]
fn room_comes_back_once_events_are_taken() {
    let (queue, end) = queue();
    assert_eq!(queue.offer(events(Kind::Start, EVENTS_QUEUED_MAX)), 0);
    assert!(matches!(end.take(super::TURN), Taken::Events(_)));
    assert_eq!(queue.offer(events(Kind::Start, 5)), 0);
}

#[test]
fn the_sum_of_workers_counts_what_the_interface_lost_once() {
    let one = Tally { received: 5, handled: 4, kernel_dropped: 1, interface_dropped: 3, ..Tally::default() };
    let total: Tally = [one, one].into_iter().sum();
    assert_eq!((total.received, total.handled, total.kernel_dropped, total.interface_dropped), (10, 8, 2, 3));
}
