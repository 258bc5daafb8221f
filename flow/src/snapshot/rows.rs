//! The rows of snapshots as protobuf messages; tags are never used again.

use prost::Message;

use crate::wire::{
    AddressMessage, BirthMessage, FlowRowMessage, OwnerMessage, PinRowMessage, PoolMessage, PoolTtlMessage,
    TuningMessage,
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct PinRow {
    #[prost(oneof = "PinKind", tags = "1, 2, 3, 4, 15")]
    pub row: Option<PinKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum PinKind {
    #[prost(message, tag = "1")]
    Head(PinHead),
    #[prost(message, tag = "2")]
    Pool(PoolTtlMessage),
    #[prost(message, tag = "3")]
    Backend(BackendRow),
    #[prost(message, tag = "4")]
    Pin(PinRowMessage),
    /// The last row: how many there are before it.
    #[prost(uint64, tag = "15")]
    End(u64),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PinHead {
    #[prost(uint64, tag = "1")]
    pub applied: u64,
    #[prost(uint64, tag = "2")]
    pub time: u64,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    #[prost(uint64, tag = "4")]
    pub last_move: u64,
    #[prost(uint64, tag = "5")]
    pub settled: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BackendRow {
    #[prost(fixed64, tag = "1")]
    pub backend: u64,
    #[prost(uint32, tag = "2")]
    pub standing: u32,
    #[prost(uint64, tag = "3")]
    pub since: u64,
    #[prost(uint64, tag = "4")]
    pub pins: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ControlRow {
    #[prost(oneof = "ControlKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15")]
    pub row: Option<ControlKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum ControlKind {
    #[prost(message, tag = "1")]
    Head(ControlHead),
    #[prost(message, tag = "2")]
    Birth(BirthMessage),
    #[prost(message, tag = "3")]
    Member(MemberRow),
    #[prost(message, tag = "4")]
    Departed(MemberRow),
    #[prost(message, tag = "5")]
    Pool(PoolRow),
    #[prost(message, tag = "6")]
    Verdict(VerdictRow),
    #[prost(message, tag = "7")]
    Vote(VoteRow),
    #[prost(message, tag = "8")]
    Kv(KvRow),
    #[prost(message, tag = "9")]
    Session(SessionRow),
    /// An outcome of the session before it.
    #[prost(message, tag = "10")]
    Outcome(OutcomeRow),
    #[prost(message, tag = "11")]
    Tuning(TuningMessage),
    /// The last row: how many there are before it.
    #[prost(uint64, tag = "15")]
    End(u64),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ControlHead {
    #[prost(uint64, tag = "1")]
    pub applied: u64,
    #[prost(uint64, tag = "2")]
    pub time: u64,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    #[prost(uint64, tag = "4")]
    pub next_instance: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MemberRow {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(message, optional, tag = "2")]
    pub address: Option<AddressMessage>,
    #[prost(fixed64, optional, tag = "3")]
    pub incarnation: Option<u64>,
    #[prost(bool, tag = "4")]
    pub voter: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PoolRow {
    #[prost(message, optional, tag = "1")]
    pub spec: Option<PoolMessage>,
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VerdictRow {
    #[prost(fixed64, tag = "1")]
    pub backend: u64,
    #[prost(uint32, tag = "2")]
    pub view: u32,
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VoteRow {
    #[prost(fixed64, tag = "1")]
    pub backend: u64,
    #[prost(uint64, tag = "2")]
    pub voter: u64,
    #[prost(uint32, tag = "3")]
    pub view: u32,
    #[prost(fixed64, tag = "4")]
    pub incarnation: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KvRow {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionRow {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub used: u64,
    #[prost(uint64, tag = "3")]
    pub answered_below: u64,
    #[prost(message, optional, tag = "4")]
    pub owner: Option<OwnerMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OutcomeRow {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// 0: done, 1: conflict, 2: invalid.
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    #[prost(uint64, tag = "4")]
    pub revision: u64,
    #[prost(uint64, tag = "5")]
    pub epoch: u64,
    #[prost(string, tag = "6")]
    pub text: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FlowRow {
    #[prost(oneof = "FlowKind", tags = "1, 2, 3, 4, 15")]
    pub row: Option<FlowKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum FlowKind {
    #[prost(message, tag = "1")]
    Head(FlowHead),
    #[prost(message, tag = "2")]
    Sniffer(SnifferRow),
    #[prost(message, tag = "3")]
    Departure(DepartureRow),
    #[prost(message, boxed, tag = "4")]
    Flow(Box<FlowRowMessage>),
    /// The last row: how many there are before it.
    #[prost(uint64, tag = "15")]
    End(u64),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FlowHead {
    #[prost(uint64, tag = "1")]
    pub applied: u64,
    #[prost(uint64, tag = "2")]
    pub time: u64,
    #[prost(uint64, tag = "3")]
    pub forgotten: u64,
    #[prost(uint64, tag = "4")]
    pub left: u64,
    #[prost(uint64, tag = "5")]
    pub begun: u64,
    #[prost(uint64, tag = "6")]
    pub expired: u64,
    #[prost(uint64, tag = "7")]
    pub evicted: u64,
    #[prost(uint64, tag = "8")]
    pub again: u64,
    #[prost(uint64, tag = "9")]
    pub unplaced: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SnifferRow {
    #[prost(fixed64, tag = "1")]
    pub sniffer: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    #[prost(uint64, tag = "4")]
    pub at: u64,
    #[prost(string, tag = "5")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DepartureRow {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(fixed64, tag = "2")]
    pub flow: u64,
}
