//! `loadtest bench`: measure, print a table.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use loadtest::anycast::net::Net;
use loadtest::bench::{self, Part, Plan};
use loadtest::error::{Error, Result};
use loadtest::fleet::process::in_path;
use serde::Serialize;

use super::stick::binary;
use super::{BenchArguments, BenchOf, FlowsArguments, VipArguments};

/// Measures what was asked for.
pub async fn run(arguments: BenchArguments, net: Option<Arc<Net>>) -> Result<ExitCode> {
    match arguments.of {
        Some(BenchOf::Raft(arguments)) => return super::raft::run(arguments).await,
        Some(BenchOf::Flows(arguments)) => return flows(arguments).await,
        Some(BenchOf::Vip(arguments)) => return vip(arguments, net).await,
        None => {}
    }
    let plan = Plan {
        parts: parts(&arguments.only, &Part::ALL, Part::name)?,
        seconds: arguments.seconds,
        rounds: arguments.rounds,
        rocinante: binary(arguments.bin.as_deref())?,
        haproxy: in_path("haproxy"),
        nginx: in_path("nginx"),
    };
    let progress = Progress::new();
    let watch = |done: u32, all: u32, what: &str| progress.show(&format!("{done:>3}/{all}  {what}"));
    let report = bench::run(&plan, &watch).await?;
    progress.end();
    print(&report, arguments.json, bench::table)?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn flows(arguments: FlowsArguments) -> Result<ExitCode> {
    let plan = bench::flows::Plan {
        seconds: arguments.seconds,
        sniffers: arguments.sniffers,
        events: arguments.events as usize,
        rocinante: binary(arguments.bin.as_deref())?,
    };
    let progress = Progress::new();
    let report = bench::flows::run(&plan, &|what| progress.show(what)).await?;
    progress.end();
    print(&report, arguments.json, bench::flows::table)?;
    let equal = report.flows_in_tables.windows(2).all(|pair| pair.first() == pair.last());
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn vip(arguments: VipArguments, net: Option<Arc<Net>>) -> Result<ExitCode> {
    let net = net.ok_or_else(|| Error::Usage("the farm was not made".to_owned()))?;
    let plan = bench::vip::Plan {
        rocinante: binary(arguments.bin.as_deref())?,
        instances: arguments.instances,
        connections: arguments.connections,
        rounds: arguments.rounds,
    };
    let progress = Progress::new();
    let report = bench::vip::run(&net, &plan, &|what| progress.show(what)).await?;
    progress.end();
    print(&report, arguments.json, bench::vip::table)?;
    let moved = report.rows.iter().any(|(_, row)| row.moved > 0);
    Ok(if moved { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The parts of a bench that are named; all where none is.
pub fn parts<P: Copy>(names: &[String], all: &[P], name_of: impl Fn(P) -> &'static str) -> Result<Vec<P>> {
    if names.is_empty() {
        return Ok(all.to_vec());
    }
    let known = || all.iter().map(|part| name_of(*part)).collect::<Vec<_>>().join(", ");
    let part = |name: &String| {
        let part = all.iter().copied().find(|part| name_of(*part) == name.trim());
        part.ok_or_else(|| Error::Usage(format!("no part of this bench is called {name}; there are: {}", known())))
    };
    names.iter().map(part).collect()
}

/// Prints what was measured, as JSON or as a table.
pub fn print<R: Serialize>(report: &R, json: bool, table: impl Fn(&R) -> String) -> Result<()> {
    if json {
        let text = serde_json::to_string_pretty(report);
        println!("{}", text.map_err(|error| Error::Fleet(format!("writing JSON: {error}")))?);
    } else {
        print!("{}", table(report));
    }
    Ok(())
}

/// What is being done, on standard error: a line that changes on a terminal, else one line after the other.
pub struct Progress {
    terminal: bool,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal() }
    }

    pub fn show(&self, what: &str) {
        let end = if self.terminal { "\x1b[K\r" } else { "\n" };
        let mut out = std::io::stderr().lock();
        // Nobody may be reading; the figures do not depend on it.
        write!(out, "{what}{end}").and_then(|()| out.flush()).ok();
    }

    /// Leaves no line behind.
    pub fn end(&self) {
        if self.terminal {
            eprint!("\x1b[K");
        }
    }
}
