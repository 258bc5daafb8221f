//! Frames: all messages of one round to one peer, in the order they were made.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version, 1 |
//! | then each item: 4 | group |
//! | 1 | kind: 0 Raft message, 1 proposal, 2 refusal, 3 word, 4 beat, 5 heartbeats, 6 answers to heartbeats |
//! | 4 | length of what follows |
//! | length | kind 0: protobuf `eraftpb.Message`; 1: origin (8), token (8), data; 2: token (8), reason (1); 3: opaque; 4: 1 if the sender takes leaderships that are handed over (1); 5 and 6: the receiver's id, and of each group its number, term and commit index, as varints of their shortest form |
//!
//! Other numbers are big-endian. A frame has at most [`FRAME_BYTES_MAX`] bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use prost011::encoding::{decode_varint, encode_varint, encoded_len_varint};

use super::action::Rejection;
use crate::types::{GroupId, Index, NodeId, Term};

/// One message in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message of the Raft core.
    Raft(Bytes),
    /// A follower's proposal on its way to the leader.
    Propose { origin: NodeId, token: u64, data: Bytes },
    /// It was not appended.
    Refuse { token: u64, reason: Rejection },
    /// The owner's.
    Word(Bytes),
    /// The sender runs; it comes at even intervals.
    Beat { may_lead: bool },
    /// The leader's heartbeats of groups that have nothing else to say, and for whom they are: another may be there by now.
    Heartbeats(NodeId, Vec<Heartbeat>),
    /// Those of them that the sender follows as they say, and for whom the answer is.
    HeartbeatAnswers(NodeId, Vec<Heartbeat>),
}

/// A heartbeat of one group, or its answer: `MsgHeartbeat` or `MsgHeartbeatResponse` without a context, in a few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub group: GroupId,
    pub term: Term,
    pub commit: Index,
}

/// The bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Collects items into as few frames as their sizes allow.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    done: Vec<Bytes>,
    open: BytesMut,
    oversized: u64,
}

impl FrameBuilder {
    pub fn add(&mut self, group: GroupId, item: &Item) {
        let length = item.length();
        if 1 + ITEM_HEADER_BYTES + length > FRAME_BYTES_MAX {
            self.oversized += 1;
            return;
        }
        if !self.open.is_empty() && self.open.len() + ITEM_HEADER_BYTES + length > FRAME_BYTES_MAX {
            self.done.push(self.open.split().freeze());
        }
        if self.open.is_empty() {
            self.open.put_u8(VERSION);
        }
        self.open.put_u32(group.0);
        self.open.put_u8(item.kind());
        self.open.put_u32(length as u32);
        item.write(&mut self.open);
    }

    /// Items that fitted no frame.
    pub fn oversized(&self) -> u64 {
        self.oversized
    }

    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.done.push(self.open.freeze());
        }
        self.done
    }
}

impl Item {
    fn kind(&self) -> u8 {
        match self {
            Self::Raft(_) => 0,
            Self::Propose { .. } => 1,
            Self::Refuse { .. } => 2,
            Self::Word(_) => 3,
            Self::Beat { .. } => 4,
            Self::Heartbeats(..) => 5,
            Self::HeartbeatAnswers(..) => 6,
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Raft(bytes) | Self::Word(bytes) => bytes.len(),
            Self::Propose { data, .. } => 16 + data.len(),
            Self::Refuse { .. } => 9,
            Self::Beat { .. } => 1,
            Self::Heartbeats(to, all) | Self::HeartbeatAnswers(to, all) => {
                encoded_len_varint(to.0) + all.iter().map(Heartbeat::length).sum::<usize>()
            }
        }
    }

    fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Raft(bytes) | Self::Word(bytes) => out.put_slice(bytes),
            Self::Propose { origin, token, data } => {
                out.put_u64(origin.0);
                out.put_u64(*token);
                out.put_slice(data);
            }
            Self::Refuse { token, reason } => {
                out.put_u64(*token);
                out.put_u8(match reason {
                    Rejection::NoLeader => 0,
                    Rejection::Overloaded => 1,
                    Rejection::TooLarge => 2,
                });
            }
            Self::Beat { may_lead } => out.put_u8(u8::from(*may_lead)),
            Self::Heartbeats(to, all) | Self::HeartbeatAnswers(to, all) => {
                encode_varint(to.0, out);
                for number in all.iter().flat_map(Heartbeat::numbers) {
                    encode_varint(number, out);
                }
            }
        }
    }
}

impl Heartbeat {
    fn numbers(&self) -> [u64; 3] {
        [self.group.0.into(), self.term.0, self.commit.0]
    }

    fn length(&self) -> usize {
        self.numbers().into_iter().map(encoded_len_varint).sum()
    }

    /// For whom they are, and at least one.
    fn decode_all(mut body: Bytes) -> Result<(NodeId, Vec<Self>), Malformed> {
        let to = NodeId(shortest_varint(&mut body)?);
        let mut all = Vec::with_capacity(body.len() / HEARTBEAT_BYTES_USUAL);
        loop {
            let group = GroupId(u32::try_from(shortest_varint(&mut body)?).map_err(|_| Malformed)?);
            let (term, commit) = (Term(shortest_varint(&mut body)?), Index(shortest_varint(&mut body)?));
            all.push(Self { group, term, commit });
            if !body.has_remaining() {
                return Ok((to, all));
            }
        }
    }
}

