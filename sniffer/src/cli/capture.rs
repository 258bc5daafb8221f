//! `sniffer capture`: flows of an interface, as they begin and end.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    num::NonZeroUsize,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, value_parser};
use serde::Serialize;
use sniffer::{
    capture::{Settings, privileges},
    live::{Ended, Live, LiveError, Options, Sink, Tally},
    record::{Record, Told},
    report::{self, Counters, ReportArgs, Reporter},
    track::{Config, Event, FLOWS_MAX, Kind, Timeouts},
};

use super::{
    Failure, micros,
    output::{self, Rows},
    seen, signals,
};

#[derive(Args)]
pub struct Arguments {
    /// The interface; `any` for all of them
    #[arg(required_unless_present = "list")]
    interface: Option<String>,
    /// Only packets that this filter lets through (pcap-filter(7))
    filter: Vec<String>,
    /// Lists the interfaces instead
    #[arg(long)]
    pub list: bool,
    /// Each event of a flow as a JSON object on a line of its own, and at last what was counted
    #[arg(long)]
    pub json: bool,
    /// No row for each flow that ends
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Keeps the captured packets in this file (pcap)
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Ends after so many packets
    #[arg(long, value_name = "PACKETS", value_parser = value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends after so long
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// 7: the TOS byte and the VLAN are part of the key
    #[arg(long, default_value = "5", value_parser = ["5", "7"])]
    key: String,
    /// A flow ends after so many seconds of silence [default: by its protocol]
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    idle: Option<u64>,
    /// A flow that goes on is told of again after so many seconds; the fleet forgets one that it is not told of for 180
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = value_parser!(u64).range(1..=ACTIVE_MAX))]
    active: u64,
    /// One flow in so many, chosen by its id: every sniffer chooses the same ones
    #[arg(long, value_name = "N", default_value = "1", value_parser = value_parser!(u32).range(1..))]
    sample: u32,
    /// Most flows at once; beyond it those that were silent longest are given up
    #[arg(long, value_name = "N", default_value_t = Config::default().flows_max as u64,
        value_parser = value_parser!(u64).range(1..=FLOWS_MAX as u64))]
    flows_max: u64,
    /// Threads that share the packets, by flows
    #[arg(long, value_name = "N", default_value = "1", value_parser = value_parser!(u8).range(1..=WORKERS_MAX))]
    workers: u8,
    /// Packets that wait in the kernel, in MiB for each worker
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = value_parser!(u32).range(1..=BUFFER_MIB_MAX))]
    buffer: u32,
    /// Bytes of each packet that are captured [default: 2048, with --write 262144]
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u32).range(64..=i64::from(SNAPLEN_MAX)))]
    snaplen: Option<u32>,
    /// Only frames for this station
    #[arg(long)]
    no_promisc: bool,
    /// Who captures, if root begins it [default: nobody]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    report: ReportArgs,
}

/// Captures until it is told to stop.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let (user, json, quiet) = (arguments.user.clone(), arguments.json, arguments.quiet);
    // Files are read while that is allowed, and threads are started when nothing else is any more.
    let targets = arguments.report.targets()?;
    let name = arguments.report.name.clone();
    let options = options(arguments);
    let live = Live::open(options.clone())?;
    let uid = privileges::drop_all(user.as_deref())?;
    let fleet = targets.map(|targets| {
        let report = report::Options::of_interface(targets, name, &options.interface);
        eprintln!("sniffer: telling {} as {}", report.targets, report.name);
        Reporter::start(report).map(|reporter| Fleet { reporter, flows: live.flows() })
    });
    let fleet = fleet.transpose().map_err(Failure::Reporter)?;
    signals::listen().map_err(Failure::Signals)?;
    let link = live.link().map_or("a link that is not known".to_owned(), |link| format!("{link:?}"));
    let begun = Instant::now();
    let began = || {
        let workers = options.workers;
        eprintln!("sniffer: capturing on {} ({link}), workers: {workers}, as user {uid}", options.interface);
    };
    let mut sink = Printer::new(json, quiet, fleet);
    let ended = live.run(&mut sink, &signals::STOP, began);
    let time = begun.elapsed();
    let told = sink.fleet.take().map(|fleet| fleet.reporter.finish(FINISH_WITHIN));
    let counters = told.as_ref().map(|told| match told {
        Ok(counters) => *counters,
        Err(unfinished) => *unfinished.counters,
    });
    sink.summary(&ended, counters, time)?;
    ended.error.map_or(Ok(()), |error| Err(Failure::from(error)))?;
    told.transpose()?;
    Ok(())
}

