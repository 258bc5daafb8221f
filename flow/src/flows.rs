//! The table of one flow group: what sniffers saw on the wire, and what others say about it.
//!
//! What must stay true:
//! 1. Apply reads nothing but this table, the entry, its index and its log time: equal logs make equal tables.
//! 2. A batch of a sniffer counts once: its numbers are consecutive within an epoch of the sniffer, and one that was applied
//!    is answered with `Again`. Counters are those since the flow began and never differences, so a copy changes nothing.
//! 3. What several sniffers see of one flow is one record: each has its own counters in it.
//! 4. A record leaves by log time, on all replicas with the same entry; at most [`EXPIRE_PER_ENTRY`] with each.

mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
    sync::Arc,
};

use siphasher::sip::SipHasher24;

pub use record::{
    Counts, End, FlowRecord, LABEL_BYTES_MAX, LABELS_BYTES_MAX, LABELS_MAX, Observation, Observed, RECORD_BYTES_MAX,
    Standing, Verdict,
};

use crate::{
    ids::{DIGEST_KEY, LogTime, Revision},
    plant::{self, Plant},
};

/// A flow: [`crate::tuple::FlowKey::id`], or the id of its 7-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// A sniffer: the hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnifferId(pub u64);

impl SnifferId {
    /// That of a name: SipHash-2-4 of its bytes under a published key.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let mut hasher = SipHasher24::new_with_key(b"rocinante-sniffr");
        hasher.write(name.as_bytes());
        Self(hasher.finish())
    }
}

/// A command of a flow group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowCommand {
    /// What a sniffer saw.
    Report {
        /// Who.
        sniffer: SnifferId,
        /// In which life: a later one is higher. What an earlier life still says is refused while the later one reports.
        epoch: u64,
        /// The number of the batch within the life, from 1 on.
        sequence: u64,
        /// The sniffer's name, of at most [`NAME_BYTES_MAX`] bytes.
        name: Box<str>,
        /// What it saw, at most [`EVENTS_PER_BATCH_MAX`].
        events: Vec<Observed>,
    },
    /// Writes labels and a verdict, if the record is still of `revision`.
    Annotate {
        /// Of which flow.
        flow: FlowId,
        /// The record's revision.
        revision: Revision,
        /// Names and values; an empty value takes the label away.
        labels: Vec<(String, String)>,
        /// What shall be done with it; none: as it is.
        verdict: Option<Verdict>,
    },
    /// Lets log time advance, so that records expire.
    Tick,
}

/// What applying a command answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowOutcome {
    /// It is done; the record, or the sniffer, is of this revision now.
    Done(Revision),
    /// The batch was applied before.
    Again,
    /// A batch is missing before this one: that of this number comes next.
    Gap(u64),
    /// The sniffer has begun another life since, and reported lately.
    OldEpoch(u64),
    /// There is no such flow.
    NoFlow,
    /// The record has changed since.
    Changed(Revision),
    /// More labels than a record may have, or longer ones.
    TooMany,
    /// There are [`SNIFFERS_MAX`] that reported lately.
    TooManySniffers,
    /// This version does not know the command.
    Unreadable,
}

/// How far a sniffer's reports are applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reporter {
    /// Its name.
    pub name: Arc<str>,
    /// Its life.
    pub epoch: u64,
    /// The last batch.
    pub sequence: u64,
    /// The log time of it.
    pub at: LogTime,
}

/// Counted since the table began, the same on all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowCounters {
    /// Records that began.
    pub begun: u64,
    /// Records that expired.
    pub expired: u64,
    /// Records that gave way because there were too many.
    pub evicted: u64,
    /// Batches that came again.
    pub again: u64,
    /// Observations that found no place in their record.
    pub unplaced: u64,
}

/// Index of expiry, kept by the one who applies and not by readers.
pub type Expiry = BTreeSet<(LogTime, FlowId)>;

type TableHasher = ahash::RandomState;