/// A frame has one form, so a number has one as well.
fn shortest_varint(body: &mut Bytes) -> Result<u64, Malformed> {
    let before = body.len();
    let number = decode_varint(body).map_err(|_| Malformed)?;
    (before - body.len() == encoded_len_varint(number)).then_some(number).ok_or(Malformed)
}

/// Reads a frame.
pub fn decode(bytes: &Bytes) -> Result<Vec<(GroupId, Item)>, Malformed> {
    let mut rest = bytes.clone();
    if rest.len() > FRAME_BYTES_MAX || rest.try_get_u8().map_err(|_| Malformed)? != VERSION {
        return Err(Malformed);
    }
    let mut items = Vec::new();
    while rest.has_remaining() {
        if rest.len() < ITEM_HEADER_BYTES {
            return Err(Malformed);
        }
        let group = GroupId(rest.get_u32());
        let kind = rest.get_u8();
        let length = rest.get_u32() as usize;
        if length > rest.len() {
            return Err(Malformed);
        }
        items.push((group, decode_item(kind, rest.split_to(length))?));
    }
    Ok(items)
}

fn decode_item(kind: u8, mut body: Bytes) -> Result<Item, Malformed> {
    Ok(match kind {
        0 => Item::Raft(body),
        1 if body.len() >= 16 => Item::Propose { origin: NodeId(body.get_u64()), token: body.get_u64(), data: body },
        2 if body.len() == 9 => Item::Refuse {
            token: body.get_u64(),
            reason: match body.get_u8() {
                0 => Rejection::NoLeader,
                1 => Rejection::Overloaded,
                2 => Rejection::TooLarge,
                _ => return Err(Malformed),
            },
        },
        3 => Item::Word(body),
        4 if body.len() == 1 && body[0] <= 1 => Item::Beat { may_lead: body[0] == 1 },
        5 => Heartbeat::decode_all(body).map(|(to, all)| Item::Heartbeats(to, all))?,
        6 => Heartbeat::decode_all(body).map(|(to, all)| Item::HeartbeatAnswers(to, all))?,
        _ => return Err(Malformed),
    })
}

/// Most bytes of a frame.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

const VERSION: u8 = 1;
const ITEM_HEADER_BYTES: usize = 9;

/// Most heartbeats in one item; they fit a frame with room to spare.
pub const HEARTBEATS_PER_ITEM_MAX: usize = 8192;

/// What a heartbeat takes of a group that is neither the first nor new.
const HEARTBEAT_BYTES_USUAL: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeats() -> Vec<Heartbeat> {
        let heartbeat =
            |group, term, commit| Heartbeat { group: GroupId(group), term: Term(term), commit: Index(commit) };
        vec![heartbeat(0, 1, 2), heartbeat(u32::MAX, u64::MAX, u64::MAX), heartbeat(300, 20, 1_000_000)]
    }

    fn items() -> Vec<(GroupId, Item)> {
        vec![
            (GroupId(0), Item::Raft(Bytes::from_static(b"raft"))),
            (GroupId(7), Item::Propose { origin: NodeId(2), token: 9, data: Bytes::from_static(b"data") }),
            (GroupId(7), Item::Refuse { token: 9, reason: Rejection::Overloaded }),
            (GroupId(1), Item::Word(Bytes::new())),
            (GroupId(0), Item::Beat { may_lead: true }),
            (GroupId(0), Item::Heartbeats(NodeId(3), heartbeats())),
            (GroupId(0), Item::HeartbeatAnswers(NodeId(300), heartbeats())),
        ]
    }

    fn frames(items: &[(GroupId, Item)]) -> Vec<Bytes> {
        let mut builder = FrameBuilder::default();
        for (group, item) in items {
            builder.add(*group, item);
        }
        builder.finish()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let made = frames(&items());
        assert_eq!(made.len(), 1);
        assert_eq!(decode(&made[0]), Ok(items()));
    }

    #[test]
    fn every_truncation_and_flip_is_refused_or_read_without_panic() {
        let whole = frames(&items()).remove(0);
        for end in 0..whole.len() {
            let cut = decode(&whole.slice(..end));
            assert!(cut.is_err() || cut.is_ok_and(|items| items.len() < 7), "cut at {end}");
        }
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.to_vec();
                bytes[place] ^= 1 << bit;
                drop(decode(&Bytes::from(bytes)));
            }
        }
    }

    #[test]
    fn heartbeats_have_one_form_and_the_most_of_them_fit_a_frame() {
        for bad in [&[][..], &[7], &[7, 1, 2], &[7, 0x80, 0, 1, 2], &[7, 0xff, 0xff, 0xff, 0xff, 0x10, 1, 2]] {
            assert_eq!(Heartbeat::decode_all(Bytes::copy_from_slice(bad)), Err(Malformed), "{bad:?}");
        }
        let most = Item::Heartbeats(NodeId(u64::MAX), vec![heartbeats()[1]; HEARTBEATS_PER_ITEM_MAX]);
        let made = frames(&[(GroupId(0), most.clone())]);
        assert_eq!(decode(&made[0]), Ok(vec![(GroupId(0), most)]));
    }

    #[test]
    fn large_rounds_become_several_frames() {
        let item = Item::Word(Bytes::from(vec![0; 600_000]));
        let made = frames(&[(GroupId(0), item.clone()), (GroupId(0), item.clone())]);
        assert_eq!(made.len(), 2);
        let mut builder = FrameBuilder::default();
        builder.add(GroupId(0), &Item::Word(Bytes::from(vec![0; FRAME_BYTES_MAX])));
        assert_eq!((builder.oversized(), builder.finish().len()), (1, 0));
    }
}
