//! What can go wrong with the files of a data directory, and what to do then.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use crate::types::{GroupId, Index};

/// Why the log, a snapshot or a small file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk has no room. Nothing was appended or stored; the same call may succeed later.
    #[error("no space left for {file}; nothing was written")]
    NoSpace {
        /// The file that needed room.
        file: String,
    },
    /// The system had no descriptor or no memory to open, make or list files. Nothing was changed; the same call may
    /// succeed later.
    #[error("{action} {file}: {source}; nothing was changed")]
    Starved {
        /// The file.
        file: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A write or a sync failed, so nobody knows what is on the disk. Final: stop the process, start it again.
    #[error(
        "the log is unusable since {action} {file} failed ({reason}); restart the instance to recover what is durable"
    )]
    Poisoned {
        /// The file it happened to.
        file: String,
        /// What was tried.
        action: &'static str,
        /// What the disk said.
        reason: String,
    },
    /// The log is damaged where it was known to be durable. Final for this data directory.
    #[error(transparent)]
    Corrupt(#[from] Box<Damage>),
    /// A snapshot or small file does not check.
    #[error("{file} is damaged: {what}. {REJOIN}")]
    CorruptFile {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// A snapshot that a peer sent is not what it should be. Nothing of ours is lost: it is dropped, the peer sends it
    /// again.
    #[error("the received snapshot {file} is not usable: {what}")]
    Unusable {
        /// Its temporary file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The file is of a newer (or no) release of this program.
    #[error("{file} has format version {version}, this program reads version {known}; start the release that wrote it")]
    UnknownVersion {
        /// The file.
        file: String,
        /// The version that it names.
        version: u32,
        /// The version that this code reads.
        known: u32,
    },
    /// The file has a name of ours but is none of ours.
    #[error("{file} is not ours: {why}; is this the right data directory?")]
    Foreign {
        /// The file.
        file: String,
        /// What gives it away.
        why: String,
    },
    /// The disk failed outside of the log's own writes; what is durable is as before.
    #[error("{action} {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What was tried.
        action: &'static str,
        /// What the disk said.
        source: io::Error,
    },
    /// The caller asked for what must not be; nothing was written. A defect of the caller.
    #[error("refused: {0}")]
    Refused(String),
}

/// Where the log is damaged and what that costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub file: String,
    /// The byte where the first thing that does not check starts.
    pub offset: u64,
    /// What does not check.
    pub what: String,
    /// Up to which index each group's log is intact.
    pub intact: BTreeMap<GroupId, Index>,
    /// How many intact rounds were seen after the damage.
    pub rounds_after: u64,
    /// Entries in those rounds, from the lowest to the highest index of each group. What lies between `intact` and
    /// these, and any vote or term in between, is lost.
    pub after: BTreeMap<GroupId, (Index, Index)>,
}

impl std::error::Error for Damage {}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log is damaged: {} at byte {}: {}. ", self.file, self.offset, self.what)?;
        match self.rounds_after {
            0 => write!(f, "No intact round follows. ")?,
            1 => write!(f, "1 intact round follows and cannot be used without it. ")?,
            rounds => write!(f, "{rounds} intact rounds follow and cannot be used without it. ")?,
        }
        self.write_groups(f)?;
        f.write_str(REJOIN)
    }
}

impl Damage {
    fn write_groups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (group, (first, last)) in self.after.iter().take(GROUPS_SHOWN) {
            let intact = self.intact.get(group).copied().unwrap_or_default();
            write!(f, "Group {group}: intact through index {intact}, {first} to {last} seen after the damage. ")?;
        }
        let silent = self.intact.iter().filter(|(group, _)| !self.after.contains_key(group));
        for (group, intact) in silent.take(GROUPS_SHOWN) {
            write!(f, "Group {group}: intact through index {intact}, later ones (if any) lost. ")?;
        }
        let groups =
            self.intact.keys().chain(self.after.keys().filter(|group| !self.intact.contains_key(group))).count();
        if groups > GROUPS_SHOWN {
            write!(f, "{groups} groups in all. ")?;
        }
        Ok(())
    }
}

/// The way back from damage: the rest of the fleet has what was lost.
const REJOIN: &str = "Entries and votes that this instance acknowledged may be missing, so it must not vote with what is \
    left. Let it rejoin as a new member: `rocinante member remove LABEL`, remove the data directory, \
    `rocinante member add LABEL ADDRESS`, start it again.";

const GROUPS_SHOWN: usize = 16;
