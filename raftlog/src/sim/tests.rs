//! Seeds that are clean, and planted bugs that are caught.

use super::*;

/// The first seed from 1 on that is not clean.
fn first_violation(plant: Option<Plant>, seeds: u64) -> Option<Report> {
    let options = Options { plant, verbose: false };
    (1..=seeds).map(|seed| run(seed, &options)).find(|report| !report.violations.is_empty())
}

#[test]
fn three_hundred_seeds_are_clean() {
    if let Some(report) = first_violation(None, 300) {
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
fn a_story_is_told_where_it_is_asked_for_and_changes_nothing() {
    let told = run(3, &Options { plant: None, verbose: true });
    assert!(told.story.len() as u64 > told.steps / 10, "{} lines of {} steps", told.story.len(), told.steps);
    assert_eq!(told.trace, run(3, &Options::default()).trace);
}

#[test]
fn every_planted_bug_is_caught_by_the_rule_that_it_breaks() {
    for (name, plant, breaks) in Plant::ALL {
        let Some(report) = first_violation(Some(*plant), 1000) else { panic!("{name} is not caught: {breaks}") };
        let said = &report.violations[0];
        assert!(!said.starts_with("a panic") && !said.contains("does not end"), "{name}, seed {}: {said}", report.seed);
    }
}
