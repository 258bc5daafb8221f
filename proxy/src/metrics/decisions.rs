//! Choices as they happen: counted by the thread that makes them, summed when somebody looks.
//!
//! What must stay true: a thread adds to its own shard with relaxed atomics and takes no lock; shards lie on cache lines
//! of their own. Threads beyond [`SHARDS`] share one with another thread, which costs time and no count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::family::{Counts, Family, Kind, descs};
use crate::{choice::Source, metric_names};

/// Counts and durations of choices, by where the answer came from.
pub struct Decisions {
    shards: Box<[Shard]>,
}

/// Two cache lines, as processors fetch them in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Shard {
    sources: [SourceCounts; SOURCES.len()],
}

#[derive(Default)]
struct SourceCounts {
    /// One for each bound, and one for what is above all.
    buckets: [AtomicU64; BOUNDS_NANOS.len() + 1],
    nanos: AtomicU64,
}

impl Decisions {
    /// No choice yet.
    #[must_use]
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }

    /// A choice was made, after `took`. Wait-free.
    pub fn record(&self, source: Source, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.partition_point(|bound| *bound < nanos);
        let shard = SHARD.try_with(|shard| *shard).unwrap_or(0);
        if let Some(shard) = self.shards.get(shard)
            && let Some(counts) = shard.sources.get(position(source))
            && let Some(bucket) = counts.buckets.get(bucket)
        {
            bucket.fetch_add(1, Relaxed);
            counts.nanos.fetch_add(nanos, Relaxed);
        }
    }

    /// How many choices came from `source`.
    #[must_use]
    pub fn count(&self, source: Source) -> u64 {
        self.counts(source).count
    }

    fn counts(&self, source: Source) -> Counts {
        let mut buckets = [0; BOUNDS_NANOS.len() + 1];
        let mut nanos = 0_u64;
        for counts in self.shards.iter().filter_map(|shard| shard.sources.get(position(source))) {
            for (sum, bucket) in buckets.iter_mut().zip(&counts.buckets) {
                *sum += bucket.load(Relaxed);
            }
            nanos = nanos.wrapping_add(counts.nanos.load(Relaxed));
        }
        let mut below = 0;
        let bounds = BOUNDS_NANOS.iter().zip(buckets).map(|(bound, count)| {
            below += count;
            (*bound as f64 / NANOS_PER_SECOND, below)
        });
        Counts { buckets: bounds.collect(), count: buckets.iter().sum(), sum: nanos as f64 / NANOS_PER_SECOND }
    }
}

impl Default for Decisions {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows [`Decisions`] to the registry.
pub struct DecisionCollector {
    decisions: Arc<Decisions>,
    descs: Vec<Desc>,
}

impl DecisionCollector {
    /// Shows `decisions`.
    pub fn new(decisions: Arc<Decisions>) -> prometheus::Result<Self> {
        Ok(Self { decisions, descs: descs(&[TOTAL, SECONDS])? })
    }
}

impl Collector for DecisionCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let seen = SOURCES.map(|(source, word)| (vec![word.to_owned()], self.decisions.counts(source)));
        let totals = seen.iter().map(|(labels, counts)| (labels.clone(), counts.count as f64));
        vec![TOTAL.with(totals), SECONDS.with_counts(seen.clone())]
    }
}

/// Threads that have a shard of their own.
pub const SHARDS: usize = 64;

const TOTAL: Family = Family::counter(metric_names::DECISIONS_TOTAL, "Choices of a backend by source.", &["source"]);

const SECONDS: Family = Family {
    name: metric_names::DECISION_SECONDS,
    help: "How long a choice took, by source.",
    labels: &["source"],
    kind: Kind::Histogram,
};

const SOURCES: [(Source, &str); 4] =
    [(Source::Cache, "cache"), (Source::Table, "table"), (Source::Commit, "commit"), (Source::Isolated, "isolated")];

const fn position(source: Source) -> usize {
    match source {
        Source::Cache => 0,
        Source::Table => 1,
        Source::Commit => 2,
        Source::Isolated => 3,
    }
}

const NANOS_PER_SECOND: f64 = 1e9;

/// From a quarter of a microsecond (a cache hit) to 2.5 s (longer than any `decide_timeout` in use).
const BOUNDS_NANOS: [u64; 22] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
];

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: usize = NEXT_SHARD.fetch_add(1, Relaxed) % SHARDS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_together_what_they_count_apart() {
        let decisions = Decisions::new();
        std::thread::scope(|scope| {
            for _ in 0..SHARDS + 6 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        decisions.record(Source::Cache, Duration::from_nanos(300));
                    }
                    decisions.record(Source::Commit, Duration::from_secs(60));
                });
            }
        });
        let threads = SHARDS as u64 + 6;
        let cache = decisions.counts(Source::Cache);
        assert_eq!((cache.count, decisions.count(Source::Commit)), (threads * 1_000, threads));
        assert_eq!((cache.buckets[0].1, cache.buckets[1].1), (0, threads * 1_000));
        assert!((cache.sum - threads as f64 * 300e-6).abs() < 1e-9, "{}", cache.sum);
        let commit = decisions.counts(Source::Commit);
        assert_eq!(commit.buckets.last().unwrap().1, 0, "60 s is above all bounds");
        assert_eq!(decisions.count(Source::Table), 0);
    }

    #[test]
    fn each_source_has_its_place() {
        for (at, (source, _)) in SOURCES.into_iter().enumerate() {
            assert_eq!(position(source), at);
        }
        assert!(BOUNDS_NANOS.is_sorted());
    }
}
