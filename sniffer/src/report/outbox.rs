//! What a sniffer has to tell, until an instance says that it is committed: which events go into which batch, which batch is
//! sent when, and what an answer means. Pure: time comes in as milliseconds, bytes leave by [`Outbox::poll_send`].
//!
//! ```text
//!            put                    close                    send                   acked
//! event ──────────> pending ──────────────────> unanswered ─────────> outstanding ─────────> counted, forgotten
//!          coalesced │ shed: updates, ends,         ^                     │
//!                    v begins                       └─────────────────────┘ refused, stream lost
//! ```
//!
//! What must stay true:
//! 1. Batches of a shard carry consecutive numbers from 1 on, and a number keeps its events however often it is sent: the
//!    fleet counts each number once. Only where the fleet has forgotten this sniffer are batches numbered anew.
//! 2. The first batch of each shard is empty, and events leave only when all of these are acknowledged. So whether an earlier
//!    life had a higher epoch is known before anything counts in this one.
//! 3. A refusal stops its shard until nothing of it is outstanding. Then its first batch goes alone, so that its answer can
//!    not be about the past.
//! 4. Each event offered is in one place: `offered = acked + coalesced + pending + in flight + shed + malformed + orphaned`.

mod pending;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use flow::wire::encode_report;
use serde::Serialize;

use super::seen::{Rank, Seen};
use pending::{Pending, Put};

/// How an outbox works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who tells.
    pub name: String,
    /// Its life.
    pub epoch: u64,
    /// What makes its batches.
    pub closing: Closing,
    /// Most events that wait; beyond it they are shed. By [`Closing::BySize`] most events of batches, and none is shed: who
    /// offers goes by [`Outbox::room`].
    pub pending_max: usize,
    /// Most events of a batch, at most [`flow::flows::EVENTS_PER_BATCH_MAX`].
    pub batch_max: usize,
}

/// When a batch is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// By size, or [`BATCH_AGE_MS`] after its first event, once it can be sent: until then its events are made one with newer
    /// ones. The epoch rises if an earlier life had a higher one.
    ByAge,
    /// By size alone, so that equal events make equal batches whenever they are sent: what is told a second time, in the
    /// same epoch, counts once.
    BySize,
}

/// What an instance says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its fleet.
    pub fleet: Vec<u8>,
    /// How many shards the fleet's table has.
    pub shards: u32,
    /// Most batches of one shard that may wait for their answer.
    pub in_flight: u32,
}

/// An instance that nothing can be told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// It is of another fleet than the first.
    #[error("it is of another fleet than the one that was told before")]
    OtherFleet,
    /// It does not know its fleet yet.
    #[error("it belongs to no fleet yet")]
    NoFleet,
    /// A number that makes no sense.
    #[error("its hello makes no sense: {0} shards, {1} batches in flight")]
    Senseless(u32, u32),
}

/// What an instance says of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It counts.
    Acked {
        /// It came before.
        again: bool,
    },
    /// It does not: that of this number comes next.
    Expected(u64),
    /// It does not: this other life began since.
    OtherEpoch(u64),
    /// It does not, for now.
    Later(String),
    /// It never will.
    Malformed(String),
}

/// Nothing more can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// There are two of one name, or a life ended only seemingly.
    #[error(
        "another sniffer of this name has begun since (epoch {other}, this one's is {own}): give one of them another --name"
    )]
    OtherLife {
        /// Its epoch.
        other: u64,
        /// Ours.
        own: u64,
    },
    /// What is said makes no sense, even without the events.
    #[error("the fleet refuses what this version says: {0}")]
    Refused(String),
    /// Nobody can tell it of flows.
    #[error("{0}")]
    NoTable(String),
    /// Some of a file was told to the one before, and the rest alone would be no whole.
    #[error("the fleet was founded anew while it was told: read the file once more")]
    NewFleet,
}

/// What became of the events that were offered, and of batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Events offered: the sum of all down to `orphaned`.
    pub offered: u64,
    /// They are committed.
    pub acked: u64,
    /// A newer one of the same flow took their place.
    pub coalesced: u64,
    /// They wait.
    pub pending: u64,
    /// They are in batches without an answer.
    pub in_flight: u64,
    /// They were given up for want of room.
    pub shed: Shed,
    /// The fleet did not understand them.
    pub malformed: u64,
    /// They were in batches for a fleet that was founded anew before it answered.
    pub orphaned: u64,
    /// Batches that are committed, empty ones included.
    pub batches_acked: u64,
    /// Of these, those that had come before.
    pub batches_again: u64,
    /// How often a batch was sent once more.
    pub batches_resent: u64,
    /// How often a batch was refused, for whatever reason.
    pub batches_refused: u64,
    /// Answers to what nobody had asked.
    pub strays: u64,
}

