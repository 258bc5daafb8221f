//! The words of the command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{client::Endpoint, flow_args::FlowCommand, transparent::TransparentCommand};
use crate::config::{check_name, rules::parse_host};
use crate::rest::operate::DetectorJson;

/// A load-balancer fleet in which every instance gives every client the same server.
#[derive(Debug, Parser)]
#[command(name = "rocinante", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one instance of the fleet
    #[command(after_help = "Examples:\n  rocinante run --config conf/pool.toml --instance a\n  \
        rocinante run --instance b --data-dir /var/lib/rocinante/b")]
    Run(RunArgs),
    /// Hold the announcement of an instance's VIPs; instances start it
    #[command(hide = true)]
    VipKeeper(KeeperArgs),
    /// Check a configuration file and change nothing
    #[command(after_help = "Examples:\n  rocinante check --config conf/pool.toml\n  \
        rocinante check --config conf/pool.toml --instance a    also the certificates of a")]
    Check {
        /// The file
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Check the certificates of this instance [default: of all that have some here]
        #[arg(long, value_name = "LABEL")]
        instance: Option<String>,
    },
    /// Make the fleet's pools those of a file; shows the difference first
    #[command(after_help = "Examples:\n  rocinante apply --config conf/pool.toml\n  \
        rocinante apply --config new.toml --yes --endpoint 127.0.0.1:8001")]
    Apply(ApplyArgs),
    /// Show roles, terms, indexes, members, pools, verdicts and leases
    #[command(after_help = "Examples:\n  rocinante status\n  rocinante status --endpoint 127.0.0.2:8001 --json")]
    Status {
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// List, add, remove, drain or enable servers of a pool
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  rocinante server list web\n  rocinante server add web s5 127.0.0.1:8891 --weight 50\n  \
            rocinante server drain web s5            before it goes: its clients stay, new ones go elsewhere\n  \
            rocinante server remove web s5"
    )]
    Server(ServerCommand),
    /// See or remove the pins of clients
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  rocinante pin list web\n  rocinante pin get web 192.0.2.7\n  \
            rocinante pin delete web 192.0.2.7       it is assigned anew when it next comes"
    )]
    Pin(PinCommand),
    /// Read and write the fleet's key-value store
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  rocinante kv put color blue\n  rocinante kv get color --consistency linearizable\n  \
            rocinante kv list config/\n  rocinante kv delete color"
    )]
    Kv(KvCommand),
    /// See, follow and mark the flows that sniffers report
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  rocinante flow list --port 443 --app quic\n  rocinante flow watch --host example.net\n  \
            rocinante flow get 1:LQU9qZlK+B5F3KDmev6m5PMibrg=\n  \
            rocinante flow verdict 5/3244066905220904990 drop --source firewall"
    )]
    Flow(FlowCommand),
    /// List, add, remove or promote instances, or hand over the leadership
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  rocinante member list\n  rocinante member add d 192.0.2.4\n  \
            rocinante member promote d               once it is ready\n  rocinante member transfer b\n  \
            rocinante member remove d"
    )]
    Member(MemberCommand),
    /// Show or change how elections are driven, while the fleet runs
    #[command(
        after_help = "Examples:\n  rocinante tune                                 show the committed settings\n  \
        rocinante tune --heartbeat 100 --election 600  for a slow network; the others stay\n  \
        rocinante tune --detector fixed:1000\n  rocinante tune --shuffle 2000                  chaos: leaders change all the time\n  \
        rocinante tune --reset                         back to the configuration\n\n\
        Settings are committed: every instance goes by them as soon as it hears of them, also after a restart.\n\
        All of them are: what is not named stays as it was committed or, while nothing is committed, as the configuration of\n\
        the instance asked has it. Of two changes at the same time the later one counts, as a whole."
    )]
    Tune(TuneArgs),
    /// Back the fleet's tables up, look into a backup, or begin a new fleet with one
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  rocinante snapshot save fleet.backup\n  rocinante snapshot inspect fleet.backup\n  \
            rocinante snapshot restore fleet.backup --instance a"
    )]
    Snapshot(SnapshotCommand),
    /// Make the fleet's certificates
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  rocinante pki init --fleet test          once\n  \
            rocinante pki issue --fleet test a       for each instance"
    )]
    Pki(PkiCommand),
    /// Install, show or remove this machine's packet rules for pools with transparent = true
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  rocinante transparent install            as root, on each instance's machine\n  \
            rocinante transparent show               what is there, and how it differs from what the file wants\n  \
            rocinante transparent remove"
    )]
    Transparent(TransparentCommand),
}

