//! The words of `rocinante flow`.

use std::str::FromStr;

use clap::{Args, Subcommand};

use super::args::{Reach, Reading};

/// `rocinante flow`
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// Show the flows that sniffers saw, what changed last in front
    #[command(
        after_help = "Examples:\n  rocinante flow list\n  rocinante flow list --port 443 --app quic --limit 5000\n  \
        rocinante flow list --prefix 10.0.0.0/8 --state established --all --json\n\n\
        A flow that changes while pages are read is in front again, where nobody looks any more. Who needs each of them \
        follows the table: rocinante flow watch --after start."
    )]
    List {
        /// Which.
        #[command(flatten)]
        filter: FilterArgs,
        /// Show at most so many
        #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Show all, page after page
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        /// How fresh.
        #[command(flatten)]
        reading: Reading,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Show all that is known of a flow
    #[command(after_help = "Examples:\n  rocinante flow get 5/3244066905220904990\n  \
        rocinante flow get 1:LQU9qZlK+B5F3KDmev6m5PMibrg=     by its Community ID")]
    Get {
        /// 5/ID, 7/ID, ID (that of a 5-tuple), or a Community ID
        #[arg(value_name = "FLOW")]
        flow: FlowArg,
        /// How fresh.
        #[command(flatten)]
        reading: Reading,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Show flows as they change, a line each, until Ctrl-C
    #[command(after_help = "Examples:\n  rocinante flow watch --app dns\n  \
        rocinante flow watch --after start --json     all there are, then every change\n\n\
        Where an instance breaks off, it goes on at another one from the last position; what came after that position is shown \
        again. LAGGED says how many flows left the table of which it is not told any more, RESET that the position is of another \
        fleet. With a filter, LEFT is told of flows that were shown; from a position on, of all: which were shown before it is not \
        known.")]
    Watch {
        /// Which.
        #[command(flatten)]
        filter: FilterArgs,
        /// Where to begin: start (all there are come first), now, or a position
        #[arg(long, value_name = "POSITION", default_value = "now")]
        after: String,
        /// End after so many lines
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Write labels on a flow; an empty value takes one away
    #[command(after_help = "Examples:\n  rocinante flow label 5/3244066905220904990 os=linux owner=lab\n  \
        rocinante flow label 5/3244066905220904990 owner=")]
    Label {
        /// 5/ID, 7/ID, ID (that of a 5-tuple), or a Community ID
        #[arg(value_name = "FLOW")]
        flow: FlowArg,
        /// Names and values
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = label)]
        labels: Vec<(String, String)>,
        /// Only if the flow's revision is this one [default: whatever it is]
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
    /// Write on a flow what shall be done with it
    #[command(after_help = "Example:\n  rocinante flow verdict 5/3244066905220904990 drop --source firewall\n\n\
        The fleet does nothing with it: it is for those who read the table.")]
    Verdict {
        /// 5/ID, 7/ID, ID (that of a 5-tuple), or a Community ID
        #[arg(value_name = "FLOW")]
        flow: FlowArg,
        /// What shall be done, in the words of who decides: allow, drop, mark
        action: String,
        /// Who says so
        #[arg(long, value_name = "NAME")]
        source: String,
        /// Only if the flow's revision is this one [default: whatever it is]
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
        /// Whom to ask.
        #[command(flatten)]
        reach: Reach,
    },
}

impl FlowCommand {
    /// Whom to ask.
    pub fn reach(&self) -> &Reach {
        match self {
            Self::List { reach, .. }
            | Self::Get { reach, .. }
            | Self::Watch { reach, .. }
            | Self::Label { reach, .. }
            | Self::Verdict { reach, .. } => reach,
        }
    }
}

/// What a flow must be to be shown.
#[derive(Clone, Debug, Default, Args)]
pub struct FilterArgs {
    /// Either end lies in it
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    pub prefix: Option<String>,
    /// Either end has it
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// tcp, udp, icmp, icmpv6, sctp, or a number
    #[arg(long, value_name = "NAME")]
    pub protocol: Option<String>,
    /// What it carries: tls, quic, dns
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,
    /// The name that was asked for is this one, or one below it
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// new, established, closing or ended
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// A sniffer that saw it, by its name or number
    #[arg(long, value_name = "SNIFFER")]
    pub observer: Option<String>,
}

/// How a flow is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowArg {
    /// By the id of its 5-tuple or 7-tuple.
    Id {
        /// `5` or `7`.
        size: &'static str,
        /// In decimal.
        id: String,
    },
    /// By its Community ID.
    Community(String),
}

impl FromStr for FlowArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (size, id) = match (text.strip_prefix("5/"), text.strip_prefix("7/")) {
            (Some(id), _) => ("5", id),
            (None, Some(id)) => ("7", id),
            (None, None) if text.starts_with("1:") => return Ok(Self::Community(text.to_owned())),
            (None, None) => ("5", text),
        };
        match id.parse::<u64>() {
            Ok(id) => Ok(Self::Id { size, id: id.to_string() }),
            Err(_) => Err("5/ID, 7/ID, ID or a Community ID is expected, such as 5/3244066905220904990".to_owned()),
        }
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is expected, such as os=linux; NAME= takes it away".to_owned()),
    }
}
