//! What replicas tell each other beside the log: leases asked and granted, and requests to probe at once.
//!
//! Protobuf messages, one to a word. A word that makes no sense is dropped and counted.

use bytes::Bytes;
use flow::{BackendId, LogTime};
use prost::Message;

/// A word between replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// To the leader of a group: grant me a lease.
    LeaseAsk(LeaseAsk),
    /// From the leader of a group.
    LeaseGrant(LeaseGrant),
    /// A connect to this backend failed: everybody look at once.
    ProbeNow(BackendId),
    /// An operator wants this instance to stop.
    Stop,
}

/// This far I have applied (and shown to my readers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAsk {
    /// Of which life of its process the asker is; comes back with the grant.
    pub life: u64,
    /// The last index applied.
    pub applied: u64,
    /// The asker's clock when this left; comes back with the grant.
    pub asked_ms: u64,
}

/// The right to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// As asked: a later life of the asker's process, which may have applied less, is granted nothing.
    pub life: u64,
    /// As asked.
    pub asked_ms: u64,
    /// It ends so many milliseconds after `asked_ms`, by the asker's clock.
    pub lease_ms: u64,
    /// The leader's log time.
    pub log_time: LogTime,
}

impl Word {
    pub fn encode(self) -> Bytes {
        let message = match self {
            Self::LeaseAsk(LeaseAsk { life, applied, asked_ms }) => {
                WordMessage { ask: Some(Ask { applied, asked_ms, life }), ..WordMessage::default() }
            }
            Self::LeaseGrant(LeaseGrant { life, asked_ms, lease_ms, log_time }) => WordMessage {
                grant: Some(Grant { asked_ms, lease_ms, log_time: log_time.0, life }),
                ..WordMessage::default()
            },
            Self::ProbeNow(backend) => WordMessage { probe: Some(backend.0), ..WordMessage::default() },
            Self::Stop => WordMessage { stop: Some(true), ..WordMessage::default() },
        };
        message.encode_to_vec().into()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match WordMessage::decode(bytes).ok()? {
            WordMessage { ask: Some(Ask { applied, asked_ms, life }), .. } => {
                Some(Self::LeaseAsk(LeaseAsk { life, applied, asked_ms }))
            }
            WordMessage { grant: Some(Grant { asked_ms, lease_ms, log_time, life }), .. } => {
                Some(Self::LeaseGrant(LeaseGrant { life, asked_ms, lease_ms, log_time: LogTime(log_time) }))
            }
            WordMessage { probe: Some(backend), .. } => Some(Self::ProbeNow(BackendId(backend))),
            WordMessage { stop: Some(true), .. } => Some(Self::Stop),
            _ => None,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct WordMessage {
    #[prost(message, optional, tag = "1")]
    ask: Option<Ask>,
    #[prost(message, optional, tag = "2")]
    grant: Option<Grant>,
    #[prost(fixed64, optional, tag = "3")]
    probe: Option<u64>,
    #[prost(bool, optional, tag = "4")]
    stop: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct Ask {
    #[prost(uint64, tag = "1")]
    applied: u64,
    #[prost(uint64, tag = "2")]
    asked_ms: u64,
    #[prost(fixed64, tag = "3")]
    life: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Grant {
    #[prost(uint64, tag = "1")]
    asked_ms: u64,
    #[prost(uint64, tag = "2")]
    lease_ms: u64,
    #[prost(uint64, tag = "3")]
    log_time: u64,
    #[prost(fixed64, tag = "4")]
    life: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_went() {
        for word in [
            Word::LeaseAsk(LeaseAsk { life: 9, applied: 7, asked_ms: 1 }),
            Word::LeaseGrant(LeaseGrant { life: 9, asked_ms: 1, lease_ms: 1000, log_time: LogTime(5) }),
            Word::ProbeNow(BackendId(9)),
            Word::Stop,
        ] {
            assert_eq!(Word::decode(&word.encode()), Some(word));
        }
        assert_eq!(Word::decode(b""), None);
        assert_eq!(Word::decode(b"\xff\xff"), None);
    }
}
