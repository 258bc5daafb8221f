//! `sniffer read`: flows of capture files.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sniffer::{
    capture::privileges,
    read::{self, Report},
    report::{Counters, Options, ReportArgs, Reporter, Targets},
    track::{Config, Event, Timeouts},
};

use super::{
    Failure, micros,
    output::{self, Rows},
    seen,
};

#[derive(Args)]
pub struct Arguments {
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
    /// Who reads, if root begins it [default: nobody]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    report: ReportArgs,
}

/// Reads the files one after the other. What is wrong with one is told, and the next one read.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let timeouts = Timeouts::all(arguments.idle.map_or(u64::MAX, micros));
    let config = Config { seven: arguments.key == "7", timeouts, split_closed: false, ..Config::default() };
    let targets = arguments.report.targets()?;
    // What comes from the wire is looked at without the privileges that it took to open it.
    let mut early = VecDeque::new();
    if privileges::any()? {
        // All at once, so as many as the system lets this process have; those beyond say so.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
        early.extend(arguments.files.iter().map(File::open));
    }
    privileges::drop_all(arguments.user.as_deref())?;
    let mut out = io::stdout().lock();
    let mut untold = None;
    for path in &arguments.files {
        // What is not there cannot be read in part.
        let file = match early.pop_front().unwrap_or_else(|| File::open(path)) {
            Ok(file) => file,
            Err(error) => {
                eprintln!("sniffer: {}", Failure::File(path.clone(), error));
                untold = Some(Failure::NotAll);
                continue;
            }
        };
        let reporter = targets.clone().map(|targets| reporter(arguments, targets, path, &file)).transpose()?;
        let tell = |events: &[Event]| {
            // Why it ended is told when all is read.
            if let Some(reporter) = reporter.as_ref().filter(|_| !events.is_empty()) {
                reporter.offer_waiting(events.iter().map(|event| seen(event, &config)).collect()).ok();
            }
        };
        let (report, error) = read::read_telling(path, file, arguments.filter.as_deref(), config.clone(), tell);
        if let Some(error) = error {
            eprintln!("sniffer: {error}");
        }
        if let Some(reporter) = reporter
            && let Err(failure) = finish(reporter, path, report.flows.len())
        {
            eprintln!("sniffer: {failure}");
            untold = Some(Failure::NotAll);
        }
        if arguments.json {
            output::line(&mut out, &report)?;
        } else {
            table(&mut out, &report)?;
        }
    }
    untold.map_or(Ok(()), Err)
}

/// Each file is a sniffer of its own to the fleet, which knows it again.
fn reporter(arguments: &Arguments, targets: Targets, path: &Path, file: &File) -> Result<Reporter, Failure> {
    let Arguments { key, idle, filter, .. } = arguments;
    let settings = format!("key {key} idle {idle:?} filter {filter:?}");
    let failed = |error| Failure::File(path.to_owned(), error);
    let options = Options::of_file(targets, arguments.report.name.clone(), file, &settings).map_err(failed)?;
    Reporter::start(options).map_err(failed)
}

/// Says what the fleet knows now.
fn finish(reporter: Reporter, path: &Path, flows: usize) -> Result<(), Failure> {
    let Counters { acked, batches_acked, batches_again, .. } = reporter.finish(FINISH_WITHIN)?;
    let path = path.display();
    match batches_again == batches_acked && acked > 0 {
        true => eprintln!(
            "sniffer: {path}: the fleet was told of this file before, and counts it once; --name NAME tells it anew"
        ),
        false => eprintln!("sniffer: {path}: told the fleet of {flows} flows"),
    }
    Ok(())
}

/// How long the last events may take to be acknowledged.
const FINISH_WITHIN: Duration = Duration::from_secs(30);

/// The flows of a file, for people.
fn table(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let skipped = report.not_ip + report.nonfirst_fragments + report.malformed + report.unknown_link;
    let (packets, flows) = (report.packets, report.flows.len());
    writeln!(out, "{}: {packets} packets, {flows} flows, {skipped} packets without one", report.file)?;
    let mut rows = Rows::of(&report.flows);
    rows.header(out)?;
    for flow in &report.flows {
        rows.row(out, flow)?;
    }
    writeln!(out)
}

pub const EXAMPLES: &str = "\
Examples:
  sniffer read trace.pcap                       a table of its flows
  sniffer read --json *.pcap | jq .flows        for scripts: one object a file
  sniffer read --idle 60 --filter 'udp port 53' trace.pcapng
  sniffer read trace.pcap --config conf/pool.toml    and tell the fleet

A file that the fleet was told of counts once, however often it is read. Root becomes nobody (or --user)
once all files are open.";
