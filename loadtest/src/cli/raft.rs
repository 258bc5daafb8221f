//! `loadtest bench raft`: measure the log, print a table.

use std::path::PathBuf;
use std::process::ExitCode;

use loadtest::bench::raft::{self, Part, Plan};
use loadtest::error::{Error, Result};
use loadtest::fleet::process::in_path;

use super::RaftArguments;
use super::bench::{Progress, parts, print};

/// Measures what was asked for.
pub async fn run(arguments: RaftArguments) -> Result<ExitCode> {
    let plan = Plan {
        parts: parts(&arguments.only, &Part::ALL, Part::name)?,
        seconds: if arguments.short { 1 } else { arguments.seconds },
        short: arguments.short,
        node: node(arguments.node)?,
        etcd: in_path("etcd"),
    };
    let progress = Progress::new();
    let report = raft::run(&plan, &|what| progress.show(what)).await?;
    progress.end();
    print(&report, arguments.json, raft::table)?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn node(given: Option<PathBuf>) -> Result<PathBuf> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("examples/raft_node"));
    match given.or_else(beside).filter(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => Err(Error::Usage(
            "there is no raft_node; build it with: cargo build --release -p raftlog --features net --example raft_node"
                .to_owned(),
        )),
    }
}
