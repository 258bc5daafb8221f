//! A metric family that is made at a scrape: a name, its meaning, and values under labels.

use prometheus::{
    core::Desc,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

/// What a family is.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// One of [`crate::metric_names`].
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// How its value behaves.
    pub kind: Kind,
}

/// How a value behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of values by size.
    Histogram,
}

/// A histogram's state.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Upper bound and how many values are at most that, in order.
    pub buckets: Vec<(f64, u64)>,
    /// All values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Family {
    /// A family of counters.
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, kind: Kind::Counter }
    }

    /// A family of gauges.
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, kind: Kind::Gauge }
    }

    /// What the registry wants to know.
    pub fn desc(&self) -> prometheus::Result<Desc> {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, Default::default())
    }

    /// The family with one value and no label.
    pub fn single(&self, value: f64) -> MetricFamily {
        self.with([(Vec::new(), value)])
    }

    /// The family with a value for each list of label values.
    pub fn with(&self, values: impl IntoIterator<Item = (Vec<String>, f64)>) -> MetricFamily {
        self.family(values.into_iter().map(|(labels, value)| {
            let mut metric = self.metric(labels);
            match self.kind {
                Kind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                Kind::Gauge | Kind::Histogram => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
            }
            metric
        }))
    }

    /// The family with a histogram for each list of label values.
    pub fn with_counts(&self, values: impl IntoIterator<Item = (Vec<String>, Counts)>) -> MetricFamily {
        self.family(values.into_iter().map(|(labels, counts)| {
            let bucket = |(bound, count)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                bucket
            };
            let mut histogram = Histogram::default();
            histogram.set_bucket(counts.buckets.into_iter().map(bucket).collect());
            histogram.set_sample_count(counts.count);
            histogram.set_sample_sum(counts.sum);
            let mut metric = self.metric(labels);
            metric.set_histogram(histogram);
            metric
        }))
    }

    fn metric(&self, values: Vec<String>) -> Metric {
        debug_assert_eq!(values.len(), self.labels.len(), "{} has a value for each label", self.name);
        let pair = |(name, value): (&&str, String)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value);
            pair
        };
        let mut metric = Metric::default();
        metric.set_label(self.labels.iter().zip(values).map(pair).collect());
        metric
    }

    fn family(&self, metrics: impl Iterator<Item = Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(match self.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(metrics.collect());
        family
    }
}

/// What the registry wants to know of many.
pub fn descs(families: &[Family]) -> prometheus::Result<Vec<Desc>> {
    families.iter().map(Family::desc).collect()
}