/// Where events go beside the terminal.
struct Fleet {
    reporter: Reporter,
    /// How flows are told apart.
    flows: Config,
}

fn options(arguments: Arguments) -> Options {
    let default = Config::default();
    let flows = Config {
        seven: arguments.key == "7",
        timeouts: arguments.idle.map_or(default.timeouts, |seconds| Timeouts::all(micros(seconds))),
        active_us: micros(arguments.active),
        flows_max: arguments.flows_max.try_into().unwrap_or(usize::MAX),
        sample: arguments.sample,
        ..default
    };
    let snaplen = arguments.snaplen.unwrap_or(if arguments.write.is_some() { SNAPLEN_MAX } else { SNAPLEN });
    Options {
        interface: arguments.interface.unwrap_or_default(),
        filter: arguments.filter.join(" "),
        settings: Settings {
            snaplen,
            buffer_bytes: arguments.buffer.saturating_mul(1 << 20),
            promiscuous: !arguments.no_promisc,
        },
        workers: NonZeroUsize::new(arguments.workers.into()).unwrap_or(NonZeroUsize::MIN),
        flows,
        save: arguments.write,
        packets_max: arguments.count,
        time_max: arguments.seconds.map(Duration::from_secs),
    }
}

/// Prints what a capture tells: flows on standard output, the rest on standard error.
struct Printer {
    out: BufWriter<io::Stdout>,
    json: bool,
    rows: Option<Rows>,
    header: bool,
    /// A line about now is shown on a terminal, and replaced by the next one.
    now: bool,
    before: (Instant, Tally),
    shown: bool,
    fleet: Option<Fleet>,
    /// What was said last of the fleet's trouble.
    trouble: Option<String>,
}

impl Printer {
    fn new(json: bool, quiet: bool, fleet: Option<Fleet>) -> Self {
        Self {
            out: BufWriter::with_capacity(OUTPUT_BYTES, io::stdout()),
            json,
            rows: (!json && !quiet).then(|| Rows::of([])),
            header: false,
            now: io::stderr().is_terminal(),
            before: (Instant::now(), Tally::default()),
            shown: false,
            fleet,
            trouble: None,
        }
    }

    /// Ends a capture for a fleet that takes nothing from it any more: whoever started it has to know.
    fn check_fleet(&self) -> io::Result<()> {
        match self.fleet.as_ref().and_then(|fleet| fleet.reporter.ended()) {
            Some(why) => Err(io::Error::other(format!("the fleet: {why}"))),
            None => Ok(()),
        }
    }

    /// Says when something is wrong with the fleet, and when it is well again.
    fn tell_trouble(&mut self) {
        let Some(fleet) = &self.fleet else { return };
        let trouble = fleet.reporter.trouble();
        if trouble != self.trouble {
            self.trouble.clone_from(&trouble);
            self.clear();
            match trouble {
                Some(trouble) => eprintln!("sniffer: the fleet: {trouble}"),
                None => eprintln!("sniffer: the fleet is told again"),
            }
        }
    }

    /// Makes room for lines that stay.
    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }

    /// What was counted, at the end.
    fn summary(&mut self, ended: &Ended, told: Option<Counters>, time: Duration) -> Result<(), Failure> {
        self.clear();
        let total = ended.total();
        eprint!("{}", summary(&total, time));
        if let Some(told) = told {
            eprint!("{}", report_summary(&told));
        }
        // Who does not read flows any more does not read this.
        if self.json && !matches!(ended.error, Some(LiveError::Sink(_))) {
            output::line(&mut self.out, &Summary { event: "summary", total, workers: &ended.workers, fleet: told })?;
            self.out.flush()?;
        }
        Ok(())
    }
}

impl Sink for Printer {
    fn events(&mut self, events: Vec<Event>) -> io::Result<()> {
        self.check_fleet()?;
        if let Some(Fleet { reporter, flows }) = &self.fleet {
            reporter.offer(events.iter().map(|event| seen(event, flows)).collect());
        }
        if self.json {
            events.iter().try_for_each(|event| output::line(&mut self.out, &Told::of(event)))?;
        } else if self.rows.is_some() {
            let mut ended =
                events.iter().filter(|event| matches!(event.kind, Kind::End(_) | Kind::Short(_))).peekable();
            if ended.peek().is_some() {
                self.clear();
            }
            if let Some(rows) = self.rows.as_mut().filter(|_| ended.peek().is_some()) {
                if !std::mem::replace(&mut self.header, true) {
                    rows.header(&mut self.out)?;
                }
                ended.try_for_each(|event| rows.row(&mut self.out, &Record::of(&event.flow)))?;
            }
        }
        self.out.flush()
    }

