//! `loadtest flows`: judge the sniffer and the table of flows.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use loadtest::chance::Chance;
use loadtest::error::{Error, Result};
use loadtest::fleet::process::in_path;
use loadtest::flows::{self, Plan};

use super::FlowsJudgeArguments;
use super::bench::print;
use super::stick::binary;

/// Judges, and prints the verdict.
pub async fn run(arguments: FlowsJudgeArguments) -> Result<ExitCode> {
    let plan = Plan {
        rocinante: binary(arguments.bin.as_deref())?,
        sniffer: sniffer(arguments.sniffer.as_deref())?,
        clients: arguments.clients,
        seed: arguments.seed.unwrap_or_else(Chance::fresh_seed),
    };
    let say = |line: String| {
        if !arguments.json {
            println!("{line}");
        }
    };
    let report = flows::run(&plan, &say).await?;
    print(&report, arguments.json, flows::table)?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sniffer(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("sniffer")));
    let found = beside.filter(|path| path.is_file()).or_else(|| in_path("sniffer"));
    found.ok_or_else(|| Error::Usage("there is no sniffer; build it with: cargo build --release -p sniffer".to_owned()))
}
