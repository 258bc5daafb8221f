//! The LRU of one worker: answers it gave, as long as they may be given again without a look at the table.
//!
//! It holds nothing that the table does not. An entry carries the generation of its group's view, checked at every hit;
//! as a view's table and generation are one immutable whole, what is read through is never older than its generation.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use crate::{
    command::Pin,
    ids::{LogTime, PinKey},
    plant::{self, Plant},
    view::{Answer, GroupView},
};

/// A worker's cache. `T` is what the worker needs to know of a backend.
pub struct Cache<T> {
    entries: LruCache<PinKey, Entry<T>, ahash::RandomState>,
}

struct Entry<T> {
    target: Arc<T>,
    pin: Pin,
    generation: u64,
    /// The log time from which a hit should refresh the pin.
    touch_from: LogTime,
    /// How long it then waits to ask again, in milliseconds.
    touch_again_ms: u64,
}

/// An answer that needed no waiting.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// What is known of the backend.
    pub target: Arc<T>,
    /// The pin that it follows from.
    pub pin: Pin,
    /// A quarter of the pin's idle time has passed: it is to be refreshed. Told again after another eighth, if it was
    /// not.
    pub touch: bool,
    /// Whether it came from the LRU; else from the table.
    pub cached: bool,
}

impl<T> Cache<T> {
    /// A cache of at most `entries_max` answers.
    #[must_use]
    pub fn new(entries_max: NonZeroUsize) -> Self {
        // Grown as needed: a presized map of millions costs its page faults at once.
        let mut entries = LruCache::unbounded_with_hasher(ahash::RandomState::new());
        entries.resize(entries_max);
        Self { entries }
    }

    /// The answer for `key` under `view`, if it is known here and now: from the cache, else from the view's table, which
    /// `resolve` turns into what is known of the backend (`None`: not known here yet, wait).
    pub fn look_up(
        &mut self,
        key: &PinKey,
        view: &GroupView,
        now_ms: u64,
        resolve: impl FnOnce(&Pin) -> Option<Arc<T>>,
    ) -> Option<Found<T>> {
        if !view.lease.holds(now_ms) {
            return None;
        }
        if let Some(entry) = self.entries.get_mut(key)
            && (entry.generation == view.generation || plant::on(Plant::StaleCache))
            && view.usable(key.pool, entry.pin.expires, now_ms)
        {
            let touch = entry.take_touch(view, now_ms);
            return Some(Found { target: entry.target.clone(), pin: entry.pin, touch, cached: true });
        }
        let Answer::Held(pin) = view.answer(key, now_ms) else { return None };
        let target = resolve(&pin)?;
        let ttl = view.table.pin_ttl_ms(key.pool).unwrap_or(0);
        let (touch_from, touch_again_ms) = (pin.touch_from(ttl), ttl / 8);
        let mut entry = Entry { target: target.clone(), pin, generation: view.generation, touch_from, touch_again_ms };
        let touch = entry.take_touch(view, now_ms);
        self.entries.put(*key, entry);
        Some(Found { target, pin, touch, cached: false })
    }
}

impl<T> Entry<T> {
    fn take_touch(&mut self, view: &GroupView, now_ms: u64) -> bool {
        let bound = view.lease.log_time_bound(now_ms);
        let touch = bound >= self.touch_from;
        if touch {
            self.touch_from = bound.plus(self.touch_again_ms);
        }
        touch
    }
}

#[cfg(test)]
mod tests;
