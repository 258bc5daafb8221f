//! Arguments, and what each command does with them.

mod bench;
mod farm;
mod farm_named;
mod flows;
mod partition;
mod raft;
mod stick;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use loadtest::anycast::net::{self, Net};
use loadtest::anycast::plan as anycast;
use loadtest::error::{Error, Result};
use loadtest::lab;
use loadtest::partition::wire::{Laid, Wire};
use loadtest::partition::{INSTANCES_MAX, NEWCOMERS};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The judge of Rocinante: backends that say their name, and clients that ask every instance at the same moment.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Backends that say their name over TCP and HTTP, and echo.
    #[command(after_help = FARM_EXAMPLES)]
    Farm(FarmArguments),
    /// A fleet, servers and clients around a router that spreads one VIP over the instances, in network namespaces with names.
    #[command(after_help = ANYCAST_EXAMPLES)]
    Anycast(AnycastArguments),
    /// Start a fleet, let clients ask all instances at once while things happen, and judge the answers.
    #[command(after_help = STICK_EXAMPLES)]
    Stick(StickArguments),
    /// The same scenarios against HAProxy in its strongest configuration.
    #[command(after_help = RIVALS_EXAMPLES)]
    Rivals(StickArguments),
    /// Cut, kill, stop and grow a fleet of real processes in networks of their own, and judge what clients were told.
    #[command(after_help = PARTITION_EXAMPLES)]
    Partition(PartitionArguments),
    /// Have a live capture in a network of its own tell a fleet, kill sniffer and leader, and judge what the tables count.
    #[command(after_help = FLOWS_JUDGE_EXAMPLES)]
    Flows(FlowsJudgeArguments),
    /// Measure decisions and traffic, beside HAProxy, nginx and no proxy at all.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArguments),
    /// Three instances and four backends; a backend and the leader are killed before your eyes.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArguments),
}

#[derive(Debug, Args)]
struct FarmArguments {
    /// Where the first backend listens; the others listen on the ports after it.
    #[arg(long, default_value = "127.0.0.1:8887", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// How many backends; as many as there are names, or 4.
    #[arg(long, value_name = "N")]
    count: Option<u16>,
    /// Their names, separated by commas; s1, s2 and so on for those without.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    names: Vec<String>,
    /// Listen a second time from this port on; every port speaks both TCP lines and HTTP anyway.
    #[arg(long, value_name = "PORT")]
    http_port_base: Option<u16>,
}

#[derive(Debug, Args)]
struct AnycastArguments {
    #[command(subcommand)]
    verb: AnycastVerb,
}

