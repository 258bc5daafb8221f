//! Fuzz targets for what comes from a peer: any bytes are an error or a frame that encodes to itself, and any messages
//! are survived.

mod peer;

use bytes::Bytes;

use super::{
    action::Rejection,
    entry,
    frame::{self, FrameBuilder, Heartbeat, Item},
};
use crate::types::{GroupId, Index, NodeId, Term};

pub use peer::{peer, peer_seeds};

/// A frame, and the Raft messages in it.
pub fn frame(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(items) = frame::decode(&bytes) else { return };
    let mut builder = FrameBuilder::default();
    for (group, item) in &items {
        builder.add(*group, item);
        if let Item::Raft(message) = item {
            entry::decode_message(message).ok();
        }
    }
    let again = builder.finish();
    let expected = if items.is_empty() { Vec::new() } else { vec![bytes] };
    assert_eq!(again, expected, "a frame has one form");
}

/// Inputs to start from: a frame with each kind of item.
pub fn frame_seeds() -> Vec<Vec<u8>> {
    let message = raft::eraftpb::Message {
        from: 1,
        to: 2,
        term: 3,
        entries: vec![raft::eraftpb::Entry { index: 4, term: 3, data: b"data".to_vec(), ..Default::default() }],
        ..Default::default()
    };
    let items = [
        Item::Raft(prost011::Message::encode_to_vec(&message).into()),
        Item::Propose { origin: NodeId(2), token: 9, data: Bytes::from_static(b"data") },
        Item::Refuse { token: 9, reason: Rejection::Overloaded },
        Item::Word(Bytes::from_static(b"word")),
        Item::Beat { may_lead: true },
        Item::Heartbeats(NodeId(2), vec![Heartbeat { group: GroupId(3), term: Term(3), commit: Index(300) }]),
        Item::HeartbeatAnswers(NodeId(1), vec![Heartbeat { group: GroupId(3), term: Term(3), commit: Index(300) }]),
    ];
    let mut builder = FrameBuilder::default();
    for (group, item) in (0..).zip(&items) {
        builder.add(GroupId(group), item);
    }
    builder.finish().into_iter().map(|frame| frame.to_vec()).collect()
}
