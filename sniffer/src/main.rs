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
        /// One JSON object a file, on a line of its own, in place of a table
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
    let Command::Read { files, json, idle, key, filter } = Arguments::parse().command;
    let timeouts = Timeouts::all(idle.map_or(u64::MAX, |seconds| seconds.saturating_mul(1_000_000)));
    let config = Config { seven: key == "7", timeouts, split_closed: false, ..Config::default() };
    let mut out = std::io::stdout().lock();
    for file in files {
        let (report, error) = read::read(&file, filter.as_deref(), config.clone());
        if let Some(error) = error {
            eprintln!("sniffer: {error}");
        }
        let written = if json {
            serde_json::to_writer(&mut out, &report).map_err(std::io::Error::from).and_then(|()| writeln!(out))
        } else {
            table(&mut out, &report)
        };
        if let Err(error) = written {
            eprintln!("sniffer: writing: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The flows of a file, for people.
fn table(out: &mut impl Write, report: &read::Report) -> std::io::Result<()> {
    let skipped = report.not_ip + report.nonfirst_fragments + report.malformed + report.unknown_link;
    let (packets, flows) = (report.packets, report.flows.len());
    writeln!(out, "{}: {packets} packets, {flows} flows, {skipped} packets without one", report.file)?;
    writeln!(
        out,
        "{:<6}{:<24}{:<24}{:>9}{:>9}{:>12}  {:<12}name",
        "proto", "from", "to", "there", "back", "bytes", "app"
    )?;
    for flow in &report.flows {
        let end = |address: &str, port: u16| match address.contains(':') {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        };
        let (from, to) = (end(&flow.src, flow.sport), end(&flow.dst, flow.dport));
        let (app, host) = (flow.app.unwrap_or("-"), flow.host.as_deref().unwrap_or("-"));
        let (there, back, bytes) = (flow.packets_fwd, flow.packets_rev, flow.bytes_wire);
        writeln!(out, "{:<6}{from:<24}{to:<24}{there:>9}{back:>9}{bytes:>12}  {app:<12}{host}", flow.proto)?;
    }
    writeln!(out)
}
