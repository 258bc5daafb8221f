//! `loadtest bench`: measure, print a table.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use loadtest::bench::{self, Part, Plan};
use loadtest::error::{Error, Result};

use super::stick::{binary, in_path};
use super::{BenchArguments, BenchOf};

/// Measures what was asked for.
pub async fn run(arguments: BenchArguments) -> Result<ExitCode> {
    if let Some(BenchOf::Raft(arguments)) = arguments.of {
        return super::raft::run(arguments).await;
    }
    let plan = Plan {
        parts: parts(&arguments.only)?,
        seconds: arguments.seconds,
        rounds: arguments.rounds,
        rocinante: binary(arguments.bin.as_deref())?,
        haproxy: in_path("haproxy"),
        nginx: in_path("nginx"),
    };
    let terminal = std::io::stderr().is_terminal();
    let watch = |done: u32, all: u32, what: &str| {
        let end = if terminal { "\x1b[K\r" } else { "\n" };
        let mut out = std::io::stderr().lock();
        // Nobody may be reading; the figures do not depend on it.
        write!(out, "{done:>3}/{all}  {what}{end}").and_then(|()| out.flush()).ok();
    };
    let report = bench::run(&plan, &watch).await?;
    if terminal {
        eprint!("\x1b[K");
    }
    if arguments.json {
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.map_err(|error| Error::Fleet(format!("writing JSON: {error}")))?);
    } else {
        print!("{}", bench::table(&report));
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
        part.ok_or_else(|| Error::Usage(format!("no part of the bench is called {name}; there are: {}", known())))
    };
    names.iter().map(part).collect()
}
