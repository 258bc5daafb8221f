//! When to try again.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// The pauses of one dialler: none after a lost link, then doubling. Pure: time and chance come in as arguments.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    /// Failures since the last pause of zero.
    failures: u32,
    /// When the last pause of zero was given.
    immediate_at: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min: min.min(max), max, failures: 0, immediate_at: None }
    }

    /// The pause after an established link was lost: none, so that a dead process is noticed at once, unless links come
    /// and go faster than the longest pause.
    pub(super) fn lost(&mut self, now: Instant, chance: u64) -> Duration {
        let flapping = self.immediate_at.is_some_and(|at| now.saturating_duration_since(at) < self.max);
        if flapping {
            return self.failed(chance);
        }
        self.immediate_at = Some(now);
        self.failures = 0;
        Duration::ZERO
    }

    /// The pause after a dial that led to no link: between half and all of a bound that doubles up to the longest.
    pub(super) fn failed(&mut self, chance: u64) -> Duration {
        let bound = self.min.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let half = bound / 2;
        half + half.mul_f64((chance >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// A number nobody can foresee, so that diallers do not move in step.
pub(super) fn chance() -> u64 {
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_millis(20), Duration::from_secs(1))
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_stay_there() {
        let mut backoff = backoff();
        let bounds: Vec<u128> = (0..40).map(|_| backoff.failed(u64::MAX).as_millis()).collect();
        assert_eq!(&bounds[..7], &[20, 40, 80, 160, 320, 640, 1000]);
        assert!(bounds[7..].iter().all(|&pause| pause == 1000));
    }

    #[test]
    fn chance_takes_away_at_most_half() {
        assert_eq!(backoff().failed(0), Duration::from_millis(10));
        assert!(backoff().failed(u64::MAX) <= Duration::from_millis(20));
    }

    #[test]
    fn a_lost_link_is_dialled_at_once_but_a_flapping_one_is_not() {
        let mut backoff = backoff();
        let now = Instant::now();
        assert_eq!(backoff.lost(now, 0), Duration::ZERO);
        assert_eq!(backoff.lost(now + Duration::from_millis(500), 0), Duration::from_millis(10));
        assert_eq!(backoff.lost(now + Duration::from_millis(600), 0), Duration::from_millis(20));
        assert_eq!(backoff.lost(now + Duration::from_secs(2), 0), Duration::ZERO);
        assert_eq!(backoff.failed(0), Duration::from_millis(10));
    }
}