    fn progress(&mut self, tally: &Tally) -> io::Result<()> {
        self.check_fleet()?;
        self.tell_trouble();
        let (then, before) = std::mem::replace(&mut self.before, (Instant::now(), *tally));
        if self.now {
            let seconds = then.elapsed().as_secs_f64();
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let packets = rate(tally.handled, before.handled);
            let megabits = rate(tally.bytes, before.bytes) * 8.0 / 1e6;
            let events = rate(tally.events, before.events);
            let (flows, dropped, shed) = (tally.flows_now, tally.kernel_dropped, tally.events_shed);
            eprint!(
                "\r\x1b[K{packets:.0} packets/s, {megabits:.1} Mbit/s, {flows} flows, {events:.0} events/s, {dropped} dropped, \
                 {shed} shed"
            );
            if let Some(fleet) = &self.fleet {
                let told = fleet.reporter.counters();
                eprint!(
                    "; fleet: {} acked, {} waiting, {} shed",
                    told.acked,
                    told.pending + told.in_flight,
                    told.shed.total()
                );
            }
            self.shown = true;
        }
        Ok(())
    }
}

/// The last line of JSON.
#[derive(Serialize)]
struct Summary<'a> {
    event: &'static str,
    #[serde(flatten)]
    total: Tally,
    workers: &'a [Tally],
    /// What became of events that the fleet was to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<Counters>,
}

/// The same for what the fleet was told.
fn report_summary(told: &Counters) -> String {
    let Counters { offered, acked, coalesced, pending, in_flight, shed, malformed, orphaned, .. } = told;
    let Counters { batches_acked, batches_again, batches_resent, .. } = told;
    format!(
        "the fleet: offered {offered} = acknowledged {acked} + coalesced {coalesced} + waiting {pending} + in flight {in_flight} \
         + shed {} (updates {}, ends {}, begins {}) + malformed {malformed} \
         + orphaned {orphaned}; batches {batches_acked}, come again {batches_again}, sent again {batches_resent}\n",
        shed.total(),
        shed.updates,
        shed.ends,
        shed.begins
    )
}

/// What was counted, for people: each line is a sum and its parts.
fn summary(total: &Tally, time: Duration) -> String {
    let Tally { received, handled, kernel_dropped, withheld, .. } = total;
    let Tally { tracked, unsampled, over_count, not_ip, nonfirst_fragments, malformed, unknown_link, .. } = total;
    let Tally { flows, flows_evicted, flows_unclassified, events, events_shed, bytes, interface_dropped, .. } = total;
    format!(
        "received {received} = handled {handled} + dropped by the kernel {kernel_dropped} + withheld by libpcap {withheld}\n\
         handled {handled} = tracked {tracked} + unsampled {unsampled} + over --count {over_count} + not IP {not_ip} \
         + later fragments {nonfirst_fragments} + malformed {malformed} + unknown link {unknown_link}\n\
         {bytes} bytes in {:.1} s; flows {flows}, evicted {flows_evicted}, not classified {flows_unclassified}; events told {events}, shed {events_shed}; \
         lost by the interface before {interface_dropped}\n",
        time.as_secs_f64()
    )
}

/// Bytes of each packet that are captured: all that classification looks at, in frames of usual size. Counting goes by the
/// size on the wire.
const SNAPLEN: u32 = 2048;

/// What tcpdump captures: whole packets, of any interface.
const SNAPLEN_MAX: u32 = 262_144;

/// libpcap takes the buffer's size in bytes as a number of 31 bits.
const BUFFER_MIB_MAX: i64 = 2047;

const WORKERS_MAX: i64 = 64;

/// A flow that goes on must be told of before the fleet forgets it, and in time for that to be committed.
const ACTIVE_MAX: u64 = 120;

/// How long the last events may take to be acknowledged.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of output that are written at once.
const OUTPUT_BYTES: usize = 64 << 10;

pub const EXAMPLES: &str = "\
Examples:
  sniffer capture --list                        the interfaces
  sniffer capture eth0                          a row for each flow that ends
  sniffer capture any tcp port 443 --json       for scripts: a line for each event of a flow
  sniffer capture eth0 --write eth0.pcap --seconds 60
  sniffer capture eth0 --config conf/pool.toml --quiet    for the fleet's table of flows
  sniffer capture eth0 --workers 4 --buffer 256 --sample 16 --quiet

Needs CAP_NET_RAW: as root, which becomes nobody once the interface is open, or after
`setcap cap_net_raw+ep` on the program. Ends at SIGINT or SIGTERM, and tells of all flows then.";
