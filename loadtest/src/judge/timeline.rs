//! The ground truth: when each backend was away, each instance out of service, and something was being done.

use std::collections::HashMap;
use std::time::Duration;

use super::{Answer, BackendId, InstanceId};
use crate::moment::{Moment, Span};

/// Why an instance does not serve, by the judge's own hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Killed, stopped or paused: its address would have been withdrawn; what is asked of it counts as down, not lost.
    Down,
    /// Cut off from its peers: it may say no, cleanly and at once; silence counts as lost.
    CutOff,
}

/// Names one event, to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId(usize);

/// What was done, and when. A span opens just before the deed and closes once its undoing was seen to work, so it always
/// covers the truth.
#[derive(Debug, Default)]
pub struct Timeline {
    /// When a backend was perhaps dead or perhaps not a member of a pool.
    away: HashMap<(u8, BackendId), Vec<Span>>,
    /// Since when a backend is certainly not to be given to anyone (removed) and the fleet has said so.
    removed: HashMap<(u8, BackendId), Vec<Span>>,
    /// Since when a backend is certainly not to be given to new clients (draining) and the fleet has said so.
    draining: HashMap<(u8, BackendId), Vec<Span>>,
    outages: HashMap<InstanceId, Vec<(Span, Outage)>>,
    events: Vec<Span>,
    /// How many instances there are.
    pub instances: usize,
}

/// So long a network may go on leading clients to an instance that is gone: the `hold` of a keeper, and the time in which the
/// router hears of it.
const WITHDRAWAL: Duration = Duration::from_millis(1500);

impl Timeline {
    /// The backend is about to be killed or removed.
    pub fn backend_leaves(&mut self, pool: u8, backend: BackendId, now: Moment) {
        open(self.away.entry((pool, backend)).or_default(), now);
    }

    /// The backend was seen to serve as a member again.
    pub fn backend_is_back(&mut self, pool: u8, backend: BackendId, now: Moment) {
        close(self.away.entry((pool, backend)).or_default(), now);
    }

    /// The fleet has acknowledged that the backend is no member any more.
    pub fn removal_acknowledged(&mut self, pool: u8, backend: BackendId, now: Moment) {
        open(self.removed.entry((pool, backend)).or_default(), now);
    }

    /// The backend is about to be added again.
    pub fn removal_revoked(&mut self, pool: u8, backend: BackendId, now: Moment) {
        close(self.removed.entry((pool, backend)).or_default(), now);
    }

    /// The fleet has acknowledged that the backend takes no new clients.
    pub fn drain_acknowledged(&mut self, pool: u8, backend: BackendId, now: Moment) {
        open(self.draining.entry((pool, backend)).or_default(), now);
    }

    /// The backend is about to be enabled again.
    pub fn drain_revoked(&mut self, pool: u8, backend: BackendId, now: Moment) {
        close(self.draining.entry((pool, backend)).or_default(), now);
    }

    /// The instance is about to be taken out of service.
    pub fn instance_leaves(&mut self, instance: InstanceId, outage: Outage, now: Moment) {
        self.outages.entry(instance).or_default().push((Span::open(now), outage));
    }

    /// The instance said that it is ready again.
    pub fn instance_is_back(&mut self, instance: InstanceId, now: Moment) {
        for (span, _) in self.outages.entry(instance).or_default() {
            span.until.get_or_insert(now);
        }
    }

    /// Something is about to be done.
    pub fn event_begins(&mut self, now: Moment) -> EventId {
        self.events.push(Span::open(now));
        EventId(self.events.len() - 1)
    }

    /// It was done and has settled; `until` may lie a little ahead, for what is still on its way.
    pub fn event_ends(&mut self, event: EventId, until: Moment) {
        if let Some(span) = self.events.get_mut(event.0) {
            span.until.get_or_insert(until);
        }
    }

    /// Why the instance may have been out of service at some moment of `start..=end`. Behind a VIP, where nobody knows which
    /// instance it was: because one had left so lately that the network may still have led there, or because all had.
    pub fn outage(&self, instance: InstanceId, start: Moment, end: Moment) -> Option<Outage> {
        if instance == InstanceId::ANY {
            return self.outage_of_any(start, end);
        }
        let outages = self.outages.get(&instance)?;
        let touched = |kind: Outage| outages.iter().any(|(span, outage)| *outage == kind && span.touches(start, end));
        if touched(Outage::Down) {
            Some(Outage::Down)
        } else if touched(Outage::CutOff) {
            Some(Outage::CutOff)
        } else {
            None
        }
    }

    fn outage_of_any(&self, start: Moment, end: Moment) -> Option<Outage> {
        let mut all = self.outages.values().flatten();
        let lately = |(span, _): &&(Span, Outage)| span.from <= end && span.from.plus(WITHDRAWAL) >= start;
        let down = |outages: &&Vec<(Span, Outage)>| outages.iter().any(|(span, _)| span.touches(start, end));
        match all.find(lately) {
            Some((_, outage)) => Some(*outage),
            None if self.instances > 0 && self.outages.values().filter(down).count() == self.instances => {
                Some(Outage::Down)
            }
            None => None,
        }
    }

    /// Whether something was being done at some moment of `start..=end`.
    pub fn in_event(&self, start: Moment, end: Moment) -> bool {
        self.events.iter().any(|span| span.touches(start, end))
    }

    /// Whether an honest fleet can have decided `first` and, then or later, `second`.
    pub fn may_follow(&self, pool: u8, first: &Answer, second: &Answer) -> bool {
        if first.start > second.end {
            return false;
        }
        first.backend == second.backend || self.was_away(pool, first.backend, first.start, second.end)
    }

    /// Whether the backend should not have had this client: asked for well after the fleet took it out of the choice.
    pub fn strays(&self, pool: u8, answer: &Answer, client_born: Moment) -> bool {
        let told = |spans: Option<&Vec<Span>>, asked: Moment| {
            spans.is_some_and(|spans| {
                spans.iter().any(|span| {
                    span.from.plus(EFFECT_GRACE) < asked && span.until.is_none_or(|until| until > answer.end)
                })
            })
        };
        let key = (pool, answer.backend);
        told(self.removed.get(&key), answer.start) || told(self.draining.get(&key), client_born)
    }

    fn was_away(&self, pool: u8, backend: BackendId, from: Moment, until: Moment) -> bool {
        self.away.get(&(pool, backend)).is_some_and(|spans| spans.iter().any(|span| span.touches(from, until)))
    }
}

fn open(spans: &mut Vec<Span>, now: Moment) {
    if spans.last().is_none_or(|span| span.until.is_some()) {
        spans.push(Span::open(now));
    }
}

fn close(spans: &mut [Span], now: Moment) {
    if let Some(span) = spans.last_mut() {
        span.until.get_or_insert(now);
    }
}

/// An acknowledged removal or drain must show everywhere within this time.
pub const EFFECT_GRACE: Duration = Duration::from_secs(5);
