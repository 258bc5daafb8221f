//! Decisions without a commit, in this process: the very code of `flow` that a worker runs, without sockets and threads.
//!
//! What a worker does besides: it loads a pointer to the group's view, reads the clock twice and counts. That is in the
//! figures which an instance gives of itself, see `own_word`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flow::cache::Cache;
use flow::{
    BackendId, Epoch, EpochCopy, GroupView, Lease, LogTime, PinCommand, PinKey, PinOutcome, PinTable, PoolId, Revision,
    Standing,
};
use hdrhistogram::Histogram;

use super::cores::Cores;
use super::figures::histogram;
use crate::chance::Chance;
use crate::error::{Error, Result};

/// Where answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The worker's LRU.
    Cache,
    /// The applied table: the LRU is too small to hold anybody until they come again.
    Table,
}

/// What was measured.
#[derive(Debug)]
pub struct Sample {
    /// Decisions.
    pub decisions: u64,
    /// How long they took.
    pub elapsed: Duration,
    /// Nanoseconds for one decision, as means over [`BATCH`] of them.
    pub nanos: Histogram<u64>,
}

/// A fleet's tables with so many clients in them, and the clients in the order in which they come.
pub struct Tables {
    groups: Vec<GroupView>,
    visitors: Vec<PinKey>,
}

impl Tables {
    /// Tables in which `clients` clients have a pin, made by the entries that would make them.
    pub fn new(clients: u32) -> Result<Tables> {
        let pool = PoolId::of("web");
        let backends: Vec<BackendId> =
            (0..BACKENDS).map(|number| BackendId::of(pool, "s", ([127, 0, 0, 1], number).into())).collect();
        let epoch = EpochCopy {
            epoch: Epoch(1),
            pools: vec![(pool, TTL_MS)],
            backends: backends.iter().map(|backend| (*backend, Standing::Live)).collect(),
        };
        let mut groups: Vec<_> = (0..GROUPS).map(|_| (PinTable::new(), Default::default())).collect();
        for (table, expiry) in &mut groups {
            table.apply(Revision(1), LogTime(1), &PinCommand::Epoch(epoch.clone()), expiry);
        }
        let mut chance = Chance::new(SEED);
        let mut visitors = Vec::with_capacity(clients as usize);
        for number in 0..clients {
            let key = PinKey::new(pool, IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number)));
            let backend = backends.get(number as usize % backends.len()).copied().unwrap_or(BackendId(0));
            let Some((table, expiry)) = groups.get_mut(group_of(&key)) else { continue };
            let assign = PinCommand::Assign { key, backend, epoch: Epoch(1) };
            let outcome = table.apply(Revision(table.applied().0 + 1), LogTime(1), &assign, expiry);
            if !matches!(outcome, PinOutcome::Holds(_)) {
                return Err(Error::Fleet(format!("a client was not pinned: {outcome:?}")));
            }
            visitors.push(key);
        }
        // They come in no order that a processor could foresee.
        for at in (1..visitors.len()).rev() {
            visitors.swap(at, chance.below(at as u32 + 1) as usize);
        }
        let lease = Lease { asked_ms: 0, until_ms: 1_000, log_time: LogTime(1) };
        let groups = groups.into_iter().map(|(table, _)| GroupView { table, generation: 0, lease }).collect();
        Ok(Tables { groups, visitors })
    }

    /// Decides again and again for so long, on the cores given, and every client in turn.
    pub async fn measure(self: &Arc<Tables>, from: Place, cores: &Cores, time: Duration) -> Result<Sample> {
        let (tables, cores) = (self.clone(), cores.clone());
        let (tell, told) = tokio::sync::oneshot::channel();
        let work = move || {
            // Nobody listens any more when the run was interrupted.
            tell.send(cores.enter().and_then(|()| tables.decide(from, time))).ok();
        };
        std::thread::Builder::new().name("decisions".to_owned()).spawn(work).map_err(Error::io("starting a thread"))?;
        told.await.map_err(|_| Error::Fleet("the thread that decides broke".to_owned()))?
    }

    fn decide(&self, from: Place, time: Duration) -> Result<Sample> {
        let entries = match from {
            Place::Cache => self.visitors.len(),
            Place::Table => TOO_FEW_ENTRIES,
        };
        let mut cache = Cache::new(NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN));
        let mut decide = |key: &PinKey| -> Option<bool> {
            let view = self.groups.get(group_of(black_box(key)))?;
            // What the proxy's table of backends gives for a pin: something shared.
            let found = cache.look_up(key, view, NOW_MS, |pin| Some(Arc::new(pin.backend)))?;
            black_box(&found.target);
            Some(found.cached)
        };
        // Twice, so that what can be in the cache is.
        for key in &self.visitors {
            decide(key);
        }
        let (mut nanos, mut decisions, mut elapsed) = (histogram()?, 0, Duration::ZERO);
        let mut batches = self.visitors.chunks_exact(BATCH).cycle();
        let wanted = Some(from == Place::Cache);
        let begun = Instant::now();
        while begun.elapsed() < time {
            let Some(batch) = batches.next() else {
                return Err(Error::Usage(format!("decisions are measured with {BATCH} clients or more")));
            };
            let mut right = 0;
            let start = Instant::now();
            for key in batch {
                right += usize::from(decide(key) == wanted);
            }
            let took = start.elapsed();
            if right != BATCH {
                return Err(Error::Fleet(format!(
                    "{} of {BATCH} decisions did not come from the {from:?}",
                    BATCH - right
                )));
            }
            decisions += BATCH as u64;
            elapsed += took;
            nanos.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / BATCH as u64);
        }
        Ok(Sample { decisions, elapsed, nanos })
    }
}

/// The place of the group that a key is in, as instances compute it.
fn group_of(key: &PinKey) -> usize {
    (key.shard_hash() % GROUPS as u64) as usize
}

/// Decisions between two looks at the clock.
pub const BATCH: usize = 64;
/// As many as a fleet has by default.
const GROUPS: usize = 16;
const BACKENDS: u16 = 4;
const TTL_MS: u64 = 30 * 60 * 1000;
const NOW_MS: u64 = 500;
const SEED: u64 = 1;
const TOO_FEW_ENTRIES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_from_where_they_are_said_to_come_from() {
        let tables = Tables::new(1_000).unwrap();
        assert_eq!(tables.groups.iter().map(|group| group.table.len()).sum::<usize>(), 1_000);
        for from in [Place::Cache, Place::Table] {
            let sample = tables.decide(from, Duration::from_millis(5)).unwrap();
            assert_eq!(sample.decisions, sample.nanos.len() * BATCH as u64, "{from:?}");
            assert!(sample.elapsed >= Duration::from_micros(1));
        }
        assert!(Tables::new(10).unwrap().decide(Place::Cache, Duration::from_millis(1)).is_err());
    }
}