#[derive(Debug, Subcommand)]
enum AnycastVerb {
    /// Make the farm and wait until every instance announces the VIP.
    Up {
        /// Instances of the fleet.
        #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
        instances: u8,
        /// Servers, each at a host of its own.
        #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=99))]
        servers: u8,
        /// The binary to run; by default the one beside this program, else the one in PATH.
        #[arg(long, value_name = "PATH")]
        bin: Option<PathBuf>,
    },
    /// Remove it with everything that runs in it, also what a crash left.
    Down,
    /// Show its hosts, what runs there, and over which instances the router spreads the VIP.
    Status {
        /// Print JSON for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Run a shell, or a command, at a host: router, switch, clients, an instance (a, b, c) or a server (s1, s2).
    Shell {
        /// The host.
        host: String,
        /// What to run there; a shell by default.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[derive(Clone, Debug, Args)]
struct StickArguments {
    /// A scenario, several separated by commas, or all.
    #[arg(long, default_value = "all", value_name = "NAME")]
    scenario: String,
    /// Clients that come back again and again, each with a source address of its own.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Visits per second; at each one client asks every instance at the same moment.
    #[arg(long, default_value_t = 400, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// How long each scenario lasts, roughly: what has begun is played to its end. 20 by default, 8 on a farm.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// Instances of the fleet.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    instances: u8,
    /// Instances prove to each other who they are (mTLS), by certificates that `rocinante pki` makes for the run.
    #[arg(long)]
    tls: bool,
    /// Print JSON for scripts, and nothing else, on standard output.
    #[arg(long)]
    json: bool,
    /// The binary under test; by default the one beside this program, else the one in PATH.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// Repeat the chances of an earlier run.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Leave configuration, data and logs behind.
    #[arg(long)]
    keep: bool,
    /// Stay in the caller's network, to look on with other programs; by default a run has a network namespace of its own,
    /// where the system allows it.
    #[arg(long, conflicts_with = "farm")]
    here: bool,
    /// Behind a VIP that a router spreads over the instances by ECMP, in networks that are made for the run.
    #[arg(long, value_name = "KIND")]
    farm: Option<FarmKind>,
    /// Also run HAProxy, when it is installed, and print its rows beside ours; they do not count for the exit status.
    #[arg(long)]
    rivals: bool,
}

/// A farm with a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FarmKind {
    /// In network namespaces.
    Netns,
}

#[derive(Debug, Args)]
struct PartitionArguments {
    /// Instances at the start; two more join and leave again.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(3..=i64::from(INSTANCES_MAX)))]
    instances: u8,
    /// About 30 seconds: fewer phases, shorter faults.
    #[arg(long)]
    short: bool,
    /// Only these phases, in their order; several separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    phases: Vec<String>,
    /// Judge the judge: clients read what instances have applied, which is stale where one is cut off; passes when it is caught.
    #[arg(long)]
    control: bool,
    /// Instances prove to each other who they are (mTLS), by certificates that `rocinante pki` makes for the run.
    #[arg(long)]
    tls: bool,
    /// Print JSON for scripts, and nothing else, on standard output.
    #[arg(long)]
    json: bool,
    /// The binary under test; by default the one beside this program, else the one in PATH.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// Repeat the clients' chances of an earlier run; the processes have theirs.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Leave configuration, data and logs behind; they stay anyway when the run fails, or a control that catches nothing.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct BenchArguments {
    /// Another bench than that of decisions and traffic.
    #[command(subcommand)]
    of: Option<BenchOf>,
    /// How long each measurement lasts; there are about 70 in all.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// How often the products take turns; the median of the rounds is shown.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Only these parts: decisions, commits, http, tcp, bulk; several separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<String>,
    /// Print JSON for scripts, and nothing else, on standard output.
    #[arg(long)]
    json: bool,
    /// The binary under test; by default the one beside this program, else the one in PATH.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum BenchOf {
    /// Measure the log itself: commits of three replicas with a load of our own and over gRPC, beside etcd.
    #[command(after_help = RAFT_EXAMPLES)]
    Raft(RaftArguments),
    /// Measure how many new flows sniffers can tell a fleet of three.
    #[command(after_help = FLOWS_EXAMPLES)]
    Flows(FlowsArguments),
    /// Measure what clients of a VIP notice when an instance leaves, is killed or stops.
    #[command(after_help = VIP_EXAMPLES)]
    Vip(VipArguments),
}

#[derive(Debug, Args)]
struct FlowsJudgeArguments {
    /// Clients in each part; each asks every instance.
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Print JSON for scripts, and nothing else, on standard output.
    #[arg(long)]
    json: bool,
    /// The binary under test; by default the one beside this program, else the one in PATH.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// The sniffer; by default the one beside this program, else the one in PATH.
    #[arg(long, value_name = "PATH")]
    sniffer: Option<PathBuf>,
    /// Repeat the clients' chances of an earlier run.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Debug, Args)]
struct FlowsArguments {
    /// How long, without a second of warm-up.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Sniffers that push at once, each to another instance.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=15))]
    sniffers: u8,
    /// Events of a batch.
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2000))]
    events: u32,
    /// Print JSON for scripts, and nothing else, on standard output.
    #[arg(long)]
    json: bool,
    /// The binary under test; by default the one beside this program, else the one in PATH.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct VipArguments {
    /// Instances of the fleet.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=9))]
    instances: u8,
    /// Connections that are open when an instance goes.
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=5000))]
    connections: u16,
    /// How often each way to go is measured.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Print JSON for scripts, and nothing else, on standard output.
    #[arg(long)]
    json: bool,
    /// The binary under test; by default the one beside this program, else the one in PATH.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RaftArguments {
    /// How long each of the 27 rows lasts, without a second of warm-up.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Only these parts: commits, clients, idle, snapshot; several separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<String>,
    /// Only see that all of it works: fewer rows of one second, fewer groups, a smaller state.
    #[arg(long, conflicts_with = "seconds")]
    short: bool,
    /// Print JSON for scripts, and nothing else, on standard output.
    #[arg(long)]
    json: bool,
    /// The replica; by default examples/raft_node beside this program.
    #[arg(long, value_name = "PATH")]
    node: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct DemoArguments {
    /// The binary to show; by default the one beside this program, else the one in PATH.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// Clients on the screen.
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=40))]
    clients: u32,
    /// Print plain lines, as is done when this is no terminal.
    #[arg(long)]
    plain: bool,
}

