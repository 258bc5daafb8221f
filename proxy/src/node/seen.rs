//! What there is to see of a replica: groups, roles, entries of the log.

use std::fmt::{self, Write};

use flow::{
    ControlCommand, ControlTable, InstanceId, PinTable, Request,
    flows::{FlowCommand, FlowTable},
};
use raftlog::{
    GroupId,
    driver::{Committed, Content, GroupStatus as RaftStatus, Role as RaftRole},
};
use replica::{GroupRole, Replica};

use super::clock::now_ms;
use crate::control::{GroupStatus, LogEntry, Role, Standing, TableStatus};

/// How all groups stood at one moment, as the replica's thread takes it down: that thread sends beats and leases, and has
/// no time for the digests of tables.
pub struct Glance {
    control: ControlTable,
    groups: Vec<GroupGlance>,
    at_ms: u64,
}

struct GroupGlance {
    id: GroupId,
    status: RaftStatus,
    lease_until_ms: u64,
    table: Table,
}

enum Table {
    Control,
    Pins(PinTable),
    Flows(FlowTable),
}

impl Glance {
    /// Takes down how all groups stand. Tables are clones that share all they hold.
    pub fn at(replica: &Replica) -> Self {
        let glance = |id: GroupId| {
            let view = replica.view(id);
            let lease_until_ms = view.map_or(replica.control_lease().until_ms, |view| view.lease.until_ms);
            let table = match (view, replica.flow_table(id)) {
                (Some(view), _) => Table::Pins(view.table.clone()),
                (None, Some(flows)) => Table::Flows(flows.clone()),
                (None, None) => Table::Control,
            };
            // Nobody needs a lease for flows.
            let lease_until_ms = if matches!(table, Table::Flows(_)) { 0 } else { lease_until_ms };
            Some(GroupGlance { id, status: replica.status(id)?, lease_until_ms, table })
        };
        let groups = (0..replica.group_count()).filter_map(|id| glance(GroupId(id))).collect();
        Self { control: replica.control().clone(), groups, at_ms: now_ms() }
    }

    /// How all groups stand, group 0 first. Takes a while: the replica's thread does not come here.
    pub fn groups(&self) -> Vec<GroupStatus> {
        self.groups.iter().map(|group| self.group_status(group)).collect()
    }

    fn group_status(&self, group: &GroupGlance) -> GroupStatus {
        let GroupGlance { id, status, lease_until_ms, table } = group;
        let table = match table {
            Table::Pins(pins) => {
                TableStatus { name: "pins".to_owned(), rows: pins.len() as u64, digest: pins.digest() }
            }
            Table::Flows(flows) => {
                TableStatus { name: "flows".to_owned(), rows: flows.len() as u64, digest: flows.digest() }
            }
            Table::Control => {
                let rows = self.control.kv_len() as u64;
                TableStatus { name: "control".to_owned(), rows, digest: self.control.digest() }
            }
        };
        let role = GroupRole { group: *id, role: status.role, term: status.term, leader: status.leader };
        GroupStatus {
            group: id.0,
            standing: standing(&self.control, Some(role)),
            first_index: status.first.0,
            last_index: status.last.0,
            committed_index: status.committed.0,
            applied_index: status.applied.0,
            lease_ms: lease_until_ms.checked_sub(self.at_ms).filter(|left| *left > 0),
            tables: vec![table],
        }
    }
}

/// Whether this instance leads a group.
pub fn leads(replica: &Replica, group: u32) -> bool {
    replica.status(GroupId(group)).is_some_and(|status| status.role == RaftRole::Leader)
}

/// Role, term and leader, in words that people know.
pub fn standing(control: &ControlTable, role: Option<GroupRole>) -> Standing {
    let Some(role) = role else { return Standing { role: Role::Starting, term: 0, leader: None } };
    let leader = role.leader.and_then(|id| control.member(InstanceId(id.0))).map(|member| member.address.label.clone());
    let role_now = match role.role {
        RaftRole::Follower => Role::Follower,
        RaftRole::PreCandidate | RaftRole::Candidate => Role::Candidate,
        RaftRole::Leader => Role::Leader,
        RaftRole::Learner => Role::Learner,
    };
    Standing { role: role_now, term: role.term.0, leader }
}

/// What a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It is group 0.
    Control,
    /// Pins.
    Pins,
    /// Flows.
    Flows,
}

/// An entry as it is shown: what is long is cut.
pub fn log_entry(group: u32, holds: Holds, entry: &Committed) -> LogEntry {
    let (kind, text) = match &entry.content {
        Content::Empty => ("empty", "a leader's first entry".to_owned()),
        Content::Members(members) => ("members", short(format_args!("{members:?}"))),
        Content::Data { origin, data, .. } => ("command", format!("from {origin}: {}", command_text(holds, data))),
    };
    LogEntry { group, index: entry.index.0, term: entry.term.0, kind: kind.to_owned(), text }
}