impl Command {
    /// Whether a script wants to read the answer.
    pub fn json(&self) -> bool {
        match self {
            Self::Run(_)
            | Self::VipKeeper(_)
            | Self::Check { .. }
            | Self::Pki(_)
            | Self::Snapshot(SnapshotCommand::Restore { .. }) => false,
            Self::Snapshot(SnapshotCommand::Inspect { json, .. }) => *json,
            Self::Apply(ApplyArgs { reach, .. })
            | Self::Status { reach }
            | Self::Tune(TuneArgs { reach, .. })
            | Self::Snapshot(SnapshotCommand::Save { reach, .. })
            | Self::Server(
                ServerCommand::List { reach, .. }
                | ServerCommand::Add { reach, .. }
                | ServerCommand::Remove(ServerArgs { reach, .. })
                | ServerCommand::Drain(ServerArgs { reach, .. })
                | ServerCommand::Enable(ServerArgs { reach, .. }),
            )
            | Self::Pin(
                PinCommand::List { reach, .. } | PinCommand::Get { reach, .. } | PinCommand::Delete { reach, .. },
            )
            | Self::Kv(
                KvCommand::Get { reach, .. }
                | KvCommand::Put { reach, .. }
                | KvCommand::Delete { reach, .. }
                | KvCommand::OpenSession { reach }
                | KvCommand::CloseSession { reach, .. }
                | KvCommand::List { reach, .. },
            )
            | Self::Member(
                MemberCommand::List { reach }
                | MemberCommand::Add { reach, .. }
                | MemberCommand::Remove(MemberArgs { reach, .. })
                | MemberCommand::Promote(MemberArgs { reach, .. })
                | MemberCommand::Events { reach }
                | MemberCommand::Transfer(MemberArgs { reach, .. }),
            ) => reach.json,
            Self::Flow(command) => command.reach().json,
            Self::Transparent(command) => command.json(),
        }
    }
}

/// `rocinante run`
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// The configuration file, the same for all instances
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The label of this instance in the file
    #[arg(long, value_name = "LABEL")]
    pub instance: String,
    /// Keep the replica here instead of the file's data_dir/LABEL
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Listen for peers and gRPC here instead of the file's address and port
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub grpc_listen: Option<SocketAddr>,
}

/// `rocinante vip-keeper`
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct KeeperArgs {
    /// How long the instance may say nothing
    #[arg(long, value_name = "MS")]
    pub hold_ms: u64,
    /// BIRD's control socket; without it the command is run
    #[arg(long, value_name = "PATH", conflicts_with = "command")]
    pub bird_socket: Option<PathBuf>,
    /// BIRD's protocol
    #[arg(long, value_name = "NAME", default_value = "rocinante")]
    pub bird_protocol: String,
    /// The command and its first arguments
    #[arg(last = true, required_unless_present = "bird_socket")]
    pub command: Vec<String>,
}

/// `rocinante apply`
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The file whose pools the fleet shall have
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub reach: Reach,
}

