//! What the core's messages and entries are to everybody else.

use bytes::Bytes;
use prost011::Message as _;
use raft::eraftpb::{ConfState, Entry, EntryType, Message};

use super::{action::Content, members::Members};
use crate::types::{GroupId, Index, NodeId, Term};

pub fn decode_message(bytes: &[u8]) -> Result<Message, prost011::DecodeError> {
    Message::decode(bytes)
}

pub fn decode_entry(group: GroupId, index: Index, term: Term, data: &[u8]) -> Result<Entry, raft::Error> {
    match Entry::decode(data) {
        Ok(entry) if entry.index == index.0 && entry.term == term.0 => Ok(entry),
        _ => Err(raft::Error::ConfigInvalid(format!("group {group}: the entry stored at index {index} is not one"))),
    }
}

pub fn content(entry: &Entry, members: &ConfState) -> Content {
    if entry.entry_type() != EntryType::EntryNormal {
        return Content::Members(Members::of(members));
    }
    match entry.data.split_first_chunk::<8>() {
        Some((origin, rest)) => match rest.split_first_chunk::<8>() {
            Some((token, data)) => Content::Data {
                origin: NodeId(u64::from_be_bytes(*origin)),
                token: u64::from_be_bytes(*token),
                data: Bytes::copy_from_slice(data),
            },
            None => Content::Empty,
        },
        None => Content::Empty,
    }
}
