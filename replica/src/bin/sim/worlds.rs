//! The two kinds of worlds that a seed may be, and what came of one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::world;

/// Which worlds are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Fleets of the log's drivers.
    Log,
    /// Fleets of whole replicas.
    Fleet,
    /// Seven of eight seeds are the one, each eighth the other.
    Both,
}

/// What came of a seed.
pub struct Outcome {
    pub steps: u64,
    pub violations: Vec<String>,
    pub answers: u64,
    pub moves: u64,
    /// Simulated time.
    pub now_us: u64,
    pub summary: String,
    trace: u64,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Fleet => "fleet",
            Self::Both => "both",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Log, Self::Fleet, Self::Both].into_iter().find(|kind| kind.name() == name)
    }

    /// What this seed is.
    pub fn of(self, seed: u64) -> Self {
        match self {
            Self::Both if seed.is_multiple_of(FLEET_EACH) => Self::Fleet,
            Self::Both => Self::Log,
            other => other,
        }
    }
}

/// Runs a seed in its world; `twice`: and once more, to see that it goes the same way.
pub fn run(kind: Kind, seed: u64, verbose: bool, twice: bool, plant: Option<raftlog::plant::Plant>) -> Outcome {
    let run = match kind {
        Kind::Fleet => |seed, verbose, _| fleet(seed, verbose),
        Kind::Log | Kind::Both => log,
    };
    let mut outcome = run(seed, verbose, plant);
    if twice && run(seed, false, plant).trace != outcome.trace {
        outcome.violations.push("the same seed gave another trace".to_owned());
    }
    outcome
}

fn log(seed: u64, verbose: bool, plant: Option<raftlog::plant::Plant>) -> Outcome {
    let report = raftlog::sim::run(seed, &raftlog::sim::Options { plant, verbose });
    for line in &report.story {
        println!("{line}");
    }
    Outcome {
        steps: report.steps,
        summary: format!("{}, trace {:016x}", report.summary, report.trace),
        violations: report.violations,
        answers: report.answers,
        moves: 0,
        now_us: report.simulated_ms * 1000,
        trace: report.trace,
    }
}

fn fleet(seed: u64, verbose: bool) -> Outcome {
    let mut world = world::World::new(seed, verbose);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        world.judge.blame(format!("a panic: {}", text.unwrap_or("of no words")));
    }
    Outcome {
        steps: world.steps,
        answers: world.judge.answers,
        moves: world.judge.moves,
        now_us: world.now_us(),
        summary: world.summary(),
        trace: world.trace,
        violations: std::mem::take(&mut world.judge.violations),
    }
}

/// Of the seeds of both kinds, each so many-th is a fleet of replicas: they take longer.
const FLEET_EACH: u64 = 8;
