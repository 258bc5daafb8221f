//! Between those who capture and the thread that reports: a bounded queue, and what is known of the thread's work.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

use super::{
    outbox::{Counters, Fatal, Shed},
    seen::{Rank, Seen},
};

/// Both sides of the queue.
pub(super) struct Shared {
    state: Mutex<State>,
    events_max: usize,
    /// There is room.
    room: Condvar,
    /// There is something to do.
    wake: Notify,
}

/// Nothing is told any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Because of this.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// It was finished.
    #[error("the report is finished")]
    Finished,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<Seen>>,
    /// How many they are, and how many the thread has in its hands.
    events: usize,
    taken: usize,
    /// Given up for want of room, or because it is over.
    shed: Shed,
    /// The thread's own count.
    outbox: Counters,
    /// Which instance it talks to, and what went wrong last.
    connected: Option<String>,
    trouble: Option<String>,
    /// All is to be told until then.
    finish: Option<Instant>,
    ended: Option<Ended>,
}

/// What the thread says of itself.
pub(super) struct Work {
    pub counters: Counters,
    pub connected: Option<String>,
    pub trouble: Option<String>,
}

/// What the thread is to do.
pub(super) struct Orders {
    pub events: Vec<Seen>,
    /// Nothing waits behind these events.
    pub all: bool,
    pub finish: Option<Instant>,
}

impl Shared {
    pub fn new(events_max: usize) -> Self {
        Self { state: Mutex::default(), events_max, room: Condvar::new(), wake: Notify::new() }
    }

    /// Hands events over; what finds no room is given up and counted.
    pub fn offer(&self, mut events: Vec<Seen>) {
        if events.is_empty() {
            return;
        }
        let mut state = self.state();
        let room = if state.ended.is_some() { 0 } else { self.events_max.saturating_sub(state.events + state.taken) };
        for seen in events.drain(room.min(events.len())..) {
            state.shed.count(Rank::of(seen.kind));
        }
        state.put(events);
        drop(state);
        self.wake.notify_one();
    }

    /// Hands all events over, and waits for room.
    pub fn offer_waiting(&self, mut events: Vec<Seen>) -> Result<(), Ended> {
        let mut state = self.state();
        while !events.is_empty() {
            if let Some(ended) = &state.ended {
                return Err(ended.clone());
            }
            let room = self.events_max.saturating_sub(state.events + state.taken);
            if room == 0 {
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let rest = events.split_off(room.min(events.len()));
            state.put(std::mem::replace(&mut events, rest));
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Up to so many events, in order.
    pub fn take(&self, most: usize) -> Orders {
        let mut state = self.state();
        let mut events = Vec::new();
        while events.len() < most
            && let Some(mut next) = state.waiting.pop_front()
        {
            let room = most - events.len();
            if next.len() > room {
                let rest = next.split_off(room);
                state.waiting.push_front(rest);
            }
            events.append(&mut next);
        }
        state.events -= events.len();
        state.taken += events.len();
        Orders { all: state.waiting.is_empty(), finish: state.finish, events }
    }

    /// What was taken is counted by the thread now.
    pub fn publish(&self, work: Work) {
        let mut state = self.state();
        state.taken = 0;
        (state.outbox, state.connected, state.trouble) = (work.counters, work.connected, work.trouble);
        drop(state);
        self.room.notify_all();
    }

    /// The thread ends; what it said first counts.
    pub fn end(&self, why: Ended) {
        let mut state = self.state();
        state.ended.get_or_insert(why);
        drop(state);
        self.room.notify_all();
    }

    /// All is to be told until then.
    pub fn finish(&self, until: Instant) {
        self.state().finish = Some(until);
        self.wake.notify_one();
    }

    /// Until there may be something to do.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// What became of all that was offered.
    pub fn counters(&self) -> Counters {
        let state = self.state();
        let waiting = (state.events + state.taken) as u64;
        let mut counters = state.outbox;
        counters.offered += waiting + state.shed.total();
        counters.pending += waiting;
        counters.shed.updates += state.shed.updates;
        counters.shed.ends += state.shed.ends;
        counters.shed.begins += state.shed.begins;
        counters
    }

    /// When all is to be told at the latest, once it is to be.
    pub fn finish_by(&self) -> Option<Instant> {
        self.state().finish
    }

    /// Whether nothing waits for the thread.
    pub fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    pub fn connected(&self) -> Option<String> {
        self.state().connected.clone()
    }

    pub fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    pub fn ended(&self) -> Option<Ended> {
        self.state().ended.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, events: Vec<Seen>) {
        if !events.is_empty() {
            self.events += events.len();
            self.waiting.push_back(events);
        }
    }
}

/// Most events that wait for the reporting thread, which takes them within milliseconds.
pub const QUEUE_EVENTS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use flow::flows::End;

    use super::{super::testing::seen, *};
    use crate::track::Kind;

    #[test]
    fn what_finds_no_room_is_counted_by_what_it_was() {
        let shared = Shared::new(3);
        let event = |kind| seen(kind, 1, 1, 1);
        shared.offer(vec![event(Kind::Start), event(Kind::Update)]);
        shared.offer(vec![event(Kind::Start), event(Kind::Update), event(Kind::End(End::Idle)), event(Kind::Start)]);
        assert_eq!(shared.counters().shed, Shed { updates: 1, ends: 1, begins: 1 });
        assert_eq!(shared.counters().pending, 3);
        let orders = shared.take(2);
        assert!(orders.events.len() == 2 && !orders.all);
        shared.offer(vec![event(Kind::Update)]);
        let counters = shared.counters();
        assert_eq!((counters.pending, counters.shed.total()), (3, 4), "what is taken is not told yet");
        shared.publish(Work {
            counters: Counters { offered: 2, ..Counters::default() },
            connected: None,
            trouble: None,
        });
        shared.offer(vec![event(Kind::Update)]);
        let orders = shared.take(9);
        assert!(orders.events.len() == 2 && orders.all);
        assert_eq!(shared.counters().offered, 8);
        shared.end(Ended::Finished);
        shared.offer(vec![event(Kind::Update)]);
        assert_eq!(shared.counters().shed.updates, 3);
        assert_eq!(shared.offer_waiting(vec![event(Kind::Update)]), Err(Ended::Finished));
    }

    #[test]
    fn who_may_wait_waits_for_room() {
        let shared = Shared::new(2);
        let shared = &shared;
        let taken = std::thread::scope(|scope| {
            scope.spawn(move || shared.offer_waiting((0..100).map(|port| seen(Kind::Start, port, 1, 1)).collect()));
            let mut taken = Vec::new();
            let mut counters = Counters::default();
            while taken.len() < 100 {
                taken.extend(shared.take(7).events);
                counters.offered = taken.len() as u64;
                shared.publish(Work { counters, connected: None, trouble: None });
                std::thread::yield_now();
            }
            taken
        });
        assert!(taken.iter().zip(0..).all(|(seen, port)| seen.observed.key.low.port == port));
        assert_eq!((shared.counters().offered, shared.counters().shed), (100, Shed::default()));
    }
}
