//! The log's own simulator: whole fleets of drivers in one thread, seed by seed, on simulated disks and networks.
//!
//! A seed draws a fleet (`setup`), clients that read and write (`clients`), and faults (`faults`); after some thousand
//! steps all faults end, and all must be well again. What was agreed, and what that obliges everybody to, the judge knows
//! (`judge`); what each log should hold, and what a restart should find in it, a mirror of it (`mirror`). The drivers,
//! their frames, the write-ahead log and the snapshot files are those that serve.
//!
//! ```text
//! event -> driver -> actions -> log, wires, tables -> events
//!            '--------- looked at by the judge ---------'
//! ```

mod clients;
mod faults;
mod judge;
mod members;
mod mirror;
mod node;
mod random;
mod setup;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::plant::{Plant, sow_here};

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A bug to be planted.
    pub plant: Option<Plant>,
    /// Whether to tell everything that happens.
    pub verbose: bool,
}

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Events: messages, ticks, rounds stored, questions of clients, faults.
    pub steps: u64,
    /// A hash of all that happened: the same seed gives the same.
    pub trace: u64,
    /// Rules that were broken; the last step is the one at which the first was.
    pub violations: Vec<String>,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// Clients' questions that were answered.
    pub answers: u64,
    /// What happened how often, for people.
    pub summary: String,
    /// Everything that happened, if it was to be told.
    pub story: Vec<String>,
}

/// Runs a seed to its end, or to its first violation. A panic is one.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report {
    sow_here(options.plant);
    let mut world = world::World::new(seed, options.verbose);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    sow_here(None);
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        world.judge.blame(format!("a panic: {}", text.unwrap_or("of no words")));
    }
    let (setup, counts) = (&world.setup, &world.counts);
    Report {
        seed,
        steps: world.steps,
        trace: world.trace,
        simulated_ms: world.now_us / 1000,
        answers: counts.answers,
        summary: format!("{} founders, {} groups, {counts:?}", setup.founders, setup.groups),
        violations: std::mem::take(&mut world.judge.violations),
        story: world.story.unwrap_or_default(),
    }
}
