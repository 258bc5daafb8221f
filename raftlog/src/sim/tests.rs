//! Seeds that are clean, and planted bugs that are caught.

use super::*;

/// The first seed from 1 on that is not clean.
fn first_violation(plant: Option<Plant>, seeds: u64) -> Option<Report> {
    let options = Options { plant, verbose: false };
    (1..=seeds).map(|seed| run(seed, &options)).find(|report| !report.violations.is_empty())
}

#[test]
fn a_hundred_seeds_are_clean() {
    if let Some(report) = first_violation(None, 100) {
        panic!("seed {}, step {}: {:?}", report.seed, report.steps, report.violations);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_others_give_others() {
    let trace = |seed| run(seed, &Options::default()).trace;
    for seed in 1..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
    assert_ne!(trace(1), trace(2));
}

#[test]
fn every_planted_bug_is_caught() {
    for (name, plant, breaks) in Plant::ALL {
        assert!(first_violation(Some(*plant), 400).is_some(), "{name} is not caught: {breaks}");
    }
}