/// The bytes of an entry that it takes to show it.
pub fn entry_bytes(entry: &Committed) -> usize {
    match &entry.content {
        Content::Data { data, .. } => data.len(),
        Content::Empty | Content::Members(_) => 0,
    }
}

fn command_text(holds: Holds, data: &[u8]) -> String {
    match holds {
        Holds::Control => {}
        Holds::Pins => {
            let command = flow::PinCommand::decode(data);
            return command.map_or_else(|error| error.to_string(), |command| short(format_args!("{command:?}")));
        }
        Holds::Flows => {
            return match FlowCommand::decode(data) {
                Ok(FlowCommand::Report { name, epoch, sequence, events, .. }) => {
                    format!("batch {sequence} of life {epoch} of sniffer {name:?}: {} events", events.len())
                }
                Ok(command) => short(format_args!("{command:?}")),
                Err(error) => error.to_string(),
            };
        }
    }
    match ControlCommand::decode(data) {
        Ok(ControlCommand::Once { request: Request { session, sequence, .. }, command, .. }) => {
            let command = control_text(&command);
            short(format_args!("request {sequence} of session {session}: {command}"))
        }
        Ok(command) => control_text(&command),
        Err(error) => error.to_string(),
    }
}

fn control_text(command: &ControlCommand) -> String {
    match command {
        ControlCommand::KvPut { key, value, if_revision } => {
            let value = value_text(value);
            short(format_args!("KvPut {{ key: {key:?}, value: {value}, if_revision: {if_revision:?} }}"))
        }
        command => short(format_args!("{command:?}")),
    }
}

/// A value's length and how it begins.
fn value_text(value: &[u8]) -> String {
    let start = value.get(..VALUE_BYTES_SHOWN).unwrap_or(value);
    let more = if start.len() < value.len() { "..." } else { "" };
    let text = match std::str::from_utf8(start) {
        Ok(text) => Some(text),
        // The cut may go through a character.
        Err(error) if error.error_len().is_none() && !more.is_empty() => {
            start.get(..error.valid_up_to()).and_then(|good| std::str::from_utf8(good).ok())
        }
        Err(_) => None,
    };
    match text {
        Some(text) => format!("{} bytes {text:?}{more}", value.len()),
        None => format!("{} bytes, no text", value.len()),
    }
}

/// `text` up to [`TEXT_BYTES_MAX`]; the rest is not even made.
fn short(text: fmt::Arguments<'_>) -> String {
    let mut short = Short(String::new());
    if short.write_fmt(text).is_err() {
        short.0.push_str("... (cut)");
    }
    short.0
}

struct Short(String);

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_BYTES_MAX.saturating_sub(self.0.len());
        let end = text.floor_char_boundary(room);
        self.0.push_str(text.get(..end).unwrap_or_default());
        if end == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Bytes of a value that its entry shows.
const VALUE_BYTES_SHOWN: usize = 256;

/// Most bytes of an entry's text.
const TEXT_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use raftlog::{Index, NodeId, Term};

    use super::*;

    fn shown(command: &ControlCommand) -> String {
        let data = command.encode().into();
        let content = Content::Data { origin: NodeId(1), token: 1, data };
        log_entry(0, Holds::Control, &Committed { index: Index(1), term: Term(1), time_ms: 0, content }).text
    }

    fn put(value: &[u8]) -> String {
        shown(&ControlCommand::KvPut { key: "k".to_owned(), value: value.to_vec(), if_revision: None })
    }

    #[test]
    fn values_are_shown_as_text_and_cut() {
        assert_eq!(put(b"blue"), "from 1: KvPut { key: \"k\", value: 4 bytes \"blue\", if_revision: None }");
        assert!(put(b"\xff\x00").contains("value: 2 bytes, no text"), "{}", put(b"\xff\x00"));
        let large = put(&vec![b'x'; 256 << 10]);
        assert!(large.contains("value: 262144 bytes \"xxx") && large.contains("xxx\"...,"), "{large}");
        assert!(large.len() < 400, "{}", large.len());
        // 256 is no multiple of 3: the cut goes through a character.
        let wide = put("\u{20ac}".repeat(1_000).as_bytes());
        assert!(wide.contains(&format!("3000 bytes \"{}\"...", "\u{20ac}".repeat(85))), "{wide}");
    }

    #[test]
    fn a_long_command_is_cut() {
        let text = shown(&ControlCommand::KvDelete { key: "k".repeat(100_000), if_revision: None });
        assert!(text.ends_with("... (cut)") && text.len() < TEXT_BYTES_MAX + 100, "{}", text.len());
    }
}
