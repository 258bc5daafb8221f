//! The way of events from workers to the one who hears of them: bounded, and nobody waits at its entry.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

use crate::track::{Event, Kind};

/// The entry; each worker has one.
#[derive(Clone)]
pub(super) struct Queue {
    sender: Sender<Vec<Event>>,
    waiting: Arc<AtomicUsize>,
}

/// The end.
pub(super) struct Events {
    receiver: Receiver<Vec<Event>>,
    waiting: Arc<AtomicUsize>,
}

/// What came out.
pub(super) enum Taken {
    /// Events of one worker.
    Events(Vec<Event>),
    /// None, for that long.
    Nothing,
    /// None ever again.
    Over,
}

/// An empty one.
pub(super) fn queue() -> (Queue, Events) {
    // Bounded by events rather than by batches, whose sizes differ by thousands.
    let (sender, receiver) = channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Queue { sender, waiting: waiting.clone() }, Events { receiver, waiting })
}

impl Queue {
    /// Puts in what fits, and says how many events did not. From half of it on, updates are shed first: a later one, or the
    /// end, tells the same.
    pub(super) fn offer(&self, mut events: Vec<Event>) -> u64 {
        let offered = events.len();
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting + offered > EVENTS_QUEUED_MAX / 2 {
            events.retain(|event| event.kind != Kind::Update);
        }
        events.truncate(EVENTS_QUEUED_MAX.saturating_sub(waiting));
        let put = self.put(events);
        (offered - put) as u64
    }

    /// Puts in all of them: for the end of a capture, when none can be lost by waiting and no more will come.
    pub(super) fn put(&self, events: Vec<Event>) -> usize {
        let count = events.len();
        if count == 0 {
            return 0;
        }
        self.waiting.fetch_add(count, Ordering::Relaxed);
        // The consumer outlives all workers.
        if self.sender.send(events).is_ok() { count } else { 0 }
    }
}

impl Events {
    /// Waits for some, so long at most.
    pub(super) fn take(&self, at_most: Duration) -> Taken {
        match self.receiver.recv_timeout(at_most) {
            Ok(events) => {
                self.waiting.fetch_sub(events.len(), Ordering::Relaxed);
                Taken::Events(events)
            }
            Err(RecvTimeoutError::Timeout) => Taken::Nothing,
            Err(RecvTimeoutError::Disconnected) => Taken::Over,
        }
    }
}

/// Events that wait at most, before a capture's end. Two workers that put in at once may exceed it by one batch.
pub const EVENTS_QUEUED_MAX: usize = 1 << 18;