/// One flow group's state. A clone is cheap (shared structure).
#[derive(Clone, Debug)]
pub struct FlowTable {
    pub(crate) applied: Revision,
    pub(crate) time: LogTime,
    /// Behind pointers: what readers hold makes a change copy the map's nodes, and not the records beside it.
    pub(crate) flows: imbl::GenericHashMap<FlowId, Arc<FlowRecord>, TableHasher, imbl::shared_ptr::DefaultSharedPtr>,
    /// The records of 7-tuples, by the id of their 5-tuple.
    sevens: imbl::OrdMap<(FlowId, FlowId), ()>,
    /// Flows by the revision of their last change: what has changed since when.
    changes: imbl::OrdMap<(Revision, FlowId), ()>,
    /// Flows that left, by the revision at which they did: the newest of them.
    pub(crate) departures: imbl::OrdMap<(Revision, FlowId), ()>,
    /// Of those that left up to there some are forgotten.
    pub(crate) forgotten: Revision,
    /// How many ever left.
    pub(crate) left: u64,
    pub(crate) sniffers: imbl::OrdMap<SnifferId, Reporter>,
    pub(crate) counters: FlowCounters,
    limits: FlowLimits,
    /// Sum of the records' hashes.
    digest: u64,
}

/// How much a table may hold. The same on all replicas: part of the fleet's founding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowLimits {
    /// Most records.
    pub flows: u64,
    /// How long a record stays after it was told of last, in milliseconds of log time.
    pub ttl_ms: u64,
    /// How long it stays after the flow's end.
    pub ended_ttl_ms: u64,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self { flows: 250_000, ttl_ms: 180_000, ended_ttl_ms: 60_000 }
    }
}

/// A change of a table, for who follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The record is as it is now.
    Now(Revision, FlowId),
    /// It left.
    Left(Revision, FlowId),
}

impl Change {
    /// Of which entry.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Now(revision, _) | Self::Left(revision, _) => *revision,
        }
    }
}

impl FlowTable {
    /// An empty table.
    #[must_use]
    pub fn new(limits: FlowLimits) -> Self {
        Self {
            applied: Revision(0),
            time: LogTime(0),
            flows: imbl::GenericHashMap::with_hasher(TableHasher::new()),
            sevens: imbl::OrdMap::new(),
            changes: imbl::OrdMap::new(),
            departures: imbl::OrdMap::new(),
            forgotten: Revision(0),
            left: 0,
            sniffers: imbl::OrdMap::new(),
            counters: FlowCounters::default(),
            limits,
            digest: 0,
        }
    }

    /// How much it may hold.
    #[must_use]
    pub fn limits(&self) -> FlowLimits {
        self.limits
    }

    /// It is to hold as much from now on.
    pub fn set_limits(&mut self, limits: FlowLimits) {
        self.limits = limits;
    }