/// Does what was asked for.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    raise_descriptor_limit();
    let own_network = match &arguments.command {
        Command::Stick(stick) | Command::Rivals(stick) => !stick.here && stick.farm.is_none(),
        Command::Bench(bench) => !matches!(bench.of, Some(BenchOf::Vip(_))),
        Command::Farm(_) | Command::Anycast(_) | Command::Demo(_) | Command::Partition(_) | Command::Flows(_) => false,
    };
    // Like the network of one's own, it is entered while there is one thread.
    let mut wire = None;
    if let Command::Partition(arguments) = &arguments.command {
        let plan = partition::plan(arguments)?;
        wire = match Wire::lay(arguments.instances + NEWCOMERS)? {
            Laid::Here(wire) => Some((plan, wire)),
            Laid::Not(reason) => {
                eprintln!("NOT RUN: partitions of real processes: {reason}");
                return Ok(ExitCode::from(NOT_RUN));
            }
        };
    }
    let mut net = None;
    if let Some(instances) = farm_of(&arguments.command) {
        net = match Net::lay(anycast::Plan { instances, servers: FARM_SERVERS })? {
            net::Laid::Here(net) => Some(Arc::new(net)),
            net::Laid::Not(reason) => {
                eprintln!("NOT RUN: a farm of network namespaces: {reason}");
                return Ok(ExitCode::from(NOT_RUN));
            }
        };
    }
    // Capturing takes a privilege, which is there in a network of one's own.
    if matches!(arguments.command, Command::Flows(_))
        && !lab::enter_to_build().map_err(Error::io("setting up a network of its own"))?
    {
        eprintln!("NOT RUN: a live capture: no network namespace to be had");
        return Ok(ExitCode::from(NOT_RUN));
    }
    if own_network && !lab::enter().map_err(Error::io("setting up a network of its own"))? {
        eprintln!("no network namespace to be had: running in the machine's own network");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(Error::io("starting the runtime"))?;
    let done = async {
        match arguments.command {
            Command::Farm(arguments) => farm::run(arguments).await,
            Command::Anycast(arguments) => farm_named::run(arguments).await,
            Command::Stick(arguments) => stick::run(arguments, stick::Who::Ours, net).await,
            Command::Rivals(arguments) => stick::run(arguments, stick::Who::Rivals, net).await,
            Command::Partition(arguments) => match wire {
                Some((plan, wire)) => partition::run(&arguments, &plan, wire).await,
                None => Err(Error::Usage("the network was not made".to_owned())),
            },
            Command::Flows(arguments) => flows::run(arguments).await,
            Command::Bench(arguments) => bench::run(arguments, net).await,
            Command::Demo(arguments) => stick::demo(arguments).await,
        }
    };
    // What was started is owned by the future that is dropped here, so that an interrupt leaves nothing behind.
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = done => outcome,
            signal = interrupted() => {
                eprintln!("loadtest: {signal}");
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    });
    runtime.shutdown_timeout(SHUTDOWN);
    outcome
}

/// How many instances a farm with a router is to have, where one is asked for.
fn farm_of(command: &Command) -> Option<u8> {
    match command {
        Command::Stick(stick) | Command::Rivals(stick) => stick.farm.map(|FarmKind::Netns| stick.instances),
        Command::Bench(BenchArguments { of: Some(BenchOf::Vip(vip)), .. }) => Some(vip.instances),
        _ => None,
    }
}

async fn interrupted() -> &'static str {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => match outcome {
            Ok(()) => "interrupted",
            Err(_) => std::future::pending().await,
        },
        () = terminated => "terminated",
    }
}

/// Every client needs sockets of its own; the fleet inherits the limit.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where even the hard limit may not be used, the run says later what it lacks.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
}

/// Hosts for servers, those that are added in a scenario included.
const FARM_SERVERS: u8 = 10;
const WORKERS: usize = 2;
const INTERRUPTED: u8 = 130;
/// As test runners have it: this was neither passed nor failed.
const NOT_RUN: u8 = 77;
const SHUTDOWN: std::time::Duration = std::time::Duration::from_secs(1);

const FLOWS_JUDGE_EXAMPLES: &str = "\
Exit status: 0 every instance has every flow, with the backend of its client, and counts what a capture without faults counts;
1 it does not; 2 usage; 77 there is no network namespace to be had.

Examples:
  loadtest flows
  loadtest flows --clients 200 --json";

const FLOWS_EXAMPLES: &str = "\
Examples:
  loadtest bench flows
  loadtest bench flows --sniffers 1 --events 100 --json";