/// Whom to ask, and how to show the answer.
#[derive(Debug, Default, Args)]
pub struct Reach {
    /// An instance's REST port; may be given more than once [default: all instances of conf/pool.toml]
    #[arg(long = "endpoint", value_name = "HOST:REST")]
    pub endpoints: Vec<Endpoint>,
    /// Print JSON for scripts; errors too, on standard error
    #[arg(long)]
    pub json: bool,
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Freshness {
    /// What the asked instance has applied
    #[default]
    Local,
    /// Everything acknowledged up to a second before
    Bounded,
    /// Everything acknowledged before; needs a quorum
    Linearizable,
}

/// `--consistency`
#[derive(Debug, Default, Args)]
pub struct Reading {
    /// How fresh the answer has to be
    #[arg(long, value_enum, default_value_t)]
    pub consistency: Freshness,
}

/// `rocinante server`
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Show the servers of a pool, or of all pools
    #[command(after_help = "Example:\n  rocinante server list web")]
    List {
        /// The pool
        pool: Option<String>,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Add a server; old clients stay where they are
    #[command(after_help = "Example:\n  rocinante server add web s5 127.0.0.1:8891 --weight 50")]
    Add {
        /// The pool
        pool: String,
        /// Its name: with the address its identity
        name: String,
        /// Where it listens
        #[arg(value_name = "ADDRESS:PORT")]
        address: SocketAddr,
        /// Its share of new clients against the others'
        #[arg(long, value_name = "N", default_value_t = crate::rest::pool_json::WEIGHT_DEFAULT)]
        weight: u32,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Remove a server; its clients move
    #[command(after_help = "Example:\n  rocinante server remove web s5")]
    Remove(ServerArgs),
    /// Give a server no new clients; the pinned ones stay
    #[command(after_help = "Example:\n  rocinante server drain web s5")]
    Drain(ServerArgs),
    /// Give a server new clients again
    #[command(after_help = "Example:\n  rocinante server enable web s5")]
    Enable(ServerArgs),
}

/// One server.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The pool
    pub pool: String,
    /// The server
    pub name: String,
    /// Whom to ask.
    #[command(flatten)]
    pub reach: Reach,
}

/// `rocinante pin`
#[derive(Debug, Subcommand)]
pub enum PinCommand {
    /// Show which client is at which server
    #[command(after_help = "Example:\n  rocinante pin list web --limit 5000")]
    List {
        /// The pool
        pool: String,
        /// Show at most so many
        #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// How fresh.
        #[command(flatten)]
        reading: Reading,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Show a client's pin
    #[command(after_help = "Example:\n  rocinante pin get web 192.0.2.7")]
    Get {
        /// The client.
        #[command(flatten)]
        pin: PinArgs,
        /// How fresh.
        #[command(flatten)]
        reading: Reading,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Remove a client's pin: it is assigned anew when it next comes
    #[command(after_help = "Example:\n  rocinante pin delete web 192.0.2.7")]
    Delete {
        /// The client.
        #[command(flatten)]
        pin: PinArgs,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
}

/// A client of a pool.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// The pool
    pub pool: String,
    /// The client
    #[arg(value_name = "CLIENT-IP")]
    pub client: IpAddr,
}

/// `rocinante kv`
#[derive(Debug, Subcommand)]
pub enum KvCommand {
    /// Print the value of a key
    #[command(after_help = "Example:\n  rocinante kv get color")]
    Get {
        /// The key
        key: String,
        /// How fresh.
        #[command(flatten)]
        reading: Reading,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Set a key
    #[command(after_help = "Examples:\n  rocinante kv put color blue\n  \
        rocinante kv put color green --if-revision 42\n  rocinante kv put color blue --if-revision 0    only if new\n  \
        rocinante kv put color blue --session 81 --sequence 5\n\n\
        Where the outcome is lost (unknown_outcome), read the key before sending the put again. With a session and a\n\
        sequence it can be sent again as it is, to any instance: it counts once.")]
    Put {
        /// The key
        key: String,
        /// Its value
        value: String,
        /// Only if the key's revision is this one; 0 means that it must not exist
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
        /// As which request.
        #[command(flatten)]
        request: RequestArgs,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Remove a key
    #[command(after_help = "Example:\n  rocinante kv delete color")]
    Delete {
        /// The key
        key: String,
        /// Only if the key's revision is this one
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
        /// As which request.
        #[command(flatten)]
        request: RequestArgs,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Open a session, whose requests count once however often they are sent, and print its number
    #[command(after_help = "Example:\n  rocinante kv open-session\n\n\
        It ends when it was not used for ten minutes.")]
    OpenSession {
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Close a session
    #[command(after_help = "Example:\n  rocinante kv close-session 81")]
    CloseSession {
        /// The session
        session: u64,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// List keys and values in order
    #[command(after_help = "Examples:\n  rocinante kv list\n  rocinante kv list config/")]
    List {
        /// Only keys that begin so
        #[arg(value_name = "KEY", default_value = "")]
        prefix: String,
        /// Show at most so many
        #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// How fresh.
        #[command(flatten)]
        reading: Reading,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
}

/// One request of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct RequestArgs {
    /// The session, as kv open-session printed it
    #[arg(long, value_name = "N", requires = "sequence")]
    pub session: Option<u64>,
    /// The number of the request: another for each request, the same for each try of it
    #[arg(long, value_name = "N", requires = "session")]
    pub sequence: Option<u64>,
    /// The answers to all requests of the session below this one are there: forget their outcomes
    #[arg(long, value_name = "N", requires = "session")]
    pub answered_below: Option<u64>,
}

/// `rocinante member`
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Show the instances of the fleet
    #[command(after_help = "Example:\n  rocinante member list")]
    List {
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Add an instance as a learner, without a vote
    #[command(after_help = "To replace an instance whose data is lost:\n  rocinante member remove b\n  \
        rocinante member add b 127.0.0.2\n  rocinante member promote b")]
    Add {
        /// Its label
        label: String,
        /// Its address or host name
        #[arg(value_name = "ADDRESS", value_parser = host)]
        host: String,
        /// Its port for peers and gRPC
        #[arg(long, value_name = "PORT", default_value_t = 35001)]
        grpc: u16,
        /// Its port for REST
        #[arg(long, value_name = "PORT", default_value_t = 8001)]
        rest: u16,
        /// Its port for metrics
        #[arg(long, value_name = "PORT", default_value_t = 2112)]
        metrics: u16,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Remove an instance for good
    #[command(after_help = "Example:\n  rocinante member remove b")]
    Remove(MemberArgs),
    /// Make a learner a voter
    #[command(after_help = "Example:\n  rocinante member promote b")]
    Promote(MemberArgs),
    /// Show what happened lately: members, leaders, links, snapshots, as an instance saw it
    #[command(after_help = "Example:\n  rocinante member events --endpoint 127.0.0.1:8001")]
    Events {
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Hand the leadership to an instance
    #[command(after_help = "Example:\n  rocinante member transfer b")]
    Transfer(MemberArgs),
}

/// One instance.
#[derive(Debug, Args)]
pub struct MemberArgs {
    /// Its label
    pub label: String,
    /// Whom to ask.
    #[command(flatten)]
    pub reach: Reach,
}

/// `rocinante tune`
#[derive(Debug, Args)]
pub struct TuneArgs {
    /// Between heartbeats
    #[arg(long, value_name = "MS")]
    pub heartbeat: Option<u32>,
    /// Silence of a leader that starts an election
    #[arg(long, value_name = "MS")]
    pub election: Option<u32>,
    /// How silence of an instance is judged: phi:THRESHOLD or fixed:MS
    #[arg(long, value_name = "KIND:VALUE", value_parser = detector)]
    pub detector: Option<DetectorJson>,
    /// Whether leaderships of the pin groups are spread over the instances
    #[arg(long, value_name = "true|false")]
    pub spread: Option<bool>,
    /// Chaos: shuffle leaderships so often; 0 is never
    #[arg(long, value_name = "MS")]
    pub shuffle: Option<u32>,
    /// Every instance goes by its configuration again
    #[arg(long, conflicts_with_all = ["heartbeat", "election", "detector", "spread", "shuffle"])]
    pub reset: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub reach: Reach,
}

/// `rocinante snapshot`
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Save all tables of the fleet to a file
    #[command(after_help = "Example:\n  rocinante snapshot save fleet.backup --endpoint 127.0.0.1:8001")]
    Save {
        /// The file to be made
        file: PathBuf,
        /// Overwrite it
        #[arg(long)]
        force: bool,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Check a backup and show what is in it
    #[command(after_help = "Example:\n  rocinante snapshot inspect fleet.backup")]
    Inspect {
        /// The backup
        file: PathBuf,
        /// Print JSON for scripts
        #[arg(long)]
        json: bool,
    },
    /// Make an empty data directory that of an instance of a new fleet, which begins with what the backup has
    #[command(after_help = "Examples, on each machine before its instance is started:\n  \
        rocinante snapshot restore fleet.backup --config conf/pool.toml --instance a\n\n\
        All instances of the configuration must be restored from the same file. They are a new fleet: instances of the old \
        one are refused.")]
    Restore {
        /// The backup
        file: PathBuf,
        /// The configuration file, the same for all instances
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// The label of this instance in the file
        #[arg(long, value_name = "LABEL")]
        instance: String,
        /// Make this directory instead of the file's data_dir/LABEL
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

/// `phi:8` or `fixed:500`
fn detector(text: &str) -> Result<DetectorJson, String> {
    let parsed = match text.split_once(':') {
        Some(("phi", value)) => value.parse().ok().map(DetectorJson::Phi),
        Some(("fixed", value)) => value.parse().ok().map(DetectorJson::FixedMs),
        _ => None,
    };
    parsed.ok_or_else(|| "phi:THRESHOLD or fixed:MS is expected, such as phi:8 or fixed:500".to_owned())
}

/// `rocinante pki`
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make the fleet's certificate authority: ca.pem for every instance, and ca.key to be kept away from them
    #[command(after_help = "Example:\n  rocinante pki init --dir pki --fleet test")]
    Init {
        /// What is made, and for how long.
        #[command(flatten)]
        place: PkiPlace,
        /// Valid for so many days
        #[arg(long, value_name = "N", default_value_t = 3_650, value_parser = clap::value_parser!(u16).range(1..))]
        days: u16,
    },
    /// Make the certificate and the key of one instance: LABEL.pem and LABEL.key
    #[command(after_help = "Examples:\n  rocinante pki issue --dir pki --fleet test a\n  \
        rocinante pki issue --dir pki --fleet test a --address 192.0.2.1 --address lb-a.example\n  \
        rocinante pki issue --dir pki --fleet test a --force    a new one: running instances take it by themselves\n\n\
        An instance needs ca.pem, LABEL.pem and LABEL.key, and [fleet.tls] in the configuration.")]
    Issue {
        /// What is made, and for how long.
        #[command(flatten)]
        place: PkiPlace,
        /// The instance's label
        #[arg(value_parser = name)]
        label: String,
        /// An address or host name by which API clients reach the instance; may be given more than once
        #[arg(long = "address", value_name = "HOST", value_parser = host)]
        addresses: Vec<String>,
        /// Valid for so many days
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..))]
        days: u16,
    },
}

/// Where certificates are made, and for whom.
#[derive(Debug, Args)]
pub struct PkiPlace {
    /// The directory of the fleet's certificates
    #[arg(long, value_name = "DIR", default_value = "pki")]
    pub dir: PathBuf,
    /// The fleet's name, as the configuration has it
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub fleet: String,
    /// Overwrite what is there
    #[arg(long)]
    pub force: bool,
}

/// A name as the configuration takes it: no other can be part of a certificate's URI, or of a file's name.
fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

/// An address or host name without a port.
fn host(text: &str) -> Result<String, String> {
    match parse_host(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(wrong) if text.contains(':') => Err(format!("{}; write the port by itself: --grpc PORT", wrong.problem)),
        Err(wrong) => Err(wrong.to_string()),
    }
}

/// Where the configuration lies if nothing is said.
pub const DEFAULT_CONFIG: &str = "conf/pool.toml";

const EXAMPLES: &str = "\
Examples:
  rocinante run --config conf/pool.toml --instance a    start one instance
  rocinante status                                      see the fleet
  rocinante server add web s5 127.0.0.1:8891            add a server to a pool
  rocinante pin get web 192.0.2.7                       see where a client is

Exit status: 0 done, 1 refused or failed with the reason on standard error, 2 usage.";