    /// The index of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> Revision {
        self.applied
    }

    /// The log time of the last entry applied.
    #[must_use]
    pub fn time(&self) -> LogTime {
        self.time
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// A record.
    #[must_use]
    pub fn get(&self, flow: FlowId) -> Option<&FlowRecord> {
        self.flows.get(&flow).map(Arc::as_ref)
    }

    /// The records of a 5-tuple: its own, and those of its 7-tuples.
    pub fn of_five(&self, five: FlowId) -> impl Iterator<Item = (FlowId, &FlowRecord)> {
        let sevens = self.sevens.range((five, FlowId(0))..=(five, FlowId(u64::MAX))).map(|((_, flow), ())| *flow);
        std::iter::once(five).chain(sevens).filter_map(|flow| Some((flow, self.get(flow)?)))
    }

    /// All records, the one that changed last in front.
    pub fn newest(&self) -> impl Iterator<Item = (FlowId, &FlowRecord)> {
        self.changes.iter().rev().filter_map(|((_, flow), ())| Some((*flow, self.get(*flow)?)))
    }

    /// The records that were changed last by an entry before this one, the last in front: the next page.
    pub fn newest_before(&self, before: (Revision, FlowId)) -> impl Iterator<Item = (FlowId, &FlowRecord)> {
        let older = self.changes.range(..before).rev();
        older.filter_map(|((_, flow), ())| Some((*flow, self.get(*flow)?)))
    }

    /// What changed after that entry, in order, the changes of one entry together, about `most` of them. All that changed and
    /// is still there is among them; of what left, what is not forgotten ([`FlowTable::missed_after`]).
    #[must_use]
    pub fn changes_after(&self, revision: Revision, most: usize) -> Vec<Change> {
        let after = (Revision(revision.0.saturating_add(1)), FlowId(0))..;
        let mut now = self.changes.range(after.clone()).map(|((at, flow), ())| Change::Now(*at, *flow)).peekable();
        let mut left = self.departures.range(after).map(|((at, flow), ())| Change::Left(*at, *flow)).peekable();
        let mut found: Vec<Change> = Vec::new();
        loop {
            let left_first = match (now.peek(), left.peek()) {
                // A record that left and came again with the same entry is there.
                (Some(a), Some(b)) => b.revision() <= a.revision(),
                (now, _) => now.is_none(),
            };
            let Some(next) = (if left_first { left.next() } else { now.next() }) else { break };
            if found.len() >= most && found.last().is_some_and(|last| last.revision() != next.revision()) {
                break;
            }
            found.push(next);
        }
        found
    }

    /// How many records left after that entry and are forgotten, so that [`FlowTable::changes_after`] does not tell of them;
    /// `left`: how many had left by then ([`FlowTable::left`]).
    #[must_use]
    pub fn missed_after(&self, revision: Revision, left: u64) -> u64 {
        if revision >= self.forgotten {
            return 0;
        }
        self.left.saturating_sub(left).saturating_sub(self.remembered_after(revision))
    }

    /// Whether records may have left after that entry that are forgotten.
    #[must_use]
    pub fn has_forgotten_after(&self, revision: Revision) -> bool {
        revision < self.forgotten
    }

    /// How many records that left after that entry are remembered.
    #[must_use]
    pub fn remembered_after(&self, revision: Revision) -> u64 {
        let after = (Revision(revision.0.saturating_add(1)), FlowId(0))..;
        self.departures.range(after).count() as u64
    }

    /// How many records have left since the table began.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// How far a sniffer's reports are applied.
    #[must_use]
    pub fn sniffer(&self, id: SnifferId) -> Option<&Reporter> {
        self.sniffers.get(&id)
    }

    /// How far each sniffer's reports are applied.
    pub fn sniffers(&self) -> impl Iterator<Item = (&SnifferId, &Reporter)> {
        self.sniffers.iter()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> FlowCounters {
        self.counters
    }

    /// A digest of everything in the table; equal on all replicas at equal index.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = SipHasher24::new_with_key(DIGEST_KEY);
        let counted = self.counters;
        for number in [
            self.applied.0,
            self.time.0,
            self.forgotten.0,
            self.left,
            self.digest,
            counted.begun,
            counted.expired,
            counted.evicted,
            counted.again,
            counted.unplaced,
        ] {
            hasher.write_u64(number.to_be());
        }
        for (id, reporter) in &self.sniffers {
            for number in [id.0, reporter.epoch, reporter.sequence, reporter.at.0] {
                hasher.write_u64(number.to_be());
            }
            hasher.write(reporter.name.as_bytes());
        }
        for ((revision, flow), ()) in &self.departures {
            hasher.write_u64(revision.0.to_be());
            hasher.write_u64(flow.0.to_be());
        }
        hasher.finish()
    }

    /// Applies one entry. `expiry` belongs to this table alone and is kept in step with it.
    pub fn apply(&mut self, index: Revision, time: LogTime, command: &FlowCommand, expiry: &mut Expiry) -> FlowOutcome {
        debug_assert!(index > self.applied, "entries are applied once, in order");
        self.skip(index, time, expiry);
        match command {
            FlowCommand::Report { sniffer, epoch, sequence, name, events } => {
                self.report(index, (*sniffer, *epoch, *sequence, name), events, expiry)
            }
            FlowCommand::Annotate { flow, revision, labels, verdict } => {
                self.annotate(index, *flow, *revision, labels, verdict.as_ref(), expiry)
            }
            FlowCommand::Tick => FlowOutcome::Done(index),
        }
    }

    /// Marks an entry without a command (a leader's first, a membership change) as applied.
    pub fn skip(&mut self, index: Revision, time: LogTime, expiry: &mut Expiry) {
        self.applied = index;
        self.time = self.time.max(time);
        for _ in 0..EXPIRE_PER_ENTRY {
            match expiry.first() {
                Some((time, flow)) if *time <= self.time => {
                    let flow = *flow;
                    self.remove(index, flow, expiry);
                    self.counters.expired += 1;
                }
                _ => break,
            }
        }
    }

    /// When the next record expires.
    #[must_use]
    pub fn next_expiry(expiry: &Expiry) -> Option<LogTime> {
        expiry.first().map(|(time, _)| *time)
    }

    fn report(
        &mut self,
        index: Revision,
        (sniffer, epoch, sequence, name): (SnifferId, u64, u64, &str),
        events: &[Observed],
        expiry: &mut Expiry,
    ) -> FlowOutcome {
        // A life that said nothing for long makes room for any: else one of a clock that was wrong would last for ever.
        let known = self.sniffers.get(&sniffer).filter(|known| epoch >= known.epoch || !self.is_idle(known)).cloned();
        match &known {
            Some(known) if epoch < known.epoch && !plant::on(Plant::EarlierLife) => {
                return FlowOutcome::OldEpoch(known.epoch);
            }
            Some(known) if epoch == known.epoch && sequence <= known.sequence && !plant::on(Plant::BatchAgain) => {
                self.counters.again += 1;
                return FlowOutcome::Again;
            }
            _ => {}
        }
        let expected = known.as_ref().filter(|known| known.epoch == epoch).map_or(1, |known| known.sequence + 1);
        let late = plant::on(Plant::BatchAgain) && sequence < expected
            || plant::on(Plant::EarlierLife) && known.as_ref().is_some_and(|known| epoch < known.epoch);
        if sequence != expected && !late {
            return FlowOutcome::Gap(expected);
        }
        if !self.sniffers.contains_key(&sniffer) && self.sniffers.len() >= SNIFFERS_MAX {
            // The one that said nothing for longest; its next batch begins anew.
            let oldest = self.sniffers.iter().min_by_key(|(id, reporter)| (reporter.at, **id));
            match oldest.filter(|(_, reporter)| self.is_idle(reporter)).map(|(id, _)| *id) {
                Some(idle) => self.sniffers.remove(&idle),
                None => return FlowOutcome::TooManySniffers,
            };
        }
        let name = match known {
            Some(known) if *known.name == *name => known.name,
            _ => name.into(),
        };
        self.sniffers.insert(sniffer, Reporter { name, epoch, sequence, at: self.time });
        for event in events {
            self.observe(index, sniffer, epoch, event, expiry);
        }
        FlowOutcome::Done(index)
    }

    /// Whether a sniffer said nothing for as long as a record stays: all that it alone told of has left, so that nothing
    /// counts twice or is lost when it is forgotten.
    fn is_idle(&self, reporter: &Reporter) -> bool {
        reporter.at.plus(self.limits.ttl_ms) <= self.time
    }

    fn observe(&mut self, index: Revision, sniffer: SnifferId, epoch: u64, event: &Observed, expiry: &mut Expiry) {
        let flow = event.id();
        let mut record = match self.take(flow, expiry) {
            Some(record) => Arc::unwrap_or_clone(record),
            None => {
                if self.flows.len() as u64 >= self.limits.flows {
                    // The one that would leave first.
                    if let Some((_, next)) = expiry.first().copied() {
                        self.remove(index, next, expiry);
                        self.counters.evicted += 1;
                    }
                }
                self.counters.begun += 1;
                FlowRecord::new(event)
            }
        };
        if !record.merge(sniffer, epoch, event) {
            self.counters.unplaced += 1;
        }
        let ttl_ms = if record.has_ended() { self.limits.ended_ttl_ms } else { self.limits.ttl_ms };
        record.expires = self.time.plus(ttl_ms);
        record.revision = index;
        self.put(flow, record, expiry);
    }

    fn annotate(
        &mut self,
        index: Revision,
        flow: FlowId,
        revision: Revision,
        labels: &[(String, String)],
        verdict: Option<&Verdict>,
        expiry: &mut Expiry,
    ) -> FlowOutcome {
        let Some(record) = self.flows.get(&flow) else { return FlowOutcome::NoFlow };
        if record.revision != revision {
            return FlowOutcome::Changed(record.revision);
        }
        let mut changed = FlowRecord::clone(record);
        if !changed.annotate(labels, verdict, self.time) {
            return FlowOutcome::TooMany;
        }
        changed.revision = index;
        self.take(flow, expiry);
        self.put(flow, changed, expiry);
        FlowOutcome::Done(index)
    }

    /// Takes a record out, to be put back.
    fn take(&mut self, flow: FlowId, expiry: &mut Expiry) -> Option<Arc<FlowRecord>> {
        let record = self.flows.remove(&flow)?;
        self.digest = self.digest.wrapping_sub(hash_record(flow, &record));
        self.changes.remove(&(record.revision, flow));
        expiry.remove(&(record.expires, flow));
        if record.seventh.is_some() {
            self.sevens.remove(&(FlowId(record.key.id()), flow));
        }
        Some(record)
    }

    pub(crate) fn put(&mut self, flow: FlowId, record: FlowRecord, expiry: &mut Expiry) {
        self.digest = self.digest.wrapping_add(hash_record(flow, &record));
        self.changes.insert((record.revision, flow), ());
        expiry.insert((record.expires, flow));
        if record.seventh.is_some() {
            self.sevens.insert((FlowId(record.key.id()), flow), ());
        }
        self.flows.insert(flow, Arc::new(record));
    }

    fn remove(&mut self, index: Revision, flow: FlowId, expiry: &mut Expiry) {
        if self.take(flow, expiry).is_none() {
            return;
        }
        if self.departures.insert((index, flow), ()).is_none() {
            self.left += 1;
        }
        if self.departures.len() > DEPARTURES_MAX
            && let Some(oldest) = self.departures.get_min().map(|(place, ())| *place)
        {
            self.departures.remove(&oldest);
            self.forgotten = oldest.0;
        }
    }

    /// Panics where the table contradicts itself. For tests and the simulator.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn check_invariants(&self, expiry: &Expiry) {
        assert_eq!(expiry.len(), self.flows.len(), "each record has one place in the expiry index");
        assert_eq!(self.changes.len(), self.flows.len(), "each record has one last change");
        for (flow, record) in &self.flows {
            assert!(expiry.contains(&(record.expires, *flow)), "the index knows every record's time");
            assert!(self.changes.contains_key(&(record.revision, *flow)), "changes know every record's revision");
            assert!(record.observations().len() <= OBSERVERS_MAX, "observers are bounded");
        }
        assert!(self.departures.len() <= DEPARTURES_MAX && self.sniffers.len() <= SNIFFERS_MAX);
        let sum = self.flows.iter().fold(0u64, |sum, (flow, record)| sum.wrapping_add(hash_record(*flow, record)));
        assert_eq!(sum, self.digest, "the running digest is the sum of the records");
        let sevens = self.flows.iter().filter(|(_, record)| record.seventh.is_some());
        let sevens: BTreeSet<_> = sevens.map(|(flow, record)| (FlowId(record.key.id()), *flow)).collect();
        assert!(self.sevens.keys().eq(&sevens), "7-tuples are found by their 5-tuple");
        assert!(self.left >= self.departures.len() as u64, "what left is counted");
    }
}