const VIP_EXAMPLES: &str = "\
A router in a network namespace spreads one VIP over the instances by ECMP, as `loadtest stick --farm netns` has it. What the columns
mean is in docs/performance.md.
Exit status: 0 everything was measured and nobody came back to another server; 1 otherwise; 2 usage; 77 it cannot be run here.

Examples:
  loadtest bench vip
  loadtest bench vip --rounds 10 --json";

const FARM_EXAMPLES: &str = "\
Each backend answers `who` with its name, `from` with the source address, `echo TEXT` with TEXT, `give N` with
N bytes; other bytes come back as they are. On the same port it speaks HTTP/1.1: GET / (name, header X-Backend), /healthz, /echo, /from, /headers, /ws (WebSocket).
Lines on standard input change it while it runs: stop NAME, start NAME, blackhole NAME, heal NAME, cut NAME SOURCE, list.

Examples:
  loadtest farm
  loadtest farm --listen 127.0.0.1:8887 --names s1,s2,s3
  echo who | nc 127.0.0.1 8887";

const ANYCAST_EXAMPLES: &str = "\
It takes root, `ip` (iproute2) and `nft` (nftables); BIRD 2 (bird2) carries the announcements where it is installed, else a command
changes the router's route. Everything has a name: namespaces rocinante-HOST, files in /run/rocinante-farm.

Examples:
  loadtest anycast up
  loadtest anycast status
  loadtest anycast shell clients curl -s http://192.0.2.1:9002/who
  loadtest anycast shell router ip route
  loadtest anycast down";

const STICK_EXAMPLES: &str = "\
Scenarios: first-contact, churn, skewed-health, leader-kill, rolling-restart, restart-all, pause, partition, and with --farm
router-path. A farm needs `ip` and `nft`, and BIRD 2 for BGP; its networks end with the run. Exit status 77: it is not to be had here.
Exit status: 0 every scenario passed; 1 a client was split, moved or stray, or more was lost than the budget; 2 usage.

Examples:
  loadtest stick
  loadtest stick --scenario leader-kill --clients 100 --seconds 10
  loadtest stick --scenario churn,partition --bin target/release/rocinante --json
  loadtest stick --farm netns
  loadtest stick --rivals";

const RIVALS_EXAMPLES: &str = "\
Exit status is 0 when all scenarios could be run, whatever came of them.

Examples:
  loadtest rivals
  loadtest rivals --scenario churn --bin /usr/sbin/haproxy";

const PARTITION_EXAMPLES: &str = "\
It needs `ip` (iproute2), `nft` (nftables) and network namespaces, as root or as a user who may have user namespaces. Networks and
processes are in namespaces without names and end with it, however it ends. Its files are in the temporary directory (TMPDIR):
they stay after a failure or with --keep, and those of a run that was killed are removed by the next one.
Phases: calm, cut-leader, cut-follower, deaf-leader, mute-leader, bridge, kill, kill-all, pause, transfer, rolling, grow,
grown-minority, grown-bridge, shrink, calm-again.
Exit status: 0 everything held; 1 it did not; 2 usage; 77 it cannot be run here, for the reason that is said.

Examples:
  loadtest partition
  loadtest partition --short
  loadtest partition --phases grow,grown-minority,shrink --keep
  loadtest partition --short --phases calm,cut-leader --control
  loadtest partition --instances 5 --bin target/release/rocinante --json";

const BENCH_EXAMPLES: &str = "\
What is measured has a core to itself, clients and servers have the others. The rate depends on them as well; the CPU time of
the proxy's processes is the figure to trust. Rows of what is not installed say so. What the figures mean, and how HAProxy and
nginx are configured, is in docs/performance.md.
Exit status: 0 everything was measured; 1 something could not be; 2 usage.

Examples:
  loadtest bench
  loadtest bench --only http,tcp --rounds 5
  loadtest bench --only commits --seconds 10 --json";

const RAFT_EXAMPLES: &str = "\
Three replicas on loopback addresses, each with a log of its own on the disk of the temporary directory (TMPDIR), and three
members of etcd beside them where it is installed. Everything shares this machine: figures of a busy one say little. What they
mean is in docs/performance.md.
Exit status: 0 everything was measured; 1 something could not be; 2 usage.

Examples:
  loadtest bench raft
  loadtest bench raft --only commits,clients --seconds 10
  loadtest bench raft --short --json";

const DEMO_EXAMPLES: &str = "\
Exit status: 0 no client was split or moved, 1 otherwise.

Examples:
  loadtest demo
  loadtest demo --plain | tee demo.txt";
