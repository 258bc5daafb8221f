//! `loadtest partition`: real processes in networks of their own, cut off, killed, stopped, grown, and judged.

use std::process::ExitCode;
use std::time::Duration;

use loadtest::chance::Chance;
use loadtest::error::Result;
use loadtest::partition::wire::Wire;
use loadtest::partition::{self, Plan, Reads};
use loadtest::partition::{phases, report};

use super::PartitionArguments;
use super::stick::binary;

/// What a run of these arguments does.
pub fn plan(arguments: &PartitionArguments) -> Result<Plan> {
    Ok(Plan {
        binary: binary(arguments.bin.as_deref())?,
        tls: arguments.tls,
        instances: arguments.instances,
        phases: phases::chosen(&arguments.phases, arguments.short)?,
        fault: if arguments.short { FAULT_SHORT } else { FAULT },
        reads: if arguments.control { Reads::Local } else { Reads::Linearizable },
        seed: arguments.seed.unwrap_or_else(Chance::fresh_seed),
        keep: arguments.keep,
    })
}

/// Plays the run and prints what came of it.
pub async fn run(arguments: &PartitionArguments, plan: &Plan, wire: Wire) -> Result<ExitCode> {
    let say = |line: String| {
        if !arguments.json {
            println!("{line}");
        }
    };
    say(format!("{} instances, then {}, seed {}", plan.instances, plan.instances + partition::NEWCOMERS, plan.seed));
    let report = partition::perform(wire, plan, &say).await?;
    if arguments.json {
        println!("{}", report::to_json(&report, plan.seed));
    } else {
        println!("\n{}", report::table(&report));
        for line in report::remarks(&report) {
            println!("{line}");
        }
        println!("{}", report::conclusion(&report));
    }
    let good = report.is_good(plan.reads);
    if plan.reads == Reads::Local {
        let came =
            if good { "passed: stale reads were caught" } else { "FAILED: nothing was caught where ways were cut" };
        say(format!("CONTROL {came}"));
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How long a fault lasts, and how long the fleet is left alone after it.
const FAULT: Duration = Duration::from_millis(2_000);
const FAULT_SHORT: Duration = Duration::from_millis(1_000);
