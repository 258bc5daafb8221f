//! The command line of a node.

use std::path::PathBuf;

use raftlog::NodeId;

use crate::Result;

/// What to do.
pub enum Command {
    /// Make an authority and a certificate for each label.
    Certificates { directory: PathBuf, labels: Vec<String> },
    /// Be a replica.
    Run(Box<Setup>),
}

/// A replica.
pub struct Setup {
    pub id: NodeId,
    /// The data directory, which must be empty.
    pub directory: PathBuf,
    /// The address to listen on; the system chooses the port.
    pub host: String,
    pub groups: u32,
    /// The first voters; none for one that waits to be taught.
    pub founders: Vec<NodeId>,
    /// Where the certificates are; none: plaintext.
    pub tls: Option<PathBuf>,
    /// `DriverConfig::compact_entries`, where not the default.
    pub compact_entries: Option<u64>,
    /// Bytes per second of an outgoing snapshot; unlimited where absent.
    pub snapshot_rate: Option<std::num::NonZeroU64>,
}

/// Reads `certificates --dir DIR LABEL...` or `run --id N --dir DIR --host ADDRESS --groups N [--founders N,N,N]
/// [--tls DIR] [--compact-entries N] [--snapshot-rate BYTES]`.
///
/// # Errors
/// With what is wrong.
pub fn parse(words: &[String]) -> Result<Command> {
    let mut rest = words.iter();
    let command = rest.next().ok_or(USAGE)?;
    let (mut options, mut plain) = (std::collections::HashMap::new(), Vec::new());
    while let Some(word) = rest.next() {
        match word.strip_prefix("--") {
            Some(name) => {
                let value = rest.next().ok_or_else(|| format!("--{name} wants a value"))?;
                options.insert(name.to_owned(), value.clone());
            }
            None => plain.push(word.clone()),
        }
    }
    let mut take = |name: &str| options.remove(name);
    let wanted = |name: &str, value: Option<String>| value.ok_or_else(|| format!("--{name} is missing"));
    let directory = PathBuf::from(wanted("dir", take("dir"))?);
    let parsed = match command.as_str() {
        "certificates" => Command::Certificates { directory, labels: plain },
        "run" => Command::Run(Box::new(Setup {
            id: NodeId(wanted("id", take("id"))?.parse()?),
            directory,
            host: wanted("host", take("host"))?,
            groups: wanted("groups", take("groups"))?.parse()?,
            founders: take("founders").map_or(Ok(Vec::new()), |list| founders(&list))?,
            tls: take("tls").map(PathBuf::from),
            compact_entries: take("compact-entries").map(|text| text.parse()).transpose()?,
            snapshot_rate: take("snapshot-rate").map(|text| text.parse()).transpose()?,
        })),
        other => return Err(format!("no command is called {other}\n{USAGE}").into()),
    };
    match options.keys().next() {
        None => Ok(parsed),
        Some(unknown) => Err(format!("no option is called --{unknown}").into()),
    }
}

fn founders(list: &str) -> Result<Vec<NodeId>> {
    list.split(',').map(|text| Ok(NodeId(text.parse()?))).collect()
}

const USAGE: &str = "raft_node certificates|run; loadtest bench raft starts it";
