//! What the core's messages and entries are to everybody else.

use bytes::{Buf, Bytes};
use prost011::Message as _;
use raft::eraftpb::{ConfState, Entry, EntryType, Message};

use super::{action::Content, members::Members};
use crate::types::{GroupId, Index, NodeId, Term};

/// From shared bytes: of a plain slice each field of an entry would be copied twice.
pub fn decode_message(bytes: &Bytes) -> Result<Message, prost011::DecodeError> {
    Message::decode(bytes.clone())
}

pub fn decode_entry(group: GroupId, index: Index, term: Term, data: &Bytes) -> Result<Entry, raft::Error> {
    match Entry::decode(data.clone()) {
        Ok(entry) if entry.index == index.0 && entry.term == term.0 => Ok(entry),
        _ => Err(raft::Error::ConfigInvalid(format!("group {group}: the entry stored at index {index} is not one"))),
    }
}

/// What an entry is; its bytes are handed on without a copy.
pub fn content(mut entry: Entry, members: &ConfState) -> Content {
    let Some((origin, token)) = asked_by(&entry) else {
        let changes = entry.entry_type() != EntryType::EntryNormal;
        return if changes { Content::Members(Members::of(members)) } else { Content::Empty };
    };
    let mut data = Bytes::from(std::mem::take(&mut entry.data));
    data.advance(PROPOSAL_HEAD_BYTES);
    Content::Data { origin, token, data }
}

/// Who proposed an entry, and by which token; none where nobody did.
pub fn asked_by(entry: &Entry) -> Option<(NodeId, u64)> {
    if entry.entry_type() != EntryType::EntryNormal {
        return None;
    }
    let (origin, rest) = entry.data.split_first_chunk::<8>()?;
    let token = rest.first_chunk::<8>()?;
    Some((NodeId(u64::from_be_bytes(*origin)), u64::from_be_bytes(*token)))
}

/// Origin and token.
const PROPOSAL_HEAD_BYTES: usize = 16;
