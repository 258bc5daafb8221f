//! `loadtest partition`: real processes in networks of their own, cut off, killed, stopped, grown, and judged.

use std::process::ExitCode;

use loadtest::chance::Chance;
use loadtest::error::Result;
use loadtest::partition::report;
use loadtest::partition::wire::Wire;
use loadtest::partition::{self, Plan};

use super::PartitionArguments;
use super::stick::binary;

/// Plays the run and prints what came of it.
pub async fn run(arguments: PartitionArguments, wire: Wire) -> Result<ExitCode> {
    let plan = Plan {
        binary: binary(arguments.bin.as_deref())?,
        instances: arguments.instances,
        short: arguments.short,
        seed: arguments.seed.unwrap_or_else(Chance::fresh_seed),
        keep: arguments.keep,
    };
    let say = |line: String| {
        if !arguments.json {
            println!("{line}");
        }
    };
    say(format!("{} instances, then {}, seed {}", plan.instances, plan.instances + partition::NEWCOMERS, plan.seed));
    let report = partition::perform(wire, &plan, &say).await?;
    if arguments.json {
        println!("{}", report::to_json(&report, plan.seed));
    } else {
        println!("\n{}", report::table(&report));
        for line in report::remarks(&report) {
            println!("{line}");
        }
        println!("{}", report::conclusion(&report));
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