/// Events that were given up, in the order in which they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shed {
    /// The flow goes on: a later one says it all.
    pub updates: u64,
    /// The flow is over, which the fleet will see by its silence.
    pub ends: u64,
    /// The flow was not told of before.
    pub begins: u64,
}

impl Shed {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.updates + self.ends + self.begins
    }

    /// One more.
    pub(super) fn count(&mut self, rank: Rank) {
        match rank {
            Rank::Update => self.updates += 1,
            Rank::End => self.ends += 1,
            Rank::Begin => self.begins += 1,
        }
    }
}

/// A batch to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Of which shard.
    pub shard: u32,
    /// A report, as [`encode_report`] makes it.
    pub report: Vec<u8>,
}

/// See the module.
pub struct Outbox {
    config: Config,
    pending: Pending,
    /// None before the first hello.
    shards: Vec<Shard>,
    fleet: Vec<u8>,
    /// Most batches of a shard that may be outstanding; 0 without a connection.
    window: usize,
    /// What is left is sent whatever its size.
    flushing: bool,
    /// When the next batch may be sent that was sent before.
    resend_at_ms: u64,
    /// The shard that is looked at first.
    turn: usize,
    fatal: Option<Fatal>,
    trouble: Option<String>,
    counters: Counters,
}

#[derive(Default)]
struct Shard {
    /// Without an answer, in the order of their numbers, which are consecutive.
    batches: VecDeque<Batch>,
    /// The number of the next batch.
    next: u64,
    /// Its first batch is acknowledged.
    begun: bool,
    /// A batch was refused: nothing is sent until all outstanding ones are answered.
    refused: bool,
    /// One batch at a time, until one is acknowledged.
    alone: bool,
    /// The number that the fleet wants in place of the first one's.
    renumber: Option<u64>,
    /// Refusals since the last acknowledgement.
    refusals: u32,
    /// Nothing is sent before.
    pause_until_ms: u64,
}

struct Batch {
    sequence: u64,
    events: usize,
    bytes: Vec<u8>,
    /// When it was sent on this connection, if it waits for an answer.
    sent_ms: Option<u64>,
    /// It was sent at some time.
    known: bool,
}

impl Batch {
    fn new(sequence: u64, events: usize, bytes: Vec<u8>) -> Self {
        Self { sequence, events, bytes, sent_ms: None, known: false }
    }
}

impl Shard {
    fn first_of_life() -> Self {
        Self { batches: [Batch::new(1, 0, Vec::new())].into(), next: 2, ..Self::default() }
    }

    fn outstanding(&self) -> usize {
        self.batches.iter().filter(|batch| batch.sent_ms.is_some()).count()
    }

    /// Nothing of a refusal is on its way any more: goes on with its first batch, after a pause.
    fn settle(&mut self, now_ms: u64) {
        if !self.refused || self.outstanding() > 0 {
            return;
        }
        if let Some(first) = self.renumber.take() {
            for (sequence, batch) in (first..).zip(&mut self.batches) {
                batch.sequence = sequence;
            }
            self.next = first + self.batches.len() as u64;
        }
        (self.refused, self.alone) = (false, true);
        self.pause_until_ms = now_ms + (RETRY_PAUSE_MS << self.refusals.min(16)).min(RETRY_PAUSE_MS_MAX);
        self.refusals = self.refusals.saturating_add(1);
    }
}

