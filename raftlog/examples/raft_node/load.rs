//! Who asked for a proposal, and the load that the node makes for itself: a closed loop, so many in flight.

use std::time::Instant;

use ahash::AHashMap;
use bytes::Bytes;
use hdrhistogram::Histogram;
use raftlog::GroupId;
use tokio::sync::oneshot;

use crate::{Result, serve::Client, table::BLANK};

/// Who waits for a proposal.
pub enum Asker {
    /// The load in this process; since when.
    Load(Instant),
    /// A unary call.
    Call(oneshot::Sender<bool>),
    /// A stream, by its own number for it.
    Stream(Client, u64),
    /// An order; nobody waits.
    Nobody,
}

/// Proposals under way, by token.
#[derive(Default)]
pub struct Askers {
    waiting: AHashMap<u64, Asker>,
    next: u64,
}

impl Askers {
    /// Notes one; its token.
    pub fn add(&mut self, asker: Asker) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, asker);
        self.next
    }

    /// Whose proposal this is, once.
    pub fn take(&mut self, token: u64) -> Option<Asker> {
        self.waiting.remove(&token)
    }

    /// Forgets those of the load since before `long_ago`: a change of leaders may have lost them. How many.
    pub fn give_up(&mut self, long_ago: Instant) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|_, asker| !matches!(asker, Asker::Load(since) if *since < long_ago));
        before - self.waiting.len()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// The load, and what came of it.
pub struct Load {
    /// What is proposed, again and again.
    pub data: Bytes,
    /// Whether it goes on.
    pub on: bool,
    /// Proposals that are to be made with the next round.
    pub due: usize,
    groups: u32,
    turn: u32,
    /// From proposal to apply here, in nanoseconds, since the last mark.
    latency: Histogram<u64>,
    refused: u64,
    /// Refused ones, to be made again with the next tick.
    pub refused_due: usize,
    since: Instant,
}

impl Load {
    /// A load of `in_flight` proposals of `bytes` bytes each, over all groups in turn.
    ///
    /// # Errors
    /// If there is no such histogram.
    pub fn new(in_flight: usize, bytes: usize, groups: u32) -> Result<Self> {
        Ok(Self {
            data: vec![BLANK; bytes.max(1)].into(),
            on: true,
            due: in_flight,
            groups,
            turn: 0,
            latency: Histogram::new_with_bounds(LATENCY_NANOS_MIN, LATENCY_NANOS_MAX, 3)?,
            refused: 0,
            refused_due: 0,
            since: Instant::now(),
        })
    }

    /// One is committed and applied here.
    pub fn done(&mut self, since: Instant, now: Instant) {
        self.latency.saturating_record(now.duration_since(since).as_nanos() as u64);
        self.due += usize::from(self.on);
    }

    /// One was refused; it is made again with the next tick.
    pub fn refuse(&mut self) {
        self.refused += 1;
        self.refused_due += usize::from(self.on);
    }

    /// The group whose turn it is.
    pub fn group(&mut self) -> GroupId {
        self.turn = (self.turn + 1) % self.groups;
        GroupId(self.turn)
    }

    /// The figures since the last mark, which is now.
    pub fn mark(&mut self) -> serde_json::Value {
        let micros = |quantile: f64| self.latency.value_at_quantile(quantile) as f64 / 1e3;
        let figures = serde_json::json!({
            "seconds": self.since.elapsed().as_secs_f64(),
            "commits": self.latency.len(),
            "p50_us": micros(0.5),
            "p99_us": micros(0.99),
            "p999_us": micros(0.999),
            "max_us": self.latency.max() as f64 / 1e3,
            "refused": self.refused,
        });
        self.latency.reset();
        self.refused = 0;
        self.since = Instant::now();
        figures
    }
}

const LATENCY_NANOS_MIN: u64 = 1000;
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;