/// The same on all replicas of one architecture: numbers are hashed as they lie in memory.
fn hash_record(flow: FlowId, record: &FlowRecord) -> u64 {
    let mut hasher = SipHasher24::new_with_key(DIGEST_KEY);
    (flow, record).hash(&mut hasher);
    hasher.finish()
}

/// The part of the table, of so many, that has the flows of a 5-tuple: by the upper half of its id, as samples go by the lower.
#[must_use]
pub fn shard_of(five: FlowId, shards: u32) -> u32 {
    ((five.0 >> 32) % u64::from(shards.max(1))) as u32
}

/// Most events in one batch.
pub const EVENTS_PER_BATCH_MAX: usize = 2_000;

/// At most this many expired records leave with one entry. A batch begins at most 2 000 more.
pub const EXPIRE_PER_ENTRY: usize = 4_096;

/// Most bytes of a sniffer's name.
pub const NAME_BYTES_MAX: usize = 128;

/// Most sniffers that see one flow.
pub const OBSERVERS_MAX: usize = 8;

/// Most sniffers of a fleet: another one is let in once one of them said nothing for as long as a record stays.
pub const SNIFFERS_MAX: usize = 1_024;

/// So many records that left are remembered, for who follows the table.
pub const DEPARTURES_MAX: usize = 65_536;