impl Outbox {
    /// Nothing to tell yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            pending: Pending::new(),
            shards: Vec::new(),
            fleet: Vec::new(),
            window: 0,
            flushing: false,
            resend_at_ms: 0,
            turn: 0,
            fatal: None,
            trouble: None,
            counters: Counters::default(),
        }
    }

    /// How many events may be offered without any being shed. By [`Closing::BySize`] none before the first hello.
    #[must_use]
    pub fn room(&self) -> usize {
        match self.config.closing {
            Closing::ByAge => self.config.pending_max.saturating_sub(self.pending.len()),
            Closing::BySize if self.shards.is_empty() => 0,
            Closing::BySize => self.config.pending_max.saturating_sub(self.in_flight()),
        }
    }

    /// Takes an event in.
    pub fn offer(&mut self, now_ms: u64, seen: &Seen) {
        self.counters.offered += 1;
        match self.pending.put(now_ms, seen) {
            Put::Coalesced => self.counters.coalesced += 1,
            Put::Waits(shard) => match self.config.closing {
                Closing::BySize if self.is_full(shard) => self.close(shard),
                Closing::ByAge if self.pending.len() > self.config.pending_max => {
                    if let Some(rank) = self.pending.shed() {
                        self.counters.shed.count(rank);
                    }
                }
                _ => {}
            },
        }
    }

    /// All that waits is to be sent, whatever its size and age.
    pub fn flush(&mut self) {
        self.flushing = true;
    }

    /// A connection is there.
    ///
    /// # Errors
    /// Nothing can be told to who says that; there is no connection then.
    pub fn handle_hello(&mut self, hello: Hello) -> Result<(), BadHello> {
        debug_assert_eq!(self.window, 0, "the one before was given up");
        let Hello { fleet, shards, in_flight } = hello;
        if shards == 0 || shards > SHARDS_MAX || in_flight == 0 {
            return Err(BadHello::Senseless(shards, in_flight));
        }
        if fleet.is_empty() {
            return Err(BadHello::NoFleet);
        }
        if self.shards.is_empty() {
            self.fleet = fleet;
            self.shards = (0..shards).map(|_| Shard::first_of_life()).collect();
            self.pending.split(self.shards.len());
        } else if self.fleet != fleet || self.shards.len() != shards as usize {
            return Err(BadHello::OtherFleet);
        }
        self.window = IN_FLIGHT_MAX.min(in_flight as usize);
        Ok(())
    }

    /// An instance said what it would say again and again.
    pub fn handle_refusal(&mut self, fatal: Fatal) {
        self.fatal = Some(fatal);
    }

    /// The fleet was founded anew, and knows nothing: the next hello begins from the beginning. Flows that go on are told of
    /// with their next event, whole. There is no connection.
    pub fn handle_new_fleet(&mut self) {
        debug_assert_eq!(self.window, 0, "it said hello in vain");
        if self.config.closing == Closing::BySize {
            self.fatal = Some(Fatal::NewFleet);
            return;
        }
        self.counters.orphaned += self.in_flight() as u64;
        self.shards.clear();
        (self.turn, self.resend_at_ms, self.trouble) = (0, 0, None);
    }

    /// The connection is gone: what was not answered is sent again on the next one.
    pub fn handle_disconnected(&mut self, now_ms: u64) {
        self.window = 0;
        for shard in &mut self.shards {
            for batch in &mut shard.batches {
                batch.sent_ms = None;
            }
            shard.settle(now_ms);
        }
    }

    /// An instance answered to a batch that was sent on this connection.
    pub fn handle_answer(&mut self, now_ms: u64, shard: u32, epoch: u64, sequence: u64, answer: Answer) {
        let own = self.config.epoch;
        let Some(place) = self.shards.get_mut(shard as usize).filter(|_| epoch == own) else {
            self.counters.strays += 1;
            return;
        };
        let front = place.batches.front().map_or(u64::MAX, |batch| batch.sequence);
        let at = sequence.checked_sub(front).and_then(|at| usize::try_from(at).ok());
        let Some((at, batch)) = at.and_then(|at| Some((at, place.batches.get_mut(at)?))) else {
            self.counters.strays += 1;
            return;
        };
        if batch.sent_ms.take().is_none() {
            self.counters.strays += 1;
            return;
        }
        if let Answer::Acked { again } = answer {
            // All before it count too: numbers are taken in order.
            for batch in place.batches.drain(..=at) {
                self.counters.acked += batch.events as u64;
                self.counters.batches_acked += 1;
            }
            self.counters.batches_again += u64::from(again);
            (place.begun, place.refusals) = (true, 0);
            self.trouble = None;
            place.alone &= place.refused;
            place.settle(now_ms);
            return;
        }
        self.counters.batches_refused += 1;
        place.refused = true;
        match answer {
            Answer::Acked { .. } => {}
            // Of a batch that was not alone it may be about what was on its way with it, and an instance may lag behind.
            Answer::Expected(number) => {
                let forgotten = place.alone && place.refusals >= FORGOTTEN_REFUSALS && number < sequence;
                place.renumber = forgotten.then_some(number.max(1));
                self.trouble = Some(format!("shard {shard} expected batch {number}, not {sequence}"));
            }
            Answer::Later(why) => self.trouble = Some(why),
            Answer::Malformed(why) if batch.events == 0 => self.fatal = Some(Fatal::Refused(why)),
            Answer::Malformed(why) => {
                // Its number stays, empty: the ones behind it may be on their way to the log already.
                self.counters.malformed += batch.events as u64;
                (batch.events, batch.bytes) = (0, Vec::new());
                self.trouble = Some(why);
            }
            Answer::OtherEpoch(other) => return self.meet_other_life(other),
        }
        place.settle(now_ms);
    }

    /// Begins again with a higher epoch while nothing counts in this one.
    fn meet_other_life(&mut self, other: u64) {
        let own = self.config.epoch;
        let begun = self.config.closing == Closing::BySize || self.shards.iter().all(|shard| shard.begun);
        if begun || other <= own || other == u64::MAX {
            self.fatal = Some(Fatal::OtherLife { other, own });
            return;
        }
        self.config.epoch = other + 1;
        self.shards.fill_with(Shard::first_of_life);
    }

    /// The next batch to send, if there is a connection and one may be sent now. To be called until there is none.
    pub fn poll_send(&mut self, now_ms: u64) -> Option<Outgoing> {
        if self.window == 0 || self.fatal.is_some() {
            return None;
        }
        let begun = self.shards.iter().all(|shard| shard.begun);
        for step in 0..self.shards.len() {
            let shard = (self.turn + step) % self.shards.len();
            if !self.may_send(shard, begun) || now_ms < self.shards[shard].pause_until_ms {
                continue;
            }
            if self.waiting(shard).is_none() && begun && self.is_ready(shard, now_ms) {
                self.close(shard);
            }
            if let Some(at) = self.waiting(shard)
                && let Some(outgoing) = self.send(now_ms, shard, at)
            {
                self.turn = (shard + 1) % self.shards.len();
                return Some(outgoing);
            }
        }
        None
    }

    /// When to ask again what to send, unless something happens before.
    #[must_use]
    pub fn poll_time(&self, now_ms: u64) -> Option<u64> {
        if self.window == 0 || self.fatal.is_some() {
            return None;
        }
        let begun = self.shards.iter().all(|shard| shard.begun);
        let times = (0..self.shards.len()).flat_map(|shard| {
            let place = &self.shards[shard];
            let answer = place.batches.iter().filter_map(|batch| batch.sent_ms).min().map(|sent| sent + ANSWER_MS_MAX);
            let send = self.may_send(shard, begun).then(|| match self.waiting(shard) {
                Some(at) if place.batches[at].known => Some(self.resend_at_ms.max(place.pause_until_ms)),
                Some(_) => Some(place.pause_until_ms),
                None if !begun => None,
                None if self.is_ready(shard, now_ms) => Some(place.pause_until_ms),
                None if self.config.closing == Closing::BySize => None,
                None => self.pending.oldest_ms(shard).map(|oldest| place.pause_until_ms.max(oldest + BATCH_AGE_MS)),
            });
            [answer, send.flatten()]
        });
        times.flatten().min()
    }

    /// Whether an answer is overdue: the connection is as good as gone.
    #[must_use]
    pub fn is_stalled(&self, now_ms: u64) -> bool {
        let mut sent = self.shards.iter().flat_map(|shard| &shard.batches).filter_map(|batch| batch.sent_ms);
        sent.any(|sent| now_ms >= sent + ANSWER_MS_MAX)
    }

    /// Whether all events that were offered are answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.pending.len() + self.in_flight() == 0
    }

    /// Why nothing more can be told.
    #[must_use]
    pub fn fatal(&self) -> Option<&Fatal> {
        self.fatal.as_ref()
    }

    /// What was said of the last batch that was refused.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Its life: it may have risen.
    #[cfg(test)]
    fn epoch(&self) -> u64 {
        self.config.epoch
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters { pending: self.pending.len() as u64, in_flight: self.in_flight() as u64, ..self.counters }
    }

    fn in_flight(&self) -> usize {
        self.shards.iter().flat_map(|shard| &shard.batches).map(|batch| batch.events).sum()
    }

    /// Whether a batch of the shard may leave, as far as those before it are concerned.
    fn may_send(&self, shard: usize, begun: bool) -> bool {
        let place = &self.shards[shard];
        let window = if place.alone { 1 } else { self.window };
        (begun || !place.begun) && !place.refused && place.outstanding() < window
    }

    /// Its first batch that is to be sent. Before the beginning there is only the empty one, or it is the first.
    fn waiting(&self, shard: usize) -> Option<usize> {
        let place = &self.shards[shard];
        let at = place.batches.iter().position(|batch| batch.sent_ms.is_none())?;
        (at == 0 || place.begun).then_some(at)
    }

    fn send(&mut self, now_ms: u64, shard: usize, at: usize) -> Option<Outgoing> {
        let batch = self.shards[shard].batches.get_mut(at)?;
        if batch.known {
            if now_ms < self.resend_at_ms {
                return None;
            }
            self.resend_at_ms = now_ms + 1_000 / RESENDS_PER_SECOND_MAX;
            self.counters.batches_resent += 1;
        }
        (batch.known, batch.sent_ms) = (true, Some(now_ms));
        let report = encode_report(&self.config.name, self.config.epoch, batch.sequence, &batch.bytes);
        Some(Outgoing { shard: shard as u32, report })
    }

    fn is_full(&self, shard: usize) -> bool {
        self.pending.count(shard) >= self.config.batch_max || self.pending.bytes(shard) >= BATCH_BYTES_MAX
    }

    fn is_ready(&self, shard: usize, now_ms: u64) -> bool {
        let Some(oldest) = self.pending.oldest_ms(shard) else { return false };
        let old = self.config.closing == Closing::ByAge && now_ms >= oldest + BATCH_AGE_MS;
        self.flushing || old || self.is_full(shard)
    }

    fn close(&mut self, shard: usize) {
        if let Some(taken) = self.pending.take(shard, self.config.batch_max, BATCH_BYTES_MAX) {
            let place = &mut self.shards[shard];
            place.batches.push_back(Batch::new(place.next, taken.events, taken.bytes));
            place.next += 1;
        }
    }

    /// Panics where something of the module's list does not hold. For tests.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        self.pending.check_invariants();
        let counted = self.counters();
        let sum = counted.acked + counted.coalesced + counted.pending + counted.in_flight;
        let lost = counted.shed.total() + counted.malformed + counted.orphaned;
        assert_eq!(sum + lost, counted.offered, "each event is in one place");
        let most = match self.config.closing {
            Closing::ByAge => self.config.pending_max,
            Closing::BySize => self.shards.len() * self.config.batch_max,
        };
        assert!(self.pending.len() <= most, "what waits is bounded");
        for shard in &self.shards {
            let first = shard.next - shard.batches.len() as u64;
            for (sequence, batch) in (first..).zip(&shard.batches) {
                assert_eq!(batch.sequence, sequence, "numbers are consecutive");
                assert!(batch.events <= self.config.batch_max && batch.bytes.len() <= BATCH_BYTES_MAX);
            }
            assert!(shard.outstanding() <= IN_FLIGHT_MAX, "few are outstanding");
            assert!(
                !shard.refused || shard.outstanding() > 0 || self.fatal.is_some(),
                "a refusal ends with the last answer"
            );
            assert!(shard.begun || shard.batches.front().is_some_and(|batch| batch.events == 0));
        }
    }
}

/// Most events that wait, where nothing else is said. One takes about 200 bytes.
pub const PENDING_MAX: usize = 200_000;

/// Most bytes of a batch's events.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// A batch leaves so many milliseconds after its first event came.
pub const BATCH_AGE_MS: u64 = 20;

/// Most batches of one shard that wait for their answers, whatever the instance allows.
pub const IN_FLIGHT_MAX: usize = 4;

/// Most shards of a table.
pub const SHARDS_MAX: u32 = 1_024;

/// Batches that were sent before are sent again at this rate at most, over all shards.
pub const RESENDS_PER_SECOND_MAX: u64 = 200;

/// An instance that has not answered for so long is given up, in milliseconds.
pub const ANSWER_MS_MAX: u64 = 10_000;

/// After so many refusals in a row a batch that goes alone is numbered as the fleet wants it: the fleet has forgotten.
pub const FORGOTTEN_REFUSALS: u32 = 3;

/// How long a shard pauses after a refusal, doubled with each in a row, and the longest pause, in milliseconds.
pub const RETRY_PAUSE_MS: u64 = 50;
/// See [`RETRY_PAUSE_MS`].
pub const RETRY_PAUSE_MS_MAX: u64 = 1_000;
