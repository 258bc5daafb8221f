//! The command line.

mod capture;
mod list;
mod output;
mod read;
mod signals;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use sniffer::{
    capture::privileges::PrivilegeError,
    live::LiveError,
    observed::observed,
    report::{Seen, TargetsError, Unfinished},
    track::{Config, Event},
};

/// Flows of the wire, for the fleet's table.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Flows of an interface, until SIGINT or SIGTERM
    #[command(after_help = capture::EXAMPLES)]
    Capture(Box<capture::Arguments>),
    /// Flows of capture files (pcap, pcapng)
    #[command(after_help = read::EXAMPLES)]
    Read(read::Arguments),
}

/// Why a command failed. Each is one line.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("writing: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error("signals: {0}")]
    Signals(io::Error),
    #[error("interfaces: {0}")]
    List(String),
    #[error("{file}: {why}", file = .0.display(), why = .1)]
    File(PathBuf, io::Error),
    #[error("not all of it was done")]
    NotAll,
    #[error(transparent)]
    Targets(#[from] TargetsError),
    #[error("reporting: {0}")]
    Reporter(io::Error),
    #[error("the fleet: {0}")]
    Unfinished(#[from] Unfinished),
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Capture(arguments) if arguments.list => list::run(arguments.json),
        Command::Capture(arguments) => capture::run(*arguments),
        Command::Read(arguments) => read::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sniffer: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// An event in the words of the fleet.
fn seen(event: &Event, config: &Config) -> Seen {
    Seen { kind: event.kind, observed: observed(event, config) }
}

/// So many seconds in microseconds.
fn micros(seconds: u64) -> u64 {
    seconds.saturating_mul(1_000_000)
}
