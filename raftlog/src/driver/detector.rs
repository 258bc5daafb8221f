//! Failure detectors: whether a peer that says nothing is gone, told by the times at which its beats came.

use std::{collections::VecDeque, fmt::Debug};

/// Which detector, and how sure it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectorKind {
    /// Phi accrual: suspects when the chance that a beat comes this late falls below ten to the minus `threshold` by what
    /// was seen of this peer so far.
    Phi {
        /// In tenths: 80 is a phi of 8.
        threshold_tenths: u32,
    },
    /// Suspects after so many milliseconds of silence.
    Fixed {
        /// Milliseconds.
        timeout_ms: u64,
    },
}

impl Default for DetectorKind {
    /// A phi of 8, as in Akka and Cassandra.
    fn default() -> Self {
        Self::Phi { threshold_tenths: 80 }
    }
}

/// Judges one peer. Times are milliseconds of a clock that stands still while this process does.
pub trait Detector: Debug + Send {
    /// Something of the peer came in; `beat`: it is one of those that come at even intervals.
    fn heard(&mut self, now_ms: u64, beat: bool);
    /// Whether the silence is too long to be chance.
    fn suspects(&self, now_ms: u64) -> bool;
}

/// The detector of that kind for a peer that beats every `beat_ms`.
pub fn detector(kind: DetectorKind, beat_ms: u64, now_ms: u64) -> Box<dyn Detector> {
    match kind {
        DetectorKind::Phi { threshold_tenths } => Box::new(Phi {
            threshold: f64::from(threshold_tenths) / 10.0,
            beat_ms,
            last_ms: now_ms,
            last_beat_ms: None,
            intervals: VecDeque::new(),
            sum: 0,
            squares: 0,
        }),
        DetectorKind::Fixed { timeout_ms } => Box::new(Fixed { timeout_ms, last_ms: now_ms }),
    }
}

/// The phi accrual failure detector (Hayashibara et al. 2004), with the logistic approximation of the normal distribution
/// that Akka and Cassandra use (Bowling et al. 2009).
#[derive(Debug)]
struct Phi {
    threshold: f64,
    beat_ms: u64,
    last_ms: u64,
    last_beat_ms: Option<u64>,
    intervals: VecDeque<u64>,
    sum: u64,
    squares: u64,
}

impl Phi {
    fn phi(&self, now_ms: u64) -> f64 {
        // A peer of which little was seen is taken to be as its beats are meant to be.
        let count = (self.intervals.len() + PRIOR) as f64;
        let prior = PRIOR as f64;
        let mean = (self.sum as f64 + prior * self.beat_ms as f64) / count;
        let squares = (self.squares as f64 + prior * (self.beat_ms * self.beat_ms) as f64) / count;
        let least = self.beat_ms as f64 / 2.0;
        let deviation = (squares - mean * mean).max(0.0).sqrt().max(least);
        let late = (now_ms.saturating_sub(self.last_ms) as f64 - mean) / deviation;
        let e = (-late * (1.5976 + 0.070_566 * late * late)).exp();
        if late > 0.0 { -(e / (1.0 + e)).log10() } else { -(1.0 - 1.0 / (1.0 + e)).log10() }
    }
}

impl Detector for Phi {
    fn heard(&mut self, now_ms: u64, beat: bool) {
        self.last_ms = now_ms;
        if !beat {
            return;
        }
        if let Some(last_ms) = self.last_beat_ms.replace(now_ms) {
            // An outage is not how the peer beats.
            let interval = now_ms.saturating_sub(last_ms).min(self.beat_ms * INTERVAL_BEATS_MAX);
            self.intervals.push_back(interval);
            self.sum += interval;
            self.squares += interval * interval;
            if self.intervals.len() > WINDOW {
                let gone = self.intervals.pop_front().unwrap_or_default();
                self.sum -= gone;
                self.squares -= gone * gone;
            }
        }
    }

    fn suspects(&self, now_ms: u64) -> bool {
        // Cheap for those who were just heard, and that is nearly always so.
        now_ms.saturating_sub(self.last_ms) > 2 * self.beat_ms && self.phi(now_ms) >= self.threshold
    }
}

#[derive(Debug)]
struct Fixed {
    timeout_ms: u64,
    last_ms: u64,
}

impl Detector for Fixed {
    fn heard(&mut self, now_ms: u64, _: bool) {
        self.last_ms = now_ms;
    }

    fn suspects(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.last_ms) > self.timeout_ms
    }
}

/// How many intervals are remembered of a peer.
const WINDOW: usize = 128;

/// As many intervals as meant are taken for granted of a new peer.
const PRIOR: usize = 8;

/// An interval counts as so many beats at most.
const INTERVAL_BEATS_MAX: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many milliseconds of silence a peer is suspected that beat at these intervals.
    fn patience(kind: DetectorKind, intervals: &[u64]) -> u64 {
        let mut detector = detector(kind, 50, 0);
        let mut now_ms = 0;
        for interval in intervals {
            assert!(!detector.suspects(now_ms + interval), "it beats as before, at {now_ms}");
            now_ms += interval;
            detector.heard(now_ms, true);
        }
        (0..100_000).find(|silence| detector.suspects(now_ms + silence)).unwrap()
    }

    #[test]
    fn an_even_peer_is_suspected_soon_and_a_moody_one_late() {
        let phi = DetectorKind::default();
        let even = patience(phi, &[50; 200]);
        assert!((150..250).contains(&even), "{even} ms");
        let moody: Vec<u64> = (0..200).map(|number| 20 + number * 37 % 200).collect();
        let moody = patience(phi, &moody);
        assert!(moody > 2 * even && moody < 1000, "{moody} ms");
    }

    #[test]
    fn a_higher_threshold_waits_longer_and_a_new_peer_is_not_suspected_at_once() {
        let at = |threshold_tenths| patience(DetectorKind::Phi { threshold_tenths }, &[50; 200]);
        assert!(at(20) < at(80) && at(80) < at(160));
        assert!(patience(DetectorKind::default(), &[]) >= 150);
    }

    #[test]
    fn the_fixed_one_is_as_patient_as_it_was_told() {
        assert_eq!(patience(DetectorKind::Fixed { timeout_ms: 700 }, &[50, 600, 50]), 701);
    }

    #[test]
    fn what_comes_between_the_beats_shows_life_and_is_no_interval() {
        let mut detector = detector(DetectorKind::default(), 50, 0);
        for now_ms in 0..10_000 {
            detector.heard(now_ms, now_ms % 50 == 0);
        }
        assert!(!detector.suspects(10_100), "a busy peer that falls quiet is given its usual time");
        assert!(detector.suspects(10_400));
    }
}
