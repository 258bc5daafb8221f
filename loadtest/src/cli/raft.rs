//! `loadtest bench raft`: measure the log, print a table.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use loadtest::bench::raft::{self, Part, Plan};
use loadtest::error::{Error, Result};

use super::RaftArguments;
use super::stick::in_path;

/// Measures what was asked for.
pub async fn run(arguments: RaftArguments) -> Result<ExitCode> {
    let plan = Plan {
        parts: parts(&arguments.only)?,
        seconds: if arguments.short { 1 } else { arguments.seconds },
        short: arguments.short,
        node: node(arguments.node)?,
        etcd: in_path("etcd"),
    };
    let terminal = std::io::stderr().is_terminal();
    let watch = |what: &str| {
        let end = if terminal { "\x1b[K\r" } else { "\n" };
        let mut out = std::io::stderr().lock();
        // Nobody may be reading; the figures do not depend on it.
        write!(out, "{what}{end}").and_then(|()| out.flush()).ok();
    };
    let report = raft::run(&plan, &watch).await?;
    if terminal {
        eprint!("\x1b[K");
    }
    if arguments.json {
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.map_err(|error| Error::Fleet(format!("writing JSON: {error}")))?);
    } else {
        print!("{}", raft::table(&report));
    }
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parts(names: &[String]) -> Result<Vec<Part>> {
    if names.is_empty() {
        return Ok(Part::ALL.to_vec());
    }
    let known = || Part::ALL.map(Part::name).join(", ");
    let part = |name: &String| {
        let part = Part::ALL.into_iter().find(|part| part.name() == name.trim());
        part.ok_or_else(|| Error::Usage(format!("no part of this bench is called {name}; there are: {}", known())))
    };
    names.iter().map(part).collect()
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
