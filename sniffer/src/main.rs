//! The binary `sniffer`.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use sniffer::{
    read,
    track::{Config, Timeouts},
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
    /// Flows of capture files (pcap, pcapng)
    Read {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// One JSON object a file
        #[arg(long)]
        json: bool,
        /// A flow ends after so many seconds of silence [default: one record a key]
        #[arg(long, value_name = "SECONDS")]
        idle: Option<u64>,
        /// 7: the TOS byte and the VLAN are part of the key
        #[arg(long, default_value = "5", value_parser = ["5", "7"])]
        key: String,
        /// Only packets that this filter lets through (pcap-filter(7))
        #[arg(long)]
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let Command::Read { files, json: _, idle, key, filter } = Arguments::parse().command;
    let timeouts = Timeouts::all(idle.map_or(u64::MAX, |seconds| seconds.saturating_mul(1_000_000)));
    let config = Config { seven: key == "7", timeouts, split_closed: false, ..Config::default() };
    let mut out = std::io::stdout().lock();
    for file in files {
        let (report, error) = read::read(&file, filter.as_deref(), config.clone());
        if let Some(error) = error {
            eprintln!("sniffer: {error}");
        }
        let written =
            serde_json::to_writer(&mut out, &report).map_err(std::io::Error::from).and_then(|()| writeln!(out));
        if let Err(error) = written {
            eprintln!("sniffer: writing: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
