//! What an instance says of itself: its histogram of decisions, as Prometheus would read it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::http;

/// Decisions of one source: how many took at most so long, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// Upper bounds in rising order, the last one infinite, each with the count of all up to it.
    buckets: Vec<(f64, f64)>,
    sum_seconds: f64,
}

impl Decisions {
    /// Asks an instance for its decisions from `source` so far.
    pub async fn ask(metrics: SocketAddr, source: &str) -> Result<Decisions> {
        let answer = http::get(metrics, "/metrics", DEADLINE).await.map_err(Error::io(format!("asking {metrics}")))?;
        Decisions::read(&String::from_utf8_lossy(&answer.body), source)
    }

    /// Reads them out of the text format.
    fn read(text: &str, source: &str) -> Result<Decisions> {
        let mut decisions = Decisions::default();
        let label = format!("source=\"{source}\"");
        for line in text.lines().filter(|line| line.starts_with(NAME) && line.contains(&label)) {
            let bad = || Error::Fleet(format!("not a metric: {line}"));
            let value: f64 = line.rsplit(' ').next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
            let rest = line.strip_prefix(NAME).unwrap_or_default();
            if rest.starts_with("_sum") {
                decisions.sum_seconds = value;
            } else if rest.starts_with("_bucket") {
                let bound = rest.split_once("le=\"").and_then(|(_, rest)| rest.split_once('"')).ok_or_else(bad)?.0;
                decisions.buckets.push((bound.parse().map_err(|_| bad())?, value));
            }
        }
        decisions.buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        Ok(decisions)
    }

    /// Those that came after `before`.
    pub fn since(&self, before: &Decisions) -> Decisions {
        let old = |bound: f64| before.buckets.iter().find(|(at, _)| *at == bound).map_or(0.0, |(_, count)| *count);
        Decisions {
            buckets: self.buckets.iter().map(|(bound, count)| (*bound, count - old(*bound))).collect(),
            sum_seconds: self.sum_seconds - before.sum_seconds,
        }
    }

    /// Those of several instances together.
    pub fn plus(&self, other: &Decisions) -> Decisions {
        if self.buckets.is_empty() {
            return other.clone();
        }
        let more = |bound: f64| other.buckets.iter().find(|(at, _)| *at == bound).map_or(0.0, |(_, count)| *count);
        Decisions {
            buckets: self.buckets.iter().map(|(bound, count)| (*bound, count + more(*bound))).collect(),
            sum_seconds: self.sum_seconds + other.sum_seconds,
        }
    }

    /// How many.
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// How long one took on average, in seconds; none when there was none.
    pub fn mean_seconds(&self) -> Option<f64> {
        (self.count() > 0.0).then(|| self.sum_seconds / self.count())
    }

    /// The time within which a share (0 to 1) of them was done, in seconds, as Prometheus' `histogram_quantile` estimates it.
    pub fn quantile_seconds(&self, share: f64) -> Option<f64> {
        let wanted = self.count() * share;
        let at = self.buckets.iter().position(|(_, count)| *count >= wanted && *count > 0.0)?;
        let (bound, count) = *self.buckets.get(at)?;
        let (low, below) = at.checked_sub(1).and_then(|at| self.buckets.get(at)).copied().unwrap_or((0.0, 0.0));
        if bound.is_infinite() {
            return Some(low);
        }
        Some(if count > below { low + (bound - low) * (wanted - below) / (count - below) } else { bound })
    }
}

const NAME: &str = "rocinante_decision_seconds";
const DEADLINE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# TYPE rocinante_decision_seconds histogram
rocinante_decision_seconds_bucket{source=\"cache\",le=\"0.001\"} 99
rocinante_decision_seconds_bucket{source=\"commit\",le=\"0.001\"} 10
rocinante_decision_seconds_bucket{source=\"commit\",le=\"0.002\"} 30
rocinante_decision_seconds_bucket{source=\"commit\",le=\"+Inf\"} 40
rocinante_decision_seconds_sum{source=\"commit\"} 0.08
rocinante_decision_seconds_count{source=\"commit\"} 40
";

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let commits = Decisions::read(TEXT, "commit").unwrap();
        assert_eq!((commits.count(), commits.mean_seconds()), (40.0, Some(0.002)));
        assert_eq!(commits.quantile_seconds(0.5), Some(0.0015));
        assert_eq!(commits.quantile_seconds(0.125), Some(0.0005));
        assert_eq!(commits.quantile_seconds(0.99), Some(0.002), "above the last bound nothing better is known");
        assert_eq!(Decisions::read(TEXT, "table").unwrap().mean_seconds(), None);
        assert!(Decisions::read("rocinante_decision_seconds_sum{source=\"commit\"} x", "commit").is_err());
    }

    #[test]
    fn what_was_before_does_not_count_and_instances_add_up() {
        let commits = Decisions::read(TEXT, "commit").unwrap();
        assert_eq!(commits.since(&commits).count(), 0.0);
        assert_eq!(commits.since(&Decisions::default()), commits);
        let both = Decisions::default().plus(&commits).plus(&commits);
        assert_eq!((both.count(), both.mean_seconds()), (80.0, commits.mean_seconds()));
    }
}
