//! Whole scenarios against fake fleets.

use futures_util::future::join_all;
use loadtest::demo;
use loadtest::lab;
use loadtest::report;
use loadtest::scenario::{Beat, Keep, Outcome, Plan, SCENARIOS, Scenario, perform};

use crate::alone;
use crate::fake::{Fakes, Manner};

async fn play(name: &'static str, manner: Manner) -> Outcome {
    let plan = Plan { instances: 3, clients: 60, visits_per_second: 80, seconds: 4, seed: 7, keep: Keep::Never };
    let outcome = perform(Scenario::named(name).unwrap(), &plan, &Fakes(manner), None, &|_: &Beat| {}).await.unwrap();
    println!("{}", report::table(std::slice::from_ref(&outcome)));
    for remark in report::remarks(&outcome) {
        println!("{remark}");
    }
    outcome
}

/// Runs in a network of its own, where the system allows it to a test.
fn in_a_lab(test: impl Future<Output = ()>) {
    let _alone = alone();
    // Every test has a thread of its own, and only that thread and those it starts move.
    lab::enter().unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(test);
}

#[test]
fn an_honest_fleet_passes_every_scenario() {
    in_a_lab(honest());
}

#[test]
fn every_dishonest_fleet_is_caught() {
    in_a_lab(dishonest());
}

#[test]
fn the_demo_says_by_its_verdict_whether_the_promise_was_kept() {
    in_a_lab(async {
        let (kept, broken) = (Fakes(Manner::Honest), Fakes(Manner::Splits));
        let (kept, broken) =
            tokio::join!(demo::show(&kept, 6, demo::Style::Plain), demo::show(&broken, 6, demo::Style::Plain));
        assert!(kept.unwrap());
        assert!(!broken.unwrap());
    });
}

async fn honest() {
    for outcome in join_all(SCENARIOS.map(|scenario| play(scenario.name, Manner::Honest))).await {
        if outcome.scenario.needs_farm() {
            assert!(outcome.not_applicable.is_some(), "there is no router");
            continue;
        }
        assert_eq!(outcome.verdict.reasons, Vec::<String>::new(), "{}", outcome.scenario.name);
        assert!(outcome.tally.clients >= 60 && outcome.tally.by_backend.len() >= 4);
    }
}

async fn dishonest() {
    type Shows = fn(&Outcome) -> bool;
    let said = |outcome: &Outcome, words: &str| outcome.verdict.reasons.iter().any(|reason| reason.contains(words));
    let caught: [(Manner, &str, Shows); 10] = [
        (Manner::Splits, "first-contact", |it| it.tally.split > 0),
        (Manner::Moves, "first-contact", |it| it.tally.moved > 0 && it.tally.split > 0),
        (Manner::Hashes, "churn", |it| it.tally.moved > 0),
        (Manner::Loses, "first-contact", |it| it.tally.lost_outside > 0 && it.tally.split + it.tally.moved == 0),
        (Manner::Forgets, "restart-all", |it| it.tally.moved > 0),
        (Manner::Forgets, "rolling-restart", |it| it.tally.split > 0),
        (Manner::GoesOnAlone, "partition", |it| it.tally.split > 0),
        (Manner::IgnoresRemoval, "churn", |it| it.tally.stray > 0),
        (Manner::TrustsItsOwnEyes, "skewed-health", |it| it.tally.split + it.tally.moved > 0),
        (Manner::RefusesAll, "first-contact", |it| it.tally.answered == 0),
    ];
    let played = join_all(caught.map(|(manner, scenario, _)| play(scenario, manner))).await;
    for ((manner, _, shows), outcome) in caught.into_iter().zip(played) {
        assert!(!outcome.verdict.passed() && shows(&outcome), "{manner:?}: {:?} {:?}", outcome.tally, outcome.verdict);
        assert_eq!(said(&outcome, "still said ready"), manner == Manner::GoesOnAlone);
        assert_eq!(said(&outcome, "do not reach every backend"), manner == Manner::RefusesAll);
    }
}
